//! Limits on what clients may hold at one time: connections, forwarded questions. One client may
//! hold only a part, so that it cannot take everything.
//!
//! Data threads share a quota without a lock: it consists of atomic counters. Clients are counted
//! by a keyed hash of their address, so that two clients rarely share a counter, and nobody can
//! choose an address that shares the counter of another.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

use prometheus_client::metrics::gauge::Gauge;

/// One client may hold one permit in so many.
const CLIENT_SHARE: usize = 4;
/// Counters for clients: many more than clients that hold permits. A power of two.
const CLIENT_SLOTS: usize = 16 << 10;

/// A number of permits. `clone` shares them.
#[derive(Clone, Debug)]
pub(crate) struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    taken: AtomicUsize,
    by_client: Box<[AtomicUsize]>,
    hasher: RandomState,
    /// Shows how many are taken.
    gauge: Gauge<i64, AtomicI64>,
}

/// One of the permits; given back when dropped.
#[derive(Debug)]
pub(crate) struct QuotaPermit {
    quota: Quota,
    slot: usize,
}

impl Quota {
    pub(crate) fn new(max: usize, gauge: Gauge<i64, AtomicI64>) -> Quota {
        let by_client = std::iter::repeat_with(AtomicUsize::default).take(CLIENT_SLOTS).collect();
        let (taken, hasher) = (AtomicUsize::default(), RandomState::new());
        Quota(Arc::new(Inner { max, taken, by_client, hasher, gauge }))
    }

    /// A permit for this client; `None` if all are taken or the client has its share.
    pub(crate) fn admit(&self, client: IpAddr) -> Option<QuotaPermit> {
        let inner = &self.0;
        if inner.taken.fetch_add(1, Relaxed) >= inner.max {
            inner.taken.fetch_sub(1, Relaxed);
            return None;
        }
        let slot = inner.hasher.hash_one(client) as usize & (CLIENT_SLOTS - 1);
        if inner.by_client[slot].fetch_add(1, Relaxed) >= inner.max.div_ceil(CLIENT_SHARE) {
            inner.by_client[slot].fetch_sub(1, Relaxed);
            inner.taken.fetch_sub(1, Relaxed);
            return None;
        }
        inner.gauge.inc();
        Some(QuotaPermit { quota: self.clone(), slot })
    }
}

impl QuotaPermit {
    /// Whether more than half of all permits are taken.
    pub(crate) fn is_crowded(&self) -> bool {
        self.quota.0.taken.load(Relaxed) > self.quota.0.max / 2
    }
}

impl Drop for QuotaPermit {
    fn drop(&mut self) {
        let inner = &self.quota.0;
        inner.by_client[self.slot].fetch_sub(1, Relaxed);
        inner.taken.fetch_sub(1, Relaxed);
        inner.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_share_and_all_clients_get_the_maximum() {
        let quota = Quota::new(8, Gauge::default());
        // Clients with counters of their own, whatever the key of the hash.
        let mut clients: Vec<IpAddr> = Vec::new();
        let mut slots = std::collections::BTreeSet::new();
        for n in 0..=255 {
            let client = IpAddr::from([10, 0, 0, n]);
            let slot = quota.0.hasher.hash_one(client) as usize & (CLIENT_SLOTS - 1);
            if slots.insert(slot) {
                clients.push(client);
            }
        }
        let mut permits: Vec<QuotaPermit> = clients[..5]
            .iter()
            .flat_map(|client| [client; 3])
            .filter_map(|client| quota.admit(*client))
            .collect();
        assert_eq!(permits.len(), 8, "two for each of four clients");
        assert!(permits[0].is_crowded());
        assert_eq!(quota.0.gauge.get(), 8);
        // Those of the first client.
        permits.drain(..2);
        assert!(quota.admit(clients[1]).is_none(), "has its share");
        assert!(quota.admit(clients[5]).is_some());
        permits.truncate(2);
        assert!(!permits[0].is_crowded());
        permits.clear();
        assert_eq!(quota.0.gauge.get(), 0);
        assert_eq!(quota.0.taken.load(Relaxed), 0);
        assert!(quota.0.by_client.iter().all(|count| count.load(Relaxed) == 0));
    }
}
