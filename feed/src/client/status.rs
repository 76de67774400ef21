//! What operators see of the feed: `/status`, readiness, metrics and the log.
//!
//! A kind is lost from its first fault until the server answers for it again: until something is
//! told of it, or a watch stays open. That an answer begins well is not enough. A watch that ends
//! as asked for is no fault, unless that is all that it ever does. The feed is connected while no
//! kind is lost, and stale once one has been lost, or listed anew, for as long as `--stale-after`
//! says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use daemon::{Daemon, Guard, Readiness};
use serde_json::{Value, json};

use super::credentials::ApiSource;
use super::decode::Rejection;
use super::machine::{Fault, Server};
use super::version::Version;
use crate::gauges::{self, Standing, timestamp};
use model::{Kind, ObjectKey};

/// Rejected objects listed at `/status`; the count is always whole.
const MAX_LISTED: usize = 1000;
/// Rejected objects kept; a server that sends nothing else must not fill the memory.
const MAX_KEPT: usize = 10_000;
/// A watch that ends as asked for, or an answer that asks for a new list, is no fault; as many in
/// a row without anything told between them are.
const FRUITLESS: u32 = 3;
/// Rejected objects logged of one list; more would hide the first ones.
const MAX_LOGGED: u32 = 20;

/// Shared between the hub and the admin endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Status(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    address: String,
    place: ApiSource,
    stale_after: Duration,
    readiness: Readiness,
    kinds: Vec<KindState>,
    rejected: BTreeMap<ObjectKey, Rejected>,
    served: Vec<(Kind, usize)>,
    synced: bool,
    updated: Option<SystemTime>,
    snapshot: Option<SystemTime>,
    /// Why the state that was saved is not used.
    snapshot_fault: Option<String>,
    stale: Option<Guard>,
}

#[derive(Debug)]
struct KindState {
    kind: Kind,
    /// Until the first list is complete.
    waiting: Option<Guard>,
    listed: bool,
    /// The server forbids to read it, and it is done without.
    forbidden: Option<String>,
    heard: Instant,
    lost: Option<Lost>,
    /// A new list is under way, since then, in the place of one that is served.
    listing: Option<Lost>,
    /// Watches that ended since anything was told.
    endings: u32,
    version: Option<Version>,
    server: Server,
    /// Counts this kind's lists.
    list: u64,
    logged: u32,
    /// Rejected objects that are only counted, because they have no name or are too many.
    nameless: Nameless,
}

/// Whether one of these has been fixed cannot be told: they count until the next list is complete.
#[derive(Debug, Default)]
struct Nameless {
    before_list: u64,
    since_list: u64,
}

#[derive(Debug)]
struct Lost {
    since: Instant,
    at: SystemTime,
    fault: Option<String>,
}

#[derive(Debug)]
struct Rejected {
    message: String,
    /// The object is served without what the message names.
    is_partial: bool,
    hosts: Vec<String>,
    /// The list that named it, or was the last one when it came.
    list: u64,
}

impl Status {
    /// Every kind counts as lost until the server answers.
    pub(crate) fn new(
        address: String,
        place: ApiSource,
        stale_after: Duration,
        kinds: &[Kind],
        readiness: Readiness,
    ) -> Status {
        let now = Instant::now();
        let kinds = kinds.iter().map(|kind| KindState {
            kind: *kind,
            waiting: Some(readiness.block(waiting_for(*kind, None))),
            listed: false,
            forbidden: None,
            heard: now,
            lost: Some(Lost { since: now, at: SystemTime::now(), fault: None }),
            listing: None,
            endings: 0,
            version: None,
            server: Server::default(),
            list: 0,
            logged: 0,
            nameless: Nameless::default(),
        });
        Status(Arc::new(Mutex::new(Inner {
            address,
            place,
            stale_after,
            kinds: kinds.collect(),
            readiness,
            rejected: BTreeMap::new(),
            served: Vec::new(),
            synced: false,
            updated: None,
            snapshot: None,
            snapshot_fault: None,
            stale: None,
        })))
    }

    /// Adds the status page and the metrics.
    pub(crate) fn show(&self, daemon: &Daemon) {
        let page = self.clone();
        daemon.admin.add_status("feed", move || page.lock().page());
        let status = self.clone();
        gauges::show(
            daemon,
            "Seconds since data last arrived from the feed, for the kind with the oldest data",
            move || status.lock().standing(),
        );
    }

    /// Something came from the server.
    pub(crate) fn heard(&self, kind: Kind) {
        self.lock().kind(kind).heard = Instant::now();
    }

    pub(crate) fn connected(&self, kind: Kind, server: Server) {
        let mut inner = self.lock();
        let address = inner.address.clone();
        let state = inner.kind(kind);
        let name = if server.is_ours { "switchyard feed" } else { "Kubernetes API" };
        tracing::debug!(kind = kind.as_str(), address, server = name, "connected");
        state.server = server;
    }

    /// Something of a kind was told, up to that version.
    pub(crate) fn told(&self, kind: Kind, version: Version) {
        let mut inner = self.lock();
        inner.kind(kind).version = Some(version);
        inner.well(kind);
    }

    /// The server answers for a kind.
    pub(crate) fn well(&self, kind: Kind) {
        self.lock().well(kind);
    }

    pub(crate) fn fault(&self, kind: Kind, fault: &Fault) {
        let is_ending = match fault {
            // As it was asked to, after some minutes; or to be listed anew.
            Fault::Ended | Fault::SetBack => true,
            // The connection lives, and what is asked next tells more.
            Fault::Quiet(_) => {
                tracing::debug!(kind = kind.as_str(), %fault, "a quiet watch");
                return;
            }
            Fault::Refused(status) => status.code == 410,
            _ => false,
        };
        let mut inner = self.lock();
        if is_ending {
            let state = inner.kind(kind);
            state.endings += 1;
            if state.endings < FRUITLESS {
                tracing::debug!(kind = kind.as_str(), %fault, "a watch ended");
                return;
            }
        }
        let (address, readiness) = (inner.address.clone(), inner.readiness.clone());
        let help = inner.place.advice(fault).map(|help| format!("; {help}")).unwrap_or_default();
        let text = format!("{fault}{help}");
        // All kinds come from one server: what they have in common is said once.
        let is_known = inner.is_known(&text);
        // What was saved is served instead: that is no reason not to be asked.
        let serves_snapshot = inner.snapshot.is_some();
        let state = inner.kind(kind);
        let lost = state.lost.get_or_insert_with(|| Lost {
            since: Instant::now(),
            at: SystemTime::now(),
            fault: None,
        });
        if lost.fault.as_ref() == Some(&text) {
            return;
        }
        if !state.listed && !serves_snapshot {
            state.waiting = Some(readiness.block(waiting_for(kind, Some(&text))));
        }
        let kind = kind.as_str();
        if is_known {
            tracing::debug!(kind, address, fault = text, "no feed");
        } else if state.listed {
            tracing::warn!(kind, address, fault = text, "lost the feed: serving the last state");
        } else {
            tracing::warn!(kind, address, fault = text, "cannot reach the feed yet: trying again");
        }
        lost.fault = Some(text);
    }

    /// A kind that is not vital may not be read.
    pub(crate) fn forbidden(&self, kind: Kind, refusal: &str) {
        let mut inner = self.lock();
        let (address, name) = (inner.address.clone(), plural(kind));
        inner.well(kind);
        let state = inner.kind(kind);
        (state.listed, state.waiting, state.listing) = (true, None, None);
        if state.forbidden.as_deref() != Some(refusal) {
            let help = "allow this account to list and watch them; without them near endpoints are \
                        not preferred";
            tracing::warn!(address, refusal, help, "continuing without {name}");
            state.forbidden = Some(refusal.to_owned());
        }
    }

    /// A list of a kind begins.
    pub(crate) fn list_begins(&self, kind: Kind) {
        let mut inner = self.lock();
        let state = inner.kind(kind);
        state.list += 1;
        state.logged = 0;
        if state.listed {
            let fault = Some("the list that began does not end".to_owned());
            let (since, at) = (Instant::now(), SystemTime::now());
            state.listing.get_or_insert(Lost { since, at, fault });
        }
        state.nameless.before_list += std::mem::take(&mut state.nameless.since_list);
    }

    /// A list of a kind is complete: what it did not reject is not rejected any more.
    pub(crate) fn list_ends(&self, kind: Kind) {
        let mut inner = self.lock();
        let list = inner.kind(kind).list;
        inner.rejected.retain(|key, rejected| key.kind != kind || rejected.list >= list);
        let state = inner.kind(kind);
        (state.listed, state.forbidden) = (true, None);
        state.listing = None;
        state.waiting = None;
        state.nameless.before_list = 0;
    }

    pub(crate) fn rejected(&self, kind: Kind, rejection: Rejection) {
        let mut inner = self.lock();
        let state = inner.kind(kind);
        let list = state.list;
        let Rejection { name, message, is_partial, hosts } = rejection;
        let object = name.as_ref().map(ToString::to_string).unwrap_or_default();
        let key = name.map(|name| ObjectKey { kind, name });
        let known = key.as_ref().and_then(|key| inner.rejected.get(key));
        let news = known.is_none_or(|known| known.message != message);
        let state = inner.kind(kind);
        if news && state.logged < MAX_LOGGED {
            state.logged += 1;
            let what = if is_partial { "served in part" } else { "rejected" };
            tracing::warn!(kind = kind.as_str(), object, "{what}: {message}");
        }
        match key {
            Some(key) if inner.rejected.len() < MAX_KEPT || inner.rejected.contains_key(&key) => {
                inner.rejected.insert(key, Rejected { message, is_partial, hosts, list });
            }
            _ => inner.kind(kind).nameless.since_list += 1,
        }
    }

    /// An object is valid, or gone.
    pub(crate) fn accepted(&self, key: &ObjectKey) {
        let mut inner = self.lock();
        if !inner.rejected.is_empty() {
            inner.rejected.remove(key);
        }
    }

    /// The live state was published: so many objects of each kind.
    pub(crate) fn published(&self, served: Vec<(Kind, usize)>) {
        let mut inner = self.lock();
        inner.served = served;
        inner.synced = true;
        inner.snapshot = None;
        inner.updated = Some(SystemTime::now());
    }

    /// A state that was saved at that time was published.
    pub(crate) fn serves_snapshot(&self, saved: SystemTime, served: Vec<(Kind, usize)>) {
        let mut inner = self.lock();
        inner.served = served;
        inner.snapshot = Some(saved);
        inner.updated = Some(SystemTime::now());
        for state in &mut inner.kinds {
            state.waiting = None;
        }
    }

    /// The state that was saved is not served.
    pub(crate) fn snapshot_is_unusable(&self, fault: String) {
        self.lock().snapshot_fault = Some(fault);
    }

    /// Says in readiness that the feed is stale, once it is; when to look again.
    pub(crate) fn look_at_staleness(&self, now: Instant) -> Option<Instant> {
        let mut inner = self.lock();
        let first = inner.behind().min_by_key(|lost| lost.since)?;
        let due = first.since + inner.stale_after;
        if now < due || inner.stale.is_some() {
            return Some(due).filter(|due| *due > now);
        }
        let since = timestamp(first.at);
        let fault = first.fault.clone().unwrap_or_else(|| "no answer".to_owned());
        tracing::warn!(address = inner.address, since, fault, "the feed is stale");
        let reason = format!("feed stale: lost {} at {since}: {fault}", inner.address);
        inner.stale = Some(inner.readiness.block(reason));
        None
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn waiting_for(kind: Kind, fault: Option<&str>) -> String {
    let fault = fault.map(|fault| format!(": {fault}")).unwrap_or_default();
    format!("waiting for the list of {}{fault}", plural(kind))
}

/// `Services`, `Ingresses`.
fn plural(kind: Kind) -> String {
    let ending = kind.plural().strip_prefix(kind.singular()).unwrap_or_default();
    format!("{kind}{ending}")
}

impl Inner {
    fn standing(&self) -> Standing {
        let mut rejected: BTreeMap<&'static str, usize> = BTreeMap::new();
        for key in self.rejected.keys() {
            *rejected.entry(key.kind.as_str()).or_default() += 1;
        }
        let heard = self.kinds.iter().map(|state| state.heard.elapsed()).max();
        Standing {
            connected: !self.is_lost(),
            heard: heard.unwrap_or_default(),
            served: self.served.iter().map(|(kind, count)| (kind.as_str(), *count)).collect(),
            rejected: rejected.into_iter().collect(),
        }
    }

    fn kind(&mut self, kind: Kind) -> &mut KindState {
        let found = self.kinds.iter_mut().find(|state| state.kind == kind);
        found.expect("only kinds that are followed are spoken of")
    }

    fn is_lost(&self) -> bool {
        self.kinds.iter().any(|state| state.lost.is_some())
    }

    /// The kinds of which what is served may be old.
    fn behind(&self) -> impl Iterator<Item = &Lost> {
        self.kinds.iter().flat_map(|state| state.lost.iter().chain(&state.listing))
    }

    fn well(&mut self, kind: Kind) {
        let state = self.kind(kind);
        state.endings = 0;
        let was_lost = state.lost.take().is_some();
        if was_lost && !self.is_lost() {
            tracing::info!(address = self.address, "the feed answers");
        }
        if self.stale.is_some() && self.behind().next().is_none() {
            self.stale = None;
        }
    }

    /// Whether a kind is lost for that reason.
    fn is_known(&self, fault: &str) -> bool {
        let mut lost = self.kinds.iter().filter_map(|state| state.lost.as_ref());
        lost.any(|lost| lost.fault.as_deref() == Some(fault))
    }

    fn page(&self) -> Value {
        let state = match (self.is_lost(), self.synced) {
            (true, true) => "lost",
            (false, true) => "synced",
            (_, false) => "listing",
        };
        let lost = self.kinds.iter().filter_map(|state| state.lost.as_ref());
        let first = lost.min_by_key(|lost| lost.since);
        let source = if self.snapshot.is_some() { "snapshot" } else { &*self.address };
        let rejected: Vec<_> = self.rejected.iter().take(MAX_LISTED).map(rejection).collect();
        let served: BTreeMap<_, _> =
            self.served.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        let nameless = self.kinds.iter().map(|state| &state.nameless);
        let nameless: u64 = nameless.map(|count| count.before_list + count.since_list).sum();
        json!({
            "source": source,
            "address": self.address,
            "state": state,
            "connected": !self.is_lost(),
            "fault": first.and_then(|lost| lost.fault.clone()),
            "lostSince": first.map(|lost| timestamp(lost.at)),
            "stale": self.stale.is_some(),
            "snapshotSaved": self.snapshot.map(timestamp),
            "snapshotFault": self.snapshot_fault,
            "lastUpdate": self.updated.map(timestamp),
            "kinds": self.kinds.iter().map(kind_state).collect::<BTreeMap<_, _>>(),
            "objects": served,
            "errors": self.rejected.len() as u64 + nameless,
            "warnings": 0,
            "rejected": rejected,
        })
    }
}

fn kind_state(state: &KindState) -> (&'static str, Value) {
    let condition = match (&state.lost, state.listed) {
        (Some(Lost { fault: Some(_), .. }), _) => "lost",
        (_, false) => "listing",
        (Some(_), true) => "lost",
        (None, true) if state.forbidden.is_some() => "forbidden",
        (None, true) => "synced",
    };
    let value = json!({
        "state": condition,
        "server": if state.server.is_ours { "switchyard feed" } else { "Kubernetes API" },
        "resourceVersion": state.version.as_ref().map(Version::as_str),
        "lastHeardSeconds": state.heard.elapsed().as_secs_f64(),
        "fault": state.lost.as_ref().map_or(state.forbidden.clone(), |lost| lost.fault.clone()),
    });
    (state.kind.as_str(), value)
}

fn rejection((key, rejected): (&ObjectKey, &Rejected)) -> Value {
    let Rejected { message, is_partial, hosts, .. } = rejected;
    json!({
        "object": key.to_string(),
        "message": message,
        "level": "error",
        "servedInPart": is_partial,
        "hosts": hosts,
    })
}
