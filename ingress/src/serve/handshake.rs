//! The TLS handshake of a client's connection.
//!
//! Most connections are all served with the same configuration. Only where some host asks its
//! clients for a certificate, a hello is read before it is known what it leads to.

use std::io;

use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{StartHandshake, TlsAcceptor};

use crate::context::WorkerContext;
use crate::tls;

/// What is read of a hello at a time: nearly all are shorter.
const HELLO_READ: usize = 4 << 10;

/// Bytes that a client may send before its hello is complete.
const MAX_HELLO: usize = 64 << 10;

/// Does a handshake; also whether the client was asked for a certificate.
pub(super) async fn accept(
    context: &WorkerContext,
    acceptor: TlsAcceptor,
    mut stream: TcpStream,
) -> io::Result<(TlsStream<TcpStream>, bool)> {
    if !context.snapshot().has_asking_hosts() {
        return Ok((acceptor.accept(stream).await?, false));
    }
    let accepted = read_hello(&mut stream).await?;
    let config = {
        let hello = accepted.client_hello();
        let name = hello.server_name().map(tls::server_name);
        let snapshot = context.snapshot();
        let asked = snapshot.asked(name.as_deref());
        asked.map(|asked| context.shared.tls.asking(asked)).transpose().map_err(io::Error::other)?
    };
    let is_asked = config.is_some();
    let config = config.unwrap_or_else(|| acceptor.config().clone());
    let stream = StartHandshake::from_parts(accepted, stream).into_stream(config).await?;
    Ok((stream, is_asked))
}

/// Reads a hello, which may come in any number of pieces.
async fn read_hello(stream: &mut TcpStream) -> io::Result<rustls::server::Accepted> {
    let mut acceptor = Acceptor::default();
    let mut buffer = Vec::with_capacity(HELLO_READ);
    let mut total = 0;
    loop {
        buffer.clear();
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        total += buffer.len();
        if total > MAX_HELLO {
            return Err(io::Error::other("the hello is too long"));
        }
        let mut rest = &*buffer;
        while !rest.is_empty() {
            acceptor.read_tls(&mut rest)?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(_)) if !rest.is_empty() => {
                    return Err(io::Error::other("bytes behind the hello"));
                }
                Ok(Some(accepted)) => return Ok(accepted),
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    alert.write_all(&mut bytes)?;
                    stream.write_all(&bytes).await?;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
    }
}
