//! Serves one client's connection: the PROXY header, TLS, the choice of HTTP version, and then
//! the requests by that version.
//!
//! Everything about a connection happens in one task, but for HTTP/2 streams, which have one
//! each. Left out: what a request leads to, which is the handler's.

mod frames;
mod handshake;
mod http1;
mod http2;
mod stream;
mod tunnel;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use bytes::BytesMut;
use daemon::proxy_protocol::{self, ProxyHeader};
use ipnet::IpNet;
use rustls_pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use self::frames::PREFACE;
use self::stream::Stream;
use crate::client_certificate::ClientCertificate;
use crate::connection::{Agreed, Connection};
use crate::context::WorkerContext;
use crate::deadline::{Deadline, in_time};
use crate::limits::Permit;
use crate::origin::{Origin, is_trusted};
use crate::refusal::{NO_PROXY_HEADER, TOO_MANY_CONNECTIONS};
use crate::tls;

/// What is read to tell HTTP/1.1 from HTTP/2 on a plain connection, and goes on to either.
const FIRST_READ: usize = 4 << 10;

/// What the connections of a listener get.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) tls: Option<TlsAcceptor>,
    /// The port that their clients reached.
    pub(crate) port: u16,
}

/// Who is at the other end of a connection.
struct Peer<'a> {
    client: IpAddr,
    /// The port of ours that the client reached.
    port: u16,
    /// The proxies whose forwarded fields are believed over this connection.
    trusted_proxies: &'a [IpNet],
}

/// Serves a connection that was accepted, to its end.
pub(crate) async fn serve(
    context: Rc<WorkerContext>,
    mut stream: TcpStream,
    peer: SocketAddr,
    Service { tls, port }: Service,
    mut permit: Permit,
) {
    let settings = context.settings();
    let deadline = context.deadlines.add();
    let peer = (peer.ip(), port);
    let peer = match identify(&context, &mut stream, peer, &mut permit, &deadline).await {
        Ok(peer) => peer,
        Err(answer) => {
            if tls.is_none() {
                turn_away(stream, answer);
            }
            return;
        }
    };
    let origin = Origin::new(peer.client, tls.is_some(), peer.port, peer.trusted_proxies);
    match tls {
        None => {
            deadline.arm(settings.header_timeout);
            let Some(first) = first_bytes(&mut stream, &deadline).await else { return };
            let is_http2 = first.starts_with(PREFACE);
            let agreed = Agreed { is_http2, ..Agreed::default() };
            let connection = Connection::new(context, origin, agreed, deadline, permit);
            serve_http(connection, stream, first).await;
        }
        Some(acceptor) => {
            deadline.arm(settings.handshake_timeout);
            // Each stage has a box of its own: the task would be as large as the largest of them
            // for as long as the connection lives.
            let handshake = handshake::accept(&context, acceptor, stream);
            let handshake = Box::pin(in_time(handshake, &deadline));
            let Some(Ok((stream, is_asked))) = handshake.await else {
                context.shard().handshakes_rejected.add(1);
                return;
            };
            let session = stream.get_ref().1;
            let is_http2 = session.alpn_protocol() == Some(b"h2");
            let server_name = session.server_name().map(|name| tls::server_name(name).into());
            let certificate = is_asked.then(|| {
                let chain = session.peer_certificates();
                Box::new(ClientCertificate::new(chain, UnixTime::now()))
            });
            let agreed = Agreed { server_name, certificate, is_http2 };
            deadline.arm(context.settings().header_timeout);
            let connection = Connection::new(context, origin, agreed, deadline, permit);
            serve_http(connection, stream, BytesMut::new()).await;
        }
    }
}

/// Who a connection is from. With `--proxy-protocol`, trusted proxies name it in a PROXY header.
/// `Err` is what to answer when the connection may not go on.
async fn identify<'a>(
    context: &'a WorkerContext,
    stream: &mut TcpStream,
    (client, port): (IpAddr, u16),
    permit: &mut Permit,
    deadline: &Deadline,
) -> Result<Peer<'a>, &'static [u8]> {
    let settings = context.settings();
    let trusted_proxies = &settings.rules.trusted_proxies[..];
    let itself = Peer { client, port, trusted_proxies };
    if !settings.proxy_protocol || !is_trusted(client.to_canonical(), trusted_proxies) {
        return Ok(itself);
    }
    deadline.arm(settings.header_timeout);
    let header = Box::pin(in_time(proxy_protocol::read(stream), deadline)).await;
    match header {
        Some(Ok(ProxyHeader::Local)) => Ok(itself),
        // The connection is not the proxy's own, so its forwarded fields are not believed.
        Some(Ok(ProxyHeader::Unknown)) => Ok(Peer { trusted_proxies: &[], ..itself }),
        Some(Ok(ProxyHeader::Client { client, .. })) if !permit.claim(client.ip()) => {
            context.shard().connections_refused.add(1);
            Err(TOO_MANY_CONNECTIONS)
        }
        Some(Ok(ProxyHeader::Client { client, local })) => {
            Ok(Peer { client: client.ip(), port: local.port(), trusted_proxies })
        }
        failed => {
            context.shard().proxy_headers_rejected.add(1);
            tracing::debug!(?failed, "no PROXY header");
            Err(NO_PROXY_HEADER)
        }
    }
}

async fn serve_http<S>(connection: Rc<Connection>, stream: S, first: BytesMut)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let stream = Stream::new(stream, first, connection.clone());
    if connection.is_http2 {
        Box::pin(http2::serve(connection, stream)).await;
    } else {
        Box::pin(http1::serve(connection, stream)).await;
    }
}

/// The bytes that a plain connection begins with, as many as tell its HTTP version; `None` when
/// there are none in time.
async fn first_bytes(stream: &mut TcpStream, deadline: &Deadline) -> Option<BytesMut> {
    let mut first = BytesMut::with_capacity(FIRST_READ);
    loop {
        match in_time(stream.read_buf(&mut first), deadline).await {
            None | Some(Err(_) | Ok(0)) if first.is_empty() => return None,
            // What came is a beginning: HTTP/1.1 decides what to make of it.
            None | Some(Err(_) | Ok(0)) => return Some(first),
            Some(Ok(_)) if first.len() >= PREFACE.len() => return Some(first),
            Some(Ok(_)) if PREFACE.starts_with(&first) => {}
            Some(Ok(_)) => return Some(first),
        }
    }
}

/// Tells a client why it is not served, as far as one write into an empty socket buffer can.
pub(crate) fn turn_away(stream: TcpStream, answer: &[u8]) {
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(answer);
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
}
