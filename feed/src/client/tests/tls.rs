//! The client over TLS: HTTP/2 and HTTP/1.1, trust, tokens, and a peer that freezes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::fake::Fake;
use super::faults::{PATIENCE, RECOVERY, World};
use super::*;

/// A TLS end in front of a fake server, behind a relay that can be paused.
struct Front {
    url: Uri,
    ca_file: PathBuf,
    connections: Arc<AtomicUsize>,
    paused: Arc<AtomicBool>,
    _folder: TempDir,
}

impl Front {
    async fn new(fake: &Fake, alpn: &[&[u8]]) -> Front {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = listener.local_addr().unwrap();
        tokio::spawn(accept_tls(listener, Arc::new(config).into(), fake.address));
        let (connections, paused) = (Arc::default(), Arc::default());
        let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = relay.local_addr().unwrap().port();
        tokio::spawn(accept_relay(relay, behind, Arc::clone(&connections), Arc::clone(&paused)));
        let folder = TempDir::new().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, made.cert.pem()).unwrap();
        let url = format!("https://localhost:{port}").parse().unwrap();
        Front { url, ca_file, connections, paused, _folder: folder }
    }

    fn config(&self) -> ApiConfig {
        ApiConfig {
            token_file: None,
            ca_file: Some(self.ca_file.clone()),
            allow_local_endpoints: false,
            stale_after: Duration::from_secs(300),
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn accept_tls(listener: TcpListener, acceptor: TlsAcceptor, fake: std::net::SocketAddr) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                let mut plain = TcpStream::connect(fake).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut plain).await;
                return;
            }
            let service = service_fn(move |request| forward(request, fake));
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Passes a request on to the fake server, on a connection of its own.
async fn forward(
    request: Request<Incoming>,
    fake: std::net::SocketAddr,
) -> Result<Response<Incoming>, hyper::Error> {
    let stream = TcpStream::connect(fake).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut onwards = Request::get(request.uri().path_and_query().unwrap().as_str())
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    *onwards.headers_mut() = request.headers().clone();
    onwards.headers_mut().insert("host", "fake".parse().unwrap());
    sender.send_request(onwards).await
}

async fn accept_relay(
    listener: TcpListener,
    behind: std::net::SocketAddr,
    connections: Arc<AtomicUsize>,
    paused: Arc<AtomicBool>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.fetch_add(1, Ordering::Relaxed);
        let onwards = TcpStream::connect(behind).await.unwrap();
        let (from, to) = (stream.into_split(), onwards.into_split());
        tokio::spawn(relay(from.0, to.1, paused.clone()));
        tokio::spawn(relay(to.0, from.1, paused.clone()));
    }
}

async fn relay(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    paused: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer).await {
        while paused.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn start(patience: &Patience, alpn: &[&[u8]]) -> (World, Front) {
    let fake = Fake::start().await;
    fake.put("first");
    let front = Front::new(&fake, alpn).await;
    let world = World::follow_url(fake, &front.url, patience, &front.config());
    world.in_sync(PATIENCE).await;
    (world, front)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_share_one_http2_connection() {
    let (world, front) = start(&Patience::default(), &[b"h2", b"http/1.1"]).await;
    assert_eq!(front.connections(), 1);
    world.fake.put("second");
    world.in_sync(RECOVERY).await;
    world.fake.delete("first");
    world.in_sync(RECOVERY).await;
    assert_eq!(front.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_http1_only_is_followed_too() {
    let (world, front) = start(&Patience::default(), &[]).await;
    assert_eq!(front.connections(), 3, "one a kind");
    world.fake.put("second");
    world.in_sync(RECOVERY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ping_finds_a_frozen_peer() {
    // Nothing else would find it within a test's patience.
    let patience = Patience {
        ping: Duration::from_millis(100),
        response: Duration::from_millis(500),
        ..Patience::default()
    };
    let (world, front) = start(&patience, &[b"h2"]).await;
    front.paused.store(true, Ordering::Relaxed);
    world.until("lost", |world| world.page()["connected"] == false).await;
    world.fake.put_untold(&["second"], &["first"]);
    assert_eq!(world.here().len(), 1, "it is still served");
    front.paused.store(false, Ordering::Relaxed);
    world.in_sync(RECOVERY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_trusted_is_told_nothing() {
    let fake = Fake::start().await;
    fake.put("first");
    let (front, other) = (Front::new(&fake, &[b"h2"]).await, Front::new(&fake, &[b"h2"]).await);
    let world = World::follow_url(fake, &front.url, &Patience::default(), &other.config());
    world
        .until("refused", |world| {
            let reasons = world.daemon.readiness.reasons();
            reasons.iter().all(|reason| reason.contains("invalid peer certificate"))
        })
        .await;
    assert_eq!(world.updates(), 0);
    assert_eq!(world.requests(""), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_goes_with_every_request() {
    let fake = Fake::start().await;
    fake.state().token = Some("right".into());
    fake.put("first");
    let front = Front::new(&fake, &[b"h2"]).await;
    let token_file = front.ca_file.with_file_name("token");
    std::fs::write(&token_file, "right").unwrap();
    let config = ApiConfig { token_file: Some(token_file), ..front.config() };
    let world = World::follow_url(fake, &front.url, &Patience::default(), &config);
    world.in_sync(PATIENCE).await;
}
