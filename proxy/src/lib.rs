//! The L4 service proxy: ClusterIP and NodePort Services.
//!
//! Model → [`snapshot`] → data path. [`run`] follows the feed, makes a snapshot of each update
//! and has the data path sync to it, until it is told to drain.

mod annotations;
mod clock;
mod cluster_clients;
mod datapath;
mod explain;
mod findings;
mod handover;
mod health_check;
mod host_network;
mod metrics;
mod node_ips;
#[cfg(test)]
mod objects;
mod own_addresses;
pub mod resolver;
mod room;
mod service_cidr;
pub mod snapshot;
mod sockets;
mod status;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use daemon::flags::{parse_address, parse_duration};
use daemon::{Daemon, Failure, Guard, Readiness};
use feed::{Update, Updates};
use model::{Kinds, ObjectName, Process};
use tokio::time::{Instant, sleep_until};

pub use explain::Explainer;
pub use findings::Judge;
pub use ipnet::IpNet;
pub use service_cidr::parse_service_cidr;

use cluster_clients::ClusterClients;
use datapath::Datapath;
use datapath::userspace::{Settings, Userspace};
use handover::{Batch, Inbox};
use health_check::HealthChecks;
use metrics::ProxyMetrics;
use node_ips::{node_families, node_ips};
use own_addresses::OwnAddresses;
use resolver::Node;
use room::{Limits, Room, open_descriptors};
use service_cidr::{ServiceRoutes, parse_network};
use snapshot::Snapshot;
use status::{Facts, Published, View};

/// The kinds of object that this process follows.
pub const KINDS: Kinds = Kinds::listed_by(Process::Proxy);

/// Ignored annotations logged of one update; more would hide the first ones.
const MAX_LOGGED: usize = 20;

/// The process's own flags.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Admin endpoint (/livez /readyz /metrics /snapshot /status)
    #[arg(long, env = "SWITCHYARD_ADMIN", value_name = "ADDR",
        default_value = "127.0.0.1:7411", value_parser = parse_address)]
    pub admin: SocketAddr,

    /// How connections reach their endpoints
    #[arg(long, env = "SWITCHYARD_MODE", value_name = "MODE", default_value = "auto")]
    pub mode: Mode,

    /// The name of this node, as in the nodeName of EndpointSlices; default: the host's name
    #[arg(long, env = "SWITCHYARD_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Address to listen on for NodePorts; repeat for several. 127.0.0.1 and ::1 are added, unless
    /// one of the addresses is a loopback address. Default: all addresses of the node
    #[arg(long, env = "SWITCHYARD_NODE_IP", value_name = "IP", value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,

    /// Make all addresses of the range addresses of this host, with a local route that is removed
    /// at the end: every ClusterIP can be bound, and unused ones refuse connections. Needs
    /// CAP_NET_ADMIN. Without --node-ip, NodePorts then answer on the addresses of the range too
    #[arg(long, env = "SWITCHYARD_SERVICE_CIDR", value_name = "CIDR", value_delimiter = ',',
        value_parser = parse_service_cidr)]
    pub service_cidr: Vec<IpNet>,

    /// Networks of the cluster's Pods. Clients in them and on this node reach all endpoints of a
    /// Service with externalTrafficPolicy Local; other clients reach only those on this node.
    /// Default: the networks of this node's bridges
    #[arg(long, env = "SWITCHYARD_CLUSTER_CIDR", value_name = "CIDR", value_delimiter = ',',
        value_parser = parse_network)]
    pub cluster_cidr: Vec<IpNet>,

    /// How long connections may continue after their endpoint was removed, or after SIGTERM
    #[arg(long, env = "SWITCHYARD_DRAIN_TIMEOUT", value_name = "TIME", default_value = "30s",
        value_parser = parse_duration)]
    pub drain_timeout: Duration,

    /// How long to wait for one endpoint to accept a connection before the next one is tried
    #[arg(long, env = "SWITCHYARD_CONNECT_TIMEOUT", value_name = "TIME", default_value = "2s",
        value_parser = parse_duration)]
    pub connect_timeout: Duration,

    /// TCP connections open at once. When all are open, further clients wait, and the client (IPv6:
    /// the /64 network) with the most connections loses an idle one to a client with fewer.
    /// Default: as many as the limit of open files allows
    #[arg(long, env = "SWITCHYARD_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<NonZeroUsize>,

    /// TCP connections that one client (IPv6: one /64 network) can have open at once; further ones
    /// are reset. Default: no limit; a client can have all connections, but loses idle ones when
    /// other clients need them
    #[arg(long, env = "SWITCHYARD_MAX_CONNECTIONS_PER_CLIENT", value_name = "N")]
    pub max_connections_per_client: Option<NonZeroUsize>,

    /// How long a TCP connection stays open without traffic in either direction
    #[arg(long, env = "SWITCHYARD_IDLE_TIMEOUT", value_name = "TIME", default_value = "24h",
        value_parser = parse_duration)]
    pub idle_timeout: Duration,

    /// How long a UDP session stays open without a datagram
    #[arg(long, env = "SWITCHYARD_UDP_IDLE_TIMEOUT", value_name = "TIME", default_value = "60s",
        value_parser = parse_duration)]
    pub udp_idle_timeout: Duration,

    /// UDP sessions open at once. When all are open, the client (IPv6: the /64 network) with the
    /// most sessions loses one to a client with fewer. Default: half of the open files that
    /// listeners leave
    #[arg(long, env = "SWITCHYARD_MAX_UDP_SESSIONS", value_name = "N")]
    pub max_udp_sessions: Option<NonZeroUsize>,

    /// UDP sessions that one client (IPv6: one /64 network) can have; a new one then replaces an
    /// idle one of the same client, and is refused if none is idle. Default: no limit
    #[arg(long, env = "SWITCHYARD_MAX_UDP_SESSIONS_PER_CLIENT", value_name = "N")]
    pub max_udp_sessions_per_client: Option<NonZeroUsize>,

    /// Clients that a service port with session affinity remembers; beyond that, the client that
    /// was idle longest is forgotten
    #[arg(
        long,
        env = "SWITCHYARD_MAX_AFFINITY_CLIENTS",
        value_name = "N",
        default_value = "65536"
    )]
    pub max_affinity_clients: NonZeroUsize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The best mode that works on this machine
    Auto,
    /// The proxy relays each connection; the only mode in this version
    Userspace,
    /// Not available in this version
    Nftables,
    /// Not available in this version
    Ebpf,
}

/// Runs until drained.
///
/// # Errors
///
/// When the flags ask for what this version has not, or the data threads cannot be started.
pub async fn run(config: Config, updates: Updates, daemon: Daemon) -> Result<(), Failure> {
    let unprogrammed = daemon.readiness.block("waiting for the first snapshot");
    check(&config)?;
    let limit = daemon::descriptors::raise_limit();
    let limits = Limits {
        connections: config.max_connections.map(NonZeroUsize::get),
        connections_per_client: config.max_connections_per_client.map(NonZeroUsize::get),
        sessions: config.max_udp_sessions.map(NonZeroUsize::get),
        sessions_per_client: config.max_udp_sessions_per_client.map(NonZeroUsize::get),
    };
    // Each pair of data threads holds a few descriptors.
    let open = open_descriptors() + daemon.workers * DESCRIPTORS_PER_THREAD_PAIR;
    let room = Room::new(limit, open, limits);
    let node_ips = node_ips(&config.node_ip);
    let flags = node_of(config.node_name.as_deref(), &config.node_ip);
    let cluster_clients = ClusterClients::follow(&config.cluster_cidr, &config.service_cidr).await;
    let settings = settings(&config, daemon.workers, (&node_ips, &cluster_clients));
    let metrics = ProxyMetrics::register(&daemon.metrics);
    let published = Arc::new(Published::default());
    let own = Arc::new(OwnAddresses::new(config.service_cidr.clone()));
    let datapath = Userspace::start(
        settings,
        (room.clone(), own.clone()),
        metrics.clone(),
        &daemon.supervisor,
    )?;
    let routes = ServiceRoutes::add(&config.service_cidr).await?;
    let facts = Facts {
        mode: Userspace::MODE,
        limit,
        room: room.clone(),
        own,
        meters: metrics.meters.clone(),
        service_cidrs: config.service_cidr.clone(),
        unused_cidrs: routes.unused().to_vec(),
        cluster_clients: cluster_clients.clone(),
    };
    status::show(&daemon, &published, facts);
    let node = flags.clone();
    let snapshot = Snapshot::default();
    let health_checks =
        HealthChecks::new((node_ips, cluster_clients), room, daemon.shutdown.clone());
    let readiness = ServesNothing { readiness: daemon.readiness.clone(), held: None };
    let proxy = Proxy {
        flags,
        node,
        metrics,
        published,
        readiness,
        datapath,
        health_checks,
        snapshot,
        inbox: Inbox::default(),
    };
    tokio::select! {
        () = proxy.follow(updates, &daemon, unprogrammed) => {}
        // The proxy is dropped, which resets its connections: no client takes part of an answer for
        // all of it.
        () = daemon.shutdown.ending() => {}
    }
    // Only now: the connections that drained needed it.
    routes.remove().await;
    Ok(())
}

fn settings(
    config: &Config,
    workers: usize,
    (node_ips, cluster_clients): (&[IpAddr], &Arc<ClusterClients>),
) -> Settings {
    Settings {
        workers,
        node_ips: node_ips.to_vec(),
        service_cidrs: config.service_cidr.clone(),
        cluster_clients: cluster_clients.clone(),
        drain_timeout: config.drain_timeout,
        connect_timeout: config.connect_timeout,
        idle_timeout: config.idle_timeout,
        udp_idle_timeout: config.udp_idle_timeout,
        max_affinity_clients: config.max_affinity_clients.get(),
    }
}

/// The node as its flags have it: `--node-name` and `--node-ip`.
pub fn node_of(name: Option<&str>, ips: &[IpAddr]) -> Node {
    Node {
        name: name.map(Into::into).or_else(host_name),
        families: node_families(&node_ips(ips)),
        ips: ips.to_vec(),
        ..Node::default()
    }
}

/// For TCP an epoll instance and its inbox; for UDP the same of a runtime, and their duplicates
/// in its handle.
const DESCRIPTORS_PER_THREAD_PAIR: usize = 6;

/// The name that Kubernetes gives a node by default: the host's, in lower case.
fn host_name() -> Option<Arc<str>> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim().to_ascii_lowercase();
    (!name.is_empty()).then(|| name.into())
}

fn check(config: &Config) -> Result<(), Failure> {
    match config.mode {
        Mode::Auto | Mode::Userspace => {}
        Mode::Nftables | Mode::Ebpf => {
            return Err(Failure::Configuration(
                "--mode: this version has the userspace mode only; use auto or userspace".into(),
            ));
        }
    }
    if let Some(ip) = config.node_ip.iter().find(|ip| ip.is_unspecified()) {
        return Err(Failure::Configuration(format!(
            "--node-ip {ip}: leave the flag out to listen on all addresses"
        )));
    }
    for (flag, time) in [
        ("--connect-timeout", config.connect_timeout),
        ("--idle-timeout", config.idle_timeout),
        ("--udp-idle-timeout", config.udp_idle_timeout),
    ] {
        if time.is_zero() {
            return Err(Failure::Configuration(format!("{flag} must be greater than zero")));
        }
    }
    Ok(())
}

/// The control side: follows the feed and keeps the data path in step.
struct Proxy<D> {
    /// What the flags say of this node.
    flags: Node,
    /// That, and what its Node object says.
    node: Node,
    metrics: ProxyMetrics,
    published: Arc<Published>,
    readiness: ServesNothing,
    datapath: D,
    health_checks: HealthChecks,
    snapshot: Snapshot,
    /// What another process that drains offers to this one.
    inbox: Inbox,
}

/// Takes readiness away from a proxy that could open none of its frontends. A proxy that lacks only
/// some of them stays ready: taking it out of service would harm the clients of the others.
struct ServesNothing {
    readiness: Readiness,
    held: Option<(String, Guard)>,
}

impl ServesNothing {
    fn set(&mut self, reason: Option<String>) {
        let before = self.held.as_ref().map(|(reason, _)| reason);
        if before == reason.as_ref() {
            return;
        }
        // The new one first: in between it would be ready.
        let guard = reason.map(|reason| (reason.clone(), self.readiness.block(reason)));
        self.held = guard;
    }
}

impl<D: Datapath> Proxy<D> {
    async fn follow(mut self, mut updates: Updates, daemon: &Daemon, unprogrammed: Guard) {
        let mut unprogrammed = Some(unprogrammed);
        let mut feed_ended = false;
        loop {
            let due = self.datapath.due().into_iter().chain(self.health_checks.due()).min();
            tokio::select! {
                biased;
                () = daemon.shutdown.draining() => break,
                // Before updates, which may come without a pause.
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.datapath.tend().await;
                    self.health_checks.tend();
                    self.publish();
                }
                Batch { offers, answer } = self.inbox.next() => {
                    let taken = self.datapath.take_over(offers).await;
                    if taken.contains(&true) {
                        self.health_checks.expect_free_ports();
                    }
                    let _ = answer.send(taken);
                    self.publish();
                }
                update = updates.next(), if !feed_ended => match update {
                    // Nothing is programmed until every kind has been listed.
                    Some(update) if update.synced => {
                        self.program(update, unprogrammed.is_some()).await;
                        unprogrammed = None;
                    }
                    Some(_) => {}
                    // The last state serves on.
                    None => feed_ended = true,
                },
            }
        }
        // Declines what it has received: nobody would look at that any more.
        drop(self.inbox);
        if self.datapath.hand_over().await {
            // Another process answers load balancers from now on, for the endpoints that it serves.
            self.health_checks.close_all().await;
        }
        self.datapath.drain().await;
    }

    async fn program(&mut self, update: Update, first: bool) {
        let begun = Instant::now();
        let has_moved = self.locate(&update, first);
        let mut changed = update.changes.services;
        // Earlier updates may have been skipped because they were not synced, and the node's zone
        // matters to every Service.
        if first || has_moved {
            changed.extend(update.model.services().map(|entry| entry.service.name.clone()));
        }
        let (next, touched) =
            self.snapshot.next(&update.model, &changed, &self.node, update.generation);
        for (service, ignored) in next.newly_ignored(&self.snapshot, &changed).take(MAX_LOGGED) {
            let help = ignored.help.as_deref().unwrap_or_default();
            tracing::warn!(%service, help, "{ignored}");
        }
        self.snapshot = next;
        let built = begun.elapsed();
        self.datapath.sync(&self.snapshot, &touched).await;
        self.health_checks.sync(&self.snapshot, &changed).await;
        self.forget_gone(&changed);
        self.publish();
        self.metrics.programmed(update.received.elapsed());
        let generation = update.generation;
        let (services, frontends) = (changed.len(), touched.len());
        let (built_us, synced_us) = (built.as_micros() as u64, begun.elapsed().as_micros() as u64);
        if first {
            tracing::info!(generation, services, frontends, built_us, synced_us, "serving");
        } else {
            tracing::debug!(generation, services, frontends, built_us, synced_us, "synced");
        }
    }

    /// Reads the Node objects. Returns whether the endpoints of any Service may have changed.
    fn locate(&mut self, update: &Update, first: bool) -> bool {
        if !first && update.changes.nodes.is_empty() {
            return false;
        }
        let before = std::mem::replace(&mut self.node, self.flags.with_objects(&update.model));
        let Node { name, zone, .. } = &self.node;
        if first || before.zone != *zone {
            tracing::info!(node = name.as_deref(), zone = zone.as_deref(), "this node");
        }
        before != self.node
    }

    fn forget_gone(&self, changed: &BTreeSet<ObjectName>) {
        for name in changed.iter().filter(|name| !self.snapshot.has_service(name)) {
            self.metrics.meters.forget(name);
        }
    }

    fn publish(&mut self) {
        let report = self.datapath.report();
        self.readiness.set(report.serves_nothing);
        self.inbox.wait_for_offers(report.waits_for_address);
        let view = View {
            snapshot: self.snapshot.clone(),
            node: self.node.clone(),
            failures: report.failures,
            health_check_failures: self.health_checks.failures(),
        };
        self.published.store(view);
    }
}

#[cfg(test)]
mod tests;
