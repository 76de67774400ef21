//! Asks an authentication server whether a request is let in.
//!
//! The server gets the head of the request, without its body, and answers with a status: one of 2xx
//! lets the request in. Whatever else happens, the request is refused. Connections to the server
//! are those of the worker's pool. Left out: whether there is something to ask, which is the
//! route's.

use std::fmt::Write as _;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri, Version};

use tokio::time::timeout;

use crate::body::RequestBody;
use crate::head::{Framing, HeadEdits, RequestHead, Survey};
use crate::in_flight::InFlight;
use crate::origin::scheme_name;
use crate::refusal::Refusal;
use crate::request::clients::tell;
use crate::request::decide::Facts;
use crate::settings::CONNECT_PATIENCE;
use crate::snapshot::{AuthRules, Route};
use crate::template::escape;
use crate::upstream::{Failure, Upstream};

/// Addresses of a server that are tried for one request.
const MAX_ADDRESSES: usize = 3;

/// What an authentication server adds to a request that it lets in.
#[derive(Debug)]
pub(crate) struct Permission {
    fields: Vec<(HeaderName, Vec<HeaderValue>)>,
}

impl Permission {
    /// Puts the fields of the answer in the place of the client's.
    pub(crate) fn apply(self, edits: &mut HeadEdits) {
        for (name, values) in self.fields {
            edits.removed.push(name.clone());
            edits.added.retain(|(added, _)| *added != name);
            edits.added.extend(values.into_iter().map(|value| (name.clone(), value)));
        }
    }
}

/// Asks whether a request is let in.
pub(crate) async fn ask(
    in_flight: &InFlight,
    rules: &AuthRules,
    route: &Route,
    facts: &Facts<'_>,
) -> Result<Permission, Refusal> {
    in_flight.arm(route.plan.read_timeout);
    // The server judges what the endpoint gets, and not what the client made of it.
    let uri = normal_uri(facts).ok_or(Refusal::AuthFailed)?;
    let facts = &Facts { uri: &uri, ..*facts };
    let mut asking = pin!(answer(in_flight, rules, route, facts));
    let answer = poll_fn(|cx| match asking.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending if in_flight.poll_timed_out(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let (status, mut fields) = match answer.await {
        Some(Ok(answer)) => answer,
        Some(Err(error)) => {
            tracing::debug!(server = &*rules.server.host, %error, "no answer about a request");
            return Err(Refusal::AuthFailed);
        }
        None => return Err(Refusal::AuthFailed),
    };
    let cookies: Vec<_> = fields.get_all(header::SET_COOKIE).iter().cloned().collect();
    in_flight.set_cookies(cookies, rules.always_sets_cookie || !status.is_success());
    match status {
        StatusCode::UNAUTHORIZED => {
            let challenge = fields.remove(header::WWW_AUTHENTICATE);
            Err(Refusal::Unauthorized(challenge.unwrap_or(HeaderValue::from_static(""))))
        }
        StatusCode::FORBIDDEN => Err(Refusal::Forbidden),
        _ if status.is_success() => {
            let of =
                |name: &HeaderName| (name.clone(), fields.get_all(name).iter().cloned().collect());
            Ok(Permission { fields: rules.response_fields.iter().map(of).collect() })
        }
        _ => Err(Refusal::AuthFailed),
    }
}

/// Where a client goes to sign in, with the way back.
pub(crate) fn signin(rules: &AuthRules, route: &Route, facts: &Facts<'_>) -> Option<Refusal> {
    let mut location = facts.text(rules.signin.as_ref()?, route);
    let param = &*rules.signin_param;
    let query = location.split_once('?').map(|(_, query)| query);
    let has = |query: &str| query.split('&').any(|pair| pair.split('=').next() == Some(param));
    if !query.is_some_and(has) {
        let separator = if query.is_some() { '&' } else { '?' };
        let _ = write!(
            location,
            "{separator}{param}={}://{}",
            scheme_name(facts.is_https),
            facts.authority
        );
        escape(request_uri(facts), &mut location);
    }
    let location = HeaderValue::try_from(location).ok()?;
    Some(Refusal::Redirect { status: StatusCode::FOUND, location })
}

/// The target of a request with its path in normal form.
fn normal_uri(facts: &Facts<'_>) -> Option<Uri> {
    match facts.uri.query() {
        Some(query) => Uri::try_from(format!("{}?{query}", facts.path)).ok(),
        None => Uri::try_from(facts.path).ok(),
    }
}

fn request_uri<'a>(facts: &Facts<'a>) -> &'a str {
    facts.uri.path_and_query().map_or("/", |target| target.as_str())
}

/// The answer of the server. A kept connection may have been closed for its age, so that a new one
/// is tried after it.
async fn answer(
    in_flight: &InFlight,
    rules: &AuthRules,
    route: &Route,
    facts: &Facts<'_>,
) -> io::Result<(StatusCode, HeaderMap)> {
    let (pool, server) = (&in_flight.context().pool, &rules.server);
    let mut tries = 1;
    let (endpoint, new) = loop {
        let endpoint = server.endpoint().await?;
        if let Some(upstream) = pool.take(&endpoint, &server.wire) {
            break (endpoint, Err(upstream));
        }
        let connected = pool.connect(endpoint.clone(), server.wire.clone());
        match timeout(CONNECT_PATIENCE, connected).await {
            Ok(Ok(upstream)) => break (endpoint, Ok(upstream)),
            // Another of its addresses may answer.
            _ if tries < server.addresses().min(MAX_ADDRESSES) => tries += 1,
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    };
    let upstream = match new {
        Ok(upstream) => upstream,
        Err(kept) => match exchange(in_flight, rules, route, facts, kept).await {
            Err(Failure::Unanswered(_)) => pool.connect(endpoint, server.wire.clone()).await?,
            answer => return answer.map_err(io::Error::other),
        },
    };
    exchange(in_flight, rules, route, facts, upstream).await.map_err(io::Error::other)
}

async fn exchange(
    in_flight: &InFlight,
    rules: &AuthRules,
    route: &Route,
    facts: &Facts<'_>,
    mut upstream: Upstream,
) -> Result<(StatusCode, HeaderMap), Failure> {
    let target = facts.text(&rules.target, route);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (&*target, None),
    };
    let edits = question(rules, route, facts);
    let head = RequestHead {
        method: rules.method.as_ref().unwrap_or(&Method::GET).as_str(),
        path,
        query,
        authority: facts.authority,
        headers: facts.headers,
        survey: Survey::of(facts.headers),
        framing: Framing::None,
        upgrade: None,
        is_http2: facts.version == Version::HTTP_2,
        edits: Some(&edits),
    };
    {
        let record = in_flight.record.borrow();
        let origin = &in_flight.connection.origin;
        let source = (origin, &in_flight.context().settings().rules, &record.id);
        upstream.begin(&head, RequestBody::Empty, 0, source);
    }
    let mut fields = HeaderMap::new();
    let head = poll_fn(|cx| {
        loop {
            let polled = upstream.poll_head(cx, &mut fields);
            // Interim responses are for nobody.
            if polled.is_pending() && upstream.take_interim().is_some() {
                continue;
            }
            return polled;
        }
    });
    let head = head.await?;
    upstream.skip_rest().await?;
    in_flight.keep(upstream);
    Ok((head.status, fields))
}

/// What the server is told beside the client's own fields.
fn question(rules: &AuthRules, route: &Route, facts: &Facts<'_>) -> HeadEdits {
    let mut edits = HeadEdits { host: Some(rules.server.host.to_string()), ..HeadEdits::default() };
    let target = request_uri(facts);
    let scheme = scheme_name(facts.is_https);
    edits.set("x-original-url", &format!("{scheme}://{}{target}", facts.authority));
    edits.set("x-original-method", facts.method.as_str());
    edits.set("x-original-uri", target);
    edits.set("x-scheme", scheme);
    edits.set("x-sent-from", "nginx-ingress-controller");
    // For servers that know Traefik's names.
    edits.set("x-forwarded-uri", target);
    edits.set("x-forwarded-method", facts.method.as_str());
    let redirect = rules.request_redirect.as_ref().map(|text| facts.text(text, route));
    edits.set("x-auth-request-redirect", redirect.as_deref().unwrap_or(target));
    if let Some(rules) = route.plan.special.as_ref().and_then(|special| special.client.as_ref()) {
        tell(rules, facts.identity(rules), &mut edits);
    }
    edits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_answer_replace_what_was_there() {
        let name = HeaderName::from_static("x-user");
        let mut edits = HeadEdits::default();
        edits.set("x-user", "from an annotation");
        let values = ["a", "b"].map(HeaderValue::from_static).to_vec();
        let empty = HeaderName::from_static("x-none");
        let fields = vec![(name.clone(), values), (empty.clone(), Vec::new())];
        Permission { fields }.apply(&mut edits);
        assert!(edits.removed.contains(&name) && edits.removed.contains(&empty));
        let added: Vec<_> = edits.added.iter().map(|(_, value)| value.to_str().unwrap()).collect();
        assert_eq!(added, ["a", "b"]);
    }
}
