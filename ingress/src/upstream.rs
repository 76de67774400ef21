//! Connections to endpoints: one HTTP/1.1 exchange at a time on each, driven by the task whose
//! request it is.
//!
//! There is no task and no channel between a request and its upstream connection: polling the
//! response polls the socket. An exchange keeps the bytes that it has sent until the endpoint
//! answers, so that a request which met a connection that the endpoint had just closed can be
//! sent again elsewhere, without having been copied first. Left out: which endpoint is asked and
//! how often, which is the handler's; HTTP/2 and TLS to endpoints.

pub(crate) mod codec;
mod outgoing;
mod pool;

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HeaderMap;
use http_body::Frame;
use hyper::body::Incoming;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use self::codec::{Asked, BadResponse, Decoded, Decoder, Head};
pub(crate) use self::outgoing::{Outgoing, Unsent};
pub(crate) use self::pool::Pool;
use crate::forward::{Framing, Occurs};
use crate::snapshot::Endpoint;

/// What is read at once, at first and at most: enough for a small response in one read, and for
/// a large one to keep a socket busy. It grows while reads fill it.
const READ_BYTES: usize = 8 << 10;
const MAX_READ_BYTES: usize = 64 << 10;

/// Below this much room a read would split what arrived together.
const MIN_ROOM: usize = 1 << 10;

/// When an endpoint that says nothing is probed, so that one that vanished is noticed even where
/// a time-out is long.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// Why there is no response, or not all of one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nothing of a response came; whether the request may be sent again depends on what of it
    /// had been sent.
    #[error("the endpoint closed the connection before it answered")]
    Unanswered(#[source] Option<io::Error>),
    #[error("the endpoint's connection failed in the middle of the response")]
    Broken(#[source] io::Error),
    #[error("the endpoint's response cannot be read")]
    Bad(#[from] BadResponse),
    /// The client's own doing.
    #[error("the request's body is larger than allowed")]
    TooLarge,
    #[error("the request's body ended early")]
    Downstream(#[source] Option<hyper::Error>),
}

/// A connection to an endpoint, and the exchange that it is busy with.
#[derive(Debug)]
pub(crate) struct Upstream {
    stream: TcpStream,
    pub(crate) endpoint: Arc<Endpoint>,
    read: BytesMut,
    read_size: usize,
    pub(crate) outgoing: Outgoing,
    decoder: Decoder,
    keep_alive: bool,
    asked: Asked,
    interim: usize,
    received: u64,
    /// It has served a request before.
    pub(crate) reused: bool,
    /// The tick at which it was put into the pool.
    idle_since: u64,
}

impl Upstream {
    /// Opens a connection.
    pub(crate) async fn connect(endpoint: Arc<Endpoint>) -> io::Result<Box<Upstream>> {
        let stream = open(endpoint.address).await?;
        Ok(Box::new(Upstream {
            stream,
            endpoint,
            read: BytesMut::new(),
            read_size: READ_BYTES,
            outgoing: Outgoing::default(),
            decoder: Decoder::ENDED,
            keep_alive: false,
            asked: Asked { is_head: false, upgrade: false },
            interim: 0,
            received: 0,
            reused: false,
            idle_since: 0,
        }))
    }

    /// Begins an exchange: the head is in `outgoing`, which is then sent by polling.
    pub(crate) fn begin(&mut self, asked: Asked) {
        self.asked = asked;
        self.interim = 0;
        self.decoder = Decoder::ENDED;
        self.keep_alive = false;
    }

    /// Sends the request and waits for the head of the response, whose fields are put into
    /// `headers`.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        headers: &mut HeaderMap,
    ) -> Poll<Result<Head, Failure>> {
        // An endpoint may answer before it has read all, so reading does not wait for sending.
        let unsent = self.poll_send(cx)?;
        loop {
            if !self.read.is_empty() {
                let found =
                    codec::read_head(&mut self.read, headers, self.asked, &mut self.interim)?;
                if let Some(mut head) = found {
                    self.keep_alive = head.keep_alive;
                    self.decoder = std::mem::replace(&mut head.body, Decoder::ENDED);
                    return Poll::Ready(Ok(head));
                }
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) if self.read.is_empty() && self.interim == 0 => {
                    return Poll::Ready(Err(Failure::Unanswered(unsent)));
                }
                Ok(0) => return Poll::Ready(Err(BadResponse::Truncated.into())),
                Ok(_) => {}
                Err(error) if self.read.is_empty() && self.interim == 0 => {
                    return Poll::Ready(Err(Failure::Unanswered(Some(error))));
                }
                Err(error) => return Poll::Ready(Err(Failure::Broken(error))),
            }
        }
    }

    /// The next piece of the response's body; goes on sending the request's body meanwhile.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.poll_send(cx)?;
        loop {
            match self.decoder.decode(&mut self.read).map_err(Failure::Bad)? {
                Decoded::Data(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Decoded::Trailers(trailers) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Decoded::End => return Poll::Ready(None),
                Decoded::Short => match ready!(self.poll_read(cx)) {
                    Ok(0) => self.decoder.close().map_err(Failure::Bad)?,
                    Ok(_) => {}
                    Err(error) => return Poll::Ready(Some(Err(Failure::Broken(error)))),
                },
            }
        }
    }

    /// The response's body has been read to its end.
    pub(crate) fn is_read(&self) -> bool {
        self.decoder.is_ended()
    }

    /// The length of what is left of the response's body, where it is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    /// Counts what came and went: an exchange whose count stands still makes no progress.
    pub(crate) fn progress(&self) -> u64 {
        self.received + self.outgoing.progress()
    }

    /// Whether both bodies have ended and the connection may serve another request.
    pub(crate) fn is_reusable(&self) -> bool {
        // Bytes behind the response belong to no request of ours.
        self.keep_alive && self.is_read() && self.read.is_empty() && self.outgoing.is_sent()
    }

    /// Gives memory back that only a large exchange needs: idle connections are many.
    fn shrink(&mut self) {
        if self.read.capacity() > READ_BYTES {
            self.read = BytesMut::new();
        }
        self.read_size = READ_BYTES;
        self.outgoing.shrink();
    }

    /// Whether a kept connection is still as it was left: open and silent. Costs no system call
    /// unless something happened to it.
    pub(crate) fn is_alive(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same, asking the kernel: for requests that could not be sent again.
    pub(crate) fn is_alive_now(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = SockRef::from(&self.stream).peek(&mut byte);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Takes the request back, to be sent again over another connection.
    pub(crate) fn take_unsent(&mut self) -> Outgoing {
        std::mem::take(&mut self.outgoing)
    }

    /// The socket of a connection that has changed protocols, and what was read beyond that.
    pub(crate) fn into_tunnel(self: Box<Upstream>) -> (TcpStream, BytesMut) {
        let Upstream { stream, read, .. } = *self;
        (stream, read)
    }

    /// Sends as much as can be sent. An endpoint that takes no more may still have answered, so
    /// that is no failure here: the error is given, and reading decides.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<Option<io::Error>, Failure> {
        match self.outgoing.poll_send(&mut self.stream, cx) {
            Poll::Pending | Poll::Ready(Ok(())) => Ok(None),
            Poll::Ready(Err(Unsent::Endpoint(error))) => Ok(Some(error)),
            Poll::Ready(Err(Unsent::TooLarge)) => Err(Failure::TooLarge),
            Poll::Ready(Err(Unsent::Client(error))) => Err(Failure::Downstream(error)),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() - self.read.len() < MIN_ROOM {
            self.read.reserve(self.read_size);
        }
        let room = self.read.capacity() - self.read.len();
        let read = ready!(pin!(self.stream.read_buf(&mut self.read)).poll(cx))?;
        self.received += read as u64;
        if read == room && self.read_size < MAX_READ_BYTES {
            self.read_size *= 2;
        }
        Poll::Ready(Ok(read))
    }
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

/// How a request's body is to be framed; `None` when its length has no single meaning.
pub(crate) fn framing(
    method: &http::Method,
    length: Occurs<'_>,
    body: &Incoming,
) -> Option<Framing> {
    use http_body::Body as _;
    if matches!(length, Occurs::Again) {
        return None;
    }
    if body.is_end_stream() {
        // An endpoint may wait for a body, or refuse, where these do not say that there is none.
        let expected = matches!(length, Occurs::Once(_))
            || matches!(*method, http::Method::POST | http::Method::PUT | http::Method::PATCH);
        return Some(if expected { Framing::Empty } else { Framing::None });
    }
    match length {
        Occurs::Once(length) => length.to_str().ok()?.parse().ok().map(Framing::Length),
        Occurs::Never | Occurs::Again => Some(Framing::Chunked),
    }
}
