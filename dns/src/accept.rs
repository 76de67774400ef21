//! Accepts connections for DNS over TCP, over TLS (RFC 7858) and over HTTPS (RFC 8484).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::quota::{Client, QuotaPermit};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::https;
use crate::tcp::{Connection, TcpServer, begun};
use crate::wire::reply::Transport;

/// The wait when descriptors run out, until some are closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What clients speak on a listener.
#[derive(Clone)]
pub(crate) enum Protocol {
    Tcp,
    Tls(Arc<rustls::ServerConfig>),
    Https(Arc<rustls::ServerConfig>),
}

/// How long a handshake may go on when the drain has begun: for the client it may be over, and its
/// first query on the way.
const LAST_HANDSHAKE: Duration = Duration::from_secs(1);

/// A bound socket and what clients speak on it.
pub(crate) struct Listener {
    pub(crate) socket: std::net::TcpListener,
    pub(crate) protocol: Protocol,
}

/// Accepts until the drain begins, then returns when the last connection has ended. Runs in a
/// `LocalSet`.
pub(crate) async fn serve(server: TcpServer, listener: TcpListener, protocol: Protocol) {
    let mut draining = server.draining();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = begun(&mut draining) => break,
        };
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())),
            Err(error) => {
                tracing::debug!(%error, "accept");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = server.quota.admit(Client::of(peer.ip())) else {
            server.metrics.tcp_refused.inc();
            continue;
        };
        let (server, protocol) = (server.clone(), protocol.clone());
        connections.spawn_local(async move {
            if let Err(error) = run(stream, peer, server, permit, protocol).await {
                tracing::debug!(%error, "connection");
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn run(
    stream: TcpStream,
    peer: SocketAddr,
    server: TcpServer,
    permit: QuotaPermit,
    protocol: Protocol,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match protocol {
        Protocol::Tcp => Connection::new(stream, Transport::Tcp, peer, server, permit).run().await,
        Protocol::Tls(config) => {
            let Some(stream) = encrypted(stream, peer, &server, config).await else {
                return Ok(());
            };
            Connection::new(stream, Transport::Tls, peer, server, permit).run().await
        }
        Protocol::Https(config) => {
            let Some(stream) = encrypted(stream, peer, &server, config).await else {
                return Ok(());
            };
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(https::HTTP2);
            https::serve(stream, is_http2, peer, server, permit).await;
            Ok(())
        }
    }
}

/// Does the handshake. `None` if it failed.
async fn encrypted(
    stream: TcpStream,
    peer: SocketAddr,
    server: &TcpServer,
    config: Arc<rustls::ServerConfig>,
) -> Option<Box<TlsStream<TcpStream>>> {
    let Ok(_permit) = server.handshakes.admit(Client::of(peer.ip())) else {
        server.metrics.tcp_refused.inc();
        return None;
    };
    let handshake = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream));
    let mut draining = server.draining();
    let out_of_time = async {
        begun(&mut draining).await;
        sleep(LAST_HANDSHAKE).await;
    };
    let error = tokio::select! {
        made = handshake => match made {
            Ok(Ok(stream)) => return Some(Box::new(stream)),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        },
        () = out_of_time => return None,
    };
    server.metrics.tls_failed.inc();
    tracing::debug!(%error, "handshake");
    None
}
