//! Connections to an API server: HTTP/2 in TLS where the server speaks it, else HTTP/1.1.
//!
//! Over HTTP/2 all kinds share one connection, whose PING finds a dead or frozen peer within
//! 10 s. Over HTTP/1.1 each kind has its own; there the kernel's probes find a dead machine or
//! network within 14 s, and a frozen process shows by its silence
//! ([`super::machine::Patience`]). Requests only; what is asked, and what an answer means, is
//! the conversation's business.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT, HOST, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::Deserialize;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::credentials::{ApiSource, Credentials};
use super::envelope::Status;
use super::machine::{Fault, Patience, Server};
use crate::hosts::{Lookup, Outcome};
use crate::own_token;

/// Idle time before the kernel's first probe, time between probes, and how many go unanswered:
/// a dead peer is found after 5 + 3 · 3 = 14 s.
const PROBE_AFTER: Duration = Duration::from_secs(5);
const PROBE_EVERY: Duration = Duration::from_secs(3);
const PROBES: u32 = 3;
/// The same for data that the peer does not acknowledge.
const UNACKNOWLEDGED: Duration = Duration::from_secs(14);
/// Of several addresses behind a name, one that does not answer must not take all the time.
const CONNECT_EACH: Duration = Duration::from_secs(2);
/// `/version` and one Namespace are far smaller.
const MAX_SMALL_BODY: usize = 256 << 10;
/// Credentials are read anew at most this often, however many kinds are refused.
const REFRESH_EVERY: Duration = Duration::from_secs(5);

/// A connection's read buffer. It grows to this during the first list and then stays, one for
/// each kind; more would not make that list faster.
const MAX_BUFFER: usize = 32 << 10;

/// What takes the token of a feed of this user.
const SECRETS: &str = "/api/v1/secrets";

const AGENT: &str = concat!("switchyard/", env!("CARGO_PKG_VERSION"));

#[derive(Debug)]
pub(crate) struct Transport {
    place: ApiSource,
    patience: Patience,
    access: Mutex<Access>,
    shared: Mutex<Shared>,
}

/// What all kinds share over HTTP/2.
#[derive(Debug, Default)]
struct Shared {
    link: Option<Link>,
    /// When the last try failed, and how.
    failed: Option<(Instant, Fault)>,
}

#[derive(Debug)]
struct Access {
    config: kube::Config,
    credentials: Option<Arc<Credentials>>,
    /// When the files, or the plugin, were last asked for new ones.
    refreshed: Option<Instant>,
}

/// A connection to the server. Over HTTP/2 a clone shares it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    sender: Sender,
    server: Server,
    credentials: Arc<Credentials>,
    ends: Ends,
    patience: Patience,
    /// It has carried a response.
    answered: bool,
    /// Whether the server is a process of this user, once somebody wanted to know.
    own: Option<bool>,
    _driver: Arc<Driver>,
}

#[derive(Debug)]
enum Sender {
    /// `None` in a clone: an HTTP/1.1 connection has one user.
    Http1(Option<http1::SendRequest<Empty<Bytes>>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Clone for Sender {
    fn clone(&self) -> Sender {
        match self {
            Sender::Http1(_) => Sender::Http1(None),
            Sender::Http2(sender) => Sender::Http2(sender.clone()),
        }
    }
}

/// The task that moves a connection's bytes; ends with its last user.
#[derive(Debug)]
struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Transport {
    pub(crate) fn new(place: ApiSource, config: kube::Config, patience: Patience) -> Transport {
        let access = Access { config, credentials: None, refreshed: None };
        Transport { place, patience, access: Mutex::new(access), shared: Mutex::default() }
    }

    /// A connection to the server, which has said who it is.
    ///
    /// # Errors
    ///
    /// When nobody answers, or not as an API server does.
    pub(crate) async fn connect(&self) -> Result<Link, Fault> {
        let credentials = self.credentials().await?;
        if credentials.tls.is_none() {
            return self.dial(&credentials).await;
        }
        let asked = Instant::now();
        let mut shared = self.shared.lock().await;
        if let Some(link) = shared.link.as_ref().filter(|link| link.is_open()) {
            return Ok(link.clone());
        }
        // Another kind has just tried: its failure is ours, or else each would wait for its
        // own, one after the other.
        if let Some((_, fault)) = shared.failed.as_ref().filter(|(at, _)| *at > asked) {
            return Err(fault.clone());
        }
        shared.link = None;
        let dialled = self.dial(&credentials).await;
        match &dialled {
            Ok(link) if matches!(link.sender, Sender::Http2(_)) => shared.link = Some(link.clone()),
            Ok(_) => {}
            Err(fault) => shared.failed = Some((Instant::now(), fault.clone())),
        }
        dialled
    }

    /// Reads the credentials anew, because the server refused those of a request that was made at
    /// `asked`. Whether there are newer ones now, to be tried at once.
    pub(crate) async fn refresh(&self, asked: Instant) -> bool {
        let mut access = self.access.lock().await;
        match access.refreshed {
            // Another kind was refused at the same time.
            Some(at) if at > asked => return true,
            Some(at) if at.elapsed() < REFRESH_EVERY => return false,
            _ => access.refreshed = Some(Instant::now()),
        }
        access.credentials = None;
        let place = self.place.clone();
        match tokio::task::spawn_blocking(move || place.configuration()).await {
            Ok(Ok(config)) => access.config = config,
            Ok(Err(error)) => {
                tracing::warn!(
                    error = chain(&error),
                    "cannot read new credentials: the old ones stay in use"
                );
            }
            // The runtime ends.
            Err(_) => {}
        }
        drop(access);
        self.shared.lock().await.link = None;
        true
    }

    /// Reads the files of the flags anew, because no connection can be made. Credentials of a
    /// kubeconfig may be a plugin's work, which is not done again for that.
    pub(crate) async fn refresh_files(&self) {
        if matches!(self.place, ApiSource::Url { .. }) {
            self.refresh(Instant::now()).await;
        }
    }

    async fn credentials(&self) -> Result<Arc<Credentials>, Fault> {
        let mut access = self.access.lock().await;
        if let Some(credentials) = &access.credentials {
            return Ok(credentials.clone());
        }
        let (config, place) = (access.config.clone(), self.place.clone());
        let make = move || Credentials::new(&config).map(|made| made.or_own_token(&place));
        let made = tokio::task::spawn_blocking(make).await;
        let made = made.map_err(|error| Fault::Unreachable(error.to_string()))?;
        let made = Arc::new(made.map_err(|error| Fault::Unreachable(chain(&error)))?);
        access.credentials = Some(made.clone());
        Ok(made)
    }

    async fn dial(&self, credentials: &Arc<Credentials>) -> Result<Link, Fault> {
        let mut link = Link::open(credentials, &self.patience).await?;
        let identified = timeout(self.patience.response, identify(&mut link)).await;
        link.server = identified.unwrap_or(Err(Fault::Silent(self.patience.response)))?;
        Ok(link)
    }
}

impl Link {
    async fn open(credentials: &Arc<Credentials>, patience: &Patience) -> Result<Link, Fault> {
        let url = &credentials.url;
        let dialled = timeout(patience.connect, open(credentials, patience.ping)).await;
        let dialled = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (sender, driver, ends) =
            dialled.map_err(|error| Fault::Unreachable(in_our_words(format!("{url}: {error}"))))?;
        Ok(Link {
            sender,
            server: Server::default(),
            credentials: credentials.clone(),
            ends,
            patience: patience.clone(),
            answered: false,
            own: None,
            _driver: Arc::new(driver),
        })
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Whether a request can be sent.
    pub(crate) fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.as_ref().is_some_and(|sender| !sender.is_closed()),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Asks for a path below the server's address.
    ///
    /// A server may end a connection after any response; an apiserver does so after each to a
    /// client without credentials. Requests only read, so such a one is sent again on a new
    /// connection.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or there is nothing to prove who we are.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Response<Incoming>, Fault> {
        let mut response = self.get_once(path).await;
        if matches!(response, Err(Fault::Broken(_))) && self.answered && !self.is_open() {
            let (server, own) = (self.server.clone(), None);
            *self = Link { server, own, ..Link::open(&self.credentials, &self.patience).await? };
            response = self.get_once(path).await;
        }
        self.answered |= response.is_ok();
        response
    }

    async fn get_once(&mut self, path: &str) -> Result<Response<Incoming>, Fault> {
        let credentials = self.credentials.clone();
        let broken = |error: hyper::Error| Fault::Broken(chain(&error));
        // All else is for everybody to read.
        let needs_own = path.starts_with(SECRETS) && credentials.has_own_token();
        let url = &credentials.url;
        let authority = url.authority().map(ToString::to_string).unwrap_or_default();
        let path = format!("{}{path}", url.path().trim_end_matches('/'));
        let uri = match &self.sender {
            Sender::Http1(_) => path,
            Sender::Http2(_) => format!("https://{authority}{path}"),
        };
        let malformed = |error: http::Error| Fault::Unreachable(error.to_string());
        let mut request = Request::get(uri).body(Empty::new()).map_err(malformed)?;
        let to_own = needs_own && self.is_own().await;
        let headers = credentials.headers(to_own).await;
        *request.headers_mut() =
            headers.map_err(|error| Fault::Unreachable(format!("credentials: {error}")))?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        match &mut self.sender {
            Sender::Http1(Some(sender)) => {
                let host = HeaderValue::from_str(&authority).map_err(|e| malformed(e.into()))?;
                request.headers_mut().insert(HOST, host);
                sender.ready().await.map_err(broken)?;
                sender.send_request(request).await.map_err(broken)
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(broken)?;
                sender.send_request(request).await.map_err(broken)
            }
            Sender::Http1(None) => Err(Fault::Broken("the connection is another's".to_owned())),
        }
    }

    /// Whether the server is a process of this user. It has answered before, so somebody has
    /// accepted the connection: the one who would see a token.
    async fn is_own(&mut self) -> bool {
        if let Some(own) = self.own {
            return own;
        }
        let Ends { server, client } = self.ends;
        let look = move || own_token::may_be_shown(server, client);
        let own = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        if !own {
            tracing::debug!(%server, "a process of another user answers: it is sent no token");
        }
        self.own = Some(own);
        own
    }

    /// Asks for something small that must be there.
    ///
    /// # Errors
    ///
    /// When the server refuses it, or the connection breaks.
    pub(crate) async fn get_all(&mut self, path: &str) -> Result<Bytes, Fault> {
        let reply = self.get_small(path).await?;
        if reply.code == 200 { Ok(reply.body) } else { Err(Fault::Refused(reply.status())) }
    }

    /// Asks for something small: the whole reply.
    async fn get_small(&mut self, path: &str) -> Result<Small, Fault> {
        let response = self.get(path).await?;
        let code = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let body = Limited::new(response.into_body(), MAX_SMALL_BODY).collect().await;
        let body = body.map_err(|error| Fault::Broken(in_our_words(error.to_string())))?;
        Ok(Small { code, retry_after, body: body.to_bytes() })
    }
}

/// A reply that was read as a whole.
struct Small {
    code: u16,
    retry_after: Option<Duration>,
    body: Bytes,
}

impl Small {
    fn status(&self) -> Status {
        let status = Status::read(self.code, &self.body);
        Status { retry_after: self.retry_after.or(status.retry_after), ..status }
    }
}

/// The addresses of a connection.
#[derive(Clone, Copy, Debug)]
struct Ends {
    server: SocketAddr,
    client: SocketAddr,
}

async fn open(credentials: &Credentials, ping: Duration) -> io::Result<(Sender, Driver, Ends)> {
    let stream = connect(&credentials.url).await?;
    let ends = Ends { server: stream.peer_addr()?, client: stream.local_addr()? };
    let (sender, driver) = speak(credentials, stream, ping).await?;
    Ok((sender, driver, ends))
}

async fn speak(
    credentials: &Credentials,
    stream: TcpStream,
    ping: Duration,
) -> io::Result<(Sender, Driver)> {
    let Some(tls) = &credentials.tls else {
        return http1(stream).await;
    };
    let connector = TlsConnector::from(tls.config.clone());
    let stream = connector.connect(tls.name.clone(), stream).await?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return http1(stream).await;
    }
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(ping)
        .keep_alive_timeout(ping)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let driver = tokio::spawn(async move {
        // An error reaches those who wait for a response or a body.
        let _ = connection.await;
    });
    Ok((Sender::Http2(sender), Driver(driver)))
}

async fn http1<S>(stream: S) -> io::Result<(Sender, Driver)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_BUFFER);
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(io::Error::other)?;
    let driver = tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok((Sender::Http1(Some(sender)), Driver(driver)))
}

/// Connects to the first address of the host that answers.
async fn connect(url: &Uri) -> io::Result<TcpStream> {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let https = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if https { 443 } else { 80 });
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for ip in addresses(host).await? {
        match timeout(CONNECT_EACH, TcpStream::connect((ip, port))).await {
            Ok(Ok(stream)) => {
                prepare(&stream)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// The addresses of a host, looked up as those of endpoints are. Not by the C library: linked
/// statically it finds no names in an image without its modules.
async fn addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    // Read anew each time: what the machine is on may have changed since.
    match Lookup::new(&[]).ask(host).await {
        Outcome::Found(ips, _) => Ok(ips),
        Outcome::None => Err(io::Error::new(io::ErrorKind::NotFound, "no such host")),
        Outcome::Failed(error) => Err(io::Error::other(error)),
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive =
        TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    git_version: String,
}

#[derive(Deserialize)]
struct Namespace {
    metadata: NamespaceMeta,
}

#[derive(Deserialize)]
struct NamespaceMeta {
    uid: String,
}

/// Asks who answers. A `switchyard feed` says so in its version; a cluster is known by the uid
/// of its first namespace, as is the custom.
///
/// What is no API's answer (a proxy's page, a redirection) tells nothing of the server: it is a
/// fault, or else our own feed would be taken for a foreign server and waited for as patiently.
async fn identify(link: &mut Link) -> Result<Server, Fault> {
    let reply = link.get_small("/version").await?;
    match reply.code {
        200 => {
            let version = serde_json::from_slice::<Version>(&reply.body);
            let version = version.map_err(|_| no_api(&reply))?;
            if version.git_version.contains("switchyard") {
                // Its versions never repeat, so a place in them needs no identity besides.
                return Ok(Server { is_ours: true, identity: None });
            }
        }
        401 | 408 | 429 | 500.. => return Err(Fault::Refused(reply.status())),
        // A cluster may hide its version; our feed does not.
        400..500 if Status::is_in(&reply.body) => {}
        _ => return Err(no_api(&reply)),
    }
    let reply = link.get_small("/api/v1/namespaces/kube-system").await?;
    let namespace = serde_json::from_slice::<Namespace>(&reply.body).ok();
    let identity = namespace.map(|namespace| namespace.metadata.uid);
    Ok(Server { is_ours: false, identity })
}

fn no_api(reply: &Small) -> Fault {
    let Status { code, message, .. } = reply.status();
    let answer = format!("{code} {message}");
    let answer = answer.trim_end();
    Fault::Unreachable(format!("no Kubernetes API at this address: /version returned {answer}"))
}

/// Retry-After in seconds, as the API sends it.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        // Some errors already tell their cause.
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        cause = error.source();
    }
    in_our_words(text)
}

/// rustls explains the end of a connection with a link into its documentation.
fn in_our_words(text: String) -> String {
    const UNEXPECTED_END: &str = "peer closed connection without sending TLS close_notify";
    match text.find(UNEXPECTED_END) {
        Some(at) => format!("{}the server ended the connection", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_connection_is_told_without_a_link_to_a_librarys_documentation() {
        let text = "peer closed connection without sending TLS close_notify: \
                    https://docs.rs/rustls/latest/rustls/manual/_03_howto/index.html";
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, text);
        assert_eq!(chain(&error), "the server ended the connection");
        let text = format!("https://api.example/: {text}");
        let told = "https://api.example/: the server ended the connection";
        assert_eq!(in_our_words(text), told);
    }
}
