//! The store: events of a source → the model, with what changed.
//!
//! The only mutable copy. A list of a kind is buffered between [`Event::Init`] and
//! [`Event::InitDone`] and swapped in whole, as a difference, so a re-list removes deleted objects
//! and does not touch the others. Slices of Services that have only Endpoints or Pods are derived
//! here ([`mod@derive`]), because this joins objects. Left out: where events come from.

mod derive;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use derive::Derivation;
use foldhash::fast::RandomState;

use crate::model::{Changes, EndpointSlice, Model, Object};
use crate::name::{Kind, Kinds, ObjectKey, ObjectName};
use crate::record::Record;

/// An event of a source: about one object, or about the list of a kind.
#[derive(Clone, Debug)]
pub enum Event {
    /// A list of this kind begins.
    Init(Kind),
    /// An object of the list that began.
    InitApply(Record),
    /// An object of the list that began was deleted before the list was complete.
    InitDelete(ObjectKey),
    /// An object of the list that began is not valid: its last good state stays in use, if it has
    /// one.
    InitKeep(ObjectKey),
    /// The list is complete: objects that it did not contain are deleted.
    InitDone(Kind),
    Apply(Record),
    Delete(ObjectKey),
}

#[derive(Debug)]
pub struct Store {
    kinds: Kinds,
    model: Model,
    changes: Changes,
    /// `None` if the source has already derived slices.
    derivation: Option<Derivation>,
    /// The derived slices in the model, of Services without slices of their own.
    derived: HashSet<ObjectName, RandomState>,
    listing: BTreeMap<Kind, Listing>,
    listed: Vec<Kind>,
}

/// A list that has begun.
#[derive(Debug, Default)]
struct Listing {
    records: Vec<Record>,
    kept: Vec<ObjectName>,
}

impl Store {
    /// A store whose model contains only these kinds, with slices derived from Endpoints and Pods.
    pub fn new(kinds: Kinds) -> Store {
        Store { derivation: Some(Derivation::default()), ..Store::of_api(kinds) }
    }

    /// A store for the objects of an API, where every slice already is an object.
    pub fn of_api(kinds: Kinds) -> Store {
        Store {
            kinds,
            model: Model::default(),
            changes: Changes::default(),
            derivation: None,
            derived: HashSet::default(),
            listing: BTreeMap::new(),
            listed: Vec::new(),
        }
    }

    pub fn handle(&mut self, event: Event) {
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

    /// The list that began will never be complete.
    pub fn forget_list(&mut self, kind: Kind) {
        self.listing.remove(&kind);
    }

    /// Ends a batch: the model after it, and what changed since the last one.
    pub fn commit(&mut self) -> (Model, Changes) {
        if let Some(derivation) = &mut self.derivation {
            let (model, derived) = (&self.model, &self.derived);
            let has_own = |service: &ObjectName| {
                model.slices_of(service).iter().any(|slice| !derived.contains(&slice.name))
            };
            for (service, slices) in derivation.refresh(has_own) {
                self.replace_derived(&service, slices);
            }
        }
        (self.model.clone(), std::mem::take(&mut self.changes))
    }

    /// The model after the events so far, also those since the last commit.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Whether every kind has been listed once.
    pub fn is_synced(&self) -> bool {
        self.listed.len() == Kind::read().count()
    }

    fn list(&mut self, kind: Kind) -> &mut Listing {
        self.listing.get_mut(&kind).expect("Init comes before what is in the list")
    }

    fn swap(&mut self, kind: Kind) {
        let list = self.listing.remove(&kind).expect("Init comes before InitDone");
        let mut gone = self.names(kind);
        for name in &list.kept {
            gone.remove(name);
        }
        for record in list.records {
            gone.remove(&record.key().name);
            self.apply(record);
        }
        for name in gone {
            self.delete(&ObjectKey { kind, name });
        }
        if !self.listed.contains(&kind) {
            self.listed.push(kind);
        }
    }

    /// The names of all objects of a kind.
    fn names(&self, kind: Kind) -> BTreeSet<ObjectName> {
        let model = &self.model;
        let mut names = self.derivation.as_ref().map(|d| d.names(kind)).unwrap_or_default();
        match kind {
            Kind::Service => names.extend(model.service_names().cloned()),
            Kind::EndpointSlice => {
                let explicit = model.slice_names().filter(|name| !self.derived.contains(*name));
                names.extend(explicit.cloned());
            }
            Kind::Pod => names.extend(model.pods().map(|o| o.name.clone())),
            Kind::Node => names.extend(model.nodes().map(|o| o.name.clone())),
            Kind::Ingress => names.extend(model.ingresses().map(|o| o.name.clone())),
            Kind::IngressClass => names.extend(model.ingress_classes().map(|o| o.name.clone())),
            Kind::Secret => names.extend(model.secrets().map(|o| o.name.clone())),
            Kind::Namespace => names.extend(model.namespaces().cloned()),
            // What is only served has no place in the model.
            _ => {}
        }
        names
    }

    fn apply(&mut self, record: Record) {
        if let Some(derivation) = &mut self.derivation {
            match &record {
                Record::Service(record) => derivation.put_service(record.clone()),
                Record::Endpoints(record) => derivation.put_endpoints(record.clone()),
                Record::Pod(record) => derivation.put_pod(record.clone()),
                Record::Node(node) => derivation.put_node(node),
                Record::EndpointSlice(slice) => {
                    derivation.touch_if_derived(&slice.service_name());
                    if let Some(before) = self.model.owner_of_slice(&slice.name) {
                        derivation.touch_if_derived(&before);
                    }
                    self.derived.remove(&slice.name);
                }
                _ => {}
            }
        }
        match record {
            Record::Service(record) => self.put(Object::Service(record.service.clone())),
            Record::EndpointSlice(slice) => self.put(Object::EndpointSlice(slice)),
            Record::Pod(record) => self.put(Object::Pod(record.pod.clone())),
            Record::Node(o) => self.put(Object::Node(o)),
            Record::Ingress(o) => self.put(Object::Ingress(o)),
            Record::IngressClass(o) => self.put(Object::IngressClass(o)),
            Record::Secret(o) => self.put(Object::Secret(o)),
            Record::Namespace(name) => self.put(Object::Namespace(name)),
            Record::Endpoints(_) | Record::NameOnly(_) => {}
        }
    }

    fn put(&mut self, object: Object) {
        if self.kinds.contains(object.key().kind) {
            self.model.apply(object, &mut self.changes);
        }
    }

    fn delete(&mut self, key: &ObjectKey) {
        let name = &key.name;
        if let Some(derivation) = &mut self.derivation {
            match key.kind {
                Kind::Endpoints => derivation.delete_endpoints(name),
                Kind::Service => derivation.delete_service(name),
                Kind::Pod => derivation.delete_pod(name),
                Kind::Node => derivation.delete_node(name),
                Kind::EndpointSlice => {
                    if let Some(owner) = self.model.owner_of_slice(name) {
                        derivation.touch_if_derived(&owner);
                    }
                    self.derived.remove(name);
                }
                _ => {}
            }
        }
        self.model.delete(key, &mut self.changes);
    }

    /// Replaces the slices that were derived for a Service.
    fn replace_derived(&mut self, service: &ObjectName, slices: Vec<Arc<EndpointSlice>>) {
        if !self.kinds.contains(Kind::EndpointSlice) {
            return;
        }
        let before = self.model.slices_of(service);
        let before = before.iter().filter(|slice| self.derived.contains(&slice.name));
        let gone = before.filter(|slice| slices.iter().all(|new| new.name != slice.name));
        let gone: Vec<_> = gone.map(|slice| slice.name.clone()).collect();
        for name in gone {
            self.derived.remove(&name);
            let key = ObjectKey { kind: Kind::EndpointSlice, name };
            self.model.delete(&key, &mut self.changes);
        }
        for slice in slices {
            // A slice of that name that a manifest defines is kept.
            let is_taken = self.model.owner_of_slice(&slice.name).is_some();
            if self.derived.contains(&slice.name) || !is_taken {
                self.derived.insert(slice.name.clone());
                self.model.apply(Object::EndpointSlice(slice), &mut self.changes);
            }
        }
    }
}

#[cfg(test)]
mod tests;
