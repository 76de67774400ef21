//! What `switchyard explain` learns from the feed: rejected manifests, and hosts that cannot be
//! looked up.
//!
//! Left out: what a process makes of the objects that it has; each process explains that itself.

use daemon::{Daemon, Failure};
use model::{LostHost, Rejected};
use serde_json::Value;

use crate::client;
use crate::config::Config;
use crate::source::Source;

/// What the feed that `daemon` follows rejects: of a folder or an API by what was read, and of a
/// `switchyard feed` also by its Events.
///
/// # Errors
///
/// When a file of the flags cannot be used.
pub async fn rejected(config: &Config, daemon: &Daemon) -> Result<Vec<Rejected>, Failure> {
    let status = daemon.admin.status();
    let reports = status.get("feed").and_then(|feed| feed["rejected"].as_array().cloned());
    let mut rejected: Vec<_> =
        reports.into_iter().flatten().map(|report| of_report(&report)).collect();
    if let Source::Api(url) = &config.source {
        rejected.extend(client::rejected(url, &config.api).await?);
    }
    Ok(rejected)
}

fn of_report(report: &Value) -> Rejected {
    let text = |field: &str| {
        let text = report[field].as_str().map(str::to_owned);
        text.filter(|text| !text.is_empty())
    };
    let place = text("file").map(|file| format!("{file}:{}:{}", report["line"], report["column"]));
    let hosts = report["hosts"].as_array().into_iter().flatten();
    Rejected {
        object: text("object"),
        place,
        problem: text("message").unwrap_or_default(),
        help: text("help"),
        is_partial: report["servedInPart"].as_bool().unwrap_or(false),
        hosts: hosts.filter_map(|host| host.as_str().map(str::to_owned)).collect(),
    }
}

/// The hosts of the feed that `daemon` follows which cannot be looked up.
pub fn lost_hosts(daemon: &Daemon) -> Vec<LostHost> {
    let status = daemon.admin.status();
    let problems = status.get("hosts").map(|hosts| hosts["problems"].clone());
    problems.and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default()
}
