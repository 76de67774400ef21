//! What of a message's head goes on to the other side.
//!
//! Pure. A request's head is written straight into the bytes that an endpoint is sent: fields
//! that concern one hop only are left out, and where the request came from is said by us, not by
//! the client, unless the client is a proxy that is trusted. Left out: the framing of bodies,
//! which the upstream connection decides.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use smallvec::SmallVec;

/// Bytes of a generated request id: 128 random bits in hexadecimal.
pub(crate) const REQUEST_ID_BYTES: usize = 32;

/// What a connection says about the requests that come over it.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    peer: String,
    trusted: bool,
    https: bool,
    port: u16,
    /// The fields for a client that is not trusted, which are the same for all its requests.
    fields: Box<[u8]>,
}

impl Origin {
    pub(crate) fn new(peer: IpAddr, https: bool, port: u16, trusted_proxies: &[IpNet]) -> Origin {
        let peer = canonical(peer);
        let trusted = is_trusted(peer, trusted_proxies);
        let scheme = scheme(https);
        let fields = format!(
            "x-forwarded-for: {peer}\r\nx-real-ip: {peer}\r\nx-forwarded-proto: {scheme}\r\n\
             x-forwarded-port: {port}\r\n"
        );
        let fields = fields.into_bytes().into();
        Origin { peer: peer.to_string(), trusted, https, port, fields }
    }

    /// Whether the client reached us, or the proxy before us, over TLS.
    pub(crate) fn is_https(&self, headers: &HeaderMap) -> bool {
        let said = headers.get(&X_FORWARDED_PROTO).filter(|_| self.trusted);
        said.map_or(self.https, |scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https"))
    }
}

fn scheme(https: bool) -> &'static str {
    if https { "https" } else { "http" }
}

/// An IPv4 client of a socket that takes both families is an IPv4 client.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

pub(crate) fn is_trusted(ip: IpAddr, trusted_proxies: &[IpNet]) -> bool {
    trusted_proxies.iter().any(|net| net.contains(&ip))
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The fields of a request that decide how it is read and forwarded, found in one pass: a look
/// for each by its name would take several times as long.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Survey<'a> {
    pub(crate) host: Occurs<'a>,
    pub(crate) content_length: Occurs<'a>,
    pub(crate) transfer_encoding: Occurs<'a>,
    has_connection: bool,
    has_upgrade: bool,
    has_te: bool,
    has_trailer: bool,
}

/// How often a field occurs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Occurs<'a> {
    #[default]
    Never,
    Once(&'a HeaderValue),
    Again,
}

impl<'a> Occurs<'a> {
    fn add(&mut self, value: &'a HeaderValue) {
        *self = match self {
            Occurs::Never => Occurs::Once(value),
            Occurs::Once(_) | Occurs::Again => Occurs::Again,
        };
    }
}

impl<'a> Survey<'a> {
    pub(crate) fn of(headers: &'a HeaderMap) -> Survey<'a> {
        let mut survey = Survey::default();
        for (name, value) in headers {
            match *name {
                header::HOST => survey.host.add(value),
                header::CONTENT_LENGTH => survey.content_length.add(value),
                header::TRANSFER_ENCODING => survey.transfer_encoding.add(value),
                header::CONNECTION => survey.has_connection = true,
                header::UPGRADE => survey.has_upgrade = true,
                header::TE => survey.has_te = true,
                header::TRAILER => survey.has_trailer = true,
                _ => {}
            }
        }
        survey
    }

    /// Whether the request could ask for another protocol, by [`upgrade_of`].
    pub(crate) fn may_upgrade(&self) -> bool {
        self.has_connection && self.has_upgrade
    }
}

/// How a request's body is framed for the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    /// A body that is empty and must say so.
    Empty,
    Length(u64),
    Chunked,
}

/// A request's head, checked and matched.
pub(crate) struct RequestHead<'a> {
    pub(crate) method: &'a str,
    /// The normalised path.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    /// As the client wrote it.
    pub(crate) authority: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) survey: Survey<'a>,
    pub(crate) framing: Framing,
    /// The protocol to change to, if the request asks for it and may.
    pub(crate) upgrade: Option<&'a HeaderValue>,
}

/// How heads are to be written, for all requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Names with underscores become the same variable as names with hyphens in CGI and its
    /// heirs, so that a client could set what only a proxy should.
    pub(crate) allow_underscores: bool,
}

/// Writes the head for an endpoint.
pub(crate) fn write_request(
    out: &mut Vec<u8>,
    request: &RequestHead<'_>,
    origin: &Origin,
    rules: &Rules,
    request_id: &[u8; REQUEST_ID_BYTES],
) {
    out.extend_from_slice(request.method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.path.as_bytes());
    if let Some(query) = request.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(request.authority.as_bytes());
    out.extend_from_slice(b"\r\n");
    let named = match request.survey.has_connection {
        true => named_by_connection(request.headers),
        false => Names::new(),
    };
    for (name, value) in request.headers {
        if goes_on(name, origin.trusted, rules) && !named.contains(name) {
            write_field(out, name.as_str(), value.as_bytes());
        }
    }
    write_framing(out, request);
    if let Some(protocol) = request.upgrade {
        write_field(out, "connection", b"upgrade");
        write_field(out, "upgrade", protocol.as_bytes());
    }
    if origin.trusted {
        write_trusted_origin(out, request, origin, rules, request_id);
    } else {
        out.extend_from_slice(&origin.fields);
        write_field(out, "x-forwarded-host", request.authority.as_bytes());
        write_field(out, "x-request-id", request_id);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
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
    if request.survey.has_te && accepts_trailers(request.headers) {
        write_field(out, "te", b"trailers");
    }
}

/// Whether the client said `TE: trailers`; no other coding is ours to forward.
fn accepts_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE);
    values.iter().any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case("trailers")))
}

/// The fields of a client that is a trusted proxy: what it says stays, and it is added to those
/// whom the request was forwarded for.
fn write_trusted_origin(
    out: &mut Vec<u8>,
    request: &RequestHead<'_>,
    origin: &Origin,
    rules: &Rules,
    request_id: &[u8; REQUEST_ID_BYTES],
) {
    let headers = request.headers;
    let mut chain = String::new();
    for value in headers.get_all(&X_FORWARDED_FOR) {
        chain.push_str(value.to_str().unwrap_or_default());
        chain.push_str(", ");
    }
    chain.push_str(&origin.peer);
    write_field(out, "x-forwarded-for", chain.as_bytes());
    write_field(out, "x-real-ip", client_of(&chain, &rules.trusted_proxies).as_bytes());
    let mut unless_said = |name: &HeaderName, value: &[u8]| {
        if !headers.contains_key(name) {
            write_field(out, name.as_str(), value);
        }
    };
    unless_said(&X_FORWARDED_PROTO, scheme(origin.https).as_bytes());
    unless_said(&X_FORWARDED_PORT, origin.port.to_string().as_bytes());
    unless_said(&X_FORWARDED_HOST, request.authority.as_bytes());
    unless_said(&X_REQUEST_ID, request_id);
}

/// The last address of the chain that is no trusted proxy: nobody after it could lie about it.
fn client_of<'a>(chain: &'a str, trusted_proxies: &[IpNet]) -> &'a str {
    let mut client = "";
    for entry in chain.rsplit(',').map(str::trim) {
        client = entry;
        let ip = entry.parse::<IpAddr>().map(canonical);
        if !ip.is_ok_and(|ip| is_trusted(ip, trusted_proxies)) {
            break;
        }
    }
    client
}

/// Whether a request's field is forwarded as it is. What is not is either for this hop only
/// (RFC 9110 section 7.6.1), or written anew by [`write_request`].
fn goes_on(name: &HeaderName, trusted: bool, rules: &Rules) -> bool {
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
        | "x-real-ip" => false,
        "forwarded" | "x-request-id" => trusted,
        _ if name.starts_with("x-forwarded-") => trusted,
        _ => rules.allow_underscores || !name.as_bytes().contains(&b'_'),
    }
}

type Names = SmallVec<[HeaderName; 4]>;

/// The fields that Connection names, which are for this hop only: but a client cannot use it to
/// take away what says where a request came from, or where it goes.
fn named_by_connection(headers: &HeaderMap) -> Names {
    let mut names = Names::new();
    for token in headers.get_all(header::CONNECTION).iter().flat_map(tokens) {
        // Options that nearly every client sends name no field that would go on.
        if ["keep-alive", "close", "upgrade", "te"].iter().any(|o| token.eq_ignore_ascii_case(o)) {
            continue;
        }
        let Ok(name) = HeaderName::from_bytes(token.as_bytes()) else { continue };
        let protected = matches!(name.as_str(), "host" | "forwarded" | "x-request-id")
            || name.as_str().starts_with("x-forwarded-");
        if !protected {
            names.push(name);
        }
    }
    names
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let list = value.to_str().unwrap_or_default();
    list.split(',').map(str::trim).filter(|token| !token.is_empty())
}

/// The protocol that a request asks to change to: any but those that HTTP itself is changed to,
/// which would take the following requests past our rules.
pub(crate) fn upgrade_of(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut wanted = headers.get_all(header::UPGRADE).iter();
    let protocol = wanted.next()?;
    let mut options = headers.get_all(header::CONNECTION).iter().flat_map(tokens);
    let asked = options.any(|option| option.eq_ignore_ascii_case("upgrade"));
    let of_http = |token: &str| {
        let token = token.to_ascii_lowercase();
        token.starts_with("h2") || token.starts_with("http") || token.starts_with("tls")
    };
    let listed: Vec<_> = tokens(protocol).collect();
    let takes = asked && wanted.next().is_none() && !listed.is_empty();
    (takes && !listed.iter().any(|token| of_http(token))).then_some(protocol)
}

/// What a response's Connection fields say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ResponseConnection {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
    /// Fields for this hop only.
    pub(crate) named: SmallVec<[HeaderName; 2]>,
}

impl ResponseConnection {
    /// Adds one Connection field.
    pub(crate) fn add(&mut self, value: &HeaderValue) {
        if value == "keep-alive" {
            self.keep_alive = true;
            return;
        }
        for token in tokens(value) {
            match token {
                _ if token.eq_ignore_ascii_case("close") => self.close = true,
                _ if token.eq_ignore_ascii_case("keep-alive") => self.keep_alive = true,
                _ if token.eq_ignore_ascii_case("upgrade") => self.upgrade = true,
                _ => self.named.extend(HeaderName::from_bytes(token.as_bytes())),
            }
        }
    }
}

/// Whether a response's field is for this hop only, besides Connection, Transfer-Encoding,
/// Upgrade and Content-Length, which its reader looks at.
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    match *name {
        header::PROXY_AUTHENTICATE | header::TE => true,
        _ => {
            matches!(name.as_str(), "keep-alive" | "proxy-connection" | "proxy-authentication-info")
        }
    }
}

/// Whether a field may not be among trailers (RFC 9110 section 6.5.1): those that frame, route or
/// change how a message is read.
pub(crate) fn is_forbidden_trailer(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "host"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "authorization"
            | "cookie"
            | "set-cookie"
            | "content-encoding"
            | "content-type"
            | "content-range"
            | "forwarded"
            | "x-real-ip"
            | "x-request-id"
    ) || name.as_str().starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests {
    use super::*;

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
        };
        let mut out = Vec::new();
        write_request(&mut out, &request, &origin, &rules, ID);
        let text = String::from_utf8(out).unwrap();
        let rest = text.strip_prefix("GET /a?b=c HTTP/1.1\r\nhost: Foo.com:8443\r\n").unwrap();
        let rest = rest.strip_suffix("\r\n\r\n").unwrap();
        rest.split("\r\n").map(str::to_owned).collect()
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
        let said = [
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
            forwarded("10.0.0.1", &said),
            [
                "x-forwarded-proto: http",
                "x-forwarded-host: public.com",
                "x-forwarded-prefix: /p",
                "x-request-id: theirs",
                "x-forwarded-for: 198.51.100.7, 192.0.2.9, 10.1.1.1, 10.0.0.1",
                "x-real-ip: 192.0.2.9",
                "x-forwarded-port: 8443",
            ]
        );
        assert_eq!(
            forwarded("::ffff:10.0.0.1", &[])[..2],
            ["x-forwarded-for: 10.0.0.1", "x-real-ip: 10.0.0.1"]
        );
    }

    #[test]
    fn a_trusted_proxy_says_whether_it_was_https() {
        let net = ["10.0.0.0/8".parse().unwrap()];
        let said = headers(&[("x-forwarded-proto", "HTTPS")]);
        let table = [("10.0.0.1", &said, true), ("192.0.2.1", &said, false)];
        for (peer, headers, expected) in table {
            let origin = Origin::new(peer.parse().unwrap(), false, 80, &net);
            assert_eq!(origin.is_https(headers), expected, "{peer}");
        }
    }

    #[test]
    fn only_protocols_beside_http_are_changed_to() {
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
        let table: [Row<'_>; 8] = [
            (&[("connection", "Upgrade"), ("upgrade", "websocket")], Some("websocket")),
            (&[("connection", "keep-alive, upgrade"), ("upgrade", "foo/2")], Some("foo/2")),
            (&[("upgrade", "websocket")], None),
            (&[("connection", "upgrade")], None),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], None),
            (&[("connection", "upgrade"), ("upgrade", "websocket, h2c")], None),
            (&[("connection", "upgrade"), ("upgrade", "TLS/1.0")], None),
            (&[("connection", "upgrade"), ("upgrade", "a"), ("upgrade", "h2c")], None),
        ];
        for (lines, expected) in table {
            let headers = headers(lines);
            let found = upgrade_of(&headers).map(|value| value.to_str().unwrap());
            assert_eq!(found, expected, "{lines:?}");
        }
        let lines = [("connection", "upgrade"), ("upgrade", "websocket"), ("origin", "x")];
        check(&lines, &["origin: x", "connection: upgrade", "upgrade: websocket"]);
    }

    #[test]
    fn the_connection_field_of_a_response() {
        let mut connection = ResponseConnection::default();
        connection.add(&HeaderValue::from_static("Keep-Alive, X-Hop , upgrade"));
        connection.add(&HeaderValue::from_static("close"));
        let named = [HeaderName::from_static("x-hop")].into_iter().collect();
        let expected = ResponseConnection { close: true, keep_alive: true, upgrade: true, named };
        assert_eq!(connection, expected);
    }
}
