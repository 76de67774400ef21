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
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// All name the same endpoint; data paths use the first, as kube-proxy does.
    pub addresses: SmallVec<[Address; 1]>,
    /// `conditions.ready`; absent means true.
    pub ready: bool,
    /// `conditions.serving`; absent means the same as `ready`.
    pub serving: bool,
    pub terminating: bool,
    pub hostname: Option<Arc<str>>,
    pub node_name: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    /// `hints.forZones[].name`.
    pub for_zones: SmallVec<[Arc<str>; 1]>,
    /// `hints.forNodes[].name`.
    pub for_nodes: SmallVec<[Arc<str>; 1]>,
}

impl Endpoint {
    /// A ready endpoint at that address with nothing else set.
    pub fn ready_at(ip: IpAddr) -> Endpoint {
        Endpoint {
            addresses: SmallVec::from_buf([Address::Ip(ip)]),
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node_name: None,
            zone: None,
            for_zones: SmallVec::new(),
            for_nodes: SmallVec::new(),
        }
    }

    /// The first address, if it is an IP.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.addresses.first() {
            Some(Address::Ip(ip)) => Some(*ip),
            _ => None,
        }
    }

    /// The first address, if it is a host name.
    pub(crate) fn host(&self) -> Option<&Arc<str>> {
        match self.addresses.first() {
            Some(Address::Host(host)) => Some(host),
            _ => None,
        }
    }

    /// The same endpoint at that address alone.
    pub(crate) fn at(&self, ip: IpAddr) -> Endpoint {
        Endpoint { addresses: SmallVec::from_buf([Address::Ip(ip)]), ..self.clone() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Ip(IpAddr),
    /// A lower-case host name, of a slice with [`AddressType::Fqdn`].
    Host(Arc<str>),
}
