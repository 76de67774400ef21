//! Relays bytes both ways between a client and an endpoint until both are done.
//!
//! Bytes go through one buffer of the data thread and are written at once. A connection owns
//! memory only while its receiver is slower than its sender. A direction that streams moves its
//! bytes through a pipe instead. An end of stream is passed on as such (half-close), and a reset as
//! a reset. Urgent (out-of-band) bytes are not passed on: a read skips them.
//!
//! Sockets are watched for edges: the last event of a socket is remembered until a call shows that
//! it no longer holds. So a request costs one read and one write on each side and no other system
//! call.
//!
//! Left out: waiting for events, which the data thread does.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::splice::{Pipe, Pipes};
use crate::metrics::{Meter, add};

/// Bytes read at once. Fits the second-level cache; larger reads were no faster.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Bytes of a connection that may be missing from the Service's counters while it is open.
const UNCOUNTED_BYTES: u64 = 256 * 1024;
/// A direction that has filled the buffer this often in a row (128 KiB) is taken for a stream;
/// below that splice(2) costs more than it saves.
const SPLICE_AFTER: u32 = 2;
/// Reads of one direction before other connections of the thread get a turn.
const MAX_READS: usize = 16;
/// The same limit in bytes, because a pipe moves much more at once than a copy.
const MAX_TURN_BYTES: u64 = (MAX_READS * SCRATCH_BYTES) as u64;

/// What all relays of a data thread share.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) scratch: Box<[u8]>,
    pub(super) pipes: Pipes,
}

impl Tools {
    pub(super) fn new(pipes: Pipes) -> Tools {
        Tools { scratch: vec![0; SCRATCH_BYTES].into(), pipes }
    }
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// Both ends closed their direction, and all bytes were passed on.
    Closed,
    /// One end was reset; so must be the other.
    Reset,
    /// The endpoint was removed, and its drain time-out is over.
    Removed,
}

/// What became of a relay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Progress {
    /// Nothing more can be moved until epoll says so.
    Waits,
    /// It has had its turn and could go on.
    HasMore,
    Over(End),
}

/// One socket, and what is known of it.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) socket: OwnedFd,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer has sent its last byte, or is gone: no further edge will report queued bytes.
    hung_up: bool,
    /// The end of the queued bytes is the end of the stream.
    ended: bool,
    failed: bool,
    /// The connection is over: it was reset, or both directions were closed.
    pub(super) gone: bool,
    /// There may be an urgent byte, at which a read stops short (tcp(7)).
    urgent: bool,
    /// A write failed because of a reset. The kernel reports it once; later reads look like a
    /// normal end of stream.
    reset: bool,
    /// Whether epoll reports when it becomes writable.
    pub(super) watches_writes: bool,
}

impl Side {
    pub(super) fn new(socket: OwnedFd) -> Side {
        let (readable, writable) = (false, false);
        Side {
            socket,
            readable,
            writable,
            hung_up: false,
            ended: false,
            failed: false,
            gone: false,
            urgent: false,
            reset: false,
            watches_writes: false,
        }
    }

    /// Remembers an event.
    pub(super) fn note(&mut self, flags: EventFlags) {
        let gone = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        self.gone |= gone;
        self.hung_up = gone || flags.contains(EventFlags::RDHUP);
        self.readable |= self.hung_up || flags.contains(EventFlags::IN);
        self.writable |= gone || flags.contains(EventFlags::OUT);
        self.failed |= flags.contains(EventFlags::ERR);
        self.urgent |= flags.contains(EventFlags::PRI);
        let ordinary = !self.urgent && !flags.contains(EventFlags::ERR);
        self.ended = ordinary && flags.contains(EventFlags::RDHUP);
    }

    /// Reads into `buffer`; 0 at the end of stream, and with it whether this was the last read.
    ///
    /// # Errors
    ///
    /// `AGAIN` when there is nothing; anything else is a reset.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<(usize, bool), Errno> {
        let room = buffer.len();
        let length = loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((length, _)) => break length,
                Err(Errno::INTR) => {}
                Err(error) => {
                    if error == Errno::AGAIN {
                        (self.readable, self.urgent) = (false, false);
                    }
                    return Err(error);
                }
            }
        };
        let drained = length < room;
        if length == 0 && self.reset {
            return Err(Errno::CONNRESET);
        }
        let last = length == 0 || drained && self.ended && !self.reset;
        // What arrives after a short read is a new edge (epoll(7)), unless it was short for an
        // urgent byte.
        self.readable = self.hung_up || self.urgent || last || !drained;
        Ok((length, last))
    }

    /// Writes as much as the socket takes.
    ///
    /// # Errors
    ///
    /// When the peer takes no more at all.
    pub(super) fn write(&mut self, bytes: &[u8], flags: SendFlags) -> Result<usize, Errno> {
        loop {
            match send(&self.socket, bytes, flags | SendFlags::NOSIGNAL) {
                Ok(length) => {
                    self.writable = length == bytes.len();
                    return Ok(length);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.writable = false;
                    return Ok(0);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Copying,
    /// The source has ended; the unsent rest is still going out.
    Flushing,
    /// Everything but the end of stream has gone out.
    Flushed,
    /// Everything was passed on, including the end of stream.
    Finished,
    /// The receiver takes no more bytes. What it sent before may still be on its way to the source.
    Broken,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Flow {
    stage: Stage,
    /// TCP_NODELAY is set on the receiver's socket.
    prompt: bool,
    has_sent: bool,
    /// Full reads in a row.
    full_reads: u32,
    unsent: Vec<u8>,
    /// How much of `unsent` has been sent.
    sent: usize,
    pipe: Option<Pipe>,
    uncounted: u64,
}

impl Flow {
    /// `prompt`: whether TCP_NODELAY is set on the receiver's socket.
    pub(super) fn new(prompt: bool) -> Flow {
        Flow {
            stage: Stage::Copying,
            prompt,
            has_sent: false,
            full_reads: 0,
            unsent: Vec::new(),
            sent: 0,
            pipe: None,
            uncounted: 0,
        }
    }

    /// What has been read and not yet sent.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.unsent[self.sent..]
    }

    /// Takes over the bytes that were read before there was a receiver; the first `sent` of them
    /// have been sent.
    pub(super) fn begin_with(&mut self, bytes: &[u8], sent: usize) {
        self.has_sent |= sent > 0;
        (self.unsent, self.sent) = (bytes[sent..].to_vec(), 0);
    }

    pub(super) fn count(&mut self, bytes: usize) {
        self.uncounted += bytes as u64;
    }

    /// Whether anything has come this way.
    pub(super) fn has_moved(&self) -> bool {
        self.has_sent || self.uncounted > 0
    }

    #[cfg(test)]
    pub(super) fn uncounted(&self) -> u64 {
        self.uncounted
    }

    fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Finished | Stage::Broken)
    }

    /// Whether something waits for the receiver.
    fn holds_bytes(&self) -> bool {
        !self.unsent().is_empty() || self.pipe.as_ref().is_some_and(|pipe| !pipe.is_empty())
    }

    /// Moves all bytes that can be moved now. Returns whether there may be more.
    ///
    /// # Errors
    ///
    /// When the source was reset: its unsent bytes need not be delivered.
    fn drive(&mut self, from: &mut Side, to: &mut Side, tools: &mut Tools) -> Result<bool, Errno> {
        let before = self.uncounted;
        for _ in 0..MAX_READS {
            if self.uncounted - before >= MAX_TURN_BYTES {
                break;
            }
            if !self.flush(to) {
                return Ok(false);
            }
            if self.stage == Stage::Flushing {
                self.stage = Stage::Flushed;
            }
            if self.stage != Stage::Copying || !from.readable {
                return Ok(false);
            }
            if self.full_reads >= SPLICE_AFTER && self.pipe.is_none() {
                self.pipe = tools.pipes.take();
            }
            if self.pipe.is_some() {
                self.splice_once(from, tools)?;
            } else {
                self.copy_once(from, to, &mut tools.scratch)?;
            }
        }
        Ok(true)
    }

    /// Whether nothing is unsent.
    fn flush(&mut self, to: &mut Side) -> bool {
        while self.holds_bytes() && self.stage != Stage::Broken {
            if !to.writable {
                return false;
            }
            let written = match &mut self.pipe {
                Some(pipe) if !pipe.is_empty() => match pipe.drain(&to.socket) {
                    Err(Errno::AGAIN) => {
                        to.writable = false;
                        Ok(0)
                    }
                    other => other.map(|_| 0),
                },
                _ => to.write(&self.unsent[self.sent..], SendFlags::empty()),
            };
            match written {
                Ok(length) => self.sent += length,
                Err(error) => self.break_off(to, error),
            }
        }
        if !self.unsent.is_empty() {
            (self.unsent, self.sent) = (Vec::new(), 0);
        }
        true
    }

    /// Moves the source's bytes into the pipe, and gives the pipe back when there are none. At an
    /// urgent byte splice(2) reports the end of stream or that nothing is there; only a read gets
    /// past it.
    fn splice_once(&mut self, from: &Side, tools: &mut Tools) -> Result<(), Errno> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        match pipe.fill(&from.socket) {
            Ok(0) | Err(Errno::AGAIN) => self.full_reads = 0,
            Ok(length) => {
                self.count(length);
                return Ok(());
            }
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.pipe.take().into_iter().for_each(|pipe| tools.pipes.put(pipe));
        Ok(())
    }

    /// Reads once and writes what was read.
    fn copy_once(
        &mut self,
        from: &mut Side,
        to: &mut Side,
        scratch: &mut [u8],
    ) -> Result<(), Errno> {
        let (length, last) = match from.read(scratch) {
            Err(Errno::AGAIN) => return Ok(()),
            read => read?,
        };
        if last {
            self.stage = Stage::Flushing;
        }
        if length == 0 {
            return Ok(());
        }
        self.count(length);
        self.full_reads = if length == scratch.len() { self.full_reads + 1 } else { 0 };
        if self.has_sent && !self.prompt {
            // Not from the beginning: the first piece never waits for an earlier acknowledgement,
            // and many connections have only one piece.
            self.prompt = set_tcp_nodelay(&to.socket, true).is_ok();
        }
        // With MORE the end of stream, which follows at once, leaves in the same segment.
        let flags = if last { SendFlags::MORE } else { SendFlags::empty() };
        match to.write(&scratch[..length], flags) {
            Ok(written) => {
                self.has_sent = true;
                if written < length {
                    self.unsent = scratch[written..length].to_vec();
                }
            }
            Err(error) => self.break_off(to, error),
        }
        Ok(())
    }

    /// A write failed: the receiver takes no more.
    fn break_off(&mut self, to: &mut Side, error: Errno) {
        // EPIPE means that the peer was reset after its end of stream: its stream was complete.
        to.reset |= error != Errno::PIPE;
        self.stage = Stage::Broken;
    }

    /// Passes the end of stream on once all bytes have gone out. If the other direction has come
    /// as far, closing the sockets is enough.
    fn pass_end(&mut self, to: &Side, other: Stage) {
        if self.stage != Stage::Flushed {
            return;
        }
        let closes = matches!(other, Stage::Flushed | Stage::Finished);
        let passed = closes || shutdown(&to.socket, Shutdown::Write).is_ok();
        self.stage = if passed { Stage::Finished } else { Stage::Broken };
    }

    fn report(&mut self, counter: &AtomicU64, at_least: u64) {
        if self.uncounted >= at_least {
            add(counter, std::mem::take(&mut self.uncounted));
        }
    }
}

/// Moves all that can be moved now, both ways.
pub(super) fn drive(
    (client, upstream): (&mut Side, &mut Side),
    (up, down): (&mut Flow, &mut Flow),
    tools: &mut Tools,
    meter: &Meter,
) -> Progress {
    // The endpoint's bytes first: it may have answered before it reset.
    let moved = down.drive(upstream, client, tools).and_then(|more| {
        let more_up = up.drive(client, upstream, tools)?;
        Ok(more || more_up)
    });
    let Ok(more) = moved else { return Progress::Over(End::Reset) };
    up.pass_end(upstream, down.stage);
    down.pass_end(client, up.stage);
    up.report(&meter.upstream_bytes, UNCOUNTED_BYTES);
    down.report(&meter.downstream_bytes, UNCOUNTED_BYTES);
    if up.is_over() && down.is_over() {
        let in_order = up.stage == Stage::Finished && down.stage == Stage::Finished;
        return Progress::Over(if in_order { End::Closed } else { End::Reset });
    }
    // A peer that has ended its stream may still be reset, which no read shows.
    if up.is_over() && client.failed || down.is_over() && upstream.failed {
        return Progress::Over(End::Reset);
    }
    if more { Progress::HasMore } else { Progress::Waits }
}

/// Adds the remaining bytes to the counters, and gives pipes back.
pub(super) fn finish((up, down): (&mut Flow, &mut Flow), tools: &mut Tools, meter: &Meter) {
    up.report(&meter.upstream_bytes, 1);
    down.report(&meter.downstream_bytes, 1);
    for pipe in [up.pipe.take(), down.pipe.take()].into_iter().flatten() {
        tools.pipes.put(pipe);
    }
}

/// Whether the socket must be watched until it can be written to.
pub(super) fn waits_to_write(flow: &Flow, to: &Side) -> bool {
    flow.holds_bytes() && !to.writable && !to.watches_writes
}

#[cfg(test)]
mod tests;
