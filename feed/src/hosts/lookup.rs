//! One lookup of a host name, by hickory: as this machine's programs look names up.
//!
//! `/etc/hosts` and the search list count, as for any program: containers are named by one label.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, ResolverBuilder, TokioResolver};

use super::address::sorted;

/// How long one server has for an answer, and how often it is asked.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// An answer counts for its time to live, within these. Below a second, servers would be asked
/// without pause; above five, a container that came back with another address would be missed
/// for long: Docker's server says ten minutes of addresses that change at any restart.
const MIN_AGE: Duration = Duration::from_secs(1);
const MAX_AGE: Duration = Duration::from_secs(5);
/// The same for a name of one label, which is a neighbour's, such as a container's. Docker gives an
/// address that has become free to the next container that starts, which is another Service's.
const MAX_AGE_OF_NEIGHBOUR: Duration = Duration::from_secs(1);

/// What became of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The addresses, and how long they count.
    Found(Vec<IpAddr>, Duration),
    /// There is no such name, or it has no addresses.
    None,
    /// Nobody could say.
    Failed(String),
}

/// A resolver without a cache: each answer's time is kept where its endpoints are.
#[derive(Debug)]
pub(crate) struct Lookup {
    resolver: Result<TokioResolver, String>,
    /// Who is asked, in words.
    servers: String,
}

impl Lookup {
    /// Asks these servers, or without any the system's. A system without a usable configuration
    /// is no error before something is to be looked up.
    pub(crate) fn new(servers: &[SocketAddr]) -> Lookup {
        let builder = match servers {
            [] => Resolver::builder_tokio(),
            servers => Ok(of_servers(servers)),
        };
        let resolver = builder.and_then(|mut builder| {
            let options = builder.options_mut();
            options.timeout = TIMEOUT;
            options.attempts = ATTEMPTS;
            options.cache_size = 0;
            options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            builder.build()
        });
        let resolver =
            resolver.map_err(|error| format!("this machine has no usable resolver: {error}"));
        let servers = match servers {
            [] => "the system's resolver (/etc/resolv.conf)".to_owned(),
            servers => servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        Lookup { resolver, servers }
    }

    /// What is wrong with a host while nobody answers.
    pub(crate) fn silence(&self) -> String {
        format!("no answer from {}", self.servers)
    }

    pub(crate) async fn ask(&self, host: &str) -> Outcome {
        let resolver = match &self.resolver {
            Ok(resolver) => resolver,
            Err(fault) => return Outcome::Failed(fault.clone()),
        };
        match resolver.lookup_ip(host).await {
            Ok(found) => {
                let age = found.valid_until().saturating_duration_since(Instant::now());
                let is_neighbour = !host.trim_end_matches('.').contains('.');
                let max_age = if is_neighbour { MAX_AGE_OF_NEIGHBOUR } else { MAX_AGE };
                Outcome::Found(sorted(found.iter()), age.clamp(MIN_AGE, max_age))
            }
            Err(error) if error.is_no_records_found() => Outcome::None,
            Err(NetError::Timeout | NetError::NoConnections) => Outcome::Failed(self.silence()),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

fn of_servers(servers: &[SocketAddr]) -> ResolverBuilder<TokioRuntimeProvider> {
    let server = |address: &SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut server.connections {
            connection.port = address.port();
        }
        server
    };
    let servers = servers.iter().map(server).collect();
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    Resolver::builder_with_config(config, TokioRuntimeProvider::default())
}
