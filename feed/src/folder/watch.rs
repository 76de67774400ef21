//! inotify on the folders of a look: hints that something changed, never the truth.
//!
//! What they say beyond "look again" is whether a file is whole: it was renamed into its place or
//! its writer closed it, or whether someone still writes to it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Instant;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::scan::{Stat, format_of};

const NO_INOTIFY: &str = "inotify is not available: changes are found by scanning";

/// Why the folder's thread should look.
#[derive(Debug)]
pub(super) enum Wake {
    Hint(Hint),
    /// SIGHUP.
    Reload,
}

#[derive(Debug)]
pub(super) struct Hint {
    pub(super) path: PathBuf,
    pub(super) state: State,
    pub(super) at: Instant,
}

/// What a hint says of the file at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It was moved here whole, or its writer closed it.
    Whole,
    /// It was written to, and not closed since.
    Open,
    /// It was created, by a writer who will write soon, or as a link to what is whole.
    Created,
    /// Something else happened there.
    Other,
}

/// The hints since the last look that was acted upon.
#[derive(Debug, Default)]
pub(super) struct Hints(HashMap<PathBuf, State>);

impl Hints {
    pub(super) fn add(&mut self, hint: Hint) {
        if hint.state != State::Other || !self.0.contains_key(&hint.path) {
            self.0.insert(hint.path, hint.state);
        }
    }

    /// What is known of a file: by a hint of its own, of a folder above it that was moved here,
    /// or of the `..data` link through which its folder's files are swapped.
    pub(super) fn of(&self, file: &Path, linked: bool) -> Option<State> {
        if let Some(state) = self.0.get(file) {
            return Some(*state);
        }
        let whole = |path: &Path| self.0.get(path) == Some(&State::Whole);
        let swapped = |folder: &Path| linked && whole(&folder.join("..data"));
        let moved = file.ancestors().skip(1).any(|folder| whole(folder) || swapped(folder));
        moved.then_some(State::Whole)
    }

    /// The paths that something was heard of.
    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.0.keys()
    }

    /// Forgets all, after a look that took them into account.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// The watches, one a folder. Without inotify (too many watches, no such kernel) the periodic
/// scan still finds everything.
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// The folder above, in which this one may be replaced.
    above: Option<PathBuf>,
    watched: BTreeMap<PathBuf, Stat>,
    /// It was said that a folder cannot be watched.
    warned: bool,
}

impl Watch {
    pub(super) fn new(root: &Path, wakes: Sender<Wake>) -> Watch {
        let root = root.to_owned();
        let absolute = std::path::absolute(&root).unwrap_or_else(|_| root.clone());
        let above = absolute.parent().map(Path::to_owned);
        let watched_above = above.clone();
        let named = Names { root: root.clone(), absolute: absolute.clone() };
        let handle = move |event: notify::Result<notify::Event>| {
            let at = Instant::now();
            let hint = |path, state| {
                // The thread may have ended; then nobody wants to know.
                let _ = wakes.send(Wake::Hint(Hint { path, state, at }));
            };
            let event = match event {
                Ok(event) if !event.need_rescan() => event,
                // An overflow, or the watch is broken: anything may have changed.
                _ => return hint(root.clone(), State::Other),
            };
            let Some(state) = state_of(&event.kind) else { return };
            let written =
                matches!(event.kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_)));
            for path in event.paths {
                if path == absolute {
                    hint(root.clone(), state);
                } else if path.parent() != above.as_deref() && !is_noise(&path, written) {
                    // The folder above is watched for this folder's name alone.
                    hint(named.as_looks_do(path), state);
                }
            }
        };
        let watcher = notify::recommended_watcher(handle)
            .inspect_err(|error| tracing::warn!(%error, "{NO_INOTIFY}"))
            .ok();
        Watch { watcher, above: watched_above, watched: BTreeMap::new(), warned: false }
    }

    /// Without inotify.
    #[cfg(test)]
    pub(super) fn deaf() -> Watch {
        Watch { watcher: None, above: None, watched: BTreeMap::new(), warned: false }
    }

    /// Watches exactly these folders. One that was replaced, so that its inode differs, is
    /// watched anew. Returns whether there was any to add: what happened in it before now was
    /// not heard.
    pub(super) fn follow(&mut self, folders: &BTreeMap<PathBuf, Stat>) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let above = self
            .above
            .as_deref()
            .and_then(|above| Some((above.to_owned(), Stat::of(&std::fs::metadata(above).ok()?))));
        let folders: BTreeMap<_, _> =
            folders.iter().map(|(path, stat)| (path.clone(), *stat)).chain(above).collect();
        let same = |stat: Option<&Stat>, now: &Stat| stat.is_some_and(|s| s.is_same_file(now));
        self.watched.retain(|path, stat| {
            let stays = same(folders.get(path), stat);
            if !stays {
                // The kernel may have dropped the watch with the folder.
                let _ = watcher.unwatch(path);
            }
            stays
        });
        let mut added = false;
        for (path, stat) in folders {
            if self.watched.contains_key(&path) {
                continue;
            }
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path, stat);
                    added = true;
                }
                Err(error) if !self.warned => {
                    self.warned = true;
                    let folder = path.display();
                    tracing::warn!(%folder, %error, "{NO_INOTIFY}");
                }
                Err(_) => {}
            }
        }
        added
    }
}

/// One folder by two names: as the flag has it, and absolute, as inotify's events come.
struct Names {
    root: PathBuf,
    absolute: PathBuf,
}

impl Names {
    /// The path by which a look at the folder finds it.
    fn as_looks_do(&self, path: PathBuf) -> PathBuf {
        match path.strip_prefix(&self.absolute) {
            Ok(rest) if self.root != self.absolute => self.root.join(rest),
            _ => path,
        }
    }
}

fn state_of(kind: &EventKind) -> Option<State> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(State::Whole),
        EventKind::Modify(ModifyKind::Data(_)) => Some(State::Open),
        EventKind::Create(_) => Some(State::Created),
        EventKind::Access(_) => None,
        _ => Some(State::Other),
    }
}

/// Names that are never read, except the link by which a ConfigMap's files are swapped; and what
/// is written to but no manifest, such as a log beside the manifests.
fn is_noise(path: &Path, written: bool) -> bool {
    let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let hidden = name.starts_with('.') || name.ends_with('~');
    name != "..data" && (hidden || (written && format_of(&name).is_none()))
}
