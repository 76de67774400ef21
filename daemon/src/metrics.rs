//! The process's metrics, in the OpenMetrics text format.
//!
//! Metrics are registered once, under their full name, and updated through handles that share
//! atomics: nothing on a data path takes the registry's lock.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// The commit that the binary was built from; empty if unknown.
static COMMIT: OnceLock<&'static str> = OnceLock::new();

/// Sets the commit that the binary was built from, for `switchyard_build_info`. To be called before
/// a process starts; only the first call counts.
pub fn built_from(commit: &'static str) {
    // A second call would set the same commit: there is one binary.
    let _ = COMMIT.set(commit);
}

/// The registry of one process. `clone` shares it.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let mut registry = Registry::default();
        let commit = COMMIT.get().copied().unwrap_or_default();
        let build = vec![("version", env!("CARGO_PKG_VERSION")), ("commit", commit)];
        let help = "Version of the binary, and the commit it was built from";
        registry.register("switchyard_build", help, Info::new(build));
        let help = "Log lines that could not be written, because the disk is full or the pipe is \
                    not read";
        registry.register("switchyard_log_lines_lost", help, crate::logging::lost().clone());
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
