//! Time as a number that fits into an atomic.

use std::sync::LazyLock;
use std::time::Instant;

/// What the clock begins with, so that 0 can stand for "never".
const START_MS: u64 = 1000;

/// Milliseconds since the first call in this process, and one second.
pub(crate) fn ms_of(time: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let since = time.saturating_duration_since(*START).as_millis();
    u64::try_from(since).unwrap_or(u64::MAX / 2) + START_MS
}

pub(crate) fn now_ms() -> u64 {
    ms_of(Instant::now())
}
