//! An upstream's answer as it is kept: checked, encoded anew, ready to be copied into a reply.

use crate::wire::options::ExtendedError;
use crate::wire::reply::{Reply, Section};
use crate::wire::{Query, Rcode, flag};

/// The TTL of a stale answer, in seconds (RFC 8767 section 5).
const STALE_TTL: u32 = 30;

/// An upstream's answer. Its records are those of a reply to its question: their compression
/// pointers count from the beginning of that reply.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) rcode: Rcode,
    /// The upstream has verified it (AD).
    pub(crate) is_authentic: bool,
    /// The upstream has more than this and does not answer over TCP.
    pub(crate) is_partial: bool,
    /// Records in each section.
    pub(crate) counts: [u16; 3],
    pub(crate) records: Box<[u8]>,
    /// One for each record.
    pub(crate) cuts: Box<[Cut]>,
    /// The offset in the reply of the last name of a chain of aliases, if it has no records here.
    pub(crate) open_end: Option<u16>,
    pub(crate) error: Option<ExtendedError>,
    /// How long it may be cached, in seconds; zero: not at all.
    pub(crate) ttl: u32,
}

/// Where a record is, counted from the first record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cut {
    pub(crate) ttl_at: u16,
    pub(crate) end: u16,
}

/// How old an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// Seconds, which its TTLs are counted down by.
    Fresh(u32),
    /// It has expired.
    Stale,
}

impl Age {
    /// What is left of a TTL, in seconds.
    #[inline]
    pub(crate) fn ttl(self, ttl: u32) -> u32 {
        match self {
            Age::Fresh(age) => ttl.saturating_sub(age),
            Age::Stale => STALE_TTL,
        }
    }
}

impl Stored {
    /// An answer of a code alone.
    pub(crate) fn without_records(rcode: Rcode, error: Option<ExtendedError>) -> Stored {
        Stored {
            rcode,
            is_authentic: false,
            is_partial: false,
            counts: [0; 3],
            records: Box::default(),
            cuts: Box::default(),
            open_end: None,
            error,
            ttl: 0,
        }
    }

    /// The octets of memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        let text = self.error.as_ref().map_or(0, |error| error.text.len());
        size_of::<Stored>() + self.records.len() + size_of_val(&*self.cuts) + text
    }

    /// Copies it into an empty reply to `query`, which asks its question.
    #[inline]
    pub(crate) fn write(&self, query: &Query, reply: &mut Reply<'_>, age: Age) {
        self.write_records(query, reply, age, &self.records, self.counts);
    }

    /// Copies only its answers, to be continued with others.
    pub(crate) fn write_answers(&self, query: &Query, reply: &mut Reply<'_>, age: Age) {
        let answers = &self.cuts[..usize::from(self.counts[0])];
        let end = answers.last().map_or(0, |cut| usize::from(cut.end));
        let counts = [self.counts[0], 0, 0];
        self.write_records(query, reply, age, &self.records[..end], counts);
    }

    #[inline]
    fn write_records(
        &self,
        query: &Query,
        reply: &mut Reply<'_>,
        age: Age,
        records: &[u8],
        counts: [u16; 3],
    ) {
        let begun = reply.at();
        if !reply.all(records, counts) {
            self.write_some(reply);
        }
        if self.is_partial {
            reply.truncate();
        }
        reply.set(query.flags & flag::CD);
        let wants = query.flags & flag::AD != 0 || query.edns.is_some_and(|edns| edns.dnssec_ok);
        if self.is_authentic && wants && age != Age::Stale {
            reply.set(flag::AD);
        }
        let written = reply.since(begun);
        for cut in &self.cuts {
            let at = usize::from(cut.ttl_at);
            if usize::from(cut.end) > written.len() {
                break;
            }
            let Some(ttl) = written[at..].first_chunk_mut::<4>() else { break };
            *ttl = age.ttl(u32::from_be_bytes(*ttl)).to_be_bytes();
        }
    }

    /// Copies as many records as fit.
    #[cold]
    fn write_some(&self, reply: &mut Reply<'_>) {
        let [answers, authority, _] = self.counts.map(usize::from);
        let mut start = 0;
        for (number, cut) in self.cuts.iter().enumerate() {
            let section = match number {
                _ if number < answers => Section::Answer,
                _ if number < answers + authority => Section::Authority,
                _ => Section::Additional,
            };
            let end = usize::from(cut.end);
            if !reply.whole(section, &self.records[start..end]) {
                // A reply without answers needs its authority section: without it, it cannot be
                // cached.
                if answers == 0 && section == Section::Authority {
                    reply.truncate();
                }
                return;
            }
            start = end;
        }
    }
}
