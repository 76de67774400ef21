//! Picks the endpoint of a new connection or request: strict round robin, exact across threads.
//!
//! All threads take their turns from one counter, so any `k·N` picks in a row reach each of `N`
//! members exactly `k` times, on any number of threads. When the set changes,
//! [`Rotation::succeed`] carries the order over: the next member stays the next, no member that
//! stays is skipped or picked twice, and new members come after the others. From then on, a pick
//! from the old rotation is a pick from its successor, so that turns of threads that still hold the
//! old one count too.
//!
//! A member that failed rests ([`Rest`]): the others take turns without it, as exactly as before.
//! Resting members are picked only when all rest; members that make clients wait are not picked
//! even then. When a rest is over, one pick tries the member again.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::rest::Rest;

/// Set in a rotation's turns when its successor has taken over.
const HANDED_ON: u64 = 1 << 63;

/// What can be picked: an endpoint with the state that picks depend on. Members are equal if they
/// are the same endpoint; the state is shared by all rotations that it is in.
pub trait Member {
    fn rest(&self) -> &Rest;
}

impl<M: Member> Member for Arc<M> {
    fn rest(&self) -> &Rest {
        M::rest(self)
    }
}

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

    /// Takes a turn: the next member that `suits` and does not rest or, if there is none, the next
    /// member that `suits` and may be picked during its rest ([`Failure`](crate::Failure)).
    /// `now_ms` is the clock of [`Rest`], read only for members that failed.
    ///
    /// A skipped member loses its turn, so that the member after a dead one does not get its share
    /// in addition to its own. A retry takes a turn too.
    pub fn pick(&self, suits: impl Fn(&T) -> bool, now_ms: impl Fn() -> u64) -> Option<&T>
    where
        T: Member,
    {
        let mut rotation = self;
        let mut turn = rotation.turns.load(Ordering::Relaxed);
        loop {
            if turn & HANDED_ON != 0 {
                // The thread that set the mark sets the successor right after.
                rotation = rotation.successor.wait();
                turn = rotation.turns.load(Ordering::Relaxed);
                continue;
            }
            let rested = rotation.ahead(turn, |m| suits(m) && !m.rest().lasts(&now_ms));
            let fallback = |m: &T| suits(m) && !m.rest().is_strict(&now_ms);
            let ahead = rested.or_else(|| rotation.ahead(turn, fallback))?;
            let picked = turn + ahead as u64;
            let (relaxed, next) = (Ordering::Relaxed, picked + 1);
            match rotation.turns.compare_exchange_weak(turn, next, relaxed, relaxed) {
                Ok(_) => {
                    let member = &rotation.members[rotation.place(picked)];
                    if member.rest().try_again(&now_ms) || rested.is_none() {
                        return Some(member);
                    }
                    // Another pick already tries it: take the next member.
                    turn = next;
                }
                // Another thread took a turn at the same time, or the set changed.
                Err(current) => turn = current,
            }
        }
    }

    /// The number of members between the current turn and the first member that `suits`.
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
        // Picks wait until the successor is set, so everything else is done before.
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

/// A rotation that was held for a long time owns the chain of its successors. They are dropped in a
/// loop, because a recursive drop could overflow the stack.
impl<T> Drop for Rotation<T> {
    fn drop(&mut self) {
        let mut next = self.successor.take();
        while let Some(mut rotation) = next.and_then(Arc::into_inner) {
            next = rotation.successor.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::hash::Hasher;
    use std::sync::Mutex;

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::Failure;

    /// An endpoint with a letter or a number for its address.
    #[derive(Debug)]
    struct Named<N>(N, Rest);

    impl<N> Member for Named<N> {
        fn rest(&self) -> &Rest {
            &self.1
        }
    }

    impl<N: PartialEq> PartialEq for Named<N> {
        fn eq(&self, other: &Named<N>) -> bool {
            self.0 == other.0
        }
    }

    impl<N: Eq> Eq for Named<N> {}

    impl<N: Hash> Hash for Named<N> {
        fn hash<H: Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }

    fn members<N>(names: impl IntoIterator<Item = N>) -> Vec<Arc<Named<N>>> {
        names.into_iter().map(|name| Arc::new(Named(name, Rest::default()))).collect()
    }

    fn next<N: Copy>(rotation: &Rotation<Arc<Named<N>>>) -> Option<N> {
        rotation.pick(|_| true, || 0).map(|member| member.0)
    }

    fn picks(rotation: &Rotation<Arc<Named<char>>>, count: usize) -> String {
        (0..count).filter_map(|_| next(rotation)).collect()
    }

    /// Picks `taken` from `before`, changes the set, and expects the next picks, whether they
    /// are made from the new rotation or from the old one.
    fn check(before: &str, taken: usize, after: &str, expected: &str) {
        let rotation = Rotation::new(members(before.chars()));
        picks(&rotation, taken);
        let next = rotation.succeed(&members(after.chars()));
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
        let rotation = Rotation::new(members("abc".chars()));
        // Each connection that draws `a` fails there and is retried.
        let served = (0..6).map(|_| match next(&rotation) {
            Some('a') => rotation.pick(|member| member.0 != 'a', || 0).unwrap().0,
            Some(other) => other,
            None => unreachable!(),
        });
        assert_eq!(served.collect::<String>(), "bcbcbc");
        assert_eq!(rotation.pick(|_| false, || 0), None);
        assert_eq!(next(&Rotation::<Arc<Named<char>>>::default()), None);
    }

    /// The next picks of `abcd` when these rest and only those suit.
    fn check_resting(resting: &str, suiting: &str, expected: &str) {
        let rotation = Rotation::new(members("abcd".chars()));
        let failed = rotation.members().iter().filter(|member| resting.contains(member.0));
        failed.for_each(|member| member.rest().begin(0, Failure::Refused));
        let suits = |member: &Arc<Named<char>>| suiting.contains(member.0);
        let pick = |_| rotation.pick(suits, || 1).map(|member| member.0);
        let picked: String = (0..8).filter_map(pick).collect();
        assert_eq!(picked, expected, "{resting} rest, {suiting} suit");
    }

    #[test]
    fn resting_members_are_passed_over_and_the_others_keep_their_turns() {
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
    fn after_its_rest_a_member_is_tried_by_one_pick_alone() {
        let rotation = Rotation::new(members("abc".chars()));
        rotation.members()[1].rest().begin(0, Failure::Refused);
        let at = |now: u64, count: usize| -> String {
            let pick = |_| rotation.pick(|_| true, || now).map(|member| member.0);
            (0..count).filter_map(pick).collect()
        };
        assert_eq!(at(999, 4), "acac");
        // The outcome is not known yet: the others wait for it.
        assert_eq!(at(1_000, 5), "abcac");
        rotation.members()[1].rest().end();
        assert_eq!(at(1_000, 3), "abc");
        // All rest: one of them is picked all the same.
        let members = rotation.members().iter();
        members.for_each(|member| member.rest().begin(1_000, Failure::Refused));
        assert_eq!(at(1_001, 4), "abca");
    }

    #[test]
    fn when_all_members_let_clients_wait_one_client_tries_each_and_the_others_do_not_wait() {
        let rotation = Rotation::new(members("abc".chars()));
        let at = |now: u64, count: usize| -> String {
            let pick = |_| rotation.pick(|_| true, || now).map(|member| member.0);
            (0..count).filter_map(pick).collect()
        };
        for member in rotation.members() {
            member.rest().begin(0, Failure::TimedOut);
        }
        assert_eq!(at(1, 9), "");
        assert_eq!(at(1_000, 9), "abc");
        rotation.members()[1].rest().end();
        assert_eq!(at(1_001, 3), "bbb");
        rotation.members()[1].rest().begin(1_002, Failure::Refused);
        assert_eq!(at(1_003, 3), "bbb", "the refusal costs no time");
    }

    #[test]
    fn threads_share_the_turns() {
        check_threads(&[], [400; 7]);
        check_threads(&[2, 3], [560, 560, 0, 0, 560, 560, 560]);
    }

    fn check_threads(resting: &[usize], expected: [usize; 7]) {
        let rotation = Rotation::new(members(0..7));
        let rest = |member: &usize| rotation.members()[*member].rest().begin(0, Failure::Refused);
        resting.iter().for_each(rest);
        let mut counts = [0; 7];
        std::thread::scope(|scope| {
            let draw = || (0..700).filter_map(|_| next(&rotation)).collect::<Vec<usize>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
            for member in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
                counts[member] += 1;
            }
        });
        assert_eq!(counts, expected);
    }

    #[test]
    fn a_set_that_changes_during_picks_costs_no_member_a_turn() {
        const TURNS: usize = 2000;
        let current = Mutex::new(Arc::new(Rotation::new(members(0..5))));
        let mut counts = [0; 5];
        std::thread::scope(|scope| {
            let worker = || {
                let draw = |_| {
                    let rotation = current.lock().unwrap().clone();
                    // The set may change here, between the look and the pick.
                    next(&rotation).unwrap()
                };
                (0..5 * TURNS).map(draw).collect::<Vec<usize>>()
            };
            let workers: Vec<_> = (0..3).map(|_| scope.spawn(worker)).collect();
            while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                let before = current.lock().unwrap().clone();
                let after = before.succeed(&members(0..5));
                *current.lock().unwrap() = after;
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
        fn members_that_stay_are_neither_skipped_nor_doubled(
            steps in vec((btree_set(0_u8..6, 1..6), 0_usize..9), 1..12),
            k in 1_usize..4,
        ) {
            let mut rotation = Arc::new(Rotation::default());
            let mut picked: Vec<u8> = Vec::new();
            let stays: Vec<u8> =
                (0..6).filter(|m| steps.iter().all(|(set, _)| set.contains(m))).collect();
            for (set, count) in steps {
                rotation = rotation.succeed(&members(set));
                picked.extend((0..count).filter_map(|_| next(&rotation)));
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
                *counts.entry(next(&rotation).unwrap()).or_default() += 1;
            }
            prop_assert_eq!(counts.len(), members);
            prop_assert!(counts.values().all(|count| *count == k), "{:?}", counts);
        }
    }
}
