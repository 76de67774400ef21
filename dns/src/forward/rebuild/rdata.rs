//! The RDATA of a record, by its type.
//!
//! Names in it are compressed only in the types of RFC 1035; in the others that old senders may
//! have compressed (RFC 3597 section 4) they are written out. All other types are copied.

use crate::wire::Type;
use crate::wire::record::Record;

use super::encoder::Encoder;

/// A part of RDATA.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    /// So many octets.
    Octets(usize),
    /// A name that may be compressed again.
    Name,
    /// A name that is written out.
    WholeName,
    /// A length octet and so many octets (a character-string of RFC 1035 section 3.3).
    Text,
    /// At least one text, up to the end.
    Texts,
    /// Anything, up to the end.
    Rest,
}

/// The parts of a type's RDATA.
fn parts(rtype: Type) -> &'static [Part] {
    use Part::{Name, Octets, Rest, Text, Texts, WholeName};
    match rtype.0 {
        1 => &[Octets(4)],
        // NS, MD, MF, CNAME, MB, MG, MR, PTR
        2..=5 | 7..=9 | 12 => &[Name],
        6 => &[Name, Name, Octets(20)],
        13 => &[Text, Text],
        // MINFO
        14 => &[Name, Name],
        15 => &[Octets(2), Name],
        // TXT, SPF
        16 | 99 => &[Texts],
        // RP
        17 => &[WholeName, WholeName],
        // AFSDB, RT, KX
        18 | 21 | 36 => &[Octets(2), WholeName],
        // PX
        26 => &[Octets(2), WholeName, WholeName],
        28 => &[Octets(16)],
        33 => &[Octets(6), WholeName],
        // NAPTR
        35 => &[Octets(4), Text, Text, Text, WholeName],
        39 => &[WholeName],
        _ => &[Rest],
    }
}

/// Writes the RDATA of a record of another message. `compress` allows to compress names. `None`
/// if it is malformed.
pub(super) fn encode(
    encoder: &mut Encoder,
    message: &[u8],
    record: &Record,
    compress: bool,
) -> Option<()> {
    // A part must not extend beyond its record.
    let bounded = &message[..record.end];
    let mut at = record.rdata_start;
    for part in parts(record.rtype) {
        let end = match part {
            Part::Octets(len) => at + len,
            Part::Name | Part::WholeName => {
                at = encoder.read_name(bounded, at)?;
                encoder.write_name(compress && *part == Part::Name);
                continue;
            }
            Part::Text => at + 1 + usize::from(*bounded.get(at)?),
            Part::Texts => texts_end(bounded, at)?,
            Part::Rest => bounded.len(),
        };
        encoder.bytes(bounded.get(at..end)?);
        at = end;
    }
    (at == bounded.len()).then_some(())
}

fn texts_end(bounded: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += 1 + usize::from(*bounded.get(at)?);
        if at >= bounded.len() {
            return Some(at);
        }
    }
}
