//! A client's byte stream, which tells its connection when bytes come and go.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Connection;

/// A head and a body that are together no larger are copied into one piece before they are
/// written: the kernel takes longer to look at two slices than we to copy these few bytes.
const JOINED_BYTES: usize = 2 << 10;

/// The stream, with bytes that were read from it before.
#[derive(Debug)]
pub(super) struct Stream<S> {
    stream: S,
    first: BytesMut,
    connection: Rc<Connection>,
    /// The client has said that it sends no more.
    ended: bool,
    /// A shutdown is put off: HTTP has ended, and what comes next is not decided.
    held_open: bool,
}

impl<S> Stream<S> {
    pub(super) fn new(stream: S, first: BytesMut, connection: Rc<Connection>) -> Stream<S> {
        Stream { stream, first, connection, ended: false, held_open: false }
    }

    /// Whether a shutdown is put off. HTTP/1.1 may end in another protocol, or in an answer that
    /// the client must have time to read.
    pub(super) fn hold_open(&mut self, held_open: bool) {
        self.held_open = held_open;
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.connection.on_write();
        Poll::Ready(Ok(written))
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
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        self.connection.on_write();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held_open {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
