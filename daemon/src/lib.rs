//! What every Switchyard process needs besides its work: signals and drain, readiness and
//! liveness, the admin endpoint, metrics and logging; and what data paths have in common:
//! supervised threads, listeners, quotas of clients, the PROXY protocol.
//!
//! [`start`] sets the process up, runs it on the control runtime and turns its result into an
//! exit code. Nothing here knows of Kubernetes.

pub mod admin;
pub mod bind_error;
pub mod client_tls;
pub mod descriptors;
mod failure;
pub mod flags;
pub mod fuzz;
mod handles;
mod library_lines;
pub mod listen;
pub mod liveness;
mod log_filter;
pub mod log_limit;
pub mod logging;
pub mod metrics;
mod notify;
pub mod output;
mod pages;
pub mod proxy_protocol;
mod pulse;
pub mod quota;
pub mod readiness;
pub mod shutdown;
pub mod supervisor;

use std::future::Future;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

pub use failure::Failure;
pub use flags::{Flags, LogFlags};
pub use handles::Daemon;
pub use liveness::Liveness;
pub use log_limit::LogLimit;
pub use metrics::Metrics;
pub use pages::{PageError, Pages};
pub use readiness::{Guard, Readiness};
pub use shutdown::Shutdown;
pub use supervisor::{SupervisedThread, Supervisor};

/// How often a child looks whether it is ready, until it is.
const READY_POLL: std::time::Duration = std::time::Duration::from_millis(5);

/// Runs a process to its end: logging, control runtime, signals, admin endpoint, then `run`.
///
/// `run` returns once it has drained. It takes its readiness guards before it first waits: until
/// then the process is not ready, after that it is unless a guard is held. Errors are printed
/// with their causes, one a line.
///
/// When a supervised thread or task ends, or `run` panics, the process is not live any more: it
/// drains what still works, and fails.
pub fn start<F, Fut>(
    name: &'static str,
    flags: &Flags,
    admin: std::net::SocketAddr,
    run: F,
) -> ExitCode
where
    F: FnOnce(Daemon) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    // Next to the lines of other processes, the name shows which process wrote them.
    let beside_others = flags.parent.is_some();
    logging::init(&flags.log, Some(logging::Process { name, beside_others }));
    // The control work is small: one worker, so that data threads keep their cores.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .expect("a runtime can be built at start");
    let daemon = Daemon::detached(name, flags.workers());
    let daemon = Daemon { state_dir: flags.state_dir.clone(), ..daemon };
    let ended = Arc::new(Mutex::new(false));
    let mut starting = Some(daemon.readiness.block("starting"));
    let outcome = runtime.block_on(async {
        let _signals = daemon.shutdown.listen_to_signals();
        if let Some(parent) = flags.parent {
            daemon.shutdown.end_with(parent);
            tokio::spawn(tell_parent(ready(daemon.readiness.clone(), ended.clone())));
        }
        let is_ready = ready(daemon.readiness.clone(), ended.clone());
        let manager = tokio::spawn(notify::follow(is_ready, daemon.shutdown.clone()));
        admin::serve(admin, &daemon).await?;
        tokio::spawn(log_limit::report());
        tokio::spawn(drain_when_not_live(daemon.clone()));
        let mut work = std::pin::pin!(run(daemon.clone()));
        let outcome = std::future::poll_fn(|cx| {
            // Work that fails drops its readiness guards before its failure is noticed.
            let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            let beat = daemon.liveness.pulse().begin();
            let polled = supervisor::catch(|| work.as_mut().poll(cx));
            drop(beat);
            let polled = polled.unwrap_or_else(|| {
                daemon.liveness.fail("control work panicked");
                Poll::Ready(Ok(()))
            });
            *ended = polled.is_ready();
            // When `run` waits for the first time, it holds all guards that it needs.
            starting = None;
            polled
        })
        .await
        .and_then(|()| live(&daemon.liveness));
        if daemon.shutdown.is_draining() {
            // Notify the service manager of the drain even if there was nothing to drain.
            let _ = manager.await;
        }
        outcome
    });
    runtime.shutdown_background();
    match outcome {
        // The second signal cut the drain short.
        Ok(()) if daemon.shutdown.is_ending() => ExitCode::FAILURE,
        outcome => exit_code(outcome),
    }
}

/// Begins the drain once the process is not live.
async fn drain_when_not_live(daemon: Daemon) {
    daemon.liveness.failed().await;
    let failures = daemon.liveness.failures();
    tracing::error!(?failures, "the process cannot continue: it drains, then exits with an error");
    daemon.shutdown.begin();
}

/// An error if the process is not live.
fn live(liveness: &Liveness) -> Result<(), Failure> {
    let failures = liveness.failures();
    if failures.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed { what: failures.join("; "), source: None })
}

/// Returns true once the process is ready, or false once its work has ended. The lock of `ended` is
/// held while the work is polled.
async fn ready(readiness: Readiness, ended: Arc<Mutex<bool>>) -> bool {
    loop {
        tokio::time::sleep(READY_POLL).await;
        // The work is being polled at this moment: try again later.
        let Ok(ended) = ended.try_lock() else { continue };
        if *ended || readiness.reasons().is_empty() {
            return !*ended;
        }
    }
}

/// Tells the parent once that the process is ready. Standard input of a child is a socket for this.
async fn tell_parent(ready: impl Future<Output = bool>) {
    if ready.await {
        // Without a parent process, nothing reads this.
        let _ = rustix::io::write(std::io::stdin(), b"+");
    }
}

/// Logs how a command ended, each cause of a failure on its own line, and gives its exit code.
pub fn exit_code(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => {
            tracing::debug!("stopped");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            report(&failure);
            failure.exit_code()
        }
    }
}

fn report(failure: &Failure) {
    tracing::error!("{failure}");
    let mut cause = std::error::Error::source(failure);
    while let Some(error) = cause {
        tracing::error!("  caused by: {error}");
        cause = error.source();
    }
}
