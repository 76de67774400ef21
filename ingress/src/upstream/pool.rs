//! Connections to endpoints that can be used again, of one worker. Of idle ones the one used last
//! is used first, so that the fewest stay open and the one most likely alive is taken.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::connection::Upstream;
use super::shared::SharedConnections;
use crate::snapshot::Endpoint;
use crate::wire::Wire;

/// Idle connections to one endpoint, a worker: the requests in flight to it at one time, where
/// there were more.
const MAX_IDLE_PER_ENDPOINT: usize = 512;

/// Idle connections a worker: half of what a process may commonly have open.
const MAX_IDLE: usize = 8192;

/// The connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<Idle>,
    /// Those that requests share, idle or not.
    shared: Rc<SharedConnections>,
}

#[derive(Debug, Default)]
struct Idle {
    /// By the address of the endpoint's `Arc`, which a connection in the list keeps from being
    /// used again for another, and by what is spoken over it.
    by_endpoint: HashMap<Key, Vec<Upstream>, RandomState>,
    total: usize,
}

type Key = (usize, Wire);

fn key(endpoint: &Arc<Endpoint>, wire: &Wire) -> Key {
    (Arc::as_ptr(endpoint) as usize, wire.clone())
}

impl Pool {
    /// The connection to the endpoint that was used last and is still open.
    pub(crate) fn take(&self, endpoint: &Arc<Endpoint>, wire: &Wire) -> Option<Upstream> {
        if wire.is_http2 {
            let permit = self.shared.take(endpoint, wire)?;
            let mut upstream = Upstream::sharing(permit, endpoint.clone(), wire.clone());
            upstream.reused = true;
            return Some(upstream);
        }
        let mut idle = self.idle.borrow_mut();
        let Idle { by_endpoint, total } = &mut *idle;
        let list = by_endpoint.get_mut(&key(endpoint, wire))?;
        while let Some(mut upstream) = list.pop() {
            *total -= 1;
            if upstream.is_alive() {
                upstream.reused = true;
                return Some(upstream);
            }
        }
        None
    }

    /// A new connection to the endpoint; over HTTP/2 a share of one that is being opened.
    pub(crate) async fn connect(
        &self,
        endpoint: Arc<Endpoint>,
        wire: Wire,
    ) -> io::Result<Upstream> {
        Upstream::connect(&self.shared, endpoint, wire).await
    }

    /// Keeps a connection whose exchange has ended, unless it is of no more use.
    pub(crate) fn put(&self, mut upstream: Upstream, now: u64) {
        if upstream.endpoint.is_gone() || !upstream.is_reusable() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.total >= MAX_IDLE {
            return;
        }
        let list = idle.by_endpoint.entry(key(&upstream.endpoint, upstream.wire())).or_default();
        if list.len() < MAX_IDLE_PER_ENDPOINT {
            upstream.idle_since = now;
            upstream.shrink();
            list.push(upstream);
            idle.total += 1;
        }
    }

    /// Closes connections that were idle since before `oldest`, that the endpoint has closed, or
    /// whose endpoint is gone.
    pub(crate) fn sweep(&self, now: u64, oldest: u64) {
        self.shared.sweep(now, oldest);
        self.retain(|upstream| upstream.idle_since >= oldest && upstream.is_alive());
    }

    /// Closes connections to endpoints that are gone.
    pub(crate) fn close_gone(&self) {
        self.shared.close_gone();
        self.retain(|_| true);
    }

    /// Closes all that are idle; those that are in use close when their requests have ended.
    pub(crate) fn close_all(&self) {
        self.shared.close_all();
        self.retain(|_| false);
    }

    fn retain(&self, keep: impl Fn(&mut Upstream) -> bool) {
        let mut idle = self.idle.borrow_mut();
        let mut total = 0;
        idle.by_endpoint.retain(|_, list| {
            list.retain_mut(|upstream| !upstream.endpoint.is_gone() && keep(upstream));
            total += list.len();
            !list.is_empty()
        });
        idle.total = total;
    }
}
