//! UDP: one session for each client of a frontend, each with a socket connected to the endpoint
//! whose turn it was when the session began.
//!
//! A session ends when it is idle, when its endpoint leaves the set or refuses, or with its
//! frontend; the client's next datagram begins a new one on another endpoint, and so does what it
//! sent to an endpoint that refused before it answered anything. Replies leave from the address
//! that the client sent to.

use std::cell::{Cell as Mutable, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use model::Protocol;
use smallvec::SmallVec;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::crowd::{Crowd, Place};
use super::downstream::{Downstream, MAX_DATAGRAM};
use super::room::{Scarcity, SessionPermit};
use super::rules::Stay;
use super::serving::{Cell, Endpoint};
use super::udp_thread::Stop;
use super::unanswered::Unanswered;
use super::worker::WorkerLimits;
use crate::metrics::{Active, add, count};

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
    static DATAGRAM: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_DATAGRAM].into());
}

/// Who talks to whom: the client, and on a wildcard address the local address that it chose.
type Key = (SocketAddr, Option<IpAddr>);

/// All sessions of a data thread.
pub(super) type Sessions = Rc<RefCell<Crowd<Member>>>;

/// The sessions of one socket of a frontend.
pub(super) struct Table {
    downstream: Rc<Downstream>,
    cell: Arc<Cell>,
    limits: Rc<WorkerLimits>,
    sessions: HashMap<Key, Session>,
    crowd: Sessions,
    /// Sessions whose endpoint refused or that made room for others, for [`Table::move_on`]: at
    /// most one entry for each session and each endpoint that it tries.
    over: mpsc::UnboundedReceiver<Key>,
    end: mpsc::UnboundedSender<Key>,
}

/// Dropping it ends the session.
struct Session {
    flow: Rc<Flow>,
    replies: tokio::task::JoinHandle<()>,
    crowd: Sessions,
    place: Place,
}

/// A session as its crowd knows it.
#[derive(Debug)]
pub(super) struct Member {
    flow: Rc<Flow>,
    key: Key,
    table: mpsc::UnboundedSender<Key>,
}

/// What a session shares with the task that passes its replies on, and with its crowd.
#[derive(Debug)]
struct Flow {
    upstream: tokio::net::UdpSocket,
    endpoint: Arc<Endpoint>,
    last_used: Mutable<Instant>,
    /// The client has sent more than one datagram.
    talks: Mutable<bool>,
    /// The endpoint has not answered the client's last datagram.
    awaited: Mutable<bool>,
    /// The endpoint refused a datagram (ICMP port unreachable).
    refused: Mutable<bool>,
    unanswered: RefCell<Unanswered>,
    active: Active,
    stay: Option<Stay>,
    /// Taken away when the session ends, or when another needs the room: the flow itself goes a
    /// moment later, with its task. Of descriptors, the others than clients' have enough for
    /// that moment.
    permit: RefCell<Option<SessionPermit>>,
    /// The session has made room for another.
    evicted: Mutable<bool>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.replies.abort();
        self.refresh_stay();
        self.flow.permit.take();
        self.crowd.borrow_mut().leave(&self.place);
    }
}

impl Member {
    /// Ends the session: its room is free at once, the rest goes when its table looks.
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

    /// Its client keeps the endpoint for as long as it uses it, and some time on.
    fn refresh_stay(&self) {
        match &self.flow.stay {
            None => {}
            Some(stay) if self.flow.refused.get() => stay.leave(),
            Some(stay) => stay.refresh(self.flow.last_used.get()),
        }
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
                self.last_used.set(Instant::now());
                self.awaited.set(true);
                self.unanswered.borrow_mut().keep(datagram);
                add(&self.active.meter().upstream_bytes, datagram.len() as u64);
                true
            }
            Err(error) if is_refusal(&error) => {
                self.refuse();
                false
            }
            // A full buffer, or a datagram too large for the path: lost, as UDP loses.
            Err(_) => true,
        }
    }

    fn refuse(&self) {
        if !self.refused.replace(true) {
            self.endpoint.failed();
            count(&self.active.meter().connect_failures);
        }
    }

    /// What another endpoint is to get instead, if this one refused.
    fn take_unanswered(&self) -> Unanswered {
        if !self.refused.get() {
            return Unanswered::default();
        }
        let mut unanswered = self.unanswered.take();
        unanswered.tried.push(self.endpoint.addr);
        unanswered
    }
}

fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

impl Table {
    pub(super) fn new(
        downstream: Downstream,
        cell: Arc<Cell>,
        limits: Rc<WorkerLimits>,
        crowd: Sessions,
    ) -> Table {
        let (downstream, sessions) = (Rc::new(downstream), HashMap::new());
        let (end, over) = mpsc::unbounded_channel();
        Table { downstream, cell, limits, sessions, crowd, over, end }
    }

    /// Serves the frontend until stopped.
    pub(super) async fn serve(mut self, mut stopped: oneshot::Receiver<Stop>, refresh: Rc<Notify>) {
        let mut sweep = interval((self.limits.udp_idle_timeout / SWEEPS).min(MAX_SWEEP));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let downstream = self.downstream.clone();
        loop {
            tokio::select! {
                biased;
                how = &mut stopped => {
                    if how == Ok(Stop::Drain) {
                        self.drain().await;
                    }
                    return;
                }
                () = refresh.notified() => {
                    let serving = self.cell.serving.load();
                    self.sessions.retain(|(client, _), session| {
                        serving.keeps(client.ip(), &session.flow.endpoint)
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
                now = sweep.tick(), if !self.sessions.is_empty() => self.end_idle(now),
            }
        }
    }

    fn end_idle(&mut self, now: Instant) {
        let timeout = self.limits.udp_idle_timeout;
        let brief = timeout.min(BRIEF_IDLE);
        let (once, often) = match self.limits.room.session_scarcity() {
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
            session.refresh_stay();
            if session.is_idle(now, REPLY_TIMEOUT) {
                session.flow.unanswered.borrow_mut().forget();
            }
        }
    }

    /// Waits until no client waits for a reply, or long enough.
    async fn drain(self) {
        let deadline = Instant::now() + REPLY_TIMEOUT;
        let awaited = |session: &Session| session.is_usable() && session.flow.awaited.get();
        while self.sessions.values().any(awaited) && Instant::now() < deadline {
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
            let unanswered = entry.remove().flow.take_unanswered();
            return self.begin_anew(key, &unanswered, Some(datagram));
        }
        self.begin_anew(key, &Unanswered::default(), Some(datagram));
    }

    /// Its endpoint refused: what that had not answered goes to another. Or it made room, and is
    /// over.
    fn move_on(&mut self, key: Key) {
        let is_over = |flow: &Flow| flow.refused.get() || flow.evicted.get();
        if self.sessions.get(&key).is_some_and(|session| is_over(&session.flow))
            && let Some(session) = self.sessions.remove(&key)
        {
            let unanswered = session.flow.take_unanswered();
            // Before another is picked, so that its client does not keep this endpoint.
            drop(session);
            self.begin_anew(key, &unanswered, None);
        }
    }

    /// Begins a session with what an earlier one left over, then this datagram.
    fn begin_anew(&mut self, key: Key, left: &Unanswered, datagram: Option<&[u8]>) {
        let mut datagrams = left.datagrams().chain(datagram);
        let Some(first) = datagrams.next() else { return };
        let Some(session) = self.begin(first, key, &left.tried) else {
            let lost = 1 + datagrams.count();
            add(&self.cell.serving.load().meter.dropped_datagrams, lost as u64);
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
            let serving = self.cell.serving.load();
            if !serving.admits(Some(client.ip())) {
                count(&serving.meter.denied);
                return None;
            }
            let suits = |endpoint: &Arc<Endpoint>| {
                let own = &self.limits.own;
                !tried.contains(&endpoint.addr) && !own.has(Protocol::Udp, endpoint.addr)
            };
            let endpoint = serving.pick(Some(client.ip()), suits)?.clone();
            match connect(endpoint.addr) {
                Ok(upstream) => {
                    let active = Active::new(serving.meter.clone(), |m| &m.active_sessions);
                    let flow = Flow {
                        stay: serving.stay(Some(client.ip()), &endpoint),
                        upstream,
                        endpoint,
                        last_used: Mutable::new(Instant::now()),
                        talks: Mutable::new(false),
                        awaited: Mutable::new(false),
                        refused: Mutable::new(false),
                        unanswered: RefCell::default(),
                        active,
                        permit: RefCell::new(Some(permit)),
                        evicted: Mutable::new(false),
                    };
                    if flow.send(datagram) {
                        count(&serving.meter.sessions);
                        flow.unanswered.borrow_mut().tried = tried.to_vec();
                        return Some(self.start(flow, key));
                    }
                    tried.push(flow.endpoint.addr);
                }
                Err(error) => {
                    tracing::debug!(endpoint = %endpoint.addr, %error, "no UDP session");
                    count(&serving.meter.connect_failures);
                    tried.push(endpoint.addr);
                }
            }
        }
        None
    }

    /// Room for a session of the client, if need be that of another.
    fn permit(&self, client: IpAddr) -> Option<SessionPermit> {
        let full = match self.limits.room.session(client) {
            Ok(permit) => return Some(permit),
            Err(full) => full,
        };
        let now = Instant::now();
        let idle = |member: &Member| now.saturating_duration_since(member.flow.last_used.get());
        let member = self.crowd.borrow_mut().make_room(client, full, idle)?;
        member.evict();
        self.limits.room.session(client).ok()
    }

    fn start(&self, flow: Flow, key: Key) -> Session {
        let flow = Rc::new(flow);
        let (downstream, table) = (self.downstream.clone(), self.end.clone());
        let replies = spawn_local(pass_replies(flow.clone(), downstream, key, table.clone()));
        let member = Member { flow: flow.clone(), key, table };
        let place = self.crowd.borrow_mut().join(key.0.ip(), member);
        Session { flow, replies, crowd: self.crowd.clone(), place }
    }
}

/// Passes an endpoint's datagrams to the client until the session ends.
async fn pass_replies(
    flow: Rc<Flow>,
    downstream: Rc<Downstream>,
    key: Key,
    table: mpsc::UnboundedSender<Key>,
) {
    // An error alone makes no socket readable.
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

/// Takes what the kernel has to report of an earlier datagram.
///
/// # Errors
///
/// When the endpoint refuses.
fn take_refusal(upstream: &tokio::net::UdpSocket) -> io::Result<()> {
    // It blocks, so to say, where there is nothing to report: that ends the readiness.
    let take = || upstream.take_error()?.ok_or_else(|| io::ErrorKind::WouldBlock.into());
    match upstream.try_io(Interest::ERROR, take) {
        Ok(error) if is_refusal(&error) => Err(error),
        _ => Ok(()),
    }
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
        flow.last_used.set(Instant::now());
        flow.awaited.set(false);
        if flow.unanswered.borrow_mut().answered() {
            flow.endpoint.worked();
        }
        // A full buffer or a client that is gone: lost, as UDP loses.
        if downstream.send(&buffer[..length], client, local).is_ok() {
            add(&flow.active.meter().downstream_bytes, length as u64);
        }
    }
    Ok(true)
}

fn connect(addr: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM.nonblocking(), None)?;
    socket.connect(&SockAddr::from(addr))?;
    tokio::net::UdpSocket::from_std(socket.into())
}
