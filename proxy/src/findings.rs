//! What the proxy says of manifests before it serves them: for `check` and the feed server.
//!
//! It resolves the Services of a model as the process itself does, and hands over what it ignores.

use std::collections::BTreeMap;

use model::finding::Finding;
use model::problem::{Level, Mark, Problem};
use model::tree::Step;
use model::{Changes, Kind, Model, ObjectKey, ObjectName, ServiceEntry};

use crate::resolver::{self, Node};

/// Follows a model and knows what a proxy would report of it, wherever it runs.
#[derive(Debug, Default)]
pub struct Judge {
    found: BTreeMap<ObjectName, Vec<Finding>>,
}

impl Judge {
    /// Takes a model over, of which `changes` since the last one are known.
    pub fn update(&mut self, model: &Model, changes: &Changes) {
        for name in &changes.services {
            match model.service(name).map(|entry| of(&entry)).filter(|found| !found.is_empty()) {
                Some(found) => self.found.insert(name.clone(), found),
                None => self.found.remove(name),
            };
        }
    }

    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.found.values().flatten()
    }
}

fn of(entry: &ServiceEntry) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (service, resolution) = (&entry.service, resolver::resolve(entry, &Node::default()));
    for ignored in resolution.ignored {
        let path = ["metadata", "annotations", &ignored.key];
        let path = path.into_iter().map(|step| Step::Key(step.to_owned()));
        let help = ignored.help.clone();
        let message = ignored.to_string();
        findings.push(finding(&service.name, path.collect(), Level::Error, message, help));
    }
    for skipped in resolution.skipped {
        let at = service.ports.iter().position(|port| port.port == skipped.port);
        let key = |key: &str| Step::Key(key.to_owned());
        let path = vec![key("spec"), key("ports"), Step::Index(at.unwrap_or_default())];
        let message = format!("port {} is not served: {}", skipped.port, skipped.reason);
        findings.push(finding(&service.name, path, Level::Warning, message, None));
    }
    findings
}

fn finding(
    service: &ObjectName,
    path: Vec<Step>,
    level: Level,
    message: String,
    help: Option<String>,
) -> Finding {
    let kind = Kind::Service;
    let problem = Problem { level, message, help, mark: Mark::default(), excerpt: None };
    Finding { key: ObjectKey { kind, name: service.clone() }, path, problem, missing: None }
}
