//! Finds upstreams that forward to us, leaves them unused, and names them in the log and in
//! readiness.
//!
//! Runs on the control runtime. A check is made at the start, each minute, and when a question may
//! have come back (the same question from another client while it is in flight, or a question from
//! an upstream's address). Clients are protected without it: equal questions in flight are one and
//! failures are remembered, so a loop dies out by itself.

use std::sync::Arc;
use std::time::Duration;

use daemon::{Guard, Readiness};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::once;
use super::packet::{Form, Packet};
use super::probe::Probe;
use super::server::Server;
use super::upstreams::Forwarding;

/// How long probes may take to come back.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Between checks while there is no loop and no suspicion.
const PAUSE: Duration = Duration::from_secs(60);
/// Between checks while there is a loop, which is how soon readiness returns; and the least time
/// between two checks.
const LOOP_PAUSE: Duration = Duration::from_secs(10);

/// Checks for loops, for as long as the process lives.
pub(crate) async fn watch(forwarding: Arc<Forwarding>, readiness: Readiness) {
    let mut reported: Vec<(Arc<Server>, Guard)> = Vec::new();
    loop {
        let servers = forwarding.servers();
        let loops = check(&forwarding, &servers).await;
        for server in &servers {
            server.set_loop(is_in(&loops, server));
        }
        reported.retain(|(server, _)| {
            let remains = is_in(&loops, server);
            if !remains {
                let upstream = &server.address;
                tracing::info!(%upstream, "upstream no longer forwards to this server");
            }
            remains
        });
        for server in loops {
            if reported.iter().all(|(known, _)| !Arc::ptr_eq(known, &server)) {
                let reason = format!(
                    "forwarding loop: upstream {} forwards to this server and is not used; \
                     change --upstream here or the forwarders there",
                    server.address
                );
                tracing::warn!("{reason}");
                reported.push((server, readiness.block(reason)));
            }
        }
        sleep(LOOP_PAUSE).await;
        forwarding.probes.rearm();
        tokio::select! {
            () = forwarding.probes.suspected() => {}
            () = sleep(PAUSE - LOOP_PAUSE), if reported.is_empty() => {}
            () = std::future::ready(()), if !reported.is_empty() => {}
        }
    }
}

fn is_in(servers: &[Arc<Server>], server: &Arc<Server>) -> bool {
    servers.iter().any(|other| Arc::ptr_eq(other, server))
}

/// Sends a probe to each upstream; those whose probe came back.
async fn check(forwarding: &Arc<Forwarding>, servers: &[Arc<Server>]) -> Vec<Arc<Server>> {
    let probes = forwarding.probes.set(servers.iter().cloned().map(Probe::new).collect());
    let mut sent = JoinSet::new();
    for probe in probes.iter() {
        let server = probe.server.clone();
        let padded = server.address.tls_name.is_some();
        let form = Form { edns: padded, padded, letters: None };
        let packet = Packet::new(&probe.question(), rand::random(), form);
        let tls = forwarding.tls.clone();
        sent.spawn(async move {
            // The answer is our own, if the probe came back.
            let asked = once::ask(&server, &packet, tls.as_ref());
            let answered = timeout(PROBE_TIMEOUT, asked).await;
            let is_answered = matches!(answered, Ok(Ok(_)));
            tracing::debug!(upstream = %server.address, is_answered, "loop probe");
        });
    }
    while sent.join_next().await.is_some() {}
    forwarding.probes.set(Vec::new());
    let loops = probes.iter().filter(|probe| probe.came_back());
    loops.map(|probe| probe.server.clone()).collect()
}
