//! Which files changed, and which of those may be believed already.
//!
//! A file is read when `stat` says that it changed, or when it was read so soon after its last
//! change that another could hide behind the same times. What is read counts once it is whole:
//! see [`wait_for`]. An empty file, or one that is suddenly shorter by documents, is more likely
//! half-written than meant, so it has to wait, and an empty one waits for ever.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::QUIET;
use super::catalogue::Report;
use super::scan::{Found, Look, Stat};
use super::watch::{Hints, State};
use crate::document;
use crate::manifest::Format;
use crate::problem::{Excerpt, Level, Mark, Problem};

/// Larger files are refused before they are read: 10,000 Services with 100,000 endpoints, as
/// `kubectl` dumps them, are half of it.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// A file that may be half-written counts once nothing touched it for this long.
const SETTLED: Duration = Duration::from_secs(1);
/// The coarsest clock of a file system (FAT) ticks every two seconds: within that, a second
/// change may leave the same times.
const RACY: Duration = Duration::from_secs(2);

/// What is known of each file.
#[derive(Debug, Default)]
pub(super) struct Files {
    known: BTreeMap<Arc<Path>, Known>,
    /// What kept the last look from being whole.
    incomplete: Vec<(PathBuf, String)>,
}

#[derive(Debug, Default)]
struct Known {
    /// As it was when its content was last taken; `None` before that.
    stat: Option<Stat>,
    /// Its content may change again without a change of `stat`.
    racy: bool,
    hash: u64,
    documents: usize,
    fault: Option<Fault>,
    /// Read, and found to look half-written.
    suspect: Option<Stat>,
    /// What the hints said since its content was last taken.
    state: Option<State>,
    /// It was not there at the last look.
    missing: bool,
}

/// Why a file's present content does not count.
#[derive(Debug)]
struct Fault {
    level: Level,
    message: String,
    help: &'static str,
}

impl Fault {
    fn error(message: impl Into<String>, help: &'static str) -> Fault {
        Fault { level: Level::Error, message: message.into(), help }
    }
}

/// What to do after a look.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) changed: Vec<Change>,
    pub(super) gone: Vec<Arc<Path>>,
    /// Something changed that may not be whole yet: look again after this time.
    pub(super) held: Option<Duration>,
    /// A file is missing for the first time: it may only be on the way to another name, or be
    /// written anew by an editor. Nothing was decided, so look again soon.
    pub(super) vanishing: bool,
}

#[derive(Debug)]
pub(super) struct Change {
    pub(super) path: Arc<Path>,
    pub(super) text: String,
    pub(super) format: Format,
}

/// How a look goes about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mood {
    /// Nothing is served yet.
    pub(super) first: bool,
    /// Missing files may come back.
    pub(super) patient: bool,
    pub(super) now: SystemTime,
}

enum Step {
    Unchanged,
    Held(Duration),
    Changed(String),
}

impl Files {
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Compares a look with what is known, and reads what changed.
    pub(super) fn compare(&mut self, look: &Look, hints: &Hints, mood: Mood) -> Verdict {
        let mut verdict = Verdict::default();
        self.note_incomplete(look);
        self.find_missing(look, &mut verdict);
        if verdict.vanishing && mood.patient {
            verdict.gone.clear();
            return verdict;
        }
        for path in &verdict.gone {
            self.known.remove(path);
        }
        for (path, found) in &look.files {
            let known = self.known.entry(path.clone()).or_default();
            known.missing = false;
            if let Some(state) = hints.of(path, found.linked) {
                known.state = Some(state);
            }
            match known.step(path, found, mood) {
                Step::Unchanged => {}
                Step::Held(wait) => {
                    verdict.held = Some(verdict.held.map_or(wait, |other| other.min(wait)));
                }
                Step::Changed(text) => {
                    let change = Change { path: path.clone(), text, format: found.format };
                    verdict.changed.push(change);
                }
            }
        }
        verdict
    }

    /// What is wrong with whole files.
    pub(super) fn reports(&self) -> Vec<Report> {
        let faults = self.known.iter().filter_map(|(path, known)| {
            let fault = known.fault.as_ref()?;
            Some(report(path.clone(), fault.level, &fault.message, fault.help))
        });
        let incomplete = self.incomplete.iter().map(|(path, message)| {
            report(path.as_path().into(), Level::Error, message, "what was read of it before stays")
        });
        faults.chain(incomplete).collect()
    }

    fn note_incomplete(&mut self, look: &Look) {
        let unreadable = look.unreadable.iter();
        self.incomplete = unreadable
            .map(|(path, error)| (path.clone(), format!("cannot be read: {error}")))
            .collect();
        if look.too_many {
            let root = look.folders.keys().next().cloned().unwrap_or_default();
            self.incomplete.push((root, "too many files: the rest is not read".to_owned()));
        }
    }

    fn find_missing(&mut self, look: &Look, verdict: &mut Verdict) {
        for (path, known) in &mut self.known {
            let unknowable =
                look.too_many || look.unreadable.iter().any(|(prefix, _)| path.starts_with(prefix));
            if unknowable || look.files.contains_key(path) {
                continue;
            }
            verdict.vanishing |= !known.missing;
            known.missing = true;
            verdict.gone.push(path.clone());
        }
    }
}

impl Known {
    fn step(&mut self, path: &Path, found: &Found, mood: Mood) -> Step {
        let stat = found.stat;
        if self.stat == Some(stat) && !self.racy {
            self.suspect = None;
            self.state = None;
            return Step::Unchanged;
        }
        if let Some(fault) = refuse_unread(&stat) {
            return self.fail(stat, fault);
        }
        let age = stat.age(mood.now);
        let wait = self.wait_for(&stat, mood.first).saturating_sub(age);
        if !wait.is_zero() && self.stat != Some(stat) {
            return Step::Held(wait);
        }
        let text = match read(path, &stat) {
            Ok(Some(text)) => text,
            Ok(None) => return Step::Held(QUIET),
            Err(fault) => return self.fail(stat, fault),
        };
        self.take(text, found, age, mood)
    }

    /// How long a file has to stay as it is before it is read: a moment if it is known to be
    /// whole, else so long that a slow writer would have written more.
    fn wait_for(&self, stat: &Stat, first: bool) -> Duration {
        match self.state {
            _ if self.suspect == Some(*stat) => SETTLED,
            Some(State::Whole) => QUIET,
            Some(State::Open) => SETTLED,
            // Nobody may ever have heard of it: it was there before the watch.
            _ if first => QUIET,
            _ => SETTLED,
        }
    }

    fn take(&mut self, text: String, found: &Found, age: Duration, mood: Mood) -> Step {
        let stat = found.stat;
        let racy = age < RACY;
        let hash = hash(&text);
        if self.stat.is_some() && hash == self.hash {
            *self = Known {
                stat: Some(stat),
                racy,
                hash,
                documents: self.documents,
                ..Known::default()
            };
            return Step::Unchanged;
        }
        let documents = match found.format {
            Format::Yaml => document::split(&text).len(),
            Format::Json => usize::from(!text.trim().is_empty()),
        };
        let in_place = self.stat.is_none_or(|before| before.is_same_file(&stat));
        let shrunk = in_place && documents < self.documents;
        let unfinished = mood.first && self.state.is_none() && !ends_whole(&text, found.format);
        if (shrunk || unfinished) && age < SETTLED {
            self.suspect = Some(stat);
            return Step::Held(SETTLED - age);
        }
        if documents == 0 && self.documents > 0 && text.trim().is_empty() {
            let message = "the file is empty, so what it defined before stays";
            let help = "delete the file to remove its objects";
            let fault = Fault { level: Level::Warning, message: message.to_owned(), help };
            return self.fail(stat, fault);
        }
        *self = Known { stat: Some(stat), racy, hash, documents, ..Known::default() };
        Step::Changed(text)
    }

    /// Leaves everything as it was, until the file changes again.
    fn fail(&mut self, stat: Stat, fault: Fault) -> Step {
        self.stat = Some(stat);
        self.racy = false;
        self.fault = Some(fault);
        self.state = None;
        Step::Unchanged
    }
}

/// What `stat` alone refuses.
fn refuse_unread(stat: &Stat) -> Option<Fault> {
    if stat.links == 0 {
        let message = "the file that is mounted here was replaced, and this mount shows the old \
                       one for ever";
        return Some(Fault::error(message, "mount the folder, not the file"));
    }
    (stat.size > MAX_FILE_BYTES).then(|| {
        let (size, limit) = (stat.size >> 20, MAX_FILE_BYTES >> 20);
        let message = format!("the file has {size} MiB, more than the {limit} MiB that are read");
        Fault::error(message, "split the file")
    })
}

/// The file's content, if it is still the file that `stat` describes; `None` when it changes
/// right now.
fn read(path: &Path, expected: &Stat) -> Result<Option<String>, Fault> {
    let whole = || -> io::Result<Option<Vec<u8>>> {
        let mut file = std::fs::File::open(path)?;
        let mut content = Vec::with_capacity(expected.size as usize);
        if Stat::of(&file.metadata()?) != *expected {
            return Ok(None);
        }
        (&mut file).take(MAX_FILE_BYTES).read_to_end(&mut content)?;
        let same = Stat::of(&file.metadata()?) == *expected;
        Ok(same.then_some(content))
    };
    let content = match whole() {
        Ok(Some(content)) => content,
        Ok(None) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let help = "what it defined before stays; make it readable";
            return Err(Fault::error(format!("the file cannot be read: {error}"), help));
        }
    };
    String::from_utf8(content).map(Some).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        Fault::error(format!("not UTF-8 text: line {line}"), "save the file as UTF-8")
    })
}

/// Whether a text ends as a finished file does.
fn ends_whole(text: &str, format: Format) -> bool {
    match format {
        Format::Yaml => text.is_empty() || text.ends_with('\n'),
        Format::Json => text.trim_end().ends_with(['}', ']']),
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn report(file: Arc<Path>, level: Level, message: &str, help: &str) -> Report {
    Report {
        file,
        object: None,
        lines_above: 0,
        problem: Problem {
            level,
            message: message.to_owned(),
            help: Some(help.to_owned()),
            mark: Mark::default(),
            excerpt: Excerpt::default(),
        },
    }
}
