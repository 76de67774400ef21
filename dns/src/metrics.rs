//! The metrics of this process. Each data thread has counters of its own, on cache lines of its
//! own, and only it writes them; a scrape adds them up.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::answered_by::AnsweredBy;
use crate::cache::Served;
use crate::cache::stored::Age;
use crate::forward::decide::Decision;
use crate::wire::reply::Transport;
use crate::wire::{Name, Rcode, Type};

/// Types that are counted by name. Clients choose types, so all others are counted together.
const TYPES: [(&str, Type); 10] = [
    ("A", Type::A),
    ("AAAA", Type::AAAA),
    ("SRV", Type::SRV),
    ("PTR", Type::PTR),
    ("CNAME", Type::CNAME),
    ("NS", Type::NS),
    ("SOA", Type::SOA),
    ("TXT", Type::TXT),
    ("HTTPS", Type::HTTPS),
    ("ANY", Type::ANY),
];
const OTHER_TYPE: usize = TYPES.len();
/// Packets whose question could not be parsed.
const NO_TYPE: usize = TYPES.len() + 1;
const TYPE_CLASSES: usize = TYPES.len() + 2;

const CODES: [(&str, Rcode); 6] = [
    ("NOERROR", Rcode::NOERROR),
    ("FORMERR", Rcode::FORMERR),
    ("SERVFAIL", Rcode::SERVFAIL),
    ("NXDOMAIN", Rcode::NXDOMAIN),
    ("NOTIMP", Rcode::NOTIMP),
    ("REFUSED", Rcode::REFUSED),
];
const CODE_CLASSES: usize = CODES.len() + 1;

/// In the order of their numbers.
const TRANSPORTS: [Transport; 4] =
    [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Https];

/// The zone that a query is counted under, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CountedZone(usize);

impl CountedZone {
    /// Our zones, with the reverse ones.
    pub(crate) const CLUSTER: CountedZone = CountedZone(0);
    /// Names that are answered without upstreams.
    const LOCAL: CountedZone = CountedZone(1);
    /// Queries that are malformed or refused.
    pub(crate) const NONE: CountedZone = CountedZone(2);
    /// Names for the usual upstreams.
    const ROOT: CountedZone = CountedZone(3);

    /// The values of the label `zone`, by number. Names end in a dot, so that the name `local.` is
    /// not taken for the class `local`.
    pub(crate) fn labels<'n>(
        domain: &Name,
        forwarded: impl Iterator<Item = &'n Name>,
    ) -> Vec<String> {
        let first = [format!("{domain}."), "local".to_owned(), "none".to_owned(), ".".to_owned()];
        first.into_iter().chain(forwarded.map(|zone| format!("{zone}."))).collect()
    }

    /// That of a query which was answered without asking upstreams.
    #[inline]
    pub(crate) fn of_answer(by: AnsweredBy) -> CountedZone {
        match by {
            AnsweredBy::Zone => CountedZone::CLUSTER,
            AnsweredBy::Local => CountedZone::LOCAL,
            _ => CountedZone::NONE,
        }
    }

    /// That of a name which is forwarded, by the number of its zone among those of `--forward`.
    #[inline]
    pub(crate) fn of_forwarded(zone: Option<usize>) -> CountedZone {
        zone.map_or(CountedZone::ROOT, |number| CountedZone(CountedZone::ROOT.0 + 1 + number))
    }
}

/// The counters of one data thread.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    zones: Box<[ZoneCounters]>,
    silent: AtomicU64,
    unsent: AtomicU64,
    /// Questions that an upstream answered, by the time that it took.
    forwarded: Times,
    forward_failures: AtomicU64,
    failed_again: AtomicU64,
    joined: AtomicU64,
    cache_hits: AtomicU64,
    cache_stale: AtomicU64,
    cache_misses: AtomicU64,
    cache_refreshes: AtomicU64,
    limited: AtomicU64,
}

/// The counters of one zone.
#[derive(Debug, Default)]
#[repr(align(128))]
struct ZoneCounters {
    /// By transport, type and code.
    queries: [[[AtomicU64; CODE_CLASSES]; TYPE_CLASSES]; TRANSPORTS.len()],
    /// Queries that waited for upstreams, by the time that they waited.
    waited: Times,
}

/// Counts by time.
#[derive(Debug, Default)]
struct Times {
    counts: [AtomicU64; TIME_BUCKETS + 1],
    sum_us: AtomicU64,
}

/// Buckets of times to an upstream's answer, each twice as long as the one before; the longest
/// is a time-out of every try: 6.5 s.
const TIME_BUCKETS: usize = 17;
const SHORTEST_SECONDS: f64 = 0.0001;

/// The longest time of a bucket, in seconds.
fn bucket_end(index: usize) -> f64 {
    SHORTEST_SECONDS * f64::from(1u32 << index)
}

impl Times {
    fn observe(&self, took: Duration) {
        let bucket = (0..TIME_BUCKETS).find(|index| took.as_secs_f64() <= bucket_end(*index));
        add(&self.counts[bucket.unwrap_or(TIME_BUCKETS)], 1);
        add(&self.sum_us, took.as_micros() as u64);
    }
}

impl Counters {
    /// For so many zones.
    fn new(zones: usize) -> Counters {
        let zones = (0..zones).map(|_| ZoneCounters::default()).collect();
        Counters { zones, ..Counters::default() }
    }

    /// Counts a reply; `qtype` is absent when the question could not be read.
    #[inline]
    pub(crate) fn replied(
        &self,
        zone: CountedZone,
        transport: Transport,
        qtype: Option<Type>,
        rcode: Rcode,
    ) {
        let class = match qtype {
            None => NO_TYPE,
            Some(qtype) => {
                TYPES.iter().position(|(_, named)| *named == qtype).unwrap_or(OTHER_TYPE)
            }
        };
        let code = usize::from(rcode.0).min(CODE_CLASSES - 1);
        add(&self.zones[zone.0].queries[transport as usize][class][code], 1);
    }

    /// Counts a query that waited for upstreams for this time.
    pub(crate) fn waited(&self, zone: CountedZone, took: Duration) {
        self.zones[zone.0].waited.observe(took);
    }

    /// Counts a question that an upstream answered after this time.
    pub(crate) fn forwarded(&self, took: Duration) {
        self.forwarded.observe(took);
    }

    /// Counts what was decided about a question outside our zones.
    #[inline]
    pub(crate) fn decided<P>(&self, decision: &Decision<P>) {
        match decision {
            Decision::Answer { age, refresh, .. } => {
                let counter = match age {
                    Age::Fresh(_) => &self.cache_hits,
                    Age::Stale => &self.cache_stale,
                };
                add(counter, 1);
                if refresh.is_some() {
                    add(&self.cache_refreshes, 1);
                }
            }
            Decision::Join { .. } => {
                add(&self.cache_misses, 1);
                add(&self.joined, 1);
            }
            Decision::Ask(_) => add(&self.cache_misses, 1),
            Decision::FailAgain(_) | Decision::BreakLoop => {
                add(&self.failed_again, 1);
                add(&self.forward_failures, 1);
            }
            Decision::Busy | Decision::Refuse | Decision::NoUpstream => {}
        }
    }

    /// Counts what so many waiting clients get.
    pub(crate) fn served(&self, served: Served<'_>, clients: usize) {
        match served {
            Served::Answer(_, Age::Fresh(_)) => {}
            Served::Answer(_, Age::Stale) => add(&self.cache_stale, clients as u64),
            Served::Failure(_) => add(&self.forward_failures, clients as u64),
        }
    }

    /// Counts a reply that is not sent because its client's network gets too many.
    pub(crate) fn limited(&self) {
        add(&self.limited, 1);
    }

    /// Counts a packet that gets no reply.
    pub(crate) fn silent(&self) {
        add(&self.silent, 1);
    }

    /// Counts replies that the kernel did not take.
    pub(crate) fn unsent(&self, count: usize) {
        add(&self.unsent, count as u64);
    }
}

/// One thread writes, so there is no need for a locked instruction.
#[inline]
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed) + count, Relaxed);
}

/// All metrics of this process. `clone` shares them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    sum: Sum,
    pub(crate) programming: Histogram,
    pub(crate) forwards_refused: Counter,
    pub(crate) forwards_in_flight: Gauge<i64, AtomicI64>,
    pub(crate) tcp_connections: Gauge<i64, AtomicI64>,
    pub(crate) tcp_refused: Counter,
    pub(crate) tls_failed: Counter,
    pub(crate) zone_names: Gauge<i64, AtomicI64>,
    pub(crate) zone_serial: Gauge<i64, AtomicI64>,
    pub(crate) query_log_lost: Counter,
}

impl Metrics {
    /// `zones` are the labels of [`CountedZone::labels`].
    pub(crate) fn register(registry: &daemon::Metrics, zones: Vec<String>) -> Metrics {
        let metrics = Metrics {
            sum: Sum { zones: zones.into(), threads: Arc::default() },
            // 100 µs to 3 s.
            programming: Histogram::new(exponential_buckets(0.0001, 2.0, 16)),
            forwards_refused: Default::default(),
            forwards_in_flight: Gauge::default(),
            tcp_connections: Gauge::default(),
            tcp_refused: Default::default(),
            tls_failed: Default::default(),
            zone_names: Gauge::default(),
            zone_serial: Gauge::default(),
            query_log_lost: Default::default(),
        };
        metrics.register_all(registry);
        metrics
    }

    fn register_all(&self, registry: &daemon::Metrics) {
        registry.register(|registry| {
            let m = self.clone();
            registry.register(
                "switchyard_programming_seconds",
                "Time from the arrival of an event until queries are answered with it",
                m.programming,
            );
            registry.register(
                "switchyard_dns_forwards_refused",
                "Queries not forwarded because too many were in flight",
                m.forwards_refused,
            );
            registry.register(
                "switchyard_dns_forwards_in_flight",
                "Questions waiting for an upstream, each once for each client",
                m.forwards_in_flight,
            );
            registry.register(
                "switchyard_dns_tcp_connections",
                "Open TCP connections, also those of DNS over TLS and HTTPS",
                m.tcp_connections,
            );
            registry.register(
                "switchyard_dns_tcp_refused",
                "TCP connections closed at once because too many were open or in a handshake",
                m.tcp_refused,
            );
            registry.register(
                "switchyard_dns_tls_failures",
                "TLS handshakes that failed or took too long",
                m.tls_failed,
            );
            registry.register("switchyard_dns_zone_names", "Names in the zone", m.zone_names);
            registry.register(
                "switchyard_dns_zone_serial",
                "Serial number of the zone",
                m.zone_serial,
            );
            registry.register(
                "switchyard_dns_query_log_lost",
                "Lines of the query log that were lost because it could not be written in time",
                m.query_log_lost,
            );
            registry.register_collector(Box::new(m.sum));
        });
    }

    /// Counters for one more thread.
    pub(crate) fn thread(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::new(self.sum.zones.len()));
        let mut threads = self.sum.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(counters.clone());
        counters
    }
}

/// Adds up the counters of all threads when asked.
#[derive(Clone, Debug)]
struct Sum {
    /// The labels of the zones.
    zones: Arc<[String]>,
    threads: Arc<Mutex<Vec<Arc<Counters>>>>,
}

impl Sum {
    fn of(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.iter().map(|counters| counter(counters)).sum()
    }
}

impl Collector for Sum {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_queries(&mut encoder)?;
        self.encode_waits(&mut encoder)?;
        self.encode_forwards(&mut encoder)?;
        let help = "Packets that get no reply, because they are too short or are replies";
        self.encode_sum(&mut encoder, "switchyard_dns_ignored", help, |c| &c.silent)?;
        let help = "Replies that could not be sent";
        self.encode_sum(&mut encoder, "switchyard_dns_unsent", help, |c| &c.unsent)
    }
}

impl Sum {
    fn encode_queries(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Replies by transport, query type, response code and answering zone";
        let mut queries =
            encoder.encode_descriptor("switchyard_dns_queries", help, None, MetricType::Counter)?;
        for (number, zone) in self.zones.iter().enumerate() {
            for cell in 0..TRANSPORTS.len() * TYPE_CLASSES * CODE_CLASSES {
                let (rest, code) = (cell / CODE_CLASSES, cell % CODE_CLASSES);
                let (transport, class) = (rest / TYPE_CLASSES, rest % TYPE_CLASSES);
                let counter =
                    |c: &Counters| c.zones[number].queries[transport][class][code].load(Relaxed);
                let count = self.of(counter);
                if count == 0 {
                    continue;
                }
                let qtype = TYPES.get(class).map_or("other", |(name, _)| name);
                let labels = [
                    ("proto", TRANSPORTS[transport].label()),
                    ("qtype", if class == NO_TYPE { "none" } else { qtype }),
                    ("rcode", CODES.get(code).map_or("other", |(name, _)| name)),
                    ("zone", zone.as_str()),
                ];
                ConstCounter::new(count).encode(queries.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_waits(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let name = "switchyard_dns_request_seconds";
        let help = "Time until queries that waited for upstreams were answered, by zone; queries \
                    that were answered at once are not measured";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (number, zone) in self.zones.iter().enumerate() {
            let (seconds, count, buckets) = self.times(|c| &c.zones[number].waited);
            if count > 0 {
                let labels = [("zone", zone.as_str())];
                let mut encoder = family.encode_family(&labels)?;
                encoder.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
            }
        }
        Ok(())
    }

    /// The sum in seconds, the count and the buckets.
    fn times(&self, times: impl Fn(&Counters) -> &Times) -> (f64, u64, Vec<(f64, u64)>) {
        let end = |index| if index == TIME_BUCKETS { f64::INFINITY } else { bucket_end(index) };
        let buckets: Vec<(f64, u64)> = (0..=TIME_BUCKETS)
            .map(|index| (end(index), self.of(|c| times(c).counts[index].load(Relaxed))))
            .collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        (self.of(|c| times(c).sum_us.load(Relaxed)) as f64 / 1e6, count, buckets)
    }

    fn encode_forwards(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let name = "switchyard_dns_forward_seconds";
        let help = "Time until an upstream answered, including all tries";
        let mut histogram = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        let (seconds, count, buckets) = self.times(|c| &c.forwarded);
        histogram.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
        let help = "Queries that no upstream answered";
        let name = "switchyard_dns_forward_failures";
        self.encode_sum(encoder, name, help, |c| &c.forward_failures)?;
        let help = "Queries not forwarded because they failed a moment ago";
        let name = "switchyard_dns_forwards_failed_again";
        self.encode_sum(encoder, name, help, |c| &c.failed_again)?;
        let help = "Queries that waited for the answer to an identical query";
        self.encode_sum(encoder, "switchyard_dns_forwards_joined", help, |c| &c.joined)?;
        let help = "Queries answered from the cache";
        self.encode_sum(encoder, "switchyard_dns_cache_hits", help, |c| &c.cache_hits)?;
        let help = "Queries answered from the cache although the answer had expired, because \
                    upstreams did not answer";
        self.encode_sum(encoder, "switchyard_dns_cache_stale", help, |c| &c.cache_stale)?;
        let help = "Queries whose answer was not in the cache";
        self.encode_sum(encoder, "switchyard_dns_cache_misses", help, |c| &c.cache_misses)?;
        let help = "Answers that were asked for again before they expired, or while stale";
        let name = "switchyard_dns_cache_refreshes";
        self.encode_sum(encoder, name, help, |c| &c.cache_refreshes)?;
        let help = "Replies not sent because --rate-limit was reached";
        self.encode_sum(encoder, "switchyard_dns_rate_limited", help, |c| &c.limited)
    }

    fn encode_sum(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        counter: impl Fn(&Counters) -> &AtomicU64,
    ) -> Result<(), fmt::Error> {
        let sum = ConstCounter::new(self.of(|c| counter(c).load(Relaxed)));
        sum.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Failure;

    #[test]
    fn codes_are_counted_by_their_number() {
        for (index, (name, rcode)) in CODES.iter().enumerate() {
            assert_eq!(usize::from(rcode.0), index, "{name}");
        }
    }

    #[test]
    fn threads_are_added_up() {
        let registry = daemon::Daemon::detached("dns", 1).metrics;
        let names = ["cluster.local", "corp.example"].map(|text| Name::from_text(text).unwrap());
        let zones = CountedZone::labels(&names[0], names[1..].iter());
        let metrics = Metrics::register(&registry, zones);
        let forwarded = CountedZone::of_forwarded;
        for _ in 0..2 {
            let thread = metrics.thread();
            thread.replied(CountedZone::CLUSTER, Transport::Udp, Some(Type::AAAA), Rcode::NXDOMAIN);
            thread.replied(forwarded(Some(0)), Transport::Tcp, Some(Type(65_280)), Rcode::BADVERS);
            thread.replied(CountedZone::NONE, Transport::Udp, None, Rcode::FORMERR);
            thread.waited(forwarded(None), Duration::from_millis(1));
            thread.silent();
            thread.forwarded(Duration::from_micros(100));
            thread.forwarded(Duration::from_micros(150));
            thread.forwarded(Duration::from_secs(9));
            thread.decided(&Decision::<()>::BreakLoop);
            thread.decided(&Decision::Ask(()));
            let failure = Failure { rcode: Rcode::SERVFAIL, error: None };
            thread.served(Served::Failure(&failure), 1);
        }
        let text = registry.encode();
        for line in [
            r#"{proto="udp",qtype="AAAA",rcode="NXDOMAIN",zone="cluster.local."} 2"#,
            r#"{proto="tcp",qtype="other",rcode="other",zone="corp.example."} 2"#,
            r#"{proto="udp",qtype="none",rcode="FORMERR",zone="none"} 2"#,
            r#"switchyard_dns_request_seconds_count{zone="."} 2"#,
            r#"switchyard_dns_request_seconds_bucket{le="0.0008",zone="."} 0"#,
            r#"switchyard_dns_request_seconds_bucket{le="0.0016",zone="."} 2"#,
            "switchyard_dns_ignored_total 2",
            "switchyard_dns_unsent_total 0",
            "switchyard_dns_forward_seconds_count 6",
            "switchyard_dns_forward_seconds_sum 18.0005",
            r#"switchyard_dns_forward_seconds_bucket{le="0.0001"} 2"#,
            r#"switchyard_dns_forward_seconds_bucket{le="0.0002"} 4"#,
            r#"switchyard_dns_forward_seconds_bucket{le="6.5536"} 4"#,
            r#"switchyard_dns_forward_seconds_bucket{le="+Inf"} 6"#,
            "switchyard_dns_forward_failures_total 4",
            "switchyard_dns_forwards_failed_again_total 2",
            "switchyard_dns_cache_misses_total 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
