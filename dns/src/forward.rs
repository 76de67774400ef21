//! Forwarding: questions about names outside our zones, to an upstream that knows them.
//!
//! Each data thread has a [`Forwarder`] of its own and runs it on its own runtime: the thread that
//! received a question decides about it, asks, and replies. Threads share the cache, the questions
//! that are being asked, the upstreams, and the quota of clients.

pub(crate) mod cache_metrics;
pub(crate) mod connect;
pub(crate) mod decide;
mod exchange;
pub(crate) mod flights;
pub(crate) mod health;
pub(crate) mod loops;
mod once;
mod packet;
mod plan;
pub(crate) mod probe;
pub(crate) mod question;
mod race;
pub(crate) mod rebuild;
pub(crate) mod resolv_conf;
pub(crate) mod routes;
pub(crate) mod server;
pub(crate) mod server_metrics;
mod stream;
mod tasks;
pub(crate) mod upstreams;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use daemon::quota::{self, QuotaPermit};
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

use crate::cache::stored::{Age, Stored};
use crate::cache::{Failure, Found, Served};
use crate::metrics::Counters;
use crate::wire::Rcode;
use crate::wire::options::ExtendedError;

use decide::{Client, Decision, Outside};
use flights::Part;
use question::{Key, Question};
use race::{Asked, Asker, Cause, Failed};
use server::Group;
use tasks::Tasks;
use upstreams::{Forwarding, Learnt};

/// How long a client waits before it gets a stale answer (RFC 8767 section 5).
const STALE_WAIT: Duration = Duration::from_millis(1800);

pub(crate) use race::Sockets;
/// Connections that one data thread keeps to all upstreams together, beside the sockets in use.
pub(crate) use stream::MAX_STREAMS;

/// Replies to a client.
pub(crate) type Deliver = Box<dyn FnOnce(Served<'_>)>;

/// Asks upstreams for one data thread. `clone` shares it.
#[derive(Clone, Debug)]
pub(crate) struct Forwarder(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Forwarding>,
    counters: Arc<Counters>,
    tasks: Tasks,
    outside: RefCell<Outside<Waiter, QuotaPermit>>,
    asker: Asker,
}

struct Waiter(Deliver);

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiter")
    }
}

impl Forwarder {
    /// For a data thread whose tasks run on `tasks`.
    pub(crate) fn new(
        shared: Arc<Forwarding>,
        counters: Arc<Counters>,
        tasks: Rc<LocalSet>,
        sockets: Sockets,
    ) -> Forwarder {
        let tasks = Tasks::new(tasks);
        let tls = shared.tls.as_deref().map(connect::for_thread);
        let (limit, health) = (shared.try_timeout, shared.health.clone());
        Forwarder(Rc::new(Inner {
            shared,
            counters,
            asker: Asker::new(tasks.clone(), tls, sockets, limit, health),
            tasks,
            outside: RefCell::new(Outside::new()),
        }))
    }

    /// Decides about a question of a client to a group of upstreams.
    #[inline]
    pub(crate) fn decide(
        &self,
        group: usize,
        key: &Key,
        address: SocketAddr,
    ) -> Decision<QuotaPermit> {
        let Inner { shared, outside, counters, .. } = &*self.0;
        let upstreams = shared.group_at(group);
        if upstreams.servers.is_empty() {
            return Decision::NoUpstream;
        }
        let now = Instant::now().into_std();
        let found = shared.look_up(key, &upstreams, now);
        let client = Client {
            address,
            is_allowed: shared.allow.iter().any(|net| net.contains(&address.ip())),
            is_loop: upstreams.is_loop(address.ip()),
        };
        let admit = || shared.quota.admit(quota::Client::of(address.ip())).ok();
        let decision = outside.borrow().decide(key, found, client, upstreams.is_down(), admit);
        counters.decided(&decision);
        match &decision {
            Decision::Busy => drop(shared.metrics.forwards_refused.inc()),
            // Until upstreams have failed again, others get it without a place for each.
            Decision::Answer { age: Age::Stale, refresh: Some(_), .. } => {
                shared.cache.defer(key.clone().cached().octets(), now);
            }
            // Its own question may have come back to us.
            Decision::Join { same_client: false, .. } => shared.probes.suspect(),
            Decision::Ask(_) if upstreams.has_address(address.ip()) => shared.probes.suspect(),
            _ => {}
        }
        decision
    }

    /// Makes a query wait for the answer to its question, and asks upstreams unless the question is
    /// already in flight.
    pub(crate) fn wait(
        &self,
        key: &Key,
        client: SocketAddr,
        permit: Option<QuotaPermit>,
        deliver: Deliver,
    ) {
        let question = Question::of(key);
        let waiter = Waiter(deliver);
        if self.0.outside.borrow_mut().wait(&question, client, permit, waiter) {
            let forwarder = self.clone();
            self.0.tasks.spawn(async move { forwarder.answer(&question).await });
        }
    }

    /// Asks upstreams although the cache has an answer, for the next client.
    pub(crate) fn refresh(&self, key: &Key, permit: QuotaPermit) {
        // Also if the client wants no recursion.
        let question = Question::of(&key.clone().cached());
        let forwarder = self.clone();
        self.0.tasks.spawn(async move {
            // Nothing changes if it fails.
            let _ = forwarder.learn(&question).await;
            drop(permit);
        });
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

    /// Asks upstreams and replies to all waiting clients. If there is a stale answer, they get that
    /// when upstreams are slow or fail.
    async fn answer(&self, question: &Question) {
        let stale = self.0.shared.stale(question);
        let mut learn = std::pin::pin!(self.learn(question));
        let learnt = match &stale {
            None => learn.await,
            Some(stale) => match timeout(STALE_WAIT, &mut learn).await {
                Ok(learnt) => learnt,
                Err(_) => {
                    self.0.shared.cache.defer(question.key(), Instant::now().into_std());
                    self.reply(question, Served::Answer(stale, Age::Stale));
                    // For the clients after these.
                    drop(learn.await);
                    return;
                }
            },
        };
        match (&learnt, &stale) {
            (Ok(answer), _) => self.reply(question, Served::Answer(answer, Age::Fresh(0))),
            (Err(_), Some(stale)) => self.reply(question, Served::Answer(stale, Age::Stale)),
            (Err(failure), None) => self.reply(question, Served::Failure(failure)),
        }
    }

    /// Replies to all clients that wait for the answer to a question.
    fn reply(&self, question: &Question, served: Served<'_>) {
        let waiters = self.0.outside.borrow_mut().finish(question);
        self.0.counters.served(served, waiters.len());
        for Waiter(deliver) in waiters {
            deliver(served);
        }
    }

    /// Learns the answer to a question from upstreams, or from the thread that asks them already.
    async fn learn(&self, question: &Question) -> Learnt {
        let Inner { shared, .. } = &*self.0;
        let begun = Instant::now().into_std();
        loop {
            match shared.flights.join(question) {
                Part::Lead(lead) => {
                    // Another thread may have learnt it since the look-up.
                    let learnt = match shared.learnt_since(question, begun) {
                        Some(answer) => Ok(answer),
                        None => self.ask_and_keep(question).await,
                    };
                    lead.finish(&learnt);
                    return learnt;
                }
                Part::Follow(learnt) => match learnt.await {
                    Ok(learnt) => return learnt,
                    // That thread gave up.
                    Err(_) => continue,
                },
            }
        }
    }

    async fn ask_and_keep(&self, question: &Question) -> Learnt {
        let Inner { shared, counters, .. } = &*self.0;
        let begun = Instant::now();
        let group = shared.group(&question.to_name());
        let learnt = self.ask(&group, question).await;
        let now = Instant::now();
        match &learnt {
            Ok(answer) => {
                counters.forwarded(now - begun);
                // A part of an answer must not take the place of a whole one.
                if question.is_recursive() && !answer.is_partial {
                    shared.cache.put(question.key(), answer, now.into_std());
                }
            }
            Err(failure) => {
                shared.cache.put_failure(question.key(), failure, group.version, now.into_std());
            }
        }
        learnt
    }

    async fn ask(&self, group: &Group, question: &Question) -> Learnt {
        match self.0.asker.ask(group, question).await {
            Asked::Answered(answer) => Ok(Arc::new(answer)),
            Asked::Failed(Failed { refusal: Some(refusal), .. }) => {
                // FORMERR, NOTIMP and BADVERS are about the upstream's own shortcomings.
                let is_passed_on = [Rcode::SERVFAIL, Rcode::REFUSED].contains(&refusal.rcode);
                let rcode = if is_passed_on { refusal.rcode } else { Rcode::SERVFAIL };
                Err(Failure { rcode, error: refusal.error })
            }
            Asked::Failed(Failed { cause, .. }) => Err(silence(cause)),
        }
    }
}

impl Forwarding {
    /// What the cache knows about a client's question.
    #[inline]
    fn look_up(&self, key: &Key, upstreams: &Group, now: std::time::Instant) -> Found {
        let look_up = |key: &Key| self.cache.look_up(key.octets(), upstreams.version, now);
        if !key.is_iterative() {
            return look_up(key);
        }
        match look_up(&key.clone().cached()) {
            // A client that wants no recursion has failures of its own.
            Found::Nothing => look_up(key),
            found => found,
        }
    }

    /// A stale answer to a question.
    fn stale(&self, question: &Question) -> Option<Arc<Stored>> {
        let shown = self.cache.peek(&question.cached_key(), 0, Instant::now().into_std())?;
        shown.answer.map(|(answer, ..)| answer)
    }

    /// An answer that was cached after this time.
    fn learnt_since(&self, question: &Question, begun: std::time::Instant) -> Option<Arc<Stored>> {
        let now = Instant::now().into_std();
        let (answer, age, _) = self.cache.peek(question.key(), 0, now)?.answer?;
        (age < now.saturating_duration_since(begun)).then_some(answer)
    }
}

/// The failure when no upstream gave an answer.
fn silence(cause: Cause) -> Failure {
    let code = match cause {
        Cause::Unreachable => ExtendedError::NETWORK,
        Cause::Silent | Cause::Loop | Cause::Malformed | Cause::Refused => {
            ExtendedError::NO_REACHABLE_AUTHORITY
        }
    };
    Failure { rcode: Rcode::SERVFAIL, error: Some(ExtendedError::of(code)) }
}
