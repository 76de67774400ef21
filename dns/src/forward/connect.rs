//! Connections to upstream servers: plain TCP, or TLS (RFC 7858).

use std::hash::{Hash, Hasher};
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::server::{Reason, Server};

/// TLS sessions that one thread keeps, to resume them.
const SESSIONS: usize = 32;

/// Octets in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

pub(crate) type Connection = Box<dyn Duplex>;

/// The same settings for one thread: its sessions are its own, because a store of sessions has a
/// lock.
pub(crate) fn for_thread(shared: &ClientConfig) -> Arc<ClientConfig> {
    let mut own = shared.clone();
    own.resumption = Resumption::in_memory_sessions(SESSIONS);
    Arc::new(own)
}

/// Connects to a server.
///
/// # Errors
///
/// Why it failed; what is wrong with a certificate is logged.
pub(crate) async fn connect(
    server: &Server,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Connection, Reason> {
    let upstream = &server.address;
    let unreachable = |error: io::Error| {
        tracing::debug!(%upstream, %error, "cannot connect");
        Reason::Unreachable
    };
    let stream = TcpStream::connect(upstream.socket).await.map_err(unreachable)?;
    // A question is one write; it must not wait for the acknowledgement of the last.
    stream.set_nodelay(true).map_err(unreachable)?;
    let Some(name) = &upstream.tls_name else { return Ok(Box::new(stream)) };
    let connector = TlsConnector::from(tls.ok_or(Reason::Tls)?.clone());
    match connector.connect(name.clone(), stream).await {
        Ok(stream) => {
            server.set_tls_problem(0);
            Ok(Box::new(stream))
        }
        Err(error) => {
            report(server, &error);
            Err(Reason::Tls)
        }
    }
}

/// Logs why a handshake failed, once until the reason changes.
fn report(server: &Server, error: &io::Error) {
    let upstream = &server.address;
    if server.set_tls_problem(problem_hash(&error.to_string())) {
        tracing::warn!(
            %upstream,
            %error,
            "TLS with this upstream failed: check its certificate and the name after `#`"
        );
    } else {
        tracing::debug!(%upstream, %error, "TLS failed");
    }
}

/// A number for an error's text, not 0. Times in it do not make another error.
fn problem_hash(text: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    for octet in text.bytes().filter(|octet| !octet.is_ascii_digit()) {
        octet.hash(&mut hasher);
    }
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_does_not_make_another_problem() {
        let expired = |time: u32| format!("certificate expired: verification time {time} (UNIX)");
        assert_eq!(problem_hash(&expired(17_000)), problem_hash(&expired(17_060)));
        assert_ne!(problem_hash(&expired(0)), problem_hash("unknown issuer"));
    }
}
