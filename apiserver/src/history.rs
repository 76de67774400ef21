//! The versioned store behind the API: what there is of each resource, and what happened lately.
//!
//! Pure: changes come in with the time, lists and events go out. Every changed object takes the
//! next version of one counter, as in etcd, so that versions order changes across resources; a
//! change that changes nothing takes none and is no event. Lists are persistent maps: a reader
//! holds one for as long as it likes and costs the writer nothing. Left out: who watches. A
//! watcher keeps its own position and asks for what came after it, so a slow one delays nobody,
//! and one that asks for what is forgotten is told so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::entry::{Content, Entry, EventType, Stamp};
use super::resource::Resource;
use model::ObjectName;

/// Objects of one resource, ordered by namespace and name.
pub(crate) type Objects = imbl::OrdMap<ObjectName, Arc<Entry>>;

/// Memory of a kept state for each of its objects, should it share none with the next one: a
/// name and a pointer, in nodes that are three quarters full.
const KEPT_OBJECT: usize = 64;

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A client that was away for less finds all events: a kube-apiserver keeps them 75 s too.
    pub(crate) age: Duration,
    /// Of each resource, however old they are: slow changes can be resumed after hours.
    pub(crate) events: usize,
    /// Above this, events are forgotten sooner: memory is bounded whatever changes how fast.
    pub(crate) bytes: usize,
    /// Events of a resource between two states that are kept whole; as many as it has objects if
    /// that is more. An old list undoes no more of them than that, and the kept states take
    /// little memory beside the events.
    pub(crate) keep_every: usize,
}

impl Limits {
    pub(crate) const DEFAULT: Limits =
        Limits { age: Duration::from_secs(75), events: 10_000, bytes: 256 << 20, keep_every: 1000 };
}

/// One change to the store.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(Resource, Content),
    Delete(Resource, ObjectName),
}

/// Something that happened to an object.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) event_type: EventType,
    /// The object after it; of a deletion, the last state with the deletion's version.
    pub(crate) entry: Arc<Entry>,
    pub(crate) before: Option<Arc<Entry>>,
}

impl Event {
    pub(crate) fn version(&self) -> u64 {
        self.entry.stamp.version
    }

    fn size(&self) -> usize {
        self.entry.size() + std::mem::size_of::<Past>()
    }
}

/// A list at one version.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) version: u64,
    pub(crate) objects: Objects,
}

impl Snapshot {
    /// Memory of one that is kept.
    fn size(&self) -> usize {
        self.objects.len() * KEPT_OBJECT
    }
}

/// A list at one version, yet to be made from a later one: it takes time for which nobody else
/// should have to wait.
#[derive(Debug)]
pub(crate) struct Rewind {
    version: u64,
    later: Objects,
    /// What happened since then, the newest first.
    undo: Vec<Event>,
}

impl Rewind {
    pub(crate) fn snapshot(self) -> Snapshot {
        let Rewind { version, later: mut objects, undo } = self;
        for event in undo {
            match event.before {
                Some(before) => objects.insert(before.name.clone(), before),
                None => objects.remove(&event.entry.name),
            };
        }
        Snapshot { version, objects }
    }
}

impl From<Snapshot> for Rewind {
    fn from(Snapshot { version, objects }: Snapshot) -> Rewind {
        Rewind { version, later: objects, undo: Vec::new() }
    }
}

/// What happened after a version.
#[derive(Debug)]
pub(crate) struct Recent {
    pub(crate) events: Vec<Event>,
    /// All events up to this version are among them; where it is the newest, that is a cut
    /// across all resources.
    pub(crate) up_to: u64,
    pub(crate) is_newest: bool,
}

/// Why a version cannot be answered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VersionError {
    /// What came after it is forgotten in part.
    #[error("too old resource version: {asked} ({oldest})")]
    TooOld { asked: u64, oldest: u64 },
    /// It was never reached here.
    #[error("Too large resource version: {asked}, current: {current}")]
    Future { asked: u64, current: u64 },
}

/// How full the history is, for metrics and `/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) struct History {
    version: u64,
    logs: [Log; Resource::COUNT],
    /// Memory of all events and kept states.
    bytes: usize,
    limits: Limits,
}

/// What is known of one resource.
#[derive(Debug, Default)]
struct Log {
    objects: Objects,
    events: VecDeque<Past>,
    /// States between the events, from which older ones are soon made.
    kept: VecDeque<Snapshot>,
    /// Events after the last kept state.
    since_kept: usize,
    /// Events of versions above this one are all there.
    floor: u64,
}

#[derive(Debug)]
struct Past {
    event: Event,
    /// On the clock that [`History::commit`] is given.
    at: Duration,
}

impl History {
    /// An empty store. The first commit is what is there from the start: no events, and nobody
    /// can have seen an earlier version.
    pub(crate) fn new(version: u64, limits: Limits) -> History {
        History { version, logs: Default::default(), bytes: 0, limits }
    }

    /// The newest version.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Takes the first state of everything.
    pub(crate) fn load(&mut self, changes: Vec<Change>, created: &str) {
        for change in changes {
            self.make(change, created);
        }
        // A version of its own, so that the start is a cut even of a store without objects.
        self.version += 1;
        for log in &mut self.logs {
            log.floor = self.version;
        }
    }

    /// Applies a batch in its order; gives the number of objects that changed.
    ///
    /// `created` is the time of day for objects that are new and do not bring one, `at` the time
    /// on a clock that never goes back.
    pub(crate) fn commit(&mut self, changes: Vec<Change>, created: &str, at: Duration) -> usize {
        let mut changed = 0;
        for change in changes {
            let Some(event) = self.make(change, created) else { continue };
            changed += 1;
            self.bytes += event.size();
            let log = &mut self.logs[event.entry.resource.index()];
            log.events.push_back(Past { event, at });
            self.bytes += log.keep(self.version, self.limits.keep_every);
        }
        self.forget(at);
        changed
    }

    /// What there is now.
    pub(crate) fn current(&self, resource: Resource) -> Snapshot {
        let objects = self.logs[resource.index()].objects.clone();
        Snapshot { version: self.version, objects }
    }

    /// What there was at a version.
    ///
    /// # Errors
    ///
    /// When that version was not reached yet, or what came after it is forgotten.
    pub(crate) fn at(&self, resource: Resource, version: u64) -> Result<Rewind, VersionError> {
        let log = self.log_after(resource, version)?;
        let next = log.kept.partition_point(|kept| kept.version < version);
        let (later, reached) = match log.kept.get(next) {
            Some(kept) => (kept.objects.clone(), kept.version),
            None => (log.objects.clone(), self.version),
        };
        let (from, to) = (log.first_after(version), log.first_after(reached));
        let undo = log.events.range(from..to).rev().map(|past| past.event.clone()).collect();
        Ok(Rewind { version, later, undo })
    }

    /// What happened after `version`, at most `limit` events of it.
    ///
    /// # Errors
    ///
    /// As [`History::at`].
    pub(crate) fn after(
        &self,
        resource: Resource,
        version: u64,
        limit: usize,
    ) -> Result<Recent, VersionError> {
        let log = self.log_after(resource, version)?;
        let from = log.first_after(version);
        let events: Vec<_> =
            log.events.range(from..).take(limit).map(|past| past.event.clone()).collect();
        let is_newest = from + events.len() == log.events.len();
        let last = events.last().map_or(version, Event::version);
        let up_to = if is_newest { self.version } else { last };
        Ok(Recent { events, up_to, is_newest })
    }

    pub(crate) fn fill(&self) -> Fill {
        let events = self.logs.iter().map(|log| log.events.len()).sum();
        Fill { events, bytes: self.bytes }
    }

    /// The log, if it holds all that came after a version.
    fn log_after(&self, resource: Resource, version: u64) -> Result<&Log, VersionError> {
        let log = &self.logs[resource.index()];
        if version > self.version {
            return Err(VersionError::Future { asked: version, current: self.version });
        }
        if version < log.floor {
            return Err(VersionError::TooOld { asked: version, oldest: log.floor });
        }
        Ok(log)
    }

    /// Makes one change; `None` when it changes nothing.
    fn make(&mut self, change: Change, created: &str) -> Option<Event> {
        let version = self.version + 1;
        let event = match change {
            Change::Put(resource, content) => {
                let objects = &mut self.logs[resource.index()].objects;
                let before = objects.get(&content.name).cloned();
                let (event_type, stamp) = match &before {
                    Some(before) if before.says(&content) => return None,
                    Some(before) => {
                        let stamp = next_stamp(before, &content, version);
                        (EventType::Modified, stamp)
                    }
                    None => {
                        let created = content.created.as_deref().unwrap_or(created).into();
                        (EventType::Added, Stamp { version, generation: 1, created })
                    }
                };
                let name = content.name.clone();
                let entry = Arc::new(Entry::new(resource, event_type, content, stamp));
                objects.insert(name, entry.clone());
                Event { event_type, entry, before }
            }
            Change::Delete(resource, name) => {
                let before = self.logs[resource.index()].objects.remove(&name)?;
                let entry = Arc::new(before.deleted(version));
                Event { event_type: EventType::Deleted, entry, before: Some(before) }
            }
        };
        self.version = version;
        Some(event)
    }

    /// Drops what is older than it must be, and the oldest of all while there is too much.
    fn forget(&mut self, now: Duration) {
        let Limits { age, events, bytes, .. } = self.limits;
        for log in &mut self.logs {
            while log.events.len() > events
                && log.events.front().is_some_and(|past| past.at + age < now)
            {
                self.bytes -= log.forget_oldest();
            }
        }
        while self.bytes > bytes {
            let oldest = |log: &Log| log.events.front().map(|past| past.event.version());
            let logs = self.logs.iter_mut().filter(|log| !log.events.is_empty());
            let Some(log) = logs.min_by_key(|log| oldest(log)) else { break };
            self.bytes -= log.forget_oldest();
        }
    }
}

impl Log {
    /// The place of the first event after a version.
    fn first_after(&self, version: u64) -> usize {
        self.events.partition_point(|past| past.event.version() <= version)
    }

    /// Keeps the state after the newest event if it is time to; gives the memory that it takes.
    fn keep(&mut self, version: u64, every: usize) -> usize {
        self.since_kept += 1;
        if self.since_kept < every.max(self.objects.len()) {
            return 0;
        }
        self.since_kept = 0;
        let kept = Snapshot { version, objects: self.objects.clone() };
        let size = kept.size();
        self.kept.push_back(kept);
        size
    }

    /// Gives the memory that was freed.
    fn forget_oldest(&mut self) -> usize {
        let Some(past) = self.events.pop_front() else { return 0 };
        self.floor = past.event.version();
        let mut freed = past.event.size();
        while let Some(kept) = self.kept.pop_front_if(|kept| kept.version <= self.floor) {
            freed += kept.size();
        }
        freed
    }
}

fn next_stamp(before: &Entry, content: &Content, version: u64) -> Stamp {
    let changed = u64::from(before.differs_beside_metadata(content));
    Stamp {
        version,
        generation: before.stamp.generation + changed,
        created: content.created.as_deref().unwrap_or(&before.stamp.created).into(),
    }
}

#[cfg(test)]
mod tests;
