//! A certificate from a `kubernetes.io/tls` Secret, checked once so that no handshake can fail
//! because of it: certificate and key can be parsed, and belong together.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use model::{ObjectName, Secret};
use rustls::SignatureAlgorithm;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use crate::route::{HostKey, name_covers};

/// A chain with its key, ready to be served.
pub(crate) struct Certificate {
    /// The Secret it came from; none for the self-signed one.
    pub(crate) secret: Option<ObjectName>,
    pub(crate) key: Arc<CertifiedKey>,
    /// The DNS names and addresses that it is for, or its common name when it has none.
    pub(crate) names: Vec<String>,
    /// Whether the names are subject alternative names, the only ones that browsers look at.
    pub(crate) has_alt_names: bool,
    /// Its validity, in seconds since 1970.
    pub(crate) not_before_unix: i64,
    pub(crate) not_after_unix: i64,
}

/// Why a Secret cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSecret {
    #[error("Secret {0} does not exist")]
    Missing(ObjectName),
    #[error("Secret {0} has no {1}")]
    NoEntry(ObjectName, &'static str),
    #[error("Secret {0}: {1} contains no PEM {2}")]
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
    ///
    /// The certificate itself is only sent, never verified here, so one that rustls would not
    /// accept from a peer is served too: version 1, or without names.
    pub(crate) fn from_parts(
        secret: Option<ObjectName>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        provider: &CryptoProvider,
    ) -> Result<Certificate, String> {
        let first = chain.first().ok_or("no certificate")?;
        let (_, parsed) = X509Certificate::from_der(first)
            .map_err(|_| "the certificate in tls.crt cannot be parsed".to_owned())?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|_| "the type of the private key in tls.key is not supported".to_owned())?;
        let public = key.public_key().ok_or("the private key in tls.key has no public key")?;
        if *public != *parsed.tbs_certificate.subject_pki.raw {
            return Err("the private key in tls.key does not belong to the certificate in \
                        tls.crt"
                .to_owned());
        }
        let (names, has_alt_names) = names_of(&parsed);
        let validity = parsed.validity();
        let (not_before_unix, not_after_unix) =
            (validity.not_before.timestamp(), validity.not_after.timestamp());
        let key = Arc::new(CertifiedKey::new(chain, key));
        Ok(Certificate { secret, key, names, has_alt_names, not_before_unix, not_after_unix })
    }

    /// Whether its key is an RSA key.
    pub(crate) fn is_rsa(&self) -> bool {
        self.key.key.algorithm() == SignatureAlgorithm::RSA
    }

    /// Whether the names of the certificate are for this host (RFC 9525 section 6.3).
    pub(crate) fn covers(&self, host: &HostKey) -> bool {
        match host {
            HostKey::Any => true,
            HostKey::Exact(host) => self.covers_host(host),
            // A wildcard host is covered by the same wildcard only.
            HostKey::Wildcard(above) => {
                self.names.iter().any(|name| name.strip_prefix("*.") == Some(above))
            }
        }
    }

    /// Whether a client would accept the certificate for this host of a request.
    pub(crate) fn covers_host(&self, host: &str) -> bool {
        self.names.iter().any(|name| name_covers(name, host))
    }
}

/// A time in seconds since 1970, for people.
pub(super) fn date(unix: i64) -> String {
    ASN1Time::from_timestamp(unix).map_or_else(|_| unix.to_string(), |time| time.to_string())
}

/// The names that the certificate is for, and whether they are its subject's alternative names. A
/// certificate without any is for its common name, as nginx and OpenSSL take it.
fn names_of(certificate: &X509Certificate<'_>) -> (Vec<String>, bool) {
    let names: Vec<_> = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().filter_map(name_of).collect(),
        _ => Vec::new(),
    };
    if !names.is_empty() {
        return (names, true);
    }
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    (common.map(spelled).collect(), false)
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(dns) => Some(spelled(dns)),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(v4) => Some(Ipv4Addr::from(v4).to_string()),
            Err(_) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
        },
        _ => None,
    }
}

/// A name as hosts are spelled: lower case, no trailing dot.
fn spelled(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
