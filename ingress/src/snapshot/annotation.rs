//! The annotations of an Ingress that are known, and what becomes of each.
//!
//! Pure. The names are those of ingress-nginx; each is read under its prefix and under ours. What
//! those that are served do is in `policy`. `docs/annotations.md` shows this table to users; a
//! test compares both.

use self::Effect::{Diverts, Restricts, Snippet};
use self::Support::{NoEffect, Refused, Served, Unserved};

/// What becomes of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    Served,
    /// To serve the routes without it would open or misdirect what its author closed or directed.
    /// With one of these values it asks for nothing.
    Refused(Effect, &'static [&'static str]),
    /// The routes are served without it; the text says what is missing.
    Unserved(&'static str),
    /// Nothing is missing without it; the text says why.
    NoEffect(&'static str),
}

/// What an annotation that is not served would do to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Restricts,
    Diverts,
    /// Configuration of nginx, whose effect is unknown.
    Snippet,
}

impl Effect {
    /// What the annotation does, to be followed by "which is not supported".
    pub(crate) fn words(self) -> &'static str {
        match self {
            Restricts => "restricts access",
            Diverts => "changes where requests go",
            Snippet => "is nginx configuration, which may restrict access",
        }
    }
}

const NEVER: &[&str] = &[];
/// How a boolean is written that is false, as Go reads it.
pub(super) const FALSE: &[&str] = &["false", "0", "f", "F", "FALSE", "False"];
const SNIPPET: Support = Refused(Snippet, NEVER);
const WAF: Support = Refused(Restricts, FALSE);

const KEPT: Support = NoEffect("connections to the authentication server are always kept");
const OF_FASTCGI: Support = NoEffect("it is for FastCGI endpoints, which are refused");
const STREAMS: Support = NoEffect("bodies are streamed with back-pressure");
const TRACING: Support = NoEffect("all requests are traced with --otlp-endpoint, and none without");
const OLD: Support = NoEffect("no current ingress-nginx reads it");
const CIPHERS: Support = NoEffect("TLS 1.2 and 1.3 have a fixed set of safe ciphers");

/// Every annotation that is known, by name without its prefix, in order.
pub(crate) const ANNOTATIONS: [(&str, Support); 165] = [
    ("add-base-url", OLD),
    ("affinity", Served),
    ("affinity-canary-behavior", Served),
    ("affinity-mode", Served),
    ("allowlist-source-range", Served),
    ("app-root", Served),
    ("auth-always-set-cookie", Served),
    ("auth-cache-duration", NoEffect("the authentication server is asked about every request")),
    ("auth-cache-key", NoEffect("the authentication server is asked about every request")),
    ("auth-keepalive", KEPT),
    ("auth-keepalive-requests", KEPT),
    ("auth-keepalive-share-vars", KEPT),
    ("auth-keepalive-timeout", KEPT),
    ("auth-method", Served),
    ("auth-proxy-set-headers", Unserved("more headers for the authentication server")),
    ("auth-realm", Served),
    ("auth-request-redirect", Served),
    ("auth-response-headers", Served),
    ("auth-secret", Served),
    ("auth-secret-type", Served),
    ("auth-signin", Served),
    ("auth-signin-redirect-param", Served),
    ("auth-snippet", SNIPPET),
    ("auth-tls-error-page", Served),
    ("auth-tls-match-cn", Served),
    ("auth-tls-pass-certificate-to-upstream", Served),
    ("auth-tls-secret", Served),
    ("auth-tls-verify-client", Served),
    ("auth-tls-verify-depth", Served),
    ("auth-type", Served),
    ("auth-url", Served),
    ("backend-protocol", Served),
    ("base-url-scheme", OLD),
    ("canary", Served),
    ("canary-by-cookie", Served),
    ("canary-by-header", Served),
    ("canary-by-header-pattern", Served),
    ("canary-by-header-value", Served),
    ("canary-weight", Served),
    ("canary-weight-total", Served),
    ("client-body-buffer-size", STREAMS),
    ("configuration-snippet", SNIPPET),
    ("connection-proxy-header", Served),
    ("cors-allow-credentials", Served),
    ("cors-allow-headers", Served),
    ("cors-allow-methods", Served),
    ("cors-allow-origin", Served),
    ("cors-expose-headers", Served),
    ("cors-max-age", Served),
    ("custom-headers", Unserved("fields from a ConfigMap: use switchyard.dev/response-headers")),
    ("custom-http-errors", Served),
    ("default-backend", Served),
    ("denylist-source-range", Served),
    ("disable-proxy-intercept-errors", Served),
    ("enable-access-log", Served),
    ("enable-cors", Served),
    ("enable-global-auth", NoEffect("there is no global authentication")),
    ("enable-influxdb", OLD),
    ("enable-modsecurity", WAF),
    ("enable-opentelemetry", TRACING),
    ("enable-opentracing", TRACING),
    ("enable-owasp-core-rules", WAF),
    ("enable-rewrite-log", NoEffect("it is for debugging nginx")),
    ("enable-websockets", OLD),
    ("fastcgi-index", OF_FASTCGI),
    ("fastcgi-params-configmap", OF_FASTCGI),
    ("force-ssl-redirect", Served),
    ("from-to-www-redirect", Served),
    ("global-rate-limit", Served),
    ("global-rate-limit-ignored-cidrs", Served),
    ("global-rate-limit-key", Served),
    ("global-rate-limit-window", Served),
    ("grpc-backend", OLD),
    ("health-check-healthy-threshold", Served),
    ("health-check-interval", Served),
    ("health-check-path", Served),
    ("health-check-protocol", Served),
    ("health-check-timeout", Served),
    ("health-check-unhealthy-threshold", Served),
    ("http2-push-preload", NoEffect("browsers no longer accept HTTP/2 push")),
    ("limit-allowlist", Served),
    ("limit-burst-multiplier", Served),
    ("limit-connections", Served),
    ("limit-rate", Served),
    ("limit-rate-after", Served),
    ("limit-rpm", Served),
    ("limit-rps", Served),
    ("limit-whitelist", Served),
    ("load-balance", Served),
    ("max-connections-per-endpoint", Served),
    ("max-pending-per-endpoint", Served),
    ("mirror-host", Served),
    ("mirror-request-body", Served),
    ("mirror-target", Served),
    ("modsecurity-snippet", SNIPPET),
    ("modsecurity-transaction-id", NoEffect("there is no web application firewall")),
    ("opentelemetry-operation-name", TRACING),
    ("opentelemetry-trust-incoming-span", TRACING),
    ("opentracing-trust-incoming-span", TRACING),
    ("per-try-timeout", Served),
    ("permanent-redirect", Served),
    ("permanent-redirect-code", Served),
    ("preserve-trailing-slash", NoEffect("redirects to HTTPS always keep a trailing slash")),
    ("proxy-body-size", Served),
    ("proxy-buffer-size", STREAMS),
    ("proxy-buffering", STREAMS),
    ("proxy-buffers-number", STREAMS),
    ("proxy-busy-buffers-size", STREAMS),
    ("proxy-connect-timeout", Served),
    ("proxy-cookie-domain", Served),
    ("proxy-cookie-path", Served),
    ("proxy-http-version", Unserved("HTTP/1.0 to endpoints: HTTP/1.1 is used")),
    ("proxy-max-temp-file-size", STREAMS),
    ("proxy-next-upstream", Served),
    ("proxy-next-upstream-timeout", Served),
    ("proxy-next-upstream-tries", Served),
    ("proxy-read-timeout", Served),
    ("proxy-redirect-from", Served),
    ("proxy-redirect-to", Served),
    ("proxy-request-buffering", STREAMS),
    ("proxy-send-timeout", Served),
    ("proxy-ssl-ciphers", CIPHERS),
    ("proxy-ssl-name", Served),
    ("proxy-ssl-protocols", Served),
    ("proxy-ssl-secret", Served),
    ("proxy-ssl-server-name", Served),
    ("proxy-ssl-verify", Served),
    ("proxy-ssl-verify-depth", Served),
    ("relative-redirects", Served),
    ("request-headers", Served),
    ("response-headers", Served),
    ("rewrite-target", Served),
    ("satisfy", Served),
    ("secure-backends", OLD),
    ("server-alias", Served),
    ("server-snippet", SNIPPET),
    ("service-upstream", NoEffect("requests always go to endpoints, never to a ClusterIP")),
    ("session-cookie-change-on-failure", Served),
    ("session-cookie-conditional-samesite-none", Served),
    ("session-cookie-domain", Served),
    ("session-cookie-expires", Served),
    ("session-cookie-hash", OLD),
    ("session-cookie-max-age", Served),
    ("session-cookie-name", Served),
    ("session-cookie-path", Served),
    ("session-cookie-samesite", Served),
    ("session-cookie-secure", Served),
    ("slow-start", Served),
    ("ssl-ciphers", CIPHERS),
    ("ssl-passthrough", Refused(Diverts, FALSE)),
    ("ssl-prefer-server-ciphers", CIPHERS),
    ("ssl-redirect", Served),
    ("stream-snippet", SNIPPET),
    ("temporal-redirect", Served),
    ("temporal-redirect-code", Served),
    ("upstream-fail-timeout", OLD),
    ("upstream-hash-by", Served),
    ("upstream-hash-by-subset", Served),
    ("upstream-hash-by-subset-size", Served),
    ("upstream-vhost", Served),
    ("use-forwarded-headers", OLD),
    ("use-port-in-redirects", Served),
    ("use-regex", Served),
    ("whitelist-source-range", Served),
    ("x-forwarded-prefix", Served),
];

/// Annotations that are served and restrict access. A misspelling of one of these must not leave
/// the routes open.
const RESTRICTING: [&str; 18] = [
    "allowlist-source-range",
    "auth-realm",
    "auth-secret",
    "auth-secret-type",
    "auth-tls-match-cn",
    "auth-tls-secret",
    "auth-tls-verify-client",
    "auth-tls-verify-depth",
    "auth-type",
    "auth-url",
    "denylist-source-range",
    "global-rate-limit",
    "limit-connections",
    "limit-rpm",
    "limit-rps",
    "request-headers",
    "satisfy",
    "whitelist-source-range",
];

/// Whether an annotation that is served restricts access.
pub(crate) fn restricts(name: &str) -> bool {
    RESTRICTING.contains(&name)
}

/// What becomes of an annotation, by its name without the prefix, with that name.
pub(crate) fn support(name: &str) -> Option<(&'static str, Support)> {
    let found = ANNOTATIONS.binary_search_by(|(known, _)| (*known).cmp(name));
    found.ok().map(|at| ANNOTATIONS[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_in_order() {
        assert!(ANNOTATIONS.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(support("ssl-redirect"), Some(("ssl-redirect", Served)));
        assert_eq!(support("sl-redirect"), None);
    }

    /// Users choose by the page, so it says what the code does.
    #[test]
    fn the_page_of_annotations_says_what_the_code_does() {
        let page = include_str!("../../../docs/annotations.md");
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<_> =
            ANNOTATIONS.iter().map(|(name, support)| row(name, *support)).collect();
        let missing: Vec<_> = expected.iter().filter(|row| !rows.contains(&row.as_str())).collect();
        assert!(missing.is_empty(), "docs/annotations.md lacks these rows: {missing:#?}");
        let known = |row: &&str| expected.iter().any(|expected| expected == row);
        let other: Vec<_> = rows.iter().filter(|row| !known(row)).collect();
        assert!(
            other.is_empty(),
            "docs/annotations.md has rows that the code does not: {other:#?}"
        );
    }

    /// An annotation's row of the page.
    fn row(name: &str, support: Support) -> String {
        match support {
            Served => format!("| `{name}` | served | |"),
            Refused(effect, _) => {
                format!("| `{name}` | not served: its routes answer 503 | it {} |", effect.words())
            }
            Unserved(missing) => {
                format!("| `{name}` | ignored, with a warning | missing: {missing} |")
            }
            NoEffect(why) => format!("| `{name}` | no effect | {why} |"),
        }
    }
}
