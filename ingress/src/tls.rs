//! TLS to clients: the certificate is chosen by the host that a client names, from the snapshot
//! that is served at that moment.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use daemon::Failure;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};

use crate::client_handshake::TakesAny;
use crate::snapshot::{Asked, Certificate, Snapshot};

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

/// How all workers do handshakes.
#[derive(Debug)]
pub(crate) struct ServerTls {
    /// For connections that need no certificate of the client. Workers share the key of session
    /// tickets, which rotates by itself, so that a client may resume at any of them.
    pub(crate) plain: Arc<ServerConfig>,
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    by_snapshot: Arc<BySnapshot>,
}

impl ServerTls {
    pub(crate) fn new(
        provider: &CryptoProvider,
        choice: &TlsChoice,
        snapshot: Arc<ArcSwap<Snapshot>>,
    ) -> Result<ServerTls, Failure> {
        let failed = |error| Failure::failed("cannot set up TLS", error);
        let (suites, versions) = choice.resolve(provider).map_err(Failure::Configuration)?;
        let provider = CryptoProvider { cipher_suites: suites, ..provider.clone() }.into();
        let by_snapshot = Arc::new(BySnapshot(snapshot));
        let plain = server_config(&provider, &versions, &by_snapshot, None).map_err(failed)?;
        Ok(ServerTls { plain, provider, versions, by_snapshot })
    }

    /// For connections whose clients are asked for a certificate. Its session tickets are of use
    /// only with the same authority: a session that was begun without a certificate, or for a
    /// Secret that was replaced, is not resumed.
    pub(crate) fn asking(&self, asked: &Asked) -> Result<Arc<ServerConfig>, rustls::Error> {
        asked.authority.server_config(asked.is_only, |hints| {
            let takes_any = TakesAny { hints, provider: self.provider.clone() };
            server_config(&self.provider, &self.versions, &self.by_snapshot, Some(takes_any))
        })
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    by_snapshot: &Arc<BySnapshot>,
    asks: Option<TakesAny>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(versions)?;
    let builder = match asks {
        None => builder.with_no_client_auth(),
        Some(asks) => builder.with_client_cert_verifier(Arc::new(asks)),
    };
    let mut config = builder.with_cert_resolver(by_snapshot.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = aws_lc_rs::Ticketer::new()?;
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
        let snapshot = self.0.load();
        let can_use = |certificate: &Certificate| can_use(&hello, certificate);
        Some(snapshot.certificate_for(name.as_deref(), can_use).key.clone())
    }
}

/// Whether a client can verify a signature with the key of a certificate.
fn can_use(hello: &ClientHello<'_>, certificate: &Certificate) -> bool {
    let key = &certificate.key.key;
    // In TLS 1.2, the cipher suite names the kind of key as well.
    let has_suite = hello.cipher_suites().iter().any(|suite| {
        let name = suite.as_str().unwrap_or_default();
        let kind = if certificate.is_rsa() { "TLS_ECDHE_RSA_" } else { "TLS_ECDHE_ECDSA_" };
        name.starts_with("TLS13_") || name.starts_with(kind)
    });
    has_suite && key.choose_scheme(hello.signature_schemes()).is_some()
}

/// The least version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum TlsVersion {
    #[default]
    #[value(name = "1.2")]
    Tls12,
    #[value(name = "1.3")]
    Tls13,
}

/// What clients may speak.
#[derive(Clone, Debug, clap::Args)]
pub struct TlsChoice {
    /// The lowest version of TLS that clients may use
    #[arg(
        long,
        env = "SWITCHYARD_TLS_MIN_VERSION",
        value_name = "VERSION",
        value_enum,
        default_value_t
    )]
    pub tls_min_version: TlsVersion,

    /// Cipher suites that clients may use, by their IANA or OpenSSL names; by default all that are
    /// supported
    #[arg(long, env = "SWITCHYARD_TLS_CIPHERS", value_name = "NAME", value_delimiter = ',')]
    pub tls_ciphers: Vec<String>,
}

type Resolved = (Vec<SupportedCipherSuite>, Vec<&'static SupportedProtocolVersion>);

impl TlsChoice {
    /// The cipher suites, in the provider's order, and the versions that have any.
    ///
    /// # Errors
    ///
    /// When a name is not known, or no version has a cipher suite.
    fn resolve(&self, provider: &CryptoProvider) -> Result<Resolved, String> {
        let all = &provider.cipher_suites;
        for name in &self.tls_ciphers {
            if !all.iter().any(|suite| has_name(*suite, name)) {
                let known: Vec<_> = all.iter().map(|suite| iana_name(*suite)).collect();
                let known = known.join(", ");
                return Err(format!(
                    "--tls-ciphers: {name} is not supported; supported are {known}"
                ));
            }
        }
        let wanted = |suite: &&SupportedCipherSuite| {
            self.tls_ciphers.is_empty() || self.tls_ciphers.iter().any(|n| has_name(**suite, n))
        };
        let suites: Vec<_> = all.iter().filter(wanted).copied().collect();
        let is_possible = |version: &SupportedProtocolVersion| {
            suites.iter().any(|suite| suite.version() == version)
        };
        let mut versions = vec![&rustls::version::TLS13];
        if self.tls_min_version == TlsVersion::Tls12 {
            versions.push(&rustls::version::TLS12);
        }
        versions.retain(|version| is_possible(version));
        if versions.is_empty() {
            return Err("--tls-ciphers names no cipher suite of TLS 1.3, which \
                        --tls-min-version 1.3 needs"
                .to_owned());
        }
        Ok((suites, versions))
    }
}

fn iana_name(suite: SupportedCipherSuite) -> String {
    let name = suite.suite().as_str().unwrap_or_default();
    name.replacen("TLS13_", "TLS_", 1)
}

fn has_name(suite: SupportedCipherSuite, name: &str) -> bool {
    let iana = iana_name(suite);
    let openssl = iana
        .trim_start_matches("TLS_")
        .replace("_WITH", "")
        .replace("AES_", "AES")
        .replace("POLY1305_SHA256", "POLY1305")
        .replace('_', "-");
    name.eq_ignore_ascii_case(&iana) || name.eq_ignore_ascii_case(&openssl)
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
    fn versions_and_ciphers_that_flags_choose() {
        let all = provider().cipher_suites.len();
        type Row = (TlsVersion, &'static [&'static str], Result<(usize, usize), &'static str>);
        let table: [Row; 8] = [
            (TlsVersion::Tls12, &[], Ok((all, 2))),
            (TlsVersion::Tls13, &[], Ok((all, 1))),
            (TlsVersion::Tls12, &["TLS_AES_128_GCM_SHA256"], Ok((1, 1))),
            (TlsVersion::Tls12, &["ECDHE-RSA-AES128-GCM-SHA256"], Ok((1, 1))),
            (
                TlsVersion::Tls12,
                &["TLS_AES_256_GCM_SHA384", "ecdhe-ecdsa-chacha20-poly1305"],
                Ok((2, 2)),
            ),
            (TlsVersion::Tls12, &["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"], Ok((1, 1))),
            (
                TlsVersion::Tls13,
                &["ECDHE-RSA-AES256-GCM-SHA384"],
                Err("no cipher suite of TLS 1.3"),
            ),
            (TlsVersion::Tls12, &["AES128-SHA"], Err("AES128-SHA is not supported; supported are")),
        ];
        for (tls_min_version, names, expected) in table {
            let tls_ciphers = names.iter().map(|name| (*name).to_owned()).collect();
            let choice = TlsChoice { tls_min_version, tls_ciphers };
            match (choice.resolve(&provider()), expected) {
                (Ok((suites, versions)), Ok(counts)) => {
                    assert_eq!((suites.len(), versions.len()), counts, "{names:?}");
                }
                (Err(problem), Err(part)) => assert!(problem.contains(part), "{problem}"),
                (got, _) => panic!("{names:?}: {got:?}"),
            }
        }
    }

    #[test]
    fn a_server_name_is_spelled_as_rules_spell_hosts() {
        for name in ["t.test", "t.test.", "T.Test", "T.TEST."] {
            assert_eq!(server_name(name), "t.test", "{name}");
        }
    }
}
