//! What all parts of a process share: shutdown, readiness, liveness, metrics and admin pages.

use crate::liveness::Liveness;
use crate::metrics::Metrics;
use crate::pages::Pages;
use crate::readiness::Readiness;
use crate::shutdown::Shutdown;
use crate::supervisor::Supervisor;

/// Handles shared by all parts of one process. `clone` is cheap.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// `proxy`, `ingress`, `dns` or `feed`: the `<process>` of its metric names.
    pub name: &'static str,
    /// Data threads to run: `--workers`, by default the cores that this process may use.
    pub workers: usize,
    /// `--state-dir`: where to keep what a cold start needs.
    pub state_dir: Option<std::path::PathBuf>,
    pub shutdown: Shutdown,
    pub readiness: Readiness,
    pub liveness: Liveness,
    /// Starts the threads and tasks that the process cannot do without.
    pub supervisor: Supervisor,
    pub metrics: Metrics,
    pub admin: Pages,
}

impl Daemon {
    /// Handles without signals or an admin endpoint, for tests and embedding.
    pub fn detached(name: &'static str, workers: usize) -> Daemon {
        let readiness = Readiness::default();
        let liveness = Liveness::new(readiness.clone());
        let shutdown = Shutdown::new(readiness.clone());
        Daemon {
            name,
            workers,
            state_dir: None,
            supervisor: Supervisor::new(liveness.clone(), shutdown.clone()),
            shutdown,
            readiness,
            liveness,
            metrics: Metrics::new(),
            admin: Pages::default(),
        }
    }
}
