//! Annotations about requests that pages of other origins make (CORS).
//!
//! Pure.

use http::HeaderValue;

use super::value::{OrElse as _, Read, Unserved, boolean, list, number};

/// What pages of other origins may do with one Ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cors {
    pub(crate) on: bool,
    pub(crate) origins: Option<Origins>,
    pub(crate) methods: Option<HeaderValue>,
    pub(crate) headers: Option<HeaderValue>,
    pub(crate) expose: Option<HeaderValue>,
    pub(crate) no_credentials: bool,
    pub(crate) max_age: Option<i64>,
}

/// The origins whose pages may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origins {
    Any,
    Of(Vec<Origin>),
}

/// `scheme://host[:port]`, where the host may begin with `*.` for one label; or `null`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: String,
    wildcard: bool,
    /// Host and port, in lower case, without the star.
    rest: String,
}

impl Cors {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "enable-cors" => boolean(value).or_default().map(|on| self.on = on),
            "cors-allow-origin" => self.read_origins(value),
            "cors-allow-methods" => text(&mut self.methods, value),
            "cors-allow-headers" => text(&mut self.headers, value),
            "cors-expose-headers" => text(&mut self.expose, value),
            "cors-allow-credentials" => {
                boolean(value).or_default().map(|allowed| self.no_credentials = !allowed)
            }
            "cors-max-age" => {
                number(value, -1..=i64::from(u32::MAX)).or_default().map(|s| self.max_age = Some(s))
            }
            _ => return None,
        })
    }

    fn read_origins(&mut self, value: &str) -> Read {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/*, []".contains(&byte);
        if !value.bytes().all(fits) {
            self.origins = Some(Origins::Of(Vec::new()));
            return Err(Unserved::Partly(format!(
                "{value:?} has characters that no origin has: no origin is allowed"
            )));
        }
        if list(value).any(|origin| origin == "*") {
            self.origins = Some(Origins::Any);
            return Ok(());
        }
        let (good, bad): (Vec<_>, Vec<_>) =
            list(value).map(|text| Origin::parse(text).ok_or(text)).partition(Result::is_ok);
        self.origins = Some(Origins::Of(good.into_iter().flatten().collect()));
        let bad: Vec<_> = bad.into_iter().filter_map(Result::err).collect();
        match &*bad {
            [] => Ok(()),
            bad => Err(Unserved::Partly(format!(
                "has entries that are no origins and are left out: {} (example: \
                 https://app.example.com)",
                bad.join(", ")
            ))),
        }
    }
}

fn text(to: &mut Option<HeaderValue>, value: &str) -> Read {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_*, ".contains(&byte);
    let checked = value.bytes().all(fits).then(|| HeaderValue::from_str(value).ok()).flatten();
    let checked = checked.ok_or_else(|| format!("{value:?} is not a list of names"));
    *to = Some(checked.or_default()?);
    Ok(())
}

impl Origin {
    fn parse(text: &str) -> Option<Origin> {
        let text = text.to_ascii_lowercase();
        if text == "null" {
            return Some(Origin { scheme: text, wildcard: false, rest: String::new() });
        }
        let (scheme, host) = text.split_once("://")?;
        let (wildcard, rest) = match host.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, host),
        };
        let fits = !scheme.is_empty() && !rest.is_empty() && !rest.contains(['/', '*']);
        fits.then(|| Origin { scheme: scheme.to_owned(), wildcard, rest: rest.to_owned() })
    }

    fn is(&self, origin: &str) -> bool {
        let Some((scheme, host)) = origin.split_once("://") else {
            return self.scheme == "null" && origin.eq_ignore_ascii_case("null");
        };
        let host = match self.wildcard {
            true => match host.split_once('.') {
                Some((label, rest)) if !label.is_empty() => rest,
                _ => return false,
            },
            false => host,
        };
        scheme.eq_ignore_ascii_case(&self.scheme) && host.eq_ignore_ascii_case(&self.rest)
    }
}

impl Origins {
    /// Whether an origin may.
    pub(crate) fn allow(&self, origin: &str) -> bool {
        match self {
            Origins::Any => true,
            Origins::Of(origins) => origins.iter().any(|allowed| allowed.is(origin)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_whole() {
        let table: [(&str, &str, bool); 14] = [
            ("https://o:8080", "https://o:8080", true),
            ("https://o:8080", "https://o", false),
            ("https://foo.bar.com", "https://fooxbar.com", false),
            ("https://foo.bar.com", "https://evil.com/https://foo.bar.com", false),
            ("https://foo.bar.com", "xhttps://foo.bar.com", false),
            ("https://foo.bar.com", "HTTPS://Foo.bar.com", true),
            ("http://*.origin.cors.com", "http://foo.origin.cors.com", true),
            ("http://*.origin.cors.com", "http://bar-foo.origin.cors.com", true),
            ("http://*.origin.cors.com", "http://bar.foo.origin.cors.com", false),
            ("http://*.origin.cors.com", "http://origin.cors.com", false),
            ("http://*.origin.cors.com", "http://.origin.cors.com", false),
            ("*, foo.bar.com", "https://any", true),
            ("null", "null", true),
            ("https://a, https://b", "https://b", true),
        ];
        for (value, origin, expected) in table {
            let mut cors = Cors::default();
            assert_eq!(cors.read("cors-allow-origin", value), Some(Ok(())), "{value}");
            assert_eq!(cors.origins.unwrap().allow(origin), expected, "{value} {origin}");
        }
    }

    #[test]
    fn what_is_no_origin_is_left_out() {
        let mut cors = Cors::default();
        let read = cors.read_origins("origin.com, https://a.com");
        assert!(matches!(read, Err(Unserved::Partly(what)) if what.contains("out: origin.com ")));
        let origins = cors.origins.clone().unwrap();
        assert!(origins.allow("https://a.com") && !origins.allow("https://origin.com"));
        assert!(cors.read_origins("https://a.com$|.*").is_err());
        assert!(!cors.origins.unwrap().allow("https://a.com"));
    }
}
