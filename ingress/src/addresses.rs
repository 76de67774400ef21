//! Sets of addresses, as annotations list them.
//!
//! Pure. A look-up takes a time that is logarithmic in the number of networks.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// A set of addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AddressSet {
    /// Ranges that neither meet nor overlap, in order.
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl AddressSet {
    /// Reads a list of addresses and networks, separated by commas.
    pub(crate) fn parse(list: &str) -> Result<AddressSet, String> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            match network(entry) {
                Some(IpNet::V4(net)) => {
                    v4.push((net.network().to_bits(), net.broadcast().to_bits()));
                }
                Some(IpNet::V6(net)) => {
                    v6.push((net.network().to_bits(), net.broadcast().to_bits()));
                }
                None => return Err(format!("{entry:?} is not an address or network")),
            }
        }
        if v4.is_empty() && v6.is_empty() {
            return Err("the list has no address".to_owned());
        }
        Ok(AddressSet { v4: merged(v4), v6: merged(v6) })
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => is_in(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => is_in(&self.v6, ip.to_bits()),
        }
    }
}

fn network(entry: &str) -> Option<IpNet> {
    let network = entry.parse().ok().or_else(|| entry.parse::<IpAddr>().ok().map(IpNet::from))?;
    // Clients are compared by their IPv4 addresses.
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - 96).ok().map(IpNet::V4),
            None => Some(network),
        },
        _ => Some(network),
    }
}

fn merged<T: Copy + Ord>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged.into()
}

fn is_in<T: Copy + Ord>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after > 0 && address <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_their_networks() {
        let set = AddressSet::parse("18.0.0.0/8, 56.0.0.1,18.1.0.0/16 ,2001:db8::/32,::1").unwrap();
        for inside in
            ["18.0.0.0", "18.255.255.255", "56.0.0.1", "::ffff:56.0.0.1", "::1", "2001:db8::9"]
        {
            assert!(set.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["17.255.255.255", "19.0.0.0", "56.0.0.2", "::2", "2001:db9::"] {
            assert!(!set.contains(outside.parse().unwrap()), "{outside}");
        }
        let mapped = AddressSet::parse("::ffff:1.2.3.4, ::ffff:10.0.0.0/104").unwrap();
        for (ip, is_in) in [("1.2.3.4", true), ("10.9.9.9", true), ("1.2.3.5", false)] {
            assert_eq!(mapped.contains(ip.parse().unwrap()), is_in, "{ip}");
        }
        let all = AddressSet::parse("0.0.0.0/0,::/0").unwrap();
        assert!(
            ["1.2.3.4", "::", "255.255.255.255"].iter().all(|ip| all.contains(ip.parse().unwrap()))
        );
        for bad in ["abc", "", " , ", "10.0.0.0/33", "10.0.0.0/8 11.0.0.0/8"] {
            assert!(AddressSet::parse(bad).is_err(), "{bad:?}");
        }
    }
}
