//! The addresses of this host's interfaces, as the kernel lists them.
//!
//! Netlink → [`HostNetwork`]. Left out: what follows from them, and any change to them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::{Error, Handle, RouteMessageBuilder};

/// Addresses far away (RFC 5737, RFC 3849): the way to them is the way out of this network.
const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HostNetwork {
    pub(crate) addresses: Vec<InterfaceAddress>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InterfaceAddress {
    pub(crate) interface: String,
    pub(crate) ip: IpAddr,
    /// The network that the address connects this host to.
    pub(crate) network: IpNet,
    /// The interface is a bridge, and not the way out of this network.
    pub(crate) is_inner_bridge: bool,
}

#[derive(Debug, Default)]
struct Interface {
    name: String,
    is_bridge: bool,
}

/// Whether this host has no IPv6, by its boot options or by its settings. Not so where `lo` is
/// only down.
pub(crate) fn ipv6_is_disabled() -> bool {
    match std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6") {
        Ok(text) => text.trim() == "1",
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

impl HostNetwork {
    /// # Errors
    ///
    /// When the kernel does not list its interfaces.
    pub(crate) async fn read(handle: &Handle) -> Result<HostNetwork, Error> {
        let interfaces = interfaces(handle).await?;
        let ways_out =
            [way_to(handle, OUTSIDE_V4.into()).await, way_to(handle, OUTSIDE_V6.into()).await];
        let mut addresses = Vec::new();
        let mut listed = handle.address().get().execute();
        while let Some(message) = listed.try_next().await? {
            let index = message.header.index;
            let (mut local, mut prefix) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Local(ip) => local = Some(*ip),
                    AddressAttribute::Address(ip) => prefix = Some(*ip),
                    _ => {}
                }
            }
            // On a point-to-point interface `Address` is the peer's.
            let (Some(ip), Some(prefix)) = (local.or(prefix), prefix.or(local)) else { continue };
            let Ok(network) = IpNet::new(prefix, message.header.prefix_len) else { continue };
            let Some(interface) = interfaces.get(&index) else { continue };
            addresses.push(InterfaceAddress {
                interface: interface.name.clone(),
                ip,
                network: network.trunc(),
                is_inner_bridge: interface.is_bridge && !ways_out.contains(&Some(index)),
            });
        }
        Ok(HostNetwork { addresses })
    }
}

async fn interfaces(handle: &Handle) -> Result<BTreeMap<u32, Interface>, Error> {
    let mut interfaces = BTreeMap::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        let mut interface = Interface::default();
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name.clone_from(name),
                LinkAttribute::LinkInfo(infos) => {
                    interface.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
                }
                _ => {}
            }
        }
        interfaces.insert(link.header.index, interface);
    }
    Ok(interfaces)
}

/// The index of the interface that the kernel would use to reach an address.
async fn way_to(handle: &Handle, ip: IpAddr) -> Option<u32> {
    let length = if ip.is_ipv4() { 32 } else { 128 };
    let wanted = RouteMessageBuilder::<IpAddr>::new().destination_prefix(ip, length).ok()?.build();
    // An error means that there is no way, or no such address family.
    let route: RouteMessage = handle.route().get(wanted).execute().try_next().await.ok()??;
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}
