//! Where the followers of all kinds meet: their changes go into the store at a cut, and the
//! store's model to the consumer.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::cut::Cuts;
use super::follower::{Item, News};
use super::machine::Fault;
use super::manner;
use super::status::Status;
use crate::state::State;
use crate::update::Publisher;
use model::store::{Event, Store};
use model::{Changes, Kind, Kinds, Model};

/// How often to look whether anybody still reads, and whether the feed is stale.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Hub {
    kinds: Vec<Kind>,
    store: Store,
    cuts: Cuts<Event>,
    /// By stream: whether a list is under way.
    listing: Vec<bool>,
    /// By stream: whether the store has had a list of it.
    listed: Vec<bool>,
    publisher: Publisher,
    status: Status,
    state: Option<State>,
    /// Names in a saved state that was published: the live state's first changes hold them too.
    from_snapshot: Option<Changes>,
    published: bool,
    /// The store took events that no commit has published.
    uncommitted: bool,
    begun: Instant,
    /// Keeps the sender of reloads for the followers.
    _daemon: daemon::Daemon,
}

impl Hub {
    pub(crate) fn new(
        kinds: Kinds,
        publisher: Publisher,
        status: Status,
        state: Option<State>,
        daemon: &daemon::Daemon,
    ) -> Hub {
        let mut store = Store::of_api(kinds);
        let followed = followed(kinds);
        // What nobody follows is as good as listed: there is none.
        for kind in Kind::read() {
            if !followed.contains(&kind) {
                store.handle(Event::Init(kind));
                store.handle(Event::InitDone(kind));
            }
        }
        Hub {
            cuts: Cuts::new(followed.len()),
            listing: vec![false; followed.len()],
            listed: vec![false; followed.len()],
            kinds: followed,
            store,
            publisher,
            status,
            state,
            from_snapshot: None,
            published: false,
            uncommitted: false,
            begun: Instant::now(),
            _daemon: daemon.clone(),
        }
    }

    /// Runs until nobody reads any more.
    pub(crate) async fn run(mut self, mut news: mpsc::Receiver<News>) {
        while self.publisher.is_read() {
            let look = Instant::now() + LOOK;
            let due = self.cuts.due().map_or(look, |due| due.min(look));
            tokio::select! {
                biased;
                told = news.recv() => match told {
                    Some(told) => self.take(told),
                    None => return,
                },
                () = sleep_until(due.into()) => {}
            }
            self.apply(Instant::now());
            self.status.look_at_staleness(Instant::now());
            self.keep_state().await;
        }
    }

    fn take(&mut self, news: News) {
        let kind = news.kind;
        let stream = self.kinds.iter().position(|other| *other == kind);
        let stream = stream.expect("only kinds that are followed have news");
        if news.items.iter().any(|item| !matches!(item, Item::Well | Item::Fault(_))) {
            self.status.heard(kind);
        }
        for item in news.items {
            match item {
                Item::Connected(server) => {
                    self.cuts.set_ours(stream, server.is_ours);
                    self.status.connected(kind, server);
                }
                Item::InList(event) => self.in_list(stream, kind, event),
                Item::Change(event, version) => {
                    let is_list = matches!(event, Event::InitDone(_));
                    self.note(&event);
                    let manner = manner::of(&event, self.store.model());
                    self.cuts.push(stream, &version, event, manner, news.received);
                    if is_list {
                        (self.listing[stream], self.listed[stream]) = (false, true);
                        self.cuts.told(stream, &version);
                        self.status.list_ends(kind);
                    }
                    self.cuts.found(stream);
                    self.status.told(kind, version);
                }
                Item::Bookmark(version) => {
                    self.cuts.told(stream, &version);
                    self.cuts.found(stream);
                    self.status.told(kind, version);
                }
                Item::Rejected(rejection) => self.status.rejected(kind, rejection),
                Item::ListLeft => {
                    if std::mem::take(&mut self.listing[stream]) {
                        self.store.forget_list(kind);
                    }
                }
                Item::Well => {
                    self.cuts.found(stream);
                    self.status.well(kind);
                }
                Item::Fault(fault) => {
                    self.cuts.lost(stream, news.received);
                    // It begins anew, if at all: until then it need not fill the memory.
                    if std::mem::take(&mut self.listing[stream]) {
                        self.store.forget_list(kind);
                    }
                    match fault {
                        Fault::Refused(refusal) if refusal.code == 403 && kind.is_optional() => {
                            self.do_without(stream, kind, &refusal.message);
                        }
                        fault => self.status.fault(kind, &fault),
                    }
                }
            }
        }
    }

    /// The server forbids to read a kind that is not vital: what is known of it stays, or there
    /// is none. It is asked for again all the same.
    fn do_without(&mut self, stream: usize, kind: Kind, refusal: &str) {
        if !std::mem::replace(&mut self.listed[stream], true) {
            self.store.handle(Event::Init(kind));
            self.store.handle(Event::InitDone(kind));
            self.uncommitted = true;
        }
        self.status.forbidden(kind, refusal);
    }

    fn in_list(&mut self, stream: usize, kind: Kind, event: Event) {
        if matches!(event, Event::Init(_)) {
            // A complete list that still waits for its cut would be taken for this one.
            for earlier in self.cuts.take_stream(stream) {
                self.uncommitted = true;
                self.store.handle(earlier);
            }
            self.status.list_begins(kind);
            self.listing[stream] = true;
        }
        self.note(&event);
        self.store.handle(event);
    }

    /// An object that is valid, or has gone, is not rejected any more.
    fn note(&self, event: &Event) {
        let key = match event {
            Event::InitApply(record) | Event::Apply(record) => record.key(),
            Event::InitDelete(key) | Event::Delete(key) => key.clone(),
            Event::Init(_) | Event::InitDone(_) | Event::InitKeep(_) => return,
        };
        self.status.accepted(&key);
    }

    /// Applies what is ready, and publishes it.
    fn apply(&mut self, now: Instant) {
        // Until everything is listed there is nothing to cut.
        let batch =
            if self.store.is_synced() { self.cuts.take(now) } else { self.cuts.take_all(now) };
        if batch.is_none() && !self.uncommitted {
            return;
        }
        let (events, received) = batch.map_or((Vec::new(), now), |b| (b.events, b.received));
        for event in events {
            self.store.handle(event);
        }
        self.uncommitted = !self.store.is_synced();
        if self.uncommitted {
            return;
        }
        let (model, mut changes) = self.store.commit();
        if let Some(snapshot) = self.from_snapshot.take() {
            changes.merge(snapshot);
        }
        let first = !std::mem::replace(&mut self.published, true);
        if first || !changes.is_empty() {
            let (count, build) = (changes.len(), now.elapsed());
            if first {
                let took = self.begun.elapsed();
                tracing::info!(objects = count, ?took, "the feed is in sync");
            } else {
                tracing::debug!(changes = count, ?build, "batch");
            }
            if let Some(state) = &mut self.state {
                state.changed(&model);
            }
            self.status.published(counts(&self.kinds, &model));
            self.publisher.publish(model, changes, received, true);
        }
    }

    /// Saves the state if that is due, or serves the saved one if the feed does not come.
    async fn keep_state(&mut self) {
        let Some(state) = &mut self.state else { return };
        state.save_if_due(Instant::now());
        if self.published || self.from_snapshot.is_some() {
            return;
        }
        let saved = match state.take_if_waited(self.begun.elapsed()).await {
            Ok(saved) => saved,
            Err(fault) => return self.status.snapshot_is_unusable(fault),
        };
        if let Some(saved) = saved {
            let age = saved.age();
            let (model, changes) = Model::of(saved.objects);
            tracing::warn!(
                objects = changes.len(),
                saved = age,
                "the feed does not answer: serving the state that was saved"
            );
            self.status.serves_snapshot(saved.at, counts(&self.kinds, &model));
            self.publisher.publish(model, changes.clone(), Instant::now(), true);
            self.from_snapshot = Some(changes);
        }
    }
}

/// The kinds, in order.
pub(crate) fn followed(kinds: Kinds) -> Vec<Kind> {
    Kind::joined().filter(|kind| kinds.contains(*kind)).collect()
}

fn counts(kinds: &[Kind], model: &Model) -> Vec<(Kind, usize)> {
    kinds.iter().map(|kind| (*kind, model.count(*kind))).collect()
}

#[cfg(test)]
mod tests;
