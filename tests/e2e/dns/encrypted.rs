//! DNS over TLS and over HTTPS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use nix::sys::signal::Signal;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use super::forwarding::{answer, upstream};
use super::kit::{Dns, ONE_SERVICE, WEB, framed, question, show, with_edns};
use crate::support::{Net, PATIENCE, eventually};

const NAME: &str = "dns.example";
const ADDRESS: [&str; 2] = ["NoError", "web.ns.svc.Z 5 A 10.0.0.1"];

/// A responder with both protocols and a certificate.
struct Encrypted {
    dns: Dns,
    tls: SocketAddr,
    https: SocketAddr,
    folder: tempfile::TempDir,
    certificate: CertificateDer<'static>,
    _upstreams: Net,
}

/// Writes a new certificate and key.
fn renew(folder: &tempfile::TempDir) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    std::fs::write(folder.path().join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()
}

impl Encrypted {
    /// Questions for A that were answered, by transport and zone.
    fn queries(&self, proto: &str, zone: &str) -> f64 {
        let labels = format!(r#"proto="{proto}",qtype="A",rcode="NOERROR",zone="{zone}""#);
        self.dns.metric(&format!("switchyard_dns_queries_total{{{labels}}}"))
    }

    fn start(flags: &[&str]) -> Encrypted {
        let net = Net::new();
        upstream(net.addr(1, 5353), answer);
        let folder = tempfile::tempdir().unwrap();
        let certificate = renew(&folder);
        let (tls, https) = (net.addr(53, 8530), net.addr(53, 4430));
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let values = [
            ("--tls-cert", path("tls.crt")),
            ("--tls-key", path("tls.key")),
            ("--tls-listen", tls.to_string()),
            ("--https-listen", https.to_string()),
            ("--upstream", net.addr(1, 5353).to_string()),
        ];
        let mut all: Vec<&str> = values.iter().flat_map(|(flag, v)| [*flag, v]).collect();
        all.extend(flags);
        let dns = Dns::start_with(ONE_SERVICE, &all);
        Encrypted { dns, tls, https, folder, certificate, _upstreams: net }
    }

    fn connect(&self, to: SocketAddr, protocol: &str) -> Stream {
        connect(to, protocol, &self.certificate).expect("a handshake")
    }

    /// One HTTP/1.1 request; the head and the body of the response.
    fn request(&self, head: &str, body: &[u8]) -> (String, Vec<u8>) {
        let mut stream = self.connect(self.https, "http/1.1");
        let length = body.len();
        let head = format!("{head}\r\nhost: {NAME}\r\ncontent-length: {length}");
        let whole = [format!("{head}\r\nconnection: close\r\n\r\n").as_bytes(), body].concat();
        // The responder may refuse before it has read a large body.
        let _ = stream.write_all(&whole);
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response);
        let end = response.windows(4).position(|four| four == b"\r\n\r\n").expect("a response");
        let body = response.split_off(end + 4);
        (String::from_utf8(response).unwrap().to_ascii_lowercase(), body)
    }
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn connect(
    to: SocketAddr,
    protocol: &str,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<Stream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let name = ServerName::try_from(NAME).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect_timeout(&to, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(connection, socket);
    stream.conn.complete_io(&mut stream.sock)?;
    assert_eq!(stream.conn.alpn_protocol(), Some(protocol.as_bytes()));
    Ok(stream)
}

fn receive(stream: &mut Stream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("a reply");
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).unwrap();
    Message::from_vec(&bytes).unwrap()
}

#[test]
fn queries_over_tls() {
    let served = Encrypted::start(&[]);
    let mut stream = served.connect(served.tls, "dot");
    // In a row, and in pieces.
    stream.write_all(&framed(&question(WEB)).repeat(3)).unwrap();
    for octet in framed(&question("www.example.com A")) {
        stream.write_all(&[octet]).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(show(&receive(&mut stream)), ADDRESS);
    }
    assert_eq!(show(&receive(&mut stream))[1], "www.example.com 60 A 192.0.2.1");
    // The client has ended its side: what it asked is still answered.
    stream.write_all(&framed(&question("last.example.com A"))).unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    assert_eq!(show(&receive(&mut stream))[1], "last.example.com 60 A 192.0.2.1");
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(served.queries("tls", "cluster.local."), 3.0);
    assert_eq!(served.queries("tls", "."), 2.0);
}

/// Who watches the connection must not learn the name from the length (RFC 7830, RFC 8467).
#[test]
fn replies_over_tls_are_padded_for_who_pads() {
    let served = Encrypted::start(&[]);
    let mut stream = served.connect(served.tls, "dot");
    let mut length_of = |name: &str, padding: Option<usize>| {
        let mut query = with_edns(question(name), 1232, false);
        if let Some(padding) = padding {
            let options = query.edns.as_mut().unwrap().options_mut();
            options.insert(EdnsOption::Unknown(EdnsCode::Padding.into(), vec![0; padding]));
        }
        stream.write_all(&framed(&query)).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let length = usize::from(u16::from_be_bytes(length));
        stream.read_exact(&mut vec![0; length]).unwrap();
        length
    };
    for name in [WEB, "www.example.com A", "a-longer-name-than-that.ns.svc.Z AAAA"] {
        assert_eq!(length_of(name, Some(20)), 468, "{name}");
        assert!(length_of(name, None) < 200, "{name}");
    }
}

#[test]
fn connections_that_are_not_tls_are_closed() {
    let served = Encrypted::start(&[]);
    let mut stream = TcpStream::connect_timeout(&served.tls, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&framed(&question(WEB))).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < 16, "at most an alert: {rest:?}");
    eventually("it is counted", || {
        (served.dns.metric("switchyard_dns_tls_failures_total") == 1.0).then_some(())
    });
    eventually("its place is free", || {
        (served.dns.metric("switchyard_dns_tcp_connections") == 0.0).then_some(())
    });
}

#[test]
fn idle_connections_are_closed() {
    let served = Encrypted::start(&["--tcp-idle-timeout", "300ms"]);
    for (address, protocol) in [(served.tls, "dot"), (served.https, "http/1.1")] {
        let mut stream = served.connect(address, protocol);
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "{protocol}");
    }
}

#[test]
fn renewed_certificates_are_used() {
    let served = Encrypted::start(&[]);
    let mut before = served.connect(served.tls, "dot");
    // What cannot be used changes nothing.
    std::fs::write(served.folder.path().join("tls.key"), "broken").unwrap();
    served.dns.process.signal(Signal::SIGHUP);
    drop(served.connect(served.tls, "dot"));
    let renewed = renew(&served.folder);
    served.dns.process.signal(Signal::SIGHUP);
    eventually("the new certificate", || connect(served.tls, "dot", &renewed).ok());
    before.write_all(&framed(&question(WEB))).unwrap();
    assert_eq!(show(&receive(&mut before)), ADDRESS);
}

#[test]
fn questions_in_flight_are_answered_while_draining() {
    let served = Encrypted::start(&[]);
    let mut stream = served.connect(served.tls, "dot");
    stream.write_all(&framed(&question(WEB))).unwrap();
    served.dns.process.signal(Signal::SIGTERM);
    assert_eq!(show(&receive(&mut stream)), ADDRESS);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn queries_over_https() {
    let served = Encrypted::start(&[]);
    let query = question(WEB).to_vec().unwrap();
    let post = "POST /dns-query HTTP/1.1\r\ncontent-type: application/dns-message";
    let (head, body) = served.request(post, &query);
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(head.contains("content-type: application/dns-message\r\n"), "{head}");
    assert!(head.contains("cache-control: max-age=5\r\n"), "{head}");
    assert_eq!(show(&Message::from_vec(&body).unwrap()), ADDRESS);
    // `web.ns.svc.cluster.local A`, with the ID 0.
    let get =
        "GET /dns-query?dns=AAABAAABAAAAAAAAA3dlYgJucwNzdmMHY2x1c3RlcgVsb2NhbAAAAQAB HTTP/1.1";
    let (head, body) = served.request(get, b"");
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert_eq!(show(&Message::from_vec(&body).unwrap()), ADDRESS);
    let forwarded = question("www.example.com A").to_vec().unwrap();
    let (head, _) = served.request(post, &forwarded);
    assert!(head.contains("cache-control: max-age=60\r\n"), "{head}");
    assert_eq!(served.queries("https", "cluster.local."), 2.0);
    assert_eq!(served.queries("https", "."), 1.0);
}

#[test]
fn requests_that_are_no_queries() {
    let served = Encrypted::start(&[]);
    let message = "content-type: application/dns-message";
    let check = |head: &str, body: &[u8], status: u16| {
        let (response, _) = served.request(head, body);
        assert!(response.starts_with(&format!("http/1.1 {status} ")), "{head}: {response}");
        response
    };
    check("GET / HTTP/1.1", b"", 404);
    check("POST / HTTP/1.1", &[0; 65_536], 404);
    check("GET /dns-query HTTP/1.1", b"", 400);
    check("GET /dns-query?dns=!! HTTP/1.1", b"", 400);
    check("GET /dns-query?dns=AAAA HTTP/1.1", b"", 400);
    check("POST /dns-query HTTP/1.1", b"x", 415);
    check(&format!("POST /dns-query HTTP/1.1\r\n{message}"), b"x", 400);
    // The refusal must not be lost while the client still sends.
    for size in [65_536, 1_000_000] {
        check(&format!("POST /dns-query HTTP/1.1\r\n{message}"), &vec![0; size], 413);
    }
    let response = check(&format!("PUT /dns-query HTTP/1.1\r\n{message}"), b"x", 405);
    assert!(response.contains("allow: get, post\r\n"), "{response}");
}

#[tokio::test]
async fn queries_over_http2() {
    let served = Encrypted::start(&[]);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(served.certificate.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = tokio::net::TcpStream::connect(served.https).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(ServerName::try_from(NAME).unwrap(), socket).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let mut responses = Vec::new();
    for name in ["web.ns.svc.Z A", "www.example.com A", "none.ns.svc.Z A"] {
        let request = http::Request::post(format!("https://{NAME}/dns-query"))
            .header("content-type", "application/dns-message")
            .body(())
            .unwrap();
        let (response, mut body) = sender.send_request(request, false).unwrap();
        let message = with_edns(question(name), 1232, false).to_vec().unwrap();
        body.send_data(message.into(), true).unwrap();
        responses.push(response);
    }
    let mut codes = Vec::new();
    for response in responses {
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(part) = body.data().await {
            bytes.extend_from_slice(&part.unwrap());
        }
        codes.push(show(&Message::from_vec(&bytes).unwrap())[0].clone());
    }
    assert_eq!(codes, ["NoError", "NoError", "NXDomain"]);
}

#[test]
#[ignore = "needs kdig"]
fn kdig_reads_encrypted_answers() {
    let served = Encrypted::start(&[]);
    let ca = format!("+tls-ca={}", served.folder.path().join("tls.crt").display());
    let host = format!("+tls-hostname={NAME}");
    let check = |address: SocketAddr, mode: &[&str]| {
        let output = Command::new("kdig")
            .args([&format!("@{}", address.ip()), "-p", &address.port().to_string()])
            .args(mode)
            .args([&ca, &host])
            .args(["+short", "web.ns.svc.cluster.local"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.trim(), "10.0.0.1", "{mode:?} {}", String::from_utf8_lossy(&output.stderr));
    };
    check(served.tls, &["+tls"]);
    check(served.https, &["+https"]);
    check(served.https, &["+https-get"]);
}
