//! The watch feed: where Kubernetes objects come from and what they mean together.
//!
//! source → event → store → model. A [`source`](Source) reads objects from a folder or from a
//! Kubernetes API, the store keeps the last good state of each, and consumers receive the
//! validated join of them, the [`Model`], with the set of what changed, through [`Updates`].
//!
//! Left out on purpose: any notion of what a process does with the model (listeners, routes,
//! zones). That is a snapshot's work, in the process's own crate.

mod check;
mod document;
mod folder;
mod manifest;
mod model;
mod name;
mod object;
mod path;
mod problem;
mod record;
mod report;
mod schema;
pub mod server;
mod store;
mod tree;
mod update;
mod validate;

pub use check::{Checked, check};
pub use model::*;
pub use name::{Kind, Kinds, ObjectKey, ObjectName};
pub use update::{Publisher, Update, Updates, mailbox};

use std::path::PathBuf;
use std::str::FromStr;

use daemon::{Daemon, Failure};

/// Where objects come from: `--feed SOURCE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of manifests.
    Folder(PathBuf),
}

/// Why a text is no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("this version follows folders only, not a Kubernetes API at {0}: give it a folder")]
    Network(String),
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
            "kube" => Err(SourceError::Network("kubeconfig".to_owned())),
            _ if lower.starts_with("http://") || lower.starts_with("https://") => {
                Err(SourceError::Network(source.to_owned()))
            }
            _ => Ok(Source::Folder(source.into())),
        }
    }
}

/// The flags with which a process follows a feed.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "feed")]
pub struct Config {
    /// Where objects come from: a folder of manifests (*.yaml, *.yml, *.json)
    #[arg(long = "feed", env = "SWITCHYARD_FEED", value_name = "SOURCE")]
    pub source: Source,
}

/// Follows a source: the first update comes as soon as every kind has been listed.
///
/// The model holds the kinds that are asked for; what else the folder holds is still validated
/// and reported.
///
/// # Errors
///
/// When the source cannot work at all, for example a folder that is not there.
pub fn follow(config: &Config, kinds: Kinds, daemon: &Daemon) -> Result<Updates, Failure> {
    match &config.source {
        Source::Folder(path) => folder::follow(path, kinds, daemon).map_err(|error| {
            Failure::Configuration(format!("cannot read the folder {}: {error}", path.display()))
        }),
    }
}
