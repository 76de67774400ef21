//! The PROXY protocol, versions 1 and 2: a header in which a proxy describes its client, ahead of
//! the client's own bytes.
//!
//! By the specification that HAProxy publishes (doc/proxy-protocol.txt). [`parse`] and [`write()`]
//! are pure; [`read`] takes exactly one header from a connection. Left out: who is allowed to
//! send one, which the caller decides; extensions (TLVs), which are skipped and not written.

use std::io;
use std::net::{IpAddr, SocketAddr};

use memchr::memchr;
use ppp::{HeaderResult, v1, v2};
use smallvec::SmallVec;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Bytes read first: no more than the shortest header of either version has, and enough to tell
/// the versions apart.
const FIRST_BYTES: usize = 12;
/// The fixed part of version 2; its last two bytes are the length of what follows.
const V2_BYTES: usize = 16;
/// The longest line of version 1, with its end (section 2.1).
const MAX_LINE: usize = 107;
/// The longest accepted variable part of version 2: addresses, and extensions (TLVs).
const MAX_LENGTH: usize = 4 << 10;
/// Version 2, and the command PROXY: on behalf of a client.
const VERSION_AND_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// The longest header that is written: the fixed part, two IPv6 addresses and two ports.
const MAX_WRITTEN: usize = V2_BYTES + 2 * 16 + 2 * 2;

/// For whom a proxy opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// For itself, such as its health check (version 2, command LOCAL).
    Local,
    /// For a client whose address it does not know.
    Unknown,
    /// For this client, which reached the first proxy at the address `local`.
    Client { client: SocketAddr, local: SocketAddr },
}

/// Why the header could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BadHeader {
    #[error("the connection does not begin with a PROXY protocol header")]
    Missing,
    #[error("the PROXY protocol header announces {0} bytes; at most {MAX_LENGTH} are accepted")]
    TooLong(usize),
    #[error("the PROXY protocol header of version 1 has no line end in its first {MAX_LINE} bytes")]
    Unended,
    #[error("the PROXY protocol header of version 1 does not end with CR LF")]
    LineEnd,
    #[error("the PROXY protocol header of version 1 is not valid")]
    V1(#[from] v1::BinaryParseError),
    #[error("the PROXY protocol header of version 2 is not valid")]
    V2(#[from] v2::ParseError),
    #[error("the connection failed while its PROXY protocol header was read")]
    Connection(#[from] io::Error),
}

/// Parses one whole header.
///
/// # Errors
///
/// When it is not a header, or incomplete.
pub fn parse(header: &[u8]) -> Result<ProxyHeader, BadHeader> {
    if !header.starts_with(b"PROXY ") && !header.starts_with(v2::PROTOCOL_PREFIX) {
        return Err(BadHeader::Missing);
    }
    // The library takes a space for CR, and CR for a space.
    if header.starts_with(b"PROXY ") && memchr(b'\r', header) != header.len().checked_sub(2) {
        return Err(BadHeader::LineEnd);
    }
    let v4 = |a: v2::IPv4| ProxyHeader::Client {
        client: (a.source_address, a.source_port).into(),
        local: (a.destination_address, a.destination_port).into(),
    };
    let v6 = |a: v2::IPv6| ProxyHeader::Client {
        client: (a.source_address, a.source_port).into(),
        local: (a.destination_address, a.destination_port).into(),
    };
    match HeaderResult::parse(header) {
        HeaderResult::V1(parsed) => match parsed?.addresses {
            v1::Addresses::Unknown => Ok(ProxyHeader::Unknown),
            v1::Addresses::Tcp4(addresses) => Ok(v4(addresses)),
            v1::Addresses::Tcp6(addresses) => Ok(v6(addresses)),
        },
        HeaderResult::V2(parsed) => {
            let parsed = parsed?;
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

/// Reads a header, and nothing that follows it.
///
/// # Errors
///
/// When the connection does not begin with a header, or ends within it.
pub async fn read(stream: &mut TcpStream) -> Result<ProxyHeader, BadHeader> {
    let mut header = vec![0; FIRST_BYTES];
    stream.read_exact(&mut header).await?;
    if header == v2::PROTOCOL_PREFIX {
        header.resize(V2_BYTES, 0);
        stream.read_exact(&mut header[FIRST_BYTES..]).await?;
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > MAX_LENGTH {
            return Err(BadHeader::TooLong(length));
        }
        header.resize(V2_BYTES + length, 0);
        stream.read_exact(&mut header[V2_BYTES..]).await?;
    } else if header.starts_with(b"PROXY ") {
        read_line(stream, &mut header).await?;
    }
    parse(&header)
}

/// Reads on to the end of a line.
async fn read_line(stream: &mut TcpStream, line: &mut Vec<u8>) -> Result<(), BadHeader> {
    let mut next = [0; MAX_LINE];
    while line.last() != Some(&b'\n') {
        let room = MAX_LINE - line.len();
        if room == 0 {
            return Err(BadHeader::Unended);
        }
        let seen = stream.peek(&mut next[..room]).await?;
        if seen == 0 {
            return Err(BadHeader::Connection(io::ErrorKind::UnexpectedEof.into()));
        }
        let length = memchr(b'\n', &next[..seen]).map_or(seen, |end| end + 1);
        stream.read_exact(&mut next[..length]).await?;
        line.extend_from_slice(&next[..length]);
    }
    Ok(())
}

/// The header of version 2 for a TCP connection from `client` to `local`, both of one family.
///
/// An IPv4 address mapped into IPv6 is written as IPv4.
pub fn write(client: SocketAddr, local: SocketAddr) -> SmallVec<[u8; MAX_WRITTEN]> {
    let mut header = SmallVec::from_slice(v2::PROTOCOL_PREFIX);
    header.push(VERSION_AND_COMMAND);
    let mut addresses: SmallVec<[u8; 2 * 16]> = SmallVec::new();
    let family = match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(client), IpAddr::V4(local)) => {
            addresses.extend(client.octets().into_iter().chain(local.octets()));
            TCP_OVER_IPV4
        }
        (client, local) => {
            addresses.extend(octets(client).into_iter().chain(octets(local)));
            TCP_OVER_IPV6
        }
    };
    header.push(family);
    let length = addresses.len() as u16 + 4;
    header.extend(length.to_be_bytes());
    header.extend(addresses);
    header.extend(client.port().to_be_bytes());
    header.extend(local.port().to_be_bytes());
    header
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([command, family]);
        header.extend((body.len() as u16).to_be_bytes());
        header.extend(body);
        header
    }

    fn client_header(client: &str, local: &str) -> ProxyHeader {
        ProxyHeader::Client { client: client.parse().unwrap(), local: local.parse().unwrap() }
    }

    /// Headers of all kinds, with what they say.
    fn headers() -> Vec<(Vec<u8>, ProxyHeader)> {
        let expected = client_header("192.0.2.7:4711", "198.51.100.1:443");
        let mut with_tlv = V4.to_vec();
        with_tlv.extend([0x04, 0, 1, 0]);
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (9, 8, 1, 2);
        vec![
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n".to_vec(), expected),
            (b"PROXY UNKNOWN\r\n".to_vec(), ProxyHeader::Unknown),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), ProxyHeader::Unknown),
            (v2(0x21, 0x11, &V4), expected),
            (v2(0x21, 0x11, &with_tlv), expected),
            (v2(0x20, 0x11, &V4), ProxyHeader::Local),
            (v2(0x20, 0x00, &[]), ProxyHeader::Local),
            (v2(0x21, 0x31, &[0; 216]), ProxyHeader::Unknown),
            (v2(0x21, 0x00, &[]), ProxyHeader::Unknown),
            (v2(0x21, 0x21, &v6), client_header("[::9]:1", "[::8]:2")),
        ]
    }

    #[test]
    fn headers_are_parsed() {
        for (header, expected) in headers() {
            assert_eq!(parse(&header).unwrap(), expected, "{}", header.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_header_is_rejected() {
        let table = [
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.007 198.51.100.1 4711 443\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::2 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 \n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1\r4711 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\nx".to_vec(),
            v2(0x31, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x21, 0x11, &V4[..11]),
            b"GET / HTTP/1.1\r\n".to_vec(),
            Vec::new(),
        ];
        for header in table {
            let parsed = parse(&header);
            assert!(parsed.is_err(), "{}: {parsed:?}", header.escape_ascii());
        }
    }

    /// What is read of a connection that begins with these bytes, and how many bytes are left.
    async fn read_of(bytes: &[u8]) -> (Result<ProxyHeader, BadHeader>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let header = read(&mut stream).await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (header, rest.len())
    }

    #[tokio::test]
    async fn nothing_behind_a_header_is_read() {
        for (header, expected) in headers() {
            let (read, rest) = read_of(&[&header, &b"hello\n"[..]].concat()).await;
            assert_eq!((read.unwrap(), rest), (expected, 6), "{}", header.escape_ascii());
        }
    }

    #[tokio::test]
    async fn a_connection_without_a_header_says_what_is_wrong() {
        let too_long = [v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0x10, 0x01]].concat();
        let table = [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "does not begin with a PROXY protocol header"),
            (&[&b"PROXY "[..], &[b'x'; 200]].concat(), "no line end"),
            (&too_long, "announces 4097 bytes"),
            (b"PROXY TCP4 192", "failed while its PROXY protocol header was read"),
            (b"PROXY TCP4 nonsense\r\n", "version 1 is not valid"),
        ];
        for (bytes, expected) in table {
            let error = read_of(bytes).await.0.unwrap_err().to_string();
            assert!(error.contains(expected), "{}: {error}", bytes.escape_ascii());
        }
    }

    #[track_caller]
    fn check_written(client: &str, local: &str, expected: &[u8]) {
        let header = write(client.parse().unwrap(), local.parse().unwrap());
        assert_eq!(&header[..12], b"\r\n\r\n\0\r\nQUIT\n");
        assert_eq!(&header[12..], expected, "{client} {local}");
    }

    #[test]
    fn addresses_and_ports_are_written_in_network_order() {
        let v4 = [0x21, 0x11, 0, 12, 192, 0, 2, 1, 10, 0, 0, 7, 0x30, 0x39, 0, 80];
        check_written("192.0.2.1:12345", "10.0.0.7:80", &v4);
        check_written("[::ffff:192.0.2.1]:12345", "10.0.0.7:80", &v4);
        let mut v6 = vec![0x21, 0x21, 0, 36];
        v6.extend("2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        v6.extend("fd00::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
        v6.extend([0x30, 0x39, 0x01, 0xbb]);
        check_written("[2001:db8::1]:12345", "[fd00::7]:443", &v6);
    }

    #[test]
    fn what_is_written_is_parsed_as_the_same() {
        for (client, local) in
            [("192.0.2.1:12345", "10.0.0.7:80"), ("[2001:db8::1]:1", "[fd00::7]:65535")]
        {
            let header = write(client.parse().unwrap(), local.parse().unwrap());
            assert_eq!(parse(&header).unwrap(), client_header(client, local));
        }
    }
}
