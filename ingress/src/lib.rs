//! The L7 ingress: HTTP/1.1 and HTTP/2 by the rules of Ingress objects, with TLS.
//!
//! model → `snapshot` → workers. The control runtime compiles each update of the model into the
//! next snapshot and publishes it in one swap; workers, one thread a core, load it once for each
//! handshake and request.
//!
//! A module uses only what stands below it. From the ground up: `route`, `head` and `origin` hold
//! what hosts, paths and fields mean, `pattern` and
//! `template` what regular expressions and
//! variables in annotations stand for, `snapshot` what is served; `upstream` is a connection to an
//! endpoint; `stalled` counts what HTTP/2 streams hold whose clients take nothing; `context` what a
//! worker's requests share; `connection` a client's connection and `in_flight` one request of it,
//! with its `record`; `response` and `refusal` what a client gets; `exchange` asks endpoints;
//! `request` checks and decides; `handler` joins these; `serve` speaks HTTP to clients; `listener`
//! accepts their connections; `worker` is the thread.

mod access_log;
mod addresses;
mod admission;
mod auth_server;
mod basic;
mod body;
mod client_authority;
mod client_certificate;
mod client_handshake;
mod connection;
mod context;
mod credentials;
mod deadline;
mod distinguished_name;
mod endpoint_tls;
mod error_page;
mod exchange;
mod explain;
mod external_auth;
mod findings;
pub mod fuzz;
mod grpc;
mod handler;
mod hashing;
mod head;
mod health;
mod http2_error;
mod in_flight;
mod interim;
mod limits;
mod listener;
mod metrics;
mod mirror;
mod origin;
mod pace;
mod pages;
mod pattern;
mod reason;
mod record;
mod refusal;
mod request;
mod responder;
mod response;
mod room;
mod route;
mod serve;
mod settings;
mod snapshot;
mod stalled;
mod template;
mod tls;
mod trace;
mod upstream;
mod websocket;
mod wire;
mod worker;
mod zone;

pub use access_log::{AccessLogFormat, AccessLogMode};
pub use explain::Explainer;
pub use findings::Judge;
pub use tls::{TlsChoice, TlsVersion};
pub use trace::export::Collector;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use daemon::bind_error::{self, Transport};
use daemon::flags::{parse_address, parse_bytes, parse_duration};
use daemon::{Daemon, Failure, SupervisedThread};
use feed::{Update, Updates};
use ipnet::IpNet;
use model::problem::Level;
use model::{Kinds, Process};
use tokio::sync::watch;

use crate::access_log::AccessLog;
use crate::context::Shared;
use crate::deadline::TICK;
use crate::hashing::Hashing;
use crate::health::Checks;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::origin::Rules;
use crate::settings::Settings;
use crate::snapshot::{Compiler, PlanDefaults, Problem, Snapshot};
use crate::tls::ServerTls;
use crate::trace::export::Exporter;
use crate::worker::{Orders, Sockets};

/// The kinds of object that this process follows.
pub const KINDS: Kinds = Kinds::listed_by(Process::Ingress);

/// The process's own flags.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Admin endpoint (/livez /readyz /metrics /snapshot /status)
    #[arg(long, env = "SWITCHYARD_ADMIN", value_name = "ADDR",
        default_value = "127.0.0.1:7421", value_parser = parse_address)]
    pub admin: SocketAddr,

    /// Address of plain HTTP: HTTP/1.1, and HTTP/2 with prior knowledge
    #[arg(long, env = "SWITCHYARD_HTTP", value_name = "ADDR",
        default_value = "0.0.0.0:8080", value_parser = parse_address)]
    pub http: SocketAddr,

    /// Address of HTTPS: HTTP/2 and HTTP/1.1
    #[arg(long, env = "SWITCHYARD_HTTPS", value_name = "ADDR",
        default_value = "0.0.0.0:8443", value_parser = parse_address)]
    pub https: SocketAddr,

    /// Class of the Ingresses to serve. Also served are those of any IngressClass whose
    /// controller is switchyard.dev/ingress, and those without a class unless a class of another
    /// controller is marked as the default
    #[arg(
        long,
        env = "SWITCHYARD_INGRESS_CLASS",
        value_name = "NAME",
        default_value = "switchyard"
    )]
    pub ingress_class: String,

    /// Proxies in front of the ingress, whose X-Forwarded-* and X-Request-Id headers are trusted
    #[arg(
        long,
        env = "SWITCHYARD_TRUSTED_PROXIES",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = parse_network
    )]
    pub trusted_proxies: Vec<IpNet>,

    /// Expect a PROXY protocol header, version 1 or 2, at the beginning of each connection of a
    /// trusted proxy, and take the client's address from it; needs --trusted-proxies
    #[arg(long, env = "SWITCHYARD_PROXY_PROTOCOL", requires = "trusted_proxies")]
    pub proxy_protocol: bool,

    /// Forward header fields with underscores in their names; by default they are dropped, because
    /// many endpoints cannot tell them from names with hyphens
    #[arg(long, env = "SWITCHYARD_ALLOW_UNDERSCORES")]
    pub allow_underscores: bool,

    #[command(flatten)]
    pub access_log: AccessLogFlags,

    #[command(flatten)]
    pub tracing: TracingFlags,

    #[command(flatten)]
    pub tls: TlsChoice,

    #[command(flatten)]
    pub limits: LimitFlags,

    #[command(flatten)]
    pub timeouts: TimeoutFlags,
}

/// The log of requests, on standard output.
#[derive(Clone, Debug, clap::Args)]
pub struct AccessLogFlags {
    /// Requests to write a line about to standard output
    #[arg(long, env = "SWITCHYARD_ACCESS_LOG", value_name = "WHICH", value_enum, default_value_t)]
    pub access_log: AccessLogMode,

    /// Format of these lines: the combined format of web servers with fields of our own behind it,
    /// or JSON
    #[arg(
        long,
        env = "SWITCHYARD_ACCESS_LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub access_log_format: AccessLogFormat,
}

/// Traces of requests.
#[derive(Clone, Debug, clap::Args)]
pub struct TracingFlags {
    /// Collector to send spans to, by OTLP over HTTP: http or https, a host and a port; /v1/traces
    /// is added to its path. Without it, traceparent is passed on as it is
    #[arg(long, env = "SWITCHYARD_OTLP_ENDPOINT", value_name = "URL",
        value_parser = Collector::parse)]
    pub otlp_endpoint: Option<Collector>,

    /// Part of the requests that begin a trace, 0 to 1; a request with a traceparent is sampled if
    /// that says so
    #[arg(long, env = "SWITCHYARD_TRACE_SAMPLING", value_name = "RATE",
        default_value = "0.01", value_parser = parse_rate)]
    pub trace_sampling: f64,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
    rate.ok_or_else(|| "is not a rate from 0 to 1 (examples: 0.01, 1)".to_owned())
}

/// What a client may use up.
#[derive(Clone, Debug, clap::Args)]
pub struct LimitFlags {
    /// Size limit of a request's head; the number of header fields is limited to 100
    #[arg(long, env = "SWITCHYARD_MAX_HEADER_BYTES", value_name = "BYTES",
        default_value = "32k", value_parser = parse_bytes)]
    pub max_header_bytes: u64,

    /// Size limit of a request's body, 0 for no limit; the annotation proxy-body-size overrides it
    #[arg(long, env = "SWITCHYARD_MAX_BODY_BYTES", value_name = "BYTES",
        default_value = "1g", value_parser = parse_bytes)]
    pub max_body_bytes: u64,

    /// Connections open at one time; default: 32768, or fewer where the limit of open files is
    /// lower
    #[arg(long, env = "SWITCHYARD_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<usize>,

    /// Connections open at one time from one client that is not a trusted proxy: an IPv4 address,
    /// or the /64 network of an IPv6 address; default: 4096, and at most half of
    /// --max-connections
    #[arg(long, env = "SWITCHYARD_MAX_CONNECTIONS_PER_CLIENT", value_name = "N")]
    pub max_connections_per_client: Option<usize>,

    /// Requests in flight at one time on an HTTP/2 connection
    #[arg(long, env = "SWITCHYARD_MAX_STREAMS", value_name = "N", default_value = "128")]
    pub max_streams: u32,
}

/// How long things may take.
#[derive(Clone, Debug, clap::Args)]
pub struct TimeoutFlags {
    /// Time for a TLS handshake
    #[arg(long, env = "SWITCHYARD_HANDSHAKE_TIMEOUT", value_name = "TIME",
        default_value = "10s", value_parser = parse_duration)]
    pub handshake_timeout: Duration,

    /// Time for a request's head, from its first byte to its last
    #[arg(long, env = "SWITCHYARD_HEADER_TIMEOUT", value_name = "TIME",
        default_value = "10s", value_parser = parse_duration)]
    pub header_timeout: Duration,

    /// Time that a connection may wait for its next request
    #[arg(long, env = "SWITCHYARD_IDLE_TIMEOUT", value_name = "TIME",
        default_value = "75s", value_parser = parse_duration)]
    pub idle_timeout: Duration,

    /// Time to connect to an endpoint; the annotation proxy-connect-timeout overrides it
    #[arg(long, env = "SWITCHYARD_CONNECT_TIMEOUT", value_name = "TIME",
        default_value = "5s", value_parser = parse_duration)]
    pub connect_timeout: Duration,

    /// Time that an endpoint's response may make no progress; the annotation proxy-read-timeout
    /// overrides it
    #[arg(long, env = "SWITCHYARD_READ_TIMEOUT", value_name = "TIME",
        default_value = "60s", value_parser = parse_duration)]
    pub read_timeout: Duration,

    /// Time that a request's body may make no progress; the annotation proxy-send-timeout overrides
    /// it
    #[arg(long, env = "SWITCHYARD_SEND_TIMEOUT", value_name = "TIME",
        default_value = "60s", value_parser = parse_duration)]
    pub send_timeout: Duration,

    /// Time that a WebSocket or another upgraded connection may be idle
    #[arg(long, env = "SWITCHYARD_TUNNEL_TIMEOUT", value_name = "TIME",
        default_value = "1h", value_parser = parse_duration)]
    pub tunnel_timeout: Duration,

    /// Time that an idle connection to an endpoint is kept open
    #[arg(long, env = "SWITCHYARD_UPSTREAM_IDLE_TIMEOUT", value_name = "TIME",
        default_value = "60s", value_parser = parse_duration)]
    pub upstream_idle_timeout: Duration,

    /// Time that requests in flight have to end after SIGTERM
    #[arg(long, env = "SWITCHYARD_DRAIN_TIMEOUT", value_name = "TIME",
        default_value = "30s", value_parser = parse_duration)]
    pub drain_timeout: Duration,
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let ip = text.parse::<IpAddr>().map(IpNet::from);
    ip.or_else(|_| text.parse())
        .map_err(|_| "is not an address or a network (examples: 10.0.0.7, 10.0.0.0/8)".into())
}

impl Config {
    fn settings(&self, https_port: u16) -> Settings {
        let (limits, timeouts) = (&self.limits, &self.timeouts);
        let idle_ticks = timeouts.upstream_idle_timeout.as_millis() / TICK.as_millis();
        Settings {
            rules: Rules {
                trusted_proxies: self.trusted_proxies.clone(),
                allow_underscores: self.allow_underscores,
            },
            proxy_protocol: self.proxy_protocol,
            plan: self.plan_defaults(https_port),
            max_header_bytes: usize::try_from(limits.max_header_bytes).unwrap_or(usize::MAX),
            max_streams: limits.max_streams,
            handshake_timeout: timeouts.handshake_timeout.into(),
            header_timeout: timeouts.header_timeout.into(),
            idle_timeout: timeouts.idle_timeout.into(),
            tunnel_timeout: timeouts.tunnel_timeout.into(),
            upstream_idle_ticks: u64::try_from(idle_ticks).unwrap_or(u64::MAX),
            drain_timeout: timeouts.drain_timeout,
            trace_sampling: self.tracing.trace_sampling,
        }
    }

    fn plan_defaults(&self, https_port: u16) -> PlanDefaults {
        let timeouts = &self.timeouts;
        PlanDefaults {
            https_port,
            max_body: match self.limits.max_body_bytes {
                0 => u64::MAX,
                bytes => bytes,
            },
            connect_timeout: timeouts.connect_timeout.into(),
            read_timeout: timeouts.read_timeout.into(),
            send_timeout: timeouts.send_timeout.into(),
        }
    }

    fn limits(&self) -> Arc<Limits> {
        let LimitFlags { max_connections, max_connections_per_client, .. } = self.limits;
        let proxies = self.trusted_proxies.clone();
        Arc::new(Limits::new(max_connections, max_connections_per_client, proxies))
    }
}

/// Runs until drained.
///
/// # Errors
///
/// When a configured address cannot be bound, or a thread cannot be started.
pub async fn run(config: Config, updates: Updates, daemon: Daemon) -> Result<(), Failure> {
    let sockets = bind_all(&config, daemon.workers)?;
    let (http, https) = addresses(&sockets)?;
    let provider = tls::provider();
    let self_signed = tls::self_signed(&provider)?;
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::new(self_signed.clone())));
    let limits = config.limits();
    let metrics = Arc::new(Metrics::new(daemon.workers, limits.clone(), snapshot.clone()));
    metrics.register(&daemon.metrics);
    let defaults = config.plan_defaults(https.port());
    let class = &config.ingress_class;
    let compiler = Compiler::new(class, provider.clone(), self_signed, defaults);
    let compiler = Arc::new(Mutex::new(compiler));
    add_pages(&daemon, &snapshot, &compiler, http, https);
    let AccessLogFlags { access_log: mode, access_log_format: format } = config.access_log;
    let lost = &metrics.access_log_lost;
    let access_log = AccessLog::start(mode, format, lost, &daemon.supervisor)?;
    let (access_log, log_writer) = access_log.unzip();
    let collector = config.tracing.otlp_endpoint.clone();
    let exporter = collector.map(|to| Exporter::new(to, &metrics.spans)).transpose()?;
    let (spans, exporter) = exporter.unzip();
    let exported = exporter.map(|exporter| daemon.supervisor.task("exporter", exporter.run()));
    let shared = Arc::new(Shared {
        settings: config.settings(https.port()),
        snapshot: snapshot.clone(),
        tls: ServerTls::new(&provider, &config.tls, snapshot.clone())?,
        limits,
        metrics: metrics.clone(),
        access_log,
        hashing: Hashing::default(),
        begun: Instant::now(),
        spans,
    });
    let orders = watch::Sender::new(Orders::default());
    let mut workers = Vec::new();
    for (index, sockets) in sockets.into_iter().enumerate() {
        let (shared, orders) = (shared.clone(), orders.subscribe());
        workers.push(worker::start(index, shared, sockets, orders, &daemon.supervisor)?);
    }
    drop(shared);
    tracing::info!(%http, %https, workers = workers.len(), "listening");
    let checks = Mutex::new(Checks::new());
    let publisher = Publisher { compiler, snapshot, metrics, orders, checks };
    publisher.follow(updates, &daemon).await;
    workers.iter().chain(&log_writer).for_each(SupervisedThread::release);
    publisher.orders.send_modify(|orders| orders.drain = true);
    // Threads are joined off the runtime, which answers probes meanwhile.
    let joined = tokio::task::spawn_blocking(move || {
        let threads = workers.into_iter().chain(log_writer);
        threads.map(SupervisedThread::join).fold(true, |all, ok| all & ok)
    });
    let joined = joined.await;
    if let Some(exported) = exported {
        // It ends when all spans are sent, or given up.
        let _ = exported.await;
    }
    match joined {
        Ok(true) => Ok(()),
        _ => Err(Failure::Failed { what: "a worker has panicked".to_owned(), source: None }),
    }
}

fn bind_all(config: &Config, workers: usize) -> Result<Vec<Sockets>, Failure> {
    // Sockets that may be shared would share it with each other too.
    if config.http == config.https && config.http.port() != 0 {
        let problem = format!("--http and --https are both {}", config.http);
        return Err(Failure::Configuration(problem));
    }
    let failed = |flag: &str, address, error: &io::Error| {
        bind_error::failure(address, Transport::Tcp, flag, error)
    };
    let bind = |flag: &str, address: SocketAddr| {
        listener::bind(address, workers).map_err(|error| failed(flag, address, &error))
    };
    let (http, https) = (bind("--http", config.http)?, bind("--https", config.https)?);
    Ok(http.into_iter().zip(https).map(|(http, https)| Sockets { http, https }).collect())
}

fn addresses(sockets: &[Sockets]) -> Result<(SocketAddr, SocketAddr), Failure> {
    let failed = |error| Failure::failed("cannot read a listener's address", error);
    let first = sockets.first().expect("there is at least one worker");
    Ok((first.http.local_addr().map_err(failed)?, first.https.local_addr().map_err(failed)?))
}

fn add_pages(
    daemon: &Daemon,
    snapshot: &Arc<ArcSwap<Snapshot>>,
    compiler: &Arc<Mutex<Compiler>>,
    http: SocketAddr,
    https: SocketAddr,
) {
    let snapshot = snapshot.clone();
    daemon.admin.set_snapshot(move || pages::snapshot(&snapshot.load()));
    let compiler = compiler.clone();
    daemon.admin.add_status("ingress", move || {
        pages::status(&compiler.lock().unwrap_or_else(PoisonError::into_inner), http, https)
    });
}

/// Problems logged of one update; more would hide the first ones.
const MAX_LOGGED: usize = 20;

/// Logs problems that are new.
fn log(news: &[Problem]) {
    let (notes, others): (Vec<_>, Vec<_>) =
        news.iter().partition(|problem| problem.level == Level::Note);
    for problem in others.iter().take(MAX_LOGGED) {
        let Problem { kind, object, field, level, message, help, .. } = problem;
        let object = format!("{} {object}", kind.as_str());
        let help = help.as_deref().unwrap_or_default();
        tracing::warn!(%object, %field, severity = %level, help, "{message}");
    }
    if let Some(more) = others.len().checked_sub(MAX_LOGGED).filter(|more| *more > 0) {
        tracing::warn!(more, "more problems: see /status, or run `switchyard check`");
    }
    for Problem { object, message, .. } in notes.into_iter().take(MAX_LOGGED) {
        tracing::debug!(%object, "{message}");
    }
}

/// Makes each update of the model what is served.
struct Publisher {
    /// Locked for one update, or for a page.
    compiler: Arc<Mutex<Compiler>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    orders: watch::Sender<Orders>,
    checks: Mutex<Checks>,
}

impl Publisher {
    /// Publishes updates until the drain begins.
    async fn follow(&self, mut updates: Updates, daemon: &Daemon) {
        let mut blocked = Some(daemon.readiness.block("waiting until every kind is listed"));
        let draining = daemon.shutdown.draining();
        tokio::pin!(draining);
        let mut source_is_there = true;
        loop {
            let update = tokio::select! {
                () = &mut draining => return,
                update = updates.next(), if source_is_there => update,
            };
            match update {
                // What was served last is served on.
                None => source_is_there = false,
                Some(update) => {
                    self.publish(&update);
                    if update.synced {
                        drop(blocked.take());
                    }
                }
            }
        }
    }

    fn publish(&self, update: &Update) {
        let begun = Instant::now();
        let mut compiler = self.compiler.lock().unwrap_or_else(PoisonError::into_inner);
        let mut compiled = compiler.update(&update.model, &update.changes, update.generation);
        compiled.snapshot.synced = update.synced;
        let ingresses = compiler.served();
        self.snapshot.store(Arc::new(compiled.snapshot));
        // No route of this snapshot leads to them any more, or the model has no others.
        let endpoints_left = compiled.removal.apply();
        let targets = compiler.health_targets();
        drop(compiler);
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).set(targets);
        log(&compiled.news);
        if endpoints_left {
            self.orders.send_modify(|orders| orders.endpoints_left += 1);
        }
        self.metrics.programming_seconds.observe(update.received.elapsed().as_secs_f64());
        let (generation, changes) = (update.generation, update.changes.len());
        let micros = begun.elapsed().as_micros();
        if generation == 1 {
            tracing::info!(generation, ingresses, changes, micros, "snapshot");
        } else {
            tracing::debug!(generation, ingresses, changes, micros, "snapshot");
        }
    }
}
