//! Finds upstreams that forward to us, and names them in the log and in readiness.
//!
//! Runs on the control runtime. A check is made only when a question may have come back (the same
//! question from another client while it is in flight, or a question from an upstream's address),
//! so that upstreams are not asked needlessly. Clients are protected without it: equal questions
//! in flight are one and failures are remembered, so a loop dies out by itself.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use daemon::{Guard, Readiness};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::probe::Probe;
use super::upstreams::Forwarding;

/// How long probes may take to come back.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// Between checks while there is no loop.
const PAUSE: Duration = Duration::from_secs(60);
/// Between checks while there is one: how soon readiness returns.
const LOOP_PAUSE: Duration = Duration::from_secs(10);
/// A probe's answer needs no more.
const MAX_ANSWER: usize = 512;

/// Checks for loops, for as long as the process lives.
pub(crate) async fn watch(forwarding: Arc<Forwarding>, readiness: Readiness) {
    let mut reported: Vec<(SocketAddr, Guard)> = Vec::new();
    loop {
        tokio::select! {
            () = forwarding.probes.suspected() => {}
            () = sleep(LOOP_PAUSE), if !reported.is_empty() => {}
        }
        let loops = check(&forwarding).await;
        forwarding.set_loops(&loops);
        reported.retain(|(upstream, _)| {
            let remains = loops.contains(upstream);
            if !remains {
                tracing::info!(%upstream, "upstream no longer forwards to this server");
            }
            remains
        });
        for upstream in loops {
            if reported.iter().all(|(known, _)| *known != upstream) {
                let reason = format!(
                    "forwarding loop: upstream {upstream} forwards to this server; \
                     change --upstream here or the forwarders there"
                );
                tracing::warn!("{reason}");
                reported.push((upstream, readiness.block(reason)));
            }
        }
        if reported.is_empty() {
            sleep(PAUSE).await;
        }
        forwarding.probes.rearm();
    }
}

/// Sends a probe to each upstream; those whose probe came back.
async fn check(forwarding: &Forwarding) -> Vec<SocketAddr> {
    let servers = forwarding.upstreams.load().servers.clone();
    let probes = forwarding.probes.set(servers.into_iter().map(Probe::new).collect());
    let mut sent = JoinSet::new();
    for probe in probes.iter() {
        let (upstream, message) = (probe.upstream, probe.message());
        sent.spawn(async move {
            let answered = timeout(PROBE_TIMEOUT, send(upstream, &message)).await;
            tracing::debug!(%upstream, ?answered, "loop probe");
        });
    }
    while sent.join_next().await.is_some() {}
    forwarding.probes.set(Vec::new());
    let loops = probes.iter().filter(|probe| probe.came_back());
    loops.map(|probe| probe.upstream).collect()
}

/// Sends a probe and waits for an answer: our own, if it came back.
async fn send(upstream: SocketAddr, message: &[u8]) -> std::io::Result<()> {
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(message).await?;
    socket.recv(&mut [0; MAX_ANSWER]).await.map(drop)
}
