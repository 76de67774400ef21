//! Dry runs against a small history: what is answered, and in which words.

use std::collections::HashMap;
use std::sync::Arc;

use super::*;
use crate::history::Objects;
use model::ObjectKey;
use model::finding::Finding;
use model::problem::{Level, Mark, Problem};

/// Objects that are served, and what the processes report of whatever they are shown.
#[derive(Default)]
struct World {
    objects: HashMap<Kind, Objects>,
    findings: Vec<Finding>,
    annotation: Option<(&'static str, String)>,
    hides_secrets: bool,
}

impl World {
    fn with(mut self, kind: Kind, name: &str, mut object: Value) -> World {
        kind.complete(&mut object);
        let name = ObjectName::new(if kind.is_namespaced() { "shop" } else { "" }, name);
        let content = Content::of(kind, name.clone(), object, "u-1");
        let stamp = Stamp { version: 7, generation: 1, created: "2026-11-20T08:04:31Z".into() };
        let entry = Arc::new(Entry::new(kind, EventType::Added, content, stamp));
        self.objects.entry(kind).or_default().insert(name, entry);
        self
    }

    fn shop() -> World {
        let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
        World::default().with(
            Kind::Service,
            "web",
            json!({"metadata": {"labels": {"app": "web"}},
                   "spec": {"type": "NodePort", "clusterIP": "10.96.0.10", "ports": ports,
                            "selector": {"app": "web"}}}),
        )
    }

    fn run(&self, action: Action, kind: Kind, name: &str, body: &str) -> Result<Done, Status> {
        let findings = self.findings.clone();
        let judges: Judges = Arc::new(move || {
            let findings = findings.clone();
            Box::new(move |_, _| findings.clone())
        });
        let around = Around {
            objects: &|kind| self.objects.get(&kind).cloned().unwrap_or_default(),
            version: 9,
            annotation: self.annotation.clone(),
            judges: &judges,
            secrets: !self.hides_secrets,
            now: "2026-11-21T00:00:00Z".to_owned(),
        };
        let namespace = if kind.is_namespaced() { "shop".to_owned() } else { String::new() };
        let name = if action == Action::Create { String::new() } else { name.to_owned() };
        DryRun { resource: kind, namespace, name, action }.run(body.as_bytes(), &around)
    }

    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "literals read better by value")]
    fn service(&self, action: Action, body: Value) -> Value {
        let done = self.run(action, Kind::Service, "web", &body.to_string());
        let done = done.unwrap_or_else(|status| panic!("{}", status.to_json()));
        serde_json::from_slice(done.entry.object()).unwrap()
    }

    #[track_caller]
    fn refused(&self, action: Action, kind: Kind, body: &str) -> (u16, Value) {
        let status = self.run(action, kind, "web", body).unwrap_err();
        (status.code().as_u16(), serde_json::from_str(&status.to_json()).unwrap())
    }
}

fn api(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: api}}\nspec: {spec}\n")
}

#[test]
fn a_new_object_is_answered_as_it_would_be_served() {
    let world = World::shop();
    let body = api("{clusterIP: 10.96.0.11, ports: [{port: 80}]}");
    let done = world.run(Action::Create, Kind::Service, "", &body).unwrap();
    assert!(done.is_new);
    let object: Value = serde_json::from_slice(done.entry.object()).unwrap();
    assert_eq!(object["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    assert_eq!(object["metadata"]["namespace"], "shop");
    assert_eq!(object["metadata"]["creationTimestamp"], "2026-11-21T00:00:00Z");
    // The folder's own hint: nothing serves it yet.
    assert_eq!(done.warnings.len(), 1, "{:?}", done.warnings);
    assert!(done.warnings[0].contains("EndpointSlice"), "{:?}", done.warnings);
    let pod = json!({"metadata": {"labels": {"app": "api"}},
                     "spec": {"containers": [{"name": "c", "image": "x"}]},
                     "status": {"podIPs": [{"ip": "10.1.0.3"}],
                                "conditions": [{"type": "Ready", "status": "True"}]}});
    let world = world.with(Kind::Pod, "api-1", pod);
    let selects = api("{clusterIP: 10.96.0.11, ports: [{port: 80}], selector: {app: api}}");
    let done = world.run(Action::Create, Kind::Service, "", &selects).unwrap();
    assert!(done.warnings.is_empty(), "its endpoints would be Pods: {:?}", done.warnings);
    let slice = json!({"metadata": {"labels": {"kubernetes.io/service-name": "api"}},
                       "addressType": "IPv4", "ports": [{"port": 8080}],
                       "endpoints": [{"addresses": ["10.1.0.2"]}]});
    let world = world.with(Kind::EndpointSlice, "api-1", slice);
    let done = world.run(Action::Create, Kind::Service, "", &body).unwrap();
    assert!(done.warnings.is_empty(), "{:?}", done.warnings);
}

#[test]
fn patches_are_merged_with_what_is_served() {
    let world = World::shop();
    let labels = world.service(Action::MergePatch, json!({"metadata": {"labels": {"b": "c"}}}));
    assert_eq!(labels["metadata"]["labels"], json!({"app": "web", "b": "c"}));
    assert_eq!(labels["metadata"]["resourceVersion"], "7");
    let port = json!({"port": 81, "targetPort": 8081});
    for action in [Action::StrategicPatch, Action::Apply] {
        let mut patch = json!({"spec": {"ports": [port]}});
        if action == Action::Apply {
            patch["spec"]["ports"][0]["protocol"] = "TCP".into();
        }
        let ports = world.service(action, patch)["spec"]["ports"].clone();
        assert_eq!(ports[0]["name"], "a", "{action:?}");
        assert_eq!((&ports[1]["name"], &ports[1]["targetPort"]), (&json!("b"), &json!(8081)));
    }
    let merged = world.service(Action::MergePatch, json!({"spec": {"ports": [port]}}));
    assert_eq!(merged["spec"]["ports"].as_array().unwrap().len(), 1, "lists are replaced");
    let replaced = world.service(
        Action::Replace,
        json!({
        "metadata": {"name": "web"}, "spec": {"ports": [{"port": 1}]}}),
    );
    assert_eq!(replaced["spec"].get("selector"), None);
    assert_eq!(replaced["metadata"].get("labels"), None);
}

#[test]
fn an_apply_of_a_new_object_creates_it() {
    let world = World::default();
    let body = api("{clusterIP: 10.96.0.11, ports: [{port: 80}]}");
    let done = world.run(Action::Apply, Kind::Service, "api", &body).unwrap();
    assert!(done.is_new);
    let (code, status) = world.refused(Action::MergePatch, Kind::Service, "{}");
    assert_eq!((code, &status["reason"]), (404, &json!("NotFound")));
}

#[test]
fn an_invalid_object_is_refused_in_the_words_of_the_api() {
    let world = World::shop();
    let body = api("{ports: [{port: 70000}, {port: 80}]}");
    let (code, status) = world.refused(Action::Create, Kind::Service, &body);
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    let message = status["message"].as_str().unwrap();
    assert!(message.starts_with("Service \"api\" is invalid: [spec.ports[0]"), "{message}");
    assert_eq!(status["details"]["kind"], "Service");
    let causes = status["details"]["causes"].as_array().unwrap();
    let expected = json!({
        "reason": "FieldValueInvalid",
        "message": "Invalid value: 70000: must be between 1 and 65535, inclusive",
        "field": "spec.ports[0].port",
    });
    assert!(causes.contains(&expected), "{causes:?}");
    let unnamed = causes.iter().filter(|cause| cause["reason"] == "FieldValueRequired");
    assert_eq!(unnamed.count(), 2, "{causes:?}");
    let (_, status) = world.refused(
        Action::Create,
        Kind::Ingress,
        "{\"metadata\": {\"name\": \"a\"}, \"spec\": {\"rules\": [{\"host\": \"a_b\"}]}}",
    );
    let message = status["message"].as_str().unwrap();
    assert!(message.starts_with("Ingress.networking.k8s.io \"a\" is invalid: spec"), "{message}");
    assert_eq!(status["details"]["group"], "networking.k8s.io");
}

#[test]
fn an_unknown_field_is_a_strict_decoding_error() {
    let (code, status) =
        World::shop().refused(Action::Create, Kind::Service, &api("{prots: [{port: 80}]}"));
    assert_eq!((code, &status["reason"]), (400, &json!("BadRequest")));
    assert_eq!(
        status["message"],
        "Service in version \"v1\" cannot be handled as a Service: strict decoding error: unknown \
         field \"spec.prots\" (did you mean `ports`?)"
    );
}

#[test]
fn what_another_service_has_is_not_free() {
    let world = World::default().with(
        Kind::Service,
        "web",
        json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.10",
                        "ports": [{"port": 80, "nodePort": 30080}]}}),
    );
    let taken = |spec: &str| world.refused(Action::Create, Kind::Service, &api(spec)).1;
    let ip = taken("{clusterIP: 10.96.0.10, ports: [{port: 80}]}").to_string();
    assert!(ip.contains("provided IP is already allocated (by Service shop/web)"), "{ip}");
    let port = "{type: NodePort, ports: [{port: 80, nodePort: 30080}]}";
    let port = taken(port).to_string();
    assert!(port.contains("30080: provided port is already allocated"), "{port}");
    let other = "{type: NodePort, ports: [{port: 80, nodePort: 3008}]}";
    let other = world.run(Action::Create, Kind::Service, "", &api(other));
    assert!(other.is_ok() || !other.unwrap_err().to_json().contains("allocated"));
    let udp = "{type: NodePort, ports: [{port: 80, nodePort: 30080, protocol: UDP}]}";
    assert!(world.run(Action::Create, Kind::Service, "", &api(udp)).is_ok());
    let all: String = (30000..32767)
        .map(|port| format!("{{name: p{port}, port: {port}, nodePort: {port}}},"))
        .collect();
    let among = taken(&format!("{{type: NodePort, ports: [{all}]}}")).to_string();
    assert!(among.contains("30080: provided port is already allocated"), "{among}");
    assert_eq!(among.matches("\"FieldValueInvalid\"").count(), 1, "{among}");
    // Its own it may keep.
    world.service(Action::MergePatch, json!({"metadata": {"labels": {"a": "b"}}}));
}

#[test]
fn the_object_must_be_the_one_of_the_path() {
    let world = World::shop();
    let patch = |body: Value| world.refused(Action::MergePatch, Kind::Service, &body.to_string());
    for body in [
        json!({"metadata": {"name": "other"}}),
        json!({"metadata": {"namespace": "other"}}),
        json!({"kind": "Pod"}),
        json!({"apiVersion": "v2"}),
    ] {
        assert_eq!(patch(body).0, 400);
    }
    let (code, status) = patch(json!({"metadata": {"resourceVersion": "6"}}));
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    world.service(Action::MergePatch, json!({"metadata": {"resourceVersion": "7"}}));
    let existing = world.refused(
        Action::Create,
        Kind::Service,
        "{\"metadata\": {\"name\": \"web\"}, \"spec\": {}}",
    );
    assert_eq!((existing.0, &existing.1["reason"]), (409, &json!("AlreadyExists")));
    for body in ["", "nonsense", "[]", "{", "a: [", "k8s\0x"] {
        let (code, _) = world.refused(Action::MergePatch, Kind::Service, body);
        assert!([400, 415].contains(&code), "{body:?}: {code}");
    }
}

/// A number counted as no version, so that a stale object was accepted.
#[test]
fn what_identifies_an_object_must_be_a_string() {
    let world = World::shop();
    for metadata in [
        r#"{"resourceVersion": 99999999999999999999}"#,
        r#"{"resourceVersion": 7}"#,
        r#"{"resourceVersion": ["7"]}"#,
        r#"{"name": 5}"#,
        r#"{"namespace": false}"#,
    ] {
        for action in [Action::MergePatch, Action::StrategicPatch, Action::Replace] {
            let body = format!("{{\"metadata\": {metadata}}}");
            let (code, status) = world.refused(action, Kind::Service, &body);
            assert_eq!((code, &status["reason"]), (400, &json!("BadRequest")), "{body}");
            let message = status["message"].as_str().unwrap();
            assert!(message.contains(": expected a string, found "), "{message}");
        }
    }
    assert_eq!(world.refused(Action::MergePatch, Kind::Service, "{\"kind\": 1}").0, 400);
    for version in ["99999999999999999999", "07", "x"] {
        let body = json!({"metadata": {"resourceVersion": version}}).to_string();
        assert_eq!(world.refused(Action::Replace, Kind::Service, &body).0, 409, "{version}");
    }
    world.service(Action::MergePatch, json!({"metadata": {"resourceVersion": null}}));
}

/// A body of 3 MB took 660 MB of memory before it was refused.
#[test]
fn a_body_of_too_many_values_is_refused_before_they_are_made() {
    let flow = format!("{{\"spec\": [{}0]}}", "{\"\":0},".repeat(60_000));
    let block = format!("spec: [{}0]\n", "{a: 0},".repeat(60_000));
    for body in [flow, block] {
        let (code, status) = World::shop().refused(Action::MergePatch, Kind::Service, &body);
        let message = status["message"].as_str().unwrap();
        assert!(code == 400 && message.contains("more than 100000 values"), "{message}");
    }
}

fn finding(level: Level, missing: Option<ObjectKey>) -> Finding {
    let key = ObjectKey { kind: Kind::Ingress, name: ObjectName::new("shop", "web") };
    let problem = Problem {
        level,
        message: "metadata.annotations: not served".to_owned(),
        help: Some("remove it".to_owned()),
        mark: Mark::default(),
        excerpt: None,
    };
    Finding { key, path: Vec::new(), problem, missing }
}

const INGRESS: &str = "{\"metadata\": {\"name\": \"web\"}, \"spec\": {\"ingressClassName\": \
    \"switchyard\", \"rules\": [{\"host\": \"a.example\"}]}}";

/// `check` finds it, so a dry run does.
#[test]
fn what_the_processes_would_report_is_told() {
    let run = |findings| {
        let world = World { findings, ..World::shop() };
        world.run(Action::Create, Kind::Ingress, "", INGRESS)
    };
    let warned = run(vec![finding(Level::Warning, None)]).unwrap();
    assert_eq!(warned.warnings, ["metadata.annotations: not served (remove it)"]);
    let refused = run(vec![finding(Level::Error, None)]).unwrap_err();
    assert_eq!(refused.code(), 422);
    assert!(run(vec![finding(Level::Note, None)]).unwrap().warnings.is_empty());
    let key = |name| ObjectKey { kind: Kind::Service, name: ObjectName::new("shop", name) };
    let there = run(vec![finding(Level::Warning, Some(key("web")))]).unwrap();
    assert!(there.warnings.is_empty(), "the Service is there, though not in the small model");
    let missing = run(vec![finding(Level::Warning, Some(key("none")))]).unwrap();
    assert_eq!(missing.warnings.len(), 1);
}

/// Otherwise a warning would tell which Secrets there are.
#[test]
fn who_may_not_read_secrets_does_not_learn_which_there_are() {
    let key = ObjectKey { kind: Kind::Secret, name: ObjectName::new("shop", "none") };
    let world = |hides_secrets| World {
        findings: vec![finding(Level::Warning, Some(key.clone()))],
        hides_secrets,
        ..World::shop()
    };
    let warnings = |world: World| {
        world.run(Action::Create, Kind::Ingress, "", INGRESS).unwrap().warnings.len()
    };
    assert_eq!((warnings(world(true)), warnings(world(false))), (0, 1));
}

/// A field that a manifest no longer has showed in no `kubectl diff`, and `kubectl apply` warned
/// of a missing annotation.
#[test]
fn the_last_manifest_is_what_kubectl_would_have_noted() {
    let written = r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"web","labels":
        {"app":"a<b"}},"spec":{"ports":[{"port":80}]}}"#;
    let web = ObjectName::new("shop", "web");
    let noted = |written| last_applied(Kind::Service, &web, written);
    let (key, value) = noted(Some(written)).unwrap();
    assert_eq!(
        value,
        "{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"annotations\":{},\"labels\":\
         {\"app\":\"a\\u003cb\"},\"name\":\"web\",\"namespace\":\"shop\"},\"spec\":{\"ports\":\
         [{\"port\":80}]}}\n"
    );
    let world = World { annotation: Some((key, value.clone())), ..World::shop() };
    let patched = world.service(Action::StrategicPatch, json!({"spec": {"selector": null}}));
    assert_eq!(patched["metadata"]["annotations"][key], value);
    assert_eq!(patched["spec"].get("selector"), None);
    let annotated = format!("{{\"metadata\":{{\"annotations\":{{\"{key}\":\"x\"}}}}}}");
    assert_eq!(noted(Some(annotated.as_str())), None);
    let (_, made) = noted(None).unwrap();
    assert!(made.contains("\"name\":\"web\",\"namespace\":\"shop\"}}\n"), "{made}");
}

/// A megabyte named a hundred thousand times would take all memory.
#[test]
fn a_body_whose_aliases_are_too_large_is_refused() {
    let long = "x".repeat(1 << 20);
    let many = "*x,".repeat(1000);
    let body = format!("metadata: {{annotations: {{a: &x \"{long}\", b: [{many}]}}}}\n");
    let (code, status) = World::shop().refused(Action::Apply, Kind::Service, &body);
    assert_eq!(code, 400);
    assert!(status["message"].as_str().unwrap().contains("aliases"), "{status}");
}

#[test]
fn a_deletion_is_answered_with_what_would_go() {
    let world = World::shop();
    let judges: Judges = Arc::new(|| Box::new(|_, _| Vec::new()));
    let around = Around {
        objects: &|kind| world.objects.get(&kind).cloned().unwrap_or_default(),
        version: 9,
        annotation: None,
        judges: &judges,
        secrets: true,
        now: String::new(),
    };
    let run = |name: &str| DryRun {
        resource: Kind::Service,
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        action: Action::Delete,
    };
    let status = run("web").delete(&around).unwrap();
    assert_eq!((&status["status"], &status["details"]["uid"]), (&json!("Success"), &json!("u-1")));
    assert_eq!(run("none").delete(&around).unwrap_err().code(), 404);
}
