//! Decides which frontends a Service has and which endpoints serve each of them, and why.
//!
//! Pure: a [`ServiceEntry`] of the model and the [`Node`] that asks → [`Resolution`]. Readiness,
//! `publishNotReadyAddresses`, terminating endpoints, traffic policies, topology, address families
//! and which clients may connect are decided here and nowhere else, for every mode. How endpoints
//! are chosen is in `endpoints`.
//!
//! Left out: which of several Services that claim one address gets it (the snapshot's work).

mod addresses;
mod endpoints;
mod resolution;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use model::{Protocol, Service, ServiceEntry, ServicePort, ServiceType, TrafficPolicy};

pub use addresses::Addresses;
pub use resolution::{
    Choice, Family, Frontend, FrontendAddress, FrontendKind, HealthCheck, Node, Place, Resolution,
    Scope, SkipReason, Skipped, Why,
};

use crate::annotations;

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
    resolution.ignored = annotations::ignored(service);
    for port in &service.ports {
        if port.protocol == Protocol::Sctp {
            resolution.skip(port, SkipReason::Sctp);
            continue;
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
        endpoints: chosen.endpoints.into_iter().collect(),
        in_cluster,
        kept: chosen.kept.into_iter().collect(),
        scope: chosen.scope,
        why: chosen.why,
        affinity: service.client_ip_affinity,
        sources: match address.place {
            Place::Ip(ip) if kind.is_external() => sources(service, node, ip),
            _ => None,
        },
        proxy_protocol: port.protocol == Protocol::Tcp && annotations::has_proxy_header(service),
    }
}

/// What serves clients within the cluster at a frontend for clients outside, if that differs:
/// pods and the node itself get policy `Cluster` (the API's text on `externalTrafficPolicy`).
fn in_cluster(
    wanted: endpoints::Wanted<'_>,
    kind: FrontendKind,
    address: FrontendAddress,
    outside: &[SocketAddr],
) -> Option<Box<Choice>> {
    let wanted = endpoints::Wanted { policy: TrafficPolicy::Cluster, ..wanted };
    let chosen = wanted.choose(kind, address);
    let differs = !chosen.endpoints.is_empty() && chosen.endpoints != outside;
    let endpoints = chosen.endpoints.into_iter().collect();
    differs.then(|| Box::new(Choice { endpoints, scope: chosen.scope, why: chosen.why }))
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
