//! The Services by key: a hash table whose versions share what did not change.
//!
//! Nearly every query reads it, just after the kernel has used the CPU caches for its own data. So
//! the cost is the number of cache lines read one after the other: the pointer to the bucket, the
//! bucket, the Service. A hash trie reads two for each of its levels; with 10,000 Services it took
//! a sixth more user time for each query. A change copies one bucket and the array of pointers:
//! two to four octets for each Service.

use std::hash::BuildHasher;
use std::sync::Arc;

use super::service::Service;

/// The most Services in a bucket, on average.
const FULL: usize = 8;

type Bucket = Arc<[Entry]>;

#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Their number is a power of two.
    buckets: Arc<Vec<Bucket>>,
    len: usize,
    hasher: foldhash::fast::RandomState,
}

#[derive(Clone, Debug)]
struct Entry {
    /// The half of the hash that does not select the bucket.
    tag: u32,
    service: Arc<Service>,
}

impl Table {
    pub(crate) fn new() -> Table {
        let buckets = Arc::new(vec![Bucket::default()]);
        Table { buckets, len: 0, hasher: foldhash::fast::RandomState::default() }
    }

    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Arc<Service>> {
        let (at, tag) = self.place(key);
        let mut same_tag = self.buckets[at].iter().filter(|entry| entry.tag == tag);
        same_tag.find(|entry| *entry.service.key == *key).map(|entry| &entry.service)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.buckets.iter().flat_map(|bucket| bucket.iter()).map(|entry| &entry.service)
    }

    /// Adds a Service, or replaces the one with the same key.
    pub(crate) fn insert(&mut self, service: Arc<Service>) {
        self.remove(&service.key);
        if self.len >= FULL * self.buckets.len() {
            self.grow();
        }
        let (at, tag) = self.place(&service.key);
        let bucket = &mut Arc::make_mut(&mut self.buckets)[at];
        let added = std::iter::once(Entry { tag, service });
        *bucket = bucket.iter().cloned().chain(added).collect();
        self.len += 1;
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        if self.get(key).is_none() {
            return;
        }
        let (at, _) = self.place(key);
        let bucket = &mut Arc::make_mut(&mut self.buckets)[at];
        *bucket = bucket.iter().filter(|entry| *entry.service.key != *key).cloned().collect();
        self.len -= 1;
    }

    #[inline]
    fn place(&self, key: &[u8]) -> (usize, u32) {
        let hash = self.hasher.hash_one(key);
        (hash as usize & (self.buckets.len() - 1), (hash >> 32) as u32)
    }

    fn grow(&mut self) {
        let services: Vec<Arc<Service>> = self.iter().cloned().collect();
        let mut buckets = vec![Vec::new(); 2 * self.buckets.len()];
        self.buckets = Arc::new(vec![Bucket::default(); buckets.len()]);
        for service in services {
            let (at, tag) = self.place(&service.key);
            buckets[at].push(Entry { tag, service });
        }
        self.buckets = Arc::new(buckets.into_iter().map(Into::into).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::service::key_of;
    use crate::zone::tests::service_named;

    #[test]
    fn versions_are_independent() {
        const COUNT: usize = 1000;
        let key = |n: usize| key_of("ns", &format!("s{n}")).unwrap();
        let mut table = Table::new();
        for n in 0..COUNT {
            table.insert(Arc::new(service_named("ns", &format!("s{n}"))));
            // A second time changes nothing.
            table.insert(Arc::new(service_named("ns", &format!("s{n}"))));
        }
        let whole = table.clone();
        for n in (0..COUNT).step_by(2) {
            table.remove(&key(n));
            table.remove(&key(n));
        }
        for n in 0..COUNT {
            assert!(whole.get(&key(n)).is_some_and(|service| service.key == key(n)));
            assert_eq!(table.get(&key(n)).is_some(), n % 2 == 1);
        }
        assert!(table.get(&key(COUNT)).is_none());
        assert_eq!((whole.iter().count(), whole.len), (COUNT, COUNT));
        assert_eq!((table.iter().count(), table.len), (COUNT / 2, COUNT / 2));
        assert!(whole.buckets.iter().map(|bucket| bucket.len()).max() < Some(5 * FULL));
    }
}
