//! What `switchyard explain` learns from the feed: why nothing is listed, rejected manifests, and
//! hosts that cannot be looked up.
//!
//! Left out: what a process makes of the objects that it has; each process explains that itself.

use daemon::{Daemon, Failure};
use model::{LostHost, Rejected};
use serde_json::Value;

use crate::client;
use crate::config::Config;
use crate::source::Source;

/// Why an API does not list some kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlisted {
    /// One cause, of the first kind if several have the same status code.
    pub cause: String,
    pub kinds: Vec<String>,
    /// The next request may succeed: the server is overloaded, for example.
    pub may_pass: bool,
}

/// Why the API that `daemon` follows does not list some kinds, each cause once; empty for a folder.
pub fn unlisted(daemon: &Daemon) -> Vec<Unlisted> {
    let status = daemon.admin.status();
    status.get("feed").map(unlisted_by).unwrap_or_default()
}

fn unlisted_by(feed: &Value) -> Vec<Unlisted> {
    let mut all: Vec<Unlisted> = Vec::new();
    for (kind, state) in feed["kinds"].as_object().into_iter().flatten() {
        let (Some(cause), Some("lost")) = (state["fault"].as_str(), state["state"].as_str()) else {
            continue;
        };
        let is_same = |other: &&mut Unlisted| {
            other.cause == cause || code(cause).is_some() && code(&other.cause) == code(cause)
        };
        match all.iter_mut().find(is_same) {
            Some(same) => same.kinds.push(kind.clone()),
            None => all.push(Unlisted {
                cause: cause.to_owned(),
                kinds: vec![kind.clone()],
                may_pass: code(cause).is_some_and(may_pass),
            }),
        }
    }
    all
}

/// The HTTP status with which a refusal by the server begins.
fn code(cause: &str) -> Option<u16> {
    cause.split(' ').next()?.parse().ok()
}

/// Whether a server that answers with this status may answer otherwise in a moment (408 time-out,
/// 410 list again, 429 too many requests, 5xx).
fn may_pass(code: u16) -> bool {
    matches!(code, 408 | 410 | 429 | 500..)
}

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_cause_for_kinds_that_are_not_listed_is_told_once() {
        let lost = |fault: &str| json!({"state": "lost", "fault": fault});
        let kinds = json!({
            "EndpointSlice": lost("403 endpointslices are forbidden"),
            "Ingress": lost("http://feed/: Connection refused"),
            "IngressClass": {"state": "listing", "fault": null},
            "Node": {"state": "forbidden", "fault": "403 nodes are forbidden"},
            "Secret": lost("503 busy"),
            "Service": lost("403 services are forbidden"),
            "ServiceCIDR": lost("http://feed/: Connection refused"),
        });
        let expected = [
            ("403 endpointslices are forbidden", &["EndpointSlice", "Service"][..], false),
            ("http://feed/: Connection refused", &["Ingress", "ServiceCIDR"], false),
            ("503 busy", &["Secret"], true),
        ];
        let expected = expected.map(|(cause, kinds, may_pass)| Unlisted {
            cause: cause.to_owned(),
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            may_pass,
        });
        assert_eq!(unlisted_by(&json!({ "kinds": kinds })), expected);
        assert_eq!(unlisted_by(&json!({"files": 1})), []);
    }
}
