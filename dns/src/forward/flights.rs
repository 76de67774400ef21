//! Questions that are being asked, by all data threads together: one asks, the others wait for what
//! it learns.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use tokio::sync::oneshot;

use super::question::Question;

/// Shared by all data threads. `T` is what is learnt.
#[derive(Debug)]
pub(crate) struct Flights<T>(Mutex<HashMap<Question, Vec<oneshot::Sender<T>>, RandomState>>);

/// What to do about a question.
#[derive(Debug)]
pub(crate) enum Part<'f, T: Clone> {
    /// Ask.
    Lead(Lead<'f, T>),
    /// Another thread asks. An error means that it gave up.
    Follow(oneshot::Receiver<T>),
}

/// The duty to ask. If it is dropped, those who wait learn that nobody asks any more.
#[derive(Debug)]
pub(crate) struct Lead<'f, T: Clone> {
    flights: &'f Flights<T>,
    question: Question,
    is_done: bool,
}

impl<T> Default for Flights<T> {
    fn default() -> Flights<T> {
        Flights(Mutex::default())
    }
}

impl<T: Clone> Flights<T> {
    /// Begins to ask a question, or to wait for the thread that does.
    pub(crate) fn join(&self, question: &Question) -> Part<'_, T> {
        let mut flights = self.lock();
        if let Some(followers) = flights.get_mut(question) {
            let (sender, receiver) = oneshot::channel();
            followers.push(sender);
            return Part::Follow(receiver);
        }
        flights.insert(question.clone(), Vec::new());
        Part::Lead(Lead { flights: self, question: question.clone(), is_done: false })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Question, Vec<oneshot::Sender<T>>, RandomState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Lead<'_, T> {
    /// Tells those who wait.
    pub(crate) fn finish(mut self, learnt: &T) {
        self.is_done = true;
        for follower in self.flights.lock().remove(&self.question).unwrap_or_default() {
            // An error means that its thread has ended.
            let _ = follower.send(learnt.clone());
        }
    }
}

impl<T: Clone> Drop for Lead<'_, T> {
    fn drop(&mut self) {
        if !self.is_done {
            self.flights.lock().remove(&self.question);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::asked;

    #[test]
    fn one_asks_and_the_others_learn() {
        let flights = Flights::default();
        let (a, b) = (asked("a.example A"), asked("b.example A"));
        let Part::Lead(lead) = flights.join(&a) else { panic!("the first asks") };
        let Part::Follow(mut first) = flights.join(&a) else { panic!("the second waits") };
        let Part::Lead(other) = flights.join(&b) else { panic!("another question") };
        assert!(first.try_recv().is_err());
        lead.finish(&7);
        assert_eq!(first.try_recv(), Ok(7));
        let Part::Follow(mut waiting) = flights.join(&b) else { panic!("it is asked") };
        drop(other);
        assert_eq!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(matches!(flights.join(&a), Part::Lead(_)), "anew");
        assert!(matches!(flights.join(&b), Part::Lead(_)), "anew");
    }
}
