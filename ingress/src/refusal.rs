//! Answers of our own: why a request was not forwarded, as a status and one line of text.
//!
//! Nothing of the request is repeated in them but host and path, and only if they hold nothing that
//! means something to a shell or a page. Nothing of the configuration is told: who may see it asks
//! `switchyard explain`, by the command in the answer.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::body::Body;

/// Methods that are forwarded, for the Allow field of a 405 (RFC 9110 section 15.5.6).
const ALLOW: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// When to come again after a 503: endpoints and limits change within seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Longer URLs are not repeated.
const MAX_URL: usize = 512;

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

/// A refusal, with the URL that was asked for if it may be repeated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    url: Option<String>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused { refusal, url: None }
    }
}

impl Refused {
    /// The answer; over HTTP/1.1 also whether the connection ends with it.
    pub(crate) fn into_response(self, is_http2: bool) -> Response<Body> {
        self.refusal.into_response(self.url.as_deref(), is_http2)
    }
}

/// The URL of a request, if it can be pasted into a shell as it is.
fn plain_url(is_https: bool, authority: &str, path: &str) -> Option<String> {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"-._~/%:".contains(&c);
    let scheme = if is_https { "https" } else { "http" };
    let url = format!("{scheme}://{authority}{path}");
    (url.len() <= MAX_URL && url.bytes().all(is_plain)).then_some(url)
}

impl Refusal {
    /// The refusal of a request for that path of a host.
    pub(crate) fn of(self, is_https: bool, authority: &str, path: &str) -> Refused {
        let url = if self.is_explained() { plain_url(is_https, authority, path) } else { None };
        Refused { refusal: self, url }
    }

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

    fn into_response(self, url: Option<&str>, is_http2: bool) -> Response<Body> {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or_default();
        let mut text = format!("{} {title}: {}\n", status.as_str(), self.reason());
        if self.is_explained() {
            let url = url.unwrap_or("URL");
            text.push_str(&format!("To see why: switchyard explain {url} --feed SOURCE\n"));
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
    content-length: 95\r\n\r\n400 Bad Request: with --proxy-protocol, trusted proxies \
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
    fn a_url_is_repeated_only_if_it_means_nothing_to_a_shell_or_a_page() {
        let unserved = || Refusal::Unserved("x");
        let table = [
            (unserved(), "shop.example", "/a-b/c.d/%20", Some("http://shop.example/a-b/c.d/%20")),
            (unserved(), "127.0.0.1:8080", "/", Some("http://127.0.0.1:8080/")),
            (unserved(), "shop.example", "/$(reboot)", None),
            (unserved(), "shop.example", "/a;b", None),
            (unserved(), "shop.example", "/'", None),
            (unserved(), "shop.example", "/&", None),
            (unserved(), "shop.example", "/<b>", None),
            (unserved(), "[::1]", "/", None),
            (unserved(), "shop.example", &format!("/{}", "a".repeat(MAX_URL)), None),
            (Refusal::Method, "shop.example", "/", None),
        ];
        for (refusal, authority, path, url) in table {
            assert_eq!(refusal.of(false, authority, path).url.as_deref(), url, "{path}");
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
            let response = Refused::from(refusal).into_response(false);
            assert!(response.headers().contains_key(field), "{response:?}");
            assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        }
        let over_http2 = Refused::from(Refusal::TooLarge).into_response(true);
        assert!(!over_http2.headers().contains_key("connection"));
    }
}
