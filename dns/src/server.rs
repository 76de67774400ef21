//! What the servers over UDP and over TCP share: the published zone, and what becomes of a
//! packet.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::forward::{Forwarder, Job};
use crate::metrics::Counters;
use crate::respond::{Outcome, Policy, error, respond};
use crate::wire::reply::Transport;
use crate::wire::{Query, Rcode};
use crate::zone::Zone;

/// Shared by all data threads; only the zone ever changes.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) zone: ArcSwap<Zone>,
    pub(crate) policy: Policy,
    pub(crate) allow_forward: Vec<IpNet>,
    pub(crate) forwarder: Forwarder,
}

/// What one data thread keeps between queries, so that a query allocates nothing.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) server: Arc<Server>,
    pub(crate) counters: Arc<Counters>,
    query: Query,
    turn: usize,
}

/// What is to be done about a packet.
#[derive(Debug)]
pub(crate) enum Action {
    /// Nothing is sent.
    Nothing,
    /// The first so many octets of the buffer are sent.
    Send(usize),
    /// An upstream is to be asked.
    Forward(Box<Job>),
}

impl Worker {
    pub(crate) fn new(server: Arc<Server>, counters: Arc<Counters>) -> Worker {
        Worker { server, counters, query: Query::new(), turn: 0 }
    }

    /// Handles the packet in the first `len` octets of `buf`. `peer` is asked for only when the
    /// packet cannot be answered here.
    #[inline]
    pub(crate) fn handle(
        &mut self,
        zone: &Zone,
        buf: &mut [u8],
        len: usize,
        transport: Transport,
        peer: impl FnOnce() -> Option<IpAddr>,
    ) -> Action {
        self.turn = self.turn.wrapping_add(1);
        let policy = self.server.policy;
        match respond(zone, policy, &mut self.query, buf, len, transport, self.turn) {
            Outcome::Reply(len, rcode) => {
                let is_read = rcode != Rcode::FORMERR && rcode != Rcode::NOTIMP;
                let Query { name, qtype, .. } = &self.query;
                tracing::trace!(%name, qtype = qtype.0, code = rcode.0, ?transport, "answered");
                self.counters.replied(transport, is_read.then_some(self.query.qtype), rcode);
                Action::Send(len)
            }
            Outcome::Silent => {
                self.counters.silent();
                Action::Nothing
            }
            Outcome::Forward => match peer() {
                Some(peer) => self.forward(peer, buf, len, transport, None),
                None => Action::Nothing,
            },
            Outcome::Follow(alias) => match peer() {
                Some(peer) => self.forward(peer, buf, len, transport, Some(alias)),
                None => Action::Nothing,
            },
        }
    }

    #[cold]
    fn forward(
        &mut self,
        peer: IpAddr,
        buf: &mut [u8],
        len: usize,
        transport: Transport,
        alias: Option<Box<(crate::wire::reply::Detached, crate::wire::Name)>>,
    ) -> Action {
        let server = &self.server;
        if !server.allow_forward.iter().any(|net| net.contains(&peer)) {
            return match alias {
                // What a server without recursion says: the alias alone.
                Some(mut alias) => {
                    let len = alias.0.attach().finish(Rcode::NOERROR);
                    let reply = alias.0.into_bytes(len);
                    buf[..len].copy_from_slice(&reply);
                    self.sent(transport, len, Rcode::NOERROR)
                }
                None => self.refuse(buf, transport, Rcode::REFUSED),
            };
        }
        let Some(place) = server.forwarder.admit(peer) else {
            return self.refuse(buf, transport, Rcode::SERVFAIL);
        };
        let packet = buf[..len].to_vec();
        let query = Box::new(self.query.clone());
        Action::Forward(Box::new(Job { packet, query, transport, alias, place }))
    }

    fn refuse(&self, buf: &mut [u8], transport: Transport, rcode: Rcode) -> Action {
        match error(self.server.policy, &self.query, buf, transport, rcode) {
            Outcome::Reply(len, rcode) => self.sent(transport, len, rcode),
            _ => Action::Nothing,
        }
    }

    fn sent(&self, transport: Transport, len: usize, rcode: Rcode) -> Action {
        self.counters.replied(transport, Some(self.query.qtype), rcode);
        Action::Send(len)
    }
}
