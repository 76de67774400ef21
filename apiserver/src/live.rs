//! The history as its one writer and its many readers share it, and the bell that wakes the
//! watchers.
//!
//! The lock is held for as long as it takes to copy a few pointers, or to make one batch's
//! changes; nobody holds it while a client is waited for.

use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::watch;

use super::history::{Change, History};

#[derive(Debug)]
pub(crate) struct Live {
    history: RwLock<History>,
    bell: watch::Sender<Bell>,
    begun: Instant,
}

/// What watchers are woken for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bell {
    /// The newest version.
    pub(crate) version: u64,
    /// Counts batches that changed something, from 1.
    pub(crate) generation: u64,
    /// Counts the token files that were read: who may read what is to be looked at again.
    pub(crate) access: u64,
    /// Watches are to end.
    pub(crate) draining: bool,
}

impl Live {
    pub(crate) fn new(history: History) -> Live {
        let bell = Bell { version: history.version(), ..Bell::default() };
        let bell = watch::Sender::new(bell);
        Live { history: RwLock::new(history), bell, begun: Instant::now() }
    }

    /// Looks at the history.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&History) -> R) -> R {
        look(&self.history.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the first state of everything.
    pub(crate) fn load(&self, changes: Vec<Change>) {
        self.write(|history| history.load(changes, &now()));
    }

    /// Applies a batch and wakes the watchers if it changed anything; gives how many objects
    /// it changed.
    pub(crate) fn commit(&self, changes: Vec<Change>) -> usize {
        let at = self.begun.elapsed();
        self.write(|history| history.commit(changes, &now(), at))
    }

    /// Wakes at each new version, at each new set of tokens, and when watches are to end.
    pub(crate) fn bell(&self) -> watch::Receiver<Bell> {
        self.bell.subscribe()
    }

    /// The newest version, and which batch made it.
    pub(crate) fn newest(&self) -> Bell {
        *self.bell.borrow()
    }

    /// Has everyone who reads asked again whether they may.
    pub(crate) fn recheck(&self) {
        self.bell.send_modify(|bell| bell.access += 1);
    }

    /// Ends all watches.
    pub(crate) fn drain(&self) {
        self.bell.send_modify(|bell| bell.draining = true);
    }

    fn write<R>(&self, change: impl FnOnce(&mut History) -> R) -> R {
        let mut history = self.history.write().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut history);
        let version = history.version();
        drop(history);
        self.bell.send_if_modified(|bell| {
            let newer = bell.version != version;
            bell.version = version;
            bell.generation += u64::from(newer);
            newer
        });
        result
    }
}

/// The time of day, as objects have it.
pub(crate) fn now() -> String {
    let now = Timestamp::now();
    // The API counts whole seconds.
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
