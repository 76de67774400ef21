//! Whether the requests of one endpoint fail so often that it should be ejected.
//!
//! Two rules: [`MAX_CONSECUTIVE`] failures without a success between them, or, in a window of
//! [`WINDOW_MS`], failures of at least half of at least [`MIN_REQUESTS`] requests. A window begins
//! with a failure, and while there is none nothing is counted: an endpoint without failures costs
//! one read of memory for each request.

use std::sync::atomic::{AtomicU64, Ordering};

/// So many failures in a row eject an endpoint.
pub const MAX_CONSECUTIVE: u64 = 5;
/// How long successes and failures are counted before the count starts again.
pub(crate) const WINDOW_MS: u64 = 10_000;
/// Fewer requests than this in a window say nothing about the rate of failures.
pub(crate) const MIN_REQUESTS: u64 = 20;

/// What became of an endpoint's requests lately. Times are milliseconds of a clock that all threads
/// share.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// [`Counts`]; 0 while there is nothing to count.
    word: AtomicU64,
}

/// As a 64-bit word: 28 bits of the time at which the window began, in hundredths of a second, 8
/// bits of failures in a row, 14 bits each of failures and requests.
#[derive(Clone, Copy, Debug)]
struct Counts {
    begun: u64,
    consecutive: u64,
    failures: u64,
    requests: u64,
}

const TIME_MASK: u64 = (1 << 28) - 1;
const MOST: u64 = (1 << 14) - 1;

impl Counts {
    fn of(word: u64) -> Counts {
        Counts {
            begun: word >> 36,
            consecutive: word >> 28 & 255,
            failures: word >> 14 & MOST,
            requests: word & MOST,
        }
    }

    fn word(self) -> u64 {
        let (failures, requests) = (self.failures.min(MOST), self.requests.min(MOST));
        self.begun << 36 | self.consecutive.min(255) << 28 | failures << 14 | requests
    }

    fn is_over(self, now_ms: u64) -> bool {
        (now_ms / 10).wrapping_sub(self.begun) & TIME_MASK >= WINDOW_MS / 10
    }

    fn ejects(self) -> bool {
        let is_often = self.requests >= MIN_REQUESTS && self.failures * 2 >= self.requests;
        self.consecutive >= MAX_CONSECUTIVE || is_often
    }
}

impl Outcomes {
    /// A request was answered. The clock is read only if others failed.
    pub fn succeeded(&self, now_ms: impl FnOnce() -> u64) {
        let relaxed = Ordering::Relaxed;
        if self.word.load(relaxed) == 0 {
            return;
        }
        let now_ms = now_ms();
        let next = |word| {
            let counts = Counts::of(word);
            let is_done = word == 0 || counts.is_over(now_ms);
            let requests = counts.requests + 1;
            Some(if is_done { 0 } else { Counts { consecutive: 0, requests, ..counts }.word() })
        };
        // It is always `Ok`, because there is always a next value.
        let _ = self.word.fetch_update(relaxed, relaxed, next);
    }

    /// A request failed. True if the endpoint is to be ejected; counting then starts again.
    pub fn failed(&self, now_ms: u64) -> bool {
        let relaxed = Ordering::Relaxed;
        let with_one_more = |word| {
            let counts = Counts::of(word);
            let consecutive = counts.consecutive + 1;
            if word == 0 || counts.is_over(now_ms) {
                let begun = (now_ms / 10) & TIME_MASK;
                return Counts { begun, consecutive, failures: 1, requests: 1 };
            }
            let (failures, requests) = (counts.failures + 1, counts.requests + 1);
            Counts { consecutive, failures, requests, ..counts }
        };
        let next = |word| {
            let counts = with_one_more(word);
            Some(if counts.ejects() { 0 } else { counts.word() })
        };
        let before = self.word.fetch_update(relaxed, relaxed, next);
        before.is_ok_and(|before| with_one_more(before).ejects())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outcomes as `F` and `s`, one every `step_ms`: how many until the ejection.
    fn check(outcomes: &str, step_ms: u64, expected: Option<usize>) {
        let counts = Outcomes::default();
        let ejects = outcomes.chars().enumerate().position(|(at, outcome)| {
            let now = 1_000 + at as u64 * step_ms;
            if outcome == 'F' {
                return counts.failed(now);
            }
            counts.succeeded(|| now);
            false
        });
        assert_eq!(ejects.map(|at| at + 1), expected, "{outcomes} every {step_ms} ms");
    }

    #[test]
    fn failures_in_a_row_eject_however_far_apart() {
        check("FFFF", 1, None);
        check("FFFFF", 1, Some(5));
        check("FFFFF", 60_000, Some(5));
        check("FFFFsFFFF", 1, None);
        check("sssssFFFFF", 1, Some(10));
        // They count again from the beginning.
        check("FFFFF", 1, Some(5));
    }

    #[test]
    fn half_of_the_requests_of_a_window_eject() {
        check(&"Fs".repeat(10), 1, None);
        check(&"Fs".repeat(11), 1, Some(21));
        check(&"FsFss".repeat(50), 1, None);
        // Too few in a window.
        check(&"Fs".repeat(100), 1_000, None);
    }

    #[test]
    fn success_without_failures_reads_no_clock() {
        Outcomes::default().succeeded(|| panic!("the clock is not needed"));
    }

    #[test]
    fn of_failures_at_the_same_time_one_ejects() {
        let counts = Outcomes::default();
        let ejected = std::thread::scope(|scope| {
            let fail = || (0..1_000).filter(|_| counts.failed(5)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(fail)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(ejected, 4_000 / MAX_CONSECUTIVE as usize);
    }
}
