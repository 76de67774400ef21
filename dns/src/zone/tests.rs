//! What every name answers. The names and addresses are those of CoreDNS's own tests, so that
//! the two can be compared; where Switchyard differs on purpose, the table says so.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use model::{
    Address, AddressType, Changes, Endpoint as FeedEndpoint, EndpointSlice, Model, Object,
    ObjectName, Pod, Protocol, Service as FeedService, ServicePort, ServiceType, SlicePort,
    TargetPort, TrafficPolicy,
};

use super::names::undashed;
use super::service::key_of;
use super::*;
use crate::oracle::{DOMAIN, ask, question, rows, show, with_edns};
use crate::wire::Name;
use crate::wire::reply::Transport;

/// `TESTNS/NAME CLUSTERIP[,CLUSTERIP] [PORTNAME:]PORT/PROTOCOL…`
fn service(line: &str) -> Object {
    Object::Service(service_of(line).into())
}

fn service_of(line: &str) -> FeedService {
    let mut words = line.split(' ');
    let name = object_name(words.next().unwrap());
    let ips = words.next().unwrap();
    let headless = ips == "None";
    let service_type = match ips.strip_prefix("->") {
        Some(target) => ServiceType::ExternalName(target.into()),
        None => ServiceType::ClusterIp,
    };
    let is_cluster = !headless && service_type == ServiceType::ClusterIp && ips != "-";
    let cluster_ips = match is_cluster {
        true => ips.split(',').map(|ip| ip.parse().unwrap()).collect(),
        false => Vec::new(),
    };
    let ports = words.map(|word| {
        let (name, number, protocol) = port(word);
        let target_port = TargetPort::Number(number);
        let node_port = None;
        ServicePort { name, port: number, protocol, target_port, node_port, app_protocol: None }
    });
    FeedService {
        name,
        service_type,
        cluster_ips,
        headless,
        ports: ports.collect(),
        publish_not_ready_addresses: false,
        client_ip_affinity: None,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_traffic_policy: TrafficPolicy::Cluster,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        load_balancer_source_ranges: Vec::new(),
        health_check_node_port: None,
        traffic_distribution: None,
        foreign_proxy: false,
        annotations: Default::default(),
    }
}

/// A compiled Service of that name.
pub(super) fn service_named(namespace: &str, name: &str) -> Service {
    let service = service_of(&format!("{namespace}/{name} 10.0.0.1")).into();
    let entry = model::ServiceEntry { service, slices: [].into() };
    let settings = settings(PodMode::Disabled, Owned::default());
    Service::compile(&entry, &settings).unwrap()
}

fn object_name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName::new(namespace, name)
}

fn port(word: &str) -> (Arc<str>, NonZeroU16, Protocol) {
    let (name, rest) = word.rsplit_once(':').unwrap_or(("", word));
    let (number, protocol) = rest.split_once('/').unwrap();
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => Protocol::Sctp,
    };
    (name.into(), number.parse().unwrap(), protocol)
}

/// A slice of the Service `NS/NAME`: `[HOSTNAME@]ADDRESS[!]`, where `!` is not ready.
fn slice(service: &str, number: u8, ports: &[&str], endpoints: &[&str]) -> Object {
    let owner = object_name(service);
    let endpoints = endpoints.iter().map(|text| {
        let (text, ready) = text.strip_suffix('!').map_or((*text, true), |text| (text, false));
        let (hostname, ip) = text.rsplit_once('@').map_or((None, text), |(h, ip)| (Some(h), ip));
        let mut endpoint = FeedEndpoint::ready_at(ip.parse().unwrap());
        (endpoint.ready, endpoint.serving) = (ready, ready);
        endpoint.details_mut().hostname = hostname.map(Into::into);
        endpoint
    });
    let ports = ports.iter().map(|word| {
        let (name, number, protocol) = port(word);
        SlicePort { name, protocol, port: Some(number), app_protocol: None }
    });
    let slice = EndpointSlice {
        name: ObjectName::new(&owner.namespace, &format!("{}-{number}", owner.name)),
        service: owner.name.clone(),
        address_type: AddressType::Ipv4,
        ports: ports.collect(),
        endpoints: endpoints.collect(),
    };
    Object::EndpointSlice(slice.into())
}

fn fixture() -> Vec<Object> {
    vec![
        service("kube-system/kubedns 10.0.0.10 dns:53/udp dns-tcp:53/tcp metrics:9153/tcp"),
        service("testns/svc1 10.0.0.1 http:80/tcp"),
        slice("testns/svc1", 1, &["http:80/tcp"], &["ep1a@172.0.0.1", "172.0.0.9!"]),
        service("testns/svcempty 10.0.0.2 http:80/tcp"),
        service("testns/svc6 1234:abcd::1 http:80/tcp"),
        service("testns/svc-dual-stack 10.0.0.3,10::3 http:80/tcp"),
        service("testns/unnamed 10.0.0.4 80/tcp"),
        service("testns/unassigned - http:80/tcp"),
        service("testns/hdls1 None"),
        slice(
            "testns/hdls1",
            1,
            &["http:80/tcp"],
            &[
                "172.0.0.2",
                "172.0.0.3",
                "dup-name@172.0.0.4",
                "dup-name@172.0.0.5",
                "5678:abcd::1",
                "5678:abcd::2",
                "172.0.0.99!",
            ],
        ),
        service("testns/hdlsprtls None"),
        slice("testns/hdlsprtls", 1, &[], &["172.0.0.20"]),
        // An endpoint that has the address of a ClusterIP, and one of two Services.
        service("testns/shadow None"),
        slice("testns/shadow", 1, &[], &["10.0.0.1", "ep1b@172.0.0.1"]),
        service("testns/hdlsempty None http:80/tcp"),
        slice("testns/hdlsempty", 1, &["http:80/tcp"], &["172.0.0.30!"]),
        service("testns/external ->ext.interwebs.test http:80/tcp"),
        service("testns/external-to-service ->svc1.testns.svc.cluster.local"),
        service("testns/external-to-nothing ->svc0.testns.svc.cluster.local"),
        service("testns/external-to-headless ->hdls1.testns.svc.cluster.local"),
        service("testns/loop-a ->loop-b.testns.svc.cluster.local"),
        service("testns/loop-b ->loop-a.testns.svc.cluster.local"),
        service("testns/1-digit 10.0.0.5 80/tcp"),
        Object::Namespace(ObjectName::new("", "empty-ns")),
    ]
}

fn settings(pods: PodMode, owned: Owned) -> Settings {
    let mut settings = Settings::new(Name::from_text(DOMAIN).unwrap(), 5, pods, owned).unwrap();
    settings.name_server_ips = vec!["10.9.9.9".parse().unwrap(), "fd09::9".parse().unwrap()];
    settings
}

fn zone_of(settings: Settings, objects: Vec<Object>) -> Zone {
    let (model, changes) = Model::of(objects);
    let mut zone = Zone::new(settings);
    zone.apply(&model, &changes, true);
    zone.set_serial(7);
    zone
}

/// The zone of the fixture, which owns the networks of its ClusterIPs.
pub(crate) fn zone() -> Zone {
    let networks = ["10.0.0.0/24", "1234:abcd::/112"].map(|network| network.parse().unwrap());
    zone_of(settings(PodMode::Disabled, Owned(networks.to_vec())), fixture())
}

/// Asks over TCP and over UDP with EDNS, and compares with the expected lines.
fn check(zone: &Zone, asked: &str, expected: &[&str]) {
    let plain = ask(zone, &question(asked), Transport::Tcp);
    assert_eq!(show(&plain), expected, "{asked}");
    let edns = ask(zone, &with_edns(question(asked), 1232, true), Transport::Udp);
    assert_eq!(show(&edns), expected, "{asked} with EDNS");
    assert!(!edns.metadata.truncation, "{asked}");
    let failed = expected[0] == "ServFail";
    assert_eq!(plain.metadata.authoritative, !failed, "{asked}");
    assert!(!plain.metadata.recursion_available, "{asked}");
}

fn check_all(zone: &Zone, rows: &[(&str, &[&str])]) {
    for (asked, expected) in rows {
        check(zone, asked, expected);
    }
}

#[test]
fn every_row() {
    let zone = zone();
    let rows = rows(include_str!("rows.txt"));
    assert!(rows.len() > 100);
    for (asked, expected) in rows {
        check(&zone, asked, &expected);
    }
}

#[test]
fn name_servers_and_serials() {
    let zone = zone();
    let glue = ["*ns.dns.Z 5 A 10.9.9.9", "*ns.dns.Z 5 AAAA fd09::9"];
    for apex in ["Z", "0.0.10.in-addr.arpa"] {
        let record = format!("{apex} 5 NS ns.dns.Z");
        check(&zone, &format!("{apex} NS"), &["NoError", &record, glue[0], glue[1]]);
        let reply = ask(&zone, &question(&format!("{apex} SOA")), Transport::Tcp);
        let RData::SOA(soa) = &reply.answers[0].data else { panic!("{reply}") };
        assert_eq!(soa.serial, 7);
    }
    check(&zone, "ns.dns.Z A", &["NoError", "ns.dns.Z 5 A 10.9.9.9"]);
    check(&zone, "ns.dns.Z AAAA", &["NoError", "ns.dns.Z 5 AAAA fd09::9"]);
}

const NODATA: &[&str] = &["NoError", "+Z 5 SOA"];
const NXDOMAIN: &[&str] = &["NXDomain", "+Z 5 SOA"];

#[test]
fn one_endpoint_in_two_slices_is_one_endpoint() {
    let objects = vec![
        service("ns/db None"),
        slice("ns/db", 1, &["sql:5432/tcp"], &["db-0@10.1.0.1", "10.1.0.2"]),
        slice("ns/db", 2, &["sql:5432/tcp"], &["db-0@10.1.0.1", "10.1.0.2"]),
        slice("ns/db", 3, &["sql:5433/tcp", "admin:9000/tcp"], &["db-0@fd00::1"]),
    ];
    check_all(
        &zone_of(settings(PodMode::Disabled, Owned::default()), objects),
        &[
            ("db.ns.svc.Z A", &["NoError", "db.ns.svc.Z 5 A 10.1.0.1", "db.ns.svc.Z 5 A 10.1.0.2"]),
            (
                "_sql._tcp.db.ns.svc.Z SRV",
                &[
                    "NoError",
                    "_sql._tcp.db.ns.svc.Z 5 SRV 0 33 5432 10-1-0-2.db.ns.svc.Z",
                    "_sql._tcp.db.ns.svc.Z 5 SRV 0 33 5432 db-0.db.ns.svc.Z",
                    "_sql._tcp.db.ns.svc.Z 5 SRV 0 33 5433 db-0.db.ns.svc.Z",
                    "*10-1-0-2.db.ns.svc.Z 5 A 10.1.0.2",
                    "*db-0.db.ns.svc.Z 5 A 10.1.0.1",
                    "*db-0.db.ns.svc.Z 5 AAAA fd00::1",
                ],
            ),
            (
                "1.0.1.10.in-addr.arpa PTR",
                &["NoError", "1.0.1.10.in-addr.arpa 5 PTR db-0.db.ns.svc.Z"],
            ),
        ],
    );
}

#[test]
fn reverse_names_that_are_not_ours() {
    let zone = zone();
    for outside in ["77.0.0.172", "0.0.172", "0.10", "10", "9.0.0.172", "8.8.8.8"] {
        let name = format!("{outside}.in-addr.arpa");
        assert!(zone.find(&Name::from_text(&name).unwrap()).is_none(), "{name}");
    }
}

/// A ClusterIP may be an address of a host network: the names of its neighbours are not ours.
#[test]
fn without_a_flag_only_known_addresses_are_ours() {
    let zone = zone_of(settings(PodMode::Disabled, Owned::default()), fixture());
    let outside = [
        "9.0.0.10",
        "99.0.0.10",
        "x.99.0.0.10",
        "0.0.10",
        "0.10",
        "10",
        "77.0.0.172",
        "0.0.172",
        "8.8.8.8",
    ];
    for outside in outside {
        let name = format!("{outside}.in-addr.arpa");
        assert!(zone.find(&Name::from_text(&name).unwrap()).is_none(), "{name}");
    }
    let v6 = ".0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.4.3.2.1.ip6.arpa";
    assert!(zone.find(&Name::from_text(&format!("2{v6}")).unwrap()).is_none());
    check_all(
        &zone,
        &[
            (
                "1.0.0.10.in-addr.arpa PTR",
                &["NoError", "1.0.0.10.in-addr.arpa 5 PTR svc1.testns.svc.Z"],
            ),
            ("1.0.0.10.in-addr.arpa A", &["NoError", "+1.0.0.10.in-addr.arpa 5 SOA"]),
            ("x.1.0.0.10.in-addr.arpa A", &["NXDomain", "+1.0.0.10.in-addr.arpa 5 SOA"]),
            (
                "2.0.0.172.in-addr.arpa PTR",
                &["NoError", "2.0.0.172.in-addr.arpa 5 PTR 172-0-0-2.hdls1.testns.svc.Z"],
            ),
        ],
    );
    let name = format!("1{v6}");
    check(&zone, &format!("{name} SOA"), &["NoError", &format!("{name} 5 SOA")]);
}

#[test]
fn reverse_zones_by_flag() {
    let networks = ["172.0.0.0/12", "fd00::/108"].iter().map(|n| n.parse().unwrap());
    let owned = Owned(networks.collect());
    let zone = zone_of(settings(PodMode::Disabled, owned), fixture());
    check_all(
        &zone,
        &[
            ("77.0.0.172.in-addr.arpa PTR", &["NXDomain", "+0.172.in-addr.arpa 5 SOA"]),
            ("0.0.172.in-addr.arpa PTR", &["NoError", "+0.172.in-addr.arpa 5 SOA"]),
            ("1.0.172.in-addr.arpa PTR", &["NXDomain", "+0.172.in-addr.arpa 5 SOA"]),
            ("x.0.172.in-addr.arpa PTR", &["NXDomain", "+0.172.in-addr.arpa 5 SOA"]),
            ("15.172.in-addr.arpa SOA", &["NoError", "15.172.in-addr.arpa 5 SOA"]),
            (
                "1.0.0.10.in-addr.arpa PTR",
                &["NoError", "1.0.0.10.in-addr.arpa 5 PTR svc1.testns.svc.Z"],
            ),
        ],
    );
    assert!(zone.find(&Name::from_text("99.0.0.10.in-addr.arpa").unwrap()).is_none());
    assert!(zone.find(&Name::from_text("16.172.in-addr.arpa").unwrap()).is_none());
}

#[test]
fn a_chain_of_external_names_ends() {
    let link = |n: usize| service(&format!("ns/l{n} ->l{}.ns.svc.cluster.local", n + 1));
    let mut objects: Vec<Object> = (0..9).map(link).collect();
    objects.push(service("ns/l9 10.0.0.1"));
    let reply = |objects| {
        let zone = zone_of(settings(PodMode::Disabled, Owned::default()), objects);
        ask(&zone, &question("l0.ns.svc.Z A"), Transport::Tcp)
    };
    let whole = show(&reply(objects));
    assert_eq!(whole.len(), 1 + 9 + 1);
    assert_eq!(whole[10], "l9.ns.svc.Z 5 A 10.0.0.1");
    let endless = show(&reply((0..30).map(link).collect()));
    assert_eq!((endless[0].as_str(), endless.len()), ("ServFail", 1 + 10));
}

#[test]
fn targets_of_external_names_are_compressed() {
    let objects = vec![
        service("one/a ->b.two.svc.cluster.local"),
        service("two/b ->c.two.svc.cluster.local"),
        service("two/c 10.0.0.3"),
    ];
    let zone = zone_of(settings(PodMode::Disabled, Owned::default()), objects);
    let packet = question("a.one.svc.Z A").to_vec().unwrap();
    let policy = crate::respond::Policy::default();
    let reply = crate::oracle::send(&zone, policy, &packet, Transport::Udp).unwrap();
    let lines = [
        "NoError",
        "a.one.svc.Z 5 CNAME b.two.svc.Z",
        "b.two.svc.Z 5 CNAME c.two.svc.Z",
        "c.two.svc.Z 5 A 10.0.0.3",
    ];
    assert_eq!(show(&Message::from_vec(&reply).unwrap()), lines);
    // `b`, `two` and a pointer to `svc`; `c` and a pointer to `two`.
    let fixed = 2 + 10;
    assert_eq!(reply.len(), packet.len() + fixed + 2 + 4 + 2 + fixed + 2 + 2 + fixed + 4);
}

#[test]
fn pods() {
    let pod = |name: &str, ips: &[&str]| {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Object::Pod(Pod { name: object_name(name), ips }.into())
    };
    let mut objects = fixture();
    objects.push(pod("podns/foo", &["10.240.0.1", "fd00::"]));
    let zone = |mode| zone_of(settings(mode, Owned::default()), objects.clone());
    let name = "10-240-0-1.podns.pod.Z";
    let known: &[&str] = &["NoError", &format!("{name} 5 A 10.240.0.1")];
    let known6: &[&str] = &["NoError", "fd00--0.podns.pod.Z 5 AAAA fd00::"];
    let endpoint: &[&str] = &["NoError", "172-0-0-2.testns.pod.Z 5 A 172.0.0.2"];
    let stranger: &[&str] = &["NoError", "1-2-3-4.podns.pod.Z 5 A 1.2.3.4"];
    type Lines<'l> = &'l [&'l str];
    let rows: [(&str, Lines<'_>, Lines<'_>, Lines<'_>); 12] = [
        ("10-240-0-1.podns.pod.Z A", NXDOMAIN, known, known),
        ("10-240-0-1.podns.pod.Z AAAA", NXDOMAIN, NODATA, NODATA),
        ("fd00--0.podns.pod.Z AAAA", NXDOMAIN, known6, known6),
        ("172-0-0-2.testns.pod.Z A", NXDOMAIN, endpoint, endpoint),
        ("172-0-0-2.podns.pod.Z AAAA", NXDOMAIN, NODATA, NXDOMAIN),
        ("1-2-3-4.podns.pod.Z A", NXDOMAIN, stranger, NXDOMAIN),
        // A ClusterIP is no Pod's.
        ("10-0-0-2.testns.pod.Z AAAA", NXDOMAIN, NODATA, NXDOMAIN),
        ("1-2-3-4.pod-nons.pod.Z A", NXDOMAIN, NXDOMAIN, NXDOMAIN),
        ("pod-nons.pod.Z A", NXDOMAIN, NXDOMAIN, NXDOMAIN),
        ("podns.pod.Z A", NXDOMAIN, NODATA, NODATA),
        ("1-2-3.podns.pod.Z A", NXDOMAIN, NXDOMAIN, NXDOMAIN),
        ("x.10-240-0-1.podns.pod.Z A", NXDOMAIN, NXDOMAIN, NXDOMAIN),
    ];
    for (asked, disabled, insecure, verified) in rows {
        check(&zone(PodMode::Disabled), asked, disabled);
        check(&zone(PodMode::Insecure), asked, insecure);
        check(&zone(PodMode::Verified), asked, verified);
    }
}

#[test]
fn a_pod_that_moves_or_goes_is_forgotten() {
    let pod = |ip: &str| {
        Object::Pod(Pod { name: object_name("ns/a"), ips: vec![ip.parse().unwrap()] }.into())
    };
    let mut zone = zone_of(settings(PodMode::Verified, Owned::default()), vec![]);
    let mut model = Model::default();
    let mut step = |change: &mut dyn FnMut(&mut Model, &mut Changes), expected: [&str; 2]| {
        let mut changes = Changes::default();
        change(&mut model, &mut changes);
        assert!(zone.apply(&model, &changes, true));
        let asked = ["10-1-0-1.ns.pod.Z A", "10-1-0-2.ns.pod.Z A"];
        let codes =
            asked.map(|asked| show(&ask(&zone, &question(asked), Transport::Tcp))[0].clone());
        assert_eq!(codes, expected);
    };
    step(&mut |m, c| m.apply(pod("10.1.0.1"), c), ["NoError", "NXDomain"]);
    step(&mut |m, c| m.apply(pod("10.1.0.2"), c), ["NXDomain", "NoError"]);
    let key = pod("10.1.0.2").key();
    step(&mut |m, c| m.delete(&key, c), ["NXDomain", "NXDomain"]);
}

#[test]
fn not_ready_endpoints_are_served_if_the_service_says_so() {
    let mut published = service_of("testns/hdlsempty None");
    published.publish_not_ready_addresses = true;
    let mut objects = fixture();
    objects.push(Object::Service(published.into()));
    check_all(
        &zone_of(settings(PodMode::Disabled, Owned::default()), objects),
        &[
            ("hdlsempty.testns.svc.Z A", &["NoError", "hdlsempty.testns.svc.Z 5 A 172.0.0.30"]),
            (
                "172-0-0-30.hdlsempty.testns.svc.Z A",
                &["NoError", "172-0-0-30.hdlsempty.testns.svc.Z 5 A 172.0.0.30"],
            ),
        ],
    );
}

#[test]
fn before_the_first_full_sync_nothing_is_said_to_be_absent() {
    let mut objects = fixture();
    objects.push(service("testns/to-reverse ->99.0.0.10.in-addr.arpa"));
    let (model, changes) = Model::of(objects);
    let mut zone = Zone::new(settings(PodMode::Disabled, Owned::default()));
    zone.set_serial(7);
    let failed: &[&str] = &["ServFail"];
    let known_address: &[&str] = &["NoError", "1.0.0.10.in-addr.arpa 5 PTR svc1.testns.svc.Z"];
    let alias = "to-reverse.testns.svc.Z 5 CNAME 99.0.0.10.in-addr.arpa";
    let aliased: &[&str] = &["ServFail", alias];
    check(&zone, "1.0.0.10.in-addr.arpa PTR", failed);
    check(&zone, "svc1.testns.svc.Z A", failed);
    check(&zone, "Z SOA", &["NoError", "Z 5 SOA"]);
    zone.apply(&model, &changes, false);
    check(&zone, "svc1.testns.svc.Z A", &["NoError", "svc1.testns.svc.Z 5 A 10.0.0.1"]);
    check(&zone, "svc1.testns.svc.Z AAAA", NODATA);
    check(&zone, "svc0.testns.svc.Z A", failed);
    check(&zone, "foo.Z A", failed);
    // Any address may turn out to be that of a Service: no upstream may say that it has no name.
    check(&zone, "1.0.0.10.in-addr.arpa PTR", known_address);
    for unknown in ["99.0.0.10", "8.8.8.8", "x.99.0.0.10"] {
        check(&zone, &format!("{unknown}.in-addr.arpa PTR"), failed);
    }
    let v6 = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.4.3.2.1.ip6.arpa";
    check(&zone, &format!("{v6} PTR"), failed);
    check(&zone, "to-reverse.testns.svc.Z PTR", aliased);
    assert!(zone.find(&Name::from_text("0.0.10.in-addr.arpa").unwrap()).is_none());
    assert!(zone.apply(&model, &Changes::default(), true), "being synced changes answers");
    check(&zone, "svc0.testns.svc.Z A", NXDOMAIN);
}

#[test]
fn the_case_of_a_question_is_kept() {
    let zone = zone();
    // `ask` compares the question itself.
    let reply = ask(&zone, &question("SvC1.TeStNs.SvC.cLuStEr.LoCaL A"), Transport::Tcp);
    assert_eq!(reply.answers[0].name.to_string(), "SvC1.TeStNs.SvC.cLuStEr.LoCaL.");
    let reply =
        ask(&zone, &question("_HTTP._TCP.Svc1.TestNS.SVC.Cluster.Local SRV"), Transport::Tcp);
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(reply.additionals[0].name.to_string(), "Svc1.TestNS.SVC.Cluster.Local.");
}

/// Every way in which a Service becomes another.
#[test]
fn a_zone_that_was_updated_equals_one_that_was_built() {
    let variants: [Option<Vec<Object>>; 7] = [
        None,
        Some(vec![service("ns/s 10.0.0.1 http:80/tcp")]),
        Some(vec![service("ns/s ->example.com")]),
        Some(vec![service("ns/s None"), slice("ns/s", 1, &["a:1/tcp"], &["10.1.0.1"])]),
        Some(vec![
            service("ns/s None"),
            slice("ns/s", 1, &["a:1/tcp"], &["h@10.1.0.1", "10.1.0.2"]),
        ]),
        Some(vec![service("ns/s None"), slice("ns/s", 1, &["a:1/tcp"], &["10.1.0.2!"])]),
        Some(vec![service("ns/s 10.0.0.2,fd00::2"), slice("ns/s", 1, &[], &["10.1.0.1"])]),
    ];
    // Another Service that shares addresses with some of them.
    let other =
        || vec![service("ns/other 10.0.0.1"), slice("ns/other", 9, &[], &["10.1.0.1", "10.0.0.2"])];
    let settings = || settings(PodMode::Verified, Owned::default());
    for from in &variants {
        for to in &variants {
            let mut objects = other();
            objects.extend(from.iter().flatten().cloned());
            let (mut model, changes) = Model::of(objects);
            let mut updated = Zone::new(settings());
            updated.apply(&model, &changes, true);
            let mut changes = Changes::default();
            let kept = to.iter().flatten().map(Object::key).collect::<Vec<_>>();
            for gone in from.iter().flatten().map(Object::key).filter(|key| !kept.contains(key)) {
                model.delete(&gone, &mut changes);
            }
            for object in to.iter().flatten() {
                model.apply(object.clone(), &mut changes);
            }
            updated.apply(&model, &changes, true);
            let mut objects = other();
            objects.extend(to.iter().flatten().cloned());
            let built = zone_of(settings(), objects);
            assert_same(&updated, &built, &format!("{from:?} -> {to:?}"));
        }
    }
}

fn assert_same(a: &Zone, b: &Zone, what: &str) {
    let services = |zone: &Zone| {
        let mut services: Vec<String> = zone.services().map(|s| format!("{s:?}")).collect();
        services.sort();
        services
    };
    assert_eq!(services(a), services(b), "{what}");
    assert_eq!(a.addresses, b.addresses, "{what}");
    assert_eq!(a.pods, b.pods, "{what}");
    assert!(a.namespaces.is_subset(&b.namespaces) && b.namespaces.is_subset(&a.namespaces));
    assert_eq!(a.names(), b.names(), "{what}");
}

#[test]
fn an_update_without_effect_on_dns_keeps_the_zone() {
    let (mut model, changes) = Model::of(fixture());
    let mut zone = Zone::new(settings(PodMode::Disabled, Owned::default()));
    zone.apply(&model, &changes, true);
    let mut same_for_dns = service_of("testns/svc1 10.0.0.1 http:80/tcp");
    same_for_dns.internal_traffic_policy = TrafficPolicy::Local;
    let mut changes = Changes::default();
    model.apply(Object::Service(same_for_dns.into()), &mut changes);
    assert!(!changes.is_empty());
    assert!(!zone.apply(&model, &changes, true));
    model.apply(service("testns/svc1 10.0.0.77 http:80/tcp"), &mut changes);
    assert!(zone.apply(&model, &changes, true));
}

#[test]
fn replies_are_cut_at_whole_records() {
    let endpoints: Vec<String> = (0..200).map(|n| format!("pod-{n}@10.1.0.{n}")).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let objects = vec![
        service("ns/big None"),
        slice("ns/big", 1, &["http:80/tcp"], &endpoints),
        service("ns/four None"),
        slice("ns/four", 1, &["http:80/tcp"], &endpoints[..4]),
    ];
    let zone = zone_of(settings(PodMode::Disabled, Owned::default()), objects);
    let check = |asked: &str, udp_size: Option<u16>, expected: (usize, usize, bool)| {
        let mut message = question(asked);
        if let Some(size) = udp_size {
            message = with_edns(message, size, false);
        }
        let reply = ask(&zone, &message, Transport::Udp);
        let limit = udp_size.map_or(512, |size| usize::from(size.clamp(512, 1232)));
        assert!(reply.to_vec().unwrap().len() <= limit, "{asked} {udp_size:?}");
        let counts = (reply.answers.len(), reply.additionals.len(), reply.metadata.truncation);
        assert_eq!(counts, expected, "{asked} {udp_size:?}");
        assert!(reply.authorities.is_empty());
    };
    let question_len = 12 + b"\x03big\x02ns\x03svc\x07cluster\x05local\x00".len() + 4;
    let fit = |limit: usize, opt: usize| (limit - opt - question_len) / 16;
    check("big.ns.svc.Z A", None, (fit(512, 0), 0, true));
    check("big.ns.svc.Z A", Some(100), (fit(512, 11), 0, true));
    check("big.ns.svc.Z A", Some(1232), (fit(1232, 11), 0, true));
    check("big.ns.svc.Z A", Some(4096), (fit(1232, 11), 0, true));
    check("big.ns.svc.Z SRV", Some(1232), (22, 0, true));
    // Additional records that do not fit are no reason to ask again over TCP, unlike CoreDNS.
    check("_http._tcp.four.ns.svc.Z SRV", None, (4, 4, false));
    check("_http._tcp.four.ns.svc.Z SRV", Some(512), (4, 4, false));
    let over_tcp = ask(&zone, &question("big.ns.svc.Z SRV"), Transport::Tcp);
    assert_eq!((over_tcp.answers.len(), over_tcp.additionals.len()), (200, 200));
    assert!(!over_tcp.metadata.truncation);
}

#[test]
fn additional_records_are_dropped_without_tc() {
    let hostname = |n: usize| format!("{}-{n}@10.1.0.{n}", "long".repeat(10));
    let endpoints: Vec<String> = (0..4).map(hostname).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let objects = vec![service("ns/s None"), slice("ns/s", 1, &["http:80/tcp"], &endpoints)];
    let zone = zone_of(settings(PodMode::Disabled, Owned::default()), objects);
    let reply = ask(&zone, &question("_http._tcp.s.ns.svc.Z SRV"), Transport::Udp);
    assert_eq!(reply.answers.len(), 4);
    assert!(reply.additionals.len() < 4);
    assert!(!reply.metadata.truncation);
}

#[test]
fn over_tcp_a_reply_fills_its_65535_octets_and_is_not_called_truncated() {
    let endpoints: Vec<String> =
        (0..5000).map(|n| format!("10.{}.{}.{}", n / 65536, n / 256 % 256, n % 256)).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let objects = vec![service("ns/s None"), slice("ns/s", 1, &["http:80/tcp"], &endpoints)];
    let zone = zone_of(settings(PodMode::Disabled, Owned::default()), objects);
    let reply: Message = ask(&zone, &question("s.ns.svc.Z A"), Transport::Tcp);
    assert_eq!(reply.answers.len(), (65_535 - 12 - 27) / 16);
    assert!(!reply.metadata.truncation);
}

#[test]
fn sets_of_addresses_go_round() {
    use crate::local::Local;
    use crate::respond::{Names, Outcome, Policy, respond};
    use crate::wire::Query;
    let zone = zone();
    let packet = question("hdls1.testns.svc.Z A").to_vec().unwrap();
    for turn in 0..9 {
        let mut buf = vec![0; 2048];
        buf[..packet.len()].copy_from_slice(&packet);
        let (policy, udp) = (Policy::default(), Transport::Udp);
        let names = Names { zone: &zone, local: &Local::default() };
        let outcome = respond(names, policy, &mut Query::new(), &mut buf, packet.len(), udp, turn);
        let Outcome::Reply(len, ..) = outcome else { panic!("{outcome:?}") };
        let reply = Message::from_vec(&buf[..len]).unwrap();
        let last: Vec<usize> = reply
            .answers
            .iter()
            .map(|r| r.data.to_string().strip_prefix("172.0.0.").unwrap().parse().unwrap())
            .collect();
        let expected: Vec<usize> = (0..4).map(|n| 2 + (turn + n) % 4).collect();
        assert_eq!(last, expected);
    }
}

#[test]
fn dashed_addresses() {
    let check = |ip: &str, expected: &str| {
        let ip: IpAddr = ip.parse().unwrap();
        let label = service::dashed(ip);
        assert_eq!(std::str::from_utf8(&label).unwrap(), expected);
        assert_eq!(undashed(&label), Some(ip));
    };
    check("172.0.0.2", "172-0-0-2");
    check("5678:abcd::1", "5678-abcd--1");
    check("fd00::", "fd00--0");
    check("::1", "0--1");
    check("::", "0--0");
    for label in ["", "1-2-3", "x", "1-2-3-4-5-6-7-8-9", "256-0-0-1", &"1".repeat(63)] {
        assert_eq!(undashed(label.as_bytes()), None, "{label}");
    }
}

#[test]
fn endpoints_that_are_no_address_have_no_name() {
    let Object::EndpointSlice(slice) = slice("ns/s", 1, &["a:1/tcp"], &["10.1.0.1"]) else {
        unreachable!()
    };
    let mut slice = EndpointSlice::clone(&slice);
    let host = Address::Host("example.com".into());
    slice.endpoints[0] = model::Endpoint::ready_with(vec![host], model::Details::default());
    let objects = vec![service("ns/s None"), Object::EndpointSlice(slice.into())];
    let zone = zone_of(settings(PodMode::Disabled, Owned::default()), objects);
    check(&zone, "s.ns.svc.Z A", NXDOMAIN);
}

/// One Service of 10,000 changes: all others are those of the version before.
#[test]
fn a_change_touches_only_its_own_names() {
    let line = |n: usize, ip: usize| {
        service(&format!("ns-{}/s{n} 10.{ip}.{}.{} http:80/tcp", n % 10, n / 256, n % 256))
    };
    let (mut model, changes) = Model::of((0..10_000).map(|n| line(n, 0)));
    let mut before = Zone::new(settings(PodMode::Disabled, Owned::default()));
    before.apply(&model, &changes, true);
    let mut changes = Changes::default();
    model.apply(line(77, 1), &mut changes);
    let mut after = before.clone();
    assert!(after.apply(&model, &changes, true));
    let find = |zone: &Zone, n: usize| {
        let key = key_of(&format!("ns-{}", n % 10), &format!("s{n}")).unwrap();
        zone.services.get(&key).unwrap().clone()
    };
    for n in 0..10_000 {
        assert_eq!(Arc::ptr_eq(&find(&before, n), &find(&after, n)), n != 77, "s{n}");
    }
    let address =
        |zone: &Zone, ip: &str| zone.addresses.contains_key(&ip.parse::<IpAddr>().unwrap());
    assert!(address(&before, "10.0.0.77") && !address(&before, "10.1.0.77"));
    assert!(!address(&after, "10.0.0.77") && address(&after, "10.1.0.77"));
    assert_eq!(before.names(), after.names());
}

/// A zone of Services, each as [`service`] spells it.
pub(crate) fn zone_with(services: &[&str]) -> Zone {
    let objects = services.iter().map(|line| service(line)).collect();
    zone_of(settings(PodMode::Disabled, Owned::default()), objects)
}

/// A zone whose objects are not known yet.
pub(crate) fn unsynced() -> Zone {
    Zone::new(settings(PodMode::Disabled, Owned::default()))
}

fn single_label_zone(synced: bool) -> Zone {
    let mut settings = settings(PodMode::Disabled, Owned::default());
    settings.single_label = Some(b"\x06testns".as_slice().into());
    let (model, changes) = Model::of(fixture());
    let mut zone = Zone::new(settings);
    if synced {
        zone.apply(&model, &changes, true);
    }
    zone
}

#[test]
fn names_of_one_label() {
    let zone = single_label_zone(true);
    let lines = |asked: &str| {
        let packet = with_edns(question(asked), 1232, false).to_vec().unwrap();
        let policy = crate::respond::Policy { forwards: true, tells_version: false };
        match crate::oracle::send(&zone, policy, &packet, Transport::Udp) {
            Ok(reply) => show(&Message::from_vec(&reply).unwrap()),
            Err(outcome) => vec![format!("{outcome:?}")],
        }
    };
    let check = |asked: &str, expected: &[&str]| assert_eq!(lines(asked), expected, "{asked}");
    check("SVC1 A", &["NoError", "SVC1 5 A 10.0.0.1"]);
    check("svc6 AAAA", &["NoError", "svc6 5 AAAA 1234:abcd::1"]);
    check("svc1 AAAA", &["NoError", "+svc1 5 SOA"]);
    check("svc1 ANY", &["NoError", "svc1 5 HINFO RFC8482"]);
    check(
        "svc1 SRV",
        &["NoError", "svc1 5 SRV 0 100 80 svc1.testns.svc.Z", "*svc1.testns.svc.Z 5 A 10.0.0.1"],
    );
    let headless = lines("hdls1 SRV");
    assert!(headless.contains(&"hdls1 5 SRV 0 16 80 dup-name.hdls1.testns.svc.Z".to_owned()));
    assert!(headless.contains(&"*dup-name.hdls1.testns.svc.Z 5 A 172.0.0.5".to_owned()));
    check(
        "external-to-service A",
        &[
            "NoError",
            "external-to-service 5 CNAME svc1.testns.svc.Z",
            "svc1.testns.svc.Z 5 A 10.0.0.1",
        ],
    );
    check("external CNAME", &["NoError", "external 5 CNAME ext.interwebs.test"]);
    // No Service of that namespace: somebody else may know the name.
    for asked in ["svc0 A", "kubedns A", "testns A", "svc", "_http._tcp.svc1 SRV"] {
        let asked = if asked.contains(' ') { asked.to_owned() } else { format!("{asked} A") };
        check(&asked, &["Forward"]);
    }
    check("www.svc1 A", &["Forward"]);
}

#[test]
fn names_of_one_label_before_all_objects_are_known() {
    let zone = single_label_zone(false);
    let send = |asked: &str| {
        let policy = crate::respond::Policy { forwards: true, tells_version: false };
        crate::oracle::send(&zone, policy, &question(asked).to_vec().unwrap(), Transport::Udp)
    };
    let reply = Message::from_vec(&send("web A").unwrap()).unwrap();
    assert_eq!(show(&reply), ["ServFail"]);
    let outside = send("www.example A");
    assert!(matches!(outside, Err(crate::respond::Outcome::Forward)), "{outside:?}");
    assert!(send("localhost A").is_ok());
}
