//! What the control side asks of a mode.
//!
//! Control owns everything that does not depend on how traffic reaches the endpoints: the
//! snapshot, the room for descriptors, the set of own addresses, health checks, metrics, status
//! and readiness. A mode makes what it programs equal the snapshot and reports what it cannot
//! serve.

pub(crate) mod userspace;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use crate::handover::Offer;
use crate::resolver::FrontendAddress;
use crate::snapshot::Snapshot;

/// Why frontends cannot be served, by address; cheap to clone.
pub(crate) type Failures = imbl::OrdMap<FrontendAddress, Arc<str>>;

/// What a mode says about itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// The frontends that should be served and are not, with the reason. All others of the
    /// snapshot are.
    pub(crate) failures: Failures,
    /// Why no frontend at all is served, although some have endpoints and the reason is not
    /// expected to pass by itself.
    pub(crate) serves_nothing: Option<String>,
    /// Another process holds the address of a frontend.
    pub(crate) waits_for_address: bool,
}

/// One way to bring traffic from frontends to endpoints.
pub(crate) trait Datapath {
    /// As `--mode` spells it.
    const MODE: &str;

    /// Makes the frontends at `changed` addresses equal the snapshot. When it returns, frontends
    /// that are gone refuse, and those that can be served are.
    async fn sync(&mut self, snapshot: &Snapshot, changed: &BTreeSet<FrontendAddress>);

    /// What is served, and what is not and why.
    fn report(&self) -> Report;

    /// When [`Datapath::tend`] next has something to do.
    fn due(&self) -> Option<Instant>;

    /// Does what is due: tries again what could not be served, and ends connections whose drain
    /// time-out is over.
    async fn tend(&mut self);

    /// Takes over addresses of a process that drains; for each, whether it did.
    async fn take_over(&mut self, offers: Vec<Offer>) -> Vec<bool>;

    /// Hands what is served to other processes that wait for it. Returns whether one took any.
    async fn hand_over(&mut self) -> bool;

    /// Stops accepting, waits until all connections have ended or the drain time-out is over,
    /// then ends what is left.
    async fn drain(self);
}
