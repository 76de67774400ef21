//! Asks the servers of a group one question, until one answers.
//!
//! [`super::plan`] says whom to ask and when; each server is asked by a task of its own. A server
//! that is overtaken by another may still answer until its time is over, so that its round trip
//! and its silence are known; the number of such tasks is bounded.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustls::ClientConfig;
use smallvec::SmallVec;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::cache::stored::Stored;
use crate::wire::Rcode;

use super::exchange::{Exchange, Reply, ReplyKind};
use super::plan::{DEADLINE, Plan, Step};
use super::question::Question;
use super::server::{Group, Reason, Server};
use super::tasks::Tasks;

/// Overtaken servers that are waited for, and the share of the sockets for them.
const MAX_LATE: usize = 64;
const LATE_SHARE: usize = 4;
/// The share of the sockets that is left to questions that nobody is being asked: names that
/// no server answers use several sockets each.
const FIRST_SHARE: usize = 4;

/// The sockets for UDP that all data threads may use, or connections instead.
#[derive(Clone, Debug)]
pub(crate) struct Sockets {
    /// A permit for each server that is being asked.
    room: Arc<Semaphore>,
    late: Arc<Semaphore>,
    total: usize,
}

impl Sockets {
    /// So many at a time.
    pub(crate) fn new(total: usize) -> Sockets {
        let total = total.clamp(1, Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(total));
        let late = Arc::new(Semaphore::new(MAX_LATE.min(total / LATE_SHARE)));
        Sockets { room, late, total }
    }

    /// A permit to ask; for a question that nobody is being asked it is worth waiting.
    async fn room(&self, is_first: bool, deadline: Instant) -> Option<OwnedSemaphorePermit> {
        let room = self.room.clone();
        if is_first {
            return timeout_at(deadline, room.acquire_owned()).await.ok()?.ok();
        }
        let is_free = room.available_permits() > self.total / FIRST_SHARE;
        is_free.then(|| room.try_acquire_owned().ok())?
    }
}

/// The result of asking the servers of a group.
#[derive(Debug, PartialEq)]
pub(crate) enum Asked {
    /// An answer, which may be incomplete.
    Answered(Stored),
    Failed(Failed),
}

/// There is no answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Failed {
    /// A server's refusal, to be passed on.
    pub(crate) refusal: Option<Stored>,
    pub(crate) cause: Cause,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A server refused, or answered SERVFAIL.
    Refused,
    /// A server's reply was malformed.
    Malformed,
    /// No server could be reached.
    Unreachable,
    /// No server answered in time.
    Silent,
    /// Every server forwards to us what we forward to it.
    Loop,
}

/// Asks upstream servers, for one data thread.
#[derive(Debug)]
pub(crate) struct Asker {
    exchange: Rc<Exchange>,
    race: Race,
}

/// How servers are asked, whatever they are.
#[derive(Clone, Debug)]
pub(crate) struct Race {
    tasks: Tasks,
    /// How long a server may be silent.
    limit: Duration,
    sockets: Sockets,
    /// Told when a server goes down or comes back.
    health: Arc<Notify>,
}

impl Asker {
    /// `limit` is the time that a server may be silent. `health` is told when a server goes down or
    /// comes back.
    pub(crate) fn new(
        tasks: Tasks,
        tls: Option<Arc<ClientConfig>>,
        sockets: Sockets,
        limit: Duration,
        health: Arc<Notify>,
    ) -> Asker {
        let exchange = Rc::new(Exchange::new(tasks.clone(), tls));
        Asker { exchange, race: Race::new(tasks, sockets, limit, health) }
    }

    /// Asks the servers of a group.
    pub(crate) async fn ask(&self, group: &Group, question: &Question) -> Asked {
        let ask = |server: Arc<Server>, limit, again| {
            let (exchange, question) = (self.exchange.clone(), question.clone());
            async move { exchange.ask(&server, &question, limit, again).await }
        };
        self.race.run(group, rand::random(), ask).await
    }
}

/// A server that is being asked.
struct Runner {
    /// Which try of the question it is.
    number: usize,
    server: usize,
    since: Instant,
    task: AbortHandle,
    /// Set when the server was overtaken.
    late: LateCell,
}

/// Holds the permit of a server that was overtaken, while its answer is awaited.
type LateCell = Rc<Cell<Option<OwnedSemaphorePermit>>>;

/// What came of one server.
struct Report {
    number: usize,
    server: usize,
    result: Result<Reply, Reason>,
}

impl Race {
    pub(crate) fn new(
        tasks: Tasks,
        sockets: Sockets,
        limit: Duration,
        health: Arc<Notify>,
    ) -> Race {
        Race { tasks, limit: limit.min(DEADLINE), sockets, health }
    }

    /// Asks the servers by `ask`, which gets the time it has, and whether the server was asked
    /// before. `chance` is any number.
    pub(crate) async fn run<F>(
        &self,
        group: &Group,
        chance: u32,
        ask: impl Fn(Arc<Server>, Duration, bool) -> F,
    ) -> Asked
    where
        F: Future<Output = Result<Reply, Reason>> + 'static,
    {
        let servers = &group.servers;
        let mut plan = Plan::new(group, chance, Instant::now().into_std());
        let deadline = Instant::from_std(plan.deadline());
        let mut best = Best::default();
        let mut runners: SmallVec<[Runner; 4]> = SmallVec::new();
        let (sender, mut reports) = mpsc::unbounded_channel();
        let mut number = 0;
        loop {
            let until = match plan.step(Instant::now().into_std()) {
                Step::End => break,
                Step::Wait(until) => Instant::from_std(until),
                Step::Ask(server) => {
                    let Some(room) = self.sockets.room(runners.is_empty(), deadline).await else {
                        plan.postpone(Instant::now().into_std());
                        continue;
                    };
                    if let Some(last) = runners.last() {
                        servers[last.server].counters.hedged.fetch_add(1, Relaxed);
                    }
                    let again = plan.asked(Instant::now().into_std());
                    let asked = ask(servers[server].clone(), self.limit, again);
                    let sender = sender.clone();
                    let report = move |result| drop(sender.send(Report { number, server, result }));
                    let (task, late) = self.start(&servers[server], room, asked, report);
                    let since = Instant::now();
                    runners.push(Runner { number, server, since, task, late });
                    number += 1;
                    continue;
                }
            };
            let report = tokio::select! {
                biased;
                Some(report) = reports.recv() => report,
                () = sleep_until(until) => continue,
            };
            if let Some(at) = runners.iter().position(|r| r.number == report.number) {
                runners.remove(at);
            }
            let has_replied = report.result.is_ok();
            if let Some(answer) = best.take(report.result) {
                self.leave(servers, runners, true);
                return Asked::Answered(answer);
            }
            plan.failed(report.server, has_replied, Instant::now().into_std());
        }
        let is_loop = !servers.is_empty() && servers.iter().all(|server| server.is_loop());
        self.leave(servers, runners, false);
        best.asked(is_loop)
    }

    /// Asks one server, in a task of its own, which keeps what is put into the cell.
    fn start(
        &self,
        server: &Arc<Server>,
        room: OwnedSemaphorePermit,
        asked: impl Future<Output = Result<Reply, Reason>> + 'static,
        report: impl FnOnce(Result<Reply, Reason>) + 'static,
    ) -> (AbortHandle, LateCell) {
        let since = Instant::now();
        let late = LateCell::default();
        server.counters.sent.fetch_add(1, Relaxed);
        let (server, held, health) = (server.clone(), late.clone(), self.health.clone());
        let task = self.tasks.spawn(async move {
            let result = asked.await;
            if take_note(&server, &result, since) {
                health.notify_one();
            }
            drop((room, held.take()));
            report(result);
        });
        (task, late)
    }

    /// The question is over, but these servers have not answered. If another has, they were
    /// `overtaken`.
    fn leave(&self, servers: &[Arc<Server>], runners: SmallVec<[Runner; 4]>, overtaken: bool) {
        for Runner { server, since, task, late, .. } in runners {
            if overtaken {
                servers[server].overtaken(since.elapsed());
            }
            match self.sockets.late.clone().try_acquire_owned() {
                Ok(permit) => late.set(Some(permit)),
                Err(_) => task.abort(),
            }
        }
    }
}

/// Takes note of what a server did. Whether its health has changed.
fn take_note(server: &Server, result: &Result<Reply, Reason>, since: Instant) -> bool {
    let now = Instant::now().into_std();
    let change = match result {
        Ok(reply) => {
            let change = server.answered(reply.rtt, now);
            match reply.kind {
                // SERVFAIL is about the name.
                ReplyKind::Refusal(rcode) if rcode != Rcode::SERVFAIL => {
                    server.failed(Reason::Refused, since.into_std(), now);
                }
                _ => server.was_useful(),
            }
            change
        }
        Err(reason) => {
            tracing::debug!(upstream = %server.address, %reason, "forwarding");
            server.failed(*reason, since.into_std(), now)
        }
    };
    change.is_some()
}

/// The best of the replies that are no answers, and of the reasons for there being none.
#[derive(Default)]
struct Best {
    partial: Option<Stored>,
    refusal: Option<Stored>,
    reason: Option<Reason>,
}

impl Best {
    /// Takes what a server sent; an answer is returned.
    fn take(&mut self, result: Result<Reply, Reason>) -> Option<Stored> {
        match result {
            Ok(Reply { answer, kind, .. }) => match kind {
                ReplyKind::Answer => return Some(answer),
                ReplyKind::Partial => self.partial = self.partial.take().or(Some(answer)),
                ReplyKind::Refusal(rcode) => {
                    // SERVFAIL is about the name; other codes are about us.
                    let known = self.refusal.as_ref().map(|refusal| refusal.rcode);
                    if known.is_none_or(|known| known != Rcode::SERVFAIL && rcode != known) {
                        self.refusal = Some(answer);
                    }
                }
            },
            Err(reason) => {
                // The one that says most about a server.
                let weight = |reason: Reason| match reason {
                    Reason::Silent => 0,
                    Reason::Unreachable | Reason::Tls => 1,
                    Reason::Refused | Reason::Malformed => 2,
                };
                let known = self.reason.map(weight);
                if known.is_none_or(|known| known < weight(reason)) {
                    self.reason = Some(reason);
                }
            }
        }
        None
    }

    fn asked(self, is_loop: bool) -> Asked {
        if let Some(partial) = self.partial {
            return Asked::Answered(partial);
        }
        let cause = match (&self.refusal, self.reason) {
            _ if is_loop => Cause::Loop,
            (Some(_), _) | (None, Some(Reason::Refused)) => Cause::Refused,
            (None, Some(Reason::Malformed)) => Cause::Malformed,
            (None, Some(Reason::Unreachable | Reason::Tls)) => Cause::Unreachable,
            (None, Some(Reason::Silent) | None) => Cause::Silent,
        };
        Asked::Failed(Failed { refusal: self.refusal, cause })
    }
}

#[cfg(test)]
mod tests;
