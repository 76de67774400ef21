//! The ingress, driven from outside: the real binary follows a folder, clients of every kind talk
//! to it, and endpoints of our own look at what arrives.

mod changes;
mod frames;
mod http2;
mod kit;
mod limits;
mod proxy_protocol;
mod proxying;
mod records;
mod routing;
mod smuggling;
mod stalled;
mod tls;
