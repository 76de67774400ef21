//! Response bodies: an endpoint's, passed on piece by piece as the client takes it, or a line of
//! our own.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::connection::InFlight;
use crate::upstream::{Failure, Upstream};

/// Why a response's body breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the endpoint did not go on in time")]
    Timeout,
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// A response's body, and with it the request that is in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct Body {
    source: Source,
    in_flight: Option<InFlight>,
}

#[derive(Debug)]
enum Source {
    Empty,
    Text(Bytes),
    Upstream(Box<Upstream>),
}

impl Body {
    pub(crate) fn empty() -> Body {
        Body { source: Source::Empty, in_flight: None }
    }

    pub(crate) fn text(text: Bytes) -> Body {
        Body { source: Source::Text(text), in_flight: None }
    }

    /// The body that follows a head that was read from this connection.
    pub(crate) fn of(upstream: Box<Upstream>) -> Body {
        Body { source: Source::Upstream(upstream), in_flight: None }
    }

    /// Ties the request to the body.
    pub(crate) fn hold(&mut self, in_flight: InFlight) {
        self.in_flight = Some(in_flight);
    }

    /// Gives the connection back, once there is nothing more to read from it.
    fn release(&mut self) {
        if let Source::Upstream(upstream) = std::mem::replace(&mut self.source, Source::Empty)
            && let Some(in_flight) = &self.in_flight
        {
            in_flight.keep(upstream);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        let upstream = match &mut this.source {
            Source::Upstream(upstream) => upstream,
            Source::Empty => return Poll::Ready(None),
            Source::Text(text) => {
                let text = std::mem::take(text);
                this.source = Source::Empty;
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
        };
        let before = upstream.progress();
        let polled = upstream.poll_frame(cx);
        if let Some(in_flight) = &this.in_flight {
            if upstream.progress() != before {
                in_flight.made_progress(upstream);
            }
            if polled.is_pending() && in_flight.poll_timed_out(cx) {
                this.source = Source::Empty;
                return Poll::Ready(Some(Err(Broken::Timeout)));
            }
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if upstream.is_read() {
                    this.release();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(failure))) => {
                this.source = Source::Empty;
                Poll::Ready(Some(Err(failure.into())))
            }
            Poll::Ready(None) => {
                this.release();
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Text(text) => SizeHint::with_exact(text.len() as u64),
            Source::Upstream(upstream) => {
                upstream.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}
