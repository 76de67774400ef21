//! Shares of what there is a limited number of: connections, watches and lists.
//!
//! A client that takes all it can get must leave something to the others, and what tells clients
//! apart before they show a token is their address.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What all clients of this machine together leave to the others is one part in so many. Many
/// processes share the machine's addresses, and whoever runs on it has other ways to harm it.
const RESERVE: usize = 16;
/// A customer of an IPv6 network has as many addresses as 64 bits count, so they are one.
const PREFIX_BITS: u32 = 64;
/// Between warnings about clients that were refused: they try again soon, many at once.
const WARN_AGAIN: Duration = Duration::from_secs(30);

/// Who takes a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// This machine: a Unix socket, loopback, or an address of its own.
    Local,
    Address(IpAddr),
}

impl Client {
    /// The client that connected from one address to another.
    pub(crate) fn of(from: IpAddr, to: IpAddr) -> Client {
        match from.to_canonical() {
            ip if ip.is_loopback() || ip == to.to_canonical() => Client::Local,
            IpAddr::V6(ip) => {
                let network = ip.to_bits() >> (128 - PREFIX_BITS) << (128 - PREFIX_BITS);
                Client::Address(Ipv6Addr::from_bits(network).into())
            }
            ip => Client::Address(ip),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Client::Local => f.write_str("this machine"),
            Client::Address(IpAddr::V6(ip)) => write!(f, "{ip}/{PREFIX_BITS}"),
            Client::Address(ip) => write!(f, "{ip}"),
        }
    }
}

/// A number of places, shared among clients. `clone` shares them.
#[derive(Clone, Debug)]
pub(crate) struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// For the log, and the name of the flag.
    what: &'static str,
    total: usize,
    /// Of one address.
    of_one: usize,
    /// Of this machine.
    of_local: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_client: HashMap<Client, usize>,
    warned: Option<Instant>,
}

/// One place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    client: Client,
}

impl Shares {
    /// `percent` is what one address may take of `total`, and at least one.
    pub(crate) fn new(what: &'static str, total: usize, percent: u8) -> Shares {
        let percent = usize::from(percent);
        // In two parts, so that no total is too large.
        let of_one = (total / 100 * percent + total % 100 * percent / 100).max(1);
        let of_local = total - total / RESERVE;
        Shares(Arc::new(Inner { what, total, of_one, of_local, held: Mutex::default() }))
    }

    /// Takes a place; `None` when there is none for this client.
    pub(crate) fn take(&self, client: Client) -> Option<Share> {
        let Inner { what, total, of_one, of_local, .. } = *self.0;
        let mut held = self.held();
        let all = held.all;
        let own = held.by_client.get(&client).copied().unwrap_or_default();
        let limit = if client == Client::Local { of_local } else { of_one };
        if all >= total || own >= limit {
            if held.warned.is_none_or(|warned| warned.elapsed() >= WARN_AGAIN) {
                held.warned = Some(Instant::now());
                drop(held);
                tracing::warn!(
                    %client,
                    held = own,
                    limit,
                    all,
                    total,
                    "clients are refused {what}: raise --max-{what} or --max-share-per-client"
                );
            }
            return None;
        }
        held.all += 1;
        *held.by_client.entry(client).or_default() += 1;
        drop(held);
        Some(Share { shares: self.clone(), client })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.held();
        held.all -= 1;
        if let Some(own) = held.by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                held.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(from: &str, to: &str, expected: &str) {
        assert_eq!(Client::of(ip(from), ip(to)).to_string(), expected, "{from}");
    }

    #[test]
    fn clients_are_told_apart_by_address() {
        check("127.0.0.1", "127.0.0.1", "this machine");
        check("::ffff:127.3.0.1", "::ffff:127.0.0.1", "this machine");
        check("::1", "::1", "this machine");
        check("192.0.2.1", "192.0.2.1", "this machine");
        check("192.0.2.2", "192.0.2.1", "192.0.2.2");
        check("::ffff:192.0.2.2", "::ffff:192.0.2.1", "192.0.2.2");
        check("2001:db8:1:2:3::4", "2001:db8::1", "2001:db8:1:2::/64");
    }

    /// As many as that client gets.
    fn taken(shares: &Shares, client: Client) -> Vec<Share> {
        std::iter::from_fn(|| shares.take(client)).collect()
    }

    #[test]
    fn one_address_leaves_half_and_this_machine_a_reserve() {
        let shares = Shares::new("things", 32, 50);
        let [one, other, third] =
            ["192.0.2.2", "192.0.2.3", "192.0.2.4"].map(|text| Client::Address(ip(text)));
        let of_one = taken(&shares, one);
        assert_eq!(of_one.len(), 16);
        let of_other = taken(&shares, other);
        assert_eq!((of_other.len(), taken(&shares, third).len()), (16, 0), "all are taken");
        drop(of_one);
        assert_eq!(taken(&shares, third).len(), 16);
        drop(of_other);
        let local = taken(&shares, Client::Local);
        assert_eq!((local.len(), taken(&shares, one).len()), (30, 2));
        drop(local);
        assert!(shares.held().by_client.is_empty() && shares.held().all == 0);
    }

    #[test]
    fn small_numbers_can_be_used_up() {
        let shares = Shares::new("things", 1, 50);
        assert_eq!(taken(&shares, Client::Local).len(), 1);
        assert_eq!(taken(&shares, Client::Address(ip("192.0.2.2"))).len(), 1);
    }
}
