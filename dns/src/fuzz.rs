//! The parsers that read what strangers send, for fuzzing: each takes any bytes.

use crate::forward::question::Question;
use crate::forward::relay::Answer;
use crate::respond::{MIN_BUFFER, Outcome, Policy, respond};
use crate::wire::name::Name;
use crate::wire::reply::Transport;
use crate::wire::{Query, TCP_LIMIT};
use crate::zone::{Owned, PodMode, Settings, Zone};

/// The reply to a packet from a client, by an empty zone of `cluster.local`; `None` if there is
/// none, or if an upstream would be asked.
pub fn answer_query(packet: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
    let packet = &packet[..packet.len().min(TCP_LIMIT)];
    let domain = Name::from_text("cluster.local")?;
    let zone = Zone::new(Settings::new(domain, 5, PodMode::Insecure, Owned::default())?);
    let mut buf = packet.to_vec();
    buf.resize(if over_tcp { TCP_LIMIT } else { packet.len().max(MIN_BUFFER) }, 0);
    let (policy, mut query) = (Policy { forwards: true, tells_version: true }, Query::new());
    let transport = transport(over_tcp);
    match respond(&zone, policy, &mut query, &mut buf, packet.len(), transport, 0) {
        Outcome::Reply(len, _) => {
            buf.truncate(len);
            Some(buf)
        }
        _ => None,
    }
}

/// The reply to a client's query by an upstream's message, whose ID is not checked; `None` if the
/// query or the message is malformed, or if the message does not answer the query.
pub fn relay_answer(query: &[u8], message: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
    let mut parsed = Query::new();
    parsed.parse(query).ok()?;
    let id = u16::from_be_bytes(*message.first_chunk()?);
    if !Question::of(&parsed, query).is_answered_by(id, message) {
        return None;
    }
    Some(Answer::read(message)?.relay(&parsed, query, transport(over_tcp)))
}

fn transport(over_tcp: bool) -> Transport {
    if over_tcp { Transport::Tcp } else { Transport::Udp }
}
