//! Whether control work makes progress: how long its present step has lasted.
//!
//! The admin endpoint answers on its own thread, so it would report no problem while the main task
//! is blocked forever, for example on a log that is not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A step of control work that lasts longer is considered stuck. The largest, a snapshot of 10,000
/// Services made from nothing, takes seconds on a busy machine.
const MAX_STEP: Duration = Duration::from_secs(60);

/// Shared by the work and its observers. `clone` shares it.
#[derive(Clone, Debug)]
pub(crate) struct Pulse {
    start: Instant,
    /// Milliseconds from `start` to the beginning of the step, plus one; 0 between steps.
    begun: Arc<AtomicU64>,
}

/// One step; it is over when this is dropped.
pub(crate) struct Beat<'p>(&'p Pulse);

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse { start: Instant::now(), begun: Arc::default() }
    }
}

impl Pulse {
    pub(crate) fn begin(&self) -> Beat<'_> {
        self.begun.store(self.ms_at(Instant::now()) + 1, Ordering::Relaxed);
        Beat(self)
    }

    /// Why control work is not live, if it is not.
    pub(crate) fn stuck(&self) -> Option<String> {
        self.stuck_at(Instant::now())
    }

    fn stuck_at(&self, now: Instant) -> Option<String> {
        let begun = self.begun.load(Ordering::Relaxed).checked_sub(1)?;
        let lasts = Duration::from_millis(self.ms_at(now).saturating_sub(begun));
        let seconds = lasts.as_secs();
        (lasts > MAX_STEP).then(|| format!("control work has made no progress for {seconds} s"))
    }

    fn ms_at(&self, time: Instant) -> u64 {
        let elapsed = time.saturating_duration_since(self.start);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX - 1)
    }
}

impl Drop for Beat<'_> {
    fn drop(&mut self) {
        self.0.begun.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_control_work_that_does_not_end_is_noticed() {
        let pulse = Pulse::default();
        let later = |seconds: u64| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(pulse.stuck_at(later(1000)), None, "between steps");
        let beat = pulse.begin();
        assert_eq!(pulse.stuck_at(later(30)), None);
        let reason = pulse.stuck_at(later(100)).unwrap();
        assert!(reason.starts_with("control work has made no progress for "), "{reason}");
        drop(beat);
        assert_eq!(pulse.stuck_at(later(1000)), None);
    }
}
