//! Records as text, for people.
//!
//! Pure.

use hickory_proto::rr::{RData, Record};

/// A record's type and data.
pub(crate) fn line(record: &Record) -> String {
    format!("{} {}", record.record_type(), brief(&record.data))
}

/// Record data, of an SRV record as `HOST:PORT`.
fn brief(data: &RData) -> String {
    match data {
        RData::SRV(srv) => format!("{}:{}", srv.target.to_string().trim_end_matches('.'), srv.port),
        other => other.to_string().trim_end_matches('.').to_owned(),
    }
}
