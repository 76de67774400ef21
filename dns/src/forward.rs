//! Forwarding: questions about names outside our zones, to an upstream that knows them.
//!
//! Each data thread has a [`Forwarder`] of its own and runs it on its own runtime: the thread that
//! received a question decides about it, asks, and replies. Threads share the list of upstreams
//! and the quota of clients, without a lock. Left out on purpose: a cache, whose place is in
//! [`decide`], and the choice of upstreams by their health.

pub(crate) mod decide;
mod exchange;
mod failures;
pub(crate) mod loops;
pub(crate) mod probe;
pub(crate) mod question;
pub(crate) mod relay;
pub(crate) mod resolv_conf;
pub(crate) mod routes;
pub(crate) mod upstreams;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use daemon::quota::{self, QuotaPermit};
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use crate::metrics::Counters;
use crate::respond::{Alias, MIN_BUFFER, Outcome, Policy, error};
use crate::wire::reply::Transport;
use crate::wire::{Query, Rcode, flag, u16_at};

use decide::{Client, Decision, Outside};
use exchange::{Failed, IDLE_TIMEOUT, MAX_IDLE_CONNECTIONS, Pools};
use question::Question;
use relay::Answer;
use upstreams::Forwarding;

/// A lost datagram is sent again, to the next upstream if there is one.
const MIN_TRIES: usize = 2;
/// A client's resolver gives up after 5 s; an answer must come before that.
const DEADLINE: Duration = Duration::from_millis(4500);

/// Idle sockets that one data thread keeps, to all upstreams together, as a rule: the system's
/// resolver has up to three.
pub(crate) const MAX_IDLE_SOCKETS: usize = 3 * MAX_IDLE_CONNECTIONS;

/// Asks upstreams for one data thread. `clone` shares it.
#[derive(Clone, Debug)]
pub(crate) struct Forwarder(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Forwarding>,
    counters: Arc<Counters>,
    tasks: Rc<LocalSet>,
    outside: RefCell<Outside<Waiter>>,
    pools: Pools,
    /// The version of the upstreams that the failures belong to.
    version: Cell<u64>,
    /// A task runs that closes idle connections.
    closes_idle: Cell<bool>,
    /// Tasks that have not ended.
    active: Cell<usize>,
    ended: Notify,
}

/// A client's query that waits for the answer to a question.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) question: Question,
    pub(crate) client: SocketAddr,
    pub(crate) query: Box<Query>,
    /// The client's packet, up to the end of its question.
    pub(crate) head: Vec<u8>,
    pub(crate) transport: Transport,
    pub(crate) alias: Option<Box<Alias>>,
    pub(crate) permit: QuotaPermit,
}

/// Sends a reply to a client.
pub(crate) type Deliver = Box<dyn FnOnce(Vec<u8>)>;

struct Waiter {
    pending: Pending,
    deliver: Deliver,
}

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.pending.fmt(f)
    }
}

/// The result of asking all upstreams.
enum Asked {
    /// An answer, which may be incomplete.
    Answered(Vec<u8>),
    /// No answer; or an upstream's refusal, to be passed on.
    Failed(Option<Vec<u8>>),
}

impl Forwarder {
    /// For a data thread whose tasks run on `tasks`, with at most `max_sockets` in use.
    pub(crate) fn new(
        shared: Arc<Forwarding>,
        counters: Arc<Counters>,
        tasks: Rc<LocalSet>,
        max_sockets: usize,
    ) -> Forwarder {
        Forwarder(Rc::new(Inner {
            version: Cell::new(shared.upstreams.load().version),
            shared,
            counters,
            tasks,
            outside: RefCell::new(Outside::new()),
            pools: Pools::new(max_sockets),
            closes_idle: Cell::new(false),
            active: Cell::new(0),
            ended: Notify::new(),
        }))
    }

    /// Decides about a question of a client.
    pub(crate) fn decide(&self, question: &Question, address: SocketAddr) -> Decision<QuotaPermit> {
        let Inner { shared, outside, version, .. } = &*self.0;
        let upstreams = shared.upstreams.load();
        if upstreams.group(shared.routes.group_of(&question.name())).is_empty() {
            return Decision::Refuse;
        }
        if version.replace(upstreams.version) != upstreams.version {
            outside.borrow_mut().forget_failures();
        }
        let client = Client {
            address,
            is_allowed: shared.allow.iter().any(|net| net.contains(&address.ip())),
            is_loop: upstreams.loops.iter().any(|upstream| upstream.ip() == address.ip()),
        };
        let admit = || shared.quota.admit(quota::Client::of(address.ip())).ok();
        let now = Instant::now().into_std();
        let decision = outside.borrow().decide(question, client, now, admit);
        match &decision {
            Decision::Busy => drop(shared.metrics.forwards_refused.inc()),
            Decision::FailAgain(_) | Decision::BreakLoop => self.0.counters.failed_again(),
            // Its own question may have come back to us.
            Decision::Join { same_client: false, .. } => shared.probes.suspect(),
            Decision::Ask(_) if upstreams.has_address(address.ip()) => shared.probes.suspect(),
            _ => {}
        }
        decision
    }

    /// Makes a query wait for the answer to its question, and asks upstreams unless the question is
    /// already in flight.
    pub(crate) fn wait(&self, pending: Pending, deliver: Deliver) {
        let (question, client) = (pending.question.clone(), pending.client);
        let waiter = Waiter { pending, deliver };
        if self.0.outside.borrow_mut().wait(&question, client, waiter) {
            let (forwarder, active) = (self.clone(), Active::new(self));
            self.0.tasks.spawn_local(async move {
                forwarder.answer(question).await;
                drop(active);
            });
        } else {
            self.0.counters.joined();
        }
    }

    /// Whether nothing has to be waited for.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.active.get() == 0
    }

    /// Resolves once nothing has to be waited for. For one caller at a time.
    pub(crate) async fn idle(&self) {
        while !self.is_idle() {
            self.0.ended.notified().await;
        }
    }

    /// Resolves once all questions are answered, for the drain. For one caller at a time.
    pub(crate) async fn answered(&self) {
        while !self.0.outside.borrow().is_empty() {
            self.0.ended.notified().await;
        }
    }

    /// Asks upstreams and replies to all waiting clients.
    async fn answer(&self, question: Question) {
        let Inner { counters, outside, .. } = &*self.0;
        let begun = Instant::now();
        let asked = self.ask(&question).await;
        let message = match &asked {
            Asked::Answered(message) => Some(message),
            Asked::Failed(refusal) => refusal.as_ref(),
        };
        if message.is_some() {
            counters.forwarded(begun.elapsed());
        }
        let answer = message.and_then(|message| Answer::read(message));
        let rcode = answer.as_ref().map_or(Rcode::SERVFAIL, |answer| answer.rcode);
        let failed = matches!(asked, Asked::Failed(_)).then_some(rcode);
        let now = Instant::now().into_std();
        let waiters = outside.borrow_mut().finish(&question, failed, now);
        for Waiter { pending, deliver } in waiters {
            let qtype = pending.query.qtype;
            let transport = pending.transport;
            if message.is_none() {
                counters.forward_failed();
            }
            let (reply, rcode) = pending.reply(answer.as_ref());
            counters.replied(transport, Some(qtype), rcode);
            deliver(reply);
        }
        if self.0.pools.has_idle() && !self.0.closes_idle.replace(true) {
            self.close_idle_later();
        }
    }

    /// Upstreams are tried in their order.
    async fn ask(&self, question: &Question) -> Asked {
        let deadline = Instant::now() + DEADLINE;
        let Inner { shared, pools, .. } = &*self.0;
        let upstreams = shared.upstreams.load_full();
        let (mut refusal, mut partial) = (None, None);
        let servers = upstreams.group(shared.routes.group_of(&question.name()));
        let count = servers.len();
        let tries = servers.iter().cycle().take(count.max(MIN_TRIES));
        for (number, upstream) in tries.enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let is_replied = refusal.is_some() || partial.is_some();
            if left.is_zero() || is_replied && number >= count {
                break;
            }
            let limit = left.min(shared.try_timeout);
            let reply = timeout(limit, pools.ask(*upstream, question)).await;
            let error = match reply.unwrap_or(Err(Failed::TimedOut)) {
                Ok(message) if is_refusal(&message) => {
                    refusal.get_or_insert(message);
                    Failed::Refused
                }
                Ok(message) if relay::is_truncated(&message) => {
                    partial.get_or_insert(message);
                    Failed::Incomplete
                }
                Ok(message) => return Asked::Answered(message),
                Err(error) => error,
            };
            tracing::debug!(%upstream, %error, "forwarding");
        }
        partial.map_or(Asked::Failed(refusal), Asked::Answered)
    }

    /// Makes sure that idle connections are closed: a data thread without questions in flight does
    /// not run its tasks, so this counts as one.
    fn close_idle_later(&self) {
        let (forwarder, active) = (self.clone(), Active::new(self));
        self.0.tasks.spawn_local(async move {
            loop {
                sleep(IDLE_TIMEOUT).await;
                let upstreams = forwarder.0.shared.upstreams.load_full();
                let servers: Vec<_> = upstreams.all().collect();
                if !forwarder.0.pools.close_idle(&servers) {
                    break;
                }
            }
            forwarder.0.closes_idle.set(false);
            drop(active);
        });
    }
}

/// Counts a task for as long as it runs.
struct Active(Forwarder);

impl Active {
    fn new(forwarder: &Forwarder) -> Active {
        let inner = &forwarder.0;
        inner.active.set(inner.active.get() + 1);
        Active(forwarder.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let inner = &self.0.0;
        inner.active.set(inner.active.get() - 1);
        inner.ended.notify_one();
    }
}

impl Pending {
    /// The reply to the client, and its code; SERVFAIL if there is no answer.
    fn reply(self, answer: Option<&Answer<'_>>) -> (Vec<u8>, Rcode) {
        let Pending { query, head, transport, alias, permit: _permit, .. } = self;
        // Over TCP there is no way to say that an answer is incomplete.
        let answer = answer.filter(|a| transport == Transport::Udp || !a.is_truncated());
        let rcode = answer.map_or(Rcode::SERVFAIL, |answer| answer.rcode);
        let bytes = match (alias, answer) {
            (None, Some(answer)) => answer.relay(&query, &head, transport),
            (None, None) => failure(&query, head, transport, rcode),
            (Some(alias), answer) => {
                let mut reply = alias.reply;
                let len = match answer {
                    Some(answer) => answer.continue_alias(&mut reply),
                    None => reply.attach().finish(rcode),
                };
                reply.into_bytes(len)
            }
        };
        (bytes, rcode)
    }
}

/// A reply of a code alone. `head` is the client's packet up to the end of its question.
fn failure(query: &Query, mut head: Vec<u8>, transport: Transport, rcode: Rcode) -> Vec<u8> {
    head.resize(head.len().max(MIN_BUFFER), 0);
    let policy = Policy { forwards: true, tells_version: false };
    if let Outcome::Reply(len, _) = error(policy, query, &mut head, transport, rcode) {
        head.truncate(len);
    }
    head
}

fn is_refusal(message: &[u8]) -> bool {
    let rcode = u16_at(message, 2).unwrap_or_default() & flag::RCODE;
    rcode == Rcode::SERVFAIL.0 || rcode == Rcode::REFUSED.0
}
