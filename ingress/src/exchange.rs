//! A request's exchange with an endpoint: connections are opened or taken from the pool, the
//! request is sent, and the head of its response is waited for.
//!
//! What to do when something fails is decided by [`Attempts`]; here are the sockets. Where the
//! endpoints of a decision are used up, the request is decided again by the newest snapshot. Left
//! out: the response's body, which the client's connection polls.

mod attempts;

use std::future::{Future as _, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Instant;

use http::header::HeaderMap;
use http::{Method, StatusCode};

use self::attempts::{Attempts, ConnectFailure, SendFailure};
use crate::body::RequestBody;
use crate::deadline::Ticks;
use crate::head::{Framing, RequestHead};
use crate::in_flight::InFlight;
use crate::interim::InterimHead;
use crate::refusal::Refusal;
use crate::settings::CONTINUE_PATIENCE;
use crate::snapshot::{Draw, Endpoint, Pick, Route, Special};
use crate::upstream::{Failure, Head, Unanswered, Upstream};
use crate::wire::{Asking, Wire};

/// Where a request goes.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) route: Arc<Route>,
    pub(crate) pick: Pick,
    /// The hash of what the request is known by, where it is spread by that.
    pub(crate) key: Option<u64>,
    /// The endpoint that the client's cookie leads to.
    pub(crate) own: Option<Arc<Endpoint>>,
}

/// One request's exchange.
pub(crate) struct Exchange<'a, D> {
    in_flight: &'a InFlight,
    /// The hash of what the request is known by; 0 where it is spread in another way. Not an
    /// `Option`, because each request in flight holds it.
    key: u64,
    own: Option<Arc<Endpoint>>,
    /// Decides by the newest snapshot where the request goes: by which route, and to which
    /// endpoint first.
    decide: D,
    attempts: Attempts,
    /// Host and port that the request is for, as its client wrote them.
    authority: &'a str,
}

impl<'a, D> Exchange<'a, D>
where
    D: Fn() -> Result<Decided, Refusal>,
{
    /// Decides for the first time.
    pub(crate) fn new(
        in_flight: &'a InFlight,
        decide: D,
        method: &Method,
        authority: &'a str,
    ) -> Result<Exchange<'a, D>, Refusal> {
        let Decided { route, pick, key, own } = decide()?;
        in_flight.apply(&route.plan);
        let now_ms = in_flight.context().deadlines.now_ms();
        let attempts = Attempts::new((route, pick), is_idempotent(method), now_ms);
        let key = key.unwrap_or(0);
        Ok(Exchange { in_flight, key, own, decide, attempts, authority })
    }

    /// Calls what picks an endpoint.
    fn with_draw<T>(&mut self, pick: impl FnOnce(&mut Attempts, &Draw<'_>) -> T) -> T {
        let context = self.in_flight.context();
        let (now_ms, random) = (context.deadlines.now_ms(), || context.random());
        let changes = self.route().affinity().is_some_and(|affinity| affinity.changes_on_failure);
        let only = self.own.as_ref().filter(|_| !changes);
        let key = (self.key != 0).then_some(self.key);
        pick(&mut self.attempts, &Draw { now_ms, random: &random, key, only })
    }

    /// Whether an endpoint is the one that the client's cookie leads to.
    pub(crate) fn is_own(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.own.as_ref().is_some_and(|own| Arc::ptr_eq(own, endpoint))
    }

    /// The route that the request goes by.
    pub(crate) fn route(&self) -> &Arc<Route> {
        self.attempts.route()
    }

    /// The endpoint to ask: by the newest decision if the one before leads to no other.
    fn endpoint(&mut self) -> Result<Arc<Endpoint>, Refusal> {
        let in_flight = self.in_flight;
        loop {
            if let Ok(endpoint) = self.with_draw(Attempts::endpoint) {
                return Ok(endpoint);
            }
            let decided = (self.decide)();
            if let Ok(Decided { key, own, .. }) = &decided {
                (self.key, self.own) = (key.unwrap_or(0), own.clone());
            }
            let decision = decided.map(|decided| (decided.route, decided.pick));
            let before = self.attempts.route().plan.special.clone();
            let mut went_on = self.attempts.decided_again(decision);
            let route = self.attempts.route();
            if went_on.is_ok() && asks_anew(before.as_ref(), route) {
                went_on = Err(self.attempts.given_up());
            }
            if let Err(refusal) = went_on {
                // Where no route is left, the request counts for the one that it went by.
                in_flight.record.borrow_mut().route.get_or_insert_with(|| route.clone());
                return Err(refusal);
            }
            in_flight.apply(&route.plan);
        }
    }

    /// A connection to the endpoint whose turn it is, kept or new.
    pub(crate) async fn connection(
        &mut self,
        method: &Method,
        framing: Framing,
    ) -> Result<Upstream, Refusal> {
        let endpoint = self.endpoint()?;
        // What cannot be sent twice is worth a system call to see that it arrives once.
        let must_arrive = framing != Framing::None || !is_idempotent(method);
        let wire = self.wire(&endpoint);
        while let Some(mut upstream) = self.in_flight.context().pool.take(&endpoint, &wire) {
            if !must_arrive || upstream.is_alive_now() {
                self.note(&upstream);
                return Ok(upstream);
            }
        }
        self.new_connection().await
    }

    /// Gives a request to a connection.
    pub(crate) fn begin(&self, upstream: &mut Upstream, head: &RequestHead<'_>, body: RequestBody) {
        let context = self.in_flight.context();
        let record = self.in_flight.record.borrow();
        let origin = &self.in_flight.connection.origin;
        let source = (origin, &context.settings().rules, &record.id);
        upstream.begin(head, body, self.attempts.route().plan.max_body, source);
    }

    /// Waits for the head of the response and its fields, by whatever connection gets them.
    pub(crate) async fn response(
        &mut self,
        mut upstream: Upstream,
    ) -> Result<(Upstream, Head, HeaderMap), Refusal> {
        loop {
            let since = self.attempts.is_counted().then(Instant::now);
            let head = self.head(&mut upstream).await;
            self.note_outcome(&upstream.endpoint, &head, since);
            let again = match head {
                Ok((head, fields)) => match self.answer_to_retry(&mut upstream, head.status) {
                    None => {
                        self.in_flight.count(self.attempts.take_counted());
                        return Ok((upstream, head, fields));
                    }
                    again => again,
                },
                Err(failure) => {
                    let (endpoint, is_whole) = (upstream.endpoint.clone(), upstream.is_whole());
                    self.with_draw(|all, draw| {
                        all.not_answered(&endpoint, (failure, is_whole), draw)
                    })?;
                    upstream.take_back()
                }
            };
            let unanswered = again.ok_or_else(|| self.attempts.given_up())?;
            drop(upstream);
            upstream = self.new_connection().await?;
            self.in_flight.context().shard().upstream_resends.add(1);
            if !upstream.begin_again(unanswered) {
                return Err(Refusal::Unanswered);
            }
        }
    }

    /// The request, to be sent to another endpoint if the Ingress says so for this status.
    fn answer_to_retry(
        &mut self,
        upstream: &mut Upstream,
        status: StatusCode,
    ) -> Option<Unanswered> {
        self.attempts.route().plan.retry.filter(|_| upstream.is_whole())?;
        let endpoint = upstream.endpoint.clone();
        let is_retried = |all: &mut Attempts, draw: &Draw<'_>| {
            all.is_answer_retried(&endpoint, status.as_u16(), draw)
        };
        if self.with_draw(is_retried) { upstream.take_back() } else { None }
    }

    /// Sends the request and waits for the head of its response, over one connection.
    async fn head(&self, upstream: &mut Upstream) -> Result<(Head, HeaderMap), SendFailure> {
        let deadlines = &self.in_flight.context().deadlines;
        let per_try = self.attempts.route().plan.retry.and_then(|retry| retry.per_try);
        let until = per_try.map(|time| Ticks::from(time).after(deadlines.now()));
        let made_progress = |upstream: &Upstream| {
            self.in_flight.made_progress(upstream);
            if upstream.holds_body() {
                self.in_flight.arm(CONTINUE_PATIENCE.into());
            }
            if let Some(until) = until {
                self.in_flight.arm_at_most(upstream, Ticks::until(until, deadlines.now()));
            }
        };
        made_progress(upstream);
        let connection = &self.in_flight.connection;
        let outcome = poll_fn(|cx| {
            if connection.is_passing_on() {
                return if self.in_flight.poll_timed_out(cx) {
                    Poll::Ready(None)
                } else {
                    Poll::Pending
                };
            }
            let before = upstream.progress();
            // A map is needed only while a head is read into it.
            let mut fields = self.in_flight.context().take_fields();
            if let Poll::Ready(head) = upstream.poll_head(cx, &mut fields) {
                return Poll::Ready(Some(head.map(|head| (head, fields))));
            }
            self.in_flight.context().keep_fields(fields);
            if let Some(interim) = upstream.take_interim() {
                self.pass_on(interim, cx.waker());
            }
            if upstream.progress() != before {
                made_progress(upstream);
            }
            match self.in_flight.poll_timed_out(cx) {
                true if upstream.holds_body() => {
                    upstream.send_body();
                    made_progress(upstream);
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        });
        match outcome.await {
            Some(Ok(head)) => Ok(head),
            Some(Err(failure)) => {
                let endpoint = upstream.endpoint.address;
                tracing::debug!(%endpoint, error = %failure, "no response");
                Err(send_failure(&failure, upstream))
            }
            None if upstream.waits_for_client() => Err(SendFailure::ClientTimeout),
            None => {
                connection.forget_interim();
                upstream.timed_out();
                Err(SendFailure::EndpointTimeout)
            }
        }
    }

    /// Gives an interim response to the client, if it takes any; the rest of the response is read
    /// after that.
    fn pass_on(&self, interim: InterimHead, waker: &Waker) {
        let connection = &self.in_flight.connection;
        match self.in_flight.stream() {
            None if connection.takes_interim() => {
                return connection.pass_on(interim.to_http1(), waker);
            }
            None => {}
            Some(stream) => stream.responder.send_interim(interim),
        }
        waker.wake_by_ref();
    }

    /// What is spoken to an endpoint of the route.
    fn wire(&self, endpoint: &Endpoint) -> Wire {
        let plan = &self.attempts.route().plan;
        let protocol = plan.protocol.unwrap_or(endpoint.protocol);
        let over_tls = self.in_flight.connection.origin.https;
        let asking = Asking { over_tls, authority: self.authority };
        Wire::new(protocol, plan.endpoint_tls.as_ref(), asking)
    }

    /// A new connection, to the first endpoint in turn that takes one.
    async fn new_connection(&mut self) -> Result<Upstream, Refusal> {
        // The state of connecting is large and seldom needed.
        Box::pin(self.connect()).await
    }

    async fn connect(&mut self) -> Result<Upstream, Refusal> {
        let in_flight = self.in_flight;
        let context = in_flight.context();
        let shard = context.shard();
        loop {
            let endpoint = self.endpoint()?;
            let patience = self.attempts.patience();
            in_flight.arm(patience);
            let wire = self.wire(&endpoint);
            let mut connecting = std::pin::pin!(context.pool.connect(endpoint.clone(), wire));
            let connected = poll_fn(|cx| match connecting.as_mut().poll(cx) {
                Poll::Ready(connected) => Poll::Ready(Some(connected)),
                Poll::Pending if in_flight.poll_timed_out(cx) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            })
            .await;
            shard.upstream_connects.add(1);
            let failure = match connected {
                Some(Ok(upstream)) => {
                    endpoint.connected();
                    self.note(&upstream);
                    return Ok(upstream);
                }
                Some(Err(error)) => {
                    tracing::debug!(endpoint = %endpoint.address, %error, "cannot connect");
                    if let Some(failure) = rest_after(&error) {
                        endpoint.failed(failure, context.deadlines.now_ms());
                    }
                    match error.kind() {
                        io::ErrorKind::InvalidData => ConnectFailure::BadProtocol,
                        _ => ConnectFailure::Refused,
                    }
                }
                None => {
                    tracing::debug!(endpoint = %endpoint.address, "no connection in time");
                    endpoint.failed(balance::Failure::TimedOut, context.deadlines.now_ms());
                    ConnectFailure::TimedOut(patience)
                }
            };
            shard.upstream_connect_failures.add(1);
            let mut record = in_flight.record.borrow_mut();
            record.tries += 1;
            record.endpoint = Some(endpoint.clone());
            drop(record);
            self.attempts.not_connected(endpoint, failure, context.deadlines.now_ms())?;
        }
    }

    /// Notes whether the endpoint served the request: one that fails too often is ejected.
    fn note_outcome(
        &self,
        endpoint: &Endpoint,
        outcome: &Result<(Head, HeaderMap), SendFailure>,
        since: Option<Instant>,
    ) {
        let context = self.in_flight.context();
        if let Some(since) = since
            && matches!(outcome, Ok(_) | Err(SendFailure::EndpointTimeout))
        {
            endpoint.measured(since.elapsed(), context.deadlines.now_ms());
        }
        let now_ms = || context.deadlines.now_ms();
        let is_ejected = match outcome {
            Ok((head, _)) => endpoint.answered(head.status, now_ms),
            Err(failure) => failure.is_of_endpoint() && endpoint.did_not_answer(now_ms()),
        };
        if is_ejected {
            tracing::debug!(endpoint = %endpoint.address, "ejected for failing requests");
            context.shard().upstream_ejections.add(1);
        }
    }

    /// Notes the connection that the request is sent over.
    fn note(&self, upstream: &Upstream) {
        let mut record = self.in_flight.record.borrow_mut();
        record.tries += 1;
        record.endpoint = Some(upstream.endpoint.clone());
    }
}

/// Whether a route lets in only whom it has asked, when a request comes to it that another one has
/// let in.
fn asks_anew(before: Option<&Arc<Special>>, route: &Route) -> bool {
    let Some(special) = &route.plan.special else { return false };
    let is_same = before.is_some_and(|before| Arc::ptr_eq(before, special));
    !is_same && special.restricts()
}

/// How an endpoint that cannot be connected to failed; `None` if the error is this machine's.
fn rest_after(error: &io::Error) -> Option<balance::Failure> {
    match error.kind() {
        // That a host is unreachable is known after seconds without an answer.
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable => {
            Some(balance::Failure::TimedOut)
        }
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::PermissionDenied => Some(balance::Failure::Refused),
        _ => None,
    }
}

fn send_failure(failure: &Failure, upstream: &Upstream) -> SendFailure {
    match failure {
        Failure::Unanswered(_) => {
            let is_stale = upstream.reused && !upstream.was_reset();
            let reused = is_stale || upstream.is_refused();
            SendFailure::Unanswered { reused, begun: upstream.is_begun() }
        }
        Failure::TooLarge => SendFailure::BodyTooLarge,
        Failure::Downstream(_) => SendFailure::BrokenByClient,
        Failure::Broken(_) | Failure::Bad(_) => SendFailure::BadResponse,
    }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}
