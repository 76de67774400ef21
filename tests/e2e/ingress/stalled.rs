//! HTTP/2 clients that take nothing of what they ask for: what they hold of our memory.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::frames::{HEADERS, PREFACE, SETTINGS, WINDOW_UPDATE, frame};
use super::kit::{Endpoint, World, eventually, ingress, read_request, service};
use crate::support::Net;

/// The fields of `GET http://a.com/`.
const GET: &[u8] = b"\x82\x86\x84\x41\x05a.com";

const MIB: f64 = (1 << 20) as f64;

/// What stalled streams may hold in all: their limit, and one stream of each connection.
const STALLED: f64 = (24.0 + 2.0) * MIB;

const STREAMS: u32 = 100;

/// Answers each request with 1 MiB.
async fn large_endpoint(net: Net) -> Endpoint {
    static BODY: [u8; 1 << 20] = [b'x'; 1 << 20];
    Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer).await.is_some() {
            let head =
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1048576\r\n\r\n";
            if stream.write_all(head).await.is_err() || stream.write_all(&BODY).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// The memory that the process has resident.
fn resident(world: &World) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.ingress.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<f64>().unwrap() * 1024.0
}

/// Opens a connection with `STREAMS` requests, each of which may be answered with so many bytes.
async fn ask(world: &World, window: u32) -> TcpStream {
    let mut stream = TcpStream::connect(world.http).await.unwrap();
    let initial_window = [&[0, 4][..], &window.to_be_bytes()].concat();
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &initial_window)].concat();
    let most = (u32::MAX >> 1) - 65_535;
    bytes.extend(frame(WINDOW_UPDATE, 0, 0, &most.to_be_bytes()));
    for at in 0..STREAMS {
        bytes.extend(frame(HEADERS, 5, 2 * at + 1, GET));
    }
    stream.write_all(&bytes).await.unwrap();
    stream
}

async fn read_on(mut stream: TcpStream) {
    let mut scrap = vec![0; 64 << 10];
    while stream.read(&mut scrap).await.is_ok_and(|read| read > 0) {}
}

/// So many connections that ask for what they do not take.
async fn ask_all(world: &World, connections: u32, window: u32, reads: bool) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let stream = ask(world, window).await;
        clients.spawn(async move {
            if reads {
                read_on(stream).await;
            } else {
                let _open = stream;
                std::future::pending::<()>().await;
            }
        });
    }
    clients
}

fn manifests() -> String {
    service("web", &["127.N.N.10"]) + &ingress("i", &[("a.com", "Prefix", "/", "web")])
}

async fn world(descriptors: u64) -> (World, Endpoint) {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(most >= descriptors, "the limit of open files is {most}");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let net = Net::new();
    let endpoint = large_endpoint(net).await;
    (World::start_in(net, &manifests(), &["--workers", "2"]), endpoint)
}

/// What was read of a response waits in memory for a client that has taken a part and does not go
/// on: of a window that is spent, or a socket that is full. It was held until the time-out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_streams_are_reset_until_they_hold_no_more_than_their_limit() {
    for (window, reads) in [(192 << 10, true), ((u32::MAX >> 1), false)] {
        let (world, _endpoint) = world(1000).await;
        let clients = ask_all(&world, 8, window, reads).await;
        eventually("streams are reset", || {
            let resets = world.metric("switchyard_ingress_stalled_resets_total");
            let held = world.metric("switchyard_ingress_stalled_bytes");
            async move { (resets > 0.0 && held <= STALLED).then_some(()) }
        })
        .await;
        drop(clients);
        eventually("nothing is held", || {
            let held = world.metric("switchyard_ingress_stalled_bytes");
            async move { (held == 0.0).then_some(()) }
        })
        .await;
    }
}

/// 117 MB were held by streams that take nothing, and would have been by as many more.
///
/// What the process has resident is bounded loosely: it includes what requests need while they are
/// connected to endpoints, which is freed, but not always given back to the system.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs 15,000 file descriptors"]
async fn ten_thousand_streams_that_take_nothing_hold_no_more_than_their_limit() {
    let (world, _endpoint) = world(15_000).await;
    let before = resident(&world);
    let clients = ask_all(&world, 100, 0, true).await;
    eventually("streams are reset", || {
        let resets = world.metric("switchyard_ingress_stalled_resets_total");
        let held = world.metric("switchyard_ingress_stalled_bytes");
        async move { (resets > 0.0 && held <= STALLED).then_some(()) }
    })
    .await;
    let grown = resident(&world) - before;
    assert!(grown < 96.0 * MIB, "{} MiB", grown / MIB);
    drop(clients);
}
