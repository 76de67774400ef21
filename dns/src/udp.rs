//! Queries over UDP: a thread and a socket of its own for each worker.
//!
//! SO_REUSEPORT spreads clients over the sockets. A thread receives a batch, answers it from one
//! load of the zone, and sends the batch; it shares nothing that is written on that path. While no
//! question of this thread waits for an upstream, the thread blocks in the receiving system call,
//! which is the cheapest way to wait. Only while one waits does it wait on its runtime, which also
//! runs the tasks that talk to upstreams: one more system call for each batch.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use daemon::listen;
use socket2::SockRef;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use crate::mmsg::{BATCH, Batch, never_fragment, report_addresses, watch};
use crate::responder::{Action, Responder};
use crate::wire::reply::Transport;

/// Receive buffer for bursts of queries; limited by net.core.rmem_max.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Send buffer for replies.
const SEND_BUFFER: usize = 1 << 20;
/// After an unexpected error, so that a thread does not spin on it.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Binds `count` sockets to one address; one of IPv6 also for IPv4, unless `only_v6`.
///
/// # Errors
///
/// When the address is in use, also by sockets that would share it: another process would then
/// receive some of our clients' queries.
pub(crate) fn bind(
    addr: SocketAddr,
    only_v6: bool,
    count: usize,
) -> io::Result<Vec<Arc<UdpSocket>>> {
    let options = listen::Options { only_v6, ..listen::Options::default() };
    let mut sockets = Vec::with_capacity(count);
    for socket in listen::udp(addr, count, options)? {
        // A smaller buffer than requested is not an error.
        let _ = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
        let _ = SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER);
        socket.set_nonblocking(false)?;
        never_fragment(&socket, addr.ip())?;
        if addr.ip().is_unspecified() {
            report_addresses(&socket, addr.ip())?;
        }
        sockets.push(Arc::new(socket));
    }
    Ok(sockets)
}

/// Wakes the thread that serves this socket; queued datagrams are still answered.
pub(crate) fn wake(socket: &UdpSocket) {
    // It wakes readers although it reports that the socket is not connected.
    let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Read);
}

/// Serves one socket on one data thread.
pub(crate) struct UdpServer {
    pub(crate) responder: Responder,
    pub(crate) socket: Arc<UdpSocket>,
    pub(crate) draining: Arc<AtomicBool>,
}

/// What a look at the socket found.
#[derive(PartialEq)]
enum Received {
    /// A full batch: there may be more.
    Full,
    /// All there was.
    Some,
    /// Nothing, and the drain has begun.
    Drained,
}

impl UdpServer {
    /// Serves the socket until the drain begins, then answers what is queued and in flight.
    pub(crate) fn serve(mut self, runtime: &Runtime, tasks: &Rc<LocalSet>) -> io::Result<()> {
        let on_all_addresses = self.socket.local_addr().is_ok_and(|a| a.ip().is_unspecified());
        let mut batch = Batch::new(on_all_addresses);
        loop {
            let received = if self.responder.forwarder.is_idle() {
                let wait = !self.draining.load(Ordering::Acquire);
                self.receive(&mut batch, wait)
            } else {
                tasks.block_on(runtime, self.receive_while_forwarding(&mut batch))?
            };
            if received == Received::Drained {
                tasks.block_on(runtime, self.responder.forwarder.answered());
                return Ok(());
            }
        }
    }

    /// Serves on the runtime until no question waits for an upstream.
    async fn receive_while_forwarding(&mut self, batch: &mut Batch) -> io::Result<Received> {
        let readable = watch(self.socket.clone())?;
        let forwarder = self.responder.forwarder.clone();
        loop {
            let mut ready = tokio::select! {
                ready = readable.readable() => ready?,
                () = forwarder.idle() => return Ok(Received::Some),
            };
            match self.receive(batch, false) {
                Received::Drained => return Ok(Received::Drained),
                Received::Some => ready.clear_ready(),
                // Upstreams' answers must not wait until there are no more queries.
                Received::Full => tokio::task::yield_now().await,
            }
        }
    }

    /// Receives a batch and answers it.
    fn receive(&mut self, batch: &mut Batch, wait: bool) -> Received {
        let count = match batch.receive(&self.socket, wait) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Received::Full,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let drained = !wait && self.draining.load(Ordering::Acquire);
                return if drained { Received::Drained } else { Received::Some };
            }
            Err(error) => {
                tracing::warn!(%error, "cannot receive");
                std::thread::sleep(ERROR_PAUSE);
                return Received::Full;
            }
        };
        let shared = self.responder.shared.clone();
        let snapshot = shared.load();
        for index in 0..count {
            self.answer(batch, index, &snapshot);
        }
        drop(snapshot);
        let unsent = batch.send(&self.socket);
        if unsent > 0 {
            self.responder.counters.unsent(unsent);
        }
        if count < BATCH { Received::Some } else { Received::Full }
    }

    #[inline]
    fn answer(&mut self, batch: &mut Batch, index: usize, snapshot: &crate::responder::Snapshot) {
        let (buffer, len, source) = batch.packet(index);
        let client = || source.origin().peer();
        match self.responder.handle(snapshot, buffer, len, Transport::Udp, client) {
            Action::Send(len) => batch.reply(index, len),
            Action::Nothing => {}
            Action::Wait(pending) => {
                let (socket, origin) = (self.socket.clone(), source.origin());
                let counters = self.responder.counters.clone();
                let deliver = move |reply: Vec<u8>| {
                    if let Err(error) = origin.send(&socket, &reply) {
                        tracing::debug!(%error, ?origin, "cannot reply");
                        counters.unsent(1);
                    }
                };
                self.responder.wait(*pending, Box::new(deliver));
            }
        }
    }
}
