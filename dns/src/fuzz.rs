//! What is fuzzed in this package: the parsers of untrusted input. Each function takes any bytes,
//! and checks what must hold for every outcome.
//!
//! Called by the targets under `fuzz/` and, for a bounded number of inputs, by `tests/fuzz.rs`.
//! Not part of this package's interface.

use crate::cache::Served;
use crate::cache::stored::Age;
use crate::forward::question::{Key, Question};
use crate::forward::rebuild::rebuild;
use crate::local::Local;
use crate::respond::outside::{room, serve};
use crate::respond::{MIN_BUFFER, Names, Outcome, Policy, respond};
use crate::wire::name::Name;
use crate::wire::reply::Transport;
use crate::wire::{Query, TCP_LIMIT};
use crate::zone::{Owned, PodMode, Settings, Zone};

/// The reply to a packet from a client, by an empty zone of `cluster.local`; `None` if there is
/// none, or if an upstream would be asked.
pub fn answer_query(packet: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
    let packet = &packet[..packet.len().min(TCP_LIMIT)];
    let zone = zone();
    let mut buf = packet.to_vec();
    buf.resize(if over_tcp { TCP_LIMIT } else { packet.len().max(MIN_BUFFER) }, 0);
    let (policy, mut query) = (Policy { forwards: true, tells_version: true }, Query::new());
    let transport = transport(over_tcp);
    let names = Names { zone: &zone, local: &Local::default() };
    match respond(names, policy, &mut query, &mut buf, packet.len(), transport, 0) {
        Outcome::Reply(len, ..) => {
            buf.truncate(len);
            Some(buf)
        }
        _ => None,
    }
}

fn zone() -> Zone {
    let domain = Name::from_text("cluster.local").expect("a name");
    let settings = Settings::new(domain, 5, PodMode::Insecure, Owned::default());
    Zone::new(settings.expect("a short name"))
}

/// The reply to a client's query by an upstream's message, whose ID is not checked; `None` if the
/// query or the message is malformed, or if the message does not answer the query.
pub fn relay_answer(query: &[u8], message: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
    let mut parsed = Query::new();
    parsed.parse(query).ok()?;
    let id = u16::from_be_bytes(*message.first_chunk()?);
    let question = Question::of(&Key::new(&parsed, parsed.name.wire()));
    if !question.is_answered_by(id, message) {
        return None;
    }
    let answer = rebuild(&question, message)?;
    let (served, transport) = (Served::Answer(&answer, Age::Fresh(0)), transport(over_tcp));
    let mut buf = query[..parsed.question_end].to_vec();
    buf.resize(room(&buf, transport, served), 0);
    let replied = serve(&zone(), &parsed, &mut buf, transport, served, 0);
    buf.truncate(replied.len);
    Some(buf)
}

fn transport(over_tcp: bool) -> Transport {
    if over_tcp { Transport::Tcp } else { Transport::Udp }
}

/// A client's packet: a reply has its ID and can be read by another codec.
pub fn query(data: &[u8]) {
    for over_tcp in [false, true] {
        let Some(reply) = answer_query(data, over_tcp) else { continue };
        assert_eq!(reply[..2], data[..2], "another ID: {reply:?}");
        assert!(reply[2] & 0x80 != 0, "no reply: {reply:?}");
        let read = hickory_proto::op::Message::from_vec(&reply);
        assert!(read.is_ok(), "{read:?}: {reply:?}");
    }
}

/// An upstream's message about `www.example.com A`: what clients get of it has their ID, fits and
/// can be read.
pub fn reply(data: &[u8]) {
    for query in [PLAIN_QUERY, EDNS_QUERY] {
        for over_tcp in [false, true] {
            let Some(reply) = relay_answer(query, data, over_tcp) else { continue };
            assert_eq!(reply[..2], query[..2], "another ID: {reply:?}");
            let limit = match (over_tcp, query.len() == PLAIN_QUERY.len()) {
                (true, _) => TCP_LIMIT,
                (false, true) => 512,
                (false, false) => 1232,
            };
            assert!(reply.len() <= limit, "{} octets of {limit}", reply.len());
            assert!(relay_answer(query, &reply, true).is_some(), "unreadable: {reply:?}");
        }
    }
}

const PLAIN_QUERY: &[u8] =
    b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01";
const EDNS_QUERY: &[u8] =
    b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x03www\x07example\x03com\0\0\x01\0\x01\
    \0\0\x29\x04\xd0\0\0\x80\0\0\0";
