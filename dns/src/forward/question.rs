//! A question as it is sent to an upstream, and which messages reply to it.
//!
//! Pure. Two questions are equal if an upstream gives both the same answer: the name in any letter
//! case, type, class, EDNS, and the header bits that are passed on.

use std::hash::{Hash, Hasher};

use crate::wire::reply::opt_record;
use crate::wire::{HEADER_LEN, Name, OPT_LEN, Query, Rcode, flag, u16_at};

/// A question as it is sent to an upstream, but for its ID.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    message: Vec<u8>,
    /// The offset after the question section.
    end: usize,
}

impl Question {
    /// The question of `packet`, whose query was parsed into `query`.
    pub(crate) fn of(query: &Query, packet: &[u8]) -> Question {
        Question::new(query, &packet[HEADER_LEN..query.question_end - 4])
    }

    /// The question of a query, but about another name, which is in wire form.
    ///
    /// It has an OPT record if the client's query has one, so that the upstream treats both alike.
    pub(crate) fn new(query: &Query, name: &[u8]) -> Question {
        let flags = query.flags & (flag::RD | flag::AD | flag::CD);
        let edns = u16::from(query.edns.is_some());
        let mut message = Vec::with_capacity(HEADER_LEN + name.len() + 4 + OPT_LEN);
        for word in [0, flags, 1, 0, 0, edns] {
            message.extend_from_slice(&u16::to_be_bytes(word));
        }
        message.extend_from_slice(name);
        message.extend_from_slice(&query.qtype.0.to_be_bytes());
        message.extend_from_slice(&query.qclass.0.to_be_bytes());
        let end = message.len();
        if let Some(edns) = query.edns {
            message.extend_from_slice(&opt_record(Rcode::NOERROR, edns.dnssec_ok));
        }
        Question { message, end }
    }

    /// The message to send.
    pub(crate) fn message(&self, id: u16) -> Vec<u8> {
        let mut message = self.message.clone();
        message[..2].copy_from_slice(&id.to_be_bytes());
        message
    }

    /// The name that is asked.
    pub(crate) fn name(&self) -> Name {
        let mut name = Name::root();
        name.read(&self.message, HEADER_LEN).expect("a question is made of a name");
        name
    }

    /// Whether a message replies to this question under this ID. Messages that do not are ignored
    /// and the true reply is awaited: a forger has to guess the ID and our port.
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
        let asked = &self.message[HEADER_LEN..self.end];
        let echoed = reply.get(HEADER_LEN..self.end);
        u16_at(reply, 4) == Some(1) && echoed.is_some_and(|e| e.eq_ignore_ascii_case(asked))
    }

    /// The parts that make the answer: header and EDNS, name, type and class.
    fn parts(&self) -> (&[u8], &[u8], &[u8]) {
        let (question, edns) = self.message.split_at(self.end);
        let (name, type_and_class) = question.split_at(self.end - 4);
        (name, type_and_class, edns)
    }
}

impl PartialEq for Question {
    fn eq(&self, other: &Question) -> bool {
        let (name, type_and_class, edns) = self.parts();
        let (other_name, other_type_and_class, other_edns) = other.parts();
        // The header's octets before the name: none of the flags in use is a letter.
        name.eq_ignore_ascii_case(other_name)
            && type_and_class == other_type_and_class
            && edns == other_edns
    }
}

impl Eq for Question {}

impl Hash for Question {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (name, type_and_class, edns) = self.parts();
        for octet in name {
            state.write_u8(octet.to_ascii_lowercase());
        }
        state.write(type_and_class);
        state.write(edns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{question, with_edns};
    use hickory_proto::op::Message;

    fn parsed(message: &Message) -> Question {
        let packet = message.to_vec().unwrap();
        let mut query = Query::new();
        query.parse(&packet).unwrap();
        Question::of(&query, &packet)
    }

    #[test]
    fn equal_questions_get_the_same_answer() {
        let base = question("www.example.com A");
        let check = |other: &Message, equal: bool| {
            let (a, b) = (parsed(&base), parsed(other));
            assert_eq!(a == b, equal, "{other}");
            let hash = |question: &Question| {
                let mut hasher = std::hash::DefaultHasher::new();
                question.hash(&mut hasher);
                hasher.finish()
            };
            assert_eq!(hash(&a) == hash(&b), equal, "{other}");
        };
        let mut another_id = base.clone();
        another_id.metadata.id = 7;
        check(&another_id, true);
        check(&question("WWW.Example.COM A"), true);
        check(&question("www.example.com AAAA"), false);
        // Types 65 (HTTPS) and 97 differ only as the letters of a name would.
        assert!(parsed(&question("x TYPE65")) != parsed(&question("x TYPE97")));
        check(&question("www.example.org A"), false);
        check(&with_edns(base.clone(), 1232, false), false);
        let mut no_recursion = base.clone();
        no_recursion.metadata.recursion_desired = false;
        check(&no_recursion, false);
        let mut unchecked = base.clone();
        unchecked.metadata.checking_disabled = true;
        check(&unchecked, false);
        let (with, without) = (with_edns(base.clone(), 1232, true), with_edns(base, 4096, false));
        assert!(parsed(&with) != parsed(&without));
        assert!(parsed(&without) == parsed(&with_edns(question("www.example.com A"), 512, false)));
    }
}
