//! Selectors as tables: text → which of some objects, or the error.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::entry::{Content, EventType, Stamp};
use model::ObjectName;

fn entry(resource: Resource, namespace: &str, name: &str, object: Value) -> Entry {
    let content = Content::of(resource, ObjectName::new(namespace, name), object, "u");
    let stamp = Stamp { version: 1, generation: 1, created: "".into() };
    Entry::new(resource, EventType::Added, content, stamp)
}

#[allow(clippy::needless_pass_by_value, reason = "literals read better by value")]
fn labelled(name: &str, labels: Value) -> Entry {
    entry(Resource::Services, "shop", name, json!({"metadata": {"labels": labels}}))
}

/// The names of the chosen ones among a few objects.
#[track_caller]
fn check_labels(selector: &str, expected: &str) {
    let objects = [
        labelled("none", json!({})),
        labelled("web", json!({"app": "web", "tier": "front", "n": "7"})),
        labelled("api", json!({"app": "api", "x.example/y": "", "n": "12"})),
    ];
    let outcome = match Selector::parse(Resource::Services, selector, "") {
        Ok(parsed) => {
            let chosen = objects.iter().filter(|object| parsed.matches(object));
            chosen.map(|object| &*object.name.name).collect::<Vec<_>>().join(" ")
        }
        Err(error) => format!("error: {error}"),
    };
    assert_eq!(outcome, expected, "{selector:?}");
}

#[test]
fn label_selectors() {
    check_labels("", "none web api");
    check_labels("app=web", "web");
    check_labels("app==web", "web");
    check_labels("app!=web", "none api");
    check_labels("app", "web api");
    check_labels("!app", "none");
    check_labels("! app", "none");
    check_labels("app,tier", "web");
    check_labels("app in (web,api)", "web api");
    check_labels("app in ( web , other ),tier=front", "web");
    check_labels("app notin (web)", "none api");
    check_labels("x.example/y=", "api");
    check_labels("x.example/y", "api");
    check_labels("x.example/y in ()", "api");
    check_labels("x.example/y in (,a)", "api");
    check_labels("n>7", "api");
    check_labels("n < 12", "web");
    check_labels("app>1", "");
    check_labels("!service.kubernetes.io/headless,!b", "none web api");
    check_labels("in in (in)", "");
    check_labels("in", "");
}

#[test]
fn broken_label_selectors_say_why() {
    let expected = |found: &str, what: &str| {
        format!("error: unable to parse requirement: found '{found}', expected: {what}")
    };
    check_labels("=", &expected("=", "identifier"));
    check_labels("a=b=c", &expected("=", "',' or 'end of string'"));
    check_labels("a in b", &expected("b", "'('"));
    check_labels("a in (b", &expected("", "',' or ')'"));
    check_labels("a b", &expected("b", "in, notin, =, ==, !=, gt, lt"));
    check_labels("a,", &expected("", "identifier"));
    check_labels("!", &expected("", "identifier"));
    check_labels("a=(", &expected("(", "identifier"));
    let key = |key: &str| format!("error: key: Invalid value: {key:?}: not a label's key");
    check_labels("-a", &key("-a"));
    check_labels("A.example/b", &key("A.example/b"));
    check_labels("a/", &key("a/"));
    check_labels("ä", &key("ä"));
    check_labels("a=-", "error: values: Invalid value: \"-\": not a label's value");
    let number = "for 'Gt', 'Lt' operators, the value must be an integer: \"b\"";
    check_labels("a>b", &format!("error: {number}"));
    let long = format!("a={}", "b,a=".repeat(10_000));
    assert!(Selector::parse(Resource::Services, &long, "").is_err());
}

#[track_caller]
fn check_fields(resource: Resource, selector: &str, expected: &str) {
    let objects = [
        entry(resource, "shop", "a", json!({"type": "Opaque"})),
        entry(resource, "shop", "b", json!({"type": "kubernetes.io/tls"})),
        entry(resource, "other", "a", json!({"involvedObject": {"kind": "Service"}})),
    ];
    let outcome = match Selector::parse(resource, "", selector) {
        Ok(parsed) => {
            let chosen = objects.iter().filter(|object| parsed.matches(object));
            chosen.map(|object| object.name.to_string()).collect::<Vec<_>>().join(" ")
        }
        Err(error) => format!("error: {error}"),
    };
    assert_eq!(outcome, expected, "{selector:?}");
}

#[test]
fn field_selectors() {
    let (slices, secrets) = (Resource::EndpointSlices, Resource::Secrets);
    check_fields(slices, "metadata.name=a", "shop/a other/a");
    check_fields(slices, "metadata.name=a,metadata.namespace!=shop", "other/a");
    check_fields(slices, "metadata.name==b", "shop/b");
    check_fields(slices, "metadata.name=", "");
    check_fields(slices, r"metadata.name=x\,y", "");
    check_fields(secrets, "type=kubernetes.io/tls", "shop/b");
    check_fields(secrets, "type!=kubernetes.io/tls", "shop/a other/a");
    check_fields(Resource::Events, "involvedObject.kind=Service,type=", "other/a");
    let only = "only \"metadata.name\", \"metadata.namespace\"";
    let unknown = format!("error: \"spec.foo\" is not a known field selector: {only}");
    check_fields(slices, "spec.foo=1", &unknown);
    check_fields(slices, "junk", "error: invalid selector: 'junk'; can't understand 'junk'");
    check_fields(
        slices,
        r"metadata.name=a\",
        r"error: invalid selector: 'metadata.name=a\'; can't understand 'metadata.name=a\'",
    );
}

proptest! {
    /// Whatever a client sends is a selector or an error.
    #[test]
    fn no_text_panics(text in "[a-z!=<>(), \\\\ä.]{0,30}") {
        let _ = Selector::parse(Resource::Services, &text, "");
        let _ = Selector::parse(Resource::Services, "", &text);
    }
}
