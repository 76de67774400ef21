//! The servers of the system's resolver, from its resolv.conf(5), which is followed: programs such
//! as DHCP clients and Docker write it at any time, also after we have started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::looks::Looks;
use crate::machine;

use super::upstreams::{self, DNS_PORT, Forwarding};

/// The number of servers that resolvers use (resolv.conf(5)).
const MAX_NAME_SERVERS: usize = 3;

/// Follows the file.
#[derive(Debug)]
pub(crate) struct ResolvConf {
    file: PathBuf,
    listeners: Vec<SocketAddr>,
    last: Content,
}

/// The content of the file, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    servers: Vec<SocketAddr>,
    /// What is wrong with it.
    problems: Vec<String>,
}

impl ResolvConf {
    /// `listeners` are our own, which are never used as upstreams.
    pub(crate) fn new(file: PathBuf, listeners: Vec<SocketAddr>) -> ResolvConf {
        ResolvConf { file, listeners, last: Content::default() }
    }

    /// Reads the file. The servers to use from now on, if that has changed.
    pub(crate) fn read(&mut self) -> Option<Vec<SocketAddr>> {
        let content = match std::fs::read_to_string(&self.file) {
            Ok(text) => Content::parse(&text),
            Err(error) => {
                Content { servers: Vec::new(), problems: vec![format!("cannot be read: {error}")] }
            }
        };
        if content == self.last {
            return None;
        }
        let file = self.file.display();
        for problem in content.problems.iter().filter(|p| !self.last.problems.contains(p)) {
            tracing::warn!(%file, "{problem}");
        }
        self.last.problems.clone_from(&content.problems);
        // A file that is being written is empty for a moment.
        if content.servers.is_empty() || content.servers == self.last.servers {
            return None;
        }
        self.last.servers.clone_from(&content.servers);
        let addresses = machine::addresses();
        let is_ours = |server: &SocketAddr| {
            upstreams::is_ourselves(*server, &self.listeners, |ip| addresses.contains(&ip))
        };
        let others: Vec<_> = content.servers.into_iter().filter(|s| !is_ours(s)).collect();
        if others.is_empty() {
            tracing::warn!(%file, "every nameserver is this server itself: set --upstream");
        }
        Some(others)
    }

    /// Follows the file for as long as the process lives.
    pub(crate) async fn follow(mut self, forwarding: Arc<Forwarding>, mut looks: Looks) {
        loop {
            looks.next().await;
            // A file system may block.
            let read = tokio::task::spawn_blocking(move || {
                let servers = self.read();
                (self, servers)
            });
            let Ok((this, servers)) = read.await else { return };
            self = this;
            if let Some(servers) = servers {
                let file = self.file.display();
                tracing::info!(%file, upstreams = ?servers, "upstreams changed");
                forwarding.set_servers(&servers);
            }
        }
    }
}

impl Content {
    /// The `nameserver` lines of a resolv.conf(5).
    fn parse(text: &str) -> Content {
        let mut content = Content::default();
        let mut lines = 0;
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some("nameserver") || lines == MAX_NAME_SERVERS {
                continue;
            }
            lines += 1;
            let word = words.next().unwrap_or_default();
            match upstreams::server_at(word, DNS_PORT) {
                Ok(server) => content.servers.push(server),
                Err(problem) => {
                    content.problems.push(format!("nameserver {}: {problem}", word.escape_debug()));
                }
            }
        }
        if lines == 0 {
            let problem = "no nameserver line: the upstreams do not change until there is one";
            content.problems.push(problem.to_owned());
        }
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameserver_lines() {
        let check = |text: &str, servers: &[&str], problems: usize| {
            let content = Content::parse(text);
            let found: Vec<String> = content.servers.iter().map(ToString::to_string).collect();
            assert_eq!(found, servers, "{text}");
            assert_eq!(content.problems.len(), problems, "{text}: {:?}", content.problems);
        };
        check("", &[], 1);
        check("search example\n", &[], 1);
        check("nameserver 127.0.0.11\noptions ndots:0\n", &["127.0.0.11:53"], 0);
        check("# nameserver 1.1.1.1\nsearch a b\n nameserver\t9.9.9.9 # x\n", &["9.9.9.9:53"], 0);
        check("nameserver fd00::1\nnameserver bogus\nnameserver", &["[fd00::1]:53"], 2);
        check("nameserver fe80::1%lo\n", &["[fe80::1%1]:53"], 0);
        check("nameserver fe80::1%nosuch0\nnameserver 9.9.9.9\n", &["9.9.9.9:53"], 1);
        check(&"nameserver 1.1.1.1\n".repeat(9), &["1.1.1.1:53"; 3], 0);
    }

    #[test]
    fn the_file_may_come_late_and_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        let listener = "127.0.0.1:53".parse().unwrap();
        let mut conf = ResolvConf::new(file.clone(), vec![listener]);
        let mut check = |text: Option<&str>, expected: Option<&[&str]>| {
            match text {
                Some(text) => std::fs::write(&file, text).unwrap(),
                None => drop(std::fs::remove_file(&file)),
            }
            let read = conf.read();
            let read = read.map(|s| s.iter().map(ToString::to_string).collect::<Vec<_>>());
            let expected = expected.map(|e| e.iter().map(ToString::to_string).collect());
            assert_eq!(read, expected, "{text:?}");
        };
        check(None, None);
        check(Some(""), None);
        check(Some("nameserver 10.0.0.1\n"), Some(&["10.0.0.1:53"]));
        check(Some("nameserver 10.0.0.1\nsearch example\n"), None);
        // What cannot be used changes nothing.
        check(Some(""), None);
        check(None, None);
        check(Some("nameserver bogus\n"), None);
        check(Some("nameserver 10.0.0.1\n"), None);
        check(Some("nameserver 127.0.0.1\nnameserver 10.0.0.2\n"), Some(&["10.0.0.2:53"]));
        check(Some("nameserver 127.0.0.1\n"), Some(&[]));
    }
}
