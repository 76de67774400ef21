//! Logging to standard error, as text or as one JSON object a line.
//!
//! If the log cannot be written (a full disk, a closed terminal, a pipe that is not read), no
//! thread ends or blocks. Lost lines are counted.

use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

use crate::flags::{LogFlags, LogFormat};
use crate::library_lines::LibraryLimit;
use crate::output::Output;

/// The process that writes the log. JSON lines always contain it; text lines contain it where
/// several processes share an output.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pub name: &'static str,
    pub beside_others: bool,
}

/// Installs the process's subscriber; a second call changes nothing. A one-shot command has no name
/// to log.
pub fn init(flags: &LogFlags, process: Option<Process>) {
    let filter = flags.filter.as_deref().unwrap_or("info");
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = io::stderr().is_terminal();
    let format = flags.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    FOR_PEOPLE.store(terminal && format == LogFormat::Text, Ordering::Relaxed);
    let begin = process.map_or(String::new(), |process| beginning(process, format));
    let lines = fmt::layer().with_writer(Lines { begin });
    let registry = tracing_subscriber::registry().with(filter).with(LibraryLimit::default());
    let _ = match format {
        LogFormat::Text => registry.with(lines.with_ansi(terminal && may_colour())).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
}

static FOR_PEOPLE: AtomicBool = AtomicBool::new(false);

/// Whether the log is text on a terminal, where a message may have several lines.
pub fn is_for_people() -> bool {
    FOR_PEOPLE.load(Ordering::Relaxed)
}

/// Whether text may be coloured: not if `NO_COLOR` is set (no-color.org) or the terminal is `dumb`.
pub fn may_colour() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
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

/// One line; the subscriber writes it with one call.
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
        // One write per line, so that lines of several processes do not mix.
        let whole = begun(self.begin, line);
        if !write_to_reader(&whole) {
            lost().inc();
        }
        // For an error, the subscriber would print to the same output, and panic.
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Log lines that could not be written since the start; also a metric.
pub(crate) fn lost() -> &'static Counter {
    static LOST: LazyLock<Counter> = LazyLock::new(Counter::default);
    &LOST
}

/// How long a line waits for a slow reader.
const READER_TIMEOUT: Duration = Duration::from_millis(50);

/// Writes all of `line` to standard error; whether it could be written.
fn write_to_reader(line: &[u8]) -> bool {
    static OUTPUT: LazyLock<Output<io::Stderr>> =
        LazyLock::new(|| Output::new(io::stderr(), READER_TIMEOUT).expect("a short time"));
    OUTPUT.write(line)
}

/// The line with its prefix; in JSON the prefix replaces the opening brace.
fn begun(begin: &str, line: &[u8]) -> Vec<u8> {
    let rest = if begin.starts_with('{') { line.strip_prefix(b"{") } else { None };
    [begin.as_bytes(), rest.unwrap_or(line)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

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
