//! The limits and time-outs that the data path works by, from the flags.

use std::time::Duration;

use crate::deadline::Ticks;
use crate::origin::Rules;
use crate::snapshot::PlanDefaults;

/// Streams of one HTTP/2 connection that a client may open and reset before we have looked at
/// them (rapid reset, CVE-2023-44487); more ends its connection. hyper's own default.
pub(crate) const MAX_RESETS_UNSEEN: usize = 20;

/// Streams of one HTTP/2 connection that a client may make us reset by breaking the protocol on
/// them (MadeYouReset, CVE-2025-8671). A browser does not do so once.
pub(crate) const MAX_RESETS_CAUSED: usize = 256;

/// What a client may send on one HTTP/2 stream, and on all of a connection, before an endpoint
/// has taken it: a whole window of a slow endpoint's is buffered, so it is small for a stream
/// and large enough for a fast link on a connection.
pub(crate) const STREAM_WINDOW: u32 = 64 << 10;
pub(crate) const CONNECTION_WINDOW: u32 = 1 << 20;

/// What is buffered of one HTTP/2 stream's response for a client that takes it slowly.
pub(crate) const STREAM_SEND_BUFFER: usize = 64 << 10;

/// What is buffered of an HTTP/1.1 connection in each direction, where heads are smaller.
pub(crate) const HTTP1_BUFFER: usize = 64 << 10;

/// How long, and for how many bytes, a connection that we end is still read from: closing it with
/// unread bytes would reset it, and take our last answer from the client.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
pub(crate) const LINGER_BYTES: usize = 1 << 20;

/// How long an idle connection stays open in a drain: a request that is already on its way is
/// answered with `Connection: close` instead of a reset.
pub(crate) const DRAIN_LINGER: Duration = Duration::from_millis(500);

/// How long an endpoint may take to ask for a body that its client holds back (`Expect:
/// 100-continue`). Some never do, and wait for it.
pub(crate) const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// How long the rest of an answer is read that its client does not get, so that the connection can
/// be used again.
pub(crate) const SKIP_PATIENCE: Duration = Duration::from_secs(5);

/// Endpoints that are tried for one request when connections cannot be opened.
pub(crate) const MAX_CONNECT_TRIES: usize = 8;

/// How long an endpoint may take to accept a connection while there are others to ask: long enough
/// for the kernel to have sent a lost handshake again (after 1 s, RFC 6298). The endpoint that is
/// asked last has the whole connect time-out.
pub(crate) const CONNECT_PATIENCE: Duration = Duration::from_millis(1500);

/// Endpoints that may let a request wait for the whole of the connect time-out: clients do not
/// wait for all of them in turn.
pub(crate) const MAX_CONNECT_TIMEOUTS: usize = 2;

/// How often a request that no endpoint has answered is sent again: once because a kept
/// connection had gone stale, and again while endpoints go away under it, but not round all of
/// them, for it may be the request that ends them.
pub(crate) const MAX_RESENDS: usize = 3;

/// All that a worker needs to know.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) rules: Rules,
    /// Trusted proxies send a PROXY header ahead of a connection's bytes.
    pub(crate) proxy_protocol: bool,
    pub(crate) plan: PlanDefaults,
    pub(crate) max_header_bytes: usize,
    pub(crate) max_streams: u32,
    pub(crate) handshake_timeout: Ticks,
    pub(crate) header_timeout: Ticks,
    pub(crate) idle_timeout: Ticks,
    pub(crate) tunnel_timeout: Ticks,
    pub(crate) upstream_idle_ticks: u64,
    pub(crate) drain_timeout: Duration,
    /// Of requests that begin a trace, the part whose spans are sent: 0 to 1.
    pub(crate) trace_sampling: f64,
}
