//! Kept connections to upstream servers, over TCP and TLS.
//!
//! A data thread has at most one to each server. A task owns it: it writes the questions of all
//! who ask, gives each an ID that no other question on this connection has, and passes the replies
//! on in whatever order they come (RFC 7766 section 6.2.1.1). A connection that is lost is replaced
//! when the next question comes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::connect::{Connection, connect};
use super::once::framed;
use super::packet::{Match, Packet};
use super::server::{Reason, Server};
use super::tasks::Tasks;

/// Connections that a data thread keeps, to all upstreams together: the system's resolver has up
/// to three, and each may be asked in two groups.
pub(crate) const MAX_STREAMS: usize = 6;
/// Questions in flight on one connection; further ones wait.
const MAX_IN_FLIGHT: usize = 128;
/// An idle connection is closed after this time. Servers close theirs after 10 s or later.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes for this time, although something should, is lost.
const STALL_TIMEOUT: Duration = Duration::from_secs(3);
/// The time for a TCP and a TLS handshake, and for one write.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);

/// One data thread's connections.
#[derive(Debug)]
pub(crate) struct Streams {
    tasks: Tasks,
    tls: Option<Arc<ClientConfig>>,
    room: Arc<Semaphore>,
    kept: Rc<Kept>,
}

#[derive(Debug, Default)]
struct Kept(RefCell<Vec<Stream>>);

/// A connection, for those who ask.
#[derive(Clone, Debug)]
struct Stream {
    server: Arc<Server>,
    jobs: mpsc::Sender<Job>,
    is_idle: Rc<Cell<bool>>,
}

#[derive(Debug)]
struct Job {
    packet: Packet,
    reply: oneshot::Sender<Result<Vec<u8>, StreamError>>,
}

/// Why a connection gave no reply.
#[derive(Clone, Copy, Debug, PartialEq)]
enum StreamError {
    /// It could not be made.
    NotConnected(Reason),
    /// It was closed before the reply came; a new one may work.
    Closed,
}

impl Streams {
    pub(crate) fn new(tasks: Tasks, tls: Option<Arc<ClientConfig>>) -> Streams {
        let room = Arc::new(Semaphore::new(MAX_STREAMS));
        Streams { tasks, tls, room, kept: Rc::default() }
    }

    /// Asks a server. `packet` makes the packet: on a connection that turned out to be closed, a
    /// question is sent once more.
    ///
    /// # Errors
    ///
    /// When it cannot be reached. It does not end if the server is silent.
    pub(crate) async fn ask(
        &self,
        server: &Arc<Server>,
        packet: impl Fn() -> Packet,
    ) -> Result<Vec<u8>, Reason> {
        for _ in 0..2 {
            let stream = self.stream(server).await;
            let (reply, replied) = oneshot::channel();
            if stream.jobs.send(Job { packet: packet(), reply }).await.is_err() {
                continue;
            }
            match replied.await.unwrap_or(Err(StreamError::Closed)) {
                Ok(message) => return Ok(message),
                Err(StreamError::NotConnected(reason)) => return Err(reason),
                Err(StreamError::Closed) => {}
            }
        }
        Err(Reason::Unreachable)
    }

    /// The connection to a server, which may be new.
    async fn stream(&self, server: &Arc<Server>) -> Stream {
        if let Some(stream) = self.kept.find(server) {
            return stream;
        }
        if self.room.available_permits() == 0 {
            self.kept.close_idle();
        }
        let room = self.room.clone().acquire_owned().await;
        let room = room.expect("this semaphore is never closed");
        // Another question may have made the connection in the meantime.
        if let Some(stream) = self.kept.find(server) {
            return stream;
        }
        let (jobs, waiting) = mpsc::channel(MAX_IN_FLIGHT);
        let stream = Stream { server: server.clone(), jobs, is_idle: Rc::default() };
        let owner = Owner {
            server: server.clone(),
            jobs: waiting,
            is_idle: stream.is_idle.clone(),
            in_flight: HashMap::new(),
            progress: Instant::now(),
            _room: room,
        };
        self.kept.0.borrow_mut().push(stream.clone());
        let (kept, tls) = (self.kept.clone(), self.tls.clone());
        self.tasks.spawn(async move {
            owner.run(tls).await;
            kept.forget_closed();
        });
        stream
    }
}

impl Kept {
    fn find(&self, server: &Arc<Server>) -> Option<Stream> {
        let kept = self.0.borrow();
        let found = kept.iter().find(|s| Arc::ptr_eq(&s.server, server) && !s.jobs.is_closed());
        found.cloned()
    }

    /// Makes room by closing a connection that is idle.
    fn close_idle(&self) {
        let mut kept = self.0.borrow_mut();
        if let Some(idle) = kept.iter().position(|stream| stream.is_idle.get()) {
            // Its task ends when nobody can ask it any more.
            kept.remove(idle);
        }
    }

    fn forget_closed(&self) {
        self.0.borrow_mut().retain(|stream| !stream.jobs.is_closed());
    }
}

/// Owns a connection.
struct Owner {
    server: Arc<Server>,
    jobs: mpsc::Receiver<Job>,
    is_idle: Rc<Cell<bool>>,
    in_flight: HashMap<u16, Job>,
    /// When something came, or could have come for the first time.
    progress: Instant,
    _room: OwnedSemaphorePermit,
}

impl Owner {
    async fn run(mut self, tls: Option<Arc<ClientConfig>>) {
        let connected = timeout(SEND_TIMEOUT, connect(&self.server, tls.as_ref())).await;
        let error = match connected.unwrap_or(Err(Reason::Silent)) {
            Ok(connection) => {
                let ended = self.serve(connection).await;
                tracing::debug!(upstream = %self.server.address, ?ended, "connection closed");
                StreamError::Closed
            }
            Err(reason) => StreamError::NotConnected(reason),
        };
        self.jobs.close();
        let in_flight = self.in_flight.drain().map(|(_, job)| job);
        let waiting = std::iter::from_fn(|| self.jobs.try_recv().ok());
        for job in in_flight.chain(waiting) {
            // Nobody may wait for it any more.
            let _ = job.reply.send(Err(error));
        }
    }

    /// Serves until the connection is closed, idle for too long, or no longer wanted.
    async fn serve(&mut self, connection: Connection) -> io::Result<()> {
        let (mut reader, mut writer) = split(connection);
        let mut received = Vec::new();
        self.progress = Instant::now();
        loop {
            self.in_flight.retain(|_, job| !job.reply.is_closed());
            self.is_idle.set(self.in_flight.is_empty());
            let patience = if self.is_idle.get() { IDLE_TIMEOUT } else { STALL_TIMEOUT };
            let has_room = self.in_flight.len() < MAX_IN_FLIGHT;
            tokio::select! {
                job = self.jobs.recv(), if has_room => match job {
                    Some(job) => self.write(&mut writer, job).await?,
                    None => return Ok(()),
                },
                read = read_more(&mut reader, &mut received) => {
                    read?;
                    self.progress = Instant::now();
                    self.pass_on(&mut received);
                }
                () = sleep_until(self.progress + patience) => return Ok(()),
            }
        }
    }

    async fn write(&mut self, writer: &mut WriteHalf<Connection>, job: Job) -> io::Result<()> {
        let Job { mut packet, reply } = job;
        let mut id = rand::random();
        while self.in_flight.contains_key(&id) {
            id = rand::random();
        }
        packet.set_id(id);
        if self.in_flight.is_empty() {
            self.progress = Instant::now();
        }
        let frame = framed(packet.bytes());
        self.in_flight.insert(id, Job { packet, reply });
        let write = async {
            writer.write_all(&frame).await?;
            writer.flush().await
        };
        timeout(SEND_TIMEOUT, write).await?
    }

    /// Passes on the replies that are whole, and removes them from the buffer.
    fn pass_on(&mut self, received: &mut Vec<u8>) {
        let mut at = 0;
        while let Some((length, rest)) = received[at..].split_first_chunk::<2>() {
            let Some(reply) = rest.get(..usize::from(u16::from_be_bytes(*length))) else { break };
            at += 2 + reply.len();
            let Some(id) = reply.first_chunk::<2>() else { continue };
            let id = u16::from_be_bytes(*id);
            let answers = |job: &Job| job.packet.answered_by(reply) != Match::No;
            if self.in_flight.get(&id).is_some_and(answers)
                && let Some(job) = self.in_flight.remove(&id)
            {
                let _ = job.reply.send(Ok(reply.to_vec()));
            }
        }
        received.drain(..at);
    }
}

/// Loses nothing when it is cancelled.
async fn read_more(reader: &mut ReadHalf<Connection>, received: &mut Vec<u8>) -> io::Result<()> {
    match reader.read_buf(received).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
