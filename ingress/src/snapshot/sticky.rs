//! Cookies by which clients keep their endpoints.
//!
//! Pure: the time and what is random are arguments. The value of a cookie is a key and, after a
//! `|`, what names the backend, so that a canary and its main Ingress tell their clients apart.
//! The key of a persistent cookie is a hash of its endpoint; other keys are random, and lead to an
//! endpoint by consistent hashing.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderValue};

use super::backend::{BackendKey, Endpoints};
use super::endpoint::Endpoint;
use super::policy::{Affinity, SameSite};
use crate::template::cookie;

/// So many random keys are tried until one leads to the endpoint that answered; beyond any
/// number of endpoints for which that fails often.
const MAX_KEYS: usize = 20_000;

/// The same for each endpoint: for one in a million, no key is found.
const KEYS_EACH: usize = 16;

/// Marks the names of backends and endpoints apart from other hashes.
fn name_of(of: impl std::hash::Hash) -> String {
    format!("{:016x}", balance::hash_of(of))
}

fn backend_name(backend: &BackendKey) -> String {
    name_of(("backend", &backend.service.namespace, &backend.service.name, &backend.port))
}

fn endpoint_name(address: SocketAddr) -> String {
    name_of(("endpoint", address))
}

/// What is written besides the value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CookieFacts<'a> {
    /// The path of the rule that the request came by.
    pub(crate) path: &'a str,
    pub(crate) is_https: bool,
    pub(crate) user_agent: Option<&'a str>,
    pub(crate) now: SystemTime,
}

impl Affinity {
    /// Whether a client's cookie is of this backend.
    pub(crate) fn is_of(&self, headers: &HeaderMap, backend: &BackendKey) -> bool {
        let parts = cookie(headers, &self.cookie).and_then(|value| value.split_once('|'));
        parts.is_some_and(|(_, name)| name == backend_name(backend))
    }

    /// The endpoint that a client's cookie leads to, if it serves.
    pub(crate) fn endpoint(
        &self,
        headers: &HeaderMap,
        backend: &BackendKey,
        endpoints: &Endpoints,
    ) -> Option<Arc<Endpoint>> {
        let (key, name) = cookie(headers, &self.cookie)?.split_once('|')?;
        if name != backend_name(backend) {
            return None;
        }
        let mut list = endpoints.list().iter();
        match self.is_persistent {
            true => list.find(|e| endpoint_name(e.address) == key).cloned(),
            false => endpoints.of_key(balance::hash_of(key)),
        }
    }

    /// The field that gives a client its endpoint.
    pub(crate) fn set_cookie(
        &self,
        (backend, endpoints): (&BackendKey, &Endpoints),
        endpoint: &Endpoint,
        facts: &CookieFacts<'_>,
        random: impl Fn() -> u64,
    ) -> Option<HeaderValue> {
        let key = match self.is_persistent {
            true => endpoint_name(endpoint.address),
            false => {
                // It may have left meanwhile.
                if !endpoints.list().iter().any(|other| other.address == endpoint.address) {
                    return None;
                }
                let tries = MAX_KEYS.min(KEYS_EACH * endpoints.list().len());
                let key = |_| format!("{:016x}{:016x}", random(), random());
                let leads_there = |key: &String| {
                    let found = endpoints.of_key(balance::hash_of(&**key));
                    found.is_some_and(|found| found.address == endpoint.address)
                };
                (0..tries).map(key).find(leads_there)?
            }
        };
        let mut field = format!("{}={key}|{}", self.cookie, backend_name(backend));
        let mut add = |text: std::fmt::Arguments<'_>| {
            field.write_fmt(text).expect("a String takes any text");
        };
        if let Some(expires) = self.expires {
            let offset = Duration::from_secs(expires.unsigned_abs());
            let at = match expires < 0 {
                true => facts.now.checked_sub(offset).unwrap_or(SystemTime::UNIX_EPOCH),
                false => facts.now + offset,
            };
            add(format_args!("; Expires={}", httpdate::fmt_http_date(at)));
        }
        if let Some(max_age) = self.max_age {
            add(format_args!("; Max-Age={max_age}"));
        }
        if let Some(domain) = &self.domain {
            add(format_args!("; Domain={domain}"));
        }
        add(format_args!("; Path={}", self.path.as_deref().unwrap_or(facts.path)));
        if self.is_secure || facts.is_https {
            add(format_args!("; Secure"));
        }
        add(format_args!("; HttpOnly"));
        if let Some(same_site) = self.same_site
            && !(self.is_none_conditional
                && same_site == SameSite::None
                && facts.user_agent.is_some_and(misreads_none))
        {
            add(format_args!("; SameSite={}", same_site.as_str()));
        }
        HeaderValue::try_from(field).ok()
    }
}

/// Whether a browser takes `SameSite=None` for `Strict`, or rejects the cookie.
fn misreads_none(user_agent: &str) -> bool {
    let is_old_chrome = ["Chrome/4", "Chrome/5", "Chrome/6"].iter().any(|v| user_agent.contains(v));
    let is_ios_12 = user_agent.contains("iPhone OS 12_") || user_agent.contains("iPad; CPU OS 12_");
    let is_safari = user_agent.contains("Mac OS X 10_14")
        && user_agent.contains("Version/")
        && user_agent.contains("Safari");
    is_old_chrome && !user_agent.contains("Chrome/1") || is_ios_12 || is_safari
}

/// What of a request is written into a cookie.
pub(crate) fn user_agent(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::backend::Backend;
    use super::*;

    fn backend(count: u8) -> Backend {
        let addresses: Vec<SocketAddr> =
            (1..=count).map(|last| ([10, 0, 0, last], 80).into()).collect();
        Backend::serving(&addresses)
    }

    fn facts() -> CookieFacts<'static> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        CookieFacts { path: "/app", is_https: false, user_agent: None, now }
    }

    fn field(affinity: &Affinity, backend: &Backend, at: usize, facts: &CookieFacts<'_>) -> String {
        let state = Cell::new(1_u64);
        let random = || {
            state.set(state.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(97));
            state.get()
        };
        let endpoints = backend.endpoints();
        let endpoint = &endpoints.list()[at];
        let field = affinity.set_cookie((&backend.key, &endpoints), endpoint, facts, random);
        field.unwrap().to_str().unwrap().to_owned()
    }

    fn headers(field: &str) -> HeaderMap {
        let pair = field.split(';').next().unwrap();
        [(header::COOKIE, format!("a=b; {pair}").parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn a_cookie_leads_back_to_its_endpoint() {
        let backend = backend(5);
        for is_persistent in [true, false] {
            let affinity = Affinity { is_persistent, ..Affinity::default() };
            for at in 0..5 {
                let headers = headers(&field(&affinity, &backend, at, &facts()));
                let endpoints = backend.endpoints();
                let found = affinity.endpoint(&headers, &backend.key, &endpoints).unwrap();
                assert_eq!(found.address, endpoints.list()[at].address);
                assert!(affinity.is_of(&headers, &backend.key));
                let mut other = backend.key.clone();
                other.service.name = "other".into();
                assert!(affinity.endpoint(&headers, &other, &endpoints).is_none());
                assert!(!affinity.is_of(&headers, &other));
            }
        }
    }

    #[test]
    fn a_persistent_cookie_keeps_its_endpoint_when_others_come() {
        let moved = |is_persistent| {
            let affinity = Affinity { is_persistent, ..Affinity::default() };
            let few = backend(5);
            let cookies: Vec<_> =
                (0..200).map(|at| field(&affinity, &few, at % 5, &facts())).collect();
            let more: Vec<SocketAddr> =
                (1..=15).map(|last| ([10, 0, 0, last], 80).into()).collect();
            let before: Vec<_> =
                (0..200).map(|at| few.endpoints().list()[at % 5].address).collect();
            few.replace(&more);
            let after = cookies.iter().zip(before).filter(|(field, before)| {
                let found = affinity.endpoint(&headers(field), &few.key, &few.endpoints());
                found.unwrap().address != *before
            });
            after.count()
        };
        assert_eq!(moved(true), 0);
        // The random keys of the test repeat for each endpoint: five sessions, each 40 times.
        assert!(moved(false) >= 40, "balanced sessions spread to new endpoints");
    }

    #[test]
    fn attributes_are_those_of_the_annotations() {
        let backend = backend(1);
        let full = Affinity {
            cookie: "SERVERID".to_owned(),
            is_persistent: true,
            domain: Some("foo.bar".to_owned()),
            same_site: Some(SameSite::None),
            is_none_conditional: true,
            expires: Some(172_800),
            max_age: Some(259_200),
            ..Affinity::default()
        };
        let text = field(&full, &backend, 0, &facts());
        let (value, attributes) = text.split_once("; ").unwrap();
        assert!(value.starts_with("SERVERID=") && value.contains('|'), "{value}");
        assert_eq!(
            attributes,
            "Expires=Tue, 11 Sep 2001 01:46:40 GMT; Max-Age=259200; Domain=foo.bar; Path=/app; \
             HttpOnly; SameSite=None"
        );
        let old = CookieFacts { user_agent: Some("Mozilla/5.0 Chrome/51.0.2704"), ..facts() };
        assert!(!field(&full, &backend, 0, &old).contains("SameSite"));
        let new = CookieFacts { user_agent: Some("Mozilla/5.0 Chrome/120.0"), ..facts() };
        assert!(field(&full, &backend, 0, &new).contains("SameSite=None"));
        let https = CookieFacts { is_https: true, ..facts() };
        let plain = Affinity { is_persistent: true, ..Affinity::default() };
        assert!(field(&plain, &backend, 0, &https).ends_with("; Path=/app; Secure; HttpOnly"));
        let secure = Affinity { is_secure: true, path: Some("/x".into()), ..plain };
        assert!(field(&secure, &backend, 0, &facts()).ends_with("; Path=/x; Secure; HttpOnly"));
    }
}
