//! The affinity of all service ports: one table for each, for as long as a frontend uses it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::affinity::Affinity;

/// How often clients that have been away for long are forgotten: only memory depends on it.
const SWEEP: Duration = Duration::from_secs(60);

/// Tables by service port; `K` names one. For the control side: data threads use the tables.
#[derive(Debug)]
pub struct AffinityTables<K> {
    tables: HashMap<K, Table>,
    sweep: Option<Instant>,
}

#[derive(Debug)]
struct Table {
    affinity: Weak<Affinity>,
    timeout: Duration,
}

impl<K> Default for AffinityTables<K> {
    fn default() -> AffinityTables<K> {
        AffinityTables { tables: HashMap::new(), sweep: None }
    }
}

impl<K: Eq + Hash> AffinityTables<K> {
    /// The table of a service port whose clients keep their endpoint for `timeout`. All frontends
    /// of the port share it.
    pub fn table(
        &mut self,
        key: K,
        timeout: Duration,
        max_clients: usize,
        now: Instant,
    ) -> Arc<Affinity> {
        let known = self.tables.get(&key).and_then(|table| table.affinity.upgrade());
        let affinity = known.unwrap_or_else(|| Arc::new(Affinity::new(max_clients)));
        self.tables.insert(key, Table { affinity: Arc::downgrade(&affinity), timeout });
        self.sweep.get_or_insert_with(|| now + SWEEP);
        affinity
    }

    /// When [`AffinityTables::sweep`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        self.sweep
    }

    /// If it is time, forgets clients that have been away for long, and tables that no frontend
    /// uses any more.
    pub fn sweep(&mut self, now: Instant) {
        if self.sweep.is_none_or(|at| now < at) {
            return;
        }
        self.tables.retain(|_, table| match table.affinity.upgrade() {
            Some(affinity) => {
                affinity.forget_idle(table.timeout, now);
                true
            }
            None => false,
        });
        self.sweep = (!self.tables.is_empty()).then(|| now + SWEEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frontends_of_a_service_port_share_a_table_for_as_long_as_one_uses_it() {
        let (mut tables, start) = (AffinityTables::default(), Instant::now());
        let timeout = Duration::from_secs(10);
        let mut table = |key, now| tables.table(key, timeout, 100, now);
        let (first, second) = (table("web", start), table("web", start));
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &table("api", start)));
        let client = std::net::IpAddr::from([10, 0, 0, 1]);
        let endpoint = std::net::SocketAddr::from(([10, 0, 0, 9], 80));
        let _: Option<()> =
            first.endpoint(client, (timeout, start), |_| None, || Some((endpoint, ())));
        tables.sweep(start + Duration::from_secs(59));
        assert_eq!((first.clients(), tables.tables.len()), (1, 2), "it is not time yet");
        tables.sweep(start + Duration::from_secs(60));
        assert_eq!((first.clients(), tables.tables.len()), (0, 1));
        assert_eq!(tables.due(), Some(start + Duration::from_secs(120)));
        drop((first, second));
        tables.sweep(start + Duration::from_secs(120));
        assert_eq!(tables.due(), None);
    }
}
