//! Which client has how many TCP connections of a data thread, and which connection makes room
//! when there is none left.
//!
//! Pure. When all room is taken, a client with at least two connections more than a newcomer's
//! client loses one, the one that has been idle for longest. So no client has fewer connections
//! than all can have, and one client can have all while nobody else wants any. A client is an
//! address, of IPv6 a /64 network.
//!
//! Counting costs one lookup for each connection. Connections are compared only when there is no
//! room, and then a fixed number of them: the more a client has, the likelier one of its is among
//! them.
//!
//! Left out: connections of other data threads. The kernel spreads the connections of a client
//! over all of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Connections that are compared to find one that makes room.
pub(super) const MAX_COMPARED: usize = 256;

/// How many each client has; clients by [`client_of`](crate::room::client_of).
#[derive(Debug, Default)]
pub(super) struct ClientCounts(HashMap<IpAddr, usize>);

impl ClientCounts {
    pub(super) fn add(&mut self, client: IpAddr) {
        *self.0.entry(client).or_default() += 1;
    }

    pub(super) fn remove(&mut self, client: IpAddr) {
        if let Some(count) = self.0.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&client);
            }
        }
    }

    pub(super) fn of(&self, client: IpAddr) -> usize {
        self.0.get(&client).copied().unwrap_or_default()
    }

    /// The client that has most.
    pub(super) fn most(&self) -> Option<IpAddr> {
        self.0.iter().max_by_key(|(client, count)| (**count, **client)).map(|(client, _)| *client)
    }

    /// The key of the connection that makes room for one of `newcomer`, of those `compared`: the
    /// one of the client with most connections that has been idle for longest. `None` when no
    /// client has at least two more than the newcomer.
    pub(super) fn makes_room(
        &self,
        newcomer: IpAddr,
        compared: impl Iterator<Item = (usize, IpAddr, Duration)>,
    ) -> Option<usize> {
        let already = self.of(newcomer);
        compared
            .map(|(key, client, idle)| (self.of(client), idle, key))
            .filter(|(count, ..)| *count >= already + 2)
            .max()
            .map(|(.., key)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// `held`: client and milliseconds without traffic of each connection, by its key.
    fn check(held: &[(u8, u64)], newcomer: u8, expected: Option<usize>) {
        let mut counts = ClientCounts::default();
        held.iter().for_each(|(client, _)| counts.add(ip(*client)));
        let compared = held.iter().enumerate();
        let compared =
            compared.map(|(key, (client, idle))| (key, ip(*client), Duration::from_millis(*idle)));
        assert_eq!(counts.makes_room(ip(newcomer), compared), expected, "{held:?} {newcomer}");
        held.iter().for_each(|(client, _)| counts.remove(ip(*client)));
        assert!(counts.0.is_empty());
    }

    #[test]
    fn the_client_with_most_loses_the_connection_that_was_idle_for_longest() {
        check(&[], 1, None);
        check(&[(1, 5), (1, 9), (2, 100)], 3, Some(1));
        check(&[(1, 5), (1, 9), (2, 100), (2, 1), (2, 2)], 3, Some(2));
        // It has as many as the others, or only one more.
        check(&[(1, 5), (1, 9), (2, 100)], 1, None);
        check(&[(1, 5), (1, 9), (2, 100)], 2, None);
        check(&[(1, 5), (2, 9)], 3, None);
        check(&[(1, 5), (1, 9), (1, 7), (2, 100)], 2, Some(1));
    }

    #[test]
    fn the_client_with_most_is_known() {
        let mut counts = ClientCounts::default();
        assert_eq!(counts.most(), None);
        for client in [1, 2, 2, 3] {
            counts.add(ip(client));
        }
        assert_eq!((counts.most(), counts.of(ip(2)), counts.of(ip(9))), (Some(ip(2)), 2, 0));
        counts.remove(ip(2));
        counts.remove(ip(2));
        assert_eq!(counts.of(ip(2)), 0);
    }
}
