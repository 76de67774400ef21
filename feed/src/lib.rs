//! The watch feed: where Kubernetes objects come from and what they mean together.
//!
//! source → event → store → model. A [`source`](Source) reads objects from a folder or from a
//! Kubernetes API, the store keeps the last good state of each, and consumers receive the
//! validated join of them, the [`Model`], with the set of what changed, through [`Updates`].
//!
//! Left out on purpose: any notion of what a process does with the model (listeners, routes,
//! zones). That is a snapshot's work, in the process's own crate.

mod check;
mod client;
mod document;
mod explanation;
mod folder;
mod gauges;
mod hosts;
mod manifest;
mod model;
mod name;
mod object;
mod own_token;
mod path;
mod problem;
mod record;
mod report;
mod schema;
pub mod server;
mod state;
mod store;
mod tree;
mod update;
mod validate;

pub use check::{Checked, check};
pub use client::ApiConfig;
pub use explanation::{
    Explanation, LostHost, Rejected, Trouble, fix_of_slices, lost_hosts, nearest, rejected,
};
pub use model::*;
pub use name::{Kind, Kinds, ObjectKey, ObjectName};
pub use update::{Publisher, Update, Updates, mailbox};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use daemon::{Daemon, Failure};

use hosts::Lookup;

/// Where objects come from: `--feed SOURCE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of manifests.
    Folder(PathBuf),
    /// A Kubernetes API at a URL: `switchyard feed`, or a kube-apiserver.
    Api(http::Uri),
    /// The Kubernetes API of the kubeconfig, or of the cluster that this runs in.
    Kube,
}

/// Why a text is no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("no URL of an API: {0}; write http://HOST:PORT or https://HOST:PORT")]
    Url(String),
    #[error("a user or password in the URL is not used: give --feed-token-file")]
    Password,
    #[error("the folder's path is empty")]
    Empty,
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(source: &str) -> Result<Source, SourceError> {
        let lower = source.to_ascii_lowercase();
        match source {
            "" => Err(SourceError::Empty),
            // A folder of that name is `./kube`.
            "kube" => Ok(Source::Kube),
            _ if lower.starts_with("http://") || lower.starts_with("https://") => url(source),
            _ => Ok(Source::Folder(source.into())),
        }
    }
}

fn url(text: &str) -> Result<Source, SourceError> {
    let url: http::Uri =
        text.parse().map_err(|e: http::uri::InvalidUri| SourceError::Url(e.to_string()))?;
    let wrong = |why: &str| Err(SourceError::Url(why.to_owned()));
    match url.authority() {
        Some(authority) if authority.as_str().contains('@') => Err(SourceError::Password),
        Some(authority) if !authority.host().is_empty() => match url.query() {
            None => Ok(Source::Api(url)),
            Some(_) => wrong("it has a query"),
        },
        _ => wrong("it has no host"),
    }
}

/// The flags with which a process follows a feed.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "feed")]
pub struct Config {
    /// Where objects come from: a folder of manifests (*.yaml, *.yml, *.json); http://HOST:PORT
    /// or https://HOST:PORT of a `switchyard feed` or a kube-apiserver; or `kube` for the
    /// kubeconfig's cluster or the one that this runs in
    #[arg(long = "feed", env = "SWITCHYARD_FEED", value_name = "SOURCE")]
    pub source: Source,

    /// Servers to look up hosts that name endpoints (addressType FQDN); default: this machine's
    #[arg(
        long = "host-resolver",
        env = "SWITCHYARD_HOST_RESOLVER",
        value_name = "IP:PORT",
        value_delimiter = ','
    )]
    pub host_resolver: Vec<SocketAddr>,

    #[command(flatten)]
    pub api: ApiConfig,
}

/// Follows a source: the first update comes as soon as every kind has been listed.
///
/// The model holds the kinds that are asked for; what else a folder holds is still validated
/// and reported. Endpoints that are named by host have the addresses which these resolve to.
/// Needs a runtime, on which it goes on until the updates' receiver is dropped.
///
/// # Errors
///
/// When the source cannot work at all, for example a folder that is not there.
pub fn follow(config: &Config, kinds: Kinds, daemon: &Daemon) -> Result<Updates, Failure> {
    let local_endpoints = config.takes_local_endpoints();
    let updates = match &config.source {
        Source::Folder(path) => folder::follow(path, kinds, daemon).map_err(|error| {
            let name = path.display().to_string();
            let is_address = name.parse::<SocketAddr>().is_ok() || name.starts_with("localhost:");
            let help = if is_address { "; for a feed there write http://" } else { "" };
            Failure::Configuration(format!("cannot read the folder {name}: {error}{help}"))
        })?,
        Source::Api(url) => client::follow_url(url, &config.api, local_endpoints, kinds, daemon)?,
        Source::Kube => client::follow_kube(&config.api, local_endpoints, kinds, daemon)?,
    };
    let lookup = Lookup::new(&config.host_resolver);
    Ok(hosts::resolve(updates, lookup, local_endpoints, daemon))
}

impl Config {
    /// Whether endpoints may be on this machine's loopback: a feed elsewhere means its own.
    fn takes_local_endpoints(&self) -> bool {
        match &self.source {
            Source::Folder(_) => true,
            Source::Api(url) => client::is_this_machine(url) || self.api.allow_local_endpoints,
            Source::Kube => self.api.allow_local_endpoints,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let api = |url: &str| Ok(Source::Api(url.parse().unwrap()));
        let table = [
            ("manifests", Ok(Source::Folder("manifests".into()))),
            ("./kube", Ok(Source::Folder("./kube".into()))),
            ("kube", Ok(Source::Kube)),
            ("http://127.0.0.1:7400", api("http://127.0.0.1:7400")),
            ("HTTPS://api.example/base", api("https://api.example/base")),
            ("http://[::1]:7400", api("http://[::1]:7400")),
            ("http://user:secret@feed", Err(SourceError::Password)),
            ("", Err(SourceError::Empty)),
        ];
        for (text, source) in table {
            assert_eq!(text.parse::<Source>(), source, "{text}");
        }
        for text in ["http://", "http://:7400", "https:// x", "http://feed?x=1"] {
            let parsed = text.parse::<Source>();
            assert!(matches!(parsed, Err(SourceError::Url(_))), "{text}: {parsed:?}");
        }
    }
}
