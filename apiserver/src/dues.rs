//! What a client owes for its place among the connections: a request soon, one that is let in,
//! and to take what it asked for.
//!
//! HTTP/1.1 has clocks for some of this, HTTP/2 for none; this is one for both. Left out: bytes
//! that wait for a socket ([`super::stall`]), and clients that are gone (pings, keepalive).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

use super::stall::WRITE_STALL;

/// To the first whole request: longer than any client needs, shorter than many such clients need
/// to take all connections.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// To the first request that may read: probes and clients that look for a token get on with it.
const ADMISSION: Duration = Duration::from_secs(60);
/// Without a request under way. Clients drop idle connections about then themselves.
const IDLE: Duration = Duration::from_secs(90);

/// The dues of one connection. `clone` shares them.
#[derive(Clone, Debug)]
pub(crate) struct Dues(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    begun: Instant,
    asked: bool,
    admitted: bool,
    /// Answers under way, and when something must have been taken of each.
    open: HashMap<u64, Option<Instant>>,
    next: u64,
    /// When the last answer ended.
    idle: Instant,
    /// When the client was told to go.
    ending: Option<Instant>,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    /// No further requests.
    End,
    /// Its client says nothing, or stays though it was told to go.
    Cut,
    /// Its client takes nothing.
    Slow,
}

impl Dues {
    pub(crate) fn new() -> Dues {
        let now = Instant::now();
        Dues(Arc::new(Mutex::new(State {
            begun: now,
            asked: false,
            admitted: false,
            open: HashMap::new(),
            next: 0,
            idle: now,
            ending: None,
        })))
    }

    /// A request of the client may read.
    pub(crate) fn admitted(&self) {
        self.state().admitted = true;
    }

    /// The client asked for this, and has to take it.
    pub(crate) fn answer<B>(&self, body: B) -> Taken<B> {
        let mut state = self.state();
        state.asked = true;
        let number = state.next;
        state.next += 1;
        state.open.insert(number, Some(Instant::now() + WRITE_STALL));
        drop(state);
        Taken { body, dues: self.clone(), number }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let now = Instant::now();
        let mut state = self.state();
        let is_past = |from: Instant, time| now >= from + time;
        if !state.asked && is_past(state.begun, FIRST_REQUEST) {
            return Verdict::Cut;
        }
        if state.open.values().flatten().any(|due| *due <= now) {
            return Verdict::Slow;
        }
        let is_idle = state.open.is_empty() && is_past(state.idle, IDLE);
        if let Some(ending) = state.ending {
            // Time for the last bytes, which may wait within HTTP/2.
            let stays = state.open.is_empty() && is_past(ending, WRITE_STALL);
            return if stays { Verdict::Cut } else { Verdict::Keep };
        }
        if is_idle || (!state.admitted && is_past(state.begun, ADMISSION)) {
            state.ending = Some(now);
            return Verdict::End;
        }
        Verdict::Keep
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of an answer. After each piece its client has to come for the next one; while there
/// is none, the client owes nothing.
#[derive(Debug)]
pub(crate) struct Taken<B> {
    body: B,
    dues: Dues,
    number: u64,
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for Taken<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let due = polled.is_ready().then(|| Instant::now() + WRITE_STALL);
        self.dues.state().open.insert(self.number, due);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Taken<B> {
    fn drop(&mut self) {
        let mut state = self.dues.state();
        state.open.remove(&self.number);
        state.idle = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Keeps until `time` from now, and then is this.
    async fn expect(dues: &Dues, time: Duration, verdict: Verdict) {
        advance(time - SECOND).await;
        assert_eq!(dues.verdict(), Verdict::Keep);
        advance(SECOND).await;
        assert_eq!(dues.verdict(), verdict);
    }

    fn short() -> Full<Bytes> {
        Full::new(Bytes::from_static(b"ok"))
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_is_cut() {
        expect(&Dues::new(), FIRST_REQUEST, Verdict::Cut).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_but_may_not_read_is_told_to_go() {
        let dues = Dues::new();
        for _ in 0..ADMISSION.as_secs() - 1 {
            advance(SECOND).await;
            dues.answer(short()).collect().await.unwrap();
        }
        expect(&dues, SECOND, Verdict::End).await;
        expect(&dues, WRITE_STALL, Verdict::Cut).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_read_stays_until_it_is_idle() {
        let dues = Dues::new();
        dues.admitted();
        let watch = dues.answer(StreamBody::new(stream::pending::<Result<_, ()>>()));
        let mut watch = Box::pin(watch);
        let waits = tokio::time::timeout(SECOND, watch.frame()).await;
        assert!(waits.is_err(), "there is nothing to take");
        advance(WRITE_STALL * 100).await;
        assert_eq!(dues.verdict(), Verdict::Keep);
        drop(watch);
        expect(&dues, IDLE, Verdict::End).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_take_what_it_asked_for_is_slow() {
        let dues = Dues::new();
        dues.admitted();
        let untaken = dues.answer(short());
        expect(&dues, WRITE_STALL, Verdict::Slow).await;
        drop(untaken);
        let pieces = (0..3).map(|_| Ok::<_, ()>(Frame::data(Bytes::from_static(b"x"))));
        let mut list = dues.answer(StreamBody::new(stream::iter(pieces)));
        for _ in 0..3 {
            advance(WRITE_STALL - SECOND).await;
            assert_eq!(dues.verdict(), Verdict::Keep);
            list.frame().await.unwrap().unwrap();
        }
        expect(&dues, WRITE_STALL, Verdict::Slow).await;
    }
}
