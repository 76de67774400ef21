//! The table of kinds: everything about each kind, in one file for each kind below this one.
//!
//! Listing, storing, change sets, serving, discovery and state files follow from an entry, and
//! tests compare the RBAC manifests with it. A kind that is only stored and served takes a
//! variant of [`Kind`], a file here and its line in `ENTRIES`.

mod endpoint_slice;
mod endpoints;
mod event;
mod ingress;
mod ingress_class;
mod namespace;
mod node;
mod pod;
mod secret;
mod service;
mod service_cidr;

use std::fmt;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::defaults;
use crate::entry::{Entry, Process, Role};
use crate::name::{Kind, Kinds};
use crate::reader::Reader;
use crate::shape::{Shape, Structure};
use crate::table::{Fields, Row};

/// In the order of [`Kind`].
const ENTRIES: [&Entry; Kind::COUNT] = [
    &namespace::ENTRY,
    &node::ENTRY,
    &ingress_class::ENTRY,
    &service_cidr::ENTRY,
    &secret::ENTRY,
    &service::ENTRY,
    &pod::ENTRY,
    &endpoints::ENTRY,
    &endpoint_slice::ENTRY,
    &ingress::ENTRY,
    &event::ENTRY,
];

impl Kind {
    pub const COUNT: usize = Kind::Event as usize + 1;

    pub const ALL: [Kind; Kind::COUNT] = {
        let mut all = [Kind::Event; Kind::COUNT];
        let mut i = 0;
        while i < Kind::COUNT {
            all[i] = ENTRIES[i].kind;
            i += 1;
        }
        all
    };

    /// The only version of every group here.
    pub const VERSION: &str = "v1";

    fn entry(self) -> &'static Entry {
        ENTRIES[self as usize]
    }

    /// The kinds that a source reads.
    pub fn read() -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| kind.role() != Role::Made)
    }

    /// The kinds whose objects are in the model.
    pub fn joined() -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(|kind| kind.role() == Role::Joined)
    }

    /// The kind with this name in Kubernetes.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The kind with this group and plural, as in a path of the API.
    pub fn of_plural(group: &str, plural: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.group() == group && kind.plural() == plural)
    }

    /// The API groups of the kinds, sorted; the core group has no name.
    pub fn groups() -> Vec<&'static str> {
        let mut groups: Vec<_> = Kind::ALL.into_iter().map(Kind::group).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// As Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        self.entry().name
    }

    /// The index in an array with one element for each kind.
    pub fn index(self) -> usize {
        self as usize
    }

    /// `v1` or `group/v1`: the version that is read and served.
    pub fn api_version(self) -> &'static str {
        self.entry().api_version
    }

    pub fn group(self) -> &'static str {
        self.api_version().rsplit_once('/').map_or("", |(group, _)| group)
    }

    pub fn plural(self) -> &'static str {
        self.entry().plural
    }

    pub fn singular(self) -> &'static str {
        self.entry().singular
    }

    pub fn short_names(self) -> &'static [&'static str] {
        self.entry().short_names
    }

    /// What `kubectl get all` and the like include it in.
    pub fn categories(self) -> &'static [&'static str] {
        self.entry().categories
    }

    /// The name in errors: `services`, `ingresses.networking.k8s.io`.
    pub fn qualified(self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }

    /// Whether objects of this kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        self.entry().namespaced
    }

    pub fn role(self) -> Role {
        self.entry().role
    }

    /// Whether a process works without it if its account may not list it.
    pub fn is_optional(self) -> bool {
        self.entry().optional
    }

    /// Field selector with which a process lists it; empty: all.
    pub fn list_selector(self) -> &'static str {
        self.entry().list_selector
    }

    /// Path of all its objects, in all namespaces.
    pub fn collection_path(self) -> String {
        let root = if self.group().is_empty() { "/api" } else { "/apis" };
        format!("{root}/{}/{}", self.api_version(), self.plural())
    }

    /// How its objects are read; absent if no source has any.
    pub fn reader(self) -> Option<Reader> {
        self.entry().reader
    }

    /// The fields of its objects.
    pub fn structure(self) -> Structure {
        match (self.entry().shape)() {
            Shape::Object(structure) => structure,
            _ => Structure { name: self.as_str(), fields: Vec::new(), is_open: true },
        }
    }

    /// Whether `metadata.generation` counts changes of everything except the metadata.
    pub fn has_generation(self) -> bool {
        self.entry().generation
    }

    /// JSON after the metadata of an object without further content.
    pub fn empty_fields(self) -> &'static str {
        self.entry().empty
    }

    /// Field selectors besides `metadata.name` and `metadata.namespace`, with JSON pointers.
    pub fn selectable_fields(self) -> &'static [(&'static str, &'static str)] {
        self.entry().fields
    }

    /// Completes an object as the API does.
    pub fn complete(self, object: &mut Value) {
        defaults::normalize(object, "");
        if let Value::Object(object) = object {
            (self.entry().complete)(object);
        }
    }

    /// The column definitions of a table.
    pub fn column_definitions(self) -> Value {
        let definition = |column: &&str| {
            let name = column.trim_start_matches('+');
            json!({
                "name": name,
                "type": if matches!(name, "Data" | "Count") { "integer" } else { "string" },
                "format": if name == "Name" { "name" } else { "" },
                "description": format!("{name} of the {}", self.as_str()),
                "priority": u8::from(column.starts_with('+')),
            })
        };
        self.entry().columns.iter().map(definition).collect()
    }

    /// The cells of an object's row, one for each column.
    pub fn cells(self, object: &Value, now: Timestamp) -> Value {
        (self.entry().cells)(Row { object: Fields(object), now })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Kinds {
    /// All kinds that are in the model.
    pub const fn all() -> Kinds {
        let mut kinds = Kinds::of(&[]);
        let mut i = 0;
        while i < Kind::COUNT {
            if matches!(ENTRIES[i].role, Role::Joined) {
                kinds = kinds.and(Kinds::of(&[ENTRIES[i].kind]));
            }
            i += 1;
        }
        kinds
    }

    /// The kinds that a process lists.
    pub const fn listed_by(process: Process) -> Kinds {
        let mut kinds = Kinds::of(&[]);
        let mut i = 0;
        while i < Kind::COUNT {
            let processes = ENTRIES[i].listed_by;
            let mut j = 0;
            while j < processes.len() {
                if processes[j] as u8 == process as u8 {
                    kinds = kinds.and(Kinds::of(&[ENTRIES[i].kind]));
                }
                j += 1;
            }
            i += 1;
        }
        kinds
    }
}

#[cfg(test)]
mod tests;
