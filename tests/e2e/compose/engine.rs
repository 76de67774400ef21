//! A Docker engine: the machine's, or where none answers one of our own, in a folder of its own
//! and ended with the test. One test at a time has it, because the example's ports and addresses
//! are fixed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long an engine may take to start or to end on a busy machine, and a command of it.
pub const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub struct Engine {
    host: Option<String>,
    own: Option<Own>,
    // Released last.
    _turn: File,
}

#[derive(Debug)]
struct Own {
    dockerd: Child,
    folder: tempfile::TempDir,
}

impl Engine {
    /// Waits for its turn, and starts an engine if none runs.
    pub fn start() -> Engine {
        let turn = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("compose.lock"));
        let turn = turn.unwrap();
        turn.lock().unwrap();
        let mut engine = Engine { host: None, own: None, _turn: turn };
        if !engine.answers() {
            let own = Own::start();
            engine.host = Some(own.host());
            engine.own = Some(own);
        }
        let begun = Instant::now();
        while !engine.answers() {
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

    /// A command that talks to the engine, away from what the operator has set.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars() {
            let lower = name.to_ascii_lowercase();
            if ["switchyard_", "compose_"].iter().any(|start| lower.starts_with(start))
                || lower.ends_with("_proxy")
            {
                command.env_remove(name);
            }
        }
        if let Some(host) = &self.host {
            command.env("DOCKER_HOST", host);
        }
        // The builder that is there without a plug-in.
        command.env("DOCKER_BUILDKIT", "0").stdin(Stdio::null());
        command
    }

    /// What `docker` prints with these arguments.
    pub fn docker(&self, args: &[&str]) -> String {
        stdout(self.command("docker").args(args), &format!("docker {args:?}"))
    }
}

/// What a command prints, which must succeed.
pub fn stdout(command: &mut Command, what: &str) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{what}: {said}{}", String::from_utf8_lossy(&stderr));
    said
}

impl Own {
    fn start() -> Own {
        // Its socket's path may have 107 bytes, so not below the target folder.
        let folder = tempfile::Builder::new().prefix("switchyard-docker").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let log = File::create(folder.path().join("log")).unwrap();
        let dockerd = Command::new("dockerd")
            .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
            .args(["--pidfile", &at("pid"), "--host", &format!("unix://{}", at("socket"))])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("dockerd is installed (package docker.io)");
        Own { dockerd, folder }
    }

    fn host(&self) -> String {
        format!("unix://{}", self.path("socket").display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
            let end = log.lines().rev().take(20).collect::<Vec<_>>();
            eprintln!("the end of dockerd's log, newest first:\n{}", end.join("\n"));
        }
        // A killed one would leave its mounts and its containerd behind.
        let _ = kill(Pid::from_raw(self.dockerd.id() as i32), Signal::SIGTERM);
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE && matches!(self.dockerd.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
