//! What is fuzzed in this package: the parsers of untrusted input. Each function takes any bytes,
//! and checks what must hold for every outcome.
//!
//! Called by the targets under `fuzz/` and, for a bounded number of inputs, by `tests/fuzz.rs`.
//! Not part of this package's interface.

use std::sync::OnceLock;

use crate::cache::Served;
use crate::cache::stored::{Age, Stored};
use crate::forward::question::{Key, Question};
use crate::forward::rebuild::rebuild;
use crate::local::Local;
use crate::respond::outside::{room, serve, serve_alias};
use crate::respond::{Alias, MIN_BUFFER, Names, Outcome, Policy, cut, respond};
use crate::wire::name::{self, Name};
use crate::wire::record::Records;
use crate::wire::reply::{Section, Transport};
use crate::wire::{HEADER_LEN, Query, Reply, TCP_LIMIT, Type, flag, u16_at};
use crate::zone::{Owned, PodMode, Settings, Zone};

/// The reply to a packet from a client, by an empty zone of `cluster.local`; `None` if there is
/// none, or if an upstream would be asked. `limited` takes the records out of it.
fn answer_query(packet: &[u8], over_tcp: bool, limited: bool) -> Option<Vec<u8>> {
    let packet = &packet[..packet.len().min(TCP_LIMIT)];
    let mut buf = packet.to_vec();
    buf.resize(if over_tcp { TCP_LIMIT } else { packet.len().max(MIN_BUFFER) }, 0);
    let (policy, mut query) = (Policy { forwards: true, tells_version: true }, Query::new());
    let transport = transport(over_tcp);
    let names = Names { zone: zone(), local: &Local::default() };
    match respond(names, policy, &mut query, &mut buf, packet.len(), transport, 0) {
        Outcome::Reply(len, ..) => {
            let limited = if limited { cut(&query, &mut buf) } else { None };
            buf.truncate(limited.unwrap_or(len));
            Some(buf)
        }
        _ => None,
    }
}

fn zone() -> &'static Zone {
    static ZONE: OnceLock<Zone> = OnceLock::new();
    ZONE.get_or_init(|| {
        let domain = Name::from_text("cluster.local").expect("a name");
        let settings = Settings::new(domain, 5, PodMode::Insecure, Owned::default());
        Zone::new(settings.expect("a short name"))
    })
}

fn transport(over_tcp: bool) -> Transport {
    if over_tcp { Transport::Tcp } else { Transport::Udp }
}

/// A client's packet: a reply has its ID and can be read by another codec.
pub fn query(data: &[u8]) {
    for (over_tcp, limited) in [(false, false), (true, false), (false, true)] {
        let Some(reply) = answer_query(data, over_tcp, limited) else { continue };
        assert_eq!(reply[..2], data[..2], "another ID: {reply:?}");
        assert!(reply[2] & 0x80 != 0, "no reply: {reply:?}");
        let read = hickory_proto::op::Message::from_vec(&reply);
        assert!(read.is_ok(), "{read:?}: {reply:?}");
    }
}

/// An upstream's message: what clients get of it who ask the question that it repeats, or
/// `www.example.com A`, fits them and can be read, over each transport, of any age, and also behind
/// an alias of our own.
pub fn reply(data: &[u8]) {
    let asked = question_of(data).unwrap_or(WWW.to_vec());
    for opt in [&b""[..], b"\0\0\x29\x02\x58\0\0\0\0\0\0", b"\0\0\x29\x04\xd0\0\0\x80\0\0\0"] {
        let mut packet = b"\x12\x34\x01\0\0\x01\0\0\0\0\0".to_vec();
        packet.push(u8::from(!opt.is_empty()));
        packet.extend_from_slice(&asked);
        packet.extend_from_slice(opt);
        let mut query = Query::new();
        if query.parse(&packet).is_err() {
            continue;
        }
        let question = Question::of(&Key::new(&query, query.name.wire()));
        if !u16_at(data, 0).is_some_and(|id| question.is_answered_by(id, data)) {
            continue;
        }
        let Some(answer) = rebuild(&question, data) else { continue };
        for age in [Age::Fresh(0), Age::Fresh(61), Age::Stale] {
            for over_tcp in [false, true] {
                let transport = transport(over_tcp);
                check(&query, &relayed(&packet, &query, &answer, age, transport), transport);
                continued(&query, opt, &answer, age, transport);
            }
        }
    }
}

/// The question section of a message, with its name uncompressed.
fn question_of(message: &[u8]) -> Option<Vec<u8>> {
    let mut asked = Vec::new();
    let at = name::expand(message, HEADER_LEN, &mut asked)?;
    asked.extend_from_slice(message.get(at..at + 4)?);
    Some(asked)
}

fn relayed(
    packet: &[u8],
    query: &Query,
    answer: &Stored,
    age: Age,
    transport: Transport,
) -> Vec<u8> {
    let served = Served::Answer(answer, age);
    let mut buf = packet[..query.question_end].to_vec();
    buf.resize(room(&buf, transport, served), 0);
    let replied = serve(zone(), query, &mut buf, transport, served, 0);
    buf.truncate(replied.len);
    buf
}

/// The same answer behind an alias of ours to its name.
fn continued(query: &Query, opt: &[u8], answer: &Stored, age: Age, transport: Transport) {
    let mut packet = b"\x12\x34\x01\0\0\x01\0\0\0\0\0".to_vec();
    packet.push(u8::from(!opt.is_empty()));
    packet.extend_from_slice(b"\x03ext\x07cluster\x05local\0");
    packet.extend_from_slice(&query.qtype.0.to_be_bytes());
    packet.extend_from_slice(b"\0\x01");
    packet.extend_from_slice(opt);
    let mut of_alias = Query::new();
    of_alias.parse(&packet).expect("a query of our own");
    let mut buf = packet[..of_alias.question_end].to_vec();
    buf.resize(TCP_LIMIT, 0);
    let mut begun = Reply::to(&mut buf, &of_alias, transport, flag::AA);
    begun.record(Section::Answer, &[b"\xc0\x0c"], Type::CNAME, 5, &[query.name.wire()]);
    let alias = Alias { reply: begun.detach(), target: query.name.clone() };
    let (mut bytes, replied) = serve_alias(alias, &of_alias, Served::Answer(answer, age));
    bytes.truncate(replied.len);
    check(&of_alias, &bytes, transport);
}

/// A reply that a client gets has the ID of its query, fits, and consists of the records that its
/// header announces.
fn check(query: &Query, reply: &[u8], transport: Transport) {
    assert_eq!(reply[..2], [0x12, 0x34], "another ID: {reply:?}");
    let limit = if transport == Transport::Udp { query.udp_limit() } else { TCP_LIMIT };
    assert!(reply.len() <= limit, "{} octets of {limit}", reply.len());
    let count = |at: usize| u16_at(reply, at).map_or(0, usize::from);
    let mut expanded = Vec::new();
    let question_end = name::expand(reply, HEADER_LEN, &mut expanded).expect("a question") + 4;
    let mut records = Records::new(reply, question_end, count(6) + count(8) + count(10));
    let (mut opts, mut end) = (0, question_end);
    while let Some(record) = records.next() {
        let record = record.unwrap_or_else(|| panic!("malformed after {end}: {reply:?}"));
        expanded.clear();
        let owner = name::expand(reply, record.start, &mut expanded);
        assert!(owner.is_some(), "malformed name at {end}: {reply:?}");
        let rdata = crate::wire::record::expand(reply, &record, &mut expanded);
        assert!(rdata.is_some(), "malformed data after {end}: {reply:?}");
        opts += usize::from(record.rtype == Type::OPT);
        end = record.end;
    }
    assert_eq!(end, reply.len(), "octets behind the last record: {reply:?}");
    assert_eq!(opts, usize::from(query.edns.is_some()), "OPT records: {reply:?}");
}

const WWW: &[u8] = b"\x03www\x07example\x03com\0\0\x01\0\x01";
