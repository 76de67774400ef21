//! Annotations that ask clients for a certificate.
//!
//! Pure. The Secret that they name is read when the Ingress is compiled.

use std::sync::Arc;

use http::HeaderValue;
use regex::{Regex, RegexBuilder};

use super::value::{OrElse as _, Read, Unserved, boolean, number};

/// Certificates between a client's and its authority's that can be asked for.
const MAX_DEPTH: usize = 16;

/// The memory that the pattern of a name may take.
const MAX_PATTERN_BYTES: usize = 64 << 10;

/// How one Ingress asks for certificates.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClientTls {
    /// The Secret of the authorities, as it is written.
    pub(crate) secret: Option<Arc<str>>,
    pub(crate) verify: Option<VerifyClient>,
    pub(crate) depth: Option<usize>,
    pub(crate) error_page: Option<HeaderValue>,
    /// Endpoints get the certificate.
    pub(crate) passes: bool,
    /// What the subject of the certificate is to match.
    pub(crate) subject: Option<Regex>,
    /// The first annotation that means something only with a Secret.
    pub(crate) needs_secret: Option<&'static str>,
}

/// Which requests go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum VerifyClient {
    /// Those with a certificate of an authority.
    #[default]
    On,
    /// All; clients are not asked.
    Off,
    /// Those without a certificate, or with one of an authority.
    Optional,
    /// Also those with a certificate of an authority that is not known.
    OptionalNoCa,
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &ClientTls) -> bool {
        let of = |tls: &ClientTls| {
            let subject = tls.subject.as_ref().map(|subject| subject.as_str().to_owned());
            (
                tls.secret.clone(),
                tls.verify,
                tls.depth,
                tls.error_page.clone(),
                tls.passes,
                subject,
                tls.needs_secret,
            )
        };
        of(self) == of(other)
    }
}

impl ClientTls {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "auth-tls-secret" => {
                self.secret = Some(value.into());
                Ok(())
            }
            "auth-tls-verify-client" => self.verify_client(value),
            // As for nginx, which takes 0 for its default too.
            "auth-tls-verify-depth" => number(value, 0..=MAX_DEPTH)
                .or_default()
                .map(|depth| self.depth = Some(depth.max(1))),
            "auth-tls-error-page" => error_page(value).map(|page| self.error_page = Some(page)),
            "auth-tls-pass-certificate-to-upstream" => {
                boolean(value).or_default().map(|passes| self.passes = passes)
            }
            "auth-tls-match-cn" => {
                self.needs_secret.get_or_insert("auth-tls-match-cn");
                subject(value).or_refuse().map(|subject| self.subject = Some(subject))
            }
            _ => return None,
        })
    }

    fn verify_client(&mut self, value: &str) -> Read {
        let verify = match value {
            "on" => VerifyClient::On,
            "off" => VerifyClient::Off,
            "optional" => VerifyClient::Optional,
            "optional_no_ca" => VerifyClient::OptionalNoCa,
            _ => {
                self.verify = Some(VerifyClient::On);
                self.needs_secret.get_or_insert("auth-tls-verify-client");
                let what = format!(
                    "is taken for \"on\": {value:?} is not \"on\", \"off\", \"optional\" or \
                     \"optional_no_ca\""
                );
                return Err(Unserved::Partly(what));
            }
        };
        self.verify = Some(verify);
        if verify != VerifyClient::Off {
            self.needs_secret.get_or_insert("auth-tls-verify-client");
        }
        Ok(())
    }
}

fn error_page(value: &str) -> Result<HeaderValue, Unserved> {
    let is_url = ["http://", "https://"].iter().any(|scheme| value.starts_with(scheme));
    let url = http::Uri::try_from(value).ok().filter(|url| is_url && url.authority().is_some());
    let page = url.and_then(|_| HeaderValue::try_from(value).ok());
    page.ok_or_else(|| Unserved::Ignored("only a URL can be redirected to: clients get 400".into()))
}

fn subject(value: &str) -> Result<Regex, String> {
    if !value.starts_with("CN=") {
        return Err(format!("{value:?} does not begin with CN="));
    }
    let compiled = RegexBuilder::new(value).size_limit(MAX_PATTERN_BYTES).build();
    compiled.map_err(|error| {
        let error = error.to_string();
        let what = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("{value:?} is not a regular expression: {what}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let mut tls = ClientTls::default();
        let good = [
            ("auth-tls-secret", "default/ca"),
            ("auth-tls-verify-client", "optional_no_ca"),
            ("auth-tls-verify-depth", "0"),
            ("auth-tls-error-page", "https://shop.example/no?x=1"),
            ("auth-tls-pass-certificate-to-upstream", "true"),
            ("auth-tls-match-cn", "CN=(a|authtls)"),
        ];
        for (name, value) in good {
            assert_eq!(tls.read(name, value), Some(Ok(())), "{name}");
        }
        assert_eq!((tls.verify, tls.depth), (Some(VerifyClient::OptionalNoCa), Some(1)));
        let bad = [
            ("auth-tls-verify-client", "yes"),
            ("auth-tls-verify-depth", "-1"),
            ("auth-tls-error-page", "/error"),
            ("auth-tls-error-page", "http:///error"),
            ("auth-tls-pass-certificate-to-upstream", "maybe"),
            ("auth-tls-match-cn", "authtls"),
            ("auth-tls-match-cn", "CN=(a"),
            ("auth-tls-match-cn", "CN=(a{1000}){1000}"),
            ("auth-tls-match-cn", "CN=(?!evil)"),
        ];
        for (name, value) in bad {
            assert!(matches!(tls.read(name, value), Some(Err(_))), "{name}: {value}");
        }
        assert_eq!(tls.verify, Some(VerifyClient::On));
        assert_eq!(ClientTls::default().read("auth-type", "basic"), None);
    }

    #[test]
    fn a_pattern_that_is_broken_refuses() {
        let read = ClientTls::default().read("auth-tls-match-cn", "CN=(");
        assert!(matches!(read, Some(Err(Unserved::Refused(_)))), "{read:?}");
    }
}
