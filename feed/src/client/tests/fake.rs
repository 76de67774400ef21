//! An API server for tests, over plain TCP, that does wrong what a test wants.
//!
//! It serves Services only; other kinds are empty lists. HTTP/1.1 by hand, so that any byte of a
//! response can be left out.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use crate::client::decode::MAX_OBJECT;

/// What a test makes all open watches do.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// The connection breaks.
    Break,
    /// The watch ends as it should.
    End,
    /// This text comes, and nothing is added to it.
    Raw(String),
}

/// What the server does with every watch instead of serving it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Misdeed {
    /// Breaks off within the first line.
    Half,
    /// Says 410.
    Gone,
    /// Ends at once.
    Empty,
    /// Says half a line and no more.
    Stuck,
}

/// What the server has, and how it behaves.
pub(super) struct State {
    pub(super) ours: bool,
    pub(super) identity: String,
    pub(super) version: u64,
    /// Name → version.
    pub(super) services: BTreeMap<String, u64>,
    /// Streaming lists begin, and nothing comes of them.
    pub(super) held: bool,
    /// Streaming lists never end.
    pub(super) endless: bool,
    /// The Service that lists hold with more JSON than a client reads.
    pub(super) giant: Option<&'static str>,
    history: Vec<(u64, &'static str, String)>,
    /// Watches from before this version get a 410.
    pub(super) oldest: u64,
    pub(super) streaming: bool,
    /// Objects a page.
    pub(super) page: usize,
    /// How many more times a page's token has expired.
    pub(super) expire_tokens: u32,
    /// The next responses, to any request but for who it is: status and headers.
    pub(super) refuse: VecDeque<(u16, String)>,
    /// What answers at `/version` instead: status, headers and body.
    pub(super) impostor: Option<(u16, &'static str, &'static str)>,
    pub(super) misdeed: Option<Misdeed>,
    /// Accepts connections, and says nothing.
    pub(super) frozen: bool,
    /// Bookmarks after each change, as our feed sends them.
    pub(super) bookmarks: bool,
    /// Paths that end so are answered with 403.
    pub(super) forbid: Option<&'static str>,
    /// Ends the connection after each response, as an apiserver does without credentials.
    pub(super) closes: bool,
    /// Says at /version what it is, whoever asks.
    pub(super) anonymous_version: bool,
    /// Requires this token.
    pub(super) token: Option<String>,
    /// All requests so far: path and query.
    pub(super) requests: Vec<String>,
}

pub(super) struct Fake {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    acts: broadcast::Sender<Act>,
    accepting: Option<JoinHandle<()>>,
}

impl Fake {
    pub(super) async fn start() -> Fake {
        let state = State {
            ours: true,
            identity: "first".into(),
            version: 1000,
            services: BTreeMap::new(),
            held: false,
            endless: false,
            giant: None,
            history: Vec::new(),
            oldest: 1000,
            streaming: true,
            page: 2,
            expire_tokens: 0,
            refuse: VecDeque::new(),
            impostor: None,
            misdeed: None,
            frozen: false,
            bookmarks: true,
            forbid: None,
            closes: false,
            anonymous_version: false,
            token: None,
            requests: Vec::new(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut fake = Fake {
            address: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(state)),
            changed: watch::Sender::new(0),
            acts: broadcast::Sender::new(64),
            accepting: None,
        };
        fake.accept(listener);
        fake
    }

    fn accept(&mut self, listener: TcpListener) {
        let (state, changed, acts) = (self.state.clone(), self.changed.clone(), self.acts.clone());
        self.accepting = Some(tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = Connection {
                    stream,
                    state: state.clone(),
                    changed: changed.subscribe(),
                    acts: acts.subscribe(),
                };
                tokio::spawn(connection.run());
            }
        }));
    }

    /// Nobody listens any more, and all connections break.
    pub(super) async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
        self.act(Act::Break);
    }

    /// Listens again on the same address.
    pub(super) async fn resume(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        self.accept(socket.listen(64).unwrap());
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn act(&self, act: Act) {
        let _ = self.acts.send(act);
    }

    pub(super) fn put(&self, name: &str) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let known = state.services.insert(name.to_owned(), version).is_some();
        let event = if known { "MODIFIED" } else { "ADDED" };
        state.history.push((version, event, name.to_owned()));
        drop(state);
        self.wake();
    }

    pub(super) fn delete(&self, name: &str) {
        let mut state = self.state();
        assert!(state.services.remove(name).is_some());
        state.version += 1;
        let version = state.version;
        state.history.push((version, "DELETED", name.to_owned()));
        drop(state);
        self.wake();
    }

    /// Changes that no watch will ever tell.
    pub(super) fn put_untold(&self, put: &[&str], delete: &[&str]) {
        let mut state = self.state();
        for name in delete {
            assert!(state.services.remove(*name).is_some());
            state.version += 1;
        }
        for name in put {
            state.version += 1;
            let version = state.version;
            state.services.insert((*name).to_owned(), version);
        }
        state.history.clear();
        state.oldest = state.version;
    }

    pub(super) fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
        self.act(Act::Break);
    }
}

impl State {
    fn padded(&self, name: &str, text: String) -> String {
        if self.giant != Some(name) {
            return text;
        }
        text.replace("\"spec\"", &format!("\"x\":\"{}\",\"spec\"", "x".repeat(MAX_OBJECT)))
    }
}

/// The JSON of a Service; its port tells its version.
pub(super) fn service(name: &str, version: u64) -> String {
    let port = 1 + version % 60_000;
    format!(
        "{{\"kind\":\"Service\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"{name}\",\
         \"namespace\":\"shop\",\"resourceVersion\":\"{version}\"}},\
         \"spec\":{{\"clusterIP\":\"10.96.0.1\",\"ports\":[{{\"port\":{port}}}]}}}}"
    )
}

pub(super) fn line(event: &str, name: &str, version: u64) -> String {
    format!("{{\"type\":\"{event}\",\"object\":{}}}\n", service(name, version))
}

pub(super) fn bookmark(version: u64, ends_list: bool) -> String {
    let end = if ends_list { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    format!(
        "{{\"type\":\"BOOKMARK\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{version}\"\
         {end}}}}}}}\n"
    )
}

pub(super) fn error(code: u16) -> String {
    format!("{{\"type\":\"ERROR\",\"object\":{{\"kind\":\"Status\",\"code\":{code}}}}}\n")
}

struct Connection {
    stream: TcpStream,
    state: Arc<Mutex<State>>,
    changed: watch::Receiver<u64>,
    acts: broadcast::Receiver<Act>,
}

/// The connection is over.
struct Over;

impl Connection {
    async fn run(mut self) {
        while self.serve().await.is_ok() && !self.state.lock().unwrap().closes {}
    }

    async fn serve(&mut self) -> Result<(), Over> {
        let head = self.request().await?;
        let target = head.split(' ').nth(1).unwrap().to_owned();
        while self.state.lock().unwrap().frozen {
            self.next().await?;
        }
        let (refused, authorized) = {
            let mut state = self.state.lock().unwrap();
            let token = state.token.as_ref().map(|token| format!("bearer {token}\r\n"));
            let authorized = token.is_none_or(|token| head.to_lowercase().contains(&token))
                || state.anonymous_version && target == "/version";
            let identifies = target == "/version" || target.contains("kube-system");
            let refused = if identifies { None } else { state.refuse.pop_front() };
            state.requests.push(target.clone());
            (refused, authorized)
        };
        if !authorized {
            return self.respond(401, "", "{\"kind\":\"Status\",\"message\":\"no\"}").await;
        }
        if let Some((code, headers)) = refused {
            return self.respond(code, &headers, "{\"kind\":\"Status\",\"message\":\"no\"}").await;
        }
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query: BTreeMap<&str, &str> =
            query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let forbidden = self.state.lock().unwrap().forbid.is_some_and(|end| path.ends_with(end));
        if forbidden {
            return self.respond(403, "", "{\"kind\":\"Status\",\"message\":\"no\"}").await;
        }
        match path {
            "/version" => {
                let impostor = self.state.lock().unwrap().impostor;
                if let Some((code, headers, body)) = impostor {
                    return self.respond(code, headers, body).await;
                }
                let ours = self.state.lock().unwrap().ours;
                let git = if ours { "v1.36.0+switchyard.0" } else { "v1.36.2" };
                self.respond(200, "", &format!("{{\"gitVersion\":\"{git}\"}}")).await
            }
            "/api/v1/namespaces/kube-system" => {
                let identity = self.state.lock().unwrap().identity.clone();
                let namespace = format!("{{\"metadata\":{{\"uid\":\"{identity}\"}}}}");
                self.respond(200, "", &namespace).await
            }
            _ if query.contains_key("watch") => self.watch(path, &query).await,
            _ => self.list(path, &query).await,
        }
    }

    async fn request(&mut self) -> Result<String, Over> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            tokio::select! {
                read = self.stream.read_buf(&mut head) => match read {
                    Ok(read) if read > 0 => {}
                    _ => return Err(Over),
                },
                act = self.acts.recv() => if let Ok(Act::Break) | Err(_) = act {
                    return Err(Over);
                },
            }
        }
        Ok(String::from_utf8(head).unwrap())
    }

    /// Waits for a change or an act that ends the connection.
    async fn next(&mut self) -> Result<(), Over> {
        tokio::select! {
            changed = self.changed.changed() => changed.map_err(|_| Over),
            act = self.acts.recv() => match act {
                Ok(Act::Break) | Err(_) => Err(Over),
                Ok(_) => Ok(()),
            },
        }
    }

    async fn respond(&mut self, code: u16, headers: &str, body: &str) -> Result<(), Over> {
        let length = body.len();
        let text = format!("HTTP/1.1 {code} X\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        self.write(&text).await
    }

    async fn write(&mut self, text: &str) -> Result<(), Over> {
        self.stream.write_all(text.as_bytes()).await.map_err(|_| Over)
    }

    async fn chunk(&mut self, text: &str) -> Result<(), Over> {
        let framed = format!("{:x}\r\n{text}\r\n", text.len());
        self.write(&framed).await
    }

    async fn list(&mut self, path: &str, query: &BTreeMap<&str, &str>) -> Result<(), Over> {
        let answer = {
            let mut state = self.state.lock().unwrap();
            if query.contains_key("continue") && state.expire_tokens > 0 {
                state.expire_tokens -= 1;
                None
            } else {
                Some(page(&state, path, query))
            }
        };
        match answer {
            Some(list) => self.respond(200, "", &list).await,
            None => self.respond(410, "", "{\"kind\":\"Status\",\"message\":\"expired\"}").await,
        }
    }

    async fn watch(&mut self, path: &str, query: &BTreeMap<&str, &str>) -> Result<(), Over> {
        let streaming = query.contains_key("sendInitialEvents");
        if streaming && !self.state.lock().unwrap().streaming {
            return self.respond(422, "", "{\"kind\":\"Status\",\"message\":\"no\"}").await;
        }
        self.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
        let misdeed = self.state.lock().unwrap().misdeed;
        match misdeed {
            None => {}
            Some(Misdeed::Gone) => {
                self.chunk(&error(410)).await?;
                return self.write("0\r\n\r\n").await;
            }
            Some(Misdeed::Empty) => return self.write("0\r\n\r\n").await,
            Some(Misdeed::Half) => {
                self.chunk("{\"type\":\"ADD").await?;
                return Err(Over);
            }
            Some(Misdeed::Stuck) => {
                self.chunk("{\"type\":\"ADD").await?;
                while self.state.lock().unwrap().misdeed.is_some() {
                    self.next().await?;
                }
                return Err(Over);
            }
        }
        let services = path.ends_with("/services");
        let mut from: u64 = query.get("resourceVersion").map_or(0, |v| v.parse().unwrap());
        while streaming && self.state.lock().unwrap().held {
            self.next().await?;
        }
        let mut more = 0;
        while streaming && services && self.state.lock().unwrap().endless {
            let lines = (0..100).map(|n| line("ADDED", &format!("more-{}", more + n), 900));
            self.chunk(&lines.collect::<String>()).await?;
            more += 100;
        }
        if streaming {
            let (lines, version) = {
                let state = self.state.lock().unwrap();
                let all = state.services.iter().filter(|_| services);
                let lines: String =
                    all.map(|(n, v)| state.padded(n, line("ADDED", n, *v))).collect();
                (lines + &bookmark(state.version, true), state.version)
            };
            self.chunk(&lines).await?;
            from = version;
        } else if from < self.state.lock().unwrap().oldest {
            self.chunk(&error(410)).await?;
            return self.write("0\r\n\r\n").await;
        }
        loop {
            let (lines, is_gone) = {
                let state = self.state.lock().unwrap();
                let mut lines = String::new();
                // What happened since then is no longer known: to say nothing would hide it.
                let is_gone = !state.frozen && from < state.oldest;
                if !state.frozen && !is_gone && state.version > from {
                    let new = state.history.iter().filter(|(v, ..)| services && *v > from);
                    lines.extend(new.map(|(v, event, name)| line(event, name, *v)));
                    from = state.version;
                    if state.bookmarks {
                        lines += &bookmark(from, false);
                    }
                }
                (lines, is_gone)
            };
            if is_gone {
                self.chunk(&error(410)).await?;
                return self.write("0\r\n\r\n").await;
            }
            if !lines.is_empty() {
                self.chunk(&lines).await?;
            }
            tokio::select! {
                changed = self.changed.changed() => changed.map_err(|_| Over)?,
                act = self.acts.recv() => match act {
                    Ok(Act::Raw(text)) if services => self.chunk(&text).await?,
                    Ok(Act::Raw(_)) => {}
                    Ok(Act::End) => return self.write("0\r\n\r\n").await,
                    Ok(Act::Break) | Err(_) => return Err(Over),
                },
                () = tokio::time::sleep(Duration::from_secs(10)) => {}
            }
        }
    }
}

/// A page of a list; a token is the last name of the page before, and its version.
fn page(state: &State, path: &str, query: &BTreeMap<&str, &str>) -> String {
    let limit: usize = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
    let limit = limit.min(if query.contains_key("limit") { state.page } else { usize::MAX });
    let after = query.get("continue").copied().unwrap_or_default();
    let services = state.services.iter().filter(|_| path.ends_with("/services"));
    let rest: Vec<_> = services.filter(|(name, _)| after < name.as_str()).collect();
    let shown = &rest[..rest.len().min(limit)];
    let mut next = String::new();
    if shown.len() < rest.len() {
        write!(next, ",\"continue\":\"{}\"", shown.last().unwrap().0).unwrap();
    }
    let item = |name: &str, version| state.padded(name, service(name, version));
    let items: Vec<_> = shown.iter().map(|(name, version)| item(name, **version)).collect();
    format!(
        "{{\"kind\":\"List\",\"metadata\":{{\"resourceVersion\":\"{}\"{next}}},\"items\":[{}]}}",
        state.version,
        items.join(",")
    )
}
