//! The commands demo, up, check and echo, and the examples of `configs`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Folder, Net, Switchyard, eventually, http_get};

const BINARY: &str = env!("CARGO_BIN_EXE_switchyard");

#[test]
fn the_demo_shows_every_part_as_expected() {
    let output = Command::new(BINARY).args(["demo", "--once"]).output().unwrap();
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    for part in ["dns ", "proxy ", "ingress ", "feed "] {
        assert!(table.lines().any(|line| line.starts_with(part)), "no row of {part}: {table}");
    }
}

#[test]
fn the_demo_tells_of_an_edit_that_is_rejected() {
    let mut command = Command::new(BINARY);
    command.arg("demo").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut demo = command.spawn().unwrap();
    let (stdout, stderr) = (demo.stdout.take().unwrap(), demo.stderr.take().unwrap());
    let mut said = BufReader::new(stdout).lines().map_while(Result::ok);
    let begin = "The manifests are in ";
    let folder = said.find_map(|line| line.strip_prefix(begin).map(PathBuf::from)).unwrap();
    let file = folder.join("web.yaml");
    let manifest = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, manifest.replace("clusterIP:", "clusterIp:")).unwrap();
    let mut log = BufReader::new(stderr).lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains("did you mean `clusterIP`?")), "nothing was said");
    let pid = nix::unistd::Pid::from_raw(demo.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    assert!(demo.wait().unwrap().success());
}

/// Every folder of `configs` with manifests that a user can start from.
#[test]
fn every_example_folder_is_clean() {
    let configs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut checked = 0;
    for entry in std::fs::read_dir(configs).unwrap() {
        let folder = entry.unwrap().path();
        // If there are other files, the manifests are in a subfolder.
        let manifests = folder.join("manifests");
        let folder = if manifests.is_dir() { manifests } else { folder };
        // Files of other programs have their own tests, and so has the folder of ingress-nginx,
        // which shows what is named and not served.
        let others = ["grafana", "prometheus", "systemd", "ingress-nginx"];
        if others.iter().any(|name| folder.ends_with(name)) {
            continue;
        }
        let output = Command::new(BINARY).arg("check").arg(&folder).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !said.contains("error:"), "{folder:?}: {said}");
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn check_names_the_line_and_exits_2() {
    let folder = Folder::new();
    let manifest = "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\nspec:\n  prots: []\n";
    folder.replace("web.yaml", manifest);
    let output = Command::new(BINARY).arg("check").arg(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("web.yaml:6:3: error: ") && said.contains("ports"), "{said}");
}

#[test]
fn check_forgives_warnings_unless_it_is_strict() {
    let folder = Folder::new();
    let service = "{ apiVersion: v1, kind: Service, metadata: { name: web }, \
                   spec: { clusterIP: 10.96.0.9, ports: [{ port: 80 }] } }";
    folder.replace("web.yaml", service);
    for (strict, code) in [(None, 0), (Some("--strict"), 2)] {
        let mut check = Command::new(BINARY);
        let output = check.arg("check").args(strict).arg(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("warning: Service default/web has no endpoints"), "{said}");
    }
}

/// Loopback endpoints in a folder for one machine cause no warnings.
#[test]
fn a_loopback_endpoint_is_a_note() {
    let folder = Folder::new();
    let objects = "{ apiVersion: v1, kind: Service, metadata: { name: web }, \
                   spec: { clusterIP: 127.1.2.9, ports: [{ port: 8000 }] } }\n---\n\
                   { apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
                   metadata: { name: web-1, labels: { kubernetes.io/service-name: web } }, \
                   ports: [{ port: 8000 }], endpoints: [{ addresses: [127.1.2.3] }] }";
    folder.replace("web.yaml", objects);
    let mut check = Command::new(BINARY);
    let output = check.args(["check", "--strict"]).arg(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("note: ") && said.contains("0 errors, 0 warnings"), "{said}");
}

fn printed(arguments: &[&str]) -> String {
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = printed(&["--version"]);
    let expected = concat!("switchyard ", env!("CARGO_PKG_VERSION"));
    let rest = version.trim().strip_prefix(expected).unwrap();
    assert!(rest.is_empty() || rest.starts_with(" (") && rest.ends_with(')'), "{version}");
}

#[test]
fn every_shell_has_completions_and_every_command_a_page() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        assert!(script.contains("explain") && script.contains("service-cidr"), "{shell}");
    }
    let folder = Folder::new();
    printed(&["man", "--dir", folder.path().to_str().unwrap()]);
    for command in ["", "-up", "-proxy", "-ingress", "-dns", "-feed", "-check", "-explain"] {
        let page = std::fs::read_to_string(folder.file(&format!("switchyard{command}.1")));
        assert!(page.unwrap().contains(".SH NAME"), "{command}");
    }
    assert_eq!(
        printed(&["man", "up"]),
        std::fs::read_to_string(folder.file("switchyard-up.1")).unwrap()
    );
    let unknown = Command::new(BINARY).args(["man", "upp"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}

#[test]
#[ignore = "needs bash"]
fn bash_completes() {
    let table =
        [("ex", "explain"), ("proxy --service", "--service-cidr"), ("check --output j", "json")];
    for (typed, completed) in table {
        let words: Vec<_> = typed.split(' ').collect();
        let (last, before) = (words[words.len() - 1], words.len());
        let previous = if before > 1 { words[before - 2] } else { "switchyard" };
        let script = format!(
            "eval \"$({BINARY} completions bash)\"; COMP_WORDS=(switchyard {typed}); \
             COMP_CWORD={before}; _switchyard switchyard '{last}' '{previous}'; \
             echo \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), completed, "{typed}: {output:?}");
    }
}

#[test]
#[ignore = "needs mandoc"]
fn mandoc_reads_the_pages() {
    let folder = Folder::new();
    printed(&["man", "--dir", folder.path().to_str().unwrap()]);
    let mut read = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let page = entry.unwrap().path();
        let mandoc = |arguments: &[&str]| {
            let output =
                Command::new("mandoc").args(arguments).arg(&page).output().expect("mandoc");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{page:?}: {said}");
            said
        };
        mandoc(&["-T", "lint", "-W", "error"]);
        assert!(mandoc(&["-T", "html"]).contains("OPTIONS"), "{page:?}");
        read += 1;
    }
    assert!(read > 8);
}

#[test]
fn bad_usage_exits_2_and_a_taken_address_1() {
    let unknown = Command::new(BINARY).arg("proxi").stderr(Stdio::null()).status().unwrap();
    assert_eq!(unknown.code(), Some(2));
    let net = Net::new();
    let taken = std::net::TcpListener::bind(net.addr(1, 8000)).unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let mut echo = Command::new(BINARY);
    echo.args(["echo", "--listen", &listen]).stderr(Stdio::null());
    assert_eq!(echo.status().unwrap().code(), Some(1));
}

/// `up` for an empty folder, with all addresses in one net.
struct Up {
    process: Switchyard,
    net: Net,
    folder: Folder,
}

fn up_command(net: Net, folder: &Folder) -> Command {
    let at = |port: u16| net.addr(1, port).to_string();
    let ip = net.ip(1).to_string();
    let mut command = Command::new(BINARY);
    command.arg("up").arg(folder.path()).args(["--http", &at(8080), "--https", &at(8443)]);
    command.args(["--dns", &at(1053), "--node-ip", &ip, "--admin-ip", &ip]);
    command.args(["--feed-listen", &at(7400), "--drain-timeout", "7s"]);
    command
}

impl Up {
    fn start() -> Up {
        let (net, folder) = (Net::new(), Folder::new());
        folder.replace("web.yaml", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: web\n");
        let mut command = up_command(net, &folder);
        // Settings of a feed server for other machines do not apply to this feed, and neither does
        // a limit for the ingress.
        command
            .env("SWITCHYARD_MAX_CONNECTIONS", "2")
            .env("SWITCHYARD_TLS_CERT", "/nonexistent")
            .env("SWITCHYARD_TLS_KEY", "/nonexistent");
        let process = Switchyard::spawn(command, net.addr(1, 7411));
        let up = Up { process, net, folder };
        for port in [7401, 7411, 7421, 7431] {
            up.wait_ready(port);
        }
        up
    }

    fn wait_ready(&self, port: u16) {
        eventually("a process of up is ready", || self.is_ready(port).then_some(()));
    }

    fn is_ready(&self, port: u16) -> bool {
        let page = http_get(self.net.addr(1, port), "localhost", "/readyz");
        page.is_ok_and(|(status, _)| status == 200)
    }

    /// The children of `up`, by their subcommand.
    fn child(&self, subcommand: &str) -> nix::unistd::Pid {
        eventually("the child runs", || {
            let tasks = format!("/proc/{0}/task/{0}/children", self.process.pid());
            let children = std::fs::read_to_string(tasks).ok()?;
            let is_wanted = |pid: &&str| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.split(|b| *b == 0).nth(1) == Some(subcommand.as_bytes())
            };
            let pid = children.split_whitespace().find(is_wanted)?;
            Some(nix::unistd::Pid::from_raw(pid.parse().ok()?))
        })
    }
}

#[test]
fn up_starts_a_child_again_that_was_killed_and_drains_all() {
    let up = Up::start();
    let killed = up.child("dns");
    let flags = std::fs::read_to_string(format!("/proc/{killed}/cmdline")).unwrap();
    assert!(flags.contains("--drain-timeout\x007000ms\0"), "{flags}");
    nix::sys::signal::kill(killed, Signal::SIGKILL).unwrap();
    let again = eventually("another dns process", || {
        let now = up.child("dns");
        (now != killed).then_some(now)
    });
    up.wait_ready(7431);
    assert_ne!(again, killed);
    up.process.signal(Signal::SIGTERM);
    assert!(up.process.wait().success());
    assert!(http_get(up.net.addr(1, 7431), "localhost", "/livez").is_err(), "dns still runs");
}

/// The others continue to serve without it, and follow the next one.
#[test]
fn up_outlives_its_feed() {
    let up = Up::start();
    let query = |name: &str| {
        let page = http_get(up.net.addr(1, 7431), "localhost", "/snapshot").unwrap().1;
        page.contains(name)
    };
    let killed = up.child("feed");
    nix::sys::signal::kill(killed, Signal::SIGKILL).unwrap();
    up.folder.replace("late.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: late}\n");
    let service = "{ apiVersion: v1, kind: Service, metadata: { name: one, namespace: late }, \
                   spec: { clusterIP: 10.96.7.7, ports: [{ port: 80 }] } }";
    up.folder.replace("one.yaml", service);
    assert!(up.is_ready(7431), "dns serves on");
    eventually("the next feed is followed", || query("10.96.7.7").then_some(()));
    assert_ne!(up.child("feed"), killed);
}

/// Another program has an address of `up`: nothing starts, and the message names the program and
/// the flag for another address.
#[test]
fn up_beside_a_server_at_one_of_its_addresses_ends_and_names_it() {
    let table = [
        (7400, "feed", "--feed-listen"),
        (7401, "feed", "--admin-ip"),
        (8080, "ingress", "--http"),
        (8443, "ingress", "--https"),
        (7421, "ingress", "--admin-ip"),
        (1053, "dns", "--dns"),
    ];
    let (net, folder) = (Net::new(), Folder::new());
    folder.replace("web.yaml", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: web\n");
    for (port, process, flag) in table {
        let address = net.addr(1, port);
        let other = std::net::TcpListener::bind(address).unwrap();
        let output = up_command(net, &folder).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let expected = format!("error: {process}: {address} is in use by ");
        assert!(said.starts_with(&expected), "{said}");
        let holder = format!("(process {})", std::process::id());
        let end = format!("{holder}: stop it, or choose another address with {flag}\n");
        assert!(said.ends_with(&end), "{said}");
        other.set_nonblocking(true).unwrap();
        assert!(other.accept().is_err(), "it was connected to");
    }
    let _udp = std::net::UdpSocket::bind(net.addr(1, 1053)).unwrap();
    let output = up_command(net, &folder).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// The log of a command goes to a closed pipe, to a full disk, or to a pipe that is not read: edits
/// are still served, and SIGTERM ends it.
#[test]
fn up_whose_log_cannot_be_written_serves_edits_and_ends() {
    let gone = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        (None, Stdio::from(writer))
    };
    let full = || {
        let file = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        (None, Stdio::from(file))
    };
    let stuck = || {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let pid = std::os::fd::AsRawFd::as_raw_fd(&writer);
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .unwrap_or_else(|error| panic!("{pid}: {error}"));
        while std::io::Write::write(&mut writer, &[b'x'; 4096]).is_ok() {}
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))
            .unwrap();
        (Some(reader), Stdio::from(writer))
    };
    let logs: [&dyn Fn() -> (Option<std::io::PipeReader>, Stdio); 3] = [&gone, &full, &stuck];
    for log in logs {
        let (net, folder) = (Net::new(), Folder::new());
        folder.replace("web.yaml", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: web\n");
        let (_reader, stderr) = log();
        let mut command = up_command(net, &folder);
        command.stderr(stderr);
        let process = Switchyard::spawn(command, net.addr(1, 7401));
        let up = Up { process, net, folder };
        up.wait_ready(7431);
        // Each of these edits causes a line in the log.
        for number in 1..=3 {
            up.folder.replace("bad.yaml", &format!("kind: Nonsense{number}\n"));
            let service = format!(
                "{{ apiVersion: v1, kind: Service, metadata: {{ name: s{number} }}, \
                 spec: {{ clusterIP: 10.96.7.{number}, ports: [{{ port: 80 }}] }} }}"
            );
            up.folder.replace("one.yaml", &service);
            eventually("the edit is served", || {
                let page = http_get(net.addr(1, 7431), "localhost", "/snapshot").ok()?.1;
                page.contains(&format!("10.96.7.{number}\"")).then_some(())
            });
        }
        assert!(up.process.status()["logLinesLost"].as_u64().unwrap() > 0);
        up.process.signal(Signal::SIGTERM);
        assert!(up.process.wait().success());
    }
}

#[test]
fn up_passes_flags_on_and_says_when_it_is_ready() {
    let (net, folder) = (Net::new(), Folder::new());
    let service = "{ apiVersion: v1, kind: Service, metadata: { name: one }, \
                   spec: { clusterIP: 10.96.7.7, ports: [{ port: 80 }] } }";
    folder.replace("one.yaml", service);
    let unallocated = "{ apiVersion: v1, kind: Service, metadata: { name: two }, \
                       spec: { ports: [{ port: 80 }] } }";
    folder.replace("two.yaml", unallocated);
    let mut command = up_command(net, &folder);
    command.args(["--domain", "example.test", "--log-format", "text"]);
    let mut up = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(up.stderr.take().unwrap()).lines().map_while(Result::ok);
    let ready = log.find(|line| line.contains("ready: ")).expect("it is ready");
    let url = format!("ready: http://{}", net.addr(1, 8080));
    assert!(ready.contains(&url) && ready.contains("(2 Services, 1 warning)"), "{ready}");
    let snapshot = http_get(net.addr(1, 7431), "localhost", "/snapshot").unwrap().1;
    assert!(snapshot.contains("example.test"), "{snapshot}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(up.id() as i32), Signal::SIGTERM).unwrap();
    std::thread::spawn(move || log.count());
    assert!(up.wait().unwrap().success());
}

/// It contains objects, including TLS keys.
#[test]
fn what_a_killed_up_left_goes_at_the_next_start() {
    let base = Folder::new();
    let left = || std::fs::read_dir(base.path()).unwrap().count();
    for kill in [true, false] {
        let (net, folder) = (Net::new(), Folder::new());
        folder.replace("web.yaml", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: web\n");
        let mut command = up_command(net, &folder);
        command.env("TMPDIR", base.path());
        let process = Switchyard::spawn(command, net.addr(1, 7401));
        let up = Up { process, net, folder };
        up.wait_ready(7401);
        assert_eq!(left(), 1, "only the one that runs");
        up.process.signal(if kill { Signal::SIGKILL } else { Signal::SIGTERM });
        assert_eq!(up.process.wait().success(), !kill);
    }
    assert_eq!(left(), 0);
}

#[test]
fn a_place_for_temporary_files_is_found_or_named() {
    let mut demo = Command::new(BINARY);
    demo.args(["demo", "--once"]).env("TMPDIR", "/nonexistent");
    let output = demo.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_demo_fits_80_columns() {
    let output = Command::new(BINARY).args(["demo", "--once"]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    let wide: Vec<_> = table.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:#?}");
}

#[test]
fn a_wrong_value_names_where_it_came_from() {
    let run = |arguments: &[&str], variable: Option<(&str, &str)>| {
        let mut command = Command::new(BINARY);
        command.args(arguments).envs(variable);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        said
    };
    let proxy = ["proxy", "--feed", "."];
    let said = run(&proxy, Some(("SWITCHYARD_DRAIN_TIMEOUT", "soon")));
    assert!(said.contains("'soon' for SWITCHYARD_DRAIN_TIMEOUT:"), "{said}");
    let flag = ["proxy", "--feed", ".", "--drain-timeout", "soon"];
    let said = run(&flag, Some(("SWITCHYARD_DRAIN_TIMEOUT", "soon")));
    assert!(said.contains("'--drain-timeout <TIME>'"), "{said}");
    for filter in ["verbose", "nonsense=foo"] {
        let said = run(&["proxy", "--feed", ".", "--log", filter], None);
        assert!(said.contains("is not a level (off, error, warn,"), "{said}");
    }
    // Not JSON, although the output is not a terminal.
    let said = run(&["up", "nonexistent"], None);
    assert_eq!(said, "error: nonexistent is not a folder\n");
}

/// The addresses of the ingress are never endpoints of the folder that it serves.
#[test]
fn the_demos_endpoints_are_not_on_a_port_of_up() {
    for name in ["web.yaml", "api.yaml", "db.yaml", "ingress.yaml"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/demo").join(name);
        let text = std::fs::read_to_string(path).unwrap();
        for port in ["8080", "8443", "1053", "7400"] {
            assert!(!text.contains(port), "{name} has port {port}");
        }
    }
}

#[test]
fn an_address_without_its_ip_is_told_how_to_be_written() {
    let folder = Folder::new();
    let folder = folder.path().to_str().unwrap();
    let table: [&[&str]; 4] = [
        &["up", folder, "--http", "8080"],
        &["ingress", "--feed", folder, "--https", "8443"],
        &["dns", "--feed", folder, "--listen", "53"],
        &["echo", "--listen", "localhost"],
    ];
    for arguments in table {
        let output = Command::new(BINARY).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains("write IP:PORT, such as 0.0.0.0:8080"), "{arguments:?}: {said}");
    }
}

#[test]
fn up_serves_what_a_broken_manifest_was_when_its_feed_is_killed() {
    let up = Up::start();
    let service = |ip: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: one}}\nspec:\n  clusterIP: {ip}\n  \
             ports: [{{port: 80}}]\n"
        )
    };
    up.folder.replace("one.yaml", &service("10.96.7.8"));
    let served = || {
        let page = http_get(up.net.addr(1, 7431), "localhost", "/snapshot");
        page.is_ok_and(|(_, page)| page.contains("10.96.7.8"))
    };
    eventually("it is served", || served().then_some(()));
    let state = eventually("the feed's state", || {
        let command =
            std::fs::read_to_string(format!("/proc/{}/cmdline", up.child("feed"))).ok()?;
        let mut words = command.split('\0');
        words.find(|word| *word == "--state-dir")?;
        Some(std::path::PathBuf::from(words.next()?))
    });
    eventually("it is saved", || {
        let text = std::fs::read_to_string(state.join("feed.objects")).ok()?;
        text.contains("10.96.7.8").then_some(())
    });
    up.folder.replace("one.yaml", &service("wrong"));
    let killed = up.child("feed");
    nix::sys::signal::kill(killed, Signal::SIGKILL).unwrap();
    eventually("another feed", || (up.child("feed") != killed).then_some(()));
    up.wait_ready(7401);
    up.folder.replace("two.yaml", &service("10.96.7.9").replace("one", "two"));
    eventually("the next feed is followed", || {
        let page = http_get(up.net.addr(1, 7431), "localhost", "/snapshot").ok()?.1;
        page.contains("10.96.7.9").then_some(())
    });
    assert!(served());
    up.process.signal(Signal::SIGTERM);
    assert!(up.process.wait().success());
    assert!(!state.exists(), "the state goes with it");
}

/// A problem that appears after the process was ready may be temporary.
#[test]
fn up_outlives_its_folder_and_a_feed_that_cannot_start_without_it() {
    let up = Up::start();
    let aside = up.folder.path().with_extension("aside");
    std::fs::rename(up.folder.path(), &aside).unwrap();
    let killed = up.child("feed");
    nix::sys::signal::kill(killed, Signal::SIGKILL).unwrap();
    eventually("another feed was tried", || (up.child("feed") != killed).then_some(()));
    std::fs::rename(&aside, up.folder.path()).unwrap();
    up.wait_ready(7401);
    assert!(up.is_ready(7431), "dns serves on");
}

#[test]
fn up_serves_no_other_machine() {
    let folder = Folder::new();
    let mut up = Command::new(BINARY);
    up.arg("up").arg(folder.path()).args(["--feed-listen", "0.0.0.0:7400"]);
    let output = up.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("not on loopback") && said.contains("switchyard feed"), "{said}");
}

#[test]
fn children_end_when_up_is_killed() {
    let up = Up::start();
    let child = up.child("proxy");
    up.process.signal(Signal::SIGKILL);
    let begun = Instant::now();
    while std::path::Path::new(&format!("/proc/{child}/status")).exists() && !is_zombie(child) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the proxy outlived up");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ended, but not yet reaped by its present parent.
fn is_zombie(pid: nix::unistd::Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && line.contains('Z'))
}
