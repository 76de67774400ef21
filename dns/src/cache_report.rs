//! What a responder says about a name that it forwards: the admin endpoint's `/cache`, which
//! `switchyard explain` reads.
//!
//! Pure.

use serde::{Deserialize, Serialize};

/// What is known about the answer to one question, and who would be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheReport {
    /// The name, in lower case.
    pub name: String,
    /// The record type.
    #[serde(rename = "type")]
    pub record_type: String,
    /// The zone of `--forward` that the name is in; none for the usual upstreams.
    pub forward_zone: Option<String>,
    /// The servers that are asked, in the order of the flags.
    pub upstreams: Vec<UpstreamReport>,
    /// What the cache holds. Answers with and without DNSSEC are cached separately.
    pub entries: Vec<EntryReport>,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamReport {
    /// As the flag spells it.
    pub address: String,
    pub state: UpstreamState,
}

/// Whether a server is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum UpstreamState {
    Up,
    /// It has not answered lately, so it is asked last.
    Down,
    /// It forwards to this server, so it is not asked.
    Loop,
    /// The process was not asked.
    Unknown,
}

/// An entry of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryReport {
    /// For clients that want DNSSEC records (DO).
    pub dnssec_ok: bool,
    /// For clients that check signatures themselves (CD).
    pub checking_disabled: bool,
    pub answer: Option<AnswerReport>,
    pub failure: Option<FailureReport>,
}

/// A cached answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnswerReport {
    pub rcode: String,
    /// The answers' types and data.
    pub data: Vec<String>,
    pub age_seconds: u64,
    /// The time that it is fresh from the beginning.
    pub ttl_seconds: u64,
    /// None once it has expired.
    pub ttl_left_seconds: Option<u64>,
    /// Clients that have got it.
    pub hits: u32,
}

/// A failure that is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureReport {
    pub rcode: String,
    /// The extended error (RFC 8914).
    pub extended_error: Option<u16>,
    /// How long it is still remembered, in milliseconds.
    pub left_ms: u64,
}
