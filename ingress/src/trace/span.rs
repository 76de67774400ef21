//! Spans as OTLP has them in JSON (opentelemetry-proto, `trace.proto` and its JSON mapping), with
//! attributes by the semantic conventions for HTTP servers.
//!
//! Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::record::{EndedBy, Record};

use super::context::TraceContext;

/// `SPAN_KIND_SERVER`.
const KIND_SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// A request that has ended.
#[derive(Debug)]
pub(crate) struct Span(Value);

impl Span {
    pub(crate) fn of(
        context: &TraceContext,
        record: &Record,
        ended: SystemTime,
        total: Duration,
    ) -> Span {
        let ended = ended.duration_since(UNIX_EPOCH).unwrap_or_default();
        let begun = ended.saturating_sub(total);
        let nanoseconds = |time: Duration| time.as_nanos().to_string();
        let mut span = json!({
            "traceId": hex(&context.trace_id),
            "spanId": hex(&context.span_id),
            "flags": u8::from(context.is_sampled),
            "name": name(record),
            "kind": KIND_SERVER,
            "startTimeUnixNano": nanoseconds(begun),
            "endTimeUnixNano": nanoseconds(ended),
            "attributes": attributes(record),
        });
        if let Some(parent) = &context.parent_id {
            span["parentSpanId"] = hex(parent).into();
        }
        if record.status >= 500 || is_broken_off(record) {
            span["status"] = json!({ "code": ERROR });
        }
        Span(span)
    }
}

/// The body of a request to a collector.
pub(crate) fn request(spans: Vec<Span>) -> Vec<u8> {
    let spans: Vec<Value> = spans.into_iter().map(|span| span.0).collect();
    let resource = json!({ "attributes": [
        text("service.name", "switchyard-ingress"),
        text("service.version", env!("CARGO_PKG_VERSION")),
    ]});
    let scope = json!({ "name": "switchyard.ingress" });
    json!({ "resourceSpans": [
        { "resource": resource, "scopeSpans": [{ "scope": scope, "spans": spans }] },
    ]})
    .to_string()
    .into_bytes()
}

/// The method and the path of the rule: few names, whatever clients ask for.
fn name(record: &Record) -> String {
    let request = record.line.as_ref().and_then(|line| line.request.as_ref());
    let method = request.map_or("HTTP", |request| request.method.as_str());
    let path = record.route.as_ref().and_then(|route| route.path.as_ref());
    match path {
        Some((_, path)) => format!("{method} {path}"),
        None => method.to_owned(),
    }
}

fn attributes(record: &Record) -> Vec<Value> {
    let mut all = vec![
        number("http.response.status_code", record.status.into()),
        number("http.response.body.size", record.sent),
        number("switchyard.tries", record.tries.into()),
        text("switchyard.ended_by", record.ended_by.label()),
        text("switchyard.request_id", record.request_id()),
    ];
    if let Some(line) = &record.line {
        all.push(text("client.address", &line.client.to_string()));
        if let Some(request) = &line.request {
            all.push(text("http.request.method", request.method.as_str()));
            all.push(text("server.address", request.host()));
            all.push(text("url.path", request.target.path()));
            let agent = request.user_agent.as_ref().and_then(|agent| agent.to_str().ok());
            all.extend(agent.map(|agent| text("user_agent.original", agent)));
        }
    }
    if let Some(route) = record.route.as_deref() {
        all.extend(route.path.as_ref().map(|(_, path)| text("http.route", path)));
        all.push(text("switchyard.ingress", &route.ingress.to_string()));
        all.push(text("switchyard.service", &route.backend.key.to_string()));
    }
    if let Some(endpoint) = &record.endpoint {
        all.push(text("network.peer.address", &endpoint.address.ip().to_string()));
        all.push(number("network.peer.port", endpoint.address.port().into()));
    }
    if is_broken_off(record) || matches!(record.ended_by, EndedBy::Refusal(_)) {
        all.push(text("error.type", record.ended_by.label()));
    } else if record.status >= 500 {
        all.push(text("error.type", &record.status.to_string()));
    }
    all
}

fn is_broken_off(record: &Record) -> bool {
    matches!(record.ended_by, EndedBy::Endpoint | EndedBy::Timeout)
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// A 64-bit integer is a string in JSON.
fn number(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

/// Ids are hexadecimal in OTLP's JSON, and not base64.
fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
