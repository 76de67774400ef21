//! The ingress's metrics. Each worker counts in a shard of its own, with plain stores and no
//! contention; a scrape adds the shards up.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::http2_error;
use crate::limits::Limits;
use crate::reason::Reason;
use crate::snapshot::{Answers, Snapshot};

/// Upper bounds of request times, in seconds: from a fast endpoint nearby to a long poll.
const REQUEST_SECONDS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// Upper bounds of the time from an event to its being served.
const PROGRAMMING_SECONDS: [f64; 10] =
    [0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

/// A count that one thread writes and any may read.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Only for the thread that the shard belongs to: a load and a store, not an exchange.
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// The same the other way, for what comes and goes.
    pub(crate) fn subtract(&self, less: u64) {
        self.add(less.wrapping_neg());
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Of several workers.
    pub(crate) fn sum<'a>(counts: impl Iterator<Item = &'a Count>) -> u64 {
        // Counts of what comes and goes are not read at one moment: the sum may be off by a little.
        counts.fold(0, |sum, count| sum.wrapping_add(count.value()))
    }
}

/// Request times of one worker.
#[derive(Debug, Default)]
pub(crate) struct Times {
    buckets: [Count; REQUEST_SECONDS.len() + 1],
    nanoseconds: Count,
}

impl Times {
    pub(crate) fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = REQUEST_SECONDS.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(REQUEST_SECONDS.len())].add(1);
        self.nanoseconds.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// What one worker counts. Aligned so that no two workers write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Shard {
    pub(crate) seconds: Times,
    /// Requests that came to no Service.
    pub(crate) unrouted: Answers,
    /// Requests that were answered here, by reason.
    pub(crate) own_answers: [Count; Reason::ALL.len()],
    pub(crate) connections: Count,
    pub(crate) connections_refused: Count,
    pub(crate) floods: Count,
    /// HTTP/2 streams that we reset, and connections that we ended, by error code.
    pub(crate) http2_resets: [Count; http2_error::LABELS.len()],
    pub(crate) http2_goaways: [Count; http2_error::LABELS.len()],
    /// What stalled HTTP/2 streams hold now.
    pub(crate) stalled_bytes: Count,
    /// The part of it that has a limit: without the first stalled stream of each connection.
    pub(crate) stalled_excess: Count,
    /// The part of the excess that belongs to streams whose clients have read nothing.
    pub(crate) stalled_untouched: Count,
    /// The connections that are part of the excess.
    pub(crate) stalled_connections: Count,
    /// Stalled streams that were reset to make room.
    pub(crate) stalled_resets: Count,
    pub(crate) handshakes_rejected: Count,
    pub(crate) proxy_headers_rejected: Count,
    pub(crate) upstream_connects: Count,
    pub(crate) upstream_connect_failures: Count,
    pub(crate) upstream_resends: Count,
    pub(crate) upstream_ejections: Count,
    pub(crate) mirrored: Count,
    pub(crate) mirror_failures: Count,
}

/// What became of spans.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpanCounters {
    pub(crate) sent: Counter,
    pub(crate) lost: Counter,
}

/// All of the process's metrics but those of the feed.
pub(crate) struct Metrics {
    pub(crate) shards: Box<[Shard]>,
    pub(crate) programming_seconds: Histogram,
    /// Lines of the access log that could not be written.
    pub(crate) access_log_lost: Counter,
    pub(crate) spans: SpanCounters,
    limits: Arc<Limits>,
    snapshot: Arc<ArcSwap<Snapshot>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("shards", &self.shards).finish_non_exhaustive()
    }
}

impl Metrics {
    pub(crate) fn new(
        workers: usize,
        limits: Arc<Limits>,
        snapshot: Arc<ArcSwap<Snapshot>>,
    ) -> Metrics {
        let shards = (0..workers).map(|_| Shard::default()).collect();
        let programming_seconds = Histogram::new(PROGRAMMING_SECONDS);
        let access_log_lost = Counter::default();
        let spans = SpanCounters::default();
        Metrics { shards, programming_seconds, access_log_lost, spans, limits, snapshot }
    }

    /// Makes them part of the process's own.
    pub(crate) fn register(self: &Arc<Metrics>, all: &daemon::Metrics) {
        all.register(|registry| {
            registry.register(
                "switchyard_programming_seconds",
                "Time from the arrival of an event until requests are routed with it",
                self.programming_seconds.clone(),
            );
            registry.register(
                "switchyard_ingress_access_log_lost",
                "Lines of the access log that could not be written",
                self.access_log_lost.clone(),
            );
            registry.register(
                "switchyard_ingress_spans_sent",
                "Spans that the collector has accepted",
                self.spans.sent.clone(),
            );
            registry.register(
                "switchyard_ingress_spans_lost",
                "Spans that could not be sent to the collector",
                self.spans.lost.clone(),
            );
            registry.register_collector(Box::new(Scrape(self.clone())));
        });
    }

    fn sum(&self, count: impl Fn(&Shard) -> &Count) -> u64 {
        Count::sum(self.shards.iter().map(count))
    }
}

/// Encodes what the shards hold at this moment.
#[derive(Debug)]
struct Scrape(Arc<Metrics>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_requests(&mut encoder)?;
        self.encode_own_answers(&mut encoder)?;
        self.encode_http2_errors(&mut encoder)?;
        self.encode_times(&mut encoder)?;
        let open = ConstGauge::new(self.0.limits.open() as u64);
        encode(&mut encoder, "open_connections", "Client connections open now", &open)?;
        let stalled = ConstGauge::new(self.0.sum(|s| &s.stalled_bytes));
        let help = "Memory of HTTP/2 streams whose clients do not read their responses";
        encode(&mut encoder, "stalled_bytes", help, &stalled)?;
        type Row = (&'static str, &'static str, fn(&Shard) -> &Count);
        let counters: [Row; 12] = [
            ("connections", "Client connections accepted", |s| &s.connections),
            ("refused_connections", "Connections refused because of a limit", |s| {
                &s.connections_refused
            }),
            (
                "flooded_connections",
                "HTTP/2 connections closed because of a flood of control frames",
                |s| &s.floods,
            ),
            (
                "stalled_resets",
                "HTTP/2 streams reset because stalled streams held too much memory",
                |s| &s.stalled_resets,
            ),
            ("rejected_handshakes", "TLS handshakes that failed", |s| &s.handshakes_rejected),
            (
                "rejected_proxy_headers",
                "Connections of trusted proxies that did not start with a valid PROXY header",
                |s| &s.proxy_headers_rejected,
            ),
            ("upstream_connects", "Connections opened to endpoints", |s| &s.upstream_connects),
            ("upstream_connect_failures", "Failed attempts to connect to an endpoint", |s| {
                &s.upstream_connect_failures
            }),
            ("upstream_resends", "Requests sent again on another connection", |s| {
                &s.upstream_resends
            }),
            ("mirrored_requests", "Copies of requests that a mirror has answered", |s| &s.mirrored),
            ("mirror_failures", "Copies of requests that were given up", |s| &s.mirror_failures),
            (
                "upstream_ejections",
                "Times that an endpoint was taken out of use because its requests failed",
                |s| &s.upstream_ejections,
            ),
        ];
        for (name, help, count) in counters {
            encode(&mut encoder, name, help, &ConstCounter::new(self.0.sum(count)))?;
        }
        Ok(())
    }
}

fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), fmt::Error> {
    let name = format!("switchyard_ingress_{name}");
    metric.encode(encoder.encode_descriptor(&name, help, None, metric.metric_type())?)
}

impl Scrape {
    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "switchyard_ingress_requests",
            "Requests by Service and status class",
            None,
            MetricType::Counter,
        )?;
        let snapshot = self.0.snapshot.load();
        for (name, answers) in snapshot.services() {
            for (class, count) in answers.counts().filter(|(_, count)| *count > 0) {
                let labels =
                    [("namespace", &*name.namespace), ("service", &*name.name), ("code", class)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let mut unrouted = [0; Answers::CLASSES.len()];
        for shard in &self.0.shards {
            for (sum, (_, count)) in unrouted.iter_mut().zip(shard.unrouted.counts()) {
                *sum += count;
            }
        }
        for (class, count) in Answers::CLASSES.into_iter().zip(unrouted) {
            if count > 0 {
                let labels = [("namespace", ""), ("service", ""), ("code", class)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_own_answers(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let name = "switchyard_ingress_own_answers";
        let help = "Requests answered by the ingress itself, by reason";
        self.encode_reasons(encoder, (name, help), &Reason::ALL.map(Reason::label), |s| {
            &s.own_answers
        })
    }

    /// A counter for each reason that occurred.
    fn encode_reasons(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        reasons: &[&str],
        counts: fn(&Shard) -> &[Count],
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (at, reason) in reasons.iter().enumerate() {
            let count = self.0.sum(|shard| &counts(shard)[at]);
            if count > 0 {
                let labels = [("reason", *reason)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_http2_errors(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        type Row = (&'static str, &'static str, fn(&Shard) -> &[Count]);
        let families: [Row; 2] = [
            (
                "switchyard_ingress_http2_resets",
                "HTTP/2 streams that the ingress reset, by error code",
                |s| &s.http2_resets,
            ),
            (
                "switchyard_ingress_http2_goaways",
                "GOAWAY frames that the ingress sent on HTTP/2 connections, by error code",
                |s| &s.http2_goaways,
            ),
        ];
        for (name, help, counts) in families {
            self.encode_reasons(encoder, (name, help), &http2_error::LABELS, counts)?;
        }
        Ok(())
    }

    fn encode_times(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut metric = encoder.encode_descriptor(
            "switchyard_ingress_request_seconds",
            "Time from the head of a request to the end of its response",
            None,
            MetricType::Histogram,
        )?;
        let bounds = REQUEST_SECONDS.into_iter().chain([f64::INFINITY]).enumerate();
        let buckets: Vec<_> =
            bounds.map(|(at, bound)| (bound, self.0.sum(|s| &s.seconds.buckets[at]))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds = self.0.sum(|s| &s.seconds.nanoseconds) as f64 / 1e9;
        metric.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }
}
