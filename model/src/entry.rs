//! The fields of an entry of the table of kinds ([`crate::kinds`]).

use serde_json::{Value, json};

use crate::defaults;
use crate::name::Kind;
use crate::reader::Reader;
use crate::shape::Shape;
use crate::table::Row;

/// All that is known about one kind.
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    /// As Kubernetes spells it.
    pub(crate) name: &'static str,
    /// `v1` or `group/v1`: the version that is read and served.
    pub(crate) api_version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short_names: &'static [&'static str],
    /// What `kubectl get all` and the like include it in.
    pub(crate) categories: &'static [&'static str],
    pub(crate) namespaced: bool,
    pub(crate) role: Role,
    /// The processes that list it. The rights that their accounts need follow from this.
    pub(crate) listed_by: &'static [Process],
    /// A process works without it if its account may not list it.
    pub(crate) optional: bool,
    /// Field selector for listing: no process needs the objects that it excludes.
    pub(crate) list_selector: &'static str,
    /// The trimmed type with its validation; absent if no source has objects of the kind.
    pub(crate) reader: Option<Reader>,
    /// The fields of its objects, by the trimmed type.
    pub(crate) shape: fn() -> Shape,
    /// Adds what the API adds to an object that leaves it out.
    pub(crate) complete: fn(&mut defaults::Object),
    /// `metadata.generation` counts changes of everything except the metadata.
    pub(crate) generation: bool,
    /// The fields besides metadata that an object without content has: a bookmark is one, and
    /// typed clients refuse it without them.
    pub(crate) empty: &'static str,
    /// Field selectors besides `metadata.name` and `metadata.namespace`: name and JSON pointer.
    pub(crate) fields: &'static [(&'static str, &'static str)],
    /// The columns that `kubectl get` prints; those with a `+` show only with `-o wide`.
    pub(crate) columns: &'static [&'static str],
    /// A cell for each column.
    pub(crate) cells: fn(Row<'_>) -> Value,
}

/// How a kind's objects are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// They are in the model.
    Joined,
    /// Endpoints: they are in the model as EndpointSlices.
    Turned,
    /// The feed server keeps and serves them; no process uses them.
    Served,
    /// The feed server makes them; no manifest may hold one.
    Made,
}

/// A process that follows a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Proxy,
    Ingress,
    Dns,
}

/// The values that most kinds share.
pub(crate) const PLAIN: Entry = Entry {
    kind: Kind::Event,
    name: "",
    api_version: "v1",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    role: Role::Joined,
    listed_by: &[],
    optional: false,
    list_selector: "",
    reader: None,
    shape: || Shape::Any,
    complete: defaults::nothing,
    generation: false,
    empty: "",
    fields: &[],
    columns: &["Name", "Age"],
    cells: |row| json!([row.name(), row.age()]),
};
