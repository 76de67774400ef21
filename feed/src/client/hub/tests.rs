//! A foreign API's changes, told at given times: what of them is published when.

use std::future::Future as _;
use std::task::{Context, Poll, Waker};

use model::record::Record;
use model::{ObjectKey, ObjectName};

use super::*;
use crate::client::credentials::ApiSource;
use crate::client::decode::Decoder;
use crate::client::machine::Server;
use crate::client::session::Text;
use crate::client::version::Version;
use crate::update::{Updates, mailbox};

const KINDS: Kinds = Kinds::of(&[Kind::Service, Kind::EndpointSlice, Kind::Ingress]);

struct Bench {
    hub: Hub,
    updates: Updates,
    start: Instant,
    version: u64,
}

impl Bench {
    /// A hub whose kinds have been listed, with these objects.
    fn new(objects: &[Record]) -> Bench {
        let daemon = daemon::Daemon::detached("test", 1);
        let (publisher, updates) = mailbox();
        let hour = Duration::from_secs(3600);
        let readiness = daemon.readiness.clone();
        let status =
            Status::new("api".to_owned(), ApiSource::Kube, hour, &followed(KINDS), readiness);
        let hub = Hub::new(KINDS, publisher, status, None, &daemon);
        let mut bench = Bench { hub, updates, start: Instant::now(), version: 0 };
        for kind in followed(KINDS) {
            let of_kind = objects.iter().filter(|object| object.key().kind == kind).cloned();
            let list = of_kind.map(|object| Item::InList(Event::InitApply(object)));
            let server = Server { is_ours: false, identity: None };
            let mut items = vec![Item::Connected(server), Item::InList(Event::Init(kind))];
            items.extend(list);
            items.push(Item::Change(Event::InitDone(kind), Version::new("1")));
            bench.hub.take(News { kind, received: bench.start, items });
        }
        bench.hub.apply(bench.start);
        assert!(bench.published().is_some(), "the first lists");
        bench
    }

    fn tell(&mut self, ms: u64, event: Event) {
        let kind = match &event {
            Event::Apply(record) => record.key().kind,
            Event::Delete(key) => key.kind,
            _ => unreachable!("a watch tells no lists"),
        };
        self.version += 1;
        let items = vec![Item::Change(event, Version::new(&(100 + self.version).to_string()))];
        self.hub.take(News { kind, received: self.at(ms), items });
    }

    /// What is published at that time.
    fn step(&mut self, ms: u64) -> Option<Model> {
        self.hub.apply(self.at(ms));
        self.published()
    }

    fn at(&self, ms: u64) -> Instant {
        // Long after the lists.
        self.start + Duration::from_secs(60) + Duration::from_millis(ms)
    }

    fn published(&mut self) -> Option<Model> {
        let next = std::pin::pin!(self.updates.next());
        match next.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(update) => update.map(|update| update.model),
            Poll::Pending => None,
        }
    }
}

fn record(kind: Kind, json: &str) -> Record {
    Decoder::new(kind, true).decode(Text::Object(json.as_bytes())).unwrap().record.unwrap()
}

fn service(name: &str) -> Record {
    let json = format!(
        r#"{{"metadata": {{"namespace": "a", "name": "{name}"}},
            "spec": {{"clusterIP": "None", "ports": [{{"name": "http", "port": 80}}]}}}}"#
    );
    record(Kind::Service, &json)
}

fn slice(service: &str, ip: &str) -> Record {
    let json = format!(
        r#"{{"metadata": {{"namespace": "a", "name": "{service}-1",
                "labels": {{"kubernetes.io/service-name": "{service}"}}}}, "addressType": "IPv4",
            "ports": [{{"name": "http", "port": 80}}], "endpoints": [{{"addresses": ["{ip}"]}}]}}"#
    );
    record(Kind::EndpointSlice, &json)
}

fn ingress(service: &str) -> Record {
    let json = format!(
        r#"{{"metadata": {{"namespace": "a", "name": "i"}}, "spec": {{"defaultBackend":
            {{"service": {{"name": "{service}", "port": {{"number": 80}}}}}}}}}}"#
    );
    record(Kind::Ingress, &json)
}

/// Whether the Ingress leads to a Service with an endpoint.
fn is_served(model: &Model) -> bool {
    let ingress = model.ingress(&ObjectName::new("a", "i")).unwrap();
    let service = ingress.default_backend.as_ref().unwrap().service.clone();
    let entry = model.service(&ObjectName::new("a", &service));
    entry.is_some_and(|entry| entry.slices.iter().any(|slice| !slice.endpoints.is_empty()))
}

#[test]
fn an_ingress_that_moves_while_its_old_service_goes_is_served_at_every_moment() {
    let changes = [
        Event::Delete(slice("old", "10.0.0.1").key()),
        Event::Apply(ingress("new")),
        Event::Delete(ObjectKey { kind: Kind::Service, name: ObjectName::new("a", "old") }),
        Event::Apply(service("new")),
        Event::Apply(slice("new", "10.0.0.2")),
    ];
    // Each order in which the streams may tell them, rotated.
    for first in 0..changes.len() {
        for gap_ms in [0, 1, 3, 15] {
            let mut bench = Bench::new(&[service("old"), slice("old", "10.0.0.1"), ingress("old")]);
            let mut last = None;
            for ms in 0..200 {
                for (index, event) in changes.iter().cycle().skip(first).take(5).enumerate() {
                    if ms == index as u64 * gap_ms {
                        bench.tell(ms, event.clone());
                    }
                }
                if let Some(model) = bench.step(ms) {
                    assert!(is_served(&model), "from {first}, every {gap_ms} ms, at {ms} ms");
                    last = Some(model);
                }
            }
            let last = last.expect("the changes are published");
            assert!(last.service(&ObjectName::new("a", "old")).is_none());
        }
    }
}

#[test]
fn a_slice_is_published_at_once_while_a_removal_waits() {
    let mut bench = Bench::new(&[service("web"), slice("web", "10.0.0.1"), service("old")]);
    let old = ObjectKey { kind: Kind::Service, name: ObjectName::new("a", "old") };
    bench.tell(0, Event::Delete(old.clone()));
    bench.tell(1, Event::Apply(slice("web", "10.0.0.2")));
    let published: Vec<_> = (1..100).filter_map(|ms| Some((ms, bench.step(ms)?))).collect();
    let times: Vec<_> = published.iter().map(|(ms, _)| *ms).collect();
    assert_eq!(times, [3, 21]);
    let has_old = |at: usize| published[at].1.service(&old.name).is_some();
    assert!(has_old(0) && !has_old(1));
}
