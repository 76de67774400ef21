//! The routes of one host, from the Ingresses that have rules for it.
//!
//! Pure. An Ingress that asks for regular expressions makes patterns of all paths of its hosts, of
//! every Ingress, as in ingress-nginx.

use std::sync::Arc;

use balance::Split;
use http::StatusCode;
use model::problem::Level;
use model::{IngressBackend, PathType};

use super::backend::{Backend, BackendKey};
use super::client_rules::ClientRules;
use super::plan::{Plan, PlanDefaults};
use super::policy::{RefusedBy, Refusing, VerifyClient};
use super::problem::{About, Field, Problem};
use super::served::{Served, backend_key, paths, patterns};
use super::special::{RedirectTo, Special};
use super::{Asked, Canary, ErrorRoute, HostRoutes, Paths, Route};
use crate::pattern::{Pattern, PatternTable};
use crate::route::{HostKey, NotAdded, PathTable};
use crate::template::Template;

/// Paths of Ingresses by which certificates are issued (RFC 8555 section 8.3): they are neither
/// redirected to HTTPS nor asked for credentials.
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge";

const OLDER_WINS: &str = "the older Ingress wins; at the same age, the first by name";

/// Gives the backend of a key.
pub(super) type Backends<'a> = &'a dyn Fn(&BackendKey) -> Arc<Backend>;

/// The routes of a host while they are put together.
struct Builder<'a> {
    host: &'a HostKey,
    defaults: &'a PlanDefaults,
    backends: Backends<'a>,
    routes: HostRoutes,
    /// What canaries have for the host, in the order in which they win.
    canaries: Vec<CanaryPath<'a>>,
    /// What the first Ingress that does so asks of clients: it is for all routes of the host.
    client: Option<Result<Arc<ClientRules>, RefusedBy>>,
    problems: Vec<Problem>,
}

/// A path of a canary Ingress.
struct CanaryPath<'a> {
    served: &'a Served,
    field: String,
    path_type: PathType,
    path: Arc<str>,
    backend: &'a IngressBackend,
    is_used: bool,
}

/// Compiles the routes of a host from its Ingresses, in the order in which they win.
pub(super) fn compile(
    host: &HostKey,
    ingresses: &[&Served],
    defaults: &PlanDefaults,
    backends: Backends<'_>,
) -> (HostRoutes, Vec<Problem>) {
    let is_canary = |served: &&Served| served.policy.canary.is_canary;
    let (canaries, mains): (Vec<&Served>, Vec<_>) = ingresses.iter().copied().partition(is_canary);
    let by_patterns = mains.iter().copied().find(|served| served.policy.rewriting.needs_patterns());
    let paths = match by_patterns {
        Some(_) => Paths::Patterns(PatternTable::new()),
        None => Paths::Table(PathTable::new()),
    };
    let routes = HostRoutes { paths, root: None, default: None, listed: Vec::new(), asked: None };
    let canaries = canaries.into_iter().flat_map(|served| canary_paths(served, host)).collect();
    let client = mains.iter().find_map(|served| served.client_rules());
    let client = client.map(|rules| rules.cloned());
    let problems = Vec::new();
    let mut builder = Builder { host, defaults, backends, routes, canaries, client, problems };
    for served in mains {
        match by_patterns {
            Some(by) => builder.note_patterns(served, by),
            None => builder.problems.extend(patterns(&served.ingress, host)),
        }
        builder.add(served);
        builder.add_root(served);
    }
    builder.note_unused_canaries();
    builder.routes.asked = asked(&builder.routes.listed);
    (builder.routes, builder.problems)
}

/// What clients of these routes are asked for in their handshakes.
fn asked(routes: &[Arc<Route>]) -> Option<Asked> {
    let rules = |route: &Arc<Route>| route.plan.special.as_ref()?.client.clone();
    let asking = routes.iter().filter_map(rules).filter(|r| r.verify != VerifyClient::Off);
    let mut authorities = asking.map(|rules| rules.authority.clone());
    let authority = authorities.next()?;
    let is_only = authorities.all(|other| Arc::ptr_eq(&other, &authority));
    Some(Asked { authority, is_only })
}

/// The paths that a canary Ingress has for a host.
fn canary_paths<'a>(served: &'a Served, host: &HostKey) -> Vec<CanaryPath<'a>> {
    let mut found = Vec::new();
    for (field, rule) in served.rules_of(host) {
        let of_rule = paths(&served.ingress, &field, rule);
        found.extend(of_rule.map(|(field, path_type, path, backend)| CanaryPath {
            served,
            field,
            path_type,
            path,
            backend,
            is_used: false,
        }));
    }
    found
}

/// The routes of a name that is redirected to a host which has rules: `www.name` to `name`, or the
/// other way round.
pub(super) fn redirected_to(
    host: &Arc<str>,
    served: &Served,
    defaults: &PlanDefaults,
    backends: Backends<'_>,
) -> Option<HostRoutes> {
    let to = RedirectTo::Host(host.clone());
    let special = Special::redirect(StatusCode::PERMANENT_REDIRECT, to, "from-to-www-redirect");
    let route = answering(served, special, PathType::Prefix, defaults, backends)?;
    let mut paths = PathTable::new();
    paths.add("/", PathType::Prefix, route.clone()).ok()?;
    let paths = Paths::Table(paths);
    Some(HostRoutes { paths, root: None, default: None, listed: vec![route], asked: None })
}

/// A route for `/` of an Ingress that answers by itself. It counts for the Ingress's first backend.
fn answering(
    served: &Served,
    special: Special,
    path_type: PathType,
    defaults: &PlanDefaults,
    backends: Backends<'_>,
) -> Option<Arc<Route>> {
    let (_, backend) = served.backends().next()?;
    let special = Some(Arc::new(special));
    let plan = Plan { special, refused: None, ..Plan::new(&served.policy, false, defaults) };
    Some(Arc::new(Route {
        ingress: served.ingress.name.clone(),
        path: Some((path_type, "/".into())),
        pattern: None,
        errors: None,
        backend: backends(&backend_key(&served.ingress, backend)),
        plan: Arc::new(plan),
        canary: None,
    }))
}

impl Builder<'_> {
    fn report(&mut self, served: &Served, field: &str, message: String, help: &str) {
        let name = &served.ingress.name;
        let problem = Problem::new(name, Field::of(field), message).help(help);
        self.problems.push(problem.about(About::Host(self.host.clone())));
    }

    /// Says that the paths of an Ingress are patterns because another one asks for it.
    fn note_patterns(&mut self, served: &Served, by: &Served) {
        if served.policy.rewriting.needs_patterns() {
            return;
        }
        let message = format!(
            "host {}: paths match as regular expressions, which ignore case and the path's end, \
             because Ingress {} asks for it",
            self.host, by.ingress.name
        );
        let help = "use-regex and rewrite-target are for all paths of a host, as in ingress-nginx";
        let name = &served.ingress.name;
        let problem = Problem::new(name, Field::of("spec.rules"), message).help(help);
        self.problems.push(problem.at(Level::Note).about(About::Host(self.host.clone())));
    }

    /// Adds what one Ingress has for the host, after those that come before it.
    fn add(&mut self, served: &Served) {
        let plan = Plan {
            special: served.special.clone(),
            ..Plan::new(&served.policy, served.redirects(self.host), self.defaults)
        };
        let special = plan.special.as_ref().map(|all| Arc::new(all.without_credentials()));
        let exempt = Arc::new(Plan { https_redirect: None, special, ..plan.clone() });
        let plan = Arc::new(self.for_clients(plan));
        let ingress = &served.ingress;
        if matches!(self.routes.paths, Paths::Patterns(_)) && served.policy.affinity.needs_path() {
            let host = self.host;
            let message = format!(
                "host {host}: the path of the session cookie is a regular expression, so no client \
                 sends it back"
            );
            self.report(served, "metadata.annotations", message, "set session-cookie-path");
        }
        for (field, rule) in served.rules_of(self.host) {
            for (field, path_type, path, backend) in paths(ingress, &field, rule) {
                let plan = if path.starts_with(ACME_CHALLENGE) { &exempt } else { &plan };
                let route = self.route(served, Some((path_type, path)), backend, plan);
                match &self.routes.paths {
                    Paths::Table(_) => self.add_path(served, &field, route),
                    Paths::Patterns(_) => self.add_pattern(served, &field, route),
                }
            }
        }
        let Some(backend) = &ingress.default_backend else { return };
        let route = self.route(served, None, backend, &plan);
        match &self.routes.default {
            None => {
                self.routes.listed.push(Arc::new(route));
                self.routes.default = self.routes.listed.last().cloned();
            }
            Some(by) => {
                let host = self.host;
                let message =
                    format!("host {host}: Ingress {} has the default backend", by.ingress);
                self.report(served, "spec.defaultBackend", message, OLDER_WINS);
            }
        }
    }

    /// The plan for clients that have what the host asks them for.
    fn for_clients(&self, plan: Plan) -> Plan {
        match &self.client {
            None => plan,
            Some(Ok(rules)) => {
                let special = Special::for_clients(plan.special.as_deref(), rules);
                Plan { special: Some(Arc::new(special)), ..plan }
            }
            Some(Err(by)) => Plan { refused: Some(plan.refused.unwrap_or(*by)), ..plan },
        }
    }

    fn route(
        &self,
        served: &Served,
        path: Option<(PathType, Arc<str>)>,
        backend: &IngressBackend,
        plan: &Arc<Plan>,
    ) -> Route {
        let backend = (self.backends)(&backend_key(&served.ingress, backend));
        let errors = self.errors(served, path.clone(), &backend, plan.special.as_deref());
        let ingress = served.ingress.name.clone();
        Route { ingress, path, pattern: None, backend, errors, plan: plan.clone(), canary: None }
    }

    /// What serves in the place of errors of a route to that backend.
    fn errors(
        &self,
        served: &Served,
        path: Option<(PathType, Arc<str>)>,
        of: &Backend,
        special: Option<&Special>,
    ) -> Option<Arc<ErrorRoute>> {
        let key = served.error_backend.as_ref()?;
        let ingress = &served.ingress.name;
        let (service, port) = (&of.key.service.name, of.key.port_text());
        let special = Special::of_errors(special, ingress, service, &port);
        let plan = Plan::new(&served.policy, false, self.defaults);
        let plan = Plan { special: Some(Arc::new(special)), refused: None, ..plan };
        let route = Route {
            ingress: ingress.clone(),
            path,
            pattern: None,
            backend: (self.backends)(key),
            errors: None,
            plan: Arc::new(plan),
            canary: None,
        };
        let errors = &served.policy.errors;
        let (codes, passes_on) = (errors.codes.clone().into(), errors.passes_on);
        Some(Arc::new(ErrorRoute { codes, passes_on, route: Arc::new(route) }))
    }

    /// The route, with the canary for its path if there is one.
    fn with_canary(&mut self, mut route: Route) -> Arc<Route> {
        let Some((path_type, path)) = &route.path else { return Arc::new(route) };
        let is_of = |canary: &&mut CanaryPath<'_>| {
            let namespace = &canary.served.ingress.name.namespace;
            // Another namespace's canary would take what is not its own.
            canary.path_type == *path_type
                && canary.path == *path
                && *namespace == route.ingress.namespace
                && !canary.is_used
        };
        let Some(canary) = self.canaries.iter_mut().find(is_of) else { return Arc::new(route) };
        canary.is_used = true;
        let (served, backend) = (canary.served, canary.backend);
        let annotations = &served.policy.canary;
        let mut plan = route.plan.clone();
        if annotations.is_legacy
            && let Some(special) = plan.special.as_deref()
        {
            let special = Special { affinity: None, ..special.clone() };
            plan = Arc::new(Plan { special: Some(Arc::new(special)), ..(*plan).clone() });
        }
        let (weight, total) = annotations.rules.weights();
        let twin = Route {
            ingress: served.ingress.name.clone(),
            backend: (self.backends)(&backend_key(&served.ingress, backend)),
            plan,
            ..route.clone()
        };
        route.canary = Some(Arc::new(Canary {
            rules: annotations.rules.clone(),
            split: Split::new(&[total - weight, weight]),
            is_sticky: !annotations.is_legacy,
            route: Arc::new(twin),
        }));
        Arc::new(route)
    }

    /// Reports what canaries have that no requests come to.
    fn note_unused_canaries(&mut self) {
        for canary in std::mem::take(&mut self.canaries) {
            if canary.is_used {
                continue;
            }
            let (host, path, path_type) = (self.host, &canary.path, canary.path_type);
            let is_main = |route: &&Arc<Route>| {
                route.path.as_ref().is_some_and(|(t, p)| *t == path_type && p == path)
            };
            let of_main = self.routes.listed.iter().find(is_main).and_then(|r| r.canary.as_ref());
            let (message, help) = match of_main {
                Some(by) => (
                    format!(
                        "host {host}, {path_type:?} path {path}: Ingress {} is its canary already",
                        by.route.ingress
                    ),
                    OLDER_WINS,
                ),
                None => (
                    format!(
                        "host {host}, {path_type:?} path {path}: no main Ingress of its namespace \
                         has it, so the canary gets no requests"
                    ),
                    "write an Ingress without canary for the same host, path and pathType",
                ),
            };
            self.report(canary.served, &canary.field, message, help);
        }
    }

    fn add_path(&mut self, served: &Served, field: &str, route: Route) {
        let route = self.with_canary(route);
        let Paths::Table(table) = &mut self.routes.paths else { return };
        let Some((path_type, path)) = route.path.clone() else { return };
        let host = self.host;
        let (message, help) = match table.add(&path, path_type, route.clone()) {
            Ok(()) => return self.routes.listed.push(route),
            Err(NotAdded::Taken(by)) => (
                format!(
                    "host {host}, {path_type:?} path {path}: Ingress {} has it already",
                    by.ingress
                ),
                OLDER_WINS,
            ),
            Err(NotAdded::BadPath) => {
                (format!("host {host}: {path} is not a valid path"), "write / first, and % as %25")
            }
        };
        self.report(served, field, message, help);
    }

    fn add_pattern(&mut self, served: &Served, field: &str, route: Route) {
        let Some((_, path)) = route.path.clone() else { return };
        let host = self.host;
        let mut problem = None;
        let (pattern, plan) = match Pattern::new(&path) {
            Ok(pattern) => (pattern, route.plan.clone()),
            Err(bad) => {
                // Requests that it may have been for must not go by a shorter path.
                let start = Pattern::certain_start(&path);
                problem = Some((
                    format!(
                        "host {host}: path {path} is not a valid regular expression: {bad}; what \
                         begins with {start} and matches no longer path answers 503"
                    ),
                    "write it without look-around and back-references",
                ));
                let by = RefusedBy { name: "use-regex", why: Refusing::Invalid };
                let refused = Plan { refused: Some(by), ..(*route.plan).clone() };
                let pattern = Pattern::new(start).or_else(|_| Pattern::new("/"));
                (pattern.expect("a path without special characters is one"), Arc::new(refused))
            }
        };
        let route = self.with_canary(Route { pattern: Some(pattern.clone()), plan, ..route });
        let Paths::Patterns(table) = &mut self.routes.paths else { return };
        match table.add(&path, pattern, route.clone()) {
            Ok(()) => self.routes.listed.push(route),
            Err(by) => {
                let by = &by.ingress;
                problem = Some((
                    format!("host {host}, path {path}: Ingress {by} has it already"),
                    OLDER_WINS,
                ));
            }
        }
        if let Some((message, help)) = problem {
            self.report(served, field, message, help);
        }
    }

    /// The redirect of `/` to where an application begins.
    fn add_root(&mut self, served: &Served) {
        let Some(app_root) = &served.policy.rewriting.app_root else { return };
        if let Some(by) = &self.routes.root {
            let host = self.host;
            let message = format!("host {host}: Ingress {} has an app-root already", by.ingress);
            self.report(served, "metadata.annotations", message, OLDER_WINS);
            return;
        }
        let to = RedirectTo::Url(Template::literal(app_root));
        let special = Special::redirect(StatusCode::FOUND, to, "app-root");
        let root = answering(served, special, PathType::Exact, self.defaults, self.backends);
        let root = root.map(|root| {
            let plan = Arc::new(self.for_clients((*root.plan).clone()));
            Arc::new(Route { plan, ..(*root).clone() })
        });
        self.routes.listed.extend(root.clone());
        self.routes.root = root;
    }
}
