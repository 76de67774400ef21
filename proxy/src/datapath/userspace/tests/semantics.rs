//! Session affinity and source ranges over loopback.

use std::net::IpAddr;

use ipnet::IpNet;
use model::ServiceType;
use socket2::Socket;

use super::*;

impl Fixture {
    /// Service `web`, changed, by these endpoints.
    fn serve_changed(&mut self, change: impl FnOnce(&mut Service), endpoints: &[u8]) {
        let Object::Service(mut service) = self.web() else { unreachable!() };
        change(Arc::get_mut(&mut service).unwrap());
        let objects = vec![Object::Service(service), self.endpoints(endpoints)];
        self.change(objects, &[]);
    }

    fn serve_sticky(&mut self, timeout: Duration, endpoints: &[u8]) {
        self.serve_changed(|service| service.client_ip_affinity = Some(timeout), endpoints);
    }

    /// A load balancer's IP `.2` for clients from `.101` only.
    fn serve_ranged(&mut self) {
        let (ip, range) = (self.addr(2, 1).ip(), IpNet::from(self.addr(101, 1).ip()));
        let change = |service: &mut Service| {
            service.service_type = ServiceType::LoadBalancer;
            service.load_balancer_ips = vec![ip];
            service.load_balancer_source_ranges = vec![range];
        };
        self.serve_changed(change, &[11]);
    }
}

/// The endpoint that a client with this address reaches.
fn ask_from(client: IpAddr, addr: SocketAddr) -> std::io::Result<u8> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(client, 0).into())?;
    socket.connect_timeout(&addr.into(), Duration::from_secs(5))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut name = [0];
    stream.read_exact(&mut name)?;
    Ok(name[0])
}

fn udp_from(client: IpAddr, addr: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((client, 0)).unwrap();
    socket.connect(addr).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_client_keeps_its_endpoint_on_every_frontend_of_the_port() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11, 12, 13]);
    fixture.serve_sticky(HOUR, &[11, 12, 13]);
    let mut seen = Vec::new();
    for last in [101, 102, 103] {
        let client = fixture.addr(last, 1).ip();
        let first = ask_from(client, fixture.vip()).unwrap();
        for addr in [fixture.vip(), fixture.addr(200, 30080)] {
            for _ in 0..15 {
                assert_eq!(ask_from(client, addr).unwrap(), first, "{client} {addr}");
            }
        }
        seen.push(first);
    }
    // Each new client takes a turn, and no connection but its first does.
    assert_eq!(seen, [11, 12, 13]);
}

#[test]
fn connections_at_the_same_time_get_the_same_endpoint() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11, 12, 13]);
    fixture.serve_sticky(HOUR, &[11, 12, 13]);
    let addr = fixture.vip();
    for last in 101..111 {
        let client = fixture.addr(last, 1).ip();
        let asks: Vec<_> =
            (0..8).map(|_| thread::spawn(move || ask_from(client, addr).unwrap())).collect();
        let mut seen: Vec<_> = asks.into_iter().map(|ask| ask.join().unwrap()).collect();
        seen.dedup();
        assert_eq!(seen.len(), 1, "{client} {seen:?}");
    }
}

#[test]
fn a_client_whose_endpoint_goes_moves_at_once() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11, 12]);
    fixture.serve_sticky(HOUR, &[11, 12]);
    let client = fixture.addr(101, 1).ip();
    let first = ask_from(client, fixture.vip()).unwrap();
    let other = 23 - first;
    fixture.serve_sticky(HOUR, &[other]);
    assert_eq!(ask_from(client, fixture.vip()).unwrap(), other);
    fixture.serve_sticky(HOUR, &[11, 12]);
    for _ in 0..5 {
        assert_eq!(ask_from(client, fixture.vip()).unwrap(), other);
    }
    // An endpoint that is listed but refuses is left as well.
    fixture.serve_sticky(HOUR, &[other, 19]);
    for last in 110..120 {
        assert_eq!(ask_from(fixture.addr(last, 1).ip(), fixture.vip()).unwrap(), other);
    }
}

#[test]
fn affinity_comes_and_goes_live() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11, 12]);
    let client = fixture.addr(101, 1).ip();
    let vip = fixture.vip();
    let ask = || ask_from(client, vip).unwrap();
    for _ in 0..3 {
        fixture.serve(&[11, 12]);
        assert_eq!(ask(), 23 - ask());
        fixture.serve_sticky(HOUR, &[11, 12]);
        let first = ask();
        assert!((0..9).all(|_| ask() == first));
    }
    fixture.serve_sticky(Duration::from_millis(1), &[11, 12]);
    let first = ask();
    fixture.tend_until("the client may move", |_| ask() != first);
}

#[test]
fn udp_clients_keep_their_endpoint_from_whatever_port() {
    let mut fixture = Fixture::new();
    udp_endpoints(&fixture, &[11, 12]);
    fixture.serve_sticky(HOUR, &[11, 12]);
    let client = fixture.addr(101, 1).ip();
    let first = udp_ask(&udp_from(client, fixture.vip()));
    for _ in 0..5 {
        assert_eq!(udp_ask(&udp_from(client, fixture.vip())), first);
        assert_eq!(udp_ask(&udp_from(client, fixture.addr(200, 30080))), first);
    }
    fixture.serve_sticky(HOUR, &[23 - first]);
    assert_eq!(udp_ask(&udp_from(client, fixture.vip())), 23 - first);
    // Nothing listens at the endpoint that the client would keep.
    fixture.serve_sticky(HOUR, &[19]);
    let socket = udp_from(client, fixture.vip());
    socket.send(b"question").unwrap();
    fixture.serve_sticky(HOUR, &[11, 19]);
    assert_eq!(udp_ask(&socket), 11);
}

#[test]
fn connections_stay_with_an_endpoint_that_is_listed_and_end_when_it_is_not() {
    let short = |settings: &mut Settings| settings.drain_timeout = Duration::from_millis(50);
    let mut fixture = Fixture::with(2, short, Limits::default());
    talkers(&fixture, &[11, 12, 13]);
    fixture.serve(&[11, 12, 13]);
    let mut clients: Vec<_> = (0..3).map(|_| dial(fixture.vip()).unwrap()).collect();
    clients.sort_by_key(|client| exchange(&mut client.try_clone().unwrap()).unwrap());
    let with = |fixture: &Fixture, conditions: &[(u8, &str)]| {
        let ports = [("t", Protocol::Tcp, 8080), ("u", Protocol::Udp, 8080)];
        let texts: Vec<_> =
            conditions.iter().map(|(last, c)| format!("{}{c}", fixture.ip(*last))).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        Object::EndpointSlice(Arc::new(slice("web", "web", &ports, &texts)))
    };
    // One is not ready, one terminates and does not serve, one is gone.
    let slices = with(&fixture, &[(11, "/unready"), (12, "/gone")]);
    fixture.change(vec![slices], &[]);
    assert!(is_refused(fixture.vip()));
    let gone = clients.pop().unwrap();
    fixture.tend_until("its connection ends", |_| is_over(&gone));
    assert_eq!(exchange(&mut clients[0]).unwrap(), 11);
    assert_eq!(exchange(&mut clients[1]).unwrap(), 12);
    // One recovers, the other goes for good.
    let slices = with(&fixture, &[(11, "")]);
    fixture.change(vec![slices], &[]);
    let gone = clients.pop().unwrap();
    fixture.tend_until("its connection ends", |_| is_over(&gone));
    assert_eq!(exchange(&mut clients[0]).unwrap(), 11);
    // One that drains and is listed again may stay as well.
    fixture.serve(&[12]);
    let slices = with(&fixture, &[(11, "/unready"), (12, "")]);
    fixture.change(vec![slices], &[]);
    fixture.tend_until("nothing is due", |fixture| fixture.datapath().due().is_none());
    assert_eq!(exchange(&mut clients[0]).unwrap(), 11);
}

/// Whether the connection has ended, looked at without waiting.
fn is_over(client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    !client.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn source_ranges_close_the_load_balancers_ip_and_nothing_else() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11]);
    udp_endpoints(&fixture, &[11]);
    fixture.serve_ranged();
    let (allowed, denied) = (fixture.addr(101, 1).ip(), fixture.addr(102, 1).ip());
    let balanced = fixture.addr(2, 80);
    for addr in [balanced, fixture.vip(), fixture.addr(200, 30080)] {
        assert_eq!(ask_from(allowed, addr).unwrap(), 11, "{addr}");
        assert_eq!(udp_ask(&udp_from(allowed, addr)), 11, "{addr}");
    }
    for addr in [fixture.vip(), fixture.addr(200, 30080)] {
        assert_eq!(ask_from(denied, addr).unwrap(), 11, "{addr}");
        assert_eq!(udp_ask(&udp_from(denied, addr)), 11, "{addr}");
    }
    let error = ask_from(denied, balanced).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let socket = udp_from(denied, balanced);
    socket.send(b"?").unwrap();
    let web = ObjectName::new("demo", "web");
    let meter = fixture.datapath().metrics.meters.of(&web);
    let denials = || meter.denied.load(Ordering::Relaxed);
    fixture.tend_until("both are counted", |_| denials() == 2);
    assert!(socket.recv(&mut [0]).is_err());
}

#[test]
fn a_udp_session_ends_when_its_client_may_come_no_more() {
    let mut fixture = Fixture::new();
    udp_endpoints(&fixture, &[11]);
    let ip = fixture.addr(2, 1).ip();
    let open = move |service: &mut Service| {
        service.service_type = ServiceType::LoadBalancer;
        service.load_balancer_ips = vec![ip];
    };
    fixture.serve_changed(open, &[11]);
    let denied = udp_from(fixture.addr(102, 1).ip(), fixture.addr(2, 80));
    assert_eq!(udp_ask(&denied), 11);
    fixture.serve_ranged();
    let silent = || {
        while denied.recv(&mut [0]).is_ok() {}
        denied.send(b"?").unwrap();
        denied.recv(&mut [0]).is_err()
    };
    fixture.tend_until("no answer", |_| silent());
    fixture.serve_changed(open, &[11]);
    assert_eq!(udp_ask(&denied), 11);
}

/// A load balancer's IP `.2` with policy `Local`, where these endpoints are on this node. The
/// clients of the tests run on this host, so that only what the test says is within the cluster.
fn serve_local(fixture: &mut Fixture, here: &[u8], elsewhere: &[u8], sticky: bool) {
    fixture.node.name = Some("a".into());
    let Object::Service(mut service) = fixture.web() else { unreachable!() };
    let ip = fixture.addr(2, 1).ip();
    let changed = Arc::get_mut(&mut service).unwrap();
    changed.service_type = ServiceType::LoadBalancer;
    changed.load_balancer_ips = vec![ip];
    changed.external_traffic_policy = model::TrafficPolicy::Local;
    changed.client_ip_affinity = sticky.then_some(HOUR);
    let ports = [("t", Protocol::Tcp, 8080), ("u", Protocol::Udp, 8080)];
    let at = |node: &str, last: &u8| format!("{} @{node}", fixture.ip(*last));
    let ips: Vec<_> =
        here.iter().map(|l| at("a", l)).chain(elsewhere.iter().map(|l| at("b", l))).collect();
    let ips: Vec<_> = ips.iter().map(String::as_str).collect();
    let slice = Object::EndpointSlice(Arc::new(slice("web", "web", &ports, &ips)));
    fixture.change(vec![Object::Service(service), slice], &[]);
}

#[test]
fn policy_local_is_for_clients_outside_the_cluster() {
    for sticky in [false, true] {
        let mut fixture = Fixture::with(
            2,
            |settings| {
                let IpAddr::V4(node) = settings.node_ips[0] else { unreachable!() };
                let [a, b, c, _] = node.octets();
                settings.cluster_clients = Arc::new(ClusterClients::of([[a, b, c, 101].into()]));
            },
            Limits::default(),
        );
        let (pod, outside) = (fixture.addr(101, 1).ip(), fixture.addr(102, 1).ip());
        name_endpoints(&fixture, &[11, 12]);
        udp_endpoints(&fixture, &[11, 12]);
        let balanced = fixture.addr(2, 80);
        for addr in [balanced, fixture.addr(200, 30080)] {
            serve_local(&mut fixture, &[11], &[12], sticky);
            let mut seen: Vec<_> = (0..4).map(|_| ask_from(pod, addr).unwrap()).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), if sticky { 1 } else { 2 }, "{addr} {seen:?}");
            assert_eq!([0; 4].map(|_| ask_from(outside, addr).unwrap()), [11; 4], "{addr}");
            // The only endpoint is on another node.
            serve_local(&mut fixture, &[], &[12], sticky);
            assert_eq!(ask_from(pod, addr).unwrap(), 12, "{addr}");
            assert!(ask_from(outside, addr).is_err(), "{addr}");
            assert_eq!(udp_ask(&udp_from(pod, addr)), 12, "{addr}");
            let denied = udp_from(outside, addr);
            denied.send(b"?").unwrap();
            assert!(denied.recv(&mut [0; 9]).is_err(), "{addr}");
        }
    }
}

#[test]
fn a_udp_client_outside_leaves_an_endpoint_that_is_for_the_cluster_only() {
    let mut fixture = Fixture::new();
    udp_endpoints(&fixture, &[11, 12]);
    // Both serve all clients: the session begins with either.
    serve_local(&mut fixture, &[11, 12], &[], false);
    let sockets: Vec<_> =
        (0..2).map(|n| udp_from(fixture.addr(102 + n, 1).ip(), fixture.addr(2, 80))).collect();
    let first: Vec<_> = sockets.iter().map(udp_ask).collect();
    assert_eq!(first, [11, 12]);
    serve_local(&mut fixture, &[11], &[12], false);
    for socket in &sockets {
        assert_eq!(udp_ask(socket), 11);
    }
}
