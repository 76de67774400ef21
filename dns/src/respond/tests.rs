//! The rules of the protocol: the reply to each kind of packet, read by another codec.

use hickory_proto::op::{Message, OpCode, ResponseCode};
use proptest::prelude::*;

use super::*;
use crate::oracle::{ask, question, send, show, with_edns};
use crate::zone::tests::zone;

const FORWARDS: Policy = Policy { forwards: true, tells_version: false };
const LOCAL: Policy = Policy { forwards: false, tells_version: false };

fn packet(asked: &str) -> Vec<u8> {
    question(asked).to_vec().unwrap()
}

fn edns_packet(asked: &str) -> Vec<u8> {
    with_edns(question(asked), 1232, false).to_vec().unwrap()
}

/// The packet with some octets replaced.
fn set(mut packet: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    for (at, octet) in changes {
        packet[*at] = *octet;
    }
    packet
}

fn send_both(policy: Policy, packet: &[u8]) -> Result<Message, Outcome> {
    let zone = zone();
    let over_udp = send(&zone, policy, packet, Transport::Udp)?;
    let over_tcp = send(&zone, policy, packet, Transport::Tcp)?;
    assert_eq!(over_udp, over_tcp, "the transports differ");
    Ok(Message::from_vec(&over_udp).expect("a reply that another codec can read"))
}

const A: &str = "svc1.testns.svc.Z A";

#[test]
fn packets_without_a_reply() {
    let whole = packet(A);
    let silent = |packet: &[u8]| {
        let outcome = send_both(LOCAL, packet);
        assert!(matches!(outcome, Err(Outcome::Silent)), "{packet:?}: {outcome:?}");
    };
    for len in 0..12 {
        silent(&whole[..len]);
    }
    silent(&set(whole.clone(), &[(2, 0x81)]));
    silent(&set(whole, &[(2, 0xff)]));
}

#[test]
fn malformed_packets_get_a_reply_without_a_question() {
    let check = |what: &str, packet: &[u8], code: ResponseCode, edns: bool| {
        let reply = send_both(FORWARDS, packet).expect(what);
        assert_eq!(reply.metadata.response_code, code, "{what}");
        assert_eq!(reply.metadata.id, 0x1234, "{what}");
        assert!(reply.queries.is_empty() && reply.answers.is_empty(), "{what}");
        assert!(reply.authorities.is_empty() && reply.additionals.is_empty(), "{what}");
        assert_eq!(reply.edns.is_some(), edns, "{what}");
        assert!(reply.metadata.recursion_desired, "{what}");
    };
    let (notimp, formerr) = (ResponseCode::NotImp, ResponseCode::FormErr);
    check("NOTIFY", &set(packet(A), &[(2, 0x21)]), notimp, false);
    check("UPDATE", &set(packet(A), &[(2, 0x29)]), notimp, false);
    check("no question", &set(packet(A), &[(5, 0)]), formerr, false);
    check("two questions", &set(packet(A), &[(5, 2)]), formerr, false);
    check("an answer", &set(packet(A), &[(7, 1)]), formerr, false);
    check("an authority", &set(packet(A), &[(9, 1)]), formerr, false);
    check("a header alone", &packet(A)[..12], formerr, false);
    check("a cut name", &packet(A)[..20], formerr, false);
    check("a cut question", &packet(A)[..packet(A).len() - 1], formerr, false);
    check("a label of 64", &set(packet(A), &[(12, 64)]), formerr, false);
    check("a pointer", &set(packet(A), &[(12, 0xc0), (13, 12)]), formerr, false);
    check("a missing record", &set(packet(A), &[(11, 1)]), formerr, false);
    let opt_at = packet(A).len();
    check("a cut OPT", &edns_packet(A)[..opt_at + 9], formerr, true);
    check("an OPT too long", &set(edns_packet(A), &[(opt_at + 10, 1)]), formerr, true);
    // A query with a valid OPT record gets one back, whatever else is wrong.
    let answer = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x00\x00\x01";
    let with_record = |count_at: usize| {
        let whole = edns_packet(A);
        set([&whole[..opt_at], answer, &whole[opt_at..]].concat(), &[(count_at, 1)])
    };
    check("NOTIFY with OPT", &set(edns_packet(A), &[(2, 0x21)]), notimp, true);
    check("UPDATE with OPT", &set(edns_packet(A), &[(2, 0x29)]), notimp, true);
    let no_question = [&set(edns_packet(A), &[(5, 0)])[..12], &edns_packet(A)[opt_at..]].concat();
    check("no question, OPT", &no_question, formerr, true);
    check("an answer and OPT", &with_record(7), formerr, true);
    check("an authority and OPT", &with_record(9), formerr, true);
    check("a missing answer, OPT", &set(edns_packet(A), &[(7, 1)]), formerr, true);
    let two = [edns_packet(A), edns_packet(A)[opt_at..].to_vec()].concat();
    check("two OPT", &set(two, &[(11, 2)]), formerr, true);
}

/// A reply to a packet that could not be parsed repeated what was in the buffer before it.
#[test]
fn replies_are_cut_to_their_own_question() {
    let zone = zone();
    let names = Names { zone: &zone, local: &crate::local::Local::default() };
    let mut query = Query::new();
    let mut buf = vec![0xee; MIN_BUFFER];
    let mut check = |packet: &[u8], expected: &[&str]| {
        buf[..packet.len()].copy_from_slice(packet);
        let len = packet.len();
        let outcome = respond(names, FORWARDS, &mut query, &mut buf, len, Transport::Udp, 0);
        let Outcome::Reply(len, ..) = outcome else { panic!("{outcome:?}") };
        let len = cut(&query, &mut buf).unwrap_or(len);
        let reply = Message::from_vec(&buf[..len]).unwrap();
        assert_eq!(show(&reply), expected);
        (reply.metadata.truncation, reply.queries.len(), reply.edns.is_some())
    };
    assert_eq!(check(&edns_packet(A), &["NoError"]), (true, 1, true));
    assert_eq!(check(&packet("none.testns.svc.Z A"), &["NXDomain"]), (true, 1, false));
    assert_eq!(check(&packet(A)[..20], &["FormErr"]), (false, 0, false));
    assert_eq!(check(&set(packet(A), &[(2, 0x21)]), &["NotImp"]), (false, 0, false));
}

#[test]
fn the_opcode_is_echoed() {
    let reply = send_both(LOCAL, &set(packet(A), &[(2, 0x20)])).unwrap();
    assert_eq!(reply.metadata.op_code, OpCode::Notify);
    assert!(!reply.metadata.recursion_desired);
}

#[test]
fn edns() {
    let zone = zone();
    let plain = ask(&zone, &question(A), Transport::Udp);
    assert!(plain.edns.is_none());
    for dnssec_ok in [false, true] {
        let mut message = with_edns(question(A), 4096, dnssec_ok);
        // An unknown option, and a known one that is not supported (a cookie).
        let edns = message.edns.as_mut().unwrap();
        for (code, data) in [(65_001, vec![1, 2, 3]), (10, vec![0; 8])] {
            let option = hickory_proto::rr::rdata::opt::EdnsOption::Unknown(code, data);
            edns.options_mut().insert(option);
        }
        let reply = ask(&zone, &message, Transport::Udp);
        let edns = reply.edns.unwrap();
        assert_eq!((edns.version(), edns.max_payload()), (0, 1232));
        assert_eq!(edns.flags().dnssec_ok, dnssec_ok);
        assert!(edns.options().as_ref().is_empty(), "{:?}", edns.options());
        assert_eq!(show(&plain), ["NoError", "svc1.testns.svc.Z 5 A 10.0.0.1"]);
    }
}

#[test]
fn another_version_of_edns() {
    let opt_at = packet(A).len();
    for asked in [A, "example.com A", "svc0.testns.svc.Z A"] {
        let opt_at = opt_at + packet(asked).len() - packet(A).len();
        let reply = send_both(FORWARDS, &set(edns_packet(asked), &[(opt_at + 6, 1)])).unwrap();
        assert_eq!(u16::from(reply.metadata.response_code), Rcode::BADVERS.0);
        assert_eq!(reply.edns.unwrap().version(), 0);
        assert_eq!(reply.queries.len(), 1);
        assert!(reply.answers.is_empty() && reply.authorities.is_empty());
    }
}

#[test]
fn refused_questions() {
    let check = |policy: Policy, packet: Vec<u8>, expected: &[&str]| {
        let reply = send_both(policy, &packet).unwrap();
        assert_eq!(show(&reply), expected);
        assert_eq!(reply.queries.len(), 1);
    };
    let class = |class: u8| {
        let packet = packet("version.bind TXT");
        let at = packet.len() - 1;
        set(packet, &[(at, class)])
    };
    check(FORWARDS, class(3), &["Refused"]);
    check(FORWARDS, class(4), &["Refused"]);
    check(FORWARDS, class(255), &["Refused"]);
    check(FORWARDS, packet("Z AXFR"), &["Refused"]);
    check(FORWARDS, packet("Z TYPE251"), &["Refused"]);
    check(FORWARDS, packet("example.com AXFR"), &["Refused"]);
    check(LOCAL, packet("example.com A"), &["Refused"]);
    check(LOCAL, packet("99.0.0.11.in-addr.arpa PTR"), &["Refused"]);
    // An IXFR contains the SOA that its client has.
    let mut ixfr = set(packet("Z TYPE251"), &[(9, 1)]);
    ixfr.extend_from_slice(b"\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x00\x00\x00");
    check(FORWARDS, ixfr, &["Refused"]);
    let tells = Policy { forwards: false, tells_version: true };
    let reply = send_both(tells, &class(3)).unwrap();
    assert_eq!(reply.answers[0].data.to_string(), VERSION);
    assert_eq!(reply.answers[0].dns_class, hickory_proto::rr::DNSClass::CH);
    let other = packet("hostname.bind TXT");
    let at = other.len() - 1;
    check(tells, set(other, &[(at, 3)]), &["Refused"]);
}

#[test]
fn recursion_is_said_to_be_available_when_there_is_an_upstream() {
    for (policy, available) in [(LOCAL, false), (FORWARDS, true)] {
        for asked in [A, "svc0.testns.svc.Z A", "Z AXFR"] {
            let reply = send_both(policy, &packet(asked)).unwrap();
            assert_eq!(reply.metadata.recursion_available, available, "{asked}");
        }
    }
    let without_rd = set(packet(A), &[(2, 0)]);
    assert!(!send_both(FORWARDS, &without_rd).unwrap().metadata.recursion_desired);
    let with_ad_and_cd = set(packet(A), &[(3, 0x30)]);
    let reply = send_both(FORWARDS, &with_ad_and_cd).unwrap();
    assert!(!reply.metadata.authentic_data && !reply.metadata.checking_disabled);
}

#[test]
fn names_outside_are_forwarded() {
    for asked in ["example.com A", "com NS", "99.0.0.11.in-addr.arpa PTR", "local SOA"] {
        let outcome = send_both(FORWARDS, &packet(asked));
        assert!(matches!(outcome, Err(Outcome::Forward)), "{asked}: {outcome:?}");
    }
    let root = [&packet(A)[..12], b"\x00\x00\x02\x00\x01"].concat();
    assert!(matches!(send_both(FORWARDS, &root), Err(Outcome::Forward)));
    // An ExternalName: the reply so far goes along.
    let outcome = send_both(FORWARDS, &packet("external.testns.svc.Z A"));
    let Err(Outcome::Follow(follow)) = outcome else { panic!("{outcome:?}") };
    let Alias { reply: mut detached, target } = *follow;
    assert_eq!(target.to_string(), "ext.interwebs.test");
    let len = detached.attach().finish(Rcode::SERVFAIL);
    let reply = Message::from_vec(&detached.into_bytes()[..len]).unwrap();
    // The alias is answered, with the code of its target.
    assert_eq!(show(&reply), ["ServFail", "external.testns.svc.Z 5 CNAME ext.interwebs.test"]);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
}

/// Queries as clients send them, and malformed ones.
fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let names = prop_oneof![
        Just("svc1.testns.svc.Z".to_owned()),
        Just("_http._tcp.hdls1.testns.svc.Z".to_owned()),
        Just("hdls1.testns.svc.Z".to_owned()),
        Just("loop-a.testns.svc.Z".to_owned()),
        Just("external-to-headless.testns.svc.Z".to_owned()),
        Just("1.0.0.10.in-addr.arpa".to_owned()),
        Just("Z".to_owned()),
        "[a-z0-9_-]{1,9}(\\.[a-z0-9_-]{1,9}){0,4}\\.(testns\\.svc\\.|svc\\.|pod\\.|dns\\.|)Z",
    ];
    let types = prop_oneof![
        Just("A"),
        Just("AAAA"),
        Just("SRV"),
        Just("PTR"),
        Just("NS"),
        Just("SOA"),
        Just("ANY"),
        Just("TXT"),
        Just("CNAME")
    ];
    let sizes = prop_oneof![Just(None), any::<u16>().prop_map(Some)];
    let valid = (names, types, sizes).prop_map(|(name, rtype, size)| {
        let message = question(&format!("{name} {rtype}"));
        let message = match size {
            Some(size) => with_edns(message, size, size % 2 == 0),
            None => message,
        };
        message.to_vec().unwrap()
    });
    let changed = (valid.clone(), prop::collection::vec((any::<usize>(), any::<u8>()), 0..6));
    let changed = changed.prop_map(|(mut packet, changes)| {
        for (at, octet) in changes {
            let at = at % packet.len();
            packet[at] = octet;
        }
        packet
    });
    prop_oneof![valid, changed, prop::collection::vec(any::<u8>(), 0..600)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// For any bytes: no panic, and a reply only to queries. Another codec can read the reply, and
    /// it is not larger than the client accepts.
    #[test]
    fn any_packet_gets_a_proper_reply(packet in any_packet(), tcp in any::<bool>()) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let zone = zone();
        let is_query = packet.len() >= 12 && packet[2] & 0x80 == 0;
        match send(&zone, FORWARDS, &packet, transport) {
            Err(Outcome::Silent) => prop_assert!(!is_query),
            Err(_) => prop_assert!(is_query),
            Ok(reply) => {
                prop_assert!(is_query);
                prop_assert_eq!(&reply[..2], &packet[..2]);
                prop_assert!(reply[2] & 0x80 != 0);
                let limit = if tcp { 65_535 } else { 1232 };
                prop_assert!(reply.len() <= limit);
                // Some codecs do not support escapes in a client's name; everything else must be
                // readable.
                let parsed = Message::from_vec(&reply);
                prop_assert!(parsed.is_ok(), "{parsed:?}");
                let parsed = parsed.unwrap();
                prop_assert!(!tcp || !parsed.metadata.truncation);
                if parsed.edns.is_none() && !tcp {
                    prop_assert!(reply.len() <= 512);
                }
            }
        }
    }
}
