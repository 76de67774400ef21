//! The metrics of each upstream server, read from its counters when they are asked for.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::server::{RTT_BUCKETS, Reason, Server, ServerCounters, rtt_bucket};
use super::upstreams::Forwarding;

/// Shows what is known of the servers.
#[derive(Debug)]
pub(crate) struct ServerMetrics(Arc<Forwarding>);

impl ServerMetrics {
    /// Adds the metrics of the servers in use.
    pub(crate) fn register(registry: &daemon::Metrics, forwarding: Arc<Forwarding>) {
        registry.register(|registry| {
            registry.register_collector(Box::new(ServerMetrics(forwarding)));
        });
    }
}

impl Collector for ServerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let servers: Vec<(String, Arc<Server>)> = self
            .0
            .servers()
            .into_iter()
            .map(|server| (server.address.to_string(), server))
            .collect();
        if servers.is_empty() {
            return Ok(());
        }
        encode_counters(&mut encoder, &servers)?;
        let help = "Questions to an upstream that failed, by reason";
        let name = "switchyard_dns_upstream_failures";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (upstream, server) in &servers {
            for (reason, count) in Reason::ALL.into_iter().zip(&server.counters.failed) {
                let labels = [("upstream", upstream.as_str()), ("reason", reason.label())];
                let count = ConstCounter::new(count.load(Relaxed));
                count.encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "1 if an upstream is used, 0 if it is down or forwards to this server";
        let name = "switchyard_dns_upstream_up";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (upstream, server) in &servers {
            let is_up = i64::from(!server.is_down() && !server.is_loop());
            let labels = [("upstream", upstream.as_str())];
            ConstGauge::new(is_up).encode(family.encode_family(&labels)?)?;
        }
        encode_rtt(&mut encoder, &servers)
    }
}

/// A counter, with its name and help.
type Shown = (&'static str, &'static str, fn(&ServerCounters) -> &AtomicU64);

fn encode_counters(
    encoder: &mut DescriptorEncoder<'_>,
    servers: &[(String, Arc<Server>)],
) -> Result<(), fmt::Error> {
    let all: [Shown; 3] = [
        ("switchyard_dns_upstream_questions", "Questions sent to an upstream", |c| &c.sent),
        ("switchyard_dns_upstream_answers", "Replies of an upstream", |c| &c.answered),
        (
            "switchyard_dns_upstream_hedges",
            "Questions that the next upstream was asked too, because this one had not answered",
            |c| &c.hedged,
        ),
    ];
    for (name, help, counter) in all {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (upstream, server) in servers {
            let count = ConstCounter::new(counter(&server.counters).load(Relaxed));
            count.encode(family.encode_family(&[("upstream", upstream.as_str())])?)?;
        }
    }
    Ok(())
}

fn encode_rtt(
    encoder: &mut DescriptorEncoder<'_>,
    servers: &[(String, Arc<Server>)],
) -> Result<(), fmt::Error> {
    let help = "Time until an upstream replied to a question";
    let name = "switchyard_dns_upstream_rtt_seconds";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (upstream, server) in servers {
        let ServerCounters { rtt, rtt_us, .. } = &server.counters;
        let end = |index| match index {
            RTT_BUCKETS => f64::INFINITY,
            _ => rtt_bucket(index).as_secs_f64(),
        };
        let buckets: Vec<(f64, u64)> = rtt
            .iter()
            .enumerate()
            .map(|(index, count)| (end(index), count.load(Relaxed)))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds = rtt_us.load(Relaxed) as f64 / 1e6;
        let labels = [("upstream", upstream.as_str())];
        let mut encoder = family.encode_family(&labels)?;
        encoder.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
    }
    Ok(())
}
