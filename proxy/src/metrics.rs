//! The proxy's metrics: a few counters for each Service, updated by the data threads.
//!
//! One [`Meter`] a Service, found once when a frontend is programmed, so that a connection costs
//! a few atomic additions and no lookup. Nothing here is labelled with what clients choose.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use daemon::Metrics;
use model::ObjectName;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::clock::{ms_of, now_ms};

/// 0.1 ms doubled thirteen times, up to 0.8 s: around the goal of 50 ms.
const PROGRAMMING_BUCKETS: (f64, f64, u16) = (0.000_1, 2.0, 14);

/// What the data threads count for one Service.
///
/// A large cluster has ten thousand of them, so their memory counts: one is not padded to whole
/// cache lines. Instead, what every connection or session changes comes first, next to the count of
/// references of the `Arc`: these 64 bytes are followed by [`COLD_BYTES`] that hardly ever change,
/// so the busy bytes of two Services never share a cache line.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Meter {
    pub(crate) accepted: AtomicU64,
    pub(crate) active: AtomicI64,
    /// From clients to endpoints, TCP and UDP.
    pub(crate) upstream_bytes: AtomicU64,
    /// From endpoints to clients, TCP and UDP.
    pub(crate) downstream_bytes: AtomicU64,
    pub(crate) sessions: AtomicU64,
    pub(crate) active_sessions: AtomicI64,
    /// Connections that no endpoint took; their clients were reset.
    pub(crate) failed: AtomicU64,
    /// Connections whose clients ended them before an endpoint took them.
    pub(crate) abandoned: AtomicU64,
    /// Connections reset because their client had more than its share.
    pub(crate) over_share: AtomicU64,
    /// Connections reset after the idle time-out.
    pub(crate) idle: AtomicU64,
    /// TCP connections reset and UDP datagrams dropped because of where they came from.
    pub(crate) denied: AtomicU64,
    /// Attempts at single endpoints, each followed by a retry or by a failed connection.
    pub(crate) connect_failures: AtomicU64,
    /// Established connections that the drain time-out of a removed endpoint ended.
    pub(crate) ended: AtomicU64,
    pub(crate) dropped_datagrams: AtomicU64,
    /// Datagrams that a full buffer of the kernel dropped.
    pub(crate) buffer_drops: AtomicU64,
    pub(crate) bind_failures: AtomicU64,
    /// Connects that met a local address without a free port towards the endpoint.
    pub(crate) port_exhaustions: AtomicU64,
    /// When the last of those was, by the [`clock`](crate::clock); 0 for never.
    exhausted_ms: AtomicU64,
}

/// The bytes of a [`Meter`] from the first counter on that connections do not change: at least one
/// cache line.
const COLD_BYTES: usize = size_of::<Meter>() - offset_of!(Meter, failed);
const _: () = assert!(COLD_BYTES >= 64);

impl Meter {
    /// A connect met a local address without a free port towards the endpoint.
    pub(crate) fn note_exhaustion(&self, now: Instant) {
        count(&self.port_exhaustions);
        self.exhausted_ms.store(ms_of(now), Ordering::Relaxed);
    }

    /// Whether local ports ran out within this time.
    pub(crate) fn has_exhausted(&self, within: Duration) -> bool {
        let last = self.exhausted_ms.load(Ordering::Relaxed);
        last > 0 && u128::from(now_ms().saturating_sub(last)) < within.as_millis()
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// One unit of a gauge, given back when dropped.
#[derive(Debug)]
pub(crate) struct Active {
    meter: Arc<Meter>,
    gauge: fn(&Meter) -> &AtomicI64,
}

impl Active {
    pub(crate) fn new(meter: Arc<Meter>, gauge: fn(&Meter) -> &AtomicI64) -> Active {
        gauge(&meter).fetch_add(1, Ordering::Relaxed);
        Active { meter, gauge }
    }

    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        (self.gauge)(&self.meter).fetch_sub(1, Ordering::Relaxed);
    }
}

/// The meters of all Services. `clone` shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meters(Arc<Mutex<BTreeMap<ObjectName, Arc<Meter>>>>);

impl Meters {
    pub(crate) fn of(&self, service: &ObjectName) -> Arc<Meter> {
        self.lock().entry(service.clone()).or_default().clone()
    }

    pub(crate) fn all(&self) -> BTreeMap<ObjectName, Arc<Meter>> {
        self.lock().clone()
    }

    /// The Service is gone, and with it its series.
    pub(crate) fn forget(&self, service: &ObjectName) {
        self.lock().remove(service);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ObjectName, Arc<Meter>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The metrics of the process as a whole.
#[derive(Clone, Debug)]
pub(crate) struct ProxyMetrics {
    pub(crate) meters: Meters,
    programming: Histogram,
}

impl ProxyMetrics {
    pub(crate) fn register(metrics: &Metrics) -> ProxyMetrics {
        let (start, factor, length) = PROGRAMMING_BUCKETS;
        let made = ProxyMetrics {
            meters: Meters::default(),
            programming: Histogram::new(exponential_buckets(start, factor, length)),
        };
        metrics.register(|registry| {
            registry.register(
                "switchyard_programming_seconds",
                "Time from the arrival of an event until the data path uses it",
                made.programming.clone(),
            );
            registry.register_collector(Box::new(made.meters.clone()));
        });
        made
    }

    pub(crate) fn programmed(&self, took: Duration) {
        self.programming.observe(took.as_secs_f64());
    }
}

type Reading = fn(&Meter) -> u64;

/// Name, help and value of each counter; the encoder adds `_total`.
const COUNTERS: [(&str, &str, Reading); 15] = [
    ("switchyard_proxy_connections", "TCP connections accepted", |m| read(&m.accepted)),
    (
        "switchyard_proxy_failed_connections",
        "TCP connections reset because no endpoint accepted them",
        |m| read(&m.failed),
    ),
    (
        "switchyard_proxy_abandoned_connections",
        "TCP connections that clients closed before an endpoint accepted them",
        |m| read(&m.abandoned),
    ),
    (
        "switchyard_proxy_over_share_connections",
        "TCP connections reset because their client had more than its share, or more than \
         --max-connections-per-client",
        |m| read(&m.over_share),
    ),
    ("switchyard_proxy_idle_connections", "TCP connections reset after --idle-timeout", |m| {
        read(&m.idle)
    }),
    (
        "switchyard_proxy_denied_clients",
        "TCP connections and UDP datagrams refused because of the client's address",
        |m| read(&m.denied),
    ),
    ("switchyard_proxy_connect_failures", "Failed attempts to connect to an endpoint", |m| {
        read(&m.connect_failures)
    }),
    (
        "switchyard_proxy_ended_connections",
        "Connections ended because the drain time-out of their removed endpoint was over",
        |m| read(&m.ended),
    ),
    ("switchyard_proxy_upstream_bytes", "Payload bytes from clients to endpoints", |m| {
        read(&m.upstream_bytes)
    }),
    ("switchyard_proxy_downstream_bytes", "Payload bytes from endpoints to clients", |m| {
        read(&m.downstream_bytes)
    }),
    ("switchyard_proxy_udp_sessions", "UDP sessions started", |m| read(&m.sessions)),
    (
        "switchyard_proxy_udp_dropped_datagrams",
        "Datagrams dropped because there was no endpoint, or the limit of sessions was reached",
        |m| read(&m.dropped_datagrams),
    ),
    (
        "switchyard_proxy_udp_buffer_drops",
        "Datagrams that the kernel dropped because a socket's receive buffer was full",
        |m| read(&m.buffer_drops),
    ),
    (
        "switchyard_proxy_source_port_exhaustions",
        "Connection attempts for which a local address had no free port towards the endpoint",
        |m| read(&m.port_exhaustions),
    ),
    ("switchyard_proxy_bind_failures", "Failed attempts to bind an address of a frontend", |m| {
        read(&m.bind_failures)
    }),
];

type Level = fn(&Meter) -> i64;

const GAUGES: [(&str, &str, Level); 2] = [
    ("switchyard_proxy_active_connections", "TCP connections open now", |m| {
        m.active.load(Ordering::Relaxed)
    }),
    ("switchyard_proxy_active_udp_sessions", "UDP sessions open now", |m| {
        m.active_sessions.load(Ordering::Relaxed)
    }),
];

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Collector for Meters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let meters = self.all();
        for (name, help, value) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (service, meter) in &meters {
                let labels = labels(service);
                ConstCounter::new(value(meter)).encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (service, meter) in &meters {
                let labels = labels(service);
                ConstGauge::new(value(meter)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn labels(service: &ObjectName) -> [(&'static str, &str); 2] {
    [("namespace", &service.namespace), ("service", &service.name)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_live_as_long_as_their_service() {
        let daemon = daemon::Daemon::detached("proxy", 1);
        let metrics = ProxyMetrics::register(&daemon.metrics);
        let service = ObjectName::new("demo", "web");
        let active = Active::new(metrics.meters.of(&service), |meter| &meter.active);
        count(&active.meter().accepted);
        metrics.programmed(Duration::from_millis(3));
        let text = daemon.metrics.encode();
        for line in [
            "switchyard_proxy_connections_total{namespace=\"demo\",service=\"web\"} 1\n",
            "switchyard_proxy_active_connections{namespace=\"demo\",service=\"web\"} 1\n",
            "switchyard_programming_seconds_count 1\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        drop(active);
        let idle = "switchyard_proxy_active_connections{namespace=\"demo\",service=\"web\"} 0\n";
        assert!(daemon.metrics.encode().contains(idle));
        metrics.meters.forget(&service);
        assert!(!daemon.metrics.encode().contains("web"));
    }
}
