//! Where an authentication server is: its name, and the addresses that it has at the moment.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::endpoint_tls::{EndpointTls, TlsSpec};
use crate::snapshot::Endpoint;
use crate::wire::{BackendProtocol, TlsWire, Wire};

/// How long addresses of a server's name are used before they are looked up again.
const LOOKED_UP_FOR: Duration = Duration::from_secs(10);

/// An authentication server.
#[derive(Debug)]
pub(crate) struct AuthServer {
    pub(crate) host: Box<str>,
    port: u16,
    pub(crate) wire: Wire,
    known: Mutex<Known>,
}

/// The addresses of a server's name.
#[derive(Debug, Default)]
struct Known {
    endpoints: Vec<Arc<Endpoint>>,
    next: usize,
    looked_up: Option<Instant>,
}

impl AuthServer {
    pub(crate) fn new(is_https: bool, host: &str, port: u16) -> Result<AuthServer, String> {
        let tls = match is_https {
            false => None,
            true => {
                let spec = TlsSpec { tells_name: true, ..TlsSpec::default() };
                let settings = Arc::new(EndpointTls::new(spec, None)?);
                Some(Arc::new(TlsWire { settings, name: Some(host.into()) }))
            }
        };
        let wire = Wire { is_http2: false, tls };
        Ok(AuthServer { host: host.into(), port, wire, known: Mutex::default() })
    }

    /// Whether it is at that place.
    pub(crate) fn is_at(&self, is_https: bool, host: &str, port: u16) -> bool {
        self.wire.tls.is_some() == is_https && *self.host == *host && self.port == port
    }

    /// The address whose turn it is.
    pub(crate) async fn endpoint(&self) -> io::Result<Arc<Endpoint>> {
        if let Some(endpoint) = self.next(|known| {
            known.looked_up.is_some_and(|looked_up| looked_up.elapsed() < LOOKED_UP_FOR)
        }) {
            return Ok(endpoint);
        }
        let addresses: Vec<_> = tokio::net::lookup_host((&*self.host, self.port)).await?.collect();
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::take(&mut known.endpoints);
            let endpoint = |address| match before.iter().find(|e| e.address == address) {
                Some(endpoint) => endpoint.clone(),
                None => Arc::new(Endpoint::new(address, BackendProtocol::Http1)),
            };
            known.endpoints = addresses.into_iter().map(endpoint).collect();
            known.looked_up = Some(Instant::now());
        }
        self.next(|_| true).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn next(&self, is_fresh: impl Fn(&Known) -> bool) -> Option<Arc<Endpoint>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.endpoints.is_empty() || !is_fresh(&known) {
            return None;
        }
        known.next = (known.next + 1) % known.endpoints.len();
        Some(known.endpoints[known.next].clone())
    }
}
