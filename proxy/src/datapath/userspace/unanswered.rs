//! What a UDP client has sent that nobody has answered yet: it goes to the next endpoint when
//! the first refuses, so that a dead endpoint costs no client its first datagram.
//!
//! Only what is small is kept, and only until the first answer: questions, not uploads.

use std::net::SocketAddr;

/// What is kept for one client: a DNS query is no longer than this without EDNS (RFC 1035, 4.2.1).
const MAX_BYTES: usize = 512;
/// Datagrams kept for one client: resolvers ask for A and AAAA from one socket at once.
const MAX_DATAGRAMS: usize = 4;

/// The datagrams of one session, in their order.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    datagrams: Vec<Box<[u8]>>,
    /// Endpoints that refused them.
    pub(super) tried: Vec<SocketAddr>,
    answered: bool,
}

impl Unanswered {
    /// The client has sent this; what does not fit is not kept.
    pub(super) fn keep(&mut self, datagram: &[u8]) {
        let kept: usize = self.datagrams.iter().map(|datagram| datagram.len()).sum();
        let fits = self.datagrams.len() < MAX_DATAGRAMS && kept + datagram.len() <= MAX_BYTES;
        if fits && !self.answered {
            self.datagrams.push(datagram.into());
        }
    }

    /// The endpoint has answered; whether that is its first answer.
    pub(super) fn answered(&mut self) -> bool {
        let first = !self.answered;
        if first {
            *self = Unanswered { answered: true, ..Unanswered::default() };
        }
        first
    }

    /// Nobody will refuse these any more.
    pub(super) fn forget(&mut self) {
        self.datagrams = Vec::new();
    }

    pub(super) fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.datagrams.iter().map(|datagram| &**datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sent: &[usize], expected: &[usize]) {
        let mut unanswered = Unanswered::default();
        sent.iter().for_each(|length| unanswered.keep(&vec![7; *length]));
        let kept: Vec<usize> = unanswered.datagrams().map(<[u8]>::len).collect();
        assert_eq!(kept, expected, "{sent:?}");
        assert!(unanswered.answered() && !unanswered.answered());
        unanswered.keep(b"more");
        assert_eq!(unanswered.datagrams().count(), 0);
    }

    #[test]
    fn a_few_small_datagrams_are_kept_until_the_first_answer() {
        check(&[], &[]);
        check(&[0], &[0]);
        check(&[512], &[512]);
        check(&[513], &[]);
        check(&[300, 300, 100], &[300, 100]);
        check(&[9, 9, 9, 9, 9], &[9, 9, 9, 9]);
    }
}
