//! An EndpointSlice, validated.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Protocol;
use crate::name::ObjectName;

/// A `discovery.k8s.io/v1` EndpointSlice that belongs to a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    pub name: ObjectName,
    /// Label `kubernetes.io/service-name`; a slice without it never reaches the model.
    pub service: Arc<str>,
    pub address_type: AddressType,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<Endpoint>,
}

impl EndpointSlice {
    /// The Service that it belongs to, in its own namespace.
    pub fn service_name(&self) -> ObjectName {
        ObjectName { namespace: self.name.namespace.clone(), name: self.service.clone() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressType {
    Ipv4,
    Ipv6,
    Fqdn,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Matches [`super::ServicePort::name`]; empty for an unnamed port.
    pub name: Arc<str>,
    pub protocol: Protocol,
    /// Absent means every port (a slice for documentation only): such a port serves nothing.
    pub port: Option<NonZeroU16>,
    pub app_protocol: Option<Arc<str>>,
}

/// One endpoint of a slice, on every port of the slice.
///
/// A large cluster has a hundred thousand of them, so one takes only 32 bytes: its first address,
/// its conditions, and a reference to details that it mostly shares with others.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// `None` for an endpoint whose first address is a host name.
    ip: Option<IpAddr>,
    /// `conditions.ready`; absent means true.
    pub ready: bool,
    /// `conditions.serving`; absent means the same as `ready`.
    pub serving: bool,
    pub terminating: bool,
    /// `None` when it is empty.
    details: Option<Arc<Details>>,
}

/// What an endpoint may have in addition to an address and conditions. Equal details are mostly
/// shared, for example by all endpoints of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Details {
    pub hostname: Option<Arc<str>>,
    pub node_name: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    /// `hints.forZones[].name`.
    pub for_zones: SmallVec<[Arc<str>; 1]>,
    /// `hints.forNodes[].name`.
    pub for_nodes: SmallVec<[Arc<str>; 1]>,
    /// The addresses that are not [`Endpoint::ip`], in their order.
    pub other_addresses: Vec<Address>,
}

static NO_DETAILS: Details = Details {
    hostname: None,
    node_name: None,
    zone: None,
    for_zones: SmallVec::new_const(),
    for_nodes: SmallVec::new_const(),
    other_addresses: Vec::new(),
};

impl Endpoint {
    /// A ready endpoint at that address with nothing else set.
    pub fn ready_at(ip: IpAddr) -> Endpoint {
        let ip = Some(ip);
        Endpoint { ip, ready: true, serving: true, terminating: false, details: None }
    }

    /// A ready endpoint with these addresses; data paths use the first, as kube-proxy does.
    pub fn ready_with(mut addresses: Vec<Address>, details: Details) -> Endpoint {
        let ip = match addresses.first() {
            Some(Address::Ip(ip)) => Some(*ip),
            _ => None,
        };
        if ip.is_some() {
            addresses.remove(0);
        }
        let details = Details { other_addresses: addresses, ..details };
        let details = (details != NO_DETAILS).then(|| Arc::new(details));
        Endpoint { ip, ready: true, serving: true, terminating: false, details }
    }

    /// The first address, if it is an IP.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// All addresses, in their order.
    pub fn addresses(&self) -> impl Iterator<Item = Address> + '_ {
        self.ip.map(Address::Ip).into_iter().chain(self.details().other_addresses.iter().cloned())
    }

    pub fn details(&self) -> &Details {
        self.details.as_deref().unwrap_or(&NO_DETAILS)
    }

    /// Changes the details of this endpoint alone.
    pub fn details_mut(&mut self) -> &mut Details {
        Arc::make_mut(self.details.get_or_insert_default())
    }

    /// Shares the details with other endpoints that have equal ones.
    pub fn share(&mut self, shared: impl FnOnce(Arc<Details>) -> Arc<Details>) {
        self.details = self.details.take().map(shared);
    }

    /// The first address, if it is a host name.
    pub fn host(&self) -> Option<&Arc<str>> {
        match self.details().other_addresses.first() {
            Some(Address::Host(host)) if self.ip.is_none() => Some(host),
            _ => None,
        }
    }

    /// The same endpoint with only that address.
    pub fn at(&self, ip: IpAddr) -> Endpoint {
        let details = Details { other_addresses: Vec::new(), ..self.details().clone() };
        let details = (details != NO_DETAILS).then(|| Arc::new(details));
        Endpoint { ip: Some(ip), details, ..self.clone() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Ip(IpAddr),
    /// A lower-case host name, of a slice with [`AddressType::Fqdn`].
    Host(Arc<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_takes_32_bytes_and_keeps_its_addresses_in_order() {
        assert_eq!(size_of::<Endpoint>(), 32);
        let ip = |text: &str| Address::Ip(text.parse().unwrap());
        let table = [
            vec![ip("10.0.0.1")],
            vec![ip("10.0.0.1"), ip("10.0.0.2")],
            vec![Address::Host("db".into())],
            vec![Address::Host("db".into()), Address::Host("db-2".into())],
            vec![],
        ];
        for addresses in table {
            let endpoint = Endpoint::ready_with(addresses.clone(), Details::default());
            assert_eq!(endpoint.addresses().collect::<Vec<_>>(), addresses);
        }
    }

    #[test]
    fn nothing_in_the_details_takes_nothing() {
        let at = Endpoint::ready_at("10.0.0.1".parse().unwrap());
        let with = Endpoint::ready_with(at.addresses().collect(), Details::default());
        assert_eq!(at, with);
        assert!(with.details.is_none());
    }
}
