//! `switchyard explain`: its result for each kind of problem, and that it agrees with the data
//! path.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::dns::kit::{client_of, exchange, question};
use crate::feed_client::api::{Access, Api};
use crate::support::{Folder, Net, Switchyard, http_get};

const BINARY: &str = env!("CARGO_BIN_EXE_switchyard");

const REFUSED: &str = "refused";

/// Each kind of Service, and Ingresses that lead to them.
const OBJECTS: &str = include_str!("explain/objects.yaml");

/// Manifests with a mistake in each.
const BROKEN: &str = "\
apiVersion: v1
kind: Service
metadata: { name: broken, namespace: shop }
spec: { clusterIP: 127.N.N.7, ports: [{ port: 99999 }] }
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: slip, namespace: shop }
spec:
  rules:
    - host: slip.example
      http: { paths: [{ path: web, pathType: Prefix, backend: { service: { name: web } } }] }
";

/// A name server that knows no names.
fn resolver(net: Net) -> (Folder, Switchyard, String) {
    let empty = Folder::new();
    empty.replace("empty.yaml", "# Nothing yet.\n");
    let (feed, listen) = (empty.path().display().to_string(), net.addr(9, 5399).to_string());
    let args = ["dns", "--feed", &feed, "--listen", &listen, "--upstream", "none"];
    let process = Switchyard::ready(net.addr(249, 7431), &args);
    (empty, process, listen)
}

/// The explanations of these targets, by a folder.
fn explain(folder: &Folder, net: Net, targets: &[String]) -> Vec<Value> {
    explain_by(&folder.path().display().to_string(), net, targets, &[])
}

/// The explanations of these targets, with these flags.
fn explain_by(feed: &str, net: Net, targets: &[String], args: &[&str]) -> Vec<Value> {
    let (_empty, _resolver, resolver) = resolver(net);
    let mut command = Command::new(BINARY);
    command.arg("explain").args(targets).args(["--feed", feed, "--host-resolver", &resolver]);
    command.args(["--output", "json", "--node-ip", &net.ip(200).to_string()]).args(args);
    command.env("XDG_RUNTIME_DIR", crate::support::runtime_dir());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn cause_and_fix_of_each_trouble() {
    let (net, folder) = (Net::new(), Folder::new());
    folder.replace("objects.yaml", &net.fill(OBJECTS));
    folder.replace("broken.yaml", &net.fill(BROKEN));
    let table = [
        ("http://nowhere.example/", "404", "no Ingress has a rule for host nowhere.example"),
        ("http://shp.example/", "404", "use shop.example"),
        ("http://shop.example/none", "404", "no rule of host shop.example matches path /none"),
        ("http://shop.example/none", "404", "Prefix /web"),
        ("http://shop.example/missing", "503", "the Service does not exist"),
        ("http://shop.example/missing", "503", "create Service shop/nobody"),
        ("http://shop.example/port", "503", "the Service has no such port"),
        ("http://shop.example/port", "503", "http (80)"),
        ("http://shop.example/unready", "503", "the Service has no ready endpoint"),
        ("http://shop.example/unready", "503", "make its endpoint ready"),
        ("http://shop.example/renamed", "503", "the Service has no endpoint on this port: backend"),
        (
            "http://shop.example/renamed",
            "503",
            "add a port named http (TCP) to an EndpointSlice of renamed",
        ),
        ("http://shop.example/renamed", "503", "its slices have: web (TCP)"),
        ("127.N.N.9:80", "refused", "add a port named http (TCP) to an EndpointSlice of renamed"),
        ("127.N.N.9:80", "refused", "its slices have: web (TCP)"),
        ("http://foreign.example/", "404", "its class is nginx"),
        ("http://shop.example/%zz", "400", "no single meaning"),
        ("http://127.N.N.3/", "refused", "no endpoint is ready"),
        ("http://none.shop.svc.cluster.local/", "refused", "write an EndpointSlice with label"),
        ("web", "forwarded", "use web.shop.svc.cluster.local, which exists"),
        ("web.shop", "forwarded", "use web.shop.svc.cluster.local, which exists"),
        ("web.shop.cluster.local", "NXDOMAIN", "use web.shop.svc.cluster.local"),
        ("wbe.shop.svc.cluster.local", "NXDOMAIN", "did you mean web.shop.svc.cluster.local?"),
        ("web.default.svc.cluster.local", "NXDOMAIN", "it is in shop: use web.shop.svc"),
        ("web.nowhere.svc.cluster.local", "NXDOMAIN", "is not in namespace nowhere"),
        ("_x._tcp.web.shop.svc.cluster.local", "NXDOMAIN", "has no port of that name"),
        ("silent.shop.svc.cluster.local", "NXDOMAIN", "is headless and has no endpoint"),
        ("asleep.shop.svc.cluster.local", "NXDOMAIN", "its one endpoint is not ready"),
        ("a.asleep.shop.svc.cluster.local", "NXDOMAIN", "its one endpoint is not ready"),
        ("x.pods.shop.svc.cluster.local", "NXDOMAIN", "none of its 2 endpoints has that name"),
        ("127-0-0-1.shop.pod.cluster.local", "NXDOMAIN", "--pods is disabled"),
        ("https://secure.example/", "forwarded", "Secret shop/secure-tls does not exist: Ingress"),
        ("https://secure.example/", "forwarded", "shop/secure names it for secure.example"),
        ("https://shop.example/web", "forwarded", "no Ingress names a Secret for shop.example"),
        ("http://shop.example/lost", "503", "host container-1.shop.svc.cluster.local, an endpoint"),
        (
            "http://lost.shop.svc.cluster.local/",
            "refused",
            "endpoint of Service shop/lost: no such",
        ),
        ("127.N.N.6:80", "refused", "start the container or host with this name"),
        ("http://shop.example/broken", "503", "Service shop/broken is rejected"),
        ("http://shop.example/broken", "503", "broken.yaml:4:"),
        ("broken.shop.svc.cluster.local", "NXDOMAIN", "Service shop/broken is rejected"),
        ("http://slip.example/web", "404", "Ingress shop/slip is rejected"),
        ("127.N.N.8:80", "not served", "no Service has 127.N.N.8"),
        ("127.N.N.3:80", "refused", "no endpoint is ready"),
        ("127.N.N.3:80", "refused", "publishNotReadyAddresses"),
        ("127.N.N.4:80", "refused", "write an EndpointSlice with label"),
        ("127.N.N.1:81", "not served", "Service shop/web has no port 81"),
        ("127.N.N.1:8080", "not served", "is the target port of Service shop/web"),
        ("127.N.N.1:80/udp", "not served", "has this port over TCP only"),
        ("127.N.N.11:8080", "not served", "is an endpoint of Service shop/web"),
        ("127.N.N.201:30080", "not served", "is served on 127.N.N.200 only"),
        ("127.N.N.200:30999", "not served", "none has NodePort 30999"),
    ];
    let targets: Vec<_> = table.iter().map(|(target, ..)| net.fill(target)).collect();
    let explained = explain(&folder, net, &targets);
    check(net, &table, &explained);
    // Only on the same machine a manifest can be searched for an address.
    let address = [net.addr(7, 80).to_string()];
    let table_of_address = [("127.N.N.7:80", "not served", "Service shop/broken is rejected")];
    check(net, &table_of_address, &explain(&folder, net, &address));
    // The result with a feed server is the same, although it does not serve rejected objects.
    let (dir, listen) = (folder.path().display().to_string(), net.addr(1, 7400).to_string());
    let server = ["feed", "--dir", &dir, "--listen", &listen];
    let _server = Switchyard::ready(net.addr(1, 7401), &server);
    let explained = explain_by(&format!("http://{listen}"), net, &targets, &[]);
    check(net, &table, &explained);
}

fn check(net: Net, table: &[(&str, &str, &str)], explained: &[Value]) {
    assert_eq!(table.len(), explained.len());
    for ((target, answer, words), explained) in table.iter().zip(explained) {
        let trouble = &explained["trouble"];
        let (cause, fix) = (trouble["cause"].as_str(), trouble["fix"].as_str());
        let said = format!("{}\n{}", cause.unwrap_or_default(), fix.unwrap_or_default());
        assert!(!said.trim().is_empty() && said.lines().count() == 2, "{target}: {explained}");
        assert_eq!(explained["answer"], *answer, "{target}: {explained}");
        assert!(said.contains(&net.fill(words)), "{target}: {said}");
    }
}

#[test]
fn names_of_pods_as_the_responder_is_told_to_answer_them() {
    let (net, folder) = (Net::new(), Folder::new());
    folder.replace("objects.yaml", &net.fill(OBJECTS));
    let feed = folder.path().display().to_string();
    let targets = ["10-1-0-2.shop.pod.cluster.local", "127-0-0-1.none.pod.cluster.local"];
    let targets = targets.map(str::to_owned);
    let table = [
        ("insecure", ["NOERROR", "NXDOMAIN"], ["", "namespace none does not exist"]),
        ("verified", ["NXDOMAIN"; 2], ["has address 10-1-0-2", "namespace none does not exist"]),
    ];
    for (mode, answers, causes) in table {
        let explained = explain_by(&feed, net, &targets, &["--pods", mode]);
        for ((explained, answer), cause) in explained.iter().zip(answers).zip(causes) {
            assert_eq!(explained["answer"], answer, "{mode}: {explained}");
            let said = explained["trouble"]["cause"].as_str().unwrap_or_default();
            assert!(said.contains(cause), "{mode}: {explained}");
        }
    }
}

/// Plain HTTP needs no certificates, so users who may not read Secrets can explain it.
#[test]
fn a_url_without_tls_is_explained_without_secrets() {
    let (net, folder) = (Net::new(), Folder::new());
    folder.replace("objects.yaml", &net.fill(OBJECTS));
    let (dir, listen) = (folder.path().display().to_string(), net.addr(1, 7400).to_string());
    let tokens = folder.file("tokens");
    std::fs::write(&tokens, "reader-0123456789abcdef\n").unwrap();
    let tokens = tokens.display().to_string();
    let server = ["feed", "--dir", &dir, "--listen", &listen, "--token-file", &tokens];
    let _server = Switchyard::ready(net.addr(1, 7401), &server);
    let feed = format!("http://{listen}");
    let targets = ["http://shop.example/web".to_owned()];
    let explained = explain_by(&feed, net, &targets, &["--feed-token-file", &tokens]);
    assert_eq!(explained[0]["answer"], "forwarded", "{explained:?}");
}

#[test]
fn a_node_port_that_another_has_and_rules_that_lost() {
    let (net, folder) = (Net::new(), Folder::new());
    folder.replace("objects.yaml", &net.fill(OBJECTS));
    let node_port = net.addr(200, 30080).to_string();
    let targets = [node_port, "http://shop.example/web/deep".to_owned()];
    let explained = explain(&folder, net, &targets);
    let lost = explained[0]["lost"].to_string();
    assert!(lost.contains("Service shop/late") && lost.contains("shop/web"), "{lost}");
    assert_eq!(explained[0]["answer"], "forwarded");
    assert_eq!(
        explained[1]["because"][0],
        "Ingress shop/shop: host shop.example, Prefix /web/deep"
    );
    let lost = explained[1]["lost"].to_string();
    assert!(lost.contains("Prefix /web: its path is less exact"), "{lost}");
}

/// With a folder and with its feed: a rejected Service is the cause for its own address, with a
/// fix, and is not mentioned for unrelated targets.
#[test]
fn a_rejected_object_is_named_only_where_it_counts() {
    let (net, folder) = (Net::new(), Folder::new());
    folder.replace("objects.yaml", &net.fill(OBJECTS));
    let (dir, listen) = (folder.path().display().to_string(), net.addr(1, 7400).to_string());
    let server = ["feed", "--dir", &dir, "--listen", &listen];
    let _server = Switchyard::ready(net.addr(1, 7401), &server);
    let own = ["127.N.N.5:80", "http://late.shop.svc.cluster.local/"];
    let port = "127.N.N.200:30080";
    let others = [
        "http://shp.example/",
        "http://shop.example/unready",
        "web.shop",
        "_x._tcp.web.shop.svc.cluster.local",
        "127.N.N.4:80",
    ];
    let targets = own.iter().chain(&others).chain([&port]).map(|target| net.fill(target));
    let targets: Vec<_> = targets.collect();
    for feed in [dir.clone(), format!("http://{listen}")] {
        let explained = explain_by(&feed, net, &targets, &[]);
        let (of_own, rest) = explained.split_at(own.len());
        for explained in of_own {
            let trouble = &explained["trouble"];
            let (cause, fix) = (trouble["cause"].to_string(), trouble["fix"].to_string());
            assert!(cause.contains("Service shop/late is rejected"), "{feed}: {explained}");
            assert!(cause.ends_with("provided port is already allocated\""), "{feed}: {cause}");
            assert!(fix.starts_with("\"shop/web ("), "{feed}: {fix}");
            assert!(fix.ends_with("has it; choose another\""), "{feed}: {fix}");
        }
        for explained in &rest[..others.len()] {
            assert!(explained["trouble"].is_object(), "{feed}: {explained}");
            assert!(!explained.to_string().contains("shop/late"), "{feed}: {explained}");
        }
        let lost = rest[others.len()]["lost"].to_string();
        assert!(lost.contains("Service shop/late is rejected"), "{feed}: {lost}");
    }
}

#[test]
fn an_ingress_of_an_api_of_which_a_part_is_left_out_is_named() {
    let net = Net::new();
    let backend = r#"{"service": {"name": "web", "port": {"number": 80}}}"#;
    let resource = r#"{"resource": {"kind": "Bucket", "name": "files"}}"#;
    let path = |path: &str, backend: &str| {
        format!(r#"{{"path": "{path}", "pathType": "Prefix", "backend": {backend}}}"#)
    };
    let rule = |host: &str, paths: &[String]| {
        format!(r#"{{"host": "{host}", "http": {{"paths": [{}]}}}}"#, paths.join(", "))
    };
    let rules = [
        rule("r1.example", &[path("/", resource)]),
        rule("r2.example", &[path("/x", resource), path("/", backend)]),
    ];
    let ingress = format!(
        r#"{{"metadata": {{"name": "mixed", "namespace": "shop", "resourceVersion": "9"}},
            "spec": {{"ingressClassName": "switchyard", "rules": [{}]}}}}"#,
        rules.join(", ")
    );
    let class = r#"{"metadata": {"name": "switchyard", "resourceVersion": "8"},
        "spec": {"controller": "switchyard.dev/ingress"}}"#;
    let objects = [("/ingresses", ingress), ("/ingressclasses", class.to_owned())];
    let objects = objects.map(|(list, text)| (list, text.replace('\n', " ")));
    let _api = Api::start(net.addr(2, 7400), Access::Everybody, None, objects.into());
    let feed = format!("http://{}", net.addr(2, 7400));
    let targets = ["http://r1.example/", "http://r2.example/", "http://other.example/"];
    let explained = explain_by(&feed, net, &targets.map(str::to_owned), &[]);
    let what = "Ingress shop/mixed is served in part: spec.rules[0].http.paths[0].backend";
    let cause = explained[0]["trouble"]["cause"].to_string();
    assert!(cause.contains(what), "{cause}");
    let lost = explained[1]["lost"].to_string();
    assert!(lost.contains(what), "{}", explained[1]);
    assert!(!explained[2].to_string().contains("shop/mixed"), "{}", explained[2]);
}

#[test]
fn as_text_two_lines_say_what_is_wrong() {
    let (net, folder) = (Net::new(), Folder::new());
    folder.replace("objects.yaml", &net.fill(OBJECTS));
    let mut command = Command::new(BINARY);
    command.args(["explain", "http://shop.example/missing", "--feed"]).arg(folder.path());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("http://shop.example/missing: 503"));
    assert!(lines.next().unwrap().starts_with("  cause:   the Service does not exist"), "{text}");
    assert!(lines.next().unwrap().starts_with("  fix:     create Service shop/nobody"), "{text}");
    let bad = Command::new(BINARY).args(["explain", "10.0.0.1", "--feed", "x"]).output().unwrap();
    assert_eq!(bad.status.code(), Some(2));
}

/// The data plane of a folder, in one net.
struct World {
    net: Net,
    folder: Folder,
    _processes: [Switchyard; 3],
    _endpoints: Vec<Switchyard>,
}

impl World {
    fn start() -> World {
        let (net, folder) = (Net::new(), Folder::new());
        folder.replace("objects.yaml", &net.fill(OBJECTS));
        let feed = folder.path().display().to_string();
        let addr = |last, port| net.addr(last, port).to_string();
        let (node, http, https, dns) =
            (net.ip(200).to_string(), addr(200, 8080), addr(200, 8443), addr(200, 5311));
        let ready = |port, args: &[&str]| {
            Switchyard::ready(net.addr(250, port), &[args, &["--feed", &feed]].concat())
        };
        let processes = [
            ready(7411, &["proxy", "--node-ip", &node]),
            ready(7421, &["ingress", "--http", &http, "--https", &https]),
            ready(7431, &["dns", "--listen", &dns, "--upstream", "none"]),
        ];
        let endpoints = [11, 12, 13].map(|last| {
            let address = net.addr(last, 8080);
            let mut command = Command::new(BINARY);
            let name = address.to_string();
            command.args(["echo", "--listen", &name, "--name", &name]);
            command.stdout(std::process::Stdio::null());
            let process = Switchyard::spawn(command, address);
            crate::support::eventually("echo answers", || http_get(address, "echo", "/").ok());
            process
        });
        World { net, folder, _processes: processes, _endpoints: endpoints.into() }
    }

    /// What the data path does: the answer, and the endpoint that gave it.
    fn ask(&self, target: &str) -> (String, Vec<String>) {
        if let Some(rest) = target.strip_prefix("http://") {
            let (host, path) = rest.split_at(rest.find('/').unwrap());
            return answer_of(http_get(self.net.addr(200, 8080), host, path));
        }
        match target.parse::<SocketAddr>() {
            Ok(address) if TcpStream::connect(address).is_err() => (REFUSED.into(), Vec::new()),
            Ok(address) => answer_of(http_get(address, "echo", "/")),
            Err(_) => self.resolve(target),
        }
    }

    fn resolve(&self, name: &str) -> (String, Vec<String>) {
        let client = client_of(self.net.addr(200, 5311));
        let kind = if name.starts_with('_') { "SRV" } else { "A" };
        let reply = exchange(&client, &question(&format!("{name} {kind}")));
        let code = match reply.metadata.response_code {
            hickory_proto::op::ResponseCode::NoError => "NOERROR",
            hickory_proto::op::ResponseCode::NXDomain => "NXDOMAIN",
            hickory_proto::op::ResponseCode::Refused => "forwarded",
            other => panic!("{name}: {other}"),
        };
        let data = reply.answers.iter().map(|record| match &record.data {
            hickory_proto::rr::RData::SRV(srv) => {
                format!("SRV {}:{}", srv.target.to_string().trim_end_matches('.'), srv.port)
            }
            data => format!("{} {}", record.record_type(), data.to_string().trim_end_matches('.')),
        });
        (code.to_owned(), data.collect())
    }
}

fn answer_of(answer: std::io::Result<(u16, String)>) -> (String, Vec<String>) {
    let (status, body) = answer.unwrap();
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    match body["name"].as_str() {
        Some(name) if status == 200 => ("forwarded".to_owned(), vec![name.to_owned()]),
        _ => (status.to_string(), Vec::new()),
    }
}

fn random_target(rng: &mut StdRng, net: Net) -> String {
    let mut pick = |words: &[&str]| (*words.choose(rng).unwrap()).to_owned();
    match pick(&["url", "name", "address"]).as_str() {
        "url" => {
            let hosts = ["shop.example", "eu.shop.example", "a.b.shop.example", "other.example"];
            let paths = ["/", "/web", "/web/", "/web/deep", "/web/deep/er", "/webx", "/exact"];
            let more = ["/exact/", "/missing", "/port", "/unready", "/%77eb", "/x/../web", "//web"];
            format!("http://{}{}", pick(&hosts), pick(&[&paths[..], &more].concat()))
        }
        "name" => {
            let names = ["web", "unready", "pods", "silent", "none", "alias", "pod-a.pods"];
            let port = ["", "", "_http._tcp.", "_none._tcp.", "_http._udp."];
            let namespaces = ["shop", "shop", "shop", "other"];
            let ends = ["svc.cluster.local", "svc.cluster.local", "cluster.local", "example"];
            format!("{}{}.{}.{}", pick(&port), pick(&names), pick(&namespaces), pick(&ends))
        }
        _ => {
            let last = rng.random_range(1..8);
            let ports = [80, 81, 8080, 443];
            match rng.random_range(0..6) {
                0 => net.addr(200, *[30080, 30081].choose(rng).unwrap()).to_string(),
                _ => net.addr(last, *ports.choose(rng).unwrap()).to_string(),
            }
        }
    }
}

#[test]
fn a_feed_that_does_not_run_is_told_once() {
    let feed = format!("http://{}", Net::new().addr(200, 7400));
    let mut command = Command::new(BINARY);
    let output = command.args(["explain", "web.shop", "--feed", &feed]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    let expected = format!("error: the feed {feed} cannot be reached: Connection refused");
    assert!(said.starts_with(&expected) && said.lines().count() == 1, "{said}");
}

/// The command in a response of the ingress itself can be pasted, and explains the response.
#[test]
fn the_ingress_says_how_to_ask() {
    let world = World::start();
    // An endpoint that is ready but refuses connections: 502.
    let objects = world.net.fill(OBJECTS).replace("conditions: { ready: false }", "");
    let table = [
        ("shop.example", "/none", 404, "no rule of host shop.example matches path /none"),
        ("nowhere.example", "/", 404, "no Ingress has a rule for host nowhere.example"),
        ("shop.example", "/missing", 503, "the Service does not exist"),
        ("shop.example", "/unready", 502, "forwarded"),
    ];
    for (host, path, status, words) in table {
        if status == 502 {
            world.folder.replace("objects.yaml", &objects);
        }
        let ask = || http_get(world.net.addr(200, 8080), host, path).unwrap();
        let body = crate::support::eventually("the answer", || {
            let (code, body) = ask();
            (code == status).then_some(body)
        });
        let command = body.lines().find_map(|line| line.strip_prefix("To see why: ")).unwrap();
        let folder = world.folder.path().display().to_string();
        assert!(!body.contains(&folder) && !body.contains("127."), "told to a stranger: {body}");
        let command = command.replace("SOURCE", &folder);
        let words_of_it: Vec<_> = command.split(' ').collect();
        assert_eq!(words_of_it[0], "switchyard");
        let output = Command::new(BINARY).args(&words_of_it[1..]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(words), "{command}: {said}");
    }
    let (_, body) = http_get(world.net.addr(200, 8080), "nowhere.example", "/$(id)").unwrap();
    assert!(body.contains("explain URL --feed") && !body.contains("(id)"), "{body}");
}

/// For random requests, names and addresses, the explanation agrees with the data path.
#[test]
fn explanations_equal_what_the_data_path_does() {
    const REQUESTS: usize = 1000;
    let world = World::start();
    let mut rng = StdRng::seed_from_u64(11);
    let targets: Vec<_> = (0..REQUESTS).map(|_| random_target(&mut rng, world.net)).collect();
    let explained = explain(&world.folder, world.net, &targets);
    // A name that is the host of an Ingress is explained as both, in one line.
    let is_host = |target: &str| {
        let label = target.strip_suffix(".shop.example").unwrap_or(".");
        !label.contains(['.', '/'])
    };
    assert_eq!(explained.len(), targets.len());
    for (target, explained) in targets.iter().zip(&explained) {
        let url = is_host(target).then(|| format!("http://{target}/"));
        assert_eq!(explained["asHost"]["target"].as_str(), url.as_deref(), "{explained}");
    }
    let mut answers = BTreeMap::<String, usize>::new();
    for (target, explained) in targets.iter().zip(&explained) {
        let (answer, by) = world.ask(target);
        let said = explained["answer"].as_str().unwrap();
        // In this test, no other program listens.
        let said = if said == "not served" { REFUSED } else { said };
        assert_eq!(said, answer, "{target}: {explained}");
        let listed: Vec<_> = explained["endpoints"].as_array().unwrap().iter().collect();
        let says = |who: &String| listed.iter().any(|one| *one == who);
        assert!(by.iter().all(says), "{target}: {by:?}, {explained}");
        assert_eq!(by.is_empty(), listed.is_empty() || answer == "503", "{target}: {explained}");
        *answers.entry(answer).or_default() += 1;
    }
    // Every kind of answer was among them.
    for answer in ["forwarded", "refused", "404", "503", "NOERROR", "NXDOMAIN"] {
        assert!(answers.get(answer).is_some_and(|count| *count > 10), "{answers:?}");
    }
}
