//! What is fuzzed in this package: one function for each parser. It takes any bytes, and checks
//! what must hold for every outcome.
//!
//! Called by the targets under `fuzz/` and, for a bounded number of inputs, by `tests/fuzz.rs`.
//! Not part of this package's interface.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use ipnet::IpNet;
use model::{ObjectName, Secret};

use crate::addresses::AddressSet;
use crate::basic::credentials;
use crate::credentials::{Credentials, Known};
use crate::route::{HostKey, HostTable, host_of, name_covers, normalise, port_of};
use crate::template::Template;
use crate::tls::server_name;
use crate::trace::context::{Parent, TraceContext};
use crate::upstream::{Asked, BadResponse, Decoded, Decoder, Interim, read_head};

/// The response of an endpoint: however its bytes are cut into pieces, they mean the same, and what
/// is behind the response is not part of it.
pub fn response(data: &[u8]) {
    for (is_head, upgrade) in [(false, false), (true, false), (false, true)] {
        let asked = Asked { is_head, upgrade, interim: false };
        let whole = read_response([data], asked);
        for cut in [1, data.len() / 3, data.len() / 2, data.len().saturating_sub(1)] {
            let (first, second) = data.split_at(cut.min(data.len()));
            assert_eq!(read_response([first, second], asked), whole, "cut at {cut}");
        }
        if data.len() <= 256 {
            assert_eq!(read_response(data.chunks(1), asked), whole, "byte by byte");
        }
        if let Ok(Read { end: Some(End::Length(left)), .. }) = &whole {
            let response = &data[..data.len() - left];
            let alone = read_response([response], asked).expect("it was read before");
            assert_eq!(alone.end, Some(End::Length(0)), "bytes behind the response were read");
        }
    }
}

/// A text with variables: what has none stands for itself, and one that was read can be rendered.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(template) = Template::parse(text) else { return };
    if !text.contains('$') {
        assert_eq!(template.as_text(), Some(text));
    }
    if let Some(plain) = template.as_text() {
        assert_eq!(plain, text, "nothing in it is a variable");
    }
    assert!(text.starts_with(template.start()));
    if template.has_only_captures() {
        let _ = template.render_captures(&["/a/b", "b"]);
    }
}

/// A list of addresses: of a network that is in it, so are the first address and the last.
pub fn addresses(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(set) = AddressSet::parse(text) else { return };
    for entry in text.split(',').map(str::trim) {
        if let Ok(net) = entry.parse::<IpNet>() {
            assert!(set.contains(net.network()), "{net}");
            assert!(set.contains(net.broadcast()), "{net}");
        }
    }
}

/// A `traceparent` field: what goes on has the same trace, and can be read again.
pub fn traceparent(data: &[u8]) {
    let Some(parent) = Parent::parse(data) else { return };
    let child = TraceContext::new(Some(parent), 7, || unreachable!("there is a trace"));
    let field = child.header();
    assert!(field.as_bytes()[2..35].eq_ignore_ascii_case(&data[2..35]), "{field:?}");
    assert!(Parent::parse(field.as_bytes()).is_some(), "{field:?}");
}

/// An Authorization field: credentials that were read are the ones that were encoded.
pub fn authorization(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let headers: HeaderMap = [(header::AUTHORIZATION, value)].into_iter().collect();
    let Some(given) = credentials(&headers) else { return };
    let again = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(&given)));
    let headers: HeaderMap =
        [(header::AUTHORIZATION, again.expect("base64 is visible ASCII"))].into_iter().collect();
    assert_eq!(credentials(&headers), Some(given));
}

/// A file of htpasswd: nobody gets in without a password that is in it.
pub fn passwords(data: &[u8]) {
    let key = |name: &str, value: &[u8]| (Arc::from(name), Bytes::copy_from_slice(value));
    let secret = Arc::new(Secret {
        name: ObjectName::new("default", "users"),
        secret_type: "Opaque".into(),
        data: [key("auth", data)].into_iter().collect(),
    });
    for is_map in [false, true] {
        let Ok(credentials) = Credentials::of(&secret, is_map) else { continue };
        for user in ["", "ada", "auth"] {
            let known = credentials.look_up(user, "");
            assert!(!matches!(known, Known::Right), "nothing was compared yet");
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Read {
    status: Option<StatusCode>,
    keep_alive: bool,
    upgrade: Option<HeaderValue>,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// None while the response has not ended.
    end: Option<End>,
}

#[derive(Debug, PartialEq)]
enum End {
    /// By its own account. So many bytes follow it, which belong to no response.
    Length(usize),
    /// Because the connection ends.
    Close,
}

fn read_response<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    asked: Asked,
) -> Result<Read, BadResponse> {
    let (mut buffer, mut interim) = (BytesMut::new(), Interim::default());
    let mut decoder: Option<Decoder> = None;
    let mut read = Read::default();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if decoder.is_none()
            && let Some(head) = read_head(&mut buffer, &mut read.headers, asked, &mut interim)?
        {
            (read.status, read.keep_alive) = (Some(head.status), head.keep_alive);
            read.upgrade = head.upgrade;
            decoder = Some(head.body);
        }
        if let Some(decoder) = &mut decoder {
            decode_all(decoder, &mut buffer, &mut read)?;
        }
    }
    read.end = match decoder {
        Some(decoder) if decoder.is_ended() => Some(End::Length(buffer.len())),
        Some(mut decoder) => decoder.close().is_ok().then_some(End::Close),
        None => None,
    };
    Ok(read)
}

fn decode_all(
    decoder: &mut Decoder,
    buffer: &mut BytesMut,
    read: &mut Read,
) -> Result<(), BadResponse> {
    loop {
        let before = buffer.len();
        match decoder.decode(buffer)? {
            Decoded::Data(data) => {
                assert!(!data.is_empty(), "an empty piece");
                assert!(data.len() <= before - buffer.len(), "more data than bytes");
                read.body.extend_from_slice(&data);
            }
            Decoded::Trailers(trailers) => read.trailers = Some(trailers),
            Decoded::End | Decoded::Short => return Ok(()),
        }
    }
}

/// The path of a request: its normal form is its own normal form, and cannot be read in two ways.
pub fn path(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else { return };
    let Ok(normal) = normalise(path) else { return };
    assert_eq!(normalise(&normal).as_deref(), Ok(&*normal), "of {path:?}");
    assert!(normal.starts_with('/') && !normal.contains("//"), "{normal:?}");
    assert!(!normal.split('/').any(|segment| matches!(segment, "." | "..")), "{normal:?}");
    // So it can stand in the head of a request as it is.
    assert!(normal.bytes().all(|byte| byte.is_ascii_graphic()), "{normal:?}");
    assert!(!normal.contains(['?', '#']) && !normal.contains("%00"), "{normal:?}");
    let mut escapes = normal.split('%').skip(1);
    let is_escape = |escape: &str| {
        let digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'A'..=b'F');
        escape.len() >= 2 && escape.as_bytes()[..2].iter().all(digit)
    };
    assert!(escapes.all(is_escape), "{normal:?}");
    assert_eq!(segments(&normal), expected_segments(path), "of {path:?}: {normal:?}");
}

/// The bytes that each segment of a path stands for.
fn segments(path: &str) -> Vec<Vec<u8>> {
    path.split('/').skip(1).map(|segment| unescaped(segment.as_bytes())).collect()
}

/// The same of the normal form, by RFC 3986 section 5.2.4, without empty segments.
fn expected_segments(path: &str) -> Vec<Vec<u8>> {
    let (mut kept, mut is_folder) = (Vec::new(), true);
    for segment in segments(path) {
        is_folder = matches!(&segment[..], b"" | b"." | b"..");
        match &segment[..] {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    if is_folder {
        kept.push(Vec::new());
    }
    kept
}

fn unescaped(mut bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while let Some((&byte, rest)) = bytes.split_first() {
        bytes = rest;
        let escape = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(escaped) if byte == b'%' => {
                plain.push(escaped);
                bytes = &rest[2..];
            }
            _ => plain.push(byte),
        }
    }
    plain
}

/// The authority of a request: its host is the beginning of it, and can be found in one way.
pub fn host(data: &[u8]) {
    let Ok(authority) = std::str::from_utf8(data) else { return };
    let Ok(host) = host_of(authority) else { return };
    assert_eq!(host_of(&host).as_deref(), Ok(&*host), "of {authority:?}");
    assert!(!host.is_empty() && !host.bytes().any(|byte| byte.is_ascii_uppercase()), "{host:?}");
    let in_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    assert!(host.bytes().all(in_host), "{host:?}");
    assert!(!host.contains(':') || host.starts_with('['), "{host:?}");
    let (written, rest) = authority.split_at(host.len());
    assert!(written.eq_ignore_ascii_case(&host), "{host:?} of {authority:?}");
    let rest = rest.strip_prefix('.').unwrap_or(rest);
    let port = rest.strip_prefix(':').filter(|port| !port.is_empty());
    assert_eq!(port.is_none(), matches!(rest, "" | ":"), "{rest:?} of {authority:?}");
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    assert!(port.is_none_or(digits), "{authority:?}");
    assert_eq!(port_of(authority), port.and_then(|port| port.parse().ok()), "{authority:?}");
}

/// Lines of hosts, as rules and certificates have them, and at the end one that is asked for, as a
/// client writes it in a request or in its TLS hello: it gets what a plain search gives it.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines: Vec<&str> = text.lines().collect();
    let Some(asked) = lines.pop() else { return };
    let Ok(host) = host_of(asked) else { return };
    if port_of(asked).is_none() && !asked.contains([':', '[']) {
        assert_eq!(server_name(asked), host, "a name means another host in a TLS hello");
    }
    let (mut table, mut plain) = (HostTable::new(), BTreeMap::new());
    for (number, line) in lines.iter().enumerate() {
        let key = HostKey::of(Some(&Arc::from(*line)));
        table.set(&key, Some(number));
        if key != HostKey::Any {
            let is_within = HostKey::Exact((&*host).into()).is_within(&key);
            assert_eq!(is_within, is_for(line, &host), "{host} in {line:?}");
            if !host.starts_with('[') {
                assert_eq!(name_covers(line, &host), is_within, "{host} by {line:?}");
            }
            plain.insert(*line, number);
        }
    }
    let exact = plain.get(&*host);
    let wildcard = || plain.iter().find(|(line, _)| is_for(line, &host)).map(|(_, n)| n);
    assert_eq!(table.find(&host), exact.or_else(wildcard), "{host} in {text:?}");
}

/// Whether a rule's host, or a certificate's name, is for a host: label by label.
fn is_for(name: &str, host: &str) -> bool {
    let (names, hosts): (Vec<_>, Vec<_>) = (name.split('.').collect(), host.split('.').collect());
    let is_first = |at: usize| at == 0 && names[0] == "*" && names.len() > 1;
    names.len() == hosts.len()
        && names.iter().zip(&hosts).enumerate().all(|(at, (a, b))| a == b || is_first(at))
}
