//! The certificates that an Ingress asks clients for, from its annotations and the Secret of the
//! authorities that they name.
//!
//! Pure. If the Secret cannot be used, the routes answer 503, and so do all others of the hosts: it
//! is for all of a host, as in ingress-nginx.

use std::sync::Arc;

use http::HeaderValue;
use model::problem::Level;
use model::{Ingress, Kind, Model, ObjectName};
use regex::Regex;

use super::policy::{Policy, RefusedBy, Refusing, VerifyClient};
use super::problem::{Field, Problem};
use crate::client_authority::ClientAuthority;

/// The certificates between a client's and its authority's that are taken without an annotation.
const DEPTH: usize = 1;

/// Which certificates the clients of a route are to have.
#[derive(Clone, Debug)]
pub(crate) struct ClientRules {
    pub(crate) authority: Arc<ClientAuthority>,
    pub(crate) verify: VerifyClient,
    pub(crate) depth: usize,
    /// Where clients go that have none.
    pub(crate) error_page: Option<HeaderValue>,
    /// Endpoints get the certificate.
    pub(crate) passes: bool,
    /// What its subject is to match.
    pub(crate) subject: Option<Regex>,
}

/// The Secret with the authorities, if it is in the namespace of the Ingress.
pub(super) fn authority_secret(ingress: &Ingress, policy: &Policy) -> Option<ObjectName> {
    let written = policy.client_tls.secret.as_deref()?;
    let own = &ingress.name.namespace;
    match written.split_once('/') {
        None => Some(ObjectName::new(own, written)),
        Some((namespace, name)) => (namespace == &**own).then(|| ObjectName::new(own, name)),
    }
}

/// What an Ingress asks for. What was made before is kept while the Secret stays the same, so that
/// sessions are.
pub(super) fn client_rules(
    ingress: &Ingress,
    policy: &mut Policy,
    before: Option<&ClientRules>,
    model: &Model,
    problems: &mut Vec<Problem>,
) -> Option<Arc<ClientRules>> {
    if policy.canary.is_canary {
        return None;
    }
    let Some(written) = policy.client_tls.secret.clone() else {
        if let Some(name) = policy.client_tls.needs_secret {
            let by = RefusedBy { name, why: Refusing::Unusable };
            policy.refused.get_or_insert(by);
            let message = format!("{name} needs auth-tls-secret: its routes answer 503");
            let problem = Problem::new(&ingress.name, field(), message).at(Level::Error);
            problems.push(problem.help("name a Secret with ca.crt"));
        }
        return None;
    };
    let named = authority_secret(ingress, policy);
    let found = match &named {
        None => Err(format!("Secret {written} is in another namespace")),
        Some(name) => match model.secret(name) {
            None => Err(format!("Secret {name} does not exist")),
            Some(secret) => match before.filter(|before| before.authority.is_of(secret)) {
                Some(before) => Ok(before.authority.clone()),
                None => ClientAuthority::of(secret)
                    .map(Arc::new)
                    .map_err(|what| format!("Secret {name}: {what}")),
            },
        },
    };
    match found {
        Ok(authority) => {
            let asked = &policy.client_tls;
            let verify = asked.verify.unwrap_or_default();
            if verify == VerifyClient::OptionalNoCa && asked.subject.is_some() {
                let message = "auth-tls-match-cn restricts nothing with optional_no_ca: a client \
                               can write any name into a certificate of its own";
                let problem = Problem::new(&ingress.name, field(), message.to_owned());
                problems.push(problem.help("set auth-tls-verify-client to on or optional"));
            }
            Some(Arc::new(ClientRules {
                authority,
                verify,
                depth: asked.depth.unwrap_or(DEPTH),
                error_page: asked.error_page.clone(),
                passes: asked.passes,
                subject: asked.subject.clone(),
            }))
        }
        Err(what) => {
            policy.refused.get_or_insert(UNUSABLE);
            let message = format!("auth-tls-secret: {what}: all routes of its hosts answer 503");
            let problem = Problem::new(&ingress.name, field(), message).at(Level::Error);
            let help = "write a Secret with the key ca.crt in the namespace of the Ingress";
            let problem = problem.help(help);
            problems.push(match &named {
                Some(name) if model.secret(name).is_none() => problem.missing(Kind::Secret, name),
                _ => problem,
            });
            None
        }
    }
}

fn field() -> Field {
    Field::of("metadata.annotations")
}

/// Why routes are not served whose clients cannot be asked for a certificate.
pub(super) const UNUSABLE: RefusedBy =
    RefusedBy { name: "auth-tls-secret", why: Refusing::Unusable };
