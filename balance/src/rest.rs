//! Takes an endpoint that failed out of use for a while ("rest"): others are picked instead.
//!
//! When the rest is over, one pick tries the endpoint again. The other picks still skip it until
//! that attempt has succeeded or failed.

use std::sync::atomic::{AtomicU64, Ordering};

/// How long an endpoint that failed is passed over, as in nginx (`fail_timeout`). A dead endpoint
/// then delays one client every ten seconds, and an endpoint that works again is used again soon.
pub const REST_MS: u64 = 10_000;

/// Whether an endpoint is skipped because it failed. Times are milliseconds of a clock that all
/// threads share; small differences between threads do no harm.
#[derive(Debug, Default)]
pub struct Rest {
    /// 0 if the last attempt succeeded.
    until_ms: AtomicU64,
}

impl Rest {
    /// The endpoint failed: it rests from now on.
    pub fn begin(&self, now_ms: u64) {
        self.until_ms.store(now_ms + REST_MS, Ordering::Relaxed);
    }

    /// The endpoint works.
    pub fn end(&self) {
        // Without a failure nothing is written: all threads read this cache line at each pick.
        if self.has_begun() {
            self.until_ms.store(0, Ordering::Relaxed);
        }
    }

    /// Whether picks pass over the endpoint. The clock is read only if it failed.
    pub fn lasts(&self, now_ms: impl FnOnce() -> u64) -> bool {
        let until = self.until_ms.load(Ordering::Relaxed);
        until != 0 && now_ms() < until
    }

    /// The endpoint has been picked. If it failed the last time, this pick tries it again, and
    /// the endpoint rests for the others. False if another pick tries it already.
    pub fn try_again(&self, now_ms: impl FnOnce() -> u64) -> bool {
        let until = self.until_ms.load(Ordering::Relaxed);
        if until == 0 {
            return true;
        }
        let (now, relaxed) = (now_ms(), Ordering::Relaxed);
        now >= until
            && self.until_ms.compare_exchange(until, now + REST_MS, relaxed, relaxed).is_ok()
    }

    fn has_begun(&self) -> bool {
        self.until_ms.load(Ordering::Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pick_tries_an_endpoint_again_and_the_others_wait_for_the_outcome() {
        let rest = Rest::default();
        let lasts = |at_ms| rest.lasts(|| at_ms);
        let tries = |at_ms| rest.try_again(|| at_ms);
        assert!(!rest.lasts(|| unreachable!("the clock is not read for one that works")));
        assert!(rest.try_again(|| unreachable!("the clock is not read for one that works")));
        rest.begin(5);
        assert!(lasts(5) && lasts(10_004) && !lasts(10_005));
        assert!(!tries(10_004), "it rests still");
        assert!(tries(10_005) && !tries(10_005), "two picks at once: only one tries it");
        assert!(lasts(10_006) && lasts(20_004) && !lasts(20_005));
        rest.end();
        assert!(!lasts(10_006) && tries(10_006) && tries(10_006));
    }

    #[test]
    fn an_attempt_that_fails_begins_a_new_rest() {
        let rest = Rest::default();
        rest.begin(0);
        assert!(rest.try_again(|| 10_000));
        rest.begin(13_000);
        assert!(rest.lasts(|| 22_999) && !rest.lasts(|| 23_000));
    }
}
