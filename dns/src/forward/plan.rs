//! The plan for one question: which servers are asked, in which order, when the next is asked
//! although the last has not failed (a hedge), and when to give up.
//!
//! Pure: the time and the chance are passed in. [`super::race`] carries the plan out.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::server::{Group, Server};

/// A client's resolver gives up after 5 s and asks again; an answer must come well before that.
pub(crate) const DEADLINE: Duration = Duration::from_millis(3500);
/// The same if every server is known to be down.
const DEADLINE_WHEN_DOWN: Duration = Duration::from_secs(2);
/// The least time before another server is asked too: a usual lookup of a name that the server
/// does not have in its cache must not double the load.
const MIN_HEDGE: Duration = Duration::from_millis(100);
/// The longest, also of a server that is usually slow; and the time after which a server that is
/// alone is asked again, because a datagram may have been lost.
const MAX_HEDGE: Duration = Duration::from_secs(1);
/// For one question in so many another server than the best is asked too, so that its round trip
/// stays known.
const EXPLORE_EVERY: u32 = 32;
/// A server that is alone is asked so often.
const MIN_TRIES: usize = 2;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask this server; then call [`Plan::asked`].
    Ask(usize),
    /// Wait for an answer, or until then.
    Wait(Instant),
    /// There is no answer.
    End,
}

/// The plan for one question.
#[derive(Debug)]
pub(crate) struct Plan {
    tries: SmallVec<[Try; 4]>,
    next: usize,
    in_flight: usize,
    /// When the next server is asked.
    due: Instant,
    deadline: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Try {
    server: usize,
    /// How long to wait for it before the next is asked too.
    hedge: Duration,
}

impl Plan {
    /// `chance` is any number.
    pub(crate) fn new(group: &Group, chance: u32, now: Instant) -> Plan {
        let servers = &group.servers;
        let usable = || servers.iter().enumerate().filter(|(_, server)| !server.is_loop());
        let mut order: SmallVec<[usize; 4]> = usable().map(|(index, _)| index).collect();
        // Those that were never measured come first; the sort keeps their order.
        order.sort_by_key(|index| {
            let server = &servers[*index];
            (server.is_down(), server.is_unusable(), server.smoothed_rtt())
        });
        let mut tries: SmallVec<[Try; 4]> = order
            .iter()
            .map(|index| Try { server: *index, hedge: hedge_of(&servers[*index]) })
            .collect();
        let up = order.iter().filter(|index| !servers[**index].is_down()).count();
        if up > 1 && chance.is_multiple_of(EXPLORE_EVERY) {
            let other = 1 + (chance / EXPLORE_EVERY) as usize % (up - 1);
            tries[..=other].rotate_right(1);
            // The best is asked at the same time: nobody has to wait for the other.
            tries[0].hedge = Duration::ZERO;
        }
        if let [alone] = &mut tries[..] {
            alone.hedge = MAX_HEDGE;
            let alone = *alone;
            tries.resize(MIN_TRIES, alone);
        }
        let limit = if group.is_down() { DEADLINE_WHEN_DOWN } else { DEADLINE };
        Plan { tries, next: 0, in_flight: 0, due: now, deadline: now + limit }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What to do now.
    pub(crate) fn step(&self, now: Instant) -> Step {
        if now >= self.deadline {
            return Step::End;
        }
        match self.tries.get(self.next) {
            Some(next) if now >= self.due => Step::Ask(next.server),
            Some(_) => Step::Wait(self.due.min(self.deadline)),
            None if self.in_flight == 0 => Step::End,
            None => Step::Wait(self.deadline),
        }
    }

    /// The server that was to be asked next has been asked. Whether it is for the second time.
    pub(crate) fn asked(&mut self, now: Instant) -> bool {
        let Try { server, hedge } = self.tries[self.next];
        let again = self.tries[..self.next].iter().any(|before| before.server == server);
        self.next += 1;
        self.in_flight += 1;
        self.due = now + hedge;
        again
    }

    /// There is no room to ask another server now.
    pub(crate) fn postpone(&mut self, now: Instant) {
        self.due = now + MIN_HEDGE;
    }

    /// A server that was asked has failed: the next is asked at once. After a `reply`, though one
    /// of no use, the same server is not asked again.
    pub(crate) fn failed(&mut self, server: usize, reply: bool, now: Instant) {
        self.in_flight -= 1;
        self.due = now;
        if reply {
            let rest: SmallVec<[Try; 4]> = self.tries.drain(self.next..).collect();
            self.tries.extend(rest.into_iter().filter(|next| next.server != server));
        }
    }
}

/// When another server is asked too. The round trip of a server that is down is from before.
fn hedge_of(server: &Server) -> Duration {
    let usual = server.rtt_p95().filter(|_| !server.is_down());
    usual.unwrap_or_default().clamp(MIN_HEDGE, MAX_HEDGE)
}

#[cfg(test)]
mod tests;
