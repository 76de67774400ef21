//! Annotations that say which clients are served, and how fast.
//!
//! Pure.

use super::value::{OrElse as _, Read, Unserved, number};
use crate::addresses::AddressSet;
use crate::template::Template;
use crate::zone::{Rate, Window, ZoneRules};

const SECOND: u64 = 1_000_000;
const DEFAULT_BURST_MULTIPLIER: u32 = 5;

/// Which clients one Ingress serves, and how fast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) allow: Option<AddressSet>,
    pub(crate) deny: Option<AddressSet>,
    /// One of the ways to be let in is enough.
    pub(crate) any: bool,
    per_second: Option<u32>,
    per_minute: Option<u32>,
    burst_multiplier: Option<u32>,
    in_flight: Option<u32>,
    /// Clients that are not limited.
    pub(crate) unlimited: Option<AddressSet>,
    in_window: Option<u32>,
    window: Option<u64>,
    pub(crate) window_key: Option<Template>,
    pub(crate) window_unlimited: Option<AddressSet>,
    /// Bytes a second of each response's body, and those that are sent before.
    pub(crate) body_rate: Option<u64>,
    pub(crate) body_rate_after: u64,
}

impl Access {
    /// Takes an annotation of this group over; `None` for one of another group.
    pub(super) fn read(&mut self, name: &str, value: &str) -> Option<Read> {
        Some(match name {
            // In the order of names, so that the one that wins comes first.
            "allowlist-source-range" => addresses(&mut self.allow, value),
            "whitelist-source-range" => match self.allow {
                Some(_) => Err(Unserved::Ignored("allowlist-source-range is set too".to_owned())),
                None => addresses(&mut self.allow, value),
            },
            "denylist-source-range" => addresses(&mut self.deny, value),
            "satisfy" => match value {
                "any" | "all" => {
                    self.any = value == "any";
                    Ok(())
                }
                _ => Err(Unserved::Ignored(format!("{value:?} is not \"all\" or \"any\""))),
            },
            "limit-rps" => limit(&mut self.per_second, value),
            "limit-rpm" => limit(&mut self.per_minute, value),
            "limit-connections" => limit(&mut self.in_flight, value),
            "limit-burst-multiplier" => number(value, 1..=10_000)
                .or_default()
                .map(|multiplier| self.burst_multiplier = Some(multiplier)),
            "limit-allowlist" => addresses(&mut self.unlimited, value),
            "limit-whitelist" => match self.unlimited {
                Some(_) => Err(Unserved::Ignored("limit-allowlist is set too".to_owned())),
                None => addresses(&mut self.unlimited, value),
            },
            "global-rate-limit" => limit(&mut self.in_window, value).and_then(|()| {
                let counted = "is counted for each process of the ingress by itself";
                match self.in_window {
                    Some(_) => Err(Unserved::Partly(counted.to_owned())),
                    None => Ok(()),
                }
            }),
            "global-rate-limit-window" => {
                window(value).or_refuse().map(|micros| self.window = Some(micros))
            }
            "global-rate-limit-key" => Template::parse(value)
                .map_err(|error| error.to_string())
                .or_refuse()
                .map(|key| self.window_key = Some(key)),
            "global-rate-limit-ignored-cidrs" => addresses(&mut self.window_unlimited, value),
            "limit-rate" => kilobytes(value).map(|bytes| {
                self.body_rate = Some(bytes).filter(|bytes| *bytes > 0);
            }),
            "limit-rate-after" => kilobytes(value).map(|bytes| self.body_rate_after = bytes),
            _ => return None,
        })
    }

    /// What its requests are limited to, if they are.
    pub(crate) fn zone_rules(&self) -> Option<ZoneRules> {
        let multiplier = self.burst_multiplier.unwrap_or(DEFAULT_BURST_MULTIPLIER);
        let rate = |requests: Option<u32>, period| {
            requests.map(|requests| Rate::new(requests, period, multiplier))
        };
        let rules = ZoneRules {
            per_second: rate(self.per_second, SECOND),
            per_minute: rate(self.per_minute, 60 * SECOND),
            in_flight: self.in_flight,
            window: self
                .in_window
                .map(|requests| Window { requests, micros: self.window.unwrap_or(60 * SECOND) }),
        };
        (rules != ZoneRules::default()).then_some(rules)
    }

    /// The limits in words.
    pub(crate) fn limits(&self) -> Vec<String> {
        let of = |limit: Option<u32>, what: &str| limit.map(|n| format!("{n} requests {what}"));
        let all = [
            of(self.per_second, "per second"),
            of(self.per_minute, "per minute"),
            of(self.in_flight, "at once"),
            of(self.in_window, "per window"),
        ];
        all.into_iter().flatten().collect()
    }
}

fn addresses(to: &mut Option<AddressSet>, value: &str) -> Read {
    *to = Some(AddressSet::parse(value).or_refuse()?);
    Ok(())
}

/// A number of requests; 0 is no limit.
fn limit(to: &mut Option<u32>, value: &str) -> Read {
    let limit = number(value, 0..=1_000_000).or_refuse()?;
    *to = Some(limit).filter(|limit| *limit > 0);
    Ok(())
}

fn kilobytes(value: &str) -> Result<u64, Unserved> {
    number::<u64>(value, 0..=1 << 30).or_default().map(|kilobytes| kilobytes << 10)
}

/// `30s`, `1m`, `1h`, in microseconds.
fn window(value: &str) -> Result<u64, String> {
    let bad = || format!("{value:?} is not a window (examples: 30s, 1m, 1h; at most a day)");
    let at = value.char_indices().next_back().map_or(0, |(at, _)| at);
    let (digits, unit) = value.split_at(at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(bad()),
    };
    let count = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(seconds));
    count.filter(|total| (1..=86_400).contains(total)).map(|s| s * SECOND).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        for (value, seconds) in [("30s", 30), ("1m", 60), ("24h", 86_400)] {
            assert_eq!(window(value), Ok(seconds * SECOND), "{value}");
        }
        for value in ["", "m", "0s", "25h", "1", "1d", "1м", "м", "-1s"] {
            assert!(window(value).is_err(), "{value}");
        }
    }
}
