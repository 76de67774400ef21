//! docs/metrics.md, the alerts and the dashboard, compared with the metrics of the processes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use super::page::Page;
use super::root;
use crate::support::{Folder, Net, Switchyard, eventually, http_get};

/// Each process with its section of the page and its admin port.
const PROCESSES: [(&str, u16); 4] =
    [("feed", 7401), ("proxy", 7411), ("ingress", 7421), ("dns", 7431)];

/// A Service with an endpoint given by host name, so that lookups are counted too.
const OBJECTS: &str = "\
{ apiVersion: v1, kind: Service, metadata: { name: web },
  spec: { clusterIP: 127.N.N.7, ports: [{ name: http, port: 8000 }] } }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: web-1, labels: { kubernetes.io/service-name: web } }
addressType: FQDN
ports: [{ name: http, port: 8000 }]
endpoints: [{ addresses: [web-1.example] }]
";

/// Series, by their name in Prometheus, with the type that the process reports.
type Series = BTreeMap<String, String>;

/// The series of a process's `/metrics`.
fn told(page: &str) -> Series {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let named = types.filter_map(|line| line.split_once(' ')).map(|(name, kind)| {
        let ending = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        (format!("{name}{ending}"), kind.to_owned())
    });
    named.collect()
}

/// The rows of a section of the page: name and type.
fn written(page: &str, section: &str) -> Series {
    let begin = format!("## {section}\n");
    let (_, text) = page.split_once(&begin).unwrap_or_else(|| panic!("no section {section}"));
    let text = text.split("\n## ").next().unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `switchyard_"));
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`').to_owned(), cells[2].to_owned())
    };
    rows.map(row).collect()
}

/// `/metrics` of all four processes of `up`.
fn live() -> BTreeMap<&'static str, Series> {
    let (net, folder) = (Net::new(), Folder::new());
    folder.replace("web.yaml", &net.fill(OBJECTS));
    let at = |port: u16| net.addr(1, port).to_string();
    let ip = net.ip(1).to_string();
    let mut command = Command::new(super::BINARY);
    command.arg("up").arg(folder.path()).args(["--http", &at(8080), "--https", &at(8443)]);
    command.args(["--dns", &at(1053), "--node-ip", &ip, "--admin-ip", &ip]);
    command.args(["--feed-listen", &at(7400), "--log", "error"]);
    let _up = Switchyard::spawn(command, net.addr(1, 7411));
    let get = |port, path| http_get(net.addr(1, port), "localhost", path).ok();
    for (name, port) in PROCESSES {
        let is_ready = || get(port, "/readyz").filter(|(status, _)| *status == 200);
        eventually(&format!("{name} is ready"), is_ready);
    }
    // Series with labels appear after the first event: a query, a request.
    let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";
    let client = std::net::UdpSocket::bind(net.addr(2, 0)).unwrap();
    client.send_to(query, net.addr(1, 1053)).unwrap();
    http_get(net.addr(1, 8080), "web.example", "/").unwrap();
    eventually("the query is counted", || {
        get(7431, "/metrics").filter(|(_, page)| page.contains("switchyard_dns_queries"))
    });
    let build = "switchyard_build_info{version=\"";
    let metrics = |port| {
        let (_, page) = get(port, "/metrics").unwrap();
        assert!(page.contains(build) && page.contains("commit=\""), "{page}");
        told(&page)
    };
    PROCESSES.map(|(name, port)| (name, metrics(port))).into()
}

#[test]
fn the_page_names_every_metric_and_no_other() {
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let shared = written(&page, "every process");
    let live = live();
    for (process, told) in &live {
        let mut expected = written(&page, process);
        expected.extend(shared.clone());
        assert_eq!(*told, expected, "{process}");
    }
    let names: BTreeSet<_> = live.values().flat_map(series_names).collect();
    for (file, expressions) in [alerts(), dashboard()] {
        assert!(expressions.len() > 8, "{file:?}: {expressions:?}");
        for expression in expressions {
            let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            for word in words.filter(|word| word.starts_with("switchyard_")) {
                assert!(names.contains(word), "{file:?}: no process tells {word}");
            }
        }
    }
}

/// The names of these series in Prometheus.
fn series_names(series: &Series) -> Vec<String> {
    let endings = |kind: &str| match kind {
        "histogram" => vec!["_bucket", "_sum", "_count"],
        _ => vec![""],
    };
    series
        .iter()
        .flat_map(|(n, kind)| endings(kind).into_iter().map(move |e| format!("{n}{e}")))
        .collect()
}

fn alerts() -> (PathBuf, Vec<String>) {
    let file = root().join("configs/prometheus/alerts.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let rules = text.split("  - alert: ").skip(1);
    let expressions = rules.map(|rule| {
        let (_, rest) = rule.split_once("expr: ").unwrap();
        rest.split("    for: ").next().unwrap().trim_start_matches(">-").trim().to_owned()
    });
    (file, expressions.collect())
}

fn dashboard() -> (PathBuf, Vec<String>) {
    let file = root().join("configs/grafana/switchyard.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let expressions = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    (file, expressions.collect())
}

/// promtool accepts them, and each alert fires when it should.
#[test]
#[ignore = "needs promtool"]
fn prometheus_takes_the_rules_and_the_dashboard() {
    let promtool = |arguments: &[&str]| {
        let output = Command::new("promtool").args(arguments).output().expect("promtool");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    };
    let alerts_file = alerts().0;
    promtool(&[
        "check",
        "config",
        root().join("configs/prometheus/prometheus.yaml").to_str().unwrap(),
    ]);
    let folder = Folder::new();
    let tests =
        include_str!("alerts.yaml").replace("ALERTS]", &format!("{}]", alerts_file.display()));
    for rule in std::fs::read_to_string(&alerts_file).unwrap().split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "no test of {name}");
    }
    folder.replace("tests.yaml", &tests);
    promtool(&["test", "rules", folder.file("tests.yaml").to_str().unwrap()]);
    // As rules, so that promtool parses the dashboard's expressions.
    let mut rules = "groups: [{name: dashboard, rules: [".to_owned();
    for (number, expression) in dashboard().1.iter().enumerate() {
        let expression = expression.replace("$__rate_interval", "5m");
        let expression = serde_json::to_string(&expression.replace("$instance", ".*")).unwrap();
        rules += &format!("{{record: 'panel_{number}', expr: {expression}}},");
    }
    folder.replace("panels.yaml", &(rules + "]}]"));
    promtool(&["check", "rules", folder.file("panels.yaml").to_str().unwrap()]);
}

/// The page lists all alerts.
#[test]
fn the_page_tells_of_every_alert() {
    let page = Page::read("docs/metrics.md");
    let told: BTreeSet<_> = page.code_spans().map(|(_, code)| code).collect();
    let text = std::fs::read_to_string(alerts().0).unwrap();
    let names = text.split("- alert: ").skip(1).map(|rule| rule.lines().next().unwrap());
    let missing: Vec<_> = names.filter(|name| !told.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
