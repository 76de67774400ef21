//! Sockets: listeners over TCP, TLS and Unix sockets, and what HTTP is spoken on them.
//!
//! HTTP/1.1 and HTTP/2 on every listener (with or without TLS). A client that says nothing, or
//! takes nothing, is given up ([`Deadlines`], [`Stall`]); one that comes when there are too many,
//! or too many of its own, is sent away at once, so that the others' reconnects never wait behind
//! it. Left out: what is answered.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use daemon::listen;
use daemon::quota::Client;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::access::Peer;
use super::api::{Api, Caller};
use super::deadlines::{Deadlines, Decision};
use super::share::Shares;
use super::stall::Stall;
use super::watch::Open;

/// A request's head, and the time to the next one on a connection that is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The TLS handshake, over slow links with several round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer heads are no client's: a token and two selectors of full length fit.
const MAX_HEAD: u32 = 64 << 10;
/// Text that waits for a client's socket, besides what the kernel holds; on HTTP/2, for each
/// watch or list.
const SEND_BUFFER: usize = 64 << 10;
/// Watches and lists at once on one HTTP/2 connection: client-go uses one for all.
const MAX_STREAMS: u32 = 128;
/// An HTTP/2 client that does not answer is gone.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// TCP's own search for clients that are gone, for HTTP/1.1.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Between looks at what a client owes.
const LOOK: Duration = Duration::from_secs(5);
/// After an accept that failed: descriptors have run out, and come back as clients go.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where to listen: `IP:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("a path must follow `unix:`".to_owned()),
            Some(path) => Ok(Address::Unix(path.into())),
            None => text.parse().map(Address::Tcp).map_err(|_| {
                "is not IP:PORT or unix:PATH (examples: 127.0.0.1:7400, unix:/run/feed.sock)"
                    .to_owned()
            }),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(addr) => write!(f, "{addr}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Whether only this machine can reach it.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Address::Tcp(addr) => addr.ip().to_canonical().is_loopback(),
            Address::Unix(_) => true,
        }
    }
}

/// The certificate in use; replaced when its files change.
#[derive(Debug, Default)]
pub(crate) struct Tls(RwLock<Option<Arc<rustls::ServerConfig>>>);

impl Tls {
    pub(crate) fn new(config: Option<Arc<rustls::ServerConfig>>) -> Tls {
        Tls(RwLock::new(config))
    }

    pub(crate) fn replace(&self, config: Arc<rustls::ServerConfig>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(config);
    }

    fn current(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A bound socket; connections wait in it until it is served.
#[derive(Debug)]
pub(crate) struct Listener {
    address: Address,
    socket: Bound,
}

#[derive(Debug)]
enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Binds an address. A Unix socket of an earlier process is taken over; only its owner may
    /// connect.
    ///
    /// # Errors
    ///
    /// When it cannot be bound.
    pub(crate) fn bind(address: Address) -> std::io::Result<Listener> {
        let socket = match &address {
            Address::Tcp(addr) => Bound::Tcp(bind_tcp(*addr)?),
            Address::Unix(path) => Bound::Unix(bind_unix(path)?),
        };
        Ok(Listener { address, socket })
    }
}

fn bind_tcp(addr: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let mut listeners = listen::tcp(addr, 1, listen::Options::default(), |_| Ok(()))?;
    Ok(listeners.pop().expect("as many listeners as were asked for"))
}

fn bind_unix(path: &std::path::Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::{UnixListener, UnixStream};
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let socket = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What all connections share.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) api: Api,
    pub(crate) tls: Arc<Tls>,
    /// Connections that may still be opened.
    pub(crate) room: Shares,
    pub(crate) shutdown: daemon::Shutdown,
}

impl Gate {
    /// Serves a listener until the process drains and its connections have ended.
    pub(crate) async fn serve(self, listener: Listener) -> std::io::Result<()> {
        let mut connections = JoinSet::new();
        match listener.socket {
            Bound::Tcp(socket) => {
                let socket = TcpListener::from_std(socket)?;
                let local = listener.address.is_local();
                let accept = || async {
                    let (stream, from) = socket.accept().await?;
                    let to = stream.local_addr()?;
                    Ok((stream, Client::of_connection(from.ip(), to.ip())))
                };
                self.accept(accept, &mut connections, |gate, stream, client| {
                    gate.tcp(stream, client, local)
                })
                .await;
            }
            Bound::Unix(socket) => {
                let socket = UnixListener::from_std(socket)?;
                let accept = || async { Ok((socket.accept().await?.0, Client::Local)) };
                self.accept(accept, &mut connections, |gate, stream, _| gate.unix(stream)).await;
                if let Address::Unix(path) = &listener.address {
                    let _ = std::fs::remove_file(path);
                }
            }
        }
        while connections.join_next().await.is_some() {}
        Ok(())
    }

    /// Accepts until the process drains.
    async fn accept<S, A, F>(
        &self,
        accept: impl Fn() -> A,
        connections: &mut JoinSet<()>,
        serve: impl Fn(Gate, S, Client) -> F,
    ) where
        A: Future<Output = std::io::Result<(S, Client)>>,
        F: Future<Output = ()> + Send + 'static,
    {
        loop {
            // Those that ended leave nothing behind.
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = accept() => accepted,
                () = self.shutdown.draining() => return,
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let metrics = &self.api.server.metrics;
            let Some(permit) = self.room.take(client) else {
                metrics.refused_connections.inc();
                continue;
            };
            let connection = serve(self.clone(), stream, client);
            let open = Open::new(metrics.connections.clone(), permit);
            connections.spawn(async move {
                connection.await;
                drop(open);
            });
        }
    }

    async fn unix(self, stream: tokio::net::UnixStream) {
        let peer = Peer { private: true, rebindable: false, address: "localhost".into() };
        let cut = self.api.server.metrics.slow_watchers.clone();
        self.http(Stall::new(stream, cut), peer, Client::Local).await;
    }

    async fn tcp(self, stream: TcpStream, client: Client, local: bool) {
        if let Err(error) = prepare(&stream) {
            return tracing::debug!(%error, "connection");
        }
        let address = stream.local_addr().map(|addr| addr.to_string()).unwrap_or_default();
        let loopback = |addr: SocketAddr| addr.ip().to_canonical().is_loopback();
        // Traffic between two loopback addresses never leaves the machine.
        let inside =
            stream.peer_addr().is_ok_and(loopback) && stream.local_addr().is_ok_and(loopback);
        let stream = Stall::new(stream, self.api.server.metrics.slow_watchers.clone());
        let Some(config) = self.tls.current() else {
            let peer = Peer { private: inside, rebindable: local, address };
            return self.http(stream, peer, client).await;
        };
        let accept = TlsAcceptor::from(config).accept(stream);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, accept).await {
            Ok(Ok(stream)) => {
                // A browser that is led here by a foreign name refuses the certificate.
                let peer = Peer { private: true, rebindable: false, address };
                self.http(stream, peer, client).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
            Err(_) => tracing::debug!("TLS handshake: too slow"),
        }
    }

    async fn http<S>(self, stream: S, peer: Peer, client: Client)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let api = self.api.clone();
        let deadlines = Deadlines::new();
        let caller = Arc::new(Caller { peer, client, deadlines: deadlines.clone() });
        let service = service_fn(move |request| {
            let (api, caller) = (api.clone(), caller.clone());
            async move {
                let response = api.answer(request, &caller).await;
                Ok::<_, Infallible>(response.map(|body| caller.deadlines.answer(body)))
            }
        });
        let builder = protocols();
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let mut look = tokio::time::interval(LOOK);
        let mut draining = std::pin::pin!(self.shutdown.draining());
        let mut drains = false;
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                () = draining.as_mut(), if !drains => {
                    drains = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = look.tick() => match deadlines.decision() {
                    Decision::Keep => {}
                    Decision::End => connection.as_mut().graceful_shutdown(),
                    Decision::Cut => return tracing::debug!(%client, "the client sends nothing"),
                    Decision::Slow => {
                        self.api.server.metrics.slow_watchers.inc();
                        return tracing::debug!(%client, "the client reads nothing");
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection");
        }
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

fn protocols() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(SEND_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD);
    builder
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::history::{History, Limits};
    use crate::live::Live;
    use crate::metrics::Metrics;
    use crate::watch::Server;

    fn gate() -> Gate {
        let daemon = daemon::Daemon::detached("feed", 1);
        let live = Arc::new(Live::new(History::new(0, Limits::DEFAULT)));
        let server = Server { live, metrics: Metrics::new(&daemon.metrics) };
        let shares = |what| Shares::new(what, 8, 50);
        let judges: crate::Judges = Arc::new(|| Box::new(|_, _| Vec::new()));
        let streams = shares("watches and lists");
        let api = Api::new(server, Arc::default(), streams, Arc::default(), judges);
        let (tls, room) = (Arc::default(), shares("connections"));
        Gate { api, tls, room, shutdown: daemon.shutdown }
    }

    /// How long a connection is served on which a client says this and no more.
    async fn lasts(said: &[u8]) -> Duration {
        let (mut client, stream) = duplex(4096);
        let peer = Peer { private: true, rebindable: false, address: String::new() };
        let begun = Instant::now();
        let serving = tokio::spawn(gate().http(stream, peer, Client::Local));
        client.write_all(said).await.unwrap();
        client.read_to_end(&mut Vec::new()).await.unwrap();
        serving.await.unwrap();
        begun.elapsed()
    }

    /// One byte that HTTP/2 may begin with held a connection for ever.
    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_whole_is_given_up() {
        for said in [
            &b""[..],
            b"P",
            b"GET /version HTTP/1.1\r\nHost: x\r\nX: ",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        ] {
            let lasted = lasts(said).await;
            assert!(lasted < Duration::from_secs(16), "{said:?}: {lasted:?}");
        }
        let lasted = lasts(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(Duration::from_secs(16) < lasted, "it may ask again: {lasted:?}");
    }

    #[test]
    fn addresses() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        assert_eq!("127.0.0.1:7400".parse(), Ok(tcp("127.0.0.1:7400")));
        assert_eq!("[::]:7400".parse(), Ok(tcp("[::]:7400")));
        assert_eq!("unix:/run/feed".parse(), Ok(Address::Unix("/run/feed".into())));
        for wrong in ["", "unix:", "localhost:7400", "127.0.0.1", "7400"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
        for (address, local) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("192.0.2.1:1", false),
            ("unix:/x", true),
        ] {
            assert_eq!(address.parse::<Address>().unwrap().is_local(), local, "{address}");
        }
    }
}
