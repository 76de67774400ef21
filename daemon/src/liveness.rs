//! Liveness: whether the process can still do its work at all. What fails here stays failed until a
//! restart, unlike the reasons in [`Readiness`].

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::pulse::Pulse;
use crate::readiness::{Guard, Readiness};

/// What has failed for good. `clone` shares it.
#[derive(Clone, Debug)]
pub struct Liveness(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    readiness: Readiness,
    failures: Mutex<Vec<(String, Guard)>>,
    failed: watch::Sender<bool>,
    pulse: Pulse,
}

impl Liveness {
    pub(crate) fn new(readiness: Readiness) -> Liveness {
        let (failures, failed) = (Mutex::default(), watch::Sender::new(false));
        Liveness(Arc::new(Inner { readiness, failures, failed, pulse: Pulse::default() }))
    }

    /// The process is not live and not ready from now on: it drains and ends, and its supervisor
    /// (systemd, kubelet, `up`) restarts it.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        let guard = self.0.readiness.block(reason.clone());
        self.0.failures.lock().unwrap_or_else(PoisonError::into_inner).push((reason, guard));
        self.0.failed.send_replace(true);
    }

    /// What has failed, in its order; empty while the process is live.
    pub fn failures(&self) -> Vec<String> {
        let failures = self.0.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.iter().map(|(reason, _)| reason.clone()).collect()
    }

    /// Why the process is not live now: what has failed, and control work that is stuck.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = self.failures();
        reasons.extend(self.0.pulse.stuck());
        reasons
    }

    /// The steps of control work.
    pub(crate) fn pulse(&self) -> &Pulse {
        &self.0.pulse
    }

    /// Resolves once something has failed. Cancel safe.
    pub async fn failed(&self) {
        let mut failed = self.0.failed.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        let _ = failed.wait_for(|failed| *failed).await;
    }
}
