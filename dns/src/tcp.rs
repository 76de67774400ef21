//! Queries over TCP (RFC 7766): any number on a connection, answered as they are ready.
//!
//! A connection is one task. It reads only while it may answer: a client that does not take its
//! replies, or has too many questions with upstreams, is not read from, and so costs a bounded
//! amount of memory.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::metrics::Metrics;
use crate::quota::{Place, Quota};
use crate::server::{Action, Worker};
use crate::wire::TCP_LIMIT;
use crate::wire::reply::Transport;

/// Connections that wait to be accepted, where the system allows so many (net.core.somaxconn).
const BACKLOG: i32 = 1024;
/// Once more than half of all connections are open, an idle one is kept for this share of its
/// time, so that room is made for those who ask.
const CROWDED_IDLE_SHARE: u32 = 10;
/// A client that takes no replies for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions of one connection that wait for upstreams.
const MAX_WAITING: usize = 64;
/// No question needs more; what claims to be longer is no DNS client.
const MAX_QUERY: usize = 4096;
/// Replies are written once so much has gathered, or nothing more is there to answer.
const WRITE_AT: usize = 64 << 10;
/// When descriptors run out, until some are closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the operator decides about connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_connections: usize,
    pub(crate) idle_timeout: Duration,
}

/// Serves a listener; all its connections share the worker, for they share a thread.
pub(crate) struct TcpServer {
    pub(crate) worker: Arc<Mutex<(Worker, Box<[u8]>)>>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) draining: watch::Receiver<bool>,
}

/// A worker and the buffer that its replies are built in.
pub(crate) fn shared_worker(worker: Worker) -> Arc<Mutex<(Worker, Box<[u8]>)>> {
    Arc::new(Mutex::new((worker, vec![0; TCP_LIMIT].into())))
}

/// Binds a listener; one of IPv6 also for IPv4, unless `only_v6`.
///
/// # Errors
///
/// When the address is in use or is not ours.
pub(crate) fn bind(addr: SocketAddr, only_v6: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // Connections of a process before us may still be closing.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl TcpServer {
    /// Accepts until the drain begins, then returns when the last connection has ended.
    pub(crate) async fn serve(mut self, listener: TcpListener) {
        let most = self.limits.max_connections;
        let quota = Quota::new(most, self.metrics.tcp_connections.clone());
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = begun(&mut self.draining) => break,
            };
            let (stream, peer) = match accepted {
                Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
                Err(error) => {
                    tracing::debug!(%error, "accept");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = quota.admit(peer) else {
                self.metrics.tcp_refused.inc();
                continue;
            };
            let connection = Connection {
                stream,
                peer,
                worker: self.worker.clone(),
                limits: self.limits,
                draining: self.draining.clone(),
                place,
            };
            connections.spawn(async move {
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
    peer: IpAddr,
    worker: Arc<Mutex<(Worker, Box<[u8]>)>>,
    limits: Limits,
    draining: watch::Receiver<bool>,
    place: Place,
}

/// What is on its way through a connection.
struct Flow {
    received: Vec<u8>,
    replies: Vec<u8>,
    /// Questions that wait for upstreams.
    waiting: usize,
    done: mpsc::Sender<Vec<u8>>,
    /// Nothing more is to be read: the client has ended, or we drain.
    ended: bool,
}

impl Connection {
    async fn run(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let (done, mut answered) = mpsc::channel(MAX_WAITING);
        let received = Vec::with_capacity(MAX_QUERY / 2);
        let mut flow = Flow { received, replies: Vec::new(), waiting: 0, done, ended: false };
        let mut asked_last = Instant::now();
        loop {
            if self.answer(&mut flow)? {
                asked_last = Instant::now();
            }
            if !flow.replies.is_empty() {
                timeout(WRITE_TIMEOUT, self.stream.write_all(&flow.replies)).await??;
                flow.replies.clear();
                // One large reply must not cost its room for as long as the connection lasts.
                flow.replies.shrink_to(WRITE_AT);
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
            // Looks again before the time is over, because it may have become crowded.
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
                () = begun(&mut self.draining), if !flow.ended => {
                    read_last(&self.stream, &mut flow.received);
                    flow.ended = true;
                }
            }
        }
    }

    fn idle_timeout(&self) -> Duration {
        self.limits.idle_timeout / if self.place.is_crowded() { CROWDED_IDLE_SHARE } else { 1 }
    }

    /// Answers the whole queries that were received, as far as there is room for replies; whether
    /// there were any.
    fn answer(&mut self, flow: &mut Flow) -> io::Result<bool> {
        let mut at = 0;
        while flow.replies.len() < WRITE_AT && flow.waiting < MAX_WAITING {
            let Some(prefix) = flow.received[at..].first_chunk::<2>() else { break };
            let len = usize::from(u16::from_be_bytes(*prefix));
            if len > MAX_QUERY {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a query too long"));
            }
            let Some(packet) = flow.received.get(at + 2..at + 2 + len) else { break };
            at += 2 + len;
            self.answer_one(packet, &mut flow.replies, &mut flow.waiting, &flow.done);
        }
        flow.received.drain(..at);
        Ok(at > 0)
    }

    fn answer_one(
        &self,
        packet: &[u8],
        replies: &mut Vec<u8>,
        waiting: &mut usize,
        done: &mpsc::Sender<Vec<u8>>,
    ) {
        let mut shared = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let (worker, buffer) = &mut *shared;
        buffer[..packet.len()].copy_from_slice(packet);
        let server = worker.server.clone();
        let zone = server.zone.load();
        let peer = || Some(self.peer);
        match worker.handle(&zone, buffer, packet.len(), Transport::Tcp, peer) {
            Action::Nothing => {}
            Action::Send(len) => push(replies, &buffer[..len]),
            Action::Forward(job) => {
                *waiting += 1;
                let (done, counters) = (done.clone(), worker.counters.clone());
                tokio::spawn(async move {
                    let qtype = job.query.qtype;
                    let (reply, rcode) = server.forwarder.answer(*job).await;
                    counters.replied(Transport::Tcp, Some(qtype), rcode);
                    // Fails only when the connection has ended meanwhile.
                    let _ = done.send(reply).await;
                });
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
    // An error means that the sender has gone, which is the same.
    let _ = draining.wait_for(|draining| *draining).await;
}

/// Reads what has arrived already, which the runtime may not know of yet.
fn read_last(stream: &TcpStream, received: &mut Vec<u8>) {
    let socket = SockRef::from(stream);
    let mut chunk = [0; MAX_QUERY];
    while received.len() < WRITE_AT {
        match (&*socket).read(&mut chunk) {
            Ok(count) if count > 0 => received.extend_from_slice(&chunk[..count]),
            _ => return,
        }
    }
}
