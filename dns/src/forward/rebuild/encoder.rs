//! Encodes records behind a question, with compressed names (RFC 1035 section 4.1.4).

use crate::wire::name;
use crate::wire::reply::{fixed_fields, pointer};
use crate::wire::{HEADER_LEN, OPT_LEN, TCP_LIMIT, Type};

use super::super::question::Question;

/// Names that later ones may point to; more are seldom of use.
const MAX_TARGETS: usize = 64;
/// A pointer reaches no further.
pub(super) const MAX_POINTER: usize = 0x3fff;

/// Records that follow a question.
#[derive(Debug)]
pub(super) struct Encoder {
    /// The message from its header on; the header and the question are placeholders.
    message: Vec<u8>,
    begun: usize,
    /// Where a name, or the rest of one, is uncompressed up to its end or to a pointer.
    targets: Vec<Target>,
    /// Scratch: a name without compression.
    expanded: Vec<u8>,
    /// The names of all targets, without compression, one after the other.
    names: Vec<u8>,
}

/// A name in the message that others may point to.
#[derive(Clone, Copy, Debug)]
struct Target {
    at: u16,
    /// Where it is in `names`.
    from: usize,
    to: usize,
}

impl Encoder {
    pub(super) fn new(question: &Question) -> Encoder {
        let mut message = vec![0; HEADER_LEN];
        message.extend_from_slice(question.question());
        let begun = message.len();
        let targets = Vec::with_capacity(MAX_TARGETS);
        let mut encoder =
            Encoder { message, begun, targets, expanded: Vec::new(), names: Vec::new() };
        encoder.offer(question.name(), HEADER_LEN);
        encoder
    }

    /// The offset in the message of what is written next.
    pub(super) fn at(&self) -> usize {
        self.message.len()
    }

    /// The offset of the first record.
    pub(super) fn begun(&self) -> usize {
        self.begun
    }

    pub(super) fn into_records(mut self) -> Box<[u8]> {
        self.message.drain(..self.begun);
        self.message.into()
    }

    /// Writes the name at an offset of another message. The offset after it, in ours.
    pub(super) fn name(&mut self, from: &[u8], at: usize) -> Option<usize> {
        self.read_name(from, at)?;
        self.write_name(true);
        Some(self.at())
    }

    /// Reads a name of another message, to be written next. The offset after it, there.
    pub(super) fn read_name(&mut self, from: &[u8], at: usize) -> Option<usize> {
        self.expanded.clear();
        name::expand(from, at, &mut self.expanded)
    }

    /// Writes the name that was read, compressed or not.
    pub(super) fn write_name(&mut self, compress: bool) {
        let name = std::mem::take(&mut self.expanded);
        let mut rest = &name[..];
        let begun = self.at();
        let mut labels_end = begun;
        while let Some(len) = rest.first().filter(|len| **len > 0) {
            if compress && let Some(at) = self.find(rest) {
                self.message.extend_from_slice(&pointer(at));
                break;
            }
            let label_len = 1 + usize::from(*len);
            self.message.extend_from_slice(&rest[..label_len]);
            labels_end = self.at();
            rest = &rest[label_len..];
        }
        if rest == [0] {
            self.message.push(0);
        }
        self.offer_up_to(&name, begun, labels_end - begun);
        self.expanded = name;
    }

    /// Type, class IN, TTL, and a length to be set by [`Encoder::close`].
    pub(super) fn fixed(&mut self, rtype: Type, ttl: u32) {
        self.message.extend_from_slice(&fixed_fields(rtype, ttl, 0));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.message.extend_from_slice(bytes);
    }

    /// Sets the length of RDATA that begins at an offset. `None` if the message has become too
    /// long.
    pub(super) fn close(&mut self, rdata_at: usize) -> Option<()> {
        let len = u16::try_from(self.at() - rdata_at).ok()?;
        self.message[rdata_at - 2..rdata_at].copy_from_slice(&len.to_be_bytes());
        (self.at() + OPT_LEN <= TCP_LIMIT).then_some(())
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        let is_it = |target: &&Target| {
            let other = &self.names[target.from..target.to];
            other.len() == name.len() && other.eq_ignore_ascii_case(name)
        };
        self.targets.iter().find(is_it).map(|target| usize::from(target.at))
    }

    /// Lets later names point to this one, which is written at an offset, and to its ends.
    fn offer(&mut self, name: &[u8], at: usize) {
        self.offer_up_to(name, at, name.len());
    }

    /// As [`Encoder::offer`], for the first octets of the name only: the others are a pointer.
    fn offer_up_to(&mut self, name: &[u8], at: usize, written: usize) {
        let from = self.names.len();
        self.names.extend_from_slice(name);
        let mut offset = 0;
        while offset < written && name[offset] != 0 {
            if self.targets.len() == MAX_TARGETS || at + offset > MAX_POINTER {
                return;
            }
            let target =
                Target { at: (at + offset) as u16, from: from + offset, to: from + name.len() };
            self.targets.push(target);
            offset += 1 + usize::from(name[offset]);
        }
    }
}
