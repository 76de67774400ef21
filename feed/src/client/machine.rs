//! List and watch of one kind as a state machine: what to ask the server next, and what each
//! thing it says means for the objects here.
//!
//! Pure: replies, faults and the time come in, requests and verdicts go out; the objects
//! themselves pass by. The rules, and what made each necessary:
//!
//! - A streaming list first: no page is ever held by the server or here. A server that refuses
//!   it (any 4xx, or an in-stream 500 as of an apiserver on an old etcd), or that never says
//!   that it is complete, gets list + watch from then on.
//! - 410, another server behind the address, or an event below our version: what we have may
//!   hold objects that are gone, so everything is listed anew.
//! - After every connection that ended, `?limit=1` before the watch: a real apiserver answers a
//!   watch from a version that it has not reached with silence, so a server that was set back
//!   shows only in the version of a list.
//! - Anything else keeps the version, waits and resumes, for ever.

use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::backoff::Backoff;
use super::envelope::{Event, ListMeta, Status};
use super::version::Version;

/// A request for one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// All objects, then their changes, in one response.
    StreamList { seconds: u32 },
    /// A page of the list: the first, or the one that the last page's token names.
    Page { next: Option<String>, limit: Option<u32> },
    /// The list's version, with as few objects as the API can give.
    Probe,
    /// Changes since a version.
    Watch { from: Version, seconds: u32 },
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Ask(Ask),
    WaitUntil(Instant),
}

/// What an event or a page means for the objects here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The object is part of the list under way.
    InitApply,
    /// The object was part of the list under way, and went before it was complete.
    InitDelete,
    /// The list is complete, at that version.
    InitDone(Version),
    Apply,
    Delete,
    /// All changes up to that version were told.
    Bookmark(Version),
    Nothing,
    /// The server's versions are older than ours: nothing more of this response counts, and
    /// everything is listed anew.
    SetBack,
    /// The response was an error: nothing more of it counts.
    Stop,
}

/// How a response, or the try for one, ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{0}")]
    Unreachable(String),
    /// An error reply, or an ERROR event.
    #[error("{} {}", .0.code, .0.message)]
    Refused(Status),
    #[error("the server ended the watch")]
    Ended,
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("nothing was received for {} s", .0.as_secs())]
    Silent(Duration),
    /// A foreign server without bookmarks has nothing to say of a quiet kind.
    #[error("no change for {} s: asking whether the server still answers", .0.as_secs())]
    Quiet(Duration),
    #[error("{0}")]
    Unreadable(String),
    #[error("the server was set back to an earlier state")]
    SetBack,
    #[error("the list takes more than {0} MiB")]
    TooMuch(usize),
}

/// Who answers at the feed's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Server {
    /// It is a `switchyard feed`.
    pub(crate) is_ours: bool,
    /// What stays the same as long as its versions mean the same: absent when it cannot tell.
    pub(crate) identity: Option<String>,
}

/// The times that a machine and its connection wait.
#[derive(Clone, Debug)]
pub(crate) struct Patience {
    /// The longest wait between two tries at a foreign API server: it may have thousands of
    /// clients.
    pub(crate) backoff: Duration,
    /// The same at a `switchyard feed`: what changed while it was away is to be applied within
    /// 2 s of its return, and that may take two tries, one to resume and one to list.
    pub(crate) backoff_ours: Duration,
    /// The longest wait that a server's Retry-After may ask for.
    pub(crate) retry_after: Duration,
    /// Our feed sends something every 10 s on every watch.
    pub(crate) silence_ours: Duration,
    /// A real apiserver sends a bookmark about every minute.
    pub(crate) silence: Duration,
    /// Between two parts of a list.
    pub(crate) silence_in_list: Duration,
    /// A watch that lived this long was healthy: the next wait is a short one again.
    pub(crate) healthy: Duration,
    /// For a connection with TLS handshake.
    pub(crate) connect: Duration,
    /// For a response to begin: a busy apiserver keeps a request in its queue for up to 15 s.
    pub(crate) response: Duration,
    /// Between two pings of an HTTP/2 connection; the peer has as long again to answer.
    pub(crate) ping: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        let seconds = Duration::from_secs;
        Patience {
            backoff: seconds(10),
            backoff_ours: Duration::from_millis(700),
            retry_after: seconds(60),
            silence_ours: seconds(25),
            silence: seconds(180),
            silence_in_list: seconds(15),
            healthy: seconds(1),
            connect: seconds(5),
            response: seconds(20),
            ping: seconds(5),
        }
    }
}

/// Objects a page: what the API's own clients ask for.
const PAGE_LIMIT: u32 = 500;
/// A watch is asked to end after a time between these, so that the watches of many clients do
/// not end, and begin anew, together; the API's own clients ask for the same.
const WATCH_SECONDS: (u32, u32) = (300, 600);
/// A server may refuse one way of asking for ever (our version is none to it: 500): after as
/// many refusals in a row we ask another way, a list instead of a watch, pages instead of a
/// streaming list.
const TRIES: u32 = 5;

#[derive(Debug)]
pub(crate) struct Machine {
    state: State,
    patience: Patience,
    backoff: Backoff,
    server: Option<Server>,
    /// The server knows streaming lists, as far as we know.
    streaming: bool,
    /// A page's token expired while we read: the next list is asked for in one piece.
    in_one_piece: bool,
    /// What the objects here are up to; none before the first list, and when what is here is
    /// not to be built upon.
    version: Option<Version>,
    /// In a list: the version of its first page, or of its newest change in a streaming list.
    list_version: Option<Version>,
    /// When the last list began.
    listed: Option<Instant>,
    /// A list was complete once: the server has let us read the kind.
    was_listed: bool,
    refusals: u32,
}

#[derive(Debug)]
enum State {
    Ready(Ask),
    Asked { ask: Ask, since: Instant, in_list: bool },
    Waiting { until: Instant, then: Ask },
}

impl Machine {
    /// Nothing is here yet. `seed` decides the waits' jitter.
    pub(crate) fn new(patience: Patience, seed: u64) -> Machine {
        let mut machine = Machine {
            state: State::Ready(Ask::Probe),
            patience,
            backoff: Backoff::new(seed),
            server: None,
            streaming: true,
            in_one_piece: false,
            version: None,
            list_version: None,
            listed: None,
            was_listed: false,
            refusals: 0,
        };
        machine.state = State::Ready(machine.first_ask());
        machine
    }

    pub(crate) fn next(&self) -> Next {
        match &self.state {
            State::Ready(ask) | State::Asked { ask, .. } => Next::Ask(ask.clone()),
            State::Waiting { until, .. } => Next::WaitUntil(*until),
        }
    }

    /// The wait is over, or there is a reason to end it early.
    pub(crate) fn wake(&mut self) {
        if let State::Waiting { then, .. } = &self.state {
            self.state = State::Ready(then.clone());
        }
    }

    /// A new connection found this server; the next request may be another than before.
    pub(crate) fn connected(&mut self, server: Server) {
        let before = self.server.as_ref().and_then(|server| server.identity.clone());
        let changed = before.is_some() && server.identity.is_some() && before != server.identity;
        let identity = server.identity.or(before);
        self.server = Some(Server { identity, ..server });
        if changed {
            self.streaming = true;
            self.forget();
        }
    }

    /// What is here is not to be built upon: list anew, at once.
    pub(crate) fn forget(&mut self) {
        self.version = None;
        self.state = State::Ready(self.first_ask());
    }

    /// The request was answered with 200. Whether a list begins with this response.
    pub(crate) fn accepted(&mut self, now: Instant) -> bool {
        let (State::Ready(ask) | State::Asked { ask, .. }) = &self.state else { return false };
        let ask = ask.clone();
        let begins = matches!(ask, Ask::StreamList { .. } | Ask::Page { next: None, .. });
        if begins {
            self.list_version = None;
            self.listed = Some(now);
        }
        let in_list = matches!(ask, Ask::StreamList { .. } | Ask::Page { .. } | Ask::Probe);
        self.state = State::Asked { ask, since: now, in_list };
        begins
    }

    /// A line of the response.
    pub(crate) fn event(&mut self, event: &Event, now: Instant) -> Effect {
        let State::Asked { since, in_list, .. } = &self.state else { return Effect::Stop };
        let (since, in_list) = (*since, *in_list);
        let version = match event {
            Event::Error(status) => {
                self.failed(&Fault::Refused(status.clone()), now);
                return Effect::Stop;
            }
            Event::Unknown => return Effect::Nothing,
            Event::Bookmark { version, .. } => version.clone(),
            Event::Added(meta) | Event::Modified(meta) | Event::Deleted(meta) => {
                meta.version.clone()
            }
        };
        if in_list {
            return self.event_in_list(event, version, now);
        }
        if self.version.as_ref().is_some_and(|ours| version.is_below(ours)) {
            self.list_anew(now);
            return Effect::SetBack;
        }
        if now.saturating_duration_since(since) >= self.patience.healthy {
            self.backoff.reset();
        }
        self.refusals = 0;
        self.version = Some(version.clone());
        match event {
            Event::Deleted(_) => Effect::Delete,
            Event::Bookmark { .. } => Effect::Bookmark(version),
            _ => Effect::Apply,
        }
    }

    /// The objects of a streaming list come in any order of versions, as ADDED. What changes
    /// before the list is complete follows them, in order: an event below one of those would
    /// bring back an object that has changed or gone since.
    fn event_in_list(&mut self, event: &Event, version: Version, now: Instant) -> Effect {
        if self.list_version.as_ref().is_some_and(|newest| version.is_below(newest)) {
            self.list_anew(now);
            return Effect::SetBack;
        }
        if matches!(event, Event::Modified(_) | Event::Deleted(_)) {
            self.list_version = Some(version.clone());
        }
        match event {
            Event::Bookmark { ends_list: true, .. } => {
                if let State::Asked { ask, in_list, .. } = &mut self.state {
                    // From here on the response is that of a watch.
                    let Ask::StreamList { seconds } = *ask else { return Effect::Stop };
                    *ask = Ask::Watch { from: version.clone(), seconds };
                    *in_list = false;
                }
                self.version = Some(version.clone());
                self.was_listed = true;
                Effect::InitDone(version)
            }
            Event::Bookmark { .. } => Effect::Nothing,
            Event::Deleted(_) => Effect::InitDelete,
            _ => Effect::InitApply,
        }
    }

    /// A page, or the probe's answer, is complete.
    pub(crate) fn page(&mut self, meta: &ListMeta, is_empty: bool, now: Instant) -> Effect {
        let State::Asked { ask, .. } = &self.state else { return Effect::Stop };
        match ask {
            Ask::Probe => {
                let ours = self.version.as_ref();
                if ours.is_some_and(|ours| meta.version.is_below(ours)) {
                    self.list_anew(now);
                    return Effect::SetBack;
                }
                self.state = State::Ready(self.resume());
                Effect::Nothing
            }
            Ask::Page { limit, .. } => {
                let limit = *limit;
                // All pages show the state at one version; should they not, then the watch from
                // the first one's tells what the first ones missed.
                let version = self.list_version.get_or_insert(meta.version.clone()).clone();
                if meta.next.is_some() {
                    let then = Ask::Page { next: meta.next.clone(), limit };
                    // A server that says for ever that there is more is not asked in a loop.
                    self.state = if is_empty {
                        State::Waiting { until: now + self.backoff.next(self.cap()), then }
                    } else {
                        State::Ready(then)
                    };
                    return Effect::Nothing;
                }
                self.in_one_piece = false;
                self.was_listed = true;
                self.version = Some(version.clone());
                self.state = State::Ready(self.resume());
                Effect::InitDone(version)
            }
            Ask::StreamList { .. } | Ask::Watch { .. } => Effect::Stop,
        }
    }

    /// The response, or the try for one, is over.
    pub(crate) fn failed(&mut self, fault: &Fault, now: Instant) {
        let (ask, in_list) = match &self.state {
            State::Asked { ask, since, in_list } => {
                let lived = now.saturating_duration_since(*since) >= self.patience.healthy;
                if lived
                    && matches!(fault, Fault::Ended | Fault::Quiet(_) | Fault::Broken(_))
                    && !in_list
                {
                    self.backoff.reset();
                }
                (ask.clone(), *in_list)
            }
            State::Ready(ask) => (ask.clone(), false),
            // The fault of a response that already led to a wait.
            State::Waiting { .. } => return,
        };
        match fault {
            Fault::Refused(status) => self.refused(&ask, in_list, status, now),
            Fault::Silent(_) if matches!(ask, Ask::StreamList { .. }) && in_list => {
                // It may know watches, but not lists by them: those would never end.
                self.streaming = false;
                self.wait(Duration::ZERO, now);
            }
            Fault::Unreadable(_) => {
                self.count_refusal();
                self.wait(Duration::ZERO, now);
            }
            // It is so again next time, most likely, and costs both sides much.
            Fault::TooMuch(_) => {
                self.backoff.next(self.patience.backoff);
                self.wait_for(self.patience.backoff, now);
            }
            _ => self.wait(Duration::ZERO, now),
        }
    }

    /// The longest time that the server may say nothing.
    pub(crate) fn silence(&self) -> Duration {
        match &self.state {
            State::Asked { in_list: false, .. } if self.is_ours() => self.patience.silence_ours,
            State::Asked { in_list: false, .. } => self.patience.silence,
            _ => self.patience.silence_in_list,
        }
    }

    /// What it means that nothing came for [`Machine::silence`]. A foreign server may send no
    /// bookmarks; whether it still answers is asked before its watch counts as lost.
    pub(crate) fn silent(&self) -> Fault {
        match self.is_watching() && !self.is_ours() {
            true => Fault::Quiet(self.silence()),
            false => Fault::Silent(self.silence()),
        }
    }

    /// Whether changes come in: the list is complete and its watch open.
    pub(crate) fn is_watching(&self) -> bool {
        matches!(self.state, State::Asked { in_list: false, .. })
    }

    /// Whether the response is that of a list which is not complete.
    pub(crate) fn is_listing(&self) -> bool {
        matches!(self.state, State::Asked { in_list: true, .. }) && !self.is_probing()
    }

    /// Whether the server knows streaming lists, as far as we know.
    pub(crate) fn streams_lists(&self) -> bool {
        self.streaming
    }

    /// Whether the response is only asked for its version.
    pub(crate) fn is_probing(&self) -> bool {
        matches!(self.state, State::Asked { ask: Ask::Probe, .. })
    }

    /// Whether the server is, or may be, a `switchyard feed`.
    pub(crate) fn is_ours(&self) -> bool {
        self.server.as_ref().is_none_or(|server| server.is_ours)
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.patience
    }

    fn refused(&mut self, ask: &Ask, in_list: bool, status: &Status, now: Instant) {
        let streaming_list = matches!(ask, Ask::StreamList { .. });
        let asked_for = status.retry_after.unwrap_or_default().min(self.patience.retry_after);
        match status.code {
            410 => {
                if matches!(ask, Ask::Page { next: Some(_), .. }) {
                    self.in_one_piece = true;
                }
                self.list_anew(now);
            }
            // Soon at first: a server that has just started knows no accounts and roles yet.
            401 | 403 if self.was_listed => self.wait(asked_for, now),
            401 | 403 => {
                self.backoff.next(self.patience.backoff);
                self.wait_for(self.patience.backoff, now);
            }
            408 | 429 => self.wait(asked_for, now),
            400..500 if streaming_list => self.fall_back(),
            500 if streaming_list && in_list => self.fall_back(),
            404 => {
                // No such kind here, as yet.
                self.wait(self.patience.backoff, now);
            }
            _ => {
                self.count_refusal();
                self.wait(asked_for, now);
            }
        }
    }

    /// No streaming lists from here on.
    fn fall_back(&mut self) {
        self.streaming = false;
        self.state = State::Ready(self.first_ask());
    }

    fn count_refusal(&mut self) {
        self.refusals += 1;
        if self.refusals >= TRIES {
            self.refusals = 0;
            self.streaming &= self.version.is_some();
            self.version = None;
        }
    }

    /// Lists anew: at once, unless that happened just before. A server that comes back after a
    /// while has forgotten where we were, and has been waited for long enough.
    fn list_anew(&mut self, now: Instant) {
        self.version = None;
        let recent = |at| now.saturating_duration_since(at) < self.patience.healthy;
        let at_once = self.backoff.is_fresh() || !self.listed.is_some_and(recent);
        let wait = self.backoff.next(self.cap());
        if at_once {
            self.state = State::Ready(self.first_ask());
        } else {
            self.wait_for(wait, now);
        }
    }

    fn wait(&mut self, least: Duration, now: Instant) {
        let wait = self.backoff.next(self.cap());
        self.wait_for(wait.max(least), now);
    }

    fn wait_for(&mut self, wait: Duration, now: Instant) {
        let then = if self.version.is_some() { Ask::Probe } else { self.first_ask() };
        self.state = State::Waiting { until: now + wait, then };
    }

    fn cap(&self) -> Duration {
        if self.is_ours() { self.patience.backoff_ours } else { self.patience.backoff }
    }

    fn first_ask(&mut self) -> Ask {
        if self.streaming {
            return Ask::StreamList { seconds: self.seconds() };
        }
        Ask::Page { next: None, limit: (!self.in_one_piece).then_some(PAGE_LIMIT) }
    }

    fn resume(&mut self) -> Ask {
        match self.version.clone() {
            Some(from) => Ask::Watch { from, seconds: self.seconds() },
            None => self.first_ask(),
        }
    }

    fn seconds(&mut self) -> u32 {
        self.backoff.between(WATCH_SECONDS.0, WATCH_SECONDS.1)
    }
}

impl Ask {
    /// The query of the request.
    pub(crate) fn query(&self) -> String {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        match self {
            Ask::StreamList { seconds } => format!(
                "watch=1&allowWatchBookmarks=true&sendInitialEvents=true\
                 &resourceVersionMatch=NotOlderThan&timeoutSeconds={seconds}"
            ),
            Ask::Page { next, limit } => {
                let limit = limit.map(|limit| format!("limit={limit}"));
                let next = next.as_deref().map(|token| format!("continue={}", encode(token)));
                limit.into_iter().chain(next).collect::<Vec<_>>().join("&")
            }
            Ask::Probe => "limit=1".to_owned(),
            Ask::Watch { from, seconds } => format!(
                "watch=1&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={seconds}",
                encode(from.as_str())
            ),
        }
    }

    /// Whether the response is a stream of lines, and no list.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Ask::StreamList { .. } | Ask::Watch { .. })
    }
}

#[cfg(test)]
mod tests;
