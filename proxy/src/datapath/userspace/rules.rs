//! What a frontend has beyond the rotation of its endpoints: source ranges, and session affinity.
//!
//! Most frontends have neither. Then no connection pays for it, not even by asking for its
//! client's address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use crate::affinity::Affinity;

#[derive(Debug)]
pub(super) struct Rules {
    /// The clients that are allowed; `None` for all.
    pub(super) sources: Option<Arc<[IpNet]>>,
    pub(super) sticky: Option<StickyClients>,
}

/// Clients keep their endpoint (session affinity).
#[derive(Debug)]
pub(super) struct StickyClients {
    pub(super) affinity: Arc<Affinity>,
    pub(super) timeout: Duration,
    /// The endpoints that serve, ordered by address.
    endpoints: Box<[Arc<Endpoint>]>,
}

/// One connection's or session's use of the endpoint that its client keeps.
#[derive(Debug)]
pub(super) struct AffinityPin {
    affinity: Arc<Affinity>,
    client: IpAddr,
    endpoint: SocketAddr,
}

impl Rules {
    /// `endpoints`: those that serve, ordered by address. `None` when no rule applies.
    pub(super) fn new(
        sources: Option<Arc<[IpNet]>>,
        affinity: Option<(Arc<Affinity>, Duration)>,
        endpoints: &[Arc<Endpoint>],
    ) -> Option<Box<Rules>> {
        debug_assert!(endpoints.is_sorted_by_key(|endpoint| endpoint.addr));
        let sticky = affinity.map(|(affinity, timeout)| StickyClients {
            affinity,
            timeout,
            endpoints: endpoints.into(),
        });
        let has_any = sources.is_some() || sticky.is_some();
        has_any.then(|| Box::new(Rules { sources, sticky }))
    }
}

impl StickyClients {
    /// The endpoint with this address, if it serves.
    pub(super) fn endpoint(&self, addr: SocketAddr) -> Option<&Arc<Endpoint>> {
        let position = self.endpoints.binary_search_by_key(&addr, |endpoint| endpoint.addr);
        self.endpoints.get(position.ok()?)
    }

    pub(super) fn pin(&self, client: IpAddr, endpoint: &Endpoint) -> AffinityPin {
        AffinityPin { affinity: self.affinity.clone(), client, endpoint: endpoint.addr }
    }
}

impl AffinityPin {
    /// The client used the endpoint at that time.
    pub(super) fn refresh(&self, used: Instant) {
        self.affinity.refresh(self.client, self.endpoint, used.into_std());
    }

    /// The endpoint refused the client: the client moves to another one.
    pub(super) fn leave(&self) {
        self.affinity.forget(self.client, self.endpoint);
    }
}
