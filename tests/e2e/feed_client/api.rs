//! An API server with a fixed set of objects, for tests: blocking, over TCP or TLS. It answers
//! streaming lists and keeps their watches open until it is dropped.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Who may read.
#[derive(Clone, Debug)]
pub enum Access {
    Everybody,
    /// Everybody, except for the list whose path ends with this.
    Without(&'static str),
    /// The bearer of this token.
    Token(String),
    /// The holder of a certificate by the CA.
    Certificate,
}

/// A certificate authority and what it signed, as PEM.
pub struct Pki {
    pub ca: String,
    pub server: (String, String),
    pub client: (String, String),
}

impl Pki {
    /// For a server on that address.
    pub fn new(address: SocketAddr) -> Pki {
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let sign = |name: String| {
            let params = rcgen::CertificateParams::new(vec![name]).unwrap();
            let key = rcgen::KeyPair::generate().unwrap();
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let (server, client) = (sign(address.ip().to_string()), sign("reader".to_owned()));
        Pki { ca: ca_pem, server, client }
    }
}

pub struct Api {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    access: Access,
    tls: Option<Arc<ServerConfig>>,
    /// JSON objects by the end of their list's path.
    objects: Vec<(&'static str, String)>,
    open: Mutex<Option<Vec<TcpStream>>>,
    lists: AtomicUsize,
    targets: Mutex<Vec<String>>,
}

impl Api {
    /// Serves these objects, `services` and the like first.
    pub fn start(
        address: SocketAddr,
        access: Access,
        pki: Option<&Pki>,
        objects: Vec<(&'static str, String)>,
    ) -> Api {
        let listener = TcpListener::bind(address).unwrap();
        let tls = pki.map(|pki| tls(pki, &access));
        let open = Mutex::new(Some(Vec::new()));
        let (lists, targets) = (AtomicUsize::new(0), Mutex::default());
        let shared = Arc::new(Shared { access, tls, objects, open, lists, targets });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let Some(open) = &mut *serving.open.lock().unwrap() else { return };
                open.push(stream.try_clone().unwrap());
                let shared = serving.clone();
                std::thread::spawn(move || shared.connection(stream));
            }
        });
        Api { address, shared }
    }

    /// Streaming lists that were asked for.
    pub fn lists(&self) -> usize {
        self.shared.lists.load(Ordering::Relaxed)
    }

    /// Paths and queries that were asked for.
    pub fn targets(&self) -> Vec<String> {
        self.shared.targets.lock().unwrap().clone()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let open = self.shared.open.lock().unwrap().take();
        for stream in open.into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the listener, so that the address is free.
        let _ = TcpStream::connect(self.address);
    }
}

fn tls(pki: &Pki, access: &Access) -> Arc<ServerConfig> {
    let certificate = |pem: &str| -> CertificateDer<'static> {
        rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap()
    };
    let key: PrivateKeyDer<'static> =
        rustls_pki_types::pem::PemObject::from_pem_slice(pki.server.1.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = if let Access::Certificate = access {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&pki.ca)).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    Arc::new(builder.with_single_cert(vec![certificate(&pki.server.0)], key).unwrap())
}

impl Shared {
    fn connection(&self, stream: TcpStream) {
        match &self.tls {
            None => self.serve(stream),
            Some(tls) => {
                let connection = ServerConnection::new(tls.clone()).unwrap();
                self.serve(StreamOwned::new(connection, stream));
            }
        }
    }

    /// Answers requests until the connection ends.
    fn serve(&self, mut stream: impl Read + Write) {
        while let Some(head) = request(&mut stream) {
            if stream.write_all(self.answer(&head).as_bytes()).is_err() || stream.flush().is_err() {
                return;
            }
        }
    }

    fn answer(&self, head: &str) -> String {
        let target = head.split(' ').nth(1).unwrap();
        self.targets.lock().unwrap().push(target.to_owned());
        let respond = |code: u16, body: &str| {
            let length = body.len();
            format!("HTTP/1.1 {code} X\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        if let Access::Token(token) = &self.access
            && !head.to_lowercase().contains(&format!("authorization: bearer {token}\r\n"))
        {
            return respond(401, r#"{"kind":"Status","message":"Unauthorized","code":401}"#);
        }
        let path = target.split('?').next().unwrap();
        if let Access::Without(list) = self.access
            && path.ends_with(list)
        {
            return respond(403, r#"{"kind":"Status","message":"nodes is forbidden","code":403}"#);
        }
        if path == "/version" {
            return respond(200, r#"{"gitVersion":"v1.36.2"}"#);
        }
        if !target.contains("watch=1") {
            return respond(200, r#"{"metadata":{"resourceVersion":"100"},"items":[]}"#);
        }
        let chunked = |text: &str| {
            let length = text.len();
            format!("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{text}\r\n")
        };
        if !target.contains("sendInitialEvents") {
            return chunked("{\"type\":\"ERROR\",\"object\":{\"code\":410}}\n");
        }
        self.lists.fetch_add(1, Ordering::Relaxed);
        let objects = self.objects.iter().filter(|(list, _)| path.ends_with(list));
        let mut lines: String = objects
            .map(|(_, object)| format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n"))
            .collect();
        lines += "{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"100\",\
                  \"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}\n";
        chunked(&lines)
    }
}

fn request(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    String::from_utf8(head).ok()
}
