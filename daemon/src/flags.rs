//! The flags that all processes share, each with its environment twin.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// Flags shared by feed, proxy, ingress and dns. `--admin` stands in each process's own
/// configuration, because its default differs.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Data threads; default: the cores this process may use (affinity and cgroup quota)
    #[arg(long, env = "SWITCHYARD_WORKERS", value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    #[command(flatten)]
    pub log: LogFlags,

    /// Where to keep the last good state for a cold start without the feed; of the feed itself, for
    /// one without its folder or with a manifest that is broken
    #[arg(long, env = "SWITCHYARD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Drain when the process with this id ends: set by `up` and `demo` for their children
    #[arg(long, hide = true, value_name = "PID")]
    pub parent: Option<u32>,
}

/// The flags of logging, which every subcommand has.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LogFlags {
    /// Log as text or JSON; default: text on a terminal, JSON elsewhere
    #[arg(long = "log-format", env = "SWITCHYARD_LOG_FORMAT", value_name = "FORMAT")]
    pub format: Option<LogFormat>,

    /// What to log: off, error, warn, info, debug or trace; or a list that also has levels of
    /// single modules, as info,ingress=debug; default: info
    #[arg(long = "log", env = "SWITCHYARD_LOG", value_name = "FILTER",
        value_parser = parse_filter)]
    pub filter: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl LogFlags {
    /// The flags as a child process is to be given them.
    pub fn args(&self) -> Vec<String> {
        let format = self.format.map(|format| match format {
            LogFormat::Text => ["--log-format".to_owned(), "text".to_owned()],
            LogFormat::Json => ["--log-format".to_owned(), "json".to_owned()],
        });
        let filter = self.filter.as_ref().map(|filter| ["--log".to_owned(), filter.clone()]);
        format.into_iter().chain(filter).flatten().collect()
    }
}

impl Flags {
    /// `--workers`, else the cores that the affinity mask and the cgroup quota leave.
    pub fn workers(&self) -> usize {
        self.workers
            .or_else(|| std::thread::available_parallelism().ok())
            .map_or(1, NonZeroUsize::get)
    }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Checks a filter of the log. A word that is not a level would be taken for the name of a module,
/// and switch everything else off.
///
/// # Errors
///
/// Says which part is wrong, and how it is written.
fn parse_filter(text: &str) -> Result<String, String> {
    // Filters of spans have a syntax of their own.
    if !text.contains('[') {
        for part in text.split(',').map(str::trim) {
            let level = part.split_once('=').map_or(part, |(_, level)| level);
            if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
                let levels = LEVELS.join(", ");
                return Err(format!(
                    "{level:?} is not a log level (levels: {levels}; for one module: ingress=debug)"
                ));
            }
        }
    }
    let valid = tracing_subscriber::EnvFilter::try_new(text);
    valid.map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Parses the address of a flag.
///
/// # Errors
///
/// Says how one is written.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write IP:PORT, such as 0.0.0.0:8080".to_owned())
}

/// Reads a time as flags spell it: a whole number and a unit, `500ms`, `30s`, `5m` or `2h`.
///
/// # Errors
///
/// A sentence for the command line when it is anything else.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return Err("write a whole number and ms, s, m or h, such as 500ms or 30s".into()),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{number}` is not a whole number"))?;
    let ms = number.checked_mul(scale_ms).ok_or("too long")?;
    Ok(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of these silenced the log, or was ignored.
    #[test]
    fn a_log_filter_without_a_level_is_an_error() {
        for filter in ["warn", "info,ingress=debug", "WARN", "warn, feed=off", "[request]=debug"] {
            assert_eq!(parse_filter(filter), Ok(filter.to_owned()));
        }
        for filter in ["verbose", "nonsense=foo", "ingress", "", "info,", "info;debug"] {
            let error = parse_filter(filter).unwrap_err();
            assert!(error.contains("is not a log level (levels: off, error"), "{filter}: {error}");
        }
    }

    #[test]
    fn durations() {
        for (text, ms) in [("0s", 0), ("500ms", 500), ("30s", 30_000), ("2m", 120_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        let wrong = ["", "30", "s", "-1s", "1.5s", " 1s", "1 s", "1d", "18446744073709551615h"];
        for text in wrong {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
