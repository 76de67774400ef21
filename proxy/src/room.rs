//! How many file descriptors each use may take: listeners, connections, waiting clients, UDP
//! sessions, pipes.
//!
//! A connection takes two descriptors, and both are reserved before it is accepted, so that there
//! is always one for the endpoint. A client without room waits with one descriptor; without that it
//! waits in the kernel's queue.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Descriptors kept for the admin endpoint, the feed and the libraries, at most a quarter of
/// all: 64 admin connections and some files.
const CONTROL_DESCRIPTORS: usize = 96;
/// Listeners leave one descriptor in this many to connections.
const CONNECTION_SHARE: usize = 5;
/// One descriptor in this many may go into second and further listeners of an address. A listener
/// for each data thread is useful, but not if another frontend then gets none.
const EXTRA_LISTENER_SHARE: usize = 5;
/// UDP sessions may take one in this many of the descriptors that listeners leave, unless a flag
/// says more: a flood of datagrams from ever new ports must not take the room of TCP clients.
const SESSION_SHARE: usize = 2;
/// The bits of an IPv6 address that tell one client from another: a host commonly has all the
/// addresses of such a network (RFC 7934), and could take a share with each.
const CLIENT_PREFIX_V6: u32 = 64;
/// UDP sessions are nearly full when one in this many is left.
const LAST_SHARE: usize = 8;
/// TCP connections leave one in this many of the remaining descriptors to UDP sessions.
const SESSION_RESERVE: usize = 8;
/// Pipes may take one in this many of the descriptors that listeners leave, and there are at most
/// this many pipes: a stream without one is copied instead.
const PIPE_SHARE: usize = 16;
const MAX_PIPES: usize = 256;
/// Descriptors of a pipe: its two ends.
const PIPE_DESCRIPTORS: usize = 2;
/// In each data thread, as many clients may wait for room as one in this many of all connections,
/// at least and at most this many: each holds a descriptor.
const WAITING_SHARE: usize = 4;
const MIN_WAITING: usize = 64;
const MAX_WAITING: usize = 1024;
/// Descriptors of a connection: the client's socket and the endpoint's.
const CONNECTION_DESCRIPTORS: usize = 2;

/// The limits that flags set; `None`: only the number of descriptors limits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) connections: Option<usize>,
    pub(crate) connections_per_client: Option<usize>,
    pub(crate) sessions: Option<usize>,
    pub(crate) sessions_per_client: Option<usize>,
}

/// The descriptors of the process, and how many of them are in use.
#[derive(Debug)]
pub(crate) struct Room {
    descriptors: usize,
    used: AtomicUsize,
    listeners: AtomicUsize,
    extra_listeners: AtomicUsize,
    limits: Limits,
    connections: AtomicUsize,
    waiting: AtomicUsize,
    sessions: AtomicUsize,
    clients_of_connections: PerClient,
    clients_of_sessions: PerClient,
    pipes: AtomicUsize,
}

/// Descriptors that are given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    room: Arc<Room>,
    descriptors: usize,
    kind: Kind,
}

/// Room for a session.
#[derive(Debug)]
pub(crate) struct SessionPermit {
    _permit: Permit,
    _client: Option<ClientPermit>,
}

/// One connection or session of a client, which has one less when this is dropped.
#[derive(Debug)]
pub(crate) struct ClientPermit {
    room: Arc<Room>,
    kind: Kind,
    client: IpAddr,
}

/// How many each client has, by [`client_of`]; counted only where there is a limit.
#[derive(Debug)]
struct PerClient {
    limit: Option<usize>,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// The first of these descriptors is needed, the others are extra.
    Listeners,
    Connection,
    Waiting,
    Session,
    Pipe,
}

/// Why there is no room for another UDP session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Full {
    /// The client has as many as it may have.
    Client,
    /// All sessions, or all descriptors, are taken.
    All,
}

/// How many of the UDP sessions are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scarcity {
    None,
    /// More than half.
    Scarce,
    /// All but an eighth.
    NearlyFull,
}

/// Descriptors that are open now.
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

impl Room {
    /// `limit`: descriptors that the process may have; `open`: those that it has open and keeps.
    pub(crate) fn new(limit: usize, open: usize, limits: Limits) -> Arc<Room> {
        let kept = open + CONTROL_DESCRIPTORS.min(limit / 4);
        Arc::new(Room {
            descriptors: limit.saturating_sub(kept),
            used: AtomicUsize::new(0),
            listeners: AtomicUsize::new(0),
            extra_listeners: AtomicUsize::new(0),
            limits,
            connections: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            clients_of_connections: PerClient::new(limits.connections_per_client),
            clients_of_sessions: PerClient::new(limits.sessions_per_client),
            pipes: AtomicUsize::new(0),
        })
    }

    /// Room for listeners of one address: `wanted` of them, or one when so many do not fit.
    pub(crate) fn listeners(self: &Arc<Room>, wanted: usize) -> Option<Permit> {
        let extra = wanted.saturating_sub(1);
        let max_extra = self.descriptors / EXTRA_LISTENER_SHARE;
        let max = self.descriptors - self.descriptors / CONNECTION_SHARE;
        let taken = self.listeners.load(Ordering::Relaxed);
        let fits_extra = self.extra_listeners.load(Ordering::Relaxed) + extra <= max_extra;
        let count = if fits_extra && taken + wanted <= max { wanted } else { 1 };
        if taken + count > max || !take(&self.used, count, self.descriptors) {
            return None;
        }
        self.listeners.fetch_add(count, Ordering::Relaxed);
        self.extra_listeners.fetch_add(count - 1, Ordering::Relaxed);
        Some(Permit { room: self.clone(), descriptors: count, kind: Kind::Listeners })
    }

    /// Room for this many listeners of one address that are open already.
    pub(crate) fn open_listeners_of(self: &Arc<Room>, count: usize) -> Option<Permit> {
        self.listeners(count).filter(|permit| permit.descriptors == count)
    }

    /// Room for a connection to an endpoint.
    pub(crate) fn connection(self: &Arc<Room>) -> Option<Permit> {
        let max = self.max_connections();
        self.admit((&self.connections, max), CONNECTION_DESCRIPTORS, Kind::Connection)
    }

    /// Room for an accepted client without a connection to an endpoint.
    pub(crate) fn waiting_client(self: &Arc<Room>) -> Option<Permit> {
        // Each data thread keeps its own limit.
        self.admit((&self.waiting, usize::MAX), 1, Kind::Waiting)
    }

    /// One more connection of the client; `None` where there is no limit of those.
    ///
    /// # Errors
    ///
    /// When the client has as many as it may have.
    pub(crate) fn connection_of(
        self: &Arc<Room>,
        client: IpAddr,
    ) -> Result<Option<ClientPermit>, Full> {
        self.one_more(Kind::Connection, client)
    }

    pub(crate) fn session(self: &Arc<Room>, client: IpAddr) -> Result<SessionPermit, Full> {
        let client = self.one_more(Kind::Session, client)?;
        let max = self.max_sessions();
        let permit = self.admit((&self.sessions, max), 1, Kind::Session).ok_or(Full::All)?;
        Ok(SessionPermit { _permit: permit, _client: client })
    }

    fn one_more(
        self: &Arc<Room>,
        kind: Kind,
        client: IpAddr,
    ) -> Result<Option<ClientPermit>, Full> {
        let clients = self.clients_of(kind);
        let Some(limit) = clients.limit else { return Ok(None) };
        let client = client_of(client);
        let mut counts = clients.lock();
        let count = counts.entry(client).or_default();
        if *count >= limit {
            return Err(Full::Client);
        }
        *count += 1;
        Ok(Some(ClientPermit { room: self.clone(), kind, client }))
    }

    fn clients_of(&self, kind: Kind) -> &PerClient {
        match kind {
            Kind::Connection => &self.clients_of_connections,
            _ => &self.clients_of_sessions,
        }
    }

    pub(crate) fn session_scarcity(&self) -> Scarcity {
        let (open, max) = (self.open_sessions(), self.max_sessions());
        if open >= max - max / LAST_SHARE {
            Scarcity::NearlyFull
        } else if open * 2 > max {
            Scarcity::Scarce
        } else {
            Scarcity::None
        }
    }

    /// TCP connections that can be open at once.
    pub(crate) fn max_connections(&self) -> usize {
        self.limits.connections.unwrap_or_else(|| {
            let rest = self.beside_listeners();
            (rest - rest / SESSION_RESERVE) / CONNECTION_DESCRIPTORS
        })
    }

    /// Clients that may wait for room in one data thread.
    pub(crate) fn max_waiting_clients(&self) -> usize {
        (self.max_connections() / WAITING_SHARE).clamp(MIN_WAITING, MAX_WAITING)
    }

    fn max_sessions(&self) -> usize {
        self.limits.sessions.unwrap_or_else(|| self.beside_listeners() / SESSION_SHARE)
    }

    /// Room for a pipe that a stream's bytes go through.
    pub(crate) fn pipe(self: &Arc<Room>) -> Option<Permit> {
        let max = (self.beside_listeners() / PIPE_SHARE / PIPE_DESCRIPTORS).min(MAX_PIPES);
        self.admit((&self.pipes, max), PIPE_DESCRIPTORS, Kind::Pipe)
    }

    /// Descriptors that are for connections and sessions.
    fn beside_listeners(&self) -> usize {
        self.descriptors.saturating_sub(self.listeners.load(Ordering::Relaxed))
    }

    fn admit(
        self: &Arc<Room>,
        (counter, max): (&AtomicUsize, usize),
        descriptors: usize,
        kind: Kind,
    ) -> Option<Permit> {
        if !take(counter, 1, max) {
            return None;
        }
        if !take(&self.used, descriptors, self.descriptors) {
            counter.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Permit { room: self.clone(), descriptors, kind })
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn waiting_clients(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn open_sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    pub(crate) fn open_listeners(&self) -> usize {
        self.listeners.load(Ordering::Relaxed)
    }

    /// How many addresses can be listened on, whatever the number of data threads.
    pub(crate) fn listener_capacity(&self) -> usize {
        let listeners = self.descriptors - self.descriptors / CONNECTION_SHARE;
        listeners - self.descriptors / EXTRA_LISTENER_SHARE
    }
}

/// What counts as one client: an address, or a network of IPv6.
pub(crate) fn client_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let mask = !(u128::MAX >> CLIENT_PREFIX_V6);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
        v4 => v4,
    }
}

/// Adds `amount` unless that would go over `max`.
fn take(counter: &AtomicUsize, amount: usize, max: usize) -> bool {
    let before = counter.fetch_add(amount, Ordering::Relaxed);
    let fits = before + amount <= max;
    if !fits {
        counter.fetch_sub(amount, Ordering::Relaxed);
    }
    fits
}

impl Permit {
    pub(crate) fn descriptors(&self) -> usize {
        self.descriptors
    }
}

impl PerClient {
    fn new(limit: Option<usize>) -> PerClient {
        PerClient { limit, counts: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        let mut counts = self.room.clients_of(self.kind).lock();
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let room = &self.room;
        room.used.fetch_sub(self.descriptors, Ordering::Relaxed);
        match self.kind {
            Kind::Connection => drop(room.connections.fetch_sub(1, Ordering::Relaxed)),
            Kind::Waiting => drop(room.waiting.fetch_sub(1, Ordering::Relaxed)),
            Kind::Session => drop(room.sessions.fetch_sub(1, Ordering::Relaxed)),
            Kind::Pipe => drop(room.pipes.fetch_sub(1, Ordering::Relaxed)),
            Kind::Listeners => {
                room.listeners.fetch_sub(self.descriptors, Ordering::Relaxed);
                room.extra_listeners.fetch_sub(self.descriptors - 1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes listeners until none fits; how many addresses fitted, and how many sockets.
    fn fill(room: &Arc<Room>, workers: usize) -> (usize, usize) {
        let permits: Vec<Permit> = std::iter::from_fn(|| room.listeners(workers)).collect();
        (permits.len(), permits.iter().map(Permit::descriptors).sum())
    }

    fn client(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    /// Takes sessions of ever new clients until none fits.
    fn sessions(room: &Arc<Room>) -> Vec<SessionPermit> {
        (0..).map_while(|number| room.session(client(number)).ok()).collect()
    }

    #[test]
    fn a_limit_of_a_udp_client_is_kept() {
        let limits =
            Limits { sessions: Some(40), sessions_per_client: Some(10), ..Limits::default() };
        let room = Room::new(1000, 10, limits);
        let of = |ip: IpAddr| -> Vec<SessionPermit> {
            std::iter::from_fn(|| room.session(ip).ok()).collect()
        };
        let mut first = of(client(1));
        assert_eq!(first.len(), 10);
        assert_eq!(room.session(client(1)).unwrap_err(), Full::Client);
        assert_eq!(room.session_scarcity(), Scarcity::None);
        // What a session leaves is the client's again.
        first.pop();
        assert_eq!(of(client(1)).len(), 1);
        // All addresses of one IPv6 network are one client.
        let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
        let six = of(v6("fd00:0:0:1::1"));
        assert_eq!(room.session(v6("fd00:0:0:1:2::")).unwrap_err(), Full::Client);
        let other = of(v6("fd00:0:0:2::1"));
        assert_eq!(room.session(v6("::ffff:0.0.0.1")).err(), None);
        let rest = sessions(&room);
        assert_eq!(rest.len() + first.len() + 20, 40);
        assert_eq!(room.session_scarcity(), Scarcity::NearlyFull);
        assert_eq!(room.session(client(99)).unwrap_err(), Full::All);
        drop((first, six, other, rest));
        assert!(room.clients_of_sessions.lock().is_empty());
    }

    #[test]
    fn without_that_limit_a_udp_client_may_have_all() {
        let room = Room::new(1000, 10, Limits { sessions: Some(40), ..Limits::default() });
        let all: Vec<_> = std::iter::from_fn(|| room.session(client(1)).ok()).collect();
        assert_eq!((all.len(), room.session(client(2)).unwrap_err()), (40, Full::All));
        assert!(room.clients_of_sessions.lock().is_empty());
    }

    #[test]
    fn ten_thousand_frontends_fit_for_any_number_of_workers() {
        for workers in [1, 2, 3, 8, 64, 1000] {
            let room = Room::new(20_000, 30, Limits::default());
            assert!(room.listener_capacity() >= 10_000);
            let (addresses, sockets) = fill(&room, workers);
            assert!(addresses >= room.listener_capacity(), "{workers} workers: {addresses}");
            assert!(sockets <= 16_000, "{workers} workers: {sockets} leave no connection");
        }
    }

    #[test]
    fn each_worker_gets_a_listener_while_that_is_cheap() {
        let room = Room::new(20_000, 30, Limits::default());
        let permits: Vec<_> = (0..500).map(|_| room.listeners(8).unwrap()).collect();
        assert!(permits.iter().all(|permit| permit.descriptors() == 8));
    }

    #[test]
    fn what_is_dropped_makes_room_again() {
        let limits = Limits { connections: Some(3), sessions: Some(2), ..Limits::default() };
        let room = Room::new(1000, 10, limits);
        let mut connections: Vec<_> = std::iter::from_fn(|| room.connection()).collect();
        let taken = sessions(&room);
        assert_eq!((connections.len(), taken.len()), (3, 2));
        assert_eq!((room.open_connections(), room.open_sessions()), (3, 2));
        connections.pop();
        assert!(room.connection().is_some());
        drop((connections, taken));
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
        let listeners = room.listeners(4).unwrap();
        assert_eq!(room.open_listeners(), 4);
        drop(listeners);
        assert_eq!((room.open_listeners(), room.used.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn connections_stop_where_the_descriptors_end() {
        let room = Room::new(64, 20, Limits::default());
        let connections: Vec<_> = std::iter::from_fn(|| room.connection()).collect();
        // All of 64 - 20 - 16 descriptors but an eighth.
        assert_eq!(connections.len(), (28 - 3) / 2);
        let limits = Limits { connections: Some(100), ..Limits::default() };
        let room = Room::new(64, 20, limits);
        let connections: Vec<_> = std::iter::from_fn(|| room.connection()).collect();
        assert_eq!(connections.len(), 28 / 2);
        assert!(room.listeners(1).is_none());
    }

    #[test]
    fn udp_clients_do_not_cost_tcp_clients_their_room_nor_theother_way_round() {
        let room = Room::new(1096, 0, Limits::default());
        let listeners: Vec<_> = (0..200).map(|_| room.listeners(1).unwrap()).collect();
        let taken = sessions(&room);
        assert_eq!((listeners.len(), taken.len()), (200, 400));
        let connections: Vec<_> = std::iter::from_fn(|| room.connection()).collect();
        assert_eq!(connections.len(), 200);
        drop((taken, connections));
        let connections: Vec<_> = std::iter::from_fn(|| room.connection()).collect();
        let taken = sessions(&room);
        assert_eq!((connections.len(), taken.len()), (350, 100));
    }

    #[test]
    fn pipes_are_few_and_given_back() {
        let room = Room::new(1096, 0, Limits::default());
        let pipes: Vec<_> = std::iter::from_fn(|| room.pipe()).collect();
        assert_eq!((pipes.len(), room.used.load(Ordering::Relaxed)), (1000 / 16 / 2, 62));
        drop(pipes);
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
        let room = Room::new(1_000_000, 0, Limits::default());
        assert_eq!(std::iter::from_fn(|| room.pipe()).map(std::mem::forget).count(), MAX_PIPES);
    }

    #[test]
    fn nothing_fits_where_there_is_no_descriptor() {
        let none = Room::new(10, 20, Limits::default());
        assert!(none.connection().is_none() && none.listeners(1).is_none());
    }
}
