//! Probes: names that nobody else can guess, which come back only if an upstream forwards to us.
//!
//! Two servers that name each other as upstream, or one whose upstreams relay to it, cannot answer
//! anything. Shared memory of this check: the probes that are out, and whether a check is needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::wire::{Name, Query, Type, flag};

use super::question::{Key, Question};
use super::server::Server;

/// The top-level domain of probes. It does not exist, so other servers answer NXDOMAIN.
const DOMAIN: &str = "switchyard-loop-probe";

/// The probes of this process.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    suspected: AtomicBool,
    wake: Notify,
    sent: ArcSwap<Vec<Probe>>,
}

/// A question that only this process and the upstream know.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) server: Arc<Server>,
    name: Name,
    came_back: AtomicBool,
}

impl Probe {
    pub(crate) fn new(server: Arc<Server>) -> Probe {
        let secret: u128 = rand::random();
        let name = Name::from_text(&format!("{secret:032x}.{DOMAIN}"));
        let name = name.expect("32 digits and a domain are a name");
        Probe { server, name, came_back: AtomicBool::new(false) }
    }

    /// The question to ask.
    pub(crate) fn question(&self) -> Question {
        let mut query = Query::new();
        query.qtype = Type::TXT;
        query.flags = flag::RD;
        Question::of(&Key::new(&query, self.name.wire()))
    }

    pub(crate) fn came_back(&self) -> bool {
        self.came_back.load(Relaxed)
    }
}

impl Probes {
    /// Asks for a check, because a question may have come back to us.
    pub(crate) fn suspect(&self) {
        if !self.suspected.swap(true, Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Resolves when a check was asked for.
    pub(crate) async fn suspected(&self) {
        self.wake.notified().await;
    }

    /// Takes further requests for a check.
    pub(crate) fn rearm(&self) {
        self.suspected.store(false, Relaxed);
    }

    /// Recognises these probes from now on, and no others.
    pub(crate) fn set(&self, probes: Vec<Probe>) -> Arc<Vec<Probe>> {
        let probes = Arc::new(probes);
        self.sent.store(probes.clone());
        probes
    }

    /// Whether a name is one of our probes. Takes note that it came back.
    pub(crate) fn is_probe(&self, name: &Name) -> bool {
        let sent = self.sent.load();
        let probe = sent.iter().find(|probe| probe.name == *name);
        probe.inspect(|probe| probe.came_back.store(true, Relaxed)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_recognised_while_they_are_out() {
        let probes = Probes::default();
        let address: std::net::SocketAddr = "10.0.0.1:53".parse().unwrap();
        let server = Arc::new(Server::new(address.into(), std::time::Instant::now()));
        let sent = probes.set(vec![Probe::new(server.clone()), Probe::new(server)]);
        let mut query = Query::new();
        query.parse(&sent[1].question().message(1, true)).unwrap();
        assert!(probes.is_probe(&query.name));
        assert!(!sent[0].came_back() && sent[1].came_back());
        let other = Name::from_text(&format!("{:032x}.{DOMAIN}", 0)).unwrap();
        assert!(!probes.is_probe(&other));
        probes.set(Vec::new());
        assert!(!probes.is_probe(&query.name));
    }
}
