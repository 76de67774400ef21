//! Decides which frontends a Service has and which endpoints serve each of them, and why.
//!
//! Pure: a [`ServiceEntry`] of the model and the [`Node`] that asks → [`Resolution`]. Readiness,
//! `publishNotReadyAddresses`, terminating endpoints and address families are decided here and
//! nowhere else, for every mode.
//!
//! Left out: which of several Services that claim one address gets it (the snapshot's work).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use feed::{AddressType, ObjectName, Protocol, Service, ServiceEntry, ServicePort, ServiceType};

/// What the resolver must know of the machine that the proxy runs on.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// `--node-name`.
    pub name: Option<Arc<str>>,
    /// The address families that NodePorts are served on.
    pub families: Vec<Family>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn other(self) -> Family {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }
}

/// Where a frontend is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A ClusterIP.
    Ip(IpAddr),
    /// Every address of this node of one family: a NodePort.
    Node(Family),
}

/// The address that a client dials: what identifies a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendAddress {
    pub place: Place,
    pub port: NonZeroU16,
    pub protocol: Protocol,
}

impl fmt::Display for FrontendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Ip(ip) => write!(f, "{}", SocketAddr::new(ip, self.port.get()))?,
            Place::Node(Family::V4) => write!(f, "node-ipv4:{}", self.port)?,
            Place::Node(Family::V6) => write!(f, "node-ipv6:{}", self.port)?,
        }
        write!(f, "/{}", self.protocol)
    }
}

/// One frontend of a service port, with the endpoints that serve it.
#[derive(Clone, Debug, PartialEq)]
pub struct Frontend {
    pub address: FrontendAddress,
    pub service: ObjectName,
    /// Name of the service port; empty when the Service's only port has none.
    pub port_name: Arc<str>,
    /// Ordered by address; empty when the frontend must refuse.
    pub endpoints: Arc<[SocketAddr]>,
    pub why: Why,
}

/// Why these endpoints serve the frontend, or why none do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The ready ones.
    Ready,
    /// All of them: the Service sets `publishNotReadyAddresses`.
    NotReadyPublished,
    /// None is ready, so those that still serve while they terminate do (KEP-1669).
    ServingTerminating,
    /// No slice of the Service has an endpoint on this port in this address family.
    NoEndpoints,
    /// There are endpoints, and none of them is ready or serves while it terminates.
    NoneReady,
}

impl Why {
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Ready => "ready endpoints",
            Why::NotReadyPublished => "all endpoints: publishNotReadyAddresses is set",
            Why::ServingTerminating => "none ready: endpoints that terminate and still serve",
            Why::NoEndpoints => "no endpoint on this port in this address family",
            Why::NoneReady => "no endpoint is ready",
        }
    }
}

/// A part of a Service that this proxy does not serve although the Service asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub port_name: Arc<str>,
    pub port: NonZeroU16,
    pub reason: SkipReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    Sctp,
    /// Another port of the same Service has the same address.
    Duplicate(FrontendAddress),
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SkipReason::Sctp => f.write_str("SCTP is not served"),
            SkipReason::Duplicate(address) => {
                write!(f, "another port of the Service has {address} already")
            }
        }
    }
}

/// All frontends of a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolution {
    pub frontends: Vec<Frontend>,
    pub skipped: Vec<Skipped>,
}

/// Resolves one Service. Empty for a Service that is not this proxy's: another proxy's, an
/// ExternalName, a headless one.
pub fn resolve(entry: &ServiceEntry, node: &Node) -> Resolution {
    let mut resolution = Resolution::default();
    let service = &*entry.service;
    if service.foreign_proxy || matches!(service.service_type, ServiceType::ExternalName(_)) {
        return resolution;
    }
    for port in &service.ports {
        if port.protocol == Protocol::Sctp {
            resolution.skip(port, SkipReason::Sctp);
            continue;
        }
        for address in addresses(service, port, node) {
            if resolution.frontends.iter().any(|frontend| frontend.address == address) {
                resolution.skip(port, SkipReason::Duplicate(address));
                continue;
            }
            let (endpoints, why) = endpoints(entry, port, address);
            resolution.frontends.push(Frontend {
                address,
                service: service.name.clone(),
                port_name: port.name.clone(),
                endpoints: endpoints.into(),
                why,
            });
        }
    }
    resolution
}

impl Resolution {
    fn skip(&mut self, port: &ServicePort, reason: SkipReason) {
        self.skipped.push(Skipped { port_name: port.name.clone(), port: port.port, reason });
    }
}

fn addresses(service: &Service, port: &ServicePort, node: &Node) -> Vec<FrontendAddress> {
    let protocol = port.protocol;
    let cluster_ips = service.cluster_ips.iter().map(|ip| FrontendAddress {
        place: Place::Ip(*ip),
        port: port.port,
        protocol,
    });
    let has_node_ports =
        matches!(service.service_type, ServiceType::NodePort | ServiceType::LoadBalancer);
    let node_port = port.node_port.filter(|_| has_node_ports);
    let node_ports = node_port.into_iter().flat_map(|port| {
        node.families.iter().map(move |family| FrontendAddress {
            place: Place::Node(*family),
            port,
            protocol,
        })
    });
    cluster_ips.chain(node_ports).collect()
}

/// A ClusterIP is served by endpoints of its own family, as in Kubernetes. A NodePort of a family
/// in which the Service has none that serve is carried over to the other family: a Service whose
/// endpoints are all IPv4 answers on `[::1]` too, where `localhost` leads first.
fn endpoints(
    entry: &ServiceEntry,
    port: &ServicePort,
    address: FrontendAddress,
) -> (Vec<SocketAddr>, Why) {
    match address.place {
        Place::Ip(ip) => {
            let own = SocketAddr::new(ip, address.port.get());
            serving(entry, port, Family::of(ip), Some(own))
        }
        Place::Node(family) => {
            let same = serving(entry, port, family, None);
            let other = serving(entry, port, family.other(), None);
            if same.0.is_empty() && !other.0.is_empty() { other } else { same }
        }
    }
}

/// The conditions of one endpoint; several slices may list the same one while they are
/// rebalanced, and then the best of each counts.
#[derive(Clone, Copy, Default)]
struct Conditions {
    ready: bool,
    serving_terminating: bool,
}

/// `own`: the frontend's own address, which can be nobody's endpoint: each connection to it would
/// make another one, until no descriptor is left.
fn serving(
    entry: &ServiceEntry,
    port: &ServicePort,
    family: Family,
    own: Option<SocketAddr>,
) -> (Vec<SocketAddr>, Why) {
    let mut listed = listed(entry, port, family);
    if let Some(own) = own {
        listed.remove(&own);
    }
    let those = |suits: fn(&Conditions) -> bool| -> Vec<SocketAddr> {
        listed.iter().filter(|(_, c)| suits(c)).map(|(addr, _)| *addr).collect()
    };
    if listed.is_empty() {
        return (Vec::new(), Why::NoEndpoints);
    }
    if entry.service.publish_not_ready_addresses {
        return (those(|_| true), Why::NotReadyPublished);
    }
    let ready = those(|conditions| conditions.ready);
    if !ready.is_empty() {
        return (ready, Why::Ready);
    }
    let terminating = those(|conditions| conditions.serving_terminating);
    if !terminating.is_empty() {
        return (terminating, Why::ServingTerminating);
    }
    (Vec::new(), Why::NoneReady)
}

/// The endpoints of a service port in one family. A slice's port is the service port's by name
/// and protocol; its number is what a named target port means for the endpoints of that slice.
fn listed(
    entry: &ServiceEntry,
    port: &ServicePort,
    family: Family,
) -> BTreeMap<SocketAddr, Conditions> {
    let wanted = match family {
        Family::V4 => AddressType::Ipv4,
        Family::V6 => AddressType::Ipv6,
    };
    let mut listed: BTreeMap<SocketAddr, Conditions> = BTreeMap::new();
    for slice in entry.slices.iter().filter(|slice| slice.address_type == wanted) {
        let ours = |p: &&feed::SlicePort| p.name == port.name && p.protocol == port.protocol;
        let Some(number) = slice.ports.iter().find(ours).and_then(|p| p.port) else { continue };
        for endpoint in &slice.endpoints {
            let Some(ip) = endpoint.ip() else { continue };
            let conditions = listed.entry(SocketAddr::new(ip, number.get())).or_default();
            conditions.ready |= endpoint.ready;
            conditions.serving_terminating |= endpoint.serving && endpoint.terminating;
        }
    }
    listed
}

#[cfg(test)]
mod tests;
