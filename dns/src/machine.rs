//! This machine's own addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;

/// The most addresses that `ns.dns.<domain>` has in each family; more would be useless.
const MAX_NAME_SERVER_IPS: usize = 4;

/// The addresses of all interfaces.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "cannot list this machine's addresses");
            return Vec::new();
        }
    };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    });
    addresses.collect()
}

/// The addresses at which this server can be asked, as far as it knows: those that it listens on,
/// or, for an unspecified address, those of the interfaces that other machines can reach.
pub(crate) fn name_server_ips(listeners: &[SocketAddr], addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = Vec::new();
    for listener in listeners.iter().map(SocketAddr::ip) {
        if !listener.is_unspecified() {
            ips.push(listener);
            continue;
        }
        let both = listener.is_ipv6();
        let reachable = addresses.iter().filter(|ip| is_reachable(**ip) && (both || ip.is_ipv4()));
        ips.extend(reachable);
    }
    if ips.is_empty() {
        ips.push(Ipv4Addr::LOCALHOST.into());
    }
    let mut kept: Vec<IpAddr> = Vec::new();
    for ip in ips {
        let of_family = kept.iter().filter(|other| other.is_ipv4() == ip.is_ipv4()).count();
        if of_family < MAX_NAME_SERVER_IPS && !kept.contains(&ip) {
            kept.push(ip);
        }
    }
    kept
}

fn is_reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_name_server() {
        let check = |listeners: &[&str], addresses: &[&str], expected: &[&str]| {
            let listeners: Vec<_> = listeners.iter().map(|addr| addr.parse().unwrap()).collect();
            let addresses: Vec<_> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
            let ips = name_server_ips(&listeners, &addresses);
            let ips: Vec<_> = ips.iter().map(ToString::to_string).collect();
            assert_eq!(ips, expected, "{listeners:?} {addresses:?}");
        };
        let machine = ["127.0.0.1", "10.0.0.5", "::1", "fe80::1", "fd00::5", "169.254.1.1"];
        check(&["127.0.0.2:53"], &machine, &["127.0.0.2"]);
        check(&["0.0.0.0:53"], &machine, &["10.0.0.5"]);
        check(&["[::]:53"], &machine, &["10.0.0.5", "fd00::5"]);
        check(&["0.0.0.0:53", "10.0.0.5:54"], &machine, &["10.0.0.5"]);
        check(&["0.0.0.0:53"], &["127.0.0.1"], &["127.0.0.1"]);
        let many = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];
        check(&["0.0.0.0:53"], &many, &many[..4]);
    }
}
