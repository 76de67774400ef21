//! Which endpoint a request is sent to, and what happens when that fails: to connect elsewhere, to
//! send it again, or to give up.
//!
//! Pure: from what happened follows what to do next. Sockets and waiting are outside.

use std::sync::Arc;

use crate::deadline::Ticks;
use crate::refusal::Refusal;
use crate::settings::{CONNECT_PATIENCE, MAX_CONNECT_TIMEOUTS, MAX_CONNECT_TRIES, MAX_RESENDS};
use crate::snapshot::{Backend, Endpoint, Unserved};

/// The attempts of one request.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    backend: &'a Backend,
    /// The endpoint whose turn it is.
    picked: Arc<Endpoint>,
    /// Those that have failed. They are kept, and not counted, because endpoints may come and go
    /// meanwhile.
    failed: Vec<Arc<Endpoint>>,
    connect_timeout: Ticks,
    connect_timeouts: usize,
    resends: usize,
    is_idempotent: bool,
    /// Why the last attempt failed.
    refusal: Option<Refusal>,
}

/// How an attempt to connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectFailure {
    /// The connection was refused, or could not be opened for another reason.
    Refused,
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

impl<'a> Attempts<'a> {
    /// For a request to a backend, of which this endpoint is asked first.
    pub(crate) fn new(
        backend: &'a Backend,
        picked: Arc<Endpoint>,
        connect_timeout: Ticks,
        is_idempotent: bool,
    ) -> Attempts<'a> {
        Attempts {
            backend,
            picked,
            failed: Vec::new(),
            connect_timeout,
            connect_timeouts: 0,
            resends: 0,
            is_idempotent,
            refusal: None,
        }
    }

    /// The endpoint to ask: that whose turn it is, or the next if that has failed or left
    /// meanwhile. If none may be picked, the outcome is that of the last attempt.
    pub(crate) fn endpoint(&mut self, now_ms: impl Fn() -> u64) -> Result<Arc<Endpoint>, Refusal> {
        if self.picked.is_gone() || self.has_failed(&self.picked) {
            let next = self.backend.endpoints().pick(|e| !self.has_failed(e), now_ms);
            self.picked = next.ok_or_else(|| self.refusal.take().unwrap_or_else(no_endpoint))?;
        }
        Ok(self.picked.clone())
    }

    /// How long the picked endpoint may take to accept a connection: the last one that can be
    /// asked has the whole time-out.
    pub(crate) fn patience(&self) -> Ticks {
        let endpoints = self.backend.endpoints();
        let is_other = |e: &Arc<Endpoint>| !Arc::ptr_eq(e, &self.picked) && !self.has_failed(e);
        match endpoints.list().iter().any(is_other) {
            true => self.connect_timeout.min(CONNECT_PATIENCE.into()),
            false => self.connect_timeout,
        }
    }

    /// The endpoint took no connection. `Ok` if another is to be asked.
    pub(crate) fn not_connected(
        &mut self,
        endpoint: Arc<Endpoint>,
        failure: ConnectFailure,
    ) -> Result<(), Refusal> {
        let refusal = match failure {
            ConnectFailure::Refused => Refusal::Unreachable,
            ConnectFailure::TimedOut(patience) => {
                self.connect_timeouts += usize::from(patience == self.connect_timeout);
                Refusal::EndpointTimeout
            }
        };
        self.failed.push(endpoint);
        let is_over =
            self.failed.len() >= MAX_CONNECT_TRIES || self.connect_timeouts >= MAX_CONNECT_TIMEOUTS;
        if is_over || !self.has_untried() {
            return Err(refusal);
        }
        self.refusal = Some(refusal);
        Ok(())
    }

    /// The endpoint got the request and gave no response. `Ok` if the request is to be sent
    /// again, which needs that all of it is still there.
    pub(crate) fn not_answered(
        &mut self,
        endpoint: &Arc<Endpoint>,
        failure: SendFailure,
        now_ms: impl Fn() -> u64,
    ) -> Result<(), Refusal> {
        let (reused, begun) = match failure {
            SendFailure::Unanswered { reused, begun } => (reused, begun),
            SendFailure::BadResponse => return Err(Refusal::BadResponse),
            SendFailure::EndpointTimeout => return Err(Refusal::EndpointTimeout),
            SendFailure::ClientTimeout => return Err(Refusal::ClientTimeout),
            SendFailure::BrokenByClient => return Err(Refusal::Malformed("the body ended early")),
            SendFailure::BodyTooLarge => return Err(Refusal::BodyTooLarge),
        };
        // A kept connection may have been closed for no other reason than its age. A new one was
        // closed because of the request, or because its endpoint is going away.
        if !reused {
            self.failed.push(endpoint.clone());
        }
        let is_safe = self.is_idempotent || !begun;
        let elsewhere = reused || self.has_untried();
        if !is_safe || !elsewhere || self.resends >= MAX_RESENDS {
            return Err(Refusal::Unanswered);
        }
        self.resends += 1;
        // The next in turn, if there is another.
        let suits = |e: &Arc<Endpoint>| !self.has_failed(e) && !Arc::ptr_eq(e, &self.picked);
        if let Some(next) = self.backend.endpoints().pick(suits, now_ms) {
            self.picked = next;
        }
        Ok(())
    }

    fn has_untried(&self) -> bool {
        self.backend.endpoints().list().iter().any(|endpoint| !self.has_failed(endpoint))
    }

    fn has_failed(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.failed.iter().any(|failed| Arc::ptr_eq(failed, endpoint))
    }
}

fn no_endpoint() -> Refusal {
    Refusal::NoEndpoint(Unserved::NoEndpoints)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const UNANSWERED_NEW: SendFailure = SendFailure::Unanswered { reused: false, begun: true };
    const UNANSWERED_KEPT: SendFailure = SendFailure::Unanswered { reused: true, begun: true };

    fn timeout() -> Ticks {
        Duration::from_secs(5).into()
    }

    fn backend(count: u8) -> Backend {
        let address = |last| format!("10.0.0.{last}:80").parse().unwrap();
        Backend::serving(&(1..=count).map(address).collect::<Vec<_>>())
    }

    fn attempts(backend: &Backend, is_idempotent: bool) -> Attempts<'_> {
        let picked = backend.endpoints().pick(|_| true, || 0).unwrap();
        Attempts::new(backend, picked, timeout(), is_idempotent)
    }

    /// Connects to nothing until the machine gives up: what it asked, and what it answers.
    fn refused_by_all(attempts: &mut Attempts<'_>) -> (Vec<String>, Refusal) {
        let mut asked = Vec::new();
        loop {
            let endpoint = attempts.endpoint(|| 0).unwrap();
            asked.push(endpoint.address.to_string());
            if let Err(refusal) = attempts.not_connected(endpoint, ConnectFailure::Refused) {
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
        let first = attempts.endpoint(|| 0).unwrap();
        assert_eq!(attempts.patience(), CONNECT_PATIENCE.into());
        let failure = ConnectFailure::TimedOut(attempts.patience());
        assert_eq!(attempts.not_connected(first, failure), Ok(()));
        let second = attempts.endpoint(|| 0).unwrap();
        assert_eq!(attempts.patience(), timeout());
        let failure = ConnectFailure::TimedOut(attempts.patience());
        let refusal = attempts.not_connected(second, failure);
        assert_eq!(refusal, Err(Refusal::EndpointTimeout));
    }

    #[test]
    fn whole_connect_timeouts_are_waited_for_twice() {
        let backend = backend(9);
        let mut attempts = attempts(&backend, true);
        for expected in [Ok(()), Err(Refusal::EndpointTimeout)] {
            let endpoint = attempts.endpoint(|| 0).unwrap();
            let failure = ConnectFailure::TimedOut(timeout());
            assert_eq!(attempts.not_connected(endpoint, failure), expected);
        }
    }

    #[test]
    fn a_request_does_not_wait_for_endpoints_that_others_wait_for_already() {
        let backend = backend(2);
        let mut attempts = attempts(&backend, true);
        let first = attempts.endpoint(|| 0).unwrap();
        for endpoint in backend.endpoints().list() {
            endpoint.failed(balance::Failure::TimedOut, 0);
        }
        let failure = ConnectFailure::TimedOut(attempts.patience());
        assert_eq!(attempts.not_connected(first, failure), Ok(()));
        assert_eq!(attempts.endpoint(|| 1).unwrap_err(), Refusal::EndpointTimeout);
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
            let endpoint = attempts.endpoint(|| 0).unwrap();
            let next = attempts.not_answered(&endpoint, failure, || 0);
            assert_eq!(next, expected, "{is_idempotent} {failure:?}");
        }
    }

    #[test]
    fn an_endpoint_that_closes_new_connections_is_not_asked_again() {
        let backend = backend(2);
        let mut attempts = attempts(&backend, true);
        let first = attempts.endpoint(|| 0).unwrap();
        assert_eq!(attempts.not_answered(&first, UNANSWERED_NEW, || 0), Ok(()));
        let second = attempts.endpoint(|| 0).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        let refusal = attempts.not_answered(&second, UNANSWERED_NEW, || 0);
        assert_eq!(refusal, Err(Refusal::Unanswered), "there is no other");
    }

    #[test]
    fn stale_connections_are_survived_so_often_and_no_more() {
        let backend = backend(1);
        let mut attempts = attempts(&backend, true);
        for resend in 0..=MAX_RESENDS {
            let endpoint = attempts.endpoint(|| 0).unwrap();
            let next = attempts.not_answered(&endpoint, UNANSWERED_KEPT, || 0);
            assert_eq!(next.is_ok(), resend < MAX_RESENDS, "{resend}");
        }
    }

    #[test]
    fn an_endpoint_that_left_before_it_was_asked_is_not_asked() {
        let backend = backend(2);
        let mut attempts = attempts(&backend, true);
        let address = attempts.endpoint(|| 0).unwrap().address;
        let stays = backend.endpoints().addresses().into_iter().find(|a| *a != address).unwrap();
        backend.replace(&[stays]);
        assert_eq!(attempts.endpoint(|| 0).unwrap().address, stays);
        backend.replace(&[]);
        assert_eq!(attempts.endpoint(|| 0).unwrap_err(), no_endpoint());
    }
}
