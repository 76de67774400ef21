//! The flags with which a process follows a feed.

use std::net::SocketAddr;

use crate::client::{self, ApiConfig};
use crate::source::Source;

/// The flags with which a process follows a feed.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "feed")]
pub struct Config {
    /// Where objects come from: a folder of manifests (*.yaml, *.yml, *.json); http://HOST:PORT or
    /// https://HOST:PORT of a `switchyard feed` or a kube-apiserver; or `kube` for the cluster of
    /// the kubeconfig or, in a Pod, the Pod's own cluster
    #[arg(long = "feed", env = "SWITCHYARD_FEED", value_name = "SOURCE")]
    pub source: Source,

    /// DNS servers that resolve the host names of endpoints (addressType FQDN); default: this
    /// machine's resolver
    #[arg(
        long = "host-resolver",
        env = "SWITCHYARD_HOST_RESOLVER",
        value_name = "IP:PORT",
        value_delimiter = ','
    )]
    pub host_resolver: Vec<SocketAddr>,

    #[command(flatten)]
    pub api: ApiConfig,
}

impl Config {
    /// Whether endpoints may be on this machine's loopback: a feed elsewhere means its own.
    pub(crate) fn takes_local_endpoints(&self) -> bool {
        match &self.source {
            Source::Folder(_) => true,
            Source::Api(url) => client::is_this_machine(url) || self.api.allow_local_endpoints,
            Source::Kube => self.api.allow_local_endpoints,
        }
    }
}
