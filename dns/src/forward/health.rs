//! Probes servers that are down, so that they are used again without a client having to wait for
//! them, and logs which are down.
//!
//! Runs on the control runtime. A probe asks for the name servers of the root, which every server
//! that forwards has in its cache; any reply shows that the server is alive.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::wire::{Name, Query, Type, flag};

use super::once;
use super::packet::{Form, Packet};
use super::question::{Key, Question};
use super::server::{LetterCase, Server};
use super::upstreams::Forwarding;

/// How long a probe may take, with a TLS handshake.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is looked whether something has to be checked.
const LOOK: Duration = Duration::from_secs(5);

/// Watches the servers for as long as the process lives.
pub(crate) async fn watch(forwarding: Arc<Forwarding>) {
    let mut log = HealthLog::default();
    let mut probes = JoinSet::new();
    loop {
        let servers = forwarding.servers();
        log.update(&servers);
        let now = Instant::now();
        let mut wake = now + LOOK;
        for server in &servers {
            let is_due = |at: std::time::Instant| at <= now.into_std();
            if server.next_probe().is_some_and(is_due) {
                server.probed(now.into_std());
                probes.spawn(probe(forwarding.clone(), server.clone(), false));
            } else if server.take_edns_check() {
                probes.spawn(probe(forwarding.clone(), server.clone(), true));
            }
            if let Some(next) = server.next_probe() {
                wake = wake.min(Instant::from_std(next));
            }
        }
        tokio::select! {
            () = forwarding.health.notified() => {}
            Some(_) = probes.join_next() => {}
            () = sleep_until(wake) => {}
        }
    }
}

/// Asks a server; with EDNS in any case if that is what has to be checked.
async fn probe(forwarding: Arc<Forwarding>, server: Arc<Server>, checks_edns: bool) {
    let begun = Instant::now();
    let edns = checks_edns || server.uses_edns(false, begun.into_std());
    let packet = root_servers(edns, &server);
    let asked = once::ask(&server, &packet, forwarding.tls.as_ref());
    let reply = timeout(PROBE_TIMEOUT, asked).await;
    let now = Instant::now().into_std();
    match reply {
        Ok(Ok(reply)) => {
            server.answered(begun.elapsed(), now);
            if edns && !once::lacks_edns(&reply) {
                server.edns_works();
            } else if !edns {
                server.plain_answered(now);
            }
        }
        Ok(Err(reason)) => {
            tracing::debug!(upstream = %server.address, %reason, "probe failed");
        }
        Err(_) => server.was_silent(edns),
    }
}

/// The question `. NS`.
fn root_servers(edns: bool, server: &Server) -> Packet {
    let mut query = Query::new();
    query.qtype = Type::NS;
    query.flags = flag::RD;
    let question = Question::of(&Key::new(&query, Name::root().wire()));
    let padded = server.address.tls_name.is_some();
    let letters = (server.letter_case() != LetterCase::Lost).then(rand::random);
    Packet::new(&question, rand::random(), Form { edns, padded, letters })
}

/// What the log says of the servers.
#[derive(Debug, Default)]
struct HealthLog {
    down: Vec<Arc<Server>>,
}

impl HealthLog {
    /// Logs what has changed.
    fn update(&mut self, servers: &[Arc<Server>]) {
        self.down.retain(|server| {
            if !server.is_down() {
                tracing::info!(upstream = %server.address, "upstream answers again");
            }
            server.is_down() && servers.iter().any(|s| Arc::ptr_eq(s, server))
        });
        for server in servers.iter().filter(|server| server.is_down()) {
            if !self.down.iter().any(|known| Arc::ptr_eq(known, server)) {
                let reason = server.down_reason();
                tracing::warn!(upstream = %server.address, %reason, "upstream is down");
                self.down.push(server.clone());
            }
        }
    }
}
