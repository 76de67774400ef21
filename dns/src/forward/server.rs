//! What is known of one upstream server: its round trip, its health, and what it supports.
//!
//! Pure: the time is passed in. All data threads share a [`Server`] by atomics. Each value stands
//! for itself, so a reader may see one thread's round trip with another's health; nothing depends
//! on both. Left out on purpose: which server is asked, in [`super::plan`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;

/// So many failures in a row mark a server down.
const FAILURES_UNTIL_DOWN: u32 = 2;
/// So many replies in a row that are of no use, such as REFUSED, put a server behind the others.
const UNUSABLE_UNTIL_LAST: u32 = 2;
/// Between the first probes of a server that is down; then twice as long each time.
const PROBE_PAUSE: Duration = Duration::from_secs(1);
const MAX_PROBE_PAUSE: Duration = Duration::from_secs(30);
/// How long a server that does not support EDNS is asked without (RFC 6891 section 6.2.2).
const PLAIN_TIME: Duration = Duration::from_secs(3600);

/// Where a server is, and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// Its IP address and port.
    pub socket: SocketAddr,
    /// The name in its certificate, if it is asked over TLS (RFC 7858).
    pub tls_name: Option<ServerName<'static>>,
}

impl From<SocketAddr> for ServerAddress {
    fn from(socket: SocketAddr) -> ServerAddress {
        ServerAddress { socket, tls_name: None }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tls_name {
            None => self.socket.fmt(f),
            Some(name) => write!(f, "tls://{}#{}", self.socket, name.to_str()),
        }
    }
}

/// Why a server gave no answer that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Reason {
    #[error("no answer in time")]
    Silent,
    #[error("it cannot be reached")]
    Unreachable,
    #[error("the TLS handshake failed")]
    Tls,
    #[error("it refused, or could not answer")]
    Refused,
    #[error("its answer is malformed")]
    Malformed,
}

impl Reason {
    pub(crate) const ALL: [Reason; 5] =
        [Reason::Silent, Reason::Unreachable, Reason::Tls, Reason::Refused, Reason::Malformed];

    /// The value of the label `reason` in the metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Reason::Silent => "timeout",
            Reason::Unreachable => "network",
            Reason::Tls => "tls",
            Reason::Refused => "refused",
            Reason::Malformed => "malformed",
        }
    }
}

/// A change of health, which is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HealthChange {
    WentDown,
    CameBack,
}

/// Whether a server supports EDNS, as far as it is known.
mod edns {
    pub(super) const UNKNOWN: u8 = 0;
    /// It has answered a query with OPT.
    pub(super) const WORKS: u8 = 1;
    /// It was silent; the next query has no OPT.
    pub(super) const SUSPECTED: u8 = 2;
}

/// Whether a server repeats the question letter for letter, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum LetterCase {
    Unknown,
    Kept,
    Lost,
}

/// The state of one server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: ServerAddress,
    pub(crate) counters: ServerCounters,
    /// Instants are kept as microseconds since then, and one; 0 is never.
    epoch: Instant,
    /// The smoothed round trip and, in the lower half, its mean deviation; 0 before the first.
    rtt_us: AtomicU64,
    failures_in_row: AtomicU32,
    unusable_in_row: AtomicU32,
    answered_at: AtomicU64,
    /// When the next probe is due; 0 while the server is up.
    probe_at: AtomicU64,
    probe_pause_ms: AtomicU32,
    down_reason: AtomicU8,
    edns: AtomicU8,
    plain_until: AtomicU64,
    checks_edns: AtomicBool,
    letter_case: AtomicU8,
    is_loop: AtomicBool,
    tls_problem: AtomicU64,
}

/// Counters for the metrics.
#[derive(Debug, Default)]
pub(crate) struct ServerCounters {
    pub(crate) sent: AtomicU64,
    pub(crate) answered: AtomicU64,
    /// By [`Reason`].
    pub(crate) failed: [AtomicU64; Reason::ALL.len()],
    /// Questions that another server was asked too, because this one was slow.
    pub(crate) hedged: AtomicU64,
    /// Round trips by time, see [`rtt_bucket`]; the last is for longer ones.
    pub(crate) rtt: [AtomicU64; RTT_BUCKETS + 1],
    pub(crate) rtt_us: AtomicU64,
}

pub(crate) const RTT_BUCKETS: usize = 12;

/// The longest round trip of a bucket: 1 ms to 2 s.
pub(crate) fn rtt_bucket(index: usize) -> Duration {
    Duration::from_millis(1 << index)
}

impl Server {
    pub(crate) fn new(address: ServerAddress, now: Instant) -> Server {
        Server {
            address,
            counters: ServerCounters::default(),
            epoch: now,
            rtt_us: AtomicU64::new(0),
            failures_in_row: AtomicU32::new(0),
            unusable_in_row: AtomicU32::new(0),
            answered_at: AtomicU64::new(0),
            probe_at: AtomicU64::new(0),
            probe_pause_ms: AtomicU32::new(0),
            down_reason: AtomicU8::new(Reason::Silent as u8),
            edns: AtomicU8::new(edns::UNKNOWN),
            plain_until: AtomicU64::new(0),
            checks_edns: AtomicBool::new(false),
            letter_case: AtomicU8::new(LetterCase::Unknown as u8),
            is_loop: AtomicBool::new(false),
            tls_problem: AtomicU64::new(0),
        }
    }

    fn ticks(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_micros() as u64 + 1
    }

    // Round trips.

    /// The smoothed round trip, if there was one.
    pub(crate) fn smoothed_rtt(&self) -> Option<Duration> {
        let (smoothed, _) = halves(self.rtt_us.load(Relaxed));
        (smoothed > 0).then(|| Duration::from_micros(smoothed))
    }

    /// The time in which about 95 % of the answers come: two mean deviations above the mean, which
    /// is right for a normal distribution.
    pub(crate) fn rtt_p95(&self) -> Option<Duration> {
        let (smoothed, deviation) = halves(self.rtt_us.load(Relaxed));
        (smoothed > 0).then(|| Duration::from_micros(smoothed + 2 * deviation))
    }

    /// The estimator of TCP (RFC 6298 section 2).
    fn measure(&self, rtt: Duration) {
        let rtt = (rtt.as_micros() as u64).clamp(1, u64::from(u32::MAX) / 4);
        let _ = self.rtt_us.fetch_update(Relaxed, Relaxed, |before| {
            let (smoothed, deviation) = halves(before);
            Some(match smoothed {
                0 => joined(rtt, rtt / 2),
                _ => {
                    let error = smoothed.abs_diff(rtt);
                    joined((7 * smoothed + rtt) / 8, (3 * deviation + error) / 4)
                }
            })
        });
    }

    /// Another server answered a question first, and this one has been silent for so long: its
    /// round trip is at least that.
    pub(crate) fn overtaken(&self, silent_for: Duration) {
        if self.smoothed_rtt().is_none_or(|smoothed| smoothed < silent_for) {
            self.measure(silent_for);
        }
    }

    // Health.

    /// It answered, in whatever sense, after this time.
    pub(crate) fn answered(&self, rtt: Duration, now: Instant) -> Option<HealthChange> {
        self.counters.answered.fetch_add(1, Relaxed);
        self.counters.rtt_us.fetch_add(rtt.as_micros() as u64, Relaxed);
        let bucket = (0..RTT_BUCKETS).find(|index| rtt <= rtt_bucket(*index));
        self.counters.rtt[bucket.unwrap_or(RTT_BUCKETS)].fetch_add(1, Relaxed);
        let change = self.is_alive(now);
        if change.is_some() {
            // What was measured before the outage says nothing any more.
            self.rtt_us.store(0, Relaxed);
        }
        self.measure(rtt);
        change
    }

    /// It sent something.
    fn is_alive(&self, now: Instant) -> Option<HealthChange> {
        self.answered_at.fetch_max(self.ticks(now), Relaxed);
        self.failures_in_row.store(0, Relaxed);
        self.probe_pause_ms.store(0, Relaxed);
        (self.probe_at.swap(0, Relaxed) != 0).then_some(HealthChange::CameBack)
    }

    /// Its answer could be used.
    pub(crate) fn was_useful(&self) {
        self.unusable_in_row.store(0, Relaxed);
    }

    /// A query that was sent at `sent` failed. Only silence and unreachability are of the server's
    /// health: clients can choose names that are refused or whose answers are malformed.
    pub(crate) fn failed(
        &self,
        reason: Reason,
        sent: Instant,
        now: Instant,
    ) -> Option<HealthChange> {
        self.counters.failed[reason as usize].fetch_add(1, Relaxed);
        match reason {
            Reason::Refused => {
                self.unusable_in_row.fetch_add(1, Relaxed);
                return None;
            }
            Reason::Malformed => {
                self.unusable_in_row.fetch_add(1, Relaxed);
                return self.is_alive(now);
            }
            Reason::Silent | Reason::Unreachable | Reason::Tls => {}
        }
        // A datagram that was lost says nothing if later ones were answered.
        if self.answered_at.load(Relaxed) > self.ticks(sent) {
            return None;
        }
        let failures = self.failures_in_row.fetch_add(1, Relaxed).saturating_add(1);
        if failures < FAILURES_UNTIL_DOWN {
            return None;
        }
        let probe_at = self.ticks(now + PROBE_PAUSE);
        let went_down = self.probe_at.compare_exchange(0, probe_at, Relaxed, Relaxed).is_ok();
        if went_down {
            self.down_reason.store(reason as u8, Relaxed);
            self.probe_pause_ms.store(PROBE_PAUSE.as_millis() as u32, Relaxed);
        }
        went_down.then_some(HealthChange::WentDown)
    }

    pub(crate) fn is_down(&self) -> bool {
        self.probe_at.load(Relaxed) != 0
    }

    /// Why it is down.
    pub(crate) fn down_reason(&self) -> Reason {
        let index = usize::from(self.down_reason.load(Relaxed));
        Reason::ALL.get(index).copied().unwrap_or(Reason::Silent)
    }

    /// When the next probe is due, if it is down.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        let at = self.probe_at.load(Relaxed).checked_sub(1)?;
        Some(self.epoch + Duration::from_micros(at))
    }

    /// A server that is down is probed now; the next probe comes after twice the time.
    pub(crate) fn probed(&self, now: Instant) {
        let pause_ms = u64::from(self.probe_pause_ms.load(Relaxed));
        let pause = (2 * Duration::from_millis(pause_ms)).clamp(PROBE_PAUSE, MAX_PROBE_PAUSE);
        let next = self.ticks(now + pause);
        // It may have come back in the meantime.
        let still_down = |at: u64| (at != 0).then_some(next);
        if self.probe_at.fetch_update(Relaxed, Relaxed, still_down).is_ok() {
            self.probe_pause_ms.store(pause.as_millis() as u32, Relaxed);
        }
    }

    /// Whether its replies are of no use at present, although it is up.
    pub(crate) fn is_unusable(&self) -> bool {
        self.unusable_in_row.load(Relaxed) >= UNUSABLE_UNTIL_LAST
    }

    // Loops.

    /// Whether it forwards to us what we forward to it.
    pub(crate) fn is_loop(&self) -> bool {
        self.is_loop.load(Relaxed)
    }

    pub(crate) fn set_loop(&self, is_loop: bool) {
        self.is_loop.store(is_loop, Relaxed);
    }

    // What it supports.

    /// Whether the next query has an OPT record. `again` if it is the second for one question.
    pub(crate) fn uses_edns(&self, again: bool, now: Instant) -> bool {
        let state = self.edns.load(Relaxed);
        let is_suspected = state == edns::SUSPECTED || again && state == edns::UNKNOWN;
        !is_suspected && !self.lacks_edns(now)
    }

    /// Whether it is known not to support EDNS.
    fn lacks_edns(&self, now: Instant) -> bool {
        self.plain_until.load(Relaxed) >= self.ticks(now)
    }

    /// It answered a query that had an OPT record.
    pub(crate) fn edns_works(&self) {
        self.edns.store(edns::WORKS, Relaxed);
        self.plain_until.store(0, Relaxed);
        self.checks_edns.store(false, Relaxed);
    }

    /// It returned an error to a query with an OPT record, and an answer without.
    pub(crate) fn edns_refused(&self, now: Instant) {
        self.plain_until.store(self.ticks(now + PLAIN_TIME), Relaxed);
        self.edns.store(edns::UNKNOWN, Relaxed);
    }

    /// It answered a query that had no OPT record because of silence before. The silence may have
    /// had another cause, so that has to be checked.
    pub(crate) fn plain_answered(&self, now: Instant) {
        if !self.lacks_edns(now) && self.edns.load(Relaxed) != edns::WORKS {
            self.edns_refused(now);
            self.checks_edns.store(true, Relaxed);
        }
    }

    /// It did not answer a query, with or without an OPT record.
    pub(crate) fn was_silent(&self, with_edns: bool) {
        let (from, to) = match with_edns {
            true => (edns::UNKNOWN, edns::SUSPECTED),
            false => (edns::SUSPECTED, edns::UNKNOWN),
        };
        let _ = self.edns.compare_exchange(from, to, Relaxed, Relaxed);
    }

    /// Whether it has to be checked if it supports EDNS after all. Once.
    pub(crate) fn take_edns_check(&self) -> bool {
        self.checks_edns.swap(false, Relaxed)
    }

    pub(crate) fn letter_case(&self) -> LetterCase {
        match self.letter_case.load(Relaxed) {
            1 => LetterCase::Kept,
            2 => LetterCase::Lost,
            _ => LetterCase::Unknown,
        }
    }

    pub(crate) fn set_letter_case(&self, letter_case: LetterCase) {
        self.letter_case.store(letter_case as u8, Relaxed);
    }

    /// Remembers what is wrong with its TLS, as a hash that is not 0; 0 if nothing is. Whether
    /// that is a change.
    pub(crate) fn set_tls_problem(&self, problem: u64) -> bool {
        self.tls_problem.load(Relaxed) != problem
            && self.tls_problem.swap(problem, Relaxed) != problem
    }
}

fn halves(both: u64) -> (u64, u64) {
    (both >> 32, both & u64::from(u32::MAX))
}

fn joined(upper: u64, lower: u64) -> u64 {
    upper << 32 | lower
}

/// The servers that are asked about the same names, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    /// Grows when the servers change.
    pub(crate) version: u64,
    pub(crate) servers: Vec<Arc<Server>>,
}

impl Group {
    pub(crate) fn new(addresses: &[ServerAddress], now: Instant) -> Group {
        Group::default().replaced(addresses, now)
    }

    /// With other servers. What is known of those that remain is kept.
    pub(crate) fn replaced(&self, addresses: &[ServerAddress], now: Instant) -> Group {
        let server = |address: &ServerAddress| {
            let known = self.servers.iter().find(|server| server.address == *address);
            known.cloned().unwrap_or_else(|| Arc::new(Server::new(address.clone(), now)))
        };
        let mut servers: Vec<Arc<Server>> = Vec::new();
        for address in addresses {
            if servers.iter().all(|server| server.address != *address) {
                servers.push(server(address));
            }
        }
        Group { version: self.version + 1, servers }
    }

    pub(crate) fn has_address(&self, ip: IpAddr) -> bool {
        self.servers.iter().any(|server| server.address.socket.ip() == ip)
    }

    /// Whether a server at this address forwards to us what we forward to it.
    pub(crate) fn is_loop(&self, ip: IpAddr) -> bool {
        self.servers.iter().any(|s| s.is_loop() && s.address.socket.ip() == ip)
    }

    /// Whether no answer is to be expected: every server is down or a loop. The servers are asked
    /// nevertheless.
    pub(crate) fn is_down(&self) -> bool {
        self.servers.iter().all(|server| server.is_down() || server.is_loop())
    }
}

#[cfg(test)]
mod tests;
