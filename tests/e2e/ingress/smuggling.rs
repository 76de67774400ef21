//! Ambiguous requests: each gets one answer or none, and no endpoint ever gets a second request
//! from it.

use http::Request;
use tokio::net::TcpStream;

use super::kit::{Endpoint, World, field, ingress, raw, service, status_of};
use crate::support::Net;

/// A setup whose endpoint answers everything, and would record a smuggled request.
async fn world() -> (World, Endpoint) {
    let net = Net::new();
    let endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let manifests =
        service("web", &["127.N.N.10"]) + &ingress("i", &[("a.com", "Prefix", "/", "web")]);
    (World::start_in(net, &manifests, &[]), endpoint)
}

/// The second request, which must never arrive.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.com\r\n\r\n";

/// Sends `head`, then bytes that are a request if the head is interpreted in another way.
async fn check(world: &World, endpoint: &Endpoint, head: &str, body: &str, expected: &[u16]) {
    let answer = raw(world.http, format!("{head}\r\n\r\n{body}{SMUGGLED}").as_bytes()).await;
    let status = status_of(&answer);
    assert!(expected.contains(&status), "{head:?}: {answer:?}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "one answer to {head:?}: {answer:?}");
    let smuggled = endpoint.seen().into_iter().find(|seen| seen.starts_with("GET /smuggled"));
    assert_eq!(smuggled, None, "{head:?}");
}

#[tokio::test]
async fn framing_that_is_not_certain_is_refused() {
    let (world, endpoint) = world().await;
    let post = "POST / HTTP/1.1\r\nHost: a.com";
    let refused = [
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: 4, 5",
        "Content-Length: 4, 4",
        "Content-Length: +4",
        "Content-Length: -4",
        "Content-Length: 0x4",
        "Content-Length: 4 4",
        "Content-Length: 18446744073709551616",
        "Content-Length:",
        "Content-Length : 4",
        "X: y\r\n folded: z",
        "X: y\r\n\tfolded",
        " Leading: space",
        "X\0: y",
        "X: y\0z",
        "X Y: z",
        "NoColon",
    ];
    for fields in refused {
        check(&world, &endpoint, &format!("{post}\r\n{fields}"), "", &[400]).await;
    }
    let http10 = "POST / HTTP/1.0\r\nHost: a.com\r\nTransfer-Encoding: chunked";
    check(&world, &endpoint, http10, "0\r\n\r\n", &[400]).await;
    for line in
        ["GET /  HTTP/1.1", "GET / HTTP/1.1 x", "GET / HTTP/9.9", "GET\t/ HTTP/1.1", "GET /"]
    {
        check(&world, &endpoint, &format!("{line}\r\nHost: a.com"), "", &[400]).await;
    }
    assert!(endpoint.seen().is_empty(), "nothing of them was forwarded: {:?}", endpoint.seen());
}

#[tokio::test]
async fn a_length_beside_chunks_never_makes_two_requests() {
    let (world, endpoint) = world().await;
    for fields in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: Chunked\r\nContent-Length: 99999",
    ] {
        let head = format!("POST /both HTTP/1.1\r\nHost: a.com\r\n{fields}");
        check(&world, &endpoint, &head, "0\r\n\r\n", &[200, 400]).await;
    }
    // RFC 9112 section 6.3: either refused, or forwarded by its chunks alone.
    for seen in endpoint.seen() {
        assert_eq!(field(&seen, "content-length"), None, "{seen}");
        assert_eq!(field(&seen, "transfer-encoding"), Some("chunked"), "{seen}");
    }
}

#[tokio::test]
async fn bad_chunks_end_the_connection() {
    let (world, endpoint) = world().await;
    let head = "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked";
    for body in ["x\r\n", "-1\r\n", "5\r\nhelloX0\r\n\r\n", "ffffffffffffffffff\r\n", "1;\r\rx\r\n"]
    {
        let request = format!("{head}\r\n\r\n{body}{SMUGGLED}");
        let answer = raw(world.http, request.as_bytes()).await;
        assert!([0, 400].contains(&status_of(&answer)), "{body:?}: {answer:?}");
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{body:?}: {answer:?}");
    }
    assert!(!endpoint.seen().iter().any(|seen| seen.starts_with("GET /smuggled")));
}

#[tokio::test]
async fn the_host_is_one_and_valid() {
    let (world, endpoint) = world().await;
    let refused = [
        "GET / HTTP/1.1\r\nX: y",
        "GET / HTTP/1.1\r\nHost: a.com\r\nHost: a.com",
        "GET / HTTP/1.1\r\nHost: a.com\r\nHost: b.com",
        "GET / HTTP/1.1\r\nHost:",
        "GET / HTTP/1.1\r\nHost: a.com b.com",
        "GET / HTTP/1.1\r\nHost: a.com, b.com",
        "GET / HTTP/1.1\r\nHost: user@a.com",
        "GET / HTTP/1.1\r\nHost: a.com/",
        "GET / HTTP/1.1\r\nHost: a.com:port",
        "GET / HTTP/1.1\r\nHost: a.com:99999",
        "GET / HTTP/1.1\r\nHost: [::1",
        "GET http://user@a.com/ HTTP/1.1\r\nHost: a.com",
        "GET http://a.com/ HTTP/1.1\r\nX: y",
        "GET / HTTP/1.0\r\nX: y",
    ];
    for head in refused {
        let answer =
            raw(world.http, format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(status_of(&answer), 400, "{head:?}: {answer}");
    }
    assert!(endpoint.seen().is_empty(), "{:?}", endpoint.seen());
    let absolute =
        b"GET http://a.com:80/x?y HTTP/1.1\r\nHost: other.com\r\nConnection: close\r\n\r\n";
    let answer = raw(world.http, absolute).await;
    assert_eq!(status_of(&answer), 200, "{answer}");
    let seen = endpoint.seen().pop().unwrap();
    assert!(seen.starts_with("GET /x?y HTTP/1.1\r\nhost: a.com:80\r\n"), "{seen}");
    assert!(!seen.contains("other.com"), "{seen}");
}

#[tokio::test]
async fn over_http2_the_authority_is_one_and_methods_are_the_same() {
    let (world, endpoint) = world().await;
    let request = |method: &str, uri: &str| Request::builder().method(method).uri(uri);
    let table = [
        (request("GET", "http://a.com/").header("host", "a.com"), 200),
        (request("GET", "http://a.com/").header("host", "b.com"), 400),
        (request("GET", "http://a.com/").header("host", "a.com:80"), 400),
        (request("GET", "http://a..com/"), 400),
        (request("GET", "http://user@a.com/"), 400),
        (request("TRACE", "http://a.com/"), 405),
        (request("CONNECT", "a.com:80"), 405),
        (request("OPTIONS", "http://a.com/").header("x_y", "z"), 200),
    ];
    for (request, status) in table {
        let stream = TcpStream::connect(world.http).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = request.body(()).unwrap();
        let what = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
        let answer = sender.send_request(request, true).unwrap().0.await;
        // Violations of the protocol itself end with a reset.
        let found = answer.map_or(400, |answer| answer.status().as_u16());
        assert_eq!(found, status, "{what}");
    }
    assert_eq!(endpoint.seen().len(), 2);
}

#[tokio::test]
async fn old_clients_are_served_in_their_own_way() {
    let (world, endpoint) = world().await;
    let answer = raw(world.http, b"GET / HTTP/1.0\r\nHost: a.com\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert_eq!(field(&answer, "transfer-encoding"), None, "{answer}");
    assert!(endpoint.seen()[0].starts_with("GET / HTTP/1.1\r\n"), "{:?}", endpoint.seen());
    let kept = "GET / HTTP/1.0\r\nHost: a.com\r\nConnection: keep-alive\r\n\r\n";
    let two = format!("{kept}GET / HTTP/1.0\r\nHost: a.com\r\n\r\n");
    let answer = raw(world.http, two.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.0 200 OK").count(), 2, "{answer}");
    let upgrade = b"GET / HTTP/1.0\r\nHost: a.com\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    assert_eq!(status_of(&raw(world.http, upgrade).await), 200);
    assert_eq!(field(&endpoint.seen()[3], "upgrade"), None);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (world, endpoint) = world().await;
    let requests: String = (0..20)
        .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a.com\r\n\r\n"))
        .chain(["GET /last HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n".to_owned()])
        .collect();
    let answer = raw(world.http, requests.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 21);
    let lines: Vec<String> =
        endpoint.seen().iter().map(|s| s.lines().next().unwrap().into()).collect();
    let expected: Vec<String> = (0..20)
        .map(|n| n.to_string())
        .chain(["last".to_owned()])
        .map(|path| format!("GET /{path} HTTP/1.1"))
        .collect();
    assert_eq!(lines, expected);
}
