//! How changes of the folder affect the answers, and what the process reports.

use hickory_proto::rr::RData;
use nix::sys::signal::Signal;

use super::kit::{Dns, ONE_SERVICE, PORT, WEB, exchange, question, receive, show};
use crate::support::{Switchyard, eventually};

fn service(spec: &str) -> String {
    format!(
        "{{ apiVersion: v1, kind: Service, metadata: {{ name: web, namespace: ns }}, \
         spec: {{ {spec}, ports: [{{ name: http, port: 80 }}] }} }}"
    )
}

fn slice(endpoints: &[&str]) -> String {
    let endpoints: Vec<String> =
        endpoints.iter().map(|ip| format!("{{ addresses: [{ip}] }}")).collect();
    format!(
        "{{ apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
         metadata: {{ name: web-1, namespace: ns, \
         labels: {{ kubernetes.io/service-name: web }} }}, \
         ports: [{{ name: http, port: 80 }}], endpoints: [{}] }}",
        endpoints.join(", ")
    )
}

fn serial(dns: &Dns) -> u32 {
    match dns.ask("Z SOA").answers[0].data {
        RData::SOA(ref soa) => soa.serial,
        ref other => panic!("{other}"),
    }
}

/// Waits until a question has this answer.
fn until(dns: &Dns, asked: &str, expected: &[&str]) {
    let mut last = Vec::new();
    eventually(&format!("{asked}: {expected:?}"), || {
        last = dns.show(asked);
        last[1..].sort();
        (last == expected).then_some(())
    });
}

#[test]
fn a_service_becomes_another_and_another() {
    let private = ["--upstream", "none", "--forward", "10.in-addr.arpa=upstream"];
    let dns = Dns::start_with(&service("clusterIP: 10.0.0.1"), &private);
    let nothing = ["NXDomain", "+Z 5 SOA"];
    let mut serials = vec![serial(&dns)];
    until(&dns, WEB, &["NoError", "web.ns.svc.Z 5 A 10.0.0.1"]);
    let mut step = |manifest: &str, asked: &str, expected: &[&str]| {
        dns.folder.replace("objects.yaml", manifest);
        until(&dns, asked, expected);
        serials.push(serial(&dns));
    };
    step(&service("clusterIP: 10.0.0.2"), WEB, &["NoError", "web.ns.svc.Z 5 A 10.0.0.2"]);
    let other = "{ apiVersion: v1, kind: Namespace, metadata: { name: other } }";
    step(other, "2.0.0.10.in-addr.arpa PTR", &["Refused"]);
    step(&service("clusterIP: 10.0.0.2"), WEB, &["NoError", "web.ns.svc.Z 5 A 10.0.0.2"]);
    let external = service("type: ExternalName, externalName: example.com");
    step(&external, WEB, &["NoError", "web.ns.svc.Z 5 CNAME example.com"]);
    step(&service("clusterIP: 10.0.0.3"), WEB, &["NoError", "web.ns.svc.Z 5 A 10.0.0.3"]);
    let headless = service("clusterIP: None");
    step(&headless, WEB, &nothing);
    let with = |endpoints: &[&str]| format!("{headless}\n---\n{}", slice(endpoints));
    step(&with(&["10.1.0.1"]), WEB, &["NoError", "web.ns.svc.Z 5 A 10.1.0.1"]);
    step(
        &with(&["10.1.0.1", "10.1.0.2"]),
        WEB,
        &["NoError", "web.ns.svc.Z 5 A 10.1.0.1", "web.ns.svc.Z 5 A 10.1.0.2"],
    );
    step(&with(&["10.1.0.2"]), "10-1-0-1.web.ns.svc.Z A", &nothing);
    step(&with(&[]), WEB, &nothing);
    assert!(serials.is_sorted_by(|a, b| a < b), "serials grow: {serials:?}");
}

#[test]
fn namespaces_come_and_go() {
    let dns = Dns::start(ONE_SERVICE);
    let (exists, absent) = (["NoError", "+Z 5 SOA"], ["NXDomain", "+Z 5 SOA"]);
    until(&dns, "ns.svc.Z A", &exists);
    until(&dns, "other.svc.Z A", &absent);
    let namespace = "{ apiVersion: v1, kind: Namespace, metadata: { name: other } }";
    dns.folder.replace("namespace.yaml", namespace);
    until(&dns, "other.svc.Z A", &exists);
    std::fs::remove_file(dns.folder.file("namespace.yaml")).unwrap();
    until(&dns, "other.svc.Z A", &absent);
}

#[test]
fn a_broken_file_changes_no_answer() {
    let dns = Dns::start(ONE_SERVICE);
    dns.folder.replace("objects.yaml", "{ apiVersion: v1, kind: Service, metadata: [");
    dns.folder.replace("more.yaml", &ONE_SERVICE.replace("web", "web2").replace("0.1", "0.2"));
    until(&dns, "web2.ns.svc.Z A", &["NoError", "web2.ns.svc.Z 5 A 10.0.0.2"]);
    assert_eq!(dns.show(WEB), ["NoError", "web.ns.svc.Z 5 A 10.0.0.1"]);
}

#[test]
fn what_it_says_of_itself() {
    let dns = Dns::start(ONE_SERVICE);
    let zone = "zone=\"cluster.local.\"";
    let count =
        |labels: &str| dns.metric(&format!("switchyard_dns_queries_total{{{labels},{zone}}}"));
    let before = count(r#"proto="udp",qtype="A",rcode="NOERROR""#);
    dns.show(WEB);
    dns.show("nothing.ns.svc.Z A");
    let mut connection = dns.connect();
    connection.ask(&question("web.ns.svc.Z AAAA"));
    assert_eq!(count(r#"proto="udp",qtype="A",rcode="NOERROR""#), before + 1.0);
    assert_eq!(count(r#"proto="udp",qtype="A",rcode="NXDOMAIN""#), 1.0);
    assert_eq!(count(r#"proto="tcp",qtype="AAAA",rcode="NOERROR""#), 1.0);
    assert_eq!(dns.metric("switchyard_dns_tcp_connections "), 1.0);
    assert!(dns.metric("switchyard_programming_seconds_count") >= 1.0);
    // The apex, ns.dns, dns-version; web, its _tcp and _http._tcp; and its PTR.
    assert_eq!(dns.metric("switchyard_dns_zone_names "), 7.0);

    let status = dns.process.status();
    assert_eq!(status["dns"]["listen"][0], dns.addr.to_string());
    assert_eq!(status["dns"]["upstreams"].as_array().unwrap().len(), 0);
    let snapshot = dns.process.admin_get("/snapshot").1;
    let snapshot: serde_json::Value = serde_json::from_str(&snapshot).unwrap();
    assert_eq!(snapshot["serial"], serial(&dns));
    assert_eq!(snapshot["synced"], true);
    let service = &snapshot["services"][0];
    assert_eq!((&service["namespace"], &service["name"]), (&"ns".into(), &"web".into()));
    assert_eq!(service["addresses"][0], "10.0.0.1");
    assert_eq!(service["ports"][0]["port"], 80);
}

#[test]
fn it_drains_under_load() {
    let dns = Dns::start_with(ONE_SERVICE, &["--upstream", "none", "--workers", "2"]);
    let mut idle = dns.connect();
    idle.ask(&question(WEB));
    let addr = dns.addr;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let asked = std::sync::atomic::AtomicU64::new(0);
    let status = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let client = super::kit::client_of(addr);
                client.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
                let packet = question(WEB).to_vec().unwrap();
                let mut buffer = [0; 512];
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // Once the responder has ended, the kernel refuses packets.
                    if client.send(&packet).is_ok() && client.recv(&mut buffer).is_ok() {
                        asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
        eventually("load", || {
            (asked.load(std::sync::atomic::Ordering::Relaxed) > 1000).then_some(())
        });
        dns.process.signal(Signal::SIGTERM);
        let status = dns.process.wait();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        status
    });
    assert_eq!(status.code(), Some(0));
    assert!(idle.is_ended());
}

/// What was received before the signal is answered, whatever the threads are doing.
#[test]
fn queued_queries_are_answered_while_draining() {
    let dns = Dns::start(ONE_SERVICE);
    let client = dns.client();
    let mut connection = dns.connect();
    let message = question(WEB);
    // The connection has been accepted by now.
    connection.ask(&message);
    const COUNT: usize = 50;
    for _ in 0..COUNT {
        client.send(&message.to_vec().unwrap()).unwrap();
        connection.send(&message);
    }
    dns.process.signal(Signal::SIGTERM);
    for _ in 0..COUNT {
        assert_eq!(show(&receive(&client))[0], "NoError");
        assert_eq!(show(&connection.receive())[0], "NoError");
    }
    assert!(connection.is_ended());
    assert_eq!(dns.process.wait().code(), Some(0));
}

#[test]
fn flags_that_cannot_work() {
    let net = crate::support::Net::new();
    let folder = crate::support::Folder::new();
    let path = folder.path().to_str().unwrap();
    let listen = net.addr(1, PORT).to_string();
    let check = |flags: &[&str], expected: i32| {
        let mut args = vec!["dns", "--feed", path, "--listen", &listen];
        args.extend(flags);
        let process = Switchyard::start(net.addr(2, 7431), &args);
        assert_eq!(process.wait().code(), Some(expected), "{flags:?}");
    };
    check(&["--domain", "a..b"], 2);
    check(&["--domain", "a b"], 2);
    check(&["--domain", &["a"; 125].join(".")], 2);
    check(&["--ttl", "3601"], 2);
    check(&["--pods", "maybe"], 2);
    check(&["--upstream", "dns.example"], 2);
    check(&["--upstream", &listen], 2);
    check(&["--allow-forward", "10.0.0.0/33"], 2);
    // An address that another process serves, even if that process would share it.
    let other = Dns::start(ONE_SERVICE);
    let in_use = other.addr.to_string();
    let args = ["dns", "--feed", path, "--listen", &in_use, "--upstream", "none"];
    assert_eq!(Switchyard::start(net.addr(2, 7431), &args).wait().code(), Some(1));
    assert_eq!(show(&exchange(&other.client(), &question(WEB)))[0], "NoError");
}
