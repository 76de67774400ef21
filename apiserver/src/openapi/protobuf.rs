//! An OpenAPI document of version 2 in the protobuf encoding that `kubectl` asks for.
//!
//! Pure. The messages and numbers of fields are those of `openapi.v2.Document` (OpenAPIv2.proto of
//! gnostic); only what our documents have is written. Extensions are texts in YAML, of which JSON
//! is a part. Left out: paths, of which our documents of this version have none.

use serde_json::{Map, Value};

/// A message: fields one after another.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        /// A field whose length stands before it.
        const LENGTH_DELIMITED: u64 = 2;
        self.varint(field << 3 | LENGTH_DELIMITED);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A text; absent if the value is none.
    fn text(&mut self, field: u64, value: &Value) {
        if let Some(text) = value.as_str() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn message(&mut self, field: u64, message: &Message) {
        self.bytes(field, &message.0);
    }
}

/// The encoding of a document.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    out.message(2, &info);
    out.message(8, &Message::default());
    out.message(9, &schemas(&document["definitions"]));
    out.0
}

/// `Definitions` and `Properties`, which are the same: schemas by name.
fn schemas(by_name: &Value) -> Message {
    let mut out = Message::default();
    for (name, value) in by_name.as_object().into_iter().flatten() {
        let mut named = Message::default();
        named.bytes(1, name.as_bytes());
        named.message(2, &schema(value));
        out.message(1, &named);
    }
    out
}

fn schema(schema: &Value) -> Message {
    let mut out = Message::default();
    out.text(1, &schema["$ref"]);
    out.text(2, &schema["format"]);
    out.text(4, &schema["description"]);
    if let Some(of_values) = schema.get("additionalProperties") {
        out.message(21, &wrapped(&self::schema(of_values)));
    }
    if schema["type"].is_string() {
        let mut types = Message::default();
        types.text(1, &schema["type"]);
        out.message(22, &types);
    }
    if let Some(items) = schema.get("items") {
        out.message(23, &wrapped(&self::schema(items)));
    }
    if let Some(properties) = schema.get("properties") {
        out.message(25, &schemas(properties));
    }
    extensions(schema.as_object(), &mut out);
    out
}

/// `ItemsItem` and `AdditionalPropertiesItem` have a schema in their first field.
fn wrapped(schema: &Message) -> Message {
    let mut out = Message::default();
    out.message(1, schema);
    out
}

fn extensions(schema: Option<&Map<String, Value>>, out: &mut Message) {
    let all = schema.into_iter().flatten();
    for (name, value) in all.filter(|(name, _)| name.starts_with("x-")) {
        let mut any = Message::default();
        any.bytes(2, format!("{value}\n").as_bytes());
        let mut named = Message::default();
        named.bytes(1, name.as_bytes());
        named.message(2, &any);
        out.message(31, &named);
    }
}
