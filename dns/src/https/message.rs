//! DNS messages in HTTP requests and responses (RFC 8484).
//!
//! Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use crate::wire::name::skip;
use crate::wire::record::Records;
use crate::wire::{HEADER_LEN, Rcode, Type, flag, u16_at};

/// The path of the service. RFC 8484 leaves it to configuration; clients use this one by default.
const PATH: &str = "/dns-query";
const MEDIA_TYPE: &str = "application/dns-message";

/// Where a request has its query.
#[derive(Debug, PartialEq)]
pub(super) enum Place {
    /// In its target: this.
    Target(Vec<u8>),
    Body,
}

/// Why a request is not a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    BadRequest(&'static str),
    NotFound,
    Method,
    TooLarge,
    MediaType,
}

impl Place {
    pub(super) fn of(request: &Parts) -> Result<Place, Refusal> {
        if request.uri.path() != PATH {
            return Err(Refusal::NotFound);
        }
        match request.method {
            Method::GET => in_target(request.uri.query().unwrap_or_default()).map(Place::Target),
            Method::POST => {
                let content_type = request.headers.get(CONTENT_TYPE);
                if !content_type.is_some_and(is_dns_message) {
                    return Err(Refusal::MediaType);
                }
                Ok(Place::Body)
            }
            _ => Err(Refusal::Method),
        }
    }
}

fn is_dns_message(value: &HeaderValue) -> bool {
    let text = value.to_str().unwrap_or_default();
    let media_type = text.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case(MEDIA_TYPE)
}

/// The message of the parameter `dns`, in base64url without padding (RFC 8484 section 6).
fn in_target(query: &str) -> Result<Vec<u8>, Refusal> {
    let mut parameters = query.split('&').filter_map(|part| part.strip_prefix("dns="));
    let encoded = parameters.next().ok_or(Refusal::BadRequest("the parameter `dns` is missing"))?;
    // Some clients pad all the same.
    let message = URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('='));
    message.map_err(|_| Refusal::BadRequest("the parameter `dns` is not base64url"))
}

/// The response with the reply to a query.
pub(super) fn answer(reply: Vec<u8>) -> Response<Vec<u8>> {
    let age = max_age(&reply).unwrap_or_default();
    let mut response = Response::new(reply);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    let age = HeaderValue::try_from(format!("max-age={age}"));
    headers.insert(CACHE_CONTROL, age.expect("a number and letters"));
    response
}

/// The response to a request that is not a query.
pub(super) fn refuse(refusal: Refusal) -> Response<Vec<u8>> {
    let (status, text) = match refusal {
        Refusal::BadRequest(text) => (StatusCode::BAD_REQUEST, text),
        Refusal::NotFound => (StatusCode::NOT_FOUND, "DNS queries go to /dns-query"),
        Refusal::Method => (StatusCode::METHOD_NOT_ALLOWED, "use GET or POST"),
        Refusal::TooLarge => {
            (StatusCode::PAYLOAD_TOO_LARGE, "a DNS message has at most 65535 octets")
        }
        Refusal::MediaType => {
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/dns-message")
        }
    };
    let mut response = Response::new(format!("{text}\n").into_bytes());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if refusal == Refusal::Method {
        headers.insert(ALLOW, HeaderValue::from_static("GET, POST"));
    }
    response
}

/// How long a reply may be cached, in seconds: no longer than any of its answers, or than the SOA
/// of a negative answer says (RFC 8484 section 5.1). `None` if it must not be.
fn max_age(reply: &[u8]) -> Option<u32> {
    let rcode = Rcode(u16_at(reply, 2)? & flag::RCODE);
    if rcode != Rcode::NOERROR && rcode != Rcode::NXDOMAIN {
        return None;
    }
    let count = |at: usize| u16_at(reply, at).map(usize::from);
    let (questions, answers, authority) = (count(4)?, count(6)?, count(8)?);
    let mut at = HEADER_LEN;
    for _ in 0..questions {
        at = skip(reply, at)? + 4;
    }
    let mut records = Records::new(reply, at, answers + authority);
    let mut age: Option<u32> = None;
    for index in 0..answers + authority {
        let record = records.next()??;
        let ttl = match record.rtype {
            _ if index < answers => record.ttl,
            Type::SOA => {
                let minimum = record.rdata(reply).last_chunk()?;
                record.ttl.min(u32::from_be_bytes(*minimum))
            }
            _ => continue,
        };
        age = Some(age.map_or(ttl, |age| age.min(ttl)));
    }
    age
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn where_requests_have_their_query() {
        let check = |method: &str, uri: &str, kind: &str, expected: Result<Place, Refusal>| {
            let place = Place::of(&parts(method, uri, &[("content-type", kind)]));
            assert_eq!(place, expected, "{method} {uri} {kind}");
        };
        // The example of RFC 8484 section 4.1.1.
        let encoded = "AAABAAABAAAAAAAAA3d3dwdleGFtcGxlA2NvbQAAAQAB";
        let message = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01";
        let target = || Ok(Place::Target(message.to_vec()));
        check("GET", &format!("/dns-query?dns={encoded}"), "", target());
        check("GET", &format!("/dns-query?ct=x&dns={encoded}="), "", target());
        check("GET", "/dns-query?dns=-_8", "", Ok(Place::Target(vec![0xfb, 0xff])));
        let missing = Err(Refusal::BadRequest("the parameter `dns` is missing"));
        check("GET", "/dns-query", "", missing);
        let not_base64 = || Err(Refusal::BadRequest("the parameter `dns` is not base64url"));
        check("GET", "/dns-query?dns=+/", "", not_base64());
        check("GET", "/dns-query?dns=A", "", not_base64());
        check("GET", "/", "", Err(Refusal::NotFound));
        check("POST", "/dns-query/", MEDIA_TYPE, Err(Refusal::NotFound));
        check("POST", "/dns-query", MEDIA_TYPE, Ok(Place::Body));
        check("POST", "/dns-query", "Application/DNS-Message; x=y", Ok(Place::Body));
        check("POST", "/dns-query", "application/json", Err(Refusal::MediaType));
        check("POST", "/dns-query", "", Err(Refusal::MediaType));
        check("PUT", "/dns-query", MEDIA_TYPE, Err(Refusal::Method));
        check("HEAD", "/dns-query", "", Err(Refusal::Method));
    }

    #[test]
    fn how_long_replies_may_be_cached() {
        const A: &[u8] = b"\0\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04";
        const SHORTER: &[u8] = b"\0\0\x01\0\x01\0\0\0\x1e\0\x04\x01\x02\x03\x05";
        const SOA: &[u8] = b"\0\0\x06\0\x01\0\0\0\x3c\0\x16\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\
            \0\0\0\x04\0\0\0\x09";
        const NS: &[u8] = b"\0\0\x02\0\x01\0\0\0\x01\0\x01\0";
        let check = |rcode: u8, answers: &[&[u8]], authority: &[&[u8]], age: Option<u32>| {
            let counts = [answers.len() as u8, authority.len() as u8];
            let header = [0, 0, 0x80, rcode, 0, 1, 0, counts[0], 0, counts[1], 0, 0];
            let question = b"\0\0\x01\0\x01";
            let reply = [&header[..], question, &answers.concat(), &authority.concat()].concat();
            assert_eq!(max_age(&reply), age, "{rcode} {answers:?} {authority:?}");
        };
        check(0, &[A], &[], Some(60));
        check(0, &[A, SHORTER], &[NS], Some(30));
        check(0, &[], &[SOA], Some(9));
        check(3, &[], &[NS, SOA], Some(9));
        check(3, &[A], &[SOA], Some(9));
        check(0, &[], &[], None);
        check(0, &[], &[NS], None);
        check(2, &[A], &[], None);
        check(5, &[], &[SOA], None);
        check(0, &[&A[..9]], &[], None);
        assert_eq!(max_age(b""), None);
    }
}
