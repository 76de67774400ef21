//! What the processes that serve would report of an object, were it there.
//!
//! Pure. They judge a model of this object and of those that it leads to: compiling the model of
//! the whole folder would take seconds where it is large.

use std::collections::BTreeSet;

use super::around::Around;
use super::reading::read_one;
use crate::entry::Entry;
use model::finding::{self, Finding};
use model::manifest::Outcome;
use model::record::Record;
use model::store::{Event, Store};
use model::{Ingress, Kind, Kinds, ObjectKey, ObjectName, SERVICE_LABEL};

/// Objects of a kind beside the one that is judged. Slices of one Service are rarely more.
const MAX_RELATED: usize = 500;

/// The problems of a record with what is there beside it.
pub(super) fn of(record: Record, around: &Around<'_>) -> Vec<Finding> {
    let key = record.key();
    let is_there = |key: &ObjectKey| {
        // What may not be read is not told by its absence either.
        let is_hidden = key.kind == Kind::Secret && !around.secrets;
        is_hidden || (around.objects)(key.kind).contains_key(&key.name)
    };
    let mut related = Vec::new();
    for key in related_to(&record, around) {
        related.extend((around.objects)(key.kind).get(&key.name).and_then(|entry| read(entry)));
    }
    let mut store = Store::new(Kinds::all());
    for record in related.into_iter().filter(|related| related.key() != key).chain([record]) {
        store.handle(Event::Apply(record));
    }
    let (model, changes) = store.commit();
    let mut findings = finding::of(&model, &is_there);
    findings.extend((around.judges)()(&model, &changes));
    findings
        .retain(|finding| finding.key == key && !finding.missing.as_ref().is_some_and(is_there));
    findings
}

/// The objects that a record's problems may depend on.
fn related_to(record: &Record, around: &Around<'_>) -> BTreeSet<ObjectKey> {
    let mut related = BTreeSet::new();
    match record {
        Record::Service(record) => {
            let name = &record.service.name;
            slices_of(name, around, &mut related);
            // Its endpoints, where it has no slices yet.
            related.insert(key(Kind::Endpoints, name));
            let pods = (around.objects)(Kind::Pod);
            let here = pods.keys().filter(|pod| pod.namespace == name.namespace);
            related.extend(here.take(MAX_RELATED).map(|pod| key(Kind::Pod, pod)));
        }
        Record::EndpointSlice(slice) => {
            let service = slice.service_name();
            related.insert(key(Kind::Service, &service));
            slices_of(&service, around, &mut related);
        }
        Record::Ingress(ingress) => related_to_ingress(ingress, around, &mut related),
        _ => {}
    }
    related
}

fn key(kind: Kind, name: &ObjectName) -> ObjectKey {
    ObjectKey { kind, name: name.clone() }
}

fn slices_of(service: &ObjectName, around: &Around<'_>, related: &mut BTreeSet<ObjectKey>) {
    let slices = (around.objects)(Kind::EndpointSlice);
    let is_of = |entry: &Entry| {
        entry.name.namespace == service.namespace
            && entry.label(SERVICE_LABEL) == Some(&*service.name)
    };
    let of_service = slices.values().filter(|entry| is_of(entry)).take(MAX_RELATED);
    related.extend(of_service.map(|entry| key(Kind::EndpointSlice, &entry.name)));
}

fn related_to_ingress(ingress: &Ingress, around: &Around<'_>, related: &mut BTreeSet<ObjectKey>) {
    let paths = ingress.rules.iter().flat_map(|rule| &rule.paths).map(|path| &path.backend);
    let here = |name: &str| ObjectName::new(&ingress.name.namespace, name);
    for backend in paths.chain(&ingress.default_backend).take(MAX_RELATED) {
        related.insert(key(Kind::Service, &here(&backend.service)));
    }
    let classes = (around.objects)(Kind::IngressClass);
    related.extend(classes.keys().take(MAX_RELATED).map(|name| key(Kind::IngressClass, name)));
    if around.secrets {
        let secrets = ingress.tls.iter().filter_map(|tls| tls.secret_name.as_ref());
        related.extend(secrets.take(MAX_RELATED).map(|name| key(Kind::Secret, &here(name))));
    }
}

/// The record of an object that is served.
fn read(entry: &Entry) -> Option<Record> {
    match read_one(std::str::from_utf8(entry.object()).ok()?)?.outcome {
        Outcome::Good(record) => Some(record),
        Outcome::Idle | Outcome::Bad => None,
    }
}
