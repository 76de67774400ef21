//! A connection that gives up on a client whose socket takes nothing for too long: its buffers
//! and its place among the connections belong to those who read.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Without taking a byte that waits for it, longer than the events are kept that it misses.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub(crate) struct Stall<S> {
    stream: S,
    /// While the client reads nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    cut: Counter,
}

impl<S> Stall<S> {
    /// `cut` counts clients that were given up while something waited for them.
    pub(crate) fn new(stream: S, cut: Counter) -> Stall<S> {
        Stall { stream, stalled: None, cut }
    }

    /// The outcome of an attempt to write.
    fn wrote<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let deadline = || Box::pin(sleep_until(Instant::now() + WRITE_STALL));
        ready!(self.stalled.get_or_insert_with(deadline).as_mut().poll(cx));
        self.cut.inc();
        let message = "the client reads nothing";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stall<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stall<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.wrote(cx, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_and_who_takes_a_little_is_not() {
        let (mut client, server) = duplex(64);
        let cut = Counter::default();
        let mut server = Stall::new(server, cut.clone());
        let begun = Instant::now();
        let slow = async {
            for _ in 0..64 {
                tokio::time::sleep(WRITE_STALL / 2).await;
                client.read_u8().await.unwrap();
            }
        };
        let (_, written) = tokio::join!(slow, server.write_all(&[0; 128]));
        written.unwrap();
        assert!(begun.elapsed() > WRITE_STALL * 30);
        assert_eq!(cut.get(), 0);
        let error = server.write_all(&[0; 128]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(cut.get(), 1);
    }
}
