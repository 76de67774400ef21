//! Where an authentication server is: its name, and the addresses that it has at the moment.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::endpoint_tls::{EndpointTls, TlsSpec};
use crate::snapshot::Endpoint;
use crate::wire::{BackendProtocol, TlsWire, Wire};

/// How long addresses of a server's name are used before they are looked up again.
const LOOKED_UP_FOR: Duration = Duration::from_secs(10);

/// How long it is remembered that a name has no address.
const FAILED_FOR: Duration = Duration::from_secs(1);

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
    /// When the last look-up failed.
    failed: Option<Instant>,
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

    /// How many addresses are known.
    pub(crate) fn addresses(&self) -> usize {
        self.lock().endpoints.len()
    }

    /// The address whose turn it is. While addresses are looked up, and when that fails, those that
    /// were known before are used.
    pub(crate) async fn endpoint(&self) -> io::Result<Arc<Endpoint>> {
        {
            let mut known = self.lock();
            let is_within = |at: Option<Instant>, time| at.is_some_and(|at| at.elapsed() < time);
            if is_within(known.failed, FAILED_FOR) && known.endpoints.is_empty() {
                return Err(io::ErrorKind::NotFound.into());
            }
            if is_within(known.looked_up, LOOKED_UP_FOR)
                && let Some(endpoint) = known.next()
            {
                return Ok(endpoint);
            }
            // Others do not look up the same at the same time.
            known.looked_up = Some(Instant::now());
        }
        let found = tokio::net::lookup_host((&*self.host, self.port)).await;
        let mut known = self.lock();
        match found {
            Ok(addresses) => {
                let before = std::mem::take(&mut known.endpoints);
                let endpoint = |address| match before.iter().find(|e| e.address == address) {
                    Some(endpoint) => endpoint.clone(),
                    None => Arc::new(Endpoint::new(address, BackendProtocol::Http1)),
                };
                known.endpoints = addresses.map(endpoint).collect();
                known.failed = None;
            }
            Err(error) => {
                known.failed = Some(Instant::now());
                tracing::debug!(host = &*self.host, %error, "cannot look up");
            }
        }
        known.next().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn next(&mut self) -> Option<Arc<Endpoint>> {
        self.next = (self.next + 1) % self.endpoints.len().max(1);
        self.endpoints.get(self.next).cloned()
    }
}
