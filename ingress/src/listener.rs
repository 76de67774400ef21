//! Listening sockets, one for each worker at the same address (SO_REUSEPORT): the kernel shares
//! connections out, and no worker hands any to another.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use daemon::listen::{self, BACKLOG};
use socket2::{SockRef, TcpKeepalive};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::context::WorkerContext;
use crate::limits::Permit;
use crate::refusal::TOO_MANY_CONNECTIONS;
use crate::serve::{Service, serve, turn_away};

/// A client that sends nothing is probed after this time: tunnels and streams may be silent for
/// long, and clients vanish.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);

/// The pause before accepting again when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket at the address for each of `count` workers.
///
/// # Errors
///
/// When another process listens there, or the address cannot be bound.
pub(crate) fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    listen::tcp(address, count, listen::Options::default(), |socket| {
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER))
    })
}

/// A task that accepts connections.
#[derive(Debug)]
pub(crate) struct Accepting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Accepting {
    /// Ends it, after the connections that the kernel has for it already.
    pub(crate) async fn stop(self) {
        // An error means that it has ended by itself.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

pub(crate) fn start(
    context: &Rc<WorkerContext>,
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
) -> Accepting {
    let (stop, stopped) = oneshot::channel();
    // Asked once, and not for each connection.
    let port = socket.local_addr().map_or(0, |address| address.port());
    let service = Service { tls, port };
    let task = tokio::task::spawn_local(accept(context.clone(), socket, service, stopped));
    Accepting { stop, task }
}

async fn accept(
    context: Rc<WorkerContext>,
    socket: TcpListener,
    service: Service,
    mut stopped: oneshot::Receiver<()>,
) {
    let listener = tokio::net::TcpListener::from_std(socket)
        .expect("a listening socket can be watched by a new runtime");
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                admit(&context, stream, peer, &service);
            }
            // The client closed its connection before it was accepted.
            Err(error) if is_closed_by_client(&error) => {}
            Err(error) => {
                // Logged once until accepting succeeds again.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let Ok(socket) = listener.into_std() else { return };
    accept_rest(&context, &socket, &service);
}

/// Takes what the kernel has accepted for this socket: closing it would reset those connections.
/// A backlog of nothing makes the kernel take no more meanwhile, so that clients which come now
/// are refused, or find the socket of the process that follows.
fn accept_rest(context: &Rc<WorkerContext>, socket: &TcpListener, service: &Service) {
    let closed = SockRef::from(socket).listen(0);
    let limit = BACKLOG as usize;
    for _ in 0..limit {
        let Ok((stream, peer)) = socket.accept() else { break };
        let stream =
            stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            admit(context, stream, peer, service);
        }
    }
    if let Err(error) = closed {
        tracing::debug!(%error, "the backlog stayed open");
    }
}

fn is_closed_by_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn admit(
    context: &Rc<WorkerContext>,
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    service: &Service,
) {
    match context.limits().admit(peer.ip()) {
        Some(permit) => spawn(context, stream, peer, service.clone(), permit),
        None => {
            context.shard().connections_refused.add(1);
            if service.tls.is_none() {
                turn_away(stream, TOO_MANY_CONNECTIONS);
            }
        }
    }
}

/// Serves a connection in a task of its own.
fn spawn(
    context: &Rc<WorkerContext>,
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    service: Service,
    permit: Permit,
) {
    let (open, context) = (context.count_connection(), context.clone());
    // Boxed, because the runtime moves what it is given several times.
    tokio::task::spawn_local(Box::pin(async move {
        serve(context, stream, peer, service, permit).await;
        drop(open);
    }));
}
