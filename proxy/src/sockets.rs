//! Opens the sockets of frontends and of connections to endpoints, ready for a data thread.
//!
//! Left out: how an address is kept for this process alone, which is [`daemon::listen`]'s.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) use daemon::listen::Options as BindOptions;

use daemon::listen;
use nix::sys::socket::sockopt::{self, GetStruct};
use nix::sys::socket::{MsgFlags, getsockopt, recvmsg, setsockopt};
use nix::{getsockopt_impl, libc, sockopt_impl};
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_quickack;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use socket2::{SockFilter, SockRef, Socket, TcpKeepalive, Type};

use crate::host_network::ipv6_is_disabled;

/// Room for a burst of UDP datagrams, some thousands of small ones, while the thread does other
/// work, on both sides of a session. Without CAP_NET_ADMIN the kernel takes the smaller of this
/// and `net.core.rmem_max`. Memory is taken by what waits.
const UDP_RECEIVE_BYTES: usize = 2 << 20;

/// A client that vanished without closing is detected after about two minutes of silence. Without
/// keepalive its connection would never end.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// The offset of the flags in a TCP header, and two of the flags.
const TCP_FLAGS_OFFSET: u32 = 13;
const TCP_SYN: u32 = 0x02;
const TCP_ACK: u32 = 0x10;

/// Opens `count` listeners on one address, for as many data threads.
pub(crate) fn listen_tcp(
    addr: SocketAddr,
    count: usize,
    options: BindOptions,
) -> io::Result<Vec<TcpListener>> {
    let options = BindOptions { only_v6: true, ..options };
    let listeners = listen::tcp(addr, count, options, prepare_tcp)?;
    for listener in &listeners {
        // For the accepted sockets as well; listen(2) would undo it.
        set_tcp_quickack(listener, false)?;
    }
    Ok(listeners)
}

/// Accepted sockets inherit these, which saves several calls for each connection.
fn prepare_tcp(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    set_keepalive(socket)
}

/// A listener that another process has opened at this address.
///
/// # Errors
///
/// When it is something else.
pub(crate) fn adopt_tcp(socket: OwnedFd, addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::from(socket);
    if !socket.is_listener()? {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    claim(&socket, Type::STREAM, addr)?;
    prepare_tcp(&socket)?;
    // A filter stays with the socket, see `refuse_new`; without one this fails.
    let _ = socket.detach_filter();
    set_tcp_quickack(&socket, false)?;
    Ok(socket.into())
}

/// A UDP socket that another process has bound to this address.
///
/// # Errors
///
/// When it is something else.
pub(crate) fn adopt_udp(socket: OwnedFd, addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::from(socket);
    claim(&socket, Type::DGRAM, addr)?;
    let socket = UdpSocket::from(socket);
    prepare_udp(&socket, addr)?;
    Ok(socket)
}

/// Refuses a socket of another kind or address, and makes the others ready for a data thread.
fn claim(socket: &Socket, kind: Type, addr: SocketAddr) -> io::Result<()> {
    let is_it = socket.r#type()? == kind && socket.local_addr()?.as_socket() == Some(addr);
    if !is_it {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    socket.set_nonblocking(true)
}

/// Has the kernel detect a peer that vanished without closing.
pub(crate) fn set_keepalive(socket: &impl AsFd) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// Has a listener that is about to be closed ignore new handshakes. A client that begins one now
/// repeats it and is refused then. A client whose handshake is complete when the listener is closed
/// would be reset instead.
pub(crate) fn refuse_new(listener: &TcpListener) {
    let instruction = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    // The filter sees the segment from its TCP header on (RFC 9293, section 3.1).
    let filter = [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, TCP_FLAGS_OFFSET),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, TCP_SYN | TCP_ACK),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, TCP_SYN),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    // If it fails, some clients are reset instead of refused.
    let _ = SockRef::from(listener).attach_filter(&filter);
}

/// A socket that has begun to connect.
///
/// `source`: the local address to connect from; `None` leaves it to the kernel.
/// `sends_first`: there are bytes for the endpoint. They carry the acknowledgement of the
/// handshake, so the kernel need not send it on its own (tcp(7), `TCP_QUICKACK`).
pub(crate) fn connecting(
    addr: SocketAddr,
    source: Option<IpAddr>,
    sends_first: bool,
) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family(addr), SocketType::STREAM, flags, None)?;
    if sends_first {
        set_tcp_quickack(&socket, false)?;
    }
    if let Some(source) = source {
        // The port is chosen when the endpoint is known: it need only be free towards that one.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)
            .map_err(|error| Errno::from_raw_os_error(error as i32))?;
        rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
    }
    match connect(&socket, &addr) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket),
        Err(error) => Err(error),
    }
}

fn family(addr: SocketAddr) -> AddressFamily {
    if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// Acknowledges the bytes received so far, and for a while those that follow. A peer that sends in
/// two pieces may wait for the acknowledgement of the first.
pub(crate) fn acknowledge_at_once(socket: &OwnedFd) {
    // It fails only for a socket that is gone, which the next call reports.
    let _ = set_tcp_quickack(socket, true);
}

/// Binds `count` UDP sockets to one address. A socket on a wildcard address reports the local
/// address that each datagram was sent to, because the reply must come from there.
pub(crate) fn bind_udp(
    addr: SocketAddr,
    count: usize,
    options: BindOptions,
) -> io::Result<Vec<UdpSocket>> {
    let options = BindOptions { only_v6: true, ..options };
    let sockets = listen::udp(addr, count, options)?;
    for socket in &sockets {
        prepare_udp(socket, addr)?;
    }
    Ok(sockets)
}

fn prepare_udp(socket: &UdpSocket, addr: SocketAddr) -> io::Result<()> {
    set_receive_buffer(socket)?;
    match (addr.ip().is_unspecified(), addr.is_ipv4()) {
        (false, _) => {}
        (true, true) => setsockopt(&socket.as_fd(), sockopt::Ipv4PacketInfo, &true)?,
        (true, false) => setsockopt(&socket.as_fd(), sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(())
}

/// A UDP socket that is connected to an endpoint, and that reports when its host is gone.
///
/// `source`: the local address to send from; `None` leaves it to the kernel.
pub(crate) fn connect_udp(addr: SocketAddr, source: Option<IpAddr>) -> Result<UdpSocket, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family(addr), SocketType::DGRAM, flags, None)?;
    // A smaller buffer, or no report, is no reason to serve nobody.
    let _ = set_receive_buffer(&socket);
    // Without this only "port unreachable" is reported, not that nobody has the address (ip(7)).
    let _ = match addr {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
    };
    if let Some(source) = source {
        rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
    }
    connect(&socket, &addr)?;
    Ok(socket.into())
}

/// Takes one report of an earlier datagram off the socket; false when there is none.
pub(crate) fn take_report(socket: &impl AsRawFd) -> bool {
    let mut nothing = [];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    recvmsg::<()>(socket.as_raw_fd(), &mut nothing, None, flags).is_ok()
}

/// Datagrams that the kernel has dropped because the socket's receive buffer was full.
pub(crate) fn dropped_datagrams(socket: &impl AsFd) -> u32 {
    // It fails only for what is no socket.
    getsockopt(socket, MemoryInfo).map_or(0, |info| info[MEMORY_INFO_DROPS])
}

/// `SO_MEMINFO` of asm-generic/socket.h, an array of nine counts of which `SK_MEMINFO_DROPS` is
/// the last (linux/sock_diag.h).
const SO_MEMINFO: libc::c_int = 55;
const MEMORY_INFO_COUNTS: usize = 9;
const MEMORY_INFO_DROPS: usize = 8;

sockopt_impl!(
    MemoryInfo,
    GetOnly,
    libc::SOL_SOCKET,
    SO_MEMINFO,
    [u32; MEMORY_INFO_COUNTS],
    GetStruct<[u32; MEMORY_INFO_COUNTS]>
);

/// Makes the receive buffer large, beyond `net.core.rmem_max` if the process may.
fn set_receive_buffer(socket: &impl AsFd) -> io::Result<()> {
    static MAY_FORCE: AtomicBool = AtomicBool::new(true);
    if MAY_FORCE.load(Ordering::Relaxed) {
        if setsockopt(socket, sockopt::RcvBufForce, &UDP_RECEIVE_BYTES).is_ok() {
            return Ok(());
        }
        MAY_FORCE.store(false, Ordering::Relaxed);
    }
    SockRef::from(socket).set_recv_buffer_size(UDP_RECEIVE_BYTES)
}

/// Says why an address cannot be bound, and what to do about it.
pub(crate) fn why_not_bound(addr: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("{addr} is taken by another process"),
        io::ErrorKind::AddrNotAvailable if addr.is_ipv6() && ipv6_is_disabled() => {
            format!("{addr} cannot be served: IPv6 is disabled on this host")
        }
        io::ErrorKind::AddrNotAvailable => format!(
            "{} is not an address of this host: use a ClusterIP in 127.0.0.0/8, or make it one \
             (--service-cidr, ip addr add, or ip route add local CIDR dev lo)",
            addr.ip()
        ),
        io::ErrorKind::PermissionDenied => format!(
            "no permission to bind {addr}: a port below net.ipv4.ip_unprivileged_port_start \
             needs CAP_NET_BIND_SERVICE"
        ),
        _ => format!("cannot bind {addr}: {error}"),
    }
}

/// Whether this host has IPv6 at all: the address `::1` can be bound.
pub(crate) fn has_ipv6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}

/// Whether it is an address of this host.
pub(crate) fn is_local(ip: IpAddr) -> bool {
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
    fn a_vanished_endpoint_is_looked_for() {
        let listener = &listen_tcp(loopback(3), 1, BindOptions::default()).unwrap()[0];
        let socket = connecting(listener.local_addr().unwrap(), None, true).unwrap();
        assert!(!SockRef::from(&socket).keepalive().unwrap());
        set_keepalive(&socket).unwrap();
        assert!(SockRef::from(&socket).keepalive().unwrap());
        assert_eq!(SockRef::from(&socket).tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
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

    #[test]
    fn datagrams_that_a_full_buffer_drops_are_counted() {
        let peer = UdpSocket::bind(loopback(4)).unwrap();
        let socket = connect_udp(peer.local_addr().unwrap(), None).unwrap();
        assert_eq!(dropped_datagrams(&socket), 0);
        let addr = socket.local_addr().unwrap();
        // More than the largest buffer, one after the other.
        for _ in 0..5 * UDP_RECEIVE_BYTES / 10_000 {
            peer.send_to(&[0; 10_000], addr).unwrap();
        }
        assert!(dropped_datagrams(&socket) > 0);
    }

    #[test]
    fn a_udp_socket_may_leave_from_a_chosen_address() {
        let peer = UdpSocket::bind(loopback(5)).unwrap();
        let source = loopback(6).ip();
        let socket = connect_udp(peer.local_addr().unwrap(), Some(source)).unwrap();
        assert_eq!(socket.local_addr().unwrap().ip(), source);
        let listener = &listen_tcp(loopback(5), 1, BindOptions::default()).unwrap()[0];
        let socket = connecting(listener.local_addr().unwrap(), Some(source), false).unwrap();
        let local = SockRef::from(&socket).local_addr().unwrap().as_socket().unwrap();
        assert_eq!(local.ip(), source);
    }
}
