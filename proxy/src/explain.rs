//! Why an address is answered as it is: by the snapshot that listeners are opened from.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use feed::Update;
use model::{
    Explanation, ObjectName, Protocol, ServiceEntry, ServiceType, TargetPort, Trouble,
    fix_of_slices,
};

use ipnet::IpNet;

use crate::resolver::{Family, Frontend, FrontendAddress, FrontendKind, Node, Place, Scope, Why};
use crate::snapshot::{Snapshot, range_without_owner};

/// Explains addresses by what a proxy on a node would serve of a model.
#[derive(Debug)]
pub struct Explainer<'a> {
    update: &'a Update,
    snapshot: Snapshot,
    /// `--node-ip`.
    listens: Vec<IpAddr>,
    /// `--service-cidr`.
    service_cidrs: &'a [IpNet],
}

impl<'a> Explainer<'a> {
    /// `service_cidrs`: the proxy's `--service-cidr`.
    pub fn new(update: &'a Update, node: &Node, service_cidrs: &'a [IpNet]) -> Explainer<'a> {
        let listens = node.ips.clone();
        let node = node.with_objects(&update.model);
        let services = &update.changes.services;
        let (snapshot, _) =
            Snapshot::default().next(&update.model, services, &node, update.generation);
        Explainer { update, snapshot, listens, service_cidrs }
    }

    /// The explanation of a connection, or of a datagram, to an address.
    pub fn explain(&self, address: SocketAddr, protocol: Protocol) -> Explanation {
        let target = format!("{address}/{protocol}");
        let Some(port) = NonZeroU16::new(address.port()) else {
            let cause = "port 0 is not a valid port";
            return Explanation::of_trouble(&target, "none", cause, "use a port from 1 to 65535");
        };
        let ip = address.ip().to_canonical();
        let Explainer { update, snapshot, listens, service_cidrs } = self;
        let asked = Asked { update, snapshot, service_cidrs, target, ip, port, protocol };
        if let Some(frontend) = asked.at(Place::Ip(ip), protocol) {
            return asked.found(frontend);
        }
        match asked.at(Place::Node(Family::of(ip)), protocol) {
            Some(frontend) if is_of_node(listens, ip) => asked.found(frontend),
            Some(frontend) => asked.elsewhere(frontend, listens),
            None => asked.nothing(),
        }
    }
}

/// Whether NodePorts are served at an address, as far as `--node-ip` says.
fn is_of_node(listens: &[IpAddr], ip: IpAddr) -> bool {
    let own = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let adds_loopback = !listens.iter().any(IpAddr::is_loopback);
    listens.is_empty() || listens.contains(&ip) || (adds_loopback && own.contains(&ip))
}

/// A Service that has something like what was asked for, cause and fix.
type Near = (ObjectName, String, String);

struct Asked<'a> {
    update: &'a Update,
    snapshot: &'a Snapshot,
    service_cidrs: &'a [IpNet],
    target: String,
    ip: IpAddr,
    port: NonZeroU16,
    protocol: Protocol,
}

impl Asked<'_> {
    fn at(&self, place: Place, protocol: Protocol) -> Option<&Arc<Frontend>> {
        self.snapshot.frontend(&FrontendAddress { place, port: self.port, protocol })
    }

    fn found(&self, frontend: &Frontend) -> Explanation {
        let service = &frontend.service;
        let port = match &*frontend.port_name {
            "" => format!("its port {}", self.port),
            name => format!("its port {name}"),
        };
        let mut because = vec![format!("{} of Service {service}, {port}", frontend.kind.as_str())];
        if frontend.kind == FrontendKind::NodePort {
            because.push(format!("if {} is an address of the node", self.ip));
        }
        because.push(choice_text(frontend.scope, frontend.why));
        if let Some(choice) = &frontend.in_cluster {
            let endpoints: Vec<_> = choice.endpoints.iter().map(|addr| addr.to_string()).collect();
            because.push(format!(
                "these endpoints are for clients outside the cluster; Pods and this node use {}: \
                 {}",
                choice_text(choice.scope, choice.why),
                endpoints.join(", ")
            ));
        }
        if let Some(time) = frontend.affinity {
            because.push(format!("a client keeps its endpoint until it is idle for {time:?}"));
        }
        if let Some(sources) = &frontend.sources {
            let ranges: Vec<_> = sources.iter().map(ToString::to_string).collect();
            because.push(format!("only clients from {} may connect", ranges.join(", ")));
        }
        let crowded = self.snapshot.crowded_out().filter(|f| f.address == frontend.address);
        let lost = crowded.map(|other| {
            let (service, address) = (&other.service, &other.address);
            format!("Service {service} has {address} too: the first by namespace and name gets it")
        });
        let unreachable = self.unreachable(frontend);
        let all = frontend.all_endpoints();
        let is_served = all.iter().any(|endpoint| !unreachable.contains(endpoint));
        let endpoints = match &frontend.in_cluster {
            Some(choice) if frontend.endpoints.is_empty() => &choice.endpoints,
            _ => &frontend.endpoints,
        };
        Explanation {
            target: self.target.clone(),
            answer: if is_served { "forwarded" } else { "refused" }.to_owned(),
            to: Some(format!("Service {service}, {port}")),
            endpoints: endpoints.iter().map(|addr| addr.to_string()).collect(),
            because,
            lost: lost.collect(),
            trouble: match unreachable.first() {
                Some(endpoint) => Some(self.in_range(frontend, *endpoint)),
                None => (!is_served).then(|| self.no_endpoint(frontend)),
            },
            service: Some(service.clone()),
        }
    }

    /// Endpoints that the host's service range makes its own, so that nothing answers there.
    fn unreachable(&self, frontend: &Frontend) -> Vec<SocketAddr> {
        let protocol = frontend.address.protocol;
        let all = frontend.all_endpoints().into_iter();
        all.filter(|endpoint| {
            let endpoint = (protocol, *endpoint);
            range_without_owner(self.snapshot, endpoint, self.service_cidrs).is_some()
        })
        .collect()
    }

    fn in_range(&self, frontend: &Frontend, endpoint: SocketAddr) -> Trouble {
        let cause = format!(
            "endpoint {endpoint} of Service {} is inside --service-cidr, which makes its address \
             the node's own: connections to it are refused",
            frontend.service
        );
        let fix = "use a service range without endpoints, or another endpoint".to_owned();
        Trouble { cause, fix }
    }

    /// A NodePort that is served, but not at that address.
    fn elsewhere(&self, frontend: &Frontend, listens: &[IpAddr]) -> Explanation {
        let ips: Vec<_> = listens.iter().map(ToString::to_string).collect();
        let (ips, service) = (ips.join(", "), &frontend.service);
        let cause = format!("NodePort {} of Service {service} is served on {ips} only", self.port);
        let fix = format!("connect to one of these, or add --node-ip {}", self.ip);
        let elsewhere = Explanation::of_trouble(&self.target, "not served", cause, fix);
        Explanation { service: Some(service.clone()), ..elsewhere }
    }

    fn no_endpoint(&self, frontend: &Frontend) -> Trouble {
        let service = &frontend.service;
        let entry = self.update.model.service(service);
        let fix = match frontend.why {
            Why::NoneReady => {
                "make an endpoint ready, or set spec.publishNotReadyAddresses".to_owned()
            }
            Why::NoneLocal => {
                "use traffic policy Cluster, or set --node-name to the nodeName of its \
                 endpoints"
                    .into()
            }
            _ => {
                let (name, protocol) = (&frontend.port_name, frontend.address.protocol);
                let family = " of this address family";
                let fix = |entry: &ServiceEntry| fix_of_slices(entry, name, protocol, family);
                entry.as_ref().map_or_else(String::new, fix)
            }
        };
        Trouble { cause: format!("Service {service}: {}", frontend.why.as_str()), fix }
    }

    /// Nobody has the address: what comes nearest to it.
    fn nothing(&self) -> Explanation {
        let near = self
            .other_protocol()
            .or_else(|| self.other_port())
            .or_else(|| self.is_endpoint())
            .or_else(|| self.skipped());
        let (service, cause, fix) = match near {
            Some((service, cause, fix)) => (Some(service), cause, fix),
            None => {
                let (cause, fix) = self.unknown();
                (None, cause, fix)
            }
        };
        // Another process may listen there, of which nothing is known here.
        let nothing = Explanation::of_trouble(&self.target, "not served", cause, fix);
        Explanation { service, ..nothing }
    }

    fn other_protocol(&self) -> Option<Near> {
        let other = match self.protocol {
            Protocol::Tcp => Protocol::Udp,
            _ => Protocol::Tcp,
        };
        let frontend = self.at(Place::Ip(self.ip), other)?;
        let cause = format!("Service {} has this port over {other} only", frontend.service);
        let fix = format!("use {other}, or add a port with protocol: {}", self.protocol);
        Some((frontend.service.clone(), cause, fix))
    }

    fn other_port(&self) -> Option<Near> {
        let mut services = self.update.model.services();
        let entry = services.find(|entry| has_address(entry, self.ip))?;
        let service = &*entry.service;
        let ports: Vec<_> = service.ports.iter().map(|p| p.port.to_string()).collect();
        let is_target = |target: &TargetPort| match target {
            TargetPort::Number(number) => *number == self.port,
            TargetPort::Name(_) => false,
        };
        let cause = match service.ports.iter().find(|port| is_target(&port.target_port)) {
            Some(port) => format!(
                "{} is the target port of Service {}; clients connect to port {}",
                self.port, service.name, port.port
            ),
            None => format!("Service {} has no port {}", service.name, self.port),
        };
        let fix = format!("use a port that it has: {}", ports.join(", "));
        Some((service.name.clone(), cause, fix))
    }

    fn is_endpoint(&self) -> Option<Near> {
        let at = |entry: &ServiceEntry| {
            let mut endpoints = entry.slices.iter().flat_map(|slice| slice.endpoints.iter());
            endpoints.any(|endpoint| endpoint.ip() == Some(self.ip))
        };
        let entries: Vec<_> = self.update.model.services().filter(at).collect();
        // One that balances says more than a headless one.
        let balanced = entries.iter().find(|entry| !entry.service.cluster_ips.is_empty());
        let entry = balanced.or(entries.first())?;
        let name = &entry.service.name;
        let cause = format!(
            "{} is an endpoint of Service {name}: connections to it do not pass through the proxy",
            self.ip
        );
        let fix = match entry.service.cluster_ips.first() {
            Some(ip) => format!("connect to the Service at {ip} for load balancing"),
            None => "connect to it directly".to_owned(),
        };
        Some((name.clone(), cause, fix))
    }

    fn skipped(&self) -> Option<Near> {
        let (name, skipped) = self.snapshot.skipped().find(|(_, part)| part.port == self.port)?;
        let cause = format!("Service {name} has port {}: {}", self.port, skipped.reason);
        Some((name.clone(), cause, "give the port another protocol or number".to_owned()))
    }

    fn unknown(&self) -> (String, String) {
        let node_ports = self.update.model.services().flat_map(|entry| {
            let ports = entry.service.ports.iter().filter_map(|port| port.node_port);
            ports.collect::<Vec<_>>()
        });
        let node_ports: BTreeSet<_> = node_ports.collect();
        let node_ports: Vec<_> = node_ports.iter().take(8).map(ToString::to_string).collect();
        let cause = format!("no Service has {}, and none has NodePort {}", self.ip, self.port);
        let fix = match node_ports.is_empty() {
            true => "write a Service with that clusterIP, or of type NodePort".to_owned(),
            false => {
                format!("use a ClusterIP or an existing NodePort: {}", node_ports.join(", "))
            }
        };
        (cause, fix)
    }
}

fn choice_text(scope: Scope, why: Why) -> String {
    match scope {
        Scope::Cluster => why.as_str().to_owned(),
        scope => format!("{} ({})", why.as_str(), scope.as_str()),
    }
}

/// Whether the Service is dialled at that IP.
fn has_address(entry: &ServiceEntry, ip: IpAddr) -> bool {
    let service = &entry.service;
    !matches!(service.service_type, ServiceType::ExternalName(_))
        && (service.cluster_ips.contains(&ip)
            || service.external_ips.contains(&ip)
            || service.load_balancer_ips.contains(&ip))
}
