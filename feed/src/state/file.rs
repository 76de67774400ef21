//! One file of a state folder: lines of text and, as the last one, their checksum.
//!
//! It is written beside its place, synced, and renamed over it, so that it is there as a whole,
//! before or after, whatever happens; only its owner may read it, because it may hold Secrets.
//! What was cut or changed is not read. Left out: what the lines say.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

/// A longer file is not ours, and none is written: a hundred times the objects of 10,000 Services.
const MAX_BYTES: u64 = 1 << 30;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("it is longer than any state of ours")]
    TooLong,
    #[error("its end is missing")]
    NoTrailer,
    #[error("its checksum does not fit: it was changed, or cut")]
    Checksum,
}

impl FileError {
    /// Whether there is no file at all.
    pub fn is_absent(&self) -> bool {
        matches!(self, FileError::Read(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Trailer {
    sha256: String,
}

/// Replaces a file by the lines that `fill` writes; gives their length.
///
/// # Errors
///
/// When it cannot be written, or would be too long; then what was there stays.
pub fn write(path: &Path, fill: impl FnOnce(&mut Lines) -> io::Result<()>) -> io::Result<u64> {
    let beside = beside(path, ".new");
    // What an earlier process left half-written may have other permissions.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    let written = fill_file(file, fill);
    if written.is_err() {
        // It may be what filled the disk.
        let _ = std::fs::remove_file(&beside);
    }
    let bytes = written?;
    std::fs::rename(&beside, path)?;
    // The rename is not safe from a power cut before its folder is.
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(bytes)
}

fn fill_file(file: File, fill: impl FnOnce(&mut Lines) -> io::Result<()>) -> io::Result<u64> {
    let mut out = Lines { inner: BufWriter::new(file), sum: Context::new(&SHA256), bytes: 0 };
    fill(&mut out)?;
    let trailer = Trailer { sha256: hex(out.sum.clone().finish().as_ref()) };
    out.line(&trailer)?;
    let file = out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(out.bytes)
}

/// The lines of a file, without the checksum.
///
/// # Errors
///
/// When it is not there, or not as it was written.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    if std::fs::metadata(path)?.len() > MAX_BYTES {
        return Err(FileError::TooLong);
    }
    let mut text = std::fs::read(path)?;
    let body = text.strip_suffix(b"\n").ok_or(FileError::NoTrailer)?;
    let end = memchr::memrchr(b'\n', body).ok_or(FileError::NoTrailer)? + 1;
    let (body, trailer) = body.split_at(end);
    let trailer: Trailer = serde_json::from_slice(trailer).map_err(|_| FileError::NoTrailer)?;
    let mut sum = Context::new(&SHA256);
    sum.update(body);
    if trailer.sha256 != hex(sum.finish().as_ref()) {
        return Err(FileError::Checksum);
    }
    text.truncate(end);
    Ok(text)
}

/// Keeps other processes from a file until dropped, or until this process ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Lock {
    /// Locks a file by one beside it.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when another process has it.
    pub fn take(path: &Path) -> io::Result<Lock> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(beside(path, ".lock"))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Lock(file))
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes through to a file and computes its checksum.
pub struct Lines {
    inner: BufWriter<File>,
    sum: Context,
    bytes: u64,
}

impl Lines {
    /// A value as JSON on a line of its own.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut *self, value)?;
        self.write_all(b"\n")
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes + bytes.len() as u64 > MAX_BYTES {
            let why = format!("the state would have more than {} MiB", MAX_BYTES >> 20);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let written = self.inner.write(bytes)?;
        self.sum.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_has_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let lock = Lock::take(&path).unwrap();
        let kind = Lock::take(&path).unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::WouldBlock);
        drop(lock);
        Lock::take(&path).unwrap();
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&path, |out| out.line(&"one")).unwrap();
        let failed = write(&path, |out| {
            out.line(&"two")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(read(&path).unwrap(), b"\"one\"\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left");
    }
}
