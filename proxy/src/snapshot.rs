//! What the proxy serves: every frontend with its endpoints, immutable and numbered.
//!
//! Pure. Model → snapshot → data path. [`Snapshot::next`] costs O(the Services that changed): the
//! maps are persistent, so a snapshot shares with the one before it all that did not change, and
//! names the frontends that did.
//!
//! Left out: whether a frontend's address could be bound; only the data path knows that.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;
use model::{Model, ObjectName, Protocol};

use crate::annotations::Ignored;
use crate::resolver::{self, Frontend, FrontendAddress, HealthCheck, Node, Place, Skipped};

/// The frontends of all Services. `clone` is O(1).
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Number of the model's generation that it was made from; 0 before the first.
    pub generation: u64,
    /// The frontends that have their address. Of several Services that claim an address, the first
    /// by namespace and name has it, whatever order they came in.
    holders: imbl::OrdMap<FrontendAddress, Arc<Frontend>>,
    /// The frontends whose address an earlier Service has.
    crowded_out: imbl::OrdMap<(FrontendAddress, ObjectName), Arc<Frontend>>,
    /// The addresses that each Service claims.
    services: imbl::OrdMap<ObjectName, Arc<[FrontendAddress]>>,
    flaws: imbl::OrdMap<ObjectName, Arc<Flaws>>,
    health_checks: imbl::OrdMap<ObjectName, HealthCheck>,
}

/// What of one Service is not served as written. Few Services have any.
#[derive(Debug)]
struct Flaws {
    skipped: Vec<Skipped>,
    ignored: Vec<Ignored>,
}

impl Snapshot {
    /// The snapshot after `changed` Services, and the addresses whose frontend came, changed or
    /// went.
    pub fn next(
        &self,
        model: &Model,
        changed: &BTreeSet<ObjectName>,
        node: &Node,
        generation: u64,
    ) -> (Snapshot, BTreeSet<FrontendAddress>) {
        let mut next = Snapshot { generation, ..self.clone() };
        let mut touched = BTreeSet::new();
        for name in changed {
            touched.extend(next.release(name).iter());
            next.health_checks.remove(name);
            if let Some(entry) = model.service(name) {
                let resolved = resolver::resolve(&entry, node);
                next.health_checks.extend(resolved.health_check.map(|check| (name.clone(), check)));
                touched.extend(next.claim(name, resolved).iter());
            }
        }
        touched.retain(|address| self.frontend(address) != next.frontend(address));
        (next, touched)
    }

    /// The frontend that has the address.
    pub fn frontend(&self, address: &FrontendAddress) -> Option<&Arc<Frontend>> {
        self.holders.get(address)
    }

    /// The frontends that have their address, ordered by it.
    pub fn frontends(&self) -> impl Iterator<Item = &Arc<Frontend>> + '_ {
        self.holders.values()
    }

    /// The frontends whose address an earlier Service has.
    pub fn crowded_out(&self) -> impl Iterator<Item = &Arc<Frontend>> + '_ {
        self.crowded_out.values()
    }

    /// Parts of Services that cannot be served.
    pub fn skipped(&self) -> impl Iterator<Item = (&ObjectName, &Skipped)> + '_ {
        let all = self.flaws.iter();
        all.flat_map(|(name, flaws)| flaws.skipped.iter().map(move |skipped| (name, skipped)))
    }

    /// Annotations that are ignored.
    pub fn ignored(&self) -> impl Iterator<Item = (&ObjectName, &Ignored)> + '_ {
        let all = self.flaws.iter();
        all.flat_map(|(name, flaws)| flaws.ignored.iter().map(move |ignored| (name, ignored)))
    }

    /// Annotations of these Services that are ignored, and were not before.
    pub fn newly_ignored<'a>(
        &'a self,
        before: &'a Snapshot,
        changed: &'a BTreeSet<ObjectName>,
    ) -> impl Iterator<Item = (&'a ObjectName, &'a Ignored)> + 'a {
        let of = |snapshot: &'a Snapshot, name: &ObjectName| {
            snapshot.flaws.get(name).map_or(&[][..], |flaws| &flaws.ignored[..])
        };
        changed.iter().flat_map(move |name| {
            let known = of(before, name);
            let now = of(self, name).iter().filter(move |ignored| !known.contains(ignored));
            now.map(move |ignored| (name, ignored))
        })
    }

    /// What a load balancer is to be told of the Service.
    pub fn health_check(&self, name: &ObjectName) -> Option<HealthCheck> {
        self.health_checks.get(name).copied()
    }

    /// What load balancers are to be told, by Service.
    pub fn health_checks(&self) -> impl Iterator<Item = (&ObjectName, &HealthCheck)> + '_ {
        self.health_checks.iter()
    }

    /// Whether the Service has any frontend, with or without its address.
    pub fn has_service(&self, name: &ObjectName) -> bool {
        self.services.contains_key(name)
    }

    fn release(&mut self, name: &ObjectName) -> Arc<[FrontendAddress]> {
        self.flaws.remove(name);
        let addresses = self.services.remove(name).unwrap_or_default();
        for address in &*addresses {
            match self.holders.get(address) {
                Some(holder) if holder.service == *name => self.pass_on(*address),
                _ => drop(self.crowded_out.remove(&(*address, name.clone()))),
            }
        }
        addresses
    }

    /// Takes an address from its holder, for the next Service that claims it.
    fn pass_on(&mut self, address: FrontendAddress) {
        self.holders.remove(&address);
        let first = (address, ObjectName::new("", ""));
        let next = self.crowded_out.range(first..).next();
        let next = next.map(|(claim, _)| claim.clone()).filter(|claim| claim.0 == address);
        let frontend = next.and_then(|claim| self.crowded_out.remove(&claim));
        self.holders.extend(frontend.map(|frontend| (address, frontend)));
    }

    fn claim(
        &mut self,
        name: &ObjectName,
        resolved: resolver::Resolution,
    ) -> Arc<[FrontendAddress]> {
        let addresses: Arc<[_]> = resolved.frontends.iter().map(|f| f.address).collect();
        for frontend in resolved.frontends {
            self.claim_one(Arc::new(frontend));
        }
        if !addresses.is_empty() {
            self.services.insert(name.clone(), addresses.clone());
        }
        let resolver::Resolution { skipped, ignored, .. } = resolved;
        if !skipped.is_empty() || !ignored.is_empty() {
            self.flaws.insert(name.clone(), Arc::new(Flaws { skipped, ignored }));
        }
        addresses
    }

    fn claim_one(&mut self, frontend: Arc<Frontend>) {
        let address = frontend.address;
        let later = match self.holders.get(&address) {
            Some(holder) if holder.service < frontend.service => Some(frontend),
            _ => self.holders.insert(address, frontend),
        };
        let claim = |later: Arc<Frontend>| ((address, later.service.clone()), later);
        self.crowded_out.extend(later.map(claim));
    }
}

/// The service range that an endpoint is in, if no frontend of a Service has its address: nothing
/// answers there, because the host owns the range.
pub(crate) fn range_without_owner<'a>(
    snapshot: &Snapshot,
    (protocol, endpoint): (Protocol, SocketAddr),
    ranges: &'a [IpNet],
) -> Option<&'a IpNet> {
    let range = ranges.iter().find(|range| range.contains(&endpoint.ip()))?;
    let port = NonZeroU16::new(endpoint.port())?;
    let address = FrontendAddress { place: Place::Ip(endpoint.ip()), port, protocol };
    snapshot.frontend(&address).is_none().then_some(range)
}

pub(crate) fn in_range_text(range: &IpNet) -> String {
    format!(
        "connections to it are refused: it is inside --service-cidr {range}, which makes the \
         address this host's own. Use a range without endpoints, or another endpoint"
    )
}

#[cfg(test)]
mod tests;
