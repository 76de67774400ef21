//! Objects that no manifest holds: slices and Endpoints of Services, namespaces that objects
//! live in, and Events that say what is wrong with a manifest.
//!
//! Pure. A cluster's controllers make these; clients and `kubectl describe` look for them.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::{Value, json};

use model::{
    Address, AddressType, Endpoint, EndpointSlice, HELP, Kind, ObjectName, SERVICE_LABEL,
    SlicePort, bracketed,
};

/// What made an object, as Kubernetes' own controllers say it in the same places.
const MANAGER: &str = "switchyard-feed";

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The manifest is not valid.
    Rejected,
    /// It is valid, but the processes that serve it leave part of it out.
    NotServed,
    /// It is served, but perhaps not as its author expects.
    Warning,
}

impl Reason {
    /// As an Event spells it, and its level.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Reason::Rejected => ("Rejected", "error"),
            Reason::NotServed => ("NotServed", "error"),
            Reason::Warning => ("Warning", "warning"),
        }
    }
}

/// Something that keeps an object, or a file, from being served as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// `None` when not even the object's name could be read.
    pub(crate) object: Option<(Kind, ObjectName)>,
    pub(crate) file: String,
    /// `file:line:column`; empty where only the object is known.
    pub(crate) place: String,
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// A stable number for an object: the same after every restart, and on every machine.
pub(crate) fn uid(resource: Kind, name: &ObjectName) -> String {
    let text = format!("{}/{}/{}", resource.as_str(), name.namespace, name.name);
    let mut bytes = fingerprint(&text).to_be_bytes();
    // A UUID of version 8: its bits are the application's.
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The first bits of the text's SHA-256.
fn fingerprint(text: &str) -> u128 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let mut first = [0; 16];
    first.copy_from_slice(&digest.as_ref()[..16]);
    u128::from_be_bytes(first)
}

/// A slice that was computed from Pods or Endpoints.
pub(crate) fn slice(slice: &EndpointSlice) -> Value {
    let labels = json!({
        "endpointslice.kubernetes.io/managed-by": MANAGER,
        (SERVICE_LABEL): &*slice.service,
    });
    let address_type = match slice.address_type {
        AddressType::Ipv4 => "IPv4",
        AddressType::Ipv6 => "IPv6",
        AddressType::Fqdn => "FQDN",
    };
    json!({
        "metadata": {"labels": labels},
        "addressType": address_type,
        "endpoints": slice.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": slice.ports.iter().map(slice_port).collect::<Vec<_>>(),
    })
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let addresses: Vec<_> = endpoint
        .addresses()
        .map(|address| match address {
            Address::Ip(ip) => ip.to_string(),
            Address::Host(host) => host.to_string(),
        })
        .collect();
    let conditions = json!({
        "ready": endpoint.ready,
        "serving": endpoint.serving,
        "terminating": endpoint.terminating,
    });
    let mut value = json!({"addresses": addresses, "conditions": conditions});
    let details = endpoint.details();
    let optional = [
        ("hostname", &details.hostname),
        ("nodeName", &details.node_name),
        ("zone", &details.zone),
    ];
    for (key, text) in optional {
        if let Some(text) = text {
            value[key] = Value::from(&**text);
        }
    }
    for (key, names) in [("forNodes", &details.for_nodes), ("forZones", &details.for_zones)] {
        if !names.is_empty() {
            let names: Vec<_> = names.iter().map(|name| json!({"name": &**name})).collect();
            value["hints"][key] = names.into();
        }
    }
    value
}

fn slice_port(port: &SlicePort) -> Value {
    let mut value = json!({"name": &*port.name, "protocol": port.protocol.as_str()});
    if let Some(number) = port.port {
        value["port"] = number.get().into();
    }
    if let Some(protocol) = &port.app_protocol {
        value["appProtocol"] = Value::from(&**protocol);
    }
    value
}

/// The Endpoints of a Service that has slices; `None` when no slice names an IP address.
///
/// Old clients read these. Addresses that share their ports make one subset.
pub(crate) fn endpoints<'s>(slices: impl Iterator<Item = &'s EndpointSlice>) -> Option<Value> {
    let mut subsets: BTreeMap<String, Subset> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.address_type != AddressType::Fqdn) {
        let ports: Vec<_> = slice.ports.iter().filter(|p| p.port.is_some()).map(old_port).collect();
        let key = Value::from(ports.clone()).to_string();
        let subset = subsets.entry(key).or_insert_with(|| Subset { ports, ..Subset::default() });
        for endpoint in &slice.endpoints {
            subset.add(endpoint);
        }
    }
    let subsets: Vec<_> = subsets.into_values().filter_map(Subset::value).collect();
    (!subsets.is_empty()).then(|| {
        let labels = json!({"endpoints.kubernetes.io/managed-by": MANAGER});
        json!({"metadata": {"labels": labels}, "subsets": subsets})
    })
}

#[derive(Default)]
struct Subset {
    ports: Vec<Value>,
    ready: Vec<Value>,
    not_ready: Vec<Value>,
}

impl Subset {
    fn add(&mut self, endpoint: &Endpoint) {
        let Some(ip) = endpoint.ip() else { return };
        let mut address = json!({"ip": ip.to_string()});
        let details = endpoint.details();
        for (key, text) in [("hostname", &details.hostname), ("nodeName", &details.node_name)] {
            if let Some(text) = text {
                address[key] = Value::from(&**text);
            }
        }
        if endpoint.ready { &mut self.ready } else { &mut self.not_ready }.push(address);
    }

    fn value(self) -> Option<Value> {
        let mut value = json!({});
        let lists = [
            ("addresses", self.ready),
            ("notReadyAddresses", self.not_ready),
            ("ports", self.ports),
        ];
        for (key, list) in lists {
            if !list.is_empty() {
                value[key] = list.into();
            }
        }
        (value.get("addresses").is_some() || value.get("notReadyAddresses").is_some())
            .then_some(value)
    }
}

/// A port of Endpoints: an unnamed one has no name there.
fn old_port(port: &SlicePort) -> Value {
    let mut value = slice_port(port);
    if port.name.is_empty()
        && let Some(port) = value.as_object_mut()
    {
        port.remove("name");
    }
    value
}

/// A namespace that objects live in.
pub(crate) fn namespace(name: &str) -> Value {
    let mut namespace = json!({"metadata": {"name": name}});
    Kind::Namespace.complete(&mut namespace);
    namespace
}

/// The ranges that Services have addresses of, by name. An object holds one of each family; the
/// first has the name under which a cluster serves the ranges of its own flag.
pub(crate) fn service_cidrs(ranges: &[IpNet]) -> Vec<(String, Value)> {
    let (v4, v6): (Vec<&IpNet>, Vec<&IpNet>) =
        ranges.iter().partition(|range| range.addr().is_ipv4());
    let object = |i: usize| {
        let name = if i == 0 { "kubernetes".to_owned() } else { format!("kubernetes-{}", i + 1) };
        let cidrs = v4.get(i).into_iter().chain(v6.get(i)).map(|range| range.to_string());
        let ready = json!({"type": "Ready", "status": "True", "reason": "", "message": ""});
        let object = json!({
            "metadata": {"name": name},
            "spec": {"cidrs": cidrs.collect::<Vec<_>>()},
            "status": {"conditions": [ready]},
        });
        (name, object)
    };
    (0..v4.len().max(v6.len())).map(object).collect()
}

/// Name and content of the Event that tells of a rejection; `since` is when it was first seen.
///
/// The name holds neither line nor column, so that an Event stays the same one when its place
/// moves.
pub(crate) fn event(rejection: &Rejection, since: &str) -> (ObjectName, Value) {
    let (kind, api_version, object) = match &rejection.object {
        Some((resource, name)) => (resource.as_str(), resource.api_version(), name.clone()),
        None => ("Manifest", "", ObjectName::new("", base_name(&rejection.file))),
    };
    let uid = rejection.object.as_ref().map(|(resource, name)| uid(*resource, name));
    let namespace = if object.namespace.is_empty() { "default" } else { &object.namespace };
    let identity = format!("{kind}/{object}/{}/{}", rejection.file, rejection.message);
    let hash = (fingerprint(&identity) >> 64) as u64;
    let stem = if rejection.object.is_some() { &*object.name } else { "manifest" };
    let name = ObjectName::new(namespace, &format!("{stem}.{hash:016x}"));
    let Rejection { place, message, help, .. } = rejection;
    let (reason, level) = rejection.reason.words();
    let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
    let mut involved = json!({"kind": kind, "name": &*object.name, "namespace": namespace});
    let with_help = format!("{message}{}", bracketed(help.as_deref()));
    if let Some(uid) = uid {
        involved["apiVersion"] = api_version.into();
        involved["uid"] = uid.into();
    }
    let mut event = json!({
        "involvedObject": involved,
        "reason": reason,
        "message": format!("{place}{level}: {with_help}"),
        "source": {"component": MANAGER},
        "firstTimestamp": since,
        "lastTimestamp": since,
        "eventTime": null,
        "count": 1,
        "type": "Warning",
        "reportingComponent": MANAGER,
        "reportingInstance": "",
    });
    if let Some(help) = help {
        event["metadata"] = json!({"annotations": {HELP: help}});
    }
    (name, event)
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use model::Protocol;

    fn a_slice(name: &str, port: u16, ips: &[&str]) -> EndpointSlice {
        EndpointSlice {
            name: ObjectName::new("shop", name),
            service: "web".into(),
            address_type: AddressType::Ipv4,
            ports: vec![SlicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: NonZeroU16::new(port),
                app_protocol: None,
            }],
            endpoints: ips.iter().map(|ip| Endpoint::ready_at(ip.parse().unwrap())).collect(),
        }
    }

    #[test]
    fn numbers_of_objects_are_stable_and_differ() {
        let web = uid(Kind::Service, &ObjectName::new("shop", "web"));
        assert_eq!(web, "5c001c06-eb75-8c3e-8c83-95d5de54ca62");
        assert_ne!(web, uid(Kind::Pod, &ObjectName::new("shop", "web")));
        assert_ne!(web, uid(Kind::Service, &ObjectName::new("sho", "p/web")));
    }

    #[test]
    fn slices_say_all_that_the_model_knows() {
        let mut one = a_slice("web-1", 8080, &["10.1.0.2"]);
        one.endpoints[0].ready = false;
        one.endpoints[0].details_mut().zone = Some("z1".into());
        one.endpoints[0].details_mut().for_zones = ["z1".into()].into_iter().collect();
        one.ports[0].app_protocol = Some("http".into());
        assert_eq!(
            slice(&one),
            json!({
                "metadata": {"labels": {
                    "endpointslice.kubernetes.io/managed-by": "switchyard-feed",
                    "kubernetes.io/service-name": "web",
                }},
                "addressType": "IPv4",
                "endpoints": [{
                    "addresses": ["10.1.0.2"],
                    "conditions": {"ready": false, "serving": true, "terminating": false},
                    "zone": "z1",
                    "hints": {"forZones": [{"name": "z1"}]},
                }],
                "ports": [
                    {"name": "", "protocol": "TCP", "port": 8080, "appProtocol": "http"},
                ],
            })
        );
    }

    #[test]
    fn endpoints_gather_what_shares_its_ports() {
        let mut late = a_slice("web-2", 80, &["10.1.0.3", "10.1.0.4"]);
        late.endpoints[1].ready = false;
        let slices = [a_slice("web-1", 80, &["10.1.0.2"]), late, a_slice("web-3", 81, &["::1"])];
        assert_eq!(
            endpoints(slices.iter()).unwrap()["subsets"],
            json!([
                {
                    "addresses": [{"ip": "10.1.0.2"}, {"ip": "10.1.0.3"}],
                    "notReadyAddresses": [{"ip": "10.1.0.4"}],
                    "ports": [{"port": 80, "protocol": "TCP"}],
                },
                {"addresses": [{"ip": "::1"}], "ports": [{"port": 81, "protocol": "TCP"}]},
            ])
        );
        assert_eq!(endpoints([a_slice("web-1", 80, &[])].iter()), None);
        let host = EndpointSlice { address_type: AddressType::Fqdn, ..a_slice("w", 80, &["::1"]) };
        assert_eq!(endpoints([host].iter()), None);
    }

    #[test]
    fn an_event_is_found_by_its_object() {
        let web = ObjectName::new("shop", "web");
        let rejection = Rejection {
            object: Some((Kind::Service, web.clone())),
            file: "web.yaml".to_owned(),
            place: "web.yaml:12:7".to_owned(),
            reason: Reason::Rejected,
            message: "unknown field \"spec.prots\"".to_owned(),
            help: Some("did you mean `ports`?".to_owned()),
        };
        let (name, value) = event(&rejection, "2026-11-20T08:04:31Z");
        assert_eq!(&*name.namespace, "shop");
        assert!(name.name.starts_with("web."), "{name}");
        assert_eq!(
            value["involvedObject"],
            json!({
                "kind": "Service",
                "apiVersion": "v1",
                "name": "web",
                "namespace": "shop",
                "uid": uid(Kind::Service, &web),
            })
        );
        let message = "web.yaml:12:7: error: unknown field \"spec.prots\" (did you mean `ports`?)";
        assert_eq!(value["message"], message);
        assert_eq!(value["metadata"]["annotations"][HELP], "did you mean `ports`?");
        let moved = Rejection { place: "web.yaml:13:7".to_owned(), ..rejection.clone() };
        assert_eq!(event(&moved, "").0, name);
        let unserved = Rejection {
            place: String::new(),
            reason: Reason::NotServed,
            message: "annotation x restricts access".to_owned(),
            ..rejection.clone()
        };
        let (_, value) = event(&unserved, "");
        assert_eq!(value["reason"], "NotServed");
        let message = value["message"].as_str().unwrap();
        assert!(message.starts_with("error: annotation x"), "{message}");
        let nameless = Rejection { object: None, file: "a b/x.yaml".to_owned(), ..rejection };
        let (name, value) = event(&nameless, "");
        assert!(name.name.starts_with("manifest."), "{name}");
        assert_eq!(value["involvedObject"]["name"], "x.yaml");
    }
}
