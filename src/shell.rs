//! `switchyard completions` and `switchyard man`: completions for a shell and manual pages,
//! generated from the definition of the command line.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Command;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell to print the completions for
    shell: clap_complete::Shell,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Man {
    /// The subcommand to describe; default: switchyard itself
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    of: Option<String>,

    /// Folder to write all pages to, as switchyard.1 and switchyard-COMMAND.1
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("unknown command {0}")]
    Unknown(String),
    #[error("cannot write the pages")]
    Write(#[from] io::Error),
}

/// Prints the script that completes `command` in a shell.
///
/// # Errors
///
/// When it cannot be printed.
pub(crate) fn complete(config: &Completions, mut command: Command) -> Result<(), Error> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(config.shell, &mut command, name, &mut script);
    print(&script)
}

/// Prints a manual page, or writes all of them.
///
/// # Errors
///
/// When there is no such command, or the pages cannot be written.
pub(crate) fn manual(config: &Man, mut command: Command) -> Result<(), Error> {
    if let Some(dir) = &config.dir {
        return write_all(command, dir);
    }
    command.build();
    let page = match &config.of {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name).cloned();
            found.ok_or_else(|| Error::Unknown(name.clone()))?
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    print(&text)
}

fn write_all(command: Command, dir: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(dir)?;
    Ok(clap_mangen::generate_to(command.disable_help_subcommand(true), dir)?)
}

fn print(text: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text).and_then(|()| out.flush());
    match written {
        // A reader that stops early, such as `head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
