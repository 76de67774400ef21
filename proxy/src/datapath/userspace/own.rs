//! The addresses that this process itself listens on: no endpoint may be one of them.
//!
//! Control keeps the set, the data threads look at it at each pick. Two Services that name each
//! other's frontends as endpoints would make one connection into a ring that takes every
//! descriptor and never ends; Kubernetes rules it out ("endpoint IPs cannot be the cluster IPs
//! of other Services"), and in the kernel modes an address is translated only once.
//!
//! Left out: rings through other processes, which only a protocol above TCP could see.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use model::Protocol;

use super::sockets;
use super::worker::Bound;

/// A set that its one writer changes and publishes, and that is read without waiting.
#[derive(Debug, Default)]
pub(crate) struct Own {
    listening: ArcSwap<Addresses>,
    /// Whose addresses are this host's by a route.
    ranges: Vec<IpNet>,
}

/// Every address that this process listens on. `clone` is O(1).
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses(imbl::OrdSet<(Protocol, u16, IpAddr)>);

impl Own {
    pub(super) fn new(ranges: Vec<IpNet>) -> Own {
        Own { listening: ArcSwap::default(), ranges }
    }

    pub(super) fn publish(&self, addresses: &Addresses) {
        self.listening.store(addresses.clone().into());
    }

    /// Whether a connection to the address would come back to this process.
    pub(crate) fn has(&self, protocol: Protocol, addr: SocketAddr) -> bool {
        let addresses = self.listening.load();
        // A connect to `::ffff:192.0.2.1` goes to 192.0.2.1.
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        addresses.has((protocol, addr))
            || addresses.has((protocol, SocketAddr::new(wildcard(addr.ip()), addr.port())))
                && (self.ranges.iter().any(|range| range.contains(&addr.ip()))
                    || sockets::is_local(addr.ip()))
    }
}

impl Addresses {
    pub(super) fn insert(&mut self, (protocol, addr): Bound) {
        self.0.insert((protocol, addr.port(), addr.ip()));
    }

    pub(super) fn remove(&mut self, (protocol, addr): Bound) {
        self.0.remove(&(protocol, addr.port(), addr.ip()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, (protocol, addr): Bound) -> bool {
        self.0.contains(&(protocol, addr.port(), addr.ip()))
    }

    /// Whether one of them has the port on a wildcard address that covers this one, or this one
    /// is a wildcard that covers it.
    pub(super) fn overlap(&self, (protocol, addr): Bound) -> bool {
        let any = wildcard(addr.ip());
        let port = addr.port();
        if addr.ip() != any {
            return self.has((protocol, SocketAddr::new(any, port)));
        }
        let next = self.0.range((protocol, port, any)..).next();
        next.is_some_and(|(p, next_port, ip)| {
            *p == protocol && *next_port == port && ip.is_ipv4() == any.is_ipv4()
        })
    }
}

/// All addresses of the same family.
fn wildcard(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(listening: &[&str], endpoint: &str, expected: bool) {
        let mut addresses = Addresses::default();
        listening.iter().for_each(|addr| addresses.insert((Protocol::Tcp, addr.parse().unwrap())));
        let own = Own::new(vec!["fd00:96::/112".parse().unwrap()]);
        own.publish(&addresses);
        let endpoint = endpoint.parse().unwrap();
        assert_eq!(own.has(Protocol::Tcp, endpoint), expected, "{listening:?} {endpoint}");
        assert!(!own.has(Protocol::Udp, endpoint), "{listening:?} {endpoint}");
    }

    #[test]
    fn an_address_is_our_own_where_we_listen() {
        check(&[], "127.0.0.1:80", false);
        check(&["127.0.0.1:80"], "127.0.0.1:80", true);
        check(&["127.0.0.1:80"], "127.0.0.1:81", false);
        check(&["127.0.0.1:80"], "127.0.0.2:80", false);
        check(&["127.0.0.1:80"], "[::ffff:127.0.0.1]:80", true);
        check(&["[::1]:80"], "127.0.0.1:80", false);
        // A NodePort on all addresses is on those of this host only.
        check(&["0.0.0.0:30080"], "127.9.9.9:30080", true);
        check(&["0.0.0.0:30080"], "192.0.2.1:30080", false);
        check(&["0.0.0.0:30080"], "[2001:db8::1]:30080", false);
        // And on those of a range that a route makes this host's.
        check(&["[::]:30080"], "[fd00:96::7]:30080", true);
        check(&["[::]:30080"], "[fd00:97::7]:30080", false);
    }

    #[test]
    fn addresses_overlap_by_a_wildcard_of_the_same_family() {
        let overlap = |listening: &str, next: &str| {
            let mut addresses = Addresses::default();
            addresses.insert((Protocol::Tcp, listening.parse().unwrap()));
            addresses.overlap((Protocol::Tcp, next.parse().unwrap()))
        };
        for (listening, next, expected) in [
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:81", "0.0.0.0:80", false),
            ("[::]:80", "127.0.0.1:80", false),
            ("[::1]:80", "0.0.0.0:80", false),
            ("[::1]:80", "[::]:80", true),
        ] {
            assert_eq!(overlap(listening, next), expected, "{listening} {next}");
        }
    }
}
