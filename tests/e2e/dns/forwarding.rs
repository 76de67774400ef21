//! Names outside our zones, with correct and with faulty upstreams.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};

use super::kit::{
    Connection, Dns, PORT, client_of, exchange, framed, metric_of, question, receive, show,
    with_edns,
};
use crate::support::{Net, PROMPTLY, Switchyard};

/// A Service, and an ExternalName outside of the zone.
pub(super) const OBJECTS: &str = "
{ apiVersion: v1, kind: Service, metadata: { name: web, namespace: ns },
  spec: { clusterIP: 10.0.0.1, ports: [{ port: 80 }] } }
---
{ apiVersion: v1, kind: Service, metadata: { name: ext, namespace: ns },
  spec: { type: ExternalName, externalName: www.example.com } }
";

/// The queries that an upstream got, and from where.
pub(super) type Asked = Arc<Mutex<Vec<(Message, SocketAddr)>>>;

/// A correct reply: one address.
pub(super) fn reply_to(query: &Message) -> Message {
    let mut reply = query.clone();
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    let name = query.queries[0].name().clone();
    reply.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
    reply
}

/// Whether a query is a probe of the responder, for a loop or for an upstream's health.
pub(super) fn is_probe(query: &Message) -> bool {
    let name = query.queries[0].name();
    name.is_root() || name.to_string().ends_with(".switchyard-loop-probe.")
}

/// An upstream on `addr` that answers UDP by `behave`, which is given the query, the upstream's
/// socket and the sender. It runs until the test's process ends. Probes are denied.
pub(super) fn upstream(
    addr: SocketAddr,
    behave: impl Fn(&Message, &UdpSocket, SocketAddr) + Send + 'static,
) -> Asked {
    let asked = Asked::default();
    let seen = asked.clone();
    upstream_with_probes(addr, move |query, socket, peer| {
        if is_probe(query) {
            let mut denial = reply_to(query);
            denial.answers.clear();
            denial.metadata.response_code = ResponseCode::NXDomain;
            return send(socket, peer, &denial);
        }
        seen.lock().unwrap().push((query.clone(), peer));
        behave(query, socket, peer);
    });
    asked
}

/// The same, with the probes.
pub(super) fn upstream_with_probes(
    addr: SocketAddr,
    behave: impl Fn(&Message, &UdpSocket, SocketAddr) + Send + 'static,
) -> Asked {
    let socket = UdpSocket::bind(addr).unwrap();
    let asked = Asked::default();
    let seen = asked.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..len]).expect("a proper query");
            seen.lock().unwrap().push((query.clone(), peer));
            behave(&query, &socket, peer);
        }
    });
    asked
}

pub(super) fn send(socket: &UdpSocket, peer: SocketAddr, message: &Message) {
    socket.send_to(&message.to_vec().unwrap(), peer).unwrap();
}

pub(super) fn answer(query: &Message, socket: &UdpSocket, peer: SocketAddr) {
    send(socket, peer, &reply_to(query));
}

/// The responder with upstreams at these addresses.
pub(super) fn start(upstreams: &[SocketAddr], flags: &[&str]) -> Dns {
    let upstreams: Vec<String> = upstreams.iter().map(ToString::to_string).collect();
    let upstreams = upstreams.join(",");
    let mut all = vec!["--upstream", &upstreams];
    if !flags.contains(&"--upstream-timeout") {
        all.extend(["--upstream-timeout", "3s"]);
    }
    all.extend(flags);
    Dns::start_with(OBJECTS, &all)
}

pub(super) const FORWARDED: [&str; 2] = ["NoError", "www.example.com 60 A 192.0.2.1"];

#[test]
fn a_name_outside_is_forwarded() {
    let net = Net::new();
    let asked = upstream(net.addr(1, 5353), answer);
    let dns = start(&[net.addr(1, 5353)], &[]);
    let mut message = question("WWW.Example.com A");
    message.metadata.checking_disabled = true;
    let reply = exchange(&dns.client(), &with_edns(message.clone(), 1232, true));
    assert_eq!(show(&reply), ["NoError", "WWW.Example.com 60 A 192.0.2.1"]);
    assert!(reply.metadata.recursion_available && !reply.metadata.truncation);
    assert!(reply.edns.unwrap().flags().dnssec_ok);
    let reply = dns.connect().ask(&message);
    assert_eq!(show(&reply), ["NoError", "WWW.Example.com 60 A 192.0.2.1"]);
    assert!(reply.edns.is_none());
    let asked = asked.lock().unwrap();
    let edns: Vec<_> = asked.iter().map(|(query, _)| query.edns.is_some()).collect();
    assert_eq!(edns, [true, true]);
    assert!(asked.iter().all(|(query, _)| query.metadata.checking_disabled));
    assert!(asked.iter().all(|(query, _)| query.metadata.authentic_data));
    // Our own names are answered as before, and the replies say that recursion is available.
    let own = exchange(&dns.client(), &question("web.ns.svc.Z A"));
    assert!(own.metadata.recursion_available && own.metadata.authoritative);
    assert_eq!(dns.show("nothing.ns.svc.Z A"), ["NXDomain", "+Z 5 SOA"]);
    let status = dns.process.status();
    assert_eq!(status["dns"]["upstreams"][0], net.addr(1, 5353).to_string());
}

#[test]
fn every_query_has_an_id_and_a_port_of_its_own() {
    let net = Net::new();
    let asked = upstream(net.addr(1, 5353), answer);
    let dns = start(&[net.addr(1, 5353)], &[]);
    let client = dns.client();
    const COUNT: usize = 64;
    for number in 0..COUNT {
        exchange(&client, &question(&format!("n{number}.example.com A")));
    }
    let asked = asked.lock().unwrap();
    let distinct = |of: &dyn Fn(&(Message, SocketAddr)) -> u16| {
        asked.iter().map(of).collect::<std::collections::BTreeSet<_>>()
    };
    let ports = distinct(&|(_, peer)| peer.port());
    let ids = distinct(&|(query, _)| query.metadata.id);
    // Some may be equal by chance, but they must not be sequential or from a small set.
    assert!(ports.len() > COUNT - 8 && ids.len() > COUNT - 8, "{ports:?} {ids:?}");
    let spread = |set: &std::collections::BTreeSet<u16>| set.last().unwrap() - set.first().unwrap();
    assert!(spread(&ports) > 4096 && spread(&ids) > 16_384, "{ports:?} {ids:?}");
}

#[test]
fn replies_that_do_not_match_are_passed_over() {
    let net = Net::new();
    upstream(net.addr(1, 5353), move |query, socket, peer| {
        let forged = |change: &dyn Fn(&mut Message)| {
            let mut message = reply_to(query);
            message.answers[0].data = RData::A(A::new(6, 6, 6, 6));
            change(&mut message);
            message
        };
        send(socket, peer, &forged(&|m| m.metadata.id ^= 1));
        send(socket, peer, &forged(&|m| m.metadata.message_type = MessageType::Query));
        send(
            socket,
            peer,
            &forged(&|m| m.queries[0] = question("evil.example A").queries[0].clone()),
        );
        let other_type = question("www.example.com AAAA").queries[0].clone();
        send(socket, peer, &forged(&|m| m.queries[0] = other_type.clone()));
        socket.send_to(b"junk", peer).unwrap();
        socket.send_to(&[], peer).unwrap();
        // The right reply, from the wrong port and from the wrong address.
        for wrong in [net.addr(1, 5354), net.addr(2, 5353)] {
            if let Ok(spoofing) = UdpSocket::bind(wrong) {
                send(&spoofing, peer, &forged(&|_| {}));
            }
        }
        answer(query, socket, peer);
    });
    let dns = start(&[net.addr(1, 5353)], &[]);
    for _ in 0..5 {
        assert_eq!(dns.show("www.example.com A"), FORWARDED);
    }
}

/// An upstream whose UDP answers have TC and no records.
pub(super) fn upstream_that_cuts(addr: SocketAddr) {
    upstream(addr, |query, socket, peer| {
        let mut cut = reply_to(query);
        cut.answers.clear();
        cut.metadata.truncation = true;
        send(socket, peer, &cut);
    });
}

#[test]
fn a_reply_that_was_cut_is_fetched_over_tcp() {
    let net = Net::new();
    let addr = net.addr(1, 5353);
    upstream_that_cuts(addr);
    let listener = TcpListener::bind(addr).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut bytes).unwrap();
            let mut reply = reply_to(&Message::from_vec(&bytes).unwrap());
            for n in 0..60 {
                let mut more = reply.answers[0].clone();
                more.data = RData::A(A::new(192, 0, 2, n));
                reply.add_answer(more);
            }
            for octet in framed(&reply) {
                stream.write_all(&[octet]).unwrap();
            }
        }
    });
    let dns = start(&[addr], &[]);
    let whole = dns.connect().ask(&question("www.example.com A"));
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (61, false));
    let cut = exchange(&dns.client(), &question("www.example.com A"));
    assert!(cut.metadata.truncation && cut.answers.len() < 61 && !cut.answers.is_empty());
}

/// Over both transports, each of which has threads of its own.
fn ask_both(dns: &Dns, asked: &str) -> [Vec<String>; 2] {
    [dns.show(asked), show(&dns.connect().ask(&question(asked)))]
}

#[test]
fn a_malformed_reply_is_passed_over() {
    let net = Net::new();
    let malformed = upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut reply = reply_to(query);
        reply.answers.clear();
        let mut bytes = reply.to_vec().unwrap();
        // The header announces nine answers, but there are none.
        bytes[7] = 9;
        socket.send_to(&bytes, peer).unwrap();
    });
    upstream(net.addr(2, 5353), answer);
    let dns = start(&[net.addr(1, 5353), net.addr(2, 5353)], &[]);
    assert_eq!(ask_both(&dns, "www.example.com A"), [FORWARDED, FORWARDED]);
    assert_eq!(malformed.lock().unwrap().len(), 1);
}

#[test]
fn a_partial_reply_is_better_than_none() {
    let net = Net::new();
    // Nothing listens there over TCP.
    upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut cut = reply_to(query);
        cut.metadata.truncation = true;
        send(socket, peer, &cut);
    });
    let dns = start(&[net.addr(1, 5353)], &[]);
    let reply = exchange(&dns.client(), &question("www.example.com A"));
    assert_eq!(show(&reply), FORWARDED);
    assert!(reply.metadata.truncation);
    // Over TCP a client could not tell that it is incomplete.
    let reply = dns.connect().ask(&question("www.example.com A"));
    assert_eq!(show(&reply), ["ServFail"]);
}

#[test]
fn equal_questions_in_flight_are_one() {
    let net = Net::new();
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let behind = gate.clone();
    let asked = upstream(net.addr(1, 5353), move |query, socket, peer| {
        drop(behind.lock());
        answer(query, socket, peer);
    });
    let dns = start(&[net.addr(1, 5353)], &["--upstream-timeout", "60s"]);
    const COUNT: u16 = 20;
    let names = ["www.example.com A", "WWW.example.COM A"];
    let message = |id: u16| {
        let mut message = question(names[usize::from(id % 2)]);
        message.metadata.id = id;
        message
    };
    // UDP and TCP have threads of their own, which share what is in flight.
    let begun = Instant::now();
    let clients: Vec<UdpSocket> = (0..COUNT).map(|_| dns.client()).collect();
    let mut connection = dns.connect();
    for (id, client) in (0..).zip(&clients) {
        client.send(&message(id).to_vec().unwrap()).unwrap();
        connection.send(&message(id));
    }
    crate::support::eventually("all in flight", || {
        let joined = dns.metric("switchyard_dns_forwards_joined_total ");
        (joined == f64::from(2 * COUNT - 2)).then_some(())
    });
    // A place for the client on each thread.
    assert_eq!(dns.metric("switchyard_dns_forwards_in_flight "), 2.0);
    // A server that is alone and silent is asked again after a second.
    let tries = if begun.elapsed() < Duration::from_millis(900) { 1 } else { 2 };
    assert!(addresses_asked(&asked) <= tries);
    drop(held);
    for (id, client) in (0..).zip(&clients) {
        for reply in [receive(client), connection.receive()] {
            // Each gets the answer under its own ID and in its own spelling.
            let message = message(reply.metadata.id);
            assert!(reply.queries[0].name().eq_case(message.queries[0].name()));
            assert_eq!(reply.answers.len(), 1);
            assert!(reply.metadata.id == id || reply.metadata.id < COUNT);
        }
    }
}

#[test]
fn failures_are_remembered() {
    let net = Net::new();
    let asked = upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut failure = reply_to(query);
        failure.answers.clear();
        failure.metadata.response_code = ResponseCode::ServFail;
        send(socket, peer, &failure);
    });
    let dns = start(&[net.addr(1, 5353)], &[]);
    const COUNT: usize = 200;
    let begun = Instant::now();
    for _ in 0..COUNT {
        assert_eq!(ask_both(&dns, "dead.example A"), [["ServFail"], ["ServFail"]]);
    }
    // A thread asks at the start, and again after 1 s, 2 s, 4 s and so on.
    let seconds = begun.elapsed().as_secs_f64();
    let most = 1.0 + (seconds + 1.0).log2().ceil();
    let questions = asked.lock().unwrap().len() as f64;
    assert!(questions <= 2.0 * most, "{questions} questions in {seconds} s");
    let again = dns.metric("switchyard_dns_forwards_failed_again_total ");
    assert_eq!(again, 2.0 * COUNT as f64 - questions);
}

/// An upstream on `addr` that relays all queries to the server at `to`.
pub(super) fn relay(addr: SocketAddr, to: SocketAddr) -> Asked {
    upstream_with_probes(addr, move |query, socket, peer| {
        let (message, socket) = (query.to_vec().unwrap(), socket.try_clone().unwrap());
        std::thread::spawn(move || {
            let relay = client_of(to);
            relay.send(&message).unwrap();
            let mut buffer = [0; 1500];
            if let Ok(len) = relay.recv(&mut buffer) {
                let _ = socket.send_to(&buffer[..len], peer);
            }
        });
    })
}

/// Starts a responder and waits until it listens at `addr`. With a loop it is never ready.
pub(super) fn listening(net: Net, addr: SocketAddr, args: &[&str]) -> Switchyard {
    let process = Switchyard::start(net.addr(53, 7431), args);
    crate::support::eventually("it listens", || std::net::TcpStream::connect(addr).ok());
    process
}

/// How often an address was asked for.
fn addresses_asked(asked: &Asked) -> usize {
    let asked = asked.lock().unwrap();
    asked.iter().filter(|(query, _)| query.queries[0].query_type() == RecordType::A).count()
}

/// Servers that forward to each other: one outside question must not keep them busy.
#[test]
fn a_loop_of_forwarders_dies_out() {
    for workers in [1, 3] {
        let nets = [Net::new(), Net::new()];
        let own = |net: Net| [net.addr(53, PORT), net.addr(54, PORT)];
        let relays = |net: Net| [net.addr(1, 5353), net.addr(2, 5353)];
        // Each is the other's upstream at two addresses.
        let mut asked = Vec::new();
        for (net, other) in [(nets[0], nets[1]), (nets[1], nets[0])] {
            let pairs = relays(net).into_iter().zip(own(other));
            asked.extend(pairs.map(|(at, to)| relay(at, to)));
        }
        let folder = crate::support::Folder::new();
        folder.replace("objects.yaml", OBJECTS);
        let servers = nets.map(|net| {
            let text = |addrs: [SocketAddr; 2]| addrs.map(|addr| addr.to_string()).join(",");
            let path = folder.path().to_str().unwrap();
            let (listen, upstream) = (text(own(net)), text(relays(net)));
            let args = ["dns", "--feed", path, "--listen", &listen, "--upstream", &upstream];
            let timeout = ["--upstream-timeout", "1s", "--workers", &workers.to_string()];
            listening(net, own(net)[1], &[&args[..], &timeout].concat())
        });
        let client = client_of(own(nets[0])[0]);
        for _ in 0..3 {
            assert_eq!(show(&exchange(&client, &question("loop.example A"))), ["ServFail"]);
        }
        // No further queries follow.
        for server in &servers {
            crate::support::eventually("rest", || {
                let in_flight = metric_of(server, "switchyard_dns_forwards_in_flight ");
                (in_flight == 0.0).then_some(())
            });
        }
        let total: usize = asked.iter().map(addresses_asked).sum();
        // For a question of the client, a thread asks each of its two upstreams once; there is a
        // thread for each address and worker. On a busy machine, the failure of one question may
        // be forgotten before the next.
        assert!(total <= 3 * 2 * 2 * 2 * workers, "{total} questions with {workers} workers");
        // And the loop is reported.
        crate::support::eventually("the loop in /readyz", || {
            let mut pages = servers.iter().map(|server| server.admin_get("/readyz"));
            pages.any(|(status, body)| status == 503 && body.contains("loop")).then_some(())
        });
    }
}

/// A server whose upstream relays what it is asked back to it.
#[test]
fn an_upstream_that_relays_back_is_found() {
    let net = Net::new();
    let (addr, at) = (net.addr(53, PORT), net.addr(1, 5353));
    let asked = relay(at, addr);
    let folder = crate::support::Folder::new();
    folder.replace("objects.yaml", OBJECTS);
    let (listen, path) = (addr.to_string(), folder.path().to_str().unwrap());
    let upstream = at.to_string();
    let args = ["dns", "--feed", path, "--listen", &listen, "--upstream", &upstream];
    let timeout = ["--upstream-timeout", "500ms"];
    let process = listening(net, addr, &[&args[..], &timeout].concat());
    let client = client_of(addr);
    assert_eq!(show(&exchange(&client, &question("loop.example A"))), ["ServFail"]);
    let mut connection = Connection::to(addr);
    assert_eq!(show(&connection.ask(&question("loop.example A"))), ["ServFail"]);
    let reason = crate::support::eventually("the loop in /readyz", || {
        let (status, body) = process.admin_get("/readyz");
        (status == 503).then_some(body)
    });
    assert!(reason.contains(&format!("upstream {at} forwards to this server")), "{reason}");
    assert_eq!(process.status()["dns"]["upstreamLoops"][0], at.to_string());
    // Two threads, each of which tried twice.
    assert!(addresses_asked(&asked) <= 4);
}

#[test]
fn without_an_answer_there_is_servfail_in_time() {
    let net = Net::new();
    let asked = upstream(net.addr(1, 5353), |_, _, _| {});
    let dns = start(&[net.addr(1, 5353)], &["--upstream-timeout", "500ms"]);
    let begun = Instant::now();
    let mut connection = dns.connect();
    connection.send(&question("www.example.com A"));
    // Others on the connection need not wait: replies come as they are ready.
    let own = connection.ask(&question("web.ns.svc.Z A"));
    assert_eq!(show(&own), ["NoError", "web.ns.svc.Z 5 A 10.0.0.1"]);
    assert_eq!(dns.show("www.example.com A"), ["ServFail"]);
    assert_eq!(show(&connection.receive()), ["ServFail"]);
    assert!(begun.elapsed() >= Duration::from_millis(900), "tried twice, half a second each");
    assert!(begun.elapsed() < PROMPTLY);
    assert_eq!(asked.lock().unwrap().len(), 2, "one question, tried twice");
    let external = dns.show("ext.ns.svc.Z A");
    assert_eq!(external, ["ServFail", "ext.ns.svc.Z 5 CNAME www.example.com"]);
    assert!(dns.metric("switchyard_dns_forward_failures_total ") >= 3.0);
}

#[test]
fn the_next_upstream_is_asked() {
    let net = Net::new();
    let refusing = upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut refusal = reply_to(query);
        refusal.answers.clear();
        refusal.metadata.response_code = ResponseCode::Refused;
        send(socket, peer, &refusal);
    });
    // Nothing listens at the second, which the kernel reports at once; the third is silent.
    upstream(net.addr(3, 5353), |_, _, _| {});
    upstream(net.addr(4, 5353), answer);
    let addrs = [1, 2, 3, 4].map(|n| net.addr(n, 5353));
    let dns = start(&addrs, &[]);
    assert_eq!(dns.show("www.example.com A"), FORWARDED);
    assert_eq!(refusing.lock().unwrap().len(), 1);
    let dns = start(&addrs[..2], &[]);
    assert_eq!(dns.show("www.example.com A"), ["Refused"]);
}

#[test]
fn external_names_are_followed() {
    let net = Net::new();
    upstream(net.addr(1, 5353), |query, socket, peer| {
        if query.queries[0].query_type() == hickory_proto::rr::RecordType::A {
            return answer(query, socket, peer);
        }
        let mut denial = reply_to(query);
        denial.answers.clear();
        denial.metadata.response_code = ResponseCode::NXDomain;
        send(socket, peer, &denial);
    });
    let dns = start(&[net.addr(1, 5353)], &[]);
    let alias = "ext.ns.svc.Z 5 CNAME www.example.com";
    assert_eq!(dns.show("ext.ns.svc.Z A"), ["NoError", alias, FORWARDED[1]]);
    assert_eq!(dns.show("ext.ns.svc.Z AAAA"), ["NXDomain", alias]);
    assert_eq!(dns.show("ext.ns.svc.Z CNAME"), ["NoError", alias]);
    let over_tcp = dns.connect().ask(&question("ext.ns.svc.Z A"));
    assert_eq!(show(&over_tcp), ["NoError", alias, FORWARDED[1]]);
    assert!(over_tcp.metadata.authoritative);
}

#[test]
fn strangers_are_not_forwarded_for() {
    let net = Net::new();
    let asked = upstream(net.addr(1, 5353), answer);
    let friend = net.ip(7).to_string();
    let dns = start(&[net.addr(1, 5353)], &["--allow-forward", &friend_net(&friend)]);
    let ask = |from: SocketAddr, asked: &str| {
        let socket = UdpSocket::bind(from).unwrap();
        socket.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        socket.connect(dns.addr).unwrap();
        show(&exchange(&socket, &question(asked)))
    };
    let stranger = net.addr(8, 0);
    assert_eq!(ask(stranger, "www.example.com A"), ["Refused"]);
    assert_eq!(ask(stranger, "8.8.8.8.in-addr.arpa PTR"), ["Refused"]);
    let alias = "ext.ns.svc.Z 5 CNAME www.example.com";
    assert_eq!(ask(stranger, "ext.ns.svc.Z A"), ["NoError", alias]);
    assert_eq!(ask(stranger, "web.ns.svc.Z A"), ["NoError", "web.ns.svc.Z 5 A 10.0.0.1"]);
    assert!(asked.lock().unwrap().is_empty());
    assert_eq!(ask(net.addr(7, 0), "www.example.com A"), FORWARDED);
}

fn friend_net(ip: &str) -> String {
    format!("{ip}/32")
}

#[test]
fn what_may_be_in_flight_is_bounded() {
    let net = Net::new();
    let asked = upstream(net.addr(1, 5353), |_, _, _| {});
    let flags = ["--max-forwards", "8", "--upstream-timeout", "1500ms"];
    let dns = start(&[net.addr(1, 5353)], &flags);
    let client = dns.client();
    const COUNT: u16 = 20;
    for id in 0..COUNT {
        let mut message = question(&format!("n{id}.example.com A"));
        message.metadata.id = id;
        client.send(&message.to_vec().unwrap()).unwrap();
    }
    // All get SERVFAIL: most at once, a quarter of eight after the time-out.
    for _ in 0..COUNT {
        assert_eq!(show(&receive(&client)), ["ServFail"]);
    }
    assert_eq!(asked.lock().unwrap().len(), 4, "two questions, tried twice");
    assert_eq!(dns.metric("switchyard_dns_forwards_refused_total "), 18.0);
    assert_eq!(dns.metric("switchyard_dns_forwards_in_flight "), 0.0);
}

/// One client's lookups of a dead name must not take the places of its other lookups.
#[test]
fn a_dead_name_costs_its_asker_one_place() {
    let net = Net::new();
    upstream(net.addr(1, 5353), |query, socket, peer| {
        if !query.queries[0].name().to_string().to_lowercase().starts_with("dead.") {
            answer(query, socket, peer);
        }
    });
    let dns = start(&[net.addr(1, 5353)], &["--max-forwards", "8"]);
    let client = dns.client();
    let send = |id: u16, name: &str| {
        let mut message = question(name);
        message.metadata.id = id;
        client.send(&message.to_vec().unwrap()).unwrap();
    };
    const COUNT: u16 = 100;
    for id in 0..COUNT {
        send(id, "dead.example A");
        send(1000 + id, &format!("n{id}.example A"));
        let reply = receive(&client);
        assert_eq!((reply.metadata.id, show(&reply)[0].as_str()), (1000 + id, "NoError"));
    }
    for _ in 0..COUNT {
        let reply = receive(&client);
        assert!(reply.metadata.id < COUNT && show(&reply) == ["ServFail"]);
    }
    assert_eq!(dns.metric("switchyard_dns_forwards_refused_total "), 0.0);
}

#[test]
fn the_system_s_upstreams_are_used_but_not_ourselves() {
    let net = Net::new();
    let conf = tempfile::NamedTempFile::new().unwrap();
    let start = |servers: &str| {
        std::fs::write(conf.path(), servers).unwrap();
        Dns::start_with(OBJECTS, &["--resolv-conf", conf.path().to_str().unwrap()])
    };
    let dns = start(&format!("nameserver {}\nsearch x\nnameserver {}\n", net.ip(1), net.ip(2)));
    let upstreams = dns.process.status()["dns"]["upstreams"].clone();
    assert_eq!(upstreams[1], net.addr(2, 53).to_string());
    drop(dns);
    let dns = start("search x\n");
    assert_eq!(dns.show("www.example.com A"), ["Refused"]);
    let own = exchange(&dns.client(), &question("web.ns.svc.Z A"));
    assert!(!own.metadata.recursion_available);
}

/// DHCP clients and Docker write the file at any time.
#[test]
fn resolv_conf_is_followed() {
    let net = Net::new();
    let answering = |last: u8| {
        upstream(net.addr(last, 53), move |query, socket, peer| {
            let mut reply = reply_to(query);
            reply.answers[0].data = RData::A(A::new(192, 0, 2, last));
            send(socket, peer, &reply);
        })
    };
    answering(1);
    answering(2);
    let conf = tempfile::NamedTempFile::new().unwrap();
    let dns = Dns::start_with(OBJECTS, &["--resolv-conf", conf.path().to_str().unwrap()]);
    assert_eq!(ask_both(&dns, "www.example.com A"), [["Refused"], ["Refused"]]);
    let until = |expected: &str| {
        crate::support::eventually(expected, || {
            let replies = ask_both(&dns, "www.example.com A");
            replies.iter().all(|lines| lines.last().unwrap().ends_with(expected)).then_some(())
        });
    };
    std::fs::write(conf.path(), format!("nameserver {}\n", net.ip(1))).unwrap();
    until(" 192.0.2.1");
    let own = exchange(&dns.client(), &question("web.ns.svc.Z A"));
    assert!(own.metadata.recursion_available);
    // A file that is being written changes nothing.
    std::fs::write(conf.path(), "").unwrap();
    dns.process.signal(nix::sys::signal::Signal::SIGHUP);
    std::fs::write(conf.path(), format!("nameserver {}\n", net.ip(2))).unwrap();
    dns.process.signal(nix::sys::signal::Signal::SIGHUP);
    until(" 192.0.2.2");
    assert_eq!(dns.process.status()["dns"]["upstreams"][0], net.addr(2, 53).to_string());
}

/// A link-local server is named with its interface.
#[test]
fn scoped_upstreams() {
    let conf = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(conf.path(), "nameserver fe80::1%lo\nnameserver fe80::2%nosuch0\n").unwrap();
    let dns = Dns::start_with(OBJECTS, &["--resolv-conf", conf.path().to_str().unwrap()]);
    let upstreams = dns.process.status()["dns"]["upstreams"].clone();
    assert_eq!(upstreams, serde_json::json!(["[fe80::1%1]:53"]));
}

/// Before the feed has been listed, reverse queries for cluster addresses must not be forwarded.
#[test]
fn reverse_names_do_not_leak_before_the_first_sync() {
    let net = Net::new();
    let asked = upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut denial = reply_to(query);
        denial.answers.clear();
        denial.metadata.response_code = ResponseCode::NXDomain;
        send(socket, peer, &denial);
    });
    let addr = net.addr(53, PORT);
    // Nothing listens at the feed.
    let feed = format!("http://{}", net.addr(9, 7400));
    let (listen, upstream) = (addr.to_string(), net.addr(1, 5353).to_string());
    let args = ["dns", "--feed", &feed, "--listen", &listen, "--upstream", &upstream];
    let process = Switchyard::start(net.addr(53, 7431), &args);
    crate::support::eventually("it listens", || std::net::TcpStream::connect(addr).ok());
    assert_eq!(process.admin_get("/readyz").0, 503);
    for asked in ["10.0.96.10.in-addr.arpa PTR", "8.8.8.8.in-addr.arpa PTR"] {
        let reply = exchange(&client_of(addr), &question(asked));
        assert_eq!(show(&reply), ["ServFail"], "{asked}");
        assert_eq!(show(&Connection::to(addr).ask(&question(asked))), ["ServFail"], "{asked}");
    }
    assert!(asked.lock().unwrap().is_empty());
    // Other names are still forwarded.
    let reply = exchange(&client_of(addr), &question("www.example.com A"));
    assert_eq!(show(&reply), ["NXDomain"]);
}

/// A ClusterIP may be an address of a host network.
#[test]
fn reverse_names_beside_a_cluster_ip_are_forwarded() {
    let net = Net::new();
    upstream(net.addr(1, 5353), answer);
    let dns = start(&[net.addr(1, 5353)], &[]);
    let own = "1.0.0.10.in-addr.arpa 5 PTR web.ns.svc.Z";
    let own = ["NoError", own].map(str::to_owned).to_vec();
    assert_eq!(ask_both(&dns, "1.0.0.10.in-addr.arpa PTR"), [own.clone(), own]);
    for neighbour in ["2.0.0.10.in-addr.arpa", "0.0.10.in-addr.arpa"] {
        let forwarded = format!("{neighbour} 60 A 192.0.2.1");
        for reply in ask_both(&dns, &format!("{neighbour} A")) {
            assert_eq!(reply, ["NoError", &forwarded]);
        }
    }
}

/// Clients' connections must leave descriptors to forwarding and to the admin endpoint.
#[test]
fn idle_connections_do_not_use_up_the_open_files() {
    let net = Net::new();
    upstream(net.addr(1, 5353), answer);
    let folder = crate::support::Folder::new();
    folder.replace("objects.yaml", OBJECTS);
    let (addr, admin) = (net.addr(53, PORT), net.addr(53, 7431));
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 256 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_switchyard")]);
    command.args(["dns", "--feed"]).arg(folder.path());
    command.args(["--listen", &addr.to_string(), "--admin", &admin.to_string()]);
    command.args(["--upstream", &net.addr(1, 5353).to_string(), "--workers", "1"]);
    let process = Switchyard::spawn(command, admin);
    crate::support::eventually("readiness", || {
        (process.admin_get("/readyz").0 == 200).then_some(())
    });
    // From many addresses, because one client gets a quarter only.
    let idle: Vec<_> = (0..600)
        .filter_map(|number: u16| {
            let kind = socket2::Type::STREAM;
            let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
            socket.bind(&net.addr(100 + (number % 50) as u8, 0).into()).unwrap();
            socket.connect(&addr.into()).ok().map(|()| socket)
        })
        .collect();
    assert!(idle.len() > 256);
    // Until all have been accepted, some of which are closed at once.
    crate::support::eventually("all connections accepted", || {
        let open = metric_of(&process, "switchyard_dns_tcp_connections ");
        let refused = metric_of(&process, "switchyard_dns_tcp_refused_total ");
        (open + refused >= idle.len() as f64).then_some(())
    });
    assert_eq!(process.admin_get("/livez").0, 200);
    let client = client_of(addr);
    for number in 0..20 {
        let asked = format!("www{number}.example.com A");
        let expected = format!("www{number}.example.com 60 A 192.0.2.1");
        assert_eq!(show(&exchange(&client, &question(&asked))), ["NoError", &expected]);
    }
}

#[test]
fn questions_in_flight_are_finished_while_draining() {
    let net = Net::new();
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let behind = gate.clone();
    let asked = upstream(net.addr(1, 5353), move |query, socket, peer| {
        drop(behind.lock());
        answer(query, socket, peer);
    });
    let dns = start(&[net.addr(1, 5353)], &["--upstream-timeout", "60s"]);
    let client = client_of(dns.addr);
    client.send(&question("www.example.com A").to_vec().unwrap()).unwrap();
    let mut connection = Connection::to(dns.addr);
    connection.send(&question("www.example.com A"));
    crate::support::eventually("the question", || {
        (!asked.lock().unwrap().is_empty()).then_some(())
    });
    crate::support::eventually("both in flight", || {
        (dns.metric("switchyard_dns_forwards_in_flight ") == 2.0).then_some(())
    });
    dns.process.signal(nix::sys::signal::Signal::SIGTERM);
    crate::support::eventually("drain", || {
        let (status, _) = dns.process.admin_get("/readyz");
        (status == 503).then_some(())
    });
    drop(held);
    assert_eq!(show(&receive(&client)), FORWARDED);
    assert_eq!(show(&connection.receive()), FORWARDED);
    assert_eq!(dns.process.wait().code(), Some(0));
}
