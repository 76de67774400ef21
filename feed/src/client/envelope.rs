//! What a watch line or a reply says besides the object itself: the type of the event, the
//! object's name and version, a Status.
//!
//! The type is read before the object is decoded: a bookmark carries an object that no
//! validation would pass (`"endpoints":null,"addressType":""`), an error a Status.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;

use super::version::Version;

/// A line of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Added(Meta),
    Modified(Meta),
    Deleted(Meta),
    Bookmark {
        version: Version,
        /// The streaming list is complete.
        ends_list: bool,
    },
    Error(Status),
    /// A type that this client does not know: nothing to do.
    Unknown,
}

/// What names an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) version: Version,
}

/// The metadata of a list's page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListMeta {
    pub(crate) version: Version,
    /// There is more: the token that asks for it.
    pub(crate) next: Option<String>,
}

/// A `v1` Status: an error of the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: u16,
    pub(crate) message: String,
    pub(crate) retry_after: Option<Duration>,
}

/// Why a text was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("not the JSON of a watch: {0}")]
    Syntax(String),
    #[error("{0} without a resourceVersion")]
    NoVersion(&'static str),
    #[error("an object without a name")]
    NoName,
}

impl Event {
    /// Reads the outside of a watch line.
    ///
    /// # Errors
    ///
    /// When it is no JSON of that shape.
    pub(crate) fn read(line: &[u8]) -> Result<Event, Unreadable> {
        let line: WatchLine<'_> =
            serde_json::from_slice(line).map_err(|e| Unreadable::Syntax(e.to_string()))?;
        match &*line.event {
            "ADDED" => line.object.meta().map(Event::Added),
            "MODIFIED" => line.object.meta().map(Event::Modified),
            "DELETED" => line.object.meta().map(Event::Deleted),
            "BOOKMARK" => line.object.bookmark(),
            "ERROR" => Ok(Event::Error(line.object.status())),
            _ => Ok(Event::Unknown),
        }
    }
}

impl ListMeta {
    /// Reads the value of a list's `metadata`.
    ///
    /// # Errors
    ///
    /// When it is no JSON of that shape.
    pub(crate) fn read(metadata: &[u8]) -> Result<ListMeta, Unreadable> {
        let meta: ListMetadata =
            serde_json::from_slice(metadata).map_err(|e| Unreadable::Syntax(e.to_string()))?;
        let version = meta.resource_version.filter(|version| !version.is_empty());
        let version = version.ok_or(Unreadable::NoVersion("a list"))?;
        let next = meta.next.filter(|token| !token.is_empty());
        Ok(ListMeta { version: Version::new(&version), next })
    }
}

impl Status {
    /// What the body of an error reply says; a proxy on the way answers with any text.
    pub(crate) fn read(code: u16, body: &[u8]) -> Status {
        let object = serde_json::from_slice::<Outside<'_>>(body).ok();
        let mut status = object.map(|object| object.status()).unwrap_or_default();
        if status.message.is_empty() {
            let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_TEXT)]);
            let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
            status.message = shown.collect::<String>().trim().to_owned();
        }
        Status { code, ..status }
    }

    /// Whether a body is a Status, and no page of a proxy on the way.
    pub(crate) fn is_in(body: &[u8]) -> bool {
        serde_json::from_slice::<Typed<'_>>(body).is_ok_and(|object| object.kind == "Status")
    }
}

/// Of a reply that is no Status, as much as makes a readable line.
const SHOWN_TEXT: usize = 200;

#[derive(Deserialize)]
struct WatchLine<'a> {
    #[serde(rename = "type", borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    object: Outside<'a>,
}

/// What says of which kind an object is.
#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
}

/// The fields of any object that this file needs.
#[derive(Deserialize)]
struct Outside<'a> {
    #[serde(borrow, default)]
    metadata: Option<Metadata<'a>>,
    #[serde(borrow, default)]
    message: Option<Cow<'a, str>>,
    #[serde(default)]
    code: Option<u16>,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    resource_version: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    annotations: Option<Annotations<'a>>,
}

/// Of the annotations, the one that ends the initial events of a streaming list.
#[derive(Deserialize)]
struct Annotations<'a> {
    #[serde(rename = "k8s.io/initial-events-end", borrow, default)]
    initial_events_end: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    #[serde(default)]
    retry_after_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(rename = "continue", default)]
    next: Option<String>,
}

impl Outside<'_> {
    fn version(&self) -> Option<Version> {
        let version = self.metadata.as_ref()?.resource_version.as_deref()?;
        (!version.is_empty()).then(|| Version::new(version))
    }

    fn meta(&self) -> Result<Meta, Unreadable> {
        let version = self.version().ok_or(Unreadable::NoVersion("an object"))?;
        let metadata = self.metadata.as_ref().ok_or(Unreadable::NoName)?;
        let name = metadata.name.as_deref().filter(|name| !name.is_empty());
        let name = name.ok_or(Unreadable::NoName)?.to_owned();
        let namespace = metadata.namespace.as_deref().unwrap_or_default().to_owned();
        Ok(Meta { namespace, name, version })
    }

    fn bookmark(&self) -> Result<Event, Unreadable> {
        let version = self.version().ok_or(Unreadable::NoVersion("a bookmark"))?;
        let annotations = self.metadata.as_ref().and_then(|meta| meta.annotations.as_ref());
        let end = annotations.and_then(|all| all.initial_events_end.as_deref());
        Ok(Event::Bookmark { version, ends_list: end == Some("true") })
    }

    fn status(&self) -> Status {
        let seconds = self.details.as_ref().and_then(|details| details.retry_after_seconds);
        Status {
            code: self.code.unwrap_or_default(),
            message: self.message.as_deref().unwrap_or_default().to_owned(),
            retry_after: seconds.map(Duration::from_secs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(namespace: &str, name: &str, version: &str) -> Meta {
        Meta {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            version: Version::new(version),
        }
    }

    #[test]
    fn watch_lines() {
        let bookmark = |version: &str, ends_list| {
            Ok(Event::Bookmark { version: Version::new(version), ends_list })
        };
        let status = |code, message: &str, seconds: Option<u64>| {
            let message = message.to_owned();
            let retry_after = seconds.map(Duration::from_secs);
            Ok(Event::Error(Status { code, message, retry_after }))
        };
        let table = [
            (
                r#"{"type":"ADDED","object":{"kind":"Service","spec":{"ports":[{"port":1}]},
                   "metadata":{"name":"a","namespace":"n","resourceVersion":"7"}}}"#,
                Ok(Event::Added(meta("n", "a", "7"))),
            ),
            (
                r#"{"object":{"metadata":{"resourceVersion":"8","name":"a"}},"type":"MODIFIED"}"#,
                Ok(Event::Modified(meta("", "a", "8"))),
            ),
            (
                r#"{"type":"DELETED",
                   "object":{"metadata":{"resourceVersion":"9","name":"\u0061"}}}"#,
                Ok(Event::Deleted(meta("", "a", "9"))),
            ),
            (
                r#"{"type":"BOOKMARK","object":{"kind":"EndpointSlice","endpoints":null,
                   "addressType":"","metadata":{"resourceVersion":"250"}}}"#,
                bookmark("250", false),
            ),
            (
                r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"250",
                   "annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
                bookmark("250", true),
            ),
            (
                r#"{"type":"ERROR","object":{"kind":"Status","message":"too old","code":410}}"#,
                status(410, "too old", None),
            ),
            (
                r#"{"type":"ERROR","object":{"code":504,"details":{"retryAfterSeconds":1}}}"#,
                status(504, "", Some(1)),
            ),
            (r#"{"type":"SYNCED","object":{}}"#, Ok(Event::Unknown)),
            (
                r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#,
                Err(Unreadable::NoVersion("an object")),
            ),
            (
                r#"{"type":"ADDED","object":{"metadata":{"resourceVersion":"1"}}}"#,
                Err(Unreadable::NoName),
            ),
            (
                r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":""}}}"#,
                Err(Unreadable::NoVersion("a bookmark")),
            ),
        ];
        for (line, expected) in table {
            assert_eq!(Event::read(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_watch_line_is_an_error() {
        let deep = "[".repeat(200_000);
        let long = format!(r#"{{"type":"ADDED","object":{{"spec":{deep}"#);
        for line in ["", "{", "null", "[]", r#"{"type":"ADDED"}"#, "<html>", &deep, &long] {
            let read = Event::read(line.as_bytes());
            assert!(matches!(read, Err(Unreadable::Syntax(_))), "{read:?}");
        }
        assert!(Event::read(b"{\"type\":\"\xff\",\"object\":{}}").is_err());
    }

    #[test]
    fn list_metadata() {
        let table = [
            (r#"{"resourceVersion":"230"}"#, Some(("230", None))),
            (
                r#"{"resourceVersion":"230","continue":"x","remainingItemCount":3}"#,
                Some(("230", Some("x"))),
            ),
            (r#"{"resourceVersion":"230","continue":""}"#, Some(("230", None))),
            (r#"{"continue":"x"}"#, None),
            ("{}", None),
            ("null", None),
        ];
        for (text, expected) in table {
            let read = ListMeta::read(text.as_bytes()).ok();
            let read = read.as_ref().map(|meta| (meta.version.as_str(), meta.next.as_deref()));
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn error_replies() {
        let json = br#"{"kind":"Status","metadata":{},"message":"Unauthorized","code":401}"#;
        assert_eq!(Status::read(401, json).message, "Unauthorized");
        assert_eq!(Status::read(404, b"404 page not found\n").message, "404 page not found");
        assert_eq!(Status::read(502, b"\xff<html>\r\n").message, "\u{fffd}<html>");
        assert_eq!(Status::read(500, b"").message, "");
        assert!(Status::read(500, "x".repeat(5000).as_bytes()).message.len() <= SHOWN_TEXT);
        for (body, is_status) in [
            (&json[..], true),
            (b"{}", false),
            (b"404 page not found\n", false),
            (br#"{"kind":"Namespace"}"#, false),
            (b"\x1f\x8b\x08", false),
        ] {
            assert_eq!(Status::is_in(body), is_status, "{}", String::from_utf8_lossy(body));
        }
    }
}
