//! What happens to a packet, whatever its transport: our own zone and other local names, then (in
//! [`crate::forward`]) the questions that are asked or failed lately, then the upstreams.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::forward::decide::Decision;
use crate::forward::question::Question;
use crate::forward::upstreams::Forwarding;
use crate::forward::{Forwarder, Pending};
use crate::local::Local;
use crate::metrics::Counters;
use crate::respond::{Alias, Names, Outcome, Policy, error, respond};
use crate::wire::reply::Transport;
use crate::wire::{Query, Rcode};
use crate::zone::Zone;

/// Shared by all data threads. It changes only by swapping the zone or the upstreams.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) zone: ArcSwap<Zone>,
    pub(crate) local: ArcSwap<Local>,
    pub(crate) tells_version: bool,
    pub(crate) forwarding: Arc<Forwarding>,
}

/// What a batch of packets is answered by.
#[derive(Debug)]
pub(crate) struct Snapshot {
    zone: Guard<Arc<Zone>>,
    local: Guard<Arc<Local>>,
    policy: Policy,
}

impl Shared {
    pub(crate) fn load(&self) -> Snapshot {
        let forwards = self.forwarding.upstreams.load().forwards();
        let policy = Policy { forwards, tells_version: self.tells_version };
        Snapshot { zone: self.zone.load(), local: self.local.load(), policy }
    }
}

/// What one data thread keeps between packets, so that a packet allocates nothing.
#[derive(Debug)]
pub(crate) struct Responder {
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) forwarder: Forwarder,
    query: Query,
    turn: usize,
}

/// What to do about a packet.
#[derive(Debug)]
pub(crate) enum Action {
    /// Nothing is sent.
    Nothing,
    /// The reply is in the buffer and has this length.
    Send(usize),
    /// The reply comes later: pass it to [`Forwarder::wait`].
    Wait(Box<Pending>),
}

impl Responder {
    pub(crate) fn new(
        shared: Arc<Shared>,
        counters: Arc<Counters>,
        forwarder: Forwarder,
    ) -> Responder {
        Responder { shared, counters, forwarder, query: Query::new(), turn: 0 }
    }

    /// Handles the packet in the first `len` octets of `buf`. `client` is called only if the
    /// question is not answered without upstreams.
    #[inline]
    pub(crate) fn handle(
        &mut self,
        snapshot: &Snapshot,
        buf: &mut [u8],
        len: usize,
        transport: Transport,
        client: impl FnOnce() -> Option<SocketAddr>,
    ) -> Action {
        self.turn = self.turn.wrapping_add(1);
        let Snapshot { zone, local, policy } = snapshot;
        let names = Names { zone, local };
        match respond(names, *policy, &mut self.query, buf, len, transport, self.turn) {
            Outcome::Reply(len, rcode) => {
                let is_parsed = rcode != Rcode::FORMERR && rcode != Rcode::NOTIMP;
                let Query { name, qtype, .. } = &self.query;
                tracing::trace!(%name, qtype = qtype.0, code = rcode.0, ?transport, "answered");
                self.counters.replied(transport, is_parsed.then_some(self.query.qtype), rcode);
                Action::Send(len)
            }
            Outcome::Silent => {
                self.counters.silent();
                Action::Nothing
            }
            Outcome::Forward => match client() {
                Some(client) => self.outside(*policy, client, buf, transport, None),
                None => Action::Nothing,
            },
            Outcome::Follow(alias) => match client() {
                Some(client) => self.outside(*policy, client, buf, transport, Some(alias)),
                None => Action::Nothing,
            },
        }
    }

    /// A question about a name outside our zones, or about the target of an alias of ours.
    #[cold]
    fn outside(
        &mut self,
        policy: Policy,
        client: SocketAddr,
        buf: &mut [u8],
        transport: Transport,
        alias: Option<Box<Alias>>,
    ) -> Action {
        if alias.is_none() && self.shared.forwarding.probes.is_probe(&self.query.name) {
            return self.fail(policy, buf, transport, None, Rcode::REFUSED);
        }
        let query = &self.query;
        let head = &buf[..query.question_end];
        let question = match &alias {
            None => Question::of(query, head),
            Some(alias) => Question::new(query, alias.target.wire()),
        };
        let permit = match self.forwarder.decide(&question, client) {
            // A server without recursion returns the alias alone.
            Decision::Refuse if alias.is_some() => {
                return self.fail(policy, buf, transport, alias, Rcode::NOERROR);
            }
            Decision::Refuse => return self.fail(policy, buf, transport, None, Rcode::REFUSED),
            Decision::FailAgain(rcode) => return self.fail(policy, buf, transport, alias, rcode),
            Decision::BreakLoop => {
                return self.fail(policy, buf, transport, alias, Rcode::SERVFAIL);
            }
            Decision::Busy => return self.fail(policy, buf, transport, None, Rcode::SERVFAIL),
            Decision::Join { permit, .. } | Decision::Ask(permit) => permit,
        };
        let (head, query) = (head.to_vec(), Box::new(query.clone()));
        Action::Wait(Box::new(Pending { question, client, query, head, transport, alias, permit }))
    }

    /// A reply without records except for aliases of ours.
    fn fail(
        &self,
        policy: Policy,
        buf: &mut [u8],
        transport: Transport,
        alias: Option<Box<Alias>>,
        rcode: Rcode,
    ) -> Action {
        let len = match alias {
            Some(alias) => {
                let mut reply = alias.reply;
                let len = reply.attach().finish(rcode);
                buf[..len].copy_from_slice(&reply.into_bytes(len));
                len
            }
            None => match error(policy, &self.query, buf, transport, rcode) {
                Outcome::Reply(len, _) => len,
                _ => return Action::Nothing,
            },
        };
        self.counters.replied(transport, Some(self.query.qtype), rcode);
        Action::Send(len)
    }
}
