//! A list of addresses that takes little memory.
//!
//! Pure. A large cluster has a hundred thousand endpoints, and a snapshot names each of them at
//! least once. A `SocketAddr` takes 32 bytes, as many as the largest IPv6 address needs; here an
//! IPv4 address takes 6.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;

/// Addresses in their order, without duplicates. `clone` is O(1).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    v4: Arc<[SocketAddrV4]>,
    v6: Arc<[SocketAddrV6]>,
}

impl Addresses {
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    pub fn contains(&self, addr: SocketAddr) -> bool {
        match addr {
            SocketAddr::V4(addr) => self.v4.binary_search(&addr).is_ok(),
            SocketAddr::V6(addr) => self.v6.binary_search(&addr).is_ok(),
        }
    }

    /// The addresses in the order of `SocketAddr`: IPv4 comes first.
    pub fn iter(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let v4 = self.v4.iter().copied().map(SocketAddr::V4);
        v4.chain(self.v6.iter().copied().map(SocketAddr::V6))
    }
}

impl FromIterator<SocketAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = SocketAddr>>(addrs: I) -> Addresses {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for addr in addrs {
            match addr {
                SocketAddr::V4(addr) => v4.push(addr),
                SocketAddr::V6(addr) => v6.push(addr),
            }
        }
        Addresses { v4: in_order(v4), v6: in_order(v6) }
    }
}

fn in_order<A: Ord + Copy>(mut addrs: Vec<A>) -> Arc<[A]> {
    if addrs.is_empty() {
        // All empty lists share one.
        return Arc::default();
    }
    addrs.sort_unstable();
    addrs.dedup();
    addrs.into()
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_single_addresses() {
        let texts = ["[fd00::2]:80", "10.0.0.2:80", "10.0.0.1:81", "[fd00::1]:80", "10.0.0.1:80"];
        let mut addrs: Vec<SocketAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let list: Addresses = addrs.iter().chain(&addrs).copied().collect();
        addrs.sort_unstable();
        assert_eq!(list.iter().collect::<Vec<_>>(), addrs);
        assert!(addrs.iter().all(|addr| list.contains(*addr)) && !list.is_empty());
        for other in ["10.0.0.2:81", "[fd00::1]:81", "[::ffff:10.0.0.1]:80"] {
            assert!(!list.contains(other.parse().unwrap()), "{other}");
        }
        assert!(Addresses::default().is_empty());
    }
}
