//! How requests are recorded: in metrics, in the log, and in responses to clients.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::kit::{
    ALL, Client, Endpoint, Speaks, World, client_config, eventually, field, get, ingress, raw,
    service, status_of,
};
use crate::support::{Net, PATIENCE};

fn manifests() -> String {
    service("web", &["127.N.N.10"])
        + &service("down", &["127.N.N.20"])
        + &ingress("i", &[("a.com", "Prefix", "/shop", "web"), ("a.com", "Prefix", "/", "down")])
}

/// Heads that the parser refuses were answered without a body, and counted nowhere.
#[tokio::test]
async fn heads_that_cannot_be_read_are_answered_and_counted() {
    let world = World::start_in(Net::new(), &manifests(), &[]);
    let many = format!("GET / HTTP/1.1\r\nHost: a.com\r\n{}\r\n", "X: y\r\n".repeat(200));
    let long = format!("GET /{} HTTP/1.1\r\nHost: a.com\r\n\r\n", "x".repeat(70_000));
    let table = [
        ("GET\r\n\r\n", 400, "malformed"),
        ("GET / HTTP/1.1\r\nHost: a.com\r\nbad field\r\n\r\n", 400, "malformed"),
        ("GET / HTTP/9.1\r\n\r\n", 400, "malformed"),
        ("G\u{1}T / HTTP/1.1\r\nHost: a.com\r\n\r\n", 400, "malformed"),
        (&many, 431, "head_too_large"),
        (&long, 414, "malformed"),
        // Behind a request that is answered, on the same connection.
        ("GET / HTTP/1.1\r\nHost: b.com\r\n\r\nnonsense\r\n\r\n", 404, "malformed"),
    ];
    for (bytes, status, reason) in table {
        let name = format!("switchyard_ingress_own_answers_total{{reason=\"{reason}\"}}");
        let before = world.metric(&name);
        let answer = raw(world.http, bytes.as_bytes()).await;
        let what = &bytes[..bytes.len().min(80)];
        let expected = if status == 414 { &[414, 431][..] } else { &[status][..] };
        assert!(expected.contains(&status_of(&answer)), "{what}: {answer}");
        let last = &answer[answer.rfind("HTTP/1.1 4").unwrap()..];
        let (head, body) = last.split_once("\r\n\r\n").unwrap();
        let id = field(head, "x-request-id").unwrap_or_else(|| panic!("{what}: {answer}"));
        assert!(body.contains(": the request's "), "{what}: {answer}");
        assert!(body.ends_with(&format!("Request id: {id}\n")), "{what}: {answer}");
        let length: usize = field(head, "content-length").unwrap().parse().unwrap();
        assert_eq!(length, body.len(), "{what}: {answer}");
        if status_of(last) != 431 || reason == "head_too_large" {
            assert_eq!(world.metric(&name), before + 1.0, "{what}");
        }
    }
    let counted = r#"switchyard_ingress_requests_total{namespace="",service="",code="4xx"}"#;
    assert!(world.metric(counted) >= 7.0);
}

/// The command `switchyard explain URL` in a response had no usable URL.
#[tokio::test]
async fn every_answer_that_can_be_explained_names_the_url() {
    let net = Net::new();
    // It accepts requests and closes the connection.
    let _endpoint = Endpoint::raw(net.addr(10, 9000), |mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
    })
    .await;
    let world = World::start_in(net, &manifests(), &[]);
    for speaks in ALL {
        let scheme = match speaks {
            Speaks::Http1 | Speaks::Http2 => "http",
            Speaks::Http1OverTls | Speaks::Http2OverTls => "https",
        };
        // The endpoint is reached and closes; none is reached; there is no route.
        for (host, path, status) in
            [("a.com", "/shop/x", 502), ("a.com", "/y", 502), ("b.com", "/z", 404)]
        {
            let answer = get(&world, speaks, host, path).await;
            assert_eq!(answer.status, status, "{speaks:?} {host}{path}: {answer:?}");
            let url = format!("switchyard explain {scheme}://{host}{path} --feed");
            assert!(answer.body.contains(&url), "{speaks:?}: {}", answer.body);
            let id = answer.headers["x-request-id"].to_str().unwrap();
            assert!(answer.body.ends_with(&format!("Request id: {id}\n")), "{}", answer.body);
        }
    }
}

async fn line_with(log: &Path, words: &[&str]) -> String {
    eventually("a line of the log", || {
        let text = std::fs::read_to_string(log).unwrap();
        let line = text.lines().find(|line| words.iter().all(|word| line.contains(word)));
        let line = line.map(str::to_owned);
        async move { line }
    })
    .await
}

/// The debug log contained a status and an endpoint, but nothing about the request.
#[tokio::test]
async fn a_request_at_debug_is_one_line_with_what_became_of_it() {
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let (world, log) = World::start_logged(net, &manifests(), "ingress=debug");
    let mut client = Client::connect(&world, Speaks::Http1, "a.com").await;
    client.get("a.com", "/shop/basket?secret=1").await;
    let endpoint = format!("{}:9000", net.ip(10));
    let line = line_with(&log, &["\"request\"", "/shop/basket"]).await;
    let record: serde_json::Value = serde_json::from_str(&line).unwrap();
    let expected = [
        ("method", "GET"),
        ("host", "a.com"),
        ("path", "/shop/basket"),
        ("ingress", "default/i"),
        ("path_type", "Prefix"),
        ("rule_path", "/shop"),
        ("service", "default/web:80"),
        ("endpoint", endpoint.as_str()),
        ("ended_by", "completion"),
    ];
    for (name, value) in expected {
        assert_eq!(record[name], value, "{name} of {line}");
    }
    assert_eq!((&record["status"], &record["tries"]), (&200.into(), &1.into()), "{line}");
    let time = |name: &str| record[name].as_f64().unwrap_or_else(|| panic!("{name} of {line}"));
    assert!(time("head_ms") <= time("total_ms"), "{line}");
    assert!(!line.contains("secret"), "a query may hold secrets: {line}");

    client.get("a.com", "/none").await;
    let line = line_with(&log, &["\"request\"", "/none"]).await;
    let record: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&record["status"], &record["ended_by"]), (&502.into(), &"unreachable".into()));
    assert_eq!(record["service"], "default/down:80", "{line}");
}

/// Each handshake with an address as server name logged a line, with paths of the build machine.
#[tokio::test]
async fn bad_handshakes_do_not_fill_the_log() {
    let (world, log) = World::start_logged(Net::new(), &manifests(), "info");
    let hello = |name: &str| {
        let config = std::sync::Arc::new(client_config(None));
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(config, name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    };
    let named = hello("placehold");
    let at = super::kit::find(&named, b"placehold").unwrap();
    let address = [&named[..at], b"127.0.0.1", &named[at + 9..]].concat();
    for bytes in [&address[..], b"\x16\x03\x01\x00\x05nonsense"] {
        for _ in 0..300 {
            let mut stream = TcpStream::connect(world.https).await.unwrap();
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut rest = Vec::new();
            let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest));
            let _ = read.await.expect("the connection is closed");
        }
    }
    eventually("counts", || {
        let count = world.metric("switchyard_ingress_rejected_handshakes_total");
        async move { (count >= 600.0).then_some(()) }
    })
    .await;
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| !line.contains("INFO")).collect();
    assert!(lines.len() < 50, "{} lines, such as {:?}", lines.len(), lines.last());
    assert!(!text.contains(".rs"), "paths of sources: {text}");
}
