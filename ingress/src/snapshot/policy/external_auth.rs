//! Annotations that ask another server whether a request is let in.
//!
//! Pure. Where the server is must not depend on the request: a client could choose it otherwise.

use http::{HeaderName, Method};

use super::value::{OrElse as _, Read, boolean, list};
use crate::head::is_of_connection;
use crate::template::Template;

/// How requests of one Ingress are asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExternalAuth {
    pub(crate) url: Option<AuthUrl>,
    pub(crate) method: Option<Method>,
    /// Where clients go that are not known, and the name of the parameter for the way back.
    pub(crate) signin: Option<Template>,
    pub(crate) signin_param: Option<Box<str>>,
    /// Fields of the answer that endpoints get in the place of the client's.
    pub(crate) response_fields: Vec<HeaderName>,
    pub(crate) request_redirect: Option<Template>,
    pub(crate) always_sets_cookie: bool,
}

/// The URL of an authentication server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuthUrl {
    pub(crate) is_https: bool,
    /// Without brackets.
    pub(crate) host: Box<str>,
    pub(crate) port: u16,
    /// Path and query.
    pub(crate) target: Template,
}

impl ExternalAuth {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "auth-url" => auth_url(value).or_refuse().map(|url| self.url = Some(url)),
            "auth-method" => method(value).or_refuse().map(|method| self.method = Some(method)),
            "auth-signin" => template(value).or_refuse().map(|url| self.signin = Some(url)),
            "auth-signin-redirect-param" => self.param(value),
            "auth-response-headers" => {
                names(value).or_refuse().map(|all| self.response_fields = all)
            }
            "auth-request-redirect" => {
                template(value).or_refuse().map(|text| self.request_redirect = Some(text))
            }
            "auth-always-set-cookie" => {
                boolean(value).or_refuse().map(|always| self.always_sets_cookie = always)
            }
            _ => return None,
        })
    }

    fn param(&mut self, value: &str) -> Read {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let is_name = !value.is_empty() && value.bytes().all(fits);
        let name = is_name.then_some(value).ok_or_else(|| format!("{value:?} is not a name"));
        self.signin_param = Some(name.or_refuse()?.into());
        Ok(())
    }
}

fn template(value: &str) -> Result<Template, String> {
    Template::parse(value).map_err(|unknown| unknown.to_string())
}

fn auth_url(value: &str) -> Result<AuthUrl, String> {
    let bad = |what: &str| format!("{value:?} {what}");
    let (scheme, rest) = value.split_once("://").ok_or_else(|| bad("is not an absolute URL"))?;
    let is_https = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err(bad("is neither http nor https")),
    };
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(at);
    if authority.contains('$') {
        return Err(bad("has a variable in its host, which a client could choose"));
    }
    let parsed: http::uri::Authority = authority.parse().map_err(|_| bad("has no valid host"))?;
    let host = parsed.host().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains("..") || parsed.as_str().contains('@') {
        return Err(bad("has no valid host"));
    }
    let port = parsed.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    let target = match target.starts_with('/') {
        true => template(target)?,
        false => template(&format!("/{target}"))?,
    };
    Ok(AuthUrl { is_https, host: host.into(), port, target })
}

fn method(value: &str) -> Result<Method, String> {
    let method = Method::from_bytes(value.as_bytes()).ok();
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    let method = method.filter(|method| known.contains(method));
    method.ok_or_else(|| format!("{value:?} is not a method that can be used"))
}

fn names(value: &str) -> Result<Vec<HeaderName>, String> {
    let name = |name: &str| match HeaderName::from_bytes(name.as_bytes()) {
        Ok(field) if is_of_connection(&field) => {
            Err(format!("{name} frames requests, which a server cannot change"))
        }
        field => field.map_err(|_| format!("{name:?} is not a header name")),
    };
    list(value).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_authentication_servers() {
        let table = [
            ("http://auth.example/check", Some((false, "auth.example", 80))),
            ("https://auth.example?rd=$request_uri", Some((true, "auth.example", 443))),
            ("http://10.0.0.1:4180/oauth2/auth", Some((false, "10.0.0.1", 4180))),
            ("http://[2001:db8::1]:80/", Some((false, "2001:db8::1", 80))),
            ("https://invalid..auth.url", None),
            ("http://$http_x/", None),
            ("http://user@auth.example/", None),
            ("ftp://auth.example/", None),
            ("/check", None),
            ("http:///check", None),
            ("http://auth.example/$nothing", None),
        ];
        for (value, expected) in table {
            let found = auth_url(value).ok();
            let found = found.as_ref().map(|url| (url.is_https, &*url.host, url.port));
            assert_eq!(found, expected, "{value}");
        }
    }

    #[test]
    fn other_values() {
        let mut auth = ExternalAuth::default();
        let good = [
            ("auth-method", "POST"),
            ("auth-signin", "https://$host/start"),
            ("auth-signin-redirect-param", "orig"),
            ("auth-response-headers", "X-User, X-Email"),
            ("auth-always-set-cookie", "true"),
        ];
        for (name, value) in good {
            assert_eq!(auth.read(name, value), Some(Ok(())), "{name}");
        }
        assert_eq!(auth.response_fields, ["x-user", "x-email"]);
        let bad = [
            ("auth-method", "CONNECT"),
            ("auth-signin", "https://$nothing"),
            ("auth-signin-redirect-param", "a&b"),
            ("auth-response-headers", "a b"),
            // They would frame the request's body anew.
            ("auth-response-headers", "X-User, Content-Length"),
            ("auth-response-headers", "Transfer-Encoding"),
            ("auth-always-set-cookie", "maybe"),
        ];
        for (name, value) in bad {
            assert!(matches!(auth.read(name, value), Some(Err(_))), "{name}");
        }
    }
}
