//! Tests against another codec.

use hickory_proto::op::{Message, MessageType};

use super::*;
use crate::oracle::{parsed as asked, question, with_edns};

const PLAIN: Form = Form { edns: false, padded: false, letters: None };
const EDNS: Form = Form { edns: true, padded: false, letters: None };

fn read(packet: &Packet) -> Message {
    Message::from_vec(packet.bytes()).unwrap()
}

#[test]
fn upstreams_are_asked_with_edns_and_ad() {
    let www = question("WWW.Example.com A");
    for (client, dnssec_ok) in [
        (www.clone(), false),
        (with_edns(www.clone(), 512, false), false),
        (with_edns(www, 4096, true), true),
    ] {
        let question = asked(&client);
        let message = read(&Packet::new(&question, 0x1234, EDNS));
        assert_eq!((message.metadata.id, message.queries), (0x1234, client.queries.clone()));
        assert!(message.metadata.authentic_data && message.metadata.recursion_desired);
        let edns = message.edns.unwrap();
        assert_eq!((edns.max_payload(), edns.version()), (1232, 0));
        assert_eq!(edns.flags().dnssec_ok, dnssec_ok);
        let message = read(&Packet::new(&question, 1, PLAIN));
        assert!(message.edns.is_none() && message.metadata.authentic_data);
    }
}

#[test]
fn queries_over_tls_have_few_lengths() {
    for name in ["x", "www.example.com", &"long.".repeat(22), &"longer.".repeat(30)] {
        let question = asked(&question(&format!("{name} A")));
        let packet = Packet::new(&question, 1, Form { padded: true, ..EDNS });
        assert_eq!(packet.bytes().len() % PADDED_TO, 0, "{name}");
        let edns = read(&packet).edns.unwrap();
        assert!(edns.option(hickory_proto::rr::rdata::opt::EdnsCode::Padding).is_some());
        let plain = Packet::new(&question, 1, Form { padded: true, ..PLAIN });
        assert!(read(&plain).edns.is_none());
    }
}

#[test]
fn letters_are_set_bit_by_bit() {
    let question = asked(&question("a1b.Example.com A"));
    let check = |letters: [u64; 4], expected: &str| {
        let packet = Packet::new(&question, 1, Form { letters: Some(letters), ..EDNS });
        assert_eq!(read(&packet).queries[0].name().to_string(), expected);
        assert_eq!(packet.tells_case(), expected.bytes().any(|o| o.is_ascii_uppercase()));
        assert_eq!(read(&packet).queries[0].query_type().to_string(), "A");
    };
    check([0; 4], "a1b.example.com.");
    check([u64::MAX; 4], "A1B.EXAMPLE.COM.");
    // Bit 0 is the first label's length, bit 4 the dot.
    check([0b10_0010, 0, 0, 0], "A1b.Example.com.");
}

#[test]
fn replies_must_repeat_the_question() {
    let question = asked(&question("www.example.com A"));
    let packet = Packet::new(&question, 7, Form { letters: Some([0b10_0000; 4]), ..EDNS });
    let mut reply = read(&packet);
    reply.metadata.message_type = MessageType::Response;
    let check = |change: &dyn Fn(&mut Message), expected: Match| {
        let mut reply = reply.clone();
        change(&mut reply);
        assert_eq!(packet.answered_by(&reply.to_vec().unwrap()), expected, "{reply}");
    };
    check(&|_| {}, Match::Exact);
    let lower = crate::oracle::question("www.example.com A").queries;
    check(&|reply| reply.queries = lower.clone(), Match::OtherCase);
    let other = crate::oracle::question("www.example.org A").queries;
    check(&|reply| reply.queries = other.clone(), Match::No);
    check(&|reply| reply.metadata.id = 8, Match::No);
    check(&|reply| reply.metadata.message_type = MessageType::Query, Match::No);
    let mut restored = reply.to_vec().unwrap();
    packet.restore_letters(&mut restored);
    let restored = Message::from_vec(&restored).unwrap();
    assert!(restored.queries[0].name().eq_case(lower[0].name()), "{restored}");
    let refused = hickory_proto::op::ResponseCode::FormErr;
    let without = |reply: &mut Message| {
        reply.queries.clear();
        reply.metadata.response_code = refused;
    };
    check(&without, Match::Exact);
    check(&|reply| reply.queries.clear(), Match::No);
}

#[test]
fn an_id_can_be_replaced() {
    let mut packet = Packet::new(&asked(&question("www.example.com A")), 7, EDNS);
    packet.set_id(0xabcd);
    assert_eq!(read(&packet).metadata.id, 0xabcd);
}
