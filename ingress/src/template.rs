//! Texts of annotations with variables of nginx in them: `http://$host/auth?from=$request_uri`.
//!
//! Pure. A text is parsed once, when its route is compiled; a request only joins the parts. A name
//! that is unknown is an error of the annotation, never an empty text. Left out: `$hostname`,
//! `$remote_port` and what only nginx knows.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use http::Version;
use http::header::{self, HeaderMap, HeaderName};
use model::ObjectName;
use smallvec::SmallVec;

use crate::basic::credentials;
use crate::origin::{Origin, X_FORWARDED_FOR, scheme_name};

/// A text with variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Variable(Variable),
}

/// What of a request a variable stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    Scheme,
    Host,
    HttpHost,
    Header(HeaderName),
    Cookie(Box<str>),
    Argument(Box<str>),
    RequestUri,
    EscapedRequestUri,
    Uri,
    Query,
    /// `?` if there is a query.
    IsQuery,
    Method,
    RequestId,
    RemoteAddr,
    ForwardedFor,
    RemoteUser,
    ServerPort,
    Protocol,
    ClientVerify,
    ClientSubject,
    ClientIssuer,
    Namespace,
    Ingress,
    Service,
    ServicePort,
    LocationPath,
    /// Of the path's regular expression: 0 is all that it matched.
    Capture(usize),
}

/// A variable in a text that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("${0} is not a known variable")]
pub(crate) struct UnknownVariable(String);

/// What the parts of a path's regular expression matched, the whole match first.
pub(crate) type Captures<'a> = SmallVec<[&'a str; 4]>;

/// What variables stand for in a request.
#[derive(Clone, Debug)]
pub(crate) struct Values<'a> {
    pub(crate) method: &'a str,
    pub(crate) version: Version,
    /// The client reached us, or the first proxy before us, over TLS.
    pub(crate) is_https: bool,
    /// Host and port, as the client wrote them.
    pub(crate) authority: &'a str,
    /// The host as rules spell it.
    pub(crate) host: &'a str,
    /// The path as the client wrote it.
    pub(crate) written_path: &'a str,
    /// The path as it was matched, or was rewritten to.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) origin: &'a Origin,
    /// The address of the client.
    pub(crate) client: IpAddr,
    pub(crate) request_id: AddsText<'a>,
    /// Whether `$remote_user` is the user of the client's credentials; otherwise it is empty.
    pub(crate) names_user: bool,
    /// What is known of the client's certificate, as nginx writes it.
    pub(crate) client_verify: &'static str,
    pub(crate) client_subject: &'a str,
    pub(crate) client_issuer: &'a str,
    pub(crate) captures: &'a [&'a str],
    pub(crate) place: Place<'a>,
}

/// What adds a text to another one, for one that is seldom needed.
#[derive(Clone, Copy)]
pub(crate) struct AddsText<'a>(pub(crate) &'a dyn Fn(&mut String));

impl fmt::Debug for AddsText<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AddsText")
    }
}

/// The rule that a request came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) ingress: &'a ObjectName,
    pub(crate) service: &'a str,
    pub(crate) service_port: &'a str,
    pub(crate) path: &'a str,
}

impl Template {
    /// Reads `$name` and `${name}`; a `$` that no name follows stands for itself.
    pub(crate) fn parse(text: &str) -> Result<Template, UnknownVariable> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            literal.push_str(before);
            let (name, behind) = split_name(after);
            if name.is_empty() {
                literal.push('$');
                rest = after;
                continue;
            }
            let variable = variable(name).ok_or_else(|| UnknownVariable(name.to_owned()))?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::Variable(variable));
            rest = behind;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        Ok(Template { parts: parts.into() })
    }

    /// A text in which nothing is a variable.
    pub(crate) fn literal(text: &str) -> Template {
        Template { parts: [Part::Text(text.into())].into() }
    }

    /// The text, if there is no variable in it.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text before the first variable.
    pub(crate) fn start(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// The text for a request.
    pub(crate) fn render(&self, values: &Values<'_>) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Variable(variable) => variable.add(values, &mut out),
            }
        }
        out
    }

    /// The text where only captures are replaced, as in a path to rewrite to.
    pub(crate) fn render_captures(&self, captures: &[&str]) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Variable(Variable::Capture(at)) => {
                    out.push_str(captures.get(*at).copied().unwrap_or_default());
                }
                Part::Variable(_) => {}
            }
        }
        out
    }

    /// Whether captures are all that it has of variables.
    pub(crate) fn has_only_captures(&self) -> bool {
        let fits =
            |part: &Part| matches!(part, Part::Text(_) | Part::Variable(Variable::Capture(_)));
        self.parts.iter().all(fits)
    }
}

/// The name at the start of a text that follows a `$`, and what follows the name.
fn split_name(text: &str) -> (&str, &str) {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if let Some(braced) = text.strip_prefix('{')
        && let Some((name, behind)) = braced.split_once('}')
        && name.bytes().all(is_name)
    {
        return (name, behind);
    }
    // `$10` is the first capture and a zero, as for nginx.
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        return text.split_at(1);
    }
    text.split_at(text.bytes().position(|byte| !is_name(byte)).unwrap_or(text.len()))
}

fn variable(name: &str) -> Option<Variable> {
    let field = |name: &str| HeaderName::from_bytes(name.replace('_', "-").as_bytes()).ok();
    Some(match name {
        "scheme" | "pass_access_scheme" => Variable::Scheme,
        "host" | "server_name" => Variable::Host,
        "http_host" | "best_http_host" => Variable::HttpHost,
        "request_uri" => Variable::RequestUri,
        "escaped_request_uri" => Variable::EscapedRequestUri,
        "uri" | "document_uri" => Variable::Uri,
        "args" | "query_string" => Variable::Query,
        "is_args" => Variable::IsQuery,
        "request_method" => Variable::Method,
        "request_id" | "req_id" => Variable::RequestId,
        "remote_addr" | "binary_remote_addr" | "the_real_ip" => Variable::RemoteAddr,
        "proxy_add_x_forwarded_for" => Variable::ForwardedFor,
        "remote_user" => Variable::RemoteUser,
        "server_port" | "pass_port" | "pass_server_port" => Variable::ServerPort,
        "server_protocol" => Variable::Protocol,
        "content_type" => Variable::Header(header::CONTENT_TYPE),
        "content_length" => Variable::Header(header::CONTENT_LENGTH),
        "ssl_client_verify" => Variable::ClientVerify,
        "ssl_client_s_dn" => Variable::ClientSubject,
        "ssl_client_i_dn" => Variable::ClientIssuer,
        "namespace" => Variable::Namespace,
        "ingress_name" => Variable::Ingress,
        "service_name" => Variable::Service,
        "service_port" => Variable::ServicePort,
        "location_path" => Variable::LocationPath,
        _ => match name.split_once('_') {
            Some(("http", field_name)) => Variable::Header(field(field_name)?),
            Some(("cookie", cookie)) if !cookie.is_empty() => Variable::Cookie(cookie.into()),
            Some(("arg", argument)) if !argument.is_empty() => Variable::Argument(argument.into()),
            _ if name.len() == 1 => Variable::Capture(name.parse().ok()?),
            _ => return None,
        },
    })
}

impl Variable {
    fn add(&self, values: &Values<'_>, out: &mut String) {
        match self {
            Variable::Scheme => out.push_str(scheme_name(values.is_https)),
            Variable::Host => out.push_str(values.host),
            Variable::HttpHost => out.push_str(values.authority),
            Variable::Header(name) => out.push_str(text_of(values.headers, name)),
            Variable::Cookie(name) => out.push_str(cookie(values.headers, name).unwrap_or("")),
            Variable::Argument(name) => out.push_str(argument(values.query, name).unwrap_or("")),
            Variable::RequestUri => out.push_str(&values.request_uri()),
            Variable::EscapedRequestUri => escape(&values.request_uri(), out),
            Variable::Uri => out.push_str(values.path),
            Variable::Query => out.push_str(values.query.unwrap_or_default()),
            Variable::IsQuery => {
                out.push_str(if values.query.is_some_and(|q| !q.is_empty()) { "?" } else { "" });
            }
            Variable::Method => out.push_str(values.method),
            Variable::RequestId => (values.request_id.0)(out),
            Variable::RemoteAddr => push(out, values.client),
            Variable::ForwardedFor => values.forwarded_for(out),
            Variable::RemoteUser => values.push_user(out),
            Variable::ServerPort => push(out, values.origin.port),
            Variable::Protocol => push(out, format_args!("{:?}", values.version)),
            Variable::ClientVerify => out.push_str(values.client_verify),
            Variable::ClientSubject => out.push_str(values.client_subject),
            Variable::ClientIssuer => out.push_str(values.client_issuer),
            Variable::Namespace => out.push_str(&values.place.ingress.namespace),
            Variable::Ingress => out.push_str(&values.place.ingress.name),
            Variable::Service => out.push_str(values.place.service),
            Variable::ServicePort => out.push_str(values.place.service_port),
            Variable::LocationPath => out.push_str(values.place.path),
            Variable::Capture(at) => {
                out.push_str(values.captures.get(*at).copied().unwrap_or_default());
            }
        }
    }
}

impl Values<'_> {
    /// Path and query as the client wrote them.
    pub(crate) fn request_uri(&self) -> Cow<'_, str> {
        match self.query {
            None => Cow::Borrowed(self.written_path),
            Some(query) => Cow::Owned(format!("{}?{query}", self.written_path)),
        }
    }

    fn push_user(&self, out: &mut String) {
        let given = self.names_user.then(|| credentials(self.headers)).flatten();
        let user = given.as_deref().and_then(|given| given.split_once(':'));
        out.push_str(user.map_or("", |(user, _)| user));
    }

    fn forwarded_for(&self, out: &mut String) {
        let given = text_of(self.headers, &X_FORWARDED_FOR);
        if self.origin.trusted && !given.is_empty() {
            push(out, format_args!("{given}, {}", self.origin.peer));
        } else {
            push(out, self.origin.peer);
        }
    }
}

fn push(out: &mut String, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("a String takes any text");
}

/// The first field of that name, as text.
fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The value of a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let fields = headers.get_all(header::COOKIE).iter().filter_map(|field| field.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(key, _)| key.trim() == name);
    values.next().map(|(_, value)| value.trim())
}

/// The value of an argument of the query, as it is written there.
fn argument<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Escapes a text so that it can be a value in a query (RFC 3986 section 2.3).
pub(crate) fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            push(out, format_args!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_queries_are_escaped() {
        let mut out = String::new();
        escape("/?a=b&c=d e~", &mut out);
        assert_eq!(out, "%2F%3Fa%3Db%26c%3Dd%20e~");
    }

    fn render(text: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", "ada".parse().unwrap());
        headers.insert("authorization", "Basic Ym9iOmE6Yg==".parse().unwrap());
        headers.insert("cookie", "a=1; session=xyz".parse().unwrap());
        headers.insert("x-forwarded-for", "9.9.9.9".parse().unwrap());
        let networks = ["10.0.0.0/8".parse().unwrap()];
        let origin = Origin::new("10.0.0.1".parse().unwrap(), false, 8080, &networks);
        let ingress = ObjectName::new("shop", "front");
        let values = Values {
            method: "GET",
            version: Version::HTTP_2,
            is_https: true,
            authority: "Shop.example:8080",
            host: "shop.example",
            written_path: "/a//b",
            path: "/a/b",
            query: Some("x=1&y=%20"),
            headers: &headers,
            origin: &origin,
            client: "9.9.9.9".parse().unwrap(),
            request_id: AddsText(&|text| text.push_str("1f")),
            names_user: true,
            client_verify: "NONE",
            client_subject: "CN=ada",
            client_issuer: "CN=ca",
            captures: &["/a/b", "b"],
            place: Place { ingress: &ingress, service: "web", service_port: "80", path: "/a" },
        };
        Template::parse(text).unwrap().render(&values)
    }

    #[test]
    fn variables_stand_for_parts_of_the_request() {
        let table = [
            ("", ""),
            ("plain", "plain"),
            ("$scheme://$host$request_uri", "https://shop.example/a//b?x=1&y=%20"),
            ("${http_host}x", "Shop.example:8080x"),
            ("$uri$is_args$args", "/a/b?x=1&y=%20"),
            ("$escaped_request_uri", "%2Fa%2F%2Fb%3Fx%3D1%26y%3D%2520"),
            ("$http_x_user-$http_absent", "ada-"),
            ("$cookie_session|$cookie_none", "xyz|"),
            ("$arg_y|$arg_X|$arg_z", "%20|1|"),
            ("$request_method $server_protocol $server_port", "GET HTTP/2.0 8080"),
            ("$remote_addr $proxy_add_x_forwarded_for", "9.9.9.9 9.9.9.9, 10.0.0.1"),
            ("$namespace/$ingress_name/$service_name:$service_port", "shop/front/web:80"),
            ("$location_path $1 $10 $2", "/a b b0 "),
            ("$req_id $request_id $remote_user", "1f 1f bob"),
            ("a$", "a$"),
            ("a$-b", "a$-b"),
            ("${", "${"),
            ("$ssl_client_verify$ssl_client_s_dn", "NONECN=ada"),
        ];
        for (text, expected) in table {
            assert_eq!(render(text), expected, "{text}");
        }
    }

    #[test]
    fn unknown_names_are_errors() {
        for (text, name) in [("$hostx", "hostx"), ("a${upstream_addr}", "upstream_addr")] {
            let error = Template::parse(text).unwrap_err();
            assert_eq!(error.to_string(), format!("${name} is not a known variable"));
        }
    }

    #[test]
    fn what_a_template_is_known_by() {
        let parsed = |text| Template::parse(text).unwrap();
        assert_eq!(parsed("a$-").as_text(), Some("a$-"));
        assert_eq!(parsed("").as_text(), Some(""));
        assert_eq!(parsed("a$host").as_text(), None);
        assert_eq!(parsed("http://a/$host").start(), "http://a/");
        assert_eq!(parsed("$host").start(), "");
        assert!(parsed("/$1/x").has_only_captures());
        assert!(!parsed("/$host/x").has_only_captures());
        assert_eq!(parsed("/a/$1/$3").render_captures(&["all", "b"]), "/a/b/");
        assert_eq!(Template::literal("$host").as_text(), Some("$host"));
    }
}
