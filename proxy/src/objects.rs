//! Objects for the tests of this crate.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use model::{
    AddressType, Endpoint, EndpointSlice, ObjectName, Protocol, Service, ServicePort, ServiceType,
    SlicePort, TargetPort, TrafficPolicy,
};

/// A service port; its target is the slices' port of the same name.
pub(crate) fn port(
    name: &str,
    number: u16,
    protocol: Protocol,
    node_port: Option<u16>,
) -> ServicePort {
    ServicePort {
        name: name.into(),
        port: NonZeroU16::new(number).unwrap(),
        protocol,
        target_port: TargetPort::Name(name.into()),
        node_port: node_port.map(|port| NonZeroU16::new(port).unwrap()),
        app_protocol: None,
    }
}

/// A Service in the namespace `demo`; of type NodePort if a port asks for one.
pub(crate) fn service(name: &str, cluster_ips: &[&str], ports: Vec<ServicePort>) -> Service {
    let has_node_port = ports.iter().any(|port| port.node_port.is_some());
    Service {
        name: ObjectName::new("demo", name),
        service_type: if has_node_port { ServiceType::NodePort } else { ServiceType::ClusterIp },
        cluster_ips: cluster_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        headless: false,
        ports,
        publish_not_ready_addresses: false,
        client_ip_affinity: None,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_traffic_policy: TrafficPolicy::Cluster,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        load_balancer_source_ranges: Vec::new(),
        health_check_node_port: None,
        traffic_distribution: None,
        foreign_proxy: false,
        annotations: BTreeMap::new(),
    }
}

/// A slice of a Service in the namespace `demo`, IPv6 if an endpoint is.
///
/// Endpoints as `IP`, `IP/unready`, `IP/serving` (terminating, still serving) or `IP/gone`
/// (terminating, not serving), then where they are and for whom, as `@node ~zone >node >~zone`.
pub(crate) fn slice(
    service: &str,
    name: &str,
    ports: &[(&str, Protocol, u16)],
    endpoints: &[&str],
) -> EndpointSlice {
    let endpoints = endpoints.iter().map(|text| {
        let mut words = text.split(' ');
        let text = words.next().unwrap();
        let (ip, condition) = text.split_once('/').unwrap_or((text, ""));
        let mut endpoint = Endpoint::ready_at(ip.parse().unwrap());
        match condition {
            "" => {}
            "unready" => (endpoint.ready, endpoint.serving) = (false, false),
            "serving" => (endpoint.ready, endpoint.terminating) = (false, true),
            "gone" => {
                (endpoint.ready, endpoint.serving, endpoint.terminating) = (false, false, true);
            }
            other => panic!("{other}"),
        }
        for word in words {
            let (mark, name) = word.split_at(word.find(char::is_alphanumeric).unwrap());
            match mark {
                "@" => endpoint.details_mut().node_name = Some(name.into()),
                "~" => endpoint.details_mut().zone = Some(name.into()),
                ">" => endpoint.details_mut().for_nodes.push(name.into()),
                ">~" => endpoint.details_mut().for_zones.push(name.into()),
                other => panic!("{other}"),
            }
        }
        endpoint
    });
    let endpoints: Vec<Endpoint> = endpoints.collect();
    let v6 = endpoints.iter().any(|e| e.ip().is_some_and(|ip| ip.is_ipv6()));
    let ports = ports.iter().map(|(name, protocol, number)| SlicePort {
        name: (*name).into(),
        protocol: *protocol,
        port: NonZeroU16::new(*number),
        app_protocol: None,
    });
    EndpointSlice {
        name: ObjectName::new("demo", name),
        service: service.into(),
        address_type: if v6 { AddressType::Ipv6 } else { AddressType::Ipv4 },
        ports: ports.collect(),
        endpoints,
    }
}
