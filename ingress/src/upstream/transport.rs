//! The byte stream to an endpoint, opened by [`connect`].
//!
//! What carries the bytes is decided here and known nowhere else, so that TLS to endpoints is
//! another variant.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::wire::Wire;

/// An endpoint that sends nothing is probed after this time, so that one that vanished is noticed
/// even where a time-out is long.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// An open byte stream.
#[derive(Debug)]
pub(crate) enum Transport {
    Tcp(TcpStream),
}

/// Opens a stream.
pub(crate) async fn connect(address: SocketAddr, _wire: &Wire) -> io::Result<Transport> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(Transport::Tcp(stream))
}

impl Transport {
    /// Whether the stream is open and nothing has come. Costs no system call unless the runtime
    /// has seen something happen to the socket.
    pub(crate) fn is_idle(&self) -> bool {
        let Transport::Tcp(stream) = self;
        matches!(stream.try_read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same, asking the kernel.
    pub(crate) fn is_idle_now(&self) -> bool {
        let Transport::Tcp(stream) = self;
        let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn inner(self: Pin<&mut Transport>) -> Pin<&mut TcpStream> {
        let Transport::Tcp(stream) = self.get_mut();
        Pin::new(stream)
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        let Transport::Tcp(stream) = self;
        stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}
