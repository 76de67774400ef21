//! What the cache holds, as metrics.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::upstreams::Forwarding;

/// Reads the cache when asked.
#[derive(Debug)]
pub(crate) struct CacheMetrics(Arc<Forwarding>);

impl CacheMetrics {
    pub(crate) fn register(registry: &daemon::Metrics, forwarding: Arc<Forwarding>) {
        registry.register(|registry| {
            registry.register_collector(Box::new(CacheMetrics(forwarding)));
        });
    }
}

impl Collector for CacheMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let totals = self.0.cache.totals();
        let gauges = [
            ("switchyard_dns_cache_entries", "Names and types in the cache", totals.entries),
            ("switchyard_dns_cache_bytes", "Memory that the cache takes", totals.bytes),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let (name, help) = ("switchyard_dns_cache_evictions", "Answers that made room for others");
        let evictions = ConstCounter::new(totals.evictions);
        evictions.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
    }
}
