//! TCP: accepts connections of one frontend, connects each to the endpoint whose turn it is, on
//! failure to the next one, and relays until both ends are done.
//!
//! A connection that ends in any other way than by both ends closing it is reset, so that no
//! client takes half an answer for a whole one.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use feed::Protocol;
use nix::libc;
use smallvec::SmallVec;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use super::relay::{self, End};
use super::room::Permit;
use super::serving::{Cell, Endpoint};
use super::sockets;
use super::worker::{Context, Stop};
use crate::metrics::{Active, Meter, count};

/// How long a listener waits for room when there is none: short beside the second within which
/// room must be used again, long enough to cost nothing.
const ROOM_RETRY: Duration = Duration::from_millis(100);
/// Endpoints tried for one client: a Service whose many endpoints are all dead must not make a
/// thousand connects of one.
const MAX_TRIES: usize = 16;
/// All tries for one client together take at most this many connect time-outs.
const TOTAL_CONNECT_TIMEOUTS: u32 = 4;

/// Accepts until stopped, then what the kernel has queued by then, and closes the listener.
pub(super) async fn accept(
    listener: TcpListener,
    cell: Arc<Cell>,
    mut stopped: oneshot::Receiver<Stop>,
    context: Rc<Context>,
) {
    loop {
        let next = poll_fn(|cx| {
            if Pin::new(&mut stopped).poll(cx).is_ready() {
                return Poll::Ready(Next::Stop);
            }
            poll_accept(&listener, &context, cx)
        });
        match next.await {
            Next::Connection(client, permit) => begin(client, permit, &cell, &context),
            // What waits is accepted when something else has ended.
            Next::NoRoom => match timeout(ROOM_RETRY, &mut stopped).await {
                Err(_) => {}
                Ok(_) => break,
            },
            Next::Stop => break,
        }
    }
    accept_queued(listener, &cell, &context);
}

/// Accepts what the kernel has queued, which closing the listener would reset.
///
/// Not through the runtime: that may not have heard of it yet, and lets a task make only so many
/// calls before it gives way to others.
fn accept_queued(listener: TcpListener, cell: &Arc<Cell>, context: &Rc<Context>) {
    let Ok(listener) = listener.into_std() else { return };
    // What was queued before is not more than the backlog; clients that come without a pause
    // must not hold up the rest.
    for _ in 0..sockets::BACKLOG {
        let Some(permit) = context.room.connection() else { return };
        let client = listener.accept().and_then(|(client, _)| {
            client.set_nonblocking(true)?;
            TcpStream::from_std(client)
        });
        match client {
            Ok(client) => begin(client, permit, cell, context),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if is_shortage(&error) => return,
            Err(error) => tracing::debug!(%error, "accept"),
        }
    }
}

enum Next {
    Connection(TcpStream, Permit),
    NoRoom,
    Stop,
}

fn poll_accept(
    listener: &TcpListener,
    context: &Context,
    cx: &mut std::task::Context<'_>,
) -> Poll<Next> {
    // Room is taken for the poll only: an idle listener must not hold any.
    let Some(permit) = context.room.connection() else { return Poll::Ready(Next::NoRoom) };
    loop {
        match ready!(listener.poll_accept(cx)) {
            Ok((client, _)) => return Poll::Ready(Next::Connection(client, permit)),
            Err(error) if is_shortage(&error) => return Poll::Ready(Next::NoRoom),
            // The client is gone already, or the network broke: the next one is unaffected.
            Err(error) => tracing::debug!(%error, "accept"),
        }
    }
}

fn begin(client: TcpStream, permit: Permit, cell: &Arc<Cell>, context: &Rc<Context>) {
    spawn_local(serve(client, cell.clone(), permit, context.clone()));
}

/// Whether the error says that this process or the host has run out of something.
fn is_shortage(error: &io::Error) -> bool {
    const SHORTAGES: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| SHORTAGES.contains(&code))
}

/// A connection that is reset when dropped, unless it was closed in order.
struct ResetOnDrop {
    stream: TcpStream,
    in_order: bool,
}

impl ResetOnDrop {
    fn new(stream: TcpStream) -> ResetOnDrop {
        ResetOnDrop { stream, in_order: false }
    }
}

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if !self.in_order {
            let _ = self.stream.set_zero_linger();
        }
    }
}

async fn serve(client: TcpStream, cell: Arc<Cell>, _permit: Permit, context: Rc<Context>) {
    let (meter, source, admitted) = {
        let serving = cell.serving.load();
        // Asked only where it matters: it is a system call.
        let source = serving.rules.as_ref().and_then(|_| client.peer_addr().ok());
        let source = source.map(|addr| addr.ip());
        (serving.meter.clone(), source, serving.admits(source))
    };
    count(&meter.accepted);
    let active = Active::new(meter, |meter| &meter.active);
    let mut client = ResetOnDrop::new(client);
    if !admitted {
        count(&active.meter().denied);
        return;
    }
    let Some((endpoint, upstream)) = connect(&cell, source, active.meter(), &context).await else {
        count(&active.meter().failed);
        return;
    };
    let stay = cell.serving.load().stay(source, &endpoint);
    // Only the endpoint is needed from here on; a frontend that goes frees its cell.
    drop(cell);
    let mut upstream = ResetOnDrop::new(upstream);
    let end = relay::relay(&mut client.stream, &mut upstream.stream, &endpoint, active.meter());
    let end = end.await;
    if let Some(stay) = stay {
        stay.refresh(Instant::now());
    }
    match end {
        End::Closed => (client.in_order, upstream.in_order) = (true, true),
        End::Reset => {}
        End::Removed => count(&active.meter().ended),
    }
}

/// Connects to the endpoint whose turn it is, or to the next that can be connected to.
async fn connect(
    cell: &Cell,
    source: Option<IpAddr>,
    meter: &Meter,
    context: &Context,
) -> Option<(Arc<Endpoint>, TcpStream)> {
    let begun = Instant::now();
    let limit = context.patience.timeout() * TOTAL_CONNECT_TIMEOUTS;
    let mut tried: SmallVec<[SocketAddr; 4]> = SmallVec::new();
    while tried.len() < MAX_TRIES && begun.elapsed() < limit {
        // Loaded anew for each try: the set may have changed while the last one timed out.
        let suits = |endpoint: &Arc<Endpoint>| {
            !tried.contains(&endpoint.addr) && !context.own.has(Protocol::Tcp, endpoint.addr)
        };
        let endpoint = cell.serving.load().pick(source, suits)?.clone();
        let failure = match context.patience.limit(dial(endpoint.addr)).await {
            Some(Ok(stream)) => return Some((endpoint, stream)),
            Some(Err(error)) => error,
            None => io::ErrorKind::TimedOut.into(),
        };
        if is_shortage(&failure) {
            sleep(ROOM_RETRY).await;
            continue;
        }
        count(&meter.connect_failures);
        tracing::debug!(endpoint = %endpoint.addr, error = %failure, "connect failed");
        tried.push(endpoint.addr);
    }
    None
}

async fn dial(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // What the client sent in one piece must not wait for an acknowledgement of the last piece.
    socket.set_nodelay(true)?;
    socket.connect(addr).await
}
