//! Secret. Its values must never be printed.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::{Check, ROOT, accept, format};
use crate::model::Secret;
use crate::name::Kind;
use crate::object;
use crate::record::Record;

/// The API's own limit for the sum of all values.
const MAX_BYTES: usize = 1024 * 1024;
const TLS: &str = "kubernetes.io/tls";
const TLS_KEYS: [&str; 2] = ["tls.crt", "tls.key"];

pub fn secret(object: &object::Secret<'_>, check: &mut Check<'_>) -> Option<Record> {
    let kind = Kind::Secret;
    let name = check.name(object.metadata.as_ref(), kind, format::dns_subdomain);
    let secret_type = object.secret_type.as_deref().filter(|t| !t.is_empty()).unwrap_or("Opaque");
    let mut data = data(object, check);
    // As in the API, stringData overrides data.
    let strings = ROOT.key("stringData");
    for (key, value) in object.string_data.iter().flat_map(|map| &map.0) {
        check.expect(strings.key(key), key, format::data_key);
        data.insert(check.text(key), Bytes::copy_from_slice(value.as_bytes()));
    }
    let at = ROOT.key("data");
    if data.values().map(Bytes::len).sum::<usize>() > MAX_BYTES {
        check.error(at, format!("Too long: may not be more than {MAX_BYTES} bytes"));
    }
    if secret_type == TLS {
        for key in TLS_KEYS {
            match data.get(key) {
                None => check.required(at.key(key), ""),
                Some(value) if !has_pem(value) => check.warn(
                    at.key(key),
                    format!("{key} contains no PEM data, so no connection can use it"),
                    "encode the PEM file itself: base64 -w0 FILE, or put it under stringData",
                ),
                Some(_) => {}
            }
        }
    }
    let secret = Secret { name, secret_type: check.text(secret_type), data };
    accept(check, || Record::Secret(Arc::new(secret)))
}

fn data(object: &object::Secret<'_>, check: &mut Check<'_>) -> BTreeMap<Arc<str>, Bytes> {
    let at = ROOT.key("data");
    let mut data = BTreeMap::new();
    for (key, value) in object.data.iter().flat_map(|map| &map.0) {
        check.expect(at.key(key), key, format::data_key);
        // A folded or literal block has line breaks, which Go's decoder skips too.
        let compact: String = value.split(['\n', '\r']).collect();
        match STANDARD.decode(compact.as_bytes()) {
            Ok(bytes) => {
                data.insert(check.text(key), Bytes::from(bytes));
            }
            Err(_) => check.say(
                crate::problem::Level::Error,
                at.key(key),
                "Invalid value: not base64".to_owned(),
                Some("put plain text under stringData instead of data"),
            ),
        }
    }
    data
}

fn has_pem(value: &[u8]) -> bool {
    value.windows(11).any(|window| window == b"-----BEGIN ")
}
