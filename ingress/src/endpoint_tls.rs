//! TLS to endpoints: what they are shown, and what is expected of their certificates.
//!
//! Nothing is expected without annotations, as with ingress-nginx: certificates of endpoints are
//! seldom signed by an authority that a proxy knows. `proxy-ssl-verify` asks for more; the only
//! authorities are then those of `proxy-ssl-secret`.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use model::Secret;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// How endpoints are to be spoken to over TLS, as annotations say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsSpec {
    /// The name that their certificates are to have, and that they are told; without it, the host
    /// of the request.
    pub(crate) name: Option<Box<str>>,
    /// Endpoints are told the name (SNI).
    pub(crate) tells_name: bool,
    pub(crate) verifies: bool,
    /// Certificates between the endpoint's and the authority's.
    pub(crate) depth: usize,
    pub(crate) versions: Versions,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) tls12: bool,
    pub(crate) tls13: bool,
}

impl Default for TlsSpec {
    fn default() -> TlsSpec {
        TlsSpec {
            name: None,
            tells_name: false,
            verifies: false,
            depth: 1,
            versions: Versions { tls12: true, tls13: true },
        }
    }
}

/// How endpoints are spoken to over TLS. Two are the same only if made as one, so that their
/// connections and sessions are never mixed.
pub(crate) struct EndpointTls {
    pub(crate) spec: TlsSpec,
    /// The Secret that it was made of.
    secret: Option<Arc<Secret>>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

/// For Services and Ingresses that ask for nothing else.
static PLAIN: LazyLock<Arc<EndpointTls>> = LazyLock::new(|| {
    let tls = EndpointTls::new(TlsSpec::default(), None);
    Arc::new(tls.expect("nothing of a Secret is used"))
});

impl EndpointTls {
    /// Without verification and without a name.
    pub(crate) fn unverified() -> Arc<EndpointTls> {
        PLAIN.clone()
    }

    /// By annotations and the Secret that they name; the error says what is wrong with it.
    pub(crate) fn new(spec: TlsSpec, secret: Option<Arc<Secret>>) -> Result<EndpointTls, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::new();
        versions.extend(spec.versions.tls13.then_some(&rustls::version::TLS13));
        versions.extend(spec.versions.tls12.then_some(&rustls::version::TLS12));
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(&versions).map_err(|e| e.to_string())?;
        let verifier = Verifier::new(&spec, secret.as_deref(), &provider)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match secret.as_deref().map(client_certificate).transpose()?.flatten() {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
            }
        };
        config.enable_sni = spec.tells_name;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut http2 = config.clone();
        http2.alpn_protocols = vec![b"h2".to_vec()];
        http2.resumption = rustls::client::Resumption::in_memory_sessions(256);
        Ok(EndpointTls { spec, secret, http1: Arc::new(config), http2: Arc::new(http2) })
    }

    /// Whether it is what the annotations and the Secret ask for.
    pub(crate) fn is_made_of(&self, spec: &TlsSpec, secret: Option<&Arc<Secret>>) -> bool {
        let same_secret = match (&self.secret, secret) {
            (Some(own), Some(secret)) => own.data == secret.data,
            (own, secret) => own.is_none() && secret.is_none(),
        };
        same_secret && self.spec == *spec
    }

    pub(crate) fn config(&self, is_http2: bool) -> Arc<ClientConfig> {
        if is_http2 { self.http2.clone() } else { self.http1.clone() }
    }

    /// Whether a name is needed: to be told, or to be found in the certificate.
    pub(crate) fn needs_name(&self) -> bool {
        self.spec.tells_name || self.spec.verifies
    }
}

impl fmt::Debug for EndpointTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EndpointTls").field(&self.spec).finish()
    }
}

impl PartialEq for EndpointTls {
    fn eq(&self, other: &EndpointTls) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for EndpointTls {}

impl Hash for EndpointTls {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::from_ref(self).hash(state);
    }
}

/// The name for a connection: what the endpoint is told, and what its sessions are kept by.
pub(crate) fn server_name(name: Option<&str>, endpoint: IpAddr) -> ServerName<'static> {
    let named = name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
    named.unwrap_or(ServerName::IpAddress(endpoint.into()))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The certificate that endpoints are shown if they ask for one, where the Secret has one.
fn client_certificate(secret: &Secret) -> Result<Option<Identity>, String> {
    let name = &secret.name;
    let (chain, key) = match (secret.data.get("tls.crt"), secret.data.get("tls.key")) {
        (Some(chain), Some(key)) => (chain, key),
        (None, None) => return Ok(None),
        _ => return Err(format!("Secret {name} needs both tls.crt and tls.key, or neither")),
    };
    let chain = certificates(chain).ok_or_else(|| format!("Secret {name}: tls.crt is not PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(key);
    let key = key.map_err(|_| format!("Secret {name}: tls.key contains no PEM private key"))?;
    Ok(Some((chain, key)))
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}

/// What is expected of an endpoint's certificate.
#[derive(Debug)]
enum Verifier {
    Nothing(Vec<SignatureScheme>),
    Signed(Authorities),
}

#[derive(Debug)]
struct Authorities {
    verifier: Arc<WebPkiServerVerifier>,
    /// The certificates in `ca.crt`; an endpoint may show one of them as its own.
    listed: Vec<CertificateDer<'static>>,
    depth: usize,
}

impl Verifier {
    fn new(
        spec: &TlsSpec,
        secret: Option<&Secret>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Verifier, String> {
        if !spec.verifies {
            let schemes = provider.signature_verification_algorithms.supported_schemes();
            return Ok(Verifier::Nothing(schemes));
        }
        let secret = secret.ok_or("proxy-ssl-verify needs proxy-ssl-secret, with ca.crt in it")?;
        let name = &secret.name;
        let pem = secret.data.get("ca.crt");
        let pem = pem.ok_or_else(|| format!("Secret {name} has no ca.crt to verify with"))?;
        let listed =
            certificates(pem).ok_or_else(|| format!("Secret {name}: ca.crt is not PEM"))?;
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(listed.iter().cloned());
        if added == 0 {
            return Err(format!("Secret {name}: ca.crt has no certificate that can be used"));
        }
        let builder = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
        let verifier = builder.build().map_err(|error| error.to_string())?;
        Ok(Verifier::Signed(Authorities { verifier, listed, depth: spec.depth }))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Verifier::Signed(authorities) = self else {
            return Ok(ServerCertVerified::assertion());
        };
        if authorities.listed.iter().any(|listed| listed == end_entity) {
            return verify_listed(end_entity, name, now);
        }
        let between = intermediates.iter().filter(|certificate| !is_self_issued(certificate));
        if between.count() > authorities.depth {
            return Err(CertificateError::UnknownIssuer.into());
        }
        authorities.verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self {
            // Whoever could forge it could show a certificate of their own as well.
            Verifier::Nothing(_) => Ok(HandshakeSignatureValid::assertion()),
            Verifier::Signed(authorities) => {
                authorities.verifier.verify_tls12_signature(message, certificate, signature)
            }
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match self {
            Verifier::Nothing(_) => Ok(HandshakeSignatureValid::assertion()),
            Verifier::Signed(authorities) => {
                authorities.verifier.verify_tls13_signature(message, certificate, signature)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self {
            Verifier::Nothing(schemes) => schemes.clone(),
            Verifier::Signed(authorities) => authorities.verifier.supported_verify_schemes(),
        }
    }
}

/// A certificate that is listed itself needs no authority: only its name and its time count.
fn verify_listed(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, rustls::Error> {
    let parsed = rustls::server::ParsedCertificate::try_from(certificate)?;
    rustls::client::verify_server_name(&parsed, name)?;
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < certificate.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > certificate.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(ServerCertVerified::assertion())
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, certificate)| certificate.subject() == certificate.issuer())
}
