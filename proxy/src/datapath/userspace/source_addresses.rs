//! Local addresses that connections to endpoints leave from.
//!
//! The kernel chooses the address, and a port that is free towards the endpoint: about 28,000
//! unless `net.ipv4.ip_local_port_range` says otherwise, of which each is taken for a minute more
//! where the client closed first (TIME_WAIT). When none is left, the other addresses of the same
//! interface are tried. Those are asked for only then, and the one that worked is remembered for
//! a while, because each search for a port costs the kernel a look at all of them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use rustix::io::Errno;

/// How long the kernel is not asked again for a port of an address that had none left.
const EXHAUSTED_FOR: Duration = Duration::from_secs(1);
/// Endpoints that are remembered; beyond it all are forgotten, and asked for anew.
const MAX_ENDPOINTS: usize = 1024;

/// What one data thread knows of endpoints without a free local port.
#[derive(Debug, Default)]
pub(super) struct SourceAddresses {
    exhausted: HashMap<SocketAddr, Exhausted>,
}

#[derive(Debug)]
struct Exhausted {
    until: Instant,
    /// Where else to connect from.
    sources: Vec<IpAddr>,
    /// How many of them have no port left either.
    passed: usize,
}

/// What came of a connect.
#[derive(Debug)]
pub(super) struct Connected<T> {
    pub(super) result: Result<T, Errno>,
    /// An address without a free port was met.
    pub(super) is_exhausted: bool,
}

impl SourceAddresses {
    /// Connects from the address that the kernel chooses, or from another one of the same
    /// interface when no port is left there. `connect` gets the address to connect from, or
    /// `None` for the kernel's choice.
    pub(super) fn connect<T>(
        &mut self,
        endpoint: SocketAddr,
        now: Instant,
        mut connect: impl FnMut(Option<IpAddr>) -> Result<T, Errno>,
    ) -> Connected<T> {
        let known = match self.exhausted.get_mut(&endpoint) {
            Some(known) if now < known.until => known,
            _ => {
                let result = connect(None);
                if !result.as_ref().is_err_and(|error| is_exhausted(*error)) {
                    return Connected { result, is_exhausted: false };
                }
                if self.exhausted.len() >= MAX_ENDPOINTS {
                    self.exhausted.clear();
                }
                let sources = beside_default(endpoint);
                let known = Exhausted { until: now + EXHAUSTED_FOR, sources, passed: 0 };
                self.exhausted.entry(endpoint).insert_entry(known).into_mut()
            }
        };
        while let Some(source) = known.sources.get(known.passed) {
            let result = connect(Some(*source));
            if !result.as_ref().is_err_and(|error| is_exhausted(*error)) {
                return Connected { result, is_exhausted: true };
            }
            known.passed += 1;
        }
        Connected { result: Err(Errno::ADDRNOTAVAIL), is_exhausted: true }
    }
}

/// Whether no local port was left: `EADDRNOTAVAIL` for TCP, `EAGAIN` for UDP (connect(2)).
fn is_exhausted(error: Errno) -> bool {
    matches!(error, Errno::ADDRNOTAVAIL | Errno::AGAIN)
}

/// The addresses beside the one that the kernel chooses towards the endpoint, on the same
/// interface.
fn beside_default(endpoint: SocketAddr) -> Vec<IpAddr> {
    let Some(default) = default_source(endpoint) else { return Vec::new() };
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let all: Vec<(String, IpAddr)> =
        all.filter_map(|one| Some((one.interface_name.clone(), ip_of(&one)?))).collect();
    let Some((interface, _)) = all.iter().find(|(_, ip)| *ip == default) else { return Vec::new() };
    let beside = |(name, ip): &&(String, IpAddr)| {
        name == interface && *ip != default && ip.is_ipv4() == default.is_ipv4()
    };
    all.iter().filter(beside).map(|(_, ip)| *ip).filter(|ip| !is_link_local(*ip)).collect()
}

/// Asks the routes, without sending anything.
fn default_source(endpoint: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr =
        if endpoint.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(endpoint).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn ip_of(interface: &InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> SocketAddr {
        "127.0.0.1:9".parse().unwrap()
    }

    #[test]
    fn the_next_address_is_tried_when_no_port_is_left() {
        let now = Instant::now();
        let mut sources = SourceAddresses::default();
        let others: Vec<IpAddr> = ["10.0.0.2", "10.0.0.3"].map(|ip| ip.parse().unwrap()).into();
        let known = Exhausted { until: now + EXHAUSTED_FOR, sources: others.clone(), passed: 0 };
        sources.exhausted.insert(endpoint(), known);
        let mut tried = Vec::new();
        let mut connect = |sources: &mut SourceAddresses, now, works: Option<IpAddr>| {
            tried.clear();
            let connected = sources.connect(endpoint(), now, |source| {
                tried.push(source);
                if source == works { Ok(()) } else { Err(Errno::ADDRNOTAVAIL) }
            });
            (connected.result, connected.is_exhausted, tried.clone())
        };
        let [first, second] = [Some(others[0]), Some(others[1])];
        assert_eq!(connect(&mut sources, now, second), (Ok(()), true, vec![first, second]));
        // The first is not asked again at once.
        assert_eq!(connect(&mut sources, now, second), (Ok(()), true, vec![second]));
        let none = Err(Errno::ADDRNOTAVAIL);
        assert_eq!(connect(&mut sources, now, first), (none, true, vec![second]));
        assert_eq!(connect(&mut sources, now, first), (none, true, vec![]));
        // After a while the kernel chooses again.
        let later = now + EXHAUSTED_FOR;
        assert_eq!(connect(&mut sources, later, None), (Ok(()), false, vec![None]));
    }

    #[test]
    fn other_errors_are_of_the_endpoint() {
        let mut sources = SourceAddresses::default();
        let connected =
            sources.connect(endpoint(), Instant::now(), |_| Err::<(), _>(Errno::CONNREFUSED));
        assert_eq!((connected.result, connected.is_exhausted), (Err(Errno::CONNREFUSED), false));
        assert!(sources.exhausted.is_empty());
    }
}
