//! How many connections may be open: in all, and for one client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

use crate::origin::is_trusted;

/// Counts per client are kept in parts by address, so that workers that accept at the same time
/// hardly meet.
const SHARDS: usize = 16;

/// What the limit of connections is without a flag, where descriptors allow it.
const DEFAULT_MAX: usize = 32_768;

/// A connection takes one descriptor for its client and, while a request is in flight, one for
/// its endpoint; others wait in the pool.
const DESCRIPTORS_EACH: usize = 2;

/// Descriptors for listeners, the feed, the admin endpoint and the libraries.
const OTHER_DESCRIPTORS: usize = 256;

/// Raises the limit of open descriptors, and gives the connections that it has room for.
pub(crate) fn default_max_connections() -> usize {
    let descriptors = daemon::descriptors::raise_limit();
    let room = descriptors.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_EACH;
    room.clamp(1, DEFAULT_MAX)
}

/// The counts of open connections, shared by all workers.
#[derive(Debug)]
pub(crate) struct Limits {
    max: usize,
    max_per_client: usize,
    /// Proxies in front of us, whose connections are those of many clients.
    trusted_proxies: Vec<IpNet>,
    open: AtomicUsize,
    by_client: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
}

/// The right to one open connection, until dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    limits: Arc<Limits>,
    client: Option<IpAddr>,
}

impl Limits {
    pub(crate) fn new(max: usize, max_per_client: usize, trusted_proxies: Vec<IpNet>) -> Limits {
        let by_client = Default::default();
        Limits { max, max_per_client, trusted_proxies, open: AtomicUsize::new(0), by_client }
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Room for one more connection of the client, if there is any.
    pub(crate) fn admit(self: &Arc<Limits>, client: IpAddr) -> Option<Permit> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // From here on the permit takes back what was counted.
        let mut permit = Permit { limits: self.clone(), client: None };
        permit.claim(client).then_some(permit)
    }

    fn shard(&self, client: IpAddr) -> &Mutex<HashMap<IpAddr, usize>> {
        let last = match client {
            IpAddr::V4(ip) => ip.octets()[3],
            // Clients differ in their /64 network.
            IpAddr::V6(ip) => ip.octets()[7],
        };
        &self.by_client[usize::from(last) % SHARDS]
    }
}

impl Permit {
    /// Counts the connection for this client; false when the client has too many.
    pub(crate) fn claim(&mut self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        if is_trusted(client, &self.limits.trusted_proxies) {
            return true;
        }
        let shard = self.limits.shard(client);
        let mut counts = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= self.limits.max_per_client {
            return false;
        }
        *count += 1;
        self.client = Some(client);
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.open.fetch_sub(1, Ordering::Relaxed);
        let Some(client) = self.client else { return };
        let shard = self.limits.shard(client);
        let mut counts = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_in_all_and_for_each_client() {
        let limits = Arc::new(Limits::new(5, 2, vec!["10.0.0.0/8".parse().unwrap()]));
        let admit = |ip: &str| limits.admit(ip.parse().unwrap());
        let first = admit("192.0.2.1").unwrap();
        let _second = admit("::ffff:192.0.2.1").unwrap();
        assert!(admit("192.0.2.1").is_none(), "two are open already");
        assert_eq!(limits.open(), 2);
        let _proxy: Vec<_> = (0..3).map(|_| admit("10.0.0.1").unwrap()).collect();
        assert!(admit("192.0.2.2").is_none(), "five are open already");
        drop(first);
        let _again = admit("192.0.2.1").unwrap();
        assert_eq!(limits.open(), 5);
    }
}
