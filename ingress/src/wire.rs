//! What is spoken to endpoints: the version of HTTP, and what carries it.
//!
//! Pure. The annotation `backend-protocol` of an Ingress decides, else `appProtocol` of the
//! Service's port, else it is plain HTTP/1.1. Left out: how a connection is opened, which is in
//! `upstream`.

use std::sync::Arc;

use crate::endpoint_tls::EndpointTls;

/// What an annotation or a Service says about its endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum BackendProtocol {
    /// Plain HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, with prior knowledge.
    Http2,
    Http1OverTls,
    Http2OverTls,
    /// HTTP/1.1, over TLS for clients that came over TLS.
    Http1AsClient,
}

use BackendProtocol::{Http1, Http1AsClient, Http1OverTls, Http2, Http2OverTls};

impl BackendProtocol {
    /// The protocol that a value of `appProtocol` stands for, if it is served.
    pub(crate) fn of_app_protocol(value: &str) -> Option<BackendProtocol> {
        Some(match value.to_ascii_lowercase().as_str() {
            "http" | "http/1.1" | "tcp" | "ws" | "kubernetes.io/ws" => Http1,
            "https" | "wss" | "kubernetes.io/wss" => Http1OverTls,
            "h2c" | "kubernetes.io/h2c" | "grpc" => Http2,
            "grpcs" => Http2OverTls,
            _ => return None,
        })
    }

    /// The values of `appProtocol` that are served, for messages.
    pub(crate) const APP_PROTOCOLS: &str =
        "http, https, kubernetes.io/ws, kubernetes.io/wss, kubernetes.io/h2c, grpc, grpcs";

    /// The protocol that a value of the annotation stands for, if it is served.
    pub(crate) fn of_annotation(value: &str) -> Option<BackendProtocol> {
        Some(match value.to_ascii_uppercase().as_str() {
            "HTTP" => Http1,
            "HTTPS" => Http1OverTls,
            "GRPC" => Http2,
            "GRPCS" => Http2OverTls,
            "AUTO_HTTP" => Http1AsClient,
            _ => return None,
        })
    }

    /// How it is called in explanations; `None` for plain HTTP/1.1, which goes without saying.
    pub(crate) fn title(self) -> Option<&'static str> {
        match self {
            Http1 => None,
            Http2 => Some("HTTP/2 without TLS"),
            Http1OverTls => Some("HTTPS"),
            Http2OverTls => Some("HTTP/2 with TLS"),
            Http1AsClient => Some("HTTPS if the client used HTTPS"),
        }
    }

    /// Whether TLS is spoken for any client.
    pub(crate) fn uses_tls(self) -> bool {
        matches!(self, Http1OverTls | Http2OverTls | Http1AsClient)
    }
}

/// How one connection to an endpoint is made. Connections whose wires are equal serve the same
/// requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wire {
    pub(crate) is_http2: bool,
    /// Behind a pointer, because most requests have none.
    pub(crate) tls: Option<Arc<TlsWire>>,
}

/// TLS to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TlsWire {
    pub(crate) settings: Arc<EndpointTls>,
    /// The name of the endpoint, where it matters.
    pub(crate) name: Option<Arc<str>>,
}

/// What a request has to do with the choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    /// The client's connection is over TLS.
    pub(crate) over_tls: bool,
    /// Host and port, as the client wrote them.
    pub(crate) authority: &'a str,
}

impl Wire {
    /// For endpoints that speak `protocol`.
    pub(crate) fn new(
        protocol: BackendProtocol,
        tls: Option<&Arc<EndpointTls>>,
        asking: Asking<'_>,
    ) -> Wire {
        let is_http2 = matches!(protocol, Http2 | Http2OverTls);
        let over_tls = match protocol {
            Http1 | Http2 => false,
            Http1OverTls | Http2OverTls => true,
            Http1AsClient => asking.over_tls,
        };
        if !over_tls {
            return Wire { is_http2, tls: None };
        }
        let settings = tls.cloned().unwrap_or_else(EndpointTls::unverified);
        let name = settings.needs_name().then(|| match &settings.spec.name {
            Some(name) => Arc::from(&**name),
            None => Arc::from(host_part(asking.authority)),
        });
        Wire { is_http2, tls: Some(Arc::new(TlsWire { settings, name })) }
    }

    /// The scheme of requests over it.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// The host without its port, and without the brackets of an IPv6 address.
fn host_part(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default().trim_end_matches('.'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint_tls::TlsSpec;

    fn asking(over_tls: bool, authority: &str) -> Asking<'_> {
        Asking { over_tls, authority }
    }

    #[test]
    fn each_protocol_has_its_wire() {
        let table = [
            (Http1, true, false, "http"),
            (Http2, true, true, "http"),
            (Http1OverTls, false, false, "https"),
            (Http2OverTls, false, true, "https"),
            (Http1AsClient, false, false, "http"),
            (Http1AsClient, true, false, "https"),
        ];
        for (protocol, over_tls, is_http2, scheme) in table {
            let wire = Wire::new(protocol, None, asking(over_tls, "a.com"));
            assert_eq!((wire.is_http2, wire.scheme()), (is_http2, scheme), "{protocol:?}");
        }
    }

    /// Connections are not shared where the endpoint was told, or was asked for, another name.
    #[test]
    fn a_name_tells_connections_apart_only_where_it_matters() {
        let of = |spec: &TlsSpec| {
            let settings = Arc::new(EndpointTls::new(spec.clone(), None).unwrap());
            let wire =
                |host| Wire::new(Http1OverTls, Some(&settings), asking(true, host)).tls.unwrap();
            (wire("a.com:8443"), wire("b.com"))
        };
        let (a, b) = of(&TlsSpec::default());
        assert_eq!((a.name.as_deref(), a == b), (None, true));
        let (a, b) = of(&TlsSpec { tells_name: true, ..TlsSpec::default() });
        assert_eq!((a.name.as_deref(), a == b), (Some("a.com"), false));
        let named = Some("in.example".into());
        let (a, b) = of(&TlsSpec { name: named, tells_name: true, ..TlsSpec::default() });
        assert_eq!((a.name.as_deref(), a == b), (Some("in.example"), true));
        assert_eq!(host_part("[2001:db8::1]:443"), "2001:db8::1");
    }

    #[test]
    fn values_that_are_served() {
        let table = [
            ("http", Some(Http1)),
            ("HTTP/1.1", Some(Http1)),
            ("kubernetes.io/ws", Some(Http1)),
            ("HTTPS", Some(Http1OverTls)),
            ("kubernetes.io/wss", Some(Http1OverTls)),
            ("kubernetes.io/h2c", Some(Http2)),
            ("grpc", Some(Http2)),
            ("fcgi", None),
            ("", None),
        ];
        for (value, expected) in table {
            assert_eq!(BackendProtocol::of_app_protocol(value), expected, "{value}");
        }
        for value in BackendProtocol::APP_PROTOCOLS.split(", ") {
            assert!(BackendProtocol::of_app_protocol(value).is_some(), "{value}");
        }
        let table = [("http", Some(Http1)), ("grpcs", Some(Http2OverTls)), ("FCGI", None)];
        for (value, expected) in table {
            assert_eq!(BackendProtocol::of_annotation(value), expected, "{value}");
        }
    }
}
