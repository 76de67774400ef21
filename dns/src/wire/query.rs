//! Reading a query: what is asked, with which EDNS, and which packets are no query at all.

use super::record::Records;
use super::{Class, HEADER_LEN, Name, Type, UDP_EDNS_LIMIT, UDP_PLAIN_LIMIT, flag, u16_at};

/// The root as owner, then the type.
const OPT_START: [u8; 3] = [0, 0, Type::OPT.0 as u8];

/// A query as it was parsed. One is kept a worker and overwritten by each query.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) name: Name,
    pub(crate) qtype: Type,
    pub(crate) qclass: Class,
    /// The second word of its header.
    pub(crate) flags: u16,
    /// The offset behind the question; the question keeps the client's case there.
    pub(crate) question_end: usize,
    pub(crate) edns: Option<Edns>,
}

/// What a query's OPT record says (RFC 6891 section 6.1). Options are not read: none is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) udp_size: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
}

/// Why a packet is not answered as a query, and so what it gets instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Not to be answered: no header, or a response, which could make two servers talk for ever.
    Silent,
    /// An opcode other than QUERY: NOTIMP.
    Opcode,
    /// FORMERR, with an OPT record if the packet has one.
    Format { edns: bool },
}

impl Query {
    pub(crate) fn new() -> Query {
        Query {
            name: Name::root(),
            qtype: Type::A,
            qclass: Class::IN,
            flags: 0,
            question_end: HEADER_LEN,
            edns: None,
        }
    }

    /// Parses a packet into this query.
    ///
    /// # Errors
    ///
    /// After [`Bad`] only `flags` is meaningful.
    #[inline]
    pub(crate) fn parse(&mut self, packet: &[u8]) -> Result<(), Bad> {
        let Some(header) = packet.first_chunk::<HEADER_LEN>() else { return Err(Bad::Silent) };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        self.flags = word(2);
        if self.flags & flag::QR != 0 {
            return Err(Bad::Silent);
        }
        if self.flags & flag::OPCODE != 0 {
            return Err(Bad::Opcode);
        }
        let format = Bad::Format { edns: false };
        let [questions, answers, authority, additional] = [word(4), word(6), word(8), word(10)];
        if questions != 1 || answers != 0 {
            return Err(format);
        }
        let name_end = self.name.read(packet, HEADER_LEN).ok_or(format)?;
        self.qtype = Type(u16_at(packet, name_end).ok_or(format)?);
        self.qclass = Class(u16_at(packet, name_end + 2).ok_or(format)?);
        self.question_end = name_end + 4;
        // Only an IXFR has a reason for a record in its authority section (RFC 1995 section 3).
        if authority != 0 && self.qtype != Type::IXFR {
            return Err(format);
        }
        self.edns = None;
        if authority | additional != 0 {
            self.read_edns(packet, authority, additional)?;
        }
        Ok(())
    }

    fn read_edns(&mut self, packet: &[u8], authority: u16, additional: u16) -> Result<(), Bad> {
        let count = usize::from(authority) + usize::from(additional);
        let mut records = Records::new(packet, self.question_end, count);
        while let Some(record) = records.next() {
            // A record that does not even fit may still show that it was meant as an OPT.
            let opt = packet.get(records.at()..).is_some_and(|r| r.starts_with(&OPT_START));
            let record = record.ok_or(Bad::Format { edns: opt || self.edns.is_some() })?;
            if record.rtype != Type::OPT {
                continue;
            }
            let bad = Bad::Format { edns: true };
            let at_root = packet[record.start] == 0;
            if self.edns.is_some() || !at_root || !are_options(record.rdata(packet)) {
                return Err(bad);
            }
            let [_, version, flags_high, _] = record.ttl.to_be_bytes();
            self.edns =
                Some(Edns { udp_size: record.class.0, version, dnssec_ok: flags_high & 0x80 != 0 });
        }
        Ok(())
    }

    /// How long a reply over UDP may be.
    #[inline]
    pub(crate) fn udp_limit(&self) -> usize {
        self.edns.map_or(UDP_PLAIN_LIMIT, |edns| {
            usize::from(edns.udp_size).clamp(UDP_PLAIN_LIMIT, UDP_EDNS_LIMIT)
        })
    }
}

/// Whether an OPT record's RDATA is a run of whole options (RFC 6891 section 6.1.2).
fn are_options(mut rdata: &[u8]) -> bool {
    while !rdata.is_empty() {
        let Some(len) = u16_at(rdata, 2) else { return false };
        let Some(rest) = rdata.get(4 + usize::from(len)..) else { return false };
        rdata = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [u8; 12] = [0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    const QUESTION: &[u8] = b"\x01A\x02bC\x00\x00\x1c\x00\x01";
    const OPT: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";

    /// A packet with the header's octets replaced as told.
    fn packet(set: &[(usize, u8)], parts: &[&[u8]]) -> Vec<u8> {
        let mut header = HEADER;
        for (at, octet) in set {
            header[*at] = *octet;
        }
        [&header[..], &parts.concat()].concat()
    }

    #[test]
    fn a_query_is_read() {
        let mut query = Query::new();
        query.parse(&packet(&[(11, 1)], &[QUESTION, OPT])).unwrap();
        assert_eq!(query.name, Name::from_text("a.bc").unwrap());
        assert_eq!((query.qtype, query.qclass), (Type::AAAA, Class::IN));
        assert_eq!(query.question_end, 12 + QUESTION.len());
        let edns = Edns { udp_size: 1232, version: 0, dnssec_ok: true };
        assert_eq!(query.edns, Some(edns));
        query.parse(&packet(&[], &[QUESTION])).unwrap();
        assert_eq!(query.edns, None);
    }

    #[test]
    fn what_is_no_query() {
        let format = Bad::Format { edns: false };
        let after_opt = Bad::Format { edns: true };
        let label64 = [&[64][..], &[b'a'; 64], b"\0\0\x01\0\x01"].concat();
        let name256 =
            [&[&[63][..], &[b'a'; 63]].concat().repeat(4)[..], b"\0\0\x01\0\x01"].concat();
        let name255 = [
            &[&[63][..], &[b'a'; 63]].concat().repeat(3)[..],
            &[61],
            &[b'a'; 61],
            b"\0\0\x01\0\x01",
        ]
        .concat();
        let cut_option = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x05\x00\x0a\x00\x08\x01";
        let owned_opt = b"\x01a\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
        let long_opt = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x09";
        let check = |what: &str, packet: &[u8], expected: Result<(), Bad>| {
            assert_eq!(Query::new().parse(packet), expected, "{what}");
        };
        check("nothing", b"", Err(Bad::Silent));
        check("eleven octets", &HEADER[..11], Err(Bad::Silent));
        check("a response", &packet(&[(2, 0x81)], &[QUESTION]), Err(Bad::Silent));
        check("NOTIFY", &packet(&[(2, 0x20)], &[QUESTION]), Err(Bad::Opcode));
        check("no question", &packet(&[(5, 0)], &[]), Err(format));
        check("two questions", &packet(&[(5, 2)], &[QUESTION, QUESTION]), Err(format));
        check("a header alone", &HEADER, Err(format));
        check("an answer", &packet(&[(7, 1)], &[QUESTION]), Err(format));
        check("an authority", &packet(&[(9, 1)], &[QUESTION]), Err(format));
        check("a cut question", &packet(&[], &[&QUESTION[..8]]), Err(format));
        check("a label of 64", &packet(&[], &[&label64]), Err(format));
        check("a name of 256", &packet(&[], &[&name256]), Err(format));
        check("a name of 255", &packet(&[], &[&name255]), Ok(()));
        check("a pointer to itself", &packet(&[], &[b"\xc0\x0c\0\x01\0\x01"]), Err(format));
        check("no record", &packet(&[(11, 1)], &[QUESTION]), Err(format));
        check("two OPT", &packet(&[(11, 2)], &[QUESTION, OPT, OPT]), Err(after_opt));
        check("junk after OPT", &packet(&[(11, 2)], &[QUESTION, OPT, b"\x05"]), Err(after_opt));
        check("OPT of a name", &packet(&[(11, 1)], &[QUESTION, owned_opt]), Err(after_opt));
        check(
            "OPT with a cut option",
            &packet(&[(11, 1)], &[QUESTION, cut_option]),
            Err(after_opt),
        );
        check(
            "OPT longer than the packet",
            &packet(&[(11, 1)], &[QUESTION, long_opt]),
            Err(after_opt),
        );
        let ixfr = b"\x01a\x00\x00\xfb\x00\x01";
        let soa = b"\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x00\x00\x00";
        check("IXFR", &packet(&[(9, 1)], &[ixfr, soa]), Ok(()));
    }

    #[test]
    fn udp_limits() {
        let mut query = Query::new();
        let mut check = |size: Option<u16>, expected: usize| {
            query.edns = size.map(|udp_size| Edns { udp_size, version: 0, dnssec_ok: false });
            assert_eq!(query.udp_limit(), expected, "{size:?}");
        };
        check(None, 512);
        check(Some(0), 512);
        check(Some(511), 512);
        check(Some(700), 700);
        check(Some(1232), 1232);
        check(Some(65535), 1232);
    }
}
