//! A data thread's pair: one that serves TCP connections and one that serves UDP sessions, each
//! with its own listeners.
//!
//! Control opens the sockets and hands them over in batches; nothing here waits for control, and
//! a connection never moves to another thread. An order is answered when it has been carried out.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use model::Protocol;
use rustix::event::{EventfdFlags, eventfd};
use smallvec::{SmallVec, smallvec};
use tokio::sync::{mpsc, oneshot};

use super::own::Own;
use super::room::Room;
use super::serving::Cell;
use super::tcp::{Letter, TcpThread};
use super::udp_thread;

/// A bound address: what identifies the listeners on it.
pub(super) type Bound = (Protocol, SocketAddr);

/// A socket for one worker, ready to serve.
#[derive(Debug)]
pub(super) struct Opened<S> {
    pub(super) bound: Bound,
    pub(super) cell: Arc<Cell>,
    pub(super) socket: S,
}

#[derive(Debug)]
pub(super) enum Order {
    OpenTcp(Vec<Opened<Arc<TcpListener>>>),
    OpenUdp(Vec<Opened<UdpSocket>>),
    /// Their frontends are gone or have no endpoint: refuse at once.
    Close(Arc<[Bound]>),
    /// Endpoints of their frontends went: end UDP sessions that lead to them.
    Refresh(Arc<[Bound]>),
    /// The drain time-out of some endpoints is over: end the TCP connections to them.
    End,
    /// Stop accepting, and answer once all UDP clients that wait for a reply have it.
    Drain,
}

/// What a data thread is started with.
#[derive(Clone, Debug)]
pub(super) struct WorkerLimits {
    pub(super) room: Arc<Room>,
    pub(super) own: Arc<Own>,
    pub(super) connect_timeout: Duration,
    pub(super) udp_idle_timeout: Duration,
}

/// Control's end of the two threads. Dropping it resets all connections that are left.
#[derive(Debug)]
pub(super) struct Worker {
    tcp: Option<std::sync::mpsc::Sender<Letter>>,
    /// Wakes the TCP thread to read its orders.
    tcp_inbox: Arc<OwnedFd>,
    udp: Option<mpsc::UnboundedSender<Letter>>,
    threads: Vec<JoinHandle<()>>,
}

impl Worker {
    /// # Errors
    ///
    /// When the kernel refuses a thread or its descriptors.
    pub(super) fn start(number: usize, limits: &WorkerLimits) -> io::Result<Worker> {
        // Unbounded, but control waits for the answers before it sends more.
        let (tcp, letters) = std::sync::mpsc::channel();
        let tcp_inbox = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let tcp_inbox = Arc::new(tcp_inbox);
        let tcp_thread = TcpThread::new(letters, tcp_inbox.clone(), limits)?;
        let mut worker =
            Worker { tcp: Some(tcp), tcp_inbox, udp: None, threads: Vec::with_capacity(2) };
        worker.spawn(format!("tcp-{number}"), || tcp_thread.run())?;
        let (udp, letters) = mpsc::unbounded_channel();
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        let limits = limits.clone();
        worker
            .spawn(format!("udp-{number}"), move || udp_thread::run(letters, limits, &started))?;
        outcome.recv().expect("the thread reports before it ends")?;
        worker.udp = Some(udp);
        Ok(worker)
    }

    fn spawn(&mut self, name: String, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(std::thread::Builder::new().name(name).spawn(body)?);
        Ok(())
    }

    /// Gives an order to those of the threads whom it concerns; each receiver resolves when one
    /// of them has carried it out.
    pub(super) fn order(&self, order: Order) -> SmallVec<[oneshot::Receiver<()>; 2]> {
        match order {
            Order::OpenTcp(_) | Order::End => smallvec![self.order_tcp(order)],
            Order::OpenUdp(_) | Order::Refresh(_) => smallvec![self.order_udp(order)],
            Order::Close(bound) => smallvec![
                self.order_tcp(Order::Close(bound.clone())),
                self.order_udp(Order::Close(bound)),
            ],
            Order::Drain => {
                smallvec![self.order_tcp(Order::Drain), self.order_udp(Order::Drain)]
            }
        }
    }

    fn order_tcp(&self, order: Order) -> oneshot::Receiver<()> {
        let (done, carried_out) = oneshot::channel();
        if let Some(tcp) = &self.tcp {
            // A thread that is gone drops `done`, which its receiver sees.
            let _ = tcp.send((order, done));
            self.wake_tcp();
        }
        carried_out
    }

    fn order_udp(&self, order: Order) -> oneshot::Receiver<()> {
        let (done, carried_out) = oneshot::channel();
        if let Some(udp) = &self.udp {
            let _ = udp.send((order, done));
        }
        carried_out
    }

    fn wake_tcp(&self) {
        // It fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&*self.tcp_inbox, &1_u64.to_ne_bytes());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        (self.tcp, self.udp) = (None, None);
        self.wake_tcp();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
