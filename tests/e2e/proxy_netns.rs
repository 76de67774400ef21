//! The proxy between machines: pods, a node, a second node and a client outside, each a network
//! namespace. Tests semantics that cannot be tested on loopback.

pub mod lab;
mod shortages;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use self::lab::{Host, Lab, udp_ask};
use crate::support::{Folder, PATIENCE, PROMPTLY, Switchyard, eventually, http_get};

const ADMIN: &str = "127.0.0.1:7411";
/// ClusterIPs, and the addresses of load balancers.
const RANGES: &str = "10.96.0.0/16,203.0.113.0/24,fd00:96::/112";
const VIP: &str = "10.96.0.1:80";
const VIP6: &str = "[fd00:96::1]:80";

/// A node with the proxy, a client outside, and three pods: `pod11`, `pod12`, `pod13`.
struct Cluster {
    // Dropped in this order: processes end before their machines.
    proxy: Option<Switchyard>,
    pods: Vec<(Switchyard, Host)>,
    folder: Folder,
    node: Host,
    client: Host,
    lab: Lab,
}

impl Cluster {
    /// The machines, and a proxy on node `a` that owns the service ranges.
    fn start(manifest: &str, args: &[&str]) -> Cluster {
        let mut cluster = Cluster::new(manifest);
        cluster.run_proxy(args);
        cluster
    }

    fn new(manifest: &str) -> Cluster {
        let lab = Lab::new();
        let (node, client) = (lab.host(1), lab.host(100));
        for route in ["10.96.0.0/16", "203.0.113.0/24"] {
            client.set(&format!("route add {route} via 10.77.0.1"));
        }
        client.set("route add fd00:96::/112 via fd77::1");
        let folder = Folder::new();
        folder.replace("web.yaml", manifest);
        let mut cluster = Cluster { proxy: None, pods: Vec::new(), folder, node, client, lab };
        for last in [11, 12, 13] {
            cluster.run_pod(last);
        }
        cluster
    }

    fn run_proxy(&mut self, args: &[&str]) {
        let proxy =
            run_proxy(&self.node, &self.folder, &[args, &["--service-cidr", RANGES]].concat());
        self.proxy = Some(proxy);
    }

    fn run_pod(&mut self, last: u8) {
        let host = self.lab.host(last);
        let name = format!("pod{last}");
        let echo = host.run(|| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
            command.args(["echo", "--listen", "[::]:8080", "--name", &name]);
            Switchyard::spawn(command, ADMIN.parse().unwrap())
        });
        let addr = SocketAddr::new(host.ip(), 8080);
        eventually("the pod listens", || host.ask(addr).ok());
        self.pods.push((echo, host));
    }

    fn edit(&self, manifest: &str) {
        self.folder.replace("web.yaml", manifest);
    }

    fn status(&self) -> serde_json::Value {
        self.node.run(|| self.proxy.as_ref().unwrap().status())
    }

    /// Waits until TCP connections reach each of these pods in turn, and no other.
    fn eventually_answers(&self, from: &Host, addr: &str, names: &[&str]) {
        let addr = addr.parse().unwrap();
        eventually(&format!("{addr} is served by {names:?}"), || {
            let mut seen: Vec<String> = names.iter().map_while(|_| from.ask(addr).ok()).collect();
            seen.sort_unstable();
            (seen == names).then_some(())
        });
    }

    fn eventually_refuses(&self, from: &Host, addr: &str) {
        let addr = addr.parse().unwrap();
        eventually(&format!("{addr} refuses"), || from.is_refused(addr).then_some(()));
    }

    /// Waits until TCP connections are refused, or closed before anything is served.
    fn eventually_denies(&self, from: &Host, addr: &str) {
        let addr = addr.parse().unwrap();
        eventually(&format!("{addr} serves nobody"), || from.ask(addr).is_err().then_some(()));
    }

    /// Ends the proxy with SIGTERM; whether its exit code is 0.
    fn stop(&mut self) -> bool {
        let proxy = self.proxy.take().unwrap();
        proxy.signal(Signal::SIGTERM);
        proxy.wait().success()
    }
}

fn run_proxy(node: &Host, folder: &Folder, args: &[&str]) -> Switchyard {
    let feed = folder.path().to_str().unwrap();
    let mut all = vec!["proxy", "--feed", feed, "--workers", "2"];
    all.extend(args);
    node.run(|| Switchyard::ready(ADMIN.parse().unwrap(), &all))
}

/// Service `web` with these lines for its spec besides its ports, and slices by these pods, each
/// the last number of its address and the node that it is on.
fn manifest(spec: &str, pods: &[(u8, &str)]) -> String {
    let slice = |name: &str, family: &str, net: &str| {
        let endpoint = |(last, node): &(u8, &str)| {
            format!("{{ addresses: ['{net}{last}'], nodeName: {node} }}")
        };
        let endpoints: Vec<String> = pods.iter().map(endpoint).collect();
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n\
             \x20 name: {name}\n  \
             namespace: demo\n  labels: {{ kubernetes.io/service-name: web }}\n\
             addressType: {family}\nports: [{{ name: t, port: 8080 }}, \
             {{ name: u, port: 8080, protocol: UDP }}]\nendpoints: [{}]\n",
            endpoints.join(", ")
        )
    };
    let node_port = match spec.contains("type:") {
        true => ", nodePort: 30080",
        false => "",
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: web, namespace: demo }}\nspec:\n\
         \x20 clusterIPs: [10.96.0.1, 'fd00:96::1']\n  ipFamilyPolicy: RequireDualStack\n\
         \x20 ports:\n  - {{ name: t, port: 80{node_port} }}\n\
         \x20 - {{ name: u, port: 80, protocol: UDP{node_port} }}\n{spec}"
    ) + &slice("web-4", "IPv4", "10.77.0.")
        + &slice("web-6", "IPv6", "fd77::")
}

const ALL: [(u8, &str); 3] = [(11, "a"), (12, "b"), (13, "b")];
const ALL_NAMES: [&str; 3] = ["pod11", "pod12", "pod13"];
const NODE_PORT: &str = "  type: NodePort\n";

/// Sends requests over TCP and UDP with new sockets: each pod answers equally often over each
/// protocol.
fn check_round_robin(from: &Host, addr: &str) {
    const ROUNDS: usize = 4;
    let addr: SocketAddr = addr.parse().unwrap();
    let expected: Vec<(&str, usize)> = ALL_NAMES.map(|name| (name, ROUNDS)).to_vec();
    let tally = |answers: Vec<String>| -> Vec<(&str, usize)> {
        let count = |name| answers.iter().filter(|answer| *answer == name).count();
        ALL_NAMES.map(|name| (name, count(name))).to_vec()
    };
    let tcp = (0..3 * ROUNDS).map(|_| from.ask(addr).unwrap()).collect();
    assert_eq!(tally(tcp), expected, "TCP {addr}");
    // All stay open: a client with the port of an earlier one would get its session.
    let sockets: Vec<_> = (0..3 * ROUNDS).map(|_| from.udp(addr)).collect();
    let udp = sockets.iter().map(|s| eventually("an answer", || udp_ask(s).ok())).collect();
    assert_eq!(tally(udp), expected, "UDP {addr}");
}

#[test]
#[ignore = "needs root"]
fn a_service_range_is_owned_while_the_proxy_runs() {
    let mut cluster = Cluster::start(&manifest("", &ALL), &[]);
    let routes = |node: &Host| {
        let (four, six) =
            (node.show("route show table local"), node.show("-6 route show table local"));
        RANGES.split(',').filter(|range| (four.clone() + &six).contains(range)).count()
    };
    assert_eq!(routes(&cluster.node), 3);
    for vip in [VIP, VIP6] {
        check_round_robin(&cluster.client, vip);
        check_round_robin(&cluster.node, vip);
    }
    for unused in ["10.96.0.2:80", "10.96.0.1:81", "[fd00:96::2]:80"] {
        assert!(cluster.client.is_refused(unused.parse().unwrap()), "{unused}");
    }
    // On the bridge's network, the node answers for the range, without a route to it.
    cluster.client.set("route del 10.96.0.0/16");
    cluster.client.set("route add 10.96.0.0/16 dev eth0");
    check_round_robin(&cluster.client, VIP);
    // A pod reaches itself through its own Service.
    cluster.pods[0].1.set("route add 10.96.0.0/16 via 10.77.0.1");
    check_round_robin(&cluster.pods[0].1, VIP);
    assert!(cluster.stop());
    assert_eq!(routes(&cluster.node), 0);
    // The route that a killed proxy left behind is taken over.
    cluster.run_proxy(&[]);
    cluster.proxy.take().unwrap().signal(Signal::SIGKILL);
    assert_eq!(routes(&cluster.node), 3);
    cluster.run_proxy(&[]);
    cluster.eventually_answers(&cluster.client, VIP, &ALL_NAMES);
    assert!(cluster.stop());
    assert_eq!(routes(&cluster.node), 0);
    // A second signal ends it at once, and its route is removed too.
    cluster.run_proxy(&[]);
    let mut kept = cluster.client.run(|| TcpStream::connect(VIP).unwrap());
    kept.set_read_timeout(Some(PATIENCE)).unwrap();
    kept.write_all(b"?").unwrap();
    kept.read_exact(&mut [0]).unwrap();
    let proxy = cluster.proxy.take().unwrap();
    proxy.signal(Signal::SIGTERM);
    cluster.eventually_refuses(&cluster.client, VIP);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.wait().code(), Some(1));
    let mut rest = Vec::new();
    let error = kept.read_to_end(&mut rest).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(routes(&cluster.node), 0);
    // A route that the operator added is kept.
    cluster.node.set("route add local 10.96.0.0/16 dev lo");
    cluster.run_proxy(&[]);
    assert!(cluster.stop());
    assert_eq!(routes(&cluster.node), 1);
}

#[test]
#[ignore = "needs root"]
fn a_service_range_outlives_whoever_removes_its_route() {
    let mut cluster = Cluster::start(&manifest("", &ALL), &[]);
    for route in
        ["del local 10.96.0.0/16 dev lo table local", "flush table local root fd00:96::/112"]
    {
        let family = if route.contains("fd00") { "-6 " } else { "" };
        cluster.node.set(&format!("{family}route {route}"));
    }
    for vip in [VIP, VIP6] {
        cluster.eventually_answers(&cluster.client, vip, &ALL_NAMES);
    }
    // The next proxy starts before this one has ended, and takes its route over.
    let next = "127.0.0.1:7412";
    let feed = cluster.folder.path().to_str().unwrap();
    let args = ["proxy", "--feed", feed, "--service-cidr", RANGES];
    let successor = cluster.node.run(|| Switchyard::ready(next.parse().unwrap(), &args));
    assert!(cluster.stop());
    cluster.proxy = Some(successor);
    for vip in [VIP, VIP6] {
        cluster.eventually_answers(&cluster.client, vip, &ALL_NAMES);
    }
    assert!(cluster.stop());
    let routes = cluster.node.show("route show table local");
    assert!(!routes.contains("10.96."), "{routes}");
}

#[test]
#[ignore = "needs root"]
fn a_service_range_keeps_its_route_while_any_proxy_with_it_lives() {
    let mut cluster = Cluster::start(&manifest("", &ALL), &[]);
    let feed = cluster.folder.path().to_str().unwrap().to_owned();
    let args = ["proxy", "--feed", &feed, "--service-cidr", RANGES];
    let routes = |node: &Host| {
        let routes = node.show("route show table local");
        routes.matches("local 10.96.0.0/16").count()
    };
    // Nobody has an address of the ranges in between, so that a connect finds a route or fails.
    let reachable = || {
        let dial = |any: &str, addr: &str| UdpSocket::bind(any).unwrap().connect(addr).is_ok();
        dial("0.0.0.0:0", "10.96.9.9:9") && dial("[::]:0", "[fd00:96::9]:9")
    };
    for (admin, gone) in [("127.0.0.1:7412", "127.0.0.1:7411"), (ADMIN, "127.0.0.1:7412")] {
        let next = cluster.node.run(|| Switchyard::ready(admin.parse().unwrap(), &args));
        assert_eq!(routes(&cluster.node), 2, "{gone} goes");
        let ended = AtomicBool::new(false);
        let stays = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                cluster.node.run(|| {
                    let mut stays = true;
                    while stays && !ended.load(Ordering::Relaxed) {
                        stays = reachable();
                    }
                    stays
                })
            });
            let proxy = cluster.proxy.as_ref().unwrap();
            proxy.signal(Signal::SIGTERM);
            eventually("its route is gone", || (routes(&cluster.node) == 1).then_some(()));
            ended.store(true, Ordering::Relaxed);
            watch.join().unwrap()
        });
        assert!(stays, "no route when {gone} goes");
        assert!(cluster.proxy.replace(next).unwrap().wait().success());
    }
    assert!(cluster.stop());
    assert_eq!(routes(&cluster.node), 0);
}

/// Starts a proxy on the node that is to refuse its flags; what it says.
fn refused_start(cluster: &Cluster, range: &str) -> (Option<i32>, String) {
    let output = cluster.node.run(|| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.args(["proxy", "--service-cidr", range, "--feed"]).arg(cluster.folder.path());
        command.stdin(Stdio::null()).output().unwrap()
    });
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said.into_owned())
}

#[test]
#[ignore = "needs root"]
fn a_service_range_that_covers_a_connected_network_is_refused() {
    let mut cluster = Cluster::new(&manifest("", &ALL));
    let _pod = cluster.node.pod(21);
    for (range, expected) in [
        ("10.25.0.0/16", "covers 10.25.0.0/24, the network of interface pods"),
        ("10.96.0.0/16,10.77.0.0/24", "covers 10.77.0.0/24, the network of interface eth0"),
        ("10.77.0.0/28", "contains 10.77.0.1, the address of interface eth0"),
        ("fd77::/48", "covers fd77::/64, the network of interface eth0"),
    ] {
        let (code, said) = refused_start(&cluster, range);
        assert_eq!(code, Some(2), "{range}: {said}");
        assert!(said.contains(expected), "{range}: {said}");
    }
    // A network that comes later.
    cluster.run_proxy(&[]);
    assert_eq!(cluster.status()["proxy"]["problemCount"], 0);
    cluster.node.set("link add late type bridge");
    cluster.node.set("addr add 10.96.7.1/24 dev late");
    eventually("it is a problem", || {
        let problems = cluster.status()["proxy"]["problems"].to_string();
        problems.contains("covers 10.96.7.0/24, the network of interface late").then_some(())
    });
}

#[test]
#[ignore = "needs root"]
fn an_endpoint_inside_the_service_range_is_a_problem() {
    let inside = manifest("", &ALL).replace("'10.77.0.12'", "'10.96.9.9'");
    let cluster = Cluster::start(&inside, &[]);
    let problems = cluster.status()["proxy"]["problems"].to_string();
    for protocol in ["TCP", "UDP"] {
        assert!(problems.contains(&format!("endpoint 10.96.9.9:8080/{protocol}")), "{problems}");
    }
    assert!(problems.contains("inside --service-cidr 10.96.0.0/16"), "{problems}");
    let mut explain = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    explain.args(["explain", VIP, "--service-cidr", RANGES, "--feed"]).arg(cluster.folder.path());
    let output = explain.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("10.96.9.9:8080") && said.contains("--service-cidr"), "{said}");
    // Another pod takes the clients meanwhile.
    cluster.eventually_answers(&cluster.client, VIP, &["pod11", "pod13"]);
    cluster.edit(&manifest("", &ALL));
    eventually("nothing is wrong", || {
        (cluster.status()["proxy"]["problemCount"] == 0).then_some(())
    });
}

#[test]
#[ignore = "needs root"]
fn without_ipv6_a_service_range_is_served_over_ipv4() {
    let mut cluster = Cluster::new(&manifest("", &ALL));
    cluster.node.run(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    });
    cluster.run_proxy(&[]);
    check_round_robin(&cluster.client, VIP);
    let problems = cluster.status()["proxy"]["problems"].to_string();
    assert!(problems.contains("--service-cidr fd00:96::/112"), "{problems}");
    assert!(problems.contains("IPv6 is disabled on this host"), "{problems}");
    assert!(!problems.contains("CAP_NET_ADMIN"), "{problems}");
    assert!(!problems.contains("10.96.0.1"), "{problems}");
    assert!(cluster.stop());
}

#[test]
#[ignore = "needs root"]
fn a_service_range_needs_a_capability() {
    let (lab, folder) = (Lab::new(), Folder::new());
    let node = lab.host(1);
    folder.replace("web.yaml", &manifest("", &ALL));
    let copy = folder.file("switchyard");
    std::fs::copy(env!("CARGO_BIN_EXE_switchyard"), &copy).unwrap();
    let open =
        |path| std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755));
    open(folder.path()).unwrap();
    let run = || {
        let mut command = Command::new(&copy);
        command.args(["proxy", "--service-cidr", "10.96.0.0/16", "--feed"]).arg(folder.path());
        // The user nobody has no capability.
        command.uid(65_534).gid(65_534).stdin(Stdio::null()).output()
    };
    // A child of another test may still hold the copy open for writing.
    let busy = std::io::ErrorKind::ExecutableFileBusy;
    let output = eventually("it can be run", || match node.run(run) {
        Err(error) if error.kind() == busy => None,
        output => Some(output.unwrap()),
    });
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--service-cidr") && said.contains("CAP_NET_ADMIN"), "{said}");
}

#[test]
#[ignore = "needs root"]
fn node_ports_answer_on_the_node_and_on_loopback() {
    let spec = manifest(NODE_PORT, &ALL);
    let node_ips = ["--node-ip", "10.77.0.1,fd77::1"];
    for args in [&node_ips[..], &[]] {
        let cluster = Cluster::start(&spec, args);
        for addr in ["10.77.0.1:30080", "[fd77::1]:30080"] {
            check_round_robin(&cluster.client, addr);
            check_round_robin(&cluster.node, addr);
        }
        for addr in ["127.0.0.1:30080", "[::1]:30080"] {
            check_round_robin(&cluster.node, addr);
        }
        assert_eq!(cluster.status()["proxy"]["problemCount"], 0);
    }
}

#[test]
#[ignore = "needs root"]
fn a_node_port_that_is_taken_on_one_address_is_served_on_the_others() {
    let mut cluster = Cluster::new(&manifest(NODE_PORT, &ALL));
    let taken = cluster.node.run(|| {
        let tcp = std::net::TcpListener::bind("10.77.0.1:30080").unwrap();
        (tcp, UdpSocket::bind("[fd77::1]:30080").unwrap())
    });
    cluster.run_proxy(&[]);
    cluster.eventually_answers(&cluster.node, "127.0.0.1:30080", &ALL_NAMES);
    for from in [&cluster.client, &cluster.node] {
        cluster.eventually_answers(from, "[fd77::1]:30080", &ALL_NAMES);
        let udp = from.udp("10.77.0.1:30080".parse().unwrap());
        eventually("an answer", || udp_ask(&udp).ok());
    }
    let status = cluster.status();
    let problems = status["proxy"]["problems"].to_string();
    assert_eq!(status["proxy"]["problemCount"], 2, "{problems}");
    assert!(problems.contains("10.77.0.1:30080 is taken by another process"), "{problems}");
    assert!(problems.contains("[fd77::1]:30080 is taken by another process"), "{problems}");
    assert!(problems.contains("the other addresses of the node are served"), "{problems}");
    // Also after it was tried again.
    let tries = |cluster: &Cluster| {
        let metrics = cluster.node.run(|| cluster.proxy.as_ref().unwrap().admin_get("/metrics").1);
        let lines = metrics.lines().filter(|line| line.contains("bind_failures_total{"));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum::<u64>()
    };
    let before = tries(&cluster);
    eventually("it is tried again", || (tries(&cluster) >= before + 4).then_some(()));
    assert_eq!(cluster.status()["proxy"]["problemCount"], 2);
    // Free again, it is served soon.
    drop(taken);
    cluster.eventually_answers(&cluster.client, "10.77.0.1:30080", &ALL_NAMES);
    eventually("nothing is wrong", || {
        (cluster.status()["proxy"]["problemCount"] == 0).then_some(())
    });
}

#[test]
#[ignore = "needs root"]
fn a_client_outside_keeps_its_endpoint_on_cluster_ip_and_node_port() {
    let sticky = "  sessionAffinity: ClientIP\n";
    let cluster = Cluster::start(&manifest(&format!("{NODE_PORT}{sticky}"), &ALL), &[]);
    let client = &cluster.client;
    let first = client.ask(VIP.parse().unwrap()).unwrap();
    for addr in [VIP, "10.77.0.1:30080"] {
        for _ in 0..15 {
            assert_eq!(client.ask(addr.parse().unwrap()).unwrap(), first, "{addr}");
        }
    }
    let node = &cluster.node;
    let on_node = node.ask("127.0.0.1:30080".parse().unwrap()).unwrap();
    for _ in 0..15 {
        assert_eq!(node.ask("127.0.0.1:30080".parse().unwrap()).unwrap(), on_node);
    }
    let rest: Vec<_> = ALL.into_iter().filter(|(last, _)| format!("pod{last}") != first).collect();
    cluster.edit(&manifest(&format!("{NODE_PORT}{sticky}"), &rest));
    let second = eventually("it moves", || {
        Some(client.ask(VIP.parse().unwrap()).unwrap()).filter(|name| *name != first)
    });
    assert_eq!(client.ask("10.77.0.1:30080".parse().unwrap()).unwrap(), second);
    cluster.edit(&manifest(NODE_PORT, &ALL));
    cluster.eventually_answers(client, VIP, &ALL_NAMES);
}

/// A load balancer's Service with the external policy `Local`.
const BALANCED: &str = "  type: LoadBalancer\n  externalTrafficPolicy: Local\n  \
     healthCheckNodePort: 32000\n  loadBalancerSourceRanges: [10.77.0.100/32]\n  \
     externalIPs: [203.0.113.6]\n\
     status: { loadBalancer: { ingress: [{ ip: 203.0.113.1 }] } }\n";

#[test]
#[ignore = "needs root"]
fn a_client_outside_reaches_endpoints_of_the_node_that_it_dials() {
    let cluster = Cluster::start(&manifest(BALANCED, &ALL), &["--node-name", "a"]);
    let second = cluster.lab.host(2);
    let _proxy = run_proxy(&second, &cluster.folder, &["--node-name", "b"]);
    let client = &cluster.client;
    let health = |node: &Host| {
        let addr = SocketAddr::new(node.ip(), 32000);
        let (status, body) = client.run(|| http_get(addr, "lb", "/healthz").unwrap());
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        (status, body["localEndpoints"].as_u64().unwrap())
    };
    cluster.eventually_answers(client, "10.77.0.1:30080", &["pod11"]);
    cluster.eventually_answers(client, "[fd77::1]:30080", &["pod11"]);
    cluster.eventually_answers(client, "203.0.113.1:80", &["pod11"]);
    cluster.eventually_answers(client, "10.77.0.2:30080", &["pod12", "pod13"]);
    assert_eq!((health(&cluster.node), health(&second)), ((200, 1), (200, 2)));
    // The policy does not apply to ClusterIPs.
    check_round_robin(client, VIP);
    cluster.edit(&manifest(BALANCED, &ALL[1..]));
    cluster.eventually_denies(client, "10.77.0.1:30080");
    cluster.eventually_denies(client, "203.0.113.1:80");
    assert_eq!((health(&cluster.node), health(&second)), ((503, 0), (200, 2)));
    cluster.eventually_answers(client, VIP, &["pod12", "pod13"]);
    cluster.edit(&manifest(&BALANCED.replace("Local", "Cluster"), &ALL));
    cluster.eventually_answers(client, "10.77.0.1:30080", &ALL_NAMES);
    // The health check changes shortly after the frontends.
    cluster.eventually_refuses(client, "10.77.0.1:32000");
}

#[test]
#[ignore = "needs root"]
fn external_policy_local_applies_to_clients_outside_the_cluster_only() {
    let open = BALANCED.replace("  loadBalancerSourceRanges: [10.77.0.100/32]\n", "");
    let remote = &ALL[1..];
    let mut cluster = Cluster::start(&manifest(&open, remote), &["--node-name", "a"]);
    // Its bridge comes while the proxy runs.
    let pod = cluster.node.pod(21);
    let external = ["203.0.113.1:80", "203.0.113.6:80", "10.77.0.1:30080"];
    for addr in external.into_iter().chain(["10.25.0.1:30080"]) {
        cluster.eventually_answers(&pod, addr, &["pod12", "pod13"]);
    }
    for addr in external.into_iter().chain(["127.0.0.1:30080", "[::1]:30080", "[fd77::1]:30080"]) {
        cluster.eventually_answers(&cluster.node, addr, &["pod12", "pod13"]);
    }
    for (from, addr) in [(&pod, "203.0.113.1:80"), (&cluster.node, "127.0.0.1:30080")] {
        let socket = from.udp(addr.parse().unwrap());
        assert_ne!(eventually("an answer", || udp_ask(&socket).ok()), "pod11");
    }
    for addr in external {
        assert!(cluster.client.ask(addr.parse().unwrap()).is_err(), "{addr}");
        assert!(udp_ask(&cluster.client.udp(addr.parse().unwrap())).is_err(), "{addr}");
    }
    // Clients inside and outside use different endpoints, if both have some.
    cluster.edit(&manifest(&open, &ALL));
    for addr in external {
        cluster.eventually_answers(&cluster.client, addr, &["pod11"]);
        cluster.eventually_answers(&cluster.client, addr, &["pod11"; 3]);
        cluster.eventually_answers(&pod, addr, &ALL_NAMES);
        cluster.eventually_answers(&cluster.node, addr, &ALL_NAMES);
    }
    // With --cluster-cidr, bridges are not used.
    assert!(cluster.stop());
    cluster.edit(&manifest(&open, remote));
    cluster.run_proxy(&["--node-name", "a", "--cluster-cidr", "10.77.0.100/32"]);
    cluster.eventually_answers(&cluster.client, "203.0.113.1:80", &["pod12", "pod13"]);
    assert!(pod.ask("203.0.113.1:80".parse().unwrap()).is_err());
}

#[test]
#[ignore = "needs root"]
fn source_ranges_hold_at_every_external_ip() {
    let cluster = Cluster::start(&manifest(BALANCED, &ALL), &["--node-name", "a"]);
    let stranger = cluster.lab.host(101);
    for range in ["10.96.0.0/16", "203.0.113.0/24"] {
        stranger.set(&format!("route add {range} via 10.77.0.1"));
    }
    for external in ["203.0.113.1:80", "203.0.113.6:80"] {
        let addr: SocketAddr = external.parse().unwrap();
        assert_eq!(cluster.client.ask(addr).unwrap(), "pod11", "{addr}");
        assert!(stranger.ask(addr).is_err(), "{addr}");
        assert!(udp_ask(&stranger.udp(addr)).is_err(), "{addr}");
        // The node connects to that address from the same address: this is allowed if the node is.
        assert!(cluster.node.ask(addr).is_err(), "{addr}");
    }
    cluster.eventually_answers(&stranger, "10.77.0.1:30080", &["pod11"]);
    cluster.eventually_answers(&stranger, VIP, &ALL_NAMES);
    let with_node = BALANCED.replace("10.77.0.100/32", "10.77.0.0/24");
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: { name: a }\n\
        status: { addresses: [{ type: InternalIP, address: 10.77.0.1 }] }\n";
    cluster.edit(&(manifest(&with_node, &ALL) + node));
    for external in ["203.0.113.1:80", "203.0.113.6:80"] {
        cluster.eventually_answers(&cluster.node, external, &ALL_NAMES);
        cluster.eventually_answers(&stranger, external, &["pod11"]);
    }
}

#[test]
#[ignore = "needs root"]
fn a_udp_client_with_one_port_recovers_promptly() {
    let cluster = Cluster::start(&manifest("", &[]), &[]);
    let socket = cluster.client.udp(VIP.parse().unwrap());
    // Traffic begins before there is any endpoint.
    assert!((0..3).all(|_| udp_ask(&socket).is_err()));
    let mut serving = "";
    for (last, name) in [(11, "pod11"), (12, "pod12"), (13, "pod13"), (11, "pod11")] {
        if serving == "pod12" {
            // Its endpoint disappears silently before it is replaced.
            cluster.lab.unplug(&cluster.pods[1].1);
        }
        cluster.edit(&manifest("", &[(last, "a")]));
        let generation = eventually("the change is served", || {
            let endpoints = format!("10.77.0.{last}:8080");
            let page =
                cluster.node.run(|| cluster.proxy.as_ref().unwrap().admin_get("/snapshot").1);
            page.contains(&endpoints).then(Instant::now)
        });
        let answered = eventually("an answer", || {
            udp_ask(&socket).ok().filter(|answer| answer == name).map(|_| Instant::now())
        });
        // An idle flow would be kept for a minute.
        assert!(answered - generation < PROMPTLY, "{serving} -> {name}");
        serving = name;
    }
    // The Service is deleted, and the flow ends with it.
    std::fs::remove_file(cluster.folder.file("web.yaml")).unwrap();
    eventually("the Service is gone", || {
        (cluster.status()["proxy"]["frontends"] == 0).then_some(())
    });
    let gone = Instant::now();
    eventually("the session is gone", || {
        (cluster.status()["proxy"]["udpSessions"] == 0).then_some(())
    });
    assert!(gone.elapsed() < PROMPTLY);
    // An answer that was in flight may still arrive.
    eventually("silence", || udp_ask(&socket).is_err().then_some(()));
    assert!((0..3).all(|_| udp_ask(&socket).is_err()));
    cluster.edit(&manifest("", &[(13, "a")]));
    let answer = eventually("an answer", || udp_ask(&socket).ok());
    assert_eq!(answer, "pod13");
}

#[test]
#[ignore = "needs root"]
fn near_endpoints_serve_while_there_are_any() {
    let spread = "  trafficDistribution: PreferSameNode\n";
    let cluster = Cluster::start(&manifest(spread, &ALL), &["--node-name", "b"]);
    cluster.eventually_answers(&cluster.client, VIP, &["pod12", "pod13"]);
    cluster.edit(&manifest(spread, &ALL[..1]));
    cluster.eventually_answers(&cluster.client, VIP, &["pod11"]);
    let local = "  internalTrafficPolicy: Local\n";
    cluster.edit(&manifest(local, &ALL));
    cluster.eventually_answers(&cluster.client, VIP6, &["pod12", "pod13"]);
    cluster.edit(&manifest(local, &ALL[..1]));
    cluster.eventually_refuses(&cluster.client, VIP);
    let page = || cluster.node.run(|| cluster.proxy.as_ref().unwrap().admin_get("/snapshot").1);
    eventually("it says why", || page().contains("no endpoint is on this node").then_some(()));
}

#[test]
#[ignore = "needs root"]
fn no_connect_fails_while_proxies_with_a_service_range_replace_each_other() {
    const CONNECTS: usize = 30;
    let mut cluster = Cluster::start(&manifest(NODE_PORT, &ALL), &[]);
    let feed = cluster.folder.path().to_str().unwrap().to_owned();
    let args = ["proxy", "--feed", &feed, "--workers", "2", "--service-cidr", RANGES];
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let addrs: Vec<SocketAddr> =
        [VIP, VIP6, "10.77.0.1:30080"].map(|addr| addr.parse().unwrap()).to_vec();
    let enough = |more: usize| {
        let wanted = served.load(Ordering::Relaxed) + more;
        eventually("clients are served", || {
            (served.load(Ordering::Relaxed) >= wanted).then_some(())
        });
    };
    let failures = std::thread::scope(|scope| {
        let client = &cluster.client;
        let clients = scope.spawn(|| {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                for addr in &addrs {
                    match client.ask(*addr) {
                        Ok(_) => _ = served.fetch_add(1, Ordering::Relaxed),
                        Err(error) => failures.push(format!("{addr}: {error}")),
                    }
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            failures
        });
        enough(CONNECTS);
        for admin in ["127.0.0.1:7412", ADMIN, "127.0.0.1:7412"] {
            let next = cluster.node.run(|| Switchyard::ready(admin.parse().unwrap(), &args));
            enough(CONNECTS);
            let last = cluster.proxy.replace(next).unwrap();
            last.signal(Signal::SIGTERM);
            assert!(last.wait().success());
            enough(CONNECTS);
            let status = cluster.node.run(|| cluster.proxy.as_ref().unwrap().status());
            assert_eq!(status["proxy"]["problemCount"], 0, "{status}");
        }
        stop.store(true, Ordering::Relaxed);
        clients.join().unwrap()
    });
    assert!(failures.is_empty(), "{} failed: {:?}", failures.len(), failures.first());
    assert!(cluster.stop());
}
