//! Certificates by the server name of a client, replaced while they are used, and invalid hellos.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::kit::{
    Client, Endpoint, Speaks, World, client_config, connect_tls, eventually, get, handshake,
    ingress, secret, service,
};
use crate::support::Net;

/// A certificate and its key, both PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn new(names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Pair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    fn rsa(names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }

    fn secret(&self, name: &str) -> String {
        secret(name, &self.certificate, &self.key)
    }
}

/// An Ingress for these hosts with one TLS entry for all of them.
fn with_tls(name: &str, hosts: &[&str], secret: &str) -> String {
    let rules: Vec<_> = hosts.iter().map(|host| (*host, "Prefix", "/", "web")).collect();
    let hosts: Vec<_> = hosts.iter().map(|host| format!("'{host}'")).collect();
    let hosts = hosts.join(", ");
    ingress(name, &rules) + &format!("  tls: [{{hosts: [{hosts}], secretName: {secret}}}]\n")
}

/// Whether this certificate is served for `host`.
async fn serves(world: &World, host: &str, pair: &Pair) -> bool {
    let config = Arc::new(client_config(Some(&pair.der())));
    handshake(world.https, host, config).await.is_ok()
}

async fn web(net: Net) -> (String, Endpoint) {
    let endpoint = Endpoint::echo(net.addr(10, 9000), "web").await;
    (service("web", &["127.N.N.10"]), endpoint)
}

#[tokio::test]
async fn certificates_by_name() {
    let net = Net::new();
    let (services, _endpoint) = web(net).await;
    let (exact, wild) = (Pair::new(&["a.example"]), Pair::new(&["*.w.example"]));
    let manifests = [
        services,
        exact.secret("exact"),
        wild.secret("wild"),
        with_tls("exact", &["a.example"], "exact"),
        with_tls("wild", &["*.w.example"], "wild"),
        with_tls("lost", &["lost.example"], "nowhere"),
    ];
    let world = World::start_in(net, &manifests.concat(), &[]);
    assert!(serves(&world, "a.example", &exact).await);
    assert!(serves(&world, "x.w.example", &wild).await);
    for host in ["lost.example", "unknown.example", "y.x.w.example"] {
        assert!(!serves(&world, host, &exact).await && !serves(&world, host, &wild).await);
        assert!(connect_tls(world.https, host, &[]).await.is_ok(), "self-signed for {host}");
    }
    assert_eq!(get(&world, Speaks::Http2OverTls, "lost.example", "/").await.name(), "web");
    assert_eq!(get(&world, Speaks::Http1OverTls, "x.w.example", "/").await.name(), "web");
    assert_eq!(get(&world, Speaks::Http1, "a.example", "/").await.name(), "web", "plain HTTP too");
    let expected = "default/lost: TLS for lost.example: Secret default/nowhere does not exist";
    assert_eq!(world.problems(), [expected]);
    let snapshot = world.ingress.admin_get("/snapshot").1;
    assert!(snapshot.contains("\"notAfterUnix\"") && snapshot.contains("*.w.example"));
    assert!(!snapshot.contains("PRIVATE"), "{snapshot}");
}

#[tokio::test]
async fn certificates_are_swapped_under_open_connections() {
    let net = Net::new();
    let (services, _endpoint) = web(net).await;
    let (old, new) = (Pair::new(&["a.example"]), Pair::new(&["a.example"]));
    let base = services + &with_tls("i", &["a.example"], "cert");
    let world = World::start_in(net, &(base.clone() + &old.secret("cert")), &[]);
    assert!(serves(&world, "a.example", &old).await);
    let mut open = Client::connect(&world, Speaks::Http2OverTls, "a.example").await;
    assert_eq!(open.get("a.example", "/").await.name(), "web");

    world.replace(&(base.clone() + &new.secret("cert")));
    eventually("the new certificate", || async {
        serves(&world, "a.example", &new).await.then_some(())
    })
    .await;
    assert!(!serves(&world, "a.example", &old).await);
    assert_eq!(open.get("a.example", "/").await.name(), "web", "the open connection goes on");

    // With a key of another certificate, or without any, the last good certificate stays.
    for broken in [secret("cert", &new.certificate, &old.key), secret("cert", "garbage", "")] {
        world.replace(&(base.clone() + &broken));
        eventually("the problem", || async {
            world.problems().first()?.contains("Secret default/cert: ").then_some(())
        })
        .await;
        assert!(serves(&world, "a.example", &new).await);
        world.replace(&(base.clone() + &new.secret("cert")));
        eventually("no problem", || async { world.problems().is_empty().then_some(()) }).await;
    }
    world.replace(&base);
    eventually("the self-signed certificate", || async {
        (!serves(&world, "a.example", &new).await).then_some(())
    })
    .await;
    assert_eq!(get(&world, Speaks::Http2OverTls, "a.example", "/").await.name(), "web");
}

#[tokio::test]
async fn a_host_with_another_certificate_is_misdirected() {
    let net = Net::new();
    let (services, _endpoint) = web(net).await;
    let (one, two) = (Pair::new(&["a.example", "b.example"]), Pair::new(&["c.example"]));
    let manifests = [
        services,
        one.secret("one"),
        two.secret("two"),
        with_tls("one", &["a.example", "b.example"], "one"),
        with_tls("two", &["c.example"], "two"),
    ];
    let world = World::start_in(net, &manifests.concat(), &[]);
    for speaks in [Speaks::Http1OverTls, Speaks::Http2OverTls] {
        let mut client = Client::connect(&world, speaks, "a.example").await;
        let table =
            [("a.example", 200), ("b.example", 200), ("c.example", 421), ("A.Example", 200)];
        for (host, status) in table {
            assert_eq!(client.get(host, "/").await.status, status, "{speaks:?} {host}");
        }
    }
}

/// 421 asks a browser to try another connection, which finds no route either.
#[tokio::test]
async fn two_secrets_with_one_certificate_and_unknown_hosts_are_not_misdirected() {
    let net = Net::new();
    let (services, _endpoint) = web(net).await;
    let pair = Pair::new(&["a.example", "b.example"]);
    let manifests = [
        services,
        pair.secret("one"),
        pair.secret("two"),
        with_tls("one", &["a.example"], "one"),
        with_tls("two", &["b.example"], "two"),
        ingress("plain", &[("plain.example", "Prefix", "/", "web")]),
    ];
    let world = World::start_in(net, &manifests.concat(), &[]);
    for speaks in [Speaks::Http1OverTls, Speaks::Http2OverTls] {
        let mut client = Client::connect(&world, speaks, "a.example").await;
        let table = [
            ("b.example", 200),
            ("B.Example.", 200),
            ("plain.example", 421),
            ("nowhere.example", 404),
        ];
        for (host, status) in table {
            assert_eq!(client.get(host, "/").await.status, status, "{speaks:?} {host}");
        }
    }
}

/// RFC 6066 allows no trailing dot in a server name, but some clients send it. TLS libraries do not
/// send one, so the test changes the hello in transit; over TLS 1.2 the certificate is sent in
/// plain text, before the handshake fails.
#[tokio::test]
async fn a_server_name_with_a_trailing_dot_gets_its_certificate() {
    let net = Net::new();
    let (services, _endpoint) = web(net).await;
    let pair = Pair::new(&["t.test"]);
    let manifests = services + &pair.secret("s") + &with_tls("i", &["t.test"], "s");
    let world = World::start_in(net, &manifests, &[]);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    for name in ["t.test.", "T.Test."] {
        let stand_in = "t.test0".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config.clone()), stand_in).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let at = hello.windows(7).position(|window| window == b"t.test0").unwrap();
        hello[at..at + 7].copy_from_slice(name.as_bytes());
        let mut stream = TcpStream::connect(world.https).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        let der = pair.der();
        let mut answer = Vec::new();
        let read = async {
            while !answer.windows(der.len()).any(|window| window == &*der) {
                assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{name}: {answer:?}");
            }
        };
        tokio::time::timeout(crate::support::PATIENCE, read).await.expect(name);
    }
}

#[tokio::test]
async fn versions_are_agreed_on_and_sessions_resumed_at_any_worker() {
    let net = Net::new();
    let (services, _endpoint) = web(net).await;
    let pair = Pair::new(&["a.example"]);
    let manifests = services + &pair.secret("s") + &with_tls("i", &["a.example"], "s");
    let world = World::start_in(net, &manifests, &["--workers", "4"]);
    let table: [(&[&str], Option<&str>); 3] =
        [(&["h2", "http/1.1"], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)];
    for (offered, agreed) in table {
        let stream = connect_tls(world.https, "a.example", offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed.map(str::as_bytes));
    }
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(pair.der()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = Arc::new(config);
        let mut resumed = 0;
        for _ in 0..10 {
            let stream = handshake(world.https, "a.example", config.clone()).await.unwrap();
            // The ticket comes with the first response.
            let kind = stream.get_ref().1.handshake_kind();
            resumed += usize::from(kind == Some(rustls::HandshakeKind::Resumed));
            let mut client = Client::http1(stream).await;
            assert_eq!(client.get("a.example", "/").await.name(), "web");
        }
        assert_eq!(resumed, 9, "{version:?}");
    }
}

/// A client of one version of TLS that can only verify signatures of these kinds of key.
fn client_with(
    version: &'static rustls::SupportedProtocolVersion,
    kinds: &[&str],
    trusted: [&Pair; 2],
) -> Arc<rustls::ClientConfig> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let is_of = |name: &str| kinds.iter().any(|kind| name.contains(kind));
    provider.cipher_suites.retain(|suite| {
        let name = suite.suite().as_str().unwrap();
        name.starts_with("TLS13_") || is_of(name)
    });
    let schemes = provider.signature_verification_algorithms.mapping.iter();
    let schemes = schemes.filter(|(scheme, _)| is_of(scheme.as_str().unwrap()));
    let schemes: Vec<_> = schemes.copied().collect();
    provider.signature_verification_algorithms.mapping = Box::leak(schemes.into_boxed_slice());
    let mut roots = rustls::RootCertStore::empty();
    for pair in trusted {
        roots.add(pair.der()).unwrap();
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[tokio::test]
async fn a_host_has_an_rsa_and_an_ecdsa_certificate() {
    let net = Net::new();
    let (services, _endpoint) = web(net).await;
    let (ecdsa, rsa) = (Pair::new(&["a.example"]), Pair::rsa(&["a.example"]));
    let third = Pair::new(&["a.example"]);
    let secrets = ecdsa.secret("ecdsa") + &rsa.secret("rsa") + &third.secret("third");
    let of = |names: [&str; 2]| {
        let [first, second] =
            names.map(|name| format!("{{hosts: [a.example], secretName: {name}}}"));
        let rules = ingress("i", &[("a.example", "Prefix", "/", "web")]);
        services.clone() + &secrets + &rules + &format!("  tls: [{first}, {second}]\n")
    };
    let world = World::start_in(net, &of(["ecdsa", "rsa"]), &[]);
    let shown = async |version, kinds: &[&str]| {
        let config = client_with(version, kinds, [&ecdsa, &rsa]);
        let stream = handshake(world.https, "a.example", config).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        match shown {
            shown if shown == ecdsa.der() => "ecdsa",
            shown if shown == rsa.der() => "rsa",
            _ => "another",
        }
    };
    for names in [["ecdsa", "rsa"], ["rsa", "ecdsa"]] {
        world.replace(&of(names));
        eventually("both", || {
            let both = world.ingress.admin_get("/snapshot").1;
            let is_there = names.iter().all(|name| both.contains(&format!("default/{name}")));
            async move { is_there.then_some(()) }
        })
        .await;
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            for (kinds, expected) in
                [(&["ECDSA", "RSA"][..], "ecdsa"), (&["ECDSA"], "ecdsa"), (&["RSA"], "rsa")]
            {
                assert_eq!(shown(version, kinds).await, expected, "{names:?} {kinds:?}");
            }
        }
        assert_eq!(world.problems(), Vec::<String>::new());
    }
    // Two of one kind: the first one is served.
    world.replace(&of(["ecdsa", "third"]));
    eventually("the problem", || {
        let problems = world.problems().join("\n");
        async move { problems.contains("names another Secret").then_some(()) }
    })
    .await;
    assert_eq!(shown(&rustls::version::TLS13, &["ECDSA"]).await, "ecdsa");
}

#[tokio::test]
async fn flags_choose_versions_and_cipher_suites() {
    let pair = Pair::new(&["a.example"]);
    let tls = [&rustls::version::TLS12, &rustls::version::TLS13];
    for (flags, expected) in [
        (&["--tls-min-version", "1.3"][..], [None, Some("TLS13_")]),
        (&["--tls-ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384"], [Some("_AES_256_"), None]),
        (
            &["--tls-ciphers", "TLS_CHACHA20_POLY1305_SHA256,ECDHE-ECDSA-AES128-GCM-SHA256"],
            [Some("_AES_128_"), Some("_CHACHA20_")],
        ),
    ] {
        let net = Net::new();
        let (services, _endpoint) = web(net).await;
        let manifests = services + &pair.secret("s") + &with_tls("i", &["a.example"], "s");
        let world = World::start_in(net, &manifests, flags);
        for (version, expected) in tls.into_iter().zip(expected) {
            let config = client_with(version, &["ECDSA", "RSA"], [&pair, &pair]);
            let stream = handshake(world.https, "a.example", config).await;
            let suite = stream.ok().map(|stream| {
                let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap();
                suite.suite().as_str().unwrap().to_owned()
            });
            match (&suite, expected) {
                (Some(suite), Some(part)) => assert!(suite.contains(part), "{flags:?} {suite}"),
                (suite, expected) => assert_eq!(suite.is_some(), expected.is_some(), "{flags:?}"),
            }
        }
    }
}

#[tokio::test]
async fn what_is_no_hello_costs_only_its_own_connection() {
    let net = Net::new();
    let (services, _endpoint) = web(net).await;
    let manifests = services + &with_tls("i", &["a.example"], "none");
    let world = World::start_in(net, &manifests, &["--handshake-timeout", "2s"]);
    let mut open = Client::connect(&world, Speaks::Http2OverTls, "a.example").await;
    let hellos: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"\x16\x03\x01\xff\xff\x01\x00\x00\x00",
        b"\x16\x03\x01\x00\x05\x01\x00\xff\xff\xff",
        &[0; 600],
        b"\x16",
    ];
    for hello in hellos {
        let mut stream = TcpStream::connect(world.https).await.unwrap();
        let _ = stream.write_all(hello).await;
        let mut answer = Vec::new();
        let closed = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(crate::support::PATIENCE, closed).await.expect("closed");
    }
    assert_eq!(open.get("a.example", "/").await.name(), "web");
    assert_eq!(world.metric("switchyard_ingress_rejected_handshakes_total"), 5.0);
}
