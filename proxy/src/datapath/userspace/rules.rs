//! What a frontend has beyond its endpoints' turns: clients that may come, and clients that keep
//! their endpoint.
//!
//! Most frontends have neither; then no connection pays for it, not even by asking who its client
//! is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use balance::Affinity;
use ipnet::IpNet;
use tokio::time::Instant;

use super::serving::{Endpoint, Serving, now_ms};

#[derive(Debug)]
pub(super) struct Rules {
    /// Clients that may come; `None` for all.
    sources: Option<Arc<[IpNet]>>,
    sticky: Option<Sticky>,
}

/// Clients keep their endpoint.
#[derive(Debug)]
struct Sticky {
    affinity: Arc<Affinity>,
    timeout: Duration,
    /// The endpoints that serve, ordered by address.
    endpoints: Box<[Arc<Endpoint>]>,
}

/// A client that uses its endpoint.
#[derive(Debug)]
pub(super) struct Stay {
    affinity: Arc<Affinity>,
    client: IpAddr,
    endpoint: SocketAddr,
}

impl Rules {
    /// `endpoints`: those that serve, ordered by address.
    pub(super) fn new(
        sources: Option<Arc<[IpNet]>>,
        affinity: Option<(Arc<Affinity>, Duration)>,
        endpoints: &[Arc<Endpoint>],
    ) -> Option<Box<Rules>> {
        debug_assert!(endpoints.is_sorted_by_key(|endpoint| endpoint.addr));
        let sticky = affinity.map(|(affinity, timeout)| Sticky {
            affinity,
            timeout,
            endpoints: endpoints.into(),
        });
        let has_any = sources.is_some() || sticky.is_some();
        has_any.then(|| Box::new(Rules { sources, sticky }))
    }
}

impl Serving {
    pub(super) fn sources(&self) -> Option<&Arc<[IpNet]>> {
        self.rules.as_ref()?.sources.as_ref()
    }

    /// Whether the client may come; one that is not known may where all may.
    pub(super) fn admits(&self, client: Option<IpAddr>) -> bool {
        let Some(sources) = self.sources() else { return true };
        client.is_some_and(|client| sources.iter().any(|net| net.contains(&client)))
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
        let sticky = self.rules.as_ref().and_then(|rules| rules.sticky.as_ref());
        let (Some(sticky), Some(client)) = (sticky, client) else {
            return self.next_in_turn(suits);
        };
        let keep = |addr| {
            let place = sticky.endpoints.binary_search_by_key(&addr, |endpoint| endpoint.addr);
            sticky.endpoints.get(place.ok()?).filter(|endpoint| suits(endpoint))
        };
        let pick = || self.next_in_turn(&suits).map(|endpoint| (endpoint.addr, endpoint));
        let time = (sticky.timeout, Instant::now().into_std());
        sticky.affinity.endpoint(client, time, keep, pick)
    }

    fn next_in_turn(&self, suits: impl Fn(&Arc<Endpoint>) -> bool) -> Option<&Arc<Endpoint>> {
        self.rotation.pick(suits, now_ms)
    }

    /// Notes that the client uses an endpoint, if it is to keep it.
    pub(super) fn stay(&self, client: Option<IpAddr>, endpoint: &Endpoint) -> Option<Stay> {
        let affinity = self.rules.as_ref()?.sticky.as_ref()?.affinity.clone();
        Some(Stay { affinity, client: client?, endpoint: endpoint.addr })
    }
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
