//! What the beginning of an object's JSON tells of it, where the rest was too long to be kept or
//! is not valid.
//!
//! Pure. Read as JSON, not searched for keys: a label may be called `name` too.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use super::envelope::{Event, Meta};
use super::version::Version;

/// The longest name or namespace of any object.
const MAX_NAME: usize = 253;

/// The strings that stood in the text before it was cut; the others are empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Beginning {
    event: String,
    namespace: String,
    name: String,
    version: String,
}

impl Beginning {
    /// Of a watch line.
    pub(crate) fn of_line(begin: &[u8]) -> Beginning {
        Beginning::read(begin, Level::Line)
    }

    /// Of an object in a list.
    pub(crate) fn of_object(begin: &[u8]) -> Beginning {
        Beginning::read(begin, Level::Object)
    }

    /// Namespace and name.
    pub(crate) fn name(&self) -> Option<(String, String)> {
        let fits = !self.name.is_empty() && self.name.len().max(self.namespace.len()) <= MAX_NAME;
        fits.then(|| (self.namespace.clone(), self.name.clone()))
    }

    /// The event of the line, if it is one of an object whose name and version are known.
    pub(crate) fn event(&self) -> Option<Event> {
        let (namespace, name) = self.name()?;
        if self.version.is_empty() {
            return None;
        }
        let meta = Meta { namespace, name, version: Version::new(&self.version) };
        match &*self.event {
            "ADDED" => Some(Event::Added(meta)),
            "MODIFIED" => Some(Event::Modified(meta)),
            "DELETED" => Some(Event::Deleted(meta)),
            _ => None,
        }
    }

    fn read(begin: &[u8], level: Level) -> Beginning {
        let mut found = Beginning::default();
        let mut json = serde_json::Deserializer::from_slice(begin);
        // It ends in the middle, which is an error: what was found until then counts.
        let _ = Inside { found: &mut found, level }.deserialize(&mut json);
        found
    }
}

#[derive(Clone, Copy)]
enum Level {
    Line,
    Object,
    Metadata,
}

/// Reads a JSON object of that level.
struct Inside<'f> {
    found: &'f mut Beginning,
    level: Level,
}

impl<'de> DeserializeSeed<'de> for Inside<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Inside<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Inside { found, level } = self;
        while let Some(key) = map.next_key::<String>()? {
            let text = match (level, &*key) {
                (Level::Line, "object") => {
                    map.next_value_seed(Inside { found, level: Level::Object })?;
                    continue;
                }
                (Level::Object, "metadata") => {
                    map.next_value_seed(Inside { found, level: Level::Metadata })?;
                    continue;
                }
                (Level::Line, "type") => &mut found.event,
                (Level::Metadata, "namespace") => &mut found.namespace,
                (Level::Metadata, "name") => &mut found.name,
                (Level::Metadata, "resourceVersion") => &mut found.version,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *text = map.next_value()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stood_before_the_cut_is_told() {
        let meta = |namespace: &str, name: &str| Meta {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            version: Version::new("7"),
        };
        let table = [
            (
                r#"{"type":"ADDED","object":{"kind":"Service","metadata":{"name":"web",
                   "namespace":"shop","resourceVersion":"7","annotations":{"x":"aaaa"#,
                Some(Event::Added(meta("shop", "web"))),
            ),
            (
                r#"{"object":{"metadata":{"annotations":{"name":"1"},"labels":{"name":"other",
                   "namespace":"other"},"name":"w\u0065b","namespace":"shop",
                   "resourceVersion":"7"},"spec":{"metadata":{"name":"inner"}}},
                   "type":"DELETED","more":["#,
                Some(Event::Deleted(meta("shop", "web"))),
            ),
            (
                r#"{"type":"MODIFIED","object":{"metadata":{"name":"node","resourceVersion":"7","#,
                Some(Event::Modified(meta("", "node"))),
            ),
            (r#"{"type":"ADDED","object":{"metadata":{"name":"web","resourceVersion":"7"#, None),
            (r#"{"type":"ADDED","object":{"metadata":{"resourceVersion":"7","name":"we"#, None),
            (r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7","#, None),
            (r#"{"type":"ADDED","object":[{"metadata":{"name":"web"}"#, None),
            ("[[[[", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(Beginning::of_line(text.as_bytes()).event(), expected, "{text}");
        }
    }

    #[test]
    fn an_object_of_a_list_is_named() {
        let name = Some(("shop".to_owned(), "web".to_owned()));
        let table = [
            (&br#"{"metadata":{"name":"web","namespace":"shop","x":"\xff"#[..], name),
            (br#"{"metadata":{"na"#, None),
            (b"\xff\xff", None),
        ];
        for (text, expected) in table {
            assert_eq!(Beginning::of_object(text).name(), expected);
        }
    }
}
