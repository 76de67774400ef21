//! A Service, validated: the meaning of a `v1` Service for a data plane.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::name::ObjectName;

/// A `v1` Service, cut to what the dataplane uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub name: ObjectName,
    pub service_type: ServiceType,
    /// `spec.clusterIPs`, at most one a family; empty for headless, ExternalName, and Services
    /// that were given none.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.clusterIP: None`.
    pub headless: bool,
    pub ports: Vec<ServicePort>,
    pub publish_not_ready_addresses: bool,
    /// `sessionAffinity: ClientIP`, with its idle time-out.
    pub client_ip_affinity: Option<Duration>,
    pub internal_traffic_policy: TrafficPolicy,
    pub external_traffic_policy: TrafficPolicy,
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`.
    pub load_balancer_ips: Vec<IpAddr>,
    pub load_balancer_source_ranges: Vec<IpNet>,
    pub health_check_node_port: Option<NonZeroU16>,
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Label `service.kubernetes.io/service-proxy-name` or `service.kubernetes.io/headless` is
    /// set: another proxy serves it.
    pub foreign_proxy: bool,
    /// Annotations under `switchyard.dev/`.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
}

impl Service {
    /// The port of that number or name, as an Ingress backend names it.
    pub fn port(&self, wanted: &super::BackendPort) -> Option<&ServicePort> {
        self.ports.iter().find(|port| match wanted {
            super::BackendPort::Number(number) => port.port == *number,
            super::BackendPort::Name(name) => port.name == *name,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceType {
    ClusterIp,
    NodePort,
    LoadBalancer,
    /// The target: a lower-case DNS name without a trailing dot.
    ExternalName(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty when the Service's only port has no name.
    pub name: Arc<str>,
    pub port: NonZeroU16,
    pub protocol: Protocol,
    pub target_port: TargetPort,
    pub node_port: Option<NonZeroU16>,
    pub app_protocol: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(NonZeroU16),
    Name(Arc<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    /// Parsed so that a Service with such a port keeps its other ports; no process serves it.
    Sctp,
}

impl Protocol {
    /// As Kubernetes spells it: `TCP`, `UDP`, `SCTP`.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        }
    }
}

/// The text is no protocol that Kubernetes knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownProtocol;

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Protocol, UnknownProtocol> {
        let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        all.into_iter().find(|protocol| protocol.as_str() == text).ok_or(UnknownProtocol)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficDistribution {
    /// `PreferClose` is its older name.
    PreferSameZone,
    PreferSameNode,
}
