//! A worker: one thread with one runtime, its own listening sockets, and everything that its
//! requests need without asking another thread.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::{Failure, SupervisedThread, Supervisor};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::context::{Shared, WorkerContext};
use crate::deadline::{Deadlines, TICK};
use crate::listener::{self, Accepting};

/// Idle connections to endpoints, and stalled streams, are looked through this often, in ticks.
const SWEEP_TICKS: u64 = 10;

/// How often a draining worker looks whether it is done.
const DRAIN_CHECK: Duration = Duration::from_millis(10);

/// What the control runtime asks of workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// Counts the updates that took endpoints away.
    pub(crate) endpoints_left: u64,
    pub(crate) drain: bool,
}

/// The sockets of one worker.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) http: TcpListener,
    pub(crate) https: TcpListener,
}

/// Starts a worker's thread.
///
/// # Errors
///
/// When there can be no more threads.
pub(crate) fn start(
    index: usize,
    shared: Arc<Shared>,
    sockets: Sockets,
    orders: watch::Receiver<Orders>,
    supervisor: &Supervisor,
) -> Result<SupervisedThread, Failure> {
    let run = move || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .expect("a runtime can be built at start");
        runtime.block_on(run(index, shared, sockets, orders));
    };
    supervisor.thread(format!("worker-{index}"), run)
}

async fn run(
    index: usize,
    shared: Arc<Shared>,
    sockets: Sockets,
    mut orders: watch::Receiver<Orders>,
) {
    let context = WorkerContext::new(index, shared, Deadlines::new(Instant::now()));
    tokio::task::spawn_local(sweep(context.clone()));
    // A closed channel is the end of the process: the same as a drain.
    let mut current = *orders.borrow_and_update();
    let tls = TlsAcceptor::from(context.shared.tls.plain.clone());
    let listeners = [
        listener::start(&context, sockets.http, None),
        listener::start(&context, sockets.https, Some(tls)),
    ];
    let mut endpoints_left = current.endpoints_left;
    while !current.drain {
        if orders.changed().await.is_err() {
            break;
        }
        current = *orders.borrow_and_update();
        if current.endpoints_left != endpoints_left {
            endpoints_left = current.endpoints_left;
            context.pool.close_gone();
        }
    }
    drain(&context, listeners).await;
}

/// Ends accepting, then waits for what is in flight.
async fn drain(context: &Rc<WorkerContext>, listeners: [Accepting; 2]) {
    let begun = Instant::now();
    for listener in listeners {
        listener.stop().await;
    }
    context.begin_drain();
    while context.connections() > 0 && begun.elapsed() < context.settings().drain_timeout {
        tokio::time::sleep(DRAIN_CHECK).await;
    }
    if context.connections() > 0 {
        tracing::warn!(connections = context.connections(), "drain timeout: closing");
    }
}

/// The worker's one timer.
async fn sweep(context: Rc<WorkerContext>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut count: u64 = 0;
    loop {
        let now = ticks.tick().await;
        context.deadlines.sweep(now.into_std());
        if let Some(log) = &context.access_log {
            log.flush();
        }
        count += 1;
        if count.is_multiple_of(SWEEP_TICKS) {
            let idle = context.settings().upstream_idle_ticks;
            let now = context.deadlines.now();
            context.pool.sweep(now, now.saturating_sub(idle));
            context.sweep_stalled();
        }
    }
}
