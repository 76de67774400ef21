//! Requests that wait until an endpoint of their Service port has room for them, where the
//! requests of each endpoint are limited.
//!
//! All workers share a `Room`. Each request that ends lets one that waits try again; who comes
//! while others wait, waits behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Where requests to the endpoints of a Service port wait.
#[derive(Debug, Default)]
pub(crate) struct Room {
    waiting: AtomicUsize,
    freed: Notify,
}

/// The right to wait, until dropped.
#[derive(Debug)]
pub(crate) struct WaitPermit {
    room: Arc<Room>,
    /// Nobody was waiting before.
    pub(crate) is_first: bool,
}

impl Room {
    /// Lets another request wait, unless so many do.
    pub(crate) fn enter(self: &Arc<Room>, max: usize) -> Option<WaitPermit> {
        let more = |count| (count < max).then_some(count + 1);
        let before = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        // The endpoints' requests are looked at after this, and by `freed` before this: one of the
        // two sees what the other has done.
        fence(Ordering::SeqCst);
        Some(WaitPermit { room: self.clone(), is_first: before == 0 })
    }

    /// Whether a request has to wait behind others.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// An endpoint has one request less.
    pub(crate) fn freed(&self) {
        fence(Ordering::SeqCst);
        if self.has_waiting() {
            self.freed.notify_one();
        }
    }

    /// There are other endpoints now.
    pub(crate) fn changed(&self) {
        self.freed.notify_waiters();
    }
}

impl WaitPermit {
    /// Ends when it is this request's turn to try again. What happens from this call on counts.
    pub(crate) fn turn(&self) -> Notified<'_> {
        self.room.freed.notified()
    }
}

impl Drop for WaitPermit {
    fn drop(&mut self) {
        self.room.waiting.fetch_sub(1, Ordering::Relaxed);
        // If it leaves without a turn, or there is room for more, it is the next one's turn.
        self.room.freed();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn so_many_wait_and_each_gets_its_turn() {
        let room = Arc::new(Room::default());
        let [first, second] = [room.enter(2).unwrap(), room.enter(2).unwrap()];
        assert!(room.enter(2).is_none(), "two wait already");
        assert_eq!((first.is_first, second.is_first), (true, false));
        let mut context = Context::from_waker(Waker::noop());
        let mut turns = [Box::pin(first.turn()), Box::pin(second.turn())];
        let mut polled =
            || [0, 1].map(|at: usize| turns[at].as_mut().poll(&mut context).is_ready());
        assert_eq!(polled(), [false, false]);
        room.freed();
        assert_eq!(polled()[..1], [true], "in the order in which they came");
        drop(turns);
        let mut turn = pin!(second.turn());
        assert_eq!(turn.as_mut().poll(&mut context), Poll::Pending);
        drop(first);
        assert_eq!(turn.as_mut().poll(&mut context), Poll::Ready(()), "there may be more room");
    }
}
