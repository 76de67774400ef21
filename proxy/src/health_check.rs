//! `healthCheckNodePort`: answers the load balancer in front of the nodes whether this node has
//! endpoints of a Service.
//!
//! Snapshot → HTTP servers on the control runtime, one a Service, on the addresses of NodePorts.
//! 200 while a ready endpoint is on this node; 503 when there is none and while the process drains,
//! so that the load balancer stops sending connections before they would be refused. The answer has
//! kube-proxy's form, on every path.
//!
//! Left out: which Services have one and how many endpoints count (the resolver's work).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use daemon::Shutdown;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::ObjectName;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

use crate::cluster_clients::ClusterClients;
use crate::node_ips::addresses_of_node;
use crate::resolver::Family;
use crate::room::{Permit, Room};
use crate::snapshot::Snapshot;
use crate::sockets::{self, BindOptions, why_not_bound};

/// A port that is taken is tried again after this.
const RETRY: Duration = Duration::from_millis(100);
/// After this time without a new failure or a handover, the port is unlikely to become free soon.
const FAST_RETRY_TIME: Duration = Duration::from_secs(60);
/// It is tried again after this then.
const SLOW_RETRY: Duration = Duration::from_secs(2);
/// So many Services are tried at a time. When the port of one has become free, all are tried.
const MAX_PROBES: usize = 64;
/// On one address of one Service: more than the probes of a few load balancers. Beyond it the
/// oldest connection ends.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may be silent between requests: a probe sends its request at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long accepting pauses when the process has run out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why health checks are not served, by Service.
pub(crate) type Failures = imbl::OrdMap<ObjectName, Arc<str>>;

/// All health check servers.
#[derive(Debug)]
pub(crate) struct HealthChecks {
    /// Where they listen.
    ips: Vec<IpAddr>,
    /// Knows the addresses of this host, for a port that is taken on one of them.
    host: Arc<ClusterClients>,
    room: Arc<Room>,
    shutdown: Shutdown,
    served: BTreeMap<ObjectName, Served>,
    failures: Failures,
    retry: Option<Instant>,
    /// Until when retries are frequent.
    fast_until: Instant,
    /// The Service that was tried last.
    last_probed: Option<ObjectName>,
}

#[derive(Debug)]
struct Served {
    port: NonZeroU16,
    state: Arc<CheckState>,
    /// By address, as far as they could be bound.
    listening: BTreeMap<SocketAddr, Listening>,
}

#[derive(Debug)]
struct Listening {
    /// Dropping it ends its tasks, and with them the listener.
    accepting: JoinSet<()>,
    _permit: Permit,
}

/// What the servers of one Service answer.
#[derive(Debug)]
struct CheckState {
    service: ObjectName,
    local_endpoints: AtomicUsize,
    shutdown: Shutdown,
}

impl HealthChecks {
    pub(crate) fn new(
        (ips, host): (Vec<IpAddr>, Arc<ClusterClients>),
        room: Arc<Room>,
        shutdown: Shutdown,
    ) -> HealthChecks {
        let (served, failures) = (BTreeMap::new(), Failures::new());
        let (retry, fast_until, last_probed) = (None, Instant::now(), None);
        HealthChecks { ips, host, room, shutdown, served, failures, retry, fast_until, last_probed }
    }

    /// Makes the servers of `changed` Services equal the snapshot.
    pub(crate) async fn sync(&mut self, snapshot: &Snapshot, changed: &BTreeSet<ObjectName>) {
        let mut freed = BTreeSet::new();
        for name in changed {
            let wanted = snapshot.health_check(name);
            let Some(served) = self.served.get(name) else { continue };
            if wanted.is_none_or(|wanted| wanted.port != served.port) {
                // A port may go from one Service to another in one update.
                freed.insert(served.port);
                self.close(name).await;
            }
        }
        for name in changed {
            let Some(wanted) = snapshot.health_check(name) else { continue };
            let served = self.served.entry(name.clone()).or_insert_with(|| Served {
                port: wanted.port,
                state: Arc::new(CheckState {
                    service: name.clone(),
                    local_endpoints: AtomicUsize::new(0),
                    shutdown: self.shutdown.clone(),
                }),
                listening: BTreeMap::new(),
            });
            served.state.local_endpoints.store(wanted.local_endpoints, Ordering::Relaxed);
            if served.listening.is_empty() && !self.failures.contains_key(name) {
                self.open(name);
            }
        }
        let waits_for_freed = |name: &&ObjectName| {
            self.served.get(*name).is_some_and(|served| freed.contains(&served.port))
        };
        let again: Vec<_> = self.failures.keys().filter(waits_for_freed).cloned().collect();
        again.iter().for_each(|name| self.open(name));
    }

    /// Another process has begun to give its ports away: tries again soon and often.
    pub(crate) fn expect_free_ports(&mut self) {
        let now = Instant::now();
        self.fast_until = now + FAST_RETRY_TIME;
        if let Some(retry) = &mut self.retry {
            *retry = (*retry).min(now + RETRY);
        }
    }

    /// When [`HealthChecks::tend`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.retry
    }

    /// Tries again what could not be bound.
    pub(crate) fn tend(&mut self) {
        if self.retry.is_some_and(|at| at <= Instant::now()) {
            self.probe();
            self.retry = (!self.failures.is_empty()).then(|| self.next_retry());
        }
    }

    pub(crate) fn failures(&self) -> Failures {
        self.failures.clone()
    }

    /// Ends all servers.
    pub(crate) async fn close_all(&mut self) {
        let all: Vec<ObjectName> = self.served.keys().cloned().collect();
        for name in &all {
            self.close(name).await;
        }
    }

    async fn close(&mut self, name: &ObjectName) {
        self.failures.remove(name);
        if let Some(mut served) = self.served.remove(name) {
            // Waits for the listeners to be closed: the port is free when this returns.
            for listening in served.listening.values_mut() {
                listening.accepting.shutdown().await;
            }
        }
    }

    /// Tries some of the failed ports again, and all if one of them has become free.
    fn probe(&mut self) {
        let after_last = match self.last_probed.take() {
            Some(last) => (Bound::Excluded(last), Bound::Unbounded),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let later = self.failures.range(after_last).map(|(name, _)| name);
        let in_turn = later.chain(self.failures.keys());
        let count = self.failures.len().min(MAX_PROBES);
        let probed: Vec<_> = in_turn.take(count).cloned().collect();
        probed.iter().for_each(|name| self.open(name));
        if probed.iter().any(|name| !self.failures.contains_key(name)) {
            let rest: Vec<_> = self.failures.keys().cloned().collect();
            rest.iter().for_each(|name| self.open(name));
        }
        self.last_probed = probed.into_iter().next_back();
    }

    fn next_retry(&self) -> Instant {
        let now = Instant::now();
        now + if now < self.fast_until { RETRY } else { SLOW_RETRY }
    }

    fn open(&mut self, name: &ObjectName) {
        let Some(served) = self.served.get_mut(name) else { return };
        let port = served.port.get();
        let mut reasons = Vec::new();
        for ip in &self.ips {
            let on_all = SocketAddr::new(*ip, port);
            let Err(reason) = served.listen(on_all, &self.room) else { continue };
            // Another process has the port on one address of this host, or on all.
            let each = match ip.is_unspecified() {
                true => addresses_of_node(&self.host.host(), Family::of(*ip), port),
                false => Vec::new(),
            };
            let taken: Vec<String> =
                each.iter().filter_map(|addr| served.listen(*addr, &self.room).err()).collect();
            match taken.len() == each.len() {
                true => reasons.push(reason),
                false => reasons.extend(taken),
            }
        }
        if reasons.is_empty() {
            if self.failures.remove(name).is_some() {
                tracing::info!(service = %name, port, "health check bound");
            }
            return;
        }
        let rest = match served.listening.is_empty() {
            true => "",
            false => " (the other addresses of the node are served)",
        };
        let reason = format!("health check port {port}: {}{rest}", reasons.join("; "));
        if self.failures.get(name).is_none_or(|before| **before != *reason) {
            tracing::warn!(service = %name, %reason, "cannot serve");
        }
        if self.failures.insert(name.clone(), reason.into()).is_none() {
            self.expect_free_ports();
        }
        let retry = self.retry.unwrap_or_else(|| self.next_retry());
        self.retry = Some(retry);
    }
}

impl Served {
    /// Listens on an address, if it does not already.
    fn listen(&mut self, addr: SocketAddr, room: &Arc<Room>) -> Result<(), String> {
        if self.listening.contains_key(&addr) {
            return Ok(());
        }
        let permit = room.listeners(1).ok_or("no file descriptor left for a listener")?;
        let not_bound = |error| why_not_bound(addr, &error);
        let listeners = sockets::listen_tcp(addr, 1, BindOptions::default()).map_err(not_bound)?;
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let listener = TcpListener::from_std(listener).map_err(not_bound)?;
            accepting.spawn(accept(listener, self.state.clone()));
        }
        self.listening.insert(addr, Listening { accepting, _permit: permit });
        Ok(())
    }
}

async fn accept(listener: TcpListener, state: Arc<CheckState>) {
    let mut connections = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Those that have ended.
                while connections.try_join_next().is_some() {}
                oldest_first.retain(|connection| !connection.is_finished());
                // Connections that somebody holds open must not lock the load balancer out.
                if oldest_first.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = oldest_first.pop_front()
                {
                    oldest.abort();
                }
                oldest_first.push_back(connections.spawn(serve(stream, state.clone())));
            }
            Err(error) => {
                tracing::debug!(%error, "health check accept");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, state: Arc<CheckState>) {
    let service = service_fn(|_| {
        let answer = state.answer();
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "health check connection");
    }
}

impl CheckState {
    fn answer(&self) -> Response<Full<Bytes>> {
        let count = self.local_endpoints.load(Ordering::Relaxed);
        let healthy = !self.shutdown.is_draining();
        let mut response = Response::new(Full::from(body(&self.service, count, healthy)));
        if count == 0 || !healthy {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // Some load balancers give a node traffic by the number of its endpoints.
        headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(count));
        response
    }
}

fn body(service: &ObjectName, local_endpoints: usize, healthy: bool) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let (namespace, name) = (text(&service.namespace), text(&service.name));
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace},\n\t\t\"name\": {name}\n\t}},\n\t\
         \"localEndpoints\": {local_endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use model::{Model, Object, ServiceType, TrafficPolicy};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::objects::{port, service, slice};
    use crate::resolver::Node;
    use crate::room::Limits;

    /// An address of loopback that only this test uses.
    fn ip(last: u8) -> IpAddr {
        let pid = std::process::id();
        Ipv4Addr::new(127, 252 - (pid >> 8) as u8 % 2, 1 + pid as u8 % 250, last).into()
    }

    fn objects(name: &str, port_number: u16, endpoints: &[&str]) -> [Object; 2] {
        let ports = vec![port("", 80, model::Protocol::Tcp, None)];
        let service = model::Service {
            service_type: ServiceType::LoadBalancer,
            external_traffic_policy: TrafficPolicy::Local,
            health_check_node_port: NonZeroU16::new(port_number),
            ..service(name, &[], ports)
        };
        let slice = slice(name, name, &[("", model::Protocol::Tcp, 8080)], endpoints);
        [Object::Service(Arc::new(service)), Object::EndpointSlice(Arc::new(slice))]
    }

    /// Makes the servers those of a model of these objects; its failures.
    async fn sync(checks: &mut HealthChecks, objects: Vec<Object>) -> Vec<String> {
        let node = Node { name: Some("a".into()), ..Node::default() };
        let (model, changes) = Model::of(objects);
        let mut changed = changes.services;
        changed.extend(checks.served.keys().cloned());
        let (snapshot, _) = Snapshot::default().next(&model, &changed, &node, 1);
        checks.sync(&snapshot, &changed).await;
        checks.failures().iter().map(|(name, reason)| format!("{name}: {reason}")).collect()
    }

    async fn get(addr: SocketAddr) -> std::io::Result<(u16, serde_json::Value)> {
        let mut stream = TcpStream::connect(addr).await?;
        let request = b"GET /any HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let status = answer[9..12].parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        Ok((status, serde_json::from_str(body).unwrap()))
    }

    fn checks(daemon: &daemon::Daemon, ips: Vec<IpAddr>) -> HealthChecks {
        let room = Room::new(1000, 10, Limits::default());
        let host = Arc::new(ClusterClients::of([ip(21), ip(22)]));
        HealthChecks::new((ips, host), room, daemon.shutdown.clone())
    }

    #[tokio::test]
    async fn the_answer_follows_endpoints_drain_and_service() {
        let daemon = daemon::Daemon::detached("proxy", 1);
        let mut checks = checks(&daemon, vec![ip(1), ip(2)]);
        let addr = SocketAddr::new(ip(2), 32001);
        let web = |endpoints: &[&str]| objects("web", 32001, endpoints).to_vec();
        assert_eq!(sync(&mut checks, web(&["10.0.0.1 @a", "10.0.0.2 @b"])).await, [""; 0]);
        let body = |count: usize, healthy: bool| {
            serde_json::json!({
                "service": { "namespace": "demo", "name": "web" },
                "localEndpoints": count,
                "serviceProxyHealthy": healthy,
            })
        };
        assert_eq!(get(addr).await.unwrap(), (200, body(1, true)));
        sync(&mut checks, web(&["10.0.0.2 @b"])).await;
        assert_eq!(get(addr).await.unwrap(), (503, body(0, true)));
        sync(&mut checks, web(&["10.0.0.1 @a", "10.0.0.3 @a"])).await;
        assert_eq!(get(SocketAddr::new(ip(1), 32001)).await.unwrap(), (200, body(2, true)));
        daemon.shutdown.begin();
        assert_eq!(get(addr).await.unwrap(), (503, body(2, false)));
        sync(&mut checks, vec![]).await;
        assert!(get(addr).await.is_err());
        assert_eq!(checks.room.open_listeners(), 0);
    }

    #[tokio::test]
    async fn connections_held_open_keep_no_probe_out() {
        let daemon = daemon::Daemon::detached("proxy", 1);
        let mut checks = checks(&daemon, vec![ip(4)]);
        let addr = SocketAddr::new(ip(4), 32004);
        sync(&mut checks, objects("web", 32004, &["10.0.0.1 @a"]).to_vec()).await;
        let mut held = Vec::new();
        for _ in 0..3 * MAX_CONNECTIONS {
            held.push(TcpStream::connect(addr).await.unwrap());
            assert_eq!(get(addr).await.unwrap().0, 200);
        }
        // The first have ended, the last have not.
        assert_eq!(held[0].read(&mut [0]).await.unwrap_or(0), 0);
        let last = held.last_mut().unwrap();
        last.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        last.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    }

    #[tokio::test]
    async fn a_taken_port_is_reported_for_its_service_and_tried_again() {
        let daemon = daemon::Daemon::detached("proxy", 1);
        let mut checks = checks(&daemon, vec![ip(3)]);
        let taken = std::net::TcpListener::bind((ip(3), 32002)).unwrap();
        let both = || {
            let web = objects("web", 32002, &["10.0.0.1 @a"]);
            web.into_iter().chain(objects("other", 32003, &["10.0.0.1 @a"])).collect::<Vec<_>>()
        };
        let failures = sync(&mut checks, both()).await;
        assert_eq!(failures.len(), 1);
        assert!(failures[0].starts_with("demo/web: health check port 32002: "), "{failures:?}");
        assert_eq!(get(SocketAddr::new(ip(3), 32003)).await.unwrap().0, 200);
        drop(taken);
        assert!(checks.due().is_some_and(|due| due <= Instant::now() + RETRY));
        checks.retry = Some(Instant::now());
        checks.tend();
        assert!(checks.failures().is_empty() && checks.due().is_none());
        assert_eq!(get(SocketAddr::new(ip(3), 32002)).await.unwrap().0, 200);
        // A port goes from one Service to another in one update.
        let moved: Vec<_> = objects("next", 32002, &["10.0.0.1 @a"]).into();
        assert_eq!(sync(&mut checks, moved).await, [""; 0]);
        let answer = get(SocketAddr::new(ip(3), 32002)).await.unwrap().1;
        assert_eq!(answer["service"]["name"], "next");
        assert!(get(SocketAddr::new(ip(3), 32003)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn taken_ports_are_tried_in_turns_and_less_often_after_a_minute() {
        let daemon = daemon::Daemon::detached("proxy", 1);
        let mut checks = checks(&daemon, vec![ip(7)]);
        let count = MAX_PROBES as u16 + 1;
        let ports = 32100..32100 + count;
        let taken: Vec<_> =
            ports.clone().map(|port| std::net::TcpListener::bind((ip(7), port)).unwrap()).collect();
        let name = |port| format!("web-{port}");
        let all = ports.flat_map(|port| objects(&name(port), port, &["10.0.0.1 @a"])).collect();
        assert_eq!(sync(&mut checks, all).await.len(), usize::from(count));
        let object_name = |port| ObjectName::new("demo", &name(port));
        // The first of the second turn comes after the last one.
        checks.probe();
        assert_eq!(checks.last_probed, Some(object_name(32100 + count - 2)));
        checks.probe();
        assert_eq!(checks.last_probed, Some(object_name(32100 + count - 3)));
        let wait = async |checks: &mut HealthChecks| {
            let (due, now) = (checks.due().unwrap(), Instant::now());
            tokio::time::sleep_until(due).await;
            checks.tend();
            due - now
        };
        assert_eq!(wait(&mut checks).await, RETRY);
        tokio::time::advance(FAST_RETRY_TIME).await;
        wait(&mut checks).await;
        assert_eq!(wait(&mut checks).await, SLOW_RETRY);
        // In a handover the ports become free soon.
        checks.expect_free_ports();
        assert_eq!(wait(&mut checks).await, RETRY);
        drop(taken);
        wait(&mut checks).await;
        assert!(checks.failures().is_empty() && checks.due().is_none());
    }

    #[tokio::test]
    async fn a_port_that_is_taken_on_one_address_is_served_on_the_others() {
        let daemon = daemon::Daemon::detached("proxy", 1);
        // On all addresses it must be free for this process.
        let port = 20_000 + (std::process::id() % 10_000) as u16;
        let web = || objects("web", port, &["10.0.0.1 @a"]).to_vec();
        // Addresses that the operator chose, and all addresses of the host.
        for (ips, taken, other) in [
            (vec![ip(5), ip(6)], ip(5), ip(6)),
            (vec![Ipv4Addr::UNSPECIFIED.into()], ip(21), ip(22)),
        ] {
            let taken = SocketAddr::new(taken, port);
            let holder = std::net::TcpListener::bind(taken).unwrap();
            let mut checks = checks(&daemon, ips);
            let failures = sync(&mut checks, web()).await;
            let reason = format!(
                "demo/web: health check port {port}: {taken} is taken by another process (the \
                 other addresses of the node are served)"
            );
            assert_eq!(failures, [reason]);
            let other = SocketAddr::new(other, port);
            assert_eq!(get(other).await.unwrap().0, 200);
            drop(holder);
            checks.retry = Some(Instant::now());
            checks.tend();
            assert!(checks.failures().is_empty());
            assert_eq!(get(taken).await.unwrap().0, 200);
            assert_eq!(get(other).await.unwrap().0, 200);
            sync(&mut checks, vec![]).await;
            assert!(get(other).await.is_err());
            assert_eq!(checks.room.open_listeners(), 0);
        }
    }
}
