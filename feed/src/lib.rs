//! The sources of Kubernetes objects: folders of manifests and Kubernetes APIs.
//!
//! source → event → store → model. A [`Source`] reads objects from a folder or from a Kubernetes
//! API, the store keeps the last good state of each, and consumers receive the validated join of
//! them, the [`model::Model`], with the set of what changed, through [`Updates`].
//!
//! Left out on purpose: what objects are and mean (the package `model`), serving them to others
//! (`apiserver`), and what a process does with the model (listeners, routes, zones).

mod causes;
mod check;
mod client;
mod config;
pub mod folder;
mod follow;
mod gauges;
mod hosts;
pub mod own_token;
pub mod path;
pub mod report;
mod source;
pub mod state;
mod update;

pub use causes::{Unlisted, lost_hosts, rejected, unlisted};
pub use check::{Checked, check};
pub use client::ApiConfig;
pub use config::Config;
pub use follow::follow;
pub use source::{Source, SourceError};
pub use update::{Publisher, Update, Updates, mailbox};
