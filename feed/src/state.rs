//! `--state-dir`: the last good state in a file, for a cold start while the feed is away.
//!
//! The file ([`mod@file`]) holds one Kubernetes object a line, as JSON ([`encode`]), after a line
//! that says what it is: any program can read it, and it is read back through the same decoding
//! and validation as an API's answers, so a later version of this program can too.

mod encode;
pub mod file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use file::FileError;
use serde::{Deserialize, Serialize};

use crate::client::decode::Decoder;
use crate::client::session::Text;
use model::record::Record;
use model::{Kind, Kinds, Model, Object};

/// Between two writes: what happened since the last one is what a cold start may miss.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// How long a cold start waits for the feed before it serves what was saved: longer than a feed
/// that starts in the same moment takes to list everything.
const WAIT_FOR_FEED: Duration = Duration::from_secs(3);
/// Counts changes of the file's form that an older program could not read.
const FORMAT: u32 = 1;

/// The state of one process, in its file.
#[derive(Debug)]
pub(crate) struct State {
    path: PathBuf,
    header: Header,
    kinds: Kinds,
    local_endpoints: bool,
    /// What is to be saved.
    pending: Option<Model>,
    last: Option<Instant>,
    writing: Arc<AtomicBool>,
    /// What was saved was looked at, or is outdated.
    looked: bool,
}

/// What a file held.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) at: SystemTime,
    pub(crate) objects: Vec<Object>,
    /// Objects that this version of the program, or its flags, do not accept.
    skipped: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    format: u32,
    process: String,
    /// The feed that the state is of.
    feed: String,
    /// Seconds since 1970.
    saved_unix: u64,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("its first line cannot be read")]
    Header,
    #[error("its format is {0}, which this version cannot read")]
    Format(u32),
    #[error("it belongs to another feed, {0}")]
    Feed(String),
}

impl State {
    /// The state of a process in a folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// When the folder cannot be made.
    pub(crate) fn open(
        dir: &Path,
        process: &str,
        feed: &str,
        kinds: Kinds,
        local_endpoints: bool,
    ) -> io::Result<State> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("{process}.objects"));
        let header = Header {
            format: FORMAT,
            process: process.to_owned(),
            feed: feed.to_owned(),
            saved_unix: 0,
        };
        Ok(State {
            path,
            header,
            kinds,
            local_endpoints,
            pending: None,
            last: None,
            writing: Arc::new(AtomicBool::new(false)),
            looked: false,
        })
    }

    /// The state is this from now on.
    pub(crate) fn changed(&mut self, model: &Model) {
        self.looked = true;
        self.pending = Some(model.clone());
    }

    /// Writes the newest state on another thread, unless that was done just before.
    pub(crate) fn save_if_due(&mut self, now: Instant) {
        let recent = self.last.is_some_and(|last| now.saturating_duration_since(last) < SAVE_EVERY);
        if !recent && !self.writing.load(Ordering::Acquire) {
            self.save(now);
        }
    }

    /// What was saved, if it can be used; once, after the feed has been waited for.
    ///
    /// # Errors
    ///
    /// Why it cannot be used.
    pub(crate) async fn take_if_waited(
        &mut self,
        waited: Duration,
    ) -> Result<Option<Saved>, String> {
        if waited < WAIT_FOR_FEED || std::mem::replace(&mut self.looked, true) {
            return Ok(None);
        }
        let (path, header, kinds) = (self.path.clone(), self.header.clone(), self.kinds);
        let local_endpoints = self.local_endpoints;
        let load = move || load(&path, &header, kinds, local_endpoints);
        let file = self.path.display();
        let Ok(loaded) = tokio::task::spawn_blocking(load).await else { return Ok(None) };
        match loaded {
            Ok(saved) => {
                if saved.skipped > 0 {
                    let skipped = saved.skipped;
                    tracing::warn!(%file, skipped, "not all of the saved state can be used");
                }
                Ok(Some(saved))
            }
            Err(Unusable::File(error)) if error.is_absent() => Ok(None),
            Err(error) => {
                tracing::warn!(%file, %error, "the saved state is ignored");
                Err(error.to_string())
            }
        }
    }

    fn save(&mut self, now: Instant) {
        let Some(model) = self.pending.take() else { return };
        self.last = Some(now);
        let job = Job {
            path: self.path.clone(),
            header: Header { saved_unix: unix(SystemTime::now()), ..self.header.clone() },
            kinds: self.kinds,
            model,
        };
        self.writing.store(true, Ordering::Release);
        let writing = self.writing.clone();
        tokio::task::spawn_blocking(move || {
            job.run();
            writing.store(false, Ordering::Release);
        });
    }
}

/// The last complaint of a write: a full disk is said once, not every five seconds.
static COMPLAINT: Mutex<String> = Mutex::new(String::new());

/// One write of the file.
struct Job {
    path: PathBuf,
    header: Header,
    kinds: Kinds,
    model: Model,
}

impl Job {
    fn run(&self) {
        let begun = Instant::now();
        let outcome = write(&self.path, &self.header, self.kinds, &self.model);
        let mut complaint = COMPLAINT.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(bytes) => {
                complaint.clear();
                tracing::debug!(bytes, took = ?begun.elapsed(), "state saved");
            }
            Err(error) if *complaint == error.to_string() => {}
            Err(error) => {
                *complaint = error.to_string();
                let file = self.path.display();
                tracing::warn!(%file, %error, "the state cannot be saved");
            }
        }
    }
}

impl Saved {
    /// When it was saved, for a log.
    pub(crate) fn age(&self) -> String {
        jiff::Timestamp::try_from(self.at).map(|time| time.to_string()).unwrap_or_default()
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn write(path: &Path, header: &Header, kinds: Kinds, model: &Model) -> io::Result<u64> {
    file::write(path, |out| {
        out.line(header)?;
        let mut kinds = Kind::joined().filter(|kind| kinds.contains(*kind));
        kinds.try_for_each(|kind| encode::objects(model, kind, out))
    })
}

fn load(
    path: &Path,
    expected: &Header,
    kinds: Kinds,
    local_endpoints: bool,
) -> Result<Saved, Unusable> {
    let body = file::read(path)?;
    let mut lines = body.split(|byte| *byte == b'\n');
    let header = lines.next().unwrap_or_default();
    let header: Header = serde_json::from_slice(header).map_err(|_| Unusable::Header)?;
    if header.format != FORMAT {
        return Err(Unusable::Format(header.format));
    }
    if header.feed != expected.feed {
        return Err(Unusable::Feed(header.feed));
    }
    let mut decoders: Vec<_> =
        Kind::ALL.into_iter().map(|kind| Decoder::new(kind, local_endpoints)).collect();
    let (mut objects, mut skipped) = (Vec::new(), 0);
    for line in lines.filter(|line| !line.is_empty()) {
        let kind = serde_json::from_slice(line).ok();
        let kind = kind.and_then(|kind: KindOf<'_>| Kind::named(&kind.kind));
        let read = match kind {
            Some(kind) if kinds.contains(kind) => decoders[kind as usize]
                .decode(Text::Object(line))
                .ok()
                .and_then(|decoded| decoded.record),
            _ => None,
        };
        match read.and_then(object) {
            Some(object) => objects.push(object),
            None => skipped += 1,
        }
    }
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(header.saved_unix);
    Ok(Saved { at, objects, skipped })
}

#[derive(Deserialize)]
struct KindOf<'a> {
    #[serde(borrow)]
    kind: std::borrow::Cow<'a, str>,
}

/// The object of the model in a record.
fn object(record: Record) -> Option<Object> {
    Some(match record {
        Record::Service(record) => Object::Service(record.service.clone()),
        Record::EndpointSlice(slice) => Object::EndpointSlice(slice),
        Record::Endpoints(_) | Record::NameOnly(_) => return None,
        Record::Pod(record) => Object::Pod(record.pod.clone()),
        Record::Ingress(ingress) => Object::Ingress(ingress),
        Record::IngressClass(class) => Object::IngressClass(class),
        Record::Secret(secret) => Object::Secret(secret),
        Record::Namespace(name) => Object::Namespace(name),
        Record::Node(node) => Object::Node(node),
    })
}

#[cfg(test)]
mod tests;
