//! What the folder's thread does with each look: batches become changes of the store.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::assemble::{self, Assembler};
use super::derived::Rejection;
use super::live::{Live, now};
use super::metrics::Metrics;
use super::resource::Resource;
use super::state::{Kept, Saved};
use feed::folder::{Batch, Whole};
use feed::report::Report;
use model::record::RecordKey;

/// Publishes the folder's batches. It belongs to the folder's thread.
#[derive(Debug)]
pub(super) struct Publisher {
    live: Arc<Live>,
    metrics: Metrics,
    assembler: Assembler,
    /// What outlives the process.
    kept: Arc<Kept>,
    /// What was wrong after the last batch.
    reports: Arc<[Report]>,
    /// Taken by the first batch.
    loaded: Option<oneshot::Sender<()>>,
}

impl Publisher {
    /// The receiver hears of the first batch.
    pub(super) fn new(
        live: Arc<Live>,
        metrics: Metrics,
        saved: &Saved,
        kept: Arc<Kept>,
    ) -> (Publisher, oneshot::Receiver<()>) {
        let (sender, loaded) = oneshot::channel();
        let publisher = Publisher {
            live,
            metrics,
            assembler: Assembler::new(saved.created()),
            kept,
            reports: Arc::default(),
            loaded: Some(sender),
        };
        (publisher, loaded)
    }

    /// Publishes one look: all that it changed is one cut.
    pub(super) fn take(&mut self, batch: Batch) {
        let Batch { wholes, model, changes, reports, received } = batch;
        let same = Arc::ptr_eq(&reports, &self.reports) || *reports == *self.reports;
        let rejections = (!same).then(|| rejections(&reports));
        self.reports = reports;
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

fn key_of(key: &RecordKey) -> assemble::Key {
    let resource = Resource::of_kind(key.kind.as_str());
    (resource.expect("every kind that is read is served"), key.name.clone())
}

fn rejections(reports: &[Report]) -> Vec<Rejection> {
    let errors = reports.iter().filter(|report| report.is_error());
    let rejection = |report: &Report| Rejection {
        object: report.object.as_ref().map(key_of),
        file: report.file.display().to_string(),
        line: report.line(),
        column: report.column(),
        message: report.problem.message.clone(),
        help: report.problem.help.clone(),
    };
    errors.map(rejection).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::record::RecordKind;

    #[test]
    fn every_kind_that_is_read_is_served() {
        for kind in RecordKind::ALL {
            let resource = Resource::of_kind(kind.as_str()).unwrap();
            assert_eq!(resource.api_version(), kind.api_version());
            assert_eq!(resource.is_namespaced(), kind.is_namespaced());
        }
    }
}
