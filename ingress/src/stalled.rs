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

use crate::deadline::{Deadline, Ticks};
use crate::metrics::{Count, Shard};
use crate::settings::STREAM_SEND_BUFFER;

/// What stalled streams of the whole process may hold before some are reset: those whose clients
/// have taken nothing, or nothing for long.
const STALLED_BYTES: u64 = 24 << 20;

/// What they may hold before any are reset. Clients have to take much before their streams hold
/// this much, and slow links are no attack.
const MAX_STALLED_BYTES: u64 = 256 << 20;

/// What one connection's stalled streams may hold in any case.
const LEAST_SHARE: u64 = 64 << 10;

/// What a stalled stream holds besides pieces of its response: the task, the state of the stream in
/// the library, and the endpoint's connection with its buffers.
const STREAM_BYTES: u64 = 6 << 10;

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
    made_room: Cell<bool>,
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
        Rc::new(StreamState {
            deadline,
            progress: Cell::default(),
            counted: Cell::default(),
            made_room: Cell::default(),
        })
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

    /// It was reset to make room for others, and not because its time was over.
    pub(crate) fn made_room(&self) -> bool {
        self.made_room.get()
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

/// What is counted over all connections: in a shard for each worker, which only that worker writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally<'a> {
    pub(crate) shards: &'a [Shard],
    /// The shard of this worker.
    pub(crate) own: &'a Shard,
    /// The present tick.
    pub(crate) now: u64,
}

impl Tally<'_> {
    fn sum(self, count: impl Fn(&Shard) -> &Count) -> u64 {
        Count::sum(self.shards.iter().map(count))
    }

    /// Whether stalled streams hold too much.
    pub(crate) fn is_over(self) -> bool {
        self.sum(|shard| &shard.stalled_bytes) > STALLED_BYTES
    }
}

/// The stalled streams of one connection.
#[derive(Debug, Default)]
pub(crate) struct StalledStreams {
    /// The one that stalled first is first.
    list: RefCell<Vec<Rc<StreamState>>>,
    bytes: Cell<u64>,
    /// The worker looks at it from time to time.
    is_watched: Cell<bool>,
}

impl StalledStreams {
    /// A stream has gone on as far as it could, and has not ended. If it waits for its client, it
    /// is counted, and streams that are too many are reset.
    pub(crate) fn on_pending(&self, stream: &Rc<StreamState>, is_blocked: bool, tally: Tally<'_>) {
        let progress = stream.progress.get();
        match stream.counted.get() {
            None if !progress.waits_for_client => return,
            Some(counted) if progress.waits_for_client && counted.total == progress.total => return,
            _ => self.remove(stream, tally.own),
        }
        if progress.waits_for_client {
            self.add(stream, is_blocked, tally);
            self.make_room(tally);
        }
    }

    fn add(&self, stream: &Rc<StreamState>, is_blocked: bool, tally: Tally<'_>) {
        let (bytes, total) = (stream.held(is_blocked), stream.progress.get().total);
        stream.counted.set(Some(Counted { bytes, total, since: tally.now }));
        let mut list = self.list.borrow_mut();
        tally.own.stalled_connections.add(u64::from(list.is_empty()));
        list.push(stream.clone());
        tally.own.stalled_bytes.add(bytes);
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// A stream has ended, or goes on.
    pub(crate) fn remove(&self, stream: &Rc<StreamState>, own: &Shard) {
        let Some(counted) = stream.counted.take() else { return };
        let mut list = self.list.borrow_mut();
        list.retain(|other| !Rc::ptr_eq(other, stream));
        own.stalled_connections.subtract(u64::from(list.is_empty()));
        own.stalled_bytes.subtract(counted.bytes);
        self.bytes.set(self.bytes.get() - counted.bytes);
    }

    /// Resets the streams that have stalled for the longest time, if this connection has more than
    /// its share of too much.
    pub(crate) fn make_room(&self, tally: Tally<'_>) {
        if !tally.is_over() {
            return;
        }
        let is_full = tally.sum(|shard| &shard.stalled_bytes) > MAX_STALLED_BYTES;
        let connections = tally.sum(|shard| &shard.stalled_connections).max(1);
        let share = (STALLED_BYTES / connections).max(LEAST_SHARE);
        let may_be_reset = |stream: &&Rc<StreamState>| is_full || stream.is_idle(tally.now);
        while self.bytes.get() > share && self.list.borrow().len() > 1 {
            let oldest = self.list.borrow().iter().find(may_be_reset).cloned();
            let Some(oldest) = oldest else { return };
            self.remove(&oldest, tally.own);
            tally.own.stalled_resets.add(1);
            oldest.made_room.set(true);
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

    /// Whether the worker has to begin to look at it from time to time.
    pub(crate) fn is_to_be_watched(&self) -> bool {
        !self.list.borrow().is_empty() && !self.is_watched.replace(true)
    }

    /// Makes room, and says whether the worker has to look at it again.
    pub(crate) fn watch(&self, tally: Tally<'_>) -> bool {
        self.make_room(tally);
        self.is_watched.set(!self.list.borrow().is_empty());
        self.is_watched.get()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};
    use std::time::Instant;

    use super::*;
    use crate::deadline::Deadlines;

    struct Worker {
        deadlines: Rc<Deadlines>,
        shards: [Shard; 2],
    }

    impl Worker {
        fn new() -> Worker {
            Worker { deadlines: Deadlines::new(Instant::now()), shards: Default::default() }
        }

        fn tally(&self, now: u64) -> Tally<'_> {
            Tally { shards: &self.shards, own: &self.shards[0], now }
        }

        /// Streams that stalled at a tick, each after these pieces.
        fn stall(
            &self,
            connection: &StalledStreams,
            count: u64,
            pieces: &[usize],
            now: u64,
        ) -> Vec<Rc<StreamState>> {
            let stream = |_| {
                let stream = StreamState::new(self.deadlines.add());
                pieces.iter().for_each(|bytes| stream.handed_over(*bytes));
                connection.on_pending(&stream, false, self.tally(now));
                stream
            };
            (0..count).map(stream).collect()
        }
    }

    fn reset(streams: &[Rc<StreamState>]) -> usize {
        let cx = Context::from_waker(Waker::noop());
        streams.iter().filter(|stream| stream.deadline.poll_killed(&cx)).count()
    }

    /// As many streams as would hold this.
    fn of_bytes(bytes: u64, each: u64) -> u64 {
        bytes / (STREAM_BYTES + each) + 1
    }

    /// Ten thousand streams that took nothing held 117 MB.
    #[test]
    fn streams_that_take_nothing_are_reset_beyond_the_limit_and_the_oldest_first() {
        let worker = Worker::new();
        let connections: Vec<_> = (0..100).map(|_| StalledStreams::default()).collect();
        let small = StalledStreams::default();
        let alone = worker.stall(&small, 1, &[2000], 0);
        let streams: Vec<_> =
            connections.iter().map(|c| worker.stall(c, 100, &[2000], 0)).collect();
        let held = || worker.shards[0].stalled_bytes.value();
        // Each has its share of the moment at which it came, which is less and less.
        assert!(held() < 3 * STALLED_BYTES, "{}", held());
        let last = streams.last().unwrap();
        let were_reset = reset(last);
        assert!((1..100).contains(&were_reset));
        assert_eq!(reset(&last[..were_reset]), were_reset, "the oldest are reset first");
        assert!(connections.iter().all(|connection| connection.watch(worker.tally(10))));
        assert!(held() <= STALLED_BYTES, "{}", held());
        assert_eq!(reset(&alone), 0, "a connection keeps one stream");
        for (connection, streams) in connections.iter().zip(&streams) {
            streams.iter().for_each(|stream| connection.remove(stream, &worker.shards[0]));
        }
        small.remove(&alone[0], &worker.shards[0]);
        assert_eq!(held(), 0);
        assert_eq!(worker.shards[0].stalled_connections.value(), 0);
    }

    #[test]
    fn slow_downloads_are_left_alone_for_a_while() {
        let worker = Worker::new();
        let connection = StalledStreams::default();
        let count = of_bytes(2 * STALLED_BYTES, 2 * 65_536);
        let streams = worker.stall(&connection, count, &[65_536, 65_536], 0);
        assert!(connection.watch(worker.tally(19)));
        assert_eq!(reset(&streams), 0);
        // One goes on: it has its time again.
        streams[0].handed_over(65_536);
        connection.on_pending(&streams[0], false, worker.tally(19));
        assert!(connection.watch(worker.tally(30)));
        assert_eq!(reset(&streams[..1]), 0);
        assert!(reset(&streams) > 0);
        assert!(worker.shards[0].stalled_bytes.value() <= STALLED_BYTES);
    }

    #[test]
    fn no_stalled_streams_hold_more_than_the_upper_limit() {
        let worker = Worker::new();
        let connection = StalledStreams::default();
        let count = of_bytes(2 * MAX_STALLED_BYTES, 2 * 65_536);
        let streams = worker.stall(&connection, count, &[65_536, 65_536], 0);
        assert!(reset(&streams) > 0);
        assert!(worker.shards[0].stalled_bytes.value() <= MAX_STALLED_BYTES);
    }

    #[test]
    fn the_limit_is_one_for_all_workers() {
        let worker = Worker::new();
        worker.shards[1].stalled_bytes.add(STALLED_BYTES);
        worker.shards[1].stalled_connections.add(10_000);
        let connection = StalledStreams::default();
        let streams = worker.stall(&connection, 100, &[2000], 0);
        assert!(reset(&streams) > 0);
        assert!(connection.bytes.get() <= LEAST_SHARE);
    }

    /// The library buffers what the window lets through and the socket does not take.
    #[test]
    fn what_a_full_socket_leaves_in_the_buffer_is_counted() {
        let stream = StreamState::new(Deadlines::new(Instant::now()).add());
        (0..10).for_each(|_| stream.handed_over(20_000));
        assert_eq!(stream.held(false), STREAM_BYTES + 40_000);
        assert_eq!(stream.held(true), STREAM_BYTES + 20_000 + STREAM_SEND_BUFFER as u64);
    }
}
