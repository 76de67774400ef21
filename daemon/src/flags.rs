//! The flags that all processes share, each with its environment variable.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// Flags shared by feed, proxy, ingress and dns. `--admin` is in the configuration of each process,
/// because its default differs.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Data threads; default: the cores this process may use (affinity and cgroup quota)
    #[arg(long, env = "SWITCHYARD_WORKERS", value_name = "N")]
    pub workers: Option<NonZeroUsize>,

    #[command(flatten)]
    pub log: LogFlags,

    /// Folder to keep the last good state in. A process that starts without its feed serves it; a
    /// feed serves it when its folder is missing or a manifest is broken
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

    /// What to log: error, warn, info, debug, trace, or a list such as info,ingress=debug; default:
    /// info
    #[arg(long = "log", env = "SWITCHYARD_LOG", value_name = "FILTER",
        value_parser = crate::log_filter::parse_filter)]
    pub filter: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl LogFlags {
    /// The flags in the form in which a child process gets them.
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

/// Parses the address of a flag.
///
/// # Errors
///
/// Says how an address is written.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write IP:PORT, such as 0.0.0.0:8080".to_owned())
}

/// Parses a duration as flags spell it: a whole number and a unit, `500ms`, `30s`, `5m` or `2h`.
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
        "" if digits > 0 => {
            return Err(format!("has no unit: for seconds, write {number}s (units: ms, s, m, h)"));
        }
        _ => return Err("is not a valid duration (examples: 500ms, 30s, 5m, 2h)".into()),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{number}` is not a whole number"))?;
    let ms = number.checked_mul(scale_ms).ok_or("too long")?;
    Ok(Duration::from_millis(ms))
}

/// Parses a number of octets, with `k`, `m` or `g` for powers of 1024.
///
/// # Errors
///
/// A sentence for the command line when it is anything else.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a valid size (examples: 1048576, 8m, 1g)");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit {
        "" => 1,
        "k" | "K" | "Ki" => 1 << 10,
        "m" | "M" | "Mi" => 1 << 20,
        "g" | "G" | "Gi" => 1 << 30,
        _ => return Err(bad()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let no_unit = "has no unit: for seconds, write 5s (units: ms, s, m, h)";
        assert_eq!(parse_duration("5"), Err(no_unit.to_owned()));
    }
}
