//! A limit for log lines that clients cause: a few at once, then one per second for each kind, then
//! a count of the suppressed lines.
//!
//! A client can repeat an error thousands of times per second. This must not fill the disk or keep
//! a data thread busy. Each kind of line has a static:
//!
//! ```ignore
//! static HANDSHAKE_FAILED: LogLimit = LogLimit::new("TLS handshakes that failed");
//! if HANDSHAKE_FAILED.admits() {
//!     tracing::warn!(%error, "TLS handshake failed");
//! }
//! ```
//!
//! A task of the control runtime logs the counts, also for a kind that has no new lines. A check
//! costs a clock reading and an atomic operation.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one kind that are logged at once.
const BURST: u64 = 5;
/// Then one line of a kind for each of these.
const INTERVAL_MS: u64 = 1000;
/// How often the number of suppressed lines is logged.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The kinds of lines of which some were suppressed.
static LIMITED: Mutex<Vec<&'static LogLimit>> = Mutex::new(Vec::new());

/// The limit of one kind of line.
#[derive(Debug)]
pub struct LogLimit {
    kind: &'static str,
    /// The time, in milliseconds, until which the lines so far have used up the allowed rate.
    paid_until_ms: AtomicU64,
    left_out: AtomicU64,
    is_listed: AtomicBool,
}

impl LogLimit {
    /// `kind` names the suppressed lines in the report, in the plural.
    pub const fn new(kind: &'static str) -> LogLimit {
        LogLimit {
            kind,
            paid_until_ms: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            is_listed: AtomicBool::new(false),
        }
    }

    /// Whether to log the line; if not, it is counted.
    pub fn admits(&'static self) -> bool {
        let admits = self.admits_at(now_ms());
        if !admits && !self.is_listed.swap(true, Ordering::Relaxed) {
            LIMITED.lock().unwrap_or_else(PoisonError::into_inner).push(self);
        }
        admits
    }

    fn admits_at(&self, now_ms: u64) -> bool {
        let relaxed = Ordering::Relaxed;
        let pay = |paid: u64| {
            let next = paid.max(now_ms) + INTERVAL_MS;
            (next <= now_ms + BURST * INTERVAL_MS).then_some(next)
        };
        let admits = self.paid_until_ms.fetch_update(relaxed, relaxed, pay).is_ok();
        if !admits {
            self.left_out.fetch_add(1, relaxed);
        }
        admits
    }

    /// The lines that were suppressed since the last call.
    fn take_left_out(&self) -> u64 {
        self.left_out.swap(0, Ordering::Relaxed)
    }
}

/// Logs the numbers of suppressed lines for as long as the process runs.
pub(crate) async fn report() {
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        report_now();
    }
}

/// Logs the numbers of lines suppressed since the last call.
pub(crate) fn report_now() {
    let limited = LIMITED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for limit in limited {
        let left_out = limit.take_left_out();
        if left_out > 0 {
            tracing::warn!(kind = limit.kind, left_out, "repeated log lines were suppressed");
        }
    }
}

fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients with a bad server name caused 3,336 lines in 2 s.
    #[test]
    fn a_flood_of_client_errors_logs_a_few_lines_and_a_count() {
        let limit = LogLimit::new("bad handshakes");
        let flood = |from_ms: u64, to_ms: u64| {
            (from_ms..to_ms).filter(|now_ms| limit.admits_at(*now_ms)).count()
        };
        assert_eq!(flood(0, 2000), 5 + 1);
        assert_eq!(limit.take_left_out(), 2000 - 6);
        assert_eq!(flood(2000, 62_000), 60, "then one a second");
        assert_eq!(limit.take_left_out(), 60_000 - 60);
        assert_eq!(limit.take_left_out(), 0);
        assert_eq!(flood(100_000, 100_100), 5, "after a pause a few at once again");
    }

    #[test]
    fn threads_share_the_limit_and_kinds_do_not() {
        static KIND: LogLimit = LogLimit::new("threads");
        static OTHER: LogLimit = LogLimit::new("others");
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| KIND.admits_at(7)).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((admitted, KIND.take_left_out()), (5, 3995));
        assert!(OTHER.admits());
    }
}
