//! What the ingress says of manifests before it serves them: for `check` and the feed server.
//!
//! It compiles the routes of a model as the process itself does, and hands over the problems.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use daemon::Failure;
use feed::{Changes, Model};
use model::problem::Level;
use model::surprise::Surprise;

use crate::snapshot::{About, Compiler, Problem};
use crate::tls;

/// All that an ingress of this `--ingress-class` would report of a model.
///
/// # Errors
///
/// When cryptography is not available, as for the process itself.
pub fn findings(model: &Model, class: &str) -> Result<Vec<Surprise>, Failure> {
    let provider = tls::provider();
    let mut compiler = Compiler::new(class, provider.clone(), tls::self_signed(&provider)?);
    compiler.update(model, &everything(model), 1);
    let mut problems = compiler.problems();
    problems.extend(compiler.certificates_out_of_date(unix_now()));
    // One Secret for many hosts is one mistake.
    let mut secrets = HashSet::new();
    problems.retain(|problem| !is_of_secret(problem) || secrets.insert(field(problem)));
    Ok(problems.into_iter().map(Problem::into_surprise).collect())
}

/// The changes that lead from nothing to a model.
fn everything(model: &Model) -> Changes {
    let mut changes = Changes::default();
    changes.ingresses.extend(model.ingresses().map(|ingress| ingress.name.clone()));
    changes
}

fn is_of_secret(problem: &Problem) -> bool {
    let is_certificate = matches!(problem.about, About::Certificate(_));
    is_certificate && (problem.missing.is_some() || problem.level == Level::Error)
}

fn field(problem: &Problem) -> (feed::ObjectName, String) {
    (problem.object.clone(), problem.field.to_string())
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
