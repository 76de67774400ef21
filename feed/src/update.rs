//! The way from a source to its one consumer: the newest model, and all that changed since the
//! consumer last looked.
//!
//! A mailbox, not a queue: a consumer that is slow gets fewer, larger updates, and a source
//! never waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use model::{Changes, Model};

/// The model after a batch, and what changed since the consumer's previous update.
#[derive(Clone, Debug)]
pub struct Update {
    pub model: Model,
    pub changes: Changes,
    /// When the oldest event in `changes` was received.
    pub received: Instant,
    /// Counts published batches, from 1.
    pub generation: u64,
    /// Every kind has been listed. Until then a consumer may answer for what it knows, but must
    /// take nothing for absent.
    pub synced: bool,
}

#[derive(Debug, Default)]
struct Shared {
    slot: Mutex<Slot>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Slot {
    update: Option<Update>,
    generation: u64,
    closed: bool,
}

/// The source's end of a mailbox. Dropping it ends the consumer's updates.
#[derive(Debug)]
pub struct Publisher(Arc<Shared>);

/// The consumer's end of a mailbox.
#[derive(Debug)]
pub struct Updates(Arc<Shared>);

/// A mailbox without an update in it.
pub fn mailbox() -> (Publisher, Updates) {
    let shared = Arc::new(Shared::default());
    (Publisher(shared.clone()), Updates(shared))
}

impl Publisher {
    /// Publishes the model; `changes` are merged with those that were not read yet.
    pub fn publish(&self, model: Model, changes: Changes, received: Instant, synced: bool) {
        let mut slot = self.0.slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.generation += 1;
        let generation = slot.generation;
        let update = match slot.update.take() {
            None => Update { model, changes, received, generation, synced },
            Some(mut unread) => {
                unread.changes.merge(changes);
                Update { model, generation, synced, ..unread }
            }
        };
        slot.update = Some(update);
        drop(slot);
        self.0.notify.notify_one();
    }

    /// Whether the consumer's end is still there.
    pub fn is_read(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.0.slot.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.0.notify.notify_one();
    }
}

impl Updates {
    /// Waits for the next update; `None` once the source has gone and all was read.
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            {
                let mut slot = self.0.slot.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(update) = slot.update.take() {
                    return Some(update);
                }
                if slot.closed {
                    return None;
                }
            }
            self.0.notify.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Object;
    use model::ObjectName;

    #[tokio::test]
    async fn unread_updates_merge_and_a_dropped_publisher_ends_them() {
        let (publisher, mut updates) = mailbox();
        let received = Instant::now();
        let mut model = Model::default();
        for name in ["a", "b"] {
            let mut changes = Changes::default();
            model.apply(Object::Namespace(ObjectName::new("", name)), &mut changes);
            publisher.publish(model.clone(), changes, received, true);
        }
        drop(publisher);
        let update = updates.next().await.unwrap();
        assert_eq!(update.generation, 2);
        assert_eq!(update.changes.namespaces.len(), 2);
        assert!(update.model.has_namespace("a") && update.model.has_namespace("b"));
        assert!(updates.next().await.is_none());
    }
}
