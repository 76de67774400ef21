//! Annotations by which clients keep their endpoints, by a cookie.
//!
//! Pure.

use super::value::{OrElse as _, Read, Unserved, boolean};

/// The name of the cookie, unless the annotation says another one.
const COOKIE: &str = "INGRESSCOOKIE";

/// By which cookie clients keep their endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Affinity {
    pub(crate) cookie: String,
    /// The cookie names the endpoint; otherwise it is a key that is hashed, so that clients move
    /// to new endpoints too.
    pub(crate) is_persistent: bool,
    /// A client whose endpoint fails gets another one, and its cookie.
    pub(crate) changes_on_failure: bool,
    /// The path of the cookie instead of the rule's.
    pub(crate) path: Option<String>,
    pub(crate) domain: Option<String>,
    pub(crate) same_site: Option<SameSite>,
    /// `SameSite=None` is left out for browsers that take it for `Strict`.
    pub(crate) is_none_conditional: bool,
    pub(crate) is_secure: bool,
    /// Seconds.
    pub(crate) expires: Option<i64>,
    pub(crate) max_age: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SameSite {
    None,
    Lax,
    Strict,
}

impl SameSite {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            SameSite::None => "None",
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
        }
    }
}

impl Default for Affinity {
    fn default() -> Affinity {
        Affinity {
            cookie: COOKIE.to_owned(),
            is_persistent: false,
            changes_on_failure: false,
            path: None,
            domain: None,
            same_site: None,
            is_none_conditional: false,
            is_secure: false,
            expires: None,
            max_age: None,
        }
    }
}

/// The annotations of this group, as they are read one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AffinityAnnotations {
    is_on: bool,
    affinity: Affinity,
}

impl AffinityAnnotations {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        let affinity = &mut self.affinity;
        Some(match name {
            "affinity" if value == "cookie" => {
                self.is_on = true;
                Ok(())
            }
            "affinity" => Err(Unserved::Ignored(format!("{value:?} is not \"cookie\""))),
            "affinity-mode" => one_of(value, &[("balanced", false), ("persistent", true)])
                .or_default()
                .map(|mode| affinity.is_persistent = mode),
            "session-cookie-name" => token(value).or_default().map(|name| affinity.cookie = name),
            "session-cookie-path" => {
                attribute(value).or_default().map(|path| affinity.path = Some(path))
            }
            "session-cookie-domain" => {
                attribute(value).or_default().map(|domain| affinity.domain = Some(domain))
            }
            "session-cookie-samesite" => one_of(
                value,
                &[("None", SameSite::None), ("Lax", SameSite::Lax), ("Strict", SameSite::Strict)],
            )
            .or_default()
            .map(|same_site| affinity.same_site = Some(same_site)),
            "session-cookie-conditional-samesite-none" => {
                boolean(value).or_default().map(|on| affinity.is_none_conditional = on)
            }
            "session-cookie-secure" => {
                boolean(value).or_default().map(|on| affinity.is_secure = on)
            }
            "session-cookie-change-on-failure" => {
                boolean(value).or_default().map(|on| affinity.changes_on_failure = on)
            }
            "session-cookie-expires" => {
                seconds(value).or_default().map(|time| affinity.expires = Some(time))
            }
            "session-cookie-max-age" => {
                seconds(value).or_default().map(|time| affinity.max_age = Some(time))
            }
            _ => return None,
        })
    }

    /// What they come to.
    pub(crate) fn affinity(&self) -> Option<&Affinity> {
        self.is_on.then_some(&self.affinity)
    }

    /// Whether the cookie has the path of a rule, which no browser compares with a pattern.
    pub(crate) fn needs_path(&self) -> bool {
        self.is_on && self.affinity.path.is_none()
    }
}

fn one_of<T: Copy>(value: &str, all: &[(&str, T)]) -> Result<T, String> {
    let found = all.iter().find(|(name, _)| *name == value).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
        format!("{value:?} is not supported (supported: {})", names.join(", "))
    })
}

/// The name of a cookie (RFC 6265 section 4.1.1).
fn token(value: &str) -> Result<String, String> {
    let is_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    match !value.is_empty() && value.bytes().all(is_token) {
        true => Ok(value.to_owned()),
        false => Err(format!("{value:?} is not a valid name of a cookie")),
    }
}

/// The value of an attribute of a cookie.
fn attribute(value: &str) -> Result<String, String> {
    match !value.is_empty() && value.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b';') {
        true => Ok(value.to_owned()),
        false => Err(format!("{value:?} cannot be an attribute of a cookie")),
    }
}

fn seconds(value: &str) -> Result<i64, String> {
    let parsed = value.parse::<i32>().map(i64::from);
    parsed.map_err(|_| format!("{value:?} is not a number of seconds"))
}
