//! The JSON of an object, as an API sends it → a validated [`Record`].
//!
//! Pure. Unlike a folder's manifests, unknown fields are no mistakes here: the server may be
//! newer than this program. An object that does not pass is named with what is wrong; it never
//! takes anything else down.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::beginning::Beginning;
use super::session::Text;
use crate::hosts;
use model::problem::Level;
use model::reader::JsonText;
use model::record::Record;
use model::tree::Path;
use model::validate::{Check, Interner};
use model::{Address, Endpoint, EndpointSlice, Kind, ObjectName};

/// Why an object, or a part of one, is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// Absent when not even the name can be read.
    pub(crate) name: Option<ObjectName>,
    pub(crate) message: String,
    /// The object is served without what the message names.
    pub(crate) is_partial: bool,
    /// The hosts of an Ingress, up to [`MAX_HOSTS`].
    pub(crate) hosts: Vec<String>,
}

/// More hosts of a rejected Ingress are not kept.
const MAX_HOSTS: usize = 64;

impl Rejection {
    /// What to say of an object whose JSON is longer than the limit.
    pub(crate) fn too_long(name: Option<ObjectName>) -> Rejection {
        let message = format!("its JSON is longer than {} MiB", MAX_OBJECT >> 20);
        Rejection { name, message, is_partial: false, hosts: Vec::new() }
    }
}

/// An object that is served, as far as it can be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decoded {
    /// `None` if nothing follows from it here.
    pub(crate) record: Option<Record>,
    /// What of it is not served.
    pub(crate) left_out: Option<Rejection>,
}

#[derive(Debug)]
pub(crate) struct Decoder {
    kind: Kind,
    interner: Interner,
    /// Endpoints on loopback are the feed's author's own.
    local_endpoints: bool,
    decoded: u32,
}

/// Longer objects are skipped. The API refuses what takes more than 1.5 MiB in its store, where
/// it is written more densely than as JSON.
pub(crate) const MAX_OBJECT: usize = 8 << 20;
/// What may be said of one object; a message may quote it.
const MAX_MESSAGE: usize = 2000;
/// Decoded objects between two looks at which strings nothing uses any more.
const SHRINK_EVERY: u32 = 50_000;

impl Decoder {
    pub(crate) fn new(kind: Kind, local_endpoints: bool) -> Decoder {
        Decoder { kind, interner: Interner::default(), local_endpoints, decoded: 0 }
    }

    /// Decodes and validates an object that an API has accepted.
    ///
    /// # Errors
    ///
    /// When nothing of it can be served.
    pub(crate) fn decode(&mut self, text: Text<'_>) -> Result<Decoded, Rejection> {
        self.decoded += 1;
        if self.decoded.is_multiple_of(SHRINK_EVERY) {
            self.interner.shrink();
        }
        let reader = self.kind.reader().expect("a kind that is listed can be read");
        let mut check = Check::of_api(&mut self.interner);
        let json = match text {
            Text::Line(line) => JsonText::Line(line),
            Text::Object(object) => JsonText::Object(object),
        };
        let record = match (reader.json)(json, &mut check) {
            Ok(record) => record,
            // Such an error may quote the text.
            Err(error) if self.kind == Kind::Secret => {
                let place = format!("not a Secret, at column {}", error.column());
                return Err(self.reject(text, place));
            }
            Err(error) => return Err(self.reject(text, error.to_string())),
        };
        let errors = check.finish().into_iter().filter(|c| c.level == Level::Error);
        let mut errors: Vec<_> = errors
            .map(|complaint| match complaint.path.is_empty() {
                true => complaint.message,
                false => format!("{}: {}", Path(&complaint.path), complaint.message),
            })
            .collect();
        let mut record = match record {
            None if !errors.is_empty() => return Err(self.reject(text, errors.join("; "))),
            record => record,
        };
        if let Some(Record::EndpointSlice(slice)) = &mut record
            && !self.local_endpoints
        {
            errors.extend(leave_out_local(slice));
        }
        if let Some(Record::EndpointSlice(slice)) = &record
            && slice.endpoints.is_empty()
            && !errors.is_empty()
        {
            return Err(self.reject(text, errors.join("; ")));
        }
        let left_out = (!errors.is_empty())
            .then(|| Rejection { is_partial: true, ..self.reject(text, errors.join("; ")) });
        Ok(Decoded { record, left_out })
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The name of an object in a text that may be no valid object.
    pub(crate) fn name_of(&self, text: Text<'_>) -> Option<ObjectName> {
        let (namespace, name) = match text {
            Text::Line(line) => Beginning::of_line(line).name()?,
            Text::Object(object) => Beginning::of_object(object).name()?,
        };
        let namespace = if namespace.is_empty() { "default" } else { &namespace };
        Some(self.name(namespace, &name))
    }

    /// The name of an object of this kind that is not decoded.
    pub(crate) fn name(&self, namespace: &str, name: &str) -> ObjectName {
        if self.kind.is_namespaced() {
            return ObjectName::new(namespace, name);
        }
        ObjectName::new("", name)
    }

    fn reject(&self, text: Text<'_>, mut message: String) -> Rejection {
        if message.len() > MAX_MESSAGE {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE));
            message.push('…');
        }
        let hosts = if self.kind == Kind::Ingress { hosts_of(text) } else { Vec::new() };
        Rejection { name: self.name_of(text), message, is_partial: false, hosts }
    }
}

/// The hosts that the text of an Ingress names, valid or not.
fn hosts_of(text: Text<'_>) -> Vec<String> {
    let (bytes, path) = match text {
        Text::Line(line) => (line, "/object/spec"),
        Text::Object(object) => (object, "/spec"),
    };
    let object = serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_default();
    let list = |field: &str| object.pointer(path)?.get(field)?.as_array();
    let of_rules = list("rules").into_iter().flatten().map(|rule| &rule["host"]);
    let of_tls = list("tls").into_iter().flatten().filter_map(|tls| tls["hosts"].as_array());
    let named = of_rules.chain(of_tls.flatten()).filter_map(|host| host.as_str());
    let hosts: BTreeSet<_> = named.map(str::to_ascii_lowercase).collect();
    hosts.into_iter().take(MAX_HOSTS).collect()
}

/// Takes the endpoints out of a slice from another machine that are on this one: they would reach
/// what listens for local users only. Gives what is wrong with each.
fn leave_out_local(slice: &mut Arc<EndpointSlice>) -> Vec<String> {
    let local = |address: &Address| match address {
        Address::Ip(ip) => hosts::is_local(ip),
        Address::Host(host) => &**host == "localhost" || host.ends_with(".localhost"),
    };
    let is_local = |endpoint: &Endpoint| endpoint.addresses().any(|address| local(&address));
    if !slice.endpoints.iter().any(is_local) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    for (i, endpoint) in slice.endpoints.iter().enumerate() {
        if let Some((j, address)) = endpoint.addresses().enumerate().find(|(_, a)| local(a)) {
            let address = match address {
                Address::Ip(ip) => ip.to_string(),
                Address::Host(host) => host.to_string(),
            };
            errors.push(format!(
                "endpoints[{i}].addresses[{j}]: Invalid value: {address:?}: is on this machine, \
                 while the feed is on another: --allow-local-endpoints accepts that"
            ));
        }
    }
    let mut rest = EndpointSlice::clone(slice);
    rest.endpoints.retain(|endpoint| !is_local(endpoint));
    *slice = Arc::new(rest);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(kind: Kind, local: bool, json: &str) -> Result<Option<Record>, Rejection> {
        decode_all(kind, local, json).map(|decoded| decoded.record)
    }

    fn decode_all(kind: Kind, local: bool, json: &str) -> Result<Decoded, Rejection> {
        let as_object = Decoder::new(kind, local).decode(Text::Object(json.as_bytes()));
        let line = format!("{{\"type\":\"ADDED\",\"object\":{json}}}");
        let as_line = Decoder::new(kind, local).decode(Text::Line(line.as_bytes()));
        assert_eq!(as_object.is_ok(), as_line.is_ok(), "{json}");
        as_object
    }

    fn rejection(kind: Kind, json: &str) -> (String, String) {
        let rejection = match decode_all(kind, false, json) {
            Ok(decoded) => decoded.left_out.unwrap(),
            Err(rejection) => rejection,
        };
        (rejection.name.map(|name| name.to_string()).unwrap_or_default(), rejection.message)
    }

    fn slice(address_type: &str, addresses: &str) -> String {
        format!(
            r#"{{"metadata":{{"name":"web-1","namespace":"shop","newField":[{{}}],
               "labels":{{"kubernetes.io/service-name":"web"}}}},"addressType":"{address_type}",
               "future":{{"a":[1,2]}},"endpoints":[{{"addresses":["10.0.0.1"]}},
               {{"addresses":["{addresses}"],"unknown":null}}],"ports":[{{"port":80}}]}}"#
        )
    }

    #[test]
    fn unknown_fields_are_no_mistakes() {
        let record = decode(Kind::EndpointSlice, false, &slice("IPv4", "10.0.0.2")).unwrap();
        let Some(Record::EndpointSlice(slice)) = record else { panic!("{record:?}") };
        assert_eq!(slice.name, ObjectName::new("shop", "web-1"));
        assert_eq!(slice.endpoints.len(), 2);
    }

    #[test]
    fn a_cluster_may_hand_out_other_node_ports() {
        let json = r#"{"metadata":{"name":"web","namespace":"shop"},
            "spec":{"type":"NodePort","ports":[{"port":80,"nodePort":8080}]}}"#;
        assert!(decode(Kind::Service, false, json).unwrap().is_some());
        let (_, message) = rejection(Kind::Service, &json.replace("8080", "65536"));
        assert!(message.contains("must be between 1 and 65535"), "{message}");
    }

    #[test]
    fn what_is_not_valid_is_named() {
        let service = r#"{"metadata":{"name":"web","namespace":"shop"},
            "spec":{"ports":[{"port":70000},{"port":80}]}}"#;
        let (name, message) = rejection(Kind::Service, service);
        assert_eq!(name, "shop/web");
        let invalid = "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535";
        assert!(message.contains(invalid), "{message}");
        assert!(message.contains("; "), "all of it: {message}");
        let wrong_type = r#"{"metadata":{"name":"web","namespace":"shop"},"spec":{"ports":{}}}"#;
        let (name, message) = rejection(Kind::Service, wrong_type);
        assert_eq!(name, "shop/web");
        assert!(message.contains("invalid type: map, expected a sequence"), "{message}");
        assert_eq!(rejection(Kind::Service, "{}").0, "");
        assert_eq!(rejection(Kind::Service, "[]").0, "");
    }

    #[test]
    fn endpoints_on_this_machine_need_a_feed_on_it() {
        let refused = [
            ("IPv4", "127.0.0.1"),
            ("IPv4", "127.8.9.10"),
            ("IPv6", "::1"),
            ("FQDN", "localhost"),
            ("FQDN", "db.LOCALHOST."),
        ];
        for (address_type, address) in refused {
            let json = slice(address_type, address).replace(
                "10.0.0.1",
                match address_type {
                    "IPv4" => "10.0.0.1",
                    "IPv6" => "2001:db8::1",
                    _ => "db",
                },
            );
            let (name, message) = rejection(Kind::EndpointSlice, &json);
            assert_eq!(name, "shop/web-1");
            assert!(message.starts_with("endpoints[1].addresses[0]: "), "{message}");
            let served = decode(Kind::EndpointSlice, false, &json).unwrap();
            let Some(Record::EndpointSlice(served)) = served else { panic!("{served:?}") };
            assert_eq!(served.endpoints.len(), 1, "the other endpoint is served");
            assert!(message.contains("--allow-local-endpoints"), "{message}");
            assert!(decode(Kind::EndpointSlice, true, &json).unwrap().is_some(), "{address}");
        }
    }

    /// The record, and what is said of the rest.
    #[track_caller]
    fn served(kind: Kind, json: &str) -> (Record, String) {
        let decoded = decode_all(kind, false, json).unwrap();
        let left_out = decoded.left_out.unwrap();
        assert_eq!(left_out.name, Some(ObjectName::new("shop", "web")));
        assert!(left_out.is_partial, "{left_out:?}");
        (decoded.record.unwrap(), left_out.message)
    }

    const META: &str = r#""metadata":{"name":"web","namespace":"shop"}"#;

    #[test]
    fn an_ingress_that_an_api_accepted_is_served_but_for_the_entry_that_cannot_be() {
        let path = |path: &str, backend: &str| {
            format!(r#"{{"path":"{path}","pathType":"Prefix","backend":{backend}}}"#)
        };
        let service = r#"{"service":{"name":"web","port":{"number":80}}}"#;
        let resource = r#"{"resource":{"kind":"Bucket","name":"b","apiGroup":"x.y"}}"#;
        let ingress = |tls: &str, paths: &[String]| {
            format!(
                r#"{{{META},"spec":{{"tls":[{tls}],"rules":[
                {{"host":"r1.example","http":{{"paths":[{}]}}}},
                {{"host":"1.2.3.4","http":{{"paths":[{}]}}}}]}}}}"#,
                paths.join(","),
                path("/", service),
            )
        };
        let by_address = r#"{"hosts":["1.2.3.4"],"secretName":"x"}"#;
        let both = r#"{"hosts":["r1.example","1.2.3.4"],"secretName":"y"}"#;
        let json = ingress(&format!("{by_address},{both}"), &[path("/", service)]);
        let (Record::Ingress(ingress_served), message) = served(Kind::Ingress, &json) else {
            panic!("no Ingress")
        };
        let hosts: Vec<_> = ingress_served.tls.iter().flat_map(|tls| &tls.hosts).collect();
        assert_eq!(hosts.len(), 1, "an entry without a host left would be for all: {hosts:?}");
        let hosts: Vec<_> = ingress_served.rules.iter().map(|rule| rule.host.clone()).collect();
        assert_eq!(hosts, [Some("r1.example".into())], "a rule without its host would be for all");
        assert!(message.contains("spec.tls[0].hosts[0]: Invalid value: \"1.2.3.4\""), "{message}");
        assert!(message.contains("spec.rules[1].host: Invalid value"), "{message}");

        let json = ingress("", &[path("/x", resource), path("/", service)]);
        let (Record::Ingress(ingress_served), message) = served(Kind::Ingress, &json) else {
            panic!("no Ingress")
        };
        let paths: Vec<_> = ingress_served.rules[0].paths.iter().map(|path| &*path.path).collect();
        assert_eq!(paths, ["/"]);
        assert!(message.contains("spec.rules[0].http.paths[0].backend.resource: "), "{message}");

        let json = ingress("", &[path("/x", resource)]);
        let two_hosts = json.replace(r#""host":"1.2.3.4""#, r#""host":"r2.example""#);
        let (Record::Ingress(ingress_served), _) = served(Kind::Ingress, &two_hosts) else {
            panic!("no Ingress")
        };
        let hosts: Vec<_> = ingress_served.rules.iter().map(|rule| rule.host.clone()).collect();
        assert_eq!(hosts, [Some("r2.example".into())], "r1.example is not the default backend's");
        // Of this one nothing is left, so that its last good state stays.
        assert!(decode_all(Kind::Ingress, false, &json).is_err());
    }

    #[test]
    fn a_service_that_an_api_accepted_is_served_but_for_the_port_that_cannot_be() {
        let json = format!(
            r#"{{{META},"spec":{{"clusterIP":"10.0.0.1","ports":[
            {{"name":"a","port":80}},{{"name":"b","port":81,"targetPort":"No"}},
            {{"name":"c","port":82,"appProtocol":"a b"}}],
            "sessionAffinity":"ClientIP","externalIPs":["224.0.0.1","192.0.2.1"],
            "sessionAffinityConfig":{{"clientIP":{{"timeoutSeconds":100000}}}}}}}}"#
        );
        let (Record::Service(record), message) = served(Kind::Service, &json) else {
            panic!("no Service")
        };
        let ports: Vec<_> = record.service.ports.iter().map(|port| &*port.name).collect();
        assert_eq!(ports, ["a", "c"]);
        assert_eq!(record.service.ports[1].app_protocol, None);
        assert_eq!(record.service.external_ips.len(), 1);
        assert_eq!(record.service.client_ip_affinity.unwrap().as_secs(), 10_800);
        for part in ["spec.ports[1].targetPort", "spec.ports[2].appProtocol", "spec.externalIPs[0]"]
        {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn source_ranges_that_cannot_be_read_let_nobody_in() {
        let json = |ranges: &str| {
            format!(
                r#"{{{META},"spec":{{"type":"LoadBalancer","clusterIP":"10.0.0.1",
                "ports":[{{"port":80}}],"loadBalancerSourceRanges":[{ranges}]}}}}"#
            )
        };
        assert!(decode_all(Kind::Service, false, &json(r#""10.0.0.0/33""#)).is_err());
        let (record, _) = served(Kind::Service, &json(r#""10.0.0.0/33","10.0.0.0/8""#));
        let Record::Service(record) = record else { panic!("{record:?}") };
        assert_eq!(record.service.load_balancer_source_ranges.len(), 1);
    }

    #[test]
    fn slices_and_endpoints_that_an_api_accepted_are_served_but_for_what_cannot_be() {
        let slice = r#"{"metadata":{"name":"web","namespace":"shop",
            "labels":{"kubernetes.io/service-name":"web","bad key!":"x"}},"addressType":"IPv4",
            "ports":[{"name":"a","port":80},{"name":"a","port":81},{"name":"B_","port":82}],
            "endpoints":[{"addresses":["10.0.0.1","0.0.0.0"],"hostname":"Not_a_label"},
            {"addresses":["fe80::1"]},{"addresses":[]},{"addresses":["10.0.0.2"]}]}"#;
        let (Record::EndpointSlice(slice), message) = served(Kind::EndpointSlice, slice) else {
            panic!("no slice")
        };
        assert_eq!(slice.ports.len(), 1);
        let count: Vec<_> = slice.endpoints.iter().map(|e| e.addresses().count()).collect();
        assert_eq!(count, [1, 1], "{message}");
        assert_eq!(slice.endpoints[0].details().hostname, None);
        let endpoints = format!(
            r#"{{{META},"subsets":[{{"addresses":[{{"ip":"10.0.0.1"}},{{"ip":"0.0.0.0"}}],
            "ports":[{{"name":"a","port":80}},{{"port":81}}]}}]}}"#
        );
        let (Record::Endpoints(record), _) = served(Kind::Endpoints, &endpoints) else {
            panic!("no Endpoints")
        };
        assert_eq!(record.slices[0].endpoints.len(), 1);
        assert_eq!(record.slices[0].ports.len(), 1);
    }

    #[test]
    fn a_slice_of_no_service_is_nothing() {
        let json = slice("IPv4", "10.0.0.2").replace("kubernetes.io/service-name", "other");
        assert_eq!(decode(Kind::EndpointSlice, false, &json), Ok(None));
    }

    #[test]
    fn what_is_wrong_with_a_secret_does_not_tell_it() {
        for data in [r#""hunter2""#, r#"{"key":["hunter2"]}"#, r#"{"tls.key":"hunter2"}"#] {
            let json = format!(r#"{{"metadata":{{"name":"a"}},"data":{data}}}"#);
            let (name, message) = rejection(Kind::Secret, &json);
            assert_eq!(name, "default/a");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn an_object_of_a_million_empty_members_is_refused_and_named() {
        let metadata = r#"{"metadata":{"name":"web","namespace":"shop","#;
        let slice = r#""labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4","#;
        let empty = |element: &str| vec![element; 1_000_000].join(",");
        for (kind, json) in [
            (Kind::EndpointSlice, format!("{metadata}{slice}\"endpoints\":[{}]}}", empty("{}"))),
            (
                Kind::EndpointSlice,
                format!("{metadata}{slice}\"endpoints\":[{{\"addresses\":[{}]}}]}}", empty("\"\"")),
            ),
            (Kind::Pod, format!("{metadata}\"labels\":{{{}}}}}}}", empty("\"\":\"\""))),
        ] {
            let (name, message) = rejection(kind, &json);
            assert_eq!(name, "shop/web");
            assert!(
                message.starts_with("more elements than any object of the API has"),
                "{message}"
            );
        }
        // What is beyond a limit of the API's own is still told in its words.
        let many = vec![r#"{"addresses":["10.0.0.1"]}"#; 1001].join(",");
        let (_, message) =
            rejection(Kind::EndpointSlice, &format!("{metadata}{slice}\"endpoints\":[{many}]}}"));
        assert_eq!(message, "endpoints: Too many: 1001: must have at most 1000 items");
    }

    #[test]
    fn what_is_said_of_an_object_is_bounded() {
        let long = "x".repeat(1_000_000);
        let json = format!(
            r#"{{"metadata":{{"name":"web","namespace":"shop"}},"spec":{{"ports":"é{long}"}}}}"#
        );
        let (name, message) = rejection(Kind::Service, &json);
        assert_eq!(name, "shop/web");
        assert!(message.len() < MAX_MESSAGE + 10 && message.ends_with('…'), "{message}");
        let json = format!(r#"{{"metadata":{{"name":"{long}"}},"spec":{{"type":"x"}}}}"#);
        assert_eq!(rejection(Kind::Service, &json).0, "", "longer than any name");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let json = format!(r#"{{"metadata":{{"name":"web"}},"spec":{}"#, "[".repeat(100_000));
        assert_eq!(rejection(Kind::Service, &json).0, "default/web");
    }
}
