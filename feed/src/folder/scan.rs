//! One look at a folder: which manifests are there, and what `stat` says of each.
//!
//! Only manifests (`*.yaml`, `*.yml`, `*.json`) that are not hidden and no editor's leftovers
//! count. Symbolic links are followed, which is how a mounted ConfigMap presents its files; what
//! is reached by two paths is taken once, under the first in sorted order.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::path::FilePath;
use model::document::Format;

/// Manifests in one folder: 10,000 Services in a file each, with room.
const MAX_FILES: usize = 100_000;
/// Folders within folders; ends a link that leads into itself.
const MAX_DEPTH: usize = 16;

/// What tells whether a file changed without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) links: u64,
    /// Since 1970.
    modified_ns: i64,
    changed_ns: i64,
}

impl Stat {
    pub(super) fn of(metadata: &Metadata) -> Stat {
        // Beyond the year 2262 the number is wrong, but still tells one time from another.
        let ns = |seconds: i64, ns: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(ns);
        Stat {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            links: metadata.nlink(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Time since the file or its name last changed; zero when that lies in the future.
    pub(super) fn age(&self, now: SystemTime) -> std::time::Duration {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let age = i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(self.changed_ns);
        std::time::Duration::from_nanos(u64::try_from(age).unwrap_or_default())
    }

    pub(super) fn is_same_file(&self, other: &Stat) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// A manifest that is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) stat: Stat,
    pub(super) format: Format,
    /// Reached through a symbolic link: of the file, or of a folder above it.
    pub(super) linked: bool,
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// By path, the folder's own path first.
    pub(super) files: BTreeMap<FilePath, Found>,
    /// The folders on the way, by the path under which they were reached.
    pub(super) folders: BTreeMap<PathBuf, Stat>,
    /// Only these paths were looked at; `None` for the whole folder.
    pub(super) only: Option<BTreeSet<PathBuf>>,
    /// Folders and files that could not be looked at, and why. Nothing is known of what is in
    /// them.
    pub(super) unreadable: Vec<(PathBuf, io::Error)>,
    pub(super) too_many: bool,
}

/// Looks at a folder and all below it.
///
/// # Errors
///
/// When the folder itself cannot be read.
pub(super) fn look(root: &Path) -> io::Result<Look> {
    let metadata = std::fs::metadata(root)?;
    if !metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a folder"));
    }
    let mut walk = Walk { look: Look::default(), seen: HashSet::new() };
    walk.folder(root, &metadata, 0, false);
    match walk.look.unreadable.iter().position(|(path, _)| path == root) {
        Some(at) => Err(walk.look.unreadable.swap_remove(at).1),
        None => Ok(walk.look),
    }
}

/// Looks at several folders, as at one.
///
/// # Errors
///
/// When one of them cannot be read: nothing is known then of what is gone.
pub(super) fn look_at_all(roots: &[PathBuf]) -> io::Result<Look> {
    let named = |root: &PathBuf| {
        look(root).map_err(|error| match roots.len() {
            1 => error,
            _ => io::Error::new(error.kind(), format!("{}: {error}", root.display())),
        })
    };
    let Some((first, others)) = roots.split_first() else { return Ok(Look::default()) };
    let mut all = named(first)?;
    for root in others {
        let Look { files, folders, only: _, unreadable, too_many } = named(root)?;
        all.files.extend(files);
        all.folders.extend(folders);
        all.unreadable.extend(unreadable);
        all.too_many |= too_many;
    }
    Ok(all)
}

/// Looks at some files only: those that hints named. `None` when that would not do, because a
/// folder or a link is among them, through which other files may have changed.
pub(super) fn look_at(paths: BTreeSet<PathBuf>, folders: &BTreeMap<PathBuf, Stat>) -> Option<Look> {
    let mut look = Look::default();
    for path in &paths {
        let name = path.file_name()?.to_string_lossy();
        let format = format_of(&name).filter(|_| !is_ignored(&name))?;
        folders.get(path.parent()?)?;
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_file() && metadata.nlink() == 1 => {
                let stat = Stat::of(&metadata);
                look.files.insert(path.as_path().into(), Found { stat, format, linked: false });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => return None,
        }
    }
    look.only = Some(paths);
    Some(look)
}

struct Walk {
    look: Look,
    /// Device and inode of each file and folder taken so far.
    seen: HashSet<(u64, u64)>,
}

impl Walk {
    fn folder(&mut self, path: &Path, metadata: &Metadata, depth: usize, linked: bool) {
        let stat = Stat::of(metadata);
        if depth > MAX_DEPTH || !self.seen.insert((stat.device, stat.inode)) {
            return;
        }
        self.look.folders.insert(path.to_owned(), stat);
        let entries = std::fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.look.unreadable.push((path.to_owned(), error)),
        };
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            self.entry(&entry, depth, linked);
        }
    }

    fn entry(&mut self, entry: &std::fs::DirEntry, depth: usize, linked: bool) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Ok(file_type) = entry.file_type() else { return };
        if is_ignored(&name) || (file_type.is_file() && format_of(&name).is_none()) {
            return;
        }
        let path = entry.path();
        let is_link = file_type.is_symlink();
        let metadata = if is_link { std::fs::metadata(&path) } else { entry.metadata() };
        let metadata = match metadata {
            Ok(metadata) => metadata,
            // It went while we looked, or is a link to nothing: not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.look.unreadable.push((path, error)),
        };
        let linked = linked || is_link;
        if metadata.is_dir() {
            return self.folder(&path, &metadata, depth + 1, linked);
        }
        let Some(format) = format_of(&name).filter(|_| metadata.is_file()) else { return };
        let stat = Stat::of(&metadata);
        if self.look.files.len() >= MAX_FILES {
            self.look.too_many = true;
        } else if self.seen.insert((stat.device, stat.inode)) {
            self.look.files.insert(path.into(), Found { stat, format, linked });
        }
    }
}

/// Hidden files, among them the `..data` of a mounted ConfigMap, and editors' leftovers.
fn is_ignored(name: &str) -> bool {
    name.starts_with('.') || name.ends_with('~') || (name.starts_with('#') && name.ends_with('#'))
}

/// The manifests at a path: of a folder all in it, of a file the file, whatever its name.
///
/// # Errors
///
/// When it cannot be read.
pub(crate) fn manifests(path: &Path) -> io::Result<Vec<(FilePath, Format)>> {
    if !std::fs::metadata(path)?.is_dir() {
        return Ok(vec![(path.into(), format_of_path(path))]);
    }
    let look = look(path)?;
    match look.unreadable.into_iter().next() {
        Some((path, error)) => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        }
        None => Ok(look.files.into_iter().map(|(path, found)| (path, found.format)).collect()),
    }
}

/// How a file is written that someone named: as JSON if its name says so.
pub(crate) fn format_of_path(path: &Path) -> Format {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    format_of(&name).unwrap_or(Format::Yaml)
}

/// How a file of that name is written; `None` when it is no manifest.
pub(super) fn format_of(name: &str) -> Option<Format> {
    match Path::new(name).extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}
