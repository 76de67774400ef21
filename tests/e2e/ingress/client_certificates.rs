//! Clients with certificates: who is let in, what endpoints are told, and what happens when the
//! authorities change.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::https_endpoints::opaque;
use super::kit::{
    Answer, Client, Endpoint, Speaks, World, annotated, client_config_as, eventually, field, get,
    handshake, ingress, service,
};
use crate::support::Net;

const NGINX: &str = "nginx.ingress.kubernetes.io";

type Authority = CertifiedIssuer<'static, KeyPair>;

/// What a client shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    Nothing,
    Ours,
    Theirs,
}

/// Two authorities, of which one is unknown to the ingress, and a client's certificate of each.
struct Certificates {
    ours: Authority,
    theirs: Authority,
    ours_client: Identity,
    theirs_client: Identity,
}

struct Identity {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Identity {
    fn of(authority: &Authority, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name).signed_by(&key, authority).unwrap().der().clone();
        Identity { certificate, key }
    }

    fn pair(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        (self.certificate.clone(), key)
    }
}

impl Certificates {
    fn new() -> Certificates {
        let (ours, theirs) = (authority("ours"), authority("theirs"));
        let ours_client = Identity::of(&ours, "ada");
        let theirs_client = Identity::of(&theirs, "ada");
        Certificates { ours, theirs, ours_client, theirs_client }
    }

    /// A client's settings, with sessions of its own.
    fn client(&self, shows: Shows, speaks: Speaks) -> Arc<rustls::ClientConfig> {
        let identity = match shows {
            Shows::Nothing => None,
            Shows::Ours => Some(self.ours_client.pair()),
            Shows::Theirs => Some(self.theirs_client.pair()),
        };
        let mut config = client_config_as(identity);
        let protocol = if speaks == Speaks::Http2OverTls { "h2" } else { "http/1.1" };
        config.alpn_protocols = vec![protocol.into()];
        Arc::new(config)
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> Authority {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn prefixed<'a>(annotations: &[(&'a str, &'a str)]) -> Vec<(String, &'a str)> {
    annotations.iter().map(|(name, value)| (format!("{NGINX}/auth-tls-{name}"), *value)).collect()
}

/// An Ingress for a host with annotations `auth-tls-NAME`.
fn asking(host: &str, annotations: &[(&str, &str)]) -> String {
    let annotations = prefixed(annotations);
    let annotations: Vec<_> = annotations.iter().map(|(name, value)| (&**name, *value)).collect();
    annotated(&host.replace('.', "-"), host, "web", &annotations)
}

async fn connect(world: &World, host: &str, config: &Arc<rustls::ClientConfig>) -> (Client, bool) {
    let stream = handshake(world.https, host, config.clone()).await.unwrap();
    let session = stream.get_ref().1;
    let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let client = match session.alpn_protocol() {
        Some(b"h2") => Client::http2(stream).await,
        _ => Client::http1(stream).await,
    };
    (client, resumed)
}

/// A request with fields that only the ingress may set.
async fn ask(client: &mut Client, host: &str) -> Answer {
    let request = Request::get(format!("http://{host}/x"))
        .header("ssl-client-verify", "SUCCESS")
        .header("ssl-client-subject-dn", "CN=admin")
        .header("ssl-client-issuer-dn", "CN=admin")
        .header("ssl-client-cert", "admin");
    Answer::read(client.send(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()).await
}

/// A client's status and the fields that its endpoint got: verify, subject, whether a certificate.
type Expected<'r> = (u16, Option<&'r str>, Option<&'r str>, bool);

fn check(what: &str, answer: &Answer, (status, verify, subject, has_certificate): Expected<'_>) {
    assert_eq!(answer.status, status, "{what}: {answer:?}");
    if status != 200 {
        return;
    }
    let (_, seen) = answer.body.split_once('\n').unwrap();
    assert_eq!(field(seen, "ssl-client-verify"), verify, "{what}: {seen}");
    assert_eq!(field(seen, "ssl-client-subject-dn"), subject, "{what}: {seen}");
    let certificate = field(seen, "ssl-client-cert").unwrap_or_default();
    let starts = certificate.starts_with("-----BEGIN%20CERTIFICATE-----%0A");
    assert_eq!(starts, has_certificate, "{what}: {seen}");
    assert!(starts || certificate.is_empty(), "{what}: {seen}");
}

#[tokio::test]
async fn clients_with_and_without_certificates() {
    let certificates = Certificates::new();
    let unknown = Some("FAILED:unable to verify the first certificate");
    let (none, ada) = (Some("NONE"), Some("CN=ada"));
    let ok = Some("SUCCESS");
    type Row<'r> = (&'r [(&'r str, &'r str)], [Expected<'r>; 3]);
    let refused: Expected<'_> = (400, None, None, false);
    let forbidden: Expected<'_> = (403, None, None, false);
    let away: Expected<'_> = (302, None, None, false);
    // What clients meet that show nothing, a certificate of ours, and one of theirs.
    let table: [Row<'_>; 9] = [
        (&[], [refused, (200, ok, ada, false), refused]),
        (&[("verify-client", "on")], [refused, (200, ok, ada, false), refused]),
        (&[("verify-client", "yes")], [refused, (200, ok, ada, false), refused]),
        (&[("verify-client", "off")], [(200, none, None, false); 3]),
        (
            &[("verify-client", "optional")],
            [(200, none, None, false), (200, ok, ada, false), refused],
        ),
        (
            &[("verify-client", "optional_no_ca"), ("pass-certificate-to-upstream", "true")],
            [(200, none, None, false), (200, ok, ada, true), (200, unknown, ada, true)],
        ),
        (&[("match-cn", "CN=no")], [refused, forbidden, refused]),
        (&[("match-cn", "CN=(bob|ada)")], [refused, (200, ok, ada, false), refused]),
        (&[("error-page", "http://x.test/error")], [away, (200, ok, ada, false), away]),
    ];
    let mut manifests = service("web", &["127.N.N.10"]);
    manifests += &opaque("ca", &[("ca.crt", &certificates.ours.pem())]);
    for (at, (annotations, _)) in table.iter().enumerate() {
        let all = [&[("secret", "default/ca")], *annotations].concat();
        manifests += &asking(&format!("h{at}.test"), &all);
    }
    let net = Net::new();
    let endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let world = World::start_in(net, &manifests, &[]);
    for speaks in [Speaks::Http1OverTls, Speaks::Http2OverTls] {
        for (at, (annotations, expected)) in table.iter().enumerate() {
            let host = format!("h{at}.test");
            for (shows, expected) in
                [Shows::Nothing, Shows::Ours, Shows::Theirs].iter().zip(expected)
            {
                let what = format!("{annotations:?} {shows:?} {speaks:?}");
                let config = certificates.client(*shows, speaks);
                let (mut client, _) = connect(&world, &host, &config).await;
                // The second request meets what the connection remembers.
                for _ in 0..2 {
                    let answer = ask(&mut client, &host).await;
                    check(&what, &answer, *expected);
                    if expected.0 == 302 {
                        assert_eq!(answer.headers["location"], "http://x.test/error");
                    }
                }
            }
        }
    }
    let seen = endpoint.seen().join("\n");
    assert!(!seen.contains("admin"), "{seen}");
}

/// Nobody is let in over plain HTTP who would not be over HTTPS.
#[tokio::test]
async fn plain_http_does_not_bypass_certificates() {
    let certificates = Certificates::new();
    let secret = ("secret", "ca");
    let manifests = service("web", &["127.N.N.10"])
        + &opaque("ca", &[("ca.crt", &certificates.ours.pem())])
        + &asking("on.test", &[secret])
        + &asking("optional.test", &[secret, ("verify-client", "optional")])
        + &asking("named.test", &[secret, ("verify-client", "optional"), ("match-cn", "CN=ada")]);
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let flags = ["--trusted-proxies", "127.0.0.0/8"];
    let world = World::start_in(net, &manifests, &flags);
    for speaks in [Speaks::Http1, Speaks::Http2] {
        let answer = get(&world, speaks, "on.test", "/a?b=c").await;
        assert_eq!(answer.status, 308, "{answer:?}");
        assert_eq!(answer.headers["location"], "https://on.test/a?b=c");
        let mut client = Client::connect(&world, speaks, "optional.test").await;
        check(
            "optional",
            &ask(&mut client, "optional.test").await,
            (200, Some("NONE"), None, false),
        );
        assert_eq!(get(&world, speaks, "named.test", "/").await.status, 403);
        // A proxy that has ended TLS has not verified anything that we know of.
        let request = Request::get("http://on.test/").header("x-forwarded-proto", "https");
        let request = request.header("ssl-client-verify", "SUCCESS").body(Full::default()).unwrap();
        let answer = Answer::read(client.send(request).await.unwrap()).await;
        assert_eq!(answer.status, 400, "{answer:?}");
    }
}

/// A connection on which no certificate was asked for, or for another host, does not serve.
#[tokio::test]
async fn a_request_for_another_host_than_the_handshake_named() {
    let certificates = Certificates::new();
    let manifests = service("web", &["127.N.N.10"])
        + &opaque("ca", &[("ca.crt", &certificates.ours.pem())])
        + &asking("a.test", &[("secret", "ca")])
        + &asking("b.test", &[("secret", "ca")])
        + &ingress("plain", &[("plain.test", "Prefix", "/", "web")]);
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let world = World::start_in(net, &manifests, &[]);
    let address = world.https.ip().to_string();
    let table = [
        ("a.test", "a.test", 200),
        ("a.test", "A.test.:443", 200),
        ("a.test", "b.test", 421),
        ("plain.test", "a.test", 421),
        ("a.test", "plain.test", 200),
        // Without a name in its hello.
        (&*address, "a.test", 421),
        (&*address, "plain.test", 200),
    ];
    for speaks in [Speaks::Http1OverTls, Speaks::Http2OverTls] {
        for (name, host, status) in table {
            let config = certificates.client(Shows::Ours, speaks);
            let (mut client, _) = connect(&world, name, &config).await;
            let answer = client.get(host, "/").await;
            assert_eq!(answer.status, status, "{name} {host} {speaks:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn authorities_that_change() {
    let certificates = Certificates::new();
    let with = |authority: Option<&Authority>| {
        let secret = authority.map(|authority| opaque("ca", &[("ca.crt", &authority.pem())]));
        service("web", &["127.N.N.10"])
            + &asking("t.test", &[("secret", "ca")])
            + &secret.unwrap_or_default()
    };
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let world = World::start_in(net, &with(Some(&certificates.ours)), &[]);
    for speaks in [Speaks::Http1OverTls, Speaks::Http2OverTls] {
        world.replace(&with(Some(&certificates.ours)));
        let config = certificates.client(Shows::Ours, speaks);
        let mut open = eventually("our certificate is accepted", || async {
            let (mut client, _) = connect(&world, "t.test", &config).await;
            (client.get("t.test", "/").await.status == 200).then_some(client)
        })
        .await;
        // A session that is resumed has the certificate that it began with.
        let (mut again, resumed) = connect(&world, "t.test", &config).await;
        assert!(resumed, "{speaks:?}: the session was not resumed");
        assert_eq!(again.get("t.test", "/").await.status, 200);

        world.replace(&with(Some(&certificates.theirs)));
        let theirs = certificates.client(Shows::Theirs, speaks);
        eventually("the other authority's certificate is accepted", || async {
            let (mut client, _) = connect(&world, "t.test", &theirs).await;
            (client.get("t.test", "/").await.status == 200).then_some(())
        })
        .await;
        assert_eq!(open.get("t.test", "/").await.status, 400, "{speaks:?}: open connection");
        let (mut again, _) = connect(&world, "t.test", &config).await;
        assert_eq!(again.get("t.test", "/").await.status, 400, "{speaks:?}: old session");

        world.replace(&with(None));
        eventually("without its Secret the host is closed", || async {
            let (mut client, _) = connect(&world, "t.test", &theirs).await;
            (client.get("t.test", "/").await.status == 503).then_some(())
        })
        .await;
        assert!(world.problems().iter().any(|p| p.contains("Secret default/ca does not exist")));
    }
}

/// As in ingress-nginx, what one Ingress asks holds for all of its host.
#[tokio::test]
async fn all_routes_of_a_host_ask_for_certificates() {
    let certificates = Certificates::new();
    let rules = |host| {
        [(host, "Prefix", "/open", "web"), (host, "Prefix", "/.well-known/acme-challenge/x", "web")]
    };
    let manifests = service("web", &["127.N.N.10"])
        + &opaque("ca", &[("ca.crt", &certificates.ours.pem())])
        + &asking("t.test", &[("secret", "ca")])
        + &ingress("more", &rules("t.test"))
        + &asking("broken.test", &[("secret", "missing")])
        + &ingress("broken-more", &rules("broken.test"))
        + &asking("lost.test", &[("verify-client", "on")]);
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let world = World::start_in(net, &manifests, &[]);
    let challenge = "/.well-known/acme-challenge/x";
    let table = [
        ("t.test", "/", Shows::Nothing, 400),
        ("t.test", "/open", Shows::Nothing, 400),
        ("t.test", "/open", Shows::Ours, 200),
        ("t.test", challenge, Shows::Nothing, 200),
        ("broken.test", "/", Shows::Ours, 503),
        ("broken.test", "/open", Shows::Ours, 503),
        ("broken.test", challenge, Shows::Nothing, 200),
        ("lost.test", "/", Shows::Ours, 503),
    ];
    for (host, path, shows, status) in table {
        let config = certificates.client(shows, Speaks::Http1OverTls);
        let (mut client, _) = connect(&world, host, &config).await;
        let answer = client.get(host, path).await;
        assert_eq!(answer.status, status, "{host}{path} {shows:?}: {answer:?}");
    }
    // Over plain HTTP, where certificates are issued by.
    assert_eq!(get(&world, Speaks::Http1, "t.test", challenge).await.status, 200);
    assert_eq!(get(&world, Speaks::Http1, "t.test", "/open").await.status, 308);
    let problems = world.problems().join("\n");
    assert!(problems.contains("auth-tls-verify-client needs auth-tls-secret"), "{problems}");
}

/// Clients that send their hello in small pieces, or never to its end.
#[tokio::test]
async fn a_hello_in_pieces() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let certificates = Certificates::new();
    let manifests = service("web", &["127.N.N.10"])
        + &opaque("ca", &[("ca.crt", &certificates.ours.pem())])
        + &asking("t.test", &[("secret", "ca")]);
    let net = Net::new();
    let _endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    let world = World::start_in(net, &manifests, &["--handshake-timeout", "1s"]);
    let config = certificates.client(Shows::Ours, Speaks::Http1OverTls);
    // A relay that passes the first bytes of the client on one by one.
    let relay = tokio::net::TcpListener::bind(world.net.addr(20, 1)).await.unwrap();
    let (at, to) = (relay.local_addr().unwrap(), world.https);
    tokio::spawn(async move {
        let (mut client, _) = relay.accept().await.unwrap();
        let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
        server.set_nodelay(true).unwrap();
        for _ in 0..200 {
            server.write_u8(client.read_u8().await.unwrap()).await.unwrap();
        }
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    });
    let stream = handshake(at, "t.test", config).await.unwrap();
    let mut client = Client::http1(stream).await;
    assert_eq!(client.get("t.test", "/").await.status, 200);

    for start in [&b""[..], b"\x16\x03\x01\x01\x00\x01\x00\x00", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut stream = tokio::net::TcpStream::connect(world.https).await.unwrap();
        stream.write_all(start).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(crate::support::PATIENCE, stream.read_to_end(&mut rest));
        let _ = closed.await.expect("the connection is closed");
    }
}
