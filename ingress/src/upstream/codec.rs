//! Responses of HTTP/1.1 endpoints: heads and bodies, from bytes.
//!
//! Pure. Strict where a lenient reading could make two messages of one: a length that is not a
//! number, lengths that differ, codings other than chunked, a chunk that does not end where it
//! should. Any of these is the endpoint's fault and ends its connection.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::head::{ResponseConnection, is_forbidden_trailer, is_hop_by_hop};
use crate::interim::InterimHead;

/// Bytes of a response's head, and of the trailers of a chunked body: more than for requests,
/// because endpoints are trusted further than clients, and may set large cookies and policies.
pub(crate) const MAX_HEAD_BYTES: usize = 64 << 10;

/// Fields of a head or of trailers; the same as for requests.
const MAX_FIELDS: usize = 100;

/// The line before a chunk: sixteen digits of size, and extensions that nobody uses.
const MAX_CHUNK_LINE: usize = 1024;

/// Why a response cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadResponse {
    #[error("the response's head is malformed")]
    Head,
    #[error("the response's head is too large")]
    TooLarge,
    #[error("the response's Content-Length is not one number")]
    Length,
    #[error("the response has a transfer coding other than chunked")]
    Coding,
    #[error("the response changes protocols unasked")]
    Unasked,
    #[error("the response's chunks are malformed")]
    Chunk,
    #[error("the response ended early")]
    Truncated,
}

/// The head of a final response.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    /// The reason phrase, where it is not the usual one of the status.
    pub(crate) reason: Option<Bytes>,
    pub(crate) body: Decoder,
    /// Whether the connection may be used again once the body has ended.
    pub(crate) keep_alive: bool,
    /// For 101: the protocol that the endpoint changes to.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// What a response's form depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) is_head: bool,
    pub(crate) upgrade: bool,
    /// The client takes interim responses.
    pub(crate) interim: bool,
}

/// The interim responses (1xx) that came before the final one. There may be any number: the time of
/// the final one is limited.
#[derive(Debug, Default)]
pub(crate) struct Interim {
    /// Any came.
    pub(crate) is_any: bool,
    /// The endpoint wants the request's body.
    pub(crate) is_continued: bool,
    /// The last one, as it is to be passed on.
    pub(crate) passed: Option<InterimHead>,
}

/// Reads the head of a final response from the front of `buffer`; `None` when it is not all there,
/// or there is an interim one to be passed on first. Fields that are forwarded are put into
/// `headers`, which is empty.
pub(crate) fn read_head(
    buffer: &mut BytesMut,
    headers: &mut HeaderMap,
    asked: Asked,
    interim: &mut Interim,
) -> Result<Option<Head>, BadResponse> {
    loop {
        let Some(end) = head_end(buffer) else {
            let full = buffer.len() >= MAX_HEAD_BYTES;
            return if full { Err(BadResponse::TooLarge) } else { Ok(None) };
        };
        if end > MAX_HEAD_BYTES {
            return Err(BadResponse::TooLarge);
        }
        let bytes = buffer.split_to(end).freeze();
        if let Some(head) = parse_head(&bytes, headers, asked)? {
            return Ok(Some(head));
        }
        interim.is_any = true;
        match passed_on(&bytes)? {
            None => interim.is_continued = true,
            Some(passed) if asked.interim => {
                interim.passed = Some(passed);
                return Ok(None);
            }
            Some(_) => {}
        }
    }
}

/// An interim response as a client gets it; `None` for 100 (Continue), which each hop sends for
/// itself.
fn passed_on(bytes: &Bytes) -> Result<Option<InterimHead>, BadResponse> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    if !matches!(response.parse(bytes), Ok(httparse::Status::Complete(_))) {
        return Err(BadResponse::Head);
    }
    let status = StatusCode::from_u16(response.code.unwrap_or_default());
    let status = status.map_err(|_| BadResponse::Head)?;
    if status == StatusCode::CONTINUE {
        return Ok(None);
    }
    let mut headers = HeaderMap::new();
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadResponse::Head)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value))
            .map_err(|_| BadResponse::Head)?;
        if InterimHead::passes(&name) {
            headers.append(name, value);
        }
    }
    Ok(Some(InterimHead { status, headers }))
}

/// Where the head ends: behind its first empty line.
fn head_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', bytes).find_map(|at| match &bytes[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// A complete head; `None` for an interim response.
fn parse_head(
    bytes: &Bytes,
    headers: &mut HeaderMap,
    asked: Asked,
) -> Result<Option<Head>, BadResponse> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    match parser.parse_response_with_uninit_headers(&mut response, bytes, &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(BadResponse::TooLarge),
        _ => return Err(BadResponse::Head),
    }
    let status = StatusCode::from_u16(response.code.unwrap_or_default());
    let status = status.map_err(|_| BadResponse::Head)?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(None);
    }
    let usual = status.canonical_reason().unwrap_or_default();
    let reason = response.reason.filter(|reason| !reason.is_empty() && *reason != usual);
    let reason = reason.map(|reason| bytes.slice_ref(reason.as_bytes()));
    let is_http_11 = response.version == Some(1);
    let mut facts = Facts::default();
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadResponse::Head)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value))
            .map_err(|_| BadResponse::Head)?;
        facts.take(name, value, headers)?;
    }
    for name in &facts.connection.named {
        headers.remove(name);
    }
    let mut head = facts.into_head(status, is_http_11, headers, asked)?;
    head.reason = reason;
    Ok(Some(head))
}

/// What the fields of a head say about its message.
#[derive(Debug, Default)]
struct Facts {
    connection: ResponseConnection,
    length: Option<u64>,
    chunked: bool,
    upgrade: Option<HeaderValue>,
}

impl Facts {
    /// Keeps what a field says, and the field itself if it is forwarded.
    fn take(
        &mut self,
        name: HeaderName,
        value: HeaderValue,
        headers: &mut HeaderMap,
    ) -> Result<(), BadResponse> {
        match name {
            header::CONTENT_LENGTH => {
                let length = parse_length(value.as_bytes()).ok_or(BadResponse::Length)?;
                match self.length.replace(length) {
                    None => {
                        headers.insert(name, value);
                    }
                    Some(other) if other != length => return Err(BadResponse::Length),
                    Some(_) => {}
                }
            }
            header::TRANSFER_ENCODING => {
                // Twice chunked, or anything under it, is a body that we cannot read.
                if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(BadResponse::Coding);
                }
                self.chunked = true;
            }
            header::CONNECTION => self.connection.add(&value),
            header::UPGRADE => self.upgrade = Some(value),
            _ if is_hop_by_hop(&name) => {}
            _ => {
                headers.append(name, value);
            }
        }
        Ok(())
    }

    fn into_head(
        self,
        status: StatusCode,
        is_http_11: bool,
        headers: &mut HeaderMap,
        asked: Asked,
    ) -> Result<Head, BadResponse> {
        let persistent = if is_http_11 {
            !self.connection.close
        } else {
            self.connection.keep_alive && !self.connection.close
        };
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let upgrade = self.upgrade.filter(|_| asked.upgrade && self.connection.upgrade);
            let upgrade = Some(upgrade.ok_or(BadResponse::Unasked)?);
            headers.remove(header::CONTENT_LENGTH);
            return Ok(Head {
                status,
                reason: None,
                body: Decoder::ENDED,
                keep_alive: false,
                upgrade,
            });
        }
        if self.chunked && !is_http_11 {
            return Err(BadResponse::Coding);
        }
        if status == StatusCode::NO_CONTENT || self.chunked {
            headers.remove(header::CONTENT_LENGTH);
        }
        let no_body =
            asked.is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let body = match self.length {
            _ if no_body => Decoder::ENDED,
            _ if self.chunked => Decoder(Body::Chunked(Chunks::Line)),
            Some(0) => Decoder::ENDED,
            Some(length) => Decoder(Body::Length(length)),
            None => Decoder(Body::UntilClose),
        };
        let keep_alive = persistent && !matches!(body.0, Body::UntilClose);
        Ok(Head { status, reason: None, body, keep_alive, upgrade: None })
    }
}

/// Digits only: no sign, no list, no overflow.
fn parse_length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// Reads a response's body from the bytes that follow its head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoder(Body);

#[derive(Debug, PartialEq, Eq)]
enum Body {
    Ended,
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

/// Where in a chunked body we are.
#[derive(Debug, PartialEq, Eq)]
enum Chunks {
    Line,
    Data(u64),
    DataEnd,
    Trailers,
}

/// What the bytes so far hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body has ended; nothing more is its.
    End,
    /// More bytes must be read first.
    Short,
}

impl Decoder {
    pub(crate) const ENDED: Decoder = Decoder(Body::Ended);

    pub(crate) fn is_ended(&self) -> bool {
        self.0 == Body::Ended
    }

    /// The bytes of the body to come, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.0 {
            Body::Ended => Some(0),
            Body::Length(length) => Some(length),
            Body::Chunked(_) | Body::UntilClose => None,
        }
    }

    /// Takes the next piece from the front of `buffer`.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BadResponse> {
        match &mut self.0 {
            Body::Ended => Ok(Decoded::End),
            _ if buffer.is_empty() => Ok(Decoded::Short),
            Body::UntilClose => Ok(Decoded::Data(buffer.split().freeze())),
            Body::Length(left) => {
                let data = take(buffer, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    self.0 = Body::Ended;
                }
                Ok(Decoded::Data(data))
            }
            Body::Chunked(chunks) => {
                let decoded = chunks.decode(buffer)?;
                if matches!(decoded, Decoded::End | Decoded::Trailers(_)) {
                    self.0 = Body::Ended;
                }
                Ok(decoded)
            }
        }
    }

    /// The endpoint has closed: the end of a body that has no other, an error for all else.
    pub(crate) fn close(&mut self) -> Result<(), BadResponse> {
        match std::mem::replace(&mut self.0, Body::Ended) {
            Body::Ended | Body::UntilClose => Ok(()),
            Body::Length(_) | Body::Chunked(_) => Err(BadResponse::Truncated),
        }
    }
}

impl Chunks {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BadResponse> {
        loop {
            match self {
                Chunks::Line => {
                    let Some(end) = memchr::memchr(b'\n', buffer) else {
                        let endless = buffer.len() > MAX_CHUNK_LINE;
                        return if endless { Err(BadResponse::Chunk) } else { Ok(Decoded::Short) };
                    };
                    let size = chunk_size(&buffer[..end]).ok_or(BadResponse::Chunk)?;
                    buffer.advance(end + 1);
                    *self = if size == 0 { Chunks::Trailers } else { Chunks::Data(size) };
                }
                Chunks::Data(_) if buffer.is_empty() => return Ok(Decoded::Short),
                Chunks::Data(left) => {
                    let data = take(buffer, *left);
                    *left -= data.len() as u64;
                    if *left == 0 {
                        *self = Chunks::DataEnd;
                    }
                    return Ok(Decoded::Data(data));
                }
                Chunks::DataEnd => match &buffer[..] {
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        *self = Chunks::Line;
                    }
                    [] | [b'\r'] => return Ok(Decoded::Short),
                    _ => return Err(BadResponse::Chunk),
                },
                Chunks::Trailers => return read_trailers(buffer),
            }
        }
    }
}

fn take(buffer: &mut BytesMut, most: u64) -> Bytes {
    let length = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
    buffer.split_to(length).freeze()
}

/// The size on the line before a chunk, which ends in CR; extensions are passed over.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r").filter(|line| line.len() <= MAX_CHUNK_LINE)?;
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    let extension = rest.trim_ascii_start();
    let plain = |b: &u8| *b == b'\t' || !b.is_ascii_control();
    if !(extension.is_empty() || extension.starts_with(b";")) || !extension.iter().all(plain) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()
}

fn read_trailers(buffer: &mut BytesMut) -> Result<Decoded, BadResponse> {
    match &buffer[..] {
        [b'\r', b'\n', ..] => {
            buffer.advance(2);
            return Ok(Decoded::End);
        }
        [] | [b'\r'] => return Ok(Decoded::Short),
        _ => {}
    }
    let Some(end) = head_end(buffer) else {
        let endless = buffer.len() > MAX_HEAD_BYTES;
        return if endless { Err(BadResponse::TooLarge) } else { Ok(Decoded::Short) };
    };
    let bytes = buffer.split_to(end).freeze();
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&bytes, &mut fields)
    else {
        return Err(BadResponse::Chunk);
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
        match (name, value) {
            (Ok(name), Ok(value)) if !is_forbidden_trailer(&name) => {
                trailers.append(name, value);
            }
            (Ok(_), Ok(_)) => {}
            _ => return Err(BadResponse::Chunk),
        }
    }
    Ok(Decoded::Trailers(trailers))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GET: Asked = Asked { is_head: false, upgrade: false, interim: false };

    /// The response as lines: status, fields, then the pieces of its body and what was left.
    fn read(bytes: &[u8], asked: Asked, step: usize) -> Result<Vec<String>, BadResponse> {
        let mut lines = Vec::new();
        let mut buffer = BytesMut::new();
        let mut headers = HeaderMap::new();
        let mut steps = bytes.chunks(step);
        let mut interim = Interim::default();
        let mut head = loop {
            match read_head(&mut buffer, &mut headers, asked, &mut interim)? {
                Some(head) => break head,
                None => match steps.next() {
                    Some(step) => buffer.extend_from_slice(step),
                    None => return Ok(vec!["short".to_owned()]),
                },
            }
        };
        lines.push(format!("{} keep-alive {}", head.status.as_u16(), head.keep_alive));
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        lines.extend(headers.iter().map(text));
        lines[1..].sort();
        let mut data = Vec::new();
        loop {
            match head.body.decode(&mut buffer)? {
                Decoded::Data(piece) => data.extend_from_slice(&piece),
                Decoded::Trailers(trailers) => {
                    lines.extend(trailers.iter().map(|field| format!("trailer {}", text(field))));
                    break;
                }
                Decoded::End => break,
                Decoded::Short => match steps.next() {
                    Some(step) => buffer.extend_from_slice(step),
                    None => {
                        head.body.close()?;
                        break;
                    }
                },
            }
        }
        assert!(head.body.is_ended());
        steps.for_each(|step| buffer.extend_from_slice(step));
        lines.push(format!("body {}", String::from_utf8_lossy(&data)));
        if !buffer.is_empty() {
            lines.push(format!("left {}", String::from_utf8_lossy(&buffer)));
        }
        Ok(lines)
    }

    #[track_caller]
    fn check(asked: Asked, response: &str, expected: &[&str]) {
        for step in [1, 2, 3, 7, response.len()] {
            let found = read(response.as_bytes(), asked, step);
            let expected = expected.iter().map(|line| (*line).to_owned()).collect();
            assert_eq!(found, Ok(expected), "{response:?} in steps of {step}");
        }
    }

    #[track_caller]
    fn refuse(asked: Asked, response: &str, expected: BadResponse) {
        for step in [1, 3, response.len()] {
            assert_eq!(read(response.as_bytes(), asked, step), Err(expected), "{response:?}");
        }
    }

    #[test]
    fn bodies_end_where_the_head_says() {
        check(
            GET,
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhelloHTTP/1.1",
            &["200 keep-alive true", "content-length: 5", "x-a: b", "body hello", "left HTTP/1.1"],
        );
        check(
            GET,
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            &["200 keep-alive true", "content-length: 0", "body "],
        );
        check(
            GET,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 99\r\n\r\n\
             5;a=b\r\nhello\r\n00A \r\n, world!!!\r\n0\r\n\r\nX",
            &["200 keep-alive true", "body hello, world!!!", "left X"],
        );
        check(
            GET,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\
             grpc-status: 0\r\nContent-Length: 9\r\nx-forwarded-for: 1\r\n\r\n",
            &["200 keep-alive true", "trailer grpc-status: 0", "body a"],
        );
        check(
            GET,
            "HTTP/1.1 200 OK\r\n\r\nuntil close",
            &["200 keep-alive false", "body until close"],
        );
        check(
            GET,
            "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
            &["200 keep-alive false", "content-length: 1", "body a"],
        );
        check(
            GET,
            "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\na",
            &["200 keep-alive true", "content-length: 1", "body a"],
        );
        check(
            GET,
            "HTTP/1.1 200 OK\nContent-Length: 1\n\na",
            &["200 keep-alive true", "content-length: 1", "body a"],
        );
    }

    #[test]
    fn responses_without_a_body() {
        let head = Asked { is_head: true, ..GET };
        check(
            head,
            "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
            &["200 keep-alive true", "content-length: 500", "body "],
        );
        check(
            head,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            &["200 keep-alive true", "body "],
        );
        check(
            GET,
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            &["204 keep-alive true", "body "],
        );
        check(
            GET,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            &["304 keep-alive true", "content-length: 5", "body "],
        );
    }

    #[test]
    fn fields_of_one_hop_stay_behind() {
        check(
            GET,
            "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
             Proxy-Authenticate: x\r\nUpgrade: h2\r\nContent-Length: 0\r\nSet-Cookie: a\r\n\
             Set-Cookie: b\r\n\r\n",
            &[
                "200 keep-alive false",
                "content-length: 0",
                "set-cookie: a",
                "set-cookie: b",
                "body ",
            ],
        );
    }

    #[test]
    fn interim_responses_are_passed_over() {
        check(
            GET,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            &["200 keep-alive true", "content-length: 0", "body "],
        );
        let many = "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000);
        let last = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        check(GET, &(many + last), &["200 keep-alive true", "content-length: 0", "body "]);
    }

    #[test]
    fn an_interim_response_is_passed_on_without_what_frames_a_message() {
        let early = "HTTP/1.1 103 Whatever\r\nLink: </a>; rel=preload\r\nConnection: x\r\n\
                     Content-Length: 7\r\nKeep-Alive: 5\r\n\r\n";
        let all = format!("HTTP/1.1 100 Continue\r\n\r\n{early}HTTP/1.1 200 OK\r\n\r\n");
        let (mut buffer, mut interim) = (BytesMut::from(&*all), Interim::default());
        let asked = Asked { interim: true, ..GET };
        let mut headers = HeaderMap::new();
        let mut read =
            |interim: &mut Interim| read_head(&mut buffer, &mut headers, asked, interim).unwrap();
        assert!(read(&mut interim).is_none());
        assert!(interim.is_any && interim.is_continued);
        let passed = String::from_utf8(interim.passed.take().unwrap().to_http1()).unwrap();
        let expected = "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n";
        assert_eq!(passed, expected);
        assert_eq!(read(&mut interim).unwrap().status, 200);
    }

    #[test]
    fn protocols_change_only_when_asked() {
        let response = "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbytes";
        let asked = Asked { upgrade: true, ..GET };
        check(asked, response, &["101 keep-alive false", "body ", "left bytes"]);
        refuse(GET, response, BadResponse::Unasked);
        refuse(asked, "HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n", BadResponse::Unasked);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let ok = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n1\r\na\r\n0\r\n\r\n");
        let table = [
            ("Content-Length: 5, 5", BadResponse::Length),
            ("Content-Length: +5", BadResponse::Length),
            ("Content-Length: 5\r\nContent-Length: 6", BadResponse::Length),
            ("Content-Length: 99999999999999999999", BadResponse::Length),
            ("Content-Length:", BadResponse::Length),
            ("Transfer-Encoding: gzip, chunked", BadResponse::Coding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", BadResponse::Coding),
            ("Transfer-Encoding: xchunked", BadResponse::Coding),
            ("X : y", BadResponse::Head),
            ("X: y\r\n folded: z", BadResponse::Head),
            ("X\0: y", BadResponse::Head),
        ];
        for (fields, expected) in table {
            refuse(GET, &ok(fields), expected);
        }
        refuse(GET, "HTTP/2 200 OK\r\n\r\n", BadResponse::Head);
        refuse(GET, "SSH-2.0-OpenSSH\r\n\r\n", BadResponse::Head);
        refuse(GET, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", BadResponse::Coding);
        let many = "X: y\r\n".repeat(101);
        refuse(GET, &format!("HTTP/1.1 200 OK\r\n{many}\r\n"), BadResponse::TooLarge);
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(MAX_HEAD_BYTES));
        assert_eq!(read(long.as_bytes(), GET, long.len()), Err(BadResponse::TooLarge));
    }

    #[test]
    fn chunks_that_are_not_are_refused() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let bodies = [
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "0x1\r\n",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1 a\r\na\r\n",
            "11111111111111111\r\n",
            "1;\x01\r\na\r\n",
            "0\r\nbad trailer\r\n\r\n",
        ];
        for body in bodies {
            refuse(GET, &format!("{head}{body}"), BadResponse::Chunk);
        }
        let endless = format!("{head}{}", "1".repeat(MAX_CHUNK_LINE + 1));
        refuse(GET, &endless, BadResponse::Chunk);
        for body in ["", "5\r\nhel", "5\r\nhello\r\n", "0\r\n", "0\r\nx: y\r\n"] {
            refuse(GET, &format!("{head}{body}"), BadResponse::Truncated);
        }
        refuse(GET, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", BadResponse::Truncated);
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_a_result(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes, GET, 16);
            let mut chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            chunked.extend_from_slice(&bytes);
            let _ = read(&chunked, GET, 16);
        }

        #[test]
        fn chunks_come_out_as_they_went_in(
            pieces in prop::collection::vec("[a-z]{1,40}", 0..8),
            step in 1_usize..60,
        ) {
            let mut response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
            for piece in &pieces {
                response.push_str(&format!("{:X}\r\n{piece}\r\n", piece.len()));
            }
            response.push_str("0\r\n\r\nnext");
            let expected = format!("body {}", pieces.concat());
            let found = read(response.as_bytes(), GET, step).unwrap();
            prop_assert_eq!(&found[1..], &[expected, "left next".to_owned()]);
        }
    }
}
