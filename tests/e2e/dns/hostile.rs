//! Clients and upstreams that do harm, by intent or by mistake: what they do costs nobody else
//! anything.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use nix::sys::signal::Signal;

use super::forwarding::{
    Asked, OBJECTS, answer, is_probe, listening, reply_to, send, start, upstream,
    upstream_that_cuts, upstream_with_probes,
};
use super::kit::{
    Dns, ONE_SERVICE, PORT, WEB, client_of, exchange, framed, metric_of, question, show, with_edns,
};
use crate::support::{Folder, Net, PATIENCE, eventually};

/// A relay to `to` that lets probes pass only if the switch says so.
fn relay(addr: SocketAddr, to: SocketAddr, passes_probes: &Arc<AtomicBool>) -> Asked {
    let switch = passes_probes.clone();
    upstream_with_probes(addr, move |query, socket, peer| {
        if is_probe(query) && !switch.load(Relaxed) {
            return;
        }
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

/// How often a name was asked for.
fn times_asked(asked: &[Asked], name: &str) -> usize {
    let is_it = |query: &Message| query.queries[0].name().to_string().eq_ignore_ascii_case(name);
    asked.iter().map(|asked| asked.lock().unwrap().iter().filter(|(q, _)| is_it(q)).count()).sum()
}

/// Two servers, each the other's upstream at two addresses, asked each other 36,000 times a second
/// without end, and were ready.
#[test]
fn a_loop_of_forwarders_was_a_storm() {
    let nets = [Net::new(), Net::new()];
    let own = |net: Net| [net.addr(53, PORT), net.addr(54, PORT)];
    let relays = |net: Net| [net.addr(1, 5353), net.addr(2, 5353)];
    let passes_probes = Arc::new(AtomicBool::new(false));
    let mut asked = Vec::new();
    for (net, other) in [(nets[0], nets[1]), (nets[1], nets[0])] {
        let pairs = relays(net).into_iter().zip(own(other));
        asked.extend(pairs.map(|(at, to)| relay(at, to, &passes_probes)));
    }
    let folder = Folder::new();
    folder.replace("objects.yaml", OBJECTS);
    let servers = nets.map(|net| {
        let text = |addrs: [SocketAddr; 2]| addrs.map(|addr| addr.to_string()).join(",");
        let path = folder.path().to_str().unwrap();
        let (listen, upstream) = (text(own(net)), text(relays(net)));
        let args = ["dns", "--feed", path, "--listen", &listen, "--upstream", &upstream];
        listening(net, own(net)[1], &args)
    });
    // The loop is not known: what stops the storm is that equal questions are one.
    for number in 0..4 {
        let client = client_of(own(nets[number % 2])[number / 2]);
        let name = format!("loop{number}.example.");
        let reply = exchange(&client, &question(&format!("{name} A")));
        assert_eq!(show(&reply), ["ServFail"], "{name}");
        let count = times_asked(&asked, &name);
        assert!((1..=4).contains(&count), "{name} was asked {count} times");
    }
    passes_probes.store(true, Relaxed);
    let begun = Instant::now();
    let client = client_of(own(nets[0])[0]);
    let mut number = 0;
    let reason = eventually("the loop in /readyz", || {
        number += 1;
        exchange(&client, &question(&format!("more{number}.example A")));
        let mut pages = servers.iter().map(|server| server.admin_get("/readyz"));
        pages.find(|(status, body)| *status == 503 && body.contains("loop"))
    });
    assert!(reason.1.contains("forwards to this server"), "{reason:?}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(30), "found after {took:?} and {number} questions");
}

/// Asks until there is a reply: a flood may fill the socket's queue.
fn ask_patiently(socket: &UdpSocket, asked: &str) -> Message {
    let message = question(asked);
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let begun = Instant::now();
    let mut buffer = [0; 65_535];
    loop {
        assert!(begun.elapsed() < PATIENCE, "{asked}");
        socket.send(&message.to_vec().unwrap()).unwrap();
        while let Ok(len) = socket.recv(&mut buffer) {
            let reply = Message::from_vec(&buffer[..len]).unwrap();
            if reply.queries == message.queries {
                return reply;
            }
        }
    }
}

fn client_from(from: SocketAddr, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(from).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    socket
}

/// One client's queries for dead names took all places of those who wait, and all sockets.
#[test]
fn one_client_s_dead_names_cost_others_nothing() {
    let net = Net::new();
    for last in [1, 2] {
        upstream(net.addr(last, 5353), |query, socket, peer| {
            if !query.queries[0].name().to_string().to_lowercase().starts_with("dead") {
                answer(query, socket, peer);
            }
        });
    }
    let dns = start(&[net.addr(1, 5353), net.addr(2, 5353)], &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let flooding = [100, 100_000].map(|names: usize| {
        let (stop, client) = (stop.clone(), client_from(net.addr(7, 0), dns.addr));
        std::thread::spawn(move || {
            let mut sent = 0;
            while !stop.load(Relaxed) {
                let name = format!("dead{}.example A", sent % names);
                // The responder's queue may be full.
                let _ = client.send(&question(&name).to_vec().unwrap());
                sent += 1;
                std::thread::sleep(Duration::from_micros(100));
            }
            sent
        })
    });
    let victim = client_from(net.addr(8, 0), dns.addr);
    std::thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    let mut number = 0;
    while begun.elapsed() < Duration::from_secs(6) {
        let name = format!("n{number}.example");
        let lines = show(&ask_patiently(&victim, &format!("{name} A")));
        assert_eq!(lines, ["NoError", &format!("{name} 60 A 192.0.2.1")], "after {number}");
        number += 1;
    }
    stop.store(true, Relaxed);
    let sent: usize = flooding.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(number > 20 && sent > 4000, "{number} lookups beside {sent} queries");
    assert!(dns.metric("switchyard_dns_forwards_refused_total ") > 0.0, "the flood is refused");
}

fn with_cookie(asked: &str, cookie: &[u8]) -> Message {
    let mut message = with_edns(question(asked), 1232, false);
    let options = message.edns.as_mut().unwrap().options_mut();
    options.insert(EdnsOption::Unknown(10, cookie.to_vec()));
    message
}

fn cookie_of(reply: &Message) -> Vec<u8> {
    match reply.edns.as_ref().unwrap().options().get(EdnsCode::Cookie) {
        Some(EdnsOption::Unknown(_, cookie)) => cookie.clone(),
        other => panic!("no cookie: {other:?}"),
    }
}

/// The replies to so many equal packets: all of them, and those with TC.
fn replies(dns: &Dns, packet: &[u8], count: usize) -> (usize, usize) {
    let client = dns.client();
    for _ in 0..count {
        client.send(packet).unwrap();
    }
    // What is sent last is answered last.
    let limited = || dns.metric("switchyard_dns_rate_limited_total ");
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let (mut all, mut cut) = (0, 0);
    let mut buffer = [0; 1500];
    while let Ok(len) = client.recv(&mut buffer) {
        all += 1;
        if buffer[2] & 2 != 0 {
            cut += 1;
            assert!(len <= packet.len() + 40, "{len} octets");
            let reply = Message::from_vec(&buffer[..len]).unwrap();
            assert_eq!((reply.queries.len(), reply.answers.len()), (1, 0));
        }
    }
    assert!(limited() > 0.0 || all == count);
    (all, cut)
}

/// Half of what is over the limit is dropped, the rest says to ask over TCP; a cookie exempts.
#[test]
fn equal_answers_are_limited_and_cookies_exempt() {
    let net = Net::new();
    upstream(net.addr(1, 5353), answer);
    // The exemption of private networks is replaced.
    let flags = ["--rate-limit", "5", "--rate-limit-exempt", "203.0.113.0/24"];
    let dns = start(&[net.addr(1, 5353)], &flags);
    const COUNT: usize = 100;
    for asked in [WEB, "www.example.com A"] {
        let packet = with_edns(question(asked), 1232, false).to_vec().unwrap();
        let (all, cut) = replies(&dns, &packet, COUNT);
        // Some more may come on a busy machine, a second later.
        assert!((45..=75).contains(&all) && (30..=50).contains(&cut), "{asked}: {all}, {cut} cut");
        // Over TCP there is no limit.
        let mut connection = dns.connect();
        for _ in 0..COUNT {
            assert_eq!(show(&connection.ask(&question(asked)))[0], "NoError");
        }
        let first = exchange(&dns.client(), &with_cookie("none.ns.svc.Z A", b"12345678"));
        let cookie = cookie_of(&first);
        assert_eq!((cookie.len(), &cookie[..8]), (24, &b"12345678"[..]));
        let packet = with_cookie(asked, &cookie).to_vec().unwrap();
        assert_eq!(replies(&dns, &packet, COUNT), (COUNT, 0), "{asked}");
        let mut forged = cookie;
        forged[20] ^= 1;
        let packet = with_cookie(asked, &forged).to_vec().unwrap();
        assert!(replies(&dns, &packet, COUNT).0 < COUNT, "{asked}");
    }
    // A packet that cannot be parsed gets a header, and not a question of somebody else.
    let client = dns.client();
    let broken = [&question(WEB).to_vec().unwrap()[..20], &[0x3f]].concat();
    for _ in 0..COUNT {
        client.send(&broken).unwrap();
    }
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut buffer = [0; 1500];
    let mut count = 0;
    while let Ok(len) = client.recv(&mut buffer) {
        assert_eq!(len, 12);
        count += 1;
    }
    assert!((1..COUNT).contains(&count), "{count}");
}

#[test]
#[ignore = "needs dig"]
fn dig_takes_our_cookies() {
    let dns = Dns::start(ONE_SERVICE);
    let (server, port) = (format!("@{}", dns.addr.ip()), dns.addr.port().to_string());
    let dig = |cookie: &str| {
        let args = [&server, "-p", &port, cookie, "web.ns.svc.cluster.local"];
        let output = Command::new("dig").args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = dig("+cookie");
    assert!(text.contains("(good)") && text.contains("10.0.0.1"), "{text}");
    let line = text.lines().find(|line| line.contains("COOKIE: ")).unwrap();
    let cookie = line.split_ascii_whitespace().nth(2).unwrap();
    let text = dig(&format!("+cookie={cookie}"));
    assert!(text.contains("10.0.0.1") && text.contains("(good)"), "{text}");
    // Too short for a cookie.
    assert!(dig("+cookie=0102").contains("FORMERR"));
}

/// An upstream whose UDP answers are cut, and that does over TCP what `behave` says.
fn upstream_over_tcp(addr: SocketAddr, behave: fn(&mut TcpStream, &Message)) {
    upstream_that_cuts(addr);
    let listener = TcpListener::bind(addr).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    if stream.read_exact(&mut query).is_err() {
                        return;
                    }
                    behave(&mut stream, &Message::from_vec(&query).unwrap());
                }
            });
        }
    });
}

/// Junk of the largest size, replies to other questions, and connections that end in the middle.
#[test]
fn upstreams_that_send_junk_over_tcp() {
    type Behave = fn(&mut TcpStream, &Message);
    let junk: Behave = |stream, query| {
        for octet in [0, 0xc0, 0xff] {
            let mut message = vec![octet; 65_535];
            message[..2].copy_from_slice(&query.metadata.id.to_be_bytes());
            let _ = stream.write_all(&[&[0xff, 0xff][..], &message].concat());
        }
        let _ = stream.write_all(&[0; 2000]);
        let mut other = reply_to(query);
        other.metadata.id ^= 1;
        let _ = stream.write_all(&framed(&other));
        let _ = stream.write_all(&framed(&reply_to(query)));
    };
    let half: Behave = |stream, query| {
        let reply = framed(&reply_to(query));
        let _ = stream.write_all(&reply[..reply.len() / 2]);
        let _ = stream.shutdown(std::net::Shutdown::Both);
    };
    let large: Behave = |stream, query| {
        let mut plain = reply_to(query);
        plain.edns = None;
        // The owner's pointer and what follows it.
        let mut bytes = plain.to_vec().unwrap();
        let record = bytes[bytes.len() - 16..].to_vec();
        bytes.extend(record.repeat(4000));
        bytes[6..8].copy_from_slice(&4001u16.to_be_bytes());
        let length = (bytes.len() as u16).to_be_bytes();
        let _ = stream.write_all(&[&length[..], &bytes].concat());
    };
    for (behave, expected) in [(junk, Some(1)), (half, None), (large, Some(4001))] {
        let net = Net::new();
        upstream_over_tcp(net.addr(1, 5353), behave);
        let dns = start(&[net.addr(1, 5353)], &[]);
        let client = dns.client();
        for number in 0..3 {
            let asked = question(&format!("www{number}.example.com A"));
            let whole = dns.connect().ask(&asked);
            match expected {
                Some(count) => assert_eq!(whole.answers.len(), count),
                None => assert_eq!(show(&whole), ["ServFail"]),
            }
            let reply = exchange(&client, &asked);
            assert_eq!(reply.metadata.truncation, expected != Some(1), "{reply}");
        }
    }
}

/// Many replies to other questions, before and after the true one.
#[test]
fn upstreams_that_send_many_replies() {
    let net = Net::new();
    upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut other = reply_to(query);
        for number in 0..100 {
            other.metadata.id = query.metadata.id.wrapping_add(number + 1);
            send(socket, peer, &other);
        }
        answer(query, socket, peer);
        for _ in 0..100 {
            send(socket, peer, &other);
        }
    });
    let dns = start(&[net.addr(1, 5353)], &[]);
    for number in 0..20 {
        let asked = format!("n{number}.example A");
        assert_eq!(show(&dns.ask(&asked))[0], "NoError", "{asked}");
    }
}

/// The upstreams, the file of hosts and the objects change while questions are in flight.
#[test]
fn everything_changes_while_questions_are_in_flight() {
    let net = Net::new();
    for last in [1, 2] {
        upstream(net.addr(last, 53), |query, socket, peer| {
            let (query, socket) = (query.clone(), socket.try_clone().unwrap());
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                answer(&query, &socket, peer);
            });
        });
    }
    let files = Folder::new();
    files.replace("resolv.conf", &format!("nameserver {}\n", net.ip(1)));
    files.replace("hosts", "10.7.0.1 nas.home\n");
    let path = |name: &str| files.file(name).to_str().unwrap().to_owned();
    let (conf, hosts) = (path("resolv.conf"), path("hosts"));
    let dns = Dns::start_with(OBJECTS, &["--resolv-conf", &conf, "--hosts", &hosts]);
    let stop = Arc::new(AtomicBool::new(false));
    let asking = [0, 1].map(|thread| {
        let (stop, client) = (stop.clone(), dns.client());
        std::thread::spawn(move || {
            let mut number = 0;
            while !stop.load(Relaxed) {
                let name = format!("n{number}.t{thread}.example");
                let lines = show(&exchange(&client, &question(&format!("{name} A"))));
                assert_eq!(lines, ["NoError", &format!("{name} 60 A 192.0.2.1")]);
                let lines = show(&exchange(&client, &question("nas.home A")));
                assert!(lines[1].starts_with("nas.home 5 A 10.7.0."), "{lines:?}");
                number += 1;
            }
            number
        })
    });
    for round in 0..40 {
        files.replace("resolv.conf", &format!("nameserver {}\n", net.ip(1 + round % 2)));
        files.replace("hosts", &format!("10.7.0.{round} nas.home\n"));
        dns.folder
            .replace("objects.yaml", &OBJECTS.replace("10.0.0.1", &format!("10.0.0.{round}")));
        dns.process.signal(Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(50));
    }
    stop.store(true, Relaxed);
    for thread in asking {
        assert!(thread.join().unwrap() > 10);
    }
    assert_eq!(metric_of(&dns.process, "switchyard_dns_forwards_in_flight "), 0.0);
}

/// Handshakes that never end take no places from other clients.
#[test]
fn handshakes_that_never_end() {
    let net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["dns.example".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = net.addr(53, 8530).to_string();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let flags =
        ["--upstream", "none", "--tls-listen", &tls, "--tls-cert", certificate, "--tls-key"];
    let dns = Dns::start_with(ONE_SERVICE, &[&flags[..], &[key]].concat());
    let connect = |from: u8| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&net.addr(from, 0).into()).unwrap();
        socket.connect(&net.addr(53, 8530).into()).unwrap();
        TcpStream::from(socket)
    };
    let idle: Vec<TcpStream> = (0..200).map(|_| connect(7)).collect();
    eventually("those over the share are closed", || {
        (dns.metric("switchyard_dns_tcp_refused_total ") >= 100.0).then_some(())
    });
    // Another client's hello is answered.
    let mut hello = connect(8);
    hello.set_read_timeout(Some(PATIENCE)).unwrap();
    // No version that we know: an alert comes back.
    hello.write_all(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00").unwrap();
    let mut alert = [0; 1];
    hello.read_exact(&mut alert).unwrap();
    assert_eq!(alert, [0x15]);
    assert_eq!(show(&dns.connect().ask(&question(WEB)))[0], "NoError");
    drop(idle);
}
