//! The SOA record, which nearly every answer without records contains.

use crate::wire::Type;
use crate::wire::reply::fixed_fields;

const REFRESH_SECONDS: u32 = 7200;
const RETRY_SECONDS: u32 = 1800;
const EXPIRE_SECONDS: u32 = 86_400;
/// The longest time that an SOA may be cached, whatever the TTL of other records.
const MAX_TTL: u32 = 300;

pub(crate) const NAME_SERVER: &[u8] = b"\x02ns\x03dns";
pub(crate) const HOSTMASTER: &[u8] = b"\x0ahostmaster";

/// The SOA of the domain, complete except for the three pointers to the domain's name, which is
/// part of every question about a name below it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Soa {
    record: [u8; SOA_LEN],
}

const SOA_LEN: usize = 12 + NAME_SERVER.len() + 2 + HOSTMASTER.len() + 2 + NUMBERS_LEN;
const NUMBERS_LEN: usize = 20;
const POINTERS_AT: [usize; 3] = [0, 12 + NAME_SERVER.len(), SOA_LEN - NUMBERS_LEN - 2];

impl Soa {
    /// Compiled once for each version of the zone.
    pub(crate) fn compile(serial: u32, ttl: u32) -> Soa {
        let fixed = fixed_fields(Type::SOA, soa_ttl(ttl), SOA_LEN - 12);
        let numbers = numbers(serial, ttl);
        let parts = [&[0, 0], &fixed[..], NAME_SERVER, &[0, 0], HOSTMASTER, &[0, 0], &numbers];
        let record = parts.concat().try_into().expect("the parts add up to its length");
        Soa { record }
    }

    /// The record; `pointer` points to the domain's name.
    #[inline]
    pub(crate) fn record(&self, pointer: [u8; 2]) -> [u8; SOA_LEN] {
        let mut record = self.record;
        for at in POINTERS_AT {
            record[at..at + 2].copy_from_slice(&pointer);
        }
        record
    }
}

pub(crate) fn soa_ttl(ttl: u32) -> u32 {
    ttl.min(MAX_TTL)
}

/// The five numbers at the end of the RDATA; the last is how long a negative answer may be cached.
pub(crate) fn numbers(serial: u32, ttl: u32) -> [u8; NUMBERS_LEN] {
    let mut numbers = [0; NUMBERS_LEN];
    let values = [serial, REFRESH_SECONDS, RETRY_SECONDS, EXPIRE_SECONDS, ttl];
    for (octets, value) in numbers.chunks_exact_mut(4).zip(values) {
        octets.copy_from_slice(&value.to_be_bytes());
    }
    numbers
}
