//! What the data threads share about forwarding: the servers to forward to (`--upstream`, or those
//! of the system's resolver, but never ourselves), who may use them, and how many at a time.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use daemon::quota::Quota;
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cache::stored::Stored;
use crate::cache::{Cache, Failure};
use crate::metrics::Metrics;
use crate::wire::Name;

use super::flights::Flights;
use super::probe::Probes;
use super::routes::{DEFAULT_GROUP, Routes};
use super::server::{Group, Server, ServerAddress};

/// The port of a DNS server unless another is given.
pub(crate) const DNS_PORT: u16 = 53;
/// The same over TLS (RFC 7858 section 3.1).
const TLS_PORT: u16 = 853;

/// What upstreams said to a question.
pub(crate) type Learnt = Result<Arc<Stored>, Failure>;

/// Shared by all data threads.
#[derive(Debug)]
pub(crate) struct Forwarding {
    /// The servers for all other names outside our zones.
    pub(crate) upstreams: ArcSwap<Group>,
    /// The zones with servers of their own.
    pub(crate) routes: Arc<Routes>,
    /// The servers of those zones; the first group is number 1 of `routes`.
    pub(crate) zones: Vec<Arc<Group>>,
    /// The clients to forward for.
    pub(crate) allow: Vec<IpNet>,
    /// How long one upstream may be silent.
    pub(crate) try_timeout: Duration,
    /// The queries that may wait for upstreams.
    pub(crate) quota: Quota,
    pub(crate) metrics: Metrics,
    pub(crate) probes: Probes,
    pub(crate) cache: Cache,
    /// The questions that are being asked.
    pub(crate) flights: Flights<Learnt>,
    /// Told when a server goes down or comes back.
    pub(crate) health: Arc<Notify>,
    /// If there is a server that is asked over TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Forwarding {
    /// Uses other servers from now on.
    pub(crate) fn set_servers(&self, servers: &[SocketAddr]) {
        let servers: Vec<ServerAddress> = servers.iter().copied().map(Into::into).collect();
        let now = Instant::now().into_std();
        self.upstreams.rcu(|before| before.replaced(&servers, now));
    }

    /// The servers of all groups.
    pub(crate) fn servers(&self) -> Vec<Arc<Server>> {
        let zones = self.zones.iter().flat_map(|group| &group.servers);
        self.upstreams.load().servers.iter().chain(zones).cloned().collect()
    }

    /// The servers that are asked about a name.
    #[inline]
    pub(crate) fn group(&self, name: &Name) -> Arc<Group> {
        self.group_at(self.routes.route(name).group)
    }

    /// A group of `routes`.
    pub(crate) fn group_at(&self, number: usize) -> Arc<Group> {
        match number {
            DEFAULT_GROUP => self.upstreams.load_full(),
            number => self.zones[number - 1].clone(),
        }
    }

    /// Whether anything is forwarded.
    pub(crate) fn forwards(&self) -> bool {
        !self.upstreams.load().servers.is_empty() || !self.zones.is_empty()
    }
}

/// An upstream as a flag spells it: `IP`, `IP:PORT` or `tls://IP[:PORT]#NAME`.
///
/// # Errors
///
/// A message for the command line.
pub(crate) fn parse_upstream(text: &str) -> Result<ServerAddress, String> {
    const NO_NAME: &str = "needs the name in the server's certificate after `#` (example: \
                           tls://9.9.9.9#dns.quad9.net)";
    let Some(rest) = text.strip_prefix("tls://") else {
        return match text.split_once('#') {
            Some(_) => Err("has a name, which is used with tls:// only".to_owned()),
            None => parse_address(text, DNS_PORT).map(ServerAddress::from),
        };
    };
    let (address, name) = rest.split_once('#').ok_or(NO_NAME)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err(NO_NAME.to_owned());
    }
    let socket = parse_address(address, TLS_PORT)?;
    let tls_name = ServerName::try_from(name.to_owned())
        .map_err(|_| format!("`{}` is not a host name", name.escape_debug()))?;
    Ok(ServerAddress { socket, tls_name: Some(tls_name) })
}

/// `IP` or `IP:PORT`.
fn parse_address(text: &str, port: u16) -> Result<SocketAddr, String> {
    const FORMS: &str = "is not an IP address, IP:PORT, [IP]:PORT or tls://IP#NAME (examples: \
                         10.0.0.2, 10.0.0.2:5353, [fd00::2]:5353, fe80::1%eth0, \
                         tls://9.9.9.9#dns.quad9.net)";
    if let Ok(server) = text.parse() {
        return Ok(server);
    }
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.rsplit_once("]:"));
    let (ip, port) = match bracketed {
        Some((ip, port)) => (ip, port.parse().map_err(|_| FORMS)?),
        None => (text, port),
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
        check("tls://9.9.9.9#dns.quad9.net", Some("tls://9.9.9.9:853#dns.quad9.net"));
        check("tls://9.9.9.9:8853#DNS.example.", Some("tls://9.9.9.9:8853#DNS.example"));
        check("tls://[fd00::1]:53#10.0.0.1", Some("tls://[fd00::1]:53#10.0.0.1"));
        check("tls://fd00::1#dns.example", Some("tls://[fd00::1]:853#dns.example"));
        check("tls://9.9.9.9", None);
        check("tls://9.9.9.9#", None);
        check("tls://9.9.9.9#two words", None);
        check("tls://dns.example#dns.example", None);
        check("9.9.9.9#dns.example", None);
        let message = |text: &str| parse_upstream(text).unwrap_err();
        assert!(message("dns.example").starts_with("is not an IP address, IP:PORT"));
        assert!(message("tls://9.9.9.9").starts_with("needs the name in the server's certificate"));
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
