//! Annotations of an Ingress: how its routes are to be served.
//!
//! Read under our own prefix and under that of ingress-nginx, whose users need a home; ours wins
//! where both are set. What cannot be honoured is a problem that is reported, never silence. An
//! annotation that restricts access and is not supported takes its routes out of service: to
//! serve them without it would open what its author closed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const OURS: &str = "switchyard.dev/";
const NGINX: &str = "nginx.ingress.kubernetes.io/";

/// How the routes of one Ingress are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) redirect: Redirect,
    /// Bytes of a request body; `Some(None)` is no limit, `None` the process's own.
    pub(crate) max_body: Option<Option<u64>>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) read_timeout: Option<Duration>,
    pub(crate) send_timeout: Option<Duration>,
    /// The annotation because of which the routes answer 503.
    pub(crate) refused: Option<&'static str>,
}

/// When plain HTTP is answered with a redirect to HTTPS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Redirect {
    #[default]
    Never,
    /// For hosts that the Ingress has a TLS entry for.
    WhereTls,
    Always,
}

/// Access control that is not there yet.
const RESTRICTING: [&str; 12] = [
    "allowlist-source-range",
    "auth-realm",
    "auth-secret",
    "auth-secret-type",
    "auth-signin",
    "auth-tls-secret",
    "auth-tls-verify-client",
    "auth-tls-verify-depth",
    "auth-type",
    "auth-url",
    "denylist-source-range",
    "whitelist-source-range",
];

impl Policy {
    /// The policy that the annotations ask for, and a sentence for each that is not honoured.
    pub(crate) fn of(annotations: &BTreeMap<Arc<str>, Arc<str>>) -> (Policy, Vec<String>) {
        let mut policy = Policy::default();
        let mut problems = Vec::new();
        // Ours after theirs, so that ours wins.
        for prefix in [NGINX, OURS] {
            let range = annotations
                .range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
            for (key, value) in range.take_while(|(key, _)| key.starts_with(prefix)) {
                if let Err(problem) = policy.apply(&key[prefix.len()..], value) {
                    problems.push(format!("annotation {key}: {problem}"));
                }
            }
        }
        (policy, problems)
    }

    fn apply(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "ssl-redirect" => self.redirect(Redirect::WhereTls, value),
            "force-ssl-redirect" => self.redirect(Redirect::Always, value),
            "proxy-body-size" => {
                let bytes = parse_bytes(value)?;
                self.max_body = Some(Some(bytes).filter(|bytes| *bytes > 0));
                Ok(())
            }
            "proxy-connect-timeout" => set(&mut self.connect_timeout, value),
            "proxy-read-timeout" => set(&mut self.read_timeout, value),
            "proxy-send-timeout" => set(&mut self.send_timeout, value),
            _ if name.ends_with("-snippet") => Err(
                "refused: a snippet is configuration of nginx, and whoever may write an Ingress \
                 could run code with it; served without it"
                    .to_owned(),
            ),
            _ => self.unsupported(name),
        }
    }

    fn unsupported(&mut self, name: &str) -> Result<(), String> {
        match RESTRICTING.iter().find(|restricting| **restricting == name) {
            Some(restricting) => {
                self.refused = Some(restricting);
                Err("restricts access and is not supported: its routes answer 503".to_owned())
            }
            None => Err("unknown or not supported; served without it".to_owned()),
        }
    }

    fn redirect(&mut self, wanted: Redirect, value: &str) -> Result<(), String> {
        let on = match value {
            "true" => true,
            "false" => false,
            _ => return Err(format!("{value:?} is neither \"true\" nor \"false\"")),
        };
        if on && self.redirect != Redirect::Always {
            self.redirect = wanted;
        } else if !on && self.redirect == wanted {
            self.redirect = Redirect::Never;
        }
        Ok(())
    }
}

fn set(timeout: &mut Option<Duration>, value: &str) -> Result<(), String> {
    *timeout = Some(parse_timeout(value)?);
    Ok(())
}

/// Bytes, with `k`, `m` or `g` for powers of 1024.
pub(crate) fn parse_bytes(value: &str) -> Result<u64, String> {
    let bad = || format!("{value:?} is no size: write bytes, or a number with k, m or g");
    let (digits, unit) = match value.find(|c: char| !c.is_ascii_digit()) {
        None => (value, ""),
        Some(at) => value.split_at(at),
    };
    let scale: u64 = match unit {
        "" => 1,
        "k" | "K" | "Ki" => 1 << 10,
        "m" | "M" | "Mi" => 1 << 20,
        "g" | "G" | "Gi" => 1 << 30,
        _ => return Err(bad()),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).ok_or_else(bad)
}

/// Seconds, or a number with `s` or `m`; more than nothing and at most a day.
fn parse_timeout(value: &str) -> Result<Duration, String> {
    let (digits, scale) = match value.strip_suffix('s') {
        Some(digits) => (digits, 1),
        None => value.strip_suffix('m').map_or((value, 1), |digits| (digits, 60)),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale));
    match seconds {
        Some(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("{value:?} is no time: write seconds, from 1 to 86400")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(annotations: &[(&str, &str)], expected: &Policy, problems: &[&str]) {
        let map = annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let (policy, found) = Policy::of(&map);
        assert_eq!(policy, *expected, "{annotations:?}");
        assert_eq!(found.len(), problems.len(), "{annotations:?}: {found:?}");
        for (found, problem) in found.iter().zip(problems) {
            assert!(found.contains(problem), "{annotations:?}: {found}");
        }
    }

    #[test]
    fn annotations_that_are_honoured() {
        let none = Policy::default;
        check(&[("other.example/ssl-redirect", "true")], &none(), &[]);
        check(
            &[("nginx.ingress.kubernetes.io/ssl-redirect", "true")],
            &Policy { redirect: Redirect::WhereTls, ..none() },
            &[],
        );
        check(
            &[
                ("switchyard.dev/force-ssl-redirect", "true"),
                ("switchyard.dev/ssl-redirect", "true"),
            ],
            &Policy { redirect: Redirect::Always, ..none() },
            &[],
        );
        check(
            &[
                ("nginx.ingress.kubernetes.io/ssl-redirect", "true"),
                ("switchyard.dev/ssl-redirect", "false"),
            ],
            &none(),
            &[],
        );
        check(
            &[
                ("nginx.ingress.kubernetes.io/proxy-body-size", "8m"),
                ("nginx.ingress.kubernetes.io/proxy-read-timeout", "90"),
                ("nginx.ingress.kubernetes.io/proxy-send-timeout", "2m"),
                ("switchyard.dev/proxy-connect-timeout", "3s"),
            ],
            &Policy {
                max_body: Some(Some(8 << 20)),
                read_timeout: Some(Duration::from_secs(90)),
                send_timeout: Some(Duration::from_secs(120)),
                connect_timeout: Some(Duration::from_secs(3)),
                ..none()
            },
            &[],
        );
        check(
            &[("switchyard.dev/proxy-body-size", "0")],
            &Policy { max_body: Some(None), ..none() },
            &[],
        );
    }

    #[test]
    fn annotations_that_are_not_are_reported() {
        let none = Policy::default;
        check(&[("switchyard.dev/ssl-redirect", "yes")], &none(), &["neither"]);
        check(&[("switchyard.dev/proxy-body-size", "8 m")], &none(), &["no size"]);
        check(&[("switchyard.dev/proxy-body-size", "99999999999g")], &none(), &["no size"]);
        check(&[("switchyard.dev/proxy-read-timeout", "0")], &none(), &["no time"]);
        check(&[("switchyard.dev/sl-redirect", "true")], &none(), &["unknown or not supported"]);
        check(
            &[("nginx.ingress.kubernetes.io/configuration-snippet", "deny all;")],
            &none(),
            &["could run code"],
        );
        check(
            &[("nginx.ingress.kubernetes.io/auth-url", "http://auth.example/")],
            &Policy { refused: Some("auth-url"), ..none() },
            &["restricts access"],
        );
    }
}
