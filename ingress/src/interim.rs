//! Interim responses (1xx), as endpoints send them and clients get them.
//!
//! Pure.

use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName};

use crate::head::is_hop_by_hop;

/// An interim response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InterimHead {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

impl InterimHead {
    /// Whether a field of an interim response is passed on.
    pub(crate) fn passes(name: &HeaderName) -> bool {
        let frames = matches!(
            *name,
            header::CONNECTION
                | header::CONTENT_LENGTH
                | header::TRANSFER_ENCODING
                | header::UPGRADE
        );
        !frames && !is_hop_by_hop(name)
    }

    /// As an HTTP/1.1 client gets it.
    pub(crate) fn to_http1(&self) -> Vec<u8> {
        let reason = self.status.canonical_reason().unwrap_or_default();
        let mut out = format!("HTTP/1.1 {} {reason}\r\n", self.status.as_u16()).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}
