//! One client's connection, as its requests see it: where it comes from, what it waits for, and
//! its time-outs.
//!
//! Left out: how its bytes are read and written, which is in `serve`.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker, ready};

use daemon::LogLimit;

use crate::client_certificate::ClientCertificate;
use crate::context::WorkerContext;
use crate::deadline::{Deadline, Ticks};
use crate::limits::Permit;
use crate::origin::Origin;
use crate::responder::Responder;
use crate::settings::{DRAIN_LINGER, LINGER};
use crate::snapshot::Counted;
use crate::stalled::{StalledStreams, StreamState};
use crate::upstream::Upstream;
use crate::zone::ZonePermit;

static FLOODS: LogLimit = LogLimit::new("HTTP/2 floods of control frames");

/// A connection of a client.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) context: Rc<WorkerContext>,
    pub(crate) origin: Origin,
    /// The host that the client named in its TLS hello, as rules spell hosts.
    pub(crate) server_name: Option<Box<str>>,
    /// What the client has shown, if it was asked for a certificate.
    pub(crate) certificate: Option<Box<ClientCertificate>>,
    pub(crate) is_http2: bool,
    deadline: Deadline,
    phase: Cell<Phase>,
    /// Requests in flight.
    in_flight: Cell<usize>,
    /// The time-out of the HTTP/1.1 exchange in flight.
    timeout: Cell<Ticks>,
    stalled: Rc<StalledStreams>,
    /// The client has sent a flood of control frames.
    is_flooded: Cell<bool>,
    /// The client sends nothing more.
    is_complete: Cell<bool>,
    /// The endpoint's connection, from its 101 until the client's connection has changed too.
    tunnel: RefCell<Option<Upstream>>,
    /// The request in flight is of HTTP/1.1: interim responses are passed on.
    takes_interim: Cell<bool>,
    /// An interim response for the client, and the task that waits until it is written.
    interim: RefCell<Option<Interim>>,
    /// Counts the tunnel for the route that limits requests, and for the endpoint.
    tunnel_permit: RefCell<(Option<ZonePermit>, Option<Counted>)>,
    _permit: Permit,
}

/// What a connection has come to before its first request.
#[derive(Debug, Default)]
pub(crate) struct Agreed {
    /// The host that the client named in its TLS hello, as rules spell hosts.
    pub(crate) server_name: Option<Box<str>>,
    /// What the client has shown, if it was asked for a certificate.
    pub(crate) certificate: Option<Box<ClientCertificate>>,
    pub(crate) is_http2: bool,
}

/// An interim response that a client gets.
#[derive(Debug)]
struct Interim {
    bytes: Vec<u8>,
    written: usize,
    /// Woken once all is written.
    waker: Waker,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The next request, or the first.
    Idle,
    /// The rest of a request's head.
    Head,
    /// An exchange, or the tunnel that it became: it has time-outs of its own.
    Exchange,
}

impl Connection {
    pub(crate) fn new(
        context: Rc<WorkerContext>,
        origin: Origin,
        Agreed { server_name, certificate, is_http2 }: Agreed,
        deadline: Deadline,
        permit: Permit,
    ) -> Rc<Connection> {
        let timeout = Cell::new(context.settings().plan.read_timeout);
        Rc::new(Connection {
            context,
            origin,
            server_name,
            certificate,
            is_http2,
            deadline,
            phase: Cell::new(Phase::Idle),
            in_flight: Cell::new(0),
            timeout,
            stalled: Rc::default(),
            is_flooded: Cell::new(false),
            is_complete: Cell::new(false),
            tunnel: RefCell::new(None),
            takes_interim: Cell::new(false),
            interim: RefCell::new(None),
            tunnel_permit: RefCell::default(),
            _permit: permit,
        })
    }

    /// Whether the client sends nothing after the request that is in flight: it has no body, and
    /// its client has asked for the connection to be closed.
    pub(crate) fn set_complete(&self, is_complete: bool) {
        self.is_complete.set(is_complete);
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete.get()
    }

    pub(crate) fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Goes on to another phase, for which there is so much time.
    pub(crate) fn enter(&self, phase: Phase, timeout: Ticks) {
        self.phase.set(phase);
        self.timeout.set(timeout);
        self.deadline.arm(timeout);
    }

    /// The time that the exchange in flight has for each step.
    pub(crate) fn set_timeout(&self, timeout: Ticks) {
        self.timeout.set(timeout);
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Bytes came from the client.
    pub(crate) fn on_read(&self) {
        match self.phase.get() {
            // Over HTTP/2, frames that belong to no request must not keep a connection open.
            _ if self.is_http2 => {}
            Phase::Idle => {
                self.phase.set(Phase::Head);
                self.deadline.arm(self.context.settings().header_timeout);
            }
            Phase::Head => {}
            Phase::Exchange => self.deadline.arm(self.timeout.get()),
        }
    }

    /// The client took bytes.
    pub(crate) fn on_write(&self) {
        self.stalled.set_blocked(false);
        match self.phase.get() {
            _ if self.is_http2 => {}
            // The end of a response, of which nothing is left but what is buffered.
            Phase::Idle => self.deadline.arm(self.idle_timeout()),
            Phase::Head => {}
            Phase::Exchange => self.deadline.arm(self.timeout.get()),
        }
    }

    /// The client's socket is full.
    pub(crate) fn on_blocked(&self) {
        self.stalled.set_blocked(true);
    }

    /// An HTTP/2 stream was reset because its client did not take its response. Where the client
    /// reads nothing at all, the connection ends at once. Where no other stream is left, nothing
    /// moves on it either: it does not wait for a next request, but ends with GOAWAY.
    pub(crate) fn on_stalled_stream(&self) {
        if self.stalled.is_blocked() {
            self.deadline.kill();
        } else if self.in_flight.get() == 0 && !self.is_flooded() {
            self.deadline.arm(Ticks::ZERO);
        }
    }

    /// The client has sent a flood of control frames and was answered with GOAWAY: the connection
    /// lasts only so long that the client can read it.
    pub(crate) fn end_flooded(&self) {
        self.is_flooded.set(true);
        self.deadline.arm(LINGER.into());
        self.context.shard().floods.add(1);
        if FLOODS.admits() {
            tracing::warn!(client = %self.origin.peer, "HTTP/2 flood of control frames: closing");
        }
    }

    pub(crate) fn is_flooded(&self) -> bool {
        self.is_flooded.get()
    }

    /// How long the connection may wait for its next request.
    pub(crate) fn idle_timeout(&self) -> Ticks {
        let settings = self.context.settings();
        if self.context.is_draining() { DRAIN_LINGER.into() } else { settings.idle_timeout }
    }

    /// Keeps the endpoint's connection for when the client's has changed protocols.
    pub(crate) fn tunnel_to(&self, upstream: Upstream) {
        self.tunnel.replace(Some(upstream));
    }

    /// Holds what counts a tunnel until the connection ends.
    pub(crate) fn hold(&self, permit: Option<ZonePermit>, counted: Option<Counted>) {
        self.tunnel_permit.replace((permit, counted));
    }

    pub(crate) fn take_tunnel(&self) -> Option<Upstream> {
        self.tunnel.take()
    }

    pub(crate) fn takes_interim(&self) -> bool {
        self.takes_interim.get()
    }

    /// Whether the request that has begun is of HTTP/1.1.
    pub(crate) fn set_takes_interim(&self, takes_interim: bool) {
        self.takes_interim.set(takes_interim);
    }

    /// Passes an interim response on to an HTTP/1.1 client; wakes the task once it is written.
    pub(crate) fn pass_on(&self, interim: Vec<u8>, waker: &Waker) {
        let interim = Interim { bytes: interim, written: 0, waker: waker.clone() };
        self.interim.replace(Some(interim));
    }

    /// Forgets an interim response of which nothing is written: the final one comes instead.
    pub(crate) fn forget_interim(&self) {
        self.interim.borrow_mut().take_if(|interim| interim.written == 0);
    }

    /// Whether part of an interim response is written: the rest comes before all else.
    pub(crate) fn is_interim_begun(&self) -> bool {
        self.interim.borrow().as_ref().is_some_and(|interim| interim.written > 0)
    }

    /// Whether an interim response is not written yet.
    pub(crate) fn is_passing_on(&self) -> bool {
        self.interim.borrow().is_some()
    }

    /// Gives the bytes of an interim response to a writer, which takes as many as it can.
    pub(crate) fn write_interim(
        &self,
        mut write: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        let mut interim = self.interim.borrow_mut();
        while let Some(Interim { bytes, written, .. }) = &mut *interim {
            let more = ready!(write(&bytes[*written..]))?;
            if more == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written += more;
            if *written == bytes.len()
                && let Some(interim) = interim.take()
            {
                interim.waker.wake();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether this response is to be the connection's last.
    pub(crate) fn is_ending(&self) -> bool {
        self.context.is_draining()
    }

    pub(crate) fn begin_request(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.phase.set(Phase::Exchange);
        if self.is_http2 && !self.is_flooded() {
            self.deadline.disarm();
        }
    }

    pub(crate) fn end_request(&self) {
        let left = self.in_flight.get() - 1;
        self.in_flight.set(left);
        if left == 0 && self.tunnel.borrow().is_none() && !self.is_flooded() {
            self.phase.set(Phase::Idle);
            self.deadline.arm(self.idle_timeout());
        }
    }

    /// The state of a new HTTP/2 stream.
    pub(crate) fn begin_stream(&self, responder: Responder) -> Rc<StreamState> {
        StreamState::new(self.context.deadlines.add(), responder)
    }

    /// An HTTP/2 stream has gone on as far as it could.
    pub(crate) fn on_pending_stream(&self, stream: &Rc<StreamState>) {
        self.stalled.on_pending(stream, self.context.tally());
        if self.stalled.is_to_be_watched() {
            self.context.watch_stalled(&self.stalled);
        }
    }

    /// An HTTP/2 stream has ended.
    pub(crate) fn end_stream(&self, stream: &Rc<StreamState>) {
        self.stalled.remove(stream, self.context.shard());
    }
}
