//! The store: events of a source → the model, with what changed.
//!
//! The only mutable copy. A list of a kind is buffered between [`Event::Init`] and
//! [`Event::InitDone`] and swapped in whole, as a difference, so a re-list removes what is gone
//! and touches nothing that stayed. Slices that Endpoints or Pods stand for are made here
//! ([`mod@derive`]), because they are a join of objects. Left out: where events come from.

mod derive;

use std::collections::BTreeMap;
use std::sync::Arc;

use derive::Derivation;

use crate::model::{Changes, EndpointSlice, Model, Object};
use crate::name::{Kind, Kinds, ObjectKey, ObjectName};
use crate::record::{Record, RecordKey, RecordKind};

/// What a source tells of one object, or of the list of a kind.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A list of this kind begins.
    Init(RecordKind),
    /// An object of the list that began.
    InitApply(Record),
    /// An object of the list that began has gone before the list was complete.
    InitDelete(RecordKey),
    /// An object of the list that began is not valid: its last good state stays, if it has one.
    InitKeep(RecordKey),
    /// The list is complete: what it did not name is gone.
    InitDone(RecordKind),
    Apply(Record),
    Delete(RecordKey),
}

#[derive(Debug)]
pub(crate) struct Store {
    kinds: Kinds,
    model: Model,
    changes: Changes,
    derivation: Derivation,
    /// Explicit slices, and those that stand in the model for a Service without any.
    slices: BTreeMap<ObjectName, ObjectName>,
    derived: BTreeMap<ObjectName, Vec<ObjectName>>,
    listing: BTreeMap<RecordKind, Listing>,
    listed: Vec<RecordKind>,
}

/// A list that has begun.
#[derive(Debug, Default)]
struct Listing {
    records: Vec<Record>,
    kept: Vec<ObjectName>,
}

impl Store {
    /// A store whose model holds these kinds only.
    pub(crate) fn new(kinds: Kinds) -> Store {
        Store {
            kinds,
            model: Model::default(),
            changes: Changes::default(),
            derivation: Derivation::default(),
            slices: BTreeMap::new(),
            derived: BTreeMap::new(),
            listing: BTreeMap::new(),
            listed: Vec::new(),
        }
    }

    pub(crate) fn handle(&mut self, event: Event) {
        match event {
            Event::Init(kind) => {
                self.listing.insert(kind, Listing::default());
            }
            Event::InitApply(record) => self.list(record.key().kind).records.push(record),
            Event::InitDelete(key) => {
                let list = self.list(key.kind);
                list.records.retain(|record| record.key() != key);
                list.kept.retain(|name| *name != key.name);
            }
            Event::InitKeep(key) => self.list(key.kind).kept.push(key.name),
            Event::InitDone(kind) => self.swap(kind),
            Event::Apply(record) => self.apply(record),
            Event::Delete(key) => self.delete(&key),
        }
    }

    /// Ends a batch: the model after it, and what changed since the last one.
    pub(crate) fn commit(&mut self) -> (Model, Changes) {
        for (service, slices) in self.derivation.refresh() {
            self.replace_derived(service, slices);
        }
        (self.model.clone(), std::mem::take(&mut self.changes))
    }

    /// Whether every kind has been listed once.
    pub(crate) fn is_synced(&self) -> bool {
        self.listed.len() == RecordKind::ALL.len()
    }

    fn list(&mut self, kind: RecordKind) -> &mut Listing {
        self.listing.get_mut(&kind).expect("Init comes before what is in the list")
    }

    fn swap(&mut self, kind: RecordKind) {
        let list = self.listing.remove(&kind).expect("Init comes before InitDone");
        let mut gone: std::collections::BTreeSet<_> = self.names(kind).into_iter().collect();
        for name in &list.kept {
            gone.remove(name);
        }
        for record in list.records {
            gone.remove(&record.key().name);
            self.apply(record);
        }
        for name in gone {
            self.delete(&RecordKey { kind, name });
        }
        if !self.listed.contains(&kind) {
            self.listed.push(kind);
        }
    }

    /// The names of all objects of a kind.
    fn names(&self, kind: RecordKind) -> Vec<ObjectName> {
        let model = &self.model;
        match kind {
            RecordKind::Endpoints => self.derivation.endpoints(),
            RecordKind::Of(kind) => match kind {
                Kind::Service => self.derivation.services(),
                Kind::EndpointSlice => self.slices.keys().cloned().collect(),
                Kind::Pod => self.derivation.pods(),
                Kind::Node => self.derivation.nodes(),
                Kind::Ingress => model.ingresses().map(|o| o.name.clone()).collect(),
                Kind::IngressClass => model.ingress_classes().map(|o| o.name.clone()).collect(),
                Kind::Secret => model.secrets().map(|o| o.name.clone()).collect(),
                Kind::Namespace => model.namespaces().cloned().collect(),
            },
        }
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Service(record) => {
                self.put(Object::Service(record.service.clone()));
                self.derivation.put_service(record);
            }
            Record::EndpointSlice(slice) => {
                let owner = slice.service_name();
                let before = self.slices.insert(slice.name.clone(), owner.clone());
                if before.as_ref() != Some(&owner) {
                    self.derivation.add_slice(&owner);
                    if let Some(before) = before {
                        self.derivation.remove_slice(&before);
                    }
                }
                self.put(Object::EndpointSlice(slice));
            }
            Record::Endpoints(record) => self.derivation.put_endpoints(record),
            Record::Pod(record) => {
                self.put(Object::Pod(record.pod.clone()));
                self.derivation.put_pod(record);
            }
            Record::Node(node) => {
                self.put(Object::Node(node.clone()));
                self.derivation.put_node(&node);
            }
            Record::Ingress(o) => self.put(Object::Ingress(o)),
            Record::IngressClass(o) => self.put(Object::IngressClass(o)),
            Record::Secret(o) => self.put(Object::Secret(o)),
            Record::Namespace(name) => self.put(Object::Namespace(name)),
            Record::Unwanted(_) => {}
        }
    }

    fn put(&mut self, object: Object) {
        if self.kinds.contains(object.key().kind) {
            self.model.apply(object, &mut self.changes);
        }
    }

    fn delete(&mut self, key: &RecordKey) {
        let name = &key.name;
        let RecordKind::Of(kind) = key.kind else {
            return self.derivation.delete_endpoints(name);
        };
        match kind {
            Kind::Service => self.derivation.delete_service(name),
            Kind::Pod => self.derivation.delete_pod(name),
            Kind::Node => self.derivation.delete_node(name),
            Kind::EndpointSlice => {
                if let Some(owner) = self.slices.remove(name) {
                    self.derivation.remove_slice(&owner);
                }
            }
            Kind::Ingress | Kind::IngressClass | Kind::Secret | Kind::Namespace => {}
        }
        self.model.delete(&ObjectKey { kind, name: name.clone() }, &mut self.changes);
    }

    /// Puts the derived slices of a Service in the place of those derived before.
    fn replace_derived(&mut self, service: ObjectName, slices: Vec<Arc<EndpointSlice>>) {
        if !self.kinds.contains(Kind::EndpointSlice) {
            return;
        }
        let before = self.derived.remove(&service).unwrap_or_default();
        // An explicit slice of that very name is someone's object: it stays.
        let slices: Vec<_> =
            slices.into_iter().filter(|slice| !self.slices.contains_key(&slice.name)).collect();
        for name in before {
            let stays = slices.iter().any(|slice| slice.name == name);
            if !stays && !self.slices.contains_key(&name) {
                let key = ObjectKey { kind: Kind::EndpointSlice, name };
                self.model.delete(&key, &mut self.changes);
            }
        }
        if slices.is_empty() {
            return;
        }
        self.derived.insert(service, slices.iter().map(|slice| slice.name.clone()).collect());
        for slice in slices {
            self.model.apply(Object::EndpointSlice(slice), &mut self.changes);
        }
    }
}

#[cfg(test)]
mod tests;
