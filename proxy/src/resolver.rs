//! Decides which frontends a Service has and which endpoints serve each of them, and why.
//!
//! Pure: a [`ServiceEntry`] of the model and the [`Node`] that asks → [`Resolution`]. Readiness,
//! `publishNotReadyAddresses`, terminating endpoints, traffic policies, topology, address families
//! and which clients may connect are decided here and nowhere else, for every mode. How endpoints
//! are chosen is in `endpoints`.
//!
//! Left out: which of several Services that claim one address gets it (the snapshot's work).

mod endpoints;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use model::{
    Model, ObjectName, Protocol, Service, ServiceEntry, ServicePort, ServiceType, TrafficPolicy,
};

/// The annotation of a Service whose endpoints are to be told who their client is. Its only value
/// is `v2`.
const PROXY_PROTOCOL: &str = "switchyard.dev/proxy-protocol";
/// The annotation of a Service that names how its endpoints are chosen.
const LOAD_BALANCE: &str = "switchyard.dev/load-balance";

/// What the resolver must know of the machine that the proxy runs on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// `--node-name`: endpoints with this `nodeName` are on this node.
    pub name: Option<Arc<str>>,
    /// Label `topology.kubernetes.io/zone` of the Node object of that name.
    pub zone: Option<Arc<str>>,
    /// Its addresses as far as they are known: `--node-ip`, and those of its Node object.
    pub ips: Vec<IpAddr>,
    /// The zones of all nodes: an endpoint that does not say its zone is in that of its node.
    pub zones: imbl::OrdMap<Arc<str>, Arc<str>>,
    /// The address families that NodePorts are served on.
    pub families: Vec<Family>,
}

impl Node {
    /// What the flags say, and besides it what the Node objects say.
    pub fn with_objects(&self, model: &Model) -> Node {
        let mut node = self.clone();
        if let Some(object) = self.name.as_deref().and_then(|name| model.node(name)) {
            node.zone = object.zone.clone();
            node.ips.extend(&object.ips);
        }
        let zone_of = |node: &Arc<model::Node>| Some((node.name.name.clone(), node.zone.clone()?));
        node.zones = model.nodes().filter_map(zone_of).collect();
        node
    }
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
    /// A ClusterIP, an external IP or a load balancer's.
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

/// Which field of the Service makes the frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontendKind {
    ClusterIp,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancerIp,
    ExternalIp,
    NodePort,
}

impl FrontendKind {
    pub fn as_str(self) -> &'static str {
        match self {
            FrontendKind::ClusterIp => "ClusterIP",
            FrontendKind::LoadBalancerIp => "load balancer IP",
            FrontendKind::ExternalIp => "external IP",
            FrontendKind::NodePort => "NodePort",
        }
    }

    fn is_external(self) -> bool {
        self != FrontendKind::ClusterIp
    }
}

/// One frontend of a service port, with the endpoints that serve it.
#[derive(Clone, Debug, PartialEq)]
pub struct Frontend {
    pub address: FrontendAddress,
    pub kind: FrontendKind,
    pub service: ObjectName,
    /// Name of the service port; empty when the Service's only port has none.
    pub port_name: Arc<str>,
    /// Ordered by address. Empty when the frontend must refuse, or when it serves clients within
    /// the cluster only.
    pub endpoints: Arc<[SocketAddr]>,
    /// What serves clients within the cluster (pods and this node), where that differs from
    /// `endpoints`: traffic policy `Local` of a frontend for clients outside does not apply to
    /// them.
    pub in_cluster: Option<Choice>,
    /// Endpoints that are listed and get no new connection, ordered by address: not ready, not
    /// near, or terminating while others are ready. The connections that they have go on.
    pub kept: Arc<[SocketAddr]>,
    pub scope: Scope,
    pub why: Why,
    /// `sessionAffinity: ClientIP`: how long a client that is away keeps its endpoint.
    pub affinity: Option<Duration>,
    /// Clients that may connect; `None` for all.
    pub sources: Option<Arc<[IpNet]>>,
    /// TCP endpoints are told who their client is: PROXY protocol, version 2.
    pub proxy_protocol: bool,
}

/// Endpoints that serve some of a frontend's clients, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Ordered by address; never empty.
    pub endpoints: Arc<[SocketAddr]>,
    pub scope: Scope,
    pub why: Why,
}

impl Frontend {
    /// The endpoints that get new connections of any client, ordered by address.
    pub fn all_endpoints(&self) -> Cow<'_, [SocketAddr]> {
        let Some(choice) = &self.in_cluster else { return Cow::Borrowed(&self.endpoints) };
        let both: BTreeSet<SocketAddr> =
            self.endpoints.iter().chain(choice.endpoints.iter()).copied().collect();
        both.into_iter().collect()
    }

    /// Whether any client is served.
    pub fn is_served(&self) -> bool {
        !self.endpoints.is_empty() || self.in_cluster.is_some()
    }
}

/// Which endpoints were considered at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    Cluster,
    /// Those of this node only: traffic policy `Local`.
    Local,
    /// Those for this node's zone, by their hints or by the Service's `trafficDistribution`.
    SameZone,
    /// Those for this node, by their hints or by the Service's `trafficDistribution`.
    SameNode,
}

impl Scope {
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Cluster => "all",
            Scope::Local => "on this node: traffic policy Local",
            Scope::SameZone => "near: for this zone",
            Scope::SameNode => "near: for this node",
        }
    }
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
    /// There are endpoints, and none of them is on this node, which the policy asks for.
    NoneLocal,
}

impl Why {
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Ready => "ready endpoints",
            Why::NotReadyPublished => "all endpoints: publishNotReadyAddresses is set",
            Why::ServingTerminating => "none ready: endpoints that terminate and still serve",
            Why::NoEndpoints => "no endpoint on this port in this address family",
            Why::NoneReady => "no endpoint is ready",
            Why::NoneLocal => "no endpoint is on this node, and the traffic policy is Local",
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
    /// The annotation asks for an algorithm that is not there; round robin is used.
    LoadBalance,
    /// Another port of the same Service has the same address.
    Duplicate(FrontendAddress),
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SkipReason::Sctp => f.write_str("SCTP is not served"),
            SkipReason::LoadBalance => write!(
                f,
                "{LOAD_BALANCE} asks for what this version does not have: round-robin is used"
            ),
            SkipReason::Duplicate(address) => {
                write!(f, "another port of the Service has {address} already")
            }
        }
    }
}

/// What a load balancer in front of the nodes is told of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: NonZeroU16,
    /// Ready endpoints on this node. The same endpoint in both families counts once.
    pub local_endpoints: usize,
}

/// All frontends of a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolution {
    pub frontends: Vec<Frontend>,
    pub skipped: Vec<Skipped>,
    pub health_check: Option<HealthCheck>,
}

/// Resolves one Service. Empty for a Service that is not this proxy's: another proxy's, an
/// ExternalName, a headless one.
pub fn resolve(entry: &ServiceEntry, node: &Node) -> Resolution {
    let mut resolution = Resolution::default();
    let service = &*entry.service;
    let has_name = matches!(service.service_type, ServiceType::ExternalName(_));
    if service.foreign_proxy || service.headless || has_name {
        return resolution;
    }
    resolution.health_check = health_check(entry, node);
    for port in &service.ports {
        if port.protocol == Protocol::Sctp {
            resolution.skip(port, SkipReason::Sctp);
            continue;
        }
        if asks_for_other_than_round_robin(service) {
            resolution.skip(port, SkipReason::LoadBalance);
        }
        let first = resolution.frontends.len();
        for (kind, address) in addresses(service, port, node) {
            match resolution.frontends.iter().position(|f| f.address == address) {
                None => resolution.frontends.push(frontend(entry, port, node, kind, address)),
                // An external IP that is the load balancer's as well.
                Some(same_port) if same_port >= first => {}
                Some(_) => resolution.skip(port, SkipReason::Duplicate(address)),
            }
        }
    }
    resolution
}

impl Resolution {
    fn skip(&mut self, port: &ServicePort, reason: SkipReason) {
        self.skipped.push(Skipped { port_name: port.name.clone(), port: port.port, reason });
    }
}

/// The frontends that a service port asks for. Of an address that stands twice the first counts,
/// so a load balancer's IP comes before an external one: it may be open to some clients only.
fn addresses(
    service: &Service,
    port: &ServicePort,
    node: &Node,
) -> Vec<(FrontendKind, FrontendAddress)> {
    let is_balanced = service.service_type == ServiceType::LoadBalancer;
    let has_node_ports = is_balanced || service.service_type == ServiceType::NodePort;
    let balanced = if is_balanced { &service.load_balancer_ips[..] } else { &[] };
    let by_ip = [
        (FrontendKind::ClusterIp, &service.cluster_ips[..]),
        (FrontendKind::LoadBalancerIp, balanced),
        (FrontendKind::ExternalIp, &service.external_ips),
    ];
    let protocol = port.protocol;
    let address = |place, port| FrontendAddress { place, port, protocol };
    let ips = by_ip.into_iter().flat_map(|(kind, ips)| {
        ips.iter().map(move |ip| (kind, address(Place::Ip(*ip), port.port)))
    });
    let node_port = port.node_port.filter(|_| has_node_ports);
    let node_ports = node_port.into_iter().flat_map(|port| {
        let families = node.families.iter();
        families.map(move |family| (FrontendKind::NodePort, address(Place::Node(*family), port)))
    });
    ips.chain(node_ports).collect()
}

fn frontend(
    entry: &ServiceEntry,
    port: &ServicePort,
    node: &Node,
    kind: FrontendKind,
    address: FrontendAddress,
) -> Frontend {
    let service = &*entry.service;
    let policy = match kind.is_external() {
        true => service.external_traffic_policy,
        false => service.internal_traffic_policy,
    };
    let wanted = endpoints::Wanted { entry, port, node, policy };
    let chosen = wanted.choose(kind, address);
    let in_cluster = match kind.is_external() && policy == TrafficPolicy::Local {
        true => in_cluster(wanted, kind, address, &chosen.endpoints),
        false => None,
    };
    Frontend {
        address,
        kind,
        service: service.name.clone(),
        port_name: port.name.clone(),
        endpoints: chosen.endpoints.into(),
        in_cluster,
        kept: chosen.kept.into(),
        scope: chosen.scope,
        why: chosen.why,
        affinity: service.client_ip_affinity,
        sources: match address.place {
            Place::Ip(ip) if kind.is_external() => sources(service, node, ip),
            _ => None,
        },
        proxy_protocol: port.protocol == Protocol::Tcp
            && service.annotations.get(PROXY_PROTOCOL).is_some_and(|version| &**version == "v2"),
    }
}

fn asks_for_other_than_round_robin(service: &Service) -> bool {
    service.annotations.get(LOAD_BALANCE).is_some_and(|value| &**value != "round-robin")
}

/// What serves clients within the cluster at a frontend for clients outside, if that differs:
/// pods and the node itself get policy `Cluster` (the API's text on `externalTrafficPolicy`).
fn in_cluster(
    wanted: endpoints::Wanted<'_>,
    kind: FrontendKind,
    address: FrontendAddress,
    outside: &[SocketAddr],
) -> Option<Choice> {
    let wanted = endpoints::Wanted { policy: TrafficPolicy::Cluster, ..wanted };
    let chosen = wanted.choose(kind, address);
    let differs = !chosen.endpoints.is_empty() && chosen.endpoints != outside;
    differs.then(|| Choice {
        endpoints: chosen.endpoints.into(),
        scope: chosen.scope,
        why: chosen.why,
    })
}

/// Which clients may connect to an external address of the Service: the ranges hold for all of
/// them, because a client that is denied at one could use another. NodePorts are not covered, as
/// in Kubernetes. A client on this node that dials an IP which is an address of the node has that
/// very IP for its source, so it is allowed if the node is.
///
/// Ranges of one family leave the IPs of the other family closed: the list names all who may
/// connect.
fn sources(service: &Service, node: &Node, ip: IpAddr) -> Option<Arc<[IpNet]>> {
    let ranges = &service.load_balancer_source_ranges;
    if ranges.is_empty() {
        return None;
    }
    let node_may = node.ips.iter().any(|ip| ranges.iter().any(|range| range.contains(ip)));
    Some(ranges.iter().copied().chain(node_may.then(|| ip.into())).collect())
}

/// A load balancer asks for a Service's health where the policy makes a difference between nodes.
fn health_check(entry: &ServiceEntry, node: &Node) -> Option<HealthCheck> {
    let service = &*entry.service;
    let is_asked = service.service_type == ServiceType::LoadBalancer
        && service.external_traffic_policy == TrafficPolicy::Local;
    let port = service.health_check_node_port.filter(|_| is_asked)?;
    Some(HealthCheck { port, local_endpoints: endpoints::ready_on_node(entry, node) })
}

#[cfg(test)]
mod tests;
