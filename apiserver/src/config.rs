//! The flags of the feed server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use daemon::flags::parse_address;
use ipnet::IpNet;

use crate::connections::Address;

/// Connections at once, by default: more clients than one machine's folder has, few enough for
/// their buffers to stay within 200 MB when all of them are slow.
const MAX_CONNECTIONS: &str = "1024";
/// Watches and lists at once, by default: eight kinds on each connection.
const MAX_WATCHES: &str = "8192";
/// What one client address may take of both: one that takes all it can leaves as much to the
/// others, and a whole cluster behind one address is served.
const MAX_SHARE_PER_CLIENT: &str = "50";

/// The flags of the feed server.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Folder of manifests to serve (*.yaml, *.yml, *.json); several are served as one
    #[arg(long, env = "SWITCHYARD_DIR", value_name = "DIR", required = true, num_args = 1..)]
    pub(crate) dir: Vec<PathBuf>,

    /// Address to serve the API on, IP:PORT or unix:PATH; several by repeating the flag
    ///
    /// Without --token-file, anyone who can reach the address can read everything except Secrets.
    /// For Secrets, the feed creates a token for each loopback address, in
    /// $XDG_RUNTIME_DIR/switchyard or /tmp/switchyard-UID, where other processes of this user find
    /// it. Over a network, Secrets need --token-file and TLS.
    #[arg(long, env = "SWITCHYARD_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7400")]
    pub(crate) listen: Vec<Address>,

    /// Certificate chain of the server (PEM); all TCP addresses then use TLS
    #[arg(long, env = "SWITCHYARD_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// Private key of the certificate (PEM)
    #[arg(long, env = "SWITCHYARD_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,

    /// File with the bearer tokens that may read: one on each line, followed by `secrets` if it may
    /// read Secrets
    ///
    /// It is read again when it changes and at SIGHUP, like the certificate.
    #[arg(long, env = "SWITCHYARD_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// Ranges of ClusterIPs to serve as ServiceCIDR objects, which kube-proxy needs
    #[arg(long, env = "SWITCHYARD_SERVICE_CIDR", value_name = "CIDR", value_delimiter = ',',
        value_parser = parse_range)]
    pub(crate) service_cidr: Vec<IpNet>,

    /// Connections open at once; further ones are closed
    #[arg(
        long,
        env = "SWITCHYARD_MAX_CONNECTIONS",
        value_name = "N",
        default_value = MAX_CONNECTIONS
    )]
    pub(crate) max_connections: usize,

    /// Watches and lists at once; further ones are answered with 429
    #[arg(long, env = "SWITCHYARD_MAX_WATCHES", value_name = "N", default_value = MAX_WATCHES)]
    pub(crate) max_watches: usize,

    /// Share of --max-connections and --max-watches that one client may have, in percent
    ///
    /// A client is an IPv4 address or the /64 network of an IPv6 address. Clients on this machine
    /// may have all but a sixteenth.
    #[arg(
        long,
        env = "SWITCHYARD_MAX_SHARE_PER_CLIENT",
        value_name = "PERCENT",
        default_value = MAX_SHARE_PER_CLIENT,
        value_parser = clap::value_parser!(u8).range(1..=100)
    )]
    pub(crate) max_share_per_client: u8,

    /// How long connections may stay open after SIGTERM; watches end at once
    #[arg(
        long,
        env = "SWITCHYARD_DRAIN_TIMEOUT",
        value_name = "TIME",
        default_value = "30s",
        value_parser = daemon::flags::parse_duration
    )]
    pub(crate) drain_timeout: Duration,

    /// Admin endpoint
    #[arg(long, env = "SWITCHYARD_ADMIN", value_name = "ADDR",
        default_value = "127.0.0.1:7401", value_parser = parse_address)]
    pub admin: SocketAddr,
}

fn parse_range(text: &str) -> Result<IpNet, String> {
    let net: IpNet =
        text.parse().map_err(|_| "is not a CIDR (example: 10.96.0.0/16)".to_owned())?;
    match net.trunc() == net {
        true => Ok(net),
        false => Err(format!("has bits set beyond the prefix length: write {}", net.trunc())),
    }
}
