//! The model: the validated join of objects, immutable and cheap to clone.
//!
//! Pure. [`Model::apply`] and [`Model::delete`] cost O(the object and its Service), never O(all
//! Services): the maps are persistent, so a clone shares all that did not change. Every change
//! is noted in a [`Changes`], which travels with the model to its consumers.

mod endpoint_slice;
mod ingress;
mod secret;
mod service;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use endpoint_slice::{Address, AddressType, Endpoint, EndpointSlice, SlicePort};
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

/// A Pod, cut to what the dns process asks of it (`--pods verified`).
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

/// What one or several batches changed: names of objects that came, changed or went.
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

pub(crate) type Map<V> = imbl::OrdMap<ObjectName, V>;
pub(crate) type Slices = Arc<[Arc<EndpointSlice>]>;

/// The validated join of all objects. `clone` is O(1).
#[derive(Clone, Debug, Default)]
pub struct Model {
    services: Map<Arc<Service>>,
    /// By the name of the Service that they belong to; the Service may not be there (yet).
    slices: Map<Slices>,
    /// Slice name → Service name, to find a slice's Service when the slice moves or goes.
    slice_owner: Map<ObjectName>,
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
        let service = self.services.get(name)?.clone();
        Some(ServiceEntry { service, slices: self.slices_of(name) })
    }

    /// All Services with their slices, ordered by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = ServiceEntry> + '_ {
        self.services.iter().map(|(name, service)| ServiceEntry {
            service: service.clone(),
            slices: self.slices_of(name),
        })
    }

    /// All slices, also those whose Service is not there (yet).
    pub fn slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> + '_ {
        self.slices.values().flat_map(|slices| slices.iter())
    }

    /// Slices whose Service is not there, by the name of that Service.
    pub fn slices_without_service(
        &self,
    ) -> impl Iterator<Item = (ObjectName, Arc<[Arc<EndpointSlice>]>)> + '_ {
        let orphans = self.slices.iter().filter(|(name, _)| !self.services.contains_key(*name));
        orphans.map(|(name, slices)| (name.clone(), slices.clone()))
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
        self.namespaces.contains(&ObjectName::new("", namespace))
            || self.services.range(first.clone()..).next().is_some_and(|(n, _)| lives_in(n))
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
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slice_owner.len(),
            Kind::Pod => self.pods.len(),
            Kind::Ingress => self.ingresses.len(),
            Kind::IngressClass => self.ingress_classes.len(),
            Kind::Secret => self.secrets.len(),
            Kind::Namespace => self.namespaces.len(),
            Kind::Node => self.nodes.len(),
        }
    }

    /// Inserts or replaces an object. An equal object changes nothing and is not noted.
    pub fn apply(&mut self, object: Object, changes: &mut Changes) {
        match object {
            Object::Service(o) => put(&mut self.services, o.name.clone(), o, &mut changes.services),
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

    /// Removes an object; one that is not there changes nothing.
    pub fn delete(&mut self, key: &ObjectKey, changes: &mut Changes) {
        let name = &key.name;
        match key.kind {
            Kind::Service => remove(&mut self.services, name, &mut changes.services),
            Kind::EndpointSlice => self.delete_slice(name, changes),
            Kind::Pod => remove(&mut self.pods, name, &mut changes.pods),
            Kind::Ingress => remove(&mut self.ingresses, name, &mut changes.ingresses),
            Kind::IngressClass => {
                remove(&mut self.ingress_classes, name, &mut changes.ingress_classes);
            }
            Kind::Secret => remove(&mut self.secrets, name, &mut changes.secrets),
            Kind::Namespace => {
                if self.namespaces.remove(name).is_some() {
                    changes.namespaces.insert(name.clone());
                }
            }
            Kind::Node => remove(&mut self.nodes, name, &mut changes.nodes),
        }
    }

    /// This model with those slices for those Services.
    pub(crate) fn with_resolved(&self, resolved: Map<Slices>) -> Model {
        Model { resolved, ..self.clone() }
    }

    /// The slices of a Service as data paths see them: with addresses in place of host names,
    /// where these have been looked up.
    pub(crate) fn slices_of(&self, service: &ObjectName) -> Slices {
        let resolved = self.resolved.get(service);
        resolved.or_else(|| self.slices.get(service)).cloned().unwrap_or_default()
    }

    fn apply_slice(&mut self, slice: &Arc<EndpointSlice>, changes: &mut Changes) {
        let owner = slice.service_name();
        if self.slice_owner.get(&slice.name).is_some_and(|before| *before != owner) {
            self.delete_slice(&slice.name, changes);
        }
        let mut slices = self.slices_of(&owner).to_vec();
        match slices.binary_search_by(|other| other.name.cmp(&slice.name)) {
            Ok(at) if slices[at] == *slice => return,
            Ok(at) => slices[at] = slice.clone(),
            Err(at) => slices.insert(at, slice.clone()),
        }
        self.slices.insert(owner.clone(), slices.into());
        self.slice_owner.insert(slice.name.clone(), owner.clone());
        changes.services.insert(owner);
    }

    fn delete_slice(&mut self, name: &ObjectName, changes: &mut Changes) {
        let Some(owner) = self.slice_owner.remove(name) else { return };
        let left: Vec<_> =
            self.slices_of(&owner).iter().filter(|slice| slice.name != *name).cloned().collect();
        if left.is_empty() {
            self.slices.remove(&owner);
        } else {
            self.slices.insert(owner.clone(), left.into());
        }
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
