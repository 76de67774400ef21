//! Upstreams' messages, written by another codec or malformed, and what clients get of them.

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, MX, NS, NULL, SOA, TXT};
use hickory_proto::rr::{Name as HickoryName, RData, Record as HickoryRecord, RecordType};
use proptest::prelude::*;

use super::*;
use crate::cache::Served;
use crate::cache::stored::Age;
use crate::oracle::{key_of, parsed, question, show, with_edns};
use crate::respond::outside::{room, serve, serve_alias};
use crate::respond::{Alias, Outcome, Policy};
use crate::wire::reply::Transport;
use crate::wire::{Query, TCP_LIMIT};
use crate::zone::tests::zone;

const POLICY: Policy = Policy { forwards: true, tells_version: false };

fn name(text: &str) -> HickoryName {
    text.parse().unwrap()
}

fn record(owner: &str, data: RData) -> HickoryRecord {
    HickoryRecord::from_rdata(name(owner), 60, data)
}

fn address(owner: &str, n: u8) -> HickoryRecord {
    record(owner, RData::A(A::new(192, 0, 2, n)))
}

fn alias(owner: &str, target: &str) -> HickoryRecord {
    record(owner, RData::CNAME(CNAME(name(target))))
}

/// With a TTL of 60 and a minimum of 5, and the names that `show` knows.
fn soa(owner: &str) -> HickoryRecord {
    let (server, person) = (name("ns.dns.cluster.local."), name("hostmaster.cluster.local."));
    record(owner, RData::SOA(SOA::new(server, person, 7, 7200, 1800, 86400, 5)))
}

/// An upstream's reply to a message, before records are added.
fn reply_to(asked: &Message) -> Message {
    let mut reply = asked.clone();
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    reply.edns = None;
    reply
}

fn stored(asked: &Message, upstream: &Message) -> Stored {
    rebuild(&parsed(asked), &upstream.to_vec().unwrap()).expect("a well-formed message")
}

fn served(asked: &Message, stored: &Stored, transport: Transport, age: Age) -> Message {
    let packet = asked.to_vec().unwrap();
    let mut query = Query::new();
    query.parse(&packet).unwrap();
    let what = Served::Answer(stored, age);
    let mut buf = packet[..query.question_end].to_vec();
    buf.resize(room(&buf, transport, what), 0);
    let replied = serve(&zone(), &query, &mut buf, transport, what, 0);
    let limit = if transport == Transport::Udp { query.udp_limit() } else { TCP_LIMIT };
    assert!(replied.len <= limit);
    let reply = Message::from_vec(&buf[..replied.len]).expect("another codec can read it");
    assert_eq!(reply.metadata.id, asked.metadata.id);
    assert!(reply.queries[0].name().eq_case(asked.queries[0].name()));
    assert_eq!(reply.edns.is_some(), asked.edns.is_some());
    assert!(reply.metadata.recursion_available && !reply.metadata.authoritative);
    reply
}

fn relayed(asked: &Message, upstream: &Message, transport: Transport) -> Message {
    served(asked, &stored(asked, upstream), transport, Age::Fresh(0))
}

#[test]
fn answers_are_rebuilt() {
    let asked = question("WWW.Example.com A");
    let mut upstream = reply_to(&question("www.example.com A"));
    upstream.metadata.id = 99;
    upstream.metadata.authentic_data = true;
    upstream.metadata.authoritative = true;
    upstream.add_answer(alias("www.example.com.", "a.web.Example.com."));
    upstream.add_answer(address("a.web.example.com.", 1));
    let lines = [
        "NoError",
        "WWW.Example.com 60 CNAME a.web.Example.com",
        // A pointer to the alias's target, as the upstream spelled it.
        "a.web.Example.com 60 A 192.0.2.1",
    ];
    for transport in [Transport::Udp, Transport::Tcp] {
        let reply = relayed(&asked, &upstream, transport);
        assert_eq!(show(&reply), lines);
        assert!(!reply.metadata.authentic_data, "the client does not know AD");
        // An upstream's EDNS is between it and us.
        let upstream = with_edns(upstream.clone(), 4096, true);
        assert_eq!(show(&relayed(&asked, &upstream, transport)), lines);
        let with_own = with_edns(asked.clone(), 1400, true);
        let reply = relayed(&with_own, &upstream, transport);
        assert_eq!(show(&reply), lines);
        assert!(reply.metadata.authentic_data);
        assert_eq!(reply.edns.as_ref().unwrap().max_payload(), 1232);
    }
    // Names are compressed: the alias's target takes a label and a pointer.
    let records = stored(&asked, &upstream).records;
    assert_eq!(records.len(), 2 + 10 + (2 + 4 + 2) + 2 + 10 + 4);
}

#[test]
fn what_the_question_does_not_call_for_is_left_out() {
    let check = |what: &str, add: &dyn Fn(&mut Message), expected: &[&str]| {
        let asked = question("www.example.com A");
        let mut upstream = reply_to(&asked);
        upstream.add_answer(address("www.example.com.", 1));
        add(&mut upstream);
        let own = ["NoError", "www.example.com 60 A 192.0.2.1"];
        let expected = [&own[..], expected].concat();
        assert_eq!(show(&relayed(&asked, &upstream, Transport::Udp)), expected, "{what}");
    };
    let ns = |owner: &str, target: &str| record(owner, RData::NS(NS(name(target))));
    check(
        "another name",
        &|m| {
            m.add_answer(address("evil.test.", 2));
        },
        &[],
    );
    check(
        "another type",
        &|m| {
            m.add_answer(record("www.example.com.", RData::TXT(TXT::new(vec!["x".into()]))));
        },
        &[],
    );
    check(
        "another zone",
        &|m| {
            m.add_authority(ns("bank.test.", "ns.evil.test."));
        },
        &[],
    );
    check(
        "an address of none",
        &|m| {
            m.add_additional(address("mail.example.com.", 3));
        },
        &[],
    );
    check(
        "servers of the zone",
        &|m| {
            m.add_authority(ns("example.com.", "ns.example.com."));
            m.add_authority(ns("example.com.", "ns.other.test."));
            m.add_additional(address("ns.example.com.", 3));
            m.add_additional(address("ns.other.test.", 4));
        },
        &[
            "+example.com 60 NS ns.example.com",
            "+example.com 60 NS ns.other.test",
            "*ns.example.com 60 A 192.0.2.3",
        ],
    );
    let asked = question("example.com MX");
    let mut upstream = reply_to(&asked);
    let mail = |target: &str| record("example.com.", RData::MX(MX::new(10, name(target))));
    upstream.add_answers([mail("mail.example.com."), mail("mail.other.test.")]);
    upstream.add_additionals([address("mail.example.com.", 1), address("mail.other.test.", 2)]);
    let reply = relayed(&asked, &upstream, Transport::Udp);
    let additional: Vec<_> = reply.additionals.iter().map(|r| r.name.to_string()).collect();
    assert_eq!((reply.answers.len(), additional), (2, vec!["mail.example.com.".to_owned()]));
}

#[test]
fn chains_of_aliases_end() {
    let asked = question("n0.example.com A");
    let chain = |length: usize| {
        let mut upstream = reply_to(&asked);
        for n in 0..length {
            let (from, to) = (format!("n{n}.example.com."), format!("n{}.example.com.", n + 1));
            upstream.add_answer(alias(&from, &to));
        }
        upstream.to_vec().unwrap()
    };
    assert!(rebuild(&parsed(&asked), &chain(MAX_CHAIN - 1)).is_some());
    assert!(rebuild(&parsed(&asked), &chain(MAX_CHAIN)).is_none());
    let mut looped = reply_to(&asked);
    looped.add_answers([
        alias("n0.example.com.", "n1.example.com."),
        alias("n1.example.com.", "n0.example.com."),
    ]);
    assert!(rebuild(&parsed(&asked), &looped.to_vec().unwrap()).is_none());
}

#[test]
fn an_alias_into_the_cluster_zone_is_continued() {
    let asked = question("www.example.com A");
    let mut upstream = reply_to(&asked);
    upstream.metadata.response_code = ResponseCode::NXDomain;
    upstream.add_answer(alias("www.example.com.", "svc1.testns.svc.cluster.local."));
    upstream.add_authority(soa("."));
    let reply = relayed(&asked, &upstream, Transport::Udp);
    let lines =
        ["NoError", "www.example.com 60 CNAME svc1.testns.svc.Z", "svc1.testns.svc.Z 5 A 10.0.0.1"];
    assert_eq!(show(&reply), lines);
    // An alias that leads elsewhere stays as the upstream sent it.
    let mut upstream = reply_to(&asked);
    upstream.add_answer(alias("www.example.com.", "elsewhere.test."));
    let reply = relayed(&asked, &upstream, Transport::Udp);
    assert_eq!(show(&reply), ["NoError", "www.example.com 60 CNAME elsewhere.test"]);
}

/// A pointer to the alias's target, behind long signatures, would have led elsewhere.
#[test]
fn an_alias_behind_long_answers_is_not_continued() {
    let asked = with_edns(question("www.example.com A"), 1232, true);
    for (length, lines) in [(8_000, 4), (8_200, 3), (17_000, 3), (60_000, 3)] {
        let mut upstream = reply_to(&asked);
        let unknown = |len: usize| RData::Unknown {
            code: RecordType::RRSIG,
            rdata: NULL::with(vec![0; len]),
        };
        upstream.add_answer(record("www.example.com.", unknown(length)));
        upstream.add_answer(alias("www.example.com.", "svc1.testns.svc.cluster.local."));
        let reply = relayed(&asked, &upstream, Transport::Tcp);
        assert_eq!(show(&reply).len(), lines, "{length}");
    }
}

#[test]
fn how_long_answers_may_be_cached() {
    let asked = question("www.example.com A");
    let check = |what: &str, add: &dyn Fn(&mut Message), expected: u32| {
        let mut upstream = reply_to(&asked);
        add(&mut upstream);
        assert_eq!(stored(&asked, &upstream).ttl, expected, "{what}");
    };
    let with_ttl = |mut record: HickoryRecord, ttl: u32| {
        record.ttl = ttl;
        record
    };
    let own = |ttl| with_ttl(address("www.example.com.", 1), ttl);
    let nxdomain = |m: &mut Message| m.metadata.response_code = ResponseCode::NXDomain;
    check(
        "the least",
        &|m| {
            m.add_answers([own(300), own(60)]);
        },
        60,
    );
    check(
        "a day at most",
        &|m| {
            m.add_answer(own(1_000_000));
        },
        MAX_TTL,
    );
    check(
        "a negative number",
        &|m| {
            m.add_answer(own(u32::MAX));
        },
        0,
    );
    check(
        "zero",
        &|m| {
            m.add_answer(own(0));
        },
        0,
    );
    check(
        "NODATA",
        &|m| {
            m.add_authority(soa("example.com."));
        },
        5,
    );
    check(
        "NXDOMAIN",
        &|m| {
            nxdomain(m);
            m.add_authority(with_ttl(soa("com."), 3));
        },
        3,
    );
    check("NXDOMAIN without SOA", &nxdomain, 0);
    check(
        "NXDOMAIN of a stranger",
        &|m| {
            m.add_authority(soa("other.test."));
        },
        0,
    );
    check(
        "an alias to nothing",
        &|m| {
            m.add_answer(with_ttl(alias("www.example.com.", "w.example.com."), 2));
            m.add_authority(soa("example.com."));
        },
        2,
    );
    check(
        "a failure",
        &|m| {
            m.metadata.response_code = ResponseCode::ServFail;
            m.add_answer(own(60));
        },
        0,
    );
    check(
        "a part",
        &|m| {
            m.metadata.truncation = true;
            m.add_answer(own(60));
        },
        0,
    );
}

#[test]
fn ttls_count_down() {
    let asked = question("www.example.com A");
    let mut upstream = reply_to(&asked);
    upstream.metadata.authentic_data = true;
    upstream.add_answers([address("www.example.com.", 1), address("www.example.com.", 2)]);
    let stored = stored(&asked, &upstream);
    let dnssec = with_edns(asked, 1232, true);
    let check = |age: Age, ttl: u32, is_authentic: bool| {
        let reply = served(&dnssec, &stored, Transport::Udp, age);
        assert!(reply.answers.iter().all(|record| record.ttl == ttl), "{age:?}: {reply}");
        assert_eq!(reply.metadata.authentic_data, is_authentic, "{age:?}");
    };
    check(Age::Fresh(0), 60, true);
    check(Age::Fresh(59), 1, true);
    check(Age::Stale, 30, false);
}

#[test]
fn codes_are_relayed() {
    let asked = question("www.example.com A");
    for code in [ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::Refused] {
        let mut upstream = reply_to(&asked);
        upstream.metadata.response_code = code;
        upstream.add_authority(soa("example.com."));
        let reply = relayed(&asked, &upstream, Transport::Udp);
        assert_eq!(reply.metadata.response_code, code);
        assert_eq!(reply.authorities.len(), 1);
    }
    // A code of more than four bits: BADCOOKIE.
    let mut upstream = with_edns(reply_to(&asked), 1232, false);
    upstream.metadata.response_code = ResponseCode::from(1, 7);
    let code = |reply: Message| u16::from(reply.metadata.response_code);
    assert_eq!(code(relayed(&asked, &upstream, Transport::Udp)), Rcode::SERVFAIL.0);
    let with_own = with_edns(asked, 1232, false);
    assert_eq!(code(relayed(&with_own, &upstream, Transport::Udp)), 23);
}

#[test]
fn a_refusal_without_its_question_is_relayed_with_it() {
    let asked = question("www.example.com A");
    let mut upstream = reply_to(&asked);
    upstream.queries.clear();
    upstream.metadata.response_code = ResponseCode::Refused;
    let reply = relayed(&asked, &upstream, Transport::Udp);
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    assert_eq!(reply.queries, asked.queries);
}

#[test]
fn an_extended_error_is_kept() {
    let asked = question("www.example.com A");
    let mut upstream = with_edns(reply_to(&asked), 1232, false).to_vec().unwrap();
    // Code 9 (DNSKEY missing), with a text that ends with a zero.
    upstream.extend_from_slice(b"\x00\x0f\x00\x05\x00\x09no\x00");
    let len_at = upstream.len() - 10;
    upstream[len_at] = 9;
    let stored = rebuild(&parsed(&asked), &upstream).unwrap();
    assert_eq!(stored.error, Some(ExtendedError { code: 9, text: "no".into() }));
}

#[test]
fn replies_are_cut_at_whole_records() {
    let check = |answers: u8, authority: u8, size: Option<u16>, expected: [usize; 2], cut| {
        let asked = question("www.example.com TXT");
        let asked = match size {
            Some(size) => with_edns(asked, size, false),
            None => asked,
        };
        let mut upstream = reply_to(&asked);
        // 100 octets each.
        let text = || record("www.example.com.", RData::TXT(TXT::new(vec!["x".repeat(87)])));
        upstream.add_answers((0..answers).map(|_| text()));
        let server = |n: u8| {
            let target = format!("ns{n}.{}.test.", "x".repeat(60));
            record("example.com.", RData::NS(NS(name(&target))))
        };
        upstream.add_authorities((0..authority).map(server));
        let reply = relayed(&asked, &upstream, Transport::Udp);
        let counts = [reply.answers.len(), reply.authorities.len()];
        let what = format!("{answers} {authority} {size:?}");
        assert_eq!((counts, reply.metadata.truncation), (expected, cut), "{what}");
        let whole = relayed(&asked, &upstream, Transport::Tcp);
        let counts = [whole.answers.len(), whole.authorities.len()];
        let sent = [answers, authority].map(usize::from);
        assert_eq!((counts, whole.metadata.truncation), (sent, false), "{what}");
    };
    check(4, 0, None, [4, 0], false);
    check(6, 1, None, [4, 0], true);
    check(6, 1, Some(1232), [6, 1], false);
    check(20, 1, Some(4096), [11, 0], true);
    check(4, 2, None, [4, 0], false);
}

#[test]
fn a_partial_answer_is_relayed_as_partial() {
    let asked = question("www.example.com A");
    let mut upstream = reply_to(&asked);
    upstream.metadata.truncation = true;
    upstream.add_answer(address("www.example.com.", 1));
    let reply = relayed(&asked, &upstream, Transport::Udp);
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (1, true));
    let mut upstream = reply_to(&question("ext.interwebs.test A"));
    upstream.metadata.truncation = true;
    upstream.add_answer(address("ext.interwebs.test.", 1));
    let reply = continued("external.testns.svc.Z A", &upstream, Transport::Udp);
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (2, true));
}

#[test]
fn what_is_broken_is_not_relayed() {
    let asked = question("www.example.com A");
    let own = parsed(&asked);
    let mut upstream = reply_to(&asked);
    upstream.add_answer(address("www.example.com.", 1));
    let whole = upstream.to_vec().unwrap();
    assert!(rebuild(&own, &whole).is_some());
    for len in 0..whole.len() {
        assert!(rebuild(&own, &whole[..len]).is_none(), "{len} octets");
    }
    let mut opt_as_answer = whole.clone();
    let type_at = opt_as_answer.len() - 14;
    opt_as_answer[type_at + 1] = 41;
    assert!(rebuild(&own, &opt_as_answer).is_none());
    let header = [&whole[..6], &[0, 1, 0, 0, 0, 0]].concat();
    let check = |what: &str, rtype: u8, rdata: &[u8]| {
        let mut asked = question("www.example.com A");
        asked.queries[0].set_query_type(u16::from(rtype).into());
        let own = parsed(&asked);
        let packet = asked.to_vec().unwrap();
        let asked = &packet[12..33];
        let fixed = [0xc0, 12, 0, rtype, 0, 1, 0, 0, 0, 60, 0, rdata.len() as u8];
        // What follows must not be read as part of the record.
        let message = [&header, asked, &fixed[..], rdata].concat();
        assert!(rebuild(&own, &message).is_none(), "{what}");
    };
    check("a short address", 1, &[192, 0, 2]);
    check("a long address", 28, &[0; 17]);
    check("a pointer forward", 5, &[0xc0, 60]);
    check("a pointer to itself", 5, &[0xc0, 45]);
    check("a pointer into the header", 5, &[0xc0, 4]);
    check("a label of 65", 5, &[[65].as_slice(), &[b'a'; 65], &[0]].concat());
    check("a label of another kind", 5, &[0x80, 0]);
    check("a name and more", 5, &[1, b'a', 0, 0]);
    check("half an SOA record", 6, &[0, 0, 1, 2, 3]);
    check("no text", 16, &[]);
    check("a text that is cut", 16, &[5, b'a']);
    check("a preference without a name", 15, &[0, 10]);
}

#[test]
fn rare_types_are_rebuilt() {
    let check = |rtype: u16, rdata: &[u8], expected: &[u8]| {
        let asked = question(&format!("a.test TYPE{rtype}"));
        let mut message = reply_to(&asked).to_vec().unwrap();
        message[7] = 1;
        message.extend_from_slice(&[0xc0, 12]);
        message.extend_from_slice(&rtype.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 60, 0, rdata.len() as u8]);
        message.extend_from_slice(rdata);
        let stored = rebuild(&parsed(&asked), &message).expect("it is well-formed");
        assert_eq!(stored.records[12..], *expected, "type {rtype}");
    };
    let whole = b"\x01a\x04test\x00";
    let pointer = &[0xc0, 12][..];
    check(2, whole, pointer);
    check(15, &[&[0, 1], &whole[..]].concat(), &[&[0, 1], pointer].concat());
    // Compressed by an old sender, written out by us.
    check(33, &[&[0; 6], pointer].concat(), &[&[0; 6], &whole[..]].concat());
    check(39, pointer, whole);
    check(17, &[pointer, pointer].concat(), &[whole, &whole[..]].concat());
    check(
        35,
        &[&[0, 1, 0, 2, 1, b's', 0, 0], pointer].concat(),
        &[&[0, 1, 0, 2, 1, b's', 0, 0], &whole[..]].concat(),
    );
    check(13, b"\x01x\x01y", b"\x01x\x01y");
    check(65_280, b"\xc0\x0c\xff", b"\xc0\x0c\xff");
}

/// The reply that an ExternalName begins, continued with an upstream's message.
fn continued(asked: &str, upstream: &Message, transport: Transport) -> Message {
    let asked = question(asked);
    let (alias, query) = begun(&asked, transport);
    let mut target = asked;
    target.queries[0].name = name("ext.interwebs.test.");
    let stored = stored(&target, upstream);
    let served = Served::Answer(&stored, Age::Fresh(0));
    let (bytes, replied) = serve_alias(alias, &query, served);
    Message::from_vec(&bytes[..replied.len]).unwrap()
}

/// The reply that an ExternalName begins.
fn begun(asked: &Message, transport: Transport) -> (Alias, Query) {
    let packet = asked.to_vec().unwrap();
    let outcome = crate::oracle::send(&zone(), POLICY, &packet, transport);
    let Err(Outcome::Follow(follow)) = outcome else { panic!("{outcome:?}") };
    let mut query = Query::new();
    query.parse(&packet).unwrap();
    (*follow, query)
}

#[test]
fn aliases_are_continued() {
    let own = "external.testns.svc.Z 5 CNAME ext.interwebs.test";
    let mut upstream = reply_to(&question("ext.interwebs.test A"));
    // Names are compressed; in the reply they stand elsewhere.
    upstream.add_answer(alias("ext.interwebs.test.", "b.interwebs.test."));
    upstream.add_answer(address("b.interwebs.test.", 1));
    let upstream = with_edns(upstream, 4096, false);
    let reply = continued("external.testns.svc.Z A", &upstream, Transport::Udp);
    let lines = [
        "NoError",
        own,
        "ext.interwebs.test 60 CNAME b.interwebs.test",
        "b.interwebs.test 60 A 192.0.2.1",
    ];
    assert_eq!(show(&reply), lines);
    assert!(reply.edns.is_none() && reply.metadata.authoritative);
    let mut upstream = reply_to(&question("ext.interwebs.test A"));
    upstream.metadata.response_code = ResponseCode::NXDomain;
    upstream.add_authority(soa("interwebs.test."));
    let reply = continued("external.testns.svc.Z A", &upstream, Transport::Tcp);
    assert_eq!(show(&reply), ["NXDomain", own, "+interwebs.test 5 SOA"]);
    // More than fits.
    let mut upstream = reply_to(&question("ext.interwebs.test A"));
    upstream.add_answers((0..100).map(|n| address("ext.interwebs.test.", n)));
    let reply = continued("external.testns.svc.Z A", &upstream, Transport::Udp);
    assert!(reply.metadata.truncation && reply.answers.len() < 20);
    let reply = continued("external.testns.svc.Z A", &upstream, Transport::Tcp);
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (101, false));
    // The failure of an alias's target is not our own word.
    let (alias, query) = begun(&question("external.testns.svc.Z A"), Transport::Udp);
    let failure = crate::cache::Failure { rcode: Rcode::SERVFAIL, error: None };
    let (bytes, replied) = serve_alias(alias, &query, Served::Failure(&failure));
    let reply = Message::from_vec(&bytes[..replied.len]).unwrap();
    assert_eq!(show(&reply), ["ServFail", own]);
    assert!(!reply.metadata.authoritative);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// An upstream may send anything: what is relayed of it fits its client and can be read.
    #[test]
    fn any_message_from_an_upstream_is_survived(
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..8),
        answers in 0..12u8,
        cut in any::<usize>(),
        tcp in any::<bool>(),
        edns in any::<bool>(),
        age in 0..100u32,
    ) {
        let asked = question("www.example.com A");
        let asked = if edns { with_edns(asked, 600, true) } else { asked };
        let mut upstream = with_edns(reply_to(&asked), 4096, false);
        upstream.add_answer(alias("www.example.com.", "a.test."));
        upstream.add_answers((0..answers).map(|n| address("a.test.", n)));
        upstream.add_authority(soa("test."));
        let mut bytes = upstream.to_vec().unwrap();
        for (at, octet) in &changes {
            let at = at % bytes.len();
            bytes[at] = *octet;
        }
        if cut % 3 == 0 {
            bytes.truncate(cut % (bytes.len() + 1));
        }
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let own = Question::of(&key_of(&asked));
        // The forwarder relays only what answers the question.
        if own.is_answered_by(0x1234, &bytes)
            && let Some(stored) = rebuild(&own, &bytes)
        {
            served(&asked, &stored, transport, Age::Fresh(age));
            let (alias, query) = begun(&question("external.testns.svc.Z A"), transport);
            let answer = Served::Answer(&stored, Age::Stale);
            let (bytes, replied) = serve_alias(alias, &query, answer);
            let limit = if tcp { TCP_LIMIT } else { 512 };
            prop_assert!(replied.len <= limit);
            prop_assert!(Message::from_vec(&bytes[..replied.len]).is_ok());
        }
    }
}
