//! What every kind of source tells: the gauges of interface and dashboards, and times as pages
//! write them.

use std::fmt;
use std::time::{Duration, SystemTime};

use daemon::Daemon;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// How a source stands at this moment.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) connected: bool,
    /// Since it was last heard.
    pub(crate) heard: Duration,
    /// Objects by kind.
    pub(crate) served: Vec<(&'static str, usize)>,
    pub(crate) rejected: Vec<(&'static str, usize)>,
}

/// Shows the gauges of a source; `heard` says what its time counts from.
pub(crate) fn show(
    daemon: &Daemon,
    heard: &'static str,
    read: impl Fn() -> Standing + Send + Sync + 'static,
) {
    let gauges = Gauges { heard, read: Box::new(read) };
    daemon.metrics.register(|registry| registry.register_collector(Box::new(gauges)));
}

/// As RFC 3339 has it.
pub(crate) fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default()
}

struct Gauges {
    heard: &'static str,
    read: Box<dyn Fn() -> Standing + Send + Sync>,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gauges").finish_non_exhaustive()
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Standing { connected, heard, served, rejected } = (self.read)();
        let mut gauge = |name, help, value: f64| {
            let metric = ConstGauge::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            metric.encode(encoder)
        };
        let connected = f64::from(u8::from(connected));
        gauge("switchyard_feed_connected", "1 while the feed can be read", connected)?;
        gauge("switchyard_feed_last_event_seconds", self.heard, heard.as_secs_f64())?;
        let mut family = encoder.encode_descriptor(
            "switchyard_objects",
            "Objects of the feed, by kind and state",
            None,
            MetricType::Gauge,
        )?;
        for (state, counts) in [("served", served), ("rejected", rejected)] {
            for (kind, count) in counts {
                let labels = [("kind", kind), ("state", state)];
                ConstGauge::new(count as i64).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
