//! Errors that another Service's answer replaces (`custom-http-errors`).

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, Method, StatusCode, Version};

use crate::body::RequestBody;
use crate::exchange::{Decided, Exchange};
use crate::head::{Framing, HeadEdits, RequestHead};
use crate::in_flight::InFlight;
use crate::refusal::Refusal;
use crate::request::check::{Checked, check};
use crate::request::decide::{Facts, forwarding};
use crate::snapshot::{Draw, ErrorRoute, Route, Unserved, X_CODE};
use crate::template::AddsText;
use crate::upstream::{Head, Upstream};

/// The answer of the Service that serves in the place of errors with that status.
pub(crate) async fn fetch(
    in_flight: &InFlight,
    parts: &Parts,
    status: StatusCode,
    errors: &Arc<Route>,
) -> Result<(Upstream, Head, http::HeaderMap), Refusal> {
    let Parts { method, uri, version, headers, .. } = parts;
    let method = if *method == Method::HEAD { Method::HEAD } else { Method::GET };
    let settings = in_flight.context().settings();
    let origin = &in_flight.connection.origin;
    let body = RequestBody::Empty;
    let checked = check(&method, uri, *version, headers, &body, settings.max_header_bytes)?;
    let Checked { survey, authority, path, .. } = checked;
    let authority = authority.as_str();
    let push_id = |text: &mut String| in_flight.push_id(text);
    let facts = Facts {
        method: &method,
        version: *version,
        authority,
        path: &path,
        uri,
        headers,
        is_https: origin.is_https(headers, &settings.rules.trusted_proxies),
        server_name: None,
        certificate: in_flight.connection.certificate.as_deref(),
        framing: Framing::None,
        origin,
        rules: &settings.rules,
        request_id: AddsText(&push_id),
        is_imagined: false,
        turn: |_| false,
    };
    let mut edits = forwarded(errors, &facts);
    edits.added.retain(|(name, _)| *name != X_CODE);
    edits.replace(HeaderName::from_static(X_CODE), status.as_str());
    let mut exchange = Exchange::new(in_flight, || decided(in_flight, errors), &method, authority)?;
    let mut upstream = exchange.connection(&method, Framing::None).await?;
    let head = RequestHead {
        method: method.as_str(),
        path: "/",
        query: None,
        authority,
        headers,
        survey,
        framing: Framing::None,
        upgrade: None,
        is_http2: *version == Version::HTTP_2,
        edits: Some(&edits),
    };
    exchange.begin(&mut upstream, &head, body);
    exchange.response(upstream).await
}

/// What replaces the errors of the route that a request has come to, if it is about this status.
pub(crate) fn replacing(in_flight: &InFlight, status: StatusCode) -> Option<Arc<ErrorRoute>> {
    let record = in_flight.record.borrow();
    let route = record.route.as_ref()?;
    // What endpoints may be told was not understood: the request goes nowhere.
    if route.plan.refused.is_some() {
        return None;
    }
    let errors = route.errors.as_ref()?;
    errors.replaces(status).then(|| errors.clone())
}

fn forwarded(errors: &Route, facts: &Facts<'_>) -> HeadEdits {
    let special = errors.plan.special.as_deref();
    special.map(|s| forwarding(s, errors, facts).edits).unwrap_or_default()
}

fn decided(in_flight: &InFlight, errors: &Arc<Route>) -> Result<Decided, Refusal> {
    let context = in_flight.context();
    let random = || context.random();
    let draw = Draw { now_ms: context.deadlines.now_ms(), random: &random, key: None, only: None };
    let pick = errors.backend.endpoints().pick(|_| true, &draw);
    let pick = pick.ok_or(Refusal::NoEndpoint(Unserved::NoEndpoints))?;
    Ok(Decided { route: errors.clone(), pick, key: None, own: None })
}
