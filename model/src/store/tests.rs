//! Re-lists, and the slices of Pods and Endpoints.

use super::*;
use crate::document;
use crate::document::Format;
use crate::manifest::{self, Keep, Outcome};
use crate::validate::Interner;

/// The records of a manifest.
fn records(text: &str) -> Vec<Record> {
    let mut interner = Interner::default();
    let parts = document::split(text, Format::Yaml);
    let readings = parts
        .iter()
        .flat_map(|part| manifest::read(text, part, Format::Yaml, Keep::Parts, &mut interner));
    let good = |reading: manifest::Reading| match reading.outcome {
        Outcome::Good(record) => record,
        other => panic!("{other:?} {:?}", reading.problems),
    };
    readings.map(good).collect()
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey { kind, name: ObjectName::new("default", name) }
}

struct Held(Store);

impl Held {
    fn new() -> Held {
        Held(Store::new(Kinds::all()))
    }

    fn apply(&mut self, text: &str) -> (Model, Changes) {
        for record in records(text) {
            self.0.handle(Event::Apply(record));
        }
        self.0.commit()
    }

    fn delete(&mut self, kind: Kind, name: &str) -> (Model, Changes) {
        self.0.handle(Event::Delete(key(kind, name)));
        self.0.commit()
    }
}

/// The slices of a Service, each as a string: `name port=number,… | ip[flags] …`.
fn slices(model: &Model, service: &str) -> Vec<String> {
    let Some(entry) = model.service(&ObjectName::new("default", service)) else { return vec![] };
    let slices = entry.slices.iter().map(|slice| {
        let ports: Vec<_> = slice
            .ports
            .iter()
            .map(|port| format!("{}={}", port.name, port.port.map_or(0, |port| port.get())))
            .collect();
        let endpoints: Vec<_> = slice
            .endpoints
            .iter()
            .map(|endpoint| {
                let flags = [
                    (!endpoint.ready, "!ready"),
                    (!endpoint.serving, "!serving"),
                    (endpoint.terminating, "terminating"),
                ];
                let flags: Vec<_> =
                    flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
                let details = endpoint.details();
                let more = [&details.hostname, &details.node_name, &details.zone];
                let more: Vec<_> = more.into_iter().flatten().map(|text| &**text).collect();
                let all = [flags, more].concat().join(",");
                format!("{}[{all}]", endpoint.ip().unwrap())
            })
            .collect();
        format!("{} {} | {}", slice.name.name, ports.join(","), endpoints.join(" "))
    });
    slices.collect()
}

const SERVICE: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  \
                       clusterIP: 10.0.0.1\n  selector: {app: web}\n  ports:\n  - {name: http, \
                       port: \
                       80, targetPort: http}\n";

fn pod(name: &str, ip: &str, ready: bool) -> String {
    let status = if ready { "True" } else { "False" };
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web, v: '1'}}}}\n\
         spec:\n  nodeName: node-a\n  containers:\n  - ports: [{{name: http, containerPort: \
         8080}}]\n\
         status:\n  podIP: {ip}\n  podIPs: [{{ip: {ip}}}]\n  conditions: [{{type: Ready, status: \
         \"{status}\"}}]\n"
    )
}

const EXPLICIT: &str = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: \
{name: \
                        web-1, labels: {kubernetes.io/service-name: web}}\naddressType: \
                        IPv4\nports: \
                        [{name: http, port: 9}]\nendpoints: [{addresses: [10.9.9.9]}]\n";

const ENDPOINTS: &str = "---\napiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets:\n- \
                         addresses: [{ip: 10.8.0.1, hostname: h, nodeName: n}, {ip: 'fd00::1'}]\n  \
                         notReadyAddresses: [{ip: 10.8.0.2}]\n  ports: [{name: http, port: 8}]\n- \
                         addresses: [{ip: 10.8.0.3}]\n  ports: [{name: http, port: 7}]\n";

#[test]
fn pods_become_the_slices_of_services_that_select_them() {
    let mut held = Held::new();
    let (model, _) = held.apply(&(pod("a", "10.1.0.1", true) + SERVICE));
    assert_eq!(slices(&model, "web"), ["web.pods.ipv4.0 http=8080 | 10.1.0.1[node-a]"]);
    let (model, changes) = held.apply(&pod("b", "10.1.0.2", false));
    assert_eq!(
        slices(&model, "web"),
        ["web.pods.ipv4.0 http=8080 | 10.1.0.1[node-a] 10.1.0.2[!ready,!serving,node-a]"]
    );
    assert_eq!(changes.services.len(), 1);
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node-a, labels: \
                {topology.kubernetes.io/zone: z1}}\n";
    let (model, _) = held.apply(node);
    assert!(slices(&model, "web")[0].ends_with("10.1.0.2[!ready,!serving,node-a,z1]"));
    let (model, _) = held.delete(Kind::Pod, "a");
    assert_eq!(
        slices(&model, "web"),
        ["web.pods.ipv4.0 http=8080 | 10.1.0.2[!ready,!serving,node-a,z1]"]
    );
    let (model, changes) = held.delete(Kind::Pod, "b");
    assert!(slices(&model, "web").is_empty() && changes.services.len() == 1);
}

#[test]
fn pods_that_end_are_marked_and_then_left_out() {
    let mut held = Held::new();
    let ready = pod("a", "10.1.0.1", true);
    let ending = ready.replace("name: a,", "name: a, deletionTimestamp: \"2026-11-20T08:04:31Z\",");
    let (model, _) = held.apply(&(SERVICE.to_owned() + &ending));
    assert_eq!(
        slices(&model, "web"),
        ["web.pods.ipv4.0 http=8080 | 10.1.0.1[!ready,terminating,node-a]"]
    );
    let (model, _) = held.apply(&ready.replace("status:\n", "status:\n  phase: Succeeded\n"));
    assert!(slices(&model, "web").is_empty());
    let always =
        SERVICE.replace("  ports:", "  publishNotReadyAddresses: true\n  ports:") + &ending;
    let (model, _) = held.apply(&always);
    assert_eq!(slices(&model, "web"), ["web.pods.ipv4.0 http=8080 | 10.1.0.1[terminating,node-a]"]);
}

#[test]
fn pods_whose_ports_differ_are_in_slices_of_their_own() {
    let mut held = Held::new();
    let other = pod("b", "10.1.0.2", true).replace("8080", "9090");
    let without = pod("c", "10.1.0.3", true).replace("name: http, ", "");
    let dual =
        pod("d", "10.1.0.4", true).replace("[{ip: 10.1.0.4}]", "[{ip: 10.1.0.4}, {ip: 'fd00::4'}]");
    let (model, _) =
        held.apply(&(SERVICE.to_owned() + &pod("a", "10.1.0.1", true) + &other + &without + &dual));
    assert_eq!(
        slices(&model, "web"),
        [
            "web.pods.ipv4.0 http=8080 | 10.1.0.1[node-a] 10.1.0.4[node-a]",
            "web.pods.ipv4.1 http=9090 | 10.1.0.2[node-a]",
            "web.pods.ipv4.2  | 10.1.0.3[node-a]",
            "web.pods.ipv6.3 http=8080 | fd00::4[node-a]",
        ]
    );
    let (model, _) = held.apply(
        &SERVICE
            .replace("targetPort: http", "targetPort: 80")
            .replace("spec:", "spec:\n  ipFamilies: [IPv6]"),
    );
    assert_eq!(slices(&model, "web"), ["web.pods.ipv6.0 http=80 | fd00::4[node-a]"]);
}

#[test]
fn the_selector_decides_and_so_does_its_change() {
    let mut held = Held::new();
    let (model, _) = held.apply(&(pod("a", "10.1.0.1", true) + SERVICE));
    assert_eq!(slices(&model, "web").len(), 1);
    let (model, _) = held.apply(&SERVICE.replace("{app: web}", "{app: web, v: '2'}"));
    assert!(slices(&model, "web").is_empty());
    let (model, _) = held.apply(&SERVICE.replace("{app: web}", "{v: '1', app: web}"));
    assert_eq!(slices(&model, "web").len(), 1);
    let (model, _) = held.apply(&SERVICE.replace("  selector: {app: web}\n", ""));
    assert!(slices(&model, "web").is_empty());
    let (model, _) = held.apply(SERVICE);
    assert_eq!(slices(&model, "web").len(), 1);
    let (model, _) = held.apply(&pod("a", "10.1.0.1", true).replace("app: web", "app: other"));
    assert!(slices(&model, "web").is_empty());
    let (model, _) =
        held.apply(&pod("a", "10.1.0.1", true).replace("name: a,", "name: a, namespace: other,"));
    assert!(slices(&model, "web").is_empty(), "a Pod of another namespace");
    held.delete(Kind::Service, "web");
    let (model, _) = held.apply(&pod("a", "10.1.0.1", true));
    assert_eq!(model.count(Kind::EndpointSlice), 0);
}

#[test]
fn a_pod_has_its_host_name_in_the_service_that_is_its_subdomain() {
    let mut held = Held::new();
    let named =
        pod("a", "10.1.0.1", true).replace("spec:", "spec:\n  hostname: db-0\n  subdomain: web");
    let (model, _) = held.apply(&(SERVICE.to_owned() + &named));
    assert_eq!(slices(&model, "web"), ["web.pods.ipv4.0 http=8080 | 10.1.0.1[db-0,node-a]"]);
}

#[test]
fn explicit_slices_come_before_endpoints_and_those_before_pods() {
    let mut held = Held::new();
    let (model, _) = held.apply(&(SERVICE.to_owned() + &pod("a", "10.1.0.1", true)));
    let from_pods = slices(&model, "web");
    let (model, _) = held.apply(ENDPOINTS);
    assert_eq!(
        slices(&model, "web"),
        [
            "web.endpoints.ipv4.0 http=8 | 10.8.0.1[h,n] 10.8.0.2[!ready,!serving]",
            "web.endpoints.ipv4.1 http=7 | 10.8.0.3[]",
            "web.endpoints.ipv6.0 http=8 | fd00::1[]",
        ]
    );
    let (model, _) = held.apply(EXPLICIT);
    assert_eq!(slices(&model, "web"), ["web-1 http=9 | 10.9.9.9[]"]);
    let (model, _) = held.apply(&EXPLICIT.replace("service-name: web", "service-name: other"));
    assert_eq!(slices(&model, "web").len(), 3, "the slice went to another Service");
    held.apply(EXPLICIT);
    let (model, _) = held.delete(Kind::EndpointSlice, "web-1");
    assert_eq!(slices(&model, "web").len(), 3);
    let (model, _) = held.delete(Kind::Endpoints, "web");
    assert_eq!(slices(&model, "web"), from_pods);
}

#[test]
fn endpoints_serve_a_service_without_selector() {
    let mut held = Held::new();
    let (model, _) = held.apply(&(SERVICE.replace("  selector: {app: web}\n", "") + ENDPOINTS));
    assert_eq!(slices(&model, "web").len(), 3);
}

#[test]
fn a_relist_is_swapped_in_whole_as_a_difference() {
    let mut held = Held::new();
    let kind = Kind::Service;
    let list = |held: &mut Held, names: &[&str]| {
        held.0.handle(Event::Init(kind));
        for name in names {
            let text = SERVICE.replace("name: web", &format!("name: {name}"));
            for record in records(&text) {
                held.0.handle(Event::InitApply(record));
            }
            let (_, during) = held.0.commit();
            assert!(during.is_empty(), "nothing of a list shows before its end");
        }
        held.0.handle(Event::InitDone(kind));
        let (_, changes) = held.0.commit();
        changes.services.iter().map(|name| name.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(list(&mut held, &["a", "b"]), ["a", "b"]);
    assert_eq!(list(&mut held, &["b", "c"]), ["a", "c"], "b stayed as it was");
    assert!(list(&mut held, &["b", "c"]).is_empty());
    assert!(!held.0.is_synced(), "the other kinds were never listed");
    for kind in Kind::read() {
        held.0.handle(Event::Init(kind));
        held.0.handle(Event::InitDone(kind));
    }
    assert!(held.0.is_synced());
    assert_eq!(held.0.commit().0.count(Kind::Service), 0, "the last list was empty");
}

#[test]
fn kinds_that_are_not_asked_for_stay_out_of_the_model() {
    let kinds = Kinds::of(&[Kind::Service, Kind::EndpointSlice]);
    let mut held = Held(Store::new(kinds));
    let (model, changes) = held.apply(&(pod("a", "10.1.0.1", true) + SERVICE));
    assert_eq!((model.count(Kind::Pod), changes.pods.len()), (0, 0));
    assert_eq!(slices(&model, "web").len(), 1, "but their slices are in it");
    let mut held = Held(Store::new(Kinds::of(&[Kind::Service])));
    let (model, _) = held.apply(&(pod("a", "10.1.0.1", true) + SERVICE + EXPLICIT));
    assert_eq!(model.count(Kind::EndpointSlice), 0);
}
