//! Child processes of `up` and `demo`: the same binary with another subcommand.
//!
//! A child never outlives its parent: it gets the parent's process id, and asks the kernel for a
//! SIGTERM when that process ends for any reason. Its standard input is a socket on which it says
//! when it is ready, so that another program that answers at its address is not mistaken for it.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use daemon::Failure;
use daemon::bind_error::{Transport, describe};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

/// The first wait before a child that ended is restarted; doubled each time.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// The longest wait, so that a child runs soon after an operator fixed the cause.
const RESTART_MOST: Duration = Duration::from_secs(5);
/// A child that ran this long has started successfully: the next wait is the first again.
const LIVED: Duration = Duration::from_secs(10);

/// Environment variables that have a different meaning in each process and must not be passed to
/// all of them.
const PRIVATE_ENVIRONMENT: [&str; 6] = [
    "SWITCHYARD_ADMIN",
    "SWITCHYARD_DIR",
    "SWITCHYARD_FEED",
    "SWITCHYARD_LISTEN",
    "SWITCHYARD_NAME",
    "SWITCHYARD_TOKEN_FILE",
];

/// Environment variables of other processes. The feed has flags of the same names, but must not
/// limit its own clients (the other processes) by them, and has no TLS: `up` and `demo` have it on
/// loopback.
const NOT_OF_THE_FEED: [&str; 3] =
    ["SWITCHYARD_MAX_CONNECTIONS", "SWITCHYARD_TLS_CERT", "SWITCHYARD_TLS_KEY"];

/// Exit code of a process with invalid flags or configuration.
const BAD_CONFIGURATION: i32 = 2;

/// A process to run: a subcommand and its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) args: Vec<String>,
    /// The error if it ends before it was ever ready. `None`: it is restarted.
    pub(crate) vital: Option<String>,
    /// The addresses that it listens on: if one of them cannot be bound, it cannot start.
    pub(crate) addresses: Vec<Address>,
}

/// An address of a process, and the flag that changes it.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) at: SocketAddr,
    pub(crate) flag: &'static str,
    /// Besides TCP.
    pub(crate) udp: bool,
}

/// A started process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) name: &'static str,
    child: Child,
    /// The socket on which it says that it is ready.
    news: UnixStream,
}

impl Plan {
    /// Starts the process.
    ///
    /// # Errors
    ///
    /// When this binary cannot be executed again.
    pub(crate) fn start(&self) -> io::Result<Running> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(self.name).args(&self.args);
        command.args(["--parent", &std::process::id().to_string()]);
        for variable in PRIVATE_ENVIRONMENT {
            command.env_remove(variable);
        }
        if self.name == "feed" {
            for variable in NOT_OF_THE_FEED {
                command.env_remove(variable);
            }
        }
        // Without its own process group, a child would get both the terminal's Ctrl-C and the
        // parent's SIGTERM, and a second signal ends it without a drain.
        command.process_group(0).kill_on_drop(true);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let news = UnixStream::from_std(ours)?;
        Ok(Running { name: self.name, child: command.spawn()?, news })
    }

    /// Keeps the process running until `stop` resolves, then drains it. `up` becomes true when it
    /// is ready for the first time.
    ///
    /// # Errors
    ///
    /// When its configuration is invalid, so that a restart would not help; or when it is vital and
    /// ends before it was ever ready.
    pub(crate) async fn supervise(
        &self,
        stop: impl Future<Output = ()>,
        up: &watch::Sender<bool>,
    ) -> Result<(), Failure> {
        let mut wait = RESTART_FIRST;
        tokio::pin!(stop);
        loop {
            let started = Instant::now();
            let cause = match self.start() {
                Err(error) => error.to_string(),
                Ok(mut running) => tokio::select! {
                    () = &mut stop => {
                        running.drain().await;
                        return Ok(());
                    }
                    status = running.live(up) => self.cause_of(&status, *up.borrow())?,
                },
            };
            if started.elapsed() > LIVED {
                wait = RESTART_FIRST;
            }
            tracing::warn!(process = self.name, cause, ?wait, "exited, will be restarted");
            tokio::select! {
                () = &mut stop => return Ok(()),
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(RESTART_MOST),
            }
        }
    }

    /// Why it ended, or the error that a restart does not fix. If it was ready once, its flags are
    /// valid, and the present problem, such as a missing folder, may be temporary.
    fn cause_of(
        &self,
        status: &io::Result<ExitStatus>,
        was_ready: bool,
    ) -> Result<String, Failure> {
        let bad = status.as_ref().is_ok_and(|s| s.code() == Some(BAD_CONFIGURATION));
        let cause = match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        match &self.vital {
            _ if was_ready => Ok(cause),
            _ if bad => {
                let name = self.name;
                let what =
                    format!("{name}: it cannot run with this configuration, see its message above");
                Err(Failure::Configuration(what))
            }
            vital => match (vital, self.unusable_addresses()) {
                (None, None) => Ok(cause),
                (_, Some(problem)) => {
                    let what = format!("{}: {problem}", self.name);
                    Err(Failure::Failed { what, source: None })
                }
                (Some(what), None) => {
                    Err(Failure::Failed { what: format!("{what} ({cause})"), source: None })
                }
            },
        }
    }

    /// Why its addresses cannot be bound now, and what to do; `None` if they can.
    pub(crate) fn unusable_addresses(&self) -> Option<String> {
        let problems: Vec<String> = self.addresses.iter().filter_map(Address::problem).collect();
        (!problems.is_empty()).then(|| problems.join("; "))
    }
}

impl Address {
    /// Why it cannot be bound now. Binds it, and closes it at once.
    fn problem(&self) -> Option<String> {
        let describe = |transport, error| describe(self.at, transport, self.flag, &error);
        let tcp = TcpListener::bind(self.at).map_err(|e| describe(Transport::Tcp, e));
        let udp = || UdpSocket::bind(self.at).map_err(|e| describe(Transport::Udp, e));
        tcp.err().or_else(|| self.udp.then(udp).and_then(Result::err))
    }
}

impl Running {
    /// Its exit status, if it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until the process says that it is ready; `false` when it ends before that.
    pub(crate) async fn is_ready(&mut self) -> bool {
        matches!(self.news.read(&mut [0]).await, Ok(1))
    }

    /// Waits for its end, and records when it becomes ready.
    async fn live(&mut self, up: &watch::Sender<bool>) -> io::Result<ExitStatus> {
        if self.is_ready().await {
            up.send_replace(true);
        }
        self.child.wait().await
    }

    /// Asks the process to drain and waits for its end; the process has its own time-out. A second
    /// SIGTERM or SIGINT to this process is passed on, and ends the child at once.
    pub(crate) async fn drain(mut self) {
        self.terminate();
        let Ok(second) = end_signal() else { return };
        tokio::pin!(second);
        tokio::select! {
            _ = self.child.wait() => {}
            () = &mut second => {
                self.terminate();
                let _ = self.child.wait().await;
            }
        }
    }

    fn terminate(&self) {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        if let Some(pid) = pid {
            // It may have ended in the meantime: then there is nothing to signal.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

/// Resolves at the next SIGTERM or SIGINT; both are caught from this call on.
///
/// # Errors
///
/// When the runtime cannot listen to signals.
pub(crate) fn end_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
