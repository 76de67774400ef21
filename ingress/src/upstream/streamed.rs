//! A request on its way to an HTTP/2 endpoint: its head, then its body as the client sends it.
//!
//! The first pieces of the body are kept, so that a request which the endpoint has not looked at,
//! or did not answer, can be sent once more from its beginning.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::Request;
use http::header::{HeaderMap, HeaderValue};

use super::client_body::{BodyError, Piece, Source};
use super::failure::Failure;

/// Bytes of a body that are kept to be sent again; as much as of an HTTP/1.1 request.
const KEPT_BYTES: usize = 16 << 10;

/// Pieces that are kept: each holds the buffer that it is part of.
const KEPT_PIECES: usize = 32;

/// Why a request could not be sent.
#[derive(Debug)]
pub(super) enum Unsendable {
    /// The endpoint takes no more.
    Endpoint,
    /// The client's body cannot be sent on.
    Body(BodyError),
}

impl From<BodyError> for Unsendable {
    fn from(error: BodyError) -> Unsendable {
        Unsendable::Body(error)
    }
}

impl Unsendable {
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Unsendable::Endpoint => Failure::Unanswered(None),
            Unsendable::Body(error) => error.into(),
        }
    }
}

/// The part of a request that is not sent yet, and what it takes to send the rest again.
#[derive(Debug)]
pub(crate) struct Streamed {
    request: Request<()>,
    /// The body from its beginning, while it is whole.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Nothing of the body was let go of.
    is_whole: bool,
    /// How many of the kept pieces were sent, or are being sent.
    at: usize,
    /// What is left of the piece that is being sent.
    piece: Bytes,
    trailers: Option<HeaderMap>,
    body: Source,
    /// The end of the request was sent.
    is_ended: bool,
    /// The body is held back until the endpoint asks for it.
    is_held: bool,
    /// The key of a WebSocket: what follows the head is not sent from here.
    tunnel: Option<HeaderValue>,
    progress: u64,
}

impl Streamed {
    /// A request with its body.
    pub(super) fn new(
        request: Request<()>,
        body: Source,
        is_held: bool,
        tunnel: Option<HeaderValue>,
    ) -> Streamed {
        Streamed {
            tunnel,
            is_held,
            request,
            kept: Vec::new(),
            kept_bytes: 0,
            is_whole: true,
            at: 0,
            piece: Bytes::new(),
            trailers: None,
            body,
            is_ended: false,
            progress: 0,
        }
    }

    /// The head to be sent, and whether it is all of the request.
    pub(super) fn head(&mut self) -> (Request<()>, bool) {
        self.is_ended = matches!(self.body, Source::Ended)
            && self.kept.is_empty()
            && self.trailers.is_none()
            && self.tunnel.is_none();
        self.progress += 1;
        (self.request.clone(), self.is_ended)
    }

    /// Makes it ready to be sent again from its beginning; false when part of it is no longer
    /// there.
    pub(super) fn rewind(&mut self) -> bool {
        if !self.is_whole() {
            return false;
        }
        (self.at, self.piece, self.is_ended) = (0, Bytes::new(), false);
        true
    }

    /// Whether it can be sent again from its beginning.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole && !matches!(self.body, Source::Refused)
    }

    /// The key of the WebSocket that is asked for.
    pub(super) fn tunnel(&self) -> Option<&HeaderValue> {
        self.tunnel.as_ref()
    }

    pub(super) fn holds_body(&self) -> bool {
        self.is_held
    }

    /// Sends the body from now on.
    pub(super) fn send_body(&mut self) {
        self.is_held = false;
    }

    /// Lets go of a body that is still held back: the endpoint does not want it.
    pub(super) fn refuse_held_body(&mut self) {
        if std::mem::take(&mut self.is_held) {
            self.body = Source::Refused;
        }
    }

    /// Whether the rest of the body is not read, because the endpoint does not want it.
    pub(super) fn refuses_body(&self) -> bool {
        matches!(self.body, Source::Refused)
    }

    pub(super) fn is_sent(&self) -> bool {
        self.is_ended
    }

    pub(super) fn progress(&self) -> u64 {
        self.progress
    }

    /// Whether it is the client that has to go on: all that it sent has been sent on.
    pub(super) fn waits_for_client(&self) -> bool {
        matches!(self.body, Source::Client(_))
            && !self.is_held
            && self.piece.is_empty()
            && self.at == self.kept.len()
    }

    /// Sends what there is; ready once everything has been given to the connection.
    pub(super) fn poll_send(
        &mut self,
        send: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsendable>> {
        while !self.is_ended {
            if self.is_held || self.tunnel.is_some() {
                // Reading the response tells when to go on.
                return Poll::Pending;
            }
            if let Err(Unsendable::Endpoint) = ready!(self.poll_pieces(send, cx)) {
                // Kept as it is while it could still be sent again over another connection.
                if !self.is_whole {
                    self.body = Source::Refused;
                }
                return Poll::Ready(Err(Unsendable::Endpoint));
            }
            match &self.body {
                Source::Ended => self.end(send)?,
                Source::Refused => return Poll::Ready(Err(Unsendable::Endpoint)),
                Source::Client(_) => match self.poll_take(cx) {
                    Poll::Ready(taken) => taken?,
                    // To be told when the endpoint resets the stream meanwhile.
                    Poll::Pending => match send.poll_reset(cx) {
                        Poll::Ready(_) => return Poll::Ready(Err(Unsendable::Endpoint)),
                        Poll::Pending => return Poll::Pending,
                    },
                },
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the pieces of the body that were taken, as far as the endpoint's window goes.
    fn poll_pieces(
        &mut self,
        send: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsendable>> {
        loop {
            if self.piece.is_empty() {
                let Some(next) = self.kept.get(self.at) else { return Poll::Ready(Ok(())) };
                self.piece = next.clone();
                self.at += 1;
            }
            send.reserve_capacity(self.piece.len());
            let mut capacity = send.capacity();
            if capacity == 0 {
                match ready!(send.poll_capacity(cx)) {
                    Some(Ok(more)) => capacity = more,
                    Some(Err(_)) | None => return Poll::Ready(Err(Unsendable::Endpoint)),
                }
            }
            if capacity == 0 {
                continue;
            }
            let data = self.piece.split_to(capacity.min(self.piece.len()));
            self.progress += data.len() as u64;
            let is_all = self.piece.is_empty()
                && self.at == self.kept.len()
                && self.trailers.is_none()
                && matches!(self.body, Source::Ended);
            send.send_data(data, is_all).map_err(|_| Unsendable::Endpoint)?;
            self.is_ended = is_all;
        }
    }

    /// Takes the next piece from the client, once all before it were sent.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsendable>> {
        let Source::Client(body) = &mut self.body else { return Poll::Ready(Ok(())) };
        let piece = ready!(body.poll_piece(cx))?;
        self.progress += 1;
        match piece {
            Piece::Data(data) => {
                // The last piece carries the end of the request.
                let is_last = body.is_ended();
                if is_last {
                    body.end(None)?;
                    self.body = Source::Ended;
                }
                self.add(data);
            }
            Piece::End(trailers) => {
                self.body = Source::Ended;
                self.trailers = trailers;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn add(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.kept_bytes = self.kept_bytes.saturating_add(data.len());
        let fits = self.kept_bytes <= KEPT_BYTES && self.kept.len() < KEPT_PIECES;
        if self.is_whole && fits {
            self.kept.push(data);
        } else {
            // All pieces before it have been sent.
            self.is_whole = false;
            self.kept.clear();
            self.at = 0;
            self.piece = data;
        }
    }

    /// Sends the end of a request whose data has all been sent.
    fn end(&mut self, send: &mut SendStream<Bytes>) -> Result<(), Unsendable> {
        if self.is_ended {
            return Ok(());
        }
        self.is_ended = true;
        let sent = match &self.trailers {
            Some(trailers) => send.send_trailers(trailers.clone()),
            None => send.send_data(Bytes::new(), true),
        };
        sent.map_err(|_| Unsendable::Endpoint)
    }
}
