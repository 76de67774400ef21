//! The problems of a model that the serving processes would report, found by their own code: for
//! `switchyard check`, and for the Events of `switchyard feed`.

use model::finding::Finding;
use model::{Changes, Model};

/// The class that an ingress serves unless its flags name another.
const CLASS: &str = "switchyard";

/// Follows a model.
pub(crate) struct Judge {
    /// None if cryptography cannot be set up; an ingress could not run then either.
    ingress: Option<ingress::Judge>,
    proxy: proxy::Judge,
    findings: Vec<Finding>,
}

impl Judge {
    pub(crate) fn new() -> Judge {
        let ingress = ingress::Judge::new(CLASS).ok();
        Judge { ingress, proxy: proxy::Judge::default(), findings: Vec::new() }
    }

    /// The problems of a model; `changes` are those since the last call.
    pub(crate) fn judge(&mut self, model: &Model, changes: &Changes) -> Vec<Finding> {
        if changes.is_empty() {
            return self.findings.clone();
        }
        self.proxy.update(model, changes);
        self.findings = self.proxy.findings().cloned().collect();
        if let Some(ingress) = &mut self.ingress {
            ingress.update(model, changes);
            self.findings.extend(ingress.findings());
        }
        self.findings.clone()
    }
}
