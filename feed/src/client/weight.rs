//! What a decoded object takes in memory, roughly: lists are bounded by it.
//!
//! Pure. The length of the JSON would not do: a Pod's is a hundred times what is kept of it.

use std::sync::Arc;

use model::ObjectName;
use model::record::Record;
use model::{Details, EndpointSlice, Ingress};

/// A record, its name and its places in maps.
const RECORD: usize = 256;
/// A member of a list or map besides its text.
const MEMBER: usize = 64;

/// Bytes that a record takes.
pub(super) fn of(record: &Record) -> usize {
    RECORD
        + match record {
            Record::Service(record) => {
                let service = &record.service;
                let ranges = service.load_balancer_source_ranges.len();
                let addresses = service.external_ips.len() + service.load_balancer_ips.len();
                let members = service.ports.len() + ranges + addresses;
                let selector = record.selector.iter().flat_map(|labels| labels.iter());
                let selector = of_pairs(selector.map(|(key, value)| (key, value)));
                members * MEMBER + selector + of_pairs(&service.annotations)
            }
            Record::EndpointSlice(slice) => of_slice(slice),
            Record::Endpoints(record) => record.slices.iter().map(|slice| of_slice(slice)).sum(),
            Record::Pod(record) => {
                let labels = of_pairs(record.labels.iter().map(|(key, value)| (key, value)));
                (record.ports.len() + record.pod.ips.len()) * MEMBER + labels
            }
            Record::Ingress(ingress) => of_ingress(ingress),
            Record::Secret(secret) => {
                secret.data.iter().map(|(key, value)| MEMBER + key.len() + value.len()).sum()
            }
            Record::Node(node) => node.ips.len() * MEMBER,
            Record::IngressClass(_) | Record::Namespace(_) | Record::Unwanted(_) => 0,
        }
}

/// Bytes that the name of an object takes which is kept as it was.
pub(super) fn of_name(name: &ObjectName) -> usize {
    MEMBER + name.namespace.len() + name.name.len()
}

fn of_slice(slice: &EndpointSlice) -> usize {
    let endpoints = slice.endpoints.iter();
    let endpoints: usize =
        endpoints.map(|endpoint| size_of_val(endpoint) + of_details(endpoint.details())).sum();
    slice.ports.len() * MEMBER + endpoints
}

/// Details are mostly shared between endpoints; a host name or another address never is.
fn of_details(details: &Details) -> usize {
    let addresses = details.other_addresses.len() * MEMBER;
    addresses + details.hostname.as_ref().map_or(0, |name| size_of::<Details>() + name.len())
}

fn of_ingress(ingress: &Ingress) -> usize {
    let paths = ingress.rules.iter().flat_map(|rule| &rule.paths);
    let paths: usize = paths.map(|path| 2 * MEMBER + path.path.len()).sum();
    let hosts = ingress.tls.iter().flat_map(|tls| &tls.hosts);
    let hosts: usize = hosts.map(|host| MEMBER + host.len()).sum();
    let members = ingress.rules.len() + ingress.tls.len();
    members * MEMBER + paths + hosts + of_pairs(&ingress.annotations)
}

fn of_pairs<'a>(pairs: impl IntoIterator<Item = (&'a Arc<str>, &'a Arc<str>)>) -> usize {
    pairs.into_iter().map(|(key, value)| MEMBER + key.len() + value.len()).sum()
}
