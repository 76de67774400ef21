//! A question as a packet for one server, and which messages reply to it.
//!
//! Pure: the random bits are passed in. Upstreams are always asked with EDNS unless they do not
//! support it, so that large answers need no second question, and with AD, so that they say
//! whether they have validated the answer (RFC 6840 section 5.7).

use crate::wire::options;
use crate::wire::{HEADER_LEN, u16_at};

use super::question::Question;

/// Queries over TLS are padded to a multiple of this (RFC 8467 section 4.1).
const PADDED_TO: usize = 128;

/// How a question is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// With an OPT record.
    pub(crate) edns: bool,
    /// Padded, so that its length does not tell the name.
    pub(crate) padded: bool,
    /// The case of the name's letters, a bit each, or as the client has them.
    pub(crate) letters: Option<[u64; 4]>,
}

/// A question as a packet.
#[derive(Debug)]
pub(crate) struct Packet {
    question: Question,
    message: Vec<u8>,
    /// The offset after the question section.
    end: usize,
}

/// Whether a message replies to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    No,
    /// But for the case of letters.
    OtherCase,
    Exact,
}

impl Packet {
    pub(crate) fn new(question: &Question, id: u16, form: Form) -> Packet {
        let mut message = question.message(id, form.edns);
        let end = HEADER_LEN + question.question().len();
        if form.edns && form.padded {
            pad(&mut message);
        }
        if let Some(bits) = form.letters {
            set_case(&mut message, bits);
        }
        Packet { question: question.clone(), message, end }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.message
    }

    pub(crate) fn set_id(&mut self, id: u16) {
        self.message[..2].copy_from_slice(&id.to_be_bytes());
    }

    /// Whether a server that does not keep the case of letters would be noticed: most write all
    /// letters small.
    pub(crate) fn tells_case(&self) -> bool {
        self.message[HEADER_LEN..self.end - 4].iter().any(u8::is_ascii_uppercase)
    }

    /// Whether a message replies to this packet.
    pub(crate) fn answered_by(&self, reply: &[u8]) -> Match {
        let id = u16_at(&self.message, 0).unwrap_or_default();
        if !self.question.is_answered_by(id, reply) {
            return Match::No;
        }
        // A refusal may lack the question.
        let is_exact = u16_at(reply, 4) == Some(0)
            || reply.get(HEADER_LEN..self.end) == self.message.get(HEADER_LEN..self.end);
        if is_exact { Match::Exact } else { Match::OtherCase }
    }

    /// Writes the question into a reply to this packet in small letters. Names in records
    /// are, as a rule, references to it.
    pub(crate) fn restore_letters(&self, reply: &mut [u8]) {
        let has_question = u16_at(reply, 4) == Some(1);
        if let Some(section) = reply.get_mut(HEADER_LEN..self.end).filter(|_| has_question) {
            section.copy_from_slice(self.question.question());
        }
    }
}

/// Adds the option to the OPT record, with which the message ends.
fn pad(message: &mut Vec<u8>) {
    let len = message.len();
    message.resize((len + options::HEAD_LEN).next_multiple_of(PADDED_TO), 0);
    options::pad(message, len, len, PADDED_TO);
}

/// Sets the case of each letter of the name, which makes forged answers harder to guess
/// (draft-vixie-dnsext-dns0x20).
fn set_case(message: &mut [u8], bits: [u64; 4]) {
    let mut at = HEADER_LEN;
    while let Some(length) = message.get(at).map(|octet| usize::from(*octet)) {
        if length == 0 || length > 63 {
            return;
        }
        for index in at + 1..(at + 1 + length).min(message.len()) {
            let octet = &mut message[index];
            if octet.is_ascii_alphabetic() {
                let bit = index - HEADER_LEN;
                let upper = bits[bit / 64 % 4] >> (bit % 64) & 1 != 0;
                *octet =
                    if upper { octet.to_ascii_uppercase() } else { octet.to_ascii_lowercase() };
            }
        }
        at += 1 + length;
    }
}

#[cfg(test)]
mod tests;
