//! Annotations that answer with a redirect.
//!
//! Pure.

use std::ops::RangeInclusive;

use http::StatusCode;

use super::value::{OrElse as _, Read, boolean};
use crate::template::Template;

/// The redirects of one Ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Redirects {
    pub(crate) to_https: ToHttps,
    /// A redirect to HTTPS names our own port to all clients.
    pub(crate) with_port: bool,
    /// Redirects to a path stay without scheme and host.
    pub(crate) relative: bool,
    /// Between `name` and `www.name`, to the one that a rule has.
    pub(crate) www: bool,
    pub(crate) permanent: Option<Template>,
    pub(crate) permanent_code: Option<StatusCode>,
    pub(crate) temporal: Option<Template>,
    pub(crate) temporal_code: Option<StatusCode>,
}

/// When plain HTTP is answered with a redirect to HTTPS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToHttps {
    #[default]
    Never,
    /// For hosts that the Ingress has a TLS entry for.
    WhereTls,
    Always,
}

impl Redirects {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "ssl-redirect" => self.read_to_https(ToHttps::WhereTls, value),
            "force-ssl-redirect" => self.read_to_https(ToHttps::Always, value),
            "use-port-in-redirects" => boolean(value).or_default().map(|on| self.with_port = on),
            "relative-redirects" => boolean(value).or_default().map(|on| self.relative = on),
            "from-to-www-redirect" => boolean(value).or_default().map(|on| self.www = on),
            "permanent-redirect" => {
                target(value).or_refuse().map(|target| self.permanent = Some(target))
            }
            "permanent-redirect-code" => {
                code(value, 300..=308).or_default().map(|code| self.permanent_code = Some(code))
            }
            "temporal-redirect" => {
                target(value).or_refuse().map(|target| self.temporal = Some(target))
            }
            "temporal-redirect-code" => {
                code(value, 300..=307).or_default().map(|code| self.temporal_code = Some(code))
            }
            _ => return None,
        })
    }

    fn read_to_https(&mut self, wanted: ToHttps, value: &str) -> Read {
        let on = boolean(value).or_default()?;
        if on && self.to_https != ToHttps::Always {
            self.to_https = wanted;
        } else if !on && self.to_https == wanted {
            self.to_https = ToHttps::Never;
        }
        Ok(())
    }

    /// The redirect of all requests, with the annotation that asks for it.
    pub(crate) fn of_all(&self) -> Option<(&Template, StatusCode, &'static str)> {
        let temporal = self
            .temporal
            .as_ref()
            .map(|to| (to, self.temporal_code.unwrap_or(StatusCode::FOUND), "temporal-redirect"));
        temporal.or_else(|| {
            let status = self.permanent_code.unwrap_or(StatusCode::MOVED_PERMANENTLY);
            self.permanent.as_ref().map(|to| (to, status, "permanent-redirect"))
        })
    }
}

/// A URL or path, which may have variables.
fn target(value: &str) -> Result<Template, String> {
    let fits = |byte: u8| byte.is_ascii_graphic();
    let begins = ["/", "http://", "https://", "$"].iter().any(|start| value.starts_with(start));
    if !begins || !value.bytes().all(fits) {
        return Err(format!("{value:?} is not a URL or a path"));
    }
    Template::parse(value).map_err(|error| error.to_string())
}

fn code(value: &str, range: RangeInclusive<u16>) -> Result<StatusCode, String> {
    let parsed = value.parse().ok().filter(|code| range.contains(code));
    let status = parsed.and_then(|code| StatusCode::from_u16(code).ok());
    status.ok_or_else(|| {
        format!("{value:?} is not a status from {} to {}", range.start(), range.end())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_all(annotations: &[(&str, &str)]) -> Option<(String, u16)> {
        let mut redirects = Redirects::default();
        for (name, value) in annotations {
            let _ = redirects.read(name, value).unwrap();
        }
        let (to, status, _) = redirects.of_all()?;
        Some((to.as_text().unwrap_or("variables").to_owned(), status.as_u16()))
    }

    #[test]
    fn the_temporal_redirect_wins_and_codes_have_bounds() {
        let permanent = ("permanent-redirect", "http://r.example.com");
        let temporal = ("temporal-redirect", "http://t.example.com");
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<(&'a str, u16)>);
        let table: [Row<'_>; 9] = [
            (&[], None),
            (&[permanent], Some(("http://r.example.com", 301))),
            (&[permanent, ("permanent-redirect-code", "302")], Some(("http://r.example.com", 302))),
            (&[permanent, ("permanent-redirect-code", "200")], Some(("http://r.example.com", 301))),
            (&[temporal, ("temporal-redirect-code", "308")], Some(("http://t.example.com", 302))),
            (&[temporal, ("temporal-redirect-code", "307")], Some(("http://t.example.com", 307))),
            (&[permanent, temporal], Some(("http://t.example.com", 302))),
            (&[("permanent-redirect", "ftp://x")], None),
            (&[("permanent-redirect", "https://$host$request_uri")], Some(("variables", 301))),
        ];
        for (annotations, expected) in table {
            let expected = expected.map(|(to, code)| (to.to_owned(), code));
            assert_eq!(of_all(annotations), expected, "{annotations:?}");
        }
    }
}
