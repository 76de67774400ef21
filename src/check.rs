//! `switchyard check`: validates manifests without running anything. `feed` reads them, and the
//! code that compiles routes and frontends reports which of them it would not serve.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::judge::Judge;

/// Exit code for manifests with errors, and for paths that cannot be read.
const INVALID: u8 = 2;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Config {
    /// Manifests, or folders of them (*.yaml, *.yml, *.json), or - for standard input; checked
    /// together as one folder
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Output format
    #[arg(long, env = "SWITCHYARD_OUTPUT", value_name = "FORMAT", default_value = "text")]
    output: Output,

    /// Exit with 2 for warnings as well
    #[arg(long, env = "SWITCHYARD_STRICT")]
    strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Checks, prints to standard output, and exits with 2 if there was an error, with `--strict` also
/// for a warning, else with 0.
pub(crate) fn run(config: &Config) -> ExitCode {
    let judge = |model: &_, changes: &_| Judge::new().judge(model, changes);
    let checked = match feed::check(&config.paths, &judge) {
        Ok(checked) => checked,
        Err(error) => {
            // Nothing can be done if standard error is closed.
            let _ = writeln!(io::stderr(), "switchyard check: {error}");
            return ExitCode::from(INVALID);
        }
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = match config.output {
        Output::Text => checked.write_text(&mut out),
        Output::Json => checked.write_json(&mut out),
    };
    // A reader that stops early, such as `head`, does not change the result of the check.
    let _ = written.and_then(|()| out.flush());
    let invalid = checked.errors() > 0 || config.strict && checked.warnings() > 0;
    ExitCode::from(if invalid { INVALID } else { 0 })
}
