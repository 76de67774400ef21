//! TLS, tokens, Unix sockets, and what may be read over each.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, ServerName};

use super::kit::{Feed, Reply, SERVICES, SHOP, STREAMING, answer, connect, head, request, service};
use crate::support::{Folder, Net, Switchyard, eventually, own_token};

const SECRETS: &str = "/api/v1/secrets";
const READER: &str = "reader-0123456789abcdef";
const TRUSTED: &str = "trusted-0123456789abcdef";

/// Writes a certificate for `feed.example` and its key; gives the certificate.
fn certify(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["feed.example".to_owned()]).unwrap();
    // The key first: while only one of the two is new, the server keeps the old pair.
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("tls.crt"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

/// One request over TLS; `None` when the handshake fails.
fn tls_get(
    addr: SocketAddr,
    trusted: &CertificateDer<'static>,
    path: &str,
    headers: &[&str],
) -> Option<Reply> {
    Some(answer(&mut tls_send(addr, trusted, path, headers)?))
}

/// Sends a request over TLS; `None` when the handshake fails.
fn tls_send(
    addr: SocketAddr,
    trusted: &CertificateDer<'static>,
    path: &str,
    headers: &[&str],
) -> Option<BufReader<impl Read + use<>>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("feed.example").unwrap();
    let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(client, connect(addr));
    stream.write_all(head(addr, "GET", path, headers).as_bytes()).ok()?;
    Some(BufReader::new(stream))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

#[test]
fn tokens_and_tls_guard_what_leaves_the_machine() {
    let (net, folder, keys) = (Net::new(), Folder::new(), Folder::new());
    folder.replace("shop.yaml", SHOP);
    keys.replace("tokens", &format!("# who reads\n{READER}\n{TRUSTED} secrets\n"));
    let certificate = certify(keys.path());
    let path = |name: &str| keys.file(name).display().to_string();
    let listen = "0.0.0.0:0".replace(":0", &format!(":{}", free_port()));
    let args = [
        "--listen",
        &listen,
        "--tls-cert",
        &path("tls.crt"),
        "--tls-key",
        &path("tls.key"),
        "--token-file",
        &path("tokens"),
    ];
    let feed = Feed::serving(net, folder, &args);
    let addr = SocketAddr::new(net.ip(2), listen.parse::<SocketAddr>().unwrap().port());
    let get = |path: &str, headers: &[&str]| tls_get(addr, &certificate, path, headers).unwrap();
    assert_eq!(get("/version", &[]).code, 200);
    let reply = get(SERVICES, &[]);
    assert_eq!((reply.code, reply.json()["reason"].clone()), (401, "Unauthorized".into()));
    assert_eq!(get(SERVICES, &[&bearer("wrong-0123456789abcdef")]).code, 401);
    assert_eq!(get(SERVICES, &[&bearer(READER)]).code, 200);
    let reply = get(SECRETS, &[&bearer(READER)]);
    assert_eq!((reply.code, reply.json()["reason"].clone()), (403, "Forbidden".into()));
    assert_eq!(get(SECRETS, &[&bearer(TRUSTED)]).code, 200);
    let named = ["Host: feed.example", &bearer(READER)];
    assert_eq!(get(SERVICES, &named).code, 200, "names are fine where a certificate has them");

    let open = |path: &str| {
        let path = format!("{path}?{STREAMING}");
        let mut stream = tls_send(addr, &certificate, &path, &[&bearer(TRUSTED)]).unwrap();
        assert!(!stream.fill_buf().unwrap().is_empty(), "it began");
        stream
    };
    let (mut secrets, mut services) = (open(SECRETS), open(SERVICES));
    keys.replace("tokens", &format!("{TRUSTED}\n"));
    let told = answer(&mut secrets);
    assert_eq!(told.code, 200);
    assert!(told.text().contains("c2VzYW1l"), "it read the Secret, and ended: {}", told.text());
    eventually("a token that was taken away reads nothing", || {
        (get(SERVICES, &[&bearer(READER)]).code == 401).then_some(())
    });
    assert_eq!(get(SECRETS, &[&bearer(TRUSTED)]).code, 403, "nor one its Secrets");
    feed.folder.replace("api.yaml", &service("api", "10.96.0.11"));
    let mut line = String::new();
    while !line.contains("\"name\":\"api\"") {
        line.clear();
        assert!(services.read_line(&mut line).unwrap() > 0, "what it may read goes on");
    }
    keys.replace("tokens", "what is this\n");
    let renewed = certify(keys.path());
    eventually("the new certificate", || tls_get(addr, &renewed, "/version", &[]));
    assert_eq!(
        tls_get(addr, &renewed, SERVICES, &[&bearer(TRUSTED)]).unwrap().code,
        200,
        "a broken token file changes nothing"
    );
    drop(feed);
}

/// A port that is free on all addresses now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn http_2_is_negotiated_over_tls() {
    let (net, folder, keys) = (Net::new(), Folder::new(), Folder::new());
    let certificate = certify(keys.path());
    let path = |name: &str| keys.file(name).display().to_string();
    let args = ["--tls-cert", &path("tls.crt"), "--tls-key", &path("tls.key")];
    let feed = Feed::serving(net, folder, &args);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("feed.example").unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = connect(feed.addr);
    while client.is_handshaking() {
        client.complete_io(&mut stream).unwrap();
    }
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
}

#[test]
fn without_a_token_file_secrets_take_the_token_of_the_same_user() {
    let (net, folder) = (Net::new(), Folder::new());
    folder.replace("shop.yaml", SHOP);
    let socket = folder.file("feed.sock");
    let (local, everywhere) = (net.addr(1, 7400), format!("0.0.0.0:{}", free_port()));
    let unix = format!("unix:{}", socket.display());
    let args = ["--listen", &local.to_string(), "--listen", &everywhere, "--listen", &unix];
    let _feed = Feed::serving(net, folder, &args);
    let own = bearer(&own_token(local));
    let reply = request(local, "GET", SECRETS, &[]);
    assert_eq!(reply.code, 403, "any user of this machine, and any container on its network");
    let message = reply.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("--feed-token-file") && message.contains(".token"), "{message}");
    assert_eq!(request(local, "GET", SECRETS, &[&own]).code, 200);
    assert_eq!(request(local, "GET", SERVICES, &[]).code, 200);
    let port = everywhere.parse::<SocketAddr>().unwrap().port();
    let open = SocketAddr::new(net.ip(2), port);
    assert_eq!(request(open, "GET", SERVICES, &["Host: feed:7400"]).code, 200);
    assert_eq!(request(open, "GET", SECRETS, &[]).code, 403);
    for (headers, code) in [(vec!["Host: feed"], 403), (vec!["Host: feed", &own], 200)] {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.write_all(head(local, "GET", SECRETS, &headers).as_bytes()).unwrap();
        assert_eq!(answer(&mut BufReader::new(stream)).code, code, "{headers:?}");
    }
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

/// The ingress gets Secrets from a feed of the same user without any flag.
#[test]
fn an_ingress_of_the_same_user_finds_the_token_by_itself() {
    let (net, folder) = (Net::new(), Folder::new());
    folder.replace("shop.yaml", SHOP);
    let at = |port: u16| net.addr(3, port).to_string();
    let source = format!("http://{}", net.addr(1, 7400));
    let args = ["ingress", "--feed", &source, "--http", &at(8080), "--https", &at(8443)];
    // Before the feed, and so its token, exists.
    let ingress = Switchyard::start(net.addr(3, 7421), &args);
    let feed = Feed::serving(net, folder, &[]);
    eventually("the ingress is in sync", || (ingress.admin_get("/readyz").0 == 200).then_some(()));
    let token = own_token(feed.addr);
    let Feed { process, folder, .. } = feed;
    drop(process);
    let feed = Feed::serving(net, folder, &[]);
    assert_eq!(own_token(feed.addr), token, "a restart changes nothing");
}
