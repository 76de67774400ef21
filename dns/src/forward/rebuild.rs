//! From an upstream's message to the answer that clients get: what does not belong to it is left
//! out, the rest is encoded anew.
//!
//! Pure. The message comes from another server and may be anything. Records that the question does
//! not call for (of names that no alias leads to, or that are not below the zone in question) could
//! poison what trusts us, and malformed ones could crash it.

mod encoder;
mod rdata;

use crate::cache::stored::{Cut, Stored};
use crate::wire::name;
use crate::wire::options::{EXTENDED_ERROR, ExtendedError};
use crate::wire::record::{Record, Records};
use crate::wire::{Class, HEADER_LEN, Rcode, Type, flag, u16_at};

use super::question::Question;
use encoder::{Encoder, MAX_POINTER};

/// The longest chain of aliases that is passed on. Longer ones are loops, or as good as that.
const MAX_CHAIN: usize = 16;
/// TTLs are no longer than this, in seconds (RFC 8767 section 4 allows up to a week).
const MAX_TTL: u32 = 86_400;
/// That of a negative answer (RFC 2308 section 5).
const MAX_NEGATIVE_TTL: u32 = 10_800;
/// Answers that are longer, in octets, are not continued with our own: pointers to names in those
/// would not reach.
const MAX_CONTINUED: usize = MAX_POINTER / 2;

/// A record of the message with its owner's name, in lower case.
#[derive(Debug)]
struct Found {
    section: usize,
    record: Record,
    owner: Vec<u8>,
}

/// What the message says besides its records.
#[derive(Debug, Default)]
struct Extras {
    extended_rcode: u16,
    error: Option<ExtendedError>,
}

/// Whether an upstream's message was cut, so that TCP gives more.
pub(crate) fn is_truncated(message: &[u8]) -> bool {
    u16_at(message, 2).is_some_and(|flags| flags & flag::TC != 0)
}

/// A message's code with the bits that its OPT record adds; `None` if it is malformed.
pub(crate) fn full_rcode(message: &[u8]) -> Option<Rcode> {
    let (_, extras) = read(message)?;
    Some(Rcode(u16_at(message, 2)? & flag::RCODE | extras.extended_rcode << 4))
}

/// The answer to a question by a message that was found to reply to it; `None` if it is malformed.
pub(crate) fn rebuild(question: &Question, message: &[u8]) -> Option<Stored> {
    let flags = u16_at(message, 2)?;
    if u16_at(message, 4)? == 0 {
        // Only refusals lack the question.
        return Some(Stored::without_records(Rcode(flags & flag::RCODE), None));
    }
    let (mut found, extras) = read(message)?;
    let rcode = Rcode(flags & flag::RCODE | extras.extended_rcode << 4);
    let chain = chain(question, message, &found)?;
    let apex = apex(&chain, &found);
    found.retain(|found| match found.section {
        0 => is_answer(question, &chain, found),
        1 => is_authority(&chain, apex.as_deref(), found),
        _ => true,
    });
    keep_additional(question, message, apex.as_deref(), &mut found);
    let open_end = open_end(question, &chain, &found);
    let ttl = ttl(rcode, message, &found);
    let mut encoder = Encoder::new(question);
    let mut counts = [0; 3];
    let mut cuts = Vec::with_capacity(found.len());
    let mut open_end_at = None;
    for found in &found {
        let record = &found.record;
        let is_last_alias = open_end.is_some_and(|end| record.start == end);
        let ttl_at = encoder.name(message, record.start)? + 4;
        encoder.fixed(record.rtype, ttl_of(found, message));
        let rdata_at = encoder.at();
        // Other records may follow that point into its labels.
        rdata::encode(&mut encoder, message, record, !is_last_alias)?;
        if is_last_alias {
            open_end_at = Some(rdata_at as u16);
        }
        encoder.close(rdata_at)?;
        counts[found.section] += 1;
        let cut = |at: usize| (at - encoder.begun()) as u16;
        cuts.push(Cut { ttl_at: cut(ttl_at), end: cut(encoder.at()) });
    }
    let answers_end = cuts[..usize::from(counts[0])].last().map_or(0, |cut| usize::from(cut.end));
    let is_partial = is_truncated(message);
    Some(Stored {
        rcode,
        is_authentic: flags & flag::AD != 0,
        is_partial,
        counts,
        records: encoder.into_records(),
        cuts: cuts.into(),
        open_end: open_end_at.filter(|_| answers_end <= MAX_CONTINUED),
        error: extras.error,
        ttl: if is_partial { 0 } else { ttl },
    })
}

/// Reads all records. `None` if one is malformed or of another class.
fn read(message: &[u8]) -> Option<(Vec<Found>, Extras)> {
    let count = |at: usize| u16_at(message, at).map(usize::from);
    let [answers, authority, additional] = [count(6)?, count(8)?, count(10)?];
    let at = name::skip(message, HEADER_LEN)? + 4;
    let mut records = Records::new(message, at, answers + authority + additional);
    let mut found: Vec<Found> = Vec::new();
    let mut extras = Extras::default();
    let mut number = 0;
    while let Some(record) = records.next() {
        let record = record?;
        let section = match number {
            _ if number < answers => 0,
            _ if number < answers + authority => 1,
            _ => 2,
        };
        number += 1;
        if record.rtype == Type::OPT {
            if section != 2 {
                return None;
            }
            extras.read(&record, message);
            continue;
        }
        let mut owner = Vec::new();
        name::expand(message, record.start, &mut owner)?;
        owner.make_ascii_lowercase();
        // Others, of class ANY, are signatures of the message itself (RFC 8945).
        if record.class == Class::IN {
            found.push(Found { section, record, owner });
        }
    }
    Some((found, extras))
}

impl Extras {
    fn read(&mut self, opt: &Record, message: &[u8]) {
        self.extended_rcode = u16::from(opt.ttl.to_be_bytes()[0]);
        let mut rdata = opt.rdata(message);
        while let (Some(code), Some(len)) = (u16_at(rdata, 0), u16_at(rdata, 2)) {
            let Some(data) = rdata.get(4..4 + usize::from(len)) else { return };
            if code == EXTENDED_ERROR && self.error.is_none() {
                self.error = ExtendedError::read(data);
            }
            rdata = &rdata[4 + data.len()..];
        }
    }
}

/// The name asked about and those that aliases lead to. `None` if there are too many.
fn chain(question: &Question, message: &[u8], found: &[Found]) -> Option<Vec<Vec<u8>>> {
    let mut chain = vec![question.name().to_vec()];
    if matches!(question.qtype(), Type::CNAME | Type::ANY) {
        return Some(chain);
    }
    loop {
        let last = chain.last()?;
        let alias = found
            .iter()
            .find(|f| f.section == 0 && f.record.rtype == Type::CNAME && f.owner == *last);
        let Some(alias) = alias else { return Some(chain) };
        let mut target = Vec::new();
        name::expand(&message[..alias.record.end], alias.record.rdata_start, &mut target)?;
        target.make_ascii_lowercase();
        if chain.len() == MAX_CHAIN || chain.contains(&target) {
            return None;
        }
        chain.push(target);
    }
}

/// The zone of the answer's last name, as the authority section names it.
fn apex(chain: &[Vec<u8>], found: &[Found]) -> Option<Vec<u8>> {
    let names = |f: &&Found| f.section == 1 && matches!(f.record.rtype, Type::SOA | Type::NS);
    let covers = |f: &&Found| chain.iter().any(|name| is_within(name, &f.owner));
    found.iter().filter(names).find(covers).map(|f| f.owner.clone())
}

fn is_answer(question: &Question, chain: &[Vec<u8>], found: &Found) -> bool {
    let rtype = found.record.rtype;
    if rtype == Type::DNAME || rtype == Type::RRSIG {
        return chain.iter().any(|name| is_within(name, &found.owner));
    }
    let is_wanted = matches!(question.qtype(), qtype if qtype == rtype || qtype == Type::ANY);
    (is_wanted || rtype == Type::CNAME) && chain.contains(&found.owner)
}

fn is_authority(chain: &[Vec<u8>], apex: Option<&[u8]>, found: &Found) -> bool {
    let covers = |owner: &[u8]| chain.iter().any(|name| is_within(name, owner));
    match found.record.rtype {
        Type::SOA | Type::NS | Type::DS => covers(&found.owner),
        // They are at names beside the one that does not exist.
        Type::NSEC | Type::NSEC3 | Type::RRSIG => match apex {
            Some(apex) => is_within(&found.owner, apex),
            None => covers(parent(&found.owner)),
        },
        _ => false,
    }
}

/// Keeps the addresses of names that other records name, if these are in the zone in question.
fn keep_additional(
    question: &Question,
    message: &[u8],
    apex: Option<&[u8]>,
    found: &mut Vec<Found>,
) {
    let mut named: Vec<Vec<u8>> = Vec::new();
    for Found { record, .. } in found.iter().filter(|f| f.section < 2) {
        let before = match record.rtype {
            Type::NS => 0,
            Type::MX | Type::HTTPS => 2,
            Type::SRV => 6,
            _ => continue,
        };
        let mut target = Vec::new();
        let bounded = &message[..record.end];
        if name::expand(bounded, record.rdata_start + before, &mut target).is_some() {
            target.make_ascii_lowercase();
            named.push(target);
        }
    }
    named.sort_unstable();
    // `_http._tcp.example.com` is about example.com.
    let mut base = question.name();
    while base.get(1) == Some(&b'_') {
        base = parent(base);
    }
    found.retain(|f| {
        let is_address = matches!(f.record.rtype, Type::A | Type::AAAA);
        let in_zone = || is_within(&f.owner, base) || apex.is_some_and(|a| is_within(&f.owner, a));
        f.section < 2 || is_address && named.binary_search(&f.owner).is_ok() && in_zone()
    });
}

/// Where the last alias begins, if its target has no records here.
fn open_end(question: &Question, chain: &[Vec<u8>], found: &[Found]) -> Option<usize> {
    let [.., before, last] = chain else { return None };
    let qtype = question.qtype();
    let is_answered = |f: &Found| f.section == 0 && f.record.rtype == qtype && f.owner == *last;
    if found.iter().any(is_answered) {
        return None;
    }
    let leads = |f: &&Found| f.record.rtype == Type::CNAME && f.owner == *before;
    found.iter().find(leads).map(|f| f.record.start)
}

/// How long an answer may be cached, in seconds.
fn ttl(rcode: Rcode, message: &[u8], found: &[Found]) -> u32 {
    if rcode != Rcode::NOERROR && rcode != Rcode::NXDOMAIN {
        return 0;
    }
    let of_section = |section: usize| {
        found.iter().filter(move |f| f.section == section && f.record.rtype != Type::RRSIG)
    };
    let least = of_section(0).map(|f| ttl_of(f, message)).min();
    let is_alias = |f: &Found| matches!(f.record.rtype, Type::CNAME | Type::DNAME);
    let is_positive = rcode == Rcode::NOERROR && of_section(0).any(|f| !is_alias(f));
    let only_aliases = least.is_some() && of_section(0).all(is_alias);
    let soa = of_section(1).find(|f| f.record.rtype == Type::SOA);
    let negative = soa.map(|f| ttl_of(f, message));
    match (least, negative) {
        (Some(least), _) if is_positive => least,
        // Aliases whose target has no such records, or is to be looked up elsewhere.
        (Some(least), Some(negative)) if only_aliases => least.min(negative),
        (Some(least), None) if only_aliases && rcode == Rcode::NOERROR => least,
        (None, Some(negative)) => negative,
        // RFC 2308 section 5: without an SOA record it must not be cached.
        _ => 0,
    }
}

/// The TTL of a record, at most a day. An SOA record of the authority section limits how long the
/// answer is negative.
fn ttl_of(found: &Found, message: &[u8]) -> u32 {
    let Found { section, record, .. } = found;
    // RFC 2181 section 8: a value with the first bit set counts as zero.
    let ttl = if record.ttl > i32::MAX as u32 { 0 } else { record.ttl.min(MAX_TTL) };
    if (*section, record.rtype) != (1, Type::SOA) {
        return ttl;
    }
    let minimum = message[..record.end].last_chunk::<4>().copied().map_or(0, u32::from_be_bytes);
    ttl.min(minimum).min(MAX_NEGATIVE_TTL)
}

/// Whether a name is `ancestor` or below it; both in wire form and lower case.
fn is_within(name: &[u8], ancestor: &[u8]) -> bool {
    let mut rest = name;
    loop {
        if rest.len() <= ancestor.len() {
            return rest == ancestor;
        }
        rest = parent(rest);
    }
}

/// A name without its first label.
fn parent(name: &[u8]) -> &[u8] {
    match name.split_first() {
        Some((&len, rest)) if len > 0 => &rest[usize::from(len)..],
        _ => name,
    }
}

#[cfg(test)]
mod tests;
