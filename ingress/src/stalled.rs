//! HTTP/2 streams whose clients do not take their responses, and what they hold meanwhile.
//!
//! A client may open as many streams as it likes and take nothing: each then holds its state, a
//! connection to an endpoint, and the pieces of the response that were read already. So what
//! stalled streams hold is counted, and has a limit for the whole process. One stalled stream of
//! each connection is kept in any case and does not count for the limit: a connection with one slow
//! download is no more expensive than over HTTP/1.1, where a connection has one response at a time,
//! and the number of connections has a limit.
//!
//! Beyond the limit, each connection keeps an equal share of it; of its other streams, the one that
//! has stalled for the longest time is reset. Every stream has some patience first, because the
//! streams of a client that reads are blocked for moments too. Only where much is held by streams
//! whose clients have read nothing at all, these streams have none beyond their connection's share.
//! Without that, an attacker could open 10,000 streams, which hold 120 MB, within the patience.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use daemon::LogLimit;

use crate::deadline::{Deadline, Ticks};
use crate::metrics::{Count, Shard};
use crate::responder::Responder;
use crate::settings::STREAM_SEND_BUFFER;

/// What stalled streams of the whole process may hold before some are reset whose patience is over.
const STALLED_BYTES: u64 = 24 << 20;

/// What the streams among them whose clients have read nothing may hold before they are reset
/// without patience. A hundred connections that open a hundred such streams at once hold 54 MiB
/// until the next sweep: 32 MiB, and then of each connection the share that it has when it comes.
const MAX_UNTOUCHED_BYTES: u64 = 32 << 20;

/// What they may hold before any are reset. Clients have to take much before their streams hold
/// this much, and slow links are no attack.
const MAX_STALLED_BYTES: u64 = 256 << 20;

/// What one connection's stalled streams may hold in any case, besides the first.
const LEAST_SHARE: u64 = 64 << 10;

/// What a stalled stream holds besides pieces of its response: the task, the state of the stream in
/// the library, and the endpoint's connection with its buffers.
const STREAM_BYTES: u64 = 6 << 10;

/// How long a client may take nothing of a response that it has begun to take, before the stream
/// may be reset beyond the lower limit: a slow link delays a window update for so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same for a response of which the client has taken nothing yet. A client that reads has to
/// deal with its other streams first, or its socket is full for a moment.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);

static RESETS: LogLimit = LogLimit::new("resets of stalled HTTP/2 streams");

/// An HTTP/2 stream, as its task and its response see it.
#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) deadline: Deadline,
    pub(crate) responder: Responder,
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
    /// Its client has read nothing.
    is_untouched: bool,
    /// Of all pieces, when it stalled.
    total: u64,
    since: u64,
}

impl Counted {
    fn untouched_bytes(self) -> u64 {
        if self.is_untouched { self.bytes } else { 0 }
    }
}

impl StreamState {
    pub(crate) fn new(deadline: Deadline, responder: Responder) -> Rc<StreamState> {
        Rc::new(StreamState {
            deadline,
            responder,
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

    /// Whether at a tick its client has taken nothing for longer than the patience.
    fn is_idle(&self, now: u64) -> bool {
        let Some(counted) = self.counted.get() else { return false };
        let patience = if counted.is_untouched { FIRST_PATIENCE } else { PATIENCE };
        Ticks::from(patience).have_passed(counted.since, now)
    }

    fn is_untouched(&self) -> bool {
        self.counted.get().is_some_and(|counted| counted.is_untouched)
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
        self.sum(|shard| &shard.stalled_excess) > STALLED_BYTES
    }
}

/// The stalled streams of one connection.
#[derive(Debug, Default)]
pub(crate) struct StalledStreams {
    /// The one that stalled first is first.
    list: RefCell<Vec<Rc<StreamState>>>,
    /// What all of them hold.
    bytes: Cell<u64>,
    /// What those hold whose client has read nothing.
    untouched: Cell<u64>,
    /// What is counted for the limits.
    excess: Cell<Excess>,
    /// The client's socket is full.
    is_blocked: Cell<bool>,
    /// The worker looks at it from time to time.
    is_watched: Cell<bool>,
}

/// What the stalled streams of a connection hold besides the first.
#[derive(Clone, Copy, Debug, Default)]
struct Excess {
    bytes: u64,
    untouched: u64,
}

impl StalledStreams {
    pub(crate) fn set_blocked(&self, is_blocked: bool) {
        self.is_blocked.set(is_blocked);
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }

    /// A stream has gone on as far as it could, and has not ended. If it waits for its client, it
    /// is counted, and streams that are too many are reset.
    pub(crate) fn on_pending(&self, stream: &Rc<StreamState>, tally: Tally<'_>) {
        let progress = stream.progress.get();
        match stream.counted.get() {
            None if !progress.waits_for_client => return,
            Some(counted) if progress.waits_for_client && counted.total == progress.total => return,
            _ => self.remove(stream, tally.own),
        }
        if progress.waits_for_client {
            self.add(stream, tally);
            self.make_room(tally);
        }
    }

    fn add(&self, stream: &Rc<StreamState>, tally: Tally<'_>) {
        let Progress { total, before, .. } = stream.progress.get();
        let bytes = stream.held(self.is_blocked());
        let counted = Counted { bytes, is_untouched: before == 0, total, since: tally.now };
        stream.counted.set(Some(counted));
        self.list.borrow_mut().push(stream.clone());
        tally.own.stalled_bytes.add(bytes);
        self.bytes.set(self.bytes.get() + bytes);
        self.untouched.set(self.untouched.get() + counted.untouched_bytes());
        self.count_excess(tally.own);
    }

    /// A stream has ended, or goes on.
    pub(crate) fn remove(&self, stream: &Rc<StreamState>, own: &Shard) {
        let Some(counted) = stream.counted.take() else { return };
        self.list.borrow_mut().retain(|other| !Rc::ptr_eq(other, stream));
        own.stalled_bytes.subtract(counted.bytes);
        self.bytes.set(self.bytes.get() - counted.bytes);
        self.untouched.set(self.untouched.get() - counted.untouched_bytes());
        self.count_excess(own);
    }

    /// Counts again what streams hold: the socket may have become full since they stalled.
    fn count_again(&self, own: &Shard) {
        for stream in self.list.borrow().iter() {
            let Some(before) = stream.counted.get() else { continue };
            let counted = Counted { bytes: stream.held(self.is_blocked()), ..before };
            stream.counted.set(Some(counted));
            own.stalled_bytes.add(counted.bytes);
            own.stalled_bytes.subtract(before.bytes);
            self.bytes.set(self.bytes.get() + counted.bytes - before.bytes);
            let untouched = self.untouched.get() + counted.untouched_bytes();
            self.untouched.set(untouched - before.untouched_bytes());
        }
        self.count_excess(own);
    }

    /// After every change of the list.
    fn count_excess(&self, own: &Shard) {
        let first = self.list.borrow().first().and_then(|stream| stream.counted.get());
        let next = Excess {
            bytes: self.bytes.get() - first.map_or(0, |first| first.bytes),
            untouched: self.untouched.get() - first.map_or(0, Counted::untouched_bytes),
        };
        let before = self.excess.replace(next);
        own.stalled_excess.add(next.bytes.wrapping_sub(before.bytes));
        own.stalled_untouched.add(next.untouched.wrapping_sub(before.untouched));
        own.stalled_connections.add(u64::from(next.bytes > 0));
        own.stalled_connections.subtract(u64::from(before.bytes > 0));
    }

    /// Resets the streams that have stalled for the longest time, if this connection has more than
    /// its share of too much.
    pub(crate) fn make_room(&self, tally: Tally<'_>) {
        if !tally.is_over() {
            return;
        }
        let connections = tally.sum(|shard| &shard.stalled_connections).max(1);
        let share = (STALLED_BYTES / connections).max(LEAST_SHARE);
        while self.excess.get().bytes > share {
            let Some(oldest) = self.oldest_to_reset(share, tally) else { return };
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

    fn oldest_to_reset(&self, share: u64, tally: Tally<'_>) -> Option<Rc<StreamState>> {
        let is_full = tally.sum(|shard| &shard.stalled_excess) > MAX_STALLED_BYTES;
        let is_flooded = tally.sum(|shard| &shard.stalled_untouched) > MAX_UNTOUCHED_BYTES
            && self.excess.get().untouched > share;
        let may_be_reset = |stream: &&Rc<StreamState>| {
            is_full || stream.is_idle(tally.now) || (is_flooded && stream.is_untouched())
        };
        self.list.borrow().iter().find(may_be_reset).cloned()
    }

    /// Whether the worker has to begin to look at it from time to time.
    pub(crate) fn is_to_be_watched(&self) -> bool {
        !self.list.borrow().is_empty() && !self.is_watched.replace(true)
    }

    /// Makes room, and says whether the worker has to look at it again.
    pub(crate) fn watch(&self, tally: Tally<'_>) -> bool {
        self.count_again(tally.own);
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

        fn excess(&self) -> u64 {
            self.shards[0].stalled_excess.value()
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
                let stream = StreamState::new(self.deadlines.add(), Responder::default());
                pieces.iter().for_each(|bytes| stream.handed_over(*bytes));
                connection.on_pending(&stream, self.tally(now));
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
        assert!(held() < 56 << 20, "{}", held());
        let last = streams.last().unwrap();
        let were_reset = reset(last);
        assert!((1..100).contains(&were_reset));
        assert_eq!(reset(&last[..were_reset]), were_reset, "the oldest are reset first");
        assert!(connections.iter().all(|connection| connection.watch(worker.tally(10))));
        assert!(worker.excess() <= STALLED_BYTES, "{}", worker.excess());
        assert_eq!(reset(&alone), 0, "a connection keeps one stream");
        for (connection, streams) in connections.iter().zip(&streams) {
            streams.iter().for_each(|stream| connection.remove(stream, &worker.shards[0]));
        }
        small.remove(&alone[0], &worker.shards[0]);
        let shard = &worker.shards[0];
        for count in [
            &shard.stalled_bytes,
            &shard.stalled_excess,
            &shard.stalled_untouched,
            &shard.stalled_connections,
        ] {
            assert_eq!(count.value(), 0);
        }
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
        connection.on_pending(&streams[0], worker.tally(19));
        assert!(connection.watch(worker.tally(30)));
        assert_eq!(reset(&streams[..1]), 0);
        assert!(reset(&streams) > 0);
        assert!(worker.excess() <= STALLED_BYTES);
    }

    #[test]
    fn no_stalled_streams_hold_more_than_the_upper_limit() {
        let worker = Worker::new();
        let connection = StalledStreams::default();
        let count = of_bytes(2 * MAX_STALLED_BYTES, 2 * 65_536);
        let streams = worker.stall(&connection, count, &[65_536, 65_536], 0);
        assert!(reset(&streams) > 0);
        assert!(worker.excess() <= MAX_STALLED_BYTES);
    }

    #[test]
    fn the_limit_is_one_for_all_workers() {
        let worker = Worker::new();
        worker.shards[1].stalled_excess.add(MAX_UNTOUCHED_BYTES);
        worker.shards[1].stalled_untouched.add(MAX_UNTOUCHED_BYTES);
        worker.shards[1].stalled_connections.add(10_000);
        let connection = StalledStreams::default();
        let streams = worker.stall(&connection, 100, &[2000], 0);
        assert!(reset(&streams) > 0);
        assert!(connection.excess.get().bytes <= LEAST_SHARE);
    }

    /// The downloads of 300 clients used up the limit, and a client that read all it got beside
    /// them lost most of its streams.
    #[test]
    fn one_slow_download_of_each_client_costs_no_other_client_a_stream() {
        let worker = Worker::new();
        let slow: Vec<_> = (0..300).map(|_| StalledStreams::default()).collect();
        let downloads: Vec<_> =
            slow.iter().flat_map(|c| worker.stall(c, 1, &[65_536, 65_536], 0)).collect();
        assert!(worker.shards[0].stalled_bytes.value() > STALLED_BYTES);
        let fast = StalledStreams::default();
        let streams = worker.stall(&fast, 10, &[65_536, 65_536], 50);
        assert!(slow.iter().chain([&fast]).all(|connection| connection.watch(worker.tally(100))));
        assert_eq!((reset(&downloads), reset(&streams)), (0, 0));
    }

    /// Streams were reset at once whose clients had read nothing yet.
    #[test]
    fn new_streams_that_are_blocked_for_a_moment_are_not_reset() {
        let worker = Worker::new();
        let slow: Vec<_> = (0..300).map(|_| StalledStreams::default()).collect();
        let _downloads: Vec<_> =
            slow.iter().map(|c| worker.stall(c, 4, &[65_536, 65_536], 0)).collect();
        assert!(worker.tally(0).is_over());
        let fast = StalledStreams::default();
        let streams = worker.stall(&fast, 20, &[65_536], 0);
        assert!(fast.watch(worker.tally(5)));
        assert_eq!(reset(&streams), 0);
        assert!(fast.watch(worker.tally(6)));
        assert!(reset(&streams) > 0);
    }

    #[test]
    fn during_a_flood_streams_of_a_client_that_reads_still_have_patience() {
        let worker = Worker::new();
        let flood: Vec<_> = (0..100).map(|_| StalledStreams::default()).collect();
        let flooding: Vec<_> = flood.iter().map(|c| worker.stall(c, 100, &[2000], 0)).collect();
        assert!(reset(&flooding[99]) > 0);
        let fast = StalledStreams::default();
        let mut streams = worker.stall(&fast, 5, &[65_536, 65_536], 0);
        streams.extend(worker.stall(&fast, 3, &[65_536], 0));
        assert!(fast.watch(worker.tally(5)));
        assert_eq!(reset(&streams), 0);
    }

    #[test]
    fn what_streams_hold_is_counted_again_when_the_socket_becomes_full() {
        let worker = Worker::new();
        let connection = StalledStreams::default();
        let streams = worker.stall(&connection, 2, &[20_000; 10], 0);
        let held = || worker.shards[0].stalled_bytes.value();
        assert_eq!(held(), 2 * streams[0].held(false));
        connection.set_blocked(true);
        assert!(connection.watch(worker.tally(10)));
        assert_eq!(held(), 2 * streams[0].held(true));
        assert_eq!(worker.excess(), streams[0].held(true));
        streams.iter().for_each(|stream| connection.remove(stream, &worker.shards[0]));
        assert_eq!((held(), worker.excess()), (0, 0));
    }

    /// The library buffers what the window lets through and the socket does not take.
    #[test]
    fn what_a_full_socket_leaves_in_the_buffer_is_counted() {
        let stream = StreamState::new(Deadlines::new(Instant::now()).add(), Responder::default());
        (0..10).for_each(|_| stream.handed_over(20_000));
        assert_eq!(stream.held(false), STREAM_BYTES + 40_000);
        assert_eq!(stream.held(true), STREAM_BYTES + 20_000 + STREAM_SEND_BUFFER as u64);
    }
}
