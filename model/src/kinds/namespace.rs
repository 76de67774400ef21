//! v1 Namespace.

use crate::defaults;
use crate::entry::{Entry, PLAIN, Process};
use crate::name::Kind;
use crate::object::Namespace;
use crate::reader::reader;
use crate::shape;
use crate::table;
use crate::validate;

pub(super) const ENTRY: Entry = Entry {
    kind: Kind::Namespace,
    name: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    listed_by: &[Process::Dns],
    reader: reader!(Namespace, validate::namespace),
    shape: shape::of::<Namespace<'static>>,
    complete: defaults::namespace,
    empty: r#","spec":{},"status":{}"#,
    fields: &[("status.phase", "/status/phase")],
    columns: &["Name", "Status", "Age"],
    cells: table::namespace,
    ..PLAIN
};
