//! Batches of datagrams: `recvmmsg` and `sendmmsg`, with the address that each was sent to.
//!
//! A reply is sent from the address that the client asked (`IP_PKTINFO`, `IPV6_PKTINFO`). A socket
//! bound to all addresses would otherwise reply from the address that the route prefers, and
//! clients drop such replies. The control message that names the address is sent back as received.
//!
//! All `unsafe` code of this package is in this file. The kernel is given pointers into boxed
//! arrays that a [`Batch`] owns and never moves or resizes. A pointer into an element is invalid
//! once a reference to that element has been handed out or used, even though the address stays the
//! same (the aliasing rules of Rust). Each pointer is therefore derived again after the last such
//! use and before the system call: in `make_ready` for receiving, in `reply` for sending.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use libc::{c_int, c_void, iovec, mmsghdr, msghdr, sockaddr_in, sockaddr_in6, socklen_t};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::respond::MIN_BUFFER;

/// Datagrams per system call. More gain little, and each needs a buffer.
pub(crate) const BATCH: usize = 64;
/// Holds any datagram (at most 65,507 octets). Memory that no datagram has reached is never
/// touched, so a buffer usually costs one page. The length is a multiple of the cache line but not
/// of the page size, so that the beginnings of the buffers use different sets of the cache.
const BUFFER_LEN: usize = (64 << 10) + 576;
const _: () = assert!(BUFFER_LEN >= MIN_BUFFER && BUFFER_LEN.is_multiple_of(64));
/// Room for one `in6_pktinfo`, the larger of the two, with its header.
const CONTROL_LEN: usize = 64;

/// An address as the kernel writes it; `sockaddr_in` fits too.
type RawAddress = sockaddr_in6;

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

/// The client that a reply goes to, and the address of ours that it is sent from.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    address: RawAddress,
    address_len: socklen_t,
    control: Control,
    control_len: usize,
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.peer())
    }
}

/// Where a datagram of a batch came from, not parsed yet.
#[derive(Clone, Copy)]
pub(crate) struct Source<'b> {
    origin: &'b Origin,
    header: &'b msghdr,
}

impl Source<'_> {
    pub(crate) fn origin(&self) -> Origin {
        let mut origin = *self.origin;
        origin.address_len = self.header.msg_namelen;
        origin.control_len = self.header.msg_controllen;
        any_interface(&mut origin);
        origin
    }
}

/// Datagrams that were received together, and their replies.
pub(crate) struct Batch {
    buffers: Box<[[u8; BUFFER_LEN]]>,
    origins: Box<[Origin]>,
    iovecs: Box<[iovec]>,
    received: Box<[mmsghdr]>,
    replies: Box<[mmsghdr]>,
    count: usize,
    queued: usize,
    with_control: bool,
}

impl Batch {
    /// Room for [`BATCH`] datagrams. `with_control` if the socket reports the address that each
    /// datagram was sent to.
    pub(crate) fn new(with_control: bool) -> Batch {
        // SAFETY: all-zero bytes are a valid value of these plain C structures.
        let empty: Origin = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let no_message: mmsghdr = unsafe { std::mem::zeroed() };
        let no_buffer = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // The allocator takes zeroed memory from the system, which nothing has touched yet.
        let buffers = Box::<[[u8; BUFFER_LEN]]>::new_zeroed_slice(BATCH);
        // SAFETY: all-zero bytes are a valid value of an array of octets.
        let buffers = unsafe { buffers.assume_init() };
        Batch {
            buffers,
            origins: vec![empty; BATCH].into(),
            iovecs: vec![no_buffer; BATCH].into(),
            received: vec![no_message; BATCH].into(),
            replies: vec![no_message; BATCH].into(),
            // The first `receive` must prepare all of them.
            count: BATCH,
            queued: 0,
            with_control,
        }
    }

    /// Receives the datagrams that are queued and returns their number. With `wait`, waits for at
    /// least one.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none and `wait` is not set, `Interrupted`, and the other errors
    /// of recvmmsg(2).
    pub(crate) fn receive(&mut self, socket: &UdpSocket, wait: bool) -> io::Result<usize> {
        // Only these elements were handed out or used since their pointers were derived.
        for index in 0..self.count {
            self.make_ready(index);
        }
        (self.count, self.queued) = (0, 0);
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        // SAFETY: `received` holds BATCH headers. `make_ready` derived their pointers from elements
        // of this batch's arrays, with the lengths of those elements; no reference to one of these
        // elements was used since, and the arrays live as long as the batch.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.received.as_mut_ptr(),
                BATCH as u32,
                flags,
                std::ptr::null_mut(),
            )
        };
        self.count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(self.count)
    }

    /// A datagram: its buffer, the datagram's length in it, and where it came from.
    #[inline]
    pub(crate) fn packet(&mut self, index: usize) -> (&mut [u8], usize, Source<'_>) {
        let received = &self.received[index];
        let len = (received.msg_len as usize).min(BUFFER_LEN);
        let source = Source { origin: &self.origins[index], header: &received.msg_hdr };
        (&mut self.buffers[index], len, source)
    }

    /// Queues the first `len` octets of a datagram's buffer as the reply to it.
    #[inline]
    pub(crate) fn reply(&mut self, index: usize, len: usize) {
        let received = &self.received[index].msg_hdr;
        let (name_len, control_len) = (received.msg_namelen, received.msg_controllen);
        let origin = &mut self.origins[index];
        if self.with_control {
            origin.control_len = control_len;
            any_interface(origin);
        }
        // `packet` lent the buffer and the origin, so the pointers of `make_ready` are invalid.
        self.iovecs[index] =
            iovec { iov_base: self.buffers[index].as_mut_ptr().cast(), iov_len: len };
        let header = &mut self.replies[self.queued].msg_hdr;
        header.msg_name = (&raw mut origin.address).cast();
        header.msg_namelen = name_len;
        header.msg_iov = &raw mut self.iovecs[index];
        header.msg_iovlen = 1;
        header.msg_control =
            if control_len > 0 { (&raw mut origin.control).cast() } else { std::ptr::null_mut() };
        header.msg_controllen = control_len;
        self.queued += 1;
    }

    /// Sends the queued replies and returns how many could not be sent.
    ///
    /// A reply that cannot be sent (its client's address is unreachable or invalid) is skipped and
    /// the others are sent. When the socket's buffer is full, the rest is dropped: clients ask
    /// again, and waiting would let one slow link delay all other clients.
    pub(crate) fn send(&mut self, socket: &UdpSocket) -> usize {
        let mut next = 0;
        let mut failed = 0;
        while next < self.queued {
            let rest = &mut self.replies[next..self.queued];
            // SAFETY: `rest` holds that many headers. `reply` derived their pointers from elements
            // of this batch's arrays and no reference to one of these elements was used since
            // (a datagram is answered after `packet`, once). `iov_len` octets of each buffer are
            // initialised, and the arrays live as long as the batch.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as u32,
                    libc::MSG_DONTWAIT,
                )
            };
            if sent > 0 {
                next += sent as usize;
                continue;
            }
            match io::Error::last_os_error().kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return failed + self.queued - next,
                _ => (next, failed) = (next + 1, failed + 1),
            }
        }
        failed
    }

    /// Derives all pointers of one received header again.
    #[inline]
    fn make_ready(&mut self, index: usize) {
        self.iovecs[index] =
            iovec { iov_base: self.buffers[index].as_mut_ptr().cast(), iov_len: BUFFER_LEN };
        let origin = &mut self.origins[index];
        let header = &mut self.received[index].msg_hdr;
        header.msg_name = (&raw mut origin.address).cast();
        header.msg_namelen = size_of::<RawAddress>() as socklen_t;
        header.msg_iov = &raw mut self.iovecs[index];
        header.msg_iovlen = 1;
        if self.with_control {
            header.msg_control = (&raw mut origin.control).cast();
            header.msg_controllen = CONTROL_LEN;
        }
    }
}

impl Origin {
    /// The client; `None` when the kernel gave no address.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        let v4 = self.address_len as usize >= size_of::<sockaddr_in>();
        match c_int::from(self.address.sin6_family) {
            libc::AF_INET if v4 => {
                // SAFETY: the kernel wrote a `sockaddr_in`, which is not larger than RawAddress.
                let v4: sockaddr_in =
                    unsafe { std::ptr::from_ref(&self.address).cast::<sockaddr_in>().read() };
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some((ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 if self.address_len as usize >= size_of::<sockaddr_in6>() => {
                let ip = Ipv6Addr::from(self.address.sin6_addr.s6_addr).to_canonical();
                Some((ip, u16::from_be(self.address.sin6_port)).into())
            }
            _ => None,
        }
    }

    /// Sends one datagram there. Never waits.
    ///
    /// # Errors
    ///
    /// The errors of sendmsg(2).
    pub(crate) fn send(&self, socket: &UdpSocket, bytes: &[u8]) -> io::Result<()> {
        let mut origin = *self;
        let mut buffer = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: all-zero bytes are a valid msghdr.
        let mut header: msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = (&raw mut origin.address).cast();
        header.msg_namelen = origin.address_len;
        header.msg_iov = &raw mut buffer;
        header.msg_iovlen = 1;
        if origin.control_len > 0 {
            header.msg_control = (&raw mut origin.control).cast();
            header.msg_controllen = origin.control_len;
        }
        // SAFETY: the header's pointers are to locals and to `bytes`, which outlive the call, and
        // sendmsg(2) only reads through them.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Waits on the current runtime for datagrams on a socket. The socket stays in blocking mode:
/// [`Batch::receive`] chooses whether to wait.
///
/// # Errors
///
/// The errors of epoll_ctl(2).
pub(crate) fn watch(socket: Arc<UdpSocket>) -> io::Result<AsyncFd<Arc<UdpSocket>>> {
    // SAFETY: an `Arc<UdpSocket>` always gives the same descriptor, which stays open as long as the
    // `Arc` lives, and the `AsyncFd` owns the `Arc`.
    let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

/// Asks the kernel to report which of our addresses each datagram was sent to.
///
/// # Errors
///
/// The errors of setsockopt(2).
pub(crate) fn report_addresses(socket: &UdpSocket, ip: IpAddr) -> io::Result<()> {
    // A socket for both families needs both: its IPv4 datagrams carry the IPv6 option.
    match ip {
        IpAddr::V4(_) => set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        IpAddr::V6(_) => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    }
}

/// Never fragments a datagram (RFC 9715), and ignores path MTUs from ICMP messages, which anyone
/// can forge. Replies fit every path, and fragments are a way to get forged records into caches.
///
/// # Errors
///
/// The errors of setsockopt(2).
pub(crate) fn never_fragment(socket: &UdpSocket, ip: IpAddr) -> io::Result<()> {
    match ip {
        IpAddr::V4(_) => {
            let probe = libc::IP_PMTUDISC_PROBE;
            set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe)
        }
        IpAddr::V6(_) => {
            let probe = libc::IPV6_PMTUDISC_PROBE;
            set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, probe)
        }
    }
}

fn set_option(socket: &UdpSocket, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the option's value is an int, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast::<c_void>(),
            size_of::<c_int>() as socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Clears the interface from the control message, so that the routing table chooses the interface
/// of the reply: it may differ from that of the query. Only a link-local address needs its
/// interface, and the client's own address contains it then.
#[inline]
fn any_interface(origin: &mut Origin) {
    const DATA: usize = size_of::<libc::cmsghdr>();
    if origin.control_len < DATA + 4 {
        return;
    }
    let word = |at: usize| {
        i32::from_ne_bytes(origin.control.0[at..at + 4].try_into().expect("four octets"))
    };
    let index_at = match (word(DATA - 8), word(DATA - 4)) {
        // `in_pktinfo` begins with the interface.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => DATA,
        // `in6_pktinfo` ends with it.
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => DATA + 16,
        _ => return,
    };
    origin.control.0[index_at..index_at + 4].fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(ip: &str) -> UdpSocket {
        UdpSocket::bind((ip, 0)).unwrap()
    }

    #[test]
    fn replies_are_sent_from_the_address_that_was_asked() {
        let check = |listen: &str, asked: &str, from: &str| {
            let server = bound(listen);
            report_addresses(&server, listen.parse().unwrap()).unwrap();
            never_fragment(&server, listen.parse().unwrap()).unwrap();
            let client = bound(from);
            let port = server.local_addr().unwrap().port();
            client.send_to(b"ping", (asked, port)).unwrap();
            client.send_to(b"pong!", (asked, port)).unwrap();
            let mut batch = Batch::new(true);
            let mut count = 0;
            while count < 2 {
                for index in 0..batch.receive(&server, true).unwrap() {
                    let (buffer, len, source) = batch.packet(index);
                    buffer[..len].reverse();
                    let origin = source.origin();
                    assert_eq!(origin.peer(), Some(client.local_addr().unwrap()));
                    if count == 0 {
                        batch.reply(index, len);
                    } else {
                        origin.send(&server, b"later").unwrap();
                    }
                    count += 1;
                }
                assert_eq!(batch.send(&server), 0);
            }
            let mut replies = Vec::new();
            for _ in 0..2 {
                let mut buffer = [0; 64];
                let (len, from) = client.recv_from(&mut buffer).unwrap();
                assert_eq!(
                    from.to_string(),
                    SocketAddr::new(asked.parse().unwrap(), port).to_string()
                );
                replies.push(buffer[..len].to_vec());
            }
            replies.sort();
            assert_eq!(replies, [&b"gnip"[..], b"later"]);
        };
        check("0.0.0.0", "127.1.2.3", "127.0.0.1");
        check("0.0.0.0", "127.0.0.1", "127.0.0.1");
        check("127.0.0.9", "127.0.0.9", "127.0.0.1");
        if UdpSocket::bind("[::1]:0").is_ok() {
            check("::", "::1", "::1");
            check("::", "127.1.2.3", "127.0.0.1");
        }
    }

    #[test]
    fn without_datagrams_and_without_waiting_there_are_none() {
        let server = bound("127.0.0.1");
        let error = Batch::new(false).receive(&server, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    /// This is how a data thread is woken to drain.
    #[test]
    fn shutting_a_socket_down_wakes_its_reader_and_keeps_queued_datagrams() {
        let server = bound("127.0.0.1");
        let client = bound("127.0.0.1");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let mut batch = Batch::new(false);
                let count = batch.receive(&server, true).unwrap();
                let (_, len, source) = batch.packet(0);
                (count, len, source.origin().peer())
            });
            // It makes no difference whether the reader waits already.
            socket2::SockRef::from(&server).shutdown(std::net::Shutdown::Read).unwrap_err();
            assert_eq!(waiter.join().unwrap(), (1, 0, None));
        });
        client.send_to(b"late", server.local_addr().unwrap()).unwrap();
        let mut batch = Batch::new(false);
        assert_eq!(batch.receive(&server, false).unwrap(), 1);
        assert_eq!(batch.packet(0).1, 4);
    }

    /// A received buffer must hold the largest datagram that there is.
    #[test]
    fn the_largest_datagram_is_received_whole() {
        let server = bound("127.0.0.1");
        let client = bound("127.0.0.1");
        client.send_to(&[7; 65_507], server.local_addr().unwrap()).unwrap();
        let mut batch = Batch::new(false);
        assert_eq!(batch.receive(&server, true).unwrap(), 1);
        let (buffer, len, _) = batch.packet(0);
        assert_eq!(buffer[..len], [7; 65_507]);
    }

    #[test]
    fn a_reply_that_cannot_be_sent_does_not_hold_up_others() {
        let server = bound("127.0.0.1");
        let client = bound("127.0.0.1");
        let mut batch = Batch::new(false);
        for _ in 0..3 {
            client.send_to(b"ask", server.local_addr().unwrap()).unwrap();
        }
        let mut count = 0;
        while count < 3 {
            for index in 0..batch.receive(&server, true).unwrap() {
                if count == 1 {
                    batch.origins[index].address.sin6_port = 0;
                }
                batch.reply(index, 3);
                count += 1;
            }
            batch.send(&server);
        }
        client.set_nonblocking(true).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(client.recv(&mut buffer).unwrap(), 3);
        assert_eq!(client.recv(&mut buffer).unwrap(), 3);
        assert!(client.recv(&mut buffer).is_err());
    }
}
