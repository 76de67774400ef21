//! A part of a tree as JSON text: the whole object, to be served by the feed.
//!
//! Plain scalars are interpreted as in [`super::decode`]. Nulls and unused fields are kept; the
//! caller decides about them.

use std::fmt::Write;

use super::decode::{Scalar, resolve};
use super::{NodeId, Tree, Value};

impl Tree<'_> {
    /// The node and everything below it as JSON.
    pub fn to_json(&self, node: NodeId) -> String {
        let mut text = String::new();
        self.write(node, &mut text);
        text
    }

    fn write(&self, node: NodeId, text: &mut String) {
        match &self.node(node).value {
            Value::Quoted(scalar) => string(scalar, text),
            Value::Plain(scalar) => plain(scalar, text),
            Value::Sequence(_) => {
                let mut separator = '[';
                for element in self.elements(node) {
                    text.push(separator);
                    self.write(*element, text);
                    separator = ',';
                }
                text.push_str(if separator == '[' { "[]" } else { "]" });
            }
            Value::Mapping(_) => {
                let mut separator = '{';
                for (key, value) in self.entries(node) {
                    text.push(separator);
                    string(self.scalar(key).unwrap_or_default(), text);
                    text.push(':');
                    self.write(value, text);
                    separator = ',';
                }
                text.push_str(if separator == '{' { "{}" } else { "}" });
            }
        }
    }
}

fn plain(scalar: &str, text: &mut String) {
    // Writing to a string cannot fail.
    let _ = match resolve(scalar) {
        Scalar::Null => text.write_str("null"),
        Scalar::Bool(value) => write!(text, "{value}"),
        Scalar::Int(value) => write!(text, "{value}"),
        Scalar::Float => match scalar.parse::<f64>() {
            Ok(value) if value.is_finite() => write!(text, "{value}"),
            // JSON has no infinity.
            _ => return string(scalar, text),
        },
        Scalar::Text => return string(scalar, text),
    };
}

fn string(value: &str, text: &mut String) {
    let _ = write!(text, "{}", serde_json::Value::from(value));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::tree::yaml;

    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "literals read better by value")]
    fn check(text: &str, expected: Value) {
        let tree = yaml::read(text).unwrap().unwrap();
        let json: Value = serde_json::from_str(&tree.to_json(tree.root())).unwrap();
        assert_eq!(json, expected, "{text}");
    }

    #[test]
    fn scalars_are_what_they_are_read_as() {
        check("a: 1", json!({"a": 1}));
        check("a: \"1\"", json!({"a": "1"}));
        check("a: 0x10", json!({"a": 16}));
        check("a: true", json!({"a": true}));
        check("a: yes", json!({"a": "yes"}));
        check("a: 1.5", json!({"a": 1.5}));
        check("a: .inf", json!({"a": ".inf"}));
        check("a:\nb: ~", json!({"a": null, "b": null}));
        check("a: 2026-11-20T08:04:31Z", json!({"a": "2026-11-20T08:04:31Z"}));
        check("a: 10.0.0.1", json!({"a": "10.0.0.1"}));
        check("a: |\n  x\"\n  \u{e4}\n", json!({"a": "x\"\n\u{e4}\n"}));
    }

    #[test]
    fn collections_nest_and_aliases_are_expanded() {
        check(
            "a: []\nb: {}\nc: [1, [2], {d: 3}]",
            json!({"a": [], "b": {}, "c": [1, [2], {"d": 3}]}),
        );
        check("a: &x {b: 1}\nc: *x", json!({"a": {"b": 1}, "c": {"b": 1}}));
        check("1: a", json!({"1": "a"}));
    }
}
