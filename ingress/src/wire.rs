//! What is spoken to endpoints: the version of HTTP, and what carries it.
//!
//! Pure. The annotation `backend-protocol` of an Ingress decides, else `appProtocol` of the
//! Service's port, else it is plain HTTP/1.1. Left out: how a connection is opened, which is in
//! `upstream`.

/// What an annotation or a Service says about its endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum BackendProtocol {
    /// Plain HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, with prior knowledge.
    Http2,
}

impl BackendProtocol {
    /// The protocol that a value of `appProtocol` stands for, if it is served.
    pub(crate) fn of_app_protocol(value: &str) -> Option<BackendProtocol> {
        let known = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(value));
        if known(&["http", "http/1.1", "tcp", "ws", "kubernetes.io/ws"]) {
            Some(BackendProtocol::Http1)
        } else if known(&["kubernetes.io/h2c", "h2c", "grpc"]) {
            Some(BackendProtocol::Http2)
        } else {
            None
        }
    }

    /// The values of `appProtocol` that are served, for messages.
    pub(crate) const APP_PROTOCOLS: &str = "http, ws, kubernetes.io/ws, kubernetes.io/h2c, grpc";

    /// How it is called in explanations; `None` for plain HTTP/1.1, which goes without saying.
    pub(crate) fn title(self) -> Option<&'static str> {
        match self {
            BackendProtocol::Http1 => None,
            BackendProtocol::Http2 => Some("HTTP/2 without TLS"),
        }
    }
}

/// How one connection to an endpoint is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wire {
    pub(crate) is_http2: bool,
}

impl Wire {
    /// By what the route's annotation says, or else the Service.
    pub(crate) fn of(annotated: Option<BackendProtocol>, of_service: BackendProtocol) -> Wire {
        match annotated.unwrap_or(of_service) {
            BackendProtocol::Http1 => Wire { is_http2: false },
            BackendProtocol::Http2 => Wire { is_http2: true },
        }
    }

    /// What tells connections of one endpoint apart: those of equal keys serve the same requests.
    pub(crate) fn key(&self) -> usize {
        usize::from(self.is_http2)
    }

    /// The scheme of requests over it.
    pub(crate) fn scheme(&self) -> &'static str {
        "http"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_outranks_the_service() {
        use BackendProtocol::{Http1, Http2};
        let table = [
            (None, Http1, false),
            (None, Http2, true),
            (Some(Http1), Http2, false),
            (Some(Http2), Http1, true),
        ];
        for (annotated, of_service, is_http2) in table {
            assert_eq!(Wire::of(annotated, of_service).is_http2, is_http2);
        }
    }

    #[test]
    fn application_protocols_that_are_served() {
        use BackendProtocol::{Http1, Http2};
        let table = [
            ("http", Some(Http1)),
            ("HTTP/1.1", Some(Http1)),
            ("kubernetes.io/ws", Some(Http1)),
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
    }
}
