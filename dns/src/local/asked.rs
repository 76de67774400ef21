//! A question that is answered without upstreams, and the records that such answers consist of.

use std::net::IpAddr;

use crate::wire::reply::{Reply, Section, pointer};
use crate::wire::{Name, QUESTION_AT, Query, Type};
use crate::zone::ANY_ANSWER;

/// RFC 6303 section 3: nobody answers mail about these zones.
const MAILBOX: &[u8] = b"\x06nobody\x07invalid\x00";
/// RFC 6303 section 3: serial, refresh, retry and expire; secondary servers would use them.
const SOA_NUMBERS: [u32; 4] = [1, 3600, 1200, 604_800];

/// The name and type to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) name: &'a Name,
    pub(crate) qtype: Type,
    /// The offset of the whole name in the reply.
    at: u16,
}

impl<'a> Asked<'a> {
    pub(crate) fn of(query: &'a Query) -> Asked<'a> {
        Asked { name: &query.name, qtype: query.qtype, at: QUESTION_AT }
    }

    /// The same type at the target of an alias, which begins at that offset of the reply.
    pub(crate) fn target(name: &'a Name, query: &Query, at: u16) -> Asked<'a> {
        Asked { name, qtype: query.qtype, at }
    }

    /// A pointer to the name without its first `index` labels.
    fn pointer(&self, index: usize) -> [u8; 2] {
        pointer(usize::from(self.at) + self.name.start(index))
    }

    /// Answers with records of the requested type. False if there are none.
    pub(super) fn addresses(
        &self,
        ips: impl Iterator<Item = IpAddr>,
        ttl: u32,
        reply: &mut Reply<'_>,
    ) -> bool {
        let owner = self.pointer(0);
        let before = reply.count(Section::Answer);
        for ip in ips {
            let is_kept = match ip {
                IpAddr::V4(ip) if self.qtype == Type::A => {
                    reply.record(Section::Answer, &[&owner], Type::A, ttl, &[&ip.octets()])
                }
                IpAddr::V6(ip) if self.qtype == Type::AAAA => {
                    reply.record(Section::Answer, &[&owner], Type::AAAA, ttl, &[&ip.octets()])
                }
                _ => continue,
            };
            if !is_kept {
                break;
            }
        }
        reply.count(Section::Answer) > before || reply.is_truncated()
    }

    /// Answers a question for PTR with a name in wire form.
    pub(super) fn names(&self, target: &[u8], ttl: u32, reply: &mut Reply<'_>) -> bool {
        self.qtype == Type::PTR && self.record(Type::PTR, ttl, &[target], reply)
    }

    /// Answers a question for ANY with as little as possible (RFC 8482 section 4.2).
    pub(super) fn anything(&self, ttl: u32, reply: &mut Reply<'_>) -> bool {
        self.qtype == Type::ANY && self.record(Type::HINFO, ttl, &[ANY_ANSWER], reply)
    }

    /// Answers a question for the NS of the zone with this name: itself.
    pub(super) fn name_server(&self, ttl: u32, reply: &mut Reply<'_>) -> bool {
        let target = self.pointer(0);
        self.qtype == Type::NS && self.record(Type::NS, ttl, &[&target], reply)
    }

    /// Adds the SOA of the zone that begins at a label of the name. It says how long the absence
    /// of what was asked may be cached (RFC 2308 section 3).
    pub(super) fn soa(&self, apex: usize, section: Section, ttl: u32, reply: &mut Reply<'_>) {
        let zone = self.pointer(apex);
        let numbers = SOA_NUMBERS.map(u32::to_be_bytes).concat();
        let rdata: [&[u8]; 4] = [&zone, MAILBOX, &numbers, &ttl.to_be_bytes()];
        reply.record(section, &[&zone], Type::SOA, ttl, &rdata);
    }

    fn record(&self, rtype: Type, ttl: u32, rdata: &[&[u8]], reply: &mut Reply<'_>) -> bool {
        reply.record(Section::Answer, &[&self.pointer(0)], rtype, ttl, rdata)
    }
}
