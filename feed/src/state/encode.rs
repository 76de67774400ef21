//! The model's objects → their Kubernetes JSON, one a line.
//!
//! The counterpart of decoding and validation: what is written here reads back as the very same
//! object. Only the fields that the model holds are written.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value, json};

use model::record::RecordKind;
use model::{
    Address, AddressType, BackendPort, Endpoint, EndpointSlice, Ingress, IngressBackend,
    IngressClass, IngressPath, Model, Node, PathType, Pod, Secret, Service, ServicePort,
    ServiceType, TargetPort, TrafficDistribution, TrafficPolicy,
};
use model::{Kind, ObjectName};

/// Writes all objects of a kind, each on a line.
///
/// # Errors
///
/// When the writer fails.
pub(super) fn objects(model: &Model, kind: Kind, out: &mut impl Write) -> io::Result<()> {
    let mut put = |value: &Value| put(out, value);
    match kind {
        Kind::EndpointSlice => slices(model, out),
        Kind::Service => model.services().try_for_each(|entry| put(&service(&entry.service))),
        Kind::Pod => model.pods().try_for_each(|object| put(&pod(object))),
        Kind::Ingress => model.ingresses().try_for_each(|object| put(&ingress(object))),
        Kind::IngressClass => model.ingress_classes().try_for_each(|object| put(&class(object))),
        Kind::Secret => model.secrets().try_for_each(|object| put(&secret(object))),
        Kind::Namespace => {
            model.namespaces().try_for_each(|name| put(&typed(kind, name, Map::new(), json!({}))))
        }
        Kind::Node => model.nodes().try_for_each(|object| put(&node(object))),
    }
}

fn put(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// An object with its type and name; `rest` holds its other members.
fn typed(kind: Kind, name: &ObjectName, meta: Map<String, Value>, rest: Value) -> Value {
    let mut metadata = meta;
    metadata.insert("name".into(), json!(&*name.name));
    if kind.is_namespaced() {
        metadata.insert("namespace".into(), json!(&*name.namespace));
    }
    let mut object = match rest {
        Value::Object(rest) => rest,
        _ => Map::new(),
    };
    object.insert("apiVersion".into(), json!(RecordKind::Of(kind).api_version()));
    object.insert("kind".into(), json!(kind.as_str()));
    object.insert("metadata".into(), metadata.into());
    object.into()
}

fn annotated(annotations: &BTreeMap<Arc<str>, Arc<str>>) -> Map<String, Value> {
    let mut meta = Map::new();
    if !annotations.is_empty() {
        meta.insert("annotations".into(), json!(annotations));
    }
    meta
}

fn service(service: &Service) -> Value {
    let mut meta = annotated(&service.annotations);
    if service.foreign_proxy {
        let label = "service.kubernetes.io/service-proxy-name";
        meta.insert("labels".into(), json!({ label: "other" }));
    }
    let mut spec = Map::new();
    let mut set = |field: &str, value: Value| {
        spec.insert(field.to_owned(), value);
    };
    let (type_name, external_name) = match &service.service_type {
        ServiceType::ClusterIp => ("ClusterIP", None),
        ServiceType::NodePort => ("NodePort", None),
        ServiceType::LoadBalancer => ("LoadBalancer", None),
        ServiceType::ExternalName(name) => ("ExternalName", Some(name)),
    };
    set("type", json!(type_name));
    if let Some(name) = external_name {
        set("externalName", json!(&**name));
    }
    if service.headless {
        set("clusterIP", json!("None"));
    } else if let Some(first) = service.cluster_ips.first() {
        set("clusterIP", json!(first));
        set("clusterIPs", json!(service.cluster_ips));
    }
    set("ports", service.ports.iter().map(service_port).collect());
    set("publishNotReadyAddresses", json!(service.publish_not_ready_addresses));
    if let Some(time) = service.client_ip_affinity {
        set("sessionAffinity", json!("ClientIP"));
        let config = json!({ "clientIP": { "timeoutSeconds": time.as_secs() } });
        set("sessionAffinityConfig", config);
    }
    set("internalTrafficPolicy", json!(policy(service.internal_traffic_policy)));
    if matches!(service.service_type, ServiceType::NodePort | ServiceType::LoadBalancer)
        || service.external_traffic_policy != TrafficPolicy::default()
    {
        set("externalTrafficPolicy", json!(policy(service.external_traffic_policy)));
    }
    set("externalIPs", json!(service.external_ips));
    if !service.load_balancer_source_ranges.is_empty() {
        let ranges = service.load_balancer_source_ranges.iter().map(ToString::to_string);
        set("loadBalancerSourceRanges", ranges.collect());
    }
    if let Some(port) = service.health_check_node_port {
        set("healthCheckNodePort", json!(port));
    }
    if let Some(distribution) = service.traffic_distribution {
        let name = match distribution {
            TrafficDistribution::PreferSameZone => "PreferSameZone",
            TrafficDistribution::PreferSameNode => "PreferSameNode",
        };
        set("trafficDistribution", json!(name));
    }
    let ingress: Vec<_> = service.load_balancer_ips.iter().map(|ip| json!({ "ip": ip })).collect();
    let rest = json!({ "spec": spec, "status": { "loadBalancer": { "ingress": ingress } } });
    typed(Kind::Service, &service.name, meta, rest)
}

fn policy(policy: TrafficPolicy) -> &'static str {
    match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}

fn service_port(port: &ServicePort) -> Value {
    let target = match &port.target_port {
        TargetPort::Number(number) => json!(number),
        TargetPort::Name(name) => json!(&**name),
    };
    json!({
        "name": (!port.name.is_empty()).then_some(&*port.name),
        "port": port.port,
        "protocol": port.protocol.as_str(),
        "targetPort": target,
        "nodePort": port.node_port,
        "appProtocol": port.app_protocol,
    })
}

/// Slices are the bulk of a state: written field by field, not by way of a [`Value`].
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Slice<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: SliceMeta<'a>,
    address_type: &'static str,
    ports: Vec<SlicePort<'a>>,
    endpoints: Vec<SliceEndpoint<'a>>,
}

#[derive(Serialize)]
struct SliceMeta<'a> {
    name: &'a str,
    namespace: &'a str,
    labels: SliceLabels<'a>,
}

#[derive(Serialize)]
struct SliceLabels<'a> {
    #[serde(rename = "kubernetes.io/service-name")]
    service: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SlicePort<'a> {
    name: &'a str,
    protocol: &'static str,
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_protocol: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SliceEndpoint<'a> {
    addresses: Vec<SliceAddress>,
    conditions: Conditions,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hints: Option<Hints<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum SliceAddress {
    Ip(IpAddr),
    Host(Arc<str>),
}

#[derive(Serialize)]
struct Conditions {
    ready: bool,
    serving: bool,
    terminating: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Hints<'a> {
    for_zones: Vec<Hint<'a>>,
    for_nodes: Vec<Hint<'a>>,
}

#[derive(Serialize)]
struct Hint<'a> {
    name: &'a str,
}

fn slices(model: &Model, out: &mut impl Write) -> io::Result<()> {
    model.slices().try_for_each(|object| put(out, &slice(object)))
}

fn slice(slice: &EndpointSlice) -> Slice<'_> {
    Slice {
        api_version: RecordKind::Of(Kind::EndpointSlice).api_version(),
        kind: Kind::EndpointSlice.as_str(),
        metadata: SliceMeta {
            name: &slice.name.name,
            namespace: &slice.name.namespace,
            labels: SliceLabels { service: &slice.service },
        },
        address_type: match slice.address_type {
            AddressType::Ipv4 => "IPv4",
            AddressType::Ipv6 => "IPv6",
            AddressType::Fqdn => "FQDN",
        },
        ports: slice
            .ports
            .iter()
            .map(|port| SlicePort {
                name: &port.name,
                protocol: port.protocol.as_str(),
                port: port.port.map(std::num::NonZeroU16::get),
                app_protocol: port.app_protocol.as_deref(),
            })
            .collect(),
        endpoints: slice.endpoints.iter().map(endpoint).collect(),
    }
}

fn endpoint(endpoint: &Endpoint) -> SliceEndpoint<'_> {
    let addresses = endpoint.addresses().map(|address| match address {
        Address::Ip(ip) => SliceAddress::Ip(ip),
        Address::Host(host) => SliceAddress::Host(host),
    });
    let details = endpoint.details();
    let has_hints = !details.for_zones.is_empty() || !details.for_nodes.is_empty();
    SliceEndpoint {
        addresses: addresses.collect(),
        conditions: Conditions {
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
        },
        hostname: details.hostname.as_deref(),
        node_name: details.node_name.as_deref(),
        zone: details.zone.as_deref(),
        hints: has_hints.then(|| Hints {
            for_zones: details.for_zones.iter().map(|name| Hint { name }).collect(),
            for_nodes: details.for_nodes.iter().map(|name| Hint { name }).collect(),
        }),
    }
}

fn pod(pod: &Pod) -> Value {
    let ips: Vec<_> = pod.ips.iter().map(|ip| json!({ "ip": ip })).collect();
    typed(Kind::Pod, &pod.name, Map::new(), json!({ "status": { "podIPs": ips } }))
}

fn ingress(ingress: &Ingress) -> Value {
    let mut meta = annotated(&ingress.annotations);
    let created = ingress.created_unix.and_then(|s| jiff::Timestamp::from_second(s).ok());
    if let Some(created) = created {
        meta.insert("creationTimestamp".into(), json!(created.to_string()));
    }
    let rules = ingress.rules.iter().map(|rule| {
        let paths: Vec<_> = rule.paths.iter().map(ingress_path).collect();
        let http = (!paths.is_empty()).then(|| json!({ "paths": paths }));
        json!({ "host": rule.host, "http": http })
    });
    let tls =
        ingress.tls.iter().map(|tls| json!({ "hosts": tls.hosts, "secretName": tls.secret_name }));
    let spec = json!({
        "ingressClassName": ingress.class,
        "defaultBackend": ingress.default_backend.as_ref().map(backend),
        "rules": rules.collect::<Vec<_>>(),
        "tls": tls.collect::<Vec<_>>(),
    });
    typed(Kind::Ingress, &ingress.name, meta, json!({ "spec": spec }))
}

fn ingress_path(path: &IngressPath) -> Value {
    let path_type = match path.path_type {
        PathType::Exact => "Exact",
        PathType::Prefix => "Prefix",
        PathType::ImplementationSpecific => "ImplementationSpecific",
    };
    json!({ "path": path.path, "pathType": path_type, "backend": backend(&path.backend) })
}

fn backend(backend: &IngressBackend) -> Value {
    let port = match &backend.port {
        BackendPort::Number(number) => json!({ "number": number }),
        BackendPort::Name(name) => json!({ "name": name }),
    };
    json!({ "service": { "name": backend.service, "port": port } })
}

fn class(class: &IngressClass) -> Value {
    let mut meta = Map::new();
    if class.is_default {
        let annotation = "ingressclass.kubernetes.io/is-default-class";
        meta.insert("annotations".into(), json!({ annotation: "true" }));
    }
    let spec = json!({ "controller": class.controller });
    typed(Kind::IngressClass, &class.name, meta, json!({ "spec": spec }))
}

fn secret(secret: &Secret) -> Value {
    let data: BTreeMap<&str, String> =
        secret.data.iter().map(|(key, value)| (&**key, STANDARD.encode(value))).collect();
    let rest = json!({ "type": secret.secret_type, "data": data });
    typed(Kind::Secret, &secret.name, Map::new(), rest)
}

fn node(node: &Node) -> Value {
    let mut meta = Map::new();
    if let Some(zone) = &node.zone {
        meta.insert("labels".into(), json!({ "topology.kubernetes.io/zone": zone }));
    }
    let addresses: Vec<_> =
        node.ips.iter().map(|ip| json!({ "type": "InternalIP", "address": ip })).collect();
    typed(Kind::Node, &node.name, meta, json!({ "status": { "addresses": addresses } }))
}
