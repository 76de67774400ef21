//! WebSockets over HTTP/2 (RFC 8441), and towards endpoints of both versions.

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::kit::{Endpoint, World, annotated, eventually, field, ingress, read_request, service};
use crate::support::{Net, PATIENCE};

/// Answers by the path: as a WebSocket that sends back what it gets, or in another way.
async fn endpoint(net: &Net) -> Endpoint {
    Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        let mut early = Vec::new();
        let Some(request) = read_request(&mut stream, &mut early).await else { return };
        let request = String::from_utf8(request).unwrap();
        assert!(early.is_empty(), "nothing comes before the 101");
        let accept = derive_accept_key(field(&request, "sec-websocket-key").unwrap().as_bytes());
        let answer = match request.split(' ').nth(1).unwrap() {
            "/refused" => {
                "403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno".to_owned()
            }
            "/plain" => "200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
            path => {
                let accept = if path == "/wrong" { "other" } else { &accept };
                format!(
                    "101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                )
            }
        };
        let _ = stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await;
        if request.starts_with("GET /chat ") {
            for line in ["host: a.com", "upgrade: websocket", "sec-websocket-version: 13"] {
                assert!(request.contains(&format!("\r\n{line}\r\n")), "{line}: {request}");
            }
        }
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            let _ = stream.write_all(&buffer[..read]).await;
        }
        if request.starts_with("GET /stays ") {
            let _ = stream.write_all(b"ended").await;
            std::future::pending::<()>().await;
        }
    })
    .await
}

/// One request or tunnel at a time for each endpoint.
const ONE_AN_ENDPOINT: (&str, &str) = ("switchyard.dev/max-connections-per-endpoint", "1");

/// A world whose one route leads to that endpoint.
async fn world(annotations: &[(&str, &str)]) -> (World, Endpoint) {
    let net = Net::new();
    let endpoint = endpoint(&net).await;
    let manifests = service("web", &["127.N.N.10"]) + &annotated("i", "a.com", "web", annotations);
    (World::start_in(net, &manifests, &["--workers", "1"]), endpoint)
}

/// Asks until there is room for one more request.
async fn has_room_again(sender: &mut SendRequest<Bytes>) {
    for attempt in 0.. {
        let (next, _) = ask(sender, "/refused", "websocket").await;
        if next.status() == 403 {
            break;
        }
        assert!(attempt < 1000, "{:?}", next.status());
    }
}

async fn client(world: &World) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(world.http).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let sender = sender.ready().await.unwrap();
    eventually("extended CONNECT is announced", || {
        let is_known = sender.is_extended_connect_protocol_enabled();
        async move { is_known.then_some(()) }
    })
    .await;
    sender
}

async fn ask(
    sender: &mut SendRequest<Bytes>,
    path: &str,
    protocol: &'static str,
) -> (Response<RecvStream>, SendStream<Bytes>) {
    let request = Request::connect(format!("http://a.com{path}"));
    let request = request.header("sec-websocket-version", "13").header("origin", "http://a.com");
    let request = request.extension(Protocol::from_static(protocol)).body(()).unwrap();
    let (response, send) = sender.send_request(request, false).unwrap();
    let response = tokio::time::timeout(PATIENCE, response).await.expect("an answer");
    (response.unwrap(), send)
}

async fn read(body: &mut RecvStream, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        let data = tokio::time::timeout(PATIENCE, body.data()).await.expect("data");
        let data = data.unwrap().unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend(data);
    }
    all
}

/// Waits for the end, before which nothing more comes.
async fn ends(body: &mut RecvStream) {
    while let Some(data) = tokio::time::timeout(PATIENCE, body.data()).await.expect("an end") {
        assert_eq!(data.unwrap(), "");
    }
}

#[tokio::test]
async fn a_stream_of_http2_becomes_a_websocket() {
    let (world, _endpoint) = world(&[]).await;
    let mut sender = client(&world).await;
    let (response, mut send) = ask(&mut sender, "/chat", "websocket").await;
    assert_eq!(response.status(), 200);
    let names: HeaderMap = response.headers().clone();
    assert_eq!(names["sec-websocket-protocol"], "chat");
    for name in ["sec-websocket-accept", "upgrade", "connection", "content-length"] {
        assert!(!names.contains_key(name), "{name}: {names:?}");
    }
    let mut body = response.into_body();
    for message in ["hello", "again"] {
        send.send_data(message.into(), false).unwrap();
        assert_eq!(read(&mut body, 5).await, message.as_bytes());
    }
    // More than all windows hold, so that both ways have to go on.
    let sent = tokio::spawn(async move {
        for _ in 0..256 {
            send.reserve_capacity(4096);
            let mut left = Bytes::from(vec![b'x'; 4096]);
            while !left.is_empty() {
                let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                let room = room.unwrap().unwrap().min(left.len());
                send.send_data(left.split_to(room), false).unwrap();
                send.reserve_capacity(left.len());
            }
        }
        send.send_data(Bytes::new(), true).unwrap();
    });
    assert_eq!(read(&mut body, 256 * 4096).await.len(), 256 * 4096);
    sent.await.unwrap();
    // The endpoint ends after the client has.
    ends(&mut body).await;
    // Other streams of the connection go on.
    let (response, _) = ask(&mut sender, "/refused", "websocket").await;
    assert_eq!(response.status(), 403);
}

#[tokio::test]
async fn what_is_no_websocket_is_not_taken_for_one() {
    let (world, _endpoint) = world(&[]).await;
    let mut sender = client(&world).await;
    for (path, protocol, status) in [
        ("/refused", "websocket", 403),
        ("/plain", "websocket", 502),
        ("/wrong", "websocket", 502),
        ("/chat", "connect-udp", 405),
    ] {
        let (response, _send) = ask(&mut sender, path, protocol).await;
        assert_eq!(response.status(), status, "{path} {protocol}");
    }
}

/// A WebSocket counts until it ends, and no longer.
#[tokio::test]
async fn a_websocket_is_in_flight_until_it_ends() {
    let (world, _endpoint) = world(&[("nginx.ingress.kubernetes.io/limit-connections", "1")]).await;
    let mut sender = client(&world).await;
    let (response, mut send) = ask(&mut sender, "/chat", "websocket").await;
    assert_eq!(response.status(), 200);
    let (second, _) = ask(&mut sender, "/chat", "websocket").await;
    assert_eq!(second.status(), 503);
    send.send_data(Bytes::new(), true).unwrap();
    let mut body = response.into_body();
    ends(&mut body).await;
    let mut other = client(&world).await;
    has_room_again(&mut other).await;
}

/// A client that had ended its side and then reset the stream left the tunnel open until its
/// time-out, and could open any number of them.
#[tokio::test]
async fn a_reset_ends_a_websocket_whose_client_had_ended_its_side() {
    let (world, _endpoint) = world(&[ONE_AN_ENDPOINT]).await;
    let mut sender = client(&world).await;
    let (response, mut send) = ask(&mut sender, "/stays", "websocket").await;
    assert_eq!(response.status(), 200);
    send.send_data(Bytes::new(), true).unwrap();
    let mut body = response.into_body();
    assert_eq!(read(&mut body, 5).await, b"ended");
    let (second, _) = ask(&mut sender, "/refused", "websocket").await;
    assert_eq!(second.status(), 503, "the endpoint has not ended its side");
    send.send_reset(Reason::CANCEL);
    eventually("the tunnel ends", || {
        let mut sender = sender.clone();
        async move {
            let (next, _) = ask(&mut sender, "/refused", "websocket").await;
            (next.status() == 403).then_some(())
        }
    })
    .await;
}

/// A connection that had become a WebSocket did not count for its endpoint any more.
#[tokio::test]
async fn websockets_of_both_versions_count_for_their_endpoint() {
    let (world, _endpoint) = world(&[ONE_AN_ENDPOINT]).await;
    let mut sender = client(&world).await;
    for over_http2 in [false, true] {
        let mut tunnel = None;
        let mut socket = TcpStream::connect(world.http).await.unwrap();
        if over_http2 {
            let (response, send) = ask(&mut sender, "/chat", "websocket").await;
            assert_eq!(response.status(), 200);
            tunnel = Some((response, send));
        } else {
            let request = "GET /chat HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade\r\n\
                Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n";
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut head = [0; 12];
            socket.read_exact(&mut head).await.unwrap();
            assert_eq!(&head, b"HTTP/1.1 101");
        }
        let (second, _) = ask(&mut sender, "/refused", "websocket").await;
        assert_eq!(second.status(), 503, "{over_http2}");
        drop((tunnel, socket));
        has_room_again(&mut sender).await;
    }
}

/// An endpoint that speaks HTTP/2 and takes WebSockets, which send back what they get.
async fn http2_endpoint(net: &Net) -> Endpoint {
    Endpoint::raw(net.addr(10, 9000), |stream| async move {
        let mut builder = h2::server::Builder::new();
        let handshake = builder.enable_connect_protocol().handshake(stream).await;
        let Ok(mut connection) = handshake else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let protocol = request.extensions().get::<Protocol>();
                assert_eq!(protocol.map(Protocol::as_str), Some("websocket"));
                assert_eq!(request.uri(), "http://a.com/chat");
                for name in ["sec-websocket-key", "upgrade", "connection", "content-length"] {
                    assert!(!request.headers().contains_key(name), "{name}");
                }
                let mut body = request.into_body();
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                    let _ = send.send_data(data, false);
                }
                let _ = send.send_data(Bytes::new(), true);
            });
        }
    })
    .await
}

#[tokio::test]
async fn http2_endpoints_get_websockets_of_clients_of_both_versions() {
    let net = Net::new();
    let _endpoint = http2_endpoint(&net).await;
    let h2c = "targetPort: 9000, appProtocol: kubernetes.io/h2c";
    let manifests = service("web", &["127.N.N.10"]).replace("targetPort: 9000", h2c)
        + &ingress("i", &[("a.com", "Prefix", "/", "web")]);
    let world = World::start_in(net, &manifests, &["--workers", "1"]);
    let mut sender = client(&world).await;
    let (response, mut send) = ask(&mut sender, "/chat", "websocket").await;
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut body = response.into_body();
    for message in ["hello", "again"] {
        send.send_data(message.into(), false).unwrap();
        assert_eq!(read(&mut body, 5).await, message.as_bytes());
    }
    send.send_data(Bytes::new(), true).unwrap();
    ends(&mut body).await;

    let mut socket = TcpStream::connect(world.http).await.unwrap();
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let request = format!(
        "GET /chat HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(field(&head, "upgrade"), Some("websocket"), "{head}");
    let accept = derive_accept_key(key.as_bytes());
    assert_eq!(field(&head, "sec-websocket-accept"), Some(&*accept), "{head}");
    let mut echoed = [0; 5];
    for message in [b"hello", b"again"] {
        socket.write_all(message).await.unwrap();
        socket.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, message);
    }
    socket.shutdown().await.unwrap();
    assert_eq!(socket.read(&mut echoed).await.unwrap(), 0);
}
