//! Picks the better of two random endpoints ("power of two choices").
//!
//! What is better is the caller's: fewer requests in flight, or a lower latency times those. To
//! compare two is nearly as good as to compare all, costs the same for any number of endpoints,
//! and does not send every thread's next request to the same endpoint.

use crate::rotation::Member;

/// The better of two random members that `suits` and do not rest or, if there is none, of those
/// that `suits` and may be picked during their rest. `random` has 64 random bits.
pub fn pick_of_two<T: Member, C: PartialOrd>(
    members: &[T],
    random: u64,
    suits: impl Fn(&T) -> bool,
    cost: impl Fn(&T) -> C,
    now_ms: impl Fn() -> u64,
) -> Option<&T> {
    let awake = |m: &T| suits(m) && !m.rest().lasts(&now_ms);
    if let Some(picked) = better(members, random, &awake, &cost) {
        if picked.rest().try_again(&now_ms) {
            return Some(picked);
        }
        // Another pick already tries it.
        let other = |m: &T| !std::ptr::eq(m, picked) && awake(m) && m.rest().try_again(&now_ms);
        if let Some(other) = draw(members, random, &other) {
            return Some(&members[other]);
        }
    }
    better(members, random, &|m| suits(m) && !m.rest().is_strict(&now_ms), &cost)
}

fn better<'m, T, C: PartialOrd>(
    members: &'m [T],
    random: u64,
    suits: &impl Fn(&T) -> bool,
    cost: &impl Fn(&T) -> C,
) -> Option<&'m T> {
    let first = draw(members, random, suits)?;
    let others = |m: &T| !std::ptr::eq(m, &members[first]) && suits(m);
    let Some(second) = draw(members, random >> 32, &others) else { return Some(&members[first]) };
    let is_better = cost(&members[second]) < cost(&members[first]);
    Some(&members[if is_better { second } else { first }])
}

/// A random member that suits: the first from a random place on.
fn draw<T>(members: &[T], random: u64, suits: &impl Fn(&T) -> bool) -> Option<usize> {
    let count = members.len();
    let from = ((u64::from(random as u32) * count as u64) >> 32) as usize;
    (from..count).chain(0..from).find(|at| suits(&members[*at]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Failure, Load, Rest};

    #[derive(Debug, Default)]
    struct Server {
        rest: Rest,
        load: Load,
    }

    impl Member for Server {
        fn rest(&self) -> &Rest {
            &self.rest
        }
    }

    /// Random bits that are the same in each run.
    fn random(turn: u64) -> u64 {
        let mut x = (turn + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    fn servers(count: usize) -> Vec<Server> {
        std::iter::repeat_with(Server::default).take(count).collect()
    }

    fn place(servers: &[Server], picked: &Server) -> usize {
        servers.iter().position(|server| std::ptr::eq(server, picked)).unwrap()
    }

    #[test]
    fn requests_in_flight_stay_even() {
        let servers = servers(10);
        for turn in 0..10_000 {
            let cost = |s: &Server| s.load.in_flight();
            let picked = pick_of_two(&servers, random(turn), |_| true, cost, || 0).unwrap();
            picked.load.begin();
        }
        let counts: Vec<u32> = servers.iter().map(|s| s.load.in_flight()).collect();
        assert!(counts.iter().all(|count| (990..=1010).contains(count)), "{counts:?}");
    }

    /// Ten servers, of which one takes ten times as long, and requests at 60 % of what they can
    /// serve one at a time: the slow one gets so few that they are not in the slowest hundredth.
    #[test]
    fn by_peak_ewma_a_slow_server_gets_few_requests() {
        let servers = servers(10);
        let mut in_flight: Vec<(u64, usize, u64)> = Vec::new();
        let mut slow = 0;
        // Times in microseconds: the fast ones take 10 ms, a request comes every 2 ms.
        for turn in 0..60_000_u64 {
            let now = turn * 2_000;
            in_flight.retain(|(end, server, took)| {
                if *end > now {
                    return true;
                }
                servers[*server].load.end();
                servers[*server].load.measured(*took as u32, now / 1_000);
                false
            });
            let cost = |s: &Server| s.load.cost(now / 1_000);
            let clock = || now / 1_000;
            let picked = pick_of_two(&servers, random(turn), |_| true, cost, clock).unwrap();
            picked.load.begin();
            let server = place(&servers, picked);
            let took = if server == 0 { 100_000 } else { 10_000 };
            slow += usize::from(server == 0);
            in_flight.push((now + took, server, took));
        }
        assert!(slow < 600, "{slow} of 60,000");
        assert!(slow > 1, "it is tried again from time to time");
    }

    #[test]
    fn after_its_rest_a_member_is_tried_by_one_pick_alone() {
        let servers = servers(2);
        servers[0].rest.begin(0, Failure::Refused);
        let at = |now: u64, turn: u64| {
            let picked = pick_of_two(&servers, random(turn), |_| true, |_| 0, || now).unwrap();
            place(&servers, picked)
        };
        assert!((0..100).all(|turn| at(999, turn) == 1));
        let tried = (0..100).filter(|turn| at(1_000, *turn) == 0).count();
        assert_eq!(tried, 1);
        // All rest: they are picked all the same.
        servers[1].rest.begin(1_000, Failure::Refused);
        assert!((0..100).any(|turn| at(1_001, turn) == 1));
    }

    proptest! {
        /// What is picked suits, and is no worse than all others that suit.
        #[test]
        fn what_is_picked_suits(
            costs in prop::collection::vec(0_u32..9, 0..9),
            suiting in 0_u32..512,
            random: u64,
        ) {
            let servers = servers(costs.len());
            let suits = |s: &Server| suiting & (1 << place(&servers, s)) != 0;
            let cost = |s: &Server| costs[place(&servers, s)];
            let picked = pick_of_two(&servers, random, suits, cost, || 0);
            let all: Vec<u32> = servers.iter().filter(|s| suits(s)).map(cost).collect();
            prop_assert_eq!(picked.is_some(), !all.is_empty());
            if let Some(picked) = picked {
                prop_assert!(suits(picked));
                let worse = all.iter().filter(|other| **other >= cost(picked)).count();
                prop_assert!(worse >= 2.min(all.len()), "it is the better of two");
            }
        }
    }
}
