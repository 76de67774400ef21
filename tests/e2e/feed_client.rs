//! `--feed URL` and `--feed kube`: a proxy process follows an API server.

pub mod api;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::support::{Folder, Net, PATIENCE, PROMPTLY, Switchyard, eventually, http_get};
use api::{Access, Api, Pki};

/// A Service on `.1` with its endpoint on `.10`, as an API has them.
fn objects(net: Net) -> Vec<(&'static str, String)> {
    let service = r#"{"metadata":{"name":"web","namespace":"demo","resourceVersion":"7"},
        "spec":{"clusterIP":"127.N.N.1","ports":[{"port":80,"targetPort":8080}]}}"#;
    let slice = r#"{"metadata":{"name":"web-1","namespace":"demo","resourceVersion":"8",
        "labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4",
        "ports":[{"name":"","port":8080,"protocol":"TCP"}],
        "endpoints":[{"addresses":["127.N.N.10"],"conditions":{"ready":true}}]}"#;
    let one_line = |text: &str| net.fill(text).replace('\n', " ");
    vec![("/services", one_line(service)), ("/endpointslices", one_line(slice))]
}

/// An endpoint that answers a byte with another.
fn endpoint(addr: SocketAddr) {
    let listener = TcpListener::bind(addr).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(b"!").is_ok() {}
        }
    });
}

fn is_served(addr: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(addr) else { return false };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut byte = [0];
    stream.write_all(b"?").is_ok() && stream.read_exact(&mut byte).is_ok() && byte == *b"!"
}

fn eventually_served(addr: SocketAddr) {
    eventually(&format!("{addr} is served"), || is_served(addr).then_some(()));
}

/// A proxy with its own environment; killed when dropped.
struct Proxy {
    child: Child,
    admin: SocketAddr,
}

impl Proxy {
    fn start(net: Net, args: &[&str], environment: &[(&str, &str)]) -> Proxy {
        let admin = net.addr(250, 7411);
        let node_ip = net.ip(200).to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.args(["proxy", "--workers", "1", "--node-ip", &node_ip]);
        command.args(["--admin", &admin.to_string()]).args(args);
        command.env_remove("KUBERNETES_SERVICE_HOST").env("HOME", "/nonexistent");
        command.envs(environment.iter().copied());
        Proxy { child: command.stdin(Stdio::null()).spawn().unwrap(), admin }
    }

    fn status(&self) -> Value {
        let page = http_get(self.admin, "localhost", "/status").unwrap_or_default().1;
        serde_json::from_str(&page).unwrap_or_default()
    }

    fn exit_code(mut self) -> Option<i32> {
        eventually("the process ends", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A kubeconfig for that server, with these lines for its user.
fn kubeconfig(folder: &Folder, address: SocketAddr, pki: &Pki, user: &str) -> String {
    std::fs::write(folder.file("ca.pem"), &pki.ca).unwrap();
    let path = folder.file("kubeconfig");
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters:\n- name: test\n  cluster:\n    server: https://{address}\n    \
         certificate-authority: {}\n\
         contexts:\n- name: test\n  context: {{ cluster: test, user: test }}\n\
         users:\n- name: test\n  user:\n{user}\n",
        folder.file("ca.pem").display()
    );
    std::fs::write(&path, config).unwrap();
    path.display().to_string()
}

/// A kubeconfig for a server without TLS that lets everybody read.
pub fn kubeconfig_without_tls(folder: &Folder, address: SocketAddr) -> String {
    let path = folder.file("kubeconfig");
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters:\n- {{ name: test, cluster: {{ server: 'http://{address}' }} }}\n\
         contexts:\n- {{ name: test, context: {{ cluster: test, user: test }} }}\n\
         users:\n- {{ name: test, user: {{}} }}\n",
    );
    std::fs::write(&path, config).unwrap();
    path.display().to_string()
}

#[test]
fn a_server_at_a_url_is_followed() {
    let net = Net::new();
    endpoint(net.addr(10, 8080));
    let _api = Api::start(net.addr(2, 7400), Access::Everybody, None, objects(net));
    let feed = format!("http://{}", net.addr(2, 7400));
    let proxy = Proxy::start(net, &["--feed", &feed], &[]);
    eventually_served(net.addr(1, 80));
    let feed_status = &proxy.status()["feed"];
    assert_eq!(feed_status["source"], format!("http://{}", net.addr(2, 7400)));
    assert_eq!(feed_status["state"], "synced");
    assert_eq!(feed_status["objects"]["Service"], 1);
    assert_eq!(feed_status["kinds"]["EndpointSlice"]["resourceVersion"], "100");
    let metrics = http_get(proxy.admin, "localhost", "/metrics").unwrap().1;
    for line in [
        "switchyard_feed_connected 1.0",
        "switchyard_objects{kind=\"Service\",state=\"served\"} 1",
        "switchyard_feed_last_event_seconds 0.",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[test]
fn nodes_that_may_not_be_read_are_done_without() {
    let net = Net::new();
    endpoint(net.addr(10, 8080));
    let _api = Api::start(net.addr(2, 7400), Access::Without("/nodes"), None, objects(net));
    let feed = format!("http://{}", net.addr(2, 7400));
    let node_ip = net.ip(200).to_string();
    // Even if this lasts, the feed is not stale.
    let args = ["proxy", "--feed", &feed, "--node-ip", &node_ip, "--stale-after", "0s"];
    let proxy = Switchyard::ready(net.addr(250, 7411), &args);
    eventually_served(net.addr(1, 80));
    let status = &proxy.status()["feed"];
    assert_eq!((&status["state"], &status["connected"]), (&"synced".into(), &true.into()));
    assert_eq!(status["kinds"]["Node"]["state"], "forbidden");
    assert_eq!(status["kinds"]["Node"]["fault"], "nodes is forbidden");
    assert_eq!(proxy.admin_get("/readyz").0, 200);
}

#[test]
fn services_that_may_not_be_read_are_waited_for() {
    let net = Net::new();
    let _api = Api::start(net.addr(2, 7400), Access::Without("/services"), None, objects(net));
    let feed = format!("http://{}", net.addr(2, 7400));
    let proxy = Proxy::start(net, &["--feed", &feed], &[]);
    eventually("it says why", || {
        let (code, reasons) = http_get(proxy.admin, "localhost", "/readyz").unwrap_or_default();
        (code == 503 && reasons.contains("waiting for the list of Services: 403")).then_some(())
    });
}

#[test]
fn a_lost_server_changes_nothing_but_readiness() {
    let net = Net::new();
    endpoint(net.addr(10, 8080));
    let api = Api::start(net.addr(2, 7400), Access::Everybody, None, objects(net));
    let feed = format!("http://{}", net.addr(2, 7400));
    let args = ["proxy", "--feed", &feed, "--stale-after", "200ms", "--node-ip"];
    let node_ip = net.ip(200).to_string();
    let proxy = Switchyard::ready(net.addr(250, 7411), &[&args[..], &[&*node_ip]].concat());
    drop(api);
    let reasons = eventually("stale", || {
        let (code, reasons) = proxy.admin_get("/readyz");
        (code == 503).then_some(reasons)
    });
    assert!(reasons.starts_with(&format!("feed stale: lost {feed} at 2")), "{reasons}");
    assert!(is_served(net.addr(1, 80)));
    assert_eq!(proxy.status()["feed"]["connected"], false);
    let _api = Api::start(net.addr(2, 7400), Access::Everybody, None, Vec::new());
    eventually("what vanished is refused", || {
        TcpStream::connect(net.addr(1, 80)).is_err().then_some(())
    });
    eventually("ready", || (proxy.admin_get("/readyz").0 == 200).then_some(()));
}

/// A process ends on SIGTERM even if its feed does not exist or does not answer.
#[test]
fn a_process_without_its_feed_ends_when_asked_to() {
    let net = Net::new();
    let silent = TcpListener::bind(net.addr(3, 7400)).unwrap();
    for feed in [net.addr(2, 7400), silent.local_addr().unwrap()] {
        let url = format!("http://{feed}");
        let (http, https) = (net.addr(4, 8080).to_string(), net.addr(4, 8443).to_string());
        let (dns, node_ip) = (net.addr(4, 1053).to_string(), net.ip(4).to_string());
        for own in [
            &["proxy", "--node-ip", &node_ip][..],
            &["ingress", "--http", &http, "--https", &https],
            &["dns", "--listen", &dns],
        ] {
            let args = [own, &["--feed", &url]].concat();
            let process = Switchyard::start(net.addr(250, 7411), &args);
            eventually("alive", || (process.admin_get("/livez").0 == 200).then_some(()));
            assert_eq!(process.admin_get("/readyz").0, 503, "{args:?}");
            let begun = Instant::now();
            process.signal(nix::sys::signal::Signal::SIGTERM);
            assert_eq!(process.wait().code(), Some(0), "{args:?}");
            assert!(begun.elapsed() < PROMPTLY, "{args:?}: {:?}", begun.elapsed());
        }
    }
}

#[test]
fn sighup_lists_everything_anew() {
    let net = Net::new();
    endpoint(net.addr(10, 8080));
    let api = Api::start(net.addr(2, 7400), Access::Everybody, None, objects(net));
    let feed = format!("http://{}", net.addr(2, 7400));
    let node_ip = net.ip(200).to_string();
    let args = ["proxy", "--feed", &feed, "--node-ip", &node_ip];
    let proxy = Switchyard::ready(net.addr(250, 7411), &args);
    let kinds = api.lists();
    assert!(kinds >= 2, "one a kind");
    proxy.signal(nix::sys::signal::Signal::SIGHUP);
    eventually("listed anew", || (api.lists() == 2 * kinds).then_some(()));
    eventually_served(net.addr(1, 80));
    assert_eq!(proxy.admin_get("/readyz").0, 200);
}

#[test]
fn a_cold_start_serves_what_was_saved() {
    let (net, state) = (Net::new(), Folder::new());
    endpoint(net.addr(10, 8080));
    let feed = format!("http://{}", net.addr(2, 7400));
    let args = ["--feed", &feed, "--state-dir", state.path().to_str().unwrap()];
    let api = Api::start(net.addr(2, 7400), Access::Everybody, None, objects(net));
    let proxy = Proxy::start(net, &args, &[]);
    let saved = state.file("proxy.objects");
    eventually("saved", || saved.exists().then_some(()));
    drop((proxy, api));
    let mode = std::fs::metadata(&saved).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let proxy = Proxy::start(net, &args, &[]);
    eventually_served(net.addr(1, 80));
    assert_eq!(proxy.status()["feed"]["source"], "snapshot");
    assert_eq!(proxy.status()["ready"], true);
}

#[test]
fn a_token_file_is_shown_to_the_server() {
    let (net, folder) = (Net::new(), Folder::new());
    endpoint(net.addr(10, 8080));
    let access = Access::Token("sesame".into());
    let _api = Api::start(net.addr(2, 7400), access, None, objects(net));
    let feed = format!("http://{}", net.addr(2, 7400));
    std::fs::write(folder.file("token"), "sesame\n").unwrap();
    let token = folder.file("token").display().to_string();
    let _proxy = Proxy::start(net, &["--feed", &feed, "--feed-token-file", &token], &[]);
    eventually_served(net.addr(1, 80));
}

#[test]
fn a_kubeconfig_with_a_client_certificate() {
    let (net, folder) = (Net::new(), Folder::new());
    endpoint(net.addr(10, 8080));
    let address = net.addr(2, 6443);
    let pki = Pki::new(address);
    let _api = Api::start(address, Access::Certificate, Some(&pki), objects(net));
    std::fs::write(folder.file("cert.pem"), &pki.client.0).unwrap();
    std::fs::write(folder.file("key.pem"), &pki.client.1).unwrap();
    let user = format!(
        "    client-certificate: {}\n    client-key: {}",
        folder.file("cert.pem").display(),
        folder.file("key.pem").display()
    );
    let config = kubeconfig(&folder, address, &pki, &user);
    // Endpoints on loopback may come from a cluster that is somewhere else only if allowed.
    let args = ["--feed", "kube", "--allow-local-endpoints"];
    let _proxy = Proxy::start(net, &args, &[("KUBECONFIG", &config)]);
    eventually_served(net.addr(1, 80));
}

#[test]
fn a_kubeconfig_with_an_exec_plugin() {
    let (net, folder) = (Net::new(), Folder::new());
    endpoint(net.addr(10, 8080));
    let address = net.addr(2, 6443);
    let pki = Pki::new(address);
    let access = Access::Token("from-the-plugin".into());
    let _api = Api::start(address, access, Some(&pki), objects(net));
    let plugin = folder.file("plugin");
    write_plugin(&plugin);
    let user = format!(
        "    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      \
         command: {}\n      interactiveMode: Never",
        plugin.display()
    );
    let config = kubeconfig(&folder, address, &pki, &user);
    let args = ["--feed", "kube", "--allow-local-endpoints"];
    let _proxy = Proxy::start(net, &args, &[("KUBECONFIG", &config)]);
    eventually_served(net.addr(1, 80));
}

fn write_plugin(path: &Path) {
    let credential = r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",
        "status":{"token":"from-the-plugin","expirationTimestamp":"2099-01-01T00:00:00Z"}}"#;
    std::fs::write(path, format!("#!/bin/sh\ncat <<END\n{credential}\nEND\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn local_endpoints_of_a_remote_feed_are_refused_and_named() {
    let (net, folder) = (Net::new(), Folder::new());
    let address = net.addr(2, 6443);
    let pki = Pki::new(address);
    let _api = Api::start(address, Access::Everybody, Some(&pki), objects(net));
    let config = kubeconfig(&folder, address, &pki, "    {}");
    let proxy = Proxy::start(net, &["--feed", "kube"], &[("KUBECONFIG", &config)]);
    let rejected = eventually("the slice is rejected", || {
        let rejected = proxy.status()["feed"]["rejected"][0].clone();
        rejected.is_object().then_some(rejected)
    });
    assert_eq!(rejected["object"], "EndpointSlice demo/web-1");
    let message = rejected["message"].as_str().unwrap();
    assert!(message.contains("--allow-local-endpoints"), "{message}");
    eventually("ready", || (proxy.status()["ready"] == true).then_some(()));
    assert!(!is_served(net.addr(1, 80)));
}

#[test]
fn what_cannot_work_ends_the_process_at_once() {
    let (net, folder) = (Net::new(), Folder::new());
    let missing = folder.file("missing").display().to_string();
    std::fs::write(folder.file("empty.pem"), "").unwrap();
    let empty = folder.file("empty.pem").display().to_string();
    let cases: &[&[&str]] = &[
        &["--feed", "http://"],
        &["--feed", "http://user:secret@127.0.0.1"],
        &["--feed", "http://127.0.0.1:1", "--feed-token-file", &missing],
        &["--feed", "https://127.0.0.1:1", "--feed-ca-file", &missing],
        &["--feed", "https://127.0.0.1:1", "--feed-ca-file", &empty],
        &["--feed", "http://127.0.0.1:1", "--stale-after", "soon"],
        &["--feed", "kube"],
    ];
    for args in cases {
        let environment = [("KUBECONFIG", &*missing)];
        assert_eq!(Proxy::start(net, args, &environment).exit_code(), Some(2), "{args:?}");
    }
}
