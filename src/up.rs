//! `switchyard up DIR`: feed, proxy, ingress and dns as child processes for one folder.
//!
//! The feed serves the folder to the other three over loopback. A process that ends does not affect
//! the others and is restarted. While the feed is down, the others serve their last state. Flags of
//! the children that are not defined here are passed on to them ([`crate::passed`]).

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::Failure;
use daemon::flags::{parse_address, parse_duration};
use feed::own_token;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::children::{Address, Plan, end_signal};
use crate::demo::client;
use crate::passed::Passed;
use crate::scratch::Scratch;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Config {
    /// Folder of manifests
    dir: PathBuf,

    /// Plain HTTP address of the ingress
    #[arg(long, env = "SWITCHYARD_HTTP", value_name = "ADDR",
        default_value = "0.0.0.0:8080", value_parser = parse_address)]
    http: SocketAddr,

    /// HTTPS address of the ingress
    #[arg(long, env = "SWITCHYARD_HTTPS", value_name = "ADDR",
        default_value = "0.0.0.0:8443", value_parser = parse_address)]
    https: SocketAddr,

    /// DNS address, UDP and TCP
    #[arg(long, env = "SWITCHYARD_DNS", value_name = "ADDR",
        default_value = "0.0.0.0:1053", value_parser = parse_address)]
    dns: SocketAddr,

    /// Address to serve NodePorts on; default: all addresses
    #[arg(long, env = "SWITCHYARD_NODE_IP", value_name = "IP", value_delimiter = ',')]
    node_ip: Vec<IpAddr>,

    /// Loopback address at which the feed serves the folder to the other processes and to kubectl
    ///
    /// To serve other machines, run `switchyard feed` by itself, with TLS and tokens.
    #[arg(
        long,
        env = "SWITCHYARD_FEED_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:7400",
        value_parser = parse_address
    )]
    feed_listen: SocketAddr,

    /// Address of the admin endpoints, which use ports 7401, 7411, 7421 and 7431
    #[arg(long, env = "SWITCHYARD_ADMIN_IP", value_name = "IP", default_value = "127.0.0.1")]
    admin_ip: IpAddr,

    /// Folder in which all processes keep the last good state; default: only the feed keeps one, in
    /// a temporary folder that is deleted at the end
    #[arg(long, env = "SWITCHYARD_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// How long connections and requests in flight may take to end after SIGTERM
    #[arg(long, env = "SWITCHYARD_DRAIN_TIMEOUT", value_name = "TIME", default_value = "30s",
        value_parser = parse_duration)]
    drain_timeout: Duration,

    #[command(flatten)]
    passed: Passed,
}

/// The admin ports of the processes.
pub(crate) const FEED_ADMIN: u16 = 7401;
pub(crate) const PROXY_ADMIN: u16 = 7411;
pub(crate) const INGRESS_ADMIN: u16 = 7421;
pub(crate) const DNS_ADMIN: u16 = 7431;

impl Config {
    /// What `up` runs for a folder when every address has that IP and its usual port: for the
    /// demo.
    pub(crate) fn on(dir: PathBuf, ip: IpAddr) -> Config {
        Config {
            dir,
            http: SocketAddr::new(ip, 8080),
            https: SocketAddr::new(ip, 8443),
            dns: SocketAddr::new(ip, 1053),
            node_ip: vec![ip],
            feed_listen: SocketAddr::new(ip, 7400),
            admin_ip: ip,
            state_dir: None,
            drain_timeout: Duration::from_secs(2),
            passed: Passed::default(),
        }
    }

    /// The feed's process, to be started first.
    pub(crate) fn feed_plan(&self) -> Plan {
        let dir = flag("--dir", self.dir.display().to_string());
        let listen = flag("--listen", self.feed_listen.to_string());
        let address = self.feed_listen;
        let vital = format!("the feed exited before it served {address}: see its message above");
        let own = tcp(self.feed_listen, "--feed-listen");
        let plan = self.plan("feed", FEED_ADMIN, [dir, listen].concat(), vec![own]);
        Plan { vital: Some(vital), ..plan }
    }

    /// The processes that follow the feed.
    pub(crate) fn plans(&self) -> Vec<Plan> {
        let plan = |name, admin_port, own: Vec<String>, addresses| {
            let feed = flag("--feed", format!("http://{}", self.feed_listen));
            self.plan(name, admin_port, feed.into_iter().chain(own).collect(), addresses)
        };
        let node_ips = self.node_ip.iter().flat_map(|ip| flag("--node-ip", ip.to_string()));
        let http = flag("--http", self.http.to_string());
        let https = flag("--https", self.https.to_string());
        let dns = flag("--listen", self.dns.to_string()).into();
        let of_ingress = vec![tcp(self.http, "--http"), tcp(self.https, "--https")];
        let of_dns = vec![Address { udp: true, ..tcp(self.dns, "--dns") }];
        vec![
            plan("proxy", PROXY_ADMIN, node_ips.collect(), vec![]),
            plan("ingress", INGRESS_ADMIN, [http, https].concat(), of_ingress),
            plan("dns", DNS_ADMIN, dns, of_dns),
        ]
    }

    fn plan(
        &self,
        name: &'static str,
        admin_port: u16,
        own: Vec<String>,
        mut addresses: Vec<Address>,
    ) -> Plan {
        let admin = SocketAddr::new(self.admin_ip, admin_port);
        addresses.push(tcp(admin, "--admin-ip"));
        let admin = admin.to_string();
        let state_dir = self.state_dir.as_ref().map(|dir| dir.display().to_string());
        let state_dir = state_dir.into_iter().flat_map(|dir| flag("--state-dir", dir));
        let drain = flag("--drain-timeout", format!("{}ms", self.drain_timeout.as_millis()));
        let args = flag("--admin", admin).into_iter().chain(drain).chain(state_dir).chain(own);
        let args = args.chain(self.passed.to(name)).collect();
        Plan { name, args, vital: None, addresses }
    }
}

fn tcp(at: SocketAddr, flag: &'static str) -> Address {
    Address { at, flag, udp: false }
}

fn flag(name: &str, value: String) -> [String; 2] {
    [name.to_owned(), value]
}

/// Runs all processes until SIGTERM or SIGINT, then drains them.
///
/// # Errors
///
/// When the folder does not exist, an address is in use, the folder for tokens is not this user's
/// alone, a process says that its configuration cannot work, or the feed does not start.
pub(crate) async fn run(config: Config, log: &daemon::LogFlags) -> Result<(), Failure> {
    if !config.dir.is_dir() {
        return Err(Failure::Configuration(format!("{} is not a folder", config.dir.display())));
    }
    if !config.feed_listen.ip().is_loopback() {
        let address = config.feed_listen;
        return Err(Failure::Configuration(format!(
            "--feed-listen {address}: not on loopback; to serve other machines, run `switchyard \
             feed` by itself, with TLS and tokens"
        )));
    }
    check_token_folder(&own_token::folders()[0])?;
    let end = end_signal().map_err(|error| Failure::failed("cannot listen to signals", error))?;
    // The feed ends last, so that the processes that follow it do not lose it during their drain.
    let (mut feed, mut followers) = (Group::default(), Group::default());
    let (mut feed_plan, _private) = with_private_state(&config)?;
    let plans = config.plans();
    refuse_taken_addresses(plans.iter().chain([&feed_plan]))?;
    feed_plan.args.extend(log.args());
    let feed_is_up = feed.supervise(feed_plan, std::future::ready(()));
    let mut are_up = vec![feed_is_up.clone()];
    for mut plan in plans {
        plan.args.extend(log.args());
        // An answer at its address is not enough: another program could have it.
        let mut feed_is_up = feed_is_up.clone();
        are_up.push(followers.supervise(plan, async move {
            if feed_is_up.wait_for(|up| *up).await.is_err() {
                // It will never be ready: this process ends with the error that says why.
                std::future::pending::<()>().await;
            }
        }));
    }
    tokio::spawn(announce(config, are_up));
    let failed = tokio::select! {
        () = end => None,
        ended = feed.next() => Some(ended),
        ended = followers.next() => Some(ended),
    };
    let rest = followers.stop().await.into_iter().chain(feed.stop().await);
    failed.into_iter().chain(rest).collect()
}

/// Fails if the processes could not read the feed's Secrets: they would wait for them without end.
fn check_token_folder(folder: &Path) -> Result<(), Failure> {
    let what = "the processes cannot read the Secrets of the feed";
    own_token::prepare(folder).map_err(|error| Failure::failed(what, error))
}

/// The feed's process with a state folder, so that after a restart it still has the last good state
/// of a manifest that was broken in the meantime. Unless the flags name a folder, a temporary one
/// is used, which is deleted when the returned `Scratch` is dropped.
fn with_private_state(config: &Config) -> Result<(Plan, Option<Scratch>), Failure> {
    if config.state_dir.is_some() {
        return Ok((config.feed_plan(), None));
    }
    let failed = |error| Failure::failed("cannot create a folder for the feed's state", error);
    let scratch = Scratch::new("switchyard-up-").map_err(failed)?;
    let state_dir = Some(scratch.folder("state").map_err(failed)?);
    Ok((Config { state_dir, ..config.clone() }.feed_plan(), Some(scratch)))
}

/// Fails if an address of a process cannot be bound: a restart would not help, and the processes
/// that do start would serve half of the folder.
fn refuse_taken_addresses<'p>(plans: impl Iterator<Item = &'p Plan>) -> Result<(), Failure> {
    let problems: Vec<String> = plans
        .filter_map(|plan| {
            let problem = plan.unusable_addresses()?;
            Some(format!("{}: {problem}", plan.name))
        })
        .collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Failure::Failed { what: problems.join("; "), source: None }),
    }
}

/// Logs one line once every process is ready: where to send requests, and what is served.
async fn announce(config: Config, are_up: Vec<watch::Receiver<bool>>) {
    for mut is_up in are_up {
        if is_up.wait_for(|up| *up).await.is_err() {
            return;
        }
    }
    let host = match config.http.ip() {
        ip if ip.is_unspecified() => "localhost".to_owned(),
        IpAddr::V6(ip) => format!("[{ip}]"),
        IpAddr::V4(ip) => ip.to_string(),
    };
    let admin = SocketAddr::new(config.admin_ip, FEED_ADMIN);
    let status = client::get(admin, &format!("http://{admin}/status")).await;
    let served = status.ok().and_then(|answer| summary(&answer.body)).unwrap_or_default();
    tracing::info!("ready: http://{host}:{}{served}", config.http.port());
}

/// A summary of the feed's `/status`: ` (3 Services, 1 warning)`.
fn summary(status: &[u8]) -> Option<String> {
    let status: serde_json::Value = serde_json::from_slice(status).ok()?;
    let feed = status.get("feed")?;
    let count = |member: &str| feed.get(member).and_then(serde_json::Value::as_u64);
    let counted = |count: u64, what: &str| {
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {what}{plural}")
    };
    let services = feed.pointer("/objects/Service").and_then(serde_json::Value::as_u64);
    let mut parts = vec![counted(services.unwrap_or(0), "Service")];
    for (member, what) in [("errors", "error"), ("warnings", "warning")] {
        parts.extend(count(member).filter(|count| *count > 0).map(|count| counted(count, what)));
    }
    Some(format!(" ({})", parts.join(", ")))
}

/// Processes that are stopped together.
#[derive(Default)]
struct Group {
    stop: watch::Sender<bool>,
    processes: JoinSet<Result<(), Failure>>,
}

impl Group {
    /// Runs a process from `begin` until the group stops. The returned channel has true once it is
    /// ready for the first time.
    fn supervise(
        &mut self,
        plan: Plan,
        begin: impl Future<Output = ()> + Send + 'static,
    ) -> watch::Receiver<bool> {
        let mut stopped = self.stop.subscribe();
        let (up, is_up) = watch::channel(false);
        self.processes.spawn(async move {
            let mut stop = std::pin::pin!(async move {
                // An error means that the sender was dropped, which also means: stop.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            });
            tokio::select! {
                () = &mut stop => return Ok(()),
                () = begin => {}
            }
            plan.supervise(stop, &up).await
        });
        is_up
    }

    /// Waits for the next process that ends and is not restarted.
    async fn next(&mut self) -> Result<(), Failure> {
        match self.processes.join_next().await {
            Some(ended) => {
                ended.unwrap_or_else(|panic| Err(Failure::failed("a supervisor ended", panic)))
            }
            None => std::future::pending().await,
        }
    }

    async fn stop(self) -> Vec<Result<(), Failure>> {
        self.stop.send_replace(true);
        self.processes.join_all().await
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_folder_that_is_open_to_others_is_an_error() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("switchyard");
        check_token_folder(&folder).unwrap();
        std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        let failure = check_token_folder(&folder).unwrap_err();
        let cause = failure.source().unwrap().to_string();
        assert!(cause.ends_with("switchyard is open to others: chmod 700 it"), "{cause}");
    }
}
