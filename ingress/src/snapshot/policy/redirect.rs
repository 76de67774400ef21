//! Annotations that answer with a redirect.
//!
//! Pure.

use super::value::{OrElse as _, Read, boolean};

/// The redirects of one Ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Redirects {
    pub(crate) to_https: ToHttps,
}

/// When plain HTTP is answered with a redirect to HTTPS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToHttps {
    #[default]
    Never,
    /// For hosts that the Ingress has a TLS entry for.
    WhereTls,
    Always,
}

impl Redirects {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "ssl-redirect" => self.read_to_https(ToHttps::WhereTls, value),
            "force-ssl-redirect" => self.read_to_https(ToHttps::Always, value),
            _ => return None,
        })
    }

    fn read_to_https(&mut self, wanted: ToHttps, value: &str) -> Read {
        let on = boolean(value).or_default()?;
        if on && self.to_https != ToHttps::Always {
            self.to_https = wanted;
        } else if !on && self.to_https == wanted {
            self.to_https = ToHttps::Never;
        }
        Ok(())
    }
}
