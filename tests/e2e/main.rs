//! Drives the real binary, whole processes over real sockets. One test binary, one module an
//! area, so that it links once.

mod dns;
mod folder;
mod ingress;
mod proxy;
mod support;
