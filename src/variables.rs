//! Bad values of environment variables: the message names the variable that the value came from,
//! not the flag that nobody gave.

use std::io::Write as _;

use clap::error::{ContextKind, ContextValue};
use clap::{Command, Error};

/// Exit code for a command line that cannot be understood, as clap's own.
const USAGE: i32 = 2;

/// Prints an error of the command line, and ends the process.
pub(crate) fn exit(error: &Error, command: Command, args: &[String]) -> ! {
    let Some((flag, variable)) = variable_of(error, command, args) else { error.exit() };
    let text = error.render().to_string();
    let named = format!("of environment variable {variable} (flag {flag})");
    let text = text.replace(&format!("for '{flag}'"), &named);
    // Nothing to do about a standard error that is closed.
    let _ = std::io::stderr().write_all(text.as_bytes());
    std::process::exit(USAGE)
}

/// The flag whose value is bad and its variable, where the value came from that.
fn variable_of(error: &Error, command: Command, args: &[String]) -> Option<(String, String)> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let mut command = command;
    command.build();
    let subcommand = args.iter().find_map(|name| command.find_subcommand(name))?;
    let arg = subcommand.get_arguments().find(|arg| arg.to_string() == *flag)?;
    let long = format!("--{}", arg.get_long()?);
    let is_given = |given: &String| {
        given.strip_prefix(&long).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    let variable = arg.get_env()?.to_str()?;
    let is_set = std::env::var_os(variable).is_some();
    (is_set && !args.iter().any(is_given)).then(|| (flag.clone(), variable.to_owned()))
}
