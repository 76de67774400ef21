//! What the requests of one worker share: its clock, its idle connections, and the counts and
//! settings of the process.
//!
//! Everything here is used without asking another thread. Left out: what runs, which is the
//! worker's to start and to end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::{ArcSwap, Guard};
use http::{HeaderMap, HeaderValue};
use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::access_log::{AccessLog, WorkerLog};
use crate::deadline::Deadlines;
use crate::hashing::Hashing;
use crate::limits::Limits;
use crate::metrics::{Metrics, Shard};
use crate::origin::{REQUEST_ID_BYTES, RequestId};
use crate::record::Record;
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::stalled::{StalledStreams, Tally};
use crate::tls::ServerTls;
use crate::trace::Tracer;
use crate::trace::export::Spans;
use crate::upstream::Pool;

/// Maps of fields that a worker keeps for responses, and the fields that such a map has room for.
const MAX_SPARE_MAPS: usize = 8;
const MAX_SPARE_FIELDS: usize = 128;

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) tls: ServerTls,
    pub(crate) limits: Arc<Limits>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) hashing: Hashing,
    /// When the process began, from which limits of requests count time.
    pub(crate) begun: Instant,
    pub(crate) spans: Option<Spans>,
}

/// One worker, as its connections and requests see it.
#[derive(Debug)]
pub(crate) struct WorkerContext {
    pub(crate) deadlines: Rc<Deadlines>,
    pub(crate) pool: Pool,
    pub(crate) shared: Arc<Shared>,
    pub(crate) access_log: Option<WorkerLog>,
    pub(crate) tracer: Option<Tracer>,
    index: usize,
    random: RefCell<SmallRng>,
    /// Maps of fields that requests have left, for responses.
    spare_fields: RefCell<Vec<HeaderMap>>,
    /// The last Date field, and its tick.
    date: RefCell<Option<(u64, HeaderValue)>>,
    draining: Cell<bool>,
    connections: Cell<usize>,
    /// Copies of requests that are being sent.
    copies: Rc<Cell<usize>>,
    /// Of connections that have any, or had a moment ago.
    stalled: RefCell<Vec<Rc<StalledStreams>>>,
}

impl WorkerContext {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        deadlines: Rc<Deadlines>,
    ) -> Rc<WorkerContext> {
        Rc::new(WorkerContext {
            deadlines,
            pool: Pool::default(),
            access_log: shared.access_log.clone().map(WorkerLog::new),
            tracer: shared.spans.clone().map(|s| Tracer::new(s, shared.settings.trace_sampling)),
            shared,
            index,
            random: RefCell::new(rand::make_rng()),
            spare_fields: RefCell::default(),
            date: RefCell::default(),
            draining: Cell::new(false),
            connections: Cell::new(0),
            copies: Rc::default(),
            stalled: RefCell::default(),
        })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    pub(crate) fn limits(&self) -> &Arc<Limits> {
        &self.shared.limits
    }

    /// What is served at this moment; not to be held over an await.
    pub(crate) fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.shared.snapshot.load()
    }

    /// Where this worker counts.
    pub(crate) fn shard(&self) -> &Shard {
        &self.shared.metrics.shards[self.index]
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// From now on connections end with their requests.
    pub(crate) fn begin_drain(&self) {
        self.draining.set(true);
        self.deadlines.wake_all();
        self.pool.close_all();
    }

    /// The connections of clients that are open.
    pub(crate) fn connections(&self) -> usize {
        self.connections.get()
    }

    /// Counts a connection of a client until the guard is dropped.
    pub(crate) fn count_connection(self: &Rc<WorkerContext>) -> OpenConnection {
        self.shard().connections.add(1);
        self.connections.set(self.connections.get() + 1);
        OpenConnection(self.clone())
    }

    /// What stalled streams are counted in.
    pub(crate) fn tally(&self) -> Tally<'_> {
        Tally { shards: &self.shared.metrics.shards, own: self.shard(), now: self.deadlines.now() }
    }

    /// From now on looks at the stalled streams of a connection from time to time.
    pub(crate) fn watch_stalled(&self, streams: &Rc<StalledStreams>) {
        self.stalled.borrow_mut().push(streams.clone());
    }

    /// Resets streams that have stalled for too long, if they hold too much.
    pub(crate) fn sweep_stalled(&self) {
        let tally = self.tally();
        self.stalled.borrow_mut().retain(|streams| streams.watch(tally));
    }

    /// An empty map of fields, which has room already if a request has left one.
    pub(crate) fn take_fields(&self) -> HeaderMap {
        self.spare_fields.borrow_mut().pop().unwrap_or_default()
    }

    /// Keeps the map of a request whose fields are no longer needed.
    pub(crate) fn keep_fields(&self, mut fields: HeaderMap) {
        let mut spare = self.spare_fields.borrow_mut();
        if spare.len() < MAX_SPARE_MAPS && fields.capacity() <= MAX_SPARE_FIELDS {
            fields.clear();
            spare.push(fields);
        }
    }

    /// Counts a copy of a request until the guard is dropped; `None` if there are `max` already.
    pub(crate) fn mirror_copy(&self, max: usize) -> Option<MirrorCopy> {
        let copies = self.copies.get();
        (copies < max).then(|| {
            self.copies.set(copies + 1);
            MirrorCopy(self.copies.clone())
        })
    }

    /// Microseconds since the process began.
    pub(crate) fn micros(&self) -> u64 {
        u64::try_from(self.shared.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// 64 random bits.
    pub(crate) fn random(&self) -> u64 {
        self.random.borrow_mut().random()
    }

    /// The value of a response's Date field.
    pub(crate) fn date(&self) -> HeaderValue {
        let now = self.deadlines.now();
        let mut date = self.date.borrow_mut();
        match &*date {
            Some((at, value)) if *at == now => value.clone(),
            _ => {
                let text = httpdate::fmt_http_date(SystemTime::now());
                let value = HeaderValue::try_from(text).expect("a date is visible ASCII");
                date.insert((now, value)).1.clone()
            }
        }
    }

    /// Closes a request's record: it is counted, logged and traced.
    pub(crate) fn close(&self, record: &Record) {
        let total = record.close(self.shard());
        if let Some(log) = &self.access_log {
            log.log(record, total);
        }
        if let Some(tracer) = &self.tracer {
            tracer.end(record, total);
        }
    }

    /// A new request's id: random, in hexadecimal.
    pub(crate) fn request_id(&self) -> RequestId {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut random: u128 = self.random.borrow_mut().random();
        let mut id = [0; REQUEST_ID_BYTES];
        for digit in &mut id {
            *digit = DIGITS[(random & 15) as usize];
            random >>= 4;
        }
        id
    }
}

/// A copy of a request that is being sent.
#[derive(Debug)]
pub(crate) struct MirrorCopy(Rc<Cell<usize>>);

impl Drop for MirrorCopy {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A connection of a client that is open, for which a drain waits.
#[derive(Debug)]
pub(crate) struct OpenConnection(Rc<WorkerContext>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}
