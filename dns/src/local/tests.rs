//! What is answered without upstreams, read by another codec.

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record};

use super::*;
use crate::oracle::{question, send_to, with_edns};
use crate::respond::{Outcome, Policy};
use crate::wire::Name;
use crate::wire::reply::Transport;
use crate::zone::tests::zone;

const HOSTS: &str = "\
# A comment
10.7.0.1 Nas.Home nas   # the first name is that of the address
10.7.0.2	nas.home
fd07::1 nas.home
10.7.0.2 nas.home
127.0.0.1 localhost

203.0.113.9 ns.example
";

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn local(hosts: &str, routes: &[(&str, usize)]) -> Local {
    let hosts = Arc::new(Hosts::parse(hosts, &name("cluster.local")).0);
    let routes = routes.iter().map(|(zone, group)| (name(zone), *group));
    Local { hosts, routes: Arc::new(Routes::new(routes)), ttl: 5 }
}

/// The reply as lines; `forward` if upstreams are asked.
fn lines(zone: &Zone, local: &Local, asked: &str) -> Vec<String> {
    let policy = Policy { forwards: true, tells_version: false };
    let message = with_edns(question(asked), 1232, true);
    let packet = message.to_vec().unwrap();
    let over_tcp = send_to(zone, local, policy, &packet, Transport::Tcp);
    let over_udp = send_to(zone, local, policy, &packet, Transport::Udp);
    match (over_udp, over_tcp) {
        (Ok(udp), Ok(tcp)) => {
            assert_eq!(udp, tcp, "{asked}");
            let reply = Message::from_vec(&udp).expect("another codec can read it");
            let failed = reply.metadata.response_code.to_string() == "Server Failure";
            assert_eq!(reply.metadata.authoritative, !failed, "{asked}");
            assert!(reply.edns.is_some(), "{asked}");
            show(&reply)
        }
        (Err(Outcome::Forward), Err(Outcome::Forward)) => vec!["forward".to_owned()],
        (Err(Outcome::Follow(alias)), Err(_)) => vec![format!("follow {}", alias.target)],
        other => panic!("{asked}: {other:?}"),
    }
}

fn show(reply: &Message) -> Vec<String> {
    let mut lines = vec![format!("{:?}", reply.metadata.response_code)];
    lines.extend(reply.answers.iter().map(show_record));
    lines.extend(reply.authorities.iter().map(|record| format!("+{}", show_record(record))));
    lines
}

fn show_record(record: &Record) -> String {
    let data = match &record.data {
        // The SOA of RFC 6303 section 3.
        RData::SOA(soa) => {
            assert_eq!(soa.mname, record.name);
            assert_eq!(soa.rname.to_string(), "nobody.invalid.");
            let numbers = (soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum);
            assert_eq!(numbers, (1, 3600, 1200, 604_800, record.ttl));
            String::new()
        }
        data => format!(" {data}"),
    };
    format!("{} {} {}{data}", record.name, record.ttl, record.record_type())
}

fn check_in(local: &Local) -> impl Fn(&str, &[&str]) + '_ {
    let zone = zone();
    move |asked, expected| assert_eq!(lines(&zone, local, asked), expected, "{asked}")
}

#[test]
fn names_of_the_hosts_file() {
    let local = local(HOSTS, &[]);
    let check = check_in(&local);
    let nas = ["NoError", "nas.home. 5 A 10.7.0.1", "nas.home. 5 A 10.7.0.2"];
    check("nas.home A", &nas);
    check("NAS.home A", &["NoError", "NAS.home. 5 A 10.7.0.1", "NAS.home. 5 A 10.7.0.2"]);
    check("nas.home AAAA", &["NoError", "nas.home. 5 AAAA fd07::1"]);
    check("nas A", &["NoError", "nas. 5 A 10.7.0.1"]);
    check("nas AAAA", &["NoError", "+nas. 5 SOA"]);
    check("nas.home MX", &["NoError", "+nas.home. 5 SOA"]);
    check("nas.home SOA", &["NoError", "+nas.home. 5 SOA"]);
    check("nas.home ANY", &["NoError", "nas.home. 5 HINFO RFC8482 "]);
    // The first name of an address, as the file spells it.
    let pointer = |ip: &str, target: &str| format!("{ip}.in-addr.arpa. 5 PTR {target}");
    let first = pointer("1.0.7.10", "Nas.Home.");
    check("1.0.7.10.in-addr.arpa PTR", &["NoError", &first]);
    check("2.0.7.10.in-addr.arpa PTR", &["NoError", &pointer("2.0.7.10", "nas.home.")]);
    check("1.0.7.10.in-addr.arpa A", &["NoError", "+1.0.7.10.in-addr.arpa. 5 SOA"]);
    check("9.113.0.203.in-addr.arpa PTR", &["NoError", &pointer("9.113.0.203", "ns.example.")]);
    // Names around them belong to somebody else.
    check("home A", &["forward"]);
    check("x.nas.home A", &["forward"]);
    // The file wins over what is special.
    check("localhost A", &["NoError", "localhost. 5 A 127.0.0.1"]);
    check("localhost AAAA", &["NoError", "+localhost. 5 SOA"]);
    check("7.10.in-addr.arpa PTR", &["NoError", "+10.in-addr.arpa. 5 SOA"]);
}

#[test]
fn lines_that_are_wrong() {
    let check = |text: &str, names: usize, expected: &[(usize, &str)]| {
        let (hosts, bad) = Hosts::parse(text, &name("cluster.local"));
        let bad: Vec<_> = bad.iter().map(|bad| (bad.number, bad.problem.as_str())).collect();
        assert_eq!((hosts.len(), &*bad), (names, expected), "{text}");
    };
    check("", 0, &[]);
    check("\n# 1.2.3.4 a\n  \n", 0, &[]);
    check("10.0.0.1 a b.c d. A", 3, &[]);
    check("10.0.0.1\r\n10.0.0.2 a\r\n", 1, &[(1, "there is no name after 10.0.0.1")]);
    check("10.0.0.1 a..b c", 1, &[(1, "`a..b` is not a DNS name")]);
    check(
        "10.0.0.1 a\n\nx y\n10.0.0 z",
        1,
        &[(3, "`x` is not an IP address"), (4, "`10.0.0` is not an IP address")],
    );
    check("fe80::1%eth0 a", 0, &[(1, "`fe80::1%eth0` is not an IP address")]);
    let ours = "`web.ns.svc.cluster.local` is not served: names in cluster.local come from the \
                feed only";
    check("10.0.0.1 web.ns.svc.cluster.local web", 1, &[(1, ours)]);
}

#[test]
fn names_that_upstreams_cannot_know() {
    let local = local("", &[]);
    let check = check_in(&local);
    check("localhost A", &["NoError", "localhost. 10800 A 127.0.0.1"]);
    check("a.LocalHost AAAA", &["NoError", "a.LocalHost. 10800 AAAA ::1"]);
    check("a.localhost TXT", &["NoError", "+localhost. 10800 SOA"]);
    check("localhost ANY", &["NoError", "localhost. 10800 HINFO RFC8482 "]);
    check("notlocalhost A", &["forward"]);
    for top in ["invalid", "onion", "test"] {
        let soa = format!("+{top}. 10800 SOA");
        check(&format!("{top} A"), &["NXDomain", &soa]);
        check(&format!("a.b.{top} AAAA"), &["NXDomain", &soa]);
        check(&format!("{top}.example A"), &["forward"]);
    }
    check("_dns.resolver.arpa TYPE64", &["NXDomain", "+resolver.arpa. 10800 SOA"]);
    check(
        "1.0.0.127.in-addr.arpa PTR",
        &["NoError", "1.0.0.127.in-addr.arpa. 10800 PTR localhost."],
    );
    check("1.0.0.127.in-addr.arpa A", &["NoError", "+127.in-addr.arpa. 10800 SOA"]);
    let one = format!("1.{}ip6.arpa", "0.".repeat(31));
    check(&format!("{one} PTR"), &["NoError", &format!("{one}. 10800 PTR localhost.")]);
}

#[test]
fn private_reverse_zones() {
    let local = local("", &[]);
    let check = check_in(&local);
    let absent = |asked: &str, apex: &str| {
        check(&format!("{asked} PTR"), &["NXDomain", &format!("+{apex}. 5 SOA")]);
        check(&format!("{apex} SOA"), &["NoError", &format!("{apex}. 5 SOA")]);
        check(&format!("{apex} NS"), &["NoError", &format!("{apex}. 5 NS {apex}.")]);
        check(&format!("{apex} PTR"), &["NoError", &format!("+{apex}. 5 SOA")]);
    };
    absent("1.2.3.10.in-addr.arpa", "10.in-addr.arpa");
    absent("x.1.2.3.10.in-addr.arpa", "10.in-addr.arpa");
    absent("1.0.192.172.in-addr.arpa".replace("192", "16").as_str(), "16.172.in-addr.arpa");
    absent("1.0.31.172.in-addr.arpa", "31.172.in-addr.arpa");
    absent("1.0.168.192.in-addr.arpa", "168.192.in-addr.arpa");
    absent("1.0.0.0.in-addr.arpa", "0.in-addr.arpa");
    absent("2.0.0.127.in-addr.arpa", "127.in-addr.arpa");
    absent("1.0.254.169.in-addr.arpa", "254.169.in-addr.arpa");
    absent("1.2.0.192.in-addr.arpa", "2.0.192.in-addr.arpa");
    absent("1.100.51.198.in-addr.arpa", "100.51.198.in-addr.arpa");
    absent("1.113.0.203.in-addr.arpa", "113.0.203.in-addr.arpa");
    absent("x.255.255.255.255.in-addr.arpa", "255.255.255.255.in-addr.arpa");
    absent("1.0.64.100.in-addr.arpa", "64.100.in-addr.arpa");
    absent("1.0.127.100.in-addr.arpa", "127.100.in-addr.arpa");
    absent("1.d.f.ip6.arpa", "d.f.ip6.arpa");
    for digit in ["8", "9", "a", "b"] {
        absent(&format!("1.{digit}.e.f.ip6.arpa"), &format!("{digit}.e.f.ip6.arpa"));
    }
    absent("1.8.b.d.0.1.0.0.2.ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa");
    absent(&format!("x.{}ip6.arpa", "0.".repeat(32)), &format!("{}ip6.arpa", "0.".repeat(32)));
    for public in [
        "8.8.8.8.in-addr.arpa",
        "1.0.15.172.in-addr.arpa",
        "1.0.32.172.in-addr.arpa",
        "172.in-addr.arpa",
        "1.0.128.100.in-addr.arpa",
        "1.3.0.192.in-addr.arpa",
        "c.e.f.ip6.arpa",
        "e.f.ip6.arpa",
        "c.f.ip6.arpa",
        "in-addr.arpa",
        "ip6.arpa",
        "1.2.0.0.ip6.arpa",
        "arpa",
    ] {
        check(&format!("{public} PTR"), &["forward"]);
    }
}

/// The fixture has endpoints at 172.0.0.x and 5678:abcd::x; those of its ClusterIPs are owned.
#[test]
fn private_names_beside_ours_are_forwarded() {
    use crate::zone::tests::zone_with;
    let zone = zone_with(&["ns/host 192.168.1.10 80/tcp", "ns/six fd00:0:0:1::a 80/tcp"]);
    let local = local("", &[]);
    let check = |asked: &str, expected: &[&str]| {
        assert_eq!(lines(&zone, &local, asked), expected, "{asked}");
    };
    check("20.1.168.192.in-addr.arpa PTR", &["forward"]);
    check("1.168.192.in-addr.arpa PTR", &["forward"]);
    check("x.1.168.192.in-addr.arpa PTR", &["forward"]);
    check("20.2.168.192.in-addr.arpa PTR", &["NXDomain", "+168.192.in-addr.arpa. 5 SOA"]);
    check("168.192.in-addr.arpa PTR", &["NoError", "+168.192.in-addr.arpa. 5 SOA"]);
    let of = |group: &str, host: &str| {
        let nibbles: Vec<String> = format!("{host:0>16}").chars().rev().map(String::from).collect();
        format!("{}.{group}.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR", nibbles.join("."))
    };
    check(&of("1", "b"), &["forward"]);
    check(&of("2", "b"), &["NXDomain", "+d.f.ip6.arpa. 5 SOA"]);
    // A name with ours below it exists.
    check("0.0.d.f.ip6.arpa PTR", &["NoError", "+d.f.ip6.arpa. 5 SOA"]);
    check("1.0.d.f.ip6.arpa PTR", &["NXDomain", "+d.f.ip6.arpa. 5 SOA"]);
}

#[test]
fn special_names_may_be_forwarded() {
    let zones = [("onion", 1), ("10.in-addr.arpa", 1), ("x.test", 0), ("arpa", 1)];
    let local = local("", &zones);
    let check = check_in(&local);
    check("a.onion A", &["forward"]);
    check("onion A", &["forward"]);
    check("1.0.7.10.in-addr.arpa PTR", &["forward"]);
    check("10.in-addr.arpa PTR", &["forward"]);
    check("a.x.test A", &["forward"]);
    check("y.test A", &["NXDomain", "+test. 10800 SOA"]);
    // The zone `arpa` is shorter than the private one.
    check("1.0.168.192.in-addr.arpa PTR", &["NXDomain", "+168.192.in-addr.arpa. 5 SOA"]);
    let local = self::local("", &[("1.168.192.in-addr.arpa", 1)]);
    let check = check_in(&local);
    check("1.1.168.192.in-addr.arpa PTR", &["forward"]);
    check("168.192.in-addr.arpa PTR", &["NoError", "+168.192.in-addr.arpa. 5 SOA"]);
    check("1.2.168.192.in-addr.arpa PTR", &["NXDomain", "+168.192.in-addr.arpa. 5 SOA"]);
}

#[test]
fn before_all_objects_are_known() {
    use crate::zone::tests::unsynced;
    let (zone, local) = (unsynced(), local(HOSTS, &[]));
    let check = |asked: &str, expected: &[&str]| {
        assert_eq!(lines(&zone, &local, asked), expected, "{asked}");
    };
    check("localhost A", &["NoError", "localhost. 5 A 127.0.0.1"]);
    check("nas A", &["NoError", "nas. 5 A 10.7.0.1"]);
    check("x.onion A", &["NXDomain", "+onion. 10800 SOA"]);
    check("1.0.96.10.in-addr.arpa PTR", &["ServFail"]);
    check("1.0.7.10.in-addr.arpa PTR", &["ServFail"]);
    check("96.10.in-addr.arpa PTR", &["ServFail"]);
    check("10.in-addr.arpa PTR", &["NoError", "+10.in-addr.arpa. 5 SOA"]);
    check("www.example A", &["forward"]);
}

/// An alias of ours may lead to a name that is answered here.
#[test]
fn aliases_are_continued() {
    let hosts = "10.7.0.1 ext.interwebs.test";
    let (with, without) = (local(hosts, &[]), local("", &[]));
    let external = "external.testns.svc.cluster.local";
    let alias = format!("{external}. 5 CNAME ext.interwebs.test.");
    let asked = "external.testns.svc.Z A";
    check_in(&with)(asked, &["NoError", &alias, "ext.interwebs.test. 5 A 10.7.0.1"]);
    check_in(&without)(asked, &["NXDomain", &alias, "+test. 10800 SOA"]);
    let forwarded = local("", &[("test", 1)]);
    check_in(&forwarded)(asked, &["follow ext.interwebs.test"]);
}

proptest::proptest! {
    #[test]
    fn any_file_is_survived(text in "[ -~\n\t\u{e9}#.:0-9a-c]{0,200}") {
        let (hosts, bad) = Hosts::parse(&text, &name("cluster.local"));
        let lines = text.lines().count();
        assert!(bad.iter().all(|bad| (1..=lines).contains(&bad.number)));
        assert!(hosts.len() <= text.split_ascii_whitespace().count());
    }
}
