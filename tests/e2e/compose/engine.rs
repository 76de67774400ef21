//! A Docker engine of the test's own: its folder, its network namespace, ended with the test. So
//! the ports that the example publishes cannot be in use, and other programs of the machine are not
//! affected. Only one test at a time has an engine, because engines are heavy.

use std::fs::File;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long an engine may take to start or to end, and a command to run, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The name server of the network that represents the host's.
const NAMES: &str = "192.0.2.53";

#[derive(Debug)]
pub struct Engine {
    dockerd: Child,
    folder: tempfile::TempDir,
    namespace: String,
    // Released last.
    _turn: File,
}

impl Engine {
    /// Waits for its turn, and starts the engine.
    pub fn start() -> Engine {
        let turn = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("compose.lock"));
        let turn = turn.unwrap();
        turn.lock().unwrap();
        let namespace = format!("switchyard-docker-{}", std::process::id());
        ip(&["netns", "add", &namespace]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        ip(&["-n", &namespace, "address", "add", &format!("{NAMES}/32"), "dev", "lo"]);
        answer_no_names(&Path::new("/run/netns").join(&namespace));
        // A socket's path is limited to 107 bytes, so it is not below the target folder.
        let folder = tempfile::Builder::new().prefix("switchyard-docker").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let log = File::create(folder.path().join("log")).unwrap();
        // Not `ip netns exec`, because its /sys has no control groups.
        let dockerd = Command::new("nsenter")
            .args([&format!("--net=/run/netns/{namespace}"), "dockerd"])
            .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
            .args([
                "--dns",
                NAMES,
                "--pidfile",
                &at("pid"),
                "--host",
                &format!("unix://{}", at("socket")),
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut engine = Engine { dockerd, folder, namespace, _turn: turn };
        let begun = Instant::now();
        while !engine.answers() {
            let ended = engine.dockerd.try_wait().unwrap();
            assert!(ended.is_none(), "dockerd (package docker.io) ended: {ended:?}");
            assert!(begun.elapsed() < PATIENCE, "dockerd does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        engine
    }

    fn answers(&self) -> bool {
        let mut version = self.command("docker");
        version.args(["version", "--format", "{{.Server.Version}}"]).stdout(Stdio::null());
        version.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// A command on the engine's network, without the operator's Docker settings.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.network().display())).arg(program);
        for (name, _) in std::env::vars() {
            let lower = name.to_ascii_lowercase();
            let of_ours = lower.starts_with("switchyard_") || lower.starts_with("compose_");
            if of_ours || lower.ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        command
            .env("DOCKER_HOST", format!("unix://{}", self.folder.path().join("socket").display()));
        // The builder that works without a plug-in.
        command.env("DOCKER_BUILDKIT", "0").stdin(Stdio::null());
        command
    }

    /// The network that represents the host's.
    pub fn network(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    /// What `docker` prints with these arguments.
    pub fn docker(&self, args: &[&str]) -> String {
        stdout(self.command("docker").args(args), &format!("docker {args:?}"))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let end = log.lines().rev().take(20).collect::<Vec<_>>();
            eprintln!("the end of dockerd's log, newest first:\n{}", end.join("\n"));
        }
        // A killed one would leave its mounts and its containerd behind.
        let _ = kill(Pid::from_raw(self.dockerd.id() as i32), Signal::SIGTERM);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE && matches!(self.dockerd.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
    }
}

/// A name server that answers NXDOMAIN for the name of a stopped container, on a thread that ends
/// with the process. Without a name server, Docker's resolver would not answer at all.
fn answer_no_names(network: &Path) {
    let namespace = File::open(network).unwrap();
    let serve = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let socket = UdpSocket::bind((NAMES, 53)).unwrap();
        let mut message = [0; 512];
        loop {
            let Ok((length, client)) = socket.recv_from(&mut message) else { continue };
            if length > 3 {
                // A reply, with recursion available: NXDOMAIN (RFC 1035, section 4.1.1).
                message[2] |= 0x80;
                message[3] = 0x83;
                let _ = socket.send_to(&message[..length], client);
            }
        }
    };
    std::thread::spawn(serve);
}

fn ip(args: &[&str]) {
    stdout(Command::new("ip").args(args), &format!("ip {args:?}"));
}

/// What a command prints, which must succeed.
pub fn stdout(command: &mut Command, what: &str) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{what}: {said}{}", String::from_utf8_lossy(&stderr));
    said
}
