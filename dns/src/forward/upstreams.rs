//! What the data threads share about forwarding: the servers to forward to (`--upstream`, or those
//! of the system's resolver, but never ourselves), who may use them, and how many at a time.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use daemon::quota::Quota;
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;

use crate::metrics::Metrics;

use super::probe::Probes;
use super::routes::{DEFAULT_GROUP, Routes};

/// The port of a DNS server unless another is given.
pub(crate) const DNS_PORT: u16 = 53;

/// Shared by all data threads.
#[derive(Debug)]
pub(crate) struct Forwarding {
    pub(crate) upstreams: ArcSwap<Upstreams>,
    /// The zones with servers of their own.
    pub(crate) routes: Arc<Routes>,
    /// The clients to forward for.
    pub(crate) allow: Vec<IpNet>,
    /// How long to wait for one upstream.
    pub(crate) try_timeout: Duration,
    /// The queries that may wait for upstreams.
    pub(crate) quota: Quota,
    pub(crate) metrics: Metrics,
    pub(crate) probes: Probes,
}

/// The servers to forward to, in this order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upstreams {
    /// Grows when the servers change.
    pub(crate) version: u64,
    pub(crate) servers: Vec<SocketAddr>,
    /// The servers of zones; that of group 1 is the first.
    pub(crate) zones: Arc<[Vec<SocketAddr>]>,
    /// Those that were found to forward to us what we forward to them.
    pub(crate) loops: Vec<SocketAddr>,
}

impl Upstreams {
    pub(crate) fn of(servers: Vec<SocketAddr>, zones: Vec<Vec<SocketAddr>>) -> Upstreams {
        Upstreams { version: 0, servers, zones: zones.into(), loops: Vec::new() }
    }

    /// The servers of a group of [`Routes`].
    pub(crate) fn group(&self, group: usize) -> &[SocketAddr] {
        match group {
            DEFAULT_GROUP => &self.servers,
            zone => &self.zones[zone - 1],
        }
    }

    /// The servers of all groups.
    pub(crate) fn all(&self) -> impl Iterator<Item = SocketAddr> {
        self.servers.iter().chain(self.zones.iter().flatten()).copied()
    }

    /// Whether anything is forwarded.
    pub(crate) fn forwards(&self) -> bool {
        !self.servers.is_empty() || !self.zones.is_empty()
    }

    pub(crate) fn has_address(&self, ip: IpAddr) -> bool {
        self.servers.iter().any(|server| server.ip() == ip)
    }
}

impl Forwarding {
    /// Uses other servers from now on.
    pub(crate) fn set_servers(&self, servers: &[SocketAddr]) {
        self.upstreams.rcu(|before| Upstreams {
            version: before.version + 1,
            servers: servers.to_vec(),
            zones: before.zones.clone(),
            loops: Vec::new(),
        });
    }

    /// Sets which servers forward to us.
    pub(crate) fn set_loops(&self, loops: &[SocketAddr]) {
        self.upstreams.rcu(|before| {
            let mut after = Upstreams::clone(before);
            after.loops = loops.iter().filter(|s| before.servers.contains(s)).copied().collect();
            after
        });
    }
}

/// An upstream as a flag spells it: `IP` or `IP:PORT`.
///
/// # Errors
///
/// A message for the command line.
pub(crate) fn parse_upstream(text: &str) -> Result<SocketAddr, String> {
    const FORMS: &str = "is not an IP address, IP:PORT or [IP]:PORT (examples: 10.0.0.2, \
                         10.0.0.2:5353, [fd00::2]:5353, fe80::1%eth0)";
    if let Ok(server) = text.parse() {
        return Ok(server);
    }
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.rsplit_once("]:"));
    let (ip, port) = match bracketed {
        Some((ip, port)) => (ip, port.parse().map_err(|_| FORMS)?),
        None => (text, DNS_PORT),
    };
    server_at(ip, port).map_err(|problem| match problem {
        Problem::NotAnAddress => FORMS.to_owned(),
        Problem::NoInterface(_) => problem.to_string(),
    })
}

/// Why a text is not the address of a server.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("not an IP address")]
    NotAnAddress,
    #[error("there is no interface `{0}` on this machine")]
    NoInterface(String),
}

/// A server by its IP address, which may have a scope (`fe80::1%eth0`, RFC 4007 section 11).
///
/// # Errors
///
/// What is wrong with it.
pub(crate) fn server_at(text: &str, port: u16) -> Result<SocketAddr, Problem> {
    let Some((ip, scope)) = text.split_once('%') else {
        let ip = text.parse::<IpAddr>();
        return ip.map(|ip| (ip, port).into()).map_err(|_| Problem::NotAnAddress);
    };
    let ip: Ipv6Addr = ip.parse().map_err(|_| Problem::NotAnAddress)?;
    let index = scope.parse().ok().or_else(|| if_nametoindex(scope).ok());
    let index = index.ok_or_else(|| Problem::NoInterface(scope.escape_debug().to_string()))?;
    Ok(SocketAddrV6::new(ip, port, 0, index).into())
}

/// Whether an upstream is one of our own listeners. `is_local` tells this machine's addresses.
pub(crate) fn is_ourselves(
    upstream: SocketAddr,
    listeners: &[SocketAddr],
    is_local: impl Fn(IpAddr) -> bool,
) -> bool {
    listeners.iter().any(|listener| {
        let everywhere = listener.ip().is_unspecified() && is_local(upstream.ip());
        listener.port() == upstream.port() && (listener.ip() == upstream.ip() || everywhere)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_as_flags() {
        let check = |text: &str, expected: Option<&str>| {
            let parsed = parse_upstream(text).ok().map(|addr| addr.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        };
        check("1.1.1.1", Some("1.1.1.1:53"));
        check("127.0.0.11:5353", Some("127.0.0.11:5353"));
        check("fd00::1", Some("[fd00::1]:53"));
        check("[fd00::1]:5353", Some("[fd00::1]:5353"));
        check("fe80::1%1", Some("[fe80::1%1]:53"));
        check("fe80::1%lo", Some("[fe80::1%1]:53"));
        check("[fe80::1%lo]:5353", Some("[fe80::1%1]:5353"));
        check("dns.example", None);
        check("1.1.1.1:", None);
        check("1.1.1.1%lo", None);
        check("[fe80::1%lo]:x", None);
        let message = |text: &str| parse_upstream(text).unwrap_err();
        assert!(message("dns.example").starts_with("is not an IP address, IP:PORT"));
        assert_eq!(message("fe80::1%nosuch0"), "there is no interface `nosuch0` on this machine");
    }

    #[test]
    fn we_are_not_our_own_upstream() {
        let check = |upstream: &str, listen: &str, expected: bool| {
            let listeners = [listen.parse().unwrap()];
            let ours = is_ourselves(upstream.parse().unwrap(), &listeners, |ip| ip.is_loopback());
            assert_eq!(ours, expected, "{upstream} {listen}");
        };
        check("127.0.0.1:53", "0.0.0.0:53", true);
        check("127.0.0.1:53", "[::]:53", true);
        check("127.0.0.1:53", "127.0.0.1:53", true);
        check("127.0.0.1:53", "127.0.0.1:1053", false);
        check("127.0.0.1:53", "127.0.0.2:53", false);
        check("10.0.0.1:53", "0.0.0.0:53", false);
    }
}
