//! A request's body, as the frames that a client sends: the same for every HTTP version.
//!
//! The libraries' types stand nowhere else. Left out: how a body is framed for an endpoint, which
//! is the upstream connection's to decide.

mod copy;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::header::{self, HeaderMap};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;

pub(crate) use self::copy::{BodyCopy, CopiedBody, copy};
use crate::stalled::StreamState;

/// The client ended the body early, or broke its framing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyBroken {
    #[error("the client broke off its request's body")]
    Http1(#[source] hyper::Error),
    #[error("the client reset the stream of its request's body")]
    Http2(#[source] h2::Error),
}

/// Where the frames of a request's body come from.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// A client's HTTP/1.1 connection, which hyper reads.
    Http1(Incoming),
    Http2(StreamBody),
    /// Of a request that has none.
    Empty,
    /// The same, of which a second server gets a copy.
    Copied(Box<(RequestBody, BodyCopy)>),
}

/// The body of a request over HTTP/2.
#[derive(Debug)]
pub(crate) struct StreamBody {
    stream: RecvStream,
    has_all_data: bool,
    /// By what the client is asked for the body, while it waits for that.
    ask: Option<Rc<StreamState>>,
}

impl StreamBody {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.has_all_data {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.ask = None;
                    // The client may send as much again. It fails only where the stream has ended.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => self.has_all_data = true,
                Poll::Pending => {
                    if let Some(state) = self.ask.take() {
                        state.responder.ask_for_body();
                    }
                    return Poll::Pending;
                }
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }
}

impl RequestBody {
    /// The body of a request over HTTP/2.
    pub(crate) fn of_stream(
        stream: RecvStream,
        headers: &HeaderMap,
        state: &Rc<StreamState>,
    ) -> RequestBody {
        let ask = headers.contains_key(header::EXPECT).then(|| state.clone());
        RequestBody::Http2(StreamBody { stream, has_all_data: false, ask })
    }

    /// Whether nothing comes, or nothing more.
    pub(crate) fn is_ended(&self) -> bool {
        match self {
            RequestBody::Http1(incoming) => incoming.is_end_stream(),
            RequestBody::Http2(body) => body.stream.is_end_stream(),
            RequestBody::Empty => true,
            RequestBody::Copied(copied) => copied.0.is_ended(),
        }
    }

    /// The next frame; `None` once the body has ended.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        match self {
            RequestBody::Http1(incoming) => {
                let frame = ready!(Pin::new(incoming).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(BodyBroken::Http1)))
            }
            RequestBody::Http2(body) => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(BodyBroken::Http2)))
            }
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Copied(copied) => {
                let (body, copy) = &mut **copied;
                let frame = ready!(body.poll_frame(cx));
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    copy.push(data);
                }
                if frame.is_none() || body.is_ended() {
                    copy.finish();
                }
                Poll::Ready(frame)
            }
        }
    }
}
