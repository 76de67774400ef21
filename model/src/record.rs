//! Validated objects as a source hands them to the store: what the model holds, and what the
//! store needs besides to join them.

use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{EndpointSlice, Ingress, IngressClass, Node, Pod, Protocol, Secret, Service};
use crate::name::{Kind, Kinds, ObjectName};

/// The kinds that a source reads: those of the model, and `v1` Endpoints, which become slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    Of(Kind),
    Endpoints,
}

impl RecordKind {
    pub const ALL: [RecordKind; 9] = [
        RecordKind::Of(Kind::Service),
        RecordKind::Of(Kind::EndpointSlice),
        RecordKind::Of(Kind::Pod),
        RecordKind::Of(Kind::Ingress),
        RecordKind::Of(Kind::IngressClass),
        RecordKind::Of(Kind::Secret),
        RecordKind::Of(Kind::Namespace),
        RecordKind::Of(Kind::Node),
        RecordKind::Endpoints,
    ];

    /// The kind as Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            RecordKind::Of(kind) => kind.as_str(),
            RecordKind::Endpoints => "Endpoints",
        }
    }

    pub fn is_namespaced(self) -> bool {
        match self {
            RecordKind::Of(kind) => kind.is_namespaced(),
            RecordKind::Endpoints => true,
        }
    }

    /// The `apiVersion` under which the kind is read.
    pub fn api_version(self) -> &'static str {
        match self {
            RecordKind::Of(Kind::EndpointSlice) => "discovery.k8s.io/v1",
            RecordKind::Of(Kind::Ingress | Kind::IngressClass) => "networking.k8s.io/v1",
            _ => "v1",
        }
    }

    pub fn named(kind: &str) -> Option<RecordKind> {
        RecordKind::ALL.into_iter().find(|known| known.as_str() == kind)
    }
}

/// One object of a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    pub kind: RecordKind,
    pub name: ObjectName,
}

impl std::fmt::Display for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

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
    /// Valid, but of a kind that this process has no use for: a dns process need not keep keys.
    Unwanted(Arc<RecordKey>),
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
    pub fn key(&self) -> RecordKey {
        let of =
            |kind, name: &ObjectName| RecordKey { kind: RecordKind::Of(kind), name: name.clone() };
        match self {
            Record::Service(o) => of(Kind::Service, &o.service.name),
            Record::EndpointSlice(o) => of(Kind::EndpointSlice, &o.name),
            Record::Endpoints(o) => RecordKey { kind: RecordKind::Endpoints, name: o.name.clone() },
            Record::Pod(o) => of(Kind::Pod, &o.pod.name),
            Record::Ingress(o) => of(Kind::Ingress, &o.name),
            Record::IngressClass(o) => of(Kind::IngressClass, &o.name),
            Record::Secret(o) => of(Kind::Secret, &o.name),
            Record::Namespace(name) => of(Kind::Namespace, name),
            Record::Node(o) => of(Kind::Node, &o.name),
            Record::Unwanted(key) => RecordKey::clone(key),
        }
    }

    /// The record, or only its name if none of these kinds is made from it.
    pub fn cut_to(self, kinds: Kinds) -> Record {
        let key = self.key();
        let endpoints = kinds.contains(Kind::EndpointSlice);
        let wanted = match key.kind {
            RecordKind::Of(Kind::Service | Kind::Pod | Kind::Node) if endpoints => true,
            RecordKind::Endpoints => endpoints,
            RecordKind::Of(kind) => kinds.contains(kind),
        };
        if wanted { self } else { Record::Unwanted(Arc::new(key)) }
    }
}
