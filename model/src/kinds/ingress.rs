//! networking.k8s.io/v1 Ingress.

use crate::defaults;
use crate::entry::{Entry, PLAIN, Process};
use crate::name::Kind;
use crate::object::Ingress;
use crate::reader::reader;
use crate::shape;
use crate::table;
use crate::validate;

pub(super) const ENTRY: Entry = Entry {
    kind: Kind::Ingress,
    name: "Ingress",
    api_version: "networking.k8s.io/v1",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    listed_by: &[Process::Ingress],
    reader: reader!(Ingress, validate::ingress),
    shape: shape::of::<Ingress<'static>>,
    complete: defaults::ingress,
    generation: true,
    empty: r#","spec":{},"status":{"loadBalancer":{}}"#,
    columns: &["Name", "Class", "Hosts", "Address", "Ports", "Age"],
    cells: table::ingress,
    ..PLAIN
};
