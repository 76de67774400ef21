//! The slices of Services that have none of their own: from Endpoints of the same name, else
//! from the Pods that the Service's selector picks.
//!
//! Pure. Which Services a change touches is found by indexes over labels, so that 10,000
//! Services and as many Pods in one namespace are joined in time that grows with what changed.
//! Rules: Kubernetes' endpoint slice controller.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::model::{
    Address, AddressType, Details, Endpoint, EndpointSlice, Node, Service, SlicePort, TargetPort,
};
use crate::name::{Kind, ObjectName};
use crate::record::{EndpointsRecord, Family, PodRecord, ServiceRecord};

/// Namespace, label and value.
type Pair = (Arc<str>, Arc<str>, Arc<str>);
type Index = HashMap<Pair, BTreeSet<ObjectName>>;

#[derive(Debug, Default)]
pub(super) struct Derivation {
    /// Services with a selector; for others, the derived slices do not depend on the Service
    /// object.
    services: BTreeMap<ObjectName, Arc<ServiceRecord>>,
    endpoints: BTreeMap<ObjectName, Arc<EndpointsRecord>>,
    pods: BTreeMap<ObjectName, Arc<PodRecord>>,
    nodes: BTreeMap<ObjectName, Arc<Node>>,
    pods_by_label: Index,
    /// Each Service under the first pair of its selector.
    services_by_label: Index,
    /// Services whose derived slices may have changed.
    dirty: BTreeSet<ObjectName>,
}

impl Derivation {
    /// The names of all objects of a kind that are held here.
    pub(super) fn names(&self, kind: Kind) -> BTreeSet<ObjectName> {
        match kind {
            Kind::Endpoints => self.endpoints.keys().cloned().collect(),
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::Pod => self.pods.keys().cloned().collect(),
            Kind::Node => self.nodes.keys().cloned().collect(),
            _ => BTreeSet::new(),
        }
    }

    pub(super) fn put_service(&mut self, record: Arc<ServiceRecord>) {
        let name = record.service.name.clone();
        self.delete_service(&name);
        if let Some(pair) = first_pair(&record) {
            self.services_by_label.entry(pair).or_default().insert(name.clone());
            self.dirty.insert(name.clone());
            self.services.insert(name, record);
        }
    }

    pub(super) fn delete_service(&mut self, name: &ObjectName) {
        self.unindex_service(name);
        if self.services.remove(name).is_some() {
            self.dirty.insert(name.clone());
        }
    }

    pub(super) fn put_endpoints(&mut self, record: Arc<EndpointsRecord>) {
        self.dirty.insert(record.name.clone());
        self.endpoints.insert(record.name.clone(), record);
    }

    pub(super) fn delete_endpoints(&mut self, name: &ObjectName) {
        if self.endpoints.remove(name).is_some() {
            self.dirty.insert(name.clone());
        }
    }

    pub(super) fn put_pod(&mut self, record: Arc<PodRecord>) {
        let name = record.pod.name.clone();
        self.delete_pod(&name);
        self.touch_services_of(&record);
        for pair in pairs_of(&record) {
            self.pods_by_label.entry(pair).or_default().insert(name.clone());
        }
        self.pods.insert(name, record);
    }

    pub(super) fn delete_pod(&mut self, name: &ObjectName) {
        let Some(record) = self.pods.remove(name) else { return };
        self.touch_services_of(&record);
        for pair in pairs_of(&record) {
            remove_from(&mut self.pods_by_label, &pair, name);
        }
    }

    pub(super) fn put_node(&mut self, node: &Arc<Node>) {
        let zone = |node: &Arc<Node>| node.zone.clone();
        let before = self.nodes.insert(node.name.clone(), node.clone());
        if before.as_ref().and_then(zone) != node.zone {
            self.touch_selecting_services();
        }
    }

    pub(super) fn delete_node(&mut self, name: &ObjectName) {
        if self.nodes.remove(name).is_some() {
            self.touch_selecting_services();
        }
    }

    /// An explicit slice of that Service was added or removed.
    pub(super) fn touch_if_derived(&mut self, service: &ObjectName) {
        if self.services.contains_key(service) || self.endpoints.contains_key(service) {
            self.dirty.insert(service.clone());
        }
    }

    /// The derived slices of each Service whose slices may have changed. Services that have slices
    /// of their own have none.
    pub(super) fn refresh(
        &mut self,
        has_own: impl Fn(&ObjectName) -> bool,
    ) -> Vec<(ObjectName, Vec<Arc<EndpointSlice>>)> {
        let dirty = std::mem::take(&mut self.dirty);
        let slices_of = |name: &ObjectName| match has_own(name) {
            true => Vec::new(),
            false => self.slices_of(name),
        };
        dirty.into_iter().map(|name| (name.clone(), slices_of(&name))).collect()
    }

    fn touch_selecting_services(&mut self) {
        self.dirty.extend(self.services.keys().cloned());
    }

    fn touch_services_of(&mut self, pod: &PodRecord) {
        for pair in pairs_of(pod) {
            for service in self.services_by_label.get(&pair).into_iter().flatten() {
                if self.services.get(service).is_some_and(|record| selects(record, pod)) {
                    self.dirty.insert(service.clone());
                }
            }
        }
    }

    fn unindex_service(&mut self, name: &ObjectName) {
        if let Some(pair) = self.services.get(name).and_then(|record| first_pair(record)) {
            remove_from(&mut self.services_by_label, &pair, name);
        }
    }

    fn slices_of(&self, service: &ObjectName) -> Vec<Arc<EndpointSlice>> {
        if let Some(endpoints) = self.endpoints.get(service) {
            return endpoints.slices.clone();
        }
        let Some(record) = self.services.get(service) else { return Vec::new() };
        let Some(pair) = first_pair(record) else { return Vec::new() };
        let candidates = self.pods_by_label.get(&pair).into_iter().flatten();
        let pods = candidates.filter_map(|name| self.pods.get(name));
        let pods = pods.filter(|pod| !pod.finished && selects(record, pod));
        self.slices_from(record, pods)
    }

    /// One slice for each family and each set of ports that Pods resolve differently.
    fn slices_from<'p>(
        &self,
        record: &ServiceRecord,
        pods: impl Iterator<Item = &'p Arc<PodRecord>>,
    ) -> Vec<Arc<EndpointSlice>> {
        let mut groups: Vec<(Family, Vec<SlicePort>, Vec<Endpoint>)> = Vec::new();
        for pod in pods {
            let ports = ports_of(&record.service, pod);
            for family in [Family::V4, Family::V6] {
                let Some(ip) = pod.pod.ips.iter().find(|ip| Family::of(**ip) == family) else {
                    continue;
                };
                if !record.families.is_empty() && !record.families.contains(&family) {
                    continue;
                }
                let endpoint = self.endpoint(record, pod, Address::Ip(*ip));
                let group = groups.iter_mut().find(|(f, p, _)| *f == family && *p == ports);
                match group {
                    Some((_, _, endpoints)) => endpoints.push(endpoint),
                    None => groups.push((family, ports.clone(), vec![endpoint])),
                }
            }
        }
        groups.sort_by_key(|(family, ..)| *family);
        let named = groups.into_iter().enumerate();
        named.map(|(i, group)| slice(&record.service.name, i, group)).collect()
    }

    fn endpoint(&self, record: &ServiceRecord, pod: &PodRecord, address: Address) -> Endpoint {
        let service = &record.service;
        let always = service.publish_not_ready_addresses;
        let in_subdomain = pod.subdomain.as_ref() == Some(&service.name.name);
        let node = pod.node_name.as_ref().map(|name| ObjectName::new("", name));
        let details = Details {
            hostname: pod.hostname.clone().filter(|_| in_subdomain),
            node_name: pod.node_name.clone(),
            zone: node.and_then(|name| self.nodes.get(&name)?.zone.clone()),
            ..Details::default()
        };
        let mut endpoint = Endpoint::ready_with(vec![address], details);
        endpoint.ready = always || (pod.ready && !pod.terminating);
        endpoint.serving = pod.ready;
        endpoint.terminating = pod.terminating;
        endpoint
    }
}

fn slice(
    service: &ObjectName,
    number: usize,
    (family, ports, endpoints): (Family, Vec<SlicePort>, Vec<Endpoint>),
) -> Arc<EndpointSlice> {
    let (label, address_type) = match family {
        Family::V4 => ("ipv4", AddressType::Ipv4),
        Family::V6 => ("ipv6", AddressType::Ipv6),
    };
    let name = format!("{}.pods.{label}.{number}", service.name);
    Arc::new(EndpointSlice {
        name: ObjectName { namespace: service.namespace.clone(), name: name.into() },
        service: service.name.clone(),
        address_type,
        ports,
        endpoints,
    })
}

/// The Service's ports on this Pod, without those whose named target port the Pod does not have.
fn ports_of(service: &Service, pod: &PodRecord) -> Vec<SlicePort> {
    let ports = service.ports.iter().filter_map(|port| {
        let number = match &port.target_port {
            TargetPort::Number(number) => *number,
            TargetPort::Name(wanted) => {
                let matches = |(name, protocol, _): &&(Arc<str>, _, _)| {
                    name == wanted && *protocol == port.protocol
                };
                pod.ports.iter().find(matches)?.2
            }
        };
        Some(SlicePort {
            name: port.name.clone(),
            protocol: port.protocol,
            port: Some(number),
            app_protocol: port.app_protocol.clone(),
        })
    });
    ports.collect()
}

fn selects(record: &ServiceRecord, pod: &PodRecord) -> bool {
    let Some(selector) = &record.selector else { return false };
    record.service.name.namespace == pod.pod.name.namespace
        && selector.iter().all(|pair| pod.labels.contains(pair))
}

fn first_pair(record: &ServiceRecord) -> Option<Pair> {
    let (key, value) = record.selector.as_ref()?.first()?;
    Some((record.service.name.namespace.clone(), key.clone(), value.clone()))
}

fn pairs_of(pod: &PodRecord) -> Vec<Pair> {
    let namespace = &pod.pod.name.namespace;
    let pair =
        |(key, value): &(Arc<str>, Arc<str>)| (namespace.clone(), key.clone(), value.clone());
    pod.labels.iter().map(pair).collect()
}

fn remove_from(index: &mut Index, pair: &Pair, name: &ObjectName) {
    if let Some(names) = index.get_mut(pair) {
        names.remove(name);
        if names.is_empty() {
            index.remove(pair);
        }
    }
}
