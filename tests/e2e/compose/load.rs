//! Clients that send one request after the other until told to stop, and keep what went wrong.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longer than any wait that is no fault: endpoints are tried in turn.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where requests go, and who may answer.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    pub address: SocketAddr,
    pub host: &'static str,
    pub path: &'static str,
    /// The beginning of the name of whoever may answer.
    pub answerer: &'static str,
    /// Requests that one connection is used for.
    pub requests_each: usize,
}

#[derive(Debug)]
pub struct Fault {
    /// When its connection was made; none if it was not.
    pub connected: Option<Instant>,
    pub at: Instant,
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
            let begun = Instant::now();
            let answered = match &mut connection {
                Some(connection) => connection.ask(aim),
                None => Connection::open(aim.address)
                    .and_then(|fresh| connection.insert(fresh).ask(aim)),
            };
            let connected = connection.as_ref().map(|connection| connection.since);
            let used_up = connection.as_ref().is_some_and(|c| c.requests >= aim.requests_each);
            if used_up || answered.is_err() {
                connection = None;
            }
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.slowest = seen.slowest.max(begun.elapsed());
            let what = match answered {
                Ok(name) if name.starts_with(aim.answerer) => {
                    *seen.answers.entry(name).or_default() += 1;
                    continue;
                }
                Ok(name) => format!("answered by {name}"),
                Err(error) => error.to_string(),
            };
            seen.faults.push(Fault { connected, at: Instant::now(), what });
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
    since: Instant,
    requests: usize,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream), since: Instant::now(), requests: 0 })
    }

    /// Sends a GET; the name of the endpoint that answered.
    fn ask(&mut self, aim: Aim) -> io::Result<String> {
        self.requests += 1;
        let Aim { host, path, .. } = aim;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::Error::other(format!("closed after {head:?}")));
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
        if head.iter().any(|line| line == "connection: close") {
            self.requests = usize::MAX;
        }
        let body: serde_json::Value = serde_json::from_slice(&body)?;
        Ok(body["name"].as_str().unwrap_or_default().to_owned())
    }
}
