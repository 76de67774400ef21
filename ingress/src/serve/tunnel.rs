//! A connection, or an HTTP/2 stream (RFC 8441), that has changed protocols: bytes are passed both
//! ways until both sides have ended, or neither has sent anything for too long.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy_bidirectional};

use super::stream::Stream;
use crate::connection::{Connection, Phase};
use crate::deadline::{Ticks, in_time};
use crate::stalled::StreamState;
use crate::upstream::Upstream;

/// `early` are the bytes that the client sent behind its request: the endpoint gets them only
/// now, after its 101.
pub(super) async fn serve<S>(
    connection: &Rc<Connection>,
    stream: Stream<S>,
    early: BytesMut,
    upstream: Upstream,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    connection.enter(Phase::Exchange, connection.context.settings().tunnel_timeout);
    // All bytes of either direction pass the client's stream, which puts the deadline off.
    let copied = copy(stream, &early, upstream);
    if let Some(Err(error)) = in_time(copied, connection.deadline()).await {
        tracing::debug!(%error, "tunnel ended");
    }
}

/// The same for a stream of HTTP/2.
pub(super) async fn serve_stream(
    state: &StreamState,
    timeout: Ticks,
    (send, receive): (SendStream<Bytes>, RecvStream),
    upstream: Upstream,
) {
    state.deadline.arm(timeout);
    let send = RefCell::new(send);
    let idle = Some((state, timeout));
    let stream = Http2Stream { send: &send, receive, read: Bytes::new(), idle };
    let mut copied = pin!(copy(stream, &[], upstream));
    let copied = poll_fn(|cx| {
        if let Poll::Ready(copied) = copied.as_mut().poll(cx) {
            return Poll::Ready(copied);
        }
        // Nothing is read from a client that has ended its side, so a read tells of no reset.
        send.borrow_mut().poll_reset(cx).map(|_| Err(io::ErrorKind::ConnectionReset.into()))
    });
    if let Some(Err(error)) = in_time(copied, &state.deadline).await {
        tracing::debug!(%error, "tunnel ended");
    }
}

async fn copy<S>(mut stream: S, early: &[u8], mut upstream: Upstream) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Some((send, receive)) = upstream.take_stream() {
        let send = RefCell::new(send);
        let mut endpoint = Http2Stream { send: &send, receive, read: Bytes::new(), idle: None };
        endpoint.write_all(early).await?;
        return copy_bidirectional(&mut stream, &mut endpoint).await.map(drop);
    }
    let Some((mut endpoint, first)) = upstream.into_tunnel() else { return Ok(()) };
    endpoint.write_all(early).await?;
    stream.write_all(&first).await?;
    copy_bidirectional(&mut stream, &mut endpoint).await.map(drop)
}

/// A stream of HTTP/2 as a stream of bytes.
struct Http2Stream<'s> {
    /// Borrowed for a call only.
    send: &'s RefCell<SendStream<Bytes>>,
    receive: RecvStream,
    /// What was received and is not read yet.
    read: Bytes,
    /// The deadline that is put off by each byte, and how far.
    idle: Option<(&'s StreamState, Ticks)>,
}

impl Http2Stream<'_> {
    fn moved(&self) {
        if let Some((state, timeout)) = self.idle {
            state.deadline.arm(timeout);
        }
    }
}

impl AsyncRead for Http2Stream<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => self.read = data,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..length]);
        self.read.advance(length);
        // The client may send as much again.
        let _ = self.receive.flow_control().release_capacity(length);
        self.moved();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Stream<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut send = self.send.borrow_mut();
        send.reserve_capacity(bytes.len());
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let length = bytes.len().min(send.capacity());
        let data = Bytes::copy_from_slice(&bytes[..length]);
        send.send_data(data, false).map_err(io::Error::other)?;
        self.moved();
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task writes what it has been given.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.send.borrow_mut().send_data(Bytes::new(), true);
        Poll::Ready(ended.map_err(io::Error::other))
    }
}
