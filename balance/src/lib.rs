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
//! - [`pick_of_two`] picks the better of two random endpoints, by their [`Load`]: requests in
//!   flight, or latency times those (peak EWMA).
//! - [`Maglev`] finds the endpoint of a key by consistent hashing.
//! - [`Outcomes`] counts what became of an endpoint's requests, and says when to eject it.
//! - [`RetryBudget`] keeps retries below a fifth of the requests.
//!
//! On the data path, `pick` takes no lock, allocates nothing and makes no system call. Left out:
//! which endpoints may serve at all, and the connections to them.

mod affinity;
mod budget;
mod load;
mod maglev;
mod outcomes;
mod rest;
mod rotation;
mod split;
mod tables;
mod two_choices;

pub use affinity::Affinity;
pub use budget::RetryBudget;
pub use load::Load;
pub use maglev::{Maglev, hash_of};
pub use outcomes::{MAX_CONSECUTIVE, Outcomes};
pub use rest::{Failure, MAX_REST_MS, Rest, Try};
pub use rotation::{Member, Rotation};
pub use split::{MAX_WEIGHT, Split};
pub use tables::AffinityTables;
pub use two_choices::pick_of_two;
