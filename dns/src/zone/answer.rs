//! The records that answer a question about a name that was found.

use std::net::IpAddr;

use crate::wire::reply::{Reply, Section, pointer};
use crate::wire::{Name, QUESTION_AT, Query, Rcode, Type};

use super::names::{Found, Node, Zone, ZoneAt};
use super::service::{A_LEN, AAAA_LEN, Endpoint, Label, Port, Service, ServiceKind, Srv};
use super::soa::{HOSTMASTER, NAME_SERVER, numbers, soa_ttl};

/// The version of the Kubernetes DNS specification that the names follow.
const SCHEMA_VERSION: &[u8] = b"\x051.1.0";
/// The TTL in the specification's example; the version changes only with the binary.
const SCHEMA_VERSION_TTL: u32 = 28_800;
/// RFC 8482 section 4.2: the answer to ANY, instead of all records, which would amplify attacks.
pub(crate) const ANY_ANSWER: &[u8] = b"\x07RFC8482\x00";
/// The longest chain of ExternalName Services that is followed.
const MAX_CHAIN: usize = 10;

/// The zone's answer to a question.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The reply contains the answer, except for this code.
    Complete(Rcode),
    /// The name is in none of our zones.
    Outside,
    /// The reply contains aliases, the last of which leads to a name outside our zones, which
    /// begins at this offset of the reply.
    Alias(Box<Name>, u16),
}

/// The name that is being answered, its zone, and where it is in the reply.
struct Owner<'n> {
    name: &'n Name,
    zone: ZoneAt,
    place: &'n Place,
}

/// Where a name is in the reply.
#[derive(Clone, Debug)]
enum Place {
    /// It begins at this offset and is not compressed.
    Whole(u16),
    /// The offset of each of its labels. The last ones are those of another name.
    Labels(Vec<u16>),
}

impl Owner<'_> {
    /// The offset of the name's label `index`.
    fn at(&self, index: usize) -> u16 {
        match self.place {
            Place::Whole(at) => at + self.name.start(index) as u16,
            Place::Labels(offsets) => offsets[index],
        }
    }

    /// A pointer to the name, beginning with its label `index`.
    fn pointer(&self, index: usize) -> [u8; 2] {
        pointer(usize::from(self.at(index)))
    }

    /// How many labels at the end of another name are the same as here.
    fn shares(&self, other: &Name) -> usize {
        let count = self.name.labels().min(other.labels());
        let is_same = |back: &usize| {
            self.name.label(self.name.labels() - back) == other.label(other.labels() - back)
        };
        (1..=count).take_while(is_same).count()
    }

    fn name_pointer(&self) -> [u8; 2] {
        self.pointer(0)
    }

    fn zone_pointer(&self) -> [u8; 2] {
        self.pointer(self.zone.labels_below)
    }
}

impl Zone {
    /// Answers a question of class IN. `turn` is where the addresses of a set begin.
    #[inline]
    pub(crate) fn answer(&self, query: &Query, reply: &mut Reply<'_>, turn: usize) -> Answer {
        let found = self.find(&query.name).or_else(|| self.find_single_label(&query.name));
        let Some(found) = found else {
            if self.may_become_ours(&query.name) {
                return Answer::Complete(Rcode::SERVFAIL);
            }
            return Answer::Outside;
        };
        let follows = query.qtype != Type::CNAME && query.qtype != Type::ANY;
        if let Node::Service(Service { kind: ServiceKind::External(_), .. }) = found.node
            && follows
        {
            let name = query.name.clone();
            return self.follow(name, QUESTION_AT, Some(found), query.qtype, reply, turn);
        }
        let place = &Place::Whole(QUESTION_AT);
        let owner = Owner { name: &query.name, zone: found.zone, place };
        Answer::Complete(self.answer_at(&owner, &found.node, query.qtype, reply, turn))
    }

    /// Answers for a name that is in the reply already, uncompressed, at the offset `at`, and that
    /// was `found`. Follows aliases as long as they lead to names in our zones.
    pub(crate) fn follow<'z>(
        &'z self,
        mut name: Name,
        at: u16,
        mut found: Option<Found<'z>>,
        qtype: Type,
        reply: &mut Reply<'_>,
        turn: usize,
    ) -> Answer {
        let mut place = Place::Whole(at);
        let mut passed: Vec<*const Service> = Vec::with_capacity(MAX_CHAIN);
        loop {
            let Some(Found { zone, node }) = found else {
                if self.may_become_ours(&name) {
                    return Answer::Complete(Rcode::SERVFAIL);
                }
                let at = match place {
                    Place::Whole(at) => at,
                    // Targets outside our zones are not compressed.
                    Place::Labels(offsets) => offsets.first().copied().unwrap_or(QUESTION_AT),
                };
                return Answer::Alias(Box::new(name), at);
            };
            let owner = Owner { name: &name, zone, place: &place };
            let Node::Service(service @ Service { kind: ServiceKind::External(target), .. }) = node
            else {
                return Answer::Complete(self.answer_at(&owner, &node, qtype, reply, turn));
            };
            if passed.len() == MAX_CHAIN {
                return Answer::Complete(Rcode::SERVFAIL);
            }
            if passed.contains(&std::ptr::from_ref(service)) {
                return Answer::Complete(Rcode::NOERROR);
            }
            let Some((target, next)) = self.alias(&owner, target, reply) else {
                return Answer::Complete(Rcode::NOERROR);
            };
            passed.push(service);
            (name, place) = (target, next);
            found = self.find(&name);
        }
    }

    /// Appends a CNAME record. Its target, which is in wire form, and where it is; `None` if it
    /// does not fit.
    fn alias(
        &self,
        owner: &Owner<'_>,
        target: &[u8],
        reply: &mut Reply<'_>,
    ) -> Option<(Name, Place)> {
        let mut name = Name::root();
        name.read(target, 0).expect("a Service is compiled only if its target is a name");
        // What follows outside our zones points into the whole name.
        let shared = if self.find(&name).is_some() { owner.shares(&name) } else { 0 };
        let (own, theirs) = (name.labels() - shared, owner.name.labels() - shared);
        let end = if shared > 0 { &owner.pointer(theirs)[..] } else { &[0] };
        let rdata = [name.between(0, own), end];
        let (ttl, alias) = (self.settings.ttl, [&owner.name_pointer()[..]]);
        if !reply.record(Section::Answer, &alias, Type::CNAME, ttl, &rdata) {
            return None;
        }
        let begun = (reply.at() - rdata[0].len() - end.len()) as u16;
        let mine = (0..own).map(|index| begun + name.start(index) as u16);
        let offsets = mine.chain((0..shared).map(|index| owner.at(theirs + index))).collect();
        Some((name, Place::Labels(offsets)))
    }

    #[inline]
    fn answer_at(
        &self,
        owner: &Owner<'_>,
        node: &Node<'_>,
        qtype: Type,
        reply: &mut Reply<'_>,
        turn: usize,
    ) -> Rcode {
        match (node, qtype) {
            (Node::Absent, _) if !self.synced => return Rcode::SERVFAIL,
            (Node::Absent, _) => {
                self.soa(owner, Section::Authority, reply);
                return Rcode::NXDOMAIN;
            }
            (Node::Service(service), Type::A) if !service.v4.is_empty() => {
                reply.addresses(&service.v4, A_LEN, turn, owner.at(0));
            }
            (Node::Service(service), Type::AAAA) if !service.v6.is_empty() => {
                reply.addresses(&service.v6, AAAA_LEN, turn, owner.at(0));
            }
            (Node::Empty, _) => self.soa(owner, Section::Authority, reply),
            (_, Type::ANY) => self.any(owner, node, reply),
            _ => {
                let before = reply.count(Section::Answer);
                self.other(owner, node, qtype, reply);
                if reply.count(Section::Answer) == before && !reply.is_truncated() {
                    self.soa(owner, Section::Authority, reply);
                }
            }
        }
        Rcode::NOERROR
    }

    /// The less frequent questions. Adds no answer if there is none of that type.
    fn other(&self, owner: &Owner<'_>, node: &Node<'_>, qtype: Type, reply: &mut Reply<'_>) {
        let ttl = self.settings.ttl;
        match (node, qtype) {
            (Node::Apex, Type::SOA) => self.soa(owner, Section::Answer, reply),
            (Node::Apex, Type::NS) => self.name_servers(owner, reply),
            // An address outside of the networks that are ours is the apex of its own zone.
            (Node::Address(_), Type::SOA) if owner.zone.labels_below == 0 => {
                self.soa(owner, Section::Answer, reply);
            }
            (Node::Address(_), Type::NS) if owner.zone.labels_below == 0 => {
                self.name_servers(owner, reply);
            }
            (Node::NameServer, Type::A | Type::AAAA) => {
                for ip in &self.settings.name_server_ips {
                    address(reply, Section::Answer, &[&owner.name_pointer()], *ip, qtype, ttl);
                }
            }
            (Node::SchemaVersion, Type::TXT) => {
                let owner = owner.name_pointer();
                let (rtype, ttl) = (Type::TXT, SCHEMA_VERSION_TTL);
                reply.record(Section::Answer, &[&owner], rtype, ttl, &[SCHEMA_VERSION]);
            }
            (Node::Service(Service { kind: ServiceKind::External(target), .. }), Type::CNAME) => {
                self.alias(owner, target, reply);
            }
            (Node::Service(service), Type::SRV) => self.srv(owner, service, &|_| true, reply),
            (Node::Port(service, protocol), Type::SRV) => {
                let name = &owner.name.label(0)[1..];
                self.srv(owner, service, &|port| port.is(*protocol, name), reply);
            }
            (Node::Endpoints(endpoints), Type::A | Type::AAAA) => {
                for Endpoint { ip, .. } in *endpoints {
                    address(reply, Section::Answer, &[&owner.name_pointer()], *ip, qtype, ttl);
                }
            }
            (Node::Pod(ip), Type::A | Type::AAAA) => {
                address(reply, Section::Answer, &[&owner.name_pointer()], *ip, qtype, ttl);
            }
            (Node::Address(ip), Type::PTR) => self.pointers(owner, *ip, reply),
            _ => {}
        }
    }

    fn any(&self, owner: &Owner<'_>, node: &Node<'_>, reply: &mut Reply<'_>) {
        match node {
            Node::Service(Service { kind: ServiceKind::External(target), .. }) => {
                self.alias(owner, target, reply);
            }
            _ => {
                let (owner, ttl) = (owner.name_pointer(), self.settings.ttl);
                reply.record(Section::Answer, &[&owner], Type::HINFO, ttl, &[ANY_ANSWER]);
            }
        }
    }

    #[inline]
    fn soa(&self, owner: &Owner<'_>, section: Section, reply: &mut Reply<'_>) {
        let zone = owner.zone_pointer();
        if owner.zone.is_domain {
            reply.whole(section, &self.soa.record(zone));
            return;
        }
        let domain = self.settings.domain.wire();
        let numbers = numbers(self.serial, self.settings.ttl);
        let ttl = soa_ttl(self.settings.ttl);
        let rdata = [NAME_SERVER, domain, HOSTMASTER, domain, &numbers];
        reply.record(section, &[&zone], Type::SOA, ttl, &rdata);
    }

    /// NS of an apex, and the addresses of that server.
    fn name_servers(&self, owner: &Owner<'_>, reply: &mut Reply<'_>) {
        let ttl = self.settings.ttl;
        let domain = self.settings.domain.wire();
        if !reply.record(
            Section::Answer,
            &[&owner.name_pointer()],
            Type::NS,
            ttl,
            &[NAME_SERVER, domain],
        ) {
            return;
        }
        let owner = pointer(reply.at() - NAME_SERVER.len() - domain.len());
        for ip in &self.settings.name_server_ips {
            address(reply, Section::Additional, &[&owner], *ip, type_of(*ip), ttl);
        }
    }

    /// PTR: the Service with that ClusterIP, or else a name for each Service with that endpoint.
    fn pointers(&self, owner: &Owner<'_>, ip: IpAddr, reply: &mut Reply<'_>) {
        let (owner, ttl) = (owner.name_pointer(), self.settings.ttl);
        let mut put = |service: &Service, label: Option<&Label>| {
            let length = label.map(|label| [label.len() as u8]);
            let target: [&[u8]; 4] = [
                length.as_ref().map_or(&[], |length| &length[..]),
                label.map_or(&[], |label| label),
                &service.key,
                &self.settings.svc_suffix,
            ];
            reply.record(Section::Answer, &[&owner], Type::PTR, ttl, &target)
        };
        let mut claimants = self.claimants(ip);
        if let Some(service) = claimants.find(|service| service.cluster_ips.contains(&ip)) {
            put(service, None);
            return;
        }
        for service in self.claimants(ip) {
            let Some(endpoint) = service.endpoint_at(ip) else { continue };
            if !put(service, Some(&endpoint.label)) {
                break;
            }
        }
    }

    /// SRV records of the ports that `wanted` selects. Each pair of target and port number appears
    /// once. A weight is a share of all addresses that serve the ports, duplicates included.
    fn srv(
        &self,
        owner: &Owner<'_>,
        service: &Service,
        wanted: &dyn Fn(&Port) -> bool,
        reply: &mut Reply<'_>,
    ) {
        let total: u32 = service.ports.iter().filter(|p| wanted(p)).map(|p| p.addresses).sum();
        let weight = (100 / total.max(1)).max(1) as u16;
        // The Service's own name: this name without the labels of port and protocol, unless it is
        // a single label.
        let in_question = owner.zone.labels_below.checked_sub(3).map(|at| owner.pointer(at));
        let service_name: [&[u8]; 2] = match &in_question {
            Some(pointer) => [pointer, &[]],
            None => [&service.key, &self.settings.svc_suffix],
        };
        match service.kind {
            ServiceKind::Cluster => {
                self.cluster_srv(owner, service, service_name, wanted, weight, reply);
            }
            ServiceKind::Headless => {
                self.headless_srv(owner, service, service_name, wanted, weight, reply);
            }
            ServiceKind::External(_) => {}
        }
    }

    fn cluster_srv(
        &self,
        owner: &Owner<'_>,
        service: &Service,
        service_name: [&[u8]; 2],
        wanted: &dyn Fn(&Port) -> bool,
        weight: u16,
        reply: &mut Reply<'_>,
    ) {
        let ttl = self.settings.ttl;
        let suffix = &self.settings.svc_suffix;
        let is_wanted = |port: &&Port| wanted(port);
        for (at, port) in service.ports.iter().enumerate().filter(|(_, port)| wanted(port)) {
            let earlier = service.ports[..at].iter().filter(is_wanted);
            if earlier.into_iter().any(|other| other.number == port.number) {
                continue;
            }
            let numbers = srv_numbers(weight, port.number);
            let rdata: [&[u8]; 3] = [&numbers, &service.key, suffix];
            if !reply.record(Section::Answer, &[&owner.name_pointer()], Type::SRV, ttl, &rdata) {
                return;
            }
        }
        for ip in &service.cluster_ips {
            address(reply, Section::Additional, &service_name, *ip, type_of(*ip), ttl);
        }
    }

    fn headless_srv(
        &self,
        owner: &Owner<'_>,
        service: &Service,
        service_name: [&[u8]; 2],
        wanted: &dyn Fn(&Port) -> bool,
        weight: u16,
        reply: &mut Reply<'_>,
    ) {
        let ttl = self.settings.ttl;
        let suffix = &self.settings.svc_suffix;
        let label_of = |srv: &Srv| &service.endpoints[srv.endpoint as usize].label;
        let chosen = || service.srvs.iter().filter(|srv| wanted(&service.ports[srv.port as usize]));
        let mut last = None;
        for srv in chosen() {
            if last.replace((srv.endpoint, srv.number)) == Some((srv.endpoint, srv.number)) {
                continue;
            }
            let label = label_of(srv);
            let numbers = srv_numbers(weight, srv.number);
            let length = [label.len() as u8];
            let rdata: [&[u8]; 5] = [&numbers, &length, label, &service.key, suffix];
            if !reply.record(Section::Answer, &[&owner.name_pointer()], Type::SRV, ttl, &rdata) {
                return;
            }
        }
        let mut last = None;
        for srv in chosen() {
            if last.replace(srv.endpoint) == Some(srv.endpoint) {
                continue;
            }
            let label = label_of(srv);
            let length = [label.len() as u8];
            for Endpoint { ip, .. } in service.endpoints_named(label) {
                let owner: [&[u8]; 4] = [&length, label, service_name[0], service_name[1]];
                if !address(reply, Section::Additional, &owner, *ip, type_of(*ip), ttl) {
                    return;
                }
            }
        }
    }
}

/// Priority 0, a weight and a port.
fn srv_numbers(weight: u16, port: u16) -> [u8; 6] {
    let [w0, w1] = weight.to_be_bytes();
    let [p0, p1] = port.to_be_bytes();
    [0, 0, w0, w1, p0, p1]
}

fn type_of(ip: IpAddr) -> Type {
    if ip.is_ipv4() { Type::A } else { Type::AAAA }
}

/// Appends an address if it has the requested type. False if it does not fit.
fn address(
    reply: &mut Reply<'_>,
    section: Section,
    owner: &[&[u8]],
    ip: IpAddr,
    qtype: Type,
    ttl: u32,
) -> bool {
    match ip {
        IpAddr::V4(ip) if qtype == Type::A => {
            reply.record(section, owner, qtype, ttl, &[&ip.octets()])
        }
        IpAddr::V6(ip) if qtype == Type::AAAA => {
            reply.record(section, owner, qtype, ttl, &[&ip.octets()])
        }
        _ => true,
    }
}
