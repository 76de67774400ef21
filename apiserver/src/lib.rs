//! `switchyard feed`: a folder of manifests as a Kubernetes API to list and watch.
//!
//! folder → batch → `assemble` → `history` → lists and watches. The folder's thread hands
//! over what each look found; it becomes one change of the versioned store, which all clients
//! read at their own pace. Reading only: the manifests are the place to change. Left out: what a
//! dataplane would do with the objects.

mod access;
mod api;
mod assemble;
mod body;
mod config;
mod connections;
mod deadlines;
mod derived;
mod discovery;
mod dry_run;
mod entry;
mod grant;
mod history;
mod list;
mod live;
mod metrics;
mod openapi;
mod publish;
mod query;
mod reload;
mod review;
mod route;
mod selector;
mod share;
mod stall;
mod state;
mod status;
mod text;
mod tls;
mod values;
mod view;
mod watch;
mod write;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daemon::{Daemon, Failure};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use access::{Access, Tokens};
use api::Api;
use assemble::Assembler;
pub use config::Config;
pub use connections::Address;
use connections::{Gate, Listener, Tls};
pub use dry_run::Judges;
use history::{History, Limits};
use live::Live;
use metrics::Metrics;
use model::Kind;
pub use publish::Judge;
use publish::Publisher;
use share::Shares;
use state::{AHEAD, Kept, Saver, StateDir};
use watch::Server;

use feed::folder::Restored;
use feed::own_token::{self, OwnToken};

/// Serves the folders until the process drains. What a judge finds in them is told in Events, and
/// to clients that ask for a dry run.
///
/// # Errors
///
/// When a folder, a file or an address cannot be used.
pub async fn run(
    config: Config,
    state_dir: Option<PathBuf>,
    judges: Judges,
    daemon: Daemon,
) -> Result<(), Failure> {
    let starting = daemon.readiness.block("the folder has not been read yet");
    let tls = Arc::new(Tls::new(load_certificate(&config)?));
    let tokens = load_tokens(&config)?;
    warn_of_openness(&config);
    daemon::descriptors::raise_limit();
    let listeners = bind(&config.listen)?;
    // After binding: the addresses are this process's, and so are their tokens.
    let own = own_tokens(&config);
    let access = Arc::new(match tokens {
        Some(tokens) => Access::new(Some(tokens)),
        None => Access::of_own(&own),
    });

    let state = state_dir.map(|path| open_state(&path)).transpose()?;
    let saved = state.as_ref().map(StateDir::load).unwrap_or_default();
    let version = saved.ceiling().max(clock_version());
    if let Some(state) = &state
        && let Err(error) = state.raise(&saved, version + AHEAD)
    {
        // The disk may be full. It is tried again; to serve is what matters more.
        tracing::warn!(%error, "cannot write the state");
    }
    let live = Arc::new(Live::new(History::new(version, Limits::DEFAULT)));
    let metrics = Metrics::new(&daemon.metrics);
    let kept = Arc::new(Kept::default());
    let assembler = Assembler::new(saved.created()).with_service_cidrs(&config.service_cidr);
    let (publisher, loaded) =
        Publisher::new(live.clone(), metrics.clone(), assembler, kept.clone(), judges());
    follow(&config.dir, saved.files, publisher, &daemon)?;
    let written = kept.clone();
    let saving = state.map(|dir| {
        let saver = Saver { dir, kept, live: live.clone(), ceiling: version + AHEAD };
        daemon.supervisor.task("that saves the state", saver.run(daemon.shutdown.clone()))
    });

    let server = Server { live: live.clone(), metrics };
    show(&daemon, &server, &config);
    let share = |what, total| Shares::new(what, total, config.max_share_per_client);
    let api = Api::new(server, access, share("watches", config.max_watches), written, judges);
    reload::keep(&config, &api, own, &tls, &daemon);
    tokio::select! {
        loaded = loaded => loaded.map_err(|e| Failure::failed("the folder's thread ended", e))?,
        () = daemon.shutdown.draining() => return Ok(()),
    }
    let gate = Gate {
        api,
        tls,
        room: share("connections", config.max_connections),
        shutdown: daemon.shutdown.clone(),
    };
    drop(starting);
    serve(gate, listeners, &daemon, config.drain_timeout).await;
    if let Some(saving) = saving {
        saving.await.map_err(|e| Failure::failed("the state was not saved", e))?;
    }
    Ok(())
}

/// Serves on threads of its own, so that `/livez` answers whatever clients do.
async fn serve(gate: Gate, listeners: Vec<Listener>, daemon: &Daemon, drain_timeout: Duration) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(daemon.workers)
        .thread_name("feed-api")
        .enable_all()
        .build()
        .expect("a runtime can be built at start");
    let live = gate.api.server.live.clone();
    let mut serving = JoinSet::new();
    for listener in listeners {
        let accepting = gate.clone().serve(listener);
        let accepting = daemon.supervisor.supervised("that accepts clients", accepting);
        serving.spawn_on(accepting, runtime.handle());
    }
    daemon.shutdown.draining().await;
    live.drain();
    let ended = async { while serving.join_next().await.is_some() {} };
    if tokio::time::timeout(drain_timeout, ended).await.is_err() {
        tracing::warn!("connections were still open after the drain timeout");
    }
    runtime.shutdown_background();
}

fn follow(
    dirs: &[PathBuf],
    restored: Vec<Restored>,
    mut publisher: Publisher,
    daemon: &Daemon,
) -> Result<(), Failure> {
    let take = move |batch| publisher.take(batch);
    feed::folder::follow_whole(dirs.to_vec(), restored, daemon, take).map_err(|error| {
        let names: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        Failure::Configuration(format!("cannot read the folder {}: {error}", names.join(", ")))
    })
}

fn load_certificate(config: &Config) -> Result<Option<Arc<rustls::ServerConfig>>, Failure> {
    let (Some(chain), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
    tls::load(chain, key).map(Some).map_err(|e| Failure::failed("cannot use the certificate", e))
}

fn load_tokens(config: &Config) -> Result<Option<Tokens>, Failure> {
    let Some(path) = &config.token_file else { return Ok(None) };
    Tokens::load(path).map(Some).map_err(|e| Failure::failed("cannot use the tokens", e))
}

/// The tokens by which this user's processes read Secrets on loopback, where no file names others.
fn own_tokens(config: &Config) -> Vec<OwnToken> {
    if config.token_file.is_some() {
        return Vec::new();
    }
    let folder = own_token::folders().swap_remove(0);
    let local = config.listen.iter().filter(|address| address.is_local());
    let local = local.filter_map(|address| match address {
        Address::Tcp(address) => Some(*address),
        Address::Unix(_) => None,
    });
    let provide = |address: SocketAddr| match OwnToken::provide(&folder, address) {
        Ok(token) => Some(token),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%address, %error, cause, "nobody can read Secrets at this address: \
                fix this, or give --token-file");
            None
        }
    };
    local.filter_map(provide).collect()
}

fn open_state(path: &std::path::Path) -> Result<StateDir, Failure> {
    let what = || format!("cannot use the state folder {}", path.display());
    StateDir::open(path).map_err(|e| Failure::failed(what(), e))
}

fn bind(addresses: &[Address]) -> Result<Vec<Listener>, Failure> {
    let bind_one = |address: &Address| {
        let failed = |e| Failure::failed(format!("cannot listen on {address}"), e);
        Listener::bind(address.clone()).map_err(failed)
    };
    addresses.iter().map(bind_one).collect()
}

/// Versions begin at the clock, in milliseconds times 2^20: above all that an earlier process
/// gave out, as long as it changed fewer than a thousand million objects a second.
fn clock_version() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default() << 20
}

fn warn_of_openness(config: &Config) {
    for address in config.listen.iter().filter(|address| !address.is_local()) {
        if config.token_file.is_none() {
            tracing::warn!(%address, "anyone who can reach this address can read all but Secrets \
                (no --token-file)");
        } else if config.tls_cert.is_none() {
            tracing::warn!(%address, "tokens are sent unencrypted (no --tls-cert)");
        }
    }
}

/// Shows operators what is served: `/snapshot` and a member of `/status`.
fn show(daemon: &Daemon, server: &Server, config: &Config) {
    let live = server.live.clone();
    daemon.admin.set_snapshot(move || snapshot(&live));
    let live = server.live.clone();
    let listen: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
    let (tls, tokens) = (config.tls_cert.is_some(), config.token_file.is_some());
    daemon.admin.add_status("server", move || {
        let fill = live.read(History::fill);
        let newest = live.newest();
        json!({
            "listen": listen,
            "tls": tls,
            "tokens": tokens,
            // As text: the number has more digits than many readers of JSON keep.
            "resourceVersion": newest.version.to_string(),
            "generation": newest.generation,
            "historyEvents": fill.events,
            "historyBytes": fill.bytes,
        })
    });
}

/// Names and versions; no content, which may be a Secret's.
fn snapshot(live: &Live) -> Value {
    let (version, current) = live.read(|history| {
        let current = Kind::ALL.map(|resource| (resource, history.current(resource).objects));
        (history.version().to_string(), current)
    });
    let generation = live.newest().generation;
    let mut objects = Map::new();
    for (resource, of_resource) in current {
        let versions = of_resource.iter();
        let versions: Map<_, _> = versions
            .map(|(name, entry)| (name.to_string(), entry.stamp.version.to_string().into()))
            .collect();
        objects.insert(resource.qualified(), versions.into());
    }
    json!({"generation": generation, "resourceVersion": version, "objects": objects})
}
