//! Readiness by guards: a process is ready while nothing holds a guard.
//!
//! Code with a reason for the process not to be ready holds a [`Guard`] with this reason. Dropping
//! the guard removes the reason, so it cannot be forgotten on any path.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The reasons why a process is not ready. `clone` shares them.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Reasons>>);

#[derive(Debug, Default)]
struct Reasons {
    next: u64,
    held: BTreeMap<u64, String>,
}

/// Keeps the process from being ready until dropped.
#[derive(Debug)]
#[must_use = "dropping the guard at once would declare the process ready"]
pub struct Guard {
    readiness: Readiness,
    id: u64,
}

impl Readiness {
    /// Adds a reason not to be ready, shown at `/readyz`.
    pub fn block(&self, reason: impl Into<String>) -> Guard {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = reasons.next;
        reasons.next += 1;
        reasons.held.insert(id, reason.into());
        Guard { readiness: self.clone(), id }
    }

    /// The reasons, oldest first; empty when ready.
    pub fn reasons(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).held.values().cloned().collect()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.readiness.0.lock().unwrap_or_else(PoisonError::into_inner).held.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_while_no_guard_is_held() {
        let readiness = Readiness::default();
        let first = readiness.block("waiting for Services");
        let second = readiness.block("draining");
        assert_eq!(readiness.reasons(), ["waiting for Services", "draining"]);
        drop(first);
        assert_eq!(readiness.reasons(), ["draining"]);
        drop(second);
        assert!(readiness.reasons().is_empty());
    }
}
