//! What happens to a question about a name outside our zones: one function, [`Outside::decide`].
//!
//! Pure. Each data thread has an [`Outside`] of its own: the questions that it is asking upstreams
//! (an equal question waits for the same answer, which also keeps forgers from a birthday attack:
//! RFC 5452 section 5) and the questions that failed lately. A cache is one more step of the
//! decision: after the client was allowed, before anything is asked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use crate::wire::Rcode;

use super::failures::Failures;
use super::question::Question;

/// What is decided about a question. `P` is the permit to wait for upstreams.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision<P> {
    /// The client may not use the upstreams.
    Refuse,
    /// It failed a moment ago, with this code.
    FailAgain(Rcode),
    /// It comes from an upstream that forwards to us what we forward to it.
    BreakLoop,
    /// Too many questions wait for upstreams.
    Busy,
    /// An identical question is in flight: wait for its answer.
    Join { permit: P, same_client: bool },
    /// Ask the upstreams.
    Ask(P),
}

/// What is known of the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    /// It is in `--allow-forward`.
    pub(crate) is_allowed: bool,
    /// It is an upstream that was found to forward to us.
    pub(crate) is_loop: bool,
}

/// One data thread's questions for upstreams; `W` waits for an answer.
#[derive(Debug)]
pub(crate) struct Outside<W> {
    in_flight: HashMap<Question, InFlight<W>>,
    failures: Failures,
}

#[derive(Debug)]
struct InFlight<W> {
    first_client: SocketAddr,
    waiters: Vec<W>,
}

impl<W> Outside<W> {
    pub(crate) fn new() -> Outside<W> {
        Outside { in_flight: HashMap::new(), failures: Failures::default() }
    }

    /// Decides. `admit` gives a permit if another question may wait for upstreams.
    pub(crate) fn decide<P>(
        &self,
        question: &Question,
        client: Client,
        now: Instant,
        admit: impl FnOnce() -> Option<P>,
    ) -> Decision<P> {
        if !client.is_allowed {
            return Decision::Refuse;
        }
        if let Some(rcode) = self.failures.recall(question, now) {
            return Decision::FailAgain(rcode);
        }
        if client.is_loop {
            return Decision::BreakLoop;
        }
        let Some(permit) = admit() else { return Decision::Busy };
        match self.in_flight.get(question) {
            Some(asked) => {
                Decision::Join { permit, same_client: asked.first_client == client.address }
            }
            None => Decision::Ask(permit),
        }
    }

    /// Waits for the answer to a question. True if it is not being asked yet.
    pub(crate) fn wait(&mut self, question: &Question, client: SocketAddr, waiter: W) -> bool {
        if let Some(asked) = self.in_flight.get_mut(question) {
            asked.waiters.push(waiter);
            return false;
        }
        let asked = InFlight { first_client: client, waiters: vec![waiter] };
        self.in_flight.insert(question.clone(), asked);
        true
    }

    /// Ends a question, which failed with a code or was answered; those who wait for it.
    pub(crate) fn finish(
        &mut self,
        question: &Question,
        failed: Option<Rcode>,
        now: Instant,
    ) -> Vec<W> {
        match failed {
            Some(rcode) => self.failures.remember(question, rcode, now),
            None => self.failures.forget(question),
        }
        self.in_flight.remove(question).map(|asked| asked.waiters).unwrap_or_default()
    }

    /// Whether no question is being asked.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Forgets failures, because other upstreams are asked now.
    pub(crate) fn forget_failures(&mut self) {
        self.failures.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::oracle::question;
    use crate::wire::Query;

    fn asked(text: &str) -> Question {
        let packet = question(text).to_vec().unwrap();
        let mut query = Query::new();
        query.parse(&packet).unwrap();
        Question::of(&query, &packet)
    }

    fn client(address: &str) -> Client {
        Client { address: address.parse().unwrap(), is_allowed: true, is_loop: false }
    }

    #[test]
    fn each_step_in_its_order() {
        let mut outside = Outside::new();
        let (question, now) = (asked("www.example A"), Instant::now());
        let (one, two) = (client("10.0.0.1:53"), client("10.0.0.2:53"));
        let check = |outside: &Outside<u8>, client, now, permit, expected: Decision<()>| {
            assert_eq!(outside.decide(&question, client, now, || permit), expected);
        };
        let refused = Client { is_allowed: false, ..one };
        let looped = Client { is_loop: true, ..one };
        check(&outside, refused, now, Some(()), Decision::Refuse);
        check(&outside, looped, now, Some(()), Decision::BreakLoop);
        check(&outside, one, now, None, Decision::Busy);
        check(&outside, one, now, Some(()), Decision::Ask(()));
        assert!(outside.wait(&question, one.address, 1));
        let join = |same_client| Decision::Join { permit: (), same_client };
        check(&outside, one, now, Some(()), join(true));
        check(&outside, two, now, Some(()), join(false));
        check(&outside, two, now, None, Decision::Busy);
        assert!(!outside.wait(&question, two.address, 2));
        assert!(outside.wait(&asked("other.example A"), two.address, 3));
        assert_eq!(outside.finish(&question, Some(Rcode::SERVFAIL), now), [1, 2]);
        check(&outside, refused, now, Some(()), Decision::Refuse);
        check(&outside, looped, now, None, Decision::FailAgain(Rcode::SERVFAIL));
        let later = now + Duration::from_secs(2);
        check(&outside, one, later, Some(()), Decision::Ask(()));
        assert!(outside.wait(&question, one.address, 4));
        assert_eq!(outside.finish(&question, None, later), [4]);
        check(&outside, one, later, Some(()), Decision::Ask(()));
        outside.finish(&question, Some(Rcode::REFUSED), later);
        outside.forget_failures();
        check(&outside, one, later, Some(()), Decision::Ask(()));
    }
}
