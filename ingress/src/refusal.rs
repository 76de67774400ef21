//! Answers of our own: why a request was not forwarded, as a status and one line of text.
//!
//! Nothing of the request is repeated in them but the host, and only after it was found to hold
//! nothing but letters, digits, dots and hyphens.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::body::Body;

/// Methods that are forwarded, for the Allow field of a 405 (RFC 9110 section 15.5.6).
const ALLOW: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// When to come again after a 503: endpoints and limits change within seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What operators who see such an answer can do.
const EXPLAIN: &str = "To see why: switchyard explain URL --feed SOURCE\n";

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Why a request was not forwarded, or its response not returned.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// What is wrong with it; the connection is closed, for the next request's beginning is not
    /// certain either.
    Malformed(&'static str),
    Method,
    /// The host has another certificate than the one that the connection was opened with.
    Misdirected,
    NoRoute {
        host: Option<String>,
    },
    /// To the same place over HTTPS.
    Redirect(HeaderValue),
    TooLarge,
    /// The client stopped sending.
    ClientTimeout,
    /// The route has nothing that serves it.
    Unserved(&'static str),
    Unreachable,
    /// The endpoint closed before it answered, and the request may not be sent again.
    Unanswered,
    BadResponse,
    EndpointTimeout,
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Refusal::NoRoute { .. } => StatusCode::NOT_FOUND,
            Refusal::Redirect(_) => StatusCode::PERMANENT_REDIRECT,
            Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Refusal::Unserved(_) => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Unreachable | Refusal::Unanswered | Refusal::BadResponse => {
                StatusCode::BAD_GATEWAY
            }
            Refusal::EndpointTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn reason(&self) -> String {
        let reason = match self {
            Refusal::Malformed(what) | Refusal::Unserved(what) => what,
            Refusal::Method => "this method is not forwarded",
            Refusal::Misdirected => "this host is not served by the certificate of the connection",
            Refusal::NoRoute { host: None } => "no rule for this host",
            Refusal::NoRoute { host: Some(host) } => {
                return format!("host {host} has no rule for this path");
            }
            Refusal::Redirect(_) => "use HTTPS",
            Refusal::TooLarge => "the request's body is larger than allowed",
            Refusal::ClientTimeout => "the request's body did not come in time",
            Refusal::Unreachable => "no endpoint could be reached",
            Refusal::Unanswered => "the endpoint closed the connection before it answered",
            Refusal::BadResponse => "the endpoint's response could not be read",
            Refusal::EndpointTimeout => "the endpoint did not answer in time",
        };
        reason.to_owned()
    }

    /// Whether `switchyard explain` says more.
    fn is_explained(&self) -> bool {
        let status = self.status();
        let unserved = [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE];
        status == StatusCode::NOT_FOUND || unserved.contains(&status)
    }

    /// The answer; over HTTP/1.1 also whether the connection ends with it.
    pub(crate) fn into_response(self, is_http2: bool) -> Response<Body> {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or_default();
        let mut text = format!("{} {title}: {}\n", status.as_str(), self.reason());
        if self.is_explained() {
            text.push_str(EXPLAIN);
        }
        let mut response = Response::new(Body::text(Bytes::from(text)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, TEXT);
        self.add_fields(headers);
        let ends =
            matches!(self, Refusal::Malformed(_) | Refusal::TooLarge | Refusal::ClientTimeout);
        if ends && !is_http2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn add_fields(&self, headers: &mut HeaderMap) {
        let mut add = |name: HeaderName, value: &HeaderValue| {
            headers.insert(name, value.clone());
        };
        match self {
            Refusal::Method => add(header::ALLOW, &ALLOW),
            Refusal::Redirect(location) => add(header::LOCATION, location),
            Refusal::Unserved(_) => add(header::RETRY_AFTER, &RETRY_AFTER),
            _ => {}
        }
    }
}

/// The whole of an answer to a connection that is more than the limits allow, over plain
/// HTTP/1.1: it is turned away before anything is read from it.
pub(crate) const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: text/plain; charset=utf-8\r\nretry-after: 1\r\nconnection: close\r\n\
    content-length: 46\r\n\r\n503 Service Unavailable: too many connections\n";

/// The whole of an answer to a trusted proxy that does not say whom it speaks for.
pub(crate) const NO_PROXY_HEADER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\nconnection: close\r\n\
    content-length: 97\r\n\r\n400 Bad Request: with --proxy-protocol, trusted proxies \
    begin a connection with a PROXY header\n";

/// The whole of an answer to a client that did not finish its request's head.
pub(crate) const HEAD_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    content-type: text/plain; charset=utf-8\r\nconnection: close\r\n\
    content-length: 56\r\n\r\n408 Request Timeout: the request's head came too slowly\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_written_by_hand_have_the_length_that_they_say() {
        for answer in [TOO_MANY_CONNECTIONS, NO_PROXY_HEADER, HEAD_TIMEOUT] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let length = head.split("content-length: ").nth(1).unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), body.len(), "{text}");
        }
    }

    #[test]
    fn whose_cause_can_be_explained_says_how() {
        let explained = [
            (Refusal::NoRoute { host: None }, true),
            (Refusal::Unreachable, true),
            (Refusal::Unserved("x"), true),
            (Refusal::Method, false),
            (Refusal::Malformed("x"), false),
        ];
        for (refusal, expected) in explained {
            assert_eq!(refusal.is_explained(), expected, "{refusal:?}");
        }
    }

    #[test]
    fn fields_that_a_status_demands() {
        let table = [
            (Refusal::Method, "allow"),
            (Refusal::Redirect(HeaderValue::from_static("https://a.com/")), "location"),
            (Refusal::Unserved("x"), "retry-after"),
            (Refusal::Malformed("x"), "connection"),
            (Refusal::TooLarge, "connection"),
        ];
        for (refusal, field) in table {
            let response = refusal.into_response(false);
            assert!(response.headers().contains_key(field), "{response:?}");
            assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        }
        let over_http2 = Refusal::TooLarge.into_response(true);
        assert!(!over_http2.headers().contains_key("connection"));
    }
}
