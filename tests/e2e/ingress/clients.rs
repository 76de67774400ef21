//! Programs that people use, through the ingress: browsers, command lines, load generators, and
//! libraries for gRPC and WebSockets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::kit::{Endpoint, World, connect_tls, ingress, read_request, service};
use crate::support::{Net, PATIENCE};

/// For any host.
fn manifests() -> String {
    let paths = [("", "Prefix", "/", "web"), ("", "Prefix", "/socket", "socket")];
    let events = ("", "Prefix", "/events", "events");
    ingress("i", &[paths[0], paths[1], events])
        + &service("web", &["127.N.N.10"])
        + &service("socket", &["127.N.N.11"])
        + &service("events", &["127.N.N.12"])
}

fn answer(kind: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Serves a page, says how long uploads were, and passes reports on.
async fn web(address: SocketAddr, reports: mpsc::UnboundedSender<String>) -> Endpoint {
    Endpoint::raw(address, move |mut stream| {
        let reports = reports.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut buffer).await {
                let head_end = super::kit::find(&request, b"\r\n\r\n").unwrap() + 4;
                let (head, body) = request.split_at(head_end);
                let path = String::from_utf8_lossy(head).split(' ').nth(1).unwrap().to_owned();
                let answer = match &*path {
                    "/page" => answer("text/html", include_str!("clients/page.html")),
                    "/upload" => answer("text/plain", &body.len().to_string()),
                    "/report" => {
                        let _ = reports.send(String::from_utf8_lossy(body).into_owned());
                        answer("text/plain", "")
                    }
                    _ => answer("text/plain", "hello\n"),
                };
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// Sends back each message.
async fn socket(address: SocketAddr) -> Endpoint {
    Endpoint::raw(address, |stream| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Sends three events, and then none.
async fn events(address: SocketAddr) -> Endpoint {
    Endpoint::raw(address, |mut stream| async move {
        let mut buffer = Vec::new();
        if read_request(&mut stream, &mut buffer).await.is_none() {
            return;
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        for event in ["data: a\n\n", "data: b\n\n", "data: c\n\n"] {
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            stream.write_all(chunk.as_bytes()).await.unwrap();
        }
        let _ = read_request(&mut stream, &mut buffer).await;
    })
    .await
}

/// An ingress with all of these.
struct Place {
    world: World,
    reports: mpsc::UnboundedReceiver<String>,
    _endpoints: [Endpoint; 3],
}

impl Place {
    async fn new() -> Place {
        let net = Net::new();
        let (told, reports) = mpsc::unbounded_channel();
        let web = web(net.addr(10, 9000), told).await;
        let endpoints = [web, socket(net.addr(11, 9000)).await, events(net.addr(12, 9000)).await];
        let world = World::start_in(net, &manifests(), &["--workers", "2"]);
        Place { world, reports, _endpoints: endpoints }
    }
}

/// Runs a program to its end, without blocking the endpoints; what it wrote.
async fn run(program: &str, args: &[&str]) -> String {
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{program} {args:?}: {}\n{out}\n{err}", output.status);
    format!("{out}{err}")
}

fn beside_this(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/ingress/clients").join(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs curl"]
async fn curl_speaks_each_version() {
    let place = Place::new().await;
    let body = place.world.folder.file(".upload");
    std::fs::write(&body, vec![b'x'; 3_000_000]).unwrap();
    let body = format!("@{}", body.display());
    let (http, https) =
        (format!("http://{}", place.world.http), format!("https://{}", place.world.https));
    let table = [
        (&http, "--http1.1", "1.1"),
        (&http, "--http2-prior-knowledge", "2"),
        (&https, "--http1.1", "1.1"),
        (&https, "--http2", "2"),
    ];
    for (url, flag, version) in table {
        let common = ["-sS", "-k", flag, "-w", " %{http_version} %{http_code}"];
        let got = run("curl", &[&common[..], &[&format!("{url}/")]].concat()).await;
        assert_eq!(got, format!("hello\n {version} 200"), "{url} {flag}");
        let expect = ["-H", "Expect: 100-continue", "--data-binary", &body];
        let upload = format!("{url}/upload");
        let sent = run("curl", &[&common[..], &expect, &[&upload]].concat()).await;
        assert_eq!(sent, format!("3000000 {version} 200"), "{url} {flag}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs wrk, h2load, ab and hey"]
async fn load_generators_see_no_failure() {
    let place = Place::new().await;
    let (http, https) =
        (format!("http://{}/", place.world.http), format!("https://{}/", place.world.https));
    for url in [&http, &https] {
        for close in ["X-Close: no", "Connection: close"] {
            let args = ["-t1", "-c4", "-d1s", "--timeout", "60s", "-H", close, url];
            let said = run("wrk", &args).await;
            assert!(said.contains("requests in"), "{said}");
            assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
        }
        let said = run("h2load", &["-n", "400", "-c", "4", "-m", "10", url]).await;
        assert!(said.contains("400 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
        assert!(said.contains("status codes: 400 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");
        for kept in [&["-k"][..], &[]] {
            let said = run("ab", &[kept, &["-q", "-n", "200", "-c", "4", url]].concat()).await;
            let has =
                |line: &str| said.split_whitespace().collect::<Vec<_>>().join(" ").contains(line);
            assert!(has("Complete requests: 200") && has("Failed requests: 0"), "{said}");
            assert!(!has("Non-2xx"), "{said}");
        }
    }
    for args in [&[&*http][..], &[&https], &["-h2", &https], &["-disable-keepalive", &http]] {
        // Without a host it names an address with its port in the TLS hello, which no name may
        // have (RFC 6066 section 3).
        let common = ["-n", "200", "-c", "4", "-host", "a.example"];
        let said = run("hey", &[&common, args].concat()).await;
        assert!(said.contains("[200]\t200 responses"), "{args:?} {said}");
        assert!(!said.contains("Error distribution"), "{args:?} {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Debian's python3-grpcio"]
async fn grpc_calls_of_each_kind_are_as_without_an_ingress() {
    let net = Net::new();
    let port = "targetPort: 9000, appProtocol: kubernetes.io/h2c";
    let manifests = service("grpc", &["127.N.N.10"]).replace("targetPort: 9000", port)
        + &ingress("i", &[("", "Prefix", "/", "grpc")]);
    let world = World::start_in(net, &manifests, &["--workers", "2"]);
    let script = beside_this("grpc_calls.py").display().to_string();
    let (server, ingress) = (net.addr(10, 9000).to_string(), world.http.to_string());
    // Not one that is earlier in the path: the library is Debian's.
    run("/usr/bin/python3", &[&script, &server, &ingress]).await;
}

/// A message of each size comes back, and the close handshake.
async fn talk<S>(mut socket: tokio_tungstenite::WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    for size in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
        let message = Message::binary(vec![7; size]);
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.send(Message::Ping("ping".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("ping".into()));
    socket.close(None).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        assert!(message.is_close(), "{message:?}");
    }
}

#[tokio::test]
async fn a_websocket_library_talks_through_it() {
    let place = Place::new().await;
    let url = "ws://a.com/socket";
    let talked = async {
        let stream = TcpStream::connect(place.world.http).await.unwrap();
        talk(tokio_tungstenite::client_async(url, stream).await.unwrap().0).await;
        let stream = connect_tls(place.world.https, "a.com", &["http/1.1"]).await.unwrap();
        talk(tokio_tungstenite::client_async(url, stream).await.unwrap().0).await;
    };
    tokio::time::timeout(PATIENCE, talked).await.unwrap();
}

/// Over HTTP/2 and TLS, with a certificate that it is told to accept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium"]
async fn a_browser_gets_events_talks_by_websocket_and_uploads() {
    let mut place = Place::new().await;
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--ignore-certificate-errors", "--no-proxy-server", "--no-first-run"]);
    command.arg("--disable-background-networking").arg("--remote-debugging-port=0");
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("https://{}/page", place.world.https));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut browser = tokio::process::Command::from(command).kill_on_drop(true).spawn().unwrap();
    let report = tokio::time::timeout(2 * PATIENCE, place.reports.recv()).await;
    browser.kill().await.unwrap();
    assert_eq!(report.unwrap().unwrap(), "h2; a b c; one 100000; 200 3000000");
}
