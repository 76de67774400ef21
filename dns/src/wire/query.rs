//! Parses a query: the question, its EDNS, and the reason why a packet is not a query.

use super::name::{self, Name};
use super::numbers::{Class, HEADER_LEN, Type, UDP_EDNS_LIMIT, UDP_PLAIN_LIMIT, flag, u16_at};
use super::options::{self, Cookie};
use super::record::Records;

/// The root as owner, then the type.
const OPT_START: [u8; 3] = [0, 0, Type::OPT.0 as u8];

/// A parsed query. Each data thread has one, which every query overwrites.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) name: Name,
    pub(crate) qtype: Type,
    pub(crate) qclass: Class,
    /// The second word of the header.
    pub(crate) flags: u16,
    /// The offset after the question; the packet keeps the client's letter case there.
    pub(crate) question_end: usize,
    pub(crate) edns: Option<Edns>,
}

/// The content of a query's OPT record (RFC 6891 section 6.1). Options that are not named here are
/// ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edns {
    pub(crate) udp_size: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
    /// RFC 7873.
    pub(crate) cookie: Option<Cookie>,
    /// The query is padded, so its reply should be (RFC 7830).
    pub(crate) is_padded: bool,
}

/// Why a packet cannot be answered as a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// No header, or a response. A reply could make two servers answer each other forever.
    Silent,
    /// An opcode other than QUERY: NOTIMP.
    Opcode,
    /// FORMERR.
    Format,
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
    /// After an error other than [`Bad::Silent`], only `flags` and `edns` are set: a reply to a
    /// query with an OPT record has one too, whatever else is wrong (RFC 6891 section 6.1.1).
    #[inline]
    pub(crate) fn parse(&mut self, packet: &[u8]) -> Result<(), Bad> {
        let Some(header) = packet.first_chunk::<HEADER_LEN>() else { return Err(Bad::Silent) };
        self.flags = u16::from_be_bytes([header[2], header[3]]);
        if self.flags & flag::QR != 0 {
            return Err(Bad::Silent);
        }
        self.edns = None;
        let parsed = match self.flags & flag::OPCODE {
            0 => self.read(packet, header).ok_or(Bad::Format),
            _ => Err(Bad::Opcode),
        };
        if parsed.is_err() {
            self.edns = find_edns(packet);
        }
        parsed
    }

    #[inline]
    fn read(&mut self, packet: &[u8], header: &[u8; HEADER_LEN]) -> Option<()> {
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let [questions, answers, authority, additional] = [word(4), word(6), word(8), word(10)];
        if questions != 1 || answers != 0 {
            return None;
        }
        let name_end = self.name.read(packet, HEADER_LEN)?;
        self.qtype = Type(u16_at(packet, name_end)?);
        self.qclass = Class(u16_at(packet, name_end + 2)?);
        self.question_end = name_end + 4;
        // Only an IXFR has a reason for a record in its authority section (RFC 1995 section 3).
        if authority != 0 && self.qtype != Type::IXFR {
            return None;
        }
        if authority | additional != 0 {
            self.read_edns(packet, usize::from(authority) + usize::from(additional))?;
        }
        Some(())
    }

    fn read_edns(&mut self, packet: &[u8], records: usize) -> Option<()> {
        let mut records = Records::new(packet, self.question_end, records);
        while let Some(record) = records.next() {
            let record = record?;
            if record.rtype != Type::OPT {
                continue;
            }
            let at_root = packet[record.start] == 0;
            if self.edns.is_some() || !at_root {
                return None;
            }
            let mut edns = Edns::of(record.class, record.ttl);
            edns.read_options(record.rdata(packet))?;
            self.edns = Some(edns);
        }
        Some(())
    }

    /// The largest reply over UDP that the client accepts and we send.
    #[inline]
    pub(crate) fn udp_limit(&self) -> usize {
        self.edns.map_or(UDP_PLAIN_LIMIT, |edns| {
            usize::from(edns.udp_size).clamp(UDP_PLAIN_LIMIT, UDP_EDNS_LIMIT)
        })
    }
}

impl Edns {
    /// From the class and TTL fields of an OPT record.
    fn of(class: Class, ttl: u32) -> Edns {
        let [_, version, flags_high, _] = ttl.to_be_bytes();
        Edns { udp_size: class.0, version, dnssec_ok: flags_high & 0x80 != 0, ..Edns::default() }
    }

    /// Reads the options. `None` if they are not a sequence of whole options (RFC 6891 section
    /// 6.1.2), or if a cookie has an impossible length (RFC 7873 section 5.2.2).
    fn read_options(&mut self, mut rdata: &[u8]) -> Option<()> {
        while !rdata.is_empty() {
            let (code, len) = (u16_at(rdata, 0)?, usize::from(u16_at(rdata, 2)?));
            let data = rdata.get(4..4 + len)?;
            match code {
                options::COOKIE => self.cookie = Some(Cookie::read(data)?),
                options::PADDING => self.is_padded = true,
                _ => {}
            }
            rdata = &rdata[4 + len..];
        }
        Some(())
    }
}

/// The OPT record of a packet that is not a proper query, if one can be found. One that is itself
/// malformed counts: its sender supports EDNS.
#[cold]
fn find_edns(packet: &[u8]) -> Option<Edns> {
    let count = |at: usize| u16_at(packet, at).map_or(0, usize::from);
    let mut at = HEADER_LEN;
    for _ in 0..count(4) {
        at = name::skip(packet, at)? + 4;
    }
    let mut records = Records::new(packet, at, count(6) + count(8) + count(10));
    while let Some(record) = records.next() {
        match record {
            Some(record) if record.rtype == Type::OPT => {
                return Some(Edns::of(record.class, record.ttl));
            }
            Some(_) => {}
            // It does not fit into the packet, but its beginning shows that it is an OPT record.
            None => {
                let is_opt = packet.get(records.at()..).is_some_and(|r| r.starts_with(&OPT_START));
                return is_opt.then(|| Edns::of(Class(0), 0));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [u8; 12] = [0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    const QUESTION: &[u8] = b"\x01A\x02bC\x00\x00\x1c\x00\x01";
    const RECORD: &[u8] = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x00\x00\x01";
    const OPT: &[u8] = b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00";

    /// A packet with some octets of the header replaced.
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
        let edns = Edns { udp_size: 1232, dnssec_ok: true, ..Edns::default() };
        assert_eq!(query.edns, Some(edns));
        query.parse(&packet(&[], &[QUESTION])).unwrap();
        assert_eq!(query.edns, None);
    }

    #[test]
    fn options_are_read() {
        let check = |options: &[u8], expected: Option<(Option<Cookie>, bool)>| {
            let opt = [&OPT[..9], &[0, options.len() as u8], options].concat();
            let mut query = Query::new();
            let parsed = query.parse(&packet(&[(11, 1)], &[QUESTION, &opt]));
            let edns = query.edns.filter(|_| parsed.is_ok());
            assert_eq!(edns.map(|edns| (edns.cookie, edns.is_padded)), expected, "{options:?}");
        };
        let client = *b"12345678";
        check(b"", Some((None, false)));
        check(b"\x00\x0c\x00\x02\x00\x00", Some((None, true)));
        let cookie = |server| Some(Cookie { client, server });
        check(b"\x00\x0a\x00\x0812345678", Some((cookie(None), false)));
        let both = b"\x00\x0a\x00\x1812345678abcdefghijklmnop";
        check(both, Some((cookie(Some(*b"abcdefghijklmnop")), false)));
        // Another server's cookie may have another length.
        check(b"\x00\x0a\x00\x1012345678abcdefgh", Some((cookie(None), false)));
        check(b"\x00\x0a\x00\x071234567", None);
        check(b"\x00\x0a\x00\x0f12345678abcdefg", None);
        check(b"\x00\x0a\x00\x0912345678", None);
    }

    #[test]
    fn packets_that_are_not_queries() {
        let format = (Bad::Format, false);
        let with_opt = (Bad::Format, true);
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
        let check = |what: &str, packet: &[u8], expected: Result<(), (Bad, bool)>| {
            let mut query = Query::new();
            let parsed = query.parse(packet).map_err(|bad| (bad, query.edns.is_some()));
            assert_eq!(parsed, expected, "{what}");
        };
        let silent = (Bad::Silent, false);
        check("nothing", b"", Err(silent));
        check("eleven octets", &HEADER[..11], Err(silent));
        check("a response", &packet(&[(2, 0x81)], &[QUESTION]), Err(silent));
        check("NOTIFY", &packet(&[(2, 0x20)], &[QUESTION]), Err((Bad::Opcode, false)));
        let notify = packet(&[(2, 0x20), (11, 1)], &[QUESTION, OPT]);
        check("NOTIFY with OPT", &notify, Err((Bad::Opcode, true)));
        let update = packet(&[(2, 0x28), (9, 1), (11, 1)], &[QUESTION, RECORD, OPT]);
        check("UPDATE with OPT", &update, Err((Bad::Opcode, true)));
        check("no question, OPT", &packet(&[(5, 0), (11, 1)], &[OPT]), Err(with_opt));
        let two = packet(&[(5, 2), (11, 1)], &[QUESTION, QUESTION, OPT]);
        check("two questions and OPT", &two, Err(with_opt));
        let answer = packet(&[(7, 1), (11, 1)], &[QUESTION, RECORD, OPT]);
        check("an answer and OPT", &answer, Err(with_opt));
        check("a missing answer, OPT", &packet(&[(7, 1)], &[QUESTION, OPT]), Err(with_opt));
        let authority = packet(&[(9, 1), (11, 1)], &[QUESTION, RECORD, OPT]);
        check("an authority and OPT", &authority, Err(with_opt));
        let junk = packet(&[(11, 3)], &[QUESTION, OPT, RECORD]);
        check("OPT and a missing record", &junk, Err(with_opt));
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
        check("two OPT", &packet(&[(11, 2)], &[QUESTION, OPT, OPT]), Err(with_opt));
        check("junk after OPT", &packet(&[(11, 2)], &[QUESTION, OPT, b"\x05"]), Err(with_opt));
        check("OPT of a name", &packet(&[(11, 1)], &[QUESTION, owned_opt]), Err(with_opt));
        check("OPT with a cut option", &packet(&[(11, 1)], &[QUESTION, cut_option]), Err(with_opt));
        check(
            "OPT longer than the packet",
            &packet(&[(11, 1)], &[QUESTION, long_opt]),
            Err(with_opt),
        );
        let ixfr = b"\x01a\x00\x00\xfb\x00\x01";
        let soa = b"\xc0\x0c\x00\x06\x00\x01\x00\x00\x00\x00\x00\x00";
        check("IXFR", &packet(&[(9, 1)], &[ixfr, soa]), Ok(()));
    }

    #[test]
    fn udp_limits() {
        let mut query = Query::new();
        let mut check = |size: Option<u16>, expected: usize| {
            query.edns = size.map(|udp_size| Edns { udp_size, ..Edns::default() });
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
