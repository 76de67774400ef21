//! The proxy as a process: `switchyard proxy --feed DIR` over real sockets, with the folder edited
//! while it runs.

mod handover;
mod limits;
mod rolling;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Folder, Net, PATIENCE, PROMPTLY, Switchyard, eventually, http_get};

/// The addresses, the folder and the process of one test. Admin is on `.250`, NodePorts are on
/// `.200`.
struct Fixture {
    // Dropped first: the process ends before its folder is deleted.
    process: Option<Switchyard>,
    net: Net,
    folder: Folder,
}

impl Fixture {
    /// Starts the proxy on two workers for a folder with one file, `web.yaml`.
    fn start(manifest: &str, args: &[&str]) -> Fixture {
        let (net, folder) = (Net::new(), Folder::new());
        folder.replace("web.yaml", &net.fill(manifest));
        let mut fixture = Fixture { net, folder, process: None };
        fixture.run(args);
        fixture
    }

    fn run(&mut self, args: &[&str]) {
        let feed = self.folder.path().to_str().unwrap().to_owned();
        self.follow(&feed, args);
    }

    fn follow(&mut self, feed: &str, args: &[&str]) {
        let node_ip = self.net.ip(200).to_string();
        let mut all = vec!["proxy", "--feed", feed, "--workers", "2", "--node-ip", &node_ip];
        all.extend(args);
        self.process = Some(Switchyard::ready(self.net.addr(250, 7411), &all));
    }

    fn edit(&self, manifest: &str) {
        self.folder.replace("web.yaml", &self.net.fill(manifest));
    }

    fn process(&self) -> &Switchyard {
        self.process.as_ref().unwrap()
    }

    fn addr(&self, last: u8, port: u16) -> SocketAddr {
        self.net.addr(last, port)
    }

    /// Endpoints on this port of these addresses.
    fn talkers(&self, port: u16, lasts: &[u8]) {
        for last in lasts {
            talker(self.addr(*last, port), *last);
        }
    }

    /// Waits until `addr` answers with each of these names, and with no other.
    fn eventually_answers(&self, addr: SocketAddr, names: &[u8]) {
        eventually(&format!("{addr} is served by {names:?}"), || {
            let mut seen: Vec<u8> = names.iter().map_while(|_| ask(addr).ok()).collect();
            seen.sort_unstable();
            (seen == names).then_some(())
        });
    }

    fn eventually_refuses(&self, addr: SocketAddr) {
        eventually(&format!("{addr} refuses"), || is_refused(addr).then_some(()));
    }
}

/// A Service with these lines for its spec, and a slice of TCP and UDP port 8080 by these
/// endpoints.
fn manifest(spec: &str, endpoints: &[u8]) -> String {
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: web, namespace: demo }}\nspec:\n{spec}\n"
    );
    service
        + &slice("web-1", "{ name: t, port: 8080 }, { name: u, port: 8080, protocol: UDP }", {
            endpoints
        })
}

fn slice(name: &str, ports: &str, endpoints: &[u8]) -> String {
    let endpoints: Vec<String> =
        endpoints.iter().map(|last| format!("{{ addresses: [127.N.N.{last}] }}")).collect();
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  \
         namespace: demo\n  labels: {{ kubernetes.io/service-name: web }}\naddressType: IPv4\n\
         ports: [{ports}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

const CLUSTER_IP: &str = "  clusterIP: 127.N.N.1\n  ports:\n\
    \x20 - { name: t, port: 80 }\n\
    \x20 - { name: u, port: 80, protocol: UDP }";
const NODE_PORT: &str = "  type: NodePort\n  clusterIP: 127.N.N.1\n  ports:\n\
    \x20 - { name: t, port: 80, nodePort: 30080 }\n\
    \x20 - { name: u, port: 80, protocol: UDP, nodePort: 30080 }";

/// An endpoint that answers each byte with its name, until its client closes its sending side.
fn talker(addr: SocketAddr, name: u8) {
    let listener = TcpListener::bind(addr).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&[name]).is_ok() {}
            });
        }
    });
}

fn udp_talker(addr: SocketAddr, name: u8) {
    let socket = UdpSocket::bind(addr).unwrap();
    std::thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 9]) {
            let _ = socket.send_to(&[name], from);
        }
    });
}

fn dial(addr: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn exchange(client: &mut TcpStream) -> std::io::Result<u8> {
    let mut byte = [0];
    client.write_all(&byte)?;
    client.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// The name of the endpoint that a new connection reaches.
fn ask(addr: SocketAddr) -> std::io::Result<u8> {
    exchange(&mut dial(addr)?)
}

fn is_refused(addr: SocketAddr) -> bool {
    ask(addr).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// A client socket connected to `addr`: it receives replies only from there.
fn udp_client(addr: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(addr).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

/// One try: the name of the endpoint that answered.
fn udp_ask(client: &UdpSocket) -> std::io::Result<u8> {
    let mut name = [0];
    client.send(b"?")?;
    client.recv(&mut name)?;
    Ok(name[0])
}

#[test]
fn three_endpoints_get_a_hundred_of_three_hundred_connections_each() {
    let fixture = Fixture::start(&manifest(NODE_PORT, &[11, 12, 13]), &[]);
    fixture.talkers(8080, &[11, 12, 13]);
    for addr in [fixture.addr(1, 80), fixture.addr(200, 30080)] {
        let mut counts = [0; 3];
        for _ in 0..300 {
            counts[ask(addr).unwrap() as usize - 11] += 1;
        }
        assert_eq!(counts, [100; 3], "{addr}");
    }
    let metrics = fixture.process().admin_get("/metrics").1;
    let line = "switchyard_proxy_connections_total{namespace=\"demo\",service=\"web\"} 600\n";
    assert!(metrics.contains(line), "{metrics}");
    assert!(metrics.contains("switchyard_programming_seconds_count 1\n"), "{metrics}");
    assert!(metrics.contains("switchyard_proxy_frontends{state=\"listening\"} 4\n"), "{metrics}");
}

#[test]
fn udp_goes_round_robin_by_client() {
    let fixture = Fixture::start(&manifest(NODE_PORT, &[11, 12]), &[]);
    for last in [11, 12] {
        udp_talker(fixture.addr(last, 8080), last);
    }
    for addr in [fixture.addr(1, 80), fixture.addr(200, 30080)] {
        let mut counts = [0; 2];
        // All stay open: a client with the port of an earlier one would get its session.
        let clients: Vec<_> = (0..20).map(|_| udp_client(addr)).collect();
        for client in &clients {
            let name = eventually("an answer", || udp_ask(client).ok());
            assert_eq!(eventually("another answer", || udp_ask(client).ok()), name);
            counts[name as usize - 11] += 1;
        }
        assert_eq!(counts, [10, 10], "{addr}");
    }
}

#[test]
fn named_target_ports_mean_what_each_slice_says() {
    let spec = "  clusterIP: 127.N.N.1\n  ports:\n\
        \x20 - { name: http, port: 80, targetPort: web }\n\
        \x20 - { name: metrics, port: 9100, targetPort: 9100 }";
    let service = manifest(spec, &[]).split("---").next().unwrap().to_owned();
    let ports = |http| format!("{{ name: http, port: {http} }}, {{ name: metrics, port: 9100 }}");
    let slices = slice("web-1", &ports(8080), &[11]) + &slice("web-2", &ports(9090), &[12]);
    let fixture = Fixture::start(&(service + &slices), &[]);
    fixture.talkers(8080, &[11]);
    fixture.talkers(9090, &[12]);
    fixture.talkers(9100, &[11, 12]);
    fixture.eventually_answers(fixture.addr(1, 80), &[11, 12]);
    fixture.eventually_answers(fixture.addr(1, 9100), &[11, 12]);
}

#[test]
fn endpoints_come_and_go_while_it_runs() {
    let fixture = Fixture::start(&manifest(NODE_PORT, &[]), &[]);
    fixture.talkers(8080, &[11, 12]);
    let (vip, node) = (fixture.addr(1, 80), fixture.addr(200, 30080));
    assert!(is_refused(vip) && is_refused(node));
    for names in [&[11][..], &[11, 12], &[12], &[], &[11, 12]] {
        fixture.edit(&manifest(NODE_PORT, names));
        for addr in [vip, node] {
            match names {
                [] => fixture.eventually_refuses(addr),
                _ => fixture.eventually_answers(addr, names),
            }
        }
    }
    // The page shows the frontends that are served.
    let frontends = eventually("/snapshot shows them", || {
        let page = fixture.process().admin_get("/snapshot").1;
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        let frontends = page["frontends"].as_array().unwrap().clone();
        frontends.iter().all(|f| f["state"] == "listening").then_some(frontends)
    });
    assert_eq!(frontends.len(), 4);
    assert!(frontends.iter().all(|f| f["service"] == "web"));
    assert_eq!(frontends[0]["endpoints"].as_array().unwrap().len(), 2);
}

#[test]
fn unready_endpoints_refuse_unless_published() {
    let unready = |published| {
        let spec = format!("{CLUSTER_IP}\n  publishNotReadyAddresses: {published}");
        manifest(&spec, &[11])
            .replace("127.N.N.11] }", "127.N.N.11], conditions: { ready: false } }")
    };
    let fixture = Fixture::start(&unready(false), &[]);
    fixture.talkers(8080, &[11]);
    assert!(is_refused(fixture.addr(1, 80)));
    fixture.edit(&unready(true));
    fixture.eventually_answers(fixture.addr(1, 80), &[11]);
}

#[test]
fn ports_are_added_and_removed() {
    let spec = |more| format!("  clusterIP: 127.N.N.1\n  ports: [{{ name: t, port: 80 }}{more}]");
    let with_udp = spec(", { name: u, port: 80, protocol: UDP }");
    let fixture = Fixture::start(&manifest(&spec(""), &[11]), &[]);
    fixture.talkers(8080, &[11]);
    udp_talker(fixture.addr(11, 8080), 11);
    let vip = fixture.addr(1, 80);
    let udp_refused = || {
        let refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
        udp_ask(&udp_client(vip)).is_err_and(refused)
    };
    assert_eq!(ask(vip).unwrap(), 11);
    assert!(udp_refused());
    fixture.edit(&manifest(&with_udp, &[11]));
    eventually("UDP is served", || udp_ask(&udp_client(vip)).ok());
    assert_eq!(ask(vip).unwrap(), 11);
    fixture.edit(&manifest(&spec(""), &[11]));
    eventually("UDP is refused", || udp_refused().then_some(()));
    assert_eq!(ask(vip).unwrap(), 11);
    fixture.edit(&manifest(&with_udp.replace("{ name: t, port: 80 }, ", ""), &[11]));
    fixture.eventually_refuses(vip);
    eventually("UDP is served again", || udp_ask(&udp_client(vip)).ok());
}

#[test]
fn a_service_changes_its_type_goes_and_comes_back() {
    let fixture = Fixture::start(&manifest(NODE_PORT, &[11]), &[]);
    fixture.talkers(8080, &[11, 21]);
    let (vip, node) = (fixture.addr(1, 80), fixture.addr(200, 30080));
    let other = fixture.net.fill(
        &manifest("  clusterIP: 127.N.N.2\n  ports: [{ name: t, port: 80 }]", &[21])
            .replace("web", "other"),
    );
    fixture.folder.replace("other.yaml", &other);
    let other = fixture.addr(2, 80);
    fixture.eventually_answers(other, &[21]);
    fixture.eventually_answers(node, &[11]);
    fixture.edit(&manifest("  type: ExternalName\n  externalName: db.example", &[11]));
    fixture.eventually_refuses(vip);
    fixture.eventually_refuses(node);
    fixture.edit(&manifest(CLUSTER_IP, &[11]));
    fixture.eventually_answers(vip, &[11]);
    assert!(is_refused(node));
    fixture.edit(&manifest(NODE_PORT, &[11]));
    fixture.eventually_answers(node, &[11]);
    let foreign = manifest(CLUSTER_IP, &[11]).replace(
        "{ name: web, namespace: demo }",
        "{ name: web, namespace: demo, labels: { service.kubernetes.io/service-proxy-name: x } }",
    );
    fixture.edit(&foreign);
    fixture.eventually_refuses(vip);
    fixture.edit(&manifest(NODE_PORT, &[11]));
    fixture.eventually_answers(vip, &[11]);
    std::fs::remove_file(fixture.folder.file("web.yaml")).unwrap();
    fixture.eventually_refuses(vip);
    fixture.eventually_refuses(node);
    // Both ports can be bound again.
    eventually("both ports are free", || {
        Some((TcpListener::bind(vip).ok()?, UdpSocket::bind(vip).ok()?))
    });
    assert_eq!(ask(other).unwrap(), 21);
    fixture.edit(&manifest(NODE_PORT, &[11]));
    fixture.eventually_answers(vip, &[11]);
    assert_eq!(ask(other).unwrap(), 21);
}

#[test]
fn ends_and_resets_are_passed_on() {
    let fixture = Fixture::start(&manifest(CLUSTER_IP, &[11]), &[]);
    let listener = TcpListener::bind(fixture.addr(11, 8080)).unwrap();
    let vip = fixture.addr(1, 80);

    let mut client = dial(vip).unwrap();
    client.write_all(b"request").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (mut endpoint, _) = listener.accept().unwrap();
    let mut request = String::new();
    endpoint.read_to_string(&mut request).unwrap();
    assert_eq!(request, "request");
    endpoint.write_all(b"answer").unwrap();
    drop(endpoint);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");

    let reset = |stream: TcpStream| {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    };
    let is_reset = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read(&mut [0; 9]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    };
    let client = dial(vip).unwrap();
    reset(listener.accept().unwrap().0);
    assert!(is_reset(client));
    let client = dial(vip).unwrap();
    let (endpoint, _) = listener.accept().unwrap();
    reset(client);
    assert!(is_reset(endpoint));
}

#[test]
fn a_dead_endpoint_costs_no_client_anything() {
    let fixture = Fixture::start(&manifest(CLUSTER_IP, &[10, 11, 12]), &[]);
    fixture.talkers(8080, &[11, 12]);
    let names: Vec<u8> = (0..60).map(|_| ask(fixture.addr(1, 80)).unwrap()).collect();
    assert!(names.contains(&11) && names.contains(&12), "{names:?}");
}

#[test]
fn a_taken_port_is_reported_for_its_service_and_tried_again() {
    let net = Net::new();
    let taken = TcpListener::bind(net.addr(1, 80)).unwrap();
    let folder = Folder::new();
    folder.replace("web.yaml", &net.fill(&manifest(NODE_PORT, &[11])));
    let mut fixture = Fixture { net, folder, process: None };
    fixture.talkers(8080, &[11]);
    fixture.run(&[]);
    let problems = || fixture.process().status()["proxy"]["problems"].clone();
    let problem = &problems()[0];
    assert_eq!(problem["service"], "demo/web");
    assert_eq!(problem["what"], format!("{}/TCP", fixture.addr(1, 80)));
    assert!(problem["problem"].as_str().unwrap().ends_with("is taken by another process"));
    fixture.eventually_answers(fixture.addr(200, 30080), &[11]);
    drop(taken);
    fixture.eventually_answers(fixture.addr(1, 80), &[11]);
    eventually("nothing is reported", || problems().as_array().unwrap().is_empty().then_some(()));
}

#[test]
fn endpoints_are_replaced_under_load_without_a_failed_connection() {
    const CLIENTS: usize = 4;
    const REPLACEMENTS: usize = 40;
    let fixture = Fixture::start(&manifest(CLUSTER_IP, &[11, 12, 13]), &[]);
    fixture.talkers(8080, &[11, 12, 13, 14, 15]);
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let vip = fixture.addr(1, 80);
    let clients: Vec<JoinHandle<()>> = (0..CLIENTS)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = dial(vip).unwrap();
                    for _ in 0..3 {
                        exchange(&mut client).unwrap();
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for turn in 1..=REPLACEMENTS {
        let lasts: Vec<u8> = (0..3).map(|place| 11 + ((turn + place) % 5) as u8).collect();
        fixture.edit(&manifest(CLUSTER_IP, &lasts));
        let wanted: Vec<_> =
            lasts.iter().map(|last| fixture.addr(*last, 8080).to_string()).collect();
        eventually("the replacement is served", || {
            let page = fixture.process().admin_get("/snapshot").1;
            wanted.iter().all(|addr| page.contains(addr)).then_some(())
        });
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a connection failed");
    }
    assert!(served.load(Ordering::Relaxed) > REPLACEMENTS);
}

#[test]
fn a_drain_under_load_finishes_what_has_begun() {
    const CLIENTS: usize = 4;
    let mut fixture = Fixture::start(&manifest(CLUSTER_IP, &[11, 12]), &[]);
    fixture.talkers(8080, &[11, 12]);
    let vip = fixture.addr(1, 80);
    let mut slow = dial(vip).unwrap();
    exchange(&mut slow).unwrap();
    let begun = Arc::new(AtomicUsize::new(0));
    let clients: Vec<JoinHandle<()>> = (0..CLIENTS)
        .map(|_| {
            let begun = begun.clone();
            // Until the first connection that is not served, which shows that the drain has begun.
            std::thread::spawn(move || {
                while let Ok(mut client) = dial(vip)
                    && exchange(&mut client).is_ok()
                {
                    begun.fetch_add(1, Ordering::Relaxed);
                    for _ in 0..20 {
                        exchange(&mut client).expect("a connection in flight was cut");
                    }
                }
            })
        })
        .collect();
    eventually("the load runs", || (begun.load(Ordering::Relaxed) > 100).then_some(()));
    fixture.process().signal(Signal::SIGTERM);
    for client in clients {
        client.join().unwrap();
    }
    let (status, reasons) = fixture.process().admin_get("/readyz");
    assert_eq!((status, reasons.as_str()), (503, "draining\n"));
    assert!(is_refused(vip));
    exchange(&mut slow).unwrap();
    drop(slow);
    let since = Instant::now();
    assert!(fixture.process.take().unwrap().wait().success());
    assert!(since.elapsed() < PROMPTLY, "{:?}", since.elapsed());
}

#[test]
fn a_drain_serves_what_was_queued_before_it() {
    // More than one task may accept before the runtime runs others.
    const CLIENTS: usize = 300;
    let mut fixture = Fixture::start(&manifest(CLUSTER_IP, &[11]), &[]);
    fixture.talkers(8080, &[11]);
    let process = fixture.process();
    process.signal(Signal::SIGSTOP);
    let clients: Vec<TcpStream> =
        (0..CLIENTS).map(|_| dial(fixture.addr(1, 80)).unwrap()).collect();
    process.signal(Signal::SIGTERM);
    process.signal(Signal::SIGCONT);
    for mut client in clients {
        assert_eq!(exchange(&mut client).unwrap(), 11);
    }
    assert!(fixture.process.take().unwrap().wait().success());
}

#[test]
fn an_endpoint_that_is_a_cluster_ip_is_reported() {
    let fixture = Fixture::start(&manifest(CLUSTER_IP, &[2]).replace("8080", "80"), &[]);
    assert_eq!(fixture.process().status()["proxy"]["problemCount"], 0);
    let other = manifest("  clusterIP: 127.N.N.2\n  ports: [{ name: t, port: 80 }]", &[1]);
    let other = other.replace("8080", "80").replace("web", "other");
    fixture.folder.replace("other.yaml", &fixture.net.fill(&other));
    let problems = eventually("both are reported", || {
        let problems = fixture.process().status()["proxy"]["problems"].as_array().unwrap().clone();
        (problems.len() == 2).then_some(problems)
    });
    assert_eq!(problems[0]["service"], "demo/web");
    assert_eq!(problems[0]["what"], format!("endpoint {}/TCP", fixture.addr(2, 80)));
    let reason = "not used: it is the ClusterIP of Service demo/other, so connections would loop";
    assert_eq!(problems[0]["problem"], reason);
}

#[test]
fn an_endpoint_that_is_a_node_port_is_reported() {
    let spec = NODE_PORT.replace("30080", "30090");
    let fixture = Fixture::start(&manifest(&spec, &[200]).replace("8080", "30090"), &[]);
    let problems = fixture.process().status()["proxy"]["problems"].clone();
    let what = format!("endpoint {}/TCP", fixture.addr(200, 30090));
    let reason = "not used: it is the NodePort of Service demo/web, so connections would loop";
    let of_tcp = |problem: &&serde_json::Value| problem["what"] == what;
    let problem = problems.as_array().unwrap().iter().find(of_tcp).unwrap().clone();
    assert_eq!((&problem["service"], &problem["problem"]), (&"demo/web".into(), &reason.into()));
}

#[test]
fn external_and_load_balancer_ips_come_and_go_with_their_service() {
    let status = "status: { loadBalancer: { ingress: [{ ip: 127.N.N.3 }, { ip: 127.N.N.4, \
                  ipMode: Proxy }] } }\n";
    let spec = |kind: &str| {
        let node_port = if kind == "ClusterIP" { "" } else { ", nodePort: 30080" };
        format!(
            "  type: {kind}\n  clusterIP: 127.N.N.1\n  externalIPs: [127.N.N.2]\n  ports:\n\
             \x20 - {{ name: t, port: 80{node_port} }}\n{status}"
        )
    };
    let fixture = Fixture::start(&manifest(&spec("LoadBalancer"), &[11]), &[]);
    fixture.talkers(8080, &[11]);
    let at = |last| fixture.addr(last, 80);
    for addr in [at(1), at(2), at(3), fixture.addr(200, 30080)] {
        assert_eq!(ask(addr).unwrap(), 11, "{addr}");
    }
    assert!(is_refused(at(4)));
    fixture.edit(&manifest(&spec("ClusterIP"), &[11]));
    fixture.eventually_refuses(at(3));
    fixture.eventually_refuses(fixture.addr(200, 30080));
    fixture.eventually_answers(at(2), &[11]);
    fixture
        .edit(&manifest(&spec("LoadBalancer").replace("  externalIPs: [127.N.N.2]\n", ""), &[11]));
    fixture.eventually_refuses(at(2));
    fixture.eventually_answers(at(3), &[11]);
    // Some programs read it as octal, others as decimal: it is refused, and the last good state
    // stays.
    fixture.edit(&manifest(&spec("LoadBalancer").replace("127.N.N.2", "127.N.N.02"), &[11]));
    let rejected = || fixture.process().status()["feed"].to_string().contains("externalIPs[0]");
    eventually("it is rejected", || rejected().then_some(()));
    assert_eq!(ask(at(3)).unwrap(), 11);
}

#[test]
fn near_follows_the_zones_of_the_nodes() {
    let spec = "  clusterIP: 127.N.N.1\n  trafficDistribution: PreferClose\n  ports:\n\
                \x20 - { name: t, port: 80 }";
    let web = manifest(spec, &[11, 12])
        .replace(".11]", ".11], nodeName: a")
        .replace(".12]", ".12], nodeName: b");
    let fixture = Fixture::start(&web, &["--node-name", "here"]);
    fixture.talkers(8080, &[11, 12]);
    let vip = fixture.addr(1, 80);
    fixture.eventually_answers(vip, &[11, 12]);
    let nodes = |zones: [&str; 3]| {
        let node = |(name, zone): (&str, &str)| {
            format!(
                "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels: \
                 {{ topology.kubernetes.io/zone: {zone} }}\n"
            )
        };
        ["here", "a", "b"].into_iter().zip(zones).map(node).collect::<String>()
    };
    fixture.folder.replace("nodes.yaml", &nodes(["east", "east", "west"]));
    let serves = |name| [ask(vip), ask(vip)].iter().all(|a| a.as_ref().is_ok_and(|a| *a == name));
    eventually("one zone serves", || serves(11).then_some(()));
    fixture.folder.replace("nodes.yaml", &nodes(["west", "east", "west"]));
    eventually("the other serves", || serves(12).then_some(()));
    assert_eq!(fixture.process().status()["proxy"]["nodeZone"], "west");
    // No endpoint is near, so all are used.
    fixture.folder.replace("nodes.yaml", &nodes(["north", "east", "west"]));
    fixture.eventually_answers(vip, &[11, 12]);
}

#[test]
fn a_load_balancer_is_told_of_endpoints_on_this_node() {
    let spec = "  type: LoadBalancer\n  clusterIP: 127.N.N.1\n  externalTrafficPolicy: Local\n  \
                healthCheckNodePort: 32001\n  ports:\n  - { name: t, port: 80, nodePort: 30080 }";
    let on = |node: &str| {
        let endpoint = format!("{{ addresses: [127.N.N.11], nodeName: {node} }}");
        manifest(spec, &[11]).replace("{ addresses: [127.N.N.11] }", &endpoint)
    };
    let fixture = Fixture::start(&on("here"), &["--node-name", "here", "--drain-timeout", "30s"]);
    fixture.talkers(8080, &[11]);
    let check = || http_get(fixture.addr(200, 32001), "lb", "/").ok().map(|(status, _)| status);
    assert_eq!((check(), ask(fixture.addr(200, 30080)).unwrap()), (Some(200), 11));
    fixture.edit(&on("there"));
    eventually("it is told so", || (check() == Some(503)).then_some(()));
    // Clients on the node are within the cluster, where the policy does not apply.
    assert_eq!(ask(fixture.addr(200, 30080)).unwrap(), 11);
    assert_eq!(ask(fixture.addr(1, 80)).unwrap(), 11);
    fixture.edit(&on("here"));
    eventually("it is told so", || (check() == Some(200)).then_some(()));
    // During a drain, the health check fails while connections continue.
    let mut client = dial(fixture.addr(200, 30080)).unwrap();
    assert_eq!(exchange(&mut client).unwrap(), 11);
    fixture.process().signal(Signal::SIGTERM);
    eventually("it is told so", || (check() == Some(503)).then_some(()));
    assert_eq!(exchange(&mut client).unwrap(), 11);
}

#[test]
fn the_drain_timeout_ends_what_does_not_end() {
    let args = ["--drain-timeout", "300ms"];
    let mut fixture = Fixture::start(&manifest(CLUSTER_IP, &[11]), &args);
    fixture.talkers(8080, &[11]);
    let mut removed = dial(fixture.addr(1, 80)).unwrap();
    exchange(&mut removed).unwrap();
    fixture.edit(&manifest(CLUSTER_IP, &[]));
    let ended = removed.read(&mut [0]).unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    fixture.edit(&manifest(CLUSTER_IP, &[11]));
    fixture.eventually_answers(fixture.addr(1, 80), &[11]);
    let mut open = dial(fixture.addr(1, 80)).unwrap();
    exchange(&mut open).unwrap();
    fixture.process().signal(Signal::SIGTERM);
    assert!(fixture.process.take().unwrap().wait().success());
    assert_eq!(open.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_second_signal_resets_what_is_open() {
    let mut fixture = Fixture::start(&manifest(CLUSTER_IP, &[11]), &[]);
    fixture.talkers(8080, &[11]);
    let mut open = dial(fixture.addr(1, 80)).unwrap();
    exchange(&mut open).unwrap();
    fixture.process().signal(Signal::SIGTERM);
    fixture.eventually_refuses(fixture.addr(1, 80));
    exchange(&mut open).unwrap();
    fixture.process().signal(Signal::SIGTERM);
    // An orderly close would make a partial answer look complete.
    assert_eq!(open.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(fixture.process.take().unwrap().wait().code(), Some(1));
}

#[test]
fn a_proxy_that_can_open_no_frontend_is_not_ready_and_says_what_to_do() {
    let (net, folder) = (Net::new(), Folder::new());
    // An address for documentation (RFC 5737), which no host has.
    let foreign = manifest("  clusterIP: 192.0.2.1\n  ports: [{ name: t, port: 80 }]", &[11]);
    folder.replace("web.yaml", &net.fill(&foreign));
    let feed = folder.path().to_str().unwrap();
    let process = Switchyard::start(net.addr(250, 7411), &["proxy", "--feed", feed]);
    let reason = eventually("it says why", || {
        let (status, reasons) = process.admin_get("/readyz");
        (status == 503 && reasons.contains("none of 1 frontends")).then_some(reasons)
    });
    assert!(reason.contains("192.0.2.1:80/TCP of Service demo/web"), "{reason}");
    assert!(reason.contains("--service-cidr"), "{reason}");
    // One open frontend is enough to be ready: the others are reported in `/status`.
    let other = manifest("  clusterIP: 127.N.N.1\n  ports: [{ name: t, port: 80 }]", &[11]);
    folder.replace("other.yaml", &net.fill(&other.replace("web", "other")));
    eventually("it is ready", || (process.admin_get("/readyz").0 == 200).then_some(()));
    assert_eq!(process.status()["proxy"]["problemCount"], 1);
    let metrics = process.admin_get("/metrics").1;
    assert!(metrics.contains("switchyard_proxy_frontends{state=\"failed\"} 1\n"), "{metrics}");
    std::fs::remove_file(folder.file("other.yaml")).unwrap();
    eventually("it is not ready", || (process.admin_get("/readyz").0 == 503).then_some(()));
    // Without a Service the process is ready.
    std::fs::remove_file(folder.file("web.yaml")).unwrap();
    folder.replace("empty.yaml", "");
    eventually("it is ready", || (process.admin_get("/readyz").0 == 200).then_some(()));
}

#[test]
fn what_this_version_has_not_is_a_configuration_error() {
    let folder = Folder::new();
    let feed = folder.path().to_str().unwrap();
    for args in [
        &["--mode", "nftables"][..],
        &["--mode", "ebpf"],
        &["--mode", "none"],
        &["--drain-timeout", "30"],
        &["--connect-timeout", "0s"],
        &["--node-ip", "0.0.0.0"],
    ] {
        let all = [&["proxy", "--feed", feed], args].concat();
        let process = Switchyard::start(Net::new().addr(250, 7411), &all);
        assert_eq!(process.wait().code(), Some(2), "{args:?}");
    }
}
