//! Time-outs for connects that cost nothing while they do not strike.
//!
//! A runtime timer for each connect would be set and cleared for every connection, and setting
//! the earliest one wakes the runtime through a system call. Here one task of the data thread
//! ticks while connects are under way, and only at a tick does a connect look at the clock.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// Ticks in one time-out: how much longer than asked for a connect may take, one in so many.
const TICKS: u32 = 8;

/// How long the connects of one data thread may take.
#[derive(Debug)]
pub(super) struct Patience {
    timeout: Duration,
    waiting: Cell<usize>,
    /// Someone has begun to wait; the ticks are needed.
    begun: Notify,
    tick: Notify,
}

/// Counts one who waits, until dropped.
struct Waiting<'a>(&'a Patience);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

impl Patience {
    pub(super) fn new(timeout: Duration) -> Rc<Patience> {
        let (begun, tick) = (Notify::new(), Notify::new());
        Rc::new(Patience { timeout, waiting: Cell::new(0), begun, tick })
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The output of `work`, or `None` when it takes longer than the time-out.
    pub(super) async fn limit<W: Future>(&self, work: W) -> Option<W::Output> {
        let begun = Instant::now();
        let mut work = pin!(work);
        let _waiting = self.wait();
        loop {
            tokio::select! {
                biased;
                output = &mut work => return Some(output),
                () = self.tick.notified() => {
                    if begun.elapsed() >= self.timeout {
                        return None;
                    }
                }
            }
        }
    }

    /// Ticks for those who wait, for as long as the data thread lives.
    pub(super) async fn keep_time(self: Rc<Patience>) {
        loop {
            self.begun.notified().await;
            // While connects go on, each leaves a notification behind for the next round.
            loop {
                sleep(self.timeout / TICKS).await;
                self.tick.notify_waiters();
                if self.waiting.get() == 0 {
                    break;
                }
            }
        }
    }

    fn wait(&self) -> Waiting<'_> {
        self.waiting.set(self.waiting.get() + 1);
        self.begun.notify_one();
        Waiting(self)
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_given_up_soon_after_the_time_out() {
        let timeout = Duration::from_secs(2);
        let patience = Patience::new(timeout);
        let check = async {
            spawn_local(patience.clone().keep_time());
            for _ in 0..3 {
                assert_eq!(patience.limit(std::future::ready(7)).await, Some(7));
                let begun = Instant::now();
                assert_eq!(patience.limit(std::future::pending::<()>()).await, None);
                assert!((timeout..=timeout * 5 / 4).contains(&begun.elapsed()));
                let soon = sleep(Duration::from_millis(1900));
                assert_eq!(patience.limit(soon).await, Some(()));
                // Long enough for the ticks to stop.
                sleep(Duration::from_secs(60)).await;
            }
        };
        LocalSet::new().run_until(check).await;
    }
}
