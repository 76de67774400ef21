//! The options of OPT records that we read and write: cookies, extended errors, padding.
//!
//! A reply's OPT record is always its last, so an option is added by appending it.

use super::numbers::{OPT_LEN, u16_at};

/// RFC 7873.
pub(crate) const COOKIE: u16 = 10;
/// RFC 7830.
pub(crate) const PADDING: u16 = 12;
/// RFC 8914.
pub(crate) const EXTENDED_ERROR: u16 = 15;

/// Code and length.
pub(crate) const HEAD_LEN: usize = 4;
const CLIENT_LEN: usize = 8;
const SERVER_LEN: usize = 16;
/// A whole cookie with its head.
pub(crate) const COOKIE_LEN: usize = HEAD_LEN + CLIENT_LEN + SERVER_LEN;
/// Server parts that other servers may have made (RFC 7873 section 4).
const SERVER_LENS: std::ops::RangeInclusive<usize> = 8..=32;

/// A cookie of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cookie {
    pub(crate) client: [u8; CLIENT_LEN],
    /// What a server gave to the client earlier. Those of a length that we never give are left out.
    pub(crate) server: Option<[u8; SERVER_LEN]>,
}

impl Cookie {
    pub(super) fn read(data: &[u8]) -> Option<Cookie> {
        let (client, server) = data.split_first_chunk()?;
        let is_possible = server.is_empty() || SERVER_LENS.contains(&server.len());
        is_possible.then(|| Cookie { client: *client, server: server.try_into().ok() })
    }
}

/// An extended error (RFC 8914): why an answer is stale or missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtendedError {
    pub(crate) code: u16,
    /// For people; UTF-8.
    pub(crate) text: Box<str>,
}

impl ExtendedError {
    pub(crate) const STALE: u16 = 3;
    pub(crate) const CACHED: u16 = 13;
    pub(crate) const NOT_READY: u16 = 14;
    pub(crate) const PROHIBITED: u16 = 18;
    pub(crate) const STALE_NXDOMAIN: u16 = 19;
    pub(crate) const NO_REACHABLE_AUTHORITY: u16 = 22;
    pub(crate) const NETWORK: u16 = 23;

    pub(crate) fn of(code: u16) -> ExtendedError {
        ExtendedError { code, text: Box::default() }
    }

    /// Reads the option's data. A text that is not UTF-8 is left out.
    pub(crate) fn read(data: &[u8]) -> Option<ExtendedError> {
        let text = std::str::from_utf8(data.get(2..)?).unwrap_or_default();
        // RFC 8914 section 2: some senders end the text with a zero.
        Some(ExtendedError { code: u16_at(data, 0)?, text: text.trim_end_matches('\0').into() })
    }

    /// The option's data.
    pub(crate) fn data(&self) -> Vec<u8> {
        [&self.code.to_be_bytes()[..], self.text.as_bytes()].concat()
    }
}

/// Replies to padded queries have a multiple of this length (RFC 8467 section 4.1).
pub(crate) const BLOCK: usize = 468;

/// Pads a message to a multiple of `block`, at most [`BLOCK`], as [`append`] does, so that its
/// length tells little about its content.
pub(crate) fn pad(buf: &mut [u8], len: usize, options_at: usize, block: usize) -> usize {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let end = (len + HEAD_LEN).next_multiple_of(block).min(buf.len());
    let padding = end.saturating_sub(len + HEAD_LEN);
    append(buf, len, options_at, PADDING, &[&ZEROS[..padding]])
}

/// Appends an option to the OPT record at the end of a message of `len` octets, whose options begin
/// at `options_at`. The new length; the same if there is no room in `buf`.
pub(crate) fn append(
    buf: &mut [u8],
    len: usize,
    options_at: usize,
    code: u16,
    data: &[&[u8]],
) -> usize {
    debug_assert!(options_at >= OPT_LEN);
    let data_len: usize = data.iter().map(|part| part.len()).sum();
    let end = len + HEAD_LEN + data_len;
    if end > buf.len() {
        return len;
    }
    let words = [code, data_len as u16];
    for (at, word) in words.into_iter().enumerate() {
        buf[len + 2 * at..len + 2 * at + 2].copy_from_slice(&word.to_be_bytes());
    }
    let mut at = len + HEAD_LEN;
    for part in data {
        buf[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    let rdata_len = (end - options_at) as u16;
    buf[options_at - 2..options_at].copy_from_slice(&rdata_len.to_be_bytes());
    end
}
