//! The UDP socket of a frontend: receives from clients and replies from the address that each
//! client sent to.
//!
//! A socket bound to one address always replies from it. A socket bound to a wildcard address
//! would reply from the address that the route prefers, and the client's kernel would drop that
//! reply. So it asks for the local address of each datagram and sets it for the reply (ip(7) and
//! ipv6(7), `IP_PKTINFO`).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::sockets;

/// No UDP datagram is longer (RFC 768: a 16-bit length).
pub(super) const MAX_DATAGRAM: usize = 65_536;

/// Space for the larger of the two messages with its header, aligned as the kernel aligns them.
#[repr(align(8))]
struct Control([u8; 64]);

#[derive(Debug)]
pub(super) struct Downstream {
    socket: UdpSocket,
    wildcard: bool,
}

impl Downstream {
    /// Takes over a bound socket that does not block.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Downstream> {
        let wildcard = socket.local_addr()?.ip().is_unspecified();
        Ok(Downstream { socket: UdpSocket::from_std(socket)?, wildcard })
    }

    /// The same socket once more, for another process.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// Datagrams that the kernel has dropped because the receive buffer was full.
    pub(super) fn dropped(&self) -> u32 {
        sockets::dropped_datagrams(&self.socket)
    }

    /// Waits until there may be a datagram. Cancel safe.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The next datagram's length, its sender, and on a wildcard socket where it was sent to.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none.
    pub(super) fn receive(
        &self,
        buffer: &mut [u8],
    ) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
        if self.wildcard {
            return self.socket.try_io(Interest::READABLE, || self.receive_addressed(buffer));
        }
        let (length, client) = self.socket.try_recv_from(buffer)?;
        Ok((length, client, None))
    }

    /// Sends a reply; `local` as [`Downstream::receive`] gave it.
    pub(super) fn send(
        &self,
        datagram: &[u8],
        client: SocketAddr,
        local: Option<IpAddr>,
    ) -> io::Result<()> {
        let Some(local) = local else {
            // Not by tokio, which would wait until it knows that the socket is writable. If it is
            // not, the datagram is lost.
            return SockRef::from(&self.socket).send_to(datagram, &client.into()).map(drop);
        };
        let fd = self.socket.as_raw_fd();
        let to = SockaddrStorage::from(client);
        let payload = [IoSlice::new(datagram)];
        match local {
            IpAddr::V4(ip) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(fd, &payload, &control, MsgFlags::empty(), Some(&to))?;
            }
            IpAddr::V6(ip) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
                    // A link-local client's address carries its interface itself.
                    ipi6_ifindex: 0,
                };
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmsg(fd, &payload, &control, MsgFlags::empty(), Some(&to))?;
            }
        }
        Ok(())
    }

    fn receive_addressed(
        &self,
        buffer: &mut [u8],
    ) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
        let mut control = Control([0; 64]);
        let mut payload = [IoSliceMut::new(buffer)];
        let fd = self.socket.as_raw_fd();
        let received =
            recvmsg::<SockaddrStorage>(fd, &mut payload, Some(&mut control.0), MsgFlags::empty())?;
        let local = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into())
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into())
            }
            _ => None,
        });
        let client = received.address.and_then(socket_addr);
        let client = client.ok_or(io::ErrorKind::InvalidData)?;
        Ok((received.bytes, client, local))
    }
}

fn socket_addr(address: SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()))
}
