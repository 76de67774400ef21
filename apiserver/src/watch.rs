//! One watch: what there is when it begins, then what happens, as a stream of lines.
//!
//! A watcher holds its place in the history, a version, and nothing else. It asks for what came
//! after it when its client has taken what came before, so a client that reads slowly costs no
//! memory and delays nobody. When its place is forgotten by then, the stream says so (410) and
//! ends, and the client lists again. After each batch comes a bookmark, on every kind's stream;
//! while nothing happens, one every ten seconds tells that the server is there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::quota::QuotaPermit;
use jiff::Timestamp;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::entry::EventType;
use super::grant::Grant;
use super::history::{Event, Recent, Snapshot, VersionError};
use super::list::Scope;
use super::live::{Bell, Live};
use super::metrics::Metrics;
use super::query::{Start, Watch};
use super::status::Status;
use super::text::Text;
use super::view::{View, Writer};
use model::ObjectName;

/// Between bookmarks while nothing happens. Clients take a server for dead after 25 s of
/// silence, so two may be lost.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// No watch lasts longer, whatever its client asks for: what it holds comes back, and clients see
/// who serves them now. A kube-apiserver ends watches after 30 to 60 minutes.
const MAX_LIFE: Duration = Duration::from_secs(60 * 60);
/// Watches that began at once, as after a restart, end spread over this part of their life.
const SPREAD: f64 = 0.25;
/// Events taken from the history at once, about as many as fit a piece.
const EVENTS_AT_ONCE: usize = 64;

/// What a watch needs of the server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) live: Arc<Live>,
    pub(crate) metrics: Metrics,
}

#[derive(Debug)]
pub(crate) struct Stream {
    server: Server,
    scope: Scope,
    writer: Writer,
    bookmarks: bool,
    phase: Phase,
    grant: Grant,
    /// Lines that are yet to be handed over.
    text: Text,
    bell: watch::Receiver<Bell>,
    /// When the stream ends: as its client wants, and not too late.
    deadline: Instant,
    /// When the last piece was handed over.
    told: Instant,
    _open: Open,
}

#[derive(Debug)]
enum Phase {
    /// Sends a state, after the object named.
    Objects {
        snapshot: Snapshot,
        after: Option<ObjectName>,
    },
    /// Follows what happens after a version.
    Events {
        version: u64,
        bookmarked: u64,
    },
    Ended,
}

/// Counts an open watch, or an open connection, however it ends.
#[derive(Debug)]
pub(crate) struct Open {
    gauge: Gauge,
    _permit: QuotaPermit,
}

impl Open {
    pub(crate) fn new(gauge: Gauge, permit: QuotaPermit) -> Open {
        gauge.inc();
        Open { gauge, _permit: permit }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl Stream {
    /// Begins a watch; `Err` is what it says before it ends at once.
    pub(crate) fn begin(
        server: Server,
        scope: Scope,
        view: View,
        watch: &Watch,
        (grant, open): (Grant, Open),
    ) -> Result<Stream, Status> {
        let bell = server.live.bell();
        let phase = server.live.read(|history| match watch.start {
            Start::Objects { at_least } if at_least > history.version() => {
                Err(Status::future_version(at_least, history.version()))
            }
            Start::Objects { .. } => {
                Ok(Phase::Objects { snapshot: history.current(scope.resource), after: None })
            }
            Start::Now => {
                let version = history.version();
                Ok(Phase::Events { version, bookmarked: version })
            }
            Start::After(version) => match history.after(scope.resource, version, 0) {
                Ok(_) => Ok(Phase::Events { version, bookmarked: version }),
                Err(error) => Err(Status::expired_watch(error)),
            },
        })?;
        let told = Instant::now();
        Ok(Stream {
            writer: Writer::new(scope.resource, view),
            deadline: told + life(watch.timeout, rand::random()),
            bookmarks: watch.bookmarks,
            server,
            scope,
            phase,
            grant,
            text: Text::default(),
            bell,
            told,
            _open: open,
        })
    }

    /// The next lines; `None` at the end. Waits for something to tell.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let bell = *self.bell.borrow_and_update();
            if !self.grant.holds() {
                // The client learns why when it asks anew.
                return None;
            }
            if bell.draining || self.deadline <= Instant::now() {
                self.phase = Phase::Ended;
            }
            if !self.text.is_full() {
                match &self.phase {
                    Phase::Ended => {}
                    Phase::Objects { .. } => self.objects(),
                    Phase::Events { .. } => self.events(),
                }
            }
            if let Some(piece) = self.text.next() {
                self.told = Instant::now();
                return Some(piece);
            }
            if matches!(self.phase, Phase::Ended) {
                return None;
            }
            self.wait().await;
        }
    }

    /// Waits for news, other tokens, the heartbeat or the deadline.
    async fn wait(&mut self) {
        let wake = match self.bookmarks {
            true => self.deadline.min(self.told + HEARTBEAT),
            false => self.deadline,
        };
        tokio::select! {
            _ = self.bell.changed() => {}
            () = sleep_until(wake) => {}
        }
    }

    /// More of the state that the watch begins with.
    fn objects(&mut self) {
        let Phase::Objects { snapshot, after } = &mut self.phase else { return };
        let now = Timestamp::now();
        let (mut count, mut last) = (0, None);
        let mut rest = self.scope.objects(snapshot, after.as_ref());
        let ended = loop {
            if self.text.is_full() {
                break false;
            }
            let Some(entry) = rest.next() else { break true };
            self.writer.event(EventType::Added, entry, now, &mut self.text);
            count += 1;
            last = Some(&entry.name);
        };
        let last = last.cloned();
        drop(rest);
        self.server.metrics.events.inc_by(count);
        let version = snapshot.version;
        if ended {
            if self.bookmarks {
                self.writer.bookmark(version, true, &mut self.text);
            }
            self.phase = Phase::Events { version, bookmarked: version };
        } else if last.is_some() {
            *after = last;
        }
    }

    /// What happened since the last piece, or the heartbeat.
    fn events(&mut self) {
        while let Phase::Events { version, .. } = self.phase {
            let resource = self.scope.resource;
            let recent = self.server.live.read(|h| h.after(resource, version, EVENTS_AT_ONCE));
            let recent = match recent {
                Ok(recent) => recent,
                Err(error) => return self.cut_off(error),
            };
            self.tell(&recent);
            if recent.is_newest || !self.text.is_empty() {
                return;
            }
        }
    }

    /// The lines of these events, as many as fit a piece, and the bookmark after the last.
    fn tell(&mut self, recent: &Recent) {
        let Phase::Events { version, bookmarked } = self.phase else { return };
        let (mut count, mut at, mut whole) = (0, version, recent.is_newest);
        for event in &recent.events {
            if self.text.is_full() {
                whole = false;
                break;
            }
            at = event.version();
            count += u64::from(self.event(event));
        }
        self.server.metrics.events.inc_by(count);
        let version = if whole { recent.up_to } else { at };
        let due = version > bookmarked || self.told + HEARTBEAT <= Instant::now();
        let bookmark = whole && self.bookmarks && due;
        if bookmark {
            self.writer.bookmark(version, false, &mut self.text);
        }
        let bookmarked = if bookmark { version } else { bookmarked };
        self.phase = Phase::Events { version, bookmarked };
    }

    /// Whether the client gets every line as the history has it.
    fn is_verbatim(&self) -> bool {
        self.writer.view == View::Whole && self.scope.is_everything()
    }

    /// Writes an event as this client sees it: an object that begins to match its selector is
    /// added, one that ceases to is deleted. Gives whether there was anything to write.
    fn event(&mut self, event: &Event) -> bool {
        if self.is_verbatim() {
            let frame = event.entry.frame();
            self.text.share(frame, frame);
            return true;
        }
        let was = event.before.as_ref().is_some_and(|before| self.scope.holds(before));
        let is = event.event_type != EventType::Deleted && self.scope.holds(&event.entry);
        let now = Timestamp::now();
        let event_type = match (was, is) {
            (false, false) => return false,
            (false, true) => EventType::Added,
            (true, true) => EventType::Modified,
            (true, false) => EventType::Deleted,
        };
        match (&event.before, event_type) {
            (Some(before), EventType::Deleted) if event.event_type != EventType::Deleted => {
                let gone = before.deleted(event.version());
                self.writer.event(event_type, &gone, now, &mut self.text);
            }
            _ => self.writer.event(event_type, &event.entry, now, &mut self.text),
        }
        true
    }

    fn cut_off(&mut self, error: VersionError) {
        tracing::debug!(resource = %self.scope.resource, %error, "a watcher did not keep up");
        self.server.metrics.slow_watchers.inc();
        self.phase = Phase::Ended;
        self.text.put(Status::expired_watch(error).to_frame().as_bytes());
    }
}

/// How long a watch lasts; `chance` is between 0 and 1.
fn life(asked: Option<Duration>, chance: f64) -> Duration {
    let longest = MAX_LIFE.mul_f64(1.0 - SPREAD * chance);
    asked.map_or(longest, |asked| asked.min(longest))
}

#[cfg(test)]
mod tests;
