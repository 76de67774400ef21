//! The process's own flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use daemon::Failure;
use daemon::flags::{parse_address, parse_duration};
use ipnet::IpNet;

use crate::forward::upstreams::{self, parse_upstream};
use crate::wire::Name;
use crate::zone::{Owned, PodMode, Settings};

/// Loopback, private, shared (RFC 6598), unique local and link-local addresses: a server that
/// forwards for anybody is a weapon for those who forge their address.
const PRIVATE: [&str; 9] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

/// The process's own flags.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Admin endpoint (/livez /readyz /metrics /snapshot /status)
    #[arg(long, env = "SWITCHYARD_ADMIN", value_name = "ADDR",
        default_value = "127.0.0.1:7431", value_parser = parse_address)]
    pub admin: SocketAddr,

    /// Addresses to answer on, UDP and TCP
    #[arg(
        long,
        env = "SWITCHYARD_LISTEN",
        value_name = "ADDR",
        value_delimiter = ',',
        default_value = "0.0.0.0:1053",
        value_parser = parse_address
    )]
    pub listen: Vec<SocketAddr>,

    /// The cluster domain
    #[arg(long, env = "SWITCHYARD_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    pub domain: String,

    /// Servers to forward other names to, in this order, or `none`; default: those of the
    /// system's resolver
    #[arg(
        long,
        env = "SWITCHYARD_UPSTREAM",
        value_name = "IP[:PORT]",
        value_delimiter = ',',
        value_parser = parse_upstream_or_none
    )]
    pub upstream: Vec<Upstream>,

    /// Where the system's resolver names its servers
    #[arg(
        long,
        env = "SWITCHYARD_RESOLV_CONF",
        value_name = "FILE",
        default_value = "/etc/resolv.conf"
    )]
    pub resolv_conf: PathBuf,

    /// How long to wait for one upstream before the next is tried; 4.5 s for all tries together
    #[arg(
        long,
        env = "SWITCHYARD_UPSTREAM_TIMEOUT",
        value_name = "TIME",
        default_value = "2s",
        value_parser = parse_duration
    )]
    pub upstream_timeout: Duration,

    /// Questions that may wait for upstreams at a time; one client may hold a quarter
    #[arg(long, env = "SWITCHYARD_MAX_FORWARDS", value_name = "N", default_value_t = 1024)]
    pub max_forwards: usize,

    /// Clients to forward for; others get REFUSED for names that are not ours
    #[arg(
        long,
        env = "SWITCHYARD_ALLOW_FORWARD",
        value_name = "CIDR",
        value_delimiter = ',',
        default_values = PRIVATE
    )]
    pub allow_forward: Vec<IpNet>,

    /// Time to live of the zone's records, in seconds
    #[arg(
        long,
        env = "SWITCHYARD_TTL",
        value_name = "SECONDS",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(0..=3600)
    )]
    pub ttl: u32,

    /// What the name of a Pod's address answers
    #[arg(long, env = "SWITCHYARD_PODS", value_name = "MODE", default_value = "disabled")]
    pub pods: PodMode,

    /// Networks whose reverse zones are ours: what is not known there does not exist, instead of
    /// being forwarded; default: the /24 (IPv6: /112) around each ClusterIP
    #[arg(long, env = "SWITCHYARD_REVERSE_CIDR", value_name = "CIDR", value_delimiter = ',')]
    pub reverse_cidr: Vec<IpNet>,

    /// Tell our version to who asks for version.bind
    #[arg(long, env = "SWITCHYARD_VERSION_BIND")]
    pub version_bind: bool,

    /// How long a TCP connection may stay without a query
    #[arg(
        long,
        env = "SWITCHYARD_TCP_IDLE_TIMEOUT",
        value_name = "TIME",
        default_value = "30s",
        value_parser = parse_duration
    )]
    pub tcp_idle_timeout: Duration,

    /// TCP connections at a time; one client may hold a quarter
    #[arg(long, env = "SWITCHYARD_MAX_TCP_CONNECTIONS", value_name = "N", default_value_t = 1024)]
    pub max_tcp_connections: usize,

    /// How long to finish what is in flight when told to end
    #[arg(
        long,
        env = "SWITCHYARD_DRAIN_TIMEOUT",
        value_name = "TIME",
        default_value = "30s",
        value_parser = parse_duration
    )]
    pub drain_timeout: Duration,
}

/// A value of `--upstream`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// `none`: nothing is forwarded.
    Nothing,
    Server(SocketAddr),
}

fn parse_upstream_or_none(text: &str) -> Result<Upstream, String> {
    if text == "none" {
        return Ok(Upstream::Nothing);
    }
    parse_upstream(text).map(Upstream::Server)
}

impl Config {
    /// What the zone is to know.
    ///
    /// # Errors
    ///
    /// When the domain is no name, or too long for the names that its zone must have.
    pub(crate) fn zone_settings(&self) -> Result<Settings, Failure> {
        let invalid = |what: &str| {
            Failure::Configuration(format!("--domain {}: {what}", self.domain.escape_debug()))
        };
        let of_names = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
        let domain = Some(&*self.domain).filter(|text| text.bytes().all(of_names));
        let domain = domain.and_then(Name::from_text).ok_or_else(|| invalid("not a DNS name"))?;
        let owned = match &self.reverse_cidr[..] {
            [] => Owned::AroundClusterIps,
            networks => Owned::Networks(networks.iter().map(IpNet::trunc).collect()),
        };
        Settings::new(domain, self.ttl, self.pods, owned).ok_or_else(|| invalid("too long"))
    }

    /// The upstreams to use: those of the flags, or else the system's.
    ///
    /// # Errors
    ///
    /// When a flag names one of our own listeners. In the system's file that is usual, and such a
    /// server is left out.
    pub(crate) fn upstreams(
        &self,
        listeners: &[SocketAddr],
        is_local: impl Fn(std::net::IpAddr) -> bool,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let is_ours = |upstream| upstreams::is_ourselves(upstream, listeners, &is_local);
        if self.upstream.is_empty() {
            let mut servers = upstreams::of_system(&self.resolv_conf);
            servers.retain(|server| !is_ours(*server));
            return Ok(servers);
        }
        let servers = self.upstream.iter().filter_map(|upstream| match upstream {
            Upstream::Nothing => None,
            Upstream::Server(server) => Some(*server),
        });
        let servers: Vec<SocketAddr> = servers.collect();
        match servers.iter().find(|server| is_ours(**server)) {
            Some(ours) => Err(Failure::Configuration(format!(
                "--upstream {ours}: this is where this process itself listens"
            ))),
            None => Ok(servers),
        }
    }
}
