//! v1 Event: how the feed server reports rejected manifests.

use crate::entry::{Entry, PLAIN, Role};
use crate::name::Kind;
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
