//! The data threads: one for each UDP socket, and one for TCP, TLS and HTTPS. Each has a runtime of
//! its own.

use std::net::UdpSocket;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use daemon::quota::Quota;
use daemon::{Failure, SupervisedThread, Supervisor};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use crate::accept::{self, Listener};
use crate::forward::{Forwarder, Sockets};
use crate::metrics::Metrics;
use crate::query_log::{self, QueryLog, QueryLogMode};
use crate::responder::{Responder, Shared};
use crate::tcp::TcpServer;
use crate::udp::{self, UdpServer};

/// The threads that serve, and how they are told to stop.
pub(crate) struct Threads {
    draining: Arc<AtomicBool>,
    begin: watch::Sender<bool>,
    sockets: Vec<Arc<UdpSocket>>,
    supervisor: Supervisor,
    threads: Vec<SupervisedThread>,
}

/// What every data thread is made with.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Metrics,
    pub(crate) sockets: Sockets,
    pub(crate) query_log: Option<QueryLog>,
}

impl Setup {
    /// A responder for the current thread, with the tasks that its forwarder runs.
    fn responder(self) -> (Responder, Rc<LocalSet>) {
        let tasks = Rc::new(LocalSet::new());
        let counters = self.metrics.thread();
        let forwarding = self.shared.forwarding.clone();
        let forwarder = Forwarder::new(forwarding, counters.clone(), tasks.clone(), self.sockets);
        (Responder::new(self.shared, counters, forwarder, self.query_log), tasks)
    }
}

impl Threads {
    pub(crate) fn new(supervisor: Supervisor) -> Threads {
        Threads {
            draining: Arc::default(),
            begin: watch::Sender::new(false),
            sockets: Vec::new(),
            supervisor,
            threads: Vec::new(),
        }
    }

    /// Starts the thread that writes the query log, which ends after all others. Nothing if
    /// nothing is logged.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(crate) fn log_queries(
        &mut self,
        mode: QueryLogMode,
        metrics: &Metrics,
    ) -> Result<Option<QueryLog>, Failure> {
        let Some((log, lines)) = query_log::queue(mode, &metrics.query_log_lost) else {
            return Ok(None);
        };
        self.threads.push(self.supervisor.thread("query-log", move || lines.write())?);
        Ok(Some(log))
    }

    /// Starts the thread of a UDP socket.
    ///
    /// # Errors
    ///
    /// When the system gives no thread or no runtime.
    pub(crate) fn serve_udp(
        &mut self,
        number: usize,
        socket: Arc<UdpSocket>,
        setup: Setup,
    ) -> Result<(), Failure> {
        self.sockets.push(socket.clone());
        let draining = self.draining.clone();
        self.spawn(format!("udp-{number}"), move |runtime| {
            let (responder, tasks) = setup.responder();
            let server = UdpServer { responder, socket, draining };
            if let Err(error) = server.serve(&runtime, &tasks) {
                tracing::error!(%error, "cannot wait for datagrams");
            }
        })
    }

    /// Starts the thread for TCP. `quota` is that of all listeners' connections together.
    ///
    /// # Errors
    ///
    /// When the system gives no thread or no runtime.
    pub(crate) fn serve_tcp(
        &mut self,
        listeners: Vec<Listener>,
        quota: Quota,
        idle_timeout: Duration,
        setup: Setup,
    ) -> Result<(), Failure> {
        let draining = self.begin.subscribe();
        self.spawn("tcp".to_owned(), move |runtime| {
            let metrics = setup.metrics.clone();
            let (responder, tasks) = setup.responder();
            let server = TcpServer::new(responder, quota, idle_timeout, metrics, draining);
            tasks.block_on(&runtime, serve_listeners(&server, listeners));
        })
    }

    /// Runs `work` on a thread of its own, with a runtime of its own.
    fn spawn(
        &mut self,
        name: String,
        work: impl FnOnce(Runtime) + Send + 'static,
    ) -> Result<(), Failure> {
        let failed = |error| Failure::failed(format!("cannot start thread {name}"), error);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        self.threads.push(self.supervisor.thread(name, move || work(runtime))?);
        Ok(())
    }

    /// Answers what was received, waits for what is in flight, and ends all threads.
    pub(crate) async fn drain(mut self, limit: Duration) {
        self.threads.iter().for_each(SupervisedThread::release);
        self.draining.store(true, Ordering::Release);
        self.begin.send_replace(true);
        for socket in &self.sockets {
            udp::wake(socket);
        }
        // A socket closes when its thread ends; from then on, clients get an error at once.
        drop(self.sockets);
        let all = async {
            for thread in &mut self.threads {
                thread.ended().await;
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!(?limit, "not all queries were answered within --drain-timeout");
        }
    }
}

async fn serve_listeners(server: &TcpServer, listeners: Vec<Listener>) {
    let mut servers = JoinSet::new();
    for Listener { socket, protocol } in listeners {
        match TcpListener::from_std(socket) {
            Ok(socket) => {
                servers.spawn_local(accept::serve(server.clone(), socket, protocol));
            }
            Err(error) => tracing::error!(%error, "cannot accept connections"),
        }
    }
    while servers.join_next().await.is_some() {}
}
