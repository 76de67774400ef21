//! What `/snapshot` and `/status` show of the ingress. No key material: certificates by name.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use model::problem::Level;
use serde_json::{Value, json};

use crate::findings::unix_now;
use crate::route::HostKey;
use crate::snapshot::{Backend, Certificate, Compiler, Problem, Route, Snapshot};

/// Hosts with their paths, backends with their endpoints, and certificates.
pub(crate) fn snapshot(snapshot: &Snapshot) -> Value {
    let hosts = snapshot.routes().into_iter().map(|(host, routes)| {
        let paths: Vec<_> = routes.routes().iter().map(|r| route(r)).collect();
        json!({ "host": host.to_string(), "paths": paths })
    });
    let certificates = snapshot.certificates();
    json!({
        "generation": snapshot.generation,
        "hosts": hosts.collect::<Vec<_>>(),
        "backends": backends(snapshot),
        "certificates": certificates.iter().map(|(h, c)| certificate(h, c)).collect::<Vec<_>>(),
    })
}

fn route(route: &Route) -> Value {
    let path = route.path.as_ref();
    json!({
        "type": path.map_or("Default".to_owned(), |(path_type, _)| format!("{path_type:?}")),
        "path": path.map(|(_, path)| &**path),
        "ingress": route.ingress.to_string(),
        "backend": route.backend.key.to_string(),
        "canary": route.canary.as_ref().map(|canary| canary.route.backend.key.to_string()),
        "redirectToHttps": route.plan.https_redirect.is_some(),
    })
}

fn backends(snapshot: &Snapshot) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let mut backends = Vec::new();
    for (_, routes) in snapshot.routes() {
        for route in routes.routes() {
            let canary = route.canary.iter().map(|canary| &canary.route.backend);
            for of_route in std::iter::once(&route.backend).chain(canary) {
                let name = of_route.key.to_string();
                if seen.insert(name.clone()) {
                    backends.push(backend(&name, of_route));
                }
            }
        }
    }
    backends
}

fn backend(name: &str, backend: &Backend) -> Value {
    let endpoints = backend.endpoints();
    let addresses: Vec<_> = endpoints.addresses().iter().map(ToString::to_string).collect();
    let unhealthy = endpoints.list().iter().filter(|endpoint| !endpoint.is_healthy());
    let unhealthy: Vec<_> = unhealthy.map(|endpoint| endpoint.address.to_string()).collect();
    json!({
        "backend": name,
        "endpoints": addresses,
        "unhealthy": unhealthy,
        "unserved": endpoints.unserved().map(|unserved| unserved.reason()),
    })
}

fn certificate(host: &HostKey, certificate: &Certificate) -> Value {
    json!({
        "host": host.to_string(),
        "secret": certificate.secret.as_ref().map(ToString::to_string),
        "names": certificate.names,
        "notAfterUnix": certificate.not_after_unix,
    })
}

/// The listeners, and everything that an operator should know of an object: problems, which keep
/// something from being served, apart from warnings and notes.
pub(crate) fn status(compiler: &Compiler, http: SocketAddr, https: SocketAddr) -> Value {
    let mut all = compiler.problems();
    all.extend(compiler.certificates_out_of_date(unix_now()));
    let at = |level: Level| -> Vec<_> {
        all.iter().filter(|problem| problem.level == level).map(problem).collect()
    };
    json!({
        "listeners": { "http": http.to_string(), "https": https.to_string() },
        "ingresses": compiler.served(),
        "problems": at(Level::Error),
        "warnings": at(Level::Warning),
        "notes": at(Level::Note),
    })
}

fn problem(problem: &Problem) -> Value {
    json!({
        "kind": problem.kind.as_str(),
        "object": problem.object.to_string(),
        "field": problem.field.to_string(),
        "message": problem.message,
        "help": problem.help,
    })
}
