//! An endpoint of one frontend: whether it serves, drains or has ended, and whether it rests.
//!
//! Control changes the state, the data threads read it. An endpoint that failed rests: the others
//! are preferred for a while.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Instant;

use balance::{Failure, Member, Rest};

use crate::clock::{ms_of, now_ms};

const SERVING: u8 = 0;
/// Not in the set any more: no new connection, established ones go on.
const DRAINING: u8 = 1;
/// The drain time-out is over: connections end.
const ENDED: u8 = 2;

/// An endpoint of one frontend. Equal to another by its address.
///
/// There are a hundred thousand endpoints in a large cluster. A `SocketAddr` takes 32 bytes,
/// because it has a place for what only some IPv6 addresses have; this whole struct takes no more.
#[derive(Debug)]
pub(super) struct Endpoint {
    ip: IpAddr,
    port: u16,
    state: AtomicU8,
    /// It refused or did not answer the last time.
    rest: Rest,
    /// When it last answered a UDP client, in units of [`ANSWERED_EXACT_MS`] of the
    /// [`clock`](crate::clock), which fit for 13 years; 0 for never.
    answered: AtomicU32,
}

const _: () = assert!(size_of::<Endpoint>() <= 32);

/// How exact the time of an endpoint's last answer is: data threads must not take the cache line
/// from each other for each datagram.
const ANSWERED_EXACT_MS: u64 = 100;

impl Endpoint {
    pub(super) fn new(addr: SocketAddr) -> Endpoint {
        Endpoint {
            ip: addr.ip(),
            port: addr.port(),
            state: AtomicU8::new(SERVING),
            rest: Rest::default(),
            answered: AtomicU32::new(0),
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
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

    /// It could not be connected to, or did not take or answer a datagram: others are preferred for
    /// a while.
    pub(super) fn failed(&self, failure: Failure) {
        self.rest.begin(now_ms(), failure);
    }

    /// It was connected to, or answered.
    pub(super) fn worked(&self) {
        self.rest.end();
    }

    /// It has answered a UDP client.
    pub(super) fn answered(&self, now: Instant) {
        // Rounded up: who was asked just before counts as asked before.
        let now = ms_of(now).div_ceil(ANSWERED_EXACT_MS) as u32;
        if self.answered.load(Ordering::Relaxed) != now {
            self.answered.store(now, Ordering::Relaxed);
        }
    }

    /// When it last answered a UDP client, by the [`clock`](crate::clock); 0 for never.
    pub(super) fn answered_ms(&self) -> u64 {
        u64::from(self.answered.load(Ordering::Relaxed)) * ANSWERED_EXACT_MS
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
        (self.ip, self.port) == (other.ip, other.port)
    }
}

impl Eq for Endpoint {}

impl Hash for Endpoint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.ip, self.port).hash(state);
    }
}
