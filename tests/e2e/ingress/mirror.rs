//! Mirrors: a second server gets a copy of each request, which never delays or fails it.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::kit::{Answer, Client, Endpoint, Speaks, World, annotated, eventually, field, service};
use crate::support::Net;

fn world(net: Net, annotations: &[(&str, &str)]) -> World {
    let key = |name: &str| format!("nginx.ingress.kubernetes.io/{name}");
    let target = format!("http://{}/copy$request_uri", net.addr(3, 9000));
    let mut all = vec![(key("mirror-target"), target.as_str())];
    all.extend(annotations.iter().map(|(name, value)| (key(name), *value)));
    let pairs: Vec<_> = all.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    let manifests = service("web", &["127.N.N.2"]) + &annotated("web", "t.test", "web", &pairs);
    World::start_in(net, &manifests, &["--workers", "1"])
}

async fn post(world: &World, speaks: Speaks, body: &str) -> Answer {
    let request = Request::post("http://t.test/a?b=c").header("x-mine", "1");
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let mut client = Client::connect(world, speaks, "t.test").await;
    Answer::read(client.send(request).await.unwrap()).await
}

#[tokio::test]
async fn a_mirror_gets_a_copy_of_each_request() {
    let net = Net::new();
    let _main = Endpoint::echo(net.addr(2, 9000), "main").await;
    let mirror = Endpoint::echo(net.addr(3, 9000), "mirror").await;
    let world = world(net, &[("mirror-host", "copies.example")]);
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let before = mirror.seen().len();
        assert_eq!(post(&world, speaks, "hello").await.name(), "main");
        let copy =
            eventually("the copy arrives", || async { mirror.seen().get(before).cloned() }).await;
        assert!(copy.starts_with("POST /copy/a?b=c HTTP/1.1\r\n"), "{copy}");
        assert_eq!(field(&copy, "host"), Some("copies.example"), "{copy}");
        assert_eq!(field(&copy, "x-mine"), Some("1"), "{copy}");
        assert!(copy.contains("hello"), "{copy}");
    }
    eventually("copies are counted", || async {
        let count = world.metric("switchyard_ingress_mirrored_requests_total");
        (count == 2.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_copy_can_be_without_its_body() {
    let net = Net::new();
    let _main = Endpoint::echo(net.addr(2, 9000), "main").await;
    let mirror = Endpoint::echo(net.addr(3, 9000), "mirror").await;
    let world = world(net, &[("mirror-request-body", "off")]);
    assert_eq!(post(&world, Speaks::Http1, "hello").await.name(), "main");
    let copy = eventually("the copy arrives", || async { mirror.seen().first().cloned() }).await;
    assert!(copy.starts_with("POST /copy/a?b=c") && !copy.contains("hello"), "{copy}");
}

#[tokio::test]
async fn a_mirror_that_is_down_or_silent_costs_nothing() {
    let net = Net::new();
    let _main = Endpoint::echo(net.addr(2, 9000), "main").await;
    let address = net.addr(3, 9000);
    let world = world(net, &[]);
    for _ in 0..5 {
        assert_eq!(post(&world, Speaks::Http1, "hello").await.name(), "main");
    }
    eventually("failures are counted", || async {
        (world.metric("switchyard_ingress_mirror_failures_total") >= 5.0).then_some(())
    })
    .await;
    // More than may be under way at one time, none of which ends.
    let _silent = Endpoint::raw(address, |stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let large = "x".repeat(1 << 20);
    for _ in 0..100 {
        assert_eq!(post(&world, Speaks::Http1, &large).await.status, 200);
    }
}
