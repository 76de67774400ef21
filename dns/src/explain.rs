//! Explains why a name is answered as it is, with the zone and the code that answer packets. What
//! happens to a name that is forwarded depends on the cache, so the running responder is asked.

mod forwarded;

use std::fmt;

use feed::Update;
use hickory_proto::op::{Message, Query as Question, ResponseCode};
use hickory_proto::rr::{Name as OtherName, RecordType};
use model::{Explanation, Model, ObjectName, Trouble, nearest};

use crate::cache_report::{CacheReport, UpstreamReport, UpstreamState};
use crate::config::{Config, Servers};
use crate::local::Local;
use crate::record_text;
use crate::respond::{Names, Outcome, Policy, respond};
use crate::wire::reply::Transport;
use crate::wire::{Name, Query};
use crate::zone::{Node, PodMode, Service, ServiceKind, Zone};

use daemon::Failure;

use forwarded::Forwarded;

/// What the running responder said about a name and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It could not be asked; why.
    Nothing(String),
    /// It does not forward the name; in its own words.
    NotForwarded(String),
    Report(CacheReport),
}

/// Asks the running responder about a name and type.
pub type AskProcess<'a> = &'a dyn Fn(&str, &str) -> Said;

/// Explains names by the zone that a responder would build from a model.
pub struct Explainer<'a> {
    zone: Zone,
    model: &'a Model,
    config: &'a Config,
    ask_process: AskProcess<'a>,
}

impl fmt::Debug for Explainer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explainer").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<'a> Explainer<'a> {
    /// `ask_process` is called for names that are forwarded.
    ///
    /// # Errors
    ///
    /// When the configuration is invalid.
    pub fn new(
        update: &'a Update,
        config: &'a Config,
        ask_process: AskProcess<'a>,
    ) -> Result<Explainer<'a>, Failure> {
        let mut zone = Zone::new(config.zone_settings()?);
        zone.apply(&update.model, &update.changes, true);
        Ok(Explainer { zone, model: &update.model, config, ask_process })
    }

    /// The explanation of a name, with or without a final dot.
    pub fn explain(&self, name: &str) -> Explanation {
        let Explainer { zone, model, config, ask_process } = self;
        let absolute = name.trim_end_matches('.');
        let Some(wire) = Name::from_text(absolute).filter(|_| !absolute.is_empty()) else {
            let fix =
                "write labels of 1 to 63 characters with dots between them, at most 253 in total";
            return Explanation::of_trouble(name, "none", "this is not a DNS name", fix);
        };
        let asked = Asked { zone, model, config, target: name, name: absolute };
        let Some(found) = zone.find(&wire) else { return asked.outside(&wire, ask_process) };
        let mut explanation = Explanation { target: name.to_owned(), ..Explanation::default() };
        let (code, data) = asked.answers();
        explanation.answer = code;
        explanation.endpoints = data;
        match found.node {
            Node::Absent => {
                explanation.trouble = Some(asked.absent());
                explanation.service = asked.meant();
            }
            node => asked.describe(&node, &mut explanation),
        }
        explanation
    }
}

struct Asked<'a> {
    zone: &'a Zone,
    model: &'a Model,
    config: &'a Config,
    target: &'a str,
    /// Without a final dot.
    name: &'a str,
}

impl Asked<'_> {
    /// The code and the data of the answers to the usual types of this kind of name.
    fn answers(&self) -> (String, Vec<String>) {
        let mut code = String::new();
        let mut data = Vec::new();
        for record_type in self.usual_types() {
            let Some(reply) = self.ask(*record_type) else { continue };
            code = match reply.metadata.response_code {
                ResponseCode::NoError => "NOERROR".to_owned(),
                ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
                other => format!("{other:?}").to_uppercase(),
            };
            for record in &reply.answers {
                let line = record_text::line(record);
                if !data.contains(&line) {
                    data.push(line);
                }
            }
        }
        (code, data)
    }

    /// The types that this kind of name is asked for.
    fn usual_types(&self) -> &'static [RecordType] {
        match self.name.starts_with('_') {
            true => &[RecordType::SRV],
            false if self.name.to_ascii_lowercase().ends_with(".arpa") => &[RecordType::PTR],
            false => &[RecordType::A, RecordType::AAAA],
        }
    }

    fn ask(&self, record_type: RecordType) -> Option<Message> {
        let mut message = Message::query();
        let labels = self.name.split('.').map(str::as_bytes);
        let mut name = OtherName::from_labels(labels).ok()?;
        name.set_fqdn(true);
        message.add_query(Question::query(name, record_type));
        let packet = message.to_vec().ok()?;
        let mut buf = vec![0; usize::from(u16::MAX)];
        buf[..packet.len()].copy_from_slice(&packet);
        let (policy, mut query) = (Policy::default(), Query::new());
        let transport = Transport::Tcp;
        let names = Names { zone: self.zone, local: &Local::default() };
        match respond(names, policy, &mut query, &mut buf, packet.len(), transport, 0) {
            Outcome::Reply(length, ..) => Message::from_vec(&buf[..length]).ok(),
            _ => None,
        }
    }

    /// Describes a name that exists.
    fn describe(&self, node: &Node<'_>, explanation: &mut Explanation) {
        let because = match node {
            Node::Absent | Node::Empty => {
                "this name has no records: it exists only because names below it do".to_owned()
            }
            Node::Apex => "the apex of a zone of this server".to_owned(),
            Node::NameServer => "the address of this server".to_owned(),
            Node::SchemaVersion => "the version of the DNS specification".to_owned(),
            Node::Service(service) => {
                let name = name_of(service);
                explanation.to = Some(format!("Service {name}"));
                explanation.trouble = self.trouble_of(service, &name);
                explanation.service = Some(name.clone());
                match &service.kind {
                    ServiceKind::Cluster => format!("Service {name} has these ClusterIPs"),
                    ServiceKind::Headless => {
                        format!("Service {name} is headless: its ready endpoints")
                    }
                    ServiceKind::External(_) => format!("Service {name} is of type ExternalName"),
                }
            }
            Node::Port(service, protocol) => {
                let name = name_of(service);
                explanation.to = Some(format!("Service {name}"));
                format!("a {protocol} port of Service {name}")
            }
            Node::Endpoints(_) => "endpoints of a Service by their hostname or address".to_owned(),
            Node::Pod(ip) => format!("the name contains the address {ip} of a Pod"),
            Node::Address(ip) => format!("{ip} is a ClusterIP or an endpoint of a Service"),
        };
        explanation.because.push(because);
    }

    /// A problem of a Service whose name is answered.
    fn trouble_of(&self, service: &Service, name: &ObjectName) -> Option<Trouble> {
        let no_address = service.v4.is_empty() && service.v6.is_empty();
        match service.kind {
            ServiceKind::Cluster if no_address => Some(Trouble {
                cause: format!("Service {name} has no ClusterIP, so its name has no address"),
                fix: "set spec.clusterIP: Switchyard does not allocate one".to_owned(),
            }),
            ServiceKind::Cluster if service.endpoints.is_empty() => Some(Trouble {
                cause: format!(
                    "the ClusterIP of Service {name} refuses connections: no endpoint is ready"
                ),
                fix: "see `switchyard explain CLUSTERIP:PORT`".to_owned(),
            }),
            _ => None,
        }
    }

    /// A name outside our zones.
    fn outside(&self, name: &Name, ask_process: AskProcess<'_>) -> Explanation {
        let domain = &self.config.domain;
        let reply = self.ask(RecordType::A);
        let is_special = |reply: &Message| reply.metadata.response_code != ResponseCode::Refused;
        if reply.as_ref().is_some_and(is_special) {
            let cause = "the name is special or private, so it is answered without asking other \
                         servers";
            let fix = "to have it answered by a server of your network, use --forward of dns";
            return Explanation::of_trouble(self.target, self.answers().0, cause, fix);
        }
        let cause =
            format!("the name is not below {domain}, so it is forwarded to upstream servers");
        let fix = match self.completed() {
            Some(name) => {
                format!("use {name}, which exists: in a Pod, the search path adds the rest")
            }
            None => format!("a Service's name is NAME.NAMESPACE.svc.{domain}"),
        };
        let mut explanation = Explanation::of_trouble(self.target, "forwarded", cause, fix);
        self.forwarded(name, ask_process).describe(&mut explanation);
        explanation
    }

    /// What the responder does with a name that it forwards.
    fn forwarded(&self, name: &Name, ask_process: AskProcess<'_>) -> Forwarded {
        let mut reports = Vec::new();
        for record_type in self.usual_types() {
            match ask_process(&name.to_string(), &record_type.to_string()) {
                Said::Report(report) => reports.push(report),
                Said::NotForwarded(why) => return Forwarded::Not(why),
                Said::Nothing(why) => {
                    let (forward_zone, upstreams) = self.expected_upstreams(name);
                    return Forwarded::Unasked { why, forward_zone, upstreams };
                }
            }
        }
        Forwarded::Asked(reports)
    }

    /// The zone of `--forward` and the upstreams for a name by this command's configuration.
    fn expected_upstreams(&self, name: &Name) -> (Option<String>, Vec<UpstreamReport>) {
        let state = UpstreamState::Unknown;
        let report = |address: String| UpstreamReport { address, state };
        let zones = Name::from_text(&self.config.domain)
            .and_then(|domain| self.config.forward_zones(&domain, &[], |_| false).ok())
            .unwrap_or_default();
        let route = zones.routes.route(name);
        let mut names = zones.routes.zones().map(|(zone, _)| zone.to_string());
        let forward_zone = route.zone.and_then(|number| names.nth(number));
        if let Some(group) = route.group.checked_sub(1) {
            let servers = zones.groups[group].iter();
            return (forward_zone, servers.map(|server| report(server.to_string())).collect());
        }
        let usual: Vec<String> = match self.config.servers(&[], |_| false) {
            Ok(Servers::Fixed(servers)) => servers.iter().map(ToString::to_string).collect(),
            Ok(Servers::Followed(mut file)) => {
                let servers = file.read().unwrap_or_default();
                servers.iter().map(ToString::to_string).collect()
            }
            Err(_) => Vec::new(),
        };
        (forward_zone, usual.into_iter().map(report).collect())
    }

    /// A name that exists and begins with the given name.
    fn completed(&self) -> Option<String> {
        let domain = &self.config.domain;
        let exists = |name: &String| {
            let found = Name::from_text(name).and_then(|name| self.zone.find(&name));
            found.is_some_and(|found| !matches!(found.node, Node::Absent | Node::Empty))
        };
        let given = [format!("{}.svc.{domain}", self.name), format!("{}.{domain}", self.name)];
        let in_namespace = |namespace: &str| format!("{}.{namespace}.svc.{domain}", self.name);
        given.into_iter().find(exists).or_else(|| {
            let entries = self.model.services();
            let mut namespaces: Vec<_> =
                entries.map(|e| e.service.name.namespace.clone()).collect();
            namespaces.dedup();
            // The default namespace first, if it has the name.
            namespaces.sort_by_key(|namespace| &**namespace != "default");
            namespaces.iter().map(|namespace| in_namespace(namespace)).find(exists)
        })
    }

    /// Why a name below our domain does not exist.
    fn absent(&self) -> Trouble {
        let domain = &self.config.domain;
        let trouble = |cause: String, fix: String| Trouble { cause, fix };
        let lower = self.name.to_ascii_lowercase();
        let Some(below) = lower.strip_suffix(&format!(".{}", domain.to_ascii_lowercase())) else {
            let cause = "no Service or endpoint has this address".to_owned();
            return trouble(cause, "only ClusterIPs and endpoints have names".to_owned());
        };
        let labels: Vec<_> = below.split('.').collect();
        let Some(at) = labels.iter().position(|label| *label == "svc") else {
            if labels.last() == Some(&"pod") {
                return self.absent_pod(&labels);
            }
            let fix = match &labels[..] {
                [.., name, namespace] if self.service(name, namespace).is_some() => {
                    format!("use {name}.{namespace}.svc.{domain}")
                }
                _ => format!("a Service's name is NAME.NAMESPACE.svc.{domain}"),
            };
            return trouble("the label svc is missing after the namespace".to_owned(), fix);
        };
        match &labels[..at] {
            [.., name, namespace] => self.absent_service(name, namespace),
            _ => trouble(
                format!("`{below}` is not the name of a Service and a namespace"),
                format!("a Service's name is NAME.NAMESPACE.svc.{domain}"),
            ),
        }
    }

    /// Why a Pod's name does not exist.
    fn absent_pod(&self, labels: &[&str]) -> Trouble {
        let (cause, fix) = match (self.config.pods, labels) {
            (PodMode::Disabled, _) => (
                "names of Pods are not answered, because --pods is disabled".to_owned(),
                "start dns with --pods insecure or --pods verified".to_owned(),
            ),
            (_, [_, namespace, _]) if !self.model.has_namespace(namespace) => (
                format!("namespace {namespace} does not exist"),
                "use the namespace of the Pod".to_owned(),
            ),
            (PodMode::Verified, [address, namespace, _]) => (
                format!("no Pod and no endpoint in namespace {namespace} has address {address}"),
                "check the address, or use --pods insecure, which answers any address".to_owned(),
            ),
            _ => (
                "the name of a Pod begins with its address".to_owned(),
                format!("write it with dashes: 10-1-0-2.NAMESPACE.pod.{}", self.config.domain),
            ),
        };
        Trouble { cause, fix }
    }

    /// The Service in a name below `svc`, whether it exists or not.
    fn meant(&self) -> Option<ObjectName> {
        let lower = self.name.to_ascii_lowercase();
        let domain = self.config.domain.to_ascii_lowercase();
        let below = lower.strip_suffix(&format!(".svc.{domain}"))?;
        let mut labels = below.rsplit('.');
        let namespace = labels.next()?;
        Some(ObjectName::new(namespace, labels.next()?))
    }

    fn absent_service(&self, name: &str, namespace: &str) -> Trouble {
        let domain = &self.config.domain;
        let full = format!("{namespace}/{name}");
        if let Some(entry) = self.service(name, namespace) {
            let ports: Vec<_> = entry.service.ports.iter().map(|p| p.name.to_string()).collect();
            let endpoints = || entry.slices.iter().flat_map(|slice| &slice.endpoints);
            let (count, ready) = (endpoints().count(), endpoints().filter(|e| e.ready).count());
            let any_state = entry.service.publish_not_ready_addresses;
            if self.name.starts_with('_') {
                let cause = format!("Service {full} has no port of that name and protocol");
                return Trouble { cause, fix: format!("its ports: {}", ports.join(", ")) };
            }
            let cause = if entry.service.headless && count == 0 {
                format!("Service {full} is headless and has no endpoint")
            } else if entry.service.headless && ready == 0 && !any_state {
                let endpoints = match count {
                    1 => "its one endpoint is not ready".to_owned(),
                    _ => format!("none of its {count} endpoints is ready"),
                };
                format!("Service {full} is headless, and {endpoints}")
            } else if entry.service.headless {
                let endpoints = match count {
                    1 => "its one endpoint does not have that name".to_owned(),
                    _ => format!("none of its {count} endpoints has that name"),
                };
                format!("Service {full} is headless, and {endpoints}")
            } else {
                format!("Service {full} has no endpoint of that hostname or address")
            };
            let fix =
                "make an endpoint ready, or use the hostname or dashed address of one that is";
            return Trouble { cause, fix: fix.to_owned() };
        }
        let names: Vec<_> = self.model.services().map(|e| e.service.name.clone()).collect();
        if let Some(other) = names.iter().find(|other| &*other.name == name) {
            return Trouble {
                cause: format!("Service {name} is not in namespace {namespace}"),
                fix: format!("it is in {0}: use {name}.{0}.svc.{domain}", other.namespace),
            };
        }
        let there: Vec<_> = names.iter().filter(|other| &*other.namespace == namespace).collect();
        let cause = match there.is_empty() && !self.model.has_namespace(namespace) {
            true => format!("namespace {namespace} does not exist, so Service {name} does not"),
            false => format!("Service {full} does not exist"),
        };
        let fix = match nearest(name, there.iter().map(|other| &*other.name)) {
            Some(like) => format!("did you mean {like}.{namespace}.svc.{domain}?"),
            None => format!("create Service {name} in namespace {namespace}"),
        };
        Trouble { cause, fix }
    }

    fn service(&self, name: &str, namespace: &str) -> Option<model::ServiceEntry> {
        self.model.service(&ObjectName::new(namespace, name))
    }
}

fn name_of(service: &Service) -> ObjectName {
    let text = |label: &[u8]| String::from_utf8_lossy(label).into_owned();
    ObjectName::new(&text(service.namespace_label()), &text(service.name_label()))
}
