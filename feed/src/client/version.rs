//! resourceVersion: text that only its server understands, except that of two numbers the
//! greater one is later.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// The version of an object, of a list, or of a point in a watch.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Version(Arc<str>);

impl Version {
    pub(crate) fn new(text: &str) -> Version {
        Version(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Kubernetes promises that versions are integers which grow (since 1.35, KEP-5504); a
    /// foreign API's may be anything.
    pub(crate) fn number(&self) -> Option<u64> {
        self.0.parse().ok()
    }

    /// Whether this one is earlier for certain: both are numbers, and this one is less.
    pub(crate) fn is_below(&self, other: &Version) -> bool {
        let order = self.number().zip(other.number()).map(|(a, b)| a.cmp(&b));
        order == Some(Ordering::Less)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_are_ordered() {
        let table = [
            ("9", "10", true),
            ("10", "9", false),
            ("10", "10", false),
            ("", "10", false),
            ("abc", "10", false),
            ("9", "abc", false),
            ("1898437215283200000", "1898437215283200001", true),
        ];
        for (a, b, below) in table {
            assert_eq!(Version::new(a).is_below(&Version::new(b)), below, "{a} {b}");
        }
    }
}
