//! Tables of Services and slices → frontends, endpoints and why.

use feed::{Endpoint, EndpointSlice, Model, Object};

use super::*;
use crate::objects::{port, service, slice};

fn node() -> Node {
    Node { name: None, families: vec![Family::V4, Family::V6] }
}

fn entry(service: Service, slices: Vec<EndpointSlice>) -> ServiceEntry {
    let name = service.name.clone();
    let slices = slices.into_iter().map(|slice| Object::EndpointSlice(Arc::new(slice)));
    let (model, _) = Model::of(std::iter::once(Object::Service(Arc::new(service))).chain(slices));
    model.service(&name).unwrap()
}

/// Each frontend as `address -> endpoints (why)`, then what was skipped.
fn print(resolution: &Resolution) -> String {
    let mut text = String::new();
    for frontend in &resolution.frontends {
        let endpoints: Vec<_> = frontend.endpoints.iter().map(ToString::to_string).collect();
        let (address, why) = (frontend.address, frontend.why);
        text += &format!("{address} -> {} ({why:?})\n", endpoints.join(" "));
    }
    for skipped in &resolution.skipped {
        text += &format!("skipped {}: {}\n", skipped.port, skipped.reason);
    }
    text
}

fn check(entry: &ServiceEntry, expected: &str) {
    let expected: Vec<_> = expected.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let printed = print(&resolve(entry, &node()));
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
}

use Protocol::{Sctp, Tcp, Udp};

fn web() -> Service {
    service("web", &["127.1.0.1"], vec![port("", 80, Tcp, None)])
}

fn web_slice(endpoints: &[&str]) -> EndpointSlice {
    slice("web", "web-1", &[("", Tcp, 8080)], endpoints)
}

#[test]
fn conditions_decide() {
    for (endpoints, expected) in [
        (&["10.0.0.2", "10.0.0.1"][..], "10.0.0.1:8080 10.0.0.2:8080 (Ready)"),
        (&["10.0.0.1", "10.0.0.2/unready", "10.0.0.3/serving"], "10.0.0.1:8080 (Ready)"),
        (
            &["10.0.0.1/unready", "10.0.0.2/serving", "10.0.0.3/gone"],
            "10.0.0.2:8080 (ServingTerminating)",
        ),
        (&["10.0.0.1/unready", "10.0.0.2/gone"], " (NoneReady)"),
        (&[], " (NoEndpoints)"),
    ] {
        let entry = entry(web(), vec![web_slice(endpoints)]);
        check(&entry, &format!("127.1.0.1:80/TCP -> {expected}"));
    }
    check(&entry(web(), vec![]), "127.1.0.1:80/TCP ->  (NoEndpoints)");
}

#[test]
fn not_ready_addresses_are_published_on_request() {
    let service = Service { publish_not_ready_addresses: true, ..web() };
    let slices = vec![web_slice(&["10.0.0.1/unready", "10.0.0.2/gone", "10.0.0.3"])];
    check(
        &entry(service, slices),
        "127.1.0.1:80/TCP -> 10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080 (NotReadyPublished)",
    );
}

#[test]
fn an_endpoint_in_several_slices_counts_once_and_by_its_best() {
    let mut second = web_slice(&["10.0.0.1", "10.0.0.2"]);
    second.name = ObjectName::new("demo", "web-2");
    let slices = vec![web_slice(&["10.0.0.1/unready", "10.0.0.2"]), second];
    check(&entry(web(), slices), "127.1.0.1:80/TCP -> 10.0.0.1:8080 10.0.0.2:8080 (Ready)");
}

#[test]
fn ports_match_by_name_and_protocol_and_each_slice_has_its_own_number() {
    let ports = vec![port("http", 80, Tcp, None), port("dns", 53, Tcp, None), {
        port("dns-udp", 53, Udp, None)
    }];
    let service = service("web", &["127.1.0.1"], ports);
    let all = |name, http| {
        let ports = [("http", Tcp, http), ("dns", Tcp, 5353), ("dns-udp", Udp, 5354)];
        slice("web", name, &ports, if http == 8080 { &["10.0.0.1"] } else { &["10.0.0.2"] })
    };
    let wrong_protocol = slice("web", "web-3", &[("http", Udp, 1)], &["10.0.0.3"]);
    let every_port = {
        let mut slice = slice("web", "web-4", &[("http", Tcp, 1)], &["10.0.0.4"]);
        slice.ports[0].port = None;
        slice
    };
    let slices = vec![all("web-1", 8080), all("web-2", 9090), wrong_protocol, every_port];
    check(
        &entry(service, slices),
        "127.1.0.1:80/TCP -> 10.0.0.1:8080 10.0.0.2:9090 (Ready)
         127.1.0.1:53/TCP -> 10.0.0.1:5353 10.0.0.2:5353 (Ready)
         127.1.0.1:53/UDP -> 10.0.0.1:5354 10.0.0.2:5354 (Ready)",
    );
}

#[test]
fn families_stay_apart_but_a_node_port_falls_back() {
    let ports = || vec![port("", 80, Tcp, Some(30080))];
    let slices = || {
        let mut six = web_slice(&["fd00::1"]);
        six.name = ObjectName::new("demo", "web-6");
        vec![web_slice(&["10.0.0.1"]), six]
    };
    check(
        &entry(service("web", &["127.1.0.1", "fd01::1"], ports()), slices()),
        "127.1.0.1:80/TCP -> 10.0.0.1:8080 (Ready)
         [fd01::1]:80/TCP -> [fd00::1]:8080 (Ready)
         node-ipv4:30080/TCP -> 10.0.0.1:8080 (Ready)
         node-ipv6:30080/TCP -> [fd00::1]:8080 (Ready)",
    );
    check(
        &entry(service("web", &["fd01::1"], ports()), vec![web_slice(&["10.0.0.1"])]),
        "[fd01::1]:80/TCP ->  (NoEndpoints)
         node-ipv4:30080/TCP -> 10.0.0.1:8080 (Ready)
         node-ipv6:30080/TCP -> 10.0.0.1:8080 (Ready)",
    );
    check(
        &entry(service("web", &[], ports()), vec![web_slice(&["10.0.0.1/unready"])]),
        "node-ipv4:30080/TCP ->  (NoneReady)
         node-ipv6:30080/TCP ->  (NoEndpoints)",
    );
}

#[test]
fn what_is_not_ours_has_no_frontends() {
    let slices = || vec![web_slice(&["10.0.0.1"])];
    check(&entry(Service { foreign_proxy: true, ..web() }, slices()), "");
    let external = ServiceType::ExternalName("db.example".into());
    check(&entry(Service { service_type: external, ..web() }, slices()), "");
    let headless = Service { headless: true, cluster_ips: vec![], ..web() };
    check(&entry(headless, slices()), "");
    // A node port left over from before the type was changed.
    let ports = vec![port("", 80, Tcp, Some(30080))];
    let left_over =
        Service { service_type: ServiceType::ClusterIp, ..service("web", &["127.1.0.1"], ports) };
    check(&entry(left_over, slices()), "127.1.0.1:80/TCP -> 10.0.0.1:8080 (Ready)");
}

#[test]
fn what_cannot_be_served_is_named() {
    let ports = vec![
        port("a", 80, Tcp, Some(30080)),
        port("b", 81, Tcp, Some(30080)),
        port("c", 82, Sctp, None),
    ];
    let slices = vec![slice("web", "web-1", &[("a", Tcp, 1), ("b", Tcp, 2)], &["10.0.0.1"])];
    check(
        &entry(service("web", &[], ports), slices),
        "node-ipv4:30080/TCP -> 10.0.0.1:1 (Ready)
         node-ipv6:30080/TCP -> 10.0.0.1:1 (Ready)
         skipped 81: another port of the Service has node-ipv4:30080/TCP already
         skipped 81: another port of the Service has node-ipv6:30080/TCP already
         skipped 82: SCTP is not served",
    );
}

#[test]
fn a_frontend_is_never_its_own_endpoint() {
    let slices = vec![slice("web", "web-1", &[("", Tcp, 80)], &["127.1.0.1"])];
    check(&entry(web(), slices), "127.1.0.1:80/TCP ->  (NoEndpoints)");
    let slices = vec![slice("web", "web-1", &[("", Tcp, 80)], &["127.1.0.1", "127.1.0.2"])];
    check(&entry(web(), slices), "127.1.0.1:80/TCP -> 127.1.0.2:80 (Ready)");
}

#[test]
fn hosts_are_not_served() {
    let mut fqdn = web_slice(&[]);
    fqdn.address_type = AddressType::Fqdn;
    let host = feed::Address::Host("db.example".into());
    fqdn.endpoints.push(Endpoint::ready_with(vec![host], feed::Details::default()));
    check(&entry(web(), vec![fqdn]), "127.1.0.1:80/TCP ->  (NoEndpoints)");
}
