//! Which files changed, and which of those may be believed already.
//!
//! A file is read when `stat` says that it changed, or when it was read so soon after its last
//! change that another could hide behind the same times. What is read counts once it is whole: see
//! [`Known::wait_for`]. A file that lost documents or half of its size in place is more
//! likely half-written than meant, so it has to wait, and an empty one waits for ever.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::scan::{Found, Look, Stat};
use super::watch::{Hints, State};
use crate::path::FilePath;
use crate::report::Report;
use model::document::{self, Format, hash};
use model::problem::{Level, Mark, Problem};

/// From a hint to the look: a writer's next event mostly follows within this time.
pub(super) const QUIET: Duration = Duration::from_millis(10);
/// Larger files are refused before they are read: 10,000 Services with 100,000 endpoints, as
/// `kubectl` dumps them, are half of it.
pub(crate) const MAX_FILE_BYTES: u64 = 64 << 20;
/// A file that may be half-written counts once nothing touched it for this long.
const SETTLED: Duration = Duration::from_secs(1);
/// A file that someone has open for writing counts after this time without a write: longer than
/// any pause of a writer, but not for ever, because some never close.
const ABANDONED: Duration = Duration::from_secs(5);
/// A file that is replaced by another again and again, each time before it settled, counts after
/// this time: each is most likely whole, and else no state of it would ever be served.
const REPLACED: Duration = Duration::from_secs(1);
/// The coarsest clock of a file system (FAT) ticks every two seconds: within that, a second
/// change may leave the same times.
const RACY: Duration = Duration::from_secs(2);

/// What is known of each file.
#[derive(Debug, Default)]
pub(super) struct Files {
    known: BTreeMap<FilePath, Known>,
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
    fault: Option<Box<Fault>>,
    /// What was seen since its content was last taken.
    changing: Option<Box<Changing>>,
    /// It was not there at the last look.
    missing: bool,
}

/// A file that changed and was not taken yet.
#[derive(Debug)]
struct Changing {
    /// As it is, and since when we see it so.
    stat: Stat,
    since: Instant,
    /// Since when it waits, whatever it was at the time.
    begun: Instant,
    /// Another file took the place of the one that was waited for.
    replaced: bool,
    /// Read as it is, and found to look half-written.
    suspect: bool,
    /// What the hints said.
    state: Option<State>,
}

/// Why a file's present content does not count.
#[derive(Debug)]
struct Fault {
    level: Level,
    message: String,
    help: &'static str,
    mark: Mark,
}

impl Fault {
    fn error(message: impl Into<String>, help: &'static str) -> Fault {
        Fault { level: Level::Error, message: message.into(), help, mark: Mark::default() }
    }
}

/// What to do after a look.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) gone: Vec<FilePath>,
    /// Files that changed but may not be whole yet: look at them again after this time.
    pub(super) held: Vec<FilePath>,
    pub(super) wait: Duration,
    /// A file is missing for the first time: it may only be on the way to another name, or be
    /// written anew by an editor. Nothing was decided, so look again soon.
    pub(super) vanishing: bool,
}

/// How a look goes about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct LookContext {
    /// Nothing is served yet.
    pub(super) first: bool,
    /// Missing files may come back.
    pub(super) patient: bool,
    pub(super) now: SystemTime,
    pub(super) clock: Instant,
}

enum Step {
    Unchanged,
    Held(Duration),
    Changed(String),
}

impl Files {
    /// Takes a file as known by what an earlier process read of it.
    pub(super) fn restore(&mut self, path: FilePath) {
        // Some document is what lets an empty file change nothing.
        self.known.insert(path, Known { documents: 1, ..Known::default() });
    }

    /// Whether any file below a folder is known.
    pub(super) fn any_below(&self, root: &Path) -> bool {
        self.known.keys().any(|path| path.starts_with(root))
    }

    /// Compares a look with what is known, and reads what changed: each text is handed to `take`
    /// at once, so that only one is in memory.
    pub(super) fn compare(
        &mut self,
        look: &Look,
        hints: &Hints,
        context: LookContext,
        mut take: impl FnMut(&FilePath, &str, Format),
    ) -> Verdict {
        let mut verdict = Verdict::default();
        if look.only.is_none() {
            self.note_incomplete(look);
        }
        self.find_missing(look, &mut verdict);
        if verdict.vanishing && context.patient {
            return verdict;
        }
        for path in &verdict.gone {
            self.known.remove(path);
        }
        for (path, found) in &look.files {
            let known = self.known.entry(path.clone()).or_default();
            known.missing = false;
            match known.step(path, found, hints, context) {
                Step::Unchanged => {}
                Step::Held(wait) => {
                    let first = verdict.held.is_empty();
                    verdict.wait = if first { wait } else { verdict.wait.min(wait) };
                    verdict.held.push(path.clone());
                }
                Step::Changed(text) => take(path, &text, found.format),
            }
        }
        verdict
    }

    /// What is wrong with whole files.
    pub(super) fn reports(&self) -> Vec<Report> {
        let faults = self.known.iter().filter_map(|(path, known)| {
            let fault = known.fault.as_ref()?;
            Some(report(path.clone(), fault.level, &fault.message, fault.help, fault.mark))
        });
        let incomplete = self.incomplete.iter().map(|(path, message)| {
            let help = "objects read from it earlier stay in use";
            report(path.as_path().into(), Level::Error, message, help, Mark::default())
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
        let mut note = |path: &FilePath, known: &mut Known| {
            verdict.vanishing |= !known.missing;
            known.missing = true;
            verdict.gone.push(path.clone());
        };
        let Some(only) = &look.only else {
            let unseen = |path: &Path| look.unreadable.iter().any(|(at, _)| path.starts_with(at));
            for (path, known) in &mut self.known {
                if !look.files.contains_key(path) && !look.too_many && !unseen(path) {
                    note(path, known);
                }
            }
            return;
        };
        let only = only.iter().map(|path| FilePath::from(path.as_path()));
        for path in only.filter(|path| !look.files.contains_key(path)) {
            if let Some(known) = self.known.get_mut(&path) {
                note(&path, known);
            }
        }
    }
}

impl Known {
    fn step(&mut self, path: &Path, found: &Found, hints: &Hints, context: LookContext) -> Step {
        let stat = found.stat;
        if self.stat == Some(stat) && !self.racy {
            self.changing = None;
            return Step::Unchanged;
        }
        if let Some(fault) = refuse_unread(&stat) {
            return self.fail(Some(stat), fault);
        }
        let age = self.see(&stat, hints.of(path, found.linked), context);
        let wait = self.wait_for(context).saturating_sub(age);
        if !wait.is_zero() && self.stat != Some(stat) {
            return Step::Held(wait);
        }
        let text = match read(path, &stat) {
            Ok(Some(text)) => text,
            Ok(None) => return Step::Held(QUIET),
            // What is wrong may pass without a change of the file, so it is tried again.
            Err(fault) => return self.fail(None, fault),
        };
        self.take(text, found, age, context)
    }

    /// Notes how the file looks, and returns the time since it changed: by its own times, or
    /// since we saw it, where the file system's clock is ahead of ours.
    fn see(&mut self, stat: &Stat, state: Option<State>, context: LookContext) -> Duration {
        let fresh = || Changing {
            stat: *stat,
            since: context.clock,
            begun: context.clock,
            replaced: false,
            suspect: false,
            state: None,
        };
        let changing = self.changing.get_or_insert_with(|| Box::new(fresh()));
        if changing.stat != *stat {
            let replaced = changing.replaced || !changing.stat.is_same_file(stat);
            let Changing { state, begun, .. } = **changing;
            **changing = Changing { state, begun, replaced, ..fresh() };
        }
        changing.state = state.or(changing.state);
        stat.age(context.now).max(context.clock.duration_since(changing.since))
    }

    /// How long a file has to stay as it is before it counts: a moment if it is known to be
    /// whole, else so long that a slow writer would have written more.
    fn wait_for(&self, context: LookContext) -> Duration {
        let Some(changing) = &self.changing else { return QUIET };
        let waited = context.clock.saturating_duration_since(changing.begun);
        match changing.state {
            Some(State::Open) => ABANDONED,
            _ if changing.suspect => SETTLED,
            Some(State::Whole) => QUIET,
            // Nobody may ever have heard of it: it was there before the watch.
            None if context.first => QUIET,
            _ if changing.replaced && waited >= REPLACED => QUIET,
            _ => SETTLED,
        }
    }

    fn take(&mut self, text: String, found: &Found, age: Duration, context: LookContext) -> Step {
        let stat = found.stat;
        let hash = hash(&text);
        let taken = Known { stat: Some(stat), racy: age < RACY, hash, ..Known::default() };
        if self.stat.is_some() && hash == self.hash {
            *self = Known { documents: self.documents, ..taken };
            return Step::Unchanged;
        }
        let documents = document::count(&text, found.format);
        let shrunk = self.stat.is_some_and(|before| {
            let less = documents < self.documents || stat.size < before.size / 2;
            before.is_same_file(&stat) && less
        });
        let heard = self.changing.as_ref().is_some_and(|changing| changing.state.is_some());
        let unfinished = context.first && !heard && !ends_whole(&text, found.format);
        if (shrunk || unfinished) && age < SETTLED {
            if let Some(changing) = &mut self.changing {
                changing.suspect = true;
            }
            return Step::Held(SETTLED - age);
        }
        if self.documents > 0 && text.trim().is_empty() {
            let message = "the file is empty, so its last good objects stay in use";
            let fault = Fault::error(message, "delete the file to remove its objects");
            return self.fail(Some(stat), Fault { level: Level::Warning, ..fault });
        }
        *self = Known { documents, ..taken };
        Step::Changed(text)
    }

    /// Leaves everything as it was.
    fn fail(&mut self, stat: Option<Stat>, fault: Fault) -> Step {
        self.stat = stat;
        self.racy = false;
        self.fault = Some(Box::new(fault));
        self.changing = None;
        Step::Unchanged
    }
}

/// What `stat` alone refuses.
fn refuse_unread(stat: &Stat) -> Option<Fault> {
    if stat.links == 0 {
        let message = "the mounted file was replaced, but this mount still shows the old file";
        return Some(Fault::error(message, "mount the folder, not the file"));
    }
    (stat.size > MAX_FILE_BYTES).then(|| {
        let (size, limit) = (stat.size >> 20, MAX_FILE_BYTES >> 20);
        let message = format!("the file is too large: {size} MiB, the limit is {limit} MiB");
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
        Err(error) => return Err(unreadable(&error)),
    };
    decode(content).map(Some)
}

/// The text of a file, for one who does not follow it.
///
/// # Errors
///
/// When it cannot be read or exceeds a limit: what to tell its author.
pub(crate) fn text_of(path: &Path) -> Result<String, Box<Report>> {
    let read = || {
        let metadata = std::fs::metadata(path).map_err(|error| unreadable(&error))?;
        if let Some(fault) = refuse_unread(&Stat::of(&metadata)) {
            return Err(fault);
        }
        std::fs::read(path).map_err(|error| unreadable(&error)).and_then(decode)
    };
    read().map_err(|fault| {
        Box::new(report(path.into(), fault.level, &fault.message, fault.help, fault.mark))
    })
}

fn unreadable(error: &io::Error) -> Fault {
    let help = "make it readable; its last good objects stay in use";
    Fault::error(format!("the file cannot be read: {error}"), help)
}

fn decode(content: Vec<u8>) -> Result<String, Fault> {
    String::from_utf8(content).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        let line = valid.matches('\n').count() as u32;
        let column = valid.rsplit('\n').next().unwrap_or_default().chars().count() as u32;
        let mark = Mark { line, column, length: 0 };
        Fault { mark, ..Fault::error("the file is not UTF-8 text", "save the file as UTF-8") }
    })
}

/// Whether a text ends as a finished file does.
fn ends_whole(text: &str, format: Format) -> bool {
    match format {
        Format::Yaml => text.is_empty() || text.ends_with('\n'),
        Format::Json => text.trim_end().ends_with(['}', ']']),
    }
}

fn report(file: FilePath, level: Level, message: &str, help: &str, mark: Mark) -> Report {
    Report {
        file,
        object: None,
        lines_above: 0,
        problem: Arc::new(Problem {
            level,
            message: message.to_owned(),
            help: Some(help.to_owned()),
            mark,
            excerpt: None,
        }),
    }
}
