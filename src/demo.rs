//! `switchyard demo`: the whole dataplane on loopback, without privileges, and proof by traffic
//! that each part of it works.
//!
//! The manifests of `configs/demo` are written to a temporary folder, their endpoints are `echo`
//! tasks of this process. The feed is a child process that serves the folder; proxy, ingress and
//! dns are child processes that follow the feed. Every Linux process may bind every address of
//! 127.0.0.0/8, so ClusterIPs live there.

pub(crate) mod client;
mod stage;
mod table;
mod traffic;

use std::future::pending;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::Instant;

use self::stage::{FEED_PORT, MANIFESTS, Stage};
use crate::children::{Plan, Running, end_signal};
use crate::scratch::Scratch;
use crate::{echo, up};

const NETWORKS: std::ops::RangeInclusive<u8> = 96..=126;

/// Endpoints: name, and the last two numbers of the address.
const ENDPOINTS: [(&str, u8, u8); 5] =
    [("web-1", 1, 1), ("web-2", 1, 2), ("web-3", 1, 3), ("api-1", 2, 1), ("api-2", 2, 2)];
const ENDPOINT_PORT: u16 = 9000;

const ADMIN_PORTS: [u16; 4] = [up::FEED_ADMIN, up::PROXY_ADMIN, up::INGRESS_ADMIN, up::DNS_ADMIN];

/// The output is the table, and warnings about edits that are rejected.
const LOG: &str = "warn";

const READY_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Config {
    /// Exit after the first round of traffic: 0 only if every line was as expected
    #[arg(long)]
    once: bool,
}

/// How the demo itself logs.
pub(crate) fn log() -> daemon::LogFlags {
    daemon::LogFlags { format: Some(daemon::flags::LogFormat::Text), filter: Some(LOG.to_owned()) }
}

/// Runs the demo; `Ok(false)` when a line was not as expected.
///
/// # Errors
///
/// When it cannot be set up, for example because its addresses are in use.
pub(crate) async fn run(config: Config) -> anyhow::Result<bool> {
    let mut end = std::pin::pin!(end_signal()?);
    let scratch = Scratch::new("switchyard-demo-")?;
    let folder = scratch.folder("manifests")?;
    let stage = set_stage(&folder)?;
    for (name, third, last) in ENDPOINTS {
        let address = SocketAddr::new(stage.ip(third, last), ENDPOINT_PORT);
        tokio::spawn(echo::serve(echo::Config::named(address, name), pending()));
    }
    let config_of_up = up::Config::on(folder.clone(), stage.ip(0, 1));
    let mut feed = start(config_of_up.feed_plan())?;
    let is_up = tokio::select! {
        () = &mut end => {
            feed.drain().await;
            return Ok(true);
        }
        is_up = feed.is_ready() => is_up,
    };
    if !is_up {
        bail!("the feed exited before it was ready");
    }
    let mut children = vec![feed];
    for plan in config_of_up.plans() {
        children.push(start(plan)?);
    }
    let outcome = tokio::select! {
        () = end => Ok(true),
        outcome = perform(&stage, &mut children, config.once) => outcome,
    };
    // The feed ends last, so that the processes that follow it do not lose it during their drain.
    for child in children.into_iter().rev() {
        child.drain().await;
    }
    outcome
}

async fn perform(stage: &Stage, children: &mut [Running], once: bool) -> anyhow::Result<bool> {
    wait_until_ready(stage, children).await?;
    let mut table = table::Table::new(std::io::stdout());
    traffic::send(stage, &mut table).await?;
    let as_expected = table.finish()?;
    if once {
        return Ok(as_expected);
    }
    print_what_next(stage)?;
    loop {
        for child in children.iter_mut() {
            if let Some(status) = child.ended() {
                bail!("{} ended: {status}", child.name);
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn set_stage(folder: &Path) -> anyhow::Result<Stage> {
    let (second, claim) = free_network()?;
    let hosts = ["shop.example".to_owned(), "*.shop.example".to_owned()];
    let tls = rcgen::generate_simple_self_signed(hosts)?;
    let (folder, certificate) = (folder.to_owned(), tls.cert.der().clone());
    let stage = Stage { second, folder, certificate, _claim: claim };
    for (name, _) in MANIFESTS {
        stage.replace(name, &stage.manifest(name).context("a manifest of the demo")?)?;
    }
    let (certificate, key) = (tls.cert.pem(), tls.signing_key.serialize_pem());
    stage.replace("tls.yaml", &tls_secret(&certificate, &key))?;
    std::fs::write(stage.folder.join("shop.pem"), certificate)?;
    Ok(stage)
}

/// The first network that no other demo uses and whose addresses can be bound. If there is none,
/// the error says which address of the first network could not be bound, and why.
fn free_network() -> anyhow::Result<(u8, UnixListener)> {
    let mut why = None;
    for second in NETWORKS {
        let Some(claim) = claim(second) else { continue };
        match bind_all(second) {
            Ok(()) => return Ok((second, claim)),
            Err((address, error)) => {
                why.get_or_insert_with(|| {
                    format!(
                        "{address}: {error}; does another program, such as `switchyard up`, \
                         listen on port {} of all addresses?",
                        address.port()
                    )
                });
            }
        }
    }
    let why = why.unwrap_or_else(|| "each has a demo that runs".to_owned());
    bail!("no free network from 127.96.0.0/16 to 127.126.0.0/16: {why}")
}

/// Reserves a network for this demo, unless another demo has it. Some addresses are bound only
/// later, so without a reservation two demos that start together could take the same network. The
/// kernel releases the abstract name when the process ends.
fn claim(second: u8) -> Option<UnixListener> {
    let name = format!("switchyard-demo-127.{second}");
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).ok()?;
    UnixListener::bind_addr(&address).ok()
}

/// Binds the demo's main addresses in that network, and closes them at once.
fn bind_all(second: u8) -> Result<(), (SocketAddr, std::io::Error)> {
    let at =
        |third, last, port| SocketAddr::new(Ipv4Addr::new(127, second, third, last).into(), port);
    let node = [8080, 8443, 1053, 30080, FEED_PORT].into_iter().chain(ADMIN_PORTS);
    let node = node.map(|port| at(0, 1, port));
    let endpoints = ENDPOINTS.iter().map(|(_, third, last)| at(*third, *last, ENDPOINT_PORT));
    for address in node.chain(endpoints) {
        TcpListener::bind(address).map_err(|error| (address, error))?;
    }
    for address in [1053, 30080].map(|port| at(0, 1, port)) {
        UdpSocket::bind(address).map_err(|error| (address, error))?;
    }
    Ok(())
}

fn tls_secret(certificate: &str, key: &str) -> String {
    let indented = |pem: &str| pem.trim().replace('\n', "\n    ");
    format!(
        "# Made by the demo at its start.\napiVersion: v1\nkind: Secret\nmetadata:\n  \
         name: shop-tls\n  namespace: demo\ntype: kubernetes.io/tls\nstringData:\n  \
         tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        indented(certificate),
        indented(key)
    )
}

fn start(mut plan: Plan) -> anyhow::Result<Running> {
    let quiet = ["--log", LOG, "--log-format", "text"];
    plan.args.extend(quiet.map(str::to_owned));
    plan.start().with_context(|| format!("cannot start {}", plan.name))
}

async fn wait_until_ready(stage: &Stage, children: &mut [Running]) -> anyhow::Result<()> {
    let begun = Instant::now();
    for port in ADMIN_PORTS {
        while !client::is_ready(stage.node(port)).await {
            for child in children.iter_mut() {
                if let Some(status) = child.ended() {
                    bail!("{} ended: {status}", child.name);
                }
            }
            if begun.elapsed() > READY_TIMEOUT {
                bail!("http://{}/readyz is not 200 after {READY_TIMEOUT:?}", stage.node(port));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

fn print_what_next(stage: &Stage) -> std::io::Result<()> {
    let folder = stage.folder.display();
    let (node, cluster_ip) = (stage.ip(0, 1), stage.ip(0, 10));
    let proxy = up::PROXY_ADMIN;
    let kinds = "services,endpointslices,ingresses";
    let https = "https://shop.example:8443/";
    let commands = [
        ("a ClusterIP", format!("curl http://{cluster_ip}:8000/")),
        ("a NodePort", format!("curl http://{node}:30080/")),
        ("the ingress", format!("curl -H 'Host: shop.example' http://{node}:8080/api")),
        (
            "the ingress over TLS",
            format!(
                "curl --resolve shop.example:8443:{node} \\\n    \
                 --cacert {folder}/shop.pem {https}"
            ),
        ),
        ("cluster DNS", format!("dig -p 1053 @{node} web.demo.svc.cluster.local")),
        ("what the proxy serves", format!("curl http://{node}:{proxy}/status")),
        (
            "the feed, a Kubernetes API",
            format!("kubectl --server http://{node}:{FEED_PORT} get -A \\\n    {kinds}"),
        ),
    ];
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nNow try it yourself, in another terminal:\n")?;
    for (what, command) in commands {
        writeln!(out, "  # {what}\n  {command}")?;
    }
    writeln!(
        out,
        "
The manifests are in {folder}
Edit one, save it, and send the request again: the change is served at once.
Ctrl-C ends the demo and everything it started."
    )
}
