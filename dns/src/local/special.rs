//! Names that must not be asked of upstreams: they would only leak what this network looks for, and
//! load servers that cannot know the answer (RFC 6761, RFC 7686, RFC 6303, RFC 9462).
//!
//! Each can be forwarded all the same with `--forward`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::forward::routes::Routes;
use crate::wire::reply::{Reply, Section};
use crate::wire::{Name, Rcode, Type};
use crate::zone::{Reverse, Zone};

use super::asked::Asked;
use super::hosts::Hosts;

/// How long the absence of names that never change may be cached, in seconds (RFC 6303 section 3).
const FIXED_TTL: u32 = 10_800;

/// `localhost.` in wire form.
const LOCALHOST: &[u8] = b"\x09localhost\x00";

/// A zone for each network of RFC 6303 section 4, RFC 7793 section 3 (shared addresses): its
/// address, the bits of one zone, and the bits of the network, which may consist of several zones.
const PRIVATE_V4: [(Ipv4Addr, u8, u8); 11] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8, 8),
    (Ipv4Addr::new(172, 16, 0, 0), 16, 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16, 16),
    (Ipv4Addr::new(0, 0, 0, 0), 8, 8),
    (Ipv4Addr::new(127, 0, 0, 0), 8, 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16, 16),
    (Ipv4Addr::new(192, 0, 2, 0), 24, 24),
    (Ipv4Addr::new(198, 51, 100, 0), 24, 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24, 24),
    (Ipv4Addr::BROADCAST, 32, 32),
    (Ipv4Addr::new(100, 64, 0, 0), 16, 10),
];

/// The same of IPv6: unique local addresses (only `fd00::/8` is in use), link-local ones, those
/// for documentation, `::` and `::1`.
const PRIVATE_V6: [(Ipv6Addr, u8, u8); 5] = [
    (Ipv6Addr::UNSPECIFIED, 128, 128),
    (Ipv6Addr::LOCALHOST, 128, 128),
    (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 8, 8),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 12, 10),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, 32),
];

/// Addresses with so many bits in common are of one site, as a rule: what serves the name of one
/// serves that of the other.
const SITE_V4_BITS: u8 = 24;
const SITE_V6_BITS: u8 = 64;

/// What a special name is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// `localhost` or below it.
    Loopback,
    /// A domain that has no names.
    Nothing,
    /// A private reverse zone.
    Reverse(Reverse),
}

/// A special name and the zone that it is in.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Special {
    kind: Kind,
    /// The number of labels before those of the zone.
    apex: usize,
}

/// What is known besides special names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) zone: &'a Zone,
    pub(super) hosts: &'a Hosts,
    pub(super) routes: &'a Routes,
    /// The TTL of names that may change, in seconds.
    pub(super) ttl: u32,
}

/// Answers a question about a special name.
pub(super) fn answer(known: &Known<'_>, asked: &Asked<'_>, reply: &mut Reply<'_>) -> Option<Rcode> {
    let special = Special::of(asked.name)?;
    let zone_labels = asked.name.labels() - special.apex;
    if known.routes.zone_labels(asked.name).is_some_and(|labels| labels >= zone_labels) {
        return None;
    }
    match special.kind {
        Kind::Loopback => Some(loopback(asked, special.apex, reply)),
        Kind::Nothing => {
            asked.soa(special.apex, Section::Authority, FIXED_TTL, reply);
            Some(Rcode::NXDOMAIN)
        }
        Kind::Reverse(reverse) => private(known, asked, special.apex, reverse, reply),
    }
}

impl Special {
    fn of(name: &Name) -> Option<Special> {
        let last = name.labels().checked_sub(1)?;
        let kind = match name.label(last) {
            b"localhost" => Kind::Loopback,
            b"invalid" | b"onion" | b"test" => Kind::Nothing,
            b"arpa" => return in_arpa(name),
            _ => return None,
        };
        Some(Special { kind, apex: last })
    }
}

fn in_arpa(name: &Name) -> Option<Special> {
    let second = name.labels().checked_sub(2)?;
    if name.label(second) == b"resolver" {
        // An upstream's own encrypted address is useless to our clients: it would fail their
        // check, or lead them past this server (RFC 9462 section 6.4).
        return Some(Special { kind: Kind::Nothing, apex: second });
    }
    let reverse = Reverse::parse(name)?;
    let bits = zone_bits(&reverse.net).filter(|bits| *bits <= reverse.net.prefix_len())?;
    Some(Special { kind: Kind::Reverse(reverse), apex: reverse.labels_below(bits) })
}

/// The bits of the private zone that this network is in.
fn zone_bits(net: &IpNet) -> Option<u8> {
    let within = |network: Result<IpNet, _>| network.is_ok_and(|network| network.contains(net));
    match net {
        IpNet::V4(_) => PRIVATE_V4.iter().find_map(|(ip, zone, bits)| {
            within(Ipv4Net::new(*ip, *bits).map(IpNet::V4)).then_some(*zone)
        }),
        IpNet::V6(_) => PRIVATE_V6.iter().find_map(|(ip, zone, bits)| {
            within(Ipv6Net::new(*ip, *bits).map(IpNet::V6)).then_some(*zone)
        }),
    }
}

/// RFC 6761 section 6.3: every name in `localhost` is this machine, of whichever client asks.
fn loopback(asked: &Asked<'_>, apex: usize, reply: &mut Reply<'_>) -> Rcode {
    let ips = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let is_answered = asked.addresses(ips.into_iter(), FIXED_TTL, reply);
    if !is_answered && !asked.anything(FIXED_TTL, reply) {
        asked.soa(apex, Section::Authority, FIXED_TTL, reply);
    }
    Rcode::NOERROR
}

/// A name in a private reverse zone: it does not exist, unless somebody beside us may know it.
fn private(
    known: &Known<'_>,
    asked: &Asked<'_>,
    apex: usize,
    reverse: Reverse,
    reply: &mut Reply<'_>,
) -> Option<Rcode> {
    if reverse.address().is_some_and(|ip| ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST) {
        if !asked.names(LOCALHOST, FIXED_TTL, reply) && !asked.anything(FIXED_TTL, reply) {
            asked.soa(apex, Section::Authority, FIXED_TTL, reply);
        }
        return Some(Rcode::NOERROR);
    }
    if is_beside_ours(known.zone, &reverse.net) {
        return None;
    }
    let is_empty_name = reverse.extra == 0
        && (known.zone.has_names_in(&reverse.net)
            || known.hosts.has_address_in(&reverse.net)
            || known.routes.has_zone_below(asked.name));
    if apex > 0 && !is_empty_name {
        // Any address may become ours until all objects are known.
        if !known.zone.is_synced() {
            return Some(Rcode::SERVFAIL);
        }
        asked.soa(apex, Section::Authority, known.ttl, reply);
        return Some(Rcode::NXDOMAIN);
    }
    // RFC 6303 section 3: a zone has an SOA and an NS record, both with its own name.
    if apex == 0 && asked.qtype == Type::SOA {
        asked.soa(apex, Section::Answer, known.ttl, reply);
    } else if apex > 0 || !asked.name_server(known.ttl, reply) {
        asked.soa(apex, Section::Authority, known.ttl, reply);
    }
    Some(Rcode::NOERROR)
}

/// Whether an address of ours is in the same site as these. The site's own server knows their
/// names, and this server may be the only way to it.
fn is_beside_ours(zone: &Zone, net: &IpNet) -> bool {
    let bits = if net.addr().is_ipv4() { SITE_V4_BITS } else { SITE_V6_BITS };
    let is_part = net.prefix_len() >= bits;
    is_part && IpNet::new(net.addr(), bits).is_ok_and(|site| zone.has_address_in(&site.trunc()))
}
