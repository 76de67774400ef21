//! The model: the validated join of objects, immutable and cheap to clone.
//!
//! Pure. [`Model::apply`] and [`Model::delete`] cost O(the object and its Service), never O(all
//! Services): the maps are persistent, so a clone shares all that did not change. Every change
//! is noted in a [`Changes`], which travels with the model to its consumers.

mod endpoint_slice;
mod ingress;
mod secret;
mod service;

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

pub use endpoint_slice::{Address, AddressType, Details, Endpoint, EndpointSlice, SlicePort};
pub use ingress::{
    BackendPort, Ingress, IngressBackend, IngressClass, IngressPath, IngressRule, IngressTls,
    PathType,
};
pub use secret::Secret;
pub use service::{
    Protocol, Service, ServicePort, ServiceType, TargetPort, TrafficDistribution, TrafficPolicy,
};

use crate::name::{Kind, ObjectKey, ObjectName};

/// A validated object, as a source hands it to the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Pod(Arc<Pod>),
    Ingress(Arc<Ingress>),
    IngressClass(Arc<IngressClass>),
    Secret(Arc<Secret>),
    Namespace(ObjectName),
    Node(Arc<Node>),
}

impl Object {
    pub fn key(&self) -> ObjectKey {
        let (kind, name) = match self {
            Object::Service(o) => (Kind::Service, &o.name),
            Object::EndpointSlice(o) => (Kind::EndpointSlice, &o.name),
            Object::Pod(o) => (Kind::Pod, &o.name),
            Object::Ingress(o) => (Kind::Ingress, &o.name),
            Object::IngressClass(o) => (Kind::IngressClass, &o.name),
            Object::Secret(o) => (Kind::Secret, &o.name),
            Object::Namespace(name) => (Kind::Namespace, name),
            Object::Node(o) => (Kind::Node, &o.name),
        };
        ObjectKey { kind, name: name.clone() }
    }
}

/// A Pod, cut to what the dns process needs (`--pods verified`).
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    pub name: ObjectName,
    /// `status.podIPs`.
    pub ips: Vec<std::net::IpAddr>,
}

/// A Node, cut to its labels' topology and its addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub name: ObjectName,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// `status.addresses` of type `InternalIP` and `ExternalIP`.
    pub ips: Vec<std::net::IpAddr>,
}

/// A Service and the slices that carry its endpoints, ordered by slice name.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceEntry {
    pub service: Arc<Service>,
    pub slices: Arc<[Arc<EndpointSlice>]>,
}

/// What one or several batches changed: names of objects that were added, changed or removed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Services whose own object or whose slices changed.
    pub services: BTreeSet<ObjectName>,
    pub ingresses: BTreeSet<ObjectName>,
    pub ingress_classes: BTreeSet<ObjectName>,
    pub secrets: BTreeSet<ObjectName>,
    pub namespaces: BTreeSet<ObjectName>,
    pub pods: BTreeSet<ObjectName>,
    pub nodes: BTreeSet<ObjectName>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.sets().iter().all(|set| set.is_empty())
    }

    /// The number of names in all sets.
    pub fn len(&self) -> usize {
        self.sets().iter().map(|set| set.len()).sum()
    }

    pub fn merge(&mut self, later: Changes) {
        self.services.extend(later.services);
        self.ingresses.extend(later.ingresses);
        self.ingress_classes.extend(later.ingress_classes);
        self.secrets.extend(later.secrets);
        self.namespaces.extend(later.namespaces);
        self.pods.extend(later.pods);
        self.nodes.extend(later.nodes);
    }

    fn sets(&self) -> [&BTreeSet<ObjectName>; 7] {
        [
            &self.services,
            &self.ingresses,
            &self.ingress_classes,
            &self.secrets,
            &self.namespaces,
            &self.pods,
            &self.nodes,
        ]
    }
}

/// A slice that is compared by its name: a set of these takes less memory than a map with the names
/// as keys.
#[derive(Clone, Debug)]
struct ByName(Arc<EndpointSlice>);

impl Borrow<ObjectName> for ByName {
    fn borrow(&self) -> &ObjectName {
        &self.0.name
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &ByName) -> Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &ByName) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &ByName) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

pub type Map<V> = imbl::OrdMap<ObjectName, V>;
pub type Slices = Arc<[Arc<EndpointSlice>]>;

/// What belongs to the name of a Service: the Service itself, slices, or both.
#[derive(Clone, Debug, Default)]
struct Cell {
    service: Option<Arc<Service>>,
    slices: Slices,
}

/// The validated join of all objects. `clone` is O(1).
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// By the name of a Service. The Service itself may be missing (so far) while its slices exist.
    cells: Map<Cell>,
    /// The number of Services that exist.
    services: usize,
    /// All slices by their own names, to find a slice's Service when the slice moves or is removed.
    slices: imbl::OrdSet<ByName>,
    /// For Services with a slice that names hosts: all their slices, with addresses instead.
    resolved: Map<Slices>,
    ingresses: Map<Arc<Ingress>>,
    ingress_classes: Map<Arc<IngressClass>>,
    secrets: Map<Arc<Secret>>,
    namespaces: imbl::OrdSet<ObjectName>,
    pods: Map<Arc<Pod>>,
    nodes: Map<Arc<Node>>,
}

impl Model {
    /// A model of these objects, with everything in its changes: for tests and first loads.
    pub fn of(objects: impl IntoIterator<Item = Object>) -> (Model, Changes) {
        let mut model = Model::default();
        let mut changes = Changes::default();
        for object in objects {
            model.apply(object, &mut changes);
        }
        (model, changes)
    }

    /// The Service of that name with its slices.
    pub fn service(&self, name: &ObjectName) -> Option<ServiceEntry> {
        self.entry(name, self.cells.get(name)?)
    }

    /// All Services with their slices, ordered by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = ServiceEntry> + '_ {
        self.cells.iter().filter_map(|(name, cell)| self.entry(name, cell))
    }

    /// All slices, also those whose Service does not exist (yet).
    pub fn slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> + '_ {
        self.cells.values().flat_map(|cell| cell.slices.iter())
    }

    /// Slices whose Service does not exist, by the name of that Service.
    pub fn slices_without_service(
        &self,
    ) -> impl Iterator<Item = (ObjectName, Arc<[Arc<EndpointSlice>]>)> + '_ {
        let orphans = self.cells.iter().filter(|(_, cell)| cell.service.is_none());
        orphans.map(|(name, cell)| (name.clone(), cell.slices.clone()))
    }

    pub fn ingress(&self, name: &ObjectName) -> Option<&Arc<Ingress>> {
        self.ingresses.get(name)
    }

    pub fn ingresses(&self) -> impl Iterator<Item = &Arc<Ingress>> + '_ {
        self.ingresses.values()
    }

    pub fn ingress_class(&self, name: &str) -> Option<&Arc<IngressClass>> {
        self.ingress_classes.get(&ObjectName::new("", name))
    }

    pub fn ingress_classes(&self) -> impl Iterator<Item = &Arc<IngressClass>> + '_ {
        self.ingress_classes.values()
    }

    pub fn secret(&self, name: &ObjectName) -> Option<&Arc<Secret>> {
        self.secrets.get(name)
    }

    pub fn secrets(&self) -> impl Iterator<Item = &Arc<Secret>> + '_ {
        self.secrets.values()
    }

    /// Whether the namespace exists: as an object of its own, or because an object is in it.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        let first = ObjectName::new(namespace, "");
        let lives_in = |name: &ObjectName| &*name.namespace == namespace;
        let mut cells = self.cells.range(first.clone()..).take_while(|(name, _)| lives_in(name));
        self.namespaces.contains(&ObjectName::new("", namespace))
            || cells.any(|(_, cell)| cell.service.is_some())
            || self.pods.range(first..).next().is_some_and(|(n, _)| lives_in(n))
    }

    pub fn namespaces(&self) -> impl Iterator<Item = &ObjectName> + '_ {
        self.namespaces.iter()
    }

    pub fn pod(&self, name: &ObjectName) -> Option<&Arc<Pod>> {
        self.pods.get(name)
    }

    pub fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> + '_ {
        self.pods.values()
    }

    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(&ObjectName::new("", name))
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> + '_ {
        self.nodes.values()
    }

    /// The number of objects of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Service => self.services,
            Kind::EndpointSlice => self.slices.len(),
            Kind::Pod => self.pods.len(),
            Kind::Ingress => self.ingresses.len(),
            Kind::IngressClass => self.ingress_classes.len(),
            Kind::Secret => self.secrets.len(),
            Kind::Namespace => self.namespaces.len(),
            Kind::Node => self.nodes.len(),
            _ => 0,
        }
    }

    /// Inserts or replaces an object. An equal object changes nothing and is not noted.
    pub fn apply(&mut self, object: Object, changes: &mut Changes) {
        match object {
            Object::Service(o) => self.apply_service(o, changes),
            Object::EndpointSlice(o) => self.apply_slice(&o, changes),
            Object::Pod(o) => put(&mut self.pods, o.name.clone(), o, &mut changes.pods),
            Object::Ingress(o) => {
                put(&mut self.ingresses, o.name.clone(), o, &mut changes.ingresses);
            }
            Object::IngressClass(o) => {
                put(&mut self.ingress_classes, o.name.clone(), o, &mut changes.ingress_classes);
            }
            Object::Secret(o) => put(&mut self.secrets, o.name.clone(), o, &mut changes.secrets),
            Object::Namespace(name) => {
                if self.namespaces.insert(name.clone()).is_none() {
                    changes.namespaces.insert(name);
                }
            }
            Object::Node(o) => put(&mut self.nodes, o.name.clone(), o, &mut changes.nodes),
        }
    }

    /// Removes an object; changes nothing if it does not exist.
    pub fn delete(&mut self, key: &ObjectKey, changes: &mut Changes) {
        let name = &key.name;
        match key.kind {
            Kind::Service => self.delete_service(name, changes),
            Kind::EndpointSlice => self.delete_slice(name, changes),
            Kind::Pod => remove(&mut self.pods, name, &mut changes.pods),
            Kind::Ingress => remove(&mut self.ingresses, name, &mut changes.ingresses),
            Kind::IngressClass => {
                remove(&mut self.ingress_classes, name, &mut changes.ingress_classes);
            }
            Kind::Secret => remove(&mut self.secrets, name, &mut changes.secrets),
            Kind::Namespace => {
                changes.namespaces.extend(self.namespaces.remove(name));
            }
            Kind::Node => remove(&mut self.nodes, name, &mut changes.nodes),
            // Objects that are only served by the feed are not in the model.
            _ => {}
        }
    }

    pub fn service_names(&self) -> impl Iterator<Item = &ObjectName> + '_ {
        let there = self.cells.iter().filter(|(_, cell)| cell.service.is_some());
        there.map(|(name, _)| name)
    }

    /// The names of all slices, also of those whose Service does not exist (yet).
    pub fn slice_names(&self) -> impl Iterator<Item = &ObjectName> + '_ {
        self.slices.iter().map(|slice| &slice.0.name)
    }

    /// The name of the Service that a slice belongs to.
    pub fn owner_of_slice(&self, name: &ObjectName) -> Option<ObjectName> {
        Some(self.slices.get(name)?.0.service_name())
    }

    /// This model with those slices for those Services.
    pub fn with_resolved(&self, resolved: Map<Slices>) -> Model {
        Model { resolved, ..self.clone() }
    }

    /// The slices of a Service as data paths see them: with addresses in place of host names,
    /// where these have been looked up.
    pub fn slices_of(&self, service: &ObjectName) -> Slices {
        self.cells.get(service).map(|cell| self.resolved(service, cell).clone()).unwrap_or_default()
    }

    fn resolved<'m>(&'m self, service: &ObjectName, cell: &'m Cell) -> &'m Slices {
        self.resolved.get(service).unwrap_or(&cell.slices)
    }

    /// A cell whose Service exists.
    fn entry(&self, name: &ObjectName, cell: &Cell) -> Option<ServiceEntry> {
        let slices = self.resolved(name, cell).clone();
        Some(ServiceEntry { service: cell.service.clone()?, slices })
    }

    fn apply_service(&mut self, service: Arc<Service>, changes: &mut Changes) {
        let name = service.name.clone();
        let mut cell = self.cells.get(&name).cloned().unwrap_or_default();
        if cell.service.as_ref() == Some(&service) {
            return;
        }
        self.services += usize::from(cell.service.is_none());
        cell.service = Some(service);
        self.cells.insert(name.clone(), cell);
        changes.services.insert(name);
    }

    fn delete_service(&mut self, name: &ObjectName, changes: &mut Changes) {
        let Some(cell) = self.cells.get(name).filter(|cell| cell.service.is_some()) else { return };
        self.services -= 1;
        self.put_cell(name, Cell { service: None, ..cell.clone() });
        changes.services.insert(name.clone());
    }

    /// Stores a cell, unless it is empty.
    fn put_cell(&mut self, name: &ObjectName, cell: Cell) {
        if cell.service.is_none() && cell.slices.is_empty() {
            self.cells.remove(name);
        } else {
            self.cells.insert(name.clone(), cell);
        }
    }

    fn apply_slice(&mut self, slice: &Arc<EndpointSlice>, changes: &mut Changes) {
        let owner = slice.service_name();
        if self.owner_of_slice(&slice.name).is_some_and(|before| before != owner) {
            self.delete_slice(&slice.name, changes);
        }
        let cell = self.cells.get(&owner).cloned().unwrap_or_default();
        let mut slices = cell.slices.to_vec();
        match slices.binary_search_by(|other| other.name.cmp(&slice.name)) {
            Ok(at) if slices[at] == *slice => return,
            Ok(at) => slices[at] = slice.clone(),
            Err(at) => slices.insert(at, slice.clone()),
        }
        self.put_cell(&owner, Cell { slices: slices.into(), ..cell });
        self.slices.insert(ByName(slice.clone()));
        changes.services.insert(owner);
    }

    fn delete_slice(&mut self, name: &ObjectName, changes: &mut Changes) {
        let Some(slice) = self.slices.remove(name) else { return };
        let owner = slice.0.service_name();
        let cell = self.cells.get(&owner).cloned().unwrap_or_default();
        let left = cell.slices.iter().filter(|slice| slice.name != *name).cloned().collect();
        self.put_cell(&owner, Cell { slices: left, ..cell });
        changes.services.insert(owner);
    }
}

fn put<V: PartialEq + Clone>(
    map: &mut Map<V>,
    name: ObjectName,
    value: V,
    changed: &mut BTreeSet<ObjectName>,
) {
    if map.get(&name) == Some(&value) {
        return;
    }
    map.insert(name.clone(), value);
    changed.insert(name);
}

fn remove<V: Clone>(map: &mut Map<V>, name: &ObjectName, changed: &mut BTreeSet<ObjectName>) {
    if map.remove(name).is_some() {
        changed.insert(name.clone());
    }
}
