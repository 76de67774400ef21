//! The rules of the protocol on real sockets: answers to invalid packets, and the handling of TCP
//! connections.

use std::io::Write;
use std::time::Duration;

use hickory_proto::op::Message;

use super::kit::{
    Connection, Dns, OBJECTS, ONE_SERVICE, WEB, client_of, exchange, framed, question, receive,
    show, with_edns,
};
use crate::support::{PATIENCE, eventually};

fn packet(asked: &str) -> Vec<u8> {
    question(asked).to_vec().unwrap()
}

/// A question's packet with one octet replaced.
fn altered(at: usize, octet: u8) -> Vec<u8> {
    let mut packet = packet(WEB);
    packet[at] = octet;
    packet
}

#[test]
fn packets_that_are_no_query() {
    let dns = Dns::start(ONE_SERVICE);
    let client = dns.client();
    let mut connection = dns.connect();
    let silent = [vec![], packet(WEB)[..11].to_vec(), altered(2, 0x81)];
    for packet in &silent {
        client.send(packet).unwrap();
        let length = (packet.len() as u16).to_be_bytes();
        connection.0.write_all(&[&length[..], packet].concat()).unwrap();
    }
    let mut check = |what: &str, packet: &[u8], code: u16| {
        let codes = |reply: Message| u16::from(reply.metadata.response_code);
        // The packets without a reply before left none in the queue, or this would be one of them.
        client.send(packet).unwrap();
        assert_eq!(codes(receive(&client)), code, "{what} over UDP");
        let length = (packet.len() as u16).to_be_bytes();
        connection.0.write_all(&[&length[..], packet].concat()).unwrap();
        assert_eq!(codes(connection.receive()), code, "{what} over TCP");
    };
    let (formerr, notimp, refused, badvers) = (1, 4, 5, 16);
    check("a query", &packet(WEB), 0);
    check("a header alone", &packet(WEB)[..12], formerr);
    check("NOTIFY", &altered(2, 0x20), notimp);
    check("no question", &altered(5, 0), formerr);
    check("two questions", &altered(5, 2), formerr);
    check("an answer", &altered(7, 1), formerr);
    check("an authority", &altered(9, 1), formerr);
    check("a label of 64", &altered(12, 64), formerr);
    check("a pointer", &altered(12, 0xc0), formerr);
    check("class CH", &altered(packet(WEB).len() - 1, 3), refused);
    check("AXFR", &packet("Z AXFR"), refused);
    check("IXFR", &packet("Z TYPE251"), refused);
    check("a name outside", &packet("example.com A"), refused);
    let mut edns = with_edns(question(WEB), 1232, false).to_vec().unwrap();
    let opt_at = packet(WEB).len();
    edns[opt_at + 6] = 1;
    check("EDNS version 1", &edns, badvers);
    edns[opt_at + 6] = 0;
    edns[opt_at + 10] = 3;
    check("a broken OPT", &edns, formerr);
    assert!(dns.metric("switchyard_dns_ignored_total ") >= 6.0);
}

/// A query with a valid OPT record gets one back, even if it has other errors.
#[test]
fn errors_have_an_opt_record_too() {
    let dns = Dns::start(ONE_SERVICE);
    let edns = with_edns(question(WEB), 1232, true).to_vec().unwrap();
    let opt = &edns[packet(WEB).len()..];
    let with = |at: usize, octet: u8| {
        let mut packet = edns.clone();
        packet[at] = octet;
        packet
    };
    let check = |what: &str, packet: &[u8], code: u16| {
        let over_udp = {
            let client = dns.client();
            client.send(packet).unwrap();
            receive(&client)
        };
        let mut connection = dns.connect();
        let length = (packet.len() as u16).to_be_bytes();
        connection.0.write_all(&[&length[..], packet].concat()).unwrap();
        for reply in [over_udp, connection.receive()] {
            assert_eq!(u16::from(reply.metadata.response_code), code, "{what}");
            let edns = reply.edns.unwrap_or_else(|| panic!("{what}: no OPT"));
            assert!(edns.flags().dnssec_ok, "{what}");
        }
    };
    let (formerr, notimp, badvers) = (1, 4, 16);
    check("no question", &[&with(5, 0)[..12], opt].concat(), formerr);
    check("an answer", &with(7, 1), formerr);
    check("an authority", &with(9, 1), formerr);
    check("a missing record", &with(11, 2), formerr);
    check("NOTIFY", &with(2, 0x20), notimp);
    check("UPDATE", &with(2, 0x28), notimp);
    check("EDNS version 1", &with(packet(WEB).len() + 6, 1), badvers);
}

/// Long queries are valid: EDNS options and padding may have any size.
#[test]
fn long_queries_are_answered() {
    let dns = Dns::start(ONE_SERVICE);
    let expected = ["NoError", "web.ns.svc.Z 5 A 10.0.0.1"];
    let long = |padding: u16| {
        let mut packet = with_edns(question(WEB), 1232, false).to_vec().unwrap();
        packet.truncate(packet.len() - 2);
        packet.extend_from_slice(&(padding + 4).to_be_bytes());
        packet.extend_from_slice(&12u16.to_be_bytes());
        packet.extend_from_slice(&padding.to_be_bytes());
        packet.resize(packet.len() + usize::from(padding), 0);
        packet
    };
    let client = dns.client();
    let mut connection = dns.connect();
    for padding in [2_000, 5_000, 65_000] {
        client.send(&long(padding)).unwrap();
        assert_eq!(show(&receive(&client)), expected, "{padding} octets over UDP");
        let packet = long(padding);
        let length = (packet.len() as u16).to_be_bytes();
        connection.0.write_all(&[&length[..], &packet].concat()).unwrap();
        assert_eq!(show(&connection.receive()), expected, "{padding} octets over TCP");
    }
}

#[test]
fn version_bind() {
    let mut asked = packet("version.bind TXT");
    *asked.last_mut().unwrap() = 3;
    for (flags, code) in [(&["--version-bind"][..], "NoError"), (&[], "Refused")] {
        let dns = Dns::start_with(ONE_SERVICE, &[&["--upstream", "none"], flags].concat());
        let client = dns.client();
        client.send(&asked).unwrap();
        assert_eq!(show(&receive(&client))[0], code);
    }
}

/// A thousand endpoints: more than UDP takes, and less than TCP does.
fn many_endpoints() -> String {
    let endpoints: Vec<String> =
        (0..1000).map(|n| format!("{{ addresses: [10.1.{}.{}] }}", n / 250, n % 250)).collect();
    format!(
        "{{ apiVersion: v1, kind: Service, metadata: {{ name: big, namespace: ns }}, \
         spec: {{ clusterIP: None, ports: [{{ name: http, port: 80 }}] }} }}\n---\n\
         {{ apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
         metadata: {{ name: big-1, namespace: ns, \
         labels: {{ kubernetes.io/service-name: big }} }}, \
         ports: [{{ name: http, port: 80 }}], endpoints: [{}] }}",
        endpoints.join(", ")
    )
}

#[test]
fn replies_keep_to_what_their_client_takes() {
    let dns = Dns::start(&many_endpoints());
    let client = dns.client();
    let check = |size: Option<u16>, limit: usize| {
        let message = question("big.ns.svc.Z A");
        let message = match size {
            Some(size) => with_edns(message, size, false),
            None => message,
        };
        client.send(&message.to_vec().unwrap()).unwrap();
        let mut buffer = [0; 65_535];
        let len = client.recv(&mut buffer).unwrap();
        let reply = Message::from_vec(&buffer[..len]).unwrap();
        assert!(reply.metadata.truncation && len <= limit && len + 16 > limit, "{size:?}: {len}");
        assert_eq!(reply.edns.is_some(), size.is_some());
    };
    check(None, 512);
    check(Some(0), 512);
    check(Some(800), 800);
    check(Some(65_535), 1232);
    let reply = dns.connect().ask(&question("big.ns.svc.Z A"));
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (1000, false));
}

#[test]
fn tcp_queries_may_come_in_pieces_and_in_a_row() {
    let dns = Dns::start(OBJECTS);
    let mut connection = dns.connect();
    let message = question("svc1.testns.svc.Z A");
    for octet in framed(&message) {
        connection.0.write_all(&[octet]).unwrap();
    }
    assert_eq!(show(&connection.receive())[0], "NoError");
    // Many at once, the last of them cut; then its rest.
    const COUNT: u16 = 500;
    let mut pipelined = Vec::new();
    for id in 0..COUNT {
        let mut message = message.clone();
        message.metadata.id = id;
        pipelined.extend(framed(&message));
    }
    let (now, later) = pipelined.split_at(pipelined.len() - 5);
    connection.0.write_all(now).unwrap();
    let mut ids: Vec<u16> = (1..COUNT).map(|_| connection.receive().metadata.id).collect();
    connection.0.write_all(later).unwrap();
    ids.push(connection.receive().metadata.id);
    ids.sort_unstable();
    assert_eq!(ids, (0..COUNT).collect::<Vec<_>>());
    // A client that has closed its sending side still gets its replies.
    connection.send(&message);
    connection.0.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(show(&connection.receive())[0], "NoError");
    assert!(connection.is_ended());
}

#[test]
fn a_client_that_takes_no_replies_costs_others_nothing() {
    let dns = Dns::start(&many_endpoints());
    let mut greedy = dns.connect();
    greedy.0.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let question = framed(&question("big.ns.svc.Z A"));
    // 16 kB for each reply, until the buffers of both sides are full.
    let mut asked = 0;
    while asked < 100_000 && greedy.0.write_all(&question).is_ok() {
        asked += 1;
    }
    assert!(asked < 100_000, "the responder read it all, and had to keep the replies");
    let mut polite = dns.connect();
    let reply = polite.ask(&super::kit::question("big.ns.svc.Z A"));
    assert_eq!(reply.answers.len(), 1000);
}

#[test]
fn idle_and_senseless_connections_end() {
    let flags = ["--upstream", "none", "--tcp-idle-timeout", "2s"];
    let dns = Dns::start_with(ONE_SERVICE, &flags);
    let mut connection = dns.connect();
    assert_eq!(show(&connection.ask(&question(WEB)))[0], "NoError");
    assert!(connection.is_ended(), "idle");
    let mut connection = dns.connect();
    connection.0.write_all(&framed(&question(WEB))[..9]).unwrap();
    assert!(connection.is_ended(), "with half a query");
    let mut connection = dns.connect();
    connection.0.write_all(&[0xff; 100]).unwrap();
    assert!(connection.is_ended(), "with a part of a query of 65,535 octets");
    eventually("their end", || {
        (dns.metric("switchyard_dns_tcp_connections ") == 0.0).then_some(())
    });
}

#[test]
fn one_client_cannot_take_all_connections() {
    let flags = ["--upstream", "none", "--max-tcp-connections", "8"];
    let dns = Dns::start_with(ONE_SERVICE, &flags);
    let mut greedy: Vec<Connection> = (0..20).map(|_| dns.connect()).collect();
    let kept = |connection: &mut Connection| {
        connection.0.write_all(&framed(&question(WEB))).is_ok() && !connection.is_ended()
    };
    let kept = greedy.iter_mut().map(kept).filter(|kept| *kept).count();
    assert_eq!(kept, 2, "a quarter of eight");
    assert!(dns.metric("switchyard_dns_tcp_refused_total ") >= 18.0);
    // Another address of this machine is another client.
    let stream = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    stream.bind(&dns.net.addr(77, 0).into()).unwrap();
    stream.connect(&dns.addr.into()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut other = Connection(stream.into());
    assert_eq!(show(&other.ask(&question(WEB)))[0], "NoError");
}

/// All listeners share one quota, and one gauge shows all their connections.
#[test]
fn listeners_share_a_quota_of_connections() {
    let net = crate::support::Net::new();
    let addrs = [net.addr(53, super::kit::PORT), net.addr(54, super::kit::PORT)];
    let listen = addrs.map(|addr| addr.to_string()).join(",");
    let flags = ["--upstream", "none", "--max-tcp-connections", "8", "--listen", &listen];
    let folder = crate::support::Folder::new();
    folder.replace("objects.yaml", ONE_SERVICE);
    let args = [&["dns", "--feed", folder.path().to_str().unwrap()], &flags[..]].concat();
    let process = crate::support::Switchyard::ready(net.addr(53, 7431), &args);
    let connect = |from: u8, to: usize| {
        let stream =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        stream.bind(&net.addr(from, 0).into()).unwrap();
        stream.connect(&addrs[to].into()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection(stream.into())
    };
    let gauge = |expected: f64| {
        eventually("the gauge", || {
            let open = super::kit::metric_of(&process, "switchyard_dns_tcp_connections ");
            (open == expected).then_some(())
        });
    };
    // Two each of three clients at the first listener, then two at the second.
    let mut first: Vec<_> = (0..6).map(|n| connect(100 + n / 2, 0)).collect();
    let mut second: Vec<_> = (0..2).map(|_| connect(110, 1)).collect();
    for connection in first.iter_mut().chain(&mut second) {
        assert_eq!(show(&connection.ask(&question(WEB)))[0], "NoError");
    }
    gauge(8.0);
    let mut refused = connect(120, 1);
    assert!(refused.is_ended(), "all eight are taken");
    second.clear();
    gauge(6.0);
    assert_eq!(show(&connect(120, 1).ask(&question(WEB)))[0], "NoError");
    first.clear();
    gauge(0.0);
}

/// Junk, and replies that cannot be sent, from one client; another asks meanwhile.
#[test]
fn noise_costs_others_nothing() {
    let dns = Dns::start_with(ONE_SERVICE, &["--upstream", "none", "--workers", "2"]);
    let addr = dns.addr;
    std::thread::scope(|scope| {
        for seed in 0..2u64 {
            scope.spawn(move || {
                let noisy = client_of(addr);
                noisy.set_nonblocking(true).unwrap();
                let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                let mut octet = || {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                };
                for round in 0..20_000 {
                    let len = usize::from(octet()) * 8;
                    let mut junk: Vec<u8> = (0..len).map(|_| octet()).collect();
                    if round % 2 == 0 && len > 12 {
                        // Almost a valid query.
                        junk[2] &= 0x07;
                        junk[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, (round % 3) as u8]);
                    }
                    let _ = noisy.send(&junk);
                }
            });
        }
        let client = dns.client();
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        for _ in 0..300 {
            eventually("an answer amid noise", || {
                // A datagram may be lost when the queue is full of noise; the next is not.
                client.send(&packet(WEB)).unwrap();
                let mut buffer = [0; 512];
                client.recv(&mut buffer).ok()
            });
        }
    });
    assert_eq!(show(&exchange(&dns.client(), &question(WEB)))[0], "NoError");
}
