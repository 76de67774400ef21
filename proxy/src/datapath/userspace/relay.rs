//! Relays bytes both ways between a client and an endpoint until both are done.
//!
//! What is read goes through one buffer of the data thread and is written at once; a connection
//! owns memory only while its receiver is slower than its sender. An end of stream is passed on
//! as one (half-close), a reset as a reset.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::serving::Endpoint;
use crate::metrics::{Meter, add};

/// What is read at once. Fits the second-level cache; larger reads gained nothing.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Bytes of a connection that may be missing from the Service's counters while it is open.
const UNCOUNTED_BYTES: u64 = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into());
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// Both ends closed their direction, and all bytes were passed on.
    Closed,
    /// One end was reset; so must be the other.
    Reset,
    /// The endpoint was removed, and its drain time-out is over.
    Removed,
}

/// Relays until the end. The caller closes the sockets, or resets them.
pub(super) async fn relay(
    client: &mut TcpStream,
    upstream: &mut TcpStream,
    endpoint: &Endpoint,
    meter: &Meter,
) -> End {
    let (client_reads, client_writes) = client.split();
    let (upstream_reads, upstream_writes) = upstream.split();
    let mut up = Flow::new(client_reads, upstream_writes, &meter.upstream_bytes);
    let mut down = Flow::new(upstream_reads, client_writes, &meter.downstream_bytes);
    let mut ending = pin!(endpoint.ending());
    // The first poll leaves this task's waker with the endpoint; after that its state is enough.
    poll_fn(|cx| {
        let _ = ending.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
    let first = poll_fn(|cx| {
        if endpoint.has_ended() {
            return Poll::Ready(Err(End::Removed));
        }
        if up.drive(cx).is_err() || down.drive(cx).is_err() {
            return Poll::Ready(Err(End::Reset));
        }
        up.pass_end(cx, down.stage);
        down.pass_end(cx, up.stage);
        match (up.is_over(), down.is_over()) {
            (false, false) => Poll::Pending,
            (true, true) => Poll::Ready(Err(both(&up, &down))),
            (up_over, _) => Poll::Ready(Ok(up_over)),
        }
    });
    match first.await {
        Err(end) => end,
        Ok(true) => last(&mut down, &up, endpoint).await,
        Ok(false) => last(&mut up, &down, endpoint).await,
    }
}

/// Relays the direction that is left, and watches the end that has said its last word: it may
/// still be reset, which nobody would notice by reading.
async fn last(flow: &mut Flow<'_>, over: &Flow<'_>, endpoint: &Endpoint) -> End {
    let mut reset = pin!(over.from.ready(Interest::ERROR));
    poll_fn(|cx| {
        if endpoint.has_ended() {
            return Poll::Ready(End::Removed);
        }
        // First what can still be delivered: an endpoint that answers and then resets.
        if flow.drive(cx).is_err() {
            return Poll::Ready(End::Reset);
        }
        flow.pass_end(cx, over.stage);
        if flow.is_over() {
            return Poll::Ready(both(flow, over));
        }
        // A direction that broke had its error already, and the other one still brings bytes.
        if over.stage == Stage::Finished && reset.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Reset);
        }
        Poll::Pending
    })
    .await
}

fn both(one: &Flow<'_>, other: &Flow<'_>) -> End {
    let finished = one.stage == Stage::Finished && other.stage == Stage::Finished;
    if finished { End::Closed } else { End::Reset }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Copying,
    /// The source has ended; what is unsent goes out.
    Flushing,
    /// All has gone out but the end of stream.
    Flushed,
    /// All was passed on, the end of stream too.
    Finished,
    /// The receiver takes no more. What it sent before may still be on its way to the source.
    Broken,
}

/// One direction.
struct Flow<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    stage: Stage,
    unsent: Vec<u8>,
    /// How much of `unsent` has been sent.
    sent: usize,
    uncounted: u64,
    counter: &'a AtomicU64,
}

impl<'a> Flow<'a> {
    fn new(from: ReadHalf<'a>, to: WriteHalf<'a>, counter: &'a AtomicU64) -> Flow<'a> {
        let stage = Stage::Copying;
        Flow { from, to, stage, unsent: Vec::new(), sent: 0, uncounted: 0, counter }
    }

    fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Finished | Stage::Broken)
    }

    /// Moves all that can be moved now; `cx` is woken when there is more.
    ///
    /// # Errors
    ///
    /// When the source was reset: nothing that it sent is owed to anyone any more.
    fn drive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            if !self.flush(cx) {
                return Ok(());
            }
            match self.stage {
                Stage::Copying => {}
                Stage::Flushing => self.stage = Stage::Flushed,
                Stage::Flushed | Stage::Finished | Stage::Broken => {}
            }
            if self.stage != Stage::Copying {
                return Ok(());
            }
            let more = SCRATCH.with_borrow_mut(|scratch| self.copy_once(cx, scratch))?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Whether nothing is unsent.
    fn flush(&mut self, cx: &mut Context<'_>) -> bool {
        while self.sent < self.unsent.len() {
            let rest = &self.unsent[self.sent..];
            match Pin::new(&mut self.to).poll_write(cx, rest) {
                Poll::Pending => return false,
                Poll::Ready(Ok(written)) => self.sent += written,
                Poll::Ready(Err(_)) => {
                    self.stage = Stage::Broken;
                    break;
                }
            }
        }
        if !self.unsent.is_empty() {
            (self.unsent, self.sent) = (Vec::new(), 0);
        }
        true
    }

    /// Reads once and writes what was read; false when there is nothing to read yet.
    fn copy_once(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> io::Result<bool> {
        let mut buffer = ReadBuf::new(scratch);
        match Pin::new(&mut self.from).poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(read) => read?,
        }
        let mut rest = buffer.filled();
        if rest.is_empty() {
            self.stage = Stage::Flushing;
            return Ok(true);
        }
        self.count(rest.len());
        while !rest.is_empty() {
            match Pin::new(&mut self.to).poll_write(cx, rest) {
                Poll::Ready(Ok(written)) => rest = &rest[written..],
                Poll::Ready(Err(_)) => {
                    self.stage = Stage::Broken;
                    return Ok(true);
                }
                Poll::Pending => {
                    self.unsent = rest.to_vec();
                    return Ok(true);
                }
            }
        }
        Ok(true)
    }

    /// Passes the end of stream on once all before it has gone out. When the other direction
    /// has come as far, closing the sockets does it.
    fn pass_end(&mut self, cx: &mut Context<'_>, other: Stage) {
        if self.stage != Stage::Flushed {
            return;
        }
        let shut = match other {
            Stage::Flushed | Stage::Finished => Poll::Ready(Ok(())),
            _ => Pin::new(&mut self.to).poll_shutdown(cx),
        };
        self.stage = match shut {
            Poll::Ready(Err(_)) => Stage::Broken,
            _ => Stage::Finished,
        };
    }

    fn count(&mut self, bytes: usize) {
        self.uncounted += bytes as u64;
        if self.uncounted >= UNCOUNTED_BYTES {
            add(self.counter, std::mem::take(&mut self.uncounted));
        }
    }
}

impl Drop for Flow<'_> {
    fn drop(&mut self) {
        add(self.counter, self.uncounted);
    }
}
