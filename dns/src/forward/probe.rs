//! Probes: names that nobody else can guess, which come back only if an upstream forwards to us.
//!
//! Two servers that name each other as upstream, or one whose upstreams relay to it, cannot answer
//! anything. Shared memory of this check: the probes that are out, and whether a check is needed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::wire::{Class, Name, Type, flag};

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
    pub(crate) upstream: SocketAddr,
    name: Name,
    came_back: AtomicBool,
}

impl Probe {
    pub(crate) fn new(upstream: SocketAddr) -> Probe {
        let secret: u128 = rand::random();
        let name = Name::from_text(&format!("{secret:032x}.{DOMAIN}"));
        let name = name.expect("32 digits and a domain are a name");
        Probe { upstream, name, came_back: AtomicBool::new(false) }
    }

    /// The query to send.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut message = Vec::new();
        for word in [rand::random(), flag::RD, 1, 0, 0, 0] {
            message.extend_from_slice(&u16::to_be_bytes(word));
        }
        message.extend_from_slice(self.name.wire());
        message.extend_from_slice(&Type::TXT.0.to_be_bytes());
        message.extend_from_slice(&Class::IN.0.to_be_bytes());
        message
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
    pub(crate) fn set(&self, probes: Vec<Probe>) -> std::sync::Arc<Vec<Probe>> {
        let probes = std::sync::Arc::new(probes);
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
    use crate::wire::Query;

    #[test]
    fn probes_are_recognised_while_they_are_out() {
        let probes = Probes::default();
        let upstream = "10.0.0.1:53".parse().unwrap();
        let sent = probes.set(vec![Probe::new(upstream), Probe::new(upstream)]);
        let mut query = Query::new();
        query.parse(&sent[1].message()).unwrap();
        assert!(probes.is_probe(&query.name));
        assert!(!sent[0].came_back() && sent[1].came_back());
        let other = Name::from_text(&format!("{:032x}.{DOMAIN}", 0)).unwrap();
        assert!(!probes.is_probe(&other));
        probes.set(Vec::new());
        assert!(!probes.is_probe(&query.name));
    }
}
