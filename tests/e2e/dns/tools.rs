//! The same with common command-line tools.

use std::process::Command;

use super::kit::{Dns, OBJECTS};

/// What a tool prints, without its blank lines.
fn run(tool: &str, dns: &Dns, args: &[&str]) -> Vec<String> {
    let server = format!("@{}", dns.addr.ip());
    let port = dns.addr.port().to_string();
    let output = Command::new(tool).args([&server, "-p", &port]).args(args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{tool} {args:?}: {text}");
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
#[ignore = "needs dig"]
fn dig_reads_the_answers() {
    let dns = Dns::start(OBJECTS);
    let check = |args: &str, expected: &[&str]| {
        for transport in ["+notcp", "+tcp"] {
            let args: Vec<&str> = args.split(' ').chain([transport, "+short"]).collect();
            let mut lines = run("dig", &dns, &args);
            lines.sort();
            assert_eq!(lines, expected, "{args:?}");
        }
    };
    check("svc1.testns.svc.cluster.local", &["10.0.0.1"]);
    check("svc6.testns.svc.cluster.local AAAA", &["1234:abcd::1"]);
    check("-x 10.0.0.1", &["svc1.testns.svc.cluster.local."]);
    check("-x 1234:abcd::1", &["svc6.testns.svc.cluster.local."]);
    check("-x 172.0.0.2", &["172-0-0-2.hdls1.testns.svc.cluster.local."]);
    let srv = "0 100 80 svc1.testns.svc.cluster.local.";
    check("_http._tcp.svc1.testns.svc.cluster.local SRV", &[srv]);
    let addresses = ["172.0.0.2", "172.0.0.3", "172.0.0.4", "172.0.0.5"];
    check("hdls1.testns.svc.cluster.local +noedns", &addresses);
    check("dns-version.cluster.local TXT", &["\"1.1.0\""]);
    let alias = ["10.0.0.1", "svc1.testns.svc.cluster.local."];
    check("external-to-service.testns.svc.cluster.local", &alias);
}

#[test]
#[ignore = "needs dig"]
fn dig_shows_headers_and_sections() {
    let dns = Dns::start(OBJECTS);
    let check = |args: &str, parts: &[&str]| {
        for transport in ["+notcp", "+tcp"] {
            let args: Vec<&str> = args.split(' ').chain([transport]).collect();
            let text = run("dig", &dns, &args).join("\n");
            for part in parts {
                assert!(text.contains(part), "{args:?}: `{part}` is not in\n{text}");
            }
            assert!(!text.contains("WARNING: Message parser"), "{text}");
            assert!(!text.contains("malformed"), "{text}");
        }
    };
    let soa = "cluster.local.\t\t5\tIN\tSOA\tns.dns.cluster.local. hostmaster.cluster.local.";
    check("svc0.testns.svc.cluster.local", &["status: NXDOMAIN", "flags: qr aa rd;", soa]);
    check("svc1.testns.svc.cluster.local TXT", &["status: NOERROR", "ANSWER: 0", soa]);
    check("svc1.testns.svc.cluster.local +dnssec", &["flags: do;", "udp: 1232"]);
    check("svc1.testns.svc.cluster.local +edns=1 +noednsneg", &["status: BADVERS"]);
    check("svc1.testns.svc.cluster.local +opcode=notify", &["status: NOTIMP"]);
    check("version.bind CH TXT", &["status: REFUSED"]);
    check("example.com", &["status: REFUSED", "flags: qr rd;"]);
    check("svc1.testns.svc.cluster.local +cookie +nsid", &["status: NOERROR", "10.0.0.1"]);
    check("svc1.testns.svc.cluster.local ANY", &["HINFO", "RFC8482"]);
    check("Svc1.TestNS.svc.cluster.local", &["Svc1.TestNS.svc.cluster.local. 5 IN\tA"]);
}

#[test]
#[ignore = "needs dig"]
fn kdig_keeps_a_connection() {
    let dns = Dns::start(OBJECTS);
    let names = ["svc1", "svcempty", "unnamed"].map(|n| format!("{n}.testns.svc.cluster.local"));
    let mut args = vec!["+tcp", "+keepopen", "+short"];
    args.extend(names.iter().map(String::as_str));
    assert_eq!(run("kdig", &dns, &args), ["10.0.0.1", "10.0.0.2", "10.0.0.4"]);
}
