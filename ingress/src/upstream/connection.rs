//! A connection to an endpoint, whatever it speaks.
//!
//! All connections to the endpoints of a Service port speak one protocol. So a request that one
//! connection could not get answered is sent over another one as it was encoded.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::header::HeaderMap;
use http_body::Frame;

use super::codec::{Asked, Head};
use super::failure::Failure;
use super::http1::Http1;
use super::outgoing::Outgoing;
use super::transport::{self, Transport};
use crate::body::RequestBody;
use crate::head::RequestHead;
use crate::origin::{Origin, RequestId, Rules};
use crate::snapshot::Endpoint;

/// A connection to an endpoint, and the exchange that it is busy with.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) endpoint: Arc<Endpoint>,
    /// It has served a request before.
    pub(crate) reused: bool,
    /// The tick at which it was put into the pool.
    pub(super) idle_since: u64,
    protocol: Protocol,
}

#[derive(Debug)]
enum Protocol {
    Http1(Box<Http1>),
}

/// A request as it was encoded for an endpoint that did not answer it.
#[derive(Debug)]
pub(crate) enum Unanswered {
    Http1(Outgoing, Asked),
}

impl Upstream {
    /// Opens a connection.
    pub(crate) async fn connect(endpoint: Arc<Endpoint>) -> io::Result<Upstream> {
        let stream = transport::connect(endpoint.address).await?;
        let protocol = Protocol::Http1(Box::new(Http1::new(stream)));
        Ok(Upstream { endpoint, reused: false, idle_since: 0, protocol })
    }

    fn http1(&self) -> &Http1 {
        let Protocol::Http1(http1) = &self.protocol;
        http1
    }

    fn http1_mut(&mut self) -> &mut Http1 {
        let Protocol::Http1(http1) = &mut self.protocol;
        http1
    }

    /// Takes a request with a body of so many bytes at most; it is then sent by polling.
    pub(crate) fn begin(
        &mut self,
        head: &RequestHead<'_>,
        body: RequestBody,
        max_body: u64,
        context: (&Origin, &Rules, &RequestId),
    ) {
        self.http1_mut().begin(head, body, max_body, context);
    }

    /// Takes a request that another connection did not get answered.
    pub(crate) fn begin_again(&mut self, unanswered: Unanswered) {
        let Unanswered::Http1(outgoing, asked) = unanswered;
        self.http1_mut().begin_again(outgoing, asked);
    }

    /// Takes the request back, to be sent again over another connection; none when part of it is
    /// no longer there.
    pub(crate) fn take_back(&mut self) -> Option<Unanswered> {
        let (outgoing, asked) = self.http1_mut().take_back()?;
        Some(Unanswered::Http1(outgoing, asked))
    }

    /// Sends the request and waits for the head of the response, whose fields are put into
    /// `headers`.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        headers: &mut HeaderMap,
    ) -> Poll<Result<Head, Failure>> {
        self.http1_mut().poll_head(cx, headers)
    }

    /// The next piece of the response's body; goes on sending the request's body meanwhile.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.http1_mut().poll_frame(cx)
    }

    /// Goes on sending the request's body after the response has ended.
    pub(crate) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.http1_mut().poll_upload(cx)
    }

    /// The response's body has been read to its end.
    pub(crate) fn is_read(&self) -> bool {
        self.http1().is_read()
    }

    /// All of the request has been sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.http1().is_sent()
    }

    /// Whether any byte of the request may have reached the endpoint.
    pub(crate) fn is_begun(&self) -> bool {
        self.http1().is_begun()
    }

    /// Whether it is the client that has to go on: all that it sent has been sent on.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.http1().waits_for_client()
    }

    /// The length of what is left of the response's body, where it is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.http1().remaining()
    }

    /// Counts what came and went: an exchange whose count stands still makes no progress.
    pub(crate) fn progress(&self) -> u64 {
        self.http1().progress()
    }

    /// Whether both bodies have ended and the connection may serve another request.
    pub(super) fn is_reusable(&self) -> bool {
        self.http1().is_reusable()
    }

    /// Whether a kept connection is still as it was left: open and silent.
    pub(super) fn is_alive(&self) -> bool {
        self.http1().is_alive()
    }

    /// The same, asking the kernel: for requests that could not be sent again.
    pub(crate) fn is_alive_now(&self) -> bool {
        self.http1().is_alive_now()
    }

    /// Gives memory back that only a large exchange needs: idle connections are many.
    pub(super) fn shrink(&mut self) {
        self.http1_mut().shrink();
    }

    /// The stream of a connection that has changed protocols, and what was read beyond that.
    pub(crate) fn into_tunnel(self) -> (Transport, BytesMut) {
        let Protocol::Http1(http1) = self.protocol;
        http1.into_tunnel()
    }
}
