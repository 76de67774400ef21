//! The load of one endpoint: its requests in flight, and how long its responses took lately.
//!
//! The latency is a peak-sensitive moving average (peak EWMA): a response that is slower than the
//! average replaces it at once, faster ones lower it little by little: a single slow response is
//! soon forgotten by a busy endpoint. It decays while nothing is measured, so that an endpoint that
//! was slow is tried again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// After this time without a measurement, the average has fallen to 1/e.
const DECAY_MS: f64 = 10_000.0;
/// Each faster response lowers the average by at least this part of the difference. Without it, one
/// stall of this machine would make all busy endpoints look slow for seconds.
const LEAST_STEP: f64 = 1.0 / 16.0;
/// The cost of an endpoint that has a request in flight but no measurement yet: one request is
/// enough to measure it.
const UNMEASURED_BUSY: f64 = 1e18;

/// Requests in flight and latency. Times are milliseconds of a clock that all threads share.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: AtomicU32,
    /// The average in microseconds in the upper half, and when it was updated in the lower half;
    /// 0 if nothing was measured yet.
    latency: AtomicU64,
}

fn read(word: u64) -> (f64, u32) {
    (f64::from((word >> 32) as u32), word as u32)
}

/// What is left of an average after a time.
fn weight(since_ms: u32, now_ms: u64) -> f64 {
    let elapsed = (now_ms as u32).wrapping_sub(since_ms);
    // A thread's clock may be a little behind that of another.
    if elapsed > u32::MAX / 2 { 1.0 } else { (-f64::from(elapsed) / DECAY_MS).exp() }
}

impl Load {
    /// A request has begun.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has begun, unless `max` are in flight already.
    pub fn begin_below(&self, max: u32) -> bool {
        let more = |count| (count < max).then_some(count + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// A request has ended that had begun.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A response has begun after so many microseconds.
    pub fn measured(&self, micros: u32, now_ms: u64) {
        let (relaxed, new) = (Ordering::Relaxed, f64::from(micros.max(1)));
        let next = |word| {
            let (average, since_ms) = read(word);
            let kept = weight(since_ms, now_ms).min(1.0 - LEAST_STEP);
            let next = if new >= average { new } else { average * kept + new * (1.0 - kept) };
            Some((next as u64) << 32 | u64::from(now_ms as u32))
        };
        // It is always `Ok`, because there is always a next value.
        let _ = self.latency.fetch_update(relaxed, relaxed, next);
    }

    /// What another request would have to wait for, in an unnamed unit: the decayed latency times
    /// the requests that would then be in flight.
    pub fn cost(&self, now_ms: u64) -> f64 {
        let word = self.latency.load(Ordering::Relaxed);
        let in_flight = self.in_flight();
        if word == 0 {
            return if in_flight == 0 { 0.0 } else { UNMEASURED_BUSY * f64::from(in_flight) };
        }
        let (average, since_ms) = read(word);
        average * weight(since_ms, now_ms) * (f64::from(in_flight) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_response_counts_at_once_and_fast_ones_lower_it_over_time() {
        let load = Load::default();
        load.measured(1_000, 0);
        load.measured(50_000, 1);
        assert!(load.cost(1) > 49_000.0);
        // A few fast responses leave it slow, many do not.
        (0..3).for_each(|_| load.measured(1_000, 1));
        assert!(load.cost(1) > 35_000.0, "{}", load.cost(1));
        (0..60).for_each(|_| load.measured(1_000, 1));
        assert!(load.cost(1) < 3_000.0, "{}", load.cost(1));
        // One that is slow each time stays so.
        (0..60).for_each(|_| load.measured(50_000, 2));
        assert!(load.cost(2) > 49_000.0);
    }

    #[test]
    fn the_cost_decays_until_the_endpoint_is_tried_again() {
        let load = Load::default();
        load.measured(10_000, 5_000);
        assert!((load.cost(15_000) - 10_000.0 / std::f64::consts::E).abs() < 10.0);
        assert!(load.cost(65_000) < 30.0);
        // The clock of another thread is behind.
        assert!((load.cost(4_990) - 10_000.0).abs() < 1.0);
    }

    #[test]
    fn the_cost_grows_with_the_requests_in_flight() {
        let load = Load::default();
        assert_eq!(load.cost(0), 0.0);
        load.begin();
        assert!(load.cost(0) > 1e17, "one request measures a new endpoint");
        load.measured(100, 0);
        assert_eq!(load.cost(0), 200.0);
        load.end();
        assert_eq!((load.in_flight(), load.cost(0)), (0, 100.0));
    }

    #[test]
    fn no_more_requests_begin_than_a_limit_allows() {
        let load = Load::default();
        let begun = std::thread::scope(|scope| {
            let begin = || (0..100).filter(|_| load.begin_below(7)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(begin)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!((begun, load.in_flight()), (7, 7));
    }
}
