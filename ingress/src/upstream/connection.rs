//! A connection to an endpoint, whatever it speaks; over HTTP/2 the share of one request in it.
//!
//! A request that one connection could not get answered is sent over another one as it was
//! encoded, if that speaks the same.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::header::HeaderMap;
use http_body::Frame;

use super::client_body::Source;
use super::codec::{Asked, Head};
use super::encode_http2::http2_request;
use super::failure::Failure;
use super::http1::Http1;
use super::http2::Http2;
use super::outgoing::Outgoing;
use super::shared::{SharedConnections, StreamPermit};
use super::streamed::Streamed;
use super::transport::{self, Transport};
use crate::body::RequestBody;
use crate::head::RequestHead;
use crate::interim::InterimHead;
use crate::origin::{Origin, RequestId, Rules};
use crate::snapshot::Endpoint;
use crate::websocket::over_http2;
use crate::wire::Wire;

/// Bytes of a response's body that are read although nobody wants them: opening another connection
/// costs more.
const MAX_SKIPPED_BYTES: usize = 64 << 10;

/// A connection to an endpoint, and the exchange that it is busy with.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) endpoint: Arc<Endpoint>,
    /// It has served a request before.
    pub(crate) reused: bool,
    /// The tick at which it was put into the pool.
    pub(super) idle_since: u64,
    protocol: Protocol,
}

#[derive(Debug)]
enum Protocol {
    Http1(Box<Http1>),
    Http2(Box<Http2>),
}

/// A request as it was encoded for an endpoint that did not answer it.
#[derive(Debug)]
pub(crate) enum Unanswered {
    Http1(Outgoing, Asked),
    Http2(Box<Streamed>),
}

/// Calls a method of either protocol.
macro_rules! either {
    ($protocol:expr, $connection:ident => $call:expr) => {
        match $protocol {
            Protocol::Http1($connection) => $call,
            Protocol::Http2($connection) => $call,
        }
    };
}

impl Upstream {
    /// Opens a connection; over HTTP/2 only if there is none with room.
    pub(super) async fn connect(
        shared: &Rc<SharedConnections>,
        endpoint: Arc<Endpoint>,
        wire: Wire,
    ) -> io::Result<Upstream> {
        if wire.is_http2 {
            let permit = shared.open(&endpoint, &wire).await?;
            return Ok(Upstream::sharing(permit, endpoint, wire));
        }
        let stream = transport::connect(endpoint.address, &wire).await?;
        let protocol = Protocol::Http1(Box::new(Http1::new(stream, wire)));
        Ok(Upstream { endpoint, reused: false, idle_since: 0, protocol })
    }

    /// For one request over a connection that others use too.
    pub(super) fn sharing(permit: StreamPermit, endpoint: Arc<Endpoint>, wire: Wire) -> Upstream {
        let protocol = Protocol::Http2(Box::new(Http2::new(permit, wire)));
        Upstream { endpoint, reused: false, idle_since: 0, protocol }
    }

    /// What is spoken over it.
    pub(super) fn wire(&self) -> &Wire {
        either!(&self.protocol, connection => &connection.wire)
    }

    /// Takes a request with a body of so many bytes at most; it is then sent by polling.
    pub(crate) fn begin(
        &mut self,
        head: &RequestHead<'_>,
        body: RequestBody,
        max_body: u64,
        context: (&Origin, &Rules, &RequestId),
    ) {
        match &mut self.protocol {
            Protocol::Http1(http1) => http1.begin(head, body, max_body, context),
            Protocol::Http2(http2) => {
                if let Some(mut request) = http2_request(head, http2.wire.scheme(), context) {
                    let (origin, rules, _) = context;
                    let body = Source::new(head, body, max_body, (origin, rules));
                    let tunnel = match http2.takes_tunnels() {
                        true => over_http2(&mut request, head.upgrade),
                        false => None,
                    };
                    http2.begin(Streamed::new(request, body, head.expects_continue(), tunnel));
                }
            }
        }
    }

    /// Takes a request that another connection did not get answered; false if that was encoded
    /// for another protocol.
    pub(crate) fn begin_again(&mut self, unanswered: Unanswered) -> bool {
        match (&mut self.protocol, unanswered) {
            (Protocol::Http1(http1), Unanswered::Http1(outgoing, asked)) => {
                http1.begin_again(outgoing, asked);
            }
            (Protocol::Http2(http2), Unanswered::Http2(streamed)) => http2.begin(*streamed),
            _ => return false,
        }
        true
    }

    /// Whether the request can be sent again: nothing of it was let go of.
    pub(crate) fn is_whole(&self) -> bool {
        either!(&self.protocol, connection => connection.is_whole())
    }

    /// Takes the request back, to be sent again over another connection; none when part of it is
    /// no longer there.
    pub(crate) fn take_back(&mut self) -> Option<Unanswered> {
        match &mut self.protocol {
            Protocol::Http1(http1) => {
                let (outgoing, asked) = http1.take_back()?;
                Some(Unanswered::Http1(outgoing, asked))
            }
            Protocol::Http2(http2) => Some(Unanswered::Http2(Box::new(http2.take_back()?))),
        }
    }

    /// Sends the request and waits for the head of the response, whose fields are put into
    /// `headers`.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        headers: &mut HeaderMap,
    ) -> Poll<Result<Head, Failure>> {
        either!(&mut self.protocol, connection => connection.poll_head(cx, headers))
    }

    /// An interim response that has come, to be passed on before the rest is read.
    pub(crate) fn take_interim(&mut self) -> Option<InterimHead> {
        either!(&mut self.protocol, connection => connection.take_interim())
    }

    /// Whether the request's body is held back until the endpoint asks for it.
    pub(crate) fn holds_body(&self) -> bool {
        either!(&self.protocol, connection => connection.holds_body())
    }

    /// Whether the rest of the request's body is not read, because the endpoint does not want it.
    pub(crate) fn refuses_body(&self) -> bool {
        either!(&self.protocol, connection => connection.refuses_body())
    }

    /// Sends a body that was held back although the endpoint has not asked for it.
    pub(crate) fn send_body(&mut self) {
        either!(&mut self.protocol, connection => connection.send_body());
    }

    /// The next piece of the response's body; goes on sending the request's body meanwhile.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        either!(&mut self.protocol, connection => connection.poll_frame(cx))
    }

    /// Goes on sending the request's body after the response has ended.
    pub(crate) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        either!(&mut self.protocol, connection => connection.poll_upload(cx))
    }

    /// The response's body has been read to its end.
    pub(crate) fn is_read(&self) -> bool {
        either!(&self.protocol, connection => connection.is_read())
    }

    /// All of the request has been sent.
    pub(crate) fn is_sent(&self) -> bool {
        either!(&self.protocol, connection => connection.is_sent())
    }

    /// Whether any byte of the request may have reached the endpoint.
    pub(crate) fn is_begun(&self) -> bool {
        either!(&self.protocol, connection => connection.is_begun())
    }

    /// The endpoint says that it has not looked at the request. That is no failure of a new
    /// connection: it is the endpoint's word that the request may go to another one.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(&self.protocol, Protocol::Http2(http2) if http2.is_refused())
    }

    /// The endpoint has ended this request alone, so the age of the connection is not the reason.
    pub(crate) fn was_reset(&self) -> bool {
        matches!(&self.protocol, Protocol::Http2(http2) if http2.was_reset())
    }

    /// Reads the rest of a response's body that nobody wants, if that is little, so that the
    /// connection can serve another request.
    pub(crate) async fn skip_rest(&mut self) -> Result<(), Failure> {
        let mut left = MAX_SKIPPED_BYTES;
        while !self.is_read() && left > 0 {
            match poll_fn(|cx| self.poll_frame(cx)).await {
                Some(frame) => {
                    let length = frame?.data_ref().map_or(0, Bytes::len);
                    left = left.saturating_sub(length);
                }
                None => break,
            }
        }
        Ok(())
    }

    /// Whether it is the client that has to go on: all that it sent has been sent on.
    pub(crate) fn waits_for_client(&self) -> bool {
        either!(&self.protocol, connection => connection.waits_for_client())
    }

    /// The length of what is left of the response's body, where it is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        either!(&self.protocol, connection => connection.remaining())
    }

    /// Counts what came and went: an exchange whose count stands still makes no progress.
    pub(crate) fn progress(&self) -> u64 {
        either!(&self.protocol, connection => connection.progress())
    }

    /// The endpoint did not go on in time: a connection that is shared takes no more requests,
    /// because the endpoint may have vanished.
    pub(crate) fn timed_out(&self) {
        if let Protocol::Http2(http2) = &self.protocol {
            http2.timed_out();
        }
    }

    /// Whether both bodies have ended and the connection may serve another request. One that is
    /// shared is in the pool all the time.
    pub(super) fn is_reusable(&self) -> bool {
        matches!(&self.protocol, Protocol::Http1(http1) if http1.is_reusable())
    }

    /// Whether a kept connection is still as it was left: open and silent.
    pub(super) fn is_alive(&mut self) -> bool {
        match &mut self.protocol {
            Protocol::Http1(http1) => http1.is_alive(),
            Protocol::Http2(_) => false,
        }
    }

    /// The same, asking the kernel: for requests that could not be sent again. Over HTTP/2 an
    /// endpoint tells which requests it has not looked at.
    pub(crate) fn is_alive_now(&mut self) -> bool {
        match &mut self.protocol {
            Protocol::Http1(http1) => http1.is_alive_now(),
            Protocol::Http2(_) => true,
        }
    }

    /// Gives memory back that only a large exchange needs: idle connections are many.
    pub(super) fn shrink(&mut self) {
        if let Protocol::Http1(http1) = &mut self.protocol {
            http1.shrink();
        }
    }

    /// The stream of HTTP/2 that has changed protocols. The connection counts it until this is
    /// dropped.
    pub(crate) fn take_stream(&mut self) -> Option<(SendStream<Bytes>, RecvStream)> {
        match &mut self.protocol {
            Protocol::Http1(_) => None,
            Protocol::Http2(http2) => http2.take_stream(),
        }
    }

    /// The stream of a connection that has changed protocols, and what was read beyond that.
    pub(crate) fn into_tunnel(self) -> Option<(Transport, BytesMut)> {
        match self.protocol {
            Protocol::Http1(http1) => Some(http1.into_tunnel()),
            Protocol::Http2(_) => None,
        }
    }
}
