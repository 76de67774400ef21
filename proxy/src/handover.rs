//! Hands listening sockets to another proxy on this host, so that no connect fails while one
//! process replaces another.
//!
//! A process that wants an address which another process holds listens on a Unix socket. The name
//! of that socket is in the abstract namespace, which belongs to the network namespace as ports do,
//! so plain processes and containers that share a network find each other in the same way. A
//! process that drains looks for such names and sends what it listens on: the sockets themselves
//! (unix(7), `SCM_RIGHTS`). Until it has the answer it serves on. Then both processes have the same
//! sockets, each with one queue of clients, and closing one copy neither refuses nor resets
//! anybody.
//!
//! An empty offer comes first: a process that does not answer it (stopped, or hung) gets nothing,
//! because clients would wait in the queue of a socket that nobody accepts from.
//!
//! Both processes must run as the same user, which is also the kernel's condition for sharing a
//! port. Nothing is shared before the drain: a port of a process that serves is reported as taken.
//!
//! One packet is one offer: a JSON list of addresses with their number of sockets, and the sockets
//! in that order. The answer is a JSON list that says which of the addresses were taken over.
//!
//! Left out: which addresses a process wants, and what it does with the sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use futures_util::future::join_all;
use model::Protocol;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect,
    listen, recvmsg, sendmsg, socket_with,
};
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::own_addresses::Bound;

/// Names of waiting processes begin with this; the number is the version of the packets.
const PREFIX: &str = "switchyard/proxy/successor/1/";
/// The sockets of one packet; the kernel allows 253 (`SCM_MAX_FD`).
pub(crate) const MAX_SOCKETS: usize = 200;
/// The bytes of one packet: an address takes about 80.
const MAX_PACKET: usize = 64 << 10;
/// Processes that a draining one offers its sockets to.
const MAX_SUCCESSORS: usize = 16;
/// Names that a draining process connects to at most, including those of other users.
const MAX_NAMES: usize = 4096;
/// How long a successor may take to answer the empty offer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a successor may take for one packet of sockets: less than the whole handover may take,
/// so that one that hangs leaves time for others.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// Predecessors that may wait for their turn to offer sockets.
const BACKLOG: i32 = 16;
/// How long a successor waits for the next packet, and either side to send one.
const PACKET_TIMEOUT: Duration = Duration::from_secs(10);
/// How long accepting pauses when the process has run out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// The flag of a socket that listens in `/proc/net/unix` (`__SO_ACCEPTCON`).
const LISTENS: u32 = 1 << 16;

/// The sockets that a process has at one address.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) bound: Bound,
    pub(crate) sockets: Vec<OwnedFd>,
}

/// Offers that wait for an answer: for each, whether its address was taken over.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) offers: Vec<Offer>,
    pub(crate) answer: oneshot::Sender<Vec<bool>>,
}

/// Why an offer was not answered.
#[derive(Debug)]
pub(crate) enum OfferError {
    /// The successor does not have the sockets: they were not sent, or it closed the connection.
    NotReceived(io::Error),
    /// It may have them.
    Unanswered(io::Error),
}

/// Receives offers while this process waits for addresses that another process holds. Dropping it
/// closes the sockets that have been received and not looked at, and declines their offers.
#[derive(Debug)]
pub(crate) struct Inbox {
    batches: mpsc::Receiver<Batch>,
    sender: mpsc::Sender<Batch>,
    /// Dropping it gives the name up, after the answer to the packet that has arrived.
    listening: Option<oneshot::Sender<()>>,
}

impl Default for Inbox {
    fn default() -> Inbox {
        let (sender, batches) = mpsc::channel(1);
        Inbox { batches, sender, listening: None }
    }
}

impl Inbox {
    /// Begins or stops to be a successor. Needs a runtime.
    pub(crate) fn wait_for_offers(&mut self, waits: bool) {
        if waits == self.listening.is_some() {
            return;
        }
        self.listening = None;
        if waits {
            match Name::new().and_then(|name| name.listen()) {
                Ok(listener) => {
                    let (stop, stopped) = oneshot::channel();
                    tokio::spawn(receive_offers(listener, self.sender.clone(), stopped));
                    self.listening = Some(stop);
                }
                // Addresses are still tried again and again.
                Err(error) => tracing::debug!(%error, "cannot wait for another proxy's sockets"),
            }
        }
    }

    /// The next offers. Cancel safe.
    pub(crate) async fn next(&mut self) -> Batch {
        match self.batches.recv().await {
            Some(batch) => batch,
            // `self` holds a sender.
            None => std::future::pending().await,
        }
    }
}

/// A process that waits for addresses.
#[derive(Debug)]
pub(crate) struct Successor(UnixStream);

/// Every other process of this user that waits for an address in this network namespace and
/// answers.
pub(crate) async fn successors(deadline: Instant) -> Vec<Successor> {
    let listed = match std::fs::read_to_string("/proc/net/unix") {
        Ok(listed) => listed,
        Err(error) => {
            tracing::debug!(%error, "cannot look for a successor");
            return Vec::new();
        }
    };
    let connected = connect_to(names_in(&listed)).filter(|successor| !successor.is_this_process());
    answering(connected.take(MAX_SUCCESSORS).collect(), deadline).await
}

/// Those of this user; there may be many names of other users before them.
fn connect_to<'a>(names: impl Iterator<Item = &'a str>) -> impl Iterator<Item = Successor> {
    names.take(MAX_NAMES).filter_map(|name| Name(name.to_owned()).connect().ok())
}

/// Those of these processes that answer an empty offer.
async fn answering(connected: Vec<Successor>, deadline: Instant) -> Vec<Successor> {
    let deadline = deadline.min(Instant::now() + PROBE_TIMEOUT);
    let probes = connected.into_iter().map(|successor| async move {
        match successor.offer(&[], deadline).await {
            Ok(_) => return Some(successor),
            Err(OfferError::NotReceived(error)) => {
                tracing::debug!(%error, "a process no longer waits for listening sockets");
            }
            Err(OfferError::Unanswered(error)) => tracing::warn!(
                %error,
                "a process that waits for listening sockets does not respond; it gets none"
            ),
        }
        None
    });
    join_all(probes).await.into_iter().flatten().collect()
}

impl Successor {
    /// Offers these sockets, at most [`MAX_SOCKETS`]; which addresses are taken over.
    ///
    /// # Errors
    ///
    /// When the successor does not answer in time or closes the connection.
    pub(crate) async fn offer(
        &self,
        offers: &[Offer],
        deadline: Instant,
    ) -> Result<Vec<bool>, OfferError> {
        let deadline = deadline.min(Instant::now() + ANSWER_TIMEOUT);
        let list = offers.iter().map(|offer| {
            let (protocol, addr) = offer.bound;
            json!({
                "protocol": protocol.to_string(),
                "address": addr.to_string(),
                "sockets": offer.sockets.len(),
            })
        });
        let packet = Value::from(list.collect::<Vec<_>>()).to_string();
        let sockets: Vec<_> = offers.iter().flat_map(|offer| &offer.sockets).collect();
        let sockets: Vec<BorrowedFd<'_>> = sockets.into_iter().map(AsFd::as_fd).collect();
        // A packet is sent whole or not at all.
        let sent = timeout_at(deadline, send(&self.0, packet.as_bytes(), &sockets)).await;
        sent.unwrap_or_else(|late| Err(late.into())).map_err(OfferError::NotReceived)?;
        let answer = match timeout_at(deadline, receive(&self.0)).await {
            Ok(Ok(Some((answer, _)))) => answer,
            // With its end of the connection, the successor has closed what it did not answer.
            Ok(Ok(None)) => {
                return Err(OfferError::NotReceived(io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(Err(error)) => return Err(OfferError::NotReceived(error)),
            Err(late) => return Err(OfferError::Unanswered(late.into())),
        };
        let answer: Vec<bool> = serde_json::from_slice(&answer)
            .map_err(|error| OfferError::Unanswered(error.into()))?;
        let is_whole = answer.len() == offers.len();
        is_whole.then_some(answer).ok_or(OfferError::Unanswered(io::ErrorKind::InvalidData.into()))
    }

    /// A process that has a name and does nothing, as one that was stopped.
    #[cfg(test)]
    pub(crate) fn silent() -> (UnixListener, Successor) {
        let name = Name::new().unwrap();
        (name.listen().unwrap(), name.connect().unwrap())
    }

    /// Whether it is this process, whose own name may still be there when it begins to drain.
    fn is_this_process(&self) -> bool {
        let peer = self.0.peer_cred().ok().and_then(|peer| peer.pid());
        peer.is_some_and(|pid| u32::try_from(pid) == Ok(std::process::id()))
    }
}

/// The name of a process that waits, without the zero byte that stands before it.
#[derive(Debug)]
struct Name(String);

impl Name {
    /// One that no other process has.
    fn new() -> io::Result<Name> {
        Ok(Name(format!("{PREFIX}{:016x}", rand::random::<u64>())))
    }

    fn socket(&self) -> io::Result<(OwnedFd, SocketAddrUnix)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((socket, SocketAddrUnix::new_abstract_name(self.0.as_bytes())?))
    }

    fn listen(&self) -> io::Result<UnixListener> {
        let (socket, addr) = self.socket()?;
        bind(&socket, &addr)?;
        listen(&socket, BACKLOG)?;
        UnixListener::from_std(socket.into())
    }

    fn connect(&self) -> io::Result<Successor> {
        let (socket, addr) = self.socket()?;
        connect(&socket, &addr)?;
        Ok(Successor(of_this_user(UnixStream::from_std(socket.into())?)?))
    }
}

/// Refuses a peer of another user.
fn of_this_user(socket: UnixStream) -> io::Result<UnixStream> {
    let is_ours = socket.peer_cred()?.uid() == rustix::process::geteuid().as_raw();
    is_ours.then_some(socket).ok_or_else(|| io::ErrorKind::PermissionDenied.into())
}

/// The names of waiting processes in the text of `/proc/net/unix` (proc(5)): the last of eight
/// columns, with `@` for the zero byte of an abstract name.
fn names_in(listed: &str) -> impl Iterator<Item = &str> {
    listed.lines().filter_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let flags = u32::from_str_radix(columns.nth(3)?, 16).ok()?;
        let name = columns.nth(3)?.strip_prefix('@')?;
        (flags & LISTENS != 0 && name.starts_with(PREFIX)).then_some(name)
    })
}

/// Serves one predecessor after the other.
async fn receive_offers(
    listener: UnixListener,
    batches: mpsc::Sender<Batch>,
    mut stopped: oneshot::Receiver<()>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => return,
        };
        let served = match accepted {
            Ok((predecessor, _)) => serve(predecessor, &batches, &mut stopped).await,
            Err(error) => {
                sleep(ACCEPT_RETRY).await;
                Err(error)
            }
        };
        match served {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => return,
            Err(error) => tracing::debug!(%error, "offers of another proxy"),
        }
    }
}

/// Answers the offers of one predecessor; `Break`: this process no longer waits.
async fn serve(
    predecessor: UnixStream,
    batches: &mpsc::Sender<Batch>,
    stopped: &mut oneshot::Receiver<()>,
) -> io::Result<ControlFlow<()>> {
    let predecessor = of_this_user(predecessor)?;
    loop {
        // Only between packets: an offer that was taken over must be answered.
        let packet = tokio::select! {
            packet = timeout(PACKET_TIMEOUT, receive(&predecessor)) => packet??,
            _ = &mut *stopped => return Ok(ControlFlow::Break(())),
        };
        let Some((packet, sockets)) = packet else { return Ok(ControlFlow::Continue(())) };
        let list: Vec<Value> = serde_json::from_slice(&packet)?;
        let taken = match parse(&list, sockets) {
            Some(offers) => ask(offers, batches).await,
            None => None,
        };
        let taken = taken.unwrap_or_else(|| vec![false; list.len()]);
        send(&predecessor, json!(taken).to_string().as_bytes(), &[]).await?;
    }
}

/// Has control decide; `None`: this process drains as well.
async fn ask(offers: Vec<Offer>, batches: &mpsc::Sender<Batch>) -> Option<Vec<bool>> {
    let (answer, answered) = oneshot::channel();
    batches.send(Batch { offers, answer }).await.ok()?;
    answered.await.ok()
}

/// The offers of a packet; `None` if one lacks a socket, because this process may not have so many
/// descriptors, or is not understood.
fn parse(list: &[Value], sockets: Vec<OwnedFd>) -> Option<Vec<Offer>> {
    let mut sockets = sockets.into_iter();
    let offers = list.iter().map(|entry| {
        let protocol = entry["protocol"].as_str()?.parse().ok().filter(|p| *p != Protocol::Sctp)?;
        let addr: SocketAddr = entry["address"].as_str()?.parse().ok()?;
        let count = usize::try_from(entry["sockets"].as_u64()?).ok()?;
        let sockets: Vec<_> = sockets.by_ref().take(count).collect();
        let is_whole = sockets.len() == count && count > 0;
        is_whole.then_some(Offer { bound: (protocol, addr), sockets })
    });
    offers.collect()
}

async fn send(socket: &UnixStream, packet: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    let sent = socket.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?)
    });
    timeout(PACKET_TIMEOUT, sent).await??;
    Ok(())
}

/// The next packet and the sockets that came with it; `None` when the peer has closed.
async fn receive(socket: &UnixStream) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut packet = vec![0; MAX_PACKET];
    let mut sockets = Vec::new();
    let length = socket
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [IoSliceMut::new(&mut packet)];
            let received = recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    sockets.extend(received);
                }
            }
            Ok(received.bytes)
        })
        .await?;
    packet.truncate(length);
    Ok((length > 0).then_some((packet, sockets)))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn listener(last: u8) -> (TcpListener, Bound) {
        let listener = TcpListener::bind(SocketAddr::from(([127, 251, 11, last], 0))).unwrap();
        let bound = (Protocol::Tcp, listener.local_addr().unwrap());
        (listener, bound)
    }

    fn offer(listener: &TcpListener, bound: Bound) -> Offer {
        Offer { bound, sockets: vec![listener.as_fd().try_clone_to_owned().unwrap()] }
    }

    /// A successor that does with the offers as `take` says.
    async fn successor(take: impl Fn(Vec<Offer>) -> Vec<bool> + Send + 'static) -> Successor {
        let name = Name::new().unwrap();
        let listener = name.listen().unwrap();
        let (sender, mut batches) = mpsc::channel(1);
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(receive_offers(listener, sender, stopped));
        tokio::spawn(async move {
            let _stop = stop;
            while let Some(Batch { offers, answer }) = batches.recv().await {
                let _ = answer.send(take(offers));
            }
        });
        name.connect().unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + 2 * ANSWER_TIMEOUT
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_does_not_answer_gets_an_empty_offer_and_nothing_else() {
        let responding = successor(|offers| vec![false; offers.len()]).await;
        let (stopped, silent) = Successor::silent();
        let (gone, closed) = Successor::silent();
        drop(gone);
        let found = answering(vec![silent, closed, responding], soon()).await;
        assert_eq!(found.len(), 1);
        let (connection, _) = stopped.accept().await.unwrap();
        let (packet, sockets) = receive(&connection).await.unwrap().unwrap();
        assert!(packet == b"[]" && sockets.is_empty());
        assert!(receive(&connection).await.unwrap().is_none());
        let (listener, bound) = listener(5);
        let answer = found[0].offer(&[offer(&listener, bound)], soon()).await;
        assert_eq!(answer.unwrap(), [false]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_offer_is_unanswered_only_while_the_successor_may_have_its_sockets() {
        let (listener, bound) = listener(6);
        let (other, successor) = Successor::silent();
        let sent = successor.offer(&[offer(&listener, bound)], soon()).await;
        assert!(matches!(sent, Err(OfferError::Unanswered(_))), "{sent:?}");
        drop(other);
        for _ in 0..2 {
            let sent = successor.offer(&[offer(&listener, bound)], soon()).await;
            assert!(matches!(sent, Err(OfferError::NotReceived(_))), "{sent:?}");
        }
    }

    /// An inbox that waits, and a connection to it.
    fn inbox() -> (Inbox, Name) {
        let mut inbox = Inbox::default();
        let name = Name::new().unwrap();
        let (stop, stopped) = oneshot::channel();
        let receive = receive_offers(name.listen().unwrap(), inbox.sender.clone(), stopped);
        tokio::spawn(receive);
        inbox.listening = Some(stop);
        (inbox, name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_begins_to_drain_declines_what_it_has_received() {
        let (inbox, name) = inbox();
        let successor = name.connect().unwrap();
        let (listener, bound) = listener(7);
        let addr = bound.1;
        let offers = [offer(&listener, bound)];
        let drains = async {
            while inbox.batches.is_empty() {
                tokio::task::yield_now().await;
            }
            drop(inbox);
        };
        let (answer, ()) = tokio::join!(successor.offer(&offers, soon()), drains);
        assert_eq!(answer.unwrap(), [false]);
        // Nobody has the socket any more.
        drop((offers, listener));
        let refused = TcpStream::connect(addr).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_no_longer_waits_ends_a_silent_connection_and_its_name() {
        let (mut inbox, name) = inbox();
        let predecessor = name.connect().unwrap();
        let respond = async {
            let Batch { offers, answer } = inbox.next().await;
            assert!(offers.is_empty());
            answer.send(Vec::new()).unwrap();
        };
        let (answer, ()) = tokio::join!(predecessor.offer(&[], soon()), respond);
        assert_eq!(answer.unwrap(), [false; 0]);
        inbox.wait_for_offers(false);
        let ended = timeout(PACKET_TIMEOUT / 2, receive(&predecessor.0)).await;
        assert!(matches!(ended, Ok(Ok(None))), "{ended:?}");
        while name.connect().is_ok() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn many_names_of_others_do_not_hide_a_successor() {
        let (_listener, name) = {
            let name = Name::new().unwrap();
            (name.listen().unwrap(), name)
        };
        let others: Vec<_> =
            (0..10 * MAX_SUCCESSORS).map(|n| format!("{PREFIX}none-{n}")).collect();
        let names = others.iter().chain([&name.0]).map(String::as_str);
        assert_eq!(connect_to(names).take(MAX_SUCCESSORS).count(), 1);
    }

    #[tokio::test]
    async fn a_process_is_not_its_own_successor() {
        let (_inbox, name) = inbox();
        assert!(name.connect().unwrap().is_this_process());
        let found = successors(soon()).await;
        assert!(!found.iter().any(Successor::is_this_process));
    }

    #[tokio::test]
    async fn a_client_in_the_queue_of_a_socket_is_served_after_its_first_owner_is_gone() {
        let (kept, mut arrived) = mpsc::unbounded_channel();
        let successor = successor(move |offers| {
            let second = offers.len() - 1;
            let taken = (0..offers.len()).map(|place| place != second).collect();
            offers.into_iter().for_each(|offer| kept.send(offer).unwrap());
            taken
        })
        .await;
        let ((first, first_bound), (second, second_bound)) = (listener(1), listener(2));
        let _client = TcpStream::connect(first_bound.1).unwrap();
        let offers = [offer(&first, first_bound), offer(&second, second_bound)];
        assert_eq!(successor.offer(&offers, soon()).await.unwrap(), [true, false]);
        drop((offers, first));
        let Offer { bound, mut sockets } = arrived.recv().await.unwrap();
        assert_eq!(bound, first_bound);
        let socket = TcpListener::from(sockets.pop().unwrap());
        assert_eq!(socket.local_addr().unwrap(), first_bound.1);
        socket.accept().unwrap();
        // The next packet goes over the same connection.
        assert_eq!(
            successor.offer(&[offer(&second, second_bound)], soon()).await.unwrap(),
            [false]
        );
    }

    #[tokio::test]
    async fn a_packet_carries_as_many_sockets_as_fit_and_a_wrong_answer_is_an_error() {
        let successor = successor(|offers| vec![true; offers.len() / MAX_SOCKETS]).await;
        let (listener, bound) = listener(3);
        let offers: Vec<_> = (0..MAX_SOCKETS).map(|_| offer(&listener, bound)).collect();
        // The answer is too short for so many offers.
        assert!(successor.offer(&offers, soon()).await.is_err());
        drop(offers);
    }

    #[test]
    fn an_offer_without_its_sockets_is_not_taken() {
        let (listener, bound) = listener(4);
        let entry = json!({ "protocol": "TCP", "address": bound.1.to_string(), "sockets": 2 });
        let sockets = |count| (0..count).flat_map(|_| offer(&listener, bound).sockets).collect();
        assert_eq!(parse(std::slice::from_ref(&entry), sockets(2)).unwrap()[0].sockets.len(), 2);
        assert!(parse(&[entry], sockets(1)).is_none());
        assert!(parse(&[json!({ "protocol": "TCP" })], sockets(1)).is_none());
    }

    #[tokio::test]
    async fn a_process_has_a_name_only_while_it_waits() {
        let count = || std::fs::read_to_string("/proc/net/unix").unwrap();
        let names = |listed: &str| names_in(listed).map(str::to_owned).collect::<Vec<_>>();
        let before = names(&count());
        let mut inbox = Inbox::default();
        inbox.wait_for_offers(true);
        let new: Vec<_> =
            names(&count()).into_iter().filter(|name| !before.contains(name)).collect();
        assert!(!new.is_empty());
        inbox.wait_for_offers(true);
        inbox.wait_for_offers(false);
        while new.iter().all(|name| names(&count()).contains(name)) {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn only_listening_names_of_ours_are_found() {
        let listed = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0005 01 42 @switchyard/proxy/successor/1/a
0000000000000000: 00000003 00000000 00000000 0005 03 43 @switchyard/proxy/successor/1/b
0000000000000000: 00000002 00000000 00010000 0001 01 44 /run/switchyard/proxy/successor/1/c
0000000000000000: 00000002 00000000 00010000 0005 01 45
0000000000000000: 00000002 00000000 00010000 0005 01 46 @switchyard/service-route/7
";
        assert_eq!(names_in(listed).collect::<Vec<_>>(), ["switchyard/proxy/successor/1/a"]);
    }
}
