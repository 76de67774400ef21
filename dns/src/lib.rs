//! The cluster DNS responder: Services, endpoints and Pods by name, other names by forwarding.
//!
//! model → zone → answers. This file connects the parts: it binds, starts the data threads, turns
//! each update of the model into a new version of the zone, and drains. The semantics are in `zone`
//! and `wire`, which use no sockets, clocks or files, and in `respond`.

mod accept;
mod answered_by;
mod budget;
mod cache;
mod cache_page;
mod cache_report;
mod config;
mod cookies;
mod explain;
mod forward;
pub mod fuzz;
mod hosts_file;
mod https;
mod local;
mod looks;
mod machine;
mod metrics;
mod mmsg;
#[cfg(test)]
mod oracle;
mod query_log;
mod rate;
mod record_text;
mod respond;
mod responder;
mod snapshot;
mod tcp;
mod threads;
mod tls;
mod udp;
mod wire;
mod zone;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use daemon::client_tls::system_tls;
use daemon::quota::{Quota, QuotaLimits};
use daemon::{Daemon, Failure, bind_error};
use feed::{Update, Updates};
use prometheus_client::metrics::gauge::Gauge;
use serde_json::json;

pub use cache_report::CacheReport;
pub use config::{Config, Forward, KINDS, Upstream};
pub use explain::{AskProcess, Explainer, Said};
pub use forward::server::ServerAddress;
pub use query_log::QueryLogMode;
pub use zone::PodMode;

use accept::{Listener, Protocol};
use budget::{Budget, Demand};
use cache::Cache;
use cache_page::CacheView;
use config::Servers;
use cookies::Cookies;
use forward::cache_metrics::CacheMetrics;
use forward::flights::Flights;
use forward::probe::Probes;
use forward::routes::Routes;
use forward::server::{Group, Server};
use forward::server_metrics::ServerMetrics;
use forward::upstreams::Forwarding;
use forward::{Sockets, health, loops};
use hosts_file::HostsFile;
use local::Local;
use looks::Looks;
use metrics::{CountedZone, Metrics};
use rate::RateLimit;
use responder::{Shared, unix_seconds};
use threads::{Setup, Threads};
use tls::{Certificate, CertificateFiles, CertificateSecret};
use zone::{Settings, Zone};

/// Runs until drained.
///
/// # Errors
///
/// When the flags cannot work together, an address cannot be bound, or a data thread ends.
pub async fn run(config: Config, mut updates: Updates, daemon: Daemon) -> Result<(), Failure> {
    let unready = daemon.readiness.block("waiting for the first snapshot");
    let metrics = Metrics::register(&daemon.metrics, counted_zones(&config)?);
    let (threads, shared, certificate) = start(&config, &daemon, &metrics)?;
    tokio::spawn(health::watch(shared.forwarding.clone()));
    tokio::spawn(loops::watch(shared.forwarding.clone(), daemon.readiness.clone()));
    let before = shared.zone.load_full();
    let generation = Arc::default();
    let mut publisher = Publisher { shared, metrics, generation, before, certificate };
    publisher.show(&daemon);
    let mut unready = Some(unready);
    let mut follows = true;
    loop {
        tokio::select! {
            update = updates.next(), if follows => match update {
                Some(update) => {
                    publisher.publish(&update);
                    if update.synced {
                        unready = None;
                    }
                }
                // The source has ended; its last state is served until the process drains.
                None => follows = false,
            },
            () = daemon.shutdown.draining() => break,
        }
    }
    drop(unready);
    threads.drain(config.drain_timeout).await;
    Ok(())
}

/// The label of each zone that queries are counted under.
fn counted_zones(config: &Config) -> Result<Vec<String>, Failure> {
    let domain = config.zone_settings()?.domain;
    Ok(CountedZone::labels(&domain, config.forwarded_zones()))
}

/// DNS over TLS, in ALPN (registered by IANA for RFC 7858).
const DOT: &[u8] = b"dot";

/// Binds all addresses and starts all threads.
fn start(
    config: &Config,
    daemon: &Daemon,
    metrics: &Metrics,
) -> Result<(Threads, Arc<Shared>, Option<CertificateSecret>), Failure> {
    let mut listeners = Vec::new();
    let mut sockets = Vec::new();
    let mut tcp_listeners = Vec::new();
    for addr in &config.listen {
        let failed = |transport: bind_error::Transport| {
            move |e: io::Error| bind_error::failure(*addr, transport, "--listen", &e)
        };
        // If IPv4 has a listener of its own, the one of IPv6 must not take IPv4 too.
        let only_v6 =
            config.listen.iter().any(|other| other.is_ipv4() && other.port() == addr.port());
        let of_address = udp::bind(*addr, only_v6, daemon.workers)
            .map_err(failed(bind_error::Transport::Udp))?;
        let bound = of_address[0].local_addr().map_err(failed(bind_error::Transport::Udp))?;
        let socket = tcp::bind(bound, only_v6).map_err(failed(bind_error::Transport::Tcp))?;
        tcp_listeners.push(Listener { socket, protocol: Protocol::Tcp });
        listeners.push(bound);
        sockets.extend(of_address);
    }
    let certificate = certificate(config)?;
    if let Some(source) = &certificate {
        tcp_listeners.extend(encrypted(config, source.certificate())?);
    }
    let demand = Demand {
        open_files: daemon::descriptors::raise_limit(),
        threads: sockets.len() + 1,
        listeners: sockets.len() + tcp_listeners.len(),
        max_tcp_connections: config.max_tcp_connections,
        max_forwards: config.max_forwards,
    };
    let budget = demand.budget();
    if budget.tcp_connections < config.max_tcp_connections {
        tracing::warn!(
            limit = demand.open_files,
            allowed = budget.tcp_connections,
            wanted = config.max_tcp_connections,
            "the limit of open files allows fewer connections than --max-tcp-connections: raise \
             it with `ulimit -n`, LimitNOFILE= of systemd or --ulimit of docker, or lower \
             --max-tcp-connections"
        );
    }
    let shared = Arc::new(shared(config, daemon, metrics, &listeners, budget)?);
    follow_hosts(config, daemon, &shared);
    let certificate = certificate.and_then(|source| source.follow(daemon));
    let mut threads = Threads::new(daemon.supervisor.clone());
    let setup = Setup {
        shared: shared.clone(),
        metrics: metrics.clone(),
        query_log: threads.log_queries(config.query_log, metrics)?,
        sockets: Sockets::new(budget.forwards),
    };
    for (number, socket) in sockets.into_iter().enumerate() {
        threads.serve_udp(number, socket, setup.clone())?;
    }
    let quota = quota(budget.tcp_connections, &metrics.tcp_connections);
    threads.serve_tcp(tcp_listeners, quota, config.tcp_idle_timeout, setup)?;
    Ok((threads, shared, certificate))
}

/// Binds the addresses for DNS over TLS and over HTTPS.
fn encrypted(config: &Config, certificate: &Certificate) -> Result<Vec<Listener>, Failure> {
    let mut listeners = Vec::new();
    let mut bind = |flag: &str, addresses: &[SocketAddr], protocol: Protocol| {
        for addr in addresses {
            let only_v6 =
                addresses.iter().any(|other| other.is_ipv4() && other.port() == addr.port());
            let socket = tcp::bind(*addr, only_v6)
                .map_err(|e| bind_error::failure(*addr, bind_error::Transport::Tcp, flag, &e))?;
            let local = socket.local_addr().unwrap_or(*addr);
            tracing::info!(address = %local, "answering, {flag}");
            listeners.push(Listener { socket, protocol: protocol.clone() });
        }
        Ok::<(), Failure>(())
    };
    bind("--tls-listen", &config.tls_listen, Protocol::Tls(certificate.config(&[DOT])?))?;
    let of_http = certificate.config(&[https::HTTP2, https::HTTP1])?;
    bind("--https-listen", &config.https_listen, Protocol::Https(of_http))?;
    Ok(listeners)
}

/// Where the certificate comes from.
enum CertificateSource {
    Files(CertificateFiles),
    Secret(CertificateSecret),
}

impl CertificateSource {
    fn certificate(&self) -> &Certificate {
        match self {
            CertificateSource::Files(files) => files.certificate(),
            CertificateSource::Secret(secret) => secret.certificate(),
        }
    }

    /// Follows the files. A Secret is followed by the updates of the feed.
    fn follow(self, daemon: &Daemon) -> Option<CertificateSecret> {
        match self {
            CertificateSource::Files(files) => {
                tokio::spawn(files.follow(Looks::new(daemon.shutdown.reloads())));
                None
            }
            CertificateSource::Secret(secret) => Some(secret),
        }
    }
}

/// Opens the certificate, if there is an address that needs one.
fn certificate(config: &Config) -> Result<Option<CertificateSource>, Failure> {
    if config.tls_listen.is_empty() && config.https_listen.is_empty() {
        return Ok(None);
    }
    if let Some(secret) = &config.tls_secret {
        return Ok(Some(CertificateSource::Secret(CertificateSecret::new(secret.clone()))));
    }
    let (Some(certificate), Some(key)) = (config.tls_cert.clone(), config.tls_key.clone()) else {
        let missing =
            "--tls-listen and --https-listen need --tls-cert and --tls-key, or --tls-secret";
        return Err(Failure::Configuration(missing.to_owned()));
    };
    Ok(Some(CertificateSource::Files(CertificateFiles::open(certificate, key)?)))
}

/// Reads the file of `--hosts` and follows it.
fn follow_hosts(config: &Config, daemon: &Daemon, shared: &Arc<Shared>) {
    let Some(file) = config.hosts.clone() else { return };
    let mut file = HostsFile::new(file, shared.zone.load().domain().clone());
    if let Some(hosts) = file.read() {
        let hosts = Arc::new(hosts);
        shared.local.rcu(|before| Local { hosts: hosts.clone(), ..Local::clone(before) });
    }
    tokio::spawn(file.follow(shared.clone(), Looks::new(daemon.shutdown.reloads())));
}

/// One client may hold one permit in so many.
const CLIENT_SHARE: usize = 4;

/// A quota of which one client may hold a quarter, shown by `gauge`.
fn quota(total: usize, gauge: &Gauge<i64, AtomicI64>) -> Quota {
    Quota::with_gauge(QuotaLimits::new(total, total.div_ceil(CLIENT_SHARE)), gauge.clone())
}

/// What the data threads share: an empty zone, and the upstreams, which are followed if they are
/// the system's.
fn shared(
    config: &Config,
    daemon: &Daemon,
    metrics: &Metrics,
    listeners: &[SocketAddr],
    budget: Budget,
) -> Result<Shared, Failure> {
    let addresses = machine::addresses();
    let servers = config.servers(listeners, |ip| addresses.contains(&ip))?;
    let mut settings = config.zone_settings()?;
    let zones = config.forward_zones(&settings.domain, listeners, |ip| addresses.contains(&ip))?;
    let routes = Arc::new(zones.routes);
    settings.name_server_ips = machine::name_server_ips(listeners, &addresses);
    let (first, followed) = match servers {
        Servers::Fixed(servers) => (servers, None),
        Servers::Followed(mut file) => {
            let servers = file.read().unwrap_or_default();
            (servers.into_iter().map(Into::into).collect(), Some(file))
        }
    };
    let upstreams: Vec<String> = first.iter().map(ToString::to_string).collect();
    tracing::info!(?listeners, ?upstreams, domain = %settings.domain, "answering");
    let forwarding =
        Arc::new(forwarding(config, metrics, &first, &zones.groups, routes.clone(), budget)?);
    ServerMetrics::register(&daemon.metrics, forwarding.clone());
    CacheMetrics::register(&daemon.metrics, forwarding.clone());
    if let Some(file) = followed {
        tokio::spawn(file.follow(forwarding.clone(), Looks::new(daemon.shutdown.reloads())));
    }
    show_status(config, daemon, listeners, &settings, forwarding.clone());
    let local = Local { routes, ttl: settings.ttl, ..Local::default() };
    let local = ArcSwap::from_pointee(local);
    let zone = ArcSwap::from_pointee(Zone::new(settings));
    Ok(Shared {
        zone,
        local,
        tells_version: config.version_bind,
        forwarding,
        cookies: Cookies::new(),
        rate_limit: RateLimit::new(config.rate_limit, config.rate_limit_exempt.clone()),
        begun: Instant::now(),
    })
}

/// What is needed to forward: to `servers`, and to each of `zones` for those of `routes`.
fn forwarding(
    config: &Config,
    metrics: &Metrics,
    servers: &[ServerAddress],
    zones: &[Vec<ServerAddress>],
    routes: Arc<Routes>,
    budget: Budget,
) -> Result<Forwarding, Failure> {
    let mut all = servers.iter().chain(zones.iter().flatten());
    let tls = all.any(|server| server.tls_name.is_some()).then(system_tls);
    let tls = tls.transpose().map_err(|error| Failure::failed("--upstream tls://", error))?;
    let group = |servers: &Vec<ServerAddress>| Arc::new(Group::new(servers, Instant::now()));
    Ok(Forwarding {
        upstreams: ArcSwap::from_pointee(Group::new(servers, Instant::now())),
        routes,
        zones: zones.iter().map(group).collect(),
        allow: config.allow_forward.clone(),
        try_timeout: config.upstream_timeout,
        quota: quota(config.max_forwards.min(budget.forwards), &metrics.forwards_in_flight),
        metrics: metrics.clone(),
        probes: Probes::default(),
        cache: Cache::new(usize::try_from(config.cache_bytes).unwrap_or(usize::MAX)),
        flights: Flights::default(),
        health: Arc::default(),
        tls,
    })
}

/// Shows what is set and which upstreams answer, on the admin endpoint.
fn show_status(
    config: &Config,
    daemon: &Daemon,
    listeners: &[SocketAddr],
    settings: &Settings,
    forwarding: Arc<Forwarding>,
) {
    let allowed: Vec<String> = config.allow_forward.iter().map(ToString::to_string).collect();
    let (listeners, domain) = (listeners.to_vec(), settings.domain.to_string());
    daemon.admin.add_status("dns", move || {
        let servers = forwarding.servers();
        let named = |is_shown: fn(&Server) -> bool| {
            let shown = servers.iter().filter(|server| is_shown(server));
            shown.map(|server| server.address.to_string()).collect::<Vec<_>>()
        };
        let of_group = |group: &Group| {
            group.servers.iter().map(|server| server.address.to_string()).collect::<Vec<_>>()
        };
        let zones = forwarding.routes.zones();
        let forward: BTreeMap<_, _> = zones
            .map(|(zone, at)| (zone.to_string(), of_group(&forwarding.group_at(at))))
            .collect();
        json!({
            "listen": listeners,
            "domain": domain,
            "upstreams": of_group(&forwarding.upstreams.load()),
            "forward": forward,
            "upstreamsDown": named(Server::is_down),
            "upstreamLoops": named(Server::is_loop),
            "allowForward": allowed,
        })
    });
}

/// Turns updates into versions of the zone.
struct Publisher {
    shared: Arc<Shared>,
    metrics: Metrics,
    generation: Arc<AtomicU64>,
    /// The version before the last, kept so that no data thread has to free it.
    before: Arc<Zone>,
    /// If the certificate comes from a Secret.
    certificate: Option<CertificateSecret>,
}

impl Publisher {
    fn publish(&mut self, update: &Update) {
        let begun = Instant::now();
        self.use_secret(update);
        let before = self.shared.zone.load_full();
        let mut zone = Zone::clone(&before);
        if zone.apply(&update.model, &update.changes, update.synced) {
            zone.set_serial(next_serial(before.serial()));
        }
        let (names, serial) = (zone.names(), zone.serial());
        let was_synced = before.is_synced();
        self.shared.zone.store(Arc::new(zone));
        self.before = before;
        self.generation.store(update.generation, Ordering::Relaxed);
        self.metrics.programming.observe(update.received.elapsed().as_secs_f64());
        self.metrics.zone_names.set(names as i64);
        self.metrics.zone_serial.set(i64::from(serial));
        let (generation, took_us) = (update.generation, begun.elapsed().as_micros() as u64);
        if update.synced && !was_synced {
            tracing::info!(generation, serial, names, took_us, "serving the first snapshot");
        } else {
            tracing::debug!(generation, serial, names, took_us, "serving a snapshot");
        }
    }

    /// Uses the certificate of the Secret, if that has changed or is known not to exist.
    fn use_secret(&mut self, update: &Update) {
        let Some(source) = &mut self.certificate else { return };
        let is_first = update.synced && !self.shared.zone.load().is_synced();
        if is_first || update.changes.secrets.contains(&source.name) {
            source.update(update.model.secret(&source.name));
        }
    }

    /// Shows what is served on the admin endpoint.
    fn show(&self, daemon: &Daemon) {
        let (shared, generation) = (self.shared.clone(), self.generation.clone());
        let page = move || snapshot::page(&shared.zone.load(), generation.load(Ordering::Relaxed));
        daemon.admin.set_snapshot(page);
        let shared = self.shared.clone();
        daemon.admin.add_page("/cache", move |query| {
            let (zone, local) = (shared.zone.load(), shared.local.load());
            let view = CacheView { zone: &zone, local: &local, forwarding: &shared.forwarding };
            let report = cache_page::report(view, query, Instant::now())?;
            Ok(json!(report))
        });
    }
}

/// Serials grow with every change, and from one process to the next: a serial is the time, or one
/// more than the last serial if that is greater.
fn next_serial(last: u32) -> u32 {
    last.wrapping_add(1).max(unix_seconds())
}
