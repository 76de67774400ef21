//! Pipes for splice(2), which moves bytes between two sockets without copying them.
//!
//! A direction that streams borrows a pipe, which holds the bytes that were taken from one socket
//! and not yet given to the other. Pipes are few: a direction that gets none copies instead.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::room::{Permit, Room};

/// The size asked for: large, so that one call moves many bytes, and within what the kernel allows
/// an unprivileged user (`fs.pipe-max-size`, 1 MiB).
const PIPE_BYTES: usize = 512 * 1024;
/// The size of a pipe if the kernel does not grant more (pipe(7)).
const DEFAULT_PIPE_BYTES: usize = 64 * 1024;
/// Unused pipes that a data thread keeps for the next streams; they hold only a few pages.
const MAX_SPARE: usize = 16;

/// A pipe and how much it holds.
#[derive(Debug)]
pub(super) struct Pipe {
    from: OwnedFd,
    to: OwnedFd,
    capacity: usize,
    filled: usize,
    _permit: Permit,
}

impl Pipe {
    fn open(permit: Permit) -> Option<Pipe> {
        let (from, to) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        let capacity = fcntl_setpipe_size(&to, PIPE_BYTES).unwrap_or(DEFAULT_PIPE_BYTES);
        Some(Pipe { from, to, capacity, filled: 0, _permit: permit })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Takes what the socket has; 0 at its end. Only an empty pipe is filled: a full one and an
    /// empty socket would give the same error.
    pub(super) fn fill(&mut self, socket: impl AsFd) -> Result<usize, Errno> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        self.filled = splice(socket, None, &self.to, None, self.capacity, flags)?;
        Ok(self.filled)
    }

    /// Gives the socket as much as it takes.
    pub(super) fn drain(&mut self, socket: impl AsFd) -> Result<usize, Errno> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let drained = splice(&self.from, None, socket, None, self.filled, flags)?;
        self.filled -= drained;
        Ok(drained)
    }
}

/// The unused pipes of one data thread.
#[derive(Debug)]
pub(super) struct Pipes {
    room: Arc<Room>,
    spare: Vec<Pipe>,
}

impl Pipes {
    pub(super) fn new(room: Arc<Room>) -> Pipes {
        Pipes { room, spare: Vec::new() }
    }

    pub(super) fn take(&mut self) -> Option<Pipe> {
        self.spare.pop().or_else(|| Pipe::open(self.room.pipe()?))
    }

    /// Takes a pipe back. One that still holds bytes is of no use to another connection.
    pub(super) fn put(&mut self, pipe: Pipe) {
        if pipe.is_empty() && self.spare.len() < MAX_SPARE {
            self.spare.push(pipe);
        }
    }
}
