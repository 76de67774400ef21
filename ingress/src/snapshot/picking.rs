//! Picks endpoints by other methods than turns, and within limits.
//!
//! Pure: what is random, and the time, are arguments. Tables for hashing are made together with the
//! list of endpoints, by the thread that compiles the snapshot, because a table for thousands of
//! endpoints takes longer than a request may wait.

use std::sync::{Arc, OnceLock};

use balance::{Maglev, Member as _, Rotation, pick_of_two};

use super::endpoint::{Counted, Endpoint};
use super::policy::{Balancing, Method};
use crate::room::Room;

/// An endpoint that begins slowly gets this share of its turns at first.
const FIRST_SHARE: f64 = 0.1;

/// What a pick needs from outside.
pub(crate) struct Draw<'a> {
    pub(crate) now_ms: u64,
    /// 64 random bits each time.
    pub(crate) random: &'a dyn Fn() -> u64,
    /// The hash of what the request is known by, where it is spread by that.
    pub(crate) key: Option<u64>,
    /// The endpoint that the client keeps, if it is to have no other.
    pub(crate) only: Option<&'a Arc<Endpoint>>,
}

#[cfg(test)]
impl Draw<'_> {
    /// At the clock's beginning, with nothing random.
    pub(crate) const FIXED: Draw<'static> = Draw::at(0);

    pub(crate) const fn at(now_ms: u64) -> Draw<'static> {
        Draw { now_ms, random: &|| 0, key: None, only: None }
    }
}

/// An endpoint that was picked.
#[derive(Debug)]
pub(crate) struct Pick {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Where its requests are counted.
    pub(crate) counted: Option<Counted>,
}

/// Tables for hashing over one list of endpoints: those that its requests need. One that was not
/// made ahead is made by the first request that needs it.
#[derive(Debug, Default)]
pub(super) struct Tables {
    single: OnceLock<Table>,
    groups: OnceLock<Table>,
}

/// What requests are spread by, as far as tables are made for it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Needed {
    /// Cookies lead to endpoints.
    pub(super) by_cookie: bool,
    /// Size of the groups that keys lead to; 1 for endpoints.
    pub(super) by_key: Option<usize>,
}

impl Needed {
    pub(super) fn of(balancing: Option<&Balancing>, by_cookie: bool) -> Needed {
        let by_key = balancing.and_then(|balancing| match balancing.method {
            Method::Hash { subset } => Some(subset.unwrap_or(1)),
            _ => None,
        });
        Needed { by_cookie, by_key }
    }
}

/// A table of groups of endpoints.
#[derive(Debug)]
struct Table {
    maglev: Arc<Maglev>,
    /// Positions in the list, in the order of addresses, so that all processes agree.
    sorted: Box<[usize]>,
    size: usize,
}

impl Table {
    fn new(list: &[Arc<Endpoint>], size: usize) -> Table {
        Table::after(list, size, None)
    }

    /// The same addresses in another order need no other places.
    fn after(
        list: &[Arc<Endpoint>],
        size: usize,
        before: Option<(&[Arc<Endpoint>], &Table)>,
    ) -> Table {
        let mut sorted: Vec<usize> = (0..list.len()).collect();
        sorted.sort_unstable_by_key(|at| list[*at].address);
        let addresses = sorted.iter().map(|at| list[*at].address);
        let same = before.filter(|(old_list, old)| {
            let old_addresses = old.sorted.iter().map(|at| old_list[*at].address);
            old.size == size && old_addresses.eq(addresses)
        });
        let maglev = match same {
            Some((_, old)) => old.maglev.clone(),
            None => {
                // A group is known by its first member.
                let names = sorted.chunks(size).map(|group| list[group[0]].address);
                Arc::new(Maglev::new(names))
            }
        };
        Table { maglev, sorted: sorted.into(), size }
    }

    /// The positions of a group's members; the last group is filled up from the beginning.
    fn group(&self, number: usize) -> impl Iterator<Item = usize> + Clone {
        let from = number * self.size;
        let count = self.size.min(self.sorted.len());
        (from..from + count).map(|at| self.sorted[at % self.sorted.len()])
    }

    /// A random member that suits of the group for a key.
    fn find(&self, key: u64, random: u64, suits: impl Fn(usize) -> bool) -> Option<usize> {
        let has_one = |number| self.group(number).any(&suits);
        let group = self.group(self.maglev.pick(key, has_one)?);
        let count = group.clone().filter(|at| suits(*at)).count() as u64;
        group.filter(|at| suits(*at)).nth((random % count.max(1)) as usize)
    }
}

impl Tables {
    /// The tables for a list that comes after another.
    pub(super) fn after(
        list: &[Arc<Endpoint>],
        needed: Needed,
        (old_list, old): (&[Arc<Endpoint>], &Tables),
    ) -> Tables {
        let tables = Tables::default();
        if needed.by_cookie || needed.by_key == Some(1) {
            let before = old.single.get().map(|table| (old_list, table));
            tables.single.get_or_init(|| Table::after(list, 1, before));
        }
        if let Some(size) = needed.by_key.filter(|size| *size > 1) {
            let before = old.groups.get().map(|table| (old_list, table));
            tables.groups.get_or_init(|| Table::after(list, size, before));
        }
        tables
    }

    /// The endpoint for a request, of those that suit.
    pub(super) fn pick(
        &self,
        rotation: &Rotation<Arc<Endpoint>>,
        (balancing, room): (&Balancing, Option<&Arc<Room>>),
        suits: impl Fn(&Arc<Endpoint>) -> bool,
        draw: &Draw<'_>,
    ) -> Option<Pick> {
        let max = balancing.most_in_flight();
        let has_room = |e: &Arc<Endpoint>| suits(e) && e.load().in_flight() < max;
        let is_preferred =
            |e: &Arc<Endpoint>| has_room(e) && e.is_healthy() && takes_turn(e, balancing, draw);
        // Another thread may take the last room of the endpoint that is picked.
        for _ in 0..=rotation.members().len() {
            let mut picked = None;
            if balancing.slow_start.is_some() || balancing.health.is_some() {
                picked = self.by_method(rotation, balancing, is_preferred, draw);
            }
            let by_all = || self.by_method(rotation, balancing, has_room, draw);
            let endpoint = picked.or_else(by_all)?;
            if let Some(counted) = Counted::begin(&endpoint, max, room) {
                return Some(Pick { endpoint, counted: Some(counted) });
            }
        }
        None
    }

    fn by_method(
        &self,
        rotation: &Rotation<Arc<Endpoint>>,
        balancing: &Balancing,
        suits: impl Fn(&Arc<Endpoint>) -> bool,
        draw: &Draw<'_>,
    ) -> Option<Arc<Endpoint>> {
        let (list, now_ms) = (rotation.members(), || draw.now_ms);
        let picked = match (balancing.method, draw.key) {
            (Method::LeastRequests, _) => {
                let cost = |e: &Arc<Endpoint>| e.load().in_flight();
                pick_of_two(list, (draw.random)(), suits, cost, now_ms)
            }
            (Method::PeakEwma, _) => {
                let cost = |e: &Arc<Endpoint>| e.load().cost(draw.now_ms);
                pick_of_two(list, (draw.random)(), suits, cost, now_ms)
            }
            (Method::Hash { subset }, Some(key)) => {
                return self.by_key(list, (key, subset), suits, draw);
            }
            (Method::RoundRobin | Method::Hash { .. }, _) => rotation.pick(suits, now_ms),
        };
        picked.cloned()
    }

    /// The endpoint of a key, whatever its state.
    pub(super) fn of_key(&self, list: &[Arc<Endpoint>], key: u64) -> Option<Arc<Endpoint>> {
        let table = self.single.get_or_init(|| Table::new(list, 1));
        table.find(key, 0, |_| true).map(|at| list[at].clone())
    }

    /// The endpoint of a key, alone or as a member of a group of this size.
    fn by_key(
        &self,
        list: &[Arc<Endpoint>],
        (key, subset): (u64, Option<usize>),
        suits: impl Fn(&Arc<Endpoint>) -> bool,
        draw: &Draw<'_>,
    ) -> Option<Arc<Endpoint>> {
        let table = match subset.filter(|size| *size > 1) {
            None => self.single.get_or_init(|| Table::new(list, 1)),
            Some(size) => self.groups.get_or_init(|| Table::new(list, size)),
        };
        let random = if subset.is_some() { (draw.random)() } else { 0 };
        let now_ms = || draw.now_ms;
        let awake = |at: usize| suits(&list[at]) && !list[at].rest().lasts(now_ms);
        if let Some(at) = table.find(key, random, awake) {
            if list[at].rest().try_again(now_ms) {
                return Some(list[at].clone());
            }
            // Another pick already tries it.
            let others = |other: usize| other != at && awake(other);
            if let Some(other) = table.find(key, random, others) {
                return Some(list[other].clone());
            }
        }
        let fallback = |at: usize| suits(&list[at]) && !list[at].rest().is_strict(now_ms);
        table.find(key, random, fallback).map(|at| list[at].clone())
    }
}

/// Whether an endpoint takes its turn: one that is new takes few at first.
fn takes_turn(endpoint: &Endpoint, balancing: &Balancing, draw: &Draw<'_>) -> bool {
    let Some(period_ms) = balancing.slow_start.map(|period| period.as_millis() as f64) else {
        return true;
    };
    let share = endpoint.age_ms(draw.now_ms) as f64 / period_ms;
    if share >= 1.0 {
        return true;
    }
    let random = ((draw.random)() >> 11) as f64 / (1_u64 << 53) as f64;
    random < share.max(FIRST_SHARE)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashSet;
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::super::backend::Backend;
    use super::super::policy::{HealthCheck, Probe};
    use super::*;

    fn backend(count: u8, balancing: Balancing) -> Backend {
        let addresses: Vec<SocketAddr> =
            (1..=count).map(|last| ([10, 0, 0, last], 80).into()).collect();
        let backend = Backend::serving(&addresses);
        backend.balance(balancing);
        backend
    }

    /// Random bits that are the same in each run.
    fn random() -> impl Fn() -> u64 {
        let state = Cell::new(7_u64);
        move || {
            let mut x = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
            state.set(x);
            x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ x >> 31
        }
    }

    fn picks(backend: &Backend, key: Option<u64>, now_ms: u64, count: usize) -> Vec<SocketAddr> {
        let random = random();
        let draw = Draw { now_ms, random: &random, key, only: None };
        let pick = |_| backend.endpoints().pick(|_| true, &draw).map(|pick| pick.endpoint.address);
        (0..count).filter_map(pick).collect()
    }

    fn method(method: Method) -> Balancing {
        Balancing { method, ..Balancing::default() }
    }

    #[test]
    fn a_key_has_one_endpoint_or_the_members_of_one_group() {
        let distinct = |picks: Vec<SocketAddr>| picks.into_iter().collect::<HashSet<_>>().len();
        let single = backend(6, method(Method::Hash { subset: None }));
        let groups = backend(6, method(Method::Hash { subset: Some(3) }));
        let uneven = backend(7, method(Method::Hash { subset: Some(3) }));
        for key in (0..50_u64).map(balance::hash_of) {
            assert_eq!(distinct(picks(&single, Some(key), 0, 20)), 1);
            assert_eq!(distinct(picks(&groups, Some(key), 0, 100)), 3);
            assert_eq!(distinct(picks(&uneven, Some(key), 0, 100)), 3);
        }
        let all = (0..200_u64).flat_map(|key| picks(&single, Some(balance::hash_of(key)), 0, 1));
        assert_eq!(distinct(all.collect()), 6);
        // Without a key they take turns.
        assert_eq!(distinct(picks(&single, None, 0, 6)), 6);
    }

    /// The first request after each change of endpoints made the table, on its data thread.
    #[test]
    fn tables_are_made_with_the_list_of_endpoints() {
        let made = |backend: &Backend| {
            let endpoints = backend.endpoints();
            let tables = endpoints.tables();
            [&tables.single, &tables.groups].map(|table| table.get().is_some())
        };
        let maglev = |backend: &Backend| {
            backend.endpoints().tables().single.get().map(|table| table.maglev.clone())
        };
        let single = backend(6, method(Method::Hash { subset: None }));
        assert_eq!(made(&single), [true, false]);
        assert_eq!(made(&backend(6, method(Method::Hash { subset: Some(3) }))), [false, true]);
        assert_eq!(made(&backend(6, method(Method::PeakEwma))), [false, false]);
        let before = maglev(&single).unwrap();
        let addresses = single.endpoints().addresses();
        // In another order, because turns were taken.
        single
            .balance(Balancing { max_in_flight: Some(9), ..method(Method::Hash { subset: None }) });
        assert!(Arc::ptr_eq(&before, &maglev(&single).unwrap()), "the same addresses");
        single.replace(&addresses[1..]);
        assert_eq!(made(&single), [true, false]);
        assert!(!Arc::ptr_eq(&before, &maglev(&single).unwrap()));
    }

    #[test]
    fn the_key_of_an_endpoint_that_rests_goes_elsewhere_and_returns() {
        let backend = backend(4, method(Method::Hash { subset: None }));
        let key = Some(balance::hash_of("key"));
        let own = picks(&backend, key, 0, 1)[0];
        let endpoints = backend.endpoints();
        let endpoint = endpoints.list().iter().find(|e| e.address == own).unwrap();
        endpoint.failed(balance::Failure::Refused, 0);
        let other = picks(&backend, key, 1, 3);
        assert!(other.iter().all(|address| *address == other[0] && *address != own));
        // One pick tries it again, the others do not wait for it.
        let after = picks(&backend, key, 1_000, 3);
        assert_eq!(after, [own, other[0], other[0]]);
        endpoint.connected();
        assert_eq!(picks(&backend, key, 1_001, 2), [own, own]);
    }

    #[test]
    fn no_endpoint_has_more_requests_than_its_limit() {
        for method in [Method::RoundRobin, Method::LeastRequests, Method::PeakEwma] {
            let limited = Balancing { method, max_in_flight: Some(2), ..Balancing::default() };
            let backend = backend(3, limited);
            let random = random();
            let draw = Draw { now_ms: 0, random: &random, key: None, only: None };
            let mut busy: Vec<Pick> =
                (0..9).filter_map(|_| backend.endpoints().pick(|_| true, &draw)).collect();
            assert_eq!(busy.len(), 6, "{method:?}");
            let freed = busy.pop().unwrap().endpoint.address;
            let next = backend.endpoints().pick(|_| true, &draw).unwrap();
            assert_eq!(next.endpoint.address, freed);
        }
    }

    #[test]
    fn unhealthy_endpoints_are_used_only_if_all_are() {
        let check = HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            healthy_threshold: 1,
            unhealthy_threshold: 1,
        };
        for method in [Method::RoundRobin, Method::PeakEwma] {
            let health = Some(check.clone());
            let backend = backend(3, Balancing { method, health, ..Balancing::default() });
            let endpoints = backend.endpoints();
            let used = || picks(&backend, None, 0, 60).into_iter().collect::<HashSet<_>>();
            endpoints.list()[0].set_healthy(false);
            assert_eq!(used().len(), 2);
            assert!(!used().contains(&endpoints.list()[0].address));
            endpoints.list().iter().for_each(|endpoint| endpoint.set_healthy(false));
            assert_eq!(used().len(), 3);
        }
    }

    #[test]
    fn a_new_endpoint_begins_with_few_requests() {
        let slow_start = Some(Duration::from_secs(10));
        let backend = backend(2, Balancing { slow_start, ..Balancing::default() });
        picks(&backend, None, 1, 10);
        let old: Vec<_> = (1..=2).map(|last| SocketAddr::from(([10, 0, 0, last], 80))).collect();
        let new = SocketAddr::from(([10, 0, 0, 3], 80));
        backend.replace(&[old, vec![new]].concat());
        let share = |now_ms| {
            let picks = picks(&backend, None, now_ms, 3_000);
            picks.iter().filter(|address| **address == new).count()
        };
        let early = share(20_000);
        assert!((50..200).contains(&early), "{early} of 3,000");
        let half = share(25_000);
        assert!((400..800).contains(&half), "{half} of 3,000");
        assert_eq!(share(30_001), 1_000, "strict turns");
    }
}
