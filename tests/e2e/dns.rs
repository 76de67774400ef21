//! The DNS responder as a process: the real binary follows a folder, and answers queries over UDP
//! and TCP of another codec.

mod cache_page;
mod cached;
mod changes;
mod encrypted;
mod forwarding;
mod hostile;
pub(crate) mod kit;
mod local;
mod protocol;
mod query_log;
mod replies;
mod rows;
mod tools;
mod upstreams;
