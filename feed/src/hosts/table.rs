//! Which hosts endpoints are named by, what they resolve to, and the slices that come of it.
//!
//! Pure: answers and times come in. A change of one Service or of one host costs as much as it
//! is used, whatever else there is.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::address::is_local;
use super::lookup::Outcome;
use model::{AddressType, Changes, EndpointSlice, Map, Model, ObjectName, Slices};

/// When to ask again for a host that does not exist, or that nobody could look up: as soon as
/// for one that does, for that is when a container starts.
const NEGATIVE_AGE: Duration = Duration::from_secs(1);
/// The longest wait while nobody can say; it doubles from `NEGATIVE_AGE`.
const MAX_BACKOFF: Duration = Duration::from_secs(8);
const REFUSED: &str = "it resolves to an address of this machine: allow this with \
                       --allow-local-endpoints";

#[derive(Debug)]
pub(crate) struct Table {
    /// Whether a host may mean this machine.
    local_endpoints: bool,
    /// The source's slices of each Service that has one which names hosts.
    services: HashMap<ObjectName, Slices, RandomState>,
    hosts: HashMap<Arc<str>, Host, RandomState>,
    due: BTreeSet<(Instant, Arc<str>)>,
    /// Hosts that have not been looked up once.
    unasked: usize,
    faults: Faults,
    resolved: Map<Slices>,
}

/// What is wrong with a host, by its name. `clone` is O(1).
pub(crate) type Faults = imbl::OrdMap<Arc<str>, Arc<str>>;

#[derive(Debug, Default)]
struct Host {
    users: BTreeSet<ObjectName>,
    addresses: Vec<IpAddr>,
    /// Absent while it is being looked up.
    due: Option<Instant>,
    is_asked: bool,
    /// Failed lookups in a row.
    failures: u32,
}

impl Table {
    pub(crate) fn new(local_endpoints: bool) -> Table {
        Table {
            local_endpoints,
            services: HashMap::default(),
            hosts: HashMap::default(),
            due: BTreeSet::new(),
            unasked: 0,
            faults: Faults::new(),
            resolved: Map::new(),
        }
    }

    /// Takes over what changed of the source's model.
    pub(crate) fn follow(&mut self, model: &Model, changes: &Changes, now: Instant) {
        for service in &changes.services {
            let slices = model.slices_of(service);
            let hosts = hosts_of(&slices);
            let before = self.services.remove(service).map(|slices| hosts_of(&slices));
            for host in before.iter().flatten().filter(|host| !hosts.contains(*host)) {
                self.release(host, service);
            }
            for host in &hosts {
                let is_new = !self.hosts.contains_key(host);
                self.hosts.entry(host.clone()).or_default().users.insert(service.clone());
                if is_new {
                    self.unasked += 1;
                    self.set_due(host, now);
                }
            }
            if hosts.is_empty() {
                self.resolved.remove(service);
            } else {
                self.services.insert(service.clone(), slices);
                self.compile(service);
            }
        }
    }

    /// Takes over the outcome of a lookup; the Services whose endpoints it changed.
    pub(crate) fn learn(
        &mut self,
        name: &Arc<str>,
        outcome: Outcome,
        now: Instant,
    ) -> BTreeSet<ObjectName> {
        // Nobody may name it any more.
        let Some(host) = self.hosts.get_mut(name) else { return BTreeSet::new() };
        self.unasked -= usize::from(!std::mem::replace(&mut host.is_asked, true));
        let (addresses, age, fault) = match outcome {
            Outcome::Found(found, age) => {
                let is_allowed = |ip: &IpAddr| self.local_endpoints || !is_local(ip);
                let addresses: Vec<_> = found.iter().copied().filter(is_allowed).collect();
                let fault = (addresses.len() < found.len()).then(|| REFUSED.to_owned());
                (Some(addresses), age, fault)
            }
            Outcome::None => (Some(Vec::new()), NEGATIVE_AGE, Some("no such host".to_owned())),
            Outcome::Failed(error) => {
                let wait = NEGATIVE_AGE * (1 << host.failures.min(8));
                host.failures += 1;
                (None, wait.min(MAX_BACKOFF), Some(error))
            }
        };
        let mut users = BTreeSet::new();
        if let Some(addresses) = addresses {
            host.failures = 0;
            if host.addresses != addresses {
                host.addresses = addresses;
                users.clone_from(&host.users);
            }
        }
        match fault {
            Some(fault) => self.faults.insert(name.clone(), fault.into()),
            None => self.faults.remove(name),
        };
        self.set_due(name, now + age);
        for service in &users {
            self.compile(service);
        }
        users
    }

    /// The slices to use in place of the source's.
    pub(crate) fn slices(&self) -> Map<Slices> {
        self.resolved.clone()
    }

    /// Whether a host has not been looked up once.
    pub(crate) fn has_unasked(&self) -> bool {
        self.unasked > 0
    }

    /// Notes this fault of all hosts whose first lookup is still without an answer; which those
    /// are.
    pub(crate) fn note_silence(&mut self, fault: &str) -> Vec<Arc<str>> {
        let silent = self.hosts.iter().filter(|(_, host)| !host.is_asked);
        let silent: Vec<Arc<str>> = silent.map(|(name, _)| name.clone()).collect();
        for name in &silent {
            self.faults.insert(name.clone(), fault.into());
        }
        silent
    }

    /// When the next host is to be looked up.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// A host to look up by now.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Arc<str>> {
        if self.next_due()? > now {
            return None;
        }
        let (_, name) = self.due.pop_first()?;
        if let Some(host) = self.hosts.get_mut(&name) {
            host.due = None;
        }
        Some(name)
    }

    /// The number of hosts.
    pub(crate) fn len(&self) -> usize {
        self.hosts.len()
    }

    /// What is wrong with hosts.
    pub(crate) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The Services whose endpoints a host names.
    pub(crate) fn users(&self, host: &str) -> impl Iterator<Item = &ObjectName> {
        self.hosts.get(host).into_iter().flat_map(|host| &host.users)
    }

    fn release(&mut self, name: &Arc<str>, service: &ObjectName) {
        let Some(host) = self.hosts.get_mut(name) else { return };
        host.users.remove(service);
        if host.users.is_empty() {
            if let Some(due) = host.due {
                self.due.remove(&(due, name.clone()));
            }
            self.unasked -= usize::from(!host.is_asked);
            self.faults.remove(name);
            self.hosts.remove(name);
        }
    }

    fn set_due(&mut self, name: &Arc<str>, due: Instant) {
        let Some(host) = self.hosts.get_mut(name) else { return };
        if let Some(before) = host.due.replace(due) {
            self.due.remove(&(before, name.clone()));
        }
        self.due.insert((due, name.clone()));
    }

    /// Makes a Service's slices from its hosts' addresses.
    fn compile(&mut self, service: &ObjectName) {
        let Some(slices) = self.services.get(service) else { return };
        let mut compiled = Vec::new();
        for slice in slices.iter() {
            if slice.address_type == AddressType::Fqdn {
                let family = |address_type| self.with_addresses(slice, address_type);
                compiled
                    .extend([AddressType::Ipv4, AddressType::Ipv6].into_iter().filter_map(family));
            } else {
                compiled.push(slice.clone());
            }
        }
        self.resolved.insert(service.clone(), compiled.into());
    }

    /// The slice with the addresses of one family in place of its hosts.
    fn with_addresses(
        &self,
        slice: &EndpointSlice,
        address_type: AddressType,
    ) -> Option<Arc<EndpointSlice>> {
        let is_v6 = address_type == AddressType::Ipv6;
        let mut endpoints = Vec::new();
        for endpoint in &slice.endpoints {
            let host = endpoint.host().and_then(|host| self.hosts.get(host));
            let addresses = host.map(|host| &*host.addresses).unwrap_or_default();
            let of_family = addresses.iter().filter(|ip| ip.is_ipv6() == is_v6);
            endpoints.extend(of_family.map(|ip| endpoint.at(*ip)));
        }
        (!endpoints.is_empty()).then(|| {
            Arc::new(EndpointSlice {
                name: slice.name.clone(),
                service: slice.service.clone(),
                address_type,
                ports: slice.ports.clone(),
                endpoints,
            })
        })
    }
}

/// The hosts that slices name.
fn hosts_of(slices: &[Arc<EndpointSlice>]) -> BTreeSet<Arc<str>> {
    let named = slices.iter().filter(|slice| slice.address_type == AddressType::Fqdn);
    let hosts = named.flat_map(|slice| &slice.endpoints).filter_map(|endpoint| endpoint.host());
    hosts.cloned().collect()
}

#[cfg(test)]
mod tests;
