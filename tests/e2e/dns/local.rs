//! Names outside the cluster that need no usual upstream: `--hosts`, special names,
//! `--single-label` and `--forward`.

use std::process::Command;

use hickory_proto::op::Message;
use nix::sys::signal::Signal;

use super::forwarding::{Asked, answer, upstream};
use super::kit::{Dns, ONE_SERVICE, PORT, exchange, question, with_edns};
use crate::support::{Net, eventually};

/// The code, the answers, and the owners of SOA records.
fn lines(reply: &Message) -> Vec<String> {
    let mut lines = vec![format!("{:?}", reply.metadata.response_code)];
    for record in &reply.answers {
        lines.push(format!("{} {} {}", record.name, record.record_type(), record.data));
    }
    for record in &reply.authorities {
        lines.push(format!("+{} {}", record.name, record.record_type()));
    }
    lines
}

/// The reply, which must be the same over both transports.
fn ask(dns: &Dns, asked: &str) -> Vec<String> {
    let message = with_edns(question(asked), 1232, false);
    let over_udp = lines(&exchange(&dns.client(), &message));
    assert_eq!(over_udp, lines(&dns.connect().ask(&message)), "{asked}");
    over_udp
}

fn names(asked: &Asked) -> Vec<String> {
    let asked = asked.lock().unwrap();
    asked.iter().map(|(query, _)| query.queries[0].name().to_string().to_lowercase()).collect()
}

#[test]
fn the_hosts_file_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hosts");
    let path = file.to_str().unwrap();
    let dns = Dns::start_with(ONE_SERVICE, &["--upstream", "none", "--hosts", path]);
    assert_eq!(ask(&dns, "nas.home A"), ["Refused"]);
    let until = |text: &str, asked: &str, expected: &[&str]| {
        std::fs::write(&file, text).unwrap();
        dns.process.signal(Signal::SIGHUP);
        // The two transports may see the change at different moments.
        eventually(asked, || (lines(&dns.ask(asked)) == expected).then_some(()));
    };
    let text = "10.7.0.1 nas.home nas\nbroken line\n10.7.0.2 NAS.home # second\n";
    let both = ["NoError", "nas.home. A 10.7.0.1", "nas.home. A 10.7.0.2"];
    until(text, "nas.home A", &both);
    assert_eq!(ask(&dns, "nas A"), ["NoError", "nas. A 10.7.0.1"]);
    assert_eq!(ask(&dns, "nas.home AAAA"), ["NoError", "+nas.home. SOA"]);
    let pointer = ["NoError", "1.0.7.10.in-addr.arpa. PTR nas.home."];
    assert_eq!(ask(&dns, "1.0.7.10.in-addr.arpa PTR"), pointer);
    let reply = dns.ask("nas.home A");
    assert!(reply.metadata.authoritative && reply.answers[0].ttl == 5, "{reply}");
    // A change is seen at once: nothing is cached.
    until("10.7.0.9 nas.home\n", "nas.home A", &["NoError", "nas.home. A 10.7.0.9"]);
    until("", "nas.home A", &["Refused"]);
}

#[test]
fn special_names_do_not_reach_upstreams() {
    let net = Net::new();
    let asked = upstream(net.addr(1, 5353), answer);
    let address = net.addr(1, 5353).to_string();
    let dns = Dns::start_with(ONE_SERVICE, &["--upstream", &address]);
    assert_eq!(ask(&dns, "localhost A"), ["NoError", "localhost. A 127.0.0.1"]);
    assert_eq!(ask(&dns, "x.localhost AAAA"), ["NoError", "x.localhost. AAAA ::1"]);
    for name in ["x.invalid", "x.onion", "x.test"] {
        let top = name.rsplit('.').next().unwrap();
        assert_eq!(ask(&dns, &format!("{name} A")), ["NXDomain", &format!("+{top}. SOA")]);
    }
    let absent = ["NXDomain", "+168.192.in-addr.arpa. SOA"];
    assert_eq!(ask(&dns, "1.2.168.192.in-addr.arpa PTR"), absent);
    assert!(names(&asked).is_empty(), "{:?}", names(&asked));
    // Beside the ClusterIP 10.0.0.1.
    assert_eq!(ask(&dns, "9.0.0.10.in-addr.arpa PTR")[0], "NoError");
    assert_eq!(names(&asked)[0], "9.0.0.10.in-addr.arpa.");
}

#[test]
fn zones_have_servers_of_their_own() {
    let net = Net::new();
    let usual = upstream(net.addr(1, 5353), answer);
    let corp = upstream(net.addr(2, 5353), answer);
    let lab = upstream(net.addr(3, 5353), answer);
    let address = |last: u8| net.addr(last, 5353).to_string();
    let corp_zone = format!("corp.example={}", address(2));
    let lab_zone = format!("lab.corp.example={}", address(3));
    let flags = ["--upstream", &address(1), "--forward", &corp_zone, "--forward", &lab_zone];
    let special = ["--forward", "onion=upstream", "--forward", "own.corp.example=upstream"];
    let dns = Dns::start_with(ONE_SERVICE, &[&flags[..], &special].concat());
    let check = |name: &str, server: &Asked| {
        assert_eq!(ask(&dns, &format!("{name} A"))[0], "NoError", "{name}");
        assert!(
            names(server).contains(&format!("{}.", name.to_lowercase())),
            "{name}: {:?}",
            names(server)
        );
    };
    check("www.example", &usual);
    check("corp.example", &corp);
    check("www.Corp.example", &corp);
    check("a.lab.corp.example", &lab);
    check("a.own.corp.example", &usual);
    check("x.onion", &usual);
    let status = dns.process.status();
    assert_eq!(status["dns"]["forward"]["lab.corp.example"][0], address(3));
}

#[test]
fn zones_are_forwarded_without_an_upstream() {
    let net = Net::new();
    upstream(net.addr(2, 5353), answer);
    let zone = format!("corp.example={}", net.addr(2, 5353));
    let dns = Dns::start_with(ONE_SERVICE, &["--upstream", "none", "--forward", &zone]);
    assert_eq!(ask(&dns, "www.corp.example A")[0], "NoError");
    assert_eq!(ask(&dns, "www.example A"), ["Refused"]);
}

#[test]
fn a_single_label_is_a_service_of_one_namespace() {
    let net = Net::new();
    upstream(net.addr(1, 5353), answer);
    let address = net.addr(1, 5353).to_string();
    let dns = Dns::start_with(ONE_SERVICE, &["--upstream", &address, "--single-label", "ns"]);
    assert_eq!(ask(&dns, "WeB A"), ["NoError", "WeB. A 10.0.0.1"]);
    assert_eq!(ask(&dns, "web AAAA"), ["NoError", "+web. SOA"]);
    assert_eq!(ask(&dns, "other A"), ["NoError", "other. A 192.0.2.1"]);
}

#[test]
fn flags_that_cannot_work() {
    let net = Net::new();
    let listen = net.addr(53, PORT).to_string();
    let check = |flags: &[&str], part: &str| {
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_switchyard"))
            .args(["dns", "--feed", folder.path().to_str().unwrap(), "--listen", &listen])
            .args(["--admin", &net.addr(53, 7431).to_string()])
            .args(flags)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(said.contains(part), "{flags:?}: {said}");
    };
    check(&["--forward", "corp"], "is not ZONE=IP[:PORT]");
    check(&["--forward", "a..b=10.0.0.2"], "`a..b` is not a DNS name");
    check(&["--forward", "svc.cluster.local=10.0.0.2"], "names in cluster.local are answered here");
    let ourselves = format!("corp={listen}");
    check(&["--forward", &ourselves], "this process listens on");
    check(&["--single-label", "a.b"], "`a.b` is not a namespace");
    check(&["--tls-listen", "127.0.0.1:0"], "--tls-cert");
    let no_file = ["--tls-listen", "127.0.0.1:0", "--tls-cert", "/nonexistent", "--tls-key", "/x"];
    check(&no_file, "--tls-cert /nonexistent cannot be read");
}
