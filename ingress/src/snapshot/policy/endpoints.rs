//! Annotations that say what endpoints speak, and what is expected of their certificates.
//!
//! Pure.

use std::sync::Arc;

use super::value::{OrElse as _, Read, number, switch};
use crate::endpoint_tls::{EndpointTls, TlsSpec, Versions};
use crate::wire::BackendProtocol;

/// Certificates that may be between an endpoint's and its authority's.
const MAX_DEPTH: usize = 10;

/// How the endpoints of one Ingress are spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// What they speak, whatever their Service says.
    pub(crate) protocol: Option<BackendProtocol>,
    /// What annotations ask of TLS, if they ask for anything.
    pub(crate) tls_spec: Option<TlsSpec>,
    /// The Secret with our certificate and their authorities: its name, perhaps with a namespace.
    pub(crate) tls_secret: Option<Box<str>>,
    /// What both come to, once the Secret was looked up.
    pub(crate) tls: Option<Arc<EndpointTls>>,
}

impl Endpoints {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "backend-protocol" => self.protocol(value),
            "proxy-ssl-secret" => {
                self.tls_secret = Some(value.into());
                Ok(())
            }
            "proxy-ssl-verify" => self.verify(value),
            "proxy-ssl-verify-depth" => self.depth(value),
            "proxy-ssl-name" => self.name(value),
            "proxy-ssl-server-name" => self.server_name(value),
            "proxy-ssl-protocols" => self.versions(value),
            _ => return None,
        })
    }

    fn spec(&mut self) -> &mut TlsSpec {
        self.tls_spec.get_or_insert_default()
    }

    /// A value that is not known may mean TLS: to send requests in clear text could reveal them.
    fn protocol(&mut self, value: &str) -> Read {
        let protocol = BackendProtocol::of_annotation(value).ok_or_else(|| {
            format!("{value:?} is not supported (supported: HTTP, HTTPS, GRPC, GRPCS, AUTO_HTTP)")
        });
        self.protocol = Some(protocol.or_refuse()?);
        Ok(())
    }

    fn verify(&mut self, value: &str) -> Read {
        self.spec().verifies = switch(value).or_refuse()?;
        Ok(())
    }

    fn depth(&mut self, value: &str) -> Read {
        self.spec().depth = number(value, 0..=MAX_DEPTH).or_default()?;
        Ok(())
    }

    fn name(&mut self, value: &str) -> Read {
        let is_name = rustls_pki_types::ServerName::try_from(value).is_ok();
        let name = is_name.then_some(value).ok_or_else(|| format!("{value:?} is not a host name"));
        self.spec().name = Some(name.or_refuse()?.into());
        Ok(())
    }

    fn server_name(&mut self, value: &str) -> Read {
        self.spec().tells_name = switch(value).or_default()?;
        Ok(())
    }

    fn versions(&mut self, value: &str) -> Read {
        let has = |version: &str| value.split_ascii_whitespace().any(|word| word == version);
        let versions = Versions { tls12: has("TLSv1.2"), tls13: has("TLSv1.3") };
        let known = versions.tls12 || versions.tls13;
        let words = || format!("{value:?} has no version that is supported (TLSv1.2, TLSv1.3)");
        self.spec().versions = known.then_some(versions).ok_or_else(words).or_default()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::policy::value::Unserved;

    fn read(lines: &[(&str, &str)]) -> Result<Endpoints, Unserved> {
        let mut endpoints = Endpoints::default();
        for (name, value) in lines {
            endpoints.read(name, value).unwrap()?;
        }
        Ok(endpoints)
    }

    #[test]
    fn values_that_are_served() {
        let found = read(&[
            ("backend-protocol", "grpcs"),
            ("proxy-ssl-secret", "default/ca"),
            ("proxy-ssl-verify", "on"),
            ("proxy-ssl-verify-depth", "3"),
            ("proxy-ssl-name", "in.example"),
            ("proxy-ssl-server-name", "on"),
            ("proxy-ssl-protocols", "TLSv1.1 TLSv1.3"),
        ]);
        let spec = TlsSpec {
            name: Some("in.example".into()),
            tells_name: true,
            verifies: true,
            depth: 3,
            versions: Versions { tls12: false, tls13: true },
        };
        let expected = Endpoints {
            protocol: Some(BackendProtocol::Http2OverTls),
            tls_spec: Some(spec),
            tls_secret: Some("default/ca".into()),
            tls: None,
        };
        assert_eq!(found, Ok(expected));
    }

    /// A wrong value of what protects the way to endpoints must not leave it unprotected.
    #[test]
    fn wrong_values_take_routes_out_of_service_where_they_protect() {
        let table = [
            ("backend-protocol", "FCGI", true),
            ("backend-protocol", "HTTPZ", true),
            ("proxy-ssl-verify", "yes", true),
            ("proxy-ssl-name", "a b", true),
            ("proxy-ssl-verify-depth", "-1", false),
            ("proxy-ssl-server-name", "yes", false),
            ("proxy-ssl-protocols", "SSLv3", false),
        ];
        for (name, value, is_refused) in table {
            let found = read(&[(name, value)]).unwrap_err();
            assert_eq!(matches!(found, Unserved::Refused(_)), is_refused, "{name} {value}");
        }
    }
}
