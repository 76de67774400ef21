//! TCP clients that were accepted while there was no room for their connection.
//!
//! They wait here, each with one descriptor and nothing read, until a connection ends. The client
//! with the fewest connections is next, so that one client's queue does not hold up the others.
//! When the queue is full, the client with most waiting connections loses its newest.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;

use super::client_shares::ClientCounts;
use super::frontend::FrontendCell;
use crate::room::{ClientPermit, Permit, client_of};

/// A client without a connection to an endpoint yet.
#[derive(Debug)]
pub(super) struct WaitingClient {
    pub(super) socket: OwnedFd,
    pub(super) addr: SocketAddr,
    pub(super) cell: Arc<FrontendCell>,
    pub(super) client_permit: Option<ClientPermit>,
    pub(super) _permit: Permit,
}

impl WaitingClient {
    pub(super) fn client(&self) -> IpAddr {
        client_of(self.addr.ip())
    }

    /// Closes the connection with a reset.
    pub(super) fn reset(self) {
        let _ = set_socket_linger(&self.socket, Some(Duration::ZERO));
    }
}

/// The waiting clients of one data thread.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    clients: VecDeque<WaitingClient>,
    counts: ClientCounts,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Adds a client. When there are more than `max` then, one that has to go is returned.
    pub(super) fn push(&mut self, client: WaitingClient, max: usize) -> Option<WaitingClient> {
        self.counts.add(client.client());
        self.clients.push_back(client);
        if self.clients.len() <= max {
            return None;
        }
        let most = self.counts.most()?;
        let newest = self.clients.iter().rposition(|waiting| waiting.client() == most)?;
        self.remove(newest)
    }

    /// The client whose turn is next.
    pub(super) fn next(&self, connections: &ClientCounts) -> Option<IpAddr> {
        self.clients.get(self.first(connections)?).map(WaitingClient::client)
    }

    pub(super) fn pop(&mut self, connections: &ClientCounts) -> Option<WaitingClient> {
        self.remove(self.first(connections)?)
    }

    /// The first of those whose client has the fewest connections.
    fn first(&self, connections: &ClientCounts) -> Option<usize> {
        let has = |waiting: &WaitingClient| connections.of(waiting.client());
        let all = self.clients.iter().enumerate();
        all.min_by_key(|(_, waiting)| has(waiting)).map(|(position, _)| position)
    }

    /// Forgets the clients that are gone, and returns how many those are.
    pub(super) fn forget_gone(&mut self) -> usize {
        let mut polled: Vec<_> = self
            .clients
            .iter()
            .map(|waiting| PollFd::new(&waiting.socket, PollFlags::empty()))
            .collect();
        // Asks without waiting. When it fails, all are asked again later.
        let _ = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let gone: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(polled);
        for position in (0..gone.len()).rev().filter(|position| gone[*position]) {
            self.remove(position);
        }
        gone.into_iter().filter(|gone| *gone).count()
    }

    fn remove(&mut self, position: usize) -> Option<WaitingClient> {
        let waiting = self.clients.remove(position)?;
        self.counts.remove(waiting.client());
        Some(waiting)
    }
}
