//! The TCP half of a data thread: one epoll loop that accepts on its listeners and serves its
//! connections.
//!
//! It is a loop of its own and not one task for each connection on a runtime, because a proxied
//! connection costs mostly system calls, and here each of them is visible and under control.
//! Only the loop itself waits.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use daemon::listen::BACKLOG;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{Event, EventData, EventFlags};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{SocketFlags, acceptfrom_with};
use slab::Slab;
use smallvec::SmallVec;

use super::client_shares::{ClientCounts, MAX_COMPARED};
use super::commands::{Command, Opened, PendingCommand, SharedSocket, ThreadContext};
use super::connection::{
    AttemptTime, Connection, ConnectionPermits, Shared, Step, from_token, is_shortage,
};
use super::frontend::FrontendCell;
use super::relay::Tools;
use super::source_addresses::SourceAddresses;
use super::splice::Pipes;
use super::waiting::{Waiting, WaitingClient};
use crate::metrics::count;
use crate::own_addresses::Bound;
use crate::room::client_of;
use crate::sockets;

/// How often a listener without room looks for some: soon enough to use free room within a second,
/// seldom enough to cost nothing.
const ROOM_RETRY: Duration = Duration::from_millis(100);
/// Events taken from epoll at once.
const EVENTS: usize = 256;
/// Clients accepted on one listener before the open connections get a turn.
const MAX_ACCEPTS: usize = 64;
/// How often connections are looked at that may have lost their endpoint; the first look of a
/// connection turns keepalive on.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// How many times an idle connection is looked at within the idle time-out.
const IDLE_LOOKS: u32 = 4;
/// How often the log says that there is no room.
const ROOM_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The token of the inbox; listeners have this bit and their key, connections do not have it.
const LISTENER: u64 = 1 << 63;
const INBOX: u64 = u64::MAX;

#[derive(Debug)]
struct Listener {
    socket: Arc<TcpListener>,
    cell: Arc<FrontendCell>,
    /// How many clients are likely to wait.
    batch: usize,
}

pub(super) struct TcpThread {
    commands: Receiver<PendingCommand>,
    inbox: Arc<OwnedFd>,
    shared: Shared,
    listeners: Slab<Listener>,
    /// An address has several listeners if they came from a process with more data threads.
    by_bound: HashMap<Bound, SmallVec<[usize; 1]>>,
    connections: Slab<Connection>,
    clients: ClientCounts,
    waiting: Waiting,
    /// When waiting clients were last looked after.
    looked_after: Instant,
    /// Where the next search for a connection that makes room begins.
    compared: usize,
    idle_timeout: Duration,
    /// When the log last said that there was no room.
    warned: Option<Instant>,
    /// Connections that had more than one turn's work.
    ready: Vec<usize>,
    /// Connections accepted at the last turn.
    fresh: Vec<usize>,
    /// Listeners that are not watched, because there was no room for a connection.
    paused: Vec<usize>,
    /// Connections without a descriptor for their endpoint.
    starved: Vec<usize>,
    /// Connections that ended in this round. Their keys are not reused before its end, so that no
    /// event reaches the wrong connection.
    over: Vec<usize>,
    /// When paused listeners and starved connections try again.
    retry: Option<Instant>,
    probe: Instant,
}

impl TcpThread {
    /// # Errors
    ///
    /// When the kernel refuses the descriptors.
    pub(super) fn new(
        commands: Receiver<PendingCommand>,
        inbox: Arc<OwnedFd>,
        context: &ThreadContext,
    ) -> Result<TcpThread, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &inbox, EventData::new_u64(INBOX), EventFlags::IN | EventFlags::ET)?;
        let now = Instant::now();
        let shared = Shared {
            epoll,
            room: context.room.clone(),
            own: context.own.clone(),
            tools: Tools::new(Pipes::new(context.room.clone())),
            sources: SourceAddresses::default(),
            connect_timeout: context.connect_timeout,
            connects: VecDeque::new(),
            delayed_acks: VecDeque::new(),
            answer_time: Duration::ZERO,
            now,
            attempts: 0,
        };
        Ok(TcpThread {
            commands,
            inbox,
            shared,
            listeners: Slab::new(),
            by_bound: HashMap::new(),
            connections: Slab::new(),
            clients: ClientCounts::default(),
            waiting: Waiting::default(),
            looked_after: now,
            compared: 0,
            idle_timeout: context.idle_timeout,
            warned: None,
            ready: Vec::new(),
            fresh: Vec::new(),
            paused: Vec::new(),
            starved: Vec::new(),
            over: Vec::new(),
            retry: None,
            probe: now + probe_interval(context.idle_timeout),
        })
    }

    /// Serves until control drops its handle, then resets the connections that are left.
    pub(super) fn run(mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            let wait = self.wait();
            let waited =
                epoll::wait(&self.shared.epoll, spare_capacity(&mut events), wait.as_ref());
            if let Err(error) = waited
                && error != Errno::INTR
            {
                // Only a bug can make it fail, and the loop would spin.
                panic!("epoll_wait: {error}");
            }
            self.shared.now = Instant::now();
            let fresh = std::mem::take(&mut self.fresh);
            let mut commanded = false;
            for event in events.drain(..) {
                match event.data.u64() {
                    INBOX => commanded = true,
                    token if token & LISTENER != 0 => self.accept((token & !LISTENER) as usize),
                    token => self.event(token, event.flags),
                }
            }
            let ready = std::mem::take(&mut self.ready);
            fresh.into_iter().chain(ready).for_each(|key| self.go_on(key));
            self.keep_time();
            if commanded && !self.read_commands() {
                break;
            }
            self.forget_over();
        }
        for (_, connection) in &mut self.connections {
            connection.reset();
        }
        while let Some(waiting) = self.waiting.pop(&self.clients) {
            waiting.reset();
        }
    }

    /// How long to wait for events: until the next time-out is due.
    fn wait(&mut self) -> Option<Timespec> {
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        if !self.ready.is_empty() || !self.fresh.is_empty() {
            return Some(nothing);
        }
        let connections = &self.connections;
        let first = |queue: &mut VecDeque<AttemptTime>, waits: fn(&Connection, u64) -> bool| {
            let is_over = |one: &mut AttemptTime| {
                !connections.get(one.key).is_some_and(|connection| waits(connection, one.attempt))
            };
            while queue.pop_front_if(is_over).is_some() {}
            queue.front().map(|one| one.at)
        };
        let connect = first(&mut self.shared.connects, Connection::is_connecting);
        let ack_delay = self.shared.ack_delay();
        let delayed = first(&mut self.shared.delayed_acks, Connection::is_unanswered);
        let delayed = delayed.map(|since| since + ack_delay);
        let probe = (!self.connections.is_empty()).then_some(self.probe);
        let due = [connect, delayed, self.retry, probe].into_iter().flatten().min()?;
        let wait = due.saturating_duration_since(self.shared.now);
        // epoll_wait rounds up to milliseconds, so it does not return just before.
        Some(Timespec::try_from(wait).unwrap_or(nothing))
    }

    fn event(&mut self, token: u64, flags: EventFlags) {
        let (key, which) = from_token(token);
        if let Some(connection) = self.connections.get_mut(key).filter(|c| !c.is_over()) {
            let step = connection.event(which, flags, &mut self.shared);
            self.take(key, step);
        }
    }

    fn take(&mut self, key: usize, step: Step) {
        match step {
            Step::Waits => {}
            Step::Fresh => self.fresh.push(key),
            Step::HasMore => self.ready.push(key),
            Step::Starved => {
                self.starved.push(key);
                self.retry.get_or_insert(self.shared.now + ROOM_RETRY);
            }
            Step::Over => self.over.push(key),
        }
    }

    fn go_on(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key).filter(|c| !c.is_over()) {
            let step = connection.go_on(&mut self.shared);
            self.take(key, step);
        }
    }

    /// Accepts about as many clients as are likely to wait; the rest at the next turn.
    fn accept(&mut self, key: usize) {
        let Some(listener) = self.listeners.get(key) else { return };
        let (socket, cell) = (listener.socket.clone(), listener.cell.clone());
        let batch = listener.batch;
        for accepted in 0..batch {
            match self.accept_one(&socket, &cell) {
                Accepted::Begun => {}
                Accepted::NoneLeft => {
                    self.listeners[key].batch = accepted.max(1);
                    return;
                }
                Accepted::NoRoom => return self.pause(key),
            }
        }
        self.listeners[key].batch = (batch * 2).min(MAX_ACCEPTS);
    }

    fn accept_one(&mut self, socket: &TcpListener, cell: &Arc<FrontendCell>) -> Accepted {
        // Room comes first. Without any, the client waits here with one descriptor, and without
        // that in the kernel's queue.
        let room = self.shared.room.connection();
        let waits = if room.is_none() { self.shared.room.waiting_client() } else { None };
        if room.is_none() && waits.is_none() {
            return Accepted::NoRoom;
        }
        let (client, addr) =
            match acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((client, addr)) => (client, addr),
                Err(Errno::AGAIN) => return Accepted::NoneLeft,
                Err(error) if is_shortage(error) => return Accepted::NoRoom,
                // The client is gone already, or the network broke: the next one is unaffected.
                Err(error) => {
                    tracing::debug!(%error, "accept");
                    return Accepted::Begun;
                }
            };
        // A TCP client has an address.
        let Some(addr) = addr.and_then(|addr| SocketAddr::try_from(addr).ok()) else {
            return Accepted::Begun;
        };
        let Ok(client_permit) = self.shared.room.connection_of(addr.ip()) else {
            count(&cell.state.load().meter.over_share);
            let _ = set_socket_linger(&client, Some(Duration::ZERO));
            return Accepted::Begun;
        };
        let cell = cell.clone();
        if let Some(connection) = room {
            let permits = ConnectionPermits { connection, client: client_permit };
            self.begin((client, addr), cell, permits);
        } else if let Some(permit) = waits {
            let waiting =
                WaitingClient { socket: client, addr, cell, client_permit, _permit: permit };
            self.wait_for_room(waiting);
        }
        Accepted::Begun
    }

    fn begin(
        &mut self,
        client: (OwnedFd, SocketAddr),
        cell: Arc<FrontendCell>,
        permits: ConnectionPermits,
    ) {
        self.clients.add(client_of(client.1.ip()));
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        let (connection, step) = Connection::begin(key, client, cell, permits, &mut self.shared);
        entry.insert(connection);
        self.take(key, step);
    }

    /// There is no room for this client: it waits, and a client that has more gives up a
    /// connection.
    fn wait_for_room(&mut self, waiting: WaitingClient) {
        let newcomer = waiting.client();
        let max = self.shared.room.max_waiting_clients();
        if let Some(refused) = self.waiting.push(waiting, max) {
            count(&refused.cell.state.load().meter.over_share);
            refused.reset();
        }
        self.retry.get_or_insert(self.shared.now + ROOM_RETRY);
        self.make_room(newcomer);
        let now = self.shared.now;
        if self.warned.is_none_or(|last| now - last >= ROOM_WARNING_INTERVAL) {
            self.warned = Some(now);
            let connections = self.shared.room.open_connections();
            tracing::warn!(
                connections,
                "no room for another TCP connection: clients wait; raise --max-connections or \
                 the limit of file descriptors (ulimit -n)"
            );
        }
    }

    /// Ends a connection of a client that has at least two more than the newcomer.
    fn make_room(&mut self, newcomer: IpAddr) {
        let (length, now) = (self.connections.capacity(), self.shared.now);
        let keys = (self.compared..length).chain(0..self.compared.min(length)).take(MAX_COMPARED);
        let compared = keys.filter_map(|key| {
            let connection = self.connections.get(key).filter(|c| !c.is_over())?;
            Some((key, connection.client_key(), connection.idle(now)))
        });
        let found = self.clients.makes_room(newcomer, compared);
        self.compared =
            if self.compared + MAX_COMPARED < length { self.compared + MAX_COMPARED } else { 0 };
        if let Some(key) = found {
            let step = self.connections[key].make_room(&mut self.shared);
            self.take(key, step);
        }
    }

    /// Begins connections for waiting clients as far as there is room.
    fn serve_waiting(&mut self) {
        while !self.waiting.is_empty() {
            let Some(connection) = self.shared.room.connection() else { return };
            let Some(waiting) = self.waiting.pop(&self.clients) else { return };
            let WaitingClient { socket, addr, cell, client_permit, _permit } = waiting;
            let permits = ConnectionPermits { connection, client: client_permit };
            self.begin((socket, addr), cell, permits);
        }
    }

    /// Stops watching a listener until there may be room.
    fn pause(&mut self, key: usize) {
        let _ = epoll::delete(&self.shared.epoll, &*self.listeners[key].socket);
        self.paused.push(key);
        self.retry.get_or_insert(self.shared.now + ROOM_RETRY);
    }

    fn keep_time(&mut self) {
        let now = self.shared.now;
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.try_again();
        }
        while let Some(connect) = self.shared.connects.pop_front_if(|one| one.at <= now) {
            if let Some(connection) = self.connections.get_mut(connect.key)
                && !connection.is_over()
                && connection.is_connecting(connect.attempt)
            {
                let step = connection.connect_timed_out(&mut self.shared);
                self.take(connect.key, step);
            }
        }
        let ack_delay = self.shared.ack_delay();
        while let Some(delayed) =
            self.shared.delayed_acks.pop_front_if(|one| one.at + ack_delay <= now)
        {
            let connection = self.connections.get_mut(delayed.key);
            if let Some(connection) = connection.filter(|c| c.is_unanswered(delayed.attempt)) {
                connection.acknowledge(&mut self.shared);
            }
        }
        if self.probe <= now {
            self.probe = now + probe_interval(self.idle_timeout);
            self.probe_all();
        }
    }

    /// Serves the waiting clients that there is room for, forgets those that are gone, and makes
    /// room for the next.
    fn look_after_waiting(&mut self) {
        self.serve_waiting();
        let now = self.shared.now;
        if self.looked_after + ROOM_RETRY <= now {
            self.looked_after = now;
            self.waiting.forget_gone();
            // Not while a connection that just ended is about to make room.
            if self.over.is_empty()
                && let Some(newcomer) = self.waiting.next(&self.clients)
            {
                self.make_room(newcomer);
            }
        }
        if !self.waiting.is_empty() {
            self.retry = Some(now + ROOM_RETRY);
        }
    }

    /// Looks for connections whose endpoint vanished, and ends those that are idle for too long.
    fn probe_all(&mut self) {
        for (key, connection) in &mut self.connections {
            if connection.is_over() {
                continue;
            }
            connection.probe();
            if connection.end_if_idle(self.idle_timeout, &mut self.shared) == Step::Over {
                self.over.push(key);
            }
        }
    }

    /// Tries what there was no room for.
    fn try_again(&mut self) {
        std::mem::take(&mut self.starved).into_iter().for_each(|key| self.go_on(key));
        if !self.waiting.is_empty() {
            self.look_after_waiting();
        }
        if self.paused.is_empty() {
            return;
        }
        let room = &self.shared.room;
        let has_room = room.connection().is_some() || room.waiting_client().is_some();
        for key in std::mem::take(&mut self.paused) {
            // One that cannot be watched now is tried again with the others.
            if !has_room || self.watch(key).is_err() {
                self.paused.push(key);
                self.retry = Some(self.shared.now + ROOM_RETRY);
            }
        }
    }

    /// Watches a listener: by level, so that clients left over from one turn are not forgotten, and
    /// exclusively, so that only one of the threads that share it wakes.
    fn watch(&mut self, key: usize) -> Result<(), Errno> {
        let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
        let data = EventData::new_u64(LISTENER | key as u64);
        epoll::add(&self.shared.epoll, &*self.listeners[key].socket, data, flags)
    }

    /// Carries out what control has commanded; false when control has gone.
    fn read_commands(&mut self) -> bool {
        let _ = rustix::io::read(&self.inbox, &mut [0; 8]);
        loop {
            let PendingCommand { command, done } = match self.commands.try_recv() {
                Ok(pending) => pending,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            };
            match command {
                Command::OpenTcp(opened) => opened.into_iter().for_each(|one| self.open(one)),
                Command::Close(bound) => bound.iter().for_each(|bound| self.close(bound)),
                Command::Share(bound, sockets) => {
                    for (bound, key) in self.listeners_at(&bound) {
                        let socket = self.listeners[key].socket.clone();
                        let _ = sockets.send((bound, SharedSocket::Tcp(socket)));
                    }
                }
                Command::Release(bound) => {
                    let keys = self.listeners_at(&bound);
                    keys.into_iter().for_each(|(_, key)| self.forget_listener(key));
                    bound.iter().for_each(|bound| drop(self.by_bound.remove(bound)));
                }
                Command::End => self.end_removed(),
                Command::Drain(kept) => {
                    let bound = self.by_bound.keys().filter(|bound| !kept.contains(*bound));
                    let bound: Vec<Bound> = bound.copied().collect();
                    for (_, key) in self.listeners_at(&bound) {
                        sockets::refuse_new(&self.listeners[key].socket);
                    }
                    bound.iter().for_each(|bound| self.close(bound));
                }
                Command::OpenUdp(_) | Command::Refresh(_) => {}
                #[cfg(test)]
                Command::Panic => panic!("for a test"),
            }
            let _ = done.send(());
        }
    }

    fn open(&mut self, opened: Opened<Arc<TcpListener>>) {
        let Opened { bound, cell, socket } = opened;
        let listener = Listener { socket, cell, batch: 1 };
        let key = self.listeners.insert(listener);
        if let Err(error) = self.watch(key) {
            // Only epoll's own limit can be hit here (fs.epoll.max_user_watches).
            tracing::error!(%error, address = %bound.1, "cannot watch a listener");
            self.listeners.remove(key);
            return;
        }
        self.by_bound.entry(bound).or_default().push(key);
    }

    /// Closes the listeners at an address.
    fn close(&mut self, bound: &Bound) {
        for key in self.by_bound.remove(bound).unwrap_or_default() {
            self.accept_queued(key);
            self.forget_listener(key);
        }
    }

    /// The listeners at these addresses.
    fn listeners_at(&self, bound: &[Bound]) -> Vec<(Bound, usize)> {
        let at = |bound: &Bound| {
            let keys = self.by_bound.get(bound).into_iter().flatten();
            keys.map(|key| (*bound, *key)).collect::<SmallVec<[_; 1]>>()
        };
        bound.iter().flat_map(at).collect()
    }

    /// Accepts the clients that the kernel has queued, which closing would reset.
    fn accept_queued(&mut self, key: usize) {
        let socket = self.listeners[key].socket.clone();
        // At most the backlog was queued. New clients that keep coming must not hold up the rest.
        for _ in 0..BACKLOG {
            let cell = self.listeners[key].cell.clone();
            match self.accept_one(&socket, &cell) {
                Accepted::Begun => {}
                Accepted::NoneLeft | Accepted::NoRoom => break,
            }
        }
    }

    fn forget_listener(&mut self, key: usize) {
        self.paused.retain(|paused| *paused != key);
        let listener = self.listeners.remove(key);
        // Another thread or process may share the socket, and only a closed socket leaves epoll by
        // itself.
        let _ = epoll::delete(&self.shared.epoll, &*listener.socket);
    }

    /// Ends the connections to endpoints whose drain time-out is over.
    fn end_removed(&mut self) {
        for (key, connection) in &mut self.connections {
            if !connection.is_over() && connection.end_if_removed(&mut self.shared) == Step::Over {
                self.over.push(key);
            }
        }
    }

    /// Closes the connections that ended in this round, and gives their room to waiting clients.
    fn forget_over(&mut self) {
        while !self.over.is_empty() {
            if self.over.iter().any(|key| self.connections[*key].is_queued()) {
                // Its key may be that of another connection soon.
                let live = |key: &usize| self.connections.get(*key).is_some_and(|c| !c.is_over());
                self.ready.retain(live);
                self.starved.retain(live);
            }
            for key in self.over.drain(..) {
                let connection = self.connections.remove(key);
                self.clients.remove(connection.client_key());
            }
            // A waiting client may be over at once.
            self.serve_waiting();
            if self.retry.is_some() {
                self.retry = Some(self.shared.now);
            }
        }
    }
}

/// How often all connections are looked at.
fn probe_interval(idle_timeout: Duration) -> Duration {
    PROBE_INTERVAL.min(idle_timeout / IDLE_LOOKS)
}

enum Accepted {
    /// Accepted, or given up by its client; there may be more.
    Begun,
    NoneLeft,
    NoRoom,
}
