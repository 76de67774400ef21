//! The example of `configs/compose`, run as a user runs it: in a copy of a clone, with
//! docker-compose, from an image of the binary that cargo builds.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, setns};

use super::engine::{Engine, stdout};
use crate::support::{Folder, eventually};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// The prefix of everything that the tests create, so that nothing of the user is changed.
pub const PROJECT: &str = "switchyard-e2e";
pub const IMAGE: &str = "switchyard-e2e";
const CLIENT_IMAGE: &str = "switchyard-e2e-client";

/// Services that say when they are healthy.
const PROCESSES: [&str; 4] = ["feed", "proxy", "ingress", "dns"];

#[derive(Debug)]
pub struct World {
    pub clone: Folder,
    /// docker-compose, or docker and its plug-in.
    compose: Vec<&'static str>,
    // Ends after the containers.
    pub engine: Engine,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The static binary, as Dockerfile.prebuilt says to build it.
pub fn binary() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["build", "--profile", "dist", "--locked", "--target", TRIPLE]);
    // The settings of the test's own run would cause another build.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR"] {
        cargo.env_remove(name);
    }
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    stdout(&mut cargo, "cargo build");
    root().join("target").join(TRIPLE).join("dist/switchyard")
}

impl World {
    /// A copy of a clone, with the binary built, and an image with busybox instead of the one that
    /// would be pulled. Nothing runs yet.
    pub fn new() -> World {
        let engine = Engine::start();
        let clone = Folder::new();
        for file in ["Dockerfile", "Dockerfile.prebuilt", ".dockerignore"] {
            std::fs::copy(root().join(file), clone.file(file)).unwrap();
        }
        copy(&root().join("configs/compose"), &clone.file("configs/compose"));
        let target = clone.file("target").join(TRIPLE).join("dist");
        std::fs::create_dir_all(&target).unwrap();
        std::fs::copy(binary(), target.join("switchyard")).unwrap();
        let compose = compose(&engine);
        let world = World { clone, compose, engine };
        world.build_client();
        world
    }

    /// Runs the example until all its processes are healthy.
    pub fn up() -> World {
        let world = World::new();
        world.compose(&["up", "--build", "--detach"]);
        world.wait_healthy();
        world
    }

    fn build_client(&self) {
        let folder = Folder::new();
        std::fs::copy("/bin/busybox", folder.file("busybox")).expect("package busybox-static");
        let dockerfile = "FROM scratch\nCOPY busybox /bin/busybox\n\
                          RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n";
        folder.replace("Dockerfile", dockerfile);
        let path = folder.path().display().to_string();
        self.engine.docker(&["build", "--quiet", "--tag", CLIENT_IMAGE, &path]);
    }

    /// A command in the example's folder, as a user with our project and images.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.engine.command(program);
        command
            .current_dir(self.clone.file("configs/compose"))
            .env("COMPOSE_PROJECT_NAME", PROJECT)
            .env("SWITCHYARD_IMAGE", IMAGE)
            .env("DOCKERFILE", "Dockerfile.prebuilt")
            .env("CLIENT_IMAGE", CLIENT_IMAGE);
        command
    }

    /// What `docker compose` prints with these arguments.
    pub fn compose(&self, args: &[&str]) -> String {
        let mut command = self.command(self.compose[0]);
        command.args(&self.compose[1..]).args(args);
        stdout(&mut command, &format!("compose {args:?}"))
    }

    /// Makes `docker compose` work in a shell that only has docker-compose.
    pub fn shell_prelude(&self) -> &'static str {
        match self.compose[0] {
            "docker" => "",
            _ => {
                "docker() { if [ \"$1\" = compose ]; then shift; command docker-compose \"$@\"; \
                 else command docker \"$@\"; fi; }\n"
            }
        }
    }

    pub fn wait_healthy(&self) {
        for process in PROCESSES {
            let container = self.container(process);
            eventually(&format!("{process} is healthy"), || {
                let health = "{{.State.Health.Status}}";
                let health = self.engine.docker(&["inspect", "--format", health, &container]);
                (health.trim() == "healthy").then_some(())
            });
        }
    }

    /// The id of a service's only container.
    pub fn container(&self, service: &str) -> String {
        let ids = self.compose(&["ps", "--quiet", service]);
        let ids: Vec<_> = ids.split_whitespace().collect();
        assert_eq!(ids.len(), 1, "containers of {service}");
        ids[0].to_owned()
    }

    /// A container's address on the example's network.
    pub fn address(&self, container: &str) -> String {
        let each = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        self.engine.docker(&["inspect", "--format", each, container]).trim().to_owned()
    }

    /// Runs `work` in a container's network, on this thread alone.
    pub fn within<T: Send>(&self, container: &str, work: impl FnOnce() -> T + Send) -> T {
        let pid = self.engine.docker(&["inspect", "--format", "{{.State.Pid}}", container]);
        run_in(Path::new(&format!("/proc/{}/ns/net", pid.trim())), work)
    }

    /// The same on the network that represents the host's.
    pub fn on_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        run_in(&self.engine.network(), work)
    }
}

fn run_in<T: Send>(network: &Path, work: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(network).unwrap();
    let inside = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    std::thread::scope(|scope| match scope.spawn(inside).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

impl Drop for World {
    fn drop(&mut self) {
        let run = |program: &str, args: &[&str]| {
            let output = self.command(program).args(args).output();
            output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
        };
        let compose = |args: &[&'static str]| [&self.compose[1..], args].concat();
        if std::thread::panicking() {
            eprintln!("{}", run(self.compose[0], &compose(&["ps"])));
            eprintln!("{}", run(self.compose[0], &compose(&["logs", "--no-color"])));
        }
        run(self.compose[0], &compose(&["down", "--volumes", "--timeout", "1"]));
        run("docker", &["image", "rm", "--force", IMAGE, CLIENT_IMAGE]);
    }
}

/// docker-compose 1.29 if it is installed, because it is the oldest supported version; otherwise
/// the plug-in.
fn compose(engine: &Engine) -> Vec<&'static str> {
    for words in [vec!["docker-compose"], vec!["docker", "compose"]] {
        let mut version = engine.command(words[0]);
        let version = version.args(&words[1..]).arg("version").output();
        if version.is_ok_and(|output| output.status.success()) {
            return words;
        }
    }
    panic!("there is neither docker-compose (package docker-compose) nor docker compose");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}
