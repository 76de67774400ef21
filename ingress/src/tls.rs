//! TLS to clients: the certificate is chosen by the host that a client names, from the snapshot
//! that is served at that moment.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use daemon::Failure;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::snapshot::{Certificate, Snapshot};

/// The DNS name in the fallback certificate: one that no host can have (RFC 2606).
const FALLBACK_NAME: &str = "switchyard.invalid";

/// Its common name, which browsers and `openssl s_client` show.
const FALLBACK_COMMON_NAME: &str = "Switchyard fallback certificate";

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The certificate for hosts that have no other, new at each start.
pub(crate) fn self_signed(provider: &CryptoProvider) -> Result<Arc<Certificate>, Failure> {
    let failed = |error| Failure::failed("cannot make the self-signed certificate", error);
    let (certificate, key) = fallback().map_err(|error| failed(error.to_string()))?;
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    Certificate::from_parts(None, vec![certificate.into()], key.into(), provider)
        .map(Arc::new)
        .map_err(failed)
}

fn fallback() -> Result<(rcgen::Certificate, rcgen::KeyPair), rcgen::Error> {
    let mut params = rcgen::CertificateParams::new(vec![FALLBACK_NAME.to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "Switchyard");
    params.distinguished_name.push(rcgen::DnType::CommonName, FALLBACK_COMMON_NAME);
    let key = rcgen::KeyPair::generate()?;
    Ok((params.self_signed(&key)?, key))
}

/// What all workers answer TLS hellos with. They share the key of session tickets, which rotates
/// by itself, so that a client may resume at any of them.
pub(crate) fn server_config(
    provider: Arc<CryptoProvider>,
    snapshot: Arc<ArcSwap<Snapshot>>,
) -> Result<Arc<ServerConfig>, Failure> {
    let failed = |error| Failure::failed("cannot set up TLS", error);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(failed)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(BySnapshot(snapshot)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(failed)?;
    Ok(Arc::new(config))
}

/// Finds certificates in the snapshot of the moment.
struct BySnapshot(Arc<ArcSwap<Snapshot>>);

impl fmt::Debug for BySnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BySnapshot")
    }
}

impl ResolvesServerCert for BySnapshot {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(server_name);
        Some(self.0.load().certificate(name.as_deref()).key.clone())
    }
}

/// The host that a client names in its TLS hello, as rules spell hosts. RFC 6066 section 3 allows
/// no trailing dot there, but some clients send it.
pub(crate) fn server_name(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    #[test]
    fn the_fallback_certificate_names_switchyard() {
        let made = self_signed(&provider()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&made.key.cert[0]).unwrap();
        let names = certificate.subject().to_string();
        assert_eq!(names, "O=Switchyard, CN=Switchyard fallback certificate");
        assert_eq!(made.names, [FALLBACK_NAME]);
    }

    #[test]
    fn a_server_name_is_spelled_as_rules_spell_hosts() {
        for name in ["t.test", "t.test.", "T.Test", "T.TEST."] {
            assert_eq!(server_name(name), "t.test", "{name}");
        }
    }
}
