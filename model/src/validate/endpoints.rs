//! EndpointSlice and Endpoints.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::{At, Check, ROOT, accept, format, portable};
use crate::explanation::nearest;
use crate::model::{Address, AddressType, Details, Endpoint, EndpointSlice, SlicePort};
use crate::name::{Kind, ObjectName};
use crate::object;
use crate::record::{EndpointsRecord, Family, Record};

/// The label of an EndpointSlice with the name of its Service.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The API's own limits.
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;

/// An EndpointSlice; `None` without an error when it belongs to no Service.
pub fn slice(object: &object::EndpointSlice<'_>, check: &mut Check<'_>) -> Option<Record> {
    let kind = Kind::EndpointSlice;
    let name = check.name(object.metadata.as_ref(), kind, format::dns_subdomain);
    let address_type = address_type(object, check);
    let ports = object.ports.as_deref().unwrap_or_default();
    let ports = list_of_ports(ports, false, &ROOT.key("ports"), check);
    let at = ROOT.key("endpoints");
    let objects = object.endpoints.as_deref().unwrap_or_default();
    if objects.len() > MAX_ENDPOINTS {
        let count = objects.len();
        check.fatal(at, format!("Too many: {count}: must have at most {MAX_ENDPOINTS} items"));
    }
    // They are most of what a model takes in memory: without spare room.
    let mut endpoints = Vec::with_capacity(objects.len());
    for (i, object) in objects.iter().enumerate() {
        let valid = |check: &mut Check<'_>| endpoint(object, address_type, &at.index(i), check);
        endpoints.extend(check.entry(valid).flatten());
    }
    check.needs_entries(!endpoints.is_empty(), !objects.is_empty());
    let labels = object.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let Some(service) = labels.and_then(|map| map.value(SERVICE_LABEL)).filter(|s| !s.is_empty())
    else {
        let keys = labels.iter().flat_map(|map| &map.0).map(|(key, _)| &**key);
        let valid = keys.filter(|key| format::qualified_name(key).is_ok());
        let help = match nearest(SERVICE_LABEL, valid) {
            Some(key) if key != SERVICE_LABEL => {
                format!("write {SERVICE_LABEL} instead of {key}")
            }
            _ => "add the label with the Service's name".to_owned(),
        };
        check.warn(
            ROOT.key("metadata"),
            format!("the slice has no label {SERVICE_LABEL}, so it belongs to no Service"),
            &help,
        );
        return None;
    };
    // Most Services have one slice, so nothing can be shared.
    let service = service.into();
    let slice = EndpointSlice { name, service, address_type, ports, endpoints };
    accept(check, || Record::EndpointSlice(Arc::new(slice)))
}

fn address_type(object: &object::EndpointSlice<'_>, check: &mut Check<'_>) -> AddressType {
    let at = ROOT.key("addressType");
    match object.address_type.as_deref() {
        Some("IPv4") => AddressType::Ipv4,
        Some("IPv6") => AddressType::Ipv6,
        Some("FQDN") => AddressType::Fqdn,
        None | Some("") => {
            check.required(at, "");
            AddressType::Ipv4
        }
        Some(other) => {
            check.unsupported(at, other, &["FQDN", "IPv4", "IPv6"]);
            AddressType::Ipv4
        }
    }
}

/// The ports of a slice, or of a subset of Endpoints, whose rules are stricter.
fn list_of_ports(
    objects: &[object::EndpointPort<'_>],
    of_subset: bool,
    list: &At<'_>,
    check: &mut Check<'_>,
) -> Vec<SlicePort> {
    let mut ports: Vec<SlicePort> = Vec::with_capacity(objects.len());
    let mut names = HashSet::new();
    for (i, object) in objects.iter().enumerate() {
        let at = list.index(i);
        let port = check.entry(|check| {
            // The API accepts any number; one bad port must not affect the other ports of the
            // slice.
            let number = object.port.map(|port| u16::try_from(port).ok().and_then(NonZeroU16::new));
            if number == Some(None) && !check.of_api {
                let help = "the other ports of the slice are served";
                check.warn(at.key("port"), "must be between 1 and 65535: it is not served", help);
                return None;
            }
            let name = object.name.as_deref().unwrap_or_default();
            if !names.insert(name) {
                check.duplicate(at.key("name"), name);
            }
            if of_subset && object.port.is_none() {
                check.port(at.key("port"), 0);
            }
            if of_subset && name.is_empty() && objects.len() > 1 {
                check.required(at.key("name"), "");
            }
            Some(slice_port(object, &at, check))
        });
        ports.extend(port.flatten());
    }
    check.needs_entries(!ports.is_empty(), !objects.is_empty());
    ports
}

fn slice_port(object: &object::EndpointPort<'_>, at: &At<'_>, check: &mut Check<'_>) -> SlicePort {
    let name = object.name.as_deref().unwrap_or_default();
    if !name.is_empty() {
        check.expect(at.key("name"), name, format::dns_label);
    }
    let app_protocol = check.entry(|check| {
        if let Some(app_protocol) = object.app_protocol.as_deref() {
            check.expect(at.key("appProtocol"), app_protocol, format::qualified_name);
        }
        check.optional(object.app_protocol.as_ref())
    });
    SlicePort {
        name: check.text(name),
        protocol: check.protocol(*at, object.protocol.as_ref()),
        port: object.port.and_then(|port| check.port(at.key("port"), port)),
        app_protocol: app_protocol.flatten(),
    }
}

fn endpoint(
    object: &object::Endpoint<'_>,
    address_type: AddressType,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> Option<Endpoint> {
    let list = at.key("addresses");
    let texts = object.addresses.as_deref().unwrap_or_default();
    if texts.is_empty() {
        check.required(list, "must contain at least 1 address");
    } else if texts.len() > MAX_ADDRESSES {
        let count = texts.len();
        check.error(list, format!("Too many: {count}: must have at most {MAX_ADDRESSES} items"));
    }
    let mut addresses = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let at = list.index(i);
        addresses.extend(check.entry(|check| address(text, address_type, at, check)).flatten());
    }
    if addresses.is_empty() {
        return None;
    }
    let conditions = object.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    portable::endpoint(object, at, check);
    let hostname = check.entry(|check| {
        if let Some(hostname) = object.hostname.as_deref() {
            check.expect(at.key("hostname"), hostname, format::dns_label);
        }
        check.optional(object.hostname.as_ref())
    });
    let hints = object.hints.clone().unwrap_or_default();
    let mut names = |list: Option<object::List<object::Named<'_>>>| {
        let list = list.unwrap_or_default();
        list.iter().filter_map(|hint| check.optional(hint.name.as_ref())).collect()
    };
    let (for_zones, for_nodes) = (names(hints.for_zones), names(hints.for_nodes));
    let details = Details {
        hostname: hostname.flatten(),
        node_name: check.optional(object.node_name.as_ref()),
        zone: check.optional(object.zone.as_ref()),
        for_zones,
        for_nodes,
        ..Details::default()
    };
    let mut endpoint = Endpoint::ready_with(addresses, details);
    endpoint.ready = ready;
    endpoint.serving = conditions.serving.unwrap_or(ready);
    endpoint.terminating = conditions.terminating.unwrap_or(false);
    check.share(&mut endpoint);
    Some(endpoint)
}

fn address(
    text: &str,
    address_type: AddressType,
    at: At<'_>,
    check: &mut Check<'_>,
) -> Option<Address> {
    let family = match address_type {
        AddressType::Fqdn => return host(text, at, check),
        AddressType::Ipv4 => Family::V4,
        AddressType::Ipv6 => Family::V6,
    };
    let before = check.complaints.len();
    let Some(ip) = check.ip(at, text) else {
        check.advise(before, &instead(text));
        return None;
    };
    if Family::of(ip) != family {
        let family = if family == Family::V4 { "an IPv4" } else { "an IPv6" };
        let before = check.complaints.len();
        check.invalid(at, text, format!("must be {family} address"));
        // The API reports this for the whole list.
        check.complaints.iter_mut().skip(before).for_each(|complaint| complaint.unsaid = 1);
        return None;
    }
    portable::address(text, ip, at, check);
    endpoint_ip(ip, at, check)
}

/// What to write instead of a text that is not an IP address.
fn instead(text: &str) -> String {
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        let (ip, port) = (address.ip(), address.port());
        return format!("write the address alone ({ip}); the port belongs under ports: {port}");
    }
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && !host.contains(':') => {
            format!(
                "write the name alone ({host}) with addressType: FQDN, and port {port} under ports"
            )
        }
        _ => "to name a host, use addressType: FQDN".to_owned(),
    }
}

/// One label is enough here: the name of a container.
fn host(text: &str, at: At<'_>, check: &mut Check<'_>) -> Option<Address> {
    let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if lower.parse::<IpAddr>().is_ok() {
        check.invalid(at, text, "must be a DNS name, not an IP address");
        return None;
    }
    let valid = check.expect(at, &lower, format::dns_subdomain);
    valid.then(|| Address::Host(check.text(&lower)))
}

/// The API's rules for an endpoint's address, except that loopback is accepted: endpoints of a
/// folder may run on this very machine.
fn endpoint_ip(ip: IpAddr, at: At<'_>, check: &mut Check<'_>) -> Option<Address> {
    let text = ip.to_string();
    let (link_local, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.is_multicast()),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.is_multicast()),
    };
    let why = if ip.is_unspecified() {
        "may not be unspecified (0.0.0.0 or ::)"
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    } else if multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    } else {
        if ip.is_loopback() && !std::mem::replace(&mut check.loopback, true) {
            check.note(
                at,
                format!("{text} is a loopback address: not portable"),
                "a Kubernetes API refuses it; it works for a folder on the same machine only",
            );
        }
        return Some(Address::Ip(ip));
    };
    check.invalid(at, text, why);
    None
}

/// Endpoints: each subset becomes a slice for each family of its addresses.
pub fn endpoints(object: &object::Endpoints<'_>, check: &mut Check<'_>) -> Option<Record> {
    let name = check.name(object.metadata.as_ref(), Kind::Endpoints, format::dns_subdomain);
    let mut slices = Vec::new();
    let list = ROOT.key("subsets");
    for (i, subset) in object.subsets.iter().flatten().enumerate() {
        slices.extend(subset_slices(subset, i, &name, &list.index(i), check));
    }
    let record = Arc::new(EndpointsRecord { name, slices });
    accept(check, || Record::Endpoints(record))
}

fn subset_slices(
    subset: &object::EndpointSubset<'_>,
    number: usize,
    name: &ObjectName,
    at: &At<'_>,
    check: &mut Check<'_>,
) -> Vec<Arc<EndpointSlice>> {
    let ports = subset.ports.as_deref().unwrap_or_default();
    let ports = list_of_ports(ports, true, &at.key("ports"), check);
    let mut families: BTreeMap<Family, Vec<Endpoint>> = BTreeMap::new();
    let lists = [
        ("addresses", &subset.addresses, true),
        ("notReadyAddresses", &subset.not_ready_addresses, false),
    ];
    for (field, addresses, ready) in lists {
        let list = at.key(field);
        for (i, object) in addresses.iter().flatten().enumerate() {
            let at = list.index(i);
            let text = object.ip.as_deref().unwrap_or_default();
            let ip = check.entry(|check| {
                let ip = check.ip(at.key("ip"), text)?;
                endpoint_ip(ip, at.key("ip"), check).map(|_| ip)
            });
            let Some(ip) = ip.flatten() else { continue };
            let details = Details {
                hostname: check.optional(object.hostname.as_ref()),
                node_name: check.optional(object.node_name.as_ref()),
                ..Details::default()
            };
            let mut endpoint = Endpoint::ready_with(vec![Address::Ip(ip)], details);
            (endpoint.ready, endpoint.serving) = (ready, ready);
            check.share(&mut endpoint);
            families.entry(Family::of(ip)).or_default().push(endpoint);
        }
    }
    let slices = families.into_iter().map(|(family, endpoints)| {
        let (label, address_type) = match family {
            Family::V4 => ("ipv4", AddressType::Ipv4),
            Family::V6 => ("ipv6", AddressType::Ipv6),
        };
        let slice_name = format!("{}.endpoints.{label}.{number}", name.name);
        Arc::new(EndpointSlice {
            name: ObjectName { namespace: name.namespace.clone(), name: slice_name.into() },
            service: name.name.clone(),
            address_type,
            ports: ports.clone(),
            endpoints,
        })
    });
    slices.collect()
}
