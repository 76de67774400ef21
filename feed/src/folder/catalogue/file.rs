//! One file of the folder, as it was read last.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use super::Report;
use crate::document;
use crate::manifest::{self, Claim, Format, Outcome, Reading};
use crate::problem::{Excerpt, Level, Mark, Problem};
use crate::record::{Record, RecordKey};
use crate::validate::Interner;

/// Documents of one file: each takes some hundred bytes here, however short it is.
const MAX_DOCUMENTS: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct File {
    documents: Vec<Document>,
    objects: BTreeMap<RecordKey, Definition>,
}

/// A document, without its text.
#[derive(Debug, Default)]
struct Document {
    /// Of the text; 0 when it must be parsed again even if it did not change.
    hash: u64,
    lines_above: u32,
    /// The objects whose definitions are this document's.
    keys: Vec<RecordKey>,
    problems: Vec<(Option<RecordKey>, Problem)>,
    /// Something in it could not even be named.
    nameless: bool,
}

/// An object as this file defines it.
#[derive(Debug)]
pub(super) struct Definition {
    /// Its last good state. `None` when it never had one, or is of no use here.
    record: Option<Record>,
    claims: Vec<(Claim, Mark)>,
    pub(super) mark: Mark,
    pub(super) lines_above: u32,
}

impl Definition {
    /// Where the object asks for that.
    pub(super) fn mark_of(&self, claim: Claim) -> Mark {
        let found = self.claims.iter().find(|(known, _)| *known == claim);
        found.map_or(self.mark, |(_, mark)| *mark)
    }

    /// Which of the Service's ports asks for that node port.
    pub(super) fn port_index(&self, claim: Claim) -> usize {
        let Some(Record::Service(record)) = &self.record else { return 0 };
        let is_it = |port: &crate::model::ServicePort| {
            port.node_port.is_some_and(|number| Claim::NodePort(number, port.protocol) == claim)
        };
        record.service.ports.iter().position(is_it).unwrap_or_default()
    }
}

impl File {
    /// Reads a file's text; `before` is the file as it was. Documents that did not change are
    /// taken over.
    pub(super) fn read(
        text: &str,
        format: Format,
        mut before: File,
        interner: &mut Interner,
    ) -> File {
        let parts = match format {
            Format::Yaml => document::split(text),
            Format::Json => vec![document::Document { text, lines_above: 0 }],
        };
        let documents = std::mem::take(&mut before.documents);
        let mut known: HashMap<u64, Document> =
            documents.into_iter().map(|document| (document.hash, document)).collect();
        known.remove(&0);
        let mut file = File::default();
        for part in parts.iter().take(MAX_DOCUMENTS) {
            let hash = hash(part.text);
            if let Some(document) = known.remove(&hash) {
                file.keep(document, part.lines_above, &mut before);
            } else {
                let readings = manifest::read(part.text, format, interner);
                file.add(readings, hash, part.lines_above, &mut before);
            }
        }
        if let Some(part) = parts.get(MAX_DOCUMENTS) {
            file.refuse_rest(part.lines_above);
        }
        if file.documents.iter().any(|document| document.nameless) {
            // What the broken document defined cannot be told: all that is missing stays.
            for (key, definition) in before.objects {
                file.objects.entry(key).or_insert(definition);
            }
        }
        file
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &RecordKey> {
        self.objects.keys()
    }

    pub(super) fn defines(&self, key: &RecordKey) -> bool {
        self.objects.contains_key(key)
    }

    pub(super) fn definition(&self, key: &RecordKey) -> Option<&Definition> {
        self.objects.get(key)
    }

    pub(super) fn record(&self, key: &RecordKey) -> Option<&Record> {
        self.objects.get(key)?.record.as_ref()
    }

    pub(super) fn reports(&self, path: &Arc<Path>) -> impl Iterator<Item = Report> {
        self.documents.iter().flat_map(|document| {
            document.problems.iter().map(|(key, problem)| Report {
                file: path.clone(),
                object: key.clone(),
                problem: problem.clone(),
                lines_above: document.lines_above,
            })
        })
    }

    /// Takes over a document that did not change, perhaps at another line.
    fn keep(&mut self, document: Document, lines_above: u32, before: &mut File) {
        for key in &document.keys {
            if let Some(definition) = before.objects.remove(key) {
                self.objects.insert(key.clone(), Definition { lines_above, ..definition });
            }
        }
        self.documents.push(Document { lines_above, ..document });
    }

    fn add(&mut self, readings: Vec<Reading>, hash: u64, lines_above: u32, before: &mut File) {
        let mut document = Document { hash, lines_above, ..Document::default() };
        for reading in readings {
            let Reading { key, outcome, mut problems, mark, claims } = reading;
            document.nameless |= key.is_none() && outcome == Outcome::Bad;
            if let Some(key) = &key {
                if let Some(first) = self.objects.get(key) {
                    problems.push(second(key, first, mark));
                    // The first may go while this document stays as it is.
                    document.hash = 0;
                } else {
                    let before = before.objects.remove(key);
                    let record = match outcome {
                        Outcome::Good(record) => Some(record),
                        Outcome::Idle => None,
                        Outcome::Bad => before.and_then(|definition| definition.record),
                    };
                    let definition = Definition { record, claims, mark, lines_above };
                    self.objects.insert(key.clone(), definition);
                    document.keys.push(key.clone());
                }
            }
            document.problems.extend(problems.into_iter().map(|p| (key.clone(), p)));
        }
        self.documents.push(document);
    }

    fn refuse_rest(&mut self, lines_above: u32) {
        let problem = Problem {
            level: Level::Error,
            message: format!("more than {MAX_DOCUMENTS} documents: the rest is not read"),
            help: Some("split the file".to_owned()),
            mark: Mark::default(),
            excerpt: Excerpt::default(),
        };
        self.documents.push(Document {
            lines_above,
            problems: vec![(None, problem)],
            nameless: true,
            ..Document::default()
        });
    }
}

fn second(key: &RecordKey, first: &Definition, mark: Mark) -> Problem {
    let line = first.lines_above + first.mark.line + 1;
    Problem {
        level: Level::Error,
        message: format!("{key} is defined a second time, so this one is not served"),
        help: Some(format!("it is served as line {line} has it")),
        mark,
        excerpt: Excerpt::default(),
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish().max(1)
}
