//! Annotations about the records of requests.
//!
//! Pure.

use super::value::{OrElse as _, Read, boolean};

/// How requests are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recording {
    /// They are left out of the access log.
    pub(crate) is_unlogged: bool,
}

impl Recording {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        (name == "enable-access-log")
            .then(|| boolean(value).or_default().map(|is_logged| self.is_unlogged = !is_logged))
    }
}
