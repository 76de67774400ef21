//! `--forward`: zones whose names are asked of other servers than the usual ones.

use std::net::SocketAddr;

use daemon::Failure;

use crate::forward::routes::{DEFAULT_GROUP, Routes};
use crate::forward::server::ServerAddress;
use crate::forward::upstreams::parse_upstream;
use crate::wire::Name;

/// What stands for the usual servers.
const USUAL: &str = "upstream";

/// A value of `--forward`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    zone: Name,
    /// Empty for the usual servers.
    servers: Vec<ServerAddress>,
}

impl Forward {
    pub(super) fn zone(&self) -> &Name {
        &self.zone
    }
}

/// The zones of all values, and their groups of servers.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    pub(crate) routes: Routes,
    /// The servers of each group after the default one, in the order of the groups' numbers.
    pub(crate) groups: Vec<Vec<ServerAddress>>,
}

/// `ZONE=IP[:PORT][,IP[:PORT]…]` or `ZONE=upstream`.
pub(super) fn parse_forward(text: &str) -> Result<Forward, String> {
    const FORMS: &str = "is not ZONE=IP[:PORT][,IP[:PORT]...] or ZONE=upstream (examples: \
                         corp.example=10.0.0.2, 10.in-addr.arpa=10.0.0.2:5353,10.0.0.3)";
    let (zone, servers) = text.split_once('=').ok_or(FORMS)?;
    if zone == "." {
        return Err("the servers for all other names are set by --upstream".to_owned());
    }
    let of_names = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
    let name = Some(zone).filter(|text| text.bytes().all(of_names)).and_then(Name::from_text);
    let zone = name.ok_or_else(|| format!("`{}` is not a DNS name", zone.escape_debug()))?;
    if servers == USUAL {
        return Ok(Forward { zone, servers: Vec::new() });
    }
    let parse = |server: &str| {
        parse_upstream(server).map_err(|problem| format!("`{}` {problem}", server.escape_debug()))
    };
    Ok(Forward { zone, servers: servers.split(',').map(parse).collect::<Result<_, _>>()? })
}

impl Zones {
    /// `domain` is our own. `is_ours` tells our own listeners.
    ///
    /// # Errors
    ///
    /// When a zone is ours, appears twice, or would be asked of ourselves.
    pub(super) fn of(
        forwards: &[Forward],
        domain: &Name,
        is_ours: impl Fn(SocketAddr) -> bool,
    ) -> Result<Zones, Failure> {
        let mut zones: Vec<(Name, usize)> = Vec::new();
        let mut groups = Vec::new();
        for Forward { zone, servers } in forwards {
            let invalid =
                |what: String| Failure::Configuration(format!("--forward {zone}: {what}"));
            if zone.labels_below(domain).is_some() {
                return Err(invalid(format!("names in {domain} are answered here")));
            }
            if zones.iter().any(|(other, _)| other == zone) {
                return Err(invalid("the zone appears twice: give all its servers at once".into()));
            }
            if let Some(server) = servers.iter().find(|server| is_ours(server.socket)) {
                return Err(invalid(format!("this process listens on {server} itself")));
            }
            if servers.is_empty() {
                zones.push((zone.clone(), DEFAULT_GROUP));
                continue;
            }
            groups.push(servers.clone());
            zones.push((zone.clone(), groups.len()));
        }
        Ok(Zones { routes: Routes::new(zones), groups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_flag() {
        let check = |text: &str, expected: Result<(&str, &str), &str>| {
            let parsed = parse_forward(text).map(|Forward { zone, servers }| {
                let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
                (zone.to_string(), servers.join(" "))
            });
            match (parsed, expected) {
                (Ok(parsed), Ok((zone, servers))) => {
                    assert_eq!(parsed, (zone.to_owned(), servers.to_owned()), "{text}");
                }
                (Err(message), Err(part)) => assert!(message.contains(part), "{text}: {message}"),
                (parsed, _) => panic!("{text}: {parsed:?}"),
            }
        };
        check("Corp.=10.0.0.2", Ok(("corp", "10.0.0.2:53")));
        check("a.b=10.0.0.2:5353,[fd00::2]:53", Ok(("a.b", "10.0.0.2:5353 [fd00::2]:53")));
        check("onion=upstream", Ok(("onion", "")));
        check("corp", Err("is not ZONE=IP"));
        check("=10.0.0.2", Err("`` is not a DNS name"));
        check("a b=10.0.0.2", Err("`a b` is not a DNS name"));
        check(".=10.0.0.2", Err("--upstream"));
        check("corp=", Err("`` is not an IP address"));
        check("corp=10.0.0.2,x", Err("`x` is not an IP address"));
    }

    #[test]
    fn zones_that_cannot_be_forwarded() {
        let domain = Name::from_text("cluster.local").unwrap();
        let check = |flags: &[&str], expected: Result<usize, &str>| {
            let forwards: Vec<_> = flags.iter().map(|flag| parse_forward(flag).unwrap()).collect();
            let ours = "127.0.0.1:53".parse().unwrap();
            match (Zones::of(&forwards, &domain, |server| server == ours), expected) {
                (Ok(zones), Ok(groups)) => assert_eq!(zones.groups.len(), groups, "{flags:?}"),
                (Err(error), Err(part)) => {
                    assert!(error.to_string().contains(part), "{flags:?}: {error}");
                }
                (zones, _) => panic!("{flags:?}: {zones:?}"),
            }
        };
        check(&[], Ok(0));
        check(&["corp=10.0.0.2", "a.corp=10.0.0.3", "test=upstream"], Ok(2));
        check(&["local=10.0.0.2"], Ok(1));
        check(&["corp=10.0.0.2", "CORP=10.0.0.3"], Err("--forward corp: the zone appears twice"));
        check(&["cluster.local=10.0.0.2"], Err("are answered here"));
        check(&["svc.cluster.local=10.0.0.2"], Err("are answered here"));
        check(&["corp=127.0.0.1"], Err("listens on 127.0.0.1:53 itself"));
    }
}
