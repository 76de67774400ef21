//! A request's head as the bytes that an HTTP/1.1 endpoint is sent.
//!
//! Pure. Fields that concern one hop only are left out. Where the request came from is said by
//! us, not by the client, unless the client is a proxy that is trusted.

use std::io::Write as _;

use http::header::{self, HeaderMap, HeaderName};

use crate::head::{Framing, RequestHead, kept_back, tokens};
use crate::origin::{Origin, RequestId, Rules, X_FORWARDED_HOST, X_FORWARDED_PORT, X_REQUEST_ID};

/// Writes the head for an endpoint.
pub(super) fn write_request(
    out: &mut Vec<u8>,
    request: &RequestHead<'_>,
    origin: &Origin,
    rules: &Rules,
    request_id: &RequestId,
) {
    out.extend_from_slice(request.method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.path.as_bytes());
    if let Some(query) = request.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(request.host().as_bytes());
    out.extend_from_slice(b"\r\n");
    let named = kept_back(request);
    let mut after_cookie = false;
    for (name, value) in request.headers {
        if !goes_on(name, origin.trusted, rules.allow_underscores) || named.contains(name) {
            continue;
        }
        // A map yields the values of a name in one row.
        let is_cookie = request.is_http2 && *name == header::COOKIE;
        if is_cookie && after_cookie {
            join_cookie(out, value.as_bytes());
        } else {
            write_field(out, name.as_str(), value.as_bytes());
        }
        after_cookie = is_cookie;
    }
    write_framing(out, request);
    if let Some(protocol) = request.upgrade {
        write_field(out, "connection", b"upgrade");
        write_field(out, "upgrade", protocol.as_bytes());
    } else if request.edits.is_some_and(|edits| edits.close) {
        write_field(out, "connection", b"close");
    }
    let own = out.len();
    if origin.trusted {
        write_trusted_origin(out, request, origin, rules, request_id);
    } else {
        out.extend_from_slice(&origin.fields);
        write_field(out, "x-forwarded-host", request.authority.as_bytes());
        write_field(out, "x-request-id", request_id);
    }
    if let Some(edits) = request.edits {
        leave_out(out, own, &edits.removed);
    }
    for (name, value) in request.edits.iter().flat_map(|edits| &edits.added) {
        write_field(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Leaves these fields out of those that were written from `own` on: an annotation may replace our
/// own fields as well.
fn leave_out(out: &mut Vec<u8>, own: usize, removed: &[HeaderName]) {
    let is_removed = |line: &[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        removed.iter().any(|removed| removed.as_str().as_bytes() == name)
    };
    if out[own..].split(|byte| *byte == b'\n').any(is_removed) {
        let written = out.split_off(own);
        let kept = written.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_removed(line));
        kept.for_each(|line| out.extend_from_slice(line));
    }
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Adds a part of a Cookie field to the field that was written last: an HTTP/1.1 endpoint expects
/// one (RFC 9113 section 8.2.3).
fn join_cookie(out: &mut Vec<u8>, part: &[u8]) {
    out.truncate(out.len() - b"\r\n".len());
    out.extend_from_slice(b"; ");
    out.extend_from_slice(part);
    out.extend_from_slice(b"\r\n");
}

fn write_framing(out: &mut Vec<u8>, request: &RequestHead<'_>) {
    match request.framing {
        Framing::None => {}
        Framing::Empty => write_field(out, "content-length", b"0"),
        Framing::Length(length) => {
            write_field(out, "content-length", length.to_string().as_bytes());
        }
        Framing::Chunked => {
            write_field(out, "transfer-encoding", b"chunked");
            if request.survey.has_trailer {
                for value in request.headers.get_all(header::TRAILER) {
                    write_field(out, "trailer", value.as_bytes());
                }
            }
        }
    }
    if request.expects_continue() {
        write_field(out, "expect", b"100-continue");
    }
    if request.survey.has_te && accepts_trailers(request.headers) {
        write_field(out, "te", b"trailers");
    }
}

/// Whether the client said `TE: trailers`; we forward no other coding.
pub(super) fn accepts_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE);
    values.iter().any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case("trailers")))
}

/// The fields for a request from a trusted proxy: what the proxy says is passed on, and the proxy's
/// own address is added.
fn write_trusted_origin(
    out: &mut Vec<u8>,
    request: &RequestHead<'_>,
    origin: &Origin,
    rules: &Rules,
    request_id: &RequestId,
) {
    let headers = request.headers;
    let forwarded = origin.forwarded(headers, &rules.trusted_proxies);
    write_field(out, "x-forwarded-for", forwarded.chain.as_bytes());
    out.extend_from_slice(b"x-real-ip: ");
    write!(out, "{}\r\n", forwarded.client).expect("a Vec takes any bytes");
    write_field(out, "x-forwarded-proto", forwarded.scheme.as_bytes());
    let mut unless_given = |name: &HeaderName, value: &[u8]| {
        if !headers.contains_key(name) {
            write_field(out, name.as_str(), value);
        }
    };
    unless_given(&X_FORWARDED_PORT, origin.port.to_string().as_bytes());
    unless_given(&X_FORWARDED_HOST, request.authority.as_bytes());
    unless_given(&X_REQUEST_ID, request_id);
}

/// Whether a request's field is forwarded as it is. What is not is either for this hop only
/// (RFC 9110 section 7.6.1), or is written by [`write_request`].
pub(super) fn goes_on(name: &HeaderName, trusted: bool, allow_underscores: bool) -> bool {
    let name = name.as_str();
    match name {
        "host"
        | "connection"
        | "keep-alive"
        | "proxy-connection"
        | "proxy-authorization"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade"
        | "content-length"
        | "expect"
        | "http2-settings"
        | "x-forwarded-for"
        | "x-forwarded-proto"
        | "x-real-ip" => false,
        "forwarded" | "x-request-id" => trusted,
        _ if name.starts_with("x-forwarded-") => trusted,
        _ => allow_underscores || !name.as_bytes().contains(&b'_'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{HeadEdits, Survey, upgrade_of};

    const ID: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    /// What an endpoint gets after the request line and Host, for a client at `peer` where
    /// 10.0.0.0/8 is trusted.
    fn forwarded(peer: &str, lines: &[(&str, &str)]) -> Vec<String> {
        forwarded_from(peer, lines, false)
    }

    fn forwarded_from(peer: &str, lines: &[(&str, &str)], is_http2: bool) -> Vec<String> {
        let text = written(peer, lines, is_http2, None);
        let rest = text.strip_prefix("GET /a?b=c HTTP/1.1\r\nhost: Foo.com:8443\r\n").unwrap();
        let rest = rest.strip_suffix("\r\n\r\n").unwrap();
        rest.split("\r\n").map(str::to_owned).collect()
    }

    fn written(
        peer: &str,
        lines: &[(&str, &str)],
        is_http2: bool,
        edits: Option<&HeadEdits>,
    ) -> String {
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let origin = Origin::new(peer.parse().unwrap(), true, 8443, &trusted_proxies);
        let rules = Rules { trusted_proxies, allow_underscores: false };
        let headers = headers(lines);
        let request = RequestHead {
            method: "GET",
            path: "/a",
            query: Some("b=c"),
            authority: "Foo.com:8443",
            headers: &headers,
            survey: Survey::of(&headers),
            framing: Framing::None,
            upgrade: upgrade_of(&headers),
            is_http2,
            edits,
        };
        let mut out = Vec::new();
        write_request(&mut out, &request, &origin, &rules, ID);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_a_route_changes() {
        let mut edits = HeadEdits { host: Some("b.com".to_owned()), ..HeadEdits::default() };
        edits.set("x-forwarded-prefix", "/p");
        edits.set("accept", "");
        edits.replace(HeaderName::from_static("x-a"), "2");
        let given = [("accept", "*/*"), ("x-a", "1"), ("x-forwarded-prefix", "/evil"), ("b", "c")];
        let text = written("192.0.2.1", &given, false, Some(&edits));
        assert!(text.starts_with("GET /a?b=c HTTP/1.1\r\nhost: b.com\r\nb: c\r\nx-forwarded-for"));
        assert!(text.contains("\r\nx-forwarded-host: Foo.com:8443\r\n"), "{text}");
        assert!(text.ends_with("\r\nx-forwarded-prefix: /p\r\nx-a: 2\r\n\r\n"), "{text}");
        // A trusted proxy's own prefix is replaced too.
        let text = written("10.0.0.1", &given, false, Some(&edits));
        assert_eq!(text.matches("x-forwarded-prefix").count(), 1, "{text}");
    }

    /// The endpoint got two fields, ours before that of the annotation.
    #[test]
    fn an_annotation_replaces_our_own_fields() {
        let mut edits = HeadEdits::default();
        for (name, value) in [("x-forwarded-proto", "https"), ("x-real-ip", "1.2.3.4")] {
            edits.replace(HeaderName::from_static(name), value);
        }
        edits.removed.push(HeaderName::from_static("x-forwarded-port"));
        for peer in ["192.0.2.1", "10.0.0.1"] {
            let text = written(peer, &[("x-real-ip", "9.9.9.9")], false, Some(&edits));
            let count = |line: &str| text.matches(line).count();
            assert_eq!(count("x-forwarded-proto: https\r\n"), 1, "{text}");
            assert_eq!((count("x-real-ip"), count("x-real-ip: 1.2.3.4\r\n")), (1, 1), "{text}");
            assert_eq!((count("x-forwarded-port"), count("x-forwarded-host")), (0, 1), "{text}");
        }
    }

    const OWN: [&str; 6] = [
        "x-forwarded-for: 192.0.2.1",
        "x-real-ip: 192.0.2.1",
        "x-forwarded-proto: https",
        "x-forwarded-port: 8443",
        "x-forwarded-host: Foo.com:8443",
        "x-request-id: 0123456789abcdef0123456789abcdef",
    ];

    #[track_caller]
    fn check(lines: &[(&str, &str)], kept: &[&str]) {
        let expected: Vec<_> = kept.iter().chain(&OWN).copied().collect();
        assert_eq!(forwarded("192.0.2.1", lines), expected, "{lines:?}");
    }

    #[test]
    fn fields_of_one_hop_stay_behind() {
        check(
            &[("accept", "*/*"), ("cookie", "a"), ("cookie", "b")],
            &["accept: */*", "cookie: a", "cookie: b"],
        );
        check(
            &[
                ("host", "other"),
                ("connection", "close, X-Secret"),
                ("x-secret", "1"),
                ("keep-alive", "5"),
                ("proxy-connection", "close"),
                ("proxy-authorization", "x"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAM"),
                ("expect", "100-continue"),
                ("accept", "a"),
            ],
            &["accept: a"],
        );
        check(&[("te", "gzip, Trailers;q=1")], &[]);
        check(&[("te", "gzip"), ("te", "TRAILERS")], &["te: trailers"]);
        check(&[("x_forwarded_for", "1"), ("a_b", "2"), ("a-b", "3")], &["a-b: 3"]);
    }

    #[test]
    fn what_a_client_says_of_itself_is_not_forwarded() {
        check(
            &[
                ("x-forwarded-for", "1.1.1.1"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "evil"),
                ("x-forwarded-port", "1"),
                ("x-forwarded-prefix", "/evil"),
                ("x-real-ip", "1.1.1.1"),
                ("x-request-id", "mine"),
                ("forwarded", "for=1.1.1.1"),
            ],
            &[],
        );
        check(&[("connection", "x-forwarded-for, x-real-ip, x-request-id, host")], &[]);
    }

    #[test]
    fn what_a_trusted_proxy_says_is() {
        let given = [
            ("x-forwarded-for", "198.51.100.7, 192.0.2.9"),
            ("x-forwarded-for", "10.1.1.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "public.com"),
            ("x-forwarded-prefix", "/p"),
            ("x-request-id", "theirs"),
            ("x-real-ip", "8.8.8.8"),
            ("connection", "x-forwarded-proto"),
        ];
        assert_eq!(
            forwarded("10.0.0.1", &given),
            [
                "x-forwarded-host: public.com",
                "x-forwarded-prefix: /p",
                "x-request-id: theirs",
                "x-forwarded-for: 198.51.100.7, 192.0.2.9, 10.1.1.1, 10.0.0.1",
                "x-real-ip: 192.0.2.9",
                "x-forwarded-proto: http",
                "x-forwarded-port: 8443",
            ]
        );
        assert_eq!(
            forwarded("::ffff:10.0.0.1", &[])[..2],
            ["x-forwarded-for: 10.0.0.1", "x-real-ip: 10.0.0.1"]
        );
    }

    /// The parts of a Cookie field that an HTTP/2 client splits arrived as fields of their own.
    #[test]
    fn cookie_parts_of_http2_are_joined() {
        let parts = [("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2"), ("cookie", "c=3")];
        let found = forwarded_from("192.0.2.1", &parts, true);
        assert_eq!(found[..2], ["cookie: a=1; b=2; c=3", "accept: */*"]);
        // Over HTTP/1.1 several fields are what the client wrote.
        let found = forwarded_from("192.0.2.1", &parts, false);
        assert_eq!(found[..3], ["cookie: a=1", "cookie: b=2", "cookie: c=3"]);
    }
}
