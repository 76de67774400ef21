//! v1 Pod.

use crate::defaults;
use crate::entry::{Entry, PLAIN, Process};
use crate::name::Kind;
use crate::object::Pod;
use crate::reader::reader;
use crate::shape;
use crate::table;
use crate::validate;

const FIELDS: [(&str, &str); 7] = [
    ("spec.hostNetwork", "/spec/hostNetwork"),
    ("spec.nodeName", "/spec/nodeName"),
    ("spec.restartPolicy", "/spec/restartPolicy"),
    ("spec.schedulerName", "/spec/schedulerName"),
    ("spec.serviceAccountName", "/spec/serviceAccountName"),
    ("status.phase", "/status/phase"),
    ("status.podIP", "/status/podIP"),
];

pub(super) const ENTRY: Entry = Entry {
    kind: Kind::Pod,
    name: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    listed_by: &[Process::Dns],
    reader: reader!(Pod, validate::pod),
    shape: shape::of::<Pod<'static>>,
    complete: defaults::pod,
    empty: r#","spec":{"containers":null},"status":{}"#,
    fields: &FIELDS,
    columns: &[
        "Name",
        "Ready",
        "Status",
        "Restarts",
        "Age",
        "+IP",
        "+Node",
        "+Nominated Node",
        "+Readiness Gates",
    ],
    cells: table::pod,
    ..PLAIN
};
