//! Which endpoints get requests: those that fail are ejected, and return.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::kit::{
    Answer, Client, Endpoint, Speaks, World, eventually, get, ingress, read_request, service,
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
