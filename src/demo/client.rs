//! The demo's clients: HTTP over TCP and TLS, UDP, and DNS. Each request uses its own connection or
//! socket, so that each one is balanced separately.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UdpSocket};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Status, body and HTTP version of an answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) version: Version,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The name of the echo endpoint that answered.
    pub(crate) fn name(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(body.get("name")?.as_str()?.to_owned())
    }
}

/// Whether the admin endpoint there answers `/readyz` with 200.
pub(crate) async fn is_ready(admin: SocketAddr) -> bool {
    get(admin, &format!("http://{admin}/readyz")).await.is_ok_and(|answer| answer.status == 200)
}

/// GET over HTTP/1.1 to that address, independent of the host in the URL.
pub(crate) async fn get(address: SocketAddr, url: &str) -> anyhow::Result<Answer> {
    let request = async {
        let stream = TcpStream::connect(address).await?;
        send_http1(stream, url).await
    };
    tokio::time::timeout(TIMEOUT, request).await.context("no answer in time")?
}

/// GET over TLS that trusts only `root`; HTTP/2 if the server supports it.
pub(crate) async fn get_tls(
    address: SocketAddr,
    url: &str,
    root: &CertificateDer<'static>,
) -> anyhow::Result<Answer> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let uri: http::Uri = url.parse()?;
    let host = ServerName::try_from(uri.host().context("a URL with a host")?.to_owned())?;
    let request = async {
        let stream = TcpStream::connect(address).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(host, stream).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => send_http2(stream, url).await,
            _ => send_http1(stream, url).await,
        }
    };
    tokio::time::timeout(TIMEOUT, request).await.context("no answer in time")?
}

async fn send_http1<S>(stream: S, url: &str) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let uri: http::Uri = url.parse()?;
    let host = uri.authority().context("a URL with a host")?.as_str().to_owned();
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let request = Request::get(path).header("host", host).body(Empty::<Bytes>::new())?;
    let answer = read(sender.send_request(request).await?).await;
    connection.abort();
    answer
}

async fn send_http2<S>(stream: S, url: &str) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get(url).body(Empty::<Bytes>::new())?;
    let answer = read(sender.send_request(request).await?).await;
    connection.abort();
    answer
}

async fn read(response: http::Response<hyper::body::Incoming>) -> anyhow::Result<Answer> {
    let (status, version) = (response.status().as_u16(), response.version());
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer { status, version, body })
}

/// Sends one datagram and returns the answer as text.
pub(crate) async fn datagram(address: SocketAddr, payload: &[u8]) -> anyhow::Result<String> {
    let answer = exchange(address, payload).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Asks the DNS server there, over UDP.
pub(crate) async fn resolve(
    server: SocketAddr,
    name: &str,
    record_type: RecordType,
) -> anyhow::Result<Message> {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_ascii(name)?, record_type));
    query.metadata.recursion_desired = true;
    let answer = Message::from_vec(&exchange(server, &query.to_vec()?).await?)?;
    ensure!(answer.metadata.id == query.metadata.id, "an answer to another query");
    Ok(answer)
}

async fn exchange(address: SocketAddr, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let socket = UdpSocket::bind((IpAddr::from(Ipv4Addr::LOCALHOST), 0)).await?;
    socket.connect(address).await?;
    socket.send(payload).await?;
    let mut buffer = vec![0; 4096];
    let length = tokio::time::timeout(TIMEOUT, socket.recv(&mut buffer))
        .await
        .context("no answer in time")??;
    buffer.truncate(length);
    Ok(buffer)
}
