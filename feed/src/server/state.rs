//! What outlives the process in `--state-dir`: the version that may have been given out, and
//! when each object was first seen.
//!
//! The version is a ceiling that is written ahead, so that no version is ever given twice, even
//! when the process is killed and the clock was set back. A file that is damaged counts as none.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use super::assemble::Key;
use super::history::History;
use super::live::Live;
use super::resource::Resource;
use crate::name::ObjectName;

const FILE: &str = "feed-server.json";

/// Versions that are written ahead: as many as one millisecond of the clock has.
pub(crate) const AHEAD: u64 = 1 << 20;

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Saved {
    /// No version above this was given out.
    pub(crate) ceiling: u64,
    /// `plural/namespace/name` → time of creation.
    pub(super) created: BTreeMap<String, String>,
}

impl Saved {
    /// What there is in a history, with versions up to a ceiling.
    pub(crate) fn of(history: &History, ceiling: u64) -> Saved {
        let mut created = BTreeMap::new();
        for resource in Resource::ALL {
            // Events are as old as the mistake that they tell of.
            if resource == Resource::Events {
                continue;
            }
            for (name, entry) in history.current(resource).objects.iter() {
                let key = format!("{resource}/{}/{}", name.namespace, name.name);
                created.insert(key, entry.stamp.created.to_string());
            }
        }
        Saved { ceiling, created }
    }

    pub(crate) fn created(&self) -> HashMap<Key, String> {
        let key = |text: &str| {
            let mut parts = text.splitn(3, '/');
            let (plural, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
            let resource = Resource::ALL.into_iter().find(|r| r.plural() == plural)?;
            Some((resource, ObjectName::new(namespace, name)))
        };
        let known = self.created.iter().filter_map(|(text, at)| Some((key(text)?, at.clone())));
        known.collect()
    }
}

/// Between two writes: what is lost in between is when an object was first seen.
const EVERY: Duration = Duration::from_secs(5);

/// Writes the state whenever it changed, for as long as the process lives. `ceiling` is the one
/// that was written last.
pub(crate) fn keep(state: StateDir, live: Arc<Live>, mut ceiling: u64) {
    tokio::spawn(async move {
        let mut written = 0;
        loop {
            tokio::time::sleep(EVERY).await;
            let version = live.read(History::version);
            if version == written {
                continue;
            }
            if version + AHEAD / 2 > ceiling {
                ceiling = version + AHEAD;
            }
            let (state, live) = (state.clone(), live.clone());
            let save = move || state.save(&live.read(|history| Saved::of(history, ceiling)));
            match tokio::task::spawn_blocking(save).await {
                Ok(Ok(())) => written = version,
                Ok(Err(error)) => tracing::warn!(%error, "cannot write the state"),
                Err(error) => tracing::warn!(%error, "cannot write the state"),
            }
        }
    });
}

/// The folder of `--state-dir`.
#[derive(Clone, Debug)]
pub(crate) struct StateDir(PathBuf);

impl StateDir {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub(crate) fn open(path: &Path) -> io::Result<StateDir> {
        std::fs::create_dir_all(path)?;
        Ok(StateDir(path.to_owned()))
    }

    /// What an earlier process left; nothing when there is no whole file.
    pub(crate) fn load(&self) -> Saved {
        let path = self.0.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %path.display(), %error, "cannot read the state");
                }
                return Saved::default();
            }
        };
        let saved = text
            .split_once('\n')
            .filter(|(sum, body)| *sum == checksum(body))
            .and_then(|(_, body)| serde_json::from_str(body).ok());
        saved.unwrap_or_else(|| {
            tracing::warn!(file = %path.display(), "the state is damaged: starting without it");
            Saved::default()
        })
    }

    /// Replaces the file; it is there as a whole, before or after, whatever happens.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn save(&self, saved: &Saved) -> io::Result<()> {
        let body = serde_json::to_string(saved)?;
        let beside = self.0.join(format!(".{FILE}.new"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(format!("{}\n{body}", checksum(&body)).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, self.0.join(FILE))?;
        File::open(&self.0)?.sync_all()
    }
}

fn checksum(text: &str) -> String {
    let digest = digest(&SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::server::entry::Content;
    use crate::server::history::{Change, Limits};

    const CREATED: &str = "2026-11-20T08:04:31Z";

    fn saved() -> Saved {
        let mut history = History::new(7, Limits::DEFAULT);
        let name = ObjectName::new("shop", "web");
        let content = Content::of(Resource::Services, name, json!({}), "u");
        history.load(vec![Change::Put(Resource::Services, content)], CREATED);
        Saved::of(&history, history.version() + AHEAD)
    }

    #[test]
    fn what_is_saved_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(&folder.path().join("a/b")).unwrap();
        assert_eq!(state.load(), Saved::default());
        state.save(&saved()).unwrap();
        state.save(&saved()).unwrap();
        let loaded = state.load();
        assert_eq!(loaded.ceiling, 9 + AHEAD);
        let web = (Resource::Services, ObjectName::new("shop", "web"));
        assert_eq!(loaded.created(), HashMap::from([(web, CREATED.to_owned())]));
        let mode = std::fs::metadata(state.0.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        state.save(&saved()).unwrap();
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert_eq!(state.load(), Saved::default(), "cut at {end}");
        }
        let mut flipped = whole;
        let last = flipped.len() - 3;
        flipped[last] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(state.load(), Saved::default());
    }
}
