//! The limit of open file descriptors: raised at the start of every process, and divided between
//! clients and what the process needs to go on.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept for listeners, the feed, endpoints of other kinds and the admin endpoint, which alone
/// takes 64 connections.
const RESERVED: usize = 128;
/// With a low limit, at most this fraction is kept: one part in so many.
const RESERVED_SHARE: usize = 3;
/// Connections that are allowed even with the lowest limit: a browser opens six.
const MIN_CONNECTIONS: usize = 16;

/// Fewer connections than this are a reason to warn; with the usual hard limits there are more.
const MAY_BE_LOW: usize = 1024;

/// Raises the soft limit to the hard limit and returns the resulting limit. The usual soft limit of
/// 1,024 exists for programs that use select(2).
pub fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if let Err(error) = &raised {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
    let limit = if raised.is_ok() { maximum } else { current };
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Raises the limit, and returns how many connections may be open at one time: as many as are
/// `wanted`, or as fit. Says so in the log if these are fewer.
///
/// A connection takes `each` descriptors. `flag` is the one that sets what is wanted.
pub fn connections(wanted: usize, each: usize, flag: &'static str) -> usize {
    let limit = raise_limit();
    let allowed = fitting(limit, each).min(wanted);
    if allowed < MAY_BE_LOW.min(wanted) {
        tracing::warn!(
            limit,
            allowed,
            wanted,
            "the limit of open files allows few connections: raise it with `ulimit -n`, \
             LimitNOFILE= of systemd or --ulimit of docker, or lower {flag}"
        );
    } else if allowed < wanted {
        tracing::info!(limit, allowed, wanted, "the limit of open files is below {flag}");
    }
    allowed
}

/// How many connections fit where so many descriptors may be open.
fn fitting(limit: usize, each: usize) -> usize {
    let reserved = RESERVED.min(limit / RESERVED_SHARE);
    ((limit - reserved) / each).max(MIN_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With 256, 300 and 512 descriptors there was room for 1, 22 and 128 connections.
    #[test]
    fn a_low_limit_of_descriptors_leaves_room_for_connections() {
        let table = [
            (256, 85),
            (300, 100),
            (512, 192),
            (1024, 448),
            (8192, 4032),
            (1_048_576, 524_224),
            (20, MIN_CONNECTIONS),
            (0, MIN_CONNECTIONS),
        ];
        for (limit, expected) in table {
            assert_eq!(fitting(limit, 2), expected, "{limit}");
        }
        assert_eq!(fitting(256, 1), 171);
        assert!(fitting(usize::MAX, 1) > 1 << 40);
    }
}
