//! Annotations by which another server gets a copy of each request.
//!
//! Pure.

use http::HeaderValue;
use http::uri::Authority;

use super::value::{OrElse as _, Read, switch};
use crate::template::Template;

/// Where copies of requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    /// The whole URL.
    pub(crate) target: Template,
    pub(crate) is_https: bool,
    pub(crate) authority: Authority,
    /// The Host that is sent, instead of the target's.
    pub(crate) host: Option<HeaderValue>,
    pub(crate) with_body: bool,
}

/// The annotations of this group, as they are read one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MirrorAnnotations {
    target: Option<(Template, bool, Authority)>,
    host: Option<HeaderValue>,
    without_body: bool,
}

impl MirrorAnnotations {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "mirror-target" => target(value).or_default().map(|target| self.target = Some(target)),
            "mirror-host" => value
                .parse::<Authority>()
                .ok()
                .and_then(|host| HeaderValue::from_str(host.as_str()).ok())
                .ok_or_else(|| format!("{value:?} is not a host"))
                .or_default()
                .map(|host| self.host = Some(host)),
            "mirror-request-body" => {
                switch(value).or_default().map(|with_body| self.without_body = !with_body)
            }
            _ => return None,
        })
    }

    /// What they come to.
    pub(crate) fn mirror(&self) -> Option<Mirror> {
        let (target, is_https, authority) = self.target.clone()?;
        let host = self.host.clone();
        Some(Mirror { target, is_https, authority, host, with_body: !self.without_body })
    }
}

/// A URL, of which requests can choose the path and the query, and nothing before it.
fn target(value: &str) -> Result<(Template, bool, Authority), String> {
    let bad = || {
        format!(
            "{value:?} is not a URL whose host is written out (example: \
             http://mirror.example$request_uri)"
        )
    };
    let template = Template::parse(value).map_err(|error| error.to_string())?;
    let (is_https, rest) = match value.strip_prefix("https://") {
        Some(rest) => (true, rest),
        None => (false, value.strip_prefix("http://").ok_or_else(bad)?),
    };
    let (host, path) = rest.split_at(rest.find(['/', '?', '$']).unwrap_or(rest.len()));
    let is_path = path.is_empty()
        || path.starts_with('/')
        || ["$request_uri", "${request_uri}", "$uri", "${uri}"].iter().any(|v| path.starts_with(v));
    let authority = host.parse::<Authority>().ok().filter(|a| is_path && !a.host().is_empty());
    let authority = authority.filter(|a| !a.as_str().contains('@')).ok_or_else(bad)?;
    Ok((template, is_https, authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_do_not_choose_the_host() {
        let good = [
            ("http://m.example", "m.example"),
            ("https://m.example:8443/copy", "m.example:8443"),
            ("http://m.example$request_uri", "m.example"),
            ("http://10.0.0.1:80/x?from=$http_host", "10.0.0.1:80"),
        ];
        for (value, authority) in good {
            let (_, is_https, found) = target(value).unwrap();
            assert_eq!((found.as_str(), is_https), (authority, value.starts_with("https")));
        }
        let bad = [
            "m.example",
            "http://$http_host$request_uri",
            "http://m.example$http_x",
            "http://$host/",
            "http://user@m.example/",
            "http:///x",
            "ftp://m.example/",
        ];
        for value in bad {
            assert!(target(value).is_err(), "{value}");
        }
    }
}
