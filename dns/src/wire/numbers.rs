//! The numbers of the protocol: sizes, header bits, types, classes and response codes.

pub(crate) const HEADER_LEN: usize = 12;
/// RFC 1035 section 4.2.1: the size that every client accepts over UDP.
pub(crate) const UDP_PLAIN_LIMIT: usize = 512;
/// The size of DNS flag day 2020: it fits every IPv6 path (1,280 octets) without fragments.
pub(crate) const UDP_EDNS_LIMIT: usize = 1232;
/// The longest message over TCP, whose length prefix has two octets.
pub(crate) const TCP_LIMIT: usize = 65_535;
/// An OPT record without options: root, type, class, TTL, RDLENGTH.
pub(crate) const OPT_LEN: usize = 11;
/// The offset of the question's name in every message.
pub(crate) const QUESTION_AT: u16 = HEADER_LEN as u16;

/// Header bits, in the second 16-bit word (RFC 1035 section 4.1.1, RFC 4035 section 3).
pub(crate) mod flag {
    pub(crate) const QR: u16 = 0x8000;
    pub(crate) const AA: u16 = 0x0400;
    pub(crate) const TC: u16 = 0x0200;
    pub(crate) const RD: u16 = 0x0100;
    pub(crate) const RA: u16 = 0x0080;
    pub(crate) const AD: u16 = 0x0020;
    pub(crate) const CD: u16 = 0x0010;
    pub(crate) const OPCODE: u16 = 0x7800;
    pub(crate) const RCODE: u16 = 0x000f;
}

/// A record type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Type(pub(crate) u16);

impl Type {
    pub(crate) const A: Type = Type(1);
    pub(crate) const NS: Type = Type(2);
    pub(crate) const CNAME: Type = Type(5);
    pub(crate) const SOA: Type = Type(6);
    pub(crate) const PTR: Type = Type(12);
    pub(crate) const HINFO: Type = Type(13);
    pub(crate) const MX: Type = Type(15);
    pub(crate) const TXT: Type = Type(16);
    pub(crate) const AAAA: Type = Type(28);
    pub(crate) const SRV: Type = Type(33);
    pub(crate) const DNAME: Type = Type(39);
    pub(crate) const OPT: Type = Type(41);
    pub(crate) const DS: Type = Type(43);
    pub(crate) const RRSIG: Type = Type(46);
    pub(crate) const NSEC: Type = Type(47);
    pub(crate) const NSEC3: Type = Type(50);
    pub(crate) const HTTPS: Type = Type(65);
    pub(crate) const IXFR: Type = Type(251);
    pub(crate) const AXFR: Type = Type(252);
    pub(crate) const ANY: Type = Type(255);
}

impl std::fmt::Display for Type {
    /// The usual name, or that of RFC 3597.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", hickory_proto::rr::RecordType::from(self.0))
    }
}

/// A class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class(pub(crate) u16);

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Class::IN => f.write_str("IN"),
            Class::CH => f.write_str("CH"),
            Class(number) => write!(f, "CLASS{number}"),
        }
    }
}

impl Class {
    pub(crate) const IN: Class = Class(1);
    pub(crate) const CH: Class = Class(3);
}

/// A response code: four bits of the header, and above them eight bits of the OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rcode(pub(crate) u16);

impl Rcode {
    pub(crate) const NOERROR: Rcode = Rcode(0);
    pub(crate) const FORMERR: Rcode = Rcode(1);
    pub(crate) const SERVFAIL: Rcode = Rcode(2);
    pub(crate) const NXDOMAIN: Rcode = Rcode(3);
    pub(crate) const NOTIMP: Rcode = Rcode(4);
    pub(crate) const REFUSED: Rcode = Rcode(5);
    pub(crate) const YXDOMAIN: Rcode = Rcode(6);
    pub(crate) const BADVERS: Rcode = Rcode(16);
}

impl std::fmt::Display for Rcode {
    /// The usual name, or the number (RFC 6895 section 2.3).
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match *self {
            Rcode::NOERROR => "NOERROR",
            Rcode::FORMERR => "FORMERR",
            Rcode::SERVFAIL => "SERVFAIL",
            Rcode::NXDOMAIN => "NXDOMAIN",
            Rcode::NOTIMP => "NOTIMP",
            Rcode::REFUSED => "REFUSED",
            Rcode::BADVERS => "BADVERS",
            Rcode(number) => return write!(f, "RCODE{number}"),
        })
    }
}

/// The 16-bit number at an offset, if the bytes are long enough.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([two[0], two[1]]))
}
