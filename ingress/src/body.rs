//! A request's body, as the frames that a client sends: the same for every HTTP version.
//!
//! Hyper's type stands nowhere else. Left out: how a body is framed for an endpoint, which is the
//! upstream connection's to decide.

mod copy;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;

pub(crate) use self::copy::{BodyCopy, CopiedBody, copy};

/// The client ended the body early, or broke its framing.
#[derive(Debug, thiserror::Error)]
#[error("the client broke off its request's body")]
pub(crate) struct BodyBroken(#[source] hyper::Error);

/// Where the frames of a request's body come from.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// A client's HTTP/1.1 connection or HTTP/2 stream, which hyper reads.
    Hyper(Incoming),
    /// Of a request that has none.
    Empty,
    /// The same, of which a second server gets a copy.
    Copied(Box<(Incoming, BodyCopy)>),
}

impl RequestBody {
    /// Whether nothing comes, or nothing more.
    pub(crate) fn is_ended(&self) -> bool {
        match self {
            RequestBody::Hyper(incoming) => incoming.is_end_stream(),
            RequestBody::Empty => true,
            RequestBody::Copied(copied) => copied.0.is_end_stream(),
        }
    }

    /// The next frame; `None` once the body has ended.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        match self {
            RequestBody::Hyper(incoming) => {
                let frame = ready!(Pin::new(incoming).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(BodyBroken)))
            }
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Copied(copied) => {
                let (incoming, copy) = &mut **copied;
                let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    copy.push(data);
                }
                if frame.is_none() || incoming.is_end_stream() {
                    copy.finish();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyBroken)))
            }
        }
    }
}
