//! The process's metrics, in the OpenMetrics text format.
//!
//! Metrics are registered once, under their full name, and updated through handles that share
//! atomics: nothing on a data path takes the registry's lock.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// The registry of one process. `clone` shares it.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let mut registry = Registry::default();
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("switchyard_build", "Version of the binary", Info::new(version));
        Metrics(Arc::new(Mutex::new(registry)))
    }

    /// Runs `register` with the registry; the names in it are complete and without `_total`,
    /// which the encoder appends to counters.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .expect("writing to a String cannot fail");
        text
    }
}
