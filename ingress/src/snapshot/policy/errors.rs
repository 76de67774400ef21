//! Annotations about what serves requests in the place of endpoints that cannot, and in the place
//! of errors.
//!
//! Pure.

use std::sync::Arc;

use super::value::{OrElse as _, Read, boolean, list};

/// What one Ingress does about errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Errors {
    /// The Service that serves in their place.
    pub(crate) backend: Option<Arc<str>>,
    /// The statuses that are replaced.
    pub(crate) codes: Vec<u16>,
    /// Errors of endpoints are passed on.
    pub(crate) passes_on: bool,
}

impl Errors {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "default-backend" => service(value).or_default().map(|name| self.backend = Some(name)),
            "custom-http-errors" => codes(value).or_default().map(|codes| self.codes = codes),
            "disable-proxy-intercept-errors" => {
                boolean(value).or_default().map(|on| self.passes_on = on)
            }
            _ => return None,
        })
    }
}

fn service(value: &str) -> Result<Arc<str>, String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    match value.len() <= 63 && value.bytes().all(fits) {
        true => Ok(value.into()),
        false => Err(format!("{value:?} is not the name of a Service")),
    }
}

fn codes(value: &str) -> Result<Vec<u16>, String> {
    let code = |text: &str| {
        let code = text.parse().ok().filter(|code| (400..=599).contains(code));
        code.ok_or_else(|| format!("{text:?} is not a status from 400 to 599"))
    };
    list(value).map(code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_errors() {
        assert_eq!(codes("404, 503,"), Ok(vec![404, 503]));
        for bad in ["200", "4xx", "404 503", "600"] {
            assert!(codes(bad).is_err(), "{bad}");
        }
        assert!(service("error-pages").is_ok() && service("a/b").is_err());
    }
}
