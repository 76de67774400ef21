//! A quota: a number of connections, queries or streams at one time, of which one client can hold
//! only a share.
//!
//! One quota serves all listeners of a process. Clients are told apart by address, because that is
//! known before a client has said anything: an IPv4 address is one client, and so is the /64
//! network of an IPv6 address, of which a host commonly has all addresses (RFC 7934). A client's
//! share is always less than the total, for all values of the flags and of the limit of
//! descriptors, so that no client can take everything.
//!
//! Threads share a quota without a lock. Each client is counted in two counters that a keyed hash
//! of its address selects, and it holds the lower of the two: a client is counted too high only if
//! both counters are shared with other clients, which a client cannot cause by choosing its
//! address. Left out: what happens to a client that gets no permit.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed};

use prometheus_client::metrics::gauge::Gauge;

/// Counters of each of the two rows, 32 KiB: several times as many as clients that hold permits
/// at one time. A power of two.
const COUNTERS: usize = 8 << 10;
/// The share, one part in so many, that one client always leaves to the others.
const RESERVE: usize = 16;
/// The bits of an IPv6 address that tell clients apart.
pub const CLIENT_PREFIX_V6: u32 = 64;
/// Addresses of IPv4 clients behind a translator (RFC 6052): all would be one /64 network.
const TRANSLATED: u128 = 0x0064_ff9b << 96;

/// The client that a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Client {
    /// This machine: a Unix socket, loopback, or an address of its own.
    Local,
    V4(Ipv4Addr),
    /// The first 64 bits of an address.
    V6(u64),
}

impl Client {
    /// The client at that address. An IPv4 address in IPv6 form is the IPv4 address.
    pub fn of(ip: IpAddr) -> Client {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Client::V4(ip),
            IpAddr::V6(ip) => {
                let bits = ip.to_bits();
                if bits >> 32 == TRANSLATED >> 32 {
                    return Client::V4(Ipv4Addr::from_bits(bits as u32));
                }
                Client::V6((bits >> (128 - CLIENT_PREFIX_V6)) as u64)
            }
        }
    }

    /// The client that connected from one address to another: [`Client::Local`] if it is on this
    /// machine. For listeners that many processes of one machine use.
    pub fn of_connection(from: IpAddr, to: IpAddr) -> Client {
        let from = from.to_canonical();
        if from.is_loopback() || from == to.to_canonical() {
            return Client::Local;
        }
        Client::of(from)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Client::Local => f.write_str("this machine"),
            Client::V4(ip) => write!(f, "{ip}"),
            Client::V6(network) => {
                let ip = Ipv6Addr::from_bits(u128::from(*network) << (128 - CLIENT_PREFIX_V6));
                write!(f, "{ip}/{CLIENT_PREFIX_V6}")
            }
        }
    }
}

/// How many permits there are in all, for one client, and for this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaLimits {
    total: usize,
    per_client: usize,
    local: usize,
}

impl QuotaLimits {
    /// One client gets `per_client` of `total`, but always leaves at least one sixteenth, and at
    /// least one permit where there is more than one.
    pub fn new(total: usize, per_client: usize) -> QuotaLimits {
        let per_client = per_client.min(largest_share(total)).max(1);
        QuotaLimits { total, per_client, local: per_client }
    }

    /// All clients of this machine together get the largest share that there is: many processes
    /// share the machine's addresses, and a process that runs on the machine has other ways to harm
    /// it.
    #[must_use]
    pub fn with_large_local_share(self) -> QuotaLimits {
        QuotaLimits { local: largest_share(self.total).max(1), ..self }
    }

    pub fn total(&self) -> usize {
        self.total
    }

    pub fn per_client(&self) -> usize {
        self.per_client
    }

    /// The permits that this client may hold.
    pub fn of(&self, client: Client) -> usize {
        if client == Client::Local { self.local } else { self.per_client }
    }
}

fn largest_share(total: usize) -> usize {
    total - (total / RESERVE).max(1).min(total)
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The client holds its share.
    Client,
    /// All permits are taken.
    All,
}

/// Permits that clients share. `clone` is the same quota.
#[derive(Clone, Debug)]
pub struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: QuotaLimits,
    /// The permits that are taken. The metric shows the same counter that is used for decisions.
    taken: Gauge<i64, AtomicI64>,
    rows: [Box<[AtomicU32]>; 2],
    hasher: RandomState,
}

/// The right to one connection, query or stream; given back when dropped.
#[derive(Debug)]
pub struct QuotaPermit {
    quota: Quota,
    /// `None` while it counts for no client.
    client: Option<Client>,
}

impl Quota {
    pub fn new(limits: QuotaLimits) -> Quota {
        Quota::with_gauge(limits, Gauge::default())
    }

    /// A quota whose taken permits a metric shows that exists already. The gauge is the quota's
    /// own from now on.
    pub fn with_gauge(limits: QuotaLimits, gauge: Gauge<i64, AtomicI64>) -> Quota {
        let row = || (0..COUNTERS).map(|_| AtomicU32::new(0)).collect();
        let (rows, hasher) = ([row(), row()], RandomState::new());
        Quota(Arc::new(Inner { limits, taken: gauge, rows, hasher }))
    }

    /// The permits that are taken, as a metric: never more or less than there are.
    pub fn gauge(&self) -> Gauge<i64, AtomicI64> {
        self.0.taken.clone()
    }

    pub fn taken(&self) -> usize {
        usize::try_from(self.0.taken.get()).unwrap_or_default()
    }

    pub fn limits(&self) -> QuotaLimits {
        self.0.limits
    }

    /// Whether more than half of all permits are taken: time to end what is idle.
    pub fn is_crowded(&self) -> bool {
        self.taken() > self.0.limits.total / 2
    }

    /// A permit for this client.
    ///
    /// # Errors
    ///
    /// When all are taken, or the client holds its share.
    pub fn admit(&self, client: Client) -> Result<QuotaPermit, Full> {
        // From here on, dropping the permit gives it back.
        let mut permit = self.admit_unclaimed()?;
        permit.claim(client)?;
        Ok(permit)
    }

    /// A permit that counts for no client: the connection of a trusted proxy, which brings many
    /// clients, or of a client that is not known yet.
    ///
    /// # Errors
    ///
    /// When all are taken.
    pub fn admit_unclaimed(&self) -> Result<QuotaPermit, Full> {
        let total = i64::try_from(self.0.limits.total).unwrap_or(i64::MAX);
        // In one step, so that the gauge never shows a permit that is not given.
        let take = |taken| (taken < total).then_some(taken + 1);
        let taken = self.0.taken.inner().fetch_update(Relaxed, Relaxed, take);
        taken.map_err(|_| Full::All)?;
        Ok(QuotaPermit { quota: self.clone(), client: None })
    }

    /// The counters of a client, one of each row.
    fn counters(&self, client: Client) -> [&AtomicU32; 2] {
        let hash = self.0.hasher.hash_one(client);
        let [first, second] = &self.0.rows;
        [&first[hash as usize % COUNTERS], &second[(hash >> 32) as usize % COUNTERS]]
    }
}

impl QuotaPermit {
    /// Counts the permit for this client instead of the one before.
    ///
    /// # Errors
    ///
    /// When the client holds its share. The permit then counts for no client.
    pub fn claim(&mut self, client: Client) -> Result<(), Full> {
        self.release_client();
        let share = self.quota.0.limits.of(client);
        let [first, second] = self.quota.counters(client).map(|count| count.fetch_add(1, Relaxed));
        // From here on, dropping the permit uncounts it.
        self.client = Some(client);
        if first.min(second) as usize >= share {
            self.release_client();
            return Err(Full::Client);
        }
        Ok(())
    }

    /// Whether more than half of all permits are taken.
    pub fn is_crowded(&self) -> bool {
        self.quota.is_crowded()
    }

    fn release_client(&mut self) {
        let Some(client) = self.client.take() else { return };
        for count in self.quota.counters(client) {
            count.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for QuotaPermit {
    fn drop(&mut self) {
        self.release_client();
        self.quota.0.taken.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> Client {
        Client::of(text.parse().unwrap())
    }

    fn quota(total: usize, per_client: usize) -> Quota {
        Quota::new(QuotaLimits::new(total, per_client))
    }

    /// As many permits as the client gets.
    fn all_of(quota: &Quota, client: Client) -> Vec<QuotaPermit> {
        std::iter::from_fn(|| quota.admit(client).ok()).collect()
    }

    fn check_empty(quota: &Quota) {
        assert_eq!(quota.taken(), 0);
        assert!(quota.0.rows.iter().flatten().all(|count| count.load(Relaxed) == 0));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let quota = quota(100, 2);
        let of_network = |host: u16| client(&format!("2001:db8:1:2::{host:x}"));
        let permits: Vec<_> =
            (1..=5).filter_map(|host| quota.admit(of_network(host)).ok()).collect();
        assert_eq!(permits.len(), 2);
        assert_eq!(quota.admit(of_network(9)).err(), Some(Full::Client));
        assert!(quota.admit(client("2001:db8:1:3::1")).is_ok(), "another network");
    }

    #[test]
    fn clients_by_address() {
        let table = [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("64:ff9b::192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
            ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
            ("fe80::1", "fe80::/64"),
        ];
        for (ip, expected) in table {
            assert_eq!(client(ip).to_string(), expected, "{ip}");
        }
        let table = [
            ("127.0.0.1", "127.0.0.1", "this machine"),
            ("::ffff:127.3.0.1", "::ffff:127.0.0.1", "this machine"),
            ("::1", "::1", "this machine"),
            ("192.0.2.1", "192.0.2.1", "this machine"),
            ("192.0.2.2", "192.0.2.1", "192.0.2.2"),
        ];
        for (from, to, expected) in table {
            let found = Client::of_connection(from.parse().unwrap(), to.parse().unwrap());
            assert_eq!(found.to_string(), expected, "{from} to {to}");
        }
    }

    /// With few descriptors the limit for one client was above the limit for all: one client
    /// could take every connection.
    #[test]
    fn the_share_of_a_client_is_below_the_whole() {
        let table = [(100, 10, 10), (100, 4096, 94), (32, 32, 30), (16, 99, 15), (2, 2, 1)];
        for (total, wanted, expected) in table {
            let limits = QuotaLimits::new(total, wanted);
            assert_eq!(limits.per_client(), expected, "{wanted} of {total}");
            let quota = Quota::new(limits);
            let of_one = all_of(&quota, client("192.0.2.1"));
            assert_eq!(of_one.len(), expected);
            assert!(quota.admit(client("192.0.2.2")).is_ok(), "{wanted} of {total}");
        }
        assert_eq!(QuotaLimits::new(1, 1).per_client(), 1, "one connection is for anybody");
        assert_eq!(all_of(&quota(0, 5), Client::Local).len(), 0);
    }

    #[test]
    fn clients_share_the_total_and_get_back_what_is_dropped() {
        let quota = quota(8, 2);
        let of = |n: u8| Client::of(IpAddr::from([10, 0, 0, n]));
        let mut permits: Vec<_> =
            (0..5).flat_map(|n| [of(n); 3]).filter_map(|client| quota.admit(client).ok()).collect();
        assert_eq!((permits.len(), quota.taken(), quota.gauge().get()), (8, 8, 8));
        assert!(permits[0].is_crowded());
        assert_eq!(quota.admit(of(9)).err(), Some(Full::All));
        permits.drain(..2);
        assert_eq!(quota.admit(of(1)).err(), Some(Full::Client));
        assert_eq!(quota.gauge().get(), 6, "what was refused is not counted");
        assert!(quota.admit(of(0)).is_ok());
        permits.truncate(2);
        assert!(!quota.is_crowded());
        permits.clear();
        assert_eq!(quota.gauge().get(), 0);
        check_empty(&quota);
    }

    #[test]
    fn a_trusted_proxy_counts_in_all_and_its_clients_for_themselves() {
        let quota = quota(6, 2);
        let mut permits: Vec<_> = (0..6).filter_map(|_| quota.admit_unclaimed().ok()).collect();
        assert_eq!((permits.len(), quota.admit_unclaimed().err()), (6, Some(Full::All)));
        let claimed = permits.iter_mut().map(|permit| permit.claim(client("192.0.2.1")));
        assert_eq!(claimed.filter(Result::is_ok).count(), 2);
        permits[0].claim(client("192.0.2.2")).unwrap();
        permits[5].claim(client("192.0.2.1")).unwrap();
        drop(permits);
        assert_eq!(quota.taken(), 0);
        check_empty(&quota);
    }

    #[test]
    fn this_machine_leaves_a_reserve_to_others() {
        let limits = QuotaLimits::new(32, 16).with_large_local_share();
        let quota = Quota::new(limits);
        let local = all_of(&quota, Client::Local);
        assert_eq!((local.len(), all_of(&quota, client("192.0.2.1")).len()), (30, 2));
    }

    #[test]
    fn threads_never_take_more_than_there_is() {
        let quota = quota(50, 20);
        let held = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for n in 0..4 {
                let (quota, held) = (&quota, &held);
                scope.spawn(move || {
                    for _ in 0..200 {
                        let own = all_of(quota, Client::of(IpAddr::from([10, 0, 0, n])));
                        let all = held.fetch_add(own.len(), Relaxed) + own.len();
                        assert!(own.len() <= 20 && all <= 50 && quota.taken() <= 50);
                        held.fetch_sub(own.len(), Relaxed);
                    }
                });
            }
        });
        check_empty(&quota);
    }

    #[test]
    fn clients_that_share_one_counter_are_told_apart_by_the_other() {
        let quota = quota(10_000, 3);
        let clients = (0..3000_u32).map(|n| Client::of(Ipv4Addr::from_bits(n).into()));
        let permits: Vec<_> = clients.flat_map(|client| all_of(&quota, client)).collect();
        // Each gets its share but for the few whose counters are both those of others.
        assert!(permits.len() > 8000, "{}", permits.len());
        drop(permits);
        check_empty(&quota);
    }
}
