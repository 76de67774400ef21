//! Picks the endpoint of a new connection: strict round robin, exact across workers.
//!
//! Pure. All workers draw their turns from one counter, so any `k·N` picks in a row reach each
//! of `N` endpoints exactly `k` times, whichever worker made which pick. When the set changes,
//! [`Rotation::succeed`] carries the order over: whoever was next stays next, nobody who stays
//! is skipped or served twice, and newcomers line up behind them.
//!
//! Left out: weights and affinity.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

/// Members in a fixed cyclic order, and whose turn it is.
#[derive(Debug)]
pub struct Rotation<T> {
    members: Box<[T]>,
    /// Turns taken so far. 64 bits do not wrap in the life of a process.
    turns: AtomicU64,
}

impl<T> Default for Rotation<T> {
    fn default() -> Rotation<T> {
        Rotation::new(Vec::new())
    }
}

impl<T> Rotation<T> {
    /// The first pick is the first member.
    pub fn new(members: Vec<T>) -> Rotation<T> {
        Rotation { members: members.into(), turns: AtomicU64::new(0) }
    }

    pub fn members(&self) -> &[T] {
        &self.members
    }

    /// Takes a turn: the member whose turn it is, or after it the first that `suits`.
    ///
    /// A retry takes a turn of its own, so that a member behind a dead one does not get the
    /// dead one's share on top of its own.
    pub fn pick(&self, suits: impl Fn(&T) -> bool) -> Option<&T> {
        if self.members.is_empty() {
            return None;
        }
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let (before, from) = self.members.split_at(self.place(turn));
        from.iter().chain(before).find(|member| suits(member))
    }

    fn place(&self, turn: u64) -> usize {
        (turn % self.members.len() as u64) as usize
    }
}

impl<T: Clone + Eq + Hash> Rotation<T> {
    /// The rotation that follows this one when its members become `members`.
    ///
    /// Picks made meanwhile from `self` are not seen by the new rotation: a set that changes
    /// under concurrent picks may serve a member once more than its turn.
    #[must_use]
    pub fn succeed(&self, members: Vec<T>) -> Rotation<T> {
        if self.members.is_empty() {
            return Rotation::new(members);
        }
        let (before, from) = self.members.split_at(self.place(self.turns.load(Ordering::Relaxed)));
        let stay: HashSet<&T> = members.iter().collect();
        let in_turn = from.iter().chain(before).filter(|member| stay.contains(member));
        let mut order: Vec<T> = in_turn.cloned().collect();
        let old: HashSet<&T> = self.members.iter().collect();
        order.extend(members.iter().filter(|member| !old.contains(member)).cloned());
        Rotation::new(order)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    fn picks(rotation: &Rotation<char>, count: usize) -> String {
        (0..count).filter_map(|_| rotation.pick(|_| true)).collect()
    }

    /// Picks `taken` from `before`, changes the set, and expects the next picks.
    fn check(before: &str, taken: usize, after: &str, expected: &str) {
        let rotation = Rotation::new(before.chars().collect());
        picks(&rotation, taken);
        let next = rotation.succeed(after.chars().collect());
        assert_eq!(picks(&next, expected.len()), expected, "{before} -{taken}-> {after}");
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
        let served = (0..6).map(|_| match rotation.pick(|_| true) {
            Some('a') => *rotation.pick(|member| *member != 'a').unwrap(),
            Some(other) => *other,
            None => unreachable!(),
        });
        assert_eq!(served.collect::<String>(), "bcbcbc");
        assert_eq!(rotation.pick(|_| false), None);
        assert_eq!(Rotation::<char>::default().pick(|_| true), None);
    }

    #[test]
    fn workers_share_the_turns() {
        let rotation = Rotation::new((0..7).collect());
        let mut counts = [0; 7];
        std::thread::scope(|scope| {
            let worker = || {
                let draw = |_| *rotation.pick(|_| true).unwrap();
                (0..700).map(draw).collect::<Vec<usize>>()
            };
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            for member in workers.into_iter().flat_map(|worker| worker.join().unwrap()) {
                counts[member] += 1;
            }
        });
        assert_eq!(counts, [400; 7]);
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
            let mut rotation = Rotation::default();
            let mut picked: Vec<u8> = Vec::new();
            let stays: Vec<u8> =
                (0..6).filter(|m| steps.iter().all(|(set, _)| set.contains(m))).collect();
            for (set, count) in steps {
                rotation = rotation.succeed(set.iter().copied().collect());
                picked.extend((0..count).filter_map(|_| rotation.pick(|_| true)));
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
                *counts.entry(*rotation.pick(|_| true).unwrap()).or_default() += 1;
            }
            prop_assert_eq!(counts.len(), members);
            prop_assert!(counts.values().all(|count| *count == k), "{:?}", counts);
        }
    }
}
