//! From the model to the next snapshot, by what changed.
//!
//! An Ingress that changes rebuilds the hosts that it names or named; a Service or its endpoints
//! refresh the cells of the backends that name it; a Secret replaces the certificates of the
//! hosts that use it. Nothing else is looked at.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use model::problem::Level;
use model::{
    BackendPort, Changes, Ingress, IngressBackend, IngressPath, IngressRule, Kind, Model,
    ObjectName, PathType,
};
use rustls::crypto::CryptoProvider;

use super::backend::{Answers, Backend, BackendKey, ServicePorts, Unserved, app_protocols};
use super::certificate::{self, BadSecret, Certificate};
use super::policy::{Policy, Redirect, Unmet};
use super::problem::{About, Field, Problem};
use super::{HostRoutes, Route, Snapshot};
use crate::route::{HostKey, NotAdded, PathTable};

/// `spec.controller` of the IngressClasses that are ours whatever their name.
pub(crate) const CONTROLLER: &str = "switchyard.dev/ingress";

/// What an update led to.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) snapshot: Snapshot,
    /// Endpoints left: connections that are kept for them are to be closed.
    pub(crate) endpoints_left: bool,
    /// Problems that were not there before, but for those of endpoints, which come and go.
    pub(crate) news: Vec<Problem>,
}

/// Makes snapshots; holds what the next one is made from.
#[derive(Debug)]
pub(crate) struct Compiler {
    class: Arc<str>,
    provider: Arc<CryptoProvider>,
    snapshot: Snapshot,
    served: HashMap<ObjectName, Served>,
    /// Ingresses that have something to say of a host, in the order in which they win.
    by_host: HashMap<HostKey, BTreeSet<Rank>>,
    by_tls_host: HashMap<HostKey, BTreeSet<Rank>>,
    services: HashMap<ObjectName, ServiceUse>,
    secrets: HashMap<ObjectName, SecretUse>,
    /// Problems that come from several Ingresses meeting at one host.
    conflicts: HashMap<HostKey, Vec<Problem>>,
    tls_problems: HashMap<HostKey, Vec<Problem>>,
}

/// The oldest Ingress wins, then the first by namespace and name; one without a creation time
/// is as young as can be.
type Rank = (i64, ObjectName);

/// An Ingress of our class.
#[derive(Debug)]
struct Served {
    ingress: Arc<Ingress>,
    policy: Arc<Policy>,
    problems: Vec<Problem>,
    rank: Rank,
    hosts: BTreeSet<HostKey>,
    tls: Vec<TlsUse>,
}

/// A host and Secret of an Ingress's TLS entry.
#[derive(Debug)]
struct TlsUse {
    host: HostKey,
    secret: ObjectName,
    /// The entry, `spec.tls[0]`.
    field: String,
}

/// A Service that backends name.
#[derive(Debug, Default)]
struct ServiceUse {
    answers: Arc<Answers>,
    ports: ServicePorts,
    backends: Vec<(Arc<Backend>, usize)>,
    problems: Vec<Problem>,
}

/// A Secret that TLS entries name.
#[derive(Debug)]
struct SecretUse {
    certificate: Result<Arc<Certificate>, BadSecret>,
    /// One for each TLS entry of an Ingress that names it.
    users: Vec<HostKey>,
}

/// What an update touched.
#[derive(Debug, Default)]
struct Touched {
    hosts: BTreeSet<HostKey>,
    tls_hosts: BTreeSet<HostKey>,
    services: BTreeSet<ObjectName>,
    endpoints_left: bool,
    news: Vec<Problem>,
}

impl Touched {
    /// Notes those problems that were not there before.
    fn note(&mut self, before: &[Problem], now: &[Problem]) {
        self.news.extend(now.iter().filter(|problem| !before.contains(problem)).cloned());
    }
}

impl Compiler {
    pub(crate) fn new(
        class: &str,
        provider: Arc<CryptoProvider>,
        self_signed: Arc<Certificate>,
    ) -> Compiler {
        Compiler {
            class: class.into(),
            provider,
            snapshot: Snapshot::new(self_signed),
            served: HashMap::new(),
            by_host: HashMap::new(),
            by_tls_host: HashMap::new(),
            services: HashMap::new(),
            secrets: HashMap::new(),
            conflicts: HashMap::new(),
            tls_problems: HashMap::new(),
        }
    }

    /// The snapshot of `model`, of which `changes` since the last update are known.
    pub(crate) fn update(&mut self, model: &Model, changes: &Changes, generation: u64) -> Compiled {
        let mut touched = Touched::default();
        // Classes decide whose an Ingress is; they hardly ever change.
        let reclassify = !changes.ingress_classes.is_empty();
        let mut names = changes.ingresses.clone();
        if reclassify {
            names.extend(model.ingresses().map(|ingress| ingress.name.clone()));
        }
        for name in &names {
            self.replace_ingress(name, model, &mut touched);
        }
        touched.services.extend(changes.services.iter().cloned());
        for name in std::mem::take(&mut touched.services) {
            self.refresh_service(&name, model, &mut touched);
        }
        for name in &changes.secrets {
            self.refresh_secret(name, model, &mut touched);
        }
        for host in std::mem::take(&mut touched.hosts) {
            self.rebuild_host(&host, &mut touched);
        }
        for host in std::mem::take(&mut touched.tls_hosts) {
            self.rebuild_certificate(&host, &mut touched);
        }
        self.snapshot.generation = generation;
        let Touched { endpoints_left, news, .. } = touched;
        Compiled { snapshot: self.snapshot.clone(), endpoints_left, news }
    }

    /// The number of Ingresses that are served.
    pub(crate) fn served(&self) -> usize {
        self.served.len()
    }

    /// Everything that an operator should know, ordered by object. Costs O(all Ingresses): for
    /// pages, not for updates.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        for (name, served) in &self.served {
            problems.extend(served.problems.iter().cloned());
            for (field, backend) in served.backends() {
                problems.extend(self.unserved(
                    name,
                    &field,
                    &backend_key(&served.ingress, backend),
                ));
            }
        }
        problems.extend(self.services.values().flat_map(|service| &service.problems).cloned());
        problems.extend(self.conflicts.values().flatten().cloned());
        problems.extend(self.tls_problems.values().flatten().cloned());
        problems.sort_by(|a, b| a.order().cmp(&b.order()));
        problems.dedup();
        problems
    }

    /// The certificates that are shown although their time has not come or is over.
    pub(crate) fn certificates_out_of_date(&self, now_unix: i64) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        for (name, served) in &self.served {
            for tls in &served.tls {
                let secret = self.secrets.get(&tls.secret);
                let certificate = secret.and_then(|secret| secret.certificate.as_ref().ok());
                problems.extend(certificate.and_then(|c| tls.out_of_date(name, c, now_unix)));
            }
        }
        problems.sort_by(|a, b| a.order().cmp(&b.order()));
        problems
    }

    /// Why a backend answers 503, if it does.
    fn unserved(&self, ingress: &ObjectName, field: &str, key: &BackendKey) -> Option<Problem> {
        let unserved = self.backend(key)?.endpoints().unserved()?;
        let message = format!("backend {key}: {}", unserved.reason());
        let (below, help) = match (unserved, &key.port) {
            (Unserved::NoService, _) => {
                ("service.name", "an Ingress leads to Services of its own namespace")
            }
            (Unserved::ExternalName, _) => {
                ("service.name", "give the Service an EndpointSlice with addressType: FQDN")
            }
            (Unserved::NoEndpoints, _) => ("service.name", "see the Service"),
            (_, BackendPort::Number(_)) => ("service.port.number", "see spec.ports of the Service"),
            (_, BackendPort::Name(_)) => ("service.port.name", "see spec.ports of the Service"),
        };
        let field = Field::of(&format!("{field}.{below}"));
        let problem = Problem::new(ingress, field, message).help(help);
        Some(match unserved {
            Unserved::NoService => problem.missing(Kind::Service, &key.service),
            Unserved::NoEndpoints => problem.about(About::Endpoints),
            _ => problem,
        })
    }

    fn replace_ingress(&mut self, name: &ObjectName, model: &Model, touched: &mut Touched) {
        let before = self.served.remove(name);
        let now = model.ingress(name).filter(|ingress| self.is_ours(ingress, model));
        // What both refer to stays in use, with its endpoints and its parsed certificate.
        if let Some(ingress) = now {
            let served = Served::of(ingress.clone());
            for key in served.backend_keys() {
                self.use_backend(key, touched);
            }
            for tls in &served.tls {
                self.use_secret(&tls.secret, &tls.host, model);
            }
            let known = before.as_ref().map_or(&[][..], |before| &before.problems);
            touched.note(known, &served.problems);
            index(&mut self.by_host, &served.hosts, &served.rank, &mut touched.hosts);
            index(&mut self.by_tls_host, served.tls_hosts(), &served.rank, &mut touched.tls_hosts);
            self.served.insert(name.clone(), served);
        }
        if let Some(before) = before {
            let stays = self.served.get(name).filter(|now| now.rank == before.rank);
            let gone = before.hosts.iter().filter(|h| stays.is_none_or(|s| !s.hosts.contains(h)));
            unindex(&mut self.by_host, gone, &before.rank);
            let tls_gone = before
                .tls_hosts()
                .into_iter()
                .filter(|host| stays.is_none_or(|s| !s.tls_hosts().contains(host)));
            unindex(&mut self.by_tls_host, tls_gone, &before.rank);
            touched.tls_hosts.extend(before.tls_hosts().into_iter().cloned());
            for key in before.backend_keys() {
                self.release_backend(&key, touched);
            }
            for tls in &before.tls {
                self.release_secret(&tls.secret, &tls.host);
            }
            touched.hosts.extend(before.hosts);
        }
    }

    /// Whether this process serves the Ingress: its class is ours by name or by controller, or
    /// it has no class and nobody else's class is the default.
    pub(crate) fn is_ours(&self, ingress: &Ingress, model: &Model) -> bool {
        let ours = |class: &model::IngressClass| {
            *class.name.name == *self.class || &*class.controller == CONTROLLER
        };
        match &ingress.class {
            Some(class) => {
                **class == *self.class || model.ingress_class(class).is_some_and(|c| ours(c))
            }
            None => {
                let mut defaults = model.ingress_classes().filter(|class| class.is_default);
                defaults.next().is_none_or(|first| ours(first) || defaults.any(|c| ours(c)))
            }
        }
    }

    fn backend(&self, key: &BackendKey) -> Option<&Arc<Backend>> {
        let service = self.services.get(&key.service)?;
        service.backends.iter().map(|(backend, _)| backend).find(|backend| backend.key == *key)
    }

    fn use_backend(&mut self, key: BackendKey, touched: &mut Touched) {
        let service = self.services.entry(key.service.clone()).or_default();
        if service.backends.is_empty() {
            let answers = service.answers.clone();
            self.snapshot.services.insert(key.service.clone(), answers);
        }
        match service.backends.iter_mut().find(|(backend, _)| backend.key == key) {
            Some((_, users)) => *users += 1,
            None => {
                touched.services.insert(key.service.clone());
                let backend = Backend::new(key, service.answers.clone());
                service.backends.push((Arc::new(backend), 1));
            }
        }
    }

    fn release_backend(&mut self, key: &BackendKey, touched: &mut Touched) {
        let service = self.services.get_mut(&key.service).expect("a used backend has a Service");
        let found = service.backends.iter_mut().find(|(backend, _)| backend.key == *key);
        let (_, users) = found.expect("a used backend is counted");
        *users -= 1;
        if *users == 0 {
            touched.services.insert(key.service.clone());
        }
    }

    fn refresh_service(&mut self, name: &ObjectName, model: &Model, touched: &mut Touched) {
        let Some(service) = self.services.get_mut(name) else { return };
        service.backends.retain(|(_, users)| *users > 0);
        let backends: Vec<_> = service.backends.iter().map(|(b, _)| b.clone()).collect();
        let entry = model.service(name);
        touched.endpoints_left |= service.ports.refresh(entry.as_ref(), &backends);
        let problems = entry.as_ref().map(|entry| app_protocols(entry, &backends));
        let problems = problems.unwrap_or_default();
        touched.note(&service.problems, &problems);
        service.problems = problems;
        if backends.is_empty() {
            self.services.remove(name);
            self.snapshot.services.remove(name);
        }
    }

    fn use_secret(&mut self, name: &ObjectName, host: &HostKey, model: &Model) {
        let provider = &self.provider;
        let secret = self.secrets.entry(name.clone()).or_insert_with(|| SecretUse {
            certificate: certificate_of(name, model, provider),
            users: Vec::new(),
        });
        secret.users.push(host.clone());
    }

    fn release_secret(&mut self, name: &ObjectName, host: &HostKey) {
        let secret = self.secrets.get_mut(name).expect("a used Secret is counted");
        let at = secret.users.iter().position(|user| user == host);
        secret.users.swap_remove(at.expect("each use is counted"));
        if secret.users.is_empty() {
            self.secrets.remove(name);
        }
    }

    fn refresh_secret(&mut self, name: &ObjectName, model: &Model, touched: &mut Touched) {
        let Some(secret) = self.secrets.get_mut(name) else { return };
        secret.certificate = certificate_of(name, model, &self.provider);
        touched.tls_hosts.extend(secret.users.iter().cloned());
    }

    fn rebuild_host(&mut self, host: &HostKey, touched: &mut Touched) {
        let mut routes = HostRoutes { paths: PathTable::new(), default: None, listed: Vec::new() };
        let mut conflicts = Vec::new();
        for (_, name) in self.by_host.get(host).into_iter().flatten() {
            let served = self.served.get(name).expect("an indexed Ingress is served");
            self.add_routes(host, served, &mut routes, &mut conflicts);
        }
        replace_problems(&mut self.conflicts, host, conflicts, touched);
        let routes = (!routes.listed.is_empty()).then(|| Arc::new(routes));
        self.snapshot.hosts.set(host, routes);
    }

    /// Adds what one Ingress has for a host, after those that come before it.
    fn add_routes(
        &self,
        host: &HostKey,
        served: &Served,
        routes: &mut HostRoutes,
        conflicts: &mut Vec<Problem>,
    ) {
        let ingress = &served.ingress;
        let redirect = served.redirects(host);
        let route = |path: Option<(PathType, Arc<str>)>, backend: &IngressBackend| {
            let key = backend_key(ingress, backend);
            let backend = self.backend(&key).expect("a served Ingress's backends are in use");
            Arc::new(Route {
                ingress: ingress.name.clone(),
                path,
                backend: backend.clone(),
                policy: served.policy.clone(),
                redirect,
            })
        };
        let mut report = |field: &str, message: String, help: &str| {
            let problem = Problem::new(&ingress.name, Field::of(field), message).help(help);
            conflicts.push(problem.about(About::Host(host.clone())));
        };
        for (field, rule) in rules(ingress).filter(|(_, r)| HostKey::of(r.host.as_ref()) == *host) {
            for (field, path_type, path, backend) in paths(ingress, &field, rule) {
                let new = route(Some((path_type, path.clone())), backend);
                match routes.paths.add(&path, path_type, new.clone()) {
                    Ok(()) => routes.listed.push(new),
                    Err(NotAdded::Taken(by)) => report(
                        &field,
                        format!(
                            "host {host}, {path_type:?} path {path}: Ingress {} has it already",
                            by.ingress
                        ),
                        "the older Ingress wins, of the same age the first by name",
                    ),
                    Err(NotAdded::BadPath) => report(
                        &field,
                        format!("host {host}: {path} is not a valid path"),
                        "write / first, and % as %25",
                    ),
                }
            }
        }
        let Some(backend) = &ingress.default_backend else { return };
        let new = route(None, backend);
        match &routes.default {
            None => {
                routes.listed.push(new.clone());
                routes.default = Some(new);
            }
            Some(by) => report(
                "spec.defaultBackend",
                format!("host {host}: Ingress {} has the default backend", by.ingress),
                "the older Ingress wins, of the same age the first by name",
            ),
        }
    }

    fn rebuild_certificate(&mut self, host: &HostKey, touched: &mut Touched) {
        let mut chosen: Option<(&ObjectName, &Arc<Certificate>)> = None;
        let mut problems = Vec::new();
        for (_, name) in self.by_tls_host.get(host).into_iter().flatten() {
            let served = self.served.get(name).expect("an indexed Ingress is served");
            for tls in served.tls.iter().filter(|tls| tls.host == *host) {
                let secret = self.secrets.get(&tls.secret);
                let uses = secret.expect("a served Ingress's Secrets are in use");
                match (&uses.certificate, chosen) {
                    (Err(bad), _) => problems.push(tls.bad_secret(name, bad)),
                    (Ok(certificate), None) => {
                        problems.extend(tls.unfit(name, certificate));
                        chosen = Some((name, certificate));
                    }
                    (Ok(other), Some((by, first))) if other.secret != first.secret => {
                        let what = format!("Ingress {by} names another Secret");
                        let help = "the older Ingress wins, of the same age the first by name";
                        problems.push(tls.problem(name, &what).help(help));
                    }
                    (Ok(_), Some(_)) => {}
                }
            }
        }
        let chosen = chosen.map(|(_, certificate)| certificate.clone());
        self.snapshot.certificates.set(host, chosen);
        replace_problems(&mut self.tls_problems, host, problems, touched);
    }
}

impl TlsUse {
    fn problem(&self, ingress: &ObjectName, what: &str) -> Problem {
        let host = &self.host;
        let field = Field::of(&format!("{}.secretName", self.field));
        Problem::new(ingress, field, format!("TLS for {host}: {what}"))
            .about(About::Certificate(host.clone()))
    }

    fn bad_secret(&self, ingress: &ObjectName, bad: &BadSecret) -> Problem {
        let problem = self.problem(ingress, &bad.to_string());
        match bad {
            BadSecret::Missing(name) => problem.missing(Kind::Secret, name).help(
                "clients get the fallback certificate; an Ingress uses Secrets of its own \
                       namespace",
            ),
            _ => problem.at(Level::Error).help(
                "clients get the fallback certificate; write a PEM certificate chain as tls.crt, \
                 and its private key as tls.key",
            ),
        }
    }

    fn out_of_date(
        &self,
        ingress: &ObjectName,
        certificate: &Certificate,
        now_unix: i64,
    ) -> Option<Problem> {
        let what = match now_unix {
            now if now < certificate.not_before_unix => {
                format!("is not valid before {}", certificate::date(certificate.not_before_unix))
            }
            now if now > certificate.not_after_unix => {
                format!("expired on {}", certificate::date(certificate.not_after_unix))
            }
            _ => return None,
        };
        let what = format!("the certificate of Secret {} {what}", self.secret);
        Some(self.problem(ingress, &what).help("clients reject it; renew it"))
    }

    /// What clients will not accept of a certificate that is shown for the host.
    fn unfit(&self, ingress: &ObjectName, certificate: &Certificate) -> Option<Problem> {
        let secret = &self.secret;
        let names = certificate.names.join(", ");
        if !certificate.covers(&self.host) {
            let names = if names.is_empty() { "no name" } else { &names };
            let what = format!("the certificate of Secret {secret} is for {names}");
            let help = "clients reject it; write one whose subject alternative names have the host";
            return Some(self.problem(ingress, &what).help(help));
        }
        if !certificate.has_alt_names {
            let what = format!(
                "the certificate of Secret {secret} has no subject alternative name, so browsers \
                 reject it"
            );
            return Some(self.problem(ingress, &what).help(format!("it is for: {names}")));
        }
        None
    }
}

impl Served {
    fn of(ingress: Arc<Ingress>) -> Served {
        let (policy, unmet) = Policy::of(&ingress.annotations);
        let name = &ingress.name;
        let problem = |unmet: Unmet| {
            let problem = Problem::new(name, Field::annotation(&unmet.key), unmet.message);
            Problem { help: unmet.help, ..problem.at(unmet.level) }
        };
        let mut problems: Vec<_> = unmet.into_iter().map(problem).collect();
        let mut hosts: BTreeSet<_> =
            ingress.rules.iter().map(|rule| HostKey::of(rule.host.as_ref())).collect();
        if ingress.default_backend.is_some() {
            hosts.insert(HostKey::Any);
        } else {
            let empty = rules(&ingress).filter(|(_, rule)| rule.paths.is_empty());
            problems.extend(empty.map(|(field, rule)| {
                let host = HostKey::of(rule.host.as_ref());
                let what = format!("host {host} has no path, and the Ingress no default backend");
                Problem::new(name, Field::of(&field), what).about(About::Host(host))
            }));
        }
        problems.extend(patterns(&ingress));
        let mut tls = Vec::new();
        for (at, entry) in ingress.tls.iter().enumerate() {
            let Some(secret) = &entry.secret_name else { continue };
            let secret = ObjectName { namespace: name.namespace.clone(), name: secret.clone() };
            let keys: BTreeSet<_> = if entry.hosts.is_empty() {
                hosts.clone()
            } else {
                entry.hosts.iter().map(|host| HostKey::of(Some(host))).collect()
            };
            let field = format!("spec.tls[{at}]");
            let of = |host| TlsUse { host, secret: secret.clone(), field: field.clone() };
            tls.extend(keys.into_iter().map(of));
        }
        if policy.is_canary {
            hosts.clear();
            tls.clear();
        }
        let rank = (ingress.created_unix.unwrap_or(i64::MAX), name.clone());
        Served { policy: Arc::new(policy), problems, rank, hosts, tls, ingress }
    }

    fn tls_hosts(&self) -> BTreeSet<&HostKey> {
        self.tls.iter().map(|tls| &tls.host).collect()
    }

    /// Each backend of the Ingress with its field; none of a canary, which has no routes.
    fn backends(&self) -> impl Iterator<Item = (String, &IngressBackend)> {
        let ingress = if self.policy.is_canary { None } else { Some(&*self.ingress) };
        ingress.into_iter().flat_map(|ingress| {
            let of_rules = rules(ingress).flat_map(|(field, rule)| {
                let paths = rule.paths.iter().enumerate();
                paths.map(move |(at, path)| {
                    (format!("{field}.http.paths[{at}].backend"), &path.backend)
                })
            });
            let default = ingress.default_backend.iter();
            of_rules.chain(default.map(|backend| ("spec.defaultBackend".to_owned(), backend)))
        })
    }

    /// A key for each place in the Ingress that names a backend.
    fn backend_keys(&self) -> Vec<BackendKey> {
        self.backends().map(|(_, backend)| backend_key(&self.ingress, backend)).collect()
    }

    /// Whether plain HTTP for the host is redirected.
    fn redirects(&self, host: &HostKey) -> bool {
        match self.policy.redirect {
            Redirect::Never => false,
            Redirect::Always => true,
            Redirect::WhereTls => self.ingress.tls.iter().any(|entry| {
                entry.hosts.is_empty()
                    || entry.hosts.iter().any(|tls| host.is_within(&HostKey::of(Some(tls))))
            }),
        }
    }
}

/// The rules of an Ingress, with their fields.
fn rules(ingress: &Ingress) -> impl Iterator<Item = (String, &IngressRule)> {
    ingress.rules.iter().enumerate().map(|(at, rule)| (format!("spec.rules[{at}]"), rule))
}

/// The paths of a rule, with their fields. A rule without paths sends all of its host to the
/// default backend.
fn paths<'a>(
    ingress: &'a Ingress,
    field: &'a str,
    rule: &'a IngressRule,
) -> impl Iterator<Item = (String, PathType, Arc<str>, &'a IngressBackend)> {
    let of = move |(at, path): (usize, &'a IngressPath)| {
        let field = format!("{field}.http.paths[{at}].path");
        (field, path.path_type, path.path.clone(), &path.backend)
    };
    let whole = ingress.default_backend.iter().filter(|_| rule.paths.is_empty());
    let whole = whole.map(move |all| (field.to_owned(), PathType::Prefix, "/".into(), all));
    rule.paths.iter().enumerate().map(of).chain(whole)
}

/// Paths that look like patterns: each character of a path stands for itself.
fn patterns(ingress: &Ingress) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (field, rule) in rules(ingress) {
        for (field, _, path, _) in paths(ingress, &field, rule) {
            let is_regex = path.contains(['(', '[', '^', '$', '|', '\\']) || path.contains(".*");
            let (what, help) = match path.strip_suffix('*') {
                _ if is_regex => {
                    let help = "write the literal beginning of the path with pathType: Prefix";
                    ("a regular expression", help.to_owned())
                }
                Some(before) if !before.contains('*') => {
                    let before = before.trim_end_matches('/');
                    let before = if before.is_empty() { "/" } else { before };
                    ("a wildcard", format!("write path: {before} with pathType: Prefix"))
                }
                _ if path.contains('*') => {
                    ("a wildcard", "write the path before it with pathType: Prefix".to_owned())
                }
                _ => continue,
            };
            let host = HostKey::of(rule.host.as_ref());
            let message = format!("path {path} looks like {what}, but it is matched literally");
            let problem = Problem::new(&ingress.name, Field::of(&field), message).help(help);
            problems.push(problem.about(About::Host(host)));
        }
    }
    problems
}

fn replace_problems(
    of_hosts: &mut HashMap<HostKey, Vec<Problem>>,
    host: &HostKey,
    now: Vec<Problem>,
    touched: &mut Touched,
) {
    let before = of_hosts.remove(host).unwrap_or_default();
    touched.note(&before, &now);
    if !now.is_empty() {
        of_hosts.insert(host.clone(), now);
    }
}

fn backend_key(ingress: &Ingress, backend: &IngressBackend) -> BackendKey {
    let namespace = ingress.name.namespace.clone();
    BackendKey {
        service: ObjectName { namespace, name: backend.service.clone() },
        port: backend.port.clone(),
    }
}

fn certificate_of(
    name: &ObjectName,
    model: &Model,
    provider: &CryptoProvider,
) -> Result<Arc<Certificate>, BadSecret> {
    let secret = model.secret(name).ok_or_else(|| BadSecret::Missing(name.clone()))?;
    Certificate::of(secret, provider).map(Arc::new)
}

fn index<'a>(
    by_host: &mut HashMap<HostKey, BTreeSet<Rank>>,
    hosts: impl IntoIterator<Item = &'a HostKey>,
    rank: &Rank,
    touched: &mut BTreeSet<HostKey>,
) {
    for host in hosts {
        by_host.entry(host.clone()).or_default().insert(rank.clone());
        touched.insert(host.clone());
    }
}

fn unindex<'a>(
    by_host: &mut HashMap<HostKey, BTreeSet<Rank>>,
    hosts: impl IntoIterator<Item = &'a HostKey>,
    rank: &Rank,
) {
    for host in hosts {
        let Some(ranks) = by_host.get_mut(host) else { continue };
        ranks.remove(rank);
        if ranks.is_empty() {
            by_host.remove(host);
        }
    }
}
