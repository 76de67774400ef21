//! Drives the real binary, whole processes over real sockets. One test binary, one module an
//! area, so that it links once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and end")]

mod dns;
mod folder;
mod ingress;
mod proxy;
mod support;
