//! Drain: the first SIGTERM or SIGINT begins it, a second ends the process at once, or after a
//! short time to clean up. SIGHUP causes files to be read again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::readiness::{Guard, Readiness};

/// How long a process may clean up after a second signal. It is short because the operator does not
/// want to wait, and no data is in flight any more.
const TIDY_TIMEOUT: Duration = Duration::from_millis(500);

/// Tells all parts of a process to drain. `clone` shares it.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    draining: watch::Sender<bool>,
    ending: watch::Sender<bool>,
    reloads: watch::Sender<u64>,
    readiness: Readiness,
    guard: Mutex<Option<Guard>>,
}

/// Listens for signals until dropped.
#[derive(Debug)]
pub(crate) struct Signals(tokio::task::JoinHandle<()>);

impl Drop for Signals {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shutdown {
    pub(crate) fn new(readiness: Readiness) -> Shutdown {
        Shutdown(Arc::new(Inner {
            draining: watch::Sender::new(false),
            ending: watch::Sender::new(false),
            reloads: watch::Sender::new(0),
            readiness,
            guard: Mutex::new(None),
        }))
    }

    /// Begins the drain: removes readiness first, then wakes all waiters of [`Shutdown::draining`].
    pub fn begin(&self) {
        let mut guard = self.0.guard.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            *guard = Some(self.0.readiness.block("draining"));
            self.0.draining.send_replace(true);
        }
    }

    pub fn is_draining(&self) -> bool {
        *self.0.draining.borrow()
    }

    /// Resolves once the drain has begun. Cancel safe; may be awaited on any runtime.
    pub async fn draining(&self) {
        let mut draining = self.0.draining.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _ = draining.wait_for(|draining| *draining).await;
    }

    /// Resolves at the second signal. While a future waits for this, the process gets a short time
    /// to clean up (half-answered clients, routes); otherwise it ends at once.
    pub async fn ending(&self) {
        let mut ending = self.0.ending.subscribe();
        // As in `draining`.
        let _ = ending.wait_for(|ending| *ending).await;
    }

    pub(crate) fn is_ending(&self) -> bool {
        *self.0.ending.borrow()
    }

    /// A receiver that changes at every SIGHUP.
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.0.reloads.subscribe()
    }

    /// Wakes those who read something again at SIGHUP; `false` if there are none.
    fn reload(&self) -> bool {
        self.0.reloads.send_modify(|count| *count += 1);
        self.0.reloads.receiver_count() > 0
    }

    /// Drains when the process `parent` ends, for whatever reason. The kernel watches the thread
    /// that started this process, so a parent starts its children from a thread that stays.
    pub(crate) fn end_with(&self, parent: u32) {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        let asked = set_parent_process_death_signal(Some(Signal::TERM));
        // It may have ended before the request to the kernel.
        let orphan = getppid().is_none_or(|id| id.as_raw_nonzero().get() as u32 != parent);
        if asked.is_err() || orphan {
            self.begin();
        }
    }

    pub(crate) fn listen_to_signals(&self) -> Signals {
        let open = |kind| signal(kind).expect("a runtime with signals enabled");
        let mut terminate = open(SignalKind::terminate());
        let mut interrupt = open(SignalKind::interrupt());
        let mut hangup = open(SignalKind::hangup());
        let shutdown = self.clone();
        Signals(tokio::spawn(async move {
            loop {
                let ending = tokio::select! {
                    _ = terminate.recv() => true,
                    _ = interrupt.recv() => true,
                    _ = hangup.recv() => false,
                };
                if !ending {
                    if shutdown.reload() {
                        tracing::info!("SIGHUP: reading the feed and all files again");
                    }
                } else if shutdown.is_draining() {
                    tracing::warn!("second signal: exiting without draining");
                    // Counted before the waiters are woken.
                    let waiting = shutdown.0.ending.receiver_count();
                    shutdown.0.ending.send_replace(true);
                    if waiting > 0 {
                        tokio::time::sleep(TIDY_TIMEOUT).await;
                    }
                    std::process::exit(1);
                } else {
                    tracing::info!("draining");
                    shutdown.begin();
                }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_reads_something_again_says_so() {
        let shutdown = Shutdown::new(Readiness::default());
        assert!(!shutdown.reload());
        let reloads = shutdown.reloads();
        assert!(shutdown.reload() && reloads.has_changed().unwrap());
        drop(reloads);
        assert!(!shutdown.reload());
    }
}
