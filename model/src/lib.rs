//! Kubernetes objects and what they mean together: the join of them that every process follows.
//!
//! text → tree → object → record → store → [`Model`]. Objects are read from YAML and JSON
//! ([`tree`], [`document`], [`manifest`]) into types cut to the fields in use ([`object`]),
//! checked by the API's rules ([`validate`]) and joined by the [`store`].
//!
//! Left out on purpose: sockets, files, clocks and runtimes. The package `feed` gets the objects;
//! the package of each process uses them.

mod defaults;
pub mod describe;
pub mod document;
mod entry;
mod explanation;
pub mod finding;
#[doc(hidden)]
pub mod fuzz;
mod kinds;
pub mod manifest;
mod model;
mod name;
pub mod object;
pub mod problem;
pub mod reader;
pub mod record;
mod schema;
pub mod shape;
pub mod store;
mod table;
pub mod tree;
pub mod validate;

pub use entry::{Process, Role};
pub use explanation::{
    Explanation, HELP, LostHost, Rejected, Trouble, bracketed, fix_of_slices, nearest,
};
pub use model::*;
pub use name::{Kind, Kinds, ObjectKey, ObjectName};
pub use validate::SERVICE_LABEL;
