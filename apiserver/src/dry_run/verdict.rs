//! Problems → the answer that an API gives to an object with them, or warnings.
//!
//! Pure. The codes, reasons and the form of the words are a kube-apiserver's.

use serde_json::{Value, json};

use crate::entry::Entry;
use crate::history::Objects;
use crate::status::Status;
use model::finding::Finding;
use model::manifest::{Claim, Outcome, Reading};
use model::problem::{Level, Problem};
use model::{Kind, ObjectName, bracketed};

/// More would hide the first ones, and headers have a greatest length.
const MAX_WARNINGS: usize = 10;

const UNKNOWN_FIELD: &str = "unknown field";

/// Warnings of an object that may be served.
///
/// # Errors
///
/// The answer to an object that may not.
pub(super) fn of(
    resource: Kind,
    name: &ObjectName,
    reading: &Reading,
) -> Result<Vec<String>, Status> {
    let of_level = |level| reading.problems.iter().filter(move |p| p.level == level).map(said);
    let errors: Vec<_> = of_level(Level::Error).collect();
    if errors.iter().any(|error| error.starts_with(UNKNOWN_FIELD)) {
        let (kind, version) = (resource.as_str(), Kind::VERSION);
        let errors = errors.join(", ");
        return Err(Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: \
             {errors}"
        )));
    }
    if !errors.is_empty() || reading.outcome == Outcome::Bad {
        return Err(invalid(resource, &name.name, &errors));
    }
    Ok(of_level(Level::Warning).take(MAX_WARNINGS).collect())
}

/// Warnings of what the processes that serve would report.
///
/// # Errors
///
/// The answer to an object of which they would serve nothing.
pub(super) fn of_findings(
    resource: Kind,
    name: &ObjectName,
    findings: &[Finding],
) -> Result<Vec<String>, Status> {
    let of_level = |level| findings.iter().map(|f| &f.problem).filter(move |p| p.level == level);
    let errors: Vec<_> = of_level(Level::Error).map(said).collect();
    if !errors.is_empty() {
        return Err(invalid(resource, &name.name, &errors));
    }
    Ok(of_level(Level::Warning).map(said).take(MAX_WARNINGS).collect())
}

fn said(problem: &Problem) -> String {
    format!("{}{}", problem.message, bracketed(problem.help.as_deref()))
}

/// `errors` are messages with the field's path first.
pub(super) fn invalid(resource: Kind, name: &str, errors: &[String]) -> Status {
    Status::invalid(resource, name, errors, errors.iter().map(|error| cause(error)).collect())
}

fn cause(error: &str) -> Value {
    let (field, message) = error.split_once(": ").unwrap_or(("", error));
    let reasons = [
        ("Required value", "FieldValueRequired"),
        ("Duplicate value", "FieldValueDuplicate"),
        ("Unsupported value", "FieldValueNotSupported"),
        ("Forbidden", "FieldValueForbidden"),
        ("Too long", "FieldValueTooLong"),
        ("Too many", "FieldValueTooMany"),
    ];
    let known = reasons.into_iter().find(|(words, _)| message.starts_with(words));
    let reason = known.map_or("FieldValueInvalid", |(_, reason)| reason);
    json!({"reason": reason, "message": message, "field": field})
}

/// What only one Service may have must not be another's.
///
/// # Errors
///
/// The answer to a Service that asks for what another has.
pub(super) fn check_claims(
    name: &ObjectName,
    reading: &Reading,
    objects: &dyn Fn(Kind) -> Objects,
) -> Result<(), Status> {
    if reading.claims.is_empty() {
        return Ok(());
    }
    let services = objects(Kind::Service);
    let others = || services.values().filter(|entry| entry.name != *name);
    let mut errors = Vec::new();
    for (claim, _) in &reading.claims {
        if let Some(holder) = others().find(|entry| has(entry, claim)) {
            let holder = &holder.name;
            errors.push(match claim {
                Claim::ClusterIp(ip) => format!(
                    "spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: \
                     provided IP is already allocated (by Service {holder})"
                ),
                Claim::NodePort(port, _) => format!(
                    "spec.ports.nodePort: Invalid value: {port}: provided port is already \
                     allocated (by Service {holder})"
                ),
            });
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(invalid(Kind::Service, &name.name, &errors)) }
}

/// Whether a Service has what another claims.
fn has(service: &Entry, claim: &Claim) -> bool {
    // Most have not: that is seen without parsing them.
    let text = match claim {
        Claim::ClusterIp(ip) => format!("\"{ip}\""),
        Claim::NodePort(port, _) => format!("\"nodePort\":{port}"),
    };
    if memchr::memmem::find(service.object(), text.as_bytes()).is_none() {
        return false;
    }
    let object: Value = serde_json::from_slice(service.object()).unwrap_or_default();
    let list = |pointer: &str| object.pointer(pointer).and_then(Value::as_array).cloned();
    match claim {
        Claim::ClusterIp(ip) => {
            let ip = ip.to_string();
            list("/spec/clusterIPs").is_some_and(|ips| ips.iter().any(|known| *known == ip))
        }
        Claim::NodePort(port, protocol) => {
            let (port, protocol) = (port.get(), protocol.to_string());
            list("/spec/ports").into_iter().flatten().any(|known| {
                known["nodePort"] == port && known["protocol"].as_str() == Some(&protocol)
            })
        }
    }
}
