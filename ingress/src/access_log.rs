//! The access log (`--access-log`): a line for each request that is to be logged, on standard
//! output.
//!
//! A worker formats its lines into a buffer of its own, and gives the buffer to one thread that
//! writes. Whoever reads standard output may be slow, and no request waits for it: when too many
//! buffers wait, lines are lost, and counted.

mod format;

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use daemon::output::Output;
use daemon::{Failure, SupervisedThread, Supervisor};
use prometheus_client::metrics::counter::Counter;

use crate::record::{EndedBy, Record};

use format::Clock;

/// Bytes of lines that a worker collects before it gives them to the writer. It also does so each
/// time that its clock ticks.
const BUFFER: usize = 32 << 10;
/// Buffers that wait to be written.
const QUEUE: usize = 64;
/// Of so many requests one is logged, if samples are.
const SAMPLE: u32 = 100;
/// How long a reader of standard output may take nothing before lines are lost.
const READER_TIMEOUT: Duration = Duration::from_secs(1);

/// Which requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AccessLogMode {
    /// None.
    #[default]
    Off,
    /// Those answered with a 5xx status, and those whose response was broken off by the endpoint or
    /// by a time-out.
    Errors,
    /// One request in 100, and all errors.
    Sampled,
    /// Every request.
    All,
}

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AccessLogFormat {
    /// The combined format of web servers, followed by fields of our own.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The log of the process: what is logged, and where workers put their lines.
#[derive(Clone, Debug)]
pub(crate) struct AccessLog {
    mode: AccessLogMode,
    format: AccessLogFormat,
    queue: SyncSender<Lines>,
    lost: Counter,
}

/// Whole lines of one worker.
#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    count: u64,
}

/// One worker's end of the log.
#[derive(Debug)]
pub(crate) struct WorkerLog {
    log: AccessLog,
    lines: RefCell<Lines>,
    clock: Cell<Clock>,
}

impl AccessLog {
    /// Starts the thread that writes; it ends when all workers have ended. `None` if nothing is to
    /// be logged. `lost` counts lines that could not be written.
    ///
    /// # Errors
    ///
    /// When the system gives no thread or no descriptor.
    pub(crate) fn start(
        mode: AccessLogMode,
        format: AccessLogFormat,
        lost: &Counter,
        supervisor: &Supervisor,
    ) -> Result<Option<(AccessLog, SupervisedThread)>, Failure> {
        if mode == AccessLogMode::Off {
            return Ok(None);
        }
        let failed = |error| Failure::failed("cannot use standard output for --access-log", error);
        let output = Output::new(io::stdout(), READER_TIMEOUT).map_err(failed)?;
        let (log, queue) = AccessLog::new(mode, format, lost);
        let lost = lost.clone();
        let writer = supervisor.thread("access-log", move || write(&queue, &output, &lost))?;
        Ok(Some((log, writer)))
    }

    fn new(
        mode: AccessLogMode,
        format: AccessLogFormat,
        lost: &Counter,
    ) -> (AccessLog, Receiver<Lines>) {
        let (queue, receiver) = sync_channel(QUEUE);
        (AccessLog { mode, format, queue, lost: lost.clone() }, receiver)
    }
}

/// Writes buffers until all workers have ended.
fn write(queue: &Receiver<Lines>, output: &Output<io::Stdout>, lost: &Counter) {
    for lines in queue {
        if !output.write(&lines.text) {
            // Part of it may have been written, but never more than this is missing.
            lost.inc_by(lines.count);
        }
    }
}

impl WorkerLog {
    pub(crate) fn new(log: AccessLog) -> WorkerLog {
        WorkerLog { log, lines: RefCell::default(), clock: Cell::default() }
    }

    /// Whether a request is one of the samples.
    pub(crate) fn takes_sample(&self) -> bool {
        match self.log.mode {
            AccessLogMode::Off | AccessLogMode::Errors => false,
            AccessLogMode::Sampled => rand::random_ratio(1, SAMPLE),
            AccessLogMode::All => true,
        }
    }

    /// Logs a request that has ended, if it is to be logged.
    pub(crate) fn log(&self, record: &Record, total: Duration) {
        let Some(line) = record.line.as_deref() else { return };
        if !line.is_sample && !is_error(record) || record.is_unlogged() {
            return;
        }
        let mut clock = self.clock.get();
        clock.set(SystemTime::now());
        self.clock.set(clock);
        let mut lines = self.lines.borrow_mut();
        if lines.text.capacity() == 0 {
            lines.text.reserve(BUFFER + BUFFER / 4);
        }
        match self.log.format {
            AccessLogFormat::Text => format::text(&mut lines.text, record, line, &clock, total),
            AccessLogFormat::Json => format::json(&mut lines.text, record, line, &clock, total),
        }
        lines.count += 1;
        if lines.text.len() >= BUFFER {
            self.pass_on(&mut lines);
        }
    }

    /// Gives the writer what was collected.
    pub(crate) fn flush(&self) {
        let mut lines = self.lines.borrow_mut();
        if lines.count > 0 {
            self.pass_on(&mut lines);
        }
    }

    #[cold]
    fn pass_on(&self, lines: &mut Lines) {
        let full = std::mem::take(lines);
        let count = full.count;
        // It also fails when the writer has ended; the thread that does so ends the process.
        if self.log.queue.try_send(full).is_err() {
            self.log.lost.inc_by(count);
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Whether a request did not end as its client may expect of us.
fn is_error(record: &Record) -> bool {
    record.status >= 500 || matches!(record.ended_by, EndedBy::Endpoint | EndedBy::Timeout)
}
