//! Logging to standard error, as text or as one JSON object a line.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::flags::{LogFlags, LogFormat};

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
    // What it says of a certificate at each try, we say once and with what to do.
    let quiet = |filter: &str| format!("rustls_platform_verifier=off,{filter}");
    let filter =
        EnvFilter::try_new(quiet(filter)).unwrap_or_else(|_| EnvFilter::new(quiet("info")));
    let terminal = io::stderr().is_terminal();
    let format = flags.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let begin = process.map_or(String::new(), |process| beginning(process, format));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Lines { begin });
    let _ = match format {
        LogFormat::Text => builder.with_ansi(terminal).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
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
        io::stderr().write_all(&whole).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
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
