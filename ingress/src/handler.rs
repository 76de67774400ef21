//! From a request to its response: checked, decided, exchanged, and its record closed.

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use crate::admission::admit;
use crate::body::RequestBody;
use crate::context::WorkerContext;
use crate::error_page;
use crate::exchange::{Decided, Exchange};
use crate::grpc;
use crate::head::{Framing, RequestHead, Survey, upgrade_of};
use crate::in_flight::InFlight;
use crate::mirror::mirrored;
use crate::record::EndedBy;
use crate::refusal::{Refusal, Refused};
use crate::request::check::{Checked, check};
use crate::request::clients::reserved_fields;
use crate::request::decide::{Decision, Facts, Forwarding, decide, forwarding};
use crate::response::ResponseBody;
use crate::route::host_of;
use crate::settings::SKIP_PATIENCE;
use crate::snapshot::{
    CookieFacts, Draw, Endpoint, Endpoints, ResponseEdits, Route, Unserved, user_agent,
};
use crate::template::AddsText;
use crate::upstream::{Head, Upstream};
use crate::websocket::Handshake;

/// Answers one request.
///
/// What it is made of is moved into the future once, and borrowed from there: an async function
/// that took it by value would hold it twice, for as long as the request is in flight.
pub(crate) fn handle(
    in_flight: InFlight,
    request: Request<RequestBody>,
) -> impl Future<Output = Response<ResponseBody>> {
    let (mut parts, body) = request.into_parts();
    async move {
        in_flight.note(&mut parts);
        let random = || in_flight.context().random();
        let handshake = match parts.method {
            Method::CONNECT => Handshake::begin(&mut parts, random),
            _ => None,
        };
        let is_http2 = parts.version == Version::HTTP_2;
        in_flight.connection.set_takes_interim(parts.version == Version::HTTP_11);
        let is_grpc = grpc::is_call(&parts.method, &parts.headers);
        let mut errors = None;
        let handshake = handshake.as_deref();
        let mut response = match answer(&in_flight, &mut parts, body, handshake).await {
            Ok(response) => response,
            Err(refused) => {
                let status = refused.refusal.status();
                errors = if is_grpc { None } else { error_page::replacing(&in_flight, status) };
                own_answer(&in_flight, refused, is_grpc, is_http2)
            }
        };
        if let Some(errors) = errors {
            // Seldom needed, and large.
            Box::pin(replace(&in_flight, &parts, &mut response, &errors.route)).await;
        }
        if let Some((cookies, always)) = in_flight.take_cookies()
            && (always || takes_cookies(response.status()))
        {
            let cookies = cookies.into_iter().map(|cookie| (header::SET_COOKIE, cookie));
            cookies.for_each(|(name, value)| {
                response.headers_mut().append(name, value);
            });
        }
        if let Some(edits) = in_flight.take_edits() {
            edits.apply(response.headers_mut());
        }
        let status = response.status();
        in_flight.record.borrow_mut().answered(status.as_u16());
        let is_last = in_flight.connection.is_ending() && !is_http2;
        if is_last && status != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response.body_mut().hold(in_flight);
        response
    }
}

/// The connection of an answer that is passed on, and not replaced.
fn passed(
    in_flight: &InFlight,
    route: &Route,
    handshake: Option<&Handshake>,
    (upstream, status, fields): (Upstream, StatusCode, &HeaderMap),
) -> Result<Upstream, Refusal> {
    if handshake.is_some_and(|handshake| !handshake.admits(status, fields)) {
        return Err(Refusal::BadResponse);
    }
    match &route.errors {
        Some(errors) if !errors.passes_on && errors.replaces(status) => {
            tokio::task::spawn_local(skip(in_flight.context().clone(), upstream));
            Err(Refusal::Replaced(status))
        }
        _ => Ok(upstream),
    }
}

/// Reads the rest of an answer that the client does not get, so that its connection can be used
/// again.
async fn skip(context: Rc<WorkerContext>, mut upstream: Upstream) {
    let skipped = tokio::time::timeout(SKIP_PATIENCE, upstream.skip_rest()).await;
    if matches!(skipped, Ok(Ok(()))) {
        context.pool.put(upstream, context.deadlines.now());
    }
}

/// An answer of our own.
fn own_answer(
    in_flight: &InFlight,
    refused: Refused,
    is_grpc: bool,
    is_http2: bool,
) -> Response<ResponseBody> {
    let mut record = in_flight.record.borrow_mut();
    record.ended_by = EndedBy::Refusal(refused.refusal.reason());
    let message = is_grpc.then(|| refused.refusal.explanation());
    let mut response = refused.into_response(record.request_id(), is_http2);
    if let Some(message) = message {
        grpc::shape(&mut response, &message);
    }
    response
}

/// Replaces an error by the page for it, unless that cannot be had.
async fn replace(
    in_flight: &InFlight,
    parts: &Parts,
    response: &mut Response<ResponseBody>,
    errors: &Arc<Route>,
) {
    let page = error_page::fetch(in_flight, parts, response.status(), errors).await;
    let Ok((upstream, head, fields)) = page else { return };
    let close = response.headers_mut().remove(header::CONNECTION);
    *response = respond(in_flight, upstream, head, fields);
    response.headers_mut().extend(close.map(|close| (header::CONNECTION, close)));
}

async fn answer(
    in_flight: &InFlight,
    parts: &mut Parts,
    body: RequestBody,
    handshake: Option<&Handshake>,
) -> Result<Response<ResponseBody>, Refused> {
    let &mut Parts { ref method, ref uri, version, ref mut headers, .. } = parts;
    let settings = in_flight.context().settings();
    let origin = &in_flight.connection.origin;
    let Checked { survey, framing, authority, path } =
        check(method, uri, version, headers, &body, settings.max_header_bytes)?;
    let is_complete = framing == Framing::None && survey.asks_to_close(version, headers);
    in_flight.connection.set_complete(is_complete);
    let authority = authority.as_str();
    let is_https = origin.is_https(headers, &settings.rules.trusted_proxies);
    let push_id = |text: &mut String| in_flight.push_id(text);
    let facts = Facts {
        method,
        version,
        authority,
        uri,
        path: &path,
        headers,
        is_https,
        server_name: in_flight.connection.server_name.as_deref(),
        certificate: in_flight.connection.certificate.as_deref(),
        framing,
        origin,
        rules: &settings.rules,
        request_id: AddsText(&push_id),
        is_imagined: false,
        turn: |split| split.pick() == Some(1),
    };
    let with_url = |refusal: Refusal| refusal.of(is_https, authority, &path);

    let is_new = Cell::new(true);
    let decide = || decided(in_flight, &facts, is_new.get());
    let begin = || Exchange::new(in_flight, &decide, method, authority);
    let mut exchange = begun(in_flight, &is_new, begin).await.map_err(with_url)?;
    let mut forwarding = changes(exchange.route(), &facts);
    let admitted = let_in(in_flight, exchange.route(), &facts, forwarding.as_deref_mut());
    admitted.await.map_err(with_url)?;
    let mut upstream = exchange.connection(method, framing).await.map_err(with_url)?;
    in_flight.record.borrow_mut().connected();
    let head = RequestHead {
        method: method.as_str(),
        path: forwarding.as_ref().and_then(|f| f.path.as_deref()).unwrap_or(&path),
        query: uri.query(),
        authority,
        headers,
        survey,
        framing,
        upgrade: asked_upgrade(&facts, &survey, handshake.is_some()),
        is_http2: version == Version::HTTP_2,
        edits: forwarding.as_ref().map(|forwarding| &forwarding.edits),
    };
    let is_upgrade = head.upgrade.is_some();
    let body = if is_upgrade { body } else { copied(in_flight, &facts, exchange.route(), body) };
    exchange.begin(&mut upstream, &head, body);
    let (upstream, head, mut fields) = exchange.response(upstream).await.map_err(with_url)?;
    let answer = (upstream, head.status, &fields);
    let upstream = passed(in_flight, exchange.route(), handshake, answer).map_err(with_url)?;
    if !exchange.is_own(&upstream.endpoint) {
        keep_endpoint(in_flight, &facts, exchange.route(), &upstream, &mut fields);
    }
    drop(exchange);
    // It serves for the fields of a later response: it is large enough already.
    in_flight.context().keep_fields(std::mem::take(headers));
    Ok(respond(in_flight, upstream, head, fields))
}

/// The protocol that a request asks to change to, if it may.
fn asked_upgrade<'h>(
    facts: &Facts<'h>,
    survey: &Survey<'_>,
    is_tunnel: bool,
) -> Option<&'h HeaderValue> {
    let may = facts.framing == Framing::None
        && survey.may_upgrade()
        && (facts.version == Version::HTTP_11 || is_tunnel);
    if may { upgrade_of(facts.headers) } else { None }
}

/// Lets a request in if its route asks for anything first, with what that changes of it.
async fn let_in(
    in_flight: &InFlight,
    route: &Route,
    facts: &Facts<'_>,
    forwarding: Option<&mut Forwarding>,
) -> Result<(), Refusal> {
    let Some(special) = route.plan.special.as_ref().filter(|s| s.is_asked()) else { return Ok(()) };
    let permission = Box::pin(admit(in_flight, special, route, facts)).await?;
    if let (Some(permission), Some(forwarding)) = (permission, forwarding) {
        permission.apply(&mut forwarding.edits);
    }
    Ok(())
}

/// Whether a response gets the cookies of an authentication server unasked, as with ingress-nginx.
fn takes_cookies(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308)
}

/// The request's body, of which another server gets a copy if the route has a mirror.
fn copied(
    in_flight: &InFlight,
    facts: &Facts<'_>,
    route: &Route,
    body: RequestBody,
) -> RequestBody {
    let Some(mirroring) = route.plan.special.as_deref().and_then(|s| s.mirror.as_deref()) else {
        return body;
    };
    let host = host_of(facts.authority).unwrap_or_default();
    let port = route.backend.key.port_text();
    let values = facts.values(route, &host, &port, &[]);
    let url = mirroring.mirror.target.render(&values);
    let mut headers = Cow::Borrowed(facts.headers);
    if route.plan.special.as_ref().is_some_and(|special| special.client.is_some()) {
        let headers = headers.to_mut();
        reserved_fields().iter().for_each(|name| drop(headers.remove(name)));
    }
    mirrored(in_flight.context(), mirroring, (facts.method, &url), &headers, body)
}

/// Begins an exchange, if need be after a wait.
async fn begun<T>(
    in_flight: &InFlight,
    is_new: &Cell<bool>,
    begin: impl Fn() -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let begun = match begin() {
        // Seldom needed.
        Err(Refusal::Busy) => Box::pin(wait(in_flight, is_new, &begin)).await,
        begun => begun,
    };
    is_new.set(false);
    begun
}

/// Begins an exchange as soon as one of the busy endpoints of a request's route has room, if
/// requests may wait for that.
async fn wait<T>(
    in_flight: &InFlight,
    is_new: &Cell<bool>,
    begin: impl Fn() -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let route = in_flight.record.borrow().route.clone().ok_or(Refusal::Busy)?;
    let permit = route.backend.endpoints().wait().ok_or(Refusal::Busy)?;
    is_new.set(false);
    let until = tokio::time::Instant::now() + route.plan.connect_timeout.duration();
    let mut is_turn = permit.is_first;
    loop {
        let turn = permit.turn();
        match if is_turn { begin() } else { Err(Refusal::Busy) } {
            Err(Refusal::Busy) => {}
            begun => return begun,
        }
        tokio::time::timeout_at(until, turn).await.map_err(|_| Refusal::Busy)?;
        is_turn = true;
    }
}

/// The route that forwards a request, and an endpoint. One that is new does not overtake those that
/// wait.
fn decided(in_flight: &InFlight, facts: &Facts<'_>, is_new: bool) -> Result<Decided, Refusal> {
    let context = in_flight.context();
    let mut snapshot = context.snapshot();
    loop {
        let (refusal, route) = match decide(&snapshot, facts) {
            Decision::Forward { route, endpoints } => {
                if is_new && endpoints.has_waiting() {
                    note_route(in_flight, Some(route), facts);
                    return Err(Refusal::Busy);
                }
                let key = key_of(facts, (route, &endpoints));
                let random = || context.random();
                let now_ms = context.deadlines.now_ms();
                let own = own_endpoint(route, &endpoints, facts, now_ms);
                let draw = Draw { now_ms, random: &random, key, only: own.as_ref() };
                match endpoints.pick(|_| true, &draw) {
                    Some(pick) => {
                        note_route(in_flight, Some(route), facts);
                        return Ok(Decided { route: route.clone(), pick, key, own });
                    }
                    None if endpoints.is_limited() => (Refusal::Busy, Some(route.clone())),
                    None => (Refusal::NoEndpoint(Unserved::NoEndpoints), Some(route.clone())),
                }
            }
            Decision::Answer { refusal, route } => (refusal, route.cloned()),
        };
        // Endpoints that only routes of an older snapshot lead to are taken away once a newer one
        // is published. So where they are gone, the newest snapshot decides.
        let newest = context.snapshot();
        if matches!(refusal, Refusal::NoEndpoint(_)) && !Arc::ptr_eq(&snapshot, &newest) {
            snapshot = newest;
            continue;
        }
        note_route(in_flight, route.as_ref(), facts);
        return Err(refusal);
    }
}

/// What the route changes of the request.
fn changes(route: &Route, facts: &Facts<'_>) -> Option<Box<Forwarding>> {
    let special = route.plan.special.as_deref()?;
    Some(Box::new(forwarding(special, route, facts)))
}

/// Notes the route that a request has come to, and what that changes of the response.
fn note_route(in_flight: &InFlight, route: Option<&Arc<Route>>, facts: &Facts<'_>) {
    in_flight.record.borrow_mut().route = route.cloned();
    if let Some(special) = route.and_then(|route| route.plan.special.as_ref()) {
        let rules = special.response.as_ref();
        in_flight.set_edits(rules.map(|rules| ResponseEdits::new(rules, facts.headers)));
    }
}

/// The endpoint that the client's cookie leads to, unless it has failed and another one is to take
/// its place.
fn own_endpoint(
    route: &Route,
    endpoints: &Endpoints,
    facts: &Facts<'_>,
    now_ms: u64,
) -> Option<Arc<Endpoint>> {
    let affinity = route.affinity()?;
    let own = affinity.endpoint(facts.headers, &route.backend.key, endpoints)?;
    (!affinity.changes_on_failure || !own.is_resting(now_ms)).then_some(own)
}

/// Gives a client the endpoint that has answered it by a cookie, if the route asks for that.
fn keep_endpoint(
    in_flight: &InFlight,
    facts: &Facts<'_>,
    route: &Route,
    upstream: &Upstream,
    fields: &mut HeaderMap,
) {
    let Some(affinity) = route.affinity() else { return };
    let cookie_facts = CookieFacts {
        path: route.path.as_ref().map_or("/", |(_, path)| path),
        is_https: facts.is_https,
        user_agent: user_agent(facts.headers),
        now: SystemTime::now(),
    };
    let endpoints = route.backend.endpoints();
    let random = || in_flight.context().random();
    let backend = (&route.backend.key, &**endpoints);
    let cookie = affinity.set_cookie(backend, &upstream.endpoint, &cookie_facts, random);
    if let Some(cookie) = cookie {
        fields.append(header::SET_COOKIE, cookie);
    }
}

/// The hash of what a request is known by, where endpoints are picked by that.
fn key_of(facts: &Facts<'_>, (route, endpoints): (&Route, &Endpoints)) -> Option<u64> {
    let hash_by = endpoints.balancing()?.hash_by.as_ref()?;
    let host = host_of(facts.authority).unwrap_or_default();
    let port = route.backend.key.port_text();
    let values = facts.values(route, &host, &port, &[]);
    Some(balance::hash_of(hash_by.render(&values)))
}

fn respond(
    in_flight: &InFlight,
    upstream: Upstream,
    head: Head,
    headers: HeaderMap,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    if let Some(reason) = head.reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
        response.extensions_mut().insert(reason);
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS && in_flight.connection.is_http2 {
        // The stream changes, and not the connection.
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
        in_flight.ended_by(EndedBy::Completion);
        *response.body_mut() = ResponseBody::tunnel(upstream);
    } else if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.extend(head.upgrade.map(|protocol| (header::UPGRADE, protocol)));
        in_flight.ended_by(EndedBy::Completion);
        in_flight.hold_for_tunnel();
        in_flight.connection.tunnel_to(upstream);
    } else {
        // A client may send the body that it was not asked for, or its next request: which of them
        // comes next would not be certain.
        if upstream.refuses_body() && !in_flight.connection.is_http2 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        *response.body_mut() = ResponseBody::of(upstream);
        let record = in_flight.record.borrow();
        let special = record.route.as_ref().and_then(|route| route.plan.special.as_ref());
        if let Some((rate, after)) = special.and_then(|special| special.pace) {
            response.body_mut().pace(rate, after);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_output<A, B, F>(_: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// It was 2,624 bytes, which each HTTP/2 stream held for as long as its client took nothing.
    #[test]
    fn a_request_in_flight_is_small() {
        let size = size_of_output(handle);
        assert!(size <= 2000, "{size} bytes");
    }
}
