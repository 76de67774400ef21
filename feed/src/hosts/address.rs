//! Addresses that hosts resolve to.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Loopback and link-local addresses: on this machine they mean something else than where the name
/// was written.
pub(crate) fn is_local(ip: &IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

/// The addresses in order, each once: what a name resolves to is compared with what it did.
pub(super) fn sorted(ips: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    ips.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}
