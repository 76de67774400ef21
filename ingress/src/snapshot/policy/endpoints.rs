//! Annotations that say what endpoints speak.
//!
//! Pure.

use super::value::{OrElse as _, Read};
use crate::wire::BackendProtocol;

/// How the endpoints of one Ingress are spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// What they speak, whatever their Service says.
    pub(crate) protocol: Option<BackendProtocol>,
}

impl Endpoints {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "backend-protocol" => self.protocol(value),
            _ => return None,
        })
    }

    /// A value that is not known may mean TLS: to send requests in clear text could reveal them.
    fn protocol(&mut self, value: &str) -> Read {
        let protocol = match value.to_ascii_uppercase().as_str() {
            "HTTP" | "AUTO_HTTP" => Ok(BackendProtocol::Http1),
            "GRPC" => Ok(BackendProtocol::Http2),
            _ => Err(format!("{value:?} is not supported (supported: HTTP, GRPC)")),
        };
        self.protocol = Some(protocol.or_refuse()?);
        Ok(())
    }
}
