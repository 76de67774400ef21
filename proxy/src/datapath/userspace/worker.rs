//! A data thread: one current-thread runtime with its own listeners, connections and sessions.
//!
//! Control opens the sockets and hands them over in batches; nothing here waits for control, and
//! a connection never moves to another thread. An order is answered when it has been carried out.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use feed::Protocol;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_local;

use super::downstream::Downstream;
use super::own::Own;
use super::patience::Patience;
use super::room::Room;
use super::serving::Cell;
use super::{tcp, udp};

/// Listeners taken over before other tasks of the thread get a turn.
const OPEN_BATCH: usize = 64;

/// A bound address: what identifies the listeners on it.
pub(super) type Bound = (Protocol, SocketAddr);

/// A socket for one worker, ready to serve.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) bound: Bound,
    pub(super) cell: Arc<Cell>,
    pub(super) socket: ListenSocket,
}

#[derive(Debug)]
pub(super) enum ListenSocket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

#[derive(Debug)]
pub(super) enum Order {
    Open(Vec<Opened>),
    /// Their frontends are gone or have no endpoint: refuse at once.
    Close(Arc<[Bound]>),
    /// Endpoints of their frontends went: end UDP sessions that lead to them.
    Refresh(Arc<[Bound]>),
    /// Stop accepting, and answer once all UDP clients that wait for a reply have it.
    Drain,
}

/// How a listener ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stop {
    Close,
    Drain,
}

/// What a data thread is started with.
#[derive(Debug)]
pub(super) struct WorkerLimits {
    pub(super) room: Arc<Room>,
    pub(super) own: Arc<Own>,
    pub(super) connect_timeout: Duration,
    pub(super) udp_idle_timeout: Duration,
}

/// What all tasks of a data thread share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) room: Arc<Room>,
    pub(super) own: Arc<Own>,
    pub(super) patience: Rc<Patience>,
    pub(super) udp_idle_timeout: Duration,
}

/// Control's end of a data thread. Dropping it resets all connections that are left.
#[derive(Debug)]
pub(super) struct Worker {
    orders: Option<mpsc::UnboundedSender<(Order, oneshot::Sender<()>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// # Errors
    ///
    /// When the kernel refuses a thread or the descriptors of its runtime.
    pub(super) fn start(number: usize, limits: WorkerLimits) -> std::io::Result<Worker> {
        // Unbounded, but control waits for the answers before it sends more.
        let (orders, received) = mpsc::unbounded_channel();
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        let body = move || {
            let runtime =
                Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    let _ = started.send(Ok(()));
                    runtime.block_on(carry_out(received, limits));
                }
                Err(error) => drop(started.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new().name(format!("proxy-{number}")).spawn(body)?;
        outcome.recv().expect("the thread reports before it ends")?;
        Ok(Worker { orders: Some(orders), thread: Some(thread) })
    }

    /// Sends an order; the receiver resolves when it has been carried out.
    pub(super) fn order(&self, order: Order) -> oneshot::Receiver<()> {
        let (done, carried_out) = oneshot::channel();
        if let Some(orders) = &self.orders {
            // A thread that is gone drops `done`, which its receiver sees.
            let _ = orders.send((order, done));
        }
        carried_out
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A listener's task and the way to stop it.
struct Listening {
    stop: oneshot::Sender<Stop>,
    refresh: Rc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

async fn carry_out(
    mut orders: mpsc::UnboundedReceiver<(Order, oneshot::Sender<()>)>,
    limits: WorkerLimits,
) {
    let WorkerLimits { room, own, connect_timeout, udp_idle_timeout } = limits;
    let patience = Patience::new(connect_timeout);
    spawn_local(patience.clone().keep_time());
    let context = Rc::new(Context { room, own, patience, udp_idle_timeout });
    let mut listening: HashMap<Bound, Listening> = HashMap::new();
    while let Some((order, done)) = orders.recv().await {
        match order {
            Order::Open(opened) => open(opened, &mut listening, &context).await,
            Order::Close(bound) => {
                let gone = bound.iter().filter_map(|bound| listening.remove(bound)).collect();
                stop(gone, Stop::Close).await;
            }
            Order::Refresh(bound) => {
                let touched = bound.iter().filter_map(|bound| listening.get(bound));
                touched.for_each(|listening| listening.refresh.notify_one());
            }
            Order::Drain => {
                let all = std::mem::take(&mut listening).into_values().collect();
                stop(all, Stop::Drain).await;
            }
        }
        let _ = done.send(());
    }
}

async fn open(
    opened: Vec<Opened>,
    listening: &mut HashMap<Bound, Listening>,
    context: &Rc<Context>,
) {
    for (place, Opened { bound, cell, socket }) in opened.into_iter().enumerate() {
        if place % OPEN_BATCH == OPEN_BATCH - 1 {
            tokio::task::yield_now().await;
        }
        let refresh = Rc::new(Notify::new());
        let (stop, stopped) = oneshot::channel();
        match start(socket, cell, context, stopped, refresh.clone()) {
            Ok(task) => drop(listening.insert(bound, Listening { stop, refresh, task })),
            // Only epoll's own limit can be hit here (fs.epoll.max_user_watches).
            Err(error) => tracing::error!(%error, address = %bound.1, "cannot watch a listener"),
        }
    }
}

fn start(
    socket: ListenSocket,
    cell: Arc<Cell>,
    context: &Rc<Context>,
    stopped: oneshot::Receiver<Stop>,
    refresh: Rc<Notify>,
) -> std::io::Result<tokio::task::JoinHandle<()>> {
    match socket {
        ListenSocket::Tcp(listener) => {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            Ok(spawn_local(tcp::accept(listener, cell, stopped, context.clone())))
        }
        ListenSocket::Udp(socket) => {
            let table = udp::Table::new(Downstream::new(socket)?, cell, context.clone());
            Ok(spawn_local(table.serve(stopped, refresh)))
        }
    }
}

async fn stop(gone: Vec<Listening>, how: Stop) {
    let mut tasks = Vec::with_capacity(gone.len());
    for listening in gone {
        let _ = listening.stop.send(how);
        tasks.push(listening.task);
    }
    for task in tasks {
        let _ = task.await;
    }
}
