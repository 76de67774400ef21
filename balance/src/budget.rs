//! A retry budget: retries may be a fifth of the requests, so that retries of a failing service do
//! not double its load.
//!
//! A bucket of tokens for each service, filled by requests and by time. Requests are counted
//! elsewhere anyway, and the bucket looks at their count when a retry asks for a token: a request
//! without a retry costs nothing here.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// What a request brings, in an unnamed unit that is small enough for what a millisecond brings.
const OF_REQUEST: i64 = 1_000;
/// What a retry costs: retries are a fifth of the requests.
const OF_RETRY: i64 = 5 * OF_REQUEST;
/// Retries that are allowed each second whatever the number of requests: a service with few
/// requests has retries too.
const RETRIES_A_SECOND: i64 = 10;
/// Retries that can be saved up: for the moment at which an endpoint goes away with all of its
/// requests in flight.
const MOST_SAVED: i64 = 200;

/// The bucket of one service. It is full at first.
#[derive(Debug)]
pub struct RetryBudget {
    /// What is missing in it.
    spent: AtomicI64,
    requests_seen: AtomicU64,
    seen_ms: AtomicU64,
}

impl Default for RetryBudget {
    fn default() -> RetryBudget {
        let zero = || AtomicU64::new(0);
        RetryBudget { spent: AtomicI64::new(0), requests_seen: zero(), seen_ms: zero() }
    }
}

impl RetryBudget {
    /// Takes a retry, if there is one. `requests` is the number of requests of the service since
    /// its beginning; `now_ms` a clock that all threads share.
    pub fn take(&self, requests: u64, now_ms: u64) -> bool {
        let relaxed = Ordering::Relaxed;
        // Of several threads one credits what is new; counts never go back.
        let new = requests.saturating_sub(self.requests_seen.fetch_max(requests, relaxed));
        let elapsed = now_ms.saturating_sub(self.seen_ms.fetch_max(now_ms, relaxed));
        let by_time = elapsed.min(1_000_000) as i64 * RETRIES_A_SECOND * OF_RETRY / 1_000;
        let credit = new.min(1_000_000) as i64 * OF_REQUEST + by_time;
        let next = |spent: i64| {
            let after = (spent - credit).max(0) + OF_RETRY;
            (after <= MOST_SAVED * OF_RETRY).then_some(after)
        };
        let taken = self.spent.fetch_update(relaxed, relaxed, next).is_ok();
        if !taken {
            // What was credited is not lost.
            let less = |spent: i64| Some((spent - credit).max(0));
            let _ = self.spent.fetch_update(relaxed, relaxed, less);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_requests_once_the_reserve_is_used_up() {
        let budget = RetryBudget::default();
        let reserve = (0..1_000).filter(|_| budget.take(0, 0)).count();
        assert_eq!(reserve, MOST_SAVED as usize);
        // All requests fail, and each wants a retry.
        let retries = (1..=10_000).filter(|requests| budget.take(*requests, 0)).count();
        assert_eq!(retries, 2_000);
    }

    #[test]
    fn a_service_with_few_requests_has_retries_too() {
        let budget = RetryBudget::default();
        while budget.take(0, 0) {}
        let retries = (0..10_000).filter(|now_ms| budget.take(0, *now_ms)).count();
        assert!((90..=100).contains(&retries), "{retries} in ten seconds");
    }

    #[test]
    fn an_idle_service_saves_no_more_than_its_reserve() {
        let budget = RetryBudget::default();
        while budget.take(0, 0) {}
        let after = 1_000_000_000;
        let retries = (0..1_000).filter(|_| budget.take(5_000_000, after)).count();
        assert_eq!(retries, MOST_SAVED as usize);
    }
}
