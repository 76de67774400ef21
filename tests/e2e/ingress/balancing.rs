//! Which endpoints get requests: those that fail are ejected, and return.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::kit::{
    Answer, Client, Endpoint, Speaks, World, annotated, eventually, get, ingress, read_request,
    service,
};
use crate::support::Net;

const TWO: &[&str] = &["127.N.N.2", "127.N.N.3"];

fn world(net: Net) -> World {
    let manifests = service("web", TWO) + &ingress("web", &[("", "Prefix", "/", "web")]);
    World::start_in(net, &manifests, &["--workers", "1"])
}

async fn post(world: &World) -> Answer {
    let mut client = Client::connect(world, Speaks::Http1, "t.test").await;
    let request = Request::post("http://t.test/").body(Full::new(Bytes::from("x"))).unwrap();
    Answer::read(client.send(request).await.unwrap()).await
}

/// An endpoint that accepts and closes, or answers 503, kept half of the requests for good.
#[tokio::test]
async fn an_endpoint_whose_requests_fail_is_ejected_and_returns() {
    for closes in [true, false] {
        let net = Net::new();
        let is_broken = Arc::new(AtomicBool::new(true));
        let broken = is_broken.clone();
        let serve = move |mut stream: TcpStream| {
            let broken = broken.clone();
            async move {
                let mut buffer = Vec::new();
                while read_request(&mut stream, &mut buffer).await.is_some() {
                    let answer = match broken.load(Ordering::Relaxed) {
                        true if closes => return,
                        true => "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
                        false => "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad",
                    };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        };
        let bad = Endpoint::raw(net.addr(2, 9000), serve).await;
        let good = Endpoint::echo(net.addr(3, 9000), "good").await;
        let world = world(net);
        let mut failed = 0;
        for _ in 0..100 {
            failed += usize::from(post(&world).await.status != 200);
        }
        // Five in a row, and then one for each try after a pause that doubles.
        assert!((5..=12).contains(&failed), "{failed} of 100, closes: {closes}");
        assert!(world.metric("switchyard_ingress_upstream_ejections_total") >= 1.0);
        is_broken.store(false, Ordering::Relaxed);
        eventually("the endpoint is used again", || async {
            (get(&world, Speaks::Http1, "t.test", "/").await.name() == "bad").then_some(())
        })
        .await;
        let names = async {
            let mut bad = 0;
            for _ in 0..20 {
                bad += usize::from(get(&world, Speaks::Http1, "t.test", "/").await.name() == "bad");
            }
            bad
        };
        assert_eq!(names.await, 10, "strict turns again");
        drop((bad, good));
    }
}

#[tokio::test]
async fn endpoints_that_all_fail_are_all_asked() {
    let net = Net::new();
    let fail = |_: &str| "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_owned();
    let endpoints = [
        Endpoint::answering(net.addr(2, 9000), fail).await,
        Endpoint::answering(net.addr(3, 9000), fail).await,
    ];
    let world = world(net);
    for _ in 0..40 {
        assert_eq!(post(&world).await.body, "", "the endpoint's own answer");
    }
    let seen = endpoints.each_ref().map(|endpoint| endpoint.seen().len());
    assert_eq!(seen.iter().sum::<usize>(), 40);
    assert!(seen.iter().all(|count| *count >= 10), "{seen:?}");
}

const SIX: [&str; 6] =
    ["127.N.N.2", "127.N.N.3", "127.N.N.4", "127.N.N.5", "127.N.N.6", "127.N.N.7"];

async fn echoes(net: &Net, count: u8) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for last in 2..2 + count {
        endpoints.push(Endpoint::echo(net.addr(last, 9000), &format!("e{last}")).await);
    }
    endpoints
}

fn annotated_world(net: Net, endpoints: &[&str], annotations: &[(&str, &str)]) -> World {
    let manifests = service("web", endpoints) + &annotated("web", "t.test", "web", annotations);
    World::start_in(net, &manifests, &["--workers", "2"])
}

/// The names of the endpoints that answered, without repetitions.
async fn names(world: &World, path: &str, count: usize) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for at in 0..count {
        let answer = get(world, Speaks::Http1, "t.test", path).await;
        assert_eq!(answer.status, 200, "request {at}: {}", answer.body);
        names.insert(answer.name().to_owned());
    }
    names
}

#[tokio::test]
async fn requests_with_one_text_go_to_one_endpoint_or_to_one_group() {
    let net = Net::new();
    let _endpoints = echoes(&net, 6).await;
    let by_uri = ("nginx.ingress.kubernetes.io/upstream-hash-by", "$request_uri");
    let world = annotated_world(net, &SIX, &[by_uri]);
    let mut all = BTreeSet::new();
    for number in 0..40 {
        let path = format!("/{number}?a=b");
        let one = names(&world, &path, 4).await;
        assert_eq!(one.len(), 1, "{path}: {one:?}");
        all.extend(one);
    }
    assert_eq!(all.len(), 6, "{all:?}");
    assert_eq!(world.problems(), Vec::<String>::new());

    let subset = ("nginx.ingress.kubernetes.io/upstream-hash-by-subset", "true");
    let size = ("nginx.ingress.kubernetes.io/upstream-hash-by-subset-size", "3");
    world.replace(
        &(service("web", &SIX) + &annotated("web", "t.test", "web", &[by_uri, subset, size])),
    );
    eventually("a group of three", || async {
        (names(&world, "/x", 40).await.len() == 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn methods_that_measure_use_all_endpoints() {
    for method in ["ewma", "least-requests"] {
        let net = Net::new();
        let _endpoints = echoes(&net, 3).await;
        let balance = ("switchyard.dev/load-balance", method);
        let world = annotated_world(net, &SIX[..3], &[balance]);
        assert_eq!(names(&world, "/", 60).await.len(), 3, "{method}");
    }
}

/// The default stays strict where an annotation only names it.
#[tokio::test]
async fn turns_are_strict_by_default() {
    let net = Net::new();
    let _endpoints = echoes(&net, 3).await;
    let world = annotated_world(
        net,
        &SIX[..3],
        &[("nginx.ingress.kubernetes.io/load-balance", "round_robin")],
    );
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..30 {
        let answer = get(&world, Speaks::Http1, "t.test", "/").await;
        *counts.entry(answer.name().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}

/// The status of one request when one endpoint answers as given, and the other well.
async fn retried(annotations: &[(&str, &str)], method: &str, bad: &'static str) -> Vec<u16> {
    let net = Net::new();
    let _bad = Endpoint::answering(net.addr(2, 9000), |_| bad.to_owned()).await;
    let _good = Endpoint::echo(net.addr(3, 9000), "good").await;
    let world = annotated_world(net, TWO, annotations);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(&world, Speaks::Http1, "t.test").await;
        let request = Request::builder().method(method).uri("http://t.test/");
        let request = request.body(Full::new(Bytes::from_static(b"body"))).unwrap();
        statuses.push(Answer::read(client.send(request).await.unwrap()).await.status);
    }
    statuses.sort_unstable();
    statuses
}

#[tokio::test]
async fn a_status_is_retried_where_the_ingress_says_so() {
    const NO: &str = "HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nno";
    const INVALID: &str = "nonsense\r\n\r\n";
    let next = "nginx.ingress.kubernetes.io/proxy-next-upstream";
    assert_eq!(retried(&[], "PUT", NO).await, [200, 200, 404, 404]);
    assert_eq!(retried(&[(next, "error http_404")], "PUT", NO).await, [200; 4]);
    assert_eq!(retried(&[(next, "error http_404")], "POST", NO).await, [200, 200, 404, 404]);
    assert_eq!(retried(&[(next, "http_404 non_idempotent")], "POST", NO).await, [200; 4]);
    let tries = "nginx.ingress.kubernetes.io/proxy-next-upstream-tries";
    assert_eq!(
        retried(&[(next, "error http_404"), (tries, "1")], "PUT", NO).await,
        [200, 200, 404, 404]
    );
    assert_eq!(retried(&[(next, "invalid_header")], "GET", INVALID).await, [200; 4]);
    assert_eq!(retried(&[], "GET", INVALID).await, [200, 200, 502, 502]);
}

#[tokio::test]
async fn a_try_that_takes_too_long_goes_to_another_endpoint() {
    let net = Net::new();
    let _silent = Endpoint::raw(net.addr(2, 9000), |stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let _good = Endpoint::echo(net.addr(3, 9000), "good").await;
    let world = annotated_world(net, TWO, &[("switchyard.dev/per-try-timeout", "1s")]);
    assert_eq!(names(&world, "/", 4).await.len(), 1);
}

#[tokio::test]
async fn requests_beyond_the_limit_of_all_endpoints_get_503() {
    let net = Net::new();
    let (release, wait) = tokio::sync::watch::channel(false);
    let serve = move |mut stream: TcpStream| {
        let mut wait = wait.clone();
        async move {
            let mut buffer = Vec::new();
            while read_request(&mut stream, &mut buffer).await.is_some() {
                let _ = wait.wait_for(|released| *released).await;
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow";
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    };
    let endpoint = Endpoint::raw(net.addr(2, 9000), serve).await;
    let limit = ("switchyard.dev/max-connections-per-endpoint", "2");
    let world = Arc::new(annotated_world(net, &TWO[..1], &[limit]));
    let slow: Vec<_> = (0..2)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { get(&world, Speaks::Http1, "t.test", "/").await })
        })
        .collect();
    eventually("two requests in flight", || async { (endpoint.connections() == 2).then_some(()) })
        .await;
    let refused = get(&world, Speaks::Http1, "t.test", "/").await;
    assert_eq!((refused.status, refused.headers["retry-after"].as_bytes()), (503, &b"1"[..]));
    assert!(world.metric("switchyard_ingress_own_answers_total{reason=\"busy\"}") >= 1.0);
    release.send(true).unwrap();
    for request in slow {
        assert_eq!(request.await.unwrap().status, 200);
    }
    assert_eq!(get(&world, Speaks::Http1, "t.test", "/").await.status, 200);
}

/// One request is served, one waits, and the third is refused.
#[tokio::test]
async fn so_many_requests_wait_for_a_busy_endpoint_and_no_more() {
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let net = Net::new();
        let (told, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let release = Arc::new(tokio::sync::Notify::new());
        let wait = release.clone();
        let _endpoint = Endpoint::raw(net.addr(2, 9000), move |mut stream| {
            let (told, wait) = (told.clone(), wait.clone());
            async move {
                let mut buffer = Vec::new();
                while let Some(request) = read_request(&mut stream, &mut buffer).await {
                    let request = String::from_utf8_lossy(&request).into_owned();
                    told.send(request.split(' ').nth(1).unwrap().to_owned()).unwrap();
                    wait.notified().await;
                    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow";
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        let limits = [
            ("switchyard.dev/max-connections-per-endpoint", "1"),
            ("switchyard.dev/max-pending-per-endpoint", "1"),
            ("switchyard.dev/proxy-connect-timeout", "60"),
        ];
        let world = Arc::new(annotated_world(net, &TWO[..1], &limits));
        let begin = |path: &'static str| {
            let world = world.clone();
            tokio::spawn(async move { get(&world, speaks, "t.test", path).await.status })
        };
        let first = begin("/first");
        let patience = crate::support::PATIENCE;
        let next = tokio::time::timeout(patience, asked.recv()).await.unwrap();
        assert_eq!(next.as_deref(), Some("/first"));
        // Of two more one waits and one is refused, whichever comes first.
        let mut others = [begin("/second"), begin("/second")];
        let (refused, rest) = {
            let [one, two] = &mut others;
            tokio::select! { status = one => (status, 1), status = two => (status, 0) }
        };
        assert_eq!(refused.unwrap(), 503);
        release.notify_one();
        assert_eq!(first.await.unwrap(), 200);
        let next = tokio::time::timeout(patience, asked.recv()).await.unwrap();
        assert_eq!(next.as_deref(), Some("/second"));
        release.notify_one();
        assert_eq!((&mut others[rest]).await.unwrap(), 200);
        release.notify_one();
        assert_eq!(begin("/third").await.unwrap(), 200, "nobody waits any more");
    }
}

#[tokio::test]
async fn an_endpoint_whose_health_check_fails_gets_no_requests_until_it_is_healthy_again() {
    for protocol in ["http", "tcp"] {
        let net = Net::new();
        let is_well = Arc::new(AtomicBool::new(true));
        let well = is_well.clone();
        let answer = move |seen: &str| {
            let status = if well.load(Ordering::Relaxed) || !seen.starts_with("GET /up ") {
                "200 OK"
            } else {
                "500 Sick"
            };
            format!("HTTP/1.1 {status}\r\ncontent-length: 4\r\n\r\nsick")
        };
        let mut sick = Some(Endpoint::answering(net.addr(2, 9000), answer.clone()).await);
        let _good = Endpoint::echo(net.addr(3, 9000), "good").await;
        let annotations = [
            ("switchyard.dev/health-check-path", "/up"),
            ("switchyard.dev/health-check-protocol", protocol),
            ("switchyard.dev/health-check-interval", "1s"),
            ("switchyard.dev/health-check-unhealthy-threshold", "1"),
            ("switchyard.dev/health-check-healthy-threshold", "1"),
        ];
        let address = net.addr(2, 9000);
        let world = annotated_world(net, TWO, &annotations);
        let unhealthy = || {
            let shown = world.ingress.admin_get("/snapshot").1;
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            shown["backends"][0]["unhealthy"].as_array().unwrap().len()
        };
        assert_eq!(names(&world, "/", 4).await.len(), 2);
        match protocol {
            "http" => is_well.store(false, Ordering::Relaxed),
            _ => sick.take().unwrap().stop().await,
        }
        eventually("it is unhealthy", || async { (unhealthy() == 1).then_some(()) }).await;
        assert_eq!(names(&world, "/", 10).await, BTreeSet::from(["good".to_owned()]));
        match protocol {
            "http" => is_well.store(true, Ordering::Relaxed),
            _ => sick = Some(Endpoint::answering(address, answer).await),
        }
        eventually("it is healthy", || async { (unhealthy() == 0).then_some(()) }).await;
        eventually("it is used again", || async {
            (names(&world, "/", 4).await.len() == 2).then_some(())
        })
        .await;
        drop(sick);
    }
}
