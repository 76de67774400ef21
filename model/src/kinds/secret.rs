//! v1 Secret.

use crate::defaults;
use crate::entry::{Entry, PLAIN, Process};
use crate::name::Kind;
use crate::object::Secret;
use crate::reader::reader;
use crate::shape;
use crate::table;
use crate::validate;

pub(super) const ENTRY: Entry = Entry {
    kind: Kind::Secret,
    name: "Secret",
    plural: "secrets",
    singular: "secret",
    listed_by: &[Process::Ingress],
    // A cluster has thousands of Secrets that no Ingress names, of up to 1 MB each: Helm releases
    // and tokens.
    list_selector: "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token",
    reader: reader!(Secret, validate::secret),
    shape: shape::of::<Secret<'static>>,
    complete: defaults::secret,
    fields: &[("type", "/type")],
    columns: &["Name", "Type", "Data", "Age"],
    cells: table::secret,
    ..PLAIN
};
