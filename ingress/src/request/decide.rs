//! What becomes of a request that was checked: it is forwarded by a plan to one of some endpoints,
//! or answered.
//!
//! Pure. `explain` calls the same function, so that it cannot tell anything else than what
//! requests meet.

use std::sync::Arc;

use arc_swap::Guard;
use http::HeaderValue;

use crate::head::Framing;
use crate::refusal::Refusal;
use crate::route::{host_of, port_of};
use crate::snapshot::{Endpoints, Route, Snapshot};

/// What of a request decides where it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// Host and port, as the client wrote them.
    pub(crate) authority: &'a str,
    /// The normalised path.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    /// The client reached us, or the first proxy before us, over TLS.
    pub(crate) is_https: bool,
    /// The host that the client named in its TLS hello.
    pub(crate) server_name: Option<&'a str>,
    pub(crate) framing: Framing,
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
        Some(refusal) => Decision::Answer { refusal, route: Some(route) },
        None => Decision::Forward { route, endpoints },
    }
}

/// Why the route does not forward the request.
fn refusal_by_plan(
    route: &Route,
    endpoints: &Endpoints,
    facts: &Facts<'_>,
    host: &str,
) -> Option<Refusal> {
    let plan = &route.plan;
    if let Some(https_port) = plan.https_redirect
        && !facts.is_https
    {
        return Some(redirect(host, https_port, facts));
    }
    if let Some(annotation) = plan.refused {
        return Some(Refusal::Annotation(annotation));
    }
    if matches!(facts.framing, Framing::Length(length) if length > plan.max_body) {
        return Some(Refusal::BodyTooLarge);
    }
    endpoints.unserved().map(Refusal::NoEndpoint)
}

/// To the same place over HTTPS: at our own port for a client that named a port, because it
/// reached us directly; at the default port for one that did not, whatever maps that to us.
fn redirect(host: &str, https_port: u16, facts: &Facts<'_>) -> Refusal {
    let port = match port_of(facts.authority) {
        Some(_) if https_port != 443 => format!(":{https_port}"),
        _ => String::new(),
    };
    let query = facts.query.map(|query| format!("?{query}")).unwrap_or_default();
    let location = format!("https://{host}{port}{}{query}", facts.path);
    match HeaderValue::try_from(location) {
        Ok(location) => Refusal::Redirect(location),
        Err(_) => Refusal::Malformed("bad path"),
    }
}
