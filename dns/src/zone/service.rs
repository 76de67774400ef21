//! One Service, compiled for DNS, so that a query only copies.
//!
//! A change to a Service compiles that Service again and no other. The most frequent answers (A
//! and AAAA of the Service's own name) are kept as octets; SRV records and endpoint names are
//! composed for each query, because their compiled form would take most of the memory.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use model::{Address, Protocol, ServiceEntry, ServiceType};
use smallvec::SmallVec;

use crate::wire::name::{MAX_NAME, Name};
use crate::wire::reply::{fixed_fields, pointer};
use crate::wire::{QUESTION_AT, Type};

use super::settings::Settings;

/// Octets of a compiled A or AAAA record: pointer, type, class, TTL, length, address.
pub(crate) const A_LEN: usize = 12 + 4;
pub(crate) const AAAA_LEN: usize = 12 + 16;

/// The labels of Service and namespace in wire form, lower-case: `4 svc1 6 testns`.
pub(crate) type Key = SmallVec<[u8; 40]>;
/// A label without its length. A dashed IPv4 address fits in place.
pub(crate) type Label = SmallVec<[u8; 16]>;

#[derive(Debug, PartialEq)]
pub(crate) struct Service {
    pub(crate) key: Key,
    pub(crate) kind: ServiceKind,
    /// Compiled A records of the Service's name, in ascending order of address.
    pub(crate) v4: SmallVec<[u8; A_LEN]>,
    /// Compiled AAAA records of the Service's name.
    pub(crate) v6: SmallVec<[u8; A_LEN]>,
    pub(crate) cluster_ips: SmallVec<[IpAddr; 1]>,
    pub(crate) ports: Box<[Port]>,
    /// Served endpoints, ordered by label and address.
    pub(crate) endpoints: Box<[Endpoint]>,
    /// Indices into `endpoints`, ordered by address.
    by_ip: Box<[u32]>,
    /// SRV records of a headless Service, ordered by endpoint and port number.
    pub(crate) srvs: Box<[Srv]>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum ServiceKind {
    /// With a ClusterIP. A Service that has none although it is not headless has no addresses.
    Cluster,
    Headless,
    /// The target's name in wire form.
    External(Box<[u8]>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Port {
    /// Empty for a port without a name, which only the SRV record of the Service's name shows.
    pub(crate) name: Label,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
    /// The number of addresses that serve it; the weights of its SRV records are shares of it.
    pub(crate) addresses: u32,
}

/// An address and the label of its endpoint: the hostname, or else the dashed address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) label: Label,
    pub(crate) ip: IpAddr,
}

/// One SRV record of a headless Service: the first endpoint with that label, and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Srv {
    pub(crate) endpoint: u32,
    pub(crate) number: u16,
    pub(crate) port: u16,
}

/// The wire form of a Service's name and namespace; `None` if it cannot be a DNS name.
pub(crate) fn key_of(namespace: &str, service: &str) -> Option<Key> {
    let mut key = Key::new();
    for label in [service, namespace] {
        let label = label_of(label)?;
        key.push(label.len() as u8);
        key.extend_from_slice(&label);
    }
    Some(key)
}

/// A lower-case label; `None` if the text cannot be a label.
pub(crate) fn label_of(text: &str) -> Option<Label> {
    let fits = (1..=63).contains(&text.len()) && !text.contains('.');
    fits.then(|| {
        let mut label = Label::from_slice(text.as_bytes());
        label.make_ascii_lowercase();
        label
    })
}

/// `172-0-0-2`, `5678-abcd--1`; a label must not end in `-`, so a `0` follows then.
pub(crate) fn dashed(ip: IpAddr) -> Label {
    let mut label: Label = ip.to_string().bytes().collect();
    for octet in label.iter_mut().filter(|octet| matches!(octet, b'.' | b':')) {
        *octet = b'-';
    }
    // A label must not begin with '-' either: `::1` is `0--1`.
    if label.first() == Some(&b'-') {
        label.insert(0, b'0');
    }
    if label.last() == Some(&b'-') {
        label.push(b'0');
    }
    label
}

impl Service {
    /// `None` if it has no names: they would be too long, or it is headless without endpoints.
    pub(crate) fn compile(entry: &ServiceEntry, settings: &Settings) -> Option<Service> {
        let service = &entry.service;
        let key = key_of(&service.name.namespace, &service.name.name)?;
        if key.len() + settings.svc_suffix.len() > MAX_NAME {
            return None;
        }
        if let ServiceType::ExternalName(target) = &service.service_type {
            let target = Name::from_text(target)?.wire().into();
            return Some(Service::empty(key, ServiceKind::External(target)));
        }
        let served = served_endpoints(entry, MAX_NAME - key.len() - settings.svc_suffix.len());
        let (endpoints, by_ip) = index(&served);
        if !service.headless {
            let cluster_ips = SmallVec::from_slice(&service.cluster_ips);
            let mut compiled = Service::empty(key, ServiceKind::Cluster);
            compiled.ports = cluster_ports(entry);
            compiled.compile_addresses(&cluster_ips, settings.ttl);
            return Some(Service { cluster_ips, endpoints, by_ip, ..compiled });
        }
        if endpoints.is_empty() {
            return None;
        }
        let mut ips: Vec<IpAddr> = endpoints.iter().map(|endpoint| endpoint.ip).collect();
        ips.sort_unstable();
        ips.dedup();
        let mut compiled = Service::empty(key, ServiceKind::Headless);
        compiled.compile_addresses(&ips, settings.ttl);
        let (ports, srvs) = headless_ports(&served, &endpoints);
        Some(Service { ports, srvs, endpoints, by_ip, ..compiled })
    }

    fn empty(key: Key, kind: ServiceKind) -> Service {
        Service {
            key,
            kind,
            v4: SmallVec::new(),
            v6: SmallVec::new(),
            cluster_ips: SmallVec::new(),
            ports: Box::default(),
            endpoints: Box::default(),
            by_ip: Box::default(),
            srvs: Box::default(),
        }
    }

    fn compile_addresses(&mut self, ips: &[IpAddr], ttl: u32) {
        let owner = pointer(usize::from(QUESTION_AT));
        for ip in ips {
            let (records, octets, rtype) = match ip {
                IpAddr::V4(ip) => (&mut self.v4, &ip.octets()[..], Type::A),
                IpAddr::V6(ip) => (&mut self.v6, &ip.octets()[..], Type::AAAA),
            };
            records.extend_from_slice(&owner);
            records.extend_from_slice(&fixed_fields(rtype, ttl, octets.len()));
            records.extend_from_slice(octets);
        }
        self.v4.shrink_to_fit();
        self.v6.shrink_to_fit();
    }

    /// The label of the Service's own name, without its length.
    pub(crate) fn name_label(&self) -> &[u8] {
        &self.key[1..1 + usize::from(self.key[0])]
    }

    /// The label of its namespace, without its length.
    pub(crate) fn namespace_label(&self) -> &[u8] {
        &self.key[2 + usize::from(self.key[0])..]
    }

    /// Every endpoint with that label.
    pub(crate) fn endpoints_named(&self, label: &[u8]) -> &[Endpoint] {
        let from = self.endpoints.partition_point(|e| *e.label < *label);
        let to = from + self.endpoints[from..].partition_point(|e| *e.label == *label);
        &self.endpoints[from..to]
    }

    /// The first endpoint with that address.
    pub(crate) fn endpoint_at(&self, ip: IpAddr) -> Option<&Endpoint> {
        let ip_of = |index: &u32| self.endpoints[*index as usize].ip;
        let at = self.by_ip.partition_point(|index| ip_of(index) < ip);
        let index = self.by_ip.get(at).filter(|index| ip_of(index) == ip)?;
        Some(&self.endpoints[*index as usize])
    }

    /// All addresses with a PTR record for this Service.
    pub(crate) fn known_ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.cluster_ips.iter().copied().chain(self.endpoints.iter().map(|e| e.ip))
    }

    /// The number of names that exist because of this Service.
    pub(crate) fn names(&self) -> usize {
        let labels = self.endpoints.chunk_by(|a, b| a.label == b.label).count();
        let named = || self.ports.iter().filter(|port| !port.name.is_empty());
        let ports: BTreeSet<_> = named().map(|port| (port.protocol, &port.name)).collect();
        let protocols: BTreeSet<_> = named().map(|port| port.protocol).collect();
        1 + labels + ports.len() + protocols.len()
    }
}

impl Port {
    pub(crate) fn is(&self, protocol: Protocol, name: &[u8]) -> bool {
        self.protocol == protocol && *self.name == *name
    }
}

/// One address of an endpoint that is served, with the ports of its slice.
struct Served<'e> {
    endpoint: Endpoint,
    ports: &'e [model::SlicePort],
}

/// The endpoints that get names: the ready ones, or all if the Service says so. `room` is the
/// longest label, with its length octet.
fn served_endpoints(entry: &ServiceEntry, room: usize) -> Vec<Served<'_>> {
    let all = entry.service.publish_not_ready_addresses;
    let mut served = Vec::new();
    for slice in entry.slices.iter() {
        for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready || all) {
            let hostname = endpoint.details().hostname.as_deref().and_then(label_of);
            for address in endpoint.addresses() {
                let Address::Ip(ip) = address else { continue };
                let label = hostname.clone().unwrap_or_else(|| dashed(ip));
                if label.len() < room {
                    let endpoint = Endpoint { label, ip };
                    served.push(Served { endpoint, ports: &slice.ports });
                }
            }
        }
    }
    served
}

fn index(served: &[Served<'_>]) -> (Box<[Endpoint]>, Box<[u32]>) {
    let mut endpoints: Vec<Endpoint> = served.iter().map(|s| s.endpoint.clone()).collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    let mut by_ip: Vec<u32> = (0..endpoints.len() as u32).collect();
    by_ip.sort_by_key(|index| endpoints[*index as usize].ip);
    (endpoints.into(), by_ip.into())
}

/// The ports of a Service with a ClusterIP: its own, not those of its endpoints.
fn cluster_ports(entry: &ServiceEntry) -> Box<[Port]> {
    let addresses = entry.service.cluster_ips.len() as u32;
    if addresses == 0 {
        return Box::default();
    }
    let ports = entry.service.ports.iter().map(|port| Port {
        name: label_of(&port.name).unwrap_or_default(),
        protocol: port.protocol,
        number: port.port.get(),
        addresses,
    });
    ports.collect()
}

/// The ports of a headless Service: those of its slices, because clients connect to endpoints.
fn headless_ports(served: &[Served<'_>], endpoints: &[Endpoint]) -> (Box<[Port]>, Box<[Srv]>) {
    let mut ports: Vec<Port> = Vec::new();
    let mut index = HashMap::new();
    let mut pairs = Vec::new();
    for Served { endpoint, ports: slice_ports } in served {
        for slice_port in slice_ports.iter() {
            let Some(number) = slice_port.port else { continue };
            let name = label_of(&slice_port.name).unwrap_or_default();
            let key = (name, slice_port.protocol, number.get());
            let at = *index.entry(key).or_insert_with_key(|(name, protocol, number)| {
                let (name, protocol, number) = (name.clone(), *protocol, *number);
                ports.push(Port { name, protocol, number, addresses: 0 });
                ports.len() - 1
            });
            // Slices of one Service have few distinct ports; an index beyond u16 is not served.
            let Ok(port) = u16::try_from(at) else { continue };
            pairs.push((endpoint, port));
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    let mut srvs: Vec<Srv> = Vec::with_capacity(pairs.len());
    for (endpoint, port) in pairs {
        let chosen = &mut ports[usize::from(port)];
        chosen.addresses += 1;
        let first = endpoints.partition_point(|e| e.label < endpoint.label) as u32;
        srvs.push(Srv { endpoint: first, number: chosen.number, port });
    }
    srvs.sort_unstable();
    srvs.dedup();
    (ports.into(), srvs.into())
}
