//! Which UDP session makes room when a new client finds none.
//!
//! Pure: the caller says how long each session has been idle. Sessions are shared out among client
//! addresses as a fair queue shares a link: the address with most sessions gives one up to an
//! address that would still have fewer, and no address has fewer than all can have. So one address
//! can have every session while no other wants any, as many clients behind one address do, and a
//! flood from a hundred addresses takes only what the others leave. Each step costs the logarithm
//! of the number of sessions.
//!
//! Left out: sessions of other data threads. The kernel spreads the sockets of a client over all
//! of them.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::room::{Full, client_of};

/// A session that was used within this time is in use: a healthy endpoint answers sooner, and most
/// clients ask again within it.
const IN_USE: Duration = Duration::from_secs(1);
/// Sessions looked at to find one that is not in use, beginning with the one that was not looked
/// at for longest.
const MAX_LOOKS: usize = 8;

/// The sessions of one data thread, by client. `M` says how to end one.
#[derive(Debug)]
pub(super) struct SessionShares<M> {
    next: u64,
    /// In the order in which they are looked at.
    members: BTreeMap<u64, Entry<M>>,
    clients: HashMap<IpAddr, BTreeSet<u64>>,
    /// How many each client has.
    counts: BTreeSet<(usize, IpAddr)>,
}

#[derive(Debug)]
struct Entry<M> {
    client: IpAddr,
    member: M,
    slot: SessionSlot,
}

/// Where a session stands in its shares.
#[derive(Clone, Debug)]
pub(super) struct SessionSlot(Rc<Cell<u64>>);

impl<M> Default for SessionShares<M> {
    fn default() -> SessionShares<M> {
        SessionShares {
            next: 0,
            members: BTreeMap::new(),
            clients: HashMap::new(),
            counts: BTreeSet::new(),
        }
    }
}

impl<M> SessionShares<M> {
    pub(super) fn join(&mut self, client: IpAddr, member: M) -> SessionSlot {
        let slot = SessionSlot(Rc::new(Cell::new(self.next)));
        self.insert(Entry { client: client_of(client), member, slot: slot.clone() });
        slot
    }

    /// The session is over. One that made room has left already.
    pub(super) fn leave(&mut self, slot: &SessionSlot) -> Option<M> {
        self.remove(slot.0.get()).map(|entry| entry.member)
    }

    /// The session that makes room for a new one of `newcomer`; it leaves the shares.
    pub(super) fn make_room(
        &mut self,
        newcomer: IpAddr,
        full: Full,
        idle: impl Fn(&M) -> Duration,
    ) -> Option<M> {
        let newcomer = client_of(newcomer);
        let has = |client| self.clients.get(&client).map_or(0, BTreeSet::len);
        let already = has(newcomer);
        if full == Full::Client {
            return self.least_used(Some(newcomer), idle, false);
        }
        let (most, client) = *self.counts.last()?;
        if most >= already + 2 {
            // In use or not: it has more than its share.
            return self.least_used(Some(client), idle, true);
        }
        if most == already && most > 1 {
            return self.least_used(Some(newcomer), idle, false);
        }
        // All have as many as each other, or one more.
        if already == 0 { self.least_used(None, idle, false) } else { None }
    }

    /// One of a client, or of all, that is not in use; if all that were looked at are, and it
    /// `must` be one, the one that was idle for longest.
    fn least_used(
        &mut self,
        client: Option<IpAddr>,
        idle: impl Fn(&M) -> Duration,
        must: bool,
    ) -> Option<M> {
        let mut longest: Option<(Duration, SessionSlot)> = None;
        for _ in 0..MAX_LOOKS {
            let number = match client {
                Some(client) => *self.clients.get(&client)?.first()?,
                None => *self.members.first_key_value()?.0,
            };
            let entry = self.remove(number)?;
            let unused = idle(&entry.member);
            if unused >= IN_USE {
                return Some(entry.member);
            }
            if longest.as_ref().is_none_or(|(most, _)| unused > *most) {
                longest = Some((unused, entry.slot.clone()));
            }
            // The others have their turn to be looked at.
            self.insert(entry);
        }
        let (_, slot) = longest.filter(|_| must)?;
        self.leave(&slot)
    }

    fn insert(&mut self, entry: Entry<M>) {
        let number = self.next;
        self.next += 1;
        entry.slot.0.set(number);
        let held = self.clients.entry(entry.client).or_default();
        self.counts.remove(&(held.len(), entry.client));
        held.insert(number);
        self.counts.insert((held.len(), entry.client));
        self.members.insert(number, entry);
    }

    fn remove(&mut self, number: u64) -> Option<Entry<M>> {
        let entry = self.members.remove(&number)?;
        if let Some(held) = self.clients.get_mut(&entry.client) {
            self.counts.remove(&(held.len(), entry.client));
            held.remove(&number);
            match held.len() {
                0 => drop(self.clients.remove(&entry.client)),
                count => drop(self.counts.insert((count, entry.client))),
            }
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// Client, and milliseconds without a datagram.
    type Held = (u8, u64);

    fn shares(held: &[Held]) -> SessionShares<Held> {
        let mut shares = SessionShares::default();
        held.iter().for_each(|held| drop(shares.join(ip(held.0), *held)));
        shares
    }

    fn idle(held: &Held) -> Duration {
        Duration::from_millis(held.1)
    }

    /// `held`: in the order in which they began; `expected`: who makes room.
    fn check(held: &[Held], (newcomer, full): (u8, Full), expected: Option<Held>) {
        let mut shares = shares(held);
        let gone = shares.make_room(ip(newcomer), full, idle);
        assert_eq!(gone, expected, "{held:?} {newcomer} {full:?}");
        let left = held.len() - usize::from(gone.is_some());
        assert_eq!(shares.members.len(), left);
        assert_eq!(shares.clients.values().map(BTreeSet::len).sum::<usize>(), left);
        assert_eq!(shares.counts.iter().map(|(count, _)| count).sum::<usize>(), left);
    }

    #[test]
    fn whoever_has_most_gives_one_up() {
        let all = Full::All;
        check(&[], (1, all), None);
        check(&[(1, 9000), (1, 2000), (2, 9000)], (3, all), Some((1, 9000)));
        // The first that is not in use, and if all are, the one that is so least.
        check(&[(1, 900), (1, 2000), (2, 9000)], (3, all), Some((1, 2000)));
        check(&[(1, 10), (1, 30), (1, 20), (2, 9000)], (3, all), Some((1, 30)));
        // A client with as many as anybody gives one up itself, unless all of its are in use.
        check(&[(1, 10), (1, 2000), (2, 10), (2, 2001)], (2, all), Some((2, 2001)));
        check(&[(1, 10), (1, 2000), (2, 10), (2, 11)], (2, all), None);
        // Nobody gives one up to a client that would then have more.
        check(&[(1, 9000), (1, 9000), (2, 10)], (2, all), None);
        check(&[(1, 9000), (1, 9000), (1, 9000), (2, 10)], (2, all), Some((1, 9000)));
    }

    #[test]
    fn where_each_has_one_a_newcomer_gets_one_that_nobody_uses() {
        check(&[(1, 10), (2, 3000), (3, 9000)], (4, Full::All), Some((2, 3000)));
        check(&[(1, 10), (2, 20)], (4, Full::All), None);
        check(&[(1, 9000), (2, 9000)], (1, Full::All), None);
    }

    #[test]
    fn a_client_with_a_limit_of_its_own_makes_room_for_itself() {
        check(&[(1, 10), (1, 2000), (2, 9000), (2, 9000)], (1, Full::Client), Some((1, 2000)));
        check(&[(1, 10), (2, 9000), (2, 9000)], (1, Full::Client), None);
        check(&[(2, 9000)], (1, Full::Client), None);
    }

    #[test]
    fn those_in_use_do_not_hide_the_others_for_long() {
        let mut held = vec![(1, 10); 3 * MAX_LOOKS];
        held.push((1, 5000));
        let mut shares = shares(&held);
        let mut looks = || shares.make_room(ip(1), Full::Client, idle);
        assert_eq!([looks(), looks(), looks(), looks()], [None, None, None, Some((1, 5000))]);
    }

    #[test]
    fn networks_of_ipv6_are_one_client_and_who_left_is_forgotten() {
        let six = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut shares = SessionShares::default();
        let places: Vec<SessionSlot> = ["fd00:0:0:1::1", "fd00:0:0:1::2", "fd00:0:0:2::1"]
            .iter()
            .enumerate()
            .map(|(number, addr)| shares.join(six(addr), number))
            .collect();
        let made = shares.make_room(ip(1), Full::All, |_| Duration::ZERO);
        assert_eq!(made, Some(0));
        assert_eq!(
            places.iter().map(|slot| shares.leave(slot)).collect::<Vec<_>>(),
            [None, Some(1), Some(2)]
        );
        assert!(shares.members.is_empty() && shares.clients.is_empty() && shares.counts.is_empty());
    }

    #[test]
    fn a_hundred_addresses_leave_each_other_and_newcomers_their_share() {
        const SESSIONS: usize = 300;
        let mut shares: SessionShares<Held> = SessionShares::default();
        // Some that flood, and one that asks now and then: all are in use.
        let mut served = 0;
        for turn in 0..20_000_u64 {
            let calm = turn % 50 == 0;
            let client = if calm { 200 } else { (turn * 7 % 101) as u8 };
            let full = shares.members.len() >= SESSIONS;
            if full && shares.make_room(ip(client), Full::All, |_| Duration::ZERO).is_none() {
                continue;
            }
            shares.join(ip(client), (client, 0));
            served += usize::from(calm);
        }
        let counts: Vec<usize> = shares.counts.iter().map(|(count, _)| *count).collect();
        assert_eq!((counts.len(), counts.iter().sum::<usize>()), (102, SESSIONS));
        assert!(counts.iter().all(|count| (2..=3).contains(count)), "{counts:?}");
        assert!(served >= 2, "{served}");
    }
}
