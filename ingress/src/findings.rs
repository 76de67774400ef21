//! What the ingress says of manifests before it serves them: for `check` and the feed server.
//!
//! It compiles the routes of a model as the process itself does, and hands over the problems.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use daemon::Failure;
use model::finding::Finding;
use model::problem::Level;
use model::{Changes, Model};

use crate::snapshot::{About, Compiler, PlanDefaults, Problem};
use crate::tls;

/// Follows a model and knows what an ingress would report of it.
#[derive(Debug)]
pub struct Judge {
    compiler: Compiler,
}

impl Judge {
    /// For an ingress of this `--ingress-class`.
    ///
    /// # Errors
    ///
    /// When cryptography is not available, as for the process itself.
    pub fn new(class: &str) -> Result<Judge, Failure> {
        let provider = tls::provider();
        let self_signed = tls::self_signed(&provider)?;
        Ok(Judge { compiler: Compiler::new(class, provider, self_signed, PlanDefaults::default()) })
    }

    /// Takes a model over, of which `changes` since the last one are known.
    pub fn update(&mut self, model: &Model, changes: &Changes) {
        self.compiler.update(model, changes, 1).removal.apply();
    }

    /// Everything that does not come and go by itself, as ready endpoints do. Costs O(all
    /// Ingresses).
    pub fn findings(&self) -> Vec<Finding> {
        let mut problems = self.compiler.problems();
        problems.retain(|problem| problem.about != About::Endpoints);
        problems.extend(self.compiler.certificates_out_of_date(unix_now()));
        // One Secret for many hosts is one mistake.
        let mut secrets = HashSet::new();
        problems.retain(|problem| !is_of_secret(problem) || secrets.insert(field(problem)));
        problems.into_iter().map(Problem::into_finding).collect()
    }
}

fn is_of_secret(problem: &Problem) -> bool {
    let is_certificate = matches!(problem.about, About::Certificate(_));
    is_certificate && (problem.missing.is_some() || problem.level == Level::Error)
}

fn field(problem: &Problem) -> (model::ObjectName, String) {
    (problem.object.clone(), problem.field.to_string())
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
