//! The JSON of an object, as an API sends it → a validated [`Record`].
//!
//! Pure. Unlike a folder's manifests, unknown fields are no mistakes here: the server may be
//! newer than this program. An object that does not pass is named with what is wrong; it never
//! takes anything else down.

use serde::Deserialize;

use super::beginning::Beginning;
use super::session::Text;
use crate::hosts;
use model::object;
use model::problem::Level;
use model::record::Record;
use model::tree::Path;
use model::validate::{self, Check, Interner};
use model::{Address, EndpointSlice};
use model::{Kind, ObjectName};

/// Why an object is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// Absent when not even the name can be read.
    pub(crate) name: Option<ObjectName>,
    pub(crate) message: String,
}

impl Rejection {
    /// What to say of an object whose JSON is longer than the limit.
    pub(crate) fn too_long(name: Option<ObjectName>) -> Rejection {
        let message = format!("its JSON is longer than {} MiB", super::MAX_OBJECT >> 20);
        Rejection { name, message }
    }
}

#[derive(Debug)]
pub(crate) struct Decoder {
    kind: Kind,
    interner: Interner,
    /// Endpoints on loopback are the feed's author's own.
    local_endpoints: bool,
    decoded: u32,
}

/// What the members of one object may take while it is decoded. A thousand endpoints with all
/// that the API allows them take a quarter of it.
const MAX_DECODED: usize = 16 << 20;
/// What may be said of one object; a message may quote it.
const MAX_MESSAGE: usize = 2000;
/// Decoded objects between two looks at which strings nothing uses any more.
const SHRINK_EVERY: u32 = 50_000;

impl Decoder {
    pub(crate) fn new(kind: Kind, local_endpoints: bool) -> Decoder {
        Decoder { kind, interner: Interner::default(), local_endpoints, decoded: 0 }
    }

    /// Decodes and validates an object; `None` if nothing follows from it here.
    ///
    /// # Errors
    ///
    /// When it is not valid.
    pub(crate) fn decode(&mut self, text: Text<'_>) -> Result<Option<Record>, Rejection> {
        self.decoded += 1;
        if self.decoded.is_multiple_of(SHRINK_EVERY) {
            self.interner.shrink();
        }
        match self.kind {
            Kind::Service => self.read::<object::Service<'_>>(text, validate::service),
            Kind::EndpointSlice => self.read::<object::EndpointSlice<'_>>(text, validate::slice),
            Kind::Pod => self.read::<object::Pod<'_>>(text, validate::pod),
            Kind::Ingress => self.read::<object::Ingress<'_>>(text, validate::ingress),
            Kind::IngressClass => {
                self.read::<object::IngressClass<'_>>(text, validate::ingress_class)
            }
            Kind::Secret => self.read::<object::Secret<'_>>(text, validate::secret),
            Kind::Namespace => self.read::<object::Namespace<'_>>(text, validate::namespace),
            Kind::Node => self.read::<object::Node<'_>>(text, validate::node),
        }
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

    fn read<'a, T: Deserialize<'a>>(
        &mut self,
        text: Text<'a>,
        validate: fn(&T, &mut Check<'_>) -> Option<Record>,
    ) -> Result<Option<Record>, Rejection> {
        let object: T = match parse(text) {
            Ok(object) => object,
            // Such an error may quote the text.
            Err(error) if self.kind == Kind::Secret => {
                let place = format!("not a Secret, at column {}", error.column());
                return Err(self.reject(text, place));
            }
            Err(error) => return Err(self.reject(text, error.to_string())),
        };
        let mut check = Check::of_api(&mut self.interner);
        let record = validate(&object, &mut check);
        let errors = check.finish().into_iter().filter(|c| c.level == Level::Error);
        let errors: Vec<_> = errors
            .map(|complaint| match complaint.path.is_empty() {
                true => complaint.message,
                false => format!("{}: {}", Path(&complaint.path), complaint.message),
            })
            .collect();
        if !errors.is_empty() {
            return Err(self.reject(text, errors.join("; ")));
        }
        if let Some(Record::EndpointSlice(slice)) = &record
            && !self.local_endpoints
            && let Some(message) = local_endpoint(slice)
        {
            return Err(self.reject(text, message));
        }
        Ok(record)
    }

    fn reject(&self, text: Text<'_>, mut message: String) -> Rejection {
        if message.len() > MAX_MESSAGE {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE));
            message.push('…');
        }
        Rejection { name: self.name_of(text), message }
    }
}

#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct WatchLine<T> {
    object: T,
}

fn parse<'a, T: Deserialize<'a>>(text: Text<'a>) -> serde_json::Result<T> {
    object::within(MAX_DECODED, || match text {
        Text::Line(line) => serde_json::from_slice(line).map(|line: WatchLine<T>| line.object),
        Text::Object(object) => serde_json::from_slice(object),
    })
}

/// Why a slice from another machine is refused: an endpoint of it would be on this one, and
/// reach what listens for local users only.
fn local_endpoint(slice: &EndpointSlice) -> Option<String> {
    let local = |address: &Address| match address {
        Address::Ip(ip) => hosts::is_local(ip),
        Address::Host(host) => &**host == "localhost" || host.ends_with(".localhost"),
    };
    for (i, endpoint) in slice.endpoints.iter().enumerate() {
        if let Some((j, address)) = endpoint.addresses().enumerate().find(|(_, a)| local(a)) {
            let address = match address {
                Address::Ip(ip) => ip.to_string(),
                Address::Host(host) => host.to_string(),
            };
            return Some(format!(
                "endpoints[{i}].addresses[{j}]: Invalid value: {address:?}: is on this machine, \
                 while the feed is on another: --allow-local-endpoints accepts that"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(kind: Kind, local: bool, json: &str) -> Result<Option<Record>, Rejection> {
        let as_object = Decoder::new(kind, local).decode(Text::Object(json.as_bytes()));
        let line = format!("{{\"type\":\"ADDED\",\"object\":{json}}}");
        let as_line = Decoder::new(kind, local).decode(Text::Line(line.as_bytes()));
        assert_eq!(as_object.is_ok(), as_line.is_ok(), "{json}");
        as_object
    }

    fn rejection(kind: Kind, json: &str) -> (String, String) {
        let rejection = decode(kind, false, json).unwrap_err();
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
            assert!(message.contains("--allow-local-endpoints"), "{message}");
            assert!(decode(Kind::EndpointSlice, true, &json).unwrap().is_some(), "{address}");
        }
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
