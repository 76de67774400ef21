//! HTTP/2 streams whose clients do not take their responses, and what they hold meanwhile.
//!
//! A client may open as many streams as it likes and take nothing: each then holds its state, a
//! connection to an endpoint, and the pieces of the response that were read already. So what
//! stalled streams hold is counted, and has a limit for the whole process. Beyond it, each
//! connection keeps an equal share of the limit and at least one stream; of its other streams, the
//! one that has stalled for the longest time is reset. So a client with many stalled streams makes
//! room, and one with a slow download is left alone. HTTP/1.1 does not need this: a connection has
//! one response at a time, and the number of connections has a limit.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use daemon::LogLimit;

use crate::context::WorkerContext;
use crate::deadline::{Deadline, Ticks};
use crate::metrics::Shard;
use crate::settings::STREAM_SEND_BUFFER;

/// What stalled streams of the whole process may hold before some are reset: those whose clients
/// have taken nothing, or nothing for long.
pub(crate) const STALLED_BYTES: u64 = 32 << 20;

/// What they may hold before any are reset.
const MAX_STALLED_BYTES: u64 = 64 << 20;

/// What one connection's stalled streams may hold in any case.
const LEAST_SHARE: u64 = 64 << 10;

/// What a stalled stream holds besides pieces of its response: the task, the state of the stream in
/// the library, and the endpoint's connection with its buffers.
const STREAM_BYTES: u64 = 5 << 10;

/// How long a client may take nothing of a response that it has begun to take, before the stream
/// may be reset beyond the lower limit: a slow link delays a window update for so long.
const PATIENCE: Duration = Duration::from_secs(2);

static RESETS: LogLimit = LogLimit::new("resets of stalled HTTP/2 streams");

/// An HTTP/2 stream, as its task and its response see it.
#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) deadline: Deadline,
    progress: Cell<Progress>,
    /// What it was counted with, and since when, while it is in the list of its connection.
    counted: Cell<Option<Counted>>,
}

/// What was handed over of a stream's response, to be sent.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// A piece of it was the last thing that happened: the client has to take it.
    waits_for_client: bool,
    /// The bytes of all pieces, of the last, and of the one before. The last waits for room in the
    /// window; of the one before, all but the first byte may do so too.
    total: u64,
    last: u64,
    before: u64,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    bytes: u64,
    /// Of all pieces, when it stalled.
    total: u64,
    since: u64,
}

impl StreamState {
    pub(crate) fn new(deadline: Deadline) -> Rc<StreamState> {
        let (progress, counted) = (Cell::default(), Cell::default());
        Rc::new(StreamState { deadline, progress, counted })
    }

    /// A piece of the response was handed over, to be sent.
    pub(crate) fn handed_over(&self, bytes: usize) {
        let (bytes, Progress { total, last, .. }) = (bytes as u64, self.progress.get());
        let total = total + bytes;
        self.progress.set(Progress { waits_for_client: true, total, last: bytes, before: last });
    }

    /// All that was handed over has been sent, and nothing more is there.
    pub(crate) fn waits_for_endpoint(&self) {
        self.progress.set(Progress { waits_for_client: false, ..self.progress.get() });
    }

    /// What it holds. The library buffers more where the client's window is open but its socket
    /// takes nothing.
    fn held(&self, is_blocked: bool) -> u64 {
        let Progress { total, last, before, .. } = self.progress.get();
        let sent = if is_blocked { total.min(STREAM_SEND_BUFFER as u64) } else { before };
        STREAM_BYTES + last + sent
    }

    /// Whether at a tick its client has taken nothing at all, or nothing for long.
    fn is_idle(&self, now: u64) -> bool {
        let since = self.counted.get().map_or(now, |counted| counted.since);
        self.progress.get().before == 0 || Ticks::from(PATIENCE).have_passed(since, now)
    }
}

/// The stalled streams of one connection.
#[derive(Debug, Default)]
pub(crate) struct StalledStreams {
    /// The one that stalled first is first.
    list: RefCell<Vec<Rc<StreamState>>>,
    bytes: Cell<u64>,
}

impl StalledStreams {
    /// A stream has gone on as far as it could, and has not ended. If it waits for its client, it is
    /// counted, and streams that are too many are reset.
    pub(crate) fn on_pending(
        &self,
        stream: &Rc<StreamState>,
        is_blocked: bool,
        context: &WorkerContext,
    ) {
        let progress = stream.progress.get();
        match stream.counted.get() {
            None if !progress.waits_for_client => return,
            Some(counted) if progress.waits_for_client && counted.total == progress.total => return,
            _ => self.remove(stream, context.shard()),
        }
        if progress.waits_for_client {
            self.add(stream, is_blocked, context);
            self.make_room(context);
        }
    }

    fn add(&self, stream: &Rc<StreamState>, is_blocked: bool, context: &WorkerContext) {
        let (shard, since) = (context.shard(), context.deadlines.now());
        let (bytes, total) = (stream.held(is_blocked), stream.progress.get().total);
        stream.counted.set(Some(Counted { bytes, total, since }));
        let mut list = self.list.borrow_mut();
        shard.stalled_connections.add(u64::from(list.is_empty()));
        list.push(stream.clone());
        shard.stalled_bytes.add(bytes);
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// A stream has ended, or goes on.
    pub(crate) fn remove(&self, stream: &Rc<StreamState>, shard: &Shard) {
        let Some(counted) = stream.counted.take() else { return };
        let mut list = self.list.borrow_mut();
        list.retain(|other| !Rc::ptr_eq(other, stream));
        shard.stalled_connections.subtract(u64::from(list.is_empty()));
        shard.stalled_bytes.subtract(counted.bytes);
        self.bytes.set(self.bytes.get() - counted.bytes);
    }

    /// Resets the streams that have stalled for the longest time, if this connection has more than
    /// its share of too much.
    fn make_room(&self, context: &WorkerContext) {
        let (metrics, shard, now) =
            (&context.shared.metrics, context.shard(), context.deadlines.now());
        let total = metrics.sum(|shard| &shard.stalled_bytes);
        if total <= STALLED_BYTES {
            return;
        }
        let connections = metrics.sum(|shard| &shard.stalled_connections).max(1);
        let share = (STALLED_BYTES / connections).max(LEAST_SHARE);
        let may_be_reset = |s: &&Rc<StreamState>| total > MAX_STALLED_BYTES || s.is_idle(now);
        while self.bytes.get() > share && self.list.borrow().len() > 1 {
            let oldest = self.list.borrow().iter().find(may_be_reset).cloned();
            let Some(oldest) = oldest else { return };
            self.remove(&oldest, shard);
            shard.stalled_resets.add(1);
            oldest.deadline.kill();
            if RESETS.admits() {
                tracing::warn!(
                    limit_bytes = STALLED_BYTES,
                    "HTTP/2 streams whose clients do not take their responses hold too much \
                     memory: resetting the oldest"
                );
            }
        }
    }
}
