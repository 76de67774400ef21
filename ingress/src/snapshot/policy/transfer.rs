//! Annotations that bound what a request may send, and how long each of its steps may take.
//!
//! Pure.

use std::time::Duration;

use daemon::flags::parse_bytes;

use super::value::{OrElse as _, Read, timeout};

/// The limits of one Ingress's requests and responses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// Bytes of a request body; `Some(None)` is no limit, `None` the process's own.
    pub(crate) max_body: Option<Option<u64>>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) read_timeout: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
}

impl Transfer {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "proxy-body-size" => self.body_size(value),
            "proxy-connect-timeout" => set(&mut self.connect_timeout, value),
            "proxy-read-timeout" => set(&mut self.read_timeout, value),
            "proxy-send-timeout" => set(&mut self.send_timeout, value),
            _ => return None,
        })
    }

    fn body_size(&mut self, value: &str) -> Read {
        let bytes = parse_bytes(value).or_default()?;
        self.max_body = Some(Some(bytes).filter(|bytes| *bytes > 0));
        Ok(())
    }
}

fn set(to: &mut Option<Duration>, value: &str) -> Read {
    *to = Some(timeout(value).or_default()?);
    Ok(())
}
