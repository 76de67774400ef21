//! Checks what must hold before anything of a request is believed.
//!
//! Pure. Everything that could be read in two ways is refused here, or brought into one form.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderValue};
use http::{Method, Uri, Version};

use crate::body::RequestBody;
use crate::head::{Framing, Occurs, Survey, has_too_many_options};
use crate::refusal::Refusal;
use crate::route::normalise;

/// Fields that a request may have: the limit of the HTTP/1.1 parser, for every HTTP version.
const MAX_FIELDS: usize = 100;

/// What HTTP/2 counts for a field besides its name and value (RFC 9113 section 6.5.2).
pub(crate) const FIELD_OVERHEAD: usize = 32;

/// The size of HTTP/2 heads that are read at all, where so many bytes are allowed: larger by what
/// the fields' overhead comes to, so that a head of either version is refused by the same limit.
pub(crate) fn max_header_list(max_header_bytes: usize) -> u32 {
    let overhead = 2 * MAX_FIELDS * FIELD_OVERHEAD;
    u32::try_from(max_header_bytes.saturating_mul(2).saturating_add(overhead)).unwrap_or(u32::MAX)
}

/// A request that may be forwarded, if there is a route for it.
#[derive(Debug)]
pub(crate) struct Checked<'u, 'h> {
    pub(crate) survey: Survey<'h>,
    pub(crate) framing: Framing,
    pub(crate) authority: Authority<'u>,
    /// The path as it is matched and forwarded.
    pub(crate) path: Cow<'u, str>,
}

/// Host and port that a request is for, as its client wrote them.
#[derive(Debug)]
pub(crate) enum Authority<'u> {
    /// In the target of the request.
    Target(&'u str),
    /// In a Host field, which shares the bytes of the head.
    Field(HeaderValue),
}

impl Authority<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Authority::Target(text) => text,
            Authority::Field(value) => value.to_str().unwrap_or_default(),
        }
    }
}

/// Checks a request's form.
pub(crate) fn check<'u, 'h>(
    method: &Method,
    uri: &'u Uri,
    version: Version,
    headers: &'h HeaderMap,
    body: &RequestBody,
    max_header_bytes: usize,
) -> Result<Checked<'u, 'h>, Refusal> {
    if version == Version::HTTP_2 {
        check_fields(uri, headers, max_header_bytes)?;
    }
    let survey = Survey::of(headers);
    if survey.has_connection && has_too_many_options(headers) {
        return Err(Refusal::Malformed("too many options in Connection"));
    }
    let framing = check_framing(method, &survey, body)?;
    let authority = authority_of(uri, version, &survey)?;
    let path = normalise(uri.path()).map_err(|_| Refusal::Malformed("bad path"))?;
    Ok(Checked { survey, framing, authority, path })
}

/// Checks what the HTTP/1.1 parser sees to by itself: limits, and values that begin or end with
/// white space (RFC 9113 section 8.2.1).
fn check_fields(uri: &Uri, headers: &HeaderMap, max_bytes: usize) -> Result<(), Refusal> {
    if headers.len() > MAX_FIELDS {
        return Err(Refusal::HeadTooLarge);
    }
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let mut bytes = target;
    for (name, value) in headers {
        let value = value.as_bytes();
        if let (Some(b' ' | b'\t'), _) | (_, Some(b' ' | b'\t')) = (value.first(), value.last()) {
            return Err(Refusal::Malformed("a field begins or ends with white space"));
        }
        bytes += name.as_str().len() + value.len();
    }
    if bytes > max_bytes {
        return Err(Refusal::HeadTooLarge);
    }
    Ok(())
}

/// How the body is framed for an endpoint.
fn check_framing(
    method: &Method,
    survey: &Survey<'_>,
    body: &RequestBody,
) -> Result<Framing, Refusal> {
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        return Err(Refusal::Method);
    }
    match survey.transfer_encoding {
        Occurs::Never => {}
        Occurs::Once(coding) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            if !matches!(survey.content_length, Occurs::Never) {
                return Err(Refusal::Malformed("both Transfer-Encoding and Content-Length"));
            }
        }
        _ => return Err(Refusal::Malformed("a transfer coding other than chunked")),
    }
    framing(method, survey.content_length, body.is_ended())
        .ok_or(Refusal::Malformed("bad Content-Length"))
}

/// `None` when the length has no single meaning.
fn framing(method: &Method, length: Occurs<'_>, is_empty: bool) -> Option<Framing> {
    if matches!(length, Occurs::Again) {
        return None;
    }
    if is_empty {
        // An endpoint may wait for a body, or refuse, where these do not say that there is none.
        let expected = matches!(length, Occurs::Once(_))
            || matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        return Some(if expected { Framing::Empty } else { Framing::None });
    }
    match length {
        Occurs::Once(length) => length.to_str().ok()?.parse().ok().map(Framing::Length),
        Occurs::Never | Occurs::Again => Some(Framing::Chunked),
    }
}

fn authority_of<'u>(
    uri: &'u Uri,
    version: Version,
    survey: &Survey<'_>,
) -> Result<Authority<'u>, Refusal> {
    let host = match survey.host {
        Occurs::Never => None,
        Occurs::Once(field) => {
            let text = field.to_str().map_err(|_| Refusal::Malformed("bad Host"))?;
            Some((field, text))
        }
        Occurs::Again => return Err(Refusal::Malformed("more than one Host")),
    };
    match (uri.authority().map(http::uri::Authority::as_str), host) {
        (None, Some((field, _))) => Ok(Authority::Field(field.clone())),
        (Some(named), None) if version == Version::HTTP_2 => Ok(Authority::Target(named)),
        (Some(named), Some((_, host))) => {
            // Over HTTP/2 both mean the same; the target of an HTTP/1.1 request overrides Host
            // (RFC 9112 section 3.2.2).
            if version == Version::HTTP_2 && !named.eq_ignore_ascii_case(host) {
                return Err(Refusal::Malformed("Host is not :authority"));
            }
            Ok(Authority::Target(named))
        }
        (_, None) => Err(Refusal::Malformed("no Host")),
    }
}
