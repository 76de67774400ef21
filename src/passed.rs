//! Flags of the child processes that `up` accepts and passes on.
//!
//! They are taken from the children's own definitions, so that `up` has every flag of feed, proxy,
//! ingress and dns, except those that it sets itself. A flag that several children have is passed
//! to each of them. The environment reaches the children anyway and is not repeated as flags.

use std::collections::BTreeMap;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args as _, Command, Error, FromArgMatches};

/// Flags that `up` sets for its children, or that have a different meaning in each of them.
const SET_BY_UP: [&str; 13] = [
    "admin",
    "dir",
    "drain-timeout",
    "feed",
    "http",
    "https",
    "listen",
    "log",
    "log-format",
    "node-ip",
    "parent",
    "state-dir",
    "name",
];

/// Flags of the feed that are for other machines, or that limit the other children as its clients.
const NOT_OF_THE_FEED: [&str; 4] = ["max-connections", "tls-cert", "tls-key", "token-file"];

/// Flags to pass on, by child.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passed(BTreeMap<&'static str, Vec<String>>);

impl Passed {
    /// The flags for that child.
    pub(crate) fn to(&self, child: &str) -> Vec<String> {
        self.0.get(child).cloned().unwrap_or_default()
    }
}

/// The children, with the flags that each can be passed.
fn children() -> [(&'static str, Vec<Arg>); 4] {
    let feed = apiserver::Config::augment_args(Command::new("feed"));
    let follower = |name| feed::Config::augment_args(Command::new(name));
    let children = [
        // If several children have a flag, `--help` shows the text of the first of them.
        ("proxy", proxy::Config::augment_args(follower("proxy"))),
        ("ingress", ingress::Config::augment_args(follower("ingress"))),
        ("dns", dns::Config::augment_args(follower("dns"))),
        ("feed", feed),
    ];
    children.map(|(name, command)| {
        let command = daemon::Flags::augment_args(command);
        let can_be_passed = |arg: &&Arg| {
            arg.get_long().is_some_and(|long| {
                let stays = name == "feed" && NOT_OF_THE_FEED.contains(&long);
                !stays && !SET_BY_UP.contains(&long)
            })
        };
        (name, command.get_arguments().filter(can_be_passed).cloned().collect())
    })
}

/// Where `--help` lists the flags of that child.
fn heading(child: &str) -> &'static str {
    match child {
        "feed" => "Passed on to the feed",
        "proxy" => "Passed on to the proxy",
        "ingress" => "Passed on to the ingress",
        _ => "Passed on to dns",
    }
}

impl clap::Args for Passed {
    fn augment_args(command: Command) -> Command {
        children().into_iter().fold(command, |command, (name, args)| {
            let has = |command: &Command, new: &Arg| {
                let mut args = command.get_arguments();
                args.any(|arg| arg.get_long() == new.get_long() || arg.get_id() == new.get_id())
            };
            args.into_iter().fold(command, |command, arg| {
                // Only `--help` lists them; `-h` is short.
                let arg = arg.help_heading(heading(name)).hide_short_help(true);
                if has(&command, &arg) { command } else { command.arg(arg) }
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Passed::augment_args(command)
    }
}

impl FromArgMatches for Passed {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Passed, Error> {
        let passed = children().map(|(name, args)| {
            let given = args.iter().filter(|arg| {
                let source = matches.value_source(arg.get_id().as_str());
                source == Some(ValueSource::CommandLine)
            });
            (name, given.flat_map(|arg| as_flags(arg, matches)).collect())
        });
        Ok(Passed(passed.into_iter().collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Passed::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A flag as it was given, once for each of its values.
fn as_flags(arg: &Arg, matches: &ArgMatches) -> Vec<String> {
    let long = arg.get_long().unwrap_or_default();
    if !arg.get_action().takes_values() {
        return vec![format!("--{long}")];
    }
    let values = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
    values.map(|value| format!("--{long}={}", value.to_string_lossy())).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        passed: Passed,
    }

    #[test]
    fn each_child_is_passed_its_own_flags() {
        let line = "up --service-cidr 10.96.0.0/16 --upstream 192.0.2.1,192.0.2.2 --workers 2 \
                    --trusted-proxies 10.0.0.0/8 --max-connections=100 --proxy-protocol";
        let passed = Cli::try_parse_from(line.split_ascii_whitespace()).unwrap().passed;
        let expected = [
            ("feed", "--service-cidr=10.96.0.0/16"),
            ("proxy", "--max-connections=100 --service-cidr=10.96.0.0/16"),
            ("ingress", "--max-connections=100 --proxy-protocol --trusted-proxies=10.0.0.0/8"),
            ("dns", "--upstream=192.0.2.1 --upstream=192.0.2.2"),
        ];
        for (child, flags) in expected {
            let mut got = passed.to(child);
            got.retain(|flag| flag != "--workers=2");
            got.sort();
            assert_eq!(got.join(" "), flags, "{child}");
            assert!(passed.to(child).contains(&"--workers=2".to_owned()), "{child}");
        }
    }

    #[test]
    fn a_value_that_a_child_would_refuse_is_refused() {
        let error = Cli::try_parse_from(["up", "--service-cidr", "nonsense"]).unwrap_err();
        assert!(error.to_string().contains("--service-cidr"), "{error}");
        assert!(Cli::try_parse_from(["up", "--listen", "127.0.0.1:53"]).is_err());
    }
}
