//! How many connections may be open: in all, and for one client, by one quota that all workers
//! and listeners share.

use std::net::IpAddr;
use std::sync::Arc;

use daemon::quota::{Client, Quota, QuotaLimits, QuotaPermit};
use ipnet::IpNet;

use crate::origin::is_trusted;

/// What the limit of connections is without a flag, where descriptors allow it.
const DEFAULT_MAX: usize = 32_768;
/// What the limit of one client is without a flag, and the most that it is of the whole then.
const DEFAULT_MAX_PER_CLIENT: usize = 4096;
const DEFAULT_CLIENT_SHARE: usize = 2;

/// A connection takes one descriptor for its client and, while a request is in flight, one for
/// its endpoint; others wait in the pool.
const DESCRIPTORS_EACH: usize = 2;

/// The counts of open connections, shared by all workers.
#[derive(Debug)]
pub(crate) struct Limits {
    quota: Quota,
    /// Proxies in front of us, whose connections are those of many clients.
    trusted_proxies: Vec<IpNet>,
}

/// The right to one open connection, until dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    limits: Arc<Limits>,
    permit: QuotaPermit,
}

impl Limits {
    /// `max` and `max_per_client` are the flags; what they and the limit of descriptors come to
    /// is logged.
    pub(crate) fn new(
        max: Option<usize>,
        max_per_client: Option<usize>,
        trusted_proxies: Vec<IpNet>,
    ) -> Limits {
        let wanted = max.unwrap_or(DEFAULT_MAX);
        let max = daemon::descriptors::connections(wanted, DESCRIPTORS_EACH, "--max-connections");
        Limits { quota: Quota::new(quota_limits(max, max_per_client)), trusted_proxies }
    }

    pub(crate) fn open(&self) -> usize {
        self.quota.taken()
    }

    /// Room for one more connection of the client, if there is any.
    pub(crate) fn admit(self: &Arc<Limits>, client: IpAddr) -> Option<Permit> {
        let permit = self.quota.admit_unclaimed().ok()?;
        let mut permit = Permit { limits: self.clone(), permit };
        permit.claim(client).then_some(permit)
    }
}

fn quota_limits(max: usize, max_per_client: Option<usize>) -> QuotaLimits {
    let default = DEFAULT_MAX_PER_CLIENT.min(max / DEFAULT_CLIENT_SHARE);
    let limits = QuotaLimits::new(max, max_per_client.unwrap_or(default));
    if let Some(wanted) = max_per_client.filter(|wanted| *wanted > limits.per_client()) {
        tracing::warn!(
            wanted,
            allowed = limits.per_client(),
            max_connections = max,
            "--max-connections-per-client is lowered, so that one client cannot take every \
             connection"
        );
    }
    tracing::info!(
        max_connections = max,
        max_connections_per_client = limits.per_client(),
        "limits of connections"
    );
    limits
}

impl Permit {
    /// Counts the connection for this client; false when the client has too many. Connections of
    /// a trusted proxy count for no client.
    pub(crate) fn claim(&mut self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        is_trusted(client, &self.limits.trusted_proxies)
            || self.permit.claim(Client::of(client)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max: usize, per_client: usize) -> Arc<Limits> {
        let proxies = vec!["10.0.0.0/8".parse().unwrap()];
        Arc::new(Limits::new(Some(max), Some(per_client), proxies))
    }

    #[test]
    fn connections_are_counted_in_all_and_for_each_client() {
        let limits = limits(5, 2);
        let admit = |ip: &str| limits.admit(ip.parse().unwrap());
        let first = admit("192.0.2.1").unwrap();
        let _second = admit("::ffff:192.0.2.1").unwrap();
        assert!(admit("192.0.2.1").is_none(), "two are open already");
        assert_eq!(limits.open(), 2);
        let _proxy: Vec<_> = (0..3).map(|_| admit("10.0.0.1").unwrap()).collect();
        assert!(admit("192.0.2.2").is_none(), "five are open already");
        drop(first);
        let _again = admit("192.0.2.1").unwrap();
        assert_eq!(limits.open(), 5);
    }

    /// With `--max-connections-per-client 2`, five addresses of one /64 got two each.
    #[test]
    fn addresses_of_one_ipv6_network_share_the_limit_of_a_client() {
        let limits = limits(100, 2);
        let open = |ip: String| limits.admit(ip.parse().unwrap());
        let of_one = (1..=5).flat_map(|host| [host; 2]);
        let permits: Vec<_> =
            of_one.filter_map(|host| open(format!("2001:db8:1:2::{host}"))).collect();
        assert_eq!(permits.len(), 2);
        assert!(open("2001:db8:1:3::1".to_owned()).is_some());
    }

    /// Where 8,192 descriptors left 3,968 connections, the default of 4,096 for one client let
    /// it take them all.
    #[test]
    fn the_default_for_one_client_is_below_the_whole() {
        for (max, expected) in [(32_768, 4096), (4032, 2016), (85, 42), (2, 1), (1, 1)] {
            assert_eq!(quota_limits(max, None).per_client(), expected, "{max}");
        }
        assert_eq!(quota_limits(100, Some(4096)).per_client(), 94);
    }
}
