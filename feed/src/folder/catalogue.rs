//! What the files of a folder define: which file's object is served, and which is not, and why.
//!
//! Pure: files come in as text that was read, events for the store go out. An object that turns
//! bad keeps its last good state, for as long as its file names it. Of two files that define the
//! same object, and of two Services that ask for the same node port or cluster IP ([`claims`]),
//! the one that is served already stays; on a cold start, the first path.

mod claims;
mod file;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use claims::{Claims, Wish};
use file::{Definition, File};

use crate::path::FilePath;
use crate::report::Report;
use model::document::Format;
use model::manifest::{Claim, Keep};
use model::problem::{Level, Problem};
use model::record::Record;
use model::store::Event;
use model::validate::Interner;
use model::{Kind, Kinds, ObjectKey, ObjectName};

/// Objects whose whole JSON changed, or their file; `None`: they are no longer served.
pub type Wholes = Vec<(ObjectKey, Option<Whole>)>;

/// An object as its file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub file: FilePath,
    /// All of it, as JSON on one line.
    pub text: Arc<str>,
}

#[derive(Debug)]
pub(crate) struct Catalogue {
    /// What is kept of objects: no more than these kinds need.
    kinds: Kinds,
    files: BTreeMap<FilePath, File>,
    objects: HashMap<ObjectKey, Object, RandomState>,
    claims: Claims,
    /// Services that ask for what another has; tried again whenever anything changes.
    refused: BTreeMap<ObjectName, Vec<Report>>,
    touched: BTreeSet<ObjectKey>,
    /// Objects served, by kind.
    served: BTreeMap<&'static str, usize>,
    /// All that is wrong, while no file with a problem has changed.
    reports: Option<Arc<[Report]>>,
    keep: Keep,
    /// What became of whole objects since they were last taken.
    wholes: Wholes,
    interner: Interner,
}

/// An object of the folder.
#[derive(Debug, Default)]
struct Object {
    /// The files that define it, sorted.
    files: SmallVec<[FilePath; 1]>,
    /// What the store was told, and whose it is.
    served: Option<(FilePath, Record)>,
    /// The same object whole, where that is kept.
    whole: Option<Arc<str>>,
}

impl Catalogue {
    pub(crate) fn new(kinds: Kinds) -> Catalogue {
        Catalogue {
            kinds,
            files: BTreeMap::new(),
            objects: HashMap::default(),
            claims: Claims::default(),
            refused: BTreeMap::new(),
            touched: BTreeSet::new(),
            served: BTreeMap::new(),
            reports: None,
            keep: Keep::Parts,
            wholes: Wholes::new(),
            interner: Interner::default(),
        }
    }

    /// A catalogue that keeps whole objects of all kinds, too.
    pub(crate) fn of_wholes() -> Catalogue {
        Catalogue { keep: Keep::Whole, ..Catalogue::new(Kinds::all()) }
    }

    /// Takes a file's new text. Documents that did not change are not parsed again.
    pub(crate) fn put(&mut self, path: &FilePath, text: &str, format: Format) {
        let before = self.files.remove(path).unwrap_or_default();
        let flawed = before.is_flawed();
        let (file, touched) =
            File::read(text, format, before, self.kinds, self.keep, &mut self.interner);
        if flawed || file.is_flawed() {
            self.reports = None;
        }
        for key in &touched {
            let object = self.objects.entry(key.clone()).or_default();
            if let (true, Err(at)) = (file.defines(key), object.files.binary_search(path)) {
                object.files.insert(at, path.clone());
            }
        }
        self.touched.extend(touched);
        self.files.insert(path.clone(), file);
    }

    /// Takes over what an earlier process served of a file, as JSON documents.
    pub(crate) fn restore(&mut self, path: &FilePath, text: &str) {
        self.put(path, text, Format::Json);
        if let Some(file) = self.files.get_mut(path) {
            file.forget_text();
        }
        self.reports = None;
    }

    /// A file is gone, and with it what only it defined.
    pub(crate) fn remove(&mut self, path: &FilePath) {
        if let Some(file) = self.files.remove(path) {
            self.touched.extend(file.keys().cloned());
            if file.is_flawed() {
                self.reports = None;
            }
        }
    }

    /// Ends a batch: what changed since the last one, for the store.
    pub(crate) fn settle(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut wishes = Vec::new();
        let mut touched = std::mem::take(&mut self.touched);
        let service = |name: &ObjectName| ObjectKey { kind: Kind::Service, name: name.clone() };
        touched.extend(self.refused.keys().map(service));
        if !self.refused.is_empty() {
            self.refused.clear();
            self.reports = None;
        }
        for key in touched {
            let wanted = self.choose(&key);
            if key.kind == Kind::Service {
                wishes.push(self.wish(key, wanted));
            } else {
                events.extend(self.serve(&key, wanted));
            }
        }
        for (wish, verdict) in self.claims.settle(wishes) {
            match verdict {
                Ok(()) => events.extend(self.serve(&wish.key, wish.wanted)),
                Err((claim, holder)) => self.refuse(&wish, claim, &holder),
            }
        }
        self.interner.shrink();
        events
    }

    /// What became of whole objects since this was last asked.
    pub(crate) fn take_wholes(&mut self) -> Wholes {
        std::mem::take(&mut self.wholes)
    }

    /// All that is wrong, in the order of files and lines.
    pub(crate) fn reports(&mut self) -> Arc<[Report]> {
        if let Some(reports) = &self.reports {
            return reports.clone();
        }
        let mut reports: Vec<_> =
            self.files.iter().flat_map(|(path, file)| file.reports(path)).collect();
        reports.extend(self.refused.values().flatten().cloned());
        reports.extend(self.shadowed());
        reports.sort_by(|a, b| {
            let place = |report: &Report| (report.line(), report.column());
            a.file.cmp(&b.file).then(place(a).cmp(&place(b)))
        });
        let reports: Arc<[Report]> = reports.into();
        self.reports = Some(reports.clone());
        reports
    }

    /// Whether a file defines the object, well or badly.
    pub(crate) fn defines(&self, key: &ObjectKey) -> bool {
        self.objects.get(key).is_some_and(|object| !object.files.is_empty())
    }

    /// The file whose definition of an object is served.
    pub(crate) fn file_of(&self, key: &ObjectKey) -> Option<&FilePath> {
        self.objects.get(key)?.served.as_ref().map(|(path, _)| path)
    }

    /// The number of objects served, by kind.
    pub(crate) fn served(&self) -> &BTreeMap<&'static str, usize> {
        &self.served
    }

    /// The file whose definition counts, and its record: the incumbent's while it still defines
    /// the object, else the first path's.
    fn choose(&mut self, key: &ObjectKey) -> Option<(FilePath, Record)> {
        let object = self.objects.get_mut(key)?;
        let files = &self.files;
        if object.files.len() > 1 {
            self.reports = None;
        }
        object.files.retain(|path| files.get(path).is_some_and(|file| file.defines(key)));
        let incumbent = object.served.as_ref().map(|(path, _)| path);
        let incumbent = object.files.iter().find(|path| Some(*path) == incumbent);
        let good = |path: &&FilePath| files[*path].record(key).is_some();
        let path = incumbent.or_else(|| object.files.iter().find(good))?;
        let record = files[path].record(key)?;
        Some((path.clone(), record.clone()))
    }

    fn wish(&self, key: ObjectKey, wanted: Option<(FilePath, Record)>) -> Wish {
        let served = self.objects.get(&key).and_then(|object| object.served.as_ref());
        let claims_of = |(_, record): &(FilePath, Record)| claims::of(record);
        let had = served.map(claims_of).unwrap_or_default();
        let asks = wanted.as_ref().map(claims_of).unwrap_or_default();
        let file = wanted.as_ref().and_then(|(path, _)| self.files.get(path));
        let definition = file.and_then(|file| file.definition(&key));
        let line = definition.map_or(0, |d| d.lines_above + d.mark.line);
        Wish { key, had, asks, wanted, line }
    }

    /// Tells the store of an object, if that is news.
    fn serve(&mut self, key: &ObjectKey, wanted: Option<(FilePath, Record)>) -> Option<Event> {
        let object = self.objects.get_mut(key)?;
        let changed = match (&object.served, &wanted) {
            (Some((_, before)), Some((_, now))) => before != now,
            (None, None) => false,
            _ => true,
        };
        let path = wanted.as_ref().map(|(path, _)| path);
        let whole = path.and_then(|path| self.files.get(path)?.whole(key)).cloned();
        let moved = whole.is_some() && object.served.as_ref().map(|(path, _)| path) != path;
        if moved || object.whole != whole {
            let news = whole.clone().zip(path);
            let news = news.map(|(text, path)| Whole { file: path.clone(), text });
            self.wholes.push((key.clone(), news));
            object.whole = whole;
        }
        let count = self.served.entry(key.kind.as_str()).or_default();
        *count = *count + usize::from(wanted.is_some()) - usize::from(object.served.is_some());
        object.served = wanted;
        let event = object
            .served
            .as_ref()
            .map_or_else(|| Event::Delete(key.clone()), |(_, record)| Event::Apply(record.clone()));
        if object.files.is_empty() && object.served.is_none() {
            self.objects.remove(key);
        }
        changed.then_some(event)
    }

    fn refuse(&mut self, wish: &Wish, claim: Claim, holder: &ObjectName) {
        let Some((path, _)) = &wish.wanted else { return };
        let definition = self.files.get(path).and_then(|file| file.definition(&wish.key));
        let Some(definition) = definition else { return };
        let holder_key = ObjectKey { kind: Kind::Service, name: holder.clone() };
        self.reports = None;
        let help = format!("{} has it; choose another", self.place_of(&holder_key));
        let message = claims::message(claim, definition);
        let report = self.conflict(path, &wish.key, definition, message, help);
        self.refused.entry(wish.key.name.clone()).or_default().push(Report {
            problem: Arc::new(Problem {
                mark: definition.mark_of(claim),
                ..Problem::clone(&report.problem)
            }),
            ..report
        });
    }

    /// Definitions that another file's takes precedence of.
    fn shadowed(&self) -> Vec<Report> {
        let mut reports = Vec::new();
        for (key, object) in self.objects.iter().filter(|(_, object)| object.files.len() > 1) {
            let winner = object.served.as_ref().map_or(&object.files[0], |(path, _)| path);
            for path in object.files.iter().filter(|path| *path != winner) {
                // A definition that is bad by itself is reported as that.
                let file = &self.files[path];
                let Some(definition) = file.definition(key) else { continue };
                if file.record(key).is_none() {
                    continue;
                }
                let message = format!("{key} is defined twice; this definition is not served");
                let help = format!(
                    "{} is served instead: delete or rename one of them",
                    self.place_of(key)
                );
                reports.push(self.conflict(path, key, definition, message, help));
            }
        }
        reports
    }

    fn conflict(
        &self,
        path: &FilePath,
        key: &ObjectKey,
        definition: &Definition,
        message: String,
        help: String,
    ) -> Report {
        Report {
            file: path.clone(),
            object: Some(key.clone()),
            lines_above: definition.lines_above,
            problem: Arc::new(Problem {
                level: Level::Error,
                message,
                help: Some(help),
                mark: definition.mark,
                excerpt: None,
            }),
        }
    }

    /// `shop/web (services.yaml:12)`.
    fn place_of(&self, key: &ObjectKey) -> String {
        let served = self.objects.get(key).and_then(|object| object.served.as_ref());
        let Some((path, _)) = served else { return key.name.to_string() };
        let line = self.files.get(path).and_then(|file| file.definition(key));
        let line = line.map_or(0, |d| d.lines_above + d.mark.line + 1);
        format!("{} ({}:{line})", key.name, path.display())
    }
}

#[cfg(test)]
mod tests;
