//! The watch feed: where Kubernetes objects come from and what they mean together.
//!
//! source → event → store → model. A [`source`](Source) reads objects from a folder or from a
//! Kubernetes API, the store keeps the last good state of each, and consumers receive the
//! validated join of them, the [`Model`], with the set of what changed, through [`Updates`].
//!
//! Left out on purpose: any notion of what a process does with the model (listeners, routes,
//! zones). That is a snapshot's work, in the process's own crate.

mod client;
mod model;
mod name;
mod update;

pub use model::*;
pub use name::{Kind, Kinds, ObjectKey, ObjectName};
pub use update::{Publisher, Update, Updates, mailbox};

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use daemon::{Daemon, Failure};

/// Where objects come from: `--feed SOURCE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of manifests.
    Folder(PathBuf),
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(source: &str) -> Result<Source, Infallible> {
        Ok(Source::Folder(source.into()))
    }
}

/// The flags with which a process follows a feed.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Where objects come from: a folder of manifests
    #[arg(long = "feed", env = "SWITCHYARD_FEED", value_name = "SOURCE")]
    pub source: Source,
}

/// Follows a source: the updates come as soon as every kind has been listed.
///
/// # Errors
///
/// When the source cannot work at all, for example a folder that is not there.
pub fn follow(_config: &Config, _kinds: Kinds, _daemon: &Daemon) -> Result<Updates, Failure> {
    Ok(mailbox().1)
}
