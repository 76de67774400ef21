//! From the model to the next snapshot, by what changed.
//!
//! An Ingress that changes rebuilds the hosts that it names or named; a Service or its endpoints
//! refresh the cells of the backends that name it; a Secret replaces the certificates of the
//! hosts that use it. Nothing else is looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use model::{Changes, Ingress, IngressBackend, Model, ObjectName, PathType};
use rustls::crypto::CryptoProvider;

use super::backend::{Answers, Backend, BackendKey, Removal, ServicePorts};
use super::certificate::{BadSecret, Certificate};
use super::plan::{Plan, PlanDefaults};
use super::policy::{Policy, Redirect};
use super::{HostRoutes, Route, Snapshot};
use crate::route::{HostKey, NotAdded, PathTable};

/// `spec.controller` of the IngressClasses that are ours whatever their name.
pub(crate) const CONTROLLER: &str = "switchyard.dev/ingress";

/// Something that an operator must know of an object, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    pub(crate) ingress: ObjectName,
    pub(crate) problem: String,
}

/// What an update led to: a snapshot to be published, and endpoints to be taken away after that.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) snapshot: Snapshot,
    pub(crate) removal: Removal,
}

/// Makes snapshots; holds what the next one is made from.
#[derive(Debug)]
pub(crate) struct Compiler {
    class: Arc<str>,
    provider: Arc<CryptoProvider>,
    defaults: PlanDefaults,
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
    policy: Policy,
    problems: Vec<String>,
    rank: Rank,
    hosts: BTreeSet<HostKey>,
    tls: Vec<(HostKey, ObjectName)>,
}

/// A Service that backends name.
#[derive(Debug, Default)]
struct ServiceUse {
    answers: Arc<Answers>,
    ports: ServicePorts,
    backends: Vec<(Arc<Backend>, usize)>,
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
    removal: Removal,
}

impl Compiler {
    pub(crate) fn new(
        class: &str,
        provider: Arc<CryptoProvider>,
        self_signed: Arc<Certificate>,
        defaults: PlanDefaults,
    ) -> Compiler {
        Compiler {
            class: class.into(),
            provider,
            defaults,
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
        for host in &touched.hosts {
            self.rebuild_host(host);
        }
        for host in &touched.tls_hosts {
            self.rebuild_certificate(host);
        }
        self.snapshot.generation = generation;
        Compiled { snapshot: self.snapshot.clone(), removal: touched.removal }
    }

    /// The number of Ingresses that are served.
    pub(crate) fn served(&self) -> usize {
        self.served.len()
    }

    /// Everything that an operator must know, ordered by object. Costs O(all Ingresses): for
    /// pages, not for updates.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        for (name, served) in &self.served {
            let of = |problem: String| Problem { ingress: name.clone(), problem };
            problems.extend(served.problems.iter().cloned().map(of));
            for key in backend_keys(&served.ingress) {
                if let Some(backend) = self.backend(&key)
                    && let Some(unserved) = backend.endpoints().unserved()
                {
                    problems.push(of(format!("backend {key}: {}", unserved.reason())));
                }
            }
        }
        problems.extend(self.conflicts.values().flatten().cloned());
        problems.extend(self.tls_problems.values().flatten().cloned());
        problems.sort();
        problems.dedup();
        problems
    }

    fn replace_ingress(&mut self, name: &ObjectName, model: &Model, touched: &mut Touched) {
        let before = self.served.remove(name);
        let now = model.ingress(name).filter(|ingress| self.is_ours(ingress, model));
        // What both refer to stays in use, with its endpoints and its parsed certificate.
        if let Some(ingress) = now {
            let served = Served::of(ingress.clone());
            for key in backend_keys(&served.ingress) {
                self.use_backend(key, touched);
            }
            for (host, secret) in &served.tls {
                self.use_secret(secret, host, model);
            }
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
            for key in backend_keys(&before.ingress) {
                self.release_backend(&key, touched);
            }
            for (host, secret) in &before.tls {
                self.release_secret(secret, host);
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
        service.ports.refresh(entry.as_ref(), &backends, &mut touched.removal);
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

    fn rebuild_host(&mut self, host: &HostKey) {
        let mut routes = HostRoutes { paths: PathTable::new(), default: None, listed: Vec::new() };
        let mut conflicts = Vec::new();
        for (_, name) in self.by_host.get(host).into_iter().flatten() {
            let served = self.served.get(name).expect("an indexed Ingress is served");
            self.add_routes(host, served, &mut routes, &mut conflicts);
        }
        if conflicts.is_empty() {
            self.conflicts.remove(host);
        } else {
            self.conflicts.insert(host.clone(), conflicts);
        }
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
        let plan = Plan::new(&served.policy, served.redirects(host), &self.defaults);
        let plan = Arc::new(plan);
        let route = |path: Option<(PathType, Arc<str>)>, backend: &IngressBackend| {
            let key = backend_key(ingress, backend);
            let backend = self.backend(&key).expect("a served Ingress's backends are in use");
            Arc::new(Route {
                ingress: ingress.name.clone(),
                path,
                backend: backend.clone(),
                plan: plan.clone(),
            })
        };
        let mut report = |problem| {
            conflicts.push(Problem { ingress: ingress.name.clone(), problem });
        };
        for rule in ingress.rules.iter().filter(|r| HostKey::of(r.host.as_ref()) == *host) {
            let paths = rule.paths.iter().map(|p| (p.path_type, p.path.clone(), &p.backend));
            // A rule without paths sends all of its host to the default backend.
            let whole = ingress.default_backend.iter().filter(|_| rule.paths.is_empty());
            let whole = whole.map(|backend| (PathType::Prefix, "/".into(), backend));
            for (path_type, path, backend) in paths.chain(whole) {
                let new = route(Some((path_type, path.clone())), backend);
                match routes.paths.add(&path, path_type, new.clone()) {
                    Ok(()) => routes.listed.push(new),
                    Err(NotAdded::Taken(by)) => report(format!(
                        "host {host}, {path_type:?} path {path}: Ingress {} has it already",
                        by.ingress
                    )),
                    Err(NotAdded::BadPath) => {
                        report(format!("host {host}: {path} is not a path"));
                    }
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
            Some(by) => {
                report(format!("host {host}: Ingress {} has the default backend", by.ingress));
            }
        }
    }

    fn rebuild_certificate(&mut self, host: &HostKey) {
        let mut chosen: Option<(&ObjectName, &Arc<Certificate>)> = None;
        let mut problems = Vec::new();
        for (_, name) in self.by_tls_host.get(host).into_iter().flatten() {
            let served = self.served.get(name).expect("an indexed Ingress is served");
            let mut report =
                |problem: String| problems.push(Problem { ingress: name.clone(), problem });
            for (_, secret) in served.tls.iter().filter(|(of, _)| of == host) {
                let uses = self.secrets.get(secret).expect("a served Ingress's Secrets are in use");
                match (&uses.certificate, chosen) {
                    (Err(bad), _) => report(format!("TLS for {host}: {bad}")),
                    (Ok(certificate), None) => {
                        if !certificate.covers(host) && *host != HostKey::Any {
                            report(format!(
                                "TLS for {host}: the certificate of Secret {secret} is for {}",
                                certificate.names.join(", ")
                            ));
                        }
                        chosen = Some((name, certificate));
                    }
                    (Ok(other), Some((by, first))) if other.secret != first.secret => {
                        report(format!("TLS for {host}: Ingress {by} names another Secret"));
                    }
                    (Ok(_), Some(_)) => {}
                }
            }
        }
        let chosen = chosen.map(|(_, certificate)| certificate.clone());
        self.snapshot.certificates.set(host, chosen);
        if problems.is_empty() {
            self.tls_problems.remove(host);
        } else {
            self.tls_problems.insert(host.clone(), problems);
        }
    }
}

impl Served {
    fn of(ingress: Arc<Ingress>) -> Served {
        let (policy, mut problems) = Policy::of(&ingress.annotations);
        let mut hosts: BTreeSet<_> =
            ingress.rules.iter().map(|rule| HostKey::of(rule.host.as_ref())).collect();
        if ingress.default_backend.is_some() {
            hosts.insert(HostKey::Any);
        } else {
            let empty = ingress.rules.iter().filter(|rule| rule.paths.is_empty());
            problems.extend(empty.map(|rule| {
                let host = HostKey::of(rule.host.as_ref());
                format!("host {host} has no path, and the Ingress no default backend")
            }));
        }
        let mut tls = Vec::new();
        for entry in &ingress.tls {
            let Some(secret) = &entry.secret_name else { continue };
            let secret =
                ObjectName { namespace: ingress.name.namespace.clone(), name: secret.clone() };
            let keys: BTreeSet<_> = if entry.hosts.is_empty() {
                hosts.clone()
            } else {
                entry.hosts.iter().map(|host| HostKey::of(Some(host))).collect()
            };
            tls.extend(keys.into_iter().map(|host| (host, secret.clone())));
        }
        let rank = (ingress.created_unix.unwrap_or(i64::MAX), ingress.name.clone());
        Served { ingress, policy, problems, rank, hosts, tls }
    }

    fn tls_hosts(&self) -> BTreeSet<&HostKey> {
        self.tls.iter().map(|(host, _)| host).collect()
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

/// A key for each place in the Ingress that names a backend.
fn backend_keys(ingress: &Ingress) -> Vec<BackendKey> {
    let paths = ingress.rules.iter().flat_map(|rule| &rule.paths).map(|path| &path.backend);
    paths.chain(&ingress.default_backend).map(|backend| backend_key(ingress, backend)).collect()
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

/// The problems by Ingress, for pages.
pub(crate) fn by_ingress(problems: Vec<Problem>) -> BTreeMap<ObjectName, Vec<String>> {
    let mut by_ingress: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for Problem { ingress, problem } in problems {
        by_ingress.entry(ingress).or_default().push(problem);
    }
    by_ingress
}
