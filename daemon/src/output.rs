//! Lines on standard output or standard error, whose reader may be slow or gone.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

/// What a pipe that is ready to be written takes without blocking (pipe(7), PIPE_BUF).
const PIPE_BUF: usize = 4096;

/// Where lines are written, with an end to waiting.
#[derive(Debug)]
pub struct Output<O> {
    out: O,
    patience: Timespec,
    /// Bytes that one write takes without blocking.
    at_once: usize,
    is_stalled: AtomicBool,
    /// The last lines were written in part.
    is_torn: AtomicBool,
}

impl<O: AsFd> Output<O> {
    /// Lines wait for `patience` at most for a reader that reads nothing. After one line has waited
    /// without success, further lines do not wait until a line can be written again.
    ///
    /// # Errors
    ///
    /// When the time is too long to be counted in nanoseconds.
    pub fn new(out: O, patience: Duration) -> io::Result<Output<O>> {
        let patience = Timespec::try_from(patience)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a time that is too long"))?;
        let no = || AtomicBool::new(false);
        // A regular file has no reader to wait for.
        let is_file = fstat(&out)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let at_once = if is_file { usize::MAX } else { PIPE_BUF };
        Ok(Output { out, patience, at_once, is_stalled: no(), is_torn: no() })
    }

    /// Writes all of `lines`; false if it could not be written, or not all of it.
    pub fn write(&self, lines: &[u8]) -> bool {
        // What follows a part of a line is not to become part of it.
        if self.is_torn.load(Ordering::Relaxed) && !self.write_all(b"\n") {
            return false;
        }
        let is_whole = self.write_all(lines);
        self.is_torn.store(!is_whole, Ordering::Relaxed);
        is_whole
    }

    fn write_all(&self, lines: &[u8]) -> bool {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut rest = lines;
        while !rest.is_empty() {
            let is_stalled = self.is_stalled.load(Ordering::Relaxed);
            let wait = if is_stalled { &zero } else { &self.patience };
            let mut fds = [PollFd::new(&self.out, PollFlags::OUT)];
            match poll(&mut fds, Some(wait)) {
                Ok(0) => {
                    self.is_stalled.store(true, Ordering::Relaxed);
                    return false;
                }
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => return false,
            }
            match rustix::io::write(&self.out, &rest[..rest.len().min(self.at_once)]) {
                Ok(0) => return false,
                Ok(written) => rest = &rest[written..],
                // Another process took the room: wait for more.
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => return false,
            }
        }
        self.is_stalled.store(false, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_cannot_be_written_stops_nobody() {
        let output = |out| Output::new(out, Duration::from_millis(50)).unwrap();
        // A device that is always full, like a full disk.
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(!Output::new(full, Duration::ZERO).unwrap().write(b"line\n"));
        // A reader that is gone.
        let (reader, writer) = io::pipe().unwrap();
        let writer = output(writer);
        assert!(writer.write(b"line\n"));
        drop(reader);
        assert!(!writer.write(b"line\n"));
        // A reader that does not read: it neither blocks, nor does a line of many pages.
        let (mut reader, writer) = io::pipe().unwrap();
        let writer = output(writer);
        let line = [b'a'; 3 * PIPE_BUF];
        let written = (0..1000).filter(|_| writer.write(&line)).count();
        assert!((1..100).contains(&written), "{written} of 1000");
        // It reads again.
        let mut buf = [0; 16 * PIPE_BUF];
        let read = io::Read::read(&mut reader, &mut buf).unwrap();
        assert!(writer.write(b"line\n"));
        drop(writer);
        let mut rest = buf[..read].to_vec();
        io::Read::read_to_end(&mut reader, &mut rest).unwrap();
        assert!(rest.ends_with(b"a\nline\n"));
    }
}
