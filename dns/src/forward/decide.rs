//! What happens to a question about a name outside our zones: one function, [`Outside::decide`].
//!
//! Pure. Each data thread has an [`Outside`] of its own: the questions that its clients wait for.
//! An equal question waits for the same answer, which also keeps forgers from a birthday attack
//! (RFC 5452 section 5).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;

use daemon::quota;
use foldhash::fast::RandomState;

use crate::cache::stored::{Age, Stored};
use crate::cache::{Failure, Found};

use super::question::{Key, Question};

/// Queries that may wait for the answer to one question.
const MAX_WAITERS: usize = 8192;
/// Queries that may wait in all.
const MAX_ALL_WAITERS: usize = 16_384;
/// Those of one client, which can send many for a few dead names.
const MAX_OF_CLIENT: usize = 2048;

/// What is decided about a question. `P` is the permit to wait for upstreams.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision<P> {
    /// The client may not use the upstreams.
    Refuse,
    /// There is none for this name.
    NoUpstream,
    /// The cache has an answer. `refresh` holds a permit if upstreams should be asked for the next.
    Answer { answer: Arc<Stored>, age: Age, refresh: Option<P> },
    /// It failed a moment ago.
    FailAgain(Failure),
    /// It comes from an upstream that forwards to us what we forward to it.
    BreakLoop,
    /// Too many questions wait for upstreams.
    Busy,
    /// An identical question is in flight: wait for its answer. There is no permit if the client
    /// waits for it already: one name costs a client one place, however often it asks.
    Join { permit: Option<P>, same_client: bool },
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

impl Client {
    fn quota(&self) -> quota::Client {
        quota::Client::of(self.address.ip())
    }
}

/// One data thread's questions for upstreams; `W` waits for an answer.
#[derive(Debug)]
pub(crate) struct Outside<W, P> {
    in_flight: HashMap<Question, InFlight<W, P>, RandomState>,
    waiters: usize,
    /// The queries of each client that wait.
    by_client: HashMap<quota::Client, usize, RandomState>,
}

#[derive(Debug)]
struct InFlight<W, P> {
    first_client: SocketAddr,
    /// The place of each client that waits.
    places: HashMap<quota::Client, P, RandomState>,
    waiters: Vec<(quota::Client, W)>,
}

impl<W, P> Outside<W, P> {
    pub(crate) fn new() -> Outside<W, P> {
        Outside { in_flight: HashMap::default(), waiters: 0, by_client: HashMap::default() }
    }

    /// Decides. `found` is what the cache knows, `are_down` whether all upstreams are known not to
    /// answer; `admit` gives a permit if another question may wait for upstreams.
    #[inline]
    pub(crate) fn decide(
        &self,
        key: &Key,
        found: Found,
        client: Client,
        are_down: bool,
        admit: impl FnOnce() -> Option<P>,
    ) -> Decision<P> {
        if !client.is_allowed {
            return Decision::Refuse;
        }
        let stale = match found {
            Found::Fresh { answer, age, refresh } => {
                let refresh = if refresh && !client.is_loop { admit() } else { None };
                return Decision::Answer { answer, age: Age::Fresh(age), refresh };
            }
            Found::Failed(failure) => return Decision::FailAgain(failure),
            Found::Stale { answer, may_ask: true } if !are_down => Some(answer),
            Found::Stale { answer, may_ask } => {
                let refresh = if may_ask { admit() } else { None };
                return Decision::Answer { answer, age: Age::Stale, refresh };
            }
            Found::Nothing => None,
        };
        if client.is_loop {
            return Decision::BreakLoop;
        }
        self.wait_or_ask(key, client, admit).unwrap_or(match stale {
            Some(answer) => Decision::Answer { answer, age: Age::Stale, refresh: None },
            None => Decision::Busy,
        })
    }

    /// `None` if there is no room.
    fn wait_or_ask(
        &self,
        key: &Key,
        client: Client,
        admit: impl FnOnce() -> Option<P>,
    ) -> Option<Decision<P>> {
        let of_client = self.by_client.get(&client.quota()).copied().unwrap_or_default();
        if self.waiters == MAX_ALL_WAITERS || of_client == MAX_OF_CLIENT {
            return None;
        }
        let Some(asked) = self.in_flight.get(key.octets()) else {
            return admit().map(Decision::Ask);
        };
        if asked.waiters.len() == MAX_WAITERS {
            return None;
        }
        let permit = match asked.places.contains_key(&client.quota()) {
            true => None,
            false => Some(admit()?),
        };
        Some(Decision::Join { permit, same_client: asked.first_client == client.address })
    }

    /// Waits for the answer to a question. True if it is not being asked yet.
    pub(crate) fn wait(
        &mut self,
        question: &Question,
        client: SocketAddr,
        permit: Option<P>,
        waiter: W,
    ) -> bool {
        let quota_client = quota::Client::of(client.ip());
        self.waiters += 1;
        *self.by_client.entry(quota_client).or_default() += 1;
        let mut is_first = false;
        let asked = self.in_flight.entry(question.clone()).or_insert_with(|| {
            is_first = true;
            InFlight { first_client: client, places: HashMap::default(), waiters: Vec::new() }
        });
        if let Some(permit) = permit {
            asked.places.insert(quota_client, permit);
        }
        asked.waiters.push((quota_client, waiter));
        is_first
    }

    /// Those who wait for the answer to a question, which from now on is not waited for.
    pub(crate) fn finish(&mut self, question: &Question) -> Vec<W> {
        let asked = self.in_flight.remove(question);
        let waiters = asked.map(|asked| asked.waiters).unwrap_or_default();
        self.waiters -= waiters.len();
        for (client, _) in &waiters {
            if let Entry::Occupied(mut of_client) = self.by_client.entry(*client) {
                *of_client.get_mut() -= 1;
                if *of_client.get() == 0 {
                    of_client.remove();
                }
            }
        }
        waiters.into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Failure;
    use crate::oracle::{asked, key};
    use crate::wire::Rcode;

    fn client(address: &str) -> Client {
        Client { address: address.parse().unwrap(), is_allowed: true, is_loop: false }
    }

    fn answer() -> Arc<Stored> {
        Arc::new(Stored::without_records(Rcode::NXDOMAIN, None))
    }

    #[test]
    fn each_step_in_its_order() {
        let mut outside = Outside::new();
        let (name, question) = (key("www.example A"), asked("www.example A"));
        let (one, two) = (client("10.0.0.1:53"), client("10.0.0.2:53"));
        let check = |outside: &Outside<u8, ()>, found: &Found, client, permit, expected| {
            let decision = outside.decide(&name, found.clone(), client, false, || permit);
            assert_eq!(decision, expected, "{found:?}");
        };
        let nothing = Found::Nothing;
        let refused = Client { is_allowed: false, ..one };
        let looped = Client { is_loop: true, ..one };
        let fresh = |refresh| Found::Fresh { answer: answer(), age: 3, refresh };
        let answered = |refresh| Decision::Answer { answer: answer(), age: Age::Fresh(3), refresh };
        let failure = Failure { rcode: Rcode::SERVFAIL, error: None };
        let failed = Found::Failed(failure.clone());
        check(&outside, &fresh(false), refused, Some(()), Decision::Refuse);
        check(&outside, &fresh(false), one, Some(()), answered(None));
        check(&outside, &fresh(true), one, Some(()), answered(Some(())));
        check(&outside, &fresh(true), one, None, answered(None));
        check(&outside, &fresh(true), looped, Some(()), answered(None));
        check(&outside, &failed, looped, Some(()), Decision::FailAgain(failure));
        check(&outside, &nothing, looped, Some(()), Decision::BreakLoop);
        check(&outside, &nothing, one, None, Decision::Busy);
        check(&outside, &nothing, one, Some(()), Decision::Ask(()));
        assert!(outside.wait(&question, one.address, Some(()), 1));
        let join = |permit, same_client| Decision::Join { permit, same_client };
        check(&outside, &nothing, one, Some(()), join(None, true));
        check(&outside, &nothing, one, None, join(None, true));
        let other_port = client("10.0.0.1:54");
        check(&outside, &nothing, other_port, None, join(None, false));
        check(&outside, &nothing, two, Some(()), join(Some(()), false));
        check(&outside, &nothing, two, None, Decision::Busy);
        assert!(!outside.wait(&question, two.address, Some(()), 2));
        assert!(outside.wait(&asked("other.example A"), two.address, Some(()), 3));
        assert_eq!(outside.finish(&question), [1, 2]);
        check(&outside, &nothing, one, Some(()), Decision::Ask(()));
        assert!(!outside.is_empty());
    }

    #[test]
    fn a_stale_answer_is_better_than_none() {
        let outside: Outside<u8, ()> = Outside::new();
        let (name, one) = (key("www.example A"), client("10.0.0.1:53"));
        let check = |may_ask: bool, are_down: bool, permit, expected| {
            let found = Found::Stale { answer: answer(), may_ask };
            assert_eq!(outside.decide(&name, found, one, are_down, || permit), expected);
        };
        let stale = |refresh| Decision::Answer { answer: answer(), age: Age::Stale, refresh };
        check(true, false, Some(()), Decision::Ask(()));
        check(true, false, None, stale(None));
        check(true, true, Some(()), stale(Some(())));
        check(true, true, None, stale(None));
        check(false, false, Some(()), stale(None));
        check(false, true, Some(()), stale(None));
    }

    #[test]
    fn those_who_wait_are_bounded() {
        let mut outside: Outside<usize, ()> = Outside::new();
        let from = |number: usize| client(&format!("10.0.0.{}:53", number % 100));
        let decide = |outside: &Outside<usize, ()>, from: Client, name: &str| {
            outside.decide(&key(name), Found::Nothing, from, false, || Some(()))
        };
        for number in 0..MAX_ALL_WAITERS {
            let name = format!("n{}.example A", number / MAX_WAITERS);
            let client = from(number);
            assert!(!matches!(decide(&outside, client, &name), Decision::Busy), "{number}");
            outside.wait(&asked(&name), client.address, Some(()), number);
            if (number + 1) % MAX_WAITERS == 0 {
                assert_eq!(decide(&outside, client, &name), Decision::Busy);
            }
        }
        assert_eq!(decide(&outside, from(0), "new.example A"), Decision::Busy);
        assert_eq!(outside.finish(&asked("n0.example A")).len(), MAX_WAITERS);
        assert_eq!(decide(&outside, from(0), "new.example A"), Decision::Ask(()));
    }

    /// With a few dead names, one client took all places of those who wait.
    #[test]
    fn one_client_s_queries_leave_room_to_others() {
        let mut outside: Outside<usize, ()> = Outside::new();
        let (one, two) = (client("10.0.0.1:53"), client("10.0.0.2:53"));
        let decide = |outside: &Outside<usize, ()>, from: Client, name: &str| {
            outside.decide(&key(name), Found::Nothing, from, false, || Some(()))
        };
        let dead = ["a.example A", "b.example A"];
        for number in 0..MAX_OF_CLIENT {
            let name = dead[number % dead.len()];
            assert!(!matches!(decide(&outside, one, name), Decision::Busy), "{number}");
            outside.wait(&asked(name), one.address, Some(()), number);
        }
        for name in [dead[0], "c.example A"] {
            assert_eq!(decide(&outside, one, name), Decision::Busy, "{name}");
            assert!(!matches!(decide(&outside, two, name), Decision::Busy), "{name}");
        }
        for name in dead {
            assert_eq!(outside.finish(&asked(name)).len(), MAX_OF_CLIENT / dead.len());
        }
        assert!(outside.by_client.is_empty());
        assert_eq!(decide(&outside, one, dead[0]), Decision::Ask(()));
    }
}
