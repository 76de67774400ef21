//! Decodes a tree into a type with serde, with the strict rules for folders.
//!
//! The types themselves are lenient, because they also read an API's answers. This file reports
//! unknown fields, duplicate keys and scalars of the wrong type as errors. Null is the same as
//! absent, as in the API. [`crate::schema`] knows the fields that exist in Kubernetes but not in
//! the type.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{NodeId, Tree, Value};
use crate::schema;

/// The limit of problems for one object; nobody would read more.
const MAX_FINDINGS: usize = 100;

/// What is wrong at a node. Never holds a value: it may be a Secret's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub node: Option<NodeId>,
    pub fault: Fault,
    pub help: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    UnknownField,
    Other(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.fault {
            Fault::UnknownField => "unknown field",
            Fault::Other(message) => message,
        })
    }
}

impl std::error::Error for Finding {}

impl de::Error for Finding {
    fn custom<T: fmt::Display>(message: T) -> Finding {
        Finding { node: None, fault: Fault::Other(message.to_string()), help: None }
    }
}

impl Finding {
    fn at(node: NodeId, message: String, help: Option<String>) -> Finding {
        Finding { node: Some(node), fault: Fault::Other(message), help }
    }

    fn or_at(mut self, node: NodeId) -> Finding {
        self.node.get_or_insert(node);
        self
    }
}

/// Decodes the object at `node`.
///
/// # Errors
///
/// All structural problems: unknown and duplicate fields, and the first value of a wrong type.
pub fn decode<'a, T: de::Deserialize<'a>>(
    tree: &'a Tree<'a>,
    node: NodeId,
) -> Result<T, Vec<Finding>> {
    let findings = RefCell::new(Vec::new());
    let decoded = T::deserialize(Decoder { tree, node, findings: &findings });
    let mut findings = findings.into_inner();
    match decoded {
        Ok(object) if findings.is_empty() => Ok(object),
        Ok(_) => Err(findings),
        Err(finding) => {
            findings.push(finding.or_at(node));
            Err(findings)
        }
    }
}

#[derive(Clone, Copy)]
struct Decoder<'a, 'f> {
    tree: &'a Tree<'a>,
    node: NodeId,
    findings: &'f RefCell<Vec<Finding>>,
}

/// What a plain scalar means, by the YAML 1.1 rules that `kubectl` follows, except that
/// `yes`, `no`, `on` and `off` are booleans only where one is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Float,
    Text,
}

pub(super) fn resolve(text: &str) -> Scalar {
    let Some(first) = text.bytes().next() else { return Scalar::Null };
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return match text {
            "~" | "null" | "Null" | "NULL" => Scalar::Null,
            "true" | "True" | "TRUE" => Scalar::Bool(true),
            "false" | "False" | "FALSE" => Scalar::Bool(false),
            _ => Scalar::Text,
        };
    }
    integer(text).unwrap_or_else(|| number_or_text(text))
}

fn integer(text: &str) -> Option<Scalar> {
    let (sign, digits) = match text.as_bytes()[0] {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let plain = |digits: &str, radix| {
        let valid = digits.bytes().all(|b| (b as char).is_digit(radix) || b == b'_');
        if !valid || digits.is_empty() || digits.starts_with('_') {
            return None;
        }
        i64::from_str_radix(&digits.replace('_', ""), radix).ok()
    };
    let value = match digits.as_bytes() {
        [b'0', b'x', ..] => plain(&digits[2..], 16),
        [b'0', b'o', ..] => plain(&digits[2..], 8),
        [b'0', b'b', ..] => plain(&digits[2..], 2),
        [b'0', _, ..] => plain(&digits[1..], 8),
        _ => digits.parse().ok().or_else(|| plain(digits, 10)),
    }?;
    Some(Scalar::Int(sign * value))
}

fn number_or_text(text: &str) -> Scalar {
    let special = matches!(text, ".inf" | "-.inf" | "+.inf" | ".nan" | ".Inf" | ".NaN");
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    if special || (numeric && text.parse::<f64>().is_ok()) { Scalar::Float } else { Scalar::Text }
}

impl<'a> Decoder<'a, '_> {
    fn value(self) -> &'a Value<'a> {
        &self.tree.node(self.node).value
    }

    fn scalar(self) -> Scalar {
        match self.value() {
            Value::Plain(text) => resolve(text),
            _ => Scalar::Text,
        }
    }

    fn text(self) -> &'a str {
        match self.value() {
            Value::Plain(text) | Value::Quoted(text) => text,
            _ => "",
        }
    }

    /// A description of this node for messages.
    fn found(self) -> &'static str {
        match self.value() {
            Value::Mapping(_) => "a mapping",
            Value::Sequence(_) => "a list",
            Value::Quoted(_) => "a string",
            Value::Plain(text) => match resolve(text) {
                Scalar::Null => "nothing",
                Scalar::Bool(_) => "a boolean",
                Scalar::Int(_) | Scalar::Float => "a number",
                Scalar::Text => "a string",
            },
        }
    }

    fn wanted<T>(self, what: &str) -> Result<T, Finding> {
        let found = self.found();
        let quotable = what == "a string" && matches!(self.value(), Value::Plain(_));
        let unquotable = what != "a string" && matches!(self.value(), Value::Quoted(_));
        let help = match (quotable, unquotable) {
            (true, _) => Some("put it in quotes".to_owned()),
            (_, true) => Some("write it without quotes".to_owned()),
            _ => None,
        };
        Err(Finding::at(self.node, format!("expected {what}, found {found}"), help))
    }

    fn visit_mapping<V: Visitor<'a>>(
        self,
        visitor: V,
        names: Option<(&'static str, &'static [&'static str])>,
    ) -> Result<V::Value, Finding> {
        let mut entries = Vec::new();
        let mut seen = HashSet::with_hasher(foldhash::fast::RandomState::default());
        for (key, value) in self.tree.entries(self.node) {
            let Some(name) = self.tree.scalar(key) else {
                return Err(Finding::at(key, "a key must be a string".to_owned(), None));
            };
            if !seen.insert(name) {
                self.report(Finding::at(key, "duplicate key".to_owned(), None));
                continue;
            }
            if let Some((type_name, fields)) = names {
                self.check_field(key, name, type_name, fields);
            }
            entries.push((key, value));
        }
        let entries = entries.into_iter();
        visitor
            .visit_map(Entries { decoder: self, entries, value: None })
            .map_err(|finding| finding.or_at(self.node))
    }

    /// Reports a key that no field of the type has.
    fn check_field(
        self,
        key: NodeId,
        name: &str,
        type_name: &'static str,
        fields: &'static [&'static str],
    ) {
        // Looking for the nearest name costs more than all else here.
        if self.findings.borrow().len() >= MAX_FINDINGS {
            return;
        }
        if !fields.contains(&name) && !schema::is_known(type_name, fields, name) {
            let help = schema::nearest(type_name, fields, name)
                .map(|nearest| format!("did you mean `{nearest}`?"));
            let finding = Finding { node: Some(key), fault: Fault::UnknownField, help };
            self.report(finding);
        }
    }

    fn report(self, finding: Finding) {
        let mut findings = self.findings.borrow_mut();
        if findings.len() < MAX_FINDINGS {
            findings.push(finding);
        }
    }
}

struct Entries<'a, 'f, I> {
    decoder: Decoder<'a, 'f>,
    entries: I,
    value: Option<NodeId>,
}

impl<'a, I: Iterator<Item = (NodeId, NodeId)>> MapAccess<'a> for Entries<'a, '_, I> {
    type Error = Finding;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Finding> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        let text = Decoder { node: key, ..self.decoder }.text();
        seed.deserialize(de::value::BorrowedStrDeserializer::new(text)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Finding> {
        let node = self.value.take().expect("serde asks for a value after its key");
        seed.deserialize(Decoder { node, ..self.decoder }).map_err(|finding| finding.or_at(node))
    }
}

struct Elements<'a, 'f> {
    decoder: Decoder<'a, 'f>,
    elements: std::slice::Iter<'a, NodeId>,
}

impl<'a> SeqAccess<'a> for Elements<'a, '_> {
    type Error = Finding;

    fn next_element_seed<T: DeserializeSeed<'a>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Finding> {
        let Some(&node) = self.elements.next() else { return Ok(None) };
        let element = seed.deserialize(Decoder { node, ..self.decoder });
        element.map(Some).map_err(|finding| finding.or_at(node))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.elements.len())
    }
}

impl<'a> Deserializer<'a> for Decoder<'a, '_> {
    type Error = Finding;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Finding> {
        match self.value() {
            Value::Mapping(_) => self.visit_mapping(visitor, None),
            Value::Sequence(_) => self.deserialize_seq(visitor),
            Value::Quoted(text) => visitor.visit_borrowed_str(text),
            Value::Plain(text) => match resolve(text) {
                Scalar::Null => visitor.visit_unit(),
                Scalar::Bool(value) => visitor.visit_bool(value),
                Scalar::Int(value) => visitor.visit_i64(value),
                Scalar::Float => self.wanted("a whole number"),
                Scalar::Text => visitor.visit_borrowed_str(text),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Finding> {
        match (self.scalar(), self.value()) {
            (Scalar::Bool(value), _) => visitor.visit_bool(value),
            (_, Value::Plain(text)) => match &**text {
                "yes" | "Yes" | "YES" | "on" | "On" | "ON" => visitor.visit_bool(true),
                "no" | "No" | "NO" | "off" | "Off" | "OFF" => visitor.visit_bool(false),
                _ => self.wanted("true or false"),
            },
            _ => self.wanted("true or false"),
        }
    }

    fn deserialize_i64<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Finding> {
        match self.scalar() {
            Scalar::Int(value) => visitor.visit_i64(value),
            _ => self.wanted("a whole number"),
        }
    }

    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Finding> {
        match (self.value(), self.scalar()) {
            (Value::Plain(text) | Value::Quoted(text), Scalar::Text) => {
                visitor.visit_borrowed_str(text)
            }
            (Value::Plain(_), Scalar::Null) => visitor.visit_borrowed_str(""),
            _ => self.wanted("a string"),
        }
    }

    fn deserialize_string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Finding> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Finding> {
        match self.tree.is_null(self.node) {
            true => visitor.visit_none(),
            false => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Finding> {
        if !matches!(self.value(), Value::Sequence(_)) && !self.tree.is_null(self.node) {
            return self.wanted("a list");
        }
        let elements = self.tree.elements(self.node).iter();
        visitor.visit_seq(Elements { decoder: self, elements })
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Finding> {
        if !self.tree.is_mapping(self.node) && !self.tree.is_null(self.node) {
            return self.wanted("a mapping");
        }
        self.visit_mapping(visitor, None)
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Finding> {
        if !self.tree.is_mapping(self.node) && !self.tree.is_null(self.node) {
            return self.wanted("a mapping");
        }
        self.visit_mapping(visitor, Some((name, fields)))
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Finding> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Finding> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        <W: Visitor<'a>>
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
        tuple_struct enum identifier
    }
}
