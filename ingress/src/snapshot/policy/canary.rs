//! Annotations that make an Ingress a canary: an alternative to another one, for some of its
//! requests.
//!
//! Pure.

use http::HeaderName;
use http::header::HeaderMap;
use regex::Regex;

use super::value::{OrElse as _, Read, Unserved, boolean, number};
use crate::template::cookie;

const WEIGHT_TOTAL: u32 = 100;
const MAX_WEIGHT: u32 = balance::MAX_WEIGHT;
const ALWAYS: &str = "always";
const NEVER: &str = "never";

/// Which requests of the main Ingress go to the canary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CanaryRules {
    header: Option<HeaderName>,
    value: Option<String>,
    pattern: Option<HeaderPattern>,
    cookie: Option<String>,
    weight: u32,
    total: Option<u32>,
}

/// A pattern for the value of a header field.
#[derive(Clone, Debug)]
enum HeaderPattern {
    Valid(Regex),
    /// It is not a regular expression: requests with the header go to the main Ingress.
    Invalid,
}

impl PartialEq for HeaderPattern {
    fn eq(&self, other: &HeaderPattern) -> bool {
        match (self, other) {
            (HeaderPattern::Valid(a), HeaderPattern::Valid(b)) => a.as_str() == b.as_str(),
            (HeaderPattern::Invalid, HeaderPattern::Invalid) => true,
            _ => false,
        }
    }
}

impl Eq for HeaderPattern {}

/// Why a request goes to the canary or to the main Ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SideBy {
    Header,
    Cookie,
    Weight,
}

/// Which side of a canary a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Main(SideBy),
    Canary(SideBy),
    /// By turns, of which the canary has this many of this total.
    Turns {
        canary: u32,
        total: u32,
    },
}

/// The annotations of this group, as they are read one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CanaryAnnotations {
    /// The Ingress is a canary of another one, and has no routes of its own.
    pub(crate) is_canary: bool,
    pub(crate) rules: CanaryRules,
    /// The canary has no affinity, and a client's cookie does not decide for it.
    pub(crate) is_legacy: bool,
}

impl CanaryAnnotations {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        // Names are read in order: `canary` comes first.
        let is_setting = name.starts_with("canary-");
        if is_setting && !self.is_canary {
            let what = "has no effect without canary: \"true\"".to_owned();
            return Some(Err(Unserved::Partly(what)));
        }
        Some(match name {
            "canary" => self.canary(value),
            "canary-by-header" => self.header(value),
            "canary-by-header-value" => {
                self.rules.value = Some(value.to_owned()).filter(|value| !value.is_empty());
                Ok(())
            }
            "canary-by-header-pattern" => self.pattern(value),
            "canary-by-cookie" => {
                self.rules.cookie = Some(value.to_owned()).filter(|name| !name.is_empty());
                Ok(())
            }
            "canary-weight" => {
                number(value, 0..=MAX_WEIGHT).or_default().map(|weight| self.rules.weight = weight)
            }
            "canary-weight-total" => number(value, 1..=MAX_WEIGHT)
                .or_default()
                .map(|total| self.rules.total = Some(total)),
            "affinity-canary-behavior" => self.behavior(value),
            _ => return None,
        })
    }

    fn behavior(&mut self, value: &str) -> Read {
        self.is_legacy = match value {
            "sticky" => false,
            "legacy" => true,
            _ => {
                let what = format!("{value:?} is not \"sticky\" or \"legacy\"");
                return Err(Unserved::Ignored(what));
            }
        };
        Ok(())
    }

    /// An Ingress that may have been meant to be a canary is never a plain one.
    fn canary(&mut self, value: &str) -> Read {
        let parsed = boolean(value);
        self.is_canary = parsed.as_ref().copied().unwrap_or(true);
        parsed.map(|_| ()).map_err(|what| {
            Unserved::Partly(format!("is invalid: {what}: the Ingress is taken for a canary"))
        })
    }

    fn header(&mut self, value: &str) -> Read {
        let name = value.parse().map_err(|_| format!("{value:?} is not the name of a header"));
        self.rules.header = Some(name.or_default()?);
        Ok(())
    }

    fn pattern(&mut self, value: &str) -> Read {
        let compiled = Regex::new(value);
        let is_bad = compiled.is_err();
        self.rules.pattern = Some(compiled.map_or(HeaderPattern::Invalid, HeaderPattern::Valid));
        if is_bad {
            let what = format!(
                "{value:?} is not a regular expression: requests with the header go to the main \
                 Ingress"
            );
            return Err(Unserved::Partly(what));
        }
        Ok(())
    }
}

impl CanaryRules {
    /// The side of a request, by header, then cookie, then weight.
    pub(crate) fn side(&self, headers: &HeaderMap) -> Side {
        if let Some(side) = self.by_header(headers).or_else(|| self.by_cookie(headers)) {
            return side;
        }
        match self.total.unwrap_or_default().max(WEIGHT_TOTAL) {
            _ if self.weight == 0 => Side::Main(SideBy::Weight),
            total if self.weight >= total => Side::Canary(SideBy::Weight),
            total => Side::Turns { canary: self.weight, total },
        }
    }

    fn by_header(&self, headers: &HeaderMap) -> Option<Side> {
        let value = headers.get(self.header.as_ref()?)?.to_str().ok()?;
        let is_canary = match (&self.value, &self.pattern) {
            // A value wins over a pattern.
            (Some(wanted), _) => return (value == wanted).then_some(Side::Canary(SideBy::Header)),
            (None, Some(HeaderPattern::Valid(pattern))) if pattern.is_match(value) => true,
            (None, Some(HeaderPattern::Valid(_))) => return None,
            (None, Some(HeaderPattern::Invalid)) => false,
            (None, None) if value == ALWAYS => true,
            (None, None) if value == NEVER => false,
            (None, None) => return None,
        };
        Some(if is_canary { Side::Canary(SideBy::Header) } else { Side::Main(SideBy::Header) })
    }

    fn by_cookie(&self, headers: &HeaderMap) -> Option<Side> {
        match cookie(headers, self.cookie.as_ref()?)? {
            ALWAYS => Some(Side::Canary(SideBy::Cookie)),
            NEVER => Some(Side::Main(SideBy::Cookie)),
            _ => None,
        }
    }

    /// The canary's turns, and all turns.
    pub(crate) fn weights(&self) -> (u32, u32) {
        let total = self.total.unwrap_or_default().max(WEIGHT_TOTAL);
        (self.weight.min(total), total)
    }

    /// Which requests the canary gets, for people.
    pub(crate) fn words(&self) -> String {
        let mut words = Vec::new();
        if let Some(header) = &self.header {
            words.push(match (&self.value, &self.pattern) {
                (Some(value), _) => format!("header {header}: {value}"),
                (None, Some(HeaderPattern::Valid(pattern))) => {
                    format!("header {header} that matches {pattern}")
                }
                (None, Some(HeaderPattern::Invalid)) => "no header (its pattern is invalid)".into(),
                (None, None) => format!("header {header}: always"),
            });
        }
        words.extend(self.cookie.iter().map(|name| format!("cookie {name}=always")));
        let (weight, total) = self.weights();
        words.push(format!("{weight} of {total} other requests"));
        words.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: Side = Side::Main(SideBy::Weight);

    /// The side of a request with these fields, by an Ingress with these annotations.
    fn check(annotations: &[(&str, &str)], fields: &[(&str, &str)], expected: Side) {
        let mut group = CanaryAnnotations { is_canary: true, ..CanaryAnnotations::default() };
        for (name, value) in annotations {
            let _ = group.read(name, value).unwrap();
        }
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        assert_eq!(group.rules.side(&headers), expected, "{annotations:?} {fields:?}");
    }

    #[test]
    fn by_header() {
        let by = ("canary-by-header", "X-Canary");
        let to_canary = Side::Canary(SideBy::Header);
        check(&[by], &[("x-canary", "always")], to_canary);
        check(&[by], &[("x-canary", "never")], Side::Main(SideBy::Header));
        check(&[by], &[("x-canary", "other")], MAIN);
        check(&[by], &[], MAIN);
        let value = ("canary-by-header-value", "DoCanary");
        check(&[by, value], &[("x-canary", "DoCanary")], to_canary);
        for other in ["always", "never", "other"] {
            check(&[by, value], &[("x-canary", other)], MAIN);
        }
        let pattern = ("canary-by-header-pattern", "^Do[A-Z][a-z]+y$");
        check(&[by, pattern], &[("x-canary", "DoCanary")], to_canary);
        check(&[by, pattern], &[("x-canary", "Docanary")], MAIN);
        check(&[by, pattern, value], &[("x-canary", "DoCananry")], MAIN);
    }

    #[test]
    fn a_header_comes_before_a_cookie_and_a_cookie_before_the_weight() {
        let header = ("canary-by-header", "X-Canary");
        let cookie = ("canary-by-cookie", "side");
        let to_canary = Side::Canary(SideBy::Cookie);
        check(&[cookie], &[("cookie", "side=always")], to_canary);
        check(&[cookie], &[("cookie", "a=b; side=never")], Side::Main(SideBy::Cookie));
        check(&[cookie], &[("cookie", "side=bad")], MAIN);
        let bad = ("canary-by-header-pattern", "[][**da?$&*");
        let both = [("x-canary", "x"), ("cookie", "side=always")];
        check(&[header, bad, cookie], &both, Side::Main(SideBy::Header));
        let value = ("canary-by-header-value", "DoCanary");
        check(&[header, value, cookie], &both, to_canary);
        let all = ("canary-weight", "100");
        check(&[header, all], &[("x-canary", "never")], Side::Main(SideBy::Header));
    }

    #[test]
    fn by_weight() {
        let weight = |value| ("canary-weight", value);
        check(&[weight("0")], &[], MAIN);
        check(&[weight("100")], &[], Side::Canary(SideBy::Weight));
        check(&[weight("20")], &[], Side::Turns { canary: 20, total: 100 });
        // Fewer than 100 count as 100.
        let few = ("canary-weight-total", "50");
        check(&[weight("10"), few], &[], Side::Turns { canary: 10, total: 100 });
        let total = ("canary-weight-total", "1000");
        check(&[weight("1000"), total], &[], Side::Canary(SideBy::Weight));
        check(&[weight("20"), total], &[], Side::Turns { canary: 20, total: 1000 });
    }
}
