//! HTTP/2 connections to endpoints, which many requests share.
//!
//! A worker has one connection to an endpoint until as many requests are in flight over it as it
//! takes, and then another. Each is read and written by a task of its own. A connection is used
//! once the endpoint's SETTINGS have come: only then is it certain that the endpoint speaks HTTP/2,
//! and how many requests it takes at one time. Requests that come meanwhile wait for that
//! connection and open none of their own. It takes no more requests once the endpoint has sent
//! GOAWAY, or has let one of them time out, and is closed when the last one has ended.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use foldhash::fast::RandomState;
use h2::client::{Builder, Connection, SendRequest};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::codec::MAX_HEAD_BYTES;
use super::transport::{self, Transport};
use crate::settings::{STREAM_SEND_BUFFER, STREAM_WINDOW};
use crate::snapshot::Endpoint;
use crate::wire::Wire;

/// Requests in flight over one connection, where the endpoint takes so many: one that stands still
/// for a lost packet delays no more than these.
const MAX_STREAMS: usize = 128;

/// Requests given up within the last second whose late answers are dropped in silence; later ones
/// cost a frame each.
const MAX_REMEMBERED_RESETS: usize = 8 * MAX_STREAMS;

/// What an endpoint may send over a connection before clients have taken it. It is large enough
/// that clients which take nothing never keep others from getting their responses.
const CONNECTION_WINDOW: u32 = MAX_STREAMS as u32 * STREAM_WINDOW;

/// The size of a response's head, by HTTP/2's way of counting: a field has 32 bytes besides its
/// name and value.
const MAX_HEADER_LIST: u32 = 2 * MAX_HEAD_BYTES as u32;

/// The worker's time at which a connection that is in use was idle.
const NEVER: u64 = u64::MAX;

/// The HTTP/2 connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct SharedConnections(RefCell<HashMap<Key, Target, RandomState>>);

/// The address of the endpoint's `Arc`, and what is spoken to it. A connection in the list keeps
/// the address from being used again for another endpoint.
type Key = (usize, Wire);

/// The connections to one endpoint.
#[derive(Debug)]
struct Target {
    endpoint: Arc<Endpoint>,
    list: Vec<Rc<SharedConnection>>,
    /// The one that is being opened, while requests wait for it.
    opening: Weak<Opening>,
}

/// A connection that requests share.
#[derive(Debug)]
struct SharedConnection {
    send: RefCell<SendRequest<Bytes>>,
    /// Requests in flight.
    streams: Cell<usize>,
    /// It takes no more requests.
    closing: Cell<bool>,
    idle_since: Cell<u64>,
}

/// A connection that is being opened by a task; the task ends if nobody waits for it any more.
#[derive(Debug)]
struct Opening {
    outcome: watch::Receiver<Option<Result<(), io::ErrorKind>>>,
    task: AbortHandle,
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The right to one request over a connection, until dropped.
#[derive(Debug)]
pub(super) struct StreamPermit(Rc<SharedConnection>);

impl StreamPermit {
    /// The sending side, for one request.
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.0.send.borrow().clone()
    }

    /// The connection takes no more requests.
    pub(super) fn retire(&self) {
        self.0.closing.set(true);
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

impl SharedConnection {
    fn is_open(&self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let is_ready = self.send.borrow_mut().poll_ready(&mut context);
        !self.closing.get() && !matches!(is_ready, Poll::Ready(Err(_)))
    }

    fn permit(self: &Rc<SharedConnection>) -> Option<StreamPermit> {
        let streams = self.streams.get();
        if streams >= self.send.borrow().current_max_send_streams().min(MAX_STREAMS) {
            return None;
        }
        self.streams.set(streams + 1);
        self.idle_since.set(NEVER);
        Some(StreamPermit(self.clone()))
    }

    /// Whether a sweep lets it stay.
    fn stays(&self, now: u64, oldest: u64) -> bool {
        if !self.is_open() {
            return false;
        }
        if self.streams.get() == 0 && self.idle_since.get() == NEVER {
            self.idle_since.set(now);
        }
        self.idle_since.get() >= oldest
    }
}

impl SharedConnections {
    /// Room for a request on an open connection.
    pub(super) fn take(&self, endpoint: &Arc<Endpoint>, wire: &Wire) -> Option<StreamPermit> {
        let mut targets = self.0.borrow_mut();
        let target = targets.get_mut(&key(endpoint, wire))?;
        loop {
            let closed = 'found: {
                for (at, connection) in target.list.iter().enumerate() {
                    if !connection.is_open() {
                        break 'found at;
                    }
                    if let Some(permit) = connection.permit() {
                        return Some(permit);
                    }
                }
                return None;
            };
            // What is in flight over it holds it until its end.
            target.list.swap_remove(closed);
        }
    }

    /// Room for a request, on a connection that is opened if there is none.
    pub(super) async fn open(
        self: &Rc<SharedConnections>,
        endpoint: &Arc<Endpoint>,
        wire: &Wire,
    ) -> io::Result<StreamPermit> {
        loop {
            if let Some(permit) = self.take(endpoint, wire) {
                return Ok(permit);
            }
            let opening = self.opening(endpoint, wire);
            let mut outcome = opening.outcome.clone();
            let outcome = match outcome.wait_for(Option::is_some).await {
                Ok(outcome) => *outcome,
                // The task has ended without an outcome.
                Err(_) => Some(Err(io::ErrorKind::ConnectionAborted)),
            };
            if let Some(Err(kind)) = outcome {
                return Err(kind.into());
            }
        }
    }

    /// The connection that is being opened, which a task begins to do if there is none.
    fn opening(self: &Rc<SharedConnections>, endpoint: &Arc<Endpoint>, wire: &Wire) -> Rc<Opening> {
        let mut targets = self.0.borrow_mut();
        let target = targets.entry(key(endpoint, wire)).or_insert_with(|| Target {
            endpoint: endpoint.clone(),
            list: Vec::new(),
            opening: Weak::new(),
        });
        let current = target.opening.upgrade();
        if let Some(opening) = current.filter(|opening| opening.outcome.borrow().is_none()) {
            return opening;
        }
        let (ended, outcome) = watch::channel(None);
        let (connections, endpoint, wire) = (self.clone(), endpoint.clone(), wire.clone());
        let task = tokio::task::spawn_local(async move {
            let opened = open(&endpoint, &wire).await;
            let opened = opened.map(|connection| connections.add(&endpoint, &wire, connection));
            let opened = opened.map_err(|error| {
                tracing::debug!(endpoint = %endpoint.address, %error, "no HTTP/2 connection");
                error.kind()
            });
            let _ = ended.send(Some(opened));
        });
        let opening = Rc::new(Opening { outcome, task: task.abort_handle() });
        target.opening = Rc::downgrade(&opening);
        opening
    }

    fn add(&self, endpoint: &Arc<Endpoint>, wire: &Wire, connection: SharedConnection) {
        if let Some(target) = self.0.borrow_mut().get_mut(&key(endpoint, wire)) {
            target.list.push(Rc::new(connection));
        }
    }

    /// Closes connections that were idle since before `oldest`.
    pub(super) fn sweep(&self, now: u64, oldest: u64) {
        self.retain(|connection| connection.stays(now, oldest));
    }

    /// Lets go of connections to endpoints that are gone.
    pub(super) fn close_gone(&self) {
        self.retain(|_| true);
    }

    /// Lets go of all: each is closed when the requests over it have ended.
    pub(super) fn close_all(&self) {
        self.retain(|_| false);
    }

    fn retain(&self, keep: impl Fn(&SharedConnection) -> bool) {
        self.0.borrow_mut().retain(|_, target| {
            let is_gone = target.endpoint.is_gone();
            target.list.retain(|connection| !is_gone && keep(connection));
            !target.list.is_empty() || target.opening.strong_count() > 0
        });
    }
}

fn key(endpoint: &Arc<Endpoint>, wire: &Wire) -> Key {
    (Arc::as_ptr(endpoint) as usize, wire.clone())
}

/// Opens a connection, up to the endpoint's SETTINGS.
async fn open(endpoint: &Endpoint, wire: &Wire) -> io::Result<SharedConnection> {
    let stream = transport::connect(endpoint.address, wire).await?;
    let handshake = Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(STREAM_SEND_BUFFER)
        // An endpoint may answer requests that were given up meanwhile, for as many of them as
        // clients give up. By default the library ends the connection after a thousand, and with
        // it the requests of others.
        .max_concurrent_reset_streams(MAX_REMEMBERED_RESETS)
        .max_local_error_reset_streams(None)
        // No request is sent before the endpoint's SETTINGS, which replace this.
        .initial_max_send_streams(0)
        .handshake(stream)
        .await;
    let (send, mut connection) = handshake.map_err(io::Error::other)?;
    until_settings(&mut connection, &send).await?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to an endpoint ended");
        }
    });
    Ok(SharedConnection {
        send: RefCell::new(send),
        streams: Cell::new(0),
        closing: Cell::new(false),
        idle_since: Cell::new(NEVER),
    })
}

async fn until_settings(
    connection: &mut Connection<Transport, Bytes>,
    send: &SendRequest<Bytes>,
) -> io::Result<()> {
    let mut connection = pin!(connection);
    poll_fn(|cx| match connection.as_mut().poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(match error.into_io() {
            Some(error) => error,
            None => io::Error::new(io::ErrorKind::InvalidData, "it does not speak HTTP/2"),
        })),
        Poll::Pending if send.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await
}
