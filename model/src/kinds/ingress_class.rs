//! networking.k8s.io/v1 IngressClass.

use crate::defaults;
use crate::entry::{Entry, PLAIN, Process};
use crate::name::Kind;
use crate::object::IngressClass;
use crate::reader::reader;
use crate::shape;
use crate::table;
use crate::validate;

pub(super) const ENTRY: Entry = Entry {
    kind: Kind::IngressClass,
    name: "IngressClass",
    api_version: "networking.k8s.io/v1",
    plural: "ingressclasses",
    singular: "ingressclass",
    namespaced: false,
    listed_by: &[Process::Ingress],
    reader: reader!(IngressClass, validate::ingress_class),
    shape: shape::of::<IngressClass<'static>>,
    complete: defaults::ingress_class,
    generation: true,
    empty: r#","spec":{}"#,
    columns: &["Name", "Controller", "Parameters", "Age"],
    cells: table::ingress_class,
    ..PLAIN
};
