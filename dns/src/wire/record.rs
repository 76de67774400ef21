//! Reads the resource records of a message from outside.

use super::name;
use super::numbers::{Class, Type};

/// The offsets of one record in its message, and its fixed fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// The beginning of its owner name.
    pub(crate) start: usize,
    pub(crate) rtype: Type,
    pub(crate) class: Class,
    pub(crate) ttl: u32,
    pub(crate) rdata_start: usize,
    /// The end of its RDATA.
    pub(crate) end: usize,
}

impl Record {
    /// Its RDATA, in which names may be compressed.
    pub(crate) fn rdata<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        &message[self.rdata_start..self.end]
    }
}

/// An iterator over the records of a message.
#[derive(Debug)]
pub(crate) struct Records<'m> {
    message: &'m [u8],
    at: usize,
    left: usize,
}

impl<'m> Records<'m> {
    /// `count` records, the first of which begins at `at`.
    pub(crate) fn new(message: &'m [u8], at: usize, count: usize) -> Records<'m> {
        Records { message, at, left: count }
    }

    /// The offset of the next record.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The next record; `Some(None)` once, at the end, if the bytes are not a record.
    pub(crate) fn next(&mut self) -> Option<Option<Record>> {
        self.left = self.left.checked_sub(1)?;
        let record = read(self.message, self.at);
        match &record {
            Some(record) => self.at = record.end,
            None => self.left = 0,
        }
        Some(record)
    }
}

fn read(message: &[u8], start: usize) -> Option<Record> {
    let fixed = name::skip(message, start)?;
    let &[t0, t1, c0, c1, ttl @ .., l0, l1] = message.get(fixed..)?.first_chunk::<10>()?;
    let rdata_start = fixed + 10;
    let end = rdata_start + usize::from(u16::from_be_bytes([l0, l1]));
    (end <= message.len()).then_some(Record {
        start,
        rtype: Type(u16::from_be_bytes([t0, t1])),
        class: Class(u16::from_be_bytes([c0, c1])),
        ttl: u32::from_be_bytes(ttl),
        rdata_start,
        end,
    })
}

/// Appends a record with its names uncompressed, and with the TTL that `record` has. `None` if one
/// of its names is malformed.
pub(crate) fn expand(message: &[u8], record: &Record, out: &mut Vec<u8>) -> Option<()> {
    name::expand(message, record.start, out)?;
    out.extend_from_slice(&message[record.rdata_start - 10..record.rdata_start - 6]);
    out.extend_from_slice(&record.ttl.to_be_bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0, 0]);
    expand_rdata(message, record, out)?;
    let length = u16::try_from(out.len() - length_at - 2).ok()?;
    out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    Some(())
}

/// Only the types of RFC 1035, and the few that old senders compress too, may hold compressed
/// names (RFC 3597 section 4); all others are copied as they are.
fn expand_rdata(message: &[u8], record: &Record, out: &mut Vec<u8>) -> Option<()> {
    let (before, names) = match record.rtype {
        Type::NS | Type::CNAME | Type::PTR | Type::DNAME => (0, 1),
        Type::MX => (2, 1),
        Type::SRV => (6, 1),
        Type::SOA => (0, 2),
        _ => (record.end - record.rdata_start, 0),
    };
    // A name must not extend beyond its record.
    let bounded = &message[..record.end];
    let mut at = record.rdata_start + before;
    out.extend_from_slice(bounded.get(record.rdata_start..at)?);
    for _ in 0..names {
        at = name::expand(bounded, at, out)?;
    }
    out.extend_from_slice(bounded.get(at..)?);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_walked_and_expanded() {
        let mut message = vec![0; 12];
        message.extend_from_slice(b"\x01a\x00"); // at 12
        message.extend_from_slice(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x07\x00\x04\x01b\xc0\x0c");
        message.extend_from_slice(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x07\x00\x02\xc0\x0c");
        let mut records = Records::new(&message, 15, 3);
        let mut out = Vec::new();
        for _ in 0..2 {
            let record = records.next().unwrap().unwrap();
            assert_eq!((record.ttl, record.class), (7, Class::IN));
            expand(&message, &record, &mut out).unwrap();
        }
        let cname = b"\x01a\x00\x00\x05\x00\x01\x00\x00\x00\x07\x00\x05\x01b\x01a\x00";
        let opaque = b"\x01a\x00\x00\x01\x00\x01\x00\x00\x00\x07\x00\x02\xc0\x0c";
        assert_eq!(out, [&cname[..], opaque].concat());
        assert!(records.next().unwrap().is_none(), "behind the end");
        assert!(records.next().is_none());
    }

    #[test]
    fn broken_rdata_is_refused() {
        let check = |rtype: u8, rdata: &[u8]| {
            let mut message = vec![0; 12];
            message.extend_from_slice(b"\x00\x00");
            message.extend_from_slice(&[rtype, 0, 1, 0, 0, 0, 0, 0, rdata.len() as u8]);
            message.extend_from_slice(rdata);
            // What follows must not be read as part of the record.
            message.extend_from_slice(b"\x00\x00\x00\x00");
            let record = Records::new(&message, 12, 1).next().unwrap().unwrap();
            assert!(expand(&message, &record, &mut Vec::new()).is_none(), "{rtype} {rdata:?}");
        };
        check(5, b"");
        check(5, b"\x05a");
        check(15, b"\x00");
        check(15, b"\x00\x01");
        check(6, b"\x00");
        check(33, b"\x00\x00\x00\x00\x00");
    }

    #[test]
    fn a_name_followed_by_more_is_kept_whole() {
        let mut message = vec![0; 12];
        message.extend_from_slice(b"\x00\x00\x06\x00\x01\x00\x00\x00\x00\x00\x06\x00\x00abcd");
        let record = Records::new(&message, 12, 1).next().unwrap().unwrap();
        let mut out = Vec::new();
        expand(&message, &record, &mut out).unwrap();
        assert_eq!(out, message[12..]);
    }
}
