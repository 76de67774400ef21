//! Picks the endpoint of a new connection: strict round robin, exact across workers.
//!
//! Pure. All workers draw their turns from one counter, so any `k·N` picks in a row reach each
//! of `N` endpoints exactly `k` times, whichever worker made which pick. When the set changes,
//! [`Rotation::succeed`] carries the order over: whoever was next stays next, nobody who stays
//! is skipped or served twice, and newcomers line up behind them. From then on a pick from the old
//! rotation is one from its successor, so that a worker who still holds the old one takes no turn
//! that counts for nothing.
//!
//! A member that failed rests: the others take their turns without it, as exactly as before. Only
//! when all rest are they picked all the same. Its [`Rest`] over, one pick tries it again, and the
//! others wait for what becomes of that.
//!
//! Left out: weights and affinity.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// How long a member that failed is passed over: as long as nginx does it (`fail_timeout`). A
/// dead endpoint then costs one client in ten seconds a wait, and one that is back has its turns
/// again soon.
const REST_MS: u64 = 10_000;
/// Set in a rotation's turns when its successor has taken over.
const HANDED_ON: u64 = 1 << 63;

/// Members in a fixed cyclic order, and whose turn it is.
#[derive(Debug)]
pub struct Rotation<T> {
    members: Box<[T]>,
    /// Turns taken so far, and [`HANDED_ON`]. 63 bits do not wrap in the life of a process.
    turns: AtomicU64,
    successor: OnceLock<Arc<Rotation<T>>>,
}

impl<T> Default for Rotation<T> {
    fn default() -> Rotation<T> {
        Rotation::new(Vec::new())
    }
}

impl<T> Rotation<T> {
    /// The first pick is the first member.
    pub fn new(members: Vec<T>) -> Rotation<T> {
        Rotation { members: members.into(), turns: AtomicU64::new(0), successor: OnceLock::new() }
    }

    pub fn members(&self) -> &[T] {
        &self.members
    }

    /// Takes a turn: the next member that `suits` and does not rest, or if there is none, the
    /// next that `suits`.
    ///
    /// Whoever is passed over loses the turn, so that the member behind does not get a dead one's
    /// share on top of its own. A retry takes a turn as well.
    pub fn pick(&self, suits: impl Fn(&T) -> bool, rests: impl Fn(&T) -> bool) -> Option<&T> {
        let mut rotation = self;
        let mut turn = rotation.turns.load(Ordering::Relaxed);
        loop {
            if turn & HANDED_ON != 0 {
                // Whoever set the mark is about to name the successor, if it has not yet.
                rotation = rotation.successor.wait();
                turn = rotation.turns.load(Ordering::Relaxed);
                continue;
            }
            let ahead = rotation
                .ahead(turn, |member| !rests(member) && suits(member))
                .or_else(|| rotation.ahead(turn, &suits))?;
            let picked = turn + ahead as u64;
            let (relaxed, next) = (Ordering::Relaxed, picked + 1);
            match rotation.turns.compare_exchange_weak(turn, next, relaxed, relaxed) {
                Ok(_) => return Some(&rotation.members[rotation.place(picked)]),
                // Another worker took a turn meanwhile, or the set changed.
                Err(current) => turn = current,
            }
        }
    }

    /// How many members whose turns come before it the first that `suits` is away.
    fn ahead(&self, turn: u64, suits: impl Fn(&T) -> bool) -> Option<usize> {
        if self.members.is_empty() {
            return None;
        }
        let (before, from) = self.members.split_at(self.place(turn));
        from.iter().chain(before).position(suits)
    }

    fn place(&self, turn: u64) -> usize {
        (turn % self.members.len() as u64) as usize
    }
}

impl<T: Clone + Eq + Hash> Rotation<T> {
    /// The rotation that follows this one when its members become `members`. Picks from this one
    /// are picks from that one from now on.
    ///
    /// # Panics
    ///
    /// When there is one already.
    #[must_use]
    pub fn succeed(&self, members: &[T]) -> Arc<Rotation<T>> {
        let stay: HashSet<&T> = members.iter().collect();
        let old: HashSet<&T> = self.members.iter().collect();
        // Until the successor is there, picks wait: what can be done before is done.
        let turn = self.turns.fetch_or(HANDED_ON, Ordering::Relaxed) & !HANDED_ON;
        let place = if self.members.is_empty() { 0 } else { self.place(turn) };
        let (before, from) = self.members.split_at(place);
        let in_turn = from.iter().chain(before).filter(|member| stay.contains(member));
        let newcomers = members.iter().filter(|member| !old.contains(member));
        let next = Arc::new(Rotation::new(in_turn.chain(newcomers).cloned().collect()));
        let named = self.successor.set(next.clone());
        assert!(named.is_ok(), "only control changes a set, one change after another");
        next
    }
}

/// Whoever held a rotation for long holds all that came after it: they go one by one, because
/// each letting go of the next would take stack for all.
impl<T> Drop for Rotation<T> {
    fn drop(&mut self) {
        let mut next = self.successor.take();
        while let Some(mut rotation) = next.and_then(Arc::into_inner) {
            next = rotation.successor.take();
        }
    }
}

/// Whether a member that failed is passed over. Times are milliseconds of any one clock.
#[derive(Debug, Default)]
pub struct Rest {
    /// 0 when it works, as far as anybody knows.
    until_ms: AtomicU64,
}

impl Rest {
    /// It failed.
    pub fn begin(&self, now_ms: u64) {
        self.until_ms.store(now_ms + REST_MS, Ordering::Relaxed);
    }

    /// It works.
    pub fn end(&self) {
        // A load alone costs the data threads no cache line of each other's.
        if self.has_begun() {
            self.until_ms.store(0, Ordering::Relaxed);
        }
    }

    /// The clock is only asked about one that failed.
    pub fn lasts(&self, now_ms: impl FnOnce() -> u64) -> bool {
        self.has_begun() && now_ms() < self.until_ms.load(Ordering::Relaxed)
    }

    /// It has been picked: if it failed the last time, the others wait for how it goes.
    pub fn tried(&self, now_ms: impl FnOnce() -> u64) {
        if self.has_begun() {
            self.begin(now_ms());
        }
    }

    fn has_begun(&self) -> bool {
        self.until_ms.load(Ordering::Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    fn picks(rotation: &Rotation<char>, count: usize) -> String {
        (0..count).filter_map(|_| rotation.pick(|_| true, |_| false)).collect()
    }

    /// Picks `taken` from `before`, changes the set, and expects the next picks, whether they
    /// are made from the new rotation or from the old one.
    fn check(before: &str, taken: usize, after: &str, expected: &str) {
        let rotation = Rotation::new(before.chars().collect());
        picks(&rotation, taken);
        let next = rotation.succeed(&after.chars().collect::<Vec<_>>());
        let pick = |place| if place % 2 == 0 { picks(&rotation, 1) } else { picks(&next, 1) };
        let picked: String = (0..expected.len()).map(pick).collect();
        assert_eq!(picked, expected, "{before} -{taken}-> {after}");
    }

    #[test]
    fn a_changed_set_carries_the_order_on() {
        check("abc", 0, "abc", "abcabc");
        check("abc", 1, "abc", "bcabca");
        check("abc", 1, "ac", "caca");
        check("abc", 1, "bc", "bcbc");
        check("abc", 2, "abd", "abdabd");
        check("abc", 1, "abcd", "bcadbcad");
        check("abc", 7, "dcba", "bcadbcad");
        check("abc", 1, "xyz", "xyzx");
        check("abc", 2, "", "");
        check("", 2, "ab", "abab");
    }

    #[test]
    fn a_retry_skips_the_tried_and_takes_a_turn() {
        let rotation = Rotation::new(vec!['a', 'b', 'c']);
        // Each connection that draws `a` fails there and is retried.
        let served = (0..6).map(|_| match rotation.pick(|_| true, |_| false) {
            Some('a') => *rotation.pick(|member| *member != 'a', |_| false).unwrap(),
            Some(other) => *other,
            None => unreachable!(),
        });
        assert_eq!(served.collect::<String>(), "bcbcbc");
        assert_eq!(rotation.pick(|_| false, |_| false), None);
        assert_eq!(Rotation::<char>::default().pick(|_| true, |_| false), None);
    }

    /// The next picks of `abcd` when these rest and only those suit.
    fn check_resting(resting: &str, suiting: &str, expected: &str) {
        let rotation = Rotation::new("abcd".chars().collect());
        let rests = |member: &char| resting.contains(*member);
        let suits = |member: &char| suiting.contains(*member);
        let picked: String = (0..8).filter_map(|_| rotation.pick(suits, rests)).collect();
        assert_eq!(picked, expected, "{resting} rest, {suiting} suit");
    }

    #[test]
    fn those_who_rest_are_passed_over_and_the_others_stay_in_turn() {
        check_resting("", "abcd", "abcdabcd");
        check_resting("a", "abcd", "bcdbcdbc");
        check_resting("bc", "abcd", "adadadad");
        check_resting("abc", "abcd", "dddddddd");
        check_resting("abcd", "abcd", "abcdabcd");
        check_resting("ab", "bcd", "cdcdcdcd");
        check_resting("ab", "ab", "abababab");
        check_resting("ab", "", "");
    }

    #[test]
    fn one_pick_tries_again_whoever_has_rested() {
        let rest = Rest::default();
        let lasts = |at_ms| rest.lasts(|| at_ms);
        assert!(!lasts(0));
        rest.tried(|| unreachable!("the clock is not asked about one that works"));
        rest.begin(5);
        assert!(lasts(5) && lasts(10_004) && !lasts(10_005));
        rest.tried(|| 10_005);
        assert!(lasts(10_006) && !lasts(20_005));
        rest.end();
        assert!(!lasts(10_006));
    }

    #[test]
    fn workers_share_the_turns() {
        check_workers(&[], [400; 7]);
        check_workers(&[2, 3], [560, 560, 0, 0, 560, 560, 560]);
    }

    fn check_workers(resting: &[usize], expected: [usize; 7]) {
        let rotation = Rotation::new((0..7).collect());
        let mut counts = [0; 7];
        std::thread::scope(|scope| {
            let worker = || {
                let rests = |member: &usize| resting.contains(member);
                let draw = |_| *rotation.pick(|_| true, rests).unwrap();
                (0..700).map(draw).collect::<Vec<usize>>()
            };
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            for member in workers.into_iter().flat_map(|worker| worker.join().unwrap()) {
                counts[member] += 1;
            }
        });
        assert_eq!(counts, expected);
    }

    #[test]
    fn a_set_that_changes_under_picks_costs_nobody_a_turn() {
        const TURNS: usize = 2000;
        let current = Mutex::new(Arc::new(Rotation::new((0..5).collect())));
        let mut counts = [0; 5];
        std::thread::scope(|scope| {
            let worker = || {
                let draw = |_| {
                    let rotation = current.lock().unwrap().clone();
                    // Here the set may change, before the pick and after the look.
                    *rotation.pick(|_| true, |_| false).unwrap()
                };
                (0..5 * TURNS).map(draw).collect::<Vec<usize>>()
            };
            let workers: Vec<_> = (0..3).map(|_| scope.spawn(worker)).collect();
            while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                let before = current.lock().unwrap().clone();
                let next = before.succeed(&[0, 1, 2, 3, 4]);
                *current.lock().unwrap() = next;
            }
            for member in workers.into_iter().flat_map(|worker| worker.join().unwrap()) {
                counts[member] += 1;
            }
        });
        assert_eq!(counts, [3 * TURNS; 5]);
    }

    proptest! {
        /// Between two picks of a member that stays, every other member that stays is picked
        /// exactly once, whatever came and went meanwhile; and after each change `k·N` picks
        /// reach each of `N` exactly `k` times.
        #[test]
        fn those_who_stay_are_neither_skipped_nor_doubled(
            steps in vec((btree_set(0_u8..6, 1..6), 0_usize..9), 1..12),
            k in 1_usize..4,
        ) {
            let mut rotation = Arc::new(Rotation::default());
            let mut picked: Vec<u8> = Vec::new();
            let stays: Vec<u8> =
                (0..6).filter(|m| steps.iter().all(|(set, _)| set.contains(m))).collect();
            for (set, count) in steps {
                rotation = rotation.succeed(&Vec::from_iter(set));
                picked.extend((0..count).filter_map(|_| rotation.pick(|_| true, |_| false)));
            }
            let mut seen: BTreeMap<u8, usize> = stays.iter().map(|m| (*m, 0)).collect();
            for member in picked.into_iter().filter(|m| stays.contains(m)) {
                *seen.get_mut(&member).unwrap() += 1;
                let (low, high) = (seen.values().min().unwrap(), seen.values().max().unwrap());
                prop_assert!(high - low <= 1, "{seen:?}");
            }
            let members = rotation.members().len();
            let mut counts: BTreeMap<u8, usize> = BTreeMap::new();
            for _ in 0..k * members {
                *counts.entry(*rotation.pick(|_| true, |_| false).unwrap()).or_default() += 1;
            }
            prop_assert_eq!(counts.len(), members);
            prop_assert!(counts.values().all(|count| *count == k), "{:?}", counts);
        }
    }
}
