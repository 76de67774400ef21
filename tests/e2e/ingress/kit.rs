//! Shared by the tests of the ingress: an ingress with its folder, endpoints that record what they
//! get, and clients for each version of HTTP.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::support::{Folder, Net, PATIENCE, Switchyard};

/// An ingress with a folder and addresses of its own.
pub(crate) struct World {
    pub(crate) net: Net,
    pub(crate) folder: Folder,
    pub(crate) ingress: Switchyard,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
}

impl World {
    /// Starts an ingress in a network, for these manifests; `127.N.N.` in them is replaced by the
    /// network.
    pub(crate) fn start_in(net: Net, manifests: &str, flags: &[&str]) -> World {
        let folder = Folder::new();
        folder.replace("all.yaml", &net.fill(manifests));
        let (http, https) = (net.addr(1, 8080), net.addr(1, 8443));
        let path = folder.path().display().to_string();
        let (http_arg, https_arg) = (http.to_string(), https.to_string());
        let mut args = vec!["ingress", "--feed", &path, "--http", &http_arg, "--https", &https_arg];
        args.extend(["--log", "warn,feed=error"]);
        args.extend(flags);
        let ingress = Switchyard::ready(net.addr(1, 7421), &args);
        World { net, folder, ingress, http, https }
    }

    /// The same, with its log in a file, filtered by `filter`.
    pub(crate) fn start_logged(net: Net, manifests: &str, filter: &str) -> (World, PathBuf) {
        World::start_writing(net, manifests, &["--log", filter], Stdio::null())
    }

    /// The same, with standard output written to `stdout`.
    pub(crate) fn start_writing(
        net: Net,
        manifests: &str,
        flags: &[&str],
        stdout: impl Into<Stdio>,
    ) -> (World, PathBuf) {
        let folder = Folder::new();
        folder.replace("all.yaml", &net.fill(manifests));
        let (http, https) = (net.addr(1, 8080), net.addr(1, 8443));
        let admin = net.addr(1, 7421);
        let log = folder.file(".ingress.log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.arg("ingress").arg("--feed").arg(folder.path());
        command.args(["--http", &http.to_string(), "--https", &https.to_string()]);
        command.args(["--admin", &admin.to_string(), "--workers", "1"]).args(flags);
        command.stderr(std::fs::File::create(&log).unwrap()).stdout(stdout);
        let ingress = Switchyard::spawn(command, admin);
        crate::support::eventually("ready", || {
            (ingress.admin_get("/readyz").0 == 200).then_some(())
        });
        (World { net, folder, ingress, http, https }, log)
    }

    /// Replaces the manifests.
    pub(crate) fn replace(&self, manifests: &str) {
        self.folder.replace("all.yaml", &self.net.fill(manifests));
    }

    /// The problems, warnings and notes in `/status`, as `object: message`.
    pub(crate) fn problems(&self) -> Vec<String> {
        let status = self.ingress.status();
        let of = |level: &str| status["ingress"][level].as_array().unwrap().clone();
        let all = ["problems", "warnings", "notes"].into_iter().flat_map(of);
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        all.map(|p| format!("{}: {}", text(&p["object"]), text(&p["message"]))).collect()
    }

    /// The value of a metric, with its labels if it has any.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.ingress.admin_get("/metrics").1;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// A Service with port 80, named http, and its endpoints at port 9000 of these addresses.
pub(crate) fn service(name: &str, endpoints: &[&str]) -> String {
    let mut yaml = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  ports: [{{name: http, port: 80, targetPort: 9000}}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: default, \
         labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 9000}}]\n"
    );
    if endpoints.is_empty() {
        yaml.push_str("endpoints: []\n");
    } else {
        yaml.push_str("endpoints:\n");
        for endpoint in endpoints {
            writeln!(yaml, "- addresses: [{endpoint}]").unwrap();
        }
    }
    yaml
}

/// An Ingress with rules of host, path type, path and Service, one path a rule.
pub(crate) fn ingress(name: &str, rules: &[(&str, &str, &str, &str)]) -> String {
    let mut yaml = format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\n\
         metadata: {{name: {name}, namespace: default}}\n\
         spec:\n  ingressClassName: switchyard\n  rules:\n"
    );
    for (host, path_type, path, service) in rules {
        if host.is_empty() {
            writeln!(yaml, "  - http:").unwrap();
        } else {
            writeln!(yaml, "  - host: '{host}'\n    http:").unwrap();
        }
        writeln!(
            yaml,
            "      paths: [{{path: {path}, pathType: {path_type}, \
             backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}]"
        )
        .unwrap();
    }
    yaml
}

/// An Ingress that sends all of a host to a Service, with annotations as `key: value` lines.
pub(crate) fn annotated(
    name: &str,
    host: &str,
    service: &str,
    annotations: &[(&str, &str)],
) -> String {
    let lines: String =
        annotations.iter().map(|(key, value)| format!("    {key}: '{value}'\n")).collect();
    let metadata = format!("metadata:\n  name: {name}\n  namespace: default\n  annotations:\n");
    let plain = format!("metadata: {{name: {name}, namespace: default}}\n");
    ingress(name, &[(host, "Prefix", "/", service)]).replace(&plain, &(metadata + &lines))
}

/// A `kubernetes.io/tls` Secret.
pub(crate) fn secret(name: &str, certificate: &str, key: &str) -> String {
    let indent = |text: &str| text.lines().map(|l| format!("    {l}\n")).collect::<String>();
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\n\
         type: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indent(certificate),
        indent(key)
    )
}

/// A server that records requests; it ends when dropped.
pub(crate) struct Endpoint {
    task: JoinHandle<()>,
    seen: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl Endpoint {
    /// Answers each request with its own name and the request as it arrived.
    pub(crate) async fn echo(address: SocketAddr, name: &str) -> Endpoint {
        let name = name.to_owned();
        Endpoint::answering(address, move |seen| {
            let body = format!("{name}\n{seen}");
            format!(
                "HTTP/1.1 200 OK\r\nx-endpoint: {name}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        })
        .await
    }

    /// Answers each request (head and body) with the bytes that `answer` returns.
    pub(crate) async fn answering<A>(address: SocketAddr, answer: A) -> Endpoint
    where
        A: Fn(&str) -> String + Send + Sync + 'static,
    {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let answer = Arc::new(answer);
        let mut endpoint = Endpoint::raw(address, move |mut stream| {
            let (noted, answer) = (noted.clone(), answer.clone());
            async move {
                let mut buffer = Vec::new();
                while let Some(request) = read_request(&mut stream, &mut buffer).await {
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let reply = answer(&text);
                    noted.lock().unwrap().push(text);
                    if stream.write_all(reply.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        endpoint.seen = seen;
        endpoint
    }

    /// Passes each connection to `serve`.
    pub(crate) async fn raw<S, F>(address: SocketAddr, serve: S) -> Endpoint
    where
        S: Fn(TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(1024).unwrap();
        let listener = TcpListener::from_std(socket.into()).unwrap();
        let connections = Arc::new(Mutex::new(0));
        let counted = connections.clone();
        let task = tokio::spawn(async move {
            // Connections end with the endpoint, as they do when its process ends.
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                *counted.lock().unwrap() += 1;
                open.spawn(serve(stream));
            }
        });
        Endpoint { task, seen: Arc::default(), connections }
    }

    /// Ends it, and waits until its address is free again.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// The requests so far, each with its head and body.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// The connections so far.
    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads one request, with a body by Content-Length or chunks; `None` when there is no more.
pub(crate) async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> Option<Vec<u8>> {
    let head_end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).to_ascii_lowercase();
    let length = field(&head, "content-length").map(|n| n.parse::<usize>().unwrap());
    let chunked = field(&head, "transfer-encoding").is_some();
    let is_whole = |buffer: &[u8]| match (length, chunked) {
        (_, true) => find(&buffer[head_end..], b"0\r\n").and_then(|last| {
            find(&buffer[head_end + last..], b"\r\n\r\n").map(|end| head_end + last + end + 4)
        }),
        (Some(length), _) => (buffer.len() >= head_end + length).then_some(head_end + length),
        _ => Some(head_end),
    };
    loop {
        if let Some(end) = is_whole(buffer) {
            return Some(buffer.drain(..end).collect());
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// The value of a field in the text of a message.
pub(crate) fn field<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let head = message.split("\r\n\r\n").next()?;
    head.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The protocol of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    /// With prior knowledge.
    Http2,
    Http1OverTls,
    Http2OverTls,
}

pub(crate) const ALL: [Speaks; 4] =
    [Speaks::Http1, Speaks::Http2, Speaks::Http1OverTls, Speaks::Http2OverTls];

/// A complete response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) async fn read(response: Response<Incoming>) -> Answer {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// The first line of the body: the name of the endpoint that answered.
    pub(crate) fn name(&self) -> &str {
        if self.status == 200 { self.body.lines().next().unwrap_or("") } else { "" }
    }
}

/// A client's connection, for one request after another.
pub(crate) enum Client {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    /// Connects; over TLS it sends `host` as server name and accepts any certificate.
    pub(crate) async fn connect(world: &World, speaks: Speaks, host: &str) -> Client {
        match speaks {
            Speaks::Http1 => Client::http1(TcpStream::connect(world.http).await.unwrap()).await,
            Speaks::Http2 => Client::http2(TcpStream::connect(world.http).await.unwrap()).await,
            Speaks::Http1OverTls => {
                Client::http1(connect_tls(world.https, host, &["http/1.1"]).await.unwrap()).await
            }
            Speaks::Http2OverTls => {
                let stream = connect_tls(world.https, host, &["h2"]).await.unwrap();
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                Client::http2(stream).await
            }
        }
    }

    pub(crate) async fn http1<S>(stream: S) -> Client
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Client::Http1(sender)
    }

    pub(crate) async fn http2<S>(stream: S) -> Client
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        Client::Http2(sender)
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        match self {
            Client::Http1(sender) => {
                sender.ready().await?;
                let (mut parts, body) = request.into_parts();
                let host = parts.uri.authority().map(|a| a.as_str().parse().unwrap());
                if let Some(host) = host
                    && !parts.headers.contains_key("host")
                {
                    parts.headers.insert("host", host);
                }
                parts.uri = parts.uri.path_and_query().unwrap().as_str().parse().unwrap();
                sender.send_request(Request::from_parts(parts, body)).await
            }
            Client::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Answer {
        let request = Request::get(format!("http://{host}{path}"));
        let sent = self.send(request.body(Full::default()).unwrap()).await.unwrap();
        Answer::read(sent).await
    }
}

/// One GET on a connection of its own.
pub(crate) async fn get(world: &World, speaks: Speaks, host: &str, path: &str) -> Answer {
    let name = host.split(':').next().unwrap();
    Client::connect(world, speaks, name).await.get(host, path).await
}

/// Sends the bytes on a connection of its own and reads all that comes back until it is closed.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other side may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer));
    let _ = read.await.expect("the connection is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status of a raw answer, 0 when there is none.
pub(crate) fn status_of(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

pub(crate) type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;

/// TLS to `address`, with `host` as server name, accepting any certificate.
pub(crate) async fn connect_tls(
    address: SocketAddr,
    host: &str,
    alpn: &[&str],
) -> std::io::Result<TlsStream> {
    let mut config = client_config(None);
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    handshake(address, host, Arc::new(config)).await
}

pub(crate) async fn handshake(
    address: SocketAddr,
    host: &str,
    config: Arc<rustls::ClientConfig>,
) -> std::io::Result<TlsStream> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(host.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

/// A client with a certificate of its own, or without, that accepts any certificate.
pub(crate) fn client_config_as(
    identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAll));
    match identity {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    }
}

/// A client that trusts only this certificate, or any.
pub(crate) fn client_config(trusted: Option<&CertificateDer<'static>>) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    match trusted {
        Some(certificate) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(certificate.clone()).unwrap();
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustsAll))
            .with_no_client_auth(),
    }
}

#[derive(Debug)]
struct TrustsAll;

impl rustls::client::danger::ServerCertVerifier for TrustsAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Waits until `condition` gives a value.
pub(crate) async fn eventually<T, F>(what: &str, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begun = std::time::Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) const OK: StatusCode = StatusCode::OK;
