//! Messages in protobuf: bytes → fields, and texts among them as JSON.
//!
//! Pure. Just what reviews need. Fields that nobody asks for are passed over.

use serde_json::{Map, Value};

/// What a body in Kubernetes' protobuf begins with.
pub(crate) const MAGIC: &[u8] = b"k8s\0";

/// The last field of that number, empty if there is none.
pub(super) fn message(bytes: &[u8], number: u64) -> Option<&[u8]> {
    let found = fields(bytes)?.into_iter().rev().find(|(n, _)| *n == number);
    Some(found.map_or(&[], |(_, bytes)| bytes))
}

/// The texts of a message, by the numbers and names of their fields.
pub(super) fn texts(bytes: &[u8], known: &[(u64, &str)]) -> Option<Value> {
    let mut object = Map::new();
    for (number, bytes) in fields(bytes)? {
        let name = known.iter().find(|(n, _)| *n == number);
        let Some((_, name)) = name.filter(|_| !bytes.is_empty()) else { continue };
        object.insert((*name).to_owned(), std::str::from_utf8(bytes).ok()?.into());
    }
    Some(object.into())
}

/// The fields of a message that have a length, with their numbers. Others are passed over.
pub(super) fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    const VARINT: u64 = 0;
    const EIGHT_BYTES: u64 = 1;
    const LENGTH_DELIMITED: u64 = 2;
    const FOUR_BYTES: u64 = 5;
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let skip = match tag & 7 {
            VARINT => {
                varint(&mut bytes)?;
                continue;
            }
            EIGHT_BYTES => 8,
            FOUR_BYTES => 4,
            LENGTH_DELIMITED => usize::try_from(varint(&mut bytes)?).ok()?,
            _ => return None,
        };
        let (field, rest) = bytes.split_at_checked(skip)?;
        if tag & 7 == LENGTH_DELIMITED {
            found.push((tag >> 3, field));
        }
        bytes = rest;
    }
    Some(found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    /// Ten bytes have 64 bits.
    const LONGEST: usize = 10;
    let mut number = 0;
    for shift in (0..).step_by(7).take(LONGEST) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let raw = message(&bytes, 2);
            let _ = raw.and_then(|raw| texts(raw, &[(1, "a"), (2, "b")]));
        }
    }

    #[test]
    fn a_field_that_ends_early_is_no_message() {
        for bytes in [
            &b"\x0a"[..],
            b"\x0a\x05ab",
            b"\x09\0\0",
            b"\xff",
            b"\x0b",
            b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        ] {
            assert_eq!(fields(bytes), None, "{bytes:?}");
        }
        assert_eq!(fields(b"\x12\x01a\x10\x07"), Some(vec![(2, &b"a"[..])]));
    }
}
