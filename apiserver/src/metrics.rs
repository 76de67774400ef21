//! What the server counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use model::Kind;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabel {
    resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

/// `clone` shares the counters.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    watchers: Family<ResourceLabel, Gauge>,
    requests: Family<CodeLabel, Counter>,
    pub(crate) connections: Gauge,
    pub(crate) refused_connections: Counter,
    pub(crate) events: Counter,
    /// Watches that asked for what was forgotten, and clients that read nothing for too long.
    pub(crate) slow_watchers: Counter,
    pub(crate) changes: Counter,
    /// Event received → watchers can have it.
    pub(crate) programming: Histogram,
}

impl Metrics {
    pub(crate) fn new(metrics: &daemon::Metrics) -> Metrics {
        // From 100 µs to 3 s.
        let programming = Histogram::new(exponential_buckets(0.0001, 2.0, 16));
        let ours = Metrics {
            watchers: Family::default(),
            requests: Family::default(),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            events: Counter::default(),
            slow_watchers: Counter::default(),
            changes: Counter::default(),
            programming,
        };
        metrics.register(|r| ours.register(r));
        ours
    }

    fn register(&self, r: &mut Registry) {
        let name = |what: &str| format!("switchyard_feed_{what}");
        r.register(name("watchers"), "Open watches", self.watchers.clone());
        r.register(name("requests"), "Requests by status class", self.requests.clone());
        r.register(name("connections"), "Open connections", self.connections.clone());
        let refused =
            "Connections closed at once because of a limit, or of one client's share of it";
        r.register(name("refused_connections"), refused, self.refused_connections.clone());
        r.register(name("events"), "Events sent to watchers", self.events.clone());
        let slow = "Watchers disconnected because they did not keep up";
        r.register(name("slow_watchers"), slow, self.slow_watchers.clone());
        r.register(name("changes"), "Changes of objects", self.changes.clone());
        let programming = "Time from the arrival of an event until watchers can receive it";
        r.register("switchyard_programming_seconds", programming, self.programming.clone());
    }

    /// Counts an answer by its code's class.
    pub(crate) fn answered(&self, code: http::StatusCode) {
        let code = match code.as_u16() / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&CodeLabel { code }).inc();
    }

    /// The number of open watches of a resource.
    pub(crate) fn watchers(&self, resource: Kind) -> Gauge {
        self.watchers.get_or_create(&ResourceLabel { resource: resource.plural() }).clone()
    }
}
