//! Tests of the real binary: whole processes over real sockets. One test binary with one module for
//! each area, so that it links once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and end")]
#![allow(unreachable_pub, reason = "modules of one binary have nowhere to export to")]

mod check;
mod cluster;
mod commands;
mod compose;
mod dns;
mod docs;
mod explain;
mod feed_client;
mod feed_kill;
mod feed_server;
mod folder;
mod hosts;
mod ingress;
mod proxy;
mod proxy_netns;
mod support;
mod systemd;
