//! One HTTP/1.1 connection to an endpoint, and the exchange that it is busy with.
//!
//! There is no task and no channel between a request and its upstream connection: polling the
//! response polls the socket. Left out: which endpoint is asked and how often.

use std::future::Future as _;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::HeaderMap;
use http_body::Frame;
use tokio::io::AsyncReadExt as _;

use super::client_body::Source;
use super::codec::{self, Asked, BadResponse, Decoded, Decoder, Head, Interim};
use super::encode::write_request;
use super::failure::Failure;
use super::outgoing::{Outgoing, Unsent};
use super::transport::Transport;
use crate::body::RequestBody;
use crate::head::RequestHead;
use crate::interim::InterimHead;
use crate::origin::{Origin, RequestId, Rules};
use crate::wire::Wire;

/// What is read at once: at first, and at most. It grows while reads fill it. The first reads are
/// small because the rest of a response may wait for long in memory, for a client that takes
/// nothing.
const FIRST_READ_BYTES: usize = 2 << 10;
const MAX_READ_BYTES: usize = 64 << 10;

/// What an idle connection keeps of that: responses from one endpoint are often of one size.
const KEPT_READ_BYTES: usize = 8 << 10;

/// Below this much room a read would split what arrived together.
const MIN_ROOM: usize = 1 << 10;

/// A connection to an endpoint, and the exchange that it is busy with.
#[derive(Debug)]
pub(crate) struct Http1 {
    pub(super) wire: Wire,
    stream: Transport,
    read: BytesMut,
    read_size: usize,
    outgoing: Outgoing,
    decoder: Decoder,
    keep_alive: bool,
    asked: Asked,
    interim: Interim,
    received: u64,
}

impl Http1 {
    pub(crate) fn new(stream: Transport, wire: Wire) -> Http1 {
        Http1 {
            wire,
            stream,
            read: BytesMut::new(),
            read_size: FIRST_READ_BYTES,
            outgoing: Outgoing::default(),
            decoder: Decoder::ENDED,
            keep_alive: false,
            asked: Asked { is_head: false, upgrade: false, interim: false },
            interim: Interim::default(),
            received: 0,
        }
    }

    /// Takes a request, which is then sent by polling.
    pub(crate) fn begin(
        &mut self,
        head: &RequestHead<'_>,
        body: RequestBody,
        max_body: u64,
        context: (&Origin, &Rules, &RequestId),
    ) {
        let (origin, rules, id) = context;
        write_request(self.outgoing.head(), head, origin, rules, id);
        self.outgoing.set_body(Source::new(head, body, max_body, (origin, rules)));
        if head.expects_continue() {
            self.outgoing.hold_body();
        }
        let (is_head, upgrade) = (head.is_head(), head.upgrade.is_some());
        self.expect(Asked { is_head, upgrade, interim: true });
    }

    /// Takes a request that another connection did not get answered.
    pub(crate) fn begin_again(&mut self, unsent: Outgoing, asked: Asked) {
        self.outgoing = unsent;
        self.expect(asked);
    }

    fn expect(&mut self, asked: Asked) {
        self.asked = asked;
        self.interim = Interim::default();
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
        // Interim responses are no progress: any number may come, in the time of the final one.
        let received = self.received;
        let polled = self.poll_final_head(cx, headers);
        if polled.is_pending() {
            self.received = received;
        }
        polled
    }

    fn poll_final_head(
        &mut self,
        cx: &mut Context<'_>,
        headers: &mut HeaderMap,
    ) -> Poll<Result<Head, Failure>> {
        // An endpoint may answer before it has read all, so reading does not wait for sending.
        let mut unsent = self.poll_send(cx)?;
        loop {
            if !self.read.is_empty() {
                let found =
                    codec::read_head(&mut self.read, headers, self.asked, &mut self.interim)?;
                if found.is_none() && std::mem::take(&mut self.interim.is_continued) {
                    self.outgoing.send_body();
                    unsent = self.poll_send(cx)?;
                }
                if self.interim.passed.is_some() {
                    return Poll::Pending;
                }
                if let Some(mut head) = found {
                    // An endpoint that has answered instead of asking for the body wants none.
                    self.outgoing.refuse_held_body();
                    self.keep_alive = head.keep_alive;
                    self.decoder = std::mem::replace(&mut head.body, Decoder::ENDED);
                    return Poll::Ready(Ok(head));
                }
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) if self.read.is_empty() && !self.interim.is_any => {
                    return Poll::Ready(Err(Failure::Unanswered(unsent)));
                }
                Ok(0) => return Poll::Ready(Err(BadResponse::Truncated.into())),
                Ok(_) => {}
                Err(error) if self.read.is_empty() && !self.interim.is_any => {
                    return Poll::Ready(Err(Failure::Unanswered(Some(error))));
                }
                Err(error) => return Poll::Ready(Err(Failure::Broken(error))),
            }
        }
    }

    /// An interim response that has come. While it is here, the rest of the response is not read.
    pub(crate) fn take_interim(&mut self) -> Option<InterimHead> {
        self.interim.passed.take()
    }

    /// Whether the body is held back until the endpoint asks for it.
    pub(crate) fn holds_body(&self) -> bool {
        self.outgoing.holds_body()
    }

    /// Whether the rest of the body is not read, because the endpoint does not want it.
    pub(crate) fn refuses_body(&self) -> bool {
        self.outgoing.refuses_body()
    }

    /// Sends a body that was held back although the endpoint has not asked for it.
    pub(crate) fn send_body(&mut self) {
        self.outgoing.send_body();
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

    /// All of the request has been sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.outgoing.is_sent()
    }

    /// Whether any byte of the request may have reached the endpoint.
    pub(crate) fn is_begun(&self) -> bool {
        self.outgoing.is_begun()
    }

    /// Whether it is the client that has to go on: all that it sent has been sent on.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.outgoing.waits_for_client()
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
    pub(crate) fn shrink(&mut self) {
        if self.read.capacity() > KEPT_READ_BYTES {
            self.read = BytesMut::new();
        }
        self.read_size = self.read_size.min(KEPT_READ_BYTES);
        self.outgoing.shrink();
    }

    /// Whether a kept connection is still as it was left: open and silent.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.stream.is_idle()
    }

    /// The same, asking the kernel: for requests that could not be sent again.
    pub(crate) fn is_alive_now(&mut self) -> bool {
        self.stream.is_idle_now()
    }

    /// Whether the request can be sent again.
    pub(super) fn is_whole(&self) -> bool {
        self.outgoing.is_whole()
    }

    /// Takes the request back, to be sent again over another connection; none when part of it is
    /// no longer there.
    pub(crate) fn take_back(&mut self) -> Option<(Outgoing, Asked)> {
        let asked = self.asked;
        self.outgoing.rewind().then(|| (std::mem::take(&mut self.outgoing), asked))
    }

    /// The stream of a connection that has changed protocols, and what was read beyond that.
    pub(crate) fn into_tunnel(self) -> (Transport, BytesMut) {
        (self.stream, self.read)
    }

    /// Goes on sending the request's body after the response has ended; ready when there is
    /// nothing more to send, or it cannot be sent.
    pub(crate) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        match ready!(self.outgoing.poll_send(&mut self.stream, cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(Unsent::Endpoint(error)) => Poll::Ready(Err(Failure::Unanswered(Some(error)))),
            Err(Unsent::Body(error)) => Poll::Ready(Err(error.into())),
        }
    }

    /// Sends as much as can be sent. An endpoint that takes no more may still have answered, so
    /// that is no failure here: the error is given, and reading decides.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<Option<io::Error>, Failure> {
        match self.outgoing.poll_send(&mut self.stream, cx) {
            Poll::Pending | Poll::Ready(Ok(())) => Ok(None),
            Poll::Ready(Err(Unsent::Endpoint(error))) => Ok(Some(error)),
            Poll::Ready(Err(Unsent::Body(error))) => Err(error.into()),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() - self.read.len() < MIN_ROOM {
            // A request that waits for its response holds no room for it.
            ready!(self.stream.poll_readable(cx))?;
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
