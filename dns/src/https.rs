//! Queries over HTTPS (RFC 8484), by HTTP/1.1 and HTTP/2.
//!
//! A connection is a task on the thread that serves TCP, and each of its requests another. Streams,
//! sizes and times are limited, and a connection is one of those of the quota for TCP.

mod message;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use daemon::quota::QuotaPermit;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use crate::responder::Deliver;
use crate::tcp::{Handled, TcpServer, begun};
use crate::wire::TCP_LIMIT;
use crate::wire::reply::Transport;

use message::{Place, Refusal};

/// HTTP/2, in ALPN.
pub(crate) const HTTP2: &[u8] = b"h2";
pub(crate) const HTTP1: &[u8] = b"http/1.1";

/// Requests of one connection at a time, as many as questions of a TCP connection.
const MAX_STREAMS: u32 = 64;
/// The head of a request: 64 KiB for the target, which the HTTP library allows, and the rest.
const MAX_HEAD: usize = 80 << 10;
/// Bodies of one connection that are on the way.
const CONNECTION_WINDOW: u32 = 256 << 10;
/// The time for a request's body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Octets of a body that is too long that are still read.
const MAX_DISCARDED: usize = 1 << 20;
/// Checks of the idle time-out during that time.
const LOOKS: u32 = 10;

/// One connection of a client.
struct Connection {
    server: TcpServer,
    peer: SocketAddr,
    permit: QuotaPermit,
    in_flight: Cell<usize>,
    asked_last: Cell<Instant>,
}

/// Serves a connection until it ends.
pub(crate) async fn serve<S>(
    stream: S,
    is_http2: bool,
    peer: SocketAddr,
    server: TcpServer,
    permit: QuotaPermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (in_flight, asked_last) = (Cell::new(0), Cell::new(Instant::now()));
    let connection = Rc::new(Connection { server, peer, permit, in_flight, asked_last });
    let of_service = connection.clone();
    let service = service_fn(move |request| respond(of_service.clone(), request));
    let stream = TokioIo::new(stream);
    let served = if is_http2 {
        let http = http2::Builder::new(LocalTasks)
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD as u32)
            .initial_stream_window_size(TCP_LIMIT as u32)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .serve_connection(stream, service);
        connection.run(pin!(http), |http| http.graceful_shutdown()).await
    } else {
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(connection.server.idle_timeout())
            .max_buf_size(MAX_HEAD)
            .serve_connection(stream, service);
        connection.run(pin!(http), |http| http.graceful_shutdown()).await
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection");
    }
}

/// Runs the requests of a connection on its own thread.
#[derive(Clone, Copy, Debug)]
struct LocalTasks;

impl<F: Future + 'static> Executor<F> for LocalTasks {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move { drop(task.await) });
    }
}

impl Connection {
    /// Runs the connection until it has ended, was idle for too long, or the drain is over.
    async fn run<C>(
        &self,
        mut http: Pin<&mut C>,
        shut_down: impl Fn(Pin<&mut C>),
    ) -> hyper::Result<()>
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let mut draining = self.server.draining();
        let mut is_ending = false;
        loop {
            let idle_timeout = self.server.idle_timeout_of(&self.permit);
            let look = Instant::now() + idle_timeout / LOOKS;
            tokio::select! {
                served = http.as_mut() => return served,
                () = sleep_until(look) => {
                    let is_idle = self.in_flight.get() == 0
                        && self.asked_last.get().elapsed() >= idle_timeout;
                    match (is_idle, is_ending) {
                        (false, _) => continue,
                        // It had a look's time to end.
                        (true, true) => return Ok(()),
                        (true, false) => {}
                    }
                }
                () = begun(&mut draining), if !is_ending => {}
            }
            is_ending = true;
            shut_down(http.as_mut());
        }
    }

    /// The reply to a query; `None` if it gets none.
    async fn ask(&self, query: &[u8]) -> Option<Vec<u8>> {
        let (answered, later) = oneshot::channel();
        // It fails only if the client no longer waits.
        let deliver = || -> Deliver { Box::new(move |reply| drop(answered.send(reply))) };
        let mut now = None;
        let handled = self.server.handle(query, Transport::Https, self.peer, deliver, |reply| {
            now = Some(reply.to_vec());
        });
        match handled {
            Handled::Later => later.await.ok(),
            Handled::Done => now,
        }
    }
}

/// Counts a request for as long as it is served.
struct InFlight(Rc<Connection>);

impl InFlight {
    fn begin(connection: Rc<Connection>) -> InFlight {
        connection.in_flight.set(connection.in_flight.get() + 1);
        InFlight(connection)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.asked_last.set(Instant::now());
    }
}

async fn respond(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let in_flight = InFlight::begin(connection.clone());
    let response = match query_of(request).await {
        Ok(query) => match connection.ask(&query).await {
            Some(reply) => message::answer(reply),
            None => message::refuse(Refusal::BadRequest("this is not a DNS query")),
        },
        Err(refusal) => message::refuse(refusal),
    };
    drop(in_flight);
    Ok(response.map(|body| Full::new(Bytes::from(body))))
}

/// Reads a body, that of a request which is refused as well: the client may read the refusal only
/// after it has sent everything, and loses it if the connection is closed before. If the body is
/// too long, what is returned is too long as well, but not all of it: the rest is thrown away.
async fn read(mut body: Incoming) -> hyper::Result<Vec<u8>> {
    let (mut octets, mut discarded) = (Vec::new(), 0);
    while discarded <= MAX_DISCARDED
        && let Some(frame) = body.frame().await
    {
        let data = frame?.into_data().unwrap_or_default();
        if octets.len() > TCP_LIMIT {
            discarded += data.len();
        } else {
            octets.extend_from_slice(&data);
        }
    }
    Ok(octets)
}

async fn query_of(request: Request<Incoming>) -> Result<Vec<u8>, Refusal> {
    let (head, body) = request.into_parts();
    let place = Place::of(&head);
    let body = match timeout(BODY_TIMEOUT, read(body)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(Refusal::BadRequest("the body is incomplete")),
        Err(_) => Err(Refusal::BadRequest("the body did not arrive in time")),
    };
    match place? {
        Place::Target(query) => Ok(query),
        Place::Body => body.and_then(|body| match body.len() {
            0..=TCP_LIMIT => Ok(body),
            _ => Err(Refusal::TooLarge),
        }),
    }
}
