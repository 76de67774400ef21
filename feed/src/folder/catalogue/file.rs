//! One file of the folder, as it was read last.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::path::FilePath;
use crate::report::Report;
use model::document::{self, Format, MAX_DOCUMENTS, hash};
use model::manifest::{self, Claim, Keep, Outcome, Reading};
use model::problem::{Level, Mark, Problem};
use model::record::Record;
use model::validate::Interner;
use model::{Kinds, ObjectKey};

/// Problems of one file that keep their lines: nobody reads on, and each takes memory.
const MAX_EXCERPTS: usize = 1000;

/// The hash of a document that must be parsed again even if its text did not change.
const ALWAYS_READ: u64 = 0;

#[derive(Debug, Default)]
pub(super) struct File {
    documents: Vec<Document>,
    objects: HashMap<ObjectKey, Definition, RandomState>,
    /// Problems that were added since the file was read.
    problems: usize,
}

/// A document, without its text.
#[derive(Debug, Default)]
struct Document {
    /// Of the text, or [`ALWAYS_READ`].
    hash: u64,
    lines_above: u32,
    /// The objects whose definitions are this document's.
    keys: Vec<ObjectKey>,
    problems: Vec<(Option<ObjectKey>, Arc<Problem>)>,
    /// Something in it could not even be named.
    nameless: bool,
}

/// An object as this file defines it.
#[derive(Debug)]
pub(super) struct Definition {
    /// Its last good state. `None` when it never had one, or is of no use here.
    record: Option<Record>,
    /// The whole object of that state, where it is kept.
    whole: Option<Arc<str>>,
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

    /// Which of the Service's ports asks for that node port, if it is one of them.
    pub(super) fn port_index(&self, claim: Claim) -> Option<usize> {
        let Some(Record::Service(record)) = &self.record else { return None };
        let is_it = |port: &model::ServicePort| {
            port.node_port.is_some_and(|number| Claim::NodePort(number, port.protocol) == claim)
        };
        record.service.ports.iter().position(is_it)
    }
}

impl File {
    /// Reads a file's text; `before` is the file as it was. Documents that did not change are
    /// taken over. Returns the objects that came, went or were read again too.
    pub(super) fn read(
        text: &str,
        format: Format,
        mut before: File,
        kinds: Kinds,
        keep: Keep,
        interner: &mut Interner,
    ) -> (File, Vec<ObjectKey>) {
        let documents = std::mem::take(&mut before.documents);
        let mut known: HashMap<u64, Document, RandomState> =
            documents.into_iter().map(|document| (document.hash, document)).collect();
        known.remove(&ALWAYS_READ);
        let mut reader =
            Reader { text, format, kinds, known, keep, interner, kept: vec![], fresh: vec![] };
        for document in document::split(text, format) {
            match document::items(&document).filter(|_| format == Format::Yaml) {
                Some(items) => reader.list(&document, &items),
                None => reader.document(&document),
            }
        }
        // What did not change comes first: its definitions are the incumbents.
        let Reader { kept, fresh, .. } = reader;
        let mut file = File::default();
        let mut touched = Vec::new();
        for (document, lines_above) in kept {
            file.keep(document, lines_above, &mut before);
        }
        for fresh in fresh {
            if file.documents.len() == MAX_DOCUMENTS {
                file.refuse_rest(fresh.lines_above);
                break;
            }
            file.add(fresh, &mut before, &mut touched);
        }
        if file.documents.iter().any(|document| document.nameless) {
            // What the broken document defined cannot be told: all that is missing stays.
            for (key, definition) in before.objects {
                file.objects.entry(key).or_insert(definition);
            }
        } else {
            touched.extend(before.objects.into_keys());
        }
        file.documents.shrink_to_fit();
        (file, touched)
    }

    /// Keeps the objects and forgets the text that they were read from, which was not the file's:
    /// none of its documents is known again, and no problem has a place in it.
    pub(super) fn forget_text(&mut self) {
        for document in &mut self.documents {
            document.hash = ALWAYS_READ;
            document.problems.clear();
            document.nameless = false;
        }
        self.problems = 0;
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.objects.keys()
    }

    pub(super) fn defines(&self, key: &ObjectKey) -> bool {
        self.objects.contains_key(key)
    }

    pub(super) fn definition(&self, key: &ObjectKey) -> Option<&Definition> {
        self.objects.get(key)
    }

    pub(super) fn record(&self, key: &ObjectKey) -> Option<&Record> {
        self.objects.get(key)?.record.as_ref()
    }

    pub(super) fn whole(&self, key: &ObjectKey) -> Option<&Arc<str>> {
        self.objects.get(key)?.whole.as_ref()
    }

    /// Whether there is anything to report.
    pub(super) fn is_flawed(&self) -> bool {
        self.documents.iter().any(|document| !document.problems.is_empty())
    }

    pub(super) fn reports(&self, path: &FilePath) -> impl Iterator<Item = Report> {
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

    fn add(&mut self, fresh: Fresh, before: &mut File, touched: &mut Vec<ObjectKey>) {
        let Fresh { readings, hash, lines_above } = fresh;
        let mut document = Document { hash, lines_above, ..Document::default() };
        for reading in readings {
            let Reading { key, outcome, mut problems, mark, claims, whole } = reading;
            document.nameless |= key.is_none() && outcome == Outcome::Bad;
            if let Some(key) = &key {
                if let Some(first) = self.objects.get(key) {
                    problems.push(second(key, first, mark));
                    // The first may go while this document stays as it is.
                    document.hash = ALWAYS_READ;
                } else {
                    let before = before.objects.remove(key);
                    let (record, whole) = match outcome {
                        Outcome::Good(record) => (Some(record), whole),
                        Outcome::Idle => (None, None),
                        Outcome::Bad => before.map(|d| (d.record, d.whole)).unwrap_or_default(),
                    };
                    let definition = Definition { record, whole, claims, mark, lines_above };
                    self.objects.insert(key.clone(), definition);
                    document.keys.push(key.clone());
                    touched.push(key.clone());
                }
            }
            for mut problem in problems {
                self.problems += 1;
                if self.problems > MAX_EXCERPTS {
                    problem.excerpt = None;
                }
                document.problems.push((key.clone(), Arc::new(problem)));
            }
        }
        // A folder of 10,000 files has as many of these lists, of one or two items each.
        document.keys.shrink_to_fit();
        self.documents.push(document);
    }

    fn refuse_rest(&mut self, lines_above: u32) {
        let problem = Problem {
            level: Level::Error,
            message: format!("more than {MAX_DOCUMENTS} documents: the rest is not read"),
            help: Some("split the file".to_owned()),
            mark: Mark::default(),
            excerpt: None,
        };
        self.documents.push(Document {
            lines_above,
            problems: vec![(None, Arc::new(problem))],
            nameless: true,
            ..Document::default()
        });
    }
}

/// The reading of one file's text.
struct Reader<'r> {
    text: &'r str,
    format: Format,
    kinds: Kinds,
    /// The documents that the file had before, by hash.
    known: HashMap<u64, Document, RandomState>,
    keep: Keep,
    interner: &'r mut Interner,
    /// Documents that did not change, with the lines that are above them now.
    kept: Vec<(Document, u32)>,
    fresh: Vec<Fresh>,
}

/// A document that was read just now.
struct Fresh {
    readings: Vec<Reading>,
    hash: u64,
    lines_above: u32,
}

impl Reader<'_> {
    fn document(&mut self, part: &document::Document<'_>) {
        let hash = identity(part.text);
        match self.known.remove(&hash) {
            Some(document) => self.kept.push((document, part.lines_above)),
            None => {
                let fresh = self.read(part, hash);
                self.fresh.push(fresh);
            }
        }
    }

    /// A List, item by item. If an item makes no sense alone, the List is tried as a whole: an
    /// item may refer to an anchor in another.
    fn list(&mut self, whole: &document::Document<'_>, items: &[document::Document<'_>]) {
        let (mut kept, mut fresh) = (Vec::new(), Vec::new());
        for item in items {
            let hash = identity(item.text);
            match self.known.remove(&hash) {
                Some(document) => kept.push((document, item.lines_above)),
                None => fresh.push(self.read(item, hash)),
            }
        }
        if fresh.iter().any(|fresh| is_broken(&fresh.readings)) {
            let whole = self.read(whole, ALWAYS_READ);
            if !is_broken(&whole.readings) {
                return self.fresh.push(whole);
            }
        }
        self.kept.extend(kept);
        self.fresh.extend(fresh);
    }

    fn read(&mut self, part: &document::Document<'_>, hash: u64) -> Fresh {
        let mut readings = manifest::read(self.text, part, self.format, self.keep, self.interner);
        for reading in &mut readings {
            if let Outcome::Good(record) = &mut reading.outcome {
                *record = record.clone().cut_to(self.kinds);
            }
        }
        Fresh { readings, hash, lines_above: part.lines_above }
    }
}

/// Whether the text was no YAML or JSON at all.
fn is_broken(readings: &[Reading]) -> bool {
    readings.iter().any(|reading| reading.key.is_none() && reading.outcome == Outcome::Bad)
}

fn second(key: &ObjectKey, first: &Definition, mark: Mark) -> Problem {
    let line = first.lines_above + first.mark.line + 1;
    Problem {
        level: Level::Error,
        message: format!("{key} is defined twice; this definition is not served"),
        help: Some(format!(
            "the one on line {line} is served instead: delete or rename one of them"
        )),
        mark,
        excerpt: None,
    }
}

/// A document's hash, never [`ALWAYS_READ`].
fn identity(text: &str) -> u64 {
    hash(text).max(1)
}
