//! The answers to one request over HTTP/2: interim ones, then the final one.
//!
//! Left out: the body of the final one, which `serve` sends.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{Response, StatusCode};

use crate::interim::InterimHead;

/// Interim responses that a client gets for one request. The library keeps those that the client
/// does not read, so there must not be any number; the others are dropped, which is allowed
/// (RFC 9110 section 15.2).
const MAX_INTERIM: u8 = 32;

/// What a request's answers are sent by, until the final one is.
#[derive(Debug, Default)]
pub(crate) struct Responder {
    send: RefCell<Option<SendResponse<Bytes>>>,
    interim_left: Cell<u8>,
}

impl Responder {
    pub(crate) fn new(send: SendResponse<Bytes>) -> Responder {
        Responder { send: RefCell::new(Some(send)), interim_left: Cell::new(MAX_INTERIM) }
    }

    /// Sends an interim response.
    pub(crate) fn send_interim(&self, interim: InterimHead) {
        let Some(left) = self.interim_left.get().checked_sub(1) else { return };
        self.interim_left.set(left);
        if let Some(send) = &mut *self.send.borrow_mut() {
            let mut response = Response::new(());
            *response.status_mut() = interim.status;
            *response.headers_mut() = interim.headers;
            // It fails only where the stream has ended.
            let _ = send.send_informational(response);
        }
    }

    /// Asks the client for a body that it holds back.
    pub(crate) fn ask_for_body(&self) {
        if let Some(send) = &mut *self.send.borrow_mut() {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::CONTINUE;
            let _ = send.send_informational(response);
        }
    }

    /// Ready once the client has ended the stream, or its connection.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.send.borrow_mut() {
            Some(send) => send.poll_reset(cx).map(drop),
            None => Poll::Pending,
        }
    }

    /// Sends the head of the final response; gives what its body is sent by.
    pub(crate) fn respond(
        &self,
        response: Response<()>,
        is_all: bool,
    ) -> Option<SendStream<Bytes>> {
        let mut send = self.send.borrow_mut().take()?;
        match send.send_response(response, is_all) {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%error, "cannot respond");
                send.send_reset(Reason::INTERNAL_ERROR);
                None
            }
        }
    }

    /// Lets go of the stream, which resets it if it has not ended.
    pub(crate) fn give_up(&self) {
        self.send.borrow_mut().take();
    }
}
