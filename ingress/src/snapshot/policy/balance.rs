//! Annotations that say how requests are spread over the endpoints of a Service.
//!
//! Pure. They hold for a Service port: of the Ingresses that refer to it, the first that sets one
//! of them decides.

use std::time::Duration;

use super::health::{HealthAnnotations, HealthCheck};
use super::value::{OrElse as _, Read, Unserved, boolean, number, timeout};
use crate::template::Template;

/// Members of a group of endpoints, if the annotation does not say.
const SUBSET: usize = 3;
const MAX_SUBSET: usize = 1_000;

/// How requests are spread over the endpoints of a Service port.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Balancing {
    pub(crate) method: Method,
    /// What requests are known by, if they are spread by that.
    pub(crate) hash_by: Option<Template>,
    /// For how long a new endpoint gets fewer requests.
    pub(crate) slow_start: Option<Duration>,
    /// Requests in flight at one time to each endpoint.
    pub(crate) max_in_flight: Option<u32>,
    /// Requests that may wait for each endpoint if all have as many as they may.
    pub(crate) max_waiting: Option<u32>,
    pub(crate) health: Option<HealthCheck>,
}

impl Balancing {
    /// Requests that each endpoint may have in flight.
    pub(crate) fn most_in_flight(&self) -> u32 {
        self.max_in_flight.unwrap_or(u32::MAX)
    }
}

/// Which endpoint is picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Method {
    /// Strict turns.
    #[default]
    RoundRobin,
    /// The one of two with fewer requests in flight.
    LeastRequests,
    /// The one of two with the lower product of latency and requests in flight.
    PeakEwma,
    /// By a hash of what the request is known by: an endpoint, or a group of so many.
    Hash { subset: Option<usize> },
}

/// The annotations of this group, as they are read one after another.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BalanceAnnotations {
    method: Option<Method>,
    hash_by: Option<Template>,
    is_subset: bool,
    subset_size: Option<usize>,
    slow_start: Option<Duration>,
    max_in_flight: Option<u32>,
    max_waiting: Option<u32>,
    health: HealthAnnotations,
}

impl BalanceAnnotations {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            "load-balance" => self.load_balance(value),
            "upstream-hash-by" => self.hash_by(value),
            "upstream-hash-by-subset" => {
                boolean(value).or_default().map(|is_subset| self.is_subset = is_subset)
            }
            "upstream-hash-by-subset-size" => number(value, 0..=MAX_SUBSET)
                .or_default()
                .map(|size| self.subset_size = Some(size).filter(|size| *size > 0)),
            "slow-start" => timeout(value).or_default().map(|time| self.slow_start = Some(time)),
            "max-connections-per-endpoint" => {
                number(value, 1..=1_000_000).or_default().map(|max| self.max_in_flight = Some(max))
            }
            "max-pending-per-endpoint" => number(value, 0..=1_000_000)
                .or_default()
                .map(|max| self.max_waiting = Some(max).filter(|max| *max > 0)),
            _ => return self.health.read(name, value),
        })
    }

    fn load_balance(&mut self, value: &str) -> Read {
        self.method = Some(match value {
            "round_robin" | "round-robin" => Method::RoundRobin,
            "least-requests" => Method::LeastRequests,
            "ewma" => Method::PeakEwma,
            "hash" => {
                self.hash_by.get_or_insert_with(by_client);
                return Ok(());
            }
            "chash" | "chashsubset" | "sticky_balanced" | "sticky_persistent" => {
                let name = if value.starts_with("chash") { "upstream-hash-by" } else { "affinity" };
                let what = format!("{value:?} has no effect by itself; {name} asks for it");
                return Err(Unserved::Partly(what));
            }
            _ => {
                let methods = "round_robin, ewma, least-requests, hash";
                let what = format!("{value:?} is not a balancing method (supported: {methods})");
                return Err(Unserved::Ignored(what));
            }
        });
        Ok(())
    }

    fn hash_by(&mut self, value: &str) -> Read {
        let parsed = Template::parse(value).map_err(|error| error.to_string());
        self.hash_by = Some(parsed.or_default()?);
        Ok(())
    }

    /// What they come to; `None` for turns without limits.
    pub(crate) fn balancing(&self) -> Option<Balancing> {
        let subset = self.is_subset.then(|| self.subset_size.unwrap_or(SUBSET));
        // `upstream-hash-by` wins, as in ingress-nginx.
        let method = match &self.hash_by {
            Some(_) => Method::Hash { subset },
            None => self.method.unwrap_or_default(),
        };
        let balancing = Balancing {
            method,
            hash_by: self.hash_by.clone(),
            slow_start: self.slow_start,
            max_in_flight: self.max_in_flight,
            max_waiting: self.max_waiting.filter(|_| self.max_in_flight.is_some()),
            health: self.health.check(),
        };
        (balancing != Balancing::default()).then_some(balancing)
    }
}

fn by_client() -> Template {
    Template::parse("$remote_addr").expect("a variable that is known")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(annotations: &[(&str, &str)], expected: Option<&Balancing>) {
        let mut group = BalanceAnnotations::default();
        for (name, value) in annotations {
            let _ = group.read(name, value).unwrap();
        }
        assert_eq!(group.balancing().as_ref(), expected, "{annotations:?}");
    }

    #[test]
    fn methods_by_their_names() {
        let method = |method| Some(Balancing { method, ..Balancing::default() });
        check(&[("load-balance", "round_robin")], None);
        check(&[("load-balance", "ewma")], method(Method::PeakEwma).as_ref());
        check(&[("load-balance", "least-requests")], method(Method::LeastRequests).as_ref());
        check(&[("load-balance", "chash")], None);
        check(&[("load-balance", "sticky_balanced")], None);
        let hash_by = |text: &str| Some(Template::parse(text).unwrap());
        let hash = |subset, text| {
            let method = Method::Hash { subset };
            Some(Balancing { method, hash_by: hash_by(text), ..Balancing::default() })
        };
        check(&[("load-balance", "hash")], hash(None, "$remote_addr").as_ref());
        let uri = ("upstream-hash-by", "$request_uri");
        check(&[("load-balance", "ewma"), uri], hash(None, "$request_uri").as_ref());
        check(&[uri, ("upstream-hash-by-subset", "true")], hash(Some(3), "$request_uri").as_ref());
        let size = ("upstream-hash-by-subset-size", "5");
        check(
            &[uri, ("upstream-hash-by-subset", "true"), size],
            hash(Some(5), "$request_uri").as_ref(),
        );
        check(&[uri, size], hash(None, "$request_uri").as_ref());
        check(&[("upstream-hash-by", "$no_such")], None);
    }
}
