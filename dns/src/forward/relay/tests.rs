//! Upstreams' messages, written by another codec or malformed.

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA, TXT};
use hickory_proto::rr::{Name as HickoryName, RData, Record as HickoryRecord};
use proptest::prelude::*;

use super::*;
use crate::forward::question::Question;
use crate::oracle::{question, show, with_edns};
use crate::respond::{Outcome, Policy};
use crate::zone::tests::zone;

const POLICY: Policy = Policy { forwards: true, tells_version: false };

fn parsed(message: &Message) -> (Query, Vec<u8>) {
    let packet = message.to_vec().unwrap();
    let mut query = Query::new();
    query.parse(&packet).unwrap();
    (query, packet)
}

fn name(text: &str) -> HickoryName {
    text.parse().unwrap()
}

fn record(owner: &str, data: RData) -> HickoryRecord {
    HickoryRecord::from_rdata(name(owner), 60, data)
}

fn address(owner: &str, n: u8) -> HickoryRecord {
    record(owner, RData::A(A::new(192, 0, 2, n)))
}

fn soa(owner: &str) -> HickoryRecord {
    let data = SOA::new(name("ns.test."), name("admin.test."), 7, 7200, 1800, 86400, 5);
    record(owner, RData::SOA(data))
}

/// An upstream's reply to a message, before records are added.
fn reply_to(asked: &Message) -> Message {
    let mut reply = asked.clone();
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    reply.edns = None;
    reply
}

fn relayed(asked: &Message, upstream: &Message, transport: Transport) -> Message {
    let (query, packet) = parsed(asked);
    let bytes = upstream.to_vec().unwrap();
    let relayed = Answer::read(&bytes).unwrap().relay(&query, &packet, transport);
    let limit = if transport == Transport::Udp { query.udp_limit() } else { TCP_LIMIT };
    assert!(relayed.len() <= limit);
    let reply = Message::from_vec(&relayed).expect("a reply that another codec can read");
    assert_eq!(reply.metadata.id, asked.metadata.id);
    assert!(reply.queries[0].name().eq_case(asked.queries[0].name()));
    assert_eq!(reply.edns.is_some(), asked.edns.is_some());
    assert!(reply.metadata.recursion_available);
    reply
}

#[test]
fn which_messages_answer_a_question() {
    let asked = question("www.Example.com A");
    let (query, packet) = parsed(&asked);
    let own = Question::of(&query, &packet);
    let mut reply = reply_to(&asked);
    reply.metadata.id = 7;
    let true_reply = reply.to_vec().unwrap();
    let with = |changes: &[(usize, u8)]| {
        let mut reply = true_reply.clone();
        for (at, octet) in changes {
            reply[*at] = *octet;
        }
        reply
    };
    let check = |what: &str, reply: &[u8], expected: bool| {
        assert_eq!(own.is_answered_by(7, reply), expected, "{what}");
    };
    let last = true_reply.len() - 1;
    check("the true one", &true_reply, true);
    check("in another case", &with(&[(17, b'e')]), true);
    check("with records after it", &[&true_reply[..], &[0; 40]].concat(), true);
    check("under another ID", &with(&[(1, 8)]), false);
    check("a query", &with(&[(2, 1)]), false);
    check("another opcode", &with(&[(2, 0xa1)]), false);
    check("another name", &with(&[(13, b'x')]), false);
    check("another type", &with(&[(last - 2, 28)]), false);
    check("another class", &with(&[(last, 3)]), false);
    check("two questions", &with(&[(5, 2)]), false);
    check("cut", &true_reply[..last], false);
    check("nothing", &[], false);
    check("no question, no error", &with(&[(5, 0)])[..12], false);
    check("no question, REFUSED", &with(&[(5, 0), (3, 0x85)])[..12], true);
    check("no question, NXDOMAIN", &with(&[(5, 0), (3, 0x83)])[..12], false);
}

#[test]
fn what_an_upstream_is_asked() {
    let check = |asked: &Message| {
        let (query, packet) = parsed(asked);
        let message = Question::of(&query, &packet).message(0xbeef);
        let message = Message::from_vec(&message).unwrap();
        assert_eq!(message.metadata.id, 0xbeef);
        assert_eq!(message.metadata.message_type, MessageType::Query);
        assert_eq!(message.queries, asked.queries);
        assert!(message.queries[0].name().eq_case(asked.queries[0].name()));
        assert_eq!(message.metadata.recursion_desired, asked.metadata.recursion_desired);
        assert_eq!(message.metadata.checking_disabled, asked.metadata.checking_disabled);
        let dnssec = |m: &Message| m.edns.as_ref().map(|edns| edns.flags().dnssec_ok);
        assert_eq!(dnssec(&message), dnssec(asked));
        assert!(message.edns.is_none_or(|edns| edns.max_payload() == 1232));
    };
    let mut asked = question("WWW.example.com AAAA");
    check(&asked);
    check(&with_edns(asked.clone(), 4096, true));
    asked.metadata.checking_disabled = true;
    asked.metadata.recursion_desired = false;
    check(&with_edns(asked, 512, false));
}

#[test]
fn answers_are_relayed() {
    let asked = question("WWW.Example.com A");
    let mut upstream = reply_to(&question("www.example.com A"));
    upstream.metadata.id = 99;
    upstream.metadata.authentic_data = true;
    upstream.add_answer(record("www.example.com.", RData::CNAME(CNAME(name("a.test.")))));
    upstream.add_answer(address("a.test.", 1));
    upstream.add_additional(address("ns.test.", 2));
    let lines = [
        "NoError",
        "WWW.Example.com 60 CNAME a.test",
        "a.test 60 A 192.0.2.1",
        "*ns.test 60 A 192.0.2.2",
    ];
    for udp in [true, false] {
        let transport = if udp { Transport::Udp } else { Transport::Tcp };
        let reply = relayed(&asked, &upstream, transport);
        // The CNAME's owner is a pointer to the question, and so takes the client's case.
        assert_eq!(show(&reply), lines);
        assert!(reply.metadata.authentic_data && !reply.metadata.truncation);
        // An upstream's EDNS is between it and us.
        let upstream = with_edns(upstream.clone(), 4096, true);
        assert_eq!(show(&relayed(&asked, &upstream, transport)), lines);
        let with_own = with_edns(asked.clone(), 1400, false);
        let reply = relayed(&with_own, &upstream, transport);
        assert_eq!(show(&reply), lines);
        assert_eq!(reply.edns.as_ref().unwrap().max_payload(), 1232);
        assert!(!reply.edns.unwrap().flags().dnssec_ok);
    }
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
    let (query, packet) = parsed(&asked);
    let mut upstream = reply_to(&asked);
    upstream.queries.clear();
    upstream.metadata.response_code = ResponseCode::Refused;
    let bytes = upstream.to_vec().unwrap();
    let relayed = Answer::read(&bytes).unwrap().relay(&query, &packet, Transport::Udp);
    let reply = Message::from_vec(&relayed).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    assert_eq!(reply.queries, asked.queries);
}

#[test]
fn relayed_replies_are_cut_at_whole_records() {
    let check = |answers: u8,
                 authority: u8,
                 additional: u8,
                 size: Option<u16>,
                 expected: [usize; 3],
                 truncated: bool| {
        let asked = question("www.example.com TXT");
        let asked = match size {
            Some(size) => with_edns(asked, size, false),
            None => asked,
        };
        let mut upstream = reply_to(&asked);
        // About 100 octets each.
        let text = |owner: &str| record(owner, RData::TXT(TXT::new(vec!["x".repeat(87)])));
        for _ in 0..answers {
            upstream.add_answer(text("www.example.com."));
        }
        for _ in 0..authority {
            upstream.add_authority(text("example.com."));
        }
        for _ in 0..additional {
            upstream.add_additional(text("example.com."));
        }
        let upstream = with_edns(upstream, 4096, false);
        let reply = relayed(&asked, &upstream, Transport::Udp);
        let counts = [reply.answers.len(), reply.authorities.len(), reply.additionals.len()];
        let what = format!("{answers} {authority} {additional} {size:?}");
        assert_eq!((counts, reply.metadata.truncation), (expected, truncated), "{what}");
        let whole = relayed(&asked, &upstream, Transport::Tcp);
        let counts = [whole.answers.len(), whole.authorities.len(), whole.additionals.len()];
        let sent = [answers, authority, additional].map(usize::from);
        assert_eq!((counts, whole.metadata.truncation), (sent, false), "{what}");
    };
    check(4, 0, 0, None, [4, 0, 0], false);
    check(6, 1, 1, None, [4, 0, 0], true);
    check(6, 1, 1, Some(1232), [6, 1, 1], false);
    check(20, 1, 1, Some(4096), [11, 0, 0], true);
    check(2, 2, 9, None, [2, 2, 0], false);
    check(2, 9, 9, None, [2, 2, 0], false);
    // Without its proof, a denial is useless.
    check(0, 9, 0, None, [0, 4, 0], true);
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
    let mut upstream = reply_to(&asked);
    upstream.add_answer(address("www.example.com.", 1));
    let whole = upstream.to_vec().unwrap();
    assert!(Answer::read(&whole).is_some());
    for len in 0..whole.len() {
        assert!(Answer::read(&whole[..len]).is_none(), "{len} octets");
    }
    let mut opt_as_answer = whole;
    let type_at = opt_as_answer.len() - 14;
    opt_as_answer[type_at + 1] = 41;
    assert!(Answer::read(&opt_as_answer).is_none());
}

/// The reply that an ExternalName begins, continued with an upstream's message.
fn continued(asked: &str, upstream: &Message, transport: Transport) -> Message {
    let packet = question(asked).to_vec().unwrap();
    let outcome = crate::oracle::send(&zone(), POLICY, &packet, transport);
    let Err(Outcome::Follow(follow)) = outcome else { panic!("{outcome:?}") };
    let mut detached = follow.reply;
    let bytes = upstream.to_vec().unwrap();
    let len = Answer::read(&bytes).unwrap().continue_alias(&mut detached);
    Message::from_vec(&detached.into_bytes(len)).unwrap()
}

#[test]
fn aliases_are_continued() {
    let own = "external.testns.svc.Z 5 CNAME ext.interwebs.test";
    let mut upstream = reply_to(&question("ext.interwebs.test A"));
    // The upstream compresses its names; in the reply they stand elsewhere.
    upstream
        .add_answer(record("ext.interwebs.test.", RData::CNAME(CNAME(name("b.interwebs.test.")))));
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
    assert!(reply.edns.is_none());
    let mut upstream = reply_to(&question("ext.interwebs.test A"));
    upstream.metadata.response_code = ResponseCode::NXDomain;
    upstream.add_authority(record(
        "interwebs.test.",
        RData::SOA(SOA::new(
            name("ns.dns.cluster.local."),
            name("hostmaster.cluster.local."),
            7,
            7200,
            1800,
            86400,
            5,
        )),
    ));
    let reply = continued("external.testns.svc.Z A", &upstream, Transport::Tcp);
    assert_eq!(show(&reply), ["NXDomain", own, "+interwebs.test 60 SOA"]);
    // More than fits.
    let mut upstream = reply_to(&question("ext.interwebs.test A"));
    upstream.add_answers((0..100).map(|n| address("ext.interwebs.test.", n)));
    let reply = continued("external.testns.svc.Z A", &upstream, Transport::Udp);
    assert!(reply.metadata.truncation && reply.answers.len() < 20);
    let reply = continued("external.testns.svc.Z A", &upstream, Transport::Tcp);
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (101, false));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// An upstream may send anything: what is relayed of it fits its client.
    #[test]
    fn any_message_from_an_upstream_is_survived(
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..8),
        answers in 0..12u8,
        cut in any::<usize>(),
        tcp in any::<bool>(),
        edns in any::<bool>(),
    ) {
        let asked = question("www.example.com A");
        let asked = if edns { with_edns(asked, 600, true) } else { asked };
        let mut upstream = with_edns(reply_to(&asked), 4096, false);
        upstream.add_answer(record("www.example.com.", RData::CNAME(CNAME(name("a.test.")))));
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
        let (query, packet) = parsed(&asked);
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        // The forwarder relays only what answers the question.
        if Question::of(&query, &packet).is_answered_by(0x1234, &bytes)
            && let Some(answer) = Answer::read(&bytes)
        {
            let relayed = answer.relay(&query, &packet, transport);
            let limit = if tcp { TCP_LIMIT } else { query.udp_limit() };
            prop_assert!(relayed.len() <= limit);
            prop_assert!(!changes.is_empty() || Message::from_vec(&relayed).is_ok());
            let ours = question("external.testns.svc.Z A").to_vec().unwrap();
            let outcome = crate::oracle::send(&zone(), POLICY, &ours, transport);
            let Err(Outcome::Follow(follow)) = outcome else { panic!("{outcome:?}") };
            let mut detached = follow.reply;
            let len = answer.continue_alias(&mut detached);
            prop_assert!(len <= if tcp { TCP_LIMIT } else { 512 }, "{len} octets");
        }
    }
}
