//! One object as the server holds it: its JSON, serialised once, and what selectors ask of it.
//!
//! An [`Entry`] is the whole line of a watch stream; the object of a `get` and the item of a
//! list are parts of that line, so that a watcher, a list and the history share the same bytes.
//! Left out: what an object means; here it is text with labels.

use std::fmt::Write;
use std::ops::Range;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::resource::Resource;
use model::ObjectName;

/// How an object changed, as a watch stream spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
        }
    }
}

/// An object without what the history gives it: version, generation and time of creation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Content {
    pub(crate) name: ObjectName,
    /// Members of the metadata before the version: name, namespace, uid.
    head: String,
    /// Members of the metadata after the version, each with a comma before it.
    tail: String,
    /// Members of the object after the metadata, each with a comma before it.
    body: String,
    /// The object's own `metadata.creationTimestamp`.
    pub(crate) created: Option<String>,
    pub(crate) uid: String,
    labels: Pairs<Box<str>>,
    fields: Pairs<&'static str>,
}

type Pairs<K> = Box<[(K, Box<str>)]>;

/// What the history gives an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) version: u64,
    pub(crate) generation: u64,
    pub(crate) created: Box<str>,
}

/// An object at one version.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) resource: Resource,
    pub(crate) name: ObjectName,
    pub(crate) stamp: Stamp,
    labels: Pairs<Box<str>>,
    fields: Pairs<&'static str>,
    /// `{"type":"ADDED","object":{…}}` and a line feed.
    frame: Bytes,
    parts: Parts,
}

/// Where the parts of a frame are.
#[derive(Clone, Debug)]
struct Parts {
    object: Range<usize>,
    /// The object without `kind` and `apiVersion`; its opening brace is left out.
    item: usize,
    head: Range<usize>,
    tail: Range<usize>,
    body: Range<usize>,
}

/// Metadata that is the history's to write, or that nobody needs.
const NOT_KEPT: [&str; 5] =
    ["creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink"];

impl Content {
    /// The content of an object; `uid` stands in where the object brings none.
    pub(crate) fn of(resource: Resource, name: ObjectName, object: Value, uid: &str) -> Content {
        let fields = fields_of(resource, &object);
        let Value::Object(mut object) = object else {
            return Content::of(resource, name, Value::Object(Map::new()), uid);
        };
        let mut metadata = match object.remove("metadata") {
            Some(Value::Object(metadata)) => metadata,
            _ => Map::new(),
        };
        let labels = labels_of(&metadata);
        let text = |value: Option<Value>| match value {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        let created = text(metadata.remove("creationTimestamp"));
        let uid = text(metadata.remove("uid")).unwrap_or_else(|| uid.to_owned());
        for key in NOT_KEPT.iter().chain(&["name", "namespace"]) {
            metadata.remove(*key);
        }
        object.remove("kind");
        object.remove("apiVersion");
        let mut head = format!("\"name\":{}", quoted(&name.name));
        if !name.namespace.is_empty() {
            write_member(&mut head, "namespace", &Value::from(&*name.namespace));
        }
        write_member(&mut head, "uid", &Value::from(uid.as_str()));
        let (tail, body) = (members(&metadata), members(&object));
        Content { name, head, tail, body, created, uid, labels, fields }
    }
}

fn quoted(text: &str) -> Value {
    Value::from(text)
}

fn members(map: &Map<String, Value>) -> String {
    let mut text = String::new();
    for (key, value) in map {
        write_member(&mut text, key, value);
    }
    text
}

fn write_member(text: &mut String, key: &str, value: &Value) {
    // Writing to a string cannot fail.
    let _ = write!(text, ",{}:{value}", quoted(key));
}

fn labels_of(metadata: &Map<String, Value>) -> Pairs<Box<str>> {
    let labels = metadata.get("labels").and_then(Value::as_object);
    let pair =
        |(key, value): (&String, &Value)| Some((key.as_str().into(), value.as_str()?.into()));
    labels.into_iter().flatten().filter_map(pair).collect()
}

fn fields_of(resource: Resource, object: &Value) -> Pairs<&'static str> {
    let value_of = |(name, pointer): &(&'static str, &str)| {
        let value = match object.pointer(pointer)? {
            Value::String(text) => text.as_str().into(),
            Value::Null => return None,
            other => other.to_string().into(),
        };
        Some((*name, value))
    };
    resource.selectable_fields().iter().filter_map(value_of).collect()
}

impl Entry {
    /// An object that is there from this version on.
    pub(crate) fn new(
        resource: Resource,
        event_type: EventType,
        content: Content,
        stamp: Stamp,
    ) -> Entry {
        let Content { name, head, tail, body, labels, fields, .. } = content;
        let (frame, parts) = render(resource, event_type, &stamp, [&head, &tail, &body]);
        Entry { resource, name, stamp, labels, fields, frame, parts }
    }

    /// The object as it was last, for the event that says that it went at `version`.
    pub(crate) fn deleted(&self, version: u64) -> Entry {
        let stamp = Stamp { version, ..self.stamp.clone() };
        let parts = [&self.parts.head, &self.parts.tail, &self.parts.body].map(|p| self.text(p));
        let (frame, parts) = render(self.resource, EventType::Deleted, &stamp, parts);
        Entry {
            resource: self.resource,
            name: self.name.clone(),
            stamp,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            frame,
            parts,
        }
    }

    /// The line of a watch stream that told of this version.
    pub(crate) fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// The object.
    pub(crate) fn object(&self) -> &[u8] {
        &self.frame[self.parts.object.clone()]
    }

    /// The object as an item of a typed list, without its kind; the opening brace is left out.
    pub(crate) fn item(&self) -> &[u8] {
        &self.frame[self.parts.item..self.parts.object.end]
    }

    /// `"metadata":{…}` of the object.
    pub(crate) fn metadata(&self) -> &[u8] {
        // The brace after the last member closes the metadata.
        &self.frame[self.parts.item..=self.parts.tail.end]
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| **k == *key).map(|(_, value)| &**value)
    }

    /// The value of a selectable field; one that is absent is the empty string.
    pub(crate) fn field(&self, name: &str) -> &str {
        match name {
            "metadata.name" => &self.name.name,
            "metadata.namespace" => &self.name.namespace,
            _ => self.fields.iter().find(|(k, _)| *k == name).map_or("", |(_, value)| value),
        }
    }

    /// Whether the content says the same as this object does.
    pub(crate) fn says(&self, content: &Content) -> bool {
        self.text(&self.parts.body) == content.body
            && self.text(&self.parts.tail) == content.tail
            && self.text(&self.parts.head) == content.head
            && content.created.as_ref().is_none_or(|created| **created == *self.stamp.created)
    }

    /// Whether the content differs from this object in more than metadata.
    pub(crate) fn differs_beside_metadata(&self, content: &Content) -> bool {
        self.text(&self.parts.body) != content.body
    }

    /// Memory that the history accounts for this object, in bytes.
    pub(crate) fn size(&self) -> usize {
        /// What an allocator adds to each piece of memory, and the counters of what is shared.
        const BESIDES: usize = 16;
        let pair = |key: usize, value: &str| key + value.len() + 2 * (BESIDES + 16);
        let labels: usize = self.labels.iter().map(|(key, value)| pair(key.len(), value)).sum();
        let fields: usize = self.fields.iter().map(|(_, value)| pair(0, value)).sum();
        let texts = self.frame.len() + self.stamp.created.len() + labels + fields;
        // The entry itself, its frame, the frame's counter, its time, its labels and fields.
        texts + std::mem::size_of::<Entry>() + 6 * BESIDES
    }

    fn text(&self, part: &Range<usize>) -> &str {
        std::str::from_utf8(&self.frame[part.clone()]).expect("a frame is made of strings")
    }
}

/// Writes a frame and says where its parts are.
fn render(
    resource: Resource,
    event_type: EventType,
    stamp: &Stamp,
    [head, tail, body]: [&str; 3],
) -> (Bytes, Parts) {
    /// What a frame has besides the parts that vary in length.
    const ROOM: usize = 256;
    let mut text = String::with_capacity(head.len() + tail.len() + body.len() + ROOM);
    let _ = write!(text, "{{\"type\":\"{}\",\"object\":", event_type.as_str());
    let object = text.len();
    let (kind, version) = (resource.kind(), resource.api_version());
    let _ = write!(text, "{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",");
    let item = text.len();
    text.push_str("\"metadata\":{");
    let part = |text: &mut String, part: &str| {
        let start = text.len();
        text.push_str(part);
        start..text.len()
    };
    let head = part(&mut text, head);
    let _ = write!(text, ",\"resourceVersion\":\"{}\"", stamp.version);
    if resource.has_generation() {
        let _ = write!(text, ",\"generation\":{}", stamp.generation);
    }
    let _ = write!(text, ",\"creationTimestamp\":{}", quoted(&stamp.created));
    let tail = part(&mut text, tail);
    text.push('}');
    let body = part(&mut text, body);
    text.push('}');
    let object = object..text.len();
    text.push_str("}\n");
    // The room that was too much would stay for as long as the object does.
    let frame = Bytes::from(text.into_boxed_str().into_boxed_bytes());
    (frame, Parts { object, item, head, tail, body })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stamp(version: u64) -> Stamp {
        Stamp { version, generation: 3, created: "2026-11-20T08:04:31Z".into() }
    }

    fn slice() -> Content {
        let object = json!({
            "kind": "EndpointSlice",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {
                "name": "web-1",
                "namespace": "shop",
                "resourceVersion": "7",
                "managedFields": [{"manager": "x"}],
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.0.2"], "conditions": {}}],
        });
        Content::of(Resource::EndpointSlices, ObjectName::new("shop", "web-1"), object, "u-1")
    }

    #[test]
    fn a_frame_holds_the_object_and_the_item() {
        let entry = Entry::new(Resource::EndpointSlices, EventType::Added, slice(), stamp(215));
        let prefix = r#"{"type":"ADDED","object":"#;
        let kind = r#""kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","#;
        let item = concat!(
            r#""metadata":{"name":"web-1","namespace":"shop","uid":"u-1","#,
            r#""resourceVersion":"215","generation":3,"#,
            r#""creationTimestamp":"2026-11-20T08:04:31Z","#,
            r#""labels":{"kubernetes.io/service-name":"web"}},"#,
            r#""addressType":"IPv4","endpoints":[{"addresses":["10.1.0.2"],"conditions":{}}]}"#,
        );
        let object = format!("{{{kind}{item}");
        assert_eq!(entry.frame(), format!("{prefix}{object}}}\n").as_bytes());
        assert_eq!(entry.object(), object.as_bytes());
        assert_eq!(entry.item(), item.as_bytes());
        let metadata = &item[..item.find(r#","addressType"#).unwrap()];
        assert_eq!(entry.metadata(), metadata.as_bytes());
        assert_eq!(entry.label("kubernetes.io/service-name"), Some("web"));
        assert_eq!(entry.field("metadata.namespace"), "shop");
    }

    #[test]
    fn what_is_deleted_says_when() {
        let entry = Entry::new(Resource::EndpointSlices, EventType::Added, slice(), stamp(215));
        let gone = entry.deleted(216);
        let frame = String::from_utf8(entry.frame().to_vec()).unwrap();
        let expected = frame.replace("ADDED", "DELETED").replace("\"215\"", "\"216\"");
        assert_eq!(gone.frame(), expected.as_bytes());
        assert_eq!(gone.label("kubernetes.io/service-name"), Some("web"));
    }

    #[test]
    fn the_same_content_is_known_again() {
        let entry = Entry::new(Resource::EndpointSlices, EventType::Added, slice(), stamp(215));
        assert!(entry.says(&slice()));
        assert!(!entry.differs_beside_metadata(&slice()));
        let labelled = Content { tail: r#","labels":{}"#.to_owned(), ..slice() };
        assert!(!entry.says(&labelled) && !entry.differs_beside_metadata(&labelled));
        let changed = Content { body: String::new(), ..slice() };
        assert!(!entry.says(&changed) && entry.differs_beside_metadata(&changed));
        let older = Content { created: Some("2020-01-01T00:00:00Z".to_owned()), ..slice() };
        assert!(!entry.says(&older));
    }

    #[test]
    fn selectable_fields_are_kept_and_odd_objects_do_no_harm() {
        let event = json!({"involvedObject": {"kind": "Service", "name": "web"}, "count": 1});
        let name = ObjectName::new("shop", "web.1");
        let content = Content::of(Resource::Events, name.clone(), event, "u");
        let entry = Entry::new(Resource::Events, EventType::Added, content, stamp(1));
        assert_eq!(entry.field("involvedObject.name"), "web");
        assert_eq!(entry.field("involvedObject.uid"), "");
        let odd = Content::of(Resource::Events, name, json!("no object"), "u");
        let entry = Entry::new(Resource::Events, EventType::Added, odd, stamp(1));
        serde_json::from_slice::<Value>(entry.object()).unwrap();
    }
}
