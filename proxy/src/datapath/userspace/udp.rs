//! UDP: one session for each client of a frontend, each with a socket connected to the endpoint
//! whose turn it was when the session began.
//!
//! A session ends when it is idle, when its endpoint refuses, or with its frontend. When its
//! endpoint leaves the set, or is silent while others answer, the session only passes on the
//! answers that are under way. The client's next datagram begins a new session with another
//! endpoint, and so does what it sent to an endpoint that refused before it answered anything.
//! Replies leave from the address that the client sent to.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use balance::Failure;
use model::Protocol;
use rustix::io::Errno;
use smallvec::SmallVec;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::commands::ThreadContext;
use super::downstream::{Downstream, MAX_DATAGRAM};
use super::endpoint::Endpoint;
use super::frontend::FrontendCell;
use super::rules::AffinityPin;
use super::session_shares::{SessionShares, SessionSlot};
use super::source_addresses::{Connected, SourceAddresses};
use super::unanswered::Unanswered;
use crate::clock::ms_of;
use crate::metrics::{Active, Meter, add, count};
use crate::room::{Scarcity, SessionPermit};
use crate::sockets;

/// An endpoint that has not answered a client for this long, nor any other client meanwhile,
/// although another endpoint has, rests: most clients have asked again by then.
const SILENCE: Duration = Duration::from_secs(2);
/// Reports of the kernel that are read at once from one socket.
const MAX_REPORTS: usize = 32;
/// Datagrams handled before other tasks of the thread get a turn.
const BATCH: usize = 32;
/// Endpoints tried for the datagram that begins a session.
const MAX_TRIES: usize = 4;
/// How long a drain waits for the replies that clients wait for: longer than an endpoint that is
/// well takes, and most UDP clients ask again after a second anyway.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// Idle sessions are looked for this many times in the idle time-out, and at least this often.
const SWEEPS: u32 = 4;
const MAX_SWEEP: Duration = Duration::from_secs(1);
/// When sessions are scarce, a client that has sent a single datagram is given this long: it has
/// its answer by then, or asks again. Else a flood from ever new ports would hold every session
/// for the whole idle time-out.
const BRIEF_IDLE: Duration = Duration::from_secs(2);
/// When nearly all sessions are taken, the others are given this share of the idle time-out, one
/// part in so many: a flood of two datagrams a port would hold them as long as one talks.
const SHORT_IDLE_SHARE: u32 = 4;

thread_local! {
    static SOURCES: RefCell<SourceAddresses> = RefCell::default();
    static DATAGRAM: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_DATAGRAM].into());
}

/// A session's identity: the client, and on a wildcard socket the local address that it sent to.
type Key = (SocketAddr, Option<IpAddr>);

/// All sessions of a data thread.
pub(super) type Sessions = Rc<RefCell<SessionShares<Member>>>;

/// How a listener ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stop {
    Close,
    /// After the answers that clients wait for.
    Drain,
    /// Ends the task as a bug would.
    #[cfg(test)]
    Panic,
}

/// Tells the thread when a task that holds a clone of it panics: the runtime only drops the task.
#[derive(Clone, Debug, Default)]
pub(super) struct PanicNotice(Rc<Notify>);

impl PanicNotice {
    /// Resolves when a task has panicked. Cancel safe.
    pub(super) async fn noticed(&self) {
        self.0.notified().await;
    }
}

impl Drop for PanicNotice {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.notify_one();
        }
    }
}

/// The sessions of one socket of a frontend.
pub(super) struct Table {
    downstream: Rc<Downstream>,
    cell: Arc<FrontendCell>,
    context: Rc<ThreadContext>,
    sessions: HashMap<Key, Session>,
    /// Sessions that only pass on the answers that are under way. Each holds its permit.
    leaving: Vec<(Key, Session)>,
    shares: Sessions,
    panics: PanicNotice,
    /// Datagrams dropped for want of buffer that were counted.
    dropped: u32,
    /// Sessions whose endpoint refused or that made room for others, for [`Table::move_on`]. At
    /// most one entry for each session and each endpoint that it tries.
    over: mpsc::UnboundedReceiver<Key>,
    end: mpsc::UnboundedSender<Key>,
}

/// Dropping it ends the session.
struct Session {
    flow: Rc<Flow>,
    replies: tokio::task::JoinHandle<()>,
    shares: Sessions,
    slot: SessionSlot,
}

/// A session as the other sessions of its data thread see it.
#[derive(Debug)]
pub(super) struct Member {
    flow: Rc<Flow>,
    key: Key,
    table: mpsc::UnboundedSender<Key>,
}

/// What a session shares with the task that passes its replies on, and with [`SessionShares`].
#[derive(Debug)]
struct Flow {
    upstream: tokio::net::UdpSocket,
    endpoint: Arc<Endpoint>,
    last_used: Cell<Instant>,
    /// The client has sent more than one datagram.
    talks: Cell<bool>,
    /// The client's datagrams that have no answer yet, as far as each is answered by one.
    outstanding: Cell<u32>,
    has_answered: Cell<bool>,
    /// When the first of those was sent.
    asked: Cell<Instant>,
    /// Datagrams dropped for want of buffer that were counted.
    dropped: Cell<u32>,
    /// The endpoint refused a datagram (ICMP port unreachable).
    refused: Cell<bool>,
    unanswered: RefCell<Unanswered>,
    active: Active,
    pin: Option<AffinityPin>,
    /// Dropped when the session ends or makes room for another. The flow itself ends a moment
    /// later, with its task; the reserve of descriptors is enough for that moment.
    permit: RefCell<Option<SessionPermit>>,
    /// The session has made room for another.
    evicted: Cell<bool>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.replies.abort();
        self.refresh_pin();
        self.flow.count_drops();
        self.flow.permit.take();
        self.shares.borrow_mut().leave(&self.slot);
    }
}

impl Member {
    /// Ends the session: its room is free at once, its table removes it a moment later.
    fn evict(self) {
        self.flow.evicted.set(true);
        self.flow.permit.take();
        // A table that is gone has no session either.
        let _ = self.table.send(self.key);
    }
}

impl Session {
    fn is_usable(&self) -> bool {
        let flow = &self.flow;
        !flow.refused.get() && !flow.evicted.get() && flow.endpoint.is_serving()
    }

    /// Prolongs the time for which the client keeps its endpoint.
    fn refresh_pin(&self) {
        match &self.flow.pin {
            None => {}
            Some(pin) if self.flow.refused.get() => pin.leave(),
            Some(pin) => pin.refresh(self.flow.last_used.get()),
        }
    }

    /// Whether its endpoint may be about to answer, although it gets no more questions.
    fn is_awaited(&self, now: Instant, timeout: Duration) -> bool {
        let flow = &self.flow;
        // More may follow after the last answer that was waited for.
        let timeout = if flow.outstanding.get() > 0 { timeout } else { REPLY_TIMEOUT };
        let is_over = flow.refused.get() || flow.evicted.get() || flow.endpoint.has_ended();
        !is_over && !self.is_idle(now, timeout)
    }

    fn is_idle(&self, now: Instant, timeout: Duration) -> bool {
        now.saturating_duration_since(self.flow.last_used.get()) >= timeout
    }
}

impl Flow {
    /// Sends a client's datagram on; false when the endpoint refused this or an earlier one.
    fn send(&self, datagram: &[u8]) -> bool {
        // Not tokio's try_send: it refuses until the runtime has seen the socket writable, and
        // the first datagram comes before that.
        match SockRef::from(&self.upstream).send(datagram) {
            Ok(_) => {
                let now = Instant::now();
                self.last_used.set(now);
                if self.outstanding.replace(self.outstanding.get().saturating_add(1)) == 0 {
                    self.asked.set(now);
                }
                self.unanswered.borrow_mut().keep(datagram);
                add(&self.active.meter().upstream_bytes, datagram.len() as u64);
                true
            }
            Err(error) if is_refusal(&error) => {
                self.refuse();
                false
            }
            // Lost, as UDP loses: the buffer is full, or the datagram is too large for the path.
            Err(error) => {
                if is_full(&error) {
                    count(&self.active.meter().buffer_drops);
                }
                true
            }
        }
    }

    /// Counts what the kernel has dropped of the endpoint's answers.
    fn count_drops(&self) {
        let dropped = sockets::dropped_datagrams(&self.upstream);
        let more = dropped.wrapping_sub(self.dropped.replace(dropped));
        add(&self.active.meter().buffer_drops, more.into());
    }

    fn refuse(&self) {
        if !self.refused.replace(true) {
            self.fail(Failure::Refused);
        }
    }

    /// The endpoint refused, or does not answer: others are preferred for a while.
    fn fail(&self, failure: Failure) {
        self.endpoint.failed(failure);
        count(&self.active.meter().connect_failures);
    }

    /// What another endpoint is to get instead, if this one refused.
    fn take_unanswered(&self) -> Unanswered {
        if !self.refused.get() {
            return Unanswered::default();
        }
        let mut unanswered = self.unanswered.take();
        unanswered.tried.push(self.endpoint.addr());
        unanswered
    }
}

fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

fn connect(endpoint: SocketAddr, meter: &Meter) -> io::Result<tokio::net::UdpSocket> {
    let now = Instant::now().into_std();
    let Connected { result, is_exhausted } = SOURCES.with_borrow_mut(|sources| {
        sources.connect(endpoint, now, |source| sockets::connect_udp(endpoint, source))
    });
    if is_exhausted {
        meter.note_exhaustion(now);
    }
    tokio::net::UdpSocket::from_std(result?)
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error())
}

impl Table {
    pub(super) fn new(
        downstream: Rc<Downstream>,
        cell: Arc<FrontendCell>,
        context: Rc<ThreadContext>,
        (shares, panics): (Sessions, PanicNotice),
    ) -> Table {
        let sessions = HashMap::new();
        let (end, over) = mpsc::unbounded_channel();
        let (leaving, dropped) = (Vec::new(), 0);
        Table { downstream, cell, context, sessions, leaving, shares, panics, dropped, over, end }
    }

    /// Serves the frontend until stopped.
    pub(super) async fn serve(mut self, mut stopped: oneshot::Receiver<Stop>, refresh: Rc<Notify>) {
        let mut sweep = interval((self.context.udp_idle_timeout / SWEEPS).min(MAX_SWEEP));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let downstream = self.downstream.clone();
        loop {
            tokio::select! {
                biased;
                how = &mut stopped => {
                    #[cfg(test)]
                    assert_ne!(how, Ok(Stop::Panic), "for a test");
                    if how == Ok(Stop::Drain) {
                        self.drain().await;
                    }
                    return;
                }
                () = refresh.notified() => {
                    let state = self.cell.state.load_full();
                    self.sessions.retain(|(client, _), _| state.admits(Some(client.ip())));
                    self.leaving.retain(|((client, _), _)| state.admits(Some(client.ip())));
                    self.leave(|(client, _), session| {
                        !state.keeps(client.ip(), &session.flow.endpoint)
                    });
                }
                Some(key) = self.over.recv() => self.move_on(key),
                readable = downstream.readable() => {
                    // It fails only when the runtime ends.
                    if readable.is_err() {
                        return;
                    }
                    if self.receive_batch() {
                        tokio::task::yield_now().await;
                    }
                }
                now = sweep.tick(), if self.has_sessions() => self.sweep(now),
            }
        }
    }

    fn has_sessions(&self) -> bool {
        !self.sessions.is_empty() || !self.leaving.is_empty()
    }

    /// Looks after all sessions: once a second, or more often.
    fn sweep(&mut self, now: Instant) {
        let dropped = self.downstream.dropped();
        let more = dropped.wrapping_sub(std::mem::replace(&mut self.dropped, dropped));
        add(&self.cell.state.load().meter.buffer_drops, more.into());
        self.leave_silent(now);
        self.leave(|_, session| !session.flow.endpoint.is_serving());
        let timeout = self.context.udp_idle_timeout;
        self.leaving.retain(|(_, session)| session.is_awaited(now, timeout));
        self.end_idle(now);
    }

    /// Sessions to which this applies get no more questions.
    fn leave(&mut self, applies: impl Fn(&Key, &Session) -> bool) {
        let now = Instant::now();
        let timeout = self.context.udp_idle_timeout;
        let left = self.sessions.extract_if(|key, session| applies(key, session));
        let awaited = left.filter(|(_, session)| session.is_awaited(now, timeout));
        self.leaving.extend(awaited);
    }

    /// Has endpoints rest that do not answer a new client while others answer theirs, and leaves
    /// them. A session that had an answer may be silent in order.
    fn leave_silent(&mut self, now: Instant) {
        let state = self.cell.state.load_full();
        let inside = state.in_cluster().map_or(&[][..], |inside| inside.rotation.members());
        let members = state.rotation.members().iter().chain(inside);
        let latest = members.max_by_key(|endpoint| endpoint.answered_ms());
        let Some(latest) = latest else { return };
        let silent = |session: &Session| {
            let (flow, asked) = (&session.flow, session.flow.asked.get());
            let asked_ms = ms_of(asked.into_std());
            flow.outstanding.get() > 0
                && !flow.has_answered.get()
                && now.saturating_duration_since(asked) >= SILENCE
                && flow.endpoint.answered_ms() < asked_ms
                && flow.endpoint != *latest
                && latest.answered_ms() >= asked_ms
        };
        for session in self.sessions.values().filter(|session| silent(session)) {
            session.flow.fail(Failure::Unanswered);
        }
        self.leave(|_, session| silent(session));
    }

    fn end_idle(&mut self, now: Instant) {
        let timeout = self.context.udp_idle_timeout;
        let brief = timeout.min(BRIEF_IDLE);
        let (once, often) = match self.context.room.session_scarcity() {
            Scarcity::None => (timeout, timeout),
            Scarcity::Scarce => (brief, timeout),
            Scarcity::NearlyFull => (brief, brief.max(timeout / SHORT_IDLE_SHARE)),
        };
        let keep = |session: &Session| {
            let timeout = if session.flow.talks.get() { often } else { once };
            !session.is_idle(now, timeout) && session.is_usable()
        };
        self.sessions.retain(|_, session| keep(session));
        for session in self.sessions.values() {
            session.refresh_pin();
            if !session.is_idle(now, MAX_SWEEP * 2) {
                session.flow.count_drops();
            }
            if session.is_idle(now, REPLY_TIMEOUT) {
                session.flow.unanswered.borrow_mut().forget();
            }
        }
    }

    /// Waits until no client waits for a reply, or long enough.
    async fn drain(self) {
        let deadline = Instant::now() + REPLY_TIMEOUT;
        let all = || self.sessions.values().chain(self.leaving.iter().map(|(_, session)| session));
        let is_over = |flow: &Flow| flow.refused.get() || flow.evicted.get();
        let awaited =
            |session: &Session| !is_over(&session.flow) && session.flow.outstanding.get() > 0;
        while all().any(awaited) && Instant::now() < deadline {
            sleep_until(Instant::now() + DRAIN_POLL).await;
        }
    }

    /// Passes on what has arrived; false when nothing is left.
    fn receive_batch(&mut self) -> bool {
        DATAGRAM.with_borrow_mut(|buffer| {
            for _ in 0..BATCH {
                match self.downstream.receive(buffer) {
                    Ok((length, client, local)) => {
                        self.pass_on(&buffer[..length], (client, local));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                    // Of one datagram; those behind it are unaffected.
                    Err(error) => tracing::debug!(%error, "receive from a client"),
                }
            }
            true
        })
    }

    fn pass_on(&mut self, datagram: &[u8], key: Key) {
        if let Entry::Occupied(entry) = self.sessions.entry(key) {
            let session = entry.get();
            if session.is_usable() && session.flow.send(datagram) {
                session.flow.talks.set(true);
                return;
            }
            let session = entry.remove();
            let unanswered = session.flow.take_unanswered();
            if session.is_awaited(Instant::now(), self.context.udp_idle_timeout) {
                self.leaving.push((key, session));
            } else {
                // Before another is picked, so that its client does not keep this endpoint.
                drop(session);
            }
            return self.begin_anew(key, &unanswered, Some(datagram));
        }
        self.begin_anew(key, &Unanswered::default(), Some(datagram));
    }

    /// Its endpoint refused: another gets what that had not answered. Or it made room, and is
    /// over.
    fn move_on(&mut self, key: Key) {
        let is_over = |session: &Session| session.flow.refused.get() || session.flow.evicted.get();
        let left = |(of, session): &(Key, Session)| *of == key && is_over(session);
        let session = match self.sessions.get(&key) {
            Some(session) if is_over(session) => self.sessions.remove(&key),
            _ => self.leaving.iter().position(left).map(|place| self.leaving.swap_remove(place).1),
        };
        let Some(session) = session else { return };
        let unanswered = session.flow.take_unanswered();
        // Before another is picked, so that its client does not keep this endpoint.
        drop(session);
        match self.sessions.get(&key).filter(|session| session.is_usable()) {
            Some(session) => {
                for datagram in unanswered.datagrams() {
                    session.flow.send(datagram);
                }
            }
            None => self.begin_anew(key, &unanswered, None),
        }
    }

    /// Begins a session with what an earlier one left over, then this datagram.
    fn begin_anew(&mut self, key: Key, left: &Unanswered, datagram: Option<&[u8]>) {
        let mut datagrams = left.datagrams().chain(datagram);
        let Some(first) = datagrams.next() else { return };
        let Some(session) = self.begin(first, key, &left.tried) else {
            let lost = 1 + datagrams.count();
            add(&self.cell.state.load().meter.dropped_datagrams, lost as u64);
            return;
        };
        for datagram in datagrams {
            session.flow.talks.set(true);
            if !session.flow.send(datagram) {
                session.flow.unanswered.borrow_mut().keep(datagram);
                // The table holds the other end.
                let _ = self.end.send(key);
            }
        }
        self.sessions.insert(key, session);
    }

    /// Begins a session with the endpoint whose turn it is, or the next that takes the datagram.
    fn begin(&mut self, datagram: &[u8], key: Key, tried: &[SocketAddr]) -> Option<Session> {
        let (client, _) = key;
        let mut tried: SmallVec<[SocketAddr; MAX_TRIES]> = tried.into();
        while tried.len() < MAX_TRIES {
            let permit = self.permit(client.ip())?;
            let serving = self.cell.state.load();
            if !serving.admits(Some(client.ip())) {
                count(&serving.meter.denied);
                return None;
            }
            let suits = |endpoint: &Arc<Endpoint>| {
                let own = &self.context.own;
                !tried.contains(&endpoint.addr()) && !own.has(Protocol::Udp, endpoint.addr())
            };
            let endpoint = serving.pick(Some(client.ip()), suits)?.clone();
            match connect(endpoint.addr(), &serving.meter) {
                Ok(upstream) => {
                    let active = Active::new(serving.meter.clone(), |m| &m.active_sessions);
                    let flow = Flow {
                        pin: serving.pin(Some(client.ip()), &endpoint),
                        upstream,
                        endpoint,
                        last_used: Cell::new(Instant::now()),
                        talks: Cell::new(false),
                        outstanding: Cell::new(0),
                        has_answered: Cell::new(false),
                        asked: Cell::new(Instant::now()),
                        dropped: Cell::new(0),
                        refused: Cell::new(false),
                        unanswered: RefCell::default(),
                        active,
                        permit: RefCell::new(Some(permit)),
                        evicted: Cell::new(false),
                    };
                    if flow.send(datagram) {
                        count(&serving.meter.sessions);
                        flow.unanswered.borrow_mut().tried = tried.to_vec();
                        return Some(self.start(flow, key));
                    }
                    tried.push(flow.endpoint.addr());
                }
                Err(error) => {
                    tracing::debug!(endpoint = %endpoint.addr(), %error, "no UDP session");
                    count(&serving.meter.connect_failures);
                    if is_refusal(&error) {
                        endpoint.failed(Failure::Refused);
                    }
                    tried.push(endpoint.addr());
                }
            }
        }
        None
    }

    /// Room for a session of the client, if need be that of another.
    fn permit(&self, client: IpAddr) -> Option<SessionPermit> {
        let full = match self.context.room.session(client) {
            Ok(permit) => return Some(permit),
            Err(full) => full,
        };
        let now = Instant::now();
        let idle = |member: &Member| now.saturating_duration_since(member.flow.last_used.get());
        let member = self.shares.borrow_mut().make_room(client, full, idle)?;
        member.evict();
        self.context.room.session(client).ok()
    }

    fn start(&self, flow: Flow, key: Key) -> Session {
        let flow = Rc::new(flow);
        let (downstream, table) = (self.downstream.clone(), self.end.clone());
        let passing = pass_replies(flow.clone(), downstream, key, table.clone());
        let panics = self.panics.clone();
        let replies = spawn_local(async move {
            let _panics = panics;
            passing.await;
        });
        let member = Member { flow: flow.clone(), key, table };
        let slot = self.shares.borrow_mut().join(key.0.ip(), member);
        Session { flow, replies, shares: self.shares.clone(), slot }
    }
}

/// Passes an endpoint's datagrams to the client until the session ends.
async fn pass_replies(
    flow: Rc<Flow>,
    downstream: Rc<Downstream>,
    key: Key,
    table: mpsc::UnboundedSender<Key>,
) {
    // An error alone does not make a socket readable.
    while let Ok(ready) = flow.upstream.ready(Interest::READABLE | Interest::ERROR).await {
        let error = if ready.is_error() { take_refusal(&flow.upstream) } else { Ok(()) };
        let more = error.and_then(|()| {
            DATAGRAM.with_borrow_mut(|buffer| reply_batch(&flow, &downstream, key, buffer))
        });
        match more {
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) => {}
            Err(_) => {
                flow.refuse();
                // A table that is gone has nothing to move.
                let _ = table.send(key);
                return;
            }
        }
    }
}

/// Takes what the kernel has to report of earlier datagrams.
///
/// # Errors
///
/// When the endpoint refuses, or nobody has its address.
fn take_refusal(upstream: &tokio::net::UdpSocket) -> io::Result<()> {
    let mut refusal = None;
    // "Would block" when all reports have been read, which ends the readiness.
    let take = || {
        for _ in 0..MAX_REPORTS {
            let error = upstream.take_error()?;
            let more = sockets::take_report(upstream);
            if error.is_none() && !more {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            refusal = error.filter(is_refusal).or(refusal.take());
        }
        Ok(())
    };
    // What it returns is whether there may be more.
    let _ = upstream.try_io(Interest::ERROR, take);
    refusal.map_or(Ok(()), Err)
}

/// True when more may have arrived.
///
/// # Errors
///
/// When the endpoint refuses.
fn reply_batch(
    flow: &Flow,
    downstream: &Downstream,
    (client, local): Key,
    buffer: &mut [u8],
) -> io::Result<bool> {
    for _ in 0..BATCH {
        let length = match flow.upstream.try_recv(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if is_refusal(&error) => return Err(error),
            // Anything else is one datagram's trouble.
            Err(_) => continue,
        };
        let now = Instant::now();
        flow.last_used.set(now);
        flow.outstanding.set(flow.outstanding.get().saturating_sub(1));
        flow.has_answered.set(true);
        flow.asked.set(now);
        flow.endpoint.answered(now.into_std());
        if flow.unanswered.borrow_mut().answered() {
            flow.endpoint.worked();
        }
        match downstream.send(&buffer[..length], client, local) {
            Ok(()) => add(&flow.active.meter().downstream_bytes, length as u64),
            // Lost, as UDP loses.
            Err(error) if is_full(&error) => count(&flow.active.meter().buffer_drops),
            Err(_) => {}
        }
    }
    Ok(true)
}
