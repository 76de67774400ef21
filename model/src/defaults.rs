//! What the API adds to an object that leaves it out.
//!
//! Pure. Clients rely on these: `kubectl` prints them, typed clients refuse an object without some
//! of them. Values that a manifest may write in several ways are normalised as in the API: no
//! nulls, `yes` as a boolean, a Secret's `stringData` in its `data`. Left out: addresses and ports
//! that a cluster would allocate, because Switchyard allocates none.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

pub(crate) type Object = Map<String, Value>;

/// Maps from strings to strings: in them null is the empty string, elsewhere it means absent.
const TEXT_MAPS: [&str; 8] = [
    "annotations",
    "data",
    "labels",
    "matchLabels",
    "nodeSelector",
    "overhead",
    "selector",
    "stringData",
];

/// Boolean fields, which may use the spellings of YAML 1.1.
const BOOLEANS: [&str; 10] = [
    "allocateLoadBalancerNodePorts",
    "controller",
    "hostNetwork",
    "immutable",
    "optional",
    "publishNotReadyAddresses",
    "ready",
    "serving",
    "terminating",
    "unschedulable",
];

/// A kind to which nothing is added.
pub(crate) fn nothing(_object: &mut Object) {}

/// Drops nulls, except in maps of strings, and writes booleans as such.
pub(crate) fn normalize(value: &mut Value, key: &str) {
    let text_map = TEXT_MAPS.contains(&key);
    match value {
        Value::Object(object) if text_map => {
            for value in object.values_mut().filter(|value| value.is_null()) {
                *value = "".into();
            }
        }
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            for (key, value) in object {
                normalize(value, key);
            }
        }
        Value::Array(array) => array.iter_mut().for_each(|value| normalize(value, "")),
        Value::String(text) if BOOLEANS.contains(&key) => {
            match text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "true" => *value = true.into(),
                "no" | "off" | "false" => *value = false.into(),
                _ => {}
            }
        }
        _ => {}
    }
}

/// The object below a key, created if it does not exist.
fn child<'o>(object: &'o mut Object, key: &str) -> &'o mut Object {
    let value = object.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was made one")
}

/// The objects of a list below a key.
fn list<'o>(object: &'o mut Object, key: &str) -> impl Iterator<Item = &'o mut Object> {
    let values = object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten();
    values.filter_map(Value::as_object_mut)
}

fn each(object: &mut Object, key: &str, change: impl FnMut(&mut Object)) {
    list(object, key).for_each(change);
}

fn default(object: &mut Object, key: &str, value: impl Into<Value>) {
    let unset = match object.get(key) {
        None => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    };
    if unset {
        object.insert(key.to_owned(), value.into());
    }
}

fn text<'o>(object: &'o Object, key: &str) -> &'o str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

pub(crate) fn namespace(object: &mut Object) {
    let metadata = child(object, "metadata");
    let name = text(metadata, "name").to_owned();
    default(child(metadata, "labels"), "kubernetes.io/metadata.name", name);
    default(child(object, "spec"), "finalizers", json!(["kubernetes"]));
    default(child(object, "status"), "phase", "Active");
}

pub(crate) fn ingress_class(object: &mut Object) {
    let spec = child(object, "spec");
    if spec.get("parameters").is_some_and(Value::is_object) {
        default(child(spec, "parameters"), "scope", "Cluster");
    }
}

pub(crate) fn secret(object: &mut Object) {
    default(object, "type", "Opaque");
    let Some(Value::Object(clear)) = object.remove("stringData") else { return };
    let data = child(object, "data");
    for (key, value) in clear {
        let value = value.as_str().unwrap_or_default();
        data.insert(key, STANDARD.encode(value).into());
    }
}

pub(crate) fn service(object: &mut Object) {
    default(child(object, "status"), "loadBalancer", json!({}));
    let spec = child(object, "spec");
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "ClientIP" {
        /// Three hours, as the API has it.
        const AFFINITY_SECONDS: u32 = 10_800;
        let client_ip = child(child(spec, "sessionAffinityConfig"), "clientIP");
        default(client_ip, "timeoutSeconds", AFFINITY_SECONDS);
    }
    each(spec, "ports", |port| {
        default(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        if port.get("targetPort") == Some(&json!(0)) {
            port.remove("targetPort");
        }
        default(port, "targetPort", number);
    });
    let service_type = text(spec, "type").to_owned();
    if service_type == "ExternalName" {
        return;
    }
    default(spec, "internalTrafficPolicy", "Cluster");
    let external = spec.get("externalIPs").is_some_and(|ips| *ips != json!([]));
    if external || matches!(service_type.as_str(), "NodePort" | "LoadBalancer") {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if service_type == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    addresses(spec);
}

/// `clusterIP` and `clusterIPs` say the same, and the families follow from them.
fn addresses(spec: &mut Object) {
    let first = match spec.get("clusterIPs").and_then(Value::as_array) {
        Some(ips) => ips.first().cloned(),
        None => None,
    };
    if let Some(first) = first {
        default(spec, "clusterIP", first);
    }
    let cluster_ip = text(spec, "clusterIP").to_owned();
    if cluster_ip.is_empty() {
        return;
    }
    default(spec, "clusterIPs", json!([cluster_ip]));
    let ips = spec.get("clusterIPs").and_then(Value::as_array).into_iter().flatten();
    let ips = ips.filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
    let mut families: Vec<_> = ips.map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    if families.is_empty() {
        // Headless: without a selector its endpoints may be of both families.
        let selects = spec.get("selector").is_some_and(|selector| *selector != json!({}));
        families = if selects { vec!["IPv4"] } else { vec!["IPv4", "IPv6"] };
    }
    let given = spec.get("ipFamilies").and_then(Value::as_array).map(Vec::len);
    let dual = given.unwrap_or(families.len()) > 1;
    default(spec, "ipFamilies", json!(families));
    default(spec, "ipFamilyPolicy", if dual { "RequireDualStack" } else { "SingleStack" });
}

pub(crate) fn slice(object: &mut Object) {
    for endpoint in list(object, "endpoints") {
        default(endpoint, "conditions", json!({}));
    }
    each(object, "ports", |port| {
        default(port, "name", "");
        default(port, "protocol", "TCP");
    });
    default(object, "endpoints", json!([]));
    default(object, "ports", json!([]));
}

pub(crate) fn pod(object: &mut Object) {
    let spec = child(object, "spec");
    default(spec, "restartPolicy", "Always");
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "containers", json!([]));
    for containers in ["containers", "initContainers"] {
        for container in list(spec, containers) {
            each(container, "ports", |port| default(port, "protocol", "TCP"));
        }
    }
    let status = child(object, "status");
    let first = status.get("podIPs").and_then(|ips| ips.get(0)?.get("ip").cloned());
    if let Some(first) = first {
        default(status, "podIP", first);
    }
    let ip = text(status, "podIP").to_owned();
    if ip.is_empty() {
        return default(status, "phase", "Pending");
    }
    default(status, "podIPs", json!([{"ip": ip}]));
    // Written by hand, without a kubelet that sets the phase: a Pod with an address is running.
    default(status, "phase", "Running");
}

pub(crate) fn endpoints(object: &mut Object) {
    for subset in list(object, "subsets") {
        each(subset, "ports", |port| default(port, "protocol", "TCP"));
    }
}

pub(crate) fn ingress(object: &mut Object) {
    child(object, "spec");
    default(child(object, "status"), "loadBalancer", json!({}));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Kind;

    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "literals read better by value")]
    fn check(resource: Kind, object: Value, expected: Value) {
        let mut completed = object.clone();
        resource.complete(&mut completed);
        assert_eq!(completed, expected, "{object}");
        let again = completed.clone();
        resource.complete(&mut completed);
        assert_eq!(completed, again, "a completed object stays as it is");
    }

    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "literals read better by value")]
    fn check_service(spec: Value, expected: Value) {
        let status = json!({"loadBalancer": {}});
        check(Kind::Service, json!({"spec": spec}), json!({"spec": expected, "status": status}));
    }

    /// The expected values are those of a kube-apiserver 1.36.
    #[test]
    fn services_are_completed_as_by_a_real_server() {
        check_service(
            json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}),
            json!({
                "clusterIP": "10.96.0.10",
                "clusterIPs": ["10.96.0.10"],
                "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
                "sessionAffinity": "None",
                "type": "ClusterIP",
            }),
        );
        let port = json!({"name": "http", "nodePort": 30080, "port": 80, "targetPort": 8080});
        let mut expected_port = port.clone();
        expected_port["protocol"] = "TCP".into();
        check_service(
            json!({"type": "NodePort", "ports": [port], "clusterIPs": ["10.96.119.157"]}),
            json!({
                "clusterIP": "10.96.119.157",
                "clusterIPs": ["10.96.119.157"],
                "externalTrafficPolicy": "Cluster",
                "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "ports": [expected_port],
                "sessionAffinity": "None",
                "type": "NodePort",
            }),
        );
        check_service(
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
            json!({
                "clusterIP": "None",
                "clusterIPs": ["None"],
                "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
                "sessionAffinity": "None",
                "type": "ClusterIP",
            }),
        );
    }

    #[test]
    fn other_services() {
        check_service(
            json!({"type": "ExternalName", "externalName": "db.example"}),
            json!({
                "type": "ExternalName",
                "externalName": "db.example",
                "sessionAffinity": "None",
            }),
        );
        check_service(
            json!({"sessionAffinity": "ClientIP", "publishNotReadyAddresses": "yes",
                   "ports": [{"port": 53, "targetPort": 0, "nodePort": null}]}),
            json!({
                "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 53, "protocol": "TCP", "targetPort": 53}],
                "publishNotReadyAddresses": true,
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10_800}},
                "type": "ClusterIP",
            }),
        );
    }

    #[test]
    fn slices_and_ingresses() {
        check(
            Kind::EndpointSlice,
            json!({"endpoints": [{"addresses": ["10.1.0.2"]}], "ports": [{"port": 8080}]}),
            json!({
                "endpoints": [{"addresses": ["10.1.0.2"], "conditions": {}}],
                "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            }),
        );
        check(
            Kind::EndpointSlice,
            json!({"endpoints": null}),
            json!({"endpoints": [], "ports": []}),
        );
        check(
            Kind::Ingress,
            json!({"spec": {"rules": [{"host": "a.example"}]}}),
            json!({
                "spec": {"rules": [{"host": "a.example"}]},
                "status": {"loadBalancer": {}},
            }),
        );
    }

    #[test]
    fn secrets_say_everything_in_data() {
        check(
            Kind::Secret,
            json!({"data": {"a": "eA==", "b": "eA=="}, "stringData": {"b": "y", "c": null}}),
            json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ==", "c": ""}}),
        );
    }

    #[test]
    fn the_other_kinds() {
        check(
            Kind::Namespace,
            json!({"metadata": {"name": "shop", "labels": null}}),
            json!({
                "metadata": {
                    "name": "shop",
                    "labels": {"kubernetes.io/metadata.name": "shop"},
                },
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            }),
        );
        check(
            Kind::Pod,
            json!({
                "metadata": {"labels": {"a": null}},
                "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
                "status": {"podIPs": [{"ip": "10.1.0.2"}]},
            }),
            json!({
                "metadata": {"labels": {"a": ""}},
                "spec": {
                    "containers": [
                        {"name": "c", "ports": [{"containerPort": 80, "protocol": "TCP"}]},
                    ],
                    "dnsPolicy": "ClusterFirst",
                    "restartPolicy": "Always",
                },
                "status": {
                    "phase": "Running",
                    "podIP": "10.1.0.2",
                    "podIPs": [{"ip": "10.1.0.2"}],
                },
            }),
        );
        check(
            Kind::IngressClass,
            json!({"spec": {"controller": "x/y", "parameters": {"kind": "P", "name": "n"}}}),
            json!({"spec": {
                "controller": "x/y",
                "parameters": {"kind": "P", "name": "n", "scope": "Cluster"},
            }}),
        );
        let endpoints = json!({"subsets": [{"ports": [{"port": 1}]}]});
        let expected = json!({"subsets": [{"ports": [{"port": 1, "protocol": "TCP"}]}]});
        check(Kind::Endpoints, endpoints, expected);
    }
}
