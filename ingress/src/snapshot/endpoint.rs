//! One endpoint of a backend, and what is known of how it serves.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use balance::{Failure, Load, Member, Outcomes, Rest, Try};
use http::StatusCode;

use crate::room::Room;
use crate::wire::BackendProtocol;

/// An address that serves. The same `Arc` for as long as the address stays, so that connections
/// to it are kept over changes of its neighbours.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// What the Service says that it speaks.
    pub(crate) protocol: BackendProtocol,
    gone: AtomicBool,
    /// Active health checks fail.
    unhealthy: AtomicBool,
    /// It took no connection the last time, or its requests fail.
    rest: Rest,
    outcomes: Outcomes,
    /// Counted only where requests are not spread by turns alone.
    load: Load,
    /// When it was first picked, or first picked after it was ejected; 0 before that.
    began_ms: AtomicU64,
}

impl Endpoint {
    pub(crate) fn new(address: SocketAddr, protocol: BackendProtocol) -> Endpoint {
        Endpoint {
            address,
            protocol,
            gone: AtomicBool::new(false),
            unhealthy: AtomicBool::new(false),
            rest: Rest::default(),
            outcomes: Outcomes::default(),
            load: Load::default(),
            began_ms: AtomicU64::new(0),
        }
    }

    /// It took a connection.
    pub(crate) fn connected(&self) {
        self.rest.connected();
    }

    /// It answered with this status. True if that ejects it.
    pub(crate) fn answered(&self, status: StatusCode, now_ms: impl Fn() -> u64) -> bool {
        if matches!(status.as_u16(), 502..=504) {
            return self.did_not_answer(now_ms());
        }
        self.outcomes.succeeded(now_ms);
        self.rest.answered();
        false
    }

    /// It took a request and gave no valid answer, or one that says that it cannot serve. True if
    /// that ejects it: others are preferred for a while, which grows with each failed try.
    pub(crate) fn did_not_answer(&self, now_ms: u64) -> bool {
        let is_ejected = self.outcomes.failed(now_ms) || self.rest.is_tried_for_answers();
        if is_ejected {
            self.rest.begin(now_ms, Failure::Failing);
            self.began_ms.store(0, Ordering::Relaxed);
        }
        is_ejected
    }

    /// It took no connection: others are preferred for a while.
    pub(crate) fn failed(&self, failure: Failure, now_ms: u64) {
        self.rest.begin(now_ms, failure);
    }

    /// It failed a short time ago.
    pub(crate) fn is_resting(&self, now_ms: u64) -> bool {
        self.rest.lasts(|| now_ms)
    }

    /// The attempt that tries it again after a failure, right after a pick.
    pub(crate) fn current_try(&self) -> Option<Try> {
        self.rest.current_try()
    }

    /// The attempt has ended without an outcome: the next pick may try it.
    pub(crate) fn give_back(&self, attempt: Try) {
        self.rest.give_back(attempt);
    }

    pub(super) fn load(&self) -> &Load {
        &self.load
    }

    /// A response has begun after this time.
    pub(crate) fn measured(&self, after: Duration, now_ms: u64) {
        self.load.measured(u32::try_from(after.as_micros()).unwrap_or(u32::MAX), now_ms);
    }

    /// For how long it has been in use without an ejection; from now on if it was not before.
    pub(super) fn age_ms(&self, now_ms: u64) -> u64 {
        let relaxed = Ordering::Relaxed;
        let now_ms = now_ms.max(1);
        match self.began_ms.compare_exchange(0, now_ms, relaxed, relaxed) {
            Ok(_) => 0,
            Err(began_ms) => now_ms.saturating_sub(began_ms),
        }
    }

    /// What active health checks say; they are the only ones to change it.
    pub(crate) fn set_healthy(&self, is_healthy: bool) {
        self.unhealthy.store(!is_healthy, Ordering::Relaxed);
    }

    pub(crate) fn is_healthy(&self) -> bool {
        !self.unhealthy.load(Ordering::Relaxed)
    }

    /// It takes no new requests from now on.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// It takes no new requests: kept connections to it are to be closed.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
}

impl Member for Endpoint {
    fn rest(&self) -> &Rest {
        &self.rest
    }
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Endpoint) -> bool {
        (self.address, self.protocol) == (other.address, other.protocol)
    }
}

impl Eq for Endpoint {}

impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.address, self.protocol).hash(state);
    }
}

/// A request that an endpoint is busy with, from its pick until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    endpoint: Arc<Endpoint>,
    /// Where others wait for it to end.
    room: Option<Arc<Room>>,
}

impl Counted {
    /// Counts another request of the endpoint, unless `max` are in flight already.
    pub(super) fn begin(
        endpoint: &Arc<Endpoint>,
        max: u32,
        room: Option<&Arc<Room>>,
    ) -> Option<Counted> {
        let counted = || Counted { endpoint: endpoint.clone(), room: room.cloned() };
        endpoint.load.begin_below(max).then(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.endpoint.load.end();
        if let Some(room) = &self.room {
            room.freed();
        }
    }
}
