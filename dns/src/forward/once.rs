//! One packet to one server, on a socket or a connection of its own.
//!
//! A UDP socket is used for one question only: the kernel gives it a port at random and drops what
//! others send to it, and that port and a random ID are what protects clients from forged answers
//! (RFC 5452).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

use crate::wire::{Rcode, UDP_EDNS_LIMIT, flag, u16_at};

use super::connect::connect;
use super::packet::{Match, Packet};
use super::rebuild::full_rcode;
use super::server::{LetterCase, Reason, Server};

/// More than an upstream should send, because the query says how much less is accepted.
const MAX_UDP_ANSWER: usize = 4096;
const _: () = assert!(UDP_EDNS_LIMIT <= MAX_UDP_ANSWER);

/// Asks a server as it wants to be asked: over UDP or, if it has a name, TLS. For probes.
///
/// # Errors
///
/// When it cannot be reached. It does not end if the server is silent.
pub(crate) async fn ask(
    server: &Server,
    packet: &Packet,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Vec<u8>, Reason> {
    if server.address.tls_name.is_none() {
        return over_udp(server, packet, &mut false).await;
    }
    let mut stream = connect(server, tls).await?;
    let reply = async {
        stream.write_all(&framed(packet.bytes())).await?;
        stream.flush().await?;
        loop {
            let length = stream.read_u16().await?;
            let mut reply = vec![0; usize::from(length)];
            stream.read_exact(&mut reply).await?;
            if packet.answered_by(&reply) != Match::No {
                return Ok::<_, io::Error>(reply);
            }
        }
    };
    reply.await.map_err(|error| unreachable(server, &error))
}

/// Asks a server over UDP. `other_case` is set if a reply was ignored because its letters have
/// another case than those that were sent.
///
/// # Errors
///
/// When the server cannot be reached. It does not end if the server is silent.
pub(crate) async fn over_udp(
    server: &Server,
    packet: &Packet,
    other_case: &mut bool,
) -> Result<Vec<u8>, Reason> {
    let exchange = async {
        let socket = connected(server.address.socket)?;
        socket.send(packet.bytes()).await?;
        let mut buffer = vec![0; MAX_UDP_ANSWER + 1];
        loop {
            let len = socket.recv(&mut buffer).await?;
            match packet.answered_by(&buffer[..len]) {
                Match::No => continue,
                Match::OtherCase if server.letter_case() == LetterCase::Kept => {
                    *other_case = true;
                    continue;
                }
                Match::OtherCase => server.set_letter_case(LetterCase::Lost),
                Match::Exact => {
                    if packet.tells_case() && server.letter_case() == LetterCase::Unknown {
                        server.set_letter_case(LetterCase::Kept);
                    }
                }
            }
            if len > MAX_UDP_ANSWER {
                // The rest of it is lost, so it is as if the server had cut it.
                buffer[2] |= flag::TC.to_be_bytes()[0];
            }
            buffer.truncate(len);
            packet.restore_letters(&mut buffer);
            return Ok(buffer);
        }
    };
    exchange.await.map_err(|error: io::Error| unreachable(server, &error))
}

fn unreachable(server: &Server, error: &io::Error) -> Reason {
    tracing::debug!(upstream = %server.address, %error, "cannot be reached");
    Reason::Unreachable
}

/// A socket with a port at random, which takes datagrams of this server only.
fn connected(address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.connect(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Whether a reply to a query with an OPT record says that it is not supported (RFC 6891 section
/// 6.2.2 and section 7). A BADVERS reply has its upper bits in an OPT record.
pub(crate) fn lacks_edns(reply: &[u8]) -> bool {
    let rcode = u16_at(reply, 2).unwrap_or_default() & flag::RCODE;
    rcode == Rcode::FORMERR.0
        || rcode == Rcode::NOTIMP.0
        || full_rcode(reply) == Some(Rcode::BADVERS)
}

/// A message with its length before it, for a stream.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u16).to_be_bytes();
    [&length[..], message].concat()
}
