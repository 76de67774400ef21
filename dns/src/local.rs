//! Answers about names outside the zone that need no upstream: those of `--hosts`, and names that
//! the DNS of the internet does not know by design, such as `localhost` and private addresses.
//!
//! Pure. A [`Local`] is immutable; a changed file makes a new one. It is asked after the zone and
//! before anything is forwarded. Left out: reading the file, and the choice of upstreams.

mod asked;
mod hosts;
mod special;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::forward::routes::Routes;
use crate::wire::Rcode;
use crate::wire::reply::Reply;
use crate::zone::Zone;

pub(crate) use asked::Asked;
pub(crate) use hosts::{BadLine, Hosts};
use special::Known;

/// What is answered without upstreams.
#[derive(Clone, Debug, Default)]
pub(crate) struct Local {
    pub(crate) hosts: Arc<Hosts>,
    /// Special names that `--forward` names are forwarded.
    pub(crate) routes: Arc<Routes>,
    /// The TTL of names that may change, in seconds.
    pub(crate) ttl: u32,
}

impl Local {
    /// Answers a question about a name that is in none of our zones. `None` if upstreams may know
    /// the answer; then the reply is unchanged.
    pub(crate) fn answer(
        &self,
        zone: &Zone,
        asked: &Asked<'_>,
        reply: &mut Reply<'_>,
    ) -> Option<Rcode> {
        let by_hosts = self.hosts.answer(asked, self.ttl, reply);
        by_hosts.or_else(|| {
            let known = Known { zone, hosts: &self.hosts, routes: &self.routes, ttl: self.ttl };
            special::answer(&known, asked, reply)
        })
    }
}
