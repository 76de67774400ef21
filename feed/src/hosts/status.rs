//! What operators see of host names: `/status` and the count of lookups.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use daemon::Daemon;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde_json::json;

use super::lookup::Outcome;
use super::table::{Faults, Table};

/// Hosts listed at `/status` with what is wrong; the count is always whole.
const MAX_LISTED: usize = 1000;
/// Services listed of one such host: more do not say more.
const MAX_USERS: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    result: &'static str,
}

#[derive(Debug)]
pub(crate) struct Status {
    page: Arc<Mutex<Page>>,
    lookups: Family<Label, Counter>,
}

#[derive(Debug, Default)]
struct Page {
    hosts: usize,
    faults: Faults,
    /// The Services of the hosts with faults.
    users: BTreeMap<Arc<str>, Vec<String>>,
}

impl Status {
    /// Adds the member `hosts` to the page and the metric.
    pub(crate) fn new(daemon: &Daemon) -> Status {
        let page = Arc::<Mutex<Page>>::default();
        let shown = page.clone();
        daemon.admin.add_status("hosts", move || {
            let page = shown.lock().unwrap_or_else(PoisonError::into_inner);
            let faults = page.faults.iter().take(MAX_LISTED);
            let faults = faults.map(|(host, fault)| {
                let services = page.users.get(host).cloned().unwrap_or_default();
                json!({"host": &**host, "problem": &**fault, "services": services})
            });
            json!({
                "count": page.hosts,
                "failing": page.faults.len(),
                "problems": faults.collect::<Vec<_>>(),
            })
        });
        let lookups = Family::default();
        let help = "DNS lookups of endpoints given by host name";
        daemon.metrics.register(|registry| {
            registry.register("switchyard_host_lookups", help, lookups.clone());
        });
        Status { page, lookups }
    }

    pub(crate) fn count(&self, outcome: &Outcome) {
        let result = match outcome {
            Outcome::Found(..) => "found",
            Outcome::None => "none",
            Outcome::Failed(_) => "failed",
        };
        self.lookups.get_or_create(&Label { result }).inc();
    }

    /// Shows the state after a lookup, and logs what was not wrong with the host before.
    pub(crate) fn show(&self, table: &Table, host: &str) {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = table.faults().get(host);
        if let Some(fault) = fault.filter(|fault| page.faults.get(host) != Some(fault)) {
            tracing::warn!(host, %fault, "cannot look up the host of an endpoint");
        }
        page.hosts = table.len();
        page.faults = table.faults().clone();
        let Page { faults, users, .. } = &mut *page;
        users.retain(|host, _| faults.contains_key(host));
        if faults.contains_key(host) {
            let services = table.users(host).take(MAX_USERS).map(ToString::to_string);
            users.insert(host.into(), services.collect());
        }
    }
}
