//! A folder of manifests, edited in the ways of people and tools, followed by a real process: what
//! its clients get, and what its operator sees.

#![allow(clippy::print_stdout, reason = "how long a change took is worth reading")]

use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Instant;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::support::{Folder, Net, PATIENCE, Switchyard, eventually};

fn service(name: &str, ip: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: \
        {ip}\n  \
         ports:\n  - port: 80\n"
    )
}

/// A DNS process that follows a folder.
struct Dns {
    folder: Folder,
    process: Switchyard,
    listen: SocketAddr,
    socket: UdpSocket,
}

impl Dns {
    fn start(prepare: impl FnOnce(&Folder)) -> Dns {
        let net = Net::new();
        let folder = Folder::new();
        prepare(&folder);
        let listen = net.addr(1, 1053);
        let args =
            ["dns", "--feed", folder.path().to_str().unwrap(), "--listen", &listen.to_string()];
        let process = Switchyard::ready(net.addr(2, 7431), &args);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Dns { folder, process, listen, socket }
    }

    /// The address of a Service; `None` if the name does not exist.
    fn resolve(&self, service: &str) -> Option<Ipv4Addr> {
        let name = format!("{service}.default.svc.cluster.local.");
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        self.socket.send_to(&query.to_vec().unwrap(), self.listen).unwrap();
        let mut answer = [0; 1500];
        let (length, _) = self.socket.recv_from(&mut answer).unwrap();
        let answer = Message::from_vec(&answer[..length]).unwrap();
        match answer.metadata.response_code {
            ResponseCode::NXDomain => None,
            ResponseCode::NoError => answer.answers.iter().find_map(|record| match &record.data {
                RData::A(ip) => Some(ip.0),
                _ => None,
            }),
            other => panic!("{other}"),
        }
    }

    /// Waits until a Service has this address, and prints how long that took.
    fn until(&self, what: &str, service: &str, ip: &str) {
        let begun = Instant::now();
        let wanted: Ipv4Addr = ip.parse().unwrap();
        eventually(what, || (self.resolve(service) == Some(wanted)).then_some(()));
        println!("{what}: {:?}", begun.elapsed());
    }

    fn until_rejected(&self, what: &str) -> serde_json::Value {
        eventually(what, || {
            let status = self.process.status();
            let of = |level: &str| status["feed"][level].as_array().unwrap().clone();
            let mut reports = of("rejected").into_iter().chain(of("warned"));
            reports.find(|r| r["message"].as_str().is_some_and(|m| m.contains(what)))
        })
    }
}

/// A name, and how it writes a file's new text.
type Way<'a> = (&'a str, Box<dyn Fn(&str) + 'a>);

#[test]
fn each_way_of_editing_a_file_is_served() {
    let dns = Dns::start(|folder| {
        fs::write(folder.file("web.yaml"), service("web", "10.0.0.1")).unwrap();
        fs::write(folder.file("still.yaml"), service("still", "10.9.9.9")).unwrap();
    });
    assert_eq!(dns.resolve("web"), Some(Ipv4Addr::new(10, 0, 0, 1)));
    let file = dns.folder.file("web.yaml");
    let others = Cell::new(0u8);
    let mut ways: Vec<Way<'_>> = Vec::new();
    ways.push(("rename", Box::new(|text| dns.folder.replace("web.yaml", text))));
    ways.push(("in place", Box::new(|text| fs::write(&file, text).unwrap())));
    ways.push((
        "same times and size",
        Box::new(|text| {
            let modified = fs::metadata(&file).unwrap().modified().unwrap();
            let mut open = fs::OpenOptions::new().write(true).open(&file).unwrap();
            open.write_all(text.as_bytes()).unwrap();
            open.set_modified(modified).unwrap();
        }),
    ));
    ways.push((
        "truncate and slow write",
        Box::new(|text| {
            let mut open = fs::File::create(&file).unwrap();
            let (head, tail) = text.split_at(text.len() / 2);
            open.write_all(head.as_bytes()).unwrap();
            open.flush().unwrap();
            // Other changes are still served, as is this file's last good state.
            others.set(others.get() + 1);
            let other = format!("10.9.9.{}", others.get());
            dns.folder.replace("still.yaml", &service("still", &other));
            dns.until("beside a slow writer", "still", &other);
            assert!(dns.resolve("web").is_some());
            open.write_all(tail.as_bytes()).unwrap();
        }),
    ));
    ways.push((
        "deleted and created",
        Box::new(|text| {
            fs::remove_file(&file).unwrap();
            eventually("deleted", || dns.resolve("web").is_none().then_some(()));
            fs::write(&file, text).unwrap();
        }),
    ));
    for (i, (what, edit)) in ways.iter().cycle().take(ways.len() * 2).enumerate() {
        let ip = format!("10.0.1.{}", i + 1);
        edit(&service("web", &ip));
        dns.until(what, "web", &ip);
    }
}

#[test]
fn a_config_map_and_a_whole_folder_are_swapped() {
    let version = |folder: &Folder, number: u8| {
        let data = folder.file(&format!("..v{number}"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("web.yaml"), service("web", &format!("10.0.0.{number}"))).unwrap();
        symlink(&data, folder.file("..tmp")).unwrap();
        fs::rename(folder.file("..tmp"), folder.file("..data")).unwrap();
    };
    let dns = Dns::start(|folder| {
        version(folder, 1);
        symlink("..data/web.yaml", folder.file("web.yaml")).unwrap();
    });
    for number in 2..5 {
        version(&dns.folder, number);
        dns.until("..data", "web", &format!("10.0.0.{number}"));
    }
    let aside = tempfile::tempdir().unwrap();
    for number in 5..8 {
        let new = aside.path().join("new");
        fs::create_dir(&new).unwrap();
        fs::write(new.join("web.yaml"), service("web", &format!("10.0.0.{number}"))).unwrap();
        fs::rename(dns.folder.path(), aside.path().join(format!("old{number}"))).unwrap();
        assert!(dns.resolve("web").is_some(), "a folder that is missing changes nothing");
        fs::rename(&new, dns.folder.path()).unwrap();
        dns.until("folder", "web", &format!("10.0.0.{number}"));
    }
}

#[test]
fn a_broken_file_stops_no_other_and_is_named_with_its_place() {
    let dns = Dns::start(|folder| {
        fs::write(folder.file("a.yaml"), service("a", "10.0.0.1")).unwrap();
        let bad = service("b", "10.0.0.2").replace("ports", "prots") + &service("c", "10.0.0.3");
        fs::write(folder.file("b.yaml"), bad).unwrap();
    });
    let resolved = ["a", "b", "c"].map(|name| dns.resolve(name).is_some());
    assert_eq!(resolved, [true, false, true]);
    let report = dns.until_rejected("spec.prots");
    assert_eq!((&report["line"], &report["column"]), (&7.into(), &3.into()));
    assert_eq!(report["file"], dns.folder.file("b.yaml").to_str().unwrap());
    assert_eq!(report["object"], "Service default/b");
    assert_eq!(report["help"], "did you mean `ports`?");
    let metrics = dns.process.admin_get("/metrics").1;
    let counted = r#"switchyard_objects{kind="Service",state="rejected"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    dns.folder.replace("a.yaml", "kind: [\n");
    dns.folder.replace("b.yaml", &service("b", "10.0.0.4"));
    dns.until("the other file", "b", "10.0.0.4");
    assert!(dns.resolve("a").is_some(), "the last good state stays");
    assert_eq!(dns.resolve("c"), None, "what was taken out is gone");
    assert_eq!(dns.until_rejected("not valid YAML")["line"], 1);
}

#[test]
fn what_is_too_much_is_refused_at_little_cost() {
    let dns = Dns::start(|folder| {
        fs::write(folder.file("a.yaml"), service("a", "10.0.0.1")).unwrap();
    });
    let begun = Instant::now();
    let mut aliases = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (from, to) in "abcdefghi".chars().zip("bcdefghij".chars()) {
        aliases += &format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 10].join(", "));
    }
    let bombs = [
        ("aliases.yaml", aliases.into_bytes(), "aliases expanded"),
        ("deep.yaml", vec![b'['; 200_000], "recursion limit exceeded"),
        ("deep.json", vec![b'['; 200_000], "not valid JSON: nested deeper"),
        ("dashes.yaml", b"- ".repeat(200_000), "nested deeper than 64"),
        ("line.yaml", vec![b'x'; 100 << 20], "the limit is 64 MiB"),
    ];
    for (name, content, _) in &bombs {
        let beside = dns.folder.file(&format!(".{name}"));
        fs::write(&beside, content).unwrap();
        fs::rename(&beside, dns.folder.file(name)).unwrap();
    }
    dns.folder.replace("a.yaml", &service("a", "10.0.0.2"));
    dns.until("beside the bombs", "a", "10.0.0.2");
    for (name, _, message) in &bombs {
        let report = dns.until_rejected(message);
        assert!(report["file"].as_str().unwrap().ends_with(name), "{report}");
    }
    println!("all refused within {:?}", begun.elapsed());
    let status = fs::read_to_string(format!("/proc/{}/status", dns.process.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("peak memory: {peak_kb} kB");
    assert!(peak_kb < 200 * 1024, "{peak_kb} kB");
}

#[test]
fn a_hangup_reads_again_at_once() {
    let dns = Dns::start(|folder| {
        fs::write(folder.file("a.yaml"), service("a", "10.0.0.1")).unwrap();
    });
    let scanned = || dns.process.status()["feed"]["lastScanSeconds"].as_f64().unwrap();
    eventually("some time after a scan", || (scanned() > 0.3).then_some(()));
    dns.process.signal(nix::sys::signal::Signal::SIGHUP);
    eventually("a scan at once", || (scanned() < 0.3).then_some(()));
}

/// Runs the command to its end; exit code, standard output and standard error.
fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    let output = command.args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_says_what_is_wrong_and_exits_accordingly() {
    let folder = Folder::new();
    let path = folder.path().to_str().unwrap();
    fs::write(folder.file("a.yaml"), service("a", "10.0.0.1")).unwrap();
    let (code, out, _) = run(&["check", path]);
    assert_eq!(code, Some(0), "warnings alone are no failure");
    assert!(out.contains("a.yaml:4:18: warning: Service default/a has no endpoints"), "{out}");
    fs::write(folder.file("b.yaml"), service("b", "10.0.0.2").replace("80", "80000")).unwrap();
    let (code, out, _) = run(&["check", path]);
    assert_eq!(code, Some(2));
    let message = "b.yaml:8:11: error: spec.ports[0].port: Invalid value: 80000: must be between";
    assert!(out.contains(message) && out.contains("8 |   - port: 80000\n"), "{out}");
    let file = folder.file("b.yaml");
    let (code, out, _) = run(&["check", "--output", "json", file.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["errors"], &json["files"]), (Some(2), &2.into(), &1.into()));
    let (code, _, err) = run(&["check", folder.file("none").to_str().unwrap()]);
    assert!(code == Some(2) && err.contains("No such file"), "{code:?} {err}");
}

#[test]
fn a_source_that_cannot_work_is_a_configuration_error() {
    for (source, words) in [
        ("http://", "not a valid URL of an API"),
        ("https://user:secret@feed.example", "--feed-token-file"),
        ("http://feed.example/?watch=1", "it has a query"),
        ("no-such-folder", "cannot read the folder"),
        ("127.0.0.1:7400", "for a feed there write http://"),
        ("", "empty"),
    ] {
        let (code, _, err) = run(&["dns", "--feed", source, "--admin", "127.0.0.1:0"]);
        assert!(code == Some(2) && err.contains(words), "{source}: {code:?} {err}");
    }
}
