//! The cluster DNS responder: Services, endpoints and Pods by name, other names by forwarding.
//!
//! model → zone → answers. This file ties the parts together: it binds, starts a thread for each
//! worker and one for TCP and forwarding, turns each update into a new version of the zone, and
//! drains. The semantics are in `zone` and `wire`, which touch nothing, and in `respond`.

mod config;
mod explain;
mod forward;
mod local;
mod metrics;
mod mmsg;
#[cfg(test)]
mod oracle;
mod quota;
mod respond;
mod server;
mod snapshot;
mod tcp;
mod udp;
mod wire;
mod zone;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use daemon::{Daemon, Failure, bind_error};
use feed::{Update, Updates};
use model::{Kind, Kinds};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use config::{Config, Upstream};
pub use explain::Explainer;
pub use zone::PodMode;

use forward::Forwarder;
use metrics::{Counters, Metrics};
use respond::Policy;
use server::{Server, Worker};
use udp::Forwarded;
use wire::reply::Transport;
use zone::Zone;

/// The kinds of object that this process follows.
pub const KINDS: Kinds =
    Kinds::of(&[Kind::Service, Kind::EndpointSlice, Kind::Namespace, Kind::Pod]);

/// Runs until drained.
///
/// # Errors
///
/// When the flags cannot work together, an address cannot be bound, or a data thread ends.
pub async fn run(config: Config, mut updates: Updates, daemon: Daemon) -> Result<(), Failure> {
    let unready = daemon.readiness.block("the first snapshot is not served yet");
    // Connections and questions in flight need a descriptor each.
    daemon::descriptors::raise_limit();
    let metrics = Metrics::register(&daemon.metrics);
    let (threads, server) = start(&config, &daemon, &metrics)?;
    let before = server.zone.load_full();
    let mut publisher = Publisher { server, metrics, generation: Arc::default(), before };
    publisher.show(&daemon);
    let mut unready = Some(unready);
    let mut ended = threads.ended.subscribe();
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
                // The source has gone; what it said last is served until we are told to end.
                None => follows = false,
            },
            () = daemon.shutdown.draining() => break,
            _ = ended.wait_for(|count| *count > 0) => {
                let what = "a data thread ended by itself".to_owned();
                return Err(Failure::Failed { what, source: None });
            }
        }
    }
    drop(unready);
    threads.drain(config.drain_timeout).await;
    Ok(())
}

/// The threads that serve, and how they are told to stop.
struct Threads {
    draining: Arc<AtomicBool>,
    begin: watch::Sender<bool>,
    sockets: Vec<Arc<UdpSocket>>,
    /// Counts the threads that have ended.
    ended: watch::Sender<usize>,
    count: usize,
}

impl Threads {
    /// Runs `work` on a thread of its own.
    fn spawn(&mut self, name: String, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
        /// Counts the thread as ended however it ends.
        struct Ended(watch::Sender<usize>);
        impl Drop for Ended {
            fn drop(&mut self) {
                self.0.send_modify(|count| *count += 1);
            }
        }
        let ended = Ended(self.ended.clone());
        let body = move || {
            let _ended = ended;
            work();
        };
        let what = format!("cannot start thread {name}");
        let spawned = std::thread::Builder::new().name(name).spawn(body);
        self.count += 1;
        spawned.map(drop).map_err(|error| Failure::failed(what, error))
    }

    /// Answers what was received, waits for what is in flight, and ends all threads.
    async fn drain(self, limit: std::time::Duration) {
        self.draining.store(true, Ordering::Release);
        self.begin.send_replace(true);
        for socket in &self.sockets {
            udp::wake(socket);
        }
        // Once its thread has ended and its last question is answered, a socket closes, and tells
        // clients at once that nobody is there.
        drop(self.sockets);
        let mut ended = self.ended.subscribe();
        let all = ended.wait_for(|count| *count == self.count);
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!(?limit, "not all queries were finished in time");
        }
    }
}

/// Binds all addresses and starts all threads.
fn start(
    config: &Config,
    daemon: &Daemon,
    metrics: &Metrics,
) -> Result<(Threads, Arc<Server>), Failure> {
    let mut listeners = Vec::new();
    let mut sockets = Vec::new();
    let mut tcp_listeners = Vec::new();
    for addr in &config.listen {
        let failed = |transport: bind_error::Transport| {
            move |e: io::Error| bind_error::failure(*addr, transport, "--listen", &e)
        };
        // Where IPv4 has a listener of its own, one of IPv6 must leave it alone.
        let only_v6 =
            config.listen.iter().any(|other| other.is_ipv4() && other.port() == addr.port());
        let of_address = udp::bind(*addr, only_v6, daemon.workers)
            .map_err(failed(bind_error::Transport::Udp))?;
        let bound = of_address[0].local_addr().map_err(failed(bind_error::Transport::Udp))?;
        let listener = tcp::bind(bound, only_v6).map_err(failed(bind_error::Transport::Tcp))?;
        tcp_listeners.push(listener);
        listeners.push(bound);
        sockets.extend(of_address);
    }
    let server = Arc::new(make_server(config, daemon, metrics, &listeners)?);

    let mut threads = Threads {
        draining: Arc::default(),
        begin: watch::Sender::new(false),
        sockets: sockets.clone(),
        ended: watch::Sender::new(0),
        count: 0,
    };
    let (forwards, forwarded) = mpsc::unbounded_channel();
    for (number, socket) in sockets.into_iter().enumerate() {
        let worker = Worker::new(server.clone(), metrics.thread());
        let (draining, forwards) = (threads.draining.clone(), forwards.clone());
        let work = move || udp::serve(worker, &socket, &draining, &forwards);
        threads.spawn(format!("udp-{number}"), work)?;
    }
    let counters = metrics.thread();
    let work = Runtime {
        worker: Worker::new(server.clone(), counters.clone()),
        counters,
        limits: tcp::Limits {
            max_connections: config.max_tcp_connections,
            idle_timeout: config.tcp_idle_timeout,
        },
        metrics: metrics.clone(),
        draining: threads.begin.subscribe(),
        listeners: tcp_listeners,
        forwarded,
    };
    threads.spawn("tcp".into(), move || work.run())?;
    Ok((threads, server))
}

fn make_server(
    config: &Config,
    daemon: &Daemon,
    metrics: &Metrics,
    listeners: &[SocketAddr],
) -> Result<Server, Failure> {
    let addresses = local::addresses();
    let upstreams = config.upstreams(listeners, |ip| addresses.contains(&ip))?;
    let mut settings = config.zone_settings()?;
    settings.name_server_ips = local::name_server_ips(listeners, &addresses);
    tracing::info!(?listeners, ?upstreams, domain = %settings.domain, "answering");
    let status = json!({
        "listen": listeners,
        "domain": settings.domain.to_string(),
        "upstreams": upstreams,
        "allowForward": config.allow_forward.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    daemon.admin.add_status("dns", move || status.clone());
    let policy = Policy { forwards: !upstreams.is_empty(), tells_version: config.version_bind };
    let (timeout, most) = (config.upstream_timeout, config.max_forwards);
    Ok(Server {
        zone: ArcSwap::from_pointee(Zone::new(settings)),
        policy,
        allow_forward: config.allow_forward.clone(),
        forwarder: Forwarder::new(upstreams, timeout, most, metrics.clone()),
    })
}

/// The thread for what has to wait: connections and upstreams.
struct Runtime {
    worker: Worker,
    counters: Arc<Counters>,
    limits: tcp::Limits,
    metrics: Metrics,
    draining: watch::Receiver<bool>,
    listeners: Vec<std::net::TcpListener>,
    forwarded: mpsc::UnboundedReceiver<Forwarded>,
}

impl Runtime {
    fn run(self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.serve()),
            Err(error) => tracing::error!(%error, "cannot start the runtime for TCP"),
        }
    }

    /// Ends when the drain has begun, and all connections and questions have ended.
    async fn serve(self) {
        let forwarder = self.worker.server.forwarder.clone();
        let worker = tcp::shared_worker(self.worker);
        let mut servers = JoinSet::new();
        for listener in self.listeners {
            let server = tcp::TcpServer {
                worker: worker.clone(),
                limits: self.limits,
                metrics: self.metrics.clone(),
                draining: self.draining.clone(),
            };
            match TcpListener::from_std(listener) {
                Ok(listener) => drop(servers.spawn(server.serve(listener))),
                Err(error) => tracing::error!(%error, "cannot accept connections"),
            }
        }
        let mut forwarded = self.forwarded;
        while let Some(Forwarded { job, socket, origin }) = forwarded.recv().await {
            let (forwarder, counters) = (forwarder.clone(), self.counters.clone());
            servers.spawn(async move {
                let qtype = job.query.qtype;
                let (reply, rcode) = forwarder.answer(*job).await;
                counters.replied(Transport::Udp, Some(qtype), rcode);
                if let Err(error) = origin.send(&socket, &reply) {
                    tracing::debug!(%error, ?origin, "cannot reply");
                    counters.unsent(1);
                }
            });
            // Those that have ended would otherwise stay in the set.
            while servers.try_join_next().is_some() {}
        }
        while servers.join_next().await.is_some() {}
    }
}

/// Turns updates into versions of the zone.
struct Publisher {
    server: Arc<Server>,
    metrics: Metrics,
    generation: Arc<AtomicU64>,
    /// The version before the last, kept so that no data thread is the one to free it.
    before: Arc<Zone>,
}

impl Publisher {
    fn publish(&mut self, update: &Update) {
        let begun = Instant::now();
        let before = self.server.zone.load_full();
        let mut zone = Zone::clone(&before);
        if zone.apply(&update.model, &update.changes, update.synced) {
            zone.set_serial(next_serial(before.serial()));
        }
        let (names, serial) = (zone.names(), zone.serial());
        let was_synced = before.is_synced();
        self.server.zone.store(Arc::new(zone));
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

    /// Tells the admin endpoint what is served.
    fn show(&self, daemon: &Daemon) {
        let (server, generation) = (self.server.clone(), self.generation.clone());
        let page = move || snapshot::page(&server.zone.load(), generation.load(Ordering::Relaxed));
        daemon.admin.set_snapshot(page);
    }
}

/// Serials grow with every change, and from one process to the next: they are the time, or one
/// more than the last.
fn next_serial(last: u32) -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    last.wrapping_add(1).max(now as u32)
}
