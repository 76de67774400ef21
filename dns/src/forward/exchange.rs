//! One question to one server: over UDP and, if the answer was cut, over TCP; or over TLS.
//!
//! This is also where it is learned what a server supports: EDNS, and the case of letters.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::time::{Instant, timeout};

use crate::cache::stored::Stored;
use crate::wire::Rcode;

use super::once::{lacks_edns, over_udp};
use super::packet::{Form, Packet};
use super::question::Question;
use super::rebuild::{is_truncated, rebuild};
use super::server::{LetterCase, Reason, Server};
use super::stream::Streams;
use super::tasks::Tasks;

/// What a well-formed message of a server says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) answer: Stored,
    pub(crate) kind: ReplyKind,
    /// The time until the server's first answer, before further queries with other means.
    pub(crate) rtt: Duration,
}

/// What a message is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyKind {
    Answer,
    /// It was cut, and there was no answer over TCP.
    Partial,
    /// Such as SERVFAIL: another server may know more.
    Refusal(Rcode),
}

/// One data thread's means to ask servers.
#[derive(Debug)]
pub(crate) struct Exchange {
    streams: Streams,
}

/// What happened to a question until its time was over.
#[derive(Default)]
struct Tried {
    with_edns: bool,
    /// A reply was ignored because of the case of its letters.
    other_case: bool,
    /// An answer that was cut, while TCP is tried.
    partial: Option<Reply>,
}

impl Exchange {
    pub(crate) fn new(tasks: Tasks, tls: Option<Arc<ClientConfig>>) -> Exchange {
        Exchange { streams: Streams::new(tasks, tls) }
    }

    /// Asks a server, and waits at most for `limit`. `again` if it has been asked this question
    /// and is still silent.
    ///
    /// # Errors
    ///
    /// When there is no well-formed message.
    pub(crate) async fn ask(
        &self,
        server: &Arc<Server>,
        question: &Question,
        limit: Duration,
        again: bool,
    ) -> Result<Reply, Reason> {
        let mut tried = Tried::default();
        let asked = self.ask_as_supported(server, question, again, &mut tried);
        if let Ok(result) = timeout(limit, asked).await {
            return result;
        }
        if let Some(partial) = tried.partial {
            return Ok(partial);
        }
        server.was_silent(tried.with_edns);
        if tried.other_case {
            // The true reply never came, so the other one was true.
            server.set_letter_case(LetterCase::Unknown);
        }
        Err(Reason::Silent)
    }

    async fn ask_as_supported(
        &self,
        server: &Arc<Server>,
        question: &Question,
        again: bool,
        tried: &mut Tried,
    ) -> Result<Reply, Reason> {
        let begun = Instant::now();
        let edns = server.uses_edns(again, begun.into_std());
        let mut message = self.send(server, question, edns, tried).await?;
        let rtt = begun.elapsed();
        let now = Instant::now().into_std();
        if edns && lacks_edns(&message) {
            message = self.send(server, question, false, tried).await?;
            if !lacks_edns(&message) {
                server.edns_refused(now);
            }
        } else if edns {
            server.edns_works();
        } else {
            server.plain_answered(now);
        }
        if is_truncated(&message) && server.address.tls_name.is_none() {
            // The client can see that it is incomplete, which is better than no answer.
            tried.partial = reply(question, &message, rtt).ok();
            let edns = server.uses_edns(false, now);
            if let Ok(whole) = self.over_stream(server, question, edns).await
                && let Ok(reply) = reply(question, &whole, rtt)
            {
                return Ok(reply);
            }
        }
        reply(question, &message, rtt)
    }

    async fn send(
        &self,
        server: &Arc<Server>,
        question: &Question,
        edns: bool,
        tried: &mut Tried,
    ) -> Result<Vec<u8>, Reason> {
        tried.with_edns = edns;
        if server.address.tls_name.is_some() {
            return self.over_stream(server, question, edns).await;
        }
        let letters = (server.letter_case() != LetterCase::Lost).then(rand::random);
        let form = Form { edns, padded: false, letters };
        let packet = Packet::new(question, rand::random(), form);
        over_udp(server, &packet, &mut tried.other_case).await
    }

    async fn over_stream(
        &self,
        server: &Arc<Server>,
        question: &Question,
        edns: bool,
    ) -> Result<Vec<u8>, Reason> {
        // A connection cannot be forged as a datagram can, so the letters stay as they are.
        let form = Form { edns, padded: server.address.tls_name.is_some(), letters: None };
        self.streams.ask(server, || Packet::new(question, 0, form)).await
    }
}

/// A message, if it is well-formed.
fn reply(question: &Question, message: &[u8], rtt: Duration) -> Result<Reply, Reason> {
    let answer = rebuild(question, message).ok_or(Reason::Malformed)?;
    let kind = match answer.rcode {
        rcode if is_refusal(rcode) => ReplyKind::Refusal(rcode),
        _ if answer.is_partial => ReplyKind::Partial,
        _ => ReplyKind::Answer,
    };
    Ok(Reply { answer, kind, rtt })
}

/// Whether a code says that this server has no answer. YXDOMAIN says that a DNAME record makes the
/// name too long (RFC 6672 section 2.2).
fn is_refusal(rcode: Rcode) -> bool {
    ![Rcode::NOERROR, Rcode::NXDOMAIN, Rcode::YXDOMAIN].contains(&rcode)
}

#[cfg(test)]
mod tests;
