//! discovery.k8s.io/v1 EndpointSlice.

use crate::defaults;
use crate::entry::{Entry, PLAIN, Process};
use crate::name::Kind;
use crate::object::EndpointSlice;
use crate::reader::reader;
use crate::shape;
use crate::table;
use crate::validate;

pub(super) const ENTRY: Entry = Entry {
    kind: Kind::EndpointSlice,
    name: "EndpointSlice",
    api_version: "discovery.k8s.io/v1",
    plural: "endpointslices",
    singular: "endpointslice",
    listed_by: &[Process::Proxy, Process::Ingress, Process::Dns],
    reader: reader!(EndpointSlice, validate::slice),
    shape: shape::of::<EndpointSlice<'static>>,
    complete: defaults::slice,
    generation: true,
    empty: r#","addressType":"","endpoints":null,"ports":null"#,
    columns: &["Name", "AddressType", "Ports", "Endpoints", "Age"],
    cells: table::slice,
    ..PLAIN
};
