//! Validated objects as a source hands them to the store: what the model holds, and what the
//! store needs besides to join them.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{EndpointSlice, Ingress, IngressClass, Node, Pod, Protocol, Secret, Service};
use crate::name::{Kind, Kinds, ObjectKey, ObjectName};

/// A validated object.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Service(Arc<ServiceRecord>),
    EndpointSlice(Arc<EndpointSlice>),
    Endpoints(Arc<EndpointsRecord>),
    Pod(Arc<PodRecord>),
    Ingress(Arc<Ingress>),
    IngressClass(Arc<IngressClass>),
    Secret(Arc<Secret>),
    Namespace(ObjectName),
    Node(Arc<Node>),
    /// Valid, and only its name is needed: its kind is only served by the feed, or not used by this
    /// process (a dns process does not keep keys).
    NameOnly(Arc<ObjectKey>),
}

/// Labels, or a selector of them.
pub type Labels = Arc<[(Arc<str>, Arc<str>)]>;

#[derive(Debug, PartialEq)]
pub struct ServiceRecord {
    pub service: Arc<Service>,
    /// `spec.selector`; absent or empty selects no Pod.
    pub selector: Option<Labels>,
    /// `spec.ipFamilies`; empty when the object does not say.
    pub families: Vec<Family>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// `v1` Endpoints, already turned into slices.
#[derive(Debug, PartialEq)]
pub struct EndpointsRecord {
    pub name: ObjectName,
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// A Pod with what makes it an endpoint.
#[derive(Debug, PartialEq)]
pub struct PodRecord {
    pub pod: Arc<Pod>,
    pub labels: Labels,
    /// Condition `Ready` is `True`.
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `status.phase` is `Succeeded` or `Failed`: it never serves again.
    pub finished: bool,
    /// Named container ports.
    pub ports: Vec<(Arc<str>, Protocol, std::num::NonZeroU16)>,
    pub node_name: Option<Arc<str>>,
    pub hostname: Option<Arc<str>>,
    pub subdomain: Option<Arc<str>>,
}

impl Record {
    pub fn key(&self) -> ObjectKey {
        let (kind, name) = match self {
            Record::Service(o) => (Kind::Service, &o.service.name),
            Record::EndpointSlice(o) => (Kind::EndpointSlice, &o.name),
            Record::Endpoints(o) => (Kind::Endpoints, &o.name),
            Record::Pod(o) => (Kind::Pod, &o.pod.name),
            Record::Ingress(o) => (Kind::Ingress, &o.name),
            Record::IngressClass(o) => (Kind::IngressClass, &o.name),
            Record::Secret(o) => (Kind::Secret, &o.name),
            Record::Namespace(name) => (Kind::Namespace, name),
            Record::Node(o) => (Kind::Node, &o.name),
            Record::NameOnly(key) => (key.kind, &key.name),
        };
        ObjectKey { kind, name: name.clone() }
    }

    /// The record, or only its name if it is not needed for any of these kinds.
    pub fn cut_to(self, kinds: Kinds) -> Record {
        let key = self.key();
        let endpoints = kinds.contains(Kind::EndpointSlice);
        let wanted = match key.kind {
            Kind::Service | Kind::Pod | Kind::Node if endpoints => true,
            Kind::Endpoints => endpoints,
            kind => kinds.contains(kind),
        };
        if wanted { self } else { Record::NameOnly(Arc::new(key)) }
    }
}
