//! What outlives the process in `--state-dir`: the objects with the manifests that hold them, the
//! version that may have been given out, and when each object was first seen.
//!
//! The folder takes the objects for what it read last, so that a manifest that is broken now, or
//! a folder that is away, takes nothing from clients of the next process either. The version is
//! a ceiling that is written ahead, so that no version is ever given twice, even when the process
//! is killed and the clock was set back. A file that is damaged counts as none; one that cannot be
//! written is tried again, and stops nothing. How the file is written: [`feed::state::file`].

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use daemon::Shutdown;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::assemble::Key;
use super::history::History;
use super::live::Live;
use feed::folder::{Restored, Whole, Wholes};
use feed::state::file::{self, Lock};
use model::{Kind, ObjectKey, ObjectName};

const FILE: &str = "feed.objects";
/// Counts changes of the file's form that an older program could not read.
const FORMAT: u32 = 1;

/// Versions that are written ahead: as many as one millisecond of the clock has.
pub(crate) const AHEAD: u64 = 1 << 20;
/// No ceiling of ours: the clock comes to it in the year 2109, and above it versions would end.
const MAX_CEILING: u64 = 1 << 62;

/// Between two writes: what a process that is killed loses.
const EVERY: Duration = Duration::from_secs(5);

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Saved {
    head: Head,
    /// The objects of each manifest.
    pub(crate) files: Vec<Restored>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Head {
    format: u32,
    /// No version above this was given out.
    ceiling: u64,
    /// `plural/namespace/name` → time of creation.
    created: BTreeMap<String, String>,
}

/// Before the objects of a manifest, each on a line.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest<'a> {
    #[serde(borrow)]
    file: std::borrow::Cow<'a, Path>,
    objects: usize,
}

impl Saved {
    pub(crate) fn ceiling(&self) -> u64 {
        self.head.ceiling
    }

    pub(crate) fn created(&self) -> HashMap<Key, String> {
        let key = |text: &str| {
            let mut parts = text.splitn(3, '/');
            let (plural, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
            let resource = Kind::ALL.into_iter().find(|r| r.plural() == plural)?;
            Some((resource, ObjectName::new(namespace, name)))
        };
        let known = self.head.created.iter();
        known.filter_map(|(text, at)| Some((key(text)?, at.clone()))).collect()
    }

    fn parse(text: &[u8]) -> Option<Saved> {
        let text = std::str::from_utf8(text).ok()?;
        let (head, mut rest) = text.split_once('\n')?;
        let head: Head = serde_json::from_str(head).ok()?;
        if head.format != FORMAT || head.ceiling > MAX_CEILING {
            return None;
        }
        let mut files = Vec::new();
        while let Some((line, below)) = rest.split_once('\n') {
            let manifest: Manifest<'_> = serde_json::from_str(line).ok()?;
            let mut ends = memchr::memchr_iter(b'\n', below.as_bytes()).map(|at| at + 1);
            let end = match manifest.objects.checked_sub(1) {
                None => 0,
                Some(before) => ends.nth(before)?,
            };
            let objects = below[..end].to_owned();
            files.push(Restored { path: manifest.file.into_owned(), objects });
            rest = &below[end..];
        }
        Some(Saved { head, files })
    }
}

/// When each object was first seen.
fn created(history: &History) -> BTreeMap<String, String> {
    let mut created = BTreeMap::new();
    for resource in Kind::ALL {
        // Events are as old as the mistake that they tell of.
        if resource == Kind::Event {
            continue;
        }
        for (name, entry) in history.current(resource).objects.iter() {
            let key = format!("{}/{}/{}", resource.plural(), name.namespace, name.name);
            created.insert(key, entry.stamp.created.to_string());
        }
    }
    created
}

type Objects = imbl::OrdMap<ObjectKey, Whole>;

/// The objects as their manifests have them. The folder's thread keeps it up to date, at the cost
/// of what changed; to write it down, another thread takes a copy, which costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    objects: Mutex<Objects>,
    /// Counts batches.
    batches: watch::Sender<u64>,
}

impl Kept {
    pub(crate) fn apply(&self, wholes: &Wholes) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, whole) in wholes {
            match whole {
                Some(whole) => objects.insert(key.clone(), whole.clone()),
                None => objects.remove(key),
            };
        }
    }

    /// What was applied is published.
    pub(crate) fn published(&self) {
        self.batches.send_modify(|batches| *batches += 1);
    }

    /// An object as its manifest has it, as JSON; `None` if no manifest has it.
    pub(crate) fn written(&self, key: &ObjectKey) -> Option<Arc<str>> {
        self.objects().get(key).map(|whole| whole.text.clone())
    }

    fn objects(&self) -> Objects {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The state folder of a feed, which no other process has.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: Option<Lock>,
}

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("another feed is using it")]
    InUse,
    #[error("it cannot be created")]
    Make(#[source] io::Error),
}

impl StateDir {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    ///
    /// When it cannot be made, or another process uses it.
    pub(crate) fn open(dir: &Path) -> Result<StateDir, StateError> {
        std::fs::create_dir_all(dir).map_err(StateError::Make)?;
        let path = dir.join(FILE);
        let lock = match Lock::take(&path) {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(StateError::InUse);
            }
            // The disk may be full, or know no locks: to serve is more than to be safe from that.
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot lock the state");
                None
            }
        };
        Ok(StateDir { path, _lock: lock })
    }

    /// What an earlier process left; nothing when there is no whole file.
    pub(crate) fn load(&self) -> Saved {
        let file = self.path.display();
        match file::read(&self.path) {
            Ok(text) => Saved::parse(&text).unwrap_or_else(|| {
                tracing::warn!(%file, "the state is of another version: starting without it");
                Saved::default()
            }),
            Err(error) if error.is_absent() => Saved::default(),
            Err(error) => {
                tracing::warn!(%file, %error, "the state is ignored");
                Saved::default()
            }
        }
    }

    /// Notes that versions up to a ceiling may be given out; all else stays as it was.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub(crate) fn raise(&self, saved: &Saved, ceiling: u64) -> io::Result<()> {
        let head = Head { format: FORMAT, ceiling, ..saved.head.clone() };
        file::write(&self.path, |out| {
            out.line(&head)?;
            for Restored { path, objects } in &saved.files {
                let count = memchr::memchr_iter(b'\n', objects.as_bytes()).count();
                out.line(&Manifest { file: path.into(), objects: count })?;
                out.write_all(objects.as_bytes())?;
            }
            Ok(())
        })?;
        Ok(())
    }

    fn save(&self, head: &Head, objects: &Objects) -> io::Result<u64> {
        let mut files: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
        for whole in objects.values() {
            // A path that is no UTF-8 has no place in JSON; its objects are not kept.
            if whole.file.to_str().is_some() {
                files.entry(&whole.file).or_default().push(&whole.text);
            }
        }
        file::write(&self.path, |out| {
            out.line(head)?;
            for (file, objects) in files {
                out.line(&Manifest { file: file.into(), objects: objects.len() })?;
                for object in objects {
                    out.write_all(object.as_bytes())?;
                    out.write_all(b"\n")?;
                }
            }
            Ok(())
        })
    }
}

/// Writes the state whenever it changed, on threads that serve nobody.
#[derive(Debug)]
pub(crate) struct Saver {
    pub(crate) dir: StateDir,
    pub(crate) kept: Arc<Kept>,
    pub(crate) live: Arc<Live>,
    /// The one that was written last.
    pub(crate) ceiling: u64,
}

impl Saver {
    /// Goes on until the process drains; then what came since is written, and the task ends.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut batches = self.kept.batches.subscribe();
        if *batches.borrow() > 0 {
            batches.mark_changed();
        }
        let (mut saved, mut complaint) = (true, String::new());
        while !shutdown.is_draining() {
            if saved {
                tokio::select! {
                    // The sender lives as long as `self`.
                    _ = batches.changed() => {}
                    () = shutdown.draining() => break,
                }
            }
            batches.borrow_and_update();
            let begun = Instant::now();
            (self, saved) = match self.save().await {
                (saver, Ok(bytes)) => {
                    complaint.clear();
                    tracing::debug!(bytes, took = ?begun.elapsed(), "state saved");
                    (saver, true)
                }
                (saver, Err(error)) => {
                    let file = saver.dir.path.display();
                    // A full disk is said once, not every five seconds.
                    if complaint != error.to_string() {
                        complaint = error.to_string();
                        tracing::warn!(%file, %error, "the state cannot be saved");
                    }
                    (saver, false)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = shutdown.draining() => {}
            }
        }
        if !saved || batches.has_changed().unwrap_or(false) {
            let _ = self.save().await;
        }
    }

    async fn save(mut self) -> (Saver, io::Result<u64>) {
        let work = move || {
            let version = self.live.read(History::version);
            if version + AHEAD / 2 > self.ceiling {
                self.ceiling = version + AHEAD;
            }
            let created = self.live.read(created);
            let head = Head { format: FORMAT, ceiling: self.ceiling, created };
            let saved = self.dir.save(&head, &self.kept.objects());
            (self, saved)
        };
        tokio::task::spawn_blocking(work).await.expect("saving does not panic")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;
    use crate::entry::Content;
    use crate::history::{Change, Limits};
    use model::Kind;

    const CREATED: &str = "2026-11-20T08:04:31Z";

    fn head() -> Head {
        let mut history = History::new(7, Limits::DEFAULT);
        let name = ObjectName::new("shop", "web");
        let content = Content::of(Kind::Service, name, json!({}), "u");
        history.load(vec![Change::Put(Kind::Service, content)], CREATED);
        let ceiling = history.version() + AHEAD;
        Head { format: FORMAT, ceiling, created: created(&history) }
    }

    fn objects() -> Objects {
        let kept = Kept::default();
        let whole = |name: &str, file: &str| {
            let kind = Kind::Service;
            let key = ObjectKey { kind, name: ObjectName::new("shop", name) };
            let text = format!(r#"{{"metadata":{{"name":"{name}"}}}}"#).into();
            (key, Some(Whole { file: Path::new(file).into(), text }))
        };
        kept.apply(&vec![whole("a", "x.yaml"), whole("b", "y.yaml"), whole("c", "x.yaml")]);
        let (gone, _) = whole("b", "");
        kept.apply(&vec![(gone, None), whole("d", "z.json")]);
        kept.objects()
    }

    fn files() -> Vec<Restored> {
        let file = |path: &str, names: &[&str]| {
            let line = |name| format!("{{\"metadata\":{{\"name\":\"{name}\"}}}}\n");
            let objects = names.iter().map(line).collect();
            Restored { path: path.into(), objects }
        };
        vec![file("x.yaml", &["a", "c"]), file("z.json", &["d"])]
    }

    #[test]
    fn what_is_saved_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(&folder.path().join("a/b")).unwrap();
        assert_eq!(state.load(), Saved::default());
        state.save(&head(), &objects()).unwrap();
        let loaded = state.load();
        assert_eq!(loaded.ceiling(), 9 + AHEAD);
        let web = (Kind::Service, ObjectName::new("shop", "web"));
        assert_eq!(loaded.created(), HashMap::from([(web, CREATED.to_owned())]));
        assert_eq!(loaded.files, files());
        let mode = std::fs::metadata(&state.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        state.raise(&loaded, 12 + AHEAD).unwrap();
        let raised = state.load();
        assert_eq!((raised.ceiling(), raised.files), (12 + AHEAD, files()));
        assert_eq!(raised.head.created, loaded.head.created);
    }

    #[test]
    fn a_damaged_file_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        state.save(&head(), &objects()).unwrap();
        let whole = std::fs::read(&state.path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&state.path, &whole[..end]).unwrap();
            assert_eq!(state.load(), Saved::default(), "cut at {end}");
        }
        let mut flipped = whole;
        let last = flipped.len() / 2;
        flipped[last] ^= 1;
        std::fs::write(&state.path, &flipped).unwrap();
        assert_eq!(state.load(), Saved::default());
    }

    #[test]
    fn a_ceiling_above_which_versions_end_is_none_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        for ceiling in [u64::MAX, u64::MAX - AHEAD, MAX_CEILING + 1] {
            state.save(&Head { ceiling, ..head() }, &objects()).unwrap();
            assert_eq!(state.load(), Saved::default());
        }
    }

    #[test]
    fn two_feeds_do_not_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::open(folder.path()).unwrap();
        assert!(matches!(StateDir::open(folder.path()), Err(StateError::InUse)));
        drop(first);
        StateDir::open(folder.path()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_pending_is_written_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let dir = StateDir::open(folder.path()).unwrap();
        let live = Arc::new(Live::new(History::new(7, Limits::DEFAULT)));
        let kept = Arc::new(Kept::default());
        let shutdown = daemon::Daemon::detached("feed", 1).shutdown;
        let saver = Saver { dir, kept: kept.clone(), live, ceiling: 0 };
        let task = tokio::spawn(saver.run(shutdown.clone()));
        kept.published();
        // Written at once, and then not for five seconds.
        tokio::time::sleep(Duration::from_secs(1)).await;
        *kept.objects.lock().unwrap() = objects();
        kept.published();
        shutdown.begin();
        task.await.unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        assert_eq!(state.load().files, files());
    }
}
