//! What a frontend has beyond one rotation of endpoints: source ranges, session affinity, and
//! other endpoints for clients within the cluster.
//!
//! Most frontends have none of these. Then no connection pays for them, not even by asking for its
//! client's address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use balance::{Affinity, Rotation};
use ipnet::IpNet;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use crate::cluster_clients::ClusterClients;

#[derive(Debug)]
pub(super) struct Rules {
    /// Clients that may connect; `None` for all.
    pub(super) sources: Option<Arc<[IpNet]>>,
    pub(super) sticky: Option<StickyClients>,
    pub(super) in_cluster: Option<InCluster>,
}

/// Clients keep their endpoint (session affinity).
#[derive(Debug)]
pub(super) struct StickyClients {
    pub(super) affinity: Arc<Affinity>,
    pub(super) timeout: Duration,
    /// The endpoints of the rotation for clients outside the cluster, ordered by address.
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

/// One connection's or session's use of the endpoint that its client keeps.
#[derive(Debug)]
pub(super) struct AffinityPin {
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

impl StickyClients {
    pub(super) fn pin(&self, client: IpAddr, endpoint: &Endpoint) -> AffinityPin {
        AffinityPin { affinity: self.affinity.clone(), client, endpoint: endpoint.addr() }
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
