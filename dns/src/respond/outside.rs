//! Replies about names outside our zones: what upstreams said, in the form that a client accepts.
//!
//! Pure.

use crate::cache::Served;
use crate::cache::stored::{Age, Stored};
use crate::wire::options::{self, ExtendedError};
use crate::wire::record::{Records, expand};
use crate::wire::reply::{Reply, Section, Transport};
use crate::wire::{HEADER_LEN, Name, OPT_LEN, Query, Rcode, TCP_LIMIT, flag};
use crate::zone::{self, Zone};

use super::{Alias, MIN_BUFFER};

/// Room for options besides that of the records.
const OPTIONS: usize = 256;

/// A reply in a buffer, but for its options.
#[derive(Debug)]
pub(crate) struct Replied {
    pub(crate) len: usize,
    pub(crate) rcode: Rcode,
    pub(crate) error: Option<ExtendedError>,
}

/// How large a buffer must be for a reply to a query of which the first octets are `head`.
pub(crate) fn room(head: &[u8], transport: Transport, served: Served<'_>) -> usize {
    let records = match served {
        // Our own zone's records may follow.
        Served::Answer(Stored { open_end: Some(_), .. }, _) if transport != Transport::Udp => {
            TCP_LIMIT
        }
        Served::Answer(answer, _) => answer.records.len(),
        Served::Failure(_) => 0,
    };
    let padding = if transport.is_encrypted() { options::BLOCK } else { 0 };
    (head.len() + records + OPT_LEN + OPTIONS + padding).clamp(MIN_BUFFER, TCP_LIMIT)
}

/// Replies to the query in `buf`. `zone` continues an alias that leads into it.
#[inline]
pub(crate) fn serve(
    zone: &Zone,
    query: &Query,
    buf: &mut [u8],
    transport: Transport,
    served: Served<'_>,
    turn: usize,
) -> Replied {
    let mut reply = Reply::to(buf, query, transport, flag::RA);
    match served {
        Served::Answer(answer, age) => {
            let mut rcode = None;
            if let Some(at) = answer.open_end {
                rcode = follow(zone, query, &mut reply, answer, age, (at, turn));
            }
            let rcode = rcode.unwrap_or_else(|| {
                answer.write(query, &mut reply, age);
                plain(answer.rcode, query)
            });
            let error = error_of(answer, age);
            Replied { len: reply.finish(rcode), rcode, error }
        }
        Served::Failure(failure) => {
            let rcode = plain(failure.rcode, query);
            Replied { len: reply.finish(rcode), rcode, error: failure.error.clone() }
        }
    }
}

/// Writes the aliases and what our own zone says about the last one's target, if it is in our zone.
#[cold]
fn follow(
    zone: &Zone,
    query: &Query,
    reply: &mut Reply<'_>,
    answer: &Stored,
    age: Age,
    (at, turn): (u16, usize),
) -> Option<Rcode> {
    let mut target = Name::root();
    let in_records = usize::from(at).checked_sub(query.question_end)?;
    target.read(&answer.records, in_records)?;
    let found = zone.find(&target)?;
    answer.write_answers(query, reply, age);
    if reply.is_truncated() {
        return Some(Rcode::NOERROR);
    }
    match zone.follow(target, at, Some(found), query.qtype, reply, turn) {
        zone::Answer::Complete(rcode) => Some(rcode),
        zone::Answer::Outside | zone::Answer::Alias(..) => Some(Rcode::NOERROR),
    }
}

/// Continues a reply that begins with aliases of ours. Its octets, and what they are.
pub(crate) fn serve_alias(alias: Alias, query: &Query, served: Served<'_>) -> (Vec<u8>, Replied) {
    let Alias { reply: mut detached, target } = alias;
    let mut reply = detached.attach();
    let replied = match served {
        Served::Answer(answer, age) => {
            let rcode = match append(answer, &target, &mut reply, age) {
                Some(()) => plain(answer.rcode, query),
                None => Rcode::SERVFAIL,
            };
            let error = error_of(answer, age);
            Replied { len: reply.finish(rcode), rcode, error }
        }
        Served::Failure(failure) => {
            // The code is not ours.
            reply.clear(flag::AA);
            let rcode = plain(failure.rcode, query);
            Replied { len: reply.finish(rcode), rcode, error: failure.error.clone() }
        }
    };
    (detached.into_bytes(), replied)
}

/// Appends the answers about another name than the query's, and if there are none the SOA record.
fn append(answer: &Stored, name: &Name, reply: &mut Reply<'_>, age: Age) -> Option<()> {
    let mut message = vec![0; HEADER_LEN];
    message.extend_from_slice(name.wire());
    message.extend_from_slice(&[0; 4]);
    let begun = message.len();
    message.extend_from_slice(&answer.records);
    let [answers, authority, _] = answer.counts.map(usize::from);
    let mut records = Records::new(&message, begun, answers + authority);
    let mut octets = Vec::new();
    let mut number = 0;
    if answer.is_partial {
        reply.truncate();
    }
    while let Some(record) = records.next() {
        let mut record = record?;
        let section = if number < answers { Section::Answer } else { Section::Authority };
        number += 1;
        if section == Section::Authority && (answers > 0 || record.rtype != crate::wire::Type::SOA)
        {
            continue;
        }
        record.ttl = age.ttl(record.ttl);
        octets.clear();
        expand(&message, &record, &mut octets)?;
        if !reply.whole(section, &octets) {
            break;
        }
    }
    Some(())
}

fn error_of(answer: &Stored, age: Age) -> Option<ExtendedError> {
    match age {
        Age::Fresh(_) => answer.error.clone(),
        Age::Stale if answer.rcode == Rcode::NXDOMAIN => {
            Some(ExtendedError::of(ExtendedError::STALE_NXDOMAIN))
        }
        Age::Stale => Some(ExtendedError::of(ExtendedError::STALE)),
    }
}

/// A code of more than four bits cannot be sent without EDNS.
fn plain(rcode: Rcode, query: &Query) -> Rcode {
    let extended = rcode.0 > flag::RCODE;
    if extended && query.edns.is_none() { Rcode::SERVFAIL } else { rcode }
}
