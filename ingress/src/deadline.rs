//! Time-outs by a coarse sweep: one timer a worker instead of one a request.
//!
//! Each connection and each HTTP/2 stream has one entry that is armed and armed again as it
//! makes progress, which is a store; a sweep every [`TICK`] wakes those whose time has passed.
//! So a time-out fires up to two ticks late, which nobody notices, and costs nothing when it
//! does not fire. Who is woken decides what it means. Whoever does not react within
//! [`GRACE_TICKS`], because it waits for a client that takes nothing, is killed with its
//! connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
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
    next_serial: u64,
}

#[derive(Debug)]
struct Entry {
    at: u64,
    state: State,
    waker: Option<Waker>,
    /// The connection's entry, for an entry of one of its streams, and its serial number: the
    /// connection may be gone first, and its place taken by another.
    parent: Option<(usize, u64)>,
    serial: u64,
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
        self.insert(None)
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

    fn insert(self: &Rc<Deadlines>, parent: Option<(usize, u64)>) -> Deadline {
        let mut entries = self.entries.borrow_mut();
        let serial = entries.next_serial;
        entries.next_serial += 1;
        let entry = Entry { at: NEVER, state: State::Waiting, waker: None, parent, serial };
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
}

impl Entries {
    fn expire(&mut self, now: u64) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut killed = Vec::new();
        for (key, entry) in self.list.iter_mut().enumerate() {
            match entry.state {
                State::Waiting if entry.at <= now => entry.state = State::Fired,
                State::Fired if entry.at.saturating_add(GRACE_TICKS) <= now => {
                    entry.state = State::Killed;
                    killed.push(entry.parent.unwrap_or((key, entry.serial)));
                }
                _ => continue,
            }
            wakers.extend(entry.waker.take());
        }
        for (key, serial) in killed {
            let entry = &mut self.list[key];
            if entry.serial == serial {
                entry.state = State::Killed;
                wakers.extend(entry.waker.take());
            }
        }
        wakers
    }
}

impl Deadline {
    /// An entry of a stream of the connection that this entry belongs to.
    pub(crate) fn add_child(&self) -> Deadline {
        let serial = self.with(|entry| entry.serial);
        self.deadlines.insert(Some((self.key, serial)))
    }

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

    /// Whether nobody reacted to it, or to one of its children; the task is woken for that too.
    pub(crate) fn poll_killed(&self, cx: &Context<'_>) -> bool {
        self.with(|entry| {
            if entry.waker.is_none() {
                entry.waker = Some(cx.waker().clone());
            }
            entry.state == State::Killed
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Entry) -> T) -> T {
        act(&mut self.deadlines.entries.borrow_mut().list[self.key])
    }
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
    fn who_does_not_react_is_killed_with_its_connection() {
        let clock = Clock::new();
        let connection = clock.deadlines.add();
        let stream = connection.add_child();
        stream.arm(ticks(100));
        assert!(!clock.fired(&stream) && !clock.killed(&connection));
        clock.at(200);
        assert!(clock.fired(&stream) && !clock.killed(&connection));
        clock.at(1100);
        assert!(!clock.killed(&connection));
        clock.at(1200);
        assert!(clock.killed(&connection));
    }

    #[test]
    fn a_stream_that_reacts_kills_nobody() {
        let clock = Clock::new();
        let connection = clock.deadlines.add();
        let stream = connection.add_child();
        stream.arm(ticks(100));
        clock.at(200);
        stream.arm(ticks(10_000));
        clock.at(2000);
        assert!(!clock.killed(&connection));
        drop(stream);
        clock.at(20_000);
        assert!(!clock.killed(&connection) && !clock.fired(&connection));
    }

    #[test]
    fn a_stream_that_outlives_its_connection_kills_no_other() {
        let clock = Clock::new();
        let connection = clock.deadlines.add();
        let stream = connection.add_child();
        stream.arm(ticks(100));
        drop(connection);
        let next = clock.deadlines.add();
        clock.at(200);
        clock.at(2000);
        assert!(!clock.killed(&next));
    }

    #[test]
    fn entries_are_used_again_and_begin_anew() {
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
