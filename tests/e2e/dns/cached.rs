//! What is kept of upstreams' answers and failures, and what clients get of it when upstreams are
//! slow, fail, or are down.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record};

use super::forwarding::{Asked, OBJECTS, answer, reply_to, send, start, upstream};
use super::kit::{Dns, PORT, client_of, exchange, question, show, with_edns};
use crate::support::{Net, PATIENCE, PROMPTLY, Switchyard, eventually};

/// The code of a reply's extended error (RFC 8914).
fn extended_error(reply: &Message) -> Option<u16> {
    match reply.edns.as_ref()?.options().get(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(_, data) => Some(u16::from_be_bytes([data[0], data[1]])),
        _ => None,
    }
}

/// The reply, which must be the same over UDP and TCP, as text with the extended error.
fn ask(dns: &Dns, asked: &str) -> String {
    let message = with_edns(question(asked), 1232, false);
    let shown = |reply: &Message| {
        let error = extended_error(reply).map(|code| format!(" ({code})")).unwrap_or_default();
        show(reply).join(", ") + &error
    };
    let over_udp = shown(&exchange(&dns.client(), &message));
    assert_eq!(shown(&dns.connect().ask(&message)), over_udp, "{asked}");
    over_udp
}

/// What an upstream does.
const ANSWERS: u8 = 0;
const FAILS: u8 = 1;
const IS_SILENT: u8 = 2;
const IS_MALFORMED: u8 = 3;
const CUTS: u8 = 4;
const IS_NOT_AUTHORITATIVE: u8 = 5;

/// An upstream that does what the switch says. Names that begin with `no` do not exist. All may be
/// cached for a second.
fn switched(net: Net, last: u8, switch: &Arc<AtomicU8>) -> Asked {
    let switch = switch.clone();
    upstream(net.addr(last, 5353), move |query, socket, peer| {
        let mut reply = reply_to(query);
        let fail = |reply: &mut Message, code| {
            reply.answers.clear();
            reply.metadata.response_code = code;
        };
        match switch.load(Relaxed) {
            FAILS => fail(&mut reply, ResponseCode::ServFail),
            IS_NOT_AUTHORITATIVE => fail(&mut reply, ResponseCode::NotAuth),
            IS_SILENT => return,
            IS_MALFORMED => {
                reply.answers.clear();
                let mut bytes = reply.to_vec().unwrap();
                bytes[7] = 9;
                socket.send_to(&bytes, peer).unwrap();
                return;
            }
            CUTS => reply.metadata.truncation = true,
            _ if query.queries[0].name().to_string().to_lowercase().starts_with("no") => {
                fail(&mut reply, ResponseCode::NXDomain);
                reply.add_authority(soa(1));
            }
            _ => reply.answers[0].ttl = 1,
        }
        send(socket, peer, &reply);
    })
}

/// With the names and numbers that `show` knows.
fn soa(ttl: u32) -> Record {
    let name = |text: &str| text.parse::<Name>().unwrap();
    let (server, person) = (name("ns.dns.cluster.local."), name("hostmaster.cluster.local."));
    let soa = SOA::new(server, person, 1, 7200, 1800, 86400, 5);
    Record::from_rdata(name("example.com."), ttl, RData::SOA(soa))
}

fn expire() {
    std::thread::sleep(Duration::from_millis(1100));
}

/// It was SERVFAIL for a name that was answered just before.
#[test]
fn a_name_that_was_answered_is_answered_while_upstreams_fail() {
    let net = Net::new();
    let switch = Arc::new(AtomicU8::new(ANSWERS));
    switched(net, 1, &switch);
    let dns = start(&[net.addr(1, 5353)], &["--upstream-timeout", "2s"]);
    let failures = [FAILS, IS_MALFORMED, IS_NOT_AUTHORITATIVE, IS_SILENT];
    for failure in failures {
        for name in ["www", "no"] {
            ask(&dns, &format!("{name}{failure}.example.com A"));
        }
    }
    expire();
    for failure in failures {
        switch.store(failure, Relaxed);
        let www = format!("www{failure}.example.com");
        for _ in 0..2 {
            let begun = Instant::now();
            let stale = format!("NoError, {www} 30 A 192.0.2.1 (3)");
            assert_eq!(ask(&dns, &format!("{www} A")), stale, "{failure}");
            let denied = ask(&dns, &format!("no{failure}.example.com A"));
            assert!(denied.starts_with("NXDomain") && denied.ends_with(" (19)"), "{denied}");
            assert!(begun.elapsed() < PROMPTLY);
        }
    }
    assert!(dns.metric("switchyard_dns_cache_stale_total ") >= 16.0);
}

/// Also a client that wants no recursion gets the answer that is there.
#[test]
fn without_recursion_a_failure_hid_the_stale_answer() {
    let net = Net::new();
    let switch = Arc::new(AtomicU8::new(ANSWERS));
    switched(net, 1, &switch);
    let dns = start(&[net.addr(1, 5353)], &[]);
    ask(&dns, "www.example.com A");
    expire();
    switch.store(FAILS, Relaxed);
    let mut message = question("www.example.com A");
    message.metadata.recursion_desired = false;
    let reply = exchange(&dns.client(), &message);
    assert_eq!(show(&reply), ["NoError", "www.example.com 30 A 192.0.2.1"]);
}

/// An answer that was cut, and is not to be had over TCP, took the place of the whole one.
#[test]
fn a_partial_answer_does_not_replace_a_whole_one() {
    let net = Net::new();
    let switch = Arc::new(AtomicU8::new(ANSWERS));
    switched(net, 1, &switch);
    let dns = start(&[net.addr(1, 5353)], &[]);
    ask(&dns, "www.example.com A");
    expire();
    switch.store(CUTS, Relaxed);
    let reply = dns.ask("www.example.com A");
    assert_eq!(show(&reply), ["NoError", "www.example.com 60 A 192.0.2.1"]);
    assert!(reply.metadata.truncation);
    switch.store(FAILS, Relaxed);
    assert_eq!(ask(&dns, "www.example.com A"), "NoError, www.example.com 30 A 192.0.2.1 (3)");
}

/// A name that no longer exists is no longer answered from memory.
#[test]
fn a_denial_replaces_a_stale_answer() {
    let net = Net::new();
    let exists = Arc::new(AtomicU8::new(1));
    let switch = exists.clone();
    upstream(net.addr(1, 5353), move |query, socket, peer| {
        let mut reply = reply_to(query);
        reply.answers[0].ttl = 1;
        if switch.load(Relaxed) == 0 {
            reply.answers.clear();
            reply.metadata.response_code = ResponseCode::NXDomain;
            reply.add_authority(soa(60));
        }
        send(socket, peer, &reply);
    });
    let dns = start(&[net.addr(1, 5353)], &[]);
    assert_eq!(ask(&dns, "www.example.com A"), "NoError, www.example.com 1 A 192.0.2.1");
    expire();
    exists.store(0, Relaxed);
    assert_eq!(show(&dns.ask("www.example.com A"))[0], "NXDomain");
    exists.store(1, Relaxed);
    assert_eq!(show(&dns.ask("www.example.com A"))[0], "NXDomain");
}

/// Why there is no answer: no upstream can be reached (23), none answers (22), one failed a moment
/// ago (13), the client may not ask (18), the objects are not known yet (14).
#[test]
fn failures_say_why() {
    let net = Net::new();
    let switch = Arc::new(AtomicU8::new(IS_SILENT));
    switched(net, 1, &switch);
    let silent = start(&[net.addr(1, 5353)], &["--upstream-timeout", "200ms"]);
    let begun = Instant::now();
    assert_eq!(ask(&silent, "www.example.com A"), "ServFail (22)");
    assert_eq!(ask(&silent, "www.example.com A"), "ServFail (22)");
    assert!(begun.elapsed() < PROMPTLY);
    switch.store(FAILS, Relaxed);
    let message = with_edns(question("fails.example.com A"), 1232, false);
    let client = silent.client();
    assert_eq!(extended_error(&exchange(&client, &message)), None, "the upstream's own failure");
    assert_eq!(extended_error(&exchange(&client, &message)), Some(13));
    drop(silent);
    // Nothing listens there.
    let refused = start(&[net.addr(2, 5353)], &["--allow-forward", "127.0.0.0/8"]);
    assert_eq!(ask(&refused, "www.example.com A"), "ServFail (23)");
    drop(refused);
    let strict = start(&[net.addr(2, 5353)], &["--allow-forward", "192.0.2.0/24"]);
    assert_eq!(ask(&strict, "www.example.com A"), "Refused (18)");
    let addr = net.addr(53, PORT);
    let (feed, listen) = (format!("http://{}", net.addr(9, 7400)), addr.to_string());
    let args = ["dns", "--feed", &feed, "--listen", &listen, "--upstream", "none"];
    let _process = Switchyard::start(net.addr(53, 7431), &args);
    eventually("it listens", || std::net::TcpStream::connect(addr).ok());
    let early = with_edns(question("web.ns.svc.Z A"), 1232, false);
    let reply = exchange(&client_of(addr), &early);
    assert_eq!((show(&reply), extended_error(&reply)), (vec!["ServFail".to_owned()], Some(14)));
}

/// Clients without a right to ask do not get what others have asked either.
#[test]
fn cached_answers_are_for_clients_that_may_ask() {
    let net = Net::new();
    upstream(net.addr(1, 5353), answer);
    let friend = format!("{}/32", net.ip(7));
    let dns = start(&[net.addr(1, 5353)], &["--allow-forward", &friend]);
    let ask = |last: u8| {
        let socket = UdpSocket::bind(net.addr(last, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(dns.addr).unwrap();
        show(&exchange(&socket, &question("www.example.com A")))[0].clone()
    };
    assert_eq!([ask(7), ask(7), ask(8)], ["NoError", "NoError", "Refused"]);
}

fn times_asked(asked: &Asked) -> usize {
    asked.lock().unwrap().len()
}

#[test]
fn a_ttl_of_zero_is_asked_anew() {
    let net = Net::new();
    let asked = upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut reply = reply_to(query);
        reply.answers[0].ttl = 0;
        send(socket, peer, &reply);
    });
    let dns = start(&[net.addr(1, 5353)], &[]);
    assert_eq!(ask(&dns, "www.example.com A"), "NoError, www.example.com 0 A 192.0.2.1");
    assert_eq!(times_asked(&asked), 2);
    assert_eq!(dns.metric("switchyard_dns_cache_entries "), 0.0);
}

/// A client that wants signatures gets another answer than one that does not.
#[test]
fn do_and_cd_are_part_of_the_key() {
    let net = Net::new();
    let asked = upstream(net.addr(1, 5353), answer);
    let dns = start(&[net.addr(1, 5353)], &[]);
    let client = dns.client();
    for _ in 0..2 {
        for (dnssec_ok, checking_disabled) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let mut message = with_edns(question("WWW.example.com A"), 1232, dnssec_ok);
            message.metadata.checking_disabled = checking_disabled;
            let reply = exchange(&client, &message);
            assert_eq!(show(&reply)[0], "NoError");
            assert_eq!(reply.metadata.checking_disabled, checking_disabled);
        }
        exchange(&client, &question("www.EXAMPLE.com A"));
    }
    let asked = asked.lock().unwrap();
    let bits: Vec<_> = asked
        .iter()
        .map(|(query, _)| {
            let edns = query.edns.as_ref().unwrap();
            (edns.flags().dnssec_ok, query.metadata.checking_disabled)
        })
        .collect();
    assert_eq!(bits, [(false, false), (false, true), (true, false), (true, true)]);
}

/// An alias of another zone that leads to a Service.
#[test]
fn an_alias_into_the_cluster_zone_is_continued() {
    let net = Net::new();
    let asked = upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut reply = reply_to(query);
        let target: Name = "web.ns.svc.cluster.local.".parse().unwrap();
        reply.answers[0].data = RData::CNAME(CNAME(target));
        reply.metadata.response_code = ResponseCode::NXDomain;
        send(socket, peer, &reply);
    });
    let dns = start(&[net.addr(1, 5353)], &[]);
    let expected = "NoError, www.example.com 60 CNAME web.ns.svc.Z, web.ns.svc.Z 5 A 10.0.0.1";
    assert_eq!(ask(&dns, "www.example.com A"), expected);
    assert_eq!(show(&dns.ask("www.example.com AAAA"))[0], "NoError");
    // What our own zone says is never kept.
    dns.folder.replace("objects.yaml", &OBJECTS.replace("10.0.0.1", "10.0.0.2"));
    eventually("the new address", || {
        dns.show("www.example.com A").last()?.ends_with("A 10.0.0.2").then_some(())
    });
    assert!(times_asked(&asked) >= 2);
}

/// A name in use is asked again before it expires, once, and a failure of that changes nothing.
#[test]
fn names_in_use_are_refreshed_before_they_expire() {
    let net = Net::new();
    let count = AtomicU8::new(0);
    let asked = upstream(net.addr(1, 5353), move |query, socket, peer| {
        let mut reply = reply_to(query);
        reply.answers[0].ttl = 3;
        let number = count.fetch_add(1, Relaxed);
        reply.answers[0].data = RData::A(A::new(192, 0, 2, number));
        if number == 2 {
            reply.answers.clear();
            reply.metadata.response_code = ResponseCode::ServFail;
        }
        send(socket, peer, &reply);
    });
    let dns = start(&[net.addr(1, 5353)], &[]);
    let client = dns.client();
    let begun = Instant::now();
    while times_asked(&asked) < 3 {
        let reply = exchange(&client, &question("www.example.com A"));
        // Nobody waits, and nobody gets an answer that has expired.
        assert_eq!(show(&reply)[0], "NoError");
        assert!(reply.answers[0].ttl <= 3, "{reply}");
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    let refreshes = dns.metric("switchyard_dns_cache_refreshes_total ");
    assert!((1.0..=3.0).contains(&refreshes), "{refreshes}");
}

/// With all upstreams known to be down, a name that is looked up all the time is refreshed once in
/// 30 s: each lookup took one of its client's places.
#[test]
fn stale_answers_cost_no_places() {
    let net = Net::new();
    let switch = Arc::new(AtomicU8::new(ANSWERS));
    let asked = switched(net, 1, &switch);
    let dns = start(&[net.addr(1, 5353)], &["--upstream-timeout", "1s"]);
    exchange(&dns.client(), &question("www.example.com A"));
    exchange(&dns.client(), &question("other.example.com A"));
    expire();
    switch.store(IS_SILENT, Relaxed);
    // The probes are answered, so it is down only for a moment.
    let down = || dns.process.status()["dns"]["upstreamsDown"].as_array().unwrap().len() == 1;
    let client = dns.client();
    let mut number = 0;
    eventually("it is down", || {
        number += 1;
        let asked = format!("dead{number}.example.com A");
        client.send(&question(&asked).to_vec().unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        down().then_some(())
    });
    let before = times_asked(&asked);
    let fresh = dns.client();
    for _ in 0..1000 {
        let reply = exchange(&fresh, &question("www.example.com A"));
        assert_eq!(show(&reply)[0], "NoError");
    }
    let of_www = asked.lock().unwrap()[before..]
        .iter()
        .filter(|(query, _)| query.queries[0].name().to_string().to_lowercase().starts_with("www"))
        .count();
    assert!(of_www <= 2, "{of_www} queries");
}

/// `--cache-bytes` of nothing, little and much, and one place for questions in flight.
#[test]
fn the_least_and_the_most_of_each_limit() {
    for (bytes, keeps) in [("0", false), ("1", true), ("64m", true)] {
        let net = Net::new();
        let asked = upstream(net.addr(1, 5353), answer);
        let flags = ["--cache-bytes", bytes, "--max-forwards", "1"];
        let dns = start(&[net.addr(1, 5353)], &flags);
        for _ in 0..3 {
            let lines = show(&dns.ask("www.example.com A"));
            assert_eq!(lines, ["NoError", "www.example.com 60 A 192.0.2.1"], "{bytes}");
        }
        assert_eq!(times_asked(&asked), if keeps { 1 } else { 3 }, "{bytes}");
    }
}

#[test]
fn the_cache_keeps_to_its_memory() {
    let net = Net::new();
    let asked = upstream(net.addr(1, 5353), answer);
    let dns = start(&[net.addr(1, 5353)], &["--cache-bytes", "128k"]);
    let client = dns.client();
    for number in 0..2000 {
        let asked = format!("n{number}.example.com A");
        assert_eq!(show(&exchange(&client, &question(&asked)))[0], "NoError");
    }
    assert!(dns.metric("switchyard_dns_cache_bytes ") <= f64::from(128 << 10));
    assert!(dns.metric("switchyard_dns_cache_evictions_total ") > 1000.0);
    assert_eq!(times_asked(&asked), 2000);
}
