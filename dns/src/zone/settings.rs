//! What the operator decides about the zone.

use std::net::IpAddr;

use crate::wire::Name;
use crate::wire::name::MAX_NAME;

use super::reverse::Owned;
use super::soa::HOSTMASTER;

/// How `<dashed address>.<namespace>.pod.<domain>` is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PodMode {
    /// These names do not exist
    #[default]
    Disabled,
    /// The address in the name is the answer, if the namespace exists
    Insecure,
    /// These names exist for addresses of Pods and endpoints of the namespace
    Verified,
}

/// What the operator decides about the zone.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) domain: Name,
    /// The TTL of all records except the SOA and the schema version, in seconds.
    pub(crate) ttl: u32,
    pub(crate) pods: PodMode,
    pub(crate) owned: Owned,
    /// The addresses of `ns.dns.<domain>`: those of this server.
    pub(crate) name_server_ips: Vec<IpAddr>,
    /// `3 svc` and the domain, in wire form: the labels after a Service's key.
    pub(crate) svc_suffix: Box<[u8]>,
    /// The namespace of the Services that a name of one label stands for, as a label in wire form.
    pub(crate) single_label: Option<Box<[u8]>>,
}

impl Settings {
    /// `None` if the domain is too long for the names that a zone must have.
    pub(crate) fn new(domain: Name, ttl: u32, pods: PodMode, owned: Owned) -> Option<Settings> {
        if domain.wire().len() + HOSTMASTER.len() > MAX_NAME {
            return None;
        }
        let svc_suffix = [b"\x03svc", domain.wire()].concat().into();
        let name_server_ips = Vec::new();
        let single_label = None;
        Some(Settings { domain, ttl, pods, owned, name_server_ips, svc_suffix, single_label })
    }
}
