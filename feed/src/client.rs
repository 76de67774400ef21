//! A Kubernetes API as a source: `switchyard feed` or a real kube-apiserver.
//!
//! bytes → conversation → decoder → hub → store. One conversation a kind ([`session`]: the
//! splitters of bytes, and the state machine of list and watch in [`machine`]) is moved by a
//! [`follower`] over a connection of the [`transport`]. Their changes meet in the [`hub`], which
//! applies those that belong together at once ([`cut`]). A server that goes away changes
//! nothing; what was deleted while it was away goes when it is back.

mod advice;
mod backoff;
mod beginning;
mod credentials;
mod cut;
pub(crate) mod decode;
mod envelope;
mod events;
mod follower;
mod hub;
mod lines;
mod machine;
mod manner;
mod page;
pub(crate) mod session;
mod status;
mod transport;
mod trust;
mod version;
mod weight;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daemon::flags::parse_duration;
use daemon::{Daemon, Failure};
use http::Uri;
use tokio::sync::mpsc;

use credentials::ApiSource;
use decode::{Decoder, MAX_OBJECT};
use follower::Follower;
use hub::{Hub, followed};
use machine::{Machine, Patience};
use session::Session;
use status::Status;
use transport::Transport;

use crate::own_token;
use crate::state::State;
use crate::update::{Updates, mailbox};
use model::{Kinds, Rejected};

/// What one list may take until it is complete, in bytes and decoded: ten times what a hundred
/// thousand endpoints take. A server that never ends its list must not fill the memory.
const MAX_LIST: usize = 256 << 20;
/// Pieces of news between the followers and the hub; each is what one read of a socket brought.
const NEWS: usize = 64;

/// The flags of a feed that is followed over the network.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "feed-client")]
pub struct ApiConfig {
    /// File with the bearer token for the feed; it may be replaced at any time. A feed of the
    /// same user on loopback needs none: its token is found in $XDG_RUNTIME_DIR/switchyard or
    /// /tmp/switchyard-UID
    #[arg(long = "feed-token-file", env = "SWITCHYARD_FEED_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// PEM file with the CA certificates to verify the feed with; default: those of this machine
    #[arg(long = "feed-ca-file", env = "SWITCHYARD_FEED_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// Accept endpoints on this machine's loopback from a feed on another machine
    #[arg(long, env = "SWITCHYARD_ALLOW_LOCAL_ENDPOINTS")]
    pub allow_local_endpoints: bool,

    /// How long the feed may be unreachable before /readyz reports `feed stale`; the last state
    /// stays in use
    #[arg(long, env = "SWITCHYARD_STALE_AFTER", value_name = "TIME", default_value = "5m",
        value_parser = parse_duration)]
    pub stale_after: Duration,
}

/// Follows an API at a URL. `local_endpoints`: endpoints may be on this machine.
///
/// # Errors
///
/// When a file of the flags cannot be used.
pub(crate) fn follow_url(
    url: &Uri,
    config: &ApiConfig,
    local_endpoints: bool,
    kinds: Kinds,
    daemon: &Daemon,
) -> Result<Updates, Failure> {
    let is_clear = url.scheme_str() == Some("http") && !is_this_machine(url);
    if config.token_file.is_some() && is_clear {
        tracing::warn!(%url, "the token is sent unencrypted: use an https:// address for the feed");
    }
    let place = place_of(url, config);
    let address = url.to_string();
    let address = address.trim_end_matches('/').to_owned();
    let follow = Follow { place, address, local_endpoints, max_list: MAX_LIST };
    follow.begin(config, &Patience::default(), kinds, daemon)
}

/// Follows the API of the kubeconfig, or of the cluster that this runs in.
///
/// # Errors
///
/// When there is neither.
pub(crate) fn follow_kube(
    config: &ApiConfig,
    local_endpoints: bool,
    kinds: Kinds,
    daemon: &Daemon,
) -> Result<Updates, Failure> {
    let (place, address) = (ApiSource::Kube, "kube".to_owned());
    let follow = Follow { place, address, local_endpoints, max_list: MAX_LIST };
    follow.begin(config, &Patience::default(), kinds, daemon)
}

/// What the feed at a URL rejects, if it is a `switchyard feed`.
///
/// # Errors
///
/// When a file of the flags cannot be used.
pub(crate) async fn rejected(url: &Uri, config: &ApiConfig) -> Result<Vec<Rejected>, Failure> {
    events::rejected(place_of(url, config)).await
}

fn place_of(url: &Uri, config: &ApiConfig) -> ApiSource {
    ApiSource::Url {
        url: url.clone(),
        token_file: config.token_file.clone(),
        ca_file: config.ca_file.clone(),
    }
}

struct Follow {
    place: ApiSource,
    /// As the flag has it.
    address: String,
    local_endpoints: bool,
    max_list: usize,
}

impl Follow {
    fn begin(
        self,
        config: &ApiConfig,
        patience: &Patience,
        kinds: Kinds,
        daemon: &Daemon,
    ) -> Result<Updates, Failure> {
        let kube = self.place.configuration().map_err(|error| {
            Failure::Configuration(format!("--feed {}: {}", self.address, transport::chain(&error)))
        })?;
        let local_endpoints = self.local_endpoints;
        let address = match self.place {
            ApiSource::Url { .. } => self.address.clone(),
            ApiSource::Kube => kube.cluster_url.to_string(),
        };
        let open = |dir: &PathBuf| {
            State::open(dir, daemon.name, &address, kinds, local_endpoints).map_err(|error| {
                Failure::Configuration(format!("--state-dir {}: {error}", dir.display()))
            })
        };
        let state = daemon.state_dir.as_ref().map(open).transpose()?;
        let list = followed(kinds);
        let place = self.place.clone();
        let readiness = daemon.readiness.clone();
        let status = Status::new(address, place, config.stale_after, &list, readiness);
        status.show(daemon);
        let (publisher, updates) = mailbox();
        let (sender, news) = mpsc::channel(NEWS);
        let transport = Arc::new(Transport::new(self.place, kube, patience.clone()));
        for kind in list {
            let machine = Machine::new(patience.clone(), rand::random());
            let follower = Follower {
                kind,
                session: Session::new(machine, MAX_OBJECT),
                transport: transport.clone(),
                decoder: Decoder::new(kind, local_endpoints),
                doubted: false,
                told: false,
                listed: 0,
                max_list: self.max_list,
                hub: sender.clone(),
                reloads: daemon.shutdown.reloads(),
            };
            daemon.supervisor.task("that follows a kind of the feed", follower.run());
        }
        let hub = Hub::new(kinds, publisher, status, state, daemon);
        daemon.supervisor.task("that joins the kinds of the feed", hub.run(news));
        Ok(updates)
    }
}

/// Whether a URL can only mean this machine.
pub(crate) fn is_this_machine(url: &Uri) -> bool {
    own_token::address_of(url).is_some()
}

#[cfg(test)]
mod tests;
