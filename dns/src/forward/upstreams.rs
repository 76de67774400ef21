//! Which servers to forward to: `--upstream`, or those of the system's resolver, but never
//! ourselves.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Where DNS servers are unless they say otherwise.
const DNS_PORT: u16 = 53;
/// What resolvers read themselves (resolv.conf(5)).
const MAX_NAME_SERVERS: usize = 3;

/// An upstream as flags spell it: `IP` or `IP:PORT`.
///
/// # Errors
///
/// A sentence for the command line when it is neither.
pub(crate) fn parse_upstream(text: &str) -> Result<SocketAddr, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok((ip, DNS_PORT).into());
    }
    text.parse().map_err(|_| "write an IP address, or IP:PORT, or [IP]:PORT".to_owned())
}

/// The servers of the system's resolver; none when it has no such file.
pub(crate) fn of_system(resolv_conf: &Path) -> Vec<SocketAddr> {
    match std::fs::read_to_string(resolv_conf) {
        Ok(text) => name_servers(&text),
        Err(error) => {
            tracing::warn!(file = %resolv_conf.display(), %error, "no upstream from the system");
            Vec::new()
        }
    }
}

/// The `nameserver` lines of a resolv.conf(5).
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A link-local server comes with its interface, which is not for us to be tied to.
        if let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) {
            servers.push((ip, DNS_PORT).into());
        }
    }
    servers.truncate(MAX_NAME_SERVERS);
    servers
}

/// Whether an upstream is one of our own listeners. `is_local` tells of this machine's addresses.
pub(crate) fn is_ourselves(
    upstream: SocketAddr,
    listeners: &[SocketAddr],
    is_local: impl Fn(IpAddr) -> bool,
) -> bool {
    listeners.iter().any(|listener| {
        let everywhere = listener.ip().is_unspecified() && is_local(upstream.ip());
        listener.port() == upstream.port() && (listener.ip() == upstream.ip() || everywhere)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_as_flags() {
        let check = |text: &str, expected: Option<&str>| {
            let parsed = parse_upstream(text).ok().map(|addr| addr.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        };
        check("1.1.1.1", Some("1.1.1.1:53"));
        check("127.0.0.11:5353", Some("127.0.0.11:5353"));
        check("fd00::1", Some("[fd00::1]:53"));
        check("[fd00::1]:5353", Some("[fd00::1]:5353"));
        check("dns.example", None);
        check("1.1.1.1:", None);
    }

    #[test]
    fn resolv_conf() {
        let check = |text: &str, expected: &[&str]| {
            let servers: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
            assert_eq!(servers, expected, "{text}");
        };
        check("", &[]);
        check("nameserver 127.0.0.11\noptions ndots:0\n", &["127.0.0.11:53"]);
        check("# nameserver 1.1.1.1\nsearch a b\n nameserver\t9.9.9.9 # x\n", &["9.9.9.9:53"]);
        check("nameserver fd00::1\nnameserver bogus\nnameserver", &["[fd00::1]:53"]);
        check(&"nameserver 1.1.1.1\n".repeat(9), &["1.1.1.1:53"; 3]);
    }

    #[test]
    fn we_are_not_our_own_upstream() {
        let check = |upstream: &str, listen: &str, expected: bool| {
            let listeners = [listen.parse().unwrap()];
            let ours = is_ourselves(upstream.parse().unwrap(), &listeners, |ip| ip.is_loopback());
            assert_eq!(ours, expected, "{upstream} {listen}");
        };
        check("127.0.0.1:53", "0.0.0.0:53", true);
        check("127.0.0.1:53", "[::]:53", true);
        check("127.0.0.1:53", "127.0.0.1:53", true);
        check("127.0.0.1:53", "127.0.0.1:1053", false);
        check("127.0.0.1:53", "127.0.0.2:53", false);
        check("10.0.0.1:53", "0.0.0.0:53", false);
    }
}
