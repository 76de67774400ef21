//! The file of `--hosts`, which is followed: a changed file is served within seconds.

use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::local::{BadLine, Hosts, Local};
use crate::looks::Looks;
use crate::responder::Shared;
use crate::wire::Name;

/// Problems of one version of the file that are logged; a file of another format has one a line.
const MAX_LOGGED: usize = 20;
/// The largest file that is read, in octets. The largest block lists have 20 MB.
const MAX_FILE: u64 = 64 << 20;

/// Follows the file.
#[derive(Debug)]
pub(crate) struct HostsFile {
    file: PathBuf,
    domain: Name,
    /// The hash of the content that is served.
    served: Option<u64>,
    /// The file was empty at the last look, which may be because it is being written.
    was_empty: bool,
    problems: Vec<BadLine>,
    unreadable: Option<String>,
}

impl HostsFile {
    /// `domain` is our own, whose names are not taken from the file.
    pub(crate) fn new(file: PathBuf, domain: Name) -> HostsFile {
        let (served, was_empty) = (None, false);
        HostsFile { file, domain, served, was_empty, problems: Vec::new(), unreadable: None }
    }

    /// Reads the file. The names to serve from now on, if it has changed.
    pub(crate) fn read(&mut self) -> Option<Hosts> {
        let text = match self.text() {
            Ok(text) => text,
            Err(problem) => {
                if self.unreadable.as_ref() != Some(&problem) {
                    tracing::warn!(file = %self.file.display(), "--hosts: {problem}");
                }
                self.unreadable = Some(problem);
                return None;
            }
        };
        self.unreadable = None;
        let is_being_written = text.is_empty() && !std::mem::replace(&mut self.was_empty, true);
        self.was_empty = text.is_empty();
        let hash = FixedState::default().hash_one(&text);
        if self.served == Some(hash) || self.served.is_some() && is_being_written {
            return None;
        }
        self.served = Some(hash);
        let (hosts, bad) = Hosts::parse(&text, &self.domain);
        self.report(bad);
        Some(hosts)
    }

    fn text(&self) -> Result<String, String> {
        let failed = |error: std::io::Error| format!("cannot be read: {error}");
        let metadata = std::fs::metadata(&self.file).map_err(failed)?;
        // A pipe or a device may have no end.
        if !metadata.is_file() {
            return Err("is not a file".to_owned());
        }
        if metadata.len() > MAX_FILE {
            return Err(format!("is larger than {} MiB", MAX_FILE >> 20));
        }
        let octets = std::fs::read(&self.file).map_err(failed)?;
        Ok(String::from_utf8_lossy(&octets).into_owned())
    }

    /// Logs what is wrong and was not wrong before.
    fn report(&mut self, bad: Vec<BadLine>) {
        let file = self.file.display();
        let fresh: Vec<_> = bad.iter().filter(|bad| !self.problems.contains(bad)).collect();
        for BadLine { number, problem } in fresh.iter().take(MAX_LOGGED) {
            tracing::warn!(%file, line = number, "--hosts: {problem}");
        }
        if fresh.len() > MAX_LOGGED {
            let more = fresh.len() - MAX_LOGGED;
            tracing::warn!(%file, "--hosts: {more} more lines have errors");
        }
        self.problems = bad;
        self.problems.truncate(MAX_LOGGED);
    }

    /// Follows the file for as long as the process lives.
    pub(crate) async fn follow(mut self, shared: Arc<Shared>, mut looks: Looks) {
        loop {
            looks.next().await;
            // A file system may block.
            let read = tokio::task::spawn_blocking(move || {
                let hosts = self.read();
                (self, hosts.map(Arc::new))
            });
            let Ok((this, hosts)) = read.await else { return };
            self = this;
            if let Some(hosts) = hosts {
                tracing::info!(file = %self.file.display(), names = hosts.len(), "hosts changed");
                shared.local.rcu(|before| Local { hosts: hosts.clone(), ..Local::clone(before) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_may_come_late_and_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hosts");
        let domain = Name::from_text("cluster.local").unwrap();
        let mut hosts = HostsFile::new(file.clone(), domain);
        let mut check = |text: Option<&str>, names: Option<usize>| {
            match text {
                Some(text) => std::fs::write(&file, text).unwrap(),
                None => drop(std::fs::remove_file(&file)),
            }
            assert_eq!(hosts.read().map(|hosts| hosts.len()), names, "{text:?}");
        };
        check(None, None);
        check(Some("10.0.0.1 a b\n"), Some(2));
        check(Some("10.0.0.1 a b\n"), None);
        // What was read last is served while there is no file.
        check(None, None);
        check(Some("10.0.0.1 a b\n"), None);
        check(Some("10.0.0.1 a b\nbroken\n"), Some(2));
        // An empty file may be one that is being written.
        check(Some(""), None);
        check(Some("10.0.0.1 a\n"), Some(1));
        check(Some(""), None);
        check(Some(""), Some(0));
        check(Some(""), None);
    }
}
