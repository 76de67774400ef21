//! The DNS responder, driven from outside: the real binary follows a folder, and is asked over
//! UDP and TCP by a codec that is not its own.

mod changes;
mod forwarding;
pub(crate) mod kit;
mod protocol;
mod rows;
mod tools;
