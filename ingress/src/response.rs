//! Response bodies: an endpoint's, passed on piece by piece as the client takes it, or a line of
//! our own.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::in_flight::InFlight;
use crate::pace::Pace;
use crate::record::EndedBy;
use crate::upstream::{Failure, Upstream};

/// Why a response's body breaks off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the endpoint did not go on in time")]
    Timeout,
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// A response's body, and with it the request that is in flight until the body is dropped.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    in_flight: Option<InFlight>,
    /// How fast it may be, where that is limited.
    pace: Option<Box<Pace>>,
}

#[derive(Debug)]
enum Source {
    Empty,
    Text(Bytes),
    Upstream(Upstream),
    /// The endpoint's connection, which has changed protocols. Its bytes are passed on elsewhere.
    Tunnel(Upstream),
}

impl ResponseBody {
    pub(crate) fn empty() -> ResponseBody {
        ResponseBody { source: Source::Empty, in_flight: None, pace: None }
    }

    pub(crate) fn text(text: Bytes) -> ResponseBody {
        ResponseBody { source: Source::Text(text), in_flight: None, pace: None }
    }

    /// The body that follows a head that was read from this connection.
    pub(crate) fn of(upstream: Upstream) -> ResponseBody {
        ResponseBody { source: Source::Upstream(upstream), in_flight: None, pace: None }
    }

    /// For a stream that has changed protocols.
    pub(crate) fn tunnel(upstream: Upstream) -> ResponseBody {
        ResponseBody { source: Source::Tunnel(upstream), in_flight: None, pace: None }
    }

    /// The endpoint's connection of a stream that has changed protocols.
    pub(crate) fn take_tunnel(&mut self) -> Option<Upstream> {
        match std::mem::replace(&mut self.source, Source::Empty) {
            Source::Tunnel(upstream) => Some(upstream),
            source => {
                self.source = source;
                None
            }
        }
    }

    /// Limits how fast it is sent: bytes a second, and those that are sent at once before.
    pub(crate) fn pace(&mut self, rate: u64, after: u64) {
        self.pace = Some(Box::new(Pace::new(rate, after)));
    }

    /// Ties the request to the body.
    pub(crate) fn hold(&mut self, in_flight: InFlight) {
        self.in_flight = Some(in_flight);
        if matches!(&self.source, Source::Upstream(upstream) if upstream.is_read()) {
            self.release();
        }
    }

    /// The response has ended. Its connection is given back, or first gets the rest of the
    /// request's body: an endpoint may answer before it has read all, and read on.
    fn release(&mut self) {
        let Source::Upstream(upstream) = std::mem::replace(&mut self.source, Source::Empty) else {
            return;
        };
        let Some(in_flight) = &self.in_flight else { return };
        in_flight.ended_by(EndedBy::Completion);
        if upstream.is_sent() {
            in_flight.keep(upstream);
        } else if let Some(in_flight) = self.in_flight.take() {
            tokio::task::spawn_local(finish_upload(in_flight, upstream));
        }
    }

    /// A piece is given to the client's connection.
    fn handed_over(&self, bytes: usize) {
        if let Some(in_flight) = &self.in_flight {
            in_flight.record.borrow_mut().sent += bytes as u64;
            if let Some(stream) = in_flight.stream() {
                stream.handed_over(bytes);
            }
        }
    }

    fn break_off(&mut self, ended_by: EndedBy, why: Broken) -> Broken {
        self.source = Source::Empty;
        if let Some(in_flight) = &self.in_flight {
            in_flight.ended_by(ended_by);
        }
        why
    }
}

/// Sends the rest of a request's body whose response has ended.
async fn finish_upload(in_flight: InFlight, mut upstream: Upstream) {
    in_flight.made_progress(&upstream);
    let sent = poll_fn(|cx| {
        let before = upstream.progress();
        let polled = upstream.poll_upload(cx);
        if upstream.progress() != before {
            in_flight.made_progress(&upstream);
        }
        match polled {
            Poll::Ready(sent) => Poll::Ready(sent.is_ok()),
            Poll::Pending if in_flight.poll_timed_out(cx) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    });
    if sent.await {
        in_flight.keep(upstream);
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        let upstream = match &mut this.source {
            Source::Upstream(upstream) => upstream,
            Source::Empty | Source::Tunnel(_) => return Poll::Ready(None),
            Source::Text(text) => {
                let text = std::mem::take(text);
                this.source = Source::Empty;
                this.handed_over(text.len());
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
        };
        if let Some(pace) = &mut this.pace
            && ready!(pace.poll_ready(cx))
            && let Some(in_flight) = &this.in_flight
        {
            // The endpoint was not asked for more meanwhile.
            in_flight.made_progress(upstream);
        }
        let before = upstream.progress();
        let polled = upstream.poll_frame(cx);
        if let Some(in_flight) = &this.in_flight {
            if upstream.progress() != before {
                in_flight.made_progress(upstream);
            }
            if polled.is_pending() && in_flight.poll_timed_out(cx) {
                upstream.timed_out();
                let broken = this.break_off(EndedBy::Timeout, Broken::Timeout);
                return Poll::Ready(Some(Err(broken)));
            }
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let is_read = upstream.is_read();
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                if let Some(pace) = &mut this.pace {
                    pace.sent(bytes);
                }
                this.handed_over(bytes);
                if is_read {
                    this.release();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(failure))) => {
                let ended_by = match failure {
                    Failure::TooLarge | Failure::Downstream(_) => EndedBy::Client,
                    _ => EndedBy::Endpoint,
                };
                Poll::Ready(Some(Err(this.break_off(ended_by, failure.into()))))
            }
            Poll::Ready(None) => {
                this.release();
                Poll::Ready(None)
            }
            Poll::Pending => {
                if let Some(stream) = this.in_flight.as_ref().and_then(InFlight::stream) {
                    stream.waits_for_endpoint();
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Tunnel(_) => SizeHint::default(),
            Source::Text(text) => SizeHint::with_exact(text.len() as u64),
            Source::Upstream(upstream) => {
                upstream.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}
