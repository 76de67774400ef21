//! Follows the source that the flags name: a folder or an API, with the endpoints that are named
//! by host looked up.

use std::net::SocketAddr;

use daemon::{Daemon, Failure};
use model::Kinds;

use crate::config::Config;
use crate::hosts::Lookup;
use crate::source::Source;
use crate::update::Updates;
use crate::{client, folder, hosts};

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
