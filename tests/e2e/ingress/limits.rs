//! Limits and time-outs: each has its status, and does not affect other clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::kit::{
    ALL, Answer, Client, Endpoint, OK, Speaks, World, annotated, eventually, get, ingress, raw,
    read_request, service, status_of,
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

/// An endpoint that reads requests and never answers.
async fn silent_world(flags: &[&str]) -> (World, Endpoint) {
    let net = Net::new();
    let endpoint = Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    (World::start_in(net, &manifests(), flags), endpoint)
}

#[tokio::test]
async fn heads_that_are_too_large_are_431() {
    let (world, endpoint) = echo_world(&["--max-header-bytes", "16k"]).await;
    let with = |fields: &str| {
        format!("GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n{fields}\r\n")
    };
    let table = [
        (format!("X: {}\r\n", "y".repeat(15_000)), 200),
        (format!("X: {}\r\n", "y".repeat(17_000)), 431),
        (format!("X: {}\r\n", "y".repeat(1_000_000)), 431),
        ("X: y\r\n".repeat(90), 200),
        ("X: y\r\n".repeat(200), 431),
    ];
    for (fields, status) in table {
        let answer = raw(world.http, with(&fields).as_bytes()).await;
        assert_eq!(status_of(&answer), status, "{} bytes: {answer}", fields.len());
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: a.com\r\n\r\n", "x".repeat(70_000));
    let status = status_of(&raw(world.http, long.as_bytes()).await);
    assert!([414, 431].contains(&status), "{status}");
    let mut client = Client::connect(&world, Speaks::Http2, "a.com").await;
    let large = Request::get("http://a.com/").header("x", "y".repeat(17_000));
    match client.send(large.body(Full::default()).unwrap()).await {
        Ok(response) => assert_eq!(response.status(), 431),
        Err(error) => assert!(error.to_string().contains("http2"), "{error}"),
    }
    assert_eq!(get(&world, Speaks::Http2, "a.com", "/").await.status, 200);
    assert_eq!(endpoint.seen().len(), 3);
}

#[tokio::test]
async fn bodies_that_are_too_large_are_413() {
    let net = Net::new();
    let endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let small = [("nginx.ingress.kubernetes.io/proxy-body-size", "1k")];
    let any = [("switchyard.dev/proxy-body-size", "0")];
    let manifests = manifests()
        + &annotated("small", "small.com", "web", &small)
        + &annotated("any", "any.com", "web", &any);
    let world = World::start_in(net, &manifests, &["--max-body-bytes", "100k"]);
    let table = [
        ("a.com", 100 << 10, 200),
        ("a.com", (100 << 10) + 1, 413),
        ("small.com", 1 << 10, 200),
        ("small.com", (1 << 10) + 1, 413),
        ("any.com", 300 << 10, 200),
    ];
    for speaks in ALL {
        for (host, size, status) in table {
            let mut client = Client::connect(&world, speaks, host).await;
            let request = Request::post(format!("http://{host}/"));
            let body = Full::new(Bytes::from(vec![b'x'; size]));
            let answer = client.send(request.body(body).unwrap()).await.unwrap();
            assert_eq!(answer.status().as_u16(), status, "{speaks:?} {host} {size}");
        }
    }
    // Without a length, the limit is detected only while the body arrives.
    let mut chunked =
        b"POST / HTTP/1.1\r\nHost: small.com\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..10 {
        chunked.extend_from_slice(b"100\r\n");
        chunked.extend_from_slice(&[b'x'; 256]);
        chunked.extend_from_slice(b"\r\n");
    }
    let before = endpoint.seen().len();
    assert_eq!(status_of(&raw(world.http, &chunked).await), 413);
    assert_eq!(endpoint.seen().len(), before, "the endpoint never had all of it");
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_504() {
    let net = Net::new();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    let patient = [("nginx.ingress.kubernetes.io/proxy-read-timeout", "86400")];
    let manifests = manifests() + &annotated("patient", "patient.com", "web", &patient);
    let world = World::start_in(net, &manifests, &["--read-timeout", "300ms"]);
    let waiting = {
        let mut client = Client::connect(&world, Speaks::Http1, "patient.com").await;
        tokio::spawn(async move { client.get("patient.com", "/").await })
    };
    for speaks in ALL {
        let answer = get(&world, speaks, "a.com", "/").await;
        assert_eq!(answer.status, 504, "{speaks:?} {answer:?}");
    }
    assert!(!waiting.is_finished(), "the annotation gives it more time");
    waiting.abort();
}

#[tokio::test]
async fn a_response_that_stops_is_broken_off() {
    let net = Net::new();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        let mut buffer = Vec::new();
        while read_request(&mut stream, &mut buffer).await.is_some() {
            let half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
            stream.write_all(half).await.unwrap();
        }
    })
    .await;
    let world = World::start_in(net, &manifests(), &["--read-timeout", "2s"]);
    for speaks in ALL {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        let request = Request::get("http://a.com/").body(Full::default()).unwrap();
        let response = client.send(request).await.unwrap();
        assert_eq!(response.status(), OK);
        let body = http_body_util::BodyExt::collect(response.into_body());
        let body = tokio::time::timeout(PATIENCE, body).await.expect("it ends");
        assert!(body.is_err(), "{speaks:?}");
    }
}

#[tokio::test]
async fn clients_that_are_too_slow_are_closed() {
    let flags = ["--header-timeout", "2s", "--idle-timeout", "2s", "--send-timeout", "2s"];
    let (world, endpoint) = echo_world(&flags).await;
    let table: [(&[u8], u16); 5] = [
        (b"", 0),
        (b"GET / HT", 408),
        (b"GET / HTTP/1.1\r\nHost: a.com\r\nX:", 408),
        (b"POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 10\r\n\r\nhello", 408),
        (b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n", 200),
    ];
    for (bytes, status) in table {
        let answer = raw(world.http, bytes).await;
        assert_eq!(status_of(&answer), status, "{:?}: {answer}", String::from_utf8_lossy(bytes));
    }
    // Sending one byte at a time does not extend it.
    let mut stream = TcpStream::connect(world.http).await.unwrap();
    let trickle = async {
        for byte in b"GET / HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'y')) {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trickle).await.expect("it is closed");
    // An HTTP/2 connection without requests gets GOAWAY.
    let stream = TcpStream::connect(world.http).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    let request = Request::get("http://a.com/").body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), OK);
    let ended = tokio::time::timeout(PATIENCE, ended).await.expect("it ends").unwrap();
    assert!(ended.is_ok(), "by GOAWAY without an error: {ended:?}");
    assert_eq!(endpoint.seen().len(), 2);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed() {
    let net = Net::new();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        let mut buffer = Vec::new();
        read_request(&mut stream, &mut buffer).await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        // More than all buffers of the kernel can hold.
        let piece = vec![b'x'; 256 << 10];
        while stream.write_all(&piece).await.is_ok() {}
    })
    .await;
    let flags = ["--read-timeout", "2s", "--send-timeout", "2s"];
    let world = World::start_in(net, &manifests(), &flags);
    let mut held = Vec::new();
    for speaks in [Speaks::Http1, Speaks::Http2, Speaks::Http1OverTls, Speaks::Http2OverTls] {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        let request = Request::get("http://a.com/").body(Full::default()).unwrap();
        held.push((client.send(request).await.unwrap(), client));
    }
    eventually("all are closed", || async {
        (world.metric("switchyard_ingress_open_connections") == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn unreachable_endpoints_are_502_and_others_are_asked() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(12, 9000), "alive").await;
    let manifests = service("dead", &["127.N.N.10", "127.N.N.11"])
        + &service("mixed", &["127.N.N.10", "127.N.N.11", "127.N.N.12"])
        + &ingress(
            "i",
            &[("dead.com", "Prefix", "/", "dead"), ("mixed.com", "Prefix", "/", "mixed")],
        );
    let world = World::start_in(net, &manifests, &[]);
    for speaks in ALL {
        assert_eq!(get(&world, speaks, "dead.com", "/").await.status, 502, "{speaks:?}");
        for _ in 0..6 {
            assert_eq!(get(&world, speaks, "mixed.com", "/").await.name(), "alive", "{speaks:?}");
        }
        let mut client = Client::connect(&world, speaks, "mixed.com").await;
        let body = Full::new(Bytes::from_static(b"posted"));
        let request = Request::post("http://mixed.com/").body(body).unwrap();
        let answer = Answer::read(client.send(request).await.unwrap()).await;
        assert!(answer.body.ends_with("posted"), "{speaks:?}: {answer:?}");
    }
    // Both endpoints of `dead` are tried each time, because there is no other; those of `mixed`
    // rest.
    assert!(world.metric("switchyard_ingress_upstream_connect_failures_total") >= 10.0);
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connection_is_504_and_others_are_asked() {
    let net = Net::new();
    let _full =
        [FullQueue::listen(net.addr(10, 9000)).await, FullQueue::listen(net.addr(11, 9000)).await];
    let _endpoint = Endpoint::echo(net.addr(12, 9000), "alive").await;
    let mut manifests = service("mixed", &["127.N.N.11", "127.N.N.12"])
        + &ingress("mixed", &[("mixed.com", "Prefix", "/", "mixed")]);
    // One Service for each protocol, because endpoints that time out rest.
    for speaks in ALL {
        let name = format!("full-{speaks:?}").to_ascii_lowercase();
        manifests += &service(&name, &["127.N.N.10"]);
        manifests += &ingress(&name, &[(&format!("{name}.com"), "Prefix", "/", &name)]);
    }
    let world = World::start_in(net, &manifests, &["--connect-timeout", "1s"]);
    for speaks in ALL {
        let host = format!("full-{speaks:?}.com").to_ascii_lowercase();
        assert_eq!(get(&world, speaks, &host, "/").await.status, 504, "{speaks:?}");
        for _ in 0..2 {
            assert_eq!(get(&world, speaks, "mixed.com", "/").await.name(), "alive", "{speaks:?}");
        }
    }
}

#[tokio::test]
async fn of_a_service_whose_endpoints_all_time_out_one_client_waits_and_others_get_503_at_once() {
    let net = Net::new();
    let full = FullQueue::listen(net.addr(10, 9000)).await;
    let manifests =
        service("full", &["127.N.N.10"]) + &ingress("i", &[("full.com", "Prefix", "/", "full")]);
    let world = World::start_in(net, &manifests, &["--connect-timeout", "1s"]);
    assert_eq!(get(&world, Speaks::Http1, "full.com", "/").await.status, 504);
    let requests = (0..20).map(|_| get(&world, Speaks::Http1, "full.com", "/"));
    let answers = join_all(requests).await;
    let tried = answers.iter().filter(|answer| answer.status == 504).count();
    let refused = answers.iter().filter(|answer| answer.status == 503).count();
    assert_eq!(tried + refused, answers.len());
    // Those that come late, because the machine is busy, may try it again one by one.
    assert!(refused >= 10, "{refused} of 20 were answered at once");

    drop(full);
    let _endpoint = Endpoint::echo(world.net.addr(10, 9000), "alive").await;
    eventually("the endpoint is tried again", || async {
        let answer = get(&world, Speaks::Http1, "full.com", "/").await;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// A listener whose queue is full: the kernel lets each client wait.
struct FullQueue {
    _listener: tokio::net::TcpListener,
    _waiting: Vec<TcpStream>,
}

impl FullQueue {
    async fn listen(address: SocketAddr) -> FullQueue {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(0).unwrap();
        let mut waiting = Vec::new();
        let patience = Duration::from_millis(200);
        while let Ok(Ok(stream)) = tokio::time::timeout(patience, TcpStream::connect(address)).await
        {
            waiting.push(stream);
        }
        FullQueue { _listener: listener, _waiting: waiting }
    }
}

#[tokio::test]
async fn connections_beyond_the_limits_are_turned_away() {
    let flags = ["--max-connections", "5", "--max-connections-per-client", "3"];
    let (world, _endpoint) = echo_world(&flags).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(&world, Speaks::Http1, "a.com").await;
        assert_eq!(client.get("a.com", "/").await.status, 200);
        held.push(client);
    }
    let answer = raw(world.http, b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
    assert_eq!(status_of(&answer), 503, "{answer}");
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    // Another client is not affected.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(world.net.addr(77, 0)).unwrap();
    let other = socket.connect(world.http).await.unwrap();
    assert_eq!(Client::http1(other).await.get("a.com", "/").await.status, 200);
    held.clear();
    eventually("room again", || async {
        let answer = raw(world.http, b"GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n");
        (status_of(&answer.await) == 200).then_some(())
    })
    .await;
    assert!(world.metric("switchyard_ingress_refused_connections_total") >= 1.0);
}

#[tokio::test]
async fn streams_and_their_resets_are_limited() {
    let (world, _endpoint) = silent_world(&["--max-streams", "7"]).await;
    let stream = TcpStream::connect(world.http).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    eventually("the settings", || {
        let limit = sender.current_max_send_streams();
        async move { (limit == 7).then_some(()) }
    })
    .await;
    drop(sender);
    ended.await.unwrap().unwrap();

    // Rapid reset: open and reset streams as fast as possible.
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    };
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(4, 0, 0, &[]));
    for at in 0..2000 {
        // GET http://a.com/, in indexed fields and one literal.
        flood.extend(frame(1, 5, 2 * at + 1, b"\x82\x86\x84\x41\x05a.com"));
        flood.extend(frame(3, 0, 2 * at + 1, &8_u32.to_be_bytes()));
    }
    let mut stream = TcpStream::connect(world.http).await.unwrap();
    let _ = stream.write_all(&flood).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer));
    let _ = read.await.expect("the connection is ended");
    // GOAWAY with ENHANCE_YOUR_CALM, after the number of the last processed stream.
    let told =
        answer.windows(17).any(|w| w[3..9] == [7, 0, 0, 0, 0, 0] && w[13..] == [0, 0, 0, 11]);
    assert!(told, "{answer:?}");
    let mut other = Client::connect(&world, Speaks::Http2, "a.com").await;
    assert_eq!(other.get("b.com", "/").await.status, 404, "others are served");
}

#[tokio::test]
async fn requests_given_up_by_clients_are_given_up() {
    let net = Net::new();
    let (told, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), move |mut stream| {
        let told = told.clone();
        async move {
            let mut buffer = Vec::new();
            read_request(&mut stream, &mut buffer).await.unwrap();
            told.send("asked").unwrap();
            let end = stream.read(&mut [0; 10]).await;
            assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
            told.send("closed").unwrap();
        }
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    for speaks in ALL {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        let request = Request::get("http://a.com/").body(Full::default()).unwrap();
        let asking = tokio::spawn(async move { client.send(request).await.map(|_| ()) });
        let next = tokio::time::timeout(PATIENCE, closed.recv());
        assert_eq!(next.await.unwrap(), Some("asked"), "{speaks:?}");
        asking.abort();
        let next = tokio::time::timeout(PATIENCE, closed.recv());
        assert_eq!(next.await.unwrap(), Some("closed"), "{speaks:?}");
    }
}

#[tokio::test]
async fn a_body_that_its_client_breaks_off_never_looks_whole() {
    let net = Net::new();
    let (told, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let half_arrived = Arc::new(tokio::sync::Notify::new());
    let arrived = half_arrived.clone();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), move |mut stream| {
        let (told, arrived) = (told.clone(), arrived.clone());
        async move {
            let mut all = Vec::new();
            while !all.ends_with(b"half\r\n") && stream.read_buf(&mut all).await.unwrap() > 0 {}
            arrived.notify_one();
            let _ = stream.read_to_end(&mut all).await;
            told.send(String::from_utf8_lossy(&all).into_owned()).unwrap();
        }
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let half_arrived = half_arrived.clone();
        let broken = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"half")))])
            .chain(futures_util::stream::once(async move {
                half_arrived.notified().await;
                Err(std::io::Error::other("the client has changed its mind"))
            }));
        let body = StreamBody::new(Box::pin(broken));
        let stream = hyper_util::rt::TokioIo::new(TcpStream::connect(world.http).await.unwrap());
        let sent = if speaks == Speaks::Http1 {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let request = Request::post("/").header("host", "a.com").body(body).unwrap();
            sender.send_request(request).await.map(|_| ())
        } else {
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(executor, stream).await.unwrap();
            tokio::spawn(connection);
            let request = Request::post("http://a.com/").body(body).unwrap();
            sender.send_request(request).await.map(|_| ())
        };
        assert!(sent.is_err(), "{speaks:?}");
        let seen = tokio::time::timeout(PATIENCE, seen.recv()).await.unwrap().unwrap();
        assert!(seen.ends_with("\r\n\r\n4\r\nhalf\r\n"), "no last chunk: {speaks:?} {seen:?}");
    }
}

/// Before the first state, clients get an error instead of waiting.
#[tokio::test]
async fn before_the_feed_is_there_every_request_is_503() {
    let net = Net::new();
    let (http, https) = (net.addr(1, 8080).to_string(), net.addr(1, 8443).to_string());
    let feed = format!("http://{}", net.addr(9, 7400));
    let args = ["ingress", "--feed", &feed, "--http", &http, "--https", &https];
    let process = crate::support::Switchyard::start(net.addr(1, 7421), &args);
    let answer = crate::support::eventually("an answer", || {
        crate::support::http_get(net.addr(1, 8080), "shop.example", "/").ok()
    });
    assert!(answer.0 == 503 && answer.1.contains("not ready"), "{answer:?}");
    assert_eq!(process.admin_get("/readyz").0, 503);
}

#[tokio::test]
async fn an_address_that_another_ingress_has_is_not_shared() {
    let world = World::start_in(Net::new(), &service("s", &[]), &[]);
    let (http, https) = (world.http.to_string(), world.net.addr(2, 8443).to_string());
    let path = world.folder.path().display().to_string();
    let args = ["ingress", "--feed", &path, "--http", &http, "--https", &https];
    let second = crate::support::Switchyard::start(world.net.addr(2, 7421), &args);
    assert_eq!(second.wait().code(), Some(1));
}
