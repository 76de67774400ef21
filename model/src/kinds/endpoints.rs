//! v1 Endpoints, which become EndpointSlices.

use crate::defaults;
use crate::entry::{Entry, PLAIN, Role};
use crate::name::Kind;
use crate::object::Endpoints;
use crate::reader::reader;
use crate::shape;
use crate::table;
use crate::validate;

pub(super) const ENTRY: Entry = Entry {
    kind: Kind::Endpoints,
    name: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    role: Role::Turned,
    reader: reader!(Endpoints, validate::endpoints),
    shape: shape::of::<Endpoints<'static>>,
    complete: defaults::endpoints,
    columns: &["Name", "Endpoints", "Age"],
    cells: table::endpoints,
    ..PLAIN
};
