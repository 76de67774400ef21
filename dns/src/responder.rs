//! What happens to a packet, over any transport: our own zone and other local names, then the
//! cache, then (in [`crate::forward`]) the questions that are being asked, then the upstreams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Guard};
use daemon::quota::QuotaPermit;

use crate::answered_by::AnsweredBy;
use crate::cache::stored::{Age, Stored};
use crate::cache::{Failure, Served};
use crate::cookies::Cookies;
use crate::forward::Forwarder;
use crate::forward::decide::Decision;
use crate::forward::question::Key;
use crate::forward::upstreams::Forwarding;
use crate::local::Local;
use crate::metrics::{CountedZone, Counters};
use crate::query_log::{Line, LoggedOutcome, QueryLog};
use crate::rate::{RateLimit, Verdict};
use crate::respond::outside::{self, Replied, serve, serve_alias};
use crate::respond::{Alias, Names, Outcome, Policy, cut, respond};
use crate::wire::options::{self, ExtendedError};
use crate::wire::reply::Transport;
use crate::wire::{Query, Rcode, flag};
use crate::zone::Zone;

/// Shared by all data threads. It changes only by swapping the zone or the upstreams.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) zone: ArcSwap<Zone>,
    pub(crate) local: ArcSwap<Local>,
    pub(crate) tells_version: bool,
    pub(crate) forwarding: Arc<Forwarding>,
    pub(crate) cookies: Cookies,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) begun: Instant,
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
        let forwards = self.forwarding.forwards();
        let policy = Policy { forwards, tells_version: self.tells_version };
        Snapshot { zone: self.zone.load(), local: self.local.load(), policy }
    }

    /// Completes a reply by the options that the client's EDNS calls for: its cookie with our part,
    /// and why an answer is missing. Its length.
    fn add_options(
        &self,
        buf: &mut [u8],
        query: &Query,
        replied: &Replied,
        transport: Transport,
        client: Option<SocketAddr>,
    ) -> usize {
        let Some(edns) = query.edns else { return replied.len };
        let room = match transport {
            Transport::Udp => query.udp_limit().min(buf.len()),
            Transport::Tcp | Transport::Tls | Transport::Https => buf.len(),
        };
        let (buf, options_at) = (&mut buf[..room], replied.len);
        let mut len = options_at;
        if let Some((cookie, client)) = edns.cookie.zip(client) {
            let server = self.cookies.make(cookie.client, client.ip(), unix_seconds());
            let data: [&[u8]; 2] = [&cookie.client, &server];
            len = options::append(buf, len, options_at, options::COOKIE, &data);
        }
        if let Some(error) = &replied.error {
            let data = error.data();
            len = options::append(buf, len, options_at, options::EXTENDED_ERROR, &[&data]);
        }
        if edns.is_padded && transport.is_encrypted() {
            len = options::pad(buf, len, options_at, options::BLOCK);
        }
        len
    }

    /// What is done with a reply of so many octets, and its length: over UDP, a network that gets
    /// the same answer too often gets a few that say to ask over TCP, and otherwise nothing.
    #[inline]
    fn limit(
        &self,
        query: &Query,
        buf: &mut [u8],
        len: usize,
        transport: Transport,
        client: impl Fn() -> Option<SocketAddr>,
    ) -> Option<usize> {
        let limit = self.rate_limit.as_ref().filter(|_| transport == Transport::Udp);
        let Some(limit) = limit else { return Some(len) };
        match client().filter(|client| !limit.is_exempt(client.ip())) {
            None => Some(len),
            Some(client) => self.limit_client(limit, query, buf, len, client),
        }
    }

    /// [`Shared::limit`] for a client that is not exempt.
    #[cold]
    fn limit_client(
        &self,
        limit: &RateLimit,
        query: &Query,
        buf: &mut [u8],
        len: usize,
        client: SocketAddr,
    ) -> Option<usize> {
        let rcode = Rcode(u16::from(buf[3]) & flag::RCODE);
        let cookie = query.edns.and_then(|edns| edns.cookie);
        let is_known = |cookie| self.cookies.knows(&cookie, client.ip(), unix_seconds());
        if cookie.is_some_and(is_known) {
            return Some(len);
        }
        let now = self.begun.elapsed().as_micros() as u64;
        match limit.judge(client.ip(), query.name.wire(), rcode, now) {
            Verdict::Send => Some(len),
            Verdict::Drop => None,
            Verdict::Cut => {
                // Without a question there is nothing to be asked again over TCP.
                let replied = Replied { len: cut(query, buf)?, rcode, error: None };
                Some(self.add_options(buf, query, &replied, Transport::Udp, Some(client)))
            }
        }
    }
}

/// The time, in seconds since 1970; it wraps around in 2106.
pub(crate) fn unix_seconds() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    now as u32
}

/// What one data thread keeps between packets, so that a packet allocates nothing.
#[derive(Debug)]
pub(crate) struct Responder {
    pub(crate) shared: Arc<Shared>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) forwarder: Forwarder,
    query_log: Option<QueryLog>,
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
    /// The reply comes later: pass it to [`Responder::wait`].
    Wait(Box<Pending>),
}

/// Sends a reply to a client.
pub(crate) type Deliver = Box<dyn FnOnce(Vec<u8>)>;

/// A client's query that waits for the answer to a question.
#[derive(Debug)]
pub(crate) struct Pending {
    key: Key,
    client: SocketAddr,
    query: Query,
    /// The client's packet, up to the end of its question.
    head: Vec<u8>,
    transport: Transport,
    alias: Option<Box<Alias>>,
    permit: Option<QuotaPermit>,
    turn: usize,
    zone: CountedZone,
    since: Instant,
}

/// A query about a name outside our zones, or about an alias of ours with such a target.
struct Elsewhere<'s> {
    snapshot: &'s Snapshot,
    client: SocketAddr,
    transport: Transport,
    alias: Option<Box<Alias>>,
}

/// A reply in the buffer, as it would be sent.
struct Ready {
    len: usize,
    rcode: Rcode,
    answered_by: AnsweredBy,
    transport: Transport,
}

impl Responder {
    pub(crate) fn new(
        shared: Arc<Shared>,
        counters: Arc<Counters>,
        forwarder: Forwarder,
        query_log: Option<QueryLog>,
    ) -> Responder {
        Responder { shared, counters, forwarder, query_log, query: Query::new(), turn: 0 }
    }

    /// Handles the packet in the first `len` octets of `buf`. `client` is called only if it is
    /// needed: its address is not parsed before.
    #[inline]
    pub(crate) fn handle(
        &mut self,
        snapshot: &Snapshot,
        buf: &mut [u8],
        len: usize,
        transport: Transport,
        client: impl Fn() -> Option<SocketAddr>,
    ) -> Action {
        self.turn = self.turn.wrapping_add(1);
        let Snapshot { zone, local, policy } = snapshot;
        let names = Names { zone, local };
        let alias = match respond(names, *policy, &mut self.query, buf, len, transport, self.turn) {
            Outcome::Reply(len, rcode, answered_by) => {
                let mut ready = Ready { len, rcode, answered_by, transport };
                self.count(&ready);
                let is_plain = self.query.edns.is_none_or(|e| e.cookie.is_none() && !e.is_padded);
                if !is_plain || rcode == Rcode::SERVFAIL {
                    let error = (rcode == Rcode::SERVFAIL)
                        .then(|| ExtendedError::of(ExtendedError::NOT_READY));
                    let replied = Replied { len, rcode, error };
                    let shared = &self.shared;
                    ready.len = shared.add_options(buf, &self.query, &replied, transport, client());
                }
                return self.send(buf, &ready, client);
            }
            Outcome::Silent => {
                self.counters.silent();
                return Action::Nothing;
            }
            Outcome::Forward => None,
            Outcome::Follow(alias) => Some(alias),
        };
        match client() {
            Some(client) => self.outside(Elsewhere { snapshot, client, transport, alias }, buf),
            None => Action::Nothing,
        }
    }

    /// Counts a reply that needed no upstreams.
    #[inline]
    fn count(&self, ready: &Ready) {
        let Ready { rcode, answered_by, transport, .. } = *ready;
        let is_parsed = rcode != Rcode::FORMERR && rcode != Rcode::NOTIMP;
        let Query { name, qtype, .. } = &self.query;
        tracing::trace!(%name, qtype = qtype.0, code = rcode.0, ?transport, "answered");
        let zone = CountedZone::of_answer(answered_by);
        self.counters.replied(zone, transport, is_parsed.then_some(*qtype), rcode);
    }

    /// The last steps of a reply to the last packet: the limit of its rate, and the log.
    #[inline]
    fn send(
        &self,
        buf: &mut [u8],
        ready: &Ready,
        client: impl Fn() -> Option<SocketAddr>,
    ) -> Action {
        let Ready { len, rcode, answered_by, transport } = *ready;
        let len = self.shared.limit(&self.query, buf, len, transport, &client);
        if let Some(log) = &self.query_log {
            let size = len.unwrap_or(0);
            let outcome = LoggedOutcome { rcode, answered_by, size, waited: None };
            if log.wants(&outcome) {
                log.put(Line::new(&self.query, client(), transport, outcome));
            }
        }
        match len {
            Some(len) => Action::Send(len),
            None => {
                self.counters.limited();
                Action::Nothing
            }
        }
    }

    /// A question about a name outside our zones, or about the target of an alias of ours.
    fn outside(&self, asked: Elsewhere<'_>, buf: &mut [u8]) -> Action {
        let failed =
            |rcode: Rcode, code: Option<u16>| Failure { rcode, error: code.map(ExtendedError::of) };
        let is_alias = asked.alias.is_some();
        let nobody = (CountedZone::NONE, AnsweredBy::Refused);
        if !is_alias && self.shared.forwarding.probes.is_probe(&self.query.name) {
            let failure = failed(Rcode::REFUSED, None);
            return self.serve(asked, buf, Served::Failure(&failure), nobody);
        }
        let name = asked.alias.as_ref().map_or(&self.query.name, |alias| &alias.target);
        let key = Key::new(&self.query, name.wire());
        let route = self.shared.forwarding.routes.route(name);
        let zone = match is_alias {
            true => CountedZone::CLUSTER,
            false => CountedZone::of_forwarded(route.zone),
        };
        let (by, failure) = match self.forwarder.decide(route.group, &key, asked.client) {
            Decision::Answer { answer, age, refresh } => {
                if let Some(permit) = refresh {
                    self.forwarder.refresh(&key, permit);
                }
                let by = if age == Age::Stale { AnsweredBy::Stale } else { AnsweredBy::Cache };
                return self.serve(asked, buf, Served::Answer(&answer, age), (zone, by));
            }
            Decision::Join { permit, .. } => return self.pend(asked, key, buf, zone, permit),
            Decision::Ask(permit) => return self.pend(asked, key, buf, zone, Some(permit)),
            // A server without recursion returns the alias alone.
            Decision::Refuse | Decision::NoUpstream if is_alias => {
                ((zone, AnsweredBy::Zone), failed(Rcode::NOERROR, None))
            }
            Decision::Refuse => (nobody, failed(Rcode::REFUSED, Some(ExtendedError::PROHIBITED))),
            Decision::NoUpstream => (nobody, failed(Rcode::REFUSED, None)),
            Decision::FailAgain(mut failure) => {
                failure.error = failure.error.or(Some(ExtendedError::of(ExtendedError::CACHED)));
                ((zone, AnsweredBy::Failure), failure)
            }
            Decision::BreakLoop => ((zone, AnsweredBy::Failure), failed(Rcode::SERVFAIL, None)),
            Decision::Busy => ((zone, AnsweredBy::Refused), failed(Rcode::SERVFAIL, None)),
        };
        self.serve(asked, buf, Served::Failure(&failure), by)
    }

    #[inline]
    fn serve(
        &self,
        asked: Elsewhere<'_>,
        buf: &mut [u8],
        served: Served<'_>,
        (zone, answered_by): (CountedZone, AnsweredBy),
    ) -> Action {
        let Elsewhere { snapshot, client, transport, alias } = asked;
        let replied = match alias {
            None => serve(&snapshot.zone, &self.query, buf, transport, served, self.turn),
            Some(alias) => {
                let (bytes, replied) = serve_alias(*alias, &self.query, served);
                buf[..replied.len].copy_from_slice(&bytes[..replied.len]);
                replied
            }
        };
        let rcode = replied.rcode;
        self.counters.replied(zone, transport, Some(self.query.qtype), rcode);
        let len = self.shared.add_options(buf, &self.query, &replied, transport, Some(client));
        self.send(buf, &Ready { len, rcode, answered_by, transport }, || Some(client))
    }

    fn pend(
        &self,
        asked: Elsewhere<'_>,
        key: Key,
        buf: &[u8],
        zone: CountedZone,
        permit: Option<QuotaPermit>,
    ) -> Action {
        let Elsewhere { client, transport, alias, .. } = asked;
        let query = self.query.clone();
        let head = buf[..query.question_end].to_vec();
        let (turn, since) = (self.turn, Instant::now());
        Action::Wait(Box::new(Pending {
            key,
            client,
            query,
            head,
            transport,
            alias,
            permit,
            turn,
            zone,
            since,
        }))
    }

    /// Makes a query wait. `deliver` sends its reply.
    pub(crate) fn wait(&self, mut pending: Pending, deliver: Deliver) {
        let (shared, counters) = (self.shared.clone(), self.counters.clone());
        let query_log = self.query_log.clone();
        let (key, client) = (pending.key.clone(), pending.client);
        let permit = pending.permit.take();
        let reply = move |served: Served<'_>| {
            let (bytes, rcode) = pending.reply(&shared, served);
            let qtype = Some(pending.query.qtype);
            counters.replied(pending.zone, pending.transport, qtype, rcode);
            let waited = pending.since.elapsed();
            counters.waited(pending.zone, waited);
            if let Some(log) = query_log {
                let answered_by = match served {
                    Served::Answer(_, Age::Fresh(_)) => AnsweredBy::Upstream,
                    Served::Answer(_, Age::Stale) => AnsweredBy::Stale,
                    Served::Failure(_) => AnsweredBy::Failure,
                };
                let (waited, size) = (Some(waited), bytes.as_ref().map_or(0, Vec::len));
                let outcome = LoggedOutcome { rcode, answered_by, size, waited };
                if log.wants(&outcome) {
                    log.put(Line::new(&pending.query, Some(client), pending.transport, outcome));
                }
            }
            match bytes {
                Some(bytes) => deliver(bytes),
                None => counters.limited(),
            }
        };
        self.forwarder.wait(&key, client, permit, Box::new(reply));
    }
}

impl Pending {
    /// The reply to the client, if it gets one, and its code.
    fn reply(&mut self, shared: &Shared, served: Served<'_>) -> (Option<Vec<u8>>, Rcode) {
        let (head, alias) = (std::mem::take(&mut self.head), self.alias.take());
        let Pending { client, query, transport, turn, .. } = self;
        let (client, transport, turn) = (*client, *transport, *turn);
        // Over TCP there is no way to say that an answer is incomplete.
        let failure = Failure { rcode: Rcode::SERVFAIL, error: None };
        let served = match served {
            Served::Answer(Stored { is_partial: true, .. }, _) if transport != Transport::Udp => {
                Served::Failure(&failure)
            }
            served => served,
        };
        let (mut bytes, replied) = match alias {
            Some(alias) => serve_alias(*alias, query, served),
            None => {
                let mut bytes = head;
                bytes.resize(outside::room(&bytes, transport, served), 0);
                let zone = shared.zone.load();
                let replied = serve(&zone, query, &mut bytes, transport, served, turn);
                (bytes, replied)
            }
        };
        let len = shared.add_options(&mut bytes, query, &replied, transport, Some(client));
        let len = shared.limit(query, &mut bytes, len, transport, || Some(client));
        let bytes = len.map(|len| {
            bytes.truncate(len);
            bytes
        });
        (bytes, replied.rcode)
    }
}
