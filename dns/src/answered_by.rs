//! What answered a query, as the query log and the metrics tell it.
//!
//! Pure.

/// What answered a query, or why nothing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnsweredBy {
    /// The cluster's zone.
    Zone,
    /// The names that are answered without upstreams: those of `--hosts`, special names.
    Local,
    /// An upstream, before: its answer was in the cache.
    Cache,
    /// The same, but the answer has expired.
    Stale,
    /// An upstream, for which the client waited.
    Upstream,
    /// Nothing: upstreams did not answer, now or a moment ago.
    Failure,
    /// Nothing: the query is malformed, not supported or not allowed, or there are too many.
    Refused,
}

impl AnsweredBy {
    /// Its name in the query log.
    pub(crate) fn label(self) -> &'static str {
        match self {
            AnsweredBy::Zone => "zone",
            AnsweredBy::Local => "local",
            AnsweredBy::Cache => "cache",
            AnsweredBy::Stale => "stale",
            AnsweredBy::Upstream => "upstream",
            AnsweredBy::Failure => "failure",
            AnsweredBy::Refused => "refused",
        }
    }
}
