//! Why a URL is answered as it is: by the snapshot that requests are routed with.

use std::net::Ipv4Addr;
use std::sync::Arc;

use daemon::Failure;
use feed::Update;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use model::problem::Level;
use model::{Explanation, Model, ObjectName, SlicePort, Trouble, fix_of_slices, nearest};

use crate::endpoint_tls::EndpointTls;
use crate::head::Framing;
use crate::origin::{Origin, Rules};
use crate::refusal::Refusal;
use crate::request::decide::{Decision, Facts, Forwarding, decide, forwarding};
use crate::route::{HostKey, PathTable, host_of, normalise};
use crate::snapshot::{
    About, Backend, BackendKey, Canary, ClientRules, Compiler, HostRoutes, PlanDefaults, Problem,
    RefusedBy, Route, Snapshot, Special, Unserved, VerifyClient,
};
use crate::template::AddsText;
use crate::tls;
use crate::wire::BackendProtocol;

/// Explains URLs by what an ingress would serve of a model.
#[derive(Debug)]
pub struct Explainer<'a> {
    model: &'a Model,
    compiler: Compiler,
    snapshot: Snapshot,
    /// All of the snapshot's, in order.
    routes: Vec<(HostKey, Arc<HostRoutes>)>,
    problems: Vec<Problem>,
}

impl<'a> Explainer<'a> {
    /// For an ingress of that `--ingress-class`.
    ///
    /// # Errors
    ///
    /// When cryptography is not to be had, as for the process itself.
    pub fn new(update: &'a Update, class: &str) -> Result<Explainer<'a>, Failure> {
        let provider = tls::provider();
        let self_signed = tls::self_signed(&provider)?;
        let mut compiler = Compiler::new(class, provider, self_signed, PlanDefaults::default());
        let compiled = compiler.update(&update.model, &update.changes, update.generation);
        compiled.removal.apply();
        let mut snapshot = compiled.snapshot;
        snapshot.synced = true;
        let (routes, problems) = (snapshot.routes(), compiler.problems());
        Ok(Explainer { model: &update.model, compiler, snapshot, routes, problems })
    }

    /// The explanation of a request for an absolute URL.
    pub fn explain(&self, url: &Uri) -> Explanation {
        let target = url.to_string();
        let authority = url.authority().map_or("", |authority| authority.as_str());
        let (Ok(host), Ok(path)) = (host_of(authority), normalise(url.path())) else {
            let cause = "host or path has no single meaning";
            return Explanation::of_trouble(&target, "400", cause, "write it without escapes");
        };
        let is_https = url.scheme_str() == Some("https");
        let asked = Asked { all: self, target: &target, host: &host, path: &path, is_https };
        let headers = HeaderMap::new();
        // Of a client that nothing is known of.
        let origin = Origin::new(Ipv4Addr::UNSPECIFIED.into(), is_https, 0, &[]);
        let rules = Rules::default();
        let facts = Facts {
            method: &Method::GET,
            version: Version::HTTP_11,
            authority,
            uri: url,
            path: &path,
            headers: &headers,
            is_https,
            server_name: None,
            certificate: None,
            framing: Framing::None,
            origin: &origin,
            rules: &rules,
            request_id: AddsText(&|_| {}),
            is_imagined: true,
            turn: |_| false,
        };
        match decide(&self.snapshot, &facts) {
            Decision::Forward { route, .. } => {
                let mut explanation = asked.routed(route, None);
                if let Some(special) = &route.plan.special {
                    let forwarding = forwarding(special, route, &facts);
                    explanation.because.extend(changes(&forwarding));
                    explanation.because.extend(conditions(special));
                }
                explanation.because.extend(route.canary.as_deref().map(canary));
                explanation
            }
            Decision::Answer { refusal, route: Some(route) } => asked.routed(route, Some(&refusal)),
            Decision::Answer { route: None, .. } => asked.unrouted(),
        }
    }
}

/// What endpoints are asked over, if not plain HTTP/1.1, and what is expected of them.
fn asked_over(protocol: BackendProtocol, tls: Option<&EndpointTls>) -> Option<String> {
    let mut text = format!("endpoints are asked over {}", protocol.title()?);
    if protocol.uses_tls() {
        text.push_str(match tls.is_some_and(|tls| tls.spec.verifies) {
            true => "; their certificates are verified",
            false => "; their certificates are not verified",
        });
    }
    Some(text)
}

/// A request, with what it is looked up in.
struct Asked<'a> {
    all: &'a Explainer<'a>,
    target: &'a str,
    host: &'a str,
    path: &'a str,
    is_https: bool,
}

impl Asked<'_> {
    /// For a request that a route forwards, or answers because of `refusal`.
    fn routed(&self, route: &Arc<Route>, refusal: Option<&Refusal>) -> Explanation {
        let mut explanation = Explanation {
            target: self.target.to_owned(),
            to: Some(format!("Service {}", route.backend.key)),
            because: vec![self.rule(route)],
            lost: self.lost(route),
            service: Some(route.backend.key.service.clone()),
            answer: "forwarded".to_owned(),
            ..Explanation::default()
        };
        if let Some(refusal) = refusal {
            explanation.answer = refusal.status().as_str().to_owned();
        }
        match refusal {
            Some(Refusal::Redirect { location, .. }) => {
                explanation.because.push(redirected(route, location));
                return explanation;
            }
            Some(Refusal::Annotation(by)) => {
                explanation.trouble = Some(refused_by(*by, &route.ingress));
                return explanation;
            }
            Some(Refusal::NoEndpoint(unserved)) => {
                explanation.trouble = Some(self.unserved(route, *unserved));
            }
            _ => {}
        }
        let endpoints = route.backend.endpoints();
        let list = endpoints.addresses().into_iter().map(|address| address.to_string());
        explanation.endpoints = list.collect();
        let of_service = endpoints.list().first().map(|e| e.protocol).unwrap_or_default();
        let protocol = route.plan.protocol.unwrap_or(of_service);
        explanation.because.extend(asked_over(protocol, route.plan.endpoint_tls.as_deref()));
        if self.is_https {
            let (because, trouble) = self.certificate(route);
            explanation.because.push(because);
            explanation.trouble = explanation.trouble.or(trouble);
        }
        explanation
    }

    fn unserved(&self, route: &Route, unserved: Unserved) -> Trouble {
        let Backend { key, .. } = &*route.backend;
        let (service, ingress) = (&key.service, &route.ingress);
        let mut reason = unserved.reason();
        let ports = || {
            let entry = self.all.model.service(service);
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
            Unserved::NoEndpoints => {
                let (more, fix) = no_endpoints(self.all.model, key);
                reason = more.unwrap_or(reason);
                fix
            }
        };
        Trouble { cause: format!("{reason}: backend {key} of Ingress {ingress}"), fix }
    }

    /// A Service in the namespace whose name is like that one.
    fn like(&self, service: &ObjectName) -> Option<String> {
        let names: Vec<_> =
            self.all.model.services().map(|entry| entry.service.name.clone()).collect();
        let there = names.iter().filter(|name| name.namespace == service.namespace);
        nearest(&service.name, there.map(|name| &*name.name)).map(str::to_owned)
    }

    fn unrouted(&self) -> Explanation {
        let routes = &self.all.routes;
        let of = |key: &HostKey| {
            let found = routes.iter().find(|(host, _)| host == key);
            found.map(|(_, routes)| paths(routes)).unwrap_or_default()
        };
        let trouble =
            |cause: String, fix: String| Explanation::of_trouble(self.target, "404", cause, fix);
        let keys = routes.iter().map(|(host, _)| host).filter(|host| **host != HostKey::Any);
        if let Some(host) = keys.clone().find(|host| is_for(self.host, host)) {
            let cause = format!("no rule of host {host} matches path {}", self.path);
            let fix = format!("add the path, or use an existing one: {}", of(host));
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
    fn of_another_class(&self) -> Option<&Arc<model::Ingress>> {
        let names_host = |ingress: &&Arc<model::Ingress>| {
            let mut rules = ingress.rules.iter();
            rules.any(|rule| is_for(self.host, &HostKey::of(rule.host.as_ref())))
        };
        let mut others = self
            .all
            .model
            .ingresses()
            .filter(|ingress| !self.all.compiler.is_ours(ingress, self.all.model));
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

    fn host_of(&self, route: &Route) -> &HostKey {
        let has = |of_host: &HostRoutes| of_host.routes().iter().any(|r| std::ptr::eq(&**r, route));
        // A route that holds for the request is one of a host that does.
        let mut routes = self.all.routes.iter().filter(|(host, _)| is_for(self.host, host));
        routes.find(|(_, of_host)| has(of_host)).map_or(&HostKey::Any, |(host, _)| host)
    }

    /// Other rules that match the request, and what of an Ingress was not taken at all.
    fn lost(&self, winner: &Arc<Route>) -> Vec<String> {
        let own = self.host_of(winner);
        let mut lost = Vec::new();
        for (host, routes) in &self.all.routes {
            if !is_for(self.host, host) {
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
        let is_lost = |problem: &&Problem| match &problem.about {
            About::Host(host) => host == own,
            // Of the winner's own Ingress that is the trouble itself.
            About::All => {
                problem.level == Level::Error
                    && problem.object != winner.ingress
                    && self.names_host(&problem.object)
            }
            About::Certificate(_) | About::Endpoints => false,
        };
        let of_host = self.all.problems.iter().filter(is_lost);
        lost.extend(of_host.map(|p| format!("Ingress {}: {}", p.object, p.message)));
        lost
    }

    /// Whether an Ingress has rules for the request's host.
    fn names_host(&self, ingress: &ObjectName) -> bool {
        self.all.model.ingress(ingress).is_some_and(|ingress| {
            let mut rules = ingress.rules.iter();
            rules.any(|rule| is_for(self.host, &HostKey::of(rule.host.as_ref())))
        })
    }

    /// The certificate that is shown, and what is wrong with it.
    fn certificate(&self, route: &Route) -> (String, Option<Trouble>) {
        let certificate = self.all.snapshot.certificate(Some(self.host));
        let because = match &certificate.secret {
            Some(secret) => {
                format!("certificate of Secret {secret}, for {}", certificate.names.join(", "))
            }
            None => "a self-signed certificate is shown".to_owned(),
        };
        // An Ingress whose TLS is for the host, and what became of its Secret.
        let wanted = self.all.problems.iter().find_map(|problem| {
            let About::Certificate(host) = &problem.about else { return None };
            let (_, what) = problem.message.split_once(": ")?;
            is_for(self.host, host).then_some((problem, what))
        });
        let host = self.host;
        let trouble = match (wanted, &certificate.secret) {
            (Some((problem, what)), _) => Some(Trouble {
                cause: format!("{what}: Ingress {} names it for {host}", problem.object),
                fix: format!(
                    "write a Secret of type kubernetes.io/tls with tls.crt for {host}, and tls.key"
                ),
            }),
            (None, None) => Some(Trouble {
                cause: format!(
                    "no Ingress names a Secret for {host}: clients see a self-signed \
                                certificate"
                ),
                fix: format!(
                    "add tls: [{{hosts: [{host}], secretName: NAME}}] to the spec of Ingress {}",
                    route.ingress
                ),
            }),
            (None, Some(_)) => None,
        };
        (because, trouble)
    }
}

/// Why a route answers with a redirect.
fn redirected(route: &Route, location: &HeaderValue) -> String {
    let special = route.plan.special.as_deref();
    let by = match special.map(|special| (&special.redirect, &special.rewrite)) {
        Some((Some(redirect), _)) => redirect.by,
        Some((None, Some(target))) if target.start().starts_with("http") => "rewrite-target",
        _ if special.is_some_and(|special| special.client.is_some())
            && route.plan.https_redirect.is_none() =>
        {
            return "plain HTTP is redirected, because clients need a certificate".to_owned();
        }
        _ => return format!("plain HTTP is redirected: Ingress {} asks for it", route.ingress),
    };
    let location = location.to_str().unwrap_or_default();
    format!("annotation {by} of Ingress {} redirects to {location}", route.ingress)
}

/// Which requests a route lets in.
fn conditions(special: &Special) -> Vec<String> {
    let mut conditions = Vec::new();
    if special.deny.is_some() {
        conditions.push("clients of denylist-source-range get 403".to_owned());
    }
    if special.allow.is_some() {
        conditions.push("clients that are not in allowlist-source-range get 403".to_owned());
    }
    conditions.extend(special.client.as_deref().map(of_clients));
    if let Some(limits) = &special.limits {
        conditions.push(format!("a client may send {}, others get 503", limits.words));
    }
    if let Some(basic) = &special.basic {
        let secret = &basic.credentials.secret.name;
        conditions.push(format!("requests without a password of Secret {secret} get 401"));
    }
    if special.any {
        conditions.push("an address or a password is enough (satisfy: any)".to_owned());
    }
    conditions
}

/// Which certificates clients are to have.
fn of_clients(rules: &ClientRules) -> String {
    let secret = rules.authority.secret();
    let words = match rules.verify {
        VerifyClient::Off => "clients are not asked for a certificate".to_owned(),
        VerifyClient::On => {
            format!("clients without a certificate of Secret {secret} get 400")
        }
        VerifyClient::Optional => format!(
            "clients are asked for a certificate of Secret {secret}; those with another one get 400"
        ),
        VerifyClient::OptionalNoCa => {
            format!("clients are asked for a certificate; endpoints decide (Secret {secret})")
        }
    };
    match &rules.subject {
        Some(pattern) => {
            format!("{words}; those whose subject does not match {} get 403", pattern.as_str())
        }
        None => words,
    }
}

/// What a route changes of a request that it forwards.
fn changes(forwarding: &Forwarding) -> Vec<String> {
    let mut changes = Vec::new();
    if let Some(path) = &forwarding.path {
        changes.push(format!("the path is rewritten to {path}"));
    }
    if let Some(host) = &forwarding.edits.host {
        changes.push(format!("endpoints get Host {host}"));
    }
    for (name, value) in &forwarding.edits.added {
        changes.push(format!("endpoints get {name}: {}", value.to_str().unwrap_or_default()));
    }
    changes
}

/// What a canary takes of a route's requests.
fn canary(canary: &Canary) -> String {
    let Canary { rules, route, .. } = canary;
    let what = rules.words();
    let mut words = format!(
        "Ingress {} is a canary of it: Service {} gets requests with {what}",
        route.ingress, route.backend.key
    );
    match route.backend.endpoints().unserved() {
        Some(unserved) => {
            words.push_str(&format!("; now it gets none, because {}", unserved.reason()));
        }
        None => words.push_str("; this request has none of these, and goes to the main Ingress"),
    }
    words
}

fn refused_by(by: RefusedBy, ingress: &ObjectName) -> Trouble {
    let RefusedBy { name, why } = by;
    Trouble {
        cause: format!("annotation {name} of Ingress {ingress} {}", why.words()),
        fix: why.help().to_owned(),
    }
}

/// Why a Service has no ready endpoint on a port: a cause that says more, and what to do.
fn no_endpoints(model: &Model, key: &BackendKey) -> (Option<&'static str>, String) {
    let entry = model.service(&key.service);
    let found = entry.as_ref().and_then(|entry| Some((entry, entry.service.port(&key.port)?)));
    let Some((entry, port)) = found else { return (None, "create the Service".to_owned()) };
    let fits = |p: &SlicePort| p.name == port.name && p.protocol == port.protocol;
    let slices = entry.slices.iter().filter(|slice| slice.ports.iter().any(fits));
    match slices.map(|slice| slice.endpoints.len()).sum::<usize>() {
        0 => {
            let none = entry.slices.iter().all(|slice| slice.endpoints.is_empty());
            let cause = (!none).then_some("the Service has no endpoint on this port");
            (cause, fix_of_slices(entry, &port.name, port.protocol, ""))
        }
        1 => (None, "make its endpoint ready; see its conditions".to_owned()),
        count => (None, format!("make one of its {count} endpoints ready; see their conditions")),
    }
}

/// Whether rules of a host hold for a request's host.
fn is_for(host: &str, key: &HostKey) -> bool {
    HostKey::Exact(host.into()).is_within(key)
}

/// Whether a route by itself would match the path.
fn matches(route: &Route, path: &str) -> bool {
    let Some((path_type, pattern)) = &route.path else { return true };
    if let Some(pattern) = &route.pattern {
        return pattern.is_match(path);
    }
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
