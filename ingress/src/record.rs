//! The record of one request, closed when its response has ended or was given up: from it the
//! metrics are fed, and the request's line in the log is written.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, Uri, Version};

use crate::metrics::Shard;
use crate::origin::RequestId;
use crate::reason::Reason;
use crate::snapshot::{Endpoint, Route};
use crate::trace::context::TraceContext;

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
    pub(crate) fn label(self) -> &'static str {
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
    /// Bytes of the response's body that were passed on.
    pub(crate) sent: u64,
    /// Its place in a trace, if it belongs to one.
    pub(crate) trace: Option<Box<TraceContext>>,
    /// What only logs and traces need; absent where no line will be written.
    pub(crate) line: Option<Box<Line>>,
}

/// The part of a record that is taken from the request, for its lines in the logs. Nothing is
/// copied: these are shares of the bytes that the head was read into.
#[derive(Debug)]
pub(crate) struct Line {
    /// It belongs to the access log, whatever becomes of it.
    pub(crate) is_sample: bool,
    pub(crate) client: IpAddr,
    /// Absent if the request's head could not be read.
    pub(crate) request: Option<LoggedRequest>,
    /// The time until there was a connection to the endpoint that answered.
    pub(crate) connected: Option<Duration>,
    /// The time to the response's head.
    pub(crate) answered: Option<Duration>,
}

/// What the logs say of a request's head.
#[derive(Debug)]
pub(crate) struct LoggedRequest {
    pub(crate) method: Method,
    pub(crate) target: Uri,
    pub(crate) version: Version,
    /// The field, where the target names no host.
    host: Option<HeaderValue>,
    pub(crate) referer: Option<HeaderValue>,
    pub(crate) user_agent: Option<HeaderValue>,
}

impl Line {
    pub(crate) fn new(is_sample: bool, client: IpAddr, request: Option<&Parts>) -> Line {
        let request = request.map(LoggedRequest::of);
        Line { is_sample, client, request, connected: None, answered: None }
    }
}

impl LoggedRequest {
    fn of(parts: &Parts) -> LoggedRequest {
        let field = |name| parts.headers.get(name).cloned();
        LoggedRequest {
            method: parts.method.clone(),
            target: parts.uri.clone(),
            version: parts.version,
            host: field(header::HOST),
            referer: field(header::REFERER),
            user_agent: field(header::USER_AGENT),
        }
    }

    pub(crate) fn host(&self) -> &str {
        let named = self.target.authority().map(|authority| authority.as_str());
        let field = self.host.as_ref().and_then(|host| host.to_str().ok());
        named.or(field).unwrap_or_default()
    }
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
            sent: 0,
            trace: None,
            line: None,
        }
    }

    /// The id by which the request is found in the logs of others.
    pub(crate) fn request_id(&self) -> &str {
        let given = self.given_id.as_ref().and_then(|id| id.to_str().ok());
        given.or(std::str::from_utf8(&self.id).ok()).unwrap_or_default()
    }

    /// Whether each request is a line of the process's log.
    pub(crate) fn is_logged() -> bool {
        tracing::enabled!(tracing::Level::DEBUG)
    }

    pub(crate) fn answered(&mut self, status: u16) {
        self.status = status;
        if let Some(line) = &mut self.line {
            line.answered = Some(self.begun.elapsed());
        }
    }

    /// Whether an annotation leaves it out of the access log.
    pub(crate) fn is_unlogged(&self) -> bool {
        let special = self.route.as_ref().and_then(|route| route.plan.special.as_ref());
        special.is_some_and(|special| special.recording.is_unlogged)
    }

    /// There is a connection to an endpoint.
    pub(crate) fn connected(&mut self) {
        if let Some(line) = &mut self.line {
            line.connected = Some(self.begun.elapsed());
        }
    }

    /// Feeds the metrics and writes the process's log. The time that the request took.
    pub(crate) fn close(&self, shard: &Shard) -> Duration {
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
        if let Some(line) = &self.line
            && Record::is_logged()
        {
            self.log(line, total);
        }
        total
    }

    fn log(&self, line: &Line, total: Duration) {
        let (route, request) = (self.route.as_deref(), line.request.as_ref());
        let (path_type, rule_path) = match route.and_then(|route| route.path.as_ref()) {
            Some((path_type, path)) => (Some(tracing::field::debug(path_type)), Some(&**path)),
            None => (None, None),
        };
        tracing::debug!(
            method = request.map(|request| request.method.as_str()),
            host = request.map(LoggedRequest::host),
            // The query may hold secrets.
            path = request.map(|request| request.target.path()),
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
