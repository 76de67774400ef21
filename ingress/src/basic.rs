//! The credentials that a request brings for basic authentication (RFC 7617). Pure.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{self, HeaderMap};

/// `user:password` of a request's Authorization field (RFC 7617).
pub(crate) fn credentials(headers: &HeaderMap) -> Option<String> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let field = fields.next()?.to_str().ok()?;
    // Which of several counts is not certain.
    if fields.next().is_some() {
        return None;
    }
    let (scheme, encoded) = field.split_once(' ')?;
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    scheme.eq_ignore_ascii_case("basic").then(|| String::from_utf8(decoded).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_a_request() {
        let table: [(&[&str], Option<&str>); 8] = [
            (&["Basic Zm9vOmJhcg=="], Some("foo:bar")),
            (&["basic  Zm9vOmJhcg== "], Some("foo:bar")),
            (&["Basic Zm9vOmI6YXI="], Some("foo:b:ar")),
            (&["Bearer Zm9vOmJhcg=="], None),
            (&["Basic Zm9vOmJhcg"], None),
            (&["Basic"], None),
            (&["Basic Zm9vOmJhcg==", "Basic Zm9vOmJhcg=="], None),
            (&[], None),
        ];
        for (fields, expected) in table {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(header::AUTHORIZATION, field.parse().unwrap());
            }
            assert_eq!(credentials(&headers).as_deref(), expected, "{fields:?}");
        }
    }
}
