//! The TCP half of a data thread: one epoll loop that accepts on its listeners and serves its
//! connections.
//!
//! A loop of its own, and not a task a connection on a runtime: what a proxied connection costs
//! is system calls, and only here does each of them stand in the open. Nothing in it waits but
//! the loop itself.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{Event, EventData, EventFlags};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use slab::Slab;

use super::commands::{Command, Opened, PendingCommand, ThreadContext};
use super::connection::{AttemptTime, Connection, Shared, Step, from_token, is_shortage};
use super::frontend::FrontendCell;
use super::relay::Tools;
use super::splice::Pipes;
use crate::own_addresses::Bound;
use crate::sockets;

/// How long a listener waits for room when there is none: short beside the second within which
/// room must be used again, long enough to cost nothing.
const ROOM_RETRY: Duration = Duration::from_millis(100);
/// Events taken from epoll at once.
const EVENTS: usize = 256;
/// Clients accepted on one listener before the connections get a turn.
const MAX_ACCEPTS: usize = 64;
/// How often connections are looked at that may have lost their endpoint; the first look of a
/// connection turns keepalive on.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// The token of the inbox; listeners have this bit and their key, connections do not have it.
const LISTENER: u64 = 1 << 63;
const INBOX: u64 = u64::MAX;

#[derive(Debug)]
struct Listener {
    bound: Bound,
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
    by_bound: HashMap<Bound, usize>,
    connections: Slab<Connection>,
    /// Connections that had more than one turn's work.
    ready: Vec<usize>,
    /// Connections accepted at the last turn.
    fresh: Vec<usize>,
    /// Listeners that are not watched, because there was no room for a connection.
    paused: Vec<usize>,
    /// Connections without a descriptor for their endpoint.
    starved: Vec<usize>,
    /// Connections that ended in this round. Their keys are not given away before its end, lest
    /// an event meant for one reaches another.
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
            ready: Vec::new(),
            fresh: Vec::new(),
            paused: Vec::new(),
            starved: Vec::new(),
            over: Vec::new(),
            retry: None,
            probe: now + PROBE_INTERVAL,
        })
    }

    /// Serves until control lets go, then resets what is left.
    pub(super) fn run(mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            let wait = self.wait();
            let waited =
                epoll::wait(&self.shared.epoll, spare_capacity(&mut events), wait.as_ref());
            if let Err(error) = waited
                && error != Errno::INTR
            {
                // Only a bug could make it fail, and going on would turn in circles.
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
    }

    /// How long nothing can be due.
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
        let lazy = first(&mut self.shared.delayed_acks, Connection::is_unanswered);
        let lazy = lazy.map(|since| since + ack_delay);
        let probe = (!self.connections.is_empty()).then_some(self.probe);
        let due = [connect, lazy, self.retry, probe].into_iter().flatten().min()?;
        let wait = due.saturating_duration_since(self.shared.now);
        // Rounded up by epoll_wait's milliseconds, so that it does not return just before.
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

    /// Accepts about as many clients as are likely to wait; more at the next turn.
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
        // Room comes first, so that what does not fit waits in the kernel's queue.
        let Some(permit) = self.shared.room.connection() else { return Accepted::NoRoom };
        match acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((client, addr)) => {
                // A TCP client has an address.
                let Some(addr) = addr.and_then(|addr| SocketAddr::try_from(addr).ok()) else {
                    return Accepted::Begun;
                };
                let entry = self.connections.vacant_entry();
                let key = entry.key();
                let (connection, step) =
                    Connection::begin(key, (client, addr), cell.clone(), permit, &mut self.shared);
                entry.insert(connection);
                self.take(key, step);
                Accepted::Begun
            }
            Err(Errno::AGAIN) => Accepted::NoneLeft,
            Err(error) if is_shortage(error) => Accepted::NoRoom,
            // The client is gone already, or the network broke: the next one is unaffected.
            Err(error) => {
                tracing::debug!(%error, "accept");
                Accepted::Begun
            }
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
        while let Some(lazy) =
            self.shared.delayed_acks.pop_front_if(|one| one.at + ack_delay <= now)
        {
            let connection = self.connections.get_mut(lazy.key);
            if let Some(connection) = connection.filter(|c| c.is_unanswered(lazy.attempt)) {
                connection.acknowledge(&mut self.shared);
            }
        }
        if self.probe <= now {
            self.probe = now + PROBE_INTERVAL;
            self.connections.iter_mut().for_each(|(_, connection)| connection.probe());
        }
    }

    /// Tries what there was no room for.
    fn try_again(&mut self) {
        std::mem::take(&mut self.starved).into_iter().for_each(|key| self.go_on(key));
        if self.paused.is_empty() {
            return;
        }
        let has_room = self.shared.room.connection().is_some();
        for key in std::mem::take(&mut self.paused) {
            // One that cannot be watched now is tried again with the others.
            if !has_room || self.watch(key).is_err() {
                self.paused.push(key);
                self.retry = Some(self.shared.now + ROOM_RETRY);
            }
        }
    }

    /// Watches a listener: for its level, so that clients whom one turn left are not forgotten,
    /// and in one thread only of those that share it.
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
                Command::End => self.end_removed(),
                Command::Drain => {
                    let bound: Vec<Bound> = self.by_bound.keys().copied().collect();
                    let listeners = self.listeners.iter();
                    listeners.for_each(|(_, listener)| sockets::refuse_new(&listener.socket));
                    bound.iter().for_each(|bound| self.close(bound));
                }
                Command::OpenUdp(_) | Command::Refresh(_) => {}
            }
            let _ = done.send(());
        }
    }

    fn open(&mut self, opened: Opened<Arc<TcpListener>>) {
        let Opened { bound, cell, socket } = opened;
        let listener = Listener { bound, socket, cell, batch: 1 };
        let key = self.listeners.insert(listener);
        if let Err(error) = self.watch(key) {
            // Only epoll's own limit can be hit here (fs.epoll.max_user_watches).
            tracing::error!(%error, address = %bound.1, "cannot watch a listener");
            self.listeners.remove(key);
            return;
        }
        self.by_bound.insert(bound, key);
    }

    /// Closes a listener, after it has accepted what the kernel has queued, which closing it
    /// would reset.
    fn close(&mut self, bound: &Bound) {
        let Some(key) = self.by_bound.remove(bound) else { return };
        let socket = self.listeners[key].socket.clone();
        // What was queued before is not more than the backlog; clients that come without a pause
        // must not hold up the rest.
        for _ in 0..sockets::BACKLOG {
            let cell = self.listeners[key].cell.clone();
            match self.accept_one(&socket, &cell) {
                Accepted::Begun => {}
                Accepted::NoneLeft | Accepted::NoRoom => break,
            }
        }
        self.paused.retain(|paused| *paused != key);
        let listener = self.listeners.remove(key);
        debug_assert_eq!(listener.bound, *bound, "the map names the listener of the address");
        // Another thread may hold the socket too, and only a closed socket leaves by itself.
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

    /// Closes the connections that ended in this round.
    fn forget_over(&mut self) {
        if self.over.is_empty() {
            return;
        }
        if self.over.iter().any(|key| self.connections[*key].is_queued()) {
            // Its key may be another's by then.
            let live = |key: &usize| self.connections.get(*key).is_some_and(|c| !c.is_over());
            self.ready.retain(live);
        }
        for key in self.over.drain(..) {
            self.connections.remove(key);
        }
        // There is room now.
        if self.retry.is_some() {
            self.retry = Some(self.shared.now);
        }
    }
}

enum Accepted {
    /// Or given up by its client; there may be more.
    Begun,
    NoneLeft,
    NoRoom,
}
