//! Changes under load: endpoints that are added and removed, stale connections, and the end of the
//! process itself. None of them may lose a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::kit::{
    ALL, Answer, Client, Endpoint, Speaks, World, eventually, get, ingress, raw, read_request,
    service, status_of,
};
use crate::support::{Net, PATIENCE, PROMPTLY};

fn rules() -> String {
    ingress("i", &[("a.com", "Prefix", "/", "web")])
}

/// Clients of every kind that send one request after another until they are stopped; each answer
/// must be 200.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    async fn start(world: &World) -> Load {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for speaks in ALL.into_iter().chain([Speaks::Http1; 4]) {
            let mut client = Client::connect(world, speaks, "a.com").await;
            let (stop, answered) = (stop.clone(), answered.clone());
            clients.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get("a.com", "/").await;
                    assert_eq!(answer.status, 200, "{speaks:?} {answer:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Load { stop, answered, clients }
    }

    fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits for this number of further answers.
    async fn goes_on(&self, more: usize) {
        let until = self.answered() + more;
        eventually("answers", || async { (self.answered() >= until).then_some(()) }).await;
    }

    async fn stop(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_endpoint_swaps_under_load_lose_no_request() {
    let net = Net::new();
    let generation = |n: usize| {
        let endpoints = [format!("127.N.N.{}", 10 + n % 2), format!("127.N.N.{}", 12 + n % 2)];
        rules() + &service("web", &endpoints.each_ref().map(String::as_str))
    };
    // Two endpoints serve at a time; the other two are down, and start for their turn.
    let start = |last: u8| async move { Endpoint::echo(net.addr(last, 9000), "web").await };
    let mut running = vec![start(10).await, start(12).await];
    let world = World::start_in(net, &generation(0), &["--workers", "2"]);
    let load = Load::start(&world).await;
    for n in 1..=200 {
        let next = vec![start(10 + (n % 2) as u8).await, start(12 + (n % 2) as u8).await];
        world.replace(&generation(n));
        let expected = format!("{}:9000", net.ip(10 + (n % 2) as u8));
        eventually("the swap", || {
            let served = world.ingress.admin_get("/snapshot").1.contains(&expected);
            async move { served.then_some(()) }
        })
        .await;
        // They end with requests in progress, like a process that is killed.
        for killed in std::mem::replace(&mut running, next) {
            killed.stop().await;
        }
        load.goes_on(10).await;
    }
    let answered = load.stop().await;
    assert!(answered > 2000, "{answered}");
}

/// Changes of routes, endpoints, annotations and certificates, while a WebSocket, a gRPC stream, an
/// upload and a download last. The script checks each change, each answer and each byte.
#[test]
#[ignore = "needs nginx, wrk, h2load, curl, openssl and python3-h2"]
fn changes_of_every_kind_lose_no_request_and_no_transfer() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/changes.sh");
    let mut command = std::process::Command::new(script);
    // As many changes as have each kind several times, and as many requests as a debug build
    // answers meanwhile.
    command.args(["60", "10000", "30"]).env("SWITCHYARD", env!("CARGO_BIN_EXE_switchyard"));
    let ended = command.output().unwrap();
    let [said, failed] = [&ended.stdout, &ended.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(ended.status.success(), "{said}\n{failed}");
}

/// Ingresses that move from one Service to another, and how often.
const MOVED: usize = 500;
const MOVES: usize = 20;

/// While 3,000 Ingresses moved from a Service that loses its endpoints to one that gets some, 2.5 %
/// of requests were answered 503: the endpoints went before the routes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_that_move_to_another_service_lose_no_request() {
    let net = Net::new();
    let generation = |n: usize| {
        let (name, other) =
            if n.is_multiple_of(2) { ("first", "second") } else { ("second", "first") };
        let mut yaml = service(name, &["127.N.N.10"]) + &service(other, &[]);
        // Both Services stay in use.
        for name in ["first", "second"] {
            yaml += &ingress(name, &[(&format!("{name}.com"), "Prefix", "/", name)]);
        }
        for at in 0..MOVED {
            yaml += &ingress(&format!("i{at}"), &[(&format!("h{at}.com"), "Prefix", "/", name)]);
        }
        yaml
    };
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let world = World::start_in(net, &generation(0), &["--workers", "2"]);
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for client in 0..8 {
        let (stop, answered) = (stop.clone(), answered.clone());
        let mut connection = Client::connect(&world, Speaks::Http1, "a.com").await;
        clients.spawn(async move {
            let mut at = client;
            while !stop.load(Ordering::Relaxed) {
                at = (at + 7) % MOVED;
                let answer = connection.get(&format!("h{at}.com"), "/").await;
                assert_eq!(answer.status, 200, "{at}: {answer:?}");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for n in 1..=MOVES {
        world.replace(&generation(n));
        let (here, gone) =
            if n.is_multiple_of(2) { ("first", "second") } else { ("second", "first") };
        eventually("the move", || async {
            let is_here =
                get(&world, Speaks::Http1, &format!("{here}.com"), "/").await.status == 200;
            let is_gone =
                get(&world, Speaks::Http1, &format!("{gone}.com"), "/").await.status == 503;
            (is_here && is_gone).then_some(())
        })
        .await;
        let until = answered.load(Ordering::Relaxed) + 50;
        eventually("answers", || async {
            (answered.load(Ordering::Relaxed) >= until || clients.is_empty()).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
}

/// A request that was sent before its route moved to another Service, and has to be sent again
/// after the first Service was emptied, was answered 503.
#[tokio::test]
async fn a_request_that_is_sent_again_follows_its_route_to_another_service() {
    let net = Net::new();
    let (seen, close) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    // Each connection gets one answer if `keeps`; the request after that is read, and the
    // connection closed without an answer once the test says so.
    let endpoint = |last: u8, keeps: bool| {
        let (seen, close) = (seen.clone(), close.clone());
        Endpoint::raw(net.addr(last, 9000), move |mut stream| {
            let (seen, close) = (seen.clone(), close.clone());
            async move {
                let mut buffer = Vec::new();
                if keeps {
                    read_request(&mut stream, &mut buffer).await;
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                }
                if read_request(&mut stream, &mut buffer).await.is_some() {
                    seen.fetch_add(1, Ordering::Relaxed);
                    close.notified().await;
                }
            }
        })
    };
    let _kept = endpoint(10, true).await;
    let _new = endpoint(11, false).await;
    let _next = Endpoint::echo(net.addr(12, 9000), "next").await;
    // The first Service stays in use, so that its endpoints are shown for as long as it has any.
    let rules = |name: &str| {
        let first = ingress("first", &[("first.com", "Prefix", "/", "first")]);
        first + &ingress("i", &[("a.com", "Prefix", "/", name)])
    };
    for (last, keeps) in [("127.N.N.10", true), ("127.N.N.11", false)] {
        for speaks in [Speaks::Http1, Speaks::Http2] {
            let before = rules("first") + &service("first", &[last]) + &service("second", &[]);
            let after =
                rules("second") + &service("first", &[]) + &service("second", &["127.N.N.12"]);
            let world = World::start_in(net, &before, &["--workers", "1"]);
            let sent = seen.load(Ordering::Relaxed);
            let mut client = Client::connect(&world, speaks, "a.com").await;
            if keeps {
                assert_eq!(client.get("a.com", "/").await.status, 200);
            }
            let answer = tokio::spawn(async move { client.get("a.com", "/").await });
            eventually("the request arrives", || async {
                (seen.load(Ordering::Relaxed) > sent).then_some(())
            })
            .await;
            world.replace(&after);
            let leaves = net.fill(last) + ":9000";
            eventually("the move", || {
                let leaves = &leaves;
                let served = world.ingress.admin_get("/snapshot").1;
                let moved = served.contains(&format!("{}:9000", net.ip(12)));
                async move { (moved && !served.contains(leaves)).then_some(()) }
            })
            .await;
            close.notify_one();
            let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
            assert_eq!(answer.status, 200, "{last} {speaks:?} {answer:?}");
            assert_eq!(answer.name(), "next", "{last} {speaks:?}");
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_leaves_gets_nothing_new_and_finishes_what_it_has() {
    let net = Net::new();
    let go_on = Arc::new(Notify::new());
    let told = go_on.clone();
    let leaving = Endpoint::raw(net.addr(10, 9000), move |mut stream| {
        let told = told.clone();
        async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nold").await.unwrap();
                told.notified().await;
                stream.write_all(b"end").await.unwrap();
            }
        }
    })
    .await;
    let _stays = Endpoint::echo(net.addr(11, 9000), "stays").await;
    let world = World::start_in(net, &(rules() + &service("web", &["127.N.N.10"])), &[]);
    let waiting: Vec<_> = {
        let mut waiting = Vec::new();
        for speaks in ALL {
            let mut client = Client::connect(&world, speaks, "a.com").await;
            waiting.push(tokio::spawn(async move { client.get("a.com", "/").await }));
        }
        waiting
    };
    eventually("all are in flight", || async { (leaving.connections() == 4).then_some(()) }).await;
    // It is terminating: not ready, but still serving.
    let both = service("web", &["127.N.N.10", "127.N.N.11"]).replace(
        "- addresses: [127.N.N.10]\n",
        "- addresses: [127.N.N.10]\n  \
         conditions: {ready: false, serving: true, terminating: true}\n",
    );
    world.replace(&(rules() + &both));
    eventually("the change", || {
        let snapshot = world.ingress.admin_get("/snapshot").1;
        async move { (!snapshot.contains(&format!("{}:9000", net.ip(10)))).then_some(()) }
    })
    .await;
    for speaks in ALL {
        for _ in 0..3 {
            assert_eq!(get(&world, speaks, "a.com", "/").await.name(), "stays");
        }
    }
    for _ in 0..4 {
        go_on.notify_one();
    }
    for answer in waiting {
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!((answer.status, &*answer.body), (200, "oldend"));
    }
    assert_eq!(leaving.connections(), 4);
}

/// An endpoint that closes each connection after its first answer, at once or with a request.
async fn forgetful(net: Net, last: u8, sees: Arc<AtomicUsize>, reads_second: bool) -> Endpoint {
    Endpoint::raw(net.addr(last, 9000), move |mut stream| {
        let sees = sees.clone();
        async move {
            let mut buffer = Vec::new();
            if read_request(&mut stream, &mut buffer).await.is_some() {
                sees.fetch_add(1, Ordering::Relaxed);
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            }
            if reads_second && read_request(&mut stream, &mut buffer).await.is_some() {
                sees.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_stale_connection_costs_no_request() {
    let net = Net::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let _endpoint = forgetful(net, 10, seen.clone(), false).await;
    let world = World::start_in(net, &(rules() + &service("web", &["127.N.N.10"])), &[]);
    let mut requests = 0;
    for speaks in ALL {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        for method in ["GET", "POST", "PUT", "DELETE"] {
            for body in ["", "with a body"] {
                let request = Request::builder().method(method).uri("http://a.com/");
                let request = request.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap();
                let answer = Answer::read(client.send(request).await.unwrap()).await;
                assert_eq!(answer.status, 200, "{speaks:?} {method} {answer:?}");
                requests += 1;
            }
        }
    }
    assert_eq!(seen.load(Ordering::Relaxed), requests, "and each arrived once");
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_again() {
    let net = Net::new();
    let seen = Arc::new(AtomicUsize::new(0));
    let _endpoint = forgetful(net, 10, seen.clone(), true).await;
    let world = World::start_in(net, &(rules() + &service("web", &["127.N.N.10"])), &[]);
    // The endpoint reads each second request of a connection and then closes it.
    for (method, body, status, sent) in [
        ("GET", "", 200, 2),
        ("PUT", "small", 200, 2),
        ("DELETE", "", 200, 2),
        ("POST", "", 502, 1),
        ("POST", "small", 502, 1),
        ("PATCH", "small", 502, 1),
    ] {
        assert_eq!(get(&world, Speaks::Http1, "a.com", "/").await.status, 200);
        let before = seen.load(Ordering::Relaxed);
        let mut client = Client::connect(&world, Speaks::Http1, "a.com").await;
        let request = Request::builder().method(method).uri("http://a.com/");
        let request = request.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap();
        let answer = Answer::read(client.send(request).await.unwrap()).await;
        assert_eq!(answer.status, status, "{method} {answer:?}");
        assert_eq!(seen.load(Ordering::Relaxed) - before, sent, "{method}");
        if status == 200 {
            // The next request on its connection is the second: send it.
            get(&world, Speaks::Http1, "a.com", "/").await;
        }
    }
}

#[tokio::test]
async fn changes_are_served_on_open_connections() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let base = rules() + &service("web", &["127.N.N.10"]);
    let world = World::start_in(net, &base, &[]);
    let mut client = Client::connect(&world, Speaks::Http1, "a.com").await;
    for n in 0..10 {
        let host = format!("host-{n}.com");
        let more = ingress("more", &[(&host, "Prefix", "/", "web")]);
        world.replace(&(base.clone() + &more));
        let begun = Instant::now();
        while client.get(&host, "/").await.status != 200 {
            assert!(begun.elapsed() < PATIENCE, "never served");
        }
    }
    // From the event to the route; the time on an idle machine is measured elsewhere.
    let name = "switchyard_programming_seconds_bucket{le=\"2.0\"}";
    assert!(world.metric(name) >= 10.0, "{}", world.ingress.admin_get("/metrics").1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_loses_nothing_that_was_begun() {
    let net = Net::new();
    let go_on = Arc::new(Notify::new());
    let told = go_on.clone();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), move |mut stream| {
        let told = told.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut buffer).await {
                if request.starts_with(b"GET /slow") {
                    told.notified().await;
                }
                let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                stream.write_all(reply).await.unwrap();
            }
        }
    })
    .await;
    let manifests = rules() + &service("web", &["127.N.N.10"]);
    let world = World::start_in(net, &manifests, &["--workers", "2"]);
    let mut slow = Vec::new();
    for speaks in ALL {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        slow.push(tokio::spawn(async move { (speaks, client.get("a.com", "/slow").await) }));
    }
    let open =
        || async { (world.metric("switchyard_ingress_open_connections") == 4.0).then_some(()) };
    eventually("all are open", open).await;
    // Connections that the kernel has accepted, but the ingress perhaps not yet.
    let mut fresh = Vec::new();
    for _ in 0..20 {
        fresh.push(TcpStream::connect(world.http).await.unwrap());
    }
    world.ingress.signal(Signal::SIGTERM);
    let mut answered = Vec::new();
    for mut stream in fresh {
        let request = b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n";
        stream.write_all(request).await.unwrap();
        answered.push(tokio::spawn(async move {
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            String::from_utf8_lossy(&answer).into_owned()
        }));
    }
    for answer in answered {
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!(status_of(&answer), 200, "{answer}");
    }
    eventually("it says that it is not ready", || {
        let status = world.ingress.admin_get("/readyz").0;
        async move { (status == 503).then_some(()) }
    })
    .await;
    eventually("no new connections", || async {
        TcpStream::connect(world.http).await.is_err().then_some(())
    })
    .await;
    assert!(slow.iter().all(|request| !request.is_finished()));
    for _ in 0..4 {
        go_on.notify_one();
    }
    for answer in slow {
        let (speaks, answer) = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!((answer.status, &*answer.body), (200, "ok"));
        let says_close = answer.headers.get("connection").is_some_and(|value| value == "close");
        let is_http1 = matches!(speaks, Speaks::Http1 | Speaks::Http1OverTls);
        assert_eq!(says_close, is_http1, "{speaks:?} {answer:?}");
    }
    let World { ingress, .. } = world;
    let ended = tokio::task::spawn_blocking(move || ingress.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test]
async fn a_drain_ends_in_time_whatever_is_open() {
    let net = Net::new();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let manifests = rules() + &service("web", &["127.N.N.10"]);
    let world = World::start_in(net, &manifests, &["--drain-timeout", "500ms"]);
    let mut client = Client::connect(&world, Speaks::Http2OverTls, "a.com").await;
    let asking = tokio::spawn(async move {
        let request = Request::get("http://a.com/").body(Full::default()).unwrap();
        client.send(request).await.map(|_| ())
    });
    let _idle = TcpStream::connect(world.http).await.unwrap();
    eventually("it is in flight", || async {
        (world.metric("switchyard_ingress_upstream_connects_total") == 1.0).then_some(())
    })
    .await;
    let begun = Instant::now();
    world.ingress.signal(Signal::SIGTERM);
    let World { ingress, .. } = world;
    let ended = tokio::task::spawn_blocking(move || ingress.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(0));
    assert!(begun.elapsed() < PROMPTLY, "{:?}", begun.elapsed());
    assert!(asking.await.unwrap().is_err());
}

#[tokio::test]
async fn idle_connections_hold_up_no_drain() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let world = World::start_in(net, &(rules() + &service("web", &["127.N.N.10"])), &[]);
    let mut idle = Vec::new();
    for speaks in ALL {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        assert_eq!(client.get("a.com", "/").await.status, 200);
        idle.push(client);
    }
    let begun = Instant::now();
    world.ingress.signal(Signal::SIGTERM);
    let World { ingress, .. } = world;
    let ended = tokio::task::spawn_blocking(move || ingress.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(0));
    assert!(begun.elapsed() < PROMPTLY, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn before_its_first_listing_an_ingress_never_says_404() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let manifests = rules() + &service("web", &["127.N.N.10"]);
    // A client that connects before the process is ready.
    let (http, request) =
        (net.addr(1, 8080), "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n");
    let early = tokio::spawn(async move {
        loop {
            if TcpStream::connect(http).await.is_ok() {
                return raw(http, request.as_bytes()).await;
            }
            tokio::task::yield_now().await;
        }
    });
    let world = tokio::task::spawn_blocking(move || World::start_in(net, &manifests, &[])).await;
    let answer = early.await.unwrap();
    // A route that is not known yet must not get 404.
    assert!(matches!(status_of(&answer), 200 | 503), "{answer}");
    drop(world);
}
