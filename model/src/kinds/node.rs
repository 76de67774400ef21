//! v1 Node.

use crate::entry::{Entry, PLAIN, Process};
use crate::name::Kind;
use crate::object::Node;
use crate::reader::reader;
use crate::shape;
use crate::table;
use crate::validate;

pub(super) const ENTRY: Entry = Entry {
    kind: Kind::Node,
    name: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    namespaced: false,
    listed_by: &[Process::Proxy],
    // Nodes are used to find near endpoints. Many accounts may not read them, and all Services can
    // be served without them.
    optional: true,
    reader: reader!(Node, validate::node),
    shape: shape::of::<Node<'static>>,
    empty: r#","spec":{},"status":{}"#,
    fields: &[("spec.unschedulable", "/spec/unschedulable")],
    columns: &[
        "Name",
        "Status",
        "Roles",
        "Age",
        "Version",
        "+Internal-IP",
        "+External-IP",
        "+OS-Image",
        "+Kernel-Version",
        "+Container-Runtime",
    ],
    cells: table::node,
    ..PLAIN
};
