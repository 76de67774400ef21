//! Builds a reply in the buffer that contains its query: the header is overwritten, the question
//! stays as the client spelled it, and records follow it.
//!
//! Owners are pointers into the question (RFC 1035 section 4.1.4), so most records are compiled
//! before the query arrives. A record that does not fit is dropped as a whole; only a dropped
//! *answer* sets TC (RFC 2181 section 9).

use super::numbers::{
    Class, HEADER_LEN, OPT_LEN, QUESTION_AT, Rcode, TCP_LIMIT, Type, UDP_EDNS_LIMIT, flag,
};
use super::options::COOKIE_LEN;
use super::query::Query;

/// A section of the reply. Sections are filled in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

/// The transport of a query and its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
    /// DNS over TLS.
    Tls,
    /// DNS over HTTPS.
    Https,
}

impl Transport {
    pub(crate) fn is_encrypted(self) -> bool {
        matches!(self, Transport::Tls | Transport::Https)
    }

    /// Its name in metrics and logs.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Https => "https",
        }
    }
}

/// A reply under construction.
#[derive(Debug)]
pub(crate) struct Reply<'b> {
    buf: &'b mut [u8],
    state: State,
}

#[derive(Clone, Copy, Debug)]
struct State {
    len: usize,
    /// Records end before this offset; after it there is room for the OPT record and a cookie.
    limit: usize,
    /// The length of the buffer, as far as the client accepts it.
    room: usize,
    questions: u16,
    /// Records in each section.
    counts: [u16; 3],
    flags: u16,
    /// The DO bit to send back, if the query had an OPT record.
    edns: Option<bool>,
    transport: Transport,
}

/// A reply that was copied out of its buffer, to be continued later.
#[derive(Debug)]
pub(crate) struct Detached {
    bytes: Vec<u8>,
    state: State,
}

/// A compression pointer to the name at an offset.
pub(crate) fn pointer(at: usize) -> [u8; 2] {
    debug_assert!(at < 0x4000, "a pointer has 14 bits");
    (0xc000 | at as u16).to_be_bytes()
}

impl<'b> Reply<'b> {
    /// An empty reply to the query in `buf`. `flags` are header bits besides QR and RD.
    #[inline]
    pub(crate) fn to(
        buf: &'b mut [u8],
        query: &Query,
        transport: Transport,
        flags: u16,
    ) -> Reply<'b> {
        let limit = match transport {
            Transport::Udp => query.udp_limit(),
            Transport::Tcp | Transport::Tls | Transport::Https => TCP_LIMIT,
        };
        let opt = query.edns.map_or(0, |edns| match edns.cookie {
            None => OPT_LEN,
            Some(_) => OPT_LEN + COOKIE_LEN,
        });
        let state = State {
            len: query.question_end,
            limit: limit.min(buf.len()) - opt,
            room: limit.min(buf.len()),
            questions: 1,
            counts: [0; 3],
            flags: flag::QR | flags | query.flags & flag::RD,
            edns: query.edns.map(|edns| edns.dnssec_ok),
            transport,
        };
        Reply { buf, state }
    }

    /// A reply without a question to a packet that could not be parsed: a header, and an OPT record
    /// if the packet had one.
    pub(crate) fn header_only(buf: &'b mut [u8], query: &Query) -> Reply<'b> {
        let state = State {
            len: HEADER_LEN,
            limit: HEADER_LEN,
            room: HEADER_LEN + OPT_LEN,
            questions: 0,
            counts: [0; 3],
            flags: flag::QR | query.flags & (flag::OPCODE | flag::RD),
            edns: query.edns.map(|edns| edns.dnssec_ok),
            transport: Transport::Udp,
        };
        Reply { buf, state }
    }

    /// Adds header bits.
    #[inline]
    pub(crate) fn set(&mut self, flags: u16) {
        self.state.flags |= flags;
    }

    /// Takes header bits away.
    pub(crate) fn clear(&mut self, flags: u16) {
        self.state.flags &= !flags;
    }

    /// The offset of the next record.
    pub(crate) fn at(&self) -> usize {
        self.state.len
    }

    /// Whether an answer had to be left out.
    pub(crate) fn is_truncated(&self) -> bool {
        self.state.flags & flag::TC != 0
    }

    pub(crate) fn count(&self, section: Section) -> u16 {
        self.state.counts[section as usize]
    }

    /// Appends one record. False if it does not fit; then nothing is appended.
    pub(crate) fn record(
        &mut self,
        section: Section,
        owner: &[&[u8]],
        rtype: Type,
        ttl: u32,
        rdata: &[&[u8]],
    ) -> bool {
        let owner_len: usize = owner.iter().map(|part| part.len()).sum();
        let rdata_len: usize = rdata.iter().map(|part| part.len()).sum();
        if !self.has_room(section, owner_len + 10 + rdata_len) {
            return false;
        }
        for part in owner {
            self.write(part);
        }
        self.write(&fixed_fields(rtype, ttl, rdata_len));
        for part in rdata {
            self.write(part);
        }
        self.state.counts[section as usize] += 1;
        true
    }

    /// Appends one record that is complete already.
    #[inline]
    pub(crate) fn whole(&mut self, section: Section, record: &[u8]) -> bool {
        let fits = self.has_room(section, record.len());
        if fits {
            self.write(record);
            self.state.counts[section as usize] += 1;
        }
        fits
    }

    /// Appends the records of all sections, which are complete and in order, if there is room for
    /// them. The reply must have no records yet.
    #[inline]
    pub(crate) fn all(&mut self, records: &[u8], counts: [u16; 3]) -> bool {
        debug_assert_eq!(self.state.counts, [0; 3]);
        let fits = self.state.limit - self.state.len >= records.len();
        if fits {
            self.write(records);
            self.state.counts = counts;
        }
        fits
    }

    /// The octets of the reply from an offset up to its end.
    #[inline]
    pub(crate) fn since(&mut self, at: usize) -> &mut [u8] {
        &mut self.buf[at..self.state.len]
    }

    /// Appends compiled answers of `stride` octets each, rotated so that the `turn`th is the first.
    /// Their owner is the name at the offset `owner`.
    #[inline]
    pub(crate) fn addresses(&mut self, records: &[u8], stride: usize, turn: usize, owner: u16) {
        let begun = self.state.len;
        let split = turn % (records.len() / stride).max(1) * stride;
        let (later, first) = records.split_at(split);
        for part in [first, later] {
            let room = (self.state.limit - self.state.len) / stride;
            let count = room.min(part.len() / stride);
            self.write(&part[..count * stride]);
            self.state.counts[0] += count as u16;
            if count * stride < part.len() {
                self.truncate();
                break;
            }
        }
        if owner != QUESTION_AT {
            for record in self.buf[begun..self.state.len].chunks_exact_mut(stride) {
                record[..2].copy_from_slice(&pointer(usize::from(owner)));
            }
        }
    }

    /// Completes the reply and returns its length.
    #[inline]
    pub(crate) fn finish(mut self, rcode: Rcode) -> usize {
        let [answers, authority, mut additional] = self.state.counts;
        if let Some(dnssec_ok) = self.state.edns {
            additional += 1;
            let opt = opt_record(rcode, dnssec_ok);
            self.write(&opt);
        }
        let flags = self.state.flags | rcode.0 & flag::RCODE;
        let words = [flags, self.state.questions, answers, authority, additional];
        for (at, word) in words.into_iter().enumerate() {
            self.buf[2 + 2 * at..4 + 2 * at].copy_from_slice(&word.to_be_bytes());
        }
        self.state.len
    }

    pub(crate) fn detach(self) -> Detached {
        Detached { bytes: self.buf[..self.state.len].to_vec(), state: self.state }
    }

    #[inline]
    fn has_room(&mut self, section: Section, len: usize) -> bool {
        let fits = self.state.limit - self.state.len >= len;
        if !fits && section == Section::Answer {
            self.truncate();
        }
        fits
    }

    /// Marks the reply as incomplete over UDP. Over TCP a client cannot get more by asking again,
    /// so TC would only make it loop.
    pub(crate) fn truncate(&mut self) {
        if self.state.transport == Transport::Udp {
            self.state.flags |= flag::TC;
        }
    }

    /// The caller has checked that there is room.
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let end = self.state.len + bytes.len();
        self.buf[self.state.len..end].copy_from_slice(bytes);
        self.state.len = end;
    }
}

impl Detached {
    /// The reply again, in a buffer of the largest size that it may reach.
    pub(crate) fn attach(&mut self) -> Reply<'_> {
        self.bytes.resize(self.state.room, 0);
        Reply { buf: &mut self.bytes, state: self.state }
    }

    /// The buffer of [`Detached::attach`].
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Type, class IN, TTL and RDLENGTH.
pub(crate) fn fixed_fields(rtype: Type, ttl: u32, rdata_len: usize) -> [u8; 10] {
    let [t0, t1] = rtype.0.to_be_bytes();
    let [c0, c1] = Class::IN.0.to_be_bytes();
    let [a, b, c, d] = ttl.to_be_bytes();
    let [l0, l1] = (rdata_len as u16).to_be_bytes();
    [t0, t1, c0, c1, a, b, c, d, l0, l1]
}

/// Our OPT record: version 0, the code's upper bits, the DO bit of the query (RFC 6891 section
/// 6.1.3, RFC 3225), no options.
pub(crate) fn opt_record(rcode: Rcode, dnssec_ok: bool) -> [u8; OPT_LEN] {
    let [t0, t1] = Type::OPT.0.to_be_bytes();
    let [s0, s1] = (UDP_EDNS_LIMIT as u16).to_be_bytes();
    let high = (rcode.0 >> 4) as u8;
    [0, t0, t1, s0, s1, high, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]
}
