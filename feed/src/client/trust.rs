//! Which certificates of a server are trusted: those that the given ones have signed, and the
//! given ones themselves.
//!
//! The usual command for a self-signed certificate makes one that may sign others, and such a
//! one is no server's certificate by the rules of the web. To a person who hands it over as the
//! one to trust, it is: it is accepted byte for byte, for the names in it.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

#[derive(Debug)]
pub(crate) struct Trust {
    signed: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// Trusts these certificates; `None` if none of them can be used.
    pub(crate) fn new(given: &[Vec<u8>], provider: Arc<CryptoProvider>) -> Option<Trust> {
        let given: Vec<_> = given.iter().cloned().map(CertificateDer::from).collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(given.iter().cloned());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider);
        Some(Trust { signed: verifier.build().ok()?, given })
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let signed = self.signed.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let Err(error) = signed else { return signed };
        if !self.given.contains(end_entity) || is_out_of_date(&error) {
            return Err(error);
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

fn is_out_of_date(error: &Error) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(
        error,
        Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A self-signed certificate for `feed.example`, valid until that year.
    fn made(ca: bool, until: i32) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(vec!["feed.example".to_owned()]).unwrap();
        if ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn check(trusted: &CertificateDer<'_>, shown: &CertificateDer<'_>, name: &str) -> bool {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let trust = Trust::new(&[trusted.to_vec()], provider).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        trust.verify_server_cert(shown, &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn a_given_certificate_is_trusted_for_its_names_while_it_is_valid() {
        for ca in [false, true] {
            let (good, other, old) = (made(ca, 2100), made(ca, 2100), made(ca, 2021));
            assert!(check(&good, &good, "feed.example"), "ca: {ca}");
            assert!(!check(&good, &good, "other.example"), "ca: {ca}");
            assert!(!check(&good, &other, "feed.example"), "ca: {ca}");
            assert!(!check(&old, &old, "feed.example"), "ca: {ca}");
        }
    }

    #[test]
    fn nothing_given_is_no_trust() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        assert!(Trust::new(&[], provider.clone()).is_none());
        assert!(Trust::new(&[b"no certificate".to_vec()], provider).is_none());
    }
}
