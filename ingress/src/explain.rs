//! Why a URL is answered as it is: by the snapshot that requests are routed with.

use std::sync::Arc;

use daemon::Failure;
use feed::{Explanation, Model, ObjectName, Trouble, Update, nearest};
use http::Uri;

use crate::route::{HostKey, PathTable, host_of, normalise};
use crate::snapshot::{Backend, Compiler, HostRoutes, Route, Snapshot, Unserved};
use crate::tls;

/// The explanation of a request for an absolute URL.
///
/// # Errors
///
/// When cryptography is not to be had, as for the process itself.
pub fn explain(update: &Update, class: &str, url: &Uri) -> Result<Explanation, Failure> {
    let provider = tls::provider();
    let self_signed = tls::self_signed(&provider)?;
    let mut compiler = Compiler::new(class, provider, self_signed);
    let snapshot = compiler.update(&update.model, &update.changes, update.generation).snapshot;
    let target = url.to_string();
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let (Ok(host), Ok(path)) = (host_of(authority), normalise(url.path())) else {
        let cause = "host or path has no single meaning";
        return Ok(Explanation::of_trouble(&target, "400", cause, "write it without escapes"));
    };
    let asked = Asked {
        model: &update.model,
        compiler: &compiler,
        snapshot: &snapshot,
        target: &target,
        host: &host,
        path: &path,
        is_https: url.scheme_str() == Some("https"),
    };
    Ok(match snapshot.route(&host, &path) {
        Some(route) => asked.routed(route),
        None => asked.unrouted(),
    })
}

/// A request, with what it is looked up in.
struct Asked<'a> {
    model: &'a Model,
    compiler: &'a Compiler,
    snapshot: &'a Snapshot,
    target: &'a str,
    host: &'a str,
    path: &'a str,
    is_https: bool,
}

impl Asked<'_> {
    fn routed(&self, route: &Arc<Route>) -> Explanation {
        let mut explanation = Explanation {
            target: self.target.to_owned(),
            to: Some(format!("Service {}", route.backend.key)),
            because: vec![self.rule(route)],
            lost: self.lost(route),
            ..Explanation::default()
        };
        if self.is_https {
            explanation.because.push(self.certificate());
        }
        if route.redirect && !self.is_https {
            explanation.answer = "308".to_owned();
            explanation
                .because
                .push(format!("plain HTTP is redirected: Ingress {} asks for it", route.ingress));
            return explanation;
        }
        if let Some(annotation) = route.policy.refused {
            explanation.answer = "503".to_owned();
            explanation.trouble = Some(Trouble {
                cause: format!(
                    "Ingress {} restricts access by annotation {annotation}, which is not \
                     supported",
                    route.ingress
                ),
                fix: "remove the annotation, or restrict access before this ingress".to_owned(),
            });
            return explanation;
        }
        let endpoints = route.backend.endpoints();
        let list = endpoints.list().iter().map(|endpoint| endpoint.address.to_string());
        explanation.endpoints = list.collect();
        explanation.answer = "forwarded".to_owned();
        if let Some(unserved) = endpoints.unserved() {
            explanation.answer = "503".to_owned();
            explanation.trouble = Some(self.unserved(route, unserved));
        }
        explanation
    }

    fn unserved(&self, route: &Route, unserved: Unserved) -> Trouble {
        let Backend { key, .. } = &*route.backend;
        let (service, ingress) = (&key.service, &route.ingress);
        let cause = format!("{}: backend {key} of Ingress {ingress}", unserved.reason());
        let ports = || {
            let entry = self.model.service(service);
            let ports = entry.iter().flat_map(|entry| entry.service.ports.iter());
            let names = ports.map(|port| match port.name.is_empty() {
                true => port.port.to_string(),
                false => format!("{} ({})", port.name, port.port),
            });
            names.collect::<Vec<_>>().join(", ")
        };
        let fix = match unserved {
            Unserved::NoService => match self.like(service) {
                Some(name) => format!("create Service {service}, or name {name} in the Ingress"),
                None => format!("create Service {service} in the Ingress's namespace"),
            },
            Unserved::NoPort => format!("use a port that Service {service} has: {}", ports()),
            Unserved::NotTcp => format!("use a TCP port of Service {service}: {}", ports()),
            Unserved::ExternalName => {
                format!("give Service {service} a FQDN EndpointSlice instead of an externalName")
            }
            Unserved::NoEndpoints => no_endpoints(self.model, service),
        };
        Trouble { cause, fix }
    }

    /// A Service in the namespace whose name is like that one.
    fn like(&self, service: &ObjectName) -> Option<String> {
        let names: Vec<_> = self.model.services().map(|entry| entry.service.name.clone()).collect();
        let there = names.iter().filter(|name| name.namespace == service.namespace);
        nearest(&service.name, there.map(|name| &*name.name)).map(str::to_owned)
    }

    fn unrouted(&self) -> Explanation {
        let routes = self.snapshot.routes();
        let of = |key: &HostKey| {
            let found = routes.iter().find(|(host, _)| host == key);
            found.map(|(_, routes)| paths(routes)).unwrap_or_default()
        };
        let trouble =
            |cause: String, fix: String| Explanation::of_trouble(self.target, "404", cause, fix);
        let keys = routes.iter().map(|(host, _)| host).filter(|host| **host != HostKey::Any);
        if let Some(host) = keys.clone().find(|host| is_for(self.host, host)) {
            let cause = format!("no rule of host {host} matches path {}", self.path);
            let fix = format!("add the path, or use one that there is: {}", of(host));
            return trouble(cause, fix);
        }
        if let Some(ingress) = self.of_another_class() {
            let class = ingress.class.as_deref().unwrap_or("the default of another controller");
            let cause = format!("Ingress {} has the host, but its class is {class}", ingress.name);
            let fix = "set its spec.ingressClassName to switchyard, or give --ingress-class";
            return trouble(cause, fix.to_owned());
        }
        let hosts: Vec<_> = keys.map(ToString::to_string).collect();
        let cause = format!("no Ingress has a rule for host {}", self.host);
        let fix = match nearest(self.host, hosts.iter().map(String::as_str)) {
            Some(host) => format!("add a rule for it to an Ingress, or use {host}"),
            None if hosts.is_empty() => "write an Ingress with a rule for it".to_owned(),
            None => format!("add a rule for it to an Ingress; there are: {}", some(&hosts)),
        };
        trouble(cause, fix)
    }

    /// An Ingress that would serve the host if it were ours.
    fn of_another_class(&self) -> Option<&Arc<feed::Ingress>> {
        let names_host = |ingress: &&Arc<feed::Ingress>| {
            let mut rules = ingress.rules.iter();
            rules.any(|rule| is_for(self.host, &HostKey::of(rule.host.as_ref())))
        };
        let mut others =
            self.model.ingresses().filter(|ingress| !self.compiler.is_ours(ingress, self.model));
        others.find(names_host)
    }

    /// The rule that a route comes from.
    fn rule(&self, route: &Route) -> String {
        let host = self.host_of(route);
        match &route.path {
            Some((path_type, path)) => {
                format!("Ingress {}: host {host}, {path_type:?} {path}", route.ingress)
            }
            None => format!("Ingress {}: default backend of host {host}", route.ingress),
        }
    }

    fn host_of(&self, route: &Route) -> HostKey {
        let routes = self.snapshot.routes();
        let has = |of_host: &HostRoutes| of_host.routes().iter().any(|r| std::ptr::eq(&**r, route));
        let found = routes.into_iter().find(|(_, of_host)| has(of_host));
        found.map_or(HostKey::Any, |(host, _)| host)
    }

    /// Other rules that match the request, and what of an Ingress was not taken at all.
    fn lost(&self, winner: &Arc<Route>) -> Vec<String> {
        let own = self.host_of(winner);
        let mut lost = Vec::new();
        for (host, routes) in self.snapshot.routes() {
            if !is_for(self.host, &host) {
                continue;
            }
            for route in routes.routes() {
                if Arc::ptr_eq(route, winner) || !matches(route, self.path) {
                    continue;
                }
                let why = match (&route.path, host == own) {
                    (None, _) => "a default backend comes after all paths",
                    (Some(_), true) => "its path is less exact",
                    (Some(_), false) => "its host is less exact",
                };
                lost.push(format!("{}: {why}", self.rule(route)));
            }
        }
        let problems = self.compiler.problems().into_iter();
        let of_host = problems.filter(|p| p.problem.starts_with(&format!("host {own}")));
        lost.extend(of_host.map(|p| format!("Ingress {}: {}", p.ingress, p.problem)));
        lost
    }

    fn certificate(&self) -> String {
        let certificate = self.snapshot.certificate(Some(self.host));
        match &certificate.secret {
            Some(secret) => {
                format!("certificate of Secret {secret}, for {}", certificate.names.join(", "))
            }
            None => "no Secret has a certificate for the host: a self-signed one is shown".into(),
        }
    }
}

/// Why a Service has no ready endpoint, as what to do.
fn no_endpoints(model: &Model, service: &ObjectName) -> String {
    let entry = model.service(service);
    let count = entry.map_or(0, |entry| entry.slices.iter().map(|s| s.endpoints.len()).sum());
    match count {
        0 => format!(
            "write an EndpointSlice with label kubernetes.io/service-name: {}, or Pods that the \
             Service selects",
            service.name
        ),
        count => format!("make one of its {count} endpoints ready; see their conditions"),
    }
}

/// Whether rules of a host hold for a request's host.
fn is_for(host: &str, key: &HostKey) -> bool {
    HostKey::Exact(host.into()).is_within(key)
}

/// Whether a route by itself would match the path.
fn matches(route: &Route, path: &str) -> bool {
    let Some((path_type, pattern)) = &route.path else { return true };
    let mut table = PathTable::new();
    table.add(pattern, *path_type, ()).is_ok() && table.find(path).is_some()
}

fn paths(routes: &HostRoutes) -> String {
    let paths = routes.routes().iter().filter_map(|route| route.path.as_ref());
    some(&paths.map(|(path_type, path)| format!("{path_type:?} {path}")).collect::<Vec<_>>())
}

/// The first few of a list, as words.
fn some(list: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = if list.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", list[..list.len().min(SHOWN)].join(", "))
}
