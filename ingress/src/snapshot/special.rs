//! What few routes ask for, compiled once for all routes of an Ingress. A plain route has none.
//!
//! Pure.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use model::ObjectName;

use super::client_rules::ClientRules;
use super::policy::{Affinity, AuthUrl, ExternalAuth, Mirror, Policy, Recording};
use super::response_rules::ResponseRules;
use crate::addresses::AddressSet;
use crate::auth_server::AuthServer;
use crate::credentials::Credentials;
use crate::endpoint_tls::{EndpointTls, TlsSpec};
use crate::template::Template;
use crate::wire::{TlsWire, Wire};
use crate::zone::Zone;

/// The status that is replaced, for what serves in its place.
pub(crate) const X_CODE: &str = "x-code";

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
    /// The addresses that are let in, and those that are not.
    pub(crate) allow: Option<AddressSet>,
    pub(crate) deny: Option<AddressSet>,
    /// Lists of addresses and credentials are alternatives.
    pub(crate) any: bool,
    /// The certificates that clients are to have.
    pub(crate) client: Option<Arc<ClientRules>>,
    pub(crate) limits: Option<LimitRules>,
    pub(crate) basic: Option<BasicRules>,
    pub(crate) external: Option<AuthRules>,
    /// Fields for endpoints; without a text, the client's is left out.
    pub(crate) request_fields: Vec<(HeaderName, Option<Template>)>,
    /// Connections to endpoints are used once.
    pub(crate) close: bool,
    pub(crate) response: Option<Arc<ResponseRules>>,
    /// Bytes a second of each response's body, and those that are sent before.
    pub(crate) pace: Option<(u64, u64)>,
    /// Clients keep their endpoints by a cookie.
    pub(crate) affinity: Option<Affinity>,
    /// A second server gets a copy of each request.
    pub(crate) mirror: Option<Arc<Mirroring>>,
    pub(crate) recording: Recording,
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

/// How requests are limited.
#[derive(Clone, Debug)]
pub(crate) struct LimitRules {
    pub(crate) zone: Arc<Zone>,
    /// Clients that are not limited.
    pub(crate) unlimited: Option<AddressSet>,
    pub(crate) window_unlimited: Option<AddressSet>,
    /// What requests are counted by in a window, if not by the client's address.
    pub(crate) window_key: Option<Template>,
    /// The limits in words.
    pub(crate) words: String,
}

/// How another server is asked about requests.
#[derive(Clone, Debug)]
pub(crate) struct AuthRules {
    pub(crate) server: Arc<AuthServer>,
    /// Path and query.
    pub(crate) target: Template,
    pub(crate) method: Option<Method>,
    pub(crate) signin: Option<Template>,
    pub(crate) signin_param: Box<str>,
    pub(crate) response_fields: Arc<[HeaderName]>,
    pub(crate) request_redirect: Option<Template>,
    pub(crate) always_sets_cookie: bool,
}

impl AuthRules {
    /// Connections are kept while the server stays where it is.
    fn of(policy: &ExternalAuth, before: Option<&AuthRules>) -> Option<AuthRules> {
        let AuthUrl { is_https, host, port, target } = policy.url.as_ref()?;
        let kept = before.filter(|rules| rules.server.is_at(*is_https, host, *port));
        let server = match kept {
            Some(kept) => kept.server.clone(),
            None => Arc::new(AuthServer::new(*is_https, host, *port).ok()?),
        };
        Some(AuthRules {
            server,
            target: target.clone(),
            method: policy.method.clone(),
            signin: policy.signin.clone(),
            signin_param: policy.signin_param.clone().unwrap_or_else(|| "rd".into()),
            response_fields: policy.response_fields.clone().into(),
            request_redirect: policy.request_redirect.clone(),
            always_sets_cookie: policy.always_sets_cookie,
        })
    }
}

/// How credentials are asked for.
#[derive(Clone, Debug)]
pub(crate) struct BasicRules {
    /// The value of WWW-Authenticate.
    pub(crate) challenge: HeaderValue,
    pub(crate) credentials: Arc<Credentials>,
}

impl Special {
    /// What the annotations of one Ingress ask for. Counts go on in the zone of `before`.
    pub(super) fn of(
        policy: &Policy,
        credentials: Option<Arc<Credentials>>,
        before: Option<&Special>,
    ) -> Special {
        let (redirects, rewriting) = (&policy.redirects, &policy.rewriting);
        let (access, headers) = (&policy.access, &policy.headers);
        let redirect = redirects.of_all().map(|(to, status, by)| Redirect {
            status,
            to: RedirectTo::Url(to.clone()),
            relative: redirects.relative,
            by,
        });
        let prefix = rewriting.forwarded_prefix.as_ref().filter(|_| rewriting.target.is_some());
        let challenge = format!("Basic realm=\"{}\"", policy.basic.realm);
        let challenge = HeaderValue::try_from(challenge);
        Special {
            redirect,
            rewrite: rewriting.target.clone(),
            forwarded_prefix: prefix.cloned(),
            upstream_host: rewriting.upstream_host.clone(),
            port_in_redirects: redirects.with_port,
            allow: access.allow.clone(),
            deny: access.deny.clone(),
            any: access.any,
            client: None,
            limits: limits(policy, before),
            basic: credentials
                .zip(challenge.ok())
                .map(|(credentials, challenge)| BasicRules { challenge, credentials }),
            external: AuthRules::of(
                &policy.external_auth,
                before.and_then(|before| before.external.as_ref()),
            ),
            request_fields: headers.request.clone(),
            close: headers.close,
            response: ResponseRules::of(policy),
            pace: access.body_rate.map(|rate| (rate, access.body_rate_after)),
            affinity: policy.affinity.affinity().cloned(),
            mirror: policy.mirror.mirror().and_then(Mirroring::of).map(Arc::new),
            recording: policy.recording,
        }
    }

    /// Only a redirect.
    pub(super) fn redirect(status: StatusCode, to: RedirectTo, by: &'static str) -> Special {
        let redirect = Some(Redirect { status, to, relative: false, by });
        Special { redirect, ..Special::default() }
    }

    /// What a Service is told that serves in the place of another one's errors: by default that
    /// it had no endpoint. Who is not let in to `of` is not let in there either.
    pub(super) fn of_errors(
        of: Option<&Special>,
        ingress: &ObjectName,
        service: &str,
        port: &str,
    ) -> Special {
        let field = |name: &'static str, text: &str| {
            (HeaderName::from_static(name), Template::parse(text).ok())
        };
        let request_fields = vec![
            field(X_CODE, "503"),
            field("x-format", "$http_accept"),
            field("x-original-uri", "$request_uri"),
            field("x-namespace", &ingress.namespace),
            field("x-ingress-name", &ingress.name),
            field("x-service-name", service),
            field("x-service-port", port),
        ];
        let Some(of) = of else { return Special { request_fields, ..Special::default() } };
        Special {
            request_fields,
            allow: of.allow.clone(),
            deny: of.deny.clone(),
            any: of.any,
            client: of.client.clone(),
            limits: of.limits.clone(),
            basic: of.basic.clone(),
            external: of.external.clone(),
            response: of.response.clone(),
            recording: of.recording,
            ..Special::default()
        }
    }

    /// The same for clients with these certificates, unless it asks for others itself.
    pub(super) fn for_clients(of: Option<&Special>, rules: &Arc<ClientRules>) -> Special {
        let special = of.cloned().unwrap_or_default();
        Special { client: Some(special.client.unwrap_or_else(|| rules.clone())), ..special }
    }

    /// The same without a question for credentials.
    pub(super) fn without_credentials(&self) -> Special {
        Special { basic: None, external: None, client: None, ..self.clone() }
    }

    /// Whether there is anything beside forwarding.
    pub(super) fn is_any(&self) -> bool {
        self.redirect.is_some()
            || self.rewrite.is_some()
            || self.upstream_host.is_some()
            || self.port_in_redirects
            || self.allow.is_some()
            || self.deny.is_some()
            || self.client.is_some()
            || self.is_asked()
            || !self.request_fields.is_empty()
            || self.close
            || self.response.is_some()
            || self.pace.is_some()
            || self.affinity.is_some()
            || self.mirror.is_some()
            || self.recording != Recording::default()
    }

    /// Whether not every request is let in.
    pub(crate) fn restricts(&self) -> bool {
        self.allow.is_some() || self.deny.is_some() || self.client.is_some() || self.is_asked()
    }

    /// Whether a request is let in only after it was counted, or its credentials were compared.
    pub(crate) fn is_asked(&self) -> bool {
        self.limits.is_some() || self.asks_credentials()
    }

    /// Whether there is another way in than an address.
    pub(crate) fn asks_credentials(&self) -> bool {
        self.basic.is_some() || self.external.is_some()
    }
}

fn limits(policy: &Policy, before: Option<&Special>) -> Option<LimitRules> {
    let access = &policy.access;
    let rules = access.zone_rules()?;
    let kept = before.and_then(|before| before.limits.as_ref());
    let kept = kept.filter(|limits| *limits.zone.rules() == rules);
    let zone = kept.map(|limits| limits.zone.clone());
    Some(LimitRules {
        zone: zone.unwrap_or_else(|| Arc::new(Zone::new(rules))),
        unlimited: access.unlimited.clone(),
        window_unlimited: access.window_unlimited.clone(),
        window_key: access.window_key.clone(),
        words: access.limits().join(", "),
    })
}
