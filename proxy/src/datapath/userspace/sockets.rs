//! Opens the sockets of a frontend: all that is needed before a data thread can use them.
//!
//! Every address is bound once without `SO_REUSEPORT` first: with it, a second proxy of the same
//! user would bind the same port without an error and take half of its connections. The option
//! is set right after, so that the sockets of the other workers can join.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

/// The kernel lowers it to `net.core.somaxconn`, 4096 by default since Linux 5.4.
pub(super) const BACKLOG: i32 = 4096;

/// A client that vanished without a word is noticed after about two minutes of silence; without
/// this its connection would stay for good.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// What is special about an address to be bound.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BindOptions {
    /// Another socket of this process has the port on an address that overlaps this one (a
    /// wildcard and a specific address); the kernel then prefers the specific one.
    pub(crate) beside_own: bool,
    /// It is this host's by a local route, which is enough to bind an IPv4 address but not an
    /// IPv6 one.
    pub(crate) by_route: bool,
}

/// Opens `count` listeners on one address, one for each worker that gets its own.
pub(crate) fn listen_tcp(
    addr: SocketAddr,
    count: usize,
    options: BindOptions,
) -> io::Result<Vec<TcpListener>> {
    let sockets = bind(addr, Type::STREAM, count, options)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    for socket in &sockets {
        // Accepted sockets inherit both, which saves two calls a connection.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&keepalive)?;
        socket.listen(BACKLOG)?;
    }
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

/// Binds `count` UDP sockets to one address. A socket on a wildcard address tells of each
/// datagram which local address it was sent to, because the reply must come from there.
pub(super) fn bind_udp(
    addr: SocketAddr,
    count: usize,
    options: BindOptions,
) -> io::Result<Vec<UdpSocket>> {
    let sockets = bind(addr, Type::DGRAM, count, options)?;
    if addr.ip().is_unspecified() {
        for socket in &sockets {
            if addr.is_ipv4() {
                setsockopt(&socket.as_fd(), sockopt::Ipv4PacketInfo, &true)?;
            } else {
                setsockopt(&socket.as_fd(), sockopt::Ipv6RecvPacketInfo, &true)?;
            }
        }
    }
    Ok(sockets.into_iter().map(UdpSocket::from).collect())
}

fn bind(
    addr: SocketAddr,
    kind: Type,
    count: usize,
    options: BindOptions,
) -> io::Result<Vec<Socket>> {
    let address = SockAddr::from(addr);
    let mut sockets = Vec::with_capacity(count);
    for place in 0..count {
        let socket = Socket::new(Domain::for_address(addr), kind.nonblocking(), None)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
            if options.by_route {
                socket.set_freebind_v6(true)?;
            }
        }
        if kind == Type::STREAM {
            // Over connections of an earlier listener in TIME_WAIT; a live listener still
            // conflicts. On UDP the option would let anyone share the port.
            socket.set_reuse_address(true)?;
        }
        let joins = place > 0 || options.beside_own;
        if joins {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address)?;
        if !joins {
            socket.set_reuse_port(true)?;
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Whether this host has IPv6 at all: the address `::1` can be bound.
pub(super) fn has_ipv6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}

/// Whether it is an address of this host.
pub(super) fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 251, 7, last], 0))
    }

    type Open = fn(SocketAddr, usize) -> io::Result<SocketAddr>;

    /// Opens one more socket the way a second proxy would, while the first one is open.
    fn check_exclusive<S>(open: impl Fn(SocketAddr, usize) -> io::Result<Vec<S>>, again: Open) {
        let free = UdpSocket::bind(loopback(1)).unwrap().local_addr().unwrap();
        let first = open(free, 3).unwrap();
        assert_eq!(first.len(), 3);
        let error = again(free, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert_eq!(again(free, 2).unwrap(), free);
    }

    #[test]
    fn a_second_proxy_does_not_share_the_port() {
        check_exclusive(
            |addr, count| listen_tcp(addr, count, BindOptions::default()),
            |addr, count| listen_tcp(addr, count, BindOptions::default())?[0].local_addr(),
        );
        check_exclusive(
            |addr, count| bind_udp(addr, count, BindOptions::default()),
            |addr, count| bind_udp(addr, count, BindOptions::default())?[0].local_addr(),
        );
    }

    #[test]
    fn a_wildcard_stands_beside_an_address_of_our_own() {
        let alone = BindOptions::default();
        let beside = BindOptions { beside_own: true, ..alone };
        let specific = listen_tcp(loopback(2), 1, alone).unwrap();
        let port = specific[0].local_addr().unwrap().port();
        let wildcard = SocketAddr::from(([0, 0, 0, 0], port));
        assert_eq!(listen_tcp(wildcard, 1, alone).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(listen_tcp(wildcard, 2, beside).unwrap().len(), 2);
    }
}
