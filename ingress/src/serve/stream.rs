//! A client's byte stream, which tells its connection when bytes come and go.
//!
//! Over HTTP/2 it follows the frames of both directions: it counts the streams and connections that
//! end with an error, and ends a flood of control frames. Over
//! HTTP/1.1 it keeps back the answers that hyper gives by itself to HTTP/1.1 heads that it cannot
//! read, so that a better one can be sent in their place.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

use super::frames::{Budget, Cursor, Ended, go_away};
use crate::connection::{Connection, Phase};
use crate::http2_error::position;
use crate::metrics::Shard;
use crate::settings::LINGER_BYTES;

/// A head and a body that are together no larger are copied into one piece before they are
/// written: the kernel takes longer to look at two slices than we to copy these few bytes.
const JOINED_BYTES: usize = 2 << 10;

/// A task may do 128 units of work before it is the turn of others, by tokio's counting, which
/// takes a read of any size as one. Each byte of a compressed head can stand for a field of
/// thousands of bytes, so that a single read may take a millisecond.
const HEAD_BYTES_PER_UNIT: usize = 64;
/// The same of large writes: a client that begins to download fills megabytes of socket buffers,
/// and hundreds that do so at one time would keep others waiting for a second.
const WRITTEN_BYTES_PER_UNIT: usize = 4 << 10;
const LARGE_WRITE: usize = 16 << 10;
const MAX_UNITS: usize = 128;

/// The stream, with bytes that were read from it before.
#[derive(Debug)]
pub(super) struct Stream<S> {
    stream: S,
    first: BytesMut,
    connection: Rc<Connection>,
    /// The client has closed its side.
    ended: bool,
    /// HTTP/1.1 is served: it may end in another protocol, or in an answer that the client must
    /// have time to read, so a shutdown is put off.
    is_http1: bool,
    /// The last bytes of HTTP/1.1, which end in an answer of hyper's own.
    kept: Option<Kept>,
    /// The frames of HTTP/2, if that is what is served.
    frames: Option<Box<Frames>>,
}

/// What is known of an HTTP/2 connection's frames.
#[derive(Debug)]
struct Frames {
    budget: Budget,
    written: Cursor,
    /// The last bytes held large heads, which take long to read: others go first.
    yields: bool,
    /// The client floods us: bytes of it that are still read, before the connection is closed.
    flood: Option<usize>,
}

/// Bytes that were not written yet.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    status: u16,
}

/// Takes units of work from those that the task has before it is the turn of others.
fn spend(units: usize, cx: &mut Context<'_>) {
    for _ in 0..units.min(MAX_UNITS) {
        let Poll::Ready(unit) = coop::poll_proceed(cx) else { return };
        unit.made_progress();
    }
}

impl Frames {
    /// Lets large heads use up the time that the connection has before it is the turn of others.
    fn spend(&mut self, cx: &mut Context<'_>) {
        let units = self.budget.take_head_bytes() / HEAD_BYTES_PER_UNIT;
        self.yields = units > 0;
        spend(units, cx);
    }

    /// So many bytes of the slices were written.
    fn wrote(&mut self, written: usize, slices: &[IoSlice<'_>], shard: &Shard) {
        self.budget.sent(written);
        let mut left = written;
        for slice in slices {
            let length = left.min(slice.len());
            self.written.wrote(&slice[..length], |ended| match ended {
                Ended::Stream(code) => shard.http2_resets[position(code)].add(1),
                Ended::Connection(code) => shard.http2_goaways[position(code)].add(1),
            });
            left -= length;
        }
    }
}

impl<S> Stream<S> {
    pub(super) fn new(stream: S, first: BytesMut, connection: Rc<Connection>) -> Stream<S> {
        Stream {
            stream,
            first,
            connection,
            ended: false,
            is_http1: false,
            kept: None,
            frames: None,
        }
    }

    /// HTTP/1.1 begins.
    pub(super) fn serve_http1(&mut self) {
        self.is_http1 = true;
    }

    /// HTTP/2 begins.
    pub(super) fn serve_http2(&mut self) {
        let budget = Budget::new(self.connection.context.deadlines.now());
        let written = Cursor::default();
        self.frames = Some(Box::new(Frames { budget, written, yields: false, flood: None }));
    }

    fn is_flooded(&self) -> bool {
        self.frames.as_ref().is_some_and(|frames| frames.flood.is_some())
    }

    /// HTTP/1.1 has ended. Gives the bytes that were kept back, and the status that they answer
    /// the last head with.
    pub(super) fn end_http1(&mut self) -> (Option<Vec<u8>>, Option<u16>) {
        self.is_http1 = false;
        let kept = self.kept.take();
        let status = kept.as_ref().map(|kept| kept.status);
        (kept.map(|kept| kept.bytes), status)
    }

    /// The client has closed its side.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Keeps bytes back if they are what hyper writes by itself about a head that it cannot read.
    /// Such an answer comes while no request is in flight, and is the last of the connection.
    fn keep_back(&mut self, bytes: &[u8]) -> bool {
        if !self.is_http1 || self.connection.phase() == Phase::Exchange {
            return false;
        }
        let Some(status) = status_of_bare_answer(bytes) else { return false };
        self.kept = Some(Kept { bytes: bytes.to_vec(), status });
        true
    }
}

impl<S: AsyncWrite + Unpin> Stream<S> {
    /// Tells the connection how a write went.
    fn wrote(
        &mut self,
        written: Poll<io::Result<usize>>,
        slices: &[IoSlice<'_>],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(written)) => {
                self.connection.on_write();
                if *written >= LARGE_WRITE {
                    spend(*written / WRITTEN_BYTES_PER_UNIT, cx);
                }
                if let Some(frames) = &mut self.frames {
                    frames.wrote(*written, slices, self.connection.context.shard());
                }
            }
            Poll::Pending => self.connection.on_blocked(),
            Poll::Ready(Err(_)) => {}
        }
        written
    }

    /// Writes an interim response.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stream { stream, connection, .. } = self;
        connection.write_interim(|bytes| Pin::new(&mut *stream).poll_write(cx, bytes))
    }

    /// Writes what was kept back after all: more came behind it.
    fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(kept) = &mut self.kept {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &kept.bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            kept.bytes.drain(..written);
            if kept.bytes.is_empty() {
                self.kept = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    /// Answers a flood of control frames with GOAWAY, and closes our side.
    fn end_flood(&mut self, cx: &mut Context<'_>) {
        let Some(frames) = &mut self.frames else { return };
        frames.flood = Some(LINGER_BYTES);
        let mut stream = Pin::new(&mut self.stream);
        // As far as one write can, and not in the middle of a frame.
        if frames.written.is_between_frames() {
            let last_stream = frames.budget.last_stream();
            let _ = stream.as_mut().poll_write(cx, &go_away(last_stream));
            let _ = stream.as_mut().poll_flush(cx);
        }
        let _ = stream.poll_shutdown(cx);
        self.connection.end_flooded();
    }

    /// Reads what the client still sends and forgets it: a close with unread bytes would reset
    /// the connection, and the client might never see why. Ends with an error.
    fn poll_forget(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scrap = [0; 8 << 10];
        let Some(left) = self.frames.as_mut().and_then(|frames| frames.flood.as_mut()) else {
            return Poll::Ready(Ok(()));
        };
        while *left > 0 {
            let mut buffer = ReadBuf::new(&mut scrap);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            match buffer.filled().len() {
                0 => break,
                read => *left = left.saturating_sub(read),
            }
        }
        Poll::Ready(Err(io::Error::other("a flood of control frames")))
    }
}

/// The status of a response without a body, and without fields but those that hyper writes by
/// itself, which ends its connection: the whole of what hyper answers to a bad head.
fn status_of_bare_answer(bytes: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(bytes.strip_suffix(b"\r\n\r\n")?).ok()?;
    let (line, fields) = text.split_once("\r\n")?;
    let status = line.strip_prefix("HTTP/1.1 4")?.get(..2)?;
    let mut seen = 0;
    for field in fields.split("\r\n") {
        seen += 1;
        let expected = field == "connection: close"
            || field == "content-length: 0"
            || field.starts_with("date: ");
        if !expected {
            return None;
        }
    }
    (seen == 3).then(|| format!("4{status}").parse().ok())?
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.kept.is_some() {
            ready!(self.poll_kept(cx))?;
        }
        if self.is_flooded() {
            return self.poll_forget(cx);
        }
        if self.frames.as_ref().is_some_and(|frames| frames.yields) {
            ready!(coop::poll_proceed(cx)).made_progress();
        }
        let before = buffer.filled().len();
        if self.first.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        } else {
            let length = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..length]);
            self.first.advance(length);
            if self.first.is_empty() {
                // Its memory is not needed for the rest of the connection.
                self.first = BytesMut::new();
            }
        }
        if buffer.filled().len() > before {
            self.connection.on_read();
            let now = self.connection.context.deadlines.now();
            let read = &buffer.filled()[before..];
            if let Some(frames) = &mut self.frames {
                if !frames.budget.take(read, now) {
                    buffer.set_filled(before);
                    self.end_flood(cx);
                    return self.poll_forget(cx);
                }
                frames.spend(cx);
            }
        } else {
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.kept.is_some() {
            ready!(self.poll_kept(cx))?;
        }
        if self.connection.is_interim_begun() {
            ready!(self.poll_interim(cx))?;
        }
        if self.keep_back(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        if self.is_flooded() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(written, &[IoSlice::new(bytes)], cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if length <= JOINED_BYTES {
            let mut joined: SmallVec<[u8; JOINED_BYTES]> = SmallVec::new();
            slices.iter().for_each(|slice| joined.extend_from_slice(slice));
            return self.poll_write(cx, &joined);
        }
        if self.kept.is_some() {
            ready!(self.poll_kept(cx))?;
        }
        if self.connection.is_interim_begun() {
            ready!(self.poll_interim(cx))?;
        }
        if self.is_flooded() {
            return Poll::Ready(Ok(length));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(written, slices, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_flooded() {
            return Poll::Ready(Ok(()));
        }
        // Everything before it has been written: hyper flushes its own bytes first.
        if self.connection.is_passing_on() {
            ready!(self.poll_interim(cx))?;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_http1 || self.is_flooded() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_of_hypers_own_is_kept_back() {
        let [date, close] = ["date: Mon, 30 Nov 2026 10:00:00 GMT", "connection: close"];
        let empty = "content-length: 0";
        let answer =
            |line: &str, fields: &[&str]| format!("{line}\r\n{}\r\n\r\n", fields.join("\r\n"));
        let bad = "HTTP/1.1 400 Bad Request";
        let table = [
            (answer(bad, &[close, empty, date]), Some(400)),
            (answer("HTTP/1.1 431 Too Large", &[date, empty, close]), Some(431)),
            (answer("HTTP/1.1 404 Not Found", &[empty, date]), None),
            (answer(bad, &["x: y", close, empty, date]), None),
            (answer("HTTP/1.1 200 OK", &[close, empty, date]), None),
            (format!("{bad}\r\n\r\n"), None),
            ("hello\r\n\r\n".to_owned(), None),
        ];
        for (bytes, expected) in table {
            assert_eq!(status_of_bare_answer(bytes.as_bytes()), expected, "{bytes}");
        }
    }
}
