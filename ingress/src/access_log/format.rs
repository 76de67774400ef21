//! How a request's line is written.
//!
//! Pure. Text is the combined format of web servers, which log analysers read, followed by fields
//! of our own as `name=value`; `-` stands for what is not known. Octets that could forge or break a
//! line are escaped as nginx does, by `\x` and two hexadecimal digits.
//!
//! A worker spends this time on every request, so numbers, addresses and names are put together
//! from their parts: the standard formatting takes several times as long.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Version};
use jiff::Timestamp;
use model::{BackendPort, ObjectName};

use crate::record::{Line, LoggedRequest, Record};
use crate::snapshot::BackendKey;

/// Bytes of a field that a client chose; the rest is left out, so that a line has an end.
const MAX_FIELD: usize = 4096;

/// The time at which a line is written, formatted once a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    second: u64,
    millisecond: u32,
    /// `30/Nov/2026:19:45:20 +0000`.
    common: [u8; 26],
    /// `2026-11-30T19:45:20`.
    rfc3339: [u8; 19],
}

impl Clock {
    pub(super) fn set(&mut self, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.millisecond = now.subsec_millis();
        if now.as_secs() == self.second {
            return;
        }
        self.second = now.as_secs();
        let second = i64::try_from(now.as_secs()).unwrap_or_default();
        let time = Timestamp::from_second(second).unwrap_or_default();
        let common = time.strftime("%d/%b/%Y:%H:%M:%S +0000");
        // A time after the year 9999 does not fit, and stays as it is.
        let _ = write!(&mut self.common[..], "{common}");
        let _ = write!(&mut self.rfc3339[..], "{}", time.strftime("%Y-%m-%dT%H:%M:%S"));
    }
}

/// Appends a line of text.
pub(super) fn text(
    out: &mut Vec<u8>,
    record: &Record,
    line: &Line,
    clock: &Clock,
    total: Duration,
) {
    ip(out, line.client);
    out.extend_from_slice(b" - - [");
    out.extend_from_slice(&clock.common);
    out.extend_from_slice(b"] \"");
    let request = line.request.as_ref();
    if let Some(request) = request {
        quoted(out, request.method.as_str().as_bytes());
        out.push(b' ');
        quoted(out, target(request).as_bytes());
        out.push(b' ');
        out.extend_from_slice(protocol(request.version).as_bytes());
    } else {
        out.push(b'-');
    }
    out.extend_from_slice(b"\" ");
    number(out, record.status.into());
    out.push(b' ');
    number(out, record.sent);
    let field = |of: fn(&LoggedRequest) -> Option<&HeaderValue>| {
        request.and_then(of).map_or(&b"-"[..], HeaderValue::as_bytes)
    };
    let (referer, user_agent) =
        (field(|request| request.referer.as_ref()), field(|request| request.user_agent.as_ref()));
    let host = request.map_or("-", LoggedRequest::host);
    let quotes = [(" ", referer), (" ", user_agent), (" host=", host.as_bytes())];
    for (before, field) in quotes {
        out.extend_from_slice(before.as_bytes());
        out.push(b'"');
        quoted(out, field);
        out.push(b'"');
    }
    out.extend_from_slice(b" id=");
    quoted(out, record.request_id().as_bytes());
    text_of_destination(out, record);
    for (name, time) in times(line, total) {
        out.push(b' ');
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        match time {
            Some(time) => seconds(out, time),
            None => out.push(b'-'),
        }
    }
    out.extend_from_slice(b" end=");
    out.extend_from_slice(record.ended_by.label().as_bytes());
    out.push(b'\n');
}

/// Where the request went.
fn text_of_destination(out: &mut Vec<u8>, record: &Record) {
    match record.route.as_deref() {
        Some(route) => {
            out.extend_from_slice(b" ingress=");
            object(out, &route.ingress);
            out.extend_from_slice(b" service=");
            backend(out, &route.backend.key);
        }
        None => out.extend_from_slice(b" ingress=- service=-"),
    }
    out.extend_from_slice(b" endpoint=");
    match &record.endpoint {
        Some(endpoint) => address(out, endpoint.address),
        None => out.push(b'-'),
    }
    out.extend_from_slice(b" tries=");
    number(out, record.tries.into());
}

/// Appends a JSON object and the end of its line.
pub(super) fn json(
    out: &mut Vec<u8>,
    record: &Record,
    line: &Line,
    clock: &Clock,
    total: Duration,
) {
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(&clock.rfc3339);
    out.push(b'.');
    padded(out, clock.millisecond, 3);
    out.extend_from_slice(b"Z\",\"client\":\"");
    ip(out, line.client);
    out.push(b'"');
    if let Some(request) = &line.request {
        json_request(out, request);
    }
    out.extend_from_slice(b",\"status\":");
    number(out, record.status.into());
    out.extend_from_slice(b",\"bytes\":");
    number(out, record.sent);
    member(out, "request_id", record.request_id().as_bytes());
    json_destination(out, record);
    for (name, time) in times(line, total) {
        if let Some(time) = time {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"_ms\":");
            milliseconds(out, time);
        }
    }
    out.extend_from_slice(b",\"ended_by\":\"");
    out.extend_from_slice(record.ended_by.label().as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// Where the request went. Names of objects need no escaping.
fn json_destination(out: &mut Vec<u8>, record: &Record) {
    if let Some(route) = record.route.as_deref() {
        out.extend_from_slice(b",\"ingress\":\"");
        object(out, &route.ingress);
        out.push(b'"');
        if let Some((path_type, path)) = &route.path {
            write(out, format_args!(",\"path_type\":\"{path_type:?}\""));
            member(out, "rule_path", path.as_bytes());
        }
        out.extend_from_slice(b",\"service\":\"");
        backend(out, &route.backend.key);
        out.push(b'"');
    }
    if let Some(endpoint) = &record.endpoint {
        out.extend_from_slice(b",\"endpoint\":\"");
        address(out, endpoint.address);
        out.push(b'"');
    }
    out.extend_from_slice(b",\"tries\":");
    number(out, record.tries.into());
}

fn json_request(out: &mut Vec<u8>, request: &LoggedRequest) {
    member(out, "method", request.method.as_str().as_bytes());
    member(out, "host", request.host().as_bytes());
    member(out, "path", request.target.path().as_bytes());
    let query = request.target.query().map(str::as_bytes);
    member(out, "protocol", protocol(request.version).as_bytes());
    let optional = [
        ("query", query),
        ("referer", request.referer.as_ref().map(HeaderValue::as_bytes)),
        ("user_agent", request.user_agent.as_ref().map(HeaderValue::as_bytes)),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            member(out, name, value);
        }
    }
}

/// Until there was a connection to an endpoint, until the head of its response, and in all.
fn times(line: &Line, total: Duration) -> [(&'static str, Option<Duration>); 3] {
    [("connect", line.connected), ("head", line.answered), ("total", Some(total))]
}

/// What the client wrote as target, without scheme and host.
fn target(request: &LoggedRequest) -> &str {
    request.target.path_and_query().map_or("/", |target| target.as_str())
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// Writing to a vector never fails.
fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes everything");
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends a number of at most so many digits, filled up by zeros.
fn padded(out: &mut Vec<u8>, number: u32, digits: usize) {
    let mut buffer = itoa::Buffer::new();
    let number = buffer.format(number);
    out.extend(std::iter::repeat_n(b'0', digits.saturating_sub(number.len())));
    out.extend_from_slice(number.as_bytes());
}

/// Appends a time in seconds, to the microsecond.
fn seconds(out: &mut Vec<u8>, time: Duration) {
    number(out, time.as_secs());
    out.push(b'.');
    padded(out, time.subsec_micros(), 6);
}

/// Appends a time in milliseconds, to the microsecond.
fn milliseconds(out: &mut Vec<u8>, time: Duration) {
    number(out, u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    out.push(b'.');
    padded(out, time.subsec_micros() % 1000, 3);
}

fn ip(out: &mut Vec<u8>, ip: IpAddr) {
    let IpAddr::V4(ip) = ip else { return write(out, format_args!("{ip}")) };
    for (at, octet) in ip.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        number(out, octet.into());
    }
}

fn address(out: &mut Vec<u8>, address: SocketAddr) {
    if address.is_ipv6() {
        return write(out, format_args!("{address}"));
    }
    ip(out, address.ip());
    out.push(b':');
    number(out, address.port().into());
}

/// Appends what [`ObjectName`] says of itself.
fn object(out: &mut Vec<u8>, object: &ObjectName) {
    if !object.namespace.is_empty() {
        out.extend_from_slice(object.namespace.as_bytes());
        out.push(b'/');
    }
    out.extend_from_slice(object.name.as_bytes());
}

/// Appends what [`BackendKey`] says of itself.
fn backend(out: &mut Vec<u8>, key: &BackendKey) {
    object(out, &key.service);
    out.push(b':');
    match &key.port {
        BackendPort::Number(port) => number(out, u64::from(port.get())),
        BackendPort::Name(port) => out.extend_from_slice(port.as_bytes()),
    }
}

/// Appends what stands between quotes in a line of text.
fn quoted(out: &mut Vec<u8>, value: &[u8]) {
    let mut rest = &value[..value.len().min(MAX_FIELD)];
    let is_escaped = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20 | 0x7f..);
    while let Some(at) = rest.iter().position(is_escaped) {
        out.extend_from_slice(&rest[..at]);
        write(out, format_args!("\\x{:02X}", rest[at]));
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Appends a member with a string. What is not UTF-8 is replaced.
fn member(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    write(out, format_args!(",\"{name}\":"));
    let text = String::from_utf8_lossy(&value[..value.len().min(MAX_FIELD)]);
    serde_json::to_writer(&mut *out, text.as_ref()).expect("memory takes everything");
}
