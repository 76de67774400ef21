//! Service.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::pod::labels;
use super::{At, Check, ROOT, accept, format, portable};
use crate::model::{
    Protocol, Service, ServicePort, ServiceType, TargetPort, TrafficDistribution, TrafficPolicy,
};
use crate::name::Kind;
use crate::object::{self, IntOrText, Text};
use crate::record::{Family, Record, ServiceRecord};

/// The default range of node ports of a cluster.
const NODE_PORTS: std::ops::RangeInclusive<i64> = 30000..=32767;
/// `timeoutSeconds` of session affinity: three hours by default, a day at most.
const AFFINITY_SECONDS: i64 = 10_800;
const MAX_AFFINITY_SECONDS: i64 = 86_400;

const FOREIGN_PROXY_LABELS: [&str; 2] =
    ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

pub fn service(object: &object::Service<'_>, check: &mut Check<'_>) -> Option<Record> {
    let kind = Kind::Service;
    let name = check.name(object.metadata.as_ref(), kind, format::dns_label);
    let none = object::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&none);
    let at = ROOT.key("spec");
    let kind = service_type(spec, &at, check);
    portable::service(spec, &at, check);
    let (cluster_ips, headless) = cluster_ips(spec, kind, &at, check);
    let ports = ports(spec, kind, headless, &at, check);
    let health_check_node_port = health_check_node_port(spec, kind, (&ports, &at), check);
    let selector = spec.selector.as_ref().filter(|map| !map.0.is_empty());
    for (key, value) in selector.iter().flat_map(|map| &map.0) {
        check.expect(at.key("selector"), key, format::qualified_name);
        check.expect(at.key("selector").key(key), value, format::label_value);
    }
    let service_type = match kind {
        Type::ClusterIp => ServiceType::ClusterIp,
        Type::NodePort => ServiceType::NodePort,
        Type::LoadBalancer => ServiceType::LoadBalancer,
        Type::ExternalName => ServiceType::ExternalName(external_name(spec, &at, check)),
    };
    let service = Service {
        name,
        service_type,
        cluster_ips,
        headless,
        ports,
        publish_not_ready_addresses: spec.publish_not_ready_addresses.unwrap_or_default(),
        client_ip_affinity: affinity(spec, &at, check),
        internal_traffic_policy: policy(
            spec.internal_traffic_policy.as_ref(),
            at.key("internalTrafficPolicy"),
            check,
        ),
        external_traffic_policy: external_policy(spec, kind, &at, check),
        external_ips: ips(spec.external_ips.as_deref(), &at.key("externalIPs"), check),
        load_balancer_ips: load_balancer_ips(object, check),
        load_balancer_source_ranges: source_ranges(object, spec, &at, check),
        health_check_node_port,
        traffic_distribution: traffic_distribution(spec, &at, check),
        foreign_proxy: is_foreign(object),
        annotations: own_annotations(object.metadata.as_ref(), check),
    };
    let record = ServiceRecord {
        service: Arc::new(service),
        selector: selector.map(|map| labels(Some(map), check)),
        families: families(spec, &at, check),
    };
    accept(check, || Record::Service(Arc::new(record)))
}

fn service_type(spec: &object::ServiceSpec<'_>, at: &At<'_>, check: &mut Check<'_>) -> Type {
    match spec.service_type.as_deref() {
        None | Some("" | "ClusterIP") => Type::ClusterIp,
        Some("NodePort") => Type::NodePort,
        Some("LoadBalancer") => Type::LoadBalancer,
        Some("ExternalName") => Type::ExternalName,
        Some(other) => {
            let supported = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
            check.unsupported(at.key("type"), other, &supported);
            Type::ClusterIp
        }
    }
}

/// The cluster IPs, and whether the Service is headless.
fn cluster_ips(
    spec: &object::ServiceSpec<'_>,
    kind: Type,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> (Vec<IpAddr>, bool) {
    let one = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty());
    let many: Vec<&str> = spec.cluster_ips.iter().flatten().map(|ip| &**ip).collect();
    let (field, values) = match (one, many.is_empty()) {
        (Some(ip), true) => (at.key("clusterIP"), vec![ip]),
        _ => (at.key("clusterIPs"), many.clone()),
    };
    if let (Some(one), Some(first)) = (one, many.first())
        && one != *first
    {
        check.invalid(at.key("clusterIPs"), &many, "first value must match `clusterIP`");
    }
    if kind == Type::ExternalName {
        if !values.is_empty() {
            check.forbidden(field, "may not be set when `type` is 'ExternalName'");
        }
        return (Vec::new(), false);
    }
    if values.contains(&"None") {
        match (values.len(), kind) {
            (1, Type::ClusterIp) => return (Vec::new(), true),
            (1, _) => check.invalid(field, "None", "may not be set to 'None' for this `type`"),
            _ => check.invalid(field, &values, "'None' must be the first and only value"),
        }
        return (Vec::new(), false);
    }
    let mut ips: Vec<IpAddr> = Vec::with_capacity(values.len());
    for (i, value) in values.iter().enumerate() {
        let place = field.index(i);
        let place = if many.is_empty() { field } else { place };
        ips.extend(frontend_ip(value, place, check));
    }
    if values.len() > 2 {
        check.invalid(field, &values, "may only hold up to 2 values");
    } else if ips.len() == 2 && ips[0].is_ipv4() == ips[1].is_ipv4() {
        check.invalid(field, &values, "may specify no more than one IP for each IP family");
    }
    if values.is_empty() {
        check.warn(
            *at,
            "the Service has no clusterIP, and Switchyard does not allocate one",
            "set spec.clusterIP to an address of your choice, or to None for a headless Service",
        );
    }
    (ips, false)
}

fn ports(
    spec: &object::ServiceSpec<'_>,
    kind: Type,
    headless: bool,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> Vec<ServicePort> {
    let at = at.key("ports");
    let objects = spec.ports.as_deref().unwrap_or_default();
    if objects.is_empty() && !headless && kind != Type::ExternalName {
        check.required(at, "");
    }
    let mut ports: Vec<ServicePort> = Vec::with_capacity(objects.len());
    let (mut names, mut numbers, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (i, object) in objects.iter().enumerate() {
        let at = at.index(i);
        let valid = check.entry(|check| {
            let port = port(object, kind, objects.len() > 1, &at, check)?;
            if !port.name.is_empty() && !names.insert(port.name.clone()) {
                check.duplicate(at.key("name"), &*port.name);
            }
            if !numbers.insert((port.protocol, port.port)) {
                // The API's message, which contains its internal key.
                let key = format!(
                    "{{\"Name\":\"\",\"Protocol\":\"{}\",\"AppProtocol\":null,\"Port\":{},\
                     \"TargetPort\":0,\"NodePort\":0}}",
                    port.protocol, port.port
                );
                check.error(at, format!("Duplicate value: {key}"));
            }
            if let Some(node_port) = port.node_port
                && !node_ports.insert((port.protocol, node_port))
            {
                check.duplicate(at.key("nodePort"), node_port.get());
            }
            Some(port)
        });
        ports.extend(valid.flatten());
    }
    check.needs_entries(!ports.is_empty(), !objects.is_empty());
    let unset = |port: &object::ServicePort<'_>| port.node_port.unwrap_or_default() == 0;
    if kind == Type::NodePort && objects.iter().any(unset) {
        check.warn(
            at,
            "a port of the Service has no nodePort, and Switchyard does not allocate one",
            "set nodePort to a number from 30000 to 32767",
        );
    }
    ports
}

fn port(
    object: &object::ServicePort<'_>,
    kind: Type,
    name_required: bool,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> Option<ServicePort> {
    let name = object.name.as_deref().unwrap_or_default();
    if !name.is_empty() {
        check.expect(at.key("name"), name, format::dns_label);
    } else if name_required {
        check.required(at.key("name"), "");
    }
    let number = object.port.unwrap_or_default();
    let port = check.port(at.key("port"), number);
    let protocol = check.protocol(*at, object.protocol.as_ref());
    let target = at.key("targetPort");
    let target_port = match &object.target_port {
        None | Some(IntOrText::Int(0)) => check.port(target, number).map(TargetPort::Number),
        Some(IntOrText::Int(number)) => check.port(target, *number).map(TargetPort::Number),
        // As the API's defaults.
        Some(IntOrText::Text(name)) if name.is_empty() => {
            check.port(target, number).map(TargetPort::Number)
        }
        Some(IntOrText::Text(name)) => check
            .expect(target, name, format::port_name)
            .then(|| TargetPort::Name(check.text(name))),
    };
    let app_protocol = check.entry(|check| {
        if let Some(app_protocol) = object.app_protocol.as_deref() {
            check.expect(at.key("appProtocol"), app_protocol, format::qualified_name);
        }
        check.optional(object.app_protocol.as_ref())
    });
    let node_port = check.entry(|check| node_port(object, kind, at, check));
    Some(ServicePort {
        name: check.text(name),
        port: port?,
        protocol,
        target_port: target_port?,
        node_port: node_port.flatten(),
        app_protocol: app_protocol.flatten(),
    })
}

fn node_port(
    object: &object::ServicePort<'_>,
    kind: Type,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> Option<NonZeroU16> {
    let number = object.node_port.filter(|number| *number != 0)?;
    let at = at.key("nodePort");
    if matches!(kind, Type::ClusterIp | Type::ExternalName) {
        let kind = if kind == Type::ClusterIp { "ClusterIP" } else { "ExternalName" };
        check.forbidden(at, &format!("may not be used when `type` is '{kind}'"));
        return None;
    }
    if !check.of_api && !NODE_PORTS.contains(&number) {
        let why = "provided port is not in the valid range. The range of valid ports is \
                   30000-32767";
        check.invalid(at, number, why);
        return None;
    }
    check.port(at, number)
}

fn external_name(spec: &object::ServiceSpec<'_>, at: &At<'_>, check: &mut Check<'_>) -> Arc<str> {
    let at = at.key("externalName");
    let name = spec.external_name.as_deref().unwrap_or_default();
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        check.required(at, "");
    } else {
        check.expect(at, &name.to_ascii_lowercase(), format::dns_subdomain);
    }
    name.to_ascii_lowercase().into()
}

fn affinity(
    spec: &object::ServiceSpec<'_>,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> Option<Duration> {
    let config = spec.session_affinity_config.as_ref();
    let timeout = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => {
            if config.is_some_and(|config| config.client_ip.is_some()) {
                // The API drops it.
                let why = "is ignored, because sessionAffinity is not ClientIP";
                check.warn(at.key("sessionAffinityConfig"), why, "set sessionAffinity: ClientIP");
            }
            None
        }
        Some("ClientIP") => {
            let seconds = timeout.unwrap_or(AFFINITY_SECONDS);
            if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) {
                let why = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                let at = at.key("sessionAffinityConfig");
                let at = at.key("clientIP");
                check.invalid(at.key("timeoutSeconds"), seconds, why);
                return Some(Duration::from_secs(AFFINITY_SECONDS.unsigned_abs()));
            }
            Some(Duration::from_secs(seconds.unsigned_abs()))
        }
        Some(other) => {
            check.unsupported(at.key("sessionAffinity"), other, &["ClientIP", "None"]);
            None
        }
    }
}

fn policy(text: Option<&Text<'_>>, at: At<'_>, check: &mut Check<'_>) -> TrafficPolicy {
    match text.map(|text| &**text) {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            check.unsupported(at, other, &["Cluster", "Local"]);
            TrafficPolicy::Cluster
        }
    }
}

fn external_policy(
    spec: &object::ServiceSpec<'_>,
    kind: Type,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> TrafficPolicy {
    let text = spec.external_traffic_policy.as_ref().filter(|text| !text.is_empty());
    let at = at.key("externalTrafficPolicy");
    let external = matches!(kind, Type::NodePort | Type::LoadBalancer)
        || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    match text {
        Some(text) if !external => {
            let why = "may only be set for externally-accessible services";
            check.invalid(at, &**text, why);
            TrafficPolicy::Cluster
        }
        _ => policy(text, at, check),
    }
}

fn ips(list: Option<&[Text<'_>]>, at: &At<'_>, check: &mut Check<'_>) -> Vec<IpAddr> {
    let list = list.unwrap_or_default().iter().enumerate();
    list.filter_map(|(i, ip)| frontend_ip(ip, at.index(i), check)).collect()
}

/// An address that clients connect to. A listener on an unspecified address would answer for every
/// address of the host, which a Service must not do.
fn frontend_ip(text: &str, at: At<'_>, check: &mut Check<'_>) -> Option<IpAddr> {
    let ip = check.ip(at, text)?;
    let why = if ip.is_unspecified() {
        "may not be unspecified (0.0.0.0 or ::)"
    } else if ip.is_multicast() {
        "may not be in the multicast range (224.0.0.0/4, ff00::/8)"
    } else {
        return Some(ip);
    };
    check.invalid(at, text, why);
    None
}

fn load_balancer_ips(object: &object::Service<'_>, check: &mut Check<'_>) -> Vec<IpAddr> {
    let status = ROOT.key("status");
    let balancer = status.key("loadBalancer");
    let at = balancer.key("ingress");
    let ingress = object.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    let ips = ingress.into_iter().flatten().enumerate();
    ips.filter_map(|(i, ingress)| {
        let at = at.index(i);
        let ip = ingress.ip.as_deref().filter(|ip| !ip.is_empty())?;
        let ip = frontend_ip(ip, at.key("ip"), check)?;
        match ingress.ip_mode.as_deref() {
            None | Some("" | "VIP") => Some(ip),
            // The load balancer terminates connections itself, so the proxy must not answer for its
            // IP.
            Some("Proxy") => None,
            Some(other) => {
                check.unsupported(at.key("ipMode"), other, &["Proxy", "VIP"]);
                None
            }
        }
    })
    .collect()
}

/// `spec.loadBalancerSourceRanges`, else the older annotation.
fn source_ranges(
    object: &object::Service<'_>,
    spec: &object::ServiceSpec<'_>,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> Vec<IpNet> {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let mut ranges = Vec::new();
    let listed = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    for (i, range) in listed.iter().enumerate() {
        match format::cidr(range) {
            Some(range) => ranges.push(range),
            None => check.invalid(
                at.key("loadBalancerSourceRanges").index(i),
                &**range,
                format::CIDR_RULE,
            ),
        }
    }
    let annotations = object.metadata.as_ref().and_then(|meta| meta.annotations.as_ref());
    let annotation = annotations.and_then(|map| map.value(ANNOTATION)).unwrap_or_default();
    let is_annotation = listed.is_empty() && !annotation.trim().is_empty();
    for range in annotation.split(',').filter(|_| is_annotation) {
        match format::cidr(range) {
            Some(range) => ranges.push(range),
            None => {
                let at = ROOT.key("metadata");
                let at = at.key("annotations");
                check.invalid(at.key(ANNOTATION), annotation, format::CIDR_RULE);
                break;
            }
        }
    }
    // Without any valid range, all clients would be allowed.
    check.unusable |= ranges.is_empty() && (is_annotation || !listed.is_empty());
    ranges
}

fn health_check_node_port(
    spec: &object::ServiceSpec<'_>,
    kind: Type,
    (ports, at): (&[ServicePort], &At<'_>),
    check: &mut Check<'_>,
) -> Option<NonZeroU16> {
    if let Some(port) = spec.health_check_node_port.filter(|port| *port != 0) {
        let at = at.key("healthCheckNodePort");
        let number = check.port(at, port)?;
        // Both would listen on the same addresses.
        let is_it =
            |port: &&ServicePort| port.node_port == Some(number) && port.protocol == Protocol::Tcp;
        if let Some(taken) = ports.iter().find(is_it) {
            let why = format!(
                "it is the nodePort of the Service's port {} too: choose another",
                taken.port
            );
            check.invalid(at, port, why);
            return None;
        }
        return Some(number);
    }
    if kind == Type::LoadBalancer && spec.external_traffic_policy.as_deref() == Some("Local") {
        check.warn(
            *at,
            "the Service has no healthCheckNodePort, and Switchyard does not allocate one",
            "set healthCheckNodePort, so that load balancers can see which nodes have endpoints",
        );
    }
    None
}

fn traffic_distribution(
    spec: &object::ServiceSpec<'_>,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> Option<TrafficDistribution> {
    match spec.traffic_distribution.as_deref()? {
        "" => None,
        "PreferClose" | "PreferSameZone" => Some(TrafficDistribution::PreferSameZone),
        "PreferSameNode" => Some(TrafficDistribution::PreferSameNode),
        other => {
            let supported = ["PreferClose", "PreferSameNode", "PreferSameZone"];
            check.unsupported(at.key("trafficDistribution"), other, &supported);
            None
        }
    }
}

fn families(spec: &object::ServiceSpec<'_>, at: &At<'_>, check: &mut Check<'_>) -> Vec<Family> {
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    if let Some(policy) = spec.ip_family_policy.as_deref()
        && !policies.contains(&policy)
    {
        check.unsupported(at.key("ipFamilyPolicy"), policy, &policies);
    }
    let mut families = Vec::new();
    for (i, family) in spec.ip_families.iter().flatten().enumerate() {
        match &**family {
            "IPv4" => families.push(Family::V4),
            "IPv6" => families.push(Family::V6),
            other => {
                let at = at.key("ipFamilies");
                check.unsupported(at.index(i), other, &["IPv4", "IPv6"]);
            }
        }
    }
    families
}

fn is_foreign(object: &object::Service<'_>) -> bool {
    let labels = object.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    labels.is_some_and(|map| FOREIGN_PROXY_LABELS.iter().any(|key| map.value(key).is_some()))
}

fn own_annotations(
    meta: Option<&object::Meta<'_>>,
    check: &mut Check<'_>,
) -> BTreeMap<Arc<str>, Arc<str>> {
    let annotations = meta.and_then(|meta| meta.annotations.as_ref());
    let entries = annotations.into_iter().flat_map(|map| &map.0);
    entries
        .filter(|(key, _)| key.starts_with("switchyard.dev/"))
        .map(|(key, value)| (check.text(key), check.text(value)))
        .collect()
}
