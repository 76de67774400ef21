//! A question to upstreams: what makes two of them equal, how it is sent, and which messages reply
//! to it.
//!
//! Pure. Two questions are equal if an upstream gives both the same answer: the name in any letter
//! case, type, class, and the header bits that change the answer. A client's EDNS does not matter,
//! because upstreams are always asked with ours.

use std::sync::Arc;

use crate::wire::name::MAX_NAME;
use crate::wire::reply::opt_record;
use crate::wire::{Class, HEADER_LEN, Name, OPT_LEN, Query, Rcode, Type, flag, u16_at};

/// Type, class and bits, after the name.
const TAIL_LEN: usize = 5;
const MAX_KEY: usize = MAX_NAME + TAIL_LEN;

/// Bits of a key.
mod bit {
    /// The client wants DNSSEC records (RFC 3225).
    pub(super) const DNSSEC_OK: u8 = 1;
    /// The client checks signatures itself (RFC 4035 section 3.2.2).
    pub(super) const CHECKING_DISABLED: u8 = 2;
    /// The client wants no recursion. Such an answer is another one, and is not cached.
    pub(super) const ITERATIVE: u8 = 4;
}

/// The octets by which questions are compared: the name in lower case, type, class, bits. Made on
/// the stack for each query.
#[derive(Clone)]
pub(crate) struct Key {
    octets: [u8; MAX_KEY],
    len: usize,
}

impl Key {
    /// The key of a query, but about `name`, which is in wire form and lower case.
    #[inline]
    pub(crate) fn new(query: &Query, name: &[u8]) -> Key {
        let has = |flag: u16, bit: u8| if query.flags & flag != 0 { bit } else { 0 };
        let iterative = if query.flags & flag::RD == 0 { bit::ITERATIVE } else { 0 };
        let dnssec = query.edns.is_some_and(|edns| edns.dnssec_ok);
        let bits = has(flag::CD, bit::CHECKING_DISABLED)
            | iterative
            | if dnssec { bit::DNSSEC_OK } else { 0 };
        let mut octets = [0; MAX_KEY];
        let end = name.len();
        octets[..end].copy_from_slice(name);
        octets[end..end + 2].copy_from_slice(&query.qtype.0.to_be_bytes());
        octets[end + 2..end + 4].copy_from_slice(&query.qclass.0.to_be_bytes());
        octets[end + 4] = bits;
        Key { octets, len: end + TAIL_LEN }
    }

    #[inline]
    pub(crate) fn octets(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    /// Whether an answer to this question may be cached under another key.
    #[inline]
    pub(crate) fn is_iterative(&self) -> bool {
        self.octets[self.len - 1] & bit::ITERATIVE != 0
    }

    /// The key under which an answer to this question may be cached already.
    #[inline]
    pub(crate) fn cached(mut self) -> Key {
        self.octets[self.len - 1] &= !bit::ITERATIVE;
        self
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.octets().escape_ascii())
    }
}

/// A question that is asked, or was.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question(Arc<[u8]>);

impl Question {
    pub(crate) fn of(key: &Key) -> Question {
        Question(key.octets().into())
    }

    /// The octets of its key.
    pub(crate) fn key(&self) -> &Arc<[u8]> {
        &self.0
    }

    /// The octets of the key under which an answer may be cached already.
    pub(crate) fn cached_key(&self) -> Arc<[u8]> {
        let mut key = self.0.clone();
        if !self.is_recursive() {
            *Arc::make_mut(&mut key).last_mut().expect("a key has bits") &= !bit::ITERATIVE;
        }
        key
    }

    /// The name in wire form and lower case.
    pub(crate) fn name(&self) -> &[u8] {
        &self.0[..self.0.len() - TAIL_LEN]
    }

    pub(crate) fn to_name(&self) -> Name {
        let mut name = Name::root();
        name.read(self.name(), 0).expect("a key begins with a name");
        name
    }

    pub(crate) fn qtype(&self) -> Type {
        Type(u16_at(&self.0, self.0.len() - TAIL_LEN).expect("a key has a type"))
    }

    fn qclass(&self) -> Class {
        Class(u16_at(&self.0, self.0.len() - TAIL_LEN + 2).expect("a key has a class"))
    }

    fn has(&self, bit: u8) -> bool {
        self.0.last().is_some_and(|bits| bits & bit != 0)
    }

    /// Whether DNSSEC records are wanted.
    pub(crate) fn dnssec_ok(&self) -> bool {
        self.has(bit::DNSSEC_OK)
    }

    /// Whether the answer may be cached.
    pub(crate) fn is_recursive(&self) -> bool {
        !self.has(bit::ITERATIVE)
    }

    /// The message to send, with an OPT record of ours unless `edns` is off. AD asks for the
    /// upstream's opinion (RFC 6840 section 5.7), which clients get who want it.
    pub(crate) fn message(&self, id: u16, edns: bool) -> Vec<u8> {
        let mut flags = flag::AD;
        if self.is_recursive() {
            flags |= flag::RD;
        }
        if self.has(bit::CHECKING_DISABLED) {
            flags |= flag::CD;
        }
        let mut message = Vec::with_capacity(HEADER_LEN + self.0.len() + OPT_LEN);
        for word in [id, flags, 1, 0, 0, u16::from(edns)] {
            message.extend_from_slice(&word.to_be_bytes());
        }
        message.extend_from_slice(self.question());
        if edns {
            message.extend_from_slice(&opt_record(Rcode::NOERROR, self.dnssec_ok()));
        }
        message
    }

    /// Name, type and class, as in a message.
    pub(crate) fn question(&self) -> &[u8] {
        &self.0[..self.0.len() - 1]
    }

    /// Whether a message replies to this question under this ID, in any letter case. Messages that
    /// do not are ignored and the true reply is awaited: a forger has to guess the ID and our port.
    pub(crate) fn is_answered_by(&self, id: u16, reply: &[u8]) -> bool {
        let Some(flags) = u16_at(reply, 2) else { return false };
        let is_reply = flags & flag::QR != 0 && flags & flag::OPCODE == 0;
        if u16_at(reply, 0) != Some(id) || !is_reply {
            return false;
        }
        if u16_at(reply, 4) == Some(0) {
            // Some servers refuse without repeating the question.
            let refusals = [Rcode::FORMERR, Rcode::SERVFAIL, Rcode::NOTIMP, Rcode::REFUSED];
            return refusals.iter().any(|rcode| rcode.0 == flags & flag::RCODE);
        }
        let asked = self.question();
        let echoed = reply.get(HEADER_LEN..HEADER_LEN + asked.len());
        let (name_len, is_one) = (self.name().len(), u16_at(reply, 4) == Some(1));
        is_one
            && echoed.is_some_and(|echoed| {
                echoed[..name_len].eq_ignore_ascii_case(self.name())
                    && echoed[name_len..] == asked[name_len..]
            })
    }
}

/// It hashes and compares like its key.
impl std::borrow::Borrow<[u8]> for Question {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.to_name(), self.qclass(), self.qtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{parsed, question, with_edns};
    use hickory_proto::op::Message;

    #[test]
    fn equal_questions_get_the_same_answer() {
        let base = question("www.example.com A");
        let check = |other: &Message, equal: bool| {
            assert_eq!(parsed(&base) == parsed(other), equal, "{other}");
        };
        let mut another_id = base.clone();
        another_id.metadata.id = 7;
        check(&another_id, true);
        check(&question("WWW.Example.COM A"), true);
        check(&question("www.example.com AAAA"), false);
        // Types 65 (HTTPS) and 97 differ only as the letters of a name would.
        assert!(parsed(&question("x TYPE65")) != parsed(&question("x TYPE97")));
        check(&question("www.example.org A"), false);
        check(&with_edns(base.clone(), 512, false), true);
        check(&with_edns(base.clone(), 1232, true), false);
        let mut no_recursion = base.clone();
        no_recursion.metadata.recursion_desired = false;
        check(&no_recursion, false);
        let mut unchecked = base.clone();
        unchecked.metadata.checking_disabled = true;
        check(&unchecked, false);
    }

    #[test]
    fn it_is_sent_with_edns_or_without() {
        let base = with_edns(question("www.Example.com A"), 512, true);
        let asked = parsed(&base);
        let with = Message::from_vec(&asked.message(7, true)).unwrap();
        assert_eq!(with.metadata.id, 7);
        assert!(with.metadata.recursion_desired && with.metadata.authentic_data);
        let edns = with.edns.unwrap();
        assert!(edns.flags().dnssec_ok);
        assert_eq!(edns.max_payload(), 1232);
        let without = Message::from_vec(&asked.message(8, false)).unwrap();
        assert!(without.edns.is_none());
        assert_eq!(asked.to_string(), "www.example.com IN A");
    }

    #[test]
    fn only_its_own_replies_answer_it() {
        let asked = parsed(&question("x TYPE65"));
        let mut reply = asked.message(7, false);
        assert!(!asked.is_answered_by(7, &reply), "a query");
        reply[2] |= 0x80;
        assert!(asked.is_answered_by(7, &reply));
        assert!(!asked.is_answered_by(8, &reply), "another ID");
        let mut upper = reply.clone();
        upper[HEADER_LEN + 1] = b'X';
        assert!(asked.is_answered_by(7, &upper));
        upper[HEADER_LEN + 1] = b'y';
        assert!(!asked.is_answered_by(7, &upper), "another name");
        let mut other = reply.clone();
        other[HEADER_LEN + 4] = 97;
        assert!(!asked.is_answered_by(7, &other), "another type");
        assert!(!asked.is_answered_by(7, &reply[..HEADER_LEN + 3]), "cut");
        reply.truncate(HEADER_LEN);
        (reply[3], reply[5]) = (5, 0);
        assert!(asked.is_answered_by(7, &reply), "REFUSED without the question");
        reply[3] = 0;
        assert!(!asked.is_answered_by(7, &reply), "NOERROR without the question");
    }
}
