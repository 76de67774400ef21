//! Batches as tables: what a folder holds → what the API's clients are told, in which order.

use serde_json::json;

use super::*;
use model::{AddressType, Changes, Endpoint, Object};

const NOW: &str = "2026-11-20T08:04:31Z";

fn key(resource: Resource, namespace: &str, name: &str) -> Key {
    (resource, ObjectName::new(namespace, name))
}

fn object(resource: Resource, namespace: &str, name: &str) -> (Key, Option<Arc<str>>) {
    let object = json!({"metadata": {"name": name}}).to_string();
    (key(resource, namespace, name), Some(object.into()))
}

fn gone(resource: Resource, namespace: &str, name: &str) -> (Key, Option<Arc<str>>) {
    (key(resource, namespace, name), None)
}

fn slice(service: &str, name: &str, ip: &str) -> Object {
    Object::EndpointSlice(Arc::new(EndpointSlice {
        name: ObjectName::new("shop", name),
        service: service.into(),
        address_type: AddressType::Ipv4,
        ports: Vec::new(),
        endpoints: vec![Endpoint::ready_at(ip.parse().unwrap())],
    }))
}

fn batch(objects: Vec<(Key, Option<Arc<str>>)>) -> Batch {
    Batch { objects, ..Batch::default() }
}

fn with_model(objects: Vec<(Key, Option<Arc<str>>)>, model: Model, changes: Changes) -> Batch {
    Batch { objects, model, services: changes.services, rejections: None }
}

fn rejection(namespace: &str, name: &str, message: &str) -> Rejection {
    Rejection {
        object: Some(key(Resource::Services, namespace, name)),
        file: "a.yaml".to_owned(),
        place: "a.yaml:1:2".to_owned(),
        reason: derived::Reason::Rejected,
        message: message.to_owned(),
        help: None,
    }
}

/// `+plural namespace/name` of each put, `-…` of each removal.
#[track_caller]
fn check(assembler: &mut Assembler, batch: Batch, expected: &[&str]) -> Vec<Change> {
    let changes = assembler.assemble(batch, NOW);
    let told: Vec<_> = changes
        .iter()
        .map(|change| match change {
            Change::Put(resource, content) => format!("+{resource} {}", content.name),
            Change::Delete(resource, name) => format!("-{resource} {name}"),
        })
        .collect();
    assert_eq!(told, expected);
    changes
}

#[test]
fn what_others_refer_to_comes_first_and_goes_last() {
    let mut assembler = Assembler::default();
    let all = [
        (Resource::Ingresses, "shop"),
        (Resource::Pods, "shop"),
        (Resource::Secrets, "shop"),
        (Resource::EndpointSlices, "shop"),
        (Resource::Services, "shop"),
        (Resource::IngressClasses, ""),
        (Resource::Nodes, ""),
    ];
    let objects = all.map(|(resource, namespace)| object(resource, namespace, "a"));
    let expected = [
        "+namespaces shop",
        "+nodes a",
        "+ingressclasses a",
        "+secrets shop/a",
        "+services shop/a",
        "+pods shop/a",
        "+endpointslices shop/a",
        "+ingresses shop/a",
    ];
    check(&mut assembler, batch(objects.to_vec()), &expected);
    let mut objects = all.map(|(resource, namespace)| gone(resource, namespace, "a")).to_vec();
    objects.push(object(Resource::Services, "new", "b"));
    let expected = [
        "+namespaces new",
        "+services new/b",
        "-ingresses shop/a",
        "-endpointslices shop/a",
        "-pods shop/a",
        "-services shop/a",
        "-secrets shop/a",
        "-ingressclasses a",
        "-nodes a",
        "-namespaces shop",
    ];
    check(&mut assembler, batch(objects), &expected);
    let unknown = vec![gone(Resource::Services, "x", "y")];
    check(&mut assembler, batch(unknown), &["-namespaces x"]);
}

#[test]
fn slices_of_pods_and_endpoints_of_slices_are_made() {
    let mut assembler = Assembler::default();
    let web = || vec![object(Resource::Services, "shop", "web")];
    let (model, changes) = Model::of([slice("web", "web.pods.ipv4.0", "10.1.0.2")]);
    let expected = [
        "+namespaces shop",
        "+services shop/web",
        "+endpoints shop/web",
        "+endpointslices shop/web.pods.ipv4.0",
    ];
    check(&mut assembler, with_model(web(), model, changes.clone()), &expected);

    // A slice that a manifest has comes as the manifest has it.
    let (model, _) = Model::of([slice("web", "web-1", "10.1.0.3")]);
    let given = vec![object(Resource::EndpointSlices, "shop", "web-1")];
    let expected = [
        "+namespaces shop",
        "+endpoints shop/web",
        "+endpointslices shop/web-1",
        "-endpointslices shop/web.pods.ipv4.0",
    ];
    check(&mut assembler, with_model(given, model.clone(), changes.clone()), &expected);

    // So do Endpoints; and when they go, those of the slices take their place.
    let given = vec![object(Resource::Endpoints, "shop", "web")];
    let expected = ["+namespaces shop", "+endpoints shop/web"];
    check(&mut assembler, with_model(given, model.clone(), Changes::default()), &expected);
    let taken = vec![gone(Resource::Endpoints, "shop", "web")];
    let changes_now = check(
        &mut assembler,
        with_model(taken, model, Changes::default()),
        &["+namespaces shop", "+endpoints shop/web"],
    );
    let made = changes_now.iter().any(|change| {
        matches!(change, Change::Put(Resource::Endpoints, content)
            if format!("{content:?}").contains("10.1.0.3"))
    });
    assert!(made, "{changes_now:?}");

    let objects = vec![
        gone(Resource::EndpointSlices, "shop", "web-1"),
        gone(Resource::Services, "shop", "web"),
    ];
    let expected = [
        "-endpointslices shop/web-1",
        "-endpoints shop/web",
        "-services shop/web",
        "-namespaces shop",
    ];
    check(&mut assembler, with_model(objects, Model::default(), changes), &expected);
}

#[test]
fn a_namespace_stays_while_anything_is_in_it() {
    let mut assembler = Assembler::default();
    let objects = vec![
        object(Resource::Namespaces, "", "shop"),
        object(Resource::Services, "shop", "a"),
        object(Resource::Services, "shop", "b"),
    ];
    let expected = ["+namespaces shop", "+services shop/a", "+services shop/b"];
    check(&mut assembler, batch(objects), &expected);
    let named = vec![gone(Resource::Namespaces, "", "shop"), gone(Resource::Services, "shop", "a")];
    check(&mut assembler, batch(named), &["+namespaces shop", "-services shop/a"]);
    let last = vec![gone(Resource::Services, "shop", "b")];
    check(&mut assembler, batch(last), &["-services shop/b", "-namespaces shop"]);
}

#[test]
fn rejections_are_events_until_they_are_mended() {
    let mut assembler = Assembler::default();
    let reject =
        |rejections: Vec<Rejection>| Batch { rejections: Some(rejections), ..Batch::default() };
    let name = |rejection: &Rejection| derived::event(rejection, "").0.to_string();
    let one = rejection("shop", "web", "unknown field");
    let added = format!("+events {}", name(&one));
    check(&mut assembler, reject(vec![one.clone()]), &["+namespaces shop", &added]);
    check(&mut assembler, reject(vec![one.clone()]), &[]);
    check(&mut assembler, Batch::default(), &[]);

    let moved = Rejection { place: "a.yaml:7:2".to_owned(), ..one.clone() };
    let changes = check(&mut assembler, reject(vec![moved]), &[&added]);
    assert!(format!("{changes:?}").contains("a.yaml:7:2"), "{changes:?}");

    let other = rejection("", "node", "bad");
    let expected = [
        "+namespaces default".to_owned(),
        format!("+events {}", name(&other)),
        format!("-events {}", name(&one)),
        "-namespaces shop".to_owned(),
    ];
    let expected = expected.each_ref().map(String::as_str);
    check(&mut assembler, reject(vec![other.clone(), other]), &expected);
}

#[test]
fn events_are_bounded() {
    let mut assembler = Assembler::default();
    let many = (0..MAX_EVENTS + 5).map(|i| rejection("shop", &format!("s{i}"), "bad")).collect();
    let batch = Batch { rejections: Some(many), ..Batch::default() };
    assert_eq!(assembler.assemble(batch, NOW).len(), MAX_EVENTS + 1);
}

#[test]
fn an_object_keeps_its_age_over_a_restart() {
    let noted = "2020-01-01T00:00:00Z".to_owned();
    let web = key(Resource::Services, "shop", "web");
    let mut assembler = Assembler::new(HashMap::from([(web, noted.clone())]));
    let created = |changes: Vec<Change>| {
        changes.into_iter().find_map(|change| match change {
            Change::Put(Resource::Services, content) => Some(content.created),
            _ => None,
        })
    };
    let web = || batch(vec![object(Resource::Services, "shop", "web")]);
    assert_eq!(created(assembler.assemble(web(), NOW)), Some(Some(noted)));
    assert_eq!(created(assembler.assemble(web(), NOW)), Some(None));
}
