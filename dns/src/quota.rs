//! Places that clients share: connections, questions in flight. One client may hold a part of
//! them only, so that none can take all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::gauge::Gauge;

/// One client may hold this share of all places.
const CLIENT_SHARE: usize = 4;

/// So many places. `clone` shares them.
#[derive(Clone, Debug)]
pub(crate) struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    taken: Mutex<Taken>,
    /// Shows how many are taken.
    gauge: Gauge<i64, AtomicI64>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// One client's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    quota: Quota,
    client: IpAddr,
}

impl Quota {
    pub(crate) fn new(max: usize, gauge: Gauge<i64, AtomicI64>) -> Quota {
        Quota(Arc::new(Inner { max, taken: Mutex::default(), gauge }))
    }

    /// A place for this client; `None` when all are taken, or the client has its share.
    pub(crate) fn admit(&self, client: IpAddr) -> Option<Place> {
        let max = self.0.max;
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by_client.get(&client).copied().unwrap_or_default();
        if taken.total >= max || own >= max.div_ceil(CLIENT_SHARE) {
            return None;
        }
        taken.total += 1;
        taken.by_client.insert(client, own + 1);
        self.0.gauge.set(taken.total as i64);
        Some(Place { quota: self.clone(), client })
    }
}

impl Place {
    /// Whether more than half of all places are taken.
    pub(crate) fn is_crowded(&self) -> bool {
        let inner = &self.quota.0;
        let taken = inner.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total > inner.max / 2
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let inner = &self.quota.0;
        let mut taken = inner.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total -= 1;
        if let Some(own) = taken.by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                taken.by_client.remove(&self.client);
            }
        }
        inner.gauge.set(taken.total as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_its_share_and_all_get_no_more_than_there_are() {
        let quota = Quota::new(8, Gauge::default());
        let client = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut places: Vec<Place> =
            (0..5).flat_map(|n| [client(n); 3]).filter_map(|client| quota.admit(client)).collect();
        assert_eq!(places.len(), 8, "two for each of four clients");
        assert!(places[0].is_crowded());
        assert_eq!(quota.0.gauge.get(), 8);
        // Those of the first client.
        places.drain(..2);
        assert!(quota.admit(client(1)).is_none(), "has its share");
        assert!(quota.admit(client(5)).is_some());
        places.truncate(2);
        assert!(!places[0].is_crowded());
        places.clear();
        assert_eq!(quota.0.gauge.get(), 0);
        assert!(quota.0.taken.lock().unwrap().by_client.is_empty());
    }
}
