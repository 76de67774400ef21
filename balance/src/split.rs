//! Divides picks among a few choices by weight, such as the Services of one route.
//!
//! The sum of all weights is one cycle of turns. Within a cycle each choice gets exactly as many
//! turns as its weight says, whichever threads take them, and they are spread evenly: each turn
//! is mapped to a position in the cycle by steps of about the golden ratio, and the position to a
//! choice by the running sum of the weights. A pick costs one atomic addition and a binary search.

use std::sync::atomic::{AtomicU64, Ordering};

/// The most that one weight may be: the limit of the Gateway API.
pub const MAX_WEIGHT: u32 = 1_000_000;
/// The fractional part of the golden ratio, times 2^32. Steps of this share of a cycle keep
/// successive positions far apart.
const GOLDEN: u64 = 2_654_435_769;

/// Choices by weight, and whose turn it is.
#[derive(Debug)]
pub struct Split {
    /// The sum of the weights up to and with each choice.
    ends: Box<[u64]>,
    /// By how much the position moves on with each turn; has no divisor in common with the cycle,
    /// so that each position has one turn.
    step: u64,
    turns: AtomicU64,
}

impl Split {
    /// A choice with weight 0 is never picked. Weights above [`MAX_WEIGHT`] count as that.
    pub fn new(weights: &[u32]) -> Split {
        let mut cycle = 0;
        let ends: Box<[u64]> = weights
            .iter()
            .map(|weight| {
                cycle += u64::from((*weight).min(MAX_WEIGHT));
                cycle
            })
            .collect();
        Split { ends, step: step(cycle), turns: AtomicU64::new(0) }
    }

    /// Takes a turn: the number of the choice; `None` if no choice has a weight.
    pub fn pick(&self) -> Option<usize> {
        let cycle = self.ends.last().copied().filter(|cycle| *cycle > 0)?;
        let turn = self.turns.fetch_add(1, Ordering::Relaxed) % cycle;
        // Both factors are below 2^52: `MAX_WEIGHT` times a number of choices that fits in memory.
        let position = (u128::from(turn) * u128::from(self.step) % u128::from(cycle)) as u64;
        Some(self.ends.partition_point(|end| *end <= position))
    }
}

/// About the golden ratio's part of the cycle, and without a divisor in common with it.
fn step(cycle: u64) -> u64 {
    let near = ((u128::from(cycle) * u128::from(GOLDEN)) >> 32) as u64;
    (near.max(1)..).find(|step| divisor(*step, cycle) == 1).unwrap_or(1)
}

/// The greatest common divisor.
fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn picks(weights: &[u32], count: usize) -> Vec<usize> {
        let split = Split::new(weights);
        (0..count).filter_map(|_| split.pick()).collect()
    }

    #[test]
    fn nothing_is_picked_without_a_weight() {
        assert_eq!(Split::new(&[]).pick(), None);
        assert_eq!(Split::new(&[0, 0]).pick(), None);
        assert_eq!(picks(&[0, 3, 0], 4), [1, 1, 1, 1]);
    }

    #[test]
    fn turns_of_one_choice_are_spread_over_the_cycle() {
        let picked = picks(&[90, 10], 1000);
        let canary: Vec<usize> = (0..1000).filter(|turn| picked[*turn] == 1).collect();
        assert_eq!(canary.len(), 100);
        let gaps = canary.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.clone().max() <= Some(21) && gaps.min() >= Some(5), "{canary:?}");
    }

    #[test]
    fn threads_share_the_cycle() {
        let split = Split::new(&[1, 2, 4]);
        let mut counts = [0; 3];
        std::thread::scope(|scope| {
            let draw = || (0..700).filter_map(|_| split.pick()).collect::<Vec<usize>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(draw)).collect();
            for choice in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
                counts[choice] += 1;
            }
        });
        assert_eq!(counts, [400, 800, 1600]);
    }

    #[test]
    fn the_largest_weights_do_not_overflow() {
        let split = Split::new(&[MAX_WEIGHT, u32::MAX, MAX_WEIGHT]);
        split.turns.store(u64::MAX - 1, Ordering::Relaxed);
        assert!((0..8).all(|_| split.pick().is_some_and(|choice| choice < 3)));
    }

    proptest! {
        /// From any turn on, a whole cycle gives each choice exactly its weight.
        #[test]
        fn each_choice_gets_its_weight(
            weights in prop::collection::vec(0_u32..50, 1..8),
            taken in 0_u64..1000,
        ) {
            let split = Split::new(&weights);
            split.turns.store(taken, Ordering::Relaxed);
            let cycle: u32 = weights.iter().sum();
            let mut counts = vec![0; weights.len()];
            for _ in 0..cycle {
                counts[split.pick().unwrap()] += 1;
            }
            prop_assert_eq!(counts, weights);
        }
    }
}
