//! What happens to traffic to a target, and why: the result of `switchyard explain`.
//!
//! The package of each process explains with its own snapshot, built by the code that serves. Some
//! causes are known only to the feed: rejected manifests, and hosts without an address. Left out:
//! how an explanation is printed.

use serde::{Deserialize, Serialize};

use crate::model::{Protocol, ServiceEntry, SlicePort};
use crate::name::ObjectName;

/// Why a target is served as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// As it was asked for.
    pub target: String,
    /// What a client gets, in a few words: `forwarded`, `404`, `refused`, `NOERROR`.
    pub answer: String,
    /// Where it goes: a Service and its port, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What serves it, in the order of turns: endpoints as `IP:PORT`, or the data of DNS records.
    pub endpoints: Vec<String>,
    /// The rules that led there, the first one first.
    pub because: Vec<String>,
    /// Rules that match as well, and why they lost.
    pub lost: Vec<String>,
    /// What is wrong, if the target is not served as intended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// The Service that it is about, whether it exists or not.
    #[serde(skip)]
    pub service: Option<ObjectName>,
}

/// One line of what is wrong, and one of what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    pub cause: String,
    pub fix: String,
}

impl Explanation {
    /// An explanation of something that is not served.
    pub fn of_trouble(
        target: &str,
        answer: impl Into<String>,
        cause: impl Into<String>,
        fix: impl Into<String>,
    ) -> Explanation {
        let trouble = Some(Trouble { cause: cause.into(), fix: fix.into() });
        let target = target.to_owned();
        Explanation { target, answer: answer.into(), trouble, ..Explanation::default() }
    }
}

/// What to do for a Service whose slices have no endpoint on a port: add a slice, an endpoint or a
/// port.
///
/// `family` restricts the suitable addresses, as text such as ` of this address family`.
pub fn fix_of_slices(
    entry: &ServiceEntry,
    port_name: &str,
    protocol: Protocol,
    family: &str,
) -> String {
    let ports = || entry.slices.iter().flat_map(|slice| &slice.ports);
    let mut there: Vec<_> = ports().map(name_of_port).collect();
    there.sort_unstable();
    there.dedup();
    let name = &entry.service.name.name;
    let fits = |port: &SlicePort| &*port.name == port_name && port.protocol == protocol;
    if there.is_empty() {
        format!(
            "write an EndpointSlice with label kubernetes.io/service-name: {name}, or Pods that \
             the Service selects"
        )
    } else if ports().any(|port| fits(port) && port.port.is_some()) {
        format!("add an endpoint{family} to an EndpointSlice of {name}: none has one on this port")
    } else {
        let wanted = match port_name {
            "" => "without a name".to_owned(),
            port_name => format!("named {port_name}"),
        };
        format!(
            "add a port {wanted} ({protocol}) to an EndpointSlice of {name}; its slices have: {}",
            there.join(", ")
        )
    }
}

fn name_of_port(port: &SlicePort) -> String {
    match &*port.name {
        "" => format!("one without a name ({})", port.protocol),
        name => format!("{name} ({})", port.protocol),
    }
}

/// A manifest, a document of one, or an object of an API that is not served, or not all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// Kind and name, as far as it could be read.
    pub object: Option<String>,
    /// `file:line:column`, of a folder or of a `switchyard feed`.
    pub place: Option<String>,
    pub problem: String,
    /// What to do.
    pub help: Option<String>,
    /// The object is served without what the problem names.
    pub is_partial: bool,
    /// The hosts that it has rules for, as far as they are known.
    pub hosts: Vec<String>,
}

/// The annotation of an Event with only the help of its message, for programs.
pub const HELP: &str = "switchyard.dev/help";

/// The help in brackets, as it follows a message in an Event.
pub fn bracketed(help: Option<&str>) -> String {
    help.map(|help| format!(" ({help})")).unwrap_or_default()
}

/// A host that names endpoints and cannot be looked up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LostHost {
    pub host: String,
    pub problem: String,
    /// The Services whose endpoints it names, as `namespace/name`.
    pub services: Vec<String>,
}

/// The name that is most similar to `wanted`, if one is similar enough.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Names with a lower similarity are not suggested.
    const MIN_LIKENESS: f64 = 0.6;
    let rated =
        names.into_iter().map(|name| (strsim::normalized_damerau_levenshtein(wanted, name), name));
    let alike = rated.filter(|(likeness, _)| *likeness >= MIN_LIKENESS);
    alike.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}
