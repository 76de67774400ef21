//! One TCP connection: connects to the next endpoint of the rotation, on failure to the one after
//! it, and relays until both ends are done. A client that is gone meanwhile ends the search.
//!
//! Bytes that the client has already sent go out together with the last acknowledgement of the
//! handshake, and are acknowledged together with the answer. Each saves one segment for a
//! connection that carries a single request. A connection that does not end by both ends closing
//! it is reset, so that no client takes half an answer for a whole one.
//!
//! Left out: waiting for events, which the data thread does.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use balance::Failure;
use model::Protocol;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_linger, socket_error};
use rustix::net::{SendFlags, getsockname};
use smallvec::SmallVec;

use super::endpoint::Endpoint;
use super::frontend::FrontendCell;
use super::relay::{self, End, Flow, Progress, Side, Tools, waits_to_write};
use super::rules::AffinityPin;
use super::source_addresses::{Connected, SourceAddresses};
use crate::metrics::{Active, count};
use crate::own_addresses::OwnAddresses;
use crate::room::{ClientPermit, Permit, Room, client_of};
use crate::sockets;

/// Endpoints tried for one client: a Service whose thousand endpoints are all dead must not turn
/// one connection into a thousand connects.
const MAX_TRIES: usize = 16;
/// All tries for one client together take at most this many connect time-outs.
const TOTAL_CONNECT_TIMEOUTS: u32 = 4;
/// Bytes read from a client before it has an endpoint: enough for a request, not for an upload.
const EARLY_BYTES: usize = 16 * 1024;
/// How long the acknowledgement of a client's first bytes is delayed, at least and at most, so that
/// it can leave together with the answer. A client that sends nothing more before it has the
/// acknowledgement (Nagle's algorithm) waits as long.
const MIN_ACK_DELAY: Duration = Duration::from_millis(1);
const MAX_ACK_DELAY: Duration = Duration::from_millis(8);

/// Which socket of a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Which {
    Client,
    Upstream,
}

/// Identifies a socket of a connection in epoll's events.
pub(super) fn token(key: usize, which: Which) -> u64 {
    (key as u64) << 1 | u64::from(which == Which::Upstream)
}

pub(super) fn from_token(token: u64) -> (usize, Which) {
    let which = if token & 1 == 1 { Which::Upstream } else { Which::Client };
    ((token >> 1) as usize, which)
}

/// What the connections of a data thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) epoll: OwnedFd,
    pub(super) room: Arc<Room>,
    pub(super) own: Arc<OwnAddresses>,
    pub(super) tools: Tools,
    pub(super) sources: SourceAddresses,
    pub(super) connect_timeout: Duration,
    /// Connects under way, ordered by the time at which they time out.
    pub(super) connects: VecDeque<AttemptTime>,
    /// Connections whose acknowledgement is delayed, ordered by the time at which that began.
    pub(super) delayed_acks: VecDeque<AttemptTime>,
    /// Moving average of the time from the client's first bytes to the endpoint's answer.
    pub(super) answer_time: Duration,
    /// When the thread last woke.
    pub(super) now: Instant,
    /// How many attempts to connect there were.
    pub(super) attempts: u64,
}

impl Shared {
    /// A first answer has come to a client that had been waiting since `since`.
    fn note_answer(&mut self, since: Instant) {
        self.answer_time = (self.answer_time * 15 + (self.now - since)) / 16;
    }

    /// No answer came in time. That must not make the next clients wait longer.
    fn note_no_answer(&mut self) {
        self.answer_time = self.answer_time * 15 / 16;
    }

    /// How long an acknowledgement is delayed: twice the average answer time, so that most answers
    /// come in time. If answers take longer than [`MAX_ACK_DELAY`], the delay is not worth it and
    /// is the shortest one.
    pub(super) fn ack_delay(&self) -> Duration {
        Some(self.answer_time * 2)
            .filter(|time| *time <= MAX_ACK_DELAY)
            .unwrap_or_default()
            .max(MIN_ACK_DELAY)
    }
}

/// A time that belongs to one attempt to connect, or to the connection that it became.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttemptTime {
    pub(super) at: Instant,
    pub(super) key: usize,
    pub(super) attempt: u64,
}

/// What a connection asks of its data thread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    Waits,
    /// Call [`Connection::go_on`] after the events of the next turn.
    Fresh,
    /// Call [`Connection::go_on`] once the others had their turn.
    HasMore,
    /// There was no descriptor for the endpoint's socket: call [`Connection::go_on`] later.
    Starved,
    Over,
}

#[derive(Debug)]
enum Stage {
    Connecting(Search),
    Relaying,
}

/// The search for an endpoint. Dropped when one is connected, so that a frontend that is gone
/// frees its cell.
#[derive(Debug)]
struct Search {
    cell: Arc<FrontendCell>,
    client: SocketAddr,
    begun: Instant,
    tried: SmallVec<[SocketAddr; 2]>,
}

#[derive(Debug)]
pub(super) struct Connection {
    key: usize,
    /// The number of the latest attempt to connect.
    attempt: u64,
    stage: Stage,
    client: Side,
    upstream: Option<Side>,
    up: Flow,
    down: Flow,
    endpoint: Option<Arc<Endpoint>>,
    /// When the client began to wait for an answer, while its acknowledgement is delayed.
    unanswered: Option<Instant>,
    active: Active,
    /// Set when the client keeps its endpoint (session affinity).
    pin: Option<AffinityPin>,
    /// Whether keepalive is on towards the endpoint.
    probes: bool,
    /// The data thread will call [`Connection::go_on`]; events before that are only noted.
    queued: bool,
    over: bool,
    /// See [`client_of`].
    client_key: IpAddr,
    /// When something last happened to one of its sockets.
    last_used: Instant,
    /// Boxed, because few set that limit.
    _client_permit: Option<Box<ClientPermit>>,
    _permit: Permit,
}

/// What a connection takes of the room.
#[derive(Debug)]
pub(super) struct ConnectionPermits {
    pub(super) connection: Permit,
    /// Where there is a limit for each client.
    pub(super) client: Option<ClientPermit>,
}

impl Connection {
    /// Begins with a client that has just been accepted.
    pub(super) fn begin(
        key: usize,
        (client, addr): (OwnedFd, SocketAddr),
        cell: Arc<FrontendCell>,
        permits: ConnectionPermits,
        shared: &mut Shared,
    ) -> (Connection, Step) {
        let (meter, admitted, proxy_protocol) = {
            let serving = cell.state.load();
            let admitted = serving.admits(Some(addr.ip()));
            (serving.meter.clone(), admitted, serving.proxy_protocol)
        };
        count(&meter.accepted);
        let search = Search { cell, client: addr, begun: shared.now, tried: SmallVec::new() };
        let mut connection = Connection {
            key,
            attempt: 0,
            stage: Stage::Connecting(search),
            client: Side::new(client),
            upstream: None,
            up: Flow::new(false),
            // Inherited from the listener.
            down: Flow::new(true),
            endpoint: None,
            unanswered: None,
            active: Active::new(meter, |meter| &meter.active),
            pin: None,
            probes: false,
            queued: false,
            over: false,
            client_key: client_of(addr.ip()),
            last_used: shared.now,
            _client_permit: permits.client.map(Box::new),
            _permit: permits.connection,
        };
        connection.client.writable = true;
        let step = if admitted {
            connection.start(proxy_protocol.then_some(addr), shared)
        } else {
            count(&connection.active.meter().denied);
            connection.end(End::Reset, shared)
        };
        (connection, step)
    }

    /// Waits one turn for the client's first bytes, which then go out with the handshake: most
    /// clients speak first. With a PROXY header there is something to send, so it connects at once.
    ///
    /// `told`: the client's address if the endpoint is to get it in a PROXY header.
    fn start(&mut self, told: Option<SocketAddr>, shared: &mut Shared) -> Step {
        let header = match told {
            None => 0,
            Some(addr) => match self.write_header(addr, &mut shared.tools.scratch) {
                Ok(length) => length,
                Err(error) => {
                    tracing::debug!(%error, "no local address");
                    return self.end(End::Reset, shared);
                }
            },
        };
        let watched = watch(shared, self.key, Which::Client, &self.client, EventFlags::empty());
        if watched.is_err() {
            return self.end(End::Reset, shared);
        }
        if header > 0 {
            return self.connect(header, shared);
        }
        self.queued = true;
        Step::Fresh
    }

    /// Connects, with the bytes that the client has sent meanwhile.
    fn begin_search(&mut self, shared: &mut Shared) -> Step {
        if self.client.gone {
            return self.abandon(shared);
        }
        let mut early = 0;
        if self.client.readable && self.up.unsent().is_empty() {
            early = match self.client.read(&mut shared.tools.scratch[..EARLY_BYTES]) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => 0,
                Err(_) => return self.end(End::Reset, shared),
            };
            self.up.count(early);
        }
        self.connect(early, shared)
    }

    fn write_header(&self, client: SocketAddr, buffer: &mut [u8]) -> Result<usize, Errno> {
        let local = getsockname(&self.client.socket)?;
        let local = SocketAddr::try_from(local).map_err(|_| Errno::AFNOSUPPORT)?;
        let header = daemon::proxy_protocol::write(client, local);
        buffer[..header.len()].copy_from_slice(&header);
        Ok(header.len())
    }

    /// Whether [`Connection::go_on`] is still to be called.
    pub(super) fn is_queued(&self) -> bool {
        self.queued
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Handles an event of one of the sockets.
    pub(super) fn event(&mut self, which: Which, flags: EventFlags, shared: &mut Shared) -> Step {
        self.last_used = shared.now;
        match (which, &mut self.upstream) {
            (Which::Client, _) => self.client.note(flags),
            (Which::Upstream, Some(upstream)) => upstream.note(flags),
            (Which::Upstream, None) => return Step::Waits,
        }
        if self.client.gone && matches!(self.stage, Stage::Connecting(_)) {
            return self.abandon(shared);
        }
        if self.queued {
            return Step::Waits;
        }
        match (&self.stage, which) {
            (Stage::Relaying, _) => self.relay(shared),
            (Stage::Connecting(_), Which::Client) => Step::Waits,
            (Stage::Connecting(_), Which::Upstream) => self.connected_or_not(flags, shared),
        }
    }

    /// Continues with what could not be done at once.
    pub(super) fn go_on(&mut self, shared: &mut Shared) -> Step {
        self.queued = false;
        self.last_used = shared.now;
        match (&self.stage, &self.upstream) {
            (Stage::Relaying, _) => self.relay(shared),
            (Stage::Connecting(_), None) => self.begin_search(shared),
            (Stage::Connecting(_), Some(_)) => Step::Waits,
        }
    }

    /// Whether this connect is still under way.
    pub(super) fn is_connecting(&self, attempt: u64) -> bool {
        self.attempt == attempt
            && matches!(self.stage, Stage::Connecting(_))
            && self.upstream.is_some()
    }

    /// Whether this attempt led to an endpoint that has not answered.
    pub(super) fn is_unanswered(&self, attempt: u64) -> bool {
        self.attempt == attempt && !self.over && self.unanswered.is_some()
    }

    /// Ends the delay of the acknowledgement: the client's bytes are acknowledged now.
    pub(super) fn acknowledge(&mut self, shared: &mut Shared) {
        self.unanswered = None;
        shared.note_no_answer();
        sockets::acknowledge_at_once(&self.client.socket);
    }

    /// The connect under way has taken too long.
    pub(super) fn connect_timed_out(&mut self, shared: &mut Shared) -> Step {
        self.connect_failed(Errno::TIMEDOUT);
        self.connect(0, shared)
    }

    /// Ends it if the drain time-out of its endpoint is over.
    pub(super) fn end_if_removed(&mut self, shared: &mut Shared) -> Step {
        match (&self.stage, &self.endpoint) {
            (Stage::Relaying, Some(endpoint)) if endpoint.has_ended() => {
                count(&self.active.meter().ended);
                self.end(End::Removed, shared)
            }
            _ => Step::Waits,
        }
    }

    /// The client is gone before an endpoint took it: nobody gets what it sent, and its room is
    /// free at once.
    fn abandon(&mut self, shared: &mut Shared) -> Step {
        count(&self.active.meter().abandoned);
        self.end(End::Reset, shared)
    }

    /// What its client counts as among all clients.
    pub(super) fn client_key(&self) -> IpAddr {
        self.client_key
    }

    /// How long nothing has happened to it.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_used)
    }

    /// Ends it because nothing was sent for the idle time-out.
    pub(super) fn end_if_idle(&mut self, timeout: Duration, shared: &mut Shared) -> Step {
        if !matches!(self.stage, Stage::Relaying) || self.idle(shared.now) < timeout {
            return Step::Waits;
        }
        count(&self.active.meter().idle);
        self.end(End::Reset, shared)
    }

    /// Ends it to make room for another client.
    pub(super) fn make_room(&mut self, shared: &mut Shared) -> Step {
        count(&self.active.meter().over_share);
        self.end(End::Reset, shared)
    }

    /// Turns keepalive on towards the endpoint. Called now and then and not at the beginning,
    /// because most connections do not live long enough to need it.
    pub(super) fn probe(&mut self) {
        if let (false, Some(upstream)) = (self.probes, &self.upstream) {
            self.probes = true;
            if let Err(error) = sockets::set_keepalive(&upstream.socket) {
                tracing::debug!(%error, "no keepalive");
            }
        }
    }

    /// Resets both ends, as when the process ends.
    pub(super) fn reset(&mut self) {
        let sockets = std::iter::once(&self.client).chain(&self.upstream);
        for side in sockets {
            let _ = set_socket_linger(&side.socket, Some(Duration::ZERO));
        }
    }

    /// Connects to the next endpoint of the rotation, or to the first after it that accepts.
    ///
    /// `early`: how many of the client's bytes are in the thread's buffer. For later tries they are
    /// kept in the flow.
    fn connect(&mut self, mut early: usize, shared: &mut Shared) -> Step {
        loop {
            let Some(endpoint) = self.next_endpoint(shared) else {
                count(&self.active.meter().failed);
                return self.end(End::Reset, shared);
            };
            let first = if early > 0 { &shared.tools.scratch[..early] } else { self.up.unsent() };
            let dialled = dial(endpoint.addr(), first, shared.now, &mut shared.sources);
            if dialled.is_exhausted {
                self.active.meter().note_exhaustion(shared.now);
            }
            match dialled.result {
                Ok(dialled) => {
                    self.endpoint = Some(endpoint);
                    if early > 0 {
                        self.up.begin_with(&shared.tools.scratch[..early], dialled.sent);
                    } else if dialled.sent > 0 {
                        let rest = self.up.unsent().to_vec();
                        self.up.begin_with(&rest, dialled.sent);
                    }
                    return self.watch_upstream(dialled, shared);
                }
                Err(error) => {
                    if early > 0 {
                        self.up.begin_with(&shared.tools.scratch[..early], 0);
                        early = 0;
                    }
                    if is_shortage(error) {
                        self.queued = true;
                        return Step::Starved;
                    }
                    self.endpoint = Some(endpoint);
                    self.connect_failed(error);
                }
            }
        }
    }

    /// The endpoint to try next; `None` when enough have been tried.
    fn next_endpoint(&self, shared: &Shared) -> Option<Arc<Endpoint>> {
        let Stage::Connecting(search) = &self.stage else { return None };
        let limit = shared.connect_timeout * TOTAL_CONNECT_TIMEOUTS;
        if search.tried.len() >= MAX_TRIES || shared.now - search.begun >= limit {
            return None;
        }
        // Loaded anew for each try: the set may have changed while the last one timed out.
        let serving = search.cell.state.load();
        let suits = |endpoint: &Arc<Endpoint>| {
            !search.tried.contains(&endpoint.addr())
                && !shared.own.has(Protocol::Tcp, endpoint.addr())
        };
        serving.pick(Some(search.client.ip()), suits).cloned()
    }

    fn watch_upstream(&mut self, dialled: Dialled, shared: &mut Shared) -> Step {
        let Dialled { socket, sent } = dialled;
        let mut upstream = Side::new(socket);
        let connected = sent > 0;
        // The socket becomes writable when the connect succeeds.
        upstream.watches_writes = !connected || !self.up.unsent().is_empty();
        let writes = if upstream.watches_writes { EventFlags::OUT } else { EventFlags::empty() };
        if watch(shared, self.key, Which::Upstream, &upstream, writes).is_err() {
            return self.end(End::Reset, shared);
        }
        upstream.writable = connected && !upstream.watches_writes;
        self.upstream = Some(upstream);
        shared.attempts += 1;
        self.attempt = shared.attempts;
        if connected {
            self.found(shared);
            return if self.client.readable { self.relay(shared) } else { Step::Waits };
        }
        let at = shared.now + shared.connect_timeout;
        shared.connects.push_back(AttemptTime { at, key: self.key, attempt: self.attempt });
        Step::Waits
    }

    fn connected_or_not(&mut self, flags: EventFlags, shared: &mut Shared) -> Step {
        let Some(upstream) = &self.upstream else { return Step::Waits };
        if flags.contains(EventFlags::ERR) {
            let error = socket_error(&upstream.socket).map_or_else(
                |e| e,
                |e| match e {
                    Err(error) => error,
                    Ok(()) => Errno::CONNREFUSED,
                },
            );
            self.connect_failed(error);
            return self.connect(0, shared);
        }
        if !upstream.writable {
            return Step::Waits;
        }
        if self.has_left_meanwhile() {
            // Nothing was sent yet, so closing it costs the endpoint nothing.
            self.leave_endpoint();
            return self.connect(0, shared);
        }
        let sends_first = !self.up.unsent().is_empty();
        self.found(shared);
        let step = self.relay(shared);
        if let (true, Some(upstream)) = (sends_first, &self.upstream) {
            sockets::acknowledge_at_once(&upstream.socket);
        }
        step
    }

    /// Whether the endpoint left the set during the connect and another one should be used: its
    /// drain time-out is over, or there are others to try.
    fn has_left_meanwhile(&self) -> bool {
        let (Stage::Connecting(search), Some(endpoint)) = (&self.stage, &self.endpoint) else {
            return false;
        };
        let others = || {
            let serving = search.cell.state.load();
            let rotation = serving.rotation_for(Some(search.client.ip()));
            rotation.members().iter().any(|other| !search.tried.contains(&other.addr()))
        };
        !endpoint.is_serving() && (endpoint.has_ended() || others())
    }

    /// The endpoint is connected: the search is over.
    fn found(&mut self, shared: &mut Shared) {
        let Stage::Connecting(search) = &self.stage else { return };
        if let Some(endpoint) = &self.endpoint {
            endpoint.worked();
            self.pin = search.cell.state.load().pin(Some(search.client.ip()), endpoint);
        }
        self.stage = Stage::Relaying;
        self.unanswered = Some(shared.now);
        shared.delayed_acks.push_back(AttemptTime {
            at: shared.now,
            key: self.key,
            attempt: self.attempt,
        });
    }

    fn connect_failed(&mut self, error: Errno) {
        count(&self.active.meter().connect_failures);
        if let Some(endpoint) = &self.endpoint {
            tracing::debug!(endpoint = %endpoint.addr(), %error, "connect failed");
            match error {
                // No local port was left towards it: the endpoint is not at fault.
                Errno::ADDRNOTAVAIL => {}
                // That a host is unreachable is known after seconds without an answer.
                Errno::TIMEDOUT | Errno::HOSTUNREACH => endpoint.failed(Failure::TimedOut),
                _ => endpoint.failed(Failure::Refused),
            }
        }
        self.leave_endpoint();
    }

    /// Gives up the endpoint, which is not tried again.
    fn leave_endpoint(&mut self) {
        self.upstream = None;
        let Some(endpoint) = self.endpoint.take() else { return };
        if let Stage::Connecting(search) = &mut self.stage {
            search.tried.push(endpoint.addr());
        }
    }

    fn relay(&mut self, shared: &mut Shared) -> Step {
        let Connection { client, upstream: Some(upstream), up, down, .. } = self else {
            return Step::Waits;
        };
        let meter = self.active.meter();
        let progress = relay::drive((client, upstream), (up, down), &mut shared.tools, meter);
        if let Some(since) = self.unanswered.take_if(|_| up.has_moved() && down.has_moved()) {
            shared.note_answer(since);
        }
        match progress {
            Progress::Over(end) => return self.end(end, shared),
            Progress::HasMore => {
                self.queued = true;
                return Step::HasMore;
            }
            Progress::Waits => {}
        }
        for (flow, side, which) in
            [(&*up, upstream, Which::Upstream), (&*down, client, Which::Client)]
        {
            if waits_to_write(flow, side) {
                side.watches_writes = true;
                let (flags, data) = (WATCHED | EventFlags::OUT, token(self.key, which));
                // It fails only for a socket that is not watched; this one is.
                let _ = epoll::modify(&shared.epoll, &side.socket, EventData::new_u64(data), flags);
            }
        }
        Step::Waits
    }

    fn end(&mut self, end: End, shared: &mut Shared) -> Step {
        if end != End::Closed {
            self.reset();
        }
        if let Some(pin) = &self.pin {
            pin.refresh(tokio::time::Instant::from_std(shared.now));
        }
        relay::finish((&mut self.up, &mut self.down), &mut shared.tools, self.active.meter());
        self.over = true;
        Step::Over
    }
}

/// The events that are always watched, as edges. `PRI` because an urgent byte changes what a short
/// read means.
const WATCHED: EventFlags =
    EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::PRI).union(EventFlags::ET);

fn watch(
    shared: &Shared,
    key: usize,
    which: Which,
    side: &Side,
    more: EventFlags,
) -> Result<(), Errno> {
    let data = EventData::new_u64(token(key, which));
    epoll::add(&shared.epoll, &side.socket, data, WATCHED | more)
}

/// A socket that is connecting or, if bytes have been sent, connected.
struct Dialled {
    socket: OwnedFd,
    sent: usize,
}

/// Begins to connect, and sends the first bytes if the connection is established at once, as it is
/// with endpoints on the same host.
fn dial(
    addr: SocketAddr,
    first: &[u8],
    now: Instant,
    sources: &mut SourceAddresses,
) -> Connected<Dialled> {
    let connect = |source| {
        let mut side = Side::new(sockets::connecting(addr, source, !first.is_empty())?);
        let sent = if first.is_empty() { 0 } else { side.write(first, SendFlags::empty())? };
        if sent > 0 {
            sockets::acknowledge_at_once(&side.socket);
        }
        Ok(Dialled { socket: side.socket, sent })
    };
    sources.connect(addr, now, connect)
}

/// Whether the error says that this process or the host has run out of something.
pub(super) fn is_shortage(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        // It owns nothing else while nothing is unsent.
        let size = size_of::<Connection>();
        assert!(size <= 544, "{size}");
    }

    #[test]
    fn a_token_names_a_socket() {
        for (key, which) in [(0, Which::Client), (0, Which::Upstream), (77, Which::Upstream)] {
            assert_eq!(from_token(token(key, which)), (key, which));
        }
    }

    #[test]
    fn a_stream_that_waits_for_its_turn_gets_no_other() {
        use std::io::{Read, Write};
        use std::net::{TcpListener, TcpStream};
        let pair = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let near = listener.accept().unwrap().0;
            near.set_nonblocking(true).unwrap();
            (far, Side::new(near.into()))
        };
        let ((mut sender, client), (mut receiver, upstream)) = (pair(), pair());
        std::thread::spawn(move || while sender.write_all(&[0; 1 << 18]).is_ok() {});
        std::thread::spawn(move || while receiver.read(&mut [0; 1 << 18]).is_ok_and(|n| n > 0) {});
        let room = Room::new(10_000, 100, crate::room::Limits::default());
        let mut shared = Shared {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
            own: Arc::default(),
            tools: Tools::new(super::super::splice::Pipes::new(room.clone())),
            sources: SourceAddresses::default(),
            connect_timeout: Duration::from_secs(1),
            connects: VecDeque::new(),
            delayed_acks: VecDeque::new(),
            answer_time: Duration::ZERO,
            now: Instant::now(),
            attempts: 0,
            room,
        };
        let mut stream = Connection {
            key: 0,
            attempt: 0,
            stage: Stage::Relaying,
            client,
            upstream: Some(upstream),
            up: Flow::new(true),
            down: Flow::new(true),
            endpoint: None,
            unanswered: None,
            active: Active::new(Arc::default(), |meter| &meter.active),
            pin: None,
            probes: true,
            queued: false,
            over: false,
            client_key: "192.0.2.1".parse().unwrap(),
            last_used: shared.now,
            _client_permit: None,
            _permit: shared.room.connection().unwrap(),
        };
        let moved = |stream: &Connection| {
            let meter = stream.active.meter();
            let counted = meter.upstream_bytes.load(std::sync::atomic::Ordering::Relaxed);
            (counted, stream.up.uncounted())
        };
        let begun = Instant::now();
        let event = |stream: &mut Connection, shared: &mut Shared| {
            stream.upstream.as_mut().unwrap().note(EventFlags::OUT);
            stream.event(Which::Client, EventFlags::IN, shared)
        };
        while event(&mut stream, &mut shared) != Step::HasMore {
            assert!(begun.elapsed() < Duration::from_secs(20), "never more than one turn's work");
        }
        for _ in 0..100 {
            let before = moved(&stream);
            assert_eq!(event(&mut stream, &mut shared), Step::Waits);
            assert!(stream.is_queued() && moved(&stream) == before);
        }
        let before = moved(&stream);
        stream.go_on(&mut shared);
        assert_ne!(moved(&stream), before);
    }
}
