//! Pod, Namespace and Node: cut to the fields that are used.

use std::sync::Arc;

use super::{Check, ROOT, accept, format};
use crate::model::{Node, Pod};
use crate::name::Kind;
use crate::object;
use crate::record::{Labels, PodRecord, Record};

/// A Pod. Its IPs, phase and conditions are in its status, which the author of the folder writes.
pub fn pod(object: &object::Pod<'_>, check: &mut Check<'_>) -> Option<Record> {
    let kind = Kind::Pod;
    let name = check.name(object.metadata.as_ref(), kind, format::dns_subdomain);
    let meta = object.metadata.clone().unwrap_or_default();
    let spec = object.spec.clone().unwrap_or_default();
    let status = object.status.clone().unwrap_or_default();
    let mut ips = Vec::new();
    let at = ROOT.key("status");
    for (i, ip) in status.pod_ips.iter().flatten().enumerate() {
        let text = ip.ip.as_deref().unwrap_or_default();
        ips.extend(check.ip(at.key("podIPs").index(i).key("ip"), text));
    }
    if let (true, Some(ip)) = (ips.is_empty(), &status.pod_ip) {
        ips.extend((!ip.is_empty()).then(|| check.ip(at.key("podIP"), ip)).flatten());
    }
    let ready = |c: &object::Condition<'_>| c.condition_type.as_deref() == Some("Ready");
    let condition = status.conditions.iter().flatten().find(|c| ready(c));
    if condition.is_none() && !ips.is_empty() {
        check.warn(
            at,
            "the Pod has no condition `Ready`, so it counts as not ready",
            "add to its status: conditions: [{type: Ready, status: \"True\"}]",
        );
    }
    let record = PodRecord {
        labels: labels(meta.labels.as_ref(), check),
        ready: condition.is_some_and(|c| c.status.as_deref() == Some("True")),
        terminating: meta.deletion_timestamp.is_some(),
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        ports: ports(&spec, check),
        node_name: check.optional(spec.node_name.as_ref()),
        hostname: check.optional(spec.hostname.as_ref()),
        subdomain: check.optional(spec.subdomain.as_ref()),
        pod: Arc::new(Pod { name, ips }),
    };
    accept(check, || Record::Pod(Arc::new(record)))
}

/// The named ports of a Pod's containers; init containers count when they are sidecars, which
/// run as long as the Pod does.
fn ports(
    spec: &object::PodSpec<'_>,
    check: &mut Check<'_>,
) -> Vec<(Arc<str>, crate::model::Protocol, std::num::NonZeroU16)> {
    let mut ports = Vec::new();
    let at = ROOT.key("spec");
    for (list, containers) in
        [("containers", &spec.containers), ("initContainers", &spec.init_containers)]
    {
        for (i, container) in containers.iter().flatten().enumerate() {
            if list == "initContainers" && container.restart_policy.as_deref() != Some("Always") {
                continue;
            }
            for (j, port) in container.ports.iter().flatten().enumerate() {
                let (list, container) = (at.key(list), i);
                let container = list.index(container);
                let field = container.key("ports");
                let at = field.index(j);
                let protocol = check.protocol(at, port.protocol.as_ref());
                let number = port.container_port.unwrap_or_default();
                let number = check.port(at.key("containerPort"), number);
                let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else {
                    continue;
                };
                check.expect(at.key("name"), name, format::port_name);
                let name = check.text(name);
                ports.extend(number.map(|number| (name, protocol, number)));
            }
        }
    }
    ports
}

pub(super) fn labels(map: Option<&object::TextMap<'_>>, check: &mut Check<'_>) -> Labels {
    let map = map.map(|map| map.0.as_slice()).unwrap_or_default();
    map.iter().map(|(key, value)| (check.text(key), check.text(value))).collect()
}

pub fn namespace(object: &object::Namespace<'_>, check: &mut Check<'_>) -> Option<Record> {
    let kind = Kind::Namespace;
    let name = check.name(object.metadata.as_ref(), kind, format::dns_label);
    accept(check, || Record::Namespace(name))
}

pub fn node(object: &object::Node<'_>, check: &mut Check<'_>) -> Option<Record> {
    let kind = Kind::Node;
    let name = check.name(object.metadata.as_ref(), kind, format::dns_subdomain);
    let labels = object.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let zone = labels.and_then(|labels| labels.value("topology.kubernetes.io/zone"));
    let zone = zone.map(|zone| check.text(zone));
    let addresses = object.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let ips = addresses
        .filter(|a| matches!(a.address_type.as_deref(), Some("InternalIP" | "ExternalIP")))
        .filter_map(|a| a.address.as_deref()?.parse().ok())
        .collect();
    let node = Arc::new(Node { name, zone, ips });
    accept(check, || Record::Node(node))
}
