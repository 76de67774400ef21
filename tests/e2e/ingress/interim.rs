//! Interim responses (1xx), and bodies that a client sends only once it is asked for them, over
//! both versions of HTTP.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::kit::{Endpoint, Speaks, World, eventually, find, get, ingress, read_request, service};
use crate::support::{Net, PATIENCE};

fn manifests() -> String {
    service("web", &["127.N.N.10"]) + &ingress("i", &[("a.com", "Prefix", "/", "web")])
}

/// Reads until the bytes hold these; false if the stream ends before.
async fn read_up_to(stream: &mut TcpStream, read: &mut Vec<u8>, end: &[u8]) -> bool {
    while find(read, end).is_none() {
        if stream.read_buf(read).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    true
}

/// Reads until the bytes end with these, and gives them as text.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        let is_whole = read_up_to(stream, &mut read, end.as_bytes()).await;
        assert!(is_whole, "closed after {read:?}");
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap_or_else(|_| panic!("no {end:?}"));
    String::from_utf8(read).unwrap()
}

/// Early hints were dropped, and a response after 16 of any kind was a bad gateway.
#[tokio::test]
async fn interim_responses_are_passed_on_as_they_come() {
    let net = Net::new();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let held = gate.clone();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), move |mut stream| {
        let held = held.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut buffer).await {
                let mut answer = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".to_owned();
                answer += &"HTTP/1.1 102 Processing\r\nConnection: x\r\n\r\n".repeat(20);
                let _ = stream.write_all(answer.as_bytes()).await;
                if request.starts_with(b"GET /wait ") {
                    let _open = held.acquire().await.unwrap();
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    let mut stream = TcpStream::connect(world.http).await.unwrap();
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.com\r\n\r\n");
    // They arrive before the endpoint has answered.
    stream.write_all(request("/wait").as_bytes()).await.unwrap();
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    let early = read_until(&mut stream, hints).await;
    assert!(early.starts_with(hints), "{early}");
    gate.add_permits(1);
    let rest = read_until(&mut stream, "\r\n\r\nok").await;
    let all = early + &rest;
    assert_eq!(all.matches("HTTP/1.1 102 Processing\r\n\r\n").count(), 20, "{all}");
    // Of pipelined requests each has its own, before its own response.
    let both = request("/a") + &request("/b");
    stream.write_all(both.as_bytes()).await.unwrap();
    let first = read_until(&mut stream, "\r\n\r\nok").await;
    let second = match first.matches("\r\n\r\nok").count() {
        2 => first.clone(),
        _ => first.clone() + &read_until(&mut stream, "\r\n\r\nok").await,
    };
    let order: Vec<_> = second
        .split("HTTP/1.1 ")
        .filter_map(|message| message.get(..3))
        .filter(|status| *status != "102")
        .collect();
    assert_eq!(order, ["103", "200", "103", "200"], "{second}");
    // Nor is a client disturbed that does not know them.
    let old = super::kit::raw(world.http, b"GET / HTTP/1.0\r\nHost: a.com\r\n\r\n").await;
    assert!(old.contains(" 200 OK\r\n") && !old.contains(" 103 "), "{old}");
    assert_eq!(get(&world, Speaks::Http2, "a.com", "/").await.status, 200);
}

/// An endpoint that goes on and on without an answer has the same time as a silent one.
#[tokio::test]
async fn interim_responses_do_not_extend_the_time_of_the_final_one() {
    let net = Net::new();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        let _ = read_request(&mut stream, &mut Vec::new()).await;
        while stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let world = World::start_in(net, &manifests(), &["--read-timeout", "1s"]);
    let request = b"GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n";
    let answer = super::kit::raw(world.http, request).await;
    assert!(answer.contains("HTTP/1.1 504 "), "{answer}");
}

/// The rest of an interim response came behind the head of the final one.
#[tokio::test]
async fn a_final_response_waits_for_the_rest_of_an_interim_one() {
    let net = Net::new();
    let hints = format!("HTTP/1.1 103 Early Hints\r\n{}\r\n", "link: </a.css>\r\n".repeat(90));
    let sent = hints.clone();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), move |mut stream| {
        let sent = sent.clone();
        async move {
            let _ = read_request(&mut stream, &mut Vec::new()).await;
            // More than all sockets on the way hold.
            while stream.write_all(sent.as_bytes()).await.is_ok() {}
        }
    })
    .await;
    let world = World::start_in(net, &manifests(), &["--read-timeout", "1s", "--workers", "1"]);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut stream = socket.connect(world.http).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    // Nothing is read before the request has timed out.
    let counted = r#"switchyard_ingress_own_answers_total{reason="endpoint_timeout"}"#;
    eventually("a time-out", || async { (world.metric(counted) > 0.0).then_some(()) }).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    let text = String::from_utf8(answer).unwrap();
    let rest = text.split(&hints).last().unwrap();
    assert!(rest.starts_with("HTTP/1.1 504 "), "{:?}", &rest[..rest.len().min(300)]);
    assert_eq!(rest.matches("HTTP/1.1").count(), 1, "{rest}");
}

const HEAD: &str = "POST /upload HTTP/1.1\r\nHost: a.com\r\nExpect: 100-continue\r\n\
                    Content-Length: 5\r\n\r\n";

/// The client was asked for the body before the endpoint had been.
#[tokio::test]
async fn the_endpoint_decides_whether_a_body_is_sent() {
    let net = Net::new();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        let mut head = Vec::new();
        if !read_up_to(&mut stream, &mut head, b"\r\n\r\n").await {
            return;
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        assert!(text.contains("\r\nexpect: 100-continue\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n"), "nothing of the body has come: {text}");
        if text.starts_with("POST /refused ") {
            let refusal = b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nno!";
            let _ = stream.write_all(refusal).await;
            let _ = stream.read_to_end(&mut head).await;
            return;
        }
        let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        let mut body = [0; 5];
        let _ = stream.read_exact(&mut body).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n";
        let _ = stream.write_all(&[answer, &body[..]].concat()).await;
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    let mut stream = TcpStream::connect(world.http).await.unwrap();
    stream.write_all(HEAD.as_bytes()).await.unwrap();
    let asked = read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(asked, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let answer = read_until(&mut stream, "hello").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let refused = HEAD.replace("/upload", "/refused");
    let answer = super::kit::raw(world.http, refused.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("no!"), "{answer}");
}

/// Some endpoints never ask, and wait for the body.
#[tokio::test]
async fn an_endpoint_that_does_not_ask_gets_the_body_after_a_moment() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let world = World::start_in(net, &manifests(), &[]);
    let mut stream = TcpStream::connect(world.http).await.unwrap();
    stream.write_all(HEAD.as_bytes()).await.unwrap();
    let asked = read_until(&mut stream, "\r\n\r\n").await;
    assert_eq!(asked, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let answer = read_until(&mut stream, "hello").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

/// A client of HTTP/2.
async fn http2_client(world: &World) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(world.http).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// The statuses that a client gets for a request, with the Link fields, in their order. `body` is
/// sent once the client is asked for it.
async fn statuses(sender: &mut SendRequest<Bytes>, path: &str, body: Option<&str>) -> String {
    let request = Request::builder().method(if body.is_some() { "POST" } else { "GET" });
    let request = request.uri(format!("http://a.com{path}"));
    let request = match body {
        Some(_) => request.header("expect", "100-continue"),
        None => request,
    };
    let request = request.body(()).unwrap();
    let (mut response, mut send) = sender.send_request(request, body.is_none()).unwrap();
    let line = |response: &Response<()>| {
        let link = response.headers().get("link").map_or("", |link| link.to_str().unwrap());
        format!("{}{link} ", response.status().as_u16())
    };
    let mut all = String::new();
    let reading = async {
        while let Some(interim) = std::future::poll_fn(|cx| response.poll_informational(cx)).await {
            let interim = interim.unwrap();
            all += &line(&interim);
            if let (100, Some(body)) = (interim.status().as_u16(), body) {
                send.send_data(Bytes::copy_from_slice(body.as_bytes()), true).unwrap();
            }
        }
        all += &line(&response.await.unwrap().map(drop));
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer");
    all.trim_end().to_owned()
}

/// Clients of HTTP/2 got none.
#[tokio::test]
async fn interim_responses_reach_http2_clients() {
    let net = Net::new();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer).await {
            let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\n\r\n";
            let count = if request.starts_with(b"GET /many ") { 1000 } else { 2 };
            let answer = hints.repeat(count) + "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    let mut sender = http2_client(&world).await;
    let two = "103</a.css> 103</a.css> 200";
    assert_eq!(statuses(&mut sender, "/", None).await, two);
    let many = statuses(&mut sender, "/many", None).await;
    assert!(many.ends_with(" 200") && many.matches("103").count() == 32, "{many}");
}

/// A client of HTTP/2 that waited to be asked was not.
#[tokio::test]
async fn an_endpoint_decides_whether_a_body_is_sent_over_http2() {
    let net = Net::new();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        let mut head = Vec::new();
        if !read_up_to(&mut stream, &mut head, b"\r\n\r\n").await {
            return;
        }
        assert!(head.ends_with(b"\r\n\r\n"), "nothing of the body has come");
        if head.starts_with(b"POST /refused ") {
            let _ = stream.write_all(b"HTTP/1.1 417 No\r\ncontent-length: 0\r\n\r\n").await;
        } else {
            let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            if !read_up_to(&mut stream, &mut Vec::new(), b"hello").await {
                return;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
        let _ = stream.read_to_end(&mut head).await;
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    let mut sender = http2_client(&world).await;
    assert_eq!(statuses(&mut sender, "/refused", Some("hello")).await, "417");
    assert_eq!(statuses(&mut sender, "/", Some("hello")).await, "100 200");
}

/// Those of HTTP/2 endpoints reached nobody.
#[tokio::test]
async fn interim_responses_of_http2_endpoints_are_passed_on() {
    let net = Net::new();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), |stream| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let interim = |status| Response::builder().status(status).header("link", "</a.css>");
            let expects = request.headers().contains_key("expect");
            if expects && request.uri().path() == "/refused" {
                let refusal = Response::builder().status(417).body(()).unwrap();
                let _ = respond.send_response(refusal, true);
                continue;
            }
            let _ = respond.send_informational(interim(103).body(()).unwrap());
            tokio::spawn(async move {
                let mut body = request.into_body();
                if expects {
                    let go_on = Response::builder().status(100).body(()).unwrap();
                    let _ = respond.send_informational(go_on);
                    assert_eq!(body.data().await.unwrap().unwrap(), "hello");
                }
                let _ = respond.send_response(Response::new(()), true);
            });
        }
    })
    .await;
    let h2c = "targetPort: 9000, appProtocol: kubernetes.io/h2c";
    let manifests = manifests().replace("targetPort: 9000", h2c);
    let world = World::start_in(net, &manifests, &[]);
    let mut sender = http2_client(&world).await;
    assert_eq!(statuses(&mut sender, "/", None).await, "103</a.css> 200");
    assert_eq!(statuses(&mut sender, "/refused", Some("hello")).await, "417");
    assert_eq!(statuses(&mut sender, "/", Some("hello")).await, "103</a.css> 100 200");
    let request = b"GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n";
    let answer = super::kit::raw(world.http, request).await;
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 ";
    assert!(answer.starts_with(hints), "{answer}");
}
