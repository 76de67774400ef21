//! What becomes of a request that was checked: it is forwarded by a plan to one of some endpoints,
//! or answered.
//!
//! Pure. `explain` calls the same function, so that it cannot tell anything else than what
//! requests meet.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::Guard;
use balance::Split;
use http::header::{self, HeaderMap};
use http::{HeaderValue, Method, StatusCode, Uri, Version};

use super::clients::{ClientDecision, ClientTlsFacts, Identity, decide_client, tell, unasked};
use crate::addresses::AddressSet;
use crate::client_certificate::ClientCertificate;
use crate::head::{Framing, HeadEdits};
use crate::origin::{Origin, Rules, scheme_name};
use crate::refusal::Refusal;
use crate::route::{host_of, normalise, port_of};
use crate::snapshot::{
    ClientRules, Endpoints, Plan, Redirect, RedirectTo, Route, Side, Snapshot, Special,
};
use crate::template::{AddsText, Captures, Place, Template, Values};

/// What of a request decides where it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) method: &'a Method,
    pub(crate) version: Version,
    /// As the client wrote it.
    pub(crate) uri: &'a Uri,
    /// Host and port, as the client wrote them.
    pub(crate) authority: &'a str,
    /// The normalised path.
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
    /// The client reached us, or the first proxy before us, over TLS.
    pub(crate) is_https: bool,
    /// The host that the client named in its TLS hello.
    pub(crate) server_name: Option<&'a str>,
    /// The client was asked for a certificate.
    pub(crate) certificate: Option<&'a ClientCertificate>,
    pub(crate) framing: Framing,
    pub(crate) origin: &'a Origin,
    pub(crate) rules: &'a Rules,
    pub(crate) request_id: AddsText<'a>,
    /// There is no such request: nothing is known of its client.
    pub(crate) is_imagined: bool,
    /// Takes a turn of a canary and its main route: whether it is the canary's.
    pub(crate) turn: fn(&Split) -> bool,
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Decision<'s> {
    /// It is forwarded by the route's plan to one of the endpoints, of which there is at least
    /// one.
    Forward { route: &'s Arc<Route>, endpoints: Guard<Arc<Endpoints>> },
    /// It is answered here, by a route or because there is none.
    Answer { refusal: Refusal, route: Option<&'s Arc<Route>> },
}

/// How a request reaches its endpoint, where that is not as it came.
#[derive(Debug, Default)]
pub(crate) struct Forwarding {
    /// The path instead of the normalised one.
    pub(crate) path: Option<String>,
    pub(crate) edits: HeadEdits,
}

/// What lists of addresses say of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressAccess {
    /// Nothing: there are none.
    Open,
    Allowed,
    Denied,
}

/// Decides by the route's lists of addresses. Those that are denied come first.
pub(crate) fn address_access(special: &Special, facts: &Facts<'_>) -> AddressAccess {
    if special.allow.is_none() && special.deny.is_none() {
        return AddressAccess::Open;
    }
    // Where nothing is known of the client, what a client meets that is let in.
    let Some(client) = facts.known_client() else { return AddressAccess::Allowed };
    let is_in = |set: &Option<AddressSet>| set.as_ref().map(|set| set.contains(client));
    match (is_in(&special.deny), is_in(&special.allow)) {
        (Some(true), _) | (_, Some(false)) => AddressAccess::Denied,
        _ => AddressAccess::Allowed,
    }
}

/// Decides by a snapshot.
pub(crate) fn decide<'s>(snapshot: &'s Snapshot, facts: &Facts<'_>) -> Decision<'s> {
    let answer = |refusal| Decision::Answer { refusal, route: None };
    let Ok(host) = host_of(facts.authority) else {
        return answer(Refusal::Malformed("bad Host"));
    };
    let Some(route) = snapshot.route(&host, facts.path) else {
        if !snapshot.synced {
            return answer(Refusal::NotReady);
        }
        let known = snapshot.knows_host(&host);
        return answer(Refusal::NoRoute { host: known.then(|| host.into_owned()) });
    };
    if facts.server_name.is_some_and(|name| snapshot.is_misdirected(name, &host)) {
        return answer(Refusal::Misdirected);
    }
    let endpoints = route.backend.endpoints();
    match refusal_by_plan(route, &endpoints, facts, &host) {
        Some(refusal) => match instead(route, &refusal) {
            Some((route, endpoints)) => Decision::Forward { route, endpoints },
            None => Decision::Answer { refusal, route: Some(route) },
        },
        None => match canary_of(route, facts) {
            Some(route) => Decision::Forward { route, endpoints: route.backend.endpoints() },
            None => Decision::Forward { route, endpoints },
        },
    }
}

/// The route by a canary, if the request goes there.
fn canary_of<'r>(route: &'r Route, facts: &Facts<'_>) -> Option<&'r Arc<Route>> {
    let canary = route.canary.as_deref()?;
    let alternative = Some(&canary.route).filter(|r| r.backend.endpoints().unserved().is_none())?;
    if canary.is_sticky
        && let Some(affinity) = route.affinity()
    {
        if affinity.is_of(facts.headers, &route.backend.key) {
            return None;
        }
        if affinity.is_of(facts.headers, &alternative.backend.key) {
            return Some(alternative);
        }
    }
    let is_canary = match canary.rules.side(facts.headers) {
        Side::Main(_) => false,
        Side::Canary(_) => true,
        Side::Turns { .. } => (facts.turn)(&canary.split),
    };
    is_canary.then_some(alternative)
}

/// What serves in the place of a route that has no endpoint.
fn instead<'s>(
    route: &'s Route,
    refusal: &Refusal,
) -> Option<(&'s Arc<Route>, Guard<Arc<Endpoints>>)> {
    let errors = route.errors.as_deref().filter(|_| matches!(refusal, Refusal::NoEndpoint(_)))?;
    let endpoints = errors.route.backend.endpoints();
    endpoints.unserved().is_none().then_some((&errors.route, endpoints))
}

/// Why the route does not forward the request. The order is that of ingress-nginx.
fn refusal_by_plan(
    route: &Route,
    endpoints: &Endpoints,
    facts: &Facts<'_>,
    host: &str,
) -> Option<Refusal> {
    let plan = &route.plan;
    if let Some(annotation) = plan.refused {
        return Some(Refusal::Annotation(annotation));
    }
    let special = plan.special.as_deref();
    if let Some(rules) = special.and_then(|special| special.client.as_deref())
        && let Some(refusal) = refusal_by_certificate(rules, plan, facts, host)
    {
        return Some(refusal);
    }
    if let Some(special) = special
        && let Some(refusal) = answer_by_special(special, route, facts, host)
    {
        return Some(refusal);
    }
    if let Some(https_port) = plan.https_redirect
        && !facts.is_https
    {
        let with_port = special.is_some_and(|special| special.port_in_redirects);
        return Some(to_https(host, https_port, with_port, facts));
    }
    if let Some(special) = special
        && address_access(special, facts) == AddressAccess::Denied
        && !(special.any && special.asks_credentials())
    {
        return Some(Refusal::Forbidden);
    }
    if let Some(unserved) = endpoints.unserved() {
        return Some(Refusal::NoEndpoint(unserved));
    }
    if matches!(facts.framing, Framing::Length(length) if length > plan.max_body) {
        return Some(Refusal::BodyTooLarge);
    }
    None
}

/// Why a client without a certificate, or with a bad one, is not let in.
fn refusal_by_certificate(
    rules: &ClientRules,
    plan: &Plan,
    facts: &Facts<'_>,
    host: &str,
) -> Option<Refusal> {
    let is_tls = facts.origin.https;
    // Where nothing is known of the client, what a client meets that is let in.
    if facts.is_imagined && is_tls {
        return None;
    }
    let Facts { certificate, server_name, .. } = *facts;
    match decide_client(rules, ClientTlsFacts { certificate, is_tls, server_name }, host) {
        ClientDecision::GoOn => None,
        ClientDecision::Refuse(refusal) => Some(refusal),
        ClientDecision::ToHttps if facts.is_https => Some(unasked(rules)),
        ClientDecision::ToHttps => Some(to_https(host, plan.https_port, false, facts)),
    }
}

/// To the same place over HTTPS: at our own port for a client that named a port, because it
/// reached us directly; at the default port for one that did not, whatever maps that to us.
fn to_https(host: &str, https_port: u16, with_port: bool, facts: &Facts<'_>) -> Refusal {
    let port = match port_of(facts.authority).is_some() || with_port {
        true if https_port != 443 => format!(":{https_port}"),
        _ => String::new(),
    };
    let query = facts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = format!("https://{host}{port}{}{query}", facts.path);
    redirect(StatusCode::PERMANENT_REDIRECT, location)
}

fn redirect(status: StatusCode, location: String) -> Refusal {
    match HeaderValue::try_from(location) {
        Ok(location) => Refusal::Redirect { status, location },
        Err(_) => Refusal::Malformed("bad path"),
    }
}

/// What a route that few have answers whatever its endpoints are: preflights and redirects.
fn answer_by_special(
    special: &Special,
    route: &Route,
    facts: &Facts<'_>,
    host: &str,
) -> Option<Refusal> {
    let origin_form =
        |path: &str| format!("{}://{}{path}", scheme_name(facts.is_https), facts.authority);
    if *facts.method == Method::OPTIONS
        && let Some(cors) = special.response.as_ref().and_then(|response| response.cors.as_ref())
        && cors.allowed(facts.headers).is_some()
    {
        return Some(Refusal::Preflight);
    }
    if let Some(Redirect { status, to, relative, .. }) = &special.redirect {
        let location = match to {
            RedirectTo::Url(url) => match facts.render(url, route, host) {
                path if path.starts_with('/') && !*relative => origin_form(&path),
                url => url.into_owned(),
            },
            RedirectTo::Host(host) => facts.at_host(host),
        };
        return Some(redirect(*status, location));
    }
    let url = special.rewrite.as_ref().filter(|target| target.start().starts_with("http"))?;
    let captures = captures(route, facts.path);
    let mut location = url.render_captures(&captures);
    if !["http://", "https://"].iter().any(|scheme| location.starts_with(scheme)) {
        return None;
    }
    if let Some(query) = facts.uri.query() {
        location.push('?');
        location.push_str(query);
    }
    Some(redirect(StatusCode::FOUND, location))
}

/// How a request that is forwarded by such a route reaches the endpoint.
pub(crate) fn forwarding(special: &Special, route: &Route, facts: &Facts<'_>) -> Forwarding {
    let mut forwarding = Forwarding::default();
    let captures = captures(route, facts.path);
    if let Some(target) = &special.rewrite {
        forwarding.path = Some(rewritten(target, &captures));
    }
    let host = host_of(facts.authority).unwrap_or_default();
    let port = route.backend.key.port_text();
    let mut values = facts.values(route, &host, &port, &captures);
    // Who was let in by their address may bring credentials that were never compared.
    values.names_user = !(special.any && special.asks_credentials());
    if let Some(path) = &forwarding.path {
        values.path = path;
    }
    let edits = &mut forwarding.edits;
    if let Some(prefix) = &special.forwarded_prefix {
        edits.set("x-forwarded-prefix", &prefix.render_captures(&captures));
    }
    for (name, text) in &special.request_fields {
        let value = text.as_ref().map(|text| text.render(&values)).unwrap_or_default();
        edits.replace(name.clone(), &value);
    }
    if let Some(rules) = &special.client {
        tell(rules, facts.identity(rules), edits);
    }
    if special.basic.is_some() {
        edits.removed.push(header::AUTHORIZATION);
    }
    edits.close = special.close;
    edits.host = special.upstream_host.as_ref().map(|host| host.render(&values));
    forwarding
}

/// The path that a target and what the path's pattern matched come to. Dot segments, which captures
/// may be joined to, are resolved here, so that endpoints do not leave the target's folder.
fn rewritten(target: &Template, captures: &[&str]) -> String {
    let mut path = target.render_captures(captures);
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    let has_dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    match has_dots.then(|| normalise(&path)) {
        Some(Ok(normal)) => normal.into_owned(),
        Some(Err(_)) => "/".to_owned(),
        None => path,
    }
}

fn captures<'p>(route: &Route, path: &'p str) -> Captures<'p> {
    route.pattern.as_ref().map(|pattern| pattern.captures(path)).unwrap_or_default()
}

impl<'a> Facts<'a> {
    /// A text with variables, for this request.
    fn render<'t>(&self, template: &'t Template, route: &Route, host: &str) -> Cow<'t, str> {
        if let Some(text) = template.as_text() {
            return Cow::Borrowed(text);
        }
        let captures = captures(route, self.path);
        let port = route.backend.key.port_text();
        Cow::Owned(template.render(&self.values(route, host, &port, &captures)))
    }

    /// The address of the client, by what trusted proxies say.
    pub(crate) fn client(&self) -> IpAddr {
        self.origin.client(self.headers, self.rules)
    }

    /// The same; `None` if the request is only imagined.
    fn known_client(&self) -> Option<IpAddr> {
        (!self.is_imagined).then(|| self.client())
    }

    /// What is known of the client's certificate.
    pub(crate) fn identity(&self, rules: &ClientRules) -> Identity<'a> {
        Identity::of(rules, self.certificate)
    }

    /// A text with variables, for this request.
    pub(crate) fn text(&self, template: &Template, route: &Route) -> String {
        let host = host_of(self.authority).unwrap_or_default();
        self.render(template, route, &host).into_owned()
    }

    /// What variables stand for.
    pub(crate) fn values<'v>(
        &self,
        route: &'v Route,
        host: &'v str,
        service_port: &'v str,
        captures: &'v [&'v str],
    ) -> Values<'v>
    where
        'a: 'v,
    {
        let key = &route.backend.key;
        let rules = route.plan.special.as_ref().and_then(|special| special.client.as_deref());
        let identity = rules.map_or_else(Identity::unknown, |rules| self.identity(rules));
        Values {
            method: self.method.as_str(),
            version: self.version,
            is_https: self.is_https,
            authority: self.authority,
            host,
            written_path: self.uri.path(),
            path: self.path,
            query: self.uri.query(),
            headers: self.headers,
            origin: self.origin,
            client: self.client(),
            request_id: self.request_id,
            names_user: true,
            client_verify: identity.verification.as_str(),
            client_subject: identity.subject(),
            client_issuer: identity.issuer(),
            captures,
            place: Place {
                ingress: &route.ingress,
                service: &key.service.name,
                service_port,
                path: route.path.as_ref().map_or("/", |(_, path)| path),
            },
        }
    }

    /// The same place at another host, at the port that the client named.
    fn at_host(&self, host: &str) -> String {
        let scheme = scheme_name(self.is_https);
        let port = port_of(self.authority).map(|port| format!(":{port}")).unwrap_or_default();
        let query = self.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let target = format!("{}{query}", self.path);
        format!("{scheme}://{host}{port}{}", target.strip_suffix('/').unwrap_or(&target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_do_not_leave_the_folder_of_the_target() {
        let table = [
            ("/", &["/x"][..], "/"),
            ("/new/$1", &["/foo/bar", "bar"], "/new/bar"),
            ("/$1", &["/foo", ""], "/"),
            ("/a/$1", &["/x//y", "/y"], "/a//y"),
            ("$1", &["/foo", "foo"], "/foo"),
            ("/a/b/$1/secret", &["/...x", ".."], "/a/secret"),
        ];
        for (target, captures, expected) in table {
            let target = Template::parse(target).unwrap();
            assert_eq!(rewritten(&target, captures), expected, "{target:?} {captures:?}");
        }
    }
}
