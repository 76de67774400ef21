//! The body of a request, as a client sends it and as an endpoint may have it: of the length that
//! was announced, no larger than allowed, with the trailers that may go on.
//!
//! The same for endpoints of every HTTP version; left out is how it is framed for them.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName};
use http_body::Frame;

use super::encode::goes_on;
use crate::body::{BodyBroken, RequestBody};
use crate::head::{Framing, RequestHead, is_forbidden_trailer, kept_back};
use crate::origin::{Origin, Rules};

/// Why the client's body cannot be sent on.
#[derive(Debug)]
pub(super) enum BodyError {
    TooLarge,
    /// It broke off, or has another length than was announced.
    Client(Option<BodyBroken>),
}

/// Where more of a request's body comes from.
#[derive(Debug, Default)]
pub(super) enum Source {
    #[default]
    Ended,
    Client(ClientBody),
    /// The endpoint takes no more: what the client still sends is not read.
    Refused,
}

/// A body that has not ended.
#[derive(Debug)]
pub(super) struct ClientBody {
    body: RequestBody,
    framing: Framing,
    taken: u64,
    limit: u64,
    trailers: TrailerRules,
}

/// Which trailers go on: those that would go on as fields of the head.
#[derive(Debug)]
pub(super) struct TrailerRules {
    is_trusted: bool,
    allow_underscores: bool,
    /// Kept back besides: what Connection names, and what the route replaces.
    kept_back: Box<[HeaderName]>,
}

/// What came of a body.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    End(Option<HeaderMap>),
}

impl Source {
    /// The body that follows a head, of which an endpoint gets so many bytes at most.
    pub(super) fn new(
        head: &RequestHead<'_>,
        body: RequestBody,
        limit: u64,
        (origin, rules): (&Origin, &Rules),
    ) -> Source {
        let framing = head.framing;
        match framing {
            Framing::None | Framing::Empty => Source::Ended,
            Framing::Length(_) | Framing::Chunked => {
                let trailers = TrailerRules::new(head, origin, rules);
                Source::Client(ClientBody { body, framing, taken: 0, limit, trailers })
            }
        }
    }
}

impl ClientBody {
    pub(super) fn is_chunked(&self) -> bool {
        self.framing == Framing::Chunked
    }

    /// Whether the client has sent all, though that was not taken yet.
    pub(super) fn is_ended(&self) -> bool {
        self.body.is_ended()
    }

    /// Takes the next piece.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, BodyError>> {
        // Hyper gives the end of a body that outlasts its response only when the client's next
        // request has come, but knows of it as soon as the last data is taken.
        let frame = match self.body.is_ended() {
            true => None,
            false => ready!(self.body.poll_frame(cx)),
        };
        Poll::Ready(match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Err(error)) => Err(BodyError::Client(Some(error))),
            Some(Ok(Ok(data))) => self.count(&data).map(|()| Piece::Data(data)),
            Some(Ok(Err(frame))) => self.end(frame.into_trailers().ok()),
            None => self.end(None),
        })
    }

    fn count(&mut self, data: &Bytes) -> Result<(), BodyError> {
        self.taken += data.len() as u64;
        if self.taken > self.limit {
            return Err(BodyError::TooLarge);
        }
        match self.framing {
            Framing::Length(length) if self.taken > length => Err(BodyError::Client(None)),
            _ => Ok(()),
        }
    }

    /// The end, if it is where it was announced: the endpoint would wait for the rest.
    pub(super) fn end(&self, trailers: Option<HeaderMap>) -> Result<Piece, BodyError> {
        match self.framing {
            Framing::Length(length) if self.taken != length => Err(BodyError::Client(None)),
            _ => {
                let trailers = trailers.map(|trailers| self.trailers.filter(trailers));
                Ok(Piece::End(trailers.filter(|trailers| !trailers.is_empty())))
            }
        }
    }
}

impl TrailerRules {
    fn new(head: &RequestHead<'_>, origin: &Origin, rules: &Rules) -> TrailerRules {
        TrailerRules {
            is_trusted: origin.trusted,
            allow_underscores: rules.allow_underscores,
            kept_back: kept_back(head).into_iter().chain(replaced(head)).collect(),
        }
    }

    fn filter(&self, mut trailers: HeaderMap) -> HeaderMap {
        let stays = |name: &HeaderName| {
            !is_forbidden_trailer(name)
                && goes_on(name, self.is_trusted, self.allow_underscores)
                && !self.kept_back.contains(name)
        };
        let others: Vec<_> = trailers.keys().filter(|name| !stays(name)).cloned().collect();
        for name in others {
            trailers.remove(name);
        }
        trailers
    }
}

/// The names of the fields that a route adds.
fn replaced(head: &RequestHead<'_>) -> impl Iterator<Item = HeaderName> {
    head.edits.into_iter().flat_map(|edits| &edits.added).map(|(name, _)| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_go_on_by_the_rules_of_fields() {
        let rules = TrailerRules {
            is_trusted: false,
            allow_underscores: false,
            kept_back: ["x-hop", "x-user"].map(HeaderName::from_static).into(),
        };
        let names = [
            "x-sum",
            "x-hop",
            "x-user",
            "a_b",
            "x-real-ip",
            "x-forwarded-for",
            "cookie",
            "host",
            "proxy-authorization",
            "expect",
            "http2-settings",
            "grpc-status",
        ];
        let mut trailers = HeaderMap::new();
        for name in names {
            trailers.append(HeaderName::from_static(name), http::HeaderValue::from_static("1"));
        }
        let trailers = rules.filter(trailers);
        let mut kept: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["grpc-status", "x-sum"]);
    }
}
