//! Clients that send one request after the other until they are stopped, and record errors.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longer than any wait without an error: endpoints are tried one after another.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where requests go, and which endpoints may answer.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    pub address: SocketAddr,
    pub host: &'static str,
    pub path: &'static str,
    /// The prefix of the names of the endpoints that may answer.
    pub answerer: &'static str,
    /// Requests that one connection is used for.
    pub requests_each: usize,
}

#[derive(Debug)]
pub struct Fault {
    /// When its connection was started.
    pub begun: Instant,
    pub at: Instant,
    /// The endpoint had accepted the connection, and ended it.
    pub was_open: bool,
    pub what: String,
}

/// What clients have seen so far.
#[derive(Debug, Default)]
pub struct Load {
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
pub struct Seen {
    /// Answers by the name of the endpoint.
    pub answers: BTreeMap<String, u64>,
    pub faults: Vec<Fault>,
    pub slowest: Duration,
}

impl Load {
    /// One client, until [`Load::stop`].
    pub fn client(&self, aim: Aim) {
        let mut connection: Option<Connection> = None;
        while !self.stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            let begun = connection.as_ref().map_or(asked, |connection| connection.begun);
            let answered = match connection.take() {
                Some(connection) => connection.ask(aim),
                None => Connection::open(aim.address).and_then(|fresh| fresh.ask(aim)),
            };
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.slowest = seen.slowest.max(asked.elapsed());
            let fault = match answered {
                Ok((name, rest)) => {
                    connection = rest;
                    if name.starts_with(aim.answerer) {
                        *seen.answers.entry(name).or_default() += 1;
                        continue;
                    }
                    (false, format!("answered by {name}"))
                }
                Err(error) => {
                    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
                    let kinds = [BrokenPipe, ConnectionReset, UnexpectedEof];
                    (kinds.contains(&error.kind()), error.to_string())
                }
            };
            let (was_open, what) = fault;
            seen.faults.push(Fault { begun, at: Instant::now(), was_open, what });
        }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Answers by that endpoint so far.
    pub fn answers_of(&self, name: &str) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.answers.get(name).copied().unwrap_or_default()
    }

    pub fn into_seen(self) -> Seen {
        self.seen.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Connection {
    stream: BufReader<TcpStream>,
    begun: Instant,
    requests: usize,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Connection> {
        let begun = Instant::now();
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream), begun, requests: 0 })
    }

    /// Sends a GET; the name of the endpoint that answered, and the connection if it may be used
    /// for another request.
    fn ask(mut self, aim: Aim) -> io::Result<(String, Option<Connection>)> {
        self.requests += 1;
        let Aim { host, path, .. } = aim;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim().to_ascii_lowercase());
        }
        if !head[0].starts_with("http/1.1 200 ") {
            return Err(io::Error::other(format!("{head:?}")));
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.and_then(|length| length.parse().ok());
        let mut body = vec![0; length.ok_or_else(|| io::Error::other("no length"))?];
        self.stream.read_exact(&mut body)?;
        let is_closed = head.iter().any(|line| line == "connection: close");
        let is_used_up = is_closed || self.requests >= aim.requests_each;
        let body: serde_json::Value = serde_json::from_slice(&body)?;
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        Ok((name, (!is_used_up).then_some(self)))
    }
}
