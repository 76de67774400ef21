//! What upstreams said: answers until they expire and, while upstreams fail, for a day longer
//! (RFC 8767); failures for a short time (RFC 9520).
//!
//! Pure: time is passed in. All data threads share it, so that each of them knows what one has
//! learnt, and so that one limit of memory holds. It is divided into shards with a lock each, which
//! a look-up holds for the time of a hash look-up. Answers of our own zone are never in it.

mod sieve;
pub(crate) mod stored;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::wire::Rcode;
use crate::wire::options::ExtendedError;

use sieve::{Id, Sieve};
use stored::{Age, Stored};

/// More than data threads, so that they seldom want the same.
const SHARDS: usize = 64;
/// With less a shard could not hold one answer of the largest size.
const MIN_SHARD: usize = 128 << 10;
/// What an entry takes besides its key and its answer: the node, the index, the heads of the heap.
/// Measured with the whole process, full of positive and of negative answers.
const OVERHEAD: usize = 240;
/// The allocator leaves about one part in so many unused, after many answers have come and gone.
const UNUSED: usize = 8;

/// How long an answer is kept after it has expired (RFC 8767 section 5 allows one to three days).
const STALE_TIME: Duration = Duration::from_secs(86_400);
/// After upstreams did not answer, a stale answer is refreshed no sooner (RFC 8767 section 5).
const RETRY: Duration = Duration::from_secs(30);
/// How long a failure is remembered at first: the least of RFC 9520 section 3.2.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Each further failure doubles the time, up to this. The RFC allows five minutes; the shorter
/// limit is how long clients may wait after an upstream recovers.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// An answer is refreshed before it expires if it was used so often,
const PREFETCH_HITS: u32 = 2;
/// and once less than a part of its time is left: between a twentieth and a tenth, by name, so
/// that names which came together are not refreshed together.
const PREFETCH_PARTS: std::ops::Range<u32> = 10..20;

/// Shared by all data threads.
#[derive(Debug)]
pub(crate) struct Cache {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// Answers are kept, not only failures.
    keeps_answers: bool,
}

/// What is known about a question.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    Nothing,
    /// An answer, so many seconds old. `refresh` asks the caller to ask upstreams all the same.
    Fresh {
        answer: Arc<Stored>,
        age: u32,
        refresh: bool,
    },
    /// An answer that has expired. `may_ask` unless upstreams failed to refresh it a moment ago.
    Stale {
        answer: Arc<Stored>,
        may_ask: bool,
    },
    /// Upstreams failed a moment ago, and there is no answer.
    Failed(Failure),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) rcode: Rcode,
    pub(crate) error: Option<ExtendedError>,
}

/// What a client gets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Served<'a> {
    Answer(&'a Stored, Age),
    Failure(&'a Failure),
}

/// Counts of a cache since it was made, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) entries: usize,
    /// Octets of memory.
    pub(crate) bytes: usize,
    pub(crate) evictions: u64,
}

#[derive(Debug)]
struct Shard {
    index: HashMap<Arc<[u8]>, Id, RandomState>,
    entries: Sieve<Entry>,
    bytes: usize,
    limit: usize,
    evictions: u64,
}

#[derive(Debug)]
struct Entry {
    key: Arc<[u8]>,
    kept: Option<Kept>,
    /// Few entries have one.
    failed: Option<Box<Failed>>,
}

#[derive(Debug)]
struct Kept {
    answer: Arc<Stored>,
    since: Instant,
    hits: u32,
    /// When it may be refreshed again.
    refresh_at: Instant,
}

#[derive(Debug)]
struct Failed {
    failure: Failure,
    /// The upstreams that failed. The failure does not count for others.
    upstreams: u64,
    pause: Duration,
    until: Instant,
}

impl Cache {
    /// A cache that takes so much memory, in octets. With zero it keeps no answers.
    pub(crate) fn new(limit: usize) -> Cache {
        let limit_of_shard = (limit / SHARDS).max(MIN_SHARD);
        let shards = (limit / limit_of_shard).clamp(1, SHARDS);
        let shard = |_| {
            Mutex::new(Shard {
                index: HashMap::default(),
                entries: Sieve::default(),
                bytes: 0,
                limit: limit_of_shard,
                evictions: 0,
            })
        };
        Cache {
            shards: (0..shards).map(shard).collect(),
            hasher: RandomState::default(),
            keeps_answers: limit > 0,
        }
    }

    /// Looks a question up for a client. `upstreams` is the version of those that would be asked.
    #[inline]
    pub(crate) fn look_up(&self, key: &[u8], upstreams: u64, now: Instant) -> Found {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash);
        let Some(id) = shard.index.get(key).copied() else { return Found::Nothing };
        let entry = shard.entries.touch(id);
        entry.look_up(upstreams, now, hash)
    }

    /// What is known about a question, without using it.
    pub(crate) fn peek(&self, key: &[u8], upstreams: u64, now: Instant) -> Option<Shown> {
        let shard = self.shard(self.hasher.hash_one(key));
        let id = *shard.index.get(key)?;
        Some(shard.entries.get(id).show(upstreams, now))
    }

    /// Keeps an answer, if it may be kept, and forgets failures.
    pub(crate) fn put(&self, key: &Arc<[u8]>, answer: &Arc<Stored>, now: Instant) {
        let keeps = self.keeps_answers && answer.ttl > 0;
        let kept =
            keeps.then(|| Kept { answer: answer.clone(), since: now, hits: 0, refresh_at: now });
        let mut shard = self.shard(self.hasher.hash_one(&**key));
        shard.change(key, |entry| {
            entry.failed = None;
            // An answer that may not be cached (a TTL of zero) takes the place of a stale one.
            entry.kept = kept;
        });
    }

    /// Remembers that upstreams of this version failed to answer. An answer that is there stays.
    pub(crate) fn put_failure(
        &self,
        key: &Arc<[u8]>,
        failure: &Failure,
        upstreams: u64,
        now: Instant,
    ) {
        let mut shard = self.shard(self.hasher.hash_one(&**key));
        shard.change(key, |entry| {
            let last = entry
                .failed
                .as_ref()
                .filter(|last| last.upstreams == upstreams && now < last.until + MAX_PAUSE);
            let pause = last.map_or(FIRST_PAUSE, |last| (2 * last.pause).min(MAX_PAUSE));
            let until = now + pause;
            let failed = Failed { failure: failure.clone(), upstreams, pause, until };
            entry.failed = Some(Box::new(failed));
            if let Some(kept) = &mut entry.kept {
                kept.refresh_at = kept.refresh_at.max(now + RETRY);
            }
        });
    }

    /// Takes note that a stale answer was served because upstreams are slow: for a while it is
    /// served at once.
    pub(crate) fn defer(&self, key: &[u8], now: Instant) {
        let mut shard = self.shard(self.hasher.hash_one(key));
        let Some(id) = shard.index.get(key).copied() else { return };
        if let Some(kept) = &mut shard.entries.get_mut(id).kept {
            kept.refresh_at = now + RETRY;
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in &self.shards {
            let shard = lock(shard);
            totals.entries += shard.entries.len();
            totals.bytes += shard.bytes;
            totals.evictions += shard.evictions;
        }
        totals
    }

    #[inline]
    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The index uses the lower bits.
        lock(&self.shards[(hash >> 48) as usize % self.shards.len()])
    }
}

#[inline]
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A panic while it was held leaves at worst a wrong count of octets.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known about a question, for people.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shown {
    /// The answer, its age, and how long it is still fresh.
    pub(crate) answer: Option<(Arc<Stored>, Duration, Option<Duration>)>,
    pub(crate) hits: u32,
    /// A failure, and how long it is remembered.
    pub(crate) failure: Option<(Failure, Duration)>,
}

impl Shard {
    /// Changes the entry of a question, which is made if it is not there, then makes room.
    fn change(&mut self, key: &Arc<[u8]>, change: impl FnOnce(&mut Entry)) {
        let id = match self.index.get(&**key) {
            Some(id) => *id,
            None => {
                let entry = Entry { key: key.clone(), kept: None, failed: None };
                self.bytes += entry.memory();
                let id = self.entries.insert(entry);
                self.index.insert(key.clone(), id);
                id
            }
        };
        let entry = self.entries.get_mut(id);
        self.bytes -= entry.memory();
        change(entry);
        self.bytes += entry.memory();
        if entry.kept.is_none() && entry.failed.is_none() {
            self.forget(id);
        }
        while self.bytes > self.limit {
            let Some(evicted) = self.entries.evict() else { break };
            self.evictions += 1;
            self.bytes -= evicted.memory();
            self.index.remove(&evicted.key);
        }
    }

    fn forget(&mut self, id: Id) {
        let entry = self.entries.remove(id);
        self.bytes -= entry.memory();
        self.index.remove(&entry.key);
    }
}

impl Entry {
    fn memory(&self) -> usize {
        let answer = self.kept.as_ref().map_or(0, |kept| kept.answer.memory());
        let failed = self.failed.as_ref().map_or(0, |failed| {
            let text = failed.failure.error.as_ref().map_or(0, |error| error.text.len());
            size_of::<Failed>() + text
        });
        let octets = self.key.len() + answer + failed;
        OVERHEAD + octets + octets / UNUSED
    }

    #[inline]
    fn look_up(&mut self, upstreams: u64, now: Instant, hash: u64) -> Found {
        if let Some(kept) = &mut self.kept {
            let age = now.saturating_duration_since(kept.since);
            let ttl = Duration::from_secs(kept.answer.ttl.into());
            if age < ttl {
                kept.hits = kept.hits.saturating_add(1);
                let refresh = kept.hits > PREFETCH_HITS && kept.is_due(ttl - age, now, hash);
                let answer = kept.answer.clone();
                return Found::Fresh { answer, age: age.as_secs() as u32, refresh };
            }
            if age < ttl + STALE_TIME {
                let may_ask = now >= kept.refresh_at;
                return Found::Stale { answer: kept.answer.clone(), may_ask };
            }
        }
        match self.failing(upstreams, now) {
            Some(failed) => Found::Failed(failed.failure.clone()),
            None => Found::Nothing,
        }
    }

    fn failing(&self, upstreams: u64, now: Instant) -> Option<&Failed> {
        self.failed.as_deref().filter(|f| f.upstreams == upstreams && now < f.until)
    }

    fn show(&self, upstreams: u64, now: Instant) -> Shown {
        let answer = self.kept.as_ref().and_then(|kept| {
            let age = now.saturating_duration_since(kept.since);
            let ttl = Duration::from_secs(kept.answer.ttl.into());
            let left = ttl.checked_sub(age).filter(|left| !left.is_zero());
            (age < ttl + STALE_TIME).then(|| (kept.answer.clone(), age, left))
        });
        let failing = self.failing(upstreams, now);
        let failure = failing.map(|failed| (failed.failure.clone(), failed.until - now));
        Shown { answer, hits: self.kept.as_ref().map_or(0, |kept| kept.hits), failure }
    }
}

impl Kept {
    /// Whether it should be refreshed although it is fresh. Once a name: the next time is after it
    /// has expired.
    fn is_due(&mut self, left: Duration, now: Instant, hash: u64) -> bool {
        let parts = PREFETCH_PARTS.start + hash as u32 % PREFETCH_PARTS.len() as u32;
        let ttl = Duration::from_secs(self.answer.ttl.into());
        let is_due = left <= ttl / parts && now >= self.refresh_at;
        if is_due {
            self.refresh_at = now + left;
        }
        is_due
    }
}

#[cfg(test)]
mod tests;
