//! Limits how often one network gets the same answer over UDP, so that this server is of little use
//! to attackers who forge clients' addresses.
//!
//! Pure: time is passed in. A table of fixed size that all data threads share without a lock: a
//! lost update means one answer more or less.

use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use foldhash::fast::RandomState;
use ipnet::IpNet;

use crate::wire::Rcode;

/// Networks and answers that are told apart at one time.
const SLOTS: usize = 1 << 14;
/// Of the answers over the limit one in so many is sent, cut, so that an honest client can ask over
/// TCP; the others are dropped.
const SLIP: u32 = 2;
/// A network may save up answers for so long, in microseconds.
const BURST: u32 = 1_000_000;

/// The limits of answers, by network and answer.
#[derive(Debug)]
pub(crate) struct RateLimit {
    /// Microseconds from one answer to the next.
    interval: u32,
    exempt: Vec<IpNet>,
    /// A tag that tells the answers apart which share a slot, and the time up to which the slot has
    /// used its share, in microseconds.
    slots: Box<[AtomicU64]>,
    slipped: AtomicU32,
    hasher: RandomState,
}

/// What is done with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Send,
    /// A reply without records, with TC.
    Cut,
    Drop,
}

impl RateLimit {
    /// So many equal answers a second to each network; `None` for zero. Clients in `exempt` are
    /// never limited.
    pub(crate) fn new(per_second: u32, exempt: Vec<IpNet>) -> Option<RateLimit> {
        let interval = BURST.checked_div(per_second)?;
        Some(RateLimit {
            interval,
            exempt,
            slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            slipped: AtomicU32::new(0),
            hasher: RandomState::default(),
        })
    }

    pub(crate) fn is_exempt(&self, client: IpAddr) -> bool {
        self.exempt.iter().any(|net| net.contains(&client))
    }

    /// Decides about an answer of this code. `name` is the name asked about; answers that say no
    /// more than that there is nothing count together, because such names can be made up. `now` is
    /// microseconds since any beginning.
    pub(crate) fn judge(&self, client: IpAddr, name: &[u8], rcode: Rcode, now: u64) -> Verdict {
        let name = if rcode == Rcode::NOERROR { name } else { &[] };
        let hash = self.hasher.hash_one(Answer { network: network(client), name, rcode: rcode.0 });
        let slot = &self.slots[hash as usize % SLOTS];
        let tag = (hash >> 32) as u32;
        let (last_tag, used_up_to) = split(slot.load(Relaxed));
        // The time is kept in 32 bits and wraps around after 71 minutes.
        let now = now as u32;
        let ahead = used_up_to.wrapping_sub(now);
        let ahead = if last_tag == tag && ahead <= BURST + self.interval { ahead } else { 0 };
        if ahead + self.interval <= BURST.max(self.interval) {
            slot.store(join(tag, now.wrapping_add(ahead + self.interval)), Relaxed);
            return Verdict::Send;
        }
        match self.slipped.fetch_add(1, Relaxed) % SLIP {
            0 => Verdict::Cut,
            _ => Verdict::Drop,
        }
    }
}

#[derive(Hash)]
struct Answer<'a> {
    network: IpAddr,
    name: &'a [u8],
    rcode: u16,
}

/// An address's /24 (IPv4) or /56 (IPv6).
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 72 << 72).into(),
    }
}

fn split(slot: u64) -> (u32, u32) {
    ((slot >> 32) as u32, slot as u32)
}

fn join(tag: u32, used_up_to: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(used_up_to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn equal_answers_to_a_network_are_limited() {
        let limit = RateLimit::new(10, vec!["10.0.0.0/8".parse().unwrap()]).unwrap();
        let judge = |client: &str, name: &[u8], rcode, at: u64| {
            limit.judge(ip(client), name, rcode, at * 1000)
        };
        // Twenty-five minutes' worth of microseconds, so that the time wraps around.
        for begun in [0, 1_500_000, 4_294_900] {
            for number in 0..10 {
                let client = format!("192.0.2.{number}");
                assert_eq!(judge(&client, b"a", Rcode::NOERROR, begun), Verdict::Send, "{number}");
            }
            let verdicts: Vec<_> =
                (0..4).map(|_| judge("192.0.2.99", b"a", Rcode::NOERROR, begun)).collect();
            let dropped = verdicts.iter().filter(|v| **v == Verdict::Drop).count();
            assert_eq!((dropped, verdicts.contains(&Verdict::Send)), (2, false), "{verdicts:?}");
            assert_eq!(judge("192.0.2.1", b"b", Rcode::NOERROR, begun), Verdict::Send);
            assert_eq!(judge("192.0.3.1", b"a", Rcode::NOERROR, begun), Verdict::Send);
            assert_eq!(judge("192.0.2.1", b"a", Rcode::NOERROR, begun + 100), Verdict::Send);
            assert_ne!(judge("192.0.2.1", b"a", Rcode::NOERROR, begun + 100), Verdict::Send);
        }
        assert!(limit.is_exempt(ip("10.1.2.3")) && !limit.is_exempt(ip("192.0.2.1")));
    }

    #[test]
    fn made_up_names_count_together() {
        let limit = RateLimit::new(5, Vec::new()).unwrap();
        let sent = (0..100u32)
            .filter(|number| {
                let client = ip(&format!("2001:db8::{number:x}"));
                let name = number.to_be_bytes();
                limit.judge(client, &name, Rcode::NXDOMAIN, 1) == Verdict::Send
            })
            .count();
        assert_eq!(sent, 5);
        assert!(RateLimit::new(0, Vec::new()).is_none());
    }
}
