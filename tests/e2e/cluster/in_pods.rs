//! The processes as a kubelet runs them: with the account, user, capabilities, read-only file
//! system and arguments of the manifests, each on its own machine, with a feed server instead of
//! the API server.

use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use super::manifests::{args, environment, flag, pod};
use crate::dns::kit::{exchange, question};
use crate::feed_client::api::Pki;
use crate::proxy_netns::lab::{Host, Lab};
use crate::support::{Folder, Switchyard, eventually, http_get};

const API: &str = "10.77.0.2:6443";

/// Sets up the machine of a Pod, before the process starts.
const PREPARE: &str = r#"
mount -t tmpfs tmpfs /run
mkdir -p /run/secrets/kubernetes.io/serviceaccount
mount --bind "$ACCOUNT" /run/secrets/kubernetes.io/serviceaccount
touch /run/switchyard
mount --bind "$BINARY" /run/switchyard
mount -t tmpfs tmpfs /var/lib
mkdir -m 0777 /var/lib/switchyard
mount -o remount,bind,ro /
unset ACCOUNT BINARY
exec setpriv "$@"
"#;

/// A Service with an endpoint, Ingresses to it, and what they need.
const OBJECTS: &str = "\
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  ports: [{ port: 80, targetPort: 8080, nodePort: 30080 }]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: web-1, namespace: shop, labels: { kubernetes.io/service-name: web } }
addressType: IPv4
ports: [{ port: 8080 }]
endpoints: [{ addresses: [10.77.0.11] }]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: web, namespace: shop }
spec:
  ingressClassName: switchyard
  rules:
    - host: plain.example
      http:
        paths:
          - path: /
            pathType: Prefix
            backend: { service: { name: web, port: { number: 80 } } }
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: web-tls, namespace: shop }
spec:
  ingressClassName: switchyard
  tls: [{ hosts: [shop.example], secretName: web-tls }]
  rules:
    - host: shop.example
      http:
        paths:
          - path: /
            pathType: Prefix
            backend: { service: { name: web, port: { number: 80 } } }
";

/// Machines, an API server, and a Pod with an endpoint.
struct Cluster {
    // Dropped in this order: processes end before their machines.
    api: Option<Switchyard>,
    _echo: Switchyard,
    files: Folder,
    manifests: Folder,
    pki: Pki,
    client: Host,
    machines: [Host; 2],
    lab: Lab,
}

impl Cluster {
    fn start() -> Cluster {
        let lab = Lab::new();
        let (server, endpoint, client) = (lab.host(2), lab.host(11), lab.host(100));
        let (files, manifests) = (Folder::new(), Folder::new());
        let address: SocketAddr = API.parse().unwrap();
        let pki = Pki::new(address);
        manifests.replace("objects.yaml", OBJECTS);
        manifests.replace("secret.yaml", &certificate("shop.example"));
        files.replace("tls.crt", &pki.server.0);
        files.replace("tls.key", &pki.server.1);
        let echo = endpoint.run(|| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
            command.args(["echo", "--listen", "0.0.0.0:8080", "--name", "pod11"]);
            Switchyard::spawn(command, address)
        });
        eventually("the Pod listens", || client.ask("10.77.0.11:8080".parse().unwrap()).ok());
        let machines = [server, endpoint];
        let mut cluster =
            Cluster { api: None, _echo: echo, files, manifests, pki, client, machines, lab };
        cluster.permit("first");
        let path = |name: &str| cluster.files.file(name).display().to_string();
        let (crt, key, tokens) = (path("tls.crt"), path("tls.key"), path("tokens"));
        let dir = cluster.manifests.path().display().to_string();
        let args = [
            ["feed", "--dir", &dir, "--listen", API, "--tls-cert", &crt],
            ["--tls-key", &key, "--token-file", &tokens, "--log", "error", "--workers"],
        ];
        let args = [args.concat(), vec!["1"]].concat();
        let admin = "127.0.0.1:7401".parse().unwrap();
        cluster.api = Some(cluster.machines[0].run(|| Switchyard::ready(admin, &args)));
        cluster
    }

    /// Makes the API server accept only the tokens of that generation; only the token of the
    /// ingress may read Secrets.
    fn permit(&self, generation: &str) {
        let token = |process| token(process, generation);
        let tokens = [token("proxy"), token("dns"), token("ingress") + " secrets"];
        self.files.replace("tokens", &tokens.join("\n"));
    }

    /// The files of an account, as a kubelet writes and replaces them: all at once.
    fn write_account(&self, process: &str, generation: &str, ca: &str) -> PathBuf {
        let account = self.files.file(process);
        let data = account.join(format!("..{generation}"));
        std::fs::create_dir_all(&data).unwrap();
        for (name, text) in
            [("token", &*token(process, generation)), ("ca.crt", ca), ("namespace", "switchyard")]
        {
            std::fs::write(data.join(name), text).unwrap();
            let group = pod(process).0["securityContext"]["fsGroup"].as_u64().unwrap_or(0);
            chown(data.join(name), Some(0), Some(group as u32)).unwrap();
            std::fs::set_permissions(data.join(name), PermissionsExt::from_mode(0o640)).unwrap();
            let _ = symlink(format!("..data/{name}"), account.join(name));
        }
        let link = account.join("..data_tmp");
        symlink(format!("..{generation}"), &link).unwrap();
        std::fs::rename(link, account.join("..data")).unwrap();
        for folder in [&account, &data] {
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
        }
        account
    }

    /// Runs a process on its machine, as its manifest says.
    fn run(&self, process: &str, last: u8, ca: &str) -> Pod {
        let host = self.lab.host(last);
        let account = self.write_account(process, "first", ca);
        let (spec, container) = pod(process);
        let own = &container["securityContext"];
        let id = own["runAsUser"].as_u64().or(spec["securityContext"]["runAsUser"].as_u64());
        let id = id.unwrap().to_string();
        let added = own["capabilities"]["add"].as_array().cloned().unwrap_or_default();
        let added = added.iter().map(|name| format!(",+{}", name.as_str().unwrap().to_lowercase()));
        let bounds = format!("-all{}", added.collect::<String>());
        let groups = spec["securityContext"]["fsGroup"].as_u64().unwrap_or(0).to_string();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-euc", PREPARE, "sh"]);
        command.args(["--reuid", &id, "--regid", &id, "--groups", &groups, "--no-new-privs"]);
        command.args(["--inh-caps", "-all", "--ambient-caps", "-all", "--bounding-set", &bounds]);
        command.arg("/run/switchyard").args(args(process)).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.env("ACCOUNT", account).env("BINARY", env!("CARGO_BIN_EXE_switchyard"));
        command.env("KUBERNETES_SERVICE_HOST", "10.77.0.2").env("KUBERNETES_SERVICE_PORT", "6443");
        for (name, value) in environment(process) {
            match &*value {
                "spec.nodeName" => command.env(name, "node-1"),
                "status.hostIPs" => command.env(name, format!("10.77.0.{last},fd77::{last}")),
                _ => command.env(name, value),
            };
        }
        let admin: SocketAddr = flag(process, "admin").parse().unwrap();
        let is_loopback = admin.ip().is_loopback();
        let admin = if is_loopback { admin } else { SocketAddr::new(host.ip(), admin.port()) };
        let process = host.run(|| Switchyard::spawn(command, admin));
        Pod { process: Some(process), admin, host }
    }
}

fn token(process: &str, generation: &str) -> String {
    format!("{process}-{generation}-0123456789abcdef")
}

/// A Secret with a certificate for that host.
fn certificate(host: &str) -> String {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    let indented =
        |pem: String| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: web-tls, namespace: shop }}\n\
         type: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indented(made.cert.pem()),
        indented(made.signing_key.serialize_pem())
    )
}

struct Pod {
    process: Option<Switchyard>,
    admin: SocketAddr,
    host: Host,
}

impl Pod {
    /// A request like the kubelet's: from the node, with the address as Host.
    fn get(&self, path: &str) -> (u16, String) {
        let host = self.admin.to_string();
        self.host.run(|| http_get(self.admin, &host, path)).unwrap_or_default()
    }

    fn eventually_ready(&self) {
        eventually("ready", || (self.get("/readyz").0 == 200).then_some(()));
    }

    fn services(&self) -> u64 {
        let status: serde_json::Value = serde_json::from_str(&self.get("/status").1).unwrap();
        status["feed"]["objects"]["Service"].as_u64().unwrap_or(0)
    }

    fn process(&self) -> &Switchyard {
        self.process.as_ref().unwrap()
    }

    /// A line of the kernel's on the process.
    fn fact(&self, name: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process().pid()));
        let text = text.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:\t")));
        line.unwrap().to_owned()
    }

    fn stop(&mut self) {
        let process = self.process.take().unwrap();
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait().code(), Some(0));
    }
}

#[test]
#[ignore = "needs root, network namespaces and setpriv"]
fn the_proxy_serves_cluster_ips_and_node_ports() {
    let cluster = Cluster::start();
    let mut pod = cluster.run("proxy", 1, &cluster.pki.ca);
    pod.eventually_ready();
    let (vip, node_port) = ("10.96.0.10:80".parse().unwrap(), "10.77.0.1:30080".parse().unwrap());
    eventually("the ClusterIP", || pod.host.ask(vip).ok().filter(|name| name == "pod11"));
    eventually("the NodePort", || cluster.client.ask(node_port).ok().filter(|n| n == "pod11"));
    // NET_BIND_SERVICE and NET_ADMIN: bits 10 and 12.
    assert_eq!(pod.fact("CapEff"), "0000000000001400");
    assert_eq!(pod.fact("NoNewPrivs"), "1");
    assert!(pod.host.is_refused("10.96.0.99:80".parse().unwrap()), "an address of no Service");
    pod.stop();
    assert!(!pod.host.show("route show table local").contains("10.96.0.0/16"));
}

#[test]
#[ignore = "needs root, network namespaces and setpriv"]
fn the_ingress_serves_as_nobody_with_certificates_of_secrets() {
    let cluster = Cluster::start();
    let mut pod = cluster.run("ingress", 3, &cluster.pki.ca);
    pod.eventually_ready();
    let get = |host: &str| {
        let address = "10.77.0.3:8080".parse().unwrap();
        cluster.client.run(|| http_get(address, host, "/")).unwrap()
    };
    let (code, body) = get("plain.example");
    assert!(code == 200 && body.contains("pod11"), "{code} {body}");
    assert_eq!(get("other.example").0, 404);
    let snapshot = pod.get("/snapshot").1;
    assert!(snapshot.contains("shop/web-tls") && !snapshot.contains("PRIVATE"), "{snapshot}");
    assert_eq!(pod.fact("CapEff"), "0000000000000000");
    assert!(pod.fact("Uid").starts_with("65532\t65532"));
    pod.stop();
}

#[test]
#[ignore = "needs root, network namespaces and setpriv"]
fn the_dns_responder_answers_and_outlives_a_new_token() {
    let cluster = Cluster::start();
    let mut pod = cluster.run("dns", 4, &cluster.pki.ca);
    pod.eventually_ready();
    let socket = cluster.client.udp("10.77.0.4:1053".parse().unwrap());
    let reply = exchange(&socket, &question("web.shop.svc.cluster.local A"));
    assert_eq!(reply.answers[0].data.to_string(), "10.96.0.10");
    assert_eq!(pod.services(), 1);
    // The kubelet renews the token, and the API server does not accept the old one any more.
    cluster.write_account("dns", "second", &cluster.pki.ca);
    cluster.permit("second");
    cluster.api.as_ref().unwrap().signal(Signal::SIGHUP);
    let more = OBJECTS.split("---").next().unwrap();
    let more = more.replace("web", "more").replace("10.96.0.10", "10.96.0.11");
    cluster.manifests.replace("more.yaml", &more.replace("30080", "30081"));
    pod.process().signal(Signal::SIGHUP);
    eventually("the new Service", || (pod.services() == 2).then_some(()));
    eventually("connected", || {
        let status: serde_json::Value = serde_json::from_str(&pod.get("/status").1).unwrap();
        (status["feed"]["connected"] == true).then_some(())
    });
    pod.eventually_ready();
    pod.stop();
}

/// An account with the wrong CA, and one that may not read what the process needs.
#[test]
#[ignore = "needs root, network namespaces and setpriv"]
fn a_server_that_is_not_the_clusters_and_a_missing_right_are_named() {
    let cluster = Cluster::start();
    let other = Pki::new(API.parse().unwrap());
    let pod = cluster.run("dns", 4, &other.ca);
    eventually("the reason is the certificate", || {
        let (code, reasons) = pod.get("/readyz");
        (code == 503 && reasons.contains("certificate")).then_some(())
    });
    let tokens = [token("ingress", "first"), token("dns", "first")].join("\n");
    cluster.files.replace("tokens", &tokens);
    cluster.api.as_ref().unwrap().signal(Signal::SIGHUP);
    let pod = cluster.run("ingress", 3, &cluster.pki.ca);
    eventually("the reason is the right", || {
        let (code, reasons) = pod.get("/readyz");
        (code == 503 && reasons.contains("Secrets: ") && reasons.contains("403")).then_some(())
    });
}
