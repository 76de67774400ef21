//! Logging to standard error, as text or as one JSON object a line.
//!
//! A log that cannot be written costs the log only: the lines that were lost are counted for
//! `/status`. Lines of libraries are limited by kind, because many are caused by clients: see
//! [`LogLimit`]. Lines that libraries write by the `log` crate, such as those of rustls, are left
//! out: they name files of the machine that built the binary, and what matters in them is logged
//! or counted by ourselves.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::flags::{LogFlags, LogFormat};
use crate::log_limit::LogLimit;

/// Our packages, whose lines say themselves how often they may come.
const OURS: [&str; 9] =
    ["apiserver", "balance", "daemon", "dns", "feed", "ingress", "model", "proxy", "switchyard"];

/// The lines that could not be written.
static LINES_LOST: AtomicU64 = AtomicU64::new(0);

/// How many lines could not be written, because the disk is full or nobody reads any more.
pub(crate) fn lines_lost() -> u64 {
    LINES_LOST.load(Ordering::Relaxed)
}

/// Whose log it is. JSON lines always say so; text does where several processes write to one
/// place.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pub name: &'static str,
    pub beside_others: bool,
}

/// Installs the process's subscriber; a second call changes nothing. A command that is no process
/// of the dataplane has no name to log.
pub fn init(flags: &LogFlags, process: Option<Process>) {
    let filter = flags.filter.as_deref().unwrap_or("info");
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = io::stderr().is_terminal();
    let format = flags.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let begin = process.map_or(String::new(), |process| beginning(process, format));
    // An error while writing a line must not be written to where lines cannot be written.
    let lines = fmt::layer().with_writer(Lines { begin }).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter).with(LibraryLimit::default());
    let _ = match format {
        LogFormat::Text => registry.with(lines.with_ansi(terminal)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
}

/// Limits the lines of each library. Those of `debug` and `trace` were asked for, and are not
/// limited.
#[derive(Debug, Default)]
struct LibraryLimit {
    /// By target. There are as many as there are modules that log.
    kinds: Mutex<HashMap<&'static str, &'static LogLimit>>,
}

impl<S: Subscriber> Layer<S> for LibraryLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        *metadata.level() > Level::INFO
            || is_ours(metadata.target())
            || self.admits(metadata.target())
    }
}

impl LibraryLimit {
    fn admits(&self, target: &'static str) -> bool {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind =
            *kinds.entry(target).or_insert_with(|| Box::leak(Box::new(LogLimit::new(target))));
        drop(kinds);
        kind.admits()
    }
}

fn is_ours(target: &str) -> bool {
    let package = target.split("::").next().unwrap_or_default();
    OURS.contains(&package)
}

/// How each line of a process begins.
fn beginning(process: Process, format: LogFormat) -> String {
    match format {
        LogFormat::Json => format!("{{\"process\":\"{}\",", process.name),
        LogFormat::Text if process.beside_others => format!("{:<8}", process.name),
        LogFormat::Text => String::new(),
    }
}

/// Writes lines to standard error, each with the same beginning.
struct Lines {
    begin: String,
}

/// One line; the subscriber writes it whole.
struct Line<'l> {
    begin: &'l str,
}

impl<'l> MakeWriter<'l> for Lines {
    type Writer = Line<'l>;

    fn make_writer(&'l self) -> Line<'l> {
        Line { begin: &self.begin }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // One write a line, so that lines of several processes do not mix.
        let whole = begun(self.begin, line);
        if io::stderr().write_all(&whole).is_err() {
            LINES_LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line with its beginning; that of JSON takes the place of the brace.
fn begun(begin: &str, line: &[u8]) -> Vec<u8> {
    let rest = if begin.starts_with('{') { line.strip_prefix(b"{") } else { None };
    [begin.as_bytes(), rest.unwrap_or(line)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_of_a_library_is_limited() {
        let limit = LibraryLimit::default();
        let admitted = |target| (0..1000).filter(|_| limit.admits(target)).count();
        assert!((5..100).contains(&admitted("h2::proto")), "it takes less than a second each");
        assert!(admitted("hyper::server") >= 5, "each library by itself");
        assert!(is_ours("ingress::listener") && is_ours("switchyard") && !is_ours("h2::proto"));
    }

    #[test]
    fn lines_say_whose_they_are() {
        let process = |beside_others| Process { name: "dns", beside_others };
        let table = [
            (false, LogFormat::Json, "{\"a\":1}\n", "{\"process\":\"dns\",\"a\":1}\n"),
            (false, LogFormat::Text, "INFO a\n", "INFO a\n"),
            (true, LogFormat::Text, "INFO a\n", "dns     INFO a\n"),
        ];
        for (beside_others, format, line, expected) in table {
            let written = begun(&beginning(process(beside_others), format), line.as_bytes());
            assert_eq!(String::from_utf8(written).unwrap(), expected);
        }
    }
}
