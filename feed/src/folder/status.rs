//! What operators see of the folder: `/status`, readiness, metrics and the log.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use daemon::{Guard, Readiness};
use serde_json::{Value, json};

use crate::gauges::{self, Standing, timestamp};
use crate::report::Report;
use model::problem::Level;

/// Problems of each level listed at `/status`; the counts are always whole.
const MAX_LISTED: usize = 1000;
/// Problems logged after one scan; more would hide the first ones.
const MAX_LOGGED: usize = 20;

/// How long a folder may be at fault until readiness says so: it may be on its way to be
/// replaced. What was read is served all the while.
const FAULT_PATIENCE: Duration = Duration::from_secs(5);

/// Shared between the folder's thread and the admin endpoint.
#[derive(Clone, Debug)]
pub(super) struct Status(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    source: PathBuf,
    /// Why the folder cannot be read now, and since when.
    fault: Option<(String, Instant)>,
    readiness: Readiness,
    at_fault: Option<Guard>,
    synced: bool,
    heard: Instant,
    updated: Option<SystemTime>,
    reports: Arc<[Report]>,
    /// Objects served, by kind.
    served: BTreeMap<&'static str, usize>,
}

impl Status {
    pub(super) fn new(source: PathBuf, readiness: Readiness) -> Status {
        Status(Arc::new(Mutex::new(Inner {
            source,
            fault: None,
            readiness,
            at_fault: None,
            synced: false,
            heard: Instant::now(),
            updated: None,
            reports: Arc::default(),
            served: BTreeMap::new(),
        })))
    }

    /// What is followed, for people.
    pub(super) fn source(&self) -> String {
        self.lock().source.display().to_string()
    }

    /// Adds the status page and the metrics.
    pub(super) fn show(&self, daemon: &daemon::Daemon) {
        let page = self.clone();
        daemon.admin.add_status("feed", move || page.page());
        let status = self.clone();
        gauges::show(daemon, "Seconds since the last complete scan of the folder", move || {
            status.lock().standing()
        });
    }

    /// The member of `/status`.
    pub(super) fn page(&self) -> Value {
        self.lock().page()
    }

    /// A scan ended: `Err` says why the folder could not be read.
    pub(super) fn scanned(&self, outcome: Result<(), String>) {
        let mut inner = self.lock();
        let fault = match outcome {
            Err(fault) => fault,
            Ok(()) => {
                if inner.fault.take().is_some() {
                    tracing::info!(folder = %inner.source.display(), "the folder is readable \
                                                                      again");
                }
                inner.at_fault = None;
                inner.heard = Instant::now();
                return;
            }
        };
        let before = inner.fault.as_ref();
        let since = before.map_or_else(Instant::now, |(_, since)| *since);
        if before.is_none_or(|(before, _)| *before != fault) {
            let folder = inner.source.display();
            tracing::warn!(%folder, %fault, "cannot read the folder: serving the last state");
            // Its reason has changed.
            inner.at_fault = None;
        }
        if inner.at_fault.is_none() && since.elapsed() >= FAULT_PATIENCE {
            let reason = format!("folder at fault: {}: {fault}", inner.source.display());
            inner.at_fault = Some(inner.readiness.block(reason));
        }
        inner.fault = Some((fault, since));
    }

    /// Takes the state after a batch; returns what was not wrong before.
    pub(super) fn update(
        &self,
        reports: Arc<[Report]>,
        served: BTreeMap<&'static str, usize>,
        synced: bool,
        changed: bool,
    ) -> Vec<Report> {
        let mut inner = self.lock();
        let same = Arc::ptr_eq(&inner.reports, &reports);
        let news = if same { Vec::new() } else { news(&inner.reports, &reports) };
        inner.reports = reports;
        inner.served = served;
        inner.synced = synced;
        if changed {
            inner.updated = Some(SystemTime::now());
        }
        news
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn standing(&self) -> Standing {
        let errors = self.reports.iter().filter(|report| report.is_error());
        // An object with two problems is one rejected object; what has no name counts each time.
        let mut objects = HashSet::new();
        let mut rejected: BTreeMap<&'static str, usize> = BTreeMap::new();
        for report in errors {
            let kind = report.object.as_ref().map_or("unknown", |key| key.kind.as_str());
            if report.object.is_none() || objects.insert((&report.file, &report.object)) {
                *rejected.entry(kind).or_default() += 1;
            }
        }
        Standing {
            connected: self.fault.is_none(),
            heard: self.heard.elapsed(),
            served: self.served.iter().map(|(kind, count)| (*kind, *count)).collect(),
            rejected: rejected.into_iter().collect(),
        }
    }

    fn page(&self) -> Value {
        let at = |level: Level| self.reports.iter().filter(move |r| r.problem.level == level);
        let list =
            |level: Level| -> Vec<_> { at(level).take(MAX_LISTED).map(Report::summary).collect() };
        let state = match (&self.fault, self.synced) {
            (Some(_), _) => "fault",
            (None, true) => "synced",
            (None, false) => "listing",
        };
        json!({
            "source": self.source.display().to_string(),
            "state": state,
            "fault": self.fault.as_ref().map(|(fault, _)| fault),
            "lastUpdate": self.updated.map(timestamp),
            "lastScanSeconds": self.heard.elapsed().as_secs_f64(),
            "objects": self.served,
            "errors": at(Level::Error).count(),
            "warnings": at(Level::Warning).count(),
            "notes": at(Level::Note).count(),
            "rejected": list(Level::Error),
            "warned": list(Level::Warning),
            "noted": list(Level::Note),
        })
    }
}

/// What was not wrong before.
fn news(before: &[Report], now: &[Report]) -> Vec<Report> {
    let known: HashSet<_> = before.iter().map(identity).collect();
    now.iter().filter(|report| !known.contains(&identity(report))).cloned().collect()
}

/// Logs problems: each once, when it is new.
pub(super) fn log(news: &[Report]) {
    let errors = news.iter().filter(|report| report.is_error());
    let warnings = news.iter().filter(|report| report.is_warning());
    let notes = news.iter().filter(|report| !report.is_error() && !report.is_warning());
    for report in errors.chain(warnings).chain(notes).take(MAX_LOGGED) {
        match daemon::logging::is_for_people() {
            true => log_for_people(report),
            false => log_as_fields(report),
        }
    }
    if let Some(more) = news.len().checked_sub(MAX_LOGGED).filter(|more| *more > 0) {
        tracing::warn!(more, "more problems: see /status, or run `switchyard check`");
    }
}

/// As `switchyard check` prints it.
fn log_for_people(report: &Report) {
    let text = report.to_text();
    match report.problem.level {
        Level::Error | Level::Warning => tracing::warn!("{text}"),
        Level::Note => tracing::debug!("{text}"),
    }
}

fn log_as_fields(report: &Report) {
    let problem = &report.problem;
    let place = format!("{}:{}:{}", report.file.display(), report.line(), report.column());
    let object = report.object.as_ref().map(ToString::to_string).unwrap_or_default();
    let lines = report.drawing().join("\n");
    let help = problem.help.as_deref().unwrap_or_default();
    let message = &problem.message;
    match problem.level {
        Level::Error => tracing::warn!(place, object, help, lines, "rejected: {message}"),
        Level::Warning => tracing::warn!(place, object, help, lines, "{message}"),
        Level::Note => tracing::debug!(place, object, help, lines, "{message}"),
    }
}

/// A problem that only moved to another line is the same one.
fn identity(report: &Report) -> (&std::path::Path, Option<&model::ObjectKey>, &str) {
    (&report.file, report.object.as_ref(), &report.problem.message)
}
