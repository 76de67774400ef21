//! From the model to the next snapshot, by what changed.
//!
//! An Ingress that changes rebuilds the hosts that it names or named; a Service or its endpoints
//! refresh the cells of the backends that name it; a Secret replaces the certificates of the
//! hosts that use it. Nothing else is looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use model::{BackendPort, Changes, Ingress, Kind, Model, ObjectName};
use rustls::crypto::CryptoProvider;

use super::backend::{
    Answers, Backend, BackendKey, Removal, ServicePorts, Spread, Unserved, app_protocols,
};
use super::certificate::{BadSecret, Certificate};
use super::endpoint::Endpoint;
use super::plan::PlanDefaults;
use super::policy::HealthCheck;
use super::problem::{About, Field, Problem};
use super::secure::{secret_of, secure};
use super::served::{Alias, Rank, Served, backend_key};
use super::{HostCertificates, Snapshot, host};
use crate::route::HostKey;

/// `spec.controller` of the IngressClasses that are ours whatever their name.
pub(crate) const CONTROLLER: &str = "switchyard.dev/ingress";

/// What an update led to: a snapshot to be published, and endpoints to be taken away after that.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) snapshot: Snapshot,
    pub(crate) removal: Removal,
    /// Problems that were not there before, but for those of endpoints, which come and go.
    pub(crate) news: Vec<Problem>,
}

/// An endpoint that is to be checked.
#[derive(Debug)]
pub(crate) struct HealthTarget {
    /// The Service port, for people.
    pub(crate) service: String,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) check: HealthCheck,
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
    /// Further names of hosts, with the Ingresses that ask for them, of which the oldest wins.
    by_alias: HashMap<HostKey, BTreeSet<(Rank, Alias)>>,
    /// The Ingresses whose routes are compiled from a Secret.
    by_auth_secret: HashMap<ObjectName, BTreeSet<ObjectName>>,
    /// The Ingresses whose errors a Service serves.
    by_error_service: HashMap<ObjectName, BTreeSet<ObjectName>>,
    services: HashMap<ObjectName, ServiceUse>,
    secrets: HashMap<ObjectName, SecretUse>,
    /// Ingresses whose annotations name a Secret.
    by_secret: HashMap<ObjectName, BTreeSet<ObjectName>>,
    /// Problems that come from several Ingresses meeting at one host.
    conflicts: HashMap<HostKey, Vec<Problem>>,
    tls_problems: HashMap<HostKey, Vec<Problem>>,
    /// Ingresses that ask for health checks.
    checking: usize,
}

/// The Ingresses that name a backend, with the number of places in each.
type Users = BTreeMap<Rank, usize>;

/// A Service that backends name.
#[derive(Debug, Default)]
struct ServiceUse {
    answers: Arc<Answers>,
    ports: ServicePorts,
    /// Each with the Ingresses that name it, in the order in which they win, and the number of
    /// places in them.
    backends: Vec<(Arc<Backend>, Users)>,
    /// Where `backends` has that of a port.
    positions: HashMap<BackendPort, usize>,
    problems: Vec<Problem>,
}

impl ServiceUse {
    fn add(&mut self, backend: Backend, user: Rank) {
        self.positions.insert(backend.key.port.clone(), self.backends.len());
        self.backends.push((Arc::new(backend), Users::from([(user, 1)])));
    }

    fn get_mut(&mut self, port: &BackendPort) -> Option<&mut (Arc<Backend>, Users)> {
        self.backends.get_mut(*self.positions.get(port)?)
    }

    /// Forgets the backends that nothing names.
    fn retain_used(&mut self) {
        self.backends.retain(|(_, users)| !users.is_empty());
        let backends = self.backends.iter().enumerate();
        self.positions = backends.map(|(at, (b, _))| (b.key.port.clone(), at)).collect();
    }
}

/// A Secret that TLS entries name.
#[derive(Debug)]
struct SecretUse {
    /// The last good one. None if there has not been any since the Secret was created.
    certificate: Option<Arc<Certificate>>,
    /// Why the Secret cannot be served as it is now.
    bad: Option<BadSecret>,
    /// One for each TLS entry of an Ingress that names it.
    users: Vec<HostKey>,
}

impl SecretUse {
    fn of(name: &ObjectName, model: &Model, provider: &CryptoProvider) -> SecretUse {
        let mut secret = SecretUse { certificate: None, bad: None, users: Vec::new() };
        secret.read(name, model, provider);
        secret
    }

    /// Reads the Secret again. One that is broken now changes nothing for clients.
    fn read(&mut self, name: &ObjectName, model: &Model, provider: &CryptoProvider) {
        let secret = model.secret(name).ok_or_else(|| BadSecret::Missing(name.clone()));
        if secret.is_err() {
            self.certificate = None;
        }
        match secret.and_then(|secret| Certificate::of(secret, provider)) {
            Ok(certificate) => {
                self.certificate = Some(Arc::new(certificate));
                self.bad = None;
            }
            Err(bad) => self.bad = Some(bad),
        }
    }
}

/// What an update touched.
#[derive(Debug, Default)]
struct Touched {
    hosts: BTreeSet<HostKey>,
    aliases: BTreeSet<HostKey>,
    tls_hosts: BTreeSet<HostKey>,
    services: BTreeSet<ObjectName>,
    removal: Removal,
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
            by_alias: HashMap::new(),
            by_auth_secret: HashMap::new(),
            by_error_service: HashMap::new(),
            services: HashMap::new(),
            secrets: HashMap::new(),
            by_secret: HashMap::new(),
            conflicts: HashMap::new(),
            tls_problems: HashMap::new(),
            checking: 0,
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
        for secret in &changes.secrets {
            names.extend(self.by_auth_secret.get(secret).into_iter().flatten().cloned());
        }
        for service in &changes.services {
            names.extend(self.by_error_service.get(service).into_iter().flatten().cloned());
        }
        let users = changes.secrets.iter().filter_map(|secret| self.by_secret.get(secret));
        names.extend(users.flatten().cloned());
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
        for name in std::mem::take(&mut touched.aliases) {
            self.rebuild_alias(&name);
        }
        for host in std::mem::take(&mut touched.tls_hosts) {
            self.rebuild_certificate(&host, &mut touched);
        }
        self.snapshot.generation = generation;
        let Touched { removal, news, .. } = touched;
        Compiled { snapshot: self.snapshot.clone(), removal, news }
    }

    /// The endpoints that are to be checked. Costs nothing if no Ingress asks for checks.
    pub(crate) fn health_targets(&self) -> Vec<HealthTarget> {
        if self.checking == 0 {
            return Vec::new();
        }
        let mut targets = Vec::new();
        for served in self.served.values().filter(|served| served.asks_for_checks()) {
            for backend in served.backend_keys().iter().filter_map(|key| self.backend(key)) {
                let endpoints = backend.endpoints();
                let Some(check) = endpoints.balancing().and_then(|b| b.health.clone()) else {
                    continue;
                };
                targets.extend(endpoints.list().iter().map(|endpoint| HealthTarget {
                    service: backend.key.to_string(),
                    endpoint: endpoint.clone(),
                    check: check.clone(),
                }));
            }
        }
        targets
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

    /// Starts with the last good certificates of another one, which the model does not have.
    #[cfg(test)]
    pub(super) fn remember_certificates(&mut self, other: &Compiler) {
        for (name, secret) in other.secrets.iter().filter(|(_, secret)| secret.bad.is_some()) {
            let SecretUse { certificate, bad, .. } = secret;
            let kept =
                SecretUse { certificate: certificate.clone(), bad: bad.clone(), users: Vec::new() };
            self.secrets.insert(name.clone(), kept);
        }
    }

    /// The certificates that are shown although their time has not come or is over.
    pub(crate) fn certificates_out_of_date(&self, now_unix: i64) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        for (name, served) in &self.served {
            for tls in &served.tls {
                let secret = self.secrets.get(&tls.secret);
                let certificate = secret.and_then(|secret| secret.certificate.as_ref());
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
        let service = self.services.get(&key.service);
        let port_fix = service.map(|service| service.ports.fix()).unwrap_or_default();
        let (below, help) = match (unserved, &key.port) {
            (Unserved::NoService, _) => {
                ("service.name", "an Ingress can only use Services of its own namespace")
            }
            (Unserved::ExternalName, _) => {
                ("service.name", "give the Service an EndpointSlice with addressType: FQDN")
            }
            (Unserved::NoEndpoints, _) => {
                ("service.name", "add endpoints to the Service, or make one ready")
            }
            (_, BackendPort::Number(_)) => ("service.port.number", &*port_fix),
            (_, BackendPort::Name(_)) => ("service.port.name", &*port_fix),
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
        self.release_policy_secret(name, before.as_ref());
        self.release_aliases(before.as_ref(), touched);
        if let Some(before) = &before {
            for secret in before.secrets() {
                forget_use(&mut self.by_auth_secret, Some(secret), name);
            }
            forget_use(&mut self.by_error_service, before.error_service(), name);
        }
        let now = model.ingress(name).filter(|ingress| self.is_ours(ingress, model));
        // What both refer to stays in use, with its endpoints and its parsed certificate.
        if let Some(ingress) = now {
            let mut served = Served::of(ingress.clone(), before.as_ref(), model);
            self.use_policy_secret(&mut served, before.as_ref(), model);
            for key in served.backend_keys() {
                if served.spreads() {
                    touched.services.insert(key.service.clone());
                }
                self.use_backend(key, &served.rank, touched);
            }
            if let Some(service) = served.error_service() {
                self.by_error_service.entry(service).or_default().insert(name.clone());
            }
            for secret in served.secrets() {
                self.by_auth_secret.entry(secret).or_default().insert(name.clone());
            }
            for tls in &served.tls {
                self.use_secret(&tls.secret, &tls.host, model);
            }
            let known = before.as_ref().map_or(&[][..], |before| &before.problems);
            touched.note(known, &served.problems);
            index(&mut self.by_host, &served.hosts, &served.rank, &mut touched.hosts);
            index(&mut self.by_tls_host, served.tls_hosts(), &served.rank, &mut touched.tls_hosts);
            self.checking += usize::from(served.asks_for_checks());
            for (alias, of) in served.aliases() {
                let asked = self.by_alias.entry(alias.clone()).or_default();
                asked.insert((served.rank.clone(), of));
                touched.aliases.insert(alias);
            }
            self.served.insert(name.clone(), served);
        }
        if let Some(before) = before {
            self.checking -= usize::from(before.asks_for_checks());
            let stays = self.served.get(name).filter(|now| now.rank == before.rank);
            let gone = before.hosts.iter().filter(|h| stays.is_none_or(|s| !s.hosts.contains(h)));
            unindex(&mut self.by_host, gone, &before.rank);
            let tls_gone = before
                .tls_hosts()
                .into_iter()
                .filter(|host| stays.is_none_or(|s| !s.has_tls_host(host)));
            unindex(&mut self.by_tls_host, tls_gone, &before.rank);
            touched.tls_hosts.extend(before.tls_hosts().into_iter().cloned());
            for key in before.backend_keys() {
                if before.spreads() {
                    touched.services.insert(key.service.clone());
                }
                self.release_backend(&key, &before.rank, touched);
            }
            for tls in &before.tls {
                self.release_secret(&tls.secret, &tls.host);
            }
            touched.hosts.extend(before.hosts);
        }
    }

    /// Looks up the Secret that annotations of an Ingress name.
    fn use_policy_secret(&mut self, served: &mut Served, before: Option<&Served>, model: &Model) {
        secure(served, before, model);
        if let Some(secret) = secret_of(served) {
            let name = served.ingress.name.clone();
            self.by_secret.entry(secret).or_default().insert(name);
        }
    }

    fn release_aliases(&mut self, before: Option<&Served>, touched: &mut Touched) {
        let Some(before) = before else { return };
        for (alias, of) in before.aliases() {
            if let Some(asked) = self.by_alias.get_mut(&alias) {
                asked.remove(&(before.rank.clone(), of));
                if asked.is_empty() {
                    self.by_alias.remove(&alias);
                }
            }
            touched.aliases.insert(alias);
        }
    }

    fn release_policy_secret(&mut self, name: &ObjectName, before: Option<&Served>) {
        let Some(secret) = before.and_then(secret_of) else { return };
        let Some(users) = self.by_secret.get_mut(&secret) else { return };
        users.remove(name);
        if users.is_empty() {
            self.by_secret.remove(&secret);
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
        service.backends.get(*service.positions.get(&key.port)?).map(|(backend, _)| backend)
    }

    fn use_backend(&mut self, key: BackendKey, user: &Rank, touched: &mut Touched) {
        let service = self.services.entry(key.service.clone()).or_default();
        if service.backends.is_empty() {
            let answers = service.answers.clone();
            self.snapshot.services.insert(key.service.clone(), answers);
        }
        match service.get_mut(&key.port) {
            Some((_, users)) => *users.entry(user.clone()).or_default() += 1,
            None => {
                touched.services.insert(key.service.clone());
                service.add(Backend::new(key, service.answers.clone()), user.clone());
            }
        }
    }

    fn release_backend(&mut self, key: &BackendKey, user: &Rank, touched: &mut Touched) {
        let service = self.services.get_mut(&key.service).expect("a used backend has a Service");
        let (_, users) = service.get_mut(&key.port).expect("a used backend is counted");
        let places = users.get_mut(user).expect("a used backend knows its Ingresses");
        *places -= 1;
        if *places == 0 {
            users.remove(user);
        }
        if users.is_empty() {
            touched.services.insert(key.service.clone());
        }
    }

    fn refresh_service(&mut self, name: &ObjectName, model: &Model, touched: &mut Touched) {
        let Some(service) = self.services.get_mut(name) else { return };
        service.retain_used();
        let (mut balanced, mut overruled) = (Vec::new(), Vec::new());
        for (backend, users) in &service.backends {
            let users: Vec<_> =
                users.keys().filter_map(|(_, name)| self.served.get(name)).collect();
            balanced.push((backend.clone(), spread(&users)));
            overruled.extend(overruled_by_older(&backend.key, &users));
        }
        let backends: Vec<_> = service.backends.iter().map(|(b, _)| b.clone()).collect();
        let entry = model.service(name);
        service.ports.refresh(entry.as_ref(), &balanced, &mut touched.removal);
        let problems = entry.as_ref().map(|entry| app_protocols(entry, &backends));
        let problems: Vec<_> = problems.unwrap_or_default().into_iter().chain(overruled).collect();
        touched.note(&service.problems, &problems);
        service.problems = problems;
        if backends.is_empty() {
            self.services.remove(name);
            self.snapshot.services.remove(name);
        }
    }

    fn use_secret(&mut self, name: &ObjectName, host: &HostKey, model: &Model) {
        let provider = &self.provider;
        let secret = self.secrets.entry(name.clone());
        let secret = secret.or_insert_with(|| SecretUse::of(name, model, provider));
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
        secret.read(name, model, &self.provider);
        touched.tls_hosts.extend(secret.users.iter().cloned());
    }

    fn rebuild_host(&mut self, host: &HostKey, touched: &mut Touched) {
        let ranks = self.by_host.get(host).into_iter().flatten();
        let ingresses: Vec<_> = ranks.map(|(_, name)| self.indexed(name)).collect();
        let aliases = ingresses.iter().flat_map(|served| served.aliases());
        touched.aliases.extend(aliases.filter(|(_, of)| of.host == *host).map(|(name, _)| name));
        touched.aliases.insert(host.clone());
        let (routes, conflicts) =
            host::compile(host, &ingresses, &self.defaults, &|key| self.used_backend(key));
        replace_problems(&mut self.conflicts, host, conflicts, touched);
        let routes = (!routes.listed.is_empty()).then(|| Arc::new(routes));
        self.snapshot.set_host(host, routes);
    }

    /// Gives a name that no rule has the routes of the host that it is an alias of.
    fn rebuild_alias(&mut self, name: &HostKey) {
        if self.by_host.contains_key(name) {
            return;
        }
        let hosts = &self.snapshot.hosts;
        let routes = self.by_alias.get(name).into_iter().flatten().find_map(|(rank, alias)| {
            let of_host = hosts.get(&alias.host)?;
            match &alias.host {
                HostKey::Exact(host) if alias.redirects => {
                    let served = self.indexed(&rank.1);
                    let backends = |key: &BackendKey| self.used_backend(key);
                    host::redirected_to(host, served, &self.defaults, &backends).map(Arc::new)
                }
                _ => Some(of_host.clone()),
            }
        });
        self.snapshot.set_host(name, routes);
    }

    fn indexed(&self, name: &ObjectName) -> &Served {
        self.served.get(name).expect("an indexed Ingress is served")
    }

    fn used_backend(&self, key: &BackendKey) -> Arc<Backend> {
        self.backend(key).expect("a served Ingress's backends are in use").clone()
    }

    fn rebuild_certificate(&mut self, host: &HostKey, touched: &mut Touched) {
        let mut chosen: Option<(&ObjectName, HostCertificates)> = None;
        let mut problems = Vec::new();
        for (_, name) in self.by_tls_host.get(host).into_iter().flatten() {
            let served = self.served.get(name).expect("an indexed Ingress is served");
            for tls in served.tls_of(host) {
                let secret = self.secrets.get(&tls.secret);
                let uses = secret.expect("a served Ingress's Secrets are in use");
                if let Some(bad) = &uses.bad {
                    problems.push(tls.bad_secret(name, bad, uses.certificate.is_some()));
                }
                let Some(certificate) = &uses.certificate else { continue };
                let Some((by, of_host)) = &mut chosen else {
                    problems.extend(tls.unfit(name, certificate));
                    chosen = Some((name, HostCertificates::new(certificate.clone())));
                    continue;
                };
                if of_host.takes(certificate) {
                    problems.extend(tls.unfit(name, certificate));
                } else if !of_host.contains(certificate) {
                    let what = format!("Ingress {by} names another Secret");
                    let help = "the older Ingress wins; at the same age, the first by name. A host \
                                can have two certificates if one of them has an RSA key";
                    problems.push(tls.problem(name, &what).help(help));
                }
            }
        }
        self.snapshot.certificates.set(host, chosen.map(|(_, of_host)| of_host));
        replace_problems(&mut self.tls_problems, host, problems, touched);
    }
}

/// How the requests of a backend are spread, as the Ingresses that name it say, the oldest first.
fn spread(users: &[&Served]) -> Spread {
    let balancing = users.iter().find_map(|served| served.balancing.clone());
    Spread { balancing, by_cookie: users.iter().any(|served| served.leads_by_cookie()) }
}

/// A problem for each Ingress that wants the requests of a backend spread in another way than an
/// older one does.
fn overruled_by_older(backend: &BackendKey, users: &[&Served]) -> Vec<Problem> {
    let mut deciding = users.iter().filter(|served| served.balancing.is_some());
    let Some(oldest) = deciding.next() else { return Vec::new() };
    let others = deciding.filter(|other| other.balancing != oldest.balancing);
    let problem = |other: &&Served| {
        let message = format!(
            "backend {backend}: the annotations for balancing and health checks of Ingress {} \
             hold, not those of this one",
            oldest.ingress.name
        );
        let help = "they hold for a Service port, whichever Ingress a request came by; the older \
                    Ingress wins; at the same age, the first by name";
        Problem::new(&other.ingress.name, Field::of("metadata.annotations"), message).help(help)
    };
    others.map(problem).collect()
}

/// An Ingress no longer uses an object.
fn forget_use(
    users: &mut HashMap<ObjectName, BTreeSet<ObjectName>>,
    object: Option<ObjectName>,
    ingress: &ObjectName,
) {
    let Some(object) = object else { return };
    if let Some(of_object) = users.get_mut(&object) {
        of_object.remove(ingress);
        if of_object.is_empty() {
            users.remove(&object);
        }
    }
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
