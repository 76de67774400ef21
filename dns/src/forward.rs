//! Forwarding: questions about names that are not ours, to an upstream that knows them.
//!
//! Each try has a socket and an ID of its own, both chosen at random, and passes over whatever
//! does not match: that is all that stands between a forger and our clients. Left out on purpose:
//! a cache, and upstreams' health.

mod relay;
pub(crate) mod upstreams;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::metrics::Metrics;
use crate::quota::{Place, Quota};
use crate::wire::reply::{Detached, Transport};
use crate::wire::{Name, Query, Rcode, u16_at};

use relay::{Answer, Question, is_truncated};

/// More than an upstream should send, for it was told how much less we take.
const MAX_UDP_ANSWER: usize = 4096;
/// A lost datagram is asked for again, of the next upstream if there is one.
const MIN_TRIES: usize = 2;
/// A client's resolver gives up after 5 s; an answer must come before that.
const DEADLINE: Duration = Duration::from_millis(4500);

/// Asks upstreams. `clone` shares it.
#[derive(Clone, Debug)]
pub(crate) struct Forwarder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    upstreams: Vec<SocketAddr>,
    try_timeout: Duration,
    in_flight: Quota,
    metrics: Metrics,
}

/// A query that an upstream has to answer, as its client sent it.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) packet: Vec<u8>,
    pub(crate) query: Box<Query>,
    pub(crate) transport: Transport,
    /// The reply so far, and the name that an alias of ours leads to.
    pub(crate) alias: Option<Box<(Detached, Name)>>,
    pub(crate) place: Place,
}

/// Why no upstream's answer came.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("no answer in time")]
    TimedOut,
    #[error("cannot reach it")]
    Unreachable(#[from] io::Error),
    #[error("it refused or failed")]
    Refused,
}

impl Forwarder {
    pub(crate) fn new(
        upstreams: Vec<SocketAddr>,
        try_timeout: Duration,
        max_in_flight: usize,
        metrics: Metrics,
    ) -> Forwarder {
        let in_flight = Quota::new(max_in_flight, metrics.forwards_in_flight.clone());
        Forwarder(Arc::new(Inner { upstreams, try_timeout, in_flight, metrics }))
    }

    /// A place for one more question of this client; `None` when too many are in flight.
    pub(crate) fn admit(&self, client: IpAddr) -> Option<Place> {
        let place = self.0.in_flight.admit(client);
        if place.is_none() {
            self.0.metrics.forwards_refused.inc();
        }
        place
    }

    /// The reply for the client, and its code.
    pub(crate) async fn answer(&self, job: Job) -> (Vec<u8>, Rcode) {
        let question = match &job.alias {
            None => Question::of(&job.query, &job.packet),
            Some(alias) => Question::new(&job.query, alias.1.wire()),
        };
        let begun = Instant::now();
        let message = self.ask(&question).await;
        match &message {
            Some(_) => self.0.metrics.forward_seconds.observe(begun.elapsed().as_secs_f64()),
            None => drop(self.0.metrics.forward_failures.inc()),
        }
        let answer = message.as_deref().and_then(Answer::read);
        let rcode = answer.as_ref().map_or(Rcode::SERVFAIL, |answer| answer.rcode);
        let Job { packet, query, transport, alias, place: _place } = job;
        let bytes = match (alias, &answer) {
            (None, Some(answer)) => answer.relay(&query, &packet, transport),
            (None, None) => failure(&query, packet, transport),
            (Some(alias), _) => {
                let mut detached = alias.0;
                let len = match &answer {
                    Some(answer) => answer.continue_alias(&mut detached),
                    None => detached.attach().finish(Rcode::SERVFAIL),
                };
                detached.into_bytes(len)
            }
        };
        (bytes, rcode)
    }

    /// An upstream's message in answer to the question. Upstreams are tried in their order.
    async fn ask(&self, question: &Question) -> Option<Vec<u8>> {
        let deadline = Instant::now() + DEADLINE;
        let mut refusal = None;
        let tries = self.0.upstreams.len().max(MIN_TRIES);
        for (number, upstream) in self.0.upstreams.iter().cycle().take(tries).enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || refusal.is_some() && number >= self.0.upstreams.len() {
                break;
            }
            let limit = left.min(self.0.try_timeout);
            match timeout(limit, exchange(*upstream, question))
                .await
                .unwrap_or(Err(Failed::TimedOut))
            {
                Ok(message) if is_refusal(&message) => {
                    tracing::debug!(%upstream, error = %Failed::Refused, "forwarding");
                    refusal.get_or_insert(message);
                }
                Ok(message) => return Some(message),
                Err(error) => tracing::debug!(%upstream, %error, "forwarding"),
            }
        }
        refusal
    }
}

/// SERVFAIL for a client whose question no upstream answered.
fn failure(query: &Query, mut packet: Vec<u8>, transport: Transport) -> Vec<u8> {
    use crate::respond::{MIN_BUFFER, Outcome, Policy, error};
    packet.resize(packet.len().max(MIN_BUFFER), 0);
    let policy = Policy { forwards: true, tells_version: false };
    if let Outcome::Reply(len, _) = error(policy, query, &mut packet, transport, Rcode::SERVFAIL) {
        packet.truncate(len);
    }
    packet
}

fn is_refusal(message: &[u8]) -> bool {
    let rcode = u16_at(message, 2).unwrap_or_default() & crate::wire::flag::RCODE;
    rcode == Rcode::SERVFAIL.0 || rcode == Rcode::REFUSED.0
}

/// One try: over UDP, and over TCP when that was cut.
async fn exchange(upstream: SocketAddr, question: &Question) -> Result<Vec<u8>, Failed> {
    let reply = exchange_udp(upstream, question).await?;
    if is_truncated(&reply) { exchange_tcp(upstream, question).await } else { Ok(reply) }
}

/// The kernel chooses the port at random, and drops what does not come from the upstream.
async fn exchange_udp(upstream: SocketAddr, question: &Question) -> Result<Vec<u8>, Failed> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    let id = rand::random();
    socket.send(&question.message(id)).await?;
    let mut buffer = vec![0; MAX_UDP_ANSWER];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if question.is_answered_by(id, &buffer[..len]) {
            buffer.truncate(len);
            return Ok(buffer);
        }
    }
}

async fn exchange_tcp(upstream: SocketAddr, question: &Question) -> Result<Vec<u8>, Failed> {
    let mut stream = TcpStream::connect(upstream).await?;
    let id = rand::random();
    let message = question.message(id);
    let length = (message.len() as u16).to_be_bytes();
    stream.write_all(&[&length[..], &message].concat()).await?;
    loop {
        let len = stream.read_u16().await?;
        let mut reply = vec![0; usize::from(len)];
        stream.read_exact(&mut reply).await?;
        if question.is_answered_by(id, &reply) {
            return Ok(reply);
        }
    }
}
