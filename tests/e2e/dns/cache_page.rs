//! What the process says of a name that it forwards: `/cache`, and by it `switchyard explain`.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use super::forwarding::{OBJECTS, answer, upstream};
use super::kit::Dns;
use crate::support::{Folder, Net, eventually};

/// A responder with an upstream, a zone whose server does not exist, and a hosts file.
struct Forwarding {
    dns: Dns,
    usual: SocketAddr,
    dead: SocketAddr,
    _hosts: Folder,
}

impl Forwarding {
    fn start() -> Forwarding {
        let net = Net::new();
        let (usual, dead) = (net.addr(1, 5353), net.addr(2, 5353));
        upstream(usual, answer);
        let hosts = Folder::new();
        hosts.replace("hosts", "10.7.0.1 nas.home\n");
        let file = hosts.file("hosts").display().to_string();
        let (server, corp) = (usual.to_string(), format!("corp.example={dead}"));
        let flags = ["--upstream", &server, "--forward", &corp, "--hosts", &file];
        Forwarding { dns: Dns::start_with(OBJECTS, &flags), usual, dead, _hosts: hosts }
    }

    fn cache(&self, query: &str) -> (u16, Value) {
        let (status, body) = self.dns.process.admin_get(&format!("/cache{query}"));
        let json = serde_json::from_str(&body);
        (status, json.unwrap_or_else(|_| Value::String(body.trim_end().to_owned())))
    }

    fn explain(&self, target: &str, admin: SocketAddr, output: &str) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.args(["explain", target, "--feed", self.dns.folder.path().to_str().unwrap()]);
        command.args(["--dns-admin", &admin.to_string(), "--output", output]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// An explanation by the process.
    fn explained(&self, target: &str) -> Value {
        let admin = self.dns.net.addr(53, 7431);
        serde_json::from_str(&self.explain(target, admin, "json")).unwrap()
    }
}

fn lines(explained: &Value) -> Vec<&str> {
    explained["because"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect()
}

#[test]
fn the_page_of_the_cache() {
    let forwarding = Forwarding::start();
    let www = "?name=WWW.example.com&type=a";
    let upstreams = json!([{ "address": forwarding.usual.to_string(), "state": "up" }]);
    let expected = json!({ "name": "www.example.com", "type": "A", "forwardZone": null,
        "upstreams": upstreams, "entries": [] });
    assert_eq!(forwarding.cache(www), (200, expected));
    for _ in 0..3 {
        assert_eq!(forwarding.dns.show("www.example.com A")[0], "NoError");
    }
    let (_, report) = forwarding.cache(www);
    let entries = report["entries"].as_array().unwrap();
    let [entry] = &entries[..] else { panic!("{report}") };
    assert_eq!((&entry["dnssecOk"], &entry["failure"]), (&json!(false), &json!(null)));
    let answer = &entry["answer"];
    assert_eq!((&answer["rcode"], &answer["data"]), (&json!("NOERROR"), &json!(["A 192.0.2.1"])));
    assert_eq!((&answer["hits"], &answer["ttlSeconds"]), (&json!(2), &json!(60)));
    assert!(answer["ttlLeftSeconds"].as_u64().is_some_and(|left| left <= 60), "{report}");
    let report = eventually("a failure", || {
        forwarding.dns.show("x.corp.example A");
        let (_, report) = forwarding.cache("?name=x.corp.example");
        report["entries"][0]["failure"].is_object().then_some(report)
    });
    assert_eq!(report["forwardZone"], "corp.example");
    assert_eq!(report["upstreams"][0]["address"], forwarding.dead.to_string());
    assert_eq!(report["entries"][0]["failure"]["rcode"], "SERVFAIL");
    let table = [
        ("", 400, "the name is missing; write /cache?name=NAME&type=TYPE"),
        ("?name=a..b", 400, "`a..b` is not a DNS name"),
        ("?name=a&type=NOPE", 400, "`NOPE` is not a record type"),
        ("?name=web.ns.svc.cluster.local", 404, "is in a zone of this server"),
        ("?name=ext.ns.svc.cluster.local", 404, "ask for its target, www.example.com"),
        ("?name=nas.home", 404, "is in the file of --hosts or is a special name"),
        ("?name=example.com&type=TYPE252", 404, "is refused"),
        ("x", 404, "not found; try /livez /readyz /metrics /snapshot /status /cache"),
    ];
    for (query, status, words) in table {
        let (code, said) = forwarding.cache(query);
        let said = said.as_str().unwrap_or_else(|| panic!("{query}: {said}"));
        assert!(code == status && said.contains(words), "{query}: {code} {said}");
    }
}

#[test]
fn a_name_that_is_forwarded_is_explained_by_the_process() {
    let forwarding = Forwarding::start();
    let asked =
        format!("in no zone of --forward: asked of the usual upstreams, {}", forwarding.usual);
    let explained = forwarding.explained("www.example.com");
    assert_eq!(explained["answer"], "forwarded");
    assert_eq!(lines(&explained), ["A: not in the cache", "AAAA: not in the cache", &asked]);
    forwarding.dns.show("www.example.com A");
    let explained = forwarding.explained("www.example.com");
    assert_eq!(
        (&explained["answer"], &explained["endpoints"]),
        (&json!("cached"), &json!(["A 192.0.2.1"]))
    );
    let said = lines(&explained);
    assert!(said[0].starts_with("A: cached NOERROR, "), "{said:?}");
    assert!(said[0].ends_with(" s left, not used yet"), "{said:?}");
    let explained = eventually("a failure", || {
        forwarding.dns.show("x.corp.example A");
        let explained = forwarding.explained("x.corp.example");
        (explained["answer"] == "failing").then_some(explained)
    });
    let said = lines(&explained);
    assert!(
        said[0].starts_with("A: failing with SERVFAIL, upstreams are not asked for"),
        "{said:?}"
    );
    let asked = format!("--forward corp.example: asked of {}", forwarding.dead);
    assert!(said[2].starts_with(&asked), "{said:?}");
    let explained = forwarding.explained("nas.home");
    assert_eq!(explained["answer"], "not forwarded", "{explained}");
    assert!(lines(&explained)[0].contains("--hosts"), "{explained}");
}

#[test]
fn without_the_process_it_says_so() {
    let forwarding = Forwarding::start();
    let nobody = forwarding.dns.net.addr(99, 7431);
    let text = forwarding.explain("www.example.com", nobody, "text");
    assert!(text.starts_with("www.example.com: forwarded\n"), "{text}");
    let said = format!("the dns process was not asked ({nobody}: Connection refused");
    assert!(text.contains(&said), "{text}");
    // It is asked only about names that are forwarded.
    let text = forwarding.explain("web.ns.svc.cluster.local", nobody, "text");
    assert!(!text.contains("was not asked"), "{text}");
}
