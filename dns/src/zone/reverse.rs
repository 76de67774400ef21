//! Names under `in-addr.arpa` and `ip6.arpa`: the part of an address that they spell, and the zone
//! that they are in.
//!
//! An address of a Service or an endpoint is a zone of its own. The addresses around it may belong
//! to other machines (a ClusterIP may be an address of a host network), so their names are ours
//! only if `--reverse-cidr` says so. Such a zone consists of whole labels: its prefix is rounded up
//! to a multiple of eight bits (IPv4) or four (IPv6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::wire::Name;

/// A name below `in-addr.arpa` or `ip6.arpa`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reverse {
    /// The addresses that begin with what the name spells: one if the name is complete.
    pub(crate) net: IpNet,
    /// The number of labels before those that belong to `net`.
    pub(crate) extra: usize,
}

impl Reverse {
    #[inline]
    pub(crate) fn parse(name: &Name) -> Option<Reverse> {
        let labels = name.labels().checked_sub(2)?;
        if name.label(labels + 1) != b"arpa" {
            return None;
        }
        match name.label(labels) {
            b"in-addr" => Some(parse_v4(name, labels)),
            b"ip6" => Some(parse_v6(name, labels)),
            _ => None,
        }
    }

    /// Whether it is the name of an address, or below one.
    pub(crate) fn is_complete(&self) -> bool {
        self.net.prefix_len() == self.net.max_prefix_len()
    }

    /// The address, if the name spells a complete one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        (self.extra == 0 && self.is_complete()).then_some(self.net.addr())
    }

    /// The number of labels before those of the zone with that many bits.
    pub(crate) fn labels_below(&self, zone_bits: u8) -> usize {
        self.extra + usize::from((self.net.prefix_len() - zone_bits) / step(&self.net))
    }
}

/// The number of bits of one label.
fn step(net: &IpNet) -> u8 {
    if net.addr().is_ipv4() { 8 } else { 4 }
}

fn parse_v4(name: &Name, labels: usize) -> Reverse {
    let mut octets = [0; 4];
    let mut known = 0;
    while known < 4.min(labels) {
        let Some(octet) = decimal(name.label(labels - 1 - known)) else { break };
        octets[known] = octet;
        known += 1;
    }
    let net = IpNet::new(Ipv4Addr::from(octets).into(), 8 * known as u8)
        .expect("at most four octets of eight bits");
    Reverse { net, extra: labels - known }
}

fn parse_v6(name: &Name, labels: usize) -> Reverse {
    let mut bits = 0u128;
    let mut known = 0;
    while known < 32.min(labels) {
        let &[digit] = name.label(labels - 1 - known) else { break };
        let Some(nibble) = char::from(digit).to_digit(16) else { break };
        bits |= u128::from(nibble) << (124 - 4 * known);
        known += 1;
    }
    let net = IpNet::new(Ipv6Addr::from(bits).into(), 4 * known as u8)
        .expect("at most 32 nibbles of four bits");
    Reverse { net, extra: labels - known }
}

/// An octet without leading zeros: each address has one name.
fn decimal(label: &[u8]) -> Option<u8> {
    let canonical = label.len() <= 3 && (label.len() == 1 || label.first() != Some(&b'0'));
    let digits = label.iter().all(u8::is_ascii_digit);
    (canonical && digits).then(|| std::str::from_utf8(label).ok()?.parse().ok()).flatten()
}

/// The networks whose reverse zones are ours as a whole (`--reverse-cidr`).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Owned(pub(crate) Vec<IpNet>);

impl Owned {
    /// The number of bits of our zone that contains all of `net`.
    pub(crate) fn zone_bits(&self, net: &IpNet) -> Option<u8> {
        let of_network = |network: &IpNet| {
            let bits = network.prefix_len().next_multiple_of(step(network));
            network.contains(&cut(net, bits)?).then_some(bits)
        };
        self.0.iter().filter_map(of_network).max()
    }
}

/// The network of that many bits around `net`, unless `net` is larger.
fn cut(net: &IpNet, bits: u8) -> Option<IpNet> {
    let fits = bits <= net.prefix_len();
    fits.then(|| IpNet::new(net.addr(), bits).ok()).flatten().map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_spell_addresses() {
        let check = |name: &str, expected: Option<(&str, usize)>| {
            let parsed = Reverse::parse(&Name::from_text(name).unwrap());
            let parsed = parsed.map(|r| (r.net.to_string(), r.extra));
            assert_eq!(parsed, expected.map(|(net, extra)| (net.to_owned(), extra)), "{name}");
        };
        check("1.0.0.10.in-addr.arpa", Some(("10.0.0.1/32", 0)));
        check("0.0.10.IN-ADDR.arpa", Some(("10.0.0.0/24", 0)));
        check("in-addr.arpa", Some(("0.0.0.0/0", 0)));
        check("x.1.0.0.10.in-addr.arpa", Some(("10.0.0.1/32", 1)));
        check("1.x.0.10.in-addr.arpa", Some(("10.0.0.0/16", 2)));
        check("01.0.0.10.in-addr.arpa", Some(("10.0.0.0/24", 1)));
        check("256.0.0.10.in-addr.arpa", Some(("10.0.0.0/24", 1)));
        check("+1.0.0.10.in-addr.arpa", Some(("10.0.0.0/24", 1)));
        check("a.1.d.f.ip6.arpa", Some(("fd1a::/16", 0)));
        check("aa.1.d.f.ip6.arpa", Some(("fd10::/12", 1)));
        let whole = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.4.3.2.1.ip6.arpa";
        check(whole, Some(("1234:abcd::1/128", 0)));
        check("arpa", None);
        check("in-addr.example", None);
        check("e164.arpa", None);
    }

    #[test]
    fn zones_are_whole_labels() {
        let check = |networks: &[&str], net: &str, expected: Option<u8>| {
            let owned = Owned(networks.iter().map(|n| n.parse().unwrap()).collect());
            let net: IpNet = net.parse().unwrap();
            assert_eq!(owned.zone_bits(&net), expected, "{networks:?} {net}");
        };
        check(&["10.0.0.0/24"], "10.0.0.9/32", Some(24));
        check(&["10.0.0.0/24"], "10.0.1.9/32", None);
        check(&["10.0.0.0/24"], "10.0.0.0/16", None);
        check(&["10.96.0.0/12"], "10.96.0.0/16", Some(16));
        check(&["10.96.0.0/12"], "10.111.5.0/24", Some(16));
        check(&["10.96.0.0/12"], "10.112.0.0/16", None);
        check(&["10.0.0.0/8", "10.96.0.0/12"], "10.96.0.1/32", Some(16));
        check(&["0.0.0.0/0"], "8.8.8.8/32", Some(0));
        check(&["fd00::/108"], "fd00::1/128", Some(108));
        check(&["fd00::/107"], "fd00::1/128", Some(108));
        check(&["fd00::/108"], "10.0.0.1/32", None);
        check(&[], "10.0.0.1/32", None);
    }
}
