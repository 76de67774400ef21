//! A frontend as the data threads see it.
//!
//! One [`FrontendCell`] for each frontend, shared by control and all data threads. Control swaps
//! its [`FrontendState`]; a data thread loads it once for each connection or session.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use balance::Rotation;
use ipnet::IpNet;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::rules::{AffinityPin, InCluster, Rules};
use crate::clock::now_ms;
use crate::metrics::Meter;

#[derive(Debug, Default)]
pub(super) struct FrontendCell {
    pub(super) state: ArcSwap<FrontendState>,
}

/// The endpoints of a frontend in their rotation, and where the traffic of its Service is counted.
#[derive(Debug, Default)]
pub(super) struct FrontendState {
    pub(super) rotation: Arc<Rotation<Arc<Endpoint>>>,
    pub(super) meter: Arc<Meter>,
    /// Absent when all clients may connect, get the same endpoints and keep none.
    pub(super) rules: Option<Box<Rules>>,
    /// Endpoints are told the client's address in a PROXY header.
    pub(super) proxy_protocol: bool,
}

impl FrontendState {
    pub(super) fn sources(&self) -> Option<&Arc<[IpNet]>> {
        self.rules.as_ref()?.sources.as_ref()
    }

    pub(super) fn in_cluster(&self) -> Option<&InCluster> {
        self.rules.as_ref()?.in_cluster.as_ref()
    }

    /// Whether the client may connect. A client without a known address may only where all may.
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

    /// The endpoint for a new connection or session: the one that the client keeps, or the next
    /// of the rotation.
    ///
    /// A client keeps its endpoint until the endpoint fails for this client: that it failed for
    /// another client is no reason to lose a session.
    pub(super) fn pick(
        &self,
        client: Option<IpAddr>,
        suits: impl Fn(&Arc<Endpoint>) -> bool,
    ) -> Option<&Arc<Endpoint>> {
        let Some(rules) = &self.rules else { return pick_next(&self.rotation, suits) };
        let inside = self.in_cluster_for(client);
        let rotation = inside.map_or(&self.rotation, |inside| &inside.rotation);
        let (Some(sticky), Some(client)) = (&rules.sticky, client) else {
            return pick_next(rotation, suits);
        };
        let endpoints = inside.map_or(&sticky.endpoints, |inside| &inside.endpoints);
        let keep = |addr| {
            let place = endpoints.binary_search_by_key(&addr, |endpoint| endpoint.addr());
            endpoints.get(place.ok()?).filter(|endpoint| suits(endpoint))
        };
        let pick = || pick_next(rotation, &suits).map(|endpoint| (endpoint.addr(), endpoint));
        let time = (sticky.timeout, Instant::now().into_std());
        sticky.affinity.endpoint(client, time, keep, pick)
    }

    /// Notes that the client uses an endpoint, if clients of this frontend keep theirs.
    pub(super) fn pin(&self, client: Option<IpAddr>, endpoint: &Endpoint) -> Option<AffinityPin> {
        Some(self.rules.as_ref()?.sticky.as_ref()?.pin(client?, endpoint))
    }
}

fn pick_next(
    rotation: &Rotation<Arc<Endpoint>>,
    suits: impl Fn(&Arc<Endpoint>) -> bool,
) -> Option<&Arc<Endpoint>> {
    rotation.pick(suits, now_ms)
}
