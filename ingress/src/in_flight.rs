//! A request in flight: from its head until its response's body has ended or was given up.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Context;

use http::HeaderValue;
use http::request::Parts;

use crate::access_log::WorkerLog;
use crate::connection::Connection;
use crate::context::WorkerContext;
use crate::deadline::{Deadline, Ticks};
use crate::record::{EndedBy, Line, Record};
use crate::snapshot::{Counted, Plan, ResponseEdits};
use crate::stalled::StreamState;
use crate::upstream::Upstream;
use crate::zone::ZonePermit;

/// A request in flight, with its time-outs and its record.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) connection: Rc<Connection>,
    pub(crate) record: RefCell<Record>,
    /// Over HTTP/2, its stream, which has a deadline of its own; over HTTP/1.1 that is the
    /// connection's.
    stream: Option<Rc<StreamState>>,
    read_timeout: Cell<Ticks>,
    send_timeout: Cell<Ticks>,
    /// Counts the request for its endpoint, where that matters.
    counted: RefCell<Option<Counted>>,
    /// What few routes ask for.
    rare: RefCell<Option<Box<Rare>>>,
}

/// What few routes ask for.
#[derive(Debug, Default)]
struct Rare {
    /// What is changed of the response.
    edits: Option<ResponseEdits>,
    /// Counts the request for its client.
    permit: Option<ZonePermit>,
    /// Cookies of an authentication server for the client, and whether for every status.
    cookies: Option<(Vec<HeaderValue>, bool)>,
}

impl InFlight {
    /// `stream` is that of HTTP/2.
    pub(crate) fn begin(connection: Rc<Connection>, stream: Option<Rc<StreamState>>) -> InFlight {
        connection.begin_request();
        let defaults = &connection.context.settings().plan;
        let read_timeout = Cell::new(defaults.read_timeout);
        let send_timeout = Cell::new(defaults.send_timeout);
        let record = RefCell::new(Record::new(connection.context.request_id()));
        InFlight {
            connection,
            record,
            stream,
            read_timeout,
            send_timeout,
            counted: RefCell::new(None),
            rare: RefCell::new(None),
        }
    }

    pub(crate) fn context(&self) -> &Rc<WorkerContext> {
        &self.connection.context
    }

    /// Notes what the record needs of a request, and takes the request into its trace.
    pub(crate) fn note(&self, parts: &mut Parts) {
        let (context, origin) = (self.context(), &self.connection.origin);
        let trace = context.tracer.as_ref().and_then(|t| t.begin(&mut parts.headers));
        let access_log = context.access_log.as_ref();
        let is_traced = trace.as_ref().is_some_and(|trace| trace.is_sampled);
        let has_line = is_traced || access_log.is_some() || Record::is_logged();
        if !has_line && trace.is_none() && !origin.trusted {
            return;
        }
        let mut record = self.record.borrow_mut();
        record.trace = trace.map(Box::new);
        record.given_id = origin.given_id(&parts.headers).cloned();
        if has_line {
            let is_sample = access_log.is_some_and(WorkerLog::takes_sample);
            let client = origin.client(&parts.headers, &context.settings().rules);
            record.line = Some(Box::new(Line::new(is_sample, client, Some(parts))));
        }
    }

    /// Adds the id by which the request is found in the logs of others.
    pub(crate) fn push_id(&self, text: &mut String) {
        text.push_str(self.record.borrow().request_id());
    }

    /// Takes the time-outs of the route that the request has come to.
    pub(crate) fn apply(&self, plan: &Plan) {
        self.read_timeout.set(plan.read_timeout);
        self.send_timeout.set(plan.send_timeout);
    }

    /// The exchange went on: it has its full time again.
    pub(crate) fn made_progress(&self, upstream: &Upstream) {
        let sent = upstream.is_sent();
        let timeout = if sent { self.read_timeout.get() } else { self.send_timeout.get() };
        self.arm(timeout);
    }

    /// The same, with less time if `most` is less.
    pub(crate) fn arm_at_most(&self, upstream: &Upstream, most: Ticks) {
        let sent = upstream.is_sent();
        let timeout = if sent { self.read_timeout.get() } else { self.send_timeout.get() };
        self.arm(timeout.min(most));
    }

    /// Counts the request for its endpoint until it has ended.
    pub(crate) fn count(&self, counted: Option<Counted>) {
        if counted.is_some() {
            self.counted.replace(counted);
        }
    }

    /// The exchange has so long for its next step.
    pub(crate) fn arm(&self, timeout: Ticks) {
        self.connection.set_timeout(timeout);
        self.deadline().arm(timeout);
    }

    /// Whether the exchange has made no progress in its time.
    pub(crate) fn poll_timed_out(&self, cx: &Context<'_>) -> bool {
        self.deadline().poll_fired(cx)
    }

    /// Notes what is to be changed of the response.
    pub(crate) fn set_edits(&self, edits: Option<ResponseEdits>) {
        if edits.is_some() || self.rare.borrow().is_some() {
            self.rare.borrow_mut().get_or_insert_default().edits = edits;
        }
    }

    /// What is to be changed of the response.
    pub(crate) fn take_edits(&self) -> Option<ResponseEdits> {
        self.rare.borrow_mut().as_mut()?.edits.take()
    }

    /// Notes the cookies that an authentication server sets; `always` for every status.
    pub(crate) fn set_cookies(&self, cookies: Vec<HeaderValue>, always: bool) {
        if !cookies.is_empty() {
            self.rare.borrow_mut().get_or_insert_default().cookies = Some((cookies, always));
        }
    }

    pub(crate) fn take_cookies(&self) -> Option<(Vec<HeaderValue>, bool)> {
        self.rare.borrow_mut().as_mut()?.cookies.take()
    }

    /// Counts the request as long as it is in flight.
    pub(crate) fn hold(&self, permit: ZonePermit) {
        self.rare.borrow_mut().get_or_insert_default().permit = Some(permit);
    }

    /// The same for as long as the tunnel is open that the connection becomes.
    pub(crate) fn hold_for_tunnel(&self) {
        let permit = self.rare.borrow_mut().as_mut().and_then(|rare| rare.permit.take());
        self.connection.hold(permit, self.counted.take());
    }

    /// Gives an endpoint's connection back to the worker's pool.
    pub(crate) fn keep(&self, upstream: Upstream) {
        let context = self.context();
        context.pool.put(upstream, context.deadlines.now());
    }

    pub(crate) fn ended_by(&self, ended_by: EndedBy) {
        self.record.borrow_mut().ended_by = ended_by;
    }

    /// The stream, over HTTP/2.
    pub(crate) fn stream(&self) -> Option<&StreamState> {
        self.stream.as_deref()
    }

    fn deadline(&self) -> &Deadline {
        self.stream.as_ref().map_or(self.connection.deadline(), |stream| &stream.deadline)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.context.close(self.record.get_mut());
        self.connection.end_request();
    }
}
