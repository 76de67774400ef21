//! The formats of names and values, with the API's words for what breaks them.

const LABEL_LENGTH: usize = 63;
const SUBDOMAIN_LENGTH: usize = 253;

const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
    characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  \
    or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case \
    alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character \
    (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const WILDCARD_RULE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a \
    valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' \
    and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is \
    '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', \
    and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
    '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric \
    characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
    'MyValue',  or 'my_value',  or '12345', regex used for validation is \
    '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// A DNS label of RFC 1123: the name of a Service, a namespace, a port of an endpoint.
pub(super) fn dns_label(text: &str) -> Result<(), String> {
    at_most(text, LABEL_LENGTH)?;
    if is_label(text) { Ok(()) } else { Err(LABEL_RULE.to_owned()) }
}

/// A DNS name of RFC 1123: the name of most objects.
pub(super) fn dns_subdomain(text: &str) -> Result<(), String> {
    at_most(text, SUBDOMAIN_LENGTH)?;
    if is_subdomain(text) { Ok(()) } else { Err(SUBDOMAIN_RULE.to_owned()) }
}

/// A DNS name whose first label is `*`.
pub(super) fn wildcard_subdomain(text: &str) -> Result<(), String> {
    at_most(text, SUBDOMAIN_LENGTH)?;
    match text.strip_prefix("*.") {
        Some(rest) if is_subdomain(rest) => Ok(()),
        _ => Err(WILDCARD_RULE.to_owned()),
    }
}

/// The name of a container's port (RFC 6335 section 5.1).
pub(super) fn port_name(text: &str) -> Result<(), String> {
    at_most(text, 15)?;
    let why = if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    } else if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        "must contain at least one letter (a-z)"
    } else if text.contains("--") {
        "must not contain consecutive hyphens"
    } else if text.starts_with('-') || text.ends_with('-') {
        "must not begin or end with a hyphen"
    } else {
        return Ok(());
    };
    Err(why.to_owned())
}

/// The key of a label or an annotation: a name, perhaps after a DNS prefix and `/`.
pub(super) fn qualified_name(text: &str) -> Result<(), String> {
    let name = match text.split_once('/') {
        None => text,
        Some(("", _)) => return Err("prefix part must be non-empty".to_owned()),
        Some((prefix, name)) => {
            dns_subdomain(prefix).map_err(|why| format!("prefix part {why}"))?;
            name
        }
    };
    if name.is_empty() {
        return Err("name part must be non-empty".to_owned());
    }
    at_most(name, LABEL_LENGTH).map_err(|why| format!("name part {why}"))?;
    if is_qualified(name) { Ok(()) } else { Err(QUALIFIED_RULE.to_owned()) }
}

pub(super) fn label_value(text: &str) -> Result<(), String> {
    at_most(text, LABEL_LENGTH)?;
    if text.is_empty() || is_qualified(text) { Ok(()) } else { Err(LABEL_VALUE_RULE.to_owned()) }
}

/// A key of a Secret's data.
pub(super) fn data_key(text: &str) -> Result<(), String> {
    at_most(text, SUBDOMAIN_LENGTH)?;
    let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if !text.is_empty() && text.bytes().all(valid) && !matches!(text, "." | "..") {
        return Ok(());
    }
    Err("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
        'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
        '[-._a-zA-Z0-9]+')"
        .to_owned())
}

fn at_most(text: &str, length: usize) -> Result<(), String> {
    if text.len() <= length {
        return Ok(());
    }
    Err(format!("must be no more than {length} characters"))
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    !bytes.is_empty()
        && bytes.iter().all(inner)
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let outer = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.iter().all(inner) && outer(bytes.first()) && outer(bytes.last())
}
