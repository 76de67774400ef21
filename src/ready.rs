//! `switchyard ready PROCESS`: whether a process on this machine is ready, for health checks where
//! there is no shell and no curl, as in the image.
//!
//! It asks the process's admin endpoint for `/readyz`. Left out: waiting, which the caller can do.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use daemon::flags::parse_address;

/// The reasons for not being ready are a few lines.
const MAX_ANSWER: u64 = 64 << 10;

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
fn ask(admin: SocketAddr, timeout: Duration) -> io::Result<(bool, String)> {
    // The kernel does not accept a time-out of zero.
    let timeout = timeout.max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&admin, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    match head.split(' ').nth(1) {
        Some("200") => Ok((true, body.to_owned())),
        Some("503") => Ok((false, body.to_owned())),
        _ => Err(io::Error::other("the server at this address is not an admin endpoint")),
    }
}
