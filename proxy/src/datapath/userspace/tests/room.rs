//! Room over loopback: clients that are gone, that have many connections, or none for long.

use std::net::IpAddr;

use socket2::Socket;

use super::*;

/// A connection from an address of its own.
fn dial_from(client: IpAddr, addr: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(client, 0).into())?;
    socket.connect_timeout(&addr.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn meter(fixture: &mut Fixture) -> Arc<crate::metrics::Meter> {
    fixture.datapath().metrics.meters.of(&ObjectName::new("demo", "web"))
}

#[test]
fn a_client_that_is_gone_ends_its_search_and_nobody_gets_its_bytes() {
    let long = |settings: &mut Settings| settings.connect_timeout = Duration::from_secs(600);
    let limits = Limits { connections: Some(1), ..Limits::default() };
    let mut fixture = Fixture::with(1, long, limits);
    let _full = full_listener(fixture.addr(11, 8080));
    let other = TcpListener::bind(fixture.addr(12, 8080)).unwrap();
    fixture.serve(&[11, 12]);
    let room = fixture.datapath().room.clone();
    let mut client = dial(fixture.vip()).unwrap();
    client.write_all(b"for somebody").unwrap();
    let meter = meter(&mut fixture);
    fixture.tend_until("it is accepted", |_| meter.accepted.load(Ordering::Relaxed) == 1);
    reset(&client);
    drop(client);
    fixture.tend_until("its room is free", |_| room.open_connections() == 0);
    assert_eq!(meter.abandoned.load(Ordering::Relaxed), 1);
    // The next client has the room, and the endpoint whose turn it is.
    let client = dial(fixture.vip()).unwrap();
    let mut served = other.accept().unwrap().0;
    (&client).write_all(b"mine").unwrap();
    let mut bytes = [0; 4];
    served.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"mine");
    other.set_nonblocking(true).unwrap();
    assert_eq!(other.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn one_tcp_client_cannot_take_the_connections_of_others() {
    let limits = Limits { connections: Some(8), ..Limits::default() };
    let mut fixture = Fixture::with(1, |_| {}, limits);
    talkers(&fixture, &[11]);
    fixture.serve(&[11]);
    let room = fixture.datapath().room.clone();
    let (greedy, elsewhere) = (fixture.addr(100, 1).ip(), fixture.addr(200, 30080));
    let _held: Vec<_> = (0..20).map(|_| dial_from(greedy, elsewhere).unwrap()).collect();
    fixture.tend_until("it has all", |_| room.waiting_clients() == 12);
    assert_eq!(room.open_connections(), 8);
    let mut others: Vec<_> = (101..=104)
        .map(|last| dial_from(fixture.addr(last, 1).ip(), fixture.vip()).unwrap())
        .collect();
    for _ in 0..3 {
        for other in &mut others {
            assert_eq!(exchange(other).unwrap(), 11);
        }
    }
    assert_eq!(room.open_connections(), 8);
    let meter = meter(&mut fixture);
    assert_eq!(meter.over_share.load(Ordering::Relaxed), 4);
    // Room that is free goes to the clients that wait.
    drop(others);
    fixture.tend_until("they have it", |_| room.waiting_clients() == 8);
}

#[test]
fn waiting_clients_that_are_gone_hold_nothing() {
    let limits = Limits { connections: Some(1), ..Limits::default() };
    let mut fixture = Fixture::with(1, |_| {}, limits);
    talkers(&fixture, &[11]);
    fixture.serve(&[11]);
    let room = fixture.datapath().room.clone();
    let mut first = dial(fixture.vip()).unwrap();
    assert_eq!(exchange(&mut first).unwrap(), 11);
    let waiting: Vec<_> = (0..5).map(|_| dial(fixture.vip()).unwrap()).collect();
    fixture.tend_until("they wait", |_| room.waiting_clients() == 5);
    waiting.iter().for_each(reset);
    drop(waiting);
    fixture.tend_until("none waits", |_| room.waiting_clients() == 0);
    assert_eq!(exchange(&mut first).unwrap(), 11);
}

#[test]
fn a_client_with_as_many_connections_as_it_may_have_is_reset() {
    let limits = Limits { connections_per_client: Some(2), ..Limits::default() };
    let mut fixture = Fixture::with(2, |_| {}, limits);
    talkers(&fixture, &[11]);
    fixture.serve(&[11]);
    let (greedy, vip) = (fixture.addr(100, 1).ip(), fixture.vip());
    let mut held: Vec<_> = (0..2).map(|_| dial_from(greedy, vip).unwrap()).collect();
    for stream in &mut held {
        assert_eq!(exchange(stream).unwrap(), 11);
    }
    // The reset may come before the dial has returned.
    assert!(is_reset(dial_from(greedy, vip).and_then(|mut stream| stream.read(&mut [0]))));
    assert_eq!(exchange(&mut dial_from(fixture.addr(101, 1).ip(), vip).unwrap()).unwrap(), 11);
    let meter = meter(&mut fixture);
    assert_eq!(meter.over_share.load(Ordering::Relaxed), 1);
    // What ends leaves room for another.
    held.pop();
    fixture.tend_until("it may have another", |_| {
        dial_from(greedy, vip).and_then(|mut stream| exchange(&mut stream)).is_ok()
    });
}

#[test]
fn a_connection_without_traffic_ends_after_the_idle_timeout() {
    let short = |settings: &mut Settings| settings.idle_timeout = Duration::from_millis(100);
    let mut fixture = Fixture::with(1, short, Limits::default());
    talkers(&fixture, &[11]);
    fixture.serve(&[11]);
    let mut client = dial(fixture.vip()).unwrap();
    assert!(is_reset(exchange(&mut client).and_then(|_| client.read(&mut [0]))));
    let meter = meter(&mut fixture);
    assert_eq!(meter.idle.load(Ordering::Relaxed), 1);
    let room = fixture.datapath().room.clone();
    fixture.tend_until("its room is free", |_| room.open_connections() == 0);
}
