//! Annotations that ask clients for a user and a password.
//!
//! Pure. The Secret that they name is read when the Ingress is compiled.

use std::sync::Arc;

use super::value::{OrElse as _, Read, Unserved};

/// How one Ingress asks for credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BasicAuth {
    pub(crate) on: bool,
    /// The Secret, with its namespace if it is named.
    pub(crate) secret: Option<(Option<Arc<str>>, Arc<str>)>,
    /// Keys of the Secret are users, and values their hashes.
    pub(crate) is_map: bool,
    pub(crate) realm: Arc<str>,
}

impl BasicAuth {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "auth-type" => match value {
                "basic" => {
                    self.on = true;
                    Ok(())
                }
                "digest" => {
                    let what = "digest is not supported; use basic over HTTPS";
                    Err(Unserved::Refused(what.to_owned()))
                }
                _ => Err(Unserved::Refused(format!("{value:?} is not \"basic\""))),
            },
            "auth-secret" => secret(value).or_refuse().map(|secret| self.secret = Some(secret)),
            "auth-secret-type" => match value {
                "auth-file" | "auth-map" => {
                    self.is_map = value == "auth-map";
                    Ok(())
                }
                _ => Err(Unserved::Refused(format!(
                    "{value:?} is not \"auth-file\" or \"auth-map\""
                ))),
            },
            "auth-realm" => realm(value).or_refuse().map(|realm| self.realm = realm),
            _ => return None,
        })
    }
}

fn secret(value: &str) -> Result<(Option<Arc<str>>, Arc<str>), String> {
    let is_name = |name: &str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        !name.is_empty() && name.bytes().all(fits)
    };
    let (namespace, name) = match value.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, value),
    };
    match is_name(name) && namespace.is_none_or(is_name) {
        true => Ok((namespace.map(Arc::from), name.into())),
        false => Err(format!("{value:?} is not the name of a Secret")),
    }
}

fn realm(value: &str) -> Result<Arc<str>, String> {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\' || byte == b' ';
    match value.bytes().all(fits) {
        true => Ok(value.into()),
        false => Err(format!("{value:?} has characters that a realm cannot have")),
    }
}
