//! When what several watches told may be applied: changes that belong together come on one
//! stream a kind, and a consumer is to see all of them or none.
//!
//! Our feed ends each batch with a bookmark of the same version on every stream: what all streams
//! have passed is applied, at once. A real apiserver says nothing of the kind. There a short quiet
//! is taken for the end of what belongs together. After a pause, changes that break nothing by
//! themselves ([`Manner::Alone`]) are applied at once: new endpoints are served without delay, and
//! what is taken away, or leads elsewhere, waits until all that it may depend on has come. What
//! follows close behind is gathered. Pure; generic over the events.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::version::Version;

/// A batch of our feed reaches all streams within milliseconds. One that is still not complete
/// after this (a stream broke meanwhile) is applied as far as it came. A stream that told nothing
/// for as long (its kind is refused) is waited for no more: else each batch would be this late.
const HOLD: Duration = Duration::from_secs(1);
/// What a controller writes for one change reaches a watch within this.
const QUIET: Duration = Duration::from_millis(20);
/// The same for the first changes after a pause that stand alone: what was written before them and
/// comes on another stream of the connection arrives within this.
const SETTLE: Duration = Duration::from_millis(2);
/// Where it is never quiet, changes are applied this late at most.
const MOST: Duration = Duration::from_millis(100);

/// Events that are ready to be applied together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch<E> {
    pub(crate) events: Vec<E>,
    /// When the oldest of them came.
    pub(crate) received: Instant,
}

/// What a change means for those that follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It breaks nothing if it is applied before all others. The number names the object, so that a
    /// change does not overtake an earlier one of its object; it may be a hash.
    Alone(u64),
    /// It is applied with the others. The number is the object's.
    Gathered(u64),
    /// Nothing that follows on its stream may be applied before it: the end of a list.
    Barrier,
}

#[derive(Debug)]
pub(crate) struct Cuts<E> {
    streams: Vec<Stream<E>>,
    /// When an event last came, be it taken already.
    came: Option<Instant>,
    /// When events were last taken.
    taken: Option<Instant>,
}

#[derive(Debug)]
struct Stream<E> {
    waiting: VecDeque<Waiting<E>>,
    /// The server is our feed: its bookmarks cut.
    is_ours: bool,
    /// All changes up to this version were told.
    told: u64,
    /// Since when the stream tells nothing, if it does not.
    lost: Option<Instant>,
}

#[derive(Debug)]
struct Waiting<E> {
    version: u64,
    came: Instant,
    manner: Manner,
    event: E,
}

impl<E> Cuts<E> {
    pub(crate) fn new(streams: usize) -> Cuts<E> {
        let stream = |_| Stream { waiting: VecDeque::new(), is_ours: true, told: 0, lost: None };
        Cuts { streams: (0..streams).map(stream).collect(), came: None, taken: None }
    }

    pub(crate) fn set_ours(&mut self, stream: usize, is_ours: bool) {
        self.streams[stream].is_ours = is_ours;
    }

    /// A change came.
    pub(crate) fn push(
        &mut self,
        stream: usize,
        version: &Version,
        event: E,
        manner: Manner,
        now: Instant,
    ) {
        let version = version.number().unwrap_or_default();
        let waiting = Waiting { version, came: now, manner, event };
        self.came = self.came.max(Some(now));
        self.streams[stream].waiting.push_back(waiting);
    }

    /// A bookmark, or the end of a list: all changes up to that version were told.
    pub(crate) fn told(&mut self, stream: usize, version: &Version) {
        self.streams[stream].told = version.number().unwrap_or_default();
    }

    /// The stream tells nothing for now.
    pub(crate) fn lost(&mut self, stream: usize, now: Instant) {
        self.streams[stream].lost.get_or_insert(now);
    }

    /// The stream tells again.
    pub(crate) fn found(&mut self, stream: usize) {
        self.streams[stream].lost = None;
    }

    /// When the events that wait now are ready, unless more is told before.
    pub(crate) fn due(&self) -> Option<Instant> {
        let first = self.first()?;
        if !self.is_ours() {
            let quiet = self.quiet(first);
            return Some(self.settled().map_or(quiet, |settled| settled.min(quiet)));
        }
        if self.is_passed(self.cut(first)) {
            return Some(first);
        }
        // The last of the lost streams may leave before the oldest event was held for long.
        let hold = first + HOLD;
        let left = self.streams.iter().filter_map(|stream| stream.lost).map(|lost| lost + HOLD);
        let left = left.max().filter(|left| *left < hold && self.is_passed(self.cut(*left)));
        Some(left.map_or(hold, |left| left.max(first)))
    }

    /// The events that are ready.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Batch<E>> {
        let due = self.due()?;
        if now < due {
            return None;
        }
        let first = self.first()?;
        if !self.is_ours() && now < self.quiet(first) {
            return Some(self.take_alone(now));
        }
        self.taken = Some(now);
        let cut = if self.is_ours() && now < first + HOLD { self.cut(now) } else { u64::MAX };
        let mut events = Vec::new();
        let mut received = now;
        for stream in &mut self.streams {
            while stream.waiting.front().is_some_and(|waiting| waiting.version <= cut) {
                let Some(waiting) = stream.waiting.pop_front() else { break };
                received = received.min(waiting.came);
                events.push(waiting.event);
            }
        }
        Some(Batch { events, received })
    }

    /// All events, ready or not.
    pub(crate) fn take_all(&mut self, now: Instant) -> Option<Batch<E>> {
        let received = self.first()?.min(now);
        self.taken = Some(now);
        let events = self.streams.iter_mut().flat_map(|stream| stream.waiting.drain(..));
        Some(Batch { events: events.map(|waiting| waiting.event).collect(), received })
    }

    /// All events of one stream, ready or not.
    pub(crate) fn take_stream(&mut self, stream: usize) -> Vec<E> {
        self.streams[stream].waiting.drain(..).map(|waiting| waiting.event).collect()
    }

    /// When a foreign server has been quiet for long enough to apply all that waits, of which the
    /// oldest came at `first`.
    fn quiet(&self, first: Instant) -> Instant {
        (self.came.unwrap_or(first) + QUIET).min(first + MOST)
    }

    /// When what stands alone may be applied, if the first of it came after a pause.
    fn settled(&self) -> Option<Instant> {
        let alone = self.streams.iter().flat_map(|stream| stream.alone());
        let came = alone.map(|place| place.came);
        let (first, last) = came.fold(None, |span: Option<(Instant, Instant)>, came| {
            let (first, last) = span.unwrap_or((came, came));
            Some((first.min(came), last.max(came)))
        })?;
        let after_pause = self.taken.is_none_or(|taken| first >= taken + QUIET);
        after_pause.then(|| (last + SETTLE).min(first + QUIET))
    }

    /// The events that stand alone; the others go on waiting.
    fn take_alone(&mut self, now: Instant) -> Batch<E> {
        self.taken = Some(now);
        let mut batch = Batch { events: Vec::new(), received: now };
        for stream in &mut self.streams {
            let alone: HashSet<usize> = stream.alone().map(|place| place.index).collect();
            if alone.is_empty() {
                continue;
            }
            let waiting = std::mem::take(&mut stream.waiting);
            for (index, waiting) in waiting.into_iter().enumerate() {
                if alone.contains(&index) {
                    batch.received = batch.received.min(waiting.came);
                    batch.events.push(waiting.event);
                } else {
                    stream.waiting.push_back(waiting);
                }
            }
        }
        batch
    }

    /// When the oldest event that waits came.
    fn first(&self) -> Option<Instant> {
        self.streams.iter().filter_map(|s| s.waiting.front()).map(|w| w.came).min()
    }

    fn is_ours(&self) -> bool {
        self.streams.iter().all(|stream| stream.is_ours)
    }

    /// What every stream has passed, but for those that were lost for too long.
    fn cut(&self, now: Instant) -> u64 {
        let tells = |stream: &&Stream<E>| stream.lost.is_none_or(|lost| now < lost + HOLD);
        self.streams.iter().filter(tells).map(|stream| stream.told).min().unwrap_or_default()
    }

    /// Whether an event that waits is within the cut.
    fn is_passed(&self, cut: u64) -> bool {
        let mut first = self.streams.iter().filter_map(|stream| stream.waiting.front());
        first.any(|waiting| waiting.version <= cut)
    }
}

/// An event that waits.
struct Place {
    index: usize,
    came: Instant,
}

impl<E> Stream<E> {
    /// The events that may be applied before all others of the stream.
    fn alone(&self) -> impl Iterator<Item = Place> + '_ {
        let mut held = HashSet::new();
        let before = self.waiting.iter().take_while(|one| one.manner != Manner::Barrier);
        before.enumerate().filter_map(move |(index, waiting)| {
            let (object, is_alone) = match waiting.manner {
                Manner::Alone(object) => (object, true),
                Manner::Gathered(object) => (object, false),
                Manner::Barrier => return None,
            };
            if is_alone && !held.contains(&object) {
                return Some(Place { index, came: waiting.came });
            }
            held.insert(object);
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The object of an event is named before its colon.
    fn object(event: &str) -> u64 {
        let name = event.split(':').next().unwrap_or_default();
        name.bytes().fold(7, |hash: u64, byte| hash.wrapping_mul(31) + u64::from(byte))
    }

    struct Bench {
        cuts: Cuts<&'static str>,
        start: Instant,
    }

    impl Bench {
        fn new(is_ours: bool) -> Bench {
            let mut cuts = Cuts::new(2);
            cuts.set_ours(0, true);
            cuts.set_ours(1, is_ours);
            Bench { cuts, start: Instant::now() }
        }

        fn push(&mut self, stream: usize, version: u64, event: &'static str, ms: u64) {
            let at = self.start + Duration::from_millis(ms);
            let manner = Manner::Gathered(object(event));
            self.cuts.push(stream, &Version::new(&version.to_string()), event, manner, at);
        }

        fn push_alone(&mut self, stream: usize, version: u64, event: &'static str, ms: u64) {
            let at = self.start + Duration::from_millis(ms);
            let manner = Manner::Alone(object(event));
            self.cuts.push(stream, &Version::new(&version.to_string()), event, manner, at);
        }

        fn push_barrier(&mut self, stream: usize, version: u64, event: &'static str, ms: u64) {
            let at = self.start + Duration::from_millis(ms);
            let version = Version::new(&version.to_string());
            self.cuts.push(stream, &version, event, Manner::Barrier, at);
        }

        fn told(&mut self, stream: usize, version: u64) {
            self.cuts.told(stream, &Version::new(&version.to_string()));
        }

        fn take(&mut self, ms: u64) -> Vec<&'static str> {
            let at = self.start + Duration::from_millis(ms);
            let batch = self.cuts.take(at);
            batch.map(|batch| batch.events).unwrap_or_default()
        }

        fn due(&self) -> Option<u64> {
            self.cuts.due().map(|due| (due - self.start).as_millis() as u64)
        }
    }

    #[test]
    fn a_batch_of_our_feed_is_taken_once_every_stream_has_passed_it() {
        let mut bench = Bench::new(true);
        bench.push(0, 11, "service", 0);
        bench.told(0, 12);
        assert_eq!(bench.take(0), [""; 0], "the other stream may hold a part of it");
        bench.push(1, 12, "slice", 1);
        assert_eq!(bench.take(1), [""; 0]);
        bench.told(1, 12);
        assert_eq!(bench.due(), Some(0));
        assert_eq!(bench.take(1), ["service", "slice"]);
        assert_eq!(bench.due(), None);
        assert_eq!(bench.take(2), [""; 0]);
    }

    #[test]
    fn the_next_batch_waits_behind_the_cut() {
        let mut bench = Bench::new(true);
        bench.push(0, 11, "first", 0);
        bench.told(0, 11);
        bench.push(0, 12, "second", 0);
        bench.told(0, 12);
        bench.told(1, 11);
        assert_eq!(bench.take(0), ["first"]);
        assert_eq!(bench.take(0), [""; 0]);
        bench.told(1, 12);
        assert_eq!(bench.take(0), ["second"]);
    }

    #[test]
    fn a_batch_that_stays_incomplete_is_applied_after_all() {
        let mut bench = Bench::new(true);
        bench.push(0, 11, "service", 0);
        bench.told(0, 12);
        assert_eq!(bench.due(), Some(1000));
        assert_eq!(bench.take(999), [""; 0]);
        assert_eq!(bench.take(1000), ["service"]);
    }

    #[test]
    fn a_set_back_stream_lowers_the_cut() {
        let mut bench = Bench::new(true);
        bench.told(0, 100);
        bench.told(1, 100);
        bench.push(0, 50, "list", 0);
        bench.told(0, 50);
        assert_eq!(bench.take(0), ["list"], "all that the other told is later");
        bench.push(0, 51, "change", 0);
        bench.told(0, 51);
        assert_eq!(bench.take(0), ["change"]);
        bench.push(1, 52, "list", 0);
        bench.told(1, 52);
        assert_eq!(bench.take(0), [""; 0]);
        bench.told(0, 52);
        assert_eq!(bench.take(0), ["list"]);
    }

    #[test]
    fn a_foreign_server_is_given_a_short_quiet() {
        let mut bench = Bench::new(false);
        bench.push(0, 11, "service", 0);
        bench.told(0, 500);
        bench.told(1, 500);
        assert_eq!(bench.due(), Some(20), "bookmarks cut nothing");
        assert_eq!(bench.take(19), [""; 0]);
        bench.push(1, 12, "slice", 19);
        assert_eq!(bench.due(), Some(39));
        assert_eq!(bench.take(39), ["service", "slice"]);
    }

    #[test]
    fn the_first_change_after_a_pause_does_not_wait_for_a_quiet() {
        let mut bench = Bench::new(false);
        bench.push_alone(0, 11, "slice", 0);
        assert_eq!(bench.due(), Some(2));
        assert_eq!(bench.take(2), ["slice"]);
        // What follows close behind is gathered.
        bench.push_alone(0, 12, "second", 10);
        bench.push_alone(0, 13, "third", 20);
        assert_eq!(bench.due(), Some(40));
        assert_eq!(bench.take(40), ["second", "third"]);
        bench.push_alone(0, 14, "fourth", 60);
        assert_eq!(bench.due(), Some(62), "a pause of 20 ms");
        assert_eq!(bench.take(62), ["fourth"]);
    }

    #[test]
    fn an_added_endpoint_does_not_wait_for_a_removal_and_a_removal_waits_for_what_replaces_it() {
        let mut bench = Bench::new(false);
        bench.push(1, 11, "old: slice deleted", 0);
        assert_eq!(bench.due(), Some(20));
        bench.push(0, 12, "ingress: to the other Service", 3);
        assert_eq!(bench.due(), Some(23));
        bench.push_alone(1, 13, "new: slice", 9);
        assert_eq!(bench.due(), Some(11));
        assert_eq!(bench.take(10), [""; 0]);
        assert_eq!(bench.take(11), ["new: slice"]);
        assert_eq!(bench.due(), Some(29), "more may follow the slice");
        assert_eq!(bench.take(28), [""; 0]);
        assert_eq!(bench.take(29), ["ingress: to the other Service", "old: slice deleted"]);
    }

    #[test]
    fn changes_of_one_object_keep_their_order() {
        let mut bench = Bench::new(false);
        bench.push(1, 11, "a: no endpoint is ready", 0);
        bench.push_alone(1, 12, "a: one is", 1);
        bench.push_alone(1, 13, "b: one is", 1);
        assert_eq!(bench.due(), Some(3));
        assert_eq!(bench.take(3), ["b: one is"]);
        bench.push_alone(1, 14, "a: two are", 4);
        assert_eq!(bench.due(), Some(24));
        let all = ["a: no endpoint is ready", "a: one is", "a: two are"];
        assert_eq!(bench.take(24), all);
    }

    #[test]
    fn nothing_overtakes_the_end_of_a_list() {
        let mut bench = Bench::new(false);
        bench.push_alone(0, 11, "before", 0);
        bench.push_barrier(0, 12, "list", 0);
        bench.push_alone(0, 13, "after", 0);
        bench.push_alone(1, 14, "another kind", 0);
        assert_eq!(bench.take(2), ["before", "another kind"]);
        assert_eq!(bench.due(), Some(20));
        assert_eq!(bench.take(20), ["list", "after"]);
    }

    #[test]
    fn a_flow_of_changes_that_stand_alone_begins_to_be_applied_within_the_quiet() {
        let mut bench = Bench::new(false);
        for ms in 0..20 {
            bench.push_alone(0, 11 + ms, "change", ms);
            assert_eq!(bench.take(ms), [""; 0]);
        }
        assert_eq!(bench.due(), Some(20));
        assert_eq!(bench.take(20).len(), 20);
    }

    #[test]
    fn without_quiet_it_takes_100_ms() {
        let mut bench = Bench::new(false);
        for ms in (0..100).step_by(10) {
            bench.push(0, 11 + ms, "change", ms);
            assert_eq!(bench.take(ms), [""; 0]);
        }
        assert_eq!(bench.due(), Some(100));
        assert_eq!(bench.take(100).len(), 10);
    }

    #[test]
    fn the_age_of_a_batch_is_that_of_its_oldest_event() {
        let mut bench = Bench::new(false);
        bench.push(1, 11, "a", 5);
        bench.push(0, 12, "b", 7);
        let batch = bench.cuts.take(bench.start + Duration::from_millis(50)).unwrap();
        assert_eq!(batch.received, bench.start + Duration::from_millis(5));
    }

    #[test]
    fn a_stream_that_is_refused_delays_the_others_once() {
        let mut bench = Bench::new(true);
        bench.told(0, 10);
        bench.told(1, 10);
        bench.cuts.lost(1, bench.start);
        bench.push(0, 11, "first", 300);
        bench.told(0, 11);
        assert_eq!(bench.due(), Some(1000), "it may come back with the rest of the batch");
        assert_eq!(bench.take(999), [""; 0]);
        assert_eq!(bench.take(1000), ["first"]);
        // Faults that follow do not begin the wait anew.
        bench.cuts.lost(1, bench.start + Duration::from_millis(1500));
        bench.push(0, 12, "second", 2000);
        assert_eq!(bench.take(2000), [""; 0], "its own stream has not passed it");
        bench.told(0, 12);
        assert_eq!(bench.due(), Some(2000));
        assert_eq!(bench.take(2000), ["second"]);
        bench.cuts.found(1);
        bench.told(1, 12);
        bench.push(0, 13, "third", 3000);
        bench.told(0, 13);
        assert_eq!(bench.take(3001), [""; 0], "it counts again");
        bench.told(1, 13);
        assert_eq!(bench.take(3001), ["third"]);
    }

    #[test]
    fn when_all_streams_are_lost_what_came_is_applied() {
        let mut bench = Bench::new(true);
        bench.push(0, 11, "change", 0);
        bench.cuts.lost(0, bench.start);
        bench.cuts.lost(1, bench.start);
        assert_eq!(bench.due(), Some(1000));
        assert_eq!(bench.take(1000), ["change"]);
    }
}
