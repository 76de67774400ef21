//! The userspace mode: makes the listeners and endpoint sets of the data threads equal a
//! snapshot.
//!
//! Snapshot → data path. This is the control side: it opens sockets, keeps what could not be
//! bound and tries that again, and ends what a removed endpoint still has after the drain
//! time-out. Only the data [`threads`] see connections and datagrams.
//!
//! Left out: any decision about which endpoints serve a frontend.

mod client_shares;
mod commands;
mod connection;
mod downstream;
mod endpoint;
mod frontend;
mod relay;
mod rules;
mod session_shares;
mod source_addresses;
mod splice;
mod tcp;
mod threads;
mod udp;
mod udp_thread;
mod unanswered;
mod waiting;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use balance::{AffinityTables, Rotation};
use daemon::{Failure, Supervisor};
use ipnet::IpNet;
use model::{ObjectName, Protocol};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use self::commands::{Command, Opened, SharedSocket, ThreadContext};
use self::endpoint::Endpoint;
use self::frontend::{FrontendCell, FrontendState};
use self::rules::{InCluster, Rules, StickyClients};
use self::threads::DataThreads;
use super::{Datapath, Failures, Report};
use crate::cluster_clients::ClusterClients;
use crate::handover::{self, MAX_SOCKETS, Offer, OfferError, Successor};
use crate::metrics::{ProxyMetrics, count};
use crate::node_ips::addresses_of_node;
use crate::own_addresses::{AddressSet, Bound, OwnAddresses};
use crate::resolver::{Addresses, Family, Frontend, FrontendAddress, Place};
use crate::room::{Permit, Room};
use crate::snapshot::Snapshot;
use crate::sockets::{self, BindOptions, why_not_bound};

/// Sockets opened in one batch: then the data threads get theirs, and other tasks of control run.
const OPEN_BATCH: usize = 256;
/// An address that is not this host's is tried again after this, doubled each time up to the
/// maximum: soon enough for a port that changes hands, rare enough for 10,000 ClusterIPs that
/// are not addresses of this host.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(8);
/// An address that another process holds is tried again after this: in a rolling upgrade the new
/// process serves it soon after the old one has closed it.
const TAKEN_RETRY: Duration = Duration::from_millis(100);
/// So many of them are tried at a time. When one has become free, all are tried.
const TAKEN_PROBES: usize = 64;
/// Frontends that one round of opening warns of by name: a feed full of ClusterIPs that are not
/// addresses of this host must not drown the log.
const MAX_WARNINGS: usize = 20;
/// How long a process that drains may take to hand its sockets over; it serves meanwhile. The drain
/// time-out is the limit if it is between these two.
const MIN_HANDOVER_TIMEOUT: Duration = Duration::from_secs(2);
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a drain checks whether connections are left.
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// What the operator chose.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) workers: usize,
    /// Where NodePorts listen: see [`crate::node_ips::node_ips`].
    pub(crate) node_ips: Vec<IpAddr>,
    /// Whose addresses are this host's by a route.
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Which clients are within the cluster.
    pub(crate) cluster_clients: Arc<ClusterClients>,
    pub(crate) drain_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// Of TCP connections.
    pub(crate) idle_timeout: Duration,
    pub(crate) udp_idle_timeout: Duration,
    /// Of one service port with session affinity.
    pub(crate) max_affinity_clients: usize,
}

/// A service port: Service, port name and protocol.
type PortKey = (ObjectName, Arc<str>, Protocol);

#[derive(Debug)]
pub(crate) struct Userspace {
    settings: Settings,
    metrics: ProxyMetrics,
    room: Arc<Room>,
    workers: Vec<DataThreads>,
    /// The data thread that gets the next UDP address with a single socket, when there is no room
    /// for one socket for each thread.
    next_worker: usize,
    /// Boxed because a table has up to twice as many places as members.
    hosted: HashMap<FrontendAddress, Box<HostedFrontend>>,
    bound: AddressSet,
    /// The same set, as the data threads read it.
    own: Arc<OwnAddresses>,
    retries: BTreeSet<(Instant, FrontendAddress)>,
    /// Ordered by time, because the drain time-out is the same for all.
    endings: VecDeque<(Instant, FrontendAddress, SocketAddr)>,
    failures: Failures,
    affinities: AffinityTables<PortKey>,
    /// Offered in the handover to a process that may have the sockets and did not answer. Both must
    /// listen: that process may hang, or serve.
    unanswered: BTreeSet<Bound>,
}

/// A frontend that serves, or whose last connections drain.
#[derive(Debug, Default)]
struct HostedFrontend {
    cell: Arc<FrontendCell>,
    service: Option<ObjectName>,
    /// Endpoints that no longer serve and may still have connections, in the order of their
    /// addresses. Those that serve are in the state of the cell: a second list of a hundred
    /// thousand endpoints would take megabytes.
    former: Vec<TrackedEndpoint>,
    listening: Vec<(SocketAddr, Permit)>,
    /// Boxed because few frontends have one.
    retry: Option<Box<Retry>>,
}

#[derive(Debug)]
struct TrackedEndpoint {
    endpoint: Arc<Endpoint>,
    phase: EndpointPhase,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum EndpointPhase {
    /// It is in the rotation.
    Serving,
    /// It gets no new connections, but is still listed: established ones may stay.
    Kept,
    /// It is gone from the Service: its connections end at this time.
    Ends(Instant),
}

/// How the endpoints of a frontend changed.
#[derive(Debug, Default)]
struct EndpointChanges {
    /// Those that serve, in the order of their addresses.
    members: Vec<Arc<Endpoint>>,
    /// Those that no longer serve. They are marked so after the new rotation is in place: a
    /// connection that moves on from one of them must not take a turn of the old rotation.
    stopped: Vec<Arc<Endpoint>>,
    /// Those whose drain time-out begins.
    leaving: Vec<SocketAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Instant,
    delay: Duration,
    /// Another process has the address: it may be about to end, as in a rolling update.
    taken: bool,
}

/// Why an address is not listened on.
#[derive(Debug)]
struct NotBound {
    reason: String,
    taken: bool,
}

impl From<String> for NotBound {
    fn from(reason: String) -> NotBound {
        NotBound { reason, taken: false }
    }
}

/// Sockets for one data thread.
#[derive(Debug, Default)]
struct NewSockets {
    tcp: Vec<Opened<Arc<TcpListener>>>,
    udp: Vec<Opened<UdpSocket>>,
}

impl NewSockets {
    fn send(self, worker: &DataThreads) -> impl Iterator<Item = oneshot::Receiver<()>> {
        let tcp = (!self.tcp.is_empty()).then(|| worker.send(Command::OpenTcp(self.tcp)));
        let udp = (!self.udp.is_empty()).then(|| worker.send(Command::OpenUdp(self.udp)));
        tcp.into_iter().chain(udp).flatten()
    }
}

/// What a change means for the listeners.
#[derive(Debug, Default)]
struct ListenerChanges {
    close: Vec<Bound>,
    refresh: Vec<Bound>,
    open: Vec<FrontendAddress>,
}

impl Userspace {
    /// # Errors
    ///
    /// When the data threads cannot be started.
    pub(crate) fn start(
        settings: Settings,
        (room, own): (Arc<Room>, Arc<OwnAddresses>),
        metrics: ProxyMetrics,
        supervisor: &Supervisor,
    ) -> Result<Userspace, Failure> {
        let context = ThreadContext {
            own: own.clone(),
            room: room.clone(),
            connect_timeout: settings.connect_timeout,
            idle_timeout: settings.idle_timeout,
            udp_idle_timeout: settings.udp_idle_timeout,
        };
        let start = |number| DataThreads::start(number, &context, supervisor);
        let workers = (0..settings.workers).map(start).collect::<Result<Vec<_>, _>>()?;
        Ok(Userspace {
            settings,
            metrics,
            room,
            workers,
            next_worker: 0,
            hosted: HashMap::new(),
            bound: AddressSet::default(),
            own,
            retries: BTreeSet::new(),
            endings: VecDeque::new(),
            failures: Failures::new(),
            affinities: AffinityTables::default(),
            unanswered: BTreeSet::new(),
        })
    }

    /// Why nobody is served although there are frontends with endpoints, if it is so. Not while
    /// another process has one of them: that may wait for this one to be ready before it ends.
    fn serves_nothing(&self) -> Option<String> {
        let (address, reason) = self.failures.get_min().filter(|_| self.bound.is_empty())?;
        let retry = |address| self.hosted.get(address).and_then(|hosted| hosted.retry.as_ref());
        if self.failures.keys().filter_map(retry).any(|retry| retry.taken) {
            return None;
        }
        let service = self.hosted.get(address)?.service.as_ref()?;
        let count = self.failures.len();
        Some(format!(
            "none of {count} frontends could be opened; {address} of Service {service}: {reason}"
        ))
    }

    /// Gives the data threads the frontend's endpoints, and notes the changes of its listeners.
    fn adopt(
        &mut self,
        address: FrontendAddress,
        frontend: Option<&Frontend>,
        ends: Instant,
        work: &mut ListenerChanges,
    ) {
        if frontend.is_none() && !self.hosted.contains_key(&address) {
            return;
        }
        let hosted = self.hosted.entry(address).or_default();
        hosted.service = frontend.map(|f| f.service.clone());
        let addrs = frontend.map(Frontend::all_endpoints).unwrap_or_default();
        let kept = frontend.map(|f| f.kept.clone()).unwrap_or_default();
        let EndpointChanges { members, stopped, leaving } =
            hosted.replace_endpoints(&addrs, &kept, ends);
        let bound: Vec<Bound> =
            hosted.listening.iter().map(|(addr, _)| (address.protocol, *addr)).collect();
        let cell = hosted.cell.clone();
        let before = cell.state.load();
        let serving = self.state_of(frontend, members, &before);
        let refresh = address.protocol == Protocol::Udp
            && (!stopped.is_empty() || loses_clients(&before, &serving));
        cell.state.store(Arc::new(serving));
        stopped.iter().for_each(|endpoint| endpoint.set_serving(false));
        if addrs.is_empty() {
            work.close.extend(bound);
            self.stop_listening(address);
        } else {
            if refresh {
                work.refresh.extend(bound);
            }
            work.open.push(address);
        }
        self.endings.extend(leaving.into_iter().map(|endpoint| (ends, address, endpoint)));
        self.forget_if_over(address);
    }

    /// Forgets the listeners of a frontend that has no endpoint, and what could not be bound.
    fn stop_listening(&mut self, address: FrontendAddress) {
        let Some(hosted) = self.hosted.get_mut(&address) else { return };
        hosted.listening.clear();
        if let Some(retry) = hosted.retry.take() {
            self.retries.remove(&(retry.at, address));
        }
        self.failures.remove(&address);
    }

    /// The state of a frontend for the data threads, when these endpoints serve it.
    fn state_of(
        &mut self,
        frontend: Option<&Frontend>,
        members: Vec<Arc<Endpoint>>,
        before: &FrontendState,
    ) -> FrontendState {
        let Some(frontend) = frontend else {
            let rotation = before.rotation.succeed(&members);
            return FrontendState { rotation, ..FrontendState::default() };
        };
        let affinity = frontend.affinity.map(|timeout| {
            let protocol = frontend.address.protocol;
            let key = (frontend.service.clone(), frontend.port_name.clone(), protocol);
            let (most, now) = (self.settings.max_affinity_clients, Instant::now().into_std());
            (self.affinities.table(key, timeout, most, now), timeout)
        });
        let among = |chosen: &Addresses| -> Box<[Arc<Endpoint>]> {
            let is_chosen = |e: &&Arc<Endpoint>| chosen.contains(e.addr());
            members.iter().filter(is_chosen).cloned().collect()
        };
        let in_cluster = frontend.in_cluster.as_ref().map(|choice| {
            let endpoints = among(&choice.endpoints);
            let rotation = match before.in_cluster() {
                Some(before) => before.rotation.succeed(&endpoints),
                None => Arc::new(Rotation::new(endpoints.to_vec())),
            };
            InCluster { clients: self.settings.cluster_clients.clone(), rotation, endpoints }
        });
        let outside = match in_cluster {
            Some(_) => among(&frontend.endpoints),
            None => members.into(),
        };
        let rotation = before.rotation.succeed(&outside);
        let sticky = affinity.map(|(affinity, timeout)| {
            debug_assert!(outside.is_sorted_by_key(|endpoint| endpoint.addr()));
            StickyClients { affinity, timeout, endpoints: outside }
        });
        FrontendState {
            rotation,
            meter: self.metrics.meters.of(&frontend.service),
            rules: Rules { sources: frontend.sources.clone(), sticky, in_cluster }.boxed(),
            proxy_protocol: frontend.proxy_protocol,
        }
    }

    /// Ends the drain of an endpoint. Returns whether the data threads have connections to end.
    fn end(&mut self, at: Instant, address: FrontendAddress, endpoint: SocketAddr) -> bool {
        let Some(hosted) = self.hosted.get_mut(&address) else { return false };
        // Meanwhile it may have come back, or come back and left again.
        let mut ended = false;
        if let Ok(place) = hosted.former.binary_search_by_key(&endpoint, TrackedEndpoint::addr)
            && hosted.former[place].phase == EndpointPhase::Ends(at)
        {
            hosted.former.remove(place).endpoint.end();
            ended = address.protocol == Protocol::Tcp;
        }
        self.forget_if_over(address);
        ended
    }

    /// Forgets a frontend that is gone once none of its endpoints drains.
    fn forget_if_over(&mut self, address: FrontendAddress) {
        let hosted = self.hosted.get(&address);
        if hosted.is_some_and(|hosted| hosted.service.is_none() && hosted.former.is_empty()) {
            self.hosted.remove(&address);
        }
    }

    /// The frontends that could not be bound and now may be, because `close` frees their port.
    fn waiting_for(&self, close: &[Bound]) -> Vec<FrontendAddress> {
        let freed: BTreeSet<_> = close.iter().map(|(p, addr)| (*p, addr.port())).collect();
        let frees = |a: &FrontendAddress| freed.contains(&(a.protocol, a.port.get()));
        self.retries.iter().map(|(_, address)| *address).filter(frees).collect()
    }

    /// Tries again what could not be bound and is due.
    async fn retry(&mut self, now: Instant) {
        let (mut again, mut taken) = (Vec::new(), Vec::new());
        while self.retries.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, address)) = self.retries.pop_first() else { break };
            match self.is_taken(&address) {
                true => taken.push(address),
                false => again.push(address),
            }
        }
        let later = taken.split_off(taken.len().min(TAKEN_PROBES));
        self.postpone(&later, now);
        again.extend(&taken);
        self.open(&again).await;
        if taken.iter().any(|address| !self.is_taken(address)) {
            // Another process is closing its listeners.
            let all = self.retries.iter().map(|(_, address)| *address);
            let all: Vec<_> = all.filter(|address| self.is_taken(address)).collect();
            self.open(&all).await;
        }
    }

    fn is_taken(&self, address: &FrontendAddress) -> bool {
        let retry = self.hosted.get(address).and_then(|hosted| hosted.retry.as_ref());
        retry.is_some_and(|retry| retry.taken)
    }

    /// Has addresses that another process holds wait for their turn to be tried.
    fn postpone(&mut self, addresses: &[FrontendAddress], now: Instant) {
        for (turn, addresses) in (1..).zip(addresses.chunks(TAKEN_PROBES)) {
            let at = now + TAKEN_RETRY * turn;
            for address in addresses {
                let retry = self.hosted.get_mut(address).and_then(|h| h.retry.as_mut());
                if let Some(retry) = retry {
                    retry.at = at;
                    self.retries.insert((at, *address));
                }
            }
        }
    }

    async fn close(&mut self, close: Vec<Bound>) {
        if close.is_empty() {
            return;
        }
        close.iter().for_each(|bound| self.bound.remove(*bound));
        let close: Arc<[Bound]> = close.into();
        self.send_all(|| Command::Close(close.clone())).await;
        self.own.publish(&self.bound);
    }

    /// Takes over a listener of another process if a frontend waits for its address; which one.
    fn adopt_listener(
        &mut self,
        Offer { bound, sockets }: Offer,
        opened: &mut [NewSockets],
    ) -> Option<FrontendAddress> {
        let (address, cell) = self.waits_for(bound)?;
        let permit = self.room.open_listeners_of(sockets.len())?;
        let (protocol, addr) = bound;
        match protocol {
            Protocol::Tcp => {
                let adopted = sockets.into_iter().map(|socket| sockets::adopt_tcp(socket, addr));
                let listeners = adopted.collect::<io::Result<Vec<_>>>().ok()?;
                let listeners: Vec<_> = listeners.into_iter().map(Arc::new).collect();
                // Each thread gets one or more, or threads share one.
                for turn in 0..listeners.len().max(opened.len()) {
                    let socket = listeners[turn % listeners.len()].clone();
                    let worker = turn % opened.len();
                    opened[worker].tcp.push(Opened { bound, cell: cell.clone(), socket });
                }
            }
            Protocol::Udp => {
                let adopted = sockets.into_iter().map(|socket| sockets::adopt_udp(socket, addr));
                let sockets = adopted.collect::<io::Result<Vec<_>>>().ok()?;
                self.spread_udp((bound, &cell), sockets, opened);
            }
            Protocol::Sctp => return None,
        }
        self.bound.insert(bound);
        self.hosted.get_mut(&address)?.listens_at(addr, permit);
        Some(address)
    }

    /// The frontend that would listen on this address if another process did not hold it.
    fn waits_for(&self, bound: Bound) -> Option<(FrontendAddress, Arc<FrontendCell>)> {
        let (protocol, addr) = bound;
        let port = NonZeroU16::new(addr.port())?;
        let places = [Place::Ip(addr.ip()), Place::Node(Family::of(addr.ip()))];
        let frontends = places.map(|place| FrontendAddress { place, port, protocol });
        frontends.into_iter().find_map(|address| {
            let hosted = self.hosted.get(&address).filter(|hosted| hosted.retry.is_some())?;
            let listens = self.listen_addrs(address);
            let is_wanted = listens.contains(&addr)
                || listens.iter().any(|addr| addr.ip().is_unspecified())
                    && self.addresses_of_node(address).contains(&addr);
            (is_wanted && !self.bound.has(bound)).then(|| (address, hosted.cell.clone()))
        })
    }

    /// The sockets at these addresses, which the data threads serve on. An address is left out if
    /// there is no descriptor for one of its sockets: the clients of that socket would be lost.
    async fn share(&self, bound: &Arc<[Bound]>) -> Vec<Offer> {
        let (sockets, shared) = std::sync::mpsc::channel();
        self.send_all(|| Command::Share(bound.clone(), sockets.clone())).await;
        drop(sockets);
        let mut known = BTreeSet::new();
        let copies = shared.into_iter().filter_map(|(bound, socket)| match socket {
            // Some threads may share it.
            SharedSocket::Tcp(socket) if !known.insert(socket.as_raw_fd()) => None,
            SharedSocket::Tcp(socket) => Some((bound, socket.as_fd().try_clone_to_owned())),
            SharedSocket::Udp(socket) => Some((bound, socket)),
        });
        whole_offers(copies)
    }

    /// Offers everything that is still served here.
    async fn hand_over_to(&mut self, successor: &Successor, deadline: Instant) {
        for batch in self.batches() {
            let offers = self.share(&batch).await;
            if offers.is_empty() {
                continue;
            }
            let offered: Vec<Bound> = offers.iter().map(|offer| offer.bound).collect();
            match successor.offer(&offers, deadline).await {
                Ok(taken) => {
                    let taken = offered.into_iter().zip(taken).filter(|(_, taken)| *taken);
                    self.release(taken.map(|(bound, _)| bound).collect()).await;
                }
                Err(OfferError::NotReceived(error)) => {
                    tracing::debug!(%error, "another process no longer waits for sockets");
                    return;
                }
                Err(OfferError::Unanswered(error)) => {
                    tracing::warn!(
                        %error,
                        addresses = offered.len(),
                        "another process has received listening sockets and does not respond; \
                         still accepting connections until the drain time-out"
                    );
                    self.unanswered.extend(offered);
                    return;
                }
            }
        }
    }

    /// What is listened on, in batches that fit into one offer.
    fn batches(&self) -> Vec<Arc<[Bound]>> {
        let listening = self.hosted.iter().flat_map(|(address, hosted)| {
            let bound = |addr: &SocketAddr| (address.protocol, *addr);
            hosted.listening.iter().map(move |(addr, permit)| (bound(addr), permit.descriptors()))
        });
        let (mut batches, mut sockets) = (vec![Vec::new()], 0);
        for (bound, count) in listening.filter(|(_, count)| *count <= MAX_SOCKETS) {
            if sockets + count > MAX_SOCKETS {
                batches.push(Vec::new());
                sockets = 0;
            }
            sockets += count;
            batches.last_mut().expect("there is always one").push(bound);
        }
        batches.into_iter().filter(|batch| !batch.is_empty()).map(Arc::from).collect()
    }

    /// Leaves new clients at these addresses to another process, which has the same sockets.
    async fn release(&mut self, released: Vec<Bound>) {
        let released: Arc<[Bound]> = released.into();
        self.send_all(|| Command::Release(released.clone())).await;
        let gone: BTreeSet<Bound> = released.iter().copied().collect();
        for (address, hosted) in &mut self.hosted {
            hosted.listening.retain(|(addr, _)| !gone.contains(&(address.protocol, *addr)));
        }
        self.unanswered.retain(|bound| !gone.contains(bound));
        released.iter().for_each(|bound| self.bound.remove(*bound));
        self.own.publish(&self.bound);
    }

    /// Opens what these frontends should listen on and do not.
    async fn open(&mut self, addresses: &[FrontendAddress]) {
        let mut newly_failed = 0;
        for batch in addresses.chunks(OPEN_BATCH) {
            let mut opened: Vec<NewSockets> =
                self.workers.iter().map(|_| NewSockets::default()).collect();
            for address in batch {
                let failure = self.open_frontend(*address, &mut opened);
                let is_new = self.note(*address, failure, newly_failed < MAX_WARNINGS);
                newly_failed += usize::from(is_new);
            }
            // Before the first connection can be accepted there.
            self.own.publish(&self.bound);
            let orders = self.workers.iter().zip(opened);
            all_done(orders.flat_map(|(worker, opened)| opened.send(worker))).await;
            tokio::task::yield_now().await;
        }
        if let Some(more) = newly_failed.checked_sub(MAX_WARNINGS).filter(|more| *more > 0) {
            tracing::warn!(more, "further frontends cannot be served: see /snapshot");
        }
    }

    /// Opens what the frontend should listen on and does not; why some of it cannot be.
    fn open_frontend(
        &mut self,
        address: FrontendAddress,
        opened: &mut [NewSockets],
    ) -> Option<NotBound> {
        let mut failures = Vec::new();
        for addr in self.listen_addrs(address) {
            let on_all = addr.ip().is_unspecified();
            if on_all && self.listens_by_address(address) {
                // Not on all yet: for UDP the kernel would allow that beside our own sockets, and
                // the address that another process holds would be forgotten.
                let taken = self.open_each(address, opened);
                if !taken.is_empty() {
                    failures.extend(taken);
                    continue;
                }
            }
            let Err(failure) = self.open_one(address, addr, opened) else { continue };
            if !on_all || !failure.taken {
                failures.push(failure);
                continue;
            }
            let taken = self.open_each(address, opened);
            match self.listens_by_address(address) {
                true => failures.extend(taken),
                false => failures.push(failure),
            }
        }
        let taken = failures.iter().any(|failure| failure.taken);
        let reasons: Vec<String> = failures.into_iter().map(|failure| failure.reason).collect();
        (!reasons.is_empty()).then(|| NotBound { reason: reasons.join("; "), taken })
    }

    /// Whether a NodePort that is for all addresses of the node listens on some of them only.
    fn listens_by_address(&self, address: FrontendAddress) -> bool {
        let listening = self.hosted.get(&address).map_or(&[][..], |hosted| &hosted.listening);
        !listening.is_empty() && !listening.iter().any(|(addr, _)| addr.ip().is_unspecified())
    }

    /// Listens for a NodePort on each address of the node by itself, because another process has
    /// the port on one of them; which that is.
    fn open_each(&mut self, address: FrontendAddress, opened: &mut [NewSockets]) -> Vec<NotBound> {
        let addrs = self.addresses_of_node(address);
        let mut failures = Vec::new();
        for addr in addrs {
            failures.extend(self.open_one(address, addr, opened).err());
        }
        if let Some(last) = failures.last_mut() {
            last.reason += " (the other addresses of the node are served)";
        }
        failures
    }

    /// The addresses that a NodePort on all addresses is for, each by itself.
    fn addresses_of_node(&self, address: FrontendAddress) -> Vec<SocketAddr> {
        let Place::Node(family) = address.place else { return Vec::new() };
        let host = self.settings.cluster_clients.host();
        addresses_of_node(&host, family, address.port.get())
    }

    fn open_one(
        &mut self,
        address: FrontendAddress,
        addr: SocketAddr,
        opened: &mut [NewSockets],
    ) -> Result<(), NotBound> {
        let Some(hosted) = self.hosted.get(&address) else { return Ok(()) };
        if hosted.listening.iter().any(|(open, _)| *open == addr) {
            return Ok(());
        }
        let cell = hosted.cell.clone();
        let permit = self.open_address((address.protocol, addr), &cell, opened)?;
        let hosted = self.hosted.get_mut(&address).expect("it was there just now");
        hosted.listens_at(addr, permit);
        Ok(())
    }

    fn open_address(
        &mut self,
        bound: Bound,
        cell: &Arc<FrontendCell>,
        opened: &mut [NewSockets],
    ) -> Result<Permit, NotBound> {
        let (protocol, addr) = bound;
        if self.bound.has(bound) {
            let reason = format!(
                "{addr} is already served: a ClusterIP and a NodePort have the same address"
            );
            return Err(reason.into());
        }
        let permit = self.room.listeners(self.workers.len()).ok_or_else(|| {
            let fit = self.room.listener_capacity();
            format!("no file descriptor left for a listener: {fit} fit (see ulimit -n)")
        })?;
        let count = permit.descriptors();
        let options = BindOptions {
            beside_own: self.bound.overlap(bound),
            by_route: self.settings.service_cidrs.iter().any(|cidr| cidr.contains(&addr.ip())),
            ..BindOptions::default()
        };
        let not_bound = |error: io::Error| NotBound {
            reason: why_not_bound(addr, &error),
            taken: error.kind() == io::ErrorKind::AddrInUse,
        };
        match protocol {
            Protocol::Tcp => {
                let listeners = sockets::listen_tcp(addr, count, options).map_err(not_bound)?;
                let listeners: Vec<_> = listeners.into_iter().map(Arc::new).collect();
                // Where there is one for all, all accept from it.
                for (listener, worker) in listeners.iter().cycle().zip(opened) {
                    let socket = listener.clone();
                    worker.tcp.push(Opened { bound, cell: cell.clone(), socket });
                }
            }
            Protocol::Udp => {
                let sockets = sockets::bind_udp(addr, count, options).map_err(not_bound)?;
                self.spread_udp((bound, cell), sockets, opened);
            }
            Protocol::Sctp => unreachable!("the resolver makes no frontend of an SCTP port"),
        }
        self.bound.insert(bound);
        Ok(permit)
    }

    /// Gives each data thread one of these sockets, as far as they go.
    fn spread_udp(
        &mut self,
        (bound, cell): (Bound, &Arc<FrontendCell>),
        sockets: Vec<UdpSocket>,
        opened: &mut [NewSockets],
    ) {
        for socket in sockets {
            opened[self.next_worker].udp.push(Opened { bound, cell: cell.clone(), socket });
            self.next_worker = (self.next_worker + 1) % opened.len();
        }
    }

    /// Notes why a frontend cannot be served, or that it can, and when to try again; whether
    /// this is news.
    fn note(&mut self, address: FrontendAddress, failure: Option<NotBound>, warn: bool) -> bool {
        let Some(hosted) = self.hosted.get_mut(&address) else { return false };
        if let Some(retry) = &hosted.retry {
            self.retries.remove(&(retry.at, address));
        }
        let Some(NotBound { reason, taken }) = failure else {
            hosted.retry = None;
            if self.failures.remove(&address).is_some() {
                tracing::info!(frontend = %address, "bound after earlier failures");
            }
            return false;
        };
        let service = hosted.service.as_ref().expect("only a frontend of a Service is opened");
        count(&self.metrics.meters.of(service).bind_failures);
        let before = hosted.retry.as_ref().filter(|retry| !retry.taken);
        let delay = match taken {
            true => TAKEN_RETRY,
            false => before.map_or(FIRST_RETRY, |retry| (retry.delay * 2).min(MAX_RETRY)),
        };
        let retry = Retry { at: Instant::now() + delay, delay, taken };
        hosted.retry = Some(Box::new(retry));
        self.retries.insert((retry.at, address));
        let before = self.failures.insert(address, reason.as_str().into());
        let is_new = before.as_deref() != Some(reason.as_str());
        if is_new && warn {
            tracing::warn!(%service, frontend = %address, reason, "cannot serve");
        }
        is_new
    }

    fn listen_addrs(&self, address: FrontendAddress) -> Vec<SocketAddr> {
        let at = |ip| SocketAddr::new(ip, address.port.get());
        match address.place {
            Place::Ip(ip) => vec![at(ip)],
            Place::Node(family) => {
                let ips = self.settings.node_ips.iter().copied();
                ips.filter(|ip| Family::of(*ip) == family).map(at).collect()
            }
        }
    }

    async fn send_all(&self, command: impl Fn() -> Command) {
        all_done(self.workers.iter().flat_map(|worker| worker.send(command()))).await;
    }
}

impl Datapath for Userspace {
    const MODE: &str = "userspace";

    async fn sync(&mut self, snapshot: &Snapshot, changed: &BTreeSet<FrontendAddress>) {
        let ends = Instant::now() + self.settings.drain_timeout;
        let mut work = ListenerChanges::default();
        for address in changed {
            self.adopt(*address, snapshot.frontend(address).map(|f| &**f), ends, &mut work);
        }
        work.open.extend(self.waiting_for(&work.close));
        self.close(work.close).await;
        if !work.refresh.is_empty() {
            let refresh: Arc<[Bound]> = work.refresh.into();
            self.send_all(|| Command::Refresh(refresh.clone())).await;
        }
        self.open(&work.open).await;
    }

    fn due(&self) -> Option<Instant> {
        let retry = self.retries.first().map(|(at, _)| *at);
        let ending = self.endings.front().map(|(at, ..)| *at);
        retry.into_iter().chain(ending).chain(self.affinities.due().map(Instant::from_std)).min()
    }

    async fn tend(&mut self) {
        let now = Instant::now();
        self.affinities.sweep(now.into_std());
        let mut ended = false;
        while self.endings.front().is_some_and(|(at, ..)| *at <= now) {
            let Some((at, address, endpoint)) = self.endings.pop_front() else { break };
            ended |= self.end(at, address, endpoint);
        }
        if ended {
            self.send_all(|| Command::End).await;
        }
        self.retry(now).await;
    }

    fn report(&self) -> Report {
        Report {
            failures: self.failures.clone(),
            serves_nothing: self.serves_nothing(),
            waits_for_address: self.retries.iter().any(|(_, address)| self.is_taken(address)),
        }
    }

    async fn take_over(&mut self, offers: Vec<Offer>) -> Vec<bool> {
        let mut opened: Vec<NewSockets> =
            self.workers.iter().map(|_| NewSockets::default()).collect();
        let (mut taken, mut frontends) = (Vec::new(), BTreeSet::new());
        for offer in offers {
            let frontend = self.adopt_listener(offer, &mut opened);
            taken.push(frontend.is_some());
            frontends.extend(frontend);
        }
        self.own.publish(&self.bound);
        let orders = self.workers.iter().zip(opened);
        all_done(orders.flat_map(|(worker, opened)| opened.send(worker))).await;
        // The rest of their addresses; they are no longer failures if there is none.
        self.open(&Vec::from_iter(frontends)).await;
        taken
    }

    async fn hand_over(&mut self) -> bool {
        let limit = self.settings.drain_timeout.clamp(MIN_HANDOVER_TIMEOUT, HANDOVER_TIMEOUT);
        let deadline = Instant::now() + limit;
        let before = self.room.open_listeners();
        for successor in handover::successors(deadline).await {
            if Instant::now() >= deadline {
                break;
            }
            self.hand_over_to(&successor, deadline).await;
        }
        let sockets = before - self.room.open_listeners();
        if sockets > 0 {
            tracing::info!(sockets, "another process has taken over listening sockets");
        }
        sockets > 0
    }

    async fn drain(mut self) {
        let deadline = Instant::now() + self.settings.drain_timeout;
        let kept = Arc::new(std::mem::take(&mut self.unanswered));
        let _ = timeout_at(deadline, self.send_all(|| Command::Drain(kept.clone()))).await;
        let left = || self.room.open_connections() + self.room.waiting_clients();
        while (left() > 0 || !kept.is_empty()) && Instant::now() < deadline {
            sleep(DRAIN_POLL).await;
        }
        let connections = left();
        if connections > 0 {
            tracing::warn!(
                connections,
                "drain time-out reached, resetting the remaining connections"
            );
        }
    }
}

/// Whether clients may lose their endpoint although it still serves others: other sources may
/// connect, or endpoints are no longer for clients outside the cluster.
fn loses_clients(before: &FrontendState, next: &FrontendState) -> bool {
    let stays = |endpoint| next.rotation.members().contains(endpoint);
    before.sources() != next.sources()
        || next.in_cluster().is_some() && !before.rotation.members().iter().all(stays)
}

/// Offers of the addresses of which there is a copy of every socket.
fn whole_offers(copies: impl Iterator<Item = (Bound, io::Result<OwnedFd>)>) -> Vec<Offer> {
    let mut offers: HashMap<Bound, io::Result<Vec<OwnedFd>>> = HashMap::new();
    for (bound, copy) in copies {
        let sockets = offers.entry(bound).or_insert_with(|| Ok(Vec::new()));
        match (copy, &mut *sockets) {
            (Ok(copy), Ok(sockets)) => sockets.push(copy),
            (Err(error), _) => *sockets = Err(error),
            (Ok(_), Err(_)) => {}
        }
    }
    let mut whole = Vec::new();
    for (bound, sockets) in offers {
        match sockets {
            Ok(sockets) => whole.push(Offer { bound, sockets }),
            Err(error) => {
                tracing::debug!(%error, address = %bound.1, "cannot hand over a listening socket");
            }
        }
    }
    whole
}

/// Waits until all commands have been carried out.
async fn all_done(commands: impl Iterator<Item = oneshot::Receiver<()>>) {
    // All are sent before the first is waited for.
    for done in commands.collect::<Vec<_>>() {
        let _ = done.await;
    }
}

impl TrackedEndpoint {
    fn addr(&self) -> SocketAddr {
        self.endpoint.addr()
    }
}

impl HostedFrontend {
    /// Makes `addrs`, which are ordered, the endpoints that serve; what is connected to `kept` ones
    /// may stay. One that comes back while it drains is the same endpoint again.
    fn replace_endpoints(
        &mut self,
        addrs: &[SocketAddr],
        kept: &Addresses,
        ends: Instant,
    ) -> EndpointChanges {
        let mut replaced = EndpointChanges::default();
        let mut known = self.take_endpoints();
        for known in &mut known {
            let addr = known.addr();
            if addrs.binary_search(&addr).is_ok() {
                continue;
            }
            if known.phase == EndpointPhase::Serving {
                replaced.stopped.push(known.endpoint.clone());
            }
            if kept.contains(addr) {
                known.phase = EndpointPhase::Kept;
            } else if !matches!(known.phase, EndpointPhase::Ends(_)) {
                known.phase = EndpointPhase::Ends(ends);
                replaced.leaving.push(addr);
            }
        }
        replaced.members.reserve_exact(addrs.len());
        for addr in addrs {
            let place = known.binary_search_by_key(addr, TrackedEndpoint::addr);
            let endpoint = match place {
                Ok(place) => {
                    known[place].phase = EndpointPhase::Serving;
                    known[place].endpoint.clone()
                }
                Err(_) => Arc::new(Endpoint::new(*addr)),
            };
            endpoint.set_serving(true);
            replaced.members.push(endpoint);
        }
        known.retain(|known| known.phase != EndpointPhase::Serving);
        known.shrink_to_fit();
        self.former = known;
        replaced
    }

    /// The endpoints that serve and the former ones, in the order of their addresses.
    fn take_endpoints(&mut self) -> Vec<TrackedEndpoint> {
        let state = self.cell.state.load();
        let inside = state.in_cluster().map_or(&[][..], |inside| &inside.endpoints);
        let serving = state.rotation.members().iter().chain(inside).cloned();
        let phase = EndpointPhase::Serving;
        let serving = serving.map(|endpoint| TrackedEndpoint { endpoint, phase });
        let mut known: Vec<_> = serving.chain(self.former.drain(..)).collect();
        known.sort_unstable_by_key(TrackedEndpoint::addr);
        // An endpoint may serve clients both inside and outside the cluster.
        known.dedup_by(|one, other| one.endpoint == other.endpoint);
        known
    }

    fn listens_at(&mut self, addr: SocketAddr, permit: Permit) {
        // Most frontends have one address. A list that grows by itself begins with room for four.
        self.listening.reserve_exact(1);
        self.listening.push((addr, permit));
    }
}

#[cfg(test)]
mod tests;
