//! A backend: the Service port that routes lead to, and the endpoints that serve it now.
//!
//! Routes hold a [`Backend`], which is a cell: a change of endpoints is one store into it and
//! touches no route. The data path loads the cell once a request.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use balance::{RetryBudget, Rotation};
use model::{
    AddressType, BackendPort, Kind, ObjectName, Protocol, ServiceEntry, ServicePort, ServiceType,
};

use super::endpoint::{Counted, Endpoint};
use super::picking::{Draw, Needed, Pick, Tables};
use super::policy::Balancing;
use super::problem::{Field, Problem};
use crate::room::{Room, WaitPermit};
use crate::wire::BackendProtocol;

/// What a backend is named by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BackendKey {
    pub(crate) service: ObjectName,
    pub(crate) port: BackendPort,
}

impl BackendKey {
    /// The number or name of the port.
    pub(crate) fn port_text(&self) -> Cow<'_, str> {
        match &self.port {
            BackendPort::Number(number) => number.to_string().into(),
            BackendPort::Name(name) => Cow::Borrowed(name),
        }
    }
}

impl std::fmt::Display for BackendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.port {
            BackendPort::Number(number) => write!(f, "{}:{number}", self.service),
            BackendPort::Name(name) => write!(f, "{}:{name}", self.service),
        }
    }
}

/// A Service port as an Ingress names it, with whatever serves it now.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) key: BackendKey,
    pub(crate) answers: Arc<Answers>,
    endpoints: ArcSwap<Endpoints>,
}

impl Backend {
    pub(crate) fn new(key: BackendKey, answers: Arc<Answers>) -> Backend {
        let endpoints = ArcSwap::from_pointee(Endpoints::none(Unserved::NoService));
        Backend { key, answers, endpoints }
    }

    /// What serves it at this moment; not to be held over an await.
    pub(crate) fn endpoints(&self) -> Guard<Arc<Endpoints>> {
        self.endpoints.load()
    }

    pub(super) fn set(&self, endpoints: Arc<Endpoints>) {
        let room = endpoints.room.clone();
        self.endpoints.store(endpoints);
        if let Some(room) = room {
            room.changed();
        }
    }

    /// A backend of these endpoints.
    #[cfg(test)]
    pub(crate) fn serving(addresses: &[SocketAddr]) -> Backend {
        let port = BackendPort::Name("http".into());
        let key = BackendKey { service: ObjectName::new("default", "web"), port };
        let backend = Backend::new(key, Arc::default());
        backend.replace(addresses);
        backend
    }

    /// Spreads requests in another way.
    #[cfg(test)]
    pub(crate) fn balance(&self, balancing: Balancing) {
        let old = self.endpoints();
        let addresses = old.addresses();
        let protocol = BackendProtocol::default();
        let spread = Spread { balancing: Some(Arc::new(balancing)), by_cookie: false };
        self.set(Arc::new(old.replaced_by(&addresses, protocol, &spread)));
    }

    /// Replaces the endpoints.
    #[cfg(test)]
    pub(crate) fn replace(&self, addresses: &[SocketAddr]) {
        let old = self.endpoints();
        let protocol = BackendProtocol::default();
        let spread = Spread { balancing: old.balancing.clone(), by_cookie: false };
        self.set(Arc::new(old.replaced_by(addresses, protocol, &spread)));
        old.retire(addresses, protocol);
    }
}

/// Requests of one Service by the class of the status that was answered, since its first route,
/// and the retries that they allow.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    by_class: [AtomicU64; Answers::CLASSES.len()],
    retries: RetryBudget,
}

impl Answers {
    pub(crate) const CLASSES: [&'static str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

    pub(crate) fn count(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, Answers::CLASSES.len()) - 1;
        self.by_class[class].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether one more request may be sent again, as far as the load of the Service goes.
    pub(crate) fn take_retry(&self, now_ms: u64) -> bool {
        self.retries.take(self.counts().map(|(_, count)| count).sum(), now_ms)
    }

    /// Each class with its count.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Answers::CLASSES.into_iter().zip(self.by_class.iter().map(|n| n.load(Ordering::Relaxed)))
    }
}

/// The endpoints that take new requests.
#[derive(Debug)]
pub(crate) struct Endpoints {
    rotation: Arc<Rotation<Arc<Endpoint>>>,
    /// How requests are spread over them; absent for turns without limits, which is the default.
    balancing: Option<Arc<Balancing>>,
    tables: Tables,
    /// Where requests wait if all endpoints are busy; absent if none may.
    room: Option<Arc<Room>>,
    /// Why there is none.
    unserved: Option<Unserved>,
}

/// How the requests of a backend are spread, as its Ingresses say.
#[derive(Clone, Debug, Default)]
pub(super) struct Spread {
    pub(super) balancing: Option<Arc<Balancing>>,
    /// Cookies lead clients to their endpoints.
    pub(super) by_cookie: bool,
}

/// Why a backend has no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unserved {
    NoService,
    NoPort,
    NotTcp,
    ExternalName,
    NoEndpoints,
}

impl Unserved {
    /// What to tell clients and operators.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Unserved::NoService => "the Service does not exist",
            Unserved::NoPort => "the Service has no such port",
            Unserved::NotTcp => "the Service's port is not TCP",
            Unserved::ExternalName => "a Service of type ExternalName is refused as a backend",
            Unserved::NoEndpoints => "the Service has no ready endpoint",
        }
    }
}

impl Endpoints {
    pub(crate) fn none(unserved: Unserved) -> Endpoints {
        Endpoints {
            rotation: Arc::default(),
            balancing: None,
            tables: Tables::default(),
            room: None,
            unserved: Some(unserved),
        }
    }

    /// In the order of their turns.
    pub(crate) fn list(&self) -> &[Arc<Endpoint>] {
        self.rotation.members()
    }

    /// In the order of their addresses, to be shown.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self.list().iter().map(|endpoint| endpoint.address).collect();
        addresses.sort_unstable();
        addresses
    }

    pub(crate) fn unserved(&self) -> Option<Unserved> {
        self.unserved
    }

    /// How requests are spread, unless by turns.
    pub(crate) fn balancing(&self) -> Option<&Balancing> {
        self.balancing.as_deref()
    }

    #[cfg(test)]
    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The endpoint of a key by consistent hashing, whatever its state.
    pub(crate) fn of_key(&self, key: u64) -> Option<Arc<Endpoint>> {
        self.tables.of_key(self.list(), key)
    }

    /// The endpoint that a client keeps, unless it has as many requests as it may have.
    pub(crate) fn pick_own(&self, endpoint: &Arc<Endpoint>) -> Option<Pick> {
        let room = self.room.as_ref();
        let counted = match self.balancing() {
            Some(balancing) => Some(Counted::begin(endpoint, balancing.most_in_flight(), room)?),
            None => None,
        };
        Some(Pick { endpoint: endpoint.clone(), counted })
    }

    /// Whether a request has to wait behind others that came before it.
    pub(crate) fn has_waiting(&self) -> bool {
        self.room.as_ref().is_some_and(|room| room.has_waiting())
    }

    /// Lets a request wait until one of them is less busy, if so many may wait.
    pub(crate) fn wait(&self) -> Option<WaitPermit> {
        let each = self.balancing()?.max_waiting? as usize;
        self.room.as_ref()?.enter(each.saturating_mul(self.list().len()))
    }

    /// Whether each takes a limited number of requests at one time.
    pub(crate) fn is_limited(&self) -> bool {
        self.balancing().is_some_and(|balancing| balancing.max_in_flight.is_some())
    }

    /// The endpoint for a request, of those that suit: the one whose turn it is, or the choice of
    /// another method; one that rests only if all do, and if it does not let clients wait.
    pub(crate) fn pick(
        &self,
        suits: impl Fn(&Arc<Endpoint>) -> bool,
        draw: &Draw<'_>,
    ) -> Option<Pick> {
        if let Some(only) = draw.only {
            return if suits(only) { self.pick_own(only) } else { None };
        }
        match &self.balancing {
            None => {
                let picked = self.rotation.pick(suits, || draw.now_ms)?;
                Some(Pick { endpoint: picked.clone(), counted: None })
            }
            Some(balancing) => {
                let spread = (&**balancing, self.room.as_ref());
                self.tables.pick(&self.rotation, spread, suits, draw)
            }
        }
    }

    /// The endpoints after this list was replaced by `addresses`; those that stay are the same,
    /// and stay in turn.
    fn replaced_by(
        &self,
        addresses: &[SocketAddr],
        protocol: BackendProtocol,
        spread: &Spread,
    ) -> Endpoints {
        if addresses.is_empty() {
            // Nobody's turn is left to carry over. A rotation that has handed on to an empty one
            // gives nothing from that moment, but the routes of the snapshot that is served now
            // pick from it until the next is published.
            return Endpoints::none(Unserved::NoEndpoints);
        }
        let same = self.list().iter().filter(|e| e.protocol == protocol);
        let known: HashMap<_, _> = same.map(|e| (e.address, e)).collect();
        let list: Vec<_> = addresses
            .iter()
            .map(|address| match known.get(address) {
                Some(endpoint) => Arc::clone(endpoint),
                None => Arc::new(Endpoint::new(*address, protocol)),
            })
            .collect();
        let rotation = self.rotation.succeed(&list);
        let balancing = spread.balancing.clone();
        let needed = Needed::of(balancing.as_deref(), spread.by_cookie);
        let tables = Tables::after(rotation.members(), needed, (self.list(), &self.tables));
        let may_wait = balancing.as_ref().is_some_and(|balancing| balancing.max_waiting.is_some());
        let room = may_wait.then(|| self.room.clone().unwrap_or_default());
        Endpoints { rotation, balancing, tables, room, unserved: None }
    }

    /// Marks all but those at `staying`, which is sorted, as gone; says whether there were any.
    /// One that speaks another protocol now is another endpoint.
    fn retire(&self, staying: &[SocketAddr], protocol: BackendProtocol) -> bool {
        let leave = |e: &&Arc<Endpoint>| {
            e.protocol != protocol || staying.binary_search(&e.address).is_err()
        };
        let leaving = self.list().iter().filter(leave);
        leaving.map(|endpoint| endpoint.leave()).count() > 0
    }
}

/// Endpoints that are taken away once the snapshot that was made with them is published: until
/// then requests are routed to them by the snapshot before.
#[must_use = "endpoints are taken away by `apply`"]
#[derive(Debug, Default)]
pub(crate) struct Removal {
    emptied: Vec<(Arc<Backend>, Arc<Endpoints>)>,
    unused: Vec<Arc<Endpoints>>,
    some_left: bool,
}

impl Removal {
    /// Takes them away. True when any endpoint has left by this or by the update itself: idle
    /// connections to it are to be closed.
    pub(crate) fn apply(self) -> bool {
        let left = self
            .unused
            .iter()
            .fold(false, |left, unused| left | unused.retire(&[], BackendProtocol::default()));
        for (backend, endpoints) in self.emptied {
            backend.set(endpoints);
        }
        self.some_left | left
    }
}

/// The Service ports of one Service that backends name, with their endpoints.
#[derive(Debug, Default)]
pub(super) struct ServicePorts {
    ports: HashMap<NonZeroU16, Arc<Endpoints>>,
    /// The TCP ports of the Service, if a backend names another: `80 (http), 8080`.
    alternatives: String,
}

impl ServicePorts {
    /// What to do if a backend names a port that the Service does not have for TCP.
    pub(super) fn fix(&self) -> String {
        match &*self.alternatives {
            "" => "add a TCP port to the Service's spec.ports".to_owned(),
            ports => format!("use a TCP port of the Service: {ports}"),
        }
    }

    /// Makes all of the Service's backends serve what the model says now. Backends that name one
    /// port by number and by name share its endpoints and its rotation; the first of them says how
    /// requests are spread. What would leave a backend without an endpoint is put into `removal`.
    pub(super) fn refresh(
        &mut self,
        entry: Option<&ServiceEntry>,
        backends: &[(Arc<Backend>, Spread)],
        removal: &mut Removal,
    ) {
        let mut before = std::mem::take(&mut self.ports);
        self.alternatives.clear();
        for (backend, spread) in backends {
            let endpoints = match resolve(entry, &backend.key.port) {
                Err(unserved) => {
                    if matches!(unserved, Unserved::NoPort | Unserved::NotTcp) {
                        self.alternatives = entry.map(tcp_ports).unwrap_or_default();
                    }
                    Arc::new(Endpoints::none(unserved))
                }
                Ok((entry, port)) => match self.ports.get(&port.port) {
                    Some(shared) => shared.clone(),
                    None => {
                        let addresses = addresses_of(entry, port);
                        let old = before.remove(&port.port);
                        let old =
                            old.unwrap_or_else(|| Arc::new(Endpoints::none(Unserved::NoPort)));
                        let protocol = protocol_of(port);
                        let replaced = old.replaced_by(&addresses, protocol, spread);
                        let endpoints = Arc::new(replaced);
                        if addresses.is_empty() {
                            removal.unused.push(old);
                        } else {
                            removal.some_left |= old.retire(&addresses, protocol);
                        }
                        self.ports.insert(port.port, endpoints.clone());
                        endpoints
                    }
                },
            };
            if endpoints.unserved.is_some() && backend.endpoints().unserved.is_none() {
                removal.emptied.push((backend.clone(), endpoints));
            } else {
                backend.set(endpoints);
            }
        }
        removal.unused.extend(before.into_values());
    }
}

fn tcp_ports(entry: &ServiceEntry) -> String {
    let ports = entry.service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    let ports = ports.map(|port| match port.name.is_empty() {
        true => port.port.to_string(),
        false => format!("{} ({})", port.port, port.name),
    });
    ports.collect::<Vec<_>>().join(", ")
}

fn resolve<'a>(
    entry: Option<&'a ServiceEntry>,
    wanted: &BackendPort,
) -> Result<(&'a ServiceEntry, &'a ServicePort), Unserved> {
    let entry = entry.ok_or(Unserved::NoService)?;
    if matches!(entry.service.service_type, ServiceType::ExternalName(_)) {
        return Err(Unserved::ExternalName);
    }
    let port = entry.service.port(wanted).ok_or(Unserved::NoPort)?;
    if port.protocol != Protocol::Tcp {
        return Err(Unserved::NotTcp);
    }
    Ok((entry, port))
}

/// Where new requests may go, sorted. Pods of a dual-stack Service are in a slice of each family;
/// one family is used, the Service's first where it has endpoints, so that each counts once.
fn addresses_of(entry: &ServiceEntry, port: &ServicePort) -> Vec<SocketAddr> {
    let any_state = entry.service.publish_not_ready_addresses;
    let mut addresses = Vec::new();
    for slice in entry.slices.iter().filter(|s| s.address_type != AddressType::Fqdn) {
        let matches = |p: &&model::SlicePort| p.name == port.name && p.protocol == Protocol::Tcp;
        let Some(number) = slice.ports.iter().find(matches).and_then(|p| p.port) else { continue };
        let usable = |e: &&model::Endpoint| any_state || (e.ready && !e.terminating);
        let ips = slice.endpoints.iter().filter(usable).filter_map(model::Endpoint::ip);
        addresses.extend(ips.map(|ip| SocketAddr::new(ip, number.get())));
    }
    addresses.sort_unstable();
    addresses.dedup();
    let first_is_v6 = matches!(entry.service.cluster_ips.first(), Some(IpAddr::V6(_)));
    let in_first = |address: &SocketAddr| address.is_ipv6() == first_is_v6;
    if addresses.iter().any(in_first) {
        addresses.retain(in_first);
    }
    addresses
}

/// What a port's `appProtocol` says that its endpoints speak.
fn protocol_of(port: &ServicePort) -> BackendProtocol {
    let protocol = port.app_protocol.as_deref().and_then(BackendProtocol::of_app_protocol);
    protocol.unwrap_or_default()
}

/// A problem for each port that backends lead to whose `appProtocol` is not served.
pub(super) fn app_protocols(entry: &ServiceEntry, backends: &[Arc<Backend>]) -> Vec<Problem> {
    let ports: Vec<_> =
        backends.iter().filter_map(|b| resolve(Some(entry), &b.key.port).ok()).collect();
    let is_used = |port: &ServicePort| ports.iter().any(|(_, used)| used.port == port.port);
    let mut problems = Vec::new();
    for (at, port) in entry.service.ports.iter().enumerate() {
        let Some(protocol) = port.app_protocol.as_deref().filter(|_| is_used(port)) else {
            continue;
        };
        if BackendProtocol::of_app_protocol(protocol).is_some() {
            continue;
        }
        let field = Field::of(&format!("spec.ports[{at}].appProtocol"));
        let message = format!(
            "appProtocol {protocol:?} is not supported by the ingress: endpoints get plain HTTP/1.1"
        );
        let problem = Problem::new(&entry.service.name, field, message);
        let help = format!("supported: {}", BackendProtocol::APP_PROTOCOLS);
        problems.push(Problem { kind: Kind::Service, ..problem }.help(help));
    }
    problems
}
