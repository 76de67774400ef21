//! Load balancing: which endpoint gets the next connection, session or request.
//!
//! Pure: no sockets, clocks or runtime. Time is a parameter. The L4 proxy and the ingress use the
//! same types, so that both balance by the same rules:
//!
//! - [`Rotation`] picks in strict round robin, exact across threads, and keeps its order when the
//!   set of endpoints changes.
//! - [`Rest`] is the state of one endpoint that failed: picks pass over it for a while, then one
//!   pick tries it again.
//! - [`Affinity`] remembers which endpoint each client had; [`AffinityTables`] holds one for each
//!   service port.
//! - [`Split`] divides picks among a few choices by weight.
//!
//! Another algorithm (least requests, peak EWMA, Maglev) becomes a type beside [`Rotation`] with
//! the same `pick`: the endpoint's own state (rest now; requests in flight or latency later) is
//! reached through [`Member`], so that it survives a change of the set.
//!
//! On the data path, `pick` takes no lock, allocates nothing and makes no system call. Left out:
//! which endpoints may serve at all, and the connections to them.

mod affinity;
mod rest;
mod rotation;
mod split;
mod tables;

pub use affinity::Affinity;
pub use rest::{Failure, MAX_REST_MS, Rest, Try};
pub use rotation::{Member, Rotation};
pub use split::{MAX_WEIGHT, Split};
pub use tables::AffinityTables;
