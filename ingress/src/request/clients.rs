//! Whether a client has the certificate that a route asks for, and what endpoints are told of it.
//!
//! Pure. The handshake has made certain that the client has the certificate's key.

use http::{HeaderName, HeaderValue, StatusCode};

use crate::client_certificate::{ClientCertificate, Verification};
use crate::head::HeadEdits;
use crate::refusal::Refusal;
use crate::snapshot::{ClientRules, VerifyClient};

const VERIFY: &str = "ssl-client-verify";
const SUBJECT: &str = "ssl-client-subject-dn";
const ISSUER: &str = "ssl-client-issuer-dn";
const CERTIFICATE: &str = "ssl-client-cert";

/// What a client must not send itself: also in the spelling that many endpoints cannot tell from
/// the above.
const RESERVED: [&str; 8] = [
    VERIFY,
    SUBJECT,
    ISSUER,
    CERTIFICATE,
    "ssl_client_verify",
    "ssl_client_subject_dn",
    "ssl_client_issuer_dn",
    "ssl_client_cert",
];

/// The connection of a request, as far as certificates of clients are concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientTlsFacts<'a> {
    /// Its client was asked for one.
    pub(crate) certificate: Option<&'a ClientCertificate>,
    /// It is a TLS connection.
    pub(crate) is_tls: bool,
    /// The host that was named in its handshake.
    pub(crate) server_name: Option<&'a str>,
}

/// What a route makes of a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ClientDecision {
    GoOn,
    /// To where the client can be asked.
    ToHttps,
    Refuse(Refusal),
}

/// What is known of a client's certificate by the rules of a route.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity<'a> {
    pub(crate) verification: Verification,
    certificate: Option<&'a ClientCertificate>,
}

impl<'a> Identity<'a> {
    pub(crate) fn of(rules: &ClientRules, of: Option<&'a ClientCertificate>) -> Identity<'a> {
        // A host that does not ask may share its connection with one that does.
        let certificate = of.filter(|_| rules.verify != VerifyClient::Off);
        let verification = match certificate {
            Some(certificate) => certificate.verify(&rules.authority, rules.depth),
            None => Verification::Missing,
        };
        Identity { verification, certificate }
    }

    /// Of a client that has shown none.
    pub(crate) fn unknown() -> Identity<'a> {
        Identity { verification: Verification::Missing, certificate: None }
    }

    pub(crate) fn subject(&self) -> &'a str {
        self.certificate.map_or("", ClientCertificate::subject)
    }

    pub(crate) fn issuer(&self) -> &'a str {
        self.certificate.map_or("", ClientCertificate::issuer)
    }
}

/// Decides by the client's certificate, for a request to `host`.
pub(crate) fn decide_client(
    rules: &ClientRules,
    connection: ClientTlsFacts<'_>,
    host: &str,
) -> ClientDecision {
    let ClientTlsFacts { certificate, is_tls, server_name } = connection;
    let refuse = |refusal: Refusal| {
        ClientDecision::Refuse(match &rules.error_page {
            Some(page) => Refusal::Redirect { status: StatusCode::FOUND, location: page.clone() },
            None => refusal,
        })
    };
    if rules.verify != VerifyClient::Off && is_tls {
        // The client may have another certificate for the host that it did not name.
        let is_for_host = server_name.is_none_or(|name| name == host);
        if certificate.is_none() || !is_for_host {
            return ClientDecision::Refuse(Refusal::Misdirected);
        }
    }
    if rules.verify == VerifyClient::On && !is_tls {
        return ClientDecision::ToHttps;
    }
    let identity = Identity::of(rules, certificate);
    match (rules.verify, identity.verification) {
        (VerifyClient::On, Verification::Missing) => return refuse(Refusal::NoCertificate),
        (VerifyClient::OptionalNoCa, Verification::Failed(why)) if why.is_of_authority() => {}
        (_, Verification::Failed(_)) => return refuse(Refusal::BadCertificate),
        _ => {}
    }
    match &rules.subject {
        Some(pattern) if !pattern.is_match(identity.subject()) => {
            ClientDecision::Refuse(Refusal::Forbidden)
        }
        _ => ClientDecision::GoOn,
    }
}

/// The answer to a client of a plain connection that says it is HTTPS: TLS ended before us, and
/// with it what the client has shown.
pub(crate) fn unasked(rules: &ClientRules) -> Refusal {
    let location = rules.error_page.clone();
    let redirect =
        |location: HeaderValue| Refusal::Redirect { status: StatusCode::FOUND, location };
    location.map_or(Refusal::NoCertificate, redirect)
}

/// Tells endpoints what is known of a client's certificate, in the place of what the client may
/// have said itself.
pub(crate) fn tell(rules: &ClientRules, identity: Identity<'_>, edits: &mut HeadEdits) {
    edits.removed.extend(RESERVED.map(HeaderName::from_static));
    edits.set(VERIFY, identity.verification.as_str());
    edits.set(SUBJECT, identity.subject());
    edits.set(ISSUER, identity.issuer());
    if rules.passes
        && let Some(certificate) = identity.certificate
    {
        edits.set(CERTIFICATE, certificate.escaped_pem());
    }
}

/// The fields that no client may send.
pub(crate) fn reserved_fields() -> [HeaderName; 8] {
    RESERVED.map(HeaderName::from_static)
}
