//! Whose process is at the other end of a connection on loopback, as the kernel tells in
//! `/proc/net/tcp`.
//!
//! An address on loopback is anybody's to bind while its feed is away: the token must not be
//! shown to the process that answers there. The row of the other end's socket has the user who
//! accepted it.
//! Left out: connections that nobody has accepted yet, which are nobody's.

use std::net::{IpAddr, SocketAddr};

use memchr::memmem;

/// Sockets by the protocol of the server's: one that listens on both has its rows in the second.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// Whether the server's end of a connection is a socket of that user. Blocking: the kernel writes
/// a row for each connection of the machine, 40 ms for 20,000.
pub(crate) fn is_users(server: SocketAddr, client: SocketAddr, user: u32) -> bool {
    TABLES.iter().any(|table| {
        let Ok(rows) = std::fs::read(table) else { return false };
        owner(&rows, server, client) == Some(user)
    })
}

/// The user in the row of the server's end.
fn owner(rows: &[u8], server: SocketAddr, client: SocketAddr) -> Option<u32> {
    let ends = format!(": {} {} ", end(server), end(client));
    let mapped = format!(": {} {} ", mapped_end(server), mapped_end(client));
    let at = memmem::find(rows, ends.as_bytes()).map(|at| at + ends.len());
    let at = at.or_else(|| Some(memmem::find(rows, mapped.as_bytes())? + mapped.len()))?;
    let row = rows[at..].split(|byte| *byte == b'\n').next()?;
    // After the addresses: state, queues, timer, retransmits, user.
    std::str::from_utf8(row).ok()?.split_ascii_whitespace().nth(4)?.parse().ok()
}

/// An address as the tables have it: each four bytes as a number of this machine, then the port.
fn end(address: SocketAddr) -> String {
    let port = address.port();
    match address.ip() {
        IpAddr::V4(ip) => format!("{}:{port:04X}", words(&ip.octets())),
        IpAddr::V6(ip) => format!("{}:{port:04X}", words(&ip.octets())),
    }
}

/// The same for a socket that listens on IPv4 and IPv6.
fn mapped_end(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) => end(SocketAddr::new(ip.to_ipv6_mapped().into(), address.port())),
        IpAddr::V6(_) => end(address),
    }
}

fn words(octets: &[u8]) -> String {
    let words = octets.as_chunks::<4>().0.iter();
    words.map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn rows_of_the_kernel() {
        let rest = "01 00000000:00000000 00:00000000 00000000  1000        0 27436 1";
        let check = |ends: &str, server: &str, client: &str, user| {
            let rows = format!(
                "  sl  local_address rem_address   st\n   0: 0100007F:1CE8 00000000:0000 0A 0:0 \
                 0:0 0 7\n  17: {ends} {rest}\n"
            );
            let (server, client) = (server.parse().unwrap(), client.parse().unwrap());
            assert_eq!(owner(rows.as_bytes(), server, client), user, "{ends}");
        };
        let (server, client) = ("127.0.0.1:7400", "127.0.0.2:50000");
        check("0100007F:1CE8 0200007F:C350", server, client, Some(1000));
        check("0200007F:C350 0100007F:1CE8", server, client, None);
        check("0100007F:1CE8 0200007F:C351", server, client, None);
        let mapped = "0000000000000000FFFF00000100007F:1CE8 0000000000000000FFFF00000200007F:C350";
        check(mapped, server, client, Some(1000));
        let ends = "00000000000000000000000001000000:1CE8 00000000000000000000000001000000:C350";
        check(ends, "[::1]:7400", "[::1]:50000", Some(1000));
    }

    #[test]
    fn an_accepted_connection_is_its_servers() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            // Not every machine has the second.
            let Ok(listener) = TcpListener::bind(listen) else { continue };
            let server = listener.local_addr().unwrap();
            let stream = TcpStream::connect(server).unwrap();
            let _accepted = listener.accept().unwrap();
            let (user, client) = (super::super::user(), stream.local_addr().unwrap());
            assert!(is_users(server, client, user), "{listen}");
            assert!(!is_users(server, client, user + 1), "{listen}");
            assert!(!is_users(server, server, user), "{listen}");
        }
    }
}
