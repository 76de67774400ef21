//! Why the ingress answered a request itself, as a label of metrics and logs.
//!
//! Pure. What a client is told is in `refusal`.

/// A reason to answer a request without an endpoint's response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Malformed,
    HeadTooLarge,
    HeadTimeout,
    Method,
    Misdirected,
    NoRoute,
    Redirect,
    Preflight,
    NoCertificate,
    BadCertificate,
    Forbidden,
    Unauthorized,
    AuthFailed,
    Limited,
    ErrorPage,
    BodyTooLarge,
    BodyTimeout,
    NotReady,
    Annotation,
    NoEndpoint,
    Busy,
    Unreachable,
    Unanswered,
    BadResponse,
    EndpointTimeout,
}

impl Reason {
    pub(crate) const ALL: [Reason; 25] = [
        Reason::Malformed,
        Reason::HeadTooLarge,
        Reason::HeadTimeout,
        Reason::Method,
        Reason::Misdirected,
        Reason::NoRoute,
        Reason::Redirect,
        Reason::Preflight,
        Reason::NoCertificate,
        Reason::BadCertificate,
        Reason::Forbidden,
        Reason::Unauthorized,
        Reason::AuthFailed,
        Reason::Limited,
        Reason::ErrorPage,
        Reason::BodyTooLarge,
        Reason::BodyTimeout,
        Reason::NotReady,
        Reason::Annotation,
        Reason::NoEndpoint,
        Reason::Busy,
        Reason::Unreachable,
        Reason::Unanswered,
        Reason::BadResponse,
        Reason::EndpointTimeout,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::HeadTooLarge => "head_too_large",
            Reason::HeadTimeout => "head_timeout",
            Reason::Method => "method",
            Reason::Misdirected => "misdirected",
            Reason::NoRoute => "no_route",
            Reason::Redirect => "redirect",
            Reason::Preflight => "preflight",
            Reason::NoCertificate => "no_certificate",
            Reason::BadCertificate => "bad_certificate",
            Reason::Forbidden => "forbidden",
            Reason::Unauthorized => "unauthorized",
            Reason::AuthFailed => "auth_failed",
            Reason::Limited => "limited",
            Reason::ErrorPage => "error_page",
            Reason::BodyTooLarge => "body_too_large",
            Reason::BodyTimeout => "body_timeout",
            Reason::NotReady => "not_ready",
            Reason::Annotation => "annotation",
            Reason::NoEndpoint => "no_endpoint",
            Reason::Busy => "busy",
            Reason::Unreachable => "unreachable",
            Reason::Unanswered => "unanswered",
            Reason::BadResponse => "bad_response",
            Reason::EndpointTimeout => "endpoint_timeout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_counted_at_its_place_in_the_list() {
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "{reason:?}");
        }
    }
}
