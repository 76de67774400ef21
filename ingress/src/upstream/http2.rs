//! One request over an HTTP/2 connection to an endpoint.
//!
//! The connection's own task reads and writes frames; here are the request, its body as the client
//! sends it, and the response. Both bodies are passed on with back-pressure: a piece is taken from
//! the client when the endpoint has taken the one before, and the endpoint's window is opened again
//! as the client takes the response. Left out: which connection, and how often a request is sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use http_body::Frame;

use super::codec::{BadResponse, Decoder, Head};
use super::failure::Failure;
use super::shared::StreamPermit;
use super::streamed::{Streamed, Unsendable};
use crate::head::{is_hop_by_hop, without_forbidden};
use crate::interim::InterimHead;
use crate::websocket::accept_of;
use crate::wire::Wire;

/// A request over a shared connection.
#[derive(Debug)]
pub(crate) struct Http2 {
    pub(super) wire: Wire,
    permit: StreamPermit,
    outgoing: Option<Streamed>,
    send: Option<SendStream<Bytes>>,
    receiving: Receiving,
    interim: Option<InterimHead>,
    /// Bytes of the response's body that are still to come, where its length is known.
    remaining: Option<u64>,
    received: u64,
    /// The endpoint says that it has not looked at the request.
    is_refused: bool,
    /// The endpoint has ended the stream, and not the connection.
    was_reset: bool,
}

/// What comes next of the response.
#[derive(Debug)]
enum Receiving {
    Nothing,
    Head(ResponseFuture),
    Data(RecvStream),
    Trailers(RecvStream),
    End,
}

impl Http2 {
    pub(super) fn new(permit: StreamPermit, wire: Wire) -> Http2 {
        Http2 {
            wire,
            permit,
            outgoing: None,
            send: None,
            receiving: Receiving::Nothing,
            interim: None,
            remaining: None,
            received: 0,
            is_refused: false,
            was_reset: false,
        }
    }

    /// Takes a request, which is then sent by polling.
    pub(super) fn begin(&mut self, request: Streamed) {
        self.outgoing = Some(request);
    }

    /// Takes the request back, to be sent again over another connection; none when part of it is
    /// no longer there.
    pub(super) fn take_back(&mut self) -> Option<Streamed> {
        let mut outgoing = self.outgoing.take()?;
        outgoing.rewind().then_some(outgoing)
    }

    /// Sends the request and waits for the head of the response, whose fields are put into
    /// `headers`.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        headers: &mut HeaderMap,
    ) -> Poll<Result<Head, Failure>> {
        if let Receiving::Nothing = self.receiving {
            self.send_head()?;
        }
        self.poll_send(cx)?;
        if self.interim.is_some() {
            return Poll::Pending;
        }
        let Receiving::Head(response) = &mut self.receiving else {
            return Poll::Ready(Err(Failure::Unanswered(None)));
        };
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            let status = interim.status();
            if status != StatusCode::CONTINUE {
                self.interim = Some(passed_on(interim));
                return Poll::Pending;
            }
            if let Some(outgoing) = self.outgoing.as_mut().filter(|o| o.holds_body()) {
                outgoing.send_body();
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        match ready!(Pin::new(response).poll(cx)) {
            Ok(response) => Poll::Ready(self.take_head(response, headers)),
            Err(error) => Poll::Ready(Err(self.no_head(error))),
        }
    }

    /// An interim response that has come, to be passed on before the rest is read.
    pub(super) fn take_interim(&mut self) -> Option<InterimHead> {
        self.interim.take()
    }

    pub(super) fn holds_body(&self) -> bool {
        self.outgoing.as_ref().is_some_and(Streamed::holds_body)
    }

    /// Sends a body that was held back although the endpoint has not asked for it.
    pub(super) fn send_body(&mut self) {
        if let Some(outgoing) = &mut self.outgoing {
            outgoing.send_body();
        }
    }

    pub(super) fn refuses_body(&self) -> bool {
        self.outgoing.as_ref().is_some_and(Streamed::refuses_body)
    }

    /// Whether the endpoint takes WebSockets (RFC 8441).
    pub(super) fn takes_tunnels(&self) -> bool {
        self.permit.sender().is_extended_connect_protocol_enabled()
    }

    /// The stream, once it has changed protocols.
    pub(super) fn take_stream(&mut self) -> Option<(SendStream<Bytes>, RecvStream)> {
        let receive = match std::mem::replace(&mut self.receiving, Receiving::End) {
            Receiving::Data(receive) => receive,
            _ => return None,
        };
        Some((self.send.take()?, receive))
    }

    /// Opens the stream.
    fn send_head(&mut self) -> Result<(), Failure> {
        let Some(outgoing) = &mut self.outgoing else { return Err(Failure::Unanswered(None)) };
        let (request, is_all) = outgoing.head();
        match self.permit.sender().send_request(request, is_all) {
            Ok((response, send)) => {
                (self.receiving, self.send) = (Receiving::Head(response), Some(send));
                Ok(())
            }
            Err(error) => {
                // Nothing was sent.
                self.is_refused = true;
                Err(Failure::Unanswered(error.into_io()))
            }
        }
    }

    fn take_head(
        &mut self,
        response: Response<RecvStream>,
        headers: &mut HeaderMap,
    ) -> Result<Head, Failure> {
        let (parts, body) = response.into_parts();
        if let Some(outgoing) = &mut self.outgoing {
            outgoing.refuse_held_body();
        }
        *headers = parts.headers;
        let hop_by_hop: Vec<_> =
            headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
        for name in hop_by_hop {
            headers.remove(name);
        }
        // The library has compared the length with the data, by the first of these fields.
        let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
        let length = lengths.next().and_then(|length| length.to_str().ok()?.parse().ok());
        if lengths.next().is_some() {
            return Err(BadResponse::Length.into());
        }
        let is_ended = body.is_end_stream();
        self.remaining = if is_ended { Some(0) } else { length };
        self.receiving = if is_ended { Receiving::End } else { Receiving::Data(body) };
        let tunnel = self.outgoing.as_ref().and_then(Streamed::tunnel);
        let (status, upgrade) = match tunnel.filter(|_| parts.status.is_success()) {
            None => (parts.status, None),
            // As an HTTP/1.1 endpoint says it.
            Some(key) => {
                let accept = HeaderValue::try_from(accept_of(key));
                let accept = accept.map(|accept| (header::SEC_WEBSOCKET_ACCEPT, accept));
                headers.extend(accept.ok());
                (StatusCode::SWITCHING_PROTOCOLS, Some(HeaderValue::from_static("websocket")))
            }
        };
        let body = Decoder::ENDED;
        Ok(Head { status, reason: None, body, keep_alive: true, upgrade })
    }

    /// Why there is no head.
    fn no_head(&mut self, error: h2::Error) -> Failure {
        // Streams beyond the last one of a GOAWAY, and those that are refused, were not looked at
        // (RFC 9113 section 8.7).
        let is_refusal = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        self.is_refused = error.is_remote() && (error.is_go_away() || is_refusal);
        self.was_reset = error.is_reset();
        self.receiving = Receiving::End;
        if error.is_library() {
            return BadResponse::Head.into();
        }
        Failure::Unanswered(Some(io_error(error)))
    }

    /// The next piece of the response's body; goes on sending the request's body meanwhile.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.poll_send(cx)?;
        loop {
            let (mut body, is_data) = match std::mem::replace(&mut self.receiving, Receiving::End) {
                Receiving::Data(body) => (body, true),
                Receiving::Trailers(body) => (body, false),
                _ => return Poll::Ready(None),
            };
            if is_data {
                match body.poll_data(cx) {
                    Poll::Pending => {
                        self.receiving = Receiving::Data(body);
                        return Poll::Pending;
                    }
                    Poll::Ready(None) => self.receiving = Receiving::Trailers(body),
                    Poll::Ready(Some(Ok(data))) => {
                        return Poll::Ready(Some(Ok(self.take(data, body))));
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(broken(error)))),
                }
            } else {
                match body.poll_trailers(cx) {
                    Poll::Pending => {
                        self.receiving = Receiving::Trailers(body);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(None)) => return Poll::Ready(None),
                    Poll::Ready(Ok(Some(trailers))) => {
                        self.received += 1;
                        return Poll::Ready(Some(Ok(Frame::trailers(without_forbidden(trailers)))));
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(broken(error)))),
                }
            }
        }
    }

    /// Passes data on, and lets the endpoint send as much again.
    fn take(&mut self, data: Bytes, mut body: RecvStream) -> Frame<Bytes> {
        let length = data.len() as u64;
        self.received += length;
        self.remaining = self.remaining.map(|left| left.saturating_sub(length));
        // It fails only where the stream has ended.
        let _ = body.flow_control().release_capacity(data.len());
        if !body.is_end_stream() {
            self.receiving = Receiving::Data(body);
        }
        Frame::data(data)
    }

    /// Goes on sending the request's body after the response has ended; ready when there is
    /// nothing more to send, or it cannot be sent.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let (Some(outgoing), Some(send)) = (&mut self.outgoing, &mut self.send) else {
            return Poll::Ready(Ok(()));
        };
        match ready!(outgoing.poll_send(send, cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(Unsendable::Endpoint) => Poll::Ready(Err(Failure::Unanswered(None))),
            Err(unsendable) => Poll::Ready(Err(unsendable.into_failure())),
        }
    }

    /// Sends as much as can be sent. That the endpoint takes no more is no failure here: it may
    /// have answered already, and reading decides.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        let (Some(outgoing), Some(send)) = (&mut self.outgoing, &mut self.send) else {
            return Ok(());
        };
        match outgoing.poll_send(send, cx) {
            Poll::Pending | Poll::Ready(Ok(()) | Err(Unsendable::Endpoint)) => Ok(()),
            Poll::Ready(Err(unsendable)) => Err(unsendable.into_failure()),
        }
    }

    /// The response's body has been read to its end.
    pub(super) fn is_read(&self) -> bool {
        matches!(self.receiving, Receiving::End)
    }

    /// All of the request has been given to the connection.
    pub(super) fn is_sent(&self) -> bool {
        self.outgoing.as_ref().is_none_or(Streamed::is_sent)
    }

    /// Whether the endpoint may have seen any of the request.
    pub(super) fn is_begun(&self) -> bool {
        self.send.is_some() && !self.is_refused
    }

    /// The endpoint says that it has not looked at the request.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// The endpoint has ended the stream, and not the connection.
    pub(super) fn was_reset(&self) -> bool {
        self.was_reset
    }

    /// Whether the request can be sent again.
    pub(super) fn is_whole(&self) -> bool {
        self.outgoing.as_ref().is_some_and(Streamed::is_whole)
    }

    /// Whether it is the client that has to go on.
    pub(super) fn waits_for_client(&self) -> bool {
        self.outgoing.as_ref().is_some_and(Streamed::waits_for_client)
    }

    /// The length of what is left of the response's body, where it is known.
    pub(super) fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    /// Counts what came and went.
    pub(super) fn progress(&self) -> u64 {
        self.received + self.outgoing.as_ref().map_or(0, Streamed::progress)
    }

    /// The endpoint let the request time out: its connection may be dead, and takes no more.
    pub(super) fn timed_out(&self) {
        self.permit.retire();
    }
}

impl Drop for Http2 {
    /// A request that was given up is not to be worked on any longer.
    fn drop(&mut self) {
        let is_over = self.is_read() && self.outgoing.as_ref().is_some_and(Streamed::is_sent);
        if let Some(send) = self.send.as_mut().filter(|_| !is_over) {
            send.send_reset(Reason::CANCEL);
        }
    }
}

fn passed_on(interim: Response<()>) -> InterimHead {
    let (parts, ()) = interim.into_parts();
    let mut headers = parts.headers;
    let others: Vec<_> = headers.keys().filter(|n| !InterimHead::passes(n)).cloned().collect();
    for name in others {
        headers.remove(name);
    }
    InterimHead { status: parts.status, headers }
}

fn broken(error: h2::Error) -> Failure {
    Failure::Broken(io_error(error))
}

fn io_error(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::Other.into())
    } else {
        io::Error::other(error)
    }
}
