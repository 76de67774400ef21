//! Forwarding: questions about names outside our zones, to an upstream that knows them.
//!
//! Each data thread has a [`Forwarder`] of its own and runs it on its own runtime: the thread that
//! received a question decides about it, asks, and replies. Threads share the list of upstreams
//! and the quota of clients, without a lock. Left out on purpose: a cache, whose place is in
//! [`decide`].

pub(crate) mod connect;
pub(crate) mod decide;
mod exchange;
mod failures;
pub(crate) mod health;
pub(crate) mod loops;
mod once;
mod packet;
mod plan;
pub(crate) mod probe;
pub(crate) mod question;
mod race;
pub(crate) mod relay;
pub(crate) mod resolv_conf;
pub(crate) mod server;
pub(crate) mod server_metrics;
mod stream;
mod tasks;
pub(crate) mod upstreams;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use daemon::quota::{self, QuotaPermit};
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::metrics::Counters;
use crate::respond::{Alias, MIN_BUFFER, Outcome, Policy, error};
use crate::wire::reply::Transport;
use crate::wire::{Query, Rcode};

use decide::{Client, Decision, Outside};
use question::Question;
use race::{Asked, Asker};
use relay::Answer;
use tasks::Tasks;
use upstreams::Forwarding;

/// Connections that one data thread keeps to all upstreams together, beside the sockets in use.
pub(crate) use stream::MAX_STREAMS;

/// Asks upstreams for one data thread. `clone` shares it.
#[derive(Clone, Debug)]
pub(crate) struct Forwarder(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Forwarding>,
    counters: Arc<Counters>,
    tasks: Tasks,
    outside: RefCell<Outside<Waiter>>,
    asker: Asker,
    /// The version of the upstreams that the failures belong to.
    version: Cell<u64>,
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

impl Forwarder {
    /// For a data thread whose tasks run on `tasks`, with at most `max_sockets` in use.
    pub(crate) fn new(
        shared: Arc<Forwarding>,
        counters: Arc<Counters>,
        tasks: Rc<LocalSet>,
        max_sockets: usize,
    ) -> Forwarder {
        let tasks = Tasks::new(tasks);
        let tls = shared.tls.as_deref().map(connect::for_thread);
        let (limit, health) = (shared.try_timeout, shared.health.clone());
        Forwarder(Rc::new(Inner {
            version: Cell::new(shared.upstreams.load().version),
            shared,
            counters,
            asker: Asker::new(tasks.clone(), tls, max_sockets, limit, health),
            tasks,
            outside: RefCell::new(Outside::new()),
        }))
    }

    /// Decides about a question of a client.
    pub(crate) fn decide(&self, question: &Question, address: SocketAddr) -> Decision<QuotaPermit> {
        let Inner { shared, outside, version, .. } = &*self.0;
        let upstreams = shared.upstreams.load();
        if version.replace(upstreams.version) != upstreams.version {
            outside.borrow_mut().forget_failures();
        }
        let client = Client {
            address,
            is_allowed: shared.allow.iter().any(|net| net.contains(&address.ip())),
            is_loop: upstreams.is_loop(address.ip()),
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
            let forwarder = self.clone();
            self.0.tasks.spawn(async move { forwarder.answer(question).await });
        } else {
            self.0.counters.joined();
        }
    }

    /// Whether nothing has to be waited for.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.tasks.is_idle()
    }

    /// Resolves once nothing has to be waited for. For one caller at a time.
    pub(crate) async fn idle(&self) {
        while !self.is_idle() {
            self.0.tasks.ended().await;
        }
    }

    /// Resolves once all questions are answered, for the drain. For one caller at a time.
    pub(crate) async fn answered(&self) {
        while !self.0.outside.borrow().is_empty() {
            self.0.tasks.ended().await;
        }
    }

    /// Asks upstreams and replies to all waiting clients.
    async fn answer(&self, question: Question) {
        let Inner { counters, outside, .. } = &*self.0;
        let begun = Instant::now();
        let group = self.0.shared.upstreams.load_full();
        let asked = self.0.asker.ask(&group, &question).await;
        let message = match &asked {
            Asked::Answered(message) => Some(message),
            Asked::Failed(failed) => failed.refusal.as_ref(),
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
