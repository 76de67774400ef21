//! From a request to its response: checks, route, endpoint, and what to do when one fails.

use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::body::Body;
use crate::connection::{Connection, InFlight};
use crate::deadline::Ticks;
use crate::forward::{Framing, Occurs, RequestHead, Survey, upgrade_of, write_request};
use crate::refusal::{Refusal, Refused};
use crate::route::{host_of, normalise, port_of};
use crate::settings::{CONNECT_PATIENCE, MAX_CONNECT_TIMEOUTS, MAX_CONNECT_TRIES, MAX_RESENDS};
use crate::snapshot::{Endpoint, Route};
use crate::upstream::codec::{Asked, Head};
use crate::upstream::{Failure, Outgoing, Upstream, framing};

/// Answers one request.
pub(crate) async fn handle(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let is_http2 = connection.is_http2;
    let in_flight = InFlight::begin(connection);
    let mut routed = None;
    let mut response = match answer(&in_flight, request, &mut routed).await {
        Ok(response) => response,
        Err(refused) => {
            let refusal = &refused.refusal;
            tracing::debug!(status = refusal.status().as_u16(), ?refusal, "refused");
            refused.into_response(is_http2)
        }
    };
    let status = response.status().as_u16();
    match routed {
        Some(route) => route.backend.answers.count(status),
        None => in_flight.connection.worker.shard().unrouted.count(status),
    }
    if in_flight.connection.is_ending() && !is_http2 && status != 101 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.body_mut().hold(in_flight);
    Ok(response)
}

async fn answer(
    in_flight: &InFlight,
    request: Request<Incoming>,
    routed: &mut Option<Arc<Route>>,
) -> Result<Response<Body>, Refused> {
    let (mut parts, body) = request.into_parts();
    let survey = Survey::of(&parts.headers);
    let framing = check_form(&parts, &survey, &body)?;
    let authority = authority_of(&parts, &survey)?;
    let path = normalise(parts.uri.path()).map_err(|_| Refusal::Malformed("bad path"))?;
    let told = |refusal: Refusal| {
        refusal.of(in_flight.connection.origin.is_https(&parts.headers), authority, &path)
    };
    let route = find_route(&in_flight.connection, &parts, authority, &path).map_err(told)?;
    let route = routed.insert(route).clone();
    let limit = check_body(&in_flight.connection, &route, framing)?;
    in_flight.apply(&route.policy);

    let mut exchange = Exchange::begin(in_flight, &route).map_err(told)?;
    let mut upstream = exchange.first_connection(&parts.method, framing).await.map_err(told)?;
    let asked = {
        let is_plain = parts.version == Version::HTTP_11 && framing == Framing::None;
        let may_upgrade = is_plain && survey.may_upgrade();
        let upgrade = if may_upgrade { upgrade_of(&parts.headers) } else { None };
        let head = RequestHead {
            method: parts.method.as_str(),
            path: &path,
            query: parts.uri.query(),
            authority,
            headers: &parts.headers,
            survey,
            framing,
            upgrade,
        };
        let worker = &in_flight.connection.worker;
        let id = worker.request_id();
        let rules = &worker.settings().rules;
        let out = upstream.outgoing.head();
        write_request(out, &head, &in_flight.connection.origin, rules, &id);
        Asked::new(&parts.method, upgrade.is_some())
    };
    upstream.outgoing.set_body(body, framing, limit);
    // The request's map serves for the response's fields: it is large enough already.
    let mut headers = std::mem::take(&mut parts.headers);
    headers.clear();
    let is_idempotent = is_idempotent(&parts.method);
    loop {
        match exchange.response(&mut upstream, asked, &mut headers).await {
            Ok(head) => return Ok(respond(in_flight, upstream, head, headers)),
            Err(failure) => {
                let unsent = exchange.after(failure, &mut upstream, is_idempotent)?;
                drop(upstream);
                headers.clear();
                upstream = exchange.new_connection().await?;
                upstream.outgoing = unsent;
            }
        }
    }
}

/// Checks what must hold before anything of a request is believed, and how its body is framed.
fn check_form(parts: &Parts, survey: &Survey<'_>, body: &Incoming) -> Result<Framing, Refusal> {
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Refusal::Method);
    }
    match survey.transfer_encoding {
        Occurs::Never => {}
        Occurs::Once(coding) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            if !matches!(survey.content_length, Occurs::Never) {
                return Err(Refusal::Malformed("both Transfer-Encoding and Content-Length"));
            }
        }
        _ => return Err(Refusal::Malformed("a transfer coding other than chunked")),
    }
    let framed = framing(&parts.method, survey.content_length, body);
    framed.ok_or(Refusal::Malformed("bad Content-Length"))
}

/// The authority that a request is for, as its client wrote it.
fn authority_of<'a>(parts: &'a Parts, survey: &Survey<'a>) -> Result<&'a str, Refusal> {
    let host = match survey.host {
        Occurs::Never => None,
        Occurs::Once(host) => Some(host.to_str().map_err(|_| Refusal::Malformed("bad Host"))?),
        Occurs::Again => return Err(Refusal::Malformed("more than one Host")),
    };
    let named = parts.uri.authority().map(http::uri::Authority::as_str);
    match (named, host) {
        (None, Some(host)) => Ok(host),
        (Some(named), None) if parts.version == Version::HTTP_2 => Ok(named),
        (Some(named), Some(host)) => {
            // Over HTTP/2 both mean the same; the target of an HTTP/1.1 request overrides Host
            // (RFC 9112 section 3.2.2).
            let agree = named.eq_ignore_ascii_case(host);
            if parts.version == Version::HTTP_2 && !agree {
                return Err(Refusal::Malformed("Host is not :authority"));
            }
            Ok(named)
        }
        (_, None) => Err(Refusal::Malformed("no Host")),
    }
}

fn find_route(
    connection: &Connection,
    parts: &Parts,
    authority: &str,
    path: &str,
) -> Result<Arc<Route>, Refusal> {
    let host = host_of(authority).map_err(|_| Refusal::Malformed("bad Host"))?;
    let snapshot = connection.worker.snapshot();
    let Some(route) = snapshot.route(&host, path) else {
        if !snapshot.synced {
            return Err(Refusal::Unserved("not ready: the feed has not been listed yet"));
        }
        let known = snapshot.knows_host(&host);
        return Err(Refusal::NoRoute { host: known.then(|| host.into_owned()) });
    };
    if connection.server_name.as_ref().is_some_and(|name| snapshot.is_misdirected(name, &host)) {
        return Err(Refusal::Misdirected);
    }
    if route.redirect && !connection.origin.is_https(&parts.headers) {
        let https_port = connection.worker.settings().https_port;
        return Err(redirect(&host, authority, https_port, path, parts.uri.query()));
    }
    if route.policy.refused.is_some() {
        return Err(Refusal::Unserved("an annotation of this route is not supported"));
    }
    Ok(route.clone())
}

/// To the same place over HTTPS: at our own port for a client that named a port, for it reached
/// us directly; at HTTPS's own for one that did not, whatever maps that to us.
fn redirect(
    host: &str,
    authority: &str,
    https_port: u16,
    path: &str,
    query: Option<&str>,
) -> Refusal {
    let port = match port_of(authority) {
        Some(_) if https_port != 443 => format!(":{https_port}"),
        _ => String::new(),
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let location = format!("https://{host}{port}{path}{query}");
    match HeaderValue::try_from(location) {
        Ok(location) => Refusal::Redirect(location),
        Err(_) => Refusal::Malformed("bad path"),
    }
}

/// The bytes that the request's body may have.
fn check_body(connection: &Connection, route: &Route, framing: Framing) -> Result<u64, Refusal> {
    let own = connection.worker.settings().max_body_bytes;
    let limit = route.policy.max_body.unwrap_or(own).unwrap_or(u64::MAX);
    match framing {
        Framing::Length(length) if length > limit => Err(Refusal::TooLarge),
        _ => Ok(limit),
    }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

fn nothing_serves() -> Refusal {
    Refusal::Unserved("nothing serves this path at the moment")
}

/// The search for an endpoint that answers.
struct Exchange<'a> {
    in_flight: &'a InFlight,
    route: &'a Route,
    /// The endpoint whose turn it is.
    picked: Arc<Endpoint>,
    /// Those that have failed. Not their number: meanwhile some may have left and others come.
    tried: Vec<Arc<Endpoint>>,
    connect_timeouts: usize,
    resends: usize,
}

impl<'a> Exchange<'a> {
    fn begin(in_flight: &'a InFlight, route: &'a Route) -> Result<Exchange<'a>, Refusal> {
        let now_ms = || in_flight.connection.worker.deadlines.now_ms();
        let picked = route.backend.endpoints().pick(|_| true, now_ms).ok_or_else(nothing_serves)?;
        let (tried, connect_timeouts, resends) = (Vec::new(), 0, 0);
        Ok(Exchange { in_flight, route, picked, tried, connect_timeouts, resends })
    }

    /// The clock of rests.
    fn now_ms(&self) -> u64 {
        self.in_flight.connection.worker.deadlines.now_ms()
    }

    /// A connection to the endpoint whose turn it is, kept or new.
    async fn first_connection(
        &mut self,
        method: &Method,
        framing: Framing,
    ) -> Result<Box<Upstream>, Refusal> {
        let (endpoint, _) = self.endpoint()?;
        let pool = &self.in_flight.connection.worker.pool;
        // What cannot be sent twice is worth a system call to see that it arrives once.
        let must_arrive = framing != Framing::None || !is_idempotent(method);
        while let Some(upstream) = pool.take(&endpoint) {
            if !must_arrive || upstream.is_alive_now() {
                return Ok(upstream);
            }
        }
        self.new_connection().await
    }

    /// A new connection, to the first endpoint in the rotation that takes one.
    async fn new_connection(&mut self) -> Result<Box<Upstream>, Refusal> {
        // The state of connecting is large and seldom needed.
        Box::pin(self.connect()).await
    }

    async fn connect(&mut self) -> Result<Box<Upstream>, Refusal> {
        let shard = self.in_flight.connection.worker.shard();
        let own_timeout = self.in_flight.connection.worker.settings().connect_timeout;
        let timeout = self.route.policy.connect_timeout.map_or(own_timeout, Ticks::from);
        loop {
            let (endpoint, is_last) = self.endpoint()?;
            let patience = if is_last { timeout } else { timeout.min(CONNECT_PATIENCE.into()) };
            self.in_flight.arm(patience);
            let mut connecting = std::pin::pin!(Upstream::connect(endpoint.clone()));
            let connected = poll_fn(|cx| match connecting.as_mut().poll(cx) {
                Poll::Ready(connected) => Poll::Ready(Some(connected)),
                Poll::Pending if self.in_flight.poll_timed_out(cx) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            })
            .await;
            shard.upstream_connects.add(1);
            endpoint.connected(matches!(connected, Some(Ok(_))), self.now_ms());
            let refusal = match connected {
                Some(Ok(upstream)) => return Ok(upstream),
                Some(Err(error)) => {
                    tracing::debug!(endpoint = %endpoint.address, %error, "cannot connect");
                    Refusal::Unreachable
                }
                None => {
                    tracing::debug!(endpoint = %endpoint.address, "no connection in time");
                    self.connect_timeouts += usize::from(patience == timeout);
                    Refusal::EndpointTimeout
                }
            };
            shard.upstream_connect_failures.add(1);
            self.tried.push(endpoint);
            let is_over = self.tried.len() >= MAX_CONNECT_TRIES
                || self.connect_timeouts >= MAX_CONNECT_TIMEOUTS;
            if is_over || !self.has_untried() {
                return Err(refusal);
            }
        }
    }

    /// The endpoint whose turn it is, or the next if that has failed or left meanwhile; and
    /// whether it is the last one that has not failed.
    fn endpoint(&mut self) -> Result<(Arc<Endpoint>, bool), Refusal> {
        let endpoints = self.route.backend.endpoints();
        if self.picked.is_gone() || self.was_tried(&self.picked) {
            let next = endpoints.pick(|e| !self.was_tried(e), || self.now_ms());
            self.picked = next.ok_or_else(nothing_serves)?;
        }
        let picked = &self.picked;
        let is_other = |e: &&Arc<Endpoint>| !Arc::ptr_eq(e, picked) && !self.was_tried(e);
        let is_last = !endpoints.list().iter().any(|endpoint| is_other(&endpoint));
        Ok((picked.clone(), is_last))
    }

    /// Whether there is an endpoint that has not failed.
    fn has_untried(&self) -> bool {
        self.route.backend.endpoints().list().iter().any(|endpoint| !self.was_tried(endpoint))
    }

    fn was_tried(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint))
    }

    /// Sends the request and waits for the head of its response.
    async fn response(
        &self,
        upstream: &mut Upstream,
        asked: Asked,
        headers: &mut HeaderMap,
    ) -> Result<Head, Failed> {
        upstream.begin(asked);
        self.in_flight.made_progress(upstream);
        poll_fn(|cx| {
            let before = upstream.progress();
            if let Poll::Ready(head) = upstream.poll_head(cx, headers) {
                return Poll::Ready(head.map_err(Failed::Failure));
            }
            if upstream.progress() != before {
                self.in_flight.made_progress(upstream);
            }
            if self.in_flight.poll_timed_out(cx) {
                return Poll::Ready(Err(Failed::Timeout));
            }
            Poll::Pending
        })
        .await
    }

    /// What to do after a failure: the request to be sent again, or what to answer.
    fn after(
        &mut self,
        failed: Failed,
        upstream: &mut Upstream,
        is_idempotent: bool,
    ) -> Result<Outgoing, Refusal> {
        let failure = match failed {
            Failed::Timeout if upstream.outgoing.waits_for_client() => {
                return Err(Refusal::ClientTimeout);
            }
            Failed::Timeout => return Err(Refusal::EndpointTimeout),
            Failed::Failure(failure) => failure,
        };
        tracing::debug!(endpoint = %upstream.endpoint.address, error = %failure, "no response");
        match failure {
            Failure::Unanswered(_) => {}
            Failure::TooLarge => return Err(Refusal::TooLarge),
            Failure::Downstream(_) => return Err(Refusal::Malformed("the body ended early")),
            Failure::Broken(_) | Failure::Bad(_) => return Err(Refusal::BadResponse),
        }
        let is_safe = is_idempotent || !upstream.outgoing.is_begun();
        // A kept connection may have been closed for no other reason than its age; a new one was
        // closed because of the request, or because its endpoint is going away.
        if !upstream.reused {
            self.tried.push(upstream.endpoint.clone());
        }
        let elsewhere = upstream.reused || self.has_untried();
        let may_resend = is_safe && elsewhere && self.resends < MAX_RESENDS;
        if !may_resend || !upstream.outgoing.rewind() {
            return Err(Refusal::Unanswered);
        }
        self.resends += 1;
        // The next in turn, if there is another.
        let suits = |endpoint: &Arc<Endpoint>| {
            !self.was_tried(endpoint) && !Arc::ptr_eq(endpoint, &self.picked)
        };
        if let Some(next) = self.route.backend.endpoints().pick(suits, || self.now_ms()) {
            self.picked = next;
        }
        self.in_flight.connection.worker.shard().upstream_resends.add(1);
        Ok(upstream.take_unsent())
    }
}

/// Why an exchange gave no response.
enum Failed {
    Timeout,
    Failure(Failure),
}

fn respond(
    in_flight: &InFlight,
    upstream: Box<Upstream>,
    head: Head,
    headers: HeaderMap,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    tracing::debug!(status = head.status.as_u16(), endpoint = %upstream.endpoint.address, "answer");
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.extend(head.upgrade.map(|protocol| (header::UPGRADE, protocol)));
        in_flight.connection.tunnel_to(upstream);
    } else if upstream.is_read() {
        in_flight.keep(upstream);
    } else {
        *response.body_mut() = Body::of(upstream);
    }
    response
}
