//! Queries over TCP (RFC 7766): any number on a connection, each answered as soon as it can be.
//!
//! One thread serves all connections; each is a task on the thread's runtime. A connection that
//! does not read its replies, or has too many questions waiting for upstreams, is not read from,
//! and so uses a bounded amount of memory.

use std::cell::RefCell;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use daemon::listen;
use daemon::quota::{Client, Quota, QuotaPermit};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::metrics::Metrics;
use crate::responder::{Action, Responder};
use crate::wire::TCP_LIMIT;
use crate::wire::reply::Transport;

/// While more than half of all connections are open, an idle one is closed after this share of the
/// idle time-out, to make room for clients that ask.
const CROWDED_IDLE_SHARE: u32 = 10;
/// A client that reads no replies for this time is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions of one connection that wait for upstreams.
const MAX_WAITING: usize = 64;
/// Memory that a new connection reads into; it grows for a longer query.
const READ_BUFFER: usize = 2048;
/// Replies are written once so many octets are ready, or no further query has arrived.
const WRITE_AT: usize = 64 << 10;
/// The wait when descriptors run out, until some are closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
#[derive(Clone)]
pub(crate) struct TcpServer {
    /// With the buffer that replies are built in.
    responder: Rc<RefCell<(Responder, Box<[u8]>)>>,
    quota: Quota,
    idle_timeout: Duration,
    metrics: Metrics,
    draining: watch::Receiver<bool>,
}

/// Binds a listener; one of IPv6 also for IPv4, unless `only_v6`.
///
/// # Errors
///
/// When the address is in use or is not ours.
pub(crate) fn bind(addr: SocketAddr, only_v6: bool) -> io::Result<std::net::TcpListener> {
    let options = listen::Options { only_v6, ..listen::Options::default() };
    let mut listeners = listen::tcp(addr, 1, options, |_| Ok(()))?;
    Ok(listeners.pop().expect("as many listeners as were asked for"))
}

impl TcpServer {
    /// `quota` limits the connections of all listeners together.
    pub(crate) fn new(
        responder: Responder,
        quota: Quota,
        idle_timeout: Duration,
        metrics: Metrics,
        draining: watch::Receiver<bool>,
    ) -> TcpServer {
        let responder = Rc::new(RefCell::new((responder, vec![0; TCP_LIMIT].into())));
        TcpServer { responder, quota, idle_timeout, metrics, draining }
    }

    /// Accepts until the drain begins, then returns when the last connection has ended. Runs in a
    /// `LocalSet`.
    pub(crate) async fn serve(mut self, listener: TcpListener) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = begun(&mut self.draining) => break,
            };
            let (stream, peer) = match accepted {
                Ok((stream, peer)) => {
                    (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()))
                }
                Err(error) => {
                    tracing::debug!(%error, "accept");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = self.quota.admit(Client::of(peer.ip())) else {
                self.metrics.tcp_refused.inc();
                continue;
            };
            let connection = Connection { stream, peer, server: self.clone(), permit };
            connections.spawn_local(async move {
                if let Err(error) = connection.run().await {
                    tracing::debug!(%error, "connection");
                }
            });
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    server: TcpServer,
    permit: QuotaPermit,
}

/// The queries and replies that are under way on a connection.
struct Flow {
    received: Vec<u8>,
    replies: Vec<u8>,
    /// Questions that wait for upstreams.
    waiting: usize,
    done: mpsc::Sender<Vec<u8>>,
    /// Nothing more is read: the client has ended its side, or the process drains.
    ended: bool,
}

impl Connection {
    async fn run(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let (done, mut answered) = mpsc::channel(MAX_WAITING);
        let received = Vec::with_capacity(READ_BUFFER);
        let mut flow = Flow { received, replies: Vec::new(), waiting: 0, done, ended: false };
        let mut asked_last = Instant::now();
        loop {
            if self.answer(&mut flow) {
                asked_last = Instant::now();
            }
            if !flow.replies.is_empty() {
                timeout(WRITE_TIMEOUT, self.stream.write_all(&flow.replies)).await??;
                flow.replies.clear();
                // A large message must not use memory for as long as the connection lasts.
                flow.replies.shrink_to(WRITE_AT);
                flow.received.shrink_to(READ_BUFFER);
                continue;
            }
            if flow.ended && flow.waiting == 0 {
                return self.stream.shutdown().await;
            }
            let may_read = !flow.ended && flow.waiting < MAX_WAITING;
            let idle_timeout = self.idle_timeout();
            if flow.waiting == 0 && asked_last.elapsed() >= idle_timeout {
                return Ok(());
            }
            // Checks again before the time is over, because it may have become crowded.
            let look_again = Instant::now() + idle_timeout / CROWDED_IDLE_SHARE;
            let look_again = look_again.min(asked_last + idle_timeout);
            tokio::select! {
                read = self.stream.read_buf(&mut flow.received), if may_read => {
                    flow.ended = read? == 0;
                }
                Some(reply) = answered.recv() => {
                    flow.waiting -= 1;
                    push(&mut flow.replies, &reply);
                }
                () = sleep_until(look_again), if flow.waiting == 0 => {}
                () = begun(&mut self.server.draining), if !flow.ended => {
                    read_last(&self.stream, &mut flow.received);
                    flow.ended = true;
                }
            }
        }
    }

    fn idle_timeout(&self) -> Duration {
        self.server.idle_timeout / if self.permit.is_crowded() { CROWDED_IDLE_SHARE } else { 1 }
    }

    /// Answers the whole queries that were received, as long as there is room for replies. Whether
    /// there were any.
    fn answer(&mut self, flow: &mut Flow) -> bool {
        let mut at = 0;
        while flow.replies.len() < WRITE_AT && flow.waiting < MAX_WAITING {
            let Some(prefix) = flow.received[at..].first_chunk::<2>() else { break };
            let len = usize::from(u16::from_be_bytes(*prefix));
            let Some(packet) = flow.received.get(at + 2..at + 2 + len) else { break };
            at += 2 + len;
            self.answer_one(packet, &mut flow.replies, &mut flow.waiting, &flow.done);
        }
        flow.received.drain(..at);
        at > 0
    }

    fn answer_one(
        &self,
        packet: &[u8],
        replies: &mut Vec<u8>,
        waiting: &mut usize,
        done: &mpsc::Sender<Vec<u8>>,
    ) {
        let mut responder = self.server.responder.borrow_mut();
        let (responder, buffer) = &mut *responder;
        buffer[..packet.len()].copy_from_slice(packet);
        let snapshot = responder.shared.load();
        let client = || Some(self.peer);
        match responder.handle(&snapshot, buffer, packet.len(), Transport::Tcp, client) {
            Action::Nothing => {}
            Action::Send(len) => push(replies, &buffer[..len]),
            Action::Wait(pending) => {
                *waiting += 1;
                let done = done.clone();
                // It has room for all that wait, and fails only if the connection has ended.
                let deliver = move |reply: Vec<u8>| drop(done.try_send(reply));
                responder.wait(*pending, deliver);
            }
        }
    }
}

/// Appends a message with its length.
fn push(replies: &mut Vec<u8>, message: &[u8]) {
    replies.extend_from_slice(&(message.len() as u16).to_be_bytes());
    replies.extend_from_slice(message);
}

/// Waits for the drain.
async fn begun(draining: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the same.
    let _ = draining.wait_for(|draining| *draining).await;
}

/// Reads what has arrived already, which the runtime may not have seen yet.
fn read_last(stream: &TcpStream, received: &mut Vec<u8>) {
    let socket = SockRef::from(stream);
    let mut chunk = [0; READ_BUFFER];
    while received.len() < WRITE_AT {
        match (&*socket).read(&mut chunk) {
            Ok(count) if count > 0 => received.extend_from_slice(&chunk[..count]),
            _ => return,
        }
    }
}
