//! What few routes ask for, compiled once for all routes of an Ingress. A plain route has none.
//!
//! Pure.

use std::sync::Arc;

use http::StatusCode;

use super::policy::{Affinity, Mirror, Policy};
use crate::endpoint_tls::{EndpointTls, TlsSpec};
use crate::template::Template;
use crate::wire::{TlsWire, Wire};

/// What a route does beside forwarding a request as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Special {
    /// Answers every request.
    pub(crate) redirect: Option<Redirect>,
    /// What the path is replaced by.
    pub(crate) rewrite: Option<Template>,
    /// X-Forwarded-Prefix for endpoints.
    pub(crate) forwarded_prefix: Option<Template>,
    /// The Host that endpoints get.
    pub(crate) upstream_host: Option<Template>,
    /// A redirect to HTTPS names our own port to all clients.
    pub(crate) port_in_redirects: bool,
    /// Clients keep their endpoints by a cookie.
    pub(crate) affinity: Option<Affinity>,
    /// A second server gets a copy of each request.
    pub(crate) mirror: Option<Arc<Mirroring>>,
}

/// Where copies of requests go, and how.
#[derive(Clone, Debug)]
pub(crate) struct Mirroring {
    pub(crate) mirror: Mirror,
    pub(crate) wire: Wire,
}

impl Mirroring {
    fn of(mirror: Mirror) -> Option<Mirroring> {
        let name: Box<str> = mirror.authority.host().into();
        let tls = match mirror.is_https {
            true => {
                let spec =
                    TlsSpec { name: Some(name.clone()), tells_name: true, ..TlsSpec::default() };
                let settings = Arc::new(EndpointTls::new(spec, None).ok()?);
                Some(Arc::new(TlsWire { settings, name: Some(name.into()) }))
            }
            false => None,
        };
        Some(Mirroring { mirror, wire: Wire { is_http2: false, tls } })
    }
}

/// A redirect of requests.
#[derive(Clone, Debug)]
pub(crate) struct Redirect {
    pub(crate) status: StatusCode,
    pub(crate) to: RedirectTo,
    /// A path stays without scheme and host.
    pub(crate) relative: bool,
    /// The annotation that asks for it, without its prefix.
    pub(crate) by: &'static str,
}

#[derive(Clone, Debug)]
pub(crate) enum RedirectTo {
    Url(Template),
    /// To the same path of this host.
    Host(Arc<str>),
}

impl Special {
    /// What the annotations of one Ingress ask for.
    pub(super) fn of(policy: &Policy) -> Special {
        let (redirects, rewriting) = (&policy.redirects, &policy.rewriting);
        let redirect = redirects.of_all().map(|(to, status, by)| Redirect {
            status,
            to: RedirectTo::Url(to.clone()),
            relative: redirects.relative,
            by,
        });
        let prefix = rewriting.forwarded_prefix.as_ref().filter(|_| rewriting.target.is_some());
        Special {
            redirect,
            rewrite: rewriting.target.clone(),
            forwarded_prefix: prefix.cloned(),
            upstream_host: rewriting.upstream_host.clone(),
            port_in_redirects: redirects.with_port,
            affinity: policy.affinity.affinity().cloned(),
            mirror: policy.mirror.mirror().and_then(Mirroring::of).map(Arc::new),
        }
    }

    /// Only a redirect.
    pub(super) fn redirect(status: StatusCode, to: RedirectTo, by: &'static str) -> Special {
        let redirect = Some(Redirect { status, to, relative: false, by });
        Special { redirect, ..Special::default() }
    }

    /// Whether there is anything beside forwarding.
    pub(super) fn is_any(&self) -> bool {
        let Special {
            redirect,
            rewrite,
            forwarded_prefix,
            upstream_host,
            port_in_redirects,
            affinity,
            mirror,
        } = self;
        redirect.is_some()
            || rewrite.is_some()
            || forwarded_prefix.is_some()
            || upstream_host.is_some()
            || *port_in_redirects
            || affinity.is_some()
            || mirror.is_some()
    }
}
