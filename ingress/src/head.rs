//! A request's head as a value: checked, and independent of the HTTP version that it came by and
//! of the one that an endpoint is asked by. Also which fields of any head concern one hop only.
//!
//! Pure. Left out: how a head becomes bytes, which is the upstream's to decide.

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

/// The fields of a request that decide how it is read and forwarded, found in one pass: a look
/// for each by its name would take several times as long.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Survey<'a> {
    pub(crate) host: Occurs<'a>,
    pub(crate) content_length: Occurs<'a>,
    pub(crate) transfer_encoding: Occurs<'a>,
    pub(crate) has_connection: bool,
    has_upgrade: bool,
    pub(crate) has_te: bool,
    pub(crate) has_trailer: bool,
    has_expect: bool,
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
                header::EXPECT => survey.has_expect = true,
                _ => {}
            }
        }
        survey
    }

    /// Whether the client asks for the connection to be closed after the response: an HTTP/1.0
    /// client does so unless it says otherwise (RFC 9112 section 9.3).
    pub(crate) fn asks_to_close(&self, version: Version, headers: &HeaderMap) -> bool {
        let says = |option: &str| {
            self.has_connection
                && headers
                    .get_all(header::CONNECTION)
                    .iter()
                    .any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case(option)))
        };
        says("close") || (version == Version::HTTP_10 && !says("keep-alive"))
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
    /// Host and port, as the client wrote them.
    pub(crate) authority: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) survey: Survey<'a>,
    pub(crate) framing: Framing,
    /// The protocol to change to, if the request asks for it and may.
    pub(crate) upgrade: Option<&'a HeaderValue>,
    /// It came over HTTP/2, where a client may split its Cookie field into several.
    pub(crate) is_http2: bool,
    /// What its route changes of it; absent for most.
    pub(crate) edits: Option<&'a HeadEdits>,
}

/// What a route changes of a request's fields.
#[derive(Debug, Default)]
pub(crate) struct HeadEdits {
    /// The Host that the endpoint gets instead of the client's.
    pub(crate) host: Option<String>,
    /// Fields of the client that do not go on.
    pub(crate) removed: Names,
    /// Fields that go on beside the client's, whatever is otherwise kept back.
    pub(crate) added: Vec<(HeaderName, HeaderValue)>,
    /// The connection is used once.
    pub(crate) close: bool,
}

impl HeadEdits {
    /// Sets a field in the place of the client's; an empty or impossible value only removes that.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.replace(HeaderName::from_static(name), value);
    }

    /// The same for a name that is known at run time.
    pub(crate) fn replace(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value)
            && !value.is_empty()
        {
            self.added.push((name.clone(), value));
        }
        self.removed.push(name);
    }
}

/// Fields of a request that do not go on: those that Connection names, and those that its route
/// leaves out.
pub(crate) fn kept_back(request: &RequestHead<'_>) -> Names {
    let mut names = match request.survey.has_connection {
        true => named_by_connection(request.headers),
        false => Names::new(),
    };
    if let Some(edits) = request.edits {
        names.extend(edits.removed.iter().cloned());
    }
    names
}

impl<'a> RequestHead<'a> {
    /// Host and port that the endpoint is asked for.
    pub(crate) fn host(&self) -> &'a str {
        self.edits.and_then(|edits| edits.host.as_deref()).unwrap_or(self.authority)
    }
}

impl RequestHead<'_> {
    pub(crate) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Whether the client waits for 100 (Continue) before it sends the body.
    pub(crate) fn expects_continue(&self) -> bool {
        let has_body = matches!(self.framing, Framing::Length(_) | Framing::Chunked);
        let asked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        has_body && self.survey.has_expect && self.headers.get(header::EXPECT).is_some_and(asked)
    }
}

/// Options that the Connection fields of a request may have together: each is compared with each
/// field of the request. No client sends more than a few.
const MAX_CONNECTION_OPTIONS: usize = 32;

/// Whether the Connection fields of a request have more options than are looked at.
pub(crate) fn has_too_many_options(headers: &HeaderMap) -> bool {
    let values = || headers.get_all(header::CONNECTION).iter();
    // An option has at least one letter, and a comma between it and the next.
    values().map(HeaderValue::len).sum::<usize>() >= 2 * MAX_CONNECTION_OPTIONS
        && values().flat_map(tokens).nth(MAX_CONNECTION_OPTIONS).is_some()
}

/// Names of fields.
pub(crate) type Names = SmallVec<[HeaderName; 4]>;

/// The fields that Connection names, which are for this hop only. A client cannot use it to remove
/// the fields that say where a request came from, or where it goes.
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

/// The entries of a list in a field.
pub(crate) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let list = value.as_bytes().split(|byte| *byte == b',');
    // An entry that is no text names nothing; the others do.
    let entries = list.filter_map(|entry| std::str::from_utf8(entry).ok());
    entries.map(str::trim).filter(|token| !token.is_empty())
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

/// Whether a field frames a message or belongs to one connection.
pub(crate) fn is_of_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "content-length"
            | "expect"
            | "host"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Whether a field must not be among trailers (RFC 9110 section 6.5.1): one that frames or routes a
/// message, or changes how it is read.
pub(crate) fn is_forbidden_trailer(name: &HeaderName) -> bool {
    is_of_connection(name)
        || matches!(
            name.as_str(),
            "authorization"
                | "cookie"
                | "set-cookie"
                | "content-encoding"
                | "content-type"
                | "content-range"
                | "forwarded"
                | "x-real-ip"
                | "x-request-id"
        )
        || name.as_str().starts_with("x-forwarded-")
}

/// The trailers that are passed on.
pub(crate) fn without_forbidden(mut trailers: HeaderMap) -> HeaderMap {
    let forbidden: Names = trailers.keys().filter(|n| is_forbidden_trailer(n)).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_protocols_beside_http_are_changed_to() {
        type Row<'a> = (&'a [(&'static str, &'a str)], Option<&'a str>);
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
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            let found = upgrade_of(&headers).map(|value| value.to_str().unwrap());
            assert_eq!(found, expected, "{lines:?}");
        }
    }

    #[test]
    fn when_a_client_asks_for_its_connection_to_be_closed() {
        type Row<'a> = (Version, &'a [&'a str], bool);
        let table: [Row<'_>; 7] = [
            (Version::HTTP_11, &[], false),
            (Version::HTTP_11, &["Keep-Alive, Close"], true),
            (Version::HTTP_11, &["te", "close"], true),
            (Version::HTTP_11, &["closed"], false),
            (Version::HTTP_10, &[], true),
            (Version::HTTP_10, &["Keep-Alive"], false),
            (Version::HTTP_10, &["keep-alive, close"], true),
        ];
        for (version, lines, expected) in table {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::CONNECTION, line.parse().unwrap());
            }
            let survey = Survey::of(&headers);
            assert_eq!(survey.asks_to_close(version, &headers), expected, "{version:?} {lines:?}");
        }
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
