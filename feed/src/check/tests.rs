//! What a check finds in small manifests, and how it is printed.

use super::*;
use model::{Changes, Model};

/// Checks files of these names and texts; each problem as `file:line:column: level: message`.
fn problems(files: &[(&str, &str)]) -> Vec<String> {
    let (folder, checked) = checked(files);
    let prefix = format!("{}/", folder.path().display());
    checked.reports.iter().map(|report| report.to_string().replace(&prefix, "")).collect()
}

/// What nobody reports who serves: that is tested with those who do.
fn nobody(_: &Model, _: &Changes) -> Vec<Finding> {
    Vec::new()
}

fn checked(files: &[(&str, &str)]) -> (tempfile::TempDir, Checked) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let checked = check(&[folder.path().to_owned()], &nobody).unwrap();
    (folder, checked)
}

#[track_caller]
fn finds(text: &str, expected: &[&str]) {
    assert_eq!(problems(&[("f.yaml", text)]), expected, "{text}");
}

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  clusterIP: 10.0.0.1
  ports:
  - name: http
    port: 80
";

const SLICE: &str = "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels:
    kubernetes.io/service-name: web
addressType: IPv4
endpoints:
- addresses: [10.1.0.1]
ports:
- name: http
  port: 8080
";

fn ingress(rest: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: \
        web\nspec:\n{rest}"
    )
}

#[test]
fn a_service_and_its_slice_are_clean() {
    finds(&(SERVICE.to_owned() + SLICE), &[]);
}

#[test]
fn a_service_that_nothing_serves_is_warned_of() {
    finds(
        SERVICE,
        &["f.yaml:5:9: warning: Service default/web has no endpoints, so nothing answers there"],
    );
    let not_ready = SLICE.replace("[10.1.0.1]\n", "[10.1.0.1]\n  conditions: {ready: false}\n");
    finds(
        &(SERVICE.to_owned() + &not_ready),
        &["f.yaml:5:9: warning: the only endpoint of Service default/web is not ready"],
    );
    finds(
        &(SERVICE.to_owned() + &SLICE.replace("name: http", "name: web")),
        &["f.yaml:9:11: warning: spec.ports[0]: no slice of Service default/web has a port \
           \"http\" (TCP); they have: \"web\" (TCP)"],
    );
    let external = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: ExternalName, \
                    externalName: example.org}\n";
    finds(external, &[]);
}

#[test]
fn a_slice_for_no_service_is_warned_of() {
    finds(
        SLICE,
        &["f.yaml:7:33: warning: Service default/web does not exist, so this EndpointSlice is \
           not used"],
    );
    // The Service has another name: the help says which.
    let slice = SLICE.replace("service-name: web", "service-name: wbe");
    let (_folder, checked) = checked(&[("a.yaml", SERVICE), ("b.yaml", &slice)]);
    let helps: Vec<_> =
        checked.reports.iter().filter_map(|report| report.problem.help.as_deref()).collect();
    assert!(
        helps.contains(&"create the Service, or correct the label: did you mean web?"),
        "{helps:?}"
    );
    // It is there, only not valid: that is said already.
    let bad = SERVICE.replace("port: 80", "port: 0");
    assert_eq!(problems(&[("a.yaml", &bad), ("b.yaml", SLICE)]).len(), 2, "port and targetPort");
}

/// What is missing may stand in what could not be read.
#[test]
fn nothing_is_said_to_be_missing_beside_a_document_that_cannot_be_read() {
    let broken = SERVICE.replace("kind: Service", "kind: [");
    let found = problems(&[("a.yaml", SLICE), ("b.yaml", &broken)]);
    assert!(found.len() == 1 && found[0].starts_with("b.yaml:"), "{found:?}");
}

#[test]
fn an_error_is_told_before_a_warning() {
    let broken = SERVICE.replace("port: 80", "prot: 80").replace("web", "other");
    let found = problems(&[("a.yaml", SERVICE), ("b.yaml", &broken)]);
    let warning = found.iter().position(|line| line.contains(": warning: "));
    assert_eq!(warning, Some(found.len() - 1), "{found:?}");
    assert!(found.len() > 1, "{found:?}");
}

#[test]
fn an_ingress_of_a_class_that_nothing_defines_is_warned_of() {
    let served = SERVICE.to_owned() + SLICE;
    let of_class = |class: &str| {
        let backend = "service: {name: web, port: {name: http}}";
        let rest = format!("  ingressClassName: {class}\n  defaultBackend: {{{backend}}}\n");
        served.clone() + &ingress(&rest)
    };
    finds(&of_class("switchyard"), &[]);
    finds(
        &of_class("switchyrad"),
        &["f.yaml:30:21: warning: IngressClass \"switchyrad\" does not exist, so an ingress with \
           class \"switchyard\" does not serve Ingress default/web"],
    );
    let defined = "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: \
                   yard}\nspec: {controller: switchyard.dev/ingress}\n";
    finds(&(of_class("yard") + defined), &[]);
}

#[test]
fn a_problem_is_shown_with_its_lines_and_what_to_do() {
    let bad = SERVICE.replace("  ports:", "  prots:");
    let (folder, checked) = checked(&[("f.yaml", &bad), ("g.yaml", SERVICE), ("h.yaml", SERVICE)]);
    let mut text = Vec::new();
    checked.write_text(&mut text).unwrap();
    let prefix = format!("{}/", folder.path().display());
    let text = String::from_utf8(text).unwrap().replace(&prefix, "");
    expect_test::expect![[r#"
        f.yaml:8:3: error: unknown field "spec.prots"
          7 |   clusterIP: 10.0.0.1
          8 |   prots:
            |   ^^^^^
          help: did you mean `ports`?

        h.yaml:2:1: error: Service default/web is defined twice; this definition is not served
          1 | ---
          2 | apiVersion: v1
            | ^
          help: default/web (g.yaml:2) is served instead: delete or rename one of them

        g.yaml:5:9: warning: Service default/web has no endpoints, so nothing answers there
          4 | metadata:
          5 |   name: web
            |         ^^^
          help: add an EndpointSlice labelled kubernetes.io/service-name, or Pods that it selects

        1 object in 3 files: 2 errors, 1 warning
    "#]]
    .assert_eq(&text);
    let mut json = Vec::new();
    checked.write_json(&mut json).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&json["errors"], &json["warnings"]), (&2.into(), &1.into()));
    let first = json["problems"].as_array().unwrap().iter().find(|p| p["line"] == 8).unwrap();
    assert_eq!(
        (&first["column"], &first["level"], &first["object"]),
        (&3.into(), &"error".into(), &"Service default/web".into())
    );
    assert_eq!(first["lines"][1], "8 |   prots:");
}

#[test]
fn what_cannot_be_checked_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none");
    assert!(check(&[none], &nobody).unwrap_err().to_string().contains("none: No such file"));
    let empty = check(&[folder.path().to_owned()], &nobody).unwrap_err();
    assert!(empty.to_string().contains("no manifests"), "{empty}");
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, SERVICE).unwrap();
    assert_eq!(
        check(std::slice::from_ref(&file), &nobody).unwrap().objects,
        1,
        "a file that is named is read"
    );
    std::fs::write(folder.path().join("a.yaml"), b"a: \xff").unwrap();
    assert_eq!(check(&[folder.path().to_owned()], &nobody).unwrap().errors(), 1);
}

#[test]
fn an_end_that_comes_too_soon_is_shown_where_the_text_ends() {
    finds(
        "a: [b\n\n\n",
        &["f.yaml:1:6: error: not valid YAML: while parsing a flow sequence, expected ',' or ']'"],
    );
}
