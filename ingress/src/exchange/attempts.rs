//! Which endpoint a request is sent to, and what happens when that fails: to connect elsewhere, to
//! send it again, or to give up.
//!
//! Pure: from what happened follows what to do next. Sockets and waiting are outside.

use std::sync::Arc;

use balance::Try;

use crate::deadline::Ticks;
use crate::refusal::Refusal;
use crate::settings::{CONNECT_PATIENCE, MAX_CONNECT_TIMEOUTS, MAX_CONNECT_TRIES, MAX_RESENDS};
use crate::snapshot::{Counted, Draw, Endpoint, Pick, Route, Unserved};

/// The attempts of one request.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// Where the request goes by the last decision.
    route: Arc<Route>,
    /// The endpoint whose turn it is.
    picked: Picked,
    /// Those that have failed. They are kept, and not counted, because endpoints may come and go
    /// meanwhile.
    failed: Vec<Arc<Endpoint>>,
    /// What the request is answered with if no other endpoint can be asked.
    last: Refusal,
    connect_timeouts: usize,
    resends: usize,
    is_idempotent: bool,
    /// When the first attempt began.
    began_ms: u64,
}

/// An endpoint that was picked just before. If the pick tries it again after a failure and the
/// request ends without an outcome, because its client has left or a kept connection was used, the
/// try is given back: otherwise the endpoint would be out of use until the longest rest is over.
#[derive(Debug)]
struct Picked {
    endpoint: Arc<Endpoint>,
    attempt: Option<Try>,
    counted: Option<Counted>,
}

impl Picked {
    fn new(pick: Pick) -> Picked {
        let Pick { endpoint, counted } = pick;
        let attempt = endpoint.current_try();
        Picked { endpoint, attempt, counted }
    }

    fn is(&self, endpoint: &Arc<Endpoint>) -> bool {
        Arc::ptr_eq(&self.endpoint, endpoint)
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt {
            self.endpoint.give_back(attempt);
        }
    }
}

/// How an attempt to connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectFailure {
    /// The connection was refused, or could not be opened for another reason.
    Refused,
    /// The endpoint does not speak what it is said to speak.
    BadProtocol,
    /// It was not opened in the time that it had.
    TimedOut(Ticks),
}

/// How a request failed after it was given to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendFailure {
    /// The connection ended before anything of a response came.
    Unanswered {
        /// The connection has served a request before, so it may have been closed for its age.
        reused: bool,
        /// Part of the request may have reached the endpoint.
        begun: bool,
    },
    /// The response could not be read.
    BadResponse,
    /// The endpoint did not go on in time.
    EndpointTimeout,
    /// The client did not go on in time.
    ClientTimeout,
    /// The client broke off its request.
    BrokenByClient,
    /// The request's body is larger than allowed.
    BodyTooLarge,
}

impl SendFailure {
    /// Whether the endpoint is to blame. A kept connection may have been closed for no other reason
    /// than its age.
    pub(crate) fn is_of_endpoint(self) -> bool {
        match self {
            SendFailure::Unanswered { reused, .. } => !reused,
            SendFailure::BadResponse | SendFailure::EndpointTimeout => true,
            SendFailure::ClientTimeout
            | SendFailure::BrokenByClient
            | SendFailure::BodyTooLarge => false,
        }
    }
}

impl Attempts {
    /// For a request that was decided to go by this route, to this endpoint first.
    pub(crate) fn new(
        (route, picked): (Arc<Route>, Pick),
        is_idempotent: bool,
        began_ms: u64,
    ) -> Attempts {
        Attempts {
            route,
            picked: Picked::new(picked),
            failed: Vec::new(),
            last: Refusal::NoEndpoint(Unserved::NoEndpoints),
            connect_timeouts: 0,
            resends: 0,
            is_idempotent,
            began_ms,
        }
    }

    pub(crate) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The endpoint to ask: the one whose turn it is, or the next if that one has failed or left
    /// meanwhile. `Err` when the route has no other: the request is then decided again, by
    /// [`Attempts::decided_again`].
    pub(crate) fn endpoint(&mut self, draw: &Draw<'_>) -> Result<Arc<Endpoint>, Refusal> {
        if self.picked.endpoint.is_gone() || self.has_failed(&self.picked.endpoint) {
            let suits = |e: &Arc<Endpoint>| !e.is_gone() && !self.has_failed(e);
            let next = self.route.backend.endpoints().pick(suits, draw);
            self.picked = Picked::new(next.ok_or_else(|| self.last.clone())?);
        }
        Ok(self.picked.endpoint.clone())
    }

    /// The newest decision about the request, after the route had no other endpoint. `Ok` if the
    /// request goes on by it. The attempts so far still count.
    ///
    /// A route is decided on once and may change while its request is under way. If its Service
    /// has lost its endpoints because routes lead to another Service now, the request follows
    /// them.
    pub(crate) fn decided_again(
        &mut self,
        decision: Result<(Arc<Route>, Pick), Refusal>,
    ) -> Result<(), Refusal> {
        match decision {
            Ok((route, picked))
                if Arc::ptr_eq(&route, &self.route)
                    && (picked.endpoint.is_gone() || self.has_failed(&picked.endpoint)) =>
            {
                drop(Picked::new(picked));
                Err(self.last.clone())
            }
            Ok((route, picked)) => {
                (self.route, self.picked) = (route, Picked::new(picked));
                Ok(())
            }
            // No endpoint failed, so the newest configuration says why there is none.
            Err(refusal) if matches!(self.last, Refusal::NoEndpoint(_)) => Err(refusal),
            Err(_) => Err(self.last.clone()),
        }
    }

    /// How long the picked endpoint may take to accept a connection: the last one that can be
    /// asked has the whole time-out.
    pub(crate) fn patience(&self) -> Ticks {
        let connect_timeout = self.route.plan.connect_timeout;
        let endpoints = self.route.backend.endpoints();
        let is_other = |e: &Arc<Endpoint>| !self.picked.is(e) && !self.has_failed(e);
        match endpoints.list().iter().any(is_other) {
            true => connect_timeout.min(CONNECT_PATIENCE.into()),
            false => connect_timeout,
        }
    }

    /// The endpoint did not accept a connection. `Ok` if another may be asked.
    pub(crate) fn not_connected(
        &mut self,
        endpoint: Arc<Endpoint>,
        failure: ConnectFailure,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        self.last = match failure {
            ConnectFailure::Refused => Refusal::Unreachable,
            ConnectFailure::BadProtocol => Refusal::BadResponse,
            ConnectFailure::TimedOut(patience) => {
                let is_whole = patience == self.route.plan.connect_timeout;
                self.connect_timeouts += usize::from(is_whole);
                Refusal::EndpointTimeout
            }
        };
        self.failed.push(endpoint);
        let is_retried = self.route.plan.retry.is_none_or(|retry| match failure {
            ConnectFailure::TimedOut(_) => retry.on.timeout,
            _ => retry.on.error,
        });
        let is_over =
            self.failed.len() >= MAX_CONNECT_TRIES || self.connect_timeouts >= MAX_CONNECT_TIMEOUTS;
        if is_over || !is_retried || !self.has_tries(now_ms) {
            Err(self.last.clone())
        } else {
            Ok(())
        }
    }

    /// The endpoint got the request and gave no response. `Ok` if the request is to be sent again;
    /// `is_whole` says that all of it is still there, which that needs.
    pub(crate) fn not_answered(
        &mut self,
        endpoint: &Arc<Endpoint>,
        (failure, is_whole): (SendFailure, bool),
        draw: &Draw<'_>,
    ) -> Result<(), Refusal> {
        let on = self.route.plan.retry.map(|retry| retry.on);
        let (refusal, is_retried) = match failure {
            // A kept connection may have been closed for no other reason than its age.
            SendFailure::Unanswered { reused, .. } => {
                (Refusal::Unanswered, reused || on.is_none_or(|on| on.error))
            }
            SendFailure::BadResponse => {
                (Refusal::BadResponse, on.is_some_and(|on| on.invalid_header))
            }
            SendFailure::EndpointTimeout => {
                (Refusal::EndpointTimeout, on.is_some_and(|on| on.timeout))
            }
            SendFailure::ClientTimeout => return Err(Refusal::ClientTimeout),
            SendFailure::BrokenByClient => return Err(Refusal::Malformed("the body ended early")),
            SendFailure::BodyTooLarge => return Err(Refusal::BodyTooLarge),
        };
        let (reused, begun) = match failure {
            SendFailure::Unanswered { reused, begun } => (reused, begun),
            _ => (false, true),
        };
        // A new connection was closed because of the request, or because its endpoint is going
        // away.
        if !reused {
            self.failed.push(endpoint.clone());
            self.last = refusal.clone();
        }
        let may_resend = is_retried && is_whole && self.may_resend(begun, draw.now_ms);
        if !may_resend || !self.is_in_budget(reused, draw) {
            return Err(refusal);
        }
        self.resends += 1;
        // The next in turn, if there is another.
        self.pick_another(draw);
        Ok(())
    }

    /// The endpoint answered with this status. True if the request is to be sent to another one
    /// instead of passing the answer on.
    pub(crate) fn is_answer_retried(
        &mut self,
        endpoint: &Arc<Endpoint>,
        status: u16,
        draw: &Draw<'_>,
    ) -> bool {
        let is_retried = self.route.plan.retry.is_some_and(|retry| retry.on.has_status(status));
        if !is_retried || !self.may_resend(true, draw.now_ms) {
            return false;
        }
        self.failed.push(endpoint.clone());
        if !self.pick_another(draw) || !self.is_in_budget(false, draw) {
            return false;
        }
        self.last = Refusal::Unanswered;
        self.resends += 1;
        true
    }

    /// Takes the next endpoint in turn; false if there is no other.
    fn pick_another(&mut self, draw: &Draw<'_>) -> bool {
        let suits = |e: &Arc<Endpoint>| !e.is_gone() && !self.has_failed(e) && !self.picked.is(e);
        let next = self.route.backend.endpoints().pick(suits, draw);
        let is_other = next.is_some();
        if let Some(next) = next {
            self.picked = Picked::new(next);
        }
        is_other
    }

    /// Whether a request that the endpoint may have begun to process may be sent again.
    fn may_resend(&self, begun: bool, now_ms: u64) -> bool {
        let retry = self.route.plan.retry;
        let is_safe = self.is_idempotent || !begun || retry.is_some_and(|r| r.on.non_idempotent);
        let most = retry.and_then(|retry| retry.tries).map_or(MAX_RESENDS, |tries| tries - 1);
        is_safe && self.resends < most && self.has_tries(now_ms)
    }

    /// Whether another try may begin, as far as the Ingress says.
    fn has_tries(&self, now_ms: u64) -> bool {
        self.route.plan.retry.is_none_or(|retry| {
            let tries = self.failed.len().max(self.resends) + 1;
            let elapsed = u128::from(now_ms.saturating_sub(self.began_ms));
            retry.tries.is_none_or(|most| tries <= most)
                && retry.within.is_none_or(|within| elapsed <= within.as_millis())
        })
    }

    /// Whether the Service's load allows one more request. What a stale connection has lost never
    /// reached the endpoint.
    fn is_in_budget(&self, reused: bool, draw: &Draw<'_>) -> bool {
        reused || self.route.backend.answers.take_retry(draw.now_ms)
    }

    /// What a request is answered with that can be sent to no other endpoint, because part of it
    /// is no longer there.
    pub(crate) fn given_up(&self) -> Refusal {
        match &self.last {
            Refusal::NoEndpoint(_) => Refusal::Unanswered,
            last => last.clone(),
        }
    }

    /// Whether the requests of the picked endpoint are counted.
    pub(crate) fn is_counted(&self) -> bool {
        self.picked.counted.is_some()
    }

    /// The count of the endpoint that answers, which lasts as long as its response.
    pub(crate) fn take_counted(&mut self) -> Option<Counted> {
        self.picked.counted.take()
    }

    fn has_failed(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.failed.iter().any(|failed| Arc::ptr_eq(failed, endpoint))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use model::ObjectName;

    use super::*;
    use crate::snapshot::{Backend, Plan};

    const UNANSWERED_NEW: SendFailure = SendFailure::Unanswered { reused: false, begun: true };
    const UNANSWERED_KEPT: SendFailure = SendFailure::Unanswered { reused: true, begun: true };

    fn timeout() -> Ticks {
        Duration::from_secs(5).into()
    }

    fn backend(count: u8) -> Arc<Backend> {
        let address = |last| format!("10.0.0.{last}:80").parse().unwrap();
        Arc::new(Backend::serving(&(1..=count).map(address).collect::<Vec<_>>()))
    }

    fn route(backend: &Arc<Backend>) -> Arc<Route> {
        let timeout = timeout();
        let plan = Plan {
            https_redirect: None,
            https_port: 443,
            special: None,
            refused: None,
            max_body: u64::MAX,
            connect_timeout: timeout,
            read_timeout: timeout,
            send_timeout: timeout,
            retry: None,
            protocol: None,
            endpoint_tls: None,
        };
        let ingress = ObjectName::new("default", "web");
        Arc::new(Route {
            ingress,
            path: None,
            pattern: None,
            errors: None,
            backend: backend.clone(),
            plan: Arc::new(plan),
            canary: None,
        })
    }

    fn attempts(backend: &Arc<Backend>, is_idempotent: bool) -> Attempts {
        let picked = backend.endpoints().pick(|_| true, &Draw::FIXED).unwrap();
        Attempts::new((route(backend), picked), is_idempotent, 0)
    }

    /// Connects to nothing until the machine gives up: what it asked, and what it answers.
    fn refused_by_all(attempts: &mut Attempts) -> (Vec<String>, Refusal) {
        let mut asked = Vec::new();
        loop {
            let endpoint = match attempts.endpoint(&Draw::FIXED) {
                Ok(endpoint) => endpoint,
                Err(refusal) => return (asked, refusal),
            };
            asked.push(endpoint.address.to_string());
            if let Err(refusal) = attempts.not_connected(endpoint, ConnectFailure::Refused, 0) {
                return (asked, refusal);
            }
        }
    }

    #[test]
    fn every_endpoint_is_asked_once_when_none_takes_a_connection() {
        let backend = backend(3);
        let (mut asked, refusal) = refused_by_all(&mut attempts(&backend, true));
        asked.sort();
        assert_eq!(asked, ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
        assert_eq!(refusal, Refusal::Unreachable);
    }

    #[test]
    fn so_many_endpoints_are_asked_and_no_more() {
        let backend = backend(20);
        let (asked, _) = refused_by_all(&mut attempts(&backend, true));
        assert_eq!(asked.len(), MAX_CONNECT_TRIES);
    }

    #[test]
    fn only_the_last_endpoint_has_the_whole_connect_timeout() {
        let backend = backend(2);
        let mut attempts = attempts(&backend, true);
        let first = attempts.endpoint(&Draw::FIXED).unwrap();
        assert_eq!(attempts.patience(), CONNECT_PATIENCE.into());
        let failure = ConnectFailure::TimedOut(attempts.patience());
        assert_eq!(attempts.not_connected(first, failure, 0), Ok(()));
        let second = attempts.endpoint(&Draw::FIXED).unwrap();
        assert_eq!(attempts.patience(), timeout());
        let failure = ConnectFailure::TimedOut(attempts.patience());
        assert_eq!(attempts.not_connected(second, failure, 0), Ok(()));
        assert_eq!(attempts.endpoint(&Draw::FIXED), Err(Refusal::EndpointTimeout));
    }

    #[test]
    fn whole_connect_timeouts_are_waited_for_twice() {
        let backend = backend(9);
        let mut attempts = attempts(&backend, true);
        for expected in [Ok(()), Err(Refusal::EndpointTimeout)] {
            let endpoint = attempts.endpoint(&Draw::FIXED).unwrap();
            let failure = ConnectFailure::TimedOut(timeout());
            assert_eq!(attempts.not_connected(endpoint, failure, 0), expected);
        }
    }

    #[test]
    fn a_request_does_not_wait_for_endpoints_that_others_wait_for_already() {
        let backend = backend(2);
        let mut attempts = attempts(&backend, true);
        let first = attempts.endpoint(&Draw::FIXED).unwrap();
        for endpoint in backend.endpoints().list() {
            endpoint.failed(balance::Failure::TimedOut, 0);
        }
        let failure = ConnectFailure::TimedOut(attempts.patience());
        assert_eq!(attempts.not_connected(first, failure, 0), Ok(()));
        assert_eq!(attempts.endpoint(&Draw::at(1)).unwrap_err(), Refusal::EndpointTimeout);
    }

    /// A client left during the one attempt: the only endpoint stayed out of use for ten seconds.
    #[test]
    fn a_client_that_leaves_during_the_attempt_lets_the_next_one_try() {
        let backend = backend(1);
        let pick = |now_ms| backend.endpoints().pick(|_| true, &Draw::at(now_ms));
        pick(0).unwrap().endpoint.failed(balance::Failure::TimedOut, 0);
        let first = Attempts::new((route(&backend), pick(1_000).unwrap()), true, 0);
        assert!(pick(1_001).is_none(), "one client tries it, the others do not wait");
        drop(first);
        let mut second = Attempts::new((route(&backend), pick(1_002).unwrap()), true, 0);
        let endpoint = second.endpoint(&Draw::at(1_002)).unwrap();
        endpoint.failed(balance::Failure::TimedOut, 2_000);
        drop(second);
        assert!(pick(3_999).is_none(), "an attempt that failed is not given back");
        let third = Attempts::new((route(&backend), pick(4_000).unwrap()), true, 0);
        endpoint.connected();
        drop(third);
        assert!(pick(4_001).is_some() && pick(4_001).is_some());
    }

    #[test]
    fn a_request_that_may_have_been_done_is_not_sent_again() {
        let backend = backend(3);
        let begun = |begun| SendFailure::Unanswered { reused: false, begun };
        let table = [
            // A new connection that broke, by what of the request may have arrived.
            (true, begun(true), Ok(())),
            (true, begun(false), Ok(())),
            (false, begun(false), Ok(())),
            (false, begun(true), Err(Refusal::Unanswered)),
            // A kept connection: the same.
            (true, UNANSWERED_KEPT, Ok(())),
            (false, UNANSWERED_KEPT, Err(Refusal::Unanswered)),
            (true, SendFailure::BadResponse, Err(Refusal::BadResponse)),
            (true, SendFailure::EndpointTimeout, Err(Refusal::EndpointTimeout)),
            (true, SendFailure::ClientTimeout, Err(Refusal::ClientTimeout)),
            (true, SendFailure::BodyTooLarge, Err(Refusal::BodyTooLarge)),
        ];
        for (is_idempotent, failure, expected) in table {
            let mut attempts = attempts(&backend, is_idempotent);
            let endpoint = attempts.endpoint(&Draw::FIXED).unwrap();
            let next = attempts.not_answered(&endpoint, (failure, true), &Draw::FIXED);
            assert_eq!(next, expected, "{is_idempotent} {failure:?}");
        }
    }

    /// The endpoint was given up and a retry was taken from the budget before it turned out that
    /// part of the request was gone.
    #[test]
    fn a_request_that_is_not_whole_any_more_costs_no_retry() {
        let backend = backend(2);
        let mut attempts = attempts(&backend, true);
        let endpoint = attempts.endpoint(&Draw::FIXED).unwrap();
        let failure = (UNANSWERED_KEPT, false);
        let next = attempts.not_answered(&endpoint, failure, &Draw::FIXED);
        assert_eq!(next, Err(Refusal::Unanswered));
        assert_eq!(attempts.resends, 0);
        assert!(attempts.picked.is(&endpoint), "no other one was picked");
    }

    #[test]
    fn an_endpoint_that_closes_new_connections_is_not_asked_again() {
        let backend = backend(2);
        let mut attempts = attempts(&backend, true);
        let first = attempts.endpoint(&Draw::FIXED).unwrap();
        assert_eq!(attempts.not_answered(&first, (UNANSWERED_NEW, true), &Draw::FIXED), Ok(()));
        let second = attempts.endpoint(&Draw::FIXED).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(attempts.not_answered(&second, (UNANSWERED_NEW, true), &Draw::FIXED), Ok(()));
        assert_eq!(attempts.endpoint(&Draw::FIXED), Err(Refusal::Unanswered), "there is no other");
    }

    #[test]
    fn stale_connections_are_survived_so_often_and_no_more() {
        let backend = backend(1);
        let mut attempts = attempts(&backend, true);
        for resend in 0..=MAX_RESENDS {
            let endpoint = attempts.endpoint(&Draw::FIXED).unwrap();
            let next = attempts.not_answered(&endpoint, (UNANSWERED_KEPT, true), &Draw::FIXED);
            assert_eq!(next.is_ok(), resend < MAX_RESENDS, "{resend}");
        }
    }

    #[test]
    fn an_endpoint_that_left_before_it_was_asked_is_not_asked() {
        let backend = backend(2);
        let mut attempts = attempts(&backend, true);
        let address = attempts.endpoint(&Draw::FIXED).unwrap().address;
        let stays = backend.endpoints().addresses().into_iter().find(|a| *a != address).unwrap();
        backend.replace(&[stays]);
        assert_eq!(attempts.endpoint(&Draw::FIXED).unwrap().address, stays);
        backend.replace(&[]);
        let none = Refusal::NoEndpoint(Unserved::NoEndpoints);
        assert_eq!(attempts.endpoint(&Draw::FIXED).unwrap_err(), none);
    }

    /// What happens to a request by the route of `old`, whose endpoints have all left after
    /// `failure`, while the newest decision is `decision`.
    fn after_a_switch(
        failure: Option<SendFailure>,
        decision: Result<&Arc<Backend>, Refusal>,
    ) -> Result<SocketAddr, Refusal> {
        let old = backend(1);
        let mut attempts = attempts(&old, true);
        let first = attempts.endpoint(&Draw::FIXED).unwrap();
        if let Some(failure) = failure {
            attempts.not_answered(&first, (failure, true), &Draw::FIXED)?;
        }
        old.replace(&[]);
        attempts.endpoint(&Draw::FIXED).unwrap_err();
        let picked =
            |backend: &Arc<Backend>| backend.endpoints().pick(|_| true, &Draw::FIXED).unwrap();
        attempts.decided_again(decision.map(|new| (route(new), picked(new))))?;
        attempts.endpoint(&Draw::FIXED).map(|endpoint| endpoint.address)
    }

    /// A request that began before its route moved was answered 503 if a later attempt found the
    /// first Service emptied.
    #[test]
    fn later_attempts_follow_a_route_that_has_moved_to_another_service() {
        let new = backend(2);
        for failure in [None, Some(UNANSWERED_KEPT), Some(UNANSWERED_NEW)] {
            let asked = after_a_switch(failure, Ok(&new)).unwrap();
            assert!(new.endpoints().addresses().contains(&asked), "{failure:?}");
        }
        // Where there is nothing else either: why there is nothing, or what had failed.
        let table = [
            (None, Refusal::NotReady),
            (Some(UNANSWERED_KEPT), Refusal::NotReady),
            (Some(UNANSWERED_NEW), Refusal::Unanswered),
        ];
        for (failure, expected) in table {
            let answer = after_a_switch(failure, Err(Refusal::NotReady));
            assert_eq!(answer, Err(expected), "{failure:?}");
        }
    }

    #[test]
    fn a_decision_for_the_same_route_changes_nothing() {
        let backend = backend(1);
        let mut attempts = attempts(&backend, true);
        let (_, refusal) = refused_by_all(&mut attempts);
        assert_eq!(refusal, Refusal::Unreachable);
        let picked = backend.endpoints().pick(|_| true, &Draw::FIXED).unwrap();
        let same = attempts.route().clone();
        assert_eq!(attempts.decided_again(Ok((same, picked))), Err(Refusal::Unreachable));
    }

    #[test]
    fn attempts_count_over_all_the_routes_of_a_request() {
        let mut attempts = attempts(&backend(5), true);
        let (first, _) = refused_by_all(&mut attempts);
        let next = backend(5);
        let picked = next.endpoints().pick(|_| true, &Draw::FIXED).unwrap();
        assert_eq!(attempts.decided_again(Ok((route(&next), picked))), Ok(()));
        let (second, _) = refused_by_all(&mut attempts);
        assert_eq!((first.len(), first.len() + second.len()), (5, MAX_CONNECT_TRIES));
    }
}
