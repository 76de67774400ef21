//! Distinguished names of certificates as text, in the form that nginx gives them to endpoints:
//! RFC 2253, the last component first.
//!
//! Pure.

use std::fmt::Write as _;

use x509_parser::asn1_rs::{Any, Oid, Tag};
use x509_parser::x509::X509Name;

/// Short names of attributes, by their object identifiers (RFC 4519, and those of OpenSSL).
const SHORT_NAMES: [(&str, &str); 20] = [
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.97", "organizationIdentifier"),
];

/// The name as one line of printable ASCII.
pub(crate) fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let components: Vec<_> = name.iter_rdn().collect();
    for component in components.into_iter().rev() {
        if !out.is_empty() {
            out.push(',');
        }
        for (at, attribute) in component.iter().enumerate() {
            if at > 0 {
                out.push('+');
            }
            let known = add_type(&mut out, attribute.attr_type());
            out.push('=');
            add_value(&mut out, attribute.attr_value(), known);
        }
    }
    out
}

/// Whether the type has a name.
fn add_type(out: &mut String, oid: &Oid<'_>) -> bool {
    let dotted = oid.to_id_string();
    let found = SHORT_NAMES.iter().find(|(known, _)| *known == dotted);
    out.push_str(found.map_or(&dotted, |(_, name)| name));
    found.is_some()
}

fn add_value(out: &mut String, value: &Any<'_>, is_known: bool) {
    match text_of(value).filter(|_| is_known) {
        Some(text) => escape(out, &text),
        // RFC 2253 section 2.4: in hexadecimal, with its tag and length.
        None => {
            out.push('#');
            let mut header = vec![u8::try_from(value.tag().0).unwrap_or(u8::MAX)];
            match u8::try_from(value.data.len()) {
                Ok(short @ 0..=0x7f) => header.push(short),
                Ok(long) => header.extend([0x81, long]),
                Err(_) => {
                    let length = u16::try_from(value.data.len()).unwrap_or(u16::MAX);
                    header.push(0x82);
                    header.extend(length.to_be_bytes());
                }
            }
            for byte in header.iter().chain(value.data) {
                let _ = write!(out, "{byte:02X}");
            }
        }
    }
}

fn text_of(value: &Any<'_>) -> Option<String> {
    let data = value.data;
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            String::from_utf8(data.to_vec()).ok()
        }
        Tag::T61String => Some(data.iter().copied().map(char::from).collect()),
        Tag::BmpString => {
            let units = data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            String::from_utf16(&units.collect::<Vec<_>>()).ok()
        }
        _ => None,
    }
}

/// RFC 2253 section 2.4; bytes beyond ASCII and control characters in hexadecimal, as OpenSSL does.
fn escape(out: &mut String, text: &str) {
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'#' if at == 0 => out.push_str("\\#"),
            b' ' if at == 0 || at == last => out.push_str("\\ "),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    /// Each expected text is what `openssl x509 -noout -subject -nameopt RFC2253` prints.
    #[test]
    fn names_are_written_as_openssl_writes_them() {
        let table = [
            (&[(DnType::CommonName, "authtls")][..], "CN=authtls"),
            (
                &[
                    (DnType::CountryName, "DE"),
                    (DnType::OrganizationName, "A, B+C"),
                    (DnType::OrganizationalUnitName, "#1 \\ \"x\" <y>;"),
                    (DnType::CommonName, " Jörg "),
                ],
                "CN=\\ J\\C3\\B6rg\\ ,OU=\\#1 \\\\ \\\"x\\\" \\<y\\>\\;,O=A\\, B\\+C,C=DE",
            ),
            (&[(DnType::CustomDnType(vec![1, 2, 3, 4]), "ab")], "1.2.3.4=#0C026162"),
            (&[(DnType::CommonName, "a\r\nb")], "CN=a\\0D\\0Ab"),
            (&[], ""),
        ];
        for (attributes, expected) in table {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            for (kind, value) in attributes {
                params.distinguished_name.push(kind.clone(), *value);
            }
            let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let (_, parsed) = X509Certificate::from_der(made.der()).unwrap();
            assert_eq!(distinguished_name(parsed.subject()), expected);
        }
    }
}
