//! Sockets of another process: which of them are taken over.

use super::*;

fn offer(socket: impl Into<OwnedFd>, addr: SocketAddr) -> Offer {
    Offer { bound: (Protocol::Tcp, addr), sockets: vec![socket.into()] }
}

#[test]
fn only_a_listener_at_an_address_that_is_waited_for_is_taken_over() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11]);
    let (vip, elsewhere) = (fixture.vip(), fixture.addr(3, 80));
    let holder = TcpListener::bind(vip).unwrap();
    let other = TcpListener::bind(elsewhere).unwrap();
    fixture.serve(&[11]);
    assert!(fixture.datapath().report().waits_for_address);
    let client = TcpStream::connect(vip).unwrap();
    let offers = vec![
        // No frontend wants this address.
        offer(other.try_clone().unwrap(), elsewhere),
        // Not the socket of the address, and not one that listens.
        offer(other, vip),
        offer(client.try_clone().unwrap(), vip),
        offer(UdpSocket::bind(fixture.addr(3, 0)).unwrap(), vip),
        offer(holder.try_clone().unwrap(), vip),
        // It is there already.
        offer(holder, vip),
    ];
    let datapath = fixture.datapath.as_mut().unwrap();
    let taken = fixture.runtime.block_on(datapath.take_over(offers));
    assert_eq!(taken, [false, false, false, false, true, false]);
    let report = fixture.datapath().report();
    assert!(report.failures.is_empty() && !report.waits_for_address, "{report:?}");
    // The client was in the queue of the other process.
    let mut name = [0];
    (&client).read_exact(&mut name).unwrap();
    assert_eq!(name, [11]);
    assert_eq!(ask(vip).unwrap(), [11]);
    // When its frontend goes, so does the listener.
    fixture.change(vec![], &[(Kind::Service, "web")]);
    assert!(is_refused(vip));
    assert!(TcpListener::bind(vip).is_ok());
}

#[test]
fn addresses_that_a_successor_received_and_did_not_answer_are_served_until_the_drain_time_out() {
    let mut fixture = Fixture::new();
    name_endpoints(&fixture, &[11]);
    fixture.serve(&[11]);
    let (vip, node_port) = (fixture.vip(), fixture.addr(200, 30080));
    let mut datapath = fixture.datapath.take().unwrap();
    fixture.runtime.block_on(async {
        // One that has gone has nothing.
        let (gone, successor) = Successor::silent();
        drop(gone);
        datapath.hand_over_to(&successor, Instant::now() + PATIENCE).await;
        assert!(datapath.unanswered.is_empty());
        let (hung, successor) = Successor::silent();
        datapath.hand_over_to(&successor, Instant::now() + 2 * FIRST_RETRY).await;
        assert!(datapath.unanswered.contains(&(Protocol::Tcp, node_port)));
        assert!(datapath.unanswered.contains(&(Protocol::Udp, vip)));
        // As if it had declined this one. Without its copies, a closed address refuses clients.
        drop((hung, successor));
        datapath.unanswered.remove(&(Protocol::Tcp, node_port));
        let clients = tokio::task::spawn_blocking(move || {
            wait_until_refused(node_port);
            ask(vip).unwrap()
        });
        tokio::select! {
            answer = clients => assert_eq!(answer.unwrap(), [11]),
            () = datapath.drain() => panic!("the drain is over while an offer is unanswered"),
        }
    });
}

#[test]
fn an_address_is_not_offered_without_all_of_its_sockets() {
    let socket = || Ok(OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap()));
    let none_left = || Err(io::Error::from_raw_os_error(nix::libc::EMFILE));
    let bound = |port| (Protocol::Udp, SocketAddr::from(([127, 0, 0, 1], port)));
    let copies = [
        (bound(1), socket()),
        (bound(2), socket()),
        (bound(3), none_left()),
        (bound(1), none_left()),
        (bound(2), socket()),
        (bound(3), socket()),
        (bound(1), socket()),
    ];
    let offers = whole_offers(copies.into_iter());
    assert_eq!(offers.len(), 1);
    assert!(offers[0].bound == bound(2) && offers[0].sockets.len() == 2);
}
