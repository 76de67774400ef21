//! What a route changes of responses, those of endpoints and our own alike.
//!
//! Pure.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::policy::{Origins, Policy};

const DEFAULT_METHODS: HeaderValue =
    HeaderValue::from_static("GET, PUT, POST, DELETE, PATCH, OPTIONS");
const DEFAULT_HEADERS: HeaderValue = HeaderValue::from_static(
    "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,\
     Range,Authorization",
);
const DEFAULT_MAX_AGE: i64 = 1_728_000;

/// What is changed of responses.
#[derive(Clone, Debug)]
pub(crate) struct ResponseRules {
    pub(crate) cors: Option<CorsRules>,
    /// Fields that are set, or left out.
    fields: Vec<(HeaderName, Option<HeaderValue>)>,
    cookie_domain: Option<(String, String)>,
    cookie_path: Option<(String, String)>,
    location: Option<(String, String)>,
}

/// What is said to pages of other origins.
#[derive(Clone, Debug)]
pub(crate) struct CorsRules {
    origins: Origins,
    /// The fields of every response to an origin that is allowed.
    fields: Vec<(HeaderName, HeaderValue)>,
}

/// What is changed of one response.
#[derive(Debug)]
pub(crate) struct ResponseEdits {
    rules: Arc<ResponseRules>,
    /// The value of Access-Control-Allow-Origin.
    origin: Option<HeaderValue>,
}

impl ResponseRules {
    /// What the annotations of one Ingress ask for.
    pub(super) fn of(policy: &Policy) -> Option<Arc<ResponseRules>> {
        let (cors, headers) = (&policy.cors, &policy.headers);
        let rules = ResponseRules {
            cors: cors.on.then(|| CorsRules::of(policy)),
            fields: headers.response.clone(),
            cookie_domain: headers.cookie_domain.clone(),
            cookie_path: headers.cookie_path.clone(),
            location: headers.location(),
        };
        let rewrites = [&rules.cookie_domain, &rules.cookie_path, &rules.location];
        let is_any = rules.cors.is_some()
            || !rules.fields.is_empty()
            || rewrites.iter().any(|rewrite| rewrite.is_some());
        is_any.then(|| Arc::new(rules))
    }
}

impl CorsRules {
    fn of(policy: &Policy) -> CorsRules {
        let cors = &policy.cors;
        let mut fields = vec![
            (header::ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone().unwrap_or(DEFAULT_METHODS)),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.clone().unwrap_or(DEFAULT_HEADERS)),
            (header::ACCESS_CONTROL_MAX_AGE, cors.max_age.unwrap_or(DEFAULT_MAX_AGE).into()),
        ];
        if !cors.no_credentials {
            let yes = HeaderValue::from_static("true");
            fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes));
        }
        let expose = cors.expose.clone();
        fields.extend(expose.map(|names| (header::ACCESS_CONTROL_EXPOSE_HEADERS, names)));
        CorsRules { origins: cors.origins.clone().unwrap_or(Origins::Any), fields }
    }

    /// What Access-Control-Allow-Origin is for a request; `None` if its origin is not allowed.
    pub(crate) fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.origins == Origins::Any {
            return Some(HeaderValue::from_static("*"));
        }
        let origin = headers.get(header::ORIGIN)?;
        self.origins.allow(origin.to_str().ok()?).then(|| origin.clone())
    }
}

impl ResponseEdits {
    /// For the response to a request with these fields.
    pub(crate) fn new(rules: &Arc<ResponseRules>, request: &HeaderMap) -> ResponseEdits {
        let origin = rules.cors.as_ref().and_then(|cors| cors.allowed(request));
        ResponseEdits { rules: rules.clone(), origin }
    }

    /// Changes the fields of the response.
    pub(crate) fn apply(self, fields: &mut HeaderMap) {
        let rules = &*self.rules;
        if let Some((from, to)) = &rules.location {
            for name in [header::LOCATION, header::REFRESH] {
                rewrite_location(fields, &name, from, to);
            }
        }
        if rules.cookie_domain.is_some() || rules.cookie_path.is_some() {
            rewrite_cookies(fields, rules);
        }
        if let Some(cors) = &rules.cors {
            if cors.origins != Origins::Any {
                fields.append(header::VARY, HeaderValue::from_static("Origin"));
            }
            if let Some(origin) = self.origin {
                fields.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
                for (name, value) in &cors.fields {
                    fields.insert(name, value.clone());
                }
            }
        }
        for (name, value) in &rules.fields {
            match value {
                Some(value) => drop(fields.insert(name, value.clone())),
                None => drop(fields.remove(name)),
            }
        }
    }
}

/// Replaces the start of a URL. Refresh has seconds before its URL: `5; url=http://…`.
fn rewrite_location(fields: &mut HeaderMap, name: &HeaderName, from: &str, to: &str) {
    let Some(text) = fields.get(name).and_then(|value| value.to_str().ok()) else { return };
    let start = if *name == header::REFRESH { text.find("url=").map_or(0, |at| at + 4) } else { 0 };
    let Some(rest) = text[start..].strip_prefix(from) else { return };
    if let Ok(value) = HeaderValue::try_from(format!("{}{to}{rest}", &text[..start])) {
        fields.insert(name, value);
    }
}

fn rewrite_cookies(fields: &mut HeaderMap, rules: &ResponseRules) {
    let before: Vec<_> = fields.get_all(header::SET_COOKIE).iter().cloned().collect();
    fields.remove(header::SET_COOKIE);
    for cookie in before {
        let text = cookie.to_str().ok().map(|text| rewritten_cookie(text, rules));
        let after = text.and_then(|text| HeaderValue::try_from(text).ok());
        fields.append(header::SET_COOKIE, after.unwrap_or(cookie));
    }
}

fn rewritten_cookie(cookie: &str, rules: &ResponseRules) -> String {
    let attribute = |part: &str| {
        let (name, value) = part.split_once('=')?;
        let value = value.trim();
        let name = name.trim();
        if name.eq_ignore_ascii_case("domain") {
            let (from, to) = rules.cookie_domain.as_ref()?;
            let bare = |domain: &str| domain.trim_start_matches('.').to_ascii_lowercase();
            return (bare(value) == bare(from)).then(|| format!(" Domain={to}"));
        }
        if name.eq_ignore_ascii_case("path") {
            let (from, to) = rules.cookie_path.as_ref()?;
            return value.strip_prefix(&**from).map(|rest| format!(" Path={to}{rest}"));
        }
        None
    };
    let mut parts = cookie.split(';');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push(';');
        text.push_str(&attribute(part).unwrap_or_else(|| part.to_owned()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(from: &str, to: &str) -> Option<(String, String)> {
        Some((from.to_owned(), to.to_owned()))
    }

    #[test]
    fn cookies_and_locations_are_rewritten() {
        let rules = ResponseRules {
            cors: None,
            fields: Vec::new(),
            cookie_domain: pair("localhost", "example.org"),
            cookie_path: pair("/app", "/"),
            location: pair("http://in/", "https://out/"),
        };
        let mut fields = HeaderMap::new();
        for cookie in [
            "a=domain=localhost; Domain=.LocalHost; path=/app/x; Secure",
            "b=1; Path=/other; Domain=a.localhost",
            "c",
        ] {
            fields.append("set-cookie", cookie.parse().unwrap());
        }
        fields.insert("location", "http://in/x".parse().unwrap());
        fields.insert("refresh", "5; url=http://in/y".parse().unwrap());
        ResponseEdits { rules: Arc::new(rules), origin: None }.apply(&mut fields);
        let cookies: Vec<_> =
            fields.get_all("set-cookie").iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(
            cookies,
            [
                "a=domain=localhost; Domain=example.org; Path=//x; Secure",
                "b=1; Path=/other; Domain=a.localhost",
                "c",
            ]
        );
        assert_eq!(fields["location"], "https://out/x");
        assert_eq!(fields["refresh"], "5; url=https://out/y");
    }
}
