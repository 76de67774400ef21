//! The flags that all processes share, each with its environment twin.

use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Flags shared by feed, proxy, ingress and dns. `--admin` stands in each process's own
/// configuration, because its default differs.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Data threads; default: the cores this process may use (affinity and cgroup quota)
    #[arg(long, env = "SWITCHYARD_WORKERS", value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    #[command(flatten)]
    pub log: LogFlags,

    /// Where to keep the last good state for a cold start without the feed
    #[arg(long, env = "SWITCHYARD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Drain when the process with this id ends: set by `up` and `demo` for their children
    #[arg(long, hide = true, value_name = "PID")]
    pub parent: Option<u32>,
}

/// The flags of logging, which every subcommand has.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LogFlags {
    /// Log as text or JSON; default: text on a terminal, JSON elsewhere
    #[arg(long = "log-format", env = "SWITCHYARD_LOG_FORMAT", value_name = "FORMAT")]
    pub format: Option<LogFormat>,

    /// What to log: error, warn, info, debug, trace, or a list of target=level; default: info
    #[arg(long = "log", env = "SWITCHYARD_LOG", value_name = "FILTER")]
    pub filter: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl Flags {
    /// `--workers`, else the cores that the affinity mask and the cgroup quota leave.
    pub fn workers(&self) -> usize {
        self.workers
            .or_else(|| std::thread::available_parallelism().ok())
            .map_or(1, NonZeroUsize::get)
    }
}
