//! What the proxy tells operators: `/snapshot`, its member of `/status`, and its frontends' states
//! in `/metrics`.
//!
//! Built on request from what control published last. Nothing here is on a data path.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use daemon::Daemon;
use ipnet::IpNet;
use model::ObjectName;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use serde_json::{Value, json};

use crate::cluster_clients::ClusterClients;
use crate::datapath::Failures;
use crate::health_check;
use crate::host_network::HostNetwork;
use crate::metrics::Meters;
use crate::own_addresses::OwnAddresses;
use crate::resolver::{Family, Frontend, FrontendAddress, Node, Place};
use crate::room::Room;
use crate::service_cidr::{UNUSED_RANGE, overlap};
use crate::snapshot::{Snapshot, in_range_text, range_without_owner};

/// Problems that `/status` spells out; `/snapshot` has all of them.
const MAX_PROBLEMS: usize = 100;

/// How long a shortage that is over is still reported.
const RECENT: Duration = Duration::from_secs(60);

/// What control last gave the data path to serve.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) snapshot: Snapshot,
    pub(crate) node: Node,
    pub(crate) failures: Failures,
    pub(crate) health_check_failures: health_check::Failures,
}

#[derive(Debug, Default)]
pub(crate) struct Published(ArcSwap<View>);

impl Published {
    pub(crate) fn store(&self, view: View) {
        self.0.store(Arc::new(view));
    }
}

/// What does not change while the process runs.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) mode: &'static str,
    /// File descriptors that the process may have.
    pub(crate) limit: usize,
    pub(crate) room: Arc<Room>,
    pub(crate) own: Arc<OwnAddresses>,
    pub(crate) meters: Meters,
    /// `--service-cidr`, and those of them that are not used, because IPv6 is disabled.
    pub(crate) service_cidrs: Vec<IpNet>,
    pub(crate) unused_cidrs: Vec<IpNet>,
    pub(crate) cluster_clients: Arc<ClusterClients>,
}

/// Adds the proxy's pages to the admin endpoint, and its frontends to the metrics.
pub(crate) fn show(daemon: &Daemon, published: &Arc<Published>, facts: Facts) {
    let states = FrontendStates(published.clone());
    let gauges = RoomGauges(facts.room.clone());
    daemon.metrics.register(|registry| {
        registry.register_collector(Box::new(states));
        registry.register_collector(Box::new(gauges));
    });
    let views = published.clone();
    daemon.admin.set_snapshot(move || snapshot_page(&views.0.load()));
    let views = published.clone();
    daemon.admin.add_status("proxy", move || status_page(&views.0.load(), &facts));
}

/// Counts the frontends by state when metrics are asked for.
#[derive(Debug)]
struct FrontendStates(Arc<Published>);

impl Collector for FrontendStates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let view = self.0.0.load();
        let mut counts = [State::Listening, State::NoEndpoints, State::Failed].map(|s| (s, 0_i64));
        for frontend in view.snapshot.frontends() {
            counts[view.state(frontend) as usize].1 += 1;
        }
        counts[State::Failed as usize].1 += view.snapshot.crowded_out().count() as i64;
        let (name, help) = ("switchyard_proxy_frontends", "Frontends by state");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (state, count) in counts {
            let labels = [("state", state.as_str())];
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// How much room there is for TCP connections, and who waits for it.
#[derive(Debug)]
struct RoomGauges(Arc<Room>);

impl Collector for RoomGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let room = &self.0;
        let gauges = [
            (
                "switchyard_proxy_max_connections",
                "Limit of TCP connections open at once",
                room.max_connections(),
            ),
            (
                "switchyard_proxy_waiting_clients",
                "TCP clients that wait because all connections are in use",
                room.waiting_clients(),
            ),
        ];
        for (name, help, value) in gauges {
            let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value as i64).encode(encoder)?;
        }
        Ok(())
    }
}

/// What happens to a client that dials a frontend.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Listening,
    /// The kernel refuses.
    NoEndpoints,
    /// The address is not ours, or could not be bound.
    Failed,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Listening => "listening",
            State::NoEndpoints => "no endpoints",
            State::Failed => "failed",
        }
    }
}

impl View {
    fn state(&self, frontend: &Frontend) -> State {
        match self.failures.contains_key(&frontend.address) {
            true => State::Failed,
            false if !frontend.is_served() => State::NoEndpoints,
            false => State::Listening,
        }
    }
}

fn snapshot_page(view: &View) -> Value {
    let held = view.snapshot.frontends().map(|frontend| {
        let mut page = frontend_page(frontend);
        let failure = view.failures.get(&frontend.address);
        page["state"] = json!(view.state(frontend).as_str());
        page["reason"] = json!(failure.map_or(frontend.why.as_str(), |reason| reason));
        page
    });
    let crowded_out = view.snapshot.crowded_out().map(|frontend| {
        let mut page = frontend_page(frontend);
        page["state"] = json!(State::Failed.as_str());
        page["reason"] = json!(crowded_out_by(&view.snapshot, frontend));
        page
    });
    let health_checks = view.snapshot.health_checks().map(|(service, check)| {
        json!({
            "namespace": &*service.namespace,
            "service": &*service.name,
            "port": check.port,
            "localEndpoints": check.local_endpoints,
            "failure": view.health_check_failures.get(service),
        })
    });
    json!({
        "generation": view.snapshot.generation,
        "frontends": held.chain(crowded_out).collect::<Vec<_>>(),
        "healthChecks": health_checks.collect::<Vec<_>>(),
    })
}

fn frontend_page(frontend: &Frontend) -> Value {
    let for_cluster = frontend.in_cluster.as_ref();
    json!({
        "namespace": &*frontend.service.namespace,
        "service": &*frontend.service.name,
        "port": &*frontend.port_name,
        "address": frontend.address.to_string(),
        "kind": frontend.kind.as_str(),
        "considered": frontend.scope.as_str(),
        "endpoints": texts(frontend.endpoints.iter()),
        "endpointsForCluster": for_cluster.map(|choice| texts(choice.endpoints.iter())),
        "keptEndpoints": texts(frontend.kept.iter()),
        "affinitySeconds": frontend.affinity.map(|timeout| timeout.as_secs()),
        "sourceRanges": frontend.sources.as_deref().map(|ranges| texts(ranges.iter())),
    })
}

fn texts<T: ToString>(list: impl Iterator<Item = T>) -> Vec<String> {
    list.map(|member| member.to_string()).collect()
}

fn status_page(view: &View, facts: &Facts) -> Value {
    let mut problems = problems(view, facts);
    problems.extend(no_room(&facts.room));
    problems.extend(no_ports(&facts.meters));
    let shown: Vec<_> = problems.iter().take(MAX_PROBLEMS).collect();
    json!({
        "mode": facts.mode,
        "nodeName": view.node.name.as_deref(),
        "nodeZone": view.node.zone.as_deref(),
        "generation": view.snapshot.generation,
        "frontends": view.snapshot.frontends().count(),
        "listeners": facts.room.open_listeners(),
        "connections": facts.room.open_connections(),
        "maxConnections": facts.room.max_connections(),
        "waitingClients": facts.room.waiting_clients(),
        "udpSessions": facts.room.open_sessions(),
        "fileDescriptorLimit": facts.limit,
        "listenerCapacity": facts.room.listener_capacity(),
        "problemCount": problems.len(),
        "problems": shown,
    })
}

/// Everything that a Service or the operator asks for and that is not served.
fn problems(view: &View, facts: &Facts) -> Vec<Value> {
    let snapshot = &view.snapshot;
    let failed = view.failures.iter().filter_map(|(address, reason)| {
        let frontend = snapshot.frontend(address)?;
        Some(problem(&frontend.service, &address.to_string(), reason))
    });
    let crowded_out = snapshot.crowded_out().map(|frontend| {
        let reason = crowded_out_by(snapshot, frontend);
        problem(&frontend.service, &frontend.address.to_string(), &reason)
    });
    let skipped = snapshot.skipped().map(|(service, skipped)| {
        problem(service, &format!("port {}", skipped.port), &skipped.reason.to_string())
    });
    let ignored = snapshot.ignored().map(|(service, ignored)| {
        problem(service, &format!("annotation {}", ignored.key), &ignored.reason)
    });
    let health_checks = view.health_check_failures.iter();
    let health_checks = health_checks.map(|(name, reason)| problem(name, "health check", reason));
    let own = own_endpoints(snapshot, &facts.own);
    let host = facts.cluster_clients.host();
    let in_range = range_problems(snapshot, &facts.service_cidrs, &host);
    failed
        .chain(crowded_out)
        .chain(skipped)
        .chain(ignored)
        .chain(health_checks)
        .chain(own)
        .chain(in_range)
        .chain(flag_problems(facts, &host))
        .collect()
}

/// Local ports towards endpoints ran out a moment ago.
fn no_ports(meters: &Meters) -> Vec<Value> {
    let exhausted = meters.all().into_iter().filter(|(_, m)| m.has_exhausted(RECENT));
    let problem = |(service, _): (ObjectName, _)| {
        let reason = "no local port was left towards an endpoint within the last minute: widen \
                      net.ipv4.ip_local_port_range, add addresses to this host's interface, or \
                      add endpoints";
        problem(&service, "source ports", reason)
    };
    exhausted.map(problem).collect()
}

/// Clients wait because all connections are taken.
fn no_room(room: &Room) -> Option<Value> {
    let waiting = room.waiting_clients();
    let problem = format!(
        "{} of {} TCP connections are open and {waiting} clients wait for room: raise \
         --max-connections or the limit of file descriptors, or set \
         --max-connections-per-client or --idle-timeout",
        room.open_connections(),
        room.max_connections()
    );
    (waiting > 0).then(|| json!({ "what": "connections", "problem": problem }))
}

/// Endpoints inside `--service-cidr`: the kernel refuses connections to them, because the range
/// makes their addresses this host's own.
fn range_problems<'a>(
    snapshot: &'a Snapshot,
    ranges: &'a [IpNet],
    host: &'a HostNetwork,
) -> impl Iterator<Item = Value> + 'a {
    snapshot.frontends().filter(|_| !ranges.is_empty()).flat_map(move |frontend| {
        let protocol = frontend.address.protocol;
        let endpoints = frontend.all_endpoints().into_iter();
        let in_range = endpoints.filter_map(move |endpoint| {
            let range = range_without_owner(snapshot, (protocol, endpoint), ranges)?;
            let is_of_host = host.addresses.iter().any(|address| address.ip == endpoint.ip());
            (!is_of_host).then_some((endpoint, range))
        });
        in_range.map(move |(endpoint, range)| {
            let what = format!("endpoint {endpoint}/{protocol}");
            problem(&frontend.service, &what, &in_range_text(range))
        })
    })
}

/// Problems of the process's own flags.
fn flag_problems(facts: &Facts, host: &HostNetwork) -> Vec<Value> {
    let flag_problem = |range: &IpNet, reason: &str| {
        let what = format!("--service-cidr {range}");
        json!({ "what": what, "problem": reason })
    };
    let unused = facts.unused_cidrs.iter().map(|range| flag_problem(range, UNUSED_RANGE));
    // A network that came after the start.
    let overlaps = facts.service_cidrs.iter().filter_map(|range| {
        let reason = overlap(range, host)?;
        Some(flag_problem(range, &reason))
    });
    unused.chain(overlaps).collect()
}

/// Endpoints that are frontends of this proxy. They are never connected to: the connection would
/// come back to this process without end.
fn own_endpoints<'a>(
    snapshot: &'a Snapshot,
    own: &'a OwnAddresses,
) -> impl Iterator<Item = Value> + 'a {
    let holder = |protocol, endpoint: &SocketAddr| {
        let port = NonZeroU16::new(endpoint.port())?;
        let at = |place| snapshot.frontend(&FrontendAddress { place, port, protocol });
        let node_port = || {
            let is_own = own.has(protocol, *endpoint);
            is_own.then(|| at(Place::Node(Family::of(endpoint.ip())))).flatten()
        };
        at(Place::Ip(endpoint.ip())).or_else(node_port)
    };
    snapshot.frontends().flat_map(move |frontend| {
        let protocol = frontend.address.protocol;
        let endpoints = frontend.all_endpoints().into_iter();
        let looped = endpoints.filter_map(move |endpoint| {
            let holder = holder(protocol, &endpoint)?;
            Some((endpoint, holder))
        });
        looped.map(move |(endpoint, holder)| {
            let (kind, service) = (holder.kind.as_str(), &holder.service);
            let reason = format!(
                "not used: it is the {kind} of Service {service}, so connections would loop"
            );
            problem(&frontend.service, &format!("endpoint {endpoint}/{protocol}"), &reason)
        })
    })
}

fn problem(service: &ObjectName, what: &str, reason: &str) -> Value {
    json!({ "service": service.to_string(), "what": what, "problem": reason })
}

fn crowded_out_by(snapshot: &Snapshot, frontend: &Frontend) -> String {
    let holder = snapshot.frontend(&frontend.address);
    let holder = holder.map_or_else(String::new, |holder| holder.service.to_string());
    format!("Service {holder} has the address; the first by namespace and name gets it")
}
