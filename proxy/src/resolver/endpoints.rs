//! Chooses the endpoints of one frontend: by readiness, traffic policy and topology.
//!
//! Pure. The order of the decisions is Kubernetes' own (`pkg/proxy/topology.go`): the policy
//! `Local` looks at this node's endpoints and nothing else; otherwise hints may narrow the ready
//! endpoints to those near; endpoints that terminate serve only when no other of those considered
//! is ready, which is decided apart for each policy.
//!
//! Beyond Kubernetes: slices without any hint get those that its controller would give them for
//! the Service's `trafficDistribution`, because a folder has no such controller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use model::{AddressType, Endpoint, ServiceEntry, ServicePort, TrafficDistribution, TrafficPolicy};

use super::{Family, FrontendAddress, FrontendKind, Node, Place, Scope, Why};

/// Whose endpoints are wanted, and under which policy.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) entry: &'a ServiceEntry,
    pub(super) port: &'a ServicePort,
    pub(super) node: &'a Node,
    pub(super) policy: TrafficPolicy,
}

pub(super) struct Chosen {
    /// Ordered by address.
    pub(super) endpoints: Vec<SocketAddr>,
    /// Those that were not chosen, ordered by address.
    pub(super) kept: Vec<SocketAddr>,
    pub(super) scope: Scope,
    pub(super) why: Why,
}

/// An endpoint at one address. Several slices may list it while they are rebalanced; then it is
/// as ready as the best of them says, and where and for whom that one says.
#[derive(Clone, Copy)]
struct Listed<'a> {
    endpoint: &'a Endpoint,
    condition: Condition,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Condition {
    NotServing,
    ServingTerminating,
    /// Or to be served all the same: `publishNotReadyAddresses`.
    Ready,
}

type All<'a> = BTreeMap<SocketAddr, Listed<'a>>;

impl<'a> Wanted<'a> {
    /// A ClusterIP is served by endpoints of its own family, as in Kubernetes. A frontend for
    /// clients from outside of a family in which the Service has none that serve is carried over
    /// to the other family: a Service whose endpoints are all IPv4 answers on `[::1]` too, where
    /// `localhost` leads first.
    pub(super) fn choose(self, kind: FrontendKind, address: FrontendAddress) -> Chosen {
        let (family, own) = match address.place {
            Place::Ip(ip) => (Family::of(ip), Some(SocketAddr::new(ip, address.port.get()))),
            Place::Node(family) => (family, None),
        };
        let (mut chosen, mut listed) = self.of_family(family, own);
        if kind.is_external() {
            let (other, other_listed) = self.of_family(family.other(), own);
            if chosen.endpoints.is_empty() && !other.endpoints.is_empty() {
                chosen = other;
            }
            listed.extend(other_listed);
            listed.sort_unstable();
        }
        listed.retain(|addr| chosen.endpoints.binary_search(addr).is_err());
        chosen.kept = listed;
        chosen
    }

    /// The choice, and all that it was made of, ordered by address.
    ///
    /// `own`: the frontend's own address, which can be nobody's endpoint: each connection to it
    /// would make another one, until no descriptor is left.
    fn of_family(self, family: Family, own: Option<SocketAddr>) -> (Chosen, Vec<SocketAddr>) {
        let mut all = self.listed(family);
        if let Some(own) = own {
            all.remove(&own);
        }
        let everything: Vec<SocketAddr> = all.keys().copied().collect();
        let hints = Hints::of(&all, self);
        let scope = match self.policy {
            TrafficPolicy::Local => Scope::Local,
            TrafficPolicy::Cluster => hints.scope(&all),
        };
        if scope == Scope::Local {
            all.retain(|_, listed| self.node.has(listed.endpoint));
        }
        let (mut endpoints, mut why) = (Vec::new(), Why::Ready);
        if self.entry.service.publish_not_ready_addresses {
            why = Why::NotReadyPublished;
        }
        for (addr, listed) in &all {
            if listed.condition == Condition::Ready && hints.is_near(listed.endpoint, scope) {
                endpoints.push(*addr);
            }
        }
        if endpoints.is_empty() {
            let terminating = |l: &Listed<'_>| l.condition == Condition::ServingTerminating;
            endpoints.extend(all.iter().filter(|(_, l)| terminating(l)).map(|(addr, _)| *addr));
            why = match endpoints.is_empty() {
                false => Why::ServingTerminating,
                true if everything.is_empty() => Why::NoEndpoints,
                true if all.is_empty() => Why::NoneLocal,
                true => Why::NoneReady,
            };
        }
        (Chosen { endpoints, kept: Vec::new(), scope, why }, everything)
    }

    /// The endpoints of the service port in one family. A slice's port is the service port's by
    /// name and protocol; its number is what a named target port means for that slice.
    fn listed(self, family: Family) -> All<'a> {
        let wanted = match family {
            Family::V4 => AddressType::Ipv4,
            Family::V6 => AddressType::Ipv6,
        };
        let port = self.port;
        let published = self.entry.service.publish_not_ready_addresses;
        let mut all = All::new();
        for slice in self.entry.slices.iter().filter(|slice| slice.address_type == wanted) {
            let ours = |p: &&model::SlicePort| p.name == port.name && p.protocol == port.protocol;
            let Some(number) = slice.ports.iter().find(ours).and_then(|p| p.port) else { continue };
            for endpoint in &slice.endpoints {
                let Some(ip) = endpoint.ip() else { continue };
                let listed = Listed { endpoint, condition: Condition::of(endpoint, published) };
                let best = all.entry(SocketAddr::new(ip, number.get())).or_insert(listed);
                if listed.condition > best.condition {
                    *best = listed;
                }
            }
        }
        all
    }
}

impl Condition {
    fn of(endpoint: &Endpoint, published: bool) -> Condition {
        match (endpoint.ready || published, endpoint.serving && endpoint.terminating) {
            (true, _) => Condition::Ready,
            (false, true) => Condition::ServingTerminating,
            (false, false) => Condition::NotServing,
        }
    }
}

impl Node {
    fn has(&self, endpoint: &Endpoint) -> bool {
        self.name.is_some() && endpoint.details().node_name == self.name
    }
}

/// Where the hints are taken from, and whose traffic they are asked for.
#[derive(Clone, Copy)]
struct Hints<'a> {
    node: &'a Node,
    source: Source,
}

#[derive(Clone, Copy, PartialEq)]
enum Source {
    /// The slices.
    Slices,
    /// Where the endpoints are, because no slice says.
    Distribution(TrafficDistribution),
    None,
}

/// What an endpoint's hint says to this node.
#[derive(Clone, Copy, PartialEq)]
enum Hint {
    Absent,
    Yours,
    NotYours,
}

impl<'a> Hints<'a> {
    fn of(all: &All<'_>, wanted: Wanted<'a>) -> Hints<'a> {
        let is_hinted = |listed: &Listed<'_>| {
            !listed.endpoint.details().for_zones.is_empty()
                || !listed.endpoint.details().for_nodes.is_empty()
        };
        let source = if all.values().any(is_hinted) {
            Source::Slices
        } else {
            let distribution = wanted.entry.service.traffic_distribution;
            distribution.map_or(Source::None, Source::Distribution)
        };
        Hints { node: wanted.node, source }
    }

    /// Hints are followed if all ready endpoints have one and one of them is for here: a hint
    /// must never leave a client without an endpoint.
    fn scope(self, all: &All<'_>) -> Scope {
        if self.source == Source::None {
            return Scope::Cluster;
        }
        for scope in [Scope::SameNode, Scope::SameZone] {
            let ready = all.values().filter(|listed| listed.condition == Condition::Ready);
            let (mut all_have_one, mut any_is_ours) = (true, false);
            for listed in ready {
                let hint = self.hint(listed.endpoint, scope);
                all_have_one &= hint != Hint::Absent;
                any_is_ours |= hint == Hint::Yours;
            }
            if all_have_one && any_is_ours {
                return scope;
            }
        }
        Scope::Cluster
    }

    fn is_near(self, endpoint: &Endpoint, scope: Scope) -> bool {
        match scope {
            Scope::Cluster | Scope::Local => true,
            Scope::SameZone | Scope::SameNode => self.hint(endpoint, scope) == Hint::Yours,
        }
    }

    fn hint(self, endpoint: &Endpoint, scope: Scope) -> Hint {
        let Node { name, zone, zones, .. } = self.node;
        let on_node = self.node.has(endpoint);
        let at_place = |place: Option<&_>, ours: bool| match place {
            None => Hint::Absent,
            Some(_) if ours => Hint::Yours,
            Some(_) => Hint::NotYours,
        };
        match (self.source, scope) {
            (Source::Slices, Scope::SameNode) => {
                listed_hint(&endpoint.details().for_nodes, name.as_deref())
            }
            (Source::Slices, Scope::SameZone) => {
                listed_hint(&endpoint.details().for_zones, zone.as_deref())
            }
            (Source::Distribution(TrafficDistribution::PreferSameNode), Scope::SameNode) => {
                at_place(endpoint.details().node_name.as_ref(), on_node)
            }
            (Source::Distribution(_), Scope::SameZone) => {
                let of_its_node = || zones.get(endpoint.details().node_name.as_ref()?);
                let its = endpoint.details().zone.as_ref().or_else(of_its_node);
                at_place(its, its == zone.as_ref())
            }
            _ => Hint::Absent,
        }
    }
}

fn listed_hint(names: &[Arc<str>], ours: Option<&str>) -> Hint {
    match ours {
        _ if names.is_empty() => Hint::Absent,
        Some(ours) if names.iter().any(|name| **name == *ours) => Hint::Yours,
        _ => Hint::NotYours,
    }
}

/// Ready endpoints on this node, each counted once, in the family that has more of them.
pub(super) fn ready_on_node(entry: &ServiceEntry, node: &Node) -> usize {
    let published = entry.service.publish_not_ready_addresses;
    let mut ips: [BTreeSet<IpAddr>; 2] = Default::default();
    for endpoint in entry.slices.iter().flat_map(|slice| &slice.endpoints) {
        let is_ready = Condition::of(endpoint, published) == Condition::Ready;
        if let (true, true, Some(ip)) = (is_ready, node.has(endpoint), endpoint.ip()) {
            ips[Family::of(ip) as usize].insert(ip);
        }
    }
    ips.iter().map(BTreeSet::len).max().unwrap_or_default()
}
