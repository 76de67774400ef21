//! The PROXY protocol, versions 1 and 2: a header ahead of a connection's bytes, in which a proxy
//! says who its client is.
//!
//! By the specification that HAProxy publishes (doc/proxy-protocol.txt). Left out: which peers may
//! send a header; TLVs, which are skipped.

use std::io;
use std::net::SocketAddr;

use memchr::memchr;
use ppp::{HeaderResult, v1, v2};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Bytes of the shortest header of either version: enough to tell the versions apart.
const FIRST_BYTES: usize = 12;
/// The fixed part of version 2, whose last two bytes are the length of the rest.
const V2_BYTES: usize = 16;
/// The longest line of version 1, with its end.
const MAX_LINE: usize = 107;
/// The longest variable part of version 2: addresses, and what else a proxy knows of a connection.
const MAX_LENGTH: usize = 4 << 10;

/// What a header says of a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ProxyHeader {
    /// It is the proxy's own, such as a health check.
    Local,
    /// It is a client's whose address the proxy does not know.
    Unknown,
    /// It is a client's; `local` is the address at which the client reached the first proxy.
    Client { client: SocketAddr, local: SocketAddr },
}

/// Reads a header, and nothing that follows it.
///
/// # Errors
///
/// When there is no such header, or the connection ends in it.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<ProxyHeader> {
    let mut header = vec![0; FIRST_BYTES];
    stream.read_exact(&mut header).await?;
    if header == v2::PROTOCOL_PREFIX {
        header.resize(V2_BYTES, 0);
        stream.read_exact(&mut header[FIRST_BYTES..]).await?;
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > MAX_LENGTH {
            return Err(invalid(format!("a header of {length} bytes")));
        }
        header.resize(V2_BYTES + length, 0);
        stream.read_exact(&mut header[V2_BYTES..]).await?;
    } else if header.starts_with(b"PROXY ") {
        read_line(stream, &mut header).await?;
    } else {
        return Err(invalid("no PROXY header"));
    }
    parse(&header)
}

/// Reads on to the end of a line.
async fn read_line(stream: &mut TcpStream, line: &mut Vec<u8>) -> io::Result<()> {
    let mut next = [0; MAX_LINE];
    while line.last() != Some(&b'\n') {
        let room = MAX_LINE - line.len();
        if room == 0 {
            return Err(invalid("a line without an end"));
        }
        let seen = stream.peek(&mut next[..room]).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = memchr(b'\n', &next[..seen]).map_or(seen, |end| end + 1);
        stream.read_exact(&mut next[..length]).await?;
        line.extend_from_slice(&next[..length]);
    }
    Ok(())
}

fn parse(header: &[u8]) -> io::Result<ProxyHeader> {
    let v4 = |a: v2::IPv4| ProxyHeader::Client {
        client: (a.source_address, a.source_port).into(),
        local: (a.destination_address, a.destination_port).into(),
    };
    let v6 = |a: v2::IPv6| ProxyHeader::Client {
        client: (a.source_address, a.source_port).into(),
        local: (a.destination_address, a.destination_port).into(),
    };
    match HeaderResult::parse(header) {
        HeaderResult::V1(parsed) => match parsed.map_err(invalid)?.addresses {
            v1::Addresses::Unknown => Ok(ProxyHeader::Unknown),
            v1::Addresses::Tcp4(addresses) => Ok(v4(addresses)),
            v1::Addresses::Tcp6(addresses) => Ok(v6(addresses)),
        },
        HeaderResult::V2(parsed) => {
            let parsed = parsed.map_err(invalid)?;
            if parsed.command == v2::Command::Local {
                return Ok(ProxyHeader::Local);
            }
            match parsed.addresses {
                v2::Addresses::Unspecified | v2::Addresses::Unix(_) => Ok(ProxyHeader::Unknown),
                v2::Addresses::IPv4(addresses) => Ok(v4(addresses)),
                v2::Addresses::IPv6(addresses) => Ok(v6(addresses)),
            }
        }
    }
}

fn invalid(problem: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([command, family]);
        header.extend((body.len() as u16).to_be_bytes());
        header.extend(body);
        header
    }

    #[test]
    fn headers_are_read() {
        let client = ProxyHeader::Client {
            client: "192.0.2.7:4711".parse().unwrap(),
            local: "198.51.100.1:443".parse().unwrap(),
        };
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];
        let mut with_tlv = v4.to_vec();
        with_tlv.extend([0x04, 0, 1, 0]);
        let mut v6 = [0; 36];
        v6[15] = 9;
        v6[31] = 8;
        v6[33] = 1;
        v6[35] = 2;
        let table = [
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n".to_vec(), client),
            (b"PROXY UNKNOWN\r\n".to_vec(), ProxyHeader::Unknown),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), ProxyHeader::Unknown),
            (v2(0x21, 0x11, &v4), client),
            (v2(0x21, 0x11, &with_tlv), client),
            (v2(0x20, 0x11, &v4), ProxyHeader::Local),
            (v2(0x20, 0x00, &[]), ProxyHeader::Local),
            (v2(0x21, 0x31, &[0; 216]), ProxyHeader::Unknown),
            (v2(0x21, 0x00, &[]), ProxyHeader::Unknown),
            (
                v2(0x21, 0x21, &v6),
                ProxyHeader::Client {
                    client: "[::9]:1".parse().unwrap(),
                    local: "[::8]:2".parse().unwrap(),
                },
            ),
        ];
        for (header, expected) in table {
            assert_eq!(parse(&header).unwrap(), expected, "{}", header.escape_ascii());
        }
    }

    #[test]
    fn bad_headers_are_refused() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];
        let table = [
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.007 198.51.100.1 4711 443\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::2 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n".to_vec(),
            v2(0x31, 0x11, &v4),
            v2(0x22, 0x11, &v4),
            v2(0x21, 0x11, &v4[..11]),
        ];
        for header in table {
            let parsed = parse(&header);
            assert!(parsed.is_err(), "{}: {parsed:?}", header.escape_ascii());
        }
    }
}
