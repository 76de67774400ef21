//! TLS settings of clients.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    #[error(
        "no root certificate was found on this system: install them (package ca-certificates) or \
         name a file with them in SSL_CERT_FILE"
    )]
    NoRoots,
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
}

/// The TLS settings, which trust the system's root certificates, or those of SSL_CERT_FILE.
/// Blocking: it reads files.
///
/// # Errors
///
/// When there are no root certificates.
pub fn system_tls() -> Result<Arc<ClientConfig>, TlsSetupError> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "cannot read root certificates");
    }
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(TlsSetupError::NoRoots);
    }
    Ok(tls_with(roots)?)
}

/// The TLS settings, which trust these root certificates.
///
/// # Errors
///
/// Never with the algorithms that are built in.
pub fn tls_with(roots: RootCertStore) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
