//! The PROXY protocol of proxies in front: the client address of a connection, without and with
//! TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::kit::{Client, Endpoint, World, client_config, field, ingress, raw, service, status_of};
use crate::support::{Net, PATIENCE};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n";
const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 444\r\n";

/// Version 2, for the client `192.0.2.7:4711`, which connected to `198.51.100.1:444`.
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x12\x67\x01\xbc";
/// Version 2, for the proxy itself (LOCAL): a health check.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// An ingress that expects the header only from 127.N.N.2.
async fn world(flags: &[&str]) -> (World, Endpoint) {
    let net = Net::new();
    let endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let manifests =
        service("web", &["127.N.N.10"]) + &ingress("i", &[("a.com", "Prefix", "/", "web")]);
    let trusted = net.ip(2).to_string();
    let mut all = vec!["--proxy-protocol", "--trusted-proxies", &trusted];
    all.extend(flags);
    (World::start_in(net, &manifests, &all), endpoint)
}

/// A connection of the trusted proxy.
async fn from_proxy(world: &World, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(world.net.addr(2, 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// Sends the pieces one by one, and reads to the end.
async fn exchange(world: &World, pieces: &[&[u8]]) -> String {
    let mut stream = from_proxy(world, world.http).await;
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        // The connection may already have been refused.
        let _ = stream.write_all(piece).await;
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn last_seen(endpoint: &Endpoint, name: &str) -> String {
    field(&endpoint.seen().pop().unwrap(), name).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_client_is_whom_the_proxy_tells_of() {
    let (world, endpoint) = world(&[]).await;
    let request = REQUEST.as_bytes();
    let slowly: Vec<&[u8]> = V1.as_bytes().chunks(1).chain(std::iter::once(request)).collect();
    let proxy = world.net.ip(2).to_string();
    let own = world.http.port().to_string();
    let table: [(&[&[u8]], &str, &str); 5] = [
        (&[V1.as_bytes(), request], "192.0.2.7", "444"),
        (&slowly, "192.0.2.7", "444"),
        (&[V2, request], "192.0.2.7", "444"),
        (&[&V2[..20], &V2[20..], request], "192.0.2.7", "444"),
        (&[LOCAL, request], &proxy, &own),
    ];
    for (pieces, client, port) in table {
        let answer = exchange(&world, pieces).await;
        assert_eq!(status_of(&answer), 200, "{answer}");
        assert_eq!(last_seen(&endpoint, "x-real-ip"), client);
        assert_eq!(last_seen(&endpoint, "x-forwarded-for"), client);
        assert_eq!(last_seen(&endpoint, "x-forwarded-port"), port);
    }
    // A header without a client address is ignored.
    let forged =
        "GET / HTTP/1.1\r\nHost: a.com\r\nX-Forwarded-For: 192.0.2.9\r\nConnection: close\r\n\r\n";
    for (header, expected) in [
        (LOCAL, format!("192.0.2.9, {proxy}")),
        (b"PROXY UNKNOWN\r\n", proxy.clone()),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0", proxy.clone()),
        (V2, "192.0.2.7".to_owned()),
    ] {
        assert_eq!(status_of(&exchange(&world, &[header, forged.as_bytes()]).await), 200);
        assert_eq!(last_seen(&endpoint, "x-forwarded-for"), expected);
    }
    // Other clients need no header, and their headers are not trusted.
    assert_eq!(status_of(&raw(world.http, request).await), 200);
    assert_eq!(last_seen(&endpoint, "x-real-ip"), "127.0.0.1");
    assert_eq!(status_of(&raw(world.http, &[V1.as_bytes(), request].concat()).await), 400);
}

#[tokio::test]
async fn a_header_goes_ahead_of_tls() {
    let (world, endpoint) = world(&[]).await;
    for (alpn, header) in [("http/1.1", V1.as_bytes()), ("h2", V2)] {
        let mut stream = from_proxy(&world, world.https).await;
        stream.write_all(header).await.unwrap();
        let mut config = client_config(None);
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let name = ServerName::try_from("a.com").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let mut client =
            if alpn == "h2" { Client::http2(stream).await } else { Client::http1(stream).await };
        assert_eq!(client.get("a.com", "/").await.status, 200);
        assert_eq!(last_seen(&endpoint, "x-real-ip"), "192.0.2.7");
        assert_eq!(last_seen(&endpoint, "x-forwarded-proto"), "https");
    }
}

#[tokio::test]
async fn a_proxy_that_tells_nothing_is_refused() {
    let (world, endpoint) = world(&["--header-timeout", "1s"]).await;
    let bad: [&[u8]; 6] = [
        REQUEST.as_bytes(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 444 and so on, without an end, for a hundred and \
          more bytes of nothing\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"PROXY TCP4 ",
        b"",
    ];
    for header in bad {
        let answer = exchange(&world, &[header]).await;
        assert!(answer.is_empty() || status_of(&answer) == 400, "{answer}");
    }
    assert!(endpoint.seen().is_empty());
    let rejected = world.metric("switchyard_ingress_rejected_proxy_headers_total");
    assert_eq!(rejected as usize, bad.len());
}

#[tokio::test]
async fn clients_behind_a_proxy_have_their_own_limits() {
    let (world, _endpoint) = world(&["--max-connections-per-client", "2"]).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = from_proxy(&world, world.http).await;
        stream
            .write_all([V2, b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n"].concat().as_slice())
            .await
            .unwrap();
        let mut answer = [0; 12];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        held.push(stream);
    }
    assert_eq!(status_of(&exchange(&world, &[V2, REQUEST.as_bytes()]).await), 503);
    let other = b"PROXY TCP4 192.0.2.8 198.51.100.1 4711 444\r\n";
    assert_eq!(status_of(&exchange(&world, &[other, REQUEST.as_bytes()]).await), 200);
    drop(held);
    let begun = std::time::Instant::now();
    while status_of(&exchange(&world, &[V2, REQUEST.as_bytes()]).await) != 200 {
        assert!(begun.elapsed() < PATIENCE, "there is room again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
