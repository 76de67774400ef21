//! Listening sockets: at one address for each data thread, and of this process alone.
//!
//! Several sockets at one address need SO_REUSEPORT, and that option would let a second process
//! of the same user bind the address as well and get a part of the clients, without an error for
//! anyone. So the first socket is bound without the option, which fails if another process
//! listens there, and the option is set right after, so that the sockets of the other threads can
//! join. Between the two no other process can get in: it would need the option on both sides.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, SockAddr, Socket, Type};

/// Connections that the kernel completes for us while we are busy, as many as reconnect at once
/// after a restart. The kernel takes the smaller of this and `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

/// What is special about an address.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A socket at an IPv6 address takes no IPv4 clients.
    pub only_v6: bool,
    /// The address need not be assigned to an interface: it is this host's by a local route,
    /// which is enough to bind an IPv4 address but not an IPv6 one.
    pub by_route: bool,
    /// Another socket of this process has the port at an address that overlaps this one (a
    /// wildcard and a specific address); the kernel then prefers the specific one.
    pub beside_own: bool,
}

/// Opens `count` listeners at one address. `prepare` sets options that accepted connections
/// inherit. With port 0 all listeners share the port that the kernel chose.
///
/// # Errors
///
/// When another process listens there, or the address cannot be used.
pub fn tcp(
    addr: SocketAddr,
    count: usize,
    options: Options,
    prepare: impl Fn(&Socket) -> io::Result<()>,
) -> io::Result<Vec<TcpListener>> {
    let sockets = bind(addr, Type::STREAM, count, options)?;
    for socket in &sockets {
        prepare(socket)?;
        socket.listen(BACKLOG)?;
    }
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

/// Binds `count` sockets to one address, like [`tcp`].
///
/// # Errors
///
/// When another process has the address, or it cannot be used.
pub fn udp(addr: SocketAddr, count: usize, options: Options) -> io::Result<Vec<UdpSocket>> {
    let sockets = bind(addr, Type::DGRAM, count, options)?;
    Ok(sockets.into_iter().map(UdpSocket::from).collect())
}

/// The address that a set of listeners has: with the port that the kernel chose.
///
/// # Errors
///
/// When there is no listener, or the kernel does not tell.
pub fn address_of(listeners: &[TcpListener]) -> io::Result<SocketAddr> {
    listeners.first().ok_or(io::ErrorKind::NotFound)?.local_addr()
}

fn bind(addr: SocketAddr, kind: Type, count: usize, options: Options) -> io::Result<Vec<Socket>> {
    let mut address = SockAddr::from(addr);
    let mut sockets = Vec::with_capacity(count);
    for number in 0..count {
        let socket = Socket::new(Domain::for_address(addr), kind.nonblocking(), None)?;
        if addr.is_ipv6() {
            socket.set_only_v6(options.only_v6)?;
            if options.by_route {
                socket.set_freebind_v6(true)?;
            }
        }
        if kind == Type::STREAM {
            // Over connections of an earlier listener in TIME_WAIT; a live listener still
            // conflicts. On UDP the option would let anyone share the port.
            socket.set_reuse_address(true)?;
        }
        let joins = number > 0 || options.beside_own;
        if joins {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address)?;
        if !joins {
            socket.set_reuse_port(true)?;
        }
        if number == 0 {
            // With port 0, the others share the port that the kernel chose.
            address = socket.local_addr()?;
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([127, 251, 9, last], port))
    }

    type Open = fn(SocketAddr, usize, Options) -> io::Result<Vec<SocketAddr>>;

    /// Listeners, as what keeps their address taken, and where they listen.
    fn open_tcp(addr: SocketAddr, count: usize, options: Options) -> io::Result<Vec<TcpListener>> {
        tcp(addr, count, options, |_| Ok(()))
    }

    fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
        listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
    }

    #[test]
    fn all_listeners_share_a_port_of_the_kernels_choice_and_nobody_else_does() {
        let again: [Open; 2] = [
            |addr, count, options| Ok(addresses(&open_tcp(addr, count, options)?)),
            |addr, count, options| {
                udp(addr, count, options)?.iter().map(UdpSocket::local_addr).collect()
            },
        ];
        let first = open_tcp(loopback(1, 0), 3, Options::default()).unwrap();
        let addr = address_of(&first).unwrap();
        assert_eq!(addresses(&first), [addr; 3]);
        let error = again[0](addr, 1, Options::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert_eq!(again[0](addr, 2, Options::default()).unwrap(), [addr; 2]);

        let first = udp(loopback(1, 0), 3, Options::default()).unwrap();
        let addr = first[0].local_addr().unwrap();
        let error = again[1](addr, 1, Options::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert_eq!(again[1](addr, 2, Options::default()).unwrap(), [addr; 2]);
    }

    #[test]
    fn a_wildcard_stands_beside_an_address_of_our_own() {
        let alone = Options::default();
        let beside = Options { beside_own: true, ..alone };
        let specific = open_tcp(loopback(2, 0), 1, alone).unwrap();
        let port = address_of(&specific).unwrap().port();
        let wildcard = SocketAddr::from(([0, 0, 0, 0], port));
        let error = open_tcp(wildcard, 1, alone).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(open_tcp(wildcard, 2, beside).unwrap().len(), 2);
    }

    #[test]
    fn accepted_connections_inherit_what_was_prepared() {
        let prepare = |socket: &Socket| socket.set_tcp_nodelay(true);
        let listeners = tcp(loopback(3, 0), 1, Options::default(), prepare).unwrap();
        let _client = std::net::TcpStream::connect(address_of(&listeners).unwrap()).unwrap();
        let accepted = std::iter::repeat_with(|| listeners[0].accept()).find_map(Result::ok);
        assert!(accepted.unwrap().0.nodelay().unwrap());
    }
}
