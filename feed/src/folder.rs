//! A folder of manifests as a source: inotify as a hint, a scan as the truth.
//!
//! One thread looks, reads what changed, and publishes each look as one batch. It never takes a
//! state for true that may be half-written: see [`read`]. A folder that cannot be read changes
//! nothing. Left out: what the files mean together ([`catalogue`]) and what the objects do
//! (the store).

mod catalogue;
mod changes;
mod read;
mod scan;
mod status;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use daemon::Daemon;
use daemon::log_limit::LogLimit;

pub(crate) use catalogue::Catalogue;
pub use catalogue::{Whole, Wholes};
use changes::Summary;
use read::{Files, LookContext, QUIET};
pub(crate) use read::{MAX_FILE_BYTES, text_of as read_text};
pub(crate) use scan::manifests;
use scan::{Look, Stat};
use status::Status;
use watch::{Hints, Wake, Watch};

use crate::path::FilePath;
use crate::report::Report;
use crate::update::{Publisher, Updates, mailbox};
use model::store::{Event, Store};
use model::{Changes, Kind, Kinds, Model};

/// Lines that say what a batch changed.
static CHANGED: LogLimit = LogLimit::new("lines on changes of the folder");

/// From look to look without a hint. Below two seconds, so that a change that inotify does not
/// see is served within two seconds; 10,000 files take 26 ms to look at.
const RESCAN: Duration = Duration::from_millis(1500);
/// How long a cold start waits for files that are being written.
const FIRST_PATIENCE: Duration = Duration::from_secs(3);
/// A look at everything that a hint asks for may take this part of the time at most: in a large
/// folder beside a program that creates files there all the time.
const BREAK: u32 = 10;
/// How often a look may be put off because files vanish while others come.
const MAX_POSTPONED: u32 = 5;

/// Follows a folder on a thread of its own, which ends with the updates' receiver.
///
/// # Errors
///
/// When the folder cannot be read at the start.
pub(crate) fn follow(root: &Path, kinds: Kinds, daemon: &Daemon) -> std::io::Result<Updates> {
    start(root, kinds, RESCAN, daemon).map(|(updates, _)| updates)
}

fn start(
    root: &Path,
    kinds: Kinds,
    rescan: Duration,
    daemon: &Daemon,
) -> std::io::Result<(Updates, Status)> {
    let (publisher, updates) = mailbox();
    let output = Output::Mailbox(publisher);
    let catalogue = Catalogue::new(kinds);
    let status = spawn(vec![root.to_owned()], vec![], catalogue, kinds, output, rescan, daemon)?;
    Ok((updates, status))
}

/// One look's outcome with whole objects, for the feed server.
pub struct Batch {
    pub wholes: Wholes,
    pub model: Model,
    pub changes: Changes,
    pub reports: Arc<[Report]>,
    /// When the first hint of it came.
    pub received: Instant,
}

/// What an earlier process served of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub path: PathBuf,
    /// The objects as JSON, each on a line.
    pub objects: String,
}

/// Follows several folders as one, on a thread that lives as long as the process, and hands
/// over each look with whole objects. What is restored is the last good state of files, as if
/// this process had read it: the first look is compared with it.
///
/// # Errors
///
/// When one of the folders cannot be read at the start, and nothing of it was restored.
pub fn follow_whole(
    roots: Vec<PathBuf>,
    restored: Vec<Restored>,
    daemon: &Daemon,
    take: impl FnMut(Batch) + Send + 'static,
) -> std::io::Result<()> {
    let output = Output::Batches(Box::new(take));
    spawn(roots, restored, Catalogue::of_wholes(), Kinds::all(), output, RESCAN, daemon).map(|_| ())
}

fn spawn(
    roots: Vec<PathBuf>,
    restored: Vec<Restored>,
    catalogue: Catalogue,
    kinds: Kinds,
    output: Output,
    rescan: Duration,
    daemon: &Daemon,
) -> std::io::Result<Status> {
    if let Err(error) = scan::look_at_all(&roots) {
        // With something to serve, a folder that is away is a fault as at any other time.
        let below = |file: &Restored| roots.iter().any(|root| file.path.starts_with(root));
        if !restored.iter().any(below) {
            return Err(error);
        }
    }
    let (sender, wakes) = channel();
    forward_reloads(daemon, sender.clone());
    let names: Vec<_> = roots.iter().map(|root| root.display().to_string()).collect();
    let status = Status::new(names.join(", ").into(), daemon.readiness.clone());
    status.show(daemon);
    let watches = roots.iter().map(|root| Watch::new(root, sender.clone())).collect();
    let store = Store::new(kinds);
    let mut folder = Folder::new(roots, watches, catalogue, store, output, status.clone());
    folder.rescan = rescan;
    let follow = move || {
        folder.restore(restored);
        folder.run(&wakes);
    };
    daemon.supervisor.thread("feed-folder", follow).map_err(std::io::Error::other)?;
    Ok(status)
}

/// Wakes the folder's thread at each SIGHUP.
fn forward_reloads(daemon: &Daemon, wakes: Sender<Wake>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let mut reloads = daemon.shutdown.reloads();
    runtime.spawn(async move {
        while reloads.changed().await.is_ok() && wakes.send(Wake::Reload).is_ok() {}
    });
}

/// Where batches go.
enum Output {
    Mailbox(Publisher),
    Batches(Box<dyn FnMut(Batch) + Send>),
}

impl Output {
    fn is_read(&self) -> bool {
        match self {
            Output::Mailbox(publisher) => publisher.is_read(),
            Output::Batches(_) => true,
        }
    }
}

struct Folder {
    roots: Vec<PathBuf>,
    watches: Vec<Watch>,
    hints: Hints,
    files: Files,
    catalogue: Catalogue,
    store: Store,
    output: Output,
    status: Status,
    /// The folders of the last whole look.
    folders: BTreeMap<PathBuf, Stat>,
    /// Files to look at again, besides those that hints name.
    pending: BTreeSet<PathBuf>,
    /// From look to look at everything.
    rescan: Duration,
    /// When to look at the hints' and the pending files, and when at everything.
    soon: Option<Instant>,
    next: Instant,
    /// From when on a hint may ask for a look at everything.
    rested: Instant,
    /// When the first hint came that no batch has answered yet.
    heard: Option<Instant>,
    /// Looks put off in a row.
    postponed: u32,
    begun: Instant,
    /// There is a state of an earlier process.
    restored: bool,
    /// There was a batch.
    published: bool,
}

impl Folder {
    fn new(
        roots: Vec<PathBuf>,
        watches: Vec<Watch>,
        catalogue: Catalogue,
        store: Store,
        output: Output,
        status: Status,
    ) -> Folder {
        Folder {
            roots,
            watches,
            hints: Hints::default(),
            files: Files::default(),
            catalogue,
            store,
            output,
            status,
            folders: BTreeMap::new(),
            pending: BTreeSet::new(),
            rescan: RESCAN,
            soon: None,
            next: Instant::now(),
            rested: Instant::now(),
            heard: None,
            postponed: 0,
            begun: Instant::now(),
            restored: false,
            published: false,
        }
    }

    /// Takes what an earlier process served for what was read last.
    fn restore(&mut self, restored: Vec<Restored>) {
        for Restored { path, objects } in restored {
            let path = FilePath::from(path);
            self.restored = true;
            self.catalogue.restore(&path, &objects);
            self.files.restore(path);
        }
        if self.restored {
            // Services keep the ports and addresses that they have, as they would in one process.
            for event in self.events(true) {
                self.store.handle(event);
            }
        }
    }

    fn run(mut self, wakes: &Receiver<Wake>) {
        while self.output.is_read() {
            self.wait(wakes);
            match self.look() {
                Ok(None) => {}
                Ok(Some(look)) => {
                    self.status.scanned(Ok(()));
                    self.take(&look);
                }
                Err(fault) => {
                    self.status.scanned(Err(fault));
                    self.hints.clear();
                    self.soon = None;
                    self.next = Instant::now() + self.rescan;
                    if self.restored && !self.published {
                        self.publish(Instant::now());
                    }
                }
            }
        }
    }

    /// Waits until a look is due.
    fn wait(&mut self, wakes: &Receiver<Wake>) {
        loop {
            let due = self.soon.map_or(self.next, |soon| soon.min(self.next));
            let left = due.saturating_duration_since(Instant::now());
            match wakes.recv_timeout(left) {
                Ok(Wake::Hint(hint)) => {
                    self.heard.get_or_insert(hint.at);
                    let soon = hint.at + QUIET;
                    self.soon = Some(self.soon.map_or(soon, |other| other.min(soon)));
                    self.hints.add(hint);
                }
                Ok(Wake::Reload) => return self.next = Instant::now(),
                Err(RecvTimeoutError::Timeout) => return,
                // Nothing hints any more: only the scans are left.
                Err(RecvTimeoutError::Disconnected) => return std::thread::sleep(left),
            }
        }
    }

    /// A look that may be believed: at the files that were hinted at, where that is enough.
    /// `None` when it has to wait.
    fn look(&mut self) -> Result<Option<Look>, String> {
        let now = Instant::now();
        if self.next > now {
            let paths = self.hints.paths().chain(&self.pending).cloned().collect();
            if let Some(look) = scan::look_at(paths, &self.folders) {
                return Ok(Some(look));
            }
            if self.rested > now {
                self.next = self.next.min(self.rested);
                self.soon = None;
                return Ok(None);
            }
        }
        let mut look = scan::look_at_all(&self.roots).map_err(|error| error.to_string())?;
        if self.watch(&look) {
            // What happened before the new watches was not heard, so look once more.
            look = scan::look_at_all(&self.roots).map_err(|error| error.to_string())?;
        }
        self.rested = Instant::now() + now.elapsed() * BREAK;
        if self.roots.iter().any(|root| self.was_emptied(root, &look)) {
            let why = match self.folders.is_empty() {
                false => "the folder was replaced by one without manifests",
                true => {
                    "the folder has no manifests, but had some when the state was saved; if this \
                     is intended, stop the feed and empty its --state-dir"
                }
            };
            return Err(why.to_owned());
        }
        self.folders.clone_from(&look.folders);
        self.next = Instant::now() + self.rescan;
        Ok(Some(look))
    }

    /// Watches the folders of a look; whether there was any to add.
    fn watch(&mut self, look: &Look) -> bool {
        let mut added = false;
        for (root, watch) in self.roots.iter().zip(&mut self.watches) {
            let below = look.folders.iter().filter(|(path, _)| path.starts_with(root));
            added |= watch.follow(&below.map(|(path, stat)| (path.clone(), *stat)).collect());
        }
        added
    }

    /// Whether another folder without manifests stands in the place of one that had some.
    fn was_emptied(&self, root: &Path, look: &Look) -> bool {
        let same = match (look.folders.get(root), self.folders.get(root)) {
            (Some(now), Some(before)) => now.is_same_file(before),
            _ => false,
        };
        !same && self.files.any_below(root) && !look.files.keys().any(|path| path.starts_with(root))
    }

    /// Reads what changed and publishes it as one batch.
    fn take(&mut self, look: &Look) {
        let begun = Instant::now();
        let first = !self.published;
        let patient = self.postponed < MAX_POSTPONED;
        let context = LookContext { first, patient, now: SystemTime::now(), clock: begun };
        let catalogue = &mut self.catalogue;
        let verdict = self.files.compare(look, &self.hints, context, |path, text, format| {
            catalogue.put(path, text, format);
        });
        if verdict.vanishing && patient {
            self.postponed += 1;
            return self.postpone(look, &verdict.gone, begun + QUIET);
        }
        self.postponed = 0;
        self.hints.clear();
        self.pending = verdict.held.iter().map(|path| path.to_path_buf()).collect();
        self.soon = (!self.pending.is_empty()).then(|| begun + verdict.wait);
        for path in &verdict.gone {
            self.catalogue.remove(path);
        }
        // A cold start waits for what is being written, but not for ever.
        if !(first && !self.pending.is_empty() && self.begun.elapsed() < FIRST_PATIENCE) {
            self.publish(begun);
        }
    }

    /// Looks again soon: what is missing may be on the way to another name.
    fn postpone(&mut self, look: &Look, missing: &[FilePath], until: Instant) {
        if look.only.is_some() {
            self.pending.extend(missing.iter().map(|path| path.to_path_buf()));
            self.soon = Some(until);
        } else {
            self.soon = None;
            self.next = until;
        }
    }

    fn publish(&mut self, begun: Instant) {
        let first = !std::mem::replace(&mut self.published, true);
        let events = self.events(first && !self.restored);
        let summary = Summary::of(&events, |key| self.catalogue.file_of(key));
        for event in events {
            self.store.handle(event);
        }
        let (model, changes) = self.store.commit();
        let received = self.heard.take().unwrap_or(begun);
        let changed = first || !changes.is_empty();
        let (reports, news) = self.report(changed);
        if changed {
            if first {
                let objects: usize = self.catalogue.served().values().sum();
                let (took, folder) = (self.begun.elapsed(), self.status.source());
                tracing::info!(folder, objects, ?took, "folder read");
            }
            tracing::debug!(changes = changes.len(), took = ?begun.elapsed(), "batch");
            if let Some(line) = summary.line().filter(|_| !first && CHANGED.admits()) {
                tracing::info!("{line}");
            }
        }
        match &mut self.output {
            Output::Mailbox(publisher) if changed => {
                publisher.publish(model, changes, received, true);
            }
            Output::Mailbox(_) => {}
            Output::Batches(take) => {
                let mut wholes = self.catalogue.take_wholes();
                if first && self.restored {
                    // What was restored may have been read anew: the last state counts.
                    wholes = BTreeMap::from_iter(wholes).into_iter().collect();
                }
                take(Batch { wholes, model, changes, reports, received });
            }
        }
        status::log(&news);
    }

    /// Shows at `/status` what is wrong; returns that, and what of it was not wrong before.
    fn report(&mut self, changed: bool) -> (Arc<[Report]>, Vec<Report>) {
        let mut reports = self.catalogue.reports();
        let faults = self.files.reports();
        if !faults.is_empty() {
            // Of a file that cannot be read now, older problems are no longer true.
            let stale = |report: &Report| faults.iter().any(|fault| fault.file == report.file);
            let others = reports.iter().filter(|report| !stale(report)).cloned();
            reports = others.chain(faults.iter().cloned()).collect();
        }
        let (served, synced) = (self.catalogue.served().clone(), self.store.is_synced());
        let news = self.status.update(reports.clone(), served, synced, changed);
        (reports, news)
    }

    /// The batch's events; the first batch is a list of every kind.
    fn events(&mut self, first: bool) -> Vec<Event> {
        let events = self.catalogue.settle();
        if !first {
            return events;
        }
        let begin = Kind::read().map(Event::Init);
        let listed = events.into_iter().filter_map(|event| match event {
            Event::Apply(record) => Some(Event::InitApply(record)),
            _ => None,
        });
        let end = Kind::read().map(Event::InitDone);
        begin.chain(listed).chain(end).collect()
    }
}

#[cfg(test)]
mod tests;
