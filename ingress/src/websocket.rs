//! WebSockets over HTTP/2 (RFC 8441): a client asks by CONNECT with `:protocol`, which HTTP/1.1
//! endpoints get as the request that they know (RFC 6455), and their 101 is a 200 to the client.
//!
//! Pure.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use h2::ext::Protocol;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, StatusCode, Version};

/// What is hashed behind a key (RFC 6455 section 1.3).
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A handshake that we make in the client's name.
#[derive(Debug)]
pub(crate) struct Handshake {
    key: HeaderValue,
}

impl Handshake {
    /// Makes a request for a WebSocket what it is over HTTP/1.1; `None` for every other.
    pub(crate) fn begin(parts: &mut Parts, random: impl Fn() -> u64) -> Option<Box<Handshake>> {
        let asks = parts.version == Version::HTTP_2
            && parts.method == Method::CONNECT
            && parts.extensions.get::<Protocol>().is_some_and(|p| p.as_str() == "websocket");
        if !asks {
            return None;
        }
        parts.method = Method::GET;
        let key = BASE64_STANDARD.encode([random(), random()].map(u64::to_ne_bytes).concat());
        let key = HeaderValue::try_from(key).ok()?;
        let headers = &mut parts.headers;
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_KEY, key.clone());
        Some(Box::new(Handshake { key }))
    }

    /// Whether the endpoint's response may go to the client: no other success than a WebSocket,
    /// which the client would take for one.
    pub(crate) fn admits(&self, status: StatusCode, fields: &HeaderMap) -> bool {
        match status {
            StatusCode::SWITCHING_PROTOCOLS => {
                let accept = fields.get(header::SEC_WEBSOCKET_ACCEPT);
                accept.is_some_and(|accept| accept.as_bytes() == accept_of(&self.key).as_bytes())
            }
            _ => !status.is_success(),
        }
    }
}

/// Makes a request for a WebSocket what it is over HTTP/2, and gives its key; `None` for others.
pub(crate) fn over_http2(
    request: &mut Request<()>,
    upgrade: Option<&HeaderValue>,
) -> Option<HeaderValue> {
    upgrade.filter(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))?;
    let key = request.headers_mut().remove(header::SEC_WEBSOCKET_KEY)?;
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    Some(key)
}

/// What an endpoint answers to a key.
pub(crate) fn accept_of(key: &HeaderValue) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(ACCEPT_SUFFIX);
    BASE64_STANDARD.encode(hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_answer_is_a_websocket() {
        // The example of RFC 6455 section 1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let handshake = Handshake { key };
        let fields = |accept: &'static str| -> HeaderMap {
            [(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static(accept))].into_iter().collect()
        };
        let right = fields("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let (switching, ok) = (StatusCode::SWITCHING_PROTOCOLS, StatusCode::OK);
        assert!(handshake.admits(switching, &right));
        assert!(!handshake.admits(switching, &fields("other")));
        assert!(!handshake.admits(switching, &HeaderMap::new()));
        assert!(!handshake.admits(ok, &right));
        assert!(handshake.admits(StatusCode::FORBIDDEN, &HeaderMap::new()));
    }

    #[test]
    fn other_requests_are_left_alone() {
        for (method, protocol) in [("CONNECT", None), ("CONNECT", Some("x")), ("GET", None)] {
            let request = http::Request::builder().method(method).version(Version::HTTP_2);
            let mut parts = request.uri("a.com").body(()).unwrap().into_parts().0;
            if let Some(protocol) = protocol {
                parts.extensions.insert(Protocol::from_static(protocol));
            }
            assert!(Handshake::begin(&mut parts, || 1).is_none());
            assert!(parts.headers.is_empty());
        }
    }
}
