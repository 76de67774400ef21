//! One client's connection: TLS, the choice of HTTP version, its requests, and its end.
//!
//! Everything about a connection happens in one task, but for HTTP/2 streams, which have one
//! each. Left out: what a request leads to, which is the handler's.

mod http1;
mod http2;
mod proxy_header;
mod stream;
mod tunnel;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use self::proxy_header::Told;
use self::stream::Stream;
use crate::deadline::{Deadline, Ticks};
use crate::forward::{Origin, is_trusted};
use crate::limits::Permit;
use crate::listener::turn_away;
use crate::refusal::{NO_PROXY_HEADER, TOO_MANY_CONNECTIONS};
use crate::settings::DRAIN_LINGER;
use crate::snapshot::Policy;
use crate::tls;
use crate::upstream::Upstream;
use crate::worker::Worker;

/// What an HTTP/2 client says first (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is read to tell HTTP/1.1 from HTTP/2 on a plain connection, and goes on to either.
const FIRST_READ: usize = 4 << 10;

/// A connection, as its requests see it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) origin: Origin,
    /// The host that the client named in its TLS hello, as rules spell hosts.
    pub(crate) server_name: Option<Box<str>>,
    pub(crate) is_http2: bool,
    deadline: Deadline,
    phase: Cell<Phase>,
    /// Requests in flight.
    in_flight: Cell<usize>,
    /// The time-out of the HTTP/1.1 exchange in flight.
    timeout: Cell<Ticks>,
    /// The endpoint's connection, from its 101 until the client's connection has changed too.
    tunnel: RefCell<Option<Box<Upstream>>>,
    _permit: Permit,
}

/// What an HTTP/1.1 connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The next request, or the first.
    Idle,
    /// The rest of a request's head.
    Head,
    /// An exchange, or the tunnel that it became: it has time-outs of its own.
    Exchange,
}

/// Serves a connection that was accepted, to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    mut stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    mut permit: Permit,
) {
    let settings = worker.settings();
    let deadline = worker.deadlines.add();
    let port = stream.local_addr().map_or(0, |address| address.port());
    let rules = &settings.rules;
    let mut from = (peer.ip(), port);
    let mut trusted_proxies = &rules.trusted_proxies[..];
    if settings.proxy_protocol && is_trusted(peer.ip().to_canonical(), &rules.trusted_proxies) {
        deadline.arm(settings.header_timeout);
        match Box::pin(introduced(&worker, &mut stream, &mut permit, &deadline)).await {
            Ok(Told::Itself) => {}
            // Whoever it is, it is not the proxy, and may not say who sent a request.
            Ok(Told::Somebody) => trusted_proxies = &[],
            Ok(Told::Client { client, local }) => from = (client.ip(), local.port()),
            Err(answer) => {
                if tls.is_none() {
                    turn_away(stream, answer);
                }
                return;
            }
        }
    }
    let origin = Origin::new(from.0, tls.is_some(), from.1, trusted_proxies);
    let make = |server_name, is_http2, deadline| {
        let timeout = Cell::new(settings.read_timeout);
        Rc::new(Connection {
            worker: worker.clone(),
            origin,
            server_name,
            is_http2,
            deadline,
            phase: Cell::new(Phase::Idle),
            in_flight: Cell::new(0),
            timeout,
            tunnel: RefCell::new(None),
            _permit: permit,
        })
    };
    match tls {
        None => {
            deadline.arm(settings.header_timeout);
            let Some(first) = first_bytes(&mut stream, &deadline).await else { return };
            let is_http2 = first.starts_with(HTTP2_PREFACE);
            serve_http(make(None, is_http2, deadline), stream, first).await;
        }
        Some(acceptor) => {
            deadline.arm(settings.handshake_timeout);
            // Each stage has a box of its own: the task would be as large as the largest of them
            // for as long as the connection lives.
            let handshake = Box::pin(in_time(acceptor.accept(stream), &deadline));
            let Some(Ok(stream)) = handshake.await else {
                worker.shard().handshakes_rejected.add(1);
                return;
            };
            let session = stream.get_ref().1;
            let is_http2 = session.alpn_protocol() == Some(b"h2");
            let name = session.server_name().map(|name| tls::server_name(name).into());
            deadline.arm(settings.header_timeout);
            serve_http(make(name, is_http2, deadline), stream, BytesMut::new()).await;
        }
    }
}

/// Reads from a proxy in front whom the connection is for; `Err` is what to answer when it may not
/// go on.
async fn introduced(
    worker: &Worker,
    stream: &mut TcpStream,
    permit: &mut Permit,
    deadline: &Deadline,
) -> Result<Told, &'static [u8]> {
    match in_time(proxy_header::read(stream), deadline).await {
        Some(Ok(Told::Client { client, .. })) if !permit.claim(client.ip()) => {
            worker.shard().connections_refused.add(1);
            Err(TOO_MANY_CONNECTIONS)
        }
        Some(Ok(told)) => Ok(told),
        failed => {
            worker.shard().proxy_headers_rejected.add(1);
            tracing::debug!(?failed, "no PROXY header");
            Err(NO_PROXY_HEADER)
        }
    }
}

async fn serve_http<S>(connection: Rc<Connection>, stream: S, first: BytesMut)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let stream = Stream::new(stream, first, connection.clone());
    if connection.is_http2 {
        Box::pin(http2::serve(connection, stream)).await;
    } else {
        Box::pin(http1::serve(connection, stream)).await;
    }
}

/// The bytes that a plain connection begins with, as many as tell its HTTP version; `None` when
/// there are none in time.
async fn first_bytes(stream: &mut TcpStream, deadline: &Deadline) -> Option<BytesMut> {
    let mut first = BytesMut::with_capacity(FIRST_READ);
    loop {
        match in_time(stream.read_buf(&mut first), deadline).await {
            None | Some(Err(_) | Ok(0)) if first.is_empty() => return None,
            // What came is a beginning: HTTP/1.1 decides what to make of it.
            None | Some(Err(_) | Ok(0)) => return Some(first),
            Some(Ok(_)) if first.len() >= HTTP2_PREFACE.len() => return Some(first),
            Some(Ok(_)) if HTTP2_PREFACE.starts_with(&first) => {}
            Some(Ok(_)) => return Some(first),
        }
    }
}

/// The outcome of a future, unless the deadline fires first.
async fn in_time<T>(future: impl Future<Output = T>, deadline: &Deadline) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(outcome));
        }
        if deadline.poll_fired(cx) { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

impl Connection {
    /// Bytes came from the client.
    fn on_read(&self) {
        match self.phase.get() {
            // Over HTTP/2, frames that belong to no request must not keep a connection open.
            _ if self.is_http2 => {}
            Phase::Idle => {
                self.phase.set(Phase::Head);
                self.deadline.arm(self.worker.settings().header_timeout);
            }
            Phase::Head => {}
            Phase::Exchange => self.deadline.arm(self.timeout.get()),
        }
    }

    /// The client took bytes.
    fn on_write(&self) {
        match self.phase.get() {
            _ if self.is_http2 => {}
            // The end of a response, of which nothing is left but what is buffered.
            Phase::Idle => self.deadline.arm(self.idle_timeout()),
            Phase::Head => {}
            Phase::Exchange => self.deadline.arm(self.timeout.get()),
        }
    }

    /// How long the connection may wait for its next request.
    fn idle_timeout(&self) -> Ticks {
        let settings = self.worker.settings();
        if self.worker.is_draining() { DRAIN_LINGER.into() } else { settings.idle_timeout }
    }

    /// Keeps the endpoint's connection for when the client's has changed protocols.
    pub(crate) fn tunnel_to(&self, upstream: Box<Upstream>) {
        self.tunnel.replace(Some(upstream));
    }

    /// Whether this response is to be the connection's last.
    pub(crate) fn is_ending(&self) -> bool {
        self.worker.is_draining()
    }

    fn begin_request(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.phase.set(Phase::Exchange);
        if self.is_http2 {
            self.deadline.disarm();
        }
    }

    fn end_request(&self) {
        let left = self.in_flight.get() - 1;
        self.in_flight.set(left);
        if left == 0 && self.tunnel.borrow().is_none() {
            self.phase.set(Phase::Idle);
            self.deadline.arm(self.idle_timeout());
        }
    }
}

/// A request in flight: from its head until its response's body has ended or was given up.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) connection: Rc<Connection>,
    /// Its own deadline over HTTP/2; over HTTP/1.1 it is the connection's.
    stream_deadline: Option<Deadline>,
    begun: Instant,
    read_timeout: Cell<Ticks>,
    send_timeout: Cell<Ticks>,
}

impl InFlight {
    pub(crate) fn begin(connection: Rc<Connection>) -> InFlight {
        connection.begin_request();
        let stream_deadline = connection.is_http2.then(|| connection.deadline.add_child());
        let settings = connection.worker.settings();
        let read_timeout = Cell::new(settings.read_timeout);
        let send_timeout = Cell::new(settings.send_timeout);
        let begun = Instant::now();
        InFlight { connection, stream_deadline, begun, read_timeout, send_timeout }
    }

    /// Takes the time-outs of the route that the request has come to.
    pub(crate) fn apply(&self, policy: &Policy) {
        if let Some(timeout) = policy.read_timeout {
            self.read_timeout.set(timeout.into());
        }
        if let Some(timeout) = policy.send_timeout {
            self.send_timeout.set(timeout.into());
        }
    }

    /// The exchange went on: it has its full time again.
    pub(crate) fn made_progress(&self, upstream: &Upstream) {
        let sent = upstream.outgoing.is_sent();
        let timeout = if sent { self.read_timeout.get() } else { self.send_timeout.get() };
        self.arm(timeout);
    }

    /// The exchange has so long for its next step.
    pub(crate) fn arm(&self, timeout: Ticks) {
        self.connection.timeout.set(timeout);
        self.deadline().arm(timeout);
    }

    /// Whether the exchange has made no progress in its time.
    pub(crate) fn poll_timed_out(&self, cx: &Context<'_>) -> bool {
        self.deadline().poll_fired(cx)
    }

    /// Gives an endpoint's connection back to the worker's pool.
    pub(crate) fn keep(&self, upstream: Box<Upstream>) {
        let worker = &self.connection.worker;
        worker.pool.put(upstream, worker.deadlines.now());
    }

    fn deadline(&self) -> &Deadline {
        self.stream_deadline.as_ref().unwrap_or(&self.connection.deadline)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.worker.shard().seconds.observe(self.begun.elapsed());
        self.connection.end_request();
    }
}
