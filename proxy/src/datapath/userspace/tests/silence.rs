//! UDP endpoints that leave while they owe an answer, or that do not answer at all.

use super::*;

impl Fixture {
    /// Service `web` by these endpoints, each with its conditions.
    fn serve_with(&mut self, endpoints: &[(u8, &str)]) {
        let ports = [("t", Protocol::Tcp, 8080), ("u", Protocol::Udp, 8080)];
        let texts: Vec<_> =
            endpoints.iter().map(|(last, c)| format!("{}{c}", self.ip(*last))).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let slice = slice("web", "web", &ports, &texts);
        self.change(vec![self.web(), Object::EndpointSlice(Arc::new(slice))], &[]);
    }
}

/// The endpoint `.11` has a question of a client when it leaves in this way.
fn check_answer_under_way(leaves: &[(u8, &str)]) {
    let mut fixture = Fixture::new();
    let endpoint = UdpSocket::bind(fixture.addr(11, 8080)).unwrap();
    endpoint.set_read_timeout(Some(PATIENCE)).unwrap();
    udp_endpoints(&fixture, &[12]);
    fixture.serve(&[11]);
    let client = udp_client(&fixture, fixture.vip());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send(b"first").unwrap();
    let (_, from) = endpoint.recv_from(&mut [0; 9]).unwrap();
    let endpoints: Vec<_> = leaves.iter().copied().chain([(12, "")]).collect();
    fixture.serve_with(&endpoints);
    // A new question goes elsewhere, and the answer to the first arrives all the same.
    client.send(b"second").unwrap();
    let mut buffer = [0; 99];
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"\x0csecond", "{leaves:?}");
    endpoint.send_to(b"answer", from).unwrap();
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"answer", "{leaves:?}");
    client.send(b"third").unwrap();
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"\x0cthird", "{leaves:?}");
}

#[test]
fn a_udp_answer_under_way_arrives_when_its_endpoint_is_unready() {
    check_answer_under_way(&[(11, "/unready")]);
}

#[test]
fn a_udp_answer_under_way_arrives_when_its_endpoint_terminates() {
    check_answer_under_way(&[(11, "/serving")]);
    check_answer_under_way(&[(11, "/gone")]);
}

#[test]
fn a_udp_answer_under_way_arrives_when_its_endpoint_is_removed() {
    check_answer_under_way(&[]);
}

#[test]
fn udp_sessions_that_only_wait_for_an_answer_end_and_make_room() {
    let short = |settings: &mut Settings| {
        settings.udp_idle_timeout = Duration::from_millis(500);
    };
    let mut fixture = Fixture::with(2, short, Limits::default());
    let _silent = UdpSocket::bind(fixture.addr(11, 8080)).unwrap();
    udp_endpoints(&fixture, &[12]);
    fixture.serve(&[11]);
    let clients: Vec<_> = (0..5).map(|_| udp_client(&fixture, fixture.vip())).collect();
    for client in &clients {
        client.send(b"x").unwrap();
    }
    let room = fixture.datapath().room.clone();
    let meter = fixture.datapath().metrics.meters.of(&ObjectName::new("demo", "web"));
    fixture.tend_until("all have asked", |_| meter.sessions.load(Ordering::Relaxed) == 5);
    fixture.serve(&[12]);
    fixture.tend_until("they end", |_| room.open_sessions() == 0);
}

#[test]
fn a_udp_endpoint_that_is_silent_while_others_answer_rests() {
    let mut fixture = Fixture::with(1, |_| {}, Limits::default());
    let silent = UdpSocket::bind(fixture.addr(11, 8080)).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    udp_endpoints(&fixture, &[12]);
    fixture.serve(&[11, 12]);
    let unlucky = udp_client(&fixture, fixture.vip());
    unlucky.send(b"question").unwrap();
    silent.recv_from(&mut [0; 9]).unwrap();
    let lucky = udp_client(&fixture, fixture.vip());
    let meter = fixture.datapath().metrics.meters.of(&ObjectName::new("demo", "web"));
    // It rests once another endpoint has answered meanwhile, and its client moves.
    fixture.tend_until("it rests", |_| {
        udp_ask(&lucky);
        meter.connect_failures.load(Ordering::Relaxed) == 1
    });
    assert_eq!(udp_ask(&unlucky), 12);
    // Where nobody answers, as with logs, nobody rests.
    fixture.serve(&[11]);
    let one_way = udp_client(&fixture, fixture.vip());
    one_way.send(b"line").unwrap();
    silent.recv_from(&mut [0; 9]).unwrap();
    let before = meter.connect_failures.load(Ordering::Relaxed);
    let begun = std::time::Instant::now();
    fixture.tend_until("time passes", |_| begun.elapsed() > Duration::from_secs(4));
    assert_eq!(meter.connect_failures.load(Ordering::Relaxed), before);
}
