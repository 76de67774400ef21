//! Authorities that sign the certificates of clients, from a Secret, and whether a certificate is
//! signed by one of them.
//!
//! A handshake takes any certificate whose key the client has; whether it is good enough is decided
//! for each request by its route, so that a client gets an answer instead of a broken connection.
//! The verification is that of webpki. Certificates of version 1 (`openssl x509 -req` without
//! extensions makes them), which webpki does not read, are taken where an authority has signed them
//! directly.

use std::fmt;
use std::sync::{Arc, OnceLock};

use model::Secret;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{DistinguishedName, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, TrustAnchor,
    UnixTime,
};
use webpki::{
    BorrowedCertRevocationList, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage,
    OwnedCertRevocationList, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::prelude::{
    ASN1Time, CertificateRevocationList, FromDer, X509Certificate, X509Version,
};

/// Certificates that are read from one Secret.
const MAX_AUTHORITIES: usize = 1000;

/// Names of authorities that clients are told, to choose their certificate by. A longer list would
/// not fit every client's buffers, and an empty one means any.
const MAX_HINTS: usize = 100;

/// The authorities of a Secret.
pub(crate) struct ClientAuthority {
    secret: Arc<Secret>,
    /// All certificates of `ca.crt`.
    listed: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    /// Those of `listed` that are signed by others of them.
    intermediates: Vec<CertificateDer<'static>>,
    revoked: Vec<CertRevocationList<'static>>,
    /// The same, as they are written.
    revoked_der: Vec<CertificateRevocationListDer<'static>>,
    hints: Box<[DistinguishedName]>,
    provider: CryptoProvider,
    /// For handshakes of hosts that have no other authority, and of those that have.
    configs: [OnceLock<Arc<ServerConfig>>; 2],
}

/// Why a certificate is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Untrusted {
    /// Signed by nobody else, and not listed.
    SelfSigned,
    /// Signed by an authority that is not listed.
    UnknownIssuer,
    Expired,
    NotYetValid,
    Revoked,
    NoRevocationList,
    RevocationListExpired,
    TooDeep,
    WrongPurpose,
    Unreadable,
}

impl Untrusted {
    /// As nginx writes it, with the words of OpenSSL.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Untrusted::SelfSigned => "FAILED:self-signed certificate",
            Untrusted::UnknownIssuer => "FAILED:unable to verify the first certificate",
            Untrusted::Expired => "FAILED:certificate has expired",
            Untrusted::NotYetValid => "FAILED:certificate is not yet valid",
            Untrusted::Revoked => "FAILED:certificate revoked",
            Untrusted::NoRevocationList => "FAILED:unable to get certificate CRL",
            Untrusted::RevocationListExpired => "FAILED:CRL has expired",
            Untrusted::TooDeep => "FAILED:certificate chain too long",
            Untrusted::WrongPurpose => "FAILED:unsuitable certificate purpose",
            Untrusted::Unreadable => "FAILED:certificate signature failure",
        }
    }

    /// Whether only the authority is not known.
    pub(crate) fn is_of_authority(self) -> bool {
        matches!(self, Untrusted::SelfSigned | Untrusted::UnknownIssuer)
    }
}

impl ClientAuthority {
    /// Reads `ca.crt` and, if it is there, `ca.crl`; the error says what is wrong with them.
    pub(crate) fn of(secret: &Arc<Secret>) -> Result<ClientAuthority, String> {
        let pem = secret.data.get("ca.crt").ok_or("it has no ca.crt")?;
        let listed = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let listed = listed.map_err(|_| "its ca.crt is not PEM")?;
        if listed.is_empty() {
            return Err("its ca.crt contains no PEM certificate".to_owned());
        }
        if listed.len() > MAX_AUTHORITIES {
            return Err(format!("its ca.crt has more than {MAX_AUTHORITIES} certificates"));
        }
        let (anchors, intermediates, hints) = sort(&listed)?;
        let (mut revoked, mut revoked_der) = (Vec::new(), Vec::new());
        if let Some(pem) = secret.data.get("ca.crl") {
            let bad = || "its ca.crl contains no PEM revocation list that can be read".to_owned();
            for list in CertificateRevocationListDer::pem_slice_iter(pem) {
                let list = list.map_err(|_| bad())?;
                let parsed = BorrowedCertRevocationList::from_der(&list).map_err(|_| bad())?;
                let owned: OwnedCertRevocationList = parsed.to_owned().map_err(|_| bad())?;
                revoked.push(CertRevocationList::from(owned));
                revoked_der.push(list);
            }
            // An empty list would revoke nothing that its author has revoked.
            if revoked.is_empty() {
                return Err(bad());
            }
        }
        Ok(ClientAuthority {
            secret: secret.clone(),
            listed,
            anchors,
            intermediates,
            revoked,
            revoked_der,
            hints,
            provider: aws_lc_rs::default_provider(),
            configs: Default::default(),
        })
    }

    /// What clients are asked for a certificate with; made once. They are told the names of the
    /// authorities if there are no others.
    pub(crate) fn server_config(
        &self,
        is_only: bool,
        make: impl FnOnce(Box<[DistinguishedName]>) -> Result<Arc<ServerConfig>, rustls::Error>,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let config = &self.configs[usize::from(is_only)];
        if let Some(made) = config.get() {
            return Ok(made.clone());
        }
        let made = make(if is_only { self.hints.clone() } else { Box::default() })?;
        // Another worker may have been first: tickets of both must have the same key.
        Ok(config.get_or_init(|| made).clone())
    }

    /// Whether it was made of a Secret with the same content.
    pub(crate) fn is_of(&self, secret: &Arc<Secret>) -> bool {
        self.secret.name == secret.name && self.secret.data == secret.data
    }

    pub(crate) fn secret(&self) -> &model::ObjectName {
        &self.secret.name
    }

    /// Verifies a client's certificate, the first of its chain, with at most `depth` certificates
    /// between it and the authority.
    pub(crate) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        depth: usize,
        now: UnixTime,
    ) -> Result<(), Untrusted> {
        let (own, others) = chain.split_first().ok_or(Untrusted::Unreadable)?;
        let (_, parsed) = X509Certificate::from_der(own).map_err(|_| Untrusted::Unreadable)?;
        let is_self_issued = parsed.subject().as_raw() == parsed.issuer().as_raw();
        if is_self_issued && self.listed.iter().any(|listed| **listed == **own) {
            check_time(&parsed, now)?;
            return self.check_revoked(&parsed, &parsed, now);
        }
        let found = match parsed.version() {
            X509Version::V3 => self.verify_chain(own, others, depth, now),
            _ => self.verify_direct(own, &parsed, now),
        };
        match found {
            Err(Untrusted::UnknownIssuer) if is_self_issued => Err(Untrusted::SelfSigned),
            found => found,
        }
    }

    fn verify_chain(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        depth: usize,
        now: UnixTime,
    ) -> Result<(), Untrusted> {
        let own = EndEntityCert::try_from(own).map_err(|error| untrusted(&error))?;
        let between: Vec<_> = others.iter().chain(&self.intermediates).cloned().collect();
        let lists: Vec<_> = self.revoked.iter().collect();
        let revocation = match RevocationOptionsBuilder::new(&lists) {
            Ok(builder) => Some(
                builder
                    .with_depth(RevocationCheckDepth::Chain)
                    .with_status_policy(UnknownStatusPolicy::Deny)
                    .with_expiration_policy(ExpirationPolicy::Enforce)
                    .build(),
            ),
            Err(_) => None,
        };
        let is_too_deep = std::cell::Cell::new(false);
        let check_depth = |path: &webpki::VerifiedPath<'_>| {
            let is_deep = path.intermediate_certificates().count() > depth;
            is_too_deep.set(is_deep);
            if is_deep { Err(webpki::Error::UnknownIssuer) } else { Ok(()) }
        };
        let verified = own.verify_for_usage(
            self.provider.signature_verification_algorithms.all,
            &self.anchors,
            &between,
            now,
            KeyUsage::client_auth(),
            revocation,
            Some(&check_depth),
        );
        match verified {
            Ok(_) => Ok(()),
            Err(_) if is_too_deep.get() => Err(Untrusted::TooDeep),
            Err(error) => Err(untrusted(&error)),
        }
    }

    /// Verifies a certificate without extensions, which an authority must have signed itself.
    fn verify_direct(
        &self,
        der: &[u8],
        own: &X509Certificate<'_>,
        now: UnixTime,
    ) -> Result<(), Untrusted> {
        let algorithm = signature_algorithm(der).ok_or(Untrusted::Unreadable)?;
        for listed in &self.listed {
            let Ok((_, issuer)) = X509Certificate::from_der(listed) else { continue };
            let is_issuer = issuer.subject().as_raw() == own.issuer().as_raw();
            if !is_issuer || !may_sign(&issuer) {
                continue;
            }
            let signed = (own.tbs_certificate.as_ref(), &*own.signature_value.data);
            if self.is_signed(&issuer, algorithm, signed) {
                check_time(&issuer, now)?;
                check_time(own, now)?;
                return self.check_revoked(own, &issuer, now);
            }
        }
        Err(Untrusted::UnknownIssuer)
    }

    /// Whether a message is signed with the key of a certificate.
    fn is_signed(
        &self,
        by: &X509Certificate<'_>,
        algorithm: &[u8],
        (message, signature): (&[u8], &[u8]),
    ) -> bool {
        let key = by.public_key();
        let Some(key_algorithm) = key_algorithm(key.raw) else { return false };
        let fits = |candidate: &&&dyn SignatureVerificationAlgorithm| {
            *candidate.signature_alg_id() == *algorithm
                && *candidate.public_key_alg_id() == *key_algorithm
        };
        let all = self.provider.signature_verification_algorithms.all;
        let mut candidates = all.iter().filter(fits);
        let public = &key.subject_public_key.data;
        candidates.any(|algorithm| algorithm.verify_signature(public, message, signature).is_ok())
    }

    /// Looks a certificate up in the revocation list of its issuer, where there are any lists.
    fn check_revoked(
        &self,
        own: &X509Certificate<'_>,
        issuer: &X509Certificate<'_>,
        now: UnixTime,
    ) -> Result<(), Untrusted> {
        if self.revoked_der.is_empty() {
            return Ok(());
        }
        for der in &self.revoked_der {
            let Ok((_, list)) = CertificateRevocationList::from_der(der) else { continue };
            let signed = (list.tbs_cert_list.as_ref(), &*list.signature_value.data);
            let is_of_issuer = list.issuer().as_raw() == issuer.subject().as_raw()
                && signature_algorithm(der).is_some_and(|a| self.is_signed(issuer, a, signed));
            if !is_of_issuer {
                continue;
            }
            if list.next_update().is_some_and(|next| next < time(now)) {
                return Err(Untrusted::RevocationListExpired);
            }
            let serial = own.raw_serial();
            return match list.iter_revoked_certificates().any(|r| r.raw_serial() == serial) {
                true => Err(Untrusted::Revoked),
                false => Ok(()),
            };
        }
        Err(Untrusted::NoRevocationList)
    }
}

impl fmt::Debug for ClientAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientAuthority({}, {} listed)", self.secret.name, self.listed.len())
    }
}

type Sorted = (Vec<TrustAnchor<'static>>, Vec<CertificateDer<'static>>, Box<[DistinguishedName]>);

/// What the listed certificates are for: to end chains, or to stand between. If none is signed by
/// itself, each of them ends chains.
fn sort(listed: &[CertificateDer<'static>]) -> Result<Sorted, String> {
    let unreadable = || "its ca.crt has a certificate that cannot be read".to_owned();
    let (mut roots, mut others, mut hints) = (Vec::new(), Vec::new(), Vec::new());
    let mut is_any_usable = false;
    for certificate in listed {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| unreadable())?;
        let is_self_issued = parsed.subject().as_raw() == parsed.issuer().as_raw();
        hints.push(DistinguishedName::from(parsed.subject().as_raw().to_vec()));
        is_any_usable |= is_self_issued;
        // A client's own certificate may be listed too; it does not sign others.
        if may_sign(&parsed) {
            is_any_usable = true;
            let kind = if is_self_issued { &mut roots } else { &mut others };
            kind.push(certificate.clone());
        }
    }
    if !is_any_usable {
        return Err("its ca.crt has no certificate that may sign others".to_owned());
    }
    if roots.is_empty() {
        roots = std::mem::take(&mut others);
    }
    let anchor = |certificate: &CertificateDer<'_>| {
        webpki::anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned())
    };
    let anchors = roots.iter().map(anchor).collect::<Result<_, _>>().map_err(|_| unreadable())?;
    if hints.len() > MAX_HINTS {
        hints.clear();
    }
    Ok((anchors, others, hints.into()))
}

/// Whether a listed certificate is one of an authority: marked as such, or too old to be marked.
fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    let constraints = certificate.basic_constraints();
    let is_authority = matches!(&constraints, Ok(Some(found)) if found.value.ca);
    is_authority || certificate.version() == X509Version::V1
}

fn time(now: UnixTime) -> ASN1Time {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    ASN1Time::from_timestamp(seconds).unwrap_or_else(|_| ASN1Time::now())
}

fn check_time(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Untrusted> {
    let (validity, now) = (certificate.validity(), time(now));
    if now < validity.not_before {
        return Err(Untrusted::NotYetValid);
    }
    if now > validity.not_after {
        return Err(Untrusted::Expired);
    }
    Ok(())
}

fn untrusted(error: &webpki::Error) -> Untrusted {
    use webpki::Error;
    match error {
        Error::CertExpired { .. } => Untrusted::Expired,
        Error::CertNotValidYet { .. } => Untrusted::NotYetValid,
        Error::CertRevoked => Untrusted::Revoked,
        Error::UnknownRevocationStatus => Untrusted::NoRevocationList,
        Error::CrlExpired { .. } => Untrusted::RevocationListExpired,
        Error::UnknownIssuer => Untrusted::UnknownIssuer,
        Error::PathLenConstraintViolated | Error::MaximumPathDepthExceeded => Untrusted::TooDeep,
        Error::RequiredEkuNotFoundContext(_)
        | Error::CaUsedAsEndEntity
        | Error::EndEntityUsedAsCa => Untrusted::WrongPurpose,
        _ => Untrusted::Unreadable,
    }
}

/// The algorithm of the signature of a certificate or a revocation list: both are a sequence of
/// what is signed, the algorithm, and the signature (RFC 5280 sections 4.1 and 5.1).
fn signature_algorithm(der: &[u8]) -> Option<&[u8]> {
    let (whole, _) = element(der)?;
    let (_, after) = element(whole)?;
    element(after).map(|(algorithm, _)| algorithm)
}

/// The algorithm of a SubjectPublicKeyInfo.
pub(crate) fn key_algorithm(der: &[u8]) -> Option<&[u8]> {
    let (whole, _) = element(der)?;
    element(whole).map(|(algorithm, _)| algorithm)
}

/// The content of the first element of DER, and what follows it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[_, first], mut rest) = der.split_first_chunk::<2>()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let bytes = usize::from(first & 0x7f);
        if !(1..=4).contains(&bytes) {
            return None;
        }
        let (head, after) = rest.split_at_checked(bytes)?;
        length = head.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = after;
    }
    rest.split_at_checked(length)
}
