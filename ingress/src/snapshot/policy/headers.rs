//! Annotations that change fields of requests and responses.
//!
//! Pure.

use http::{HeaderName, HeaderValue};

use super::value::{OrElse as _, Read, Unserved};
use crate::head::is_of_connection;
use crate::template::Template;

/// What one Ingress changes of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers {
    /// Fields for endpoints; without a text, the client's is left out.
    pub(crate) request: Vec<(HeaderName, Option<Template>)>,
    /// Fields for clients; without a value, the endpoint's is left out.
    pub(crate) response: Vec<(HeaderName, Option<HeaderValue>)>,
    /// What is replaced in cookies of endpoints, by what.
    pub(crate) cookie_domain: Option<(String, String)>,
    pub(crate) cookie_path: Option<(String, String)>,
    location_from: Option<String>,
    location_to: Option<String>,
    /// Connections to endpoints are used once.
    pub(crate) close: bool,
}

impl Headers {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "request-headers" => {
                request_fields(value).or_refuse().map(|fields| self.request = fields)
            }
            "response-headers" => {
                response_fields(value).or_refuse().map(|fields| self.response = fields)
            }
            "proxy-cookie-domain" => pair(&mut self.cookie_domain, value),
            "proxy-cookie-path" => pair(&mut self.cookie_path, value),
            "proxy-redirect-from" => {
                self.location_from = Some(value.to_owned()).filter(|from| is_set(from));
                Ok(())
            }
            "proxy-redirect-to" => {
                self.location_to = Some(value.to_owned()).filter(|to| is_set(to));
                Ok(())
            }
            "connection-proxy-header" => match value {
                "close" | "keep-alive" => {
                    self.close = value == "close";
                    Ok(())
                }
                _ => {
                    Err(Unserved::Ignored(format!("{value:?} is not \"close\" or \"keep-alive\"")))
                }
            },
            _ => return None,
        })
    }

    /// What is replaced at the start of endpoints' Location fields, by what.
    pub(crate) fn location(&self) -> Option<(String, String)> {
        Some((self.location_from.clone()?, self.location_to.clone()?))
    }
}

fn is_set(value: &str) -> bool {
    !matches!(value, "off" | "default")
}

/// `off`, or a text and what replaces it.
fn pair(to: &mut Option<(String, String)>, value: &str) -> Read {
    let parts: Vec<_> = value.split_whitespace().collect();
    *to = match &*parts {
        ["off"] => None,
        [from, to] => Some(((*from).to_owned(), (*to).to_owned())),
        _ => {
            let what = format!("{value:?} is not \"off\" or two texts");
            return Err(Unserved::Ignored(what));
        }
    };
    Ok(())
}

/// `Name: value` lines, without empty ones and comments.
fn fields(value: &str) -> impl Iterator<Item = Result<(HeaderName, &str), String>> {
    let lines = value.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| {
        let (name, value) =
            line.split_once(':').ok_or_else(|| format!("{line:?} is not \"Name: value\""))?;
        let name = HeaderName::from_bytes(name.trim().as_bytes())
            .map_err(|_| format!("{name:?} is not the name of a field"))?;
        match is_of_connection(&name) {
            true => Err(format!("{name} cannot be set: it belongs to a connection")),
            false => Ok((name, value.trim())),
        }
    })
}

fn request_fields(value: &str) -> Result<Vec<(HeaderName, Option<Template>)>, String> {
    let parsed = fields(value).map(|field| {
        let (name, value) = field?;
        HeaderValue::from_str(value).map_err(|_| format!("{value:?} is not a value"))?;
        let template = Template::parse(value).map_err(|error| error.to_string())?;
        Ok((name, Some(template).filter(|_| !value.is_empty())))
    });
    parsed.collect()
}

fn response_fields(value: &str) -> Result<Vec<(HeaderName, Option<HeaderValue>)>, String> {
    let parsed = fields(value).map(|field| {
        let (name, value) = field?;
        let checked =
            HeaderValue::from_str(value).map_err(|_| format!("{value:?} is not a value"))?;
        Ok((name, Some(checked).filter(|_| !value.is_empty())))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_lines() {
        let mut headers = Headers::default();
        let lines = "X-A: 1\n# why\n\n  X-B:  $remote_addr:x \nCookie:\n";
        assert_eq!(headers.read("request-headers", lines), Some(Ok(())));
        let names: Vec<_> =
            headers.request.iter().map(|(name, v)| (name.as_str(), v.is_some())).collect();
        assert_eq!(names, [("x-a", true), ("x-b", true), ("cookie", false)]);
        for bad in ["X-A 1", "X A: 1", "Content-Length: 1", "Host: x", "X: $nothing", "X: a\u{7f}"]
        {
            let read = headers.read("request-headers", bad).unwrap();
            assert!(matches!(read, Err(Unserved::Refused(_))), "{bad}: {read:?}");
        }
        assert!(headers.read("response-headers", "X: $1").unwrap().is_ok(), "a literal");
        assert!(headers.read("response-headers", "Connection: close").unwrap().is_err());
    }

    #[test]
    fn both_sides_of_a_location_are_needed() {
        let mut headers = Headers::default();
        headers.read("proxy-redirect-from", "http://a/").unwrap().unwrap();
        assert_eq!(headers.location(), None);
        headers.read("proxy-redirect-to", "https://b/").unwrap().unwrap();
        assert_eq!(headers.location(), Some(("http://a/".to_owned(), "https://b/".to_owned())));
        headers.read("proxy-redirect-from", "off").unwrap().unwrap();
        assert_eq!(headers.location(), None);
    }
}
