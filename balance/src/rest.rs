//! Takes an endpoint that failed out of use for a while ("rest"): others are picked instead.
//!
//! When the rest is over, one pick tries the endpoint again. The other picks still skip it until
//! that attempt has succeeded or failed, or is given back without an outcome ([`Try`]). Success
//! ends the rest at once. The length of a rest depends on the cost of another failure
//! ([`Failure`]).

use std::sync::atomic::{AtomicU64, Ordering};

/// How long an endpoint that refuses connections rests. Trying it again is cheap: the refusal comes
/// at once, and the client gets another endpoint.
const REFUSED_MS: u64 = 1_000;
/// The first rest of an endpoint whose answers fail; it doubles as well.
const FAILING_MS: u64 = 1_000;
/// The first rest of an endpoint that does not answer a connect. It doubles with each attempt that
/// fails, because each makes a client wait.
const TIMED_OUT_MS: u64 = 1_000;
/// The longest rest, as in nginx (`fail_timeout`): a dead endpoint delays one client every ten
/// seconds. An attempt without a known outcome, which is not given back, keeps the others away for
/// the same time.
pub const MAX_REST_MS: u64 = 10_000;

/// How an endpoint failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It refused, which takes no time. It is still picked while all endpoints rest.
    Refused,
    /// It did not answer a connect. It is not picked during its rest, even if all endpoints rest,
    /// because each client would have to wait as long as the first.
    TimedOut,
    /// It takes connections, and its answers fail. It is still picked while all endpoints rest.
    /// Only an answer ends the rest, not a connection.
    Failing,
    /// It did not answer a datagram while others did. This does not prove that it is down: it is
    /// still picked while all endpoints rest.
    Unanswered,
}

/// Whether an endpoint is skipped because it failed. Times are milliseconds of a clock that all
/// threads share; small differences between threads do no harm.
#[derive(Debug, Default)]
pub struct Rest {
    /// [`State`]; 0 if the last attempt succeeded.
    state: AtomicU64,
}

/// An attempt that tries an endpoint again after its rest.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    /// The state while the outcome is not known.
    word: u64,
}

/// What is known about an endpoint that failed. As a 64-bit word: the time in the upper 56 bits,
/// below it one bit for each flag and the number of attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    until_ms: u64,
    /// A pick tries it again, and the outcome is not known yet.
    is_tried: bool,
    has_timed_out: bool,
    is_failing: bool,
    /// How many attempts after the first one failed too, up to [`MAX_ATTEMPTS`].
    attempts: u32,
}

/// With this many attempts, a rest that doubles has reached [`MAX_REST_MS`].
const MAX_ATTEMPTS: u32 = 15;
/// The end of a rest that is over.
const PAST_MS: u64 = 1;
const TRIED: u64 = 1 << 4;
const HAS_TIMED_OUT: u64 = 1 << 5;
const FAILING: u64 = 1 << 6;

impl State {
    fn of(word: u64) -> Option<State> {
        (word != 0).then_some(State {
            until_ms: word >> 8,
            is_tried: word & TRIED != 0,
            has_timed_out: word & HAS_TIMED_OUT != 0,
            is_failing: word & FAILING != 0,
            attempts: word as u32 & MAX_ATTEMPTS,
        })
    }

    /// Never 0, because a rest ends later than at the clock's first millisecond.
    fn word(self) -> u64 {
        let flag = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
        let flags = flag(self.is_tried, TRIED)
            | flag(self.has_timed_out, HAS_TIMED_OUT)
            | flag(self.is_failing, FAILING);
        self.until_ms << 8 | flags | u64::from(self.attempts)
    }

    /// The state after a failure.
    fn failed(before: Option<State>, now_ms: u64, failure: Failure) -> State {
        let attempts = match before {
            // Only the attempt of a pick that tries it again gives new information. The others
            // began before the rest, or during it while all endpoints rested. They may fail long
            // after the rest is over: a connect times out after seconds.
            Some(state) if !state.is_tried => return state,
            Some(state) => (state.attempts + 1).min(MAX_ATTEMPTS),
            None => 0,
        };
        let rest_ms = match failure {
            Failure::Refused => REFUSED_MS,
            Failure::TimedOut => (TIMED_OUT_MS << attempts).min(MAX_REST_MS),
            Failure::Failing => (FAILING_MS << attempts).min(MAX_REST_MS),
            Failure::Unanswered => MAX_REST_MS,
        };
        let has_timed_out = failure == Failure::TimedOut;
        let is_failing = failure == Failure::Failing;
        State { until_ms: now_ms + rest_ms, is_tried: false, has_timed_out, is_failing, attempts }
    }
}

impl Rest {
    /// The endpoint failed: it rests from now on.
    pub fn begin(&self, now_ms: u64, failure: Failure) {
        let relaxed = Ordering::Relaxed;
        let next = |word| Some(State::failed(State::of(word), now_ms, failure).word());
        // It is always `Ok`, because there is always a next state.
        let _ = self.state.fetch_update(relaxed, relaxed, next);
    }

    /// The endpoint works.
    pub fn end(&self) {
        // Without a failure nothing is written: all threads read this cache line at each pick.
        if self.state().is_some() {
            self.state.store(0, Ordering::Relaxed);
        }
    }

    /// The endpoint took a connection: ends the rest, unless it is its answers that fail.
    pub fn connected(&self) {
        if self.state().is_some_and(|state| !state.is_failing) {
            self.state.store(0, Ordering::Relaxed);
        }
    }

    /// The endpoint answered well. That ends the rest of one whose answers failed if this was the
    /// attempt to try it again; an answer to an older request proves nothing.
    pub fn answered(&self) {
        let word = self.state.load(Ordering::Relaxed);
        if State::of(word).is_some_and(|state| state.is_failing && state.is_tried) {
            let relaxed = Ordering::Relaxed;
            let _ = self.state.compare_exchange(word, 0, relaxed, relaxed);
        }
    }

    /// Whether the endpoint was picked to try its answers again.
    pub fn is_tried_for_answers(&self) -> bool {
        self.state().is_some_and(|state| state.is_failing && state.is_tried)
    }

    /// Whether picks pass over the endpoint. The clock is read only if it failed.
    pub fn lasts(&self, now_ms: impl FnOnce() -> u64) -> bool {
        self.state().is_some_and(|state| now_ms() < state.until_ms)
    }

    /// Whether picks pass over the endpoint even if all endpoints rest.
    pub fn is_strict(&self, now_ms: impl FnOnce() -> u64) -> bool {
        let timed_out = self.state().filter(|state| state.has_timed_out);
        timed_out.is_some_and(|state| now_ms() < state.until_ms)
    }

    /// The endpoint has been picked. If it failed the last time, this pick tries it again, and
    /// the endpoint rests for the others. False if another pick tries it already.
    pub fn try_again(&self, now_ms: impl FnOnce() -> u64) -> bool {
        let word = self.state.load(Ordering::Relaxed);
        let Some(state) = State::of(word) else { return true };
        let now_ms = now_ms();
        if now_ms < state.until_ms {
            return false;
        }
        let next = State { until_ms: now_ms + MAX_REST_MS, is_tried: true, ..state };
        let relaxed = Ordering::Relaxed;
        self.state.compare_exchange(word, next.word(), relaxed, relaxed).is_ok()
    }

    /// The attempt that tries the endpoint again, right after a pick; `None` if there is none.
    pub fn current_try(&self) -> Option<Try> {
        let word = self.state.load(Ordering::Relaxed);
        State::of(word).filter(|state| state.is_tried).map(|_| Try { word })
    }

    /// An attempt has ended without an outcome: the next pick may try the endpoint at once. Does
    /// nothing if the attempt's outcome is known, or another attempt has begun since.
    pub fn give_back(&self, attempt: Try) {
        let Some(state) = State::of(attempt.word) else { return };
        let next = State { until_ms: PAST_MS, is_tried: false, ..state };
        let relaxed = Ordering::Relaxed;
        // An error means that the state has changed since.
        let _ = self.state.compare_exchange(attempt.word, next.word(), relaxed, relaxed);
    }

    fn state(&self) -> Option<State> {
        State::of(self.state.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_pick_that_tries_it_again_ends_the_rest_of_a_failing_endpoint() {
        let rest = Rest::default();
        rest.begin(0, Failure::Failing);
        rest.connected();
        rest.answered();
        assert!(rest.lasts(|| 999) && !rest.is_strict(|| 999), "older requests prove nothing");
        // Each failed attempt doubles the rest.
        let mut now = 1_000;
        for rest_ms in [2_000, 4_000, 8_000, 10_000, 10_000] {
            assert!(rest.try_again(|| now) && rest.is_tried_for_answers());
            rest.connected();
            assert!(rest.lasts(|| now), "a connection is no answer");
            rest.begin(now, Failure::Failing);
            assert!(rest.lasts(|| now + rest_ms - 1));
            now += rest_ms;
        }
        assert!(rest.try_again(|| now));
        rest.answered();
        assert!(!rest.lasts(|| now) && rest.current_try().is_none());
    }

    #[test]
    fn one_pick_tries_an_endpoint_again_and_the_others_wait_for_the_outcome() {
        let rest = Rest::default();
        let lasts = |at_ms| rest.lasts(|| at_ms);
        let tries = |at_ms| rest.try_again(|| at_ms);
        assert!(!rest.lasts(|| unreachable!("the clock is not read for one that works")));
        assert!(!rest.is_strict(|| unreachable!("the clock is not read for one that works")));
        assert!(rest.try_again(|| unreachable!("the clock is not read for one that works")));
        rest.begin(5, Failure::Refused);
        assert!(lasts(5) && lasts(1_004) && !lasts(1_005));
        assert!(!tries(1_004), "it rests still");
        assert!(tries(1_005) && !tries(1_005), "two picks at once: only one tries it");
        assert!(lasts(1_006) && lasts(11_004), "the outcome is not known");
        assert!(tries(11_005), "it never will be: the client has gone");
        rest.end();
        assert!(!lasts(11_006) && tries(11_006) && tries(11_006));
    }

    /// How long each rest lasts of an endpoint that fails like this at each attempt.
    fn check_rests(failure: Failure, expected: [u64; 6]) {
        let rest = Rest::default();
        let mut now_ms = 77;
        let rests = expected.map(|_| {
            rest.begin(now_ms, failure);
            let begun = now_ms;
            while rest.lasts(|| now_ms) {
                now_ms += 500;
            }
            let lasted = now_ms - begun;
            assert!(rest.try_again(|| now_ms));
            // The attempt takes its time to fail.
            now_ms += 1_500;
            lasted
        });
        assert_eq!(rests, expected, "{failure:?}");
    }

    #[test]
    fn endpoints_that_start_late_are_tried_each_second() {
        check_rests(Failure::Refused, [1_000; 6]);
    }

    #[test]
    fn endpoints_that_let_clients_wait_are_tried_ever_more_seldom() {
        check_rests(Failure::TimedOut, [1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        check_rests(Failure::Unanswered, [10_000; 6]);
    }

    #[test]
    fn attempts_that_began_before_the_rest_do_not_prolong_it() {
        let rest = Rest::default();
        for ms in 0..100 {
            rest.begin(ms, Failure::TimedOut);
        }
        assert!(rest.lasts(|| 999) && !rest.lasts(|| 1_000));
        assert!(rest.try_again(|| 1_000));
        rest.begin(2_500, Failure::TimedOut);
        assert!(rest.lasts(|| 4_499) && !rest.lasts(|| 4_500));
    }

    /// Connects that were under way at the first failure time out after the first rest.
    #[test]
    fn attempts_that_outlast_the_rest_do_not_prolong_it() {
        let rest = Rest::default();
        rest.begin(0, Failure::TimedOut);
        for ms in 1_000..5_000 {
            rest.begin(ms, Failure::TimedOut);
            assert!(!rest.lasts(|| ms), "{ms}");
        }
        assert!(rest.try_again(|| 5_000));
        rest.begin(5_500, Failure::TimedOut);
        assert!(rest.lasts(|| 7_499) && !rest.lasts(|| 7_500), "it is the second rest");
    }

    #[test]
    fn an_attempt_without_an_outcome_is_given_back() {
        let rest = Rest::default();
        assert!(rest.current_try().is_none());
        rest.begin(0, Failure::TimedOut);
        assert!(rest.current_try().is_none());
        assert!(rest.try_again(|| 1_000));
        let first = rest.current_try().unwrap();
        assert!(rest.is_strict(|| 1_500));
        rest.give_back(first);
        assert!(!rest.lasts(|| 1_500) && !rest.is_strict(|| 1_500));
        assert!(rest.try_again(|| 1_500) && !rest.try_again(|| 1_500), "one at a time");
        // It was given back already: the attempt of another client goes on.
        rest.give_back(first);
        assert!(rest.lasts(|| 1_501));
        let second = rest.current_try().unwrap();
        rest.begin(2_000, Failure::TimedOut);
        rest.give_back(second);
        assert!(rest.lasts(|| 3_999) && !rest.lasts(|| 4_000), "its outcome is known");
        assert!(rest.try_again(|| 4_000));
        let third = rest.current_try().unwrap();
        rest.end();
        rest.give_back(third);
        assert!(rest.state().is_none());
    }

    #[test]
    fn only_an_endpoint_that_lets_clients_wait_is_never_picked_during_its_rest() {
        let table =
            [(Failure::Refused, false), (Failure::TimedOut, true), (Failure::Unanswered, false)];
        for (failure, expected) in table {
            let rest = Rest::default();
            rest.begin(0, failure);
            assert_eq!(rest.is_strict(|| 999), expected, "{failure:?}");
            assert!(!rest.is_strict(|| 10_000), "{failure:?}");
        }
        let rest = Rest::default();
        rest.begin(0, Failure::TimedOut);
        assert!(rest.try_again(|| 1_000) && rest.is_strict(|| 1_001), "one attempt at a time");
        rest.begin(1_002, Failure::Refused);
        assert!(rest.lasts(|| 1_003) && !rest.is_strict(|| 1_003), "its host is back");
    }
}
