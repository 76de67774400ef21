//! What the folder's thread does with each look: batches become changes of the store.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::assemble::{self, Assembler};
use super::derived::{Reason, Rejection};
use super::live::{Live, now};
use super::metrics::Metrics;
use super::state::Kept;
use feed::folder::{Batch, Whole};
use feed::report::Report;
use model::finding::Finding;
use model::problem::Level;
use model::{Changes, Model, ObjectKey};

/// Finds what the processes that serve a model would report of it, by what changed.
pub type Judge = Box<dyn FnMut(&Model, &Changes) -> Vec<Finding> + Send>;

/// Publishes the folder's batches. It belongs to the folder's thread.
pub(super) struct Publisher {
    live: Arc<Live>,
    metrics: Metrics,
    assembler: Assembler,
    /// What outlives the process.
    kept: Arc<Kept>,
    /// What was wrong after the last batch.
    reports: Arc<[Report]>,
    /// What the processes that serve a model would report of it.
    judge: Judge,
    /// What they reported after the last batch.
    findings: Vec<Finding>,
    /// Taken by the first batch.
    loaded: Option<oneshot::Sender<()>>,
}

impl Publisher {
    /// The receiver hears of the first batch.
    pub(super) fn new(
        live: Arc<Live>,
        metrics: Metrics,
        assembler: Assembler,
        kept: Arc<Kept>,
        judge: Judge,
    ) -> (Publisher, oneshot::Receiver<()>) {
        let (sender, loaded) = oneshot::channel();
        let publisher = Publisher {
            live,
            metrics,
            assembler,
            kept,
            reports: Arc::default(),
            judge,
            findings: Vec::new(),
            loaded: Some(sender),
        };
        (publisher, loaded)
    }

    /// Publishes one look: all that it changed is one cut.
    pub(super) fn take(&mut self, batch: Batch) {
        let Batch { wholes, model, changes, reports, received } = batch;
        let findings = (self.judge)(&model, &changes);
        let same_reports = Arc::ptr_eq(&reports, &self.reports) || *reports == *self.reports;
        let same = same_reports && findings == self.findings;
        let rejections = (!same).then(|| rejections(&reports, &findings));
        (self.reports, self.findings) = (reports, findings);
        if self.loaded.is_none() && wholes.is_empty() && changes.services.is_empty() && same {
            return;
        }
        self.kept.apply(&wholes);
        let text = |whole: Option<Whole>| whole.map(|whole| whole.text);
        let objects = wholes.into_iter().map(|(key, whole)| (key_of(&key), text(whole)));
        let batch = assemble::Batch {
            objects: objects.collect(),
            model,
            services: changes.services,
            rejections,
        };
        let changes = self.assembler.assemble(batch, &now());
        let loaded = self.loaded.take();
        let changed = if loaded.is_some() {
            let count = changes.len();
            self.live.load(changes);
            tracing::info!(objects = count, build = ?received.elapsed(), "first state");
            count
        } else {
            self.live.commit(changes)
        };
        self.kept.published();
        if let Some(loaded) = loaded {
            // After `published`: a feed that is ready may be stopped, and saves what is published.
            // The server may have ended before.
            let _ = loaded.send(());
        }
        tracing::debug!(changed, build = ?received.elapsed(), "published");
        self.metrics.changes.inc_by(changed as u64);
        self.metrics.programming.observe(received.elapsed().as_secs_f64());
    }
}

fn key_of(key: &ObjectKey) -> assemble::Key {
    (key.kind, key.name.clone())
}

/// What Events tell: what was rejected, and what of the rest is not served as written.
fn rejections(reports: &[Report], findings: &[Finding]) -> Vec<Rejection> {
    let errors = reports.iter().filter(|report| report.is_error());
    let rejected = |report: &Report| Rejection {
        object: report.object.as_ref().map(key_of),
        place: format!("{}:{}:{}", report.file.display(), report.line(), report.column()),
        file: report.file.display().to_string(),
        reason: Reason::Rejected,
        message: report.problem.message.clone(),
        help: report.problem.help.clone(),
    };
    let found = findings.iter().filter_map(|finding| {
        let reason = match finding.problem.level {
            Level::Error => Reason::NotServed,
            Level::Warning => Reason::Warning,
            Level::Note => return None,
        };
        Some(Rejection {
            object: Some(key_of(&finding.key)),
            place: String::new(),
            file: String::new(),
            reason,
            message: finding.problem.message.clone(),
            help: finding.problem.help.clone(),
        })
    });
    errors.map(rejected).chain(found).collect()
}
