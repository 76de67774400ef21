//! What clients get of upstreams' replies, and of aliases of ours, over both transports.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, NS, SOA};
use hickory_proto::rr::{Name, RData, Record};

use super::forwarding::{FORWARDED, OBJECTS, reply_to, send, start, upstream};
use super::kit::{Dns, exchange, question, show, with_edns};
use crate::support::Net;

/// Over both transports, each of which has threads of its own.
fn both(dns: &Dns, message: &Message) -> [Message; 2] {
    [exchange(&dns.client(), message), dns.connect().ask(message)]
}

fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(owner.parse::<Name>().unwrap(), 60, data)
}

#[test]
fn records_that_were_not_asked_for_are_not_relayed() {
    let net = Net::new();
    upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut reply = reply_to(query);
        let server = RData::NS(NS("ns.bank.test.".parse().unwrap()));
        reply.add_answer(record("www.bank.test.", RData::A(A::new(192, 0, 2, 66))));
        reply.add_authority(record("bank.test.", server));
        reply.add_additional(record("ns.bank.test.", RData::A(A::new(192, 0, 2, 66))));
        send(socket, peer, &reply);
    });
    let dns = start(&[net.addr(1, 5353)], &[]);
    for reply in both(&dns, &question("www.example.com A")) {
        assert_eq!(show(&reply), FORWARDED);
    }
}

#[test]
fn rdata_that_is_broken_is_not_relayed() {
    let net = Net::new();
    upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut reply = reply_to(query);
        reply.answers.clear();
        let mut bytes = reply.to_vec().unwrap();
        // A CNAME record whose target is a pointer to what follows it.
        bytes[7] = 1;
        let target = 0xc000 | (bytes.len() + 14) as u16;
        bytes.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 2]);
        bytes.extend_from_slice(&target.to_be_bytes());
        bytes.extend_from_slice(b"\x04evil\x04test\x00");
        socket.send_to(&bytes, peer).unwrap();
    });
    let dns = start(&[net.addr(1, 5353)], &[]);
    for reply in both(&dns, &question("www.example.com A")) {
        assert_eq!(show(&reply), ["ServFail"]);
    }
}

#[test]
fn only_those_who_ask_learn_whether_an_answer_is_verified() {
    let net = Net::new();
    upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut reply = reply_to(query);
        reply.metadata.authentic_data = true;
        reply.metadata.authoritative = true;
        send(socket, peer, &reply);
    });
    let dns = start(&[net.addr(1, 5353)], &[]);
    let plain = question("www.example.com A");
    let mut with_ad = plain.clone();
    with_ad.metadata.authentic_data = true;
    let with_do = with_edns(plain.clone(), 1232, true);
    // Twice: from the upstream and from the cache.
    for _ in 0..2 {
        for (message, expected) in [(&plain, false), (&with_ad, true), (&with_do, true)] {
            for reply in both(&dns, message) {
                assert_eq!(reply.metadata.authentic_data, expected, "{message}");
                assert!(!reply.metadata.authoritative);
            }
        }
    }
}

#[test]
fn a_chain_of_external_names_that_is_too_long_fails() {
    let chain = |length: usize| {
        let link = |n: usize| {
            format!(
                "{{ apiVersion: v1, kind: Service, metadata: {{ name: l{n}, namespace: ns }},\n  \
                 spec: {{ type: ExternalName, externalName: l{}.ns.svc.cluster.local }} }}\n---\n",
                n + 1
            )
        };
        let links: String = (0..length).map(link).collect();
        let end = format!(
            "{{ apiVersion: v1, kind: Service, metadata: {{ name: l{length}, namespace: ns }},\n  \
             spec: {{ clusterIP: 10.0.0.9, ports: [{{ port: 80 }}] }} }}\n"
        );
        Dns::start_with(&(links + &end), &["--upstream", "none"])
    };
    let asked = question("l0.ns.svc.Z A");
    for (length, code) in [(10, ResponseCode::NoError), (14, ResponseCode::ServFail)] {
        let dns = chain(length);
        for reply in both(&dns, &asked) {
            assert_eq!(reply.metadata.response_code, code, "{length}");
            // A failure is not the last word of an authority.
            assert_eq!(reply.metadata.authoritative, code == ResponseCode::NoError);
        }
    }
}

/// An upstream's failure about the target of our alias was given as our own word.
#[test]
fn the_failure_of_an_alias_s_target_is_not_authoritative() {
    let net = Net::new();
    upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut reply = reply_to(query);
        reply.answers.clear();
        reply.metadata.response_code = ResponseCode::Refused;
        send(socket, peer, &reply);
    });
    let dns = Dns::start_with(OBJECTS, &["--upstream", &net.addr(1, 5353).to_string()]);
    for reply in both(&dns, &question("ext.ns.svc.Z A")) {
        let alias = "ext.ns.svc.Z 5 CNAME www.example.com";
        assert_eq!(show(&reply), ["Refused", alias]);
        assert!(!reply.metadata.authoritative);
    }
}

#[test]
fn a_negative_answer_counts_down() {
    let net = Net::new();
    let asked = upstream(net.addr(1, 5353), |query, socket, peer| {
        let mut reply = reply_to(query);
        reply.answers.clear();
        reply.metadata.response_code = ResponseCode::NXDomain;
        let (server, person) = ("ns.example.", "admin.example.");
        let soa = SOA::new(server.parse().unwrap(), person.parse().unwrap(), 1, 2, 3, 4, 7);
        reply.add_authority(record("example.com.", RData::SOA(soa)));
        send(socket, peer, &reply);
    });
    let dns = start(&[net.addr(1, 5353)], &[]);
    for reply in both(&dns, &question("no.example.com A")) {
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        let ttl = reply.authorities[0].ttl;
        assert!((1..=7).contains(&ttl), "the minimum of the SOA record: {ttl}");
    }
    assert_eq!(asked.lock().unwrap().len(), 1);
}
