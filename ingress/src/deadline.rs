//! Time-outs by a coarse sweep: one timer a worker instead of one a request.
//!
//! Each connection and each HTTP/2 stream has one entry that is armed and armed again as it
//! makes progress, which is a store; a sweep every [`TICK`] wakes those whose time has passed.
//! So a time-out fires up to two ticks late, and costs nothing when it does not fire. The task
//! that is woken decides what it means. A task that does not react within [`GRACE_TICKS`], because
//! a library waits in it for a client that takes nothing, is told to end: its entry is killed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The resolution of all time-outs.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// From firing to killing: a task that can be polled reacts at once.
const GRACE_TICKS: u64 = 10;

const NEVER: u64 = u64::MAX;

/// The deadlines of one worker.
#[derive(Debug)]
pub(crate) struct Deadlines {
    begun: Instant,
    now: Cell<u64>,
    entries: RefCell<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    list: Vec<Entry>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    at: u64,
    state: State,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Fired,
    Killed,
}

/// One entry; removed when dropped.
#[derive(Debug)]
pub(crate) struct Deadline {
    deadlines: Rc<Deadlines>,
    key: usize,
}

/// A number of ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticks(u64);

impl Ticks {
    pub(crate) const ZERO: Ticks = Ticks(0);

    /// The tick at which so many have passed since another.
    pub(crate) fn after(self, tick: u64) -> u64 {
        tick.saturating_add(self.0)
    }

    /// What is left until a tick; at least one.
    pub(crate) fn until(tick: u64, now: u64) -> Ticks {
        Ticks(tick.saturating_sub(now).max(1))
    }

    pub(crate) fn duration(self) -> Duration {
        TICK.saturating_mul(u32::try_from(self.0).unwrap_or(u32::MAX))
    }

    /// Whether so many ticks lie between two.
    pub(crate) fn have_passed(self, since: u64, now: u64) -> bool {
        now.saturating_sub(since) >= self.0
    }
}

impl From<Duration> for Ticks {
    /// Rounded up, and one more for the tick that has begun already.
    fn from(duration: Duration) -> Ticks {
        Ticks(duration.as_millis().div_ceil(TICK.as_millis()) as u64 + 1)
    }
}

impl Deadlines {
    pub(crate) fn new(begun: Instant) -> Rc<Deadlines> {
        Rc::new(Deadlines { begun, now: Cell::new(0), entries: RefCell::default() })
    }

    /// An entry that is not armed.
    pub(crate) fn add(self: &Rc<Deadlines>) -> Deadline {
        let mut entries = self.entries.borrow_mut();
        let entry = Entry { at: NEVER, state: State::Waiting, waker: None };
        let key = match entries.free.pop() {
            Some(key) => {
                entries.list[key] = entry;
                key
            }
            None => {
                entries.list.push(entry);
                entries.list.len() - 1
            }
        };
        drop(entries);
        Deadline { deadlines: self.clone(), key }
    }

    /// The present tick, for comparing times that need no waking.
    pub(crate) fn now(&self) -> u64 {
        self.now.get()
    }

    /// The same in milliseconds: the clock by which endpoints rest. Those of the workers differ
    /// by less than a tick.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now() * TICK.as_millis() as u64
    }

    /// Wakes everyone whose time has passed.
    pub(crate) fn sweep(&self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.begun);
        let now = (elapsed.as_millis() / TICK.as_millis()) as u64;
        self.now.set(now);
        // Wakers run code of their own, so none is called while the entries are borrowed.
        for waker in self.entries.borrow_mut().expire(now) {
            waker.wake();
        }
    }

    /// Wakes everyone: something that all look at has changed.
    pub(crate) fn wake_all(&self) {
        let wakers: Vec<_> =
            self.entries.borrow_mut().list.iter_mut().filter_map(|e| e.waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Entries {
    fn expire(&mut self, now: u64) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for entry in &mut self.list {
            entry.state = match entry.state {
                State::Waiting if entry.at <= now => State::Fired,
                State::Fired if entry.at.saturating_add(GRACE_TICKS) <= now => State::Killed,
                _ => continue,
            };
            wakers.extend(entry.waker.take());
        }
        wakers
    }
}

impl Deadline {
    /// Fires so long from now, whatever was set before.
    pub(crate) fn arm(&self, after: Ticks) {
        let at = self.deadlines.now.get() + after.0;
        self.with(|entry| {
            entry.at = at;
            if entry.state == State::Fired {
                entry.state = State::Waiting;
            }
        });
    }

    /// Never fires, until armed again.
    pub(crate) fn disarm(&self) {
        self.with(|entry| {
            entry.at = NEVER;
            if entry.state == State::Fired {
                entry.state = State::Waiting;
            }
        });
    }

    /// Whether it has fired; if not, the task is woken when it does.
    pub(crate) fn poll_fired(&self, cx: &Context<'_>) -> bool {
        let (fired, _old_waker) = self.with(|entry| {
            if entry.state != State::Waiting {
                return (true, None);
            }
            if entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                return (false, None);
            }
            // The old one is dropped once the entries are borrowed no more.
            (false, entry.waker.replace(cx.waker().clone()))
        });
        fired
    }

    /// Whether its task did not react in time; the task is woken for that too.
    pub(crate) fn poll_killed(&self, cx: &Context<'_>) -> bool {
        self.with(|entry| {
            if entry.waker.is_none() {
                entry.waker = Some(cx.waker().clone());
            }
            entry.state == State::Killed
        })
    }

    /// Ends the task at once, as if it had not reacted in time.
    pub(crate) fn kill(&self) {
        let waker = self.with(|entry| {
            entry.state = State::Killed;
            entry.waker.take()
        });
        waker.into_iter().for_each(Waker::wake);
    }

    fn with<T>(&self, act: impl FnOnce(&mut Entry) -> T) -> T {
        act(&mut self.deadlines.entries.borrow_mut().list[self.key])
    }
}

/// The outcome of a future, unless the deadline fires first.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>, deadline: &Deadline) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(outcome));
        }
        if deadline.poll_fired(cx) { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let _old_waker = self.with(|entry| {
            (entry.at, entry.state) = (NEVER, State::Waiting);
            entry.waker.take()
        });
        self.deadlines.entries.borrow_mut().free.push(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Wakes>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Clock {
        begun: Instant,
        deadlines: Rc<Deadlines>,
        wakes: Arc<Wakes>,
    }

    impl Clock {
        fn new() -> Clock {
            let begun = Instant::now();
            Clock { begun, deadlines: Deadlines::new(begun), wakes: Arc::default() }
        }

        fn at(&self, ms: u64) {
            self.deadlines.sweep(self.begun + Duration::from_millis(ms));
        }

        fn fired(&self, deadline: &Deadline) -> bool {
            deadline.poll_fired(&Context::from_waker(&self.wakes.clone().into()))
        }

        fn killed(&self, deadline: &Deadline) -> bool {
            deadline.poll_killed(&Context::from_waker(&self.wakes.clone().into()))
        }

        fn wakes(&self) -> usize {
            self.wakes.0.load(Ordering::Relaxed)
        }
    }

    fn ticks(ms: u64) -> Ticks {
        Duration::from_millis(ms).into()
    }

    #[test]
    fn fires_once_its_time_has_passed_and_not_before() {
        let clock = Clock::new();
        let deadline = clock.deadlines.add();
        deadline.arm(ticks(250));
        assert!(!clock.fired(&deadline));
        clock.at(300);
        assert!(!clock.fired(&deadline));
        clock.at(400);
        assert_eq!(clock.wakes(), 1);
        assert!(clock.fired(&deadline));
        deadline.arm(ticks(1000));
        assert!(!clock.fired(&deadline), "armed again, it waits again");
        deadline.disarm();
        clock.at(100_000);
        assert!(!clock.fired(&deadline));
    }

    #[test]
    fn progress_puts_it_off() {
        let clock = Clock::new();
        let deadline = clock.deadlines.add();
        for round in 0..10 {
            clock.at(round * 200);
            assert!(!clock.fired(&deadline));
            deadline.arm(ticks(300));
        }
    }

    #[test]
    fn a_task_that_does_not_react_is_killed_and_no_other() {
        let clock = Clock::new();
        let (stalled, other) = (clock.deadlines.add(), clock.deadlines.add());
        stalled.arm(ticks(100));
        assert!(!clock.fired(&stalled) && !clock.killed(&other));
        clock.at(200);
        assert!(clock.fired(&stalled) && !clock.killed(&stalled));
        clock.at(1100);
        assert!(!clock.killed(&stalled));
        clock.at(1200);
        assert!(clock.killed(&stalled) && !clock.killed(&other));
    }

    #[test]
    fn a_task_that_reacts_is_not_killed() {
        let clock = Clock::new();
        let deadline = clock.deadlines.add();
        deadline.arm(ticks(100));
        clock.at(200);
        deadline.arm(ticks(10_000));
        clock.at(2000);
        assert!(!clock.killed(&deadline));
    }

    #[test]
    fn a_task_can_be_killed_at_once() {
        let clock = Clock::new();
        let deadline = clock.deadlines.add();
        assert!(!clock.killed(&deadline));
        deadline.kill();
        assert_eq!(clock.wakes(), 1);
        assert!(clock.killed(&deadline));
    }

    #[test]
    fn entries_are_used_again() {
        let clock = Clock::new();
        let first = clock.deadlines.add();
        first.arm(ticks(0));
        clock.at(1000);
        drop(first);
        let second = clock.deadlines.add();
        clock.at(2000);
        assert!(!clock.fired(&second));
        assert_eq!(clock.deadlines.entries.borrow().list.len(), 1);
    }

    #[test]
    fn all_can_be_woken() {
        let clock = Clock::new();
        let (first, second) = (clock.deadlines.add(), clock.deadlines.add());
        assert!(!clock.fired(&first) && !clock.fired(&second));
        clock.deadlines.wake_all();
        assert_eq!(clock.wakes(), 2);
    }
}
