//! The pace of a response's body: so many bytes a second, after some that are sent at once.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// How fast a body may be.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes a second.
    rate: u64,
    /// Bytes that are sent at once.
    after: u64,
    begun: Instant,
    sent: u64,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(crate) fn new(rate: u64, after: u64) -> Pace {
        Pace { rate: rate.max(1), after, begun: Instant::now(), sent: 0, pause: None }
    }

    /// Ready once more may be sent; says whether it had to wait.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(pause) = &mut self.pause else { return Poll::Ready(false) };
        ready!(pause.as_mut().poll(cx));
        self.pause = None;
        Poll::Ready(true)
    }

    /// So many bytes were sent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        let paced = self.sent.saturating_sub(self.after);
        let due = Duration::from_micros(paced.saturating_mul(1_000_000) / self.rate);
        let until = self.begun + due;
        if until > Instant::now() {
            self.pause = Some(Box::pin(tokio::time::sleep_until(until)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_beyond_the_first_take_their_time() {
        let mut pace = Pace::new(1000, 500);
        pace.sent(500);
        assert!(std::future::poll_fn(|cx| Poll::Ready(pace.poll_ready(cx).is_ready())).await);
        let begun = Instant::now();
        pace.sent(2000);
        assert!(std::future::poll_fn(|cx| pace.poll_ready(cx)).await, "it waited");
        assert_eq!(begun.elapsed().as_secs(), 2);
        assert!(!std::future::poll_fn(|cx| pace.poll_ready(cx)).await, "only once");
    }
}
