//! What control hands to the data threads: the context that they start with, sockets, and
//! commands.
//!
//! Control opens the sockets and sends them in batches. It waits until each command has been
//! carried out before it sends more, which bounds the queues.

use std::collections::BTreeSet;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::sync::oneshot;

use super::frontend::FrontendCell;
use crate::own_addresses::{Bound, OwnAddresses};
use crate::room::Room;

/// A socket for one data thread, ready to serve.
#[derive(Debug)]
pub(super) struct Opened<S> {
    pub(super) bound: Bound,
    pub(super) cell: Arc<FrontendCell>,
    pub(super) socket: S,
}

/// A socket that a data thread listens on.
#[derive(Debug)]
pub(super) enum SharedSocket {
    /// The threads may have one for all.
    Tcp(Arc<TcpListener>),
    /// Or why it cannot be passed on.
    Udp(io::Result<OwnedFd>),
}

#[derive(Debug)]
pub(super) enum Command {
    OpenTcp(Vec<Opened<Arc<TcpListener>>>),
    OpenUdp(Vec<Opened<UdpSocket>>),
    /// The frontends are gone or have no endpoint: refuse new clients at once.
    Close(Arc<[Bound]>),
    /// Pass on the sockets of these frontends, and serve on.
    Share(Arc<[Bound]>, Sender<(Bound, SharedSocket)>),
    /// Another process serves these frontends with the same sockets: leave new clients to it.
    Release(Arc<[Bound]>),
    /// Endpoints of these frontends went: end the UDP sessions that lead to them.
    Refresh(Arc<[Bound]>),
    /// The drain time-out of some endpoints is over: end the TCP connections to them.
    End,
    /// Stop accepting, except at these addresses; done once all UDP clients that wait for a reply
    /// there have it.
    Drain(Arc<BTreeSet<Bound>>),
    /// Ends the thread as a bug would.
    #[cfg(test)]
    Panic,
}

/// A command and the way to say that it has been carried out.
#[derive(Debug)]
pub(super) struct PendingCommand {
    pub(super) command: Command,
    pub(super) done: oneshot::Sender<()>,
}

/// What a data thread starts with.
#[derive(Clone, Debug)]
pub(super) struct ThreadContext {
    pub(super) room: Arc<Room>,
    pub(super) own: Arc<OwnAddresses>,
    pub(super) connect_timeout: Duration,
    /// Of TCP connections.
    pub(super) idle_timeout: Duration,
    pub(super) udp_idle_timeout: Duration,
}
