//! A request on its way to an endpoint: its head, then its body as the client sends it.
//!
//! What was taken from the client is kept in one buffer until that buffer has to be used again
//! for more of the body. Until then the request is whole, and can be sent once more from its
//! beginning.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::HeaderMap;
use tokio::io::AsyncWrite;

use super::client_body::{BodyError, Piece, Source};
use super::transport::Transport;

/// Pieces of a body up to this size are copied behind the head, to be sent with it in one call;
/// a larger one is sent from where it is. A copy of this size is cheaper than a second slice.
const COPIED_BYTES: usize = 16 << 10;

/// A buffer that grew beyond this is not kept with an idle connection.
const KEPT_BYTES: usize = 4 << 10;

/// Why the request could not be sent.
#[derive(Debug)]
pub(super) enum Unsent {
    /// The endpoint takes no more.
    Endpoint(io::Error),
    /// The client's body cannot be sent on.
    Body(BodyError),
}

impl From<BodyError> for Unsent {
    fn from(error: BodyError) -> Unsent {
        Unsent::Body(error)
    }
}

/// The part of a request that is not sent yet, and the bytes of what is.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// The head, and pieces of the body that were small.
    buffer: Vec<u8>,
    sent: usize,
    /// A piece of the body that was large, and what closes it.
    piece: Bytes,
    piece_end: &'static [u8],
    body: Source,
    /// The body is held back until the endpoint asks for it.
    held: bool,
    /// Everything taken from the client is in `buffer`.
    whole: bool,
    /// Anything has been sent.
    begun: bool,
    /// Bytes and frames that came and went.
    progress: u64,
}

impl Outgoing {
    /// The buffer for a new request's head, empty.
    pub(crate) fn head(&mut self) -> &mut Vec<u8> {
        self.buffer.clear();
        self.sent = 0;
        self.piece = Bytes::new();
        self.body = Source::Ended;
        self.whole = true;
        self.begun = false;
        self.held = false;
        &mut self.buffer
    }

    /// Holds the body back: the client does not send it before it is asked for (RFC 9110 section
    /// 10.1.1), and reading it is what asks.
    pub(super) fn hold_body(&mut self) {
        self.held = true;
    }

    pub(super) fn holds_body(&self) -> bool {
        self.held
    }

    /// Sends the body from now on.
    pub(super) fn send_body(&mut self) {
        self.held = false;
    }

    /// Whether the rest of the body is not read, because the endpoint does not want it.
    pub(super) fn refuses_body(&self) -> bool {
        matches!(self.body, Source::Refused)
    }

    /// Lets go of a body that is still held back: the endpoint does not want it.
    pub(super) fn refuse_held_body(&mut self) {
        if std::mem::take(&mut self.held) {
            self.body = Source::Refused;
        }
    }

    /// Lets go of a buffer that grew.
    pub(super) fn shrink(&mut self) {
        if self.buffer.capacity() > KEPT_BYTES {
            self.buffer = Vec::new();
        }
    }

    /// The body that follows the head.
    pub(super) fn set_body(&mut self, body: Source) {
        self.body = body;
    }

    /// All of the request, with its body, has been sent.
    pub(crate) fn is_sent(&self) -> bool {
        matches!(self.body, Source::Ended) && self.is_flushed()
    }

    pub(crate) fn progress(&self) -> u64 {
        self.progress
    }

    /// Whether it is the client that has to go on: all that it sent has been sent on.
    pub(crate) fn waits_for_client(&self) -> bool {
        matches!(self.body, Source::Client(_)) && self.is_flushed() && !self.held
    }

    /// Whether any byte may have reached the endpoint.
    pub(crate) fn is_begun(&self) -> bool {
        self.begun
    }

    /// Makes it ready to be sent again from its beginning; false when part of it is no longer
    /// there.
    pub(crate) fn rewind(&mut self) -> bool {
        if !self.is_whole() {
            return false;
        }
        self.sent = 0;
        self.begun = false;
        true
    }

    /// Whether it can be sent again from its beginning.
    pub(super) fn is_whole(&self) -> bool {
        self.whole && !matches!(self.body, Source::Refused)
    }

    /// Sends what there is; ready once everything has been sent.
    pub(super) fn poll_send(
        &mut self,
        stream: &mut Transport,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Unsent>> {
        loop {
            let waits = match self.poll_take(cx) {
                Poll::Pending => true,
                Poll::Ready(Err(unsent)) => return Poll::Ready(Err(unsent)),
                Poll::Ready(Ok(())) => false,
            };
            if let Err(error) = ready!(self.poll_flush(stream, cx)) {
                // Kept as it is while it could still be sent again over another connection.
                if !self.whole {
                    self.body = Source::Refused;
                }
                return Poll::Ready(Err(Unsent::Endpoint(error)));
            }
            if waits {
                return Poll::Pending;
            }
            if !matches!(self.body, Source::Client(_)) {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes of the body what fits behind what is not sent yet; ready when nothing more fits, or
    /// nothing more comes.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        if self.held {
            // Reading the response tells when to go on.
            return Poll::Pending;
        }
        while self.piece.is_empty() && self.buffer.len() - self.sent < COPIED_BYTES {
            let Source::Client(body) = &mut self.body else { break };
            let piece = ready!(body.poll_piece(cx))?;
            let is_chunked = body.is_chunked();
            self.make_room();
            self.progress += 1;
            match piece {
                Piece::Data(data) => self.add_data(data, is_chunked),
                Piece::End(trailers) => self.end_body(trailers.as_ref(), is_chunked),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room in the buffer, once enough of it has been sent to matter.
    fn make_room(&mut self) {
        if self.sent >= COPIED_BYTES / 2 {
            self.buffer.drain(..self.sent);
            self.sent = 0;
            self.whole = false;
        }
    }

    fn add_data(&mut self, data: Bytes, is_chunked: bool) {
        if data.is_empty() {
            return;
        }
        if is_chunked {
            write!(self.buffer, "{:x}\r\n", data.len()).expect("a Vec takes any bytes");
        }
        let end: &'static [u8] = if is_chunked { b"\r\n" } else { b"" };
        if data.len() <= COPIED_BYTES {
            self.buffer.extend_from_slice(&data);
            self.buffer.extend_from_slice(end);
        } else {
            self.piece = data;
            self.piece_end = end;
            self.whole = false;
        }
    }

    fn end_body(&mut self, trailers: Option<&HeaderMap>, is_chunked: bool) {
        self.body = Source::Ended;
        if !is_chunked {
            return;
        }
        self.buffer.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten() {
            self.buffer.extend_from_slice(name.as_str().as_bytes());
            self.buffer.extend_from_slice(b": ");
            self.buffer.extend_from_slice(value.as_bytes());
            self.buffer.extend_from_slice(b"\r\n");
        }
        self.buffer.extend_from_slice(b"\r\n");
    }

    fn is_flushed(&self) -> bool {
        self.sent == self.buffer.len() && self.piece.is_empty()
    }

    fn poll_flush(&mut self, stream: &mut Transport, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_flushed() {
            let unsent = &self.buffer[self.sent..];
            let stream = Pin::new(&mut *stream);
            let written = if self.piece.is_empty() {
                ready!(stream.poll_write(cx, unsent))?
            } else {
                let slices = [unsent, &self.piece, self.piece_end].map(IoSlice::new);
                ready!(stream.poll_write_vectored(cx, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.begun = true;
            self.progress += written as u64;
            self.advance(written);
        }
        if self.begun && stream.holds_back() {
            return Pin::new(stream).poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        let of_buffer = written.min(self.buffer.len() - self.sent);
        self.sent += of_buffer;
        let of_piece = (written - of_buffer).min(self.piece.len());
        if of_piece == 0 {
            return;
        }
        self.piece.advance(of_piece);
        if self.piece.is_empty() {
            // The end of a chunk goes on from the buffer, which is all sent.
            let of_end = written - of_buffer - of_piece;
            self.buffer.clear();
            self.sent = 0;
            self.buffer.extend_from_slice(&self.piece_end[of_end..]);
        }
    }
}
