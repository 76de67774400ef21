//! Problems → the answer that an API gives to an object with them, or warnings.
//!
//! Pure. The codes, reasons and the form of the words are a kube-apiserver's.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU16;

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
    let wanted = Wanted::of(reading.claims.iter().map(|(claim, _)| *claim));
    let mut holders: HashMap<Claim, &ObjectName> = HashMap::new();
    for other in services.values().filter(|entry| entry.name != *name) {
        for claim in wanted.held_by(other) {
            holders.entry(claim).or_insert(&other.name);
        }
    }
    let mut errors = Vec::new();
    for (claim, _) in &reading.claims {
        if let Some(holder) = holders.get(claim) {
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

/// What a Service claims, looked up by what others have.
struct Wanted {
    claims: HashSet<Claim>,
    /// As Services have them in their text. Most have none: that is seen without parsing them.
    ips: Vec<String>,
    node_ports: HashSet<u16>,
}

impl Wanted {
    fn of(claims: impl Iterator<Item = Claim>) -> Wanted {
        let claims: HashSet<_> = claims.collect();
        let mut wanted = Wanted { claims, ips: Vec::new(), node_ports: HashSet::new() };
        for claim in &wanted.claims {
            match claim {
                Claim::ClusterIp(ip) => wanted.ips.push(format!("\"{ip}\"")),
                Claim::NodePort(port, _) => {
                    wanted.node_ports.insert(port.get());
                }
            }
        }
        wanted
    }

    /// The claims that a Service holds.
    fn held_by(&self, service: &Entry) -> Vec<Claim> {
        if !self.may_be_held(service.object()) {
            return Vec::new();
        }
        let object: Value = serde_json::from_slice(service.object()).unwrap_or_default();
        let list = |pointer: &str| object.pointer(pointer).and_then(Value::as_array);
        let ips = list("/spec/clusterIPs").into_iter().flatten();
        let ips = ips.filter_map(|ip| Some(Claim::ClusterIp(ip.as_str()?.parse().ok()?)));
        let ports = list("/spec/ports").into_iter().flatten().filter_map(node_port);
        ips.chain(ports).filter(|claim| self.claims.contains(claim)).collect()
    }

    fn may_be_held(&self, service: &[u8]) -> bool {
        const NODE_PORT: &[u8] = b"\"nodePort\":";
        let has_ip = |ip: &String| memchr::memmem::find(service, ip.as_bytes()).is_some();
        let is_wanted = |at: usize| {
            let digits = service[at + NODE_PORT.len()..].iter().take_while(|b| b.is_ascii_digit());
            let port = digits.fold(0, |port: u32, digit| {
                port.saturating_mul(10).saturating_add(u32::from(digit - b'0'))
            });
            u16::try_from(port).is_ok_and(|port| self.node_ports.contains(&port))
        };
        self.ips.iter().any(has_ip)
            || (!self.node_ports.is_empty()
                && memchr::memmem::find_iter(service, NODE_PORT).any(is_wanted))
    }
}

fn node_port(port: &Value) -> Option<Claim> {
    let number = u16::try_from(port["nodePort"].as_u64()?).ok()?;
    let protocol = port["protocol"].as_str()?.parse().ok()?;
    Some(Claim::NodePort(NonZeroU16::new(number)?, protocol))
}
