//! One question to one upstream: over UDP, and over TCP if the answer was cut.
//!
//! Each data thread has a [`Pool`] for each upstream. A UDP socket is used for one question only:
//! the kernel gives it a port at random and drops what others send to it, and that port and a
//! random ID are what protects clients from forged answers (RFC 5452). TCP connections are kept
//! for a while, because a new one costs a round trip and the upstream's resources (RFC 7766).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::wire::UDP_EDNS_LIMIT;

use super::question::Question;
use super::rebuild::{is_truncated, rebuild};
use crate::cache::stored::Stored;

/// More than an upstream should send, because the query says how much less is accepted.
const MAX_UDP_ANSWER: usize = 4096;
const _: () = assert!(UDP_EDNS_LIMIT <= MAX_UDP_ANSWER);
/// Idle TCP connections that a data thread keeps to one upstream.
pub(crate) const MAX_IDLE_CONNECTIONS: usize = 2;
/// An idle connection is closed after this time. Servers close theirs after 10 s or later.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an upstream gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error("no answer in time")]
    TimedOut,
    #[error("it cannot be reached")]
    Unreachable(#[from] io::Error),
    #[error("it answered SERVFAIL or REFUSED")]
    Refused,
    #[error("its answer is malformed")]
    Malformed,
    #[error("its answer over UDP is incomplete and it cannot be asked over TCP")]
    Incomplete,
}

/// One data thread's sockets to all upstreams.
#[derive(Debug)]
pub(crate) struct Pools {
    /// A permit for each socket in use.
    sockets: Semaphore,
    pools: RefCell<HashMap<SocketAddr, Rc<Pool>>>,
}

/// One data thread's sockets to one upstream.
#[derive(Debug)]
struct Pool {
    upstream: SocketAddr,
    idle: RefCell<Vec<(TcpStream, Instant)>>,
}

impl Pools {
    /// For so many sockets in use at the same time; further questions wait for one.
    pub(crate) fn new(max_sockets: usize) -> Pools {
        let sockets = Semaphore::new(max_sockets.clamp(1, Semaphore::MAX_PERMITS));
        Pools { sockets, pools: RefCell::default() }
    }

    /// Asks one upstream. The answer may be a refusal, and incomplete if the upstream does not
    /// answer over TCP; it is well-formed.
    ///
    /// # Errors
    ///
    /// When there is no such answer. It never ends by itself if the upstream is silent.
    pub(crate) async fn ask(
        &self,
        upstream: SocketAddr,
        question: &Question,
    ) -> Result<Stored, Failed> {
        let pool = self.pool(upstream);
        let _permit = self.sockets.acquire().await.expect("this semaphore is never closed");
        let reply = pool.over_udp(question).await?;
        let read = rebuild(question, &reply);
        if !is_truncated(&reply) {
            return read.ok_or(Failed::Malformed);
        }
        let whole = match pool.over_tcp(question).await {
            Ok(whole) => rebuild(question, &whole).ok_or(Failed::Malformed),
            Err(_) => Err(Failed::Incomplete),
        };
        // The client can see that it is incomplete, which is better than no answer.
        whole.or_else(|error| read.ok_or(error))
    }

    /// Closes what has been idle for too long, and forgets upstreams that are not used any more.
    /// Whether an idle connection is left.
    pub(crate) fn close_idle(&self, upstreams: &[SocketAddr]) -> bool {
        let mut pools = self.pools.borrow_mut();
        pools.retain(|upstream, _| upstreams.contains(upstream));
        for pool in pools.values() {
            pool.idle.borrow_mut().retain(|(_, since)| since.elapsed() < IDLE_TIMEOUT);
        }
        pools.values().any(|pool| !pool.idle.borrow().is_empty())
    }

    pub(crate) fn has_idle(&self) -> bool {
        self.pools.borrow().values().any(|pool| !pool.idle.borrow().is_empty())
    }

    fn pool(&self, upstream: SocketAddr) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        let new = || Rc::new(Pool { upstream, idle: RefCell::default() });
        pools.entry(upstream).or_insert_with(new).clone()
    }
}

impl Pool {
    async fn over_udp(&self, question: &Question) -> Result<Vec<u8>, Failed> {
        let domain = Domain::for_address(self.upstream);
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        // Chooses a port at random, and from now on takes datagrams of this upstream only.
        socket.connect(&self.upstream.into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        let id = rand::random();
        socket.send(&question.message(id, true)).await?;
        let mut buffer = vec![0; MAX_UDP_ANSWER];
        loop {
            let len = socket.recv(&mut buffer).await?;
            if question.is_answered_by(id, &buffer[..len]) {
                buffer.truncate(len);
                return Ok(buffer);
            }
        }
    }

    async fn over_tcp(&self, question: &Question) -> Result<Vec<u8>, Failed> {
        while let Some(stream) = self.take_idle() {
            // It may have been closed in the meantime; then the next one is tried.
            if let Ok(reply) = self.exchange(stream, question).await {
                return Ok(reply);
            }
        }
        let stream = TcpStream::connect(self.upstream).await?;
        self.exchange(stream, question).await
    }

    fn take_idle(&self) -> Option<TcpStream> {
        let (stream, since) = self.idle.borrow_mut().pop()?;
        (since.elapsed() < IDLE_TIMEOUT).then_some(stream)
    }

    async fn exchange(
        &self,
        mut stream: TcpStream,
        question: &Question,
    ) -> Result<Vec<u8>, Failed> {
        let id = rand::random();
        let message = question.message(id, true);
        let length = (message.len() as u16).to_be_bytes();
        stream.write_all(&[&length[..], &message].concat()).await?;
        loop {
            let len = stream.read_u16().await?;
            let mut reply = vec![0; usize::from(len)];
            stream.read_exact(&mut reply).await?;
            if question.is_answered_by(id, &reply) {
                let mut idle = self.idle.borrow_mut();
                if idle.len() < MAX_IDLE_CONNECTIONS {
                    idle.push((stream, Instant::now()));
                }
                return Ok(reply);
            }
        }
    }
}
