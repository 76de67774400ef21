//! The example of `configs/compose` in a real Docker engine: the image, what the page about it
//! says, and that endpoints come and go without a lost request.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "figures, and logs of what failed")]

mod engine;
mod load;
mod page;
mod world;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::load::{Aim, Fault, Load, Seen};
use self::world::{IMAGE, World};
use crate::support::eventually;

/// The limit for the size of the image.
const MAX_IMAGE_BYTES: u64 = 28_000_000;

const INGRESS: Aim = Aim {
    address: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080),
    host: "shop.localhost",
    path: "/",
    answerer: "web-",
    requests_each: 50,
};

/// Clients of each kind.
const CLIENTS: usize = 4;

/// The ClusterIP of `web`; each request has a connection of its own.
fn cluster_ip() -> Aim {
    Aim { address: "10.97.96.10:80".parse().unwrap(), requests_each: 1, ..INGRESS }
}

#[test]
#[ignore = "needs root and Docker"]
fn the_image_is_one_small_static_binary_that_runs_as_nobody() {
    let world = World::new();
    world.compose(&["build"]);
    let docker = |args: &[&str]| world.engine.docker(args);
    let inspect = |what: &str| docker(&["image", "inspect", "--format", what, IMAGE]);
    let bytes: u64 = inspect("{{.Size}}").trim().parse().unwrap();
    println!("the image has {bytes} bytes");
    assert!(bytes <= MAX_IMAGE_BYTES, "{bytes} bytes");
    assert_eq!(inspect("{{.Config.User}}").trim(), "65532:65532");
    assert_eq!(inspect("{{json .Config.Entrypoint}}").trim(), "[\"/switchyard\"]");
    assert!(inspect("{{json .Config.Labels}}").contains("org.opencontainers.image.title"));
    // It starts, so it needs no library, and it contains nothing else.
    assert!(docker(&["run", "--rm", IMAGE, "--version"]).starts_with("switchyard "));
    let container = docker(&["create", IMAGE]);
    let listing = world.clone.file("image.tar").display().to_string();
    docker(&["export", "--output", &listing, container.trim()]);
    docker(&["rm", container.trim()]);
    let tar = std::process::Command::new("tar").args(["-tf", &listing]).output().unwrap();
    let files = String::from_utf8(tar.stdout).unwrap();
    // Docker itself adds mount points for its devices and files.
    let files: Vec<_> = files
        .lines()
        .filter(|file| !file.ends_with('/'))
        .filter(|file| {
            !["dev/", "etc/", "proc/", "sys/", ".docker"].iter().any(|d| file.starts_with(d))
        })
        .collect();
    assert_eq!(files, ["switchyard"]);
}

/// The engine has no access to a registry, so the build from source must fail at the pull.
#[test]
#[ignore = "needs root and Docker"]
fn the_rust_image_is_pulled_to_build_from_source_and_nothing_for_a_binary_that_is_there() {
    let world = World::new();
    let build = |file: &str| {
        let path = world.clone.path().display().to_string();
        let mut docker = world.engine.command("docker");
        docker.args(["build", "--file", &format!("{path}/{file}"), &path]).output().unwrap()
    };
    let prebuilt = build("Dockerfile.prebuilt");
    let printed = String::from_utf8_lossy(&prebuilt.stdout);
    assert!(prebuilt.status.success(), "{prebuilt:?}");
    assert!(printed.contains("FROM scratch") && !printed.contains("rust"), "{printed}");
    let from_source = build("Dockerfile");
    let (printed, said) = (
        String::from_utf8_lossy(&from_source.stdout),
        String::from_utf8_lossy(&from_source.stderr),
    );
    assert!(!from_source.status.success(), "{printed}");
    let last = printed.lines().rfind(|line| line.starts_with("Step "));
    assert!(last.is_some_and(|step| step.contains("FROM rust:")), "{printed}{said}");
    assert!(said.contains("registry") || said.contains("lookup"), "{said}");
}

#[test]
fn both_dockerfiles_describe_one_image() {
    let description = |text: &'static str| -> Vec<_> {
        let lines = text.lines().skip_while(|line| !line.starts_with("LABEL "));
        lines.take_while(|line| !line.starts_with("COPY ")).collect()
    };
    let from_source = description(include_str!("../../Dockerfile"));
    assert!(from_source.contains(&"USER 65532:65532"), "{from_source:?}");
    assert_eq!(from_source, description(include_str!("../../Dockerfile.prebuilt")));
}

#[test]
#[ignore = "needs root, Docker, curl, dig, kubectl and openssl"]
fn the_page_can_be_followed() {
    page::follow(&World::new());
}

/// Clients through the ingress, on the host; clients of a ClusterIP, in a container; and wrk on a
/// path whose Service is scaled.
#[test]
#[ignore = "needs root, Docker and wrk"]
fn endpoints_come_and_go_without_a_lost_request() {
    let world = World::up();
    world.compose(&[
        "run",
        "--detach",
        "--name",
        "switchyard-e2e-client",
        "client",
        "sleep",
        "600",
    ]);
    let (through_ingress, through_cluster_ip) = (Load::default(), Load::default());
    let ended = std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| world.on_host(|| through_ingress.client(INGRESS)));
            scope.spawn(|| {
                let client = || through_cluster_ip.client(cluster_ip());
                world.within("switchyard-e2e-client", client);
            });
        }
        let both = [&through_ingress, &through_cluster_ip];
        // The clients must end in any case.
        let changes =
            std::panic::AssertUnwindSafe(|| with_wrk(&world, || change_endpoints(&world, both)));
        let outcome = std::panic::catch_unwind(changes);
        both.iter().for_each(|load| load.stop());
        outcome
    });
    let (ingress, cluster_ip) = (through_ingress.into_seen(), through_cluster_ip.into_seen());
    print("ingress", &ingress);
    print("ClusterIP", &cluster_ip);
    let ended = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert!(ingress.faults.is_empty());
    // Connections that were open to a container when it ended, or in its queue, are lost; each
    // client has one connection at a time.
    let mut excused = 0;
    for (before, after) in ended {
        let is_its = |f: &&Fault| f.was_open && f.begun <= after && f.at >= before && f.at <= after;
        let its = cluster_ip.faults.iter().filter(is_its).count();
        assert!(its <= CLIENTS, "{its} of {CLIENTS}");
        excused += its;
    }
    assert_eq!(cluster_ip.faults.len(), excused, "connections to containers that had not ended");
}

fn print(what: &str, seen: &Seen) {
    let total: u64 = seen.answers.values().sum();
    println!("{what}: {total} answers {:?}, slowest {:?}", seen.answers, seen.slowest);
    for fault in seen.faults.iter().take(20) {
        println!("{what}: {} {fault:?}", fault.what);
    }
}

/// Stops, recreates, kills and scales endpoints. Returns when an endpoint under load ended.
fn change_endpoints(world: &World, loads: [&Load; 2]) -> Vec<(Instant, Instant)> {
    let mut ended = Vec::new();
    let mut end = |work: &dyn Fn() -> String| {
        let before = Instant::now();
        work();
        ended.push((before, Instant::now()));
    };
    let answers = |name: &&str| {
        let before = loads.map(|load| load.answers_of(name));
        eventually(&format!("{name} answers"), || {
            let now = loads.map(|load| load.answers_of(name));
            (now[0] > before[0] && now[1] > before[1]).then_some(())
        });
    };
    ["web-1", "web-2"].iter().for_each(answers);
    end(&|| world.compose(&["stop", "web-1"]));
    answers(&"web-2");
    world.compose(&["start", "web-1"]);
    ["web-1", "web-2"].iter().for_each(answers);

    // It returns with another address, while a container of another Service gets its old address.
    let address = world.address(&world.container("web-1"));
    end(&|| world.compose(&["rm", "--stop", "--force", "web-1"]));
    let scaled = ["--scale", "api-server=3"];
    world.compose(&[&["up", "--detach", "--no-recreate"], &scaled[..], &["api-server"]].concat());
    world.compose(&[&["up", "--detach", "--no-recreate"], &scaled[..], &["web-1"]].concat());
    assert_ne!(world.address(&world.container("web-1")), address);
    ["web-1", "web-2"].iter().for_each(answers);

    let container = world.container("web-2");
    end(&|| world.engine.docker(&["kill", &container]));
    answers(&"web-1");
    world.engine.docker(&["start", &container]);
    ["web-1", "web-2"].iter().for_each(answers);
    let down = ["up", "--detach", "--no-recreate", "--scale", "api-server=1", "api-server"];
    world.compose(&down);
    ended
}

/// wrk sends requests to `/api` during `work`; none of them may be lost.
fn with_wrk<T>(world: &World, work: impl FnOnce() -> T) -> T {
    let wrk = world
        .command("wrk")
        .args(["--threads", "1", "--connections", "8", "--duration", "10m", "--timeout", "15s"])
        .args(["--header", "Host: shop.localhost", "http://127.0.0.1:8080/api"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("package wrk");
    let pid = Pid::from_raw(wrk.id() as i32);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    // It prints what it has seen.
    kill(pid, Signal::SIGINT).unwrap();
    let output = wrk.wait_with_output().unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    println!("{report}");
    let done = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let requests = report.lines().find_map(|line| line.trim().split_once(" requests in "));
    let requests: u64 = requests.unwrap().0.parse().unwrap();
    assert!(requests > 100, "{requests} requests");
    assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
    done
}
