//! The host names that a certificate is for.

use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

/// The first certificate of a chain: the one that a server shows for its own.
pub(super) struct Certificate {
    /// Its DNS names and addresses.
    pub(super) names: Vec<String>,
}

/// Reads a PEM chain.
///
/// # Errors
///
/// Says what is wrong with it, or that its time is over.
pub(super) fn read(pem: &[u8]) -> Result<Certificate, String> {
    let first = Pem::iter_from_buffer(pem).next();
    let Some(Ok(first)) = first else { return Err("tls.crt holds no certificate".to_owned()) };
    let certificate = first.parse_x509().map_err(|_| "tls.crt holds no certificate".to_owned())?;
    if !certificate.validity().is_valid() {
        let validity = certificate.validity();
        return Err(format!(
            "the certificate is valid from {} to {} only",
            validity.not_before, validity.not_after
        ));
    }
    let names = match certificate.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().filter_map(name).collect(),
        _ => Vec::new(),
    };
    Ok(Certificate { names })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    }
}

impl Certificate {
    /// Whether the certificate is for that host (RFC 9525 section 6.3): `*` stands for exactly
    /// the first label. A wildcard host is covered by the same wildcard only.
    pub(super) fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| {
            name == host
                || name.strip_prefix("*.").is_some_and(|rest| {
                    host.split_once('.')
                        .is_some_and(|(first, parent)| first != "*" && parent == rest)
                })
        })
    }
}
