//! The log of queries (`--query-log`): one event for each query that is to be logged.
//!
//! A data thread only puts a line into a queue; a thread of its own formats and writes them. The
//! reader of the log may be slow, and a query must not wait for it: when the queue is full, lines
//! are lost, and counted.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use crate::answered_by::AnsweredBy;
use crate::wire::reply::Transport;
use crate::wire::{Name, Query, Rcode, Type};

/// Lines that wait to be written; about 2 MiB.
const QUEUE: usize = 4096;
/// Of so many queries one is logged, if samples are.
const SAMPLE: u32 = 100;

/// Which queries are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum QueryLogMode {
    /// None.
    #[default]
    Off,
    /// Those answered with SERVFAIL, REFUSED, FORMERR or NOTIMP, and those that get no reply
    /// because of --rate-limit.
    Errors,
    /// One query in 100, and all errors.
    Sampled,
    /// Every query.
    All,
}

/// Where a data thread puts its lines. `clone` shares the queue.
#[derive(Clone, Debug)]
pub(crate) struct QueryLog {
    mode: QueryLogMode,
    lines: SyncSender<Line>,
    lost: Counter,
}

/// The lines that the data threads have put into the queue.
#[derive(Debug)]
pub(crate) struct Lines(Receiver<Line>);

/// What is said of one query.
#[derive(Debug)]
pub(crate) struct Line {
    client: Option<SocketAddr>,
    transport: Transport,
    /// Absent if the query could not be parsed.
    asked: Option<(Name, Type)>,
    dnssec_ok: bool,
    pub(crate) outcome: LoggedOutcome,
}

/// What became of a query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoggedOutcome {
    pub(crate) rcode: Rcode,
    pub(crate) answered_by: AnsweredBy,
    /// Octets of the reply; zero if none is sent because of `--rate-limit`.
    pub(crate) size: usize,
    /// How long the client waited for upstreams, if it did.
    pub(crate) waited: Option<Duration>,
}

impl LoggedOutcome {
    fn is_dropped(&self) -> bool {
        self.size == 0
    }

    fn is_error(&self) -> bool {
        let errors = [Rcode::SERVFAIL, Rcode::REFUSED, Rcode::FORMERR, Rcode::NOTIMP];
        self.is_dropped() || errors.contains(&self.rcode)
    }
}

/// The queue of a log; `None` if nothing is logged. `lost` counts the lines that found no room.
pub(crate) fn queue(mode: QueryLogMode, lost: &Counter) -> Option<(QueryLog, Lines)> {
    if mode == QueryLogMode::Off {
        return None;
    }
    let (lines, receiver) = sync_channel(QUEUE);
    Some((QueryLog { mode, lines, lost: lost.clone() }, Lines(receiver)))
}

impl QueryLog {
    /// Whether a query with this outcome is to be logged.
    pub(crate) fn wants(&self, outcome: &LoggedOutcome) -> bool {
        match self.mode {
            QueryLogMode::Off => false,
            QueryLogMode::Errors => outcome.is_error(),
            // By chance: clients ask for A and AAAA in turns.
            QueryLogMode::Sampled => outcome.is_error() || rand::random_ratio(1, SAMPLE),
            QueryLogMode::All => true,
        }
    }

    /// Logs a query, or counts it as lost.
    #[cold]
    pub(crate) fn put(&self, line: Line) {
        // It also fails when the writer has ended; the thread that does so ends the process.
        if self.lines.try_send(line).is_err() {
            self.lost.inc();
        }
    }
}

impl Line {
    pub(crate) fn new(
        query: &Query,
        client: Option<SocketAddr>,
        transport: Transport,
        outcome: LoggedOutcome,
    ) -> Line {
        let is_parsed = outcome.rcode != Rcode::FORMERR && outcome.rcode != Rcode::NOTIMP;
        Line {
            client,
            transport,
            asked: is_parsed.then(|| (query.name.clone(), query.qtype)),
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            outcome,
        }
    }

    fn write(&self) {
        let Line { client, transport, asked, dnssec_ok, outcome } = self;
        let LoggedOutcome { rcode, answered_by, size, waited } = outcome;
        tracing::info!(
            target: "dns::queries",
            client = client.map(tracing::field::display),
            proto = transport.label(),
            name = asked.as_ref().map(|(name, _)| tracing::field::display(name)),
            qtype = asked.as_ref().map(|(_, qtype)| tracing::field::display(qtype)),
            %rcode,
            size,
            answered_by = answered_by.label(),
            duration_us = waited.map(|waited| waited.as_micros() as u64),
            dnssec_ok,
            dropped = outcome.is_dropped().then_some(true),
            "query"
        );
    }
}

impl Lines {
    /// Writes them until all data threads have ended.
    pub(crate) fn write(self) {
        for line in self.0 {
            line.write();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::question;

    fn outcome(rcode: Rcode, size: usize) -> LoggedOutcome {
        LoggedOutcome { rcode, answered_by: AnsweredBy::Zone, size, waited: None }
    }

    fn log(mode: QueryLogMode) -> (QueryLog, Lines, Counter) {
        let lost = Counter::default();
        let (log, lines) = queue(mode, &lost).unwrap();
        (log, lines, lost)
    }

    #[test]
    fn what_each_mode_logs() {
        assert!(queue(QueryLogMode::Off, &Counter::default()).is_none());
        let count = |mode, outcome: LoggedOutcome| {
            let (log, _lines, _) = log(mode);
            (0..2000).filter(|_| log.wants(&outcome)).count()
        };
        let (answer, dropped) = (outcome(Rcode::NXDOMAIN, 80), outcome(Rcode::NOERROR, 0));
        assert_eq!(count(QueryLogMode::Errors, answer), 0);
        assert_eq!(count(QueryLogMode::All, answer), 2000);
        let samples = count(QueryLogMode::Sampled, answer);
        assert!((1..200).contains(&samples), "{samples}");
        for mode in [QueryLogMode::Errors, QueryLogMode::Sampled, QueryLogMode::All] {
            assert_eq!(count(mode, dropped), 2000);
            for rcode in [Rcode::SERVFAIL, Rcode::REFUSED, Rcode::FORMERR, Rcode::NOTIMP] {
                assert_eq!(count(mode, outcome(rcode, 12)), 2000, "{mode:?} {rcode}");
            }
        }
    }

    #[test]
    fn a_full_queue_makes_nobody_wait() {
        let (log, lines, lost) = log(QueryLogMode::All);
        let packet = question("www.example A").to_vec().unwrap();
        let mut query = Query::new();
        query.parse(&packet).unwrap();
        for _ in 0..QUEUE + 3 {
            let outcome = outcome(Rcode::NOERROR, 40);
            log.put(Line::new(&query, None, Transport::Udp, outcome));
        }
        assert_eq!(lost.get(), 3);
        drop(log);
        assert_eq!(lines.0.into_iter().count(), QUEUE);
    }
}
