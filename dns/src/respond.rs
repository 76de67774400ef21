//! From a packet to its reply: the rules of the protocol around the zone's answers.
//!
//! Pure, allocates nothing on the usual path, and accepts any bytes: every packet from anyone
//! comes here first. The reply is built in the packet's own buffer.

pub(crate) mod outside;

use crate::answered_by::AnsweredBy;
use crate::local::{Asked, Local};
use crate::wire::reply::{Detached, Section, Transport, pointer};
use crate::wire::{
    Bad, Class, HEADER_LEN, Name, QUESTION_AT, Query, Rcode, Reply, Type, UDP_EDNS_LIMIT, flag,
    u16_at,
};
use crate::zone::{Answer, Zone};

/// The buffer of a query must have room for the reply, whatever the query's own length.
pub(crate) const MIN_BUFFER: usize = UDP_EDNS_LIMIT;

/// The answer to `version.bind` of class CH, if `--version-bind` is set.
const VERSION: &str = concat!("switchyard ", env!("CARGO_PKG_VERSION"));

/// What the operator decides about replies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Policy {
    /// There is an upstream: replies say that recursion is available.
    pub(crate) forwards: bool,
    /// `version.bind` is answered.
    pub(crate) tells_version: bool,
}

/// What is answered without asking other servers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    pub(crate) zone: &'a Zone,
    pub(crate) local: &'a Local,
}

/// What to do about a packet.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing is sent.
    Silent,
    /// The reply is in the buffer and has this length.
    Reply(usize, Rcode, AnsweredBy),
    /// The question is about a name outside our zones; the buffer is unchanged.
    Forward,
    /// An alias of ours leads to a name outside our zones.
    Follow(Box<Alias>),
}

/// A reply that begins with aliases of ours and ends with what upstreams say of their target.
#[derive(Debug)]
pub(crate) struct Alias {
    pub(crate) reply: Detached,
    pub(crate) target: Name,
}

/// Answers the packet in the first `len` octets of `buf`. `query` is overwritten by it.
///
/// `turn` is where the addresses of a headless Service begin.
#[inline]
pub(crate) fn respond(
    names: Names<'_>,
    policy: Policy,
    query: &mut Query,
    buf: &mut [u8],
    len: usize,
    transport: Transport,
    turn: usize,
) -> Outcome {
    debug_assert!(buf.len() >= MIN_BUFFER && len <= buf.len());
    if let Err(bad) = query.parse(&buf[..len]) {
        return reject(bad, query, buf);
    }
    if query.qclass != Class::IN || query.edns.is_some_and(|edns| edns.version != 0) {
        return unusual(policy, query, buf, transport);
    }
    if query.qtype == Type::AXFR || query.qtype == Type::IXFR {
        return error(policy, query, buf, transport, Rcode::REFUSED);
    }
    let recursion = if policy.forwards { flag::RA } else { 0 };
    let mut reply = Reply::to(buf, query, transport, recursion);
    match names.zone.answer(query, &mut reply, turn) {
        Answer::Complete(rcode) => complete(reply, rcode, AnsweredBy::Zone),
        Answer::Outside => match names.local.answer(names.zone, &Asked::of(query), &mut reply) {
            Some(rcode) => complete(reply, rcode, AnsweredBy::Local),
            None if policy.forwards => Outcome::Forward,
            None => error(policy, query, buf, transport, Rcode::REFUSED),
        },
        Answer::Alias(target, at) => {
            reply.set(flag::AA);
            let asked = Asked::target(&target, query, at);
            if let Some(rcode) = names.local.answer(names.zone, &asked, &mut reply) {
                return complete(reply, rcode, AnsweredBy::Zone);
            }
            if policy.forwards {
                return Outcome::Follow(Box::new(Alias { reply: reply.detach(), target: *target }));
            }
            // A server without recursion returns the alias alone (RFC 1034 section 4.3.2).
            Outcome::Reply(reply.finish(Rcode::NOERROR), Rcode::NOERROR, AnsweredBy::Zone)
        }
    }
}

fn complete(mut reply: Reply<'_>, rcode: Rcode, answered_by: AnsweredBy) -> Outcome {
    if rcode != Rcode::SERVFAIL {
        reply.set(flag::AA);
    }
    Outcome::Reply(reply.finish(rcode), rcode, answered_by)
}

/// A reply without records to a query that was parsed.
pub(crate) fn error(
    policy: Policy,
    query: &Query,
    buf: &mut [u8],
    transport: Transport,
    rcode: Rcode,
) -> Outcome {
    let recursion = if policy.forwards { flag::RA } else { 0 };
    let reply = Reply::to(buf, query, transport, recursion);
    Outcome::Reply(reply.finish(rcode), rcode, AnsweredBy::Refused)
}

/// Takes the records out of a reply over UDP and sets TC, so that the client asks over TCP. The new
/// length; `None` if the reply is a header alone, because its query could not be parsed.
pub(crate) fn cut(query: &Query, buf: &mut [u8]) -> Option<usize> {
    let (flags, questions) = (u16_at(buf, 2)?, u16_at(buf, 4)?);
    if questions == 0 {
        return None;
    }
    let flags = flags & (flag::AA | flag::RA) | flag::TC;
    let rcode = Rcode(u16::from(buf[3]) & flag::RCODE);
    Some(Reply::to(buf, query, Transport::Udp, flags).finish(rcode))
}

fn reject(bad: Bad, query: &Query, buf: &mut [u8]) -> Outcome {
    let rcode = match bad {
        Bad::Silent => return Outcome::Silent,
        Bad::Opcode => Rcode::NOTIMP,
        Bad::Format => Rcode::FORMERR,
    };
    let len = Reply::header_only(buf, query).finish(rcode);
    Outcome::Reply(len, rcode, AnsweredBy::Refused)
}

fn unusual(policy: Policy, query: &Query, buf: &mut [u8], transport: Transport) -> Outcome {
    if query.edns.is_some_and(|edns| edns.version != 0) {
        return error(policy, query, buf, transport, Rcode::BADVERS);
    }
    let asks_version = || Name::from_text("version.bind").is_some_and(|name| name == query.name);
    let chaos_text = query.qclass == Class::CH && query.qtype == Type::TXT;
    if !(policy.tells_version && chaos_text && asks_version()) {
        return error(policy, query, buf, transport, Rcode::REFUSED);
    }
    let mut reply = Reply::to(buf, query, transport, flag::AA);
    reply.whole(Section::Answer, &version_record());
    Outcome::Reply(reply.finish(Rcode::NOERROR), Rcode::NOERROR, AnsweredBy::Local)
}

fn version_record() -> Vec<u8> {
    let mut record = pointer(usize::from(QUESTION_AT)).to_vec();
    record.extend_from_slice(&Type::TXT.0.to_be_bytes());
    record.extend_from_slice(&Class::CH.0.to_be_bytes());
    record.extend_from_slice(&0u32.to_be_bytes());
    record.extend_from_slice(&(VERSION.len() as u16 + 1).to_be_bytes());
    record.push(VERSION.len() as u8);
    record.extend_from_slice(VERSION.as_bytes());
    record
}

// A packet of a header alone still gets a header and an OPT record.
const _: () = assert!(MIN_BUFFER > HEADER_LEN + crate::wire::OPT_LEN);

#[cfg(test)]
mod tests;
