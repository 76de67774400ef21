//! `switchyard check` as a command: what it finds in manifests, and its exit code.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::Folder;

const BINARY: &str = env!("CARGO_BIN_EXE_switchyard");

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.1]}]
ports: [{name: http, port: 8080}]
";

/// An Ingress `NAME` with this metadata and spec, each in YAML's flow style.
fn ingress(name: &str, annotations: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  \
         annotations: {{{annotations}}}\nspec: {{{spec}}}\n"
    )
}

/// An Ingress spec: all of a host to Service web.
fn all_of(host: &str) -> String {
    let path = "path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}";
    format!("rules: [{{host: {host}, http: {{paths: [{{{path}}}]}}}}]")
}

fn run(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(BINARY)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input may already have ended.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// The findings in one file, as `line: level: message (help)`, and the exit code.
fn check(text: &str) -> (Vec<String>, i32) {
    let output = run(&["check", "--output", "json", "-"], text);
    let json: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{text}: {output:?}"));
    let line = |problem: &Value| {
        let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
        let help = text("help");
        let help = if help.is_empty() { help } else { format!(" ({help})") };
        format!("{}: {}: {}{help}", problem["line"], text("level"), text("message"))
    };
    let lines = json["problems"].as_array().unwrap().iter().map(line).collect();
    (lines, output.status.code().unwrap())
}

/// Checks a text together with a Service that is served; lines are counted after the Service.
#[track_caller]
fn finds(rest: &str, expected: &[&str]) {
    let (found, code) = check(&(SERVICE.to_owned() + rest));
    assert_eq!(found.len(), expected.len(), "{rest}: {found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{rest}\nfound: {found}\nwanted: {expected}");
    }
    let has_errors = found.iter().any(|line| line.contains(": error: "));
    assert_eq!(code, if has_errors { 2 } else { 0 }, "{rest}");
}

/// Each of these passed without a message.
#[test]
fn annotations_that_are_not_served_are_found_by_check() {
    let with = |annotation: &str| {
        let annotation = format!("nginx.ingress.kubernetes.io/{annotation}");
        ingress("web", &annotation, &all_of("a.example"))
    };
    let refused = "which is not supported: its routes answer 503";
    let table = [
        ("enable-modsecurity: 'true'", refused),
        ("whitelist-source-range: everywhere", "whitelist-source-range is invalid"),
        ("server-snippet: 'deny all;'", refused),
        ("affinity: ip", "affinity is ignored: \"ip\" is not \"cookie\""),
        ("ssl-redirect: 'yes'", "warning: annotation nginx.ingress.kubernetes.io/ssl-redirect"),
        ("sl-redirect: 'true'", "is unknown and ignored (did you mean ssl-redirect?)"),
        ("proxy-buffering: 'on'", "note: annotation nginx.ingress.kubernetes.io/proxy-buffering"),
    ];
    for (annotation, expected) in table {
        finds(&with(annotation), &[expected]);
        finds(&with(annotation), &["18: "]);
    }
    finds(&with("ssl-redirect: 'true'"), &[]);
    let ours = "switchyard.dev/sl-redirect: 'true'";
    finds(&ingress("web", ours, &all_of("a.example")), &["switchyard.dev/sl-redirect is unknown"]);
}

#[test]
fn mistakes_in_services_are_found_by_check() {
    let service = |annotations: &str, port: &str| {
        let annotated = format!("metadata: {{name: web, annotations: {{{annotations}}}}}");
        let text = SERVICE.replacen("metadata: {name: web}", &annotated, 1);
        text.replacen("port: 80}", &format!("port: 80{port}}}"), 1)
    };
    let led_to = ingress("web", "", &all_of("a.example"));
    let table = [
        ("switchyard.dev/proxy-protocl: v2", "", "did you mean switchyard.dev/proxy-protocol?"),
        ("switchyard.dev/proxy-protocol: v9", "", "\"v9\" is not supported (supported: v2)"),
        ("", ", appProtocol: nonsense", "appProtocol \"nonsense\" is not supported"),
        ("", ", appProtocol: fcgi", "endpoints get plain HTTP/1.1"),
    ];
    for (annotations, port, expected) in table {
        let (found, code) = check(&(service(annotations, port) + &led_to));
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:#?}");
        // A name or value of ours that does not exist is a mistake, whatever else is served.
        let (level, expected) =
            if annotations.is_empty() { ("warning: ", 0) } else { ("error: ", 2) };
        assert!(found[0].contains(level) && code == expected, "{code}: {found:#?}");
    }
    for served in ["http", "kubernetes.io/h2c", "grpc"] {
        let port = format!(", appProtocol: {served}");
        assert_eq!(check(&(service("", &port) + &led_to)).0, [""; 0], "{served}");
    }
}

#[test]
fn an_ingress_that_leads_nowhere_is_warned_of() {
    let to = |service: &str, port: &str, path: &str| {
        format!(
            "{{path: '{path}', pathType: Prefix, backend: {{service: {{name: {service}, port: \
             {{{port}}}}}}}}}"
        )
    };
    let spec = |paths: &[String]| format!("rules: [{{http: {{paths: [{}]}}}}]", paths.join(", "));
    let paths = [to("none", "number: 80", "/"), to("web", "number: 81", "/a")];
    let found = [
        "spec.rules[0].http.paths[0].backend.service.name: backend default/none:80: the Service \
         does not exist",
        "spec.rules[0].http.paths[1].backend.service.port.number: backend default/web:81: the \
         Service has no such port",
    ];
    finds(&ingress("web", "", &spec(&paths)), &found);
    let paths = [to("web", "name: http", "/api(/|$)(.*)"), to("web", "name: http", "/b/*")];
    let found = [
        "path /api(/|$)(.*) looks like a regular expression, but it is matched literally",
        "looks like a wildcard, but it is matched literally (write path: /b with pathType: Prefix)",
    ];
    finds(&ingress("web", "", &spec(&paths)), &found);
    // Two routes that are the same.
    let two = ingress("a", "", &all_of("a.example")) + &ingress("b", "", &all_of("a.example"));
    let found = "spec.rules[0].http.paths[0].path: host a.example, Prefix path /: Ingress \
                 default/a has it already";
    finds(&two, &[found]);
}

fn secret(certificate: &str, key: &str) -> String {
    let indent = |text: &str| text.lines().map(|l| format!("    {l}\n")).collect::<String>();
    let (certificate, key) = (indent(certificate), indent(key));
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: tls}}\ntype: kubernetes.io/tls\n\
         stringData:\n  tls.crt: |\n{certificate}  tls.key: |\n{key}"
    )
}

/// A certificate for these names that expires at the beginning of a year, and its key.
fn certificate(names: &[&str], until: i32) -> (String, String) {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn a_certificate_that_clients_will_not_get_or_accept_is_found_by_check() {
    let tls = |hosts: &str| {
        format!("{}, tls: [{{hosts: [{hosts}], secretName: tls}}]", all_of("a.example"))
    };
    let with = |hosts: &str, secret: &str| ingress("web", "", &tls(hosts)) + secret;
    let (good, key) = certificate(&["a.example", "*.b.example"], 4000);
    let (_, other_key) = certificate(&["a.example"], 4000);
    let (expired, expired_key) = certificate(&["a.example"], 2000);
    finds(&with("a.example, x.b.example", &secret(&good, &key)), &[]);
    finds(
        &with("a.example, x.y.b.example", &secret(&good, &key)),
        &["warning: spec.tls[0].secretName: TLS for x.y.b.example: the certificate of Secret \
           default/tls is for a.example, *.b.example"],
    );
    finds(
        &with("a.example, x.b.example", ""),
        &["warning: spec.tls[0].secretName: TLS for a.example: Secret default/tls does not exist"],
    );
    finds(
        &with("a.example, x.b.example", &secret(&good, &other_key)),
        &["error: spec.tls[0].secretName: TLS for a.example: Secret default/tls: the private key \
           in tls.key does not belong to the certificate in tls.crt"],
    );
    finds(
        &with("a.example", &secret("nonsense", &key)),
        &[
            "error: spec.tls[0].secretName: TLS for a.example: Secret default/tls: tls.crt \
             contains no PEM certificate",
            "warning: data[tls.crt]: tls.crt contains no PEM data",
        ],
    );
    finds(
        &with("a.example", &secret(&expired, &expired_key)),
        &["expired on Jan  1 00:00:00 2000"],
    );
    // No line of a Secret is shown.
    let text = with("a.example", &secret(&good, &other_key));
    let output = run(&["check", "-"], &text);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("does not belong") && !said.contains("BEGIN PRIVATE"), "{said}");
}

#[test]
fn standard_input_is_checked_with_the_files() {
    let folder = Folder::new();
    folder.replace("web.yaml", SERVICE);
    let path = folder.path().display().to_string();
    let leads = ingress("web", "", &all_of("a.example"));
    let json = r#" {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"prots": []}}"#;
    let check = |args: &[&str], stdin: &str, code: i32, expected: &str| {
        let output = run(args, stdin);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
    };
    check(&["check", "--strict", "-", &path], &leads, 0, "3 objects in 2 files: 0 errors");
    check(&["check", "-"], &leads, 0, "-:7:");
    check(&["check", "-"], json, 2, "-:2:18: error: unknown field \"spec.prots\"");
    check(&["check", "-"], "", 0, "0 objects in 1 file: 0 errors, 0 warnings");
}

/// A repository also contains objects that Switchyard does not use.
#[test]
fn objects_of_other_programs_are_counted_and_no_warning() {
    let others = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\n\
                  apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: db}\n---\n\
                  apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n---\n\
                  apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: fn}\n";
    let output = run(&["check", "--strict", "-"], &(SERVICE.to_owned() + others));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let expected = "left out, because Switchyard does not use them: 1 ConfigMap, 2 Deployment, \
                    1 Service";
    assert!(said.contains(expected) && said.contains("0 warnings"), "{said}");
    assert!(!said.contains("note: "), "{said}");
}
