//! The ingress's view of the model: hosts, their paths, and the certificates they are served
//! with.
//!
//! Pure. A [`Snapshot`] is immutable and numbered; the [`Compiler`] makes the next one from the
//! last by what changed. Endpoints are not part of it but in cells that its routes refer to
//! ([`Backend`]), so that an endpoint that comes or goes rebuilds nothing.

mod annotation;
mod backend;
mod certificate;
mod client_rules;
mod compile;
mod endpoint;
mod host;
mod picking;
mod plan;
mod policy;
mod problem;
mod response_rules;
mod secure;
mod served;
mod special;
mod sticky;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use balance::Split;
use http::StatusCode;
use model::{ObjectName, PathType};

pub(crate) use backend::{Answers, Backend, BackendKey, Endpoints, Unserved};
pub(crate) use certificate::Certificate;
pub(crate) use client_rules::ClientRules;
pub(crate) use compile::{Compiler, HealthTarget};
pub(crate) use endpoint::{Counted, Endpoint};
pub(crate) use picking::{Draw, Pick};
pub(crate) use plan::{Plan, PlanDefaults};
pub(crate) use policy::{Affinity, CanaryRules, HealthCheck, Probe, RefusedBy, Side, VerifyClient};
pub(crate) use problem::{About, Problem};
pub(crate) use response_rules::ResponseEdits;
pub(crate) use special::{
    AuthRules, BasicRules, LimitRules, Mirroring, Redirect, RedirectTo, Special, X_CODE,
};
pub(crate) use sticky::{CookieFacts, user_agent};

use crate::client_authority::ClientAuthority;
use crate::pattern::{Pattern, PatternTable};
use crate::route::{HostKey, HostTable, PathTable};

/// What the data path serves.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// Of the update that it was made from.
    pub(crate) generation: u64,
    /// Every kind has been listed. Until then nothing is taken for absent.
    pub(crate) synced: bool,
    hosts: HostTable<Arc<HostRoutes>>,
    /// Hosts whose handshakes differ from others.
    asking_hosts: usize,
    certificates: HostTable<HostCertificates>,
    /// Served where no other certificate is.
    self_signed: Arc<Certificate>,
    /// The Services that routes refer to.
    services: imbl::OrdMap<ObjectName, Arc<Answers>>,
}

/// The certificates of one host: clients that cannot use the one may be able to use the other.
#[derive(Clone, Debug)]
struct HostCertificates {
    first: Arc<Certificate>,
    /// One whose key is of another kind: RSA beside ECDSA.
    second: Option<Arc<Certificate>>,
}

impl HostCertificates {
    fn new(first: Arc<Certificate>) -> HostCertificates {
        HostCertificates { first, second: None }
    }

    /// Takes a further certificate if it can be the second one.
    fn takes(&mut self, further: &Arc<Certificate>) -> bool {
        let is_second = self.second.is_none() && self.first.is_rsa() != further.is_rsa();
        if is_second {
            self.second = Some(further.clone());
        }
        is_second
    }

    fn contains(&self, certificate: &Certificate) -> bool {
        let both = [Some(&self.first), self.second.as_ref()].into_iter().flatten();
        both.into_iter().any(|other| other.secret == certificate.secret)
    }
}

/// The routes of one host.
#[derive(Debug)]
pub(crate) struct HostRoutes {
    paths: Paths,
    /// Answers `/` before any path does.
    root: Option<Arc<Route>>,
    /// The default backend of an Ingress that has a rule for the host.
    default: Option<Arc<Route>>,
    /// All of the above, as they were written, for pages that list them.
    listed: Vec<Arc<Route>>,
    /// What clients are asked for in their handshakes.
    asked: Option<Asked>,
}

/// The certificate that clients of a host are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) authority: Arc<ClientAuthority>,
    /// No route of the host takes certificates of others.
    pub(crate) is_only: bool,
}

/// The paths of one host.
#[derive(Debug)]
enum Paths {
    Table(PathTable<Arc<Route>>),
    Patterns(PatternTable<Arc<Route>>),
}

/// A host and path of an Ingress, and where it leads.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) ingress: ObjectName,
    /// Absent for a default backend.
    pub(crate) path: Option<(PathType, Arc<str>)>,
    /// The path where it is a regular expression.
    pub(crate) pattern: Option<Pattern>,
    pub(crate) backend: Arc<Backend>,
    /// What serves in the place of errors.
    pub(crate) errors: Option<Arc<ErrorRoute>>,
    pub(crate) plan: Arc<Plan>,
    /// An alternative for some of its requests.
    pub(crate) canary: Option<Arc<Canary>>,
}

/// An alternative to a route, by a canary Ingress.
#[derive(Debug)]
pub(crate) struct Canary {
    pub(crate) rules: CanaryRules,
    /// Turns of requests that no other rule is about: first the main route's, then the canary's.
    pub(crate) split: Split,
    /// A client stays on the side that its cookie is of.
    pub(crate) is_sticky: bool,
    /// The same route, to the canary's backend.
    pub(crate) route: Arc<Route>,
}

impl Route {
    /// How its clients keep their endpoints.
    pub(crate) fn affinity(&self) -> Option<&Affinity> {
        self.plan.special.as_deref()?.affinity.as_ref()
    }
}

/// What serves in the place of errors of a route.
#[derive(Debug)]
pub(crate) struct ErrorRoute {
    /// The statuses that are replaced.
    pub(crate) codes: Box<[u16]>,
    /// Errors of endpoints are passed on.
    pub(crate) passes_on: bool,
    /// To what serves, also where the route has no endpoint.
    pub(crate) route: Arc<Route>,
}

impl ErrorRoute {
    /// Whether responses with that status are replaced.
    pub(crate) fn replaces(&self, status: StatusCode) -> bool {
        self.codes.contains(&status.as_u16())
    }
}

impl Snapshot {
    pub(crate) fn new(self_signed: Arc<Certificate>) -> Snapshot {
        Snapshot {
            generation: 0,
            synced: false,
            hosts: HostTable::new(),
            asking_hosts: 0,
            certificates: HostTable::new(),
            self_signed,
            services: imbl::OrdMap::new(),
        }
    }

    /// The route of a normalised host and path. The host's own rules come first, then rules
    /// without a host, which hold for all, then default backends.
    pub(crate) fn route(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let own = self.hosts.find(host);
        let any = self.hosts.any();
        own.and_then(|routes| routes.find(path))
            .or_else(|| any.and_then(|routes| routes.find(path)))
            .or_else(|| own.and_then(|routes| routes.default.as_ref()))
            .or_else(|| any.and_then(|routes| routes.default.as_ref()))
    }

    /// Whether what a handshake is like depends on the host that its client names.
    pub(crate) fn has_asking_hosts(&self) -> bool {
        self.asking_hosts > 0
    }

    /// The certificate that clients are asked for which name this host.
    pub(crate) fn asked(&self, host: Option<&str>) -> Option<&Asked> {
        let own = host.and_then(|host| self.hosts.find(host));
        let asked = own.and_then(|routes| routes.asked.as_ref());
        asked.or_else(|| self.hosts.any().and_then(|routes| routes.asked.as_ref()))
    }

    fn set_host(&mut self, host: &HostKey, routes: Option<Arc<HostRoutes>>) {
        let asks = |routes: Option<&Arc<HostRoutes>>| {
            usize::from(routes.is_some_and(|routes| routes.asked.is_some()))
        };
        self.asking_hosts -= asks(self.hosts.get(host));
        self.asking_hosts += asks(routes.as_ref());
        self.hosts.set(host, routes);
    }

    /// Whether any rule names the host; tells a client whether host or path was wrong.
    pub(crate) fn knows_host(&self, host: &str) -> bool {
        self.hosts.find(host).is_some()
    }

    /// The certificate for a host name; without a name the one for all hosts.
    pub(crate) fn certificate(&self, host: Option<&str>) -> &Arc<Certificate> {
        self.certificates_of(host).map_or(&self.self_signed, |found| &found.first)
    }

    /// The certificate for a host name that a client can use, of two that the host may have.
    pub(crate) fn certificate_for(
        &self,
        host: Option<&str>,
        can_use: impl Fn(&Certificate) -> bool,
    ) -> &Arc<Certificate> {
        match self.certificates_of(host) {
            None => &self.self_signed,
            Some(HostCertificates { first, second: None }) => first,
            Some(HostCertificates { first, second: Some(second) }) => {
                let (rsa, other) = if first.is_rsa() { (first, second) } else { (second, first) };
                // Signing with RSA takes many times as long.
                if can_use(other) || !can_use(rsa) { other } else { rsa }
            }
        }
    }

    fn certificates_of(&self, host: Option<&str>) -> Option<&HostCertificates> {
        host.and_then(|host| self.certificates.find(host)).or_else(|| self.certificates.any())
    }

    /// Whether a request for `host` came over a connection that was made for another host whose
    /// certificate is not for this one. Browsers send requests of several hosts over one HTTP/2
    /// connection when its certificate is for all of them (RFC 9113 section 9.1.1).
    pub(crate) fn is_misdirected(&self, server_name: &str, host: &str) -> bool {
        if server_name == host {
            return false;
        }
        let of_connection = self.certificate(Some(server_name));
        !Arc::ptr_eq(of_connection, self.certificate(Some(host)))
            && !of_connection.covers_host(host)
    }

    /// The routes of all hosts, ordered by host.
    pub(crate) fn routes(&self) -> Vec<(HostKey, Arc<HostRoutes>)> {
        let mut routes: Vec<_> = self.hosts.iter().map(|(host, r)| (host, r.clone())).collect();
        routes.sort_by(|a, b| a.0.cmp(&b.0));
        routes
    }

    /// The certificates of all hosts, ordered by host.
    pub(crate) fn certificates(&self) -> Vec<(HostKey, Arc<Certificate>)> {
        let each = self.certificates.iter().flat_map(|(host, of_host)| {
            let both = [Some(&of_host.first), of_host.second.as_ref()].into_iter().flatten();
            both.map(|certificate| (host.clone(), certificate.clone())).collect::<Vec<_>>()
        });
        let mut all: Vec<_> = each.collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// The Services that routes refer to, with their counts of answers.
    pub(crate) fn services(&self) -> impl Iterator<Item = (&ObjectName, &Arc<Answers>)> {
        self.services.iter()
    }
}

impl HostRoutes {
    /// The route of a normalised path, but for the default backend.
    fn find(&self, path: &str) -> Option<&Arc<Route>> {
        if let Some(root) = &self.root
            && path == "/"
        {
            return Some(root);
        }
        match &self.paths {
            Paths::Table(table) => table.find(path),
            Paths::Patterns(table) => table.find(path),
        }
    }

    /// All routes, in the order in which their Ingresses are considered.
    pub(crate) fn routes(&self) -> &[Arc<Route>] {
        &self.listed
    }
}
