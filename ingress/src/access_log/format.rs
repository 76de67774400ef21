//! How a request's line is written.
//!
//! Pure. Text is the combined format of web servers, which log analysers read, followed by fields
//! of our own as `name=value`; `-` stands for what is not known. Octets that could forge or break a
//! line are escaped as nginx does, by `\x` and two hexadecimal digits.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Version};
use jiff::Timestamp;

use crate::record::{Line, LoggedRequest, Record};

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
    write(out, format_args!("{} - - [", line.client));
    out.extend_from_slice(&clock.common);
    out.extend_from_slice(b"] \"");
    let request = line.request.as_ref();
    if let Some(request) = request {
        quoted(out, request.method.as_str().as_bytes());
        out.push(b' ');
        quoted(out, target(request).as_bytes());
        write(out, format_args!(" {}", protocol(request.version)));
    } else {
        out.push(b'-');
    }
    write(out, format_args!("\" {} {}", record.status, record.sent));
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
    match record.route.as_deref() {
        Some(route) => {
            write(out, format_args!(" ingress={} service={}", route.ingress, route.backend.key));
        }
        None => out.extend_from_slice(b" ingress=- service=-"),
    }
    match &record.endpoint {
        Some(endpoint) => write(out, format_args!(" endpoint={}", endpoint.address)),
        None => out.extend_from_slice(b" endpoint=-"),
    }
    write(out, format_args!(" tries={}", record.tries));
    for (name, time) in times(line, total) {
        match time {
            Some(time) => write(out, format_args!(" {name}={:.6}", time.as_secs_f64())),
            None => write(out, format_args!(" {name}=-")),
        }
    }
    write(out, format_args!(" end={}\n", record.ended_by.label()));
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
    write(out, format_args!(".{:03}Z\",\"client\":\"{}\"", clock.millisecond, line.client));
    if let Some(request) = &line.request {
        json_request(out, request);
    }
    write(out, format_args!(",\"status\":{},\"bytes\":{}", record.status, record.sent));
    member(out, "request_id", record.request_id().as_bytes());
    if let Some(route) = record.route.as_deref() {
        write(out, format_args!(",\"ingress\":\"{}\"", route.ingress));
        if let Some((path_type, path)) = &route.path {
            write(out, format_args!(",\"path_type\":\"{path_type:?}\""));
            member(out, "rule_path", path.as_bytes());
        }
        write(out, format_args!(",\"service\":\"{}\"", route.backend.key));
    }
    if let Some(endpoint) = &record.endpoint {
        write(out, format_args!(",\"endpoint\":\"{}\"", endpoint.address));
    }
    write(out, format_args!(",\"tries\":{}", record.tries));
    for (name, time) in times(line, total) {
        if let Some(time) = time {
            write(out, format_args!(",\"{name}_ms\":{:.3}", time.as_secs_f64() * 1e3));
        }
    }
    write(out, format_args!(",\"ended_by\":\"{}\"}}\n", record.ended_by.label()));
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

/// Appends what stands between quotes in a line of text.
fn quoted(out: &mut Vec<u8>, value: &[u8]) {
    for &byte in &value[..value.len().min(MAX_FIELD)] {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => write(out, format_args!("\\x{byte:02X}")),
            _ => out.push(byte),
        }
    }
}

/// Appends a member with a string. What is not UTF-8 is replaced.
fn member(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    write(out, format_args!(",\"{name}\":"));
    let text = String::from_utf8_lossy(&value[..value.len().min(MAX_FIELD)]);
    serde_json::to_writer(&mut *out, text.as_ref()).expect("memory takes everything");
}
