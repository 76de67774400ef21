//! Queries over UDP: a plain thread and a socket of its own for each worker.
//!
//! SO_REUSEPORT spreads clients over the sockets; a thread receives a batch, answers it from one
//! load of the zone, and sends the batch. No thread shares anything that is written on that path.
//! Questions for an upstream go to the runtime, which replies over the socket that they came by.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::sync::mpsc;

use crate::forward::Job;
use crate::mmsg::{Batch, Origin, never_fragment, tell_addresses};
use crate::server::{Action, Worker};
use crate::wire::reply::Transport;

/// A burst of queries waits here, where the system allows so much (net.core.rmem_max).
const RECEIVE_BUFFER: usize = 4 << 20;
/// Replies wait here for the network card.
const SEND_BUFFER: usize = 1 << 20;
/// After an error that should not be, so that a thread does not spin on it.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// A question for an upstream, and where its reply goes.
#[derive(Debug)]
pub(crate) struct Forwarded {
    pub(crate) job: Box<Job>,
    pub(crate) socket: Arc<UdpSocket>,
    pub(crate) origin: Origin,
}

/// Binds `count` sockets to one address; one of IPv6 also for IPv4, unless `only_v6`.
///
/// # Errors
///
/// When the address is in use, also by sockets that would share it: another process would then
/// get some of our clients.
pub(crate) fn bind(
    addr: SocketAddr,
    only_v6: bool,
    count: usize,
) -> io::Result<Vec<Arc<UdpSocket>>> {
    let domain = Domain::for_address(addr);
    let open = |shared: bool, addr: SocketAddr| -> io::Result<Socket> {
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(only_v6)?;
        }
        socket.set_reuse_port(shared)?;
        socket.bind(&addr.into())?;
        Ok(socket)
    };
    let probe = open(false, addr)?;
    // Port 0 is the system's choice, which all sockets then share.
    let addr = probe.local_addr()?.as_socket().unwrap_or(addr);
    drop(probe);
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = open(true, addr)?;
        // Less than wished for is no error.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        let _ = socket.set_send_buffer_size(SEND_BUFFER);
        let socket = UdpSocket::from(socket);
        never_fragment(&socket, addr.ip())?;
        if addr.ip().is_unspecified() {
            tell_addresses(&socket, addr.ip())?;
        }
        sockets.push(Arc::new(socket));
    }
    Ok(sockets)
}

/// Wakes the thread that serves this socket; what is queued there is still answered.
pub(crate) fn wake(socket: &UdpSocket) {
    // It wakes readers although it reports that the socket is not connected.
    let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Read);
}

/// Serves a socket until `draining`, then answers what is queued and returns.
pub(crate) fn serve(
    mut worker: Worker,
    socket: &Arc<UdpSocket>,
    draining: &AtomicBool,
    forwards: &mpsc::UnboundedSender<Forwarded>,
) {
    let on_all_addresses = socket.local_addr().is_ok_and(|addr| addr.ip().is_unspecified());
    let mut batch = Batch::new(on_all_addresses);
    let server = worker.server.clone();
    loop {
        let wait = !draining.load(Ordering::Acquire);
        let count = match batch.receive(socket, wait) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if wait {
                    continue;
                }
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot receive");
                std::thread::sleep(ERROR_PAUSE);
                continue;
            }
        };
        let zone = server.zone.load();
        for index in 0..count {
            let (buffer, len, source) = batch.packet(index);
            let peer = || Some(source.origin().peer()?.ip());
            match worker.handle(&zone, buffer, len, Transport::Udp, peer) {
                Action::Send(len) => batch.reply(index, len),
                Action::Nothing => {}
                Action::Forward(job) => {
                    let (socket, origin) = (socket.clone(), source.origin());
                    // Fails only when the runtime has gone, at the very end.
                    let _ = forwards.send(Forwarded { job, socket, origin });
                }
            }
        }
        drop(zone);
        let unsent = batch.send(socket);
        if unsent > 0 {
            worker.counters.unsent(unsent);
        }
    }
}
