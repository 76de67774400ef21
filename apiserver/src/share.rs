//! Quotas of what the server has a limited number of, connections and streams, that say in the
//! log which flag to change when clients are refused.

use daemon::LogLimit;
use daemon::quota::{Client, Quota, QuotaLimits, QuotaPermit};

static REFUSED: LogLimit = LogLimit::new("clients refused by a quota");

/// A quota whose flags have names. `clone` is the same quota.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    /// For the log, and the name of the flag.
    what: &'static str,
    quota: Quota,
}

impl Shares {
    /// `percent` is what one address may take of `total`. This machine may take nearly all.
    pub(crate) fn new(what: &'static str, total: usize, percent: u8) -> Shares {
        let percent = usize::from(percent);
        // In two parts, so that no total is too large.
        let of_one = total / 100 * percent + total % 100 * percent / 100;
        let limits = QuotaLimits::new(total, of_one).with_large_local_share();
        Shares { what, quota: Quota::new(limits) }
    }

    /// A permit; `None` when there is none for this client.
    pub(crate) fn take(&self, client: Client) -> Option<QuotaPermit> {
        let permit = self.quota.admit(client);
        if permit.is_err() && REFUSED.admits() {
            let (what, limits) = (self.what, self.quota.limits());
            tracing::warn!(
                %client,
                limit = limits.of(client),
                all = self.quota.taken(),
                total = limits.total(),
                "a client was refused {what}: raise --max-{what} or --max-share-per-client"
            );
        }
        permit.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> Client {
        Client::of(text.parse().unwrap())
    }

    /// As many as that client gets.
    fn taken(shares: &Shares, client: Client) -> Vec<QuotaPermit> {
        std::iter::from_fn(|| shares.take(client)).collect()
    }

    #[test]
    fn one_address_leaves_half_and_this_machine_a_reserve() {
        let shares = Shares::new("things", 32, 50);
        let [one, other, third] = ["192.0.2.2", "192.0.2.3", "192.0.2.4"].map(client);
        let of_one = taken(&shares, one);
        assert_eq!(of_one.len(), 16);
        let of_other = taken(&shares, other);
        assert_eq!((of_other.len(), taken(&shares, third).len()), (16, 0), "all are taken");
        drop(of_one);
        assert_eq!(taken(&shares, third).len(), 16);
        drop(of_other);
        let local = taken(&shares, Client::Local);
        assert_eq!((local.len(), taken(&shares, one).len()), (30, 2));
    }

    /// With `--max-share-per-client 100` one address could take everything.
    #[test]
    fn no_percentage_gives_one_address_everything() {
        let shares = Shares::new("things", 32, 100);
        let of_one = taken(&shares, client("192.0.2.2"));
        assert_eq!((of_one.len(), taken(&shares, client("192.0.2.3")).len()), (30, 2));
    }

    #[test]
    fn small_numbers_can_be_used_up() {
        let shares = Shares::new("things", 1, 50);
        assert_eq!(taken(&shares, Client::Local).len(), 1);
        assert_eq!(taken(&shares, client("192.0.2.2")).len(), 1);
    }
}
