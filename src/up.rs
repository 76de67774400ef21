//! `switchyard up DIR`: proxy, ingress and dns as child processes for one folder.
//!
//! Every process follows the folder by itself, so one that dies takes nothing with it; it is
//! started again. Flags that are not here reach the children through the environment.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::children::{Plan, end_signal};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Config {
    /// Folder of manifests
    dir: PathBuf,

    /// Plain HTTP address of the ingress
    #[arg(long, env = "SWITCHYARD_HTTP", value_name = "ADDR", default_value = "0.0.0.0:8080")]
    http: SocketAddr,

    /// HTTPS address of the ingress
    #[arg(long, env = "SWITCHYARD_HTTPS", value_name = "ADDR", default_value = "0.0.0.0:8443")]
    https: SocketAddr,

    /// DNS address, UDP and TCP
    #[arg(long, env = "SWITCHYARD_DNS", value_name = "ADDR", default_value = "0.0.0.0:1053")]
    dns: SocketAddr,

    /// Address to serve NodePorts on; default: all
    #[arg(long, env = "SWITCHYARD_NODE_IP", value_name = "IP", value_delimiter = ',')]
    node_ip: Vec<IpAddr>,

    /// Address that the three admin endpoints are on, at ports 7411, 7421 and 7431
    #[arg(long, env = "SWITCHYARD_ADMIN_IP", value_name = "IP", default_value = "127.0.0.1")]
    admin_ip: IpAddr,
}

/// The admin ports of the processes.
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
            admin_ip: ip,
        }
    }

    /// The processes to run.
    pub(crate) fn plans(&self) -> Vec<Plan> {
        let plan = |name, admin_port, own: Vec<String>| {
            let admin = SocketAddr::new(self.admin_ip, admin_port).to_string();
            let mut args = vec!["--feed".into(), self.dir.display().to_string()];
            args.extend(["--admin".into(), admin]);
            args.extend(own);
            Plan { name, args }
        };
        let flag = |name: &str, value: String| [name.to_owned(), value];
        let node_ips = self.node_ip.iter().flat_map(|ip| flag("--node-ip", ip.to_string()));
        let http = flag("--http", self.http.to_string());
        let https = flag("--https", self.https.to_string());
        vec![
            plan("proxy", PROXY_ADMIN, node_ips.collect()),
            plan("ingress", INGRESS_ADMIN, [http, https].concat()),
            plan("dns", DNS_ADMIN, flag("--listen", self.dns.to_string()).into()),
        ]
    }
}

/// Runs all processes until SIGTERM or SIGINT, then drains them.
///
/// # Errors
///
/// When a process says that its configuration cannot work, or the folder is not there.
pub(crate) async fn run(config: Config) -> Result<(), String> {
    if !config.dir.is_dir() {
        return Err(format!("{}: not a folder", config.dir.display()));
    }
    let end = end_signal().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let stop = watch::Sender::new(false);
    let mut processes = JoinSet::new();
    for plan in config.plans() {
        let mut stopped = stop.subscribe();
        processes.spawn(async move {
            let stop = async move {
                // An error means that the sender has gone: the same wish.
                let _ = stopped.wait_for(|stopped| *stopped).await;
            };
            plan.supervise(stop).await
        });
    }
    let failed = tokio::select! {
        () = end => None,
        Some(ended) = processes.join_next() => Some(ended),
    };
    stop.send_replace(true);
    let rest = processes.join_all().await;
    let ended = failed.map(|joined| joined.unwrap_or_else(|panic| Err(panic.to_string())));
    ended.into_iter().chain(rest).collect()
}
