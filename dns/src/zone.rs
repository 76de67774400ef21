//! The zone: which names exist and what they stand for, from the Services, EndpointSlices,
//! Namespaces and Pods of the feed.
//!
//! model → zone → answers. Pure. A [`Zone`] is immutable once published and cheap to clone: its
//! maps are persistent, so [`Zone::apply`] touches only the names of changed objects and shares the
//! rest. Names are looked up by their structure (domain, `svc`, namespace, Service, labels below
//! it), so each query costs one look-up of a Service. A name that does not exist, which is the
//! most frequent case (`ndots:5`), costs least. There are no wildcards.
//!
//! The base is the Kubernetes DNS specification 1.1.0. Left out on purpose: record types that it
//! does not mention, and zones that the operator defines.

mod answer;
mod names;
mod reverse;
mod service;
mod settings;
mod soa;
mod table;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use answer::{ANY_ANSWER, Answer};
pub(crate) use names::{Node, Zone};
pub(crate) use reverse::{Owned, Reverse};
pub(crate) use service::{Service, ServiceKind};
pub use settings::PodMode;
pub(crate) use settings::Settings;
