//! HTTP/2 frame by frame: the effect of a client's misuse on its own connection and on others.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frames::{HEADERS, PING, PREFACE, PRIORITY, SETTINGS, frame, literal};
use super::kit::{Client, Endpoint, Speaks, World, eventually, ingress, read_request, service};
use crate::support::{Net, PATIENCE};

/// The fields of `POST http://a.com/`.
const POST: &[u8] = b"\x83\x86\x84\x41\x05a.com";

fn manifests() -> String {
    service("web", &["127.N.N.10"]) + &ingress("i", &[("a.com", "Prefix", "/", "web")])
}

/// Each flood kept a core busy for seconds, and one of PRIORITY beside an open upload never ended.
#[tokio::test]
async fn a_flood_of_control_frames_is_ended_at_once() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let world = World::start_in(net, &manifests(), &[]);
    let floods = [
        ("SETTINGS", frame(SETTINGS, 0, 0, &[]), false),
        ("PING", frame(PING, 0, 0, &[0; 8]), false),
        ("PRIORITY", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 9]), false),
        ("PRIORITY with an open upload", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 9]), true),
    ];
    for (at, (what, flood, uploads)) in floods.into_iter().enumerate() {
        let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        if uploads {
            bytes.extend(frame(HEADERS, 4, 1, POST));
        }
        bytes.extend(flood.repeat(20_000));
        let (mut reader, mut writer) = TcpStream::connect(world.http).await.unwrap().into_split();
        let written = tokio::spawn(async move {
            let _ = writer.write_all(&bytes).await;
            writer
        });
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut answer));
        let _ = read.await.unwrap_or_else(|_| panic!("{what}: the connection stays open"));
        drop(written.await);
        // GOAWAY with ENHANCE_YOUR_CALM, and nothing after it.
        let last = &answer[answer.len().saturating_sub(17)..];
        let told = last[..9] == [0, 0, 8, 7, 0, 0, 0, 0, 0] && last[13..] == [0, 0, 0, 11];
        assert!(told, "{what}: {last:?}");
        // Counted after the connection has ended.
        eventually("the flood is counted", || {
            let floods = world.metric("switchyard_ingress_flooded_connections_total");
            async move { (floods == (at + 1) as f64).then_some(()) }
        })
        .await;
    }
    let mut other = Client::connect(&world, Speaks::Http2, "a.com").await;
    assert_eq!(other.get("a.com", "/").await.status, 200, "others are served");
}

/// A stream whose window its client did not open ended the connection with all its streams.
#[tokio::test]
async fn a_stalled_stream_is_reset_and_its_neighbour_goes_on() {
    let net = Net::new();
    let _endpoint = Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        let request = read_request(&mut stream, &mut Vec::new()).await.unwrap_or_default();
        if request.starts_with(b"GET /large ") {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
            let _ = stream.write_all(&[&head[..], &[b'x'; 1_000_000]].concat()).await;
            let _ = stream.read(&mut [0]).await;
            return;
        }
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        let mut sent = stream.write_all(head).await;
        while sent.is_ok() {
            sent = stream.write_all(b"data: tick\n\n").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let world = World::start_in(net, &manifests(), &["--read-timeout", "1s"]);
    let stream = TcpStream::connect(world.http).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let (sender, connection) =
        builder.initial_window_size(1000).handshake::<_, Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let get = |path: &str| Request::get(format!("http://a.com{path}")).body(()).unwrap();
    let (large, _) = sender.send_request(get("/large"), true).unwrap();
    let (events, _) = sender.send_request(get("/events"), true).unwrap();
    let mut events = events.await.unwrap().into_body();
    let mut large = large.await.unwrap().into_body();
    // Its window is used up and never opened again.
    let mut received = 0;
    while received < 1000 {
        received += large.data().await.unwrap().unwrap().len();
    }
    let reset = async {
        loop {
            match large.data().await {
                Some(Err(error)) => return error,
                Some(Ok(_)) => {}
                None => panic!("it never ends by itself"),
            }
        }
    };
    let mut next_event = async || {
        let data = events.data().await.expect("the stream goes on").expect("it is not reset");
        events.flow_control().release_capacity(data.len()).unwrap();
    };
    let reset = tokio::time::timeout(PATIENCE, async {
        tokio::pin!(reset);
        loop {
            tokio::select! {
                error = &mut reset => return error,
                () = next_event() => {}
            }
        }
    });
    let error = reset.await.expect("the stalled stream is reset");
    assert!(error.is_reset() && error.is_remote(), "{error:?}");
    // Longer than the time after which the whole connection was killed.
    for _ in 0..30 {
        next_event().await;
    }
}

/// 700 fields reached the endpoint, although they are refused over HTTP/1.1.
#[tokio::test]
async fn the_number_of_fields_has_the_limit_of_http1() {
    let net = Net::new();
    let endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let world = World::start_in(net, &manifests(), &[]);
    let mut client = Client::connect(&world, Speaks::Http2, "a.com").await;
    for (fields, status) in [(90, 200), (101, 431), (700, 431)] {
        let mut request = Request::get("http://a.com/");
        for at in 0..fields {
            request = request.header(format!("x-{at}"), "y");
        }
        let answer = client.send(request.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status, "{fields}");
    }
    let counted = r#"switchyard_ingress_own_answers_total{reason="head_too_large"}"#;
    assert_eq!(world.metric(counted), 2.0);
    assert_eq!(endpoint.seen().len(), 1);
}

/// The parts of a Cookie field arrived as separate fields.
#[tokio::test]
async fn cookie_parts_are_one_field_to_the_endpoint() {
    let net = Net::new();
    let endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let world = World::start_in(net, &manifests(), &[]);
    for speaks in [Speaks::Http2, Speaks::Http2OverTls] {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        let request = Request::get("http://a.com/").header("cookie", "a=1").header("cookie", "b=2");
        let answer = client.send(request.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    for seen in endpoint.seen() {
        let cookies: Vec<_> = seen.lines().filter(|line| line.starts_with("cookie:")).collect();
        assert_eq!(cookies, ["cookie: a=1; b=2"], "{seen}");
    }
}

/// Heads that the library resets by itself were counted nowhere.
#[tokio::test]
async fn malformed_heads_are_counted_by_error_code() {
    let net = Net::new();
    let endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let world = World::start_in(net, &manifests(), &[]);
    let plain = [
        literal(":method", "GET"),
        literal(":scheme", "http"),
        literal(":authority", "a.com"),
        literal(":path", "/"),
    ];
    let without = |at: usize| {
        let kept = plain.iter().enumerate().filter(|(other, _)| *other != at);
        kept.flat_map(|(_, field)| field.clone()).collect::<Vec<u8>>()
    };
    let with = |name, value| [plain.concat(), literal(name, value)].concat();
    let reset = [
        ("no :method", without(0)),
        ("no :scheme", without(1)),
        ("an empty :path", [without(3), literal(":path", "")].concat()),
        ("a :path with a space", [without(3), literal(":path", "/a b")].concat()),
        ("an :authority with a space", [without(2), literal(":authority", "a b")].concat()),
        ("a pseudo-field twice", with(":path", "/")),
        ("a pseudo-field behind a field", [literal("x", "y"), plain.concat()].concat()),
        ("Connection", with("connection", "close")),
        ("Transfer-Encoding", with("transfer-encoding", "chunked")),
        ("TE", with("te", "gzip")),
    ];
    let begin = |head: &[u8]| {
        let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, 5, 1, head)].concat();
        let connect = TcpStream::connect(world.http);
        async move {
            let mut stream = connect.await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            stream
        }
    };
    let counted = |what: &'static str, name: &'static str, count: usize| {
        let world = &world;
        eventually(what, move || {
            let counted = world.metric(name);
            async move { (counted == count as f64).then_some(()) }
        })
    };
    let resets = r#"switchyard_ingress_http2_resets_total{reason="protocol_error"}"#;
    for (at, (what, head)) in reset.iter().enumerate() {
        let mut stream = begin(head).await;
        counted(what, resets, at + 1).await;
        // Other streams of the connection go on.
        stream.write_all(&frame(HEADERS, 5, 3, &plain.concat())).await.unwrap();
        eventually(what, || async { (endpoint.seen().len() == at + 1).then_some(()) }).await;
    }
    // The library takes these for heads that cannot be decoded, and ends the connection.
    let ended = [
        ("a name in upper case", with("X-Y", "z")),
        ("an unknown pseudo-field", with(":x", "z")),
        ("no field at all", vec![0xff; 9]),
    ];
    let goaways = r#"switchyard_ingress_http2_goaways_total{reason="protocol_error"}"#;
    for (at, (what, head)) in ended.iter().enumerate() {
        let _stream = begin(head).await;
        counted(what, goaways, at + 1).await;
    }
    assert_eq!(endpoint.seen().len(), reset.len());
}
