//! A document → the objects in it, each validated or with what is wrong with it.
//!
//! Pure. Reads `apiVersion` and `kind` first, then the object into its type; a List is as many
//! objects. Every problem gets its place in the text here, while the tree is at hand. Left out:
//! what the other documents say, which the folder's catalogue knows.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use serde::Deserialize;

use crate::document::{self, Format, Shape};
use crate::model::Protocol;
use crate::name::Kind;
use crate::object;
use crate::problem::{Excerpt, Level, Mark, Problem};
use crate::record::{Record, RecordKey, RecordKind};
use crate::tree::decode::{Fault, Finding, decode};
use crate::tree::{NodeId, Path, Step, SyntaxError, Tree, json, yaml};
use crate::validate::{self, Check, Complaint, Interner};

/// One object of a document, or what is wrong with the document.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Absent when not even the object's name can be told.
    pub key: Option<RecordKey>,
    pub outcome: Outcome,
    pub problems: Vec<Problem>,
    /// Where the object begins.
    pub mark: Mark,
    /// What no other Service may have, and where the object asks for it.
    pub claims: Vec<(Claim, Mark)>,
    /// The whole object as JSON, if it is good and that was asked for.
    pub whole: Option<Arc<str>>,
}

/// Whether what is read keeps the whole object beside the fields that are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    #[default]
    Parts,
    Whole,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Good(Record),
    /// Valid, but nothing here follows from it: another kind, or a slice of no Service.
    Idle,
    Bad,
}

/// What only one Service may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Claim {
    NodePort(NonZeroU16, Protocol),
    ClusterIp(IpAddr),
}

/// Of one object; more would only hide the first ones.
const MAX_PROBLEMS: usize = 20;

/// Reads the objects of one document, a part of a file's text.
pub fn read(
    file: &str,
    part: &document::Document<'_>,
    format: Format,
    keep: Keep,
    interner: &mut Interner,
) -> Vec<Reading> {
    let mut document = Document { file, part, keep, interner, readings: Vec::new() };
    match (parse(part, format), part.shape) {
        (Ok(None), _) => {}
        (Ok(Some(tree)), Shape::Whole) if tree.is_null(tree.root()) => {}
        (Ok(Some(tree)), Shape::Whole) => document.object(&tree, tree.root(), &NO_HEADER),
        (Ok(Some(tree)), Shape::Item) => {
            for item in tree.elements(tree.root()) {
                document.object(&tree, *item, &NO_HEADER);
            }
        }
        (Err(error), _) => document.syntax(error),
    }
    document.readings
}

/// Calls `visit` for each object whose name can be read, with a way to find its fields.
pub fn each_object(
    part: &document::Document<'_>,
    format: Format,
    mut visit: impl FnMut(RecordKey, &dyn Fn(&[Step]) -> Mark),
) {
    let Ok(Some(tree)) = parse(part, format) else { return };
    let mut waiting = vec![tree.root()];
    while let Some(node) = waiting.pop() {
        waiting.extend(tree.elements(node));
        waiting.extend(tree.field(node, "items").iter().flat_map(|items| tree.elements(*items)));
        let kind = tree.field(node, "kind").and_then(|id| tree.scalar(id));
        let Some(kind) = kind.and_then(RecordKind::named) else { continue };
        if let Some(key) = key_of(&tree, node, kind) {
            visit(key, &|path| tree.locate(node, path));
        }
    }
}

fn parse<'t>(
    part: &document::Document<'t>,
    format: Format,
) -> Result<Option<Tree<'t>>, SyntaxError> {
    match format {
        Format::Yaml => yaml::read(part.text),
        Format::Json => json::read(part.text),
    }
}

struct Document<'t, 'i> {
    /// The file's text, of which the document is a part.
    file: &'t str,
    part: &'t document::Document<'t>,
    keep: Keep,
    interner: &'i mut Interner,
    readings: Vec<Reading>,
}

const NO_HEADER: Header<'static> = Header { api_version: "", kind: "" };

/// What an object says it is.
struct Header<'a> {
    api_version: &'a str,
    kind: &'a str,
}

impl Document<'_, '_> {
    fn syntax(&mut self, error: SyntaxError) {
        // It cannot be told which lines are a Secret's, so no line is shown if one may be.
        let show = !self.part.text.contains("Secret");
        let mark = self.before_the_end(error.mark);
        let problem = self.problem(Level::Error, error.message, None, mark, show);
        let mark = problem.mark;
        self.push(None, Outcome::Bad, vec![problem], mark);
    }

    /// Where something is missing at the end of the text, the last place that an author sees.
    fn before_the_end(&self, mark: Mark) -> Mark {
        let text = self.part.text;
        if !text[mark.byte_in(text)..].trim().is_empty() {
            return mark;
        }
        let seen = text.trim_end();
        let line = seen.matches('\n').count() as u32;
        let column = seen.rsplit('\n').next().unwrap_or_default().chars().count() as u32;
        Mark { line, column, length: 0 }
    }

    fn push(
        &mut self,
        key: Option<RecordKey>,
        outcome: Outcome,
        problems: Vec<Problem>,
        mark: Mark,
    ) {
        self.readings.push(Reading {
            key,
            outcome,
            problems,
            mark,
            claims: Vec::new(),
            whole: None,
        });
    }

    /// A problem at a place of the document.
    fn problem(
        &self,
        level: Level,
        message: String,
        help: Option<String>,
        mark: Mark,
        show: bool,
    ) -> Problem {
        let excerpt = show.then(|| {
            let start = self.part.text.as_ptr() as usize - self.file.as_ptr() as usize;
            Excerpt::around(self.file, start + mark.byte_in(self.part.text))
        });
        Problem { level, message: one_line(message), help, mark: self.place(mark), excerpt }
    }

    /// A place in the file's columns.
    fn place(&self, mark: Mark) -> Mark {
        let before = if mark.line == 0 { self.part.columns_before } else { 0 };
        Mark { column: mark.column + before, ..mark }
    }

    /// Reads an object; in a typed list (`ServiceList`) its header is the list's.
    fn object(&mut self, tree: &Tree<'_>, node: NodeId, list: &Header<'_>) {
        let text_of = |key| tree.field(node, key).and_then(|id| tree.scalar(id));
        let header = Header {
            api_version: text_of("apiVersion").unwrap_or(list.api_version),
            kind: text_of("kind").unwrap_or(list.kind),
        };
        if !tree.is_mapping(node) || header.kind.is_empty() || header.api_version.is_empty() {
            let message = "not a Kubernetes object: it has no apiVersion and kind";
            return self.report(tree, node, None, Level::Error, message, None);
        }
        if let Some(kind) = header.kind.strip_suffix("List")
            && let Some(items) = tree.field(node, "items")
        {
            let api_version = if kind.is_empty() { "" } else { header.api_version };
            let list = Header { api_version, kind };
            for item in tree.elements(items) {
                self.object(tree, *item, &list);
            }
            return;
        }
        match RecordKind::named(header.kind) {
            Some(kind) if kind.api_version() == header.api_version => {
                self.known(tree, node, kind);
            }
            Some(kind) if is_older(header.api_version) => {
                let message = format!("{} {} is not read", header.api_version, header.kind);
                let help = format!("write it as apiVersion: {}", kind.api_version());
                self.report(tree, node, Some(kind), Level::Error, &message, Some(help));
            }
            _ => {
                let message = format!(
                    "kind {} ({}) is none that is read here, so it is left out",
                    header.kind, header.api_version
                );
                self.report(tree, node, None, Level::Warning, &message, None);
            }
        }
    }

    /// One problem with the whole object.
    fn report(
        &mut self,
        tree: &Tree<'_>,
        node: NodeId,
        kind: Option<RecordKind>,
        level: Level,
        message: &str,
        help: Option<String>,
    ) {
        let place = tree.entry(node, "kind").map_or(node, |(key, _)| key);
        let mark = tree.node(place).mark;
        let show = kind != Some(RecordKind::Of(Kind::Secret));
        let problem = self.problem(level, message.to_owned(), help, mark, show);
        let outcome = if level == Level::Error { Outcome::Bad } else { Outcome::Idle };
        let key = kind.and_then(|kind| key_of(tree, node, kind));
        let mark = problem.mark;
        self.push(key, outcome, vec![problem], mark);
    }

    fn known(&mut self, tree: &Tree<'_>, node: NodeId, kind: RecordKind) {
        let read = Read { document: self, tree, node, kind };
        let reading = match kind {
            RecordKind::Endpoints => read.with::<object::Endpoints<'_>>(validate::endpoints),
            RecordKind::Of(kind) => match kind {
                Kind::Service => read.with::<object::Service<'_>>(validate::service),
                Kind::EndpointSlice => read.with::<object::EndpointSlice<'_>>(validate::slice),
                Kind::Pod => read.with::<object::Pod<'_>>(validate::pod),
                Kind::Ingress => read.with::<object::Ingress<'_>>(validate::ingress),
                Kind::IngressClass => {
                    read.with::<object::IngressClass<'_>>(validate::ingress_class)
                }
                Kind::Secret => read.with::<object::Secret<'_>>(validate::secret),
                Kind::Namespace => read.with::<object::Namespace<'_>>(validate::namespace),
                Kind::Node => read.with::<object::Node<'_>>(validate::node),
            },
        };
        self.readings.push(reading);
    }
}

/// API groups and versions under which kinds that are read were once served.
fn is_older(api_version: &str) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    matches!(group, "" | "extensions" | "networking.k8s.io" | "discovery.k8s.io")
}

/// The object's key, if its name can be read.
fn key_of(tree: &Tree<'_>, node: NodeId, kind: RecordKind) -> Option<RecordKey> {
    let meta = tree.field(node, "metadata")?;
    let text = |key| tree.field(meta, key).and_then(|id| tree.scalar(id));
    // No valid name is longer, and an invalid one is shown in the log.
    const LONGEST: usize = 253;
    let text = |key| text(key).filter(|text| text.len() <= LONGEST);
    let text_of = |text: &str| object::Text(text.to_owned().into());
    let meta = object::Meta {
        name: Some(text_of(text("name")?)),
        namespace: text("namespace").map(text_of),
        ..object::Meta::default()
    };
    Some(RecordKey { kind, name: validate::object_name(&meta, kind) })
}

/// The reading of one object of a known kind.
struct Read<'r, 'a, 't, 'i> {
    document: &'r mut Document<'t, 'i>,
    tree: &'a Tree<'a>,
    node: NodeId,
    kind: RecordKind,
}

impl<'a> Read<'_, 'a, '_, '_> {
    fn with<T: Deserialize<'a>>(
        self,
        validate: fn(&T, &mut Check<'_>) -> Option<Record>,
    ) -> Reading {
        let object = match decode::<T>(self.tree, self.node) {
            Ok(object) => object,
            Err(findings) => {
                let findings = findings.iter().take(MAX_PROBLEMS);
                let problems = findings.map(|finding| self.finding(finding)).collect();
                return self.reading(Outcome::Bad, problems);
            }
        };
        let mut check = Check::new(self.document.interner);
        let record = validate(&object, &mut check);
        let mut complaints = check.finish();
        let bad = complaints.iter().any(|complaint| complaint.level == Level::Error);
        // Errors first, so that none is cut off by warnings.
        complaints.sort_by_key(|complaint| complaint.level);
        complaints.truncate(MAX_PROBLEMS);
        let problems = complaints.into_iter().map(|c| self.complaint(c)).collect();
        let outcome = match record {
            Some(record) => Outcome::Good(record),
            None if bad => Outcome::Bad,
            None => Outcome::Idle,
        };
        self.reading(outcome, problems)
    }

    fn reading(self, outcome: Outcome, mut problems: Vec<Problem>) -> Reading {
        problems.sort_by_key(|problem| (problem.level, problem.mark));
        let (key, claims) = match &outcome {
            Outcome::Good(record) => (Some(record.key()), self.claims(record)),
            _ => (key_of(self.tree, self.node, self.kind), Vec::new()),
        };
        let mark = self.document.place(self.tree.node(self.node).mark);
        let wanted = self.document.keep == Keep::Whole && matches!(outcome, Outcome::Good(_));
        let whole = wanted.then(|| self.tree.to_json(self.node).into());
        Reading { key, outcome, problems, mark, claims, whole }
    }

    fn finding(&self, finding: &Finding) -> Problem {
        let node = finding.node.unwrap_or(self.node);
        let path = self.tree.path_to(self.node, node).unwrap_or_default();
        let path = Path(&path);
        let message = match &finding.fault {
            Fault::UnknownField => format!("unknown field \"{path}\""),
            Fault::Other(message) => format!("{path}: {message}"),
        };
        self.problem(Level::Error, message, finding.help.clone(), self.tree.node(node).mark)
    }

    fn complaint(&self, complaint: Complaint) -> Problem {
        let mark = self.tree.locate(self.node, &complaint.path);
        let path = Path(&complaint.path[..complaint.path.len() - complaint.unsaid]);
        let message = match complaint.path.is_empty() {
            true => complaint.message,
            false => format!("{path}: {}", complaint.message),
        };
        self.problem(complaint.level, message, complaint.help, mark)
    }

    fn problem(&self, level: Level, message: String, help: Option<String>, mark: Mark) -> Problem {
        let show = self.kind != RecordKind::Of(Kind::Secret);
        self.document.problem(level, message, help, mark, show)
    }

    fn claims(&self, record: &Record) -> Vec<(Claim, Mark)> {
        let Record::Service(record) = record else { return Vec::new() };
        let key = |key: &str| Step::Key(key.to_owned());
        let place = |path: &[Step]| self.document.place(self.tree.locate(self.node, path));
        let service = &record.service;
        let ips = service.cluster_ips.iter().enumerate().map(|(i, ip)| {
            let many = [key("spec"), key("clusterIPs"), Step::Index(i)];
            let one = [key("spec"), key("clusterIP")];
            (Claim::ClusterIp(*ip), place(if i == 0 { &one[..] } else { &many[..] }))
        });
        let ports = service.ports.iter().enumerate().filter_map(|(i, port)| {
            let claim = Claim::NodePort(port.node_port?, port.protocol);
            let path = [key("spec"), key("ports"), Step::Index(i), key("nodePort")];
            Some((claim, place(&path)))
        });
        let health_check = service.health_check_node_port.map(|port| {
            let path = [key("spec"), key("healthCheckNodePort")];
            (Claim::NodePort(port, Protocol::Tcp), place(&path))
        });
        ips.chain(ports).chain(health_check).collect()
    }
}

/// A message with control characters escaped: names of fields are quoted in it, and a name may hold
/// line breaks and what a terminal takes for a command.
fn one_line(message: String) -> String {
    if !message.contains(char::is_control) {
        return message;
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    message.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests;
