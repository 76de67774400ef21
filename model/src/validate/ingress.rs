//! Ingress and IngressClass.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{At, Check, ROOT, accept, format, portable};
use crate::model::{
    BackendPort, Ingress, IngressBackend, IngressClass, IngressPath, IngressRule, IngressTls,
    PathType,
};
use crate::name::Kind;
use crate::object::{self, Text};
use crate::record::Record;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
/// Sequences that a path of type Exact or Prefix may not contain, because a proxy and its upstream
/// could interpret them differently.
const INVALID_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const INVALID_SUFFIXES: [&str; 2] = ["/..", "/."];

pub fn ingress(object: &object::Ingress<'_>, check: &mut Check<'_>) -> Option<Record> {
    let kind = Kind::Ingress;
    let name = check.name(object.metadata.as_ref(), kind, format::dns_subdomain);
    let meta = object.metadata.clone().unwrap_or_default();
    let none = object::IngressSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&none);
    let at = ROOT.key("spec");
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        check.invalid(at, Null, "either `defaultBackend` or `rules` must be specified");
    }
    let default_backend = spec
        .default_backend
        .as_ref()
        .and_then(|object| check.entry(|check| backend(object, &at.key("defaultBackend"), check)))
        .flatten();
    let rule_list = at.key("rules");
    let given = rules.len();
    let rules: Vec<_> = rules
        .iter()
        .enumerate()
        .filter_map(|(i, object)| {
            check.entry(|check| rule(object, &rule_list.index(i), check)).flatten()
        })
        .collect();
    check.needs_entries(!rules.is_empty() || default_backend.is_some(), given > 0);
    let ingress = Ingress {
        name,
        created_unix: created(&meta, check),
        class: class(spec, &meta, &at, check),
        default_backend,
        rules,
        tls: tls(spec, &at, check),
        annotations: annotations(&meta, check),
    };
    accept(check, || Record::Ingress(Arc::new(ingress)))
}

/// Prints a missing value as the API does.
struct Null;

impl std::fmt::Debug for Null {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("null")
    }
}

fn created(meta: &object::Meta<'_>, check: &mut Check<'_>) -> Option<i64> {
    let text = meta.creation_timestamp.as_deref().filter(|text| !text.is_empty())?;
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Some(time.as_second()),
        Err(_) => {
            let at = ROOT.key("metadata");
            check.invalid(at.key("creationTimestamp"), text, "must be an RFC 3339 time");
            None
        }
    }
}

fn class(
    spec: &object::IngressSpec<'_>,
    meta: &object::Meta<'_>,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> Option<Arc<str>> {
    let annotation = meta.annotations.as_ref().and_then(|map| map.value(CLASS_ANNOTATION));
    let field = spec.ingress_class_name.as_deref();
    if let Some(field) = field {
        check.expect(at.key("ingressClassName"), field, format::dns_subdomain);
        if annotation.is_some_and(|annotation| annotation != field) {
            check.warn(
                at.key("ingressClassName"),
                format!(
                    "annotation {CLASS_ANNOTATION} names another class, and this field wins: not \
                     portable"
                ),
                "remove the annotation: a Kubernetes API refuses both",
            );
        }
    }
    field.or(annotation).filter(|class| !class.is_empty()).map(|class| check.text(class))
}

fn annotations(meta: &object::Meta<'_>, check: &mut Check<'_>) -> BTreeMap<Arc<str>, Arc<str>> {
    // It contains the whole object again, and nothing uses it.
    const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let entries = meta.annotations.iter().flat_map(|map| &map.0);
    entries
        .filter(|(key, _)| **key != *LAST_APPLIED)
        .map(|(key, value)| (check.text(key), check.text(value)))
        .collect()
}

/// A rule. A rule without any valid path is dropped; otherwise the default backend would get all
/// requests for its host.
fn rule(
    object: &object::IngressRule<'_>,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> Option<IngressRule> {
    let host = object.host.as_deref().filter(|host| !host.is_empty());
    let host = host.and_then(|text| host_name(text, at.key("host"), check));
    let http = at.key("http");
    let list = http.key("paths");
    let mut paths = Vec::new();
    if let Some(value) = &object.http {
        let objects = value.paths.as_deref().unwrap_or_default();
        if objects.is_empty() {
            check.required(list, "");
        }
        let found = objects.iter().enumerate();
        paths.extend(found.filter_map(|(i, object)| {
            check.entry(|check| path(object, &list.index(i), check)).flatten()
        }));
        if paths.is_empty() {
            return None;
        }
    }
    Some(IngressRule { host, paths })
}

fn host_name(host: &str, at: At<'_>, check: &mut Check<'_>) -> Option<Arc<str>> {
    if host.parse::<IpAddr>().is_ok() {
        check.invalid(at, host, "must be a DNS name, not an IP address");
        return None;
    }
    let rule = if host.contains('*') { format::wildcard_subdomain } else { format::dns_subdomain };
    let before = check.complaints.len();
    let valid = check.expect(at, host, rule);
    if let Some(help) = alone(host) {
        check.advise(before, &help);
    }
    valid.then(|| check.text(host))
}

/// What to write instead of a URL, or of a host with a port.
fn alone(text: &str) -> Option<String> {
    let after_scheme = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = after_scheme.split(['/', ':', '?']).next().unwrap_or_default();
    (host != text && !host.is_empty())
        .then(|| format!("write the host alone, without scheme, port and path: {host}"))
}

fn path(
    object: &object::HttpIngressPath<'_>,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> Option<IngressPath> {
    let path_type = match object.path_type.as_deref() {
        None | Some("") => {
            let before = check.complaints.len();
            check.required(at.key("pathType"), "pathType must be specified");
            check.advise(before, "add pathType: Exact, Prefix or ImplementationSpecific");
            None
        }
        Some("Exact") => Some(PathType::Exact),
        Some("Prefix") => Some(PathType::Prefix),
        Some("ImplementationSpecific") => Some(PathType::ImplementationSpecific),
        Some(other) => {
            let supported = ["Exact", "ImplementationSpecific", "Prefix"];
            check.unsupported(at.key("pathType"), other, &supported);
            None
        }
    };
    let path = object.path.as_deref().unwrap_or_default();
    check_path(path, path_type, at.key("path"), check);
    let none = object::IngressBackend::default();
    let backend_object = object.backend.as_ref().unwrap_or(&none);
    let backend = backend(backend_object, &at.key("backend"), check);
    Some(IngressPath { path: path.into(), path_type: path_type?, backend: backend? })
}

fn check_path(path: &str, path_type: Option<PathType>, at: At<'_>, check: &mut Check<'_>) {
    let specific = matches!(path_type, Some(PathType::ImplementationSpecific));
    if !path.starts_with('/') && !(path.is_empty() && (specific || path_type.is_none())) {
        check.invalid(at, path, "must be an absolute path");
        return;
    }
    if specific || path_type.is_none() {
        return;
    }
    for sequence in INVALID_SEQUENCES {
        if path.contains(sequence) {
            check.invalid(at, path, format!("must not contain '{sequence}'"));
        }
    }
    for suffix in INVALID_SUFFIXES {
        if path.ends_with(suffix) {
            check.invalid(at, path, format!("cannot end with '{suffix}'"));
        }
    }
}

fn backend(
    object: &object::IngressBackend<'_>,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> Option<IngressBackend> {
    if let Some(resource) = &object.resource {
        let name = |text: &Option<Text<'_>>| text.as_deref().unwrap_or_default().to_owned();
        let (kind, name) = (name(&resource.kind), name(&resource.name));
        check.say(
            crate::problem::Level::Error,
            at.key("resource"),
            format!("Unsupported value: a backend of kind {kind} ({name}) cannot be served"),
            Some("name a Service under `service` instead"),
        );
        return None;
    }
    let none = object::IngressServiceBackend::default();
    let service = object.service.as_ref().unwrap_or(&none);
    let field = at.key("service");
    let name = service.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        check.required(field.key("name"), "");
    } else {
        check.expect(field.key("name"), name, format::dns_label);
    }
    let port = backend_port(service, &field, at, check)?;
    Some(IngressBackend { service: check.text(name), port })
}

fn backend_port(
    service: &object::IngressServiceBackend<'_>,
    field: &At<'_>,
    backend: &At<'_>,
    check: &mut Check<'_>,
) -> Option<BackendPort> {
    let port = service.port.clone().unwrap_or_default();
    let field = field.key("port");
    let name = port.name.as_deref().filter(|name| !name.is_empty());
    let before = check.complaints.len();
    match (name, port.number.filter(|number| *number != 0)) {
        (Some(_), Some(_)) => {
            check.invalid(*backend, "", "cannot set both port name & port number");
            check.advise(before, "remove service.port.name or service.port.number");
            None
        }
        (Some(name), None) => {
            let valid = check.expect(field.key("name"), name, format::port_name);
            if let Ok(number) = name.parse::<u16>() {
                check.advise(before, &format!("write port: {{number: {number}}}"));
            }
            valid.then(|| BackendPort::Name(check.text(name)))
        }
        (None, Some(number)) => check.port(field.key("number"), number).map(BackendPort::Number),
        (None, None) => {
            check.required(*backend, "port name or number is required");
            let help =
                "write service.port: {number: 80} or {name: http}, for a port of the Service";
            check.advise(before, help);
            None
        }
    }
}

fn tls(spec: &object::IngressSpec<'_>, at: &At<'_>, check: &mut Check<'_>) -> Vec<IngressTls> {
    let list = at.key("tls");
    let objects = spec.tls.iter().flatten().enumerate();
    objects
        .filter_map(|(i, object)| {
            check.entry(|check| tls_entry(object, &list.index(i), check)).flatten()
        })
        .collect()
}

/// An entry under `tls`. An entry without any valid host is dropped, because an entry without hosts
/// means all hosts.
fn tls_entry(
    object: &object::IngressTls<'_>,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> Option<IngressTls> {
    let list = at.key("hosts");
    let given = object.hosts.as_deref().unwrap_or_default();
    let mut hosts = Vec::with_capacity(given.len());
    for (i, host) in given.iter().enumerate() {
        hosts.extend(check.entry(|check| host_name(host, list.index(i), check)).flatten());
    }
    let secret_name = check.optional(object.secret_name.as_ref());
    if let Some(name) = &secret_name {
        check.expect(at.key("secretName"), name, format::dns_subdomain);
    }
    if hosts.is_empty() && !given.is_empty() {
        return None;
    }
    Some(IngressTls { hosts, secret_name })
}

pub fn ingress_class(object: &object::IngressClass<'_>, check: &mut Check<'_>) -> Option<Record> {
    let kind = Kind::IngressClass;
    let name = check.name(object.metadata.as_ref(), kind, format::dns_subdomain);
    let controller = object.spec.as_ref().and_then(|spec| spec.controller.as_deref());
    let at = ROOT.key("spec");
    match controller {
        None | Some("") => check.required(at.key("controller"), ""),
        Some(controller) if !controller.contains('/') => {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            check.invalid(at.key("controller"), controller, why);
        }
        Some(_) => {}
    }
    portable::controller(controller.unwrap_or_default(), check);
    if let Some(reference) = object.spec.as_ref().and_then(|spec| spec.parameters.as_ref()) {
        portable::parameters(reference, check);
    }
    let annotations = object.metadata.as_ref().and_then(|meta| meta.annotations.as_ref());
    let is_default =
        annotations.and_then(|map| map.value(DEFAULT_CLASS_ANNOTATION)) == Some("true");
    let controller = check.text(controller.unwrap_or_default());
    let class = Arc::new(IngressClass { name, controller, is_default });
    accept(check, || Record::IngressClass(class))
}
