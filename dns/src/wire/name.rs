//! Domain names in wire form, in lower case, for comparison and look-up.

use super::numbers::{HEADER_LEN, u16_at};

/// RFC 1035 section 2.3.4, with the length octets and the root.
pub(crate) const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;
/// Every label takes at least two octets, and the root one.
const MAX_LABELS: usize = (MAX_NAME - 1) / 2;
/// A pointer after each label is as many as a name can need.
const MAX_POINTERS: usize = MAX_LABELS + 1;

/// A domain name in lower case, with the offset of each label.
#[derive(Clone)]
pub(crate) struct Name {
    wire: [u8; MAX_NAME],
    len: usize,
    /// The offset of each label's length octet; after the last label, that of the root.
    starts: [u8; MAX_LABELS + 1],
    labels: usize,
}

impl Name {
    /// The root.
    pub(crate) fn root() -> Name {
        Name { wire: [0; MAX_NAME], len: 1, starts: [0; MAX_LABELS + 1], labels: 0 }
    }

    /// A name in text form, with or without a final dot; `None` if it is not a name. Escapes are
    /// not supported: names of objects do not need them.
    pub(crate) fn from_text(text: &str) -> Option<Name> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut wire = Vec::with_capacity(text.len() + 2);
        for label in text.split('.') {
            if label.is_empty() || label.len() > MAX_LABEL {
                return None;
            }
            wire.push(label.len() as u8);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        let mut name = Name::root();
        name.read(&wire, 0)?;
        Some(name)
    }

    /// Reads an uncompressed name that begins at `at`. The offset after it, or `None` if it is not
    /// a name; the content is undefined then.
    #[inline]
    pub(crate) fn read(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        let room = bytes.get(at..)?;
        let room = &room[..room.len().min(MAX_NAME)];
        let mut here = 0;
        let mut labels = 0;
        loop {
            let len = usize::from(*room.get(here)?);
            // At most 127 labels fit into 255 octets, so the index is in range.
            self.starts[labels] = here as u8;
            if len == 0 {
                break;
            }
            if len > MAX_LABEL {
                return None;
            }
            labels += 1;
            here += 1 + len;
        }
        self.len = here + 1;
        self.labels = labels;
        // Length octets are at most 63, below 'A', so they do not change.
        let wire = &mut self.wire[..self.len];
        wire.copy_from_slice(&room[..self.len]);
        wire.make_ascii_lowercase();
        Some(at + self.len)
    }

    /// The whole name in wire form, with the root.
    #[inline]
    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire[..self.len]
    }

    /// The number of labels, without the root.
    #[inline]
    pub(crate) fn labels(&self) -> usize {
        self.labels
    }

    /// A label, counted from the left, without its length.
    #[inline]
    pub(crate) fn label(&self, index: usize) -> &[u8] {
        &self.wire[self.start(index) + 1..self.start(index + 1)]
    }

    /// The offset of a label's length octet in the wire form.
    #[inline]
    pub(crate) fn start(&self, index: usize) -> usize {
        usize::from(self.starts[index])
    }

    /// The wire form from label `from` up to label `to`, without the root.
    #[inline]
    pub(crate) fn between(&self, from: usize, to: usize) -> &[u8] {
        &self.wire[self.start(from)..self.start(to)]
    }

    /// The number of labels before `ancestor`; `None` if this name is not at or below it.
    #[inline]
    pub(crate) fn labels_below(&self, ancestor: &Name) -> Option<usize> {
        let below = self.labels.checked_sub(ancestor.labels)?;
        (&self.wire[self.start(below)..self.len] == ancestor.wire()).then_some(below)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.wire() == other.wire()
    }
}

impl Eq for Name {}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.labels == 0 {
            return f.write_str(".");
        }
        for index in 0..self.labels {
            let dot = if index > 0 { "." } else { "" };
            f.write_str(dot)?;
            // A dot in a label must not look like the end of the label.
            for (number, part) in self.label(index).split(|octet| *octet == b'.').enumerate() {
                let dot = if number > 0 { "\\." } else { "" };
                write!(f, "{dot}{}", part.escape_ascii())?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// The offset after the possibly compressed name at `at`. Its pointer is not followed, but it must
/// point backwards, and not into the header, which rules out loops.
pub(crate) fn skip(bytes: &[u8], at: usize) -> Option<usize> {
    let mut here = at;
    loop {
        let len = usize::from(*bytes.get(here)?);
        match len {
            0 => return Some(here + 1),
            1..=MAX_LABEL => here += 1 + len,
            0xc0.. => {
                let target = pointer_target(bytes, here)?;
                return (target < at).then_some(here + 2);
            }
            _ => return None,
        }
        if here - at >= MAX_NAME {
            return None;
        }
    }
}

/// Writes the possibly compressed name at `at` without compression. The offset after it.
pub(crate) fn expand(bytes: &[u8], at: usize, out: &mut Vec<u8>) -> Option<usize> {
    let begun = out.len();
    let mut here = at;
    let mut behind = None;
    // Each pointer must point before everything that was read so far, so the loop ends; and it
    // ends soon, whoever wrote the message.
    let mut bound = at;
    let mut pointers = 0;
    loop {
        let len = usize::from(*bytes.get(here)?);
        match len {
            0..=MAX_LABEL => {
                out.extend_from_slice(bytes.get(here..here + 1 + len)?);
                if out.len() - begun > MAX_NAME {
                    return None;
                }
                here += 1 + len;
                if len == 0 {
                    return Some(behind.unwrap_or(here));
                }
            }
            0xc0.. => {
                let target = pointer_target(bytes, here)?;
                pointers += 1;
                if target >= bound || pointers > MAX_POINTERS {
                    return None;
                }
                behind.get_or_insert(here + 2);
                (here, bound) = (target, target);
            }
            _ => return None,
        }
    }
}

fn pointer_target(bytes: &[u8], at: usize) -> Option<usize> {
    let target = usize::from(u16_at(bytes, at)? & 0x3fff);
    (target >= HEADER_LEN).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(Name::from_text(text).map(|n| n.to_string()).as_deref(), expected, "{text}");
        };
        check("Cluster.LOCAL", Some("cluster.local"));
        check("cluster.local.", Some("cluster.local"));
        check("a..b", None);
        check("", None);
        check(".", None);
        check(&"a".repeat(63), Some(&"a".repeat(63)));
        check(&"a".repeat(64), None);
        let longest = ["a"; 127].join(".");
        check(&longest, Some(&longest));
        check(&format!("a.{longest}"), None);
        let mut strange = Name::root();
        strange.read(b"\x03a.b\x03\x00\"\\\x00", 0).unwrap();
        assert_eq!(strange.to_string(), r#"a\.b.\x00\"\\"#);
    }

    #[test]
    fn labels_and_ancestors() {
        let name = Name::from_text("a.bb.ccc").unwrap();
        assert_eq!(name.labels(), 3);
        assert_eq!(name.label(1), b"bb");
        assert_eq!(name.between(0, 2), b"\x01a\x02bb");
        let below = |ancestor: &str| name.labels_below(&Name::from_text(ancestor).unwrap());
        assert_eq!(below("ccc"), Some(2));
        assert_eq!(below("a.bb.ccc"), Some(0));
        assert_eq!(below("b.ccc"), None);
        assert_eq!(below("c"), None);
        assert_eq!(below("x.a.bb.ccc"), None);
        // The same octets, but not at the start of a label.
        let name = Name::from_text("x\u{3}abc").unwrap();
        assert_eq!(name.labels_below(&Name::from_text("abc").unwrap()), None);
    }

    #[test]
    fn compressed_names_expand_and_loops_end() {
        let check = |message: &[u8], at: usize, expected: Option<(&[u8], usize)>| {
            let mut bytes = vec![0; HEADER_LEN];
            bytes.extend_from_slice(message);
            let mut out = Vec::new();
            let behind = expand(&bytes, HEADER_LEN + at, &mut out);
            assert_eq!(behind.map(|b| (&out[..], b - HEADER_LEN)), expected, "{message:?}");
            let skipped = skip(&bytes, HEADER_LEN + at);
            assert!(behind.is_none() || behind == skipped, "{message:?}");
        };
        check(b"\x01a\x00", 0, Some((b"\x01a\x00", 3)));
        check(b"\x01a\x00\x01b\xc0\x0c", 3, Some((b"\x01b\x01a\x00", 7)));
        check(b"\xc0\x0c", 0, None);
        check(b"\xc0\x0d\x00", 0, None);
        check(b"\x01a\xc0\x0c", 0, None);
        check(b"\x01a\x00\xc0\x00", 3, None);
        check(b"\x40a\x00", 0, None);
        check(b"\x05a", 0, None);
        check(b"", 0, None);
        check(&[[&b"\x3f"[..], &[b'a'; 63]].concat().repeat(4), vec![0]].concat(), 0, None);
        // Pointers to pointers.
        let chain = |pointers: usize| {
            let mut bytes = vec![0];
            for n in 0..pointers {
                let before = (2 * n).saturating_sub(1) as u16;
                bytes.extend_from_slice(&(0xc00c + before).to_be_bytes());
            }
            bytes
        };
        let last = |pointers: usize| 2 * pointers - 1;
        let most = chain(MAX_POINTERS);
        check(&most, last(MAX_POINTERS), Some((b"\x00", most.len())));
        check(&chain(MAX_POINTERS + 1), last(MAX_POINTERS + 1), None);
    }
}
