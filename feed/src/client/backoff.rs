//! How long to wait before the next try: doubled each time, with full jitter, so that the
//! clients of a server that came back do not all return in the same moment.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The first wait is at most this.
pub(crate) const FIRST: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Backoff {
    random: SmallRng,
    failures: u32,
}

impl Backoff {
    /// Equal seeds make equal waits.
    pub(crate) fn new(seed: u64) -> Backoff {
        Backoff { random: SmallRng::seed_from_u64(seed), failures: 0 }
    }

    /// The next wait: evenly between nothing and [`FIRST`] doubled at each failure, at most `cap`.
    pub(crate) fn next(&mut self, cap: Duration) -> Duration {
        // 2^16 times the first is beyond any cap.
        let most = FIRST.saturating_mul(1 << self.failures.min(16)).min(cap);
        self.failures += 1;
        self.random.random_range(Duration::ZERO..=most)
    }

    /// No failure since the last [`Backoff::reset`].
    pub(crate) fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Evenly between two numbers, both included.
    pub(crate) fn between(&mut self, least: u32, most: u32) -> u32 {
        self.random.random_range(least..=most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_fill_the_range() {
        let cap = Duration::from_secs(10);
        let mut most = [Duration::ZERO; 40];
        let mut least = [cap; 40];
        for seed in 0..500 {
            let mut backoff = Backoff::new(seed);
            for n in 0..40 {
                let wait = backoff.next(cap);
                most[n] = most[n].max(wait);
                least[n] = least[n].min(wait);
            }
        }
        for n in 0..40 {
            let bound = FIRST.saturating_mul(1 << n.min(16)).min(cap);
            assert!(most[n] <= bound && most[n] > bound.mul_f64(0.9), "{n}: {:?}", most[n]);
            assert!(least[n] < bound.mul_f64(0.1), "{n}: {:?}", least[n]);
        }
    }

    #[test]
    fn a_success_starts_over() {
        let mut backoff = Backoff::new(1);
        for _ in 0..20 {
            backoff.next(Duration::from_secs(10));
        }
        assert!(!backoff.is_fresh());
        backoff.reset();
        assert!(backoff.is_fresh());
        assert!(backoff.next(Duration::from_secs(10)) <= FIRST);
    }
}
