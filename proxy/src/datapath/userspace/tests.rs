//! The data path over loopback: real sockets, endpoints as threads, no process and no feed.

mod handover;
mod room;
mod semantics;
mod silence;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::thread;

use model::{Changes, Kind, Model, Object, ObjectKey, Service};
use socket2::{Domain, Type};

use super::*;
use crate::node_ips::{node_families, node_ips};
use crate::objects::{port, service, slice};
use crate::resolver::Node;
use crate::room::Limits;

/// How long any condition may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A /24 of loopback that no other test uses.
fn new_net() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let place = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) + std::process::id() * 31;
    let place = place % (250 * 250);
    format!("127.{}.{}", 2 + place / 250, 1 + place % 250)
}

/// A data path that follows a model, and the addresses of one test.
struct Fixture {
    net: String,
    runtime: tokio::runtime::Runtime,
    model: Model,
    snapshot: Snapshot,
    node: Node,
    datapath: Option<Userspace>,
    daemon: daemon::Daemon,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture::with(2, |_| {}, Limits::default())
    }

    fn with(workers: usize, change: impl Fn(&mut Settings), limits: Limits) -> Fixture {
        let net = new_net();
        let mut settings = Settings {
            workers,
            service_cidrs: Vec::new(),
            cluster_clients: Arc::default(),
            node_ips: vec![format!("{net}.200").parse().unwrap()],
            drain_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(3600),
            udp_idle_timeout: Duration::from_secs(60),
            max_affinity_clients: 1000,
        };
        change(&mut settings);
        let node = Node { families: node_families(&settings.node_ips), ..Node::default() };
        let daemon = daemon::Daemon::detached("proxy", 1);
        let metrics = ProxyMetrics::register(&daemon.metrics);
        let own = Arc::new(OwnAddresses::new(settings.service_cidrs.clone()));
        let shared = (Room::new(10_000, 100, limits), own);
        let datapath = Userspace::start(settings, shared, metrics, &daemon.supervisor).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Fixture {
            net,
            runtime,
            model: Model::default(),
            snapshot: Snapshot::default(),
            node,
            datapath: Some(datapath),
            daemon,
        }
    }

    fn ip(&self, last: u8) -> String {
        format!("{}.{last}", self.net)
    }

    fn addr(&self, last: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(last).parse().unwrap(), port)
    }

    fn datapath(&mut self) -> &mut Userspace {
        self.datapath.as_mut().unwrap()
    }

    /// Applies objects, deletes others, and syncs.
    fn change(&mut self, apply: Vec<Object>, delete: &[(Kind, &str)]) {
        let mut changes = Changes::default();
        for object in apply {
            self.model.apply(object, &mut changes);
        }
        for (kind, name) in delete {
            let key = ObjectKey { kind: *kind, name: ObjectName::new("demo", name) };
            self.model.delete(&key, &mut changes);
        }
        let (next, touched) = self.snapshot.next(&self.model, &changes.services, &self.node, 1);
        self.snapshot = next;
        let datapath = self.datapath.as_mut().unwrap();
        self.runtime.block_on(datapath.sync(&self.snapshot, &touched));
    }

    /// Service `web` on `.1:80`, TCP and UDP, by these endpoints on port 8080.
    fn serve(&mut self, endpoints: &[u8]) {
        let objects = vec![self.web(), self.endpoints(endpoints)];
        self.change(objects, &[]);
    }

    fn web(&self) -> Object {
        let ports = vec![
            port("t", 80, Protocol::Tcp, Some(30080)),
            port("u", 80, Protocol::Udp, Some(30080)),
        ];
        Object::Service(Arc::new(service("web", &[&self.ip(1)], ports)))
    }

    fn endpoints(&self, lasts: &[u8]) -> Object {
        let ports = [("t", Protocol::Tcp, 8080), ("u", Protocol::Udp, 8080)];
        let ips: Vec<_> = lasts.iter().map(|last| self.ip(*last)).collect();
        let ips: Vec<_> = ips.iter().map(String::as_str).collect();
        Object::EndpointSlice(Arc::new(slice("web", "web", &ports, &ips)))
    }

    fn vip(&self) -> SocketAddr {
        self.addr(1, 80)
    }

    /// Ends the test's data path the way the process ends it.
    fn drain(&mut self) {
        let datapath = self.datapath.take().unwrap();
        self.runtime.block_on(datapath.drain());
    }

    /// Waits for `condition` while control does its work.
    fn tend_until(&mut self, what: &str, mut condition: impl FnMut(&mut Fixture) -> bool) {
        let begun = std::time::Instant::now();
        while !condition(self) {
            assert!(begun.elapsed() < PATIENCE, "never happened: {what}");
            let datapath = self.datapath.as_mut().unwrap();
            self.runtime.block_on(async {
                sleep(Duration::from_millis(2)).await;
                datapath.tend().await;
            });
        }
    }
}

/// Listens at `addr`; each connection is handed to `each` on a thread of its own.
fn listen(addr: SocketAddr, each: impl Fn(TcpStream) + Send + Sync + 'static) {
    let listener = TcpListener::bind(addr).unwrap();
    let each = Arc::new(each);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let each = each.clone();
            thread::spawn(move || each(stream.unwrap()));
        }
    });
}

/// Endpoints that say the last number of their address and close.
fn name_endpoints(fixture: &Fixture, lasts: &[u8]) {
    for last in lasts.iter().copied() {
        listen(fixture.addr(last, 8080), move |mut stream| {
            stream.write_all(&[last]).unwrap();
        });
    }
}

fn dial(addr: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Connects and reads to the end.
fn ask(addr: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    dial(addr)?.read_to_end(&mut answer)?;
    Ok(answer)
}

fn is_refused(addr: SocketAddr) -> bool {
    ask(addr).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Waits until a drain has closed the listener, or is about to: a listener that ignores a
/// handshake takes no other.
fn wait_until_refused(addr: SocketAddr) {
    let begun = std::time::Instant::now();
    while TcpStream::connect_timeout(&addr, Duration::from_millis(100)).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "still accepting");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn connections_go_round_robin_whichever_worker_accepts() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11, 12, 13]);
    fixture.serve(&[11, 12, 13]);
    for addr in [fixture.vip(), fixture.addr(200, 30080)] {
        let mut counts = [0; 3];
        for _ in 0..300 {
            counts[ask(addr).unwrap()[0] as usize - 11] += 1;
        }
        assert_eq!(counts, [100; 3], "{addr}");
    }
}

#[test]
fn endpoints_come_and_go() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11, 12]);
    for endpoints in [&[][..], &[11], &[11, 12], &[12], &[], &[12]] {
        fixture.serve(endpoints);
        if endpoints.is_empty() {
            assert!(is_refused(fixture.vip()) && is_refused(fixture.addr(200, 30080)));
            continue;
        }
        let mut seen: Vec<u8> = endpoints.iter().map(|_| ask(fixture.vip()).unwrap()[0]).collect();
        seen.sort_unstable();
        assert_eq!(seen, endpoints);
    }
    fixture.change(vec![], &[(Kind::Service, "web")]);
    assert!(is_refused(fixture.vip()));
    let bound = (Protocol::Tcp, fixture.vip());
    assert!(!fixture.datapath().bound.has(bound));
    fixture.serve(&[11]);
    assert_eq!(ask(fixture.vip()).unwrap(), [11]);
}

#[test]
fn a_frontend_that_changes_hands_keeps_its_listener() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11, 12]);
    fixture.serve(&[11]);
    let ports = vec![port("", 80, Protocol::Tcp, None)];
    let other = service("a-first", &[&fixture.ip(1)], ports);
    let slice = slice("a-first", "a", &[("", Protocol::Tcp, 8080)], &[&fixture.ip(12)]);
    let objects = vec![Object::Service(Arc::new(other)), Object::EndpointSlice(Arc::new(slice))];
    fixture.change(objects, &[]);
    assert_eq!(ask(fixture.vip()).unwrap(), [12]);
    fixture.change(vec![], &[(Kind::Service, "a-first")]);
    assert_eq!(ask(fixture.vip()).unwrap(), [11]);
}

#[test]
fn an_end_of_stream_is_passed_on_and_the_other_direction_lives() {
    let mut fixture = Fixture::new();
    // Answers only after the client has ended its direction.
    listen(fixture.addr(11, 8080), |mut stream| {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).unwrap();
        request.reverse();
        stream.write_all(&request).unwrap();
    });
    // Ends its direction at once, then hears the client out and tells how much that was.
    let (heard, hears) = std::sync::mpsc::channel();
    listen(fixture.addr(12, 8080), move |mut stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut request = Vec::new();
        stream.read_to_end(&mut request).unwrap();
        heard.send(request.len()).unwrap();
    });
    fixture.serve(&[11]);
    let mut client = dial(fixture.vip()).unwrap();
    client.write_all(b"abc").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "cba");

    fixture.serve(&[12]);
    let mut client = dial(fixture.vip()).unwrap();
    assert_eq!(client.read(&mut [0; 9]).unwrap(), 0);
    client.write_all(&[7; 100_000]).unwrap();
    drop(client);
    assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), 100_000);
}

fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

fn is_reset<T>(result: std::io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    let mut fixture = Fixture::new();
    listen(fixture.addr(11, 8080), |mut stream| {
        stream.read_exact(&mut [0; 1]).unwrap();
        reset(&stream);
    });
    let (heard, hears) = std::sync::mpsc::channel();
    let told = heard.clone();
    listen(fixture.addr(12, 8080), move |mut stream| {
        stream.write_all(b"x").unwrap();
        told.send(is_reset(stream.read(&mut [0; 9]))).unwrap();
    });
    // The client has ended its direction, and nothing comes from the endpoint.
    listen(fixture.addr(13, 8080), move |mut stream| {
        assert_eq!(stream.read(&mut [0; 9]).unwrap(), 0);
        heard.send(false).unwrap();
        let gone = || stream.take_error().unwrap().is_some();
        let begun = std::time::Instant::now();
        while !gone() && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        heard.send(begun.elapsed() < PATIENCE).unwrap();
    });

    fixture.serve(&[11]);
    let mut client = dial(fixture.vip()).unwrap();
    client.write_all(b"x").unwrap();
    assert!(is_reset(client.read(&mut [0; 9])));

    fixture.serve(&[12]);
    let mut client = dial(fixture.vip()).unwrap();
    client.read_exact(&mut [0; 1]).unwrap();
    reset(&client);
    drop(client);
    assert!(hears.recv_timeout(PATIENCE).unwrap());

    fixture.serve(&[13]);
    let client = dial(fixture.vip()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert!(!hears.recv_timeout(PATIENCE).unwrap());
    reset(&client);
    drop(client);
    assert!(hears.recv_timeout(PATIENCE).unwrap(), "the endpoint never saw the reset");
}

#[test]
fn what_an_endpoint_said_before_it_reset_reaches_the_client() {
    let mut fixture = Fixture::new();
    // Answers early and closes with most of the request unread: its kernel sends a reset.
    listen(fixture.addr(11, 8080), |mut stream| {
        stream.read_exact(&mut [0; 10]).unwrap();
        stream.write_all(b"too large").unwrap();
    });
    fixture.serve(&[11]);
    let mut client = dial(fixture.vip()).unwrap();
    let mut writer = client.try_clone().unwrap();
    let upload = thread::spawn(move || while writer.write_all(&[0; 65_536]).is_ok() {});
    let mut answer = [0; 9];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"too large");
    upload.join().unwrap();
}

#[test]
fn a_slow_receiver_gets_every_byte_in_order() {
    const LENGTH: usize = 8 << 20;
    fn pattern(at: usize) -> u8 {
        (at * 31 + at / 251) as u8
    }
    let mut fixture = Fixture::new();
    listen(fixture.addr(11, 8080), |mut stream| {
        let mut writer = stream.try_clone().unwrap();
        let echo = thread::spawn(move || {
            let mut buffer = vec![0; 10_000];
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => break,
                    length => writer.write_all(&buffer[..length]).unwrap(),
                }
            }
        });
        echo.join().unwrap();
    });
    fixture.serve(&[11]);
    let mut client = dial(fixture.vip()).unwrap();
    let mut writer = client.try_clone().unwrap();
    let sender = thread::spawn(move || {
        let data: Vec<u8> = (0..LENGTH).map(pattern).collect();
        writer.write_all(&data).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let (mut got, mut buffer) = (0, vec![0; 3000]);
    loop {
        let length = client.read(&mut buffer).unwrap();
        if length == 0 {
            break;
        }
        for (place, byte) in buffer[..length].iter().enumerate() {
            assert_eq!(*byte, pattern(got + place), "at {}", got + place);
        }
        got += length;
    }
    sender.join().unwrap();
    assert_eq!(got, LENGTH);
}

#[test]
fn a_failed_connect_is_retried_on_the_next_endpoint() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11, 12]);
    // Nobody listens at the others.
    fixture.serve(&[9, 10, 11, 12, 13]);
    let answers: Vec<u8> = (0..50).map(|_| ask(fixture.vip()).unwrap()[0]).collect();
    let elevens = answers.iter().filter(|last| **last == 11).count();
    assert_eq!(elevens, 25, "{answers:?} of two that live");
    // Each dead endpoint cost one client a try.
    let meter = fixture.datapath().metrics.meters.of(&ObjectName::new("demo", "web"));
    assert_eq!(meter.connect_failures.load(Ordering::Relaxed), 3);
    fixture.serve(&[9, 10]);
    assert!(is_reset(ask(fixture.vip())));
    let meter = fixture.datapath().metrics.meters.of(&ObjectName::new("demo", "web"));
    assert_eq!(meter.failed.load(Ordering::Relaxed), 1);
}

#[test]
fn a_connect_that_hangs_is_given_up_for_the_next_endpoint() {
    let short = |settings: &mut Settings| settings.connect_timeout = Duration::from_millis(50);
    let mut fixture = Fixture::with(1, short, Limits::default());
    name_endpoints(&fixture, &[11]);
    let _full = full_listener(fixture.addr(12, 8080));
    fixture.serve(&[11, 12]);
    for _ in 0..10 {
        assert_eq!(ask(fixture.vip()).unwrap(), [11]);
    }
    // One client waited for it.
    let meter = fixture.datapath().metrics.meters.of(&ObjectName::new("demo", "web"));
    assert_eq!(meter.connect_failures.load(Ordering::Relaxed), 1);
}

/// A listener whose queue is full drops further handshakes: connects to it hang.
fn full_listener(addr: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let full = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&addr.into()).unwrap();
    full.listen(0).unwrap();
    let hang = Duration::from_millis(200);
    let queued: Vec<TcpStream> =
        std::iter::from_fn(|| TcpStream::connect_timeout(&addr, hang).ok()).take(10).collect();
    assert!(queued.len() < 10, "the queue never filled");
    (full.into(), queued)
}

#[test]
fn an_endpoint_that_goes_while_it_is_connected_to_gets_no_client() {
    let long = |settings: &mut Settings| settings.connect_timeout = PATIENCE;
    let mut fixture = Fixture::with(1, long, Limits::default());
    name_endpoints(&fixture, &[11]);
    let (full, queued) = full_listener(fixture.addr(12, 8080));
    fixture.serve(&[12]);
    let mut client = dial(fixture.vip()).unwrap();
    let meter = fixture.datapath().metrics.meters.of(&ObjectName::new("demo", "web"));
    fixture.tend_until("it is accepted", |_| meter.accepted.load(Ordering::Relaxed) == 1);
    fixture.serve(&[11]);
    // Now the one that went takes connections.
    drop(queued);
    thread::spawn(move || {
        for stream in full.incoming() {
            let _ = stream.unwrap().write_all(&[12]);
        }
    });
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [11]);
    assert_eq!(meter.connect_failures.load(Ordering::Relaxed), 0);
}

/// An endpoint that answers each byte with its name.
fn talkers(fixture: &Fixture, lasts: &[u8]) {
    for last in lasts.iter().copied() {
        listen(fixture.addr(last, 8080), move |mut stream| {
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&[last]).is_ok() {}
        });
    }
}

fn exchange(client: &mut TcpStream) -> std::io::Result<u8> {
    let mut byte = [0];
    client.write_all(&byte)?;
    client.read_exact(&mut byte)?;
    Ok(byte[0])
}

#[test]
fn a_removed_endpoint_drains_and_then_ends() {
    let short = |settings: &mut Settings| settings.drain_timeout = Duration::from_millis(300);
    let mut fixture = Fixture::with(2, short, Limits::default());
    talkers(&fixture, &[11, 12]);
    fixture.serve(&[11]);
    let mut old = dial(fixture.vip()).unwrap();
    assert_eq!(exchange(&mut old).unwrap(), 11);
    fixture.serve(&[12]);
    assert_eq!(exchange(&mut old).unwrap(), 11);
    for _ in 0..20 {
        assert_eq!(exchange(&mut dial(fixture.vip()).unwrap()).unwrap(), 12);
    }
    old.set_nonblocking(true).unwrap();
    fixture.tend_until("the drained connection ends", |_| is_reset(old.read(&mut [0; 1])));
    // The same when the Service goes, and its cell goes with the last connection.
    let mut last = dial(fixture.vip()).unwrap();
    assert_eq!(exchange(&mut last).unwrap(), 12);
    fixture.change(vec![], &[(Kind::Service, "web")]);
    assert!(is_refused(fixture.vip()));
    assert_eq!(exchange(&mut last).unwrap(), 12);
    last.set_nonblocking(true).unwrap();
    fixture.tend_until("the last connection ends", |_| is_reset(last.read(&mut [0; 1])));
    fixture.tend_until("nothing is kept", |f| f.datapath().hosted.is_empty());
    assert!(fixture.datapath().due().is_none());
}

#[test]
fn an_endpoint_that_comes_back_keeps_its_connections() {
    let short = |settings: &mut Settings| settings.drain_timeout = Duration::from_millis(100);
    let mut fixture = Fixture::with(2, short, Limits::default());
    talkers(&fixture, &[11, 12]);
    fixture.serve(&[11, 12]);
    let mut clients = [(); 2].map(|()| dial(fixture.vip()).unwrap());
    for client in &mut clients {
        exchange(client).unwrap();
    }
    fixture.change(vec![], &[(Kind::Service, "web")]);
    fixture.serve(&[11, 12]);
    fixture.tend_until("the drain time-out is over", |f| f.datapath().due().is_none());
    for client in &mut clients {
        exchange(client).unwrap();
    }
}

#[test]
fn a_taken_port_is_reported_and_tried_again() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11]);
    let taken = TcpListener::bind(fixture.vip()).unwrap();
    fixture.serve(&[11]);
    let failures = fixture.datapath().failures.clone();
    assert_eq!(failures.len(), 1);
    let (address, reason) = failures.iter().next().unwrap();
    assert_eq!(address.to_string(), format!("{}/TCP", fixture.vip()));
    assert!(reason.ends_with("is taken by another process"), "{reason}");
    // The NodePort of the same Service is not affected.
    assert_eq!(ask(fixture.addr(200, 30080)).unwrap(), [11]);
    drop(taken);
    let vip = fixture.vip();
    fixture.tend_until("the port is bound", |_| ask(vip).is_ok_and(|answer| answer == [11]));
    assert!(fixture.datapath().failures.is_empty());
    assert!(fixture.datapath().retries.is_empty());
    fixture.serve(&[]);
    TcpListener::bind(fixture.vip()).unwrap();
}

/// A Service `name` at `.ip:80` over TCP and UDP, by one endpoint.
fn aimed_at(fixture: &Fixture, name: &str, ip: u8, endpoint: SocketAddr) -> [Object; 2] {
    let ports = vec![port("t", 80, Protocol::Tcp, None), port("u", 80, Protocol::Udp, None)];
    let number = endpoint.port();
    let targets = [("t", Protocol::Tcp, number), ("u", Protocol::Udp, number)];
    [
        Object::Service(Arc::new(service(name, &[&fixture.ip(ip)], ports))),
        Object::EndpointSlice(Arc::new(slice(name, name, &targets, &[&endpoint.ip().to_string()]))),
    ]
}

#[test]
fn services_that_name_each_other_make_no_ring() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11]);
    let (first, second) = (fixture.addr(1, 80), fixture.addr(2, 80));
    let mut objects = aimed_at(&fixture, "first", 1, second).to_vec();
    objects.extend(aimed_at(&fixture, "second", 2, first));
    objects.extend(aimed_at(&fixture, "apart", 3, fixture.addr(11, 8080)));
    fixture.change(objects, &[]);
    assert!(is_reset(ask(first)));
    let client = udp_client(&fixture, first);
    client.send(b"x").unwrap();
    let meter = fixture.datapath().metrics.meters.of(&ObjectName::new("demo", "first"));
    fixture.tend_until("the datagram is dropped", |_| {
        meter.dropped_datagrams.load(Ordering::Relaxed) == 1
    });
    fixture.tend_until("the connection is over", |fixture| {
        fixture.datapath().room.open_connections() == 0
    });
    assert_eq!(meter.accepted.load(Ordering::Relaxed), 1);
    assert_eq!(fixture.datapath().room.open_sessions(), 0);
    assert_eq!(ask(fixture.addr(3, 80)).unwrap(), [11]);
    // What was a frontend is an endpoint like any other once it is one no more.
    fixture.change(vec![], &[(Kind::Service, "second")]);
    listen(second, |mut stream| stream.write_all(&[2]).unwrap());
    assert_eq!(ask(first).unwrap(), [2]);
}

#[test]
fn an_address_of_two_frontends_passes_on_when_the_first_goes() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11, 12]);
    let node = fixture.addr(200, 30080);
    let ports = vec![port("", 30080, Protocol::Tcp, None)];
    let other = service("other", &[&fixture.ip(200)], ports);
    let ends = slice("other", "other", &[("", Protocol::Tcp, 8080)], &[&fixture.ip(12)]);
    let objects = vec![Object::Service(Arc::new(other)), Object::EndpointSlice(Arc::new(ends))];
    fixture.change(objects, &[]);
    fixture.serve(&[11]);
    assert_eq!(ask(node).unwrap(), [12]);
    let failures = fixture.datapath().failures.clone();
    let reason = failures.values().next().unwrap();
    assert!(reason.contains("a ClusterIP and a NodePort have the same address"), "{reason}");
    fixture.change(vec![], &[(Kind::Service, "other")]);
    assert_eq!(ask(node).unwrap(), [11]);
    assert!(fixture.datapath().failures.is_empty());
}

#[test]
fn a_service_that_never_had_an_endpoint_leaves_nothing_behind() {
    let mut fixture = Fixture::new();
    fixture.serve(&[]);
    fixture.change(vec![], &[(Kind::Service, "web")]);
    assert!(fixture.datapath().hosted.is_empty());
}

#[test]
fn an_address_of_another_host_says_what_to_do() {
    let mut fixture = Fixture::new();
    // TEST-NET-1 (RFC 5737): nobody's address.
    let ports = vec![port("", 80, Protocol::Tcp, None)];
    let far = service("far", &["192.0.2.1"], ports);
    let ends = slice("far", "far", &[("", Protocol::Tcp, 8080)], &[&fixture.ip(11)]);
    let objects = vec![Object::Service(Arc::new(far)), Object::EndpointSlice(Arc::new(ends))];
    fixture.change(objects, &[]);
    let failures = fixture.datapath().failures.clone();
    let reason = failures.values().next().unwrap();
    assert!(reason.starts_with("192.0.2.1 is not an address of this host: use"), "{reason}");
    fixture.change(vec![], &[(Kind::Service, "far")]);
    assert!(fixture.datapath().failures.is_empty());
    assert!(fixture.datapath().retries.is_empty());
}

#[test]
fn connections_over_the_limit_wait_until_there_is_room() {
    let limits = Limits { connections: Some(3), ..Limits::default() };
    let mut fixture = Fixture::with(2, |_| {}, limits);
    talkers(&fixture, &[11]);
    fixture.serve(&[11]);
    let mut served: Vec<_> = (0..3).map(|_| dial(fixture.vip()).unwrap()).collect();
    for client in &mut served {
        assert_eq!(exchange(client).unwrap(), 11);
    }
    let mut waits = dial(fixture.vip()).unwrap();
    let room = fixture.datapath().room.clone();
    fixture.tend_until("the fourth client waits", |_| room.waiting_clients() == 1);
    waits.write_all(&[0]).unwrap();
    for client in &mut served {
        assert_eq!(exchange(client).unwrap(), 11);
    }
    served.pop();
    waits.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut byte = [0];
    waits.read_exact(&mut byte).unwrap();
    assert_eq!(byte, [11]);
}

#[test]
fn a_drain_refuses_new_clients_and_finishes_old_ones() {
    let mut fixture = Fixture::new();
    talkers(&fixture, &[11]);
    fixture.serve(&[11]);
    let mut client = dial(fixture.vip()).unwrap();
    exchange(&mut client).unwrap();
    let vip = fixture.vip();
    let finish = thread::spawn(move || {
        wait_until_refused(vip);
        exchange(&mut client).unwrap()
    });
    fixture.drain();
    assert_eq!(finish.join().unwrap(), 11);
}

#[test]
fn a_drain_ends_what_does_not_end_by_itself() {
    let short = |settings: &mut Settings| settings.drain_timeout = Duration::from_millis(50);
    let mut fixture = Fixture::with(2, short, Limits::default());
    talkers(&fixture, &[11]);
    fixture.serve(&[11]);
    let mut client = dial(fixture.vip()).unwrap();
    exchange(&mut client).unwrap();
    fixture.drain();
    assert!(is_reset(client.read(&mut [0; 1])));
}

/// UDP endpoints that answer each datagram with their name and the datagram.
fn udp_endpoints(fixture: &Fixture, lasts: &[u8]) {
    for last in lasts.iter().copied() {
        let socket = UdpSocket::bind(fixture.addr(last, 8080)).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((length, from)) = socket.recv_from(&mut buffer[1..]) {
                buffer[0] = last;
                let _ = socket.send_to(&buffer[..=length], from);
            }
        });
    }
}

/// A client socket that takes datagrams from `addr` alone.
fn udp_client(fixture: &Fixture, addr: SocketAddr) -> UdpSocket {
    let any = if addr.is_ipv4() { format!("{}:0", fixture.ip(100)) } else { "[::1]:0".into() };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(addr).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// Sends a question of its own until an answer to it comes; which endpoint it came from. A late
/// answer to an earlier question may have come from another one.
fn udp_ask(socket: &UdpSocket) -> u8 {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let question = format!("question {}", ASKED.fetch_add(1, Ordering::Relaxed));
    let begun = std::time::Instant::now();
    let mut buffer = [0; 100];
    while begun.elapsed() < PATIENCE {
        let _ = socket.send(question.as_bytes());
        while let Ok(length) = socket.recv(&mut buffer) {
            if buffer[1..length] == *question.as_bytes() {
                return buffer[0];
            }
        }
    }
    panic!("no answer")
}

#[test]
fn udp_clients_stay_with_an_endpoint_each_and_go_round_robin() {
    let mut fixture = Fixture::new();
    udp_endpoints(&fixture, &[11, 12, 13]);
    fixture.serve(&[11, 12, 13]);
    for addr in [fixture.vip(), fixture.addr(200, 30080)] {
        let mut counts = [0; 3];
        // All stay open: a client with the port of an earlier one would get its session.
        let clients: Vec<_> = (0..30).map(|_| udp_client(&fixture, addr)).collect();
        for client in &clients {
            let first = udp_ask(client);
            assert_eq!([udp_ask(client), udp_ask(client)], [first; 2]);
            counts[first as usize - 11] += 1;
        }
        assert_eq!(counts, [10; 3]);
    }
}

#[test]
fn a_udp_client_moves_when_its_endpoint_goes() {
    let mut fixture = Fixture::new();
    udp_endpoints(&fixture, &[11, 12]);
    let client = udp_client(&fixture, fixture.vip());
    let is_refused = |result: std::io::Result<usize>| {
        result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    // Without endpoints the kernel answers: port unreachable.
    fixture.serve(&[]);
    client.send(b"x").unwrap();
    assert!(is_refused(client.recv(&mut [0; 9])));
    fixture.serve(&[11]);
    assert_eq!(udp_ask(&client), 11);
    fixture.serve(&[12]);
    assert_eq!(udp_ask(&client), 12);
    let room = fixture.datapath().room.clone();
    fixture.change(vec![], &[(Kind::Service, "web")]);
    client.send(b"x").unwrap();
    assert!(is_refused(client.recv(&mut [0; 9])));
    fixture.tend_until("the sessions are gone", |_| room.open_sessions() == 0);
}

#[test]
fn a_udp_endpoint_that_refuses_is_left() {
    let mut fixture = Fixture::new();
    udp_endpoints(&fixture, &[12]);
    // Nobody listens at the first.
    fixture.serve(&[11, 12]);
    for _ in 0..4 {
        let client = udp_client(&fixture, fixture.vip());
        assert_eq!(udp_ask(&client), 12);
    }
}

#[test]
fn no_udp_datagram_is_lost_at_an_endpoint_that_refuses() {
    let mut fixture = Fixture::new();
    udp_endpoints(&fixture, &[12, 14]);
    // Nobody listens at the others.
    fixture.serve(&[11, 12, 13, 14]);
    let mut counts = [0; 2];
    let clients: Vec<_> = (0..20).map(|_| udp_client(&fixture, fixture.vip())).collect();
    for client in &clients {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        // Two at once, as a resolver asks.
        client.send(b"A").unwrap();
        client.send(b"AAAA").unwrap();
        let answer = || {
            let mut buffer = [0; 9];
            let length = client.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        };
        let (first, second) = (answer(), answer());
        assert_eq!((&first[1..], &second[1..]), (&b"A"[..], &b"AAAA"[..]));
        assert_eq!(first[0], second[0]);
        counts[usize::from(first[0] == 14)] += 1;
    }
    assert_eq!(counts, [10; 2]);
    let meter = fixture.datapath().metrics.meters.of(&ObjectName::new("demo", "web"));
    assert_eq!(meter.connect_failures.load(Ordering::Relaxed), 2);
    assert_eq!(meter.dropped_datagrams.load(Ordering::Relaxed), 0);
    // When all refuse, nobody goes round in circles.
    fixture.serve(&[11, 13]);
    let client = udp_client(&fixture, fixture.vip());
    client.send(b"A").unwrap();
    let dropped = || meter.dropped_datagrams.load(Ordering::Relaxed) == 1;
    fixture.tend_until("a datagram that all refuse is dropped", |_| dropped());
}

#[test]
fn idle_udp_sessions_end() {
    let short = |settings: &mut Settings| settings.udp_idle_timeout = Duration::from_millis(40);
    let mut fixture = Fixture::with(2, short, Limits::default());
    udp_endpoints(&fixture, &[11]);
    fixture.serve(&[11]);
    let room = fixture.datapath().room.clone();
    udp_ask(&udp_client(&fixture, fixture.vip()));
    fixture.tend_until("the session ends", |_| room.open_sessions() == 0);
}

#[test]
fn udp_sessions_over_the_limit_are_dropped() {
    let limits = Limits { sessions: Some(1), ..Limits::default() };
    let mut fixture = Fixture::with(1, |_| {}, limits);
    udp_endpoints(&fixture, &[11]);
    fixture.serve(&[11]);
    let first = udp_client(&fixture, fixture.vip());
    udp_ask(&first);
    let second = udp_client(&fixture, fixture.vip());
    second.send(b"x").unwrap();
    assert_eq!(second.recv(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock);
    udp_ask(&first);
    let meter = fixture.datapath().metrics.meters.of(&ObjectName::new("demo", "web"));
    assert_eq!(meter.dropped_datagrams.load(Ordering::Relaxed), 1);
}

#[test]
fn a_flood_from_ever_new_ports_holds_no_session_for_long() {
    let limits = Limits { sessions: Some(4), sessions_per_client: Some(4), ..Limits::default() };
    let mut fixture = Fixture::with(1, |_| {}, limits);
    udp_endpoints(&fixture, &[11]);
    fixture.serve(&[11]);
    let talks = udp_client(&fixture, fixture.vip());
    assert_eq!([udp_ask(&talks), udp_ask(&talks)], [11; 2]);
    let room = fixture.datapath().room.clone();
    let flood: Vec<_> = (0..3).map(|_| udp_client(&fixture, fixture.vip())).collect();
    for client in &flood {
        client.send(b"x").unwrap();
    }
    fixture.tend_until("the flood takes all", |_| room.open_sessions() == 4);
    // Long before the idle time-out of a minute.
    let late = udp_client(&fixture, fixture.vip());
    assert_eq!(udp_ask(&late), 11);
    assert!(room.open_sessions() <= 4);
    assert_eq!(udp_ask(&talks), 11);
}

/// A client of its own address.
fn udp_client_at(fixture: &Fixture, last: u8, vip: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(fixture.addr(last, 0)).unwrap();
    socket.connect(vip).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

#[test]
fn one_udp_client_cannot_take_the_sessions_of_others() {
    let limits = Limits { sessions: Some(16), ..Limits::default() };
    let mut fixture = Fixture::with(1, |_| {}, limits);
    udp_endpoints(&fixture, &[11]);
    fixture.serve(&[11]);
    // On another frontend of the thread, and each talks, so that it would have its session for a
    // minute.
    let elsewhere = fixture.addr(200, 30080);
    let greedy: Vec<_> = (0..30).map(|_| udp_client_at(&fixture, 100, elsewhere)).collect();
    for client in &greedy {
        let _ = (client.send(b"one"), client.send(b"two"));
    }
    let room = fixture.datapath().room.clone();
    fixture.tend_until("it has all", |_| room.open_sessions() == 16);
    let others: Vec<_> =
        (101..=112).map(|last| udp_client_at(&fixture, last, fixture.vip())).collect();
    for other in &others {
        // The first datagram is served, however busy the greedy one is.
        greedy.iter().for_each(|client| drop(client.send(b"more")));
        other.set_read_timeout(Some(PATIENCE)).unwrap();
        other.send(b"question").unwrap();
        assert_eq!(other.recv(&mut [0; 100]).unwrap(), 9);
    }
    assert_eq!(room.open_sessions(), 16);
    // Nor can it have them back.
    let begun = |fixture: &mut Fixture| {
        let meter = fixture.datapath().metrics.meters.of(&ObjectName::new("demo", "web"));
        meter.sessions.load(Ordering::Relaxed)
    };
    let before = begun(&mut fixture);
    greedy.iter().for_each(|client| drop(client.send(b"more")));
    others.iter().for_each(|other| assert_eq!(udp_ask(other), 11));
    assert!(begun(&mut fixture) <= before + greedy.len() as u64);
    assert_eq!(room.open_sessions(), 16);
}

#[test]
fn a_flood_from_many_addresses_leaves_every_client_a_session() {
    let limits = Limits { sessions: Some(40), ..Limits::default() };
    let mut fixture = Fixture::with(1, |_| {}, limits);
    udp_endpoints(&fixture, &[11]);
    fixture.serve(&[11]);
    let vip = fixture.vip();
    let calm = udp_client_at(&fixture, 99, vip);
    calm.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sockets = Vec::new();
    for turn in 0..10 {
        // Ever new ports of eighteen addresses.
        let flood = (100..118).map(|last| udp_client_at(&fixture, last, vip));
        sockets.extend(flood.inspect(|client| drop(client.send(b"x"))));
        calm.send(b"question").unwrap();
        assert_eq!(calm.recv(&mut [0; 100]).unwrap(), 9, "turn {turn}");
    }
    let meter = fixture.datapath().metrics.meters.of(&ObjectName::new("demo", "web"));
    assert!(meter.dropped_datagrams.load(Ordering::Relaxed) > 0, "it was no flood");
}

#[test]
fn a_drain_waits_for_the_replies_that_clients_wait_for() {
    let mut fixture = Fixture::new();
    let endpoint = UdpSocket::bind(fixture.addr(11, 8080)).unwrap();
    fixture.serve(&[11]);
    let client = udp_client(&fixture, fixture.vip());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send(b"x").unwrap();
    let (_, from) = endpoint.recv_from(&mut [0; 9]).unwrap();
    let vip = fixture.vip();
    let answer = thread::spawn(move || {
        wait_until_refused(vip);
        endpoint.send_to(b"y", from).unwrap();
    });
    fixture.drain();
    answer.join().unwrap();
    assert_eq!(client.recv(&mut [0; 9]).unwrap(), 1);
}

/// The port of a NodePort that nobody has on any address of this host.
fn free_node_port() -> u16 {
    let range = 20_000..30_000;
    let free = |port: &u16| {
        TcpListener::bind(("0.0.0.0", *port)).is_ok() && UdpSocket::bind(("0.0.0.0", *port)).is_ok()
    };
    let start = 20_000 + (std::process::id() % 10_000) as u16;
    (start..30_000).chain(range).find(free).unwrap()
}

#[test]
fn a_node_port_answers_on_every_address_from_that_address() {
    let all = |settings: &mut Settings| settings.node_ips = node_ips(&[]);
    let mut fixture = Fixture::with(2, all, Limits::default());
    name_endpoints(&fixture, &[11, 12]);
    udp_endpoints(&fixture, &[11, 12]);
    let number = free_node_port();
    // The ClusterIP has the same port number: the two must stand side by side.
    let ports = vec![
        port("t", number, Protocol::Tcp, Some(number)),
        port("u", number, Protocol::Udp, Some(number)),
    ];
    let web: Service = service("web", &[&fixture.ip(1)], ports);
    let objects = vec![Object::Service(Arc::new(web)), fixture.endpoints(&[11, 12])];
    fixture.change(objects, &[]);
    assert!(fixture.datapath().failures.is_empty(), "{:?}", fixture.datapath().failures);
    let mut addrs = vec![fixture.addr(1, number), fixture.addr(77, number)];
    addrs.push(SocketAddr::from(([127, 0, 0, 1], number)));
    if sockets::has_ipv6() {
        addrs.push(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), number));
    }
    for addr in addrs {
        let mut seen = [ask(addr).unwrap()[0], ask(addr).unwrap()[0]];
        seen.sort_unstable();
        assert_eq!(seen, [11, 12], "{addr}");
        // The client's socket is connected: it takes replies from this address only.
        let clients = [(); 2].map(|()| udp_client(&fixture, addr));
        let mut seen = [udp_ask(&clients[0]), udp_ask(&clients[1])];
        seen.sort_unstable();
        assert_eq!(seen, [11, 12], "{addr}");
    }
}

#[test]
fn an_answer_in_two_small_pieces_does_not_wait_for_an_acknowledgement() {
    let mut fixture = Fixture::new();
    // Nagle's algorithm is on: the second piece leaves when the first is acknowledged.
    listen(fixture.addr(11, 8080), |mut stream| {
        stream.read_exact(&mut [0; 7]).unwrap();
        stream.write_all(b"head").unwrap();
        stream.write_all(b"body").unwrap();
        let _ = stream.read(&mut [0]);
    });
    fixture.serve(&[11]);
    is_not_delayed(|| {
        let mut client = dial(fixture.vip()).unwrap();
        client.write_all(b"request").unwrap();
        client.read_exact(&mut [0; 8]).unwrap();
    });
}

#[test]
fn a_request_in_two_small_pieces_waits_hardly_for_an_acknowledgement() {
    let mut fixture = Fixture::new();
    listen(fixture.addr(11, 8080), |mut stream| {
        stream.read_exact(&mut [0; 8]).unwrap();
        stream.write_all(b"answer").unwrap();
    });
    fixture.serve(&[11]);
    is_not_delayed(|| {
        let mut client = dial(fixture.vip()).unwrap();
        client.write_all(b"head").unwrap();
        client.write_all(b"body").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
    });
}

/// A delayed acknowledgement would hold up each exchange for 40 ms or more (TCP_ATO_MIN). Other
/// work of the machine may hold up many of them, but not all.
fn is_not_delayed(exchange: impl Fn()) {
    let took = (0..MAX_EXCHANGES).map(|_| {
        let begun = std::time::Instant::now();
        exchange();
        begun.elapsed()
    });
    let quick = took.filter(|took| *took < Duration::from_millis(40)).take(QUICK_EXCHANGES);
    assert_eq!(quick.count(), QUICK_EXCHANGES, "of {MAX_EXCHANGES}");
}

/// Exchanges that must be quicker than a delayed acknowledgement, and tries for that.
const QUICK_EXCHANGES: usize = 10;
const MAX_EXCHANGES: usize = 100;

#[test]
fn a_data_thread_that_ends_leaves_the_process_neither_ready_nor_live() {
    let mut fixture = Fixture::with(1, |_| {}, Limits::default());
    fixture.serve(&[11]);
    assert!(fixture.daemon.readiness.reasons().is_empty());
    for done in fixture.datapath().workers[0].send(Command::Panic) {
        let _ = fixture.runtime.block_on(done);
    }
    let expected = ["thread tcp-0 panicked", "thread udp-0 panicked"];
    fixture.tend_until("both are reported", |fixture| {
        let mut failures = fixture.daemon.liveness.failures();
        failures.sort_unstable();
        failures == expected
    });
    assert_eq!(fixture.daemon.readiness.reasons().len(), 2);
    // Control goes on without them.
    fixture.serve(&[12]);
}
