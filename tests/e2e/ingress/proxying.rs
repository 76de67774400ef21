//! What is forwarded: header fields, bodies in both directions, upgrades.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Collected, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::kit::{
    ALL, Answer, Client, Endpoint, OK, Speaks, World, connect_tls, eventually, field, find, get,
    ingress, raw, read_request, service, status_of,
};
use crate::support::{Net, PATIENCE};

fn manifests() -> String {
    service("web", &["127.N.N.10"]) + &ingress("i", &[("a.com", "Prefix", "/", "web")])
}

async fn echo_world(flags: &[&str]) -> (World, Endpoint) {
    let net = Net::new();
    let endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    (World::start_in(net, &manifests(), flags), endpoint)
}

/// An endpoint that answers any request with these bytes, and closes.
async fn canned_world(answer: &'static str) -> (World, Endpoint) {
    let net = Net::new();
    let endpoint = Endpoint::raw(net.addr(10, 9000), move |mut stream| async move {
        let mut buffer = Vec::new();
        if read_request(&mut stream, &mut buffer).await.is_some() {
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    (World::start_in(net, &manifests(), &[]), endpoint)
}

#[tokio::test]
async fn where_a_request_came_from_is_said_by_us() {
    let (world, endpoint) = echo_world(&[]).await;
    for speaks in ALL {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        let request = Request::get("http://a.com:99/x?y=z")
            .header("x-forwarded-for", "1.2.3.4")
            .header("x-forwarded-proto", "gopher")
            .header("x-forwarded-prefix", "/p")
            .header("forwarded", "for=1.2.3.4")
            .header("x-real-ip", "1.2.3.4")
            .header("x-request-id", "mine")
            .header("x_real_ip", "1.2.3.4")
            .header("accept", "text/plain")
            .body(Full::default())
            .unwrap();
        assert_eq!(client.send(request).await.unwrap().status(), OK);
        let seen = endpoint.seen().pop().unwrap();
        let tls = matches!(speaks, Speaks::Http1OverTls | Speaks::Http2OverTls);
        let (scheme, port) = if tls { ("https", "8443") } else { ("http", "8080") };
        for (name, value) in [
            ("host", Some("a.com:99")),
            ("accept", Some("text/plain")),
            ("x-forwarded-for", Some("127.0.0.1")),
            ("x-real-ip", Some("127.0.0.1")),
            ("x-forwarded-proto", Some(scheme)),
            ("x-forwarded-host", Some("a.com:99")),
            ("x-forwarded-port", Some(port)),
            ("x-forwarded-prefix", None),
            ("forwarded", None),
            ("x_real_ip", None),
            ("connection", None),
        ] {
            assert_eq!(field(&seen, name), value, "{speaks:?} {name}: {seen}");
        }
        let id = field(&seen, "x-request-id").unwrap();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        assert!(seen.starts_with("GET /x?y=z HTTP/1.1\r\n"), "{seen}");
    }
    let ids: Vec<_> =
        endpoint.seen().iter().map(|s| field(s, "x-request-id").unwrap().to_owned()).collect();
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "{ids:?}");
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let flags = ["--trusted-proxies", "127.0.0.0/8,10.0.0.1", "--allow-underscores"];
    let (world, endpoint) = echo_world(&flags).await;
    let request = b"GET / HTTP/1.1\r\nHost: a.com\r\nX-Forwarded-For: 198.51.100.7, 10.0.0.1\r\n\
        X-Forwarded-Proto: https\r\nX-Request-Id: theirs\r\nA_B: c\r\n\
        Connection: close, x-forwarded-for\r\n\r\n";
    assert_eq!(status_of(&raw(world.http, request).await), 200);
    let seen = endpoint.seen().pop().unwrap();
    for (name, value) in [
        ("x-forwarded-for", "198.51.100.7, 10.0.0.1, 127.0.0.1"),
        ("x-real-ip", "198.51.100.7"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "theirs"),
        ("a_b", "c"),
    ] {
        assert_eq!(field(&seen, name), Some(value), "{seen}");
    }
}

#[tokio::test]
async fn fields_of_one_hop_stay_behind_both_ways() {
    let net = Net::new();
    let endpoint = Endpoint::answering(net.addr(10, 9000), |_| {
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nUpgrade: h2c\r\nX-End: 2\r\n\
         Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nok"
            .to_owned()
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    let request =
        b"GET / HTTP/1.1\r\nHost: a.com\r\nConnection: X-Secret, close\r\nX-Secret: 1\r\n\
        Keep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nTE: gzip, trailers\r\n\
        Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nX-End: 2\r\n\r\n";
    let answer = raw(world.http, request).await;
    for name in ["x-hop", "keep-alive", "proxy-authenticate", "upgrade"] {
        assert_eq!(field(&answer, name), None, "{answer}");
    }
    assert_eq!(field(&answer, "x-end"), Some("2"));
    assert!(answer.contains("set-cookie: a=1\r\n") && answer.contains("set-cookie: b=2\r\n"));
    let seen = endpoint.seen().pop().unwrap();
    let gone = [
        "x-secret",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
        "http2-settings",
        "connection",
    ];
    for name in gone {
        assert_eq!(field(&seen, name), None, "{name}: {seen}");
    }
    assert_eq!(field(&seen, "te"), Some("trailers"), "{seen}");
    assert_eq!(field(&seen, "x-end"), Some("2"), "{seen}");
    for speaks in [Speaks::Http2, Speaks::Http2OverTls] {
        let answer = get(&world, speaks, "a.com", "/").await;
        assert_eq!((answer.status, &*answer.body), (200, "ok"));
    }
}

#[tokio::test]
async fn bodies_pass_whatever_their_framing() {
    let (world, endpoint) = echo_world(&[]).await;
    for speaks in ALL {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        for size in [0, 1, 1000, 20_000, 300_000] {
            let body = "x".repeat(size);
            let request =
                Request::post("http://a.com/").body(Full::new(Bytes::from(body.clone()))).unwrap();
            let answer = Answer::read(client.send(request).await.unwrap()).await;
            assert_eq!(answer.status, 200, "{speaks:?} {size}");
            let seen = endpoint.seen().pop().unwrap();
            assert_eq!(seen.split_once("\r\n\r\n").unwrap().1, body, "{speaks:?} {size}");
            assert_eq!(field(&seen, "content-length"), Some(&*size.to_string()));
            assert!(answer.body.ends_with(&body), "{speaks:?} {size}");
        }
    }
    let chunked = b"POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\
        Connection: close\r\nTrailer: X-Sum\r\n\r\n5;a=b\r\nhello\r\n7\r\n, world\r\n0\r\n\
        X-Sum: 12\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(status_of(&raw(world.http, chunked).await), 200);
    let seen = endpoint.seen().pop().unwrap();
    assert_eq!(field(&seen, "transfer-encoding"), Some("chunked"), "{seen}");
    assert!(seen.ends_with("0\r\nx-sum: 12\r\n\r\n"), "{seen}");
    assert!(seen.contains("hello") && seen.contains(", world"), "{seen}");
}

#[tokio::test]
async fn endpoints_connections_are_kept_and_used_again() {
    let (world, endpoint) = echo_world(&[]).await;
    for speaks in ALL {
        for _ in 0..5 {
            assert_eq!(get(&world, speaks, "a.com", "/").await.status, 200);
        }
    }
    assert_eq!(endpoint.seen().len(), 20);
    assert_eq!(endpoint.connections(), 1);
    assert_eq!(world.metric("switchyard_ingress_upstream_connects_total"), 1.0);
}

#[tokio::test]
async fn responses_without_a_body_say_so() {
    let net = Net::new();
    let _endpoint = Endpoint::answering(net.addr(10, 9000), |seen| {
        let (status, fields) = match seen.split(' ').nth(1).unwrap() {
            "/204" => ("204 No Content", ""),
            "/304" => ("304 Not Modified", "ETag: x\r\n"),
            "/chunked" => ("200 OK", "Transfer-Encoding: chunked\r\n"),
            _ => ("200 OK", "Content-Length: 500\r\n"),
        };
        format!("HTTP/1.1 {status}\r\n{fields}\r\n")
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    for speaks in ALL {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        let table = [
            ("HEAD", "/x", 200),
            ("HEAD", "/chunked", 200),
            ("GET", "/204", 204),
            ("GET", "/304", 304),
        ];
        for (method, path, status) in table {
            let request = Request::builder().method(method).uri(format!("http://a.com{path}"));
            let response = client.send(request.body(Full::default()).unwrap()).await.unwrap();
            let length = response.headers().get("content-length").cloned();
            assert_eq!(response.status().as_u16(), status, "{speaks:?} {path}");
            if path == "/x" {
                assert_eq!(length, Some(HeaderValue::from_static("500")), "{speaks:?}");
            }
            assert_eq!(Answer::read(response).await.body, "", "{speaks:?} {path}");
        }
    }
}

/// The body that a client gets that takes trailers.
async fn body_with_trailers(world: &World, speaks: Speaks) -> Collected<Bytes> {
    let mut client = Client::connect(world, speaks, "a.com").await;
    let request = Request::get("http://a.com/").header("te", "trailers");
    let response = client.send(request.body(Full::default()).unwrap()).await.unwrap();
    response.into_body().collect().await.unwrap()
}

#[tokio::test]
async fn trailers_pass_to_clients() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n\
        5\r\nhello\r\n0\r\ngrpc-status: 7\r\n\r\n";
    let (world, _endpoint) = canned_world(answer).await;
    for speaks in ALL {
        let body = body_with_trailers(&world, speaks).await;
        assert_eq!(body.trailers().unwrap()["grpc-status"], "7", "{speaks:?}");
        assert_eq!(body.to_bytes(), "hello", "{speaks:?}");
    }
}

#[tokio::test]
async fn trailers_that_are_not_announced_reach_http2_clients() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n";
    let (world, _endpoint) = canned_world(answer).await;
    for speaks in ALL {
        let body = body_with_trailers(&world, speaks).await;
        let is_http2 = matches!(speaks, Speaks::Http2 | Speaks::Http2OverTls);
        let sum = body.trailers().and_then(|trailers| trailers.get("x-sum"));
        assert_eq!(sum.is_some(), is_http2, "{speaks:?}");
        assert_eq!(body.to_bytes(), "hello", "{speaks:?}");
    }
}

#[tokio::test]
async fn a_response_that_breaks_off_is_no_whole_response() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let (world, _endpoint) = canned_world(answer).await;
        for speaks in ALL {
            let mut client = Client::connect(&world, speaks, "a.com").await;
            let request = Request::get("http://a.com/").body(Full::default()).unwrap();
            // Over HTTP/2 the reset may overtake the head.
            if let Ok(response) = client.send(request).await {
                let body = response.into_body().collect().await;
                assert!(body.is_err(), "{speaks:?} {answer}");
            }
        }
    }
    // Without a length, the body ends with the connection.
    let (world, _endpoint) = canned_world("HTTP/1.1 200 OK\r\n\r\nhello").await;
    for speaks in ALL {
        assert_eq!(get(&world, speaks, "a.com", "/").await.body, "hello", "{speaks:?}");
    }
}

#[tokio::test]
async fn responses_that_cannot_be_read_are_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "SSH-2.0-OpenSSH_9\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "",
    ] {
        let (world, _endpoint) = canned_world(answer).await;
        for speaks in [Speaks::Http1, Speaks::Http2] {
            let answer = get(&world, speaks, "a.com", "/").await;
            assert_eq!(answer.status, 502, "{speaks:?} {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_expects_to_be_told_to_continue_is() {
    let (world, endpoint) = echo_world(&["--max-body-bytes", "10"]).await;
    let mut stream = TcpStream::connect(world.http).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a.com\r\nExpect: 100-continue\r\nContent-Length: ";
    stream.write_all(format!("{head}5\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while find(&answer, b"\r\n\r\n").is_none() {
        stream.read_buf(&mut answer).await.unwrap();
    }
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    answer.clear();
    while find(&answer, b"hello").is_none() {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
    }
    assert_eq!(status_of(&String::from_utf8_lossy(&answer)), 200);
    assert_eq!(field(&endpoint.seen()[0], "expect"), Some("100-continue"));
    let refused = raw(world.http, format!("{head}11\r\n\r\n").as_bytes()).await;
    assert_eq!(status_of(&refused), 413, "without a body ever sent: {refused}");
    assert!(!refused.contains("100 Continue"), "{refused}");
}

#[tokio::test]
async fn an_endpoint_may_answer_before_it_has_read_all() {
    let net = Net::new();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        let mut head = vec![0; 100];
        let _ = stream.read(&mut head).await;
        let reply = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
        let _ = stream.write_all(reply).await;
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    let mut request = b"POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 3000000\r\n\
        Connection: close\r\n\r\n"
        .to_vec();
    request.resize(request.len() + 3_000_000, b'x');
    for _ in 0..5 {
        let answer = raw(world.http, &request).await;
        assert_eq!(status_of(&answer), 403, "{answer:?}");
    }
}

/// The bytes of an upload that goes on after its answer.
const UPLOAD: usize = 1 << 20;

/// An endpoint that answers after the head of each request and reads on; it reports how much of the
/// body it got.
async fn early_endpoint(net: Net) -> (Endpoint, tokio::sync::mpsc::UnboundedReceiver<usize>) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = Endpoint::raw(net.addr(10, 9000), move |mut stream| {
        let sender = sender.clone();
        async move {
            let mut buffer = Vec::new();
            loop {
                let head_end = loop {
                    if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                        return;
                    }
                    if let Some(at) = find(&buffer, b"\r\n\r\n") {
                        break at + 4;
                    }
                };
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
                let _ = stream.write_all(answer).await;
                let mut read = buffer.len() - head_end;
                while read < UPLOAD {
                    buffer.clear();
                    match stream.read_buf(&mut buffer).await {
                        Ok(0) | Err(_) => break,
                        Ok(more) => read += more,
                    }
                }
                buffer.clear();
                let _ = sender.send(read);
            }
        }
    });
    (endpoint.await, receiver)
}

/// An endpoint that answered before the upload had ended was cut off after 64 KiB of it.
#[tokio::test]
async fn an_upload_goes_on_after_its_answer() {
    let net = Net::new();
    let (endpoint, mut uploads) = early_endpoint(net).await;
    let world = World::start_in(net, &manifests(), &[]);
    let piece = vec![b'x'; UPLOAD / 16];

    let mut stream = TcpStream::connect(world.http).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {UPLOAD}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&piece).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hi") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
    }
    for _ in 1..16 {
        stream.write_all(&piece).await.unwrap();
    }
    assert_eq!(uploads.recv().await, Some(UPLOAD), "over HTTP/1.1");
    // Both connections can be used for the next request.
    stream.write_all(head.as_bytes()).await.unwrap();
    answer.clear();
    while !answer.ends_with(b"hi") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{answer:?}");
    }
    assert_eq!(endpoint.connections(), 1);
    drop(stream);

    let stream = TcpStream::connect(world.http).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = Request::post("http://a.com/").header("content-length", UPLOAD);
    let request = request.body(()).unwrap();
    let (response, mut upload) = sender.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    while body.data().await.is_some() {}
    let mut left = UPLOAD;
    while left > 0 {
        upload.reserve_capacity(left.min(piece.len()));
        let room = std::future::poll_fn(|cx| upload.poll_capacity(cx)).await.unwrap().unwrap();
        let length = room.min(left).min(piece.len());
        left -= length;
        upload.send_data(Bytes::from(piece[..length].to_vec()), left == 0).unwrap();
    }
    let uploaded = loop {
        // A part of the previous request, whose client disconnected, may have arrived.
        match uploads.recv().await.unwrap() {
            UPLOAD => break UPLOAD,
            less => assert!(less < UPLOAD),
        }
    };
    assert!(uploaded == UPLOAD && endpoint.connections() >= 2, "over HTTP/2");
}

/// The reason phrase of an endpoint was replaced by the usual one of its status.
#[tokio::test]
async fn an_endpoints_reason_phrase_is_kept() {
    let (world, _endpoint) =
        canned_world("HTTP/1.1 200 Very Fine\r\nContent-Length: 2\r\n\r\nhi").await;
    let request = "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n";
    let answer = raw(world.http, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 Very Fine\r\n"), "{answer}");
    assert_eq!(get(&world, Speaks::Http2, "a.com", "/").await.body, "hi");
}

#[tokio::test]
async fn events_pass_as_they_come() {
    let net = Net::new();
    let go_on = Arc::new(Notify::new());
    let told = go_on.clone();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), move |mut stream| {
        let told = told.clone();
        async move {
            let mut buffer = Vec::new();
            read_request(&mut stream, &mut buffer).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            for n in 0..3 {
                let event = format!("data: {n}\n\n");
                let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                stream.write_all(chunk.as_bytes()).await.unwrap();
                told.notified().await;
            }
        }
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    for speaks in ALL {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        let request = Request::get("http://a.com/").body(Full::default()).unwrap();
        let mut events = client.send(request).await.unwrap().into_body();
        for n in 0..3 {
            // The next event is sent only after this one has arrived.
            let frame = tokio::time::timeout(PATIENCE, events.frame()).await.unwrap().unwrap();
            assert_eq!(frame.unwrap().into_data().unwrap(), format!("data: {n}\n\n"), "{speaks:?}");
            go_on.notify_one();
        }
    }
}

#[tokio::test]
async fn websockets_pass_both_ways() {
    let net = Net::new();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), |stream| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    let plain = TcpStream::connect(world.http).await.unwrap();
    let (mut socket, response) =
        tokio_tungstenite::client_async("ws://a.com/chat", plain).await.unwrap();
    assert_eq!(response.status(), 101);
    for n in 0..20 {
        let text = format!("message {n}").repeat(n * 100 + 1);
        socket.send(text.clone().into()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), text);
    }
    // It continues when all other objects change.
    world.replace(&manifests().replace("a.com", "b.com"));
    eventually("the change", || async {
        (get(&world, Speaks::Http1, "a.com", "/").await.status == 404).then_some(())
    })
    .await;
    socket.send("still here".into()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "still here");
    world.replace(&manifests());
    eventually("the change back", || async {
        (get(&world, Speaks::Http1, "a.com", "/").await.status != 404).then_some(())
    })
    .await;
    let tls = connect_tls(world.https, "a.com", &["http/1.1"]).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("wss://a.com/chat", tls).await.unwrap();
    socket.send("over TLS".into()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "over TLS");
    socket.close(None).await.unwrap();
    assert!(socket.next().await.unwrap().unwrap().is_close());
}

#[tokio::test]
async fn tunnel_bytes_wait_for_the_endpoints_agreement() {
    let net = Net::new();
    let before = Arc::new(AtomicUsize::new(usize::MAX));
    let noted = before.clone();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), move |mut stream| {
        let noted = noted.clone();
        async move {
            let mut buffer = Vec::new();
            let request = read_request(&mut stream, &mut buffer).await.unwrap();
            let request = String::from_utf8_lossy(&request).into_owned();
            // Anything that is sent too early would arrive within this time.
            let early =
                tokio::time::timeout(Duration::from_millis(200), stream.read_buf(&mut buffer));
            let _ = early.await;
            noted.store(buffer.len(), Ordering::Relaxed);
            if field(&request, "x-refuse").is_some() {
                let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno";
                stream.write_all(reply).await.unwrap();
                return;
            }
            let reply = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                Upgrade: echo\r\n\r\nfirst ";
            stream.write_all(reply).await.unwrap();
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        }
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    let upgrade = "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade\r\nUpgrade: echo\r\n";
    let mut stream = TcpStream::connect(world.http).await.unwrap();
    stream.write_all(format!("{upgrade}\r\nearly ").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while find(&answer, b"first early ").is_none() {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{answer:?}");
    }
    assert_eq!(before.load(Ordering::Relaxed), 0, "nothing before the 101");
    // One direction closes, the other one continues.
    stream.write_all(b"late").await.unwrap();
    stream.shutdown().await.unwrap();
    stream.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert!(text.ends_with("first early late"), "{text}");
    assert_eq!(field(&text, "upgrade"), Some("echo"));

    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n";
    let request = format!("{upgrade}X-Refuse: 1\r\n\r\n{smuggled}");
    let answer = raw(world.http, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(before.load(Ordering::Relaxed), 0, "a refused upgrade is a plain request");
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> usize {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// More than all buffers between client and endpoint can hold, and the part that may stay in
/// memory.
const LARGE: usize = 96 << 20;
const MAY_GROW: usize = 16 << 20;

#[tokio::test]
async fn large_uploads_are_streamed_at_the_endpoints_pace() {
    let net = Net::new();
    let received = Arc::new(AtomicUsize::new(0));
    let (counted, may_read) = (received.clone(), Arc::new(Notify::new()));
    let released = may_read.clone();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), move |mut stream| {
        let (counted, released) = (counted.clone(), released.clone());
        async move {
            let mut buffer = vec![0; 64 << 10];
            released.notified().await;
            while counted.load(Ordering::Relaxed) < LARGE {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(read) => counted.fetch_add(read, Ordering::Relaxed),
                };
            }
            let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            stream.write_all(reply).await.unwrap();
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        }
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    for speaks in [Speaks::Http1, Speaks::Http2] {
        received.store(0, Ordering::Relaxed);
        let before = resident(world.ingress.pid());
        let chunk = Bytes::from(vec![b'x'; 64 << 10]);
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let pieces = futures_util::stream::iter(0..LARGE / chunk.len()).map(move |_| {
            counter.fetch_add(chunk.len(), Ordering::Relaxed);
            Ok::<_, std::io::Error>(Frame::data(chunk.clone()))
        });
        let request = Request::post("http://a.com/").header("content-length", LARGE);
        let request = request.body(StreamBody::new(pieces)).unwrap();
        let stream = TcpStream::connect(world.http).await.unwrap();
        // Without this, the last segments would wait for delayed acknowledgements.
        stream.set_nodelay(true).unwrap();
        let stream = TokioIo::new(stream);
        let response = if speaks == Speaks::Http1 {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let (mut parts, body) = request.into_parts();
            parts.headers.insert("host", HeaderValue::from_static("a.com"));
            parts.uri = "/".parse().unwrap();
            tokio::spawn(async move { sender.send_request(Request::from_parts(parts, body)).await })
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            tokio::spawn(async move { sender.send_request(request).await })
        };
        // The endpoint does not read: the client must block.
        let stands = eventually("the client waits", || async {
            let at = sent.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(300)).await;
            (at > 0 && sent.load(Ordering::Relaxed) == at).then_some(at)
        })
        .await;
        assert!(stands < LARGE / 2, "{speaks:?}: {stands} bytes were taken that nobody wants");
        let grown = resident(world.ingress.pid()).saturating_sub(before);
        assert!(grown < MAY_GROW, "{speaks:?}: {grown} bytes held");
        may_read.notify_one();
        let response = response.await.unwrap().unwrap();
        assert_eq!(response.status(), OK, "{speaks:?}");
        let grown = resident(world.ingress.pid()).saturating_sub(before);
        assert!(grown < MAY_GROW, "{speaks:?}: {grown} bytes held in the end");
    }
}

#[tokio::test]
async fn large_downloads_are_streamed_at_the_clients_pace() {
    let net = Net::new();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), move |mut stream| {
        let counted = counted.clone();
        async move {
            let mut buffer = Vec::new();
            read_request(&mut stream, &mut buffer).await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let piece = vec![b'x'; 64 << 10];
            for _ in 0..LARGE / piece.len() {
                if stream.write_all(&piece).await.is_err() {
                    return;
                }
                counted.fetch_add(piece.len(), Ordering::Relaxed);
            }
        }
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    for speaks in [Speaks::Http1, Speaks::Http2, Speaks::Http2OverTls] {
        sent.store(0, Ordering::Relaxed);
        let before = resident(world.ingress.pid());
        let mut client = Client::connect(&world, speaks, "a.com").await;
        let request = Request::get("http://a.com/").body(Full::default()).unwrap();
        let mut body = client.send(request).await.unwrap().into_body();
        let stands = eventually("the endpoint waits", || async {
            let at = sent.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(300)).await;
            (at > 0 && sent.load(Ordering::Relaxed) == at).then_some(at)
        })
        .await;
        assert!(stands < LARGE / 2, "{speaks:?}: {stands} bytes were taken that nobody wants");
        let grown = resident(world.ingress.pid()).saturating_sub(before);
        assert!(grown < MAY_GROW, "{speaks:?}: {grown} bytes held");
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.unwrap().into_data().unwrap().len();
        }
        assert_eq!(read, LARGE, "{speaks:?}");
    }
}
