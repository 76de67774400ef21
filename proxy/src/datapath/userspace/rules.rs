//! What a frontend has beyond one set of endpoints that take turns: source ranges, clients that
//! keep their endpoint, and other endpoints for clients within the cluster.
//!
//! Most frontends have none of these; then no connection pays for them, not even by asking who
//! its client is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::serving::{Endpoint, Serving};
use crate::affinity::Affinity;
use crate::cluster_clients::ClusterClients;
use crate::pick::Rotation;

#[derive(Debug)]
pub(super) struct Rules {
    /// Clients that may connect; `None` for all.
    pub(super) sources: Option<Arc<[IpNet]>>,
    pub(super) sticky: Option<Sticky>,
    pub(super) in_cluster: Option<InCluster>,
}

/// Clients keep their endpoint.
#[derive(Debug)]
pub(super) struct Sticky {
    pub(super) affinity: Arc<Affinity>,
    pub(super) timeout: Duration,
    /// The endpoints of [`Serving::rotation`], ordered by address.
    pub(super) endpoints: Box<[Arc<Endpoint>]>,
}

/// Clients within the cluster have endpoints of their own: traffic policy `Local` is for clients
/// outside it.
#[derive(Debug)]
pub(super) struct InCluster {
    pub(super) clients: Arc<ClusterClients>,
    pub(super) rotation: Arc<Rotation<Arc<Endpoint>>>,
    /// The same endpoints, ordered by address.
    pub(super) endpoints: Box<[Arc<Endpoint>]>,
}

/// A client that uses its endpoint.
#[derive(Debug)]
pub(super) struct Stay {
    affinity: Arc<Affinity>,
    client: IpAddr,
    endpoint: SocketAddr,
}

impl Rules {
    /// `None` when there is no rule.
    pub(super) fn boxed(self) -> Option<Box<Rules>> {
        let has_any = self.sources.is_some() || self.sticky.is_some() || self.in_cluster.is_some();
        has_any.then(|| Box::new(self))
    }
}

impl Serving {
    pub(super) fn sources(&self) -> Option<&Arc<[IpNet]>> {
        self.rules.as_ref()?.sources.as_ref()
    }

    pub(super) fn in_cluster(&self) -> Option<&InCluster> {
        self.rules.as_ref()?.in_cluster.as_ref()
    }

    /// Whether the client may connect; one that is not known may where all may.
    pub(super) fn admits(&self, client: Option<IpAddr>) -> bool {
        let Some(rules) = &self.rules else { return true };
        let in_range = |ranges: &Arc<[IpNet]>| {
            client.is_some_and(|client| ranges.iter().any(|range| range.contains(&client)))
        };
        rules.sources.as_ref().is_none_or(in_range)
            && (rules.in_cluster.is_none() || !self.rotation_for(client).members().is_empty())
    }

    /// The endpoints that serve the client, in turn.
    pub(super) fn rotation_for(&self, client: Option<IpAddr>) -> &Rotation<Arc<Endpoint>> {
        self.in_cluster_for(client).map_or(&self.rotation, |inside| &inside.rotation)
    }

    fn in_cluster_for(&self, client: Option<IpAddr>) -> Option<&InCluster> {
        self.in_cluster().filter(|inside| client.is_some_and(|ip| inside.clients.contains(ip)))
    }

    /// Whether a UDP session of the client may stay with its endpoint.
    pub(super) fn keeps(&self, client: IpAddr, endpoint: &Endpoint) -> bool {
        let is_chosen = || {
            let mut members = self.rotation_for(Some(client)).members().iter();
            self.in_cluster().is_none() || members.any(|member| **member == *endpoint)
        };
        endpoint.is_serving() && self.admits(Some(client)) && is_chosen()
    }

    /// The endpoint for a new connection or session: the client's own, or whose turn it is.
    ///
    /// A client keeps its endpoint until that fails itself: what it did to another client is no
    /// reason to lose a session.
    pub(super) fn pick(
        &self,
        client: Option<IpAddr>,
        suits: impl Fn(&Arc<Endpoint>) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let Some(rules) = &self.rules else { return next_in_turn(&self.rotation, suits) };
        let inside = self.in_cluster_for(client);
        let rotation = inside.map_or(&self.rotation, |inside| &inside.rotation);
        let (Some(sticky), Some(client)) = (&rules.sticky, client) else {
            return next_in_turn(rotation, suits);
        };
        let endpoints = inside.map_or(&sticky.endpoints, |inside| &inside.endpoints);
        let keep = |addr| {
            let place = endpoints.binary_search_by_key(&addr, |endpoint| endpoint.addr);
            endpoints.get(place.ok()?).filter(|endpoint| suits(endpoint))
        };
        let pick = || next_in_turn(rotation, &suits).map(|endpoint| (endpoint.addr, endpoint));
        let time = (sticky.timeout, Instant::now().into_std());
        sticky.affinity.endpoint(client, time, keep, pick)
    }

    /// Notes that the client uses an endpoint, if it is to keep it.
    pub(super) fn stay(&self, client: Option<IpAddr>, endpoint: &Endpoint) -> Option<Stay> {
        let affinity = self.rules.as_ref()?.sticky.as_ref()?.affinity.clone();
        Some(Stay { affinity, client: client?, endpoint: endpoint.addr })
    }
}

fn next_in_turn(
    rotation: &Rotation<Arc<Endpoint>>,
    suits: impl Fn(&Arc<Endpoint>) -> bool,
) -> Option<&Arc<Endpoint>> {
    let picked = rotation.pick(suits, |endpoint| endpoint.rests())?;
    picked.picked();
    Some(picked)
}

impl Stay {
    /// The client used the endpoint at that time.
    pub(super) fn refresh(&self, used: Instant) {
        self.affinity.refresh(self.client, self.endpoint, used.into_std());
    }

    /// The endpoint refused the client.
    pub(super) fn leave(&self) {
        self.affinity.forget(self.client, self.endpoint);
    }
}
