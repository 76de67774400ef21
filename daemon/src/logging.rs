//! Logging to standard error, as text or as one JSON object a line.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::flags::{LogFlags, LogFormat};

/// Installs the process's subscriber; a second call changes nothing.
pub fn init(flags: &LogFlags) {
    let filter = flags.filter.as_deref().unwrap_or("info");
    // What it says of a certificate at each try, we say once and with what to do.
    let quiet = |filter: &str| format!("rustls_platform_verifier=off,{filter}");
    let filter =
        EnvFilter::try_new(quiet(filter)).unwrap_or_else(|_| EnvFilter::new(quiet("info")));
    let terminal = std::io::stderr().is_terminal();
    let format = flags.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match format {
        LogFormat::Text => builder.with_ansi(terminal).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
