//! A worker: one thread with one runtime, its own listening sockets, and everything that its
//! requests need without asking another thread.

use std::cell::{Cell, RefCell};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use daemon::{Failure, SupervisedThread, Supervisor};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::connection;
use crate::deadline::{Deadlines, TICK};
use crate::forward::REQUEST_ID_BYTES;
use crate::limits::Limits;
use crate::listener::{self, Accepting};
use crate::metrics::{Metrics, Shard};
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::upstream::Pool;

/// Idle connections to endpoints are looked through this often, in ticks.
const POOL_SWEEP_TICKS: u64 = 10;

/// How often a draining worker looks whether it is done.
const DRAIN_CHECK: Duration = Duration::from_millis(10);

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) metrics: Arc<Metrics>,
}

/// What workers are told.
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

/// One worker, as its connections see it.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) deadlines: Rc<Deadlines>,
    pub(crate) pool: Pool,
    shared: Arc<Shared>,
    index: usize,
    random: RefCell<SmallRng>,
    draining: Cell<bool>,
    connections: Cell<usize>,
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
    let deadlines = Deadlines::new(Instant::now());
    let worker = Rc::new(Worker {
        deadlines,
        pool: Pool::default(),
        shared,
        index,
        random: RefCell::new(rand::make_rng()),
        draining: Cell::new(false),
        connections: Cell::new(0),
    });
    tokio::task::spawn_local(sweep(worker.clone()));
    // A closed channel is the end of the process: the same as a drain.
    let mut told = *orders.borrow_and_update();
    let tls = TlsAcceptor::from(worker.shared.tls.clone());
    let listeners = [
        listener::start(&worker, sockets.http, None),
        listener::start(&worker, sockets.https, Some(tls)),
    ];
    let mut endpoints_left = told.endpoints_left;
    while !told.drain {
        if orders.changed().await.is_err() {
            break;
        }
        told = *orders.borrow_and_update();
        if told.endpoints_left != endpoints_left {
            endpoints_left = told.endpoints_left;
            worker.pool.close_gone();
        }
    }
    drain(&worker, listeners).await;
}

/// Ends accepting, then waits for what is in flight.
async fn drain(worker: &Rc<Worker>, listeners: [Accepting; 2]) {
    let begun = Instant::now();
    for listener in listeners {
        listener.stop().await;
    }
    worker.draining.set(true);
    worker.deadlines.wake_all();
    worker.pool.close_all();
    while worker.connections.get() > 0 && begun.elapsed() < worker.settings().drain_timeout {
        tokio::time::sleep(DRAIN_CHECK).await;
    }
    if worker.connections.get() > 0 {
        tracing::warn!(connections = worker.connections.get(), "drain timeout: closing");
    }
}

/// The worker's one timer.
async fn sweep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut count: u64 = 0;
    loop {
        let now = ticks.tick().await;
        worker.deadlines.sweep(now.into_std());
        count += 1;
        if count.is_multiple_of(POOL_SWEEP_TICKS) {
            let idle = worker.settings().upstream_idle_ticks;
            worker.pool.sweep(worker.deadlines.now().saturating_sub(idle));
        }
    }
}

impl Worker {
    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    pub(crate) fn limits(&self) -> &Arc<Limits> {
        &self.shared.limits
    }

    /// What is served at this moment; not to be held over an await.
    pub(crate) fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.shared.snapshot.load()
    }

    /// Where this worker counts.
    pub(crate) fn shard(&self) -> &Shard {
        &self.shared.metrics.shards[self.index]
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// A new request's id: random, in hexadecimal.
    pub(crate) fn request_id(&self) -> [u8; REQUEST_ID_BYTES] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut random: u128 = self.random.borrow_mut().random();
        let mut id = [0; REQUEST_ID_BYTES];
        for digit in &mut id {
            *digit = DIGITS[(random & 15) as usize];
            random >>= 4;
        }
        id
    }

    /// Serves a connection in a task of its own.
    pub(crate) fn spawn(
        self: &Rc<Worker>,
        stream: tokio::net::TcpStream,
        peer: std::net::SocketAddr,
        tls: Option<TlsAcceptor>,
        permit: crate::limits::Permit,
    ) {
        self.shard().connections.add(1);
        self.connections.set(self.connections.get() + 1);
        let open = Open(self.clone());
        tokio::task::spawn_local(async move {
            connection::serve(open.0.clone(), stream, peer, tls, permit).await;
        });
    }
}

/// An open connection, which a drain waits for.
struct Open(Rc<Worker>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}
