//! How the limit of open files is shared out, so that clients' connections cannot use up what
//! forwarding and the admin endpoint need.
//!
//! Pure.

use crate::forward::MAX_STREAMS;

/// For the admin endpoint (64 connections), the feed, the log, and files that are read at times.
const RESERVED: usize = 96;
/// What a data thread's runtime needs.
const PER_THREAD: usize = 4;
/// The part of the rest that sockets to upstreams may use, if they need so many.
const FORWARD_SHARE: usize = 3;

/// What is known when the process starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// The limit of open files.
    pub(crate) open_files: usize,
    /// Data threads.
    pub(crate) threads: usize,
    /// Sockets to receive queries on.
    pub(crate) listeners: usize,
    /// `--max-tcp-connections`.
    pub(crate) max_tcp_connections: usize,
    /// `--max-forwards`.
    pub(crate) max_forwards: usize,
}

/// How many sockets there may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Budget {
    pub(crate) tcp_connections: usize,
    /// Queries that may wait for upstreams, and sockets for them of all threads together.
    pub(crate) forwards: usize,
}

impl Demand {
    /// Shares the open files out. Everything gets at least one.
    pub(crate) fn budget(self) -> Budget {
        let per_thread = PER_THREAD + MAX_STREAMS;
        let fixed = RESERVED + self.listeners + per_thread * self.threads;
        let left = self.open_files.saturating_sub(fixed);
        let forwards = self.max_forwards.min(left / FORWARD_SHARE);
        let tcp_connections = self.max_tcp_connections.min(left - forwards).max(1);
        Budget { tcp_connections, forwards: forwards.max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_shared_out() {
        let check = |open_files: usize, threads: usize, expected: (usize, usize)| {
            let demand = Demand {
                open_files,
                threads,
                listeners: threads + 1,
                max_tcp_connections: 1024,
                max_forwards: 1024,
            };
            let budget = demand.budget();
            let found = (budget.tcp_connections, budget.forwards);
            assert_eq!(found, expected, "{open_files} files, {threads} threads");
            let of_threads = threads * (PER_THREAD + MAX_STREAMS);
            let used = budget.tcp_connections + budget.forwards + of_threads;
            assert!(used + RESERVED + threads < open_files || open_files < 200);
        };
        check(1 << 20, 5, (1024, 1024));
        check(1 << 20, 1, (1024, 1024));
        check(1024, 3, (596, 298));
        check(256, 2, (92, 45));
        check(64, 2, (1, 1));
    }
}
