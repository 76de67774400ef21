//! Values of annotations: how each form is written, and what becomes of one that is not.
//!
//! Pure. Booleans and numbers are read as ingress-nginx reads them.

use std::time::Duration;

/// A value that is not served as its author may expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unserved {
    /// The value is wrong; the default holds in its place.
    Ignored(String),
    /// The value is wrong, and the routes must not be served without it: they answer 503.
    Refused(String),
    /// The value is taken, but not all of it has its effect.
    Partly(String),
}

/// What a reader makes of a value.
pub(crate) type Read = Result<(), Unserved>;

/// The outcomes of invalid values: of those that do not matter to access, and of those that do.
pub(crate) trait OrElse<T> {
    /// The default holds.
    fn or_default(self) -> Result<T, Unserved>;
    /// The routes answer 503.
    fn or_refuse(self) -> Result<T, Unserved>;
}

impl<T> OrElse<T> for Result<T, String> {
    fn or_default(self) -> Result<T, Unserved> {
        self.map_err(Unserved::Ignored)
    }

    fn or_refuse(self) -> Result<T, Unserved> {
        self.map_err(Unserved::Refused)
    }
}

/// A boolean as Go's `ParseBool` takes it.
pub(crate) fn boolean(value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("{value:?} is not \"true\" or \"false\"")),
    }
}

/// `on` or `off`, or a boolean.
pub(crate) fn switch(value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => boolean(value).map_err(|_| format!("{value:?} is not \"on\" or \"off\"")),
    }
}

/// A plain decimal number within bounds, without a unit.
pub(crate) fn number<T>(value: &str, range: std::ops::RangeInclusive<T>) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let (low, high) = (range.start(), range.end());
    let parsed = value.parse::<T>().ok().filter(|number| range.contains(number));
    parsed.ok_or_else(|| format!("{value:?} is not a number from {low} to {high}"))
}

/// The entries of a list that is separated by commas, without spaces around them and without
/// empty ones.
pub(crate) fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

/// Seconds, or a number with `s` or `m`; more than zero and at most a day.
pub(crate) fn timeout(value: &str) -> Result<Duration, String> {
    let (digits, scale) = match value.strip_suffix('s') {
        Some(digits) => (digits, 1),
        None => value.strip_suffix('m').map_or((value, 1), |digits| (digits, 60)),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale));
    match seconds {
        Some(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => {
            Err(format!("{value:?} is not a valid timeout (examples: 30, 30s, 5m; at most a day)"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_those_of_go() {
        for yes in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(boolean(yes), Ok(true), "{yes}");
        }
        for no in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(boolean(no), Ok(false), "{no}");
        }
        for bad in ["", "yes", "on", "tRUE", " true", "2"] {
            assert!(boolean(bad).is_err(), "{bad:?}");
        }
        assert_eq!(switch("on"), Ok(true));
        assert_eq!(switch("False"), Ok(false));
        assert!(switch("x").is_err());
    }

    #[test]
    fn numbers_have_no_unit() {
        assert_eq!(number("300", 300..=308), Ok(300));
        for bad in ["299", "309", "3e2", "300k", "", "-300", "300.0"] {
            assert!(number::<u16>(bad, 300..=308).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lists_have_no_empty_entries() {
        assert_eq!(list(" a, b ,,c,").collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(list("").count(), 0);
    }
}
