//! v1 Event: how the feed server reports rejected manifests.

use crate::entry::{Entry, PLAIN, Role};
use crate::name::Kind;
use crate::object::{Meta, Text, objects};
use crate::shape;
use crate::table;

const FIELDS: [(&str, &str); 11] = [
    ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
    ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
    ("involvedObject.kind", "/involvedObject/kind"),
    ("involvedObject.name", "/involvedObject/name"),
    ("involvedObject.namespace", "/involvedObject/namespace"),
    ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
    ("involvedObject.uid", "/involvedObject/uid"),
    ("reason", "/reason"),
    ("reportingComponent", "/reportingComponent"),
    ("source", "/source/component"),
    ("type", "/type"),
];

pub(super) const ENTRY: Entry = Entry {
    kind: Kind::Event,
    name: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    role: Role::Made,
    shape: shape::of::<Event<'static>>,
    empty: concat!(
        r#","involvedObject":{},"source":{},"firstTimestamp":null,"lastTimestamp":null,"#,
        r#""eventTime":null,"reportingComponent":"","reportingInstance":"""#
    ),
    fields: &FIELDS,
    columns: &[
        "Last Seen",
        "Type",
        "Reason",
        "Object",
        "+Subobject",
        "+Source",
        "Message",
        "+First Seen",
        "+Count",
        "+Name",
    ],
    cells: table::event,
    ..PLAIN
};

objects! { pub(super), 'a
    /// No source has Events: this type only says which fields those have that are made.
    #[allow(dead_code, reason = "only its shape is used")]
    struct Event {
        api_version: Text<'a>,
        kind: Text<'a>,
        metadata: Meta<'a>,
        involved_object: ObjectReference<'a>,
        reason: Text<'a>,
        message: Text<'a>,
        source: EventSource<'a>,
        first_timestamp: Text<'a>,
        last_timestamp: Text<'a>,
        event_time: Text<'a>,
        count: i64,
        #[serde(rename = "type")]
        event_type: Text<'a>,
        reporting_component: Text<'a>,
        reporting_instance: Text<'a>,
    }
    #[allow(dead_code, reason = "only its shape is used")]
    struct ObjectReference {
        api_version: Text<'a>,
        kind: Text<'a>,
        name: Text<'a>,
        namespace: Text<'a>,
        uid: Text<'a>,
    }
    #[allow(dead_code, reason = "only its shape is used")]
    struct EventSource {
        component: Text<'a>,
    }
}
