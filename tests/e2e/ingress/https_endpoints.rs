//! Endpoints that speak TLS: what they are shown, what is expected of them, and what happens when
//! that is not met.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;

use super::http2_endpoints::echo;
use super::kit::{
    ALL, Answer, Client, Endpoint, Speaks, World, annotated, eventually, get, read_request, service,
};
use crate::support::Net;

/// A certificate and its key, both PEM.
struct Signed {
    certificate: String,
    key: String,
}

/// An authority with the name of its certificate in PEM.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str) -> Signed {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed { certificate, key: key.serialize_pem() }
    }
}

/// A Secret with these entries.
pub(super) fn opaque(name: &str, entries: &[(&str, &str)]) -> String {
    let indent = |text: &str| text.lines().map(|l| format!("    {l}\n")).collect::<String>();
    let entries: String =
        entries.iter().map(|(key, value)| format!("  {key}: |\n{}", indent(value))).collect();
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: default}}\n\
         type: Opaque\nstringData:\n{entries}"
    )
}

fn server_config(signed: &Signed, clients: Option<&Authority>) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            let certificate = CertificateDer::from_pem_slice(authority.certificate.as_bytes());
            roots.add(certificate.unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = CertificateDer::from_pem_slice(signed.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
    builder.with_single_cert(vec![chain], key).unwrap()
}

/// What the handshakes of an endpoint showed: server name, protocol, and whether it was resumed.
type Hellos = Arc<Mutex<Vec<(Option<String>, String, bool)>>>;

/// An HTTPS server that echoes requests, or speaks HTTP/2 if that was agreed on. It closes each
/// connection after one request to `/close`.
async fn endpoint(
    address: std::net::SocketAddr,
    config: rustls::ServerConfig,
) -> (Endpoint, Hellos) {
    let hellos = Hellos::default();
    let (noted, acceptor) = (hellos.clone(), TlsAcceptor::from(Arc::new(config)));
    let endpoint = Endpoint::raw(address, move |stream| {
        let (noted, acceptor) = (noted.clone(), acceptor.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let session = stream.get_ref().1;
            let agreed = session.alpn_protocol().unwrap_or_default();
            let agreed = String::from_utf8_lossy(agreed).into_owned();
            let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            let name = session.server_name().map(str::to_owned);
            noted.lock().unwrap().push((name, agreed.clone(), resumed));
            if agreed == "h2" {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok(exchange)) = connection.accept().await {
                    tokio::spawn(echo(exchange));
                }
                return;
            }
            let mut buffer = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut buffer).await {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.len());
                let answer = [head.as_bytes(), &request].concat();
                if stream.write_all(&answer).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
                if request.starts_with(b"GET /close ") {
                    let _ = stream.shutdown().await;
                    return;
                }
            }
        }
    })
    .await;
    (endpoint, hellos)
}

fn manifests(annotations: &[(&str, &str)]) -> String {
    let prefixed: Vec<_> = annotations
        .iter()
        .map(|(name, value)| (format!("nginx.ingress.kubernetes.io/{name}"), *value))
        .collect();
    let lines: Vec<_> = prefixed.iter().map(|(key, value)| (&**key, *value)).collect();
    service("web", &["127.N.N.10"]) + &annotated("i", "a.com", "web", &lines)
}

#[tokio::test]
async fn https_endpoints_are_not_verified_and_told_no_name_by_default() {
    let net = Net::new();
    let signed = Authority::new().sign("anything.example");
    let mut config = server_config(&signed, None);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (_endpoint, hellos) = endpoint(net.addr(10, 9000), config).await;
    let world = World::start_in(net, &manifests(&[("backend-protocol", "HTTPS")]), &[]);
    for speaks in ALL {
        let mut client = Client::connect(&world, speaks, "a.com").await;
        // Larger than what the kernel and the library take at once, both ways.
        let large: Bytes = vec![b'x'; 3 << 20].into();
        let request = Request::post("http://a.com/p").body(Full::new(large)).unwrap();
        let answer = Answer::read(client.send(request).await.unwrap()).await;
        assert_eq!(answer.status, 200, "{speaks:?}");
        assert!(answer.body.len() > 3 << 20, "{speaks:?}");
        assert!(answer.body.starts_with("POST /p HTTP/1.1\r\nhost: a.com\r\n"), "{speaks:?}");
        assert_eq!(client.get("a.com", "/").await.status, 200, "{speaks:?}");
    }
    for (name, agreed, _) in &*hellos.lock().unwrap() {
        assert_eq!((name.as_deref(), &**agreed), (None, "http/1.1"));
    }
    // The Service can say the same.
    let service =
        manifests(&[]).replace("targetPort: 9000", "targetPort: 9000, appProtocol: https");
    world.replace(&service);
    assert_eq!(get(&world, Speaks::Http1, "a.com", "/").await.status, 200);
}

#[tokio::test]
async fn sessions_with_endpoints_are_resumed() {
    let net = Net::new();
    let signed = Authority::new().sign("a.com");
    let (_endpoint, hellos) = endpoint(net.addr(10, 9000), server_config(&signed, None)).await;
    let annotations = [("backend-protocol", "HTTPS")];
    let world = World::start_in(net, &manifests(&annotations), &["--workers", "1"]);
    let mut client = Client::connect(&world, Speaks::Http1, "a.com").await;
    for _ in 0..4 {
        assert_eq!(client.get("a.com", "/close").await.status, 200);
    }
    let resumed: Vec<_> = hellos.lock().unwrap().iter().map(|hello| hello.2).collect();
    assert_eq!(resumed, [false, true, true, true]);
}

/// Each row: annotations besides HTTPS and the Secret, the certificate's name, whether it is by the
/// right authority, the status, and the name that the endpoint is told.
#[tokio::test]
async fn certificates_are_verified_if_an_annotation_asks_for_it() {
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, bool, u16, Option<&'a str>);
    let verify = ("proxy-ssl-verify", "on");
    let tell = ("proxy-ssl-server-name", "on");
    let name = ("proxy-ssl-name", "in.example");
    let table: [Row<'_>; 8] = [
        (&[], "other.example", false, 200, None),
        (&[verify], "a.com", true, 200, None),
        (&[verify], "a.com", false, 502, None),
        (&[verify], "other.example", true, 502, None),
        (&[verify, name], "in.example", true, 200, None),
        (&[verify, name], "a.com", true, 502, None),
        (&[verify, name, tell], "in.example", true, 200, Some("in.example")),
        (&[tell], "other.example", false, 200, Some("a.com")),
    ];
    let net = Net::new();
    let (good, bad) = (Authority::new(), Authority::new());
    let secret = opaque("tls", &[("ca.crt", &good.certificate)]);
    let world = World::start_in(net, &secret, &[]);
    for (at, (annotations, certificate, is_good, status, told)) in table.iter().enumerate() {
        let signed = if *is_good { good.sign(certificate) } else { bad.sign(certificate) };
        let last = 10 + u8::try_from(at).unwrap();
        let config = server_config(&signed, None);
        let (_endpoint, hellos) = endpoint(net.addr(last, 9000), config).await;
        let mut all = vec![("backend-protocol", "HTTPS"), ("proxy-ssl-secret", "default/tls")];
        all.extend(*annotations);
        let address = format!("127.N.N.{last}");
        world.replace(&(secret.clone() + &manifests(&all).replace("127.N.N.10", &address)));
        eventually("the new endpoint is asked", || async {
            let answer = get(&world, Speaks::Http1, "a.com", "/").await;
            let asked = world.ingress.admin_get("/snapshot").1.contains(&net.fill(&address));
            // A new endpoint is there a moment before the route's new annotations.
            let is_new =
                hellos.lock().unwrap().last().is_none_or(|hello| hello.0.as_deref() == *told);
            (asked && is_new && answer.status == *status).then_some(())
        })
        .await;
        if let Some(hello) = hellos.lock().unwrap().last() {
            assert_eq!(hello.0.as_deref(), *told, "{at}");
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_asks_for_a_certificate_gets_that_of_the_secret() {
    let net = Net::new();
    let authority = Authority::new();
    let (server, client) = (authority.sign("a.com"), authority.sign("switchyard"));
    let config = server_config(&server, Some(&authority));
    let (_endpoint, _) = endpoint(net.addr(10, 9000), config).await;
    let annotations = [("backend-protocol", "HTTPS"), ("proxy-ssl-secret", "default/tls")];
    let ca_only = opaque("tls", &[("ca.crt", &authority.certificate)]);
    let whole = [
        ("ca.crt", &*authority.certificate),
        ("tls.crt", &client.certificate),
        ("tls.key", &client.key),
    ];
    let world = World::start_in(net, &(ca_only + &manifests(&annotations)), &[]);
    assert_eq!(get(&world, Speaks::Http1, "a.com", "/").await.status, 502, "it has none");
    world.replace(&(opaque("tls", &whole) + &manifests(&annotations)));
    eventually("the new Secret is used", || async {
        (get(&world, Speaks::Http1, "a.com", "/").await.status == 200).then_some(())
    })
    .await;
}

/// What cannot be verified as asked is not served, until it can be.
#[tokio::test]
async fn routes_whose_endpoints_cannot_be_verified_as_asked_answer_503() {
    let net = Net::new();
    let authority = Authority::new();
    let config = server_config(&authority.sign("a.com"), None);
    let (_endpoint, _) = endpoint(net.addr(10, 9000), config).await;
    let world = World::start_in(net, "", &[]);
    let with = |secret: &'static str| {
        manifests(&[
            ("backend-protocol", "HTTPS"),
            ("proxy-ssl-verify", "on"),
            ("proxy-ssl-secret", secret),
        ])
    };
    let without_secret = manifests(&[("backend-protocol", "HTTPS"), ("proxy-ssl-verify", "on")]);
    let no_ca = opaque("tls", &[("other", "x")]) + &with("default/tls");
    let table = [
        (without_secret, "proxy-ssl-verify needs proxy-ssl-secret"),
        (with("tls"), "Secret default/tls does not exist"),
        (with("other/tls"), "other/tls is in another namespace"),
        (no_ca, "Secret default/tls has no ca.crt"),
    ];
    for (yaml, problem) in table {
        world.replace(&yaml);
        eventually(problem, || async {
            world.problems().iter().any(|found| found.contains(problem)).then_some(())
        })
        .await;
        assert_eq!(get(&world, Speaks::Http1, "a.com", "/").await.status, 503, "{problem}");
    }
    world.replace(&(opaque("tls", &[("ca.crt", &authority.certificate)]) + &with("tls")));
    eventually("the Secret is there", || async {
        (get(&world, Speaks::Http1, "a.com", "/").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn grpc_over_tls_and_the_scheme_of_the_client() {
    let net = Net::new();
    let signed = Authority::new().sign("a.com");
    let mut config = server_config(&signed, None);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (_endpoint, hellos) = endpoint(net.addr(10, 9000), config).await;
    let world = World::start_in(net, &manifests(&[("backend-protocol", "GRPCS")]), &[]);
    for speaks in ALL {
        let answer = get(&world, speaks, "a.com", "/x").await;
        assert_eq!(answer.status, 200, "{speaks:?}: {answer:?}");
        assert!(answer.body.starts_with("GET https://a.com/x HTTP/2.0\n"), "{answer:?}");
    }
    assert!(hellos.lock().unwrap().iter().all(|hello| hello.1 == "h2"));
    // The same endpoint gets TLS from clients that use it, and plain bytes from others.
    world.replace(&manifests(&[("backend-protocol", "AUTO_HTTP")]));
    eventually("HTTP/1.1 over TLS", || async {
        let answer = get(&world, Speaks::Http1OverTls, "a.com", "/").await;
        answer.body.starts_with("GET / HTTP/1.1\r\n").then_some(())
    })
    .await;
    assert_eq!(get(&world, Speaks::Http1, "a.com", "/").await.status, 502);
}
