//! A certificate from a `kubernetes.io/tls` Secret, checked once so that no handshake can fail
//! over it: it parses, its key parses, and both belong together.

use std::fmt;
use std::sync::Arc;

use model::{ObjectName, Secret};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::route::HostKey;

/// A chain with its key, ready to be served.
pub(crate) struct Certificate {
    /// The Secret it came from; none for the self-signed one.
    pub(crate) secret: Option<ObjectName>,
    pub(crate) key: Arc<CertifiedKey>,
    /// The DNS names and addresses that it is for.
    pub(crate) names: Vec<String>,
    /// The end of its validity, seconds since 1970.
    pub(crate) not_after_unix: i64,
}

/// Why a Secret cannot be served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSecret {
    #[error("Secret {0} does not exist")]
    Missing(ObjectName),
    #[error("Secret {0} has no {1}")]
    NoEntry(ObjectName, &'static str),
    #[error("Secret {0}: {1} holds no PEM {2}")]
    NotPem(ObjectName, &'static str, &'static str),
    #[error("Secret {0}: {1}")]
    Unusable(ObjectName, String),
}

// Never the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({:?}, {:?})", self.secret, self.names)
    }
}

impl Certificate {
    /// The certificate of a Secret, by its entries `tls.crt` and `tls.key`.
    pub(crate) fn of(secret: &Secret, provider: &CryptoProvider) -> Result<Certificate, BadSecret> {
        let name = &secret.name;
        let entry = |entry: &'static str| {
            secret.data.get(entry).ok_or_else(|| BadSecret::NoEntry(name.clone(), entry))
        };
        let (chain, key) = (entry("tls.crt")?, entry("tls.key")?);
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .filter(|chain| !chain.is_empty())
            .ok_or_else(|| BadSecret::NotPem(name.clone(), "tls.crt", "certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| BadSecret::NotPem(name.clone(), "tls.key", "private key"))?;
        Certificate::from_parts(Some(name.clone()), chain, key, provider)
            .map_err(|reason| BadSecret::Unusable(name.clone(), reason))
    }

    /// A certificate of a chain and its key; the error says what does not fit.
    pub(crate) fn from_parts(
        secret: Option<ObjectName>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<Certificate, String> {
        let (names, not_after_unix) = describe(chain.first().ok_or("no certificate")?)?;
        // Also checks that key and certificate belong together.
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|e| e.to_string())?;
        Ok(Certificate { secret, key: Arc::new(key), names, not_after_unix })
    }

    /// Whether a client that asks for this host would accept the names of the certificate.
    pub(crate) fn covers(&self, host: &HostKey) -> bool {
        self.names.iter().any(|name| host.is_within(&HostKey::of(Some(&name.as_str().into()))))
    }
}

fn describe(der: &CertificateDer<'_>) -> Result<(Vec<String>, i64), String> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| "the certificate does not parse".to_owned())?;
    let names = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().filter_map(name_of).collect(),
        _ => Vec::new(),
    };
    Ok((names, certificate.validity().not_after.timestamp()))
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(dns) => Some(dns.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => Some(std::net::Ipv4Addr::from(v4).to_string()),
            Err(_) => {
                let v6 = <[u8; 16]>::try_from(*bytes).ok()?;
                Some(std::net::Ipv6Addr::from(v6).to_string())
            }
        },
        _ => None,
    }
}
