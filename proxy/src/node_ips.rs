//! Where NodePorts and health checks listen.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::host_network::HostNetwork;
use crate::resolver::Family;
use crate::sockets;

/// Addresses of this host on which a port is served when it cannot be on all at once.
const MAX_NODE_ADDRESSES: usize = 256;

/// Where NodePorts listen: on all addresses of the node, or on those that the operator chose and
/// on loopback, where a user of this machine looks for them. Who chose an address of loopback
/// chose that as well.
pub(crate) fn node_ips(chosen: &[IpAddr]) -> Vec<IpAddr> {
    let has_v6 = sockets::has_ipv6();
    let v4 = |ip: Ipv4Addr| IpAddr::V4(ip);
    let v6 = |ip: Ipv6Addr| has_v6.then_some(IpAddr::V6(ip));
    if chosen.is_empty() {
        return [v4(Ipv4Addr::UNSPECIFIED)].into_iter().chain(v6(Ipv6Addr::UNSPECIFIED)).collect();
    }
    let mut ips = chosen.to_vec();
    if !chosen.iter().any(IpAddr::is_loopback) {
        ips.push(v4(Ipv4Addr::LOCALHOST));
        ips.extend(v6(Ipv6Addr::LOCALHOST));
    }
    ips
}

/// The families that NodePorts are served on.
pub(crate) fn node_families(node_ips: &[IpAddr]) -> Vec<Family> {
    let mut families: Vec<Family> = node_ips.iter().map(|ip| Family::of(*ip)).collect();
    families.sort();
    families.dedup();
    families
}

/// The addresses that a port on all addresses of one family is for, each by itself. Without
/// link-local ones, which only clients on the same link can dial.
pub(crate) fn addresses_of_node(host: &HostNetwork, family: Family, port: u16) -> Vec<SocketAddr> {
    let loopback = [Ipv4Addr::LOCALHOST.into(), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let known = host.addresses.iter().map(|known| known.ip);
    let is_link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let ips = known.chain(loopback).filter(|ip| Family::of(*ip) == family);
    let ips: BTreeSet<IpAddr> = ips.filter(|ip| !is_link_local(*ip)).collect();
    ips.into_iter().take(MAX_NODE_ADDRESSES).map(|ip| SocketAddr::new(ip, port)).collect()
}
