//! Queries over TCP (RFC 7766), plain or encrypted (RFC 7858): any number on a connection, each
//! answered as soon as it can be.
//!
//! One thread serves all connections; each is a task on the thread's runtime. A connection that
//! does not read its replies, or has too many questions waiting for upstreams, is not read from,
//! and so uses a bounded amount of memory.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use daemon::listen;
use daemon::quota::{Quota, QuotaLimits, QuotaPermit};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::server::TlsStream;

use crate::metrics::Metrics;
use crate::responder::{Action, Deliver, Responder};
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
/// TLS handshakes at a time, which use more memory and time than what follows them.
const MAX_HANDSHAKES: usize = 256;
/// One client may have one of so many of them.
const HANDSHAKE_SHARE: usize = 4;
/// How long to wait for the rest of what has arrived when the drain begins.
const LAST_READ: Duration = Duration::from_millis(100);

/// What all connections share.
#[derive(Clone)]
pub(crate) struct TcpServer {
    /// With the buffer that replies are built in.
    responder: Rc<RefCell<(Responder, Box<[u8]>)>>,
    pub(crate) quota: Quota,
    /// TLS handshakes in progress.
    pub(crate) handshakes: Quota,
    idle_timeout: Duration,
    pub(crate) metrics: Metrics,
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
        let share = MAX_HANDSHAKES.div_ceil(HANDSHAKE_SHARE);
        let handshakes = Quota::new(QuotaLimits::new(MAX_HANDSHAKES, share));
        TcpServer { responder, quota, handshakes, idle_timeout, metrics, draining }
    }

    /// Tells when the drain begins.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.clone()
    }

    /// How long a connection may be idle, as a rule.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.idle_timeout
    }

    /// How long the connection with that permit may be idle now.
    pub(crate) fn idle_timeout_of(&self, permit: &QuotaPermit) -> Duration {
        self.idle_timeout / if permit.is_crowded() { CROWDED_IDLE_SHARE } else { 1 }
    }

    /// Handles a query. Its reply goes to `now`, or later to what `deliver` gives; or it has none.
    pub(crate) fn handle(
        &self,
        packet: &[u8],
        transport: Transport,
        peer: SocketAddr,
        deliver: impl FnOnce() -> Deliver,
        now: impl FnOnce(&[u8]),
    ) -> Handled {
        let mut responder = self.responder.borrow_mut();
        let (responder, buffer) = &mut *responder;
        buffer[..packet.len()].copy_from_slice(packet);
        let snapshot = responder.shared.load();
        let client = || Some(peer);
        match responder.handle(&snapshot, buffer, packet.len(), transport, client) {
            Action::Nothing => Handled::Done,
            Action::Send(len) => {
                now(&buffer[..len]);
                Handled::Done
            }
            Action::Wait(pending) => {
                responder.wait(*pending, deliver());
                Handled::Later
            }
        }
    }
}

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    /// It was answered, or gets no reply.
    Done,
    /// The reply comes later.
    Later,
}

/// A client's byte stream, plain or encrypted.
pub(crate) trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    /// The socket that it is on.
    fn socket(&self) -> &TcpStream;
}

impl ClientStream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl ClientStream for Box<TlsStream<TcpStream>> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A connection of a client that sends each message with its length.
pub(crate) struct Connection<S> {
    stream: S,
    transport: Transport,
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

impl<S: ClientStream> Connection<S> {
    pub(crate) fn new(
        stream: S,
        transport: Transport,
        peer: SocketAddr,
        server: TcpServer,
        permit: QuotaPermit,
    ) -> Connection<S> {
        Connection { stream, transport, peer, server, permit }
    }

    /// Serves the connection until it ends.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        let (done, mut answered) = mpsc::channel(MAX_WAITING);
        let received = Vec::with_capacity(READ_BUFFER);
        let mut flow = Flow { received, replies: Vec::new(), waiting: 0, done, ended: false };
        let mut asked_last = Instant::now();
        loop {
            if self.answer(&mut flow) {
                asked_last = Instant::now();
            }
            if !flow.replies.is_empty() {
                timeout(WRITE_TIMEOUT, self.write(&flow.replies)).await??;
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
            let idle_timeout = self.server.idle_timeout_of(&self.permit);
            if flow.waiting == 0 && asked_last.elapsed() >= idle_timeout {
                return Ok(());
            }
            // Checks again before the time is over, because it may have become crowded.
            let look_again = Instant::now() + idle_timeout / CROWDED_IDLE_SHARE;
            let look_again = look_again.min(asked_last + idle_timeout);
            tokio::select! {
                read = self.stream.read_buf(&mut flow.received), if may_read => {
                    flow.ended = is_end(read)?;
                }
                Some(reply) = answered.recv() => {
                    flow.waiting -= 1;
                    push(&mut flow.replies, &reply);
                }
                () = sleep_until(look_again), if flow.waiting == 0 => {}
                () = begun(&mut self.server.draining), if !flow.ended => {
                    read_last(&mut self.stream, &mut flow.received).await;
                    flow.ended = true;
                }
            }
        }
    }

    async fn write(&mut self, replies: &[u8]) -> io::Result<()> {
        self.stream.write_all(replies).await?;
        // An encrypted stream may keep some back.
        self.stream.flush().await
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
            let done = &flow.done;
            let deliver = || -> Deliver {
                let done = done.clone();
                // It has room for all that wait, and fails only if the connection has ended.
                Box::new(move |reply| drop(done.try_send(reply)))
            };
            let replies = &mut flow.replies;
            let now = |reply: &[u8]| push(replies, reply);
            if self.server.handle(packet, self.transport, self.peer, deliver, now) == Handled::Later
            {
                flow.waiting += 1;
            }
        }
        flow.received.drain(..at);
        at > 0
    }
}

/// Appends a message with its length.
fn push(replies: &mut Vec<u8>, message: &[u8]) {
    replies.extend_from_slice(&(message.len() as u16).to_be_bytes());
    replies.extend_from_slice(message);
}

/// Waits for the drain.
pub(crate) async fn begun(draining: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the same.
    let _ = draining.wait_for(|draining| *draining).await;
}

/// Whether a read found the end. Some clients end an encrypted stream without saying so.
fn is_end(read: io::Result<usize>) -> io::Result<bool> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
        read => Ok(read? == 0),
    }
}

/// Reads what has arrived already, which the runtime may not have seen yet.
async fn read_last(stream: &mut impl ClientStream, received: &mut Vec<u8>) {
    while received.len() < WRITE_AT {
        let read = timeout(Duration::ZERO, stream.read_buf(received)).await;
        let read = match read {
            Err(_) if has_more(stream.socket()) => {
                timeout(LAST_READ, stream.read_buf(received)).await
            }
            read => read,
        };
        match read {
            Ok(Ok(count)) if count > 0 => {}
            _ => return,
        }
    }
}

/// Whether the kernel has something to read.
fn has_more(socket: &TcpStream) -> bool {
    let mut octet = [MaybeUninit::uninit()];
    SockRef::from(socket).peek(&mut octet).is_ok_and(|count| count > 0)
}
