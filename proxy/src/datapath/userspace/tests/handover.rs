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
