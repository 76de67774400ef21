//! The session affinity of all service ports: one table a port, for as long as one of its
//! frontends uses it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use model::{ObjectName, Protocol};
use tokio::time::Instant;

use crate::affinity::Affinity;
use crate::resolver::Frontend;

/// How often clients that are away for long are forgotten: memory alone depends on it.
const SWEEP: Duration = Duration::from_secs(60);

type PortKey = (ObjectName, Arc<str>, Protocol);

#[derive(Debug, Default)]
pub(super) struct Affinities {
    ports: HashMap<PortKey, Port>,
    sweep: Option<Instant>,
}

#[derive(Debug)]
struct Port {
    affinity: Weak<Affinity>,
    timeout: Duration,
}

impl Affinities {
    /// The table of the frontend's service port; `None` if it has no affinity.
    pub(super) fn of(&mut self, frontend: &Frontend, max_clients: usize) -> Option<Arc<Affinity>> {
        let timeout = frontend.affinity?;
        let protocol = frontend.address.protocol;
        let key = (frontend.service.clone(), frontend.port_name.clone(), protocol);
        let known = self.ports.get(&key).and_then(|port| port.affinity.upgrade());
        let affinity = known.unwrap_or_else(|| Arc::new(Affinity::new(max_clients)));
        self.ports.insert(key, Port { affinity: Arc::downgrade(&affinity), timeout });
        self.sweep.get_or_insert_with(|| Instant::now() + SWEEP);
        Some(affinity)
    }

    /// When [`Affinities::tend`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.sweep
    }

    /// Forgets clients that are away for long, and ports without affinity.
    pub(super) fn tend(&mut self, now: Instant) {
        if self.sweep.is_none_or(|at| now < at) {
            return;
        }
        self.ports.retain(|_, port| match port.affinity.upgrade() {
            Some(affinity) => {
                affinity.forget_idle(port.timeout, now.into_std());
                true
            }
            None => false,
        });
        self.sweep = (!self.ports.is_empty()).then(|| now + SWEEP);
    }
}
