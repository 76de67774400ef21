//! `configs/systemd`: systemd accepts the units, rates them as hardened, and their commands run.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::Signal;

use crate::support::{Folder, Net, PATIENCE, Switchyard, eventually, http_get};

const BINARY: &str = env!("CARGO_BIN_EXE_switchyard");
/// The path of the binary in the units.
const INSTALLED: &str = "/usr/local/bin/switchyard";
const PROCESSES: [&str; 4] = ["feed", "proxy", "ingress", "dns"];
/// Services that may listen below port 1024.
const PRIVILEGED_PORTS: [&str; 3] = ["proxy", "ingress", "dns"];

const OBJECTS: &str = "\
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec: { clusterIP: 127.N.N.1, ports: [{ port: 80 }] }
";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/systemd")
}

/// The settings of a unit and of the shared file, in the order in which systemd applies them, as
/// name and value.
fn settings(process: &str) -> Vec<(String, String)> {
    let files =
        [format!("switchyard-{process}.service"), "switchyard-.service.d/10-common.conf".into()];
    let text = files.map(|file| std::fs::read_to_string(folder().join(file)).unwrap()).concat();
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
    let settings = lines.filter_map(|line| line.split_once('='));
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn values(process: &str, name: &str) -> Vec<String> {
    let all = settings(process).into_iter();
    all.filter(|(other, _)| other == name).map(|(_, value)| value).collect()
}

fn environment(process: &str) -> BTreeMap<String, String> {
    let all = values(process, "Environment").join(" ");
    let pairs = all.split(' ').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// A process as in its unit: its command and variables, with folders and addresses of the test.
struct Unit {
    process: Switchyard,
    notices: UnixDatagram,
    manifests: Folder,
    net: Net,
    _state: Folder,
}

impl Unit {
    fn start(process: &str) -> Unit {
        let (net, manifests, state) = (Net::new(), Folder::new(), Folder::new());
        manifests.replace("objects.yaml", &net.fill(OBJECTS));
        let socket = state.file("notify");
        let notices = UnixDatagram::bind(&socket).unwrap();
        notices.set_read_timeout(Some(PATIENCE)).unwrap();
        let command = values(process, "ExecStart");
        let words: Vec<_> = command[0].split(' ').collect();
        assert_eq!((command.len(), words[0]), (1, INSTALLED));
        let mut command = Command::new(BINARY);
        command.args(&words[1..]);
        let path = |folder: &Folder| folder.path().display().to_string();
        for (name, value) in environment(process) {
            // Different from ports that other programs may use on all addresses.
            let port = || 20_000 + value.rsplit(':').next().unwrap().parse::<u16>().unwrap();
            let value = match &*name {
                "SWITCHYARD_STATE_DIR" => path(&state),
                "SWITCHYARD_FEED" | "SWITCHYARD_DIR" => {
                    assert_eq!(value, "/etc/switchyard/manifests");
                    path(&manifests)
                }
                "SWITCHYARD_HTTP" | "SWITCHYARD_HTTPS" | "SWITCHYARD_LISTEN" => {
                    net.addr(4, port()).to_string()
                }
                "XDG_RUNTIME_DIR" => continue,
                _ => value,
            };
            command.env(name, value);
        }
        // The environment file of an operator.
        let admin = net.addr(250, 7411);
        command.env("SWITCHYARD_ADMIN", admin.to_string()).env("SWITCHYARD_WORKERS", "1");
        command.env("SWITCHYARD_NODE_IP", net.ip(200).to_string());
        command.env("NOTIFY_SOCKET", socket);
        let process = Switchyard::spawn(command, admin);
        Unit { process, notices, manifests, net, _state: state }
    }

    fn notice(&self) -> String {
        let mut buf = [0; 64];
        let len = self.notices.recv(&mut buf).expect("a notice");
        String::from_utf8(buf[..len].to_vec()).unwrap()
    }

    /// Runs the first command of a reload, on the test's folder.
    fn check(&self, process: &str) -> Output {
        let commands = values(process, "ExecReload");
        assert_eq!(commands[1..], ["/bin/kill -HUP $MAINPID"]);
        let folder = self.manifests.path().display().to_string();
        let command = commands[0].replace("/etc/switchyard/manifests", &folder);
        let words: Vec<_> = command.split(' ').collect();
        assert_eq!(words[0], INSTALLED);
        Command::new(BINARY).args(&words[1..]).output().unwrap()
    }
}

#[test]
fn each_unit_says_when_it_is_ready_and_when_it_stops() {
    for process in PROCESSES {
        assert_eq!(values(process, "Type"), ["notify"]);
        let unit = Unit::start(process);
        assert_eq!(unit.notice(), "READY=1", "{process}");
        let (code, reasons) = unit.process.admin_get("/readyz");
        assert_eq!(code, 200, "{process}: {reasons}");
        unit.process.signal(Signal::SIGTERM);
        assert_eq!(unit.notice(), "STOPPING=1", "{process}");
        assert_eq!(unit.process.wait().code(), Some(0), "{process}");
    }
}

#[test]
fn a_reload_says_what_is_wrong_before_it_reads_again() {
    let unit = Unit::start("proxy");
    assert_eq!(unit.notice(), "READY=1");
    assert!(unit.check("proxy").status.success());
    let broken = unit.net.fill(OBJECTS).replace("port: 80", "port: 99999");
    unit.manifests.replace("objects.yaml", &broken);
    let output = unit.check("proxy");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("objects.yaml:4:"), "{said}");
    // Manifests that the check refuses are not read.
    let frontends = || unit.process.admin_get("/snapshot").1;
    assert!(frontends().contains("shop"), "{}", frontends());
    unit.manifests.replace("objects.yaml", &unit.net.fill(OBJECTS).replace("80", "81"));
    assert!(unit.check("proxy").status.success());
    unit.process.signal(Signal::SIGHUP);
    eventually("the new port", || frontends().contains("81").then_some(()));
}

#[test]
fn a_process_whose_flags_are_wrong_is_not_started_again() {
    for process in PROCESSES {
        assert_eq!(values(process, "RestartPreventExitStatus"), ["2"]);
        let mut command = Command::new(BINARY);
        command.arg(process).env("SWITCHYARD_FEED", "/nonexistent");
        command.env("SWITCHYARD_DRAIN_TIMEOUT", "soon");
        assert_eq!(command.output().unwrap().status.code(), Some(2), "{process}");
    }
}

#[test]
fn nobody_may_do_more_than_listen_on_low_ports() {
    for process in PROCESSES {
        let is_low = PRIVILEGED_PORTS.contains(&process);
        let expected = if is_low { "CAP_NET_BIND_SERVICE" } else { "" };
        // A second value would be added to the first, and an empty one would clear it.
        assert_eq!(values(process, "CapabilityBoundingSet"), [expected], "{process}");
        let ambient = values(process, "AmbientCapabilities");
        assert_eq!(ambient, if is_low { vec![expected] } else { Vec::new() }, "{process}");
        for (name, value) in
            [("User", "switchyard"), ("ProtectSystem", "strict"), ("UMask", "0077")]
        {
            assert_eq!(values(process, name), [value], "{process}");
        }
        let stop: u64 = values(process, "TimeoutStopSec")[0].parse().unwrap();
        assert!(stop > 30, "less than --drain-timeout");
    }
}

/// The units with the binary of the test, for systemd to look at.
fn installed() -> Folder {
    let root = Folder::new();
    copy(&folder(), &root.file("etc/systemd/system"));
    root
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            std::fs::write(&to, text.replace(INSTALLED, BINARY)).unwrap();
        }
    }
}

#[test]
#[ignore = "needs systemd-analyze"]
fn systemd_finds_nothing_wrong() {
    let root = installed();
    let units = PROCESSES.map(|process| {
        let name = format!("etc/systemd/system/switchyard-{process}.service");
        root.file(&name).display().to_string()
    });
    let path = format!("{}:", root.file("etc/systemd/system").display());
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(&units)
        .env("SYSTEMD_UNIT_PATH", &path)
        .output()
        .expect("systemd-analyze is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    for unit in &units {
        // Exposure of at most 2.0 of 10, which systemd rates as OK.
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=20", "--no-pager", unit])
            .env("SYSTEMD_UNIT_PATH", &path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}

#[test]
#[ignore = "needs systemd-sysusers and systemd-tmpfiles"]
fn the_user_and_the_folders_are_made() {
    let root = Folder::new();
    let at = |name: &str| folder().join(name).display().to_string();
    let run = |program: &str, file: &str| {
        let mut command = Command::new(program);
        command.arg(format!("--root={}", root.path().display()));
        if program == "systemd-tmpfiles" {
            command.arg("--create");
        }
        let output = command.arg(at(file)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::create_dir_all(root.file("etc")).unwrap();
    run("systemd-sysusers", "sysusers.d/switchyard.conf");
    run("systemd-tmpfiles", "tmpfiles.d/switchyard.conf");
    let users = std::fs::read_to_string(root.file("etc/passwd")).unwrap();
    assert!(users.contains("switchyard:x:"), "{users}");
    let mode = |name: &str| std::fs::metadata(root.file(name)).unwrap().permissions().mode();
    assert_eq!(mode("etc/switchyard/manifests") & 0o777, 0o750);
}

/// As systemd starts it: not root, with the one ambient capability.
#[test]
#[ignore = "needs root and setpriv"]
fn an_ingress_that_is_not_root_listens_on_port_80() {
    let net = Net::new();
    let manifests = Folder::new();
    manifests.replace("objects.yaml", &net.fill(OBJECTS));
    std::fs::set_permissions(manifests.path(), Permissions::from_mode(0o755)).unwrap();
    let (http, https) = (net.addr(4, 80), net.addr(4, 443));
    let capability = values("ingress", "AmbientCapabilities")[0].to_lowercase();
    let capability = capability.strip_prefix("cap_").unwrap().to_owned();
    let only = format!("-all,+{capability}");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]);
    command.args(["--inh-caps", &only, "--ambient-caps", &only, "--bounding-set", &only, "--"]);
    // Other users may have no access to the folder of the binary.
    let binary = manifests.file(".switchyard");
    std::fs::copy(BINARY, &binary).unwrap();
    command.arg(&binary).args(["ingress", "--feed"]).arg(manifests.path());
    command.args(["--http", &http.to_string(), "--https", &https.to_string()]);
    let admin = net.addr(250, 7421);
    command.args(["--admin", &admin.to_string(), "--workers", "1"]);
    let process = Switchyard::spawn(command, admin);
    eventually("ready", || (process.admin_get("/readyz").0 == 200).then_some(()));
    assert_eq!(http_get(http, "nowhere.example", "/").unwrap().0, 404);
}
