//! The L7 ingress.
mod route;
mod snapshot;

use std::net::SocketAddr;

use daemon::{Daemon, Failure};
use feed::{Kind, Kinds, Updates};

/// The kinds of object that this process follows.
pub const KINDS: Kinds = Kinds::of(&[Kind::Service, Kind::EndpointSlice]);

/// The process's own flags.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Admin endpoint (/livez /readyz /metrics /snapshot /status)
    #[arg(long, env = "SWITCHYARD_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:7421")]
    pub admin: SocketAddr,
}

/// Runs until drained.
///
/// # Errors
///
/// When a configured address cannot be bound.
pub async fn run(_config: Config, _updates: Updates, daemon: Daemon) -> Result<(), Failure> {
    daemon.shutdown.draining().await;
    Ok(())
}
