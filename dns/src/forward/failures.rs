//! Questions that no upstream could answer, remembered for a short time (RFC 9520).
//!
//! Pure. Without this memory, clients that retry turn each outage into more load, and servers that
//! forward to each other never stop.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::wire::Rcode;

use super::question::Question;

/// How long a first failure is remembered: the minimum of RFC 9520 section 3.2.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Each further failure doubles the time, up to this. The RFC allows five minutes; the shorter
/// limit is how long clients may wait after an upstream recovers.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Questions that one data thread remembers; the one that expires first makes room.
const MAX_FAILURES: usize = 1024;

/// The failures of one data thread.
#[derive(Debug, Default)]
pub(crate) struct Failures(HashMap<Question, Failure>);

#[derive(Clone, Copy, Debug)]
struct Failure {
    rcode: Rcode,
    pause: Duration,
    until: Instant,
}

impl Failures {
    /// The code that a question failed with, if upstreams should not be asked yet.
    pub(crate) fn recall(&self, question: &Question, now: Instant) -> Option<Rcode> {
        self.0.get(question).filter(|failure| now < failure.until).map(|failure| failure.rcode)
    }

    /// Remembers that a question failed.
    pub(crate) fn remember(&mut self, question: &Question, rcode: Rcode, now: Instant) {
        let last = self.0.get(question).filter(|failure| failure.counts(now));
        let pause = last.map_or(FIRST_PAUSE, |failure| (2 * failure.pause).min(MAX_PAUSE));
        if last.is_none() {
            self.make_room(now);
        }
        self.0.insert(question.clone(), Failure { rcode, pause, until: now + pause });
    }

    /// Forgets a question, because it was answered.
    pub(crate) fn forget(&mut self, question: &Question) {
        self.0.remove(question);
    }

    /// Forgets all, because other upstreams are asked now.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn make_room(&mut self, now: Instant) {
        if self.0.len() < MAX_FAILURES {
            return;
        }
        self.0.retain(|_, failure| failure.counts(now));
        while self.0.len() >= MAX_FAILURES {
            let first = self.0.iter().min_by_key(|(_, failure)| failure.until);
            let Some(first) = first.map(|(question, _)| question.clone()) else { return };
            self.0.remove(&first);
        }
    }
}

impl Failure {
    /// Whether the next failure is one more in a row, and so doubles the time.
    fn counts(&self, now: Instant) -> bool {
        now < self.until + MAX_PAUSE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::question;
    use crate::wire::Query;

    fn asked(text: &str) -> Question {
        let packet = question(text).to_vec().unwrap();
        let mut query = Query::new();
        query.parse(&packet).unwrap();
        Question::of(&query, &packet)
    }

    #[test]
    fn failures_are_remembered_twice_as_long_each_time() {
        let mut failures = Failures::default();
        let question = asked("dead.example A");
        let mut now = Instant::now();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(failures.recall(&question, now), None);
            failures.remember(&question, Rcode::SERVFAIL, now);
            let pause = Duration::from_secs(seconds);
            let before = now + pause - Duration::from_millis(1);
            assert_eq!(failures.recall(&question, before), Some(Rcode::SERVFAIL), "{seconds}");
            assert_eq!(failures.recall(&asked("other.example A"), before), None);
            now += pause;
        }
        failures.forget(&question);
        failures.remember(&question, Rcode::REFUSED, now);
        assert_eq!(failures.recall(&question, now), Some(Rcode::REFUSED));
        assert_eq!(failures.recall(&question, now + FIRST_PAUSE), None, "begins anew");
        // A failure long ago does not count.
        now += FIRST_PAUSE + MAX_PAUSE;
        failures.remember(&question, Rcode::SERVFAIL, now);
        assert_eq!(failures.recall(&question, now + FIRST_PAUSE), None);
        failures.clear();
        assert_eq!(failures.recall(&question, now), None);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut failures = Failures::default();
        let now = Instant::now();
        let name = |n: usize| asked(&format!("n{n}.example A"));
        for n in 0..MAX_FAILURES + 10 {
            let later = now + Duration::from_micros(n as u64);
            failures.remember(&name(n), Rcode::SERVFAIL, later);
        }
        assert_eq!(failures.0.len(), MAX_FAILURES);
        assert_eq!(failures.recall(&name(9), now), None, "the oldest made room");
        assert_eq!(failures.recall(&name(10), now), Some(Rcode::SERVFAIL));
        // Those that are over make room first.
        let later = now + FIRST_PAUSE + MAX_PAUSE + Duration::from_secs(1);
        failures.remember(&name(0), Rcode::SERVFAIL, later);
        assert_eq!(failures.0.len(), 1);
    }
}
