//! v1 Service.

use crate::defaults;
use crate::entry::{Entry, PLAIN, Process};
use crate::name::Kind;
use crate::object::Service;
use crate::reader::reader;
use crate::shape;
use crate::table;
use crate::validate;

pub(super) const ENTRY: Entry = Entry {
    kind: Kind::Service,
    name: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    listed_by: &[Process::Proxy, Process::Ingress, Process::Dns],
    reader: reader!(Service, validate::service),
    shape: shape::of::<Service<'static>>,
    complete: defaults::service,
    empty: r#","spec":{},"status":{"loadBalancer":{}}"#,
    fields: &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
    columns: &["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"],
    cells: table::service,
    ..PLAIN
};
