//! What a handshake expects of a client's certificate: that the client has the key of the one that
//! it shows, and no more. Who has signed it is looked at for each request.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::client_authority::key_algorithm;

/// Certificates and bytes that a client may show. They are kept with its connection, and travel in
/// its session tickets.
const MAX_CERTIFICATES: usize = 16;
const MAX_BYTES: usize = 32 << 10;

/// Asks for a certificate and takes any.
#[derive(Debug)]
pub(crate) struct TakesAny {
    /// Names of authorities that clients choose by.
    pub(crate) hints: Box<[DistinguishedName]>,
    pub(crate) provider: Arc<CryptoProvider>,
}

fn parsed<'c>(certificate: &'c CertificateDer<'_>) -> Result<X509Certificate<'c>, rustls::Error> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    Ok(parsed)
}

impl ClientCertVerifier for TakesAny {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let bytes = own.len() + others.iter().map(|other| other.len()).sum::<usize>();
        if others.len() >= MAX_CERTIFICATES || bytes > MAX_BYTES {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let parsed = parsed(certificate)?;
        let key = parsed.public_key();
        let kind = key_algorithm(key.raw).ok_or(CertificateError::BadEncoding)?;
        let known = self.provider.signature_verification_algorithms.mapping;
        let of_scheme = known.iter().find(|(scheme, _)| *scheme == signature.scheme);
        let mut fitting = of_scheme.into_iter().flat_map(|(_, all)| *all);
        let public = &key.subject_public_key.data;
        let is_valid = fitting.any(|algorithm| {
            *algorithm.public_key_alg_id() == *kind
                && algorithm.verify_signature(public, message, signature.signature()).is_ok()
        });
        match is_valid {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let parsed = parsed(certificate)?;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
