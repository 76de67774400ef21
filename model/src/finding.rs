//! What is valid, but probably a mistake: a Service without endpoints, a slice without a Service,
//! an Ingress of a class that nothing defines.
//!
//! Pure: it looks at the model alone, and names objects and fields; the caller finds their position
//! in files. Left out: the backends of an Ingress, which the ingress checks itself.

use std::collections::BTreeSet;

use crate::explanation::nearest;
use crate::model::{EndpointSlice, Ingress, Model, ServiceEntry, ServiceType};
use crate::name::{Kind, ObjectKey, ObjectName};
use crate::problem::{Level, Mark, Problem};
use crate::tree::Step;

/// A problem of an object, at a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub key: ObjectKey,
    pub path: Vec<Step>,
    pub problem: Problem,
    /// An object that does not exist. If it was rejected, that was already reported.
    pub missing: Option<ObjectKey>,
}

/// The class that an ingress serves unless its flags name another.
const USUAL_CLASS: &str = "switchyard";

/// Everything of that kind in a model.
///
/// If `is_defined` knows an object that is not in the model, an error was reported for it, so it is
/// not reported as missing.
pub fn of(model: &Model, is_defined: &dyn Fn(&ObjectKey) -> bool) -> Vec<Finding> {
    let mut found = Found(Vec::new());
    for entry in model.services() {
        service(&entry, &mut found);
    }
    for (service, slices) in model.slices_without_service() {
        if !is_defined(&key(Kind::Service, &service)) {
            let help = other_service(&service, model);
            slices.iter().for_each(|slice| orphan(&service, slice, &help, &mut found));
        }
    }
    for ingress in model.ingresses() {
        class(ingress, is_defined, &mut found);
    }
    found.0
}

struct Found(Vec<Finding>);

impl Found {
    fn add(&mut self, kind: Kind, name: &ObjectName, path: Vec<Step>, message: String, help: &str) {
        self.0.push(Finding {
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

fn key(kind: Kind, name: &ObjectName) -> ObjectKey {
    ObjectKey { kind, name: name.clone() }
}

/// Parses a path such as `spec.rules[0].host`.
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
        let message = match endpoints {
            1 => format!("the only endpoint of Service {} is not ready", service.name),
            _ => format!("none of the {endpoints} endpoints of Service {} is ready", service.name),
        };
        warn(
            "metadata.name",
            message,
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

/// What to do about slices of a Service that does not exist.
fn other_service(missing: &ObjectName, model: &Model) -> String {
    let names: Vec<_> = model.services().map(|entry| entry.service.name.clone()).collect();
    let there = names.iter().filter(|name| name.namespace == missing.namespace);
    match nearest(&missing.name, there.map(|name| &*name.name)) {
        Some(name) => format!("create the Service, or correct the label: did you mean {name}?"),
        None => "create the Service, or correct the label".to_owned(),
    }
}

fn orphan(service: &ObjectName, slice: &EndpointSlice, help: &str, found: &mut Found) {
    let label = vec![
        Step::Key("metadata".to_owned()),
        Step::Key("labels".to_owned()),
        Step::Key("kubernetes.io/service-name".to_owned()),
    ];
    let message = format!("Service {service} does not exist, so this EndpointSlice is not used");
    found.add(Kind::EndpointSlice, &slice.name, label, message, help);
}

/// A class that no IngressClass of the manifests defines, and that is not the default one.
fn class(ingress: &Ingress, is_defined: &dyn Fn(&ObjectKey) -> bool, found: &mut Found) {
    let Some(class) = &ingress.class else { return };
    let name = ObjectName::new("", class);
    if **class == *USUAL_CLASS || is_defined(&key(Kind::IngressClass, &name)) {
        return;
    }
    let message = format!(
        "IngressClass {class:?} does not exist, so an ingress with class {USUAL_CLASS:?} does not \
         serve Ingress {}",
        ingress.name
    );
    let help = "use the class switchyard, add an IngressClass of that name with controller: \
                switchyard.dev/ingress, or run the ingress with --ingress-class";
    found.add(Kind::Ingress, &ingress.name, path("spec.ingressClassName"), message, help);
}
