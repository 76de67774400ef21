//! Ingress and IngressClass, validated.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::name::ObjectName;

/// A `networking.k8s.io/v1` Ingress.
#[derive(Clone, Debug, PartialEq)]
pub struct Ingress {
    pub name: ObjectName,
    /// `metadata.creationTimestamp`, seconds since 1970; decides which of two Ingresses wins a
    /// conflict.
    pub created_unix: Option<i64>,
    /// `spec.ingressClassName`, else annotation `kubernetes.io/ingress.class`.
    pub class: Option<Arc<str>>,
    pub default_backend: Option<IngressBackend>,
    pub rules: Vec<IngressRule>,
    pub tls: Vec<IngressTls>,
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct IngressRule {
    /// Lower case, without a trailing dot, `*.` first for a wildcard; absent: every host.
    pub host: Option<Arc<str>>,
    /// Empty: all of the host goes to the Ingress's default backend.
    pub paths: Vec<IngressPath>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct IngressPath {
    /// Begins with `/`, except for an empty [`PathType::ImplementationSpecific`] path.
    pub path: Arc<str>,
    pub path_type: PathType,
    pub backend: IngressBackend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathType {
    Exact,
    Prefix,
    ImplementationSpecific,
}

/// A Service of the Ingress's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IngressBackend {
    pub service: Arc<str>,
    pub port: BackendPort,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendPort {
    Number(NonZeroU16),
    Name(Arc<str>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct IngressTls {
    pub hosts: Vec<Arc<str>>,
    /// A Secret of the Ingress's own namespace.
    pub secret_name: Option<Arc<str>>,
}

/// A `networking.k8s.io/v1` IngressClass.
#[derive(Clone, Debug, PartialEq)]
pub struct IngressClass {
    pub name: ObjectName,
    /// `spec.controller`.
    pub controller: Arc<str>,
    /// Annotation `ingressclass.kubernetes.io/is-default-class: "true"`.
    pub is_default: bool,
}
