//! Session affinity: which endpoint each client of a service port had last.
//!
//! There is one [`Affinity`] for each service port, shared by all its frontends and all data
//! threads, so that a client keeps its endpoint whether it connects to the ClusterIP or the
//! NodePort. It is divided into shards, each behind a lock that is held for one client's lookup and
//! choice: two first connections of a client at the same time get the same endpoint.
//!
//! The number of clients has a limit. Each shard has a young and an old half. A client is put into
//! the young half; when that is full, it becomes the old half, and what was in the old half is
//! forgotten. So the clients that were idle longest are forgotten first, at no cost for the others.
//!
//! Left out: whether the endpoint still serves; the caller knows that.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Enough that the data threads of a machine seldom wait for each other; an empty shard is small.
const SHARDS: usize = 8;

/// The endpoints that clients of one service port keep.
#[derive(Debug)]
pub struct Affinity {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    /// Clients in one half of a shard.
    half: usize,
}

#[derive(Debug, Default)]
struct Shard {
    young: HashMap<IpAddr, Pin>,
    old: HashMap<IpAddr, Pin>,
}

#[derive(Clone, Copy, Debug)]
struct Pin {
    endpoint: SocketAddr,
    used: Instant,
}

impl Pin {
    fn is_over(&self, timeout: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.used) >= timeout
    }
}

impl Affinity {
    /// Remembers about `max_clients` at most, and at least a few.
    pub fn new(max_clients: usize) -> Affinity {
        Affinity {
            shards: Default::default(),
            hasher: RandomState::new(),
            half: (max_clients / SHARDS / 2).max(1),
        }
    }

    /// The endpoint that the client had last, if that was less than `timeout` ago and `keep`
    /// accepts it. Otherwise the endpoint that `pick` returns, which is then remembered for the
    /// client.
    pub fn endpoint<T>(
        &self,
        client: IpAddr,
        (timeout, now): (Duration, Instant),
        keep: impl FnOnce(SocketAddr) -> Option<T>,
        pick: impl FnOnce() -> Option<(SocketAddr, T)>,
    ) -> Option<T> {
        let mut shard = self.shard(client);
        let pin = shard.find(client).filter(|pin| !pin.is_over(timeout, now));
        let (endpoint, taken) = match pin.and_then(|pin| Some((pin.endpoint, keep(pin.endpoint)?)))
        {
            Some(kept) => kept,
            None => pick()?,
        };
        shard.put(client, Pin { endpoint, used: now }, self.half);
        Some(taken)
    }

    /// The client used this endpoint at this time. Nothing changes if the client has another
    /// endpoint by now.
    pub fn refresh(&self, client: IpAddr, endpoint: SocketAddr, used: Instant) {
        let mut shard = self.shard(client);
        let pin = shard.find(client).unwrap_or(Pin { endpoint, used });
        if pin.endpoint == endpoint {
            shard.put(client, Pin { endpoint, used: pin.used.max(used) }, self.half);
        }
    }

    /// The endpoint refused the client: forgets it, unless the client has another endpoint by now.
    pub fn forget(&self, client: IpAddr, endpoint: SocketAddr) {
        let mut shard = self.shard(client);
        if shard.find(client).is_some_and(|pin| pin.endpoint == endpoint) {
            shard.young.remove(&client);
            shard.old.remove(&client);
        }
    }

    /// Forgets clients that have been idle for longer than `timeout`.
    pub fn forget_idle(&self, timeout: Duration, now: Instant) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let Shard { young, old } = &mut *shard;
            for half in [young, old] {
                half.retain(|_, pin| !pin.is_over(timeout, now));
                if half.len() < half.capacity() / 4 {
                    half.shrink_to_fit();
                }
            }
        }
    }

    /// Clients that are remembered.
    pub fn clients(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(client) as usize % SHARDS])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    fn find(&self, client: IpAddr) -> Option<Pin> {
        self.young.get(&client).or_else(|| self.old.get(&client)).copied()
    }

    fn put(&mut self, client: IpAddr, pin: Pin, half: usize) {
        if let Some(known) = self.young.get_mut(&client) {
            *known = pin;
            return;
        }
        self.old.remove(&client);
        if self.young.len() >= half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(client, pin);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn client(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    fn endpoint(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    /// The last byte of the endpoint that the client gets, when `next` would be picked for it.
    fn ask(affinity: &Affinity, number: u32, now: Instant, serving: &[u8], next: u8) -> Option<u8> {
        let last = |addr: SocketAddr| match addr.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => unreachable!(),
        };
        let keep = |addr| Some(last(addr)).filter(|last| serving.contains(last));
        let pick = || serving.contains(&next).then(|| (endpoint(next), next));
        affinity.endpoint(client(number), (HOUR, now), keep, pick)
    }

    #[test]
    fn a_client_keeps_its_endpoint_until_it_was_away_for_long() {
        let (affinity, start) = (Affinity::new(1000), Instant::now());
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        assert_eq!(ask(&affinity, 1, at(0), &[1, 2], 1), Some(1));
        assert_eq!(ask(&affinity, 2, at(0), &[1, 2], 2), Some(2));
        // Each use restarts the time-out.
        for minutes in [59, 118, 177] {
            assert_eq!(ask(&affinity, 1, at(minutes), &[1, 2], 2), Some(1));
        }
        affinity.refresh(client(1), endpoint(1), at(200));
        assert_eq!(ask(&affinity, 1, at(259), &[1, 2], 2), Some(1));
        assert_eq!(ask(&affinity, 1, at(319), &[1, 2], 2), Some(2));
    }

    #[test]
    fn a_client_moves_at_once_when_its_endpoint_goes_and_stays_there() {
        let (affinity, now) = (Affinity::new(1000), Instant::now());
        assert_eq!(ask(&affinity, 1, now, &[1, 2], 1), Some(1));
        assert_eq!(ask(&affinity, 1, now, &[2], 2), Some(2));
        assert_eq!(ask(&affinity, 1, now, &[1, 2], 1), Some(2));
        assert_eq!(ask(&affinity, 1, now, &[], 1), None);
        assert_eq!(ask(&affinity, 1, now, &[1, 2], 1), Some(2));
        // An old connection to the first endpoint no longer changes anything.
        affinity.refresh(client(1), endpoint(1), now);
        affinity.forget(client(1), endpoint(1));
        assert_eq!(ask(&affinity, 1, now, &[1, 2], 1), Some(2));
        affinity.forget(client(1), endpoint(2));
        assert_eq!(ask(&affinity, 1, now, &[1, 2], 1), Some(1));
    }

    #[test]
    fn a_connection_longer_than_the_timeout_brings_its_client_back() {
        let (affinity, start) = (Affinity::new(1000), Instant::now());
        assert_eq!(ask(&affinity, 1, start, &[1, 2], 1), Some(1));
        affinity.forget_idle(HOUR, start + 2 * HOUR);
        assert_eq!(affinity.clients(), 0);
        affinity.refresh(client(1), endpoint(1), start + 3 * HOUR);
        assert_eq!(ask(&affinity, 1, start + 3 * HOUR, &[1, 2], 2), Some(1));
    }

    #[test]
    fn clients_that_were_away_longest_make_room() {
        let (affinity, now) = (Affinity::new(1000), Instant::now());
        assert_eq!(ask(&affinity, 200_000, now, &[2], 2), Some(2));
        for number in 0..100_000 {
            assert_eq!(ask(&affinity, number, now, &[1], 1), Some(1));
            // A client that connects regularly is never forgotten.
            assert_eq!(ask(&affinity, 200_000, now, &[1, 2], 1), Some(2));
            assert!(affinity.clients() <= 1000);
        }
        assert!(affinity.clients() > 400);
        assert_eq!(ask(&affinity, 99_999, now, &[1, 2], 2), Some(1));
        assert_eq!(ask(&affinity, 0, now, &[1, 2], 2), Some(2));
    }

    proptest! {
        /// After any history: the result serves, and it is the last endpoint as long as that one
        /// serves.
        #[test]
        fn the_last_answer_stays_while_it_serves(
            steps in prop::collection::vec((0_u32..3, 0_u8..4, 0_u8..16), 1..60),
        ) {
            let (affinity, now) = (Affinity::new(1000), Instant::now());
            let mut last: HashMap<u32, u8> = HashMap::new();
            for (number, next, set) in steps {
                let serving: Vec<u8> = (0..4).filter(|last| set & (1 << last) != 0).collect();
                let next = *serving.get(usize::from(next) % serving.len().max(1)).unwrap_or(&9);
                let answer = ask(&affinity, number, now, &serving, next);
                let expected = last.get(&number).copied().filter(|last| serving.contains(last));
                prop_assert_eq!(answer, expected.or(serving.contains(&next).then_some(next)));
                if let Some(answer) = answer {
                    last.insert(number, answer);
                }
            }
        }
    }
}
