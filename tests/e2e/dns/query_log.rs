//! `--query-log`: which queries are logged, and what is said of them; and the counters by zone.

use std::process::Command;

use serde_json::Value;

use super::forwarding::{answer, upstream};
use super::kit::{Dns, ONE_SERVICE, PORT, WEB, question};
use crate::support::{Folder, Net, Switchyard, eventually};

/// A responder with its log in a file.
struct Logged {
    dns: Dns,
    log: Folder,
}

impl Logged {
    fn start(net: Net, flags: &[&str]) -> Logged {
        let (folder, log) = (Folder::new(), Folder::new());
        folder.replace("objects.yaml", ONE_SERVICE);
        let (addr, admin) = (net.addr(53, PORT), net.addr(53, 7431));
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
        command.args(["dns", "--feed", folder.path().to_str().unwrap(), "--workers", "1"]);
        command.args(["--listen", &addr.to_string(), "--admin", &admin.to_string()]);
        command.args(["--log-format", "json"]).args(flags);
        command.stderr(std::fs::File::create(log.file("log")).unwrap());
        let process = Switchyard::spawn(command, admin);
        eventually("it is ready", || (process.admin_get("/readyz").0 == 200).then_some(()));
        Logged { dns: Dns { net, folder, process, addr }, log }
    }

    /// The lines about queries.
    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.log.file("log")).unwrap();
        // The last line may be incomplete.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["target"] == "dns::queries").collect()
    }

    fn wait(&self, count: usize) -> Vec<Value> {
        eventually("the lines", || Some(self.lines()).filter(|lines| lines.len() >= count))
    }
}

#[test]
fn each_query_is_logged_with_what_answered_it() {
    let net = Net::new();
    upstream(net.addr(1, 5353), answer);
    let server = net.addr(1, 5353).to_string();
    let corp = format!("corp={server}");
    let flags = ["--query-log", "all", "--upstream", &server, "--forward", &corp];
    let logged = Logged::start(net, &flags);
    let dns = &logged.dns;
    for name in [WEB, "www.example.com A", "www.example.com A", "localhost AAAA", "a.corp A"] {
        assert_eq!(dns.show(name)[0], "NoError", "{name}");
    }
    dns.connect().ask(&question("nothing.ns.svc.Z A"));
    let mut two = question(WEB);
    two.add_query(two.queries[0].clone());
    super::kit::exchange(&dns.client(), &two);
    let lines = logged.wait(7);
    let field = |line: &Value, name: &str| line[name].as_str().unwrap_or("-").to_owned();
    let names = ["proto", "name", "qtype", "rcode", "answered_by"];
    let told = lines.iter().map(|line| names.map(|name| field(line, name)).join(" "));
    let expected = [
        "udp web.ns.svc.cluster.local A NOERROR zone",
        "udp www.example.com A NOERROR upstream",
        "udp www.example.com A NOERROR cache",
        "udp localhost AAAA NOERROR local",
        "udp a.corp A NOERROR upstream",
        "tcp nothing.ns.svc.cluster.local A NXDOMAIN zone",
        "udp - - FORMERR refused",
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["duration_us"].is_u64(), [1, 4].contains(&index), "{line}");
        assert!(line["size"].as_u64().unwrap() >= 12 && line["dropped"].is_null(), "{line}");
        assert!(line["client"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        assert_eq!((&line["dnssec_ok"], &line["level"]), (&false.into(), &"INFO".into()));
    }
    let count = |labels: &str| dns.metric(&format!("switchyard_dns_queries_total{{{labels}}}"));
    let zone = |zone: &str| format!(r#"proto="udp",qtype="A",rcode="NOERROR",zone="{zone}""#);
    assert_eq!(count(&zone("cluster.local.")), 1.0);
    assert_eq!(count(&zone(".")), 2.0);
    assert_eq!(count(&zone("corp.")), 1.0);
    assert_eq!(count(r#"proto="udp",qtype="AAAA",rcode="NOERROR",zone="local""#), 1.0);
    assert_eq!(count(r#"proto="udp",qtype="none",rcode="FORMERR",zone="none""#), 1.0);
    for waited in [".", "corp."] {
        let series = format!("switchyard_dns_request_seconds_count{{zone=\"{waited}\"}}");
        assert_eq!(dns.metric(&series), 1.0, "{waited}");
    }
    assert_eq!(dns.metric("switchyard_dns_query_log_lost_total"), 0.0);
}

#[test]
fn errors_and_dropped_replies_are_logged() {
    let limits = ["--rate-limit", "1", "--rate-limit-exempt", "203.0.113.0/24"];
    let flags = [&["--query-log", "errors", "--upstream", "none"][..], &limits].concat();
    let logged = Logged::start(Net::new(), &flags);
    let client = logged.dns.client();
    super::kit::exchange(&client, &question("www.example.com A"));
    for _ in 0..9 {
        client.send(&question(WEB).to_vec().unwrap()).unwrap();
    }
    // Of the replies over the limit, every second is cut, which is no error.
    let lines = logged.wait(5);
    assert_eq!(
        (&lines[0]["rcode"], &lines[0]["answered_by"]),
        (&"REFUSED".into(), &"refused".into())
    );
    for line in &lines[1..] {
        assert_eq!((&line["dropped"], &line["size"]), (&true.into(), &0.into()), "{line}");
        assert_eq!((&line["rcode"], &line["answered_by"]), (&"NOERROR".into(), &"zone".into()));
    }
    assert_eq!(logged.dns.metric("switchyard_dns_rate_limited_total"), 4.0);
}

#[test]
fn nothing_is_logged_by_default() {
    let logged = Logged::start(Net::new(), &["--upstream", "none"]);
    logged.dns.show("www.example.com A");
    logged.dns.show(WEB);
    logged.dns.process.signal(nix::sys::signal::Signal::SIGTERM);
    let Logged { dns, log } = logged;
    assert!(dns.process.wait().success());
    let text = std::fs::read_to_string(log.file("log")).unwrap();
    assert!(text.contains("answering") && !text.contains("dns::queries"), "{text}");
}
