//! Endpoints for tables of raw input. They record each request that arrives in one notation,
//! whatever version of HTTP it came by, so that one table holds for all kinds of endpoints:
//!
//! `METHOD host/path LENGTH:body name=value … +trailer=value …`
//!
//! LENGTH is the announced one, or `*` for a body that only its end delimits; without a body there
//! is none. Fields that we add ourselves are left out. `cut` stands before a request whose body
//! did not end, `BROKEN` before what is no request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::kit::{Endpoint, World, find, ingress, service};
use crate::support::Net;

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http1,
    H2c,
}

/// What has arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    lines: Vec<String>,
    /// Requests whose head has come, and which have not ended.
    open: usize,
}

impl Seen {
    fn begin(&self) {
        self.0.lock().unwrap().open += 1;
    }

    fn end(&self, line: String) {
        let mut noted = self.0.lock().unwrap();
        noted.open -= 1;
        noted.lines.push(line);
    }

    /// All so far, in a row; `None` while a request has begun and not ended.
    pub(crate) fn settled(&self) -> Option<String> {
        let noted = self.0.lock().unwrap();
        (noted.open == 0).then(|| noted.lines.join(" | "))
    }

    /// Forgets all, and gives what it was.
    pub(crate) fn take(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap().lines).join(" | ")
    }
}

/// An ingress that sends a.com to an endpoint of a kind, which records what it gets.
pub(crate) async fn world(kind: Kind, flags: &[&str]) -> (World, Endpoint, Seen) {
    let net = Net::new();
    let seen = Seen::default();
    let (noted, address) = (seen.clone(), net.addr(10, 9000));
    let (endpoint, protocol) = match kind {
        Kind::Http1 => (http1(address, noted).await, "http"),
        Kind::H2c => (h2c(address, noted).await, "kubernetes.io/h2c"),
    };
    let port = format!("targetPort: 9000, appProtocol: {protocol}");
    let manifests = service("web", &["127.N.N.10"]).replace("targetPort: 9000", &port)
        + &ingress("i", &[("a.com", "Prefix", "/", "web")]);
    (World::start_in(net, &manifests, flags), endpoint, seen)
}

async fn http1(address: SocketAddr, seen: Seen) -> Endpoint {
    Endpoint::raw(address, move |mut stream| {
        let seen = seen.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(path) = record_http1(&mut stream, &mut buffer, &seen).await {
                let answer =
                    format!("HTTP/1.1 200 OK\r\nx-at: {path}\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await
}

/// Reads one request, by the letter of RFC 9112; gives its path.
async fn record_http1(stream: &mut TcpStream, buffer: &mut Vec<u8>, seen: &Seen) -> Option<String> {
    let head = read_until(stream, buffer, b"\r\n\r\n").await;
    let Some(head) = head else {
        if !buffer.is_empty() {
            seen.begin();
            seen.end(format!("BROKEN {:?}", String::from_utf8_lossy(buffer)));
        }
        return None;
    };
    seen.begin();
    let text: String = head.iter().map(|byte| char::from(*byte)).collect();
    let Some(mut request) = Line::of_http1(text.strip_suffix("\r\n\r\n").unwrap()) else {
        seen.end(format!("BROKEN {text:?}"));
        return None;
    };
    let body = match (request.length.clone(), request.is_open) {
        (None, true) => read_chunks(stream, buffer).await,
        (Some(length), false) => {
            let length: usize = length.parse().unwrap();
            read_exactly(stream, buffer, length).await.map(|body| (body, Vec::new()))
        }
        _ => Some((Vec::new(), Vec::new())),
    };
    request.is_cut = body.is_none();
    (request.body, request.trailers) = body.unwrap_or_default();
    let path = request.target.clone();
    let is_cut = request.is_cut;
    seen.end(request.text());
    (!is_cut).then_some(path)
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    stream.read_buf(buffer).await.unwrap_or(0) > 0
}

async fn read_until(stream: &mut TcpStream, buffer: &mut Vec<u8>, end: &[u8]) -> Option<Vec<u8>> {
    loop {
        if let Some(at) = find(buffer, end) {
            return Some(buffer.drain(..at + end.len()).collect());
        }
        if !more(stream, buffer).await {
            return None;
        }
    }
}

async fn read_exactly(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    length: usize,
) -> Option<Vec<u8>> {
    while buffer.len() < length {
        if !more(stream, buffer).await {
            return None;
        }
    }
    Some(buffer.drain(..length).collect())
}

type Fields = Vec<(String, String)>;

async fn read_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(Vec<u8>, Fields)> {
    let mut body = Vec::new();
    loop {
        let line = read_until(stream, buffer, b"\r\n").await?;
        let size = std::str::from_utf8(&line[..line.len() - 2]).unwrap();
        let size = usize::from_str_radix(size, 16).expect("a size without anything else");
        if size == 0 {
            break;
        }
        let data = read_exactly(stream, buffer, size + 2).await?;
        assert_eq!(&data[size..], b"\r\n");
        body.extend(&data[..size]);
    }
    let mut trailers = Vec::new();
    loop {
        let line = read_until(stream, buffer, b"\r\n").await?;
        let line = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
        let Some((name, value)) = line.split_once(": ") else {
            assert_eq!(line, "");
            return Some((body, trailers));
        };
        trailers.push((name.to_owned(), value.to_owned()));
    }
}

async fn h2c(address: SocketAddr, seen: Seen) -> Endpoint {
    Endpoint::raw(address, move |stream| {
        let seen = seen.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(record_http2(request, respond, seen.clone()));
            }
        }
    })
    .await
}

async fn record_http2(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, seen: Seen) {
    seen.begin();
    let (parts, mut body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    let fields = |headers: &HeaderMap| -> Fields {
        let value = |value: &http::HeaderValue| {
            value.as_bytes().iter().map(|byte| char::from(*byte)).collect::<String>()
        };
        headers.iter().map(|(name, text)| (name.to_string(), value(text))).collect()
    };
    let mut line = Line {
        method: parts.method.to_string(),
        host: parts.uri.authority().map(ToString::to_string).unwrap_or_default(),
        target: target.to_owned(),
        is_open: !body.is_end_stream(),
        ..Line::default()
    };
    line.take_fields(fields(&parts.headers));
    loop {
        match body.data().await {
            Some(Ok(data)) => line.body.extend(&data),
            Some(Err(_)) => line.is_cut = true,
            None => break,
        }
        if line.is_cut {
            break;
        }
    }
    if !line.is_cut
        && let Ok(Some(trailers)) = body.trailers().await
    {
        line.trailers = fields(&trailers);
    }
    seen.end(line.text());
    let response = Response::builder().header("x-at", target).header("content-length", 0);
    let _ = respond.send_response(response.body(()).unwrap(), true);
}

/// A request as it is noted.
#[derive(Debug, Default)]
struct Line {
    method: String,
    host: String,
    target: String,
    length: Option<String>,
    is_open: bool,
    is_cut: bool,
    body: Vec<u8>,
    fields: Fields,
    trailers: Fields,
}

impl Line {
    fn of_http1(head: &str) -> Option<Line> {
        let mut lines = head.split("\r\n");
        let mut parts = lines.next()?.split(' ');
        let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
        let is_plain = |text: &str| !text.is_empty() && !text.contains(['\r', '\n', '\0']);
        if parts.next().is_some() || version != "HTTP/1.1" || !is_plain(head.get(..1)?) {
            return None;
        }
        let mut line =
            Line { method: method.to_owned(), target: target.to_owned(), ..Line::default() };
        let mut fields = Vec::new();
        for field in lines {
            let (name, value) = field.split_once(": ")?;
            if !is_plain(name) || name.contains(' ') || value.contains(['\r', '\n', '\0']) {
                return None;
            }
            fields.push((name.to_owned(), value.to_owned()));
        }
        line.take_fields(fields);
        Some(line)
    }

    fn take_fields(&mut self, fields: Fields) {
        for (name, value) in fields {
            let own = ["x-real-ip", "x-request-id"].contains(&&*name);
            match &*name {
                "host" => {
                    assert!(self.host.is_empty(), "one host: {} and {value}", self.host);
                    self.host = value;
                }
                "content-length" => assert!(self.length.replace(value).is_none(), "one length"),
                "transfer-encoding" => {
                    assert!(value == "chunked" && !self.is_open);
                    self.is_open = true;
                }
                _ if own || name.starts_with("x-forwarded-") => {}
                _ => self.fields.push((name, value)),
            }
        }
        self.fields.sort();
    }

    fn text(&self) -> String {
        let cut = if self.is_cut { "cut " } else { "" };
        let mut text = format!("{cut}{} {}{}", self.method, self.host, self.target);
        let body = String::from_utf8_lossy(&self.body);
        match &self.length {
            Some(length) => text += &format!(" {length}:{body}"),
            None if self.is_open => text += &format!(" *:{body}"),
            None => {}
        }
        for (name, value) in &self.fields {
            text += &format!(" {name}={value}");
        }
        for (name, value) in &self.trailers {
            text += &format!(" +{name}={value}");
        }
        text
    }
}
