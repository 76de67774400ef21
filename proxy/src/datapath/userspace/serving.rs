//! What a data thread reads of a frontend: its endpoints now, and how far each is on its way out.
//!
//! One [`Cell`] a frontend, shared by control and all data threads. Control swaps its
//! [`Serving`]; a data thread loads it once a connection or session.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use arc_swap::ArcSwap;
use balance::{Member, Rest, Rotation};

use super::rules::Rules;
use crate::metrics::Meter;

/// A frontend as the data threads see it.
#[derive(Debug, Default)]
pub(super) struct Cell {
    pub(super) serving: ArcSwap<Serving>,
}

/// The endpoints of a frontend, in turn, and where its Service's traffic is counted.
#[derive(Debug, Default)]
pub(super) struct Serving {
    pub(super) rotation: Arc<Rotation<Arc<Endpoint>>>,
    pub(super) meter: Arc<Meter>,
    /// Absent when all clients may come and none keeps its endpoint.
    pub(super) rules: Option<Box<Rules>>,
    /// Endpoints are told who their client is.
    pub(super) proxy_protocol: bool,
}

const SERVING: u8 = 0;
/// Not in the set any more: no new connection, established ones go on.
const DRAINING: u8 = 1;
/// The drain time-out is over: connections end.
const ENDED: u8 = 2;

/// An endpoint of one frontend. Equal to another by its address.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) addr: SocketAddr,
    state: AtomicU8,
    /// It refused or did not answer the last time.
    rest: Rest,
}

impl Endpoint {
    pub(super) fn new(addr: SocketAddr) -> Endpoint {
        Endpoint { addr, state: AtomicU8::new(SERVING), rest: Rest::default() }
    }

    pub(super) fn is_serving(&self) -> bool {
        self.state.load(Ordering::Acquire) == SERVING
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.load(Ordering::Acquire) == ENDED
    }

    /// Into the set, or out of it and into its drain.
    pub(super) fn set_serving(&self, serving: bool) {
        let state = if serving { SERVING } else { DRAINING };
        if self.state.swap(state, Ordering::AcqRel) != state {
            // Another process may have the address by now.
            self.rest.end();
        }
    }

    /// It could not be connected to, or refused a datagram: others are preferred for a while.
    pub(super) fn failed(&self) {
        self.rest.begin(now_ms());
    }

    /// It was connected to, or answered.
    pub(super) fn worked(&self) {
        self.rest.end();
    }

    /// The connections that are left end when the data threads are told to look.
    pub(super) fn end(&self) {
        self.state.store(ENDED, Ordering::Release);
    }
}

impl Member for Endpoint {
    fn rest(&self) -> &Rest {
        &self.rest
    }
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Endpoint) -> bool {
        self.addr == other.addr
    }
}

impl Eq for Endpoint {}

impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.addr.hash(state);
    }
}

/// The clock of [`Rest`]: milliseconds since the first call.
pub(super) fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
}
