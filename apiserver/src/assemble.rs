//! A batch of the folder → the changes of the versioned store, in an order that breaks nothing.
//!
//! Pure. Adds what no manifest holds (slices and Endpoints of Services, namespaces, Events of
//! rejections) and takes it away again. What others refer to comes up first: namespaces and
//! classes, Secrets, Services, Pods, slices, then Ingresses; removals come last, in the opposite
//! order. A client that applies changes in the order of their versions never has a route
//! without its target.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::defaults;
use super::derived::{self, Rejection};
use super::entry::Content;
use super::history::Change;
use super::resource::Resource;
use model::ObjectName;
use model::{EndpointSlice, Model};

/// Events of rejections; a folder with more of them has one mistake in every file.
const MAX_EVENTS: usize = 10_000;

/// Names one object.
pub(crate) type Key = (Resource, ObjectName);

/// What one look at the folder found changed.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Objects as the manifests have them, each whole, as JSON; `None`: no manifest has it any
    /// more.
    pub(crate) objects: Vec<(Key, Option<Arc<str>>)>,
    /// The join of all objects, for what follows from several.
    pub(crate) model: Model,
    /// Services that changed in the model, or whose slices did.
    pub(crate) services: BTreeSet<ObjectName>,
    /// All that is rejected now; `None`: the same as before.
    pub(crate) rejections: Option<Vec<Rejection>>,
}

/// Makes changes of batches.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// Objects of manifests.
    given: HashSet<Key>,
    /// Slices made for a Service.
    slices: HashMap<ObjectName, Vec<ObjectName>>,
    /// Endpoints that were made.
    endpoints: HashSet<ObjectName>,
    /// Number of objects in each namespace, Events of rejections among them.
    members: HashMap<Arc<str>, usize>,
    events: BTreeMap<ObjectName, (Rejection, String)>,
    /// When objects were first seen, before this process began.
    remembered: HashMap<Key, String>,
}

/// The changes of one batch before they are put in order.
#[derive(Debug, Default)]
struct Draft {
    puts: Vec<(Resource, Content)>,
    deletes: Vec<Key>,
}

impl Draft {
    fn put(&mut self, (resource, name): Key, object: Value) {
        let uid = derived::uid(resource, &name);
        self.puts.push((resource, Content::of(resource, name, object, &uid)));
    }
}

impl Assembler {
    /// Begins with the times of creation that an earlier process noted.
    pub(crate) fn new(remembered: HashMap<Key, String>) -> Assembler {
        Assembler { remembered, ..Assembler::default() }
    }

    /// The changes that a batch makes, in their order. `now` is the time of day.
    pub(crate) fn assemble(&mut self, batch: Batch, now: &str) -> Vec<Change> {
        let mut draft = Draft::default();
        let mut services = batch.services;
        let mut touched = BTreeSet::new();
        for (key, object) in batch.objects {
            touched.insert(key.1.namespace.clone());
            if key.0 == Resource::Endpoints {
                services.insert(key.1.clone());
            }
            if key.0 == Resource::Namespaces {
                touched.insert(key.1.name.clone());
            }
            self.given(key, object.as_deref(), &mut draft);
        }
        for name in services {
            touched.insert(name.namespace.clone());
            // Slices of a Service that is not there (yet) are objects too.
            let slices = batch.model.slices_of(&name);
            self.derive_slices(&name, &slices, &mut draft);
            self.derive_endpoints(&name, &slices, &mut draft);
        }
        if let Some(rejections) = batch.rejections {
            self.reject(rejections, now, &mut touched, &mut draft);
        }
        self.derive_namespaces(touched, &mut draft);
        // Of an object that was seen before this process, the first time counts.
        for (resource, content) in draft.puts.iter_mut().filter(|(_, c)| c.created.is_none()) {
            content.created = self.remembered.remove(&(*resource, content.name.clone()));
        }
        self.remembered = HashMap::new();
        in_order(draft)
    }

    /// One object at a time is more than text: as trees, all of a folder take five times as much.
    fn given(&mut self, key: Key, object: Option<&str>, draft: &mut Draft) {
        let Some(object) = object else {
            if self.given.remove(&key) {
                self.leave(&key.1.namespace);
                draft.deletes.push(key);
            }
            return;
        };
        if self.given.insert(key.clone()) {
            self.enter(&key.1.namespace);
        }
        let mut object = serde_json::from_str(object).unwrap_or_default();
        defaults::complete(key.0, &mut object);
        draft.put(key, object);
    }

    /// Puts the slices that were computed for a Service in the place of those before.
    fn derive_slices(
        &mut self,
        service: &ObjectName,
        slices: &[Arc<EndpointSlice>],
        draft: &mut Draft,
    ) {
        let before = self.slices.remove(service).unwrap_or_default();
        let mut now = Vec::new();
        for slice in slices {
            let key = (Resource::EndpointSlices, slice.name.clone());
            if self.given.contains(&key) {
                continue;
            }
            now.push(slice.name.clone());
            draft.put(key, derived::slice(slice));
        }
        for name in before {
            let key = (Resource::EndpointSlices, name);
            if !now.contains(&key.1) && !self.given.contains(&key) {
                draft.deletes.push(key);
            }
        }
        if !now.is_empty() {
            self.slices.insert(service.clone(), now);
        }
    }

    fn derive_endpoints(
        &mut self,
        service: &ObjectName,
        slices: &[Arc<EndpointSlice>],
        draft: &mut Draft,
    ) {
        let key = (Resource::Endpoints, service.clone());
        let given = self.given.contains(&key);
        let object = match given {
            true => None,
            false => derived::endpoints(slices.iter().map(|slice| &**slice)),
        };
        match object {
            Some(object) => {
                self.endpoints.insert(service.clone());
                draft.put(key, object);
            }
            None => {
                if self.endpoints.remove(service) && !given {
                    draft.deletes.push(key);
                }
            }
        }
    }

    /// Makes the Events say what is rejected now.
    fn reject(
        &mut self,
        rejections: Vec<Rejection>,
        now: &str,
        touched: &mut BTreeSet<Arc<str>>,
        draft: &mut Draft,
    ) {
        let mut before = std::mem::take(&mut self.events);
        for rejection in rejections.into_iter().take(MAX_EVENTS) {
            let (name, _) = derived::event(&rejection, now);
            if self.events.contains_key(&name) {
                continue;
            }
            let known = before.remove(&name);
            if known.is_none() {
                self.enter(&name.namespace);
                touched.insert(name.namespace.clone());
            }
            let same = known.as_ref().is_some_and(|(known, _)| *known == rejection);
            let since = known.map_or_else(|| now.to_owned(), |(_, since)| since);
            if !same {
                let (_, object) = derived::event(&rejection, &since);
                draft.put((Resource::Events, name.clone()), object);
            }
            self.events.insert(name, (rejection, since));
        }
        for name in before.into_keys() {
            self.leave(&name.namespace);
            touched.insert(name.namespace.clone());
            draft.deletes.push((Resource::Events, name));
        }
    }

    /// A namespace is there while a manifest has it, or an object lives in it.
    fn derive_namespaces(&mut self, touched: BTreeSet<Arc<str>>, draft: &mut Draft) {
        for namespace in touched.into_iter().filter(|namespace| !namespace.is_empty()) {
            let name = ObjectName { namespace: "".into(), name: namespace.clone() };
            let key = (Resource::Namespaces, name);
            if self.given.contains(&key) {
                draft.deletes.retain(|deleted| *deleted != key);
            } else if self.members.contains_key(&namespace) {
                draft.deletes.retain(|deleted| *deleted != key);
                draft.put(key, derived::namespace(&namespace));
            } else if !draft.deletes.contains(&key) {
                draft.deletes.push(key);
            }
        }
    }

    fn enter(&mut self, namespace: &Arc<str>) {
        if !namespace.is_empty() {
            *self.members.entry(namespace.clone()).or_default() += 1;
        }
    }

    fn leave(&mut self, namespace: &Arc<str>) {
        if let Some(count) = self.members.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                self.members.remove(namespace);
            }
        }
    }
}

/// Puts first, by resource; then removals, the other way round.
fn in_order(mut draft: Draft) -> Vec<Change> {
    draft.puts.sort_by_key(|(resource, _)| *resource);
    let put: HashSet<Key> =
        draft.puts.iter().map(|(resource, content)| (*resource, content.name.clone())).collect();
    draft.deletes.retain(|key| !put.contains(key));
    draft.deletes.sort_by_key(|(resource, _)| std::cmp::Reverse(*resource));
    let puts = draft.puts.into_iter().map(|(resource, content)| Change::Put(resource, content));
    let deletes = draft.deletes.into_iter().map(|(resource, name)| Change::Delete(resource, name));
    puts.chain(deletes).collect()
}

#[cfg(test)]
mod tests;
