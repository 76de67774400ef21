//! What every name answers, over both transports, from a folder of manifests.

use super::kit::{Dns, OBJECTS, exchange, question, receive, rows, show, with_edns};

/// The networks of the ClusterIPs in the table of rows, whose reverse zones it is about, and the
/// domain in which its aliases end.
const NETWORKS: [&str; 6] = [
    "--upstream",
    "none",
    "--reverse-cidr",
    "10.0.0.0/24,1234:abcd::/112",
    "--forward",
    "test=upstream",
];

/// The order of a set's addresses rotates from answer to answer.
fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines[1..].sort();
    lines
}

#[test]
fn every_row_over_udp_and_tcp() {
    let dns = Dns::start_with(OBJECTS, &NETWORKS);
    let client = dns.client();
    let mut connection = dns.connect();
    let rows = rows(include_str!("../../../dns/src/zone/rows.txt"));
    assert!(rows.len() > 100);
    for (asked, expected) in rows {
        let expected = sorted(expected.into_iter().map(str::to_owned).collect());
        let message = question(asked);
        let over_tcp = connection.ask(&message);
        assert_eq!(sorted(show(&over_tcp)), expected, "{asked} over TCP");
        assert!(over_tcp.metadata.authoritative && over_tcp.edns.is_none(), "{asked}");
        let over_udp = exchange(&client, &with_edns(message, 1232, true));
        assert_eq!(sorted(show(&over_udp)), expected, "{asked} over UDP");
        assert!(over_udp.edns.unwrap().flags().dnssec_ok, "{asked}");
    }
}

#[test]
fn the_name_server_is_where_it_listens() {
    let dns = Dns::start_with(OBJECTS, &NETWORKS);
    let glue = format!("*ns.dns.Z 5 A {}", dns.addr.ip());
    assert_eq!(dns.show("Z NS"), ["NoError", "Z 5 NS ns.dns.Z", &glue]);
    let record = "0.0.10.in-addr.arpa 5 NS ns.dns.Z";
    assert_eq!(dns.show("0.0.10.in-addr.arpa NS"), ["NoError", record, &glue]);
    assert_eq!(dns.show("ns.dns.Z A"), ["NoError", &glue[1..]]);
}

#[test]
fn sets_of_addresses_go_round() {
    let dns = Dns::start(OBJECTS);
    let client = dns.client();
    let firsts: std::collections::BTreeSet<String> = (0..8)
        .map(|_| show(&exchange(&client, &question("hdls1.testns.svc.Z A")))[1].clone())
        .collect();
    assert_eq!(firsts.len(), 4, "{firsts:?}");
}

#[test]
fn the_case_of_a_question_is_kept() {
    let dns = Dns::start(OBJECTS);
    let client = dns.client();
    for asked in ["SvC1.TeStNs.SvC.cLuStEr.LoCaL A", "SVC0.testNS.svc.CLUSTER.local A"] {
        let message = question(asked);
        let reply = exchange(&client, &message);
        assert!(reply.queries[0].name().eq_case(message.queries[0].name()), "{reply}");
        for answer in &reply.answers {
            assert!(answer.name.eq_case(message.queries[0].name()), "{reply}");
        }
    }
}

#[test]
fn settings_of_the_zone() {
    let flags = "--upstream none --domain k8s.example --ttl 60 --pods insecure \
                 --reverse-cidr 10.0.0.0/16,fd00::/64";
    let flags: Vec<&str> = flags.split_ascii_whitespace().collect();
    let dns = Dns::start_with(OBJECTS, &flags);
    let shown = |asked: &str| {
        let reply = dns.ask(asked);
        let records = reply.answers.iter().chain(&reply.authorities);
        let records = records.map(|r| format!("{} {} {}", r.name, r.ttl, r.record_type()));
        (reply.metadata.response_code.to_string(), records.collect::<Vec<_>>())
    };
    let check = |asked: &str, code: &str, record: &str| {
        assert_eq!(shown(asked), (code.to_owned(), vec![record.to_owned()]), "{asked}");
    };
    let (ok, absent) = ("No Error", "Non-Existent Domain");
    check("svc1.testns.svc.k8s.example A", ok, "svc1.testns.svc.k8s.example. 60 A");
    check("svc0.testns.svc.k8s.example A", absent, "k8s.example. 60 SOA");
    check("1-2-3-4.testns.pod.k8s.example A", ok, "1-2-3-4.testns.pod.k8s.example. 60 A");
    check("1-2-3-4.nons.pod.k8s.example A", absent, "k8s.example. 60 SOA");
    check("9.9.0.10.in-addr.arpa PTR", absent, "0.10.in-addr.arpa. 60 SOA");
    assert_eq!(dns.show("svc1.testns.svc.Z A"), ["Refused"]);
    // Private, and of nobody else.
    check("9.9.1.10.in-addr.arpa PTR", absent, "10.in-addr.arpa. 60 SOA");
}

#[test]
fn verified_pods() {
    let pod = "{ apiVersion: v1, kind: Pod, metadata: { name: a, namespace: podns }, \
               status: { podIP: 10.240.0.1, podIPs: [{ ip: 10.240.0.1 }] } }";
    let dns = Dns::start_with(pod, &["--upstream", "none", "--pods", "verified"]);
    let known = "10-240-0-1.podns.pod.Z";
    assert_eq!(dns.show(&format!("{known} A")), ["NoError", &format!("{known} 5 A 10.240.0.1")]);
    assert_eq!(dns.show("10-240-0-2.podns.pod.Z A"), ["NXDomain", "+Z 5 SOA"]);
}

/// A socket that is bound to all addresses answers from the address that was asked: a connected
/// client only receives such answers.
#[test]
fn replies_come_from_the_address_that_was_asked() {
    let net = crate::support::Net::new();
    let folder = crate::support::Folder::new();
    folder.replace("objects.yaml", OBJECTS);
    // All addresses share a port, so it must be free on all of them.
    let port = super::kit::free_port("0.0.0.0");
    let listen = format!("0.0.0.0:{port}");
    let path = folder.path().to_str().unwrap();
    let args = ["dns", "--feed", path, "--upstream", "none", "--listen", &listen];
    let _process = crate::support::Switchyard::ready(net.addr(53, 7431), &args);
    for last in [1, 99] {
        let client = super::kit::client_of(net.addr(last, port));
        client.send(&question("svc1.testns.svc.Z A").to_vec().unwrap()).unwrap();
        assert_eq!(show(&receive(&client))[1], "svc1.testns.svc.Z 5 A 10.0.0.1");
        let mut connection = super::kit::Connection::to(net.addr(last, port));
        assert_eq!(connection.ask(&question("svc1.testns.svc.Z A")).answers.len(), 1);
    }
}

/// All addresses of both families, as one listener and as two.
#[test]
fn both_families() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("there is no IPv6 here");
        return;
    }
    let folder = crate::support::Folder::new();
    folder.replace("objects.yaml", OBJECTS);
    let path = folder.path().to_str().unwrap();
    for listeners in ["[::]:PORT", "0.0.0.0:PORT,[::]:PORT"] {
        let net = crate::support::Net::new();
        let port = super::kit::free_port("[::]");
        let listen = listeners.replace("PORT", &port.to_string());
        let args = ["dns", "--feed", path, "--upstream", "none", "--listen", &listen];
        let _process = crate::support::Switchyard::ready(net.addr(53, 7431), &args);
        for ip in [net.ip(3), "::1".parse().unwrap()] {
            let addr = std::net::SocketAddr::new(ip, port);
            let client = super::kit::client_of(addr);
            let message = question("svc1.testns.svc.Z A");
            assert_eq!(show(&exchange(&client, &message))[0], "NoError", "{addr}");
            let reply = super::kit::Connection::to(addr).ask(&message);
            assert_eq!(show(&reply)[0], "NoError", "{addr}");
        }
    }
}
