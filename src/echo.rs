//! `switchyard echo`: a small endpoint for demos and tests. One port answers HTTP/1.1, HTTP/2
//! (prior knowledge), WebSocket, raw TCP and UDP.
//!
//! The answer contains the name of the endpoint, to make load balancing visible: HTTP gets JSON;
//! raw TCP and UDP get their bytes back, after the name and a space if there is a name. After
//! SIGTERM it accepts no more connections and finishes the open ones, as an endpoint should when it
//! is stopped under load.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::flags::parse_address;
use futures_util::{FutureExt, SinkExt, StreamExt};
use http::header::{CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch::{Receiver, Sender};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Long enough for a person to type a first line by hand.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Config {
    /// Address for HTTP, WebSocket, raw TCP and UDP
    #[arg(long, env = "SWITCHYARD_LISTEN", value_name = "ADDR",
        default_value = "127.0.0.1:8000", value_parser = parse_address)]
    listen: SocketAddr,

    /// Name to answer with; raw TCP and UDP answers begin with it
    #[arg(long, env = "SWITCHYARD_NAME", value_name = "NAME")]
    name: Option<String>,

    /// Answer with the host's name; in a container this is the container's own name, different in
    /// each replica
    #[arg(long, env = "SWITCHYARD_HOST_NAME", conflicts_with = "name")]
    host_name: bool,

    /// How long open connections may continue after SIGTERM; keep it below the 10 s that `docker
    /// stop` waits
    #[arg(long, env = "SWITCHYARD_DRAIN_TIMEOUT", value_name = "TIME", default_value = "5s",
        value_parser = daemon::flags::parse_duration)]
    drain_timeout: Duration,
}

/// What an HTTP request gets back.
#[derive(Serialize)]
struct Answer<'a> {
    name: &'a str,
    method: &'a str,
    path: &'a str,
    version: String,
    headers: BTreeMap<&'a str, String>,
    client: SocketAddr,
    body_bytes: u64,
}

impl Config {
    pub(crate) fn named(listen: SocketAddr, name: &str) -> Config {
        let name = Some(name.to_owned());
        Config { listen, name, host_name: false, drain_timeout: Duration::ZERO }
    }
}

/// Serves until SIGTERM or SIGINT, then finishes open connections; a second signal ends it at once.
///
/// # Errors
///
/// When the address cannot be bound.
pub(crate) async fn run(mut config: Config) -> io::Result<()> {
    let end = crate::children::end_signal()?;
    if config.host_name {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
        config.name = Some(name.trim().to_owned());
    }
    serve(config, end).await
}

/// Serves until `end`, then drains.
///
/// # Errors
///
/// When the address cannot be bound.
pub(crate) async fn serve(config: Config, end: impl Future<Output = ()>) -> io::Result<()> {
    let tcp = TcpListener::bind(config.listen).await?;
    let udp = UdpSocket::bind(tcp.local_addr()?).await?;
    tracing::info!(listen = %tcp.local_addr()?, name = config.name, "echo");
    let name: Option<Arc<str>> = config.name.map(Into::into);
    let mut open = Open { name: name.clone(), tasks: JoinSet::new(), draining: Sender::new(false) };
    tokio::select! {
        () = serve_tcp(&tcp, &mut open) => {}
        served = serve_udp(&udp, name.as_deref()) => return served,
        () = end => {}
    }
    // Connections that the kernel has already accepted are served too.
    while let Some(accepted) = tcp.accept().now_or_never() {
        open.take(accepted).await;
    }
    drop(tcp);
    tracing::info!(connections = open.tasks.len(), "draining");
    open.drain(config.drain_timeout).await
}

/// The connections that are open.
struct Open {
    name: Option<Arc<str>>,
    tasks: JoinSet<()>,
    draining: Sender<bool>,
}

impl Open {
    async fn take(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                return;
            }
        };
        let (name, draining) = (self.name.clone(), self.draining.subscribe());
        self.tasks.spawn(async move {
            if let Err(error) = serve_stream(stream, client, name, draining).await {
                tracing::debug!(%client, error, "connection");
            }
        });
    }

    /// Waits until they have ended, until `limit` has passed, or until a second signal.
    async fn drain(mut self, limit: Duration) -> io::Result<()> {
        let second = crate::children::end_signal()?;
        self.draining.send_replace(true);
        tokio::select! {
            () = async { while self.tasks.join_next().await.is_some() {} } => {}
            () = tokio::time::sleep(limit) => {
                tracing::info!(connections = self.tasks.len(), "closed after --drain-timeout");
            }
            () = second => {}
        }
        Ok(())
    }
}

async fn serve_udp(socket: &UdpSocket, name: Option<&str>) -> io::Result<()> {
    let mut reply = prefix(name);
    let from = reply.len();
    let mut buffer = vec![0; 65_535];
    loop {
        // An ICMP error for an earlier reply is reported here; it only concerns that client.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        reply.truncate(from);
        reply.extend_from_slice(&buffer[..length]);
        if let Err(error) = socket.send_to(&reply, client).await {
            tracing::debug!(%client, %error, "udp reply");
        }
    }
}

async fn serve_tcp(listener: &TcpListener, open: &mut Open) {
    loop {
        tokio::select! {
            accepted = listener.accept() => open.take(accepted).await,
            // Forget connections that have ended.
            Some(_) = open.tasks.join_next() => {}
        }
    }
}

type StreamError = Box<dyn std::error::Error + Send + Sync>;

async fn serve_stream(
    mut stream: TcpStream,
    client: SocketAddr,
    name: Option<Arc<str>>,
    mut draining: Receiver<bool>,
) -> Result<(), StreamError> {
    stream.set_nodelay(true)?;
    let mut first = Vec::with_capacity(64);
    let protocol = tokio::time::timeout(FIRST_BYTES_TIMEOUT, async {
        loop {
            match protocol_of(&first) {
                Some(protocol) => return io::Result::Ok(protocol),
                None if stream.read_buf(&mut first).await? == 0 => return Ok(Protocol::Raw),
                None => {}
            }
        }
    })
    .await??;
    let (reader, writer) = stream.into_split();
    let stream = tokio::io::join(io::Cursor::new(first).chain(reader), writer);
    if protocol == Protocol::Raw {
        return Ok(echo_raw(stream, name.as_deref()).await?);
    }
    let name: Arc<str> = name.unwrap_or_else(|| "echo".into());
    let service = service_fn(move |request| answer(request, client, name.clone()));
    let stream = TokioIo::new(stream);
    // The sender may have been dropped, as at the end of the demo: then there is no drain any more.
    let told = async { drop(draining.wait_for(|draining| *draining).await) };
    match protocol {
        Protocol::Http2 => {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let mut connection = pin!(builder.serve_connection(stream, service));
            tokio::select! {
                biased; // A request that has come is in flight before the end is told of.
                served = connection.as_mut() => return Ok(served?),
                () = told => connection.as_mut().graceful_shutdown(),
            }
            connection.await?;
        }
        _ => {
            let builder = hyper::server::conn::http1::Builder::new();
            let connection = builder.serve_connection(stream, service).with_upgrades();
            let mut connection = pin!(connection);
            tokio::select! {
                biased; // A request that has come is in flight before the end is told of.
                served = connection.as_mut() => return Ok(served?),
                () = told => connection.as_mut().graceful_shutdown(),
            }
            connection.await?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    Raw,
}

/// Detects the protocol from the first bytes; `None` if more bytes are needed.
fn protocol_of(first: &[u8]) -> Option<Protocol> {
    const METHODS: [&str; 9] =
        ["GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "PATCH ", "OPTIONS ", "TRACE ", "PRI "];
    if let Some(method) = METHODS.iter().find(|method| first.starts_with(method.as_bytes())) {
        return Some(if *method == "PRI " { Protocol::Http2 } else { Protocol::Http1 });
    }
    let may_become = METHODS.iter().any(|method| method.as_bytes().starts_with(first));
    (!may_become).then_some(Protocol::Raw)
}

async fn echo_raw(stream: impl AsyncRead + AsyncWrite, name: Option<&str>) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    writer.write_all(&prefix(name)).await?;
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await
}

fn prefix(name: Option<&str>) -> Vec<u8> {
    name.map(|name| format!("{name} ").into_bytes()).unwrap_or_default()
}

async fn answer(
    mut request: Request<Incoming>,
    client: SocketAddr,
    name: Arc<str>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    if let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY).cloned() {
        return Ok(accept_websocket(&mut request, key.as_bytes()));
    }
    let mut body_bytes = 0;
    while let Some(frame) = request.body_mut().frame().await {
        body_bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    let mut headers: BTreeMap<&str, String> = BTreeMap::new();
    for (header, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        let all = headers.entry(header.as_str()).or_default();
        *all = if all.is_empty() { value.into_owned() } else { format!("{all}, {value}") };
    }
    let answer = Answer {
        name: &name,
        method: request.method().as_str(),
        path: request.uri().path_and_query().map_or("", |path| path.as_str()),
        version: format!("{:?}", request.version()),
        headers,
        client,
        body_bytes,
    };
    let json = serde_json::to_string(&answer).expect("an answer is plain data") + "\n";
    let mut response = Response::new(Full::new(json.into()));
    let json_type = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json_type);
    Ok(response)
}

/// Switches protocols and sends every text and binary message back.
fn accept_websocket(request: &mut Request<Incoming>, key: &[u8]) -> Response<Full<Bytes>> {
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let echoed = message.is_text() || message.is_binary();
            if echoed && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key)) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        let table: [(&[u8], Option<Protocol>); 8] = [
            (b"", None),
            (b"GE", None),
            (b"GET / HTTP/1.1", Some(Protocol::Http1)),
            (b"P", None),
            (b"PATCH /", Some(Protocol::Http1)),
            (b"PRI * HTTP/2.0", Some(Protocol::Http2)),
            (b"get / ", Some(Protocol::Raw)),
            (b"\x00\x01", Some(Protocol::Raw)),
        ];
        for (first, expected) in table {
            assert_eq!(protocol_of(first), expected, "{first:?}");
        }
    }
}
