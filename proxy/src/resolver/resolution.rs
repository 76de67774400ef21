//! What the resolver makes of a Service: frontends, their addresses and endpoints, and what cannot
//! be served; and what it has to know of the node.
//!
//! Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use model::{Model, ObjectName, Protocol, ServicePort};

use super::addresses::Addresses;
use crate::annotations::Ignored;

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

    pub(super) fn other(self) -> Family {
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

    pub(super) fn is_external(self) -> bool {
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
    /// Empty when the frontend must refuse, or when it serves clients within the cluster only.
    pub endpoints: Addresses,
    /// What serves clients within the cluster (pods and this node), where that differs from
    /// `endpoints`: traffic policy `Local` of a frontend for clients outside does not apply to
    /// them.
    pub in_cluster: Option<Box<Choice>>,
    /// Endpoints that are listed and get no new connection: not ready, not near, or terminating
    /// while others are ready. The connections that they have go on.
    pub kept: Addresses,
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
    /// Never empty.
    pub endpoints: Addresses,
    pub scope: Scope,
    pub why: Why,
}

impl Frontend {
    /// The endpoints that get new connections of any client, ordered by address.
    pub fn all_endpoints(&self) -> Vec<SocketAddr> {
        let Some(choice) = &self.in_cluster else { return self.endpoints.iter().collect() };
        let both: BTreeSet<_> = self.endpoints.iter().chain(choice.endpoints.iter()).collect();
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
    /// Annotations that are ignored.
    pub ignored: Vec<Ignored>,
    pub health_check: Option<HealthCheck>,
}

impl Resolution {
    pub(super) fn skip(&mut self, port: &ServicePort, reason: SkipReason) {
        self.skipped.push(Skipped { port_name: port.name.clone(), port: port.port, reason });
    }
}
