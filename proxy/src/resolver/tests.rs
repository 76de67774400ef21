//! Tables of Services and slices → frontends, endpoints and why.

use std::num::NonZeroU16;

use model::{AddressType, Endpoint, EndpointSlice, Model, Object, ObjectName, TrafficDistribution};

use proptest::prelude::*;

use super::*;
use crate::objects::{port, service, slice};

fn node() -> Node {
    Node { families: vec![Family::V4, Family::V6], ..Node::default() }
}

/// Node `a` in zone `east`, with NodePorts over IPv4 alone.
fn node_a() -> Node {
    Node {
        name: Some("a".into()),
        zone: Some("east".into()),
        ips: vec!["192.0.2.1".parse().unwrap()],
        zones: [("a", "east"), ("b", "west"), ("c", "east")]
            .into_iter()
            .map(|(node, zone)| (Arc::from(node), Arc::from(zone)))
            .collect(),
        families: vec![Family::V4],
    }
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
        let endpoints: Vec<_> = frontend.endpoints.iter().map(|addr| addr.to_string()).collect();
        let (address, why) = (frontend.address, frontend.why);
        let scope = match frontend.scope {
            Scope::Cluster => String::new(),
            scope => format!(", {scope:?}"),
        };
        text += &format!("{address} -> {} ({why:?}{scope})\n", endpoints.join(" "));
    }
    for skipped in &resolution.skipped {
        text += &format!("skipped {}: {}\n", skipped.port, skipped.reason);
    }
    text
}

fn check(entry: &ServiceEntry, expected: &str) {
    check_on(&node(), entry, expected);
}

fn check_on(node: &Node, entry: &ServiceEntry, expected: &str) {
    let expected: Vec<_> = expected.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let printed = print(&resolve(entry, node));
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
    let host = model::Address::Host("db.example".into());
    fqdn.endpoints.push(Endpoint::ready_with(vec![host], model::Details::default()));
    check(&entry(web(), vec![fqdn]), "127.1.0.1:80/TCP ->  (NoEndpoints)");
}

/// The ClusterIP and the NodePort of `web` on node `a`, with these policies (internal,
/// external): what serves each.
fn check_policies(
    (internal, external): (TrafficPolicy, TrafficPolicy),
    endpoints: &[&str],
    cluster_ip: &str,
    node_port: &str,
) {
    let service = Service {
        internal_traffic_policy: internal,
        external_traffic_policy: external,
        ..service("web", &["127.1.0.1"], vec![port("", 80, Tcp, Some(30080))])
    };
    check_on(
        &node_a(),
        &entry(service, vec![web_slice(endpoints)]),
        &format!("127.1.0.1:80/TCP -> {cluster_ip}\nnode-ipv4:30080/TCP -> {node_port}"),
    );
}

use TrafficPolicy::{Cluster, Local};

#[test]
fn each_policy_looks_at_its_own_traffic_only() {
    let both = ["10.0.0.1 @a", "10.0.0.2 @b"];
    let all = "10.0.0.1:8080 10.0.0.2:8080 (Ready)";
    let here = "10.0.0.1:8080 (Ready, Local)";
    check_policies((Cluster, Cluster), &both, all, all);
    check_policies((Local, Cluster), &both, here, all);
    check_policies((Cluster, Local), &both, all, here);
    check_policies((Local, Local), &both, here, here);
    let elsewhere = ["10.0.0.2 @b", "10.0.0.3"];
    let there = "10.0.0.2:8080 10.0.0.3:8080 (Ready)";
    check_policies((Local, Cluster), &elsewhere, " (NoneLocal, Local)", there);
    check_policies((Cluster, Local), &elsewhere, there, " (NoneLocal, Local)");
    check_policies((Cluster, Local), &[], " (NoEndpoints)", " (NoEndpoints, Local)");
}

#[test]
fn terminating_endpoints_serve_where_none_is_ready_each_policy_by_itself() {
    // Ready elsewhere, so only local traffic needs the one that terminates.
    check_policies(
        (Cluster, Local),
        &["10.0.0.1/serving @a", "10.0.0.2 @b", "10.0.0.3/gone @a"],
        "10.0.0.2:8080 (Ready)",
        "10.0.0.1:8080 (ServingTerminating, Local)",
    );
    check_policies(
        (Local, Cluster),
        &["10.0.0.1/serving @a", "10.0.0.2 @b"],
        "10.0.0.1:8080 (ServingTerminating, Local)",
        "10.0.0.2:8080 (Ready)",
    );
    check_policies(
        (Cluster, Local),
        &["10.0.0.1/serving @a", "10.0.0.2/serving @b"],
        "10.0.0.1:8080 10.0.0.2:8080 (ServingTerminating)",
        "10.0.0.1:8080 (ServingTerminating, Local)",
    );
    check_policies(
        (Cluster, Local),
        &["10.0.0.1/unready @a", "10.0.0.2/serving @b"],
        "10.0.0.2:8080 (ServingTerminating)",
        " (NoneReady, Local)",
    );
}

#[test]
fn without_a_node_name_no_endpoint_is_local() {
    let service = Service { internal_traffic_policy: Local, ..web() };
    let slices = vec![web_slice(&["10.0.0.1", "10.0.0.2 @a"])];
    check(&entry(service, slices), "127.1.0.1:80/TCP ->  (NoneLocal, Local)");
}

#[test]
fn local_policy_serves_unready_endpoints_that_are_published() {
    let service =
        Service { internal_traffic_policy: Local, publish_not_ready_addresses: true, ..web() };
    let slices = vec![web_slice(&["10.0.0.1/unready @a", "10.0.0.2/unready @b"])];
    let expected = "127.1.0.1:80/TCP -> 10.0.0.1:8080 (NotReadyPublished, Local)";
    check_on(&node_a(), &entry(service, slices), expected);
}

/// What serves `web` from node `a` in zone `east`.
fn check_near(distribution: Option<TrafficDistribution>, endpoints: &[&str], expected: &str) {
    let service = Service { traffic_distribution: distribution, ..web() };
    let entry = entry(service, vec![web_slice(endpoints)]);
    check_on(&node_a(), &entry, &format!("127.1.0.1:80/TCP -> {expected}"));
}

#[test]
fn hints_are_followed_when_all_have_one_and_one_is_for_here() {
    let all = "10.0.0.1:8080 10.0.0.2:8080 (Ready)";
    let first = |scope| format!("10.0.0.1:8080 (Ready, {scope})");
    for (endpoints, expected) in [
        (["10.0.0.1 >~east", "10.0.0.2 >~west"], &*first("SameZone")),
        (["10.0.0.1 >~west >~east", "10.0.0.2 >~west"], &first("SameZone")),
        (["10.0.0.1 >~east", "10.0.0.2"], all),
        (["10.0.0.1 >~west", "10.0.0.2 >~north"], all),
        (["10.0.0.1 >a", "10.0.0.2 >b"], &first("SameNode")),
        (["10.0.0.1 >a >~east", "10.0.0.2 >b >~east"], &first("SameNode")),
        // No endpoint for this node, so the zone decides.
        (["10.0.0.1 >c >~east", "10.0.0.2 >b >~west"], &first("SameZone")),
        (["10.0.0.1 >a >~east", "10.0.0.2 >~west"], &first("SameZone")),
        (["10.0.0.1 >a", "10.0.0.2"], all),
        // Only those that are ready have a say.
        (["10.0.0.1 >~east", "10.0.0.2/unready"], &first("SameZone")),
        (["10.0.0.1 >~west", "10.0.0.2/unready >~east"], "10.0.0.1:8080 (Ready)"),
        (["10.0.0.1/serving >~east", "10.0.0.2 >~west"], "10.0.0.2:8080 (Ready)"),
        (
            ["10.0.0.1/serving >~east", "10.0.0.2/serving >~west"],
            "10.0.0.1:8080 10.0.0.2:8080 (ServingTerminating)",
        ),
    ] {
        check_near(None, &endpoints, expected);
    }
}

#[test]
fn without_hints_the_distribution_goes_by_where_endpoints_are() {
    use TrafficDistribution::{PreferSameNode, PreferSameZone};
    let all = "10.0.0.1:8080 10.0.0.2:8080 (Ready)";
    let first = |scope| format!("10.0.0.1:8080 (Ready, {scope})");
    for (distribution, endpoints, expected) in [
        (None, ["10.0.0.1 @a ~east", "10.0.0.2 @b ~west"], all),
        (Some(PreferSameZone), ["10.0.0.1 ~east", "10.0.0.2 ~west"], &*first("SameZone")),
        (Some(PreferSameZone), ["10.0.0.1 @a", "10.0.0.2 ~west"], &first("SameZone")),
        (Some(PreferSameZone), ["10.0.0.1 @c", "10.0.0.2 @b"], &first("SameZone")),
        (Some(PreferSameZone), ["10.0.0.1 @a", "10.0.0.2 @unknown"], all),
        (Some(PreferSameZone), ["10.0.0.1 ~north", "10.0.0.2 ~west"], all),
        (Some(PreferSameZone), ["10.0.0.1 ~east", "10.0.0.2"], all),
        (Some(PreferSameNode), ["10.0.0.1 @a ~east", "10.0.0.2 @b ~east"], &first("SameNode")),
        (Some(PreferSameNode), ["10.0.0.1 @c ~east", "10.0.0.2 @b ~west"], &first("SameZone")),
        (Some(PreferSameNode), ["10.0.0.1 @c", "10.0.0.2 @b"], &first("SameZone")),
        (Some(PreferSameNode), ["10.0.0.1 @d", "10.0.0.2 @b"], all),
        // Slices that have hints are believed.
        (Some(PreferSameNode), ["10.0.0.1 @b >~east", "10.0.0.2 @a >~west"], &first("SameZone")),
    ] {
        check_near(distribution, &endpoints, expected);
    }
}

#[test]
fn policy_local_takes_no_hints() {
    check_policies(
        (Local, Cluster),
        &["10.0.0.1 @a >~west", "10.0.0.2 @b >~east"],
        "10.0.0.1:8080 (Ready, Local)",
        "10.0.0.2:8080 (Ready, SameZone)",
    );
}

#[test]
fn what_is_listed_keeps_its_connections() {
    let check = |endpoints: &[&str], expected: [&[&str]; 2]| {
        let six: Vec<&str> = endpoints.iter().copied().filter(|e| e.contains(':')).collect();
        let four: Vec<&str> = endpoints.iter().copied().filter(|e| !e.contains(':')).collect();
        let mut six = web_slice(&six);
        six.name = ObjectName::new("demo", "web-6");
        let service = Service {
            external_traffic_policy: Local,
            ..service("web", &["127.1.0.1"], vec![port("", 80, Tcp, Some(30080))])
        };
        let resolution = resolve(&entry(service, vec![web_slice(&four), six]), &node_a());
        let kept = |place: usize| -> Vec<String> {
            resolution.frontends[place].kept.iter().map(|addr| addr.ip().to_string()).collect()
        };
        assert_eq!([kept(0), kept(1)], expected);
    };
    check(&["10.0.0.1 @a", "10.0.0.2 @b"], [&[], &["10.0.0.2"]]);
    check(&["10.0.0.1 @a", "10.0.0.2/unready @a"], [&["10.0.0.2"], &["10.0.0.2"]]);
    check(&["10.0.0.1 @a", "10.0.0.2/serving @a"], [&["10.0.0.2"], &["10.0.0.2"]]);
    check(&["10.0.0.1/serving @a", "10.0.0.2/gone @a"], [&["10.0.0.2"], &["10.0.0.2"]]);
    // Of the other family where that may serve too.
    check(&["10.0.0.1 @a", "fd00::1 @a"], [&[], &["fd00::1"]]);
    check(&["10.0.0.1/unready", "fd00::1 @a"], [&["10.0.0.1"], &["10.0.0.1"]]);
}

fn balanced() -> Service {
    Service {
        service_type: ServiceType::LoadBalancer,
        load_balancer_ips: vec!["203.0.113.1".parse().unwrap()],
        external_ips: vec!["198.51.100.1".parse().unwrap(), "fd02::1".parse().unwrap()],
        ..service("web", &["127.1.0.1"], vec![port("", 80, Tcp, Some(30080))])
    }
}

#[test]
fn external_and_load_balancer_ips_are_frontends() {
    let ready = "10.0.0.1:8080 10.0.0.2:8080 (Ready)";
    let slices = || vec![web_slice(&["10.0.0.1 @a", "10.0.0.2 @b"])];
    check_on(
        &node_a(),
        &entry(balanced(), slices()),
        &format!(
            "127.1.0.1:80/TCP -> {ready}
             203.0.113.1:80/TCP -> {ready}
             198.51.100.1:80/TCP -> {ready}
             [fd02::1]:80/TCP -> {ready}
             node-ipv4:30080/TCP -> {ready}"
        ),
    );
    let local = Service { external_traffic_policy: Local, ..balanced() };
    let here = "10.0.0.1:8080 (Ready, Local)";
    check_on(
        &node_a(),
        &entry(local, slices()),
        &format!(
            "127.1.0.1:80/TCP -> {ready}
             203.0.113.1:80/TCP -> {here}
             198.51.100.1:80/TCP -> {here}
             [fd02::1]:80/TCP -> {here}
             node-ipv4:30080/TCP -> {here}"
        ),
    );
    // An address left over from before the type was changed.
    let left_over = Service { service_type: ServiceType::ClusterIp, ..balanced() };
    check_on(
        &node_a(),
        &entry(left_over, slices()),
        &format!(
            "127.1.0.1:80/TCP -> {ready}
             198.51.100.1:80/TCP -> {ready}
             [fd02::1]:80/TCP -> {ready}"
        ),
    );
}

#[test]
fn an_ip_that_stands_twice_is_the_load_balancers() {
    let mut service = balanced();
    service.external_ips = vec!["203.0.113.1".parse().unwrap()];
    let resolution = resolve(&entry(service, vec![]), &node_a());
    let kinds: Vec<_> = resolution.frontends.iter().map(|f| f.kind.as_str()).collect();
    assert_eq!(kinds, ["ClusterIP", "load balancer IP", "NodePort"]);
    assert_eq!(resolution.skipped, []);
}

#[test]
fn source_ranges_hold_at_every_external_ip() {
    let check = |ranges: &[&str], at_balancer: Option<&[&str]>, at_external: Option<&[&str]>| {
        let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let service = Service { load_balancer_source_ranges: ranges, ..balanced() };
        let resolution = resolve(&entry(service, vec![]), &node_a());
        for frontend in resolution.frontends {
            let sources = frontend.sources.map(|s| s.iter().map(ToString::to_string).collect());
            let expected = match frontend.address.to_string().as_str() {
                "203.0.113.1:80/TCP" => at_balancer,
                "198.51.100.1:80/TCP" => at_external,
                "[fd02::1]:80/TCP" => continue,
                _ => None,
            };
            let expected = expected.map(|e| e.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(sources, expected, "{}", frontend.address);
        }
    };
    check(&[], None, None);
    for range in ["10.0.0.0/8", "fd00::/8"] {
        check(&[range], Some(&[range]), Some(&[range]));
    }
    // The node may connect, and its own source is then the address that it dials.
    check(
        &["192.0.2.0/24"],
        Some(&["192.0.2.0/24", "203.0.113.1/32"]),
        Some(&["192.0.2.0/24", "198.51.100.1/32"]),
    );
}

#[test]
fn policy_local_does_not_apply_to_clients_within_the_cluster() {
    // By frontend: what serves clients outside, and what serves those within the cluster.
    let check = |policy, endpoints: &[&str], outside: &str, inside: Option<&str>| {
        let service = Service { external_traffic_policy: policy, ..balanced() };
        let resolution = resolve(&entry(service, vec![web_slice(endpoints)]), &node_a());
        let text = |addrs: &Addresses| {
            addrs.iter().map(|addr| addr.ip().to_string()).collect::<Vec<_>>().join(" ")
        };
        for frontend in &resolution.frontends {
            let is_outer = frontend.kind != FrontendKind::ClusterIp;
            if is_outer {
                assert_eq!(text(&frontend.endpoints), outside, "{}", frontend.address);
            }
            let found = frontend.in_cluster.as_ref().map(|choice| text(&choice.endpoints));
            let expected = inside.filter(|_| is_outer).map(str::to_owned);
            assert_eq!(found, expected, "{}", frontend.address);
            assert_eq!(frontend.is_served(), !endpoints.is_empty(), "{}", frontend.address);
        }
        assert_eq!(resolution.frontends.len(), 5);
    };
    check(Local, &["10.0.0.1 @a", "10.0.0.2 @b"], "10.0.0.1", Some("10.0.0.1 10.0.0.2"));
    check(Local, &["10.0.0.2 @b"], "", Some("10.0.0.2"));
    // No difference.
    check(Local, &["10.0.0.1 @a"], "10.0.0.1", None);
    check(Local, &[], "", None);
    check(Cluster, &["10.0.0.1 @a", "10.0.0.2 @b"], "10.0.0.1 10.0.0.2", None);
    // Each is decided by itself: hints are for policy Cluster alone.
    check(Local, &["10.0.0.1 @a >~west", "10.0.0.2 @b >~east"], "10.0.0.1", Some("10.0.0.2"));
    check(Local, &["10.0.0.1/serving @a", "10.0.0.2 @b"], "10.0.0.1", Some("10.0.0.2"));
}

#[test]
fn a_load_balancer_hears_of_ready_endpoints_on_this_node() {
    let port = NonZeroU16::new(32000);
    let local =
        Service { external_traffic_policy: Local, health_check_node_port: port, ..balanced() };
    let count = |service: &Service, slices| {
        let entry = entry(service.clone(), slices);
        resolve(&entry, &node_a()).health_check.map(|check| check.local_endpoints)
    };
    let four = web_slice(&["10.0.0.1 @a", "10.0.0.2 @a", "10.0.0.3 @b", "10.0.0.4/serving @a"]);
    let mut six = web_slice(&["fd00::1 @a"]);
    six.name = ObjectName::new("demo", "web-6");
    assert_eq!(count(&local, vec![four.clone(), six]), Some(2));
    assert_eq!(count(&local, vec![web_slice(&["10.0.0.1/serving @a", "10.0.0.3 @b"])]), Some(0));
    let cluster = Service { external_traffic_policy: Cluster, ..local.clone() };
    assert_eq!(count(&cluster, vec![four.clone()]), None);
    let node_port = Service { service_type: ServiceType::NodePort, ..local.clone() };
    assert_eq!(count(&node_port, vec![four.clone()]), None);
    assert_eq!(count(&Service { health_check_node_port: None, ..local }, vec![four]), None);
}

#[test]
fn node_objects_add_zones_and_addresses() {
    let object = model::Node {
        name: ObjectName::new("", "a"),
        zone: Some("east".into()),
        ips: vec!["192.0.2.9".parse().unwrap()],
    };
    let (model, _) = Model::of([Object::Node(Arc::new(object))]);
    let flags = Node { name: Some("a".into()), ..Node::default() };
    let node = flags.with_objects(&model);
    assert_eq!((node.zone.as_deref(), node.ips.len()), (Some("east"), 1));
    assert_eq!(node.zones.get("a"), node.zone.as_ref());
    let other = Node { name: Some("b".into()), ..Node::default() };
    let known = Node { zones: node.zones, ..other.clone() };
    assert_eq!(other.with_objects(&model), known);
    assert_eq!(Node::default().with_objects(&Model::default()), Node::default());
}

/// An endpoint for [`proptest`]: its condition, its node, the zones and nodes that it is for.
type Drawn = (&'static str, &'static str, Vec<&'static str>, Vec<&'static str>);

fn drawn() -> impl Strategy<Value = Drawn> {
    let conditions = prop::sample::select(vec!["", "/unready", "/serving", "/gone"]);
    let nodes = prop::sample::select(vec!["a", "b", "c"]);
    let for_zones = prop::sample::subsequence(vec!["east", "west"], 0..=2);
    let for_nodes = prop::sample::subsequence(vec!["a", "b"], 0..=2);
    (conditions, nodes, for_zones, for_nodes)
}

/// What Kubernetes' rules say, as they are written: the numbers of the endpoints for the policies
/// `Cluster` and `Local` on node `a` in zone `east`.
fn by_the_rules(endpoints: &[Drawn]) -> (Vec<usize>, Vec<usize>) {
    let those = |suits: &dyn Fn(&Drawn) -> bool| -> Vec<usize> {
        (0..endpoints.len()).filter(|place| suits(&endpoints[*place])).collect()
    };
    let is_ready = |e: &Drawn| e.0.is_empty();
    let terminates = |e: &Drawn| e.0 == "/serving";
    let ready = those(&is_ready);
    let all_ready = |suits: &dyn Fn(&Drawn) -> bool| ready.iter().all(|i| suits(&endpoints[*i]));
    let for_node = those(&|e| is_ready(e) && e.3.contains(&"a"));
    let for_zone = those(&|e| is_ready(e) && e.2.contains(&"east"));
    let cluster = if ready.is_empty() {
        those(&terminates)
    } else if all_ready(&|e| !e.3.is_empty()) && !for_node.is_empty() {
        for_node
    } else if all_ready(&|e| !e.2.is_empty()) && !for_zone.is_empty() {
        for_zone
    } else {
        ready.clone()
    };
    let ready_here = those(&|e| is_ready(e) && e.1 == "a");
    let local = match ready_here.is_empty() {
        true => those(&|e| terminates(e) && e.1 == "a"),
        false => ready_here,
    };
    (cluster, local)
}

proptest! {
    #[test]
    fn endpoints_are_chosen_by_the_rules_of_kubernetes(
        endpoints in prop::collection::vec(drawn(), 0..6),
    ) {
        let texts: Vec<String> = endpoints
            .iter()
            .enumerate()
            .map(|(place, (condition, node, zones, nodes))| {
                let zones: String = zones.iter().map(|zone| format!(" >~{zone}")).collect();
                let nodes: String = nodes.iter().map(|node| format!(" >{node}")).collect();
                format!("10.0.0.{place}{condition} @{node}{zones}{nodes}")
            })
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let service = Service {
            external_traffic_policy: Local,
            ..service("web", &["127.1.0.1"], vec![port("", 80, Tcp, Some(30080))])
        };
        let resolution = resolve(&entry(service, vec![web_slice(&texts)]), &node_a());
        let numbers = |frontend: &Frontend| -> Vec<usize> {
            let last = |addr: SocketAddr| match addr.ip() {
                IpAddr::V4(ip) => usize::from(ip.octets()[3]),
                IpAddr::V6(_) => unreachable!(),
            };
            frontend.endpoints.iter().map(last).collect()
        };
        let chosen = (numbers(&resolution.frontends[0]), numbers(&resolution.frontends[1]));
        prop_assert_eq!(chosen, by_the_rules(&endpoints));
    }
}
