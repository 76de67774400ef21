//! Whether a change may be applied before what follows it: make before break.
//!
//! Pure: an event and the model before it → [`Manner`]. Left out: when that is ([`super::cut`]).

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use super::cut::Manner;
use model::record::Record;
use model::store::Event;
use model::{EndpointSlice, Model, ObjectKey, Service};

/// How an event is to be applied, by what is known of its object.
pub(super) fn of(event: &Event, model: &Model) -> Manner {
    match event {
        Event::Apply(record) => {
            let object = number(&record.key());
            match stands_alone(record, model) {
                true => Manner::Alone(object),
                false => Manner::Gathered(object),
            }
        }
        Event::Delete(key) => Manner::Gathered(number(key)),
        Event::Init(_)
        | Event::InitApply(_)
        | Event::InitDelete(_)
        | Event::InitKeep(_)
        | Event::InitDone(_) => Manner::Barrier,
    }
}

/// A certificate always may; a Service or slice if it takes nothing away that an Ingress or the
/// other of the two leads to. Without a ready endpoint, a slice may be about to be replaced by
/// another one. An Ingress may lead to what is still to come.
fn stands_alone(record: &Record, model: &Model) -> bool {
    match record {
        Record::Secret(_) => true,
        Record::Service(record) => {
            let after = &record.service;
            let before = model.service(&after.name);
            before.is_none_or(|before| keeps_ports(&before.service, after))
        }
        Record::EndpointSlice(slice) => {
            let is_ready = slice.endpoints.iter().any(|e| e.ready && !e.terminating);
            is_ready && known(slice, model).is_none_or(|before| serves_ports_of(slice, &before))
        }
        _ => false,
    }
}

fn keeps_ports(before: &Service, after: &Service) -> bool {
    let is_kept = |port: &model::ServicePort| {
        let key = (&port.name, port.port, port.protocol);
        after.ports.iter().any(|other| (&other.name, other.port, other.protocol) == key)
    };
    before.service_type == after.service_type
        && before.ports.iter().all(is_kept)
        && before.cluster_ips.iter().all(|ip| after.cluster_ips.contains(ip))
}

/// Slices are joined to the Service's ports by name.
fn serves_ports_of(slice: &EndpointSlice, before: &EndpointSlice) -> bool {
    let is_kept = |port: &model::SlicePort| {
        let key = (&port.name, port.protocol);
        slice.ports.iter().any(|other| (&other.name, other.protocol) == key)
    };
    slice.service == before.service && before.ports.iter().all(is_kept)
}

/// The slice as it is in the model.
fn known(slice: &EndpointSlice, model: &Model) -> Option<Arc<EndpointSlice>> {
    let service = model.owner_of_slice(&slice.name)?;
    model.slices_of(&service).iter().find(|known| known.name == slice.name).cloned()
}

fn number(key: &ObjectKey) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
}

#[cfg(test)]
mod tests {
    use model::Kind;
    use model::store::Store;

    use super::*;
    use crate::client::decode::Decoder;
    use crate::client::session::Text;

    fn record(kind: Kind, json: &str) -> Record {
        Decoder::new(kind, true).decode(Text::Object(json.as_bytes())).unwrap().record.unwrap()
    }

    fn service(ports: &str) -> Record {
        let json = format!(
            r#"{{"metadata": {{"namespace": "a", "name": "web"}},
                "spec": {{"clusterIP": "10.0.0.1", "ports": [{ports}]}}}}"#
        );
        record(Kind::Service, &json)
    }

    fn slice(name: &str, ports: &str, endpoints: &str) -> Record {
        let json = format!(
            r#"{{"metadata": {{"namespace": "a", "name": "{name}",
                    "labels": {{"kubernetes.io/service-name": "web"}}}},
                "addressType": "IPv4", "ports": [{ports}], "endpoints": [{endpoints}]}}"#
        );
        record(Kind::EndpointSlice, &json)
    }

    const HTTP: &str = r#"{"name": "http", "protocol": "TCP", "port": 80}"#;
    const MOVED: &str = r#"{"name": "http", "protocol": "TCP", "port": 8080}"#;
    const WEB: &str = r#"{"name": "web", "protocol": "TCP", "port": 80}"#;
    const READY: &str = r#"{"addresses": ["10.1.0.1"]}"#;
    const NOT_READY: &str = r#"{"addresses": ["10.1.0.2"], "conditions": {"ready": false}}"#;

    #[test]
    fn what_adds_stands_alone_and_what_takes_away_is_gathered() {
        let mut store = Store::of_api(model::Kinds::of(&[Kind::Service, Kind::EndpointSlice]));
        store.handle(Event::Apply(service(HTTP)));
        store.handle(Event::Apply(slice("web-1", HTTP, READY)));
        let both = format!("{READY}, {NOT_READY}");
        let ports = format!("{HTTP}, {WEB}");
        let ingress = r#"{"metadata": {"namespace": "a", "name": "i"}, "spec": {"defaultBackend":
            {"service": {"name": "web", "port": {"number": 80}}}}}"#;
        let table = [
            ("the same Service", service(HTTP), true),
            ("a Service with one port more", service(&ports), true),
            ("its port has another name: the slices follow", service(WEB), false),
            ("its port has another number: Ingresses follow", service(MOVED), false),
            ("the same slice", slice("web-1", HTTP, READY), true),
            ("one of two endpoints is ready", slice("web-1", HTTP, &both), true),
            ("the endpoints have another port", slice("web-1", MOVED, READY), true),
            ("none is ready: another slice may follow", slice("web-1", HTTP, NOT_READY), false),
            ("the slice is empty", slice("web-1", HTTP, ""), false),
            ("the port has another name: the Service follows", slice("web-1", WEB, READY), false),
            ("a new slice", slice("web-2", WEB, READY), true),
            ("a new slice without a ready endpoint", slice("web-2", HTTP, NOT_READY), false),
            ("an Ingress", record(Kind::Ingress, ingress), false),
        ];
        for (what, record, alone) in table {
            let object = number(&record.key());
            let expected = if alone { Manner::Alone(object) } else { Manner::Gathered(object) };
            assert_eq!(of(&Event::Apply(record), store.model()), expected, "{what}");
        }
        let key = service(HTTP).key();
        assert_eq!(of(&Event::Delete(key.clone()), store.model()), Manner::Gathered(number(&key)));
        assert_eq!(of(&Event::InitDone(Kind::Service), store.model()), Manner::Barrier);
    }
}
