//! Answers of our own: why a request was not forwarded, as a status and a few lines of text.
//!
//! Nothing of the request is repeated in them but host, path and request id, and only if they hold
//! nothing that means something to a shell or a page. Nothing of the configuration is
//! shown: operators see it by `switchyard explain`, with the command in the answer.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::origin::X_REQUEST_ID;
use crate::reason::Reason;
use crate::response::ResponseBody;
use crate::snapshot::{RefusedBy, Unserved};

/// Methods that are forwarded, for the Allow field of a 405 (RFC 9110 section 15.5.6).
const ALLOW: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// Seconds after which a client may try again after a 503: endpoints change within seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Longer URLs are not repeated.
const MAX_URL: usize = 512;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Why a request was not forwarded, or its response not returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// What is wrong with the request. The connection is closed, because where the next request
    /// begins is not certain either.
    Malformed(&'static str),
    /// The head has too many fields, or too many bytes.
    HeadTooLarge,
    /// The head came too slowly.
    HeadTimeout,
    Method,
    /// The certificate that the connection was opened with is not for the host.
    Misdirected,
    NoRoute {
        host: Option<String>,
    },
    /// To another place.
    Redirect {
        status: StatusCode,
        location: HeaderValue,
    },
    /// An error of the endpoint that another Service was to replace, and could not.
    Replaced(StatusCode),
    /// To a browser that asks what pages of another origin may do.
    Preflight,
    /// The client has shown no certificate, and the route asks for one.
    NoCertificate,
    /// No authority of the route has signed the client's certificate, or it is not valid.
    BadCertificate,
    /// The client's address, or the name in its certificate, is not let in.
    Forbidden,
    /// Credentials are missing or wrong: the value of WWW-Authenticate.
    Unauthorized(HeaderValue),
    /// The authentication server has not said whether the request is let in.
    AuthFailed,
    /// More requests than the client may send.
    TooManyRequests,
    /// More requests than fit into a window of time.
    TooManyInWindow,
    BodyTooLarge,
    /// The client stopped sending.
    ClientTimeout,
    /// The feed has not been listed yet, so that nothing is known to be absent.
    NotReady,
    /// An annotation of the route is not supported, and the route must not be served without it.
    Annotation(RefusedBy),
    /// The route has no endpoint.
    NoEndpoint(Unserved),
    /// All endpoints have as many requests as they may have.
    Busy,
    Unreachable,
    /// The endpoint closed before it answered, and the request must not be sent again.
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
    pub(crate) fn into_response(self, request_id: &str, is_http2: bool) -> Response<ResponseBody> {
        let Refused { refusal, url } = self;
        let text = match refusal {
            // Without a body, as its status says.
            Refusal::Preflight => String::new(),
            _ => refusal.text(url.as_deref(), request_id),
        };
        let mut response = Response::new(ResponseBody::text(Bytes::from(text)));
        *response.status_mut() = refusal.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, TEXT);
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert(X_REQUEST_ID, id);
        }
        refusal.add_fields(headers);
        if refusal.ends_connection() && !is_http2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Whether a text can be pasted into a shell, or shown by a page, as it is.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._~/%:".contains(&c))
}

/// The URL of a request, if it may be repeated.
fn plain_url(is_https: bool, authority: &str, path: &str) -> Option<String> {
    let scheme = if is_https { "https" } else { "http" };
    let url = format!("{scheme}://{authority}{path}");
    (url.len() <= MAX_URL && is_plain(&url)).then_some(url)
}

impl Refusal {
    /// The refusal of a request for that path of a host.
    pub(crate) fn of(self, is_https: bool, authority: &str, path: &str) -> Refused {
        let url = if self.is_explained() { plain_url(is_https, authority, path) } else { None };
        Refused { refusal: self, url }
    }

    /// The refusal of a head that could not be read, by the status that the parser gives it.
    pub(crate) fn of_bad_head(status: u16) -> Refusal {
        match status {
            431 => Refusal::HeadTooLarge,
            414 => Refusal::Malformed("the request's target is too long"),
            _ => Refusal::Malformed("the request's head cannot be read"),
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Refusal::Malformed(_) | Refusal::NoCertificate | Refusal::BadCertificate => {
                StatusCode::BAD_REQUEST
            }
            Refusal::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Refusal::NoRoute { .. } => StatusCode::NOT_FOUND,
            Refusal::Redirect { status, .. } => *status,
            Refusal::Replaced(status) => *status,
            Refusal::Preflight => StatusCode::NO_CONTENT,
            Refusal::Forbidden => StatusCode::FORBIDDEN,
            Refusal::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Refusal::AuthFailed => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::TooManyInWindow => StatusCode::TOO_MANY_REQUESTS,
            Refusal::TooManyRequests => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::HeadTimeout | Refusal::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Refusal::NotReady | Refusal::Annotation(_) | Refusal::NoEndpoint(_) | Refusal::Busy => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Refusal::Unreachable | Refusal::Unanswered | Refusal::BadResponse => {
                StatusCode::BAD_GATEWAY
            }
            Refusal::EndpointTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The same for metrics and logs.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Refusal::Malformed(_) => Reason::Malformed,
            Refusal::HeadTooLarge => Reason::HeadTooLarge,
            Refusal::HeadTimeout => Reason::HeadTimeout,
            Refusal::Method => Reason::Method,
            Refusal::Misdirected => Reason::Misdirected,
            Refusal::NoRoute { .. } => Reason::NoRoute,
            Refusal::Redirect { .. } => Reason::Redirect,
            Refusal::Replaced(_) => Reason::ErrorPage,
            Refusal::Preflight => Reason::Preflight,
            Refusal::NoCertificate => Reason::NoCertificate,
            Refusal::BadCertificate => Reason::BadCertificate,
            Refusal::Forbidden => Reason::Forbidden,
            Refusal::Unauthorized(_) => Reason::Unauthorized,
            Refusal::AuthFailed => Reason::AuthFailed,
            Refusal::TooManyRequests | Refusal::TooManyInWindow => Reason::Limited,
            Refusal::BodyTooLarge => Reason::BodyTooLarge,
            Refusal::ClientTimeout => Reason::BodyTimeout,
            Refusal::NotReady => Reason::NotReady,
            Refusal::Annotation(_) => Reason::Annotation,
            Refusal::NoEndpoint(_) => Reason::NoEndpoint,
            Refusal::Busy => Reason::Busy,
            Refusal::Unreachable => Reason::Unreachable,
            Refusal::Unanswered => Reason::Unanswered,
            Refusal::BadResponse => Reason::BadResponse,
            Refusal::EndpointTimeout => Reason::EndpointTimeout,
        }
    }

    /// What is wrong, in a few words.
    pub(crate) fn explanation(&self) -> String {
        let text = match self {
            Refusal::Malformed(what) => what,
            Refusal::HeadTooLarge => "the request's head has too many fields or bytes",
            Refusal::HeadTimeout => "the request's head came too slowly",
            Refusal::Method => "this method is not forwarded",
            Refusal::Misdirected => "the certificate of this connection is not for this host",
            Refusal::NoRoute { host: None } => "no rule for this host",
            Refusal::NoRoute { host: Some(host) } => {
                return format!("host {host} has no rule for this path");
            }
            Refusal::Redirect { .. } => "see the Location field",
            Refusal::Replaced(_) => "no error page could be had",
            Refusal::Preflight => "allowed",
            Refusal::NoCertificate => "no required client certificate was sent",
            Refusal::BadCertificate => "the client certificate is not accepted",
            Refusal::Forbidden => "the client is not allowed",
            Refusal::Unauthorized(_) => "credentials are needed",
            Refusal::AuthFailed => "the authentication server gave no answer that can be used",
            Refusal::TooManyRequests | Refusal::TooManyInWindow => "too many requests",
            Refusal::BodyTooLarge => "the request's body is larger than allowed",
            Refusal::ClientTimeout => "the request's body did not come in time",
            Refusal::NotReady => "not ready: the feed has not been listed yet",
            Refusal::Annotation(_) => "an annotation of this route is invalid or not supported",
            Refusal::NoEndpoint(_) => "no endpoint can serve this path at the moment",
            Refusal::Busy => "all endpoints are busy",
            Refusal::Unreachable => "no endpoint could be reached",
            Refusal::Unanswered => "the endpoint closed the connection before it answered",
            Refusal::BadResponse => "the endpoint's response could not be read",
            Refusal::EndpointTimeout => "the endpoint did not answer in time",
        };
        text.to_owned()
    }

    /// Whether `switchyard explain` says more.
    fn is_explained(&self) -> bool {
        let status = self.status();
        if *self == Refusal::TooManyRequests {
            return false;
        }
        let unserved = [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE];
        status == StatusCode::NOT_FOUND || unserved.contains(&status)
    }

    /// Whether the rest of the request, or where the next one begins, is not certain.
    pub(crate) fn ends_connection(&self) -> bool {
        use Refusal::{BodyTooLarge, ClientTimeout, HeadTimeout, HeadTooLarge, Malformed};
        matches!(self, Malformed(_) | HeadTooLarge | HeadTimeout | BodyTooLarge | ClientTimeout)
    }

    fn text(&self, url: Option<&str>, request_id: &str) -> String {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or_default();
        let mut text = format!("{} {title}: {}\n", status.as_str(), self.explanation());
        if self.is_explained() {
            let url = url.unwrap_or("URL");
            text.push_str(&format!("To see why: switchyard explain {url} --feed SOURCE\n"));
        }
        if is_plain(request_id) {
            text.push_str(&format!("Request id: {request_id}\n"));
        }
        text
    }

    fn add_fields(&self, headers: &mut HeaderMap) {
        let mut add = |name: HeaderName, value: &HeaderValue| {
            headers.insert(name, value.clone());
        };
        match self {
            Refusal::Method => add(header::ALLOW, &ALLOW),
            Refusal::Unauthorized(challenge) if !challenge.is_empty() => {
                add(header::WWW_AUTHENTICATE, challenge);
            }
            Refusal::TooManyInWindow => add(header::RETRY_AFTER, &RETRY_AFTER),
            Refusal::Redirect { location, .. } => add(header::LOCATION, location),
            _ if self.status() == StatusCode::SERVICE_UNAVAILABLE => {
                add(header::RETRY_AFTER, &RETRY_AFTER);
            }
            _ => {}
        }
    }

    /// The whole answer as the bytes of HTTP/1.1, after which the connection is closed: for a
    /// request whose head could not be read.
    pub(crate) fn to_http1(&self, request_id: &str) -> Vec<u8> {
        let (status, text) = (self.status(), self.text(None, request_id));
        let title = status.canonical_reason().unwrap_or_default();
        let fields = format!(
            "HTTP/1.1 {} {title}\r\ncontent-type: text/plain; charset=utf-8\r\n\
             x-request-id: {request_id}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
            status.as_str(),
            text.len()
        );
        fields.into_bytes()
    }
}

/// The whole answer to a connection beyond a limit, over plain HTTP/1.1. Nothing is read from such
/// a connection.
pub(crate) const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: text/plain; charset=utf-8\r\nretry-after: 1\r\nconnection: close\r\n\
    content-length: 46\r\n\r\n503 Service Unavailable: too many connections\n";

/// The whole answer to a trusted proxy that does not send a PROXY header.
pub(crate) const NO_PROXY_HEADER: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\nconnection: close\r\n\
    content-length: 95\r\n\r\n400 Bad Request: with --proxy-protocol, trusted proxies \
    begin a connection with a PROXY header\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_written_by_hand_have_the_length_that_they_say() {
        for answer in [TOO_MANY_CONNECTIONS, NO_PROXY_HEADER] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let length = head.split("content-length: ").nth(1).unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), body.len(), "{text}");
        }
    }

    #[test]
    fn answers_that_can_be_explained_name_the_command() {
        let explained = [
            (Refusal::NoRoute { host: None }, true),
            (Refusal::Unreachable, true),
            (Refusal::NotReady, true),
            (Refusal::Method, false),
            (Refusal::Malformed("x"), false),
        ];
        for (refusal, expected) in explained {
            assert_eq!(refusal.is_explained(), expected, "{refusal:?}");
        }
    }

    #[test]
    fn a_url_is_repeated_only_if_it_means_nothing_to_a_shell_or_a_page() {
        let unserved = || Refusal::NotReady;
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
            (
                Refusal::Redirect {
                    status: StatusCode::FOUND,
                    location: HeaderValue::from_static("https://a.com/"),
                },
                "location",
            ),
            (Refusal::NotReady, "retry-after"),
            (Refusal::Malformed("x"), "connection"),
            (Refusal::BodyTooLarge, "connection"),
        ];
        for (refusal, field) in table {
            let response = Refused::from(refusal).into_response("1f", false);
            assert!(response.headers().contains_key(field), "{response:?}");
            assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        }
        let over_http2 = Refused::from(Refusal::BodyTooLarge).into_response("1f", true);
        assert!(!over_http2.headers().contains_key("connection"));
    }

    #[test]
    fn a_request_id_is_repeated_only_if_it_means_nothing_to_a_shell_or_a_page() {
        let table = [("0a-1f", "Request id: 0a-1f\n"), ("<b>", ""), ("$(reboot)", "")];
        for (id, line) in table {
            let text = Refusal::Method.text(None, id);
            assert_eq!(
                text,
                format!("405 Method Not Allowed: this method is not forwarded\n{line}")
            );
        }
    }

    #[test]
    fn an_answer_to_a_bad_head_is_a_whole_response() {
        let answer = String::from_utf8(Refusal::of_bad_head(431).to_http1("1f")).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        assert!(head.ends_with(&format!("\r\ncontent-length: {}", body.len())), "{head}");
    }
}
