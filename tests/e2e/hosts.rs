//! Endpoints given by host name, as in compose: proxy and ingress look them up at a DNS server
//! (here our own responder), and find them again at another address.

use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::support::{Folder, Net, Switchyard, eventually, http_get};

/// A responder that answers `api.ns.svc.hosts.test` with these addresses.
struct Names {
    net: Net,
    folder: Folder,
    address: SocketAddr,
    _process: Switchyard,
}

impl Names {
    fn start(net: Net, last: &[u8]) -> Names {
        let folder = Folder::new();
        let address = net.addr(53, 5311);
        folder.replace("names.yaml", &manifest(net, last));
        let (listen, path) = (address.to_string(), folder.path().display().to_string());
        let args = ["dns", "--feed", &path, "--listen", &listen, "--upstream", "none"];
        let args = [&args[..], &["--domain", "hosts.test", "--ttl", "1"]].concat();
        let process = Switchyard::ready(net.addr(53, 7431), &args);
        Names { net, folder, address, _process: process }
    }

    fn now_are(&self, last: &[u8]) {
        self.folder.replace("names.yaml", &manifest(self.net, last));
    }
}

fn manifest(net: Net, last: &[u8]) -> String {
    let endpoints: Vec<_> =
        last.iter().map(|last| format!("{{ addresses: [{}] }}", net.ip(*last))).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: api, namespace: ns }}\n\
         spec: {{ clusterIP: None, ports: [{{ port: 8080 }}] }}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{ name: api-1, namespace: ns, \
         labels: {{ kubernetes.io/service-name: api }} }}\n\
         addressType: IPv4\nports: [{{ port: 8080 }}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

const SERVED: &str = "\
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec: { clusterIP: 127.N.N.1, ports: [{ port: 80, targetPort: 8080 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: web-1, namespace: shop, labels: { kubernetes.io/service-name: web } }
addressType: FQDN
ports: [{ port: 8080 }]
endpoints: [{ addresses: [api.ns.svc.hosts.test] }]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: web, namespace: shop }
spec: { defaultBackend: { service: { name: web, port: { number: 80 } } } }
";

/// An echo endpoint, killed when dropped.
fn echo(net: Net, last: u8) -> Switchyard {
    let address = net.addr(last, 8080);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_switchyard"));
    let name = format!("at-{last}");
    command.args(["echo", "--listen", &address.to_string(), "--name", &name]);
    command.stdout(Stdio::null());
    let process = Switchyard::spawn(command, address);
    eventually("echo answers", || http_get(address, "echo", "/").ok());
    process
}

/// The name of the endpoint that answers there.
fn answerer(address: SocketAddr) -> Option<String> {
    let (status, body) = http_get(address, "shop.example", "/").ok()?;
    let body: serde_json::Value = serde_json::from_str(&body).ok()?;
    (status == 200).then(|| body["name"].as_str().unwrap().to_owned())
}

#[test]
fn an_endpoint_that_comes_back_with_another_address_is_found() {
    let net = Net::new();
    let (_first, _second) = (echo(net, 11), echo(net, 12));
    let names = Names::start(net, &[11]);
    let folder = Folder::new();
    folder.replace("web.yaml", &net.fill(SERVED));
    let (feed, resolver) = (folder.path().display().to_string(), names.address.to_string());
    let (node, http, https) =
        (net.ip(200).to_string(), net.addr(2, 8080).to_string(), net.addr(2, 8443).to_string());
    let shared = ["--feed", &feed, "--host-resolver", &resolver];
    let proxy = [&["proxy", "--node-ip", &node][..], &shared].concat();
    let proxy = Switchyard::ready(net.addr(250, 7411), &proxy);
    let ingress = [&["ingress", "--http", &http, "--https", &https][..], &shared].concat();
    let ingress = Switchyard::ready(net.addr(250, 7421), &ingress);
    let both = [net.addr(1, 80), net.addr(2, 8080)];
    for address in both {
        // Ready means that the names have been looked up.
        assert_eq!(answerer(address).as_deref(), Some("at-11"), "{address}");
    }
    names.now_are(&[12]);
    for address in both {
        let moved = || (answerer(address)? == "at-12").then_some(());
        eventually(&format!("{address} follows the name"), moved);
    }
    names.now_are(&[]);
    eventually("no such host", || {
        let hosts = &proxy.status()["hosts"];
        (hosts["problems"][0]["problem"] == "no such host").then_some(())
    });
    assert_eq!(proxy.status()["hosts"]["count"], 1);
    assert_eq!(proxy.status()["hosts"]["problems"][0]["host"], "api.ns.svc.hosts.test");
    eventually("refused", || std::net::TcpStream::connect(both[0]).is_err().then_some(()));
    names.now_are(&[11, 12]);
    let mut answers = std::collections::BTreeSet::new();
    eventually("both addresses are endpoints", || {
        answers.extend(answerer(both[0]));
        (answers.len() == 2).then_some(())
    });
    for process in [proxy, ingress] {
        process.signal(Signal::SIGTERM);
        assert!(process.wait().success());
    }
}
