//! The byte stream to an endpoint, opened by [`connect`].
//!
//! What carries the bytes is decided here and known nowhere else: TCP, or TLS over it.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::endpoint_tls::server_name;
use crate::wire::Wire;

/// An endpoint that sends nothing is probed after this time, so that one that vanished is noticed
/// even where a time-out is long.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// An open byte stream.
#[derive(Debug)]
pub(crate) enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Calls a method of either stream.
macro_rules! either {
    ($transport:expr, $stream:ident => $call:expr) => {
        match $transport {
            Transport::Tcp($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Transport::Tls($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $call
            }
        }
    };
}

/// Opens a stream.
pub(crate) async fn connect(address: SocketAddr, wire: &Wire) -> io::Result<Transport> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let Some(tls) = &wire.tls else { return Ok(Transport::Tcp(stream)) };
    let name = server_name(tls.name.as_deref(), address.ip());
    let connector = TlsConnector::from(tls.settings.config(wire.is_http2));
    let stream = connector.connect(name, stream).await?;
    // An endpoint may agree to nothing, and speak the protocol all the same.
    let agreed = stream.get_ref().1.alpn_protocol();
    if wire.is_http2 && agreed.is_some_and(|agreed| agreed != b"h2") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not speak HTTP/2"));
    }
    Ok(Transport::Tls(Box::new(stream)))
}

impl Transport {
    /// Whether the stream is open and nothing has come. Costs no system call unless the runtime
    /// has seen something happen to the socket.
    pub(crate) fn is_idle(&mut self) -> bool {
        match self {
            Transport::Tcp(stream) => {
                matches!(stream.try_read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
            }
            // What TLS itself has to say, such as tickets of sessions, is no data.
            Transport::Tls(stream) => {
                let mut scrap = [0];
                let mut context = Context::from_waker(Waker::noop());
                let buffer = &mut ReadBuf::new(&mut scrap);
                Pin::new(&mut **stream).poll_read(&mut context, buffer).is_pending()
            }
        }
    }

    /// The same, asking the kernel.
    pub(crate) fn is_idle_now(&mut self) -> bool {
        let stream = match self {
            Transport::Tcp(stream) => &*stream,
            // What TLS itself has to say was read after the response before.
            Transport::Tls(stream) => stream.get_ref().0,
        };
        let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits until a read may give something. Over TLS only the read itself tells.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Tcp(stream) => stream.poll_read_ready(cx),
            Transport::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether what was written may still be held back, until it is flushed.
    pub(crate) fn holds_back(&self) -> bool {
        matches!(self, Transport::Tls(_))
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), stream => stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), stream => stream.poll_shutdown(cx))
    }
}
