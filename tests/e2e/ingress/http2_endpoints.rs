//! Endpoints that speak HTTP/2: gRPC calls, other requests, and what happens when such an endpoint
//! refuses, leaves or lies.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use super::frames::{HEADERS, PREFACE, RST_STREAM, SETTINGS, frame};
use super::kit::{
    ALL, Client, Endpoint, Speaks, World, connect_tls, eventually, get, ingress, service,
};
use crate::support::{Net, PATIENCE};

/// A Service whose endpoints speak HTTP/2, and an Ingress that sends a.com there.
fn manifests(endpoints: &[&str]) -> String {
    with_app_protocol("kubernetes.io/h2c", endpoints)
}

fn with_app_protocol(protocol: &str, endpoints: &[&str]) -> String {
    let port = format!("targetPort: 9000, appProtocol: {protocol}");
    service("web", endpoints).replace("targetPort: 9000", &port)
        + &ingress("i", &[("a.com", "Prefix", "/", "web")])
}

pub(crate) type Exchange = (Request<RecvStream>, SendResponse<Bytes>);

/// An HTTP/2 server that gives each of its requests, with the number of the connection, to `serve`.
async fn endpoint<S, F>(address: SocketAddr, max_streams: u32, serve: S) -> Endpoint
where
    S: Fn(usize, Exchange) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let connections = Arc::new(Mutex::new(0));
    Endpoint::raw(address, move |stream| {
        let (connections, serve) = (connections.clone(), serve.clone());
        async move {
            let mut builder = h2::server::Builder::new();
            let handshake = builder.max_concurrent_streams(max_streams).handshake(stream).await;
            let Ok(mut connection) = handshake else { return };
            let number = {
                let mut connections = connections.lock().unwrap();
                *connections += 1;
                *connections
            };
            while let Some(Ok(exchange)) = connection.accept().await {
                tokio::spawn(serve(number, exchange));
            }
        }
    })
    .await
}

/// Reads a body to its end: its data, and its trailers.
async fn read(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend(data);
    }
    (all, body.trailers().await.unwrap_or(None))
}

/// Answers with the request as text and the trailers of a gRPC call.
pub(crate) async fn echo((request, mut respond): Exchange) {
    let (parts, body) = request.into_parts();
    let (data, trailers) = read(body).await;
    let mut text = format!("{} {} {:?}\n", parts.method, parts.uri, parts.version);
    for (name, value) in &parts.headers {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    text.push_str(&format!("body: {}\n", String::from_utf8_lossy(&data)));
    for (name, value) in trailers.iter().flatten() {
        text.push_str(&format!("trailer {name}: {}\n", value.to_str().unwrap()));
    }
    let response = Response::builder().header("content-type", "application/grpc");
    let response = response.header("trailer", "grpc-status").body(()).unwrap();
    let is_head = parts.method == Method::HEAD;
    let Ok(mut stream) = respond.send_response(response, is_head) else { return };
    let _ = stream.send_data(text.into(), false);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("content-length", "7".parse().unwrap());
    let _ = stream.send_trailers(trailers);
}

/// A client that speaks HTTP/2 without TLS.
async fn h2_client(world: &World) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(world.http).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn call(path: &str) -> Request<()> {
    let request = Request::post(format!("http://a.com{path}"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    request.header("x_spoofed", "1").body(()).unwrap()
}

fn trailers(name: &'static str, value: &'static str) -> HeaderMap {
    [(name.parse().unwrap(), value.parse().unwrap())].into_iter().collect()
}

#[tokio::test]
async fn a_grpc_call_passes_through_with_its_trailers_and_nothing_else() {
    let net = Net::new();
    let endpoint = endpoint(net.addr(10, 9000), 100, |_, exchange| echo(exchange)).await;
    let world = World::start_in(net, &manifests(&["127.N.N.10"]), &["--workers", "1"]);
    let mut sender = h2_client(&world).await;
    for _ in 0..2 {
        let (response, mut stream) = sender.send_request(call("/pkg.Svc/Do?x=1"), false).unwrap();
        stream.send_data("12345hello".into(), false).unwrap();
        stream.send_trailers(trailers("x-sum", "7")).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let (data, trailers) = read(response.into_body()).await;
        let text = String::from_utf8(data).unwrap();
        assert!(text.starts_with("POST http://a.com/pkg.Svc/Do?x=1 HTTP/2.0\n"), "{text}");
        assert!(text.contains("\nbody: 12345hello\ntrailer x-sum: 7\n"), "{text}");
        let names: Vec<_> = text.lines().filter_map(|l| Some(l.split_once(": ")?.0)).collect();
        let mut names: Vec<_> = names.into_iter().filter(|name| !name.contains(' ')).collect();
        names.sort_unstable();
        let expected = [
            "body",
            "content-type",
            "te",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-proto",
            "x-real-ip",
            "x-request-id",
        ];
        assert_eq!(names, expected, "{text}");
        let trailers = trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers.len(), 1, "what frames a message is no trailer: {trailers:?}");
    }
    assert_eq!(endpoint.connections(), 1);
}

/// Before the first connection is open, each request would open one of its own.
#[tokio::test]
async fn many_calls_share_as_few_connections_as_the_endpoint_allows() {
    let net = Net::new();
    let (started, mut arrivals) = mpsc::unbounded_channel();
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let held = gate.clone();
    let endpoint = endpoint(net.addr(10, 9000), 10, move |number, exchange| {
        let (held, started) = (held.clone(), started.clone());
        async move {
            started.send(number).unwrap();
            let _open = held.acquire().await.unwrap();
            echo(exchange).await;
        }
    })
    .await;
    let world = World::start_in(net, &manifests(&["127.N.N.10"]), &["--workers", "1"]);
    let sender = h2_client(&world).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..35 {
        let mut sender = sender.clone();
        calls.spawn(async move {
            let (response, mut stream) = sender.send_request(call("/"), false).unwrap();
            stream.send_data("hello".into(), true).unwrap();
            let response = response.await.unwrap();
            (response.status().as_u16(), read(response.into_body()).await.1.is_some())
        });
    }
    let mut by_connection = [0; 5];
    for _ in 0..35 {
        let arrived = tokio::time::timeout(PATIENCE, arrivals.recv()).await;
        by_connection[arrived.expect("all arrive at one time").unwrap()] += 1;
    }
    assert_eq!(by_connection, [0, 10, 10, 10, 5]);
    gate.add_permits(1000);
    for outcome in calls.join_all().await {
        assert_eq!(outcome, (200, true));
    }
    assert_eq!(endpoint.connections(), 4);
}

#[tokio::test]
async fn both_directions_of_a_streaming_call_go_on_piece_by_piece() {
    let net = Net::new();
    let _endpoint = endpoint(net.addr(10, 9000), 100, |_, (request, mut respond)| async move {
        let mut body = request.into_body();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            if !data.is_empty() {
                stream.send_data([b"re: ", &data[..]].concat().into(), false).unwrap();
            }
        }
        stream.send_trailers(trailers("grpc-status", "0")).unwrap();
    })
    .await;
    let world = World::start_in(net, &manifests(&["127.N.N.10"]), &[]);
    let mut sender = h2_client(&world).await;
    let (response, mut stream) = sender.send_request(call("/"), false).unwrap();
    let mut body = response.await.unwrap().into_body();
    for message in ["one", "two", "three"] {
        stream.send_data(message.into(), false).unwrap();
        let data = body.data().await.unwrap().unwrap();
        assert_eq!(data, format!("re: {message}"));
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
}

/// Clients of all versions reach it; `Host` becomes `:authority`, chunks become frames.
#[tokio::test]
async fn clients_of_every_version_reach_an_http2_endpoint() {
    let net = Net::new();
    let _endpoint = endpoint(net.addr(10, 9000), 100, |_, exchange| echo(exchange)).await;
    let world = World::start_in(net, &manifests(&["127.N.N.10"]), &[]);
    for speaks in ALL {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        for _ in 0..2 {
            let request = Request::put("http://a.com/p?q").header("x-own", "1");
            let request = request.body(Full::from("hello")).unwrap();
            let answer = super::kit::Answer::read(client.send(request).await.unwrap()).await;
            let body = &answer.body;
            assert_eq!(answer.status, 200, "{speaks:?}");
            assert!(body.starts_with("PUT http://a.com/p?q HTTP/2.0\n"), "{speaks:?}: {body}");
            assert!(body.contains("\ncontent-length: 5\n"), "{speaks:?}: {body}");
            assert!(body.contains("\nx-own: 1\n"), "{speaks:?}: {body}");
            assert!(body.contains("\nbody: hello\n"), "{speaks:?}: {body}");
            assert!(!body.contains("\nhost: "), "{speaks:?}: {body}");
        }
        let head = Request::head("http://a.com/").body(Full::default()).unwrap();
        assert_eq!(client.send(head).await.unwrap().status(), 200, "{speaks:?}");
    }
    let chunked = "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\
                   TE: trailers\r\nConnection: TE, close\r\nTrailer: x-sum\r\n\r\n\
                   3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n";
    let answer = super::kit::raw(world.http, chunked.as_bytes()).await;
    assert!(answer.contains("\nbody: abc\ntrailer x-sum: 7\n"), "{answer}");
    assert!(!answer.contains("\ncontent-length: "), "{answer}");
    assert!(answer.ends_with("0\r\ngrpc-status: 0\r\n\r\n"), "{answer}");
}

/// A call that the endpoint has not looked at is sent again, with its body, though it is a POST.
#[tokio::test]
async fn a_refused_call_is_sent_again_and_one_that_was_begun_is_not() {
    let net = Net::new();
    let paths = Arc::new(Mutex::new(Vec::<String>::new()));
    let noted = paths.clone();
    let _endpoint = endpoint(net.addr(10, 9000), 100, move |_, (request, mut respond)| {
        let path = request.uri().path().to_owned();
        let is_first = !noted.lock().unwrap().contains(&path);
        noted.lock().unwrap().push(path.clone());
        async move {
            match &*path {
                "/refused" if is_first => respond.send_reset(Reason::REFUSED_STREAM),
                "/broken" => respond.send_reset(Reason::INTERNAL_ERROR),
                _ => echo((request, respond)).await,
            }
        }
    })
    .await;
    let world = World::start_in(net, &manifests(&["127.N.N.10"]), &["--workers", "1"]);
    let mut client = Client::connect(&world, Speaks::Http1, "a.com").await;
    let mut post = async |path: &str| {
        let request = Request::post(format!("http://a.com{path}")).body(Full::from("hello"));
        super::kit::Answer::read(client.send(request.unwrap()).await.unwrap()).await
    };
    let answer = post("/refused").await;
    assert!(answer.status == 200 && answer.body.contains("\nbody: hello\n"), "{answer:?}");
    assert_eq!(post("/broken").await.status, 502);
    assert_eq!(*paths.lock().unwrap(), ["/refused", "/refused", "/broken"]);
}

/// A rolling restart sends GOAWAY: calls in flight end, and the next ones go over a new connection.
#[tokio::test]
async fn goaway_breaks_no_call() {
    let net = Net::new();
    let endpoint = Endpoint::raw(net.addr(10, 9000), |stream| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        // GOAWAY with the first call, which is answered all the same.
        let Some(Ok(exchange)) = connection.accept().await else { return };
        connection.graceful_shutdown();
        tokio::spawn(echo(exchange));
        while let Some(Ok(exchange)) = connection.accept().await {
            tokio::spawn(echo(exchange));
        }
    })
    .await;
    let world = World::start_in(net, &manifests(&["127.N.N.10"]), &["--workers", "1"]);
    let sender = h2_client(&world).await;
    for round in 0..20 {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..5 {
            let mut sender = sender.clone();
            calls.spawn(async move {
                let (response, mut stream) = sender.send_request(call("/"), false).unwrap();
                stream.send_data("hello".into(), true).unwrap();
                let response = response.await.unwrap();
                let status = response.status();
                (status, read(response.into_body()).await.1.unwrap()["grpc-status"].clone())
            });
        }
        for (status, grpc_status) in calls.join_all().await {
            assert_eq!((status.as_u16(), grpc_status.as_bytes()), (200, &b"0"[..]), "{round}");
        }
    }
    assert!(endpoint.connections() >= 20);
}

#[tokio::test]
async fn the_endpoint_is_told_when_a_client_leaves() {
    let net = Net::new();
    let (told, mut resets) = mpsc::unbounded_channel();
    let _endpoint = endpoint(net.addr(10, 9000), 100, move |_, (_, mut respond)| {
        let told = told.clone();
        async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data("first".into(), false).unwrap();
            let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            told.send(reason.map_err(|error| error.to_string())).unwrap();
        }
    })
    .await;
    let world = World::start_in(net, &manifests(&["127.N.N.10"]), &[]);
    let mut sender = h2_client(&world).await;
    // Over HTTP/2 by a reset of the stream, over HTTP/1.1 by a close.
    let get_request = Request::get("http://a.com/").body(()).unwrap();
    let (response, _) = sender.send_request(get_request, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "first");
    drop(body);
    let mut plain = TcpStream::connect(world.http).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await.unwrap();
    plain.read_exact(&mut [0; 20]).await.unwrap();
    drop(plain);
    for _ in 0..2 {
        let reason = tokio::time::timeout(PATIENCE, resets.recv()).await.expect("it is told");
        assert_eq!(reason.unwrap(), Ok(Reason::CANCEL));
    }
}

/// What one client does not take must not keep the connection from the others that share it.
/// An HTTP/2 endpoint with one connection, which answers each request when that is given up, and
/// the first one when it is told to. Tells of each request.
async fn late_endpoint(
    address: SocketAddr,
    told: mpsc::UnboundedSender<u32>,
    finish: Arc<Notify>,
) -> Endpoint {
    Endpoint::raw(address, move |mut stream| {
        let (told, finish) = (told.clone(), finish.clone());
        async move {
            let answer = |stream: u32| frame(HEADERS, 5, stream, b"\x88");
            stream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            let mut header = [0; 9];
            loop {
                tokio::select! {
                    read = stream.read_exact(&mut header) => {
                        if read.is_err() {
                            return;
                        }
                    }
                    () = finish.notified() => {
                        stream.write_all(&answer(1)).await.unwrap();
                        continue;
                    }
                }
                let [a, b, c, kind, _, number @ ..] = header;
                let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
                stream.read_exact(&mut payload).await.unwrap();
                let number = u32::from_be_bytes(number);
                match kind {
                    HEADERS => told.send(number).unwrap(),
                    RST_STREAM => stream.write_all(&answer(number)).await.unwrap(),
                    _ => {}
                }
            }
        }
    })
    .await
}

/// After a thousand late answers to requests that clients had given up, the connection to the
/// endpoint was ended, and the requests of others over it were answered 502.
#[tokio::test]
async fn requests_that_some_clients_give_up_end_no_connection_of_others() {
    let net = Net::new();
    let ((told, mut asked), finish) = (mpsc::unbounded_channel(), Arc::new(Notify::new()));
    let _endpoint = late_endpoint(net.addr(10, 9000), told, finish.clone()).await;
    let world = World::start_in(net, &manifests(&["127.N.N.10"]), &["--workers", "1"]);
    let mut patient = h2_client(&world).await;
    let (waits, _) = patient.send_request(call("/patient"), true).unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, asked.recv()).await.unwrap(), Some(1));
    let mut hasty = h2_client(&world).await;
    for _ in 0..1500 {
        hasty = hasty.ready().await.unwrap();
        let given_up = hasty.send_request(call("/hasty"), true).unwrap();
        let seen = tokio::time::timeout(PATIENCE, asked.recv()).await.unwrap();
        assert!(seen.is_some_and(|number| number > 1));
        drop(given_up);
    }
    finish.notify_one();
    let answer = tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("grpc-status")), (200, None));
}

#[tokio::test]
async fn a_client_that_takes_nothing_does_not_stop_others_on_the_same_connection() {
    let net = Net::new();
    let endpoint = endpoint(net.addr(10, 9000), 100, |_, (request, mut respond)| async move {
        if request.uri().path() != "/endless" {
            return echo((request, respond)).await;
        }
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        while send(&mut stream, &[b'x'; 16 << 10]).await {}
    })
    .await;
    let world = World::start_in(net, &manifests(&["127.N.N.10"]), &["--workers", "1"]);
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(world.http).await.unwrap();
        stream.write_all(b"GET /endless HTTP/1.1\r\nHost: a.com\r\n\r\n").await.unwrap();
        stream.read_exact(&mut [0; 20]).await.unwrap();
        stalled.push(stream);
    }
    for _ in 0..20 {
        let answer = get(&world, Speaks::Http1, "a.com", "/").await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(endpoint.connections(), 1);
}

/// Sends data as the window opens; false once the stream is reset.
async fn send(stream: &mut SendStream<Bytes>, mut data: &'static [u8]) -> bool {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(room)) => {
                let (now, rest) = data.split_at(room.min(data.len()));
                if stream.send_data(Bytes::from_static(now), false).is_err() {
                    return false;
                }
                data = rest;
            }
            _ => return false,
        }
    }
    true
}

/// A gRPC client got HTTP 502 or 503 without grpc-status when the endpoint was down.
#[tokio::test]
async fn our_own_answers_to_grpc_calls_are_grpc_answers() {
    let net = Net::new();
    let down = manifests(&["127.N.N.10"])
        + &service("none", &[])
        + &ingress("j", &[("b.com", "Prefix", "/", "none")]);
    let world = World::start_in(net, &down, &[]);
    let stream = connect_tls(world.https, "a.com", &["h2"]).await.unwrap();
    let (mut sender, connection) = h2::client::handshake::<_>(stream).await.unwrap();
    tokio::spawn(connection);
    let table = [("a.com", "14"), ("b.com", "14"), ("c.com", "12")];
    for (host, code) in table {
        let request = Request::post(format!("https://{host}/pkg.Svc/Do"));
        let request = request.header("content-type", "application/grpc+proto").body(()).unwrap();
        let (response, mut stream) = sender.send_request(request, false).unwrap();
        let _ = stream.send_data("hello".into(), true);
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200, "{host}");
        assert_eq!(response.headers()["grpc-status"], code, "{host}");
        assert!(response.headers().contains_key("grpc-message"), "{host}");
        assert!(response.body().is_end_stream(), "{host}: it is trailers only");
    }
    let answer = get(&world, Speaks::Http2, "a.com", "/").await;
    assert_eq!(answer.status, 502, "{answer:?}");
}

/// The Service says HTTP/2, the endpoint speaks HTTP/1.1, and the other way round.
#[tokio::test]
async fn an_endpoint_that_speaks_something_else_is_a_bad_gateway() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "plain").await;
    let world = World::start_in(net, &manifests(&["127.N.N.10"]), &[]);
    let answer = get(&world, Speaks::Http1, "a.com", "/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains("the endpoint's response could not be read"), "{answer:?}");
    // Corrected while the process runs.
    world.replace(&with_app_protocol("http", &["127.N.N.10"]));
    eventually("plain HTTP/1.1 is spoken", || async {
        (get(&world, Speaks::Http1, "a.com", "/").await.status == 200).then_some(())
    })
    .await;
    world.replace(&with_app_protocol("grpc", &["127.N.N.10"]));
    eventually("HTTP/2 is spoken", || async {
        (get(&world, Speaks::Http1, "a.com", "/").await.status == 502).then_some(())
    })
    .await;
}
