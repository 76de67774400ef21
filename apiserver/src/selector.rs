//! Label and field selectors: text of a query → which objects are wanted.
//!
//! Pure. Grammar and meaning are Kubernetes': requirements joined by commas, all of which must
//! hold, set-based ones among the label requirements.

use super::entry::Entry;
use super::resource::Resource;

/// Longer selectors are no client's: a label requirement of full length has some 400 bytes.
const MAX_LENGTH: usize = 16 << 10;
/// A label's name, and the part before its slash.
const MAX_NAME: usize = 63;
const MAX_PREFIX: usize = 253;

/// Which objects of a resource are wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

#[derive(Clone, Debug, PartialEq)]
struct FieldRequirement {
    field: &'static str,
    value: String,
    equal: bool,
}

/// Why a selector cannot be read; the words are for the client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SelectorError(String);

impl Selector {
    /// Reads both selectors of a request; an empty one wants everything.
    ///
    /// # Errors
    ///
    /// When one is no selector, or asks for a field that the resource cannot be selected by.
    pub(crate) fn parse(
        resource: Resource,
        labels: &str,
        fields: &str,
    ) -> Result<Selector, SelectorError> {
        if labels.len().max(fields.len()) > MAX_LENGTH {
            return Err(SelectorError(format!("selector is longer than {MAX_LENGTH} bytes")));
        }
        Ok(Selector { labels: parse_labels(labels)?, fields: parse_fields(resource, fields)? })
    }

    /// Whether every object is wanted.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        self.labels.iter().all(|wanted| wanted.matches(entry.label(&wanted.key)))
            && self.fields.iter().all(|w| (entry.field(w.field) == w.value) == w.equal)
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        let is_in = |values: &[String]| value.is_some_and(|v| values.iter().any(|w| w == v));
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(values) => is_in(values),
            Test::NotIn(values) => !is_in(values),
            Test::Above(bound) => number().is_some_and(|number| number > *bound),
            Test::Below(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// A piece of a label selector.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'a str),
    End,
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::Word(text) | Token::Sign(text) => text,
            Token::End => "",
        }
    }
}

struct Tokens<'a> {
    rest: &'a str,
    next: Token<'a>,
}

impl<'a> Tokens<'a> {
    fn of(text: &'a str) -> Tokens<'a> {
        let mut tokens = Tokens { rest: text, next: Token::End };
        tokens.take();
        tokens
    }

    /// The next token, and steps past it.
    fn take(&mut self) -> Token<'a> {
        let rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let two = rest.get(..2).filter(|two| matches!(*two, "==" | "!="));
        let is_sign = |c: char| "=!<>(),".contains(c);
        let length = match rest.chars().next() {
            None => 0,
            Some(_) if two.is_some() => 2,
            Some(c) if is_sign(c) => 1,
            Some(_) => {
                rest.find(|c: char| is_sign(c) || " \t\r\n".contains(c)).unwrap_or(rest.len())
            }
        };
        let (text, rest) = rest.split_at(length);
        self.rest = rest;
        let token = match text.chars().next() {
            None => Token::End,
            Some(c) if is_sign(c) => Token::Sign(text),
            Some(_) => Token::Word(text),
        };
        std::mem::replace(&mut self.next, token)
    }

    fn expected<T>(&self, what: &str) -> Result<T, SelectorError> {
        let found = self.next.text();
        Err(SelectorError(format!(
            "unable to parse requirement: found '{found}', expected: {what}"
        )))
    }
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut tokens = Tokens::of(text);
    let mut requirements = Vec::new();
    if tokens.next == Token::End {
        return Ok(requirements);
    }
    loop {
        requirements.push(requirement(&mut tokens)?);
        match tokens.next {
            Token::End => return Ok(requirements),
            Token::Sign(",") => tokens.take(),
            _ => return tokens.expected("',' or 'end of string'"),
        };
    }
}

fn requirement(tokens: &mut Tokens<'_>) -> Result<Requirement, SelectorError> {
    let absent = tokens.next == Token::Sign("!");
    if absent {
        tokens.take();
    }
    let Token::Word(key) = tokens.next else { return tokens.expected("identifier") };
    check_key(key)?;
    let key = key.to_owned();
    tokens.take();
    if absent {
        return Ok(Requirement { key, test: Test::Absent });
    }
    let operator = tokens.next;
    if matches!(operator, Token::End | Token::Sign(",")) {
        return Ok(Requirement { key, test: Test::Exists });
    }
    let known = matches!(operator.text(), "=" | "==" | "!=" | "in" | "notin" | ">" | "<");
    if !known {
        return tokens.expected("in, notin, =, ==, !=, gt, lt");
    }
    tokens.take();
    let test = match operator.text() {
        "=" | "==" => Test::In(vec![value(tokens)?]),
        "!=" => Test::NotIn(vec![value(tokens)?]),
        "in" => Test::In(values(tokens)?),
        "notin" => Test::NotIn(values(tokens)?),
        ">" => Test::Above(number(&value(tokens)?)?),
        _ => Test::Below(number(&value(tokens)?)?),
    };
    Ok(Requirement { key, test })
}

/// One value, which may be empty.
fn value(tokens: &mut Tokens<'_>) -> Result<String, SelectorError> {
    match tokens.next {
        Token::Word(word) => {
            check_value(word)?;
            tokens.take();
            Ok(word.to_owned())
        }
        Token::End | Token::Sign("," | ")") => Ok(String::new()),
        Token::Sign(_) => tokens.expected("identifier"),
    }
}

fn values(tokens: &mut Tokens<'_>) -> Result<Vec<String>, SelectorError> {
    if tokens.next != Token::Sign("(") {
        return tokens.expected("'('");
    }
    tokens.take();
    let mut values = Vec::new();
    loop {
        values.push(value(tokens)?);
        match tokens.next {
            Token::Sign(",") => tokens.take(),
            Token::Sign(")") => break,
            _ => return tokens.expected("',' or ')'"),
        };
    }
    tokens.take();
    Ok(values)
}

fn number(text: &str) -> Result<i64, SelectorError> {
    let message = || format!("for 'Gt', 'Lt' operators, the value must be an integer: {text:?}");
    text.parse().map_err(|_| SelectorError(message()))
}

/// A qualified name: `[prefix/]name`.
fn check_key(key: &str) -> Result<(), SelectorError> {
    let (prefix, name) = key.split_once('/').unwrap_or(("x", key));
    let in_prefix = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    let good_prefix =
        !prefix.is_empty() && prefix.len() <= MAX_PREFIX && prefix.bytes().all(in_prefix);
    if !good_prefix || name.is_empty() || !is_label_text(name) {
        return Err(SelectorError(format!("key: Invalid value: {key:?}: not a label's key")));
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), SelectorError> {
    if !is_label_text(value) {
        return Err(SelectorError(format!(
            "values: Invalid value: {value:?}: not a label's value"
        )));
    }
    Ok(())
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= MAX_NAME
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && ends.into_iter().flatten().all(u8::is_ascii_alphanumeric)
}

fn parse_fields(resource: Resource, text: &str) -> Result<Vec<FieldRequirement>, SelectorError> {
    let parts = split_unescaped(text).into_iter().filter(|part| !part.is_empty());
    parts.map(|part| field_requirement(resource, part)).collect()
}

fn field_requirement(resource: Resource, text: &str) -> Result<FieldRequirement, SelectorError> {
    let invalid =
        || SelectorError(format!("invalid selector: '{text}'; can't understand '{text}'"));
    let at = text.find('=').ok_or_else(invalid)?;
    let (name, equal) = match text[..at].strip_suffix('!') {
        Some(name) => (name, false),
        None => (&text[..at], true),
    };
    let value = &text[at + 1..];
    let value = if equal { value.strip_prefix('=').unwrap_or(value) } else { value };
    let value = unescape(value).ok_or_else(invalid)?;
    let field = known_field(resource, name)?;
    Ok(FieldRequirement { field, value, equal })
}

fn known_field(resource: Resource, name: &str) -> Result<&'static str, SelectorError> {
    let always = ["metadata.name", "metadata.namespace"];
    let more = resource.selectable_fields().iter().map(|(name, _)| *name);
    let known: Vec<_> = always.into_iter().chain(more).collect();
    known.iter().find(|known| **known == name).copied().ok_or_else(|| {
        let list: Vec<_> = known.iter().map(|known| format!("{known:?}")).collect();
        let list = list.join(", ");
        SelectorError(format!("{name:?} is not a known field selector: only {list}"))
    })
}

/// Splits at commas that no backslash stands before.
fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        if byte == b',' && !escaped {
            parts.push(&text[start..at]);
            start = at + 1;
        }
        escaped = byte == b'\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts
}

/// A value without its backslashes; `None` when it holds what must have one.
fn unescape(value: &str) -> Option<String> {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(chars.next().filter(|c| "\\,=".contains(*c))?),
            '=' => return None,
            c => text.push(c),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests;
