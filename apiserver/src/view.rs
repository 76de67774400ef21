//! How a client wants objects shown: whole, as rows of a table, or as metadata alone.
//!
//! Pure: the Accept header comes in, JSON goes out. What a client asks for in protobuf it gets
//! in JSON, which every client reads; a table is what `kubectl get` prints.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::entry::{Entry, EventType};
use super::query::Include;
use super::resource::Resource;
use super::table;
use super::text::Text;

/// A representation of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    Whole,
    /// `meta.k8s.io` in this version.
    Table(&'static str, Include),
    Metadata(&'static str),
}

impl View {
    /// The first representation that a client accepts and that is known here.
    pub(crate) fn accepted(accept: Option<&str>, include: Include) -> Option<View> {
        let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else {
            return Some(View::Whole);
        };
        accept.split(',').find_map(|range| View::of_range(range, include))
    }

    /// The representation of one media range.
    fn of_range(range: &str, include: Include) -> Option<View> {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next()?.to_ascii_lowercase();
        let (mut kind, mut version) = ("", "v1");
        for part in parts {
            match part.split_once('=') {
                Some(("as", value)) => kind = value,
                Some(("v", "v1beta1")) => version = "v1beta1",
                Some(("v", "v1") | ("g", _) | ("stream" | "charset" | "q", _)) => {}
                Some(("v", _)) => return None,
                _ => {}
            }
        }
        let json = matches!(
            media.as_str(),
            "application/json"
                | "application/yaml"
                | "application/vnd.kubernetes.protobuf"
                | "application/*"
                | "*/*"
        );
        match kind {
            _ if !json => None,
            "" => Some(View::Whole),
            "Table" => Some(View::Table(version, include)),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(View::Metadata(version)),
            _ => None,
        }
    }
}

/// What a list says of itself before its items.
#[derive(Clone, Debug)]
pub(crate) struct ListHead {
    pub(crate) version: u64,
    pub(crate) continue_token: Option<String>,
    pub(crate) remaining: Option<usize>,
}

/// Writes objects of one resource in one view.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) resource: Resource,
    pub(crate) view: View,
    /// The first table of a stream describes its columns, the others do not.
    described: bool,
}

impl Writer {
    pub(crate) fn new(resource: Resource, view: View) -> Writer {
        Writer { resource, view, described: false }
    }

    /// The text of a list before its first item.
    pub(crate) fn list_head(&self, head: &ListHead) -> String {
        let mut metadata = json!({"resourceVersion": head.version.to_string()});
        if let Some(token) = &head.continue_token {
            metadata["continue"] = token.as_str().into();
        }
        if let Some(remaining) = head.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        let (kind, api_version) = match self.view {
            View::Whole => {
                (format!("{}List", self.resource.kind()), self.resource.api_version().to_owned())
            }
            View::Table(version, _) => {
                let columns = table::definitions(self.resource);
                return format!(
                    "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{version}\",\
                     \"metadata\":{metadata},\"columnDefinitions\":{columns},\"rows\":["
                );
            }
            View::Metadata(version) => {
                ("PartialObjectMetadataList".to_owned(), format!("meta.k8s.io/{version}"))
            }
        };
        format!(
            "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\
             \"items\":["
        )
    }

    /// One item of a list.
    pub(crate) fn item(&self, entry: &Entry, now: Timestamp, out: &mut Text) {
        match self.view {
            View::Whole => {
                out.put(b"{");
                out.share(entry.frame(), entry.item());
            }
            View::Table(version, include) => row(entry, version, include, now, out),
            View::Metadata(version) => metadata(entry, version, out),
        }
    }

    /// One object as the answer to a `get`.
    pub(crate) fn object(&self, entry: &Entry, now: Timestamp, out: &mut Text) {
        match self.view {
            View::Whole => out.share(entry.frame(), entry.object()),
            View::Table(..) => self.small_table(entry.stamp.version, Some(entry), true, now, out),
            View::Metadata(version) => metadata(entry, version, out),
        }
    }

    /// One line of a watch stream.
    pub(crate) fn event(
        &mut self,
        event_type: EventType,
        entry: &Entry,
        now: Timestamp,
        out: &mut Text,
    ) {
        out.put(b"{\"type\":\"");
        out.put(event_type.as_str().as_bytes());
        out.put(b"\",\"object\":");
        match self.view {
            View::Table(..) => {
                let describe = !std::mem::replace(&mut self.described, true);
                self.small_table(entry.stamp.version, Some(entry), describe, now, out);
            }
            _ => self.object(entry, now, out),
        }
        out.put(b"}\n");
    }

    /// The line that says that all up to a version was told; `initial` if that is all there was
    /// when the watch began.
    pub(crate) fn bookmark(&mut self, version: u64, initial: bool, out: &mut Text) {
        let note =
            if initial { ",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}" } else { "" };
        let (kind, api_version, rest) = match self.view {
            View::Whole => {
                (self.resource.kind(), self.resource.api_version(), self.resource.empty_fields())
            }
            View::Table(..) => {
                out.put(b"{\"type\":\"BOOKMARK\",\"object\":");
                let describe = !std::mem::replace(&mut self.described, true);
                self.small_table(version, None, describe, Timestamp::UNIX_EPOCH, out);
                return out.put(b"}\n");
            }
            View::Metadata("v1beta1") => ("PartialObjectMetadata", "meta.k8s.io/v1beta1", ""),
            View::Metadata(_) => ("PartialObjectMetadata", "meta.k8s.io/v1", ""),
        };
        let line = format!(
            "{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"{kind}\",\
             \"apiVersion\":\"{api_version}\",\"metadata\":{{\"resourceVersion\":\"{version}\"\
             {note}}}{rest}}}}}\n"
        );
        out.put(line.as_bytes());
    }

    /// A table with one row or none.
    fn small_table(
        &self,
        version: u64,
        entry: Option<&Entry>,
        describe: bool,
        now: Timestamp,
        out: &mut Text,
    ) {
        let View::Table(meta_version, include) = self.view else { return };
        let columns = if describe { table::definitions(self.resource) } else { Value::Null };
        let head = format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{meta_version}\",\
             \"metadata\":{{\"resourceVersion\":\"{version}\"}},\
             \"columnDefinitions\":{columns},\"rows\":["
        );
        out.put(head.as_bytes());
        if let Some(entry) = entry {
            row(entry, meta_version, include, now, out);
        }
        out.put(b"]}");
    }
}

fn row(entry: &Entry, version: &str, include: Include, now: Timestamp, out: &mut Text) {
    let object: Value = serde_json::from_slice(entry.object()).unwrap_or_default();
    let cells = table::cells(entry.resource, &object, now);
    out.put(format!("{{\"cells\":{cells},\"object\":").as_bytes());
    match include {
        Include::None => out.put(b"null"),
        Include::Metadata => metadata(entry, version, out),
        Include::Object => out.share(entry.frame(), entry.object()),
    }
    out.put(b"}");
}

fn metadata(entry: &Entry, version: &str, out: &mut Text) {
    let head =
        format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/{version}\",");
    out.put(head.as_bytes());
    out.share(entry.frame(), entry.metadata());
    out.put(b"}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Content, Stamp};
    use model::ObjectName;

    #[track_caller]
    fn check(accept: &str, expected: Option<View>) {
        assert_eq!(View::accepted(Some(accept), Include::Metadata), expected, "{accept}");
    }

    #[test]
    fn what_clients_accept() {
        let table = |version| Some(View::Table(version, Include::Metadata));
        assert_eq!(View::accepted(None, Include::None), Some(View::Whole));
        check("", Some(View::Whole));
        check("*/*", Some(View::Whole));
        check("application/json", Some(View::Whole));
        check("application/json;stream=watch", Some(View::Whole));
        check("application/vnd.kubernetes.protobuf", Some(View::Whole));
        check("application/vnd.kubernetes.protobuf,application/json", Some(View::Whole));
        check("text/plain", None);
        check("text/html, */*;q=0.8", Some(View::Whole));
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                       application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        check(kubectl, table("v1"));
        check("application/json;as=Table;v=v1beta1;g=meta.k8s.io", table("v1beta1"));
        check("application/json; as=Table; v=v2, application/json", Some(View::Whole));
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        check(metadata, Some(View::Metadata("v1")));
        let discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        check(discovery, None);
        check(&format!("{discovery},application/json"), Some(View::Whole));
    }

    fn entry() -> Entry {
        let object = json!({"spec": {"type": "ClusterIP"}});
        let name = ObjectName::new("shop", "web");
        let content = Content::of(Resource::Services, name, object, "u");
        let stamp = Stamp { version: 7, generation: 1, created: "2026-11-20T08:04:31Z".into() };
        Entry::new(Resource::Services, EventType::Added, content, stamp)
    }

    fn written(write: impl FnOnce(&mut Text)) -> Value {
        let mut out = Text::default();
        write(&mut out);
        serde_json::from_slice(&out.next().unwrap()).unwrap()
    }

    #[test]
    fn a_stream_of_tables_describes_its_columns_once() {
        let mut writer = Writer::new(Resource::Services, View::Table("v1", Include::Metadata));
        let now: Timestamp = "2026-11-20T08:05:45Z".parse().unwrap();
        let first = written(|out| writer.event(EventType::Added, &entry(), now, out));
        assert_eq!(first["object"]["columnDefinitions"].as_array().unwrap().len(), 7);
        assert_eq!(first["object"]["rows"][0]["cells"][5], "74s");
        let next = written(|out| writer.event(EventType::Modified, &entry(), now, out));
        assert_eq!(next["type"], "MODIFIED");
        assert_eq!(next["object"]["columnDefinitions"], Value::Null);
        let object = &next["object"]["rows"][0]["object"];
        assert_eq!(object["kind"], "PartialObjectMetadata");
        assert_eq!(object["metadata"]["name"], "web");
        assert_eq!(object.get("spec"), None);
    }

    #[test]
    fn bookmarks_are_what_typed_clients_read() {
        let bookmark = |resource, view, initial| {
            written(|out| Writer::new(resource, view).bookmark(253, initial, out))
        };
        let slices = bookmark(Resource::EndpointSlices, View::Whole, true);
        assert_eq!(
            slices,
            json!({"type": "BOOKMARK", "object": {
                "kind": "EndpointSlice",
                "apiVersion": "discovery.k8s.io/v1",
                "metadata": {
                    "resourceVersion": "253",
                    "annotations": {"k8s.io/initial-events-end": "true"},
                },
                "addressType": "",
                "endpoints": null,
                "ports": null,
            }})
        );
        let services = bookmark(Resource::Services, View::Whole, false);
        assert_eq!(services["object"]["status"], json!({"loadBalancer": {}}));
        assert_eq!(services["object"]["metadata"], json!({"resourceVersion": "253"}));
        let metadata = bookmark(Resource::Services, View::Metadata("v1"), false);
        assert_eq!(metadata["object"]["kind"], "PartialObjectMetadata");
        let table = bookmark(Resource::Services, View::Table("v1", Include::None), false);
        assert_eq!(table["object"]["rows"], json!([]));
        assert_eq!(table["object"]["metadata"]["resourceVersion"], "253");
    }

    #[test]
    fn views_of_one_object() {
        let now = Timestamp::UNIX_EPOCH;
        let of = |view| {
            let writer = Writer::new(Resource::Services, view);
            written(|out| writer.object(&entry(), now, out))
        };
        assert_eq!(of(View::Whole)["spec"]["type"], "ClusterIP");
        let metadata = of(View::Metadata("v1"));
        assert_eq!(metadata["apiVersion"], "meta.k8s.io/v1");
        assert_eq!(metadata["metadata"]["uid"], "u");
        let table = of(View::Table("v1", Include::Object));
        assert_eq!(table["rows"][0]["object"]["spec"]["type"], "ClusterIP");
        let table = of(View::Table("v1", Include::None));
        assert_eq!(table["rows"][0]["object"], Value::Null);
    }
}
