//! The record of one request, closed when its response has ended or was given up: from it the
//! metrics are fed, and the request's line in the log is written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;

use crate::metrics::Shard;
use crate::origin::RequestId;
use crate::reason::Reason;
use crate::snapshot::{Endpoint, Route};

/// What ended an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum EndedBy {
    /// The client: it closed its connection or reset its stream before it had all of the response.
    #[default]
    Client,
    /// The response was passed on to its end.
    Completion,
    /// We answered ourselves, for this reason.
    Refusal(Reason),
    /// The endpoint broke off its response.
    Endpoint,
    /// No progress was made in time.
    Timeout,
}

impl EndedBy {
    fn label(self) -> &'static str {
        match self {
            EndedBy::Client => "client",
            EndedBy::Completion => "completion",
            EndedBy::Refusal(reason) => reason.label(),
            EndedBy::Endpoint => "endpoint",
            EndedBy::Timeout => "timeout",
        }
    }
}

/// A request and what became of it.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) begun: Instant,
    /// The id that we gave the request.
    pub(crate) id: RequestId,
    /// The id that a trusted proxy gave it, which is used instead.
    pub(crate) given_id: Option<HeaderValue>,
    pub(crate) route: Option<Arc<Route>>,
    /// The endpoint that was asked last.
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    /// How often an endpoint was asked: attempts to connect, and requests sent again.
    pub(crate) tries: u32,
    /// The status that was answered; 0 while there is none.
    pub(crate) status: u16,
    pub(crate) ended_by: EndedBy,
    /// What only the log needs; absent where no line will be written.
    pub(crate) line: Option<Box<Line>>,
}

/// The part of a record that is copied from the request, for its line in the log.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) method: String,
    pub(crate) host: String,
    /// Without the query, which may hold secrets.
    pub(crate) path: String,
    /// The time to the response's head.
    pub(crate) answered: Option<Duration>,
}

impl Record {
    pub(crate) fn new(id: RequestId) -> Record {
        Record {
            begun: Instant::now(),
            id,
            given_id: None,
            route: None,
            endpoint: None,
            tries: 0,
            status: 0,
            ended_by: EndedBy::default(),
            line: None,
        }
    }

    /// The id by which the request is found in the logs of others.
    pub(crate) fn request_id(&self) -> &str {
        let given = self.given_id.as_ref().and_then(|id| id.to_str().ok());
        given.or(std::str::from_utf8(&self.id).ok()).unwrap_or_default()
    }

    /// Whether lines of requests are written at all.
    pub(crate) fn is_logged() -> bool {
        tracing::enabled!(tracing::Level::DEBUG)
    }

    pub(crate) fn answered(&mut self, status: u16) {
        self.status = status;
        if let Some(line) = &mut self.line {
            line.answered = Some(self.begun.elapsed());
        }
    }

    /// Feeds the metrics and writes the log.
    pub(crate) fn close(&self, shard: &Shard) {
        let total = self.begun.elapsed();
        shard.seconds.observe(total);
        if self.status > 0 {
            match &self.route {
                Some(route) => route.backend.answers.count(self.status),
                None => shard.unrouted.count(self.status),
            }
        }
        if let EndedBy::Refusal(reason) = self.ended_by {
            shard.own_answers[reason as usize].add(1);
        }
        if let Some(line) = &self.line {
            self.log(line, total);
        }
    }

    fn log(&self, line: &Line, total: Duration) {
        let route = self.route.as_deref();
        let (path_type, rule_path) = match route.and_then(|route| route.path.as_ref()) {
            Some((path_type, path)) => (Some(tracing::field::debug(path_type)), Some(&**path)),
            None => (None, None),
        };
        tracing::debug!(
            method = line.method,
            host = line.host,
            path = line.path,
            status = self.status,
            ingress = route.map(|route| tracing::field::display(&route.ingress)),
            path_type,
            rule_path,
            service = route.map(|route| tracing::field::display(&route.backend.key)),
            endpoint = self.endpoint.as_ref().map(|e| tracing::field::display(e.address)),
            tries = self.tries,
            head_ms = line.answered.map(milliseconds),
            total_ms = milliseconds(total),
            ended_by = self.ended_by.label(),
            request_id = self.request_id(),
            "request"
        );
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
