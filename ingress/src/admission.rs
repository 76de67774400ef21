//! Whether a request is let in by a route that limits requests or asks for credentials.
//!
//! What can be said from the request alone, such as lists of addresses, is decided before.

use daemon::quota::Client;
use http::header::HeaderMap;

use crate::basic::credentials;
use crate::credentials::Known;
use crate::external_auth::{Permission, ask, signin};
use crate::in_flight::InFlight;
use crate::refusal::Refusal;
use crate::request::decide::{AddressAccess, Facts, address_access};
use crate::snapshot::{BasicRules, LimitRules, Route, Special};
use crate::zone::TooMany;

/// Lets a request in, or says why not. Counts that hold while it is in flight are tied to it.
pub(crate) async fn admit(
    in_flight: &InFlight,
    special: &Special,
    route: &Route,
    facts: &Facts<'_>,
) -> Result<Option<Permission>, Refusal> {
    if let Some(limits) = &special.limits {
        limit(in_flight, limits, route, facts)?;
    }
    if special.any && address_access(special, facts) == AddressAccess::Allowed {
        return Ok(None);
    }
    let signin = |refusal| match (&refusal, &special.external) {
        (Refusal::Unauthorized(_), Some(rules)) => signin(rules, route, facts).unwrap_or(refusal),
        _ => refusal,
    };
    let mut unauthorized = None;
    if let Some(basic) = &special.basic {
        match authenticate(in_flight, basic, facts.headers).await {
            Ok(()) if special.any => return Ok(None),
            Ok(()) => {}
            // The other way in is still to be tried.
            Err(refusal) if special.any && special.external.is_some() => {
                unauthorized = Some(refusal);
            }
            Err(refusal) => return Err(signin(refusal)),
        }
    }
    let Some(rules) = &special.external else { return Ok(None) };
    let asked = Box::pin(ask(in_flight, rules, route, facts)).await;
    // 401 comes before 403, so that the client is asked for a password.
    let asked = asked.map_err(|refusal| match (refusal, unauthorized) {
        (Refusal::Forbidden | Refusal::Unauthorized(_), Some(unauthorized)) => unauthorized,
        (refusal, _) => refusal,
    });
    asked.map(Some).map_err(signin)
}

fn limit(
    in_flight: &InFlight,
    limits: &LimitRules,
    route: &Route,
    facts: &Facts<'_>,
) -> Result<(), Refusal> {
    let client = facts.client();
    let now = in_flight.context().micros();
    if !limits.unlimited.as_ref().is_some_and(|set| set.contains(client)) {
        let permit = limits.zone.admit(Client::of(client), now).map_err(too_many)?;
        if let Some(permit) = permit {
            in_flight.hold(permit);
        }
    }
    let is_unlimited = limits.window_unlimited.as_ref().is_some_and(|set| set.contains(client));
    if limits.zone.rules().window.is_none() || is_unlimited {
        return Ok(());
    }
    let key = match &limits.window_key {
        Some(key) => facts.text(key, route),
        None => client.to_string(),
    };
    limits.zone.admit_key(&key, now).map_err(too_many)
}

fn too_many(too_many: TooMany) -> Refusal {
    match too_many {
        TooMany::OfClient => Refusal::TooManyRequests,
        TooMany::InWindow => Refusal::TooManyInWindow,
    }
}

async fn authenticate(
    in_flight: &InFlight,
    basic: &BasicRules,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let refused = || Refusal::Unauthorized(basic.challenge.clone());
    let given = credentials(headers).ok_or_else(refused)?;
    let (user, password) = given.split_once(':').ok_or_else(refused)?;
    let is_right = match basic.credentials.look_up(user, password) {
        Known::Right => true,
        Known::Wrong => false,
        Known::Unknown => {
            let hashing = &in_flight.context().shared.hashing;
            let compared = hashing.compare(&basic.credentials, user, password).await;
            compared.map_err(|_| Refusal::TooManyRequests)?
        }
    };
    if is_right { Ok(()) } else { Err(refused()) }
}
