//! Endpoints that are named by host: looked up, and looked up again as their answers expire.
//!
//! source → model → here → consumer. Slices with `addressType: FQDN` name hosts; consumers see
//! slices with the addresses that these resolve to ([`table`]). A host that does not exist has no
//! endpoints; one that cannot be looked up keeps those it had. Left out: what a consumer does
//! with them.

mod address;
mod lookup;
mod status;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::Daemon;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

pub(crate) use address::is_local;
pub(crate) use lookup::{Lookup, Outcome};
use status::Status;
use table::Table;

use crate::update::{Publisher, Update, Updates, mailbox};
use model::{Changes, Model};

/// Lookups under way at once: enough for a start with thousands of names, and no flood.
const MAX_LOOKUPS: usize = 64;
/// How long the first update waits for its names: without them their Services have no endpoints.
const FIRST_PATIENCE: Duration = Duration::from_secs(3);

/// Updates whose models hold addresses in place of host names.
///
/// `local_endpoints` says whether a name may mean this machine. Needs a runtime, on which it goes
/// on until the returned updates are dropped or the source goes.
pub(crate) fn resolve(
    updates: Updates,
    lookup: Lookup,
    local_endpoints: bool,
    daemon: &Daemon,
) -> Updates {
    let (publisher, resolved) = mailbox();
    let status = Status::new(daemon);
    let stage = Stage {
        table: Table::new(local_endpoints),
        model: Model::default(),
        synced: false,
        lookup: Arc::new(lookup),
        under_way: JoinSet::new(),
        publisher,
        status,
        held: None,
    };
    daemon.supervisor.task("that looks up hosts", stage.run(updates));
    resolved
}

struct Stage {
    table: Table,
    /// The source's.
    model: Model,
    synced: bool,
    lookup: Arc<Lookup>,
    under_way: JoinSet<(Arc<str>, Outcome)>,
    publisher: Publisher,
    status: Status,
    held: Option<Held>,
}

/// The first update, until its names have been looked up.
struct Held {
    update: Update,
    until: Instant,
}

impl Stage {
    async fn run(mut self, mut updates: Updates) {
        let mut source_is_there = true;
        while self.publisher.is_read() {
            let due = self.next_due();
            let is_due = due.is_some();
            let due = due.unwrap_or_else(Instant::now);
            tokio::select! {
                update = updates.next(), if source_is_there => match update {
                    Some(update) => self.take(update),
                    // What its names resolve to may change all the same.
                    None => source_is_there = false,
                },
                Some(done) = self.under_way.join_next() => {
                    if let Ok((host, outcome)) = done {
                        self.learn(&host, outcome);
                    }
                }
                () = sleep_until(due.into()), if is_due => {}
            }
            self.ask();
            self.release();
        }
    }

    /// When to look something up, or to wait no longer.
    fn next_due(&self) -> Option<Instant> {
        let has_room = self.under_way.len() < MAX_LOOKUPS;
        let ask = self.table.next_due().filter(|_| has_room);
        let held = self.held.as_ref().map(|held| held.until);
        ask.into_iter().chain(held).min()
    }

    fn take(&mut self, update: Update) {
        let now = Instant::now();
        self.table.follow(&update.model, &update.changes, now);
        self.model = update.model.clone();
        let first = update.synced && !self.synced;
        self.synced = update.synced;
        match &mut self.held {
            Some(held) => {
                let mut changes = std::mem::take(&mut held.update.changes);
                changes.merge(update.changes);
                let received = held.update.received;
                held.update = Update { changes, received, ..update };
            }
            None if first && self.table.has_unasked() => {
                self.held = Some(Held { update, until: now + FIRST_PATIENCE });
            }
            None => self.publish(update.changes, update.received),
        }
    }

    /// Publishes what was held, once there is nothing to wait for.
    fn release(&mut self) {
        let is_over = |held: &Held| held.until <= Instant::now();
        if self.table.has_unasked() && !self.held.as_ref().is_some_and(is_over) {
            return;
        }
        if let Some(held) = self.held.take() {
            for host in self.table.note_silence(&self.lookup.silence()) {
                self.status.show(&self.table, &host);
            }
            self.publish(held.update.changes, held.update.received);
        }
    }

    /// Looks up what is due.
    fn ask(&mut self) {
        let now = Instant::now();
        while self.under_way.len() < MAX_LOOKUPS {
            let Some(host) = self.table.take_due(now) else { return };
            let lookup = self.lookup.clone();
            self.under_way.spawn(async move {
                let outcome = lookup.ask(&host).await;
                (host, outcome)
            });
        }
    }

    fn learn(&mut self, host: &Arc<str>, outcome: Outcome) {
        self.status.count(&outcome);
        let received = Instant::now();
        let services = self.table.learn(host, outcome, received);
        self.status.show(&self.table, host);
        let changes = Changes { services, ..Changes::default() };
        match &mut self.held {
            Some(held) => held.update.changes.merge(changes),
            None if changes.is_empty() => {}
            None => self.publish(changes, received),
        }
    }

    fn publish(&mut self, changes: Changes, received: Instant) {
        let model = self.model.with_resolved(self.table.slices());
        self.publisher.publish(model, changes, received, self.synced);
    }
}
