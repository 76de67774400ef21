//! The header that tells an endpoint who its client is: PROXY protocol, version 2.
//!
//! Pure. By section 2.2 of the specification that HAProxy publishes (doc/proxy-protocol.txt).
//!
//! Left out: version 1, extensions (TLVs) and reading such headers.

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and the command PROXY: on behalf of a client.
const VERSION_AND_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// Signature, four bytes, two IPv6 addresses and two ports.
const MAX_HEADER: usize = 12 + 4 + 2 * 16 + 2 * 2;

/// The header for a TCP connection from `client` to `local`, both of one family.
///
/// An IPv4 address mapped into IPv6 is one of IPv4.
pub fn header(client: SocketAddr, local: SocketAddr) -> SmallVec<[u8; MAX_HEADER]> {
    let mut header = SmallVec::from_slice(&SIGNATURE);
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
    use super::*;

    fn check(client: &str, local: &str, expected: &[u8]) {
        let header = header(client.parse().unwrap(), local.parse().unwrap());
        assert_eq!(&header[..12], b"\r\n\r\n\0\r\nQUIT\n");
        assert_eq!(&header[12..], expected, "{client} {local}");
    }

    #[test]
    fn addresses_and_ports_in_network_order() {
        let v4 = [0x21, 0x11, 0, 12, 192, 0, 2, 1, 10, 0, 0, 7, 0x30, 0x39, 0, 80];
        check("192.0.2.1:12345", "10.0.0.7:80", &v4);
        check("[::ffff:192.0.2.1]:12345", "10.0.0.7:80", &v4);
        let mut v6 = vec![0x21, 0x21, 0, 36];
        v6.extend("2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        v6.extend("fd00::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
        v6.extend([0x30, 0x39, 0x01, 0xbb]);
        check("[2001:db8::1]:12345", "[fd00::7]:443", &v6);
    }
}
