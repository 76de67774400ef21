//! Which UDP sessions make room when there is none for a new client.
//!
//! Pure: the time is handed in. A client that has its share gives up its own; when all sessions
//! are taken, the client that has most of them here does, if it has more than the newcomer would
//! have. The longest idle go first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::room::{Full, client_of};

/// The share, one in so many, of a client's sessions that go at once: looking at all of them
/// costs more than it would for one only.
const EVICTED_SHARE: usize = 8;
/// A session that was used since is in use: by then an endpoint that is well has answered, and
/// most clients have asked again.
const IN_USE: Duration = Duration::from_secs(1);

/// The keys of those that go. `sessions`: key, client, and when it was last used.
pub(super) fn evicted<K>(
    sessions: impl Iterator<Item = (K, IpAddr, Instant)>,
    newcomer: IpAddr,
    full: Full,
    now: Instant,
) -> Vec<K> {
    let newcomer = client_of(newcomer);
    let mut by_client: HashMap<IpAddr, Vec<(Instant, K)>> = HashMap::new();
    for (key, client, used) in sessions {
        let client = client_of(client);
        if full == Full::All || client == newcomer {
            by_client.entry(client).or_default().push((used, key));
        }
    }
    let has_already = by_client.get(&newcomer).map_or(0, Vec::len);
    let Some((client, mut held)) = by_client.into_iter().max_by_key(|(_, held)| held.len()) else {
        return Vec::new();
    };
    // Nobody loses the only one, nor one to a client that would then have as many.
    if held.len() < 2 || (client != newcomer && held.len() < has_already + 2) {
        return Vec::new();
    }
    held.sort_unstable_by_key(|(used, _)| *used);
    let count = held.len().div_ceil(EVICTED_SHARE);
    let idle = |used: Instant| now.saturating_duration_since(used) >= IN_USE;
    held.into_iter().take(count).filter(|(used, _)| idle(*used)).map(|(_, key)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `held`: the sessions by client and seconds without a datagram; `expected`: the places of
    /// those that go.
    fn check(held: &[(u8, u64)], (newcomer, full): (u8, Full), expected: &[usize]) {
        let start = Instant::now();
        let now = start + Duration::from_secs(100);
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        let sessions = held
            .iter()
            .enumerate()
            .map(|(place, (client, idle))| (place, ip(*client), now - Duration::from_secs(*idle)));
        let mut gone = evicted(sessions, ip(newcomer), full, now);
        gone.sort_unstable();
        assert_eq!(gone, expected, "{held:?} {newcomer} {full:?}");
    }

    #[test]
    fn the_longest_idle_of_whoever_has_most_go() {
        check(&[], (1, Full::All), &[]);
        check(&[(1, 9), (1, 30), (2, 50)], (1, Full::Client), &[1]);
        check(&[(1, 9), (1, 30), (2, 50)], (3, Full::All), &[1]);
        // All of them are in use.
        check(&[(1, 0), (1, 0), (2, 50)], (3, Full::All), &[]);
        // Nobody has more than the newcomer would have.
        check(&[(1, 9), (2, 50)], (3, Full::All), &[]);
        check(&[(1, 9), (1, 9), (2, 50)], (2, Full::All), &[]);
        check(&[(1, 9), (1, 9), (1, 10), (2, 50)], (2, Full::All), &[2]);
        check(&[(1, 9)], (1, Full::Client), &[]);
        check(&[(2, 9), (2, 9)], (1, Full::Client), &[]);
        // Several at once of many.
        let many: Vec<(u8, u64)> = (1..=24).map(|idle| (1, idle)).collect();
        check(&many, (2, Full::All), &[21, 22, 23]);
    }
}
