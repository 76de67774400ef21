//! A document → the objects in it, each validated or with its problems.
//!
//! Pure. Reads `apiVersion` and `kind` first, then the object into its type; each item of a List is
//! an object. Every problem gets its place in the text here, while the tree is available. Left out:
//! conflicts with other documents, which the folder's catalogue finds.

mod backend_port;
mod hint;

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::document::{self, Format, Shape};
use crate::explanation::nearest;
use crate::model::Protocol;
use crate::name::{Kind, ObjectKey};
use crate::object;
use crate::problem::{Excerpt, Level, Mark, Problem};
use crate::reader::Reader;
use crate::record::Record;
use crate::tree::decode::{Fault, Finding};
use crate::tree::{NodeId, Path, Step, SyntaxError, Tree, json, yaml};
use crate::validate::{self, Check, Complaint, Interner};

/// One object of a document, or what is wrong with the document.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Absent if not even the object's name can be read.
    pub key: Option<ObjectKey>,
    pub outcome: Outcome,
    pub problems: Vec<Problem>,
    /// Where the object begins.
    pub mark: Mark,
    /// What no other Service may have, and the field that claims it.
    pub claims: Vec<(Claim, Mark)>,
    /// The whole object as JSON, if it is valid and `whole` was requested.
    pub whole: Option<Arc<str>>,
}

/// Whether to keep the whole object in addition to the fields that are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    #[default]
    Parts,
    Whole,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Good(Record),
    /// Valid, but not used: another kind, or a slice without a Service.
    Idle,
    Bad,
}

/// What only one Service may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Claim {
    NodePort(NonZeroU16, Protocol),
    ClusterIp(IpAddr),
}

/// The limit for one object; more would only hide the first ones.
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
    mut visit: impl FnMut(ObjectKey, &dyn Fn(&[Step]) -> Mark),
) {
    let Ok(Some(tree)) = parse(part, format) else { return };
    let mut waiting = vec![tree.root()];
    while let Some(node) = waiting.pop() {
        waiting.extend(tree.elements(node));
        waiting.extend(tree.field(node, "items").iter().flat_map(|items| tree.elements(*items)));
        let kind = tree.field(node, "kind").and_then(|id| tree.scalar(id));
        let Some(kind) = kind.and_then(readable) else { continue };
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

/// The beginning of the note about an object of a kind that is not used.
const FOREIGN: &str = "kind ";

/// The kind in a note about an object of a kind that is not used.
pub fn foreign_kind(problem: &Problem) -> Option<&str> {
    let is_note = problem.level == Level::Note;
    let (kind, _) = problem.message.strip_prefix(FOREIGN).filter(|_| is_note)?.split_once(" (")?;
    Some(kind)
}

const NO_HEADER: Header<'static> = Header { api_version: "", kind: "" };

/// The kind and API version of an object.
struct Header<'a> {
    api_version: &'a str,
    kind: &'a str,
}

impl Document<'_, '_> {
    fn syntax(&mut self, error: SyntaxError) {
        // The lines of a Secret cannot be recognised, so no line is shown if the text may contain
        // one.
        let show = !self.part.text.contains("Secret");
        let mark = self.before_the_end(error.mark);
        let text = self.part.text;
        let help = match text.get(mark.byte_in(text)..).unwrap_or_default() {
            _ if is_template(text) => Some(TEMPLATE.to_owned()),
            // A host such as *.example, which YAML parses as an alias.
            at if at.starts_with('*') && !show => Some("quote it".to_owned()),
            at if at.starts_with('*') => {
                let word: String =
                    at.chars().take_while(|c| !c.is_whitespace() && !",]}".contains(*c)).collect();
                Some(format!("quote it: '{word}'"))
            }
            _ => hint::of(text, &error.message, mark),
        };
        let problem = self.problem(Level::Error, error.message, help, mark, show);
        let mark = problem.mark;
        self.push(None, Outcome::Bad, vec![problem], mark);
    }

    /// If something is missing at the end of the text: its last visible character.
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
        key: Option<ObjectKey>,
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
            let (message, help) = no_object(tree, node, &header);
            return self.report(tree, node, None, Level::Error, message, help);
        }
        if let Some(place) = self.second_object(tree, node) {
            let key = readable(header.kind).and_then(|kind| key_of(tree, node, kind));
            // The two objects may be of any kind, and a Secret's lines are never shown.
            let show = !self.part.text.contains("Secret");
            let mark = tree.node(place).mark;
            let message = "a second object begins here, without a line `---` before it".to_owned();
            let help = Some("write `---` on a line of its own between the objects".to_owned());
            let problem = self.problem(Level::Error, message, help, mark, show);
            let mark = self.place(tree.node(node).mark);
            return self.push(key, Outcome::Bad, vec![problem], mark);
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
        match readable(header.kind) {
            Some(kind) if kind.api_version() == header.api_version => {
                self.known(tree, node, kind);
            }
            Some(kind) if is_older(header.api_version) => {
                let message = format!("{} {} is not supported", header.api_version, header.kind);
                let help = format!("write it as apiVersion: {}", kind.api_version());
                self.report(tree, node, Some(kind), Level::Error, &message, Some(help));
            }
            _ => self.foreign(tree, node, &header),
        }
    }

    /// If two objects were written into one mapping: the first key of the second one. A key that is
    /// there twice alone is only a mistake, and braces and Lists separate objects without `---`.
    fn second_object(&self, tree: &Tree<'_>, node: NodeId) -> Option<NodeId> {
        let begins = self.part.text.get(tree.node(node).mark.byte_in(self.part.text)..)?;
        if self.part.shape != Shape::Whole || node != tree.root() || begins.starts_with('{') {
            return None;
        }
        let again = |name: &str| {
            let has_name = |key: &NodeId| tree.scalar(*key) == Some(name);
            tree.entries(node).map(|(key, _)| key).filter(has_name).nth(1)
        };
        let again: Vec<NodeId> =
            ["apiVersion", "kind", "metadata"].map(again).into_iter().flatten().collect();
        let first = again.iter().copied().min_by_key(|key| tree.node(*key).mark);
        first.filter(|_| again.len() > 1)
    }

    /// A kind that is not used: another program's, or a misspelt one.
    fn foreign(&mut self, tree: &Tree<'_>, node: NodeId, header: &Header<'_>) {
        let Header { api_version, kind } = header;
        let is_meant = |known: &Kind| {
            let same = known.as_str().eq_ignore_ascii_case(kind);
            let is_its_group = known.api_version() == *api_version;
            same && known.as_str() != *kind && is_older(api_version)
                || is_its_group && (same || nearest(kind, [known.as_str()]).is_some())
        };
        match Kind::read().into_iter().find(is_meant) {
            Some(meant) => {
                let message = format!("unknown kind {kind} ({api_version})");
                let help = format!(
                    "did you mean kind: {} with apiVersion: {}?",
                    meant.as_str(),
                    meant.api_version()
                );
                self.report(tree, node, Some(meant), Level::Error, &message, Some(help));
            }
            None => {
                let message = format!("{FOREIGN}{kind} ({api_version}) is not used here");
                self.report(tree, node, None, Level::Note, &message, None);
            }
        }
    }

    /// One problem with the whole object.
    fn report(
        &mut self,
        tree: &Tree<'_>,
        node: NodeId,
        kind: Option<Kind>,
        level: Level,
        message: &str,
        help: Option<String>,
    ) {
        let place = tree.entry(node, "kind").map_or(node, |(key, _)| key);
        let mark = tree.node(place).mark;
        let show = kind != Some(Kind::Secret);
        let problem = self.problem(level, message.to_owned(), help, mark, show);
        let outcome = if level == Level::Error { Outcome::Bad } else { Outcome::Idle };
        let key = kind.and_then(|kind| key_of(tree, node, kind));
        let mark = problem.mark;
        self.push(key, outcome, vec![problem], mark);
    }

    fn known(&mut self, tree: &Tree<'_>, node: NodeId, kind: Kind) {
        let Some(reader) = kind.reader() else { return };
        let reading = Read { document: self, tree, node, kind }.with(reader);
        self.readings.push(reading);
    }
}

/// The kind of that name, if manifests may hold objects of it.
fn readable(kind: &str) -> Option<Kind> {
    Kind::named(kind).filter(|kind| kind.reader().is_some())
}

/// What is missing in an object without kind or API version, and what the author may have meant.
fn no_object(tree: &Tree<'_>, node: NodeId, header: &Header<'_>) -> (&'static str, Option<String>) {
    let has = |key: &str| tree.field(node, key).is_some();
    let of_kustomize = ["resources", "bases", "patches", "namePrefix", "commonLabels", "images"];
    match (header.kind, header.api_version) {
        ("", "") if has("services") && !has("spec") => {
            let help = "docs/compose.md shows the manifests for the containers of a compose file";
            ("a compose file, not a Kubernetes object", Some(help.to_owned()))
        }
        ("", "") if of_kustomize.into_iter().any(has) && !has("spec") => {
            let help = "run: kustomize build DIR | switchyard check -";
            ("a kustomization, not a Kubernetes object", Some(help.to_owned()))
        }
        ("", "") => ("not a Kubernetes object: it has no apiVersion and kind", None),
        ("", _) => ("missing field \"kind\"", None),
        (kind, _) => {
            let known = readable(kind);
            let help = known.map(|kind| format!("add apiVersion: {}", kind.api_version()));
            ("missing field \"apiVersion\"", help)
        }
    }
}

/// Whether a text is a template that must be rendered first.
fn is_template(text: &str) -> bool {
    text.contains("{{") && text.contains("}}")
}

const TEMPLATE: &str = "this looks like an unrendered template; for a Helm chart, run: helm \
                        template CHART | switchyard check -";

/// Whether kinds that are used were once served under this version, or another version of its
/// group.
fn is_older(api_version: &str) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    group == "extensions" || Kind::groups().contains(&group)
}

/// The object's key, if its name can be read.
fn key_of(tree: &Tree<'_>, node: NodeId, kind: Kind) -> Option<ObjectKey> {
    let meta = tree.field(node, "metadata")?;
    let text = |key| tree.field(meta, key).and_then(|id| tree.scalar(id));
    // No valid name is longer, and invalid ones are shown in the log.
    const LONGEST: usize = 253;
    let text = |key| text(key).filter(|text| text.len() <= LONGEST);
    let text_of = |text: &str| object::Text(text.to_owned().into());
    let meta = object::Meta {
        name: Some(text_of(text("name")?)),
        namespace: text("namespace").map(text_of),
        ..object::Meta::default()
    };
    Some(ObjectKey { kind, name: validate::object_name(&meta, kind) })
}

/// The reading of one object of a known kind.
struct Read<'r, 'a, 't, 'i> {
    document: &'r mut Document<'t, 'i>,
    tree: &'a Tree<'a>,
    node: NodeId,
    kind: Kind,
}

impl<'a> Read<'_, 'a, '_, '_> {
    fn with(self, reader: Reader) -> Reading {
        let mut check = Check::new(self.document.interner);
        let record = match (reader.manifest)(self.tree, self.node, &mut check) {
            Ok(record) => record,
            Err(findings) => {
                let findings = findings.iter().take(MAX_PROBLEMS);
                let problems = findings.map(|finding| self.finding(finding)).collect();
                return self.reading(Outcome::Bad, problems);
            }
        };
        let mut complaints = check.finish();
        let bad = complaints.iter().any(|complaint| complaint.level == Level::Error);
        // Errors first, so that warnings do not displace them.
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
        if matches!(outcome, Outcome::Bad) && is_template(self.document.part.text) {
            let without = problems.iter_mut().filter(|problem| problem.help.is_none());
            without.for_each(|problem| problem.help = Some(TEMPLATE.to_owned()));
        }
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
        let steps = self.tree.path_to(self.node, node).unwrap_or_default();
        let path = Path(&steps);
        let message = match &finding.fault {
            Fault::UnknownField => format!("unknown field \"{path}\""),
            Fault::Other(message) => format!("{path}: {message}"),
        };
        let is_port = self.kind == Kind::Ingress && finding.fault != Fault::UnknownField;
        let port = is_port.then(|| backend_port::instead(self.tree, node, &steps)).flatten();
        let help = port.or_else(|| finding.help.clone());
        self.problem(Level::Error, message, help, self.tree.node(node).mark)
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
        let show = self.kind != Kind::Secret;
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

/// A message with control characters escaped: it quotes names of fields, which may contain line
/// breaks and control sequences of a terminal.
fn one_line(message: String) -> String {
    if !message.contains(char::is_control) {
        return message;
    }
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    message.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests;
