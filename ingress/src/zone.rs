//! How many requests each client has made of an Ingress lately, and how many it has in flight.
//!
//! One zone for each Ingress that limits requests, which all workers share. Routes without limits
//! have none, and nothing here is on their path. Time is an argument.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use daemon::quota::Client;
use foldhash::fast::RandomState;

/// Clients and keys that a zone knows of at once, over all its shards. Beyond that, those that have
/// no request in flight are forgotten.
const SHARDS: usize = 16;
const MAX_KEYS_PER_SHARD: usize = 4096;

/// Bytes of a key that are told apart.
const MAX_KEY_BYTES: usize = 256;

/// The rates and counts that a zone keeps to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ZoneRules {
    /// Requests per second and per minute, with the requests that may come beyond them at once.
    pub(crate) per_second: Option<Rate>,
    pub(crate) per_minute: Option<Rate>,
    /// Requests in flight.
    pub(crate) in_flight: Option<u32>,
    /// Requests within each window, by a key of their own.
    pub(crate) window: Option<Window>,
}

/// Requests in a period, evenly spread but for a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Microseconds between two requests.
    pub(crate) interval: u64,
    pub(crate) burst: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) requests: u32,
    pub(crate) micros: u64,
}

/// Whose requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Client(Client),
    Text(Box<str>),
}

/// Why a request is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooMany {
    /// Too fast, or too many at once.
    OfClient,
    /// Too many in the window.
    InWindow,
}

pub(crate) struct Zone {
    rules: ZoneRules,
    hasher: RandomState,
    shards: [Mutex<HashMap<Key, State, RandomState>>; SHARDS],
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({:?})", self.rules)
    }
}

/// What is known of a client, in microseconds of the process's clock.
#[derive(Debug, Default)]
struct State {
    /// When all requests so far would have been made at the rate exactly.
    second: u64,
    minute: u64,
    in_flight: u32,
    window: u64,
    in_window: u32,
}

/// A request in flight that counts, until dropped.
#[derive(Debug)]
pub(crate) struct ZonePermit {
    zone: Arc<Zone>,
    client: Client,
}

impl Zone {
    pub(crate) fn new(rules: ZoneRules) -> Zone {
        let shards = std::array::from_fn(|_| Mutex::default());
        Zone { rules, hasher: RandomState::default(), shards }
    }

    pub(crate) fn rules(&self) -> &ZoneRules {
        &self.rules
    }

    /// Counts a request of a client; the permit, if there is one, is to be held while the request
    /// is in flight.
    pub(crate) fn admit(
        self: &Arc<Zone>,
        client: Client,
        now: u64,
    ) -> Result<Option<ZonePermit>, TooMany> {
        let rules = &self.rules;
        if rules.per_second.is_none() && rules.per_minute.is_none() && rules.in_flight.is_none() {
            return Ok(None);
        }
        let key = Key::Client(client);
        let mut shard = self.shard(&key);
        let state = state(&mut shard, key, now).ok_or(TooMany::OfClient)?;
        let (second, minute) = (state.second, state.minute);
        let fits = |rate: Option<Rate>, paid: u64| rate.is_none_or(|rate| rate.fits(paid, now));
        let has_room = rules.in_flight.is_none_or(|max| state.in_flight < max);
        if !(fits(rules.per_second, second) && fits(rules.per_minute, minute) && has_room) {
            return Err(TooMany::OfClient);
        }
        let after = |rate: Option<Rate>, paid| rate.map_or(0, |rate| rate.after(paid, now));
        state.second = after(rules.per_second, second);
        state.minute = after(rules.per_minute, minute);
        if rules.in_flight.is_none() {
            return Ok(None);
        }
        state.in_flight += 1;
        Ok(Some(ZonePermit { zone: self.clone(), client }))
    }

    /// Counts a request by a key in its window.
    pub(crate) fn admit_key(&self, key: &str, now: u64) -> Result<(), TooMany> {
        let Some(window) = self.rules.window else { return Ok(()) };
        let end = key.floor_char_boundary(MAX_KEY_BYTES);
        let key = Key::Text(key[..end].into());
        let mut shard = self.shard(&key);
        let state = state(&mut shard, key, now).ok_or(TooMany::InWindow)?;
        let current = now / window.micros;
        if state.window != current {
            (state.window, state.in_window) = (current, 0);
        }
        if state.in_window >= window.requests {
            return Err(TooMany::InWindow);
        }
        state.in_window += 1;
        state.second = (current + 1) * window.micros;
        Ok(())
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, State, RandomState>> {
        use std::hash::BuildHasher as _;
        let at = (self.hasher.hash_one(key) >> 32) as usize % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn known(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().len()).sum()
    }
}

/// The state of a key; `None` if the table is full of clients that have requests in flight.
fn state(shard: &mut HashMap<Key, State, RandomState>, key: Key, now: u64) -> Option<&mut State> {
    if shard.len() >= MAX_KEYS_PER_SHARD && !shard.contains_key(&key) {
        // The first that nothing is held against, or, among many that have used their share up,
        // one that has nothing in flight.
        const LOOKED_AT: usize = 64;
        let idle = |state: &State| state.in_flight == 0;
        let spent = |state: &State| idle(state) && state.second.max(state.minute) <= now;
        let mut some = shard.iter().take(LOOKED_AT);
        let found = some.find(|(_, state)| spent(state));
        let found = found.or_else(|| shard.iter().find(|(_, state)| idle(state)));
        let forgotten = found.map(|(key, _)| key.clone())?;
        shard.remove(&forgotten);
    }
    Some(shard.entry(key).or_default())
}

impl Rate {
    /// So many requests in a period of so many microseconds.
    pub(crate) fn new(requests: u32, period: u64, burst_multiplier: u32) -> Rate {
        let burst = u64::from(requests) * u64::from(burst_multiplier);
        Rate { interval: period / u64::from(requests.max(1)), burst }
    }

    fn fits(self, paid: u64, now: u64) -> bool {
        paid.saturating_sub(now) <= self.burst * self.interval
    }

    fn after(self, paid: u64, now: u64) -> u64 {
        paid.max(now) + self.interval
    }
}

impl Drop for ZonePermit {
    fn drop(&mut self) {
        let key = Key::Client(self.client);
        if let Some(state) = self.zone.shard(&key).get_mut(&key) {
            state.in_flight = state.in_flight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn client(last: u8) -> Client {
        Client::of(std::net::Ipv4Addr::new(192, 0, 2, last).into())
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let per_second = Some(Rate::new(1, SECOND, 5));
        let zone = Arc::new(Zone::new(ZoneRules { per_second, ..ZoneRules::default() }));
        let admitted = |now| (0..10).filter(|_| zone.admit(client(1), now).is_ok()).count();
        assert_eq!(admitted(SECOND), 6);
        assert_eq!(admitted(SECOND), 0);
        assert_eq!(admitted(3 * SECOND), 2);
        assert_eq!(admitted(100 * SECOND), 6);
        assert!(zone.admit(client(2), SECOND).is_ok(), "another client");
    }

    #[test]
    fn both_rates_hold() {
        let rules = ZoneRules {
            per_second: Some(Rate::new(10, SECOND, 1)),
            per_minute: Some(Rate::new(2, 60 * SECOND, 1)),
            ..ZoneRules::default()
        };
        let zone = Arc::new(Zone::new(rules));
        assert_eq!((0..9).filter(|_| zone.admit(client(1), 0).is_ok()).count(), 3);
    }

    #[test]
    fn requests_in_flight_are_counted_until_they_end() {
        let rules = ZoneRules { in_flight: Some(2), ..ZoneRules::default() };
        let zone = Arc::new(Zone::new(rules));
        let first = zone.admit(client(1), 0).unwrap();
        let second = zone.admit(client(1), 0).unwrap();
        assert_eq!(zone.admit(client(1), 0).unwrap_err(), TooMany::OfClient);
        drop(first);
        assert!(zone.admit(client(1), 0).is_ok());
        drop(second);
    }

    #[test]
    fn a_window_begins_anew() {
        let window = Some(Window { requests: 3, micros: 60 * SECOND });
        let zone = Zone::new(ZoneRules { window, ..ZoneRules::default() });
        let admitted = |now| (0..5).filter(|_| zone.admit_key("k", now).is_ok()).count();
        assert_eq!(admitted(60 * SECOND), 3);
        assert_eq!(admitted(119 * SECOND), 0);
        assert_eq!(admitted(120 * SECOND), 3);
    }

    #[test]
    fn the_table_is_bounded() {
        let per_second = Some(Rate::new(1, SECOND, 5));
        let in_flight = Some(1);
        let zone = Arc::new(Zone::new(ZoneRules { per_second, in_flight, ..ZoneRules::default() }));
        let held = zone.admit(client(1), 0).unwrap();
        for n in 0..(2 * SHARDS * MAX_KEYS_PER_SHARD) as u32 {
            let other = Client::of(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into());
            assert!(zone.admit(other, 0).is_ok());
        }
        assert!(zone.known() <= SHARDS * MAX_KEYS_PER_SHARD);
        assert!(zone.admit(client(1), 0).is_err(), "what is in flight is not forgotten");
        drop(held);
    }
}
