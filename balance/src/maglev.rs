//! Consistent hashing: which endpoint serves a key, as in Maglev (Eisenbud et al., NSDI 2016,
//! section 3.4).
//!
//! The table gives each endpoint nearly the same number of places, and a change of one endpoint
//! moves few places of others. It depends on the endpoints' addresses alone, so that all processes
//! agree. It is built when the set changes; to look a key up costs one division and one read.

use std::hash::{DefaultHasher, Hash, Hasher as _};

/// Sizes of tables: primes, each for up to a hundredth of its number of endpoints, so that shares
/// differ by a few percent at most. More endpoints than the last one is for share it all the same.
const SIZES: [usize; 5] = [1_021, 8_191, 65_537, 655_373, 6_553_577];
/// Places for each endpoint, at least.
const PLACES: usize = 100;

/// A table of places, each of which has the number of an endpoint.
#[derive(Clone, Debug, Default)]
pub struct Maglev {
    places: Box<[u32]>,
    count: usize,
}

/// The hash of a key, the same in all processes of one version.
pub fn hash_of(key: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl Maglev {
    /// For endpoints with these names, whose numbers are their positions.
    pub fn new<N: Hash>(names: impl IntoIterator<Item = N>) -> Maglev {
        let hashes: Vec<(u64, u64)> =
            names.into_iter().map(|name| (hash_of((0, &name)), hash_of((1, &name)))).collect();
        let count = hashes.len();
        if count == 0 {
            return Maglev::default();
        }
        let fits = |size: &usize| size / PLACES >= count;
        let size = SIZES.into_iter().find(fits).unwrap_or(SIZES[SIZES.len() - 1]);
        const FREE: u32 = u32::MAX;
        let mut places = vec![FREE; size].into_boxed_slice();
        // Each endpoint prefers places in an order of its own, and they take turns.
        let mut order: Vec<(usize, usize)> = hashes
            .iter()
            .map(|(a, b)| ((a % size as u64) as usize, (b % (size as u64 - 1) + 1) as usize))
            .collect();
        let mut filled = 0;
        'all: loop {
            for (number, (next, skip)) in order.iter_mut().enumerate() {
                while places[*next] != FREE {
                    *next = (*next + *skip) % size;
                }
                places[*next] = number as u32;
                filled += 1;
                if filled == size {
                    break 'all;
                }
            }
        }
        Maglev { places, count }
    }

    /// The number of the endpoint for the hash of a key: the first, in an order that depends on
    /// the hash, that `suits`.
    pub fn pick(&self, hash: u64, suits: impl Fn(usize) -> bool) -> Option<usize> {
        let size = self.places.len() as u64;
        if size == 0 {
            return None;
        }
        // The keys of an endpoint that does not suit are spread over all the others.
        let (mut place, skip) = (hash % size, hash / size % (size - 1) + 1);
        for _ in 0..self.count * 4 {
            let number = self.places[place as usize] as usize;
            if suits(number) {
                return Some(number);
            }
            place = (place + skip) % size;
        }
        let from = (hash % self.count as u64) as usize;
        (from..self.count).chain(0..from).find(|number| suits(*number))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(names: impl IntoIterator<Item = u32>) -> (Vec<u32>, Maglev) {
        let names: Vec<u32> = names.into_iter().collect();
        let table = Maglev::new(names.iter());
        (names, table)
    }

    fn name((names, table): &(Vec<u32>, Maglev), key: u64) -> u32 {
        names[table.pick(hash_of(key), |_| true).unwrap()]
    }

    #[test]
    fn shares_differ_by_a_few_percent() {
        for count in [2, 3, 10, 50, 600] {
            let (_, table) = table(0..count);
            let mut shares = vec![0_usize; count as usize];
            table.places.iter().for_each(|number| shares[*number as usize] += 1);
            let (low, high) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(high - low <= 1 + table.places.len() / 1000, "{count}: {low} to {high}");
        }
    }

    /// A key moves if its endpoint left or the new one took it; of the others few move.
    #[test]
    fn a_change_of_one_endpoint_moves_few_keys_of_others() {
        for count in [3, 10, 100] {
            let before = table(0..count);
            let without = table((0..count).filter(|name| *name != 1));
            let with = table(0..=count);
            let (mut lost, mut other, mut won) = (0, 0, 0);
            for key in 0..100_000 {
                let old = name(&before, key);
                match name(&without, key) {
                    _ if old == 1 => lost += 1,
                    new if new != old => other += 1,
                    _ => {}
                }
                let new = name(&with, key);
                won += usize::from(new != old && new == count);
            }
            let share = 100_000 / count as usize;
            assert!((share * 9 / 10..share * 11 / 10).contains(&lost), "{count}: {lost} lost");
            assert!(other < 5_000, "{count}: {other} of 100,000 keys of others moved");
            let new_share = 100_000 / (count as usize + 1);
            assert!(won > new_share * 9 / 10, "{count}: the new one got {won}");
        }
    }

    #[test]
    fn the_order_of_endpoints_does_not_matter_much() {
        let (ahead, behind) = (table(0..20), table((0..20).rev()));
        let moved = (0..10_000).filter(|key| name(&ahead, *key) != name(&behind, *key)).count();
        assert!(moved < 500, "{moved} of 10,000");
    }

    #[test]
    fn keys_of_an_endpoint_that_does_not_suit_are_spread_over_all_others() {
        let (_, table) = table(0..10);
        let mut counts = [0; 10];
        for key in 0..100_000_u64 {
            let hash = hash_of(key);
            if table.pick(hash, |_| true) == Some(4) {
                counts[table.pick(hash, |number| number != 4).unwrap()] += 1;
            }
        }
        assert_eq!(counts[4], 0);
        let others = counts.iter().enumerate().filter(|(number, _)| *number != 4);
        assert!(others.into_iter().all(|(_, count)| (800..1500).contains(count)), "{counts:?}");
    }

    #[test]
    fn every_size_is_prime() {
        let is_prime = |n: usize| (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
        assert!(SIZES.into_iter().all(is_prime));
        assert_eq!(Maglev::new(Vec::<u32>::new()).pick(7, |_| true), None);
    }

    proptest! {
        #[test]
        fn what_is_picked_suits(count in 1_u32..40, suiting: u64, key: u64) {
            let (_, table) = table(0..count);
            let suits = |number: usize| suiting & (1 << number) != 0;
            let picked = table.pick(hash_of(key), suits);
            prop_assert_eq!(picked.is_some(), (0..count as usize).any(suits));
            prop_assert!(picked.is_none_or(suits));
        }
    }
}
