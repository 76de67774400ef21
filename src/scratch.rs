//! A temporary folder that is deleted when its process ends or, if the process was killed, by the
//! next one.
//!
//! `up` and `demo` keep manifests and state there, among them TLS keys. A process that is killed
//! cannot delete its folder. Each folder therefore has a lock file that the kernel unlocks when its
//! process ends, and each start deletes the folders whose lock is free.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

const LOCK: &str = ".lock";
/// Folders for temporary files, if `$TMPDIR` cannot be used. A container without `/tmp` has
/// `/dev/shm`, which container runtimes mount.
const BASES: [&str; 2] = ["/tmp", "/dev/shm"];
/// Leftover folders that one start checks; the next start checks the rest.
const MAX_SWEPT: usize = 100;

/// A folder that is deleted when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: tempfile::TempDir,
    /// Locked while this process lives.
    _lock: File,
}

impl Scratch {
    /// Makes a folder whose name begins with `prefix`, with mode 0700, and deletes those of this
    /// user with the same prefix whose process has ended.
    ///
    /// # Errors
    ///
    /// When no folder for temporary files is writable; the error names them.
    pub(crate) fn new(prefix: &str) -> io::Result<Scratch> {
        let mut failed = Vec::new();
        for base in bases() {
            sweep(&base, prefix);
            match Scratch::new_in(&base, prefix) {
                Ok(scratch) => return Ok(scratch),
                Err(error) => failed.push(format!("{}: {error}", base.display())),
            }
        }
        let why = failed.join("; ");
        Err(io::Error::other(format!(
            "cannot create a temporary folder ({why}); set TMPDIR to a writable folder"
        )))
    }

    fn new_in(base: &Path, prefix: &str) -> io::Result<Scratch> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(prefix).permissions(fs::Permissions::from_mode(0o700));
        let folder = builder.tempdir_in(base)?;
        // Locked before it gets its name, so that other processes never see it unlocked.
        let unnamed = folder.path().join(".lock.new");
        let lock = File::create(&unnamed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        fs::rename(&unnamed, folder.path().join(LOCK))?;
        Ok(Scratch { folder, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a folder in it, with mode 0700.
    pub(crate) fn folder(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }
}

fn bases() -> Vec<PathBuf> {
    let chosen = std::env::var_os("TMPDIR").filter(|value| !value.is_empty()).map(PathBuf::from);
    chosen.into_iter().chain(BASES.map(PathBuf::from)).collect()
}

/// Deletes the folders of processes that have ended. The next start tries again to delete what
/// could not be deleted.
fn sweep(base: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(base) else { return };
    let ours = entries.filter_map(Result::ok).filter(|entry| {
        entry.file_name().to_string_lossy().starts_with(prefix)
            // No symbolic links, and only folders of this user.
            && entry.metadata().is_ok_and(|data| {
                data.is_dir() && data.uid() == rustix::process::geteuid().as_raw()
            })
    });
    for entry in ours.take(MAX_SWEPT) {
        let folder = entry.path();
        let Ok(lock) = File::open(folder.join(LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_goes_at_the_next_start() {
        let base = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let folder = base.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join(LOCK), "").unwrap();
            fs::write(folder.join("tls.yaml"), "key").unwrap();
            folder
        };
        let (left, other) = (make("switchyard-up-1"), make("another-1"));
        let living = Scratch::new_in(base.path(), "switchyard-up-").unwrap();
        let link = base.path().join("switchyard-up-link");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        sweep(base.path(), "switchyard-up-");
        assert!(!left.exists(), "nobody holds its lock");
        assert!(living.path().exists() && other.exists() && link.exists());
        let path = living.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        drop(living);
        assert!(!path.exists());
    }
}
