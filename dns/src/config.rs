//! The process's own flags.

mod forward;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use daemon::Failure;
use daemon::flags::{parse_address, parse_bytes, parse_duration};
use ipnet::IpNet;
use model::{Kind, Kinds, ObjectName, Process};

use crate::forward::resolv_conf::ResolvConf;
use crate::forward::server::ServerAddress;
use crate::forward::upstreams::{is_ourselves, parse_upstream};
use crate::query_log::QueryLogMode;
use crate::wire::Name;
use crate::zone::{Owned, PodMode, Settings};

pub use forward::Forward;
pub(crate) use forward::Zones;
use forward::parse_forward;

/// Loopback, private, shared (RFC 6598), unique local and link-local addresses. A server that
/// forwards for everybody can be used to attack others, with forged client addresses.
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

/// The kinds of object that this process follows, as a rule.
pub const KINDS: Kinds = Kinds::listed_by(Process::Dns);

/// The process's own flags.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Admin endpoint (/livez /readyz /metrics /snapshot /status /cache)
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

    /// Servers to forward other names to, or `none`; default: the nameservers in --resolv-conf.
    /// `tls://IP#NAME` is asked over TLS (RFC 7858) and must have a certificate for this name
    #[arg(
        long,
        env = "SWITCHYARD_UPSTREAM",
        value_name = "[tls://]IP[:PORT][#NAME]",
        value_delimiter = ',',
        value_parser = parse_upstream_or_none
    )]
    pub upstream: Vec<Upstream>,

    /// Servers to forward the names of one zone to, several with commas between them; `upstream`
    /// stands for those of --upstream. May be repeated; spaces separate zones in the variable
    #[arg(
        long,
        env = "SWITCHYARD_FORWARD",
        value_name = "ZONE=IP[:PORT]",
        value_delimiter = ' ',
        value_parser = parse_forward
    )]
    pub forward: Vec<Forward>,

    /// A file with further names and their addresses, in the format of /etc/hosts; read again when
    /// it changes
    #[arg(long, env = "SWITCHYARD_HOSTS", value_name = "FILE")]
    pub hosts: Option<PathBuf>,

    /// Answer names of one label, such as `web`, with the Service of that name in this namespace
    #[arg(long, env = "SWITCHYARD_SINGLE_LABEL", value_name = "NAMESPACE")]
    pub single_label: Option<String>,

    /// The file with the nameservers of this system, read again when it changes
    #[arg(
        long,
        env = "SWITCHYARD_RESOLV_CONF",
        value_name = "FILE",
        default_value = "/etc/resolv.conf"
    )]
    pub resolv_conf: PathBuf,

    /// How long an upstream may be silent until that counts as a failure; others are asked sooner,
    /// and all have 3.5 s in total
    #[arg(
        long,
        env = "SWITCHYARD_UPSTREAM_TIMEOUT",
        value_name = "TIME",
        default_value = "2s",
        value_parser = parse_duration
    )]
    pub upstream_timeout: Duration,

    /// Queries that may wait for upstreams at one time; one client may have a quarter of them
    #[arg(long, env = "SWITCHYARD_MAX_FORWARDS", value_name = "N", default_value_t = 1024)]
    pub max_forwards: usize,

    /// Clients to forward for; others get REFUSED for names outside the cluster
    #[arg(
        long,
        env = "SWITCHYARD_ALLOW_FORWARD",
        value_name = "CIDR",
        value_delimiter = ',',
        default_values = PRIVATE
    )]
    pub allow_forward: Vec<IpNet>,

    /// Memory for upstreams' answers, which are then given without asking again; 0: none are kept
    #[arg(
        long,
        env = "SWITCHYARD_CACHE_BYTES",
        value_name = "SIZE",
        default_value = "32m",
        value_parser = parse_bytes
    )]
    pub cache_bytes: u64,

    /// Equal answers a second over UDP to one network (/24 of IPv4, /56 of IPv6); 0: no limit
    #[arg(long, env = "SWITCHYARD_RATE_LIMIT", value_name = "N", default_value_t = 200)]
    pub rate_limit: u32,

    /// Networks that --rate-limit does not hold for
    #[arg(
        long,
        env = "SWITCHYARD_RATE_LIMIT_EXEMPT",
        value_name = "CIDR",
        value_delimiter = ',',
        default_values = PRIVATE
    )]
    pub rate_limit_exempt: Vec<IpNet>,

    /// Time to live of the zone's records, in seconds
    #[arg(
        long,
        env = "SWITCHYARD_TTL",
        value_name = "SECONDS",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(0..=3600)
    )]
    pub ttl: u32,

    /// Whether names that contain a Pod's address exist, such as
    /// 10-1-0-2.NAMESPACE.pod.cluster.local
    #[arg(long, env = "SWITCHYARD_PODS", value_name = "MODE", default_value = "disabled")]
    pub pods: PodMode,

    /// Networks whose reverse zones are served here: PTR queries for unknown addresses in them get
    /// NXDOMAIN instead of being forwarded; addresses of Services and endpoints are always answered
    #[arg(long, env = "SWITCHYARD_REVERSE_CIDR", value_name = "CIDR", value_delimiter = ',')]
    pub reverse_cidr: Vec<IpNet>,

    /// Queries to log
    #[arg(long, env = "SWITCHYARD_QUERY_LOG", value_name = "MODE", default_value = "off")]
    pub query_log: QueryLogMode,

    /// Answer version.bind (class CH) with the version of this program
    #[arg(long, env = "SWITCHYARD_VERSION_BIND")]
    pub version_bind: bool,

    /// Addresses for DNS over TLS (RFC 7858), whose usual port is 853; needs --tls-cert
    /// or --tls-secret
    #[arg(
        long,
        env = "SWITCHYARD_TLS_LISTEN",
        value_name = "ADDR",
        value_delimiter = ',',
        value_parser = parse_address
    )]
    pub tls_listen: Vec<SocketAddr>,

    /// Addresses for DNS over HTTPS (RFC 8484), at /dns-query, whose usual port is 443; needs
    /// --tls-cert or --tls-secret
    #[arg(
        long,
        env = "SWITCHYARD_HTTPS_LISTEN",
        value_name = "ADDR",
        value_delimiter = ',',
        value_parser = parse_address
    )]
    pub https_listen: Vec<SocketAddr>,

    /// PEM file with the certificate for --tls-listen and --https-listen, and those of its issuers;
    /// read again when it changes
    #[arg(long, env = "SWITCHYARD_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the private key of the certificate
    #[arg(long, env = "SWITCHYARD_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Secret of the feed with the certificate (tls.crt) and its key (tls.key), instead of files
    #[arg(
        long,
        env = "SWITCHYARD_TLS_SECRET",
        value_name = "NAMESPACE/NAME",
        conflicts_with = "tls_cert",
        value_parser = parse_secret
    )]
    pub tls_secret: Option<ObjectName>,

    /// How long a TCP connection may be open without a query
    #[arg(
        long,
        env = "SWITCHYARD_TCP_IDLE_TIMEOUT",
        value_name = "TIME",
        default_value = "30s",
        value_parser = parse_duration
    )]
    pub tcp_idle_timeout: Duration,

    /// Connections of TCP, TLS and HTTPS at one time, on all addresses together; one client may
    /// have a quarter
    #[arg(long, env = "SWITCHYARD_MAX_TCP_CONNECTIONS", value_name = "N", default_value_t = 1024)]
    pub max_tcp_connections: usize,

    /// How long queries in progress may take to end after SIGTERM
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// `none`: nothing is forwarded.
    Nothing,
    Server(ServerAddress),
}

fn parse_secret(text: &str) -> Result<ObjectName, String> {
    let parts = text.split_once('/').filter(|(namespace, name)| {
        !namespace.is_empty() && !name.is_empty() && !name.contains('/')
    });
    let (namespace, name) = parts.ok_or("is not NAMESPACE/NAME (example: default/dns-tls)")?;
    Ok(ObjectName::new(namespace, name))
}

fn parse_upstream_or_none(text: &str) -> Result<Upstream, String> {
    if text == "none" {
        return Ok(Upstream::Nothing);
    }
    parse_upstream(text).map(Upstream::Server)
}

impl Config {
    /// The kinds of object that the process follows.
    pub fn kinds(&self) -> Kinds {
        let secrets = if self.tls_secret.is_some() { &[Kind::Secret][..] } else { &[] };
        KINDS.and(Kinds::of(secrets))
    }

    /// The settings of the zone.
    ///
    /// # Errors
    ///
    /// When the domain is not a DNS name, or too long for the names that its zone must have.
    pub(crate) fn zone_settings(&self) -> Result<Settings, Failure> {
        let invalid = |what: &str| {
            Failure::Configuration(format!("--domain: `{}` {what}", self.domain.escape_debug()))
        };
        let of_names = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
        let domain = Some(&*self.domain).filter(|text| text.bytes().all(of_names));
        let domain =
            domain.and_then(Name::from_text).ok_or_else(|| invalid("is not a DNS name"))?;
        let owned = Owned(self.reverse_cidr.iter().map(IpNet::trunc).collect());
        let settings = Settings::new(domain, self.ttl, self.pods, owned);
        let mut settings = settings.ok_or_else(|| invalid("is too long"))?;
        settings.single_label = self.single_label_namespace()?;
        Ok(settings)
    }

    /// The namespace of `--single-label`, as a label in wire form.
    fn single_label_namespace(&self) -> Result<Option<Box<[u8]>>, Failure> {
        let Some(namespace) = &self.single_label else { return Ok(None) };
        let of_labels = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-';
        let name = Some(namespace).filter(|text| text.bytes().all(of_labels));
        let name = name.and_then(|text| Name::from_text(text)).ok_or_else(|| {
            let namespace = namespace.escape_debug();
            Failure::Configuration(format!("--single-label: `{namespace}` is not a namespace"))
        })?;
        Ok(Some(name.between(0, 1).into()))
    }

    /// The zones of `--forward`. `domain` is our own.
    ///
    /// # Errors
    ///
    /// When a zone is ours, appears twice, or would be asked of ourselves.
    pub(crate) fn forward_zones(
        &self,
        domain: &Name,
        listeners: &[SocketAddr],
        is_local: impl Fn(std::net::IpAddr) -> bool,
    ) -> Result<Zones, Failure> {
        Zones::of(&self.forward, domain, |server| is_ourselves(server, listeners, &is_local))
    }

    /// The names of the zones that queries can be forwarded in.
    pub(crate) fn forwarded_zones(&self) -> impl Iterator<Item = &Name> {
        self.forward.iter().map(Forward::zone)
    }

    /// The servers to forward to: those of `--upstream`, or else the system's.
    ///
    /// # Errors
    ///
    /// When a flag names one of our own listeners. In the system's file that is usual; such a
    /// server is left out.
    pub(crate) fn servers(
        &self,
        listeners: &[SocketAddr],
        is_local: impl Fn(std::net::IpAddr) -> bool,
    ) -> Result<Servers, Failure> {
        if self.upstream.is_empty() {
            let file = ResolvConf::new(self.resolv_conf.clone(), listeners.to_vec());
            return Ok(Servers::Followed(file));
        }
        let servers = self.upstream.iter().filter_map(|upstream| match upstream {
            Upstream::Nothing => None,
            Upstream::Server(server) => Some(server.clone()),
        });
        let servers: Vec<ServerAddress> = servers.collect();
        let is_ours = |server: &&ServerAddress| is_ourselves(server.socket, listeners, &is_local);
        match servers.iter().find(is_ours) {
            Some(ours) => Err(Failure::Configuration(format!(
                "--upstream {ours}: this process listens on that address itself"
            ))),
            None => Ok(Servers::Fixed(servers)),
        }
    }
}

/// Where the servers to forward to are named.
#[derive(Debug)]
pub(crate) enum Servers {
    Fixed(Vec<ServerAddress>),
    Followed(ResolvConf),
}
