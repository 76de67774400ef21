//! Receives several datagrams with one call: recvmmsg(2).
//!
//! That the call brought fewer than fit says that none is left, which saves the call that would
//! find none. The kernel is given pointers into boxed arrays that an [`Inbox`] owns and never
//! resizes.
//!
//! Left out: which local address a datagram was sent to, and sending: replies go to clients
//! through one socket, but come from as many as there are sessions.
#![allow(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use nix::libc::{self, iovec, mmsghdr};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Datagrams received at once, after which other tasks of the thread get a turn.
pub(super) const SLOTS: usize = 32;
/// No UDP datagram is longer (RFC 768: a 16-bit length).
pub(super) const MAX_DATAGRAM: usize = 65_536;
/// From one slot to the next: not a power of two, so that they do not compete for the same lines
/// of the cache. Memory is taken by what arrives, a page at a time.
const STRIDE: usize = MAX_DATAGRAM + 320;
/// A `sockaddr_in6`, which a `sockaddr_in` is shorter than (ipv6(7), ip(7)).
const NAME_LEN: usize = 28;

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Name([u8; NAME_LEN]);

/// Datagrams that were received together.
pub(super) struct Inbox {
    buffers: Box<[u8]>,
    names: Box<[Name]>,
    iovecs: Box<[iovec]>,
    headers: Box<[mmsghdr]>,
}

impl Inbox {
    pub(super) fn new() -> Inbox {
        // SAFETY: all-zero bytes are a valid value of this plain C structure.
        let no_message: mmsghdr = unsafe { std::mem::zeroed() };
        let no_buffer = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Inbox {
            buffers: vec![0; SLOTS * STRIDE].into(),
            names: vec![Name([0; NAME_LEN]); SLOTS].into(),
            iovecs: vec![no_buffer; SLOTS].into(),
            headers: vec![no_message; SLOTS].into(),
        }
    }

    /// Receives what is there, of a socket that was found readable: how many, and whether more
    /// may be left. Otherwise the socket is taken for unreadable from here on.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none; else what is wrong with the socket, or with the peer that
    /// it is connected to.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<(usize, bool)> {
        let mut count = 0;
        let outcome = socket.try_io(Interest::READABLE, || {
            count = self.receive_now(socket)?;
            if count < SLOTS { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match outcome {
            Err(error) if count == 0 => Err(error),
            outcome => Ok((count, outcome.is_ok())),
        }
    }

    fn receive_now(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        let slots = self.buffers.chunks_exact_mut(STRIDE).zip(&mut self.iovecs);
        let headers = self.headers.iter_mut().zip(&mut self.names);
        for ((buffer, iovec), (header, name)) in slots.zip(headers) {
            *iovec = iovec_of(&mut buffer[..MAX_DATAGRAM]);
            header.msg_hdr.msg_iov = iovec;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = name.0.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = NAME_LEN as u32;
        }
        // SAFETY: each of the SLOTS headers points to a name, an iovec and through that to a
        // buffer of this inbox, with their lengths; all of them outlive the call, and nothing
        // else uses them meanwhile, because the inbox is borrowed for this alone.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                SLOTS as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// One of those received last.
    pub(super) fn datagram(&self, place: usize) -> &[u8] {
        let length = (self.headers[place].msg_len as usize).min(MAX_DATAGRAM);
        &self.buffers[place * STRIDE..][..length]
    }

    /// Who sent it.
    pub(super) fn sender(&self, place: usize) -> Option<SocketAddr> {
        let bytes = &self.names[place].0;
        let (family, rest) = bytes.split_first_chunk()?;
        let (port, rest) = rest.split_first_chunk()?;
        let port = u16::from_be_bytes(*port);
        let (first, rest) = rest.split_first_chunk::<4>()?;
        match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_INET => Some(SocketAddr::new(Ipv4Addr::from(*first).into(), port)),
            libc::AF_INET6 => {
                let (ip, scope) = rest.split_first_chunk::<16>()?;
                let scope = u32::from_ne_bytes(*scope.first_chunk()?);
                let flow = u32::from_be_bytes(*first);
                Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, flow, scope).into())
            }
            _ => None,
        }
    }
}

fn iovec_of(buffer: &mut [u8]) -> iovec {
    iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends datagrams of these lengths, and expects them with their sender.
    async fn check(host: &str, lengths: &[usize]) {
        let bind = || std::net::UdpSocket::bind((host, 0)).unwrap();
        let (from, to) = (bind(), bind());
        to.set_nonblocking(true).unwrap();
        let to = UdpSocket::from_std(to).unwrap();
        for (number, length) in lengths.iter().enumerate() {
            from.send_to(&vec![number as u8; *length], to.local_addr().unwrap()).unwrap();
        }
        let mut inbox = Inbox::new();
        let mut got = Vec::new();
        while got.len() < lengths.len() {
            to.readable().await.unwrap();
            let Ok((count, more)) = inbox.receive(&to) else { continue };
            assert_eq!(more, count == SLOTS);
            for place in 0..count {
                assert_eq!(inbox.sender(place), Some(from.local_addr().unwrap()));
                let number = got.len() as u8;
                assert!(inbox.datagram(place).iter().all(|byte| *byte == number));
                got.push(inbox.datagram(place).len());
            }
        }
        assert_eq!(got, lengths);
        assert_eq!(inbox.receive(&to).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // What comes later is noticed.
        from.send_to(b"late", to.local_addr().unwrap()).unwrap();
        to.readable().await.unwrap();
        assert_eq!((inbox.receive(&to).unwrap(), inbox.datagram(0)), ((1, false), &b"late"[..]));
    }

    #[tokio::test]
    async fn datagrams_come_whole_in_order_and_with_their_sender() {
        check("127.0.0.1", &[1]).await;
        check("127.0.0.1", &[0, 1, 65_507, 512]).await;
        check("127.0.0.1", &[100; SLOTS]).await;
        check("127.0.0.1", &[100; SLOTS + 3]).await;
        check("::1", &[7, 1400]).await;
    }
}
