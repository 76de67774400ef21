//! A request's head as an HTTP/2 endpoint is sent it.
//!
//! Pure. The same fields as for an HTTP/1.1 endpoint, by the same rules, without those that HTTP/2
//! has no use for: Host is `:authority`, and the body is framed by the stream (RFC 9113 section
//! 8.2.2).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request};

use super::encode::{accepts_trailers, goes_on};
use crate::head::{Framing, RequestHead, kept_back};
use crate::origin::{
    Origin, RequestId, Rules, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT,
    X_FORWARDED_PROTO, X_REAL_IP, X_REQUEST_ID,
};

/// The head for an endpoint; `None` if host or path cannot stand in an HTTP/2 request.
pub(super) fn http2_request(
    request: &RequestHead<'_>,
    scheme: &str,
    (origin, rules, request_id): (&Origin, &Rules, &RequestId),
) -> Option<Request<()>> {
    let mut head = Request::new(());
    *head.method_mut() = Method::from_bytes(request.method.as_bytes()).ok()?;
    *head.uri_mut() = uri(request, scheme)?;
    let headers = head.headers_mut();
    headers.reserve(request.headers.len() + 8);
    let named = kept_back(request);
    for (name, value) in request.headers {
        if goes_on(name, origin.trusted, rules.allow_underscores) && !named.contains(name) {
            headers.append(name, value.clone());
        }
    }
    add_framing(headers, request);
    if origin.trusted {
        add_trusted_origin(headers, request, origin, rules, request_id);
    } else {
        for (name, value) in origin.http2_fields() {
            headers.insert(name, value.clone());
        }
        insert(headers, X_FORWARDED_HOST, request.authority.as_bytes());
        insert(headers, X_REQUEST_ID, request_id);
    }
    // An annotation may replace our own fields as well.
    for name in request.edits.iter().flat_map(|edits| &edits.removed) {
        headers.remove(name);
    }
    for (name, value) in request.edits.iter().flat_map(|edits| &edits.added) {
        headers.append(name, value.clone());
    }
    Some(head)
}

fn uri(request: &RequestHead<'_>, scheme: &str) -> Option<Uri> {
    let target = match request.query {
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", request.path)).ok()?,
        None => PathAndQuery::try_from(request.path).ok()?,
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::try_from(scheme).ok()?);
    parts.authority = Some(Authority::try_from(request.host()).ok()?);
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).ok()
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        headers.insert(name, value);
    }
}

fn add_framing(headers: &mut HeaderMap, request: &RequestHead<'_>) {
    match request.framing {
        Framing::None => {}
        Framing::Empty => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Framing::Length(length) => {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        Framing::Chunked => {
            if request.survey.has_trailer {
                for value in request.headers.get_all(header::TRAILER) {
                    headers.append(header::TRAILER, value.clone());
                }
            }
        }
    }
    if request.expects_continue() {
        headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    }
    if request.survey.has_te && accepts_trailers(request.headers) {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// The fields for a request from a trusted proxy: what the proxy says is passed on, and the proxy's
/// own address is added.
fn add_trusted_origin(
    headers: &mut HeaderMap,
    request: &RequestHead<'_>,
    origin: &Origin,
    rules: &Rules,
    request_id: &RequestId,
) {
    let forwarded = origin.forwarded(request.headers, &rules.trusted_proxies);
    insert(headers, X_FORWARDED_FOR, forwarded.chain.as_bytes());
    insert(headers, X_REAL_IP, forwarded.client.to_string().as_bytes());
    insert(headers, X_FORWARDED_PROTO, forwarded.scheme.as_bytes());
    let mut unless_given = |name: HeaderName, value: &[u8]| {
        if !request.headers.contains_key(&name) {
            insert(headers, name, value);
        }
    };
    unless_given(X_FORWARDED_PORT, origin.port.to_string().as_bytes());
    unless_given(X_FORWARDED_HOST, request.authority.as_bytes());
    unless_given(X_REQUEST_ID, request_id);
}

#[cfg(test)]
mod tests {
    use super::super::encode::write_request;
    use super::*;
    use crate::head::Survey;

    const ID: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

    /// The fields that an endpoint of each HTTP version gets, in the order of their names.
    fn both(peer: &str, framing: Framing, lines: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let origin = Origin::new(peer.parse().unwrap(), true, 8443, &trusted_proxies);
        let rules = Rules { trusted_proxies, allow_underscores: false };
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let request = RequestHead {
            method: "POST",
            path: "/a",
            query: Some("b=c"),
            authority: "Foo.com:8443",
            headers: &headers,
            survey: Survey::of(&headers),
            framing,
            upgrade: None,
            is_http2: true,
            edits: None,
        };
        let head = http2_request(&request, "http", (&origin, &rules, ID)).unwrap();
        assert_eq!(head.uri(), "http://Foo.com:8443/a?b=c");
        assert_eq!(head.method(), "POST");
        let fields = head.headers().iter();
        let mut of_http2: Vec<_> =
            fields.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        let mut out = Vec::new();
        write_request(&mut out, &request, &origin, &rules, ID);
        let text = String::from_utf8(out).unwrap();
        let lines = text.trim_end().split("\r\n").skip(1);
        let mut of_http1: Vec<_> = lines.map(str::to_owned).collect();
        of_http1.sort();
        of_http2.sort();
        (of_http1, of_http2)
    }

    /// What one version's encoder keeps back and the other's lets through would be a way around
    /// the rules for fields that only a proxy may set.
    #[test]
    fn endpoints_of_both_versions_get_the_same_fields() {
        let lines = [
            ("host", "other"),
            ("connection", "close, X-Secret, x-forwarded-for"),
            ("x-secret", "1"),
            ("keep-alive", "5"),
            ("proxy-connection", "close"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAM"),
            ("expect", "100-continue"),
            ("te", "gzip, trailers"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("x_real_ip", "1"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-prefix", "/evil"),
            ("x-real-ip", "1.1.1.1"),
            ("x-request-id", "theirs"),
            ("accept", "a"),
        ];
        for peer in ["192.0.2.1", "10.0.0.1"] {
            for framing in [Framing::None, Framing::Empty, Framing::Length(7), Framing::Chunked] {
                let (mut of_http1, of_http2) = both(peer, framing, &lines);
                // These are what only HTTP/1.1 has.
                of_http1.retain(|line| {
                    line != "host: Foo.com:8443" && line != "transfer-encoding: chunked"
                });
                assert_eq!(of_http1, of_http2, "{peer} {framing:?}");
            }
        }
    }

    #[test]
    fn parts_of_a_cookie_stay_apart_over_http2() {
        let lines = [("cookie", "a=1"), ("cookie", "b=2")];
        let (of_http1, of_http2) = both("192.0.2.1", Framing::None, &lines);
        assert!(of_http1.contains(&"cookie: a=1; b=2".to_owned()), "{of_http1:?}");
        assert!(of_http2.contains(&"cookie: b=2".to_owned()), "{of_http2:?}");
    }
}
