//! From an upstream's message to the reply for our client.
//!
//! Pure. The message comes from another server and may be anything.

use crate::wire::name::skip;
use crate::wire::record::{Record, Records, expand};
use crate::wire::reply::{Detached, Section, Transport, opt_record};
use crate::wire::{HEADER_LEN, OPT_LEN, Query, Rcode, TCP_LIMIT, Type, flag, u16_at};

/// An upstream's message that answers a question, with the offsets of its records.
#[derive(Debug)]
pub(crate) struct Answer<'m> {
    message: &'m [u8],
    pub(crate) rcode: Rcode,
    answers: Vec<Record>,
    authority: Vec<Record>,
    /// Up to the OPT record, which is removed: a pointer in a later record could point behind it.
    additional: Vec<Record>,
}

/// Whether an upstream's message was cut, so that TCP gives more.
pub(crate) fn is_truncated(reply: &[u8]) -> bool {
    u16_at(reply, 2).is_some_and(|flags| flags & flag::TC != 0)
}

impl<'m> Answer<'m> {
    /// Finds the records of a message; `None` if it is malformed.
    pub(crate) fn read(message: &'m [u8]) -> Option<Answer<'m>> {
        let count = |at: usize| u16_at(message, at).map(usize::from);
        let [questions, mut answers, mut authority] = [count(4)?, count(6)?, count(8)?];
        let mut additional = count(10)?;
        let mut at = HEADER_LEN;
        if questions == 0 {
            // Only refusals lack the question. Their records are dropped: with the question
            // inserted, their offsets would be wrong.
            [answers, authority, additional] = [0; 3];
        } else {
            at = skip(message, at)? + 4;
        }
        let mut records = Records::new(message, at, answers + authority + additional);
        let mut found = Vec::new();
        let mut rcode = u16_at(message, 2)? & flag::RCODE;
        let mut opt_at = None;
        while let Some(record) = records.next() {
            let record = record?;
            if record.rtype == Type::OPT {
                opt_at.get_or_insert(found.len());
                rcode |= u16::from(record.ttl.to_be_bytes()[0]) << 4;
            }
            found.push(record);
        }
        let before_additional = answers + authority;
        if opt_at.is_some_and(|at| at < before_additional) {
            return None;
        }
        found.truncate(opt_at.unwrap_or(found.len()));
        let additional = found.split_off(before_additional);
        let authority = found.split_off(answers);
        Some(Answer { message, rcode: Rcode(rcode), answers: found, authority, additional })
    }

    /// Whether the upstream has more than this message contains.
    pub(crate) fn is_truncated(&self) -> bool {
        is_truncated(self.message)
    }

    /// The reply to our client: the upstream's with the client's ID and question, without the
    /// upstream's EDNS, and no larger than the client accepts. `packet` is the client's, at least
    /// up to the end of its question.
    pub(crate) fn relay(&self, query: &Query, packet: &[u8], transport: Transport) -> Vec<u8> {
        let limit = match transport {
            Transport::Udp => query.udp_limit(),
            Transport::Tcp | Transport::Tls | Transport::Https => TCP_LIMIT,
        };
        let opt_len = if query.edns.is_some() { OPT_LEN } else { 0 };
        let fits = |record: &&Record| record.end <= limit - opt_len;
        let kept = |records: &[Record]| records.iter().take_while(fits).count();
        let mut counts = [kept(&self.answers), kept(&self.authority), kept(&self.additional)];
        let lacks_answers = counts[0] < self.answers.len();
        // A reply without answers needs its authority section: it cannot be cached otherwise.
        let lacks_proof = self.answers.is_empty() && counts[1] < self.authority.len();
        if lacks_answers {
            counts[1] = 0;
        }
        if counts[1] < self.authority.len() {
            counts[2] = 0;
        }
        let [answers, authority, additional] = counts;
        let sections = [&self.answers, &self.authority, &self.additional];
        let last = (0..3).rev().find_map(|s| sections[s][..counts[s]].last());
        let question_end = query.question_end;
        let end = last.map_or(question_end, |record| record.end);

        let from_upstream = u16_at(self.message, 2).unwrap_or_default();
        let kept_flags = flag::AA | flag::AD | flag::CD;
        let mut flags = flag::QR | flag::RA | from_upstream & kept_flags | query.flags & flag::RD;
        let is_partial = lacks_answers || lacks_proof || self.is_truncated();
        if is_partial && transport == Transport::Udp {
            flags |= flag::TC;
        }
        let mut reply = self.message[..end.min(self.message.len())].to_vec();
        reply.resize(end, 0);
        reply[..2].copy_from_slice(&packet[..2]);
        reply[HEADER_LEN..question_end].copy_from_slice(&packet[HEADER_LEN..question_end]);
        if let Some(edns) = query.edns {
            reply.extend_from_slice(&opt_record(self.rcode, edns.dnssec_ok));
        }
        let opt = usize::from(query.edns.is_some());
        let words = [
            usize::from(flags | self.rcode_for(query).0 & flag::RCODE),
            1,
            answers,
            authority,
            additional + opt,
        ];
        for (at, word) in words.into_iter().enumerate() {
            reply[2 + 2 * at..4 + 2 * at].copy_from_slice(&(word as u16).to_be_bytes());
        }
        reply
    }

    /// Continues a reply with the upstream's answer about the alias's target; its length.
    pub(crate) fn continue_alias(&self, detached: &mut Detached) -> usize {
        let mut reply = detached.attach();
        if self.is_truncated() {
            reply.truncate();
        }
        let mut record = Vec::new();
        let negative = self.answers.is_empty();
        let soa = self.authority.iter().filter(|r| negative && r.rtype == Type::SOA);
        let answers = self.answers.iter().map(|record| (Section::Answer, record));
        for (section, found) in answers.chain(soa.map(|record| (Section::Authority, record))) {
            record.clear();
            if expand(self.message, found, &mut record).is_none() {
                return reply.finish(Rcode::SERVFAIL);
            }
            if !reply.whole(section, &record) {
                break;
            }
        }
        let rcode = if self.rcode.0 > flag::RCODE { Rcode::SERVFAIL } else { self.rcode };
        reply.finish(rcode)
    }

    /// A code of more than four bits cannot be sent without EDNS.
    fn rcode_for(&self, query: &Query) -> Rcode {
        let extended = self.rcode.0 > flag::RCODE;
        if extended && query.edns.is_none() { Rcode::SERVFAIL } else { self.rcode }
    }
}

#[cfg(test)]
mod tests;
