//! TLS to the endpoints of an Ingress, from its annotations and the Secret that they name.
//!
//! What is made is kept while neither has changed, so that connections and sessions are.

use std::sync::Arc;

use model::{Model, ObjectName};

use super::policy::{NGINX, OURS, RefusedBy, Refusing};
use super::problem::{Field, Problem};
use super::served::Served;
use crate::endpoint_tls::EndpointTls;

/// Makes what an Ingress asks for; if it cannot be made, the routes answer 503.
pub(super) fn secure(served: &mut Served, before: Option<&Served>, model: &Model) {
    let asked = &served.policy.endpoints;
    if asked.tls_spec.is_none() && asked.tls_secret.is_none() {
        return;
    }
    match endpoint_tls(served, before, model) {
        Ok(tls) => served.policy.endpoints.tls = Some(tls),
        Err(what) => refuse(served, &what),
    }
}

/// The Secret that the TLS of an Ingress's endpoints is made of.
pub(super) fn secret_of(served: &Served) -> Option<ObjectName> {
    let name = served.policy.endpoints.tls_secret.as_deref()?;
    let own = &served.ingress.name.namespace;
    match name.split_once('/') {
        None => Some(ObjectName::new(own, name)),
        Some((namespace, name)) => (namespace == &**own).then(|| ObjectName::new(own, name)),
    }
}

fn endpoint_tls(
    served: &Served,
    before: Option<&Served>,
    model: &Model,
) -> Result<Arc<EndpointTls>, String> {
    let asked = &served.policy.endpoints;
    let secret = match &asked.tls_secret {
        None => None,
        Some(written) => {
            let name = secret_of(served);
            let name = name.ok_or_else(|| format!("{written} is in another namespace"))?;
            let secret = model.secret(&name);
            Some(secret.ok_or_else(|| format!("Secret {name} does not exist"))?.clone())
        }
    };
    let spec = asked.tls_spec.clone().unwrap_or_default();
    let made = before.and_then(|before| before.policy.endpoints.tls.as_ref());
    match made.filter(|made| made.is_made_of(&spec, secret.as_ref())) {
        Some(made) => Ok(made.clone()),
        None => EndpointTls::new(spec, secret).map(Arc::new),
    }
}

fn refuse(served: &mut Served, what: &str) {
    let has = |name: &str| {
        let keys = [OURS, NGINX].map(|prefix| format!("{prefix}{name}"));
        keys.into_iter().find(|key| served.ingress.annotations.contains_key(&**key))
    };
    let names = ["proxy-ssl-secret", "proxy-ssl-verify"];
    let found = names.into_iter().find_map(|name| Some((name, has(name)?)));
    let (name, key) = found.unwrap_or((names[0], format!("{NGINX}{}", names[0])));
    let why = Refusing::Invalid;
    served.policy.refused.get_or_insert(RefusedBy { name, why });
    let message = format!("annotation {key} is invalid: {what}: its routes answer 503");
    let problem = Problem::new(&served.ingress.name, Field::annotation(&key), message);
    served.problems.push(problem.at(model::problem::Level::Error).help(why.help()));
}
