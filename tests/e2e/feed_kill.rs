//! The network feed under the worst conditions, with real processes that follow it: it is killed
//! repeatedly under load, and has clients that read nothing or disconnect.
//!
//! No request may be lost, and no client may be delayed by the problems of another. Left out:
//! faults of a fake API server (`feed_client`), and raw watchers (`feed_server`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::SockRef;

use crate::support::{Folder, Net, PATIENCE, PROMPTLY, Switchyard, eventually};

/// Objects that stay for the whole test: `web`, which is under load.
const WEB: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 127.N.N.1, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [127.N.N.10]}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: all}
spec:
  ingressClassName: switchyard
  rules:
  - host: web.test
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
  - host: late.test
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: late, port: {number: 80}}}}
";

/// `late`, which changes while the feed is away: its one endpoint is `.LAST`.
const LATE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: late}
spec: {clusterIP: 127.N.N.2, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: late-1, labels: {kubernetes.io/service-name: late}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [127.N.N.LAST]}]
";

/// Endpoints of `late`, in turn.
const LATE_ENDPOINTS: [u8; 2] = [11, 12];

/// Answers every request with the last number of its address.
fn endpoint(net: Net, last: u8) {
    let listener = TcpListener::bind(net.addr(last, 8080)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || serve(stream, last));
        }
    });
}

fn serve(stream: TcpStream, last: u8) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let mut close = false;
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        close |= line.eq_ignore_ascii_case("connection: close\r\n");
        if line == "\r\n" {
            let body = last.to_string();
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
            reader.get_mut().write_all(answer.as_bytes()).ok()?;
            if close {
                return None;
            }
        }
    }
}

/// A connection to the data path.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(addr: SocketAddr) -> Result<Client, String> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE);
        let stream = stream.map_err(|error| format!("connect: {error}"))?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Ok(Client(BufReader::new(stream)))
    }

    /// The body of the answer to one request; anything but a whole 200 is an error.
    fn get(&mut self, host: &str, close: bool) -> Result<String, String> {
        let close = if close { "Connection: close\r\n" } else { "" };
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{close}\r\n");
        let sent = self.0.get_mut().write_all(request.as_bytes());
        sent.map_err(|error| format!("send: {error}"))?;
        let mut length = None;
        let mut first = None;
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line).map_err(|error| format!("read: {error}"))?;
            if read == 0 {
                return Err("closed before the answer".to_owned());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().ok();
            }
            first.get_or_insert(line);
        }
        let mut body = vec![0; length.ok_or("no length")?];
        self.0.read_exact(&mut body).map_err(|error| format!("body: {error}"))?;
        match first {
            Some(line) if line.starts_with("http/1.1 200") => {
                Ok(String::from_utf8_lossy(&body).into_owned())
            }
            other => Err(format!("{other:?}")),
        }
    }
}

fn get(addr: SocketAddr, host: &str) -> Result<String, String> {
    Client::connect(addr)?.get(host, true)
}

/// Clients that send requests all the time; each ends at its first lost request.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Result<(), String>>>,
}

/// The pause between two requests of a client: a steady load that leaves CPU time for the
/// processes.
const PACE: Duration = Duration::from_micros(500);

impl Load {
    /// For each address and host one client that keeps its connection for ever, and one that
    /// makes a new one for each request.
    fn start(targets: [(SocketAddr, &'static str); 2]) -> Load {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = Vec::new();
        for (addr, host) in targets {
            for keep in [true, false] {
                let (stop, answers) = (stop.clone(), answers.clone());
                clients.push(std::thread::spawn(move || ask(addr, host, keep, &stop, &answers)));
            }
        }
        Load { stop, answers, clients }
    }

    /// The number of requests, all answered.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap().unwrap();
        }
        self.answers.load(Ordering::Relaxed)
    }
}

fn ask(
    addr: SocketAddr,
    host: &str,
    keep: bool,
    stop: &AtomicBool,
    answers: &AtomicU64,
) -> Result<(), String> {
    let mut kept: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        let mut client = match kept.take() {
            Some(client) => client,
            None => Client::connect(addr)?,
        };
        let lost = |error| format!("{host} at {addr}, kept connection: {keep}: {error}");
        let body = client.get(host, !keep).map_err(lost)?;
        if body != "10" {
            return Err(format!("{host} at {addr}: the wrong endpoint answered: {body}"));
        }
        kept = keep.then_some(client);
        answers.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PACE);
    }
    Ok(())
}

/// A folder, its feed, and the proxy and the ingress that follow it.
struct World {
    net: Net,
    folder: Folder,
    state: Folder,
    feed: Option<Switchyard>,
    _proxy: Switchyard,
    ingress: Switchyard,
}

impl World {
    fn start() -> World {
        let (net, folder, state) = (Net::new(), Folder::new(), Folder::new());
        for last in [&[10][..], &LATE_ENDPOINTS].concat() {
            endpoint(net, last);
        }
        folder.replace("web.yaml", &net.fill(WEB));
        write_late(&folder, net, LATE_ENDPOINTS[1]);
        let feed = start_feed(net, &folder, None);
        let source = format!("http://{}", net.addr(250, 7400));
        let node_ip = net.ip(200).to_string();
        let quiet = "warn,feed::client=error";
        let proxy = ["proxy", "--feed", &source, "--node-ip", &node_ip, "--log", quiet];
        let proxy = Switchyard::ready(net.addr(250, 7411), &proxy);
        let http = net.addr(3, 8080).to_string();
        let https = net.addr(3, 8443).to_string();
        let ingress =
            ["ingress", "--feed", &source, "--http", &http, "--https", &https, "--log", quiet];
        let ingress = Switchyard::ready(net.addr(250, 7421), &ingress);
        World { net, folder, state, feed: Some(feed), _proxy: proxy, ingress }
    }

    fn ingress_http(&self) -> SocketAddr {
        self.net.addr(3, 8080)
    }

    /// Whether `late` answers from that endpoint, through proxy and ingress.
    fn is_late(&self, last: u8) -> bool {
        let wanted = last.to_string();
        let through = |addr, host| get(addr, host).is_ok_and(|body| body == wanted);
        through(self.net.addr(2, 80), "late") && through(self.ingress_http(), "late.test")
    }

    /// Kills the feed, changes the folder and starts it again; how long after the feed's return
    /// the change was served.
    fn kill(&mut self, round: usize) -> Duration {
        let kill = |feed: Option<Switchyard>| {
            let feed = feed.unwrap();
            feed.signal(Signal::SIGKILL);
            assert!(!feed.wait().success());
        };
        kill(self.feed.take());
        let last = LATE_ENDPOINTS[round % 2];
        write_late(&self.folder, self.net, last);
        // With and without what it knew before, in both orders.
        let state = (round / 2).is_multiple_of(2).then_some(&self.state);
        if round % 5 == 4 {
            // It is killed again before it can have sent everything to anyone.
            kill(Some(spawn_feed(self.net, &self.folder, state)));
        }
        self.feed = Some(start_feed(self.net, &self.folder, state));
        let begun = Instant::now();
        eventually("the change is served", || self.is_late(last).then_some(()));
        begun.elapsed()
    }
}

fn write_late(folder: &Folder, net: Net, last: u8) {
    folder.replace("late.yaml", &net.fill(LATE).replace("LAST", &last.to_string()));
}

fn start_feed(net: Net, folder: &Folder, state: Option<&Folder>) -> Switchyard {
    let feed = spawn_feed(net, folder, state);
    eventually("the feed is back", || (feed.admin_get("/readyz").0 == 200).then_some(()));
    feed
}

fn spawn_feed(net: Net, folder: &Folder, state: Option<&Folder>) -> Switchyard {
    let dir = folder.path().display().to_string();
    let listen = net.addr(250, 7400).to_string();
    let mut args = vec!["feed", "--dir", &dir, "--listen", &listen, "--log", "warn"];
    let state = state.map(|folder| folder.path().display().to_string());
    args.extend(state.iter().flat_map(|dir| ["--state-dir", dir]));
    Switchyard::start(net.addr(250, 7401), &args)
}

/// Kills the feed that often under load, each time until what changed is served.
fn no_request_is_lost(kills: usize) {
    let mut world = World::start();
    let load = Load::start([(world.net.addr(1, 80), "web"), (world.ingress_http(), "web.test")]);
    let mut took: Vec<_> = (0..kills).map(|round| world.kill(round)).collect();
    let answers = load.end();
    took.sort_unstable();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    let told = format!("{kills} kills, {answers} requests, none lost: {median:?}, {most:?}");
    // Figures for the reader of the output. Writing them may fail without failing the test.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), (told + "\n").as_bytes());
    assert!(answers as usize > kills, "there was a load");
    // Kinds return one by one, and those that have returned are served.
    eventually("all kinds are back", || {
        (world.ingress.status()["feed"]["state"] == "synced").then_some(())
    });
}

#[test]
fn a_feed_killed_under_load_costs_no_request() {
    no_request_is_lost(6);
}

#[test]
#[ignore = "takes a minute"]
fn fifty_kills_in_a_row_cost_no_request() {
    no_request_is_lost(50);
}

/// Streams the list of Services and breaks off in the middle, with a reset.
fn break_off(feed: SocketAddr) -> Option<()> {
    let mut stream = TcpStream::connect_timeout(&feed, PATIENCE).ok()?;
    let path = "/api/v1/services?watch=1&sendInitialEvents=true&allowWatchBookmarks=true\
                &resourceVersionMatch=NotOlderThan";
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
    stream.read_exact(&mut [0; 100]).ok()?;
    // Without lingering, closing a socket with unread data sends a reset.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok()
}

#[test]
fn slow_and_broken_consumers_never_delay_the_proxy() {
    let world = World::start();
    let feed = world.net.addr(250, 7400);
    // A real consumer that has stopped reading.
    world.ingress.signal(Signal::SIGSTOP);
    let stop = AtomicBool::new(false);
    let (mut slowest, mut broken) = (Duration::ZERO, 0);
    std::thread::scope(|scope| {
        let breaking = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                count += usize::from(break_off(feed).is_some());
            }
            count
        });
        // More in all than the socket buffers of one that reads nothing take.
        let padding = "x".repeat(200_000);
        for round in 0..60 {
            let last = LATE_ENDPOINTS[round % 2];
            let padded = format!("{{name: late, annotations: {{note: {round}{padding}}}}}");
            let text = LATE.replace("{name: late}", &padded).replace("LAST", &last.to_string());
            world.folder.replace("late.yaml", &world.net.fill(&text));
            let begun = Instant::now();
            let wanted = last.to_string();
            eventually("the proxy serves the change", || {
                (get(world.net.addr(2, 80), "late") == Ok(wanted.clone())).then_some(())
            });
            slowest = slowest.max(begun.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        broken = breaking.join().unwrap();
    });
    assert!(broken > 10, "{broken} streams were broken off");
    assert!(slowest < PROMPTLY, "{slowest:?}");
    world.ingress.signal(Signal::SIGCONT);
    let last = LATE_ENDPOINTS[59 % 2];
    eventually("the slow one catches up", || world.is_late(last).then_some(()));
}
