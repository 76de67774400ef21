//! `switchyard ready PROCESS`: whether a process on this machine is ready, for health checks where
//! there is no shell and no curl, as in the image.
//!
//! It asks the process's admin endpoint for `/readyz`. Left out: waiting, which the caller can do.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use daemon::flags::parse_address;

use crate::admin;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Config {
    /// The process to check
    #[arg(value_name = "PROCESS")]
    process: Process,

    /// Its admin endpoint; default: 127.0.0.1 and the default admin port of the process
    #[arg(long, env = "SWITCHYARD_ADMIN", value_name = "ADDR", value_parser = parse_address)]
    admin: Option<SocketAddr>,

    /// Time limit for connecting, and again for the answer
    #[arg(long, value_name = "TIME", default_value = "2s",
        value_parser = daemon::flags::parse_duration)]
    timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Process {
    Feed,
    Proxy,
    Ingress,
    Dns,
}

impl Process {
    fn admin(self) -> SocketAddr {
        let port = match self {
            Process::Feed => 7401,
            Process::Proxy => 7411,
            Process::Ingress => 7421,
            Process::Dns => 7431,
        };
        (Ipv4Addr::LOCALHOST, port).into()
    }
}

/// Prints `ok` and succeeds if the process is ready; else prints why not and fails.
pub(crate) fn run(config: &Config) -> ExitCode {
    let admin = config.admin.unwrap_or_else(|| config.process.admin());
    let (is_ready, said) = match ask(admin, config.timeout) {
        Ok(answer) => answer,
        Err(error) => (false, format!("{admin}: {error}")),
    };
    // If the output is not read, the exit code is enough.
    let _ = writeln!(io::stdout(), "{}", said.trim_end());
    if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether `/readyz` says so, and its text.
fn ask(address: SocketAddr, timeout: Duration) -> io::Result<(bool, String)> {
    match admin::get(address, "/readyz", timeout)? {
        (200, body) => Ok((true, body)),
        (503, body) => Ok((false, body)),
        _ => Err(admin::not_an_admin_endpoint()),
    }
}
