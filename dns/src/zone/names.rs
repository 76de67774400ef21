//! The names of the zone: which exist, and what they stand for.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericHashSet, OrdMap, OrdSet};
use ipnet::IpNet;
use model::{Changes, Model, ObjectName, Protocol};
use smallvec::SmallVec;

use crate::wire::Name;

use super::reverse::Reverse;
use super::service::{self, Endpoint, Key, Label, Service, key_of, label_of};
use super::settings::{PodMode, Settings};
use super::soa::Soa;
use super::table::Table;

/// One version of all names that this server answers itself.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    pub(super) settings: Arc<Settings>,
    pub(super) model: Model,
    pub(super) services: Table,
    pub(super) namespaces: HashSet<Label>,
    /// Every address with a PTR record, and the Services that it belongs to.
    pub(super) addresses: OrdMap<IpAddr, Claims>,
    /// Address, namespace and name of every Pod; empty unless Pods are verified.
    pub(super) pods: OrdSet<(IpAddr, Arc<str>, Arc<str>)>,
    /// The number of names that exist because of Services.
    pub(super) service_names: usize,
    pub(super) soa: Soa,
    pub(super) serial: u32,
    pub(super) synced: bool,
}

type HashSet<T> = GenericHashSet<T, foldhash::fast::RandomState, DefaultSharedPtr>;
type Claims = SmallVec<[ObjectName; 1]>;

/// A name in one of our zones.
#[derive(Debug)]
pub(crate) struct Found<'z> {
    pub(crate) zone: ZoneAt,
    pub(crate) node: Node<'z>,
}

/// The zone that a name is in: the number of the name's labels before the zone's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ZoneAt {
    pub(crate) labels_below: usize,
    /// It is the cluster domain. Otherwise it is a reverse zone, or a single label that is a zone
    /// of its own.
    pub(crate) is_domain: bool,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Node<'z> {
    /// It does not exist.
    Absent,
    /// It exists because names below it exist (RFC 8020), or because a namespace does.
    Empty,
    Apex,
    /// `ns.dns.<domain>`.
    NameServer,
    /// `dns-version.<domain>`.
    SchemaVersion,
    Service(&'z Service),
    /// `_<port>._<protocol>.<service>…`: the name contains the label of the port, after `_`.
    Port(&'z Service, Protocol),
    /// The endpoints with that label.
    Endpoints(&'z [Endpoint]),
    Pod(IpAddr),
    /// A known address, under its reverse name.
    Address(IpAddr),
}

impl Zone {
    /// An empty zone, which is not synced.
    pub(crate) fn new(settings: Settings) -> Zone {
        let soa = Soa::compile(0, settings.ttl);
        Zone {
            settings: Arc::new(settings),
            model: Model::default(),
            services: Table::new(),
            namespaces: HashSet::default(),
            addresses: OrdMap::new(),
            pods: OrdSet::new(),
            service_names: 0,
            soa,
            serial: 0,
            synced: false,
        }
    }

    /// Updates the zone to `model`, which differs from the zone's model by `changes`. False if no
    /// answer changes, so that the zone may keep its serial.
    pub(crate) fn apply(&mut self, model: &Model, changes: &Changes, synced: bool) -> bool {
        let before = std::mem::replace(&mut self.model, model.clone());
        let mut changed = std::mem::replace(&mut self.synced, synced) != synced;
        for name in &changes.services {
            changed |= self.put_service(name);
            changed |= self.put_namespace(&name.namespace);
        }
        for name in &changes.namespaces {
            changed |= self.put_namespace(&name.name);
        }
        for name in &changes.pods {
            changed |= self.put_namespace(&name.namespace);
            if self.settings.pods == PodMode::Verified {
                changed |= self.put_pod(&before, name);
            }
        }
        changed
    }

    /// Sets the serial, which clients see in every SOA record.
    pub(crate) fn set_serial(&mut self, serial: u32) {
        self.serial = serial;
        self.soa = Soa::compile(serial, self.settings.ttl);
    }

    pub(crate) fn domain(&self) -> &Name {
        &self.settings.domain
    }

    pub(crate) fn serial(&self) -> u32 {
        self.serial
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    /// The number of names that exist, without those of namespaces and of reverse zones.
    pub(crate) fn names(&self) -> usize {
        /// The apex, `ns.dns` and `dns-version`.
        const OWN: usize = 3;
        OWN + self.service_names + self.addresses.len()
    }

    /// All Services that have names, in any order.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().map(|service| &**service)
    }

    /// What a name stands for; `None` if it is in none of our zones.
    #[inline]
    pub(crate) fn find(&self, name: &Name) -> Option<Found<'_>> {
        let Some(labels_below) = name.labels_below(&self.settings.domain) else {
            return self.find_reverse(name);
        };
        let node = match labels_below.checked_sub(1) {
            None => Node::Apex,
            Some(top) => match name.label(top) {
                b"svc" => self.find_below_svc(name, top),
                b"pod" => self.find_pod(name, top),
                b"dns" if top == 0 => Node::Empty,
                b"dns" if top == 1 && name.label(0) == b"ns" => Node::NameServer,
                b"dns-version" if top == 0 => Node::SchemaVersion,
                _ => Node::Absent,
            },
        };
        Some(Found { zone: ZoneAt { labels_below, is_domain: true }, node })
    }

    /// `count` labels precede `svc`: the namespace, the Service, and labels below it.
    #[inline]
    fn find_below_svc(&self, name: &Name, count: usize) -> Node<'_> {
        if count < 2 {
            return self.find_namespace(name, count);
        }
        let Some(service) = self.services.get(name.between(count - 2, count)) else {
            return Node::Absent;
        };
        match count - 2 {
            0 => Node::Service(service),
            1 => find_below_service(service, name.label(0)),
            2 => find_port(service, name.label(0), name.label(1)),
            _ => Node::Absent,
        }
    }

    fn find_namespace(&self, name: &Name, count: usize) -> Node<'_> {
        if count == 0 || self.namespaces.contains(name.label(count - 1)) {
            return Node::Empty;
        }
        Node::Absent
    }

    /// `count` labels precede `pod`: the namespace and a dashed address.
    fn find_pod(&self, name: &Name, count: usize) -> Node<'_> {
        if count > 0 && self.settings.pods == PodMode::Disabled {
            return Node::Absent;
        }
        if count < 2 {
            return self.find_namespace(name, count);
        }
        let namespace = name.label(1);
        match undashed(name.label(0)) {
            Some(ip) if count == 2 && self.has_pod(ip, namespace) => Node::Pod(ip),
            _ => Node::Absent,
        }
    }

    fn has_pod(&self, ip: IpAddr, namespace: &[u8]) -> bool {
        if !self.namespaces.contains(namespace) {
            return false;
        }
        if self.settings.pods == PodMode::Insecure {
            return true;
        }
        let empty: Arc<str> = Arc::default();
        let pods = self.pods.range((ip, empty.clone(), empty)..).take_while(|pod| pod.0 == ip);
        let is_pod = pods.map(|pod| &pod.1).any(|n| n.as_bytes().eq_ignore_ascii_case(namespace));
        is_pod
            || self.claimants(ip).any(|service| {
                service.namespace_label() == namespace && service.endpoint_at(ip).is_some()
            })
    }

    /// The Service that a name of one label stands for (`--single-label`). Such a name is the apex
    /// of its own zone: nothing is known about the names around it.
    pub(crate) fn find_single_label(&self, name: &Name) -> Option<Found<'_>> {
        let namespace = self.single_label_namespace(name)?;
        let mut key = Key::from_slice(name.between(0, 1));
        key.extend_from_slice(namespace);
        let service = self.services.get(&key)?;
        let zone = ZoneAt { labels_below: 0, is_domain: false };
        Some(Found { zone, node: Node::Service(service) })
    }

    /// The namespace in wire form, if this is a name that may stand for a Service in it.
    fn single_label_namespace(&self, name: &Name) -> Option<&[u8]> {
        let namespace = self.settings.single_label.as_deref()?;
        // `localhost` is never another machine (RFC 6761 section 6.3).
        (name.labels() == 1 && name.label(0) != b"localhost").then_some(namespace)
    }

    #[inline]
    fn find_reverse(&self, name: &Name) -> Option<Found<'_>> {
        let reverse = Reverse::parse(name)?;
        let net = reverse.net;
        let known = |net: &IpNet| self.has_address_in(net);
        let owned = self.settings.owned.zone_bits(&net);
        // A known address outside of those networks is a zone of its own.
        let own_zone = || (reverse.is_complete() && known(&net)).then_some(net.prefix_len());
        let bits = owned.or_else(own_zone)?;
        let node = match reverse.address() {
            Some(ip) if known(&net) => Node::Address(ip),
            _ if reverse.extra > 0 => Node::Absent,
            _ if net.prefix_len() == bits => Node::Apex,
            _ if known(&net) => Node::Empty,
            _ => Node::Absent,
        };
        let labels_below = reverse.labels_below(bits);
        Some(Found { zone: ZoneAt { labels_below, is_domain: false }, node })
    }

    /// Whether a name outside our zones may turn out to be ours once all objects are known: any
    /// address may be that of a Service or an endpoint, and any single label that of a Service.
    pub(crate) fn may_become_ours(&self, name: &Name) -> bool {
        let is_address = || Reverse::parse(name).is_some_and(|reverse| reverse.is_complete());
        !self.synced && (self.single_label_namespace(name).is_some() || is_address())
    }

    /// Whether an address of that network is one of a Service or an endpoint.
    pub(crate) fn has_address_in(&self, net: &IpNet) -> bool {
        self.addresses.range(net.network()..=net.broadcast()).next().is_some()
    }

    /// Whether some reverse names below those of that network are ours.
    pub(crate) fn has_names_in(&self, net: &IpNet) -> bool {
        self.has_address_in(net) || self.settings.owned.0.iter().any(|owned| net.contains(owned))
    }

    /// The Services that an address belongs to, ordered by namespace and name.
    pub(super) fn claimants(&self, ip: IpAddr) -> impl Iterator<Item = &Service> {
        let claims = self.addresses.get(&ip).into_iter().flatten();
        let keys = claims.filter_map(|name| key_of(&name.namespace, &name.name));
        keys.filter_map(|key| Some(&**self.services.get(&key)?))
    }

    fn put_service(&mut self, name: &ObjectName) -> bool {
        let Some(key) = key_of(&name.namespace, &name.name) else { return false };
        let entry = self.model.service(name);
        let after = entry.and_then(|entry| Service::compile(&entry, &self.settings));
        let before = self.services.get(&key).cloned();
        if before.as_deref() == after.as_ref() {
            return false;
        }
        let ips = |service: Option<&Service>| {
            let ips = service.map(|service| service.known_ips().collect());
            let mut ips: Vec<IpAddr> = ips.unwrap_or_default();
            ips.sort_unstable();
            ips.dedup();
            ips
        };
        let (old_ips, new_ips) = (ips(before.as_deref()), ips(after.as_ref()));
        self.service_names -= before.as_ref().map_or(0, |service| service.names());
        self.service_names += after.as_ref().map_or(0, Service::names);
        match after {
            Some(service) => self.services.insert(Arc::new(service)),
            None => self.services.remove(&key),
        }
        for ip in old_ips.iter().filter(|ip| new_ips.binary_search(ip).is_err()) {
            self.release(*ip, name);
        }
        for ip in new_ips.iter().filter(|ip| old_ips.binary_search(ip).is_err()) {
            let claims = self.addresses.entry(*ip).or_default();
            if let Err(at) = claims.binary_search(name) {
                claims.insert(at, name.clone());
            }
        }
        true
    }

    fn release(&mut self, ip: IpAddr, name: &ObjectName) {
        let Some(claims) = self.addresses.get_mut(&ip) else { return };
        claims.retain(|claim| claim != name);
        if claims.is_empty() {
            self.addresses.remove(&ip);
        }
    }

    fn put_namespace(&mut self, namespace: &str) -> bool {
        let Some(label) = label_of(namespace) else { return false };
        let exists = self.model.has_namespace(namespace);
        if self.namespaces.contains(&label) == exists {
            return false;
        }
        if exists {
            self.namespaces.insert(label);
        } else {
            self.namespaces.remove(&label);
        }
        true
    }

    fn put_pod(&mut self, before: &Model, name: &ObjectName) -> bool {
        let ips = |model: &Model| model.pod(name).map(|pod| pod.ips.clone()).unwrap_or_default();
        let (old_ips, new_ips) = (ips(before), ips(&self.model));
        let key = |ip: IpAddr| (ip, name.namespace.clone(), name.name.clone());
        for ip in &old_ips {
            self.pods.remove(&key(*ip));
        }
        for ip in &new_ips {
            self.pods.insert(key(*ip));
        }
        old_ips != new_ips
    }
}

fn find_below_service<'z>(service: &'z Service, label: &[u8]) -> Node<'z> {
    if let Some(protocol) = protocol_of(label) {
        let named = |p: &service::Port| p.protocol == protocol && !p.name.is_empty();
        return if service.ports.iter().any(named) { Node::Empty } else { Node::Absent };
    }
    match service.endpoints_named(label) {
        [] => Node::Absent,
        endpoints => Node::Endpoints(endpoints),
    }
}

fn find_port<'z>(service: &'z Service, port: &[u8], protocol: &[u8]) -> Node<'z> {
    let (Some((b'_', name)), Some(protocol)) = (port.split_first(), protocol_of(protocol)) else {
        return Node::Absent;
    };
    let is_there = !name.is_empty() && service.ports.iter().any(|port| port.is(protocol, name));
    if is_there { Node::Port(service, protocol) } else { Node::Absent }
}

fn protocol_of(label: &[u8]) -> Option<Protocol> {
    match label {
        b"_tcp" => Some(Protocol::Tcp),
        b"_udp" => Some(Protocol::Udp),
        b"_sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The address in a dashed label: `10-240-0-1`, `5678-abcd--1`.
pub(super) fn undashed(label: &[u8]) -> Option<IpAddr> {
    /// The longest IPv6 address as text.
    const MAX_TEXT: usize = 45;
    let mut text = [0; MAX_TEXT];
    let text = text.get_mut(..label.len())?;
    text.copy_from_slice(label);
    let dashes = label.iter().filter(|octet| **octet == b'-').count();
    let v4 = dashes == 3 && !label.windows(2).any(|two| two == b"--");
    for octet in text.iter_mut().filter(|octet| **octet == b'-') {
        *octet = if v4 { b'.' } else { b':' };
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
