//! What is valid and yet hardly meant: a Service that nothing serves, an Ingress that leads
//! nowhere, a certificate for another host.
//!
//! Pure: it looks at the model alone, and names objects and fields; where they stand in files is
//! found by the caller.

mod certificate;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::model::{
    BackendPort, EndpointSlice, Ingress, IngressBackend, Model, PathType, ServiceEntry, ServiceType,
};
use crate::name::{Kind, ObjectName};
use crate::problem::{Level, Mark, Problem};
use crate::record::{RecordKey, RecordKind};
use crate::tree::Step;

/// A problem of an object, at a field.
#[derive(Debug)]
pub struct Surprise {
    pub key: RecordKey,
    pub path: Vec<Step>,
    pub problem: Problem,
    /// An object that is not there. Where it was rejected, that was reported already.
    pub missing: Option<RecordKey>,
}

/// The class that an ingress serves unless its flags name another.
const USUAL_CLASS: &str = "switchyard";

/// All that surprises in a model.
///
/// Of an object that `is_defined` knows although the model does not, an error is reported
/// already; that it is missing is then no news.
pub fn of(model: &Model, is_defined: &dyn Fn(&RecordKey) -> bool) -> Vec<Surprise> {
    let mut found = Found(Vec::new());
    for entry in model.services() {
        service(&entry, &mut found);
    }
    for (service, slices) in model.slices_without_service() {
        if !is_defined(&key(Kind::Service, &service)) {
            slices.iter().for_each(|slice| orphan(&service, slice, &mut found));
        }
    }
    let mut routes = HashMap::new();
    for ingress in model.ingresses() {
        backends(ingress, model, is_defined, &mut found);
        tls(ingress, model, is_defined, &mut found);
        duplicates(ingress, &mut routes, &mut found);
        class(ingress, is_defined, &mut found);
    }
    found.0
}

struct Found(Vec<Surprise>);

impl Found {
    fn add(&mut self, kind: Kind, name: &ObjectName, path: Vec<Step>, message: String, help: &str) {
        self.0.push(Surprise {
            key: key(kind, name),
            path,
            missing: None,
            problem: Problem {
                level: Level::Warning,
                message,
                help: Some(help.to_owned()),
                mark: Mark::default(),
                excerpt: None,
            },
        });
    }
}

fn key(kind: Kind, name: &ObjectName) -> RecordKey {
    RecordKey { kind: RecordKind::Of(kind), name: name.clone() }
}

/// A path from `spec.rules[0].host` written so.
fn path(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in text.split('.') {
        let (key, indexes) = part.split_once('[').unwrap_or((part, ""));
        steps.push(Step::Key(key.to_owned()));
        let indexes = indexes.split(['[', ']']).filter_map(|index| index.parse().ok());
        steps.extend(indexes.map(Step::Index));
    }
    steps
}

fn service(entry: &ServiceEntry, found: &mut Found) {
    let service = &entry.service;
    if matches!(service.service_type, ServiceType::ExternalName(_)) || service.foreign_proxy {
        return;
    }
    let mut warn = |at: &str, message: String, help: &str| {
        found.add(Kind::Service, &service.name, path(at), message, help);
    };
    let endpoints: usize = entry.slices.iter().map(|slice| slice.endpoints.len()).sum();
    if endpoints == 0 {
        return warn(
            "metadata.name",
            format!("Service {} has no endpoints, so nothing answers there", service.name),
            "add an EndpointSlice labelled kubernetes.io/service-name, or Pods that it selects",
        );
    }
    let ready = entry.slices.iter().flat_map(|slice| &slice.endpoints).any(|e| e.ready);
    if !ready && !service.publish_not_ready_addresses {
        warn(
            "metadata.name",
            format!("none of the {endpoints} endpoints of Service {} is ready", service.name),
            "an endpoint is ready unless conditions.ready is false, a Pod only if its condition \
             Ready is True",
        );
    }
    for (i, port) in service.ports.iter().enumerate() {
        let serves = |slice: &EndpointSlice| {
            let mut ports = slice.ports.iter();
            ports.any(|p| p.name == port.name && p.protocol == port.protocol && p.port.is_some())
        };
        if !entry.slices.iter().any(|slice| serves(slice)) {
            let field = if port.name.is_empty() { "port" } else { "name" };
            let names: BTreeSet<_> = entry
                .slices
                .iter()
                .flat_map(|slice| &slice.ports)
                .map(|port| format!("{:?} ({})", port.name, port.protocol))
                .collect();
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            warn(
                &format!("spec.ports[{i}].{field}"),
                format!(
                    "spec.ports[{i}]: no slice of Service {} has a port {:?} ({}); they have: {}",
                    service.name,
                    port.name,
                    port.protocol,
                    if names.is_empty() { "none" } else { &names }
                ),
                "the ports of a Service and of its slices are matched by name and protocol",
            );
        }
    }
}

fn orphan(service: &ObjectName, slice: &EndpointSlice, found: &mut Found) {
    let label = vec![
        Step::Key("metadata".to_owned()),
        Step::Key("labels".to_owned()),
        Step::Key("kubernetes.io/service-name".to_owned()),
    ];
    let message = format!("there is no Service {service}, so the slice serves nothing");
    found.add(Kind::EndpointSlice, &slice.name, label, message, "name the Service that it is for");
}

/// Each backend of an Ingress, with its field.
fn each_backend(ingress: &Ingress) -> Vec<(String, &IngressBackend)> {
    let default = ingress.default_backend.iter();
    let default = default.map(|backend| ("spec.defaultBackend".to_owned(), backend));
    let rules = ingress.rules.iter().enumerate().flat_map(|(i, rule)| {
        let paths = rule.paths.iter().enumerate();
        paths.map(move |(j, path)| {
            (format!("spec.rules[{i}].http.paths[{j}].backend"), &path.backend)
        })
    });
    default.chain(rules).collect()
}

fn backends(
    ingress: &Ingress,
    model: &Model,
    is_defined: &dyn Fn(&RecordKey) -> bool,
    found: &mut Found,
) {
    for (field, backend) in each_backend(ingress) {
        let name =
            ObjectName { namespace: ingress.name.namespace.clone(), name: backend.service.clone() };
        let (at, message, help) = match model.service(&name) {
            None if is_defined(&key(Kind::Service, &name)) => continue,
            None => (
                format!("{field}.service.name"),
                format!("there is no Service {name}, so requests get 503"),
                "an Ingress leads to Services of its own namespace".to_owned(),
            ),
            Some(entry) if entry.service.port(&backend.port).is_none() => {
                let (kind, port) = match &backend.port {
                    BackendPort::Number(number) => ("number", number.to_string()),
                    BackendPort::Name(name) => ("name", format!("{name:?}")),
                };
                let ports: Vec<_> = entry.service.ports.iter().map(port_words).collect();
                (
                    format!("{field}.service.port.{kind}"),
                    format!("Service {name} has no port {port}, so requests get 503"),
                    format!("it has {}", ports.join(", ")),
                )
            }
            Some(_) => continue,
        };
        let message = format!("{at}: {message}");
        found.add(Kind::Ingress, &ingress.name, path(&at), message, &help);
    }
}

fn port_words(port: &crate::model::ServicePort) -> String {
    match &*port.name {
        "" => port.port.to_string(),
        name => format!("{} ({name:?})", port.port),
    }
}

fn tls(
    ingress: &Ingress,
    model: &Model,
    is_defined: &dyn Fn(&RecordKey) -> bool,
    found: &mut Found,
) {
    for (i, entry) in ingress.tls.iter().enumerate() {
        let Some(name) = &entry.secret_name else { continue };
        let name = ObjectName { namespace: ingress.name.namespace.clone(), name: name.clone() };
        let mut warn = |field: &str, message: String, help: &str| {
            let at = format!("spec.tls[{i}].{field}");
            found.add(Kind::Ingress, &ingress.name, path(&at), format!("{at}: {message}"), help);
        };
        let secret = model.secret(&name);
        let certificate = match secret.map(|secret| secret.data.get("tls.crt")) {
            None if is_defined(&key(Kind::Secret, &name)) => continue,
            None => {
                let message =
                    format!("there is no Secret {name}, so clients get the fallback certificate");
                let help = "an Ingress uses Secrets of its own namespace";
                warn("secretName", message, help);
                continue;
            }
            Some(pem) => certificate::read(pem.map_or(b"", |pem| &pem[..])),
        };
        match certificate {
            Err(why) => {
                let help = "it has to hold a PEM certificate chain under tls.crt";
                warn("secretName", format!("Secret {name}: {why}"), help);
            }
            Ok(certificate) => {
                for (j, host) in entry.hosts.iter().enumerate() {
                    if !certificate.covers(host) {
                        let message =
                            format!("the certificate in Secret {name} does not cover {host}");
                        let names = certificate.names.join(", ");
                        warn(&format!("hosts[{j}]"), message, &format!("it covers: {names}"));
                    }
                }
            }
        }
    }
}

/// A class that no IngressClass of the manifests defines, and that is not the usual one.
fn class(ingress: &Ingress, is_defined: &dyn Fn(&RecordKey) -> bool, found: &mut Found) {
    let Some(class) = &ingress.class else { return };
    let name = ObjectName::new("", class);
    if **class == *USUAL_CLASS || is_defined(&key(Kind::IngressClass, &name)) {
        return;
    }
    let message = format!(
        "there is no IngressClass {class:?}, so an ingress of class {USUAL_CLASS:?} serves none of \
         Ingress {}",
        ingress.name
    );
    let help = "write the class switchyard, an IngressClass of that name with controller: \
                switchyard.dev/ingress, or run the ingress with --ingress-class";
    found.add(Kind::Ingress, &ingress.name, path("spec.ingressClassName"), message, help);
}

/// Class, host, path and its type.
type RouteKey = (Option<Arc<str>>, Option<Arc<str>>, Arc<str>, PathType);
/// The Ingress that has it, and the field.
type Route = (ObjectName, String);

/// Two paths that are the same: the older Ingress's wins, and the other is never reached.
fn duplicates(ingress: &Ingress, routes: &mut HashMap<RouteKey, Route>, found: &mut Found) {
    for (i, rule) in ingress.rules.iter().enumerate() {
        for (j, route) in rule.paths.iter().enumerate() {
            let at = format!("spec.rules[{i}].http.paths[{j}].path");
            let (class, host) = (ingress.class.clone(), rule.host.clone());
            let key = (class, host, route.path.clone(), route.path_type);
            let Some((other, first)) = routes.get(&key) else {
                routes.insert(key, (ingress.name.clone(), at));
                continue;
            };
            let host = rule.host.as_deref().unwrap_or("any host");
            let message =
                format!("{at}: {host} {} is a route of Ingress {other} too ({first})", route.path);
            let help = "the older Ingress wins, of the same age the first by name";
            found.add(Kind::Ingress, &ingress.name, path(&at), message, help);
        }
    }
}
