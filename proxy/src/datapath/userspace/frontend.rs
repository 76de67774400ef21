//! A frontend as the data threads see it.
//!
//! One [`FrontendCell`] for each frontend, shared by control and all data threads. Control swaps
//! its [`FrontendState`]; a data thread loads it once for each connection or session.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::rules::{AffinityPin, Rules, StickyClients};
use crate::metrics::Meter;
use crate::pick::Rotation;

#[derive(Debug, Default)]
pub(super) struct FrontendCell {
    pub(super) state: ArcSwap<FrontendState>,
}

/// The endpoints of a frontend in their rotation, and where the traffic of its Service is counted.
#[derive(Debug, Default)]
pub(super) struct FrontendState {
    pub(super) rotation: Arc<Rotation<Arc<Endpoint>>>,
    pub(super) meter: Arc<Meter>,
    /// Absent when all clients are allowed and none keeps its endpoint.
    pub(super) rules: Option<Box<Rules>>,
    /// Endpoints are told the client's address in a PROXY header.
    pub(super) proxy_protocol: bool,
}

impl FrontendState {
    /// The clients that are allowed; `None` for all.
    pub(super) fn sources(&self) -> Option<&Arc<[IpNet]>> {
        self.rules.as_ref()?.sources.as_ref()
    }

    /// Whether the client is allowed. A client without a known address is allowed only where all
    /// are.
    pub(super) fn admits(&self, client: Option<IpAddr>) -> bool {
        let Some(sources) = self.sources() else { return true };
        client.is_some_and(|client| sources.iter().any(|net| net.contains(&client)))
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
        let (Some(sticky), Some(client)) = (self.sticky(), client) else {
            return self.pick_next(suits);
        };
        let keep = |addr| sticky.endpoint(addr).filter(|endpoint| suits(endpoint));
        let pick = || self.pick_next(&suits).map(|endpoint| (endpoint.addr, endpoint));
        let time = (sticky.timeout, Instant::now().into_std());
        sticky.affinity.endpoint(client, time, keep, pick)
    }

    fn pick_next(&self, suits: impl Fn(&Arc<Endpoint>) -> bool) -> Option<&Arc<Endpoint>> {
        let picked = self.rotation.pick(suits, |endpoint| endpoint.rests())?;
        picked.picked();
        Some(picked)
    }

    /// Notes that the client uses an endpoint, if clients of this frontend keep theirs.
    pub(super) fn pin(&self, client: Option<IpAddr>, endpoint: &Endpoint) -> Option<AffinityPin> {
        Some(self.sticky()?.pin(client?, endpoint))
    }

    fn sticky(&self) -> Option<&StickyClients> {
        self.rules.as_ref()?.sticky.as_ref()
    }
}
