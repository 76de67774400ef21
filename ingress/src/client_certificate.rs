//! The certificate that a client has shown in its TLS handshake, as the requests of its connection
//! see it.
//!
//! It is verified when a request first needs that, once for each authority: a Secret that is
//! replaced is another authority, also for connections that are open and sessions that are resumed.

use std::cell::{OnceCell, RefCell};
use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::client_authority::{ClientAuthority, Untrusted};
use crate::distinguished_name::distinguished_name;
use crate::template::escape;

/// What became of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verification {
    /// The client has shown none.
    Missing,
    Success,
    Failed(Untrusted),
}

impl Verification {
    /// As nginx writes `$ssl_client_verify`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verification::Missing => "NONE",
            Verification::Success => "SUCCESS",
            Verification::Failed(why) => why.words(),
        }
    }
}

/// The answer of a client that was asked for a certificate.
#[derive(Debug)]
pub(crate) struct ClientCertificate {
    /// The client's own first; empty if it has shown none.
    chain: Vec<CertificateDer<'static>>,
    /// When it was shown.
    at: UnixTime,
    names: OnceCell<Names>,
    escaped: OnceCell<String>,
    verified: RefCell<Option<Verified>>,
}

/// Subject and issuer.
#[derive(Debug, Default)]
struct Names {
    subject: String,
    issuer: String,
}

/// The last verification.
#[derive(Debug)]
struct Verified {
    by: Arc<ClientAuthority>,
    depth: usize,
    outcome: Verification,
}

impl ClientCertificate {
    pub(crate) fn new(chain: Option<&[CertificateDer<'static>]>, at: UnixTime) -> Self {
        let chain = chain.unwrap_or_default().to_vec();
        let (names, escaped) = (OnceCell::new(), OnceCell::new());
        ClientCertificate { chain, at, names, escaped, verified: RefCell::new(None) }
    }

    /// Whether an authority has signed it, with at most `depth` others between.
    pub(crate) fn verify(&self, authority: &Arc<ClientAuthority>, depth: usize) -> Verification {
        if self.chain.is_empty() {
            return Verification::Missing;
        }
        let mut verified = self.verified.borrow_mut();
        if let Some(Verified { by, depth: of, outcome }) = &*verified
            && Arc::ptr_eq(by, authority)
            && *of == depth
        {
            return *outcome;
        }
        let outcome = match authority.verify(&self.chain, depth, self.at) {
            Ok(()) => Verification::Success,
            Err(why) => Verification::Failed(why),
        };
        *verified = Some(Verified { by: authority.clone(), depth, outcome });
        outcome
    }

    /// Its subject, empty if there is none.
    pub(crate) fn subject(&self) -> &str {
        &self.names().subject
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.names().issuer
    }

    fn names(&self) -> &Names {
        self.names.get_or_init(|| {
            let parsed = self.chain.first().and_then(|der| X509Certificate::from_der(der).ok());
            let names = parsed.map(|(_, certificate)| Names {
                subject: distinguished_name(certificate.subject()),
                issuer: distinguished_name(certificate.issuer()),
            });
            names.unwrap_or_default()
        })
    }

    /// The certificate in PEM, escaped so that it is one line; empty if there is none.
    pub(crate) fn escaped_pem(&self) -> &str {
        const LINE: usize = 64;
        self.escaped.get_or_init(|| {
            let Some(own) = self.chain.first() else { return String::new() };
            let encoded = BASE64_STANDARD.encode(own);
            let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
            let mut rest = &*encoded;
            while !rest.is_empty() {
                let (line, after) = rest.split_at(rest.len().min(LINE));
                let _ = writeln!(pem, "{line}");
                rest = after;
            }
            pem.push_str("-----END CERTIFICATE-----\n");
            let mut escaped = String::new();
            escape(&pem, &mut escaped);
            escaped
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::{ObjectName, Secret};
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
        DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, RevokedCertParams,
        date_time_ymd,
    };

    use super::*;
    use crate::client_authority::Untrusted;

    type Authority = CertifiedIssuer<'static, KeyPair>;

    fn params(name: &str, is_authority: bool) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        if is_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        }
        params
    }

    fn root(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        CertifiedIssuer::self_signed(params(name, true), key).unwrap()
    }

    fn below(name: &str, by: &Authority) -> Authority {
        let key = KeyPair::generate().unwrap();
        CertifiedIssuer::signed_by(params(name, true), key, by).unwrap()
    }

    fn client(by: &Authority, change: impl Fn(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = params("client", false);
        change(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), by).unwrap().der().clone()
    }

    fn secret(entries: &[(&str, String)]) -> Arc<Secret> {
        let entries = entries.iter().map(|(key, value)| ((*key).into(), value.clone().into()));
        let data: BTreeMap<_, _> = entries.collect();
        let name = ObjectName::new("default", "ca");
        Arc::new(Secret { name, data, secret_type: "Opaque".into() })
    }

    fn authority(listed: &[&Authority], lists: &[String]) -> Arc<ClientAuthority> {
        let pem: String = listed.iter().map(|authority| authority.pem()).collect();
        let mut entries = vec![("ca.crt", pem)];
        if !lists.is_empty() {
            entries.push(("ca.crl", lists.concat()));
        }
        Arc::new(ClientAuthority::of(&secret(&entries)).unwrap())
    }

    fn revocation_list(by: &Authority, serials: &[u64], is_old: bool) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: date_time_ymd(2001, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2001, 1, 2),
            next_update: date_time_ymd(if is_old { 2002 } else { 4000 }, 1, 1),
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(by).unwrap().pem().unwrap()
    }

    fn check(
        what: &str,
        authority: &Arc<ClientAuthority>,
        chain: &[&CertificateDer<'static>],
        expected: Result<(), Untrusted>,
    ) {
        let chain: Vec<_> = chain.iter().map(|der| (*der).clone()).collect();
        let shown = ClientCertificate::new(Some(&chain), UnixTime::now());
        let expected = match expected {
            Ok(()) => Verification::Success,
            Err(why) => Verification::Failed(why),
        };
        assert_eq!(shown.verify(authority, 1), expected, "{what}");
    }

    #[test]
    fn certificates_that_an_authority_has_signed() {
        let (ours, other) = (root("ours"), root("other"));
        let (first, second) = (below("first", &ours), below("second", &ours));
        let third = below("third", &second);
        let trusted = authority(&[&ours], &[]);
        let plain = client(&ours, |_| {});
        check("direct", &trusted, &[&plain], Ok(()));
        check("with the root", &trusted, &[&plain, ours.der()], Ok(()));
        check("of another", &trusted, &[&client(&other, |_| {})], Err(Untrusted::UnknownIssuer));
        let lower = client(&first, |_| {});
        check("one between", &trusted, &[&lower, first.der()], Ok(()));
        check("one missing", &trusted, &[&lower], Err(Untrusted::UnknownIssuer));
        check("one listed", &authority(&[&ours, &first], &[]), &[&lower], Ok(()));
        check("only it listed", &authority(&[&first], &[]), &[&lower], Ok(()));
        let lowest = client(&third, |_| {});
        let long = [&lowest, third.der(), second.der()];
        check("two between", &trusted, &long, Err(Untrusted::TooDeep));
        let listed = authority(&[&ours, &second], &[]);
        check("two between, one listed", &listed, &long[..2], Err(Untrusted::TooDeep));
        // The name of an authority without its key.
        let forged = client(&root("ours"), |_| {});
        let forged_by_listed = authority(&[&ours], &[]);
        let failed = ClientCertificate::new(Some(&[forged]), UnixTime::now());
        let failed = failed.verify(&forged_by_listed, 1);
        assert!(matches!(failed, Verification::Failed(_)), "{failed:?}");
        // A client's certificate does not sign others.
        let key = KeyPair::generate().unwrap();
        let not_authority = CertifiedIssuer::signed_by(params("not", false), key, &ours).unwrap();
        let below_client = client(&not_authority, |_| {});
        let failed = [&below_client, not_authority.der()];
        check("by a client", &trusted, &failed, Err(Untrusted::WrongPurpose));
    }

    #[test]
    fn certificates_that_are_not_good() {
        let ours = root("ours");
        let trusted = authority(&[&ours], &[]);
        let expired = client(&ours, |p| p.not_after = date_time_ymd(2001, 1, 1));
        check("expired", &trusted, &[&expired], Err(Untrusted::Expired));
        let early = client(&ours, |p| p.not_before = date_time_ymd(4000, 1, 1));
        check("early", &trusted, &[&early], Err(Untrusted::NotYetValid));
        let server = client(&ours, |p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        check("of a server", &trusted, &[&server], Err(Untrusted::WrongPurpose));
        let own = params("own", false).self_signed(&KeyPair::generate().unwrap()).unwrap();
        check("self-signed", &trusted, &[own.der()], Err(Untrusted::SelfSigned));
        let listed = secret(&[("ca.crt", own.pem())]);
        let listed = Arc::new(ClientAuthority::of(&listed).unwrap());
        check("self-signed and listed", &listed, &[own.der()], Ok(()));
        let garbage = CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]);
        check("garbage", &trusted, &[&garbage], Err(Untrusted::Unreadable));
        let none = ClientCertificate::new(None, UnixTime::now());
        assert_eq!(none.verify(&trusted, 1), Verification::Missing);
    }

    #[test]
    fn certificates_that_were_revoked() {
        let (ours, other) = (root("ours"), root("other"));
        let good = client(&ours, |p| p.serial_number = Some(7u64.into()));
        let bad = client(&ours, |p| p.serial_number = Some(8u64.into()));
        let lists = [revocation_list(&ours, &[8], false)];
        let trusted = authority(&[&ours], &lists);
        check("good", &trusted, &[&good], Ok(()));
        check("revoked", &trusted, &[&bad], Err(Untrusted::Revoked));
        let old = authority(&[&ours], &[revocation_list(&ours, &[], true)]);
        check("old list", &old, &[&good], Err(Untrusted::RevocationListExpired));
        let of_other = authority(&[&ours, &other], &[revocation_list(&other, &[], false)]);
        check("no list", &of_other, &[&good], Err(Untrusted::NoRevocationList));
    }

    /// `openssl x509 -req`, as in the documentation of ingress-nginx, makes certificates of
    /// version 1.
    #[test]
    fn certificates_of_version_1() {
        let folder = include_str!("client_certificate/version1.pem");
        let blocks: Vec<_> = folder.split_inclusive("-----END CERTIFICATE-----\n").collect();
        let [ours, signed, other, by_other] = blocks[..] else { panic!("{}", blocks.len()) };
        use rustls_pki_types::pem::PemObject as _;
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let of = |pem: &str| {
            Arc::new(ClientAuthority::of(&secret(&[("ca.crt", pem.to_owned())])).unwrap())
        };
        check("signed", &of(ours), &[&der(signed)], Ok(()));
        check("by another", &of(ours), &[&der(by_other)], Err(Untrusted::UnknownIssuer));
        check("of the other", &of(other), &[&der(by_other)], Ok(()));
        let mut changed = der(signed).to_vec();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        let changed = CertificateDer::from(changed);
        check("changed", &of(ours), &[&changed], Err(Untrusted::UnknownIssuer));
    }

    #[test]
    fn secrets_that_cannot_be_used() {
        let ours = root("ours");
        let leaf = client(&ours, |_| {});
        let leaf = format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            BASE64_STANDARD.encode(leaf)
        );
        let table = [
            (vec![], "no ca.crt"),
            (vec![("ca.crt", "garbage".to_owned())], "no PEM certificate"),
            (vec![("ca.crt", leaf)], "may sign others"),
            (vec![("ca.crt", ours.pem()), ("ca.crl", "garbage".to_owned())], "ca.crl"),
            (vec![("ca.crt", ours.pem()), ("ca.crl", ours.pem())], "ca.crl"),
        ];
        for (entries, expected) in table {
            let failed = ClientAuthority::of(&secret(&entries)).unwrap_err();
            assert!(failed.contains(expected), "{failed}");
        }
    }

    #[test]
    fn the_certificate_as_endpoints_get_it() {
        let shown = client(&root("ours"), |_| {});
        let certificate = ClientCertificate::new(Some(&[shown]), UnixTime::now());
        let pem = certificate.escaped_pem();
        assert!(pem.starts_with("-----BEGIN%20CERTIFICATE-----%0AMI"), "{pem}");
        assert!(pem.ends_with("%0A-----END%20CERTIFICATE-----%0A"), "{pem}");
        assert!(pem.bytes().all(|b| b.is_ascii_alphanumeric() || b"-%".contains(&b)), "{pem}");
        assert_eq!((certificate.subject(), certificate.issuer()), ("CN=client", "CN=ours"));
    }
}
